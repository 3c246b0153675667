// What is different where nothing throws: built with -fno-exceptions and -fno-rtti, with a library
// of its own. What is the same with and without exceptions is tested in the other files, which the
// stage `no_exceptions` of .ci/run builds in this mode as well.
#include "support.hpp"

#include <cmath>
#include <csignal>
#include <latch>
#include <optional>
#include <ranges>
#include <stdexcept>
#include <system_error>
#include <utility>

#if !defined(ASYNCIO_NO_EXCEPTIONS)
#error "this file is for -fno-exceptions"
#endif

namespace {

std::string said; // by destructors and coroutines, in that order

// Says its text at its end.
class mark {
public:
    explicit mark(std::string text) : text_(std::move(text)) {}
    mark(const mark&) = delete;
    mark& operator=(const mark&) = delete;
    ~mark() { said += text_; }

private:
    std::string text_;
};

std::error_code io_error() { return std::make_error_code(std::errc::io_error); }

asyncio::coro<int> fails_at_once(std::string what) {
    const mark end("f");
    co_await asyncio::fail(io_error(), what);
    said += "never";
    co_return 1;
}

asyncio::coro<int> fails_after(asyncio::duration delay, std::string what) {
    const mark end("f");
    co_await asyncio::sleep(delay);
    co_await asyncio::fail(io_error(), what);
    said += "never";
    co_return 1;
}

asyncio::coro<int> gives(int value, asyncio::duration after = 1ms) {
    co_await asyncio::sleep(after);
    co_return value;
}

asyncio::coro<> waits(std::string name) {
    const mark end(name);
    co_await asyncio::sleep(1h);
    said += "never";
}

// Needs a while to end when it is cancelled.
asyncio::coro<> ends_slowly(std::string name) {
    auto cleanup = []() -> asyncio::coro<> { co_await asyncio::sleep(1s); };
    auto work = waits(name);
    co_await asyncio::finally(std::move(work), cleanup);
}

// `depth` coroutines above the one that fails.
asyncio::coro<int> nested(int depth, bool suspends) {
    const mark end(std::to_string(depth));
    int value = 0;
    if (depth > 0) value = co_await nested(depth - 1, suspends);
    else if (suspends) co_await asyncio::sleep(1ms);
    co_await asyncio::fail(io_error(), "deep"); // by the innermost one
    said += "never";
    co_return value;
}

// Counts its objects, and how far apart on the stack they end.
struct counted {
    counted() { ++alive; }
    counted(const counted&) = delete;
    counted& operator=(const counted&) = delete;
    ~counted() {
        --alive;
        const auto* const here = static_cast<const char*>(__builtin_frame_address(0));
        lowest = lowest == nullptr || here < lowest ? here : lowest;
        highest = here > highest ? here : highest;
    }
    static inline int alive = 0;
    static inline const char* lowest = nullptr;
    static inline const char* highest = nullptr;
};

asyncio::coro<> deep(int depth, bool suspends) {
    const counted object;
    if (depth > 0) co_await deep(depth - 1, suspends);
    else if (suspends) co_await asyncio::sleep(1ms);
    co_await asyncio::fail(io_error(), "deep"); // by the innermost one
    said += "never";
}

asyncio::coro<> check_depth(int depth, bool suspends) {
    counted::alive = 0;
    counted::lowest = counted::highest = nullptr;
    said.clear();
    const asyncio::outcome<void> r = co_await asyncio::as_outcome(deep(depth, suspends));
    CHECK_FALSE(r.has_value());
    CHECK(counted::alive == 0);
    CHECK(counted::highest - counted::lowest < 1024);
    CHECK(said.empty());
}

// Two values, then it fails.
asyncio::async_generator<int> two_values() {
    const mark end("g");
    co_yield 1;
    co_await asyncio::sleep(1ms);
    co_yield 2;
    co_await asyncio::fail(io_error(), "no third");
}

// A manager that says what reaches it, and may swallow it.
class listener {
public:
    explicit listener(bool swallows) : swallows_(swallows) {}
    asyncio::coro<> aenter() {
        said += "[";
        co_return;
    }
    asyncio::coro<bool> aexit(asyncio::exception_ptr error) {
        co_await asyncio::sleep(1ms);
        said += error ? support::message_of(error) + "]" : "]";
        co_return swallows_;
    }

private:
    bool swallows_;
};

// What a child process says before it ends by abort().
support::child_result ends_fatally(asyncio::coro<> (*body)()) {
    return support::in_child([body] {
        asyncio::run(body());
        return 0;
    });
}

} // namespace

