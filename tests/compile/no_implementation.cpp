// A whole program, but for the implementation.
#include "asyncio.hpp"

static asyncio::coro<int> answer() { co_return 42; }

int main() { return asyncio::run(answer()) == 42 ? 0 : 1; }
