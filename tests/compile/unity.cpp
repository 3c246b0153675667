// A unity build, in which the header is included before its implementation, and once more after.
#include "unit_main.cpp"
#include "unit_implementation.cpp"
#include "asyncio.hpp"
