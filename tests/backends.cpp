// The system interface under the loop: readiness, sleeping, waking, and what it costs.
#include "support.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <thread>
#if defined(_WIN32)
#include <winsock2.h>
#include <windows.h>
#else
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/epoll.h>
#include <sys/syscall.h>
#else
#include <dlfcn.h>
#include <sys/event.h>
#endif
#endif

#if !defined(_WIN32)
// The calls that the library makes come here first and are counted.
namespace {
struct counters {
    std::atomic<int> waits{0};
    std::atomic<int> receives{0};
    std::atomic<int> sends{0};
};
counters calls;
} // namespace

#if defined(__linux__)

extern "C" ssize_t recv(int fd, void* buffer, std::size_t size, int flags) {
    ++calls.receives;
    return ::syscall(SYS_recvfrom, fd, buffer, size, flags, nullptr, nullptr);
}

extern "C" ssize_t send(int fd, const void* data, std::size_t size, int flags) {
    ++calls.sends;
    return ::syscall(SYS_sendto, fd, data, size, flags, nullptr, 0);
}

extern "C" int poll(pollfd* descriptors, nfds_t count, int milliseconds) {
    ++calls.waits;
    const timespec limit = {milliseconds / 1000, milliseconds % 1000 * 1'000'000L};
    return static_cast<int>(::syscall(SYS_ppoll, descriptors, count,
                                      milliseconds < 0 ? nullptr : &limit, nullptr, 0));
}

extern "C" int epoll_wait(int fd, epoll_event* events, int most, int milliseconds) {
    ++calls.waits;
    return static_cast<int>(::syscall(SYS_epoll_pwait, fd, events, most, milliseconds, nullptr, 0));
}

#else

namespace {
// The system's function behind one of this program.
template <class F>
F* behind(F*, const char* name) {
    return reinterpret_cast<F*>(::dlsym(RTLD_NEXT, name));
}
} // namespace

extern "C" ssize_t recv(int fd, void* buffer, std::size_t size, int flags) {
    static const auto real = behind(&::recv, "recv");
    ++calls.receives;
    return real(fd, buffer, size, flags);
}

extern "C" ssize_t send(int fd, const void* data, std::size_t size, int flags) {
    static const auto real = behind(&::send, "send");
    ++calls.sends;
    return real(fd, data, size, flags);
}

extern "C" int kevent(int queue, const struct kevent* changes, int change_count,
                      struct kevent* events, int most, const timespec* timeout) {
    using function = int(int, const struct kevent*, int, struct kevent*, int, const timespec*);
    static const auto real = reinterpret_cast<function*>(::dlsym(RTLD_NEXT, "kevent"));
    if (most > 0) ++calls.waits;
    return real(queue, changes, change_count, events, most, timeout);
}

#endif
#endif

namespace {

#if defined(_WIN32)

// Two sockets of one connection: the system watches nothing else.
struct pipe_ends {
    pipe_ends() {
        const SOCKET listener = ::socket(AF_INET, SOCK_STREAM, 0);
        sockaddr_in place = {};
        place.sin_family = AF_INET;
        place.sin_addr.s_addr = ::htonl(INADDR_LOOPBACK);
        int size = sizeof place;
        ::bind(listener, reinterpret_cast<sockaddr*>(&place), size);
        ::listen(listener, 1);
        ::getsockname(listener, reinterpret_cast<sockaddr*>(&place), &size);
        const SOCKET one = ::socket(AF_INET, SOCK_STREAM, 0);
        const int connected = ::connect(one, reinterpret_cast<sockaddr*>(&place), size);
        const SOCKET other = ::accept(listener, nullptr, nullptr);
        ::closesocket(listener);
        if (connected != 0 || other == INVALID_SOCKET) throw std::runtime_error("no connection");
        for (const SOCKET end : {one, other}) {
            u_long yes = 1;
            ::ioctlsocket(end, static_cast<long>(FIONBIO), &yes);
        }
        out = static_cast<int>(one);
        in = static_cast<int>(other);
    }
    pipe_ends(const pipe_ends&) = delete;
    pipe_ends& operator=(const pipe_ends&) = delete;
    ~pipe_ends() {
        close_it(out);
        close_it(in);
    }

