// Cookbook: a service that ends well: SIGTERM, SIGINT, and SIGHUP to read its settings again.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/signals_graceful_shutdown.cpp -o service && ./service --quick
//
// What it teaches: add_signal_handler() turns signals into callbacks of the loop, where anything
// may be done. Told to stop, the service takes no more jobs, does those that it has accepted, and
// after a time of grace gives back the rest; whoever asks a second time need not wait so long.
// Look at: every job is either done or given back. With --quick it sends the signals to itself;
// without, press Ctrl-C, or `kill -HUP` and `kill` the process.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>
#include <unistd.h>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) {
    std::printf("%5.2f s  %s\n", seconds(), text.c_str());
    std::fflush(stdout);
}

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

struct service {
    asyncio::duration grace = 5s;
    asyncio::duration pace = 200ms; // between two jobs; read again at SIGHUP
    asyncio::queue<int> signals{};
    asyncio::queue<int> jobs{10};
    int accepted = 0, started = 0, done = 0;
    std::vector<int> given_back = {};
    int accepted_before = 0; // it was told to stop
};

constexpr int endless = 7; // this job never ends

asyncio::coro<> accept_jobs(service& s) {
    for (;;) {
        co_await s.jobs.put(s.accepted + 1); // waits while there is enough to do
        ++s.accepted;
        co_await asyncio::sleep(s.pace);
    }
}

asyncio::coro<> work(service& s) {
    while (auto job = co_await s.jobs.next()) {
        s.started = *job;
        try {
            if (*job == endless) co_await asyncio::sleep(24h);
            else co_await asyncio::sleep(20ms);
            ++s.done;
        } catch (const asyncio::cancelled_error&) { // cleans up, and lets the cancellation go on
            s.given_back.push_back(*job);
            throw;
        }
    }
}

// Gives how long it took to stop.
asyncio::coro<asyncio::duration> run_service(service& s) {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    for (const int number : {SIGHUP, SIGTERM, SIGINT}) // from now on they end nothing by themselves
        loop.add_signal_handler(number, [&s, number] { s.signals.put_nowait(number); });
    auto intake = asyncio::create_task(accept_jobs(s));
    std::vector<asyncio::task<void>> workers;
    for (int i = 0; i < 3; ++i) workers.push_back(asyncio::create_task(work(s)));
    say("process " + std::to_string(::getpid()) + " works");

    int number = 0;
    do {
        number = co_await s.signals.get();
        if (number == SIGHUP) s.pace = 10ms; // a real service would read its file here
        say(number == SIGHUP ? "told to read its settings again" : "told to stop");
    } while (number == SIGHUP);

    const asyncio::time_point told = loop.time();
    s.accepted_before = s.accepted;
    intake.cancel();
    s.jobs.shutdown(); // who waits for a job gets those that are left, and then the end
    auto all_done = asyncio::create_task(asyncio::wait(workers));
    auto again = asyncio::create_task(s.signals.get());
    const std::vector<asyncio::any_task> first = {all_done, again};
    co_await asyncio::wait(first, {.timeout = s.grace,
                                   .return_when = asyncio::return_when::first_completed});
    if (!all_done.done()) {
        say(again.done() ? "told again" : "the time of grace is over");
        for (asyncio::task<void>& worker : workers) worker.cancel();
        co_await all_done;
    }
    again.cancel();
    while (!s.jobs.empty()) s.given_back.push_back(s.jobs.get_nowait());
    for (const int signal : {SIGHUP, SIGTERM, SIGINT}) loop.remove_signal_handler(signal);
    say(std::to_string(s.done) + " of " + std::to_string(s.accepted) + " jobs done, " +
        std::to_string(s.given_back.size()) + " given back");
    co_return loop.time() - told;
}

asyncio::coro<> until(const int& counter, int value) {
    while (counter < value) co_await asyncio::sleep(1ms);
}

// What an administrator does.
asyncio::coro<> administer(service& s, bool impatient) {
    co_await until(s.started, 3);
    ::kill(::getpid(), SIGHUP);
    co_await until(s.started, endless + 3);
    ::kill(::getpid(), SIGTERM);
    co_await until(s.accepted_before, 1);
    if (impatient) ::kill(::getpid(), SIGTERM);
}

asyncio::coro<int> try_it() {
    for (const bool impatient : {false, true}) {
        service s;
        s.grace = impatient ? asyncio::duration(1h) : asyncio::duration(300ms);
        auto administrator = asyncio::create_task(administer(s, impatient));
        const asyncio::duration took = co_await run_service(s);
        co_await administrator;
        claim(s.pace < 200ms, "SIGHUP ended nothing and changed the settings");
        claim(s.accepted == s.accepted_before, "after SIGTERM no more jobs were accepted");
        const int back = static_cast<int>(s.given_back.size());
        const auto found = std::find(s.given_back.begin(), s.given_back.end(), endless);
        claim(s.done + back == s.accepted, "every job was either done or given back");
        claim(found != s.given_back.end(), "the one that does not end was given back");
        if (impatient) claim(took < s.grace, "a second SIGTERM ended the time of grace");
        else claim(took >= s.grace, "until then it had the time of grace");
    }
    co_return broken == 0 ? 0 : 1;
}

asyncio::coro<> serve() {
    service s;
    co_await run_service(s);
}

int main(int argc, char** argv) {
    const std::string_view word = argc == 2 ? argv[1] : argc > 2 ? "?" : "";
    if (word == "--quick") return asyncio::run_main(try_it());
    if (word.empty()) return asyncio::run_main(serve());
    std::fputs("Does jobs until it is told to stop, and then ends well.\n"
               "usage: service [--quick]\n",
               word == "--help" ? stdout : stderr);
    return word == "--help" ? 0 : 2;
}
// Output:
//  0.00 s  process 17058 works
//  0.40 s  told to read its settings again
//  0.66 s  told to stop
//  0.96 s  the time of grace is over
//  0.96 s  9 of 10 jobs done, 1 given back
// holds:  SIGHUP ended nothing and changed the settings
// holds:  after SIGTERM no more jobs were accepted
// holds:  every job was either done or given back
// holds:  the one that does not end was given back
// holds:  until then it had the time of grace
//  0.96 s  process 17058 works
//  1.36 s  told to read its settings again
//  1.63 s  told to stop
//  1.63 s  told again
//  1.63 s  7 of 10 jobs done, 3 given back
// holds:  SIGHUP ended nothing and changed the settings
// holds:  after SIGTERM no more jobs were accepted
// holds:  every job was either done or given back
// holds:  the one that does not end was given back
// holds:  a second SIGTERM ended the time of grace
