// The stack stays flat: however many children are awaited, and however deep they are nested.
//
// Each test runs its loop on a thread with a stack of 256 KiB, so that anything that grows with the
// number of awaits crashes it. It matters most at -O0 and under sanitizers, where compilers make
// no tail calls.
#include "support.hpp"

#include <cstdint>
#include <sstream>
#include <stdexcept>
#include <string>
#include <system_error>
#include <utility>

#include <pthread.h>

namespace {

// A sanitizer's bookkeeping makes each frame many times as large and slow. A stack that grew would
// overflow with far fewer.
constexpr std::int64_t many = support::sanitized ? 500'000 : 10'000'000;
constexpr std::int64_t deep = support::sanitized ? 50'000 : 1'000'000;
constexpr std::int64_t chain = support::sanitized ? 20'000 : 100'000;

// What a test asks of the thread: the value, or the exception that came instead.
struct on_thread {
    std::int64_t (*body)();
    std::int64_t value = 0;
    asyncio::exception_ptr error;
};

extern "C" void* run_on_thread(void* argument) {
    on_thread& call = *static_cast<on_thread*>(argument);
#if defined(ASYNCIO_NO_EXCEPTIONS)
    call.value = call.body();
#else
    try {
        call.value = call.body();
    } catch (...) {
        call.error = std::current_exception();
    }
#endif
    return nullptr;
}

std::int64_t with_small_stack(std::int64_t (*body)()) {
    on_thread call{body, 0, nullptr};
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    REQUIRE(pthread_attr_setstacksize(&attributes, 256 * 1024) == 0);
    pthread_t thread;
    REQUIRE(pthread_create(&thread, &attributes, run_on_thread, &call) == 0);
    pthread_attr_destroy(&attributes);
    pthread_join(thread, nullptr);
    if (call.error) asyncio::error(call.error).rethrow();
    return call.value;
}

asyncio::coro<std::int64_t> at_once(std::int64_t value) {
    co_return value;
}

asyncio::coro<std::int64_t> next_turn(std::int64_t value) {
    co_await asyncio::sleep(0s);
    co_return value;
}

asyncio::coro<std::int64_t> await_in_a_loop(std::int64_t count) {
    std::int64_t sum = 0;
    for (std::int64_t i = 0; i < count; ++i) sum += co_await at_once(1);
    co_return sum;
}

// Goes `levels` deep; the last level gives `leaf`, and each adds one on the way up.
asyncio::coro<std::int64_t> descend(std::int64_t levels, asyncio::coro<std::int64_t> leaf) {
    if (levels == 0) {
        const std::int64_t value = co_await std::move(leaf);
        co_return value;
    }
    const std::int64_t below = co_await descend(levels - 1, std::move(leaf));
    co_return below + 1;
}

} // namespace

