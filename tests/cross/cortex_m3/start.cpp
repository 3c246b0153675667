// What stands before main() on a Cortex-M3, and what ends the program: by semihosting, so that the
// exit code is the emulator's. A board of your own has this from its maker.
#include <cstdint>

extern "C" {

// Made by link.ld.
extern std::uint32_t stack_top, data_begin, data_end, data_load, bss_begin, bss_end;
using initialiser = void (*)();
extern const initialiser __init_array_start[], __init_array_end[];

int program() asm("main"); // calling main() by its own name is not for C++
void systick_handler();

[[noreturn]] void _exit(int code) {
    const std::uint32_t what[] = {0x20026, static_cast<std::uint32_t>(code)};
    register std::uint32_t operation asm("r0") = 0x20; // SYS_EXIT_EXTENDED
    register const std::uint32_t* argument asm("r1") = what;
    for (;;) asm volatile("bkpt 0xAB" : "+r"(operation) : "r"(argument) : "memory");
}
[[noreturn, gnu::weak]] void abort() { _exit(134); }
[[noreturn, gnu::weak]] void fault_handler() { _exit(139); }

// The end of the program is the end of everything: nothing runs for objects that live until then.
void* __dso_handle = nullptr;
int __aeabi_atexit(void*, void (*)(void*), void*) { return 0; }

[[noreturn]] void reset_handler() {
    const std::uint32_t* from = &data_load;
    for (std::uint32_t* to = &data_begin; to != &data_end;) *to++ = *from++;
    for (std::uint32_t* to = &bss_begin; to != &bss_end;) *to++ = 0;
    for (const initialiser* i = __init_array_start; i != __init_array_end; ++i) (*i)();
    _exit(program());
}

[[gnu::weak]] void systick_handler() { _exit(139); }

} // extern "C"

using handler = void (*)();
struct vector_table {
    std::uint32_t* stack;
    handler exceptions[15];
};
[[gnu::section(".vectors"), gnu::used]] const vector_table vectors = {
    &stack_top,
    {reset_handler, fault_handler, fault_handler, fault_handler, fault_handler, fault_handler,
     nullptr, nullptr, nullptr, nullptr, fault_handler, fault_handler, nullptr, fault_handler,
     systick_handler}};
