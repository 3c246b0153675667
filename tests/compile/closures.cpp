// A lambda with captures that have destructors, written inside a co_await expression: g++ up to 12
// destroys such a closure twice, so the functions that are usually awaited at once reject it.
// WRONG=1 on g++ 12 says: name the lambda first
// WRONG=2 on g++ 12 says: name the lambda first
// WRONG=3 on g++ 12 says: name the lambda first
// WRONG=4 on g++ 12 says: name the lambda first
// WRONG=5 on g++ 12 says: name the lambda first
// WRONG=6 on g++ 12 says: name the lambda first
// WRONG=7 on g++ 12 says: name the lambda first
// WRONG=8 on g++ 12 says: name the lambda first
#include "asyncio.hpp"

using namespace std::chrono_literals;

#if !defined(WRONG)
#define WRONG 0
#endif

asyncio::coro<> async_main();

asyncio::coro<> async_main() {
    const std::string text = "a text that is too long to live inside the string object itself";
    int count = 0;

    // References, pointers and numbers may be captured, and a lambda with a name anything.
    const auto named = [text]() -> asyncio::coro<std::size_t> { co_return text.size(); };
    const auto plain = [text] { return text.size(); };
    const auto body = [text](asyncio::task_group&) {};
    const auto client = [text](asyncio::stream_reader,
                               asyncio::stream_writer writer) -> asyncio::coro<> {
        writer.close();
        co_await asyncio::sleep(0s);
    };

#if WRONG == 1
    co_await asyncio::with(asyncio::task_group(), [text](asyncio::task_group&) {});
#else
    co_await asyncio::with(asyncio::task_group(), body);
    co_await asyncio::with(asyncio::task_group(), [&text, &count](asyncio::task_group&) {
        count += static_cast<int>(text.size());
    });
#endif

#if WRONG == 2
    co_await asyncio::wait_for([text]() -> asyncio::coro<std::size_t> { co_return text.size(); },
                               1s);
#else
    co_await asyncio::wait_for(named, 1s);
    co_await asyncio::wait_for([&text]() -> asyncio::coro<std::size_t> { co_return text.size(); },
                               1s);
#endif

#if WRONG == 3
    co_await asyncio::gather([text]() -> asyncio::coro<std::size_t> { co_return text.size(); },
                             named);
#else
    co_await asyncio::gather(named,
                             [&text]() -> asyncio::coro<std::size_t> { co_return text.size(); });
#endif

#if WRONG == 4
    co_await asyncio::retry([text]() -> asyncio::coro<std::size_t> { co_return text.size(); }, {});
#else
    co_await asyncio::retry(named, {});
    co_await asyncio::retry([count]() -> asyncio::coro<int> { co_return count; }, {});
#endif

#if WRONG == 5
    co_await asyncio::run_in_executor(nullptr, [text] { return text.size(); });
#else
    co_await asyncio::run_in_executor(nullptr, plain);
    co_await asyncio::run_in_executor(nullptr, [&text] { return text.size(); });
#endif

#if WRONG == 6
    co_await asyncio::to_thread([text] { return text.size(); });
#else
    co_await asyncio::to_thread(plain);
    co_await asyncio::to_thread([count](int more) { return count + more; }, 1);
#endif

#if WRONG == 7
    asyncio::server server = co_await asyncio::start_server(
        [text](asyncio::stream_reader, asyncio::stream_writer) -> asyncio::coro<> { co_return; },
        "127.0.0.1", 0);
#else
    asyncio::server server = co_await asyncio::start_server(client, "127.0.0.1", 0);
#endif
    server.close();

#if WRONG == 8
    co_await asyncio::fork_job([text] { return text.size(); });
#else
    co_await asyncio::fork_job(plain);
    co_await asyncio::fork_job([&text] { return text.size(); });
#endif
}

int main() { return asyncio::run_main(async_main()); }
