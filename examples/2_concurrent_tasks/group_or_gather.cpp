// Concurrent tasks: group or gather? A failure and a time limit show what each of them keeps.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/2_concurrent_tasks/group_or_gather.cpp -o try && ./try
//
// What it teaches: a group cancels what is not done when a task fails. What is done by then stays
// done, also when it ends in the very same moment. gather() cancels nobody. But a time limit
// around gather() cancels all that is not done, and what was done is lost with it.
// Look at: task 3 in each round. --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
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
names finished, cancelled; // tasks of the present round
std::string thrown;        // what the round threw
double began = 0;          // when the round did

// What tasks wait for. Who shares it goes on in the same turn. Three sleeps would end one after the
// other, maybe in three turns, and the group could cancel task 3 before its answer is there.
asyncio::task<> answer(asyncio::duration after) {
    return asyncio::create_task(asyncio::sleep(after), {.name = "(answer)"});
}

asyncio::coro<> work(std::string name, asyncio::task<> answered) {
    asyncio::current_task().set_name(name); // for the timeline
    try {
        co_await answered;
    } catch (const asyncio::cancelled_error&) {
        say(name + " is cancelled");
        cancelled.push_back(name);
        throw;
    }
    if (name == "task 2") throw std::runtime_error("task 2 failed");
    say(name + " finishes");
    finished.push_back(name);
}

void begin(const std::string& title) {
    say(title);
    finished = cancelled = {};
    thrown = {};
    began = seconds();
}

// Tasks 1 and 2 wait for the early answer, task 3 for the late one.
asyncio::coro<> with_gather(asyncio::task<> early, asyncio::task<> late) {
    asyncio::task<> first = asyncio::create_task(work("task 1", early));
    asyncio::task<> second = asyncio::create_task(work("task 2", early));
    asyncio::task<> last = asyncio::create_task(work("task 3", late));
    try {
        co_await asyncio::gather(first, second, last);
    } catch (const std::runtime_error& error) {
        thrown = error.what();
        say("gather() throws: " + thrown);
    }
    co_await last; // gather() did not wait for it
}

asyncio::coro<> with_group(asyncio::task<> early, asyncio::task<> late) {
    try {
        co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& group) {
            group.create_task(work("task 1", early));
            group.create_task(work("task 2", early));
            group.create_task(work("task 3", late));
        });
    } catch (const asyncio::exception_group& group) {
        group.for_each<std::exception>([](const std::exception& error) { thrown = error.what(); });
        say("the group throws: " + thrown);
    }
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());
    const names first = {"task 1"}, third = {"task 3"}, both = {"task 1", "task 3"};

    begin("gather(), all three answers after 1 s:");
    asyncio::task<> at_1s = answer(1s);
    co_await with_gather(at_1s, at_1s);
    claim(finished == both && thrown == "task 2 failed", "tasks 1 and 3 finish under gather()");

    begin("a group, all three answers after 1 s:");
    at_1s = answer(1s);
    co_await with_group(at_1s, at_1s);
    claim(finished == both && thrown == "task 2 failed", "tasks 1 and 3 finish even in the group");

    begin("gather(), the third answer after 1.5 s:");
    co_await with_gather(answer(1s), answer(1.5s));
    claim(finished == both && thrown == "task 2 failed" && seconds() - began >= 1.5,
          "task 3 goes on after the failure, and finishes at " + in_seconds(seconds() - began));

    begin("a group, the third answer after 1.5 s:");
    co_await with_group(answer(1s), answer(1.5s));
    claim(finished == first && cancelled == third && thrown == "task 2 failed",
          "task 3 is cancelled with the group");

    begin("wait_for() with 2 s around gather(), the third answer after 5 s:");
    at_1s = answer(1s);
    try {
        auto all = asyncio::gather(asyncio::return_exceptions, work("task 1", at_1s),
                                   work("task 2", at_1s), work("task 3", answer(5s)));
        co_await asyncio::wait_for(all, 2s);
    } catch (const asyncio::timeout_error&) {
        thrown = "timeout";
        say("the time limit passed");
    }
    const double took = seconds() - began;
    claim(cancelled == third && took >= 2 && took < 4,
          "task 3 is cancelled at the limit, after " + in_seconds(took));
    claim(finished == first && thrown == "timeout",
          "task 1 had finished, but all that we get is the timeout");
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }
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
            std::fputs("Group or gather? A failure and a time limit show what each keeps.\n"
                       "usage: try [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.00 s  gather(), all three answers after 1 s:
//  1.00 s  task 1 finishes
//  1.00 s  task 3 finishes
//  1.00 s  gather() throws: task 2 failed
// holds:  tasks 1 and 3 finish under gather()
//  1.00 s  a group, all three answers after 1 s:
//  2.00 s  task 1 finishes
//  2.00 s  task 3 finishes
//  2.00 s  the group throws: task 2 failed
// holds:  tasks 1 and 3 finish even in the group
//  2.00 s  gather(), the third answer after 1.5 s:
//  3.00 s  task 1 finishes
//  3.00 s  gather() throws: task 2 failed
//  3.50 s  task 3 finishes
// holds:  task 3 goes on after the failure, and finishes at 1.50 s
//  3.50 s  a group, the third answer after 1.5 s:
//  4.50 s  task 1 finishes
//  4.50 s  task 3 is cancelled
//  4.50 s  the group throws: task 2 failed
// holds:  task 3 is cancelled with the group
//  4.50 s  wait_for() with 2 s around gather(), the third answer after 5 s:
//  5.50 s  task 1 finishes
//  6.50 s  task 3 is cancelled
//  6.50 s  the time limit passed
// holds:  task 3 is cancelled at the limit, after 2.00 s
// holds:  task 1 had finished, but all that we get is the timeout
// time     |0                                                    6.500 s|
// Task-1   |============================================================| 0.000-6.500 s
// (answer) |==========                                                  | 0.000-1.000 s
// task 1   |==========                                                  | 0.000-1.000 s
// task 2   |=========!                                                  | 0.000-1.000 s
// task 3   |==========                                                  | 0.000-1.000 s
// (answer) |         ==========                                         | 1.000-2.000 s
// task 1   |         ==========                                         | 1.000-2.000 s
// task 2   |         =========!                                         | 1.000-2.000 s
// task 3   |         ==========                                         | 1.000-2.000 s
// (answer) |                  ==========                                | 2.000-3.000 s
// (answer) |                  ===============                           | 2.000-3.500 s
// task 1   |                  ==========                                | 2.000-3.000 s
// task 2   |                  =========!                                | 2.000-3.000 s
// task 3   |                  ===============                           | 2.000-3.500 s
// (answer) |                                ==========                  | 3.500-4.500 s
// (answer) |                                =========x                  | 3.500-4.500 s
// task 1   |                                ==========                  | 3.500-4.500 s
// task 2   |                                =========!                  | 3.500-4.500 s
// task 3   |                                =========x                  | 3.500-4.500 s
// (answer) |                                         ==========         | 4.500-5.500 s
// (answer) |                                         ==================x| 4.500-6.500 s
// task 1   |                                         ==========         | 4.500-5.500 s
// task 2   |                                         =========!         | 4.500-5.500 s
// task 3   |                                         ==================x| 4.500-6.500 s
