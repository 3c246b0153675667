// [SECTION] timeouts: timeout, timeout_at and wait_for. The clock is virtual, so that moments are
// exact and can be compared with ==.
#include "support.hpp"

#include <optional>
#include <stdexcept>
#include <utility>

namespace {

asyncio::time_point now() { return asyncio::get_running_loop().time(); }

// What an await threw, in a word: "nothing", "cancelled", "timeout", or the error's message.
std::string shape(const asyncio::exception_ptr& error) {
    if (!error) return "nothing";
    if (support::holds<asyncio::cancelled_error>(error)) return "cancelled";
    if (support::holds<asyncio::timeout_error>(error)) return "timeout";
    return support::message_of(error);
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

// Ignores its first cancellation, and gives `value` after `cleanup`.
asyncio::coro<int> stubborn(asyncio::duration cleanup, int value) {
    static_cast<void>(co_await support::catching(asyncio::sleep(1h)));
    co_await asyncio::sleep(cleanup);
    co_return value;
}

// Stops when it is cancelled, but needs `cleanup` for it.
asyncio::coro<int> slow_to_stop(asyncio::duration cleanup) {
    const auto slept = co_await support::catching(asyncio::sleep(1h));
    co_await asyncio::sleep(cleanup);
    if (slept.error) co_await support::fail_with(slept.error);
    co_return 0;
}

asyncio::coro<int> fail_when_cancelled(std::string message) {
    const auto slept = co_await support::catching(asyncio::sleep(1h));
    if (slept.error) THROW(std::runtime_error(message));
    co_return 0;
}

asyncio::coro<int> mark_and_give(bool* ran, int value) {
    *ran = true;
    co_await asyncio::sleep(1s);
    co_return value;
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

// A value that can be made and copied, but not changed.
struct unchanging {
    explicit unchanging(int n) : number(n) {}
    const int number;
};

asyncio::coro<unchanging> unchanging_after(asyncio::duration delay, int number) {
    co_await asyncio::sleep(delay);
    co_return unchanging(number);
}

} // namespace

TEST_SUITE("timeout") {

ASYNC_TEST_CASE("TO-01: a limit that passes is a timeout_error at the block's end") {
    const auto begin = now();
    asyncio::timeout limit(10ms);
    bool cancelled_inside = false;
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(limit, [&]() -> asyncio::coro<> {
            const auto slept = co_await support::catching(asyncio::sleep(10s));
            cancelled_inside = support::holds<asyncio::cancelled_error>(slept.error);
            if (slept.error) co_await support::fail_with(slept.error);
        }));
    CHECK(shape(error) == "timeout");
    CHECK(cancelled_inside);
    CHECK(limit.expired());
    CHECK(now() - begin == 10ms);
    CHECK(asyncio::current_task().cancelling() == 0);
    co_await asyncio::sleep(1s); // nothing is left over for the next await
}

ASYNC_TEST_CASE("TO-02: a body that ends before the limit takes the timer back") {
    const auto begin = now();
    asyncio::timeout limit(10s);
    const int value = co_await asyncio::with(limit, [] { return after(1s, 7); });
    CHECK(value == 7);
    CHECK_FALSE(limit.expired());
    CHECK(limit.when() == begin + 10s);
    CHECK(asyncio::get_running_loop().metrics().timers == 0);
    co_await asyncio::sleep(20s);
    CHECK_FALSE(limit.expired());
}

ASYNC_TEST_CASE("TO-03: no limit never passes") {
    asyncio::timeout unlimited(std::nullopt);
    asyncio::timeout unlimited_at = asyncio::timeout_at(std::nullopt);
    for (asyncio::timeout* limit : {&unlimited, &unlimited_at}) {
        bool no_moment = false;
        co_await asyncio::with(*limit, [&]() -> asyncio::coro<> {
            no_moment = !limit->when();
            co_await asyncio::sleep(1h);
        });
        CHECK(no_moment);
        CHECK_FALSE(limit->when());
        CHECK_FALSE(limit->expired());
    }
}

ASYNC_TEST_CASE_ORDERED("TO-04: a limit of zero or in the past ends the first suspension") {
    co_await asyncio::sleep(5s);
    asyncio::timeout zero(0s);
    asyncio::timeout negative(-11s);
    asyncio::timeout past = asyncio::timeout_at(now() - 1s);
    for (asyncio::timeout* limit : {&zero, &negative, &past}) {
        const auto begin = now();
        bool before = false;
        bool behind = false;
        const asyncio::exception_ptr error =
            co_await error_of(asyncio::with(*limit, [&]() -> asyncio::coro<> {
                before = true;
                co_await asyncio::sleep(0s);
                behind = true;
            }));
        CHECK(shape(error) == "timeout");
        CHECK(limit->expired());
        CHECK(before);
        CHECK_FALSE(behind);
        CHECK(now() == begin);
    }
    asyncio::timeout longer(0s);
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(longer, [] { return after(10s, 1); }));
    CHECK(shape(error) == "timeout");
}

ASYNC_TEST_CASE("TO-05: a limit of zero does not matter to a body that never suspends") {
    asyncio::timeout limit(0s);
    bool ran = false;
    co_await asyncio::with(limit, [&]() -> asyncio::coro<> {
        ran = true;
        co_return;
    });
    CHECK(ran);
    CHECK_FALSE(limit.expired());
    co_await support::turns(3);
    CHECK_FALSE(limit.expired());
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("TO-06: a body may swallow the cancellation and end normally") {
    asyncio::timeout limit(1s);
    const int value = co_await asyncio::with(limit, [] { return stubborn(2s, 3); });
    CHECK(value == 3);
    CHECK(limit.expired());
    CHECK(asyncio::current_task().cancelling() == 0);
    co_await asyncio::sleep(1s);
}

ASYNC_TEST_CASE("TO-07: an error that answers the cancellation is not replaced") {
    asyncio::timeout limit(1s);
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(limit, [] { return fail_when_cancelled("key"); }));
    CHECK(shape(error) == "key");
    CHECK(limit.expired());
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("TO-08: an error before the limit passes through untouched") {
    asyncio::timeout limit(10s);
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(limit, [] { return fail_after(1s, "key"); }));
    CHECK(shape(error) == "key");
    CHECK_FALSE(limit.expired());
    CHECK(asyncio::get_running_loop().metrics().timers == 0);
}

ASYNC_TEST_CASE("TO-09: a cancellation from outside is no timeout_error") {
    asyncio::timeout limit(10s);
    asyncio::task<> limited = asyncio::create_task(
        [&]() -> asyncio::coro<> { co_await asyncio::with(limit, [] { return after(1h, 0); }); });
    co_await asyncio::sleep(1s);
    limited.cancel("from outside");
    const asyncio::exception_ptr error = co_await error_of(limited);
    CHECK(shape(error) == "cancelled");
    CHECK(support::message_of(error) == "from outside");
    CHECK(limited.cancelled());
    CHECK_FALSE(limit.expired());
    CHECK(limited.cancelling() == 1);
}

ASYNC_TEST_CASE("TO-10: a cancellation from outside in the turn of the expiry wins") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    for (const bool expires_first : {true, false}) {
        CAPTURE(expires_first);
        const auto moment = now() + 1s;
        asyncio::timeout limit = asyncio::timeout_at(moment);
        asyncio::task<> limited;
        asyncio::exception_ptr error;
        limited = asyncio::create_task([&]() -> asyncio::coro<> {
            if (!expires_first) loop.call_at(moment, [&] { limited.cancel(); });
            error = co_await error_of(asyncio::with(limit, [&]() -> asyncio::coro<> {
                if (expires_first) loop.call_at(moment, [&] { limited.cancel(); });
                co_await asyncio::sleep(1h);
            }));
        });
        co_await limited;
        CHECK(shape(error) == "cancelled");
        CHECK(limit.expired());
        CHECK(limited.cancelling() == 1);
        CHECK(now() == moment);
    }
}