TEST_SUITE("failing") {
ASYNC_TEST_CASE("a failure is an outcome's error with its text, code and base types") {
    const auto r = co_await asyncio::as_outcome(fails_at_once("disk"));
    REQUIRE_FALSE(r.has_value());
    CHECK(std::string(r.error().what()).starts_with("disk: "));
    CHECK(r.error().code() == std::errc::io_error);
    CHECK(r.error().holds<std::system_error>());
    CHECK(r.error().holds<std::runtime_error>());
    CHECK(r.error().holds<std::exception>());
    CHECK_FALSE(r.error().holds<std::logic_error>());
    CHECK_FALSE(r.error().holds<asyncio::cancelled_error>());
}

ASYNC_TEST_CASE("values pass through outcomes, with and without waiting") {
    const auto later = co_await asyncio::as_outcome(gives(5));
    auto now = []() -> asyncio::coro<std::string> { co_return "now"; };
    const auto at_once = co_await asyncio::as_outcome(now());
    REQUIRE(later.has_value());
    REQUIRE(at_once.has_value());
    CHECK(*later == 5);
    CHECK(*at_once == "now");
}

ASYNC_TEST_CASE("a failure before the first suspension ends the coroutines innermost first") {
    said.clear();
    const auto r = co_await asyncio::as_outcome(nested(3, false));
    CHECK_FALSE(r.has_value());
    CHECK(said == "0123");
}

ASYNC_TEST_CASE("a failure after a suspension ends the coroutines innermost first") {
    said.clear();
    const auto r = co_await asyncio::as_outcome(nested(3, true));
    CHECK_FALSE(r.has_value());
    CHECK(said == "0123");
}

ASYNC_TEST_CASE("locals end in the reverse order of their making, arguments after them") {
    said.clear();
    auto body = [](std::unique_ptr<mark> argument) -> asyncio::coro<> {
        const mark first("1");
        const mark second("2");
        co_await asyncio::fail(io_error(), "no luck");
        said += argument ? "never" : "never?";
    };
    const auto r = co_await asyncio::as_outcome(body(std::make_unique<mark>("a")));
    CHECK_FALSE(r.has_value());
    CHECK(said == "21a");
}

ASYNC_TEST_CASE("one coroutine deep") {
    co_await check_depth(0, false);
    co_await check_depth(0, true);
}

ASYNC_TEST_CASE("1000 coroutines deep") {
    co_await check_depth(1000, false);
    co_await check_depth(1000, true);
}

ASYNC_TEST_CASE("100 000 coroutines end on the stack of one") {
    co_await check_depth(100'000, false);
    co_await check_depth(100'000, true);
}

ASYNC_TEST_CASE("a child that fails in a loop leaves the next one alone") {
    int failed = 0, sum = 0;
    for (int i = 0; i < 200; ++i) {
        auto child = [](int n) -> asyncio::coro<int> {
            if (n % 2 == 1) co_await asyncio::fail(io_error(), "odd");
            if (n % 3 == 0) co_await asyncio::sleep(1ms);
            co_return n;
        };
        const auto r = co_await asyncio::as_outcome(child(i));
        if (r) sum += *r;
        else ++failed;
    }
    CHECK(failed == 100);
    CHECK(sum == 9900);
}

ASYNC_TEST_CASE("fail() passes the error of an outcome on as it is") {
    auto passes_on = []() -> asyncio::coro<int> {
        const auto inner = co_await asyncio::as_outcome(fails_after(1ms, "first"));
        co_await asyncio::fail(inner.error());
        co_return 1;
    };
    const auto r = co_await asyncio::as_outcome(passes_on());
    REQUIRE_FALSE(r.has_value());
    CHECK(std::string(r.error().what()).starts_with("first: "));
    CHECK(r.error().code() == std::errc::io_error);
}

ASYNC_TEST_CASE("a result that cannot be copied is moved out") {
    auto makes = []() -> asyncio::coro<std::unique_ptr<int>> {
        co_await asyncio::sleep(1ms);
        co_return std::make_unique<int>(7);
    };
    auto r = co_await asyncio::as_outcome(makes());
    REQUIRE(r.has_value());
    const std::unique_ptr<int> value = *std::move(r);
    CHECK(*value == 7);
}

ASYNC_TEST_CASE("a coroutine that a failing one held and never awaited just goes") {
    said.clear();
    const auto reports = support::collect_reports();
    asyncio::event_loop& loop = asyncio::get_running_loop();
    loop.slow_callback_duration = 1h;
    loop.set_debug(true);
    auto holds_one = []() -> asyncio::coro<> {
        const auto never_awaited = waits("w");
        co_await asyncio::fail(io_error(), "no luck");
    };
    const auto r = co_await asyncio::as_outcome(holds_one());
    CHECK_FALSE(r.has_value());
    CHECK(said.empty());
    CHECK(reports->empty());
    { const auto forgotten = waits("w"); }
    CHECK(reports->size() == 1); // while this one is an oversight
    loop.set_debug(false);
}

ASYNC_TEST_CASE("destructors that run on a failure may cancel and make tasks") {
    struct starts_one {
        asyncio::task<int>* made;
        asyncio::task<>* victim;
        ~starts_one() {
            victim->cancel();
            *made = asyncio::create_task(gives(4));
        }
    };
    asyncio::task<int> made;
    asyncio::task<> victim = asyncio::create_task(waits("v"));
    auto body = [&made, &victim]() -> asyncio::coro<> {
        const starts_one at_end{&made, &victim};
        co_await asyncio::fail(io_error(), "no luck");
    };
    const auto r = co_await asyncio::as_outcome(body);
    CHECK_FALSE(r.has_value());
    const int value = co_await made;
    CHECK(value == 4);
    const auto ended = co_await asyncio::as_outcome(victim);
    CHECK_FALSE(ended.has_value());
    CHECK(victim.cancelled());
}
} // TEST_SUITE

TEST_SUITE("tasks") {
ASYNC_TEST_CASE("a task that is cancelled before it begins runs nothing") {
    said.clear();
    const asyncio::task<> t = asyncio::create_task(waits("w"));
    CHECK(t.cancel());
    const auto r = co_await asyncio::as_outcome(t);
    REQUIRE_FALSE(r.has_value());
    CHECK(t.cancelled());
    CHECK(r.error().holds<asyncio::cancelled_error>());
    CHECK(said.empty());
}

ASYNC_TEST_CASE("a task that is cancelled while it waits ends there, with its message") {
    said.clear();
    const asyncio::task<> t = asyncio::create_task(waits("w"));
    co_await support::turns(2);
    CHECK(t.cancel("enough"));
    CHECK_FALSE(t.done());
    const auto r = co_await asyncio::as_outcome(t);
    REQUIRE_FALSE(r.has_value());
    CHECK(t.cancelled());
    CHECK(std::string(r.error().what()) == "enough");
    CHECK(r.error().code() == std::errc::operation_canceled);
    CHECK(said == "w");
}

ASYNC_TEST_CASE("two cancellations in one turn are one, and a done task refuses them") {
    said.clear();
    const asyncio::task<> t = asyncio::create_task(waits("w"));
    co_await support::turns(2);
    CHECK(t.cancel());
    CHECK(t.cancel());
    CHECK(t.cancelling() == 2);
    const auto r = co_await asyncio::as_outcome(t);
    CHECK_FALSE(r.has_value());
    CHECK(said == "w");
    CHECK_FALSE(t.cancel());
}

ASYNC_TEST_CASE("a cancellation within the cleanup ends the cleanup") {
    said.clear();
    const asyncio::task<> t = asyncio::create_task([]() -> asyncio::coro<> {
        auto cleanup = []() -> asyncio::coro<> {
            const mark end("c");
            said += "(";
            co_await asyncio::sleep(1h);
            said += "never";
        };
        co_await asyncio::finally(waits("w"), cleanup);
    });
    co_await support::turns(2);
    t.cancel();
    co_await support::turns(3);
    CHECK(said == "w(");
    t.cancel();
    const auto r = co_await asyncio::as_outcome(t);
    CHECK_FALSE(r.has_value());
    CHECK(t.cancelled());
    CHECK(said == "w(c");
}

ASYNC_TEST_CASE("uncancel() counts back, and the task goes on after a manager that swallows") {
    said.clear();
    struct forgives {
        asyncio::coro<> aenter() { co_return; }
        asyncio::coro<bool> aexit(asyncio::exception_ptr error) {
            said += error ? " " + std::to_string(asyncio::current_task().cancelling()) : "?";
            said += std::to_string(asyncio::current_task().uncancel());
            co_return true;
        }
    };
    const asyncio::task<int> t = asyncio::create_task([]() -> asyncio::coro<int> {
        auto body = []() -> asyncio::coro<> { co_await waits("w"); };
        co_await asyncio::with(forgives(), body);
        co_return co_await gives(3);
    });
    co_await support::turns(2);
    t.cancel();
    const auto r = co_await asyncio::as_outcome(t);
    CHECK(said == "w 10");
    REQUIRE(r.has_value());
    CHECK(*r == 3);
    CHECK(t.cancelling() == 0);
}

ASYNC_TEST_CASE("exception() of a failed task, and of one that succeeded") {
    const asyncio::task<int> bad = asyncio::create_task(fails_after(1ms, "task"));
    const asyncio::task<int> good = asyncio::create_task(gives(3));
    const std::vector both{bad, good};
    co_await asyncio::wait(both);
    REQUIRE(bad.done());
    CHECK_FALSE(bad.cancelled());
    CHECK(support::holds<std::system_error>(bad.exception()));
    CHECK(support::message_of(bad.exception()).starts_with("task: "));
    CHECK_FALSE(static_cast<bool>(good.exception()));
    CHECK(good.result() == 3);
}

ASYNC_TEST_CASE("a failed task gives the same outcome to everybody who awaits it") {
    const asyncio::task<int> bad = asyncio::create_task(fails_after(1ms, "shared"));
    auto asks = [](asyncio::task<int> t) -> asyncio::coro<std::string> {
        const auto r = co_await asyncio::as_outcome(t);
        co_return r ? "?" : r.error().what();
    };
    const auto [a, b] = co_await asyncio::gather(asks(bad), asks(bad));
    CHECK(a.starts_with("shared: "));
    CHECK(a == b);
    const auto late = co_await asyncio::as_outcome(bad);
    CHECK_FALSE(late.has_value());
}

ASYNC_TEST_CASE("a failure that nobody looks at reaches the exception handler") {
    const auto reports = support::collect_reports();
    {
        asyncio::task_options options;
        options.name = "lost";
        const asyncio::task<int> t = asyncio::create_task(fails_after(1ms, "unseen"), options);
        co_await asyncio::sleep(10ms);
        CHECK(t.done());
        CHECK(reports->empty());
    }
    REQUIRE(reports->size() == 1);
    CHECK(reports->at(0).task == "lost");
    CHECK(support::message_of(reports->at(0).exception).starts_with("unseen: "));
}

ASYNC_TEST_CASE("a failure that somebody has looked at does not") {
    const auto reports = support::collect_reports();
    {
        const asyncio::task<int> t = asyncio::create_task(fails_after(1ms, "seen"));
        co_await asyncio::sleep(10ms);
        CHECK(static_cast<bool>(t.exception()));
    }
    CHECK(reports->empty());
}

ASYNC_TEST_CASE("an eager task that fails in its first step is done when it has been made") {
    said.clear();
    asyncio::task_options options;
    options.eager_start = true;
    options.name = "eager";
    const asyncio::task<int> t = asyncio::create_task(fails_at_once("early"), options);
    CHECK(t.done());
    CHECK(said == "f");
    CHECK(t.get_name() == "eager");
    CHECK(support::message_of(t.exception()).starts_with("early: "));
    co_return;
}

ASYNC_TEST_CASE("an eager task that waits goes on, and fails, as another one does") {
    asyncio::task_options options;
    options.eager_start = true;
    const asyncio::task<int> t = asyncio::create_task(fails_after(1ms, "late"), options);
    CHECK_FALSE(t.done());
    const auto r = co_await asyncio::as_outcome(t);
    CHECK_FALSE(r.has_value());
    CHECK(asyncio::current_task().valid());
}

ASYNC_TEST_CASE("a task that awaits a failed task fails with its error") {
    said.clear();
    const asyncio::task<int> bad = asyncio::create_task(fails_after(1ms, "inner"));
    const asyncio::task<int> outer = asyncio::create_task([bad]() -> asyncio::coro<int> {
        const mark end("o");
        const int value = co_await bad;
        said += "never";
        co_return value;
    });
    const auto r = co_await asyncio::as_outcome(outer);
    REQUIRE_FALSE(r.has_value());
    CHECK(std::string(r.error().what()).starts_with("inner: "));
    CHECK(said == "fo");
}

ASYNC_TEST_CASE("a cancelled task passes the cancellation on to the task that it awaits") {
    said.clear();
    const asyncio::task<> inner = asyncio::create_task(waits("i"));
    const asyncio::task<> outer = asyncio::create_task([inner]() -> asyncio::coro<> {
        const mark end("o");
        co_await inner;
        said += "never";
    });
    co_await support::turns(2);
    outer.cancel();
    const auto r = co_await asyncio::as_outcome(outer);
    CHECK_FALSE(r.has_value());
    CHECK(inner.cancelled());
    CHECK(outer.cancelled());
    CHECK(said == "io");
}
} // TEST_SUITE

TEST_SUITE("future") {
ASYNC_TEST_CASE("set_exception() ends those that wait, innermost first") {
    said.clear();
    const asyncio::future<int> f = asyncio::get_running_loop().create_future<int>();
    auto waiter = [](asyncio::future<int> awaited) -> asyncio::coro<int> {
        const mark end("w");
        const int value = co_await awaited;
        said += "never";
        co_return value;
    };
    const asyncio::task<int> t = asyncio::create_task(waiter(f));
    co_await support::turns(2);
    f.set_exception(asyncio::timeout_error("by hand"));
    const auto r = co_await asyncio::as_outcome(t);
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<asyncio::timeout_error>());
    CHECK(std::string(r.error().what()) == "by hand");
    CHECK(said == "w");
    CHECK(support::holds<std::runtime_error>(f.exception()));
}

ASYNC_TEST_CASE("a cancelled future cancels those that wait") {
    const asyncio::future<int> f = asyncio::get_running_loop().create_future<int>();
    auto waiter = [](asyncio::future<int> awaited) -> asyncio::coro<int> {
        co_return co_await awaited;
    };
    const asyncio::task<int> t = asyncio::create_task(waiter(f));
    co_await support::turns(2);
    CHECK(f.cancel("not needed"));
    const auto r = co_await asyncio::as_outcome(t);
    CHECK_FALSE(r.has_value());
    CHECK(t.cancelled());
    CHECK(f.cancelled());
}

ASYNC_TEST_CASE("a failed future fails at once whom it has not waited for") {
    const asyncio::future<void> f = asyncio::get_running_loop().create_future<void>();
    f.set_exception(std::out_of_range("too far"));
    const auto r = co_await asyncio::as_outcome(f);
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<std::out_of_range>());
    CHECK_FALSE(r.error().holds<std::runtime_error>());
}

ASYNC_TEST_CASE("an error type of one's own is found again, and its standard base") {
    struct own_error : std::runtime_error {
        using std::runtime_error::runtime_error;
        int number = 42;
    };
    const asyncio::future<void> f = asyncio::get_running_loop().create_future<void>();
    f.set_exception(own_error("mine"));
    const auto r = co_await asyncio::as_outcome(f);
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<own_error>());
    CHECK(r.error().holds<std::runtime_error>());
    CHECK(std::string(r.error().what()) == "mine");
}
} // TEST_SUITE

