// CPU-bound work: the same four jobs on coroutines, threads, isolated threads and processes.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/4_cpu_bound/executors_compared.cpp -o compare && ./compare
//
// What it teaches: coroutines share one thread, so that computing gains nothing from them. An
// executor gives each job to a worker, and every worker can use a core of its own. In C++ plain
// threads scale as well (there is no interpreter lock as in Python): isolated threads and
// processes are chosen for safety, not for speed.
// Look at: how many times faster than in turn each way is. Bare threads, without any executor,
// show what the machine can give: workers beyond its cores, or beyond the four jobs, bring nothing.
// The first jobs also wait for the start of their workers, the next ones do not.
// --quick takes smaller jobs.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
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
using results = std::vector<int>;

asyncio::coro<results> in_turn(int below) {
    results primes;
    for (int i = 0; i < jobs; ++i) primes.push_back(count_primes(below));
    co_return primes;
}

asyncio::coro<int> one_job(int below) { co_return count_primes(below); }

asyncio::coro<results> on_coroutines(int below) {
    std::vector<asyncio::coro<int>> all;
    for (int i = 0; i < jobs; ++i) all.push_back(one_job(below));
    co_return co_await asyncio::gather(std::move(all));
}

asyncio::coro<results> on_executor(asyncio::executor& pool, int below) {
    std::vector<asyncio::future<int>> all;
    for (int i = 0; i < jobs; ++i)
        all.push_back(asyncio::run_in_executor(pool, count_primes, below));
    co_return co_await asyncio::gather(std::move(all));
}

asyncio::coro<results> on_bare_threads(int workers, int below) {
    results primes(jobs);
    std::vector<std::thread> threads;
    for (int first = 0; first < workers; ++first)
        threads.emplace_back([&primes, first, workers, below] {
            for (int i = first; i < jobs; i += workers)
                primes[static_cast<std::size_t>(i)] = count_primes(below);
        });
    for (std::thread& thread : threads) thread.join(); // blocks the loop; here nobody minds
    co_return primes;
}

asyncio::coro<double> timed(asyncio::coro<results> work, int expected) {
    const double began = seconds();
    const results primes = co_await std::move(work);
    if (primes != results(jobs, expected)) throw std::runtime_error("a job counted wrong");
    co_return seconds() - began;
}

struct way {
    std::string name;
    asyncio::executor& pool;
    double first = 0, next = 0, best = 1e9; // seconds: the first tiny jobs, the next, real ones
};

asyncio::coro<> compare(int workers, int below, double share) {
    asyncio::thread_pool_executor threads(workers);
    asyncio::interpreter_pool_executor isolated(workers); // threads that share nothing
    asyncio::process_pool_executor processes(workers);
    way ways[] = {{"threads", threads}, {"isolated threads", isolated}, {"processes", processes}};
    for (way& w : ways) w.first = co_await timed(on_executor(w.pool, 10), 4);
    for (way& w : ways) w.next = co_await timed(on_executor(w.pool, 10), 4);

    // All take turns, and the best of some rounds counts: whoever else uses the machine can only
    // make a run slower. It is busy when bare threads do not get the cores that they could use.
    const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    const int expected = count_primes(below);
    double alone = 1e9, coroutines = 1e9, bare = 1e9, cpu = 0, wall = 0;
    bool good = false, busy = false;
    for (int round = 1; round <= 3 || (round <= 15 && !good && !busy); ++round) {
        alone = std::min(alone, co_await timed(in_turn(below), expected));
        coroutines = std::min(coroutines, co_await timed(on_coroutines(below), expected));
        cpu -= cpu_seconds();
        const double took = co_await timed(on_bare_threads(workers, below), expected);
        cpu += cpu_seconds();
        wall += took;
        bare = std::min(bare, took);
        busy = cpu / wall < 0.9 * std::min({workers, cores, jobs});
        good = coroutines >= share * alone;
        for (way& w : ways) {
            w.best = std::min(w.best, co_await timed(on_executor(w.pool, below), expected));
            good = good && bare >= share * w.best;
        }
    }

    say("with " + std::to_string(workers) + (workers == 1 ? " worker; " : " workers; ") +
        "bare threads: " + figure(alone / bare) + "x, on " + figure(cpu / wall) + " cores" +
        (busy ? " (machine busy)" : ""));
    claim(coroutines >= share * alone, "coroutines " + figure(alone / coroutines) + "x: no gain",
          busy);
    for (const way& w : ways)
        claim(bare >= share * w.best,
              w.name + ' ' + figure(alone / w.best) + "x (at least " +
                  figure(share * alone / bare) + "x); first tiny jobs " + figure(1e3 * w.first) +
                  " ms, next ones " + figure(1e3 * w.next) + " ms",
              busy);
}

asyncio::coro<int> async_main(bool quick) {
    const int below = size_of_job(quick ? 0.005 : 0.040);
    for (const int workers : {1, 2, 4, 8}) co_await compare(workers, below, quick ? 0.7 : 0.9);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    bool quick = false;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") quick = true;
        else {
            std::fputs("The same jobs on coroutines, threads, isolated threads and processes.\n"
                       "usage: compare [--quick]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick));
}
// Output on two cores (shortened):
