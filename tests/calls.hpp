// The calls that the library makes to the system come here first: they are counted, and a signal
// interrupts them when a test says so. It defines functions, so that a program includes it once.
#ifndef ASYNCIO_TESTS_CALLS_HPP
#define ASYNCIO_TESTS_CALLS_HPP

#if !defined(_WIN32) // where nothing interrupts a call

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/sendfile.h>
#include <sys/syscall.h>
#else
#include <dlfcn.h>
#endif

namespace {

// What the calls of one name have come to; jobs on threads make some of them.
struct call_record {
    std::atomic<int> made{0};
    std::atomic<int> interrupted{0};
    std::atomic<int> pieces{0};               // that they were given to send
    std::atomic<const void*> memory{nullptr}; // that the last one has put data in

    bool interrupted_now();
};

struct {
    std::atomic<bool> interrupts{false}; // every other one of each name
    std::atomic<int> interrupted{0};     // how many were, of all names
    call_record accept, connect, open, poll, pread, read, recv, recvmsg, send, sendfile, sendmsg,
        sendto, waitid, write, writev;
} system_calls;

bool call_record::interrupted_now() {
    if (made.fetch_add(1) % 2 != 0 || !system_calls.interrupts) return false;
    ++interrupted;
    ++system_calls.interrupted;
    errno = EINTR;
    return true;
}

// Interrupts calls until the end of the block.
class interrupted_calls {
public:
    interrupted_calls() { system_calls.interrupts = true; }
    interrupted_calls(const interrupted_calls&) = delete;
    interrupted_calls& operator=(const interrupted_calls&) = delete;
    ~interrupted_calls() { system_calls.interrupts = false; }
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
int open(const char* path, int flags, mode_t mode) {
    return static_cast<int>(::syscall(SYS_openat, AT_FDCWD, path, flags | O_LARGEFILE, mode));
}
ssize_t read(int fd, void* buffer, std::size_t size) {
    return ::syscall(SYS_read, fd, buffer, size);
}
ssize_t write(int fd, const void* data, std::size_t size) {
    return ::syscall(SYS_write, fd, data, size);
}
ssize_t writev(int fd, const iovec* pieces, int count) {
    return ::syscall(SYS_writev, fd, pieces, count);
}
// Not SYS_pread64, of which processors with 32 bits have different kinds.
ssize_t pread(int fd, void* buffer, std::size_t size, off_t from) {
    const iovec into{buffer, size};
    const auto place = static_cast<std::uint64_t>(from);
    return ::syscall(SYS_preadv, fd, &into, 1, static_cast<unsigned long>(place),
                     static_cast<unsigned long>(place >> 32));
}
ssize_t sendfile(int to, int file, off_t* from, std::size_t size) {
#if defined(SYS_sendfile64)
    std::int64_t place = *from;
    const ssize_t sent = ::syscall(SYS_sendfile64, to, file, &place, size);
    *from = static_cast<off_t>(place);
    return sent;
#else
    return ::syscall(SYS_sendfile, to, file, from, size);
#endif
}
int poll(pollfd* polled, nfds_t count, int milliseconds) {
#if defined(SYS_poll)
    return static_cast<int>(::syscall(SYS_poll, polled, count, milliseconds));
#else
    const timespec limit{milliseconds / 1000, milliseconds % 1000 * 1'000'000L};
    const timespec* const end = milliseconds < 0 ? nullptr : &limit;
    return static_cast<int>(::syscall(SYS_ppoll, polled, count, end, nullptr, 0));
#endif
}
int waitid(idtype_t kind, id_t id, siginfo_t* info, int options) {
    return static_cast<int>(::syscall(SYS_waitid, kind, id, info, options, nullptr));
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
const auto open = behind(&::open, "open");
const auto read = behind(&::read, "read");
const auto write = behind(&::write, "write");
const auto writev = behind(&::writev, "writev");
const auto pread = behind(&::pread, "pread");
const auto poll = behind(&::poll, "poll");
const auto waitid = behind(&::waitid, "waitid");
} // namespace real
#endif

extern "C" ssize_t recv(int fd, void* buffer, std::size_t size, int flags) {
    if (system_calls.recv.interrupted_now()) return -1;
    const ssize_t got = real::recv(fd, buffer, size, flags);
    if (got > 0) system_calls.recv.memory = buffer;
    return got;
}
extern "C" ssize_t send(int fd, const void* data, std::size_t size, int flags) {
    if (system_calls.send.interrupted_now()) return -1;
    ++system_calls.send.pieces;
    return real::send(fd, data, size, flags);
}
extern "C" ssize_t sendto(int fd, const void* data, std::size_t size, int flags,
                          const sockaddr* to, socklen_t to_size) {
    if (system_calls.sendto.interrupted_now()) return -1;
    return real::sendto(fd, data, size, flags, to, to_size);
}
extern "C" ssize_t sendmsg(int fd, const msghdr* message, int flags) {
    if (system_calls.sendmsg.interrupted_now()) return -1;
    system_calls.sendmsg.pieces += static_cast<int>(message->msg_iovlen);
    return real::sendmsg(fd, message, flags);
}
extern "C" ssize_t recvmsg(int fd, msghdr* message, int flags) {
    return system_calls.recvmsg.interrupted_now() ? -1 : real::recvmsg(fd, message, flags);
}
extern "C" int open(const char* path, int flags, ...) {
    if (system_calls.open.interrupted_now()) return -1;
    std::va_list rest;
    va_start(rest, flags);
    // Smaller than int, it is passed as one.
    const int mode = (flags & O_CREAT) != 0 ? va_arg(rest, int) : 0;
    va_end(rest);
    return real::open(path, flags, static_cast<mode_t>(mode));
}
extern "C" ssize_t read(int fd, void* buffer, std::size_t size) {
    return system_calls.read.interrupted_now() ? -1 : real::read(fd, buffer, size);
}
extern "C" ssize_t write(int fd, const void* data, std::size_t size) {
    return system_calls.write.interrupted_now() ? -1 : real::write(fd, data, size);
}
extern "C" ssize_t writev(int fd, const iovec* pieces, int count) {
    return system_calls.writev.interrupted_now() ? -1 : real::writev(fd, pieces, count);
}
extern "C" ssize_t pread(int fd, void* buffer, std::size_t size, off_t from) {
    return system_calls.pread.interrupted_now() ? -1 : real::pread(fd, buffer, size, from);
}
extern "C" int poll(pollfd* polled, nfds_t count, int milliseconds) {
    return system_calls.poll.interrupted_now() ? -1 : real::poll(polled, count, milliseconds);
}
extern "C" int waitid(idtype_t kind, id_t id, siginfo_t* info, int options) {
    return system_calls.waitid.interrupted_now() ? -1 : real::waitid(kind, id, info, options);
}
#if defined(__linux__)
extern "C" int accept4(int fd, sockaddr* from, socklen_t* size, int flags) {
    if (system_calls.accept.interrupted_now()) return -1;
    return static_cast<int>(::syscall(SYS_accept4, fd, from, size, flags));
}
extern "C" ssize_t sendfile(int to, int file, off_t* from, std::size_t size)
    noexcept(noexcept(::sendfile(to, file, from, size))) { // as the C library declares it
    return system_calls.sendfile.interrupted_now() ? -1 : real::sendfile(to, file, from, size);
}
#else
extern "C" int accept(int fd, sockaddr* from, socklen_t* size) {
    return system_calls.accept.interrupted_now() ? -1 : real::accept(fd, from, size);
}
#endif
extern "C" int connect(int fd, const sockaddr* to, socklen_t size) {
    const int result = real::connect(fd, to, size);
    const bool goes_on = result != 0 && errno == EINPROGRESS; // also if it is interrupted
    return goes_on && system_calls.connect.interrupted_now() ? -1 : result;
}

#endif

#endif
