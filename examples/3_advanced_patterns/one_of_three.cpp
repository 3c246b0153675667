// Advanced patterns: one of three is late, and the others go on.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/one_of_three.cpp -o three && ./three
//
// What it teaches: two ways to stop waiting after 2 s. wait_for() gives each task a limit of its
// own and cancels the one that is late. wait() with a timeout only looks: it says what is done and
// what is pending, cancels nothing and throws nothing.
// Look at: B is cancelled the first time; the second time it goes on and ends.
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

std::vector<std::string> events;
void note(const std::string& event) {
    say(event);
    events.push_back(event);
}

asyncio::coro<std::string> fetch(std::string name, asyncio::duration latency) {
    asyncio::current_task().set_name(name); // for the timeline
    try {
        co_await asyncio::sleep(latency); // stands for a request over the network
    } catch (const asyncio::cancelled_error&) {
        note(name + " is cancelled");
        throw; // a cancellation is passed on, or the task could not be stopped
    }
    note(name + " ends");
    co_return "data from " + name;
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    say("wait_for: a limit of 2 s for each");
    const auto results = co_await asyncio::gather(asyncio::return_exceptions,
                                                  asyncio::wait_for(fetch("A", 0.5s), 2s),
                                                  asyncio::wait_for(fetch("B", 5s), 2s),
                                                  asyncio::wait_for(fetch("C", 1s), 2s));
    const double limited = seconds();
    std::vector<std::string> texts;
    for (const asyncio::outcome<std::string>& result : results) {
        if (result) texts.push_back(*result);
        else texts.push_back(result.error().holds<asyncio::timeout_error>() ? "timeout" : "error");
        say("  " + texts.back());
    }
    const std::vector<std::string> first = events;

    say("wait: done and pending after 2 s");
    std::vector<asyncio::task<std::string>> tasks;
    tasks.push_back(asyncio::create_task(fetch("A", 0.5s)));
    tasks.push_back(asyncio::create_task(fetch("B", 5s)));
    tasks.push_back(asyncio::create_task(fetch("C", 1s)));
    events.clear();
    const auto seen = co_await asyncio::wait(tasks, {.timeout = 2s});
    const double looked = seconds() - limited;
    for (const auto& task : seen.done) say("  done: " + task.result());
    for (const auto& task : seen.pending) say("  pending: " + task.get_name());
    const std::string late = co_await tasks[1];
    const double waited = seconds() - limited;
    say("  at last: " + late);

    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    using words = std::vector<std::string>;
    claim(texts == words{"data from A", "timeout", "data from C"} && limited >= 2 && limited < 4,
          "wait_for: two values and one timeout, after " + num(limited) + " s (about 2 s)");
    claim(first == words{"A ends", "C ends", "B is cancelled"}, "wait_for cancels the late one");
    claim(seen.done == std::vector{tasks[0], tasks[2]} && seen.pending == std::vector{tasks[1]} &&
              looked >= 2 && looked < 4,
          "wait: two done and one pending, after " + num(looked) + " s (about 2 s)");
    claim(events == words{"A ends", "C ends", "B ends"} && waited >= 5 && waited < 8,
          "wait cancels nothing: the late one ends, after " + num(waited) + " s (about 5 s)");
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
            std::fputs("One of three is late, and the others go on.\n"
                       "usage: three [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.00 s  wait_for: a limit of 2 s for each
//  0.50 s  A ends
//  1.00 s  C ends
//  2.00 s  B is cancelled
//  2.00 s    data from A
//  2.00 s    timeout
//  2.00 s    data from C
//  2.00 s  wait: done and pending after 2 s
//  2.50 s  A ends
//  3.00 s  C ends
//  4.00 s    done: data from A
//  4.00 s    done: data from C
//  4.00 s    pending: B
//  7.00 s  B ends
//  7.00 s    at last: data from B
// time   |0                                                    7.000 s|
// Task-1 |============================================================| 0.000-7.000 s
// A      |=====                                                       | 0.000-0.500 s
// B      |=================!                                          | 0.000-2.000 s
// C      |=========                                                   | 0.000-1.000 s
// A      |                 =====                                      | 2.000-2.500 s
// B      |                 ===========================================| 2.000-7.000 s
// C      |                 =========                                  | 2.000-3.000 s
// holds:  wait_for: two values and one timeout, after 2.00 s (about 2 s)
// holds:  wait_for cancels the late one
// holds:  wait: two done and one pending, after 2.00 s (about 2 s)
// holds:  wait cancels nothing: the late one ends, after 5.00 s (about 5 s)
