// Foundations: co_await in a loop is one after the other.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/1_foundations/sequential_trap.cpp -o trap && ./trap
//
// What it teaches: `co_await f()` runs f() to its end before the next line. To overlap, start all
// of them first, which create_task() does, and then await them. When one of them fails, gather()
// throws at once, while the others run on.
// Look at: 5 s against 1 s; then what is still running when gather() throws.
// --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
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
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

asyncio::coro<int> fetch(int number) {
    co_await asyncio::sleep(1s); // stands for a request over the network
    say("fetch " + std::to_string(number) + " ends");
    co_return number;
}

asyncio::coro<int> failing_fetch(int number) {
    co_await asyncio::sleep(0.5s);
    throw std::runtime_error("fetch " + std::to_string(number) + " fails");
}

// Five tasks, already on their way; the third fails if it is told to.
std::vector<asyncio::task<int>> start_five(bool third_fails) {
    std::vector<asyncio::task<int>> tasks;
    for (int i = 1; i <= 5; ++i) {
        auto work = third_fails && i == 3 ? failing_fetch(i) : fetch(i);
        tasks.push_back(asyncio::create_task(std::move(work)));
        tasks.back().set_name("fetch " + std::to_string(i)); // for the timeline
    }
    return tasks;
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    say("1. co_await in a loop");
    double began = seconds();
    for (int i = 1; i <= 5; ++i) co_await fetch(i);
    const double in_turn = seconds() - began;

    say("2. started first, then awaited");
    began = seconds();
    for (const asyncio::task<int>& task : start_five(false)) co_await task;
    const double at_once = seconds() - began;

    say("3. the third fails: gather() throws");
    std::vector<asyncio::task<int>> tasks = start_five(true);
    std::string error;
    try {
        co_await asyncio::gather(tasks);
    } catch (const std::runtime_error& e) {
        error = e.what();
    }
    const auto running = std::count_if(tasks.begin(), tasks.end(),
                                       [](const asyncio::task<int>& t) { return !t.done(); });
    say(error + ", and " + std::to_string(running) + " others run on");

    say("4. gather() with return_exceptions waits for all");
    const auto outcomes = co_await asyncio::gather(asyncio::return_exceptions, tasks);
    const auto results = std::count_if(outcomes.begin(), outcomes.end(),
                                       [](const auto& o) { return o.has_value(); });
    say(std::to_string(results) + " results, 1 error: " + outcomes[2].error().what());

    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(in_turn >= 5, num(in_turn) + " s in the loop: five times 1 s");
    claim(at_once >= 1 && at_once < 3, num(at_once) + " s when started first: about 1 s");
    claim(error == "fetch 3 fails" && running == 4, "gather() threw at once, the others went on");
    claim(results == 4 && !outcomes[2], "with return_exceptions: 4 results and 1 error");
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
            std::fputs("co_await in a loop is one after the other.\n"
                       "usage: trap [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.00 s  1. co_await in a loop
//  1.00 s  fetch 1 ends
//  2.00 s  fetch 2 ends
//  3.00 s  fetch 3 ends
//  4.00 s  fetch 4 ends
//  5.00 s  fetch 5 ends
//  5.00 s  2. started first, then awaited
//  6.00 s  fetch 1 ends
//  6.00 s  fetch 2 ends
//  6.00 s  fetch 3 ends
//  6.00 s  fetch 4 ends
//  6.00 s  fetch 5 ends
//  6.00 s  3. the third fails: gather() throws
//  6.50 s  fetch 3 fails, and 4 others run on
//  6.50 s  4. gather() with return_exceptions waits for all
//  7.00 s  fetch 1 ends
//  7.00 s  fetch 2 ends
//  7.00 s  fetch 4 ends
//  7.00 s  fetch 5 ends
//  7.00 s  4 results, 1 error: fetch 3 fails
// time    |0                                                    7.000 s|
// Task-1  |============================================================| 0.000-7.000 s
// fetch 1 |                                          ==========        | 5.000-6.000 s
// fetch 2 |                                          ==========        | 5.000-6.000 s
// fetch 3 |                                          ==========        | 5.000-6.000 s
// fetch 4 |                                          ==========        | 5.000-6.000 s
// fetch 5 |                                          ==========        | 5.000-6.000 s
// fetch 1 |                                                   =========| 6.000-7.000 s
// fetch 2 |                                                   =========| 6.000-7.000 s
// fetch 3 |                                                   ====!    | 6.000-6.500 s
// fetch 4 |                                                   =========| 6.000-7.000 s
// fetch 5 |                                                   =========| 6.000-7.000 s
// holds:  5.00 s in the loop: five times 1 s
// holds:  1.00 s when started first: about 1 s
// holds:  gather() threw at once, the others went on
// holds:  with return_exceptions: 4 results and 1 error
