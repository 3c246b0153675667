// CPU-bound work: four jobs on worker processes while the loop goes on.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/4_cpu_bound/run_in_executor.cpp -o jobs && ./jobs
//
// What it teaches: a coroutine that computes stops everything else on its loop. run_in_executor()
// hands the computation to a worker; the coroutine awaits the result, and meanwhile others go on.
// Here a ticker shows whether the loop is alive: it wants to tick every 10 ms.
// Look at: the two timelines (# is a job on a worker), and the longest gap between two ticks.
// --quick takes smaller jobs; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <thread>
#include <vector>
using namespace std::chrono_literals;

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

int count_primes(int below) { // the job: a fixed amount of work for one core
    int primes = 0;
    for (int n = 2; n < below; ++n) {
        bool prime = true;
        for (int d = 2; d * d <= n && prime; ++d) prime = n % d != 0;
        primes += prime ? 1 : 0;
    }
    return primes;
}

int size_of_job(double wanted) { // which `below` takes so many seconds of a core
    int below = 1000;
    for (double took = 0; took < wanted; below += below / 8) {
        const double began = cpu_seconds();
        if (count_primes(below) == 0) throw std::logic_error("there are primes below 1000");
        took = cpu_seconds() - began;
    }
    return below;
}

constexpr int jobs = 4;

asyncio::coro<int> on_the_loop(int number, int below) {
    asyncio::current_task().set_name("job " + std::to_string(number)); // for the timeline
    co_return count_primes(below);
}

asyncio::coro<int> on_a_worker(asyncio::executor& pool, int number, int below) {
    asyncio::current_task().set_name("job " + std::to_string(number));
    co_return co_await asyncio::run_in_executor(pool, count_primes, below);
}

double longest_gap = 0; // between two ticks, in seconds
asyncio::coro<> tick() {
    for (double last = seconds();; last = seconds()) {
        co_await asyncio::sleep(10ms);
        longest_gap = std::max(longest_gap, seconds() - last);
    }
}

struct run {
    double took = 1e9, gap = 1e9; // the shortest of all rounds
};

// Awaits all jobs beside a ticker, and notes how that went.
asyncio::coro<> measure(run& note, std::vector<asyncio::coro<int>> work, std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());
    longest_gap = 0;
    auto ticker = asyncio::create_task(tick(), {.name = "ticker"});
    const double began = seconds();
    const std::vector<int> primes = co_await asyncio::gather(std::move(work));
    const bool first = note.took == 1e9;
    note.took = std::min(note.took, seconds() - began);
    co_await asyncio::sleep(20ms); // the ticker notices for how long it could not tick
    note.gap = std::min(note.gap, longest_gap);
    ticker.cancel();
    co_await asyncio::wait(ticker);
    if (primes != std::vector<int>(jobs, primes[0])) throw std::runtime_error("a wrong result");

    if (first) trace.print_timeline(std::cout);
    if (trace_file.empty()) co_return;
    std::ofstream file(trace_file);
    trace.write_chrome_trace(file);
    if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
}

// The same jobs without any executor: what the machine can give. Returns all primes found.
int on_bare_threads(int workers, int below) {
    std::atomic<int> primes = 0;
    std::vector<std::thread> threads;
    for (int first = 0; first < workers; ++first)
        threads.emplace_back([&primes, first, workers, below] {
            for (int i = first; i < jobs; i += workers) primes += count_primes(below);
        });
    for (std::thread& thread : threads) thread.join();
    return primes;
}

asyncio::coro<int> async_main(bool quick, std::string trace_file) {
    const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    const int workers = std::min(jobs, cores), below = size_of_job(quick ? 0.1 : 0.25);
    const double share = quick ? 0.7 : 0.9; // of what the machine gives
    asyncio::process_pool_executor pool(workers);
    const int expected = co_await asyncio::run_in_executor(pool, count_primes, below);

    // All take turns, and the best of some rounds counts: whoever else uses the machine can only
    // make a run slower. It is busy when bare threads do not get the cores that they could use.
    run loop, executor;
    double bare = 1e9, cpu = 0, wall = 0;
    bool good = false, busy = false;
    for (int round = 1; round <= 3 || (round <= 15 && !good && !busy); ++round) {
        std::vector<asyncio::coro<int>> here, there;
        for (int i = 1; i <= jobs; ++i) {
            here.push_back(on_the_loop(i, below));
            there.push_back(on_a_worker(pool, i, below));
        }
        co_await measure(loop, std::move(here), "");
        co_await measure(executor, std::move(there), trace_file);
        const double began = seconds(), cpu_began = cpu_seconds();
        if (on_bare_threads(workers, below) != jobs * expected)
            throw std::runtime_error("a wrong result");
        cpu += cpu_seconds() - cpu_began;
        wall += seconds() - began;
        bare = std::min(bare, seconds() - began);
        busy = cpu / wall < 0.9 * workers;
        good = executor.gap < loop.took / jobs / 4 && bare >= share * executor.took;
        say("round " + std::to_string(round) + ": on the loop " + figure(loop.took) +
            " s, on workers " + figure(executor.took) + " s");
    }

    say("bare threads: " + figure(loop.took / bare) + "x, on " + figure(cpu / wall) + " cores" +
        (busy ? " (machine busy)" : ""));
    const double job = loop.took / jobs;
    claim(loop.gap >= job, "on the loop, no tick for " + figure(loop.gap) + " s (a job takes " +
                               figure(job) + " s)");
    claim(executor.gap < job / 4,
          "beside workers, no gap longer than " + figure(executor.gap) + " s (at most " +
              figure(job / 4) + " s)",
          busy);
    claim(bare >= share * executor.took,
          std::to_string(workers) + " workers: " + figure(loop.took / executor.took) +
              "x (at least " + figure(share * loop.took / bare) + "x)",
          busy);
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
            std::fputs("Four jobs on worker processes while the loop goes on.\n"
                       "usage: jobs [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
