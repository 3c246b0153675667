// Functions that want tasks, and the wrong kind of executor.
// WRONG=1 says: create_task
// WRONG=2 says: thread_pool_executor
// WRONG=3 says: a number has no unit
// WRONG=4 says: give a std::unique_ptr to it
// WRONG=5 says: which no thread would run
#include "asyncio.hpp"

using namespace std::chrono_literals;

#if !defined(WRONG)
#define WRONG 0
#endif

static asyncio::coro<int> answer() { co_return 42; }

#if WRONG == 4
struct alignas(64) line {
    char bytes[64];
};
#else
struct line {
    char bytes[64];
};
#endif

static asyncio::coro<> async_main() {
    const asyncio::future<line> kept = asyncio::create_future<line>();
    kept.set_result(line{});

    // A coroutine given to wait() could not be recognised in what comes back.
#if WRONG == 1
    auto result = co_await asyncio::wait(answer(), answer());
#else
    auto first = asyncio::create_task(answer());
    auto second = asyncio::create_task(answer());
    auto result = co_await asyncio::wait(first, second);
#endif
    static_cast<void>(result);

    // Python's asyncio.sleep(1).
#if WRONG == 3
    co_await asyncio::sleep(1);
#else
    co_await asyncio::sleep(1ms);
#endif

    // The default executor runs what to_thread() is given, which no process can.
    auto& loop = asyncio::get_running_loop();
#if WRONG == 2
    loop.set_default_executor(std::make_shared<asyncio::isolated_executor>(1));
#else
    loop.set_default_executor(std::make_shared<asyncio::thread_pool_executor>(1));
#endif
#if WRONG == 5
    co_await asyncio::to_thread(answer);
#else
    co_await asyncio::to_thread([] { return asyncio::run(answer()); });
#endif
}

int main() {
    asyncio::worker_main();
    return asyncio::run_main(async_main());
}
