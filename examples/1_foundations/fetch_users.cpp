// Foundations: one failure among five fetches costs only itself.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/1_foundations/fetch_users.cpp -o users && ./users
//
// What it teaches: with return_exceptions, gather() throws nothing. It gives one outcome for each
// coroutine: its value, or the error that ended it.
// Look at: user 2 does not exist, and the four others arrive all the same. The `!` in the timeline
// is the failure. --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
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

const std::map<int, std::string> names = {{1, "Alice"}, {3, "Carol"}, {4, "Dave"}, {5, "Erin"}};

asyncio::coro<std::string> fetch_user(int id) {
    const std::string user = "user " + std::to_string(id);
    asyncio::current_task().set_name(user); // for the timeline
    co_await asyncio::sleep(1s); // stands for a request over the network
    if (!names.contains(id)) throw std::runtime_error(user + " does not exist");
    co_return names.at(id);
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    std::vector<asyncio::coro<std::string>> fetches;
    for (int id = 1; id <= 5; ++id) fetches.push_back(fetch_user(id));
    // A coroutine runs once and is not copied: it is moved to whoever awaits it.
    const auto outcomes = co_await asyncio::gather(asyncio::return_exceptions, std::move(fetches));

    const double took = seconds();
    std::vector<std::string> found, errors;
    for (const asyncio::outcome<std::string>& outcome : outcomes) {
        if (outcome) found.push_back(*outcome);
        else errors.push_back(outcome.error().what());
    }
    for (const std::string& name : found) say("found " + name);
    for (const std::string& error : errors) say("error: " + error);
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(found.size() == 4 && errors.size() == 1,
          std::to_string(found.size()) + " users and " + std::to_string(errors.size()) + " error");
    claim(errors == std::vector<std::string>{"user 2 does not exist"}, "the error is user 2's");
    claim(took >= 1 && took < 2, num(took) + " s in all: about 1 s, not 5 s");
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
            std::fputs("One failure among five fetches costs only itself.\n"
                       "usage: users [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  1.00 s  found Alice
//  1.00 s  found Carol
//  1.00 s  found Dave
//  1.00 s  found Erin
//  1.00 s  error: user 2 does not exist
// time   |0                                                    1.000 s|
// Task-1 |============================================================| 0.000-1.000 s
// user 1 |============================================================| 0.000-1.000 s
// user 2 |===========================================================!| 0.000-1.000 s
// user 3 |============================================================| 0.000-1.000 s
// user 4 |============================================================| 0.000-1.000 s
// user 5 |============================================================| 0.000-1.000 s
// holds:  4 users and 1 error
// holds:  the error is user 2's
// holds:  1.00 s in all: about 1 s, not 5 s
