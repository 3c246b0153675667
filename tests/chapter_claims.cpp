// What the chapter behind examples/ asks its readers about asyncio: each claim is a test. The clock
// is virtual, so that moments are exact and can be compared with ==.
#include "support.hpp"

#include <algorithm>
#include <ctime>
#include <optional>
#include <stdexcept>
#include <utility>

namespace {

asyncio::time_point now() { return asyncio::get_running_loop().time(); }

// A request over the network, as the lessons simulate it.
asyncio::coro<int> fetch(int value, asyncio::duration latency) {
    co_await asyncio::sleep(latency);
    co_return value;
}

asyncio::coro<int> fail_after(asyncio::duration latency) {
    co_await asyncio::sleep(latency);
    throw std::runtime_error("unavailable");
}

// What became of a task that waits for an hour.
struct fate {
    bool begun = false;
    bool cancelled = false;
    bool cleaned_up = false; // which takes half a second
    bool finished = false;
};

asyncio::coro<int> wait_an_hour(fate& f) {
    f.begun = true;
    std::exception_ptr cancelled;
    try {
        co_await asyncio::sleep(1h);
    } catch (const asyncio::cancelled_error&) {
        f.cancelled = true;
        cancelled = std::current_exception();
    }
    if (cancelled) {
        co_await asyncio::sleep(500ms);
        f.cleaned_up = true;
        std::rethrow_exception(cancelled);
    }
    f.finished = true;
    co_return 1;
}

// A stage of a pipeline: so many workers, each of which takes an item, works on it and hands it
// on. When nothing comes any more, the next stage hears of it.
asyncio::coro<> stage(asyncio::queue<int>& in, asyncio::queue<int>& out, int workers,
                      asyncio::duration time_per_item) {
    const auto worker = [&]() -> asyncio::coro<> {
        for (;;) {
            const std::optional<int> item = co_await in.next();
            if (!item) co_return;
            co_await asyncio::sleep(time_per_item);
            co_await out.put(*item);
        }
    };
    std::vector<asyncio::task<>> running;
    for (int i = 0; i < workers; ++i) running.push_back(asyncio::create_task(worker));
    co_await asyncio::gather(std::move(running));
    out.shutdown();
}

// Takes a request every 200 ms, and refuses what comes earlier.
class throttled_service {
public:
    static constexpr auto retry_after = 1s; // what a refusal asks for

    /// The status: 200, or 429 for "too many requests".
    asyncio::coro<int> request() {
        co_await asyncio::sleep(1ms);
        ++requests;
        if (served > 0 && now() - last_served_ < 200ms) co_return 429;
        ++served;
        last_served_ = now();
        co_return 200;
    }

    int requests = 0;
    int served = 0;

private:
    asyncio::time_point last_served_;
};

} // namespace

TEST_SUITE("coroutines and tasks") {

ASYNC_TEST_CASE("a coroutine that is not awaited never runs; a task runs without being awaited") {
    bool coroutine_ran = false;
    bool task_ran = false;
    const auto mark = [](bool& ran) -> asyncio::coro<> {
        ran = true;
        co_return;
    };
    {
        const asyncio::coro<> forgotten = mark(coroutine_ran);
        const asyncio::task<> scheduled = asyncio::create_task(mark(task_ran));
        CHECK_FALSE(task_ran); // it begins when this coroutine waits for something
        co_await asyncio::sleep(1h);
    }
    CHECK_FALSE(coroutine_ran);
    CHECK(task_ran);
}

ASYNC_TEST_CASE("awaiting in a loop is sequential; tasks that are made first overlap") {
    auto begin = now();
    for (int i = 0; i < 5; ++i) {
        const int got = co_await fetch(i, 1s);
        CHECK(got == i);
    }
    CHECK(now() - begin == 5s);

    begin = now();
    std::vector<asyncio::task<int>> tasks;
    for (int i = 0; i < 5; ++i) tasks.push_back(asyncio::create_task(fetch(i, 1s)));
    for (int i = 0; i < 5; ++i) {
        const int got = co_await tasks[static_cast<std::size_t>(i)];
        CHECK(got == i);
    }
    CHECK(now() - begin == 1s);
}

ASYNC_TEST_CASE("I/O-bound work takes as long as its longest wait, and next to no CPU time") {
    const auto begin = now();
    const std::clock_t cpu_begin = std::clock();
    std::vector<asyncio::coro<int>> calls;
    for (int i = 1; i <= 100; ++i) calls.push_back(fetch(i, i * 10s));
    const std::vector<int> got = co_await asyncio::gather(std::move(calls));
    const double cpu_seconds = static_cast<double>(std::clock() - cpu_begin) / CLOCKS_PER_SEC;
    CHECK(got.size() == 100);
    CHECK(now() - begin == 1000s); // the maximum; the sum would be 50 500 s
    CHECK(cpu_seconds < 10);       // a hundredth of that
}

TEST_CASE("at exit, tasks that nobody awaited are cancelled, and run() waits for their cleanup") {
    fate awaited;
    fate waiting;  // when main ends
    fate too_late; // made in the last moment
    bool main_ended = false;
    const auto async_main = [&]() -> asyncio::coro<> {
        co_await asyncio::create_task(wait_an_hour(awaited));
        asyncio::create_task(wait_an_hour(waiting));
        co_await asyncio::sleep(1s);
        asyncio::create_task(wait_an_hour(too_late));
        CHECK_FALSE(waiting.cancelled);
        main_ended = true;
    };
    asyncio::run(async_main, {.clock = asyncio::clock_kind::virtual_time});
    CHECK(main_ended);
    CHECK(awaited.finished);
    CHECK_FALSE(awaited.cancelled);
    CHECK(waiting.begun);
    CHECK(waiting.cancelled);
    CHECK(waiting.cleaned_up);
    CHECK_FALSE(waiting.finished);
    CHECK(too_late.begun); // what is scheduled when main ends still gets its turn
    CHECK(too_late.cleaned_up);
    CHECK_FALSE(too_late.finished);
}

} // TEST_SUITE