ASYNC_TEST_CASE("TO-11: an expiry during the cleanup after a cancellation changes nothing") {
    asyncio::timeout limit(2s);
    asyncio::exception_ptr error;
    asyncio::task<> limited = asyncio::create_task([&]() -> asyncio::coro<> {
        error = co_await error_of(asyncio::with(limit, [&]() -> asyncio::coro<> {
            const auto slept = co_await support::catching(asyncio::sleep(1h));
            const asyncio::exception_ptr second = co_await error_of(asyncio::sleep(10s));
            CHECK(shape(second) == "cancelled"); // by the timeout
            if (slept.error) co_await support::fail_with(slept.error);
        }));
    });
    co_await asyncio::sleep(1s);
    limited.cancel();
    co_await limited;
    CHECK(shape(error) == "cancelled");
    CHECK(limit.expired());
    CHECK(limited.cancelling() == 1);
}

ASYNC_TEST_CASE("TO-12: an earlier cancellation that was swallowed does not hide the timeout") {
    asyncio::timeout limit(1s);
    asyncio::exception_ptr error;
    int on_entry = -1;
    asyncio::task<> limited = asyncio::create_task([&]() -> asyncio::coro<> {
        asyncio::current_task().cancel();
        const asyncio::exception_ptr earlier = co_await error_of(asyncio::sleep(0s));
        CHECK(shape(earlier) == "cancelled");
        on_entry = asyncio::current_task().cancelling();
        error = co_await error_of(asyncio::with(limit, [] { return after(1h, 0); }));
        co_await asyncio::sleep(1s);
    });
    co_await limited;
    CHECK(on_entry == 1);
    CHECK(shape(error) == "timeout");
    CHECK(limited.cancelling() == 1);
}

