// Advanced patterns: a timeout limits how long a piece of work may take.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/timeout_basic.cpp -o basic && ./basic
//
// What it teaches: with(timeout(5s), body) is Python's `async with asyncio.timeout(5)`. The body is
// a lambda, as C++ has no such block; what it returns is awaited. One that is not done in time is
// cancelled where it waits, and timeout_error is thrown.
// Look at: the slow call starts but never ends; the fast one gives its value as if there were no
// limit. --virtual skips the waiting.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

std::vector<std::string> ended;

asyncio::coro<std::string> call(std::string name, asyncio::duration latency) {
    say("the " + name + " call starts");
    co_await asyncio::sleep(latency); // stands for a request over the network
    say("the " + name + " call ends");
    ended.push_back(name);
    co_return name + " data";
}

asyncio::coro<int> async_main() {
    std::string slow = "nothing";
    try {
        slow = co_await asyncio::with(asyncio::timeout(5s), [] { return call("slow", 10s); });
    } catch (const asyncio::timeout_error&) {
        say("timeout_error: the slow call took too long");
        slow = "timeout";
    }
    const double gave_up = seconds();

    const std::string fast =
        co_await asyncio::with(asyncio::timeout(5s), [] { return call("fast", 1s); });
    const double took = seconds() - gave_up;
    say("the fast call gave: " + fast);

    claim(slow == "timeout" && gave_up >= 5 && gave_up < 7,
          "the slow call: " + slow + " after " + num(gave_up) + " s (about 5 s, not 10 s)");
    claim(fast == "fast data" && took >= 1 && took < 3,
          "the fast call: " + fast + " after " + num(took) + " s (about 1 s)");
    claim(ended == std::vector<std::string>{"fast"}, "the slow call was cancelled: it never ended");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("A timeout limits how long a piece of work may take.\n"
                       "usage: basic [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  0.00 s  the slow call starts
//  5.00 s  timeout_error: the slow call took too long
//  5.00 s  the fast call starts
//  6.00 s  the fast call ends
//  6.00 s  the fast call gave: fast data
// holds:  the slow call: timeout after 5.00 s (about 5 s, not 10 s)
// holds:  the fast call: fast data after 1.00 s (about 1 s)
// holds:  the slow call was cancelled: it never ended