    void put(const std::string& text) const {
        const int size = static_cast<int>(text.size());
        CHECK(::send(static_cast<SOCKET>(in), text.data(), size, 0) == size);
        fd_set asked; // it arrives a moment later
        FD_ZERO(&asked);
        FD_SET(static_cast<SOCKET>(out), &asked);
        CHECK(::select(0, &asked, nullptr, nullptr, nullptr) == 1);
    }
    std::string take(std::size_t most) const {
        std::string text(most, '\0');
        const int n =
            ::recv(static_cast<SOCKET>(out), text.data(), static_cast<int>(text.size()), 0);
        text.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
        return text;
    }
    void end() { close_it(in); }

    int out = -1;
    int in = -1;

private:
    static void close_it(int& end) {
        if (end >= 0) ::closesocket(static_cast<SOCKET>(end));
        end = -1;
    }
};
using socket_ends = pipe_ends;

#else

// A pipe, closed at the end.
struct pipe_ends {
    pipe_ends() {
        int fds[2];
        if (::pipe(fds) != 0) throw std::runtime_error("pipe");
        for (const int fd : fds) {
            ::fcntl(fd, F_SETFL, O_NONBLOCK);
            ::fcntl(fd, F_SETFD, FD_CLOEXEC);
        }
        out = fds[0];
        in = fds[1];
    }
    pipe_ends(const pipe_ends&) = delete;
    pipe_ends& operator=(const pipe_ends&) = delete;
    ~pipe_ends() {
        ::close(out);
        ::close(in);
    }

    void put(const std::string& text) const {
        CHECK(::write(in, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    }
    std::string take(std::size_t most) const {
        std::string text(most, '\0');
        const ssize_t n = ::read(out, text.data(), most);
        text.resize(n < 0 ? 0 : static_cast<std::size_t>(n));
        return text;
    }

    int out = -1;
    int in = -1;
};

// Two sockets, which both take and give.
struct socket_ends {
    socket_ends() {
        int fds[2];
        if (::socketpair(AF_UNIX, SOCK_STREAM, 0, fds) != 0) throw std::runtime_error("socketpair");
        for (const int fd : fds) ::fcntl(fd, F_SETFL, O_NONBLOCK);
        out = fds[0];
        in = fds[1];
    }
    socket_ends(const socket_ends&) = delete;
    socket_ends& operator=(const socket_ends&) = delete;
    ~socket_ends() {
        end();
        ::close(out);
    }

    void put(const std::string& text) const {
        CHECK(::write(in, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    }
    void take(std::size_t most) const {
        std::string text(most, '\0');
        static_cast<void>(::read(out, text.data(), most) < 0);
    }
    void end() {
        if (in >= 0) ::close(in);
        in = -1;
    }

    int out = -1;
    int in = -1;
};

#endif

asyncio::coro<> echo(asyncio::stream_reader reader, asyncio::stream_writer writer) {
    for (;;) {
        const std::string line = co_await reader.readline();
        if (line.empty()) break;
        writer.write(line);
    }
}

} // namespace

TEST_SUITE("backend") {

#if !defined(_WIN32)
ASYNC_TEST_CASE_REAL("a request and its answer cost one wait, one recv and one send a side") {
    asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
    for (int i = 0; i < 10; ++i) { // until connecting has left no news behind
        writer.write("warm up\n");
        co_await reader.readline();
    }
    const int waits = calls.waits;
    const int receives = calls.receives;
    const int sends = calls.sends;
    constexpr int rounds = 1000;
    for (int i = 0; i < rounds; ++i) {
        writer.write("hello\n");
        co_await reader.readline();
    }
    CHECK(calls.waits - waits == 2 * rounds);
    CHECK(calls.receives - receives == 2 * rounds);
    CHECK(calls.sends - sends == 2 * rounds);
}

ASYNC_TEST_CASE_REAL("a sleeping loop asks the system for nothing") {
    const int waits = calls.waits;
    co_await asyncio::sleep(20ms);
    CHECK(calls.waits - waits <= 10);
}
#endif

ASYNC_TEST_CASE("a reader is called as long as there is something to read") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const pipe_ends p;
    std::string got;
    asyncio::event done;
    loop.add_reader(p.out, [&] {
        got += p.take(1);
        if (got.size() == 5) done.set();
    });
    p.put("hello");
    co_await done.wait();
    CHECK(got == "hello");
    CHECK(loop.remove_reader(p.out));
    CHECK_FALSE(loop.remove_reader(p.out));
    p.put("more");
    co_await support::turns(5);
    CHECK(got == "hello");
}

ASYNC_TEST_CASE("a second reader of a descriptor replaces the first") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const pipe_ends p;
    bool first = false;
    asyncio::event second;
    loop.add_reader(p.out, [&] { first = true; });
    loop.add_reader(p.out, [&] {
        p.take(10);
        second.set();
    });
    p.put("x");
    co_await second.wait();
    CHECK_FALSE(first);
    CHECK(loop.remove_reader(p.out));
}

ASYNC_TEST_CASE("a descriptor has a reader and a writer of its own") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    socket_ends both;
    int writable = 0;
    int readable = 0;
    asyncio::event news;
    loop.add_writer(both.out, [&] {
        ++writable;
        news.set();
    });
    loop.add_reader(both.out, [&] {
        both.take(1);
        ++readable;
        news.set();
    });
    co_await news.wait();
    CHECK(writable > 0);
    CHECK(readable == 0);
    CHECK(loop.remove_writer(both.out));
    const int before = writable;
    news.clear();
    both.put("x");
    co_await news.wait();
    CHECK(readable == 1);
    CHECK(writable == before);
    both.end(); // is news, too
    news.clear();
    co_await news.wait();
    CHECK(readable > 1);
    CHECK(loop.remove_reader(both.out));
}

ASYNC_TEST_CASE("callbacks may remove each other") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const pipe_ends one;
    const pipe_ends other;
    int ran = 0;
    auto only_me = [&] {
        ++ran;
        loop.remove_reader(one.out);
        loop.remove_reader(other.out);
    };
    loop.add_reader(one.out, only_me);
    loop.add_reader(other.out, only_me);
    one.put("x");
    other.put("x");
    co_await support::turns(10);
    CHECK(ran == 1);
}

#if !defined(_WIN32)
ASYNC_TEST_CASE("a number that was closed and came back is watched anew") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    int number = -1;
    {
        const pipe_ends gone;
        number = gone.out;
        loop.add_reader(number, [] {});
    }
    const pipe_ends p; // takes the lowest free numbers, so the same
    REQUIRE(p.out == number);
    asyncio::event called;
    loop.add_reader(p.out, [&] {
        p.take(10);
        called.set();
    });
    p.put("x");
    co_await called.wait();
    CHECK(loop.remove_reader(p.out));
}

