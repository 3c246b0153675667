// Advanced patterns: what a limit does to a call that takes 5 s.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/timeout_discovery.cpp -o limits && ./limits
//
// What it teaches: a limit that is long enough changes nothing; one that is too short costs the
// value, but you know it after the limit instead of after the call.
// Look at: what each of the three gives, and when. --virtual skips the waiting.
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

int ended = 0; // calls that came to their end

asyncio::coro<std::string> slow_call() {
    co_await asyncio::sleep(5s); // stands for a request over the network
    ++ended;
    co_return "data";
}

struct result {
    std::string value;
    double took;
};

asyncio::coro<result> call_within(std::optional<asyncio::duration> limit) {
    const double began = seconds();
    std::string value = "timeout";
    try {
        value = co_await asyncio::wait_for(slow_call(), limit); // no limit: waits for ever
    } catch (const asyncio::timeout_error&) {
        // The value stays "timeout".
    }
    say(value);
    co_return result{value, seconds() - began};
}

asyncio::coro<int> async_main() {
    say("no limit:");
    const result without = co_await call_within(std::nullopt);
    say("a limit of 10 s:");
    const result generous = co_await call_within(10s);
    say("a limit of 2 s:");
    const result strict = co_await call_within(2s);

    claim(without.value == "data" && without.took >= 5 && without.took < 8,
          "no limit: " + without.value + " after " + num(without.took) + " s (about 5 s)");
    claim(generous.value == "data" && generous.took >= 5 && generous.took < 8,
          "10 s: " + generous.value + " after " + num(generous.took) + " s (about 5 s)");
    claim(strict.value == "timeout" && strict.took >= 2 && strict.took < 4,
          "2 s: " + strict.value + " after " + num(strict.took) + " s (about 2 s)");
    claim(ended == 2, std::to_string(ended) + " of 3 calls came to their end");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("What a limit does to a call that takes 5 s.\n"
                       "usage: limits [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  0.00 s  no limit:
//  5.00 s  data
//  5.00 s  a limit of 10 s:
// 10.00 s  data
// 10.00 s  a limit of 2 s:
// 12.00 s  timeout
// holds:  no limit: data after 5.00 s (about 5 s)
// holds:  10 s: data after 5.00 s (about 5 s)
// holds:  2 s: timeout after 2.00 s (about 2 s)
// holds:  2 of 3 calls came to their end
