// Concurrent tasks: three agents that must succeed, and three that may fail.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/2_concurrent_tasks/agent_coordinator.cpp -o agents && ./agents
//
// What it teaches: group and gather() together. The required agents are tasks of a group; the
// optional ones are gathered, with return_exceptions, inside the group's block. So an optional
// failure is a result like others, and a required one ends the block, and all six with it.
// Look at: coordinate(). The lambda is a coroutine here, as it awaits.
// --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
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

using names = std::vector<std::string>;
names cancelled; // agents of the present run

asyncio::coro<std::string> agent(std::string name, asyncio::duration takes, bool fails) {
    asyncio::current_task().set_name(name); // for the timeline
    try {
        co_await asyncio::sleep(takes); // stands for real work
    } catch (const asyncio::cancelled_error&) {
        cancelled.push_back(name);
        throw;
    }
    if (fails) {
        say(name + " fails");
        throw std::runtime_error(name + " failed");
    }
    say(name + " is done");
    co_return name + "'s result";
}

struct report {
    names results, errors;
    bool aborted = false;
    double took = 0;
};

// Runs all six; the agent called `failing` fails.
asyncio::coro<report> coordinate(std::string failing) {
    const double began = seconds();
    report r;
    std::vector<asyncio::task<std::string>> required;
    std::vector<asyncio::outcome<std::string>> optional;
    cancelled.clear();
    try {
        co_await asyncio::with(
            asyncio::task_group(), [&](asyncio::task_group& group) -> asyncio::coro<> {
                required.push_back(group.create_task(agent("planner", 1s, failing == "planner")));
                required.push_back(group.create_task(agent("writer", 1.5s, failing == "writer")));
                required.push_back(group.create_task(agent("checker", 2.5s, failing == "checker")));
                const auto outcomes = co_await asyncio::gather(
                    asyncio::return_exceptions, agent("painter", 0.5s, failing == "painter"),
                    agent("translator", 2s, failing == "translator"),
                    agent("adviser", 3s, failing == "adviser"));
                optional.assign(outcomes.begin(), outcomes.end());
            });
        for (const auto& task : required) r.results.push_back(task.result());
        for (const auto& outcome : optional) {
            if (outcome) r.results.push_back(*outcome);
            else r.errors.push_back(outcome.error().what());
        }
    } catch (const asyncio::exception_group& group) {
        group.for_each<std::exception>(
            [&](const std::exception& error) { r.errors.push_back(error.what()); });
        r.aborted = true;
    }
    r.took = seconds() - began;
    for (const std::string& text : r.errors) say((r.aborted ? "aborted: " : "without: ") + text);
    co_return r;
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    say("an optional agent fails:");
    const report tolerated = co_await coordinate("painter");
    const names nobody = cancelled;

    say("a required agent fails:");
    const report aborted = co_await coordinate("writer");
    names rest = cancelled;
    std::sort(rest.begin(), rest.end());
    for (const std::string& name : rest) say(name + " is cancelled");
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(tolerated.results.size() == 5 && tolerated.errors == names{"painter failed"} &&
              !tolerated.aborted && nobody.empty(),
          "an optional failure costs its own result: " + std::to_string(tolerated.results.size()) +
              " of 6 are there");
    claim(tolerated.took >= 3, "and the others take their time: " + in_seconds(tolerated.took));
    claim(aborted.aborted && aborted.errors == names{"writer failed"} && aborted.results.empty(),
          "a required failure ends everything: no result, and its error is thrown");
    claim(rest == names{"adviser", "checker", "translator"},
          "those that were not done are cancelled, required or not");
    claim(aborted.took >= 1.5 && aborted.took < 2,
          "at the failure, at 1.5 s: " + in_seconds(aborted.took));
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
            std::fputs("Three agents that must succeed, and three that may fail.\n"
                       "usage: agents [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.00 s  an optional agent fails:
//  0.50 s  painter fails
//  1.00 s  planner is done
//  1.50 s  writer is done
//  2.00 s  translator is done
//  2.50 s  checker is done
//  3.00 s  adviser is done
//  3.00 s  without: painter failed
//  3.00 s  a required agent fails:
//  3.50 s  painter is done
//  4.00 s  planner is done
//  4.50 s  writer fails
//  4.50 s  aborted: writer failed
//  4.50 s  adviser is cancelled
//  4.50 s  checker is cancelled
//  4.50 s  translator is cancelled
// time       |0                                                    4.500 s|
// Task-1     |============================================================| 0.000-4.500 s
// planner    |==============                                              | 0.000-1.000 s
// writer     |=====================                                       | 0.000-1.500 s
// checker    |==================================                          | 0.000-2.500 s
// painter    |======!                                                     | 0.000-0.500 s
// translator |===========================                                 | 0.000-2.000 s
// adviser    |=========================================                   | 0.000-3.000 s
// planner    |                                        ==============      | 3.000-4.000 s
// writer     |                                        ===================!| 3.000-4.500 s
// checker    |                                        ===================x| 3.000-4.500 s
// painter    |                                        =======             | 3.000-3.500 s
// translator |                                        ===================x| 3.000-4.500 s
// adviser    |                                        ===================x| 3.000-4.500 s
// holds:  an optional failure costs its own result: 5 of 6 are there
// holds:  and the others take their time: 3.00 s
// holds:  a required failure ends everything: no result, and its error is thrown
// holds:  those that were not done are cancelled, required or not
// holds:  at the failure, at 1.5 s: 1.50 s