TEST_SUITE("gather, wait, shield") {
ASYNC_TEST_CASE("gather() fails with the first failure; the others run on") {
    const asyncio::task<int> slow = asyncio::create_task(gives(3, 1s));
    const auto r = co_await asyncio::as_outcome(
        asyncio::gather(fails_after(2ms, "second"), fails_after(1ms, "first"), slow));
    REQUIRE_FALSE(r.has_value());
    CHECK(std::string(r.error().what()).starts_with("first: "));
    CHECK_FALSE(slow.done());
    const int value = co_await slow;
    CHECK(value == 3);
}

ASYNC_TEST_CASE("gather(return_exceptions) gives an outcome for each, in order") {
    const auto r = co_await asyncio::gather(asyncio::return_exceptions, gives(1),
                                            fails_at_once("two"), gives(3, 2ms));
    REQUIRE(r[0].has_value());
    REQUIRE(r[2].has_value());
    CHECK(*r[0] == 1);
    CHECK_FALSE(r[1].has_value());
    CHECK(*r[2] == 3);
}

ASYNC_TEST_CASE("a cancelled gather() cancels its children") {
    said.clear();
    const asyncio::task<> t = asyncio::create_task([]() -> asyncio::coro<> {
        const mark end("g");
        const auto both = co_await asyncio::gather(waits("a"), waits("b"));
        static_cast<void>(both);
        said += "never";
    });
    co_await support::turns(3);
    t.cancel();
    const auto r = co_await asyncio::as_outcome(t);
    CHECK_FALSE(r.has_value());
    CHECK(t.cancelled());
    CHECK(said.size() == 3);
    CHECK(said.ends_with("g"));
}

ASYNC_TEST_CASE("wait() returns at the first failure, and fails nobody") {
    const asyncio::task<int> bad = asyncio::create_task(fails_after(1ms, "bad"));
    const asyncio::task<int> good = asyncio::create_task(gives(1, 1s));
    asyncio::wait_options options;
    options.return_when = asyncio::return_when::first_exception;
    const std::vector both{good, bad};
    const auto r = co_await asyncio::wait(both, options);
    REQUIRE(r.done.size() == 1);
    CHECK(r.done[0] == bad);
    REQUIRE(r.pending.size() == 1);
    CHECK(r.pending[0] == good);
    CHECK(support::message_of(bad.exception()).starts_with("bad: "));
    co_await good;
}

ASYNC_TEST_CASE("wait() with a timeout leaves what is pending alone") {
    const asyncio::task<int> slow = asyncio::create_task(gives(1, 1s));
    asyncio::wait_options options;
    options.timeout = 10ms;
    const std::vector one{slow};
    const auto r = co_await asyncio::wait(one, options);
    CHECK(r.done.empty());
    CHECK(r.pending.size() == 1);
    const int value = co_await slow;
    CHECK(value == 1);
}

ASYNC_TEST_CASE("as_completed() fails at its timeout for each that is not done; they run on") {
    std::vector<asyncio::task<int>> tasks;
    for (const int i : {1, 2, 3})
        tasks.push_back(asyncio::create_task(gives(i, i == 1 ? asyncio::duration(1ms) : i * 1s)));
    asyncio::as_completed_options options;
    options.timeout = 10ms;
    auto ends = asyncio::as_completed(tasks, options);
    const auto first = co_await ends.next();
    REQUIRE(first.has_value());
    CHECK(first->result() == 1);
    for (int i = 0; i < 2; ++i) {
        const auto late = co_await asyncio::as_outcome(ends.next());
        REQUIRE_FALSE(late.has_value());
        CHECK(late.error().holds<asyncio::timeout_error>());
    }
    const auto none = co_await ends.next();
    CHECK_FALSE(none.has_value());
    const int value = co_await tasks[2];
    CHECK(value == 3);
}

ASYNC_TEST_CASE("as_completed() hands failed tasks out as they are") {
    std::vector<asyncio::task<int>> tasks;
    tasks.push_back(asyncio::create_task(gives(1, 2ms)));
    tasks.push_back(asyncio::create_task(fails_after(1ms, "early")));
    auto ends = asyncio::as_completed(tasks);
    const auto first = co_await ends.next();
    REQUIRE(first.has_value());
    CHECK(*first == tasks[1]);
    CHECK(static_cast<bool>(first->exception()));
    const auto second = co_await ends.next();
    REQUIRE(second.has_value());
    CHECK(second->result() == 1);
}

ASYNC_TEST_CASE("shield() keeps a cancellation from what it shields") {
    const asyncio::task<int> inner = asyncio::create_task(gives(5, 1s));
    auto outer = [inner]() -> asyncio::coro<int> { co_return co_await asyncio::shield(inner); };
    const asyncio::task<int> t = asyncio::create_task(outer);
    co_await support::turns(2);
    t.cancel();
    const auto r = co_await asyncio::as_outcome(t);
    CHECK_FALSE(r.has_value());
    CHECK(t.cancelled());
    const int value = co_await inner;
    CHECK(value == 5);
}

ASYNC_TEST_CASE("shield() passes a failure on") {
    const auto r = co_await asyncio::as_outcome(asyncio::shield(fails_after(1ms, "inside")));
    REQUIRE_FALSE(r.has_value());
    CHECK(std::string(r.error().what()).starts_with("inside: "));
}
} // TEST_SUITE

TEST_SUITE("timeouts") {
ASYNC_TEST_CASE("wait_for() ends what is late, then fails with a timeout_error") {
    said.clear();
    const asyncio::time_point begin = asyncio::get_running_loop().time();
    const auto r = co_await asyncio::as_outcome(asyncio::wait_for(waits("w"), 5s));
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<asyncio::timeout_error>());
    CHECK(r.error().code() == std::errc::timed_out);
    CHECK(said == "w");
    CHECK(asyncio::get_running_loop().time() - begin == asyncio::duration(5s));
}

ASYNC_TEST_CASE("wait_for() waits for the cleanup of what it has cancelled") {
    const asyncio::time_point begin = asyncio::get_running_loop().time();
    const auto r = co_await asyncio::as_outcome(asyncio::wait_for(ends_slowly("w"), 5s));
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<asyncio::timeout_error>());
    CHECK(asyncio::get_running_loop().time() - begin == asyncio::duration(6s));
}

ASYNC_TEST_CASE("wait_for() gives values and failures as they are") {
    const int value = co_await asyncio::wait_for(gives(3), 1s);
    CHECK(value == 3);
    const auto r = co_await asyncio::as_outcome(asyncio::wait_for(fails_after(1ms, "own"), 1s));
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().code() == std::errc::io_error);
}

ASYNC_TEST_CASE("wait_for() without time left ends what is not done") {
    const auto r = co_await asyncio::as_outcome(asyncio::wait_for(waits("w"), 0s));
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<asyncio::timeout_error>());
}

ASYNC_TEST_CASE("of nested timeouts the one that passed fails, and the outer block goes on") {
    said.clear();
    auto outer = []() -> asyncio::coro<int> {
        auto inner = []() -> asyncio::coro<> { co_await waits("w"); };
        const auto r =
            co_await asyncio::as_outcome(asyncio::with(asyncio::timeout(1s), inner));
        CHECK_FALSE(r.has_value());
        said += r ? "?" : "late ";
        co_return 7;
    };
    const int value = co_await asyncio::with(asyncio::timeout(1min), outer);
    CHECK(value == 7);
    CHECK(said == "wlate ");
}

ASYNC_TEST_CASE("an outer timeout ends the inner block as cancelled") {
    said.clear();
    bool inner_expired = true;
    auto outer = [&inner_expired]() -> asyncio::coro<> {
        auto inner = []() -> asyncio::coro<> { co_await waits("w"); };
        asyncio::timeout limit(1min);
        struct looks {
            asyncio::timeout& t;
            bool& into;
            ~looks() { into = t.expired(); }
        } at_end{limit, inner_expired};
        co_await asyncio::with(limit, inner);
        said += "never";
    };
    const auto r = co_await asyncio::as_outcome(asyncio::with(asyncio::timeout(1s), outer));
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<asyncio::timeout_error>());
    CHECK_FALSE(inner_expired);
    CHECK(said == "w");
}

