// [SECTION] taskgroups: with, finally, as_outcome, task_group, gather, shield, wait, as_completed.
// The clock is virtual, so that moments are exact and can be compared with ==.
#include "support.hpp"

#include <algorithm>
#include <array>
#include <ctime>
#include <list>
#include <optional>
#include <ranges>
#include <span>
#include <stdexcept>
#include <tuple>
#include <type_traits>
#include <utility>
#include <variant>

namespace {

asyncio::time_point now() { return asyncio::get_running_loop().time(); }

// An error in words: "nothing", "cancelled", "interrupt", "timeout", a message, or of a group
// "group[one, group[two]]"; a group that is no std::exception is a "base group".
std::string shape(const asyncio::exception_ptr& error) {
    if (!error) return "nothing";
    if (support::holds<asyncio::cancelled_error>(error)) return "cancelled";
    if (support::holds<asyncio::keyboard_interrupt>(error)) return "interrupt";
    if (support::holds<asyncio::timeout_error>(error)) return "timeout";
    const auto* group = support::exception_cast<asyncio::base_exception_group>(error);
    if (group == nullptr) return support::message_of(error);
    std::string text;
    for (const asyncio::exception_ptr& member : group->exceptions())
        text += (text.empty() ? "" : ", ") + shape(member);
    return (support::holds<std::exception>(error) ? "group[" : "base group[") + text + "]";
}

// Awaits `work` in the calling task and gives what it throws.
template <class A>
asyncio::coro<asyncio::exception_ptr> error_of(A work) {
    auto got = co_await support::catching(std::move(work));
    co_return std::move(got.error);
}

asyncio::coro<int> after(asyncio::duration delay, int value) {
    co_await asyncio::sleep(delay);
    co_return value;
}

asyncio::coro<int> fail_after(asyncio::duration delay, std::string message) {
    co_await asyncio::sleep(delay);
    THROW(std::runtime_error(message));
    co_return 0;
}

// What happened to some coroutines.
struct record {
    record() = default;
    int started = 0;
    int cancelled = 0; // cancellations that arrived
    int ended = 0;     // normally or not
};

// Sleeps for an hour. When it is cancelled it stops, but needs `cleanup` for it.
asyncio::coro<int> stoppable(record& seen, asyncio::duration cleanup = 0s) {
    ++seen.started;
    const auto slept = co_await support::catching(asyncio::sleep(1h));
    seen.cancelled += support::holds<asyncio::cancelled_error>(slept.error) ? 1 : 0;
    if (cleanup > asyncio::duration::zero()) {
        const auto cleaned = co_await support::catching(asyncio::sleep(cleanup));
        seen.cancelled += support::holds<asyncio::cancelled_error>(cleaned.error) ? 1 : 0;
    }
    ++seen.ended;
    if (slept.error) co_await support::fail_with(slept.error);
    co_return 0;
}

// Ignores its first cancellation, and gives `value` after `cleanup`.
asyncio::coro<int> stubborn(asyncio::duration cleanup, int value) {
    static_cast<void>(co_await support::catching(asyncio::sleep(1h)));
    co_await asyncio::sleep(cleanup);
    co_return value;
}

asyncio::coro<int> fail_when_cancelled(std::string message) {
    const auto slept = co_await support::catching(asyncio::sleep(1h));
    if (slept.error) THROW(std::runtime_error(message));
    co_return 0;
}

// g++ 12 takes no braced list inside a co_await expression.
template <class H, class... Hs>
std::vector<H> these(const H& first, const Hs&... others) {
    return {first, others...};
}

asyncio::coro<> mark(bool& ran) {
    ran = true;
    co_return;
}

// Counts the objects that are alive, and so the frames that hold one.
struct counted {
    explicit counted(int& alive) : alive_(&alive) { ++*alive_; }
    counted(const counted&) = delete;
    counted& operator=(const counted&) = delete;
    ~counted() { --*alive_; }

private:
    int* alive_;
};

// A manager that writes down what with() does, with a pause in both of its halves.
class diary {
public:
    explicit diary(std::vector<std::string>& lines, bool swallows = false)
        : lines_(&lines), swallows_(swallows) {}

    asyncio::coro<> aenter() {
        lines_->push_back("entering");
        co_await asyncio::sleep(1s);
        lines_->push_back("entered");
    }
    asyncio::coro<bool> aexit(asyncio::exception_ptr error) {
        lines_->push_back("leaving with " + shape(error));
        co_await asyncio::sleep(1s);
        lines_->push_back("left");
        co_return swallows_;
    }

private:
    std::vector<std::string>* lines_;
    bool swallows_;
};

// A manager whose aenter() gives something.
class lender {
public:
    explicit lender(std::string value) : value_(std::move(value)) {}
    lender(lender&&) = default;

    asyncio::coro<std::unique_ptr<std::string>> aenter() {
        co_await asyncio::sleep(0s);
        co_return std::make_unique<std::string>(value_);
    }
    asyncio::coro<bool> aexit(asyncio::exception_ptr) { co_return false; }

private:
    std::string value_;
};

// A manager that fails on the way in or out.
class broken {
public:
    broken(bool in, bool out) : in_(in), out_(out) {}

    asyncio::coro<> aenter() {
        if (in_) THROW(std::runtime_error("cannot enter"));
        co_return;
    }
    asyncio::coro<bool> aexit(asyncio::exception_ptr) {
        if (out_) THROW(std::runtime_error("cannot leave"));
        co_return false;
    }

private:
    bool in_;
    bool out_;
};

using lines = std::vector<std::string>;

} // namespace

TEST_SUITE("with") {

ASYNC_TEST_CASE("the body runs between aenter() and aexit(), and its value is the result") {
    lines log;
    const auto begin = now();
    const int value = co_await asyncio::with(diary(log), [&]() -> asyncio::coro<int> {
        log.push_back("body");
        co_await asyncio::sleep(1s);
        co_return 5;
    });
    CHECK(value == 5);
    CHECK(log == lines{"entering", "entered", "body", "leaving with nothing", "left"});
    CHECK(now() - begin == 3s);
}

ASYNC_TEST_CASE("bodies are coroutines or plain callables, with or without a parameter") {
    lines log;
    diary manager(log);
    diary* seen = nullptr;
    co_await asyncio::with(manager, [&](diary& m) { seen = &m; });
    CHECK(seen == &manager); // an lvalue stays the caller's
    co_await asyncio::with(manager, [&](diary& m) -> asyncio::coro<> {
        seen = &m;
        co_return;
    });
    CHECK(seen == &manager);
    const std::string plain = co_await asyncio::with(manager, [] { return std::string("text"); });
    CHECK(plain == "text");
    const std::unique_ptr<int> moved =
        co_await asyncio::with(manager, [] { return std::make_unique<int>(2); });
    CHECK(*moved == 2);
    auto named = [&](diary&) { return after(1s, 7); };
    const int first = co_await asyncio::with(manager, named);
    const int second = co_await asyncio::with(manager, named); // a named body may be used again
    CHECK(first + second == 14);
    CHECK(log.size() == 24);
}

// Shows what it holds.
struct window {
    int value = 1;
    asyncio::coro<int&> aenter() { co_return value; }
    asyncio::coro<bool> aexit(asyncio::exception_ptr) { co_return false; }
};

ASYNC_TEST_CASE("a body gets the very object that aenter() refers to") {
    window w;
    co_await asyncio::with(w, [](int& value) { value = 2; });
    CHECK(w.value == 2);
    const int seen = co_await asyncio::with(w, [&](const int& value) -> asyncio::coro<int> {
        co_await asyncio::sleep(1s);
        CHECK(&value == &w.value);
        co_return value;
    });
    CHECK(seen == 2);
}

ASYNC_TEST_CASE("a plain callable that returns a reference gives a copy of what it refers to") {
    lines log;
    diary manager(log);
    std::string text = "text";
    const std::string given =
        co_await asyncio::with(manager, [&]() -> const std::string& { return text; });
    CHECK(given == "text");
}

ASYNC_TEST_CASE("an rvalue manager lives until the block has ended, and no longer") {
    int alive = 0;
    class holder {
    public:
        explicit holder(int& count) : here_(std::make_unique<counted>(count)) {}
        asyncio::coro<> aenter() { co_return; }
        asyncio::coro<bool> aexit(asyncio::exception_ptr) {
            co_await asyncio::sleep(1s);
            co_return false;
        }

    private:
        std::unique_ptr<counted> here_;
    };
    {
        auto block = asyncio::with(holder(alive), [&] { CHECK(alive == 1); });
        CHECK(alive == 1);
        co_await std::move(block);
    }
    CHECK(alive == 0);
}

ASYNC_TEST_CASE("the body gets what aenter() gave") {
    const std::string text = co_await asyncio::with(
        lender("lent"), [](std::unique_ptr<std::string>& given) -> asyncio::coro<std::string> {
            co_await asyncio::sleep(1s);
            given->append("!");
            co_return *given;
        });
    CHECK(text == "lent!");
    lender kept("again");
    co_await asyncio::with(
        kept, [](const std::unique_ptr<std::string>& given) { CHECK(*given == "again"); });
}

ASYNC_TEST_CASE("aexit() is told the body's error, and the error goes on") {
    lines log;
    const asyncio::exception_ptr of_coroutine =
        co_await error_of(asyncio::with(diary(log), [] { return fail_after(1s, "foo"); }));
    CHECK(shape(of_coroutine) == "foo");
    CHECK(log == lines{"entering", "entered", "leaving with foo", "left"});
    log.clear();
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    const asyncio::exception_ptr of_callable = co_await error_of(
        asyncio::with(diary(log), []() -> int { throw std::runtime_error("bar"); }));
    CHECK(shape(of_callable) == "bar");
    CHECK(log == lines{"entering", "entered", "leaving with bar", "left"});
#endif
}

ASYNC_TEST_CASE("a swallowed error leaves nothing, an empty optional, or no value to give") {
    lines log;
    diary forgiving(log, true);
    co_await asyncio::with(forgiving, []() -> asyncio::coro<> { co_await fail_after(0s, "foo"); });
    const std::optional<int> none =
        co_await asyncio::with(forgiving, []() -> asyncio::coro<std::optional<int>> {
            co_await fail_after(1s, "foo");
            co_return 1;
        });
    CHECK_FALSE(none);
    const std::optional<int> some =
        co_await asyncio::with(forgiving, []() -> std::optional<int> { return 2; });
    CHECK(some == 2);
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(forgiving, [] { return fail_after(1s, "foo"); }));
    CHECK(support::holds<asyncio::invalid_state_error>(error));
    const int value = co_await asyncio::with(forgiving, [] { return after(1s, 3); });
    CHECK(value == 3);
}

ASYNC_TEST_CASE("an error of aenter() skips body and aexit(); one of aexit() replaces the body's") {
    bool ran = false;
    const asyncio::exception_ptr in =
        co_await error_of(asyncio::with(broken(true, true), [&] { ran = true; }));
    CHECK(shape(in) == "cannot enter");
    CHECK_FALSE(ran);
    const asyncio::exception_ptr out =
        co_await error_of(asyncio::with(broken(false, true), [&] { ran = true; }));
    CHECK(shape(out) == "cannot leave");
    CHECK(ran);
    const asyncio::exception_ptr both =
        co_await error_of(asyncio::with(broken(false, true), [] { return fail_after(1s, "foo"); }));
    CHECK(shape(both) == "cannot leave");
}

ASYNC_TEST_CASE("aexit() is awaited after a cancellation of the body, which then goes on") {
    lines log;
    asyncio::task<> block = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::with(diary(log), [] { return after(1h, 0); });
    });
    co_await asyncio::sleep(2s);
    const auto begin = now();
    block.cancel();
    const asyncio::exception_ptr error = co_await error_of(block);
    CHECK(shape(error) == "cancelled");
    CHECK(log == lines{"entering", "entered", "leaving with cancelled", "left"});
    CHECK(now() - begin == 1s);
    CHECK(block.cancelling() == 1);
}

ASYNC_TEST_CASE("a manager may swallow a cancellation") {
    lines log;
    bool behind = false;
    asyncio::task<> block = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::with(diary(log, true),
                               []() -> asyncio::coro<> { co_await asyncio::sleep(1h); });
        behind = true;
        co_await asyncio::sleep(1s);
    });
    co_await asyncio::sleep(2s);
    block.cancel();
    co_await block;
    CHECK(behind);
    CHECK(block.cancelling() == 1);
}

ASYNC_TEST_CASE("a cancellation that arrives in aenter() or aexit() is thrown there") {
    lines log;
    bool ran = false;
    asyncio::task<> entering = asyncio::create_task(
        [&]() -> asyncio::coro<> { co_await asyncio::with(diary(log), [&] { ran = true; }); });
    co_await support::turns(2);
    entering.cancel();
    const asyncio::exception_ptr in = co_await error_of(entering);
    CHECK(shape(in) == "cancelled");
    CHECK_FALSE(ran);
    CHECK(log == lines{"entering"});

    for (const bool fails : {false, true}) {
        log.clear();
        asyncio::task<> leaving = asyncio::create_task([&]() -> asyncio::coro<> {
            co_await asyncio::with(diary(log), [&]() -> asyncio::coro<> {
                if (fails) THROW(std::runtime_error("foo"));
                co_return;
            });
        });
        co_await asyncio::sleep(1500ms);
        leaving.cancel();
        const asyncio::exception_ptr out = co_await error_of(leaving);
        CHECK(shape(out) == "cancelled");
        CHECK(log.back() == (fails ? "leaving with foo" : "leaving with nothing"));
    }
}

ASYNC_TEST_CASE("a cancellation while aexit() handles another one arrives there") {
    lines log;
    asyncio::task<> block = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::with(diary(log), [] { return after(1h, 0); });
    });
    co_await asyncio::sleep(2s);
    block.cancel("first");
    co_await asyncio::sleep(500ms);
    block.cancel("second");
    const asyncio::exception_ptr error = co_await error_of(block);
    CHECK(support::message_of(error) == "second");
    CHECK(log == lines{"entering", "entered", "leaving with cancelled"});
    CHECK(block.cancelling() == 2);
}

} // TEST_SUITE

