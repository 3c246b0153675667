// Coroutines that would never run, or run twice.
// WRONG=1 says: nodiscard|unused-result|unused-value
// WRONG=2 says: std::move
// WRONG=3 says: deleted
// WRONG=4 says: create_task\(std::move
// WRONG=5 says: gather\(std::move
// WRONG=6 says: call a function first
// WRONG=7 says: returns a coroutine
// WRONG=8 says: yield a pointer
// WRONG=9 says: takes nothing, or a reference
// WRONG=10 says: gives a bool
// WRONG=11 says: nothing happens without co_await
// WRONG=12 says: nothing happens without co_await
// WRONG=13 says: let it make a task
// WRONG=14 says: let it make a task
// WRONG=15 says: let it make a task
#include "asyncio.hpp"

#include <utility>
#include <vector>

using namespace std::chrono_literals;

#if !defined(WRONG)
#define WRONG 0
#endif

static asyncio::coro<int> answer() { co_return 42; }

struct manager {
    asyncio::coro<> aenter() { co_return; }
#if WRONG == 10
    asyncio::coro<> aexit(std::exception_ptr) { co_return; }
#else
    asyncio::coro<bool> aexit(std::exception_ptr) { co_return false; }
#endif
};

#if WRONG == 8
static asyncio::async_generator<int&> places();
static asyncio::async_generator<int&> places() {
    static int place = 0;
    co_yield place;
}
#endif

static asyncio::coro<> async_main() {
    // A coroutine that nobody awaits does nothing.
#if WRONG == 1
    answer();
#else
    co_await answer();
#endif

    // Nor does what the library's functions return.
    asyncio::queue<int> queue;
#if WRONG == 11
    asyncio::sleep(1ms);
#else
    co_await asyncio::sleep(1ms);
#endif
#if WRONG == 12
    queue.put(42);
#else
    co_await queue.put(42);
#endif

    // Awaiting uses a coroutine up, so that a named one is moved.
    auto later = answer();
#if WRONG == 2
    co_await later;
#else
    co_await std::move(later);
#endif

    // It has one owner.
    auto owner = answer();
#if WRONG == 3
    auto other = owner;
#else
    auto other = std::move(owner);
#endif
    co_await std::move(other);

    // A task, too, takes it over.
    auto work = answer();
#if WRONG == 4
    auto of_work = asyncio::create_task(work);
#else
    auto of_work = asyncio::create_task(std::move(work));
#endif
    co_await of_work;
    std::vector<asyncio::coro<int>> works;
    works.push_back(answer());
#if WRONG == 5
    co_await asyncio::gather(works);
#else
    co_await asyncio::gather(std::move(works));
#endif

    // A function is no coroutine.
    auto function = [] { return answer(); };
#if WRONG == 6
    co_await function;
#else
    co_await function();
#endif
#if WRONG == 7
    co_await asyncio::create_task([](int n) { return n; }, 42);
#endif

    // What with() takes.
#if WRONG == 9
    co_await asyncio::with(manager(), [](int) {});
#else
    co_await asyncio::with(manager(), [](manager&) {});
#endif

    // A task may be awaited as often as one likes.
    auto task = asyncio::create_task(answer());
    co_await task;
    co_await task;

    // Callbacks are called, and not awaited.
    asyncio::event_loop& loop = asyncio::get_running_loop();
#if WRONG == 13
    loop.call_soon([] { return answer(); });
#else
    loop.call_soon([] { return asyncio::create_task(answer()); });
#endif
#if WRONG == 14
    task.add_done_callback([](const asyncio::task<int>&) { return answer(); });
#else
    task.add_done_callback([](const asyncio::task<int>&) { return 1; });
#endif
#if WRONG == 15
    loop.add_signal_handler(2, &answer);
#else
    loop.remove_signal_handler(2);
#endif
}

int main() { return asyncio::run_main(async_main()); }
