// Micro benchmarks, peer: libuv's timers and idle handles (Debian: libuv1-dev). It has callbacks
// and no coroutines, so it has no row for the operations on children and queues.
#include "micro.hpp"

#include <uv.h>

#include <vector>

namespace {

using micro::cpu_ns;
using micro::measurement;

measurement yield_to_the_loop(std::uint64_t n) {
    uv_loop_t loop;
    uv_loop_init(&loop);
    uv_idle_t idle;
    uv_idle_init(&loop, &idle);
    std::uint64_t left = n;
    idle.data = &left;
    uv_idle_start(&idle, [](uv_idle_t* handle) {
        if (--*static_cast<std::uint64_t*>(handle->data) == 0) uv_idle_stop(handle);
    });
    const std::int64_t start = cpu_ns();
    uv_run(&loop, UV_RUN_DEFAULT);
    const std::int64_t end = cpu_ns();
    uv_close(reinterpret_cast<uv_handle_t*>(&idle), nullptr);
    uv_run(&loop, UV_RUN_DEFAULT);
    uv_loop_close(&loop);
    return {static_cast<double>(end - start), static_cast<double>(n)};
}

measurement sleep_many(std::uint64_t n) {
    uv_loop_t loop;
    uv_loop_init(&loop);
    micro::random_delay delays;
    const double before = micro::resident_bytes();
    const std::int64_t start = cpu_ns();
    std::vector<uv_timer_t> timers(n);
    for (uv_timer_t& timer : timers) {
        uv_timer_init(&loop, &timer);
        const auto milliseconds =
            static_cast<std::uint64_t>(delays.next_ns() + 999'999) / 1'000'000;
        uv_timer_start(
            &timer, [](uv_timer_t*) {}, milliseconds, 0);
    }
    const double bytes = micro::resident_bytes() - before;
    uv_run(&loop, UV_RUN_DEFAULT);
    const std::int64_t end = cpu_ns();
    uv_loop_close(&loop);
    return {static_cast<double>(end - start), static_cast<double>(n), bytes};
}

const micro::registered rows[] = {
    {"yield", "libuv idle", yield_to_the_loop},
    {"sleeping", "libuv timers", sleep_many},
};

} // namespace
