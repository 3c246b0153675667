// Advanced patterns: the coroutine that nobody awaits, and how to find it.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/never_awaited.cpp -o never && ./never
//
// What it teaches: calling a coroutine only makes it. The compiler warns of a mere `save(1);`, but
// not of one that is kept in a variable and forgotten. Debug mode finds it: run with
// ASYNCIO_DEBUG=1 in the environment, or with {.debug = true} as here.
// Look at: order 1 is never saved, and the report on stderr names the coroutine and its place:
//     a coroutine was never awaited; co_await it, or give it to create_task():
//     asyncio::v0_1_0::coro<void> save(int), examples/3_advanced_patterns/never_awaited.cpp:37
// The fix is co_await, or create_task() for what is to go on by itself.
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

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

std::vector<int> saved;

const int first_line = __LINE__ + 1;
asyncio::coro<> save(int order) {
    co_await asyncio::sleep(0.5s); // stands for a request to a database
    saved.push_back(order);
    say("order " + std::to_string(order) + " is saved");
}
const int last_line = __LINE__ - 1;

asyncio::coro<> pitfall() {
    auto saving = save(1); // Mistake: this starts nothing
    co_await asyncio::sleep(1s);
} // here the coroutine is destroyed without having run

asyncio::coro<> fix() {
    co_await save(2); // waits until it is saved

    const auto saving = asyncio::create_task(save(3)); // saves it beside what follows
    say("order 3 is being saved");
    co_await saving;
}

std::vector<std::string> reports; // of debug mode; without a handler they only go to stderr

asyncio::coro<int> async_main() {
    asyncio::get_running_loop().set_exception_handler(
        [](asyncio::event_loop&, const asyncio::exception_context& context) {
            std::fprintf(stderr, "%s\n", context.message.c_str());
            reports.push_back(context.message);
        });

    say("the pitfall:");
    co_await pitfall();
    const std::vector<int> after_pitfall = saved;
    const std::string report = reports.size() == 1 ? reports[0] : "";

    say("the fix:");
    co_await fix();

    int line = 0; // the report ends in "save(int), [path]never_awaited.cpp:37"
    if (const std::size_t colon = report.rfind("never_awaited.cpp:"); colon < report.size())
        std::sscanf(report.c_str() + colon, "never_awaited.cpp:%d", &line);
    claim(after_pitfall.empty(), "what nobody awaits does not run: order 1 is not saved");
    claim(report.find("never awaited") < report.size() && report.find("save(") < report.size() &&
              line >= first_line && line <= last_line,
          "the report names save() and line " + std::to_string(line) + " of its file");
    claim(saved == std::vector<int>{2, 3} && reports.size() == 1,
          "with co_await or create_task() it runs, and there is nothing to report");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options = {.debug = true};
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("The coroutine that nobody awaits, and how to find it.\n"
                       "usage: never [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  0.00 s  the pitfall:
//  1.00 s  the fix:
//  1.50 s  order 2 is saved
//  1.50 s  order 3 is being saved
//  2.00 s  order 3 is saved
// holds:  what nobody awaits does not run: order 1 is not saved
// holds:  the report names save() and line 37 of its file
// holds:  with co_await or create_task() it runs, and there is nothing to report
