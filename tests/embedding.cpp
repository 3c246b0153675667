// [SECTION] events and tasks, in somebody else's loop: frames, a program that is woken, clocks of
// one's own, and tasks that end with an object.
#include "support.hpp"
#include "system.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <coroutine>
#include <memory>
#include <mutex>
#include <optional>
#include <random>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#if defined(_WIN32)
#include <windows.h>
#else
#include <poll.h>
#endif

namespace {

constexpr asyncio::run_options manual = {.clock = asyncio::clock_kind::manual};

using durations = std::vector<asyncio::duration>;
using words = std::vector<std::string>;

// Notes what each frame gives, for ever.
asyncio::coro<> note_frames(durations& seen) {
    for (;;) {
        const asyncio::duration passed = co_await asyncio::next_frame();
        seen.push_back(passed);
    }
}

} // namespace

TEST_SUITE("next_frame") {

TEST_CASE("next_frame() resumes once a poll, and gives the time since the last one") {
    asyncio::event_loop loop(manual);
    durations seen;
    loop.create_task(note_frames(seen));
    loop.poll();
    CHECK(seen.empty());
    CHECK(loop.next_deadline() == asyncio::duration());
    for (const auto step : {16ms, 17ms, 0ms}) {
        loop.advance(step);
        CHECK(loop.poll() == 1);
    }
    CHECK(seen == durations{16ms, 17ms, 0ms});
}

TEST_CASE("all who wait for a frame get the same time, whenever they began to wait") {
    asyncio::event_loop loop(manual);
    durations seen;
    const auto late = [&]() -> asyncio::coro<> {
        co_await asyncio::sleep(10ms); // in the middle of a frame
        co_await note_frames(seen);
    };
    loop.create_task(note_frames(seen));
    loop.create_task(late);
    loop.poll();
    loop.advance(16ms);
    loop.create_task(note_frames(seen), {.eager_start = true}); // between two frames
    loop.poll();
    CHECK(seen == durations{16ms, 16ms, 16ms});
}

TEST_CASE("who waits before the first frame measures from there") {
    asyncio::event_loop loop(manual);
    durations seen;
    loop.create_task(note_frames(seen));
    loop.advance(3s); // begins the task, but is no frame
    CHECK(seen.empty());
    loop.advance(2s);
    CHECK(seen.empty());
    loop.poll();
    CHECK(seen == durations{5s});
}

TEST_CASE("run_for() and run_once() are frames as well") {
    asyncio::event_loop loop(manual);
    durations seen;
    loop.create_task(note_frames(seen));
    loop.run_once();
    loop.advance(1s);
    CHECK(loop.run_for(1h).ran == 1); // no need to use the budget up
    loop.advance(2s);
    CHECK(loop.run_once() == 1);
    loop.advance(3s);
    CHECK(loop.run_once() == 1);
    CHECK(seen == durations{1s, 2s, 3s});
}

TEST_CASE("run_for() ends when its budget does, in the middle of a turn, and loses nothing") {
    asyncio::event_loop loop;
    std::vector<int> steps;
    for (const int i : {1, 2, 3}) {
        loop.call_soon([&steps, i] {
            const auto end = std::chrono::steady_clock::now() + 2ms;
            while (std::chrono::steady_clock::now() < end) {}
            steps.push_back(i);
        });
    }
    for (const int i : {1, 2, 3}) {
        const asyncio::run_result done = loop.run_for(1ms);
        CHECK(done.ran == 1);
        CHECK(done.more == (i < 3));
    }
    CHECK(steps == std::vector<int>{1, 2, 3});
}

TEST_CASE("on the real clock the frames' times add up to all that passed") {
    asyncio::event_loop loop;
    durations seen;
    asyncio::time_point first;
    asyncio::time_point last;
    loop.create_task(note_frames(seen));
    for (int i = 0; i < 5; ++i) {
        loop.call_soon([&] { (i == 0 ? first : last) = loop.time(); });
        loop.poll();
    }
    asyncio::duration sum;
    for (const asyncio::duration& passed : seen) sum = sum + passed;
    CHECK(seen.size() == 4);
    CHECK(sum == last - first);
}

ASYNC_TEST_CASE_REAL("without frames next_frame() takes a turn and gives the time that it took") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    bool ran = false;
    loop.call_soon([&] {
        const auto begin = std::chrono::steady_clock::now();
        while (std::chrono::steady_clock::now() - begin < 1ms) {}
        ran = true;
    });
    const asyncio::time_point begin = loop.time();
    const asyncio::duration passed = co_await asyncio::next_frame();
    const asyncio::time_point end = loop.time();
    CHECK(ran);
    CHECK(passed >= asyncio::duration(1ms));
    CHECK(passed <= end - begin);
}

TEST_CASE("a run goes on with what waits for a frame, or has yielded in one") {
    asyncio::event_loop loop(manual);
    durations seen;
    int yields = 0;
    const auto yielding = [&]() -> asyncio::coro<> {
        for (;; ++yields) co_await asyncio::sleep(0s);
    };
    loop.create_task(note_frames(seen));
    loop.create_task(yielding);
    loop.poll();
    loop.advance(1s);
    loop.run_until_complete(support::turns(3));
    REQUIRE(seen.size() >= 2);
    CHECK(seen[0] == asyncio::duration(1s));
    CHECK(seen[1] == asyncio::duration());
    CHECK(yields >= 2);
    seen.clear();
    loop.poll(); // the first frame after the run
    loop.advance(1s);
    loop.poll();
    CHECK(seen == durations{0s, 1s});
}

TEST_CASE("a cancellation reaches next_frame() in that frame") {
    asyncio::event_loop loop(manual);
    durations seen;
    const auto t = loop.create_task(note_frames(seen));
    loop.poll();
    CHECK(t.cancel());
    CHECK_FALSE(t.done());
    loop.poll();
    CHECK(t.cancelled());
    CHECK(seen.empty());
}

TEST_CASE("next_frame() may be kept, passed on and awaited later") {
    asyncio::event_loop loop(manual);
    const auto body = []() -> asyncio::coro<asyncio::duration> {
        asyncio::coro<asyncio::duration> frame = asyncio::next_frame();
        co_return co_await asyncio::wait_for(std::move(frame), 1s);
    };
    const auto t = loop.create_task(body);
    loop.poll();
    loop.advance(20ms);
    loop.poll();
    CHECK(t.result() == asyncio::duration(20ms));
}

TEST_CASE("a loop that goes while somebody waits for a frame destroys the frames of that task") {
    durations seen;
    asyncio::task<> t;
    {
        asyncio::event_loop loop(manual);
        t = loop.create_task(note_frames(seen));
        loop.poll();
    }
    CHECK(t.cancelled());
    CHECK(seen.empty());
}

} // TEST_SUITE