ASYNC_TEST_CASE("two timeouts at the same moment give one timeout_error") {
    said.clear();
    auto outer = []() -> asyncio::coro<> {
        auto inner = []() -> asyncio::coro<> { co_await waits("w"); };
        co_await asyncio::with(asyncio::timeout(1s), inner);
    };
    const auto r = co_await asyncio::as_outcome(asyncio::with(asyncio::timeout(1s), outer));
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<asyncio::timeout_error>());
    CHECK(said == "w");
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("a cancellation by somebody else is none of the timeout's") {
    said.clear();
    auto work = []() -> asyncio::coro<> {
        auto body = []() -> asyncio::coro<> { co_await waits("w"); };
        co_await asyncio::with(asyncio::timeout(1min), body);
        said += "never";
    };
    const asyncio::task<> t = asyncio::create_task(work);
    co_await asyncio::sleep(1s);
    t.cancel();
    const auto r = co_await asyncio::as_outcome(t);
    REQUIRE_FALSE(r.has_value());
    CHECK(t.cancelled());
    CHECK(r.error().holds<asyncio::cancelled_error>());
    CHECK(said == "w");
}

ASYNC_TEST_CASE("a timeout and a cancellation in the same turn: the task is cancelled") {
    auto body = []() -> asyncio::coro<> { co_await asyncio::sleep(1h); };
    const asyncio::task<> t =
        asyncio::create_task(asyncio::with(asyncio::timeout(1s), body));
    asyncio::get_running_loop().call_later(1s, [t] { t.cancel(); });
    const auto r = co_await asyncio::as_outcome(t);
    CHECK_FALSE(r.has_value());
    CHECK(t.cancelled());
}

ASYNC_TEST_CASE("a block that ends in time leaves nothing behind") {
    auto body = []() -> asyncio::coro<int> { co_return co_await gives(2); };
    const int value = co_await asyncio::with(asyncio::timeout(1s), body);
    CHECK(value == 2);
    co_await asyncio::sleep(1min);
    CHECK(asyncio::current_task().cancelling() == 0);
}
} // TEST_SUITE

TEST_SUITE("task_group") {
ASYNC_TEST_CASE("a failing child cancels the others; their errors come as one group") {
    said.clear();
    asyncio::task<> other;
    auto body = [&other](asyncio::task_group& tg) {
        tg.create_task(fails_after(1ms, "child"));
        other = tg.create_task(waits("o"));
    };
    const auto r = co_await asyncio::as_outcome(asyncio::with(asyncio::task_group(), body));
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<asyncio::exception_group>());
    const std::vector<std::string> leaves = support::leaf_messages(r.error().exception());
    REQUIRE(leaves.size() == 1);
    CHECK(leaves[0].starts_with("child: "));
    CHECK(other.cancelled());
    CHECK(said == "fo");
}

ASYNC_TEST_CASE("two children that fail in the same turn are a group of two") {
    auto body = [](asyncio::task_group& tg) {
        tg.create_task(fails_at_once("one"));
        tg.create_task(fails_at_once("two"));
    };
    const auto r = co_await asyncio::as_outcome(asyncio::with(asyncio::task_group(), body));
    REQUIRE_FALSE(r.has_value());
    const std::vector<std::string> leaves = support::leaf_messages(r.error().exception());
    REQUIRE(leaves.size() == 2);
    CHECK(leaves[0].starts_with("one: "));
    CHECK(leaves[1].starts_with("two: "));
}

ASYNC_TEST_CASE("a body that fails cancels the children, and is part of the group") {
    said.clear();
    auto body = [](asyncio::task_group& tg) -> asyncio::coro<> {
        tg.create_task(waits("c"));
        co_await asyncio::sleep(1ms);
        co_await fails_at_once("body");
    };
    const auto r = co_await asyncio::as_outcome(asyncio::with(asyncio::task_group(), body));
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<asyncio::exception_group>());
    CHECK(support::leaf_messages(r.error().exception()).at(0).starts_with("body: "));
    CHECK(said == "fc");
}

ASYNC_TEST_CASE("a child's failure ends a body that waits") {
    said.clear();
    auto body = [](asyncio::task_group& tg) -> asyncio::coro<> {
        tg.create_task(fails_after(1ms, "child"));
        co_await waits("b");
    };
    const auto r = co_await asyncio::as_outcome(asyncio::with(asyncio::task_group(), body));
    REQUIRE_FALSE(r.has_value());
    CHECK(support::leaf_messages(r.error().exception()).size() == 1);
    CHECK(said == "fb");
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("the failure of an inner group is a group in the outer one") {
    auto body = [](asyncio::task_group& outer) {
        auto inner = []() -> asyncio::coro<> {
            auto children = [](asyncio::task_group& tg) {
                tg.create_task(fails_after(1ms, "inner"));
            };
            co_await asyncio::with(asyncio::task_group(), children);
        };
        outer.create_task(inner);
        outer.create_task(waits("o"));
    };
    const auto r = co_await asyncio::as_outcome(asyncio::with(asyncio::task_group(), body));
    REQUIRE_FALSE(r.has_value());
    const auto* group =
        asyncio::detail::exception_cast<asyncio::exception_group>(r.error().exception());
    REQUIRE(group != nullptr);
    REQUIRE(group->exceptions().size() == 1);
    CHECK(support::holds<asyncio::exception_group>(group->exceptions()[0]));
    CHECK(support::leaf_messages(r.error().exception()).at(0).starts_with("inner: "));
}

ASYNC_TEST_CASE("tg.cancel() ends the group without an error") {
    said.clear();
    auto body = [](asyncio::task_group& tg) -> asyncio::coro<> {
        tg.create_task(waits("c"));
        co_await asyncio::sleep(1ms);
        tg.cancel();
        co_await waits("b");
    };
    const auto r = co_await asyncio::as_outcome(asyncio::with(asyncio::task_group(), body));
    CHECK(r.has_value());
    CHECK(said.size() == 2);
    CHECK(asyncio::current_task().cancelling() == 0);
}

ASYNC_TEST_CASE("a group that is cancelled from outside ends its children, then as cancelled") {
    said.clear();
    const asyncio::task<> t = asyncio::create_task([]() -> asyncio::coro<> {
        auto body = [](asyncio::task_group& tg) {
            tg.create_task(waits("a"));
            tg.create_task(waits("b"));
        };
        co_await asyncio::with(asyncio::task_group(), body);
        said += "never";
    });
    co_await support::turns(3);
    t.cancel();
    const auto r = co_await asyncio::as_outcome(t);
    CHECK_FALSE(r.has_value());
    CHECK(t.cancelled());
    CHECK(said.size() == 2);
}

ASYNC_TEST_CASE("a child that fails while its group is cancelled from outside: the group's error") {
    auto fails_in_cleanup = []() -> asyncio::coro<> {
        auto cleanup = []() -> asyncio::coro<> { co_await fails_at_once("cleanup"); };
        co_await asyncio::finally(waits("w"), cleanup);
    };
    const asyncio::task<> t = asyncio::create_task([fails_in_cleanup]() -> asyncio::coro<> {
        auto body = [fails_in_cleanup](asyncio::task_group& tg) {
            tg.create_task(fails_in_cleanup);
        };
        co_await asyncio::with(asyncio::task_group(), body);
    });
    co_await support::turns(3);
    t.cancel();
    const auto r = co_await asyncio::as_outcome(t);
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<asyncio::exception_group>());
    CHECK(support::leaf_messages(r.error().exception()).at(0).starts_with("cleanup: "));
}
} // TEST_SUITE

TEST_SUITE("with and finally") {
ASYNC_TEST_CASE("aexit() is awaited after a failure, and gets it") {
    said.clear();
    auto body = []() -> asyncio::coro<> { co_await fails_at_once("body"); };
    const auto r = co_await asyncio::as_outcome(asyncio::with(listener(false), body));
    REQUIRE_FALSE(r.has_value());
    CHECK(said.starts_with("[fbody: "));
    CHECK(said.ends_with("]"));
}

ASYNC_TEST_CASE("aexit() is awaited after a cancellation, and gets it") {
    said.clear();
    const asyncio::task<> t = asyncio::create_task([]() -> asyncio::coro<> {
        auto body = []() -> asyncio::coro<> { co_await waits("w"); };
        co_await asyncio::with(listener(false), body);
    });
    co_await support::turns(2);
    t.cancel("stop");
    const auto r = co_await asyncio::as_outcome(t);
    CHECK_FALSE(r.has_value());
    CHECK(t.cancelled());
    CHECK(said == "[wstop]");
}

ASYNC_TEST_CASE("a manager that swallows lets its caller go on") {
    said.clear();
    auto body = []() -> asyncio::coro<std::optional<int>> {
        co_return co_await fails_at_once("body");
    };
    const auto value = co_await asyncio::with(listener(true), body);
    CHECK_FALSE(value.has_value());
    CHECK(said.starts_with("[fbody: "));
}

ASYNC_TEST_CASE("a manager that swallows has no value to give, and that is a failure") {
    auto body = []() -> asyncio::coro<int> { co_return co_await fails_at_once("body"); };
    const auto r = co_await asyncio::as_outcome(asyncio::with(listener(true), body));
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<asyncio::invalid_state_error>());
    CHECK(r.error().holds<std::logic_error>());
}

ASYNC_TEST_CASE("finally() awaits the cleanup after a value, a failure and a cancellation") {
    said.clear();
    auto cleanup = []() -> asyncio::coro<> {
        co_await asyncio::sleep(1ms);
        said += "c";
    };
    const int value = co_await asyncio::finally(gives(1), cleanup);
    CHECK(value == 1);
    CHECK(said == "c");
    const auto failed =
        co_await asyncio::as_outcome(asyncio::finally(fails_at_once("body"), cleanup));
    REQUIRE_FALSE(failed.has_value());
    CHECK(failed.error().code() == std::errc::io_error);
    CHECK(said == "cfc");
    const asyncio::task<> t = asyncio::create_task(asyncio::finally(waits("w"), cleanup));
    co_await support::turns(2);
    t.cancel();
    const auto cancelled = co_await asyncio::as_outcome(t);
    CHECK_FALSE(cancelled.has_value());
    CHECK(t.cancelled());
    CHECK(said == "cfcwc");
}

