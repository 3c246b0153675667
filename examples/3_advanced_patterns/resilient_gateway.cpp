// Advanced patterns: a gateway that lives with slow, flaky and dead services.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/resilient_gateway.cpp -o gateway && ./gateway
//
// What it teaches: the three protections in their order, from the inside out. A limit of 2 s around
// each call turns a late one into a failure; a breaker around that counts failures; retry() around
// both tries up to three times, but not when the circuit is open.
// Look at: the slow and the flaky service answer at a second attempt in every round. The dead one
// costs three calls in the first round, and after that neither calls nor time.
// --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <fstream>
#include <iostream>
#include <stdexcept>
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

class route { // to one service
public:
    explicit route(std::string service) : service_(std::move(service)) {}

    asyncio::coro<std::string> request() {
        asyncio::current_task().set_name(service_); // for the timeline
        auto guarded_call = [this] {
            return breaker_.call([this] { return asyncio::wait_for(call(), 2s); });
        };
        auto worth_another_try = [](const asyncio::error& error) {
            return !error.holds<asyncio::circuit_open_error>();
        };
        const double began = seconds();
        std::string answer;
        try {
            answer = co_await asyncio::retry(
                guarded_call, {.attempts = 3, .initial_delay = 0.5s, .jitter = 0},
                worth_another_try);
        } catch (const asyncio::circuit_open_error&) {
            answer = "not called";
        } catch (const std::runtime_error& error) {
            answer = error.what();
        }
        took = seconds() - began;
        say("  " + service_ + ": " + answer);
        co_return answer;
    }

    int calls = 0;   // that reached the service
    double took = 0; // the last request

private:
    asyncio::coro<std::string> call() {
        ++calls;
        const bool bad = calls % 2 == 1 || service_ == "dead"; // every other call, or every call
        co_await asyncio::sleep(bad && service_ == "slow" ? 5s : 0.2s); // stands for a request
        if (bad) throw std::runtime_error("failed");
        co_return "data";
    }

    std::string service_;
    asyncio::circuit_breaker breaker_{{.failures = 3, .open_for = 60s}};
};

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    route slow("slow");
    route flaky("flaky");
    route dead("dead");
    std::vector<std::string> slow_answers, flaky_answers, dead_answers;
    std::vector<int> calls_of_dead; // so far, after each round
    for (int round = 1; round <= 4; ++round) {
        say("round " + std::to_string(round));
        const auto [a, b, c] =
            co_await asyncio::gather(slow.request(), flaky.request(), dead.request());
        slow_answers.push_back(a);
        flaky_answers.push_back(b);
        dead_answers.push_back(c);
        calls_of_dead.push_back(dead.calls);
    }

    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    using words = std::vector<std::string>;
    const words data = {"data", "data", "data", "data"};
    claim(slow_answers == data && slow.calls == 8,
          "slow: data in every round, with " + std::to_string(slow.calls) + " calls in 4 rounds");
    claim(flaky_answers == data && flaky.calls == 8,
          "flaky: data in every round, with " + std::to_string(flaky.calls) + " calls in 4 rounds");
    claim(dead_answers == words{"failed", "not called", "not called", "not called"} &&
              calls_of_dead == std::vector<int>{3, 3, 3, 3},
          "dead: " + std::to_string(calls_of_dead[0]) + " calls in the first round, then none: " +
              std::to_string(dead.calls) + " in the end");
    claim(dead.took < 1, "a request to the dead service costs " + num(dead.took) + " s now");
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
            std::fputs("A gateway that lives with slow, flaky and dead services.\n"
                       "usage: gateway [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.00 s  round 1
//  0.90 s    flaky: data
//  2.10 s    dead: failed
//  2.70 s    slow: data
//  2.70 s  round 2
//  2.70 s    dead: not called
//  3.60 s    flaky: data
//  5.40 s    slow: data
//  5.40 s  round 3
//  5.40 s    dead: not called
//  6.30 s    flaky: data
//  8.10 s    slow: data
//  8.10 s  round 4
//  8.10 s    dead: not called
//  9.00 s    flaky: data
// 10.80 s    slow: data
// time   |0                                                   10.800 s|
// Task-1 |============================================================| 0.000-10.800 s
// slow   |================                                            | 0.000-2.700 s
// flaky  |======                                                      | 0.000-0.900 s
// dead   |============                                                | 0.000-2.100 s
// slow   |               ================                             | 2.700-5.400 s
// flaky  |               ======                                       | 2.700-3.600 s
// dead   |               =                                            | 2.700-2.700 s
// slow   |                              ================              | 5.400-8.100 s
// flaky  |                              ======                        | 5.400-6.300 s
// dead   |                              =                             | 5.400-5.400 s
// slow   |                                             ===============| 8.100-10.800 s
// flaky  |                                             ======         | 8.100-9.000 s
// dead   |                                             =              | 8.100-8.100 s
// holds:  slow: data in every round, with 8 calls in 4 rounds
// holds:  flaky: data in every round, with 8 calls in 4 rounds
// holds:  dead: 3 calls in the first round, then none: 3 in the end
// holds:  a request to the dead service costs 0.00 s now
