// Micro benchmarks: asyncio.hpp, written as a user would write it.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include "micro.hpp"

#include <chrono>
#include <vector>

namespace {

using namespace std::chrono_literals;
using micro::batch;
using micro::cpu_ns;
using micro::expect;
using micro::measurement;

[[gnu::noinline]] asyncio::coro<std::uint64_t> child(std::uint64_t value) {
    co_return value;
}

asyncio::coro<measurement> await_children(std::uint64_t n) {
    std::uint64_t sum = 0;
    const std::int64_t start = cpu_ns();
    for (std::uint64_t i = 0; i < n; ++i) sum += co_await child(i);
    const std::int64_t end = cpu_ns();
    expect(sum == n * (n - 1) / 2, "asyncio.hpp: await");
    co_return measurement{static_cast<double>(end - start), static_cast<double>(n)};
}

asyncio::coro<std::uint64_t> fib(unsigned n) {
    if (n < 2) co_return n;
    const std::uint64_t one = co_await fib(n - 1);
    const std::uint64_t two = co_await fib(n - 2);
    co_return one + two;
}

asyncio::coro<measurement> call_fib(std::uint64_t n) {
    std::uint64_t calls = 0;
    const std::int64_t start = cpu_ns();
    while (calls < n) {
        const std::uint64_t value = co_await fib(micro::fib_argument);
        expect(value == micro::fib_result, "asyncio.hpp: fib");
        calls += micro::fib_calls;
    }
    const std::int64_t end = cpu_ns();
    co_return measurement{static_cast<double>(end - start), static_cast<double>(calls)};
}

asyncio::coro<measurement> spawn_and_join(std::uint64_t n) {
    std::vector<asyncio::task<std::uint64_t>> tasks;
    tasks.reserve(batch);
    std::uint64_t sum = 0;
    std::uint64_t spawned = 0;
    const std::int64_t start = cpu_ns();
    while (spawned < n) {
        for (std::uint64_t i = 0; i < batch; ++i) tasks.push_back(asyncio::create_task(child(i)));
        for (const auto& one : tasks) sum += co_await one;
        tasks.clear();
        spawned += batch;
    }
    const std::int64_t end = cpu_ns();
    expect(sum == spawned / batch * (batch * (batch - 1) / 2), "asyncio.hpp: spawn");
    co_return measurement{static_cast<double>(end - start), static_cast<double>(spawned)};
}

asyncio::coro<measurement> yield_to_the_loop(std::uint64_t n) {
    const std::int64_t start = cpu_ns();
    for (std::uint64_t i = 0; i < n; ++i) co_await asyncio::sleep(0s);
    const std::int64_t end = cpu_ns();
    co_return measurement{static_cast<double>(end - start), static_cast<double>(n)};
}

asyncio::coro<> produce(asyncio::queue<int>& queue, std::uint64_t n) {
    for (std::uint64_t i = 0; i < n; ++i) co_await queue.put(static_cast<int>(i & 1));
}

asyncio::coro<measurement> pass_through_a_queue(std::uint64_t n) {
    asyncio::queue<int> queue(1);
    std::uint64_t sum = 0;
    const std::int64_t start = cpu_ns();
    const auto producer = asyncio::create_task(produce(queue, n));
    for (std::uint64_t i = 0; i < n; ++i) {
        const int item = co_await queue.get();
        sum += static_cast<unsigned>(item);
    }
    const std::int64_t end = cpu_ns();
    co_await producer;
    expect(sum == n / 2, "asyncio.hpp: queue");
    co_return measurement{static_cast<double>(end - start), static_cast<double>(n)};
}

asyncio::coro<> sleeper(asyncio::future<void> all_done, std::uint64_t& left, std::int64_t delay) {
    co_await asyncio::sleep(std::chrono::nanoseconds(delay));
    if (--left == 0) all_done.set_result();
}

asyncio::coro<measurement> sleep_many(std::uint64_t n) {
    const auto all_done = asyncio::get_running_loop().create_future<void>();
    micro::random_delay delays;
    std::uint64_t left = n;
    const double before = micro::resident_bytes();
    const std::int64_t start = cpu_ns();
    for (std::uint64_t i = 0; i < n; ++i) {
        asyncio::create_task(sleeper(all_done, left, delays.next_ns()));
    }
    co_await asyncio::sleep(0s); // all of them sleep now
    const double bytes = micro::resident_bytes() - before;
    co_await all_done;
    const std::int64_t end = cpu_ns();
    co_return measurement{static_cast<double>(end - start), static_cast<double>(n), bytes};
}

template <asyncio::coro<measurement> (*Body)(std::uint64_t)>
measurement on_a_loop(std::uint64_t n) {
    return asyncio::run(Body(n));
}

const micro::registered rows[] = {
    {"await", micro::ours, on_a_loop<await_children>},
    {"fib", micro::ours, on_a_loop<call_fib>},
    {"spawn", micro::ours, on_a_loop<spawn_and_join>},
    {"yield", micro::ours, on_a_loop<yield_to_the_loop>},
    {"queue", micro::ours, on_a_loop<pass_through_a_queue>},
    {"sleeping", micro::ours, on_a_loop<sleep_many>},
};

} // namespace
