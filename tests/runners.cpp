// [SECTION] runners: run, runner and run_main, Ctrl-C, and what is left when main() has ended.
#include "support.hpp"
#include "system.hpp"

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <memory>
#include <mutex>
#include <new>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#if defined(_WIN32)
#include <windows.h>
#else
#include <unistd.h>
#endif

#if defined(_WIN32)

// Whom the console is to tell, for a test to do so: Wine's has no Ctrl-Break. What a program
// calls stands in a table, of which this is the place for that call.
namespace {

PHANDLER_ROUTINE console_tells = nullptr;

BOOL WINAPI set_handler_here(PHANDLER_ROUTINE handler, BOOL add) {
    console_tells = add != 0 ? handler : nullptr;
    return TRUE;
}

} // namespace

extern "C" {
extern decltype(&::SetConsoleCtrlHandler) __imp_SetConsoleCtrlHandler;
decltype(&::SetConsoleCtrlHandler) __imp_SetConsoleCtrlHandler = set_handler_here;
}

#endif

namespace {

using log_of_words = std::vector<std::string>;

constexpr asyncio::run_options virtual_time = {.clock = asyncio::clock_kind::virtual_time};

struct counted {
    explicit counted(int& count) : alive(&count) { ++*alive; }
    counted(const counted& other) : alive(other.alive) { ++*alive; }
    counted& operator=(const counted&) = delete;
    ~counted() { --*alive; }
    int* alive;
};

asyncio::coro<int> value(int v) {
    co_await asyncio::sleep(0s);
    co_return v;
}

asyncio::coro<> failing(std::string text) {
    co_await asyncio::sleep(0s);
    THROW(std::runtime_error(text));
}

#if defined(_WIN32)
constexpr int some_signal = SIGBREAK;
#else
constexpr int some_signal = SIGUSR1;
#endif

// A process that gets signals as one started from a terminal.
support::child_result in_terminal(const std::function<int()>& program) {
    return support::in_child([&] {
        std::signal(SIGINT, SIG_DFL);
        std::signal(SIGTERM, SIG_DFL);
        return program();
    });
}

// Ctrl-C from the loop itself, in its next turns.
void interrupt_later(asyncio::duration delay = 1ms) {
    asyncio::get_running_loop().call_later(delay, [] { ::raise(SIGINT); });
}

} // namespace