TEST_SUITE("finally") {

ASYNC_TEST_CASE("the cleanup is awaited after a success, and the body's value is the result") {
    lines log;
    auto cleanup = [&]() -> asyncio::coro<int> {
        log.push_back("cleaning");
        co_await asyncio::sleep(1s);
        log.push_back("clean");
        co_return 99;
    };
    const auto begin = now();
    const int value = co_await asyncio::finally(after(1s, 4), cleanup);
    CHECK(value == 4);
    CHECK(log == lines{"cleaning", "clean"});
    CHECK(now() - begin == 2s);
    const std::unique_ptr<int> moved = co_await asyncio::finally(
        []() -> asyncio::coro<std::unique_ptr<int>> { co_return std::make_unique<int>(1); },
        asyncio::sleep(1s));
    CHECK(*moved == 1);
    co_await asyncio::finally(asyncio::sleep(1s), cleanup);
    CHECK(log.size() == 4);
}

ASYNC_TEST_CASE("the cleanup is awaited after an error, and the error goes on") {
    bool clean = false;
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::finally(fail_after(1s, "foo"), [&]() -> asyncio::coro<> {
            co_await asyncio::sleep(1s);
            clean = true;
        }));
    CHECK(shape(error) == "foo");
    CHECK(clean);
}

ASYNC_TEST_CASE("the cleanup is awaited after a cancellation, and the cancellation goes on") {
    bool clean = false;
    asyncio::task<> work = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::finally(asyncio::sleep(1h), [&]() -> asyncio::coro<> {
            co_await asyncio::sleep(1s);
            clean = true;
        });
    });
    co_await asyncio::sleep(1s);
    const auto begin = now();
    work.cancel("why");
    const asyncio::exception_ptr error = co_await error_of(work);
    CHECK(support::message_of(error) == "why");
    CHECK(work.cancelled());
    CHECK(clean);
    CHECK(now() - begin == 1s);
}

ASYNC_TEST_CASE("an error of the cleanup replaces the body's") {
    const asyncio::exception_ptr after_error =
        co_await error_of(asyncio::finally(fail_after(1s, "body"), fail_after(1s, "cleanup")));
    CHECK(shape(after_error) == "cleanup");
    const asyncio::exception_ptr after_success =
        co_await error_of(asyncio::finally(after(1s, 1), fail_after(1s, "cleanup")));
    CHECK(shape(after_success) == "cleanup");
}

ASYNC_TEST_CASE("a cancellation that arrives in the cleanup is thrown there") {
    record cleanup;
    asyncio::task<> work = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::finally(fail_after(1s, "foo"), stoppable(cleanup, 1s));
    });
    co_await asyncio::sleep(2s);
    CHECK(cleanup.started == 1);
    const auto begin = now();
    work.cancel();
    const asyncio::exception_ptr error = co_await error_of(work);
    CHECK(shape(error) == "cancelled");
    CHECK(cleanup.ended == 1);
    CHECK(now() - begin == 1s);
}

} // TEST_SUITE

TEST_SUITE("as_outcome") {

ASYNC_TEST_CASE("an outcome holds the value, or the error") {
    const asyncio::outcome<int> value = co_await asyncio::as_outcome(after(1s, 3));
    REQUIRE(value.has_value());
    CHECK(*value == 3);
    const asyncio::outcome<int> failure = co_await asyncio::as_outcome(fail_after(1s, "foo"));
    CHECK_FALSE(failure.has_value());
    CHECK(failure.error().holds<std::runtime_error>());
    CHECK(std::string(failure.error().what()) == "foo");
    CHECK_THROWS_AS(failure.value(), std::runtime_error);
    const asyncio::outcome<void> nothing = co_await asyncio::as_outcome(asyncio::sleep(1s));
    CHECK(nothing.has_value());
    asyncio::outcome<std::unique_ptr<int>> moved = co_await asyncio::as_outcome(
        []() -> asyncio::coro<std::unique_ptr<int>> { co_return std::make_unique<int>(8); });
    REQUIRE(moved.has_value());
    CHECK(**moved == 8);
    const auto late = co_await asyncio::as_outcome(asyncio::wait_for(after(1h, 0), 1s));
    CHECK(late.error().holds<asyncio::timeout_error>());
}

ASYNC_TEST_CASE("a cancellation of the work itself is an outcome") {
    asyncio::task<int> work = asyncio::create_task(after(1h, 0));
    asyncio::get_running_loop().call_later(1s, [&] { work.cancel("enough"); });
    const asyncio::outcome<int> stopped = co_await asyncio::as_outcome(work);
    CHECK_FALSE(stopped.has_value());
    CHECK(stopped.error().holds<asyncio::cancelled_error>());
    CHECK(std::string(stopped.error().what()) == "enough");
    CHECK(asyncio::current_task().cancelling() == 0);
    const auto thrown = co_await asyncio::as_outcome([]() -> asyncio::coro<> {
        co_await asyncio::sleep(1s);
        THROW(asyncio::cancelled_error("by itself"));
    });
    CHECK(thrown.error().holds<asyncio::cancelled_error>());
}

ASYNC_TEST_CASE("a cancellation of the caller passes through as_outcome()") {
    for (const bool as_task : {false, true}) {
        CAPTURE(as_task);
        bool behind = false;
        asyncio::task<int> work;
        if (as_task) work = asyncio::create_task(after(1h, 0));
        asyncio::task<> caller = asyncio::create_task([&]() -> asyncio::coro<> {
            if (as_task) static_cast<void>(co_await asyncio::as_outcome(work));
            else static_cast<void>(co_await asyncio::as_outcome(after(1h, 0)));
            behind = true;
        });
        co_await asyncio::sleep(1s);
        caller.cancel();
        const asyncio::exception_ptr error = co_await error_of(caller);
        CHECK(shape(error) == "cancelled");
        CHECK_FALSE(behind);
        if (as_task) CHECK(work.cancelled());
    }
    // Also one that was asked for before the await.
    bool behind = false;
    asyncio::task<> caller = asyncio::create_task([&]() -> asyncio::coro<> {
        asyncio::current_task().cancel();
        static_cast<void>(co_await asyncio::as_outcome(after(1h, 0)));
        behind = true;
    });
    const asyncio::exception_ptr error = co_await error_of(caller);
    CHECK(shape(error) == "cancelled");
    CHECK_FALSE(behind);
}

ASYNC_TEST_CASE("an earlier cancellation that was swallowed does not confuse as_outcome()") {
    asyncio::task<> caller = asyncio::create_task([]() -> asyncio::coro<> {
        asyncio::current_task().cancel();
        const asyncio::exception_ptr earlier = co_await error_of(asyncio::sleep(0s));
        CHECK(shape(earlier) == "cancelled");
        asyncio::task<int> work = asyncio::create_task(after(1h, 0));
        asyncio::get_running_loop().call_later(1s, [work] { work.cancel(); });
        const asyncio::outcome<int> stopped = co_await asyncio::as_outcome(work);
        CHECK(stopped.error().holds<asyncio::cancelled_error>());
    });
    co_await caller;
}

ASYNC_TEST_CASE("a keyboard_interrupt is no outcome") {
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::as_outcome([]() -> asyncio::coro<> {
            co_await asyncio::sleep(1s);
            THROW(asyncio::keyboard_interrupt());
        }));
    CHECK(shape(error) == "interrupt");
}

} // TEST_SUITE

TEST_SUITE("task_group") {

ASYNC_TEST_CASE("TG-01: the block ends when all children have ended, and their results are there") {
    const auto begin = now();
    asyncio::task<int> a;
    asyncio::task<int> b;
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
        a = tg.create_task(after(2s, 42));
        b = tg.create_task(after(1s, 11));
    });
    CHECK(now() - begin == 2s);
    CHECK(a.result() == 42);
    CHECK(b.result() == 11);
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
        a = tg.create_task(after(1s, 1));
    });
    CHECK(now() - begin == 3s);
    CHECK(a.result() == 1);
}

ASYNC_TEST_CASE("TG-02: a failing child cancels siblings and body, and is thrown in a group") {
    const auto begin = now();
    record siblings;
    record body;
    const asyncio::exception_ptr error = co_await error_of(
        asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<> {
            tg.create_task(stoppable(siblings, 1s));
            tg.create_task(stoppable(siblings));
            tg.create_task(fail_after(1s, "value"));
            co_await stoppable(body, 2s);
        }));
    CHECK(shape(error) == "group[value]");
    CHECK(body.cancelled == 1);
    CHECK(siblings.cancelled == 2);
    CHECK(siblings.ended == 2);
    CHECK(now() - begin == 3s); // the siblings clean up beside the body, not after it
    CHECK(asyncio::current_task().cancelling() == 0);
    co_await asyncio::sleep(1s); // is not interrupted
}

ASYNC_TEST_CASE("TG-03: a child that fails after the body's end cancels its siblings") {
    const auto begin = now();
    record siblings;
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
            tg.create_task(stoppable(siblings, 1s));
            tg.create_task(stoppable(siblings));
            tg.create_task(fail_after(1s, "value"));
        }));
    CHECK(shape(error) == "group[value]");
    CHECK(siblings.cancelled == 2);
    CHECK(siblings.ended == 2);
    CHECK(now() - begin == 2s);
    CHECK(asyncio::current_task().cancelling() == 0);
    co_await asyncio::sleep(1s);
}

ASYNC_TEST_CASE_ORDERED(
    "TG-04: errors of one turn come in the order of their ends, the body's last") {
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(asyncio::task_group(), [](asyncio::task_group& tg) {
            tg.create_task(fail_after(1s, "one"));
            tg.create_task(fail_after(1s, "two"));
            tg.create_task(fail_after(1s, "three"));
            return fail_when_cancelled("body");
        }));
    CHECK(shape(error) == "group[one, two, three, body]");
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("TG-05: an error that answers the abort is collected, too") {
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(asyncio::task_group(), [](asyncio::task_group& tg) {
            tg.create_task(fail_when_cancelled("key"));
            tg.create_task(fail_after(1s, "value"));
        }));
    CHECK(shape(error) == "group[value, key]");
}

ASYNC_TEST_CASE("TG-06: cancelling one child is no error, and the others go on") {
    asyncio::task<int> one;
    asyncio::task<int> other;
    bool behind = false;
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<> {
        one = tg.create_task(after(1h, 1));
        other = tg.create_task(after(3s, 2));
        co_await asyncio::sleep(1s);
        one.cancel();
        co_await asyncio::sleep(1s);
        behind = true;
    });
    CHECK(behind);
    CHECK(one.cancelled());
    CHECK(other.result() == 2);
}

ASYNC_TEST_CASE("TG-07: a child that throws cancelled_error by itself counts as cancelled") {
    asyncio::task<> odd;
    asyncio::task<int> other;
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
        odd = tg.create_task([]() -> asyncio::coro<> {
            co_await asyncio::sleep(1s);
            THROW(asyncio::cancelled_error());
        });
        other = tg.create_task(after(3s, 2));
    });
    CHECK(odd.cancelled());
    CHECK(other.result() == 2);
}

ASYNC_TEST_CASE("TG-08: an error of the body cancels the children and comes in a group") {
    const auto begin = now();
    record children;
    const asyncio::exception_ptr error = co_await error_of(
        asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<> {
            tg.create_task(stoppable(children, 2s));
            tg.create_task(stoppable(children));
            co_await asyncio::sleep(1s);
            THROW(std::runtime_error("key"));
        }));
    CHECK(shape(error) == "group[key]");
    CHECK(children.cancelled == 2);
    CHECK(children.ended == 2);
    CHECK(now() - begin == 3s);
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("TG-09: a cancellation while the block ends cancels the children and goes on") {
    record children;
    asyncio::task<> parent = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
            tg.create_task(stoppable(children, 1s));
            tg.create_task(stoppable(children));
        });
    });
    co_await asyncio::sleep(1s);
    const auto begin = now();
    parent.cancel("outside");
    const asyncio::exception_ptr error = co_await error_of(parent);
    CHECK(shape(error) == "cancelled");
    CHECK(support::message_of(error) == "outside");
    CHECK(parent.cancelled());
    CHECK(parent.cancelling() == 1);
    CHECK(children.cancelled == 2);
    CHECK(children.ended == 2);
    CHECK(now() - begin == 1s);
}

ASYNC_TEST_CASE("TG-10: a cancellation that the body lets through cancels the children") {
    record children;
    record body;
    asyncio::task<> parent = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::with(asyncio::task_group(),
                               [&](asyncio::task_group& tg) -> asyncio::coro<> {
                                   tg.create_task(stoppable(children, 1s));
                                   tg.create_task(stoppable(children));
                                   co_await stoppable(body);
                               });
    });
    co_await asyncio::sleep(1s);
    const auto begin = now();
    parent.cancel("outside");
    const asyncio::exception_ptr error = co_await error_of(parent);
    CHECK(shape(error) == "cancelled");
    CHECK(support::message_of(error) == "outside");
    CHECK(parent.cancelling() == 1);
    CHECK(body.cancelled == 1);
    CHECK(children.cancelled == 2);
    CHECK(children.ended == 2);
    CHECK(now() - begin == 1s);
}

ASYNC_TEST_CASE("TG-11: an error that answers a cancellation from outside wins, for the moment") {
    int in_handler = -1;
    asyncio::exception_ptr error;
    asyncio::exception_ptr next;
    asyncio::task<> parent = asyncio::create_task([&]() -> asyncio::coro<> {
        error = co_await error_of(asyncio::with(asyncio::task_group(), [](asyncio::task_group& tg) {
            tg.create_task(fail_when_cancelled("value"));
        }));
        in_handler = asyncio::current_task().cancelling();
        next = co_await error_of(asyncio::sleep(1h));
        if (next) co_await support::fail_with(next);
    });
    co_await asyncio::sleep(1s);
    const auto begin = now();
    parent.cancel();
    const asyncio::exception_ptr end = co_await error_of(parent);
    CHECK(shape(error) == "group[value]");
    CHECK(in_handler == 1);
    CHECK(shape(next) == "cancelled");
    CHECK(shape(end) == "cancelled");
    CHECK(parent.cancelling() == 1);
    CHECK(now() == begin);
}

ASYNC_TEST_CASE("TG-11: a child's failure interrupts the cleanup of a body that was cancelled") {
    const auto begin = now();
    int cleanups = 0;
    asyncio::task<> parent = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::with(
            asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<> {
                tg.create_task(fail_after(2s, "value"));
                const auto slept = co_await support::catching(asyncio::sleep(1h));
                co_await asyncio::sleep(3s);
                ++cleanups;
                if (slept.error) co_await support::fail_with(slept.error);
            });
    });
    co_await asyncio::sleep(1s);
    parent.cancel();
    const asyncio::exception_ptr error = co_await error_of(parent);
    CHECK(shape(error) == "group[value]");
    CHECK(now() - begin == 2s);
    CHECK(cleanups == 0);
    CHECK_FALSE(parent.cancelled());
    CHECK(parent.cancelling() == 1);
}

