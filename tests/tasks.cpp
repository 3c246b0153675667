// [SECTION] tasks: coroutines, tasks, cancellation, sleep and context variables.
#include "support.hpp"

#include <atomic>
#include <coroutine>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

namespace {

using log_of_words = std::vector<std::string>;

// Counts the objects of its kind that are alive.
struct counted {
    explicit counted(int& count) : alive(&count) { ++*alive; }
    counted(const counted& other) : alive(other.alive) { ++*alive; }
    counted& operator=(const counted&) = delete;
    ~counted() { --*alive; }
    int* alive;
};

// Says when it goes.
struct last_words {
    last_words(log_of_words& l, std::string t) : log(&l), text(std::move(t)) {}
    last_words(const last_words&) = delete;
    last_words& operator=(const last_words&) = delete;
    ~last_words() { log->push_back(text); }
    log_of_words* log;
    std::string text;
};

struct move_only {
    explicit move_only(int n) : number(std::make_unique<int>(n)) {}
    std::unique_ptr<int> number;
};

asyncio::coro<> say(log_of_words& log, std::string text) {
    log.push_back(text);
    co_return;
}

asyncio::coro<int> at_once(int value) { co_return value; }

asyncio::coro<int> next_turn(int value) {
    co_await asyncio::sleep(0s);
    co_return value;
}

asyncio::coro<int> value_of(asyncio::future<int> f) {
    const int value = co_await f;
    co_return value;
}

asyncio::coro<int> failing(std::string text) {
    co_await asyncio::sleep(0s);
    THROW(std::runtime_error(text));
    co_return 0;
}

asyncio::coro<> for_an_hour() { co_await asyncio::sleep(1h); }

// Waits for `f`; answers its cancellation with `answer`.
asyncio::coro<int> answering(asyncio::future<int> f, int answer) {
    const auto got = co_await support::catching(f);
    if (got.value) co_return *got.value;
    if (!support::holds<asyncio::cancelled_error>(got.error))
        co_await support::fail_with(got.error);
    co_return answer;
}

} // namespace