TEST_SUITE("set_wake_handler") {

TEST_CASE("the host is told once of what was scheduled after a poll") {
    asyncio::event_loop loop(manual);
    int told = 0;
    loop.set_wake_handler([&] { ++told; });
    CHECK(told == 0);
    loop.call_soon([] {});
    CHECK(told == 1);
    loop.call_soon([] {});
    const auto body = []() -> asyncio::coro<> { co_return; };
    loop.create_task(body);
    CHECK(told == 1);
    CHECK(loop.next_deadline() == asyncio::duration());
    loop.call_soon([] {}); // it knows, and has not polled yet
    CHECK(told == 1);
    CHECK(loop.poll() == 4);
    CHECK(told == 1);
    loop.create_task(body);
    CHECK(told == 2);
}

TEST_CASE("the host is told of tasks that go on, and of those that begin eagerly and yield") {
    asyncio::event_loop loop(manual);
    int told = 0;
    loop.set_wake_handler([&] { ++told; });
    const asyncio::future<int> result = loop.create_future<int>();
    const auto waiting = [&]() -> asyncio::coro<> { co_await result; };
    loop.create_task(waiting, {.eager_start = true});
    CHECK(told == 0); // nothing to do yet
    result.set_result(1);
    CHECK(told == 1);
    loop.poll();
    const auto yielding = []() -> asyncio::coro<> { co_await asyncio::sleep(0s); };
    loop.create_task(yielding, {.eager_start = true});
    CHECK(told == 2);
    loop.poll();
    const auto framed = []() -> asyncio::coro<> { co_await asyncio::next_frame(); };
    loop.create_task(framed, {.eager_start = true});
    CHECK(told == 3);
    CHECK(loop.poll() == 1);
}

TEST_CASE("the host is not told of what a poll or a run brings itself") {
    asyncio::event_loop loop(manual);
    int told = 0;
    loop.set_wake_handler([&] { ++told; });
    const auto body = [&]() -> asyncio::coro<> {
        loop.call_soon_threadsafe([] {});
        loop.call_later(-1s, [] {});
        for (int i = 0; i < 10; ++i) co_await asyncio::sleep(0s);
        co_await asyncio::sleep(1s);
    };
    const auto t = loop.create_task(body);
    CHECK(told == 1);
    for (int i = 0; i < 12; ++i) loop.poll();
    loop.advance(1s);
    loop.run_once();
    CHECK(t.done());
    loop.run_until_complete(support::turns(3));
    CHECK(told == 2); // it was told of the task that this made
}

TEST_CASE("the host is told when another thread has work, and every time") {
    asyncio::event_loop loop(manual);
    std::atomic<int> told = 0;
    loop.set_wake_handler([&] { ++told; });
    for (int i = 1; i <= 3; ++i) {
        std::thread([&] {
            loop.call_soon_threadsafe([] {});
            loop.call_soon_threadsafe([] {});
        }).join();
        CHECK(told == i);
        CHECK(loop.poll() == 2);
    }
    CHECK(told == 3);
}

TEST_CASE("what comes too late for a poll is told at its end") {
    asyncio::event_loop loop(manual);
    int told = 0;
    long count = 0;
    loop.set_wake_handler([&] { ++told; });
    struct endless {
        asyncio::event_loop& loop;
        long& count;
        void operator()() const {
            ++count;
            loop.call_soon_threadsafe(*this);
        }
    };
    loop.call_soon(endless{loop, count});
    CHECK(told == 1);
    loop.poll(); // ends after a number of turns, and leaves one call over
    CHECK(told == 2);
    const long before = count;
    loop.poll();
    CHECK(count > before);
}

TEST_CASE("the host is told of a timer that is earlier than all it knows of") {
    asyncio::event_loop loop(manual);
    int told = 0;
    loop.set_wake_handler([&] { ++told; });
    loop.call_later(5s, [] {});
    CHECK(told == 1);
    CHECK(loop.next_deadline() == asyncio::duration(5s)); // now it knows
    loop.call_later(5s, [] {});
    loop.call_later(6s, [] {});
    CHECK(told == 1);
    auto earlier = loop.call_later(4s, [] {});
    CHECK(told == 2);
    auto earliest = loop.call_later(3s, [] {});
    CHECK(told == 2); // it has not asked since
    loop.poll();
    loop.call_later(4s, [] {});
    CHECK(told == 2);
    earliest.cancel();
    earlier.cancel();
    CHECK(loop.next_deadline() == asyncio::duration(4s));
    loop.call_later(3500ms, [] {}); // later than what it once knew, earlier than what it knows
    CHECK(told == 3);
}

TEST_CASE("the host is told when the clock moves a deadline nearer") {
    asyncio::event_loop loop;
    int told = 0;
    loop.set_wake_handler([&] { ++told; });
    loop.pause();
    loop.resume();
    CHECK(told == 0); // there is no deadline
    loop.call_later(1h, [] {});
    loop.poll();
    CHECK(told == 1);
    loop.set_time_scale(0.5);
    loop.pause();
    CHECK(told == 1);
    loop.poll();
    loop.call_later(1s, [] {}); // in a paused clock
    CHECK(told == 1);
    loop.resume();
    CHECK(told == 2);
    CHECK(loop.next_deadline().has_value());
    loop.set_time_scale(3);
    CHECK(told == 3);
}

TEST_CASE("the host is told of what is due already, though the clock stands") {
    asyncio::event_loop loop;
    int told = 0;
    loop.pause();
    loop.set_wake_handler([&] { ++told; });
    bool ran = false;
    loop.call_later(0s, [&] { ran = true; });
    CHECK(told == 1);
    CHECK(loop.next_deadline() == asyncio::duration());
    loop.poll();
    CHECK(ran);
}

TEST_CASE("a change of the time's scale within a frame loses none of the frame's time") {
    asyncio::event_loop loop;
    const asyncio::time_point began = loop.time();
    asyncio::duration in_frame;
    loop.call_soon([&] {
        const asyncio::time_point frame = loop.time();
        const auto begin = std::chrono::steady_clock::now();
        while (std::chrono::steady_clock::now() - begin < 2ms) {}
        loop.set_time_scale(1e-9);
        in_frame = loop.time() - frame;
    });
    loop.poll();
    CHECK(in_frame == asyncio::duration());
    CHECK(loop.time() - began >= asyncio::duration(2ms));
}

TEST_CASE("advance() goes all the way, though a stream's moment is rounded") {
    asyncio::event_loop loop(manual);
    asyncio::time_stream world(loop);
    world.set_scale(0.7);
    const auto slow = loop.create_task(asyncio::sleep(490ms), {.clock = &world});
    const auto own = loop.create_task(asyncio::sleep(2s));
    loop.poll();
    const asyncio::time_point before = loop.time();
    loop.advance(3s);
    CHECK(loop.time() - before == asyncio::duration(3s));
    CHECK(slow.done());
    CHECK(own.done());
}

TEST_CASE("a handler may replace itself, be taken away, and be set within the loop") {
    asyncio::event_loop loop(manual);
    std::string log;
    loop.set_wake_handler([&, word = std::string("first ")] {
        loop.set_wake_handler([&] { log += "second "; });
        log += word; // which is still there
    });
    loop.call_soon([] {});
    CHECK(log == "first ");
    loop.call_soon([] {});
    CHECK(log == "first second ");
    loop.poll();
    loop.set_wake_handler({});
    loop.call_soon([&] { loop.set_wake_handler([&] { log += "third"; }); });
    loop.poll();
    CHECK(log == "first second ");
    loop.call_soon([] {});
    CHECK(log == "first second third");
}

TEST_CASE("set_wake_handler() waits for a handler that runs on another thread") {
    asyncio::event_loop loop;
    support::flag entered;
    support::flag go_on;
    std::atomic<int> id = support::thread_id();
    bool ended = false;
    loop.set_wake_handler([&] {
        entered.set();
        go_on.wait();
        ended = true;
    });
    std::thread poster([&] { loop.call_soon_threadsafe([] {}); });
    entered.wait();
    std::thread releaser([&] {
        support::wait_until_asleep(id);
        go_on.set();
    });
    loop.set_wake_handler({});
    CHECK(ended);
    poster.join();
    releaser.join();
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("a handler that polls is told that it must not") {
    asyncio::event_loop loop(manual);
    std::string message;
    loop.set_wake_handler([&] {
        try {
            loop.poll();
        } catch (const std::runtime_error& e) {
            message = e.what();
        }
    });
    loop.call_soon([] {});
    CHECK(message.find("wake handler") != std::string::npos);
    CHECK(loop.poll() == 1);
}
#endif

TEST_CASE("a loop that closes tells nobody, and takes no handler any more") {
    int told = 0;
    asyncio::event_loop loop(manual);
    loop.set_wake_handler([&] { ++told; });
    const auto body = [&]() -> asyncio::coro<> {
        struct at_end {
            asyncio::event_loop& loop;
            ~at_end() { loop.call_soon([] {}); }
        } end{loop};
        co_await asyncio::sleep(1h);
    };
    loop.create_task(body);
    loop.poll();
    CHECK(told == 1);
    loop.close();
    CHECK(told == 1);
    CHECK_THROWS_AS(loop.set_wake_handler([] {}), std::runtime_error);
}

TEST_CASE("a host that sleeps until it is told misses nothing") {
    asyncio::event_loop loop;
    std::mutex mutex;
    std::condition_variable changed;
    bool told = false;
    loop.set_wake_handler([&] {
        const std::lock_guard lock(mutex);
        told = true;
        changed.notify_one();
    });
    const auto body = []() -> asyncio::coro<int> {
        int sum = 0;
        for (int i = 0; i < 100; ++i) {
            sum += co_await asyncio::to_thread([i] { return i; });
            co_await asyncio::sleep(10us);
        }
        co_return sum;
    };
    const auto t = loop.create_task(body);
    while (!t.done()) {
        loop.poll();
        const std::optional<asyncio::duration> limit = loop.next_deadline();
        std::unique_lock lock(mutex);
        const auto woken = [&] { return told || t.done(); };
        if (limit) changed.wait_for(lock, std::chrono::nanoseconds(*limit), woken);
        else changed.wait(lock, woken);
        told = false;
    }
    CHECK(t.result() == 4950);
}

} // TEST_SUITE

TEST_SUITE("time_stream") {

// What one task of a stream does, with the loop's times.
struct sleeper {
    asyncio::event_loop& loop;
    durations& woke;
    asyncio::coro<> operator()(asyncio::duration delay) const {
        return sleep(loop, woke, delay);
    }
    static asyncio::coro<> sleep(asyncio::event_loop& loop, durations& woke,
                                 asyncio::duration delay) {
        co_await asyncio::sleep(delay);
        woke.push_back(loop.time().time_since_epoch());
    }
};

TEST_CASE("sleeps of a stream's tasks follow its scale, others do not") {
    asyncio::event_loop loop(manual);
    asyncio::time_stream slow(loop);
    asyncio::time_stream fast(loop);
    slow.set_scale(0.5);
    fast.set_scale(3);
    durations woke;
    const sleeper sleep = {loop, woke};
    loop.create_task(sleep(1s), {.clock = &slow});
    loop.create_task(sleep(6s), {.clock = &fast});
    loop.create_task(sleep(1s));
    loop.advance(10s);
    CHECK(woke == durations{1s, 2s, 2s});
    CHECK(slow.now().time_since_epoch() == asyncio::duration(5s));
    CHECK(fast.now().time_since_epoch() == asyncio::duration(30s));
}

TEST_CASE("a change of the scale, a pause and its end move what sleeps") {
    asyncio::event_loop loop(manual);
    asyncio::time_stream world(loop);
    durations woke;
    const sleeper sleep = {loop, woke};
    for (const auto delay : {10s, 4s, 7s}) loop.create_task(sleep(delay), {.clock = &world});
    loop.advance(2s);
    world.set_scale(2);
    loop.advance(1s); // 4 of its seconds have passed
    CHECK(woke == durations{3s});
    world.pause();
    loop.advance(1h);
    CHECK(world.now().time_since_epoch() == asyncio::duration(4s));
    world.set_scale(0.5); // it stands all the same
    loop.advance(1h);
    CHECK(woke.size() == 1);
    world.resume();
    loop.advance(6s);
    CHECK(woke == durations{3s, 2h + 3s + 6s});
    world.set_scale(0);
    loop.advance(1h);
    CHECK(woke.size() == 2);
    world.set_scale(1);
    loop.advance(3s);
    CHECK(woke == durations{3s, 2h + 9s, 3h + 12s});
}

TEST_CASE("a paused world leaves the menu alone") {
    asyncio::event_loop loop(manual);
    asyncio::time_stream world(loop);
    durations world_frames;
    durations menu_frames;
    loop.create_task(note_frames(world_frames), {.clock = &world});
    loop.create_task(note_frames(menu_frames));
    loop.poll();
    const auto frame = [&] {
        loop.advance(20ms);
        loop.poll();
    };
    frame();
    loop.advance(5ms); // between two frames
    world.pause();
    frame();
    frame();
    world.resume();
    world.set_scale(0.5);
    frame();
    CHECK(world_frames == durations{20ms, 5ms, 0ms, 10ms});
    CHECK(menu_frames == durations{20ms, 25ms, 20ms, 20ms});
}

TEST_CASE("tasks inherit the stream of the task that starts them, or get another") {
    asyncio::event_loop loop(manual);
    asyncio::time_stream slow(loop);
    asyncio::time_stream slower(loop);
    slow.set_scale(0.5);
    slower.set_scale(0.25);
    durations woke;
    const sleeper sleep = {loop, woke};
    const auto parent = [&]() -> asyncio::coro<> {
        const auto child = asyncio::create_task(sleep(1s));
        const auto other = asyncio::create_task(sleep(1s), {.clock = &slower});
        co_await asyncio::gather(sleep(2s), sleep(3s));
        const auto in_group = [&](asyncio::task_group& tg) { tg.create_task(sleep(1s)); };
        co_await asyncio::with(asyncio::task_group(), in_group);
        co_await other;
    };
    loop.create_task(parent, {.clock = &slow});
    loop.advance(1min);
    CHECK(woke == durations{2s, 4s, 4s, 6s, 8s});
}

TEST_CASE("timeouts and wait_for() of a stream's tasks go by it") {
    asyncio::event_loop loop(manual);
    asyncio::time_stream world(loop);
    world.set_scale(0.5);
    loop.advance(2s); // the stream is at 1 s
    durations seen;
    const auto note = [&] { seen.push_back(loop.time().time_since_epoch()); };
    const auto forever = []() -> asyncio::coro<> { co_await asyncio::sleep(24h); };
    const auto body = [&]() -> asyncio::coro<> {
        const asyncio::outcome<void> waited =
            co_await asyncio::as_outcome(asyncio::wait_for(forever(), 1s));
        CHECK(waited.error().holds<asyncio::timeout_error>());
        note();
        const auto limited = [&](asyncio::timeout& t) -> asyncio::coro<> {
            CHECK(t.when() == world.now() + 1s);
            t.reschedule(*t.when() + 1s);
            co_await forever();
        };
        const asyncio::outcome<void> timed =
            co_await asyncio::as_outcome(asyncio::with(asyncio::timeout(1s), limited));
        CHECK(timed.error().holds<asyncio::timeout_error>());
        note();
        const asyncio::outcome<void> at = co_await asyncio::as_outcome(
            asyncio::with(asyncio::timeout_at(world.now() + 3s), forever));
        CHECK(at.error().holds<asyncio::timeout_error>());
        note();
        const asyncio::outcome<void> late = co_await asyncio::as_outcome(
            asyncio::with(asyncio::timeout_at(world.now()), forever));
        CHECK(late.error().holds<asyncio::timeout_error>());
        note();
        co_await asyncio::wait_for(asyncio::sleep(1s), 1h); // takes its limit back
    };
    const auto t = loop.create_task(body, {.clock = &world});
    loop.advance(1h);
    CHECK(seen == durations{4s, 8s, 14s, 14s});
    CHECK(t.done());
    CHECK_FALSE(loop.next_deadline().has_value());
}

TEST_CASE("wait() and as_completed() of a stream's tasks go by it") {
    asyncio::event_loop loop(manual);
    asyncio::time_stream world(loop);
    world.set_scale(0.5);
    durations seen;
    const auto note = [&] { seen.push_back(loop.time().time_since_epoch()); };
    const auto body = [&]() -> asyncio::coro<> {
        const auto slow = asyncio::create_task(asyncio::sleep(1h));
        const auto waited = co_await asyncio::wait(slow, {.timeout = 1s});
        CHECK(waited.pending.size() == 1);
        note();
        const std::array<asyncio::task<>, 1> tasks = {slow};
        auto each = asyncio::as_completed(tasks, {.timeout = 2s});
        const auto late = co_await asyncio::as_outcome(each.next());
        CHECK(late.error().holds<asyncio::timeout_error>());
        note();
        slow.cancel();
        co_await asyncio::wait(slow);
    };
    const auto t = loop.create_task(body, {.clock = &world});
    loop.advance(1h);
    CHECK(seen == durations{2s, 6s});
    CHECK(t.done());
}

TEST_CASE("a task that sleeps in a paused stream can be cancelled") {
    asyncio::event_loop loop(manual);
    asyncio::time_stream world(loop);
    world.pause();
    const auto t = loop.create_task(asyncio::sleep(1s), {.clock = &world});
    const auto limited = loop.create_task(asyncio::wait_for(asyncio::sleep(1s), 2s),
                                          {.clock = &world});
    loop.poll();
    CHECK_FALSE(loop.next_deadline().has_value());
    const auto waiting_body = [&]() -> asyncio::coro<> {
        co_await asyncio::wait(t, {.timeout = 3s});
    };
    const auto waiting = loop.create_task(waiting_body, {.clock = &world});
    loop.poll();
    waiting.cancel();
    loop.poll();
    CHECK(waiting.cancelled());
    t.cancel();
    limited.cancel();
    loop.poll();
    CHECK(t.cancelled());
    CHECK(limited.cancelled());
}

TEST_CASE("sleepers of one stream wake in the order of their times, equal ones as they began") {
    asyncio::event_loop loop(manual);
    asyncio::time_stream world(loop);
    world.set_scale(0.3); // which no double holds exactly
    std::vector<int> order;
    const auto body = [&](int which, asyncio::duration delay) -> asyncio::coro<> {
        co_await asyncio::sleep(delay);
        order.push_back(which);
    };
    for (int i = 0; i < 100; ++i) {
        const asyncio::duration delay = std::chrono::milliseconds(i * 37 % 10 + 1);
        loop.create_task(body(i * 37 % 10 * 100 + i, delay), {.clock = &world});
    }
    loop.advance(1s);
    REQUIRE(order.size() == 100);
    for (std::size_t i = 1; i < order.size(); ++i) CHECK(order[i - 1] < order[i]);
}

ASYNC_TEST_CASE("a sleep that is taken back leaves no trace in a virtual clock") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    asyncio::time_stream world(loop);
    world.set_scale(0.5);
    const asyncio::time_point begin = loop.time();
    const auto first = asyncio::create_task(asyncio::sleep(1s), {.clock = &world});
    const auto second = asyncio::create_task(asyncio::sleep(3s), {.clock = &world});
    co_await support::turns(2);
    CHECK(loop.next_deadline() == asyncio::duration(2s));
    first.cancel();
    co_await support::turns(2);
    CHECK(loop.next_deadline() == asyncio::duration(6s));
    co_await second;
    CHECK(loop.time() - begin == asyncio::duration(6s));
}

TEST_CASE("on the real clock, too, a stream has its own pace and wakes nobody too early") {
    const auto main = []() -> asyncio::coro<> {
        asyncio::event_loop& loop = asyncio::get_running_loop();
        asyncio::time_stream fast(loop);
        fast.set_scale(1e6);
        const asyncio::time_point begin = fast.now();
        const auto body = [&]() -> asyncio::coro<> {
            for (int i = 1; i <= 20; ++i) {
                co_await asyncio::sleep(7min);
                CHECK(fast.now() - begin >= asyncio::duration(i * 7min));
            }
        };
        co_await asyncio::create_task(body, {.clock = &fast});
        fast.pause();
        const asyncio::time_point stands = fast.now();
        co_await asyncio::sleep(1ms);
        CHECK(fast.now() == stands);
    };
    asyncio::run(main());
}

TEST_CASE("a host is told when a stream goes on") {
    asyncio::event_loop loop(manual);
    asyncio::time_stream world(loop);
    int told = 0;
    loop.create_task(asyncio::sleep(10s), {.clock = &world});
    loop.poll();
    loop.set_wake_handler([&] { ++told; });
    world.pause();
    CHECK_FALSE(loop.next_deadline().has_value());
    CHECK(told == 0);
    world.resume();
    CHECK(told == 1);
    CHECK(loop.next_deadline() == asyncio::duration(10s));
    world.set_scale(0.5);
    CHECK(told == 1);
    CHECK(loop.next_deadline() == asyncio::duration(20s));
    world.set_scale(2);
    CHECK(told == 2);
    CHECK(loop.next_deadline() == asyncio::duration(5s));
}

TEST_CASE("a stream may go before its tasks, which go on by it") {
    asyncio::event_loop loop(manual);
    durations woke;
    const sleeper sleep = {loop, woke};
    {
        asyncio::time_stream slow(loop);
        slow.set_scale(0.1);
        loop.create_task(sleep(1s), {.clock = &slow});
        asyncio::time_stream unused(loop);
    }
    loop.advance(1min);
    CHECK(woke == durations{10s});
}

TEST_CASE("a loop may go before its streams, and with what they still hold") {
    auto loop = std::make_unique<asyncio::event_loop>(manual);
    asyncio::time_stream world(*loop);
    asyncio::time_stream other(*loop);
    asyncio::timeout limit(1h); // has its callback in the stream
    const auto body = []() -> asyncio::coro<> { co_await asyncio::sleep(2h); };
    const auto t = loop->create_task(asyncio::with(limit, body), {.clock = &world});
    loop->advance(1s);
    world.pause();
    loop.reset();
    CHECK(t.cancelled());
    world.set_scale(2);
    world.resume();
    CHECK(world.now().time_since_epoch() == asyncio::duration(1s));
}

TEST_CASE("a stream is of one loop, and has a scale that makes sense") {
    asyncio::event_loop loop(manual);
    asyncio::event_loop other(manual);
    asyncio::time_stream world(loop);
    CHECK_THROWS_AS(other.create_task(asyncio::sleep(1s), {.clock = &world}), std::runtime_error);
    CHECK_THROWS_AS(world.set_scale(-1), std::invalid_argument);
    CHECK_THROWS_AS(world.set_scale(1e308 * 10), std::invalid_argument);
    other.close();
    CHECK_THROWS_AS(asyncio::time_stream{other}, std::runtime_error);
    world.set_scale(1e300); // far beyond what fits
    loop.advance(1h);
    CHECK(world.now() > asyncio::time_point());
}

} // TEST_SUITE

