// Foundations: the mistakes that everybody makes once, and how they show.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/1_foundations/common_mistakes.cpp -o oops && ./oops
//
// What it teaches: calling a coroutine does not run it; run() belongs into main() and never into a
// coroutine; what a task refers to must live as long as the task; and a coroutine that blocks its
// thread stops all others. Debug mode, which is on here, reports all but the second by name.
// Look at: the messages, and how long the heart stands still. --quick blocks for a shorter time.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>
#include <thread>
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

std::vector<std::string> warnings; // what debug mode reports

int answers = 0;

asyncio::coro<int> answer() {
    ++answers;
    co_await asyncio::sleep(10ms);
    co_return 42;
}

asyncio::coro<> forgotten_await() {
    say("a coroutine that nobody awaits:");
    {
        // The compiler warns of a mere `answer();`, but not when it has a name.
        auto forgotten = answer(); // Mistake: this runs nothing
    }
    const bool reported = warnings.size() == 1 && warnings[0].find("answer") != std::string::npos;
    claim(answers == 0 && reported, "it never ran, and debug mode says where it is written");
    const int right = co_await answer(); // this is how
    claim(right == 42 && answers == 1, "with co_await it runs");
}

asyncio::coro<> run_inside_run() {
    say("run() inside a coroutine:");
    std::string error;
    try {
        asyncio::run(answer()); // Mistake: this thread runs a loop already
    } catch (const std::runtime_error& e) {
        error = e.what();
    }
    say("  " + error);
    claim(!error.empty(), "run() throws; inside a coroutine it is co_await");
    co_return; // no co_await in here: this makes it a coroutine
}

// A coroutine keeps what it takes by value. Of a reference it keeps only the reference.
asyncio::coro<std::size_t> length_of(const std::string& text) {
    co_await asyncio::sleep(10ms);
    co_return text.size(); // Mistake in a task: where is the text by now?
}
asyncio::coro<std::size_t> length_of_copy(std::string text) {
    co_await asyncio::sleep(10ms);
    co_return text.size(); // this is how
}

asyncio::coro<> short_lived_references() {
    say("a task that keeps a reference only, and one whose lambda is gone:");
    warnings.clear();
    const std::string text = "a text that lives long enough, this time";
    const auto captured = [text]() -> asyncio::coro<std::size_t> {
        co_await asyncio::sleep(10ms);
        co_return text.size(); // the text is in the lambda, not in the coroutine
    };
    // `co_await length_of(text)` is right: we wait, and so the text waits. A task goes on alone.
    const std::size_t first = co_await asyncio::create_task(length_of(text)); // Mistake
    const std::size_t second = co_await asyncio::create_task(captured());     // Mistake
    claim(first == second && warnings.size() == 2, "both went well, and debug mode warns of both");

    const std::size_t copied = co_await asyncio::create_task(length_of_copy(text)); // this is how,
    const std::size_t kept = co_await asyncio::create_task(captured); // and not `captured()`
    claim(copied == first && kept == first && warnings.size() == 2,
          "a copy, and the lambda itself, live as long as the task");
}

double longest_pause = 0;

asyncio::coro<> heart() { // beats every 10 ms, if it is let
    double last_beat = seconds();
    while (true) {
        co_await asyncio::sleep(10ms);
        longest_pause = std::max(longest_pause, seconds() - last_beat);
        last_beat = seconds();
    }
}

asyncio::coro<> blocking(asyncio::duration pause) {
    std::this_thread::sleep_for(std::chrono::nanoseconds(pause)); // Mistake: nobody else runs
    co_return;
}
asyncio::coro<> waiting(asyncio::duration pause) { co_await asyncio::sleep(pause); }

// How long the heart stood still beside `work`.
asyncio::coro<double> pause_beside(asyncio::coro<> work, const char* name) {
    co_await asyncio::sleep(50ms);
    longest_pause = 0;
    co_await asyncio::create_task(std::move(work), {.name = name});
    co_await asyncio::sleep(50ms);
    co_return longest_pause;
}

asyncio::coro<> blocked_loop(asyncio::duration pause) {
    const auto beating = asyncio::create_task(heart());

    say("a blocking sleep inside a coroutine:");
    warnings.clear();
    const double blocked = co_await pause_beside(blocking(pause), "blocking");
    const std::size_t reported = warnings.size();
    say("an awaited one:");
    const double waited = co_await pause_beside(waiting(pause), "waiting");

    beating.cancel();
    claim(blocked >= pause.total_seconds(), "the heart stood still for " + num(blocked) + " s");
    claim(reported >= 1, "debug mode reports the task that blocked");
    claim(waited < blocked / 2, "beside the awaited one, for " + num(waited) + " s at most");
}

asyncio::coro<int> async_main(asyncio::duration pause) {
    asyncio::get_running_loop().set_exception_handler(
        [](asyncio::event_loop&, const asyncio::exception_context& context) {
            say("  " + context.message);
            warnings.push_back(context.message);
        });
    co_await forgotten_await();
    co_await run_inside_run();
    co_await short_lived_references();
    co_await blocked_loop(pause);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::duration pause = 1s;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") pause = 300ms;
        else {
            std::fputs("The mistakes that everybody makes once, and how they show.\n"
                       "usage: oops [--quick]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(pause), {.debug = true});
}
// Output:
//  0.00 s  a coroutine that nobody awaits:
//  0.00 s    a coroutine was never awaited; co_await it, or give it to create_task(): asyncio::v0_1_0::coro<int> answer(), examples/1_foundations/common_mistakes.cpp:37
// holds:  it never ran, and debug mode says where it is written
// holds:  with co_await it runs
//  0.01 s  run() inside a coroutine:
//  0.01 s    asyncio::run: a loop is running on this thread already; co_await the work instead
// holds:  run() throws; inside a coroutine it is co_await
//  0.01 s  a task that keeps a reference only, and one whose lambda is gone:
//  0.01 s    the coroutine of a task takes a reference, and what that refers to may end before the task; take the parameter by value, or pass the function and its arguments to create_task(), which keeps them: asyncio::v0_1_0::coro<long unsigned int> length_of(const std::string&), examples/1_foundations/common_mistakes.cpp:68
//  0.02 s    the coroutine of a task is a closure with captures that nobody keeps while the task runs; pass the closure itself, not its call, to create_task(), which keeps it: short_lived_references()::<lambda()>, examples/1_foundations/common_mistakes.cpp:81
// holds:  both went well, and debug mode warns of both
// holds:  a copy, and the lambda itself, live as long as the task
//  0.05 s  a blocking sleep inside a coroutine:
//  1.10 s    a step of task 'blocking' took 1.001485 s and blocked the loop; give such work to to_thread() or an executor
//  1.15 s  an awaited one:
// holds:  the heart stood still for 1.01 s
// holds:  debug mode reports the task that blocked
// holds:  beside the awaited one, for 0.01 s at most