ASYNC_TEST_CASE("TO-13: of two nested limits at one moment the outer throws the timeout_error") {
    const auto moment = now() + 1s;
    asyncio::timeout outer = asyncio::timeout_at(moment);
    asyncio::timeout inner = asyncio::timeout_at(moment);
    asyncio::exception_ptr inner_error;
    const asyncio::exception_ptr outer_error =
        co_await error_of(asyncio::with(outer, [&]() -> asyncio::coro<> {
            inner_error = co_await error_of(asyncio::with(inner, [] { return after(1h, 0); }));
            if (inner_error) co_await support::fail_with(inner_error);
        }));
    CHECK(shape(inner_error) == "cancelled");
    CHECK(shape(outer_error) == "timeout");
    CHECK(inner.expired());
    CHECK(outer.expired());
    CHECK(asyncio::current_task().cancelling() == 0);
    co_await asyncio::sleep(1s);
}

ASYNC_TEST_CASE("TO-14: after the inner limit the outer one still counts") {
    const auto begin = now();
    asyncio::timeout outer(3s);
    asyncio::timeout inner(1s);
    asyncio::exception_ptr inner_error;
    const asyncio::exception_ptr outer_error =
        co_await error_of(asyncio::with(outer, [&]() -> asyncio::coro<> {
            inner_error = co_await error_of(asyncio::with(inner, [] { return after(1h, 0); }));
            CHECK(now() - begin == 1s);
            CHECK_FALSE(outer.expired());
            co_await asyncio::sleep(1h);
        }));
    CHECK(shape(inner_error) == "timeout");
    CHECK(shape(outer_error) == "timeout");
    CHECK(now() - begin == 3s);
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("TO-15: when the outer limit passes first the inner block is only cancelled") {
    const auto begin = now();
    asyncio::timeout outer(1s);
    asyncio::timeout inner(3s);
    asyncio::exception_ptr inner_error;
    const asyncio::exception_ptr outer_error =
        co_await error_of(asyncio::with(outer, [&]() -> asyncio::coro<> {
            inner_error = co_await error_of(asyncio::with(inner, [] { return after(1h, 0); }));
            if (inner_error) co_await support::fail_with(inner_error);
        }));
    CHECK(shape(inner_error) == "cancelled");
    CHECK_FALSE(inner.expired());
    CHECK(shape(outer_error) == "timeout");
    CHECK(outer.expired());
    CHECK(now() - begin == 1s);
}

ASYNC_TEST_CASE("TO-16: reschedule() moves the limit or takes it away") {
    const auto begin = now();
    asyncio::timeout limit(1s);
    const asyncio::exception_ptr moved =
        co_await error_of(asyncio::with(limit, [&](asyncio::timeout& t) -> asyncio::coro<> {
            CHECK(t.when() == begin + 1s);
            t.reschedule(begin + 5s);
            CHECK(t.when() == begin + 5s);
            co_await asyncio::sleep(4s); // past the first limit
            CHECK_FALSE(t.expired());
            co_await asyncio::sleep(1h);
        }));
    CHECK(shape(moved) == "timeout");
    CHECK(now() - begin == 5s);

    asyncio::timeout earlier(1h);
    const asyncio::exception_ptr sooner =
        co_await error_of(asyncio::with(earlier, [&](asyncio::timeout& t) -> asyncio::coro<> {
            t.reschedule(now() + 1s);
            co_await asyncio::sleep(1h);
        }));
    CHECK(shape(sooner) == "timeout");
    CHECK(now() - begin == 6s);

    asyncio::timeout removed(1s);
    asyncio::task<> unlimited = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::with(removed, [](asyncio::timeout& t) -> asyncio::coro<> {
            t.reschedule(std::nullopt);
            CHECK_FALSE(t.when());
            co_await asyncio::sleep(1h);
        });
    });
    co_await asyncio::sleep(10s);
    CHECK_FALSE(unlimited.done());
    unlimited.cancel();
    const asyncio::exception_ptr cancelled = co_await error_of(unlimited);
    CHECK(shape(cancelled) == "cancelled");
    CHECK_FALSE(removed.expired());
    CHECK(unlimited.cancelling() == 1);
}

