// Cookbook: questions at the terminal that do not stop the program.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/stdin_prompt.cpp -o prompt && ./prompt
//
// What it teaches: stdin_reader() makes standard input a stream, be it a terminal, a pipe or a file
// (try `echo Ada | ./prompt`). Waiting for a line can be given up like any other wait, and what had
// been typed until then is not lost.
// Look at: the counter at the end: the program went on while you were thinking. With --quick it
// starts itself and types the answers, slowly.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <cstdlib>
#include <optional>
#include <string>
#include <string_view>
using namespace std::chrono_literals;

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// Asks until there is an answer. Nothing: the input has ended.
asyncio::coro<std::optional<std::string>> ask(asyncio::stream_reader& input, std::string question,
                                              asyncio::duration limit) {
    for (;;) {
        std::printf("%s? ", question.c_str());
        std::fflush(stdout);
        try {
            std::string line = co_await asyncio::wait_for(input.readline(), limit);
            if (line.empty()) co_return std::nullopt;
            if (line.back() == '\n') line.pop_back();
            co_return line;
        } catch (const asyncio::timeout_error&) {
            std::printf("\nstill there\n");
        }
    }
}

asyncio::coro<> count_up(int& counter) {
    for (;;) {
        co_await asyncio::sleep(10ms);
        ++counter;
    }
}

asyncio::coro<int> talk(asyncio::duration limit) {
    int counter = 0; // stands for the work that goes on
    asyncio::task_scope work(asyncio::get_running_loop()); // ends with this block, come what may
    work.create_task([&counter] { return count_up(counter); });

    asyncio::stream_reader input = co_await asyncio::stdin_reader();
    const auto name = co_await ask(input, "Your name", limit);
    if (name) std::printf("Hello, %s!\n", name->c_str());
    const auto number = co_await ask(input, "A number", limit);
    const long next = number ? std::atol(number->c_str()) + 1 : 0;
    if (number) std::printf("%s, and one is %ld.\n", number->c_str(), next);
    if (!name || !number) std::printf("\nno more input\n");

    work.cancel();
    std::printf("meanwhile the program has counted to %d\n", counter);
    co_return 0;
}

// Starts this program again and plays the user.
asyncio::coro<int> play() {
    auto program = co_await asyncio::create_subprocess_exec(
        asyncio::argv("/proc/self/exe", "--limit", "0.2"),
        {.stdin_ = asyncio::stdio::pipe, .stdout_ = asyncio::stdio::pipe});
    std::string transcript = co_await program.stdout_->readuntil("Your name? ");
    program.stdin_->write("Ada\n");
    transcript += co_await program.stdout_->readuntil("A number? ");
    program.stdin_->write("4"); // and now the user hesitates, until the program asks again
    transcript += co_await program.stdout_->readuntil("still there\nA number? ");
    program.stdin_->write("2\n");
    auto [rest, errors] = co_await program.communicate();
    transcript += *rest;
    std::printf("%s", transcript.c_str());

    claim(transcript.find("Hello, Ada!\n") != std::string::npos, "the name was understood");
    claim(transcript.find("42, and one is 43.\n") != std::string::npos,
          "what was typed before and after the time limit is one answer");
    const std::string last = "meanwhile the program has counted to ";
    const std::size_t place = transcript.find(last);
    claim(place != std::string::npos && std::atoi(transcript.c_str() + place + last.size()) > 1,
          "the program went on while it waited");
    claim(program.returncode() == 0, "the program ended well");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    bool quick = false;
    double limit = 10;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") quick = true;
        else if (word == "--limit" && i + 1 < argc) limit = std::atof(argv[++i]);
        else {
            std::fputs("Asks two questions, and goes on with its work meanwhile.\n"
                       "usage: prompt [--limit SECONDS] [--quick]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    if (quick) return asyncio::run_main(play());
    return asyncio::run_main(talk(asyncio::duration::seconds(limit)));
}
// Output:
// Your name? Hello, Ada!
// A number?
// still there
// A number? 42, and one is 43.
// meanwhile the program has counted to 19
// holds:  the name was understood
// holds:  what was typed before and after the time limit is one answer
// holds:  the program went on while it waited
// holds:  the program ended well
