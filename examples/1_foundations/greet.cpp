// Foundations: a coroutine, and the loop that runs it.
//
//     c++ -std=c++20 -O2 -pthread -I. examples/1_foundations/greet.cpp -o greet && ./greet
//
// Look at: run() gives back what the coroutine returns. With --virtual the clock jumps
// over the pause.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <string>
#include <string_view>
using namespace std::chrono_literals;

// A coroutine is a function that can pause. Calling it only creates it;
// nothing runs until somebody awaits it.
asyncio::coro<std::string> greet(std::string name) {
    co_await asyncio::sleep(10ms); // other tasks may run during this pause
    co_return "Hello, " + name + "!";
}

int main(int argc, char** argv) { // longer programs: return asyncio::run_main(async_main());
    const bool jumps = argc > 1 && std::string_view(argv[1]) == "--virtual";
    const auto clock = jumps ? asyncio::clock_kind::virtual_time : asyncio::clock_kind::real;

    const std::string greeting = asyncio::run(greet("Alice"), {.clock = clock});
    std::puts(greeting.c_str());

    if (greeting == "Hello, Alice!") return 0;
    std::printf("claim failed: run() gives \"Hello, Alice!\", but gave \"%s\"\n", greeting.c_str());
    return 1;
}
// Output:
// Hello, Alice!
