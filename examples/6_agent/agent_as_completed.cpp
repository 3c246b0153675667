// The AI agent: first answers early, and limits that follow from how long answers usually take.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/6_agent/agent_as_completed.cpp -o early && ./early
//
// What it teaches: gather() has nothing before it has everything; as_completed() has the first part
// when the first source is ready. And each source gets a limit of its own: half as long again as
// its slowest answer so far. When weather loses a request, that shows after 3 s instead of 5 s.
// Look at: when the first and the last part came, both ways.
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
#include <map>
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
    string name, text;
    asyncio::duration latency;
    int port = 0;
    bool loses_next = false; // a request that is never answered
};
asyncio::coro<> serve(service& s, asyncio::stream_reader in, asyncio::stream_writer out) {
    asyncio::current_task().set_name("(" + s.name + " service)"); // for the timeline
    try {
        co_await receive(in);
        if (std::exchange(s.loses_next, false)) {
            co_await in.read(1); // until the client leaves
            co_return;
        }
        co_await asyncio::sleep(s.latency);
        co_await send(out, "HTTP/1.1 200 OK", "{\"text\": \"" + s.text + "\"}\n");
    } catch (const std::exception&) {} // the agent gave up on us and is gone
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
    double relevance = 0, cpu = 0; // the share of equal bits; the seconds of a core that it took
};
ranking infer(const string& text, int rounds) { // runs in a worker process
    const std::clock_t began = std::clock();
    int equal = 0;
    for (int round = 0; round < rounds; ++round)
        equal += std::popcount(~(embed(question, round) ^ embed(text, round)));
    return {equal / (64.0 * rounds), static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC};
}

// As many rounds as take that long.
asyncio::coro<int> rounds_for(asyncio::executor& pool, double wanted_seconds) {
    double cpu = 1;
    for (int i = 0; i < 6; ++i) {
        const ranking r = co_await asyncio::run_in_executor(pool, infer, question + question, 2000);
        cpu = std::min(cpu, r.cpu);
    }
    co_return static_cast<int>(2000 * wanted_seconds / std::max(1e-4, cpu)) + 1;
}

// ---- The agent ----------------------------------------------------------------------------------
struct agent {
    asyncio::executor& pool;
    asyncio::duration longest; // the limit for a source that we know nothing about
    int rounds = 0;            // of an inference
    double cpu = 0, wall = 0;  // what all of them took, in seconds
    std::map<string, vector<asyncio::duration>> latencies = {}; // so far, by source

    asyncio::duration limit(const string& source) const {
        const auto found = latencies.find(source);
        if (found == latencies.end() || found->second.size() < 3) return longest;
        return *std::max_element(found->second.begin(), found->second.end()) * 1.5;
    }
};

// A part of the answer: what a source has to do with the question. Two attempts.
asyncio::coro<double> part(agent& a, const service& from, bool adaptive) {
    auto call = [&]() -> asyncio::coro<string> {
        const asyncio::time_point asked = asyncio::get_running_loop().time();
        string json = co_await post(from.port, question);
        a.latencies[from.name].push_back(asyncio::get_running_loop().time() - asked);
        co_return json;
    };
    const asyncio::duration limit = adaptive ? a.limit(from.name) : a.longest;
    const string json = co_await asyncio::retry(
        call, {.attempts = 2, .initial_delay = 10ms, .jitter = 0, .timeout = limit});
    const double began = seconds();
    const ranking got = co_await asyncio::run_in_executor(a.pool, infer, text_of(json), a.rounds);
    a.wall += seconds() - began;
    a.cpu += got.cpu;
    co_return got.relevance;
}

// ai_agent's way: all parts at once, when the last one is there.
asyncio::coro<double> ask_gather(agent& a, const vector<service>& services) {
    const double began = seconds();
    vector<asyncio::coro<double>> parts;
    for (const service& s : services) parts.push_back(part(a, s, false));
    const vector<double> all = co_await asyncio::gather(std::move(parts));
    for (std::size_t i = 0; i < all.size(); ++i) say("  " + services[i].name + ": " + num(all[i]));
    co_return seconds() - began;
}

