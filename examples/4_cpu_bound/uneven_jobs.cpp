// CPU-bound work: ten short jobs and a long one, and why the long one must not come last.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/4_cpu_bound/uneven_jobs.cpp -o uneven && ./uneven
//
// What it teaches: a free worker takes the next job in the order of submission. When the longest
// job comes last, all other workers are done and look on. Submitted first, it runs while the
// others share the short ones, and nobody can be faster: neither than the longest job, nor than
// all the work divided by the workers.
// Look at: the timelines (= waits for a worker, # runs on one), and the computed times: a little
// simulation of a pool says beforehand how long it takes. --quick takes smaller jobs; --trace FILE
// is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <numeric>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

double seconds() { return std::chrono::duration<double>(asyncio::elapsed()).count(); }
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string figure(double value) { // with two decimals
    char text[32];
    std::snprintf(text, sizeof text, "%.2f", value);
    return text;
}

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text, bool busy = false) {
    std::printf("%s %s\n", holds ? "holds: " : busy ? "BUSY:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1; // a machine without a core to spare proves nothing
}

int count_primes(int below) { // one unit of work
    int primes = 0;
    for (int n = 2; n < below; ++n) {
        bool prime = true;
        for (int d = 2; d * d <= n && prime; ++d) prime = n % d != 0;
        primes += prime ? 1 : 0;
    }
    return primes;
}

int work(int units, int below) { // a job
    int primes = 0;
    for (int i = 0; i < units; ++i) primes += count_primes(below);
    return primes;
}

const std::vector<int> long_last = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 10};
const std::vector<int> long_first = {10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1};
constexpr int all_units = 20;

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

asyncio::coro<int> on_a_worker(asyncio::executor& pool, int units, int below) {
    asyncio::current_task().set_name("job of " + std::to_string(units)); // for the timeline
    co_return co_await asyncio::run_in_executor(pool, work, units, below);
}

struct setting {
    asyncio::executor& pool;
    int below, expected; // the size of a unit, and its result
};

asyncio::coro<double> timed(setting with, std::vector<int> jobs) {
    const double began = seconds();
    std::vector<asyncio::coro<int>> all;
    for (const int units : jobs) all.push_back(on_a_worker(with.pool, units, with.below));
    const std::vector<int> primes = co_await asyncio::gather(std::move(all));
    const double took = seconds() - began;
    if (std::accumulate(primes.begin(), primes.end(), 0) != all_units * with.expected)
        throw std::runtime_error("a wrong result");
    co_return took;
}

// The same work unit by unit, without any executor: what the machine can give.
double timed_on_bare_threads(int workers, setting with) {
    const double began = seconds();
    std::atomic<int> primes = 0, next = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < workers; ++i)
        threads.emplace_back([&] {
            while (next++ < all_units) primes += work(1, with.below);
        });
    for (std::thread& thread : threads) thread.join(); // blocks the loop; here nobody minds
    if (primes != all_units * with.expected) throw std::runtime_error("a wrong result");
    return seconds() - began;
}

asyncio::coro<> compare(int workers, int below, double tolerance) {
    asyncio::process_pool_executor pool(workers);
    const setting with{pool, below, count_primes(below)};
    co_await timed(with, long_first); // starts the workers

    // All take turns, and the best of some rounds counts: whoever else uses the machine can only
    // make a run slower. It is busy when bare threads do not get the cores that they could use.
    const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    double unit = 1e9, bare = 1e9, first = 1e9, last = 1e9, cpu = 0, wall = 0;
    double best_first = 0, best_last = 0; // computed
    bool good_first = false, good_last = false, busy = false;
    for (int round = 1; round <= 3 || (round <= 15 && !(good_first && good_last) && !busy);
         ++round) {
        unit = std::min(unit, timed_on_bare_threads(1, with) / all_units);
        cpu -= cpu_seconds();
        const double took = timed_on_bare_threads(workers, with);
        cpu += cpu_seconds();
        wall += took;
        bare = std::min(bare, took);
        busy = cpu / wall < 0.9 * std::min(workers, cores);
        last = std::min(last, co_await timed(with, long_last));
        first = std::min(first, co_await timed(with, long_first));
        best_last = computed(long_last, workers, all_units * unit / bare);
        best_first = computed(long_first, workers, all_units * unit / bare);
        good_last = last <= tolerance * best_last * unit && tolerance * last >= best_last * unit;
        good_first = first <= tolerance * best_first * unit;
    }
    say(std::to_string(workers) + " workers; bare threads: " + figure(all_units * unit / bare) +
        "x, on " + figure(cpu / wall) + " cores" + (busy ? " (machine busy)" : ""));
    claim(good_last,
          "longest last: " + figure(last / unit) +
              " units of time (computed: " + figure(best_last) + ")",
          busy);
    claim(good_first,
          "longest first: " + figure(first / unit) + " (computed: " + figure(best_first) + ")",
          busy);
}

// Draws where each job ran.
asyncio::coro<> show(setting with, std::vector<int> jobs, std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());
    co_await timed(with, jobs);
    trace.print_timeline(std::cout);
    if (trace_file.empty()) co_return;
    std::ofstream file(trace_file);
    trace.write_chrome_trace(file);
    if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
}

asyncio::coro<int> async_main(bool quick, std::string trace_file) {
    int below = 1000; // so large is a unit that takes as long as wanted
    for (double took = 0; took < (quick ? 0.005 : 0.04); below += below / 8) {
        const double began = cpu_seconds();
        if (count_primes(below) == 0) throw std::logic_error("there are primes below 1000");
        took = cpu_seconds() - began;
    }
    {
        asyncio::process_pool_executor pool(2);
        const setting with{pool, below, count_primes(below)};
        co_await timed(with, long_first); // starts the workers
        say("longest last, 2 workers:");
        co_await show(with, long_last, "");
        say("longest first, 2 workers:");
        co_await show(with, long_first, trace_file);
    }
    const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    const std::set<int> counts = {2, 4, cores};
    for (const int workers : counts) co_await compare(workers, below, quick ? 1.3 : 1.1);
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
            std::fputs("Ten short jobs and a long one, and why the long one must not come last.\n"
                       "usage: uneven [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
