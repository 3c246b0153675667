// Concurrent tasks: in a task group the first failure ends everything.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/2_concurrent_tasks/group_fail_fast.cpp -o group && ./group
//
// What it teaches: a group does not wait for what has become pointless. Task 2 fails after 1 s;
// tasks 1 and 3, which need 5 s, are cancelled then, and the group ends.
// Look at: a cancelled task gets the chance to clean up, and throws on. The error that leaves the
// block is task 2's. --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
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

std::vector<std::string> finished;

asyncio::coro<> work(std::string name, asyncio::duration takes, bool fails) {
    asyncio::current_task().set_name(name); // for the timeline
    try {
        co_await asyncio::sleep(takes); // stands for real work
    } catch (const asyncio::cancelled_error&) {
        say(name + " is cancelled and cleans up");
        throw; // a cancellation always goes on
    }
    if (fails) throw std::runtime_error(name + " failed");
    finished.push_back(name);
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    asyncio::task<> first, second, third;
    std::vector<std::string> errors;
    try {
        co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& group) {
            first = group.create_task(work("task 1", 5s, false));
            second = group.create_task(work("task 2", 1s, true));
            third = group.create_task(work("task 3", 5s, false));
        });
    } catch (const asyncio::exception_group& group) {
        group.for_each<std::exception>([&](const std::exception& error) {
            say(std::string("the group throws: ") + error.what());
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

    claim(took >= 1 && took < 3, in_seconds(took) + " in all: it ends at about 1 s, not at 5 s");
    claim(first.cancelled() && third.cancelled(), "tasks 1 and 3 are cancelled");
    claim(second.done() && !second.cancelled(), "task 2 is not: it failed by itself");
    claim(finished.empty(), "no task has finished its work");
    claim(errors == std::vector<std::string>{"task 2 failed"}, "the only error is task 2's");
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
            std::fputs("In a task group the first failure ends everything.\n"
                       "usage: group [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  1.00 s  task 1 is cancelled and cleans up
//  1.00 s  task 3 is cancelled and cleans up
//  1.00 s  the group throws: task 2 failed
// time   |0                                                    1.000 s|
// Task-1 |============================================================| 0.000-1.000 s
// task 1 |===========================================================x| 0.000-1.000 s
// task 2 |===========================================================!| 0.000-1.000 s
// task 3 |===========================================================x| 0.000-1.000 s
// holds:  1.00 s in all: it ends at about 1 s, not at 5 s
// holds:  tasks 1 and 3 are cancelled
// holds:  task 2 is not: it failed by itself
// holds:  no task has finished its work
// holds:  the only error is task 2's
