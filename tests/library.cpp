// The library's implementation: compiled once, for all tests and examples.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