TEST_SUITE("task_scope") {

// Says when it goes.
struct farewell {
    farewell(words& l, std::string w) : log(l), word(std::move(w)) {}
    farewell(const farewell&) = delete;
    farewell& operator=(const farewell&) = delete;
    ~farewell() { log.push_back(word); }
    words& log;
    std::string word;
};

asyncio::coro<> inner(words& log) {
    const farewell gone(log, "inner");
    co_await asyncio::sleep(1h);
    log.push_back("never");
}
asyncio::coro<> outer(words& log) {
    const farewell gone(log, "outer");
    co_await inner(log);
    log.push_back("never");
}

TEST_CASE("a scope's tasks may be of a function and its arguments, which they own") {
    asyncio::event_loop loop(manual);
    struct enemy {
        explicit enemy(asyncio::event_loop& l) : tasks(l) {}
        asyncio::coro<> patrol(const std::string& name, words& log) {
            const farewell gone(log, name);
            co_await asyncio::sleep(1h);
        }
        asyncio::task_scope tasks;
    };
    words log;
    {
        enemy e(loop);
        e.tasks.create_task(&enemy::patrol, &e, "an enemy with a rather long name", std::ref(log));
        loop.poll();
        CHECK(e.tasks.size() == 1);
    }
    CHECK(log == words{"an enemy with a rather long name"});
}

TEST_CASE("a scope's end destroys the frames at once, the innermost first") {
    asyncio::event_loop loop(manual);
    words log;
    asyncio::task<> t;
    {
        asyncio::task_scope scope(loop);
        CHECK(scope.size() == 0);
        t = scope.create_task(outer(log));
        CHECK(scope.size() == 1);
        loop.poll();
        CHECK(log.empty());
    }
    CHECK(log == words{"inner", "outer"});
    CHECK(t.cancelled());
    CHECK_THROWS_AS(t.result(), asyncio::cancelled_error);
    CHECK(loop.metrics().tasks == 0);
    CHECK_FALSE(loop.next_deadline().has_value());
    CHECK(loop.poll() == 0);
}

TEST_CASE("tasks that have ended have left their scope") {
    asyncio::event_loop loop(manual);
    asyncio::task_scope scope(loop);
    const auto first = scope.create_task(support::turns(1));
    const auto second = scope.create_task(support::turns(3));
    const auto third = scope.create_task(asyncio::sleep(1h));
    loop.run_until_complete(second);
    CHECK(scope.size() == 1);
    CHECK(first.done());
    scope.cancel();
    CHECK_FALSE(third.done()); // in its own time
    loop.poll();
    CHECK(third.cancelled());
    CHECK(scope.size() == 0);
    scope.create_task(asyncio::sleep(1h));
    CHECK(scope.size() == 1);
}

TEST_CASE("whoever awaits a task of the scope gets a cancelled_error") {
    asyncio::event_loop loop(manual);
    auto scope = std::make_unique<asyncio::task_scope>(loop);
    const auto forever = []() -> asyncio::coro<int> {
        co_await asyncio::sleep(1h);
        co_return 1;
    };
    const asyncio::task<int> t = scope->create_task(forever);
    const auto await_it = [&]() -> asyncio::coro<int> { co_return co_await t; };
    const auto gather_it = [&]() -> asyncio::coro<> { co_await asyncio::gather(t, forever()); };
    const auto wait_for_it = [&]() -> asyncio::coro<std::size_t> {
        const auto waited = co_await asyncio::wait(t);
        co_return waited.done.size();
    };
    int called = 0;
    t.add_done_callback([&] { ++called; });
    const auto direct = loop.create_task(await_it);
    const auto gathered = loop.create_task(gather_it);
    const auto waited = loop.create_task(wait_for_it);
    loop.poll();
    scope.reset();
    CHECK_FALSE(direct.done()); // they go on in the next turn
    CHECK(called == 0);
    loop.poll();
    CHECK(direct.cancelled());
    CHECK(gathered.cancelled());
    CHECK(waited.result() == 1);
    CHECK(called == 1);
}

TEST_CASE("a task may be ended before it began, when it yielded, or when it was woken") {
    asyncio::event_loop loop(manual);
    auto scope = std::make_unique<asyncio::task_scope>(loop);
    words log;
    const asyncio::future<int> result = loop.create_future<int>();
    asyncio::event flag;
    const auto awaits = [&]() -> asyncio::coro<> {
        co_await result;
        log.push_back("never");
    };
    const auto waits = [&]() -> asyncio::coro<> {
        co_await flag.wait();
        log.push_back("never");
    };
    const auto yields = []() -> asyncio::coro<> {
        for (;;) co_await asyncio::sleep(0s);
    };
    const auto frames = []() -> asyncio::coro<> {
        for (;;) co_await asyncio::next_frame();
    };
    const auto sleeps = [&]() -> asyncio::coro<> {
        co_await asyncio::sleep(1s);
        log.push_back("never");
    };
    for (int i = 0; i < 2; ++i) {
        scope->create_task(awaits);
        scope->create_task(waits);
        scope->create_task(yields);
        scope->create_task(frames);
        scope->create_task(sleeps);
        if (i == 0) loop.poll();
    }
    SUBCASE("between two polls") {
        result.set_result(1);
        flag.set();
        scope.reset();
    }
    SUBCASE("in the turn that would go on with them") {
        loop.poll();
        loop.call_soon([&] { scope.reset(); });
        result.set_result(1);
        flag.set();
    }
    SUBCASE("by a callback that is due with their sleeps") {
        loop.call_later(1s, [&] { scope.reset(); });
        loop.advance(500ms);
        scope->create_task(sleeps);
        loop.advance(500ms);
        log.clear(); // one woke at the same time, and its timer had been set before
    }
    loop.poll();
    loop.advance(2s);
    CHECK_FALSE(scope);
    CHECK(log == words());
    CHECK(loop.metrics().tasks == 0);
}

ASYNC_TEST_CASE("a task that ends gives back what it holds and what it was about to get") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    auto scope = std::make_unique<asyncio::task_scope>(loop);
    asyncio::lock lock;
    asyncio::semaphore slots(1);
    asyncio::queue<int> items;
    words log;
    const auto holds = [&]() -> asyncio::coro<> {
        const auto held = co_await lock.scoped();
        const auto slot = co_await slots.scoped();
        co_await asyncio::sleep(1h);
    };
    const auto locks = [&](std::string who) -> asyncio::coro<> {
        const auto held = co_await lock.scoped();
        log.push_back(who + " has the lock");
    };
    const auto takes_slot = [&](std::string who) -> asyncio::coro<> {
        const auto slot = co_await slots.scoped();
        log.push_back(who + " has the slot");
    };
    const auto gets = [&](std::string who) -> asyncio::coro<> {
        const int item = co_await items.get();
        log.push_back(who + " has item " + std::to_string(item));
    };
    auto holder = std::make_unique<asyncio::task_scope>(loop);
    holder->create_task(holds);
    co_await support::turns(2);
    scope->create_task(locks("the scope"));
    scope->create_task(takes_slot("the scope"));
    scope->create_task(gets("the scope"));
    co_await support::turns(2);
    const auto a = asyncio::create_task(locks("the next"));
    const auto b = asyncio::create_task(takes_slot("the next"));
    const auto c = asyncio::create_task(gets("the next"));
    co_await support::turns(2);
    holder.reset(); // wakes the scope's tasks
    items.put_nowait(7);
    scope.reset(); // before they could take it
    co_await asyncio::gather(a, b, c);
    std::sort(log.begin(), log.end());
    CHECK(log == words{"the next has item 7", "the next has the lock", "the next has the slot"});
    CHECK_FALSE(lock.locked());
    CHECK_FALSE(slots.locked());
}

