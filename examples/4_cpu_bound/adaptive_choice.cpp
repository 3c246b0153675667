// CPU-bound work: a program that measures a job once and then chooses where many of them run.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/4_cpu_bound/adaptive_choice.cpp -o adaptive && ./adaptive
//
// What it teaches: three questions decide where a job belongs. Is it over before a worker could
// even begin? Then call it in the coroutine. Does it use hardly any processor time? Then it waits,
// and many threads can wait together. Else it computes: one process for each core.
// Look at: what was measured and chosen, and then the proof: many of the jobs run in all three
// ways. The choice was right when no other way is clearly faster. --quick takes smaller jobs.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <stdexcept>
#include <string>
#include <thread>
#include <vector>

double seconds() { return asyncio::elapsed().total_seconds(); }
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }
std::string ms(double v) { return num(1e3 * v) + " ms"; }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, bool busy, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : busy ? "BUSY:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1; // a machine without a core to spare proves nothing
}

int check_digits(int number) { return 98 - number % 97; } // over in a moment

int ask_device(int milliseconds) { // blocks; stands for a driver that knows no coroutines
    std::this_thread::sleep_for(std::chrono::milliseconds(milliseconds));
    return milliseconds;
}

int count_primes(int below) { // computes
    int primes = 0;
    for (int n = 2; n < below; ++n) {
        int d = 2;
        while (d * d <= n && n % d != 0) ++d;
        primes += d * d > n ? 1 : 0;
    }
    return primes;
}

struct cost {
    double wall = 1e9, cpu = 1e9; // seconds, and seconds of a core
    int result = 0;
};

// Runs in a worker process. The shortest of three calls counts: others may get in between.
template <int (*job)(int)>
cost measure(int argument) {
    cost least;
    for (int i = 0; i < 3; ++i) {
        const auto began = std::chrono::steady_clock::now();
        const double cpu_began = cpu_seconds();
        least.result = job(argument);
        least.cpu = std::min(least.cpu, cpu_seconds() - cpu_began);
        const std::chrono::duration<double> wall = std::chrono::steady_clock::now() - began;
        least.wall = std::min(least.wall, wall.count());
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

struct batch { // many jobs of one kind
    std::string name;
    int (*job)(int);
    cost (*measure)(int);
    int argument, count;
};

asyncio::coro<int> one_job(const batch& b, asyncio::executor* pool) {
    if (pool == nullptr) co_return b.job(b.argument); // on the loop
    co_return co_await asyncio::run_in_executor(*pool, b.job, b.argument);
}

asyncio::coro<double> timed(const batch& b, asyncio::executor* pool, int expected) {
    const double began = seconds();
    std::vector<asyncio::coro<int>> jobs;
    for (int i = 0; i < b.count; ++i) jobs.push_back(one_job(b, pool));
    for (const int result : co_await asyncio::gather(std::move(jobs)))
        if (result != expected) throw std::runtime_error("a wrong result");
    co_return seconds() - began;
}

asyncio::coro<int> async_main(bool quick) {
    const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    asyncio::thread_pool_executor thread_pool(std::max(16, cores));
    asyncio::process_pool_executor process_pool(cores);
    const batch tiny = {"a tiny job", check_digits, measure<check_digits>, 97, 1};
    double hand_over = 1e9; // seconds, to a worker and back
    for (int i = 0; i < 20; ++i)
        hand_over = std::min(hand_over, co_await timed(tiny, &process_pool, 98));
    say("to a worker and back: " + ms(hand_over));

    int below = 1000; // grows until a job takes as much time of a core as we want
    while (measure<count_primes>(below).cpu < (quick ? 0.005 : 0.02)) below += below / 4;
    const std::vector<batch> batches = {
        {"check digits", check_digits, measure<check_digits>, 123456789, 300},
        {"ask a device", ask_device, measure<ask_device>, quick ? 5 : 20, 16},
        {"count primes", count_primes, measure<count_primes>, below, 4 * cores}};
    for (const batch& b : batches) {
        const cost one = co_await asyncio::run_in_executor(process_pool, b.measure, b.argument);
        const way chosen = choose(one, hand_over);
        say(b.name + ": " + ms(one.wall) + ", " + ms(one.cpu) + " of a core: " + names[chosen]);

        // All ways take turns, and the best of some rounds counts: whoever else uses the machine
        // can only make a run slower. It is busy when threads that compute get too few cores.
        double best[] = {1e9, 1e9, 1e9}, cpu = 0, wall = 0;
        bool good = false, busy = false;
        for (int round = 1; round <= 3 || (round <= 15 && !good && !busy); ++round) {
            asyncio::executor* const pools[] = {nullptr, &thread_pool, &process_pool};
            for (const way how : {coroutines, threads, processes}) {
                const double cpu_began = cpu_seconds();
                const double took = co_await timed(b, pools[how], one.result);
                best[how] = std::min(best[how], took);
                if (how == threads) cpu += cpu_seconds() - cpu_began, wall += took;
            }
            good = best[chosen] <= 1.1 * *std::min_element(best, best + 3);
            busy = chosen == processes && cpu / wall < 0.9 * cores;
        }
        std::string text = std::to_string(b.count) + " of them";
        for (const way how : {coroutines, threads, processes})
            text += std::string(", ") + names[how] + ' ' + ms(best[how]);
        claim(good, busy, text + (busy ? "; machine busy" : ""));
    }
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    const std::string option = argc == 2 ? argv[1] : "";
    if (argc == 1 || option == "--quick") return asyncio::run_main(async_main(option == "--quick"));
    std::fputs("Measures a job once; then it chooses where many run.\nusage: adaptive [--quick]\n",
               option == "--help" ? stdout : stderr);
    return option == "--help" ? 0 : 2;
}
// Output:
//  0.01 s  to a worker and back: 0.09 ms
//  0.25 s  check digits: 0.00 ms, 0.00 ms of a core: coroutines
// holds:  300 of them, coroutines 0.09 ms, threads 0.36 ms, processes 8.42 ms
//  0.34 s  ask a device: 20.12 ms, 0.03 ms of a core: threads
// holds:  16 of them, coroutines 322.36 ms, threads 20.52 ms, processes 162.14 ms
//  1.92 s  count primes: 20.68 ms, 20.67 ms of a core: processes
// holds:  8 of them, coroutines 163.79 ms, threads 82.05 ms, processes 82.19 ms
