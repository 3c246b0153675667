// Foundations: five services at once, and one of them, chosen at random, fails.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/1_foundations/service_fetcher.cpp -o services && ./services
//
// What it teaches: gather() with return_exceptions keeps what arrived, whichever service fails,
// and reports the failure beside it.
// Look at: four results, one handled error, and a total of about 2 s, the longest latency.
// --seed N picks the failing service; --virtual skips the waiting; --trace FILE is for
// ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <fstream>
#include <iostream>
#include <random>
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

struct service {
    std::string name;
    asyncio::duration latency;
};
const std::vector<service> services = {
    {"weather", 0.5s}, {"news", 1.5s}, {"stock", 2s}, {"traffic", 0.7s}, {"health", 1.2s}};

asyncio::coro<std::string> fetch(service from, bool fails) {
    asyncio::current_task().set_name(from.name); // for the timeline
    co_await asyncio::sleep(from.latency); // stands for a request over the network
    if (fails) throw std::runtime_error(from.name + " is out of order");
    say(from.name + " is here");
    co_return from.name + " data";
}

asyncio::coro<int> async_main(unsigned seed, std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());
    std::minstd_rand random(seed); // the same numbers on every machine
    const std::size_t failing = random() % services.size();
    say("seed " + std::to_string(seed) + ": " + services[failing].name + " will fail");

    std::vector<asyncio::coro<std::string>> fetches;
    for (std::size_t i = 0; i < services.size(); ++i)
        fetches.push_back(fetch(services[i], i == failing));
    const auto outcomes = co_await asyncio::gather(asyncio::return_exceptions, std::move(fetches));

    const double took = seconds();
    std::size_t results = 0;
    for (std::size_t i = 0; i < services.size(); ++i) {
        const asyncio::outcome<std::string>& outcome = outcomes[i];
        results += outcome ? 1 : 0;
        say(services[i].name + ": " + (outcome ? *outcome : outcome.error().what()));
    }
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(results == 4 && !outcomes[failing],
          std::to_string(results) + " results, and the error is that of " + services[failing].name);
    claim(took >= 2 && took < 4, num(took) + " s in all: about 2 s, not 5.9 s");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    unsigned seed = 1;
    char more = 0;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else if (word == "--seed" && i + 1 < argc &&
                 std::sscanf(argv[i + 1], "%u%c", &seed, &more) == 1) ++i; // a number, no more
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("Five services at once, and one of them, chosen at random, fails.\n"
                       "usage: services [--virtual] [--seed N] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(seed, trace_file), options);
}
// Output:
//  0.00 s  seed 1: news will fail
//  0.50 s  weather is here
//  0.70 s  traffic is here
//  1.20 s  health is here
//  2.00 s  stock is here
//  2.00 s  weather: weather data
//  2.00 s  news: news is out of order
//  2.00 s  stock: stock data
//  2.00 s  traffic: traffic data
//  2.00 s  health: health data
// time    |0                                                    2.000 s|
// Task-1  |============================================================| 0.000-2.000 s
// weather |================                                            | 0.000-0.500 s
// news    |=============================================!              | 0.000-1.500 s
// stock   |============================================================| 0.000-2.000 s
// traffic |======================                                      | 0.000-0.700 s
// health  |=====================================                       | 0.000-1.200 s
// holds:  4 results, and the error is that of news
// holds:  2.00 s in all: about 2 s, not 5.9 s
