// Cookbook: coroutines in the message loop of a Windows program.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/win32_loop.cpp -o messages -lws2_32 && ./messages
//
// What it teaches: a window that nobody sees runs the loop. Work from anywhere posts a message to
// it, so does Windows when native_handle() tells of I/O, and its timer stands for the next
// deadline. Whoever hands messages out runs the tasks: your own loop, and that of a dialog or a
// menu, in which your own one stands still.
// Look at: what goes on while a dialog is open, and how little it costs when nothing happens.
// With Debian's mingw: x86_64-w64-mingw32-g++-posix, and -static for Wine.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <string>
#include <string_view>
#include <winsock2.h>
#include <windows.h>
using namespace std::chrono_literals;

// While it lives, messages of this thread run the loop.
class in_messages {
public:
    explicit in_messages(asyncio::event_loop& loop) : loop_(loop) {
        WNDCLASSEXW kind{};
        kind.cbSize = sizeof kind;
        kind.lpfnWndProc = receive;
        kind.hInstance = GetModuleHandleW(nullptr);
        kind.lpszClassName = L"asyncio";
        RegisterClassExW(&kind);
        window_ = CreateWindowExW(0, L"asyncio", nullptr, 0, 0, 0, 0, 0, HWND_MESSAGE, nullptr,
                                  kind.hInstance, nullptr);
        SetWindowLongPtrW(window_, GWLP_USERDATA, reinterpret_cast<LONG_PTR>(this));
        loop.set_wake_handler([w = window_] { PostMessageW(w, has_work, 0, 0); });
        work(); // what was there before
    }
    ~in_messages() {
        loop_.set_wake_handler({});
        UnregisterWaitEx(wait_, INVALID_HANDLE_VALUE); // waits until io_came() is over
        DestroyWindow(window_);
    }
    int polls() const { return polls_; }

private:
    static constexpr UINT has_work = WM_APP, has_io = WM_APP + 1;
    static LRESULT CALLBACK receive(HWND w, UINT message, WPARAM a, LPARAM b) {
        if (message != has_work && message != has_io && message != WM_TIMER)
            return DefWindowProcW(w, message, a, b);
        auto& self = *reinterpret_cast<in_messages*>(GetWindowLongPtrW(w, GWLP_USERDATA));
        if (message == has_io) self.told_of_io_ = true;
        self.work();
        return 0;
    }
    // On a thread of Windows'. Once, and again after a poll(), which resets the handle.
    static void CALLBACK io_came(void* w, BOOLEAN) {
        PostMessageW(static_cast<HWND>(w), has_io, 0, 0);
    }
    void wait_for_io() {
        told_of_io_ = false;
        if (wait_) UnregisterWaitEx(wait_, nullptr); // it is over
        RegisterWaitForSingleObject(&wait_, loop_.native_handle(), io_came, window_, INFINITE,
                                    WT_EXECUTEONLYONCE);
    }
    void work() {
        if (loop_.is_running()) return; // a task waits for messages itself, and holds up the others
        ++polls_;
        loop_.poll();
        if (told_of_io_) wait_for_io();
        const auto left = loop_.next_deadline();
        if (left == asyncio::duration()) PostMessageW(window_, has_work, 0, 0);
        const std::chrono::nanoseconds sleep = left ? *left : asyncio::duration(24h);
        // In place of the last one. None is shorter than 10 ms, whatever it is set to.
        const auto up = std::chrono::ceil<std::chrono::milliseconds>(sleep).count();
        SetTimer(window_, 1, static_cast<UINT>(up), nullptr);
    }

    asyncio::event_loop& loop_;
    HWND window_;
    HANDLE wait_ = nullptr; // for the loop's handle
    bool told_of_io_ = true;
    int polls_ = 0;
};

// The message loop of the program, and of a dialog. With keys TranslateMessage() comes in, too.
void run_messages(const bool& over) {
    MSG message;
    while (!over && GetMessageW(&message, nullptr, 0, 0) > 0) DispatchMessageW(&message);
}

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

struct dialog {
    bool over = false; // as after its button was pressed
    asyncio::future<int> closed = asyncio::get_running_loop().create_future<int>();
    int ticks = 0; // of a task that runs meanwhile
};
dialog* opened = nullptr;

asyncio::coro<> tick(dialog& d) {
    while (++d.ticks < 5) co_await asyncio::sleep(20ms);
    d.over = true;
}

// As any message may open a dialog; what hands messages out until it is closed runs in here.
void CALLBACK open_dialog(HWND, UINT, UINT_PTR timer, DWORD) {
    KillTimer(nullptr, timer);
    asyncio::create_task(tick(*opened));
    run_messages(opened->over);
    opened->closed.set_result(opened->ticks);
}

asyncio::coro<> echo(asyncio::stream_reader reader, asyncio::stream_writer writer) {
    const std::string line = co_await reader.readline();
    writer.write(line);
    co_await writer.drain();
}

asyncio::coro<std::string> ask(int port) {
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    writer.write("question\n");
    co_return co_await reader.readline();
}

asyncio::coro<> show(const in_messages& host) {
    dialog own;
    opened = &own;
    SetTimer(nullptr, 0, 10, open_dialog);
    const int ticks = co_await own.closed;
    claim(ticks == 5, "a task ticked while a dialog had the messages, and closed it");
    asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
    const auto client = [port = server.port()] { return asyncio::run(ask(port)); };
    const std::string answer = co_await asyncio::to_thread(client);
    claim(answer == "question\n", "a client of the server has got its answer");
    server.close();
    co_await server.wait_closed();
    const int before = host.polls();
    co_await asyncio::sleep(300ms);
    const int polls = host.polls() - before;
    claim(polls <= 3, "calls of poll() in 0.3 s, while a task slept: " + std::to_string(polls));
}

int main(int argc, char** argv) {
    if (argc > 1) {
        const bool help = std::string_view(argv[1]) == "--help";
        std::fputs("Runs tasks and a server in a message loop of Windows.\nusage: messages\n",
                   help ? stdout : stderr);
        return help ? 0 : 2;
    }
    asyncio::event_loop loop;
    const auto inside = loop.enter(); // so that create_task() finds it in callbacks of Windows
    in_messages host(loop);
    bool over = false;
    const auto task = loop.create_task(show(host));
    task.add_done_callback([&] { over = true; });
    run_messages(over);
    task.result(); // throws what it has thrown

    for (MSG rest; PeekMessageW(&rest, nullptr, 0, 0, PM_REMOVE);) DispatchMessageW(&rest);
    const DWORD came = MsgWaitForMultipleObjects(0, nullptr, FALSE, 300, QS_ALLINPUT);
    claim(came == WAIT_TIMEOUT, "without tasks there is no message at all in 0.3 s");
    return broken == 0 ? 0 : 1;
}
// Output:
// holds:  a task ticked while a dialog had the messages, and closed it
// holds:  a client of the server has got its answer
// holds:  calls of poll() in 0.3 s, while a task slept: 1
// holds:  without tasks there is no message at all in 0.3 s
