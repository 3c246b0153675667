// Cookbook: coroutines whose memory comes from a fixed arena.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/custom_allocator.cpp -o arena && ./arena
//
// What it teaches: ASYNCIO_ALLOC and ASYNCIO_FREE say where coroutine frames and tasks come from.
// Here that is asyncio::fixed_arena over an array. It is declared by the header, so this file
// includes that twice: once for the class, and once, behind the arena, for the implementation.
// Look at: three rounds of work take memory in the first one only. The library keeps what is free
// for the next coroutine, and asks the arena when it has nothing that fits. When the arena is full,
// create_task() throws std::bad_alloc: that task does not come to be, and all others go on.
// A fixed_arena is for one thread; with executors or several loops call it under a mutex.
// --virtual does not wait.
#define ASYNCIO_ALLOC(size) frames().allocate(size)
#define ASYNCIO_FREE(memory, size) frames().deallocate(memory, size)
#include "asyncio.hpp"
#include <cstddef>
#include <cstdio>
#include <new>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

asyncio::fixed_arena& frames() {
    static std::byte memory[512 * 1024];
    static asyncio::fixed_arena arena(memory);
    return arena;
}

#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

asyncio::coro<int> inner(int n) {
    co_await asyncio::sleep(100ms);
    co_return n;
}
asyncio::coro<int> outer(int n) {
    const int result = co_await inner(n);
    co_return result + 1;
}
asyncio::coro<int> guest(asyncio::event& open) {
    co_await open.wait();
    co_return 1;
}

asyncio::coro<> three_rounds() {
    std::vector<std::size_t> used;
    for (int round = 1; round <= 3; ++round) {
        std::vector<asyncio::task<int>> tasks;
        for (int i = 0; i < 200; ++i) tasks.push_back(asyncio::create_task(outer(i)));
        const std::vector<int> results = co_await asyncio::gather(tasks);
        used.push_back(frames().used());
        std::printf("%5.2f s  round %d: %d tasks, %zu of %zu bytes of the arena\n",
                    asyncio::elapsed().total_seconds(), round, results.back(), used.back(),
                    frames().capacity());
    }
    claim(used[0] > 200 * 128, "the frames of 200 tasks lie in the arena");
    claim(used[2] == used[0], "the second and third round use the same memory again");
}

// Makes tasks until there is no memory for one; gives how many that were.
asyncio::coro<int> full_house() {
    asyncio::event open;
    std::vector<asyncio::task<int>> guests;
    for (bool full = false; !full;) {
        try {
            guests.push_back(asyncio::create_task(guest(open)));
        } catch (const std::bad_alloc&) {
            full = true;
        }
    }
    std::printf("%5.2f s  %zu tasks, then the arena was full: %zu bytes\n",
                asyncio::elapsed().total_seconds(), guests.size(), frames().used());
    open.set();
    int served = 0;
    for (const asyncio::task<int>& g : guests) served += co_await g;
    claim(served == static_cast<int>(guests.size()), "all that began have ended");
    co_return served;
}

asyncio::coro<> async_main() {
    co_await three_rounds();
    const int first = co_await full_house();
    const int second = co_await full_house();
    claim(first > 200 && second >= first, "what they gave back is enough for as many again");
}

int main(int argc, char** argv) {
    const std::string_view word = argc == 2 ? argv[1] : "";
    if (argc > 2 || (argc == 2 && word != "--virtual")) {
        std::fputs("Takes the memory of coroutines from a fixed arena.\n"
                   "usage: arena [--virtual]\n",
                   word == "--help" ? stdout : stderr);
        return word == "--help" ? 0 : 2;
    }
    asyncio::run_options options;
    if (argc == 2) options.clock = asyncio::clock_kind::virtual_time;
    const int code = asyncio::run_main(async_main(), options);
    return code == 0 && broken == 0 ? 0 : 1;
}
// Output:
//  0.10 s  round 1: 200 tasks, 102736 of 520192 bytes of the arena
//  0.20 s  round 2: 200 tasks, 102736 of 520192 bytes of the arena
//  0.30 s  round 3: 200 tasks, 102736 of 520192 bytes of the arena
// holds:  the frames of 200 tasks lie in the arena
// holds:  the second and third round use the same memory again
//  0.30 s  1457 tasks, then the arena was full: 494368 bytes
// holds:  all that began have ended
//  0.30 s  1457 tasks, then the arena was full: 494368 bytes
// holds:  all that began have ended
// holds:  what they gave back is enough for as many again
