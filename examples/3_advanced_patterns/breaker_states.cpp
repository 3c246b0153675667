// Advanced patterns: a circuit breaker through all its states.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/breaker_states.cpp -o states && ./states
//
// What it teaches: what a client sees that asks once a second while a service is down for 17 s. The
// breaker opens after 3 failures, for 10 s; then it is half open and lets one call try.
// Look at: the first trial fails and opens the circuit again; the second one closes it.
// --virtual skips the waiting.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <iterator>
#include <stdexcept>
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

std::string name_of(asyncio::circuit_state state) {
    if (state == asyncio::circuit_state::closed) return "closed";
    return state == asyncio::circuit_state::open ? "open" : "half_open";
}

int reached = 0; // calls that the service got

asyncio::coro<> service() {
    ++reached;
    if (seconds() < 17) throw std::runtime_error("the service is down");
    co_return;
}

asyncio::coro<int> async_main() {
    std::string states = "closed";
    std::vector<double> since = {0}; // when each began
    asyncio::circuit_breaker breaker({.failures = 3, .open_for = 10s});
    breaker.on_change([&](asyncio::circuit_state from, asyncio::circuit_state to) {
        say(name_of(from) + " -> " + name_of(to));
        states += ", " + name_of(to);
        since.push_back(seconds());
    });

    std::string calls; // a letter for each
    while (!calls.ends_with("S")) {
        if (!calls.empty()) co_await asyncio::sleep(1s);
        try {
            co_await breaker.call(service);
            calls += "S"; // success
        } catch (const asyncio::circuit_open_error&) {
            calls += "."; // not let through
        } catch (const std::runtime_error&) {
            calls += "F"; // failure
        }
    }
    say("all calls, one each second: " + calls);

    claim(states == "closed, open, half_open, open, half_open, closed",
          "the circuit was " + states);
    const auto refused = std::count(calls.begin(), calls.end(), '.');
    claim(reached == 5 && refused > 0 && std::ssize(calls) == reached + refused,
          "of " + std::to_string(calls.size()) + " calls " + std::to_string(reached) +
              " reached the service: 3 failures, 2 trials");
    const double first = since.at(2) - since.at(1);
    const double second = since.at(4) - since.at(3);
    claim(first >= 10 && first < 13 && second >= 10 && second < 13,
          "the circuit was open for " + num(first) + " s and " + num(second) + " s (about 10 s)");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("A circuit breaker through all its states.\n"
                       "usage: states [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  2.00 s  closed -> open
// 12.00 s  open -> half_open
// 12.00 s  half_open -> open
// 22.00 s  open -> half_open
// 22.00 s  half_open -> closed
// 22.00 s  all calls, one each second: FFF.........F.........S
// holds:  the circuit was closed, open, half_open, open, half_open, closed
// holds:  of 23 calls 5 reached the service: 3 failures, 2 trials
// holds:  the circuit was open for 10.00 s and 10.00 s (about 10 s)
