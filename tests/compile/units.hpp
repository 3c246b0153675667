// What the units of one program have of each other.
#if !defined(UNITS_HPP)
#define UNITS_HPP

#include "asyncio.hpp"

ASYNCIO_API asyncio::coro<int> in_the_other_unit();
ASYNCIO_API asyncio::coro<> fails_in_the_other_unit();
ASYNCIO_API asyncio::any_task task_in_the_other_unit();

#endif // UNITS_HPP
