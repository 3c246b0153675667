// implementation.cpp where there is no operating system, and the library with it: doctest's main(),
// the watchdog, and a port whose clock moves only when the loop is idle, and then as far as it
// asked for. The same on a PC and on a Cortex-M3 under qemu (tests/cross/cortex_m3.sh).
[[noreturn]] static void give_up(const char* why);
#define ASYNCIO_FATAL(text) give_up(text)
#define ASYNCIO_IMPLEMENTATION
#define DOCTEST_CONFIG_IMPLEMENT
#define DOCTEST_CONFIG_NO_POSIX_SIGNALS
#define DOCTEST_CONFIG_NO_MULTITHREADING
#include "cases.hpp"

namespace {
std::int64_t port_now = 0;
} // namespace

extern "C" std::int64_t asyncio_port_now_ns() { return port_now; }
extern "C" void asyncio_port_idle(std::int64_t ns) {
    if (ns < 0) give_up("HANGS"); // nothing comes from outside
    port_now += ns;
}

#if defined(__arm__) && !defined(__linux__) && !defined(__APPLE__)

#include <sys/stat.h>
#include <sys/time.h>
#include <sys/times.h>

extern "C" [[noreturn]] void _exit(int code);

namespace {

void say(const char* text) {
    register int operation asm("r0") = 4; // SYS_WRITE0
    register const char* argument asm("r1") = text;
    asm volatile("bkpt 0xAB" : "+r"(operation) : "r"(argument) : "memory");
}

// Milliseconds.
volatile std::uint32_t real_now = 0;
std::uint32_t end_of_test = UINT32_MAX;

void set_alarm(unsigned seconds) {
    end_of_test = seconds != 0 ? real_now + seconds * 1000 : UINT32_MAX;
}

} // namespace

extern "C" {

void systick_handler() {
    real_now = real_now + 1;
    if (real_now == end_of_test) give_up("HANGS");
}
void fault_handler() { give_up("CRASHED"); }
void abort() { give_up("ABORTED"); }

// What newlib asks for: memory between what link.ld has placed and the stack, and one file.
extern char bss_end[], stack_top[];
void* _sbrk(std::ptrdiff_t more) {
    static char* end = bss_end;
    if (more > stack_top - end - 256 * 1024) return reinterpret_cast<void*>(-1);
    return std::exchange(end, end + more);
}
int _write(int, const char* text, int size) {
    say(std::string(text, static_cast<std::size_t>(size)).c_str());
    return size;
}
int _read(int, char*, int) { return 0; }
int _open(const char*, int, int) { return -1; }
int _close(int) { return -1; }
int _lseek(int, int, int) { return -1; }
int _fstat(int, struct stat*) { return -1; }
int _isatty(int) { return 0; }
int _getpid() { return 1; }
int _kill(int, int) { return -1; }
clock_t _times(tms* times) {
    *times = {.tms_utime = real_now, .tms_stime = 0, .tms_cutime = 0, .tms_cstime = 0};
    return real_now;
}
int _gettimeofday(timeval* time, void*) {
    *time = {};
    return 0;
}

} // extern "C"

int main() {
    auto* const systick = reinterpret_cast<volatile std::uint32_t*>(0xE000E010);
    systick[1] = 25'000'000 / 1000 - 1; // 25 MHz
    systick[2] = 0;
    systick[0] = 7;
    doctest::Context context;
    // 200 000 of them have no room here.
    context.addFilter("test-case-exclude", "waking many waiters takes time*");
    return context.run();
}

#else

#include <csignal>
#include <cstring>
#include <unistd.h>

namespace {

void say(const char* text) {
    const ssize_t ignored = ::write(STDERR_FILENO, text, std::strlen(text));
    static_cast<void>(ignored);
}
void set_alarm(unsigned seconds) { ::alarm(seconds); }

} // namespace

int main(int argc, char** argv) {
    std::signal(SIGALRM, [](int) { give_up("HANGS"); });
    for (const int number : {SIGABRT, SIGSEGV})
        std::signal(number, [](int) { give_up("CRASHED"); });
    return doctest::Context(argc, argv).run();
}

#endif

static void give_up(const char* why) {
    say("\n");
    say(why);
    say(": ");
    say(running_test);
    say("\n");
    ::_exit(1);
}
