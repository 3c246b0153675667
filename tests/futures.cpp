// [SECTION] futures: results that come later, who is told, and who must be told about errors.
#include "support.hpp"

#include <atomic>
#include <concepts>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <type_traits>
#include <unordered_set>
#include <utility>
#include <vector>

namespace {

struct move_only {
    explicit move_only(int n) : number(std::make_unique<int>(n)) {}
    std::unique_ptr<int> number;
};

// Counts the objects of its kind that are alive.
struct counted {
    explicit counted(int& count) : alive(&count) { ++*alive; }
    counted(const counted& other) : alive(other.alive) { ++*alive; }
    counted& operator=(const counted&) = delete;
    ~counted() { --*alive; }
    int* alive;
};

asyncio::coro<int> value_of(asyncio::future<int> f) {
    const int value = co_await f;
    co_return value;
}

asyncio::coro<> note_when_done(asyncio::future<int> f, std::vector<std::string>& log,
                               std::string name) {
    co_await f;
    log.push_back(name);
}

asyncio::coro<int> failing(std::string text) {
    co_await asyncio::sleep(0s);
    THROW(std::runtime_error(text));
    co_return 0;
}

} // namespace

TEST_SUITE("future") {

ASYNC_TEST_CASE("FU-01: a pending future has neither a result nor an exception") {
    const auto f = asyncio::create_future<int>();
    CHECK_THROWS_AS(f.result(), asyncio::invalid_state_error);
    CHECK_THROWS_AS(static_cast<void>(f.exception()), asyncio::invalid_state_error);
    CHECK_FALSE(f.done());
    CHECK_FALSE(f.cancelled());
    f.set_result(1);
    CHECK(f.result() == 1);
    CHECK(f.exception() == nullptr);
    CHECK(f.done());
    co_return;
}

ASYNC_TEST_CASE("FU-02: the first outcome of a future stays") {
    const auto f = asyncio::create_future<int>();
    f.set_result(1);
    CHECK_THROWS_AS(f.set_result(2), asyncio::invalid_state_error);
    CHECK_THROWS_AS(f.set_exception(std::runtime_error("late")), asyncio::invalid_state_error);
    CHECK_FALSE(f.cancel());
    CHECK(f.result() == 1);

    const auto failed = asyncio::create_future<int>();
    failed.set_exception(std::runtime_error("first"));
    CHECK_THROWS_AS(failed.set_result(2), asyncio::invalid_state_error);
    CHECK_THROWS_AS(failed.set_exception(std::runtime_error("2")), asyncio::invalid_state_error);
    CHECK_THROWS_WITH_AS(failed.result(), "first", std::runtime_error);
    CHECK_AWAIT_THROWS_WITH_AS(failed, "first", std::runtime_error);

    const auto cancelled = asyncio::create_future<int>();
    cancelled.cancel();
    CHECK_THROWS_AS(cancelled.set_result(2), asyncio::invalid_state_error);
    CHECK_THROWS_AS(cancelled.set_exception(std::runtime_error("2")),
                    asyncio::invalid_state_error);
    CHECK(cancelled.cancelled());
}

ASYNC_TEST_CASE("FU-03: a cancelled future throws cancelled_error, however it is asked") {
    const auto f = asyncio::create_future<int>();
    CHECK(f.cancel("enough"));
    CHECK_FALSE(f.cancel());
    CHECK(f.cancelled());
    CHECK(f.done());
    CHECK_THROWS_WITH_AS(f.result(), "asyncio::cancelled_error: enough",
                         asyncio::cancelled_error);
    CHECK_THROWS_WITH_AS(static_cast<void>(f.exception()), "asyncio::cancelled_error: enough",
                         asyncio::cancelled_error);
    CHECK_AWAIT_THROWS_WITH_AS(f, "enough", asyncio::cancelled_error);
}

ASYNC_TEST_CASE_ORDERED("FU-04: done-callbacks run through the loop, in order, each once") {
    std::vector<std::string> log;
    const auto f = asyncio::create_future<int>();
    f.add_done_callback([&] { log.push_back("first"); });
    f.add_done_callback([&](const asyncio::future<int>& done) {
        log.push_back("second " + std::to_string(done.result()));
    });
    f.set_result(7);
    CHECK(log.empty());
    f.add_done_callback([&] { log.push_back("late"); });
    CHECK(log.empty());
    co_await support::turns(1);
    CHECK(log == std::vector<std::string>{"first", "second 7", "late"});
    co_await support::turns(3);
    CHECK(log.size() == 3);

    const auto cancelled = asyncio::create_future<int>();
    cancelled.add_done_callback([&] { log.push_back("cancelled"); });
    cancelled.cancel();
    CHECK(log.size() == 3);
    co_await support::turns(1);
    CHECK(log.back() == "cancelled");
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("FU-05: a done-callback that throws is reported and stops no other") {
    const auto reports = support::collect_reports();
    int ran = 0;
    const auto f = asyncio::create_future<int>();
    f.add_done_callback([&] {
        ++ran;
        throw std::runtime_error("callback failed");
    });
    f.add_done_callback([&] { ++ran; });
    f.set_result(1);
    co_await support::turns(2);
    CHECK(ran == 2);
    REQUIRE(reports->size() == 1);
    CHECK(support::message_of(reports->at(0).exception) == "callback failed");
}
#endif

ASYNC_TEST_CASE_ORDERED("FU-06: a done-callback that was removed does not run") {
    std::vector<int> log;
    const auto f = asyncio::create_future<int>();
    f.add_done_callback([&] { log.push_back(1); });
    const std::uint64_t second = f.add_done_callback([&] { log.push_back(2); });
    f.add_done_callback([&] { log.push_back(3); });
    CHECK(f.remove_done_callback(second));
    CHECK_FALSE(f.remove_done_callback(second));
    CHECK_FALSE(f.remove_done_callback(second + 1000));
    CHECK(log.empty());
    f.set_result(0);
    CHECK_FALSE(f.remove_done_callback(second)); // too late, in any case
    co_await support::turns(2);
    CHECK(log == std::vector<int>{1, 3});
}

ASYNC_TEST_CASE_ORDERED(
    "FU-06: each registration has an id of its own, also of the same callback") {
    std::vector<int> log;
    const auto f = asyncio::create_future<int>();
    const auto other = asyncio::create_future<int>();
    const std::function<void()> one = [&] { log.push_back(1); };
    const std::function<void()> two = [&] { log.push_back(2); };
    std::vector<std::uint64_t> ids;
    for (const auto& callback : {one, two, one, two, one})
        ids.push_back(f.add_done_callback(callback));
    ids.push_back(other.add_done_callback(two));
    CHECK(std::set<std::uint64_t>(ids.begin(), ids.end()).size() == 6);
    // The first, the last and one between, in a ring of them all.
    CHECK_FALSE(f.remove_done_callback(ids[5])); // of the other future
    for (const std::size_t i : {4U, 0U, 3U}) CHECK(f.remove_done_callback(ids[i]));
    for (const std::size_t i : {4U, 0U, 3U}) CHECK_FALSE(f.remove_done_callback(ids[i]));
    f.set_result(0);
    co_await support::turns(2);
    CHECK(log == std::vector<int>{2, 1});
    CHECK(other.remove_done_callback(ids[5]));
    CHECK_FALSE(other.remove_done_callback(ids[5]));
    other.set_result(0);
    co_await support::turns(2);
    CHECK(log.size() == 2);
    // A task's are no different, and removing the only one leaves none.
    const auto task = asyncio::create_task(value_of(f));
    const std::uint64_t id = task.add_done_callback(one);
    CHECK(task.remove_done_callback(id));
    co_await task;
    co_await support::turns(2);
    CHECK(log.size() == 2);
}

ASYNC_TEST_CASE("FU-06: who waits for the future is no callback, and is not removed with them") {
    const auto f = asyncio::create_future<int>();
    bool called = false;
    const auto waiter = asyncio::create_task(value_of(f));
    co_await support::turns(2);
    const std::uint64_t id = f.add_done_callback([&] { called = true; });
    for (std::uint64_t i = 0; i < id; ++i) CHECK_FALSE(f.remove_done_callback(i));
    CHECK(f.remove_done_callback(id));
    f.set_result(3);
    const int value = co_await waiter;
    CHECK(value == 3);
    CHECK_FALSE(called);
}

ASYNC_TEST_CASE("FU-07: an error that nobody asked for is reported once") {
    const auto reports = support::collect_reports();
    {
        const auto f = asyncio::create_future<int>();
        f.set_exception(std::runtime_error("lost"));
        const auto copy = f;
    }
    REQUIRE(reports->size() == 1);
    CHECK(support::message_of(reports->at(0).exception) == "lost");
    CHECK(reports->at(0).task.empty());
    reports->clear();

    asyncio::create_task(failing("lost task"), {.name = "loser"});
    co_await support::turns(4);
    REQUIRE(reports->size() == 1);
    CHECK(support::message_of(reports->at(0).exception) == "lost task");
    CHECK(reports->at(0).task == "loser");
    reports->clear();

#if !defined(ASYNCIO_NO_EXCEPTIONS)
    {
        const auto asked = asyncio::create_future<int>();
        asked.set_exception(std::runtime_error("seen"));
        CHECK_THROWS_AS(asked.result(), std::runtime_error);
    }
#endif
    {
        const auto asked = asyncio::create_future<int>();
        asked.set_exception(std::runtime_error("seen"));
        CHECK(asked.exception() != nullptr);
    }
    {
        const auto awaited = asyncio::create_future<int>();
        const auto waiter = asyncio::create_task(value_of(awaited));
        co_await support::turns(1);
        awaited.set_exception(std::runtime_error("seen"));
        CHECK_AWAIT_THROWS_AS(waiter, std::runtime_error);
    }
    {
        const auto cancelled = asyncio::create_future<int>();
        cancelled.cancel();
    }
    {
        const auto fine = asyncio::create_future<int>();
        fine.set_result(1);
    }
    { const auto pending = asyncio::create_future<int>(); }
    co_await support::turns(2);
    CHECK(reports->empty());
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("FU-07: asking too early does not count as having seen the error") {
    const auto reports = support::collect_reports();
    {
        const auto f = asyncio::create_future<int>();
        CHECK_THROWS_AS(f.result(), asyncio::invalid_state_error);
        CHECK_THROWS_AS(static_cast<void>(f.exception()), asyncio::invalid_state_error);
        f.set_exception(std::runtime_error("lost"));
    }
    CHECK(reports->size() == 1);
    co_return;
}
#endif

ASYNC_TEST_CASE("FU-07: an error that comes together with a cancellation has been seen") {
    const auto reports = support::collect_reports();
    {
        const auto f = asyncio::create_future<int>();
        const auto waiter = asyncio::create_task(value_of(f));
        co_await support::turns(2);
        f.set_exception(std::runtime_error("in the same turn"));
        waiter.cancel();
        CHECK_AWAIT_THROWS_AS(waiter, asyncio::cancelled_error);
    }
    CHECK(reports->empty());
    // Not one that comes after the waiting has ended.
    {
        const auto task = asyncio::create_task(failing("later"));
        const auto waiter = asyncio::create_task([task]() -> asyncio::coro<> {
            co_await asyncio::shield(task);
        });
        co_await support::turns(1);
        waiter.cancel();
        CHECK_AWAIT_THROWS_AS(waiter, asyncio::cancelled_error);
    }
    co_await support::turns(3);
    CHECK(reports->size() == 1);
}

ASYNC_TEST_CASE("FU-07: an error that comes before a cancellation is not reported, either") {
    const auto reports = support::collect_reports();
    {
        const auto f = asyncio::create_future<int>();
        f.set_exception(std::runtime_error("not wanted"));
        CHECK_FALSE(f.cancel());
        const auto task = asyncio::create_task(failing("not wanted"));
        co_await support::turns(3);
        CHECK(task.done());
        CHECK_FALSE(task.cancel());
        CHECK_FALSE(task.cancelled());
    }
    co_await support::turns(1);
    CHECK(reports->empty());
}

ASYNC_TEST_CASE("FU-08: awaiting a finished future does not give up the loop") {
    bool other_ran = false;
    const auto f = asyncio::create_future<int>();
    f.set_result(3);
    asyncio::get_running_loop().call_soon([&] { other_ran = true; });
    const int value = co_await f;
    CHECK(value == 3);
    CHECK_FALSE(other_ran);
    co_await support::turns(2);
    CHECK(other_ran);
}

#if !defined(ASYNCIO_BACKEND_NONE)

ASYNC_TEST_CASE("FU-09: an executor's future ends an await in the loop's thread") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const std::thread::id here = std::this_thread::get_id();
    for (const bool fails : {false, true}) {
        CAPTURE(fails);
        const auto outside = asyncio::concurrent_future<int>::create();
        std::thread worker;
        std::thread::id completed_on;
        outside.add_done_callback([&] { completed_on = std::this_thread::get_id(); });
        // Only once this task is suspended the other thread begins.
        bool suspended = false;
        loop.call_soon([&] {
            suspended = true;
            worker = std::thread([outside, fails] {
                if (fails) outside.set_exception(std::runtime_error("job failed"));
                else outside.set_result(5);
            });
        });
        const auto got = co_await support::catching(outside);
        CHECK(suspended);
        CHECK(got.value.value_or(0) == (fails ? 0 : 5));
        CHECK(support::holds<std::runtime_error>(got.error) == fails);
        CHECK(support::message_of(got.error) == (fails ? "job failed" : ""));
        CHECK(std::this_thread::get_id() == here);
        worker.join();
        CHECK(completed_on != here);
        CHECK(completed_on != std::thread::id());
    }
}

ASYNC_TEST_CASE("FU-09: so does that of run_in_executor(), whose callbacks run in the loop") {
    asyncio::thread_pool_executor pool(1);
    const std::thread::id here = std::this_thread::get_id();
    std::thread::id job;
    std::thread::id callback;
    const auto good = asyncio::run_in_executor(pool, [&job] {
        job = std::this_thread::get_id();
        return 5;
    });
    good.add_done_callback([&] { callback = std::this_thread::get_id(); });
    const int value = co_await good;
    CHECK(value == 5);
    CHECK(good.result() == 5);
    co_await support::turns(2);
    CHECK(job != here);
    CHECK(callback == here);
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    const auto bad = asyncio::run_in_executor(pool, [] { throw std::out_of_range("job failed"); });
    CHECK_AWAIT_THROWS_WITH_AS(bad, "job failed", std::out_of_range);
    CHECK(support::message_of(bad.exception()) == "job failed");
#endif
}

ASYNC_TEST_CASE("FU-10: cancelling the loop's side takes back a job that has not begun, no other") {
    asyncio::thread_pool_executor pool(1);
    support::flag go;
    support::flag begun;
    std::atomic<int> ran{0};
    const auto running = pool.submit([&] {
        begun.set();
        go.wait();
        ++ran;
        return 1;
    });
    begun.wait();
    const auto count = [&] { return 10 + ++ran; };
    const auto queued = pool.submit(count);
    const auto last = pool.submit(count);
    const auto wait_for_it = [](asyncio::concurrent_future<int> f) -> asyncio::coro<int> {
        const int value = co_await f;
        co_return value;
    };
    const auto on_running = asyncio::create_task(wait_for_it(running));
    const auto on_queued = asyncio::create_task(wait_for_it(queued));
    // The future of run_in_executor() is such a loop's side, too.
    const auto taken_back = asyncio::run_in_executor(pool, count);
    co_await support::turns(2);
    CHECK(on_running.cancel());
    CHECK(on_queued.cancel());
    CHECK(taken_back.cancel());
    CHECK(queued.cancelled()); // at once, before the pool could begin it
    co_await support::turns(2);
    CHECK(on_running.cancelled());
    CHECK(on_queued.cancelled());
    CHECK(taken_back.cancelled());
    CHECK_FALSE(running.cancelled());
    CHECK_FALSE(running.done());
    go.set();
    CHECK(running.result() == 1);
    CHECK(last.result() == 12); // only the first and the last have run
    CHECK(ran == 2);
}

ASYNC_TEST_CASE(
    "FU-10: one that has finished keeps its result, though the loop has not seen it yet") {
    const auto outside = asyncio::concurrent_future<int>::create();
    const auto waiter = asyncio::create_task([outside]() -> asyncio::coro<int> {
        const int value = co_await outside;
        co_return value;
    });
    co_await support::turns(2);
    CHECK(outside.set_running());
    std::thread([outside] { outside.set_result(5); }).join();
    CHECK(waiter.cancel()); // in the turn in which the result came
    CHECK_AWAIT_THROWS_AS(waiter, asyncio::cancelled_error);
    CHECK_FALSE(outside.cancelled());
    CHECK(outside.result() == 5);
    const int value = co_await outside;
    CHECK(value == 5);
}

#endif

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("FU-11: outside a running loop, what needs one throws std::runtime_error") {
    CHECK_THROWS_AS(asyncio::create_future<int>(), std::runtime_error);
    CHECK_THROWS_AS(asyncio::get_running_loop(), std::runtime_error);
    CHECK_THROWS_AS(asyncio::current_task(), std::runtime_error);
    CHECK_THROWS_AS(asyncio::all_tasks(), std::runtime_error);
    int alive = 0;
    const auto work = [](counted) -> asyncio::coro<> { co_return; };
    CHECK_THROWS_AS(asyncio::create_task(work(counted(alive))), std::runtime_error);
    CHECK_THROWS_AS(asyncio::create_task(work, counted(alive)), std::runtime_error);
    CHECK(alive == 0);
}
#endif

TEST_CASE("an empty handle says that it is empty") {
    const asyncio::future<int> none;
    CHECK_FALSE(none.valid());
    CHECK_FALSE(static_cast<bool>(none));
    CHECK_THROWS_AS(static_cast<void>(none.done()), asyncio::invalid_state_error);
    CHECK_THROWS_AS(none.result(), asyncio::invalid_state_error);
    CHECK_THROWS_AS(none.set_result(1), asyncio::invalid_state_error);
    CHECK_THROWS_AS(none.cancel(), asyncio::invalid_state_error);
    CHECK_THROWS_AS(none.add_done_callback([] {}), asyncio::invalid_state_error);
    CHECK(none == asyncio::future<int>());
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("an empty handle cannot be awaited") {
    const asyncio::future<int> none;
    CHECK_AWAIT_THROWS_AS(none, asyncio::invalid_state_error);
    const asyncio::task<int> no_task;
    CHECK_AWAIT_THROWS_AS(no_task, asyncio::invalid_state_error);
}
#endif

ASYNC_TEST_CASE("handles compare by what they stand for, order and hash") {
    const auto a = asyncio::create_future<int>();
    const auto b = asyncio::create_future<int>();
    const auto copy = a;
    CHECK(copy == a);
    CHECK_FALSE(a == b);
    CHECK((a < b) != (b < a));
    CHECK_FALSE(a < copy);
    const std::unordered_set<asyncio::future<int>> hashed{a, b, copy};
    CHECK(hashed.size() == 2);
    const std::set<asyncio::future<int>> ordered{a, b, copy};
    CHECK(ordered.size() == 2);
    static_assert(std::totally_ordered<asyncio::future<int>>); // what std::ranges::sort() wants
    static_assert(std::totally_ordered_with<asyncio::task<int>, asyncio::any_task>);
    CHECK(&a.get_loop() == &asyncio::get_running_loop());
    co_return;
}

ASYNC_TEST_CASE_ORDERED("many may wait for one future; they go on in the order of their coming") {
    std::vector<std::string> log;
    const auto f = asyncio::create_future<int>();
    const auto a = asyncio::create_task(note_when_done(f, log, "a"));
    const auto b = asyncio::create_task(note_when_done(f, log, "b"));
    co_await support::turns(1);
    f.add_done_callback([&] { log.push_back("callback"); });
    const auto c = asyncio::create_task(note_when_done(f, log, "c"));
    co_await support::turns(1);
    f.set_result(0);
    co_await support::turns(2);
    CHECK(log == std::vector<std::string>{"a", "b", "callback", "c"});
    co_await c;
}

ASYNC_TEST_CASE("result() and co_await give a reference, or move out of the last handle") {
    auto f = asyncio::create_future<move_only>();
    f.set_result(move_only(4));
    static_assert(std::is_same_v<decltype(f.result()), const move_only&>);
    static_assert(std::is_same_v<decltype(std::move(f).result()), move_only>);
    const move_only& seen = co_await f;
    CHECK(&seen == &f.result());
    CHECK(*seen.number == 4);
    {
        const auto other = f;
        CHECK_THROWS_AS(std::move(f).result(), asyncio::invalid_state_error);
    }
    f = asyncio::create_future<move_only>();
    f.set_result(move_only(5));
    const move_only taken = co_await std::move(f);
    CHECK(*taken.number == 5);
}

ASYNC_TEST_CASE("a value that can be copied is copied while other handles exist") {
    auto f = asyncio::create_future<std::string>();
    const auto other = f;
    f.set_result("a text that is too long for the small buffer");
    const std::string copy = std::move(f).result();
    CHECK(copy == other.result());
    CHECK_FALSE(other.result().empty());
    co_return;
}

ASYNC_TEST_CASE("a future may hold a reference, or nothing") {
    int number = 1;
    const auto f = asyncio::create_future<int&>();
    f.set_result(number);
    int& got = co_await f;
    CHECK(&got == &number);
    CHECK(&f.result() == &number);

    const auto nothing = asyncio::create_future<void>();
    CHECK_THROWS_AS(nothing.result(), asyncio::invalid_state_error);
    nothing.set_result();
    co_await nothing;
    nothing.result();
}

ASYNC_TEST_CASE("set_exception() takes an exception or an exception_ptr, but not a null one") {
    const auto f = asyncio::create_future<int>();
    CHECK_THROWS_AS(f.set_exception(asyncio::exception_ptr()), std::invalid_argument);
    CHECK_FALSE(f.done());
    f.set_exception(asyncio::detail::make_error(std::out_of_range("far")));
    CHECK(support::holds<std::out_of_range>(f.exception()));
    CHECK_AWAIT_THROWS_WITH_AS(f, "far", std::out_of_range);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("a task's outcome cannot be set from outside") {
    const auto t = asyncio::create_task(failing("own"));
    const asyncio::future<int> f = t;
    CHECK_THROWS_AS(f.set_result(1), asyncio::invalid_state_error);
    CHECK_THROWS_AS(f.set_exception(std::runtime_error("x")), asyncio::invalid_state_error);
    CHECK_AWAIT_THROWS_WITH_AS(f, "own", std::runtime_error);
}
#endif

ASYNC_TEST_CASE("the callbacks of a future that nobody can complete any more go with it") {
    int alive = 0;
    bool ran = false;
    {
        const auto f = asyncio::create_future<int>();
        f.add_done_callback([probe = counted(alive), &ran] { ran = true; });
        CHECK(alive == 1);
    }
    CHECK(alive == 0);
    co_await support::turns(1);
    CHECK_FALSE(ran);
}

ASYNC_TEST_CASE("a done-callback is destroyed when it has run, and when it is removed") {
    int alive = 0;
    const auto f = asyncio::create_future<int>();
    f.add_done_callback([probe = counted(alive)] {});
    const std::uint64_t id = f.add_done_callback([probe = counted(alive)] {});
    CHECK(alive == 2);
    f.remove_done_callback(id);
    CHECK(alive == 1);
    f.set_result(1);
    co_await support::turns(2);
    CHECK(alive == 0);
}

ASYNC_TEST_CASE("a done-callback may keep the future, and then nothing is reported") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const auto reports = support::collect_reports();
    const auto f = asyncio::create_future<int>();
    f.set_exception(std::runtime_error("dropped while a callback wants it"));
    std::optional<asyncio::future<int>> kept;
    f.add_done_callback([&](asyncio::future<int> done) { kept = std::move(done); });
    co_await support::turns(2);
    REQUIRE(kept);
    CHECK(*kept == f);
    CHECK(support::holds<std::runtime_error>(kept->exception()));
    CHECK(reports->empty());
    CHECK(&kept->get_loop() == &loop);
}

TEST_CASE("handles outlive their loop") {
    asyncio::future<int> pending;
    asyncio::future<int> finished;
    asyncio::future<int> failed;
    asyncio::task<int> task;
    int alive = 0;
    bool ran = false;
    std::optional<asyncio::event_loop> loop(std::in_place);
    pending = loop->create_future<int>();
    pending.add_done_callback([probe = counted(alive), &ran] { ran = true; });
    finished = loop->create_future<int>();
    finished.set_result(8);
    failed = loop->create_future<int>();
    failed.set_exception(std::runtime_error("kept"));
    task = loop->create_task(value_of(pending));
    loop->run_once();
    loop.reset();

    CHECK_THROWS_AS(static_cast<void>(pending.get_loop()), std::runtime_error);
    CHECK_FALSE(pending.cancel());
    CHECK_FALSE(pending.cancelled());
    CHECK(finished.result() == 8);
    CHECK_THROWS_WITH_AS(failed.result(), "kept", std::runtime_error);
    CHECK(support::holds<std::runtime_error>(failed.exception()));
    CHECK(support::message_of(failed.exception()) == "kept");
    CHECK(task.cancelled());
    CHECK_FALSE(task.cancel());
    CHECK_THROWS_AS(task.result(), asyncio::cancelled_error);
    CHECK_THROWS_AS(static_cast<void>(task.get_loop()), std::runtime_error);
    CHECK_THROWS_AS(pending.add_done_callback([] {}), std::runtime_error);
    pending.set_result(1); // nobody is told any more
    CHECK(pending.result() == 1);
    CHECK(alive == 0);
    CHECK_FALSE(ran);

#if !defined(ASYNCIO_NO_EXCEPTIONS)
    const auto awaits_a_dead_loops_future = [](asyncio::future<int> f) -> asyncio::coro<int> {
        co_return co_await f;
    };
    asyncio::event_loop other;
    asyncio::future<int> late;
    {
        asyncio::event_loop gone;
        late = gone.create_future<int>();
    }
    CHECK_THROWS_AS(other.run_until_complete(awaits_a_dead_loops_future(late)),
                    std::runtime_error);
#endif
}

TEST_CASE("an error that is dropped after its loop is gone is not reported to freed memory") {
    asyncio::future<int> failed;
    {
        asyncio::event_loop loop;
        failed = loop.create_future<int>();
        failed.set_exception(std::runtime_error("late"));
    }
    failed = {};
    CHECK_FALSE(failed.valid());
}

} // TEST_SUITE
