// Foundations: five answers take as long as the slowest of them.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/1_foundations/five_latencies.cpp -o five && ./five
//
// What it teaches: at the same time, the total is the longest latency and not the sum; four more
// requests cost nothing.
// Look at: the last bar of the timeline is as long as the whole. --virtual skips the waiting;
// --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <numeric>
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

asyncio::coro<double> answer(double latency) {
    asyncio::current_task().set_name(num(latency) + " s"); // for the timeline
    co_await asyncio::sleep(asyncio::duration::seconds(latency)); // stands for a request
    say("the answer after " + num(latency) + " s is here");
    co_return latency;
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    std::vector<asyncio::coro<double>> requests;
    for (const double latency : {0.5, 1.0, 1.5, 2.0, 2.5}) requests.push_back(answer(latency));
    const std::vector<double> latencies = co_await asyncio::gather(std::move(requests));

    const double took = seconds();
    const double longest = *std::max_element(latencies.begin(), latencies.end());
    const double sum = std::accumulate(latencies.begin(), latencies.end(), 0.0);
    say("longest " + num(longest) + " s, sum " + num(sum) + " s");
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(took >= longest && took < (longest + sum) / 2,
          num(took) + " s in all: about 2.5 s, not 7.5 s");
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
            std::fputs("Five answers take as long as the slowest of them.\n"
                       "usage: five [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.50 s  the answer after 0.50 s is here
//  1.00 s  the answer after 1.00 s is here
//  1.50 s  the answer after 1.50 s is here
//  2.00 s  the answer after 2.00 s is here
//  2.50 s  the answer after 2.50 s is here
//  2.50 s  longest 2.50 s, sum 7.50 s
// time   |0                                                    2.500 s|
// Task-1 |============================================================| 0.000-2.500 s
// 0.50 s |=============                                               | 0.000-0.500 s
// 1.00 s |=========================                                   | 0.000-1.000 s
// 1.50 s |=====================================                       | 0.000-1.500 s
// 2.00 s |=================================================           | 0.000-2.000 s
// 2.50 s |============================================================| 0.000-2.500 s
// holds:  2.50 s in all: about 2.5 s, not 7.5 s