TEST_SUITE("task: creation and cancellation") {

ASYNC_TEST_CASE_ORDERED("TK-01: tasks begin in the next turn, in the order of their creation") {
    log_of_words log;
    const auto a = asyncio::create_task(say(log, "a"));
    const auto b = asyncio::create_task(say(log, "b"));
    const auto c = asyncio::create_task(say(log, "c"));
    CHECK(log.empty());
    co_await support::turns(1);
    CHECK(log == log_of_words{"a", "b", "c"});
    CHECK(c.done());
}

ASYNC_TEST_CASE("TK-02: a task that is cancelled before it begins never runs") {
    log_of_words log;
    int alive = 0;
    const auto body = [&log](counted) -> asyncio::coro<> {
        log.push_back("ran");
        co_return;
    };
    const auto t = asyncio::create_task(body(counted(alive)));
    CHECK(alive == 1);
    CHECK(t.cancel("not today"));
    CHECK_FALSE(t.done());
    CHECK_AWAIT_THROWS_WITH_AS(t, "not today", asyncio::cancelled_error);
    CHECK(t.cancelled());
    CHECK(log.empty());
    CHECK(alive == 0);
}

ASYNC_TEST_CASE("TK-03: cancel() cancels what the task awaits, and ends it in a later turn") {
    const auto f = asyncio::create_future<int>();
    const auto t = asyncio::create_task(value_of(f));
    co_await support::turns(2);
    CHECK(t.cancel());
    CHECK(f.cancelled());
    CHECK_FALSE(t.cancelled());
    CHECK_FALSE(t.done());
    co_await support::turns(2);
    CHECK(t.cancelled());
    CHECK_THROWS_AS(t.result(), asyncio::cancelled_error);
}

ASYNC_TEST_CASE("TK-04: a finished task cannot be cancelled") {
    const auto t = asyncio::create_task(at_once(1));
    co_await t;
    CHECK_FALSE(t.cancel());
    CHECK(t.cancelling() == 0);
    CHECK_FALSE(t.cancelled());
    CHECK(t.result() == 1);
}

ASYNC_TEST_CASE("TK-05: a task that answers its cancellation with a value has that value") {
    const auto t = asyncio::create_task(answering(asyncio::create_future<int>(), 42));
    co_await support::turns(2);
    t.cancel();
    const int value = co_await t;
    CHECK(value == 42);
    CHECK_FALSE(t.cancelled());
    CHECK(t.cancelling() == 1);
}

ASYNC_TEST_CASE("TK-06: after a caught cancellation the next await is undisturbed") {
    const auto second = asyncio::create_future<int>();
    const auto body = [second]() -> asyncio::coro<int> {
        static_cast<void>(co_await support::catching(asyncio::sleep(1h)));
        const int value = co_await second;
        co_return value;
    };
    const auto t = asyncio::create_task(body);
    co_await support::turns(2);
    t.cancel();
    co_await support::turns(3);
    CHECK_FALSE(t.done());
    CHECK_FALSE(second.done());
    second.set_result(6);
    const int value = co_await t;
    CHECK(value == 6);
}

ASYNC_TEST_CASE("TK-07: two cancel() calls count as two, but one error is delivered") {
    int delivered = 0;
    const auto body = [&]() -> asyncio::coro<> {
        for (int i = 0; i < 3; ++i) {
            const auto slept = co_await support::catching(asyncio::sleep(1s));
            delivered += support::holds<asyncio::cancelled_error>(slept.error) ? 1 : 0;
        }
    };
    const auto t = asyncio::create_task(body);
    co_await support::turns(2);
    CHECK(t.cancel());
    CHECK(t.cancel());
    CHECK(t.cancelling() == 2);
    co_await t;
    CHECK(delivered == 1);
}

ASYNC_TEST_CASE("TK-07: the error has the message of the first one that interrupts an await") {
    const auto waiting = asyncio::create_task(for_an_hour());
    const auto fresh = asyncio::create_task(for_an_hour());
    fresh.cancel("first");
    fresh.cancel("second");
    CHECK_AWAIT_THROWS_WITH_AS(fresh, "second", asyncio::cancelled_error);
    waiting.cancel("first");
    waiting.cancel("second");
    waiting.cancel();
    CHECK_AWAIT_THROWS_WITH_AS(waiting, "first", asyncio::cancelled_error);
    CHECK(waiting.cancelling() == 3);
}

ASYNC_TEST_CASE("TK-08: uncancel() in time lets a task that was about to resume go on") {
    const auto f = asyncio::create_future<int>();
    const auto t = asyncio::create_task(value_of(f));
    co_await support::turns(1);
    f.set_result(8);
    CHECK(t.cancel());
    CHECK(t.uncancel() == 0);
    const int value = co_await t;
    CHECK(value == 8);
    CHECK(t.cancelling() == 0);

    const auto sleeper = asyncio::create_task(next_turn(9));
    co_await support::turns(1);
    sleeper.cancel();
    sleeper.uncancel();
    const int slept = co_await sleeper;
    CHECK(slept == 9);
}

ASYNC_TEST_CASE("TK-09: uncancel() cannot take back what has been cancelled already") {
    int count_in_handler = -1;
    const auto f = asyncio::create_future<int>();
    const auto body = [&]() -> asyncio::coro<> {
        const auto got = co_await support::catching(f);
        count_in_handler = asyncio::current_task().cancelling();
        if (got.error) co_await support::fail_with(got.error);
    };
    const auto t = asyncio::create_task(body);
    co_await support::turns(2);
    t.cancel();
    CHECK(t.uncancel() == 0);
    CHECK(f.cancelled());
    CHECK_AWAIT_THROWS_AS(t, asyncio::cancelled_error);
    CHECK(count_in_handler == 0);
    CHECK(t.cancelled());
}

ASYNC_TEST_CASE("TK-10: the number of cancellations never goes below zero") {
    const auto t = asyncio::create_task(for_an_hour());
    CHECK(t.uncancel() == 0);
    CHECK(t.cancelling() == 0);
    t.cancel();
    t.cancel();
    CHECK(t.uncancel() == 1);
    CHECK(t.uncancel() == 0);
    CHECK(t.uncancel() == 0);
    CHECK(t.cancelling() == 0);
    t.cancel();
    CHECK_AWAIT_THROWS_AS(t, asyncio::cancelled_error);
}

ASYNC_TEST_CASE("TK-11: who cancels himself is interrupted at his next await, and so is that") {
    const auto child = asyncio::create_task(for_an_hour());
    const auto body = [child]() -> asyncio::coro<> {
        asyncio::current_task().cancel("me");
        co_await child;
    };
    co_await support::turns(2);
    const auto t = asyncio::create_task(body);
    CHECK_AWAIT_THROWS_WITH_AS(t, "me", asyncio::cancelled_error);
    CHECK(t.cancelled());
    CHECK(child.cancelled());

    const auto sleeps = []() -> asyncio::coro<> {
        asyncio::current_task().cancel();
        co_await asyncio::sleep(1h);
    };
    const asyncio::time_point begin = asyncio::get_running_loop().time();
    const auto sleeper = asyncio::create_task(sleeps);
    CHECK_AWAIT_THROWS_AS(sleeper, asyncio::cancelled_error);
    CHECK(asyncio::get_running_loop().time() == begin);
    CHECK(asyncio::get_running_loop().metrics().timers == 0);
}

ASYNC_TEST_CASE("TK-12: who cancels himself and returns without waiting has ended cancelled") {
    const auto body = []() -> asyncio::coro<int> {
        asyncio::current_task().cancel("lost");
        co_return 1;
    };
    const auto t = asyncio::create_task(body);
    CHECK_AWAIT_THROWS_WITH_AS(t, "lost", asyncio::cancelled_error);
    CHECK(t.cancelled());
}

ASYNC_TEST_CASE("TK-13: who cancels himself and throws has failed with that error") {
    const auto body = []() -> asyncio::coro<int> {
        asyncio::current_task().cancel();
        THROW(std::out_of_range("key"));
        co_return 1;
    };
    const auto t = asyncio::create_task(body);
    CHECK_AWAIT_THROWS_WITH_AS(t, "key", std::out_of_range);
    CHECK_FALSE(t.cancelled());
}

ASYNC_TEST_CASE("TK-14: the cancellation goes to the awaited task, which may swallow it") {
    const auto b = asyncio::create_task(answering(asyncio::create_future<int>(), 14));
    const auto a = asyncio::create_task(value_of(b));
    co_await support::turns(2);
    a.cancel();
    CHECK(b.cancelling() == 1);
    const int value = co_await a;
    CHECK(value == 14);
    CHECK_FALSE(a.cancelled());
    CHECK(a.cancelling() == 1);
}

ASYNC_TEST_CASE("TK-15: a cancellation between result and resumption wins; the result stays") {
    const auto f = asyncio::create_future<int>();
    const auto t = asyncio::create_task(value_of(f));
    co_await support::turns(1);
    f.set_result(15);
    t.cancel();
    CHECK_AWAIT_THROWS_AS(t, asyncio::cancelled_error);
    CHECK(t.cancelled());
    CHECK(f.result() == 15);
}

ASYNC_TEST_CASE("TK-16: a future that somebody else cancels ends the task that awaits it") {
    const auto f = asyncio::create_future<int>();
    const auto t = asyncio::create_task(value_of(f));
    co_await support::turns(1);
    f.cancel("by others");
    CHECK_AWAIT_THROWS_WITH_AS(t, "by others", asyncio::cancelled_error);
    CHECK(t.cancelled());
    CHECK(t.cancelling() == 0);
}

ASYNC_TEST_CASE("TK-17: the message of cancel() arrives inside and outside") {
    std::string inside;
    const auto body = [&]() -> asyncio::coro<> {
        const auto slept = co_await support::catching(asyncio::sleep(1h));
        inside = support::message_of(slept.error);
        if (slept.error) co_await support::fail_with(slept.error);
    };
    const auto t = asyncio::create_task(body);
    co_await support::turns(2);
    t.cancel("the message");
    CHECK_AWAIT_THROWS_WITH_AS(t, "the message", asyncio::cancelled_error);
    CHECK(inside == "the message");
    CHECK_THROWS_WITH_AS(t.result(), "asyncio::cancelled_error: the message",
                         asyncio::cancelled_error);

    // Through a future, and through a child task.
    const auto child = asyncio::create_task(for_an_hour());
    const auto parent_body = [child]() -> asyncio::coro<> { co_await child; };
    const auto parent = asyncio::create_task(parent_body);
    co_await support::turns(2);
    parent.cancel("downwards");
    CHECK_AWAIT_THROWS_WITH_AS(parent, "downwards", asyncio::cancelled_error);
    CHECK_AWAIT_THROWS_WITH_AS(child, "downwards", asyncio::cancelled_error);
    CHECK_THROWS_WITH_AS(child.result(), "asyncio::cancelled_error: downwards",
                         asyncio::cancelled_error);
}

ASYNC_TEST_CASE("of two cancellations that come together the message of the first arrives") {
    const auto sleeping = asyncio::create_task(for_an_hour());
    const auto f = asyncio::create_future<int>();
    const auto awaiting = asyncio::create_task(value_of(f));
    const auto done = asyncio::create_future<int>();
    const auto resuming = asyncio::create_task(value_of(done));
    co_await support::turns(2);
    done.set_result(1);
    for (const char* message : {"first", "second"}) {
        sleeping.cancel(message);
        awaiting.cancel(message);
        resuming.cancel(message);
    }
    CHECK(sleeping.cancelling() == 2);
    CHECK_AWAIT_THROWS_WITH_AS(sleeping, "first", asyncio::cancelled_error);
    CHECK_AWAIT_THROWS_WITH_AS(awaiting, "first", asyncio::cancelled_error);
    // As in Python, as long as none is on its way the last one counts.
    CHECK_AWAIT_THROWS_WITH_AS(resuming, "second", asyncio::cancelled_error);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("a catch clause may keep a cancellation, and throw; sends it on") {
    int count_in_handler = -1;
    std::string inside;
    const auto body = [&](bool keeps) -> asyncio::coro<int> {
        try {
            co_await asyncio::sleep(1h);
        } catch (const asyncio::cancelled_error& e) {
            inside = e.what();
            count_in_handler = asyncio::current_task().cancelling();
            if (!keeps) throw;
        }
        const int value = co_await next_turn(18); // which is undisturbed
        co_return value;
    };
    const auto keeping = asyncio::create_task(body(true));
    co_await support::turns(2);
    keeping.cancel("kept");
    const int value = co_await keeping;
    CHECK(value == 18);
    CHECK(inside == "kept");
    CHECK(count_in_handler == 1);
    CHECK_FALSE(keeping.cancelled());

    const auto ending = asyncio::create_task(body(false));
    co_await support::turns(2);
    ending.cancel("sent on");
    ending.uncancel();
    CHECK_AWAIT_THROWS_WITH_AS(ending, "sent on", asyncio::cancelled_error);
    CHECK(inside == "sent on");
    CHECK(count_in_handler == 0);
    CHECK(ending.cancelled());
}
#endif

ASYNC_TEST_CASE("TK-18: a task that throws cancelled_error by itself has ended cancelled") {
    const auto body = []() -> asyncio::coro<> {
        THROW(asyncio::cancelled_error("own wish"));
        co_return;
    };
    const auto t = asyncio::create_task(body);
    CHECK_AWAIT_THROWS_WITH_AS(t, "own wish", asyncio::cancelled_error);
    CHECK(t.cancelled());
    CHECK(t.cancelling() == 0);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("TK-19: keyboard_interrupt leaves the loop at once; other tasks go on in the next run") {
    asyncio::event_loop loop({.clock = asyncio::clock_kind::virtual_time});
    log_of_words log;
    const auto interrupting = [&]() -> asyncio::coro<> {
        log.push_back("interrupt");
        throw asyncio::keyboard_interrupt("stop");
        co_return;
    };
    const auto other = [&]() -> asyncio::coro<int> {
        co_await asyncio::sleep(1s);
        log.push_back("other");
        co_return 3;
    };
    const auto bad = loop.create_task(interrupting);
    const auto good = loop.create_task(other);
    CHECK_THROWS_WITH_AS(loop.run_until_complete(good), "asyncio::keyboard_interrupt: stop",
                         asyncio::keyboard_interrupt);
    CHECK(log == log_of_words{"interrupt"});
    CHECK(bad.done());
    CHECK_FALSE(bad.cancelled());
    CHECK(support::holds<asyncio::keyboard_interrupt>(bad.exception()));
    CHECK_FALSE(loop.is_running());
    CHECK(loop.run_until_complete(good) == 3);
    CHECK(log == log_of_words{"interrupt", "other"});
}

TEST_CASE("TK-19: an interrupt in the main task itself does not end the next run early") {
    asyncio::event_loop loop({.clock = asyncio::clock_kind::virtual_time});
    const auto interrupting = []() -> asyncio::coro<> {
        throw asyncio::keyboard_interrupt();
        co_return;
    };
    const auto main = loop.create_task(interrupting);
    CHECK_THROWS_AS(loop.run_until_complete(main), asyncio::keyboard_interrupt);
    const auto later = []() -> asyncio::coro<int> {
        co_await asyncio::sleep(1s);
        co_return 4;
    };
    CHECK(loop.run_until_complete(later()) == 4);
}

TEST_CASE("TK-20: keyboard_interrupt thrown while a cancellation is handled is the outcome") {
    asyncio::event_loop loop({.clock = asyncio::clock_kind::virtual_time});
    const auto body = []() -> asyncio::coro<> {
        try {
            co_await asyncio::sleep(1h);
        } catch (const asyncio::cancelled_error&) {
            throw asyncio::keyboard_interrupt("instead");
        }
    };
    const auto t = loop.create_task(body);
    loop.call_later(1s, [&] { t.cancel(); });
    CHECK_THROWS_WITH_AS(loop.run_until_complete(t), "asyncio::keyboard_interrupt: instead",
                         asyncio::keyboard_interrupt);
    CHECK(t.done());
    CHECK_FALSE(t.cancelled());
    CHECK(support::message_of(t.exception()) == "instead");
}

ASYNC_TEST_CASE("TK-21: a task that awaits itself gets an error instead of waiting for ever") {
    asyncio::task<> self;
    const auto body = [&]() -> asyncio::coro<> { co_await self; };
    self = asyncio::create_task(body);
    CHECK_AWAIT_THROWS_WITH_AS(self, "awaits itself", std::runtime_error);
}

ASYNC_TEST_CASE("TK-22: awaiting another loop's future is an error, and the task goes on") {
    asyncio::event_loop other;
    const auto foreign = other.create_future<int>();
    bool caught = false;
    const auto body = [&]() -> asyncio::coro<int> {
        try {
            co_await foreign;
        } catch (const std::runtime_error&) {
            caught = true;
        }
        const int value = co_await next_turn(22);
        co_return value;
    };
    const auto t = asyncio::create_task(body);
    const int value = co_await t;
    CHECK(caught);
    CHECK(value == 22);
    CHECK_FALSE(foreign.done());
}
#endif

ASYNC_TEST_CASE_ORDERED("TK-23: sleep(0s) gives up the loop for one turn and returns its result") {
    log_of_words log;
    asyncio::event_loop& loop = asyncio::get_running_loop();
    loop.call_soon([&] { log.push_back("queued before"); });
    co_await asyncio::sleep(0s);
    log.push_back("woke");
    loop.call_soon([&] {
        log.push_back("one");
        loop.call_soon([&] { log.push_back("two"); });
    });
    co_await asyncio::sleep(0s);
    log.push_back("woke");
    CHECK(log == log_of_words{"queued before", "woke", "one", "woke"});
    const int value = co_await asyncio::sleep(0s, 23);
    CHECK(value == 23);
    const std::string text = co_await asyncio::sleep(1s, std::string("kept while it sleeps"));
    CHECK(text == "kept while it sleeps");
}

ASYNC_TEST_CASE("TK-24: a cancelled sleep leaves no timer behind") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const asyncio::time_point begin = loop.time();
    const auto t = asyncio::create_task(for_an_hour());
    co_await support::turns(2);
    CHECK(loop.metrics().timers == 1);
    t.cancel();
    CHECK(loop.metrics().timers == 0);
    CHECK_AWAIT_THROWS_AS(t, asyncio::cancelled_error);
    CHECK(loop.time() == begin);
}

ASYNC_TEST_CASE_ORDERED("TK-25: a negative sleep is a sleep(0s); no number is an error") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const asyncio::time_point begin = loop.time();
    bool ran = false;
    loop.call_soon([&] { ran = true; });
    co_await asyncio::sleep(-5s);
    CHECK(ran);
    CHECK(loop.time() == begin);
    CHECK(loop.metrics().timers == 0);
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    const double nan = std::numeric_limits<double>::quiet_NaN();
    CHECK_THROWS_AS(static_cast<void>(asyncio::sleep(asyncio::duration::seconds(nan))),
                    std::invalid_argument);
    CHECK_THROWS_AS(static_cast<void>(asyncio::sleep(std::chrono::duration<double>(nan))),
                    std::invalid_argument);
#endif
}

ASYNC_TEST_CASE("TK-26: current_task() is the running task, and empty in a plain callback") {
    const asyncio::any_task me = asyncio::current_task();
    bool right = true;
    const auto body = [&]() -> asyncio::coro<> {
        const asyncio::any_task self = asyncio::current_task();
        for (int i = 0; i < 5; ++i) {
            right = right && asyncio::current_task() == self && self != me;
            co_await asyncio::sleep(0s);
        }
        co_await next_turn(1);
        right = right && asyncio::current_task() == self;
    };
    const auto a = asyncio::create_task(body);
    const auto b = asyncio::create_task(body);
    bool empty_in_callback = false;
    bool empty_in_done_callback = false;
    asyncio::get_running_loop().call_soon(
        [&] { empty_in_callback = !asyncio::current_task().valid(); });
    a.add_done_callback([&] { empty_in_done_callback = !asyncio::current_task().valid(); });
    co_await a;
    co_await b;
    co_await support::turns(1);
    CHECK(right);
    CHECK(empty_in_callback);
    CHECK(empty_in_done_callback);
    CHECK(asyncio::current_task() == me);
}

ASYNC_TEST_CASE("TK-27: all_tasks() are the unfinished tasks of one loop") {
    const asyncio::any_task me = asyncio::current_task();
    asyncio::event_loop other;
    const auto foreign = other.create_task(for_an_hour());
    const auto done = asyncio::create_task(at_once(1));
    co_await done;
    const auto a = asyncio::create_task(for_an_hour());
    const auto b = asyncio::create_task(for_an_hour());
    CHECK(asyncio::all_tasks() == std::vector<asyncio::any_task>{me, a, b});
    CHECK(asyncio::all_tasks(other) == std::vector<asyncio::any_task>{foreign});
    a.cancel();
    b.cancel();
    co_await support::turns(2);
    CHECK(asyncio::all_tasks() == std::vector<asyncio::any_task>{me});
}

ASYNC_TEST_CASE("a task has a name, given or numbered, and can be renamed") {
    std::string text = "a name that is copied before the function returns";
    const auto named = asyncio::create_task(at_once(1), {.name = text});
    text.assign(text.size(), '?');
    CHECK(named.get_name() == "a name that is copied before the function returns");
    const auto numbered = asyncio::create_task(at_once(1));
    CHECK(numbered.get_name().starts_with("Task-"));
    const asyncio::any_task any = numbered;
    any.set_name("renamed");
    CHECK(numbered.get_name() == "renamed");
    co_await support::turns(1);
}

ASYNC_TEST_CASE("create_task() gives a task back as it is") {
    const auto t = asyncio::create_task(at_once(1));
    const auto same = asyncio::create_task(t);
    CHECK(same == t);
    co_await t;
}

ASYNC_TEST_CASE("any_task does what every task can, without a value") {
    const auto t = asyncio::create_task(failing("any"));
    const asyncio::any_task any = t;
    CHECK(any == asyncio::any_task(t));
    CHECK_FALSE(any.done());
    bool told = false;
    any.add_done_callback([&](const asyncio::any_task& done) { told = done == any; });
    CHECK_AWAIT_THROWS_WITH_AS(any, "any", std::runtime_error);
    CHECK(any.done());
    CHECK(support::message_of(any.exception()) == "any");
    CHECK(any.cancelling() == 0);
    CHECK_FALSE(any.cancel());
    co_await support::turns(1);
    CHECK(told);
    const std::unordered_set<asyncio::any_task> hashed{any, t};
    CHECK(hashed.size() == 1);
    CHECK(asyncio::create_task(any) == any);
    const std::vector<asyncio::any_task> twice = {any, any};
    const auto both = co_await asyncio::gather(asyncio::return_exceptions, twice);
    CHECK(support::message_of(both.at(1).error().exception()) == "any");
}

ASYNC_TEST_CASE("the loop keeps a task alive whose handle is dropped") {
    log_of_words log;
    asyncio::create_task(say(log, "ran"));
    const auto slow = [&]() -> asyncio::coro<> {
        co_await asyncio::sleep(1s);
        log.push_back("ran on");
    };
    asyncio::create_task(slow);
    co_await asyncio::sleep(2s);
    CHECK(log == log_of_words{"ran", "ran on"});
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
namespace {

// Can be copied once.
struct copied_once {
    copied_once() = default;
    copied_once(const copied_once& other) : copies(other.copies + 1) {
        if (copies > 1) throw std::runtime_error("copied twice");
    }
    copied_once& operator=(const copied_once&) = delete;
    int copies = 0;
};

asyncio::coro<copied_once> copies_once() { co_return copied_once(); }

} // namespace

ASYNC_TEST_CASE("a result that cannot be moved into the task fails that task, not the loop") {
    const auto t = asyncio::create_task(copies_once());
    CHECK_AWAIT_THROWS_WITH_AS(t, "copied twice", std::runtime_error);
    CHECK(t.done());
}
#endif

} // TEST_SUITE

TEST_SUITE("task: eager start") {

ASYNC_TEST_CASE("EA-01: an eager task that never waits is done when create_task() returns") {
    const auto t = asyncio::create_task(at_once(1), {.eager_start = true});
    CHECK(t.done());
    CHECK(t.result() == 1);
    const auto body = []() -> asyncio::coro<> {
        THROW(std::runtime_error("stored"));
        co_return;
    };
    const auto failed = asyncio::create_task(body, {.eager_start = true});
    CHECK(failed.done());
    CHECK_AWAIT_THROWS_WITH_AS(failed, "stored", std::runtime_error);
    CHECK(asyncio::all_tasks().size() == 1);
}

ASYNC_TEST_CASE("EA-02: an eager task runs up to its first wait, then goes on as any other") {
    log_of_words log;
    const auto body = [&]() -> asyncio::coro<int> {
        log.push_back("begin");
        const int two = co_await at_once(2);
        log.push_back("still");
        co_await asyncio::sleep(1s);
        log.push_back("end");
        co_return two;
    };
    const auto t = asyncio::create_task(body, {.eager_start = true});
    CHECK(log == log_of_words{"begin", "still"});
    CHECK_FALSE(t.done());
    const int value = co_await t;
    CHECK(value == 2);
    CHECK(log.back() == "end");
}

ASYNC_TEST_CASE("EA-03: in its eager step current_task() is the new task, then the creator") {
    const asyncio::any_task me = asyncio::current_task();
    asyncio::any_task inner;
    std::vector<asyncio::any_task> during;
    const auto body = [&]() -> asyncio::coro<> {
        inner = asyncio::current_task();
        during = asyncio::all_tasks();
        co_await asyncio::sleep(0s);
    };
    const auto t = asyncio::create_task(body, {.eager_start = true});
    CHECK(inner == asyncio::any_task(t));
    CHECK(during == std::vector<asyncio::any_task>{me, t});
    CHECK(asyncio::current_task() == me);
    co_await t;
}

ASYNC_TEST_CASE("EA-04: the eager step writes its own copy of the context") {
    asyncio::context_var<int> var("var", 0);
    var.set(1);
    int later = 0;
    const auto body = [&]() -> asyncio::coro<> {
        var.set(var.get() + 10);
        co_await asyncio::sleep(0s);
        later = var.get();
    };
    const auto t = asyncio::create_task(body, {.eager_start = true});
    CHECK(var.get() == 1);
    co_await t;
    CHECK(later == 11);
    CHECK(var.get() == 1);
}

ASYNC_TEST_CASE("EA-05: cancelling an eager task works once it waits") {
    const auto done = asyncio::create_task(at_once(1), {.eager_start = true});
    CHECK_FALSE(done.cancel());
    CHECK_FALSE(done.cancelled());
    const auto waiting = asyncio::create_task(for_an_hour(), {.eager_start = true});
    CHECK(waiting.cancel("eagerly"));
    CHECK_AWAIT_THROWS_WITH_AS(waiting, "eagerly", asyncio::cancelled_error);
    CHECK(waiting.cancelled());
}

ASYNC_TEST_CASE("EA-06: eager start is asked for task by task") {
    log_of_words log;
    const auto by_default = asyncio::create_task(say(log, "by default"));
    const auto lazy = asyncio::create_task(say(log, "lazy"), {.eager_start = false});
    CHECK(log.empty());
    const auto eager = asyncio::create_task(say(log, "eager"), {.eager_start = true});
    CHECK(log == log_of_words{"eager"});
    CHECK(eager.done());
    CHECK_FALSE(by_default.done());
    CHECK_FALSE(lazy.done());
    co_await lazy;
    co_await by_default;
    CHECK(log.size() == 3);
}

ASYNC_TEST_CASE(
    "EA-06: so it is in a group, and what an eager task creates is not eager by itself") {
    log_of_words log;
    asyncio::task<> inner;
    const auto creates = [&]() -> asyncio::coro<> {
        inner = asyncio::create_task(say(log, "inner"));
        log.push_back("creator");
        co_return;
    };
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
        tg.create_task(say(log, "lazy"), {.eager_start = false});
        CHECK(log.empty());
        tg.create_task(creates, {.eager_start = true});
        CHECK(log == log_of_words{"creator"});
    });
    co_await inner;
    CHECK(log.size() == 3);
}

