// Advanced patterns: whoever blocks the thread stops everybody.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/blocking_the_loop.cpp -o blocking && ./blocking
//
// What it teaches: all tasks share one thread. A task that sleeps with co_await asyncio::sleep()
// lends it to the others; one that calls std::this_thread::sleep_for() keeps it, and so does every
// long computation and every call that waits inside the system.
// Look at: the first dot is due after 0.5 s. It comes after 3 s, when the blocking sleep is over.
// --quick sleeps less; the virtual clock cannot, since nothing jumps over a blocking sleep.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <string>
#include <string_view>
#include <thread>
#include <vector>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// Five dots, and when they came.
asyncio::coro<std::vector<double>> print_dots(asyncio::duration pause) {
    std::vector<double> times;
    for (int dot = 0; dot < 5; ++dot) {
        co_await asyncio::sleep(pause);
        say(".");
        times.push_back(seconds());
    }
    co_return times;
}

asyncio::coro<> block(asyncio::duration span) {
    std::this_thread::sleep_for(std::chrono::nanoseconds(span)); // no co_await: the thread sleeps
    co_return;
}

// Sleeps in one of the two ways beside the dots, and counts those that came meanwhile.
asyncio::coro<int> dots_during(std::string kind, asyncio::duration span) {
    const auto dots = asyncio::create_task(print_dots(span / 6));
    co_await asyncio::sleep(0s); // lets the dots begin
    say("the " + kind + " sleep begins");
    if (kind == "blocking") co_await block(span);
    else co_await asyncio::sleep(span);
    const double end = seconds();
    int meanwhile = 0;
    const std::vector<double> times = co_await dots;
    for (const double time : times) meanwhile += time < end ? 1 : 0;
    co_return meanwhile;
}

asyncio::coro<int> async_main(asyncio::duration span) {
    const int blocked = co_await dots_during("blocking", span);
    const int yielded = co_await dots_during("yielding", span);
    claim(blocked == 0, std::to_string(blocked) + " of 5 dots came during the blocking sleep");
    claim(yielded >= 2, std::to_string(yielded) + " of 5 dots came during the yielding sleep");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::duration span = 3s;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") span = 1.2s;
        else {
            std::fputs("Whoever blocks the thread stops everybody.\n"
                       "usage: blocking [--quick]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(span));
}
// Output:
//  0.00 s  the blocking sleep begins
//  3.01 s  .
//  3.51 s  .
//  4.01 s  .
//  4.51 s  .
//  5.01 s  .
//  5.01 s  the yielding sleep begins
//  5.51 s  .
//  6.01 s  .
//  6.51 s  .
//  7.01 s  .
//  7.52 s  .
// holds:  0 of 5 dots came during the blocking sleep
// holds:  5 of 5 dots came during the yielding sleep
