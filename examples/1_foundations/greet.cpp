// Foundations: a coroutine, and the loop that runs it.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/1_foundations/greet.cpp -o greet && ./greet
//
// What it teaches: a coroutine is a function that can pause; run() starts a loop, runs the
// coroutine on it and gives back what it returns.
// Look at: main(). Calling greet() runs nothing yet; run() does. --virtual skips the pause.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <string>
#include <string_view>
using namespace std::chrono_literals;

// A coroutine is a function that can pause: one with co_await, co_return or co_yield in it.
// Calling it only creates it; nothing runs until somebody awaits it. This one takes `name` by value
// and so has a string of its own, whatever becomes of the caller's while it pauses.
asyncio::coro<std::string> greet(std::string name) {
    co_await asyncio::sleep(10ms); // other tasks may run during this pause
    co_return "Hello, " + name + "!";
}

int main(int argc, char** argv) {
    // As in all examples: --help; and --virtual, a clock that jumps to where the waiting ends.
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("A coroutine, and the loop that runs it.\nusage: greet [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }

    // Longer programs do everything in a coroutine, and begin it by run_main(): see the next one.
    const std::string greeting = asyncio::run(greet("Alice"), options);
    std::puts(greeting.c_str());

    const bool holds = greeting == "Hello, Alice!";
    std::printf("%s run() gives what the coroutine returns\n", holds ? "holds: " : "BROKEN:");
    return holds ? 0 : 1;
}
// Output:
// Hello, Alice!
// holds:  run() gives what the coroutine returns
