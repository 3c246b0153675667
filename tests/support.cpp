#include "support.hpp"

#include <array>
#include <cerrno>
#include <concepts>
#include <cstdint>
#include <cstring>
#include <limits>
#include <new>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <thread>
#include <type_traits>
#include <utility>

namespace {

using asyncio::base_exception_group;
using asyncio::duration;
using asyncio::exception_group;
using asyncio::outcome;
using asyncio::time_point;

using messages = std::vector<std::string>;

template <class E, class... Args>
std::exception_ptr made(Args&&... args) {
    return std::make_exception_ptr(E(std::forward<Args>(args)...));
}

template <class... Es>
std::exception_ptr group_of(std::string message, Es... errors) {
    return made<exception_group>(std::move(message), std::vector<std::exception_ptr>{errors...});
}

messages leaves(const base_exception_group& group) {
    messages all;
    for (const std::exception_ptr& error : group.exceptions())
        for (std::string& text : support::leaf_messages(error)) all.push_back(std::move(text));
    return all;
}

std::string tree(const base_exception_group& group) {
    std::ostringstream out;
    out << group;
    return out.str();
}

// An error of the kinds that Python's `except*` tells apart.
//   root (value 1, [value 2, runtime 3, [runtime 4]], [runtime 5])
exception_group mixed() {
    return exception_group(
        "root", {made<std::invalid_argument>("value 1"),
                 group_of("first", made<std::invalid_argument>("value 2"),
                          made<std::runtime_error>("runtime 3"),
                          group_of("deep", made<std::runtime_error>("runtime 4"))),
                 group_of("second", made<std::runtime_error>("runtime 5"))});
}

// Python's except* E: takes what matches out of `left`, a naked error or a group, and hands it
// to `handler` as a group.
template <class E, class F>
void except_star(std::exception_ptr& left, F handler) {
    if (!left) return;
    std::optional<exception_group> group;
    try {
        std::rethrow_exception(left);
    } catch (const exception_group& caught) {
        group = caught;
    } catch (const E&) {
        handler(exception_group("", {left}));
        left = nullptr;
        return;
    } catch (...) {
        return;
    }
    auto [mine, others] = group->split<E>();
    left = others ? std::make_exception_ptr(*others) : nullptr;
    if (mine) handler(*mine);
}

class counted {
public:
    void add_ref() noexcept { ++references; }
    void release() noexcept { --references; }
    int references = 0;
};

// A coroutine whose frame holds `Size` bytes that must stay as they are.
template <std::size_t Size>
asyncio::coro<std::size_t> frame_of(unsigned char mark, bool pause) {
    std::array<unsigned char, Size> bytes;
    bytes.fill(mark);
    if (pause) co_await asyncio::sleep(0s);
    std::size_t same = 0;
    for (const unsigned char byte : bytes) same += byte == mark ? 1U : 0U;
    co_return same;
}

std::vector<asyncio::coro<std::size_t>> frames(unsigned char mark) {
    std::vector<asyncio::coro<std::size_t>> made_here;
    for (int i = 0; i < 20; ++i) {
        const bool pause = i % 2 == 0;
        made_here.push_back(frame_of<8>(mark, pause));
        made_here.push_back(frame_of<100>(mark, pause));
        made_here.push_back(frame_of<500>(mark, pause));
        made_here.push_back(frame_of<900>(mark, pause));
        made_here.push_back(frame_of<2000>(mark, pause));
    }
    return made_here;
}

// Runs four fifths of them at the same time, and destroys the rest unrun.
std::size_t use(std::vector<asyncio::coro<std::size_t>> work) {
    return asyncio::run([&]() -> asyncio::coro<std::size_t> {
        std::vector<asyncio::coro<std::size_t>> run_these;
        for (std::size_t i = 0; i < work.size(); ++i)
            if (i % 5 != 4) run_these.push_back(std::move(work[i]));
        const std::vector<std::size_t> sizes = co_await asyncio::gather(std::move(run_these));
        std::size_t sum = 0;
        for (const std::size_t size : sizes) sum += size;
        co_return sum;
    });
}

} // namespace

