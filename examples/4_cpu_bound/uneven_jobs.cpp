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
double computed(const std::vector<int>& jobs, std::size_t workers, double cores) {
    std::vector<double> running; // what is left of each
    double now = 0;
    for (std::size_t next = 0; next < jobs.size() || !running.empty();) {
        while (running.size() < workers && next < jobs.size()) running.push_back(jobs[next++]);
        const double step = *std::min_element(running.begin(), running.end());
        now += step * std::max(1.0, static_cast<double>(running.size()) / cores);
        for (double& left : running) left -= step;
        std::erase_if(running, [](double left) { return left < 1e-6; });
    }
    return now;
}

asyncio::coro<int> on_a_worker(asyncio::executor& pool, int units, int below) {
    asyncio::current_task().set_name("job of " + std::to_string(units)); // for the timeline
    co_return co_await asyncio::run_in_executor(pool, work, units, below);
}

asyncio::coro<double> timed(asyncio::executor& pool, const std::vector<int>& jobs, int below, int expected) {
    const double began = seconds();
    std::vector<asyncio::coro<int>> all;
    for (const int units : jobs) all.push_back(on_a_worker(pool, units, below));
    const std::vector<int> primes = co_await asyncio::gather(std::move(all));
    const double took = seconds() - began;
    if (std::accumulate(primes.begin(), primes.end(), 0) != all_units * expected) throw std::runtime_error("a wrong result");
    co_return took;
}

// The same work in equal parts without any executor: what the machine can give.
double timed_on_bare_threads(int workers, int below, int expected) {
    const double began = seconds();
    std::atomic<int> primes = 0, next = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < workers; ++i) threads.emplace_back([&] { while (next++ < all_units) primes += work(1, below); });
    for (std::thread& thread : threads) thread.join();
    if (primes != all_units * expected) throw std::runtime_error("a wrong result");
    return seconds() - began;
}