TEST_CASE(
    "EA-06: an eager task of a loop that does not run yet begins at once, and goes on later") {
    log_of_words log;
    asyncio::event_loop loop({.clock = asyncio::clock_kind::virtual_time});
    const auto body = [&]() -> asyncio::coro<> {
        log.push_back("begun");
        co_await asyncio::sleep(1s);
        log.push_back("ended");
    };
    const auto lazy = loop.create_task(say(log, "lazy"));
    const auto eager = loop.create_task(body, {.eager_start = true});
    CHECK(log == log_of_words{"begun"});
    loop.run_until_complete(eager);
    CHECK(log == log_of_words{"begun", "lazy", "ended"});
}

TEST_CASE("in the first step of an eager task its loop is the running one, whatever runs else") {
    asyncio::event_loop loop;
    asyncio::event_loop other;
    asyncio::event_loop* seen = nullptr;
    const auto body = [&]() -> asyncio::coro<int> {
        seen = &asyncio::get_running_loop();
        co_return 7;
    };
    const auto t = loop.create_task(asyncio::as_outcome(body), {.eager_start = true});
    REQUIRE(t.done());
    CHECK(t.result().value() == 7);
    CHECK(seen == &loop);
    CHECK_THROWS_AS(asyncio::get_running_loop(), std::runtime_error);

    other.call_soon([&] {
        loop.create_task(body, {.eager_start = true});
        CHECK(&asyncio::get_running_loop() == &other);
    });
    seen = nullptr;
    other.run_once();
    CHECK(seen == &loop);
}

} // TEST_SUITE

