// Advanced patterns: how far retries get with a service that fails 70 % of the time.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/flaky_70.cpp -o flaky && ./flaky
//
// What it teaches: four attempts with pauses of 1, 2 and 4 s turn 30 % into 1 - 0.7^4 = 76 %. What
// you pay is time: who needs all four waits 7 s, and one client in four waits in vain.
// Look at: attempts and time of each client; the more attempts, the longer it took.
// --seed N draws other failures; --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <random>
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

std::minstd_rand random_number; // the same numbers on every machine
int calls = 0;                  // of the service, by all clients
int failures = 0;

asyncio::coro<> flaky_service() {
    ++calls;
    co_await asyncio::sleep(100ms); // stands for a request over the network
    if (random_number() % 100 >= 70) co_return;
    ++failures;
    throw std::runtime_error("the service failed");
}

struct report {
    int attempts = 0;
    bool success = false;
    double took = 0;
};

asyncio::coro<report> client(std::string name) {
    asyncio::current_task().set_name(name); // for the timeline
    report r;
    const double began = seconds();
    auto call = [&r] {
        ++r.attempts;
        return flaky_service();
    };
    try {
        co_await asyncio::retry(call, {.attempts = 4, .initial_delay = 1s, .jitter = 0});
        r.success = true;
    } catch (const std::runtime_error&) {
        // The last attempt failed, too.
    }
    r.took = seconds() - began;
    say(name + ": " + (r.success ? "data" : "nothing") +
        ", attempts: " + std::to_string(r.attempts));
    co_return r;
}

asyncio::coro<int> async_main(unsigned seed, std::string trace_file) {
    say("seed " + std::to_string(seed));
    random_number.seed(seed);
    asyncio::tracer trace(asyncio::get_running_loop());

    std::vector<asyncio::coro<report>> clients;
    for (int i = 1; i <= 10; ++i) clients.push_back(client("client " + std::to_string(i)));
    const std::vector<report> reports = co_await asyncio::gather(std::move(clients));

    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    const std::vector<double> pauses = {0, 0, 1, 1 + 2, 1 + 2 + 4}; // in all, by attempts
    int attempts = 0;
    int successes = 0;
    int early_quitters = 0; // gave up before the fourth attempt
    double earliest = 0; // against what the attempts and their pauses come to
    double latest = 0;
    for (const report& r : reports) {
        attempts += r.attempts;
        successes += r.success ? 1 : 0;
        early_quitters += !r.success && r.attempts < 4 ? 1 : 0;
        const double expected = pauses.at(static_cast<std::size_t>(r.attempts)) + r.attempts * 0.1;
        earliest = std::min(earliest, r.took - expected);
        latest = std::max(latest, r.took - expected);
    }
    claim(earliest > -1e-6 && latest < 3,
          "each took 0.1 s for each attempt, and 1, 2, 4 s between them: " + num(latest) +
              " s late at most");
    claim(attempts == calls && attempts - successes == failures,
          std::to_string(attempts) + " attempts reached the service, and " +
              std::to_string(failures) + " of them failed");
    claim(early_quitters == 0, std::to_string(successes) + " clients succeeded, and " +
                                   std::to_string(10 - successes) +
                                   " gave up, after all 4 attempts");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    unsigned seed = 2;
    std::string trace_file;
    char more = 0;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else if (word == "--seed" && i + 1 < argc &&
                 std::sscanf(argv[i + 1], "%u%c", &seed, &more) == 1) ++i; // a number, no more
        else {
            std::fputs("How far retries get with a service that fails 70 % of the time.\n"
                       "usage: flaky [--virtual] [--seed N] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(seed, trace_file), options);
}
// Output:
//  0.00 s  seed 2
//  0.10 s  client 2: data, attempts: 1
//  0.10 s  client 7: data, attempts: 1
//  0.10 s  client 9: data, attempts: 1
//  1.20 s  client 6: data, attempts: 2
//  1.20 s  client 10: data, attempts: 2
//  3.30 s  client 3: data, attempts: 3
//  3.30 s  client 8: data, attempts: 3
//  7.40 s  client 1: nothing, attempts: 4
//  7.40 s  client 4: nothing, attempts: 4
//  7.40 s  client 5: nothing, attempts: 4
// time      |0                                                    7.400 s|
// Task-1    |============================================================| 0.000-7.400 s
// client 1  |============================================================| 0.000-7.400 s
// client 2  |=                                                           | 0.000-0.100 s
// client 3  |===========================                                 | 0.000-3.300 s
// client 4  |============================================================| 0.000-7.400 s
// client 5  |============================================================| 0.000-7.400 s
// client 6  |==========                                                  | 0.000-1.200 s
// client 7  |=                                                           | 0.000-0.100 s
// client 8  |===========================                                 | 0.000-3.300 s
// client 9  |=                                                           | 0.000-0.100 s
// client 10 |==========                                                  | 0.000-1.200 s
// holds:  each took 0.1 s for each attempt, and 1, 2, 4 s between them: 0.00 s late at most
// holds:  25 attempts reached the service, and 18 of them failed
// holds:  7 clients succeeded, and 3 gave up, after all 4 attempts
