// Foundations: gather() cannot help calls that block.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/1_foundations/blocking_discovery.cpp -o blocking && ./blocking
//
// What it teaches: a coroutine that blocks its thread stops the whole loop, so that gather() runs
// five of them one after the other. Only what is awaited overlaps.
// Look at: with one task there is no difference. With five, the bars of the first timeline end one
// after the other, those of the second together. --quick takes a tenth of the time; --trace FILE
// is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <thread>
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

asyncio::coro<> blocking_call(int number, asyncio::duration latency) {
    std::this_thread::sleep_for(std::chrono::nanoseconds(latency)); // nobody else can run
    say("blocking call " + std::to_string(number) + " ends");
    co_return;
}

asyncio::coro<> async_call(int number, asyncio::duration latency) {
    co_await asyncio::sleep(latency); // the others run meanwhile
    say("async call " + std::to_string(number) + " ends");
}

asyncio::coro<int> async_main(asyncio::duration latency, std::string trace_file) {
    const double one = latency.total_seconds();

    double began = seconds();
    co_await blocking_call(1, latency);
    const double one_blocking = seconds() - began;

    began = seconds();
    co_await async_call(1, latency);
    const double one_async = seconds() - began;

    asyncio::tracer trace(asyncio::get_running_loop());
    began = seconds();
    std::vector<asyncio::coro<>> calls;
    for (int i = 1; i <= 5; ++i) calls.push_back(blocking_call(i, latency));
    co_await asyncio::gather(std::move(calls));
    const double five_blocking = seconds() - began;

    began = seconds();
    calls.clear();
    for (int i = 1; i <= 5; ++i) calls.push_back(async_call(i, latency));
    co_await asyncio::gather(std::move(calls));
    const double five_async = seconds() - began;

    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(one_blocking >= one && one_async >= one,
          "one task: " + num(one_blocking) + " s blocking, " + num(one_async) +
              " s async: no gain");
    claim(five_blocking >= 5 * one && five_async >= one && five_async < 3 * one,
          "five tasks: " + num(five_blocking) + " s blocking, " + num(five_async) +
              " s async");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    std::string trace_file;
    asyncio::duration latency = 3s;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") latency = 0.3s;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("gather() cannot help calls that block.\n"
                       "usage: blocking [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(latency, trace_file));
}
// Output:
//  3.00 s  blocking call 1 ends
//  6.00 s  async call 1 ends
//  9.01 s  blocking call 1 ends
// 12.01 s  blocking call 2 ends
// 15.01 s  blocking call 3 ends
// 18.01 s  blocking call 4 ends
// 21.01 s  blocking call 5 ends
// 24.01 s  async call 1 ends
// 24.01 s  async call 2 ends
// 24.01 s  async call 3 ends
// 24.01 s  async call 4 ends
// 24.01 s  async call 5 ends
// time    |0                                                   18.009 s|
// Task-1  |============================================================| 0.000-18.009 s
// Task-2  |===========                                                 | 0.000-3.005 s
// Task-3  |=====================                                       | 0.000-6.005 s
// Task-4  |===============================                             | 0.000-9.005 s
// Task-5  |=========================================                   | 0.000-12.008 s
// Task-6  |===================================================         | 0.000-15.008 s
// Task-7  |                                                  ==========| 15.008-18.009 s
// Task-8  |                                                  ==========| 15.008-18.009 s
// Task-9  |                                                  ==========| 15.008-18.009 s
// Task-10 |                                                  ==========| 15.008-18.009 s
// Task-11 |                                                  ==========| 15.008-18.009 s
// holds:  one task: 3.00 s blocking, 3.00 s async: no gain
// holds:  five tasks: 15.01 s blocking, 3.00 s async
