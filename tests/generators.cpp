// async_generator: values one after another, and every way in which that can end.
#include "support.hpp"

#include <exception>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace {

using log_type = std::vector<std::string>;

// Says in the log when it goes, as a local of a generator does.
struct last_words {
    last_words(log_type& l, std::string t) : log(&l), text(std::move(t)) {}
    last_words(const last_words&) = delete;
    last_words& operator=(const last_words&) = delete;
    ~last_words() { log->push_back(text); }
    log_type* log;
    std::string text;
};

asyncio::async_generator<int> count_to(int n) {
    for (int i = 1; i <= n; ++i) co_yield i;
}

asyncio::async_generator<int> ticks(int n, log_type& log) {
    const last_words end(log, "ticks gone");
    for (int i = 1; i <= n; ++i) {
        co_await asyncio::sleep(1s);
        log.push_back("tick " + std::to_string(i));
        co_yield i;
    }
    log.push_back("ticks over");
}

// Whether closing a generator reaches it at its co_yield; where nothing throws it is destroyed.
#if defined(ASYNCIO_NO_EXCEPTIONS)
constexpr bool closing_throws = false;
#else
constexpr bool closing_throws = true;
#endif

// Cleans up with an await when it is closed, cancelled or fails, and lets that go on.
asyncio::async_generator<int> with_cleanup(log_type& log) {
    const last_words end(log, "gone");
    asyncio::exception_ptr error;
    for (int i = 1; !error; ++i) {
        ASYNCIO_TRY {
            co_yield i;
        } ASYNCIO_CATCH_ALL {
            error = asyncio::detail::current_error();
        }
        if (error) break;
        auto slept = co_await support::catching(asyncio::sleep(1s));
        error = std::move(slept.error);
    }
    log.push_back(support::holds<asyncio::cancelled_error>(error) ? "cancelled" : "closed");
    co_await asyncio::sleep(500ms);
    log.push_back("cleaned up");
    co_await support::fail_with(error);
}

// What that says when it is closed.
log_type words_of_closing() {
    if (closing_throws) return {"closed", "cleaned up", "gone"};
    return {"gone"};
}

log_type joined(log_type first, const log_type& second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
}

template <class T>
asyncio::coro<std::vector<T>> all_of(asyncio::async_generator<T> generator) {
    std::vector<T> values;
    while (auto value = co_await generator.next()) values.push_back(std::move(*value));
    co_return values;
}

constexpr asyncio::run_options virtual_time = {.clock = asyncio::clock_kind::virtual_time};

asyncio::time_point now() { return asyncio::get_running_loop().time(); }

} // namespace

