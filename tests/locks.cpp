#include "support.hpp"

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <random>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <utility>

namespace {

using log_type = std::vector<std::string>;

// Adds to the log what became of waiting for `lock`, and keeps it.
template <class Lock>
asyncio::coro<> take(Lock& lock, std::string name, log_type& log) {
    const auto got = co_await support::catching(lock.acquire());
    const bool cancelled = support::holds<asyncio::cancelled_error>(got.error);
    log.push_back(name + (cancelled ? " cancelled" : ""));
    if (got.error) co_await support::fail_with(got.error);
}

template <class Lock>
asyncio::coro<> take_and_release(Lock& lock, std::string name, log_type& log) {
    co_await lock.acquire();
    log.push_back(std::move(name));
    lock.release();
}

asyncio::coro<> wait_for_event(asyncio::event& event, std::string name, log_type& log) {
    const bool set = co_await event.wait();
    log.push_back(name + (set ? "" : " false"));
}

// Waits on a condition; says in the log what came, and whether the lock was held then.
asyncio::coro<> wait_on(asyncio::condition& changed, std::string name, log_type& log) {
    co_await changed.acquire();
    const auto notified = co_await support::catching(changed.wait());
    if (notified.error) name += " cancelled";
    else if (!*notified.value) name += " false";
    log.push_back(name + (changed.locked() ? "" : " unlocked"));
    changed.release();
    if (notified.error) co_await support::fail_with(notified.error);
}

asyncio::coro<std::size_t> pass(asyncio::barrier& barrier) {
    const std::size_t place = co_await barrier.wait();
    co_return place;
}

// True once a callback that is put into the ready queue now has run.
class turn_marker {
public:
    turn_marker() {
        asyncio::get_running_loop().call_soon([flag = passed_] { *flag = true; });
    }
    bool passed() const { return *passed_; }

private:
    std::shared_ptr<bool> passed_ = std::make_shared<bool>(false);
};

// The same numbers on every machine.
class random_source {
public:
    explicit random_source(std::uint32_t seed) : engine_(seed) {}
    std::uint32_t below(std::uint32_t limit) {
        return static_cast<std::uint32_t>(engine_()) % limit;
    }
    asyncio::duration delay() { return std::chrono::milliseconds(below(4)); }

private:
    std::mt19937 engine_;
};

// Cancels some of the tasks at random moments until all are done.
template <class Task>
asyncio::coro<> harass(std::vector<Task>& tasks, random_source& random, std::uint32_t one_in) {
    for (;;) {
        co_await asyncio::sleep(random.delay());
        std::vector<Task> left;
        for (const Task& task : tasks)
            if (!task.done()) left.push_back(task);
        if (left.empty()) break;
        if (random.below(one_in) == 0)
            left[random.below(static_cast<std::uint32_t>(left.size()))].cancel();
    }
}

asyncio::coro<> settled(std::vector<asyncio::task<>>& tasks) {
    const auto done = co_await asyncio::wait(tasks);
    for (const asyncio::task<>& task : done.done)
        if (!task.cancelled()) task.result();
}

void run_shuffled(asyncio::coro<> main, std::uint64_t seed) {
    asyncio::run(std::move(main), {.debug = false,
                                   .clock = asyncio::clock_kind::virtual_time,
                                   .shuffle_seed = seed});
}

} // namespace

TEST_SUITE("lock") {

ASYNC_TEST_CASE("LK-01: a free lock is taken without giving up the loop") {
    asyncio::lock mutex;
    CHECK_FALSE(mutex.locked());
    const turn_marker turn;
    const bool taken = co_await mutex.acquire();
    CHECK(taken);
    CHECK(mutex.locked());
    CHECK_FALSE(turn.passed());
}

ASYNC_TEST_CASE_ORDERED("LK-02: each release wakes exactly one waiter, the oldest first") {
    asyncio::lock mutex;
    log_type log;
    co_await mutex.acquire();
    std::vector<asyncio::task<>> tasks;
    for (const char* name : {"a", "b", "c"})
        tasks.push_back(asyncio::create_task(take(mutex, name, log)));
    co_await support::turns(3);
    CHECK(log.empty());
    mutex.release();
    co_await support::turns(5);
    CHECK(log == log_type{"a"});
    CHECK(mutex.locked());
    mutex.release();
    co_await support::turns(5);
    CHECK(log == log_type{"a", "b"});
    mutex.release();
    co_await support::turns(5);
    CHECK(log == log_type{"a", "b", "c"});
}

ASYNC_TEST_CASE("LK-03: who releases and acquires again at once queues behind the waiter") {
    asyncio::lock mutex;
    log_type log;
    co_await mutex.acquire();
    auto other = asyncio::create_task(take_and_release(mutex, "waiter", log));
    co_await support::turns(2);
    mutex.release();
    CHECK_FALSE(mutex.locked());
    co_await mutex.acquire();
    log.push_back("releaser");
    CHECK(log == log_type{"waiter", "releaser"});
    co_await other;
}

ASYNC_TEST_CASE("LK-03: a newcomer queues behind a waiter that was woken") {
    asyncio::lock mutex;
    log_type log;
    co_await mutex.acquire();
    auto waiter = asyncio::create_task(take_and_release(mutex, "waiter", log));
    co_await support::turns(2);
    mutex.release();
    auto newcomer =
        asyncio::create_task(take_and_release(mutex, "newcomer", log), {.eager_start = true});
    CHECK(log.empty());
    co_await newcomer;
    co_await waiter;
    CHECK(log == log_type{"waiter", "newcomer"});
}

ASYNC_TEST_CASE("LK-04: releasing a free lock throws and leaves it free") {
    asyncio::lock mutex;
    CHECK_THROWS_AS(mutex.release(), std::runtime_error);
    CHECK_FALSE(mutex.locked());
    co_await mutex.acquire();
    mutex.release();
    CHECK_THROWS_AS(mutex.release(), std::runtime_error);
    CHECK_FALSE(mutex.locked());
}

ASYNC_TEST_CASE("LK-05: a cancelled waiter leaves the line and the next release skips it") {
    asyncio::lock mutex;
    log_type log;
    co_await mutex.acquire();
    auto a = asyncio::create_task(take(mutex, "a", log));
    auto b = asyncio::create_task(take(mutex, "b", log));
    co_await support::turns(2);
    a.cancel();
    CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
    CHECK(mutex.locked());
    mutex.release();
    co_await b;
    CHECK(log == log_type{"a cancelled", "b"});
}

ASYNC_TEST_CASE_ORDERED(
    "LK-06: a waiter that is woken and cancelled at once gives its turn to the next") {
    asyncio::lock mutex;
    log_type log;
    co_await mutex.acquire();
    auto a = asyncio::create_task(take(mutex, "a", log));
    auto b = asyncio::create_task(take(mutex, "b", log));
    co_await support::turns(2);
    mutex.release();
    a.cancel();
    co_await b;
    CHECK(a.cancelled());
    CHECK(log == log_type{"a cancelled", "b"});
    CHECK(mutex.locked());
}

ASYNC_TEST_CASE("LK-06: the turn of the last waiter in line is not lost either") {
    asyncio::lock mutex;
    log_type log;
    co_await mutex.acquire();
    auto a = asyncio::create_task(take(mutex, "a", log));
    co_await support::turns(2);
    mutex.release();
    a.cancel();
    co_await support::turns(2);
    CHECK(a.cancelled());
    CHECK_FALSE(mutex.locked());
    const turn_marker turn;
    co_await mutex.acquire();
    CHECK_FALSE(turn.passed());
}

ASYNC_TEST_CASE_ORDERED(
    "LK-07: a release right after a waiter's cancellation reaches exactly one other") {
    asyncio::lock mutex;
    log_type log;
    co_await mutex.acquire();
    auto a = asyncio::create_task(take(mutex, "a", log));
    auto b = asyncio::create_task(take(mutex, "b", log));
    auto c = asyncio::create_task(take(mutex, "c", log));
    co_await support::turns(2);
    a.cancel();
    mutex.release();
    co_await support::turns(5);
    CHECK(log == log_type{"a cancelled", "b"});
    CHECK_FALSE(c.done());
    mutex.release();
    co_await c;
}

ASYNC_TEST_CASE("LK-08: with() releases the lock after a value, an error and a cancellation") {
    asyncio::lock mutex;
    const int value = co_await asyncio::with(mutex, [&]() -> asyncio::coro<int> {
        CHECK(mutex.locked());
        co_return 7;
    });
    CHECK(value == 7);
    CHECK_FALSE(mutex.locked());

    auto failing = [&]() -> asyncio::coro<> {
        co_await asyncio::sleep(0s);
        co_await asyncio::fail(std::make_error_code(std::errc::io_error), "no luck");
    };
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::with(mutex, failing), "no luck", std::system_error);
    CHECK_FALSE(mutex.locked());

    auto sleeping = asyncio::create_task(
        asyncio::with(mutex, []() -> asyncio::coro<> { co_await asyncio::sleep(1h); }));
    co_await support::turns(2);
    CHECK(mutex.locked());
    sleeping.cancel();
    CHECK_AWAIT_THROWS_AS(sleeping, asyncio::cancelled_error);
    CHECK_FALSE(mutex.locked());
}

