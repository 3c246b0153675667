// The AI agent: sources that are late get another try, within a limit for the whole.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/6_agent/agent_retry.cpp -o again && ./again
//
// What it teaches: two limits. Each attempt may take 2 s, by the timeout of retry(); the whole may
// take 15 s, by wait_for() around all sources. Each source leaves its part in a place that outlives
// it, so that the limit for the whole costs only what is not there yet.
// Look at: weather is late twice and comes at its third attempt. Knowledge stays late: the pauses
// grow, 0.5, 1, 2, 4 s, and the limit for the whole ends it during the fourth pause.
// (The inference is left out here; ai_agent has it.)
// --quick lets the time pass 5 times as fast; --trace FILE is for ui.perfetto.dev.
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

// ---- HTTP, and three services that speak it -----------------------------------------------------
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
    int late = 0; // so many requests take 5 s
    int port = 0, requests = 0;
};
asyncio::coro<> serve(service& s, asyncio::stream_reader in, asyncio::stream_writer out) {
    asyncio::current_task().set_name("(" + s.name + " service)"); // for the timeline
    try {
        co_await receive(in);
        const asyncio::duration latency = ++s.requests <= s.late ? 5s : s.latency;
        try { // works for that long, unless the client closes the connection
            co_await asyncio::wait_for(in.read(1), latency);
            co_return;
        } catch (const asyncio::timeout_error&) {}
        co_await send(out, "HTTP/1.1 200 OK", "{\"text\": \"what " + s.name + " knows\"}\n");
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
struct part {
    string text, error = "timeout"; // an empty error means that all went well
    int attempts = 0;
    double done = 0; // in seconds since the question
};

asyncio::coro<> fetch(const service& from, string question, double began, part& out) {
    auto call = [&](const asyncio::attempt& now) {
        out.attempts = now.number;
        say(from.name + ": attempt " + std::to_string(now.number));
        return post(from.port, question);
    };
    try {
        out.text = text_of(co_await asyncio::retry(
            call, {.attempts = 6, .initial_delay = 0.5s, .jitter = 0, .timeout = 2s}));
        out.error.clear();
    } catch (const std::exception& error) { out.error = error.what(); }
    out.done = seconds() - began;
    say(from.name + ": " + (out.error.empty() ? "is in" : out.error));
}

asyncio::coro<vector<part>> ask(const vector<service*>& sources, string question) {
    const double began = seconds();
    vector<part> parts(sources.size());
    const auto all_sources = [&](asyncio::task_group& group) {
        for (std::size_t i = 0; i < sources.size(); ++i)
            group.create_task(fetch(*sources[i], question, began, parts[i]),
                              {.name = sources[i]->name});
    };
    try {
        co_await asyncio::wait_for(asyncio::with(asyncio::task_group(), all_sources), 15s);
    } catch (const asyncio::timeout_error&) { say("15 s are over"); }
    co_return parts;
}
void show(const asyncio::tracer& trace, const string& file_name) {
    trace.print_timeline(std::cout, 55);
    if (file_name.empty()) return;
    std::ofstream file(file_name);
    trace.write_chrome_trace(file);
    if (!file.flush()) throw std::runtime_error("cannot write the trace to " + file_name);
}

asyncio::coro<int> async_main(string trace_file) {
    service weather{"weather", 0.5s, 2}, news{"news", 1.5s}, knowledge{"knowledge", 0.5s, 1000};
    const vector<service*> services = {&weather, &news, &knowledge};
    vector<asyncio::server> servers;
    for (service* s : services) servers.push_back(co_await start(*s));
    asyncio::tracer trace(asyncio::get_running_loop());
    const lag_watch lag;

    const double began = seconds();
    const vector<part> parts = co_await ask(services, "Is the museum free today?");
    const double total = seconds() - began;
    show(trace, trace_file);

    const bool busy = lag.busy();
    const part &w = parts[0], &n = parts[1], &k = parts[2];
    claim(n.error.empty() && n.attempts == 1 && news.requests == 1, "news: 1 attempt", busy);
    claim(w.error.empty() && w.attempts == 3 && weather.requests == 3,
          "weather: " + std::to_string(w.attempts) + " attempts, and then an answer", busy);
    claim(w.done > 2 + 0.5 + 2 + 1 + 0.4 && w.done < 9,
          "it came after " + num(w.done) + " s: 2, pause 0.5, 2, pause 1, and 0.5 s",
          busy);
    claim(k.error == "timeout" && k.attempts == 4 && knowledge.requests == 4,
          "knowledge: " + std::to_string(k.attempts) + " attempts, and then a " + k.error,
          busy);
    claim(total > 14.9 && total < 16,
          "the whole took " + num(total) + " s (at most 15 s, and a moment to clean up)",
          busy);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    string trace_file;
    for (int i = 1; i < argc; ++i) {
        const string_view word = argv[i];
        if (word == "--quick") options.time_scale = 5; // as many times as fast
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("Sources that are late get another try, within a limit for the whole.\n"
                       "usage: again [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.51 s  weather: attempt 1
//  0.51 s  news: attempt 1
//  0.51 s  knowledge: attempt 1
//  2.02 s  news: is in
//  3.02 s  weather: attempt 2
//  3.02 s  knowledge: attempt 2
//  6.02 s  weather: attempt 3
//  6.02 s  knowledge: attempt 3
//  6.53 s  weather: is in
// 10.03 s  knowledge: attempt 4
// 15.51 s  15 s are over
// time                |0                                              15.000 s|
// Task-1              |=======================================================| 0.000-15.000 s
// weather             |=======================                                | 0.000-6.013 s
// news                |======                                                 | 0.000-1.504 s
// knowledge           |======================================================x| 0.000-15.000 s
// (weather service)   |========                                               | 0.000-2.004 s
// (news service)      |======                                                 | 0.000-1.504 s
// (knowledge service) |========                                               | 0.000-2.004 s
// (weather service)   |         ========                                      | 2.508-4.512 s
// (knowledge service) |         ========                                      | 2.508-4.512 s
// (weather service)   |                    ===                                | 5.513-6.013 s
// (knowledge service) |                    ========                           | 5.513-7.516 s
// (knowledge service) |                                  =========            | 9.520-11.520 s
// holds:  news: 1 attempt
// holds:  weather: 3 attempts, and then an answer
// holds:  it came after 6.01 s: 2, pause 0.5, 2, pause 1, and 0.5 s
// holds:  knowledge: 4 attempts, and then a timeout
// holds:  the whole took 15.00 s (at most 15 s, and a moment to clean up)
