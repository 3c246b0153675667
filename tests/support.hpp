// What every test file includes: doctest, the header, coroutine test cases and a few helpers.
//
// Everything that needs an OS header is defined in implementation.cpp, which also holds the one
// ASYNCIO_IMPLEMENTATION and doctest's main(), so that a test file compiles fast.
//
// g++ 12 and doctest agree on one rule: never write co_await inside CHECK, a condition or a
// ternary. Await first, check the value afterwards.
#ifndef ASYNCIO_TESTS_SUPPORT_HPP
#define ASYNCIO_TESTS_SUPPORT_HPP

#include "asyncio.hpp"

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#define DOCTEST_CONFIG_VOID_CAST_EXPRESSIONS // CHECK_THROWS of something [[nodiscard]]
#if defined(ASYNCIO_NO_EXCEPTIONS)
#define DOCTEST_CONFIG_NO_EXCEPTIONS_BUT_WITH_ALL_ASSERTS // where REQUIRE goes on as CHECK does
#endif
#include <doctest/doctest.h>

using namespace std::chrono_literals;

namespace support {

/// Whether a sanitizer watches: it adds memory, threads and complaints to a process.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool sanitized = true;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
inline constexpr bool sanitized = true;
#else
inline constexpr bool sanitized = false;
#endif
#else
inline constexpr bool sanitized = false;
#endif

/// Runs `body` with asyncio::run and checks afterwards that no task is pending. With
/// ASYNCIO_TEST_SHUFFLE=N in the environment the loop runs what is ready in the random order
/// that the seed N fixes, unless the options have a seed of their own.
void run_case(asyncio::coro<> (*body)(), asyncio::run_options options);

/// Leaves a test case out when the tests run shuffled: one that asserts the order in which the
/// loop runs what is ready, or is built on it. See ASYNC_TEST_CASE_ORDERED.
doctest::skip asserts_order();

#if !defined(ASYNCIO_BACKEND_NONE)
/// What a thread waits for until another one sets it. std::atomic has a wait() as well, which
/// may sleep for ever with g++ 12 where the system has no futex, as Windows.
class flag {
public:
    void set() {
        const std::lock_guard lock(mutex_);
        set_ = true;
        changed_.notify_all();
    }
    void wait() {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [this] { return set_; });
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool set_ = false;
};
#endif

/// Lets the loop make `count` turns.
asyncio::coro<> turns(int count = 1);

/// what() of any exception: also of those that are no std::exception. Empty for nullptr.
std::string message_of(asyncio::exception_ptr error);

/// The messages of all leaves of an exception group, depth first; of one error if it is no group.
std::vector<std::string> leaf_messages(asyncio::exception_ptr error);

/// True when `error` is an `E` or derived from it.
template <class E>
bool holds(asyncio::exception_ptr error) {
#if defined(ASYNCIO_NO_EXCEPTIONS)
    return asyncio::error(std::move(error)).holds<E>();
#else
    if (!error) return false;
    try {
        std::rethrow_exception(std::move(error));
    } catch (const E&) {
        return true;
    } catch (...) {
        return false;
    }
#endif
}

/// `const auto got = co_await support::catching(x)` never throws, not even when the awaiting task
/// is cancelled there: got.error is null, or what happened; got.value is an optional.
/// `co_await support::fail_with(got.error)` lets it go on. With and without exceptions.
using asyncio::detail::catching;
using asyncio::detail::exception_cast;
using asyncio::detail::fail_with;

/// What run() throws; null when it returns. Without exceptions it is what ends the program there.
template <class A>
asyncio::exception_ptr thrown_by_run(A main, asyncio::run_options options = {}) {
#if defined(ASYNCIO_NO_EXCEPTIONS)
    asyncio::runner owner(options);
    return owner.run_catching(std::move(main)).error;
#else
    try {
        static_cast<void>(asyncio::run(std::move(main), options));
    } catch (...) {
        return std::current_exception();
    }
    return nullptr;
#endif
}

/// Takes what is written to descriptor 2 until taken() or the destructor, and keeps it away
/// from the terminal.
///
///     support::captured_stderr quiet;
///     ... something that complains ...
///     CHECK(quiet.taken() == "...");
class captured_stderr {
public:
    captured_stderr();
    ~captured_stderr();
    captured_stderr(const captured_stderr&) = delete;
    captured_stderr& operator=(const captured_stderr&) = delete;

    /// Ends the capture and gives the text.
    std::string taken();

private:
    void restore();