TEST_SUITE("run") {

TEST_CASE("RN-01: run() gives main's result or error, and makes a loop for each call") {
    CHECK(asyncio::run(value(5)) == 5);
    const asyncio::exception_ptr error = support::thrown_by_run(failing("main failed"));
    CHECK(support::holds<std::runtime_error>(error));
    CHECK(support::message_of(error) == "main failed");
    const auto cancelled = []() -> asyncio::coro<> {
        asyncio::current_task().cancel();
        co_await asyncio::sleep(1h);
    };
    CHECK(support::holds<asyncio::cancelled_error>(support::thrown_by_run(cancelled())));

    std::vector<asyncio::future<int>> seen;
    const auto remember = [&]() -> asyncio::coro<> {
        seen.push_back(asyncio::create_future<int>());
        co_return;
    };
    asyncio::run(remember());
    CHECK_THROWS_AS(static_cast<void>(seen[0].get_loop()), std::runtime_error);
    asyncio::run(remember);
    CHECK_FALSE(seen[0] == seen[1]);
    CHECK_THROWS_AS(asyncio::get_running_loop(), std::runtime_error);
    auto give = [p = std::make_unique<int>(3)]() mutable -> asyncio::coro<std::unique_ptr<int>> {
        co_await asyncio::sleep(0s);
        co_return std::move(p);
    };
    const std::unique_ptr<int> moved = asyncio::run(std::move(give));
    CHECK(*moved == 3);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("RN-02: run() inside a running loop is an error, and main never begins") {
    int alive = 0;
    bool ran = false;
    const auto body = [&ran](counted) -> asyncio::coro<> {
        ran = true;
        co_return;
    };
    CHECK_THROWS_AS(asyncio::run(body(counted(alive))), std::runtime_error);
    asyncio::runner r;
    CHECK_THROWS_AS(r.run(body(counted(alive))), std::runtime_error);
    CHECK(alive == 0);
    CHECK_FALSE(ran);
    co_await support::turns(1);
}
#endif

TEST_CASE("RN-03: tasks that main leaves are cancelled and awaited") {
    log_of_words log;
    const auto background = [&](std::string name) -> asyncio::coro<> {
        const auto slept = co_await support::catching(asyncio::sleep(1h));
        if (support::holds<asyncio::cancelled_error>(slept.error)) {
            co_await asyncio::sleep(100ms);
            log.push_back(name + " cleaned up");
        }
    };
    const auto main = [&]() -> asyncio::coro<int> {
        asyncio::create_task(background("a"));
        asyncio::create_task(background("b"));
        co_await support::turns(1);
        log.push_back("main ends");
        co_return 3;
    };
    CHECK(asyncio::run(main(), virtual_time) == 3);
    CHECK(log == log_of_words{"main ends", "a cleaned up", "b cleaned up"});
}

TEST_CASE("RN-03: tasks that the clean-up itself starts are ended as well") {
    int ended = 0;
    const auto child = [&]() -> asyncio::coro<> {
        const auto slept = co_await support::catching(asyncio::sleep(1h));
        ended += support::holds<asyncio::cancelled_error>(slept.error) ? 1 : 0;
    };
    const auto background = [&]() -> asyncio::coro<> {
        const auto slept = co_await support::catching(asyncio::sleep(1h));
        const bool stopped = support::holds<asyncio::cancelled_error>(slept.error);
        if (stopped) asyncio::create_task(child);
        co_await support::turns(2);
    };
    const auto main = [&]() -> asyncio::coro<> {
        asyncio::create_task(background);
        co_await support::turns(1);
    };
    asyncio::run(main(), virtual_time);
    CHECK(ended == 1);
}

TEST_CASE("RN-04: a task that answers the final cancellation with an error is reported") {
    std::shared_ptr<std::vector<asyncio::exception_context>> reports;
    const auto background = []() -> asyncio::coro<> {
        const auto slept = co_await support::catching(asyncio::sleep(1h));
        const bool stopped = support::holds<asyncio::cancelled_error>(slept.error);
        if (stopped) THROW(std::runtime_error("bad clean-up"));
    };
    const auto main = [&]() -> asyncio::coro<int> {
        reports = support::collect_reports();
        asyncio::create_task(background, {.name = "culprit"});
        co_await support::turns(1);
        co_return 4;
    };
    CHECK(asyncio::run(main(), virtual_time) == 4);
    REQUIRE(reports->size() == 1);
    CHECK(support::message_of(reports->at(0).exception) == "bad clean-up");
    CHECK(reports->at(0).task == "culprit");
}

TEST_CASE("RN-05: when main fails, the tasks it leaves are ended before its error comes out") {
    bool cleaned = false;
    const auto background = [&]() -> asyncio::coro<> {
        const auto slept = co_await support::catching(asyncio::sleep(1h));
        co_await asyncio::sleep(500ms);
        cleaned = support::holds<asyncio::cancelled_error>(slept.error);
    };
    const auto main = [&]() -> asyncio::coro<> {
        asyncio::create_task(background);
        co_await support::turns(1);
        THROW(std::out_of_range("main's own"));
    };
    const asyncio::exception_ptr error = support::thrown_by_run(main(), virtual_time);
    CHECK(support::holds<std::out_of_range>(error));
    CHECK(support::message_of(error) == "main's own");
    CHECK(cleaned);
}

TEST_CASE("RN-05: an interrupt thrown by main lets the other tasks clean up, too") {
    bool cleaned = false;
    const auto background = [&]() -> asyncio::coro<> {
        const auto slept = co_await support::catching(asyncio::sleep(1h));
        co_await asyncio::sleep(500ms);
        cleaned = support::holds<asyncio::cancelled_error>(slept.error);
    };
    const auto main = [&]() -> asyncio::coro<> {
        asyncio::create_task(background);
        co_await support::turns(1);
        THROW(asyncio::keyboard_interrupt("out"));
    };
    const asyncio::exception_ptr error = support::thrown_by_run(main(), virtual_time);
    CHECK(support::holds<asyncio::keyboard_interrupt>(error));
    CHECK(cleaned);
}

TEST_CASE("RN-06: a runner keeps its loop and its context from call to call") {
    asyncio::context_var<int> var("var", 0);
    var.set(1);
    asyncio::runner r(virtual_time);
    const asyncio::event_loop* first = nullptr;
    const auto add = [&]() -> asyncio::coro<int> {
        if (!first) first = &asyncio::get_running_loop();
        CHECK(first == &asyncio::get_running_loop());
        var.set(var.get() + 10);
        co_return var.get();
    };
    CHECK(r.run(add()) == 11);
    CHECK(r.run(add()) == 21);
    CHECK(&r.get_loop() == first);
    CHECK(var.get() == 1);
    // A task that one call leaves goes on in the next.
    int ticks = 0;
    const auto ticking = [&]() -> asyncio::coro<> {
        for (;;) {
            co_await asyncio::sleep(1s);
            ++ticks;
        }
    };
    const auto start = [&]() -> asyncio::coro<> {
        asyncio::create_task(ticking);
        co_return;
    };
    const auto wait = []() -> asyncio::coro<> { co_await asyncio::sleep(3500ms); };
    r.run(start());
    r.run(wait());
    CHECK(ticks == 3);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("RN-07: a closed runner refuses") {
    int alive = 0;
    const auto body = [](counted) -> asyncio::coro<> { co_return; };
    asyncio::runner r;
    r.run(value(1));
    r.close();
    CHECK_THROWS_AS(r.run(body(counted(alive))), std::runtime_error);
    CHECK_THROWS_AS(r.get_loop(), std::runtime_error);
    CHECK(alive == 0);
    asyncio::runner never_used;
    never_used.close();
    CHECK_THROWS_AS(never_used.get_loop(), std::runtime_error);
}

TEST_CASE("RN-07: a closed runner is not entered again, and one never used makes no loop") {
    asyncio::runner r;
    asyncio::runner never_used;
    asyncio::runner used;
    const auto main = [&]() -> asyncio::coro<int> {
        int entered = 0;
        const auto body = [&](asyncio::runner&) { ++entered; };
        const auto before = support::open_descriptors();
        co_await asyncio::with(r, body);
        CHECK(entered == 1);
        CHECK_AWAIT_THROWS_WITH_AS(asyncio::with(r, body), "it is closed; make another one",
                                   std::runtime_error);
        never_used.close();
        CHECK_AWAIT_THROWS_AS(asyncio::with(never_used, body), std::runtime_error);
        CHECK(support::open_descriptors() == before);
        static_cast<void>(used.get_loop());
        CHECK(support::open_descriptors() != before);
        co_return entered;
    };
    CHECK(asyncio::run(main()) == 1);
}
#endif

TEST_CASE("RN-07: closing a runner ends what is left; closing it twice does nothing") {
    int alive = 0;
    const auto waiting = [](counted) -> asyncio::coro<> { co_await asyncio::sleep(1h); };
    const auto main = [&]() -> asyncio::coro<> {
        asyncio::create_task(waiting(counted(alive)));
        co_await support::turns(1);
    };
    asyncio::runner r(virtual_time);
    r.run(main());
    CHECK(alive == 1);
    r.close();
    CHECK(alive == 0);
    r.close();
    asyncio::runner never_used;
    never_used.close();
    never_used.close();
}

TEST_CASE("of tasks that do not end after their cancellation ten are shown, and the rest counted") {
    // They are cancelled again every second, and give in at the fourth time.
    const auto stubborn = []() -> asyncio::coro<> {
        for (int i = 0; i < 4; ++i)
            static_cast<void>(co_await support::catching(asyncio::sleep(1h)));
    };
    const auto main = [&]() -> asyncio::coro<> {
        for (int i = 0; i < 12; ++i) {
            const std::string name = "stubborn " + std::to_string(i);
            asyncio::create_task(stubborn(), {.name = name});
        }
        co_await asyncio::sleep(0s);
    };
    support::captured_stderr quiet;
    asyncio::run(main(), {.clock = asyncio::clock_kind::virtual_time});
    const std::string text = quiet.taken();
    CHECK(text.starts_with("asyncio: run() waits for tasks that do not end after their "
                           "cancellation:\n* task 'stubborn "));
    CHECK(text.ends_with("\nand 2 more\n"));
    int shown = 0;
    for (std::size_t at = 0; (at = text.find("* task '", at)) != std::string::npos; ++at) ++shown;
    CHECK(shown == 10);
}

TEST_CASE("RN-14: jobs of the default executor have ended when run() returns") {
    support::flag begun;
    support::flag main_ended;
    std::atomic<bool> ended{false};
    const std::atomic<int> loop_thread{support::thread_id()};
    const auto main = [&]() -> asyncio::coro<> {
        const auto job = asyncio::get_running_loop().run_in_executor(nullptr, [&] {
            begun.set();
            main_ended.wait();
            // Until the loop's thread waits, as it has nothing else to do than to wait for this.
            support::wait_until_asleep(loop_thread);
            ended = true;
        });
        begun.wait();
        main_ended.set();
        co_return;
    };
    asyncio::run(main());
    CHECK(ended);
}

TEST_CASE("RN-14: after five minutes a job that does not end is reported, and left to itself") {
    support::flag begun;
    support::flag may_end;
    std::atomic<bool> has_ended{false};
    support::flag ended;
    std::vector<std::string> reports;
    asyncio::duration waited{};
    const auto main = [&]() -> asyncio::coro<int> {
        asyncio::event_loop& loop = asyncio::get_running_loop();
        const asyncio::time_point begin = loop.time();
        loop.set_exception_handler(
            [&reports, &waited, begin](asyncio::event_loop& l,
                                       const asyncio::exception_context& context) {
                reports.push_back(context.message);
                waited = l.time() - begin;
            });
        asyncio::run_in_executor(nullptr, [&] {
            begun.set();
            may_end.wait();
            has_ended = true;
            ended.set();
        });
        begun.wait();
        co_return 7;
    };
    // Five minutes in 30 milliseconds.
    const int result = asyncio::run(main(), {.time_scale = 10'000});
    CHECK(result == 7);
    CHECK_FALSE(has_ended);
    REQUIRE(reports.size() == 1);
    CHECK(reports[0].find("did not end its jobs in time") != std::string::npos);
    CHECK(waited >= asyncio::duration(5min));
    may_end.set();
    ended.wait();
}

TEST_CASE("a task that ignores its cancellation is asked again, and then printed") {
    int asked = 0;
    const auto stubborn = [&]() -> asyncio::coro<> {
        while (asked < 4) {
            const auto slept = co_await support::catching(asyncio::sleep(1h));
            asked += support::holds<asyncio::cancelled_error>(slept.error) ? 1 : 0;
        }
    };
    const auto main = [&]() -> asyncio::coro<int> {
        asyncio::create_task(stubborn, {.name = "mule"});
        co_await support::turns(1);
        co_return 1;
    };
    support::captured_stderr printed;
    const int result = asyncio::run(main(), virtual_time);
    const std::string text = printed.taken();
    CHECK(result == 1);
    CHECK(asked == 4);
    CHECK(text.find("mule") != std::string::npos);
    CHECK(text.find("runners.cpp") != std::string::npos);
    CHECK(text.find("mule") == text.rfind("mule")); // once
}

TEST_CASE("exit_report says how long the end of run() waits before it prints who is left") {
    struct example {
        asyncio::duration patience;
        std::size_t cancellations; // after which the task ends
        bool printed;
    };
    for (const auto& [patience, cancellations, printed] :
         {example{10s, 4, false}, example{3001ms, 4, false}, example{3s, 4, true},
          example{1s, 4, true}, example{1s, 2, true}, example{1001ms, 2, false}}) {
        CAPTURE(patience.total_seconds());
        CAPTURE(cancellations);
        std::vector<asyncio::duration> times;
        const auto stubborn = [&, most = cancellations]() -> asyncio::coro<> {
            while (times.size() < most) {
                static_cast<void>(co_await support::catching(asyncio::sleep(1h)));
                times.push_back(asyncio::elapsed());
            }
        };
        const auto main = [&]() -> asyncio::coro<> {
            asyncio::create_task(stubborn, {.name = "mule"});
            co_await support::turns(1);
        };
        support::captured_stderr quiet;
        asyncio::run(main(),
                     {.clock = asyncio::clock_kind::virtual_time, .exit_report = patience});
        const std::string text = quiet.taken();
        CHECK((text.find("'mule'") != std::string::npos) == printed);
        CHECK(text.find("'mule'") == text.rfind("'mule'")); // once
        CHECK(text.empty() != printed);
        const std::vector<asyncio::duration> expected{0s, 1s, 2s, 3s};
        CHECK(times == std::vector(expected.begin(),
                                   expected.begin() + static_cast<int>(cancellations)));
    }
}

TEST_CASE("elapsed() counts from the beginning of run()") {
    const auto main = []() -> asyncio::coro<asyncio::duration> {
        co_await asyncio::sleep(90s);
        co_return asyncio::elapsed();
    };
    asyncio::runner r(virtual_time);
    CHECK(r.run(main()) == asyncio::duration(90s));
    CHECK(r.run(main()) == asyncio::duration(90s));
    CHECK_THROWS_AS(asyncio::elapsed(), std::runtime_error);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("a runner is a manager, which with() closes") {
    asyncio::runner r(virtual_time);
    const auto main = [&]() -> asyncio::coro<> {
        co_await asyncio::with(r, [&](asyncio::runner& entered) { CHECK(&entered == &r); });
    };
    asyncio::run(main(), virtual_time);
    CHECK_THROWS_AS(r.get_loop(), std::runtime_error);
}

TEST_CASE("close() inside of run() is refused, and has done nothing") {
    asyncio::runner r(virtual_time);
    const auto main = [&]() -> asyncio::coro<int> {
        CHECK_THROWS_AS(r.close(), std::runtime_error);
        co_await asyncio::sleep(1s);
        co_return 7;
    };
    CHECK(r.run(main()) == 7);
    CHECK(r.run(main()) == 7);
    r.close();
    CHECK_THROWS_AS(r.get_loop(), std::runtime_error);
}

TEST_CASE("a failing runner still closes its loop and destroys what is left") {
    int alive = 0;
    const auto forever = [](counted) -> asyncio::coro<> {
        for (;;) {
            try {
                co_await asyncio::sleep(1h);
            } catch (const asyncio::cancelled_error&) {
                throw asyncio::keyboard_interrupt("during the clean-up");
            }
        }
    };
    const auto main = [&]() -> asyncio::coro<> {
        asyncio::create_task(forever(counted(alive)));
        asyncio::create_task(forever(counted(alive)));
        co_await support::turns(1);
    };
    CHECK_THROWS_AS(asyncio::run(main(), virtual_time), asyncio::keyboard_interrupt);
    CHECK(alive == 0);
}
#endif

} // TEST_SUITE

TEST_SUITE("run: Ctrl-C") {

TEST_CASE("RN-08: Ctrl-C cancels main, and run() throws keyboard_interrupt") {
    const auto result = in_terminal([] {
        bool cleaned = false;
        const auto main = [&]() -> asyncio::coro<> {
            interrupt_later();
            const auto slept = co_await support::catching(asyncio::sleep(1h));
            cleaned = support::holds<asyncio::cancelled_error>(slept.error);
            if (slept.error) co_await support::fail_with(slept.error);
        };
        const asyncio::exception_ptr thrown = support::thrown_by_run(main());
        if (!support::holds<asyncio::keyboard_interrupt>(thrown)) return 2;
        return cleaned ? 8 : 1;
    });
    CHECK(result.exit_code == 8);
}

#if !defined(_WIN32)

TEST_CASE("RN-08: a signal from outside wakes a loop that sleeps") {
    const auto result = in_terminal([] {
        const auto main = []() -> asyncio::coro<> {
            const pid_t parent = ::getpid();
            const pid_t child = ::fork();
            if (child == 0) {
                ::kill(parent, SIGINT);
                ::_exit(0);
            }
            co_await asyncio::create_future<void>();
        };
        const asyncio::exception_ptr thrown = support::thrown_by_run(main());
        return support::holds<asyncio::keyboard_interrupt>(thrown) ? 8 : 2;
    });
    CHECK(result.exit_code == 8);
}

#endif

TEST_CASE("RN-09: main may catch the cancellation and return a value") {
    const auto result = in_terminal([] {
        const auto main = []() -> asyncio::coro<int> {
            interrupt_later();
            const auto slept = co_await support::catching(asyncio::sleep(1h));
            co_return support::holds<asyncio::cancelled_error>(slept.error) ? 9 : 1;
        };
        return asyncio::run(main());
    });
    CHECK(result.exit_code == 9);
}

TEST_CASE("RN-10: main may turn the cancellation into an error of its own") {
    const auto result = in_terminal([] {
        const auto main = []() -> asyncio::coro<> {
            interrupt_later();
            const auto slept = co_await support::catching(asyncio::sleep(1h));
            const bool stopped = support::holds<asyncio::cancelled_error>(slept.error);
            if (stopped) THROW(std::out_of_range("key"));
        };
        const asyncio::exception_ptr thrown = support::thrown_by_run(main());
        return support::holds<std::out_of_range>(thrown) ? 10 : 2;
    });
    CHECK(result.exit_code == 10);
}

TEST_CASE("RN-10: of a main that was cancelled before Ctrl-C came it is the cancellation") {
    const auto result = in_terminal([] {
        const auto main = []() -> asyncio::coro<> {
            const asyncio::any_task self = asyncio::current_task();
            asyncio::get_running_loop().call_soon([self] {
                self.cancel();
                ::raise(SIGINT);
            });
            co_await asyncio::sleep(1h);
        };
        const asyncio::exception_ptr thrown = support::thrown_by_run(main());
        if (support::holds<asyncio::keyboard_interrupt>(thrown)) return 3;
        return support::holds<asyncio::cancelled_error>(thrown) ? 10 : 2;
    });
    CHECK(result.exit_code == 10);
}

TEST_CASE("RN-11: the second Ctrl-C leaves the loop; closing lets main finish its clean-up") {
    const auto result = in_terminal([] {
        int cancellations = 0;
        bool finished = false;
        const auto main = [&]() -> asyncio::coro<> {
            interrupt_later();
            for (int i = 0; i < 2; ++i) {
                const auto slept = co_await support::catching(asyncio::sleep(1h));
                cancellations += support::holds<asyncio::cancelled_error>(slept.error) ? 1 : 0;
                if (i == 0) interrupt_later();
            }
            finished = true;
        };
        const asyncio::exception_ptr thrown = support::thrown_by_run(main());
        if (!support::holds<asyncio::keyboard_interrupt>(thrown)) return 2;
        return finished && cancellations == 2 ? 11 : 1;
    });
    CHECK(result.exit_code == 11);
}

#if !defined(_WIN32)

TEST_CASE("RN-11: the third Ctrl-C has the system's effect") {
    const auto result = in_terminal([] {
        const auto main = []() -> asyncio::coro<> {
            interrupt_later();
            for (;;) {
                static_cast<void>(co_await support::catching(asyncio::sleep(1h)));
                interrupt_later();
            }
        };
        static_cast<void>(support::thrown_by_run(main()));
        return 2;
    });
    CHECK(result.signal_number == SIGINT);
}

#endif

TEST_CASE("RN-12: Ctrl-C during a long step is delivered at main's next wait, however short") {
    const auto result = in_terminal([] {
        int waits = 0;
        const auto main = [&]() -> asyncio::coro<> {
            co_await support::turns(10); // the loop is warm
            ::raise(SIGINT);
            while (waits < 1000) {
                co_await asyncio::sleep(0s);
                ++waits;
            }
        };
        const asyncio::exception_ptr thrown = support::thrown_by_run(main());
        if (!support::holds<asyncio::keyboard_interrupt>(thrown)) return 2;
        return waits == 0 ? 12 : 1;
    });
    CHECK(result.exit_code == 12);
}

TEST_CASE("RN-13: Ctrl-C inside a task_group or a timeout is nobody's timeout or error group") {
    const auto result = in_terminal([] {
        int cancelled = 0;
        const auto child = [&]() -> asyncio::coro<> {
            const auto slept = co_await support::catching(asyncio::sleep(1h));
            cancelled += support::holds<asyncio::cancelled_error>(slept.error) ? 1 : 0;
            if (slept.error) co_await support::fail_with(slept.error);
        };
        const auto main = [&]() -> asyncio::coro<> {
            interrupt_later();
            const auto in_group = [&](asyncio::task_group& group) -> asyncio::coro<> {
                group.create_task(child);
                group.create_task(child);
                co_await asyncio::sleep(1h);
            };
            const auto in_timeout = [&]() -> asyncio::coro<> {
                co_await asyncio::with(asyncio::task_group(), in_group);
            };
            co_await asyncio::with(asyncio::timeout(1h), in_timeout);
        };
        const asyncio::exception_ptr thrown = support::thrown_by_run(main());
        if (!thrown) return 2;
        if (!support::holds<asyncio::keyboard_interrupt>(thrown)) return 3;
        return cancelled == 2 ? 13 : 1;
    });
    CHECK(result.exit_code == 13);
}

#if !defined(_WIN32) // where a test's program may not end by a signal

TEST_CASE("with handle_sigint = false Ctrl-C keeps the effect that it had") {
    const auto result = in_terminal([] {
        const auto main = []() -> asyncio::coro<> {
            ::raise(SIGINT);
            co_return;
        };
        asyncio::run(main(), {.handle_sigint = false});
        return 2;
    });
    CHECK(result.signal_number == SIGINT);
}

TEST_CASE("after run() Ctrl-C has its former effect") {
    const auto result = in_terminal([] {
        asyncio::run(value(1));
        ::raise(SIGINT);
        return 2;
    });
    CHECK(result.signal_number == SIGINT);
}

#endif

} // TEST_SUITE

TEST_SUITE("wait_signal") {

#if !defined(_WIN32)

TEST_CASE("wait_signal() gives the number of the signal, and takes all it names back") {
    const auto result = in_terminal([] {
        const auto main = []() -> asyncio::coro<int> {
            asyncio::get_running_loop().call_later(1ms, [] { ::raise(SIGTERM); });
            const int number = co_await asyncio::wait_signal(SIGUSR1, SIGTERM);
            co_return number;
        };
        if (asyncio::run(main()) != SIGTERM) return 1;
        ::raise(SIGTERM);
        return 2;
    });
    CHECK(result.signal_number == SIGTERM);
}

#endif

TEST_CASE("wait_signal(SIGINT) takes Ctrl-C from run(), and gives it back") {
    const auto result = in_terminal([] {
        int received = 0;
        const auto main = [&]() -> asyncio::coro<> {
            interrupt_later();
            received = co_await asyncio::wait_signal(SIGINT);
            interrupt_later();
            co_await asyncio::sleep(1h);
        };
        const asyncio::exception_ptr thrown = support::thrown_by_run(main());
        if (!support::holds<asyncio::keyboard_interrupt>(thrown)) return 2;
        return received == SIGINT ? 7 : 1;
    });
    CHECK(result.exit_code == 7);
}

#if defined(_WIN32)

TEST_CASE("what happens at the console is a signal, as long as somebody handles that one") {
    asyncio::event_loop loop;
    int handled = 0;
    loop.add_signal_handler(SIGBREAK, [&] {
        ++handled;
        loop.stop();
    });
    const PHANDLER_ROUTINE tell = console_tells;
    REQUIRE(static_cast<bool>(tell));
    std::vector<BOOL> taken;
    std::thread console([&] { // which has one for this
        for (const DWORD what : {CTRL_C_EVENT, CTRL_CLOSE_EVENT, CTRL_BREAK_EVENT})
            taken.push_back(tell(what));
    });
    loop.run_forever();
    console.join();
    CHECK(handled == 1);
    CHECK(taken == std::vector<BOOL>{FALSE, FALSE, TRUE});
    loop.remove_signal_handler(SIGBREAK);
    CHECK_FALSE(static_cast<bool>(console_tells));
    CHECK(tell(CTRL_BREAK_EVENT) == FALSE); // one that was on its way
}

#endif

TEST_CASE("all tasks that wait for a signal get it") {
    const auto result = in_terminal([] {
        int woken = 0;
        const auto waiter = [&]() -> asyncio::coro<> {
            const int number = co_await asyncio::wait_signal(some_signal);
            if (number == some_signal) ++woken;
        };
        const auto main = [&]() -> asyncio::coro<> {
            const auto a = asyncio::create_task(waiter);
            const auto b = asyncio::create_task(waiter);
            const auto c = asyncio::create_task(waiter);
            co_await support::turns(1);
            c.cancel();
            co_await support::turns(1);
            ::raise(some_signal);
            co_await a;
            co_await b;
        };
        asyncio::run(main());
        return woken == 2 ? 7 : 1;
    });
    CHECK(result.exit_code == 7);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE_REAL("wait_signal() refuses what is no signal, and a task may go on after that") {
    const auto body = []() -> asyncio::coro<> {
        CHECK_AWAIT_THROWS_AS(asyncio::wait_signal(some_signal, 0), std::invalid_argument);
        CHECK_AWAIT_THROWS_AS(asyncio::wait_signal(some_signal, 1000), std::invalid_argument);
        CHECK_AWAIT_THROWS_WITH_AS(asyncio::wait_signal(9), "asyncio::wait_signal: ",
                                   std::runtime_error);
        CHECK_FALSE(asyncio::get_running_loop().remove_signal_handler(some_signal));
        asyncio::current_task().cancel();
        co_await asyncio::sleep(1h);
    };
    const auto t = asyncio::create_task(body);
    CHECK_AWAIT_THROWS_AS(t, asyncio::cancelled_error);
}
#endif

} // TEST_SUITE

TEST_SUITE("run_main") {

TEST_CASE("main's int is the exit code; without one it is 0") {
    CHECK(asyncio::run_main(value(42)) == 42);
    const auto nothing = []() -> asyncio::coro<> { co_return; };
    CHECK(asyncio::run_main(nothing()) == 0);
    CHECK(asyncio::run_main(nothing) == 0);
    const auto text = []() -> asyncio::coro<std::string> { co_return "no number"; };
    CHECK(asyncio::run_main(text()) == 0);
}

TEST_CASE("an uncaught error is printed and gives 1") {
    support::captured_stderr printed;
    const int code = asyncio::run_main(failing("nobody caught this"));
    const std::string text = printed.taken();
    CHECK(code == 1);
    CHECK(text == "asyncio: uncaught std::runtime_error: nobody caught this\n");
}

TEST_CASE("what is no std::exception is printed, too") {
    const auto cancelled = []() -> asyncio::coro<> {
        THROW(asyncio::cancelled_error("by itself"));
        co_return;
    };
    std::string expected = "asyncio: uncaught asyncio::cancelled_error: by itself\n";
    support::captured_stderr printed;
    CHECK(asyncio::run_main(cancelled()) == 1);
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    const auto number = []() -> asyncio::coro<> {
        throw 42;
        co_return;
    };
    CHECK(asyncio::run_main(number()) == 1);
    expected += "asyncio: uncaught int\n";
#endif
    CHECK(printed.taken() == expected);
}

TEST_CASE("an uncaught group of errors is printed as a tree") {
    const auto out_of_range = []() -> asyncio::coro<> {
        THROW(std::out_of_range("leaf three"));
        co_return;
    };
    const auto inner = [&](asyncio::task_group& group) {
        group.create_task(failing("leaf two"));
        group.create_task(out_of_range);
    };
    const auto nested = [&]() -> asyncio::coro<> {
        co_await asyncio::with(asyncio::task_group(), inner);
    };
    const auto outer = [&](asyncio::task_group& group) {
        group.create_task(nested);
        group.create_task(failing("leaf one"));
    };
    const auto main = [&]() -> asyncio::coro<> {
        co_await asyncio::with(asyncio::task_group(), outer);
    };
    support::captured_stderr printed;
    const int code = asyncio::run_main(main());
    const std::string text = printed.taken();
    CHECK(code == 1);
    CAPTURE(text);
    CHECK(text.starts_with("asyncio: uncaught "));
    CHECK(text.find("-- std::runtime_error: leaf one\n") != std::string::npos);
    CHECK(text.find("-- std::out_of_range: leaf three\n") != std::string::npos);
    CHECK(text.find("`-- ") != std::string::npos);
    CHECK(text.find("|-- ") != std::string::npos);
    // Leaf three is one level further in than leaf one.
    const auto column = [&](const char* leaf) {
        const std::size_t at = text.find(leaf);
        return at - text.rfind('\n', at);
    };
    CHECK(column("std::out_of_range") == column("std::runtime_error: leaf one") + 4);
}

TEST_CASE("Ctrl-C gives 130 and prints nothing") {
    const auto result = in_terminal([] {
        const auto main = []() -> asyncio::coro<> {
            interrupt_later();
            co_await asyncio::sleep(1h);
        };
        return asyncio::run_main(main());
    });
    CHECK(result.exit_code == 130);
    CHECK(result.err.empty());
}

} // TEST_SUITE

TEST_SUITE("run_per_core") {

// What the threads tell of themselves.
struct census {
    std::mutex mutex;
    std::set<std::size_t> numbers;
    std::set<std::thread::id> threads;
    std::set<const asyncio::event_loop*> loops;

    void add(std::size_t number) {
        const std::lock_guard lock(mutex);
        numbers.insert(number);
        threads.insert(std::this_thread::get_id());
        loops.insert(&asyncio::get_running_loop());
    }
};

TEST_CASE("run_per_core runs a loop on each of its threads, and waits for all of them") {
    census seen;
    std::atomic<int> here{0};
    asyncio::run_per_core(4, [&](std::size_t i) -> asyncio::coro<> {
        seen.add(i);
        ++here;
        while (here < 4) co_await asyncio::sleep(1ms); // all are there at the same time
    });
    CHECK(seen.numbers == std::set<std::size_t>{0, 1, 2, 3});
    CHECK(seen.threads.size() == 4);
    CHECK(seen.threads.count(std::this_thread::get_id()) == 0);
    CHECK(seen.loops.size() == 4);
    CHECK(here == 4);
}

TEST_CASE("run_per_core without a number takes one thread per processor, and results are dropped") {
    std::atomic<int> count{0};
    asyncio::run_per_core(0, [&]() -> asyncio::coro<int> { co_return ++count; });
    CHECK(count >= 1);
    CHECK(count <= static_cast<int>(std::thread::hardware_concurrency()));
}

TEST_CASE("each thread of run_per_core has a copy of the factory") {
    struct counting {
        int calls = 0;
        std::atomic<int>* all;
        asyncio::coro<> operator()() {
            *all += ++calls;
            co_return;
        }
    };
    std::atomic<int> all{0};
    const counting original{0, &all};
    asyncio::run_per_core(3, original);
    CHECK(all == 3);
    CHECK(original.calls == 0);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("the first failure cancels the others and comes out of run_per_core") {
    std::atomic<int> waiting{0};
    std::atomic<int> cancelled{0};
    const auto program = [&](std::size_t i) -> asyncio::coro<> {
        if (i == 1) {
            while (waiting < 2) co_await asyncio::sleep(1ms);
            throw std::logic_error("number one failed");
        }
        ++waiting;
        const auto waited = co_await support::catching(asyncio::event().wait());
        if (support::holds<asyncio::cancelled_error>(waited.error)) ++cancelled;
        if (waited.error) co_await support::fail_with(waited.error);
    };
    CHECK_THROWS_WITH_AS(asyncio::run_per_core(3, program), "number one failed", std::logic_error);
    CHECK(cancelled == 2);
}
#endif

TEST_CASE("options of run_per_core are those of each loop") {
    std::atomic<int> jumped{0};
    const auto begin = std::chrono::steady_clock::now();
    asyncio::run_per_core(
        2,
        [&]() -> asyncio::coro<> {
            co_await asyncio::sleep(1h);
            CHECK(asyncio::elapsed() == asyncio::duration(1h));
            ++jumped;
        },
        {.clock = asyncio::clock_kind::virtual_time});
    CHECK(jumped == 2);
    CHECK(std::chrono::steady_clock::now() - begin < 30s);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("run_per_core is refused inside a loop") {
    CHECK_THROWS_AS(asyncio::run_per_core(1, []() -> asyncio::coro<> { co_return; }),
                    std::runtime_error);
    co_return;
}
#endif

TEST_CASE("Ctrl-C cancels all threads of run_per_core") {
    const support::child_result result = support::in_child([] {
        std::atomic<int> waiting{0};
        const auto program = [&](std::size_t i) -> asyncio::coro<> {
            ++waiting;
            while (i == 0 && waiting < 2) co_await asyncio::sleep(1ms);
            if (i == 0) std::raise(SIGINT);
            const auto waited = co_await support::catching(asyncio::event().wait());
            if (support::holds<asyncio::cancelled_error>(waited.error)) std::fputs("c", stderr);
            if (waited.error) co_await support::fail_with(waited.error);
        };
#if defined(ASYNCIO_NO_EXCEPTIONS)
        asyncio::run_per_core(2, program);
#else
        try {
            asyncio::run_per_core(2, program);
        } catch (const asyncio::keyboard_interrupt&) {
            return 3;
        }
#endif
        return 2;
    });
#if defined(ASYNCIO_NO_EXCEPTIONS)
    CHECK(result.err == "ccfatal: asyncio::keyboard_interrupt\n");
    CHECK(result.signal_number == SIGABRT);
#else
    CHECK(result.err == "cc");
    CHECK(result.exit_code == 3);
#endif
}

#if !defined(_WIN32) // where ports are not shared

TEST_CASE("servers of run_per_core share a port") {
    std::atomic<int> port{0};
    std::atomic<int> served{0};
    constexpr int clients = 40;
    std::atomic<int> listening{0};
    asyncio::run_per_core(3, [&](std::size_t i) -> asyncio::coro<> {
        while (i > 0 && port == 0) co_await asyncio::sleep(1ms);
        auto serve = [&](asyncio::stream_reader reader,
                         asyncio::stream_writer writer) -> asyncio::coro<> {
            const std::string line = co_await reader.readline();
            writer.write(line);
            ++served;
        };
        asyncio::server server =
            co_await asyncio::start_server(serve, "127.0.0.1", port, {.reuse_port = true});
        port = server.port();
        ++listening;
        while (listening < 3) co_await asyncio::sleep(1ms);
        if (i == 0) {
            for (int n = 0; n < clients; ++n) {
                auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
                writer.write("x\n");
                const std::string line = co_await reader.readline();
                CHECK(line == "x\n");
            }
        }
        while (served < clients) co_await asyncio::sleep(1ms);
        server.close();
        co_await server.wait_closed();
    });
    CHECK(served == clients);
}

#endif

} // TEST_SUITE
