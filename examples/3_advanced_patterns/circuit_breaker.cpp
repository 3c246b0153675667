// Advanced patterns: leave a service alone that keeps failing.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/circuit_breaker.cpp -o breaker && ./breaker
//
// What it teaches: a circuit breaker stands between you and a service. Closed, it lets calls
// through. After 5 failures in a row it opens: calls fail at once and the service is spared. After
// 60 s it is half open and lets one call try: success closes it, a failure opens it again.
// Look at: two services fail; one recovers meanwhile. It takes a minute; --virtual skips it.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <stdexcept>
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

std::string name_of(asyncio::circuit_state state) {
    if (state == asyncio::circuit_state::closed) return "closed";
    return state == asyncio::circuit_state::open ? "open" : "half open";
}

class service {
public:
    // It fails at its first `bad_calls` calls.
    service(std::string name, int bad_calls) : name_(std::move(name)), bad_calls_(bad_calls) {
        breaker_.on_change([this](asyncio::circuit_state from, asyncio::circuit_state to) {
            say(name_ + ": the circuit was " + name_of(from) + " and is " + name_of(to));
            states += ", " + name_of(to);
        });
    }

    // Asks it through its breaker and says what came of it.
    asyncio::coro<std::string> ask() {
        std::string answer = "data";
        try {
            co_await breaker_.call([this] { return call(); });
        } catch (const asyncio::circuit_open_error&) {
            answer = "not called";
        } catch (const std::runtime_error&) {
            answer = "failed";
        }
        say(name_ + ": " + answer);
        co_return answer;
    }

    int calls = 0; // that reached it
    std::string states = "closed"; // so far

private:
    asyncio::coro<> call() {
        const int number = ++calls;
        co_await asyncio::sleep(100ms); // stands for a request over the network
        if (number <= bad_calls_) throw std::runtime_error("the service is down");
    }

    std::string name_;
    int bad_calls_;
    asyncio::circuit_breaker breaker_{{.failures = 5, .open_for = 60s}};
};

struct report {
    std::string states;
    std::vector<int> calls; // that reached the service in each of the four phases
};

asyncio::coro<report> watch(std::string name, int bad_calls) {
    service s(name, bad_calls);
    std::vector<int> reached = {0};

    for (int i = 0; i < 5; ++i) co_await s.ask();
    reached.push_back(s.calls);

    co_await s.ask(); // the circuit is open
    co_await asyncio::sleep(57s);
    co_await s.ask(); // and still open
    co_await s.ask();
    reached.push_back(s.calls);

    co_await asyncio::sleep(3.1s); // now it is half open; three ask at the same time
    co_await asyncio::gather(s.ask(), s.ask(), s.ask());
    reached.push_back(s.calls);

    co_await s.ask();
    reached.push_back(s.calls);

    report r{s.states, {}};
    for (std::size_t i = 1; i < reached.size(); ++i) r.calls.push_back(reached[i] - reached[i - 1]);
    co_return r;
}

void claim_calls(const std::string& name, const report& r, const std::vector<int>& expected) {
    std::string figures;
    for (const int n : r.calls) figures += (figures.empty() ? "" : ", ") + std::to_string(n);
    claim(r.calls == expected,
          name + ": of 5, 3, 3 and 1 calls, these reached the service: " + figures);
}

asyncio::coro<int> async_main() {
    say("two services fail; the open circuit takes a minute");
    const auto [recovering, dead] =
        co_await asyncio::gather(watch("recovering", 5), watch("dead", 1000));

    claim(recovering.states == "closed, open, half open, closed",
          "recovering: the circuit was " + recovering.states);
    claim(dead.states == "closed, open, half open, open", "dead: the circuit was " + dead.states);
    claim_calls("recovering", recovering, {5, 0, 1, 1});
    claim_calls("dead", dead, {5, 0, 1, 0});
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("Leave a service alone that keeps failing.\n"
                       "usage: breaker [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  0.00 s  two services fail; the open circuit takes a minute
//  0.10 s  recovering: failed
//  0.10 s  dead: failed
//  0.20 s  recovering: failed
//  0.20 s  dead: failed
//  0.30 s  recovering: failed
//  0.30 s  dead: failed
//  0.40 s  recovering: failed
//  0.40 s  dead: failed
//  0.50 s  recovering: the circuit was closed and is open
//  0.50 s  recovering: failed
//  0.50 s  recovering: not called
//  0.50 s  dead: the circuit was closed and is open
//  0.50 s  dead: failed
//  0.50 s  dead: not called
// 57.50 s  recovering: not called
// 57.50 s  recovering: not called
// 57.50 s  dead: not called
// 57.50 s  dead: not called
// 60.60 s  recovering: the circuit was open and is half open
// 60.60 s  recovering: not called
// 60.60 s  recovering: not called
// 60.60 s  dead: the circuit was open and is half open
// 60.60 s  dead: not called
// 60.60 s  dead: not called
// 60.70 s  recovering: the circuit was half open and is closed
// 60.70 s  recovering: data
// 60.70 s  dead: the circuit was half open and is open
// 60.70 s  dead: failed
// 60.70 s  dead: not called
// 60.80 s  recovering: data
// holds:  recovering: the circuit was closed, open, half open, closed
// holds:  dead: the circuit was closed, open, half open, open
// holds:  recovering: of 5, 3, 3 and 1 calls, these reached the service: 5, 0, 1, 1
// holds:  dead: of 5, 3, 3 and 1 calls, these reached the service: 5, 0, 1, 0
