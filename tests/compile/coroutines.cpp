// Coroutines that would never run, or run twice.
// WRONG=1 says: nodiscard|unused-result|unused-value
// WRONG=2 says: std::move
// WRONG=3 says: deleted
#include "asyncio.hpp"

using namespace std::chrono_literals;

#if !defined(WRONG)
#define WRONG 0
#endif

static asyncio::coro<int> answer() { co_return 42; }

static asyncio::coro<> async_main() {
    // A coroutine that nobody awaits does nothing.
#if WRONG == 1
    answer();
#else
    co_await answer();
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

    // A task may be awaited as often as one likes.
    auto task = asyncio::create_task(answer());
    co_await task;
    co_await task;
}

int main() { return asyncio::run_main(async_main()); }