TEST_SUITE("context variables") {

ASYNC_TEST_CASE("CX-01: a task starts with a copy of its creator's context") {
    asyncio::context_var<std::string> var("var", "default");
    var.set("at creation");
    std::string seen;
    const auto body = [&]() -> asyncio::coro<> {
        seen = var.get();
        var.set("the task's");
        co_await asyncio::sleep(0s);
        seen += "; " + var.get();
    };
    const auto t = asyncio::create_task(body);
    var.set("the creator's");
    co_await t;
    CHECK(seen == "at creation; the task's");
    CHECK(var.get() == "the creator's");
}

ASYNC_TEST_CASE_ORDERED(
    "CX-02: a callback sees the context of its registration, and writes a copy") {
    asyncio::context_var<int> var("var", 0);
    asyncio::event_loop& loop = asyncio::get_running_loop();
    std::vector<int> seen;
    const auto note = [&] {
        seen.push_back(var.get());
        var.set(100);
    };
    var.set(1);
    loop.call_soon(note);
    var.set(2);
    loop.call_later(1s, note);
    var.set(3);
    const auto f = asyncio::create_future<void>();
    f.add_done_callback(note);
    var.set(4);
    loop.call_soon_threadsafe(note);
    var.set(5);
    f.set_result();
    co_await asyncio::sleep(2s);
    CHECK(seen == std::vector<int>{1, 3, 4, 2});
    CHECK(var.get() == 5);
}

ASYNC_TEST_CASE("the exception handler sees the context of what failed") {
    asyncio::context_var<std::string> request("request", "none");
    asyncio::event_loop& loop = asyncio::get_running_loop();
    log_of_words seen;
    loop.set_exception_handler([&](asyncio::event_loop&, const asyncio::exception_context& c) {
        seen.push_back(support::message_of(c.exception) + " in " + request.get());
    });
    const auto body = [&]() -> asyncio::coro<> {
        request.set("a task's");
        THROW(std::runtime_error("one"));
        co_return;
    };
    asyncio::create_task(body);
    co_await support::turns(2);
    CHECK(seen == log_of_words{"one in a task's"});
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    loop.call_soon([&] {
        request.set("a callback's");
        throw std::runtime_error("two");
    });
    co_await support::turns(2);
    CHECK(seen.back() == "two in a callback's");
    const auto f = asyncio::create_future<int>();
    f.add_done_callback([&] {
        request.set("a done-callback's");
        throw std::runtime_error("three");
    });
    f.set_result(3);
    co_await support::turns(2);
    CHECK(seen.back() == "three in a done-callback's");
#endif
    CHECK(request.get() == "none");
    loop.set_exception_handler({});
}

ASYNC_TEST_CASE("CX-03: an awaited coroutine shares the context; a task and gather() do not") {
    asyncio::context_var<int> var("var", 0);
    const auto write = [&](int value) -> asyncio::coro<> {
        var.set(value);
        co_return;
    };
    co_await write(1);
    CHECK(var.get() == 1);
    const auto t = asyncio::create_task(write(2));
    co_await t;
    CHECK(var.get() == 1);
    co_await asyncio::gather(write(3), write(4));
    CHECK(var.get() == 1);
}

ASYNC_TEST_CASE("CX-04: a task can run in a given context itself, one after another") {
    asyncio::context_var<int> var("var", 0);
    asyncio::context own;
    const auto add = [&](int value) -> asyncio::coro<> {
        var.set(var.get() + value);
        co_await asyncio::sleep(0s);
        var.set(var.get() + value);
    };
    const auto first = asyncio::create_task(add(1), {.ctx = &own});
    co_await first;
    CHECK(own.get(var) == 2);
    const auto second = asyncio::create_task(add(10), {.ctx = &own});
    co_await second;
    CHECK(own.get(var) == 22);
    CHECK(var.get() == 0);
}

ASYNC_TEST_CASE("a context can be copied, run in and asked; reset() goes back") {
    asyncio::context_var<int> var("var");
    CHECK(var.name() == "var");
    CHECK_THROWS_AS(var.get(), std::out_of_range);
    const auto token = var.set(1);
    asyncio::context copy = asyncio::context::current();
    CHECK(copy.get(var) == 1);
    const int inside = copy.run([&] {
        var.set(2);
        return var.get();
    });
    CHECK(inside == 2);
    CHECK(copy.get(var) == 2);
    CHECK(var.get() == 1);
    const asyncio::context second = copy;
    copy.run([&] { var.set(3); });
    CHECK(second.get(var) == 2);
    var.reset(token);
    CHECK_THROWS_AS(var.get(), std::out_of_range);
    CHECK_THROWS_AS(asyncio::context().get(var), std::out_of_range);
    co_return;
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("a token of a context_var is good once, for its variable and where it was given") {
    asyncio::context_var<int> var("var", 0);
    asyncio::context_var<int> other("other", 0);
    const auto token = var.set(1);
    CHECK_THROWS_AS(other.reset(token), std::invalid_argument);
    CHECK_THROWS_AS(asyncio::context::current().run([&] { var.reset(token); }),
                    std::invalid_argument);
    CHECK(var.get() == 1); // nothing has changed
    var.reset(token);
    CHECK(var.get() == 0);
    var.set(2);
    CHECK_THROWS_AS(var.reset(token), std::runtime_error);
    CHECK(var.get() == 2);
    co_return;
}
#endif

} // TEST_SUITE

TEST_SUITE("coro") {

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("a coroutine runs once: a second await is an error") {
    auto c = next_turn(1);
    const int value = co_await std::move(c);
    CHECK(value == 1);
    CHECK_AWAIT_THROWS_AS(std::move(c), asyncio::invalid_state_error);
    CHECK_THROWS_AS(asyncio::create_task(std::move(c)), asyncio::invalid_state_error);
    auto d = next_turn(2);
    const auto t = asyncio::create_task(std::move(d));
    CHECK_AWAIT_THROWS_AS(std::move(d), asyncio::invalid_state_error);
    co_await t;
}
#endif

ASYNC_TEST_CASE("a coroutine that is dropped destroys its arguments and runs nothing") {
    int alive = 0;
    bool ran = false;
    const auto body = [&ran](counted, counted) -> asyncio::coro<> {
        ran = true;
        co_return;
    };
    {
        const auto dropped = body(counted(alive), counted(alive));
        CHECK(alive == 2);
    }
    CHECK(alive == 0);
    {
        auto first = body(counted(alive), counted(alive));
        auto second = std::move(first);
        first = body(counted(alive), counted(alive));
        second = std::move(first);
    }
    CHECK(alive == 0);
    CHECK_FALSE(ran);
    co_return;
}

ASYNC_TEST_CASE("locals go when the coroutine ends, not when its handles do") {
    int alive = 0;
    const auto body = [&]() -> asyncio::coro<> {
        const counted local(alive);
        co_await asyncio::sleep(1s);
    };
    const auto t = asyncio::create_task(body);
    co_await support::turns(2);
    CHECK(alive == 1);
    co_await t;
    CHECK(alive == 0);
    CHECK(t.done());
}

ASYNC_TEST_CASE("results may be move-only, references, or nothing") {
    const auto make = [](int n) -> asyncio::coro<move_only> {
        co_await asyncio::sleep(0s);
        co_return move_only(n);
    };
    const move_only direct = co_await make(1);
    CHECK(*direct.number == 1);
    const move_only from_task = co_await asyncio::create_task(make(2));
    CHECK(*from_task.number == 2);
    auto t = asyncio::create_task(make(3));
    co_await t;
    const move_only taken = std::move(t).result();
    CHECK(*taken.number == 3);

    int number = 0;
    const auto refer = [&]() -> asyncio::coro<int&> {
        co_await asyncio::sleep(0s);
        co_return number;
    };
    int& referred = co_await refer();
    CHECK(&referred == &number);
    const auto referring = asyncio::create_task(refer());
    int& through_task = co_await referring;
    CHECK(&through_task == &number);
    int& after_all = co_await asyncio::finally(refer(), asyncio::sleep(0s));
    CHECK(&after_all == &number);
    int& in_time = co_await asyncio::with(asyncio::timeout(1h), refer);
    CHECK(&in_time == &number);

    static_assert(std::is_same_v<asyncio::await_result_t<asyncio::coro<int>>, int>);
    static_assert(std::is_same_v<asyncio::await_result_t<asyncio::coro<>>, void>);
    static_assert(std::is_same_v<asyncio::await_result_t<asyncio::task<int>>, int>);
    static_assert(std::is_same_v<asyncio::await_result_t<const asyncio::future<int>&>, int>);
    static_assert(!asyncio::awaitable<decltype(make)>); // it wants an argument
    static_assert(std::is_same_v<asyncio::await_result_t<decltype(refer)>, int&>);
    static_assert(!std::is_copy_constructible_v<asyncio::coro<int>>);
    static_assert(!asyncio::awaitable<asyncio::coro<int>&>);
    static_assert(!asyncio::awaitable<int>);
}

asyncio::coro<int> throws_at_depth(int depth, log_of_words& log) {
    const last_words guard(log, "left " + std::to_string(depth));
    if (depth == 0) {
        co_await asyncio::sleep(0s);
        THROW(std::out_of_range("from the bottom"));
        co_return 0;
    }
    const int value = co_await throws_at_depth(depth - 1, log);
    co_return value;
}

ASYNC_TEST_CASE("an exception goes up through all coroutines, destroying their locals") {
    log_of_words log;
    CHECK_AWAIT_THROWS_WITH_AS(throws_at_depth(3, log), "from the bottom", std::out_of_range);
    CHECK(log == log_of_words{"left 0", "left 1", "left 2", "left 3"});
    // Without a wait in between.
    const auto at_once_fails = []() -> asyncio::coro<int> {
        THROW(std::logic_error("at once"));
        co_return 1;
    };
    const auto outer = [&]() -> asyncio::coro<int> {
        const int value = co_await at_once_fails();
        co_return value;
    };
    CHECK_AWAIT_THROWS_WITH_AS(outer(), "at once", std::logic_error);
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    const auto throws_no_exception_class = []() -> asyncio::coro<> {
        throw 42;
        co_return;
    };
    CHECK_AWAIT_THROWS_AS(throws_no_exception_class(), int);
#endif
}

asyncio::coro<int> fibonacci(int n) {
    if (n < 2) co_return n;
    const int a = co_await fibonacci(n - 1);
    const int b = co_await fibonacci(n - 2);
    co_return a + b;
}

ASYNC_TEST_CASE("coroutines may call themselves") {
    const int value = co_await fibonacci(15);
    CHECK(value == 610);
}

ASYNC_TEST_CASE("create_task(fn, args...) owns function and arguments") {
    const auto by_reference = [](const std::string& text,
                                 const std::vector<int>& numbers) -> asyncio::coro<std::size_t> {
        co_await asyncio::sleep(1s);
        co_return text.size() + numbers.size();
    };
    asyncio::task<std::size_t> t;
    {
        const std::string text(100, 'x');
        t = asyncio::create_task(by_reference, text, std::vector<int>{1, 2, 3});
    }
    const std::size_t size = co_await t;
    CHECK(size == 103);

    struct worker {
        std::string name;
        asyncio::coro<std::string> run(move_only m) {
            co_await asyncio::sleep(1s);
            co_return name + std::to_string(*m.number);
        }
    };
    asyncio::task<std::string> member;
    {
        worker w{"a worker whose name is on the heap "};
        member = asyncio::create_task(&worker::run, w, move_only(7));
    }
    const std::string said = co_await member;
    CHECK(said == "a worker whose name is on the heap 7");
}

ASYNC_TEST_CASE("what an argument of create_task(fn, args...) is converted to stays, too") {
    const char* const text = "a text that is too long for a string without memory of its own";
    const auto by_reference = [](const std::string& s,
                                 const asyncio::duration& d) -> asyncio::coro<std::string> {
        co_await asyncio::sleep(d);
        co_return s;
    };
    const auto of_function = asyncio::create_task(by_reference, text, 1s);

    struct worker {
        std::string name;
        asyncio::coro<std::string> add(const std::string& s) const {
            co_await asyncio::sleep(1s);
            co_return name + s;
        }
    };
    const worker w{"of "};
    const auto of_copy = asyncio::create_task(&worker::add, w, text);
    const auto of_pointer = asyncio::create_task(&worker::add, &w, text);
    const auto of_reference = asyncio::create_task(&worker::add, std::cref(w), text);
    const auto of_owner = asyncio::create_task(&worker::add, std::make_unique<worker>(w), text);

    const std::string plain = co_await of_function;
    CHECK(plain == text);
    const std::vector<asyncio::task<std::string>> members{of_copy, of_pointer, of_reference,
                                                          of_owner};
    const std::vector<std::string> texts = co_await asyncio::gather(members);
    for (const std::string& t : texts) CHECK(t == std::string("of ") + text);
}

ASYNC_TEST_CASE("a coroutine may promise a constant") {
    const auto name = []() -> asyncio::coro<const std::string> { co_return "constant"; };
    const std::string directly = co_await name();
    CHECK(directly == "constant");
    const std::string of_task = co_await asyncio::create_task(name());
    CHECK(of_task == "constant");
}

ASYNC_TEST_CASE("a task owns the closure that it is made of") {
    int alive = 0;
    asyncio::task<std::size_t> t;
    {
        t = asyncio::create_task([text = std::string(100, 'y'),
                                  probe = counted(alive)]() -> asyncio::coro<std::size_t> {
            co_await asyncio::sleep(1s);
            co_return text.size();
        });
    }
    const std::size_t size = co_await t;
    CHECK(size == 100);
    CHECK(alive == 0);
}

ASYNC_TEST_CASE("fail() ends a coroutine with a std::system_error") {
    const auto body = []() -> asyncio::coro<int> {
        co_await asyncio::fail(std::make_error_code(std::errc::no_such_file_or_directory), "open");
        co_return 1;
    };
    const auto got = co_await support::catching(body());
    const auto* const error = support::exception_cast<std::system_error>(got.error);
    REQUIRE(error != nullptr);
    CHECK(error->code() == std::errc::no_such_file_or_directory);
    CHECK(std::string(error->what()).starts_with("open"));
}

TEST_CASE("a loop that goes destroys pending frames, innermost first") {
    log_of_words log;
    asyncio::task<int> handle;
    {
        asyncio::event_loop loop;
        struct nested {
            static asyncio::coro<int> level(int depth, log_of_words& words) {
                const last_words guard(words, std::to_string(depth));
                if (depth == 0) co_await asyncio::sleep(1h);
                else co_await level(depth - 1, words);
                co_return 1;
            }
        };
        handle = loop.create_task(nested::level(2, log));
        loop.run_once();
        CHECK(log.empty());
    }
    CHECK(log == log_of_words{"0", "1", "2"});
    CHECK(handle.cancelled());
}

TEST_CASE("a loop that goes destroys tasks that are ready, new, woken or wait for each other") {
    int alive = 0;
    const auto body = [](counted, asyncio::future<int> f) -> asyncio::coro<int> {
        const int value = co_await f;
        co_return value;
    };
    {
        asyncio::event_loop loop;
        const auto f = loop.create_future<int>();
        loop.create_task(body(counted(alive), f));
        const auto inner = loop.create_task(body(counted(alive), loop.create_future<int>()));
        loop.create_task(body(counted(alive), inner));
        loop.run_once();
        f.set_result(1);                            // woken, not resumed
        loop.create_task(body(counted(alive), f)); // never begun
        const auto stopped = loop.create_task(body(counted(alive), inner));
        stopped.cancel();
        CHECK(alive == 5);
    }
    CHECK(alive == 0);
}

} // TEST_SUITE

TEST_SUITE("what main() leaves behind") {

// The object dies with main() while a worker still waits for it; run() then cancels the worker.
template <class Primitive, class Wait>
bool survives(Wait wait) {
    bool cancelled = false;
    const auto worker = [&](Primitive& primitive) -> asyncio::coro<> {
        const auto got = co_await support::catching(wait(primitive));
        cancelled = support::holds<asyncio::cancelled_error>(got.error);
        if (got.error) co_await support::fail_with(got.error);
    };
    const auto main = [&]() -> asyncio::coro<> {
        Primitive primitive;
        asyncio::create_task(worker(primitive));
        asyncio::create_task(worker(primitive));
        co_await support::turns(2);
    };
    asyncio::run(main(), {.clock = asyncio::clock_kind::virtual_time});
    return cancelled;
}

TEST_CASE("a queue, lock, event, semaphore or barrier may die before its waiters") {
    CHECK(survives<asyncio::queue<std::string>>([](auto& q) { return q.get(); }));
    CHECK(survives<asyncio::priority_queue<int>>([](auto& q) { return q.get(); }));
    CHECK(survives<asyncio::lock>([](auto& l) { return l.acquire(); }));
    CHECK(survives<asyncio::event>([](auto& e) { return e.wait(); }));
    CHECK(survives<asyncio::semaphore>([](auto& s) { return s.acquire(); }));
    struct for_three : asyncio::barrier {
        for_three() : asyncio::barrier(3) {}
    };
    CHECK(survives<for_three>([](auto& b) { return b.wait(); }));
}

TEST_CASE("a semaphore may die before those who hold its slots") {
    std::optional<asyncio::semaphore> slots(std::in_place, 1);
    const auto worker = [&]() -> asyncio::coro<> {
        const auto held = co_await slots->scoped();
        co_await asyncio::sleep(1h);
    };
    const auto main = [&]() -> asyncio::coro<> {
        asyncio::create_task(worker);
        co_await support::turns(2);
        CHECK(slots->locked());
        slots.reset();
        slots.emplace(0); // in its place
    };
    asyncio::run(main(), {.clock = asyncio::clock_kind::virtual_time});
    CHECK(slots->locked());
}

TEST_CASE("a queue may die while somebody waits to put something into it") {
    bool cancelled = false;
    const auto putter = [&](asyncio::queue<std::string>& q) -> asyncio::coro<> {
        const auto put = co_await support::catching(q.put(std::string(100, 'z')));
        cancelled = support::holds<asyncio::cancelled_error>(put.error);
        if (put.error) co_await support::fail_with(put.error);
    };
    const auto main = [&]() -> asyncio::coro<> {
        asyncio::queue<std::string> q(1);
        q.put_nowait("full");
        asyncio::create_task(putter(q));
        co_await support::turns(2);
    };
    asyncio::run(main());
    CHECK(cancelled);
}

} // TEST_SUITE

TEST_SUITE("foreign awaiters") {

// Leaves its handle to the test.
class by_hand {
public:
    explicit by_hand(std::coroutine_handle<>& place) : place_(&place) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> h) { *place_ = h; }
    std::string await_resume() const { return "resumed"; }

private:
    std::coroutine_handle<>* place_;
};

// Suspends or not, or throws.
class maybe {
public:
    enum class what { suspends, goes_on, throws };
    explicit maybe(what w) : what_(w) {}
    bool await_ready() const noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> h) {
#if !defined(ASYNCIO_NO_EXCEPTIONS)
        if (what_ == what::throws) throw std::runtime_error("cannot wait");
#endif
        if (what_ == what::suspends) h.resume();
        return what_ == what::suspends;
    }
    int await_resume() const { return 5; }

private:
    what what_;
};

