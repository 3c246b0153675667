// Concurrent tasks: gather() asks four weather stations at once.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/2_concurrent_tasks/gather_weather.cpp -o weather && ./weather
//
// What it teaches: gather() makes a task of each coroutine, waits for all of them and gives their
// results in one go, ready to be unpacked.
// Look at: the stations answer in an order of their own; each result gets to its name all the
// same. --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
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

std::vector<std::string> answers; // the stations, in the order of their answers

asyncio::coro<int> ask(std::string station, asyncio::duration latency, int degrees) {
    asyncio::current_task().set_name(station); // for the timeline
    co_await asyncio::sleep(latency);          // stands for a request over the network
    say(station + " answers: " + std::to_string(degrees) + " degrees");
    answers.push_back(station);
    co_return degrees;
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    const auto [north, east, south, west] = co_await asyncio::gather(
        ask("north", 1s, 4), ask("east", 1.2s, 9), ask("south", 1.5s, 15), ask("west", 0.8s, 8));

    const double took = seconds();
    say("on average: " + std::to_string((north + east + south + west) / 4) + " degrees");
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    const std::vector<std::string> fastest_first = {"west", "north", "east", "south"};
    claim(answers == fastest_first, "the fastest station answers first");
    claim(north == 4 && east == 9 && south == 15 && west == 8,
          "the results are in the order of the arguments");
    claim(took >= 1.5 && took < 3, in_seconds(took) + " in all: about 1.5 s, not 4.5 s");
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
            std::fputs("Four weather stations are asked at once with gather().\n"
                       "usage: weather [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.80 s  west answers: 8 degrees
//  1.00 s  north answers: 4 degrees
//  1.20 s  east answers: 9 degrees
//  1.50 s  south answers: 15 degrees
//  1.50 s  on average: 9 degrees
// time   |0                                                    1.500 s|
// Task-1 |============================================================| 0.000-1.500 s
// north  |=========================================                   | 0.000-1.000 s
// east   |=================================================           | 0.000-1.200 s
// south  |============================================================| 0.000-1.500 s
// west   |=================================                           | 0.000-0.800 s
// holds:  the fastest station answers first
// holds:  the results are in the order of the arguments
// holds:  1.50 s in all: about 1.5 s, not 4.5 s
