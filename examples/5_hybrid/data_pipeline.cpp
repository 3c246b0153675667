// Hybrid workloads: a data pipeline that measures itself, from the first fetch to the last store.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/data_pipeline.cpp -o data && ./data
//
// What it teaches: what to measure in a pipeline. Twelve items are fetched (0.5 to 1.5 s, three at
// once), processed (1 to 2 s of one core, on two workers) and stored (0.1 to 0.3 s, one at a time),
// with bounded queues between the stages. Of each item it notes the time in each stage and from end
// to end; of each stage how busy it was. The busiest is the bottleneck; if it had no gaps at all,
// the pipeline would be ideal, and efficiency is that ideal time by the real one.
// Look at: the table, the timeline, where = is waiting and # is a worker computing, and the summary.
// --seed N draws other times; --quick does it 30 times faster; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <fstream>
#include <iostream>
#include <random>
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

constexpr int fetchers = 3, workers = 2;

struct item {
    int number;
    double fetch_units, process_units, store_units;         // what each stage is to take
    double began = 0, fetch = 0, process = 0, store = 0, end_to_end = 0; // in seconds, as it was
    processed result = {};
};
using items = std::vector<item>;

struct bench {
    double unit;         // what a second of the exercise takes: less with --quick
    double rounds = 2e7; // the work of a unit, once calibrated
    asyncio::process_pool_executor pool{workers};
};

asyncio::coro<> wait(bench& b, double units) { // stands for a request to a source, or to a database
    co_await asyncio::sleep(asyncio::duration::seconds(units * b.unit));
}

asyncio::coro<> fetch(bench& b, item& i) {
    i.began = now();
    co_await wait(b, i.fetch_units);
    i.fetch = now() - i.began;
}

asyncio::coro<> process_item(bench& b, item& i) {
    const double began = now();
    i.result = co_await asyncio::run_in_executor(b.pool, process, i.number,
                                                 b.rounds * i.process_units);
    i.process = now() - began;
}

asyncio::coro<> store(bench& b, item& i) {
    const double began = now();
    co_await wait(b, i.store_units);
    i.store = now() - began;
    i.end_to_end = now() - i.began;
    std::putchar('.'); // the progress
    std::fflush(stdout);
}

asyncio::coro<items> in_turn(bench& b, items all) {
    for (item& i : all) {
        co_await fetch(b, i);
        co_await process_item(b, i);
        co_await store(b, i);
    }
    co_return all;
}

using item_queue = asyncio::queue<item*>;

asyncio::coro<> fetch_stage(bench& b, items& all, std::size_t& next, item_queue& fetched, int& running) {
    while (next < all.size()) {
        item& i = all[next++];
        co_await fetch(b, i);
        co_await fetched.put(&i); // waits while the queue is full
    }
    if (--running == 0) fetched.shutdown(); // the last one closes the door
}

asyncio::coro<> process_stage(bench& b, item_queue& fetched, item_queue& done, int& running) {
    while (auto i = co_await fetched.next()) {
        co_await process_item(b, **i);
        co_await done.put(*i);
    }
    if (--running == 0) done.shutdown();
}

asyncio::coro<> store_stage(bench& b, item_queue& done) {
    while (auto i = co_await done.next()) co_await store(b, **i);
}

asyncio::coro<items> pipeline(bench& b, items all) {
    item_queue fetched(4), done(4);
    std::size_t next = 0;
    int fetching = fetchers, processing = workers;
    const auto stages = [&](asyncio::task_group& group) {
        for (int f = 1; f <= fetchers; ++f)
            group.create_task(fetch_stage(b, all, next, fetched, fetching),
                              {.name = "fetch " + std::to_string(f)});
        for (int w = 1; w <= workers; ++w)
            group.create_task(process_stage(b, fetched, done, processing),
                              {.name = "process " + std::to_string(w)});
        group.create_task(store_stage(b, done), {.name = "store"});
    };
    co_await asyncio::with(asyncio::task_group(), stages);
    co_return all;
}

struct run {
    double took = 1e9;
    items all = {};
};