ASYNC_TEST_CASE("a cleanup that fails takes the place of the body's outcome") {
    auto cleanup = []() -> asyncio::coro<> { co_await fails_at_once("cleanup"); };
    const auto r = co_await asyncio::as_outcome(asyncio::finally(gives(1), cleanup));
    REQUIRE_FALSE(r.has_value());
    CHECK(std::string(r.error().what()).starts_with("cleanup: "));
}

ASYNC_TEST_CASE("as_outcome() keeps a cancellation of the work, and lets the caller's pass") {
    said.clear();
    const asyncio::task<> work = asyncio::create_task(waits("w"));
    const asyncio::task<> caller = asyncio::create_task([work]() -> asyncio::coro<> {
        const auto r = co_await asyncio::as_outcome(work);
        said += r ? "?" : "outcome ";
        const auto second = co_await asyncio::as_outcome(waits("c"));
        said += second ? "?" : "never";
    });
    co_await support::turns(2);
    work.cancel();
    co_await support::turns(3);
    CHECK(said == "woutcome ");
    caller.cancel();
    const auto r = co_await asyncio::as_outcome(caller);
    CHECK_FALSE(r.has_value());
    CHECK(caller.cancelled());
    CHECK(said == "woutcome c");
}
} // TEST_SUITE

TEST_SUITE("waiting for each other") {
ASYNC_TEST_CASE("a guard gives its lock back when its coroutine fails") {
    asyncio::lock lock;
    auto body = [&lock]() -> asyncio::coro<> {
        const auto held = co_await lock.scoped();
        co_await asyncio::sleep(1ms);
        co_await fails_at_once("while it holds the lock");
    };
    const auto r = co_await asyncio::as_outcome(body);
    CHECK_FALSE(r.has_value());
    CHECK_FALSE(lock.locked());
}

ASYNC_TEST_CASE("a lock is handed on when the one that got it is cancelled in the same turn") {
    asyncio::lock lock;
    co_await lock.acquire();
    auto takes = [&lock](int value) -> asyncio::coro<int> {
        const auto held = co_await lock.scoped();
        co_return value;
    };
    const asyncio::task<int> first = asyncio::create_task(takes(1));
    co_await support::turns(2);
    const asyncio::task<int> second = asyncio::create_task(takes(2));
    co_await support::turns(2);
    lock.release();
    first.cancel();
    const int value = co_await second;
    CHECK(value == 2);
    const auto r = co_await asyncio::as_outcome(first);
    CHECK_FALSE(r.has_value());
    CHECK(first.cancelled());
    CHECK_FALSE(lock.locked());
}

ASYNC_TEST_CASE("a slot is handed on when the one that got it is cancelled in the same turn") {
    asyncio::semaphore slots(1);
    co_await slots.acquire();
    auto takes = [&slots](int value) -> asyncio::coro<int> {
        co_await slots.acquire();
        slots.release();
        co_return value;
    };
    const asyncio::task<int> first = asyncio::create_task(takes(1));
    co_await support::turns(2);
    const asyncio::task<int> second = asyncio::create_task(takes(2));
    co_await support::turns(2);
    slots.release();
    first.cancel();
    const int value = co_await second;
    CHECK(value == 2);
    CHECK(first.cancelled());
    CHECK_FALSE(slots.locked());
}

ASYNC_TEST_CASE("such a turn is handed on at once, however long what awaited it takes to end") {
    asyncio::lock lock;
    asyncio::semaphore slots(1);
    const auto takes = [&](bool of_lock) -> asyncio::coro<> {
        if (of_lock) co_await lock.acquire();
        else co_await slots.acquire();
        said += "taken";
        if (of_lock) lock.release();
        else slots.release();
    };
    for (const bool of_lock : {true, false}) {
        CAPTURE(of_lock);
        said.clear();
        asyncio::task<bool> first;
        if (of_lock) {
            co_await lock.acquire();
            const auto body = [&lock] { return lock.acquire(); };
            first = asyncio::create_task(asyncio::with(listener(false), body));
        } else {
            co_await slots.acquire();
            const auto body = [&slots] { return slots.acquire(); };
            first = asyncio::create_task(asyncio::with(listener(false), body));
        }
        co_await support::turns(2);
        const asyncio::task<> second = asyncio::create_task(takes(of_lock));
        co_await support::turns(2);
        if (of_lock) lock.release();
        else slots.release();
        first.cancel();
        co_await second;
        CHECK(said == "[taken"); // the first one's aexit() goes on
        const auto r = co_await asyncio::as_outcome(first);
        CHECK_FALSE(r.has_value());
        CHECK(said.starts_with("[taken"));
        CHECK(said.ends_with("]"));
    }
}

ASYNC_TEST_CASE("an item goes to the next when the one that got it is cancelled in the same turn") {
    asyncio::queue<int> queue;
    auto gets = [&queue]() -> asyncio::coro<int> { co_return co_await queue.get(); };
    const asyncio::task<int> first = asyncio::create_task(gets);
    co_await support::turns(2);
    const asyncio::task<int> second = asyncio::create_task(gets);
    co_await support::turns(2);
    queue.put_nowait(7);
    first.cancel();
    const int value = co_await second;
    CHECK(value == 7);
    CHECK(first.cancelled());
    CHECK(queue.empty());
}

ASYNC_TEST_CASE("a put() that is cancelled puts nothing") {
    asyncio::queue<int> queue(1);
    queue.put_nowait(1);
    auto puts = [&queue](int item) -> asyncio::coro<> { co_await queue.put(item); };
    const asyncio::task<> t = asyncio::create_task(puts(2));
    co_await support::turns(2);
    t.cancel();
    co_await support::turns(2);
    CHECK(t.cancelled());
    CHECK(queue.get_nowait() == 1);
    CHECK(queue.empty());
}

ASYNC_TEST_CASE("a queue that is shut down fails its waiters, and next() ends") {
    asyncio::queue<int> queue;
    auto gets = [&queue]() -> asyncio::coro<int> { co_return co_await queue.get(); };
    const asyncio::task<int> waiting = asyncio::create_task(gets);
    co_await support::turns(2);
    queue.shutdown();
    const auto r = co_await asyncio::as_outcome(waiting);
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<asyncio::queue_shut_down>());
    const auto put = co_await asyncio::as_outcome(queue.put(1));
    REQUIRE_FALSE(put.has_value());
    CHECK(put.error().holds<asyncio::queue_shut_down>());
    const auto none = co_await queue.next();
    CHECK_FALSE(none.has_value());
}

ASYNC_TEST_CASE("a cancelled wait for a condition gives the lock back") {
    asyncio::condition changed;
    auto waiter = [&changed]() -> asyncio::coro<> {
        const auto held = co_await changed.scoped();
        co_await changed.wait();
        said += "never";
    };
    const asyncio::task<> t = asyncio::create_task(waiter);
    co_await support::turns(2);
    CHECK_FALSE(changed.locked());
    t.cancel();
    const auto r = co_await asyncio::as_outcome(t);
    CHECK_FALSE(r.has_value());
    CHECK(t.cancelled());
    CHECK_FALSE(changed.locked());
}

ASYNC_TEST_CASE("a notification is handed on when the one that got it is cancelled") {
    asyncio::condition changed;
    int woken = 0;
    auto waiter = [&changed, &woken]() -> asyncio::coro<> {
        const auto held = co_await changed.scoped();
        co_await changed.wait();
        ++woken;
    };
    const asyncio::task<> first = asyncio::create_task(waiter);
    co_await support::turns(3);
    const asyncio::task<> second = asyncio::create_task(waiter);
    co_await support::turns(3);
    {
        const auto held = co_await changed.scoped();
        changed.notify();
        first.cancel();
    }
    co_await second;
    CHECK(woken == 1);
    CHECK(first.cancelled());
}

ASYNC_TEST_CASE("an event wakes those that are left when one is cancelled") {
    asyncio::event event;
    auto waiter = [&event]() -> asyncio::coro<> { co_await event.wait(); };
    const asyncio::task<> first = asyncio::create_task(waiter);
    const asyncio::task<> second = asyncio::create_task(waiter);
    co_await support::turns(2);
    first.cancel();
    event.set();
    co_await second;
    co_await support::turns(2);
    CHECK(first.cancelled());
    CHECK_FALSE(second.cancelled());
}

ASYNC_TEST_CASE("a barrier that is aborted fails those that wait, and those that come") {
    asyncio::barrier barrier(2);
    auto waiter = [&barrier]() -> asyncio::coro<> { co_await barrier.wait(); };
    const asyncio::task<> t = asyncio::create_task(waiter);
    co_await support::turns(2);
    co_await barrier.abort();
    const auto r = co_await asyncio::as_outcome(t);
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<asyncio::broken_barrier_error>());
    const auto late = co_await asyncio::as_outcome(barrier.wait());
    REQUIRE_FALSE(late.has_value());
    CHECK(late.error().holds<asyncio::broken_barrier_error>());
}

ASYNC_TEST_CASE("a cancelled wait at a barrier leaves the others waiting") {
    asyncio::barrier barrier(2);
    auto waiter = [&barrier]() -> asyncio::coro<> { co_await barrier.wait(); };
    const asyncio::task<> t = asyncio::create_task(waiter);
    co_await support::turns(2);
    CHECK(barrier.n_waiting() == 1);
    t.cancel();
    co_await support::turns(3);
    CHECK(t.cancelled());
    CHECK(barrier.n_waiting() == 0);
    CHECK_FALSE(barrier.broken());
    const auto pair = co_await asyncio::gather(waiter(), waiter());
    static_cast<void>(pair);
}
} // TEST_SUITE

