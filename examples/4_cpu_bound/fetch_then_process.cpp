// CPU-bound work: fetch everything, then process it; or process each answer as it arrives.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/4_cpu_bound/fetch_then_process.cpp -o overlap && ./overlap
//
// What it teaches: waiting needs no core, and computing needs nothing else, so that both can
// happen at the same time. Who fetches all four sources first lets the workers idle until the
// slowest has answered. One coroutine per source, which fetches and then processes, does not.
// Look at: the two timelines (= waits, # is a job on a worker) and where they end.
// --quick takes less of everything; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <stdexcept>
#include <string>
#include <string_view>
#include <thread>
#include <vector>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, bool busy, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : busy ? "BUSY:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1; // a machine without a core to spare proves nothing
}

int count_primes(int below) { // the CPU work: a fixed amount for one core
    int primes = 0;
    for (int n = 2; n < below; ++n) {
        int d = 2;
        while (d * d <= n && n % d != 0) ++d;
        primes += d * d > n ? 1 : 0;
    }
    return primes;
}

struct source {
    std::string name;
    asyncio::duration latency;
    int answer;
};
using sources = std::vector<source>;

asyncio::coro<int> fetch(source from) {
    asyncio::current_task().set_name(from.name); // for the timeline
    co_await asyncio::sleep(from.latency);       // stands for a request over the network
    co_return from.answer;
}

asyncio::coro<int> process(asyncio::executor& pool, std::string name, int answer) {
    asyncio::current_task().set_name(name);
    co_return co_await asyncio::run_in_executor(pool, count_primes, answer);
}

double fetched = 0; // when the staged way had all answers

asyncio::coro<std::vector<int>> staged(asyncio::executor& pool, sources all) {
    std::vector<asyncio::coro<int>> fetches, jobs;
    for (const source& s : all) fetches.push_back(fetch(s));
    const std::vector<int> answers = co_await asyncio::gather(std::move(fetches));
    fetched = seconds();
    for (std::size_t i = 0; i < all.size(); ++i)
        jobs.push_back(process(pool, all[i].name, answers[i]));
    co_return co_await asyncio::gather(std::move(jobs));
}

asyncio::coro<int> fetch_and_process(asyncio::executor& pool, source from) {
    const int answer = co_await fetch(from);
    co_return co_await process(pool, from.name, answer);
}

asyncio::coro<std::vector<int>> overlapped(asyncio::executor& pool, sources all) {
    std::vector<asyncio::task<int>> running;
    const auto all_sources = [&](asyncio::task_group& group) { // all end before the pool does
        for (const source& s : all)
            running.push_back(group.create_task(fetch_and_process(pool, s)));
    };
    co_await asyncio::with(asyncio::task_group(), all_sources);
    std::vector<int> primes;
    for (const auto& task : running) primes.push_back(task.result());
    co_return primes;
}

asyncio::coro<double> timed(asyncio::coro<std::vector<int>> work, int expected, bool show,
                            std::string trace_file = "") {
    asyncio::tracer trace(asyncio::get_running_loop());
    const double began = seconds();
    const std::vector<int> primes = co_await std::move(work);
    const double took = seconds() - began;
    if (primes != std::vector<int>(4, expected)) throw std::runtime_error("a wrong result");
    if (show) trace.print_timeline(std::cout);
    if (trace_file.empty()) co_return took;
    std::ofstream file(trace_file);
    trace.write_chrome_trace(file);
    if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    co_return took;
}

asyncio::coro<int> async_main(bool quick, std::string trace_file) {
    int below = 1000, expected = 0; // grows until a job takes as much time of a core as we want
    for (double took = 0; took < (quick ? 0.06 : 0.5);) {
        const double began = cpu_seconds();
        expected = count_primes(below += below / 8);
        took = cpu_seconds() - began;
    }
    const asyncio::duration t = quick ? 30ms : 250ms;
    const sources all = {{"A", t, below}, {"B", 2 * t, below}, {"C", 3 * t, below},
                         {"D", 4 * t, below}};
    const int workers = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 2);
    asyncio::thread_pool_executor pool(workers);

    // Both ways take turns, and the best of some rounds counts: whoever else uses the machine can
    // only make a run slower. It is busy when the workers do not get the cores that they could use.
    double slow = 1e9, fast = 1e9, cpu = 0, wall = 0;
    bool good = false, busy = false;
    for (int round = 1; round <= 3 || (round <= 15 && !good && !busy); ++round) {
        const double cpu_began = cpu_seconds();
        slow = std::min(slow, co_await timed(staged(pool, all), expected, round == 1));
        cpu += cpu_seconds() - cpu_began;
        wall += seconds() - fetched;
        fast = std::min(fast, co_await timed(overlapped(pool, all), expected, round == 1,
                                             trace_file));
        busy = cpu / wall < 0.9 * workers;
        good = slow >= 1.15 * fast;
        say("staged " + num(slow) + " s, overlapped " + num(fast) + " s");
    }
    say(std::to_string(workers) + " workers got " + num(cpu / wall) + " cores" +
        (busy ? "; machine busy" : ""));
    claim(good, busy, "overlapping is " + num(slow / fast) + "x as fast (at least 1.15x)");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    bool quick = false;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") quick = true;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("Fetch everything, then process it; or process each answer as it arrives.\n"
                       "usage: overlap [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
// Output:
// time   |0                                                    2.056 s|
// Task-1 |============================================================| 0.000-2.056 s
// A      |========                                                    | 0.000-0.251 s
// B      |===============                                             | 0.000-0.500 s
// C      |======================                                      | 0.000-0.750 s
// D      |==============================                              | 0.000-1.000 s
// A      |                             ################               | 1.000-1.533 s
// B      |                             ################               | 1.000-1.537 s
// C      |                             ===============################| 1.000-2.052 s
// D      |                             ===============################| 1.000-2.056 s
// time   |0                                                    1.554 s|
// Task-1 |============================================================| 0.000-1.554 s
// A      |=========######################                             | 0.000-0.778 s
// B      |===================#####################                    | 0.000-1.025 s
// C      |=============================######################         | 0.000-1.298 s
// D      |=======================================#####################| 0.000-1.554 s
//  7.17 s  staged 2.05 s, overlapped 1.55 s
// 10.84 s  staged 2.05 s, overlapped 1.55 s
// 14.56 s  staged 2.05 s, overlapped 1.55 s
// 14.56 s  2 workers got 1.95 cores
// holds:  overlapping is 1.32x as fast (at least 1.15x)
