// Cookbook: errors where nothing throws, with -fno-exceptions and -fno-rtti.
//
//     g++ -std=c++20 -O2 -fno-exceptions -fno-rtti -pthread -I. examples/cookbook/no_exceptions.cpp -o noexc && ./noexc
//
// What it teaches: a failed await ends its coroutine there, and those that await it, innermost
// first; their destructors run. The first that asked for an outcome goes on, with the error in its
// hand: as_outcome(), a task's handle, retry(), the end of a group. Only the compiler's flags
// differ: the file builds, and does the same, with exceptions.
// Look at: the order in which the connections were closed, and that none was left open.
// Try: take as_outcome() away somewhere; then the error ends the program, which says so.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <string>
#include <string_view>
#include <system_error>
using namespace std::chrono_literals;

int broken = 0; // checks that failed; with one, the program ends with 1
void check(bool holds, const std::string& text) {
    std::printf("  %s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// ---- Cleanup is a destructor --------------------------------------------------------------------
int connections = 0;  // open now
std::string protocol; // what was closed, in that order

class connection {
public:
    explicit connection(std::string name) : name_(std::move(name)) { ++connections; }
    connection(const connection&) = delete;
    connection& operator=(const connection&) = delete;
    ~connection() {
        --connections;
        protocol += (protocol.empty() ? "" : ", ") + name_;
    }

private:
    std::string name_;
};

// ---- A service that fails -----------------------------------------------------------------------
struct service {
    int failures; // so many calls are refused, then it answers
    int calls = 0;
};

asyncio::coro<std::string> ask(service& s, std::string question) {
    const connection line("line");
    ++s.calls;
    co_await asyncio::sleep(100ms);
    // No `throw`, but this: the await that fails.
    if (s.calls <= s.failures)
        co_await asyncio::fail(std::make_error_code(std::errc::connection_refused), "service");
    co_return "answer to " + question;
}

// Knows nothing of errors, and needs not: it ends where ask() fails.
asyncio::coro<std::size_t> length_of_answer(service& s) {
    const connection session("session");
    const std::string answer = co_await ask(s, "why?");
    protocol += " (never printed)";
    co_return answer.size();
}

asyncio::coro<int> slow(std::string name) {
    const connection line(name);
    co_await asyncio::sleep(1h);
    co_return 1;
}

// ---- What becomes of the failures ---------------------------------------------------------------
asyncio::coro<> one_failure() {
    std::puts("one failure");
    protocol.clear();
    service s{1};
    const asyncio::outcome<std::size_t> r = co_await asyncio::as_outcome(length_of_answer(s));
    check(!r && r.error().code() == std::errc::connection_refused, r.error().what());
    check(protocol == "line, session", "closed, innermost first: " + protocol);
    const std::size_t length = co_await length_of_answer(s); // a service that has recovered
    check(length == 14, "the next call gives its value");
}

asyncio::coro<> again() {
    std::puts("retry");
    service s{2};
    auto call = [&s] { return ask(s, "how?"); };
    const asyncio::duration before = asyncio::elapsed();
    const std::string answer =
        co_await asyncio::retry(call, {.attempts = 3, .initial_delay = 200ms, .jitter = 0});
    check(answer == "answer to how?" && s.calls == 3, "the third call succeeded: " + answer);
    check(asyncio::elapsed() - before >= asyncio::duration(900ms), "after pauses of 0.2 and 0.4 s");

    service dead{1000};
    auto in_vain = [&dead] { return ask(dead, "how?"); };
    const asyncio::outcome<std::string> r = co_await asyncio::as_outcome(
        asyncio::retry(in_vain, {.attempts = 2, .initial_delay = 200ms}));
    check(!r && dead.calls == 2, "the last error is left: " + std::string(r.error().what()));
}

asyncio::coro<> too_late() {
    std::puts("timeout");
    protocol.clear();
    const asyncio::outcome<int> r =
        co_await asyncio::as_outcome(asyncio::wait_for(slow("slow line"), 300ms));
    check(!r && r.error().holds<asyncio::timeout_error>(), r.error().what());
    check(protocol == "slow line" && connections == 0, "closed by then: " + protocol);
}

asyncio::coro<> together() {
    std::puts("group");
    protocol.clear();
    service s{1};
    asyncio::task<int> other;
    auto body = [&s, &other](asyncio::task_group& tg) {
        tg.create_task(ask(s, "who?"));
        other = tg.create_task(slow("other"));
    };
    const asyncio::outcome<void> r =
        co_await asyncio::as_outcome(asyncio::with(asyncio::task_group(), body));
    check(!r && r.error().holds<asyncio::exception_group>(), r.error().what());
    check(other.cancelled() && protocol == "line, other", "the other one was cancelled");
}

asyncio::coro<> from_outside() {
    std::puts("cancellation");
    protocol.clear();
    asyncio::task<int> working = asyncio::create_task([]() -> asyncio::coro<int> {
        auto say_goodbye = []() -> asyncio::coro<> {
            co_await asyncio::sleep(10ms);
            protocol += ", goodbye";
        };
        co_return co_await asyncio::finally(slow("work"), say_goodbye);
    });
    co_await asyncio::sleep(100ms);
    working.cancel();
    const asyncio::outcome<int> r = co_await asyncio::as_outcome(working);
    check(!r && working.cancelled(), "the task was cancelled");
    check(protocol == "work, goodbye", "and its cleanup awaited: " + protocol);
}

asyncio::coro<> async_main() {
    co_await one_failure();
    co_await again();
    co_await too_late();
    co_await together();
    co_await from_outside();
    check(connections == 0, "no connection is open");
}

int main(int argc, char** argv) {
    const std::string_view word = argc == 2 ? argv[1] : "";
    if (argc > 2 || (argc == 2 && word != "--virtual")) {
        std::fputs("Failures, retries, timeouts and groups where nothing throws.\n"
                   "usage: noexc [--virtual]\n",
                   word == "--help" ? stdout : stderr);
        return word == "--help" ? 0 : 2;
    }
    asyncio::run_options options;
    if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
    const int code = asyncio::run_main(async_main(), options);
    return code != 0 || broken != 0 ? 1 : 0;
}
// Output:
// one failure
//   holds:  service: Connection refused
//   holds:  closed, innermost first: line, session
//   holds:  the next call gives its value
// retry
//   holds:  the third call succeeded: answer to how?
//   holds:  after pauses of 0.2 and 0.4 s
//   holds:  the last error is left: service: Connection refused
// timeout
//   holds:  asyncio::timeout: the time limit passed
//   holds:  closed by then: slow line
// group
//   holds:  unhandled errors in a task group (1 sub-exception)
//   holds:  the other one was cancelled
// cancellation
//   holds:  the task was cancelled
//   holds:  and its cleanup awaited: work, goodbye
//   holds:  no connection is open