// Other programs on the machine only ever make a run longer, so the best of some counts.
asyncio::coro<> measure(const char* name, asyncio::coro<items> work, run& best) {
    std::printf("%6.2f s  %-11s ", now(), name);
    const double began = now();
    run r;
    r.all = co_await std::move(work);
    r.took = now() - began;
    std::printf(" %.2f s\n", r.took);
    if (r.took < best.took) best = r;
}

asyncio::coro<int> async_main(unsigned seed, bool quick, std::string trace_file) {
    std::mt19937 random(seed);
    const auto draw = [&random](double from, double to) { return from + (to - from) * random() / 4294967296.0; };
    items plan;
    for (int i = 1; i <= 12; ++i) {
        const double fetch_units = draw(0.5, 1.5), process_units = draw(1, 2);
        plan.push_back({i, fetch_units, process_units, draw(0.1, 0.3)});
    }
    bench b{quick ? 0.03 : 1};
    for (int i = 0; i < 2; ++i) // the second time, the worker is warm
        b.rounds *= b.unit / (co_await asyncio::run_in_executor(b.pool, process, 1, b.rounds)).cpu;

    run slow, fast;
    for (int i = 0; i < (quick ? 2 : 1); ++i) {
        co_await measure("in turn", in_turn(b, plan), slow);
        asyncio::tracer trace(asyncio::get_running_loop());
        co_await measure("as pipeline", pipeline(b, plan), fast);
        if (i > 0) continue;
        trace.print_timeline(std::cout);
        if (trace_file.empty()) continue;
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    std::printf("item   fetch  process    store  end to end (seed %u)\n", seed);
    double fetch_busy = 0, process_busy = 0, store_busy = 0, wall = 0, cpu = 0;
    bool right = fast.all.size() == 12, sums = true;
    for (std::size_t k = 0; k < fast.all.size(); ++k) {
        const item& i = fast.all[k];
        std::printf("%4d %7.0f  %7.0f  %7.0f  %10.0f ms\n", i.number, 1e3 * i.fetch, 1e3 * i.process,
                    1e3 * i.store, 1e3 * i.end_to_end);
        fetch_busy += i.fetch / fetchers, process_busy += i.process / workers, store_busy += i.store;
        wall += i.result.wall, cpu += i.result.cpu;
        right = right && i.result.digest == slow.all[k].result.digest;
        sums = sums && i.end_to_end > i.fetch + i.process + i.store - 1e-6;
    }
    const double ideal = std::max({fetch_busy, process_busy, store_busy});
    const double efficiency = ideal / fast.took, share = cpu / wall;
    const std::string bottleneck = ideal == fetch_busy ? "fetch" : ideal == store_busy ? "store" : "process";
    std::printf("use: fetch %.0f %%, process %.0f %%, store %.0f %%\n", 100 * fetch_busy / fast.took,
                100 * process_busy / fast.took, 100 * store_busy / fast.took);
    std::printf("throughput %.2f items per second; each worker had %.2f of a core%s\n", 12 / fast.took,
                share, share < 0.9 ? ": machine busy" : "");
    claim(right, "all 12 items are stored, and their results are those in turn");
    claim(sums, "from end to end, no item takes less than its three stages");
    claim(bottleneck == "process", "the bottleneck is: " + bottleneck + " (process)", share < 0.9);
    claim(fast.took < 0.8 * slow.took, num(fast.took) + " s, at least 20 % less than " + num(slow.took) +
          " s in turn", share < 0.9);
    claim(efficiency > 0.7 && efficiency <= 1, "efficiency " + num(ideal) + " / " + num(fast.took) + " = " +
          num(efficiency) + " (0.7 to 1)", share < 0.9);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    bool quick = false;
    unsigned long seed = 1;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        char* end = nullptr;
        if (word == "--quick") quick = true;
        else if (word == "--seed" && i + 1 < argc && (seed = std::strtoul(argv[i + 1], &end, 10), *end == 0)) ++i;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("A data pipeline that measures itself.\n"
                       "usage: data [--quick] [--seed N] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(static_cast<unsigned>(seed), quick, trace_file));
}
