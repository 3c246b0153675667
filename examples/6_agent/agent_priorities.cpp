// The AI agent: critical sources must be there, optional ones may be.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/6_agent/agent_priorities.cpp -o priorities && ./priorities
//
// What it teaches: two ways to wait, for two kinds of sources. Critical ones run in a task_group:
// the first failure cancels the others, and there is no answer. Optional ones are tasks of their
// own, gathered with return_exceptions: a failure costs its own part. A fetch may take 2 s, an
// inference 5 s; one that never ends is stopped with its worker process. What is fetched first is
// inferred first, so that fast sources never wait for slow ones.
// Look at: the four questions. An optional failure costs nothing, a critical one everything.
// --quick waits less; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
using namespace std::chrono_literals;
using std::string, std::string_view, std::vector;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); } // 1.25

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const string& text, bool busy = false) {
    std::printf("%s %s\n", holds ? "holds: " : busy ? "BUSY:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1; // a machine without a core to spare proves nothing
}
class lag_watch { // how late the loop's timers come: on a busy machine latencies prove nothing
public:
    lag_watch() { tick(); }
    ~lag_watch() { next_.cancel(); }
    bool busy() const { return worst_ > 0.3; } // seconds

private:
    void tick() {
        const double due = seconds() + 0.02;
        next_ = asyncio::get_running_loop().call_later(20ms, [this, due] {
            worst_ = std::max(worst_, seconds() - due);
            tick();
        });
    }

    double worst_ = 0;
    asyncio::handle next_;
};

// ---- HTTP, and four services that speak it ------------------------------------------------------
struct message { // a request or a response of HTTP/1.1; one exchange per connection
    string first_line, body;
};
asyncio::coro<message> receive(asyncio::stream_reader& reader) {
    const string head = co_await reader.readuntil("\r\n\r\n"), name = "\r\nContent-Length: ";
    message got{head.substr(0, head.find('\r')), ""};
    if (const std::size_t at = head.find(name); at != string::npos)
        got.body = co_await reader.readexactly(std::stol(head.substr(at + name.size())));
    co_return got;
}

asyncio::coro<> send(asyncio::stream_writer& writer, string first_line, string body) {
    writer.write(first_line + "\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: " +
                 std::to_string(body.size()) + "\r\n\r\n" + body);
    co_await writer.drain();
}

asyncio::coro<string> post(int port, string body) {
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    co_await send(writer, "POST /ask HTTP/1.1", std::move(body));
    const message got = co_await receive(reader);
    if (!got.first_line.starts_with("HTTP/1.1 200")) throw std::runtime_error(got.first_line);
    co_return got.body;
}

struct service {
    string name;
    asyncio::duration latency;
    string text = "what " + name + " knows";
    int port = 0;
    bool fails = false;
};
asyncio::coro<> serve(service& s, asyncio::stream_reader in, asyncio::stream_writer out) {
    asyncio::current_task().set_name("(" + s.name + " service)"); // for the timeline
    try {
        co_await receive(in);
        try { // works for that long, unless the client closes the connection
            co_await asyncio::wait_for(in.read(1), s.latency);
            co_return;
        } catch (const asyncio::timeout_error&) {}
        if (s.fails) co_await send(out, "HTTP/1.1 500 Internal Server Error", "");
        else co_await send(out, "HTTP/1.1 200 OK", "{\"text\": \"" + s.text + "\"}\n");
    } catch (const std::exception&) {} // the client left in the middle of the exchange
}
asyncio::coro<asyncio::server> start(service& s) {
    const auto on_client = std::bind_front(serve, std::ref(s));
    asyncio::server server = co_await asyncio::start_server(on_client, "127.0.0.1", 0);
    s.port = server.port();
    co_return server;
}
string text_of(const string& json) { // of what our services answer
    if (!json.starts_with("{\"text\": \"") || !json.ends_with("\"}\n"))
        throw std::runtime_error("the answer is not the JSON we expect");
    return json.substr(10, json.size() - 13);
}

// ---- The agent ----------------------------------------------------------------------------------
// The inference, in a worker process: the length of a number's way to 1 (nobody knows whether all
// numbers get there). A text that makes us begin at 0 never does.
int infer(const string& text) {
    std::uint64_t at = text == "a riddle" ? 0 : 27 + text.size();
    volatile int steps = 0; // or the compiler might assume that the loop ends
    for (; at != 1; at = at % 2 == 0 ? at / 2 : 3 * at + 1) steps = (steps + 1) % 1000;
    return steps;
}

struct agent {
    asyncio::executor& pool;
    asyncio::duration fetch_limit, inference_limit;
    vector<service*> critical, optional;
    vector<string> order = {}; // in which the parts came
};
struct answer {
    bool complete = false;       // all critical parts are there
    vector<string> missing = {}; // optional parts that are not
    double took = 0;             // seconds
};

asyncio::coro<> part(agent& a, const service& from) {
    auto fetched = asyncio::wait_for(post(from.port, "Is it open?"), a.fetch_limit);
    const string text = text_of(co_await std::move(fetched));
    auto inferred = asyncio::run_in_executor(a.pool, infer, text);
    co_await asyncio::wait_for(std::move(inferred), a.inference_limit);
    a.order.push_back(from.name);
}

asyncio::coro<answer> ask(agent& a, string title) {
    const double began = seconds();
    a.order.clear();
    answer out;
    vector<asyncio::task<>> optional;
    for (const service* s : a.optional)
        optional.push_back(asyncio::create_task(part(a, *s), {.name = s->name}));
    const auto all_critical = [&](asyncio::task_group& group) {
        for (const service* s : a.critical) group.create_task(part(a, *s), {.name = s->name});
    };
    string error;
    try {
        co_await asyncio::with(asyncio::task_group(), all_critical);
        out.complete = true;
    } catch (const asyncio::exception_group& group) {
        group.for_each<std::exception>([&](const std::exception& e) { error = e.what(); });
    }
    if (!out.complete) // nobody needs them any more
        for (asyncio::task<>& t : optional) t.cancel();
    const auto outcomes = co_await asyncio::gather(asyncio::return_exceptions, optional);
    for (std::size_t i = 0; i < outcomes.size(); ++i)
        if (!outcomes[i].has_value()) out.missing.push_back(a.optional[i]->name);
    out.took = seconds() - began;
    say(title + ": " + (out.complete ? "answered" : "no answer: " + error));
    for (const string& name : out.missing) say("  without " + name);
    co_return out;
}
void show(const asyncio::tracer& trace, const string& file_name) {
    trace.print_timeline(std::cout, 55);
    if (file_name.empty()) return;
    std::ofstream file(file_name);
    trace.write_chrome_trace(file);
    if (!file.flush()) throw std::runtime_error("cannot write the trace to " + file_name);
}

asyncio::coro<int> async_main(bool quick, string trace_file) {
    const asyncio::duration second = quick ? 300ms : 1s;
    service weather{"weather", second * 1.5}, knowledge{"knowledge", second};
    service news{"news", second * 0.5}, stocks{"stocks", second * 1.2};
    vector<asyncio::server> servers;
    for (service* s : {&weather, &knowledge, &news, &stocks}) {
        asyncio::server server = co_await start(*s);
        servers.push_back(std::move(server));
    }
    asyncio::process_pool_executor pool(2);
    agent a{pool, second * 2, second * 5, {&weather, &knowledge}, {&news, &stocks}};
    co_await asyncio::run_in_executor(pool, infer, "so that a worker is warm");
    asyncio::tracer trace(asyncio::get_running_loop());
    const lag_watch lag;

    const answer all_well = co_await ask(a, "all is well");
    const vector<string> order = a.order;
    stocks.fails = true;
    const answer optional_fails = co_await ask(a, "stocks, which are optional, fail");
    stocks.fails = false;
    stocks.text = "a riddle";
    const answer never_ends = co_await ask(a, "the inference of stocks never ends");
    stocks.text = "what stocks know";
    knowledge.fails = true;
    const answer critical_fails = co_await ask(a, "knowledge, which is critical, fails");
    const vector<string> there = a.order;
    show(trace, trace_file);

    const bool busy = lag.busy();
    const double unit = second.total_seconds();
    claim(all_well.complete && all_well.missing.empty(), "all is well: all parts are there", busy);
    claim(order == vector<string>{"news", "knowledge", "stocks", "weather"},
          "the parts came in the order of the latencies", busy);
    claim(optional_fails.complete && optional_fails.missing == vector<string>{"stocks"} &&
              optional_fails.took < all_well.took + 0.5 * unit,
          "an optional failure costs its own part and no time: " + num(all_well.took) + " s, " +
              num(optional_fails.took) + " s",
          busy);
    claim(never_ends.complete && never_ends.missing == vector<string>{"stocks"} &&
              never_ends.took > 6.1 * unit && never_ends.took < 8 * unit,
          "an inference that never ends is stopped: " + num(never_ends.took) + " s", busy);
    claim(!critical_fails.complete && there == vector<string>{"news"} &&
              critical_fails.took < all_well.took,
          "a critical failure ends all at once, after " + num(critical_fails.took) + " s", busy);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    bool quick = false;
    string trace_file;
    for (int i = 1; i < argc; ++i) {
        const string_view word = argv[i];
        if (word == "--quick") quick = true;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("Critical sources must be there, optional ones may be.\n"
                       "usage: priorities [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
// Output:
//  2.47 s  all is well: answered
//  4.23 s  stocks, which are optional, fail: answered
//  4.23 s    without stocks
// 10.52 s  the inference of stocks never ends: answered
// 10.52 s    without stocks
// 11.66 s  knowledge, which is critical, fails: no answer: HTTP/1.1 500 Internal Server Error
// 11.66 s    without stocks
// time                |0                                              10.732 s|
// Task-1              |=======================================================| 0.000-10.732 s
// news                |==#                                                    | 0.000-0.508 s
// stocks              |======#                                                | 0.000-1.364 s
// weather             |=======#                                               | 0.000-1.548 s
// knowledge           |=====##                                                | 0.000-1.364 s
// (news service)      |===                                                    | 0.000-0.508 s
// (stocks service)    |=======                                                | 0.000-1.364 s
// (weather service)   |========                                               | 0.000-1.548 s
// (knowledge service) |======                                                 | 0.001-1.168 s
// news                |       ====#                                           | 1.548-2.188 s
// stocks              |       ========!                                       | 1.548-2.984 s
// weather             |       =========#                                      | 1.548-3.300 s
// knowledge           |       ======#                                         | 1.548-2.672 s
// (news service)      |       =====                                           | 1.548-2.188 s
// (stocks service)    |       =========                                       | 1.548-2.984 s
// (weather service)   |       ==========                                      | 1.548-3.300 s
// (knowledge service) |       =======                                         | 1.548-2.672 s
// news                |                ====#                                  | 3.300-3.924 s
// stocks              |                =================================!     | 3.300-9.594 s
// weather             |                =========####                          | 3.300-5.512 s
// knowledge           |                =======###                             | 3.300-4.968 s
// (news service)      |                =====                                  | 3.300-3.924 s
// (stocks service)    |                ========                               | 3.300-4.528 s
// (weather service)   |                ==========                             | 3.300-4.968 s
// (knowledge service) |                ========                               | 3.300-4.528 s
// news                |                                                 ===#  | 9.594-10.220 s
// stocks              |                                                 =====x| 9.594-10.732 s
// weather             |                                                 =====x| 9.594-10.732 s
// knowledge           |                                                 =====!| 9.594-10.732 s
// (news service)      |                                                 ====  | 9.595-10.220 s
// Task-31             |                                                 ======| 9.595-10.732 s
// (weather service)   |                                                 ======| 9.595-10.732 s
// (knowledge service) |                                                 ======| 9.595-10.732 s
// holds:  all is well: all parts are there
// holds:  the parts came in the order of the latencies
// holds:  an optional failure costs its own part and no time: 1.54 s, 1.75 s
// holds:  an inference that never ends is stopped: 6.29 s
// holds:  a critical failure ends all at once, after 1.13 s
