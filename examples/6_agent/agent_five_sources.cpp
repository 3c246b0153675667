// The AI agent: what does the answer wait for, with more sources and longer inferences?
//
//     g++ -std=c++20 -O2 -pthread -I. examples/6_agent/agent_five_sources.cpp -o five && ./five
//
// What it teaches: the critical path. From the end of the answer backwards: the last inference
// began when its worker was free, or when its text was there; before it there was another
// inference, or a fetch; and so on to the begin. Only what lies on that path makes the answer late.
// Here 2 to 5 sources are asked, and each text costs 0.1, 0.2 and 0.3 s of one of two workers.
// Look at: the table of totals. With little to compute the slowest fetch is on the path, with much
// the workers are: then a faster service does not help, but another worker does.
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

// ---- HTTP, and five services that speak it ------------------------------------------------------
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
    int port = 0;
};
asyncio::coro<> serve(service& s, asyncio::stream_reader in, asyncio::stream_writer out) {
    asyncio::current_task().set_name("(" + s.name + " service)"); // for the timeline
    try {
        co_await receive(in);
        co_await asyncio::sleep(s.latency);
        co_await send(out, "HTTP/1.1 200 OK", "{\"text\": \"All that " + s.name + " knows\"}\n");
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
struct step { // of one source; seconds since the question
    string name;
    double fetched = 0, began = 0, done = 0;
    const step* before = nullptr; // whose inference freed the worker, if this one waited for it
};
double cpu = 0, wall = 0; // of all inferences, in seconds
class agent {
public:
    agent(asyncio::executor& pool, int workers) : pool_(pool), free_(workers) {}

    asyncio::coro<> ask(const service& from, int rounds, step& out, double began) {
        asyncio::current_task().set_name(from.name); // for the timeline
        out.name = from.name;
        const string text = text_of(co_await post(from.port, question));
        out.fetched = seconds() - began;
        const bool waits = free_.locked();
        auto worker = co_await free_.scoped();
        out.before = waits ? last_done_ : nullptr;
        out.began = seconds() - began;
        const ranking got = co_await asyncio::run_in_executor(pool_, infer, text, rounds);
        out.done = seconds() - began;
        cpu += got.cpu, wall += out.done - out.began;
        last_done_ = &out; // the next one in the line takes over
    }

    const step* last() const { return last_done_; }

private:
    asyncio::executor& pool_;
    asyncio::semaphore free_; // workers
    const step* last_done_ = nullptr;
};

struct path {
    string text; // from the begin to the end
    double fetching = 0, computing = 0;
};
path critical_path(const step* at) {
    path out;
    for (; at != nullptr; at = at->before) {
        out.text = "infer " + at->name + (out.text.empty() ? "" : ", ") + out.text;
        out.computing += at->done - at->began;
        if (at->before == nullptr) {
            out.text = "fetch " + at->name + ", " + out.text;
            out.fetching += at->fetched;
        }
    }
    return out;
}
void show(const asyncio::tracer& trace, const string& file_name) {
    trace.print_timeline(std::cout, 55);
    if (file_name.empty()) return;
    std::ofstream file(file_name);
    trace.write_chrome_trace(file);
    if (!file.flush()) throw std::runtime_error("cannot write the trace to " + file_name);
}

asyncio::coro<int> async_main(bool quick, string trace_file) {
    const asyncio::duration second = quick ? 50ms : 200ms; // so long is a second of the lesson
    vector<service> services = {{"weather", second * 2},     {"news", second * 1.5},
                                {"knowledge", second * 3},   {"traffic", second * 2.5},
                                {"stocks", second * 1}};
    vector<asyncio::server> servers;
    for (service& s : services) {
        const auto on_client = std::bind_front(serve, std::ref(s));
        servers.push_back(co_await asyncio::start_server(on_client, "127.0.0.1", 0));
        s.port = servers.back().port();
    }
    asyncio::process_pool_executor pool(2);
    const int unit = co_await rounds_for(pool, quick ? 0.05 : 0.2);

    double totals[6][4] = {}, computing[6][4] = {}; // by sources and inference
    double explained = 1; // by the critical path: the least share of a total
    for (const int inference : {1, 2, 3}) {
        for (const int sources : {2, 3, 4, 5}) {
            agent a(pool, 2);
            asyncio::tracer trace(asyncio::get_running_loop());
            const double began = seconds();
            vector<step> steps(static_cast<std::size_t>(sources));
            const auto all_sources = [&](asyncio::task_group& group) {
                for (std::size_t i = 0; i < steps.size(); ++i)
                    group.create_task(a.ask(services[i], inference * unit, steps[i], began));
            };
            co_await asyncio::with(asyncio::task_group(), all_sources); // they write into `steps`
            const path critical = critical_path(a.last());
            const double total = totals[sources][inference] = seconds() - began;
            explained = std::min(explained, (critical.fetching + critical.computing) / total);
            computing[sources][inference] = critical.computing / total;
            say(std::to_string(sources) + " sources, inference " + std::to_string(inference) +
                ": " + num(total) + " s: " + critical.text);
            if (sources == 5 && inference == 3) show(trace, trace_file);
        }
    }
    std::puts("sources   inference 1   inference 2   inference 3   (s in all; % computing)");
    for (const int sources : {2, 3, 4, 5}) {
        std::printf("%7d ", sources);
        for (const int inference : {1, 2, 3})
            std::printf("%7.2f (%2.0f %%)", totals[sources][inference],
                        100 * computing[sources][inference]);
        std::puts("");
    }
    const bool busy = cpu < 0.7 * wall; // the jobs did not get a core each
    claim(explained > 0.9, "the critical paths explain at least " +
                                     num(100 * explained) + " % of each total");
    claim(totals[5][3] > totals[2][1], "more to fetch and infer takes longer: " +
                                           num(totals[2][1]) + " s, " + num(totals[5][3]) + " s",
          busy);
    claim(computing[5][3] > computing[2][1],
          "and moves the path from fetching to computing: " + num(100 * computing[2][1]) + " %, " +
              num(100 * computing[5][3]) + " %",
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
            std::fputs("With more sources and longer inferences, what does the answer wait for?\n"
                       "usage: five [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
// Output:
// (with --quick)
//  0.60 s  2 sources, inference 1: 0.28 s: fetch weather, infer weather
//  1.04 s  3 sources, inference 1: 0.44 s: fetch news, infer news, infer knowledge
//  1.72 s  4 sources, inference 1: 0.67 s: fetch news, infer news, infer traffic
//  2.20 s  5 sources, inference 1: 0.48 s: fetch news, infer news, infer weather, infer knowledge
//  2.64 s  2 sources, inference 2: 0.44 s: fetch weather, infer weather
//  3.32 s  3 sources, inference 2: 0.67 s: fetch news, infer news, infer knowledge
//  4.73 s  4 sources, inference 2: 1.40 s: fetch weather, infer weather, infer knowledge
//  6.37 s  5 sources, inference 2: 1.64 s: fetch news, infer news, infer traffic, infer knowledge
//  7.41 s  2 sources, inference 3: 1.03 s: fetch weather, infer weather
//  9.21 s  3 sources, inference 3: 1.79 s: fetch news, infer news, infer knowledge
// 11.51 s  4 sources, inference 3: 2.29 s: fetch weather, infer weather, infer knowledge
// 14.35 s  5 sources, inference 3: 2.84 s: fetch news, infer news, infer weather, infer knowledge
// time                |0                                               2.842 s|
// Task-1              |=======================================================| 0.000-2.842 s
// weather             |==================######################               | 0.000-2.016 s
// news                |=##################                                    | 0.000-0.968 s
// knowledge           |=======================================################| 0.000-2.842 s
// traffic             |======================###################              | 0.000-2.108 s
// stocks              |=######################                                | 0.000-1.172 s
// (weather service)   |===                                                    | 0.000-0.104 s
// (news service)      |==                                                     | 0.000-0.080 s
// (knowledge service) |===                                                    | 0.000-0.152 s
// (traffic service)   |===                                                    | 0.000-0.126 s
// (stocks service)    |==                                                     | 0.000-0.056 s
// sources   inference 1   inference 2   inference 3   (s in all; % computing)
//       2    0.28 (64 %)   0.44 (75 %)   1.04 (90 %)
//       3    0.44 (83 %)   0.68 (89 %)   1.80 (95 %)
//       4    0.68 (89 %)   1.41 (93 %)   2.30 (94 %)
//       5    0.48 (84 %)   1.64 (95 %)   2.84 (97 %)
// holds:  the critical paths explain at least 99.99 % of each total
// holds:  more to fetch and infer takes longer: 0.28 s, 2.84 s
// holds:  and moves the path from fetching to computing: 64.21 %, 97.18 %
