// Advanced patterns: try again, and wait longer each time.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/retry_backoff.cpp -o backoff && ./backoff
//
// What it teaches: retry() calls a function until it succeeds, with pauses of 1, 2, 4 s between the
// calls, each with up to 10 % on top (jitter, random), so that many clients do not come back all at once.
// A limit for each call cuts off the ones that hang.
// Look at: the pauses of three services. The shaky one succeeds in the end; the dead one is given up
// with its last error; the third shows the cap. --virtual skips the waiting; --trace FILE is for
// ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <fstream>
#include <iostream>
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
    std::vector<double> announced; // the pauses that retry() chose, jitter included
    std::vector<double> made;      // and what they came to
};

asyncio::coro<report> ask(std::string name, asyncio::duration longest_pause) {
    asyncio::current_task().set_name(name); // for the timeline
    report r;
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
                 r.made[i] >= r.announced[i] - 1e-6 && r.made[i] < r.announced[i] + 0.9;
        figures += (i == 0 ? "" : ", ") + num(r.made[i]);
    }
    claim(within, name + ": pauses of " + figures + " s are within their bounds");
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    const auto [shaky, dead, capped] =
        co_await asyncio::gather(ask("shaky", 32s), ask("dead", 32s), ask("capped", 2s));

    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(shaky.result == "data of call 3", "shaky: the third call succeeds, after a late one");
    claim_pauses("shaky", shaky, {1, 2}, {1.1, 2.2});
    claim(dead.result == "call 4 was refused", "dead: the last error is what is left");
    claim_pauses("dead", dead, {1, 2, 4}, {1.1, 2.2, 4.4});
    claim_pauses("capped", capped, {1, 2, 2}, {1.1, 2, 2});
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("Try again, and wait longer each time.\n"
                       "usage: backoff [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