TEST_SUITE("async_generator: values") {

ASYNC_TEST_CASE("next() gives the values in order, and then nothing for ever") {
    auto generator = count_to(3);
    for (int i = 1; i <= 3; ++i) {
        const std::optional<int> value = co_await generator.next();
        CHECK(value == i);
    }
    for (int i = 0; i < 3; ++i) {
        const std::optional<int> value = co_await generator.next();
        CHECK_FALSE(value);
    }
    auto none = count_to(0);
    const std::optional<int> nothing = co_await none.next();
    CHECK_FALSE(nothing);
}

ASYNC_TEST_CASE("a generator runs only inside next(), and takes its time there") {
    log_type log;
    auto generator = ticks(2, log);
    co_await asyncio::sleep(10s);
    CHECK(log.empty());
    const asyncio::time_point begin = now();
    auto value = co_await generator.next();
    CHECK(value == 1);
    CHECK(now() - begin == 1s);
    co_await asyncio::sleep(10s);
    CHECK(log == log_type{"tick 1"});
    value = co_await generator.next();
    CHECK(value == 2);
    CHECK(now() - begin == 12s);
    value = co_await generator.next();
    CHECK_FALSE(value);
    CHECK(log == log_type{"tick 1", "tick 2", "ticks over", "ticks gone"});
    CHECK(now() - begin == 12s);
}

ASYNC_TEST_CASE("what does not wait does not give up the loop, and does not deepen the stack") {
    bool other_ran = false;
    asyncio::get_running_loop().call_soon([&] { other_ran = true; });
    auto generator = count_to(200'000);
    long long sum = 0;
    while (const auto value = co_await generator.next()) sum += *value;
    CHECK(sum == 200'000LL * 200'001 / 2);
    CHECK_FALSE(other_ran);
    co_await support::turns(2);
    CHECK(other_ran);
}

ASYNC_TEST_CASE("values may be move-only, and are moved, not copied") {
    struct source {
        static asyncio::async_generator<std::unique_ptr<int>> run() {
            auto first = std::make_unique<int>(1);
            co_yield std::move(first);
            CHECK(first == nullptr);
            co_yield std::make_unique<int>(2);
        }
    };
    auto generator = source::run();
    auto one = co_await generator.next();
    auto two = co_await generator.next();
    REQUIRE(one);
    REQUIRE(two);
    CHECK(**one == 1);
    CHECK(**two == 2);
    const auto none = co_await generator.next();
    CHECK_FALSE(none);
}

ASYNC_TEST_CASE("a generator may consume another one, to any depth") {
    struct layers {
        static asyncio::async_generator<int> run(int depth, int n) {
            if (depth == 0) {
                for (int i = 1; i <= n; ++i) {
                    co_await asyncio::sleep(1s);
                    co_yield i;
                }
                co_return;
            }
            auto inner = run(depth - 1, n);
            while (const auto value = co_await inner.next()) co_yield *value;
        }
    };
    const asyncio::time_point begin = now();
    const std::vector<int> values = co_await all_of(layers::run(300, 3));
    CHECK(values == std::vector<int>{1, 2, 3});
    CHECK(now() - begin == 3s);
}

ASYNC_TEST_CASE(
    "a generator may be moved between its values, and consumed by several tasks in turn") {
    log_type log;
    auto first = ticks(4, log);
    auto value = co_await first.next();
    CHECK(value == 1);
    asyncio::async_generator<int> second = std::move(first);
    value = co_await first.next(); // nothing is left in it
    CHECK_FALSE(value);
    value = co_await second.next();
    CHECK(value == 2);
    auto held = std::make_unique<asyncio::async_generator<int>>(std::move(second));
    const auto task = asyncio::create_task([&]() -> asyncio::coro<std::optional<int>> {
        const auto me = asyncio::current_task();
        auto third = co_await held->next();
        CHECK(asyncio::current_task() == me);
        co_return third;
    });
    value = co_await task;
    CHECK(value == 3);
    value = co_await held->next();
    CHECK(value == 4);
    value = co_await held->next();
    CHECK_FALSE(value);
}

ASYNC_TEST_CASE(
    "it runs as part of the task that asks: current_task() and context are that task's") {
    asyncio::context_var<std::string> var("var", "default");
    std::vector<asyncio::any_task> tasks;
    struct source {
        static asyncio::async_generator<std::string> run(asyncio::context_var<std::string>& v,
                                                         std::vector<asyncio::any_task>& who) {
            for (int i = 0; i < 2; ++i) {
                co_await asyncio::sleep(1s);
                who.push_back(asyncio::current_task());
                const std::string seen = v.get();
                v.set(seen + "+");
                co_yield seen;
            }
        }
    };
    auto generator = source::run(var, tasks);
    var.set("mine");
    auto value = co_await generator.next();
    CHECK(value == "mine");
    CHECK(var.get() == "mine+");
    const auto other = asyncio::create_task([&]() -> asyncio::coro<> {
        var.set("the other's");
        auto next = co_await generator.next();
        CHECK(next == "the other's");
    });
    co_await other;
    CHECK(var.get() == "mine+");
    CHECK(tasks == std::vector<asyncio::any_task>{asyncio::current_task(), other});
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("a second next() while one waits is refused, and disturbs neither") {
    log_type log;
    auto generator = ticks(2, log);
    const auto first = asyncio::create_task(generator.next());
    co_await support::turns(2);
    CHECK_AWAIT_THROWS_WITH_AS(generator.next(), "waiting already", std::runtime_error);
    CHECK_AWAIT_THROWS_WITH_AS(generator.aclose(), "waiting already", std::runtime_error);
    const std::optional<int> value = co_await first;
    CHECK(value == 1);
    const std::optional<int> second = co_await generator.next();
    CHECK(second == 2);
}
#endif

} // TEST_SUITE

TEST_SUITE("async_generator: early ends") {

ASYNC_TEST_CASE("who leaves the loop early destroys the generator's locals with it, at once") {
    log_type log;
    {
        auto generator = ticks(10, log);
        while (const auto value = co_await generator.next())
            if (*value == 2) break;
        log.push_back("left");
    }
    CHECK(log == log_type{"tick 1", "tick 2", "left", "ticks gone"});
    CHECK(asyncio::get_running_loop().metrics().timers == 0);
    CHECK(asyncio::all_tasks().size() == 1);
}

ASYNC_TEST_CASE("an error in the loop's body destroys it as well") {
    log_type log;
    const auto consume = [&]() -> asyncio::coro<> {
        auto generator = ticks(10, log);
        while (const auto value = co_await generator.next())
            if (*value == 2) THROW(std::out_of_range("the body's"));
    };
    CHECK_AWAIT_THROWS_WITH_AS(consume(), "the body's", std::out_of_range);
    CHECK(log == log_type{"tick 1", "tick 2", "ticks gone"});
}

ASYNC_TEST_CASE("one that never ran destroys its arguments, and runs nothing") {
    log_type log;
    struct source {
        static asyncio::async_generator<int> run(std::unique_ptr<last_words> argument,
                                                 log_type& l) {
            l.push_back("ran");
            co_yield argument ? 1 : 0;
        }
    };
    { const auto unused = source::run(std::make_unique<last_words>(log, "argument gone"), log); }
    CHECK(log == log_type{"argument gone"});
    log.clear();
    auto closed = source::run(std::make_unique<last_words>(log, "argument gone"), log);
    co_await closed.aclose();
    CHECK(log == log_type{"argument gone"});
    const std::optional<int> none = co_await closed.next();
    CHECK_FALSE(none);
    CHECK(log.size() == 1);
}

ASYNC_TEST_CASE("aclose() waits for a generator's clean-up; where nothing throws it just ends it") {
    log_type log;
    auto generator = with_cleanup(log);
    co_await generator.next();
    co_await generator.next();
    const asyncio::time_point begin = now();
    co_await generator.aclose();
    CHECK(log == words_of_closing());
    CHECK(now() - begin == (closing_throws ? 500ms : 0ms));
    const std::optional<int> none = co_await generator.next();
    CHECK_FALSE(none);
    co_await generator.aclose(); // of one that has ended does nothing
    CHECK(log == words_of_closing());
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("aclose() cannot be taken for an error by a handler of std::exceptions") {
    log_type log;
    struct source {
        static asyncio::async_generator<int> run(log_type& l) {
            const last_words end(l, "gone");
            try {
                co_yield 1;
            } catch (const std::exception&) {
                l.push_back("an error");
            } catch (const asyncio::cancelled_error&) {
                l.push_back("a cancellation");
            }
            l.push_back("went on");
            co_yield 2;
        }
    };
    auto generator = source::run(log);
    co_await generator.next();
    co_await generator.aclose();
    CHECK(log == log_type{"gone"});
}

ASYNC_TEST_CASE(
    "a generator may end by itself when it is closed; one that yields again is an error") {
    struct source {
        static asyncio::async_generator<int> run(int more) {
            try {
                co_yield 1;
            } catch (...) {
                // Swallowed.
            }
            for (int i = 0; i < more; ++i) co_yield 2 + i;
        }
    };
    auto obedient = source::run(0);
    co_await obedient.next();
    co_await obedient.aclose();

    auto stubborn = source::run(2);
    co_await stubborn.next();
    CHECK_AWAIT_THROWS_WITH_AS(stubborn.aclose(), "yielded again", std::runtime_error);
    // It stands at the value that was refused, and goes on from there.
    auto value = co_await stubborn.next();
    CHECK(value == 3);
    value = co_await stubborn.next();
    CHECK_FALSE(value);
}

ASYNC_TEST_CASE("an error of the clean-up comes out of aclose(), and ends the generator") {
    struct source {
        static asyncio::async_generator<int> run() {
            bool closed = false;
            try {
                co_yield 1;
            } catch (...) {
                closed = true;
            }
            co_await asyncio::sleep(1s);
            if (closed) throw std::runtime_error("the clean-up failed");
        }
    };
    auto generator = source::run();
    co_await generator.next();
    CHECK_AWAIT_THROWS_WITH_AS(generator.aclose(), "the clean-up failed", std::runtime_error);
    const std::optional<int> none = co_await generator.next();
    CHECK_FALSE(none);
}
#endif

ASYNC_TEST_CASE("closing the outermost of nested generators destroys the inner ones") {
    log_type log;
    struct source {
        static asyncio::async_generator<int> run(log_type& l) {
            const last_words end(l, "outer gone");
            auto inner = ticks(10, l);
            while (const auto value = co_await inner.next()) co_yield *value * 10;
        }
    };
    auto generator = source::run(log);
    const std::optional<int> value = co_await generator.next();
    CHECK(value == 10);
    co_await generator.aclose();
    CHECK(log == log_type{"tick 1", "ticks gone", "outer gone"});
}

} // TEST_SUITE

TEST_SUITE("async_generator: errors") {

ASYNC_TEST_CASE("an error comes out of the next() that met it, and ends the generator") {
    log_type log;
    struct source {
        static asyncio::async_generator<int> run(log_type& l, bool waits) {
            const last_words end(l, "gone");
            co_yield 1;
            if (waits) co_await asyncio::sleep(1s);
            THROW(std::runtime_error("no second value"));
        }
    };
    for (const bool waits : {false, true}) {
        CAPTURE(waits);
        log.clear();
        auto generator = source::run(log, waits);
        const std::optional<int> value = co_await generator.next();
        CHECK(value == 1);
        CHECK(log.empty());
        CHECK_AWAIT_THROWS_WITH_AS(generator.next(), "no second value", std::runtime_error);
        CHECK(log == log_type{"gone"});
        const std::optional<int> none = co_await generator.next();
        CHECK_FALSE(none);
    }
}

asyncio::coro<int> second_fails(int i) {
    co_await asyncio::sleep(1s);
    if (i == 2) THROW(std::runtime_error("call 2"));
    co_return i;
}

ASYNC_TEST_CASE("an awaited call may fail inside, and the generator goes on") {
    struct source {
        static asyncio::async_generator<std::string> run() {
            for (int i = 1; i <= 3; ++i) {
                const auto got = co_await support::catching(second_fails(i));
                std::string text = support::message_of(got.error);
                if (!got.error) text = std::to_string(*got.value);
                co_yield text;
            }
        }
    };
    const std::vector<std::string> values = co_await all_of(source::run());
    CHECK(values == std::vector<std::string>{"1", "call 2", "3"});
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("what an awaited call throws may be caught inside, and the generator goes on") {
    struct source {
        static asyncio::async_generator<std::string> run() {
            for (int i = 1; i <= 3; ++i) {
                std::string text;
                try {
                    text = std::to_string(co_await second_fails(i));
                } catch (const std::runtime_error& error) {
                    text = error.what();
                }
                co_yield text;
            }
        }
    };
    const std::vector<std::string> values = co_await all_of(source::run());
    CHECK(values == std::vector<std::string>{"1", "call 2", "3"});
}
#endif

} // TEST_SUITE

TEST_SUITE("async_generator: cancellation") {

ASYNC_TEST_CASE("a cancellation in next() is thrown where the generator waits, and ends it") {
    log_type log;
    auto generator = with_cleanup(log);
    co_await generator.next();
    const auto task = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await generator.next();
        log.push_back("not reached");
    });
    co_await asyncio::sleep(500ms);
    const asyncio::time_point begin = now();
    task.cancel("enough");
    CHECK_AWAIT_THROWS_WITH_AS(task, "enough", asyncio::cancelled_error);
    CHECK(now() - begin == 500ms); // the clean-up took its time
    CHECK(log == log_type{"cancelled", "cleaned up", "gone"});
    CHECK(asyncio::get_running_loop().metrics().timers == 0);
    const std::optional<int> none = co_await generator.next();
    CHECK_FALSE(none);
}

ASYNC_TEST_CASE("a generator that swallows the cancellation gives its next value") {
    struct source {
        static asyncio::async_generator<int> run() {
            for (int i = 1;; ++i) {
                // Nothing comes in time: a value all the same.
                static_cast<void>(co_await support::catching(asyncio::sleep(1h)));
                co_yield i;
            }
        }
    };
    auto generator = source::run();
    const auto task = asyncio::create_task([&]() -> asyncio::coro<int> {
        const auto value = co_await generator.next();
        co_return value.value_or(-1) + 100 * asyncio::current_task().cancelling();
    });
    co_await asyncio::sleep(1s);
    task.cancel();
    const int value = co_await task;
    CHECK(value == 101);
    CHECK_FALSE(task.cancelled());
    CHECK(asyncio::elapsed() == 1s);
}

ASYNC_TEST_CASE("a cancellation in the loop's body leaves the generator half-way, and usable") {
    log_type log;
    auto generator = ticks(3, log);
    const auto task = asyncio::create_task([&]() -> asyncio::coro<> {
        while (const auto value = co_await generator.next()) co_await asyncio::sleep(1h);
    });
    co_await asyncio::sleep(10s);
    task.cancel();
    CHECK_AWAIT_THROWS_AS(task, asyncio::cancelled_error);
    CHECK(log == log_type{"tick 1"});
    std::optional<int> value = co_await generator.next();
    CHECK(value == 2);
    value = co_await generator.next();
    CHECK(value == 3);
}

ASYNC_TEST_CASE(
    "a task that is cancelled beforehand is interrupted at the generator's first wait") {
    log_type log;
    auto generator = ticks(3, log);
    const auto task = asyncio::create_task([&]() -> asyncio::coro<> {
        asyncio::current_task().cancel();
        co_await generator.next();
    });
    CHECK_AWAIT_THROWS_AS(task, asyncio::cancelled_error);
    CHECK(log == log_type{"ticks gone"});
    // One that does not wait is not interrupted: next() as such is no point of suspension.
    auto quick = count_to(2);
    const auto other = asyncio::create_task([&]() -> asyncio::coro<int> {
        asyncio::current_task().cancel();
        const auto value = co_await quick.next();
        asyncio::current_task().uncancel();
        co_return value.value_or(-1);
    });
    const int value = co_await other;
    CHECK(value == 1);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("a cancellation during aclose() interrupts the clean-up") {
    log_type log;
    auto generator = with_cleanup(log);
    co_await generator.next();
    const auto task = asyncio::create_task(generator.aclose());
    co_await asyncio::sleep(100ms);
    task.cancel();
    CHECK_AWAIT_THROWS_AS(task, asyncio::cancelled_error);
    CHECK(log == log_type{"closed", "gone"});
    const std::optional<int> none = co_await generator.next();
    CHECK_FALSE(none);
}
#endif

ASYNC_TEST_CASE("a limit of time around next() ends the generator; one around the loop its frame") {
    log_type log;
    struct slow {
        static asyncio::async_generator<int> run(log_type& l) {
            const last_words end(l, "slow gone");
            co_yield 1;
            co_await asyncio::sleep(1h);
            co_yield 2;
        }
    };
    auto generator = slow::run(log);
    std::optional<int> value = co_await asyncio::wait_for(generator.next(), 1s);
    CHECK(value == 1);
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(generator.next(), 1s), asyncio::timeout_error);
    CHECK(log == log_type{"slow gone"});
    value = co_await generator.next();
    CHECK_FALSE(value);

    log.clear();
    const auto loop = [&]() -> asyncio::coro<> {
        auto inside = ticks(10, log);
        while (const auto tick = co_await inside.next()) continue;
    };
    CHECK_AWAIT_THROWS_AS(asyncio::with(asyncio::timeout(5500ms), loop), asyncio::timeout_error);
    CHECK(log == log_type{"tick 1", "tick 2", "tick 3", "tick 4", "tick 5", "ticks gone"});
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("a generator that uses a task group ends the group's tasks when it is cancelled") {
    log_type log;
    struct source {
        static asyncio::async_generator<int> run(log_type& l) {
            for (int i = 1;; ++i) {
                co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
                    for (int n = 1; n <= 2; ++n)
                        tg.create_task([](log_type& to) -> asyncio::coro<> {
                            const last_words end(to, "child gone");
                            co_await asyncio::sleep(1s);
                        }(l));
                });
                co_yield i;
            }
        }
    };
    auto generator = source::run(log);
    const auto task = asyncio::create_task([&]() -> asyncio::coro<> {
        while (const auto value = co_await generator.next()) continue;
    });
    co_await asyncio::sleep(1500ms);
    CHECK(log.size() == 2);
    task.cancel();
    CHECK_AWAIT_THROWS_AS(task, asyncio::cancelled_error);
    CHECK(log.size() == 4);
    CHECK(asyncio::all_tasks().size() == 1);
}

} // TEST_SUITE

TEST_SUITE("async_generator: the end of the program") {

TEST_CASE("run() ends the tasks that stand in a generator or in its loop, and their locals go") {
    log_type log;
    const auto in_next = [&]() -> asyncio::coro<> {
        auto generator = ticks(10, log);
        co_await asyncio::sleep(500ms);
        while (const auto value = co_await generator.next()) continue;
    };
    const auto in_body = [&]() -> asyncio::coro<> {
        auto generator = with_cleanup(log);
        while (const auto value = co_await generator.next()) {
            const auto slept = co_await support::catching(asyncio::sleep(1h));
            if (!slept.error) continue;
            co_await generator.aclose(); // as Python's `async with aclosing(...)`
            co_await support::fail_with(slept.error);
        }
    };
    asyncio::run(
        [&]() -> asyncio::coro<> {
            asyncio::create_task(in_next());
            asyncio::create_task(in_body());
            co_await asyncio::sleep(2s);
            log.push_back("main ends");
        },
        {.clock = asyncio::clock_kind::virtual_time});
    CHECK(log == joined({"tick 1", "main ends", "ticks gone"}, words_of_closing()));
}

TEST_CASE("a loop that is closed destroys a generator with the frames that wait in it") {
    log_type log;
    {
        auto generator = ticks(10, log); // outlives the loop
        asyncio::task<> task;
        {
            asyncio::event_loop loop({.clock = asyncio::clock_kind::manual});
            task = loop.create_task([&]() -> asyncio::coro<> {
                const last_words end(log, "consumer gone");
                while (const auto value = co_await generator.next()) continue;
            });
            loop.run_once();
            loop.advance(1500ms);
            CHECK(log == log_type{"tick 1"});
        }
        CHECK(task.cancelled());
        CHECK(log == log_type{"tick 1", "ticks gone", "consumer gone"});
        // Nothing is left of it.
        const std::optional<int> none = asyncio::run(generator.next());
        CHECK_FALSE(none);
    }
    CHECK(log.size() == 3);
}

TEST_CASE("run() closes the generators that outlive its tasks, as aclose() does") {
    log_type log;
    auto generator = with_cleanup(log);
    auto moved = std::make_unique<asyncio::async_generator<int>>(with_cleanup(log));
    auto never_begun = with_cleanup(log);
    asyncio::run(
        [&]() -> asyncio::coro<> {
            co_await generator.next();
            co_await moved->next();
            moved = std::make_unique<asyncio::async_generator<int>>(std::move(*moved));
            log.push_back("main ends");
        },
        virtual_time);
    const log_type of_both = joined(words_of_closing(), words_of_closing());
    CHECK(log == joined({"main ends"}, of_both));
    // They have ended; the one that had not begun is as before.
    CHECK_FALSE(asyncio::run(generator.next(), virtual_time));
    CHECK_FALSE(asyncio::run(moved->next(), virtual_time));
    CHECK(asyncio::run(never_begun.next(), virtual_time) == 1);
    // Closed by the run() that began it.
    CHECK(log == joined(joined({"main ends"}, of_both), words_of_closing()));
}

TEST_CASE("run() closes a generator before the one that it holds, which goes with its frame") {
    log_type log;
    struct source {
        static asyncio::async_generator<int> run(log_type& l) {
            const last_words end(l, "outer gone");
            auto inner = ticks(10, l);
            const last_words before(l, "outer goes");
            bool closed = false;
            ASYNCIO_TRY {
                while (const auto value = co_await inner.next()) co_yield *value;
            } ASYNCIO_CATCH_ALL {
                closed = true;
            }
            co_await asyncio::sleep(1s);
            l.push_back(closed ? "outer closed" : "outer ended");
        }
    };
    auto generator = source::run(log);
    CHECK(asyncio::run(generator.next(), virtual_time) == 1);
    const log_type begin = closing_throws ? log_type{"tick 1", "outer closed"} : log_type{"tick 1"};
    CHECK(log == joined(begin, {"outer goes", "ticks gone", "outer gone"}));
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("run() reports a generator that fails when it is closed, and goes on with the next") {
    struct source {
        static asyncio::async_generator<int> run(std::string how, log_type& log) {
            const last_words end(log, how + " gone");
            try {
                co_yield 1;
            } catch (...) {
                if (how == "fails") throw std::runtime_error("the clean-up failed");
                if (how == "cancelled") throw asyncio::cancelled_error();
            }
            co_yield 2;
        }
    };
    log_type log;
    std::vector<std::string> reports;
    std::vector<asyncio::async_generator<int>> all;
    for (const char* how : {"fails", "yields", "cancelled", "fails"})
        all.push_back(source::run(how, log));
    asyncio::run(
        [&]() -> asyncio::coro<> {
            asyncio::get_running_loop().set_exception_handler(
                [&](asyncio::event_loop&, const asyncio::exception_context& context) {
                    reports.push_back(support::message_of(context.exception));
                });
            for (auto& generator : all) co_await generator.next();
        },
        virtual_time);
    REQUIRE(reports.size() == 3);
    CHECK(reports[0] == "the clean-up failed");
    CHECK(reports[1].find("yielded again") != std::string::npos);
    CHECK(reports[2] == "the clean-up failed");
    all.clear();
    CHECK(log.size() == 4);
}
#endif

TEST_CASE("a loop alone closes none: one that stands at a value goes on in another loop") {
    log_type log;
    auto generator = ticks(4, log);
    const asyncio::run_options options = virtual_time;
    for (int i = 1; i <= 2; ++i) {
        asyncio::event_loop loop(options);
        CHECK(loop.run_until_complete(generator.next()) == i);
    }
    auto last = std::move(generator);
    CHECK(asyncio::run(last.next(), virtual_time) == 3);
    CHECK(log == log_type{"tick 1", "tick 2", "tick 3", "ticks gone"});
}

} // TEST_SUITE
