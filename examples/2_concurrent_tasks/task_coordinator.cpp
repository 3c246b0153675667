// Concurrent tasks: eight services, two failures, and one time limit that loses no answer.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/2_concurrent_tasks/task_coordinator.cpp -o eight && ./eight
//
// What it teaches: keep the tasks, and wait() for them with a timeout. It throws no error of
// theirs and cancels nothing: it says which are done and which are not. A timeout around gather()
// would cancel them all and lose the answers that had come.
// Look at: coordinate(). The services that fail are drawn by --seed N. --virtual skips the
// waiting; --trace FILE is for ui.perfetto.dev.
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
std::string in_seconds(double t) { return std::to_string(t).substr(0, 4) + " s"; }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

struct service {
    std::string name;
    asyncio::duration latency;
    bool fails = false;
};

asyncio::coro<std::string> call(service s) {
    co_await asyncio::sleep(s.latency); // stands for a request over the network
    if (s.fails) throw std::runtime_error(s.name + " is out of order");
    co_return "data from " + s.name;
}

struct report {
    std::vector<std::string> successes, failures, cancelled;
    bool timed_out = false;
    double took = 0;
};

asyncio::coro<report> coordinate(std::vector<service> services, asyncio::duration limit) {
    const double began = seconds();
    std::vector<asyncio::task<std::string>> tasks;
    for (const service& s : services)
        tasks.push_back(asyncio::create_task(call(s), {.name = s.name}));

    auto [done, pending] = co_await asyncio::wait(tasks, {.timeout = limit});

    report result;
    for (asyncio::task<std::string>& task : done) {
        try {
            result.successes.push_back(task.result());
        } catch (const std::exception& error) {
            result.failures.push_back(error.what());
        }
    }
    result.timed_out = !pending.empty();
    for (asyncio::task<std::string>& task : pending) task.cancel();
    co_await asyncio::gather(asyncio::return_exceptions, pending); // now they have really ended
    for (const asyncio::task<std::string>& task : pending)
        if (task.cancelled()) result.cancelled.push_back(task.get_name());
    result.took = seconds() - began;
    co_return result;
}

void print(const report& result) {
    for (const std::string& text : result.successes) say(text);
    for (const std::string& text : result.failures) say("failure: " + text);
    for (const std::string& text : result.cancelled) say("cancelled: " + text);
}

asyncio::coro<int> async_main(unsigned seed, std::string trace_file) {
    say("seed " + std::to_string(seed));
    std::vector<service> services = {{"service 1", 0.5s}, {"service 2", 0.5s}, {"service 3", 0.5s},
                                     {"service 4", 1.5s}, {"service 5", 1.5s}, {"service 6", 1.5s},
                                     {"service 7", 2.5s}, {"service 8", 2.5s}};
    std::minstd_rand random(seed);
    const std::size_t first = random() % 8;
    const std::size_t second = (first + 1 + random() % 7) % 8; // another one
    services[first].fails = true;
    services[second].fails = true;
    asyncio::tracer trace(asyncio::get_running_loop());

    say("limit 5 s:");
    const report whole = co_await coordinate(services, 5s);
    print(whole);

    say("limit 2 s:");
    const report cut = co_await coordinate(services, 2s);
    print(cut);
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(whole.successes.size() == 6 && whole.failures.size() == 2 && !whole.timed_out,
          "5 s: " + std::to_string(whole.successes.size()) + " of 6 successes, " +
              std::to_string(whole.failures.size()) + " of 2 failures, not timed out");
    claim(whole.took >= 2.5 && whole.took < 4,
          "it takes as long as the slowest: " + in_seconds(whole.took) + ", not 11 s");
    claim(cut.timed_out && cut.successes.size() + cut.failures.size() == 6,
          "2 s: timed out, and the six fast ones are done");
    const std::vector<std::string> slow = {"service 7", "service 8"};
    claim(cut.cancelled == slow, "the two slow ones are cancelled");
    claim(cut.took >= 2 && cut.took < 2.5, "it ends at the limit of 2 s: " + in_seconds(cut.took));
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    std::string trace_file;
    unsigned seed = 1;
    char more = 0;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else if (word == "--seed" && i + 1 < argc &&
                 std::sscanf(argv[i + 1], "%u%c", &seed, &more) == 1)
            ++i; // a number, no more
        else {
            std::fputs("Eight services, two failures and one time limit that loses no answer.\n"
                       "usage: eight [--virtual] [--seed N] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(seed, trace_file), options);
}
// Output:
//  0.00 s  seed 1
//  0.00 s  limit 5 s:
//  2.50 s  data from service 2
//  2.50 s  data from service 3
//  2.50 s  data from service 4
//  2.50 s  data from service 5
//  2.50 s  data from service 6
//  2.50 s  data from service 7
//  2.50 s  failure: service 1 is out of order
//  2.50 s  failure: service 8 is out of order
//  2.50 s  limit 2 s:
//  4.50 s  data from service 2
//  4.50 s  data from service 3
//  4.50 s  data from service 4
//  4.50 s  data from service 5
//  4.50 s  data from service 6
//  4.50 s  failure: service 1 is out of order
//  4.50 s  cancelled: service 7
//  4.50 s  cancelled: service 8
// time      |0                                                    4.500 s|
// Task-1    |============================================================| 0.000-4.500 s
// service 1 |======!                                                     | 0.000-0.500 s
// service 2 |=======                                                     | 0.000-0.500 s
// service 3 |=======                                                     | 0.000-0.500 s
// service 4 |=====================                                       | 0.000-1.500 s
// service 5 |=====================                                       | 0.000-1.500 s
// service 6 |=====================                                       | 0.000-1.500 s
// service 7 |==================================                          | 0.000-2.500 s
// service 8 |=================================!                          | 0.000-2.500 s
// service 1 |                                 =======!                   | 2.500-3.000 s
// service 2 |                                 ========                   | 2.500-3.000 s
// service 3 |                                 ========                   | 2.500-3.000 s
// service 4 |                                 =====================      | 2.500-4.000 s
// service 5 |                                 =====================      | 2.500-4.000 s
// service 6 |                                 =====================      | 2.500-4.000 s
// service 7 |                                 ==========================x| 2.500-4.500 s
// service 8 |                                 ==========================x| 2.500-4.500 s
// holds:  5 s: 6 of 6 successes, 2 of 2 failures, not timed out
// holds:  it takes as long as the slowest: 2.50 s, not 11 s
// holds:  2 s: timed out, and the six fast ones are done
// holds:  the two slow ones are cancelled
// holds:  it ends at the limit of 2 s: 2.00 s
