// Hybrid workloads: records from five APIs are transformed and stored, and every error is counted.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/ingestion.cpp -o ingest && ./ingest
//
// What it teaches: five tasks ask an API each, all put what they get into one queue, two tasks take
// it out for two worker processes, and one stores. The store is the slowest; the queues hold ten
// records at most, so that in the end the APIs are only asked as fast as the store can take it.
// Errors happen in every stage: an API is down for a while, a record is no number (the worker's
// exception comes back to where its result is awaited), the store refuses one. Each is caught where
// it happens and counted, and in the end nothing may be missing.
// Look at: the timeline, where = is waiting and # is a worker computing, and the table.
// --quick waits and computes a fifth; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

double now() { return asyncio::elapsed().total_seconds(); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

struct transformed { // plain structs travel to the worker processes and back as they are
    int value = 0;
    std::uint64_t digest = 0;
};

// A fixed amount of work for one core. It runs in a worker process.
transformed transform(std::string text, double rounds) {
    transformed out{std::stoi(text)}; // throws std::invalid_argument for what is no number
    out.digest = static_cast<std::uint64_t>(out.value);
    for (double i = 0; i < rounds; ++i)
        out.digest = (out.digest ^ out.digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    return out;
}

// How much of it takes `seconds` of one core.
double rounds_for(double seconds) {
    const std::clock_t began = std::clock();
    const double rounds = transform("1", 1e6).digest == 0 ? 1 : 1e6; // used: it is no dead code
    return rounds * seconds * CLOCKS_PER_SEC / static_cast<double>(std::clock() - began);
}

struct api {
    std::string name;
    asyncio::duration latency;
    int asked = 0, fetch_errors = 0, transform_errors = 0, store_errors = 0;
    std::vector<transformed> rows = {}; // what is stored
};

struct record {
    api* from;
    std::string text = "";
    transformed data = {};
};

constexpr int requests = 20; // to each API

struct pipeline {
    double unit; // what a second takes: less with --quick
    double rounds = 0;
    asyncio::process_pool_executor pool{2};
    std::vector<api> apis = {{"orders", 20ms}, {"weather", 30ms}, {"prices", 40ms},
                             {"stock", 50ms}, {"traffic", 60ms}};
    asyncio::queue<record> raw{10}, clean{10};
    std::size_t deepest = 0; // the most records in one of the queues
    double waited = 0;       // for a free place, by those who ask the APIs
    int asking = 5, transforming = 2;
};

asyncio::coro<std::string> get(pipeline& p, api& a, int number) { // stands for an HTTP request
    co_await asyncio::sleep(a.latency * p.unit);
    if (a.name == "weather" && number >= 5 && number <= 9) throw std::runtime_error("503");
    co_return number % 10 == 0 ? "n/a" : std::to_string(number);
}

asyncio::coro<> save(pipeline& p, const record& r) { // stands for a database
    co_await asyncio::sleep(p.unit * 20ms);
    if (r.data.value == 13) throw std::runtime_error("duplicate key");
}

asyncio::coro<> ask(pipeline& p, api& a) {
    for (int number = 1; number <= requests; ++number) {
        ++a.asked;
        record r{&a};
        try {
            r.text = co_await get(p, a, number);
        } catch (const std::runtime_error&) {
            ++a.fetch_errors;
            continue;
        }
        const double began = now();
        co_await p.raw.put(std::move(r)); // waits while ten are in there
        p.waited += now() - began;
        p.deepest = std::max(p.deepest, p.raw.qsize());
    }
    if (--p.asking == 0) p.raw.shutdown(); // the last one closes the door
}

asyncio::coro<> transform_all(pipeline& p) {
    while (auto r = co_await p.raw.next()) {
        try {
            r->data = co_await asyncio::run_in_executor(p.pool, transform, r->text, p.rounds);
        } catch (const std::invalid_argument&) {
            ++r->from->transform_errors;
            continue;
        }
        co_await p.clean.put(*r);
        p.deepest = std::max(p.deepest, p.clean.qsize());
    }
    if (--p.transforming == 0) p.clean.shutdown();
}

asyncio::coro<> store_all(pipeline& p) {
    while (auto r = co_await p.clean.next()) {
        try {
            co_await save(p, *r);
            r->from->rows.push_back(r->data);
        } catch (const std::runtime_error&) { ++r->from->store_errors; }
    }
}

asyncio::coro<int> async_main(bool quick, std::string trace_file) {
    pipeline p{quick ? 0.2 : 1};
    for (int i = 0; i < 2; ++i) // the second time, the worker is warm
        p.rounds = co_await asyncio::run_in_executor(p.pool, rounds_for, 0.01 * p.unit);

    asyncio::tracer trace(asyncio::get_running_loop());
    const double began = now();
    const auto stages = [&](asyncio::task_group& group) {
        for (api& a : p.apis) group.create_task(ask(p, a), {.name = a.name});
        for (const char* name : {"transform 1", "transform 2"})
            group.create_task(transform_all(p), {.name = name});
        group.create_task(store_all(p), {.name = "store"});
    };
    co_await asyncio::with(asyncio::task_group(), stages);
    const double took = now() - began;
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    api all{"all", 0s};
    std::printf("%-8s  %5s  %12s  %16s  %12s  %6s\n", "api", "asked", "fetch errors",
                "transform errors", "store errors", "stored");
    const auto row = [](const api& a) {
        std::printf("%-8s  %5d  %12d  %16d  %12d  %6zu\n", a.name.c_str(), a.asked, a.fetch_errors,
                    a.transform_errors, a.store_errors, a.rows.size());
    };
    for (const api& a : p.apis) {
        row(a);
        all.asked += a.asked, all.fetch_errors += a.fetch_errors;
        all.transform_errors += a.transform_errors, all.store_errors += a.store_errors;
        all.rows.insert(all.rows.end(), a.rows.begin(), a.rows.end());
    }
    row(all);
    const int stored = static_cast<int>(all.rows.size());
    std::printf("%.2f s: %.0f stored per second; those who ask waited %.2f s for a free place\n",
                took, stored / took, p.waited);

    claim(all.asked == 100 && all.fetch_errors == 5 && all.transform_errors == 10 &&
              all.store_errors == 5 && stored == 80,
          "all 100 are accounted for: 5 + 10 + 5 errors and 80 stored");
    const std::uint64_t seven = transform("7", p.rounds).digest;
    const auto right = std::count_if(all.rows.begin(), all.rows.end(), [&](const transformed& t) {
        return t.value == 7 && t.digest == seven;
    });
    claim(right == 4, "the workers computed what this process computes");
    claim(p.deepest == 10 && p.waited > 0,
          std::to_string(p.deepest) + " records in a queue (10), and those who ask had to wait");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    bool quick = false;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") quick = true;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("Records of five APIs are transformed and stored; every error is counted.\n"
                       "usage: ingest [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