TEST_SUITE("async_generator") {
ASYNC_TEST_CASE("a generator that fails ends with its error, then gives nothing") {
    said.clear();
    auto values = two_values();
    const auto one = co_await values.next();
    const auto two = co_await values.next();
    REQUIRE(one.has_value());
    REQUIRE(two.has_value());
    CHECK(*one + *two == 3);
    const auto r = co_await asyncio::as_outcome(values.next());
    REQUIRE_FALSE(r.has_value());
    CHECK(std::string(r.error().what()).starts_with("no third: "));
    CHECK(said == "g");
    const auto none = co_await values.next();
    CHECK_FALSE(none.has_value());
}

ASYNC_TEST_CASE("aclose() destroys the generator's locals") {
    said.clear();
    auto values = two_values();
    const auto one = co_await values.next();
    CHECK(one.has_value());
    CHECK(said.empty());
    co_await values.aclose();
    CHECK(said == "g");
    const auto none = co_await values.next();
    CHECK_FALSE(none.has_value());
    co_await values.aclose();
    CHECK(said == "g");
}

ASYNC_TEST_CASE("a loop that is left early destroys the generator's locals") {
    said.clear();
    {
        auto values = two_values();
        const auto one = co_await values.next();
        CHECK(one.has_value());
    }
    CHECK(said == "g");
}

ASYNC_TEST_CASE("a failure of who reads the generator ends both, the generator last") {
    said.clear();
    auto reads = []() -> asyncio::coro<> {
        auto values = two_values();
        const mark end("r");
        const auto one = co_await values.next();
        static_cast<void>(one);
        co_await asyncio::fail(io_error(), "reader");
    };
    const auto r = co_await asyncio::as_outcome(reads());
    CHECK_FALSE(r.has_value());
    CHECK(said == "rg");
}

ASYNC_TEST_CASE("a next() that is cancelled ends the generator") {
    said.clear();
    auto values = two_values();
    const auto one = co_await values.next();
    CHECK(one.has_value());
    auto asks = [&values]() -> asyncio::coro<> {
        const auto two = co_await values.next();
        said += two ? "never" : "never?";
    };
    const asyncio::task<> t = asyncio::create_task(asks);
    co_await support::turns(2);
    t.cancel();
    const auto r = co_await asyncio::as_outcome(t);
    CHECK_FALSE(r.has_value());
    CHECK(t.cancelled());
    CHECK(said == "g");
    const auto none = co_await values.next();
    CHECK_FALSE(none.has_value());
}
} // TEST_SUITE

TEST_SUITE("task_scope") {
ASYNC_TEST_CASE("a scope that goes destroys the frames of its tasks, innermost first") {
    said.clear();
    auto outer = []() -> asyncio::coro<> {
        const mark end("o");
        co_await waits("i");
    };
    auto scope = std::make_unique<asyncio::task_scope>(asyncio::get_running_loop());
    const asyncio::task<> t = scope->create_task(outer);
    co_await support::turns(2);
    CHECK(scope->size() == 1);
    scope.reset();
    CHECK(said == "io");
    CHECK(t.done());
    const auto r = co_await asyncio::as_outcome(t);
    REQUIRE_FALSE(r.has_value());
    CHECK(r.error().holds<asyncio::cancelled_error>());
}

ASYNC_TEST_CASE("a task that destroys its own scope runs on to its next co_await") {
    said.clear();
    auto scope = std::make_unique<asyncio::task_scope>(asyncio::get_running_loop());
    auto suicide = [&scope]() -> asyncio::coro<> {
        const mark end("e");
        co_await asyncio::sleep(1ms);
        scope.reset();
        said += "on ";
        co_await asyncio::sleep(0s);
        said += "never";
    };
    const asyncio::task<> t = scope->create_task(suicide);
    const auto r = co_await asyncio::as_outcome(t);
    CHECK_FALSE(r.has_value());
    CHECK(t.cancelled());
    CHECK(said == "on e");
}

ASYNC_TEST_CASE("a task that destroys its own scope and then fails goes no further, either") {
    said.clear();
    auto scope = std::make_unique<asyncio::task_scope>(asyncio::get_running_loop());
    auto suicide = [&scope]() -> asyncio::coro<> {
        const mark end("e");
        co_await asyncio::sleep(1ms);
        scope.reset();
        co_await asyncio::fail(io_error(), "after the end");
        said += "never";
    };
    const asyncio::task<> t = scope->create_task(suicide);
    const auto r = co_await asyncio::as_outcome(t);
    CHECK_FALSE(r.has_value());
    CHECK(t.done());
    CHECK(said == "e");
}
} // TEST_SUITE

TEST_SUITE("resilience") {
ASYNC_TEST_CASE("retry() calls again until one call succeeds") {
    int calls = 0;
    auto call = [&calls]() -> asyncio::coro<int> {
        if (++calls < 3) co_await asyncio::fail(io_error(), "again");
        co_return 7;
    };
    const int value = co_await asyncio::retry(call, {.attempts = 3, .initial_delay = 1ms});
    CHECK(value == 7);
    CHECK(calls == 3);
}

ASYNC_TEST_CASE("retry() fails with the last error, or with one that is not to be tried again") {
    int calls = 0;
    auto call = [&calls]() -> asyncio::coro<int> {
        co_await asyncio::fail(io_error(), "call " + std::to_string(++calls));
        co_return 7;
    };
    const auto all = co_await asyncio::as_outcome(
        asyncio::retry(call, {.attempts = 3, .initial_delay = 1ms}));
    REQUIRE_FALSE(all.has_value());
    CHECK(std::string(all.error().what()).starts_with("call 3: "));
    calls = 0;
    auto never = [](const asyncio::error& e) { return e.code() != std::errc::io_error; };
    const auto one = co_await asyncio::as_outcome(
        asyncio::retry(call, {.attempts = 3, .initial_delay = 1ms}, never));
    REQUIRE_FALSE(one.has_value());
    CHECK(calls == 1);
}

ASYNC_TEST_CASE("retry() ends when it is cancelled, in a call and in a pause") {
    int calls = 0;
    auto call = [&calls]() -> asyncio::coro<int> {
        if (++calls == 1) co_await asyncio::fail(io_error(), "again");
        co_await asyncio::sleep(1h);
        co_return 7;
    };
    for (const asyncio::duration when : {asyncio::duration(500ms), asyncio::duration(90s)}) {
        calls = 0;
        const asyncio::task<int> t = asyncio::create_task(
            asyncio::retry(call, {.attempts = 3, .initial_delay = 1s}));
        co_await asyncio::sleep(when);
        t.cancel();
        const auto r = co_await asyncio::as_outcome(t);
        CHECK_FALSE(r.has_value());
        CHECK(t.cancelled());
        CHECK(calls == (when < asyncio::duration(1s) ? 1 : 2));
    }
}

ASYNC_TEST_CASE("circuit_breaker opens after failures, and closes after a success") {
    asyncio::circuit_breaker breaker({.failures = 2, .open_for = 60s});
    bool works = false;
    int calls = 0;
    auto call = [&works, &calls]() -> asyncio::coro<int> {
        ++calls;
        if (!works) co_await asyncio::fail(io_error(), "down");
        co_return 1;
    };
    for (int i = 0; i < 2; ++i) {
        const auto r = co_await asyncio::as_outcome(breaker.call(call));
        REQUIRE_FALSE(r.has_value());
        CHECK(r.error().code() == std::errc::io_error);
    }
    CHECK(breaker.state() == asyncio::circuit_state::open);
    const auto refused = co_await asyncio::as_outcome(breaker.call(call));
    REQUIRE_FALSE(refused.has_value());
    CHECK(refused.error().holds<asyncio::circuit_open_error>());
    CHECK(calls == 2);
    co_await asyncio::sleep(60s);
    works = true;
    const int value = co_await breaker.call(call);
    CHECK(value == 1);
    CHECK(breaker.state() == asyncio::circuit_state::closed);
}

ASYNC_TEST_CASE("rate_limiter: a cancelled acquire() takes no turn") {
    asyncio::rate_limiter limiter({.rate = 1, .per = 1s, .burst = 1});
    co_await limiter.acquire();
    const asyncio::task<> given_up = asyncio::create_task(limiter.acquire());
    co_await asyncio::sleep(500ms);
    given_up.cancel();
    const asyncio::time_point begin = asyncio::get_running_loop().time();
    co_await limiter.acquire();
    CHECK(asyncio::get_running_loop().time() - begin <= asyncio::duration(501ms));
    CHECK(given_up.cancelled());
}

ASYNC_TEST_CASE("map() fails with the first failure as it is, after the others have ended") {
    said.clear();
    auto each = [](int i) -> asyncio::coro<int> {
        const mark end(std::to_string(i));
        co_await asyncio::sleep(i == 2 ? asyncio::duration(1ms) : asyncio::duration(1h));
        co_await asyncio::fail(io_error(), "item " + std::to_string(i));
        co_return i;
    };
    const std::vector items{1, 2, 3};
    const auto r = co_await asyncio::as_outcome(asyncio::map(items, each));
    REQUIRE_FALSE(r.has_value());
    CHECK(std::string(r.error().what()).starts_with("item 2: "));
    CHECK(said.size() == 3);
    CHECK(said.starts_with("2"));
}

ASYNC_TEST_CASE("map(return_exceptions) gives an outcome for each item") {
    auto each = [](int i) -> asyncio::coro<int> {
        if (i == 2) co_await asyncio::fail(io_error(), "two");
        co_return 10 * i;
    };
    const std::vector items{1, 2, 3};
    const auto r = co_await asyncio::map(asyncio::return_exceptions, items, each);
    REQUIRE(r.size() == 3);
    REQUIRE(r[0].has_value());
    CHECK(*r[0] == 10);
    CHECK_FALSE(r[1].has_value());
    REQUIRE(r[2].has_value());
    CHECK(*r[2] == 30);
}

ASYNC_TEST_CASE("map_stream() fails in the turn of the call that failed; the others are ended") {
    int ended = 0;
    auto each = [&ended](int i) -> asyncio::coro<int> {
        struct counts {
            int& n;
            ~counts() { ++n; }
        } at_end{ended};
        if (i == 2) co_await asyncio::fail(io_error(), "two");
        co_await asyncio::sleep(1s);
        co_return i;
    };
    auto results = asyncio::map_stream(std::views::iota(1), each, {.limit = 3});
    const auto one = co_await results.next();
    REQUIRE(one.has_value());
    CHECK(*one == 1);
    const auto r = co_await asyncio::as_outcome(results.next());
    REQUIRE_FALSE(r.has_value());
    CHECK(std::string(r.error().what()).starts_with("two: "));
    CHECK(ended == 3);
    CHECK(asyncio::all_tasks().size() == 1);
}

ASYNC_TEST_CASE("a context variable that a failing task has set is its own") {
    static asyncio::context_var<int> number("number", 1);
    auto sets = []() -> asyncio::coro<> {
        number.set(2);
        co_await asyncio::sleep(1ms);
        CHECK(number.get() == 2);
        co_await asyncio::fail(io_error(), "no luck");
    };
    const auto r = co_await asyncio::as_outcome(asyncio::create_task(sets));
    CHECK_FALSE(r.has_value());
    CHECK(number.get() == 1);
}
} // TEST_SUITE

