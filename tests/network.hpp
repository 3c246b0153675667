// What the tests of sockets, datagrams and streams share. It defines functions, so that a program
// includes it once.
#ifndef ASYNCIO_TESTS_NETWORK_HPP
#define ASYNCIO_TESTS_NETWORK_HPP

#include "calls.hpp"
#include "support.hpp"

#include <cstdlib>
#include <string>
#include <utility>
#include <vector>
#if defined(_WIN32)
#include <winsock2.h>
#include <ws2tcpip.h>
#else
#include <dirent.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#endif

namespace {

// A socket as the system's calls take it: an int, or Windows' SOCKET.
using system_socket = decltype(::socket(0, 0, 0));

#if defined(_WIN32)

// The sockets alone: threads, which come and go, have handles as well.
int open_descriptors() {
    int count = 0;
    for (SOCKET number = 4; number < 0x4000; number += 4) {
        int type = 0;
        int size = sizeof type;
        if (::getsockopt(number, SOL_SOCKET, SO_TYPE, reinterpret_cast<char*>(&type), &size) == 0)
            ++count;
    }
    return count;
}

#else

#if defined(__linux__)
constexpr const char* descriptors_folder = "/proc/self/fd";
#else
constexpr const char* descriptors_folder = "/dev/fd";
#endif

int open_descriptors() {
    int count = 0;
    DIR* const list = ::opendir(descriptors_folder);
    while (::readdir(list) != nullptr) ++count;
    ::closedir(list);
    return count;
}

#endif

// Wine itself takes what has gone wrong off a socket if nobody waits for that, and recv() does
// not say it then: of a stream that it is over, and of a refused datagram nothing at all. It also
// binds sockets for datagrams to addresses that are not this machine's.
#if defined(_WIN32)
const bool under_wine =
    ::GetProcAddress(::GetModuleHandleW(L"ntdll.dll"), "wine_get_version") != nullptr;
#else
constexpr bool under_wine = false;
#endif

// The errno value of a std::system_error; 0 for none, -1 for anything else.
int code_of(const std::exception_ptr& error) {
    if (!error) return 0;
    try {
        std::rethrow_exception(error);
    } catch (const std::system_error& e) {
        return e.code().value();
    } catch (...) {
        return -1;
    }
}

// The same of what an await throws.
template <class A>
asyncio::coro<int> code_thrown_by(A work) {
    const auto result = co_await asyncio::as_outcome(std::move(work));
    co_return result.has_value() ? 0 : code_of(result.error().exception());
}

#if !defined(_WIN32)

// A path in a folder of its own, which goes with it.
class scratch_path {
public:
    scratch_path() {
        char name[] = "/tmp/asyncio-test-XXXXXX";
        folder_ = ::mkdtemp(name);
        text = folder_ + "/socket";
    }
    scratch_path(const scratch_path&) = delete;
    scratch_path& operator=(const scratch_path&) = delete;
    ~scratch_path() {
        ::unlink(text.c_str());
        ::rmdir(folder_.c_str());
    }

    bool exists() const {
        struct stat info {};
        return ::stat(text.c_str(), &info) == 0;
    }

    std::string text;

private:
    std::string folder_;
};

#endif

} // namespace

#endif
