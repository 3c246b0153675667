// Concurrent tasks: three ways to fetch two things, and one of them is slow.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/2_concurrent_tasks/task_patterns.cpp -o ways && ./ways
//
// What it teaches: awaiting two coroutines one after the other takes the sum of their times.
// create_task() and gather() take the longest; gather() is the shorter one to write, and does not
// care whether it gets two or ten.
// Look at: four times, and in the timeline the tasks of each way. The first way makes none.
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
std::string in_seconds(double t) { return std::to_string(t).substr(0, 4) + " s"; }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

asyncio::coro<int> fetch(int id) {
    co_await asyncio::sleep(1s); // stands for a request over the network
    co_return 100 + id;
}

asyncio::coro<int> two_in_turn() {
    const int a = co_await fetch(1);
    const int b = co_await fetch(2);
    co_return a + b;
}

asyncio::coro<int> two_tasks() {
    asyncio::task<int> a = asyncio::create_task(fetch(1), {.name = "task 1"});
    asyncio::task<int> b = asyncio::create_task(fetch(2), {.name = "task 2"});
    const int first = co_await a;
    const int second = co_await b;
    co_return first + second;
}

asyncio::coro<int> two_gathered() {
    const auto [a, b] = co_await asyncio::gather(fetch(1), fetch(2));
    co_return a + b;
}

asyncio::coro<int> ten_gathered() {
    std::vector<asyncio::coro<int>> fetches;
    for (int id = 1; id <= 10; ++id) fetches.push_back(fetch(id));
    const std::vector<int> values = co_await asyncio::gather(std::move(fetches));
    int sum = 0;
    for (const int value : values) sum += value;
    co_return sum;
}

// Runs one of the ways; its sum must be right, and it takes at least and less than so long.
asyncio::coro<> measure(std::string way, asyncio::coro<int> work, int sum, double least,
                        double below) {
    const double began = seconds();
    const int got = co_await std::move(work);
    const double took = seconds() - began;
    claim(got == sum && took >= least && took < below,
          way + " take " + in_seconds(took) + ", about " + in_seconds(least) + ", and sum up to " +
              std::to_string(got));
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    co_await measure("two in turn", two_in_turn(), 203, 2, 3.5);
    co_await measure("two with create_task()", two_tasks(), 203, 1, 1.9);
    co_await measure("two with gather()", two_gathered(), 203, 1, 1.9);
    co_await measure("ten with gather()", ten_gathered(), 1055, 1, 5);
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
            std::fputs("Three ways to fetch two things: in turn, create_task(), gather().\n"
                       "usage: ways [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
// holds:  two in turn take 2.00 s, about 2.00 s, and sum up to 203
// holds:  two with create_task() take 1.00 s, about 1.00 s, and sum up to 203
// holds:  two with gather() take 1.00 s, about 1.00 s, and sum up to 203
// holds:  ten with gather() take 1.00 s, about 1.00 s, and sum up to 1055
// time    |0                                                    5.000 s|
// Task-1  |============================================================| 0.000-5.000 s
// task 1  |                        =============                       | 2.000-3.000 s
// task 2  |                        =============                       | 2.000-3.000 s
// Task-4  |                                    =============           | 3.000-4.000 s
// Task-5  |                                    =============           | 3.000-4.000 s
// Task-6  |                                                ============| 4.000-5.000 s
// Task-7  |                                                ============| 4.000-5.000 s
// Task-8  |                                                ============| 4.000-5.000 s
// Task-9  |                                                ============| 4.000-5.000 s
// Task-10 |                                                ============| 4.000-5.000 s
// Task-11 |                                                ============| 4.000-5.000 s
// Task-12 |                                                ============| 4.000-5.000 s
// Task-13 |                                                ============| 4.000-5.000 s
// Task-14 |                                                ============| 4.000-5.000 s
// Task-15 |                                                ============| 4.000-5.000 s