// A parent that waits for its group, in the body or at its end, while a child fails in turn
// `child_turn`, and somebody else cancels it in turn `cancel_turn`.
struct race {
    race(int child, int cancel, bool first, bool body)
        : child_turn(child), cancel_turn(cancel), cancel_first(first), in_body(body) {}
    int child_turn;
    int cancel_turn;
    bool cancel_first; // within one turn
    bool in_body;
    asyncio::exception_ptr error;
    asyncio::exception_ptr next;
    int in_handler = -1;
    int behind = -1;
    asyncio::task<> parent;
};

asyncio::coro<> run_race(race& r) {
    auto fails = [&r]() -> asyncio::coro<> {
        co_await support::turns(r.child_turn);
        THROW(std::runtime_error("child"));
    };
    auto cancels = [&r]() -> asyncio::coro<> {
        co_await support::turns(r.cancel_turn);
        r.parent.cancel();
    };
    auto body = [&](asyncio::task_group& tg) -> asyncio::coro<> {
        if (r.cancel_first) asyncio::create_task(cancels);
        tg.create_task(fails);
        if (!r.cancel_first) asyncio::create_task(cancels);
        if (r.in_body) co_await asyncio::sleep(1h);
    };
    r.parent = asyncio::create_task([&]() -> asyncio::coro<> {
        r.error = co_await error_of(asyncio::with(asyncio::task_group(), body));
        r.in_handler = asyncio::current_task().cancelling();
        r.next = co_await error_of(asyncio::sleep(1h));
        r.behind = asyncio::current_task().cancelling();
        if (r.next) co_await support::fail_with(r.next);
    });
    const asyncio::exception_ptr end = co_await error_of(r.parent);
    CHECK(shape(end) == "cancelled");
}

ASYNC_TEST_CASE("TG-12: of a cancellation and a child's error in one turn the error is first") {
    for (const bool in_body : {false, true}) {
        CAPTURE(in_body);
        race r(3, 3, true, in_body);
        co_await run_race(r);
        CHECK(shape(r.error) == "group[child]");
        CHECK(r.in_handler == 1);
        CHECK(r.behind == 1);
        CHECK(shape(r.next) == "cancelled");
        CHECK(r.parent.cancelled());
    }
}

ASYNC_TEST_CASE("TG-13: of a child's error and a cancellation in one turn the error is first") {
    for (const bool in_body : {false, true}) {
        // The error is noted in the turn after the child's end, and the parent runs one later.
        for (const int cancel_turn : {3, 4}) {
            CAPTURE(in_body);
            CAPTURE(cancel_turn);
            race r(3, cancel_turn, false, in_body);
            co_await run_race(r);
            CHECK(shape(r.error) == "group[child]");
            CHECK(r.in_handler == 1);
            CHECK(r.behind == 1);
            CHECK(shape(r.next) == "cancelled");
            CHECK(r.parent.cancelled());
        }
    }
}

ASYNC_TEST_CASE("TG-14: a cancellation while an aborted group waits cancels no child again") {
    const auto begin = now();
    record sibling;
    asyncio::exception_ptr error;
    asyncio::exception_ptr next;
    int in_handler = -1;
    asyncio::task<> parent = asyncio::create_task([&]() -> asyncio::coro<> {
        error =
            co_await error_of(asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
                tg.create_task(stoppable(sibling, 3s));
                tg.create_task(fail_after(1s, "value"));
            }));
        in_handler = asyncio::current_task().cancelling();
        next = co_await error_of(asyncio::sleep(1h));
    });
    co_await asyncio::sleep(2s);
    parent.cancel();
    co_await parent;
    CHECK(sibling.cancelled == 1);
    CHECK(sibling.ended == 1);
    CHECK(now() - begin == 4s);
    CHECK(shape(error) == "group[value]");
    CHECK(in_handler == 1);
    CHECK(shape(next) == "cancelled");
    CHECK(parent.cancelling() == 1);
}

ASYNC_TEST_CASE("TG-15: two cancellations while the block ends cancel a slow child once") {
    const auto begin = now();
    record child;
    asyncio::task<> parent = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
            tg.create_task(stoppable(child, 3s));
        });
    });
    co_await asyncio::sleep(1s);
    parent.cancel();
    co_await asyncio::sleep(1s);
    parent.cancel();
    const asyncio::exception_ptr error = co_await error_of(parent);
    CHECK(child.cancelled == 1);
    CHECK(child.ended == 1);
    CHECK(now() - begin == 4s);
    CHECK(shape(error) == "cancelled");
    CHECK(parent.cancelling() == 2);
}

ASYNC_TEST_CASE("TG-16: a body that catches the abort's cancellation goes on without another") {
    const auto begin = now();
    asyncio::exception_ptr injected;
    const asyncio::exception_ptr error = co_await error_of(
        asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<> {
            tg.create_task(fail_after(1s, "value"));
            injected = co_await error_of(asyncio::sleep(1h));
            co_await asyncio::sleep(1s);
            co_await asyncio::sleep(1s);
        }));
    CHECK(shape(injected) == "cancelled");
    CHECK(now() - begin == 3s);
    CHECK(shape(error) == "group[value]");
    CHECK(asyncio::current_task().cancelling() == 0);
    co_await asyncio::sleep(1s);
}

ASYNC_TEST_CASE("TG-17: a keyboard_interrupt of the body leaves naked, after the children's end") {
    asyncio::task<int> child;
    const asyncio::exception_ptr error = co_await error_of(
        asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<> {
            child = tg.create_task(fail_when_cancelled("value"));
            co_await asyncio::sleep(1s);
            THROW(asyncio::keyboard_interrupt());
        }));
    CHECK(shape(error) == "interrupt");
    CHECK(child.done());
    CHECK(shape(child.exception()) == "value");
}

ASYNC_TEST_CASE("TG-18: a keyboard_interrupt in the body's cleanup leaves naked") {
    const asyncio::exception_ptr error = co_await error_of(
        asyncio::with(asyncio::task_group(), [](asyncio::task_group& tg) -> asyncio::coro<> {
            tg.create_task(fail_after(1s, "division"));
            const auto slept = co_await support::catching(asyncio::sleep(1h));
            if (slept.error) THROW(asyncio::keyboard_interrupt());
        }));
    CHECK(shape(error) == "interrupt");
}

ASYNC_TEST_CASE("TG-19: an error that is no ordinary one makes the group a base_exception_group") {
    const std::vector<asyncio::exception_ptr> inside = {
        asyncio::detail::make_error(asyncio::cancelled_error())};
    record sibling;
    const asyncio::exception_ptr of_child =
        co_await error_of(asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
            tg.create_task(stoppable(sibling));
            tg.create_task([&]() -> asyncio::coro<> {
                co_await asyncio::sleep(1s);
                THROW(asyncio::base_exception_group("odd", inside));
            });
        }));
    CHECK(shape(of_child) == "base group[base group[cancelled]]");
    CHECK(sibling.cancelled == 1);
    CHECK(asyncio::current_task().cancelling() == 0);
    const asyncio::exception_ptr of_body = co_await error_of(
        asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<> {
            tg.create_task(stoppable(sibling));
            THROW(asyncio::base_exception_group("odd", inside));
            co_return;
        }));
    CHECK(shape(of_body) == "base group[base group[cancelled]]");
    const asyncio::exception_ptr mixed = co_await error_of(
        asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<> {
            tg.create_task(fail_after(1s, "division"));
            const auto slept = co_await support::catching(asyncio::sleep(1h));
            if (slept.error) THROW(asyncio::base_exception_group("odd", inside));
        }));
    CHECK(shape(mixed) == "base group[division, base group[cancelled]]");
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    // What is no std::exception, but no cancellation either, is an ordinary error.
    const asyncio::exception_ptr number =
        co_await error_of(asyncio::with(asyncio::task_group(), [](asyncio::task_group& tg) {
            tg.create_task([]() -> asyncio::coro<> {
                co_await asyncio::sleep(1s);
                throw 42;
            });
        }));
    CHECK(shape(number) == "group[42]");
#endif
}

ASYNC_TEST_CASE("TG-20: a group that fails inside a group stays a group") {
    record outer_child;
    const asyncio::exception_ptr error = co_await error_of(
        asyncio::with(asyncio::task_group(), [&](asyncio::task_group& outer) -> asyncio::coro<> {
            outer.create_task(stoppable(outer_child));
            co_await asyncio::with(asyncio::task_group(), [](asyncio::task_group& inner) {
                inner.create_task(fail_after(1s, "value"));
            });
        }));
    CHECK(shape(error) == "group[group[value]]");
    CHECK(outer_child.cancelled == 1);
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("TG-21: an outer child's failure only cancels an inner group") {
    record inner_child;
    asyncio::exception_ptr inner_error;
    const asyncio::exception_ptr error = co_await error_of(
        asyncio::with(asyncio::task_group(), [&](asyncio::task_group& outer) -> asyncio::coro<> {
            outer.create_task(fail_after(1s, "outer"));
            inner_error = co_await error_of(asyncio::with(
                asyncio::task_group(), [&](asyncio::task_group& inner) -> asyncio::coro<> {
                    inner.create_task(stoppable(inner_child, 1s));
                    co_await asyncio::sleep(1h);
                }));
            CHECK(inner_child.ended == 1);
            if (inner_error) co_await support::fail_with(inner_error);
        }));
    CHECK(inner_child.cancelled == 1);
    CHECK(shape(inner_error) == "cancelled");
    CHECK(shape(error) == "group[outer]");
    CHECK(asyncio::current_task().cancelling() == 0);
    co_await asyncio::sleep(1s);
}

ASYNC_TEST_CASE("TG-22: nested groups whose children fail in one turn each throw their own") {
    for (const bool outer_first : {true, false}) {
        CAPTURE(outer_first);
        int between = -1;
        asyncio::exception_ptr inner_error;
        const asyncio::exception_ptr error = co_await error_of(asyncio::with(
            asyncio::task_group(), [&](asyncio::task_group& outer) -> asyncio::coro<> {
                if (outer_first) outer.create_task(fail_after(1s, "outer"));
                inner_error = co_await error_of(asyncio::with(
                    asyncio::task_group(), [&](asyncio::task_group& inner) -> asyncio::coro<> {
                        inner.create_task(fail_after(1s, "inner"));
                        if (!outer_first) outer.create_task(fail_after(1s, "outer"));
                        co_await asyncio::sleep(1h);
                    }));
                between = asyncio::current_task().cancelling();
            }));
        CHECK(shape(inner_error) == "group[inner]");
        CHECK(between == 1);
        CHECK(shape(error) == "group[outer]");
        CHECK(asyncio::current_task().cancelling() == 0);
        co_await asyncio::sleep(1s);
    }
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("TG-23: a group takes no task before it begins, after it ended, or while it ends") {
    const auto reports = support::collect_reports();
    bool ran = false;
    asyncio::task_group group;
    CHECK_THROWS_WITH_AS(group.create_task(mark(ran)), doctest::Contains("not begun"),
                         std::runtime_error);
    CHECK_THROWS_AS(group.create_task([](bool& r) { return mark(r); }, std::ref(ran)),
                    std::runtime_error);
    asyncio::exception_ptr aborting;
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(group, [&](asyncio::task_group& tg) -> asyncio::coro<> {
            tg.create_task(fail_after(1s, "value"));
            co_await error_of(asyncio::sleep(1h));
            try {
                tg.create_task(mark(ran));
            } catch (...) {
                aborting = std::current_exception();
            }
        }));
    CHECK(shape(error) == "group[value]");
    CHECK(support::holds<std::runtime_error>(aborting));
    CHECK_THROWS_WITH_AS(group.create_task(mark(ran)), doctest::Contains("finished"),
                         std::runtime_error);
    // The frame of the refused coroutine is gone at once.
    int alive = 0;
    const auto holding = [](std::unique_ptr<counted>) -> asyncio::coro<> { co_return; };
    CHECK_THROWS_AS(group.create_task(holding(std::make_unique<counted>(alive))),
                    std::runtime_error);
    CHECK(alive == 0);
    auto named = holding(std::make_unique<counted>(alive));
    CHECK(alive == 1);
    CHECK_THROWS_AS(group.create_task(std::move(named)), std::runtime_error);
    CHECK(alive == 0);
    co_await asyncio::sleep(1s);
    CHECK_FALSE(ran);
    CHECK(reports->empty());
}
#endif

ASYNC_TEST_CASE("TG-24: children may create children while the parent waits for the block's end") {
    const auto begin = now();
    asyncio::task<int> grandchild;
    asyncio::task<int> last;
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
        tg.create_task([&]() -> asyncio::coro<> {
            co_await asyncio::sleep(1s);
            grandchild = tg.create_task([&]() -> asyncio::coro<int> {
                co_await asyncio::sleep(1s);
                last = tg.create_task(after(1s, 3));
                co_return 2;
            });
        });
    });
    CHECK(now() - begin == 3s);
    CHECK(grandchild.result() == 2);
    CHECK(last.result() == 3);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("TG-25: a group is entered once") {
    asyncio::task_group group;
    asyncio::task<int> child;
    asyncio::exception_ptr nested;
    co_await asyncio::with(group, [&](asyncio::task_group& tg) -> asyncio::coro<> {
        child = tg.create_task(after(2s, 1));
        nested = co_await error_of(asyncio::with(group, [] {}));
        co_await asyncio::sleep(1s);
        tg.create_task(after(1s, 1));
    });
    CHECK(support::holds<std::runtime_error>(nested));
    CHECK(child.result() == 1);
    const asyncio::exception_ptr again = co_await error_of(asyncio::with(group, [] {}));
    CHECK(support::holds<std::runtime_error>(again));
}
#endif

ASYNC_TEST_CASE("TG-26: children of a body that throws before it suspends never begin") {
    record children;
    asyncio::task<int> a;
    asyncio::task<int> b;
    const asyncio::exception_ptr error = co_await error_of(
        asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<> {
            a = tg.create_task(stoppable(children));
            b = tg.create_task(stoppable(children));
            THROW(std::runtime_error("body"));
            co_return;
        }));
    CHECK(shape(error) == "group[body]");
    CHECK(children.started == 0);
    CHECK(a.cancelled());
    CHECK(b.cancelled());
}

