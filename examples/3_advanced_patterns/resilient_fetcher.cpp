// Advanced patterns: limits, retries and partial results together.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/resilient_fetcher.cpp -o fetcher && ./fetcher
//
// What it teaches: each attempt has a limit (2 s), each service has three attempts with growing
// gaps (1 and 2 s), and the whole has a limit, too. A task group within the limit makes sure that
// no fetch goes on when it is over; what was done before stays in the report.
// Look at: the slow service uses up its three attempts in 9 s; a limit of 6 s cuts in after two,
// and costs only that service. The flaky ones fail half of the time: try --seed N. --virtual skips
// the waiting; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
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

const std::vector<std::string> services = {"users", "orders",  "prices",
                                           "slow",  "flaky 1", "flaky 2"};
std::map<std::string, std::vector<double>> attempts; // when each began, by service

asyncio::coro<std::string> call(std::string service) {
    std::vector<double>& begun = attempts[service];
    begun.push_back(seconds());
    if (begun.size() > 1) say(service + ": attempt " + std::to_string(begun.size()));
    co_await asyncio::sleep(service == "slow" ? 4s : 0.5s); // stands for a request
    if (service.starts_with("flaky") && random_number() % 2 == 0) throw std::runtime_error("upset");
    co_return service + " data";
}

struct report {
    std::string status; // success, error or timeout
    std::string data;   // or the error
    double at;          // when it was known
};

asyncio::coro<report> fetch(std::string service) {
    asyncio::current_task().set_name(service); // for the timeline
    report r{"error", "", 0};
    try {
        r.data = co_await asyncio::retry(
            [&] { return call(service); },
            {.attempts = 3, .initial_delay = 1s, .jitter = 0, .timeout = 2s});
        r.status = "success";
    } catch (const asyncio::timeout_error&) {
        r.data = "late";
    } catch (const std::runtime_error& error) {
        r.data = error.what();
    }
    r.at = seconds();
    co_return r;
}

asyncio::coro<std::map<std::string, report>> fetch_all(asyncio::duration limit) {
    attempts.clear();
    std::map<std::string, asyncio::task<report>> tasks;
    auto start_all = [&](asyncio::task_group& group) {
        for (const std::string& service : services)
            tasks[service] = group.create_task(fetch(service));
    };
    try {
        co_await asyncio::with(asyncio::timeout(limit), [&] {
            return asyncio::with(asyncio::task_group(), start_all);
        });
    } catch (const asyncio::timeout_error&) {
        say("the limit for the whole cuts in");
    }
    std::map<std::string, report> reports;
    for (const std::string& service : services) {
        report& r = reports[service];
        r = tasks[service].cancelled() ? report{"timeout", "cut off", seconds()}
                                       : tasks[service].result();
        say("  " + service + ": " + r.status + ", " + r.data +
            ", attempts: " + std::to_string(attempts[service].size()));
    }
    co_return reports;
}

// All but the slow one gave data, or were upset three times in a row.
bool others_are_complete(const std::map<std::string, report>& reports) {
    for (const auto& [service, r] : reports) {
        const bool gave_up = r.data == "upset" && attempts[service].size() == 3;
        if (service != "slow" && r.data != service + " data" && !gave_up) return false;
    }
    return reports.size() == 6;
}

asyncio::coro<int> async_main(unsigned seed, std::string trace_file) {
    say("seed " + std::to_string(seed));
    random_number.seed(seed);
    asyncio::tracer trace(asyncio::get_running_loop());

    say("15 s for the whole:");
    auto patient = co_await fetch_all(15s);
    const report slow = patient["slow"];
    const std::vector<double> begun = attempts["slow"];
    claim(slow.status == "error" && begun.size() == 3 && slow.at >= 9 && slow.at < 14,
          "slow: an error after 3 attempts and " + num(slow.at) + " s (about 9 s)");
    const double gap = begun.at(1) - begun.at(0) - 2; // after an attempt of 2 s
    const double next = begun.at(2) - begun.at(1) - 2;
    claim(gap >= 1 - 1e-6 && next >= 2 - 1e-6 && next > gap,
          "the gaps between its attempts grow: " + num(gap) + ", " + num(next) + " s");
    claim(others_are_complete(patient), "the others: data, or an error after 3 attempts");

    const double restart = seconds();
    say("6 s for the whole:");
    auto hasty = co_await fetch_all(6s);
    const double took = seconds() - restart;
    claim(hasty["slow"].status == "timeout" && attempts["slow"].size() == 2,
          "slow: cut off after 2 attempts");
    claim(took >= 6 && took < 9, num(took) + " s in all: the limit of 6 s, not 9 s");
    claim(others_are_complete(hasty), "the others were done before, and their results stay");

    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    unsigned seed = 1;
    std::string trace_file;
    char more = 0;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else if (word == "--seed" && i + 1 < argc &&
                 std::sscanf(argv[i + 1], "%u%c", &seed, &more) == 1) ++i; // a number, no more
        else {
            std::fputs("Limits, retries and partial results together.\n"
                       "usage: fetcher [--virtual] [--seed N] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(seed, trace_file), options);
}
// Output:
//  0.00 s  seed 1
//  0.00 s  15 s for the whole:
//  1.50 s  flaky 2: attempt 2
//  3.00 s  slow: attempt 2
//  4.00 s  flaky 2: attempt 3
//  7.00 s  slow: attempt 3
//  9.00 s    users: success, users data, attempts: 1
//  9.00 s    orders: success, orders data, attempts: 1
//  9.00 s    prices: success, prices data, attempts: 1
//  9.00 s    slow: error, late, attempts: 3
//  9.00 s    flaky 1: success, flaky 1 data, attempts: 1
//  9.00 s    flaky 2: success, flaky 2 data, attempts: 3
// holds:  slow: an error after 3 attempts and 9.00 s (about 9 s)
// holds:  the gaps between its attempts grow: 1.00, 2.00 s
// holds:  the others: data, or an error after 3 attempts
//  9.00 s  6 s for the whole:
// 12.00 s  slow: attempt 2
// 15.00 s  the limit for the whole cuts in
// 15.00 s    users: success, users data, attempts: 1
// 15.00 s    orders: success, orders data, attempts: 1
// 15.00 s    prices: success, prices data, attempts: 1
// 15.00 s    slow: timeout, cut off, attempts: 2
// 15.00 s    flaky 1: success, flaky 1 data, attempts: 1
// 15.00 s    flaky 2: success, flaky 2 data, attempts: 1
// holds:  slow: cut off after 2 attempts
// holds:  6.00 s in all: the limit of 6 s, not 9 s
// holds:  the others were done before, and their results stay
// time    |0                                                   15.000 s|
// Task-1  |============================================================| 0.000-15.000 s
// users   |===                                                         | 0.000-0.500 s
// orders  |===                                                         | 0.000-0.500 s
// prices  |===                                                         | 0.000-0.500 s
// slow    |=====================================                       | 0.000-9.000 s
// flaky 1 |===                                                         | 0.000-0.500 s
// flaky 2 |===================                                         | 0.000-4.500 s
// users   |                                    ===                     | 9.000-9.500 s
// orders  |                                    ===                     | 9.000-9.500 s
// prices  |                                    ===                     | 9.000-9.500 s
// slow    |                                    =======================x| 9.000-15.000 s
// flaky 1 |                                    ===                     | 9.000-9.500 s
// flaky 2 |                                    ===                     | 9.000-9.500 s
