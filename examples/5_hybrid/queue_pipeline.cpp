// Hybrid workloads: stages with queues between them, how deep those need to be, and more workers.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/queue_pipeline.cpp -o queues && ./queues
//
// What it teaches: ten items are fetched (1 s), processed (2 s of one core) and stored (0.5 s). In
// turn that is 35 s. As a pipeline the slowest stage sets the pace: 1 s, ten times 2 s, 0.5 s make
// 21.5 s. How deep the queues are hardly matters for that: one item in front of the slowest stage
// is enough to keep it busy. What helps is a second worker for that stage: 12.5 s, because now the
// fetches are as slow, and ten of them, 2 s and 0.5 s are the way of the last item.
// Look at: the table, a dot for each stored item; then the timeline with two workers, where = is
// waiting and # is a worker computing. It runs for 2 minutes; --quick does a fiftieth of it.
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

struct record { // plain structs travel to the worker processes and back as they are
    int item = 0;
    std::uint64_t digest = 0;
    double cpu = 0, wall = 0; // the seconds of a core that it took, and in all
};

// A fixed amount of work for one core. It runs in a worker process.
record process(int item, double rounds) {
    const std::clock_t began = std::clock();
    record out{item, static_cast<std::uint64_t>(item)};
    for (double i = 0; i < rounds; ++i)
        out.digest = (out.digest ^ out.digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    out.cpu = static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC;
    return out;
}

constexpr int items = 10;

struct bench {
    double unit = 0.001; // what a second of the exercise takes, once calibrated
    double rounds = 4e6; // once calibrated, an item's processing takes two units
    asyncio::process_pool_executor pool{2};
};

struct run {
    double took = 1e9, wall = 0, cpu = 0; // wall and cpu: of all items' processing
    std::uint64_t digest = 0;             // of all stored items, added up
    int stored = 0;
};

asyncio::coro<> fetch(bench& b) { co_await asyncio::sleep(b.unit * 1s); } // stands for a request

asyncio::coro<record> process_on_worker(bench& b, int item) {
    const double began = now();
    record r = co_await asyncio::run_in_executor(b.pool, process, item, b.rounds);
    r.wall = now() - began;
    co_return r;
}

asyncio::coro<> store(bench& b, record r, run& out) {
    co_await asyncio::sleep(b.unit * 500ms); // stands for a database
    out.wall += r.wall, out.cpu += r.cpu, out.digest += r.digest;
    ++out.stored;
    std::putchar('.');
    std::fflush(stdout);
}

asyncio::coro<run> in_turn(bench& b) {
    run out;
    for (int item = 0; item < items; ++item) {
        co_await fetch(b);
        const record r = co_await process_on_worker(b, item);
        co_await store(b, r, out);
    }
    co_return out;
}

asyncio::coro<> fetch_stage(bench& b, asyncio::queue<int>& fetched) {
    for (int item = 0; item < items; ++item) {
        co_await fetch(b);
        co_await fetched.put(item);
    }
    fetched.shutdown(); // no more: next() gives nothing once the queue is empty
}

asyncio::coro<> process_stage(bench& b, asyncio::queue<int>& fetched,
                              asyncio::queue<record>& processed, int& running) {
    while (auto item = co_await fetched.next()) {
        const record r = co_await process_on_worker(b, *item);
        co_await processed.put(r);
    }
    if (--running == 0) processed.shutdown(); // the last of the workers closes the door
}

asyncio::coro<> store_stage(bench& b, asyncio::queue<record>& processed, run& out) {
    while (auto r = co_await processed.next()) co_await store(b, *r, out);
}

asyncio::coro<run> pipeline(bench& b, int depth, int workers) {
    asyncio::queue<int> fetched(depth);
    asyncio::queue<record> processed(depth);
    run out;
    int running = workers;
    const auto stages = [&](asyncio::task_group& group) {
        group.create_task(fetch_stage(b, fetched), {.name = "fetch"});
        for (int i = 1; i <= workers; ++i)
            group.create_task(process_stage(b, fetched, processed, running),
                              {.name = "process " + std::to_string(i)});
        group.create_task(store_stage(b, processed, out), {.name = "store"});
    };
    co_await asyncio::with(asyncio::task_group(), stages);
    co_return out;
}

// Other programs on the machine only ever make a run longer, so the best of some counts.
asyncio::coro<> measure(const char* name, asyncio::coro<run> work, run& best) {
    std::printf("%6.2f s  %-20s ", now(), name);
    const double began = now();
    run r = co_await std::move(work);
    r.took = now() - began;
    std::printf(" %.2f s\n", r.took);
    if (r.took < best.took) best = r;
}

asyncio::coro<int> async_main(bool quick, std::string trace_file) {
    bench b;
    run probe, turn, depth_1, depth_2, depth_5, two_workers;
    for (int i = 0; i < 2; ++i) co_await measure("calibration", pipeline(b, 1, 2), probe);
    b.unit = quick ? 0.02 : 1;
    b.rounds *= 2 * b.unit * items / probe.cpu;

    for (int i = 0; i < (quick ? 2 : 1); ++i) {
        co_await measure("in turn", in_turn(b), turn);
        co_await measure("depth 1, one worker", pipeline(b, 1, 1), depth_1);
        co_await measure("depth 2, one worker", pipeline(b, 2, 1), depth_2);
        co_await measure("depth 5, one worker", pipeline(b, 5, 1), depth_5);
        asyncio::tracer trace(asyncio::get_running_loop());
        co_await measure("depth 2, two workers", pipeline(b, 2, 2), two_workers);
        if (i > 0) continue;
        trace.print_timeline(std::cout);
        if (trace_file.empty()) continue;
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    // The same work on one worker and on two: what the machine gives.
    const double capacity = 2 * turn.wall / two_workers.wall;
    double share = 1; // the smallest part of a core that a worker had
    for (const run& r : {turn, depth_1, depth_2, depth_5, two_workers})
        share = std::min(share, r.cpu / r.wall);
    std::printf("capacity of 2 workers: %.2f; each had %.2f of a core or more%s\n", capacity, share,
                share < 0.9 ? ": machine busy" : "");
    for (const run& r : {depth_1, depth_2, depth_5, two_workers})
        claim(r.stored == items && r.digest == turn.digest, "all items are stored, and right");
    for (const run& r : {depth_1, depth_2, depth_5}) {
        const double paper = 1.5 * b.unit + r.wall; // the first fetch, all work, the last store
        claim(r.took < paper / 0.9 && r.took < turn.took, num(r.took) + " s with one worker (" +
              num(paper) + " on paper), " + num(turn.took) + " s in turn", share < 0.9);
    }
    // Ten fetches, the last item's work and its store; or a fetch, half of all work and a store.
    const double paper = std::max(10.5 * b.unit + two_workers.wall / items,
                                  1.5 * b.unit + two_workers.wall / 2);
    claim(two_workers.took < paper / 0.9 && two_workers.took < depth_2.took, num(two_workers.took) +
          " s with two workers (" + num(paper) + " on paper)", share < 0.9);
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
            std::fputs("Stages with queues between them: how deep, and how many workers.\n"
                       "usage: queues [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
