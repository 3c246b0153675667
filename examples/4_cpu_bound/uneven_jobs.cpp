// CPU-bound work: ten short jobs and a long one, and why the long one must not come last.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/4_cpu_bound/uneven_jobs.cpp -o uneven && ./uneven
//
// What it teaches: a free worker takes the next job in the order of submission. When the longest
// job comes last, all other workers are done and look on. Submitted first, it runs while the
// others share the short ones, and nobody can be faster: neither than the longest job, nor than
// all the work divided by the workers.
// Look at: the timelines (= waits for a worker, # runs on one), and the computed times: a little
// simulation of a pool says beforehand how long it takes. --quick takes smaller jobs.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

double seconds() { return asyncio::elapsed().total_seconds(); }
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, bool busy, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : busy ? "BUSY:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1; // a machine without a core to spare proves nothing
}

int work(int units, int below) { // a job: counts primes, so many times
    int primes = 0;
    for (int unit = 0; unit < units; ++unit)
        for (int n = 2; n < below; ++n) {
            int d = 2;
            while (d * d <= n && n % d != 0) ++d;
            primes += d * d > n ? 1 : 0;
        }
    return primes;
}
int below = 1000, expected = 0; // the size of a unit of work, and how many primes it finds

const std::vector<int> long_last = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 10};
const std::vector<int> long_first = {10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};

// The time that a pool takes, in units. When more workers are busy than there are cores, the
// system divides the cores among them.
double computed(const std::vector<int>& jobs, int workers, double cores) {
    std::vector<double> running; // how much of each is left
    double now = 0;
    for (auto next = jobs.begin(); next != jobs.end() || !running.empty();) {
        while (std::ssize(running) < workers && next != jobs.end()) running.push_back(*next++);
        const double step = *std::min_element(running.begin(), running.end());
        now += step * std::max(1.0, static_cast<double>(running.size()) / cores);
        for (double& left : running) left -= step;
        std::erase(running, 0.0);
    }
    return now;
}

asyncio::coro<> on_a_worker(asyncio::executor& pool, int units) {
    asyncio::current_task().set_name("job of " + std::to_string(units)); // for the timeline
    const int primes = co_await asyncio::run_in_executor(pool, work, units, below);
    if (primes != units * expected) throw std::runtime_error("a wrong result");
}

asyncio::coro<double> timed(asyncio::executor& pool, std::vector<int> jobs, bool show) {
    std::vector<asyncio::coro<>> all;
    for (const int units : jobs) all.push_back(on_a_worker(pool, units));
    asyncio::tracer trace(asyncio::get_running_loop());
    const double began = seconds();
    co_await asyncio::gather(std::move(all));
    const double ended = seconds();
    if (show) trace.print_timeline(std::cout);
    co_return ended - began;
}

// Without any executor, five units of work on each thread: what the machine can give.
double timed_on_bare_threads(int workers) {
    const double began = seconds();
    std::atomic<int> primes = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < workers; ++i) threads.emplace_back([&] { primes += work(5, below); });
    for (std::thread& thread : threads) thread.join(); // blocks the loop; here nobody minds
    if (primes != workers * 5 * expected) throw std::runtime_error("a wrong result");
    return seconds() - began;
}

