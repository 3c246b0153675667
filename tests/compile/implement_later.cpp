// Include first, implement later: some other header may include ours before the macro is defined.
#include "asyncio.hpp"

#include "asyncio.hpp"

using namespace std::chrono_literals;

static asyncio::coro<int> answer() {
    co_await asyncio::sleep(1ms);
    co_return 42;
}

#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include "asyncio.hpp" // and once more, which adds nothing

int main() { return asyncio::run(answer()) == 42 ? 0 : 1; }
