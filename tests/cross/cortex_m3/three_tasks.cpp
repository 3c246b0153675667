// The loop with three tasks, timers and an interrupt, and nothing else: what that needs of flash
// and RAM. All memory comes from an array, and none of it goes back.
#include <cstddef>
#include <cstdint>

extern "C" [[noreturn]] void _exit(int code);

static void say(const char* text) {
    register int operation asm("r0") = 4; // SYS_WRITE0
    register const char* argument asm("r1") = text;
    asm volatile("bkpt 0xAB" : "+r"(operation) : "r"(argument) : "memory");
}
[[noreturn]] static void give_up(const char* text) {
    say(text);
    _exit(1);
}
#define ASYNCIO_FATAL(text) give_up(text)
#define ASYNCIO_BACKEND_NONE
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
using namespace std::chrono_literals;

alignas(8) static char memory[4096];
static std::size_t used;
static std::size_t used_at_100_ms; // all three run by then
void* operator new(std::size_t size) {
    size = (size + 7) & ~std::size_t(7);
    if (size > sizeof memory - used) give_up("three_tasks: no memory is left\n");
    return memory + std::exchange(used, used + size);
}
void operator delete(void*) noexcept {}
void operator delete(void*, std::size_t) noexcept {}

static volatile std::uint32_t milliseconds = 0;
static asyncio::isr_event tenth_of_a_second;

extern "C" void systick_handler() {
    milliseconds = milliseconds + 1;
    if (milliseconds == 100) used_at_100_ms = used;
    if (milliseconds % 100 == 0) tenth_of_a_second.set();
}
extern "C" std::int64_t asyncio_port_now_ns() { return std::int64_t(milliseconds) * 1'000'000; }
extern "C" void asyncio_port_idle(std::int64_t) {
    asm volatile("cpsid i" ::: "memory");
    if (!asyncio::isr_event::pending()) asm volatile("wfi");
    asm volatile("cpsie i" ::: "memory");
}

static void say(std::size_t number, const char* after) {
    char digits[12];
    char* at = digits + sizeof digits;
    *--at = '\0';
    do *--at = static_cast<char>('0' + number % 10);
    while ((number /= 10) > 0);
    say(at);
    say(after);
}

static int blinked = 0;
static asyncio::coro<> blink(int times, asyncio::duration period) {
    for (; times > 0; --times) {
        co_await asyncio::sleep(period);
        ++blinked;
    }
}
static asyncio::coro<> watch(int times) {
    for (; times > 0; --times) co_await tenth_of_a_second.wait();
}

int main() {
    auto* const systick = reinterpret_cast<volatile std::uint32_t*>(0xE000E010);
    systick[1] = 25'000'000 / 1000 - 1; // 25 MHz
    systick[2] = 0;
    systick[0] = 7;

    asyncio::event_loop loop;
    const std::size_t for_the_loop = used;
    loop.create_task(blink(10, 20ms));
    const std::size_t for_a_task = used - for_the_loop;
    loop.create_task(blink(5, 30ms));
    loop.run_until_complete(watch(3));
    say(for_the_loop, " bytes of memory for the loop, ");
    say(for_a_task, " for a task that sleeps, ");
    say(used, " in all, ");
    say(used - used_at_100_ms, " of it after 100 ms\n");
    if (blinked == 15 && milliseconds == 300 && used == used_at_100_ms) return 0;
    say(milliseconds, " ms, ");
    say(static_cast<std::size_t>(blinked), " blinks\n");
    return 1;
}