ASYNC_TEST_CASE("a group's tasks are made in every way that create_task() knows") {
    asyncio::task<std::string> named;
    asyncio::task<int> called;
    asyncio::task<int> eager;
    asyncio::task<int> adopted = asyncio::create_task(after(2s, 4));
    const int value = co_await asyncio::with(
        asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<int> {
            named = tg.create_task(
                []() -> asyncio::coro<std::string> {
                    co_return asyncio::current_task().get_name();
                },
                {.name = "worker"});
            called = tg.create_task([](int a, int b) { return after(1s, a + b); }, 2, 3);
            eager =
                tg.create_task([]() -> asyncio::coro<int> { co_return 9; }, {.eager_start = true});
            CHECK(eager.done());
            tg.create_task(adopted);
            co_return 6;
        });
    CHECK(value == 6);
    CHECK(named.result() == "worker");
    CHECK(called.result() == 5);
    CHECK(eager.result() == 9);
    CHECK(adopted.done());
}

ASYNC_TEST_CASE("a child that fails before create_task() returns counts") {
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(asyncio::task_group(), [](asyncio::task_group& tg) {
            tg.create_task(
                []() -> asyncio::coro<> {
                    THROW(std::runtime_error("at once"));
                    co_return;
                },
                {.eager_start = true});
            return after(1h, 0);
        }));
    CHECK(shape(error) == "group[at once]");
}

ASYNC_TEST_CASE("a task that had failed before the group adopts it is an error of the group") {
    asyncio::task<int> failed = asyncio::create_task(fail_after(0s, "early"));
    co_await support::turns(3);
    REQUIRE(failed.done());
    const asyncio::exception_ptr error = co_await error_of(asyncio::with(
        asyncio::task_group(), [&](asyncio::task_group& tg) { tg.create_task(failed); }));
    CHECK(shape(error) == "group[early]");
}

ASYNC_TEST_CASE("errors that a group has thrown are not reported again") {
    const auto reports = support::collect_reports();
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(asyncio::task_group(), [](asyncio::task_group& tg) {
            tg.create_task(fail_after(1s, "one"));
            tg.create_task(fail_when_cancelled("two"));
        }));
    CHECK(shape(error) == "group[one, two]");
    co_await support::turns(3);
    CHECK(reports->empty());
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("a group's error has a message and can be split") {
    try {
        co_await asyncio::with(asyncio::task_group(), [](asyncio::task_group& tg) {
            tg.create_task(fail_after(1s, "one"));
            tg.create_task([]() -> asyncio::coro<> {
                co_await asyncio::sleep(1s);
                throw std::invalid_argument("two");
            });
        });
        FAIL("nothing was thrown");
    } catch (const asyncio::exception_group& group) {
        CHECK(group.message() == "unhandled errors in a task group");
        CHECK(group.contains<std::invalid_argument>());
        const auto [logic, rest] = group.split<std::logic_error>();
        REQUIRE(logic);
        REQUIRE(rest);
        CHECK(logic->exceptions().size() == 1);
        CHECK(rest->exceptions().size() == 1);
    }
}
#endif

ASYNC_TEST_CASE("a group inside a timeout is cancelled by it, and the timeout_error leaves") {
    record child;
    const auto begin = now();
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(asyncio::timeout(1s), [&]() -> asyncio::coro<> {
            co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
                tg.create_task(stoppable(child, 1s));
            });
        }));
    CHECK(shape(error) == "timeout");
    CHECK(child.cancelled == 1);
    CHECK(now() - begin == 2s);
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("of a child's failure and an expiry in one turn the failure is thrown") {
    for (const bool expires_first : {true, false}) {
        CAPTURE(expires_first);
        asyncio::timeout limit(std::nullopt);
        asyncio::exception_ptr error;
        asyncio::task<> parent = asyncio::create_task([&]() -> asyncio::coro<> {
            error = co_await error_of(asyncio::with(limit, [&]() -> asyncio::coro<> {
                const auto moment = now() + 1s;
                if (expires_first) limit.reschedule(moment);
                co_await asyncio::with(asyncio::task_group(), [](asyncio::task_group& tg) {
                    tg.create_task(fail_after(1s, "child"));
                    return asyncio::sleep(0s);
                });
            }));
        });
        if (!expires_first) {
            co_await support::turns(2);
            limit.reschedule(now() + 1s);
        }
        co_await parent;
        CHECK(shape(error) == "group[child]");
        CHECK(limit.expired());
        CHECK(parent.cancelling() == 0);
    }
}

ASYNC_TEST_CASE("many children end in one turn, and the group with them") {
    int sum = 0;
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
        for (int i = 0; i < 1000; ++i)
            tg.create_task(
                [](int n, int* total) -> asyncio::coro<> {
                    co_await asyncio::sleep(1s);
                    *total += n;
                },
                i, &sum);
    });
    CHECK(sum == 499500);
    CHECK(asyncio::all_tasks().size() == 1);
}

ASYNC_TEST_CASE("the group is destroyed before a cancelled child of it was noted") {
    // The end of a child is noted in the turn after it; nothing of the group may be left then.
    asyncio::task<> outside = asyncio::create_task(asyncio::sleep(1h));
    {
        asyncio::task_group unused;
        auto body = [&](asyncio::task_group& tg) -> asyncio::coro<> {
            tg.create_task(outside);
            outside.cancel();
            THROW(std::runtime_error("body"));
            co_return;
        };
        co_await error_of(asyncio::with(asyncio::task_group(), body));
    }
    CHECK(outside.cancelled());
    co_await support::turns(3);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("a group begins only in a task") {
    asyncio::task_group group;
    CHECK_THROWS_AS(static_cast<void>(group.aenter()), std::runtime_error);
}
#endif

} // TEST_SUITE

TEST_SUITE("task_group::cancel") {

ASYNC_TEST_CASE("cancel() ends the group without an error, from the body, a child or outside") {
    for (const int from : {0, 1, 2}) {
        CAPTURE(from);
        const auto begin = now();
        record child;
        record body;
        co_await asyncio::with(
            asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<> {
                tg.create_task(stoppable(child, 1s));
                if (from == 1)
                    tg.create_task([&]() -> asyncio::coro<> {
                        co_await asyncio::sleep(1s);
                        tg.cancel();
                    });
                if (from == 2) asyncio::get_running_loop().call_later(1s, [&] { tg.cancel(); });
                if (from == 0) {
                    co_await asyncio::sleep(1s);
                    tg.cancel();
                }
                co_await stoppable(body);
            });
        CHECK(child.cancelled == 1);
        CHECK(child.ended == 1);
        CHECK(body.cancelled == 1);
        CHECK(now() - begin == 2s);
        CHECK(asyncio::current_task().cancelling() == 0);
        co_await asyncio::sleep(1s);
    }
}

ASYNC_TEST_CASE("cancel() while the block ends cancels the children only") {
    record child;
    bool behind = false;
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
        tg.create_task(stoppable(child, 1s));
        asyncio::get_running_loop().call_later(1s, [&] { tg.cancel(); });
    });
    behind = true;
    CHECK(behind);
    CHECK(child.cancelled == 1);
    CHECK(asyncio::current_task().cancelling() == 0);
    co_await asyncio::sleep(1s);
}

ASYNC_TEST_CASE("cancel() in a body that never suspends leaves nothing behind") {
    record child;
    const int value = co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
        tg.create_task(stoppable(child));
        tg.cancel();
        tg.cancel(); // a second one changes nothing
        return 4;
    });
    CHECK(value == 4);
    CHECK(child.started == 0);
    co_await asyncio::with(asyncio::task_group(), [](asyncio::task_group& tg) { tg.cancel(); });
    CHECK(asyncio::current_task().cancelling() == 0);
    co_await asyncio::sleep(1s);
}

ASYNC_TEST_CASE("the value of a body that cancel() ends is an empty optional, or none") {
    const std::optional<int> none = co_await asyncio::with(
        asyncio::task_group(), [](asyncio::task_group& tg) -> asyncio::coro<std::optional<int>> {
            tg.cancel();
            co_await asyncio::sleep(1h);
            co_return 1;
        });
    CHECK_FALSE(none);
    const asyncio::exception_ptr error = co_await error_of(
        asyncio::with(asyncio::task_group(), [](asyncio::task_group& tg) -> asyncio::coro<int> {
            tg.cancel();
            co_await asyncio::sleep(1h);
            co_return 1;
        }));
    CHECK(support::holds<asyncio::invalid_state_error>(error));
}

ASYNC_TEST_CASE("errors that answer cancel() are thrown") {
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(asyncio::task_group(), [](asyncio::task_group& tg) {
            tg.create_task(fail_when_cancelled("child"));
            asyncio::get_running_loop().call_later(1s, [&] { tg.cancel(); });
            return fail_when_cancelled("body");
        }));
    CHECK(shape(error) == "group[child, body]");
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("a cancellation from outside goes on in spite of cancel()") {
    for (const bool outside_first : {true, false}) {
        CAPTURE(outside_first);
        record child;
        asyncio::task<> parent;
        parent = asyncio::create_task([&]() -> asyncio::coro<> {
            co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
                tg.create_task(stoppable(child, 1s));
                asyncio::get_running_loop().call_later(1s, [&] {
                    if (outside_first) parent.cancel();
                    tg.cancel();
                    if (!outside_first) parent.cancel();
                });
            });
        });
        const asyncio::exception_ptr error = co_await error_of(parent);
        CHECK(shape(error) == "cancelled");
        CHECK(child.cancelled == 1);
        CHECK(child.ended == 1);
        CHECK(parent.cancelling() == 1);
    }
}

ASYNC_TEST_CASE("a cancellation from outside while a cancelled group still waits goes on") {
    for (const bool in_body : {false, true}) {
        CAPTURE(in_body);
        const auto begin = now();
        record child;
        record body;
        asyncio::task<> parent = asyncio::create_task([&]() -> asyncio::coro<> {
            co_await asyncio::with(
                asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<> {
                    tg.create_task(stoppable(child, 3s));
                    asyncio::get_running_loop().call_later(1s, [&] { tg.cancel(); });
                    if (in_body) co_await stoppable(body);
                });
        });
        co_await asyncio::sleep(2s);
        parent.cancel("outside");
        const asyncio::exception_ptr error = co_await error_of(parent);
        CHECK(shape(error) == "cancelled");
        CHECK(parent.cancelling() == 1);
        CHECK(child.cancelled == 1);
        CHECK(child.ended == 1);
        CHECK(body.cancelled == (in_body ? 1 : 0));
        CHECK(now() - begin == 4s);
    }
}

ASYNC_TEST_CASE("a cancellation at the group's end does not hide the body's error") {
    record child;
    asyncio::exception_ptr error;
    asyncio::exception_ptr next;
    asyncio::task<> parent = asyncio::create_task([&]() -> asyncio::coro<> {
        error =
            co_await error_of(asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
                tg.create_task(stoppable(child, 2s));
                return fail_after(1s, "body");
            }));
        next = co_await error_of(asyncio::sleep(1h));
    });
    co_await asyncio::sleep(2s);
    parent.cancel();
    co_await parent;
    CHECK(shape(error) == "group[body]");
    CHECK(shape(next) == "cancelled");
    CHECK(child.cancelled == 1);
    CHECK(parent.cancelling() == 1);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("after cancel() the group takes no more tasks; outside its block it is an error") {
    bool ran = false;
    asyncio::task_group group;
    CHECK_THROWS_AS(group.cancel(), std::runtime_error);
    co_await asyncio::with(group, [&](asyncio::task_group& tg) {
        tg.cancel();
        CHECK_THROWS_AS(tg.create_task(mark(ran)), std::runtime_error);
    });
    CHECK_THROWS_AS(group.cancel(), std::runtime_error);
    co_await support::turns(2);
    CHECK_FALSE(ran);
}
#endif

} // TEST_SUITE