// Names what is to run next, as symmetric transfer does.
class transfers {
public:
    transfers() {}
    bool await_ready() const noexcept { return false; }
    std::coroutine_handle<> await_suspend(std::coroutine_handle<> h) { return h; }
    int await_resume() const { return 6; }
};

struct with_operator {
    transfers operator co_await() const { return transfers(); }
};

#if !defined(ASYNCIO_BACKEND_NONE)

// As another library's: resumes the coroutine on a thread of its own.
class on_thread {
public:
    explicit on_thread(int value) : value_(value) {}
    on_thread(on_thread&&) = default;
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> h) {
        worker_ = std::thread([this, h] {
            value_ *= 2;
            h.resume();
        });
    }
    int await_resume() {
        worker_.join();
        return value_;
    }

private:
    int value_;
    std::thread worker_;
};

ASYNC_TEST_CASE("an awaiter that resumes on another thread continues on the loop's") {
    const std::thread::id here = std::this_thread::get_id();
    int sum = 0;
    for (int i = 0; i < 20; ++i) {
        sum += co_await on_thread(i);
        CHECK(std::this_thread::get_id() == here);
    }
    CHECK(sum == 380);
    const auto t = asyncio::create_task(on_thread(4));
    const int value = co_await t;
    CHECK(value == 8);
}

