// Advanced patterns: try again, and wait longer each time.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/retry_backoff.cpp -o backoff && ./backoff
//
// What it teaches: retry() calls a function until it succeeds, with pauses of 1, 2, 4 s between the
// calls. Each is up to 10 % longer by chance (jitter), so that many clients do not come back all at
// once. A limit of 5 s for each call cuts off those that hang.
// Look at: the pauses of three services. The shaky one succeeds in the end; the dead one is given
// up with its last error; the third shows the cap on the pauses. --virtual skips the waiting.
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
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

asyncio::coro<std::string> call_service(std::string name, int number) {
    const std::string call = "call " + std::to_string(number);
    say(name + ": " + call);
    if (name == "shaky" && number == 1) co_await asyncio::sleep(1h); // hangs
    if (name == "shaky" && number == 3) co_return "data of " + call;
    throw std::runtime_error(call + " was refused");
}

struct report {
    std::string result;            // the data, or the last error
    double took = 0;
    std::vector<double> announced; // the pauses that retry() chose, jitter included
    std::vector<double> made;      // and what they came to
};

asyncio::coro<report> ask(std::string name, asyncio::duration longest_pause) {
    report r;
    const double began = seconds();
    double failed_at = 0;
    // retry() tells each call its number and the pause that follows if it fails.
    auto call = [&](const asyncio::attempt& now) -> asyncio::coro<std::string> {
        if (now.number > 1) r.made.push_back(seconds() - failed_at);
        if (now.number < 4) r.announced.push_back(now.next_delay.total_seconds());
        try {
            co_return co_await call_service(name, now.number);
        } catch (...) {
            failed_at = seconds();
            throw;
        }
    };
    try {
        r.result = co_await asyncio::retry(call, {.attempts = 4,
                                                  .initial_delay = 1s,
                                                  .max_delay = longest_pause,
                                                  .factor = 2,
                                                  .jitter = 0.1,
                                                  .timeout = 5s});
    } catch (const std::runtime_error& error) {
        r.result = error.what();
    }
    r.took = seconds() - began;
    say(name + ": " + r.result);
    co_return r;
}

// Checks the pauses against their bounds, as far as they were made.
void claim_pauses(const std::string& name, const report& r, const std::vector<double>& least,
                  const std::vector<double>& most) {
    bool within = r.made.size() == least.size();
    std::string figures;
    for (std::size_t i = 0; i < r.made.size() && within; ++i) {
        within = r.announced[i] >= least[i] && r.announced[i] <= most[i] &&
                 r.made[i] >= r.announced[i] - 1e-6 && r.made[i] < r.announced[i] + 3;
        figures += (i == 0 ? "" : ", ") + num(r.made[i]);
    }
    claim(within, name + ": pauses of " + figures + " s are within their bounds");
}

asyncio::coro<int> async_main() {
    const report shaky = co_await ask("shaky", 32s);
    const report dead = co_await ask("dead", 32s);
    const report capped = co_await ask("capped", 2s);

    claim(shaky.result == "data of call 3" && shaky.took >= 8 && shaky.took < 13,
          "shaky: " + shaky.result + " after " + num(shaky.took) + " s (about 8 s)");
    claim_pauses("shaky", shaky, {1, 2}, {1.1, 2.2});
    claim(dead.result == "call 4 was refused", "dead: the last error, " + dead.result);
    claim_pauses("dead", dead, {1, 2, 4}, {1.1, 2.2, 4.4});
    claim_pauses("capped", capped, {1, 2, 2}, {1.1, 2, 2});
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("Try again, and wait longer each time.\n"
                       "usage: backoff [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  0.00 s  shaky: call 1
//  6.09 s  shaky: call 2
//  8.17 s  shaky: call 3
//  8.17 s  shaky: data of call 3
//  8.17 s  dead: call 1
//  9.27 s  dead: call 2
// 11.29 s  dead: call 3
// 15.42 s  dead: call 4
// 15.42 s  dead: call 4 was refused
// 15.42 s  capped: call 1
// 16.44 s  capped: call 2
// 18.44 s  capped: call 3
// 20.44 s  capped: call 4
// 20.44 s  capped: call 4 was refused
// holds:  shaky: data of call 3 after 8.17 s (about 8 s)
// holds:  shaky: pauses of 1.08, 2.08 s are within their bounds
// holds:  dead: the last error, call 4 was refused
// holds:  dead: pauses of 1.09, 2.02, 4.13 s are within their bounds
// holds:  capped: pauses of 1.01, 2.00, 2.00 s are within their bounds
