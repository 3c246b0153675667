// Cookbook: tests of timeouts and retries that last hours and take no time.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/virtual_time_test.cpp -o vtest && ./vtest
//
// What it teaches: on the virtual clock nobody waits. When nothing is ready, the clock jumps to the
// next timer, and while code runs it stands still. So a test may ask for exact times: an attempt
// ends after 2 s, not after 2.003 s, on every machine, however busy it is.
// Look at: the times that the tests passed through, and how long they took.
// --virtual is what it does anyway.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <chrono>
#include <cstdio>
#include <functional>
#include <optional>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

// ---- What is tested: it asks a service, and keeps the answer for an hour ------------------------
class client {
public:
    using service = std::function<asyncio::coro<std::string>()>; // given from outside, for tests
    explicit client(service s) : service_(std::move(s)) {}

    asyncio::coro<std::string> get() {
        if (kept_ && asyncio::elapsed() - kept_at_ < 1h) co_return *kept_;
        kept_ = co_await asyncio::retry(
            service_, {.attempts = 3, .initial_delay = 1s, .jitter = 0, .timeout = 2s});
        kept_at_ = asyncio::elapsed();
        co_return *kept_;
    }

private:
    service service_;
    std::optional<std::string> kept_;
    asyncio::duration kept_at_ = 0s;
};

// ---- The tests ----------------------------------------------------------------------------------
int broken = 0; // checks that failed; with one, the program ends with 1
void check(bool holds, const std::string& text) {
    std::printf("%9.2f s  %s %s\n", asyncio::elapsed().total_seconds(),
                holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// Takes that long for each call, one after the other, and notes when it was called.
struct fake {
    std::vector<asyncio::duration> latencies;
    std::vector<asyncio::duration> called = {};

    asyncio::coro<std::string> operator()() {
        called.push_back(asyncio::elapsed());
        const asyncio::duration latency = latencies.at(called.size() - 1);
        if (latency == asyncio::duration(0s)) throw std::runtime_error("refused");
        co_await asyncio::sleep(latency);
        co_return "answer " + std::to_string(called.size());
    }
};

asyncio::coro<> late_twice() {
    fake service{{5s, 5s, 1.5s}};
    client c([&service] { return service(); });
    const std::string answer = co_await c.get();
    check(answer == "answer 3", "two attempts were late, the third gave " + answer);
    check(service.called[1] == asyncio::duration(3s), "the second began 2 s and a pause later");
    check(service.called[2] == asyncio::duration(7s), "the third after 2 s more, and 2 s of pause");
    check(asyncio::elapsed() == asyncio::duration(8.5s), "the answer came after exactly 8.5 s");
}

asyncio::coro<> always_refused() {
    fake service{{0s, 0s, 0s}};
    client c([&service] { return service(); });
    std::string error;
    try {
        co_await c.get();
    } catch (const std::runtime_error& e) { error = e.what(); }
    check(error == "refused", "no attempt is left: " + error);
    check(service.called.size() == 3 && asyncio::elapsed() == asyncio::duration(3s),
          "three attempts, and pauses of 1 and 2 s");
}

asyncio::coro<> given_up() {
    fake service{{5s, 5s, 5s}};
    client c([&service] { return service(); });
    asyncio::task<std::string> asking = asyncio::create_task(c.get());
    co_await asyncio::sleep(2.5s); // in the first pause
    asking.cancel();
    co_await asyncio::sleep(1h);
    check(asking.cancelled() && service.called.size() == 1, "a client that gives up asks no more");
}

asyncio::coro<> kept_for_an_hour() {
    fake service{{0.5s, 0.5s}};
    client c([&service] { return service(); });
    co_await c.get();
    co_await asyncio::sleep(59min);
    const std::string fresh = co_await c.get();
    co_await asyncio::sleep(1min);
    const std::string later = co_await c.get();
    check(fresh == "answer 1", "after 59 minutes it is still " + fresh);
    check(later == "answer 2", "after 60 minutes it asks again: " + later);
}

asyncio::coro<double> timed(asyncio::coro<> test) { // gives the virtual seconds
    co_await std::move(test);
    co_return asyncio::elapsed().total_seconds();
}

int main(int argc, char** argv) {
    const std::string_view word = argc == 2 ? argv[1] : "";
    if (argc > 2 || (argc == 2 && word != "--virtual")) {
        std::fputs("Tests timeouts, retries and expiry on the virtual clock.\n"
                   "usage: vtest [--virtual]\n",
                   word == "--help" ? stdout : stderr);
        return word == "--help" ? 0 : 2;
    }
    asyncio::run_options options;
    options.clock = asyncio::clock_kind::virtual_time;
    const auto began = std::chrono::steady_clock::now();
    double passed = 0;
    for (auto* const test : {late_twice, always_refused, given_up, kept_for_an_hour})
        passed += asyncio::run(timed(test()), options); // each with a loop and a clock of its own
    const std::chrono::duration<double> took = std::chrono::steady_clock::now() - began;
    const bool fast = took.count() < passed / 100;
    std::printf("%s %.1f s passed in %.3f s\n", fast ? "holds: " : "BROKEN:", passed, took.count());
    return broken == 0 && fast ? 0 : 1;
}
// Output:
//      8.50 s  holds:  two attempts were late, the third gave answer 3
//      8.50 s  holds:  the second began 2 s and a pause later
//      8.50 s  holds:  the third after 2 s more, and 2 s of pause
//      8.50 s  holds:  the answer came after exactly 8.5 s
//      3.00 s  holds:  no attempt is left: refused
//      3.00 s  holds:  three attempts, and pauses of 1 and 2 s
//   3602.50 s  holds:  a client that gives up asks no more
//   3601.00 s  holds:  after 59 minutes it is still answer 1
//   3601.00 s  holds:  after 60 minutes it asks again: answer 2
// holds:  7215.0 s passed in 0.001 s
