// Advanced patterns: when the answer is late, use another one.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/timeout_fallback.cpp -o fallback && ./fallback
//
// What it teaches: wait_for(work, limit) is the short form of a timeout around one call. Whoever
// catches its timeout_error decides: give a fallback value, or let the error go on.
// Look at: the second call falls back at the limit of 3 s; the third has no fallback and fails.
// --virtual skips the waiting.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

asyncio::coro<std::string> fetch_profile(asyncio::duration latency) {
    co_await asyncio::sleep(latency); // stands for a request over the network
    co_return "Alice's profile";
}

// Without a fallback the timeout_error goes on to the caller.
asyncio::coro<std::string> profile_within_3s(asyncio::duration latency,
                                             std::optional<std::string> fallback) {
    try {
        co_return co_await asyncio::wait_for(fetch_profile(latency), 3s);
    } catch (const asyncio::timeout_error&) {
        if (!fallback) throw;
        say("too late: the fallback stands in");
    } // in a catch C++ has no co_await; whoever wants to ask another source does it from here on
    co_return *fallback;
}

asyncio::coro<int> async_main() {
    const std::string in_time = co_await profile_within_3s(1s, "a guest's profile");
    const double first = seconds();
    say("the call of 1 s gave: " + in_time);

    const std::string late = co_await profile_within_3s(10s, "a guest's profile");
    const double second = seconds() - first;
    say("the call of 10 s gave: " + late);

    std::string without = "a value";
    try {
        co_await profile_within_3s(10s, std::nullopt);
    } catch (const asyncio::timeout_error&) {
        without = "timeout_error";
    }
    const double third = seconds() - first - second;
    say("the call of 10 s without a fallback gave: " + without);

    claim(in_time == "Alice's profile" && first >= 1 && first < 3,
          "in time: the value itself, after " + num(first) + " s (about 1 s)");
    claim(late == "a guest's profile" && second >= 3 && second < 5,
          "late: the fallback, after " + num(second) + " s (about 3 s, not 10 s)");
    claim(without == "timeout_error" && third >= 3 && third < 5,
          "late and no fallback: the error, after " + num(third) + " s (about 3 s, not 10 s)");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("When the answer is late, use another one.\n"
                       "usage: fallback [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  1.00 s  the call of 1 s gave: Alice's profile
//  4.00 s  too late: the fallback stands in
//  4.00 s  the call of 10 s gave: a guest's profile
//  7.00 s  the call of 10 s without a fallback gave: timeout_error
// holds:  in time: the value itself, after 1.00 s (about 1 s)
// holds:  late: the fallback, after 3.00 s (about 3 s, not 10 s)
// holds:  late and no fallback: the error, after 3.00 s (about 3 s, not 10 s)
