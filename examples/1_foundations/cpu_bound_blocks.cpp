// Foundations: coroutines do not make computing parallel.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/1_foundations/cpu_bound_blocks.cpp -o cpu && ./cpu
//
// What it teaches: coroutines take turns on one thread. While one of them computes, no other runs,
// so that gather() saves nothing: for work on several cores there are executors.
// Look at: in turn or under gather(), the same CPU time and the same wall time, and never more
// than one core. --quick computes a tenth of it.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <string>
#include <string_view>
#include <vector>

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// CPU work of a fixed size: tries to divide each number by all up to its root.
int count_primes(int below) {
    int primes = 0;
    for (int n = 2; n < below; ++n) {
        bool prime = true;
        for (int d = 2; d * d <= n && prime; ++d) prime = n % d != 0;
        primes += prime ? 1 : 0;
    }
    return primes;
}

asyncio::coro<int> work(int below) { co_return count_primes(below); }

struct times { // in seconds; the machine may be busy, so that the best round counts
    double wall = 1e9;
    double cpu = 1e9;
};
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }

asyncio::coro<int> async_main(int below) {
    times in_turn, gathered;
    bool same = true;
    for (int round = 1; round <= 3; ++round) {
        double wall = seconds(), cpu = cpu_seconds();
        const int first = co_await work(below);
        const int second = co_await work(below);
        in_turn.wall = std::min(in_turn.wall, seconds() - wall);
        in_turn.cpu = std::min(in_turn.cpu, cpu_seconds() - cpu);

        wall = seconds(), cpu = cpu_seconds();
        const auto both = co_await asyncio::gather(work(below), work(below));
        gathered.wall = std::min(gathered.wall, seconds() - wall);
        gathered.cpu = std::min(gathered.cpu, cpu_seconds() - cpu);

        same = same && both[0] == first && both[1] == second && first == second;
        say("round " + std::to_string(round) + ": 4 x " + std::to_string(first) + " primes");
    }
    say("in turn: " + num(in_turn.wall) + " s, CPU " + num(in_turn.cpu) + " s");
    say("gather:  " + num(gathered.wall) + " s, CPU " + num(gathered.cpu) + " s");

    // Two cores would halve the wall time, and keep two CPUs busy meanwhile.
    const double cpu_ratio = gathered.cpu / in_turn.cpu, wall_ratio = gathered.wall / in_turn.wall;
    const bool busy = in_turn.wall > 1.2 * in_turn.cpu; // by others; then wall times say little
    claim(same, "all four computations agree");
    claim(cpu_ratio > 0.75 && cpu_ratio < 1.33, "the CPU time is the same: x " + num(cpu_ratio));
    claim(wall_ratio > 0.75 || busy, "the wall time is no shorter: x " + num(wall_ratio));
    claim(gathered.cpu < 1.5 * gathered.wall, "never more than one core at work");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    int below = 2'000'000;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") below /= 5;
        else {
            std::fputs("Coroutines do not make computing parallel.\n"
                       "usage: cpu [--quick]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(below));
}
// Output:
//  2.57 s  round 1: 4 x 148933 primes
//  4.74 s  round 2: 4 x 148933 primes
//  6.44 s  round 3: 4 x 148933 primes
//  6.44 s  in turn: 0.80 s, CPU 0.55 s
//  6.44 s  gather:  0.90 s, CPU 0.55 s
// holds:  all four computations agree
// holds:  the CPU time is the same: x 1.01
// holds:  the wall time is no shorter: x 1.13
// holds:  never more than one core at work