TEST_SUITE("exceptions") {

TEST_CASE("cancelled_error and keyboard_interrupt are no std::exceptions") {
    static_assert(!std::derived_from<asyncio::cancelled_error, std::exception>);
    static_assert(!std::derived_from<asyncio::keyboard_interrupt, std::exception>);
    CHECK(std::string(asyncio::cancelled_error().what()).empty());
    CHECK(std::string(asyncio::cancelled_error("enough").what()) == "enough");
    CHECK(std::string(asyncio::keyboard_interrupt().what()).empty());
    CHECK(std::string(asyncio::keyboard_interrupt("Ctrl-C").what()) == "Ctrl-C");
}

TEST_CASE("the others are the standard errors that stand for Python's") {
    static_assert(std::derived_from<asyncio::timeout_error, std::runtime_error>);
    static_assert(std::derived_from<asyncio::invalid_state_error, std::logic_error>);
    static_assert(std::derived_from<asyncio::queue_empty, std::runtime_error>);
    static_assert(std::derived_from<asyncio::queue_full, std::runtime_error>);
    static_assert(std::derived_from<asyncio::queue_shut_down, std::runtime_error>);
    static_assert(std::derived_from<asyncio::broken_barrier_error, std::runtime_error>);
    static_assert(std::derived_from<asyncio::worker_crashed, asyncio::broken_executor>);
    static_assert(std::derived_from<asyncio::broken_executor, std::runtime_error>);
    static_assert(std::derived_from<asyncio::remote_error, std::runtime_error>);
    static_assert(std::derived_from<asyncio::codec_error, std::runtime_error>);
    CHECK(std::string(asyncio::timeout_error("late").what()) == "late");
    CHECK_FALSE(std::string(asyncio::timeout_error().what()).empty());
}

TEST_CASE("errors of streams and workers carry their details") {
    const asyncio::incomplete_read_error sized("abc", 10);
    CHECK(sized.partial() == "abc");
    CHECK(sized.expected() == 10);
    CHECK(std::string(sized.what()).find("3 bytes, expected 10") != std::string::npos);
    const asyncio::incomplete_read_error separated("", std::nullopt);
    CHECK_FALSE(separated.expected().has_value());
    const asyncio::limit_overrun_error overrun("too long", 7);
    CHECK(overrun.consumed() == 7);
    const asyncio::worker_crashed crash("gone", 11, 0);
    CHECK(crash.signal() == 11);
    CHECK(crash.exit_code() == 0);
    const asyncio::remote_error remote("their::error", "no luck");
    CHECK(remote.type_name() == "their::error");
    CHECK(std::string(remote.what()) == "no luck");
}

TEST_CASE("EG-01: a group is made of at least one error, and of no null pointer") {
    CHECK_THROWS_AS(exception_group("none", {}), std::invalid_argument);
    CHECK_THROWS_AS(base_exception_group("none", {}), std::invalid_argument);
    CHECK_THROWS_AS(exception_group("null", {nullptr}), std::invalid_argument);
    CHECK_THROWS_AS(base_exception_group("null", {made<asyncio::cancelled_error>(), nullptr}),
                    std::invalid_argument);
    const exception_group group("two", {made<std::logic_error>("a"), made<std::logic_error>("b")});
    CHECK(group.message() == "two");
    CHECK(group.exceptions().size() == 2);
    CHECK(std::string(group.what()) == "two (2 sub-exceptions)");
    const exception_group one("one", {made<std::logic_error>("a")});
    CHECK(std::string(one.what()) == "one (1 sub-exception)");
}

TEST_CASE("EG-01: a handler of ordinary errors catches a group of them, and no other group") {
    std::string caught;
    try {
        throw mixed();
    } catch (const std::exception& error) {
        caught = error.what();
    }
    CHECK(caught == "root (3 sub-exceptions)");

    for (const auto& fatal :
         {made<asyncio::keyboard_interrupt>(), made<asyncio::cancelled_error>()}) {
        const std::vector<std::exception_ptr> errors{made<std::logic_error>("ordinary"), fatal};
        CHECK_THROWS_AS(exception_group("ordinary?", errors), std::invalid_argument);
        const auto inner = made<base_exception_group>("base", errors);
        CHECK_THROWS_AS(exception_group("nested", {inner}), std::invalid_argument);
        bool as_base = false;
        try {
            throw base_exception_group("base", errors);
        } catch (const std::exception&) {
        } catch (const base_exception_group&) {
            as_base = true;
        }
        CHECK(as_base);
    }
    CHECK_NOTHROW(exception_group("anything else is ordinary", {std::make_exception_ptr(42)}));
}

TEST_CASE("EG-02: split keeps the nesting, leaves empty parts out and the original as it was") {
    const exception_group group = mixed();
    const std::string before = tree(group);
    const auto [values, others] = group.split<std::invalid_argument>();
    REQUIRE(values.has_value());
    REQUIRE(others.has_value());
    CHECK(tree(*values) == "root (2 sub-exceptions)\n"
                           "|-- std::invalid_argument: value 1\n"
                           "`-- first (1 sub-exception)\n"
                           "    `-- std::invalid_argument: value 2\n");
    CHECK(tree(*others) == "root (2 sub-exceptions)\n"
                           "|-- first (2 sub-exceptions)\n"
                           "|   |-- std::runtime_error: runtime 3\n"
                           "|   `-- deep (1 sub-exception)\n"
                           "|       `-- std::runtime_error: runtime 4\n"
                           "`-- second (1 sub-exception)\n"
                           "    `-- std::runtime_error: runtime 5\n");
    CHECK(tree(group) == before);

    const auto [all, none] = group.split<std::exception>();
    REQUIRE(all.has_value());
    CHECK(tree(*all) == before);
    CHECK_FALSE(none.has_value());
    const auto [nothing, rest] = group.split<std::bad_alloc>();
    CHECK_FALSE(nothing.has_value());
    REQUIRE(rest.has_value());
    CHECK(tree(*rest) == before);
}

TEST_CASE("EG-02: subgroup is the matching part") {
    const exception_group group = mixed();
    const std::optional<exception_group> runtime = group.subgroup<std::runtime_error>();
    REQUIRE(runtime.has_value());
    CHECK(leaves(*runtime) == messages{"runtime 3", "runtime 4", "runtime 5"});
    CHECK_FALSE(group.subgroup<std::bad_alloc>().has_value());
}

TEST_CASE("EG-02: a type matches by its bases; groups match as a whole only as groups") {
    const exception_group group("root", {made<asyncio::timeout_error>("late"),
                                         group_of("inner", std::make_exception_ptr(42),
                                                  made<std::runtime_error>("no luck"))});
    const auto [standard, others] = group.split<std::exception>();
    REQUIRE(standard.has_value());
    REQUIRE(others.has_value());
    CHECK(leaves(*standard) == messages{"late", "no luck"});
    CHECK(leaves(*others) == messages{"42"});
    CHECK(leaves(*group.subgroup<std::runtime_error>()) == messages{"late", "no luck"});
    CHECK(leaves(*group.subgroup<int>()) == messages{"42"});
    CHECK(leaves(*group.subgroup<exception_group>()) == messages{"42", "no luck"});
}

TEST_CASE("EG-02: parts of a base group that hold ordinary errors only are ordinary inside") {
    const base_exception_group inner(
        "inner", {made<std::runtime_error>("no luck"), made<asyncio::cancelled_error>("stop")});
    const base_exception_group group(
        "root", {std::make_exception_ptr(inner), made<asyncio::keyboard_interrupt>("Ctrl-C")});
    const auto [ordinary, others] = group.split<std::exception>();
    REQUIRE(ordinary.has_value());
    REQUIRE(others.has_value());
    CHECK(leaves(*ordinary) == messages{"no luck"});
    CHECK(leaves(*others) == messages{"stop", "Ctrl-C"});
    CHECK(support::holds<std::exception>(ordinary->exceptions().at(0)));
    CHECK_FALSE(support::holds<std::exception>(others->exceptions().at(0)));
    CHECK(leaves(*group.subgroup<asyncio::cancelled_error>()) == messages{"stop"});
}

TEST_CASE("EG-03: each handler takes its leaves, and what nobody took goes on as a group") {
    std::exception_ptr left = std::make_exception_ptr(mixed());
    messages values;
    messages allocations;
    except_star<std::invalid_argument>(left, [&](const exception_group& group) {
        values = leaves(group);
    });
    except_star<std::bad_alloc>(left, [&](const exception_group& group) {
        allocations = leaves(group);
    });
    CHECK(values == messages{"value 1", "value 2"});
    CHECK(allocations.empty());
    REQUIRE(support::holds<exception_group>(left));
    CHECK(support::leaf_messages(left) == messages{"runtime 3", "runtime 4", "runtime 5"});
    messages runtime;
    except_star<std::runtime_error>(left, [&](const exception_group& group) {
        runtime = leaves(group);
    });
    CHECK(runtime == messages{"runtime 3", "runtime 4", "runtime 5"});
    CHECK(left == nullptr);
}

TEST_CASE("EG-03: a naked error comes to its handler in a group") {
    std::exception_ptr left = made<std::runtime_error>("alone");
    messages runtime;
    except_star<std::invalid_argument>(left, [](const exception_group&) { CHECK(false); });
    except_star<std::runtime_error>(left, [&](const exception_group& group) {
        CHECK(group.exceptions().size() == 1);
        runtime = leaves(group);
    });
    CHECK(runtime == messages{"alone"});
    CHECK(left == nullptr);
}

ASYNC_TEST_CASE("EG-03: the group of a task_group is taken apart in the same way") {
    std::exception_ptr left;
    try {
        auto fail = [](std::exception_ptr error) -> asyncio::coro<> {
            std::rethrow_exception(std::move(error));
            co_return;
        };
        co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
            tg.create_task(fail, made<std::invalid_argument>("value"));
            tg.create_task(fail, made<std::runtime_error>("runtime"));
        });
    } catch (...) {
        left = std::current_exception();
    }
    messages values;
    except_star<std::invalid_argument>(left, [&](const exception_group& group) {
        values = leaves(group);
    });
    CHECK(values == messages{"value"});
    CHECK(support::leaf_messages(left) == messages{"runtime"});
}

