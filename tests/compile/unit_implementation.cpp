// The unit that holds the implementation, and uses the header as well.
#define ASYNCIO_IMPLEMENTATION
#include "units.hpp"

#include "asyncio.hpp"

using namespace std::chrono_literals;

asyncio::coro<int> in_the_other_unit() {
    co_await asyncio::sleep(1ms);
    co_return 10;
}

asyncio::coro<> fails_in_the_other_unit() {
    co_await asyncio::sleep(1ms);
    throw asyncio::exception_group("both", {std::make_exception_ptr(asyncio::timeout_error())});
}

asyncio::any_task task_in_the_other_unit() { return asyncio::current_task(); }