ASYNC_TEST_CASE_ORDERED(
    "TO-17: reschedule() to now or the past expires in the next turn, not at once") {
    co_await asyncio::sleep(5s);
    for (const asyncio::duration back : {asyncio::duration(0s), asyncio::duration(3s)}) {
        const auto begin = now();
        asyncio::timeout limit(1h);
        bool at_once = true;
        bool behind = false;
        const asyncio::exception_ptr error =
            co_await error_of(asyncio::with(limit, [&](asyncio::timeout& t) -> asyncio::coro<> {
                t.reschedule(now() - back);
                at_once = t.expired() || asyncio::current_task().cancelling() > 0;
                co_await asyncio::sleep(0s);
                behind = true;
            }));
        CHECK_FALSE(at_once);
        CHECK_FALSE(behind);
        CHECK(shape(error) == "timeout");
        CHECK(now() == begin);
    }
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("TO-18: reschedule() is refused outside the block and once the limit has passed") {
    const auto later = now() + 1h;
    asyncio::timeout exited(10s);
    CHECK_THROWS_WITH_AS(exited.reschedule(later), doctest::Contains("has not begun"),
                         std::runtime_error);
    co_await asyncio::with(exited, [] { return after(1s, 0); });
    CHECK_THROWS_WITH_AS(exited.reschedule(later), doctest::Contains("finished"),
                         std::runtime_error);
    CHECK(exited.when() != later);

    asyncio::timeout expired(1s);
    asyncio::exception_ptr refused;
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(expired, [&](asyncio::timeout& t) -> asyncio::coro<> {
            try {
                co_await asyncio::sleep(1h);
            } catch (const asyncio::cancelled_error&) {
                try {
                    t.reschedule(later);
                } catch (...) {
                    refused = std::current_exception();
                }
                throw;
            }
        }));
    CHECK(shape(error) == "timeout");
    CHECK(support::holds<std::runtime_error>(refused));
    CHECK(support::message_of(refused).find("expiring") != std::string::npos);
    CHECK_THROWS_WITH_AS(expired.reschedule(later), doctest::Contains("has expired"),
                         std::runtime_error);
}

ASYNC_TEST_CASE("TO-19: a timeout is used once, and only in a task") {
    asyncio::timeout limit(2s);
    asyncio::exception_ptr nested;
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::with(limit, [&](asyncio::timeout& t) -> asyncio::coro<> {
            nested = co_await error_of(asyncio::with(t, [] { return after(0s, 0); }));
            co_await asyncio::sleep(1h);
        }));
    CHECK(support::holds<std::runtime_error>(nested));
    CHECK(shape(nested) != "timeout");
    CHECK(shape(error) == "timeout"); // the first use is unaffected
    const asyncio::exception_ptr again =
        co_await error_of(asyncio::with(limit, [] { return after(0s, 0); }));
    CHECK(support::holds<std::runtime_error>(again));
    CHECK(shape(again) != "timeout");

    asyncio::timeout outside(1s);
    asyncio::exception_ptr refused;
    asyncio::get_running_loop().call_soon([&] {
        try {
            static_cast<void>(outside.aenter());
        } catch (...) {
            refused = std::current_exception();
        }
    });
    co_await support::turns(2);
    CHECK(support::holds<std::runtime_error>(refused));
    const int value = co_await asyncio::with(outside, [] { return after(0s, 5); });
    CHECK(value == 5); // it stayed unused
}
#endif

TEST_CASE("a timeout cannot begin without a loop") {
    asyncio::timeout limit(1s);
    CHECK_THROWS_AS(static_cast<void>(limit.aenter()), std::runtime_error);
}