TEST_CASE("what a scope's tasks start belongs to the scope, and ends before them") {
    asyncio::event_loop loop(manual);
    words log;
    const auto reports = support::collect_reports(loop);
    auto scope = std::make_unique<asyncio::task_scope>(loop);
    const auto child = [&](const std::string& of_parent) -> asyncio::coro<> {
        const farewell gone(log, of_parent); // copies what the parent owns
        struct last_look {
            const std::string& text;
            ~last_look() { CHECK(text.size() == 60); }
        } look{of_parent};
        co_await asyncio::sleep(1h);
    };
    const auto parent = [&]() -> asyncio::coro<> {
        const farewell gone(log, "parent");
        const std::string own(60, 'x');
        const auto made = asyncio::create_task(child(own));
        const auto in_group = [&](asyncio::task_group& tg) -> asyncio::coro<> {
            tg.create_task(child(own));
            co_await asyncio::gather(child(own), child(own));
        };
        co_await asyncio::with(asyncio::task_group(), in_group);
    };
    scope->create_task(parent);
    loop.poll();
    CHECK(scope->size() == 5);
    scope.reset();
    REQUIRE(log.size() == 5);
    CHECK(log.back() == "parent");
    CHECK(loop.metrics().tasks == 0);
    loop.poll();
    CHECK(reports->empty());
}

