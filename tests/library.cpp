// The library's implementation: compiled once, for all tests and examples.
#define ASYNCIO_IMPLEMENTATION
#if !defined(__cpp_exceptions)
#include <cstdio>
#define ASYNCIO_FATAL(text) std::fprintf(stderr, "fatal: %s\n", text) // in tests/no_exceptions.cpp
#endif
#include "asyncio.hpp"
