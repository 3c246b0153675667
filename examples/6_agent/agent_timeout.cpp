// The AI agent: a source that is too late costs only its own part.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/6_agent/agent_timeout.cpp -o late && ./late
//
// What it teaches: each fetch has a limit of 5 s, by wait_for(). Today weather needs 6 s. News and
// knowledge are fetched and ranked, half a second of computing each, while the agent still waits
// for weather; when the limit comes, all else is ready, and the answer goes out without weather.
// Look at: the timeline. The answer comes after 5 s; weather's service sees the agent leave.
// --quick waits and computes less; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <bit>
#include <cstdio>
#include <ctime>
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
    string text;
    int port = 0;
    asyncio::event left = {}; // the client went away before the answer
};
asyncio::coro<> serve(service& s, asyncio::stream_reader in, asyncio::stream_writer out) {
    asyncio::current_task().set_name("(" + s.name + " service)"); // for the timeline
    try {
        co_await receive(in);
        try { // works for that long, unless the client closes the connection
            co_await asyncio::wait_for(in.read(1), s.latency);
            s.left.set();
            co_return;
        } catch (const asyncio::timeout_error&) {}
        co_await send(out, "HTTP/1.1 200 OK", "{\"text\": \"" + s.text + "\"}\n");
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

// ---- The inference ------------------------------------------------------------------------------
const string question = "Is the museum free today?";

// What has a text to do with the question? Each run of three letters gives 64 random signs; the
// signs of their sums are the embedding. The more bits two have in common, the more texts share.
std::uint64_t embed(string_view text, int round) {
    int sums[64] = {};
    std::uint64_t token = 0, embedding = 0;
    for (const char c : text) {
        token = (token << 8 | (static_cast<unsigned char>(c) | 0x20U)) & 0xffffffU; // lower case
        std::uint64_t signs = token | static_cast<std::uint64_t>(round) << 24;
        signs *= 0x9e3779b97f4a7c15U;
        signs = (signs ^ signs >> 29) * 0xbf58476d1ce4e5b9U;
        for (std::size_t i = 0; i < 64; ++i) sums[i] += (signs >> i & 1U) != 0 ? 1 : -1;
    }
    for (std::size_t i = 0; i < 64; ++i) embedding |= (sums[i] > 0 ? 1ULL : 0ULL) << i;
    return embedding;
}

struct ranking { // a plain aggregate travels from the worker process as it is
    double relevance = 0;     // the share of equal bits; one half: nothing in common
    double wall = 0, cpu = 0; // the seconds it took
};
ranking infer(const string& text, int rounds) { // runs in a worker process
    const auto began = std::chrono::steady_clock::now();
    const std::clock_t cpu_began = std::clock();
    int equal = 0;
    for (int round = 0; round < rounds; ++round)
        equal += std::popcount(~(embed(question, round) ^ embed(text, round)));
    ranking out{equal / (64.0 * rounds)};
    out.cpu = static_cast<double>(std::clock() - cpu_began) / CLOCKS_PER_SEC;
    out.wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    return out;
}

// As many rounds as take that long; the first calls make the workers warm.
asyncio::coro<int> rounds_for(asyncio::executor& pool, double wanted_seconds) {
    double cpu = 1;
    for (int i = 0; i < 3; ++i) {
        const auto [a, b] = co_await asyncio::gather(
            asyncio::run_in_executor(pool, infer, question + question, 2000),
            asyncio::run_in_executor(pool, infer, question + question, 2000));
        cpu = std::min({cpu, a.cpu, b.cpu});
    }
    co_return static_cast<int>(2000 * wanted_seconds / std::max(1e-4, cpu)) + 1;
}

// ---- The agent ----------------------------------------------------------------------------------
struct part { // what becomes of one source; an empty error means that all went well
    string error;
    double done = 0; // in seconds since the question
    ranking result = {};
};

asyncio::coro<part> ask(const service& source, asyncio::duration limit, asyncio::executor& pool,
                        int rounds, double began) {
    asyncio::current_task().set_name(source.name);
    part out;
    try {
        const string json = co_await asyncio::wait_for(post(source.port, question), limit);
        out.result = co_await asyncio::run_in_executor(pool, infer, text_of(json), rounds);
    } catch (const asyncio::timeout_error&) {
        out.error = "timeout";
    } catch (const std::exception& error) { out.error = error.what(); }
    out.done = seconds() - began;
    say(source.name + ": " + (out.error.empty() ? num(out.result.relevance) : out.error));
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
    const asyncio::duration second = quick ? 200ms : 1s;
    service weather{"weather", second * 6, "Rain until noon. Then it is sunny and warm."};
    service news{"news", second * 1.5, "Museum entry is free today. Trains are late."};
    service knowledge{"knowledge", second * 3, "The museum is closed on Mondays."};
    const vector<service*> services = {&weather, &news, &knowledge};
    vector<asyncio::server> servers;
    for (service* s : services) servers.push_back(co_await start(*s));
    asyncio::process_pool_executor pool(2);
    const int rounds = co_await rounds_for(pool, quick ? 0.005 : 0.5);

    asyncio::tracer trace(asyncio::get_running_loop());
    const double began = seconds();
    const asyncio::duration limit = second * 5;
    const auto [w, n, k] = co_await asyncio::gather(ask(weather, limit, pool, rounds, began),
                                                    ask(news, limit, pool, rounds, began),
                                                    ask(knowledge, limit, pool, rounds, began));
    const double total = seconds() - began;
    if (!w.error.empty()) co_await asyncio::wait_for(weather.left.wait(), 30s);
    const bool left = weather.left.is_set();
    show(trace, trace_file);

    // Jobs that did not get a core of their own say nothing about the agent.
    const double cpu = n.result.cpu + k.result.cpu, wall = n.result.wall + k.result.wall;
    const bool busy = cpu < 0.8 * wall;
    if (busy) say("machine busy: the jobs got " + num(2 * cpu / wall) + " cores of 2");
    const double unit = second.total_seconds();
    claim(w.error == "timeout" && left, "the error of weather: " + w.error, busy);
    claim(n.error.empty() && k.error.empty() && n.result.relevance > k.result.relevance,
          "news (" + num(n.result.relevance) + ") knows more than knowledge (" +
              num(k.result.relevance) + ")");
    claim(std::max(n.done, k.done) < w.done,
          "both were ready after " + num(std::max(n.done, k.done)) + " s, before the limit at " +
              num(w.done) + " s",
          busy);
    claim(total > 4.9 * unit && total < 5.8 * unit,
          num(total) + " s in all (the limit: " + num(5 * unit) + " s; weather: " +
              num(6 * unit) + " s)",
          busy);
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
            std::fputs("A source that is too late costs only its own part.\n"
                       "usage: late [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
// Output:
//  2.06 s  news: 0.66
//  3.63 s  knowledge: 0.64
//  5.11 s  weather: timeout
// time                |0                                               5.002 s|
// Task-1              |=======================================================| 0.000-5.002 s
// weather             |=======================================================| 0.000-5.002 s
// news                |================######                                 | 0.000-1.960 s
// knowledge           |=================================######                | 0.000-3.530 s
// (weather service)   |=======================================================| 0.000-5.002 s
// (news service)      |=================                                      | 0.000-1.502 s
// (knowledge service) |==================================                     | 0.000-3.008 s
// holds:  the error of weather: timeout
// holds:  news (0.66) knows more than knowledge (0.64)
// holds:  both were ready after 3.53 s, before the limit at 5.00 s
// holds:  5.00 s in all (the limit: 5.00 s; weather: 6.00 s)
