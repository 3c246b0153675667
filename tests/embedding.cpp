// [SECTION] events and tasks, in somebody else's loop: frames, a program that is woken, clocks of
// one's own, and tasks that end with an object.
#include "support.hpp"

#include <chrono>
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
