// A part of such a program: PART is the name of its function, VERSION that of its header.
#if defined(OWN_ALLOCATOR)
#include <cstdlib>
static int allocations = 0;
static void* counted(std::size_t size) {
    ++allocations;
    return std::malloc(size);
}
#define ASYNCIO_ALLOC(size) counted(size)
#define ASYNCIO_FREE(p, size) std::free(p)
#endif

#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"

using namespace std::chrono_literals;

static_assert(ASYNCIO_VERSION == VERSION);

static asyncio::coro<int> answer() {
#if defined(ASYNCIO_NO_EXCEPTIONS)
    auto late = asyncio::wait_for(asyncio::event().wait(), 1ms);
    const auto ended = co_await asyncio::as_outcome(std::move(late));
    if (!ended && ended.error().holds<asyncio::timeout_error>()) co_return 42;
#else
    try {
        co_await asyncio::wait_for(asyncio::event().wait(), 1ms);
    } catch (const asyncio::timeout_error&) {
        co_return 42;
    }
#endif
    co_return 0;
}

[[gnu::visibility("default")]] int PART();
int PART() {
    const int result = asyncio::run(answer());
#if defined(OWN_ALLOCATOR)
    if (allocations == 0) return 0;
#endif
    return result;
}