ASYNC_TEST_CASE("a timeout does not move once its block has begun") {
    asyncio::timeout limit(10s);
    co_await asyncio::with(limit, [](asyncio::timeout& t) {
        [[maybe_unused]] const auto move_away = [&t] {
            const asyncio::timeout moved(std::move(t));
        };
        CHECK_THROWS_AS(move_away(), std::runtime_error);
    });
    asyncio::timeout moment = asyncio::timeout_at(now() + 3s);
    asyncio::timeout moved(std::move(moment));
    CHECK(moved.when() == now() + 3s);
}

ASYNC_TEST_CASE("a timeout's block may be a plain callable with a value") {
    const int value = co_await asyncio::with(asyncio::timeout(0s), [] { return 3; });
    CHECK(value == 3);
    co_await asyncio::sleep(1s);
}

ASYNC_TEST_CASE_ORDERED("a result in the turn of the expiry comes too late, whichever was first") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    for (const bool result_first : {true, false}) {
        CAPTURE(result_first);
        const auto moment = now() + 1s;
        asyncio::future<int> f = asyncio::create_future<int>();
        const auto give = [&] {
            if (!f.done()) f.set_result(1);
        };
        if (result_first) loop.call_at(moment, give);
        asyncio::timeout limit = asyncio::timeout_at(moment);
        const asyncio::exception_ptr error =
            co_await error_of(asyncio::with(limit, [&]() -> asyncio::coro<> {
                if (!result_first) loop.call_at(moment, give);
                co_await f;
            }));
        CHECK(shape(error) == "timeout");
        CHECK(limit.expired());
        CHECK(f.cancelled() != result_first);
        CHECK(asyncio::current_task().cancelling() == 0);
        co_await asyncio::sleep(1s);
    }
}

ASYNC_TEST_CASE_ORDERED(
    "an expiry between the body's last wake-up and its end leaves nothing behind") {
    // The task has been woken, the timeout asks for a cancellation, and the body catches it.
    const auto moment = now() + 1s;
    asyncio::timeout limit = asyncio::timeout_at(moment);
    bool interrupted = false;
    co_await asyncio::with(limit, [&]() -> asyncio::coro<> {
        const auto slept = co_await support::catching(asyncio::sleep(1s));
        interrupted = support::holds<asyncio::cancelled_error>(slept.error);
    });
    CHECK(interrupted);
    CHECK(limit.expired());
    CHECK(asyncio::current_task().cancelling() == 0);
    co_await asyncio::sleep(0s);
}

ASYNC_TEST_CASE("the expiry does not reach a body that it cannot interrupt any more") {
    // The block ends in the very turn of the expiry, before the expiry is looked at.
    asyncio::event_loop& loop = asyncio::get_running_loop();
    asyncio::future<void> f = asyncio::create_future<void>();
    const auto moment = now() + 1s;
    asyncio::timeout limit = asyncio::timeout_at(moment + 1ns);
    loop.call_at(moment, [&] { f.set_result(); });
    co_await asyncio::with(limit, [&]() -> asyncio::coro<> { co_await f; });
    CHECK_FALSE(limit.expired());
    co_await asyncio::sleep(1s);
    CHECK_FALSE(limit.expired());
}

} // TEST_SUITE