TEST_SUITE("stack") {

TEST_CASE("awaiting ten million children in a loop needs constant stack") {
    const std::int64_t sum =
        with_small_stack([] { return asyncio::run(await_in_a_loop(many)); });
    CHECK(sum == many);
}

TEST_CASE("awaiting children that suspend, in a loop, needs constant stack") {
    const std::int64_t sum = with_small_stack([] {
        return asyncio::run([]() -> asyncio::coro<std::int64_t> {
            std::int64_t total = 0;
            for (std::int64_t i = 0; i < deep; ++i) total += co_await next_turn(1);
            co_return total;
        });
    });
    CHECK(sum == deep);
}

TEST_CASE("children that suspend now and then, in a loop, need constant stack") {
    const std::int64_t sum = with_small_stack([] {
        return asyncio::run([]() -> asyncio::coro<std::int64_t> {
            std::int64_t total = 0;
            for (std::int64_t i = 0; i < deep; ++i) {
                if (i % 3 == 0) {
                    total += co_await next_turn(1);
                } else {
                    total += co_await at_once(1);
                }
            }
            co_return total;
        });
    });
    CHECK(sum == deep);
}

TEST_CASE("awaiting futures that are done, in a loop, needs constant stack") {
    const std::int64_t sum = with_small_stack([] {
        return asyncio::run([]() -> asyncio::coro<std::int64_t> {
            const auto done = asyncio::create_future<std::int64_t>();
            done.set_result(1);
            std::int64_t total = 0;
            for (std::int64_t i = 0; i < deep; ++i) total += co_await done;
            co_return total;
        });
    });
    CHECK(sum == deep);
}

TEST_CASE("recursion one million deep works, down and up") {
    const std::int64_t depth =
        with_small_stack([] { return asyncio::run(descend(deep, at_once(0))); });
    CHECK(depth == deep);
}

TEST_CASE("recursion one million deep works when the innermost child suspends") {
    const std::int64_t depth =
        with_small_stack([] { return asyncio::run(descend(deep, next_turn(0))); });
    CHECK(depth == deep);
}

TEST_CASE("a loop at the bottom of a deep recursion needs constant stack") {
    const std::int64_t value =
        with_small_stack([] { return asyncio::run(descend(10'000, await_in_a_loop(deep))); });
    CHECK(value == 10'000 + deep);
}

asyncio::coro<std::int64_t> suspend_on_the_way_down(std::int64_t levels) {
    co_await asyncio::sleep(0s);
    if (levels == 0) co_return 0;
    const std::int64_t below = co_await suspend_on_the_way_down(levels - 1);
    co_return below + 1;
}

TEST_CASE("recursion where each level suspends on the way down") {
    const std::int64_t depth =
        with_small_stack([] { return asyncio::run(suspend_on_the_way_down(deep)); });
    CHECK(depth == deep);
}

asyncio::coro<std::int64_t> suspend_on_the_way_up(std::int64_t levels) {
    if (levels == 0) co_return 0;
    const std::int64_t below = co_await suspend_on_the_way_up(levels - 1);
    co_await asyncio::sleep(0s);
    co_return below + 1;
}

TEST_CASE("recursion where each level suspends on the way up") {
    const std::int64_t depth =
        with_small_stack([] { return asyncio::run(suspend_on_the_way_up(deep)); });
    CHECK(depth == deep);
}

asyncio::coro<std::int64_t> fail_at_the_bottom() {
    THROW(std::runtime_error("from below"));
    co_return 0;
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("an exception comes up through a deep recursion") {
    CHECK_THROWS_WITH_AS(
        with_small_stack([] { return asyncio::run(descend(deep / 10, fail_at_the_bottom())); }),
        "from below", std::runtime_error);
}
#endif

TEST_CASE("a failure comes up through a deep recursion to who asked for the outcome") {
    const std::int64_t failed = with_small_stack([] {
        return asyncio::run([]() -> asyncio::coro<std::int64_t> {
            const auto r =
                co_await asyncio::as_outcome(descend(deep / 10, fail_at_the_bottom()));
            co_return !r && r.error().holds<std::runtime_error>() ? 1 : 0;
        });
    });
    CHECK(failed == 1);
}

asyncio::coro<std::int64_t> wait_long() {
    co_await asyncio::sleep(24h);
    co_return 0;
}

TEST_CASE("a cancellation comes up through a deep recursion") {
    const std::int64_t levels = with_small_stack([] {
        return asyncio::run([]() -> asyncio::coro<std::int64_t> {
            const auto task = asyncio::create_task(descend(deep / 10, wait_long()));
            co_await asyncio::sleep(0s);
            task.cancel();
            const auto got = co_await support::catching(task);
            co_return support::holds<asyncio::cancelled_error>(got.error) ? 1 : 0;
        });
    });
    CHECK(levels == 1);
}

asyncio::coro<std::int64_t> descend_by_tasks(std::int64_t levels) {
    if (levels == 0) co_return 0;
    const auto below = asyncio::create_task(descend_by_tasks(levels - 1));
    const std::int64_t value = co_await below;
    co_return value + 1;
}

TEST_CASE("a chain of tasks one million long ends") {
    const std::int64_t length =
        with_small_stack([] { return asyncio::run(descend_by_tasks(deep)); });
    CHECK(length == deep);
}

// Each task awaits the one made before it; the first one made sleeps. A cancellation goes down the
// whole chain: the end of run() asks only the tasks that nobody awaits, or it would take quadratic
// time here and not end before the watchdog.
asyncio::coro<> follow(asyncio::any_task next) {
    co_await next;
}
asyncio::coro<> wait_for_a_day() {
    co_await asyncio::sleep(24h);
}

asyncio::any_task make_chain(std::int64_t length) {
    asyncio::any_task first = asyncio::create_task(wait_for_a_day(), {.name = "first"});
    for (std::int64_t i = 1; i < length; ++i) first = asyncio::create_task(follow(first));
    return first;
}

TEST_CASE("a long chain of tasks is printed as far as anybody reads") {
    const std::int64_t shown = with_small_stack([] {
        return asyncio::run([]() -> asyncio::coro<std::int64_t> {
            const asyncio::any_task last = make_chain(chain);
            co_await asyncio::sleep(0s);
            asyncio::any_task first;
            for (const asyncio::any_task& task : asyncio::all_tasks())
                if (task.get_name() == "first") first = task;
            std::ostringstream graph, tree;
            asyncio::print_call_graph(first, graph);
            asyncio::print_tasks(tree);
            std::int64_t both = 0;
            for (const std::string& text : {graph.str(), tree.str()}) {
                CHECK(text.find("... and so on\n") != std::string::npos);
                for (std::size_t at = 0; (at = text.find("task '", at)) != std::string::npos; ++at)
                    ++both;
            }
            last.cancel();
            co_return both;
        });
    });
    CHECK(shown == 2 * 64 + 1); // and the one that prints
}

TEST_CASE("cancelling the head of a long chain of tasks ends all of them") {
    const std::int64_t ended = with_small_stack([] {
        return asyncio::run([]() -> asyncio::coro<std::int64_t> {
            const asyncio::any_task head = make_chain(chain);
            co_await asyncio::sleep(0s);
            head.cancel();
            const auto got = co_await support::catching(head);
            co_return support::holds<asyncio::cancelled_error>(got.error) ? 1 : 0;
        });
    });
    CHECK(ended == 1);
}

TEST_CASE("the end of run() cancels a long chain of tasks") {
    const std::int64_t ended = with_small_stack([] {
        return asyncio::run([]() -> asyncio::coro<std::int64_t> {
            make_chain(chain);
            co_await asyncio::sleep(0s);
            co_return 1;
        });
    });
    CHECK(ended == 1);
}

// Counts its objects, to see that every frame of a recursion is destroyed.
struct counted {
    static std::int64_t alive;
    counted() noexcept { ++alive; }
    counted(const counted&) = delete;
    ~counted() { --alive; }
};
std::int64_t counted::alive = 0;

asyncio::coro<> descend_and_wait(std::int64_t levels) {
    const counted here;
    if (levels == 0) {
        co_await asyncio::sleep(24h);
    } else {
        co_await descend_and_wait(levels - 1);
    }
}

TEST_CASE("a loop that is destroyed destroys a deep recursion that waits") {
    const std::int64_t left = with_small_stack([] {
        std::int64_t alive = 0;
        {
            asyncio::event_loop loop;
            {
                const auto inside = loop.enter();
                loop.create_task(descend_and_wait(deep));
            }
            loop.run_once();
            alive = counted::alive;
        }
        return alive == deep + 1 ? counted::alive : -1;
    });
    CHECK(left == 0);
}

TEST_CASE("a loop that is destroyed destroys a long chain of tasks that wait") {
    const std::int64_t ended = with_small_stack([] {
        asyncio::event_loop loop;
        {
            const auto inside = loop.enter();
            make_chain(chain);
        }
        loop.run_once();
        return std::int64_t{1};
    });
    CHECK(ended == 1);
}

// Beyond some depth a child is no longer started within its parent's await. The order of things
// must not show where that happens.
asyncio::coro<std::int64_t> descend_unseen(std::int64_t levels, const bool& other_ran) {
    if (other_ran) co_return -1'000'000'000;
    if (levels == 0) co_return 0;
    const std::int64_t below = co_await descend_unseen(levels - 1, other_ran);
    if (other_ran) co_return -1'000'000'000;
    co_return below + 1;
}

TEST_CASE("no other callback runs while a deep recursion goes down and up without suspending") {
    const std::int64_t depth = with_small_stack([] {
        return asyncio::run([]() -> asyncio::coro<std::int64_t> {
            bool other_ran = false;
            asyncio::get_running_loop().call_soon([&] { other_ran = true; });
            const std::int64_t reached = co_await descend_unseen(10'000, other_ran);
            co_await asyncio::sleep(0s);
            co_return other_ran ? reached : -1;
        });
    });
    CHECK(depth == 10'000);
}

} // TEST_SUITE