TEST_SUITE("gather and timeouts") {

ASYNC_TEST_CASE("gather keeps the order of its arguments, whatever finishes first") {
    std::vector<int> finished;
    const auto call = [&](int value, asyncio::duration latency) -> asyncio::coro<int> {
        co_await asyncio::sleep(latency);
        finished.push_back(value);
        co_return value;
    };
    std::vector<asyncio::coro<int>> calls;
    for (int i = 1; i <= 5; ++i) calls.push_back(call(i, (6 - i) * 1s));
    const std::vector<int> results = co_await asyncio::gather(std::move(calls));
    CHECK(results == std::vector{1, 2, 3, 4, 5});
    CHECK(finished == std::vector{5, 4, 3, 2, 1});
}

ASYNC_TEST_CASE("with return_exceptions, ten calls of which three fail give ten outcomes") {
    std::vector<asyncio::coro<int>> calls;
    for (int i = 1; i <= 10; ++i)
        calls.push_back(i % 3 == 0 ? fail_after(1s) : fetch(i, 2s)); // 3, 6 and 9 fail
    const auto begin = now();
    const std::vector<asyncio::outcome<int>> outcomes =
        co_await asyncio::gather(asyncio::return_exceptions, std::move(calls));
    CHECK(now() - begin == 2s); // no failure ended the others
    REQUIRE(outcomes.size() == 10);
    int failed = 0;
    for (int i = 1; i <= 10; ++i) {
        const asyncio::outcome<int>& o = outcomes[static_cast<std::size_t>(i) - 1];
        CHECK(o.has_value() == (i % 3 != 0));
        if (o.has_value()) {
            CHECK(*o == i);
        } else {
            CHECK(o.error().holds<std::runtime_error>());
            ++failed;
        }
    }
    CHECK(failed == 3);
}

ASYNC_TEST_CASE("a timeout around gather cancels its children, and loses what was there") {
    fate slow, slower;
    int finished = 0;
    const auto quick_call = [&]() -> asyncio::coro<int> {
        co_await asyncio::sleep(1s);
        ++finished;
        co_return 1;
    };
    std::vector<asyncio::coro<int>> calls;
    calls.push_back(wait_an_hour(slow));
    calls.push_back(quick_call());
    calls.push_back(wait_an_hour(slower));
    const auto begin = now();
    auto all = asyncio::gather(asyncio::return_exceptions, std::move(calls));
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(all, 5s), asyncio::timeout_error);
    CHECK(now() - begin == 5s + 500ms); // the limit, and the cleanup
    CHECK(slow.cleaned_up);
    CHECK(slower.cleaned_up);
    CHECK(finished == 1); // and yet nobody gets its result:
    CHECK_THROWS_AS(all.result(), asyncio::cancelled_error);
}

ASYNC_TEST_CASE("a timeout around a group ends all its tasks, one around each only the late") {
    fate late_in_group, late_alone;
    asyncio::task<int> first, second, late;
    const auto begin = now();
    const auto children = [&](asyncio::task_group& group) {
        first = group.create_task(fetch(1, 1s));
        second = group.create_task(fetch(2, 4s));
        late = group.create_task(wait_an_hour(late_in_group));
    };
    const auto limited_group = [&] { return asyncio::with(asyncio::task_group(), children); };
    CHECK_AWAIT_THROWS_AS(asyncio::with(asyncio::timeout(3s), limited_group),
                          asyncio::timeout_error);
    CHECK(now() - begin == 3s + 500ms); // the limit, and the cleanup
    CHECK(first.result() == 1);
    CHECK(second.cancelled()); // shortly before its end
    CHECK(late.cancelled());
    CHECK(late_in_group.cleaned_up);

    const auto limited_calls = [&](asyncio::task_group& group) {
        first = group.create_task(asyncio::wait_for(fetch(1, 1s), 5s));
        second = group.create_task(asyncio::wait_for(fetch(2, 4s), 5s));
        late = group.create_task([&]() -> asyncio::coro<int> {
            try {
                co_return co_await asyncio::wait_for(wait_an_hour(late_alone), 3s);
            } catch (const asyncio::timeout_error&) {
            }
            co_return -1;
        });
    };
    co_await asyncio::with(asyncio::task_group(), limited_calls);
    CHECK(first.result() == 1);
    CHECK(second.result() == 2);
    CHECK(late.result() == -1);
    CHECK(late_alone.cancelled);
}

} // TEST_SUITE

