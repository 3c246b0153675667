// A program of two units: this one only includes the header.
#include "asyncio.hpp"

using namespace std::chrono_literals;

asyncio::coro<int> in_the_other_unit();

static asyncio::coro<int> twice() {
    co_await asyncio::sleep(1ms);
    const int first = co_await in_the_other_unit();
    auto both = co_await asyncio::gather(in_the_other_unit(), asyncio::sleep(1ms, 20));
    co_return first + both[0] + both[1];
}

int main() { return asyncio::run(twice()) == 40 ? 0 : 1; }
