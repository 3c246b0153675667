// Hybrid workloads: stages with queues between them, how deep those need to be, and more workers.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/queue_pipeline.cpp -o queues && ./queues
//
// What it teaches: ten items are fetched (1 s), processed (2 s of one core) and stored (0.5 s). In
// turn that is 35 s. In a pipeline the slowest stage sets the pace: 1 s, ten times 2 s, 0.5 s make
// 21.5 s. How deep the queues are hardly matters: one item in front of the slowest stage keeps it
// busy. What helps is a second worker: 12.5 s; ten fetches, and 2.5 s for the last item.
// Look at: the times, and the timeline with two workers (= waits, # computes). It runs for two
// minutes; --quick does a hundredth of it.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <string>
using namespace std::chrono_literals;

double now() { return asyncio::elapsed().total_seconds(); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text, bool busy = false) { // busy: not judged
    std::printf("%s %s\n", holds ? "holds: " : busy ? "busy:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1;
}

struct record { // plain structs travel to the worker processes and back as they are
    std::uint64_t digest = 0;
    double cpu = 0, wall = 0; // the seconds of a core that it took, and the seconds
};

// A fixed amount of work for one core. It runs in a worker process.
record process(int item, double rounds) {
    const std::clock_t began = std::clock();
    record out{static_cast<std::uint64_t>(item)};
    for (double i = 0; i < rounds; ++i)
        out.digest = (out.digest ^ out.digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    out.cpu = static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC;
    return out;
}

constexpr int items = 10;
double second = 1;   // how long a second of the exercise is: less with --quick
double rounds = 3e6; // the work for an item; calibrated, it takes two of them

struct run {
    double took = 1e9, wall = 0, cpu = 0;   // wall and cpu: of all processing
    std::uint64_t digest = 0;             // of all stored items, added up
    int stored = 0;
} present;

asyncio::coro<record> process_on_worker(asyncio::executor& pool, int item) {
    const double began = now();
    record r = co_await asyncio::run_in_executor(pool, process, item, rounds);
    r.wall = now() - began;
    co_return r;
}

asyncio::coro<> store(record r) {
    co_await asyncio::sleep(second * 500ms); // stands for a database
    present.wall += r.wall, present.cpu += r.cpu, present.digest += r.digest;
    ++present.stored;
}

asyncio::coro<> in_turn(asyncio::executor& pool) {
    for (int item = 0; item < items; ++item) {
        co_await asyncio::sleep(second * 1s); // stands for a request
        co_await store(co_await process_on_worker(pool, item));
    }
}

asyncio::coro<> fetch_stage(asyncio::queue<int>& fetched) {
    for (int item = 0; item < items; ++item) {
        co_await asyncio::sleep(second * 1s); // stands for a request
        co_await fetched.put(item);
    }
    fetched.shutdown(); // no more: next() gives nothing once the queue is empty
}

asyncio::coro<> process_stage(asyncio::executor& pool, asyncio::queue<int>& fetched,
                              asyncio::queue<record>& processed, int& running) {
    while (auto item = co_await fetched.next())
        co_await processed.put(co_await process_on_worker(pool, *item));
    if (--running == 0) processed.shutdown(); // the last of the workers closes the door
}

asyncio::coro<> store_stage(asyncio::queue<record>& processed) {
    while (auto r = co_await processed.next()) co_await store(*r);
}

asyncio::coro<> pipeline(asyncio::executor& pool, int depth, int workers) {
    asyncio::queue<int> fetched(depth);
    asyncio::queue<record> processed(depth);
    int running = workers;
    const auto stages = [&](asyncio::task_group& group) {
        group.create_task(fetch_stage(fetched), {.name = "fetch"});
        for (int i = 0; i < workers; ++i)
            group.create_task(process_stage(pool, fetched, processed, running));
        group.create_task(store_stage(processed), {.name = "store"});
    };
    co_await asyncio::with(asyncio::task_group(), stages);
}

// Whoever else uses the machine can only make a run slower, so the best one counts.
asyncio::coro<> measure(const char* name, asyncio::coro<> work, run& best) {
    present = {};
    const double began = now();
    co_await std::move(work);
    present.took = now() - began;
    std::printf("%6.2f s  %s: %.2f s\n", now(), name, present.took);
    if (present.took < best.took) best = present;
}

struct plan {
    const char* name;
    int depth, workers;
    double paper = 0;
    run best = {};
} plans[] = {{"depth 1, one worker", 1, 1}, {"depth 2, one worker", 2, 1},
             {"depth 5, one worker", 5, 1}, {"depth 2, two workers", 2, 2}};

asyncio::coro<int> async_main(bool quick) {
    if (quick) second = 0.01;
    const double least = quick ? 0.8 : 0.9; // of the speed on paper; short jobs have more overhead
    asyncio::process_pool_executor pool(2);
    run turn, probe;
    co_await measure("calibration", pipeline(pool, 1, 2), probe);
    rounds *= 2 * second * items / probe.cpu;
    double cpu = 0, wall = 0;
    bool good = false, busy = false;
    for (int round = 1; round <= 15 && !good && !busy; ++round) {
        co_await measure("in turn", in_turn(pool), turn);
        good = true;
        for (plan& p : plans) {
            asyncio::tracer trace(asyncio::get_running_loop());
            co_await measure(p.name, pipeline(pool, p.depth, p.workers), p.best);
            if (round == 1 && p.workers == 2) trace.print_timeline(std::cout);
            // A fetch, all work and a store, or all fetches, the work for an item and a store.
            p.paper = std::max(1.5 * second + p.best.wall / p.workers,
                               10.5 * second + p.best.wall / items);
            good = good && p.best.took < p.paper / least;
            cpu += present.cpu, wall += present.wall;
        }
        busy = cpu < 0.9 * wall;
    }
    std::printf("two workers: %.2fx as fast as one; each had %.2f of a core%s\n",
                2 * turn.wall / plans[3].best.wall, cpu / wall, busy ? ": machine busy" : "");
    for (const plan& p : plans) {
        claim(p.best.stored == items && p.best.digest == turn.digest, "ten are stored, and right");
        claim(p.best.took < p.paper / least && p.best.took < turn.took, std::string(p.name) + ": " +
              num(p.best.took) + " s (on paper " + num(p.paper) + " s)", busy);
    }
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    const std::string option = argc == 2 ? argv[1] : "";
    if (argc == 1 || option == "--quick") return asyncio::run_main(async_main(option == "--quick"));
    std::fputs("Queues between stages: how deep, and how many workers.\nusage: queues [--quick]\n",
               option == "--help" ? stdout : stderr);
    return option == "--help" ? 0 : 2;
}
// Output:
//  10.51 s  calibration: 10.51 s
//  46.45 s  in turn: 35.94 s
//  68.51 s  depth 1, one worker: 22.06 s
//  90.76 s  depth 2, one worker: 22.26 s
// 112.87 s  depth 5, one worker: 22.10 s
// 126.18 s  depth 2, two workers: 13.31 s
// time    |0                                                   13.313 s|
// Task-1  |============================================================| 0.000-13.313 s
// fetch   |================================================            | 0.000-10.477 s
// Task-16 |====#################################################       | 0.000-11.622 s
// Task-17 |=========#################################################  | 0.000-12.813 s
// store   |============================================================| 0.000-13.313 s
// two workers: 1.95x as fast as one; each had 0.96 of a core
// holds:  ten are stored, and right
// holds:  depth 1, one worker: 22.06 s (on paper 22.06 s)
// holds:  ten are stored, and right
// holds:  depth 2, one worker: 22.25 s (on paper 22.25 s)
// holds:  ten are stored, and right
// holds:  depth 5, one worker: 22.10 s (on paper 22.10 s)
// holds:  ten are stored, and right
// holds:  depth 2, two workers: 13.31 s (on paper 12.64 s)