// The system cannot be told any more to forget it, and goes on reporting it.
ASYNC_TEST_CASE("what is closed before it is unwatched calls nobody, though a copy lives on") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const pipe_ends p;
    const pipe_ends quiet;
    bool called = false;
    const int number = ::dup(p.out);
    loop.add_reader(number, [&] { called = true; });
    ::close(number);
    CHECK(loop.remove_reader(number));
    loop.add_reader(quiet.out, [&] { called = true; });
    p.put("x");
    co_await support::turns(5);
    CHECK_FALSE(called);
    CHECK(loop.remove_reader(quiet.out));
}

ASYNC_TEST_CASE("what cannot be watched is refused with the reason") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const int file = ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    std::string text;
    int code = 0;
    const auto refused = [&](int fd) {
        try {
            loop.add_reader(fd, [] {});
        } catch (const std::system_error& e) {
            text = e.what();
            code = e.code().value();
        }
    };
    refused(file);
    CHECK(code == EPERM);
    CHECK(text.find("add_reader") != std::string::npos);
    CHECK(text.find("regular file") != std::string::npos);
    ::close(file);
    refused(file);
    CHECK(code == EBADF);
    CHECK(text.find("add_reader") != std::string::npos);
    CHECK_FALSE(loop.remove_reader(file));

    asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
    refused(server.sockets().at(0).fileno());
    CHECK(code == EEXIST);
    CHECK(text.find("uses it") != std::string::npos);
}
#else