ASYNC_TEST_CASE("LK-08: a guard releases the lock at the scope's end and by an exception") {
    asyncio::lock mutex;
    {
        auto held = co_await mutex.scoped();
        CHECK(mutex.locked());
    }
    CHECK_FALSE(mutex.locked());
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    try {
        auto held = co_await mutex.scoped();
        throw std::logic_error("no luck");
    } catch (const std::logic_error&) {
    }
    CHECK_FALSE(mutex.locked());
#endif

    auto sleeping = asyncio::create_task([&]() -> asyncio::coro<> {
        auto held = co_await mutex.scoped();
        co_await asyncio::sleep(1h);
    });
    co_await support::turns(2);
    CHECK(mutex.locked());
    sleeping.cancel();
    CHECK_AWAIT_THROWS_AS(sleeping, asyncio::cancelled_error);
    CHECK_FALSE(mutex.locked());
}

ASYNC_TEST_CASE("a guard waits for the lock, and may be moved") {
    asyncio::lock mutex;
    std::optional<asyncio::lock::guard> kept;
    {
        auto held = co_await mutex.scoped();
        auto other = asyncio::create_task([&]() -> asyncio::coro<> {
            auto mine = co_await mutex.scoped();
            kept.emplace(std::move(mine));
        });
        co_await support::turns(3);
        CHECK_FALSE(kept.has_value());
        {
            const auto moved = std::move(held);
        }
        co_await other;
    }
    CHECK(mutex.locked());
    kept.reset();
    CHECK_FALSE(mutex.locked());

    asyncio::lock second;
    auto guard = co_await mutex.scoped();
    guard = co_await second.scoped(); // gives the first one back
    CHECK_FALSE(mutex.locked());
    CHECK(second.locked());
}

ASYNC_TEST_CASE("a guard leaves alone what was released by hand, also when others hold it now") {
    asyncio::lock mutex;
    {
        auto held = co_await mutex.scoped();
        mutex.release();
        co_await mutex.acquire(); // somebody else's, for all that the guard knows
    }
    CHECK(mutex.locked());
    mutex.release();
    {
        auto held = co_await mutex.scoped();
        mutex.release();
    }
    CHECK_FALSE(mutex.locked());
}

ASYNC_TEST_CASE("acquire and scoped can be awaited as coroutines") {
    asyncio::lock mutex;
    asyncio::coro<bool> acquiring = mutex.acquire();
    const bool taken = co_await std::move(acquiring);
    CHECK(taken);
    auto limited = asyncio::wait_for(mutex.acquire(), 1s);
    CHECK_AWAIT_THROWS_AS(std::move(limited), asyncio::timeout_error);
    mutex.release();
    co_await asyncio::wait_for(mutex.acquire(), 1s);
    mutex.release();
    auto guarded = asyncio::create_task(mutex.scoped());
    co_await guarded;
    CHECK(mutex.locked());
}

ASYNC_TEST_CASE_ORDERED(
    "a lock that goes leaves its waiters suspended, and they can be cancelled") {
    auto mutex = std::make_unique<asyncio::lock>();
    log_type log;
    co_await mutex->acquire();
    auto a = asyncio::create_task(take(*mutex, "a", log));
    auto b = asyncio::create_task(take(*mutex, "b", log));
    co_await support::turns(2);
    mutex.reset();
    co_await support::turns(3);
    CHECK_FALSE(a.done());
    CHECK_FALSE(b.done());
    b.cancel();
    a.cancel();
    CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
    CHECK_AWAIT_THROWS_AS(b, asyncio::cancelled_error);
    CHECK(log == log_type{"b cancelled", "a cancelled"});
}

ASYNC_TEST_CASE_ORDERED("a waiter that was woken before its lock went stays suspended as well") {
    auto mutex = std::make_unique<asyncio::lock>();
    log_type log;
    co_await mutex->acquire();
    auto a = asyncio::create_task(take(*mutex, "a", log));
    auto b = asyncio::create_task(take(*mutex, "b", log));
    co_await support::turns(2);
    mutex->release();
    mutex.reset();
    co_await support::turns(3);
    CHECK_FALSE(a.done());
    a.cancel();
    b.cancel();
    CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
    CHECK_AWAIT_THROWS_AS(b, asyncio::cancelled_error);
    CHECK(log == log_type{"a cancelled", "b cancelled"});
}

ASYNC_TEST_CASE("a waiter that was woken and cancelled before its lock went is cancelled") {
    auto mutex = std::make_unique<asyncio::lock>();
    log_type log;
    co_await mutex->acquire();
    auto a = asyncio::create_task(take(*mutex, "a", log));
    co_await support::turns(2);
    mutex->release();
    a.cancel();
    mutex.reset();
    CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
    CHECK(log == log_type{"a cancelled"});
}

#if !defined(ASYNCIO_BACKEND_NONE) // which has debug mode only with ASYNCIO_DEBUG

ASYNC_TEST_CASE_WITH("debug mode reports who waits for what was destroyed", .debug = true) {
    const auto reports = support::collect_reports();
    auto mutex = std::make_unique<asyncio::lock>();
    auto event = std::make_unique<asyncio::event>();
    log_type log;
    co_await mutex->acquire();
    auto a = asyncio::create_task(take(*mutex, "a", log), {.name = "the waiter"});
    auto b = asyncio::create_task(wait_for_event(*event, "b", log));
    co_await support::turns(2);
    reports->clear(); // that these tasks take references, which debug mode reports, too
    event->set();
    event.reset(); // who was woken needs it no more
    CHECK(reports->empty());
    mutex.reset();
    REQUIRE(reports->size() == 1);
    CHECK(reports->at(0).task == "the waiter");
    CHECK(reports->at(0).message.find("destroyed") != std::string::npos);
    a.cancel();
    CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
    co_await b;
}

