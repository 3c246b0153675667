// The AI agent: five of them share two slots, two workers and a store.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/6_agent/multi_agent.cpp -o crew && ./crew
//
// What it teaches: each agent writes three reports. It fetches a text over HTTP, a worker process
// infers what it is worth, and a store that writes one at a time gets it over HTTP. For all of that
// an agent needs a slot, so that the sources see no more than two requests at a time.
// Look at: the two tables. An error costs its own report only, and stands beside its agent. Where
// reports wait longest is the bottleneck: at first the slots, while workers are idle; with five
// slots the workers, and more slots would change nothing.
// --quick waits and computes less; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
using namespace std::chrono_literals;
using std::string, std::string_view, std::vector;

double seconds() { return asyncio::elapsed().total_seconds(); }
string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); } // 1.25

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const string& text, bool busy = false) {
    std::printf("%s %s\n", holds ? "holds: " : busy ? "BUSY:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1; // a machine without a core to spare proves nothing
}

// ---- HTTP, the sources and the store ------------------------------------------------------------
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

asyncio::coro<string> request(int port, string what, string body) { // "GET /news"
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    co_await send(writer, what + " HTTP/1.1", std::move(body));
    const message got = co_await receive(reader);
    if (!got.first_line.starts_with("HTTP/1.1 200")) throw std::runtime_error(got.first_line);
    co_return got.body;
}

struct services {
    std::chrono::milliseconds latency = 240ms, write_time = 60ms; // of the sources; of the store
    int port = 0, asked = 0, most_asked = 0; // asked: requests at the sources
    double waited = 0;            // seconds that reports waited for the disk of the store
    std::map<string, int> stored; // reports by agent
    asyncio::lock disk;
};
// GET /news gives a text, unless its source is down; POST /news stores a report of that agent.
asyncio::coro<> serve(services& s, asyncio::stream_reader in, asyncio::stream_writer out) {
    try {
        const message got = co_await receive(in);
        const std::size_t slash = got.first_line.find('/') + 1;
        const string who = got.first_line.substr(slash, got.first_line.rfind(' ') - slash);
        asyncio::current_task().set_name("(for " + who + ")"); // for the timeline
        string status = "200 OK", body = "{}\n";
        if (got.first_line.starts_with("GET")) {
            s.most_asked = std::max(s.most_asked, ++s.asked);
            co_await asyncio::sleep(s.latency);
            --s.asked;
            if (who == "traffic") status = "503 Service Unavailable";
            else body = "What " + who + " has to say of this: rain until noon, then a museum.";
        } else if (who == "stocks" && s.stored[who] == 2) {
            status = "507 Insufficient Storage"; // this agent has used up its share
        } else {
            const double began = seconds();
            auto held = co_await s.disk.scoped();
            s.waited += seconds() - began;
            co_await asyncio::sleep(s.write_time);
            ++s.stored[who];
        }
        co_await send(out, "HTTP/1.1 " + status, body);
    } catch (const std::exception&) {} // the client is gone
}

// ---- The inference ------------------------------------------------------------------------------
const string question = "Is the museum free today?";

// How much of their runs of three letters do two texts share? As many as the rounds, each with
// another hash, in which the smallest hash of both is the same.
std::uint64_t smallest(string_view text, int round) {
    std::uint64_t token = 0, least = ~0ULL;
    for (const char c : text) {
        token = (token << 8 | (static_cast<unsigned char>(c) | 0x20U)) & 0xffffffU; // lower case
        std::uint64_t hash = token | static_cast<std::uint64_t>(round) << 24;
        hash = (hash ^ hash >> 29) * 0xbf58476d1ce4e5b9U;
        least = std::min(least, hash ^ hash >> 32);
    }
    return least;
}

struct ranking { // a plain aggregate travels from the worker process as it is
    double relevance = 0, wall = 0, cpu = 0; // the share; the seconds that it took
};
ranking infer(const string& text, int rounds) { // runs in a worker process
    const auto began = std::chrono::steady_clock::now();
    const std::clock_t cpu_began = std::clock();
    int equal = 0;
    for (int i = 0; i < rounds; ++i) equal += smallest(question, i) == smallest(text, i) ? 1 : 0;
    const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - began;
    return {static_cast<double>(equal) / rounds, wall.count(),
            static_cast<double>(std::clock() - cpu_began) / CLOCKS_PER_SEC};
}

asyncio::coro<int> rounds_for(asyncio::executor& pool, double wanted_seconds) {
    ranking r;
    for (int i = 0; i < 6; ++i) // the last ones are warm
        r = co_await asyncio::run_in_executor(pool, infer, question + question, 5000);
    co_return static_cast<int>(5000 * wanted_seconds / std::max(1e-4, r.cpu)) + 1;
}

// ---- The crew -----------------------------------------------------------------------------------
constexpr int workers = 2, reports = 3; // of each agent
const vector<string> agents = {"weather", "news", "knowledge", "traffic", "stocks"};
struct summary { // of a run of the whole crew
    int at_once = 0, running = 0, most_running = 0, stored = 0;
    double slots = 0, workers = 0, store = 0; // seconds that the reports waited for them
    double took = 0, wall = 0, cpu = 0;       // wall, cpu: of the inferences
    std::map<string, vector<string>> errors;  // by agent

    double busy() const { return wall / (::workers * took); } // the share of the workers' time
    string bottleneck() const { // where they wait longest
        return slots > std::max(workers, store) ? "slots" : workers > store ? "workers" : "store";
    }
};
asyncio::coro<> work(string name, int port, asyncio::executor& pool, int rounds,
                     asyncio::semaphore& slots, summary& out) {
    vector<string>& errors = out.errors[name]; // good during the awaits: a map moves no elements
    for (int i = 0; i < reports; ++i) {
        const double began = seconds();
        auto slot = co_await slots.scoped(); // first come, first served
        out.slots += seconds() - began;
        out.most_running = std::max(out.most_running, ++out.running);
        string step = "fetch";
        try {
            const string text = co_await request(port, "GET /" + name, "");
            step = "infer";
            const double handed_over = seconds();
            const ranking r = co_await asyncio::run_in_executor(pool, infer, text, rounds);
            out.workers += seconds() - handed_over - r.wall;
            out.wall += r.wall, out.cpu += r.cpu;
            step = "store";
            co_await request(port, "POST /" + name, text + num(r.relevance));
            ++out.stored;
        } catch (const std::exception& error) { // costs this report, and nobody else's
            errors.push_back(step + ": " + error.what());
        }
        --out.running;
    }
}
asyncio::coro<summary> run(services& s, asyncio::executor& pool, int rounds, int at_once) {
    s.stored.clear();
    s.waited = s.most_asked = 0;
    summary out;
    asyncio::semaphore slots(out.at_once = at_once);
    const auto crew = [&](asyncio::task_group& group) {
        for (const string& name : agents)
            group.create_task(work(name, s.port, pool, rounds, slots, out), {.name = name});
    };
    const double began = seconds();
    co_await asyncio::with(asyncio::task_group(), crew);
    out.took = seconds() - began;
    out.store = s.waited;
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
    services s;
    if (quick) s.latency /= 4, s.write_time /= 4;
    const auto on_client = std::bind_front(serve, std::ref(s));
    asyncio::server server = co_await asyncio::start_server(on_client, "127.0.0.1", 0);
    s.port = server.port();
    asyncio::process_pool_executor pool(workers);
    const int rounds = co_await rounds_for(pool, quick ? 0.075 : 0.3);
    asyncio::tracer trace(asyncio::get_running_loop());
    const summary two = co_await run(s, pool, rounds, 2);
    show(trace, trace_file);
    const int most_asked = s.most_asked, all = reports * static_cast<int>(agents.size());
    int failed = 0, kept = 0;
    std::puts("agent      stored  failed");
    for (const string& name : agents) {
        const vector<string>& errors = two.errors.at(name);
        std::printf("%-10s %6d %7zu%s\n", name.c_str(), s.stored[name], errors.size(),
                    errors.empty() ? "" : ("  " + errors.back()).c_str());
        kept += s.stored[name], failed += static_cast<int>(errors.size());
    }
    const summary five = co_await run(s, pool, rounds, 5);
    server.close();
    std::puts("at once  reports/s  workers busy  waited for a slot  worker   store  bottleneck");
    for (const summary* r : {&two, &five})
        std::printf("%7d %10.2f %11.0f %% %16.2f s %5.2f s %5.2f s  %s\n", r->at_once,
                    r->stored / r->took, 100 * r->busy(), r->slots / all, r->workers / all,
                    r->store / all, r->bottleneck().c_str());

    // Inferences that did not get a core each say nothing about slots and workers.
    const bool busy = two.cpu + five.cpu < 0.8 * (two.wall + five.wall);
    claim(two.most_running == 2 && most_asked <= 2, "at most two agents were at work, and " +
          std::to_string(most_asked) + " requests at the sources");
    claim(kept == two.stored && kept + failed == all, std::to_string(kept) + " reports stored, " +
          std::to_string(failed) + " failed: all " + std::to_string(all) + " accounted for");
    claim(failed == reports + 1 && two.errors.at("traffic").size() == reports &&
          two.errors.at("stocks").size() == 1 && five.errors == two.errors,
          "all errors are those of traffic and stocks, with 2 at once and with 5");
    claim(two.bottleneck() == "slots" && five.bottleneck() == "workers", "the bottleneck: " +
          two.bottleneck() + " with 2, " + five.bottleneck() + " with 5", busy);
    claim(1 - five.busy() < (1 - two.busy()) / 2, "with 5 the workers are idle half as long", busy);
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
            std::fputs("Five agents, two at once: throughput, errors, and what holds them up.\n"
                       "usage: crew [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
// Output:
// time            |0                                               6.628 s|
// Task-1          |=======================================================| 0.000-6.628 s
// weather         |==########===========######============#####=          | 0.000-5.365 s
// news            |==########=============######==============#######     | 0.000-5.973 s
// knowledge       |============#######===========########========######=  | 0.000-6.285 s
// traffic         |=========================================              | 0.000-4.941 s
// stocks          |===============######==========########============####| 0.000-6.628 s
// (for weather)   |===                                                    | 0.000-0.245 s
// (for news)      |===                                                    | 0.000-0.245 s
// (for weather)   |         ==                                            | 1.192-1.252 s
// (for news)      |         ==                                            | 1.205-1.312 s
// (for knowledge) |          ===                                          | 1.252-1.493 s
// (for traffic)   |          ====                                         | 1.313-1.569 s
// (for stocks)    |             ===                                       | 1.569-1.809 s
// ...
// agent      stored  failed
// weather         3       0
// news            3       0
// knowledge       3       0
// traffic         0       3  fetch: HTTP/1.1 503 Service Unavailable
// stocks          2       1  store: HTTP/1.1 507 Insufficient Storage
// at once  reports/s  workers busy  waited for a slot  worker   store  bottleneck
//       2       1.66          64 %             1.09 s  0.01 s  0.00 s  slots
//       5       1.79          95 %             0.00 s  0.49 s  0.00 s  workers
// holds:  at most two agents were at work, and 2 requests at the sources
// holds:  11 reports stored, 4 failed: all 15 accounted for
// holds:  all errors are those of traffic and stocks, with 2 at once and with 5
// holds:  the bottleneck: slots with 2, workers with 5
// holds:  with 5 the workers are idle half as long
