// Foundations: a dashboard of ten services, asked in turn and all at once.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/1_foundations/dashboard.cpp -o dash && ./dash
//
// What it teaches: co_await in a loop asks one service after the other. A vector of coroutines,
// given to gather(), asks all of them at the same time.
// Look at: 20 s against 2 s, for the same answers. The timeline shows the second part.
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
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

const std::vector<std::string> services = {"orders", "payments", "stock",  "mail",    "search",
                                           "users",  "billing",  "images", "reports", "logins"};

asyncio::coro<std::string> ask(std::string service) {
    co_await asyncio::sleep(2s); // stands for a request over the network
    say(service + " answers");
    co_return service + " is up";
}

asyncio::coro<int> async_main(std::string trace_file) {
    say("in turn:");
    std::vector<std::string> one_by_one;
    for (const std::string& service : services) one_by_one.push_back(co_await ask(service));
    const double in_turn = seconds();

    say("at once:");
    asyncio::tracer trace(asyncio::get_running_loop());
    std::vector<asyncio::coro<std::string>> questions; // nothing runs yet
    for (const std::string& service : services) questions.push_back(ask(service));
    const std::vector<std::string> together = co_await asyncio::gather(std::move(questions));
    const double at_once = seconds() - in_turn;

    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(one_by_one == together, "both ways give the same answers in the same order");
    claim(in_turn >= 20, num(in_turn) + " s in turn: ten times 2 s");
    claim(at_once >= 2 && at_once < 5, num(at_once) + " s at once: about 2 s");
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
            std::fputs("A dashboard of ten services, asked in turn and all at once.\n"
                       "usage: dash [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.00 s  in turn:
//  2.00 s  orders answers
//  4.00 s  payments answers
//  6.00 s  stock answers
//  8.00 s  mail answers
// 10.00 s  search answers
// 12.00 s  users answers
// 14.00 s  billing answers
// 16.00 s  images answers
// 18.00 s  reports answers
// 20.00 s  logins answers
// 20.00 s  at once:
// 22.00 s  orders answers
// 22.00 s  payments answers
// 22.00 s  stock answers
// 22.00 s  mail answers
// 22.00 s  search answers
// 22.00 s  users answers
// 22.00 s  billing answers
// 22.00 s  images answers
// 22.00 s  reports answers
// 22.00 s  logins answers
// time    |0                                                    2.000 s|
// Task-1  |============================================================| 0.000-2.000 s
// Task-2  |============================================================| 0.000-2.000 s
// Task-3  |============================================================| 0.000-2.000 s
// Task-4  |============================================================| 0.000-2.000 s
// Task-5  |============================================================| 0.000-2.000 s
// Task-6  |============================================================| 0.000-2.000 s
// Task-7  |============================================================| 0.000-2.000 s
// Task-8  |============================================================| 0.000-2.000 s
// Task-9  |============================================================| 0.000-2.000 s
// Task-10 |============================================================| 0.000-2.000 s
// Task-11 |============================================================| 0.000-2.000 s
// holds:  both ways give the same answers in the same order
// holds:  20.00 s in turn: ten times 2 s
// holds:  2.00 s at once: about 2 s
