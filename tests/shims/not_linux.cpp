// The library as a POSIX system has it that is neither Linux nor macOS. What it declares is the
// same there, so the programs of the tests need not know.
#include "asyncio.hpp"
#undef __linux__
#include "../library.cpp"