    std::string text_;
    int file_ = -1;
    int original_ = -1;
};

/// Takes the reports to a loop's exception handler from now on; the loop keeps the list alive.
///
///     const auto reports = support::collect_reports();
///     ...
///     REQUIRE(reports->size() == 1);
///     CHECK(support::message_of(reports->at(0).exception) == "no luck");
std::shared_ptr<std::vector<asyncio::exception_context>> collect_reports(
    asyncio::event_loop& loop = asyncio::get_running_loop());

/// The number that the system gave the calling thread, and a wait until the thread with that
/// number sleeps in the system: for tests about threads that block.
///
///     std::thread waiter([&] {
///         id = support::thread_id(); // an atomic
///         blocks();
///     });
///     support::wait_until_asleep(id);
int thread_id() noexcept;
void wait_until_asleep(const std::atomic<int>& id);

/// This program again, as a child that does one thing, on every system: what to give
/// create_subprocess_exec(). The first word says what, see act() in implementation.cpp.
///
///     process p = co_await asyncio::create_subprocess_exec(
///         support::as_child(asyncio::argv("exit", "3")));
std::vector<std::string> as_child(std::vector<std::string> words);

/// How a child process ended and what it printed.
struct child_result {
    int exit_code = -1; // -1 when a signal ended it
    int signal_number = 0;
    std::string out;
    std::string err;
};

/// Runs `program` in a forked child, for tests about exit codes, signals and output of a whole
/// process. The child ends with the value that `program` returns; one that hangs is killed
/// before this test is. Windows has no fork: there it runs in this process, and a test whose
/// program is to end by a signal is left out.
child_result in_child(const std::function<int()>& program);

} // namespace support

// A test case whose body is a coroutine. The clock is virtual: it stands still while callbacks run
// and jumps to the next timer when nothing is ready, so that waiting an hour takes no time.
// Whatever the body throws fails the test.
//
//     ASYNC_TEST_CASE("LK-01: an uncontended lock is taken at once") {
//         asyncio::lock lock;
//         co_await lock.acquire();
//         CHECK(lock.locked());
//     }
#define ASYNC_TEST_CASE(name)                                                                      \
    ASYNC_TEST_CASE_WITH(name, .debug = false, .clock = asyncio::clock_kind::virtual_time)

// The same for a test that asserts the order in which a turn runs what is ready, or is built on
// it ("the first waiter is the first task that was made"). It is left out when the tests run
// shuffled, which shows that all the others hold in any order.
#define ASYNC_TEST_CASE_ORDERED(name) ASYNC_TEST_CASE(name * support::asserts_order())

// The same on the real clock.
#define ASYNC_TEST_CASE_REAL(name)                                                                 \
    ASYNC_TEST_CASE_WITH(name, .debug = false, .clock = asyncio::clock_kind::real)

// The same with run_options of one's own: ASYNC_TEST_CASE_WITH("name", .debug = true).
#define ASYNC_TEST_CASE_WITH(name, ...)                                                            \
    ASYNC_TEST_CASE_AS(DOCTEST_ANONYMOUS(async_test_case_), name, __VA_ARGS__)

#define ASYNC_TEST_CASE_AS(body, name, ...)                                                        \
    static asyncio::coro<> body();                                                                 \
    TEST_CASE(name) { support::run_case(body, asyncio::run_options{__VA_ARGS__}); }                \
    static asyncio::coro<> body()

#if defined(ASYNCIO_NO_EXCEPTIONS)

// In a coroutine, `throw error`.
#define THROW(error) co_await asyncio::detail::fail_with(asyncio::detail::make_error(error))

// Awaits `expression` and checks that it fails with a `type`.
#define CHECK_AWAIT_THROWS_AS(expression, type)                                                    \
    do {                                                                                           \
        const auto ended_so = co_await support::catching(expression);                              \
        const bool failed_so = support::holds<type>(ended_so.error);                               \
        CHECK_MESSAGE(failed_so, "co_await " #expression " fails with a " #type);                  \
    } while (false)

// The same, and what() contains `text`.
#define CHECK_AWAIT_THROWS_WITH_AS(expression, text, type)                                         \
    do {                                                                                           \
        const auto ended_so = co_await support::catching(expression);                              \
        const bool failed_so = support::holds<type>(ended_so.error);                               \
        CHECK_MESSAGE(failed_so, "co_await " #expression " fails with a " #type);                  \
        if (failed_so) {                                                                           \
            const std::string message_of_it = asyncio::error(ended_so.error).what();               \
            CAPTURE(message_of_it);                                                                \
            CHECK(message_of_it.find(text) != std::string::npos);                                  \
        }                                                                                          \
    } while (false)

#else

#define THROW(error) throw error

// Awaits `expression` and checks that it throws a `type`; another exception leaves the test.
#define CHECK_AWAIT_THROWS_AS(expression, type)                                                    \
    do {                                                                                           \
        bool threw_it = false;                                                                     \
        try {                                                                                      \
            static_cast<void>(co_await (expression));                                              \
        } catch (const type&) {                                                                    \
            threw_it = true;                                                                       \
        }                                                                                          \
        CHECK_MESSAGE(threw_it, "co_await " #expression " throws a " #type);                       \
    } while (false)

// The same, and what() contains `text`.
#define CHECK_AWAIT_THROWS_WITH_AS(expression, text, type)                                         \
    do {                                                                                           \
        bool threw_it = false;                                                                     \
        std::string message_of_it;                                                                 \
        try {                                                                                      \
            static_cast<void>(co_await (expression));                                              \
        } catch (const type& caught) {                                                             \
            threw_it = true;                                                                       \
            message_of_it = caught.what();                                                         \
        }                                                                                          \
        CHECK_MESSAGE(threw_it, "co_await " #expression " throws a " #type);                       \
        if (threw_it) {                                                                            \
            CAPTURE(message_of_it);                                                                \
            CHECK(message_of_it.find(text) != std::string::npos);                                  \
        }                                                                                          \
    } while (false)

#endif // ASYNCIO_NO_EXCEPTIONS

#endif
