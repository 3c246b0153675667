// Foundations: what has arrived after two seconds is the answer.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/1_foundations/api_aggregator.cpp -o api && ./api
//
// What it teaches: wait_for(f(), 2s) cancels f() after two seconds and throws timeout_error. With
// a limit on each part, and return_exceptions around them, a part that hangs costs only itself.
// Look at: reviews would take an hour; the page is there after 2 s. --virtual skips the waiting;
// --trace FILE is for ui.perfetto.dev.
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

asyncio::coro<std::string> fetch(std::string part, asyncio::duration latency) {
    asyncio::current_task().set_name(part); // for the timeline
    co_await asyncio::sleep(latency); // stands for a request over the network
    say(part + " are here");
    co_return "the " + part;
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    const auto parts = co_await asyncio::gather(asyncio::return_exceptions,
                                                asyncio::wait_for(fetch("prices", 0.5s), 2s),
                                                asyncio::wait_for(fetch("pictures", 1.2s), 2s),
                                                asyncio::wait_for(fetch("reviews", 1h), 2s));

    const double took = seconds();
    int arrived = 0, late = 0;
    for (const asyncio::outcome<std::string>& part : parts) {
        if (part) {
            say("on the page: " + *part);
            ++arrived;
        } else if (part.error().holds<asyncio::timeout_error>()) {
            say("not on the page: no answer within 2 s");
            ++late;
        }
    }
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(arrived == 2 && late == 1, std::to_string(arrived) + " parts are on the page, " +
                                         std::to_string(late) + " was too late");
    claim(took >= 2 && took < 3, num(took) + " s in all: about 2 s, not an hour");
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
            std::fputs("What has arrived after two seconds is the answer.\n"
                       "usage: api [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.50 s  prices are here
//  1.20 s  pictures are here
//  2.00 s  on the page: the prices
//  2.00 s  on the page: the pictures
//  2.00 s  not on the page: no answer within 2 s
// time     |0                                                    2.000 s|
// Task-1   |============================================================| 0.000-2.000 s
// prices   |================                                            | 0.000-0.500 s
// pictures |=====================================                       | 0.000-1.200 s
// reviews  |===========================================================!| 0.000-2.000 s
// holds:  2 parts are on the page, 1 was too late
// holds:  2.00 s in all: about 2 s, not an hour
