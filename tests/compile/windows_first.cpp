// windows.h with all that it brings, as the old winsock.h, before the header and its
// implementation.
#include <windows.h>

#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"

static asyncio::coro<int> answer() {
    asyncio::queue<int> numbers(1);
    co_await numbers.put(42);
    const int number = co_await numbers.get();
    co_return number;
}

int main() { return asyncio::run(answer()) == 42 ? 0 : 1; }