ASYNC_TEST_CASE_WITH("as it does who waits for an event, a semaphore, a condition or a barrier",
                     .debug = true) {
    asyncio::get_running_loop().slow_callback_duration = 1h;
    const auto reports = support::collect_reports();
    log_type log;
    auto event = std::make_unique<asyncio::event>();
    auto slots = std::make_unique<asyncio::semaphore>(0);
    auto changed = std::make_unique<asyncio::condition>();
    auto round = std::make_unique<asyncio::barrier>(2);
    const auto wait = [&]() -> asyncio::coro<> {
        const auto held = co_await changed->scoped();
        co_await changed->wait();
    };
    std::vector<asyncio::any_task> tasks;
    tasks.push_back(asyncio::create_task(wait_for_event(*event, "", log), {.name = "at event"}));
    tasks.push_back(asyncio::create_task(take(*slots, "", log), {.name = "at semaphore"}));
    tasks.push_back(asyncio::create_task(wait, {.name = "at condition"}));
    tasks.push_back(asyncio::create_task(pass(*round), {.name = "at barrier"}));
    co_await support::turns(3);
    const auto reported = [&] {
        log_type names;
        for (const asyncio::exception_context& report : *reports)
            if (report.message.find("was destroyed") != std::string::npos)
                names.push_back(report.task);
        reports->clear();
        return names;
    };
    CHECK(reported().empty());
    event.reset();
    CHECK(reported() == log_type{"at event"});
    slots.reset();
    CHECK(reported() == log_type{"at semaphore"});
    changed.reset();
    CHECK(reported() == log_type{"at condition"});
    round.reset();
    CHECK(reported() == log_type{"at barrier"});
    for (const asyncio::any_task& task : tasks) task.cancel();
    co_await asyncio::wait(tasks);
}
#endif

TEST_CASE("a frame that is destroyed in line leaves it, and gives away the turn it was given") {
    asyncio::lock mutex;
    log_type log;
    asyncio::event_loop survivor;
    survivor.run_until_complete(take(mutex, "first", log));
    asyncio::task<> next;
    {
        asyncio::event_loop doomed;
        const auto asleep = doomed.create_task(take(mutex, "asleep", log));
        doomed.run_once();
        {
            asyncio::event_loop woken_and_gone;
            const auto woken = woken_and_gone.create_task(take(mutex, "woken", log));
            woken_and_gone.run_once();
            next = survivor.create_task(take(mutex, "next", log));
            survivor.run_once();
        }
        // Gone with its loop while it slept; `asleep` is woken now and goes before its step.
        mutex.release();
    }
    survivor.run_until_complete(next);
    CHECK(log == log_type{"first", "next"});
}

TEST_CASE("guards in frames that are destroyed release their locks") {
    asyncio::lock mutex;
    asyncio::semaphore slots(1);
    {
        asyncio::event_loop loop;
        const auto holder = loop.create_task([&]() -> asyncio::coro<> {
            auto held = co_await mutex.scoped();
            auto slot = co_await slots.scoped();
            co_await asyncio::sleep(1h);
        });
        loop.run_once();
        CHECK(mutex.locked());
        CHECK(slots.locked());
    }
    CHECK_FALSE(mutex.locked());
    CHECK_FALSE(slots.locked());
}

TEST_CASE("random acquirers with random cancellations: one holder at a time, and nobody starves") {
    for (std::uint32_t seed = 1; seed <= 40; ++seed) {
        CAPTURE(seed);
        run_shuffled(
            [](std::uint32_t number) -> asyncio::coro<> {
                random_source random(number);
                asyncio::lock mutex;
                int holders = 0;
                int most = 0;
                int rounds = 0;
                auto work = [&]() -> asyncio::coro<> {
                    for (int i = 0; i < 10; ++i) {
                        co_await asyncio::sleep(random.delay());
                        auto held = co_await mutex.scoped();
                        most = std::max(most, ++holders);
                        const auto slept =
                            co_await support::catching(asyncio::sleep(random.delay()));
                        --holders;
                        if (slept.error) co_await support::fail_with(slept.error);
                        ++rounds;
                    }
                };
                std::vector<asyncio::task<>> tasks;
                for (int i = 0; i < 12; ++i) tasks.push_back(asyncio::create_task(work));
                co_await harass(tasks, random, 8);
                co_await settled(tasks);
                CHECK(most == 1);
                CHECK(rounds > 0);
                CHECK_FALSE(mutex.locked());
                const turn_marker turn;
                co_await mutex.acquire();
                CHECK_FALSE(turn.passed());
            }(seed),
            seed);
    }
}

} // TEST_SUITE