// -- a task that ends its own scope ----------------------------------------------------

struct self_ending {
    asyncio::event_loop loop{manual};
    std::unique_ptr<asyncio::task_scope> scope = std::make_unique<asyncio::task_scope>(loop);
    words log;

    // Ends the scope in a task that then awaits what `then` gives, and looks what it did.
    template <class Then>
    void run(Then then) {
        const auto body = [this, &then]() -> asyncio::coro<> {
            const farewell gone(log, "frame");
            co_await asyncio::sleep(0s);
            scope.reset();
            log.push_back("on");
            static_cast<void>(co_await then());
            log.push_back("never");
        };
        const auto t = scope->create_task(body);
        const auto waits = [&]() -> asyncio::coro<> { co_await t; };
        const auto waiting = loop.create_task(waits);
        for (int i = 0; i < 5; ++i) loop.poll();
        CHECK(log == words{"on", "frame"});
        CHECK(t.cancelled());
        CHECK(waiting.cancelled());
        CHECK(loop.metrics().tasks == 0);
    }
};

asyncio::coro<int> at_once() { co_return 1; }

asyncio::async_generator<int> numbers() {
    for (int i = 0;; ++i) co_yield i;
}

struct foreign_ready {
    bool await_ready() const noexcept { return true; }
    void await_suspend(std::coroutine_handle<>) const noexcept {}
    void await_resume() const noexcept {}
};

TEST_CASE_FIXTURE(self_ending, "a task that ends its scope never returns from its next await") {
    asyncio::lock lock;
    asyncio::semaphore slots(1);
    asyncio::event flag;
    asyncio::queue<int> items;
    flag.set();
    items.put_nowait(1);
    SUBCASE("of a sleep") {
        run([] { return asyncio::sleep(1s); });
        loop.advance(1h);
    }
    SUBCASE("of a yield") {
        run([] { return asyncio::sleep(0s); });
    }
    SUBCASE("of a frame") {
        run([] { return asyncio::next_frame(); });
    }
    SUBCASE("of a coroutine that would end at once") {
        run([] { return at_once(); });
    }
    SUBCASE("of a free lock") {
        run([&] { return lock.acquire(); });
        CHECK_FALSE(lock.locked());
    }
    SUBCASE("of a free slot") {
        run([&] { return slots.scoped(); });
        CHECK_FALSE(slots.locked());
    }
    SUBCASE("of an event that is set") {
        run([&] { return flag.wait(); });
    }
    SUBCASE("of an item that is there") {
        run([&] { return items.get(); });
        CHECK(items.qsize() == 1);
    }
    SUBCASE("of room in a queue") {
        run([&] { return items.put(2); });
        CHECK(items.qsize() == 1);
    }
    SUBCASE("of a future that is done") {
        const asyncio::future<int> done = loop.create_future<int>();
        done.set_result(1);
        run([&] { return done; });
    }
    SUBCASE("of a future that is not done") {
        const asyncio::future<int> pending = loop.create_future<int>();
        run([&] { return pending; });
        CHECK_FALSE(pending.done());
    }
    SUBCASE("of another thread's result that is there") {
        const auto done = asyncio::concurrent_future<int>::create();
        done.set_result(1);
        run([&] { return done; });
    }
    SUBCASE("of a generator's value") {
        auto values = numbers();
        run([&] { return values.next(); });
    }
    SUBCASE("of somebody else's awaiter that is ready") {
        run([] { return foreign_ready(); });
    }
    SUBCASE("of a failure") {
        run([] { return asyncio::fail(std::make_error_code(std::errc::io_error), "x"); });
    }
    SUBCASE("of a group") {
        run([] { return asyncio::gather(at_once(), at_once()); });
    }
    SUBCASE("of a limit") {
        run([] { return asyncio::wait_for(at_once(), 1s); });
    }
}

TEST_CASE_FIXTURE(self_ending, "a scope may be ended deep inside a task, or where another begins") {
    const auto ends_scope = [&]() -> asyncio::coro<> {
        const farewell gone(log, "inner");
        scope.reset();
        co_return;
    };
    const auto body = [&](int how) -> asyncio::coro<> {
        const farewell gone(log, "outer");
        co_await asyncio::sleep(0s);
        if (how == 0) {
            co_await ends_scope(); // which returns, for it was awaited before
        } else {
            asyncio::get_running_loop().create_task(ends_scope, {.eager_start = true});
        }
        log.push_back("on");
        co_await at_once();
        log.push_back("never");
    };
    int how = 0;
    SUBCASE("deep inside") { how = 0; }
    SUBCASE("in a task that it starts eagerly, and that ends") { how = 1; }
    const auto t = scope->create_task(body(how));
    loop.poll();
    loop.poll();
    CHECK(log == words{"inner", "on", "outer"});
    CHECK(t.cancelled());
    CHECK(loop.metrics().tasks == 0);
}

TEST_CASE_FIXTURE(self_ending, "a task that ends its scope and then returns has its result") {
    const auto body = [&]() -> asyncio::coro<int> {
        co_await asyncio::sleep(0s);
        scope.reset();
        co_return 5;
    };
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    const auto fails = [&]() -> asyncio::coro<int> {
        co_await asyncio::sleep(0s);
        scope.reset();
        throw std::runtime_error("no luck");
    };
#endif
    SUBCASE("a value") {
        const auto t = scope->create_task(body);
        loop.poll();
        loop.poll();
        CHECK(t.result() == 5);
    }
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    SUBCASE("an error") {
        const auto t = scope->create_task(fails);
        loop.poll();
        loop.poll();
        CHECK_THROWS_AS(t.result(), std::runtime_error);
    }
#endif
    CHECK(loop.metrics().tasks == 0);
}

TEST_CASE_FIXTURE(self_ending, "older tasks of the scope end after the one that runs") {
    const auto child = [&](words& of_parent) -> asyncio::coro<> {
        const farewell gone(of_parent, "child's frame");
        scope.reset();
        of_parent.push_back("child is on");
        co_await asyncio::sleep(1s);
        of_parent.push_back("never");
    };
    const auto parent = [&]() -> asyncio::coro<> {
        words own;
        struct copy_out {
            words& from;
            words& to;
            ~copy_out() { to = from; }
        } copy{own, log};
        const farewell gone(own, "parent's frame");
        co_await asyncio::gather(child(own), asyncio::sleep(1h));
    };
    const auto t = scope->create_task(parent);
    for (int i = 0; i < 3; ++i) loop.poll();
    CHECK(log == words{"child is on", "child's frame", "parent's frame"});
    CHECK(t.cancelled());
    CHECK(loop.metrics().tasks == 0);
}

TEST_CASE_FIXTURE(self_ending, "a lock that such a task holds is free when its frame is gone") {
    asyncio::lock lock;
    const auto holds = [&]() -> asyncio::coro<> {
        const auto held = co_await lock.scoped();
        co_await asyncio::sleep(0s);
        scope.reset();
        log.push_back(lock.locked() ? "locked" : "free");
        co_await asyncio::sleep(0s);
    };
    const auto waits = [&]() -> asyncio::coro<> {
        const auto held = co_await lock.scoped();
        log.push_back("next");
    };
    scope->create_task(holds);
    const auto next = loop.create_task(waits);
    for (int i = 0; i < 3; ++i) loop.poll();
    CHECK(log == words{"locked", "next"});
    CHECK(next.done());
    CHECK_FALSE(lock.locked());
}

// -- lifetimes ----------------------------------------------------------------------------

