// Advanced patterns: a future is the place where a result will be.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/futures.cpp -o futures && ./futures
//
// What it teaches: there are three ways to a future: made by hand and resolved by a callback; a
// task, which is the future of its coroutine; a job in an executor. All have done() and result().
// Look at: the function describe() takes all three. Whoever asks for result() too early gets an
// error; whoever awaits the future waits for it. --virtual skips the waiting.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
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

std::string describe(const asyncio::future<int>& future) {
    const std::string text = future.done() ? "done, " : "pending, ";
    try {
        return text + "the result is " + std::to_string(future.result());
    } catch (const asyncio::invalid_state_error&) {
        return text + "result() is an error";
    }
}

// Says what the future is before and after it was awaited.
asyncio::coro<std::vector<std::string>> watch(std::string name, asyncio::future<int> future) {
    const std::string before = describe(future);
    say(name + ": " + before);
    co_await future;
    const std::string after = describe(future);
    say(name + ": " + after);
    co_return std::vector<std::string>{before, after};
}

asyncio::coro<int> slow_answer() {
    co_await asyncio::sleep(1s);
    co_return 42;
}

int primes_below(int limit) { // a job for a thread: it computes, and never waits
    int count = 0;
    for (int n = 2; n < limit; ++n) {
        bool prime = true;
        for (int d = 2; d * d <= n && prime; ++d) prime = n % d != 0;
        count += prime ? 1 : 0;
    }
    return count;
}

asyncio::coro<int> async_main() {
    const auto by_hand = asyncio::create_future<int>();
    asyncio::get_running_loop().call_later(1s, [by_hand] { by_hand.set_result(7); });
    const auto first = co_await watch("by hand", by_hand);

    const asyncio::task<int> task = asyncio::create_task(slow_answer());
    const auto second = co_await watch("task", task);

    // On one of the loop's own threads, which is what nullptr stands for; lesson 4 has others.
    const auto job = asyncio::run_in_executor(nullptr, primes_below, 20000);
    const auto third = co_await watch("executor", job);

    bool refused = false;
    try {
        by_hand.set_result(8);
    } catch (const asyncio::invalid_state_error&) {
        refused = true;
    }

    using words = std::vector<std::string>;
    const std::string too_early = "pending, result() is an error";
    claim(first == words{too_early, "done, the result is 7"}, "the one made by hand");
    claim(second == words{too_early, "done, the result is 42"}, "the task");
    claim(third == words{too_early, "done, the result is 2262"}, "the job in the executor");
    claim(refused && by_hand.result() == 7, "a result is set once: a second one is an error");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("A future is the place where a result will be.\n"
                       "usage: futures [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  0.00 s  by hand: pending, result() is an error
//  1.00 s  by hand: done, the result is 7
//  1.00 s  task: pending, result() is an error
//  2.00 s  task: done, the result is 42
//  2.00 s  executor: pending, result() is an error
//  2.00 s  executor: done, the result is 2262
// holds:  the one made by hand
// holds:  the task
// holds:  the job in the executor
// holds:  a result is set once: a second one is an error
