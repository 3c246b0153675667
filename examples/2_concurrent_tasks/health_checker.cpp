// Concurrent tasks: ten endpoints are checked in a group, and the second one is down.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/2_concurrent_tasks/health_checker.cpp -o health && ./health
//
// What it teaches: a group for "all of them, or none". One endpoint is down, so the answer is no,
// whatever the nine others would say; nobody waits for them.
// Look at: the nine `x` in the timeline stand where the `!` stands: all are cancelled in the
// moment of the failure. --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string in_seconds(double t) { return std::to_string(t).substr(0, 4) + " s"; }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

double failed_at = 0;
std::vector<double> cancelled_at;

asyncio::coro<> check(int number) {
    const std::string name = "endpoint " + std::to_string(number);
    asyncio::current_task().set_name(name); // for the timeline
    try {
        // Stands for a request over the network: 2 s, 0.5 s, 2.2 s, 2.3 s and so on.
        co_await asyncio::sleep(number == 2 ? 500ms : 1900ms + number * 100ms);
    } catch (const asyncio::cancelled_error&) {
        say(name + " is not needed any more");
        cancelled_at.push_back(seconds());
        throw;
    }
    if (number != 2) co_return;
    failed_at = seconds();
    throw std::runtime_error(name + " is down");
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    std::vector<asyncio::task<>> checks;
    std::vector<std::string> errors;
    try {
        co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& group) {
            for (int number = 1; number <= 10; ++number)
                checks.push_back(group.create_task(check(number)));
        });
        say("healthy");
    } catch (const asyncio::exception_group& group) {
        group.for_each<std::exception>([&](const std::exception& error) {
            say(std::string("not healthy: ") + error.what());
            errors.push_back(error.what());
        });
    }
    const double took = seconds();
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    const auto cancelled = std::count_if(checks.begin(), checks.end(),
                                         [](const asyncio::task<>& c) { return c.cancelled(); });
    claim(errors == std::vector<std::string>{"endpoint 2 is down"}, "the error is endpoint 2's");
    claim(cancelled == 9 && cancelled_at.size() == 9,
          "all " + std::to_string(cancelled) + " others are cancelled");
    double longest = 0; // from the failure to a cancellation
    for (const double at : cancelled_at) longest = std::max(longest, at - failed_at);
    claim(longest < 0.5, "at once: within " + in_seconds(longest) + " of the failure");
    claim(took >= 0.5 && took < 1.5, in_seconds(took) + " in all: about 0.5 s, not 2.9 s");
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
            std::fputs("Ten endpoints are checked in a group, and the second one is down.\n"
                       "usage: health [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.50 s  endpoint 1 is not needed any more
//  0.50 s  endpoint 3 is not needed any more
//  0.50 s  endpoint 4 is not needed any more
//  0.50 s  endpoint 5 is not needed any more
//  0.50 s  endpoint 6 is not needed any more
//  0.50 s  endpoint 7 is not needed any more
//  0.50 s  endpoint 8 is not needed any more
//  0.50 s  endpoint 9 is not needed any more
//  0.50 s  endpoint 10 is not needed any more
//  0.50 s  not healthy: endpoint 2 is down
// time        |0                                                    0.500 s|
// Task-1      |============================================================| 0.000-0.500 s
// endpoint 1  |===========================================================x| 0.000-0.500 s
// endpoint 2  |===========================================================!| 0.000-0.500 s
// endpoint 3  |===========================================================x| 0.000-0.500 s
// endpoint 4  |===========================================================x| 0.000-0.500 s
// endpoint 5  |===========================================================x| 0.000-0.500 s
// endpoint 6  |===========================================================x| 0.000-0.500 s
// endpoint 7  |===========================================================x| 0.000-0.500 s
// endpoint 8  |===========================================================x| 0.000-0.500 s
// endpoint 9  |===========================================================x| 0.000-0.500 s
// endpoint 10 |===========================================================x| 0.000-0.500 s
// holds:  the error is endpoint 2's
// holds:  all 9 others are cancelled
// holds:  at once: within 0.00 s of the failure
// holds:  0.50 s in all: about 0.5 s, not 2.9 s