TEST_SUITE("gather") {

ASYNC_TEST_CASE("GA-01: results come in the order of the arguments, after the last one") {
    const auto begin = now();
    const std::array<int, 3> values =
        co_await asyncio::gather(after(2s, 1), after(1s, 2), after(3s, 3));
    CHECK(values == std::array<int, 3>{1, 2, 3});
    CHECK(now() - begin == 3s);
}

ASYNC_TEST_CASE("GA-02: a gather() of nothing is done at once") {
    auto nothing = asyncio::gather();
    CHECK(nothing.done());
    const std::tuple<> none = co_await nothing;
    CHECK(none == std::tuple<>());
    auto empty = asyncio::gather(std::vector<asyncio::task<int>>());
    CHECK(empty.done());
    CHECK(empty.result().empty());
    auto outcomes = asyncio::gather(asyncio::return_exceptions, std::vector<asyncio::task<>>());
    CHECK(outcomes.done());
    CHECK(outcomes.result().empty());
    co_await asyncio::gather(std::vector<asyncio::coro<>>());
}

ASYNC_TEST_CASE("GA-03: a task in several places is awaited once and gives its result to each") {
    int runs = 0;
    auto work = [&]() -> asyncio::coro<std::string> {
        ++runs;
        co_await asyncio::sleep(1s);
        co_return "text";
    };
    asyncio::task<std::string> t = asyncio::create_task(work);
    asyncio::future<std::string> other = asyncio::create_future<std::string>();
    other.set_result("other");
    const auto values = co_await asyncio::gather(t, other, t, t, other);
    CHECK(values == std::array<std::string, 5>{"text", "other", "text", "text", "other"});
    CHECK(runs == 1);
    const std::vector<asyncio::task<std::string>> twice = {t, t};
    const std::vector<std::string> again = co_await asyncio::gather(twice);
    CHECK(again == std::vector<std::string>{"text", "text"});
    asyncio::future<std::string> only = asyncio::create_future<std::string>();
    asyncio::get_running_loop().call_later(1s, [only] { only.set_result("moved"); });
    std::vector<asyncio::future<std::string>> dropped = {only, only};
    only = {};
    const auto copies = co_await asyncio::gather(std::move(dropped));
    CHECK(copies == std::vector<std::string>{"moved", "moved"});
}

ASYNC_TEST_CASE("GA-04: the first error ends the wait, and the other children run on") {
    const auto begin = now();
    asyncio::task<int> other = asyncio::create_task(after(3s, 7));
    auto all = asyncio::gather(other, fail_after(1s, "first"), fail_after(2s, "second"));
    const asyncio::exception_ptr error = co_await error_of(all);
    CHECK(shape(error) == "first");
    CHECK(now() - begin == 1s);
    CHECK_FALSE(other.done());
    CHECK(other.cancelling() == 0);
    const int value = co_await other;
    CHECK(value == 7);
    CHECK(shape(all.exception()) == "first");
}

ASYNC_TEST_CASE_ORDERED("GA-05: an error after the first is silently consumed") {
    const auto reports = support::collect_reports();
    {
        auto all = asyncio::gather(fail_after(1s, "first"), fail_after(2s, "second"));
        const asyncio::exception_ptr error = co_await error_of(all);
        CHECK(shape(error) == "first");
        co_await asyncio::sleep(5s);
    }
    CHECK(reports->empty());
    // Also when the future of the whole has gone by then.
    const asyncio::exception_ptr error = co_await error_of(
        asyncio::gather(fail_after(1s, "first"), fail_after(1s, "same"), fail_after(2s, "second")));
    CHECK(shape(error) == "first");
    co_await asyncio::sleep(5s);
    CHECK(reports->empty());
}

ASYNC_TEST_CASE("GA-06: with return_exceptions all are awaited, and errors are outcomes in place") {
    const auto begin = now();
    asyncio::task<int> cancelled = asyncio::create_task(after(1h, 0));
    asyncio::get_running_loop().call_later(1s, [&] { cancelled.cancel(); });
    const auto outcomes = co_await asyncio::gather(asyncio::return_exceptions, after(3s, 1),
                                                   fail_after(1s, "foo"), cancelled);
    static_assert(std::is_same_v<decltype(outcomes), const std::array<asyncio::outcome<int>, 3>>);
    CHECK(now() - begin == 3s);
    CHECK(outcomes[0].value() == 1);
    CHECK(std::string(outcomes[1].error().what()) == "foo");
    CHECK(outcomes[2].error().holds<asyncio::cancelled_error>());
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("GA-07: a child that somebody else cancels fails the gather with cancelled_error") {
    asyncio::task<int> victim = asyncio::create_task(after(1h, 0));
    asyncio::task<int> sibling = asyncio::create_task(after(3s, 2));
    asyncio::get_running_loop().call_later(1s, [&] { victim.cancel(); });
    auto all = asyncio::gather(victim, sibling);
    const asyncio::exception_ptr error = co_await error_of(all);
    CHECK(shape(error) == "cancelled");
    CHECK(all.done());
    CHECK_FALSE(all.cancelled());
    CHECK(shape(all.exception()) == "cancelled");
    CHECK(asyncio::current_task().cancelling() == 0);
    CHECK_FALSE(sibling.done());
    const int value = co_await sibling;
    CHECK(value == 2);
}

ASYNC_TEST_CASE("GA-08: cancelling the task that awaits cancels every unfinished child") {
    record children;
    asyncio::task<int> done = asyncio::create_task(after(0s, 1));
    co_await support::turns(3);
    asyncio::task<> waiter = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::gather(stoppable(children), done, stoppable(children));
    });
    co_await asyncio::sleep(1s);
    waiter.cancel();
    const asyncio::exception_ptr error = co_await error_of(waiter);
    CHECK(shape(error) == "cancelled");
    CHECK(children.cancelled == 2);
    CHECK(done.result() == 1);
    CHECK(waiter.cancelling() == 1);
}

ASYNC_TEST_CASE("GA-08: cancel() of the gather itself passes its message to every unfinished child") {
    for (const bool outcomes : {false, true}) {
        CAPTURE(outcomes);
        asyncio::task<int> done = asyncio::create_task(after(0s, 1));
        asyncio::task<int> first = asyncio::create_task(after(1h, 2));
        asyncio::task<int> second = asyncio::create_task(after(2h, 3));
        co_await support::turns(3);
        asyncio::exception_ptr error;
        const auto cancel = [&](const auto& all) -> asyncio::coro<> {
            CHECK(all.cancel("no time"));
            CHECK_FALSE(all.done());
            error = co_await error_of(all);
            CHECK_FALSE(all.cancelled()); // as in Python: it has failed with the cancellation
        };
        if (outcomes)
            co_await cancel(asyncio::gather(asyncio::return_exceptions, first, done, second));
        else co_await cancel(asyncio::gather(first, done, second));
        CHECK(shape(error) == "cancelled");
        CHECK(support::message_of(error) == "no time");
        CHECK(first.cancelling() == 1);
        CHECK(second.cancelling() == 1);
        CHECK_AWAIT_THROWS_WITH_AS(first, "no time", asyncio::cancelled_error);
        CHECK_AWAIT_THROWS_WITH_AS(second, "no time", asyncio::cancelled_error);
        CHECK(done.result() == 1);
        CHECK(asyncio::current_task().cancelling() == 0);
    }
}

ASYNC_TEST_CASE("GA-09: a cancelled gather with return_exceptions waits for all its children") {
    record quick;
    record slow;
    bool produced = false;
    asyncio::task<> waiter = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::gather(asyncio::return_exceptions, stoppable(quick),
                                 stoppable(slow, 50ms));
        produced = true;
    });
    co_await asyncio::sleep(1s);
    const auto begin = now();
    waiter.cancel();
    const asyncio::exception_ptr error = co_await error_of(waiter);
    CHECK(shape(error) == "cancelled");
    CHECK(now() - begin == 50ms);
    CHECK(slow.ended == 1);
    CHECK_FALSE(produced);
}

ASYNC_TEST_CASE("GA-09: the message of the cancellation arrives, whatever a child answers") {
    for (const bool last_gives_value : {false, true}) {
        CAPTURE(last_gives_value);
        asyncio::task<> waiter = asyncio::create_task([&]() -> asyncio::coro<> {
            if (last_gives_value)
                co_await asyncio::gather(asyncio::return_exceptions, stubborn(1s, 1));
            else co_await asyncio::gather(asyncio::return_exceptions, after(1h, 1));
        });
        co_await asyncio::sleep(1s);
        waiter.cancel("no time");
        CHECK_AWAIT_THROWS_WITH_AS(waiter, "no time", asyncio::cancelled_error);
        CHECK(waiter.cancelled());
    }
}

ASYNC_TEST_CASE_ORDERED("GA-10: a cancelled gather ends with the first child that has stopped") {
    record quick;
    record slow;
    asyncio::task<> waiter = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::gather(stoppable(quick), stoppable(slow, 50ms));
    });
    co_await asyncio::sleep(1s);
    const auto begin = now();
    waiter.cancel();
    const asyncio::exception_ptr error = co_await error_of(waiter);
    CHECK(shape(error) == "cancelled");
    CHECK(now() == begin);
    CHECK(quick.ended == 1);
    CHECK(slow.cancelled == 1);
    CHECK(slow.ended == 0);
    co_await asyncio::sleep(50ms);
    CHECK(slow.ended == 1);
}

ASYNC_TEST_CASE("GA-11: a cancelled gather is cancelled even when all its children ignore it") {
    for (const bool outcomes : {false, true}) {
        CAPTURE(outcomes);
        bool produced = false;
        asyncio::task<> waiter = asyncio::create_task([&]() -> asyncio::coro<> {
            if (outcomes)
                co_await asyncio::gather(asyncio::return_exceptions, stubborn(1s, 1),
                                         stubborn(2s, 2));
            else co_await asyncio::gather(stubborn(1s, 1), stubborn(2s, 2));
            produced = true;
        });
        co_await asyncio::sleep(1s);
        const auto begin = now();
        waiter.cancel();
        const asyncio::exception_ptr error = co_await error_of(waiter);
        CHECK(shape(error) == "cancelled");
        CHECK(now() - begin == 2s);
        CHECK_FALSE(produced);
    }
}

ASYNC_TEST_CASE("GA-12: cancel() is refused once all children are done, and the results come") {
    asyncio::future<int> a = asyncio::create_future<int>();
    asyncio::future<int> b = asyncio::create_future<int>();
    auto all = asyncio::gather(a, b);
    a.set_result(1);
    b.set_result(2);
    CHECK_FALSE(all.done());
    CHECK_FALSE(all.cancel());
    const std::array<int, 2> values = co_await all;
    CHECK(values == std::array<int, 2>{1, 2});
}

ASYNC_TEST_CASE("a gather() of what is done already is done at once") {
    asyncio::future<int> value = asyncio::create_future<int>();
    value.set_result(1);
    asyncio::future<int> failed = asyncio::create_future<int>();
    failed.set_exception(std::runtime_error("foo"));
    asyncio::future<int> pending = asyncio::create_future<int>();

    auto all = asyncio::gather(value, value);
    REQUIRE(all.done());
    CHECK(all.result() == std::array<int, 2>{1, 1});
    auto outcomes = asyncio::gather(
        asyncio::return_exceptions, std::vector<asyncio::future<int>>{value, failed});
    REQUIRE(outcomes.done());
    CHECK(outcomes.result().at(0).value() == 1);
    CHECK(shape(outcomes.result().at(1).error().exception()) == "foo");
    // One that has failed is enough.
    auto not_all = asyncio::gather(pending, failed);
    REQUIRE(not_all.done());
    CHECK(shape(not_all.exception()) == "foo");
    auto waiting = asyncio::gather(value, pending);
    CHECK_FALSE(waiting.done());
    pending.set_result(2);
    const std::array<int, 2> values = co_await waiting;
    CHECK(values == std::array<int, 2>{1, 2});
}

ASYNC_TEST_CASE("GA-13: cancel() of a gather that has failed is refused, and the siblings run on") {
    record sibling;
    asyncio::task<int> running = asyncio::create_task(stoppable(sibling));
    auto all = asyncio::gather(running, fail_after(1s, "foo"));
    const asyncio::exception_ptr error = co_await error_of(all);
    CHECK(shape(error) == "foo");
    CHECK_FALSE(all.cancel());
    co_await asyncio::sleep(1s);
    CHECK(sibling.cancelled == 0);
    CHECK_FALSE(running.done());
    running.cancel();
    co_await error_of(running);
}

ASYNC_TEST_CASE("results of different types make a tuple, and void is std::monostate") {
    auto owned = []() -> asyncio::coro<std::unique_ptr<int>> {
        co_await asyncio::sleep(1s);
        co_return std::make_unique<int>(3);
    };
    auto all = asyncio::gather(after(1s, 1), asyncio::sleep(2s), owned,
                               asyncio::sleep(1s, std::string("text")));
    using result = std::tuple<int, std::monostate, std::unique_ptr<int>, std::string>;
    static_assert(std::is_same_v<decltype(all), asyncio::future<result>>);
    result values = co_await std::move(all);
    CHECK(std::get<0>(values) == 1);
    CHECK(*std::get<2>(values) == 3);
    CHECK(std::get<3>(values) == "text");

    auto nothings = asyncio::gather(asyncio::sleep(1s), asyncio::sleep(1s));
    static_assert(
        std::is_same_v<decltype(nothings), asyncio::future<std::array<std::monostate, 2>>>);
    co_await nothings;

    auto outcomes = asyncio::gather(asyncio::return_exceptions, fail_after(1s, "foo"),
                                    asyncio::sleep(1s), owned);
    static_assert(
        std::is_same_v<decltype(outcomes),
                       asyncio::future<std::tuple<asyncio::outcome<int>, asyncio::outcome<void>,
                                                  asyncio::outcome<std::unique_ptr<int>>>>>);
    auto mixed = co_await std::move(outcomes);
    CHECK_FALSE(std::get<0>(mixed).has_value());
    CHECK(std::get<1>(mixed).has_value());
    CHECK(**std::get<2>(mixed) == 3);
}

ASYNC_TEST_CASE("a view may make coroutines, and the tasks that it shows stay where they are") {
    auto works = std::views::iota(0, 3) |
                 std::views::transform([](int i) { return after(1s, i); });
    const std::vector<int> made = co_await asyncio::gather(works);
    CHECK(made == std::vector<int>{0, 1, 2});
    auto completed = asyncio::as_completed(works);
    int sum = 0;
    while (const auto t = co_await completed.next()) sum += t->result();
    CHECK(sum == 3);

    std::vector<asyncio::task<int>> tasks;
    for (int i = 0; i < 3; ++i) tasks.push_back(asyncio::create_task(after(1s, i)));
    const std::vector<int> two = co_await asyncio::gather(tasks | std::views::take(2));
    CHECK(two == std::vector<int>{0, 1});
    const std::vector<int> all = co_await asyncio::gather(std::span(tasks));
    CHECK(all == std::vector<int>{0, 1, 2});
    for (const asyncio::task<int>& t : tasks) CHECK(t.valid());

    std::vector<asyncio::coro<int>> coroutines;
    for (int i = 0; i < 3; ++i) coroutines.push_back(after(1s, i));
    const std::vector<int> moved = co_await asyncio::gather(coroutines | std::views::reverse);
    CHECK(moved == std::vector<int>{2, 1, 0});
}

ASYNC_TEST_CASE("a range gives a vector, and a range of void nothing") {
    std::vector<asyncio::coro<int>> works;
    for (int i = 0; i < 5; ++i) works.push_back(after(asyncio::duration(5s - i * 1s), i));
    auto all = asyncio::gather(std::move(works));
    static_assert(std::is_same_v<decltype(all), asyncio::future<std::vector<int>>>);
    const std::vector<int> values = co_await all;
    CHECK(values == std::vector<int>{0, 1, 2, 3, 4});

    std::list<asyncio::task<>> tasks;
    for (int i = 0; i < 3; ++i) tasks.push_back(asyncio::create_task(asyncio::sleep(1s)));
    auto nothing = asyncio::gather(tasks);
    static_assert(std::is_same_v<decltype(nothing), asyncio::future<void>>);
    co_await nothing;
    for (const asyncio::task<>& t : tasks) CHECK(t.done());

    std::vector<asyncio::coro<>> failing;
    failing.push_back([]() -> asyncio::coro<> { co_return; }());
    failing.push_back([]() -> asyncio::coro<> {
        co_await asyncio::sleep(1s);
        THROW(std::runtime_error("foo"));
    }());
    const auto outcomes = co_await asyncio::gather(asyncio::return_exceptions, std::move(failing));
    static_assert(std::is_same_v<decltype(outcomes), const std::vector<asyncio::outcome<void>>>);
    REQUIRE(outcomes.size() == 2);
    CHECK(outcomes[0].has_value());
    CHECK(std::string(outcomes[1].error().what()) == "foo");
}