TEST_CASE("contains and for_each look at every leaf, in depth") {
    const exception_group group = mixed();
    CHECK(group.contains<std::invalid_argument>());
    CHECK(group.contains<std::logic_error>());
    CHECK(group.contains<std::exception>());
    CHECK(group.contains<exception_group>());
    CHECK_FALSE(group.contains<std::bad_alloc>());
    CHECK_FALSE(group.contains<asyncio::cancelled_error>());
    messages runtime;
    group.for_each<std::runtime_error>(
        [&](const std::runtime_error& error) { runtime.push_back(error.what()); });
    CHECK(runtime == messages{"runtime 3", "runtime 4", "runtime 5"});
    messages all;
    group.for_each<std::exception>(
        [&](const std::exception& error) { all.push_back(error.what()); });
    CHECK(all == messages{"value 1", "value 2", "runtime 3", "runtime 4", "runtime 5"});
    messages groups;
    group.for_each<exception_group>(
        [&](const exception_group& inner) { groups.push_back(inner.message()); });
    CHECK(groups == messages{"first", "second"});
}

TEST_CASE("a group prints as a tree, each error with its type") {
    const base_exception_group group(
        "several things failed",
        {made<std::invalid_argument>("wrong"), std::make_exception_ptr(42),
         group_of("inner", made<asyncio::timeout_error>("late"), made<std::logic_error>("never")),
         made<asyncio::cancelled_error>("stop"), made<asyncio::cancelled_error>()});
    CHECK(tree(group) == "several things failed (5 sub-exceptions)\n"
                         "|-- std::invalid_argument: wrong\n"
                         "|-- int\n"
                         "|-- inner (2 sub-exceptions)\n"
                         "|   |-- asyncio::timeout_error: late\n"
                         "|   `-- std::logic_error: never\n"
                         "|-- asyncio::cancelled_error: stop\n"
                         "`-- asyncio::cancelled_error\n");
}

} // TEST_SUITE