ASYNC_TEST_CASE("no socket, and a socket that something else uses, are refused with the reason") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    std::string text;
    const auto refused = [&](int fd) {
        text.clear();
        try {
            loop.add_reader(fd, [] {});
        } catch (const std::system_error& e) {
            text = e.what();
        }
        return text.find("add_reader") != std::string::npos;
    };
    CHECK(refused(-1));
    const HANDLE other = ::CreateEventW(nullptr, TRUE, FALSE, nullptr);
    const int number = static_cast<int>(reinterpret_cast<std::intptr_t>(other));
    CHECK(refused(number));
    CHECK_FALSE(loop.remove_reader(number));
    ::CloseHandle(other);

    asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
    CHECK(refused(static_cast<int>(server.sockets().at(0).fileno())));
    CHECK(text.find("uses it") != std::string::npos);
}
#endif

ASYNC_TEST_CASE("more descriptors than one wait reports are all served") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    std::vector<std::unique_ptr<pipe_ends>> pipes;
    std::size_t count = 0;
    asyncio::event all;
    for (int i = 0; i < 200; ++i) {
        pipes.push_back(std::make_unique<pipe_ends>());
        const pipe_ends& p = *pipes.back();
        loop.add_reader(p.out, [&] {
            p.take(10);
            loop.remove_reader(p.out);
            if (++count == pipes.size()) all.set();
        });
    }
    for (const auto& p : pipes) p->put("x");
    co_await all.wait();
    CHECK(count == 200);
}

#if defined(__linux__)
ASYNC_TEST_CASE("the end of a child process can be waited for") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const pipe_ends p;
    std::fflush(nullptr); // or a sanitizer's _exit prints it a second time
    const pid_t child = ::fork();
    if (child == 0) {
        char c;
        ::close(p.in);
        pollfd end{p.out, POLLIN, 0};
        ::poll(&end, 1, -1);
        ::_exit(::read(p.out, &c, 1) == 1 ? 7 : 1);
    }
    const int pidfd = static_cast<int>(::syscall(SYS_pidfd_open, child, 0));
    REQUIRE(pidfd >= 0);
    asyncio::event ended;
    loop.add_reader(pidfd, [&] {
        loop.remove_reader(pidfd);
        ended.set();
    });
    co_await support::turns(3);
    CHECK_FALSE(ended.is_set());
    p.put("x");
    co_await ended.wait();
    int status = 0;
    CHECK(::waitpid(child, &status, 0) == child);
    CHECK(WEXITSTATUS(status) == 7);
    ::close(pidfd);
}
#endif

TEST_CASE("a sleeping loop is woken by other threads, and every post arrives") {
    asyncio::event_loop loop;
    constexpr int threads = 4;
    constexpr int posts = 5000;
    int arrived = 0; // on the loop's thread alone
    std::vector<std::thread> posting;
    for (int t = 0; t < threads; ++t)
        posting.emplace_back([&] {
            for (int i = 0; i < posts; ++i)
                loop.call_soon_threadsafe([&] {
                    if (++arrived == threads * posts) loop.stop();
                });
        });
    loop.run_forever();
    for (std::thread& t : posting) t.join();
    CHECK(arrived == threads * posts);
}

TEST_CASE("a post wakes a loop that sleeps with nothing to do") {
    asyncio::event_loop loop;
    for (int i = 0; i < 100; ++i) {
        std::atomic<bool> sleeping{false};
        std::thread other([&] {
            while (!sleeping) std::this_thread::yield();
            loop.call_soon_threadsafe([&] { loop.stop(); });
        });
        loop.call_soon([&] { sleeping = true; });
        loop.run_forever();
        other.join();
    }
}

ASYNC_TEST_CASE_REAL("no timer is early, however short") {
    for (const auto span : {1us, 50us, 300us, 999us, 1000us, 1500us}) {
        for (int i = 0; i < 5; ++i) {
            const auto before = std::chrono::steady_clock::now();
            co_await asyncio::sleep(span);
            CHECK(std::chrono::steady_clock::now() - before >= span);
        }
    }
}

#if !defined(_WIN32)
ASYNC_TEST_CASE_REAL("a signal that interrupts the wait changes nothing") {
    struct sigaction action {};
    struct sigaction before {};
    action.sa_handler = [](int) {};
    ::sigaction(SIGPROF, &action, &before);
    const auto start = std::chrono::steady_clock::now();
    std::atomic<bool> stop{false};
    const pthread_t self = ::pthread_self();
    std::thread other([&] {
        while (!stop) {
            ::pthread_kill(self, SIGPROF);
            std::this_thread::yield();
        }
    });
    co_await asyncio::sleep(30ms);
    stop = true;
    other.join();
    CHECK(std::chrono::steady_clock::now() - start >= 30ms);
    ::sigaction(SIGPROF, &before, nullptr);
}
#endif

