// What the tests of sockets, datagrams and streams share: faults that the system's calls can be
// told to have, and a few helpers. It defines functions, so that a program includes it once.
#ifndef ASYNCIO_TESTS_NETWORK_HPP
#define ASYNCIO_TESTS_NETWORK_HPP

#include "support.hpp"

#include <cerrno>
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
#if defined(__linux__)
#include <sys/syscall.h>
#else
#include <dlfcn.h>
#endif
#endif

#if !defined(_WIN32) // where nothing interrupts a call

// The calls that the library makes come here first.
namespace {

struct faulty_calls {
    bool interrupts = false; // every other call is interrupted by a signal
    int turn = 0;
    int interrupted = 0; // how many were
};
faulty_calls faults;

bool interrupted_now() {
    if (!faults.interrupts || ++faults.turn % 2 == 0) return false;
    ++faults.interrupted;
    errno = EINTR;
    return true;
}

// Switches faults on until the end of the block.
class with_faults {
public:
    explicit with_faults(faulty_calls f) { faults = f; }
    with_faults(const with_faults&) = delete;
    with_faults& operator=(const with_faults&) = delete;
    ~with_faults() { faults = faulty_calls(); }
};

} // namespace

#if defined(__linux__)
namespace real {
ssize_t recv(int fd, void* buffer, std::size_t size, int flags) {
    return ::syscall(SYS_recvfrom, fd, buffer, size, flags, nullptr, nullptr);
}
ssize_t sendto(int fd, const void* data, std::size_t size, int flags, const sockaddr* to,
               socklen_t to_size) {
    return ::syscall(SYS_sendto, fd, data, size, flags, to, to_size);
}
ssize_t send(int fd, const void* data, std::size_t size, int flags) {
    return sendto(fd, data, size, flags, nullptr, 0);
}
ssize_t sendmsg(int fd, const msghdr* message, int flags) {
    return ::syscall(SYS_sendmsg, fd, message, flags);
}
ssize_t recvmsg(int fd, msghdr* message, int flags) {
    return ::syscall(SYS_recvmsg, fd, message, flags);
}
int connect(int fd, const sockaddr* to, socklen_t size) {
    return static_cast<int>(::syscall(SYS_connect, fd, to, size));
}
} // namespace real
#else
// The system's functions behind those of this program.
namespace real {
template <class F>
F* behind(F*, const char* name) {
    return reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name));
}
const auto recv = behind(&::recv, "recv");
const auto send = behind(&::send, "send");
const auto sendto = behind(&::sendto, "sendto");
const auto sendmsg = behind(&::sendmsg, "sendmsg");
const auto recvmsg = behind(&::recvmsg, "recvmsg");
const auto accept = behind(&::accept, "accept");
const auto connect = behind(&::connect, "connect");
} // namespace real
#endif

extern "C" ssize_t recv(int fd, void* buffer, std::size_t size, int flags) {
    return interrupted_now() ? -1 : real::recv(fd, buffer, size, flags);
}
extern "C" ssize_t send(int fd, const void* data, std::size_t size, int flags) {
    return interrupted_now() ? -1 : real::send(fd, data, size, flags);
}
extern "C" ssize_t sendto(int fd, const void* data, std::size_t size, int flags,
                          const sockaddr* to, socklen_t to_size) {
    return interrupted_now() ? -1 : real::sendto(fd, data, size, flags, to, to_size);
}
extern "C" ssize_t sendmsg(int fd, const msghdr* message, int flags) {
    return interrupted_now() ? -1 : real::sendmsg(fd, message, flags);
}
extern "C" ssize_t recvmsg(int fd, msghdr* message, int flags) {
    return interrupted_now() ? -1 : real::recvmsg(fd, message, flags);
}
#if defined(__linux__)
extern "C" int accept4(int fd, sockaddr* from, socklen_t* size, int flags) {
    if (interrupted_now()) return -1;
    return static_cast<int>(::syscall(SYS_accept4, fd, from, size, flags));
}
#else
extern "C" int accept(int fd, sockaddr* from, socklen_t* size) {
    return interrupted_now() ? -1 : real::accept(fd, from, size);
}
#endif
extern "C" int connect(int fd, const sockaddr* to, socklen_t size) {
    const int result = real::connect(fd, to, size);
    // An interrupted connect goes on by itself.
    if (result != 0 && errno == EINPROGRESS && faults.interrupts) {
        ++faults.interrupted;
        errno = EINTR;
    }
    return result;
}

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
