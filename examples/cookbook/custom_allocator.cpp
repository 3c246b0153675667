// Cookbook: coroutines whose memory comes from a fixed arena.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/custom_allocator.cpp -o arena && ./arena
//
// What it teaches: ASYNCIO_ALLOC and ASYNCIO_FREE say where coroutine frames and tasks come from.
// Here that is an array of a fixed size, cut into blocks of powers of two; a block that is given
// back goes into the list of its size. Both know the size, so that a block needs no head.
// Look at: three rounds of work take memory in the first one only. The library keeps some of what
// is free for the next coroutine, and asks the arena when it has nothing that fits.
// This arena is for one thread; with executors or several loops it needs a mutex.
// --virtual does not wait.
#include <array>
#include <bit>
#include <cstddef>
#include <cstdio>
#include <new>
#include <string>
#include <string_view>
#include <vector>

class arena {
public:
    void* take(std::size_t size) {
        block*& list = lists_[index_of(size)];
        void* memory = list;
        if (list) list = list->next;
        else {
            const std::size_t whole = std::size_t(1) << index_of(size);
            if (whole > sizeof memory_ - next_) throw std::bad_alloc();
            memory = memory_ + next_;
            next_ += whole;
        }
        ++calls_;
        return memory;
    }
    void give_back(void* memory, std::size_t size) {
        block*& list = lists_[index_of(size)];
        list = new (memory) block{list};
    }
    std::size_t used() const { return next_; } // bytes that have been cut off so far
    int calls() const { return calls_; }

private:
    struct block {
        block* next;
    };
    static std::size_t index_of(std::size_t size) { // of the power of two, from 64 bytes on
        return static_cast<std::size_t>(std::bit_width((size < 64 ? 64 : size) - 1));
    }
    alignas(64) std::byte memory_[1024 * 1024];
    std::array<block*, 64> lists_ = {};
    std::size_t next_ = 0;
    int calls_ = 0;
};
arena frames;

#define ASYNCIO_ALLOC(size) frames.take(size)
#define ASYNCIO_FREE(memory, size) frames.give_back(memory, size)
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
using namespace std::chrono_literals;

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

asyncio::coro<> async_main() {
    std::vector<std::size_t> used;
    for (int round = 1; round <= 3; ++round) {
        std::vector<asyncio::task<int>> tasks;
        for (int i = 0; i < 200; ++i) tasks.push_back(asyncio::create_task(outer(i)));
        const std::vector<int> results = co_await asyncio::gather(tasks);
        used.push_back(frames.used());
        std::printf("%5.2f s  round %d: %d tasks, %zu bytes of the arena, %d blocks taken\n",
                    asyncio::elapsed().total_seconds(), round, results.back(), used.back(),
                    frames.calls());
    }
    claim(used[0] > 200 * 128, "the frames of 200 tasks lie in the arena");
    claim(used[2] == used[0], "the second and third round use the same memory again");
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
//  0.10 s  round 1: 200 tasks, 128960 bytes of the arena, 605 blocks taken
//  0.20 s  round 2: 200 tasks, 128960 bytes of the arena, 605 blocks taken
//  0.30 s  round 3: 200 tasks, 128960 bytes of the arena, 605 blocks taken
// holds:  the frames of 200 tasks lie in the arena
// holds:  the second and third round use the same memory again
