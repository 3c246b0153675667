// A program whose parts have an implementation each: in another version, with another allocator,
// without exceptions or threads, or in a shared library. Each has a loop of its own, which runs
// while the program's does.
#include "asyncio.hpp"

using namespace std::chrono_literals;

int first_part();
[[gnu::weak]] int second_part(); // not everywhere, like the next two
[[gnu::weak]] int third_part();
[[gnu::weak]] int fourth_part();

static asyncio::coro<int> wrong_parts() {
    int wrong = 0;
    for (int (*part)() : {&first_part, &second_part, &third_part, &fourth_part}) {
        co_await asyncio::sleep(1ms);
        if (part && part() != 42) ++wrong;
    }
    co_return wrong;
}

int main() { return asyncio::run(wrong_parts()); }
