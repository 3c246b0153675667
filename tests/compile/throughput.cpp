// What retry(), map() and their kin call must give something to await.
// WRONG=1 says: write retry\(\[\] \{ return fetch\(\); \}\)
// WRONG=2 says: asyncio::retry: it calls a function anew
// WRONG=3 says: asyncio::map: .*to_thread\(fn, item\)
// WRONG=4 says: asyncio::map_stream: .*to_thread\(fn, item\)
// WRONG=5 says: instead of call\(fetch\(\)\)
#include "asyncio.hpp"

#include <utility>
#include <vector>

#if !defined(WRONG)
#define WRONG 0
#endif

static asyncio::coro<int> fetch() { co_return 42; }
static asyncio::coro<int> fetch_page(int number) { co_return number; }
static int page_now(int number) { return number; }
static asyncio::coro<int> page_on_a_thread(int number) {
    co_return co_await asyncio::to_thread(page_now, number);
}
static asyncio::coro<int> counted(const asyncio::attempt& call) { co_return call.number; }

static asyncio::coro<> async_main() {
    // A coroutine runs once; another attempt needs another one.
#if WRONG == 1
    co_await asyncio::retry(fetch());
#endif
#if WRONG == 2
    co_await asyncio::retry([] { return 42; });
#endif
    co_await asyncio::retry(fetch);
    co_await asyncio::retry([] { return fetch(); });
    co_await asyncio::retry(counted);

    std::vector<int> numbers = {1, 2, 3};
#if WRONG == 3
    auto pages = co_await asyncio::map(numbers, page_now);
#else
    auto pages = co_await asyncio::map(numbers, fetch_page);
    pages = co_await asyncio::map(numbers, page_on_a_thread);
#endif
    static_cast<void>(pages);

#if WRONG == 4
    auto stream = asyncio::map_stream(numbers, page_now);
#else
    auto stream = asyncio::map_stream(numbers, fetch_page);
#endif
    static_cast<void>(stream);

    // A breaker that is open calls nothing; the coroutine would be made all the same.
    asyncio::circuit_breaker breaker;
#if WRONG == 5
    co_await breaker.call(fetch());
#else
    co_await breaker.call(fetch);
    co_await breaker.call([] { return fetch(); });
#endif
}

int main() { return asyncio::run_main(async_main()); }