asyncio::coro<> compare(int workers, int cores) {
    asyncio::process_pool_executor pool(workers);
    co_await timed(pool, long_first, false); // starts the workers

    // All take turns, and the best of some rounds counts: whoever else uses the machine can only
    // make a run slower. It is busy when bare threads do not get the cores that they could use.
    double unit = 1e9, bare = 1e9, last = 1e9, first = 1e9, cpu = 0, wall = 0; // seconds
    double last_due = 0, first_due = 0; // as computed
    bool last_good = false, good = false, busy = false;
    for (int round = 1; round <= 3 || (round <= 15 && !good && !busy); ++round) {
        const bool show = round == 1 && workers == 2;
        last = std::min(last, co_await timed(pool, long_last, show));
        first = std::min(first, co_await timed(pool, long_first, show));
        unit = std::min(unit, timed_on_bare_threads(1) / 5);
        const double cpu_began = cpu_seconds(), took = timed_on_bare_threads(workers);
        cpu += cpu_seconds() - cpu_began;
        wall += took;
        bare = std::min(bare, took);
        busy = cpu / wall < 0.9 * std::min(workers, cores);

        const double capacity = workers * 5 * unit / bare;
        last_due = unit * computed(long_last, workers, capacity);
        first_due = unit * computed(long_first, workers, capacity);
        last_good = last <= 1.1 * last_due && last >= 0.9 * last_due;
        good = last_good && first <= 1.1 * first_due;
    }
    say(std::to_string(workers) + " workers; bare threads: " + num(workers * 5 * unit / bare) +
        "x, on " + num(cpu / wall) + " cores" + (busy ? "; machine busy" : ""));
    claim(last_good, busy, "longest last: " + num(last) + " s, computed " + num(last_due));
    claim(first <= 1.1 * first_due, busy,
          "longest first: " + num(first) + " s, computed " + num(first_due));
}

asyncio::coro<int> async_main(double unit_seconds) {
    for (double took = 0; took < unit_seconds;) {
        const double began = cpu_seconds();
        expected = work(1, below += below / 8);
        took = cpu_seconds() - began;
    }
    const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    for (const int workers : std::set<int>{2, 4, cores}) co_await compare(workers, cores);
    say("the lesson: start the longest job first");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    const std::string option = argc == 2 ? argv[1] : "";
    if (argc == 1) return asyncio::run_main(async_main(0.04));
    if (option == "--quick") return asyncio::run_main(async_main(0.003));
    std::fputs("Ten short jobs and a long one, and why the long one must not come last.\n"
               "usage: uneven [--quick]\n",
               option == "--help" ? stdout : stderr);
    return option == "--help" ? 0 : 2;
}
// Output:
// time      |0                                                    0.684 s|
// Task-1    |============================================================| 0.000-0.684 s
// job of 1  |####                                                        | 0.000-0.045 s
// job of 1  |####                                                        | 0.000-0.044 s
// job of 1  |===#####                                                    | 0.000-0.090 s
// job of 1  |===#####                                                    | 0.000-0.091 s
// job of 1  |=======######                                               | 0.000-0.137 s
// job of 1  |=======#####                                                | 0.000-0.136 s
// job of 1  |===========######                                           | 0.000-0.186 s
// job of 1  |============#####                                           | 0.000-0.182 s
// job of 1  |================####                                        | 0.000-0.227 s
// job of 1  |================#####                                       | 0.000-0.232 s
// job of 10 |===================#########################################| 0.000-0.684 s
// time      |0                                                    0.451 s|
// Task-1    |============================================================| 0.000-0.451 s
// job of 10 |############################################################| 0.000-0.451 s
// job of 1  |#######                                                     | 0.000-0.045 s
// job of 1  |======######                                                | 0.000-0.090 s
// job of 1  |===========#######                                          | 0.000-0.135 s
// job of 1  |=================#######                                    | 0.000-0.179 s
// job of 1  |=======================#######                              | 0.000-0.223 s
// job of 1  |=============================#######                        | 0.000-0.268 s
// job of 1  |===================================#######                  | 0.000-0.313 s
// job of 1  |=========================================#######            | 0.000-0.358 s
// job of 1  |===============================================#######      | 0.000-0.402 s
// job of 1  |=====================================================#######| 0.000-0.446 s
//  5.54 s  2 workers; bare threads: 1.98x, on 1.96 cores
// holds:  longest last: 0.67 s, computed 0.66
// holds:  longest first: 0.44 s, computed 0.44
// 11.90 s  4 workers; bare threads: 1.98x, on 1.95 cores
// holds:  longest last: 0.65 s, computed 0.64
// holds:  longest first: 0.55 s, computed 0.58
// 11.91 s  the lesson: start the longest job first
