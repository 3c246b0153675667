// A loop that JavaScript drives: it calls start() once, then poll() whenever next_deadline_ms() is
// over, and press() when something happens outside. Nothing in here blocks.
#include <cstdint>

extern "C" {
[[clang::import_module("host"), clang::import_name("now_ms")]] double host_now_ms();
[[clang::import_module("host"), clang::import_name("say")]] void host_say(const char* text);
[[clang::import_module("host"), clang::import_name("ended")]] void host_ended();
}

#define ASYNCIO_FATAL(text) host_say(text)
#define ASYNCIO_BACKEND_NONE
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
using namespace std::chrono_literals;

extern "C" std::int64_t asyncio_port_now_ns() {
    return static_cast<std::int64_t>(host_now_ms() * 1e6);
}
// Only a loop that runs by itself idles; this one is polled.
extern "C" void asyncio_port_idle(std::int64_t) { host_say("the loop wants to sleep"); }

namespace {

asyncio::isr_event button;

asyncio::coro<> tick(asyncio::queue<int>& numbers) {
    for (int i = 1; i <= 3; ++i) {
        co_await asyncio::sleep(20ms);
        co_await numbers.put(i);
    }
    numbers.shutdown();
}

asyncio::coro<> program() {
    asyncio::queue<int> numbers(1);
    auto ticking = asyncio::create_task(tick(numbers));
    for (;;) {
        const std::optional<int> number = co_await numbers.next();
        if (!number) break;
        host_say(("number " + std::to_string(*number)).c_str());
    }
    const auto late = co_await asyncio::as_outcome(asyncio::wait_for(button.wait(), 30ms));
    host_say(late ? "pressed" : late.error().holds<asyncio::timeout_error>() ? "late" : "failed");
    host_say("press");
    co_await button.wait();
    host_say("pressed");
    co_await ticking;
    host_ended();
}

asyncio::event_loop* loop = nullptr;

} // namespace

extern "C" {

[[clang::export_name("start")]] void start() {
    loop = new asyncio::event_loop;
    loop->create_task(program());
}
[[clang::export_name("poll")]] void poll() { loop->poll(); }
[[clang::export_name("press")]] void press() { button.set(); }

// Negative: not before something happens outside.
[[clang::export_name("next_deadline_ms")]] double next_deadline_ms() {
    const std::optional<asyncio::duration> left = loop->next_deadline();
    return left ? static_cast<double>(left->count()) * 1e-6 : -1;
}

} // extern "C"
