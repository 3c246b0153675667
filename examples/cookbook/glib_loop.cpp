// Cookbook: coroutines in the main loop of GLib, which GTK, GStreamer and many daemons run.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/glib_loop.cpp -o glib $(pkg-config --cflags --libs glib-2.0) && ./glib
//
// What it teaches: a GSource of forty lines lets both loops share a thread. GLib sleeps until the
// loop's handle is readable or its next deadline has come, and then calls poll(). Callbacks of
// GLib may start tasks, and tasks may await what GLib calls back.
// Look at: timers of both by turns, a server among sources of GLib, and a second in which nothing
// happens: nobody asks again and again, so that it costs hardly any calls and no CPU time.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <atomic>
#include <cstdio>
#include <ctime>
#include <string>
#include <string_view>
#include <glib.h>
using namespace std::chrono_literals;

// While it lives, GLib runs the loop. Both belong to this thread.
struct in_glib {
    explicit in_glib(asyncio::event_loop& l, GMainContext* context = nullptr) : loop(l) {
        gsource = g_source_new(&functions, sizeof(source));
        reinterpret_cast<source*>(gsource)->host = this;
        handle = g_source_add_unix_fd(gsource, loop.native_handle(), G_IO_IN);
        g_source_attach(gsource, context);
        // For work that comes when GLib has asked prepare() already, from any thread.
        loop.set_wake_handler([context] { g_main_context_wakeup(context); });
    }
    ~in_glib() {
        loop.set_wake_handler({});
        g_source_destroy(gsource);
        g_source_unref(gsource);
    }

    struct source { GSource glibs_own; in_glib* host; };
    static in_glib& of(GSource* s) { return *reinterpret_cast<source*>(s)->host; }

    // Before GLib sleeps: for how long at most? In milliseconds, and never too short.
    static gboolean prepare(GSource* s, gint* timeout) {
        ++of(s).turns;
        const auto left = of(s).loop.next_deadline();
        const std::chrono::nanoseconds at_most = left ? *left : asyncio::duration(1h);
        *timeout = static_cast<gint>(std::chrono::ceil<std::chrono::milliseconds>(at_most).count());
        return *timeout == 0;
    }
    // After it has slept: is there something to do?
    static gboolean check(GSource* s) {
        return g_source_query_unix_fd(s, of(s).handle) != 0 ||
               of(s).loop.next_deadline() == asyncio::duration();
    }
    static gboolean dispatch(GSource* s, GSourceFunc, void*) {
        ++of(s).polls;
        of(s).loop.poll();
        return G_SOURCE_CONTINUE;
    }
    static inline GSourceFuncs functions = {prepare, check, dispatch, nullptr, nullptr, nullptr};
    asyncio::event_loop& loop;
    GSource* gsource;
    void* handle; // of the loop, among what GLib waits for
    int turns = 0, polls = 0;
};

// What GLib calls back can be awaited: the callback sets a future.
asyncio::coro<> glib_timeout(unsigned milliseconds) {
    using future = asyncio::future<bool>;
    const future fired = asyncio::get_running_loop().create_future<bool>();
    const auto callback = [](void* data) -> gboolean {
        const future& f = *static_cast<future*>(data);
        if (!f.done()) f.set_result(true); // it is done if the task was cancelled
        return G_SOURCE_REMOVE;
    };
    g_timeout_add_full(G_PRIORITY_DEFAULT, milliseconds, callback, new future(fired),
                       [](void* data) { delete static_cast<future*>(data); });
    co_await fired;
}

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

asyncio::coro<> tick(std::string& order, bool in_task) {
    for (int i = 0; i < 10; ++i) {
        if (in_task) co_await asyncio::sleep(20ms);
        else co_await glib_timeout(20);
        order += in_task ? 't' : 'g';
    }
}

asyncio::coro<> echo(asyncio::stream_reader reader, asyncio::stream_writer writer) {
    for (std::string data = "?"; !data.empty();) {
        data = co_await reader.read(1000);
        writer.write(data);
        co_await writer.drain();
    }
}

// Asks, on another thread, until GLib has called its own sources as well.
asyncio::coro<int> ask(int port, const std::atomic<int>& timer, const std::atomic<int>& idle) {
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    int answers = 0;
    for (; answers < 100 || timer < 5 || idle < 5; ++answers) {
        writer.write("question\n");
        const std::string answer = co_await reader.readline();
        if (answer != "question\n") co_return -1;
    }
    co_return answers;
}

asyncio::coro<> show(in_glib& host, asyncio::duration rest) {
    std::string order;
    co_await asyncio::gather(tick(order, true), tick(order, false));
    int turns = 0, polls = 0;
    for (std::size_t i = 1; i < order.size(); ++i) turns += order[i] == order[i - 1] ? 0 : 1;
    claim(turns >= 5, "timers of tasks and of GLib by turns: " + order);

    asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
    std::atomic<int> timer = 0, idle = 0;
    const auto count = [](void* data) -> gboolean { // in a task, which GLib's callback starts
        const auto task = [](void* n) -> asyncio::coro<> {
            ++*static_cast<std::atomic<int>*>(n);
            co_return;
        };
        asyncio::create_task(task(data));
        return G_SOURCE_CONTINUE;
    };
    const guint sources[] = {g_timeout_add(5, count, &timer), g_idle_add(count, &idle)};
    const auto client = [&, port = server.port()] { return asyncio::run(ask(port, timer, idle)); };
    const int answers = co_await asyncio::to_thread(client);
    for (const guint id : sources) g_source_remove(id);
    claim(answers >= 100, std::to_string(answers) + " answers, while GLib's timer came " +
                              std::to_string(timer) + " times and its idle source " +
                              std::to_string(idle) + " times");

    turns = host.turns, polls = host.polls;
    const std::clock_t begin = std::clock();
    co_await asyncio::sleep(rest);
    const long cpu = (std::clock() - begin) * 1000 / CLOCKS_PER_SEC;
    claim(host.polls - polls <= 3 && host.turns - turns <= 6 && cpu < 50,
          "a second without work: " + std::to_string(host.polls - polls) + " calls of poll(), " +
              std::to_string(host.turns - turns) + " turns, " + std::to_string(cpu) + " ms of CPU");
    server.close();
    co_await server.wait_closed();
}

int main(int argc, char** argv) {
    const std::string_view word = argc > 1 ? argv[1] : "";
    if (argc > 2 || (argc == 2 && word != "--quick")) {
        std::fputs("Runs tasks and a server in GLib's main loop.\nusage: glib [--quick]\n",
                   word == "--help" ? stdout : stderr);
        return word == "--help" ? 0 : 2;
    }
    asyncio::event_loop loop;
    const auto inside = loop.enter(); // so that create_task() finds it in GLib's callbacks
    in_glib host(loop);
    GMainLoop* const main_loop = g_main_loop_new(nullptr, FALSE);
    const auto task = loop.create_task(show(host, word == "--quick" ? 0.3s : 1s));
    task.add_done_callback([&] { g_main_loop_quit(main_loop); });
    g_main_loop_run(main_loop);
    g_main_loop_unref(main_loop);
    task.result(); // throws what it has thrown
    return broken == 0 ? 0 : 1;
}
// Output:
// holds:  timers of tasks and of GLib by turns: tgtgtgtgtgtgtgtgtgtg
// holds:  100 answers, while GLib's timer came 7 times and its idle source 3095 times
// holds:  a second without work: 1 calls of poll(), 2 turns, 0 ms of CPU
