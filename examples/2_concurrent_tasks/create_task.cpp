// Concurrent tasks: create_task() schedules work now that is awaited later.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/2_concurrent_tasks/create_task.cpp -o tasks && ./tasks
//
// What it teaches: `co_await call()` runs a coroutine to its end before the next line.
// create_task() hands it to the loop instead: it runs while we go on, and we await the task when
// we need its result.
// Look at: in turn, each call starts when the one before it has ended. As tasks, all three start
// together, at the first co_await. --virtual skips the waiting; --trace FILE is for
// ui.perfetto.dev.
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

std::vector<double> starts, ends; // when the calls did so

asyncio::coro<std::string> call(std::string service, asyncio::duration latency) {
    say(service + " starts");
    starts.push_back(seconds());
    co_await asyncio::sleep(latency); // stands for a request over the network
    say(service + " ends");
    ends.push_back(seconds());
    co_return "data from " + service;
}

asyncio::coro<int> async_main(std::string trace_file) {
    say("awaited in turn:");
    std::vector<std::string> in_turn;
    in_turn.push_back(co_await call("A", 1s));
    in_turn.push_back(co_await call("B", 1.5s));
    in_turn.push_back(co_await call("C", 1s));
    const double turn_took = seconds();

    say("created as tasks, then awaited:");
    asyncio::tracer trace(asyncio::get_running_loop());
    starts.clear();
    ends.clear();
    asyncio::task<std::string> a = asyncio::create_task(call("A", 1s), {.name = "A"});
    asyncio::task<std::string> b = asyncio::create_task(call("B", 1.5s), {.name = "B"});
    asyncio::task<std::string> c = asyncio::create_task(call("C", 1s), {.name = "C"});
    say("three tasks are scheduled, and we are still here");
    // Who needs no result may drop the handle: the task runs on, and its error would be reported.
    const bool none_started = starts.empty();

    std::vector<std::string> as_tasks;
    as_tasks.push_back(co_await a); // here the loop gets its turn, and starts all three
    as_tasks.push_back(co_await b);
    as_tasks.push_back(co_await c); // this one is done already: nothing to wait for
    const double tasks_took = seconds() - turn_took;
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    const auto [first, last] = std::minmax_element(starts.begin(), starts.end());
    claim(none_started, "create_task() only schedules: nothing starts before the first co_await");
    claim(*last <= ends.front(), "all start before any ends");
    claim(*last - *first < 0.5, "all start together, within " + in_seconds(*last - *first));
    claim(as_tasks == in_turn, "the results are the same");
    claim(turn_took >= 3.5, in_seconds(turn_took) + " in turn: 1 s + 1.5 s + 1 s");
    claim(tasks_took >= 1.5 && tasks_took < 2.5,
          in_seconds(tasks_took) + " as tasks: about 1.5 s, as long as the longest");
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
            std::fputs("create_task() schedules work now that is awaited later.\n"
                       "usage: tasks [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.00 s  awaited in turn:
//  0.00 s  A starts
//  1.00 s  A ends
//  1.00 s  B starts
//  2.50 s  B ends
//  2.50 s  C starts
//  3.50 s  C ends
//  3.50 s  created as tasks, then awaited:
//  3.50 s  three tasks are scheduled, and we are still here
//  3.50 s  A starts
//  3.50 s  B starts
//  3.50 s  C starts
//  4.50 s  A ends
//  4.50 s  C ends
//  5.00 s  B ends
// time   |0                                                    1.500 s|
// Task-1 |============================================================| 0.000-1.500 s
// A      |=========================================                   | 0.000-1.000 s
// B      |============================================================| 0.000-1.500 s
// C      |=========================================                   | 0.000-1.000 s
// holds:  create_task() only schedules: nothing starts before the first co_await
// holds:  all start before any ends
// holds:  all start together, within 0.00 s
// holds:  the results are the same
// holds:  3.50 s in turn: 1 s + 1.5 s + 1 s
// holds:  1.50 s as tasks: about 1.5 s, as long as the longest