#endif

ASYNC_TEST_CASE("all three kinds of await_suspend work, and operator co_await") {
    const int waited = co_await maybe(maybe::what::suspends);
    CHECK(waited == 5);
    const int went_on = co_await maybe(maybe::what::goes_on);
    CHECK(went_on == 5);
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    CHECK_AWAIT_THROWS_WITH_AS(maybe(maybe::what::throws), "cannot wait", std::runtime_error);
#endif
    const int transferred = co_await transfers();
    CHECK(transferred == 6);
    const int operated = co_await with_operator();
    CHECK(operated == 6);
}

ASYNC_TEST_CASE("a task may cancel itself after an await that did not wait") {
    const auto goes_on = []() -> asyncio::coro<> {
        co_await maybe(maybe::what::goes_on);
        asyncio::current_task().cancel();
        co_await asyncio::sleep(1h);
    };
    const auto a = asyncio::create_task(goes_on);
    CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    const auto throws = []() -> asyncio::coro<> {
        try {
            co_await maybe(maybe::what::throws);
        } catch (const std::runtime_error&) {
        }
        asyncio::current_task().cancel();
        co_await asyncio::sleep(1h);
    };
    const auto b = asyncio::create_task(throws);
    CHECK_AWAIT_THROWS_AS(b, asyncio::cancelled_error);
#endif
}

ASYNC_TEST_CASE("a cancellation waits until the foreign operation has ended") {
    std::coroutine_handle<> place;
    const auto body = [&]() -> asyncio::coro<std::string> {
        const std::string text = co_await by_hand(place);
        co_return text;
    };
    const auto t = asyncio::create_task(body);
    co_await support::turns(2);
    REQUIRE(place);
    t.cancel("later");
    co_await support::turns(2);
    CHECK_FALSE(t.done());
    place.resume();
    CHECK_AWAIT_THROWS_WITH_AS(t, "later", asyncio::cancelled_error);

    const auto undisturbed = asyncio::create_task(body);
    co_await support::turns(2);
    place.resume();
    const std::string text = co_await undisturbed;
    CHECK(text == "resumed");
}

TEST_CASE("a loop may go while a task waits for a foreign awaiter") {
    std::coroutine_handle<> place;
    int alive = 0;
    const auto body = [&](counted) -> asyncio::coro<> { co_await by_hand(place); };
    {
        asyncio::event_loop loop;
        loop.create_task(body(counted(alive)));
        loop.run_once();
        CHECK(alive == 1);
    }
    CHECK(alive == 0);
}

} // TEST_SUITE