TEST_SUITE("event") {

ASYNC_TEST_CASE("EV-01: waiting for a set event gives true without giving up the loop") {
    asyncio::event event;
    CHECK_FALSE(event.is_set());
    event.set();
    CHECK(event.is_set());
    const turn_marker turn;
    const bool set = co_await event.wait();
    CHECK(set);
    CHECK_FALSE(turn.passed());
}

ASYNC_TEST_CASE("EV-01: waiting for an unset event lasts until it is set") {
    asyncio::event event;
    log_type log;
    auto waiter = asyncio::create_task(wait_for_event(event, "a", log));
    co_await asyncio::sleep(1h);
    CHECK(log.empty());
    event.set();
    CHECK(log.empty());
    co_await waiter;
    CHECK(log == log_type{"a"});
}

ASYNC_TEST_CASE_ORDERED(
    "EV-02: set wakes all in waiting order, and a later wait passes ahead of them") {
    asyncio::event event;
    log_type log;
    std::vector<asyncio::task<>> tasks;
    for (const char* name : {"a", "b", "c"})
        tasks.push_back(asyncio::create_task(wait_for_event(event, name, log)));
    co_await support::turns(2);
    event.set();
    event.set(); // no more than once
    co_await wait_for_event(event, "late", log);
    co_await asyncio::wait(tasks);
    CHECK(log == log_type{"late", "a", "b", "c"});
}

ASYNC_TEST_CASE_ORDERED("EV-03: those who waited at set go on although it is cleared at once") {
    asyncio::event event;
    log_type log;
    auto a = asyncio::create_task(wait_for_event(event, "a", log));
    auto b = asyncio::create_task(wait_for_event(event, "b", log));
    co_await support::turns(2);
    event.set();
    event.clear();
    CHECK_FALSE(event.is_set());
    auto late = asyncio::create_task(wait_for_event(event, "late", log));
    co_await a;
    co_await b;
    co_await support::turns(3);
    CHECK(log == log_type{"a", "b"});
    CHECK_FALSE(late.done());
    event.set();
    co_await late;
}

ASYNC_TEST_CASE("a cancelled waiter leaves an event, before and after it was woken") {
    asyncio::event event;
    log_type log;
    auto a = asyncio::create_task(wait_for_event(event, "a", log));
    auto b = asyncio::create_task(wait_for_event(event, "b", log));
    auto c = asyncio::create_task(wait_for_event(event, "c", log));
    co_await support::turns(2);
    a.cancel();
    CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
    event.set();
    b.cancel();
    CHECK_AWAIT_THROWS_AS(b, asyncio::cancelled_error);
    co_await c;
    CHECK(log == log_type{"c"});
}

ASYNC_TEST_CASE("an event that goes leaves its waiters suspended, but not those it has woken") {
    log_type log;
    asyncio::task<> woken;
    asyncio::task<> asleep;
    {
        asyncio::event first;
        asyncio::event second;
        woken = asyncio::create_task(wait_for_event(first, "woken", log));
        asleep = asyncio::create_task(wait_for_event(second, "asleep", log));
        co_await support::turns(2);
        first.set();
    }
    co_await woken;
    co_await support::turns(3);
    CHECK_FALSE(asleep.done());
    asleep.cancel();
    CHECK_AWAIT_THROWS_AS(asleep, asyncio::cancelled_error);
    CHECK(log == log_type{"woken"});
}

ASYNC_TEST_CASE("waking many waiters takes time in proportion to their number") {
    asyncio::event event;
    int passed = 0;
    auto wait = [&]() -> asyncio::coro<> {
        co_await event.wait();
        ++passed;
    };
    std::vector<asyncio::task<>> tasks;
    for (int i = 0; i < 200'000; ++i) tasks.push_back(asyncio::create_task(wait));
    co_await support::turns(2);
    event.set(); // with time in proportion to the square, the watchdog would end this
    co_await support::turns(2);
    CHECK(passed == 200'000);
}

} // TEST_SUITE

TEST_SUITE("condition") {

#if !defined(ASYNCIO_NO_EXCEPTIONS)
ASYNC_TEST_CASE("CO-01: wait and notify need the lock") {
    asyncio::condition changed;
    CHECK_AWAIT_THROWS_AS(changed.wait(), std::runtime_error);
    CHECK_THROWS_AS(changed.notify(), std::runtime_error);
    CHECK_THROWS_AS(changed.notify_all(), std::runtime_error);
    CHECK_THROWS_AS(changed.release(), std::runtime_error);
    CHECK_FALSE(changed.locked());
}
#endif

ASYNC_TEST_CASE("CO-02: wait gives the lock up, and has it again when it returns") {
    asyncio::condition changed;
    log_type log;
    auto waiter = asyncio::create_task(wait_on(changed, "waiter", log));
    co_await support::turns(2);
    CHECK_FALSE(changed.locked());
    co_await changed.acquire();
    changed.notify();
    co_await support::turns(5);
    CHECK(log.empty()); // the notifier still holds the lock
    changed.release();
    co_await waiter;
    CHECK(log == log_type{"waiter"});
    CHECK_FALSE(changed.locked());
}

ASYNC_TEST_CASE_ORDERED("CO-03: notify wakes at most n, the oldest first, and notify_all all") {
    asyncio::condition changed;
    log_type log;
    std::vector<asyncio::task<>> tasks;
    auto add = [&](const char* name) {
        tasks.push_back(asyncio::create_task(wait_on(changed, name, log)));
    };
    for (const char* name : {"a", "b", "c"}) add(name);
    co_await support::turns(5);
    co_await changed.acquire();
    changed.notify(2);
    changed.release();
    co_await support::turns(10);
    CHECK(log == log_type{"a", "b"});
    add("d");
    co_await support::turns(5);
    co_await changed.acquire();
    changed.notify(0);
    changed.release();
    co_await support::turns(10);
    CHECK(log == log_type{"a", "b"});
    co_await changed.acquire();
    changed.notify(100);
    changed.release();
    co_await support::turns(10);
    CHECK(log == log_type{"a", "b", "c", "d"});
    add("e");
    add("f");
    co_await support::turns(5);
    co_await changed.acquire();
    changed.notify_all();
    changed.release();
    co_await asyncio::wait(tasks);
    CHECK(log == log_type{"a", "b", "c", "d", "e", "f"});
}

ASYNC_TEST_CASE("CO-03: the notified leave one at a time, as each has the lock") {
    asyncio::condition changed;
    int inside = 0;
    int most = 0;
    auto wait = [&]() -> asyncio::coro<> {
        auto held = co_await changed.scoped();
        co_await changed.wait();
        most = std::max(most, ++inside);
        co_await asyncio::sleep(1s);
        --inside;
    };
    std::vector<asyncio::task<>> tasks;
    for (int i = 0; i < 3; ++i) tasks.push_back(asyncio::create_task(wait));
    co_await support::turns(5);
    {
        auto held = co_await changed.scoped();
        changed.notify_all();
    }
    const asyncio::duration begin = asyncio::elapsed();
    co_await settled(tasks);
    CHECK(most == 1);
    CHECK(asyncio::elapsed() - begin == 3s);
}

ASYNC_TEST_CASE("CO-04: a cancelled wait has the lock again before it throws") {
    asyncio::condition changed;
    log_type log;
    auto waiter = asyncio::create_task(wait_on(changed, "waiter", log));
    co_await support::turns(2);
    co_await changed.acquire();
    waiter.cancel();
    co_await support::turns(5);
    CHECK_FALSE(waiter.done()); // this task holds the lock
    changed.release();
    CHECK_AWAIT_THROWS_AS(waiter, asyncio::cancelled_error);
    CHECK(log == log_type{"waiter cancelled"});
    CHECK_FALSE(changed.locked());
}

ASYNC_TEST_CASE("CO-05: cancelled again and again as it takes the lock back, it goes on trying") {
    asyncio::condition changed;
    log_type log;
    auto waiter = asyncio::create_task(wait_on(changed, "waiter", log));
    co_await support::turns(2);
    co_await changed.acquire();
    changed.notify();
    co_await support::turns(3);
    for (const char* message : {"one", "two", "three"}) {
        waiter.cancel(message);
        co_await support::turns(3);
        CHECK_FALSE(waiter.done());
    }
    changed.release();
    CHECK_AWAIT_THROWS_WITH_AS(waiter, "three", asyncio::cancelled_error);
    CHECK(log == log_type{"waiter cancelled"});
    CHECK_FALSE(changed.locked());
}

ASYNC_TEST_CASE_ORDERED(
    "CO-06: a notification of a task that is cancelled at once goes to another") {
    asyncio::condition changed;
    log_type log;
    auto a = asyncio::create_task(wait_on(changed, "a", log));
    auto b = asyncio::create_task(wait_on(changed, "b", log));
    co_await support::turns(5);
    co_await changed.acquire();
    changed.notify(1);
    a.cancel();
    changed.release();
    co_await b;
    CHECK(a.cancelled());
    CHECK(log == log_type{"a cancelled", "b"});
}

ASYNC_TEST_CASE_ORDERED(
    "CO-06: as does that of a task that is cancelled while it takes the lock back") {
    asyncio::condition changed;
    log_type log;
    auto a = asyncio::create_task(wait_on(changed, "a", log));
    auto b = asyncio::create_task(wait_on(changed, "b", log));
    co_await support::turns(5);
    co_await changed.acquire();
    changed.notify(1);
    co_await support::turns(5); // a stands in the lock's line
    a.cancel();
    co_await support::turns(5);
    changed.release();
    co_await b;
    CHECK(a.cancelled());
    CHECK(log == log_type{"a cancelled", "b"});
}

TEST_CASE("CO-06: and that of a task whose frame is destroyed") {
    for (const bool taking_the_lock_back : {false, true}) {
        CAPTURE(taking_the_lock_back);
        asyncio::condition changed;
        log_type log;
        asyncio::event_loop survivor;
        asyncio::task<> b;
        {
            asyncio::event_loop doomed;
            const auto a = doomed.create_task(wait_on(changed, "a", log));
            doomed.run_once();
            b = survivor.create_task(wait_on(changed, "b", log));
            survivor.run_once();
            survivor.run_until_complete([&]() -> asyncio::coro<> {
                co_await changed.acquire();
                changed.notify(1);
            });
            if (taking_the_lock_back) doomed.run_once();
            CHECK(log.empty());
        }
        changed.release();
        survivor.run_until_complete(b);
        CHECK(log == log_type{"b"});
    }
}

ASYNC_TEST_CASE("CO-07: wait_for looks again after every notification and gives the value") {
    asyncio::condition changed;
    int value = 0;
    int looks = 0;
    auto waiter = asyncio::create_task([&]() -> asyncio::coro<int> {
        auto held = co_await changed.scoped();
        const int seen = co_await changed.wait_for([&] {
            ++looks;
            return value >= 3 ? value : 0;
        });
        CHECK(changed.locked());
        co_return seen;
    });
    co_await support::turns(2);
    CHECK(looks == 1);
    for (int i = 1; i <= 3; ++i) {
        {
            auto held = co_await changed.scoped();
            value = i;
            changed.notify_all();
        }
        co_await support::turns(3);
        CHECK(looks == 1 + i);
    }
    const int seen = co_await waiter;
    CHECK(seen == 3);
}

ASYNC_TEST_CASE("CO-07: wait_for needs no lock and does not suspend when it is true at once") {
    asyncio::condition changed;
    const turn_marker turn;
    const int value = co_await changed.wait_for([] { return 5; });
    CHECK(value == 5);
    CHECK_FALSE(turn.passed());
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    CHECK_AWAIT_THROWS_AS(changed.wait_for([] { return false; }), std::runtime_error);
#endif
}

ASYNC_TEST_CASE("CO-07: wait_for copies what its predicate refers to, and takes named closures") {
    asyncio::condition changed;
    auto text = std::make_shared<std::string>("there");
    auto get = [text]() -> const std::shared_ptr<std::string>& { return text; };
    const std::shared_ptr<std::string> seen = co_await changed.wait_for(get);
    CHECK(*seen == "there");
    CHECK(text.use_count() == 3); // text, the closure's and seen
}

ASYNC_TEST_CASE("CO-08: a condition on a lock shares its state, and two may share one") {
    asyncio::lock mutex;
    asyncio::condition first(&mutex);
    asyncio::condition second(&mutex);
    log_type log;
    CHECK_FALSE(first.locked());
    co_await mutex.acquire();
    CHECK(first.locked());
    CHECK(second.locked());
    second.release();
    CHECK_FALSE(mutex.locked());

    auto a = asyncio::create_task(wait_on(first, "first", log));
    auto b = asyncio::create_task(wait_on(second, "second", log));
    co_await support::turns(5);
    co_await first.acquire();
    CHECK(mutex.locked());
    second.notify_all();
    mutex.release();
    co_await b;
    CHECK(log == log_type{"second"});
    CHECK_FALSE(a.done());
    co_await second.acquire();
    first.notify();
    first.release();
    co_await a;
}

ASYNC_TEST_CASE("with() holds a condition's lock") {
    asyncio::condition changed;
    bool ready = false;
    auto waiter = asyncio::create_task(asyncio::with(changed, [&]() -> asyncio::coro<int> {
        co_await changed.wait_for([&] { return ready; });
        co_return 3;
    }));
    co_await support::turns(2);
    co_await asyncio::with(changed, [&] {
        CHECK(changed.locked());
        ready = true;
        changed.notify();
    });
    const int value = co_await waiter;
    CHECK(value == 3);
    CHECK_FALSE(changed.locked());
}

ASYNC_TEST_CASE("a condition that goes leaves its waiters suspended, and they can be cancelled") {
    for (const bool notified : {false, true}) {
        CAPTURE(notified);
        auto changed = std::make_unique<asyncio::condition>();
        auto wait = [&]() -> asyncio::coro<> {
            auto held = co_await changed->scoped();
            co_await changed->wait();
        };
        auto a = asyncio::create_task(wait);
        auto b = asyncio::create_task(wait);
        co_await support::turns(3);
        if (notified) {
            auto held = co_await changed->scoped();
            changed->notify_all();
        }
        changed.reset();
        co_await support::turns(3);
        CHECK_FALSE(a.done());
        CHECK_FALSE(b.done());
        a.cancel();
        b.cancel();
        CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
        CHECK_AWAIT_THROWS_AS(b, asyncio::cancelled_error);
    }
}

ASYNC_TEST_CASE("as it does those who take its lock back") {
    auto changed = std::make_unique<asyncio::condition>();
    auto waiter = asyncio::create_task([&]() -> asyncio::coro<> {
        auto held = co_await changed->scoped();
        co_await changed->wait();
    });
    co_await support::turns(2);
    {
        auto held = co_await changed->scoped();
        changed->notify();
        co_await support::turns(3);
        changed.reset();
    }
    co_await support::turns(3);
    CHECK_FALSE(waiter.done());
    waiter.cancel();
    CHECK_AWAIT_THROWS_AS(waiter, asyncio::cancelled_error);
}

ASYNC_TEST_CASE("who waited on a condition that goes comes out without the lock it was made on") {
    asyncio::lock mutex;
    auto changed = std::make_unique<asyncio::condition>(&mutex);
    auto waiter = asyncio::create_task([&]() -> asyncio::coro<> {
        auto held = co_await changed->scoped();
        co_await changed->wait();
    });
    co_await support::turns(2);
    changed.reset();
    co_await mutex.acquire();
    waiter.cancel();
    CHECK_AWAIT_THROWS_AS(waiter, asyncio::cancelled_error);
    CHECK(mutex.locked()); // the guard has not released what this task holds
}

TEST_CASE("a frame that is destroyed while it waits on a condition leaves others' lock alone") {
    asyncio::condition changed;
    log_type log;
    {
        asyncio::event_loop loop;
        const auto waiter = loop.create_task([&]() -> asyncio::coro<> {
            auto held = co_await changed.scoped();
            co_await changed.wait();
        });
        loop.run_once();
        CHECK_FALSE(changed.locked());
        loop.run_until_complete(changed.acquire());
    }
    CHECK(changed.locked());
    changed.release();
    {
        asyncio::event_loop loop;
        const auto waiter = loop.create_task([&]() -> asyncio::coro<> {
            auto held = co_await changed.scoped();
            co_await changed.wait();
        });
        loop.run_once();
    }
    CHECK_FALSE(changed.locked());
}

TEST_CASE("random notifiers and waiters with random cancellations lose no notification") {
    for (std::uint32_t seed = 1; seed <= 40; ++seed) {
        CAPTURE(seed);
        run_shuffled(
            [](std::uint32_t number) -> asyncio::coro<> {
                random_source random(number);
                asyncio::condition changed;
                int items = 0;
                int made = 0;
                int used = 0;
                auto consume = [&]() -> asyncio::coro<> {
                    for (;;) {
                        auto held = co_await changed.scoped();
                        while (items == 0) co_await changed.wait();
                        CHECK(changed.locked());
                        --items;
                        ++used;
                    }
                };
                std::vector<asyncio::task<>> consumers;
                for (int i = 0; i < 8; ++i) consumers.push_back(asyncio::create_task(consume));
                auto produce = [&]() -> asyncio::coro<> {
                    for (int i = 0; i < 60; ++i) {
                        co_await asyncio::sleep(random.delay());
                        auto held = co_await changed.scoped();
                        ++items;
                        ++made;
                        changed.notify(1);
                        if (random.below(2) == 0) co_await asyncio::sleep(random.delay());
                        if (random.below(3) == 0) {
                            auto& one = consumers[random.below(8)];
                            one.cancel();
                            if (one.done()) one = asyncio::create_task(consume);
                        }
                    }
                };
                std::vector<asyncio::task<>> producers;
                for (int i = 0; i < 3; ++i) producers.push_back(asyncio::create_task(produce));
                co_await settled(producers);
                consumers.push_back(asyncio::create_task(consume));
                co_await asyncio::sleep(1min);
                CHECK(items == 0);
                CHECK(used == made);
                CHECK_FALSE(changed.locked());
                for (auto& one : consumers) one.cancel();
                co_await settled(consumers);
            }(seed),
            seed);
    }
}

} // TEST_SUITE

TEST_SUITE("semaphore") {

ASYNC_TEST_CASE("SE-01: a semaphore does not begin below zero, and at zero it is locked") {
    CHECK_THROWS_AS(asyncio::semaphore(-1), std::invalid_argument);
    CHECK_THROWS_AS(asyncio::bounded_semaphore(-1), std::invalid_argument);
    const asyncio::semaphore none(0);
    CHECK(none.locked());
    const asyncio::semaphore one;
    CHECK_FALSE(one.locked());
    co_return;
}

ASYNC_TEST_CASE("SE-02: a free slot is taken without giving up the loop") {
    asyncio::semaphore slots(2);
    const turn_marker turn;
    bool taken = co_await slots.acquire();
    CHECK(taken);
    CHECK_FALSE(slots.locked());
    taken = co_await slots.acquire();
    CHECK(taken);
    CHECK(slots.locked());
    CHECK_FALSE(turn.passed());
}

ASYNC_TEST_CASE_ORDERED("SE-03: slots are given in the order of waiting") {
    asyncio::semaphore slots(0);
    log_type log;
    std::vector<asyncio::task<>> tasks;
    for (const char* name : {"a", "b", "c"})
        tasks.push_back(asyncio::create_task(take(slots, name, log)));
    co_await support::turns(2);
    slots.release();
    slots.release();
    co_await support::turns(3);
    CHECK(log == log_type{"a", "b"});
    slots.release();
    co_await tasks[2];
    CHECK(slots.locked());
}

ASYNC_TEST_CASE_ORDERED(
    "SE-03: a newcomer queues behind a woken waiter and sees the semaphore locked") {
    asyncio::semaphore slots(1);
    log_type log;
    co_await slots.acquire();
    auto waiter = asyncio::create_task(take_and_release(slots, "waiter", log));
    co_await support::turns(2);
    slots.release();
    CHECK(slots.locked());
    co_await slots.acquire();
    log.push_back("newcomer");
    CHECK(log == log_type{"waiter", "newcomer"});
    co_await waiter;
}

ASYNC_TEST_CASE("SE-03: slots that come free while newcomers queue reach them") {
    asyncio::semaphore slots(0);
    log_type log;
    auto a = asyncio::create_task(take(slots, "a", log));
    co_await support::turns(2);
    slots.release();
    slots.release(); // one for a, one that is free
    CHECK(slots.locked());
    auto b = asyncio::create_task(take(slots, "b", log), {.eager_start = true});
    auto c = asyncio::create_task(take(slots, "c", log), {.eager_start = true});
    CHECK(log.empty()); // nobody overtakes a
    co_await b;
    CHECK(log == log_type{"a", "b"});
    co_await support::turns(3);
    CHECK_FALSE(c.done());
    slots.release();
    co_await c;
}

ASYNC_TEST_CASE_ORDERED("SE-04: the slot of a woken waiter that is cancelled goes to the next") {
    asyncio::semaphore slots(0);
    log_type log;
    auto a = asyncio::create_task(take(slots, "a", log));
    auto b = asyncio::create_task(take(slots, "b", log));
    co_await support::turns(2);
    slots.release();
    a.cancel();
    co_await b;
    CHECK(a.cancelled());
    CHECK(log == log_type{"a cancelled", "b"});
    CHECK(slots.locked());
}

ASYNC_TEST_CASE("SE-04: with nobody behind it the slot is free again") {
    asyncio::semaphore slots(0);
    log_type log;
    auto a = asyncio::create_task(take(slots, "a", log));
    co_await support::turns(2);
    slots.release();
    a.cancel();
    CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
    CHECK_FALSE(slots.locked());
    const turn_marker turn;
    co_await slots.acquire();
    CHECK_FALSE(turn.passed());
    CHECK(slots.locked());
}

ASYNC_TEST_CASE_ORDERED("SE-05: a release after two cancellations reaches the third, and only it") {
    asyncio::semaphore slots(0);
    log_type log;
    std::vector<asyncio::task<>> tasks;
    for (const char* name : {"a", "b", "c", "d"})
        tasks.push_back(asyncio::create_task(take(slots, name, log)));
    co_await support::turns(2);
    tasks[0].cancel();
    tasks[1].cancel();
    slots.release();
    co_await support::turns(5);
    CHECK(log == log_type{"a cancelled", "b cancelled", "c"});
    CHECK_FALSE(tasks[3].done());
    slots.release();
    co_await tasks[3];
}

ASYNC_TEST_CASE("SE-06: a release after a cancellation reaches the waiter that is left") {
    asyncio::semaphore slots(0);
    log_type log;
    auto a = asyncio::create_task(take(slots, "a", log));
    auto b = asyncio::create_task(take(slots, "b", log));
    co_await support::turns(2);
    b.cancel();
    co_await support::turns(2);
    slots.release();
    co_await a;
    CHECK(log == log_type{"b cancelled", "a"});
}

ASYNC_TEST_CASE("SE-07: a bounded semaphore refuses to grow, a plain one does not") {
    asyncio::bounded_semaphore bounded(1);
    CHECK_THROWS_AS(bounded.release(), std::invalid_argument);
    co_await bounded.acquire();
    CHECK(bounded.locked());
    bounded.release();
    CHECK_THROWS_AS(bounded.release(), std::invalid_argument);
    co_await bounded.acquire();
    CHECK(bounded.locked());

    asyncio::semaphore plain(1);
    plain.release();
    const turn_marker turn;
    co_await plain.acquire();
    CHECK_FALSE(plain.locked());
    co_await plain.acquire();
    CHECK_FALSE(turn.passed());
    CHECK(plain.locked());
}

ASYNC_TEST_CASE_ORDERED("SE-08: nobody takes a slot again ahead of those who wait") {
    asyncio::semaphore slots(1);
    log_type log;
    auto work = [&](std::string name) -> asyncio::coro<> {
        for (int round = 0; round < 2; ++round) {
            co_await slots.acquire();
            log.push_back(name);
            co_await asyncio::sleep(0s);
            slots.release();
        }
    };
    std::vector<asyncio::task<>> tasks;
    for (const char* name : {"1", "2", "3"}) tasks.push_back(asyncio::create_task(work(name)));
    co_await settled(tasks);
    CHECK(log == log_type{"1", "2", "3", "1", "2", "3"});
}

ASYNC_TEST_CASE("guards and with() give slots back") {
    asyncio::semaphore slots(1);
    asyncio::bounded_semaphore bounded(1);
    {
        auto slot = co_await slots.scoped();
        auto other = co_await bounded.scoped();
        CHECK(slots.locked());
        CHECK(bounded.locked());
        auto moved = std::move(slot);
        CHECK(slots.locked());
    }
    CHECK_FALSE(slots.locked());
    CHECK_FALSE(bounded.locked());
    CHECK_THROWS_AS(bounded.release(), std::invalid_argument); // given back once, not twice

    const int value = co_await asyncio::with(slots, [&] {
        CHECK(slots.locked());
        return 4;
    });
    CHECK(value == 4);
    CHECK_FALSE(slots.locked());
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    auto failing = [&] {
        CHECK(bounded.locked());
        throw std::logic_error("no luck");
    };
    CHECK_AWAIT_THROWS_AS(asyncio::with(bounded, failing), std::logic_error);
    CHECK_FALSE(bounded.locked());
#endif
}

ASYNC_TEST_CASE("the guard of a bounded semaphore gives nothing back that has been given back") {
    asyncio::bounded_semaphore slots(2);
    {
        auto slot = co_await slots.scoped();
        slots.release();
    }
    CHECK_THROWS_AS(slots.release(), std::invalid_argument);
    co_await slots.acquire();
    CHECK_FALSE(slots.locked());
    co_await slots.acquire();
    CHECK(slots.locked());
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    slots.release();
    slots.release();
    CHECK_AWAIT_THROWS_AS(asyncio::with(slots, [&] { slots.release(); }), std::invalid_argument);
#endif
}

ASYNC_TEST_CASE("a semaphore that goes leaves its waiters suspended, and they can be cancelled") {
    for (const bool woken : {false, true}) {
        CAPTURE(woken);
        auto slots = std::make_unique<asyncio::semaphore>(0);
        log_type log;
        auto a = asyncio::create_task(take(*slots, "a", log));
        auto b = asyncio::create_task(take(*slots, "b", log));
        co_await support::turns(2);
        if (woken) slots->release();
        slots.reset();
        co_await support::turns(3);
        CHECK_FALSE(a.done());
        CHECK_FALSE(b.done());
        a.cancel();
        b.cancel();
        CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
        CHECK_AWAIT_THROWS_AS(b, asyncio::cancelled_error);
    }
}

TEST_CASE("a frame that is destroyed in a semaphore's line gives its slot away") {
    asyncio::semaphore slots(0);
    log_type log;
    asyncio::event_loop survivor;
    asyncio::task<> next;
    {
        asyncio::event_loop doomed;
        const auto woken = doomed.create_task(take(slots, "woken", log));
        doomed.run_once();
        next = survivor.create_task(take(slots, "next", log));
        survivor.run_once();
        slots.release();
    }
    survivor.run_until_complete(next);
    CHECK(log == log_type{"next"});
    CHECK(slots.locked());
}

TEST_CASE("random acquirers with random cancellations never exceed the slots and lose none") {
    for (std::uint32_t seed = 1; seed <= 40; ++seed) {
        CAPTURE(seed);
        run_shuffled(
            [](std::uint32_t number) -> asyncio::coro<> {
                random_source random(number);
                const int all = 1 + static_cast<int>(random.below(4));
                asyncio::bounded_semaphore slots(all);
                int inside = 0;
                int most = 0;
                auto work = [&]() -> asyncio::coro<> {
                    for (int i = 0; i < 10; ++i) {
                        co_await asyncio::sleep(random.delay());
                        auto slot = co_await slots.scoped();
                        most = std::max(most, ++inside);
                        const auto slept =
                            co_await support::catching(asyncio::sleep(random.delay()));
                        --inside;
                        if (slept.error) co_await support::fail_with(slept.error);
                    }
                };
                std::vector<asyncio::task<>> tasks;
                for (int i = 0; i < 12; ++i) tasks.push_back(asyncio::create_task(work));
                co_await harass(tasks, random, 6);
                co_await settled(tasks);
                CHECK(most <= all);
                const turn_marker turn;
                for (int i = 0; i < all; ++i) {
                    CHECK_FALSE(slots.locked());
                    co_await slots.acquire();
                }
                CHECK(slots.locked());
                CHECK_FALSE(turn.passed());
            }(seed),
            seed);
    }
}

} // TEST_SUITE

TEST_SUITE("barrier") {

ASYNC_TEST_CASE("BA-01: a barrier needs a party, and with one it lets everybody pass at once") {
    CHECK_THROWS_AS(asyncio::barrier(0), std::invalid_argument);
    CHECK_THROWS_AS(asyncio::barrier(-3), std::invalid_argument);
    asyncio::barrier barrier(1);
    CHECK(barrier.parties() == 1);
    const turn_marker turn;
    for (int i = 0; i < 3; ++i) {
        const std::size_t place = co_await barrier.wait();
        CHECK(place == 0);
    }
    CHECK_FALSE(turn.passed());
}

ASYNC_TEST_CASE_ORDERED("a barrier is a manager, which gives the body its place") {
    asyncio::barrier barrier(2);
    const auto arrive = [&]() -> asyncio::coro<std::size_t> {
        co_return co_await asyncio::with(barrier, [](std::size_t place) { return place; });
    };
    const auto places = co_await asyncio::gather(arrive(), arrive());
    CHECK(places == std::array<std::size_t, 2>{0, 1});
    CHECK(barrier.n_waiting() == 0);
}

ASYNC_TEST_CASE_ORDERED("BA-02: all pass with their places, and the last one without suspending") {
    asyncio::barrier barrier(3);
    auto first = asyncio::create_task(pass(barrier));
    auto second = asyncio::create_task(pass(barrier));
    co_await support::turns(3);
    CHECK(barrier.n_waiting() == 2);
    CHECK_FALSE(first.done());
    const turn_marker turn;
    const std::size_t last = co_await barrier.wait();
    CHECK_FALSE(turn.passed());
    CHECK(last == 2);
    const std::size_t place = co_await first;
    CHECK(place == 0);
    const std::size_t other = co_await second;
    CHECK(other == 1);
}

ASYNC_TEST_CASE("BA-03: a cancelled party frees its place and does not break the barrier") {
    asyncio::barrier barrier(3);
    auto a = asyncio::create_task(pass(barrier));
    auto b = asyncio::create_task(pass(barrier));
    co_await support::turns(3);
    a.cancel();
    CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
    CHECK(barrier.n_waiting() == 1);
    CHECK_FALSE(barrier.broken());
    CHECK_FALSE(b.done());
    auto c = asyncio::create_task(pass(barrier));
    co_await barrier.wait();
    co_await b;
    co_await c;
}

ASYNC_TEST_CASE("BA-04: who comes while the round leaves belongs to the next") {
    asyncio::barrier barrier(2);
    auto a = asyncio::create_task(pass(barrier));
    co_await support::turns(2);
    co_await barrier.wait(); // a is released, but has not left
    CHECK_FALSE(a.done());
    auto c = asyncio::create_task(pass(barrier), {.eager_start = true});
    CHECK_FALSE(c.done());
    CHECK(barrier.n_waiting() == 0);
    auto d_after = asyncio::create_task([&]() -> asyncio::coro<std::size_t> {
        co_await a;
        const std::size_t place = co_await barrier.wait();
        co_return place;
    });
    co_await a;
    const std::size_t first = co_await c;
    const std::size_t second = co_await d_after;
    CHECK(first + second == 1);
    CHECK(barrier.n_waiting() == 0);
}

ASYNC_TEST_CASE("BA-05: rounds do not mix") {
    constexpr std::size_t parties = 5;
    constexpr std::size_t rounds = 20;
    asyncio::barrier barrier(static_cast<std::ptrdiff_t>(parties));
    std::vector<std::size_t> arrived(rounds);
    std::vector<std::size_t> left(rounds);
    random_source random(1);
    auto work = [&]() -> asyncio::coro<> {
        for (std::size_t round = 0; round < rounds; ++round) {
            if (random.below(2) == 0) co_await asyncio::sleep(random.delay());
            ++arrived[round];
            co_await barrier.wait();
            CHECK(arrived[round] == parties);
            if (round > 0) CHECK(left[round - 1] == parties);
            ++left[round];
        }
    };
    std::vector<asyncio::task<>> tasks;
    for (std::size_t i = 0; i < parties; ++i) tasks.push_back(asyncio::create_task(work));
    co_await settled(tasks);
    CHECK(left == std::vector<std::size_t>(rounds, parties));
}

ASYNC_TEST_CASE("BA-06: reset sends the waiting away, and the barrier is as new") {
    asyncio::barrier barrier(3);
    auto a = asyncio::create_task(pass(barrier));
    auto b = asyncio::create_task(pass(barrier));
    co_await support::turns(3);
    co_await barrier.reset();
    CHECK_AWAIT_THROWS_AS(a, asyncio::broken_barrier_error);
    CHECK_AWAIT_THROWS_AS(b, asyncio::broken_barrier_error);
    CHECK_FALSE(barrier.broken());
    CHECK(barrier.n_waiting() == 0);
    auto c = asyncio::create_task(pass(barrier));
    auto d = asyncio::create_task(pass(barrier));
    const std::size_t place = co_await barrier.wait();
    CHECK(place <= 2);
    co_await c;
    co_await d;
}

ASYNC_TEST_CASE("BA-06: who comes while the reset ones leave waits for the next round") {
    asyncio::barrier barrier(2);
    auto a = asyncio::create_task(pass(barrier));
    co_await support::turns(2);
    co_await barrier.reset();
    CHECK(barrier.n_waiting() == 0);
    auto b = asyncio::create_task(pass(barrier));
    co_await support::turns(5);
    CHECK_AWAIT_THROWS_AS(a, asyncio::broken_barrier_error);
    CHECK(barrier.n_waiting() == 1);
    co_await barrier.wait();
    co_await b;
}

ASYNC_TEST_CASE("BA-06, BA-07: reset and abort send away who has not left a full round yet, too") {
    for (const bool breaks : {false, true}) {
        CAPTURE(breaks);
        asyncio::barrier barrier(3);
        auto a = asyncio::create_task(pass(barrier));
        auto b = asyncio::create_task(pass(barrier));
        co_await support::turns(3);
        co_await barrier.wait(); // a and b are released, but have not left
        auto early = asyncio::create_task(pass(barrier), {.eager_start = true});
        if (breaks) co_await barrier.abort();
        else co_await barrier.reset();
        CHECK(barrier.broken() == breaks);
        CHECK(barrier.n_waiting() == 0);
        CHECK_AWAIT_THROWS_AS(a, asyncio::broken_barrier_error);
        CHECK_AWAIT_THROWS_AS(b, asyncio::broken_barrier_error);
        CHECK(barrier.broken() == breaks);
        if (breaks) {
            CHECK_AWAIT_THROWS_AS(early, asyncio::broken_barrier_error);
            CHECK(barrier.n_waiting() == 0);
            co_await barrier.reset();
            early = asyncio::create_task(pass(barrier));
        }
        // The next round is whole.
        co_await support::turns(3);
        CHECK_FALSE(early.done());
        CHECK(barrier.n_waiting() == 1);
        auto late = asyncio::create_task(pass(barrier), {.eager_start = true});
        const std::size_t third = co_await barrier.wait();
        const std::size_t first = co_await early;
        const std::size_t second = co_await late;
        CHECK(first == 0);
        CHECK(second == 1);
        CHECK(third == 2);
    }
}

ASYNC_TEST_CASE("BA-07: after abort every wait fails, until reset") {
    asyncio::barrier barrier(3);
    auto a = asyncio::create_task(pass(barrier));
    auto b = asyncio::create_task(pass(barrier));
    co_await support::turns(3);
    co_await barrier.abort();
    CHECK(barrier.broken());
    CHECK_AWAIT_THROWS_AS(a, asyncio::broken_barrier_error);
    CHECK_AWAIT_THROWS_AS(b, asyncio::broken_barrier_error);
    CHECK_AWAIT_THROWS_AS(barrier.wait(), asyncio::broken_barrier_error);
    CHECK_AWAIT_THROWS_AS(barrier.wait(), asyncio::broken_barrier_error);
    CHECK(barrier.broken());
    co_await barrier.reset();
    CHECK_FALSE(barrier.broken());
}

ASYNC_TEST_CASE("BA-08: a broken, empty barrier can be used again after reset") {
    asyncio::barrier barrier(2);
    co_await barrier.abort();
    CHECK(barrier.broken());
    co_await barrier.reset();
    auto a = asyncio::create_task(pass(barrier));
    co_await support::turns(2);
    CHECK(barrier.n_waiting() == 1);
    const std::size_t place = co_await barrier.wait();
    CHECK(place == 1);
    co_await a;
}

ASYNC_TEST_CASE("BA-09: n_waiting counts while the round fills, and only then") {
    asyncio::barrier barrier(3);
    CHECK(barrier.n_waiting() == 0);
    auto a = asyncio::create_task(pass(barrier));
    auto b = asyncio::create_task(pass(barrier));
    co_await support::turns(3);
    CHECK(barrier.n_waiting() == 2);
    co_await barrier.wait();
    CHECK_FALSE(a.done()); // leaving
    CHECK(barrier.n_waiting() == 0);
    co_await a;
    co_await b;

    auto c = asyncio::create_task(pass(barrier));
    co_await support::turns(2);
    CHECK(barrier.n_waiting() == 1);
    co_await barrier.reset();
    CHECK_FALSE(c.done()); // resetting
    CHECK(barrier.n_waiting() == 0);
    CHECK_AWAIT_THROWS_AS(c, asyncio::broken_barrier_error);

    auto d = asyncio::create_task(pass(barrier));
    co_await support::turns(2);
    co_await barrier.abort();
    CHECK(barrier.n_waiting() == 0);
    CHECK_AWAIT_THROWS_AS(d, asyncio::broken_barrier_error);
    CHECK(barrier.n_waiting() == 0);
}

ASYNC_TEST_CASE("a barrier that goes leaves its waiters suspended, and they can be cancelled") {
    for (const bool released : {false, true}) {
        CAPTURE(released);
        auto barrier = std::make_unique<asyncio::barrier>(3);
        auto a = asyncio::create_task(pass(*barrier));
        auto b = asyncio::create_task(pass(*barrier));
        co_await support::turns(3);
        if (released) co_await barrier->wait();
        barrier.reset();
        co_await support::turns(3);
        CHECK_FALSE(a.done());
        CHECK_FALSE(b.done());
        a.cancel();
        b.cancel();
        CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
        CHECK_AWAIT_THROWS_AS(b, asyncio::cancelled_error);
    }
}

TEST_CASE("a frame that is destroyed at a barrier frees its place") {
    asyncio::barrier barrier(2);
    {
        asyncio::event_loop loop;
        const auto waiting = loop.create_task(pass(barrier));
        loop.run_once();
        CHECK(barrier.n_waiting() == 1);
    }
    CHECK(barrier.n_waiting() == 0);
    asyncio::run([&]() -> asyncio::coro<> {
        auto a = asyncio::create_task(pass(barrier));
        co_await support::turns(2);
        const std::size_t place = co_await barrier.wait();
        CHECK(place == 1);
        co_await a;
    });
}

TEST_CASE("rounds stay whole under random cancellations") {
    for (std::uint32_t seed = 1; seed <= 30; ++seed) {
        CAPTURE(seed);
        run_shuffled(
            [](std::uint32_t number) -> asyncio::coro<> {
                random_source random(number);
                asyncio::barrier barrier(3);
                bool stopping = false;
                auto work = [&]() -> asyncio::coro<> {
                    while (!stopping) {
                        co_await asyncio::sleep(random.delay());
                        co_await barrier.wait();
                    }
                };
                std::vector<asyncio::task<>> tasks;
                for (int i = 0; i < 7; ++i) tasks.push_back(asyncio::create_task(work));
                for (int i = 0; i < 60; ++i) {
                    co_await asyncio::sleep(random.delay());
                    auto& one = tasks[random.below(7)];
                    one.cancel();
                    if (one.done()) one = asyncio::create_task(work);
                }
                stopping = true;
                for (auto& task : tasks) task.cancel();
                co_await settled(tasks);
                CHECK(barrier.n_waiting() == 0);
                CHECK_FALSE(barrier.broken());
                auto a = asyncio::create_task(pass(barrier));
                auto b = asyncio::create_task(pass(barrier));
                co_await asyncio::wait_for(barrier.wait(), 1s);
                co_await asyncio::wait(a, b);
            }(seed),
            seed);
    }
}

} // TEST_SUITE
