#include "support.hpp"

#include <limits>
#include <optional>
#include <ranges>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>
#include <variant>

namespace {

using asyncio::attempt;
using asyncio::circuit_breaker;
using asyncio::circuit_state;
using asyncio::duration;
using asyncio::retry;
using asyncio::retry_options;

// Fails until it has been called often enough, and notes when it was called.
class flaky {
public:
    explicit flaky(int failures) : failures_(failures) {}

    asyncio::coro<int> call() {
        times.push_back(asyncio::elapsed());
        co_await asyncio::sleep(0s);
        const int number = static_cast<int>(times.size());
        if (number <= failures_) THROW(std::runtime_error("call " + std::to_string(number)));
        co_return number;
    }

    std::vector<duration> pauses() const {
        std::vector<duration> all;
        for (std::size_t i = 1; i < times.size(); ++i) all.push_back(times[i] - times[i - 1]);
        return all;
    }

    std::vector<duration> times;

private:
    int failures_;
};

asyncio::coro<std::string> copy_after_a_second(const std::string& text) {
    co_await asyncio::sleep(1s);
    co_return text;
}

} // namespace

TEST_SUITE("retry") {

ASYNC_TEST_CASE("a call that succeeds is not repeated, and gives its value") {
    flaky service(0);
    const int value = co_await retry([&] { return service.call(); });
    CHECK(value == 1);
    CHECK(service.times.size() == 1);
    CHECK(asyncio::elapsed() == duration::zero());
}

ASYNC_TEST_CASE("attempts count the first call") {
    for (int attempts = 1; attempts <= 4; ++attempts) {
        CAPTURE(attempts);
        flaky service(100);
        const std::string last = "call " + std::to_string(attempts);
        CHECK_AWAIT_THROWS_WITH_AS(retry([&] { return service.call(); }, {.attempts = attempts}),
                                   last, std::runtime_error);
        CHECK(service.times.size() == static_cast<std::size_t>(attempts));
    }
}

ASYNC_TEST_CASE("the last error leaves at once, without another pause") {
    flaky service(100);
    const duration begin = asyncio::elapsed();
    CHECK_AWAIT_THROWS_AS(
        retry([&] { return service.call(); },
              {.attempts = 2, .initial_delay = 3s, .jitter = 0}),
        std::runtime_error);
    CHECK(asyncio::elapsed() - begin == 3s);
}

ASYNC_TEST_CASE("without jitter the pauses grow by the factor, up to the cap") {
    flaky service(6);
    const int value =
        co_await retry([&] { return service.call(); },
                       {.attempts = 7, .initial_delay = 1s, .max_delay = 20s, .jitter = 0});
    CHECK(value == 7);
    CHECK(service.pauses() == std::vector<duration>{1s, 2s, 4s, 8s, 16s, 20s});

    flaky other(3);
    co_await retry([&] { return other.call(); },
                   {.attempts = 4, .initial_delay = 100ms, .factor = 3, .jitter = 0});
    CHECK(other.pauses() == std::vector<duration>{100ms, 300ms, 900ms});
}

ASYNC_TEST_CASE("by default there are three attempts, a second and two seconds apart") {
    flaky service(100);
    CHECK_AWAIT_THROWS_AS(retry([&] { return service.call(); }), std::runtime_error);
    const std::vector<duration> pauses = service.pauses();
    REQUIRE(pauses.size() == 2);
    CHECK(pauses[0] >= 1s);
    CHECK(pauses[0] <= 1.1s);
    CHECK(pauses[1] >= 2s);
    CHECK(pauses[1] <= 2.2s);
}

ASYNC_TEST_CASE("jitter adds up to its share, and the cap comes after it") {
    double least = 1e9;
    double most = 0;
    for (int round = 0; round < 200; ++round) {
        flaky service(3);
        co_await retry(
            [&] { return service.call(); },
            {.attempts = 4, .initial_delay = 1s, .max_delay = 4.2s, .factor = 2, .jitter = 0.5});
        const std::vector<duration> pauses = service.pauses();
        REQUIRE(pauses.size() == 3);
        duration bound = 1s;
        for (const duration pause : pauses) {
            CHECK(pause >= bound);
            CHECK(pause <= bound * 1.5);
            CHECK(pause <= 4.2s);
            bound = bound * 2;
        }
        least = std::min(least, pauses[0].total_seconds());
        most = std::max(most, pauses[0].total_seconds());
    }
    CHECK(least < 1.05); // it uses the whole range
    CHECK(most > 1.45);
}

ASYNC_TEST_CASE("an enormous factor, or a delay above the cap, stays below the cap") {
    flaky service(4);
    co_await retry([&] { return service.call(); },
                   {.attempts = 5, .initial_delay = 1s, .factor = 1e300});
    const std::vector<duration> pauses = service.pauses();
    for (std::size_t i = 1; i < pauses.size(); ++i) CHECK(pauses[i] == 32s);
    flaky other(1);
    co_await retry([&] { return other.call(); }, {.initial_delay = 1h, .max_delay = 5s});
    CHECK(other.pauses() == std::vector<duration>{5s});
    flaky at_once(2);
    co_await retry([&] { return at_once.call(); }, {.initial_delay = 0s});
    CHECK(at_once.pauses() == std::vector<duration>{0s, 0s});
}

ASYNC_TEST_CASE("the predicate says which errors are worth another call") {
    int calls = 0;
    auto refuse = [&](std::errc code) -> asyncio::coro<> {
        ++calls;
        THROW(std::system_error(std::make_error_code(code)));
        co_return;
    };
    auto when_refused = [](const asyncio::error& error) {
        return error.code() == std::errc::connection_refused;
    };
    CHECK_AWAIT_THROWS_AS(
        retry([&] { return refuse(std::errc::connection_refused); }, {}, when_refused),
        std::system_error);
    CHECK(calls == 3);
    calls = 0;
    const duration begin = asyncio::elapsed();
    CHECK_AWAIT_THROWS_AS(retry([&] { return refuse(std::errc::permission_denied); }, {},
                                when_refused),
                          std::system_error);
    CHECK(calls == 1);
    CHECK(asyncio::elapsed() == begin);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("a predicate that throws ends it with its own error") {
    flaky service(5);
    auto thrower = [](const asyncio::error&) -> bool { throw std::logic_error("no idea"); };
    CHECK_AWAIT_THROWS_WITH_AS(retry([&] { return service.call(); }, {}, thrower), "no idea",
                               std::logic_error);
    CHECK(service.times.size() == 1);
}
#endif

ASYNC_TEST_CASE("the predicate is not asked about the last call") {
    flaky service(5);
    int asked = 0;
    auto count = [&](const asyncio::error&) {
        ++asked;
        return true;
    };
    CHECK_AWAIT_THROWS_AS(retry([&] { return service.call(); }, {.attempts = 3}, count),
                          std::runtime_error);
    CHECK(asked == 2);
}

ASYNC_TEST_CASE("the timeout limits each attempt, and a late one is tried again") {
    std::vector<int> ended;
    auto slow_at_first = [&](const attempt& now) -> asyncio::coro<int> {
        const int number = now.number;
        const duration pause = number < 3 ? 10s : 1s;
        const auto slept = co_await support::catching(asyncio::sleep(pause));
        if (support::holds<asyncio::cancelled_error>(slept.error)) ended.push_back(number);
        if (slept.error) co_await support::fail_with(slept.error);
        co_return number;
    };
    const duration begin = asyncio::elapsed();
    const int value = co_await retry(
        slow_at_first, {.initial_delay = 1s, .jitter = 0, .timeout = 2s});
    CHECK(value == 3);
    CHECK(ended == std::vector<int>{1, 2});
    CHECK(asyncio::elapsed() - begin == 2s + 1s + 2s + 2s + 1s);

    bool late = false;
    auto when_late = [&](const asyncio::error& error) {
        late = error.holds<asyncio::timeout_error>() && error.code() == std::errc::timed_out;
        return true;
    };
    CHECK_AWAIT_THROWS_AS(
        retry([] { return asyncio::sleep(1h); }, {.attempts = 2, .timeout = 1s}, when_late),
        asyncio::timeout_error);
    CHECK(late);
}

ASYNC_TEST_CASE("a call is told its number, the error before and the pause that would follow") {
    std::vector<int> numbers;
    std::vector<std::string> errors;
    std::vector<duration> delays;
    auto call = [&](const attempt& now) -> asyncio::coro<> {
        numbers.push_back(now.number);
        errors.push_back(now.last_error ? now.last_error->what() : "none");
        delays.push_back(now.next_delay);
        co_await asyncio::sleep(0s);
        THROW(std::runtime_error("failure " + std::to_string(now.number)));
    };
    CHECK_AWAIT_THROWS_AS(retry(call, {.initial_delay = 1s, .jitter = 0}), std::runtime_error);
    CHECK(numbers == std::vector<int>{1, 2, 3});
    CHECK(errors == std::vector<std::string>{"none", "failure 1", "failure 2"});
    CHECK(delays == std::vector<duration>{1s, 2s, 0s});
}

ASYNC_TEST_CASE("the pause that a call is told is the one that follows, jitter included") {
    std::vector<duration> told;
    std::vector<duration> begun;
    auto call = [&](const attempt& now) -> asyncio::coro<> {
        told.push_back(now.next_delay);
        begun.push_back(asyncio::elapsed());
        THROW(std::runtime_error("no luck"));
        co_return;
    };
    CHECK_AWAIT_THROWS_AS(retry(call, {.jitter = 0.5}), std::runtime_error);
    REQUIRE(begun.size() == 3);
    CHECK(begun[1] - begun[0] == told[0]);
    CHECK(begun[2] - begun[1] == told[1]);
}

ASYNC_TEST_CASE("a cancellation from outside ends it, in a call and in a pause") {
    for (const duration moment : {500ms, 1500ms}) {
        int calls = 0;
        auto call = [&]() -> asyncio::coro<> {
            ++calls;
            co_await asyncio::sleep(1s);
            THROW(std::runtime_error("no luck"));
        };
        int asked = 0;
        auto always = [&](const asyncio::error&) {
            ++asked;
            return true;
        };
        auto trying = asyncio::create_task(retry(call, {.initial_delay = 1h}, always));
        co_await asyncio::sleep(moment);
        trying.cancel();
        CHECK_AWAIT_THROWS_AS(trying, asyncio::cancelled_error);
        CHECK(calls == 1);
        CHECK(asked == (moment < 1s ? 0 : 1));
    }
}

ASYNC_TEST_CASE("a call that ends by cancellation or interrupt is not tried again") {
    int calls = 0;
    auto cancelled = [&]() -> asyncio::coro<> {
        ++calls;
        THROW(asyncio::cancelled_error("stop"));
        co_return;
    };
    CHECK_AWAIT_THROWS_AS(retry(cancelled), asyncio::cancelled_error);
    CHECK(calls == 1);
    auto group = [&]() -> asyncio::coro<> {
        ++calls;
        const std::vector<asyncio::exception_ptr> both{
            asyncio::detail::make_error(std::runtime_error("no luck")),
            asyncio::detail::make_error(asyncio::cancelled_error())};
        THROW(asyncio::base_exception_group("both", both));
        co_return;
    };
    CHECK_AWAIT_THROWS_AS(retry(group), asyncio::base_exception_group);
    CHECK(calls == 2);
    auto interrupted = [&]() -> asyncio::coro<> {
        ++calls;
        THROW(asyncio::keyboard_interrupt());
        co_return;
    };
    CHECK_AWAIT_THROWS_AS(retry(interrupted), asyncio::keyboard_interrupt);
    CHECK(calls == 3);
}

ASYNC_TEST_CASE("a cancellation beats the timeout of the attempt") {
    auto trying = asyncio::create_task(
        retry([] { return asyncio::sleep(1h); }, {.initial_delay = 0s, .timeout = 1s}));
    asyncio::get_running_loop().call_later(1s, [trying] { trying.cancel(); });
    CHECK_AWAIT_THROWS_AS(trying, asyncio::cancelled_error);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("what a plain function throws before it gives something to await counts, too") {
    int calls = 0;
    auto call = [&]() -> asyncio::coro<int> {
        return [](int number) -> asyncio::coro<int> { co_return number; }(
            ++calls < 3 ? throw std::runtime_error("not yet") : calls);
    };
    const int value = co_await retry(call);
    CHECK(value == 3);
}
#endif

ASYNC_TEST_CASE("results that can only be moved come through, and nothing as well") {
    int calls = 0;
    auto call = [&]() -> asyncio::coro<std::unique_ptr<int>> {
        if (++calls < 2) THROW(std::runtime_error("not yet"));
        co_return std::make_unique<int>(calls);
    };
    const std::unique_ptr<int> value = co_await retry(call);
    CHECK(*value == 2);
    co_await retry([] { return asyncio::sleep(1s); });
}

ASYNC_TEST_CASE("pauses that do not grow are not reckoned up from the first one each time") {
    constexpr int late = std::numeric_limits<int>::max();
    const retry_options constant{.attempts = late, .factor = 1, .jitter = 0};
    const retry_options none{.attempts = late, .initial_delay = 0s};
    // Step by step that takes hours.
    bool right = true;
    for (int i = 0; i < 10'000; ++i)
        right = right && asyncio::detail::retry_delay(constant, late) == duration(1s) &&
                asyncio::detail::retry_delay(none, late) == duration();
    CHECK(right);
    co_return;
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("options that make no sense are refused before the first call") {
    flaky service(0);
    auto call = [&] { return service.call(); };
    CHECK_THROWS_AS(retry(call, {.attempts = 0}), std::invalid_argument);
    CHECK_THROWS_AS(retry(call, {.attempts = -1}), std::invalid_argument);
    CHECK_THROWS_AS(retry(call, {.factor = 0.5}), std::invalid_argument);
    CHECK_THROWS_AS(retry(call, {.jitter = -0.1}), std::invalid_argument);
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const double infinity = std::numeric_limits<double>::infinity();
    CHECK_THROWS_AS(retry(call, {.factor = nan}), std::invalid_argument);
    CHECK_THROWS_AS(retry(call, {.jitter = nan}), std::invalid_argument);
    CHECK_THROWS_AS(retry(call, {.factor = infinity}), std::invalid_argument);
    CHECK_THROWS_AS(retry(call, {.jitter = infinity}), std::invalid_argument);
    CHECK(service.times.empty());
    co_return;
}
#endif

TEST_CASE("the pauses of a virtual clock are the same in every run") {
    auto pauses = [] {
        return asyncio::run(
            []() -> asyncio::coro<std::vector<duration>> {
                flaky service(4);
                co_await retry([&] { return service.call(); }, {.attempts = 5});
                co_return service.pauses();
            },
            {.clock = asyncio::clock_kind::virtual_time});
    };
    CHECK(pauses() == pauses());
}

} // TEST_SUITE

TEST_SUITE("circuit_breaker") {

ASYNC_TEST_CASE("it opens after failures in a row, and then calls nobody") {
    circuit_breaker breaker({.failures = 3, .open_for = 10s});
    int calls = 0;
    bool good = false;
    auto call = [&]() -> asyncio::coro<int> {
        ++calls;
        if (!good) THROW(std::runtime_error("no luck"));
        co_return calls;
    };
    for (int i = 0; i < 2; ++i) CHECK_AWAIT_THROWS_AS(breaker.call(call), std::runtime_error);
    good = true;
    const int value = co_await breaker.call(call); // a success begins the count anew
    CHECK(value == 3);
    good = false;
    for (int i = 0; i < 3; ++i) {
        CHECK(breaker.state() == circuit_state::closed);
        CHECK_AWAIT_THROWS_WITH_AS(breaker.call(call), "no luck", std::runtime_error);
    }
    CHECK(breaker.state() == circuit_state::open);
    CHECK_AWAIT_THROWS_AS(breaker.call(call), asyncio::circuit_open_error);
    CHECK(calls == 6);
}

ASYNC_TEST_CASE("after its time a trial call closes it, or opens it again") {
    circuit_breaker breaker({.failures = 1, .open_for = 10s});
    std::vector<std::pair<circuit_state, circuit_state>> changes;
    breaker.on_change(
        [&](circuit_state from, circuit_state to) { changes.emplace_back(from, to); });
    bool good = false;
    auto call = [&]() -> asyncio::coro<> {
        co_await asyncio::sleep(1s);
        if (!good) THROW(std::runtime_error("no luck"));
    };
    CHECK_AWAIT_THROWS_AS(breaker.call(call), std::runtime_error);
    co_await asyncio::sleep(9s);
    CHECK_AWAIT_THROWS_AS(breaker.call(call), asyncio::circuit_open_error);
    co_await asyncio::sleep(1s);
    CHECK(breaker.state() == circuit_state::half_open);
    auto trial = asyncio::create_task(breaker.call(call));
    co_await support::turns(2);
    CHECK_AWAIT_THROWS_AS(breaker.call(call), asyncio::circuit_open_error); // one trial at a time
    CHECK_AWAIT_THROWS_WITH_AS(trial, "no luck", std::runtime_error);
    CHECK(breaker.state() == circuit_state::open);
    co_await asyncio::sleep(10s);
    good = true;
    co_await breaker.call(call);
    CHECK(breaker.state() == circuit_state::closed);
    const auto closed = circuit_state::closed;
    const auto open = circuit_state::open;
    const auto half_open = circuit_state::half_open;
    CHECK(changes == std::vector<std::pair<circuit_state, circuit_state>>{
                         {closed, open}, {open, half_open}, {half_open, open}, {open, half_open},
                         {half_open, closed}});
}

ASYNC_TEST_CASE("it closes when all of several trials have succeeded") {
    circuit_breaker breaker({.failures = 1, .open_for = 1s, .half_open_calls = 2});
    auto fail = []() -> asyncio::coro<> {
        THROW(std::runtime_error("no luck"));
        co_return;
    };
    auto succeed = []() -> asyncio::coro<> { co_return; };
    CHECK_AWAIT_THROWS_AS(breaker.call(fail), std::runtime_error);
    co_await asyncio::sleep(1s);
    co_await breaker.call(succeed);
    CHECK(breaker.state() == circuit_state::half_open);
    co_await breaker.call(succeed);
    CHECK(breaker.state() == circuit_state::closed);
}

ASYNC_TEST_CASE("cancellations count neither as failures nor as trials") {
    circuit_breaker breaker({.failures = 2, .open_for = 1s});
    auto slow = [] { return asyncio::sleep(1h); };
    auto fail = []() -> asyncio::coro<> {
        THROW(std::runtime_error("no luck"));
        co_return;
    };
    CHECK_AWAIT_THROWS_AS(breaker.call(fail), std::runtime_error);
    auto cancelled = asyncio::create_task(breaker.call(slow));
    co_await support::turns(2);
    cancelled.cancel();
    CHECK_AWAIT_THROWS_AS(cancelled, asyncio::cancelled_error);
    CHECK(breaker.state() == circuit_state::closed);
    CHECK_AWAIT_THROWS_AS(breaker.call(fail), std::runtime_error); // the second in a row
    CHECK(breaker.state() == circuit_state::open);
    co_await asyncio::sleep(1s);
    cancelled = asyncio::create_task(breaker.call(slow));
    co_await support::turns(2);
    cancelled.cancel();
    CHECK_AWAIT_THROWS_AS(cancelled, asyncio::cancelled_error);
    co_await breaker.call([]() -> asyncio::coro<> { co_return; });
    CHECK(breaker.state() == circuit_state::closed);
}

TEST_CASE("a trial call that is destroyed before its end makes room for another one") {
    asyncio::event_loop loop({.clock = asyncio::clock_kind::manual});
    std::optional<circuit_breaker> breaker(std::in_place,
                                           asyncio::circuit_breaker_options{.failures = 1,
                                                                            .open_for = 1s});
    auto slow = [] { return asyncio::sleep(1h); };
    auto fail = []() -> asyncio::coro<> {
        THROW(std::runtime_error("no luck"));
        co_return;
    };
    const auto failed = loop.create_task(breaker->call(fail));
    loop.poll();
    CHECK(support::message_of(failed.exception()) == "no luck");
    loop.advance(1s);
    {
        asyncio::task_scope scope(loop);
        scope.create_task(breaker->call(slow));
        loop.poll();
    }
    const auto good = loop.create_task(breaker->call([]() -> asyncio::coro<> { co_return; }));
    loop.poll();
    REQUIRE(good.done());
    CHECK_FALSE(good.exception());
    CHECK(breaker->state() == circuit_state::closed);

    // One that outlives the breaker leaves it alone.
    loop.create_task(breaker->call(slow));
    loop.poll();
    breaker.reset();
}

ASYNC_TEST_CASE("the late result of an earlier state counts for nothing") {
    circuit_breaker breaker({.failures = 1, .open_for = 1s});
    auto late_failure = []() -> asyncio::coro<> {
        co_await asyncio::sleep(2s);
        THROW(std::runtime_error("late"));
    };
    auto fail = []() -> asyncio::coro<> {
        THROW(std::runtime_error("no luck"));
        co_return;
    };
    auto late = asyncio::create_task(breaker.call(late_failure));
    co_await support::turns(2);
    CHECK_AWAIT_THROWS_AS(breaker.call(fail), std::runtime_error);
    co_await asyncio::sleep(1s);
    co_await breaker.call([]() -> asyncio::coro<> { co_return; });
    CHECK(breaker.state() == circuit_state::closed);
    CHECK_AWAIT_THROWS_WITH_AS(late, "late", std::runtime_error);
    CHECK(breaker.state() == circuit_state::closed);
}

ASYNC_TEST_CASE("a circuit may stay open for ever") {
    circuit_breaker breaker({.failures = 1, .open_for = std::chrono::nanoseconds::max()});
    auto fail = []() -> asyncio::coro<> {
        THROW(std::runtime_error("no luck"));
        co_return;
    };
    co_await asyncio::sleep(1s);
    CHECK_AWAIT_THROWS_WITH_AS(breaker.call(fail), "no luck", std::runtime_error);
    co_await asyncio::sleep(std::chrono::hours(24 * 365 * 200));
    CHECK(breaker.state() == circuit_state::open);
}

ASYNC_TEST_CASE("what listens to a circuit breaker may take itself away") {
    circuit_breaker breaker({.failures = 1});
    std::vector<circuit_state> changes;
    auto alive = std::make_shared<int>();
    const std::weak_ptr<int> watch = alive;
    bool alive_in_it = false;
    breaker.on_change([&, kept = std::move(alive)](circuit_state, circuit_state to) {
        breaker.on_change({});
        alive_in_it = !watch.expired();
        changes.push_back(to);
    });
    auto fail = []() -> asyncio::coro<> {
        THROW(std::runtime_error("no luck"));
        co_return;
    };
    CHECK_AWAIT_THROWS_AS(breaker.call(fail), std::runtime_error);
    co_await asyncio::sleep(60s);
    co_await breaker.call([]() -> asyncio::coro<> { co_return; });
    CHECK(changes == std::vector<circuit_state>{circuit_state::open});
    CHECK(alive_in_it);
    CHECK(watch.expired());
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("a circuit breaker's numbers are at least one") {
    CHECK_THROWS_AS(circuit_breaker({.failures = 0}), std::invalid_argument);
    CHECK_THROWS_AS(circuit_breaker({.half_open_calls = 0}), std::invalid_argument);
}
#endif

} // TEST_SUITE

TEST_SUITE("rate_limiter") {

ASYNC_TEST_CASE_ORDERED("what is saved up goes at once, then turns come at the rate, in order") {
    asyncio::rate_limiter limiter({.rate = 2, .per = 1s, .burst = 3});
    std::vector<int> order;
    std::vector<duration> times;
    auto call = [&](int number) -> asyncio::coro<> {
        co_await limiter.acquire();
        order.push_back(number);
        times.push_back(asyncio::elapsed());
    };
    std::vector<asyncio::task<>> tasks;
    for (int i = 0; i < 6; ++i) tasks.push_back(asyncio::create_task(call(i)));
    co_await asyncio::wait(tasks);
    CHECK(order == std::vector<int>{0, 1, 2, 3, 4, 5});
    const std::vector<duration> due{0s, 0s, 0s, 500ms, 1s, 1500ms};
    for (std::size_t i = 0; i < due.size(); ++i) {
        CHECK(times[i] >= due[i]);
        CHECK(times[i] <= due[i] + 1us);
    }
}

ASYNC_TEST_CASE("no more than the burst is saved up") {
    asyncio::rate_limiter limiter({.rate = 10, .per = 1s, .burst = 2});
    co_await asyncio::sleep(1h);
    const duration begin = asyncio::elapsed();
    for (int i = 0; i < 2; ++i) co_await limiter.acquire();
    CHECK(asyncio::elapsed() == begin);
    co_await asyncio::sleep(1h);
    const duration later = asyncio::elapsed();
    for (int i = 0; i < 3; ++i) co_await limiter.acquire();
    CHECK(asyncio::elapsed() - later >= 100ms);
    CHECK(asyncio::elapsed() - later <= 101ms);
}

ASYNC_TEST_CASE("a cancelled wait takes no turn, and lets the next one forward") {
    asyncio::rate_limiter limiter({.rate = 1, .per = 1s});
    co_await limiter.acquire();
    auto first = asyncio::create_task(limiter.acquire());
    auto second = asyncio::create_task(limiter.acquire());
    co_await asyncio::sleep(500ms);
    first.cancel();
    CHECK_AWAIT_THROWS_AS(first, asyncio::cancelled_error);
    co_await second;
    CHECK(asyncio::elapsed() >= 1s);
    CHECK(asyncio::elapsed() <= 1001ms);
}

ASYNC_TEST_CASE("a rate limiter that goes gives those who wait their turns all the same") {
    auto limiter = std::make_unique<asyncio::rate_limiter>(
        asyncio::rate_limiter_options{.rate = 1, .per = 1s});
    co_await limiter->acquire();
    auto first = asyncio::create_task(limiter->acquire());
    auto second = asyncio::create_task(limiter->acquire());
    co_await asyncio::sleep(500ms);
    limiter.reset();
    co_await first;
    CHECK(asyncio::elapsed() >= 1s);
    co_await second;
    CHECK(asyncio::elapsed() >= 2s);
    CHECK(asyncio::elapsed() <= 2001ms);
}

TEST_CASE("who stands still at the head of a rate limiter's line holds up nobody") {
    asyncio::event_loop loop({.clock = asyncio::clock_kind::manual});
    asyncio::time_stream world(loop);
    asyncio::rate_limiter limiter({.rate = 1, .per = 1s});
    const auto in_the_world = loop.create_task(
        [&]() -> asyncio::coro<> {
            co_await limiter.acquire();
            co_await limiter.acquire();
        },
        {.clock = &world});
    loop.poll();
    world.pause();
    const auto outside = loop.create_task(limiter.acquire());
    loop.advance(1s + 1us);
    CHECK(in_the_world.done());
    CHECK_FALSE(outside.done());
    loop.advance(1s);
    CHECK(outside.done());
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("a rate limiter's numbers are positive") {
    using asyncio::rate_limiter;
    const double nan = std::numeric_limits<double>::quiet_NaN();
    CHECK_THROWS_AS(rate_limiter({.rate = 0}), std::invalid_argument);
    CHECK_THROWS_AS(rate_limiter({.rate = nan}), std::invalid_argument);
    CHECK_THROWS_AS(rate_limiter({.per = 0s}), std::invalid_argument);
    CHECK_THROWS_AS(rate_limiter({.burst = 0.5}), std::invalid_argument);
}
#endif

} // TEST_SUITE

TEST_SUITE("map") {

ASYNC_TEST_CASE("the results stand in the order of the items, or in that of their coming") {
    const std::vector<int> items{3, 1, 2};
    auto twice = [](int item) -> asyncio::coro<int> {
        co_await asyncio::sleep(std::chrono::seconds(item));
        co_return 2 * item;
    };
    const std::vector<int> in_order = co_await asyncio::map(items, twice);
    CHECK(in_order == std::vector<int>{6, 2, 4});
    CHECK(asyncio::elapsed() == 3s); // all at the same time
    const std::vector<int> as_they_come = co_await asyncio::map(items, twice, {.ordered = false});
    CHECK(as_they_come == std::vector<int>{2, 4, 6});
    const std::vector<int> none = co_await asyncio::map(std::vector<int>(), twice);
    CHECK(none.empty());
}

ASYNC_TEST_CASE("no more calls than the limit run at the same time") {
    int running = 0;
    int most = 0;
    auto call = [&](int) -> asyncio::coro<> {
        most = std::max(most, ++running);
        co_await asyncio::sleep(1s);
        --running;
    };
    const std::vector<int> items(10);
    co_await asyncio::map(items, call, {.limit = 3});
    CHECK(most == 3);
    CHECK(asyncio::elapsed() == 4s);
    CHECK_THROWS_AS(asyncio::map(items, call, {.limit = 0}), std::invalid_argument);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("what a plain function throws to map() is an outcome as well") {
    auto once = [](int item) -> asyncio::coro<int> { co_return item; };
    auto plain = [&](int item) {
        if (item == 2) throw std::runtime_error("not two");
        return once(item);
    };
    const std::vector<int> items{1, 2, 3};
    const auto outcomes = co_await asyncio::map(asyncio::return_exceptions, items, plain);
    REQUIRE(outcomes.size() == 3);
    CHECK(outcomes[0].value() == 1);
    CHECK(outcomes[1].error().what() == std::string("not two"));
    CHECK(outcomes[2].value() == 3);
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::map(items, plain), "not two", std::runtime_error);
}
#endif

ASYNC_TEST_CASE("map() keeps the items of a vector<bool>, not what refers to them") {
    const auto inverse = [](bool b) -> asyncio::coro<bool> {
        co_await asyncio::sleep(1s);
        co_return !b;
    };
    auto bits = std::make_unique<std::vector<bool>>();
    *bits = {true, false};
    auto mapped = asyncio::map(*bits, inverse);
    bits.reset();
    const std::vector<bool> got = co_await std::move(mapped);
    CHECK(got == std::vector<bool>{false, true});
}

ASYNC_TEST_CASE("what an item of map() is converted to lives as long as its call") {
    const std::vector<const char*> items{"text that is too long for a string without memory",
                                         "another text that is too long for that"};
    const auto plain = co_await asyncio::map(items, copy_after_a_second);
    const auto outcomes =
        co_await asyncio::map(asyncio::return_exceptions, items, copy_after_a_second);
    for (std::size_t i = 0; i < items.size(); ++i) {
        CHECK(plain[i] == items[i]);
        CHECK(outcomes[i].value() == items[i]);
    }
}

ASYNC_TEST_CASE("map() leaves what a view shows where it is, and results need no assignment") {
    const std::string text = "text that is too long for a string without memory";
    std::vector<std::string> items{text, "b"};
    struct unchanging {
        explicit unchanging(std::string t) : value(std::move(t)) {}
        const std::string value;
    };
    const auto keep = [](std::string t) -> asyncio::coro<unchanging> {
        co_return unchanging(std::move(t));
    };
    const auto kept = co_await asyncio::map(items | std::views::take(1), keep);
    CHECK(kept.front().value == text);
    CHECK(items.front() == text);
}

ASYNC_TEST_CASE("a call of map() that somebody else cancels gives no result, but a cancellation") {
    auto call = [](int item) -> asyncio::coro<int> {
        co_await asyncio::sleep(1s);
        co_return item;
    };
    auto nothing = [](int) -> asyncio::coro<> { co_await asyncio::sleep(1s); };
    // The task of the only call, which is the newest one.
    const auto cancel_newest = [] { asyncio::all_tasks().back().cancel(); };
    const std::vector<int> items{1, 2, 3};
    auto& loop = asyncio::get_running_loop();
    loop.call_later(1500ms, cancel_newest);
    CHECK_AWAIT_THROWS_AS(asyncio::map(items, call, {.limit = 1}), asyncio::cancelled_error);
    CHECK(asyncio::elapsed() == 1500ms);
    loop.call_later(1500ms, cancel_newest);
    CHECK_AWAIT_THROWS_AS(asyncio::map(items, nothing, {.limit = 1}), asyncio::cancelled_error);
    for (const bool ordered : {true, false}) {
        loop.call_later(1500ms, cancel_newest);
        const auto outcomes = co_await asyncio::map(asyncio::return_exceptions, items, call,
                                                    {.limit = 1, .ordered = ordered});
        REQUIRE(outcomes.size() == 3);
        CHECK(outcomes[0].value() == 1);
        CHECK(outcomes[1].error().holds<asyncio::cancelled_error>());
        CHECK(outcomes[2].error().holds<asyncio::cancelled_error>());
    }
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE_ORDERED("the first failure cancels the others and is thrown as it is") {
    std::vector<int> cancelled;
    int begun = 0;
    auto call = [&](int item) -> asyncio::coro<int> {
        ++begun;
        const auto slept = co_await support::catching(asyncio::sleep(std::chrono::seconds(item)));
        if (support::holds<asyncio::cancelled_error>(slept.error)) cancelled.push_back(item);
        if (slept.error) co_await support::fail_with(slept.error);
        if (item == 2) THROW(std::out_of_range("item 2"));
        co_return item;
    };
    const std::vector<int> items{3, 2, 1, 4, 5};
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::map(items, call, {.limit = 3}), "item 2",
                               std::out_of_range);
    CHECK(cancelled == std::vector<int>{3, 4});
    CHECK(begun == 4);
    CHECK(asyncio::elapsed() == 2s);
}

ASYNC_TEST_CASE("cancelling map cancels the calls and waits for them") {
    int ended = 0;
    auto call = [&](int) -> asyncio::coro<> {
        const auto slept = co_await support::catching(asyncio::sleep(1h));
        co_await asyncio::sleep(1s);
        ++ended;
        if (slept.error) co_await support::fail_with(slept.error);
    };
    const std::vector<int> items(4);
    auto mapping = asyncio::create_task(asyncio::map(items, call));
    co_await asyncio::sleep(1s);
    mapping.cancel();
    CHECK_AWAIT_THROWS_AS(mapping, asyncio::cancelled_error);
    CHECK(ended == 4);
}

ASYNC_TEST_CASE("with return_exceptions every item has an outcome") {
    auto call = [](std::unique_ptr<int> item) -> asyncio::coro<std::unique_ptr<int>> {
        co_await asyncio::sleep(0s);
        if (*item == 2) THROW(std::out_of_range("item 2"));
        if (*item == 3) THROW(asyncio::cancelled_error("stop"));
        co_return item;
    };
    std::vector<std::unique_ptr<int>> items; // which can only be moved
    for (const int number : {1, 2, 3, 4}) items.push_back(std::make_unique<int>(number));
    const auto results =
        co_await asyncio::map(asyncio::return_exceptions, std::move(items), call, {.limit = 2});
    REQUIRE(results.size() == 4);
    CHECK(*results[0].value() == 1);
    CHECK(results[1].error().holds<std::out_of_range>());
    CHECK(results[2].error().holds<asyncio::cancelled_error>());
    CHECK(*results[3].value() == 4);
}

} // TEST_SUITE

TEST_SUITE("map_stream") {

asyncio::coro<int> twice_after(int seconds) {
    co_await asyncio::sleep(std::chrono::seconds(seconds));
    co_return 2 * seconds;
}

template <class T>
asyncio::coro<std::vector<T>> all_of(asyncio::async_generator<T> values) {
    std::vector<T> all;
    while (auto value = co_await values.next()) all.push_back(std::move(*value));
    co_return all;
}

ASYNC_TEST_CASE("a stream's results come in the order of the items, or as they are there") {
    const std::vector<int> items{3, 1, 2};
    const std::vector<int> in_order = co_await all_of(asyncio::map_stream(items, twice_after));
    CHECK(in_order == std::vector<int>{6, 2, 4});
    CHECK(asyncio::elapsed() == 3s); // all at the same time
    auto stream = asyncio::map_stream(items, twice_after, {.ordered = false});
    const std::vector<int> as_they_come = co_await all_of(std::move(stream));
    CHECK(as_they_come == std::vector<int>{2, 4, 6});
    const std::vector<int> none =
        co_await all_of(asyncio::map_stream(std::vector<int>(), twice_after));
    CHECK(none.empty());
    CHECK_THROWS_AS(static_cast<void>(asyncio::map_stream(items, twice_after, {.limit = 0})),
                    std::invalid_argument);
}

ASYNC_TEST_CASE("an item that a range makes, or soon replaces, lives as long as its call") {
    const auto make = [](int i) { return std::string(40, static_cast<char>('a' + i)); };
    const auto made = std::views::iota(0, 3) | std::views::transform(make);
    const auto of_made = co_await all_of(asyncio::map_stream(made, copy_after_a_second));
    CHECK(of_made == std::vector<std::string>{make(0), make(1), make(2)});

    const std::vector<const char*> converted{"text that is too long for a string without memory"};
    const auto of_converted = co_await all_of(asyncio::map_stream(converted, copy_after_a_second));
    CHECK(of_converted.front() == converted.front());

    std::istringstream words("one two three");
    auto read = std::views::istream<std::string>(words);
    const auto of_read = co_await all_of(asyncio::map_stream(read, copy_after_a_second));
    CHECK(of_read == std::vector<std::string>{"one", "two", "three"});
}

ASYNC_TEST_CASE("of a range without an end as many items are taken as results, and the limit") {
    for (const bool ordered : {true, false}) {
        int begun = 0;
        int running = 0;
        int most = 0;
        auto call = [&](int item) -> asyncio::coro<int> {
            ++begun;
            most = std::max(most, ++running);
            co_await asyncio::sleep(1s);
            --running;
            co_return item;
        };
        auto stream = asyncio::map_stream(std::views::iota(0), call,
                                          {.limit = 3, .ordered = ordered});
        CHECK(begun == 0); // nothing happens before the first next()
        for (int i = 0; i < 10; ++i) {
            const auto result = co_await stream.next();
            REQUIRE(result);
            CHECK(*result == i);
        }
        co_await asyncio::sleep(1h); // who does not take waits for nobody
        CHECK(begun == 12);
        CHECK(most == 3);
        co_await stream.aclose();
    }
}

ASYNC_TEST_CASE("without a limit sixteen calls are under way") {
    int begun = 0;
    auto call = [&](int) -> asyncio::coro<> {
        ++begun;
        co_await asyncio::sleep(1s);
    };
    auto stream = asyncio::map_stream(std::views::iota(0), call);
    const std::optional<std::monostate> first = co_await stream.next();
    CHECK(first.has_value());
    CHECK(begun == 16);
    co_await stream.aclose();
}

ASYNC_TEST_CASE_ORDERED("a failure is thrown in its turn, when the other calls have been cancelled and ended") {
    std::vector<int> cancelled;
    auto call = [&](int item) -> asyncio::coro<int> {
        if (item == 2) THROW(std::out_of_range("item 2"));
        const auto slept = co_await support::catching(asyncio::sleep(std::chrono::seconds(item)));
        if (slept.error) {
            CHECK(support::holds<asyncio::cancelled_error>(slept.error));
            co_await asyncio::sleep(1s); // cleans up
            cancelled.push_back(item);
            co_await support::fail_with(slept.error);
        }
        co_return item;
    };
    const std::vector<int> items{1, 2, 3, 4};
    auto stream = asyncio::map_stream(items, call);
    const std::optional<int> first = co_await stream.next();
    CHECK(first == 1);
    CHECK_AWAIT_THROWS_WITH_AS(stream.next(), "item 2", std::out_of_range);
    CHECK(cancelled == std::vector<int>{3, 4});
    CHECK(asyncio::elapsed() == 2s);
    const std::optional<int> more = co_await stream.next();
    CHECK_FALSE(more.has_value());
}

ASYNC_TEST_CASE("with return_exceptions a stream goes on after a failure") {
    auto call = [](int item) -> asyncio::coro<int> {
        co_await asyncio::sleep(1s);
        if (item == 1) THROW(std::out_of_range("item 1"));
        if (item == 2) THROW(asyncio::cancelled_error("stop"));
        co_return item;
    };
    const auto results = co_await all_of(
        asyncio::map_stream(asyncio::return_exceptions, std::views::iota(0, 4), call));
    REQUIRE(results.size() == 4);
    CHECK(results[0].value() == 0);
    CHECK(results[1].error().holds<std::out_of_range>());
    CHECK(results[2].error().holds<asyncio::cancelled_error>());
    CHECK(results[3].value() == 3);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("with return_exceptions what a plain function throws is an outcome of the stream") {
    auto doubled = [](int item) -> asyncio::coro<int> { co_return 2 * item; };
    auto call = [&](int item) {
        if (item == 1) throw std::out_of_range("item 1");
        return doubled(item);
    };
    const auto results = co_await all_of(
        asyncio::map_stream(asyncio::return_exceptions, std::views::iota(0, 3), call));
    REQUIRE(results.size() == 3);
    CHECK(results[0].value() == 0);
    CHECK(results[1].error().holds<std::out_of_range>());
    CHECK(results[2].value() == 4);
}
#endif

ASYNC_TEST_CASE("a stream's function and its range live until the calls have ended") {
    struct {
        std::weak_ptr<int> function, item;
        bool ended = false, lived = false;
    } seen;
    {
        auto call = [kept = std::make_shared<int>(0),
                     &seen](const std::shared_ptr<int>& item) -> asyncio::coro<> {
            if (*item == 1) co_return;
            seen.function = kept;
            seen.item = item;
            co_await support::catching(asyncio::sleep(1h));
            co_await asyncio::sleep(1s); // cleans up
            seen.lived = !seen.function.expired() && !seen.item.expired();
            seen.ended = true;
        };
        std::vector<std::shared_ptr<int>> items{std::make_shared<int>(1), std::make_shared<int>(2)};
        auto stream = asyncio::map_stream(std::move(items), std::move(call));
        const auto first = co_await stream.next();
        CHECK(first.has_value());
    }
    co_await asyncio::sleep(2s);
    CHECK(seen.ended);
    CHECK(seen.lived);
    CHECK(seen.function.expired());
    CHECK(seen.item.expired());
}

ASYNC_TEST_CASE("a cancelled next(), aclose() and the generator's end cancel a stream's calls") {
    int ended = 0;
    auto call = [&](int) -> asyncio::coro<> {
        const auto slept = co_await support::catching(asyncio::sleep(1h));
        co_await asyncio::sleep(1s);
        ++ended;
        if (slept.error) co_await support::fail_with(slept.error);
    };
    auto fast_then_slow = [&](int item) -> asyncio::coro<> {
        if (item > 0) co_await call(item);
    };
    auto stream = asyncio::map_stream(std::views::iota(0, 4), call);
    auto waiting = asyncio::create_task(stream.next());
    co_await asyncio::sleep(1s);
    waiting.cancel();
    co_await asyncio::sleep(500ms);
    waiting.cancel(); // in the middle of the clean-up
    CHECK_AWAIT_THROWS_AS(waiting, asyncio::cancelled_error);
    CHECK(ended == 4);

    auto closed = asyncio::map_stream(std::views::iota(0, 4), fast_then_slow);
    static_cast<void>(co_await closed.next());
    co_await closed.aclose();
#if defined(ASYNCIO_NO_EXCEPTIONS)
    CHECK(ended == 4); // it just ends the stream, and does not wait for its calls
    CHECK(asyncio::all_tasks().size() == 4);
    co_await asyncio::sleep(2s);
#endif
    CHECK(ended == 7);

    {
        auto dropped = asyncio::map_stream(std::views::iota(0, 4), fast_then_slow);
        static_cast<void>(co_await dropped.next());
    }
    CHECK(asyncio::all_tasks().size() == 4); // they are told, and clean up
    co_await asyncio::sleep(2s);
    CHECK(ended == 10);
    CHECK(asyncio::all_tasks().size() == 1);
}

} // TEST_SUITE