ASYNC_TEST_CASE("values that can only move leave futures that nobody else holds") {
    auto make = [](int n) -> asyncio::coro<std::unique_ptr<int>> {
        co_await asyncio::sleep(1s);
        co_return std::make_unique<int>(n);
    };
    std::vector<asyncio::coro<std::unique_ptr<int>>> works;
    works.push_back(make(1));
    works.push_back(make(2));
    const auto values = co_await asyncio::gather(std::move(works));
    CHECK(*values[0] + *values[1] == 3);

    asyncio::task<std::unique_ptr<int>> given = asyncio::create_task(make(5));
    const auto pair = co_await asyncio::gather(std::move(given), make(6));
    CHECK(*pair[0] == 5);

#if !defined(ASYNCIO_NO_EXCEPTIONS)
    // Somebody else could still ask for the value.
    asyncio::task<std::unique_ptr<int>> kept = asyncio::create_task(make(7));
    const asyncio::exception_ptr error = co_await error_of(asyncio::gather(kept));
    CHECK(support::holds<asyncio::invalid_state_error>(error));
    CHECK(*kept.result() == 7);
#endif
}

ASYNC_TEST_CASE("errors that would have been outcomes of a gather() that is dropped are not reported") {
    const auto reports = support::collect_reports();
    {
        const auto dropped = asyncio::gather(asyncio::return_exceptions, fail_after(1s, "first"),
                                             fail_after(2s, "second"));
    }
    co_await asyncio::sleep(5s);
    CHECK(reports->empty());
    { const auto dropped = asyncio::gather(fail_after(1s, "first")); }
    co_await asyncio::sleep(5s);
    CHECK(reports->size() == 1);
}

ASYNC_TEST_CASE("gather() starts what it is given at once, awaited or not") {
    bool ran = false;
    auto all = asyncio::gather(mark(ran));
    co_await support::turns(2);
    CHECK(ran);
    co_await all;
}

ASYNC_TEST_CASE("a gather that is dropped before it is done hides no error") {
    const auto reports = support::collect_reports();
    static_cast<void>(asyncio::gather(fail_after(1s, "lost"), after(1s, 1)));
    co_await asyncio::sleep(2s);
    REQUIRE(reports->size() == 1);
    CHECK(support::message_of(reports->at(0).exception) == "lost");
}

TEST_CASE("gather() and shield() of tasks need no running loop") {
    asyncio::event_loop loop({.clock = asyncio::clock_kind::virtual_time});
    const auto a = loop.create_task(after(1s, 1));
    const auto b = loop.create_task(after(2s, 2));
    CHECK(loop.run_until_complete(asyncio::gather(a, b)) == std::array<int, 2>{1, 2});
    const std::vector<asyncio::task<int>> some = {loop.create_task(after(1s, 3)), a};
    CHECK(loop.run_until_complete(asyncio::gather(some)) == std::vector<int>{3, 1});
    const auto c = loop.create_task(after(1s, 4));
    CHECK(loop.run_until_complete(asyncio::shield(c)) == 4);
    // A coroutine beside them is for the same loop.
    const auto mixed = asyncio::gather(after(1s, 5), loop.create_task(after(1s, 6)));
    CHECK(loop.run_until_complete(mixed) == std::array<int, 2>{5, 6});
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    CHECK_THROWS_AS(asyncio::gather(after(1s, 7)), std::runtime_error);
    CHECK_THROWS_AS(asyncio::shield(after(1s, 7)), std::runtime_error);
    const auto left = loop.create_future<int>();
    loop.close();
    CHECK_THROWS_WITH_AS(asyncio::gather(left), doctest::Contains("no running event loop"),
                         std::runtime_error);
#endif
}

ASYNC_TEST_CASE("gather() of gathers nests") {
    const auto nested = co_await asyncio::gather(asyncio::gather(after(1s, 1), after(2s, 2)),
                                                 asyncio::gather(after(1s, 3), after(1s, 4)));
    CHECK(nested == std::array<std::array<int, 2>, 2>{{{1, 2}, {3, 4}}});
    record children;
    asyncio::task<> waiter = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::gather(asyncio::gather(stoppable(children), stoppable(children)),
                                 stoppable(children));
    });
    co_await asyncio::sleep(1s);
    waiter.cancel();
    const asyncio::exception_ptr error = co_await error_of(waiter);
    CHECK(shape(error) == "cancelled");
    co_await support::turns(2);
    CHECK(children.cancelled == 3);
}

ASYNC_TEST_CASE("a child's failure and a cancellation of the gather in one turn") {
    for (const bool cancel_first : {true, false}) {
        CAPTURE(cancel_first);
        asyncio::future<int> f = asyncio::create_future<int>();
        record other;
        asyncio::task<> waiter = asyncio::create_task(
            [&]() -> asyncio::coro<> { co_await asyncio::gather(f, stoppable(other)); });
        co_await asyncio::sleep(1s);
        if (cancel_first) waiter.cancel();
        if (!f.done()) f.set_exception(std::runtime_error("foo"));
        if (!cancel_first) waiter.cancel();
        const asyncio::exception_ptr error = co_await error_of(waiter);
        CHECK(shape(error) == (cancel_first ? "cancelled" : "foo"));
        CHECK(other.cancelled == 1);
    }
}

} // TEST_SUITE

TEST_SUITE("shield") {

ASYNC_TEST_CASE("SH-01: cancelling the shield does not cancel what it protects") {
    asyncio::task<int> inner = asyncio::create_task(after(2s, 5));
    asyncio::future<int> outer = asyncio::shield(inner);
    asyncio::get_running_loop().call_later(1s, [&] { outer.cancel(); });
    const asyncio::exception_ptr error = co_await error_of(outer);
    CHECK(shape(error) == "cancelled");
    CHECK(outer.cancelled());
    CHECK_FALSE(inner.done());
    CHECK(inner.cancelling() == 0);
    const int value = co_await inner;
    CHECK(value == 5);
}

ASYNC_TEST_CASE("SH-02: the shield has the value or the error of what it protects") {
    const int value = co_await asyncio::shield(after(1s, 3));
    CHECK(value == 3);
    asyncio::task<int> failing = asyncio::create_task(fail_after(1s, "foo"));
    asyncio::future<int> outer = asyncio::shield(failing);
    const asyncio::exception_ptr error = co_await error_of(outer);
    CHECK(shape(error) == "foo");
    CHECK(outer.exception() == failing.exception()); // the very same object
    const std::unique_ptr<int> owned =
        co_await asyncio::shield([]() -> asyncio::coro<std::unique_ptr<int>> {
            co_await asyncio::sleep(1s);
            co_return std::make_unique<int>(2);
        });
    CHECK(*owned == 2);
    co_await asyncio::shield(asyncio::sleep(1s));
}

ASYNC_TEST_CASE("SH-03: when the protected task is cancelled, so is the shield") {
    asyncio::task<int> inner = asyncio::create_task(after(1h, 0));
    asyncio::future<int> outer = asyncio::shield(inner);
    asyncio::get_running_loop().call_later(1s, [&] { inner.cancel(); });
    const asyncio::exception_ptr error = co_await error_of(outer);
    CHECK(shape(error) == "cancelled");
    CHECK(outer.cancelled());
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("SH-04: the shield of a finished future is that future") {
    asyncio::future<int> f = asyncio::create_future<int>();
    f.set_result(1);
    const asyncio::future<int> same = asyncio::shield(f);
    CHECK(same == f);
    asyncio::task<int> t = asyncio::create_task(after(0s, 2));
    co_await t;
    const asyncio::future<int> of_task = asyncio::shield(t);
    CHECK(of_task == t);
}

ASYNC_TEST_CASE("SH-05: an error that comes after the shield was cancelled is reported once") {
    const auto reports = support::collect_reports();
    for (const std::string end : {"error", "value", "cancelled"}) {
        CAPTURE(end);
        reports->clear();
        asyncio::task<int> inner;
        if (end == "error")
            inner = asyncio::create_task(fail_after(2s, "foo"), {.name = "shielded"});
        else inner = asyncio::create_task(after(2s, 1));
        asyncio::future<int> outer = asyncio::shield(inner);
        co_await asyncio::sleep(1s);
        outer.cancel();
        if (end == "cancelled") inner.cancel();
        outer = {};
        inner = {};
        co_await asyncio::sleep(2s);
        if (end == "error") {
            REQUIRE(reports->size() == 1);
            CHECK(support::message_of(reports->at(0).exception) == "foo");
            CHECK(reports->at(0).task == "shielded");
        } else {
            CHECK(reports->empty());
        }
    }
    // The cancellation comes between the end of the inner and the end of the shield.
    reports->clear();
    asyncio::future<int> f = asyncio::create_future<int>();
    asyncio::future<int> outer = asyncio::shield(f);
    f.set_exception(std::runtime_error("bar"));
    CHECK(outer.cancel());
    co_await support::turns(2);
    f = {};
    REQUIRE(reports->size() == 1);
    CHECK(support::message_of(reports->at(0).exception) == "bar");
}

ASYNC_TEST_CASE("SH-06: a shielded coroutine runs to its end when its awaiter is cancelled") {
    bool ended = false;
    asyncio::task<> waiter = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::shield([](bool* end) -> asyncio::coro<> {
            co_await asyncio::sleep(2s);
            *end = true;
        }(&ended));
    });
    co_await asyncio::sleep(1s);
    waiter.cancel();
    const asyncio::exception_ptr error = co_await error_of(waiter);
    CHECK(shape(error) == "cancelled");
    CHECK_FALSE(ended);
    co_await asyncio::sleep(1s);
    co_await support::turns(1);
    CHECK(ended);
}

ASYNC_TEST_CASE("a shield that is dropped hides no error and changes nothing for the inner task") {
    const auto reports = support::collect_reports();
    static_cast<void>(asyncio::shield(fail_after(1s, "foo")));
    asyncio::task<int> inner = asyncio::create_task(after(1s, 1));
    static_cast<void>(asyncio::shield(inner));
    co_await asyncio::sleep(2s);
    CHECK(inner.result() == 1);
    REQUIRE(reports->size() == 1);
    CHECK(support::message_of(reports->at(0).exception) == "foo");
}

ASYNC_TEST_CASE("a cancellation in the turn of the shielded result is thrown; the result stays") {
    asyncio::task<int> inner = asyncio::create_task(after(1s, 4));
    asyncio::task<> waiter =
        asyncio::create_task([&]() -> asyncio::coro<> { co_await asyncio::shield(inner); });
    inner.add_done_callback([&] { waiter.cancel(); });
    const asyncio::exception_ptr error = co_await error_of(waiter);
    CHECK(shape(error) == "cancelled");
    CHECK(inner.result() == 4);
}

} // TEST_SUITE

