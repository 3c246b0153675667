// Advanced patterns: trying again does not help against a limit that is too short.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/retry_timeouts.cpp -o limits && ./limits
//
// What it teaches: three APIs need 3 s. With 2 s for each attempt every attempt fails, however many
// there are; retries only make the failure take longer. One limit for the whole, long enough for
// one good call, is what succeeds.
// Look at: 2 s, 5 s and 15 s for nothing, then 3 s for everything.
// --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <fstream>
#include <iostream>
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

int attempts = 0; // since the last report

asyncio::coro<std::string> call_api(std::string name) {
    asyncio::current_task().set_name(name); // for the timeline
    ++attempts;
    co_await asyncio::sleep(3s); // stands for a request over the network
    co_return name + " data";
}

asyncio::coro<std::string> call_with_retries(std::string name, int retries) {
    co_return co_await asyncio::retry(
        [&] { return call_api(name); },
        {.attempts = 1 + retries, .initial_delay = 1s, .jitter = 0, .timeout = 2s});
}

struct report {
    std::size_t succeeded;
    int attempts;
    double took;
};

asyncio::coro<report> all_with_retries(int retries) {
    const double began = seconds();
    attempts = 0;
    const auto outcomes =
        co_await asyncio::gather(asyncio::return_exceptions, call_with_retries("A", retries),
                                 call_with_retries("B", retries), call_with_retries("C", retries));
    report r{0, attempts, seconds() - began};
    for (const auto& outcome : outcomes) r.succeeded += outcome.has_value() ? 1 : 0;
    say("retries: " + std::to_string(retries) + ", succeeded: " + std::to_string(r.succeeded));
    co_return r;
}

asyncio::coro<report> all_with_one_limit() {
    const double began = seconds();
    attempts = 0;
    auto call_all = [] {
        return asyncio::gather(call_api("A"), call_api("B"), call_api("C"));
    };
    const auto results = co_await asyncio::wait_for(call_all, 5s);
    say("one limit, succeeded: " + std::to_string(results.size()));
    co_return report{results.size(), attempts, seconds() - began};
}

void claim_failed(const std::string& name, const report& r, int attempts_of_all, double about) {
    claim(r.succeeded == 0 && r.attempts == attempts_of_all && r.took >= about &&
              r.took < about * 1.3 + 2,
          name + ": all 3 failed with " + std::to_string(r.attempts) + " attempts in all, after " +
              num(r.took) + " s (about " + num(about) + " s)");
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    const report none = co_await all_with_retries(0);
    const report one = co_await all_with_retries(1);
    const report three = co_await all_with_retries(3);
    const report whole = co_await all_with_one_limit();

    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim_failed("no retry", none, 3, 2);
    claim_failed("1 retry", one, 6, 2 + 1 + 2);
    claim_failed("3 retries", three, 12, 2 + 1 + 2 + 2 + 2 + 4 + 2);
    claim(whole.succeeded == 3 && whole.attempts == 3 && whole.took >= 3 && whole.took < 5,
          "one limit of 5 s: all 3 succeeded with " + std::to_string(whole.attempts) +
              " attempts in all, after " + num(whole.took) + " s (about 3 s)");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("Trying again does not help against a limit that is too short.\n"
                       "usage: limits [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  2.00 s  retries: 0, succeeded: 0
//  7.00 s  retries: 1, succeeded: 0
// 22.00 s  retries: 3, succeeded: 0
// 25.00 s  one limit, succeeded: 3
// time   |0                                                   25.000 s|
// Task-1 |============================================================| 0.000-25.000 s
// A      |====!                                                       | 0.000-2.000 s
// B      |====!                                                       | 0.000-2.000 s
// C      |====!                                                       | 0.000-2.000 s
// A      |    ============!                                           | 2.000-7.000 s
// B      |    ============!                                           | 2.000-7.000 s
// C      |    ============!                                           | 2.000-7.000 s
// A      |                ====================================!       | 7.000-22.000 s
// B      |                ====================================!       | 7.000-22.000 s
// C      |                ====================================!       | 7.000-22.000 s
// A      |                                                    ========| 22.000-25.000 s
// B      |                                                    ========| 22.000-25.000 s
// C      |                                                    ========| 22.000-25.000 s
// holds:  no retry: all 3 failed with 3 attempts in all, after 2.00 s (about 2.00 s)
// holds:  1 retry: all 3 failed with 6 attempts in all, after 5.00 s (about 5.00 s)
// holds:  3 retries: all 3 failed with 12 attempts in all, after 15.00 s (about 15.00 s)
// holds:  one limit of 5 s: all 3 succeeded with 3 attempts in all, after 3.00 s (about 3 s)