TEST_SUITE("wait_for") {

ASYNC_TEST_CASE("WF-01: a task whose time is over is cancelled and awaited; then it is a timeout") {
    asyncio::task<int> work = asyncio::create_task(slow_to_stop(1s));
    const auto begin = now();
    const asyncio::exception_ptr error = co_await error_of(asyncio::wait_for(work, 2s));
    CHECK(shape(error) == "timeout");
    CHECK(work.done());
    CHECK(work.cancelled());
    CHECK(now() - begin == 3s);
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("WF-02: wait_for() returns only after the cleanup of what it cancelled") {
    const auto begin = now();
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::wait_for(slow_to_stop(100ms), 1s));
    CHECK(shape(error) == "timeout");
    CHECK(now() - begin == 1100ms);
}

ASYNC_TEST_CASE("wait_for() gives values that cannot be assigned") {
    const unchanging in_time = co_await asyncio::wait_for(unchanging_after(1s, 3), 2s);
    CHECK(in_time.number == 3);
    const unchanging unlimited =
        co_await asyncio::wait_for(unchanging_after(1s, 4), std::nullopt);
    CHECK(unlimited.number == 4);
}

ASYNC_TEST_CASE("wait_for() takes no coroutine for a closure, whatever it promises") {
    const auto give = [] {
        struct local {
            int number = 3;
        };
        const auto make = []() -> asyncio::coro<local> { co_return local(); };
        return asyncio::wait_for(make(), 1s);
    };
    const auto given = co_await give();
    CHECK(given.number == 3);
}

ASYNC_TEST_CASE("WF-03: work that ignores the cancellation and returns is no timeout") {
    const int direct = co_await asyncio::wait_for(stubborn(1s, 42), 1s);
    CHECK(direct == 42);
    asyncio::task<int> work = asyncio::create_task(stubborn(1s, 43));
    const int of_task = co_await asyncio::wait_for(work, 1s);
    CHECK(of_task == 43);
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("WF-04: an error that answers the cancellation is thrown instead of the timeout") {
    const asyncio::exception_ptr direct =
        co_await error_of(asyncio::wait_for(fail_when_cancelled("foo"), 1s));
    CHECK(shape(direct) == "foo");
    asyncio::task<int> work = asyncio::create_task(fail_when_cancelled("bar"));
    const asyncio::exception_ptr of_task = co_await error_of(asyncio::wait_for(work, 1s));
    CHECK(shape(of_task) == "bar");
}

ASYNC_TEST_CASE("WF-05: a time limit of zero gives what is done already") {
    asyncio::future<int> value = asyncio::create_future<int>();
    value.set_result(4);
    asyncio::future<int> failure = asyncio::create_future<int>();
    failure.set_exception(std::runtime_error("foo"));
    asyncio::future<int> cancelled = asyncio::create_future<int>();
    cancelled.cancel();
    for (const asyncio::duration limit : {asyncio::duration(0s), asyncio::duration(-1s)}) {
        const int given = co_await asyncio::wait_for(value, limit);
        CHECK(given == 4);
        const asyncio::exception_ptr error = co_await error_of(asyncio::wait_for(failure, limit));
        CHECK(shape(error) == "foo");
        const asyncio::exception_ptr stopped =
            co_await error_of(asyncio::wait_for(cancelled, limit));
        CHECK(shape(stopped) == "cancelled");
    }
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("WF-06: with a time limit of zero a coroutine that has not begun never does") {
    for (const asyncio::duration limit : {asyncio::duration(0s), asyncio::duration(-1s)}) {
        bool ran = false;
        const asyncio::exception_ptr error =
            co_await error_of(asyncio::wait_for(mark_and_give(&ran, 1), limit));
        CHECK(shape(error) == "timeout");
        co_await asyncio::sleep(5s);
        CHECK_FALSE(ran);
    }
}

ASYNC_TEST_CASE("WF-07: with a time limit of zero a running task is cancelled and awaited") {
    for (const asyncio::duration limit : {asyncio::duration(0s), asyncio::duration(-1s)}) {
        asyncio::task<int> stops = asyncio::create_task(slow_to_stop(1s));
        asyncio::task<int> ignores = asyncio::create_task(stubborn(1s, 8));
        asyncio::task<int> fails = asyncio::create_task(fail_when_cancelled("foo"));
        co_await support::turns(2);
        auto begin = now();
        const asyncio::exception_ptr stopped = co_await error_of(asyncio::wait_for(stops, limit));
        CHECK(shape(stopped) == "timeout");
        CHECK(stops.cancelled());
        CHECK(now() - begin == 1s);
        begin = now();
        const int value = co_await asyncio::wait_for(ignores, limit);
        CHECK(value == 8);
        CHECK(now() - begin == 1s);
        const asyncio::exception_ptr failed = co_await error_of(asyncio::wait_for(fails, limit));
        CHECK(shape(failed) == "foo");
    }
}

ASYNC_TEST_CASE("WF-08: cancelling the caller cancels the work and waits for its end") {
    for (const bool as_task : {false, true}) {
        CAPTURE(as_task);
        asyncio::task<int> work;
        if (as_task) work = asyncio::create_task(slow_to_stop(1s));
        asyncio::task<> caller = asyncio::create_task([&]() -> asyncio::coro<> {
            if (as_task) co_await asyncio::wait_for(work, 1h);
            else co_await asyncio::wait_for(slow_to_stop(1s), 1h);
        });
        co_await asyncio::sleep(1s);
        const auto begin = now();
        caller.cancel();
        const asyncio::exception_ptr error = co_await error_of(caller);
        CHECK(shape(error) == "cancelled");
        CHECK(caller.cancelling() == 1);
        CHECK(now() - begin == 1s);
        if (as_task) CHECK(work.cancelled());
    }
}

ASYNC_TEST_CASE("WF-09: work that ignores the caller's cancellation gives its value") {
    int value = 0;
    int count = -1;
    asyncio::task<> caller = asyncio::create_task([&]() -> asyncio::coro<> {
        value = co_await asyncio::wait_for(stubborn(1s, 9), 1h);
        count = asyncio::current_task().cancelling();
        co_await asyncio::sleep(1s); // it runs on
        value += 1;
    });
    co_await asyncio::sleep(1s);
    caller.cancel();
    co_await caller;
    CHECK(value == 10);
    CHECK(count == 1);
}

ASYNC_TEST_CASE("WF-10: work that somebody else cancels is cancelled, not timed out") {
    asyncio::task<int> work = asyncio::create_task(after(1h, 1));
    asyncio::get_running_loop().call_later(1s, [&] { work.cancel(); });
    const asyncio::exception_ptr error = co_await error_of(asyncio::wait_for(work, 10s));
    CHECK(shape(error) == "cancelled");
    CHECK(asyncio::current_task().cancelling() == 0);
    CHECK(asyncio::get_running_loop().metrics().timers == 0);
}

ASYNC_TEST_CASE("WF-11: a shielded task outlives the time limit") {
    asyncio::task<int> work = asyncio::create_task(after(2s, 6));
    asyncio::future<int> shielded = asyncio::shield(work);
    const asyncio::exception_ptr error = co_await error_of(asyncio::wait_for(shielded, 10ms));
    CHECK(shape(error) == "timeout");
    CHECK(shielded.cancelled());
    CHECK_FALSE(work.done());
    CHECK(work.cancelling() == 0);
    const int value = co_await work;
    CHECK(value == 6);
}

ASYNC_TEST_CASE_ORDERED(
    "WF-12: a cancellation in the turn of the result is thrown; the result stays") {
    asyncio::task<int> work = asyncio::create_task(after(1s, 5));
    bool behind = false;
    asyncio::task<> caller = asyncio::create_task([&]() -> asyncio::coro<> {
        co_await asyncio::wait_for(work, 10s);
        behind = true;
    });
    // Called in the turn after the task's end, when its waiter is scheduled but has not run.
    work.add_done_callback([&] { caller.cancel(); });
    const asyncio::exception_ptr error = co_await error_of(caller);
    CHECK(shape(error) == "cancelled");
    CHECK_FALSE(behind);
    CHECK(caller.cancelling() == 1);
    CHECK(work.result() == 5);
}

ASYNC_TEST_CASE("wait_for() without a limit waits as long as it takes") {
    const auto begin = now();
    const int value = co_await asyncio::wait_for(after(24h, 1), std::nullopt);
    CHECK(value == 1);
    CHECK(now() - begin == 24h);
}

ASYNC_TEST_CASE("wait_for() takes coroutines, callables, tasks and futures of any result") {
    co_await asyncio::wait_for(asyncio::sleep(1s), 2s);
    co_await asyncio::wait_for([] { return asyncio::sleep(1s); }, 2s);
    const std::unique_ptr<int> owned = co_await asyncio::wait_for(
        []() -> asyncio::coro<std::unique_ptr<int>> {
            co_await asyncio::sleep(1s);
            co_return std::make_unique<int>(3);
        },
        2s);
    CHECK(*owned == 3);
    asyncio::task<std::unique_ptr<int>> making =
        asyncio::create_task([]() -> asyncio::coro<std::unique_ptr<int>> {
            co_await asyncio::sleep(1s);
            co_return std::make_unique<int>(4);
        });
    const std::unique_ptr<int> moved = co_await asyncio::wait_for(std::move(making), 2s);
    CHECK(*moved == 4);
    auto f = asyncio::create_future<std::string>();
    asyncio::get_running_loop().call_later(1s, [&] { f.set_result("text"); });
    const std::string text = co_await asyncio::wait_for(f, 2s);
    CHECK(text == "text");
    CHECK(f.result() == "text");
    int calls = 0;
    auto named = [&]() -> asyncio::coro<int> {
        ++calls;
        co_return calls;
    };
    const int first = co_await asyncio::wait_for(named, 1s);
    const int second = co_await asyncio::wait_for(named, 1s);
    CHECK(first == 1);
    CHECK(second == 2);
}

ASYNC_TEST_CASE("wait_for() measures from the await, not from the call") {
    auto waiting = asyncio::wait_for(after(1s, 2), 2s);
    co_await asyncio::sleep(10s);
    const int value = co_await std::move(waiting);
    CHECK(value == 2);
}

ASYNC_TEST_CASE("wait_for() throws the work's own error and its own timeout_error through") {
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::wait_for(fail_after(1s, "foo"), 2s));
    CHECK(shape(error) == "foo");
    const auto begin = now();
    const asyncio::exception_ptr inner =
        co_await error_of(asyncio::wait_for(asyncio::wait_for(after(1h, 0), 1s), 1h));
    CHECK(shape(inner) == "timeout");
    CHECK(now() - begin == 1s);
    CHECK(asyncio::get_running_loop().metrics().timers == 0);
}

ASYNC_TEST_CASE_ORDERED("work that ends at the very moment of the limit has timed out") {
    bool ran = false;
    const asyncio::exception_ptr error =
        co_await error_of(asyncio::wait_for(mark_and_give(&ran, 1), 1s));
    CHECK(ran);
    CHECK(shape(error) == "timeout");
    CHECK(asyncio::current_task().cancelling() == 0);
    co_await asyncio::sleep(1s);
}

ASYNC_TEST_CASE("a pending cancellation and a limit of zero leave no work running") {
    bool ran = false;
    asyncio::task<> caller = asyncio::create_task([&]() -> asyncio::coro<> {
        asyncio::current_task().cancel();
        co_await asyncio::wait_for(mark_and_give(&ran, 1), 0s);
    });
    const asyncio::exception_ptr error = co_await error_of(caller);
    CHECK(shape(error) == "cancelled");
    co_await asyncio::sleep(5s);
    CHECK_FALSE(ran);
    CHECK(asyncio::all_tasks().size() == 1);
}

ASYNC_TEST_CASE("a cancellation while a limit of zero waits for the work's end is thrown") {
    asyncio::task<int> work = asyncio::create_task(slow_to_stop(2s));
    co_await support::turns(2);
    asyncio::task<> caller =
        asyncio::create_task([&]() -> asyncio::coro<> { co_await asyncio::wait_for(work, 0s); });
    co_await asyncio::sleep(1s);
    const auto begin = now();
    caller.cancel();
    const asyncio::exception_ptr error = co_await error_of(caller);
    CHECK(shape(error) == "cancelled");
    CHECK(now() == begin);
    CHECK_FALSE(work.done());
    co_await asyncio::sleep(2s);
    CHECK(work.cancelled());
}

TEST_CASE("frames that wait under a time limit are destroyed with their loop") {
    int alive = 0;
    {
        asyncio::event_loop loop({.clock = asyncio::clock_kind::manual});
        asyncio::timeout outlives(1h);
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await asyncio::with(asyncio::timeout(1h), [&]() -> asyncio::coro<> {
                const counted inside(alive);
                co_await asyncio::sleep(1h);
            });
        });
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await asyncio::with(outlives, [&]() -> asyncio::coro<> {
                const counted inside(alive);
                co_await asyncio::wait_for(asyncio::create_future<int>(), 2h);
            });
        });
        asyncio::task<> work = loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await asyncio::finally(asyncio::sleep(1h), asyncio::sleep(1h));
        });
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await asyncio::wait_for(work, 1h);
        });
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await support::turns(2);
            auto stuck = [&]() -> asyncio::coro<> {
                const counted inside(alive);
                static_cast<void>(co_await support::catching(asyncio::sleep(1h)));
                co_await asyncio::sleep(1h);
            };
            asyncio::task<> running = asyncio::create_task(stuck);
            co_await support::turns(2);
            co_await asyncio::wait_for(running, 0s);
        });
        for (int i = 0; i < 10; ++i) loop.run_once();
        CHECK(alive == 8);
        // One timeout has expired, and its task has not been resumed with it.
        loop.create_task([&]() -> asyncio::coro<> {
            const counted here(alive);
            co_await asyncio::with(asyncio::timeout(0s), [] { return asyncio::sleep(1h); });
        });
        loop.run_once();
        CHECK(alive == 9);
    }
    CHECK(alive == 0);
}

} // TEST_SUITE