TEST_SUITE("duration") {

TEST_CASE("a duration is made of any std::chrono duration, exactly") {
    CHECK(duration(5s).count() == 5'000'000'000);
    CHECK(duration(1.5s).count() == 1'500'000'000);
    CHECK(duration(2min).count() == 120'000'000'000);
    CHECK(duration(-3ms).count() == -3'000'000);
    CHECK(duration(7ns).count() == 7);
    CHECK(duration(std::chrono::duration<int, std::ratio<1, 3>>(1)).count() == 333'333'333);
    CHECK(duration(std::chrono::duration<std::int64_t, std::pico>(1999)).count() == 1);
    CHECK(duration(std::chrono::duration<std::uint8_t, std::milli>(std::uint8_t{200})) == 200ms);
    CHECK(duration(std::chrono::duration<std::uint64_t>(1)) == 1s);
    CHECK(duration().count() == 0);
    CHECK(duration::zero() == 0s);
    static_assert(duration(1s).count() == 1'000'000'000);
    static_assert(duration(0.25s).count() == 250'000'000);
}

TEST_CASE("seconds are rounded to the nearest nanosecond") {
    CHECK(duration::seconds(0.3) == 300ms);
    CHECK(duration::seconds(-0.3) == -300ms);
    CHECK(duration::seconds(1.1) == 1100ms);
    CHECK(duration::seconds(0.4e-9).count() == 0);
    CHECK(duration::seconds(0.6e-9).count() == 1);
    CHECK(duration::seconds(0) == duration::zero());
    CHECK(duration::seconds(2.5).total_seconds() == doctest::Approx(2.5));
}

TEST_CASE("what is no number, or does not fit, is refused") {
    using limits = std::numeric_limits<double>;
    CHECK_THROWS_AS(duration::seconds(limits::quiet_NaN()), std::invalid_argument);
    CHECK_THROWS_AS(duration::seconds(limits::infinity()), std::invalid_argument);
    CHECK_THROWS_AS(duration::seconds(-limits::infinity()), std::invalid_argument);
    CHECK_THROWS_AS(duration::seconds(1e10), std::invalid_argument);
    CHECK_THROWS_AS(duration::seconds(-1e300), std::invalid_argument);
    CHECK_THROWS_AS(duration{std::chrono::duration<float>(1e30F)}, std::invalid_argument);
    CHECK_THROWS_AS(duration{std::chrono::hours::max()}, std::invalid_argument);
    CHECK_THROWS_AS(duration{std::chrono::hours::min()}, std::invalid_argument);
    CHECK_THROWS_AS(duration{std::chrono::nanoseconds::min()}, std::invalid_argument);
    CHECK_THROWS_AS(duration{std::chrono::duration<std::uint64_t>::max()}, std::invalid_argument);
    CHECK(duration(std::chrono::nanoseconds::max()).count() == INT64_MAX);
    CHECK_NOTHROW(duration(24h * 365 * 292));
    CHECK_NOTHROW(duration::seconds(9.1e9));
}

TEST_CASE("durations are added, scaled, divided and compared, also with those of std::chrono") {
    const duration d = 1.5s;
    CHECK(d + 500ms == 2s);
    CHECK(500ms + d == 2s);
    CHECK(d - 2s == -500ms);
    CHECK(2s - d == 500ms);
    CHECK(-d == -1500ms);
    CHECK(d * 2 == 3s);
    CHECK(0.5 * d == 750ms);
    CHECK(d / 3 == 500ms);
    CHECK(d / 500ms == doctest::Approx(3));
    duration sum = 1s;
    sum += 1min;
    sum -= 2s;
    CHECK(sum == 59s);
    CHECK(d < 2s);
    CHECK(1s < d);
    CHECK(d >= 1500ms);
    CHECK(d != 1s);
    static_assert(duration(1s) + duration(1ms) > duration(1s));
    static_assert(duration(1s) * 2 - duration(1ms) / 2 == duration(1999500us));
}

TEST_CASE("arithmetics that do not fit are refused") {
    const duration most = duration(std::chrono::nanoseconds::max());
    CHECK_THROWS_AS(most + 1ns, std::invalid_argument);
    CHECK_THROWS_AS(-most - 1ns, std::invalid_argument);
    CHECK_THROWS_AS(most * 2, std::invalid_argument);
    CHECK_THROWS_AS(most * -2, std::invalid_argument);
    CHECK_THROWS_AS(duration(1s) / 0, std::invalid_argument);
    CHECK_THROWS_AS(duration() / 0, std::invalid_argument);
    CHECK_THROWS_AS(duration(1s) * std::numeric_limits<double>::quiet_NaN(),
                    std::invalid_argument);
    CHECK(most - most == 0s);
    CHECK(most + -most == 0s);
    duration kept = most;
    CHECK_THROWS_AS(kept += 1s, std::invalid_argument);
    CHECK(kept == most);
}

TEST_CASE("a duration converts to std::chrono: to nanoseconds by itself, to floats on request") {
    const std::chrono::nanoseconds nanoseconds = duration(2ms);
    CHECK(nanoseconds == 2ms);
    const auto seconds = static_cast<std::chrono::duration<double>>(duration(2.5s));
    CHECK(seconds.count() == doctest::Approx(2.5));
    const auto milliseconds = std::chrono::duration<float, std::milli>(duration(2.5s));
    CHECK(milliseconds.count() == doctest::Approx(2500));
    static_assert(std::convertible_to<duration, std::chrono::nanoseconds>);
    static_assert(!std::convertible_to<duration, std::chrono::duration<double>>);
    static_assert(std::convertible_to<std::chrono::hours, duration>);
    static_assert(!std::convertible_to<int, duration>);
    static_assert(!std::convertible_to<double, duration>);
}

TEST_CASE("time_points differ by durations") {
    const time_point start;
    const time_point later = start + 1.5s;
    CHECK(later - start == 1500ms);
    CHECK(start - later == -1500ms);
    CHECK(500ms + later == start + 2s);
    CHECK(later - 500ms == start + 1s);
    CHECK(start < later);
    CHECK(later.time_since_epoch() == 1.5s);
    time_point moved = later;
    moved += 1s;
    moved -= 500ms;
    CHECK(moved == start + 2s);
    const std::chrono::nanoseconds since = later;
    CHECK(since == 1500ms);
    const time_point last{duration(std::chrono::nanoseconds::max())};
    CHECK_THROWS_AS(last + 1s, std::invalid_argument);
}

ASYNC_TEST_CASE("a negative delay counts as none, and one that is no number is refused") {
    const duration before = asyncio::elapsed();
    co_await asyncio::sleep(-1h);
    CHECK(asyncio::elapsed() == before);
    co_await asyncio::sleep(duration::zero());
    CHECK_THROWS_AS(asyncio::sleep(duration::seconds(std::numeric_limits<double>::quiet_NaN())),
                    std::invalid_argument);
}

} // TEST_SUITE

TEST_SUITE("outcome") {

TEST_CASE("an outcome of a value") {
    outcome<std::string> good = std::string("text");
    CHECK(good.has_value());
    CHECK(static_cast<bool>(good));
    CHECK(good.value() == "text");
    CHECK(*good == "text");
    CHECK(good->size() == 4);
    CHECK_THROWS_AS(good.error(), asyncio::invalid_state_error);
    *good = "changed";
    CHECK(std::as_const(good).value() == "changed");
    const std::string moved = std::move(good).value();
    CHECK(moved == "changed");
    CHECK(outcome<int>().value() == 0);
}

TEST_CASE("an outcome of an error") {
    outcome<int> bad = made<std::out_of_range>("too far");
    CHECK_FALSE(bad.has_value());
    CHECK_FALSE(static_cast<bool>(bad));
    CHECK_THROWS_AS(bad.value(), std::out_of_range);
    CHECK_THROWS_AS(*bad, std::out_of_range);
    CHECK_THROWS_AS(std::move(bad).value(), std::out_of_range);
    CHECK(std::string(bad.error().what()) == "too far");
    CHECK(bad.error().holds<std::logic_error>());
    const outcome<int> same = bad.error();
    CHECK_THROWS_AS(same.value(), std::out_of_range);
}

TEST_CASE("an outcome of something that can only be moved, and of nothing") {
    outcome<std::unique_ptr<int>> moved = std::make_unique<int>(3);
    const std::unique_ptr<int> value = *std::move(moved);
    CHECK(*value == 3);
    const outcome<void> good;
    CHECK(good.has_value());
    CHECK_NOTHROW(good.value());
    CHECK_THROWS_AS(good.error(), asyncio::invalid_state_error);
    const outcome<void> bad = made<asyncio::timeout_error>("late");
    CHECK_FALSE(bad.has_value());
    CHECK_THROWS_AS(bad.value(), asyncio::timeout_error);
    CHECK_THROWS_AS(*bad, asyncio::timeout_error);
    CHECK(std::string(bad.error().what()) == "late");
}

ASYNC_TEST_CASE("gather gives outcomes, a cancellation among them") {
    auto value = []() -> asyncio::coro<int> { co_return 1; };
    auto failure = []() -> asyncio::coro<int> {
        co_await asyncio::fail(std::make_error_code(std::errc::timed_out), "connect");
        co_return 0;
    };
    auto cancelled = []() -> asyncio::coro<int> {
        throw asyncio::cancelled_error("stop");
        co_return 0;
    };
    const auto [a, b, c] =
        co_await asyncio::gather(asyncio::return_exceptions, value(), failure(), cancelled());
    CHECK(a.value() == 1);
    CHECK(b.error().code() == std::errc::timed_out);
    CHECK(c.error().holds<asyncio::cancelled_error>());
}

} // TEST_SUITE

TEST_SUITE("error") {

TEST_CASE("an error knows text, code and type of the exception it holds") {
    const asyncio::error system(
        made<std::system_error>(ECONNREFUSED, std::generic_category(), "connect"));
    CHECK(system.code() == std::errc::connection_refused);
    CHECK(std::string(system.what()).find("connect") == 0);
    CHECK(system.holds<std::system_error>());
    CHECK(system.holds<std::runtime_error>());
    CHECK_FALSE(system.holds<std::logic_error>());
    CHECK_THROWS_AS(system.rethrow(), std::system_error);
    CHECK(support::holds<std::system_error>(system.exception()));

    const asyncio::error late(made<asyncio::timeout_error>("late"));
    CHECK(late.code() == std::errc::timed_out);
    const asyncio::error stopped(made<asyncio::cancelled_error>("stop"));
    CHECK(stopped.code() == std::errc::operation_canceled);
    CHECK(std::string(stopped.what()) == "stop");
    const asyncio::error plain(made<std::runtime_error>("no luck"));
    CHECK_FALSE(plain.code());
    CHECK(std::string(plain.what()) == "no luck");
    const asyncio::error number(std::make_exception_ptr(42));
    CHECK(number.holds<int>());
    CHECK(std::string(number.what()) == "int");
    const asyncio::error group(std::make_exception_ptr(mixed()));
    CHECK(std::string(group.what()) == "root (3 sub-exceptions)");
}

TEST_CASE("an empty error holds nothing") {
    const asyncio::error empty;
    CHECK(std::string(empty.what()).empty());
    CHECK_FALSE(empty.code());
    CHECK(empty.exception() == nullptr);
    CHECK_FALSE(empty.holds<std::exception>());
    CHECK_THROWS_AS(empty.rethrow(), asyncio::invalid_state_error);
    CHECK(asyncio::error(std::exception_ptr()).exception() == nullptr);
}

TEST_CASE("errors are copied, and outlive the handler in which they were caught") {
    asyncio::error kept;
    try {
        throw std::runtime_error("no luck");
    } catch (...) {
        const asyncio::error here(std::current_exception());
        kept = here;
    }
    CHECK(std::string(kept.what()) == "no luck");
    CHECK_THROWS_AS(kept.rethrow(), std::runtime_error);
}

} // TEST_SUITE

TEST_SUITE("inner tools") {

TEST_CASE("ref_ptr counts its object") {
    counted object;
    {
        const asyncio::detail::ref_ptr<counted> first(&object);
        CHECK(object.references == 1);
        asyncio::detail::ref_ptr<counted> second = first;
        CHECK(object.references == 2);
        const asyncio::detail::ref_ptr<counted> third = std::move(second);
        CHECK(object.references == 2);
        CHECK_FALSE(second);
        second = third;
        CHECK(object.references == 3);
        auto& same = second;
        second = same;
        CHECK(object.references == 3);
        CHECK(first == third);
        CHECK(first.get() == &object);
        CHECK(second.detach() == &object);
        CHECK(object.references == 3);
        const auto adopted = asyncio::detail::ref_ptr<counted>::adopt(&object);
        CHECK(object.references == 3);
    }
    CHECK(object.references == 0);
}

TEST_CASE("a function holds callables that can only be moved") {
    asyncio::detail::function<int(int)> empty;
    CHECK_FALSE(empty);
    asyncio::detail::function<int(int)> add = [by = std::make_unique<int>(2)](int value) {
        return value + *by;
    };
    CHECK(add);
    CHECK(add(3) == 5);
    empty = std::move(add);
    CHECK(empty(4) == 6);
    int calls = 0;
    const asyncio::detail::function<void()> count = [&calls] { return ++calls; };
    count();
    CHECK(calls == 1);
}

TEST_CASE("type_name is what the compiler calls a type") {
    CHECK(asyncio::detail::type_name<int>() == "int");
    CHECK(asyncio::detail::type_name<asyncio::timeout_error>().find("timeout_error") !=
          std::string_view::npos);
}

TEST_CASE("memory of frames is kept and given out again") {
    for (const std::size_t size : {1U, 16U, 17U, 500U, 1024U, 1025U, 100'000U}) {
        CAPTURE(size);
        void* const first = asyncio::detail::frame_alloc(size);
        std::memset(first, 1, size);
        void* const second = asyncio::detail::frame_alloc(size);
        std::memset(second, 2, size);
        CHECK(first != second);
        asyncio::detail::frame_free(first, size);
        asyncio::detail::frame_free(second, size);
        if (!ASYNCIO_SANITIZED && size <= 1024) {
            void* const third = asyncio::detail::frame_alloc(size);
            CHECK(third == second);
            void* const fourth = asyncio::detail::frame_alloc(size);
            CHECK(fourth == first);
            asyncio::detail::frame_free(third, size);
            asyncio::detail::frame_free(fourth, size);
        }
    }
}

TEST_CASE("frames made on one thread run and end on others") {
    constexpr std::size_t expected = (8 + 100 + 500 + 900) * 20;
    for (int round = 0; round < 3; ++round) {
        std::vector<asyncio::coro<std::size_t>> made_there;
        std::thread([&] { made_there = frames(1); }).join(); // ends before they are used
        CHECK(use(std::move(made_there)) == expected);

        std::vector<std::vector<asyncio::coro<std::size_t>>> made_here;
        for (unsigned char mark = 2; mark < 6; ++mark) made_here.push_back(frames(mark));
        std::array<std::size_t, 4> sums{};
        std::vector<std::thread> threads;
        for (std::size_t i = 0; i < sums.size(); ++i)
            threads.emplace_back([&, i] {
                sums[i] = use(std::move(made_here[i]));
                sums[i] += use(frames(static_cast<unsigned char>(10 + i)));
            });
        for (std::thread& thread : threads) thread.join();
        for (const std::size_t sum : sums) CHECK(sum == 2 * expected);
    }
}

TEST_CASE("frames may end after their thread has given its memory back") {
    std::thread([] {
        // Made before the thread keeps any memory, so that it goes after that does.
        thread_local std::optional<asyncio::coro<std::size_t>> last;
        last.emplace(frame_of<100>(1, false));
        CHECK(use(frames(2)) > 0);
    }).join();
}

TEST_CASE("a thread does not keep more than it may use again") {
    std::vector<void*> blocks;
    constexpr std::size_t size = 1024;
    for (int i = 0; i < 5000; ++i) blocks.push_back(asyncio::detail::frame_alloc(size));
    for (void* const block : blocks) asyncio::detail::frame_free(block, size);
    if (!ASYNCIO_SANITIZED) {
        std::size_t kept = 0;
        const auto& cache = asyncio::detail::this_thread_frames;
        for (auto* block = cache.free[size / cache.granularity - 1]; block; block = block->next)
            ++kept;
        CHECK(kept > 0);
        CHECK(kept * size <= std::size_t{1} << 20);
    }
}

} // TEST_SUITE