TEST_SUITE("exception groups") {
TEST_CASE("contains, split, subgroup and for_each know types and their standard bases") {
    using asyncio::detail::make_error;
    std::vector<asyncio::exception_ptr> inner{make_error(asyncio::timeout_error("late")),
                                              make_error(std::invalid_argument("bad"))};
    std::vector<asyncio::exception_ptr> outer{
        make_error(asyncio::exception_group("inner", std::move(inner))),
        make_error(std::system_error(io_error(), "disk"))};
    const asyncio::exception_group group("outer", std::move(outer));
    CHECK(group.contains<asyncio::timeout_error>());
    CHECK(group.contains<std::runtime_error>());
    CHECK(group.contains<std::logic_error>());
    CHECK_FALSE(group.contains<asyncio::broken_executor>());
    CHECK_FALSE(group.contains<asyncio::cancelled_error>());
    std::string texts;
    group.for_each<std::runtime_error>([&texts](const std::runtime_error& e) {
        texts += std::string(e.what()).substr(0, 4) + " ";
    });
    CHECK(texts == "late disk ");
    const auto [found, rest] = group.split<asyncio::timeout_error>();
    REQUIRE(found.has_value());
    REQUIRE(rest.has_value());
    CHECK(found->message() == "outer");
    CHECK(found->exceptions().size() == 1);
    CHECK(found->contains<asyncio::timeout_error>());
    CHECK_FALSE(found->contains<std::system_error>());
    CHECK_FALSE(rest->contains<asyncio::timeout_error>());
    CHECK(rest->contains<std::invalid_argument>());
    CHECK(rest->exceptions().size() == 2);
    CHECK_FALSE(group.subgroup<asyncio::queue_full>().has_value());
}

TEST_CASE("an error knows the bases that it has, and no others") {
    const asyncio::error late(asyncio::detail::make_error(asyncio::timeout_error()));
    CHECK(late.holds<asyncio::timeout_error>());
    CHECK(late.holds<std::runtime_error>());
    CHECK(late.holds<std::exception>());
    CHECK_FALSE(late.holds<std::logic_error>());
    const asyncio::error end(asyncio::detail::make_error(asyncio::cancelled_error("why")));
    CHECK(end.holds<asyncio::cancelled_error>());
    CHECK_FALSE(end.holds<std::exception>());
    CHECK(std::string(end.what()) == "why");
    const asyncio::error crash(
        asyncio::detail::make_error(asyncio::worker_crashed("gone", SIGSEGV, 0)));
    CHECK(crash.holds<asyncio::worker_crashed>());
    CHECK(crash.holds<asyncio::broken_executor>());
    CHECK(crash.holds<std::runtime_error>());
}
} // TEST_SUITE

