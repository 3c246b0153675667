// Concurrent tasks: a task group asks four weather stations at once.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/2_concurrent_tasks/task_group_weather.cpp -o weather && ./weather
//
// What it teaches: tasks of a group live no longer than the group's block. Where the block ends,
// all of them have ended, and their results can be read from the tasks without waiting. with() and
// task_group stand for Python's `async with asyncio.TaskGroup()`.
// Look at: the four calls of create_task() and the four calls of result(); no task is awaited by
// hand. --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string in_seconds(double t) { return std::to_string(t).substr(0, 4) + " s"; }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

asyncio::coro<int> ask(std::string station, asyncio::duration latency, int degrees) {
    asyncio::current_task().set_name(station); // for the timeline
    co_await asyncio::sleep(latency);          // stands for a request over the network
    say(station + " answers: " + std::to_string(degrees) + " degrees");
    co_return degrees;
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    asyncio::task<int> north, east, south, west; // empty handles, for now
    bool done_at_once = true;
    // The lambda only makes tasks. It may use our variables, as we wait until the group has ended.
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& group) {
        north = group.create_task(ask("north", 1s, 4));
        east = group.create_task(ask("east", 1.2s, 9));
        south = group.create_task(ask("south", 1.5s, 15));
        west = group.create_task(ask("west", 0.8s, 8));
        done_at_once = north.done() || east.done() || south.done() || west.done();
    }); // the group waits here for all of its tasks

    const double took = seconds();
    const bool all_done = north.done() && east.done() && south.done() && west.done();
    const int sum = north.result() + east.result() + south.result() + west.result();
    say("on average: " + std::to_string(sum / 4) + " degrees");
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(!done_at_once && all_done, "no task is done inside the block, and all are after it");
    claim(north.result() == 4 && east.result() == 9 && south.result() == 15 && west.result() == 8,
          "the results are read from the tasks");
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
            std::fputs("Four weather stations are asked at once in a task group.\n"
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
// holds:  no task is done inside the block, and all are after it
// holds:  the results are read from the tasks
// holds:  1.50 s in all: about 1.5 s, not 4.5 s
