// Foundations: three fetches at once take as long as the longest of them.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/1_foundations/concurrent_fetch.cpp -o fetch && ./fetch
//
// What it teaches: gather() starts several coroutines and waits for all of them: it makes a task of
// each, which the loop runs by itself. While one waits for its answer, the others go on.
// Look at: all start at 0 s and each ends when it is ready, but the results stand in the order of
// the arguments. --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

// These helpers are in nearly every example. Under --virtual, elapsed() jumps as the clock does.
double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

std::vector<std::string> events;

asyncio::coro<std::string> fetch(std::string name, asyncio::duration latency) {
    asyncio::current_task().set_name(name); // gather() made a task of it; for the timeline
    say(name + " starts");
    events.push_back(name + " starts");
    co_await asyncio::sleep(latency); // stands for a request over the network
    say(name + " ends");
    events.push_back(name + " ends");
    co_return "data from " + name;
}

// The program itself: what it returns is the exit code. In the timeline it is Task-1.
asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop()); // notes which task exists when

    const auto results = co_await asyncio::gather(fetch("A", 1s), fetch("B", 2s), fetch("C", 1.5s));

    const double took = seconds();
    for (const std::string& text : results) say(text);
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    const std::vector<std::string> expected = {"A starts", "B starts", "C starts",
                                               "A ends",   "C ends",   "B ends"};
    claim(events == expected, "all start before any ends, and A ends first, then C, then B");
    claim(results[0] == "data from A" && results[1] == "data from B" && results[2] == "data from C",
          "the results are in the order of the arguments");
    const std::string total = std::to_string(took).substr(0, 4);
    claim(took >= 2 && took < 3, total + " s in all: about 2 s, not 4.5 s");
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
            std::fputs("Three fetches at once take as long as the longest of them.\n"
                       "usage: fetch [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options); // 1 for an error that nobody caught
}
// Output:
//  0.00 s  A starts
//  0.00 s  B starts
//  0.00 s  C starts
//  1.00 s  A ends
//  1.50 s  C ends
//  2.00 s  B ends
//  2.00 s  data from A
//  2.00 s  data from B
//  2.00 s  data from C
// time   |0                                                    2.000 s|
// Task-1 |============================================================| 0.000-2.000 s
// A      |===============================                             | 0.000-1.000 s
// B      |============================================================| 0.000-2.000 s
// C      |==============================================              | 0.000-1.500 s
// holds:  all start before any ends, and A ends first, then C, then B
// holds:  the results are in the order of the arguments
// holds:  2.00 s in all: about 2 s, not 4.5 s