TEST_SUITE("whole programs") {
TEST_CASE("run_main() gives a value, or prints what failed and gives 1") {
    auto value = []() -> asyncio::coro<int> { co_return 7; };
    CHECK(asyncio::run_main(value()) == 7);
    support::captured_stderr text;
    CHECK(asyncio::run_main(fails_after(1ms, "main")) == 1);
    const std::string printed = text.taken();
    CHECK(printed.starts_with("asyncio: uncaught std::system_error: main: "));
}

TEST_CASE("run_main() prints a group as a tree") {
    auto main = []() -> asyncio::coro<> {
        auto body = [](asyncio::task_group& tg) {
            tg.create_task(fails_at_once("one"));
            tg.create_task(fails_at_once("two"));
        };
        co_await asyncio::with(asyncio::task_group(), body);
    };
    support::captured_stderr text;
    CHECK(asyncio::run_main(main()) == 1);
    const std::string printed = text.taken();
    CHECK(printed.starts_with("asyncio: uncaught "));
    CHECK(printed.find("(2 sub-exceptions)\n|-- std::system_error: one: ") != printed.npos);
    CHECK(printed.find("\n`-- std::system_error: two: ") != printed.npos);
}

TEST_CASE("run_main() gives 130 after SIGINT, and the destructors have run") {
    const support::child_result r = support::in_child([] {
        std::signal(SIGINT, SIG_DFL); // a shell's job in the background ignores it
        auto main = []() -> asyncio::coro<> {
            const struct says {
                ~says() { std::fputs("ended\n", stdout); }
            } at_end;
            std::raise(SIGINT);
            co_await asyncio::sleep(1h);
            std::fputs("never\n", stdout);
        };
        return asyncio::run_main(main());
    });
    CHECK(r.exit_code == 130);
    CHECK(r.out == "ended\n");
    CHECK(r.err == "");
}

TEST_CASE("run_main() ends the tasks that are left") {
    said.clear();
    auto main = []() -> asyncio::coro<> {
        static asyncio::task<> left;
        left = asyncio::create_task(ends_slowly("left"));
        co_await asyncio::sleep(1ms);
    };
    asyncio::run_options options;
    options.clock = asyncio::clock_kind::virtual_time;
    CHECK(asyncio::run_main(main(), options) == 0);
    CHECK(said == "left");
}

TEST_CASE("ASYNCIO_FATAL gets the sentence of what nobody can report") {
    const support::child_result released = ends_fatally([]() -> asyncio::coro<> {
        asyncio::lock lock;
        lock.release();
        co_return;
    });
    CHECK(released.signal_number == SIGABRT);
    CHECK(released.err.starts_with("fatal: asyncio::lock"));
    const support::child_result empty = ends_fatally([]() -> asyncio::coro<> {
        asyncio::queue<int> queue;
        queue.get_nowait();
        co_return;
    });
    CHECK(empty.signal_number == SIGABRT);
    CHECK(empty.err == "fatal: asyncio::queue: the queue is empty\n");
    const support::child_result pending = ends_fatally([]() -> asyncio::coro<> {
        const auto f = asyncio::get_running_loop().create_future<int>();
        static_cast<void>(f.result());
        co_return;
    });
    CHECK(pending.signal_number == SIGABRT);
    CHECK(pending.err.starts_with("fatal: asyncio::future: the result is not there yet"));
}

TEST_CASE("so does what a future, a task or a coroutine refuses at once elsewhere") {
    struct refused {
        asyncio::coro<> (*body)();
        const char* sentence;
    };
    const refused all[] = {
        {[]() -> asyncio::coro<> {
             const auto f = asyncio::create_future<int>();
             f.set_exception(std::runtime_error("the future's own"));
             static_cast<void>(f.result());
             co_return;
         },
         "std::runtime_error: the future's own"},
        {[]() -> asyncio::coro<> {
             const auto f = asyncio::create_future<int>();
             f.cancel();
             static_cast<void>(f.exception());
             co_return;
         },
         "asyncio::cancelled_error"},
        {[]() -> asyncio::coro<> {
             const auto f = asyncio::create_future<int>();
             f.set_result(1);
             f.set_result(2);
             co_return;
         },
         "asyncio::future: it is done already"},
        {[]() -> asyncio::coro<> {
             asyncio::create_future<int>().set_exception(asyncio::exception_ptr());
             co_return;
         },
         "asyncio::future::set_exception: there is no exception"},
        {[]() -> asyncio::coro<> {
             const asyncio::future<int> made = asyncio::create_task(gives(1));
             made.set_result(2);
             co_return;
         },
         "asyncio::future: the result of a task"},
        {[]() -> asyncio::coro<> {
             auto f = asyncio::create_future<std::unique_ptr<int>>();
             f.set_result(std::make_unique<int>(1));
             const auto other = f;
             static_cast<void>(std::move(f).result());
             co_return;
         },
         "asyncio::future: the value cannot be copied"},
        {[]() -> asyncio::coro<> {
             static_cast<void>(asyncio::future<int>().done());
             co_return;
         },
         "asyncio::future: the handle is empty"},
        {[]() -> asyncio::coro<> {
             const asyncio::task<> none;
             co_await none;
         },
         "asyncio::future: an empty handle cannot be awaited"},
        {[]() -> asyncio::coro<> {
             static asyncio::task<> self;
             self = asyncio::create_task([]() -> asyncio::coro<> { co_await self; });
             co_await self;
         },
         "asyncio::task: it awaits itself"},
        {[]() -> asyncio::coro<> {
             asyncio::event_loop other;
             co_await other.create_future<int>();
         },
         "asyncio::future: it belongs to another loop"},
        {[]() -> asyncio::coro<> {
             asyncio::future<int> late;
             {
                 asyncio::event_loop other;
                 late = other.create_future<int>();
             }
             co_await late;
         },
         "asyncio::future: its loop is closed"},
        {[]() -> asyncio::coro<> {
             auto once = gives(1);
             static_cast<void>(co_await std::move(once));
             static_cast<void>(co_await std::move(once));
         },
         "asyncio::coro: awaited twice"},
        {[]() -> asyncio::coro<> {
             co_await asyncio::sleep(asyncio::duration::seconds(std::nan("")));
         },
         "asyncio::duration: the span is not a number"},
        {[]() -> asyncio::coro<> {
             const asyncio::context_var<int> var("var");
             static_cast<void>(var.get());
             co_return;
         },
         "asyncio::context_var: 'var' has no value here"},
    };
    for (const refused& what : all) {
        const support::child_result r = ends_fatally(what.body);
        CAPTURE(what.sentence);
        CAPTURE(r.err);
        CHECK(r.signal_number == SIGABRT);
        CHECK(r.err.starts_with("fatal: " + std::string(what.sentence)));
    }
    const support::child_result outside = support::in_child([] {
        static_cast<void>(asyncio::create_future<int>());
        return 0;
    });
    CHECK(outside.signal_number == SIGABRT);
    CHECK(outside.err.starts_with("fatal: asyncio::get_running_loop: no running event loop"));
}

TEST_CASE("so does misuse of a loop or a scope, in the words that are thrown elsewhere") {
    struct misuse {
        const char* name;
        void (*program)();
        const char* sentence;
    };
    static constexpr asyncio::run_options manual{.clock = asyncio::clock_kind::manual};
    static constexpr auto inside = [](auto call) { // a callback of a loop that polls
        asyncio::event_loop loop(manual);
        loop.call_soon([&] { call(loop); });
        loop.poll();
    };
    using loop_ref = asyncio::event_loop&;
    const misuse all[] = {
        {"poll() in a callback", [] { inside([](loop_ref loop) { loop.poll(); }); },
         "asyncio::event_loop::poll: the loop is running already; await the work instead"},
        {"run_once() in a callback", [] { inside([](loop_ref loop) { loop.run_once(); }); },
         "asyncio::event_loop::run_once: the loop is running already; await the work instead"},
        {"run_for() in a callback", [] { inside([](loop_ref loop) { loop.run_for(1s); }); },
         "asyncio::event_loop::run_for: the loop is running already; await the work instead"},
        {"a second loop in a callback",
         [] {
             inside([](loop_ref) {
                 asyncio::event_loop other(manual);
                 other.poll();
             });
         },
         "asyncio::event_loop::poll: another loop is running on this thread; await the work there"},
        {"the clock of a second loop in a callback",
         [] {
             inside([](loop_ref) {
                 asyncio::event_loop other(manual);
                 other.advance(1s);
             });
         },
         "asyncio::event_loop::advance: another loop is running on this thread; await the work "
         "there"},
        {"run() in a callback", [] { inside([](loop_ref) { asyncio::run(gives(1)); }); },
         "asyncio::run: a loop is running on this thread already; co_await the work instead"},
        {"close() in a callback", [] { inside([](loop_ref loop) { loop.close(); }); },
         "asyncio::event_loop::close: the loop is running; stop() it and close it after "
         "run_forever() has returned"},
        {"advance() of the real clock",
         [] { asyncio::event_loop({.clock = asyncio::clock_kind::real}).advance(1s); },
         "asyncio::event_loop::advance: only a manual clock moves by hand; make the loop with "
         "clock_kind::manual"},
        {"advance() of a virtual clock",
         [] { asyncio::event_loop({.clock = asyncio::clock_kind::virtual_time}).advance(1s); },
         "asyncio::event_loop::advance: only a manual clock moves by hand; make the loop with "
         "clock_kind::manual"},
        {"a wake handler that polls",
         [] {
             asyncio::event_loop loop(manual);
             loop.set_wake_handler([&] { loop.poll(); });
             loop.call_soon([] {});
         },
         "asyncio::event_loop::poll: called in the wake handler; let that only tell the host to "
         "do it"},
        {"a wake handler for a closed loop",
         [] {
             asyncio::event_loop loop(manual);
             loop.close();
             loop.set_wake_handler([] {});
         },
         "asyncio::event_loop::set_wake_handler: the loop is closed"},
        {"a task for a scope whose loop is gone",
         [] {
             std::optional<asyncio::event_loop> loop(manual);
             asyncio::task_scope scope(*loop);
             loop.reset();
             scope.create_task(gives(1));
         },
         "asyncio::create_task: the loop is closed; make another one"},
        {"a scope of a closed loop",
         [] {
             asyncio::event_loop loop(manual);
             loop.close();
             const asyncio::task_scope scope(loop);
         },
         "asyncio::task_scope: the loop is closed; make another one"},
        {"a scope for a task of another loop",
         [] {
             asyncio::event_loop loop(manual);
             asyncio::event_loop other(manual);
             asyncio::task_scope scope(loop);
             scope.create_task(other.create_task(gives(1)));
         },
         "asyncio::task_scope::create_task: the task belongs to another loop"},
    };
    for (const misuse& what : all) {
        const support::child_result r = support::in_child([&] {
            what.program();
            return 0;
        });
        CAPTURE(std::string(what.name));
        CHECK(r.signal_number == SIGABRT);
        CHECK(r.err == "fatal: " + std::string(what.sentence) + "\n");
    }
    // That a scope ends later than its loop is no misuse.
    const support::child_result late = support::in_child([] {
        std::optional<asyncio::event_loop> loop(manual);
        asyncio::task_scope scope(*loop);
        scope.create_task(waits("w"));
        loop->poll();
        loop.reset();
        return static_cast<int>(scope.size());
    });
    CHECK(late.exit_code == 0);
    CHECK(late.err.empty());
}

TEST_CASE("an interrupt ends the run of who cannot be told otherwise, and the program") {
    const support::child_result r = support::in_child([] {
        asyncio::event_loop loop;
        const auto interrupting = []() -> asyncio::coro<> {
            static_cast<void>(co_await support::catching(asyncio::sleep(1h)));
            THROW(asyncio::keyboard_interrupt("instead"));
        };
        const auto t = loop.create_task(interrupting);
        const auto other = loop.create_task(waits("other"));
        loop.call_soon([&] { t.cancel(); });
        loop.run_until_complete(other);
        return 0;
    });
    CHECK(r.signal_number == SIGABRT);
    CHECK(r.err == "fatal: asyncio::keyboard_interrupt: instead\n");
}

TEST_CASE("an interrupt of run_forever() ends the program, not a later run of the loop") {
    const support::child_result r = support::in_child([] {
        asyncio::event_loop loop;
        const auto f = loop.create_future<void>();
        const auto waits = [](asyncio::future<void> awaited) -> asyncio::coro<> {
            co_await awaited;
        };
        const auto t = loop.create_task(waits(f));
        loop.call_soon([&] { f.set_exception(asyncio::keyboard_interrupt("stop")); });
        loop.run_forever();
        return 0;
    });
    CHECK(r.signal_number == SIGABRT);
    CHECK(r.err == "fatal: asyncio::keyboard_interrupt: stop\n");
}

TEST_CASE("run() without anybody who wants the outcome is fatal, too, with the error's text") {
    const support::child_result r = ends_fatally([]() -> asyncio::coro<> {
        co_await fails_after(1ms, "nobody asked");
    });
    CHECK(r.signal_number == SIGABRT);
    CHECK(r.err.starts_with("fatal: std::system_error: nobody asked: "));
}

TEST_CASE("run() that fails ends the tasks that main left, and then the program") {
    const support::child_result r = ends_fatally([]() -> asyncio::coro<> {
        auto left = []() -> asyncio::coro<> {
            const struct says {
                ~says() { std::fputs("ended\n", stderr); }
            } at_end;
            co_await asyncio::sleep(1h);
        };
        asyncio::create_task(left());
        co_await fails_after(1ms, "main");
    });
    CHECK(r.signal_number == SIGABRT);
    CHECK(r.err.starts_with("ended\nfatal: std::system_error: main: "));
}

TEST_CASE("run_per_core() whose member fails ends the others, and then the program") {
    const support::child_result r = support::in_child([] {
        static std::latch all_run(3);
        asyncio::run_per_core(3, [](std::size_t i) -> asyncio::coro<> {
            const struct says {
                ~says() { std::fputs("ended\n", stderr); }
            } at_end;
            all_run.arrive_and_wait();
            if (i == 1) co_await asyncio::fail(io_error(), "the second one");
            co_await asyncio::sleep(1h);
        });
        return 0;
    });
    CHECK(r.signal_number == SIGABRT);
    CHECK(r.err.starts_with("ended\nended\nended\nfatal: "));
    CHECK(r.err.find("the second one") != r.err.npos);
}

TEST_CASE("value() of an outcome that has none is fatal, with the error's text") {
    const support::child_result r = ends_fatally([]() -> asyncio::coro<> {
        const auto failed = co_await asyncio::as_outcome(fails_at_once("not there"));
        static_cast<void>(failed.value());
    });
    CHECK(r.signal_number == SIGABRT);
    CHECK(r.err.starts_with("fatal: std::system_error: not there: "));
}
} // TEST_SUITE
