// The unit that holds the implementation, and uses the header as well.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"

using namespace std::chrono_literals;

asyncio::coro<int> in_the_other_unit();

asyncio::coro<int> in_the_other_unit() {
    co_await asyncio::sleep(1ms);
    co_return 10;
}