TEST_CASE("a notification that a task was given when it ended goes to the next") {
    asyncio::event_loop loop(manual);
    auto scope = std::make_unique<asyncio::task_scope>(loop);
    asyncio::condition changed;
    words log;
    const auto waits = [&](std::string who) -> asyncio::coro<> {
        const auto held = co_await changed.scoped();
        co_await changed.wait();
        log.push_back(who);
    };
    scope->create_task(waits("the scope"));
    const auto next = loop.create_task(waits("the next"));
    const auto notifies = [&]() -> asyncio::coro<> {
        const auto held = co_await changed.scoped();
        changed.notify(1);
    };
    loop.poll();
    loop.create_task(notifies, {.eager_start = true});
    scope.reset(); // it was its turn
    loop.poll();
    CHECK(log == words{"the next"});
    CHECK(next.done());
    CHECK_FALSE(changed.locked());
}

TEST_CASE("a barrier does not count those that have ended") {
    asyncio::event_loop loop(manual);
    auto scope = std::make_unique<asyncio::task_scope>(loop);
    asyncio::barrier both(2);
    const auto waits = [&]() -> asyncio::coro<> { co_await both.wait(); };
    scope->create_task(waits);
    loop.poll();
    CHECK(both.n_waiting() == 1);
    scope.reset();
    CHECK(both.n_waiting() == 0);
    const auto first = loop.create_task(waits);
    loop.poll();
    CHECK_FALSE(first.done());
    const auto second = loop.create_task(waits);
    loop.poll();
    CHECK(first.done());
    CHECK(second.done());
}

TEST_CASE("a task that ends leaves those alone that it only waited for") {
    asyncio::event_loop loop(manual);
    auto scope = std::make_unique<asyncio::task_scope>(loop);
    asyncio::task_scope other(loop);
    const auto sleeps = other.create_task(asyncio::sleep(1s));
    const auto waits = [&]() -> asyncio::coro<> { co_await asyncio::gather(sleeps, sleeps); };
    const auto alone = [&]() -> asyncio::coro<> { co_await sleeps; };
    scope->create_task(alone);
    scope->create_task(waits);
    loop.poll();
    scope.reset();
    CHECK(other.size() == 1);
    loop.advance(1s);
    CHECK(sleeps.done());
    CHECK_FALSE(sleeps.cancelled());
}

TEST_CASE("the children of a group end with the block that a scope ends") {
    asyncio::event_loop loop(manual);
    auto scope = std::make_unique<asyncio::task_scope>(loop);
    words log;
    struct leaves {
        words& log;
        std::string who;
        leaves(words& l, std::string w) : log(l), who(std::move(w)) {}
        leaves(const leaves&) = delete;
        ~leaves() { log.push_back(who); }
    };
    const auto child = [&](std::string who) -> asyncio::coro<> {
        const leaves last(log, who);
        co_await asyncio::sleep(1h);
    };
    asyncio::task<> first;
    asyncio::task<> running;
    const auto parent = [&]() -> asyncio::coro<> {
        const leaves last(log, "parent");
        co_await asyncio::with(asyncio::task_group(),
                               [&](asyncio::task_group& group) -> asyncio::coro<> {
                                   first = group.create_task(child("first"));
                                   group.create_task(child("second"));
                                   running = group.create_task([&]() -> asyncio::coro<> {
                                       const leaves end(log, "running");
                                       co_await asyncio::sleep(1s);
                                       scope.reset();
                                       log.push_back("goes on");
                                       co_await asyncio::sleep(0s);
                                       log.push_back("never");
                                   });
                                   co_await asyncio::sleep(1h);
                               });
    };
    // It began elsewhere, so that its children are not of the scope.
    const auto adopted = loop.create_task(parent);
    scope->create_task(adopted);
    SUBCASE("from outside") {
        loop.poll();
        scope.reset();
        CHECK(log == words{"running", "second", "first", "parent"});
    }
    SUBCASE("by one of them") {
        loop.poll();
        loop.advance(1s);
        CHECK(log == words{"second", "first", "parent", "goes on", "running"});
    }
    CHECK(adopted.cancelled());
    CHECK(first.cancelled());
    CHECK(running.cancelled());
    loop.advance(2h);
    CHECK(log.size() <= 5);
    CHECK(asyncio::all_tasks(loop).empty());
}

TEST_CASE("who runs until a task of a scope is done is told that it ended") {
    asyncio::event_loop loop(manual);
    auto scope = std::make_unique<asyncio::task_scope>(loop);
    const auto t = scope->create_task(asyncio::sleep(1h));
    loop.call_soon([&] { scope.reset(); });
    CHECK_THROWS_AS(loop.run_until_complete(t), asyncio::cancelled_error);
    CHECK_FALSE(loop.is_running());
}

// Ends what it was given, when it goes.
struct avenger {
    explicit avenger(std::unique_ptr<asyncio::task_scope>& v) : victim(v) {}
    avenger(const avenger&) = delete;
    avenger& operator=(const avenger&) = delete;
    ~avenger() { victim.reset(); }
    std::unique_ptr<asyncio::task_scope>& victim;
};

TEST_CASE("two that end each other both end, whoever begins") {
    asyncio::event_loop loop(manual);
    words log;
    auto one = std::make_unique<asyncio::task_scope>(loop);
    auto two = std::make_unique<asyncio::task_scope>(loop);
    const auto fights = [&](std::unique_ptr<asyncio::task_scope>& other, std::string who,
                            bool begins) -> asyncio::coro<> {
        const farewell gone(log, who);
        const avenger last_will(other);
        co_await asyncio::sleep(1s);
        if (begins) other.reset();
        co_await asyncio::sleep(1s);
    };
    SUBCASE("from outside") {
        one->create_task(fights(two, "one", false));
        two->create_task(fights(one, "two", false));
        loop.poll();
        one.reset();
        CHECK(log == words{"two", "one"});
    }
    SUBCASE("one of them, in its task") {
        one->create_task(fights(two, "one", false));
        two->create_task(fights(one, "two", true));
        loop.advance(1s);
        CHECK(log == words{"one", "two"});
    }
    CHECK_FALSE(one);
    CHECK_FALSE(two);
    CHECK(loop.metrics().tasks == 0);
}

TEST_CASE("what a frame starts in its own scope when it goes ends as well") {
    asyncio::event_loop loop(manual);
    words log;
    int alive = 0;
    {
        asyncio::task_scope scope(loop);
        const auto starts = [&]() -> asyncio::coro<> {
            struct at_end {
                asyncio::task_scope& scope;
                words& log;
                ~at_end() { scope.create_task(outer(log), {.eager_start = true}); }
            } end{scope, log};
            co_await asyncio::sleep(1h);
        };
        scope.create_task(starts);
        loop.poll();
        alive = static_cast<int>(scope.size());
    }
    CHECK(alive == 1);
    CHECK(log == words{"inner", "outer"});
    CHECK(loop.metrics().tasks == 0);
    CHECK(loop.metrics().timers == 0);
}

TEST_CASE("a frame that goes between two polls may poll itself") {
    asyncio::event_loop loop(manual);
    words log;
    auto scope = std::make_unique<asyncio::task_scope>(loop);
    const auto polls = [&]() -> asyncio::coro<> {
        struct at_end {
            asyncio::event_loop& loop;
            ~at_end() { loop.poll(); }
        } end{loop};
        co_await asyncio::sleep(1h);
    };
    const auto notes = [&](std::string who) -> asyncio::coro<> {
        co_await asyncio::next_frame();
        log.push_back(who);
    };
    scope->create_task(notes("an older one of the scope"));
    scope->create_task(polls);
    scope->create_task(notes("a newer one of the scope"));
    loop.create_task(notes("another"));
    loop.poll();
    scope.reset();
    CHECK(log == words{"an older one of the scope", "another"});
    CHECK(loop.metrics().tasks == 0);
}

TEST_CASE("a scope may outlive its loop") {
    auto loop = std::make_unique<asyncio::event_loop>(manual);
    words log;
    asyncio::task_scope scope(*loop);
    const auto t = scope.create_task(outer(log));
    loop->poll();
    loop.reset();
    CHECK(log == words{"inner", "outer"});
    CHECK(t.cancelled());
    CHECK(scope.size() == 0);
    scope.cancel();
    CHECK_THROWS_AS(scope.create_task(outer(log)), std::runtime_error);
    asyncio::event_loop closed;
    closed.close();
    CHECK_THROWS_AS(asyncio::task_scope{closed}, std::runtime_error);
}

TEST_CASE("a task's frame may hold scopes, also its own") {
    words log;
    auto loop = std::make_unique<asyncio::event_loop>(manual);
    struct entity {
        explicit entity(asyncio::event_loop& l) : tasks(l) {}
        asyncio::task_scope tasks;
    };
    const auto body = [&](std::shared_ptr<entity> self) -> asyncio::coro<> {
        const farewell gone(log, "task of an entity");
        asyncio::task_scope own(asyncio::get_running_loop());
        own.create_task(outer(log));
        co_await asyncio::sleep(1h);
        CHECK(self);
    };
    const auto create = [&] {
        auto made = std::make_shared<entity>(*loop);
        entity& e = *made;
        e.tasks.create_task(body(std::move(made))); // keeps the entity alive
    };
    create();
    loop->poll();
    SUBCASE("the loop goes") { loop.reset(); }
    SUBCASE("the task is cancelled") {
        for (const asyncio::any_task& t : asyncio::all_tasks(*loop)) t.cancel();
        loop->poll();
        CHECK(loop->metrics().tasks == 0);
    }
    std::sort(log.begin(), log.end());
    CHECK(log == words{"inner", "outer", "task of an entity"});
}

