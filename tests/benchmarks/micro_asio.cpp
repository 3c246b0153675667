// Micro benchmarks, peer: asio's coroutines (Debian: libasio-dev), used as its manual shows them.
#include "micro.hpp"

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/detached.hpp>
#include <asio/experimental/channel.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>

#include <chrono>
#include <exception>

namespace {

using asio::awaitable;
using asio::use_awaitable;
using micro::batch;
using micro::cpu_ns;
using micro::expect;
using micro::measurement;

[[gnu::noinline]] awaitable<std::uint64_t> child(std::uint64_t value) {
    co_return value;
}

awaitable<measurement> await_children(std::uint64_t n) {
    std::uint64_t sum = 0;
    const std::int64_t start = cpu_ns();
    for (std::uint64_t i = 0; i < n; ++i) sum += co_await child(i);
    const std::int64_t end = cpu_ns();
    expect(sum == n * (n - 1) / 2, "asio: await");
    co_return measurement{static_cast<double>(end - start), static_cast<double>(n)};
}

awaitable<std::uint64_t> fib(unsigned n) {
    if (n < 2) co_return n;
    const std::uint64_t one = co_await fib(n - 1);
    const std::uint64_t two = co_await fib(n - 2);
    co_return one + two;
}

awaitable<measurement> call_fib(std::uint64_t n) {
    std::uint64_t calls = 0;
    const std::int64_t start = cpu_ns();
    while (calls < n) {
        const std::uint64_t value = co_await fib(micro::fib_argument);
        expect(value == micro::fib_result, "asio: fib");
        calls += micro::fib_calls;
    }
    const std::int64_t end = cpu_ns();
    co_return measurement{static_cast<double>(end - start), static_cast<double>(calls)};
}

// asio has no task handle to await; the one that ends last wakes the parent.
awaitable<measurement> spawn_and_join(std::uint64_t n) {
    const auto executor = co_await asio::this_coro::executor;
    asio::steady_timer all_done(executor);
    std::uint64_t sum = 0;
    std::uint64_t spawned = 0;
    const std::int64_t start = cpu_ns();
    while (spawned < n) {
        std::uint64_t left = batch;
        all_done.expires_at(std::chrono::steady_clock::time_point::max());
        for (std::uint64_t i = 0; i < batch; ++i) {
            asio::co_spawn(executor, child(i), [&](std::exception_ptr, std::uint64_t value) {
                sum += value;
                if (--left == 0) all_done.cancel();
            });
        }
        asio::error_code cancelled;
        co_await all_done.async_wait(asio::redirect_error(use_awaitable, cancelled));
        spawned += batch;
    }
    const std::int64_t end = cpu_ns();
    expect(sum == spawned / batch * (batch * (batch - 1) / 2), "asio: spawn");
    co_return measurement{static_cast<double>(end - start), static_cast<double>(spawned)};
}

awaitable<measurement> yield_to_the_loop(std::uint64_t n) {
    const auto executor = co_await asio::this_coro::executor;
    const std::int64_t start = cpu_ns();
    for (std::uint64_t i = 0; i < n; ++i) co_await asio::post(executor, use_awaitable);
    const std::int64_t end = cpu_ns();
    co_return measurement{static_cast<double>(end - start), static_cast<double>(n)};
}

using channel = asio::experimental::channel<void(asio::error_code, int)>;

awaitable<void> produce(channel& queue, std::uint64_t n) {
    for (std::uint64_t i = 0; i < n; ++i) {
        co_await queue.async_send({}, static_cast<int>(i & 1), use_awaitable);
    }
}

awaitable<measurement> pass_through_a_queue(std::uint64_t n) {
    const auto executor = co_await asio::this_coro::executor;
    channel queue(executor, 1);
    std::uint64_t sum = 0;
    const std::int64_t start = cpu_ns();
    asio::co_spawn(executor, produce(queue, n), asio::detached);
    for (std::uint64_t i = 0; i < n; ++i) {
        const int item = co_await queue.async_receive(use_awaitable);
        sum += static_cast<unsigned>(item);
    }
    const std::int64_t end = cpu_ns();
    expect(sum == n / 2, "asio: queue");
    co_return measurement{static_cast<double>(end - start), static_cast<double>(n)};
}

awaitable<void> sleeper(asio::steady_timer& all_done, std::uint64_t& left, std::int64_t delay) {
    asio::steady_timer timer(co_await asio::this_coro::executor, std::chrono::nanoseconds(delay));
    co_await timer.async_wait(use_awaitable);
    if (--left == 0) all_done.cancel();
}

awaitable<measurement> sleep_many(std::uint64_t n) {
    const auto executor = co_await asio::this_coro::executor;
    asio::steady_timer all_done(executor, std::chrono::steady_clock::time_point::max());
    micro::random_delay delays;
    std::uint64_t left = n;
    const double before = micro::resident_bytes();
    const std::int64_t start = cpu_ns();
    for (std::uint64_t i = 0; i < n; ++i) {
        asio::co_spawn(executor, sleeper(all_done, left, delays.next_ns()), asio::detached);
    }
    co_await asio::post(executor, use_awaitable);
    const double bytes = micro::resident_bytes() - before;
    asio::error_code cancelled;
    if (left != 0) co_await all_done.async_wait(asio::redirect_error(use_awaitable, cancelled));
    const std::int64_t end = cpu_ns();
    co_return measurement{static_cast<double>(end - start), static_cast<double>(n), bytes};
}

template <awaitable<measurement> (*Body)(std::uint64_t)>
measurement on_a_loop(std::uint64_t n) {
    asio::io_context context(1);
    measurement result;
    asio::co_spawn(context, Body(n), [&](std::exception_ptr error, measurement measured) {
        if (error) std::rethrow_exception(error);
        result = measured;
    });
    context.run();
    return result;
}

const micro::registered rows[] = {
    {"await", "asio", on_a_loop<await_children>},
    {"fib", "asio", on_a_loop<call_fib>},
    {"spawn", "asio", on_a_loop<spawn_and_join>},
    {"yield", "asio", on_a_loop<yield_to_the_loop>},
    {"queue", "asio", on_a_loop<pass_through_a_queue>},
    {"sleeping", "asio", on_a_loop<sleep_many>},
};

} // namespace
