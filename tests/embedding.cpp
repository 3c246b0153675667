// [SECTION] events and tasks, in somebody else's loop: frames, a program that is woken, clocks of
// one's own, and tasks that end with an object.
#include "support.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <mutex>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace {

constexpr asyncio::run_options manual = {.clock = asyncio::clock_kind::manual};

using durations = std::vector<asyncio::duration>;

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
    std::atomic<bool> entered = false;
    std::atomic<bool> go_on = false;
    std::atomic<int> id = support::thread_id();
    bool ended = false;
    loop.set_wake_handler([&] {
        entered = true;
        entered.notify_all();
        go_on.wait(false);
        ended = true;
    });
    std::thread poster([&] { loop.call_soon_threadsafe([] {}); });
    entered.wait(false);
    std::thread releaser([&] {
        support::wait_until_asleep(id);
        go_on = true;
        go_on.notify_all();
    });
    loop.set_wake_handler({});
    CHECK(ended);
    poster.join();
    releaser.join();
}

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
