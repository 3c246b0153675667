// Hybrid workloads: a limit for the service that is asked, and another one for the cores.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/rate_limits.cpp -o limits && ./limits
//
// What it teaches: a semaphore lets so many tasks in at the same time; scoped() waits for a slot
// and gives it back at the end of the block. Here a service allows five requests at once, and we
// want three items at most to be processed at once, on four worker processes. All 20 items start
// as tasks at once, and the two semaphores let them through in the order in which they came.
// A fetch takes 0.1 s, processing 0.2 s of one core.
// Look at: the timeline, where = is waiting, for a slot or for an answer, and # is a worker
// computing. --quick computes a twentieth of it; --trace FILE is for ui.perfetto.dev.
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

double seconds() { return asyncio::elapsed().total_seconds(); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// A fixed amount of work for one core. It runs in a worker process.
std::uint64_t process(int item, double rounds) {
    std::uint64_t digest = static_cast<std::uint64_t>(item);
    for (double i = 0; i < rounds; ++i)
        digest = (digest ^ digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    return digest;
}

// How much of it takes `seconds` of one core.
double rounds_for(double seconds) {
    const std::clock_t began = std::clock();
    const double rounds = process(1, 1e6) == 0 ? 1 : 1e6; // the result is used: it is no dead code
    return rounds * seconds * CLOCKS_PER_SEC / static_cast<double>(std::clock() - began);
}

// Counts how many are in it, and how many at most were.
struct gauge {
    int now = 0, most = 0;
    void enter() { most = std::max(most, ++now); }
    void leave() { --now; }
};

constexpr int items = 20;

struct bench {
    double rounds = 0; // the work of each item
    asyncio::process_pool_executor pool{4};
    asyncio::semaphore fetch_slots{5}, process_slots{3};
    gauge fetching = {}, processing = {};
    int done = 0;
};

asyncio::coro<std::uint64_t> fetch_and_process(bench& b, int item) {
    {
        auto slot = co_await b.fetch_slots.scoped(); // waits while five others are in here
        b.fetching.enter();
        co_await asyncio::sleep(100ms); // stands for a request over the network
        b.fetching.leave();
    } // the slot is free again
    auto slot = co_await b.process_slots.scoped(); // waits while three others are in here
    b.processing.enter();
    const auto result = co_await asyncio::run_in_executor(b.pool, process, item, b.rounds);
    b.processing.leave();
    if (++b.done % 5 == 0) std::printf("%5.2f s  %d items are done\n", seconds(), b.done);
    co_return result;
}

asyncio::coro<int> async_main(bool quick, std::string trace_file) {
    bench b;
    for (int i = 0; i < 2; ++i) // the second time, the worker is warm
        b.rounds = co_await asyncio::run_in_executor(b.pool, rounds_for, quick ? 0.01 : 0.2);

    asyncio::tracer trace(asyncio::get_running_loop());
    std::vector<asyncio::task<std::uint64_t>> tasks;
    const auto all_items = [&](asyncio::task_group& group) {
        for (int item = 0; item < items; ++item)
            tasks.push_back(group.create_task(fetch_and_process(b, item),
                                              {.name = "item " + std::to_string(item)}));
    };
    // They use the semaphores in `b`; if one fails, the group ends the others before `b` goes.
    co_await asyncio::with(asyncio::task_group(), all_items);
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(b.done == items && tasks[7].result() == process(7, b.rounds),
          std::to_string(b.done) + " results (20), and the one of item 7 is right");
    claim(b.fetching.most == 5, std::to_string(b.fetching.most) + " fetches at once (5)");
    claim(b.processing.most == 3, std::to_string(b.processing.most) + " processed at once (3)");
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
            std::fputs("A limit for the service that is asked, and another one for the cores.\n"
                       "usage: limits [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
// Output:
//  0.81 s  5 items are done
//  1.29 s  10 items are done
//  1.92 s  15 items are done
//  2.35 s  20 items are done
// time    |0                                                    2.347 s|
// Task-1  |============================================================| 0.000-2.347 s
// item 0  |==#########                                                 | 0.000-0.407 s
// item 1  |==#########                                                 | 0.000-0.407 s
// item 2  |==##############                                            | 0.000-0.601 s
// item 3  |==========###########                                       | 0.000-0.801 s
// item 4  |==========######                                            | 0.000-0.613 s
// item 5  |===============############                                 | 0.000-1.023 s
// item 6  |===============######                                       | 0.000-0.816 s
// item 7  |====================#############                           | 0.000-1.257 s
// item 8  |====================#######                                 | 0.000-1.023 s
// item 9  |==========================#############                     | 0.000-1.493 s
// item 10 |==========================#######                           | 0.000-1.283 s
// item 11 |================================###########                 | 0.000-1.661 s
// item 12 |================================#######                     | 0.000-1.493 s
// item 13 |======================================###########           | 0.000-1.908 s
// item 14 |======================================######                | 0.000-1.701 s
// item 15 |==========================================#############     | 0.000-2.117 s
// item 16 |===========================================######           | 0.000-1.908 s
// item 17 |================================================#########   | 0.000-2.203 s
// item 18 |================================================########    | 0.000-2.166 s
// item 19 |======================================================######| 0.000-2.347 s
// holds:  20 results (20), and the one of item 7 is right
// holds:  5 fetches at once (5)
// holds:  3 processed at once (3)
