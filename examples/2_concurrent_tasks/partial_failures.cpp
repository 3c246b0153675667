// Concurrent tasks: one of three servers is out of reach, and the others' answers are kept.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/2_concurrent_tasks/partial_failures.cpp -o three && ./three
//
// What it teaches: the outcomes of gather(return_exceptions, ...) stand in the order of the
// arguments, so that the place tells which one failed. An outcome is asked first, then read.
// Look at: `if (outcome)`, `*outcome` and `outcome.error()` in the loop.
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

asyncio::coro<std::string> call(std::string server) {
    asyncio::current_task().set_name(server); // for the timeline
    co_await asyncio::sleep(0.5s);            // stands for a request over the network
    if (server == "B") throw std::runtime_error("B is unreachable");
    co_return "data from " + server;
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    const auto outcomes =
        co_await asyncio::gather(asyncio::return_exceptions, call("A"), call("B"), call("C"));

    const double took = seconds();
    std::vector<std::size_t> succeeded, failed; // places
    for (std::size_t i = 0; i < outcomes.size(); ++i) {
        const asyncio::outcome<std::string>& outcome = outcomes[i];
        if (outcome) {
            say(std::to_string(i) + ": success: " + *outcome);
            succeeded.push_back(i);
        } else {
            say(std::to_string(i) + ": failure: " + outcome.error().what());
            failed.push_back(i);
        }
    }
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(succeeded == std::vector<std::size_t>{0, 2},
          std::to_string(succeeded.size()) + " successes, at 0 and 2: A and C");
    claim(failed == std::vector<std::size_t>{1},
          std::to_string(failed.size()) + " failure, at 1: B");
    claim(took >= 0.5 && took < 1, in_seconds(took) + " in all: about 0.5 s, not 1.5 s");
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
            std::fputs("One of three servers is out of reach, and the others' answers are kept.\n"
                       "usage: three [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.50 s  0: success: data from A
//  0.50 s  1: failure: B is unreachable
//  0.50 s  2: success: data from C
// time   |0                                                    0.500 s|
// Task-1 |============================================================| 0.000-0.500 s
// A      |============================================================| 0.000-0.500 s
// B      |===========================================================!| 0.000-0.500 s
// C      |============================================================| 0.000-0.500 s
// holds:  2 successes, at 0 and 2: A and C
// holds:  1 failure, at 1: B
// holds:  0.50 s in all: about 0.5 s, not 1.5 s
