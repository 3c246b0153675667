// Concurrent tasks: one of five tasks fails, and gather() deals with it in two ways.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/2_concurrent_tasks/five_one_fails.cpp -o five && ./five
//
// What it teaches: gather() throws the first error as soon as it happens. That ends the wait, not
// the tasks: those that run go on, and whoever has their handles can still await them. With
// return_exceptions it waits for all, and throws nothing.
// Look at: tasks 4 and 5 of the first part. --virtual skips the waiting; --trace FILE is for
// ui.perfetto.dev.
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

asyncio::coro<int> work(int number) {
    const std::string name = "task " + std::to_string(number);
    asyncio::current_task().set_name(name);  // for the timeline
    co_await asyncio::sleep(number * 500ms); // stands for real work
    if (number == 3) throw std::runtime_error(name + " failed");
    say(name + " ends");
    co_return number * 10;
}

std::vector<asyncio::task<int>> start_five() {
    std::vector<asyncio::task<int>> tasks;
    for (int number = 1; number <= 5; ++number) tasks.push_back(asyncio::create_task(work(number)));
    return tasks;
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    say("gather() as it is:");
    std::vector<asyncio::task<int>> tasks = start_five();
    std::string thrown;
    try {
        co_await asyncio::gather(tasks);
    } catch (const std::runtime_error& error) {
        thrown = error.what();
    }
    const double thrown_at = seconds();
    say("gather() throws: " + thrown);
    std::vector<int> still_running;
    for (int number = 1; number <= 5; ++number)
        if (!tasks[static_cast<std::size_t>(number - 1)].done()) still_running.push_back(number);
    co_await asyncio::wait(tasks); // throws nothing
    const int late_sum = tasks[3].result() + tasks[4].result();
    const double first_took = seconds();

    say("gather() with return_exceptions:");
    const auto outcomes = co_await asyncio::gather(asyncio::return_exceptions, start_five());
    const double second_took = seconds() - first_took;
    int values = 0;
    std::vector<std::string> errors;
    for (const asyncio::outcome<int>& outcome : outcomes) {
        say(outcome ? "value: " + std::to_string(*outcome)
                    : std::string("error: ") + outcome.error().what());
        if (outcome) ++values;
        else errors.push_back(outcome.error().what());
    }
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(thrown == "task 3 failed" && thrown_at >= 1.5 && thrown_at < 2,
          "the error of task 3 is thrown when it happens, at " + in_seconds(thrown_at));
    claim(still_running == std::vector<int>{4, 5}, "tasks 4 and 5 run then, and nobody stops them");
    claim(late_sum == 90 && first_took >= 2.5,
          "they end at " + in_seconds(first_took) + ", with results: " + std::to_string(late_sum));
    claim(values == 4 && errors == std::vector<std::string>{"task 3 failed"},
          "with return_exceptions: " + std::to_string(values) + " values and " +
              std::to_string(errors.size()) + " error, and nothing is thrown");
    claim(second_took >= 2.5, "that takes as long as the longest: " + in_seconds(second_took));
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
            std::fputs("One of five tasks fails: what gather() throws, and which tasks go on.\n"
                       "usage: five [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.00 s  gather() as it is:
//  0.50 s  task 1 ends
//  1.00 s  task 2 ends
//  1.50 s  gather() throws: task 3 failed
//  2.00 s  task 4 ends
//  2.50 s  task 5 ends
//  2.50 s  gather() with return_exceptions:
//  3.00 s  task 1 ends
//  3.50 s  task 2 ends
//  4.50 s  task 4 ends
//  5.00 s  task 5 ends
//  5.00 s  value: 10
//  5.00 s  value: 20
//  5.00 s  error: task 3 failed
//  5.00 s  value: 40
//  5.00 s  value: 50
// time   |0                                                    5.000 s|
// Task-1 |============================================================| 0.000-5.000 s
// task 1 |=======                                                     | 0.000-0.500 s
// task 2 |=============                                               | 0.000-1.000 s
// task 3 |==================!                                         | 0.000-1.500 s
// task 4 |=========================                                   | 0.000-2.000 s
// task 5 |===============================                             | 0.000-2.500 s
// task 1 |                              =======                       | 2.500-3.000 s
// task 2 |                              =============                 | 2.500-3.500 s
// task 3 |                              ==================!           | 2.500-4.000 s
// task 4 |                              =========================     | 2.500-4.500 s
// task 5 |                              ==============================| 2.500-5.000 s
// holds:  the error of task 3 is thrown when it happens, at 1.50 s
// holds:  tasks 4 and 5 run then, and nobody stops them
// holds:  they end at 2.50 s, with results: 90
// holds:  with return_exceptions: 4 values and 1 error, and nothing is thrown
// holds:  that takes as long as the longest: 2.50 s
