// A program whose parts have an implementation each: in another version, with another allocator, or
// in a shared library. Each has a loop of its own, which runs while the program's does.
#include "asyncio.hpp"

using namespace std::chrono_literals;

int first_part();
[[gnu::weak]] int second_part(); // not everywhere

static asyncio::coro<int> answer() {
    co_await asyncio::sleep(1ms);
    int sum = first_part();
    if (second_part) sum += second_part();
    co_await asyncio::sleep(1ms);
    co_return sum;
}

int main() { return asyncio::run(answer()) == (second_part ? 84 : 42) ? 0 : 1; }
