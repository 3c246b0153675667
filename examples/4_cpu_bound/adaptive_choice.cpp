// CPU-bound work: a program that measures a job once and then chooses where many of them run.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/4_cpu_bound/adaptive_choice.cpp -o adaptive && ./adaptive
//
// What it teaches: three questions decide where a job belongs. Is it over before a worker could
// even begin? Then call it in the coroutine. Does it use hardly any processor time? Then it waits,
// and many threads can wait together. Else it computes: one process for each core.
// Look at: what was measured and chosen, and then the proof: many of the jobs run in all three
// ways. --quick takes smaller jobs.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <string>
#include <string_view>
#include <thread>
#include <vector>
using namespace std::chrono_literals;

double seconds() { return std::chrono::duration<double>(asyncio::elapsed()).count(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

int check_digit(int number) { // over in a moment
    int sum = 0;
    for (int factor = 2; number > 0; number /= 10, ++factor) sum += number % 10 * factor;
    return sum % 11;
}

int ask_device(int milliseconds) { // blocks its thread; stands for a driver without async calls
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    return milliseconds;
}

int count_primes(int below) { // computes
    int primes = 0;
    for (int n = 2; n < below; ++n) {
        bool prime = true;
        for (int d = 2; d * d <= n && prime; ++d) prime = n % d != 0;
        primes += prime ? 1 : 0;
    }
    return primes;
}

enum class kind { check_digit, ask_device, count_primes };

int run_job(kind which, int argument) {
    switch (which) {
    case kind::check_digit:
        return check_digit(argument);
    case kind::ask_device:
        return ask_device(argument);
    default:
        return count_primes(argument);
    }
}

struct cost {
    double wall = 1e9, cpu = 1e9; // seconds, and seconds of a core
    int result = 0;
};

// Runs a job in a worker process, where nothing else uses processor time. The shortest of three
// calls counts: others on the machine may get in between.
cost measure(kind which, int argument) {
    cost least;
    for (int i = 0; i < 3; ++i) {
        const auto began = std::chrono::steady_clock::now();
        const std::clock_t cpu_began = std::clock();
        least.result = run_job(which, argument);
        const double cpu = static_cast<double>(std::clock() - cpu_began) / CLOCKS_PER_SEC;
        const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - began;
        least.wall = std::min(least.wall, wall.count());
        least.cpu = std::min(least.cpu, cpu);
    }
    return least;
}

enum way { coroutines, threads, processes };
const char* const names[] = {"coroutines", "threads", "processes"};

way choose(const cost& one, double hand_over) {
    if (one.wall < hand_over) return coroutines; // a worker would only begin by then
    if (one.cpu < one.wall / 10) return threads; // it waits
    return processes;                            // it computes
}

asyncio::coro<int> on_the_loop(kind which, int argument) { co_return run_job(which, argument); }

struct batch { // many jobs of one kind
    const char* name;
    kind which;
    int argument, count;
    double best[3] = {1e9, 1e9, 1e9}; // seconds, in each way
};

asyncio::coro<> run_batch(batch& b, way how, asyncio::executor& pool, int expected) {
    const double began = seconds();
    std::vector<int> results;
    if (how == coroutines) {
        std::vector<asyncio::coro<int>> jobs;
        for (int i = 0; i < b.count; ++i) jobs.push_back(on_the_loop(b.which, b.argument));
        results = co_await asyncio::gather(std::move(jobs));
    } else {
        std::vector<asyncio::future<int>> jobs;
        for (int i = 0; i < b.count; ++i)
            jobs.push_back(asyncio::run_in_executor(pool, run_job, b.which, b.argument));
        results = co_await asyncio::gather(std::move(jobs));
    }
    b.best[how] = std::min(b.best[how], seconds() - began);
    for (const int result : results)
        if (result != expected) throw std::runtime_error("a wrong result");
}

asyncio::coro<int> async_main(bool quick) {
    asyncio::thread_pool_executor thread_pool(16);
    asyncio::process_pool_executor process_pool; // as many workers as cores
    double hand_over = 1e9;                      // how long an empty job takes there and back
    for (int i = 0; i < 20; ++i) {
        const double began = seconds();
        co_await asyncio::run_in_executor(process_pool, check_digit, 0);
        hand_over = std::min(hand_over, seconds() - began);
    }
    std::printf("hand-over to a worker and back: %.3f ms\n", 1e3 * hand_over);
    int below = 1000;
    for (double took = 0; took < (quick ? 0.005 : 0.02); below += below / 8)
        took = measure(kind::count_primes, below).cpu;

    batch batches[] = {{"check digit", kind::check_digit, 123456789, 300},
                       {"ask device", kind::ask_device, quick ? 5 : 20, 16},
                       {"count primes", kind::count_primes, below, 16}};
    for (batch& b : batches) {
        const cost one =
            co_await asyncio::run_in_executor(process_pool, measure, b.which, b.argument);
        const way chosen = choose(one, hand_over);
        double least = 1e9;
        for (int round = 1; round <= 3 || (round <= 15 && b.best[chosen] > 1.2 * least); ++round) {
            co_await run_batch(b, coroutines, thread_pool, one.result);
            co_await run_batch(b, threads, thread_pool, one.result);
            co_await run_batch(b, processes, process_pool, one.result);
            least = *std::min_element(b.best, b.best + 3);
        }
        std::printf("%s %.4f %.4f %d x: %.2f %.2f %.2f\n", b.name, one.wall * 1e3, one.cpu * 1e3,
                    b.count, 1e3 * b.best[0], 1e3 * b.best[1], 1e3 * b.best[2]);
        claim(b.best[chosen] <= 1.2 * least, names[chosen]);
    }
    co_return broken == 0 ? 0 : 1;
}
int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    return asyncio::run_main(async_main(argc > 1));
    (void)argv;
}