TEST_CASE("destructors in the frames may do what they like") {
    asyncio::event_loop loop(manual);
    words log;
    const asyncio::future<int> result = loop.create_future<int>();
    auto scope = std::make_unique<asyncio::task_scope>(loop);
    auto other = std::make_unique<asyncio::task_scope>(loop);
    other->create_task(outer(log));
    const auto waits = [&]() -> asyncio::coro<> { co_await result; };
    const auto busy = [&]() -> asyncio::coro<> {
        struct at_end {
            asyncio::event_loop& loop;
            const asyncio::future<int>& result;
            std::unique_ptr<asyncio::task_scope>& other;
            ~at_end() {
                result.set_result(1); // wakes a task of the same scope
                loop.create_task(asyncio::sleep(0s));
                loop.call_soon([] {});
                other.reset();
                const auto never_awaited = at_once();
            }
        } end{loop, result, other};
        co_await asyncio::sleep(1h);
    };
    const auto reports = support::collect_reports(loop);
    loop.set_debug(true);
    scope->create_task(waits);
    scope->create_task(busy);
    loop.poll();
    scope.reset();
    CHECK(log == words{"inner", "outer"});
    CHECK(loop.metrics().tasks == 1);
    loop.poll();
    loop.poll();
    CHECK(loop.metrics().tasks == 0);
    CHECK(reports->empty());
}

TEST_CASE("a scope takes a task that is there already, of its own loop") {
    asyncio::event_loop loop(manual);
    asyncio::event_loop another(manual);
    const auto t = loop.create_task(asyncio::sleep(1h));
    const auto foreign = another.create_task(asyncio::sleep(1h));
    {
        asyncio::task_scope scope(loop);
        CHECK(scope.create_task(t) == t);
        CHECK(scope.size() == 1);
        CHECK_THROWS_AS(scope.create_task(foreign), std::runtime_error);
    }
    CHECK(t.cancelled());
    CHECK_FALSE(foreign.done());
}

TEST_CASE("scopes and clocks go together") {
    asyncio::event_loop loop(manual);
    asyncio::time_stream slow(loop);
    slow.set_scale(0.5);
    durations woke;
    asyncio::task_scope scope(loop);
    const auto body = [&]() -> asyncio::coro<> {
        co_await asyncio::create_task(asyncio::sleep(1s));
        woke.push_back(loop.time().time_since_epoch());
    };
    const auto in_slow = [&]() -> asyncio::coro<> {
        const auto t = scope.create_task(body); // gets the scope, and keeps the clock
        co_await t;
    };
    loop.create_task(in_slow, {.clock = &slow});
    loop.advance(1ms);
    CHECK(scope.size() == 2);
    loop.advance(1min);
    CHECK(woke == durations{2s});
    CHECK(scope.size() == 0);
}

TEST_CASE("ten thousand entities come and go") {
    asyncio::event_loop loop(manual);
    std::vector<std::unique_ptr<asyncio::task_scope>> scopes;
    int alive = 0;
    const auto live = [&](int i) -> asyncio::coro<> {
        struct counted {
            int& count;
            explicit counted(int& c) : count(c) { ++count; }
            ~counted() { --count; }
        } here(alive);
        for (;;) co_await asyncio::sleep(std::chrono::milliseconds(1 + i % 7));
    };
    for (int i = 0; i < 10'000; ++i) {
        scopes.push_back(std::make_unique<asyncio::task_scope>(loop));
        scopes.back()->create_task(live(i));
    }
    loop.advance(5ms);
    CHECK(alive == 10'000);
    for (std::size_t i = 0; i < scopes.size(); i += 2) scopes[i].reset();
    CHECK(alive == 5'000);
    loop.advance(20ms);
    scopes.clear();
    CHECK(alive == 0);
    CHECK(loop.metrics().tasks == 0);
    CHECK(loop.metrics().timers == 0);
}

// -- in the middle of I/O --------------------------------------------------------------

// Lets another thread resume it.
struct by_thread {
    explicit by_thread(std::thread& t) : thread(&t) {}
    bool await_ready() const noexcept { return false; }
    void await_suspend(std::coroutine_handle<> h) const {
        *thread = std::thread([h] { h.resume(); });
    }
    void await_resume() const noexcept {}
    std::thread* thread;
};

TEST_CASE("a task that another thread has just resumed may end before it goes on") {
    asyncio::event_loop loop;
    std::thread thread;
    bool never = false;
    const auto body = [&]() -> asyncio::coro<> {
        co_await by_thread(thread);
        never = true;
    };
    auto scope = std::make_unique<asyncio::task_scope>(loop);
    const auto t = scope->create_task(body, {.eager_start = true});
    thread.join();
    scope.reset();
    CHECK(t.cancelled());
    loop.poll();
    CHECK_FALSE(never);
}

ASYNC_TEST_CASE_REAL("a task in the middle of I/O takes it back, and the next one gets the data") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    auto listener = asyncio::socket::tcp();
    listener.bind(asyncio::address::parse("127.0.0.1:0"));
    listener.listen();
    auto scope = std::make_unique<asyncio::task_scope>(loop);
    const auto accepts = [&]() -> asyncio::coro<> {
        const auto never = co_await listener.accept();
    };
    scope->create_task(accepts);
    co_await support::turns(3);
    scope = std::make_unique<asyncio::task_scope>(loop);

    auto client = asyncio::socket::tcp();
    co_await client.connect(listener.local_address());
    auto peer = co_await listener.accept();
    const auto receives = [&]() -> asyncio::coro<> {
        const std::string data = co_await peer.recv(100);
        CHECK(data == "never");
    };
    const auto sends = [&]() -> asyncio::coro<> {
        const std::string much(50'000'000, 'x');
        co_await client.sendall(much); // the peer does not read: it waits
    };
    scope->create_task(receives);
    co_await support::turns(3);
    scope->create_task(sends);
    scope = std::make_unique<asyncio::task_scope>(loop); // before sendall() began

    scope->create_task(receives);
    co_await support::turns(3);
    co_await client.sendall(std::string("hello"));
    scope.reset();
    const std::string data = co_await peer.recv(100);
    CHECK(data == "hello");

    scope = std::make_unique<asyncio::task_scope>(loop);
    const auto sending = scope->create_task(sends);
    co_await asyncio::sleep(5ms);
    CHECK_FALSE(sending.done());
    scope.reset();
    const std::string some = co_await peer.recv(100);
    CHECK(some == std::string(100, 'x'));
}

ASYNC_TEST_CASE_REAL("tasks that wait for threads, files, streams and children may end as well") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    auto go_on = std::make_shared<support::flag>();
    const auto job = [&go_on] {
        return [go_on] { // which may outlive this test
            go_on->wait();
            return std::string(100, 'x');
        };
    };
    const auto in_thread = [&]() -> asyncio::coro<> {
        const auto work = job();
        co_await asyncio::to_thread(work);
    };
    const auto in_executor = [&]() -> asyncio::coro<> {
        const auto work = job();
        co_await asyncio::run_in_executor(nullptr, work);
    };
    const auto resolves = []() -> asyncio::coro<> {
        for (;;) co_await asyncio::getaddrinfo("localhost", "80");
    };
    const support::scratch folder;
    const std::string path = folder / "data";
    support::put(path, "some text");
    const auto reads_file = [&]() -> asyncio::coro<> {
        for (;;) co_await asyncio::read_file(path);
    };
    const std::vector<std::string> program = support::as_child({"announce"});
    const auto child = [&]() -> asyncio::coro<> {
        auto process = co_await asyncio::create_subprocess_exec(
            program, {.stdin_ = asyncio::stdio::pipe, .stdout_ = asyncio::stdio::pipe});
        const std::string line = co_await process.stdout_->readline();
        CHECK(line.substr(0, 5) == "ready"); // if it comes to that
        co_await process.wait();
    };
    const auto serves = []() -> asyncio::coro<> {
        const auto on_client = [](asyncio::stream_reader reader,
                                  asyncio::stream_writer) -> asyncio::coro<> {
            co_await reader.read();
        };
        auto server = co_await asyncio::start_server(on_client, "127.0.0.1", 0);
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
        co_await reader.readline();
    };
    for (const auto pause : {0ms, 1ms, 20ms}) {
        auto scope = std::make_unique<asyncio::task_scope>(loop);
        go_on = std::make_shared<support::flag>();
        scope->create_task(in_thread);
        scope->create_task(in_executor);
        scope->create_task(resolves);
        scope->create_task(reads_file);
        scope->create_task(child);
        scope->create_task(serves);
        co_await asyncio::sleep(pause);
        scope.reset();
        go_on->set();
        co_await asyncio::sleep(1ms);
        CHECK(asyncio::all_tasks().size() == 1);
    }
}

} // TEST_SUITE

#if !defined(ASYNCIO_NO_EXCEPTIONS)

