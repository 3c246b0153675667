// Foundations: five calls that block, and five that wait.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/1_foundations/sync_vs_async.cpp -o sync && ./sync
//
// What it teaches: a blocking call holds its thread until the answer is there, so that five of
// them add up. An awaited one gives the thread to the others while it waits.
// Look at: 5 s against 1 s, both on one thread. --quick takes half the time; --trace FILE is for
// ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
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

void blocking_call(asyncio::duration latency) {
    std::this_thread::sleep_for(std::chrono::nanoseconds(latency)); // stands for a request
}

asyncio::coro<> async_call(asyncio::duration latency) {
    co_await asyncio::sleep(latency); // the same request
}

double five_blocking(asyncio::duration latency) {
    const double began = seconds();
    for (int i = 1; i <= 5; ++i) {
        blocking_call(latency);
        say("blocking call " + std::to_string(i) + " ends");
    }
    return seconds() - began;
}

asyncio::coro<double> five_async(asyncio::duration latency) {
    const double began = seconds();
    std::vector<asyncio::coro<>> calls;
    for (int i = 1; i <= 5; ++i) calls.push_back(async_call(latency));
    co_await asyncio::gather(std::move(calls));
    co_return seconds() - began;
}

asyncio::coro<int> async_main(asyncio::duration latency, std::string trace_file) {
    const double blocking = five_blocking(latency);

    asyncio::tracer trace(asyncio::get_running_loop());
    double waiting = co_await five_async(latency);
    say("five async calls end");
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    // On a busy machine the wake-up may come late; then two more tries are fair.
    for (int i = 0; i < 2 && blocking / waiting < 4.8; ++i) {
        const double once_more = co_await five_async(latency);
        waiting = std::min(waiting, once_more);
    }
    claim(blocking / waiting >= 4.8, num(blocking) + " s blocking, " + num(waiting) +
                                         " s async: " + num(blocking / waiting) +
                                         " times as fast, at least 4.8");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    std::string trace_file;
    asyncio::duration latency = 1s;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") latency = 0.5s;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("Five calls that block, and five that wait.\n"
                       "usage: sync [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(latency, trace_file));
}
// Output:
//  1.01 s  blocking call 1 ends
//  2.01 s  blocking call 2 ends
//  3.01 s  blocking call 3 ends
//  4.01 s  blocking call 4 ends
//  5.01 s  blocking call 5 ends
//  6.01 s  five async calls end
// time   |0                                                    1.001 s|
// Task-1 |============================================================| 0.000-1.001 s
// Task-2 |============================================================| 0.000-1.001 s
// Task-3 |============================================================| 0.000-1.001 s
// Task-4 |============================================================| 0.000-1.001 s
// Task-5 |============================================================| 0.000-1.001 s
// Task-6 |============================================================| 0.000-1.001 s
// holds:  5.01 s blocking, 1.00 s async: 5.00 times as fast, at least 4.8
