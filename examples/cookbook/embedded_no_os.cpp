// Cookbook: tasks, timers, a queue and an interrupt on a chip without operating system and heap.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/embedded_no_os.cpp -o chip && ./chip
//
// That is a rehearsal on a PC, where a timer's signal is the interrupt. And for a Cortex-M3, with
// gcc-arm-none-eabi, libstdc++-arm-none-eabi-newlib and qemu-system-arm (its board mps2-an385):
/*
      arm-none-eabi-g++ -std=c++20 -Os -mthumb -mcpu=cortex-m3 -fno-exceptions -fno-rtti \
          -fno-threadsafe-statics -ffunction-sections -fdata-sections -Wl,--gc-sections -I. \
          -nostartfiles --specs=nano.specs -T tests/cross/cortex_m3/link.ld \
          tests/cross/cortex_m3/start.cpp examples/cookbook/embedded_no_os.cpp -o chip.elf &&
      qemu-system-arm -M mps2-an385 -icount shift=5,sleep=off -nographic -monitor none \
          -semihosting-config enable=on,target=native -serial none -kernel chip.elf </dev/null
*/
// What it teaches: ASYNCIO_BACKEND_NONE asks the program for two functions, a clock and what to do
// when there is nothing to do. An interrupt stores what it has and sets an isr_event.
// Look at: how much of the time the processor sleeps, and where all memory comes from.
#include <cstddef>
#include <cstdint>

void say(const char* text);
[[noreturn]] void give_up(const char* text);
#define ASYNCIO_FATAL(text) give_up(text)
#define ASYNCIO_BACKEND_NONE
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
using namespace std::chrono_literals;

// The sensor interrupts with a measurement, every 20 ms, ten times; then its cable is pulled out.
constexpr unsigned measurements = 10;
volatile int measured[16];
volatile unsigned measured_count = 0;
asyncio::isr_event measured_one;
void sensor_interrupt() {
    const unsigned n = measured_count;
    if (n == measurements) return;
    measured[n] = static_cast<int>(20 + n * n % 7);
    measured_count = n + 1;
    measured_one.set();
}

// -- the port: what a board brings along ----------------------------------------------------------

int idles = 0;
#if defined(__arm__) && !defined(__linux__) && !defined(__APPLE__)

extern "C" [[noreturn]] void _exit(int code);
void say(const char* text) { // to the debugger
    register int operation asm("r0") = 4;
    register const char* argument asm("r1") = text;
    asm volatile("bkpt 0xAB" : "+r"(operation) : "r"(argument) : "memory");
}
void give_up(const char* text) {
    say(text);
    _exit(1);
}
void take_options(int, char**) {}
struct systick_registers {
    volatile std::uint32_t control, reload, value;
};
volatile std::uint32_t milliseconds = 0;
volatile bool asleep = false;
volatile unsigned ticks_asleep = 0; // those that found the processor asleep

extern "C" void systick_handler() {
    milliseconds = milliseconds + 1;
    if (asleep) ticks_asleep = ticks_asleep + 1;
    if (milliseconds % 20 == 0) sensor_interrupt();
}
void start_interrupts() {
    auto* const systick = reinterpret_cast<systick_registers*>(0xE000E010);
    systick->reload = 25'000'000 / 1000 - 1; // 25 MHz
    systick->value = 0;
    systick->control = 7;
}
extern "C" std::int64_t asyncio_port_now_ns() { return std::int64_t(milliseconds) * 1'000'000; }
extern "C" void asyncio_port_idle(std::int64_t) {
    ++idles;
    asm volatile("cpsid i" ::: "memory"); // or an interrupt comes after the look, before the sleep
    asleep = true;
    if (!asyncio::isr_event::pending()) asm volatile("wfi"); // masked interrupts end it as well
    asm volatile("cpsie i" ::: "memory");
    asleep = false;
}
unsigned percent_asleep() { return ticks_asleep * 100 / milliseconds; }

#else // a PC

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <sys/select.h>
#include <sys/time.h>
#include <unistd.h>