struct times {
    double first = 0, last = 0; // when the user saw something, in seconds since the question
    string order;
};
asyncio::coro<times> ask_as_completed(agent& a, const vector<service>& services) {
    const double began = seconds();
    vector<asyncio::task<double>> parts;
    for (const service& s : services)
        parts.push_back(asyncio::create_task(part(a, s, true), {.name = s.name}));
    times out;
    auto finished = asyncio::as_completed(parts);
    while (const auto next = co_await finished.next()) {
        out.last = seconds() - began;
        if (out.order.empty()) out.first = out.last;
        out.order += next->get_name() + " ";
        const bool good = next->exception() == nullptr; // a part that failed costs only itself
        say("  " + next->get_name() + ": " + (good ? num(next->result()) : string("failed")));
    }
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
    vector<service> services = {{"weather", "Rain until noon. Then it is sunny.", second * 2},
                                {"news", "Museum entry is free today.", second},
                                {"knowledge", "The museum is closed on Mondays.", second * 3}};
    vector<asyncio::server> servers;
    for (service& s : services) {
        const auto on_client = std::bind_front(serve, std::ref(s));
        servers.push_back(co_await asyncio::start_server(on_client, "127.0.0.1", 0));
        s.port = servers.back().port();
    }
    asyncio::process_pool_executor pool(2);
    agent a{pool, second * 5};
    a.rounds = co_await rounds_for(pool, quick ? 0.005 : 0.1);

    for (int i = 0; i < 3; ++i) co_await ask_gather(a, services); // something to learn from
    say("gather, with limits of " + num(a.longest.total_seconds()) + " s:");
    services[0].loses_next = true;
    const double slow = co_await ask_gather(a, services);
    say("as_completed, with limits of their own:");
    services[0].loses_next = true;
    const double limit = a.limit("weather").total_seconds(), old = a.longest.total_seconds();
    asyncio::tracer trace(asyncio::get_running_loop());
    const times fast = co_await ask_as_completed(a, services);
    show(trace, trace_file);

    const bool busy = a.cpu < 0.7 * a.wall; // the jobs did not get a core each
    claim(fast.first < 0.5 * slow,
          "the first part came after " + num(fast.first) + " s, with gather after " +
              num(slow) + " s",
          busy);
    claim(fast.order == "news knowledge weather ", "as they come: " + fast.order, busy);
    claim(limit < old && fast.last < slow,
          "the last part, with " + num(limit) + " s for weather, came after " + num(fast.last) +
              " s, with " + num(old) + " s after " + num(slow) + " s",
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
            std::fputs("First answers early, and limits that follow from past latencies.\n"
                       "usage: early [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
// Output:
//  4.80 s    weather: 0.53
//  4.80 s    news: 0.70
//  4.80 s    knowledge: 0.64
//  9.61 s    weather: 0.53
//  9.61 s    news: 0.70
//  9.61 s    knowledge: 0.64
// 18.13 s    weather: 0.53
// 18.13 s    news: 0.70
// 18.13 s    knowledge: 0.64
// 18.13 s  gather, with limits of 5.00 s:
// 26.75 s    weather: 0.53
// 26.75 s    news: 0.70
// 26.75 s    knowledge: 0.64
// 26.75 s  as_completed, with limits of their own:
// 28.82 s    news: 0.70
// 31.07 s    knowledge: 0.64
// 33.32 s    weather: 0.53
// time                |0                                               6.567 s|
// Task-1              |=======================================================| 0.000-6.567 s
// weather             |===========================================############| 0.000-6.567 s
// news                |========##########                                     | 0.000-2.068 s
// knowledge           |=========================############                  | 0.000-4.319 s
// (weather service)   |===========================                            | 0.000-3.179 s
// (news service)      |=========                                              | 0.000-1.019 s
// (knowledge service) |==========================                             | 0.000-3.015 s
// (weather service)   |                           =================           | 3.231-5.235 s
// holds:  the first part came after 2.06 s, with gather after 8.62 s
// holds:  as they come: news knowledge weather
// holds:  the last part, with 3.16 s for weather, came after 6.56 s, with 5.00 s after 8.62 s
