// Foundations: looking at tasks while they run.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/1_foundations/inspect_tasks.cpp -o tasks && ./tasks
//
// What it teaches: a task is scheduled by create_task(), runs when it is its turn, waits, and is
// done at last. all_tasks() lists the unfinished ones, current_task() is the one that runs.
// Look at: how the states change, and the call graph: where a task waits, and who waits for it.
// --virtual skips the waiting.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

std::vector<asyncio::task<int>> tasks; // handles: the copies of one mean the same task
std::string seen_by_c, seen_by_watcher, unfinished;

std::string state(const asyncio::task<int>& task) {
    if (task.done()) return "done";
    return task == asyncio::current_task() ? "running" : "pending";
}

std::string states() {
    std::string text;
    for (const asyncio::task<int>& task : tasks)
        text += (text.empty() ? "" : ", ") + task.get_name() + " " + state(task);
    say(text);
    return text;
}

asyncio::coro<> receive(int amount) { co_await asyncio::sleep(amount * 1s); }

asyncio::coro<int> download(int amount) {
    if (asyncio::current_task().get_name() == "C") seen_by_c = states();
    co_await receive(amount); // stands for data from the network
    co_return amount;
}

asyncio::coro<> watch() {
    co_await asyncio::sleep(2.5s);
    say("two and a half seconds later:");
    seen_by_watcher = states();

    // any_task: a handle like task<int>, of a task that returns whatever it likes.
    for (const asyncio::any_task& task : asyncio::all_tasks()) unfinished += " " + task.get_name();
    say("unfinished:" + unfinished);
    say("where E waits, and who waits for E:");
    asyncio::print_call_graph(tasks[4], std::cout);
}

asyncio::coro<int> async_main() {
    for (const char* name : {"A", "B", "C", "D", "E"}) {
        const int amount = static_cast<int>(tasks.size()) + 1;
        tasks.push_back(asyncio::create_task(download(amount), {.name = name}));
    }
    const asyncio::task<> watcher = asyncio::create_task(watch(), {.name = "watcher"});
    say("scheduled, and none of them has begun:");
    const std::string at_first = states();

    say("when it is C's turn:");
    co_await asyncio::gather(tasks);
    co_await watcher;
    say("at the end:");
    const std::string at_last = states();

    claim(at_first == "A pending, B pending, C pending, D pending, E pending",
          "what is scheduled is pending");
    claim(seen_by_c == "A pending, B pending, C running, D pending, E pending",
          "one task runs at a time; the others wait");
    claim(seen_by_watcher == "A done, B done, C pending, D pending, E pending",
          "after 2.5 s those of 1 s and 2 s are done");
    claim(unfinished == " Task-1 C D E watcher", "all_tasks() lists the unfinished ones");
    claim(at_last == "A done, B done, C done, D done, E done", "in the end all are done");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("Looking at tasks while they run.\nusage: tasks [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  0.00 s  scheduled, and none of them has begun:
//  0.00 s  A pending, B pending, C pending, D pending, E pending
//  0.00 s  when it is C's turn:
//  0.00 s  A pending, B pending, C running, D pending, E pending
//  2.50 s  two and a half seconds later:
//  2.50 s  A done, B done, C pending, D pending, E pending
//  2.50 s  unfinished: Task-1 C D E watcher
//  2.50 s  where E waits, and who waits for E:
// * task 'E'
//   awaits in
//   | download, examples/1_foundations/inspect_tasks.cpp:47
//   | receive, examples/1_foundations/inspect_tasks.cpp:43
//   awaited by
//     * task 'Task-1'
//       awaits in
//       | async_main, examples/1_foundations/inspect_tasks.cpp:73
//  5.00 s  at the end:
//  5.00 s  A done, B done, C done, D done, E done
// holds:  what is scheduled is pending
// holds:  one task runs at a time; the others wait
// holds:  after 2.5 s those of 1 s and 2 s are done
// holds:  all_tasks() lists the unfinished ones
// holds:  in the end all are done
