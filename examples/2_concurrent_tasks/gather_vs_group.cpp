// Concurrent tasks: when one of three fails, gather() keeps the others and a group ends them.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/2_concurrent_tasks/gather_vs_group.cpp -o both && ./both
//
// What it teaches: gather() with return_exceptions is for work whose parts are of use alone. A
// task group is for work that is worth nothing unless all of it succeeds: the first failure
// cancels the rest, and the block throws an exception_group of what went wrong.
// Look at: the `x` in the timeline. Both services had started; they get a cancelled_error at
// their co_await. --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
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
std::string in_seconds(double t) { return std::to_string(t).substr(0, 4) + " s"; }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

using names = std::vector<std::string>;
names started, cancelled;

asyncio::coro<std::string> call(std::string service, asyncio::duration latency) {
    asyncio::current_task().set_name(service); // for the timeline
    say(service + " starts");
    started.push_back(service);
    if (latency > 5s) throw std::runtime_error(service + " would take too long");
    try {
        co_await asyncio::sleep(latency); // stands for a request over the network
    } catch (const asyncio::cancelled_error&) {
        say(service + " is cancelled");
        cancelled.push_back(service);
        throw; // a cancellation always goes on
    }
    co_return "data from " + service;
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    say("gather() with return_exceptions:");
    const auto outcomes =
        co_await asyncio::gather(asyncio::return_exceptions, call("service 1", 1s),
                                 call("service 2", 10s), call("service 3", 1s));
    names results, errors;
    for (const asyncio::outcome<std::string>& outcome : outcomes) {
        say(outcome ? *outcome : std::string("error: ") + outcome.error().what());
        if (outcome) results.push_back(*outcome);
        else errors.push_back(outcome.error().what());
    }
    const double gather_took = seconds();
    const bool gather_cancelled = !cancelled.empty();

    say("a task group:");
    started.clear();
    names group_errors;
    try {
        co_await asyncio::with(asyncio::task_group(), [](asyncio::task_group& group) {
            group.create_task(call("service 1", 1s));
            group.create_task(call("service 2", 10s));
            group.create_task(call("service 3", 1s));
        });
    } catch (const asyncio::exception_group& group) {
        // Python's `except*`: visits the errors that are of this type.
        group.for_each<std::exception>([&](const std::exception& error) {
            say(std::string("error: ") + error.what());
            group_errors.push_back(error.what());
        });
    }
    const double group_took = seconds() - gather_took;
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(results == names{"data from service 1", "data from service 3"} && !gather_cancelled,
          "gather() keeps " + std::to_string(results.size()) + " results and cancels nobody");
    claim(errors == names{"service 2 would take too long"}, "and has the error in its place");
    claim(started == names{"service 1", "service 2", "service 3"}, "in the group all had started");
    claim(cancelled == names{"service 1", "service 3"}, "and the group cancels both others");
    claim(group_errors == errors, "its exception_group holds 1 error, the same one");
    claim(gather_took >= 1 && gather_took < 3, in_seconds(gather_took) + " with gather()");
    claim(group_took < 0.5, in_seconds(group_took) + " with the group: it ends at once");
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
            std::fputs("When one of three fails, gather() keeps the others and a group ends them.\n"
                       "usage: both [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.00 s  gather() with return_exceptions:
//  0.00 s  service 1 starts
//  0.00 s  service 2 starts
//  0.00 s  service 3 starts
//  1.00 s  data from service 1
//  1.00 s  error: service 2 would take too long
//  1.00 s  data from service 3
//  1.00 s  a task group:
//  1.00 s  service 1 starts
//  1.00 s  service 2 starts
//  1.00 s  service 3 starts
//  1.00 s  service 1 is cancelled
//  1.00 s  service 3 is cancelled
//  1.00 s  error: service 2 would take too long
// time      |0                                                    1.000 s|
// Task-1    |============================================================| 0.000-1.000 s
// service 1 |============================================================| 0.000-1.000 s
// service 2 |!                                                           | 0.000-0.000 s
// service 3 |============================================================| 0.000-1.000 s
// service 1 |                                                           x| 1.000-1.000 s
// service 2 |                                                           !| 1.000-1.000 s
// service 3 |                                                           x| 1.000-1.000 s
// holds:  gather() keeps 2 results and cancels nobody
// holds:  and has the error in its place
// holds:  in the group all had started
// holds:  and the group cancels both others
// holds:  its exception_group holds 1 error, the same one
// holds:  1.00 s with gather()
// holds:  0.00 s with the group: it ends at once
