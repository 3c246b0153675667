// Hybrid workloads: batches bound what a program holds, and the next one can be fetched meanwhile.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/batches.cpp -o batches && ./batches
//
// What it teaches: who fetches everything at once holds everything at once. In batches of five,
// never more than five items are in memory; but while a batch is processed, nobody fetches.
// create_task() starts the fetch of the next batch before this one is processed: at most ten items
// are held, and the fetches cost no time any more.
// Twenty items; a fetch takes 50 ms, processing 0.1 s of one core, with two worker processes.
// Look at: the timeline of the second way, where = is waiting and # is a worker computing: each
// batch but the first is fetched below a row of #. --quick computes a tenth of it.
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
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text, bool busy = false) { // busy: not judged
    std::printf("%s %s\n", holds ? "holds: " : busy ? "busy:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1;
}

struct processed { // plain structs travel to the worker processes and back as they are
    std::uint64_t digest = 0;
    double wall = 0, cpu = 0; // the seconds it took
};

// A fixed amount of work for one core. It runs in a worker process.
processed process(int item, double rounds) {
    const auto began = std::chrono::steady_clock::now();
    const std::clock_t cpu_began = std::clock();
    processed out{static_cast<std::uint64_t>(item)};
    for (double i = 0; i < rounds; ++i)
        out.digest = (out.digest ^ out.digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    out.cpu = static_cast<double>(std::clock() - cpu_began) / CLOCKS_PER_SEC;
    out.wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    return out;
}

constexpr int batches = 4, batch_size = 5;
constexpr double fetch_seconds = 0.05;

struct bench {
    double process_seconds; // of one core, for each item
    double rounds = 2e6;    // the work that takes them, once calibrated
    asyncio::process_pool_executor pool{2};
    int held = 0, most_held = 0; // items asked for and not yet processed
    processed sum = {};          // all that was processed, added up
};

asyncio::coro<int> fetch(bench& b, int item) {
    asyncio::current_task().set_name("  item " + std::to_string(item)); // for the timeline
    b.most_held = std::max(b.most_held, ++b.held);
    co_await asyncio::sleep(asyncio::duration::seconds(fetch_seconds)); // stands for the network
    co_return item;
}

asyncio::coro<std::vector<int>> fetch_batch(bench& b, int batch) {
    std::vector<asyncio::coro<int>> fetches;
    for (int i = 0; i < batch_size; ++i) fetches.push_back(fetch(b, batch * batch_size + i));
    co_return co_await asyncio::gather(std::move(fetches));
}

asyncio::coro<> process_batch(bench& b, std::vector<int> items) {
    std::vector<asyncio::future<processed>> jobs;
    for (const int item : items)
        jobs.push_back(asyncio::run_in_executor(b.pool, process, item, b.rounds));
    for (const processed& p : co_await asyncio::gather(std::move(jobs))) {
        --b.held;
        b.sum.digest += p.digest, b.sum.wall += p.wall, b.sum.cpu += p.cpu;
    }
}

asyncio::coro<> one_after_the_other(bench& b) {
    for (int batch = 0; batch < batches; ++batch) {
        const std::vector<int> items = co_await fetch_batch(b, batch);
        co_await process_batch(b, items);
    }
}

asyncio::coro<> fetch_ahead(bench& b) {
    auto next = asyncio::create_task(fetch_batch(b, 0), {.name = "batch 0"});
    for (int batch = 1; batch <= batches; ++batch) {
        const std::vector<int> items = co_await next;
        if (batch < batches) // starts now, and goes on while these items are processed
            next = asyncio::create_task(fetch_batch(b, batch),
                                        {.name = "batch " + std::to_string(batch)});
        co_await process_batch(b, items);
    }
}

struct run {
    double took = 1e9;
    int most_held = 0;
    processed sum = {};
};

// Other programs on the machine only ever make a run longer, so the best of some counts.
asyncio::coro<> measure(bench& b, const char* name, asyncio::coro<> work, run& best) {
    b.most_held = 0;
    b.sum = {};
    const double began = now();
    co_await std::move(work);
    const run r{now() - began, b.most_held, b.sum};
    std::printf("%5.2f s  %s: %.3f s\n", now(), name, r.took);
    if (r.took < best.took) best = r;
}

asyncio::coro<int> async_main(bool quick, std::string trace_file) {
    bench b{quick ? 0.01 : 0.1};
    run probe, plain, ahead;
    for (int i = 0; i < 2; ++i) co_await measure(b, "calibration", one_after_the_other(b), probe);
    b.rounds *= b.process_seconds * batches * batch_size / probe.sum.cpu;
    for (int i = 0; i < 5; ++i) {
        co_await measure(b, "one after the other", one_after_the_other(b), plain);
        co_await measure(b, "fetched ahead", fetch_ahead(b), ahead);
    }
    asyncio::tracer trace(asyncio::get_running_loop());
    co_await fetch_ahead(b);
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(plain.sum.digest == ahead.sum.digest, "the results are the same");
    claim(plain.most_held == 5, std::to_string(plain.most_held) + " items held at most (5)");
    claim(ahead.most_held == 10, std::to_string(ahead.most_held) + " when fetched ahead (10)");
    // Three of the four fetches are hidden behind the processing; half of that must show.
    const double wanted = plain.took - 3 * std::min(fetch_seconds, b.process_seconds) / 2;
    const double share = (plain.sum.cpu + ahead.sum.cpu) / (plain.sum.wall + ahead.sum.wall);
    if (share < 0.9) std::printf("each worker had %.2f of a core: machine busy\n", share);
    claim(ahead.took < wanted, num(ahead.took) + " s when fetched ahead (below " + num(wanted) +
          " s), " + num(plain.took) + " s one after the other", share < 0.9);
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
            std::fputs("Batches bound what a program holds; the next one is fetched meanwhile.\n"
                       "usage: batches [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
