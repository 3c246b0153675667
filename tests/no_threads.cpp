// ASYNCIO_NO_THREADS on a system that has threads: what is not there, and what the loop's thread
// does instead. The library is in here; everywhere.cpp, in the same program, tests the rest.
#if !defined(ASYNCIO_NO_THREADS) // as all of the program is
#define ASYNCIO_NO_THREADS
#endif
#define ASYNCIO_IMPLEMENTATION
#include "support.hpp"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <span>
#include <string>
#include <system_error>
#include <type_traits>

// Found as asyncio::NAME only where the library has nothing of that name.
namespace absent {
constexpr int to_thread = 1, run_in_executor = 1, concurrent_future = 1, thread_pool_executor = 1,
              isolated_executor = 1, fork_job = 1, worker_main = 1, run_per_core = 1, process = 1,
              create_subprocess_exec = 1, read_file = 1, write_file = 1, file = 1;
}
namespace asyncio {
using namespace absent;
}

namespace {

// A transport that keeps what is sent.
struct keeping {
    explicit keeping(std::string& text) : kept(&text) {}
    asyncio::coro<std::size_t> recv(std::span<std::byte>) { co_return 0; }
    asyncio::coro<std::size_t> send(std::span<const std::byte> data) {
        kept->append(reinterpret_cast<const char*>(data.data()), data.size());
        co_return data.size();
    }
    asyncio::coro<> shutdown() { co_return; }

    std::string* kept;
};

// A signal comes in the middle of anything, also of taking another one.
static_assert(std::is_same_v<decltype(asyncio::detail::loop_core::pending_signals),
                             std::atomic<std::uint64_t>>);

template <class Loop>
concept has_executors = requires(Loop& loop) { loop.default_executor; };

} // namespace

TEST_SUITE("no threads") {

TEST_CASE("executors, processes, files and run_per_core() are not there") {
    constexpr int missing =
        asyncio::to_thread + asyncio::run_in_executor + asyncio::concurrent_future +
        asyncio::thread_pool_executor + asyncio::isolated_executor + asyncio::fork_job +
        asyncio::worker_main + asyncio::run_per_core + asyncio::process +
        asyncio::create_subprocess_exec + asyncio::read_file + asyncio::write_file + asyncio::file;
    CHECK(missing == 13);
    CHECK_FALSE(has_executors<asyncio::event_loop>);
}

#if defined(__linux__)

// Sanitizers bring their own.
TEST_CASE("the program takes nothing from the system that starts threads" *
          doctest::skip(support::sanitized)) {
    const std::string command =
        "nm -D --undefined-only " + std::filesystem::read_symlink("/proc/self/exe").string();
    std::FILE* const pipe = ::popen(command.c_str(), "r");
    REQUIRE(pipe != nullptr);
    std::string names;
    for (int c = std::getc(pipe); c != EOF; c = std::getc(pipe)) names += static_cast<char>(c);
    REQUIRE(::pclose(pipe) == 0);
    CHECK(names.find(" epoll_create1") != std::string::npos);
    for (const char* start : {"pthread_create", "thread15_M_start_thread", "thrd_create", " clone"})
        CHECK_MESSAGE(names.find(start) == std::string::npos, start);
}

#endif

ASYNC_TEST_CASE("names are looked up on the loop's thread, which waits for them") {
    auto looking = asyncio::create_task(asyncio::getaddrinfo("localhost", "80"));
    co_await support::turns(1);
    REQUIRE(looking.done());
    CHECK(looking.result().at(0).port() == 80);
    auto failing = asyncio::create_task(asyncio::getaddrinfo("", "no-such-service"));
    co_await support::turns(1);
    CHECK(failing.done());
    CHECK_AWAIT_THROWS_WITH_AS(failing, "look-up of no-such-service", std::system_error);
}

ASYNC_TEST_CASE("a file that the system cannot send is read on the loop's thread") {
    std::FILE* const file = std::tmpfile();
    REQUIRE(file != nullptr);
    const std::string contents(300'000, 'x');
    std::fwrite(contents.data(), 1, contents.size(), file);
    std::fflush(file);
    std::string kept;
    {
        auto [reader, writer] = asyncio::make_streams(keeping(kept));
        const std::size_t sent = co_await writer.sendfile(::fileno(file), 1000);
        CHECK(sent == contents.size() - 1000);
        CHECK_AWAIT_THROWS_WITH_AS(writer.sendfile(-1), "pread", std::system_error);
        writer.close();
        co_await writer.wait_closed();
    }
    std::fclose(file);
    CHECK(kept == contents.substr(1000));
}

TEST_CASE("a host is told of what is posted; its handler may take itself away") {
    asyncio::event_loop loop({.clock = asyncio::clock_kind::manual});
    int told = 0;
    loop.set_wake_handler([&] { ++told; });
    loop.call_soon_threadsafe([] {});
    loop.call_soon_threadsafe([] {});
    CHECK(told == 1);
    CHECK(loop.poll() == 2);
    loop.set_wake_handler([&] {
        ++told;
        loop.set_wake_handler({});
    });
    loop.call_soon_threadsafe([] {});
    CHECK(told == 2);
    CHECK(loop.poll() == 1);
    loop.call_soon_threadsafe([] {});
    CHECK(told == 2);
}

} // TEST_SUITE
