// Advanced patterns: a task is stopped in the middle, cleans up, and says that it was stopped.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/cancellation.cpp -o cancel && ./cancel
//
// What it teaches: cancel() throws a cancelled_error into the task, at the co_await where it waits.
// The task may catch it to clean up and must throw it on; whoever awaits the task gets it, too.
// It is no std::exception, so that a handler for errors does not swallow it; `catch (...)` would.
// Look at: two of ten steps are done, the third is cut off, and the cleanup runs.
// --virtual skips the waiting.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
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

std::vector<std::string> events;
void note(const std::string& event) {
    say(event);
    events.push_back(event);
}

asyncio::coro<int> long_work() {
    try {
        for (int step = 0; step < 10; ++step) {
            co_await asyncio::sleep(0.7s); // stands for waiting for a part of the work
            note("step " + std::to_string(step) + " is done");
        }
    } catch (const asyncio::cancelled_error&) {
        note("cleanup");
        throw; // without this line the task would end as if nobody had cancelled it
    }
    co_return 10;
}

asyncio::coro<int> async_main() {
    const auto task = asyncio::create_task(long_work());
    co_await asyncio::sleep(2s);
    const bool accepted = task.cancel(); // a request; the task has not ended yet
    const bool still_running = !task.done();
    say("cancel() was called");
    try {
        co_await task;
    } catch (const asyncio::cancelled_error&) { // the task's; were it our own, we would swallow it
        note("the caller sees a cancelled_error");
    }
    const double ended = seconds();

    claim(accepted && still_running, "cancel() is a request: the task ends when it runs next");
    claim(events == std::vector<std::string>{"step 0 is done", "step 1 is done", "cleanup",
                                             "the caller sees a cancelled_error"},
          "steps 0 and 1 ran, then the cleanup; awaiting the task throws cancelled_error");
    claim(task.cancelled() && ended >= 2 && ended < 5,
          "the task ended as cancelled after " + num(ended) + " s: about 2 s, not 7 s");
    claim(!task.cancel(), "there is nothing to cancel in a task that has ended");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("A task is stopped in the middle, cleans up, and says that it was stopped.\n"
                       "usage: cancel [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  0.70 s  step 0 is done
//  1.40 s  step 1 is done
//  2.00 s  cancel() was called
//  2.00 s  cleanup
//  2.00 s  the caller sees a cancelled_error
// holds:  cancel() is a request: the task ends when it runs next
// holds:  steps 0 and 1 ran, then the cleanup; awaiting the task throws cancelled_error
// holds:  the task ended as cancelled after 2.00 s: about 2 s, not 7 s
// holds:  there is nothing to cancel in a task that has ended