TEST_SUITE("a host of one's own") {

asyncio::coro<> echo(asyncio::stream_reader reader, asyncio::stream_writer writer) {
    for (std::string data = "?"; !data.empty();) {
        data = co_await reader.read(100);
        writer.write(data);
        co_await writer.drain();
    }
}

// Sleeps until the loop's handle tells of something, or its next deadline has come.
void sleep_as_a_host(asyncio::event_loop& loop) {
    const std::optional<asyncio::duration> limit = loop.next_deadline();
    const std::chrono::nanoseconds left = limit ? *limit : asyncio::duration();
    const auto up = std::chrono::ceil<std::chrono::milliseconds>(left).count();
#if defined(_WIN32)
    const DWORD milliseconds = limit ? static_cast<DWORD>(up) : INFINITE;
    REQUIRE(::WaitForSingleObject(loop.native_handle(), milliseconds) != WAIT_FAILED);
#else
    pollfd handle{loop.native_handle(), POLLIN, 0};
    REQUIRE(::poll(&handle, 1, limit ? static_cast<int>(up) : -1) >= 0);
#endif
}

TEST_CASE("a host that sleeps on the native handle wakes for what there is, and not in between") {
    asyncio::event_loop loop;
    int wakes = 0;
    int idle = -1;
    constexpr int questions = 50;
    const auto asks = [](int port) -> asyncio::coro<int> {
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
        int answers = 0;
        for (int i = 0; i < questions; ++i) {
            writer.write("question\n");
            const std::string line = co_await reader.readline();
            answers += line == "question\n" ? 1 : 0;
        }
        co_return answers;
    };
    const auto body = [&]() -> asyncio::coro<int> {
        asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
        const auto client = [&, port = server.port()] { return asyncio::run(asks(port)); };
        const int answers = co_await asyncio::to_thread(client);
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
        co_await asyncio::sleep(1ms); // until the server has it, too
        const int before = wakes;
        co_await asyncio::sleep(50ms);
        idle = wakes - before;
        writer.close();
        server.close();
        co_await server.wait_closed();
        co_return answers;
    };
    const auto t = loop.create_task(body);
    for (; !t.done(); ++wakes) {
        loop.poll();
        if (!t.done()) sleep_as_a_host(loop);
    }
    CHECK(t.result() == questions);
    CHECK(idle >= 1);
    CHECK(idle <= 3);
    CHECK(wakes <= 4 * questions);
}

// Forty entities that sleep, move and die, in a world that is paused and slowed down: what
// happened, in order.
words a_game(unsigned seed) {
    asyncio::event_loop loop(manual);
    asyncio::time_stream world(loop);
    asyncio::time_stream slow(loop);
    slow.set_scale(0.3);
    asyncio::lock lock;
    words log;
    std::minstd_rand random(seed);
    struct entity {
        explicit entity(asyncio::event_loop& l) : tasks(l) {}
        asyncio::task_scope tasks;
    };
    std::vector<std::unique_ptr<entity>> all(40);
    const auto lives = [&](std::size_t which) -> asyncio::coro<> {
        const auto note = [&](const char* what) {
            log.push_back(std::to_string(which) + what +
                          std::to_string(loop.time().time_since_epoch().total_seconds()));
        };
        for (;;) {
            co_await asyncio::sleep(std::chrono::milliseconds(random() % 5 * 50));
            note(" woke at ");
            {
                const auto held = co_await lock.scoped();
                note(" locked at ");
                co_await asyncio::next_frame();
            }
            if (random() % 40 == 0) {
                note(" died at ");
                all[which].reset();
            }
        }
    };
    for (std::size_t i = 0; i < all.size(); ++i) {
        all[i] = std::make_unique<entity>(loop);
        all[i]->tasks.create_task(lives(i), {.clock = i % 4 == 0 ? &slow : &world});
    }
    for (int frame = 0; frame < 300; ++frame) {
        if (frame == 100) world.pause();
        if (frame == 150) world.resume();
        if (frame == 200) all[1].reset();
        loop.advance(std::chrono::milliseconds(10 + random() % 10));
        loop.poll();
    }
    return log;
}

TEST_CASE("the same inputs make the same game, in the same order") {
    const words once = a_game(1);
    CHECK(once.size() > 400);
    CHECK(once == a_game(1));
    CHECK_FALSE(once == a_game(2));
}

TEST_CASE("one frame has one time, for the streams as well") {
    asyncio::event_loop loop;
    asyncio::time_stream fast(loop);
    fast.set_scale(1000);
    std::vector<asyncio::time_point> times;
    loop.call_soon([&] {
        times.push_back(fast.now());
        const auto begin = std::chrono::steady_clock::now();
        while (std::chrono::steady_clock::now() - begin < 1ms) {}
        loop.call_soon([&] { times.push_back(fast.now()); });
    });
    loop.poll();
    REQUIRE(times.size() == 2);
    CHECK(times[0] == times[1]);
    CHECK(fast.now() - times[1] >= asyncio::duration(1s));
}

TEST_CASE("the host is told when the end of a scope has woken somebody") {
    asyncio::event_loop loop(manual);
    auto scope = std::make_unique<asyncio::task_scope>(loop);
    const auto t = scope->create_task(asyncio::sleep(1h));
    const auto waits = [&]() -> asyncio::coro<> { co_await t; };
    const auto waiting = loop.create_task(waits);
    loop.poll();
    int told = 0;
    loop.set_wake_handler([&] { ++told; });
    scope.reset();
    CHECK(told == 1);
    CHECK(loop.next_deadline() == asyncio::duration());
    loop.poll();
    CHECK(waiting.cancelled());
    CHECK(told == 1);
}

} // TEST_SUITE

TEST_SUITE("a loop inside a loop") {

// What a call in a callback of a running loop throws.
template <class F>
std::string refused_inside(F call) {
    asyncio::event_loop loop(manual);
    std::string message;
    loop.call_soon([&] {
        try {
            call(loop);
        } catch (const std::runtime_error& e) {
            message = e.what();
        }
    });
    bool next_ran = false;
    loop.call_soon([&] { next_ran = true; });
    CHECK(loop.poll() == 2); // and goes on as if nothing had happened
    CHECK(next_ran);
    return message;
}

TEST_CASE("a loop does not poll inside its own callbacks, and says what to do") {
    const std::string poll = refused_inside([](asyncio::event_loop& loop) { loop.poll(); });
    CHECK(poll == "asyncio::event_loop::poll: the loop is running already; await the work instead");
    const std::string once = refused_inside([](asyncio::event_loop& loop) { loop.run_once(); });
    CHECK(once.starts_with("asyncio::event_loop::run_once: the loop is running already"));
    const std::string run = refused_inside([](asyncio::event_loop& loop) { loop.run_for(1s); });
    CHECK(run.starts_with("asyncio::event_loop::run_for: the loop is running already"));
}

TEST_CASE("a second loop does not run inside a callback of the first one on the thread") {
    asyncio::event_loop other(manual);
    int ran = 0;
    other.call_soon([&] { ++ran; });
    const std::string poll = refused_inside([&](asyncio::event_loop&) { other.poll(); });
    CHECK(poll == "asyncio::event_loop::poll: another loop is running on this thread; await the "
                  "work there");
    const std::string advance = refused_inside([&](asyncio::event_loop&) { other.advance(1s); });
    CHECK(advance.starts_with("asyncio::event_loop::advance: another loop is running"));
    CHECK(ran == 0);
    const asyncio::time_point before = other.time();
    other.poll(); // one after the other they may
    CHECK(ran == 1);
    CHECK(other.time() == before); // what was refused moves no clock later
}

TEST_CASE("a destructor in a frame that goes with its loop may cancel the task, and close the loop") {
    struct last_words {
        asyncio::any_task* task;
        asyncio::event_loop* loop;
        ~last_words() {
            task->cancel();
            loop->close();
        }
    };
    asyncio::any_task parent;
    {
        asyncio::event_loop loop(manual);
        const auto inner = []() -> asyncio::coro<> { co_await asyncio::sleep(1h); };
        const auto outer = [&]() -> asyncio::coro<> {
            const last_words here{&parent, &loop};
            co_await inner();
        };
        const auto both = [&]() -> asyncio::coro<> { co_await asyncio::create_task(outer); };
        parent = loop.create_task(both);
        loop.poll();
        loop.poll();
    }
    CHECK(parent.done());
}

TEST_CASE("run() and close() inside a callback are refused") {
    const auto nothing = []() -> asyncio::coro<> { co_return; };
    const std::string run = refused_inside([&](asyncio::event_loop&) { asyncio::run(nothing); });
    CHECK(run.find("asyncio::run") != std::string::npos);
    const std::string close = refused_inside([](asyncio::event_loop& loop) { loop.close(); });
    CHECK(close.starts_with("asyncio::event_loop::close: "));
}

TEST_CASE("advance() on a clock that moves by itself is refused, and says what to do") {
    for (const auto kind : {asyncio::clock_kind::real, asyncio::clock_kind::virtual_time}) {
        asyncio::event_loop loop({.clock = kind});
        std::string message;
        try {
            loop.advance(1s);
        } catch (const std::runtime_error& e) {
            message = e.what();
        }
        CHECK(message == "asyncio::event_loop::advance: only a manual clock moves by hand; make "
                         "the loop with clock_kind::manual");
    }
}

} // TEST_SUITE
#endif
