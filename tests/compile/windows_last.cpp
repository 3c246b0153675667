// The header and its implementation first, then windows.h: nothing of ours may be in its way, and
// nothing that ours left behind either.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"

#include <winsock2.h>

#include <windows.h>

static asyncio::coro<int> answer() {
    asyncio::queue<int> numbers(1);
    co_await numbers.put(42);
    const int number = co_await numbers.get();
    co_return number;
}

int main() { return asyncio::run(answer()) == 42 ? 0 : 1; }