void say(const char* text) { std::fputs(text, stdout); }
void give_up(const char* text) {
    std::fputs(text, stderr);
    std::exit(1);
}
void take_options(int argc, char** argv) {
    if (argc == 1) return;
    const bool help = argc == 2 && std::string_view(argv[1]) == "--help";
    std::fputs("Tasks, timers, a queue and an interrupt, without operating system and heap.\n"
               "usage: chip\n",
               help ? stdout : stderr);
    std::exit(help ? 0 : 2);
}
std::int64_t nanoseconds(clockid_t clock) {
    timespec t{};
    ::clock_gettime(clock, &t);
    return std::int64_t(t.tv_sec) * 1'000'000'000 + t.tv_nsec;
}
const std::int64_t begin = nanoseconds(CLOCK_MONOTONIC);
void start_interrupts() {
    std::signal(SIGALRM, [](int) { sensor_interrupt(); });
    const itimerval every{{0, 20'000}, {0, 20'000}};
    ::setitimer(ITIMER_REAL, &every, nullptr);
}
extern "C" std::int64_t asyncio_port_now_ns() { return nanoseconds(CLOCK_MONOTONIC) - begin; }
extern "C" void asyncio_port_idle(std::int64_t ns) { // negative: until an interrupt comes
    ++idles;
    sigset_t masked, before;
    sigemptyset(&masked); // a macro on some systems
    sigaddset(&masked, SIGALRM);
    ::sigprocmask(SIG_BLOCK, &masked, &before);
    timespec most{};
    most.tv_sec = static_cast<time_t>(ns / 1'000'000'000);
    most.tv_nsec = static_cast<long>(ns % 1'000'000'000);
    if (!asyncio::isr_event::pending())
        ::pselect(0, nullptr, nullptr, nullptr, ns < 0 ? nullptr : &most, &before);
    ::sigprocmask(SIG_SETMASK, &before, nullptr);
}
unsigned percent_asleep() {
    return static_cast<unsigned>(
        100 - nanoseconds(CLOCK_PROCESS_CPUTIME_ID) * 100 / asyncio_port_now_ns());
}

#endif

// -- all memory there is: an array, cut into blocks, with a list of free ones for each size -------

class block_arena {
public:
    void* take(std::size_t size) {
        const std::size_t units = (size + sizeof(head) - 1) / sizeof(head) + 1;
        if (units >= std::size(lists_)) give_up("embedded_no_os: no block is that large\n");
        head* block = lists_[units];
        if (block) {
            lists_[units] = block->next;
        } else {
            if (units > std::size(memory_) - used_) give_up("embedded_no_os: no memory is left\n");
            block = memory_ + used_;
            used_ += units;
        }
        block->units = units;
        return block + 1;
    }
    void give_back(void* memory) {
        if (!memory) return;
        head* const block = static_cast<head*>(memory) - 1;
        head*& list = lists_[block->units];
        block->next = list;
        list = block;
    }
    std::size_t used() const { return used_ * sizeof(head); }

private:
    union alignas(std::max_align_t) head {
        std::size_t units; // of a block in use
        head* next;        // of a free one
    };
    head memory_[768];
    head* lists_[128];
    std::size_t used_;
};
constinit block_arena arena{};

void* operator new(std::size_t size) { return arena.take(size); }
void operator delete(void* memory) noexcept { arena.give_back(memory); }
void operator delete(void* memory, std::size_t) noexcept { arena.give_back(memory); }

// -- the program ----------------------------------------------------------------------------------

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const char* text) {
    say(holds ? "holds:  " : "BROKEN: ");
    say(text);
    say("\n");
    broken += holds ? 0 : 1;
}
void say(const char* before, std::int64_t number, const char* after) {
    char digits[24];
    char* at = digits + sizeof digits;
    *--at = '\0';
    do *--at = static_cast<char>('0' + number % 10);
    while ((number /= 10) > 0);
    say(before);
    say(at);
    say(after);
}

int blinks = 0;
asyncio::coro<> blink(asyncio::duration period) {
    for (;; ++blinks) co_await asyncio::sleep(period);
}

// From the interrupt into the queue, which holds it back when nobody takes anything.
asyncio::coro<> read_sensor(asyncio::queue<int>& values) {
    for (unsigned taken = 0;;) {
        co_await measured_one.wait();
        for (; taken < measured_count; ++taken) {
            const int value = measured[taken];
            co_await values.put(value);
        }
    }
}

asyncio::coro<> device() {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    asyncio::queue<int> values(2);
    auto blinking = asyncio::create_task(blink(50ms));
    auto reading = asyncio::create_task(read_sensor(values));
    const asyncio::time_point start = loop.time();
    asyncio::time_point last = start;
    unsigned right = 0;
    std::size_t used_early = 0; // after three measurements
    std::size_t used = 0;       // after the last one
    for (unsigned n = 0;; ++n) {
        const auto value = co_await asyncio::as_outcome(asyncio::wait_for(values.get(), 150ms));
        if (!value) break; // nothing came for 150 ms
        last = loop.time();
        right += *value == static_cast<int>(20 + n * n % 7) ? 1 : 0;
        used = arena.used();
        if (n == 2) used_early = used;
        say("measured ", *value, " degrees\n");
    }
    const std::int64_t silent = (loop.time() - last).count() / 1'000'000;
    say("the sensor is silent for ", silent, " ms\n");
    const std::int64_t took = (loop.time() - start).count() / 1'000'000;
    blinking.cancel();
    reading.cancel();
    say("", took, " ms, ");
    say("", blinks, " blinks, ");
    say("", static_cast<std::int64_t>(arena.used()), " bytes of memory\n");
    claim(right == measurements, "all measurements came from the interrupt, in order");
    claim(silent >= 150, "the timeout was not early");
    claim(blinks > 0 && blinks <= took / 50, "the lamp blinked all the while, never early");
    claim(used == used_early, "after the third measurement no memory was taken");
    claim(idles > 0 && percent_asleep() >= 50, "the processor slept most of the time");
}

int main(int argc, char** argv) {
    take_options(argc, argv);
    start_interrupts();
    asyncio::event_loop loop;
    loop.run_until_complete(device());
    return broken == 0 ? 0 : 1;
}
// Output:
// measured 20 degrees
// measured 21 degrees
// measured 24 degrees
// measured 22 degrees
// measured 22 degrees
// measured 24 degrees
// measured 21 degrees
// measured 20 degrees
// measured 21 degrees
// measured 24 degrees
// the sensor is silent for 150 ms
// 350 ms, 7 blinks, 2472 bytes of memory
// holds:  all measurements came from the interrupt, in order
// holds:  the timeout was not early
// holds:  the lamp blinked all the while, never early
// holds:  after the third measurement no memory was taken
// holds:  the processor slept most of the time