TEST_SUITE("limits") {

ASYNC_TEST_CASE("a semaphore of 5 lets 5 of 10 tasks in, and the next when one of them ends") {
    asyncio::semaphore slots(5);
    int inside = 0;
    int most = 0;
    std::vector<asyncio::time_point> begun, ended;
    const auto begin = now();
    const auto call = [&](int i) -> asyncio::coro<> {
        auto slot = co_await slots.scoped();
        begun.push_back(now());
        most = std::max(most, ++inside);
        co_await asyncio::sleep(i * 1s);
        --inside;
        ended.push_back(now());
    };
    std::vector<asyncio::coro<>> calls;
    for (int i = 1; i <= 10; ++i) calls.push_back(call(i));
    co_await asyncio::gather(std::move(calls));
    CHECK(most == 5);
    REQUIRE(begun.size() == 10);
    for (std::size_t i = 0; i < 5; ++i) {
        CHECK(begun[i] == begin);
        CHECK(begun[5 + i] == ended[i]);
    }
}

ASYNC_TEST_CASE("a full bounded queue suspends its producer until an item is taken") {
    asyncio::queue<int> items(3);
    int produced = 0;
    asyncio::task<> producer = asyncio::create_task([&]() -> asyncio::coro<> {
        for (; produced < 10; ++produced) co_await items.put(produced);
    });
    co_await asyncio::sleep(1h);
    CHECK(items.full());
    CHECK(produced == 3); // it waits with the fourth
    for (int i = 0; i < 10; ++i) {
        const int item = co_await items.get();
        CHECK(item == i);
        co_await asyncio::sleep(1s);
        CHECK(produced == std::min(10, 4 + i));
        CHECK(items.qsize() <= 3);
    }
    co_await producer;
}

ASYNC_TEST_CASE("a service that answers 429 is slowed down for, and then serves every call") {
    throttled_service service;
    std::vector<asyncio::duration> gaps;
    asyncio::duration pause = 10ms; // between two calls; each refusal doubles it
    std::optional<asyncio::time_point> last;
    while (service.served < 50) {
        if (last) gaps.push_back(now() - *last);
        last = now();
        const int status = co_await service.request();
        if (status == 429) {
            pause = pause * 2;
            co_await asyncio::sleep(throttled_service::retry_after);
        }
        co_await asyncio::sleep(pause);
    }
    CHECK(service.requests == 50 + 5); // refused at 10, 20, 40, 80 and 160 ms
    CHECK(pause == 320ms);
    for (std::size_t i = 10; i < gaps.size(); ++i) CHECK(gaps[i] == 321ms);

    throttled_service pressed; // by a client that does not listen
    while (pressed.served < 50) {
        co_await pressed.request();
        co_await asyncio::sleep(10ms);
    }
    CHECK(pressed.requests == 50 + 49 * 18); // every 11 ms, and the 19th is served
}

ASYNC_TEST_CASE("1000 items of 50, 200 and 30 ms with 4 workers in the middle take 50 s") {
    const auto run_with = [](int workers) -> asyncio::coro<asyncio::duration> {
        asyncio::queue<int> urls, fetched(20), processed(20), stored;
        for (int i = 0; i < 1000; ++i) urls.put_nowait(i);
        urls.shutdown();
        const auto begin = now();
        co_await asyncio::gather(stage(urls, fetched, 10, 50ms),
                                 stage(fetched, processed, workers, 200ms),
                                 stage(processed, stored, 10, 30ms));
        CHECK(stored.qsize() == 1000);
        co_return now() - begin;
    };
    const asyncio::duration with_four = co_await run_with(4);
    CHECK(with_four == 50s + 80ms); // 1000 x 200 ms / 4; the first fetch and the last store
    const asyncio::duration with_one = co_await run_with(1);
    CHECK(with_one == 200s + 80ms); // processing is the bottleneck

    const auto begin = now(); // without overlap
    for (int i = 0; i < 1000; ++i) co_await asyncio::sleep(50ms + 200ms + 30ms);
    CHECK(now() - begin == 280s);
}

} // TEST_SUITE
