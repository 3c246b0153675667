// Prints what failed, with types: as it arrives at an await, and from another process. Built with
// -fno-rtti alone, and with -fno-exceptions alone.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"

#include <iostream>
#include <sstream>

using namespace std::chrono_literals;

static asyncio::coro<> fails() {
    co_await asyncio::sleep(1ms);
    co_await asyncio::fail(std::make_error_code(std::errc::io_error), "disk");
}

// What another process makes of it.
static asyncio::exception_ptr travelled(const asyncio::exception_ptr& error) {
    asyncio::encoder out;
    out.put(error);
    asyncio::decoder in(out.bytes());
    return in.get<asyncio::exception_ptr>();
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
struct private_error : std::runtime_error {
    using std::runtime_error::runtime_error;
};

static asyncio::exception_ptr with_a_cause() {
    try {
        try {
            throw private_error("mine");
        } catch (...) {
            std::throw_with_nested(std::out_of_range("far"));
        }
    } catch (...) {
        return std::current_exception();
    }
}

static asyncio::exception_ptr cause_of(const asyncio::exception_ptr& error) {
    try {
        std::rethrow_exception(error);
    } catch (const std::nested_exception& outer) {
        return outer.nested_ptr();
    }
}
#endif

int main() {
    const auto outcome = asyncio::run(asyncio::as_outcome(fails()));
    const asyncio::exception_ptr failed = outcome.error().exception();
    std::vector<asyncio::exception_ptr> errors = {failed, travelled(failed)};
    std::string expected = "all (2 sub-exceptions)\n"
                           "|-- std::system_error: disk: Input/output error\n"
                           "`-- std::system_error: disk: Input/output error\n";
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    const asyncio::exception_ptr outer = travelled(with_a_cause());
    if (!asyncio::error(outer).holds<std::out_of_range>()) return 2;
    errors = {failed, travelled(failed), cause_of(outer)};
    expected = "all (3 sub-exceptions)\n"
               "|-- std::system_error: disk: Input/output error\n"
               "|-- std::system_error: disk: Input/output error\n"
               "`-- asyncio::remote_error: mine\n";
#endif
    std::ostringstream printed;
    printed << asyncio::exception_group("all", errors);
    std::string text = printed.str();
    std::cout << text;
    for (std::size_t at; (at = text.find("__1::")) != text.npos;) text.erase(at, 5); // libc++'s
    return text == expected ? 0 : 1;
}