TEST_SUITE("wait") {

ASYNC_TEST_CASE("WT-01: wait() for all gives all as done and throws no error of theirs") {
    const auto begin = now();
    asyncio::task<int> a = asyncio::create_task(after(2s, 1));
    asyncio::task<int> b = asyncio::create_task(fail_after(1s, "foo"));
    const auto result = co_await asyncio::wait(these(a, b));
    CHECK(result.done == these(a, b)); // in the order of the arguments
    CHECK(result.pending.empty());
    CHECK(now() - begin == 2s);
    CHECK(shape(b.exception()) == "foo");
}

ASYNC_TEST_CASE("WT-02: a timeout that passes throws nothing and cancels nothing") {
    const auto begin = now();
    asyncio::task<int> a = asyncio::create_task(after(3s, 1));
    asyncio::task<int> b = asyncio::create_task(after(1s, 2));
    const auto result = co_await asyncio::wait(these(a, b), {.timeout = 2s});
    CHECK(result.done == these(b));
    CHECK(result.pending == these(a));
    CHECK(now() - begin == 2s);
    CHECK(a.cancelling() == 0);
    const int value = co_await a;
    CHECK(value == 1);
    const auto none = co_await asyncio::wait(these(a), {.timeout = 0s});
    CHECK(none.done.size() == 1);
    CHECK(asyncio::get_running_loop().metrics().timers == 0);
    asyncio::task<int> c = asyncio::create_task(after(1s, 2));
    const auto at_once = co_await asyncio::wait(these(c), {.timeout = -1s});
    CHECK(at_once.pending == these(c));
    CHECK(now() - begin == 3s);
    co_await c;
}

ASYNC_TEST_CASE("WT-03: first_completed gives everything that is done when the waiter resumes") {
    asyncio::task<int> a = asyncio::create_task(after(1s, 1));
    asyncio::task<int> b = asyncio::create_task(after(1h, 2));
    asyncio::task<int> c = asyncio::create_task(after(1s, 3));
    const auto result = co_await asyncio::wait(
        these(a, b, c), {.return_when = asyncio::return_when::first_completed});
    CHECK(result.done == these(a, c));
    CHECK(result.pending == these(b));
    // What is done before the call counts.
    const auto again =
        co_await asyncio::wait(these(b, c), {.return_when = asyncio::return_when::first_completed});
    CHECK(again.done == these(c));
    // A cancelled one is done.
    b.cancel();
    asyncio::task<int> d = asyncio::create_task(after(1h, 2));
    const auto stopped =
        co_await asyncio::wait(these(b, d), {.return_when = asyncio::return_when::first_completed});
    CHECK(stopped.done == these(b));
}

ASYNC_TEST_CASE("WT-04: first_exception returns with the first error, or with the last end") {
    const auto begin = now();
    asyncio::task<int> a = asyncio::create_task(after(1s, 1));
    asyncio::task<int> b = asyncio::create_task(fail_after(2s, "foo"));
    asyncio::task<int> c = asyncio::create_task(after(3s, 3));
    const auto failed = co_await asyncio::wait(
        these(a, b, c), {.return_when = asyncio::return_when::first_exception});
    CHECK(now() - begin == 2s);
    CHECK(failed.done == these(a, b));
    CHECK(failed.pending == these(c));
    const auto fine =
        co_await asyncio::wait(these(a, c), {.return_when = asyncio::return_when::first_exception});
    CHECK(now() - begin == 3s);
    CHECK(fine.done == these(a, c));
    asyncio::task<int> d = asyncio::create_task(after(1h, 2));
    const auto before =
        co_await asyncio::wait(these(d, b), {.return_when = asyncio::return_when::first_exception});
    CHECK(before.done == these(b));
    CHECK(shape(b.exception()) == "foo");
}

ASYNC_TEST_CASE("WT-05: for first_exception a cancelled task is no error") {
    const auto begin = now();
    asyncio::task<int> a = asyncio::create_task(after(1h, 1));
    asyncio::task<int> b = asyncio::create_task(after(2s, 2));
    asyncio::get_running_loop().call_later(1s, [&] { a.cancel(); });
    const auto result =
        co_await asyncio::wait(these(a, b), {.return_when = asyncio::return_when::first_exception});
    CHECK(now() - begin == 2s);
    CHECK(result.done == these(a, b));
    asyncio::task<int> c = asyncio::create_task(after(1s, 3));
    const auto again =
        co_await asyncio::wait(these(a, c), {.return_when = asyncio::return_when::first_exception});
    CHECK(again.done == these(a, c));
}

ASYNC_TEST_CASE("WT-06: cancelling the task that waits cancels none of those that it waits for") {
    asyncio::task<int> a = asyncio::create_task(after(2s, 1));
    asyncio::task<int> b = asyncio::create_task(after(2s, 2));
    asyncio::task<> waiter = asyncio::create_task(
        [&]() -> asyncio::coro<> { co_await asyncio::wait(these(a, b), {.timeout = 1h}); });
    co_await asyncio::sleep(1s);
    waiter.cancel();
    const asyncio::exception_ptr error = co_await error_of(waiter);
    CHECK(shape(error) == "cancelled");
    CHECK(a.cancelling() == 0);
    CHECK(b.cancelling() == 0);
    CHECK(asyncio::get_running_loop().metrics().timers == 2); // theirs; not the wait's
    const std::array<int, 2> values = co_await asyncio::gather(a, b);
    CHECK(values == std::array<int, 2>{1, 2});
}

template <class T>
concept can_wait_for = requires(T&& t) {
    asyncio::wait(std::forward<T>(t));
};

ASYNC_TEST_CASE_ORDERED("wait() for what is done already lets the others run, too") {
    const asyncio::task<int> done = asyncio::create_task(after(0s, 1));
    co_await done;
    bool over = false;
    asyncio::get_running_loop().call_soon([&over] { over = true; });
    int asked = 0;
    while (!over && asked < 10) {
        const auto result = co_await asyncio::wait(
            these(done), {.return_when = asyncio::return_when::first_completed});
        CHECK(result.done.size() == 1);
        ++asked;
    }
    CHECK(asked == 1);
    asyncio::any_task self = asyncio::current_task();
    self.cancel();
    const asyncio::exception_ptr error = co_await error_of(asyncio::wait(done));
    CHECK(shape(error) == "cancelled");
    self.uncancel();
}

ASYNC_TEST_CASE("WT-07: wait() needs something to wait for, and takes tasks and futures only") {
    asyncio::task<int> t = asyncio::create_task(after(1s, 1));
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    CHECK_AWAIT_THROWS_AS(asyncio::wait(std::vector<asyncio::task<int>>()), std::invalid_argument);
    const asyncio::wait_options unknown = {.return_when = static_cast<asyncio::return_when>(9)};
    CHECK_AWAIT_THROWS_AS(asyncio::wait(these(t), unknown), std::invalid_argument);
    CHECK_AWAIT_THROWS_AS(asyncio::wait(t, unknown), std::invalid_argument);
#endif
    static_assert(can_wait_for<std::vector<asyncio::task<int>>&>);
    static_assert(can_wait_for<asyncio::future<int>&>);
    static_assert(!can_wait_for<std::vector<asyncio::coro<int>>>);
    static_assert(!can_wait_for<int>);
    co_await t;
}

ASYNC_TEST_CASE("wait() takes a pack of handles, with and without options") {
    const asyncio::return_when first = asyncio::return_when::first_completed;
    asyncio::task<int> a = asyncio::create_task(after(1s, 1));
    asyncio::task<int> b = asyncio::create_task(after(2s, 2));
    asyncio::task<int> c = asyncio::create_task(after(3s, 3));
    asyncio::task<int> d = asyncio::create_task(after(4s, 4));
    const auto begin = now();
    const auto four = co_await asyncio::wait(d, c, b, a, {.return_when = first});
    CHECK(four.done == these(a));
    CHECK(four.pending == these(d, c, b));
    const auto three = co_await asyncio::wait(b, c, d, {.timeout = 500ms, .return_when = first});
    CHECK(three.done.empty());
    CHECK(three.pending.size() == 3);
    CHECK(now() - begin == 1500ms);
    const auto two = co_await asyncio::wait(c, d, {.timeout = 500ms});
    CHECK(two.pending.size() == 2);
    const auto one = co_await asyncio::wait(c, {.timeout = 2s});
    CHECK(one.done == these(c));
    CHECK(now() - begin == 3s);
    const auto all = co_await asyncio::wait(a, b, c, d);
    CHECK(all.done == these(a, b, c, d));
    CHECK(now() - begin == 4s);
}

ASYNC_TEST_CASE("handles of different types are given as any_task, or as futures") {
    asyncio::task<int> number = asyncio::create_task(after(1s, 1));
    asyncio::task<> nothing = asyncio::create_task(asyncio::sleep(2s));
    const auto mixed = co_await asyncio::wait(number, nothing);
    static_assert(std::is_same_v<decltype(mixed), const asyncio::wait_result<asyncio::any_task>>);
    CHECK(mixed.done.at(0) == number);
    CHECK(mixed.done.at(1) == nothing);
    asyncio::future<int> f = asyncio::create_future<int>();
    f.set_result(2);
    const auto futures = co_await asyncio::wait(number, f);
    static_assert(
        std::is_same_v<decltype(futures), const asyncio::wait_result<asyncio::future<int>>>);
    CHECK(futures.done.at(0).result() + futures.done.at(1).result() == 3);
    const std::vector<asyncio::any_task> any = {number, nothing};
    const auto of_range = co_await asyncio::wait(any);
    CHECK(of_range.done.size() == 2);
    std::list<asyncio::future<int>> list = {f};
    const auto of_list = co_await asyncio::wait(list);
    CHECK(of_list.done.size() == 1);
}

ASYNC_TEST_CASE("wait() gives a handle that it got twice once") {
    asyncio::task<int> a = asyncio::create_task(after(1s, 1));
    asyncio::task<int> b = asyncio::create_task(after(2s, 1));
    const auto result = co_await asyncio::wait(
        these(a, b, a, b), {.return_when = asyncio::return_when::first_completed});
    CHECK(result.done == these(a));
    CHECK(result.pending == these(b));
    const auto pack = co_await asyncio::wait(b, a, b);
    CHECK(pack.done == these(b, a));
}

ASYNC_TEST_CASE_ORDERED(
    "an end in the turn of the timeout counts if it comes before the waiter resumes") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    for (const bool end_first : {true, false}) {
        CAPTURE(end_first);
        asyncio::future<int> f = asyncio::create_future<int>();
        const auto moment = now() + 1s;
        const auto give = [f] { f.set_result(1); };
        if (end_first) loop.call_at(moment, give);
        auto give_later = [&]() -> asyncio::coro<> {
            loop.call_at(moment, give);
            co_return;
        };
        if (!end_first) asyncio::create_task(give_later);
        const auto result = co_await asyncio::wait(f, {.timeout = 1s});
        CHECK(now() == moment);
        CHECK(result.done.size() == (end_first ? 1U : 0U));
        CHECK(result.pending.size() == (end_first ? 0U : 1U));
        co_await asyncio::sleep(1s);
        CHECK(f.result() == 1);
    }
}

ASYNC_TEST_CASE("an end and a cancellation of the waiter in one turn") {
    asyncio::future<int> f = asyncio::create_future<int>();
    asyncio::task<> waiter =
        asyncio::create_task([&]() -> asyncio::coro<> { co_await asyncio::wait(f); });
    co_await support::turns(2);
    f.set_result(1);
    waiter.cancel();
    const asyncio::exception_ptr error = co_await error_of(waiter);
    CHECK(shape(error) == "cancelled");
    CHECK(f.result() == 1);
}

} // TEST_SUITE