ASYNC_TEST_CASE("LP-15: a loop that never runs out of callbacks still takes in I/O") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const pipe_ends p;
    bool stop = false;
    std::function<void()> again = [&] {
        if (!stop) loop.call_soon([&] { again(); });
    };
    again();
    asyncio::event called;
    loop.add_reader(p.out, [&] {
        p.take(10);
        called.set();
    });
    p.put("x");
    co_await called.wait();
    stop = true;
    CHECK(loop.remove_reader(p.out));
    co_await support::turns(2);
}

TEST_CASE("the native handle is readable when there is I/O to take in") {
    asyncio::event_loop loop;
    const pipe_ends p;
    bool called = false;
    loop.add_reader(p.out, [&] {
        p.take(10);
        called = true;
    });
    loop.poll();
#if defined(_WIN32)
    CHECK(::WaitForSingleObject(loop.native_handle(), 0) == WAIT_TIMEOUT);
    p.put("x");
    CHECK(::WaitForSingleObject(loop.native_handle(), 1000) == WAIT_OBJECT_0);
#else
    pollfd handle{loop.native_handle(), POLLIN, 0};
    CHECK(::poll(&handle, 1, 0) == 0);
    p.put("x");
    CHECK(::poll(&handle, 1, 1000) == 1);
#endif
    loop.poll();
    CHECK(called);
    CHECK(loop.remove_reader(p.out));
}

#if !defined(_WIN32)
// The child goes on with its copy of the loop, its watches and its connections. What it does with
// them, and that it closes them all in the end, is no news for its parent.
TEST_CASE("a child of fork() goes on with a loop of its own, and its parent's stays as it is") {
    struct outcome {
        pid_t child = -1;
        int code = 0;
    };
    const auto program = []() -> asyncio::coro<outcome> {
        asyncio::event_loop& loop = asyncio::get_running_loop();
        const pipe_ends both; // watched before the fork, in both processes
        const pipe_ends gone;
        std::string got;
        asyncio::event news;
        loop.add_reader(both.out, [&] {
            got += both.take(1);
            news.set();
        });
        loop.add_reader(gone.out, [] {});
        asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
        auto reading = asyncio::create_task(reader.readline());
        co_await support::turns(3);

        std::fflush(nullptr);
        outcome result;
        result.child = ::fork();
        if (result.child == 0) {
            ::alarm(30); // nobody else would end it
            loop.remove_reader(gone.out);
            co_await asyncio::sleep(1ms);
            std::thread other([&] { loop.call_soon_threadsafe([&] { news.set(); }); });
            co_await news.wait(); // the thread wakes this process's loop
            other.join();
            news.clear();
            both.put("c");
            while (got != "c") { // or the parent is faster, which takes all there is
                co_await asyncio::sleep(1ms);
                if (got.empty()) both.put("c");
            }
            asyncio::server own = co_await asyncio::start_server(echo, "127.0.0.1", 0);
            auto [in, out] = co_await asyncio::open_connection("127.0.0.1", own.port());
            out.write("in the child\n");
            const std::string line = co_await in.readline();
            result.code = line == "in the child\n" ? 7 : 8;
            reading.cancel();
            co_return result; // closes everything
        }
        const auto end_of = [](pid_t child) {
            int status = 0;
            ::waitpid(child, &status, 0);
            return status;
        };
        const int status = co_await asyncio::to_thread(end_of, result.child);
        result.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;

        got.clear();
        news.clear();
        both.put("p");
        while (got.find('p') == std::string::npos) {
            co_await news.wait();
            news.clear();
        }
        CHECK(loop.remove_reader(gone.out));
        writer.write("in the parent\n");
        const std::string line = co_await reading;
        CHECK(line == "in the parent\n");
        co_return result;
    };
    const outcome result = asyncio::run(program());
    if (result.child == 0) ::_exit(result.code);
    CHECK(result.code == 7);
}
#endif

} // TEST_SUITE
