// Advanced patterns: what is opened before a piece of work is closed after it, come what may.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/own_manager.cpp -o manager && ./manager
//
// What it teaches: any type with aenter() and aexit() is an async context manager, and with() is
// Python's `async with`. Unlike a destructor, aexit() may wait, and it learns how the body ended.
// Look at: the order is enter, body, exit, whether the body succeeds, fails or is cancelled.
// --virtual skips the waiting.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
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
    say("  " + event);
    events.push_back(event);
}

class connection {
public:
    asyncio::coro<> aenter() {
        note("enter");
        // Calls connect() again, a second later, when it fails: see retry_backoff.
        co_await asyncio::retry([this] { return connect(); }, {.initial_delay = 1s, .jitter = 0});
        opened_ = seconds();
    }

    // `failure` is null after success. What is returned says whether the error ends here; it
    // nearly never should.
    asyncio::coro<bool> aexit(std::exception_ptr failure) {
        const asyncio::error error(failure);
        if (!failure) note("exit after success");
        else if (error.holds<asyncio::cancelled_error>()) note("exit after cancellation");
        else note(std::string("exit after error: ") + error.what());
        open_for = seconds() - opened_;
        co_await asyncio::sleep(500ms); // says goodbye to the peer
        note("closed");
        co_return false;
    }

    double open_for = 0;

private:
    asyncio::coro<> connect() {
        co_await asyncio::sleep(100ms);
        if (++attempts_ == 1) {
            note("the first attempt fails");
            throw std::runtime_error("connection refused");
        }
        note("connected");
    }

    int attempts_ = 0;
    double opened_ = 0;
};

asyncio::coro<> work(bool fails) {
    note("body begins");
    co_await asyncio::sleep(2s);
    if (fails) throw std::runtime_error("bad data");
    note("body ends");
}

// Uses a connection and gives the time that it was open.
asyncio::coro<double> session(bool fails) {
    connection link;
    try {
        co_await asyncio::with(link, [&] { return work(fails); });
    } catch (const std::runtime_error& error) {
        note(std::string("the caller sees: ") + error.what());
    }
    co_return link.open_for;
}

asyncio::coro<int> async_main() {
    using words = std::vector<std::string>;

    say("the body succeeds:");
    const double open_for = co_await session(false);
    const words success = std::exchange(events, {});

    say("the body fails:");
    co_await session(true);
    const words failure = std::exchange(events, {});

    say("the body is cancelled:");
    const auto task = asyncio::create_task(session(false));
    co_await asyncio::sleep(2.2s); // half of the body's time
    task.cancel();
    co_await asyncio::wait(task);
    const words cancellation = std::exchange(events, {});

    claim(success == words{"enter", "the first attempt fails", "connected", "body begins",
                           "body ends", "exit after success", "closed"},
          "success: enter, body begins, body ends, exit");
    claim(failure == words{"enter", "the first attempt fails", "connected", "body begins",
                           "exit after error: bad data", "closed", "the caller sees: bad data"},
          "error: the exit comes before the caller sees the error");
    claim(cancellation == words{"enter", "the first attempt fails", "connected", "body begins",
                                "exit after cancellation", "closed"} &&
              task.cancelled(),
          "cancellation: the exit is awaited to its end, too");
    claim(open_for >= 2 && open_for < 4,
          "the first connection was open for " + num(open_for) + " s (about 2 s)");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("What is opened before a piece of work is closed after it, come what may.\n"
                       "usage: manager [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  0.00 s  the body succeeds:
//  0.00 s    enter
//  0.10 s    the first attempt fails
//  1.20 s    connected
//  1.20 s    body begins
//  3.20 s    body ends
//  3.20 s    exit after success
//  3.70 s    closed
//  3.70 s  the body fails:
//  3.70 s    enter
//  3.80 s    the first attempt fails
//  4.90 s    connected
//  4.90 s    body begins
//  6.90 s    exit after error: bad data
//  7.40 s    closed
//  7.40 s    the caller sees: bad data
//  7.40 s  the body is cancelled:
//  7.40 s    enter
//  7.50 s    the first attempt fails
//  8.60 s    connected
//  8.60 s    body begins
//  9.60 s    exit after cancellation
// 10.10 s    closed
// holds:  success: enter, body begins, body ends, exit
// holds:  error: the exit comes before the caller sees the error
// holds:  cancellation: the exit is awaited to its end, too
// holds:  the first connection was open for 2.00 s (about 2 s)