TEST_SUITE("as_completed") {

ASYNC_TEST_CASE("AC-01: as_completed() gives each in the order of their ends") {
    const auto begin = now();
    std::vector<int> order;
    auto ends = asyncio::as_completed(after(3s, 3), after(1s, 1), after(2s, 2));
    for (int i = 1; i <= 3; ++i) {
        auto next = co_await ends.next();
        REQUIRE(next);
        order.push_back(next->result());
        CHECK(now() - begin == asyncio::duration(i * 1s));
    }
    const auto none = co_await ends.next();
    CHECK_FALSE(none);
    CHECK(order == std::vector<int>{1, 2, 3});
}

ASYNC_TEST_CASE("AC-02: the tasks that were given are yielded, and for coroutines new ones") {
    asyncio::task<int> slow = asyncio::create_task(after(2s, 1));
    asyncio::task<int> quick = asyncio::create_task(after(1s, 2));
    auto ends = asyncio::as_completed(these(slow, quick));
    const auto first = co_await ends.next();
    REQUIRE(first);
    static_assert(std::is_same_v<decltype(first), const std::optional<asyncio::task<int>>>);
    CHECK(*first == quick);
    CHECK(first->done());
    const auto second = co_await ends.next();
    REQUIRE(second);
    CHECK(*second == slow);
    CHECK(second->done());

    std::vector<asyncio::coro<int>> works;
    works.push_back(after(1s, 7));
    auto made = asyncio::as_completed(std::move(works));
    const auto only = co_await made.next();
    REQUIRE(only);
    static_assert(std::is_same_v<decltype(only), const std::optional<asyncio::task<int>>>);
    CHECK(only->result() == 7);

    auto mixed = asyncio::as_completed(after(2s, 1), asyncio::sleep(1s));
    const auto any = co_await mixed.next();
    static_assert(std::is_same_v<decltype(any), const std::optional<asyncio::any_task>>);
    CHECK(any->done());
    co_await mixed.next();
}

ASYNC_TEST_CASE("as_completed() yields an any_task as it was given, too") {
    const asyncio::any_task slow = asyncio::create_task(after(2s, 1));
    const asyncio::any_task quick = asyncio::create_task(asyncio::sleep(1s));
    auto given = asyncio::as_completed(these(slow, quick));
    const auto first = co_await given.next();
    REQUIRE(first);
    CHECK(*first == quick);
    const auto last = co_await given.next();
    REQUIRE(last);
    CHECK(*last == slow);
}

ASYNC_TEST_CASE("AC-03: a timeout gives what was done, then timeout_error, and cancels nothing") {
    asyncio::task<int> quick = asyncio::create_task(after(1s, 1));
    asyncio::task<int> slow = asyncio::create_task(after(3s, 2));
    auto ends = asyncio::as_completed(these(slow, quick), {.timeout = 2s});
    const auto begin = now();
    const auto first = co_await ends.next();
    REQUIRE(first);
    CHECK(*first == quick);
    const asyncio::exception_ptr error = co_await error_of(ends.next());
    CHECK(shape(error) == "timeout");
    CHECK(now() - begin == 2s);
    CHECK_FALSE(slow.done());
    CHECK(slow.cancelling() == 0);
    const int value = co_await slow;
    CHECK(value == 2);
}

ASYNC_TEST_CASE_ORDERED("a timeout of zero gives what was done, then lets the others run") {
    asyncio::task<int> done = asyncio::create_task(after(0s, 1));
    co_await done;
    const asyncio::task<int> slow = asyncio::create_task(after(1s, 2));
    bool ran = false;
    asyncio::get_running_loop().call_soon([&ran] { ran = true; });
    auto ends = asyncio::as_completed(these(slow, done), {.timeout = 0s});
    const auto first = co_await ends.next();
    REQUIRE(first);
    CHECK(*first == done);
    CHECK_FALSE(ran);
    asyncio::any_task self = asyncio::current_task();
    self.cancel();
    const asyncio::exception_ptr cancelled = co_await error_of(ends.next());
    CHECK(shape(cancelled) == "cancelled");
    self.uncancel();
    const asyncio::exception_ptr late = co_await error_of(ends.next());
    CHECK(shape(late) == "timeout");
    CHECK(ran);
    co_await slow;
}

ASYNC_TEST_CASE("AC-04: after the timeout each task that is missing is one timeout_error") {
    auto ends = asyncio::as_completed(these(asyncio::create_task(after(2s, 1)),
                                            asyncio::create_task(after(3s, 2)),
                                            asyncio::create_task(after(4s, 3))),
                                      {.timeout = 1s});
    for (int i = 0; i < 3; ++i) {
        CAPTURE(i);
        const asyncio::exception_ptr error = co_await error_of(ends.next());
        CHECK(shape(error) == "timeout");
    }
    const auto none = co_await ends.next();
    CHECK_FALSE(none);
}

ASYNC_TEST_CASE("AC-05: failed and cancelled tasks are yielded; next() throws nothing of theirs") {
    asyncio::task<int> failing = asyncio::create_task(fail_after(1s, "foo"));
    asyncio::task<int> cancelled = asyncio::create_task(after(1h, 0));
    asyncio::get_running_loop().call_later(2s, [&] { cancelled.cancel(); });
    auto ends = asyncio::as_completed(these(cancelled, failing));
    const auto first = co_await ends.next();
    REQUIRE(first);
    CHECK(*first == failing);
    const asyncio::exception_ptr error = co_await error_of(*first);
    CHECK(shape(error) == "foo");
    const auto second = co_await ends.next();
    REQUIRE(second);
    CHECK(*second == cancelled);
    const asyncio::exception_ptr stopped = co_await error_of(*second);
    CHECK(shape(stopped) == "cancelled");
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("AC-06: a task that is given twice is yielded once") {
    asyncio::task<int> a = asyncio::create_task(after(1s, 1));
    asyncio::task<int> b = asyncio::create_task(after(2s, 2));
    auto ends = asyncio::as_completed(these(a, b, a, a));
    const auto first = co_await ends.next();
    const auto second = co_await ends.next();
    const auto third = co_await ends.next();
    REQUIRE(first);
    REQUIRE(second);
    CHECK(*first == a);
    CHECK(*second == b);
    CHECK_FALSE(third);
}

ASYNC_TEST_CASE_ORDERED(
    "AC-07: cancelling the consumer cancels none of the tasks, and loses none") {
    asyncio::task<int> a = asyncio::create_task(after(2s, 1));
    asyncio::task<int> b = asyncio::create_task(after(3s, 2));
    asyncio::task<> late;
    a.add_done_callback([&] { late.cancel(); }); // comes before what as_completed() wakes
    auto ends = asyncio::as_completed(these(a, b), {.timeout = 1h});
    asyncio::task<> consumer =
        asyncio::create_task([&]() -> asyncio::coro<> { co_await ends.next(); });
    co_await asyncio::sleep(1s);
    consumer.cancel();
    const asyncio::exception_ptr error = co_await error_of(consumer);
    CHECK(shape(error) == "cancelled");
    CHECK(a.cancelling() == 0);
    CHECK(asyncio::get_running_loop().metrics().timers == 2); // theirs

    // Cancelled in the very turn in which its task was there.
    late = asyncio::create_task([&]() -> asyncio::coro<> { co_await ends.next(); });
    const asyncio::exception_ptr again = co_await error_of(late);
    CHECK(shape(again) == "cancelled");
    const auto first = co_await ends.next();
    const auto second = co_await ends.next();
    REQUIRE(first);
    REQUIRE(second);
    CHECK(*first == a);
    CHECK(*second == b);
}

ASYNC_TEST_CASE_ORDERED("two consumers share what as_completed() yields, and both see its end") {
    std::vector<int> seen;
    int ended = 0;
    asyncio::task<int> a = asyncio::create_task(after(1s, 1));
    asyncio::task<int> b = asyncio::create_task(after(1s, 2));
    asyncio::task<int> c = asyncio::create_task(after(2s, 3));
    auto ends = asyncio::as_completed(a, b, c);
    auto consume = [&]() -> asyncio::coro<> {
        for (;;) {
            auto next = co_await ends.next();
            if (!next) break;
            seen.push_back(next->result());
        }
        ++ended;
    };
    co_await asyncio::gather(consume, consume);
    CHECK(seen == std::vector<int>{1, 2, 3});
    CHECK(ended == 2);
}

ASYNC_TEST_CASE("two consumers get one timeout_error for each task that is missing") {
    auto ends = asyncio::as_completed(
        these(asyncio::create_task(after(2s, 1)), asyncio::create_task(after(2s, 2))),
        {.timeout = 1s});
    auto consume = [&]() -> asyncio::coro<> { co_await ends.next(); };
    const auto outcomes = co_await asyncio::gather(asyncio::return_exceptions, consume, consume);
    CHECK(outcomes[0].error().holds<asyncio::timeout_error>());
    CHECK(outcomes[1].error().holds<asyncio::timeout_error>());
    const auto none = co_await ends.next();
    CHECK_FALSE(none);
}

ASYNC_TEST_CASE("what ended in time is given after the timeout, and what ended later is not") {
    asyncio::task<int> early = asyncio::create_task(after(1s, 1));
    asyncio::task<int> late = asyncio::create_task(after(3s, 2));
    auto ends = asyncio::as_completed(these(late, early), {.timeout = 2s});
    co_await asyncio::sleep(5s);
    CHECK(late.done());
    const auto first = co_await ends.next();
    REQUIRE(first);
    CHECK(*first == early);
    const asyncio::exception_ptr error = co_await error_of(ends.next());
    CHECK(shape(error) == "timeout");
    const auto none = co_await ends.next();
    CHECK_FALSE(none);
}

TEST_CASE("the timeout of as_completed() is one of the clock of the task that asked for it") {
    asyncio::event_loop loop({.clock = asyncio::clock_kind::manual});
    asyncio::time_stream world(loop);
    world.set_scale(0.1);
    const asyncio::future<int> quick = loop.create_future<int>();
    const asyncio::future<int> slow = loop.create_future<int>();
    const auto main = [&]() -> asyncio::coro<int> {
        auto ends = asyncio::as_completed(these(quick, slow), {.timeout = 1s});
        const auto first = co_await ends.next();
        const asyncio::exception_ptr error = co_await error_of(ends.next());
        CHECK(shape(error) == "timeout");
        co_return first->result();
    };
    const asyncio::task<int> t = loop.create_task(main, {.clock = &world});
    loop.call_later(5s, [&] { quick.set_result(7); }); // by the loop's clock
    loop.call_later(15s, [&] { slow.set_result(8); });
    loop.advance(9s);
    CHECK_FALSE(t.done());
    loop.advance(2s);
    REQUIRE(t.done());
    CHECK(t.result() == 7);
    loop.advance(5s);
}

TEST_CASE("the time that as_completed() takes grows as the number of its tasks, not faster") {
    const auto one_by_one = [](int n) -> asyncio::coro<> {
        std::vector<asyncio::coro<int>> works;
        for (int i = 0; i < n; ++i) works.push_back(after(std::chrono::milliseconds(i), i));
        auto ends = asyncio::as_completed(std::move(works));
        for (int i = 0; i < n; ++i) co_await ends.next();
    };
    const auto time_of = [&](int times, int n) {
        const std::clock_t begin = std::clock();
        for (int i = 0; i < times; ++i)
            asyncio::run(one_by_one(n), {.clock = asyncio::clock_kind::virtual_time});
        return std::clock() - begin;
    };
    bool in_proportion = false; // once is enough, where others take time away
    for (int round = 0; round < 5 && !in_proportion; ++round)
        in_proportion = time_of(1, 16 * 250) < 4 * time_of(16, 250);
    CHECK(in_proportion);
}

ASYNC_TEST_CASE("as_completed() of nothing is at its end at once") {
    auto ends = asyncio::as_completed(std::vector<asyncio::task<int>>(), {.timeout = 1s});
    const auto none = co_await ends.next();
    CHECK_FALSE(none);
    const auto still_none = co_await ends.next();
    CHECK_FALSE(still_none);
}

ASYNC_TEST_CASE("as_completed() gives finished ones first, in the order of the arguments") {
    asyncio::task<int> a = asyncio::create_task(after(0s, 1));
    asyncio::task<int> b = asyncio::create_task(after(0s, 2));
    co_await asyncio::sleep(1s);
    asyncio::task<int> c = asyncio::create_task(after(0s, 3));
    auto ends = asyncio::as_completed(c, b, a);
    const auto first = co_await ends.next();
    const auto second = co_await ends.next();
    const auto third = co_await ends.next();
    CHECK(*first == b);
    CHECK(*second == a);
    CHECK(*third == c);
}

ASYNC_TEST_CASE("what as_completed() gave may go: who waits stays suspended until it is cancelled") {
    for (const bool woken : {false, true}) {
        CAPTURE(woken);
        asyncio::task<int> a = asyncio::create_task(after(10s, 1));
        const asyncio::future<int> b = asyncio::create_future<int>();
        const std::vector<asyncio::future<int>> both{a, b};
        using completions = asyncio::completions<asyncio::future<int>>;
        std::unique_ptr<completions> ends(
            new completions(asyncio::as_completed(both, {.timeout = 1s})));
        auto patient = asyncio::create_task(ends->next());
        auto impatient = asyncio::create_task(ends->next());
        co_await support::turns(2);
        if (woken) b.set_result(2);
        ends.reset();
        co_await asyncio::sleep(5s); // beyond the timeout
        CHECK_FALSE(patient.done());
        patient.cancel();
        impatient.cancel();
        CHECK_AWAIT_THROWS_AS(patient, asyncio::cancelled_error);
        CHECK_AWAIT_THROWS_AS(impatient, asyncio::cancelled_error);
        co_await a;
    }
}

ASYNC_TEST_CASE("dropping as_completed() leaves its tasks running") {
    asyncio::task<int> a = asyncio::create_task(after(2s, 1));
    {
        auto ends = asyncio::as_completed(a, after(1s, 2));
        co_await ends.next();
    }
    const int value = co_await a;
    CHECK(value == 1);
}

} // TEST_SUITE

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_SUITE("taskgroups: another loop's") {

ASYNC_TEST_CASE("what is pending in another loop is refused, and what is done is taken") {
    asyncio::event_loop other;
    const asyncio::future<int> theirs = other.create_future<int>();
    const asyncio::future<int> mine = asyncio::create_future<int>();
    CHECK_THROWS_AS(asyncio::gather(mine, theirs), std::runtime_error);
    CHECK_THROWS_AS(asyncio::gather(std::vector{theirs}), std::runtime_error);
    CHECK_THROWS_AS(asyncio::shield(theirs), std::runtime_error);
    CHECK_THROWS_AS(asyncio::as_completed(std::vector{mine, theirs}), std::runtime_error);
    CHECK_AWAIT_THROWS_AS(asyncio::wait(mine, theirs), std::runtime_error);
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(theirs, 0s), std::runtime_error);
    CHECK_FALSE(theirs.done());
    theirs.set_result(7);
    mine.set_result(8);
    const std::array<int, 2> both = co_await asyncio::gather(mine, theirs);
    CHECK(both == std::array<int, 2>{8, 7});
    const auto all = co_await asyncio::wait(mine, theirs);
    CHECK(all.done.size() == 2);
}

TEST_CASE("a group takes no pending task of another loop, and one that is done at once") {
    asyncio::event_loop other;
    const auto give = [](int value) -> asyncio::coro<int> { co_return value; };
    const asyncio::task<int> done = other.create_task(give(7));
    other.run_until_complete(done);
    const asyncio::task<int> pending = other.create_task(give(8));
    asyncio::task<int> taken;
    const auto body = [&](asyncio::task_group& group) {
        CHECK_THROWS_AS(group.create_task(pending), std::runtime_error);
        taken = group.create_task(done);
    };
    asyncio::run(asyncio::with(asyncio::task_group(), body));
    CHECK(taken == done);
    CHECK(other.run_until_complete(pending) == 8);
}

} // TEST_SUITE
#endif

TEST_SUITE("taskgroups: an eager child") {

ASYNC_TEST_CASE("that cancels its group is cancelled with it") {
    const asyncio::time_point begin = asyncio::get_running_loop().time();
    asyncio::task<> child;
    const auto body = [&](asyncio::task_group& group) {
        const auto ends_all = [&group]() -> asyncio::coro<> {
            group.cancel();
            co_await asyncio::sleep(1h);
        };
        child = group.create_task(ends_all, {.eager_start = true});
    };
    co_await asyncio::with(asyncio::task_group(), body);
    CHECK(child.cancelled());
    CHECK(asyncio::get_running_loop().time() == begin);
}

} // TEST_SUITE

TEST_SUITE("taskgroups: destroyed while pending") {

TEST_CASE("what completes after its loop has closed is kept by nothing that waited for it") {
    const auto value = std::make_shared<int>(7);
    using held = std::shared_ptr<int>;
    {
        asyncio::event_loop loop;
        asyncio::future<held> first = loop.create_future<held>();
        asyncio::future<held> second = loop.create_future<held>();
        asyncio::future<std::array<held, 2>> both;
        asyncio::future<held> shielded;
        {
            const auto inside = loop.enter();
            both = asyncio::gather(first, second);
            shielded = asyncio::shield(first);
        }
        loop.close();
        CHECK_FALSE(shielded.cancel()); // there is nobody to tell
        first.set_result(value);
        second.set_result(value);
        CHECK_FALSE(both.done());
        CHECK_FALSE(shielded.done());
    }
    CHECK(value.use_count() == 1);
}

TEST_CASE("everything that waits for other tasks is destroyed with its loop") {
    int alive = 0;
    {
        asyncio::event_loop loop({.clock = asyncio::clock_kind::manual});
        auto sleeps = [&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await asyncio::sleep(1h);
        };
        asyncio::task<> older = loop.create_task(sleeps);
        lines log;
        diary manager(log);
        auto stuck = [&]() -> asyncio::coro<> {
            const counted here(alive);
            static_cast<void>(co_await support::catching(asyncio::sleep(1h)));
            co_await asyncio::sleep(1h);
        };
        // At the end of a group, whose children are older and younger than it.
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
                tg.create_task(older);
                tg.create_task(sleeps);
            });
        });
        // In the body of a group inside a group.
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& outer) {
                outer.create_task(sleeps);
                return asyncio::with(asyncio::task_group(),
                                     [&](asyncio::task_group& inner) -> asyncio::coro<> {
                                         inner.create_task(sleeps);
                                         co_await sleeps();
                                     });
            });
        });
        // In a group that waits for a child which ignores the abort.
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
                tg.create_task(stuck);
                tg.create_task(fail_after(0s, "foo"));
            });
        });
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await asyncio::gather(sleeps, older, sleeps, older);
        });
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await asyncio::gather(asyncio::return_exceptions, these(older, older));
        });
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await asyncio::shield(sleeps);
        });
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await asyncio::wait(these(older), {.timeout = 1h});
        });
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            auto ends = asyncio::as_completed(these(older), {.timeout = 1h});
            co_await asyncio::gather(ends.next(), ends.next());
        });
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await asyncio::with(manager, [&]() -> asyncio::coro<> { co_await sleeps(); });
        });
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            static_cast<void>(co_await asyncio::as_outcome(sleeps));
        });
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            auto nothing = []() -> asyncio::coro<> { co_return; };
            co_await asyncio::finally(nothing, sleeps); // it is in its cleanup
        });
        for (int i = 0; i < 10; ++i) loop.run_once();
        loop.advance(1s);
        for (int i = 0; i < 10; ++i) loop.run_once();
        CHECK(log == lines{"entering", "entered"});
        CHECK(alive == 23);
    }
    CHECK(alive == 0);
}

TEST_CASE("a loop may go in any turn of a group that fails") {
    for (int turns = 0; turns < 12; ++turns) {
        CAPTURE(turns);
        int alive = 0;
        bool ended = false;
        {
            asyncio::event_loop loop({.clock = asyncio::clock_kind::manual});
            loop.set_exception_handler(
                [](asyncio::event_loop&, const asyncio::exception_context&) {});
            auto sibling = [&]() -> asyncio::coro<> {
                const counted here(alive);
                co_await asyncio::sleep(1h);
            };
            asyncio::task<> parent = loop.create_task([&]() -> asyncio::coro<> {
                const counted here(alive);
                co_await error_of(asyncio::with(
                    asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<> {
                        const counted inside(alive);
                        tg.create_task(sibling);
                        tg.create_task(fail_after(0s, "foo"));
                        auto all = asyncio::gather(asyncio::sleep(0s), sibling);
                        auto gathered = asyncio::create_task(all);
                        auto shielded = asyncio::create_task(asyncio::shield(sibling));
                        co_await asyncio::wait(gathered, shielded);
                    }));
                ended = true;
            });
            for (int i = 0; i < turns; ++i) loop.run_once();
        }
        CHECK(alive == 0);
        if (turns == 0) CHECK_FALSE(ended);
        if (turns == 11) CHECK(ended);
    }
}

} // TEST_SUITE
