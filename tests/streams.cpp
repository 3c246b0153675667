#include "network.hpp"
#include "system.hpp"

#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <optional>
#include <ranges>
#include <sstream>
#if defined(_WIN32)
#include <io.h>
#else
#include <net/if.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#if defined(__APPLE__)
#include <malloc/malloc.h>
#else
#include <malloc.h>
#endif
#endif

namespace {

using asyncio::stream_pair;
using asyncio::stream_reader;
using asyncio::stream_writer;

#if !defined(_WIN32)

// 0 where the system does not say.
std::size_t allocated_bytes() {
#if defined(__APPLE__)
    return ::mstats().bytes_used;
#elif defined(__GLIBC__)
    return ::mallinfo2().uordblks;
#else
    return 0;
#endif
}

#endif

// A file as sendfile() takes it.
class opened_file {
public:
#if defined(_WIN32)
    explicit opened_file(const std::string& path)
        : fd_(::_open(path.c_str(), _O_RDONLY | _O_BINARY | _O_NOINHERIT)) {}
    ~opened_file() { ::_close(fd_); }
#else
    explicit opened_file(const std::string& path)
        : fd_(::open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
    ~opened_file() { ::close(fd_); }
#endif
    opened_file(const opened_file&) = delete;
    opened_file& operator=(const opened_file&) = delete;

    int get() const { return fd_; }

private:
    int fd_;
};

// A listening server that hands each connection to the test instead of serving it.
struct acceptor {
    acceptor() : accepted(std::make_shared<asyncio::queue<stream_pair>>()) {}
    acceptor(const acceptor&) = delete;
    // What is in there holds the server, whose handler holds the queue.
    ~acceptor() { accepted->shutdown(true); }

    auto handler() {
        return [list = accepted](stream_reader reader, stream_writer writer) {
            list->put_nowait(stream_pair(std::move(reader), std::move(writer)));
        };
    }

    std::shared_ptr<asyncio::queue<stream_pair>> accepted;
};

// Both ends of a connection over TCP: `near` is ours, `far` the peer's.
struct link_ends {
    link_ends(stream_pair a, stream_pair b) : near_end(std::move(a)), far_end(std::move(b)) {}

    stream_reader& reader() { return near_end.first; }
    stream_writer& writer() { return near_end.second; }
    stream_reader& peer_reader() { return far_end.first; }
    stream_writer& peer() { return far_end.second; }

    stream_pair near_end;
    stream_pair far_end;
};

asyncio::coro<link_ends> connected(std::size_t limit = 64 * 1024) {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    stream_pair near_end =
        co_await asyncio::open_connection("127.0.0.1", server.port(), {.limit = limit});
    stream_pair far_end = co_await side.accepted->get();
    co_return link_ends(std::move(near_end), std::move(far_end));
}

// Echoes lines until the peer has no more.
asyncio::coro<> echo(stream_reader reader, stream_writer writer) {
    for (;;) {
        const std::string line = co_await reader.readline();
        if (line.empty()) break;
        writer.write(line);
        co_await writer.drain();
    }
}

// Writes what the system takes for a connection whose peer does not read, and as much again as
// the writer has to keep.
void fill(stream_writer& writer, std::size_t kept = 256 * 1024) {
    const std::string block(256 * 1024, 'f');
    while (writer.get_write_buffer_size() < kept) writer.write(block);
}

// The descriptor of this process's socket that is connected so; -1 when there is none.
int descriptor_of(const asyncio::address& local, const asyncio::address& remote) {
#if defined(_WIN32)
    constexpr int most = 0x4000, step = 4;
#else
    constexpr int most = 1024, step = 1;
#endif
    for (int fd = 0; fd < most; fd += step) {
        const auto number = static_cast<system_socket>(fd);
        sockaddr_in a{};
        sockaddr_in b{};
        socklen_t size = sizeof a;
        if (::getsockname(number, reinterpret_cast<sockaddr*>(&a), &size) != 0) continue;
        size = sizeof b;
        if (::getpeername(number, reinterpret_cast<sockaddr*>(&b), &size) != 0) continue;
        if (a.sin_family == AF_INET && ntohs(a.sin_port) == local.port() &&
            ntohs(b.sin_port) == remote.port())
            return fd;
    }
    return -1;
}

void close_system_socket(system_socket s) {
#if defined(_WIN32)
    ::closesocket(s);
#else
    ::close(s);
#endif
}

// An address whose connects neither succeed nor fail: its backlog is full.
class silent_address {
public:
    silent_address() : listener_(::socket(AF_INET, SOCK_STREAM, 0)) {
        sockaddr_in a{};
        a.sin_family = AF_INET;
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        ::bind(listener_, reinterpret_cast<sockaddr*>(&a), sizeof a);
        ::listen(listener_, 0);
        socklen_t size = sizeof a;
        ::getsockname(listener_, reinterpret_cast<sockaddr*>(&a), &size);
        port = ntohs(a.sin_port);
        for (int i = 0; i < 3; ++i) {
            const system_socket s = ::socket(AF_INET, SOCK_STREAM, 0);
#if defined(_WIN32)
            u_long blocks_not = 1;
            ::ioctlsocket(s, static_cast<long>(FIONBIO), &blocks_not);
#else
            ::fcntl(s, F_SETFL, O_NONBLOCK);
#endif
            ::connect(s, reinterpret_cast<sockaddr*>(&a), sizeof a);
            waiting_.push_back(s);
        }
    }
    silent_address(const silent_address&) = delete;
    silent_address& operator=(const silent_address&) = delete;
    ~silent_address() {
        for (const system_socket s : waiting_) close_system_socket(s);
        close_system_socket(listener_);
    }

    int port = 0;

private:
    system_socket listener_;
    std::vector<system_socket> waiting_;
};

// A port on which nobody listens.
asyncio::coro<int> refused_port() {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    co_return server.port();
}

} // namespace

TEST_SUITE("stream_reader") {

ASYNC_TEST_CASE("SR-01: read gives what is there, up to n bytes") {
    link_ends ends = co_await connected();
    ends.peer().write("hello");
    std::string part = co_await ends.reader().read(3);
    CHECK(part == "hel");
    part = co_await ends.reader().read(100);
    CHECK(part == "lo");
    part = co_await ends.reader().read(0);
    CHECK(part == "");
}

ASYNC_TEST_CASE("SR-01: read without a size gives everything up to the end, then nothing") {
    link_ends ends = co_await connected();
    const std::string much(300'000, 'm');
    auto reading = asyncio::create_task(ends.reader().read());
    ends.peer().write(much);
    ends.peer().write("end");
    ends.peer().close();
    const std::string all = co_await std::move(reading);
    CHECK(all == much + "end");
    CHECK(ends.reader().at_eof());
    std::string more = co_await ends.reader().read(10);
    CHECK(more == "");
    more = co_await ends.reader().read();
    CHECK(more == "");
}

ASYNC_TEST_CASE("SR-02: readexactly gives exactly n bytes, also beyond the limit") {
    link_ends ends = co_await connected(16);
    const std::string much(100'000, 'm');
    ends.peer().write(much + "rest");
    std::string exact = co_await ends.reader().readexactly(100'000);
    CHECK(exact == much);
    exact = co_await ends.reader().readexactly(0);
    CHECK(exact == "");
    exact = co_await ends.reader().readexactly(4);
    CHECK(exact == "rest");
    CHECK_THROWS_AS(static_cast<void>(ends.reader().readexactly(-1)), std::invalid_argument);
}

ASYNC_TEST_CASE("SR-02: readexactly at the end of the stream throws what there was") {
    link_ends ends = co_await connected();
    ends.peer().write("abc");
    ends.peer().close();
    std::string partial;
    std::optional<std::size_t> expected;
    try {
        co_await ends.reader().readexactly(10);
    } catch (const asyncio::incomplete_read_error& e) {
        partial = e.partial();
        expected = e.expected();
    }
    CHECK(partial == "abc");
    CHECK(expected == 10u);
    const std::string rest = co_await ends.reader().read();
    CHECK(rest == "");
}

ASYNC_TEST_CASE("SR-03: readline gives lines, an unterminated rest, then nothing") {
    link_ends ends = co_await connected();
    ends.peer().write("one\ntwo\n\nthr");
    ends.peer().write("ee");
    ends.peer().close();
    std::vector<std::string> lines;
    for (int i = 0; i < 5; ++i) {
        std::string line = co_await ends.reader().readline();
        lines.push_back(std::move(line));
    }
    CHECK(lines == std::vector<std::string>{"one\n", "two\n", "\n", "three", ""});
}

ASYNC_TEST_CASE("SR-04: of a line that is too long exactly that line is skipped") {
    link_ends ends = co_await connected(4);
    ends.peer().write("too long\nok\n");
    CHECK_AWAIT_THROWS_AS(ends.reader().readline(), std::invalid_argument);
    const std::string line = co_await ends.reader().readline();
    CHECK(line == "ok\n");
}

ASYNC_TEST_CASE("SR-04: of a line that is too long all that has come is skipped") {
    link_ends ends = co_await connected(4);
    ends.peer().write("much too long");
    CHECK_AWAIT_THROWS_AS(ends.reader().readline(), std::invalid_argument);
    ends.peer().write("ok\n");
    const std::string line = co_await ends.reader().readline();
    CHECK(line == "ok\n");
}

ASYNC_TEST_CASE("SR-05: the limit counts the bytes before the separator") {
    link_ends ends = co_await connected(7);
    ends.peer().write("1234567\n12345678\n");
    const std::string line = co_await ends.reader().readline();
    CHECK(line == "1234567\n");
    CHECK_AWAIT_THROWS_AS(ends.reader().readline(), std::invalid_argument);
}

ASYNC_TEST_CASE("a limit of 0 is refused by whatever makes a reader") {
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::open_connection("127.0.0.1", 1, {.limit = 0}),
                               "open_connection: a limit of 0", std::invalid_argument);
    const auto nobody = [](stream_reader, stream_writer) {};
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::start_server(nobody, "127.0.0.1", 0, {.limit = 0}),
                               "start_server: a limit of 0", std::invalid_argument);
    CHECK_THROWS_WITH_AS(
        static_cast<void>(asyncio::make_streams(asyncio::socket::tcp(), {.limit = 0})),
        doctest::Contains("make_streams: a limit of 0"), std::invalid_argument);
}

ASYNC_TEST_CASE("SR-06: readuntil includes the separator, and an end before it throws the rest") {
    link_ends ends = co_await connected();
    ends.peer().write("head\r\n\r\nbody\r\n\r");
    ends.peer().close();
    const std::string head = co_await ends.reader().readuntil("\r\n\r\n");
    CHECK(head == "head\r\n\r\n");
    std::string partial;
    std::optional<std::size_t> expected = 1;
    try {
        co_await ends.reader().readuntil("\r\n\r\n");
    } catch (const asyncio::incomplete_read_error& e) {
        partial = e.partial();
        expected = e.expected();
    }
    CHECK(partial == "body\r\n\r");
    CHECK_FALSE(expected.has_value());
    const std::string rest = co_await ends.reader().read();
    CHECK(rest == "");
}

ASYNC_TEST_CASE("SR-07: readuntil over the limit leaves everything in place") {
    link_ends ends = co_await connected(4);
    ends.peer().write("123456##");
    std::size_t consumed = 0;
    try {
        co_await ends.reader().readuntil("##");
    } catch (const asyncio::limit_overrun_error& e) {
        consumed = e.consumed();
    }
    CHECK(consumed == 6);
    std::string all = co_await ends.reader().readexactly(8);
    CHECK(all == "123456##");

    ends.peer().write("1234567");
    consumed = 0;
    try {
        co_await ends.reader().readuntil("##");
    } catch (const asyncio::limit_overrun_error& e) {
        consumed = e.consumed();
    }
    CHECK(consumed == 6); // the last byte could begin a separator
    all = co_await ends.reader().read(100);
    CHECK(all == "1234567");
}

ASYNC_TEST_CASE("SR-08: of several separators the one that ends first counts") {
    const std::vector<std::string> one{"DEF", "BCDE"};
    const std::vector<std::string> other{"BCDE", "DEF"};
    link_ends ends = co_await connected();
    ends.peer().write("ABCDEFGABCDEFG");
    std::string part = co_await ends.reader().readuntil(one);
    CHECK(part == "ABCDE");
    part = co_await ends.reader().readexactly(2);
    CHECK(part == "FG");
    part = co_await ends.reader().readuntil(other);
    CHECK(part == "ABCDE");
}

// Which one it is decides how many bytes come before it, and so whether the limit is passed.
ASYNC_TEST_CASE("SR-08: of several separators that end together the shortest counts") {
    const std::vector<std::string> one{"\r\n", "\n"};
    const std::vector<std::string> other{"\n", "\r\n"};
    link_ends ends = co_await connected(4);
    ends.peer().write("abcd\r\n");
    for (const auto* separators : {&one, &other}) {
        auto reading = asyncio::create_task(ends.reader().readuntil(*separators));
        const asyncio::outcome<std::string> got = co_await asyncio::as_outcome(std::move(reading));
        REQUIRE_FALSE(got);
        CHECK(got.error().holds<asyncio::limit_overrun_error>());
    }
    const std::string rest = co_await ends.reader().readexactly(6);
    CHECK(rest == "abcd\r\n");
}

ASYNC_TEST_CASE("SR-08: a separator that comes in pieces is found") {
    const std::vector<std::string> separators{"--end--", "\r\n"};
    link_ends ends = co_await connected();
    auto reading = asyncio::create_task(ends.reader().readuntil(separators));
    for (const char c : std::string("body--en--end--")) {
        ends.peer().write(std::string(1, c));
        co_await ends.peer().drain();
        co_await support::turns(2);
    }
    const std::string part = co_await std::move(reading);
    CHECK(part == "body--en--end--");
}

ASYNC_TEST_CASE("SR-09: an empty separator, or none, is refused") {
    link_ends ends = co_await connected();
    CHECK_THROWS_AS(static_cast<void>(ends.reader().readuntil("")), std::invalid_argument);
    const std::vector<std::string> none;
    CHECK_THROWS_AS(static_cast<void>(ends.reader().readuntil(none)), std::invalid_argument);
    const std::vector<std::string> one_empty{"\n", ""};
    CHECK_THROWS_AS(static_cast<void>(ends.reader().readuntil(one_empty)), std::invalid_argument);
}

ASYNC_TEST_CASE("SR-10: a peer that is not read is held back, and goes on when it is") {
    link_ends ends = co_await connected(1024);
    fill(ends.peer());
    const std::size_t kept = ends.peer().get_write_buffer_size();
    auto draining = asyncio::create_task(ends.peer().drain());
    co_await support::turns(10);
    CHECK_FALSE(draining.done());
    CHECK(ends.peer().get_write_buffer_size() == kept); // not a byte more was taken
    while (!draining.done()) {
        std::string some = co_await ends.reader().read(64 * 1024);
        CHECK_FALSE(some.empty());
        co_await support::turns(1); // what has just been read may be the last there is
    }
    CHECK(draining.exception() == nullptr);
}

#if !defined(_WIN32) // which has no socketpair()
ASYNC_TEST_CASE("who never has to wait, since the peer is fast, lets others have their turn") {
    int fds[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    auto [reader, writer] = asyncio::make_streams(asyncio::socket(fds[0]));
    asyncio::socket peer(fds[1]);
    const auto feed = [&] { CHECK(::send(peer.fileno(), "x", 1, MSG_NOSIGNAL) == 1); };
    feed();
    std::string some = co_await reader.read(10);
    bool turn = false;
    asyncio::get_running_loop().call_soon([&] { turn = true; });
    int reads = 0;
    for (; !turn && reads < 100; ++reads) {
        feed();
        some = co_await reader.read(10);
        CHECK(some == "x");
    }
    CHECK(turn);
    CHECK(reads > 1); // but most reads take no turn
}
#endif

#if !defined(_WIN32)
ASYNC_TEST_CASE("SR-12: an error that comes with the last bytes wakes the reader once") {
    int fds[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    auto [reader, writer] = asyncio::make_streams(asyncio::socket(fds[0]));
    auto reading = asyncio::create_task(reader.readline());
    auto closing = asyncio::create_task(asyncio::as_outcome(writer.wait_closed()));
    co_await support::turns(2);
    writer.write("never read"); // so that the peer's end is a reset
    CHECK(::send(fds[1], "part", 4, MSG_NOSIGNAL) == 4);
    ::close(fds[1]);
    const auto result = co_await asyncio::as_outcome(std::move(reading));
    CHECK_FALSE(result.has_value());
    const auto closed = co_await std::move(closing);
    CHECK_FALSE(closed.has_value());
}

ASYNC_TEST_CASE("a read that is cancelled before it waits leaves nothing behind") {
    int fds[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    auto [reader, writer] = asyncio::make_streams(asyncio::socket(fds[0]));
    const asyncio::socket peer(fds[1]);
    const auto say = [&](std::string_view text) {
        CHECK(::send(peer.fileno(), text.data(), text.size(), MSG_NOSIGNAL) ==
              static_cast<ssize_t>(text.size()));
    };
    say("0123456789");
    std::string read = co_await reader.read(1);
    CHECK(read == "0");
    asyncio::current_task().cancel();
    CHECK_AWAIT_THROWS_AS(reader.readexactly(20), asyncio::cancelled_error);
    asyncio::current_task().uncancel();
    read = co_await reader.read(9);
    CHECK(read == "123456789");
    say("abcdef");
    read = co_await reader.read(6);
    CHECK(read == "abcdef");
}

ASYNC_TEST_CASE("a write for whose rest there is no memory fails, and so does its connection" *
                doctest::skip(support::sanitized || sizeof(void*) < 8)) {
    // A sanitizer's allocator ends the program, and with 32 bits nothing is too large.
    constexpr std::size_t much = std::size_t{1} << (sizeof(void*) < 8 ? 20 : 40);
    void* const data = ::mmap(nullptr, much, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                              -1, 0);
    if (data == MAP_FAILED) {
        MESSAGE("no address space for what no memory can hold: not tested");
        co_return;
    }
    int fds[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    auto [reader, writer] = asyncio::make_streams(asyncio::socket(fds[0]));
    auto [peer_reader, peer_writer] = asyncio::make_streams(asyncio::socket(fds[1]));
    CHECK_THROWS_AS(writer.write(std::string_view(static_cast<const char*>(data), much)),
                    std::bad_alloc);
    CHECK(writer.get_write_buffer_size() == 0);
    CHECK_AWAIT_THROWS_AS(writer.drain(), std::system_error);
    std::string got = co_await peer_reader.read(); // the beginning, and then the end
    CHECK(got.find_first_not_of('\0') == std::string::npos);
    ::munmap(data, much);
}
#endif

ASYNC_TEST_CASE("SR-11: a second reader is refused, the first is not disturbed") {
    link_ends ends = co_await connected();
    auto first = asyncio::create_task(ends.reader().readline());
    co_await support::turns(2);
    CHECK_AWAIT_THROWS_WITH_AS(ends.reader().read(1), "stream_reader::read:", std::runtime_error);
    CHECK_AWAIT_THROWS_WITH_AS(ends.reader().readexactly(1), "readexactly:", std::runtime_error);
    CHECK_AWAIT_THROWS_WITH_AS(ends.reader().readline(), "readline:", std::runtime_error);
    CHECK_AWAIT_THROWS_WITH_AS(ends.reader().readuntil(";"), "readuntil:", std::runtime_error);
    char memory[4];
    CHECK_AWAIT_THROWS_WITH_AS(ends.reader().read_into(memory), "read_into:", std::runtime_error);
    ends.peer().write("line\n");
    const std::string line = co_await std::move(first);
    CHECK(line == "line\n");
}

ASYNC_TEST_CASE("SR-12: an error wakes the reader and is what every later read throws" *
                doctest::skip(under_wine)) {
    link_ends ends = co_await connected();
    ends.peer().write("unread");
    std::string first = co_await ends.reader().read(1);
    CHECK(first == "u");
    auto reading = asyncio::create_task(ends.reader().readline());
    co_await support::turns(2);
    // An end with unread data in its own buffer is a reset for the other side.
    ends.writer().write("never read");
    ends.peer().abort();
    const auto result = co_await asyncio::as_outcome(std::move(reading));
    REQUIRE_FALSE(result.has_value());
    CHECK(result.error().code().value() == ECONNRESET);
    CHECK_AWAIT_THROWS_WITH_AS(ends.reader().read(1), "recv", std::system_error);
    CHECK_AWAIT_THROWS_AS(ends.reader().read(), std::system_error);
}

ASYNC_TEST_CASE("SR-12: after an end of stream the rest can be read") {
    link_ends ends = co_await connected();
    ends.peer().write("line\nrest");
    ends.peer().close();
    const std::string line = co_await ends.reader().readline();
    CHECK(line == "line\n");
    const std::string rest = co_await ends.reader().read();
    CHECK(rest == "rest");
}

ASYNC_TEST_CASE("SR-13: a cancelled read loses no byte") {
    link_ends ends = co_await connected();
    for (int round = 0; round < 4; ++round) {
        std::optional<asyncio::task<std::string>> reading;
        if (round == 0) reading = asyncio::create_task(ends.reader().readexactly(10));
        if (round == 1) reading = asyncio::create_task(ends.reader().readuntil("##"));
        if (round == 2) reading = asyncio::create_task(ends.reader().readline());
        if (round == 3) reading = asyncio::create_task(ends.reader().read());
        ends.peer().write("abc");
        co_await support::turns(3);
        CHECK_FALSE(reading->done());
        reading->cancel();
        CHECK_AWAIT_THROWS_AS(*reading, asyncio::cancelled_error);
        ends.peer().write("def\n");
        std::string all = co_await ends.reader().readexactly(7);
        CHECK(all == "abcdef\n");
    }
}

ASYNC_TEST_CASE("SR-13: a read that is cancelled when its data has come loses none") {
    link_ends ends = co_await connected();
    std::vector<std::byte> buffer(100);
    for (int round = 0; round < 2; ++round) {
        asyncio::any_task reading;
        if (round == 0) reading = asyncio::create_task(ends.reader().read_into(buffer));
        else reading = asyncio::create_task(ends.reader().read(100));
        co_await support::turns(2);
        ends.peer().write("data");
        // The callback runs in the turn in which the read has been woken, before it goes on.
        while (!reading.done()) {
            asyncio::get_running_loop().call_soon([reading] { reading.cancel(); });
            co_await support::turns(1);
        }
        if (!reading.cancelled()) continue; // it was faster
        const std::string all = co_await ends.reader().read(100);
        CHECK(all == "data");
    }
}

ASYNC_TEST_CASE("read_into receives into the caller's memory") {
    link_ends ends = co_await connected();
    std::vector<std::byte> buffer(8);
    ends.peer().write("hello");
    std::size_t n = co_await ends.reader().read_into(buffer);
    CHECK(n == 5);
    CHECK(std::string(reinterpret_cast<const char*>(buffer.data()), n) == "hello");
#if !defined(_WIN32)
    CHECK(system_calls.recv.memory == buffer.data()); // straight there
    auto waiting = asyncio::create_task(ends.reader().read_into(std::span(buffer).subspan(2)));
    co_await support::turns(2);
    ends.peer().write("later");
    n = co_await waiting;
    CHECK(n == 5);
    CHECK(system_calls.recv.memory == buffer.data() + 2);
#endif
    n = co_await ends.reader().read_into(std::span<std::byte>());
    CHECK(n == 0);
    ends.peer().write("line\nrest");
    const std::string line = co_await ends.reader().readline();
    CHECK(line == "line\n");
    n = co_await ends.reader().read_into(buffer); // what the reader had buffered
    CHECK(n == 4);
    ends.peer().close();
    n = co_await ends.reader().read_into(buffer);
    CHECK(n == 0);
    CHECK(ends.reader().at_eof());
}

asyncio::coro<std::string> text_read_into(stream_reader& reader, std::span<std::byte> target) {
    const std::size_t n = co_await reader.read_into(target);
    co_return std::string(reinterpret_cast<const char*>(target.data()), n);
}

ASYNC_TEST_CASE("read_into writes its target as it returns: tasks that wait may share a buffer") {
    link_ends one = co_await connected();
    link_ends two = co_await connected();
    std::vector<std::byte> buffer(8);
    auto first = asyncio::create_task(text_read_into(one.reader(), buffer));
    auto second = asyncio::create_task(text_read_into(two.reader(), buffer));
    co_await support::turns(2);
    one.peer().write("one"); // the loop is told of both at once
    two.peer().write("two");
    std::string text = co_await first;
    CHECK(text == "one");
    text = co_await second;
    CHECK(text == "two");

    buffer.assign(8, std::byte{'-'});
    auto third = asyncio::create_task(text_read_into(one.reader(), buffer));
    co_await support::turns(2);
    one.peer().write("later");
    while (!third.done()) {
        asyncio::get_running_loop().call_soon([third]() mutable { third.cancel(); });
        co_await support::turns(1);
    }
    CHECK(third.cancelled());
    CHECK(buffer == std::vector<std::byte>(8, std::byte{'-'}));
    text = co_await one.reader().readexactly(5);
    CHECK(text == "later");
}

#if !defined(_WIN32)
ASYNC_TEST_CASE("a message costs one send and one receive when somebody waits for it") {
    link_ends ends = co_await connected();
    std::vector<std::byte> buffer(16);
    int sent = 0;
    int received = 0;
    for (int i = 0; i < 12; ++i) {
        if (i == 2) { // what is new about a connection is heard by now
            sent = system_calls.send.made;
            received = system_calls.recv.made;
        }
        auto request = asyncio::create_task(ends.peer_reader().read(16));
        auto answer = asyncio::create_task(text_read_into(ends.reader(), buffer));
        co_await support::turns(2);
        ends.writer().write("request");
        std::string text = co_await request;
        CHECK(text == "request");
        ends.peer().write("answer");
        text = co_await answer;
        CHECK(text == "answer");
    }
    CHECK(system_calls.send.made - sent == 20);
    CHECK(system_calls.recv.made - received == 20);
}
#endif

ASYNC_TEST_CASE("a reader that was moved from says so") {
    link_ends ends = co_await connected();
    stream_reader taken = std::move(ends.near_end.first);
    CHECK_THROWS_AS(static_cast<void>(ends.reader().at_eof()), std::runtime_error);
    ends.peer().write("x");
    const std::string x = co_await taken.read(1);
    CHECK(x == "x");
}

} // TEST_SUITE

TEST_SUITE("stream_writer") {

ASYNC_TEST_CASE("SW-01: write never waits and keeps the order of what it keeps") {
    link_ends ends = co_await connected();
    std::string sent;
    std::vector<std::string> pieces;
    for (int i = 0; i < 2000; ++i) {
        pieces.push_back("piece " + std::to_string(i) + std::string(10'000, '.'));
        sent += pieces.back();
    }
    ends.writer().write("");
    for (std::size_t i = 0; i < 1000; ++i) ends.writer().write(pieces[i]);
    ends.writer().writelines(std::vector<std::string>(pieces.begin() + 1000, pieces.end()));
    CHECK(ends.writer().get_write_buffer_size() > 0);
    ends.writer().close();
    const std::string received = co_await ends.peer_reader().read();
    CHECK(received == sent);
}

ASYNC_TEST_CASE("SW-01: what the system takes is sent within write itself") {
    link_ends ends = co_await connected();
    ends.writer().write("at once");
    CHECK(ends.writer().get_write_buffer_size() == 0);
    const std::string received = co_await ends.peer_reader().read(100);
    CHECK(received == "at once");
}

ASYNC_TEST_CASE("SW-01: writelines takes ranges of text and pieces made on the way") {
    link_ends ends = co_await connected();
    const std::vector<std::string_view> views{"a", "", "b"};
    ends.writer().writelines(views);
    struct numbers {
        struct iterator {
            std::string operator*() const { return std::to_string(n); }
            iterator& operator++() {
                ++n;
                return *this;
            }
            bool operator!=(const iterator& other) const { return n != other.n; }
            int n;
        };
        iterator begin() const { return {0}; }
        iterator end() const { return {5}; }
    };
    ends.writer().writelines(numbers());
    std::string received = co_await ends.peer_reader().readexactly(7);
    CHECK(received == "ab01234");
    std::istringstream words("one two three");
    ends.writer().writelines(std::views::istream<std::string>(words)); // one string for all
    received = co_await ends.peer_reader().readexactly(11);
    CHECK(received == "onetwothree");
}

#if !defined(_WIN32)

ASYNC_TEST_CASE("SW-01: what is kept is sent many pieces at a time") {
    link_ends ends = co_await connected();
    fill(ends.writer(), 1);
    const std::string piece(20'000, 'p'); // which is kept as one
    for (int i = 0; i < 100; ++i) ends.writer().write(piece);
    const int calls_before = system_calls.sendmsg.made + system_calls.send.made;
    const int pieces_before = system_calls.sendmsg.pieces + system_calls.send.pieces;
    ends.writer().close();
    co_await ends.peer_reader().read();
    const int calls = system_calls.sendmsg.made + system_calls.send.made - calls_before;
    const int pieces = system_calls.sendmsg.pieces + system_calls.send.pieces - pieces_before;
    CAPTURE(calls);
    CHECK(pieces >= 100);
    CHECK(calls <= pieces / 8);
}

#endif

ASYNC_TEST_CASE("SW-02: drain waits from the high mark down to the low one") {
    link_ends ends = co_await connected();
    ends.writer().set_write_buffer_limits(3'000'000, 16 * 1024); // far apart: much goes at once
    fill(ends.writer(), 4'000'000);
    auto draining = asyncio::create_task(ends.writer().drain());
    co_await support::turns(3);
    CHECK_FALSE(draining.done());
    while (!draining.done()) {
        std::string some = co_await ends.peer_reader().read(64 * 1024);
        CHECK_FALSE(some.empty());
        co_await support::turns(1);
        const bool low = ends.writer().get_write_buffer_size() <= 16 * 1024;
        CHECK((low || !draining.done()));
    }
}

ASYNC_TEST_CASE("SW-03: all who drain go on together") {
    link_ends ends = co_await connected();
    fill(ends.writer());
    std::vector<asyncio::task<>> all;
    for (int i = 0; i < 3; ++i) all.push_back(asyncio::create_task(ends.writer().drain()));
    co_await support::turns(2);
    auto reading = asyncio::create_task(ends.peer_reader().read());
    co_await all[0];
    co_await support::turns(1);
    CHECK(all[1].done());
    CHECK(all[2].done());
    ends.writer().close();
    co_await reading;
}

ASYNC_TEST_CASE("SW-04: drain below the mark returns at once") {
    link_ends ends = co_await connected();
    bool others_ran = false;
    asyncio::get_running_loop().call_soon([&] { others_ran = true; });
    ends.writer().write("little");
    co_await ends.writer().drain();
    CHECK_FALSE(others_ran);
    co_await support::turns(2);
    CHECK(others_ran);
}

ASYNC_TEST_CASE_ORDERED("SW-04: drain while closing gives up the loop once") {
    link_ends ends = co_await connected();
    ends.writer().set_write_buffer_limits(10'000'000);
    fill(ends.writer());
    ends.writer().close();
    CHECK(ends.writer().is_closing());
    bool others_ran = false;
    asyncio::get_running_loop().call_soon([&] { others_ran = true; });
    co_await ends.writer().drain();
    CHECK(others_ran);
    ends.writer().abort();
}

ASYNC_TEST_CASE("SW-05: write and drain against a closed peer end with an error") {
    link_ends ends = co_await connected();
    ends.peer().abort();
    std::exception_ptr error;
    for (int i = 0; i < 1000 && !error; ++i) {
        ends.writer().write("anybody there?");
        try {
            co_await ends.writer().drain();
        } catch (...) {
            error = std::current_exception();
        }
    }
    const int code = code_of(error);
    CHECK((code == ECONNRESET || code == EPIPE));
    CHECK_AWAIT_THROWS_AS(ends.reader().read(1), std::system_error);
}

ASYNC_TEST_CASE("SW-05: a connection that is lost wakes who drains") {
    link_ends ends = co_await connected();
    fill(ends.writer());
    auto first = asyncio::create_task(ends.writer().drain());
    auto second = asyncio::create_task(ends.writer().drain());
    co_await support::turns(2);
    ends.peer().abort(); // with unread data: a reset
    const auto one = co_await asyncio::as_outcome(std::move(first));
    const auto other = co_await asyncio::as_outcome(std::move(second));
    REQUIRE_FALSE(one.has_value());
    REQUIRE_FALSE(other.has_value());
    CHECK(one.error().code().value() == ECONNRESET);
}

ASYNC_TEST_CASE("SW-05: drain after close says that the connection is closed") {
    link_ends ends = co_await connected();
    ends.writer().close();
    CHECK_AWAIT_THROWS_WITH_AS(ends.writer().drain(), "closed", std::system_error);
}

ASYNC_TEST_CASE("SW-06: close sends what is kept, and only then wait_closed is done") {
    link_ends ends = co_await connected();
    fill(ends.writer());
    ends.writer().write("last words");
    auto reading = asyncio::create_task(ends.reader().read());
    ends.writer().close();
    auto closing = asyncio::create_task(ends.writer().wait_closed());
    co_await support::turns(3);
    CHECK_FALSE(closing.done());
    CHECK(reading.done()); // no more reading
    CHECK(reading.result() == "");
    const std::string received = co_await ends.peer_reader().read();
    CHECK(received.ends_with("last words"));
    co_await closing;
    ends.writer().close();
    co_await ends.writer().wait_closed();
}

ASYNC_TEST_CASE("SW-06: wait_closed throws the error that ended the connection" *
                doctest::skip(under_wine)) {
    link_ends ends = co_await connected();
    ends.writer().write("never read");
    co_await support::turns(1);
    ends.peer().abort();
    CHECK_AWAIT_THROWS_AS(ends.reader().read(1), std::system_error);
    CHECK(ends.writer().is_closing());
    CHECK_AWAIT_THROWS_AS(ends.writer().wait_closed(), std::system_error);
}

ASYNC_TEST_CASE("SW-07: write_eof ends writing after all that was written, reading goes on") {
    link_ends ends = co_await connected();
    CHECK(ends.writer().can_write_eof());
    fill(ends.writer());
    ends.writer().write("end");
    ends.writer().write_eof();
    ends.writer().write_eof();
    CHECK_THROWS_AS(ends.writer().write("more"), std::runtime_error);
    const std::string received = co_await ends.peer_reader().read();
    CHECK(received.ends_with("end"));
    ends.peer().write("answer\n");
    const std::string answer = co_await ends.reader().readline();
    CHECK(answer == "answer\n");
}

ASYNC_TEST_CASE("SW-08: abort drops what is kept, and a waiting read sees the end") {
    link_ends ends = co_await connected();
    fill(ends.writer());
    auto reading = asyncio::create_task(ends.reader().readline());
    auto draining = asyncio::create_task(ends.writer().drain());
    co_await support::turns(2);
    ends.writer().abort();
    CHECK(ends.writer().get_write_buffer_size() == 0);
    const std::string line = co_await std::move(reading);
    CHECK(line == "");
    const auto drained = co_await asyncio::as_outcome(std::move(draining));
    REQUIRE_FALSE(drained.has_value());
    CHECK(drained.error().code().value() == ECONNRESET);
    co_await ends.writer().wait_closed();
    ends.writer().abort();
    ends.writer().write("ignored");
}

ASYNC_TEST_CASE("SW-09: limits that make no sense are refused, the others follow from each other") {
    link_ends ends = co_await connected();
    stream_writer& writer = ends.writer();
    CHECK_THROWS_AS(writer.set_write_buffer_limits(10, 11), std::invalid_argument);
    CHECK_THROWS_AS(writer.set_write_buffer_limits(-1), std::invalid_argument);
    CHECK_THROWS_AS(writer.set_write_buffer_limits(10, -1), std::invalid_argument);
    writer.set_write_buffer_limits(10'000'000);
    fill(writer);
    co_await writer.drain();
    writer.set_write_buffer_limits(1000); // below the fill: paused at once
    auto draining = asyncio::create_task(writer.drain());
    co_await support::turns(2);
    CHECK_FALSE(draining.done());
    while (!draining.done()) {
        std::string some = co_await ends.peer_reader().read(64 * 1024);
        CHECK_FALSE(some.empty());
        co_await support::turns(1);
        const bool low = writer.get_write_buffer_size() <= 250;
        CHECK((low || !draining.done()));
    }
    writer.set_write_buffer_limits({}, 100); // high becomes 400
    fill(writer);
    auto again = asyncio::create_task(writer.drain());
    co_await support::turns(1);
    CHECK_FALSE(again.done());
    again.cancel();
    CHECK_AWAIT_THROWS_AS(again, asyncio::cancelled_error);
    writer.abort();
}

ASYNC_TEST_CASE("a writer that goes out of scope sends what is kept and closes") {
    link_ends ends = co_await connected();
    std::string received;
    {
        stream_writer writer = std::move(ends.near_end.second);
        fill(writer);
        writer.write("bye");
    }
    received = co_await ends.peer_reader().read();
    CHECK(received.ends_with("bye"));
}

ASYNC_TEST_CASE("both ends know their addresses, also after closing") {
    link_ends ends = co_await connected();
    CHECK(ends.writer().peername() == ends.peer().sockname());
    CHECK(ends.writer().sockname() == ends.peer().peername());
    CHECK(ends.writer().peername().host() == "127.0.0.1");
    ends.writer().set_nodelay(false);
    ends.writer().set_nodelay(true);
    ends.writer().close();
    CHECK(ends.writer().peername() == ends.peer().sockname());
    CHECK(ends.writer().sockname() == ends.peer().peername());
    ends.writer().set_nodelay(true); // nothing to do any more
    link_ends others = co_await connected();
    const asyncio::address own = others.peer().peername();
    others.writer().abort();
    CHECK(others.writer().sockname() == own); // which nobody has asked for before
}

ASYNC_TEST_CASE("sendfile sends a file, or a part of it, between what is written") {
    const support::scratch folder;
    const std::string contents = support::pattern(3'000'000);
    support::put(folder / "file", contents);
    const opened_file opened(folder / "file");
    const int file = opened.get();
    link_ends ends = co_await connected();
    auto reading = asyncio::create_task(ends.peer_reader().read());
    ends.writer().write("before ");
    fill(ends.writer()); // there is something to wait for first
    std::size_t sent = co_await ends.writer().sendfile(file);
    CHECK(sent == contents.size());
    ends.writer().write(" between ");
    sent = co_await ends.writer().sendfile(file, 1'000'000, 500);
    CHECK(sent == 500);
    sent = co_await ends.writer().sendfile(file, 2'999'990, 500);
    CHECK(sent == 10); // the file ends there
    sent = co_await ends.writer().sendfile(file, 5'000'000);
    CHECK(sent == 0);
    sent = co_await ends.writer().sendfile(file, 0, 0);
    CHECK(sent == 0);
    ends.writer().write(" after");
    ends.writer().close();
    const std::string received = co_await std::move(reading);
    const std::string expected = contents + " between " + contents.substr(1'000'000, 500) +
                                 contents.substr(2'999'990) + " after";
    CHECK(received.starts_with("before fff"));
    CHECK(received.ends_with("f" + expected));
    CHECK_THROWS_AS(ends.writer().sendfile(file, -1), std::invalid_argument);
#if !defined(_WIN32) // where every read moves it
    CHECK(::lseek(file, 0, SEEK_CUR) == 0); // its own position is not touched
#endif
}

ASYNC_TEST_CASE("while a file is sent nothing else is, and closing waits for it") {
    const support::scratch folder;
    const std::string contents = support::pattern(20'000'000);
    support::put(folder / "file", contents);
    const opened_file opened(folder / "file");
    const int file = opened.get();
    for (const bool half : {true, false}) {
        link_ends ends = co_await connected();
        auto sending = asyncio::create_task(ends.writer().sendfile(file));
        co_await support::turns(5);
        CHECK_FALSE(sending.done());
        CHECK_THROWS_WITH_AS(ends.writer().write("no"),
                             doctest::Contains("::write: a sendfile() is in progress"),
                             std::runtime_error);
        const std::vector<std::string> pieces{"no"};
        CHECK_THROWS_WITH_AS(ends.writer().writelines(pieces),
                             doctest::Contains("::writelines: a sendfile() is in progress"),
                             std::runtime_error);
        CHECK_AWAIT_THROWS_WITH_AS(ends.writer().sendfile(file),
                                   "::sendfile: a sendfile() is in progress", std::runtime_error);
        if (half) ends.writer().write_eof();
        else ends.writer().close();
        const std::string received = co_await ends.peer_reader().read();
        CHECK(received == contents);
        const std::size_t sent = co_await sending;
        CHECK(sent == contents.size());
        if (half) {
            CHECK_AWAIT_THROWS_WITH_AS(ends.writer().sendfile(file),
                                       "::sendfile: write_eof() has been called",
                                       std::runtime_error);
            ends.peer().write("answer");
            const std::string answer = co_await ends.reader().read(6);
            CHECK(answer == "answer");
        } else {
            co_await ends.writer().wait_closed();
            CHECK_AWAIT_THROWS_AS(ends.writer().sendfile(file), std::system_error);
        }
    }
}

#if !defined(_WIN32) // whose files have no holes by themselves
ASYNC_TEST_CASE("what lies beyond four gigabytes of a file is sent, also where a size has 32 bits") {
    const support::scratch folder;
    constexpr std::int64_t place = (std::int64_t{1} << 32) + 5;
    support::put(folder / "file", "at the start");
    {
        asyncio::file file = co_await asyncio::file::open(folder / "file", "r+");
        co_await file.seek(place);
        co_await file.write("far behind");
    }
    const opened_file opened(folder / "file");
    link_ends ends = co_await connected();
    const std::size_t sent = co_await ends.writer().sendfile(opened.get(), place);
    CHECK(sent == 10);
    ends.writer().close();
    const std::string received = co_await ends.peer_reader().read();
    CHECK(received == "far behind");
}
#endif

ASYNC_TEST_CASE("a sendfile ends with its connection, and can be cancelled") {
    const support::scratch folder;
    support::put(folder / "file", support::pattern(20'000'000));
    const opened_file opened(folder / "file");
    const int file = opened.get();
    for (int round = 0; round < 3; ++round) {
        link_ends ends = co_await connected();
        auto sending = asyncio::create_task(ends.writer().sendfile(file));
        co_await support::turns(5);
        CHECK_FALSE(sending.done());
        if (round == 0) ends.writer().abort();
        if (round == 1) ends.peer().abort(); // with unread data: a reset
        if (round == 2) {
            sending.cancel();
            CHECK_AWAIT_THROWS_AS(sending, asyncio::cancelled_error);
            ends.writer().write("the end"); // allowed again
            ends.writer().close();
            const std::string received = co_await ends.peer_reader().read();
            CHECK(received.ends_with("the end"));
        } else {
            const int code = co_await code_thrown_by(sending);
            CHECK((code == ECONNRESET || code == EPIPE));
        }
    }
    // No signal comes of it, either.
    link_ends ends = co_await connected();
    ends.peer().abort();
    const int code = co_await code_thrown_by(ends.writer().sendfile(file));
    CHECK((code == ECONNRESET || code == EPIPE));
}

#if !defined(_WIN32) // where nothing is sent by the system itself

ASYNC_TEST_CASE("what the system cannot send by itself is read and sent, or refused") {
    link_ends ends = co_await connected();
    const int status = ::open("/proc/self/status", O_RDONLY | O_CLOEXEC); // no file on a disk
    std::size_t sent = co_await ends.writer().sendfile(status);
    CHECK(sent > 100);
    const std::string received =
        co_await ends.peer_reader().readexactly(static_cast<std::ptrdiff_t>(sent));
    CHECK(received.starts_with("Name:"));
    ::close(status);
    int fds[2];
    REQUIRE(::pipe(fds) == 0);
    CHECK_AWAIT_THROWS_AS(ends.writer().sendfile(fds[0]), std::system_error);
    CHECK_AWAIT_THROWS_AS(ends.writer().sendfile(-1), std::system_error);
    ::close(fds[0]);
    ::close(fds[1]);
    ends.writer().write("still there");
    const std::string text = co_await ends.peer_reader().readexactly(11);
    CHECK(text == "still there");
}

#endif

ASYNC_TEST_CASE("bytes can be written as bytes") {
    link_ends ends = co_await connected();
    const std::vector<std::byte> bytes{std::byte{0}, std::byte{255}};
    ends.writer().write(bytes);
    const std::string received = co_await ends.peer_reader().readexactly(2);
    CHECK(received == std::string("\0\xff", 2));
}

} // TEST_SUITE

TEST_SUITE("server") {

ASYNC_TEST_CASE("SV-01: a server that is not serving is bound but accepts nobody") {
    asyncio::server server =
        co_await asyncio::start_server(echo, "127.0.0.1", 0, {.start_serving = false});
    CHECK_FALSE(server.is_serving());
    CHECK(server.port() != 0);
    CHECK_AWAIT_THROWS_AS(asyncio::open_connection("127.0.0.1", server.port()), std::system_error);
    co_await server.start_serving();
    co_await server.start_serving();
    CHECK(server.is_serving());
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
    writer.write("hello\n");
    const std::string line = co_await reader.readline();
    CHECK(line == "hello\n");
    writer.close();
    server.close();
    co_await server.wait_closed();
}

ASYNC_TEST_CASE("SV-02: close stops listening at once, connections go on") {
    asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
    const int port = server.port();
    CHECK(server.sockets().size() == 1);
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    writer.write("a\n");
    std::string line = co_await reader.readline();
    server.close();
    server.close();
    CHECK_FALSE(server.is_serving());
    CHECK(server.sockets().empty());
    CHECK(server.port() == 0);
    CHECK_AWAIT_THROWS_AS(asyncio::open_connection("127.0.0.1", port), std::system_error);
    writer.write("b\n");
    line = co_await reader.readline();
    CHECK(line == "b\n");
    writer.close();
    co_await server.wait_closed();
}

ASYNC_TEST_CASE("SV-03: wait_closed waits for close and for the last connection") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    std::vector<asyncio::task<>> waiting;
    for (int i = 0; i < 2; ++i) waiting.push_back(asyncio::create_task(server.wait_closed()));
    co_await support::turns(3);
    CHECK_FALSE(waiting[0].done());
    stream_pair client = co_await asyncio::open_connection("127.0.0.1", server.port());
    stream_pair accepted = co_await side.accepted->get();
    server.close();
    co_await support::turns(3);
    CHECK_FALSE(waiting[0].done());
    accepted.second.close();
    co_await waiting[0];
    co_await waiting[1];
    bool others_ran = false;
    asyncio::get_running_loop().call_soon([&] { others_ran = true; });
    co_await server.wait_closed();
    CHECK_FALSE(others_ran);
    co_await support::turns(1);
}

ASYNC_TEST_CASE("SV-04: a cancelled serve_forever closes, waits for connections, then ends") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    stream_pair client = co_await asyncio::open_connection("127.0.0.1", server.port());
    stream_pair accepted = co_await side.accepted->get();
    auto serving = asyncio::create_task(server.serve_forever());
    co_await support::turns(2);
    serving.cancel();
    co_await support::turns(3);
    CHECK_FALSE(server.is_serving());
    CHECK_FALSE(serving.done());
    accepted.second.close();
    CHECK_AWAIT_THROWS_AS(serving, asyncio::cancelled_error);
}

TEST_CASE("a server that outlives its loop has ended, and says so") {
    std::optional<asyncio::server> server;
    const asyncio::run_options options{.clock = asyncio::clock_kind::virtual_time};
    asyncio::run(
        [&]() -> asyncio::coro<> {
            const auto on_client = [](stream_reader reader, stream_writer) -> asyncio::coro<> {
                static_cast<void>(co_await reader.read());
            };
            asyncio::server made = co_await asyncio::start_server(on_client, "127.0.0.1", 0);
            const stream_pair client = co_await asyncio::open_connection("127.0.0.1", made.port());
            server.emplace(std::move(made));
        },
        options);
    asyncio::run(
        [&]() -> asyncio::coro<> {
            CHECK_FALSE(server->is_serving());
            CHECK_AWAIT_THROWS_WITH_AS(server->serve_forever(), "its event loop is closed",
                                       std::runtime_error);
            CHECK_AWAIT_THROWS_WITH_AS(server->start_serving(), "its event loop is closed",
                                       std::runtime_error);
            co_await asyncio::wait_for(server->wait_closed(), 1h);
            co_await asyncio::wait_for(server->drain(2h), 1h);
            server->close_clients();
        },
        options);
}

ASYNC_TEST_CASE("SV-05: close ends serve_forever with cancelled_error") {
    asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
    int cancelling = -1;
    bool cancelled = false;
    auto serving = asyncio::create_task([&]() -> asyncio::coro<> {
        try {
            co_await server.serve_forever();
        } catch (const asyncio::cancelled_error&) {
            cancelled = true;
            cancelling = asyncio::current_task().cancelling();
        }
    });
    co_await support::turns(2);
    CHECK_AWAIT_THROWS_AS(server.serve_forever(), std::runtime_error);
    server.close();
    co_await serving;
    CHECK(cancelled);
    CHECK(cancelling == 0);
    CHECK_AWAIT_THROWS_AS(server.serve_forever(), std::runtime_error);
    CHECK_AWAIT_THROWS_AS(server.start_serving(), std::runtime_error);
}

ASYNC_TEST_CASE("SV-06: close_clients closes each connection after what it has to send") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    stream_pair client = co_await asyncio::open_connection("127.0.0.1", server.port());
    stream_pair accepted = co_await side.accepted->get();
    fill(accepted.second);
    accepted.second.write("end");
    server.close();
    server.close_clients();
    CHECK(accepted.second.is_closing());
    const std::string received = co_await client.first.read();
    CHECK(received.ends_with("end"));
    co_await server.wait_closed();
}

ASYNC_TEST_CASE("SV-06: abort_clients drops each connection with what it has to send") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    stream_pair client = co_await asyncio::open_connection("127.0.0.1", server.port());
    stream_pair accepted = co_await side.accepted->get();
    fill(accepted.second);
    server.close();
    server.abort_clients();
    co_await server.wait_closed();
    CHECK(accepted.second.get_write_buffer_size() == 0);
}

ASYNC_TEST_CASE("SV-07: a handler that throws is reported and loses only its connection") {
    const auto reports = support::collect_reports();
    auto handler = [](stream_reader reader, stream_writer writer) -> asyncio::coro<> {
        for (;;) {
            const std::string line = co_await reader.readline();
            if (line.empty()) co_return;
            if (line == "bad\n") throw std::logic_error("no luck");
            writer.write("good\n");
        }
    };
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    auto [other_reader, other] = co_await asyncio::open_connection("127.0.0.1", server.port());
    other.write("before\n");
    std::string answer = co_await other_reader.readline();
    CHECK(answer == "good\n");
    auto [bad_reader, bad] = co_await asyncio::open_connection("127.0.0.1", server.port());
    bad.write("bad\n");
    answer = co_await bad_reader.read();
    CHECK(answer == "");
    other.write("afterwards\n");
    answer = co_await other_reader.readline();
    CHECK(answer == "good\n");
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
    writer.write("x\n");
    answer = co_await reader.readline();
    CHECK(answer == "good\n");
    REQUIRE(reports->size() == 1);
    CHECK(reports->at(0).message.find("unhandled exception in the client callback") !=
          std::string::npos);
    CHECK(support::message_of(reports->at(0).exception) == "no luck");
}

ASYNC_TEST_CASE("SV-07: a handler that is cancelled closes its connection without a report") {
    const auto reports = support::collect_reports();
    std::vector<asyncio::any_task> tasks;
    auto handler = [&](stream_reader reader, stream_writer writer) -> asyncio::coro<> {
        tasks.push_back(asyncio::current_task());
        writer.write("hello\n");
        co_await reader.readline();
    };
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
    std::string line = co_await reader.readline();
    CHECK(line == "hello\n");
    REQUIRE(tasks.size() == 1);
    tasks[0].cancel();
    line = co_await reader.readline();
    CHECK(line == "");
    co_await support::turns(2);
    CHECK(reports->empty());
}

ASYNC_TEST_CASE("SV-07: a plain callback that throws is reported, too") {
    const auto reports = support::collect_reports();
    auto handler = [](stream_reader, stream_writer) { throw std::logic_error("no luck"); };
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
    const std::string rest = co_await reader.read();
    CHECK(rest == "");
    REQUIRE(reports->size() == 1);
}

asyncio::coro<> borrowing_echo(asyncio::stream_reader& reader, asyncio::stream_writer& writer) {
    const std::string line = co_await reader.readline();
    writer.write(line);
    co_await writer.drain();
}

ASYNC_TEST_CASE("a server's handler may take its streams as references") {
    const auto constant = [](const asyncio::stream_reader&,
                             const asyncio::stream_writer& writer) -> asyncio::coro<> {
        co_await asyncio::sleep(1ms);
        CHECK_FALSE(writer.is_closing());
    };
    asyncio::server echoing = co_await asyncio::start_server(borrowing_echo, "127.0.0.1", 0);
    asyncio::server looking = co_await asyncio::start_server(constant, "127.0.0.1", 0);
    {
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", echoing.port());
        writer.write("hello\n");
        const std::string all = co_await reader.read();
        CHECK(all == "hello\n");
    }
    {
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", looking.port());
        const std::string all = co_await reader.read();
        CHECK(all.empty());
    }
}

ASYNC_TEST_CASE("a server's handler may keep state in its closure") {
    auto count = std::make_shared<int>(0);
    auto handler = [count](stream_reader, stream_writer writer) -> asyncio::coro<> {
        ++*count;
        writer.write("you are number " + std::to_string(*count));
        co_return;
    };
    std::string answer;
    {
        asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
        for (int i = 0; i < 3; ++i) {
            auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
            answer = co_await reader.read();
        }
    }
    CHECK(answer == "you are number 3");
}

ASYNC_TEST_CASE("with() closes a server and waits for its connections") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    int port = 0;
    auto body = [&](asyncio::server& s) -> asyncio::coro<> {
        port = s.port();
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
        stream_pair accepted = co_await side.accepted->get();
        accepted.second.write("x");
        const std::string x = co_await reader.read(1);
        CHECK(x == "x");
    };
    co_await asyncio::with(server, body);
    CHECK_FALSE(server.is_serving());
    CHECK_AWAIT_THROWS_AS(asyncio::open_connection("127.0.0.1", port), std::system_error);
}

ASYNC_TEST_CASE("max_connections keeps the others waiting until a place is free") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server =
        co_await asyncio::start_server(handler, "127.0.0.1", 0, {.max_connections = 1});
    stream_pair first = co_await asyncio::open_connection("127.0.0.1", server.port());
    stream_pair second = co_await asyncio::open_connection("127.0.0.1", server.port());
    stream_pair served = co_await side.accepted->get();
    co_await support::turns(10);
    CHECK(side.accepted->empty());
    served.second.close();
    stream_pair next = co_await side.accepted->get();
    next.second.write("your turn");
    const std::string received = co_await second.first.read(100);
    CHECK(received == "your turn");
}

ASYNC_TEST_CASE("max_connections counts the connections of all sockets together") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server =
        co_await asyncio::start_server(handler, "", 0, {.max_connections = 1});
    std::vector<stream_pair> clients;
    for (const asyncio::server_socket& socket : server.sockets()) {
        const char* const host = socket.local_address().is_v6() ? "::1" : "127.0.0.1";
        for (int i = 0; i < 2; ++i) {
            stream_pair client = co_await asyncio::open_connection(host, server.port());
            clients.push_back(std::move(client));
        }
    }
    for (std::size_t i = 0; i < clients.size(); ++i) {
        stream_pair served = co_await side.accepted->get();
        co_await support::turns(10);
        CHECK(side.accepted->empty());
    }
}

ASYNC_TEST_CASE("max_connections holds when several sockets get connections at once") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server =
        co_await asyncio::start_server(handler, "", 0, {.max_connections = 1});
    std::vector<asyncio::task<stream_pair>> connecting;
    for (const asyncio::server_socket& socket : server.sockets()) {
        const char* const host = socket.local_address().is_v6() ? "::1" : "127.0.0.1";
        connecting.push_back(
            asyncio::create_task(asyncio::open_connection(host, server.port())));
    }
    std::vector<stream_pair> clients;
    for (auto& task : connecting) {
        stream_pair client = co_await std::move(task);
        clients.push_back(std::move(client));
    }
    for (std::size_t i = 0; i < clients.size(); ++i) {
        stream_pair served = co_await side.accepted->get();
        co_await support::turns(10);
        CHECK(side.accepted->empty());
    }
}

// The kernel takes no more than the backlog before the server has had a turn, and here all clients
// connect within one. Who finds it full asks again after a second, or is lost unnoticed.
ASYNC_TEST_CASE("three hundred clients connect at once, at the first attempt") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    const asyncio::address where = server.sockets().front().local_address();
    const auto client = [](asyncio::address to) -> asyncio::coro<unsigned> {
        asyncio::socket plain = asyncio::socket::tcp();
        co_await plain.connect(to);
        unsigned repeated = 0;
#if defined(__linux__) // others tell nobody, or in another way
        tcp_info info{};
        plain.getsockopt(IPPROTO_TCP, TCP_INFO, std::as_writable_bytes(std::span(&info, 1)));
        repeated = info.tcpi_total_retrans;
#endif
        auto [reader, writer] = asyncio::make_streams(std::move(plain));
        const std::string greeting = co_await reader.read();
        CHECK(greeting == "hello");
        co_return repeated;
    };
    std::vector<asyncio::task<unsigned>> clients;
    for (int i = 0; i < 300; ++i) clients.push_back(asyncio::create_task(client(where)));
    for (int i = 0; i < 300; ++i) {
        stream_pair accepted = co_await side.accepted->get();
        accepted.second.write("hello");
    }
    unsigned repeated = 0;
    for (auto& task : clients) repeated += co_await task;
    CHECK(repeated == 0);
}

ASYNC_TEST_CASE("drain lets connections end for a while, then aborts them") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    stream_pair client = co_await asyncio::open_connection("127.0.0.1", server.port());
    stream_pair accepted = co_await side.accepted->get();
    const asyncio::time_point before = asyncio::get_running_loop().time();
    co_await server.drain(10s);
    CHECK(asyncio::get_running_loop().time() - before >= asyncio::duration(10s));
    CHECK(accepted.second.is_closing());
    const std::string rest = co_await client.first.read();
    CHECK(rest == "");
}

ASYNC_TEST_CASE("all addresses of a host listen on the same port") {
    asyncio::server server = co_await asyncio::start_server(echo, "", 0);
    for (const asyncio::server_socket& socket : server.sockets())
        CHECK(socket.local_address().port() == server.port());
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
    writer.write("x\n");
    const std::string line = co_await reader.readline();
    CHECK(line == "x\n");
}

ASYNC_TEST_CASE("a port that is in use is named in the error") {
    asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
    const std::string where = "bind to 127.0.0.1:" + std::to_string(server.port());
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::start_server(echo, "127.0.0.1", server.port()), where,
                               std::system_error);
}

#if defined(_WIN32)

ASYNC_TEST_CASE("reuse_port is refused by name") {
    CHECK_AWAIT_THROWS_WITH_AS(
        asyncio::start_server(echo, "127.0.0.1", 0, {.reuse_port = true}),
        "reuse_port is not supported on Windows", std::system_error);
}

#else

ASYNC_TEST_CASE("reuse_port lets two servers share a port") {
    asyncio::server one =
        co_await asyncio::start_server(echo, "127.0.0.1", 0, {.reuse_port = true});
    asyncio::server other =
        co_await asyncio::start_server(echo, "127.0.0.1", one.port(), {.reuse_port = true});
    CHECK(one.port() == other.port());
}

#endif

ASYNC_TEST_CASE("keep_alive is the connection's, on both sides") {
    for (const bool on : {false, true}) {
        acceptor side;
        auto handler = side.handler();
        asyncio::server server =
            co_await asyncio::start_server(handler, "127.0.0.1", 0, {.keep_alive = on});
        stream_pair client = co_await asyncio::open_connection("127.0.0.1", server.port(),
                                                               {.keep_alive = on});
        stream_pair served = co_await side.accepted->get();
        for (const stream_writer* writer : {&client.second, &served.second}) {
            int found = on ? 0 : 1; // Windows writes one byte of it
            socklen_t size = sizeof found;
            const auto s = static_cast<system_socket>(
                descriptor_of(writer->sockname(), writer->peername()));
            char* const to = reinterpret_cast<char*>(&found);
            REQUIRE(::getsockopt(s, SOL_SOCKET, SO_KEEPALIVE, to, &size) == 0);
            CHECK(found == (on ? 1 : 0));
            found = 0;
            REQUIRE(::getsockopt(s, IPPROTO_TCP, TCP_NODELAY, to, &size) == 0);
            CHECK(found == 1);
        }
    }
}

ASYNC_TEST_CASE("streams made of a socket send small writes without delay, too") {
    asyncio::socket listener = asyncio::socket::tcp();
    listener.bind(asyncio::address("127.0.0.1", 0));
    listener.listen();
    asyncio::socket plain = asyncio::socket::tcp();
    co_await plain.connect(listener.local_address());
    const auto s = static_cast<system_socket>(plain.fileno());
    auto [reader, writer] = asyncio::make_streams(std::move(plain));
    int found = 0;
    socklen_t size = sizeof found;
    char* const to = reinterpret_cast<char*>(&found);
    REQUIRE(::getsockopt(s, IPPROTO_TCP, TCP_NODELAY, to, &size) == 0);
    CHECK(found == 1);
}

ASYNC_TEST_CASE("a server can listen on a socket that somebody else has bound") {
    const int before = open_descriptors();
    {
        asyncio::socket bound = asyncio::socket::tcp();
        bound.bind(asyncio::address("127.0.0.1", 0));
        const int port = bound.local_address().port();
        asyncio::server server = co_await asyncio::start_server(echo, std::move(bound));
        CHECK(server.port() == port);
        CHECK(server.sockets().size() == 1);
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
        writer.write("x\n");
        const std::string line = co_await reader.readline();
        CHECK(line == "x\n");
        writer.close();
        server.close();
        co_await server.wait_closed();
    }
    CHECK(open_descriptors() == before);
    CHECK_AWAIT_THROWS_AS(asyncio::start_server(echo, asyncio::socket::udp()),
                          std::invalid_argument);
    CHECK_AWAIT_THROWS_AS(asyncio::start_server(echo, asyncio::socket()), std::system_error);
}

ASYNC_TEST_CASE("streams can be made of a socket that is connected") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    for (const bool at_once : {true, false}) {
        asyncio::socket plain = asyncio::socket::tcp();
        co_await plain.connect(asyncio::address("127.0.0.1", server.port()));
        stream_pair served = co_await side.accepted->get();
        // What a cancelled recv() has taken is not lost.
        auto receiving = asyncio::create_task(plain.recv(100));
        co_await support::turns(2);
        served.second.write("early ");
        while (!receiving.done()) {
            asyncio::get_running_loop().call_soon([receiving] { receiving.cancel(); });
            co_await support::turns(1);
        }
        REQUIRE(receiving.cancelled());
        std::optional<stream_pair> client;
        if (at_once) client.emplace(asyncio::make_streams(std::move(plain), {.limit = 10}));
        else client = co_await asyncio::open_connection(std::move(plain), {.limit = 10});
        CHECK(plain.fileno() == -1);
        served.second.write("late\n");
        const std::string line = co_await client->first.readline();
        CHECK(line == "early late\n");
        CHECK(client->second.peername() == served.second.sockname());
        client->second.write("x");
        const std::string x = co_await served.first.read(1);
        CHECK(x == "x");
        served.second.write("longer than the limit\n");
        CHECK_AWAIT_THROWS_AS(client->first.readline(), std::invalid_argument);
    }
    CHECK_THROWS_AS(asyncio::make_streams(asyncio::socket::udp()), std::invalid_argument);
    CHECK_THROWS_AS(asyncio::make_streams(asyncio::socket::tcp()), std::system_error);
    CHECK_AWAIT_THROWS_AS(asyncio::open_connection(asyncio::socket()), std::system_error);
}

ASYNC_TEST_CASE("many connections are served side by side") {
    asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
    auto client = [](int port, int number) -> asyncio::coro<bool> {
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
        const std::string text = "client " + std::to_string(number) + "\n";
        bool right = true;
        for (int i = 0; i < 3; ++i) {
            writer.write(text);
            const std::string line = co_await reader.readline();
            right = right && line == text;
        }
        co_return right;
    };
    std::vector<asyncio::task<bool>> clients;
    for (int i = 0; i < 300; ++i) clients.push_back(asyncio::create_task(client(server.port(), i)));
    int served = 0;
    for (asyncio::task<bool>& t : clients) {
        const bool right = co_await t;
        if (right) ++served;
    }
    CHECK(served == 300);
}

#if !defined(_WIN32) // where descriptors have no limit

// Out of descriptors, in a process of its own: the server waits instead of spinning, says so, and
// goes on later. The handler frees the descriptors at once: sanitizers need some to look at types.
TEST_CASE("a server that runs out of descriptors reports it and goes on later") {
    const auto program = []() -> asyncio::coro<int> {
        asyncio::event_loop& loop = asyncio::get_running_loop();
        std::vector<int> taken;
        std::vector<int> errors;
        loop.set_exception_handler(
            [&](asyncio::event_loop&, const asyncio::exception_context& context) {
                for (int fd : taken) ::close(fd);
                taken.clear();
                errors.push_back(code_of(context.exception));
            });
        loop.call_exception_handler({"a first time"});
        asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
        writer.write("x\n");
        co_await reader.readline();

        const int client = ::socket(AF_INET, SOCK_STREAM, 0);
        rlimit few{};
        few.rlim_cur = few.rlim_max = static_cast<rlim_t>(client) + 4;
        ::setrlimit(RLIMIT_NOFILE, &few);
        for (int fd = ::dup(0); fd >= 0; fd = ::dup(0)) taken.push_back(fd);
        sockaddr_in a{};
        a.sin_family = AF_INET;
        a.sin_port = htons(static_cast<std::uint16_t>(server.port()));
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        if (::connect(client, reinterpret_cast<sockaddr*>(&a), sizeof a) != 0) co_return 1;
        if (::send(client, "late\n", 5, 0) != 5) co_return 2;
        while (errors.size() < 2) co_await support::turns(1);
        if (errors[1] != EMFILE) co_return 3;
        const auto turns = loop.metrics().turns;
        co_await asyncio::sleep(1200ms); // a little longer than the server's own pause
        if (loop.metrics().turns - turns > 100 || errors.size() != 2) co_return 4;
        char answer[5];
        if (::recv(client, answer, 5, 0) != 5) co_return 5;
        ::close(client);
        co_return 0;
    };
    const support::child_result result =
        support::in_child([program] { return asyncio::run(program()); });
    CHECK(result.err == "");
    CHECK(result.exit_code == 0);
}

#endif

} // TEST_SUITE

TEST_SUITE("open_connection") {

ASYNC_TEST_CASE("CN-01: a port nobody listens on is a refusal that names the address") {
    const int port = co_await refused_port();
    const std::string where = "connect to 127.0.0.1:" + std::to_string(port);
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::open_connection("127.0.0.1", port), where,
                               std::system_error);
    int code = 0;
    try {
        co_await asyncio::open_connection("127.0.0.1", port);
    } catch (const std::system_error& e) {
        code = e.code().value();
    }
    CHECK(code == ECONNREFUSED);
}

#if !defined(_WIN32) // whose only failure that comes at once is a refusal

ASYNC_TEST_CASE("a connection needs a host: none is not this machine") {
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::open_connection("", 80), "host is empty",
                               std::invalid_argument);
}

ASYNC_TEST_CASE("CN-01: several addresses that fail in different ways are all named") {
    const int port = co_await refused_port();
    std::vector<asyncio::address> where;
    where.emplace_back("127.0.0.1", port);
    where.push_back(asyncio::address::local("/nowhere/at/all"));
    std::string text;
    try {
        co_await asyncio::open_connection(where);
    } catch (const std::system_error& e) {
        text = e.what();
    }
    CHECK(text.find("127.0.0.1") != std::string::npos);
    CHECK(text.find("refused") != std::string::npos);
    CHECK(text.find("unix:/nowhere/at/all") != std::string::npos);
    CHECK(text.find("No such file") != std::string::npos);
    CHECK_THROWS_AS(static_cast<void>(asyncio::open_connection(std::vector<asyncio::address>())),
                    std::invalid_argument);
    CHECK_THROWS_AS(static_cast<void>(asyncio::open_connection("127.0.0.1", 65536)),
                    std::invalid_argument);
}

#endif

ASYNC_TEST_CASE("CN-02: addresses are tried in order, and failed sockets are closed") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    const int refused = co_await refused_port();
    std::vector<asyncio::address> where;
    where.emplace_back("127.0.0.1", refused);
    where.emplace_back("127.0.0.1", server.port());
    where.emplace_back("127.0.0.1", refused);
    const int before = open_descriptors();
    stream_pair client = co_await asyncio::open_connection(where);
    stream_pair accepted = co_await side.accepted->get();
    CHECK(client.second.peername().port() == server.port());
    CHECK(open_descriptors() == before + 2);
}

ASYNC_TEST_CASE("local_addr is where a connection comes from, by number or by name") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    const int own = co_await refused_port(); // free a moment ago
    stream_pair client = co_await asyncio::open_connection("127.0.0.1", server.port(),
                                                           {.local_addr = {"127.0.0.1", own}});
    CHECK(client.second.sockname() == asyncio::address("127.0.0.1", own));
    client = co_await asyncio::open_connection("127.0.0.1", server.port(),
                                               {.local_addr = "localhost"});
    CHECK(client.second.sockname().host() == "127.0.0.1");
    CHECK_AWAIT_THROWS_WITH_AS(
        asyncio::open_connection("127.0.0.1", server.port(),
                                 {.local_addr = {"127.0.0.1", server.port()}}),
        "bind to 127.0.0.1:" + std::to_string(server.port()), std::system_error);
    CHECK_AWAIT_THROWS_WITH_AS(
        asyncio::open_connection("127.0.0.1", server.port(), {.local_addr = "::1"}),
        "bind to [::1]:0", std::system_error);
    CHECK_THROWS_AS(asyncio::open_connection("127.0.0.1", server.port(),
                                             {.local_addr = {"127.0.0.1", 65536}}),
                    std::invalid_argument);
}

ASYNC_TEST_CASE("of the addresses that local_addr has one of the peer's family is taken") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server four = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    asyncio::server six = co_await asyncio::start_server(handler, "::1", 0);
    for (const asyncio::server* server : {&four, &six}) {
        const int own = co_await refused_port();
        std::vector<asyncio::address> where(1, server->sockets()[0].local_address());
        stream_pair client =
            co_await asyncio::open_connection(where, {.local_addr = {"", own}});
        CHECK(client.second.sockname() == where[0].with_port(own));
        stream_pair accepted = co_await side.accepted->get();
        CHECK(accepted.second.peername() == where[0].with_port(own));
    }
}

ASYNC_TEST_CASE_REAL("CN-03: with a delay the next attempt starts beside one that hangs") {
    acceptor side;
    auto handler = side.handler();
    const silent_address silent;
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    const int refused = co_await refused_port();
    std::vector<asyncio::address> where;
    where.emplace_back("127.0.0.1", silent.port);
    where.emplace_back("127.0.0.1", refused);
    where.emplace_back("127.0.0.1", server.port());
    const int before = open_descriptors();
    stream_pair client = co_await asyncio::open_connection(where, {.happy_eyeballs_delay = 10ms});
    stream_pair accepted = co_await side.accepted->get();
    CHECK(client.second.peername().port() == server.port());
    co_await support::turns(3); // the one that lost ends
    CHECK(open_descriptors() == before + 2);
}

ASYNC_TEST_CASE("CN-03: with a delay IPv6 and IPv4 take turns, beginning with the first") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server six = co_await asyncio::start_server(handler, "::1", 0);
    asyncio::server four = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    const int port = six.port();
    std::vector<asyncio::address> where;
    where.emplace_back("127.0.0.1", co_await refused_port());
    where.emplace_back("127.0.0.1", four.port());
    where.emplace_back("::1", port); // the second one that is tried
    // The clock stands while a connect is under way, so that only failures count here.
    stream_pair client = co_await asyncio::open_connection(where, {.happy_eyeballs_delay = 1h});
    CHECK(client.second.peername() == asyncio::address("::1", port));
    co_await side.accepted->get();
}

ASYNC_TEST_CASE("CN-04: without a delay the next attempt waits for the former to fail") {
    acceptor side;
    auto handler = side.handler();
    const silent_address silent;
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    std::vector<asyncio::address> where;
    where.emplace_back("127.0.0.1", silent.port);
    where.emplace_back("127.0.0.1", server.port());
    auto connecting = asyncio::create_task(asyncio::open_connection(where));
    co_await support::turns(20);
    CHECK_FALSE(connecting.done());
    CHECK(side.accepted->empty());
    connecting.cancel();
    CHECK_AWAIT_THROWS_AS(connecting, asyncio::cancelled_error);
}

ASYNC_TEST_CASE("CN-04: a race in which all fail throws all failures") {
    const int one = co_await refused_port();
    const int other = co_await refused_port();
    std::vector<asyncio::address> where;
    where.emplace_back("127.0.0.1", one);
    where.emplace_back("127.0.0.1", other);
    std::string text;
    try {
        co_await asyncio::open_connection(where, {.happy_eyeballs_delay = 1h});
    } catch (const std::system_error& e) {
        text = e.what();
    }
    CHECK(text.find(std::to_string(one)) != std::string::npos);
    CHECK(text.find(std::to_string(other)) != std::string::npos);
}

ASYNC_TEST_CASE("CN-05: a connect that is cancelled leaves no socket behind") {
    const silent_address silent;
    const int before = open_descriptors();
    auto connecting = asyncio::create_task(asyncio::open_connection("127.0.0.1", silent.port));
    co_await support::turns(3);
    CHECK(open_descriptors() == before + 1);
    connecting.cancel();
    CHECK_AWAIT_THROWS_AS(connecting, asyncio::cancelled_error);
    CHECK(open_descriptors() == before);
}

ASYNC_TEST_CASE("CN-05: a race that is cancelled leaves no socket behind") {
    const silent_address silent;
    std::vector<asyncio::address> where;
    where.emplace_back("127.0.0.1", silent.port);
    where.emplace_back("127.0.0.1", silent.port);
    const int before = open_descriptors();
    auto connecting =
        asyncio::create_task(asyncio::open_connection(where, {.happy_eyeballs_delay = 1h}));
    co_await support::turns(3);
    connecting.cancel();
    CHECK_AWAIT_THROWS_AS(connecting, asyncio::cancelled_error);
    co_await support::turns(3);
    CHECK(open_descriptors() == before);
}

ASYNC_TEST_CASE("a connect can choose where it comes from") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    stream_pair client =
        co_await asyncio::open_connection("127.0.0.1", server.port(), {.local_addr = "127.0.0.9"});
    stream_pair accepted = co_await side.accepted->get();
    CHECK(accepted.second.peername().host() == "127.0.0.9");
    CHECK_THROWS_AS(static_cast<void>(asyncio::open_connection("127.0.0.1", server.port(),
                                                               {.local_addr = {"127.0.0.9", -1}})),
                    std::invalid_argument);
}

ASYNC_TEST_CASE("a connect holds the virtual clock, waiting for a peer does not") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    {
        const silent_address silent;
        auto connecting = asyncio::create_task(asyncio::open_connection("127.0.0.1", silent.port));
        bool jumped = false;
        asyncio::handle timer = loop.call_later(1h, [&] { jumped = true; });
        co_await support::turns(100);
        CHECK_FALSE(jumped);
        connecting.cancel();
        CHECK_AWAIT_THROWS_AS(connecting, asyncio::cancelled_error);
        timer.cancel();
    }
    link_ends ends = co_await connected();
    auto reading = asyncio::create_task(ends.reader().readline());
    const asyncio::time_point before = loop.time();
    co_await asyncio::sleep(1h);
    CHECK(loop.time() - before >= asyncio::duration(1h));
    ends.peer().write("x\n");
    co_await reading;
}

TEST_CASE("a loop that ends with connections open frees them all") {
    // Also under the address sanitizer: what the tasks hold, what is being sent, the server.
    const int before = open_descriptors();
    std::optional<stream_pair> kept;
    {
        asyncio::event_loop loop;
        auto setup = [&]() -> asyncio::coro<> {
            asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
            link_ends ends = co_await connected();
            fill(ends.writer());
            kept = std::move(ends.far_end);
            stream_pair client = co_await asyncio::open_connection("127.0.0.1", server.port());
            loop.stop();
            co_await client.first.readline();
        };
        auto task = loop.create_task(setup());
        loop.run_forever();
        CHECK_FALSE(task.done());
    }
    kept->second.write("into the void");
    kept->second.close();
    kept.reset();
    CHECK(open_descriptors() == before);
}

} // TEST_SUITE

#if !defined(_WIN32)

TEST_SUITE("unix sockets") {

ASYNC_TEST_CASE("UX-01: streams over a Unix socket are the same streams") {
    const scratch_path path;
    asyncio::server server = co_await asyncio::start_unix_server(echo, path.text);
    auto [reader, writer] = co_await asyncio::open_unix_connection(path.text);
    CHECK(writer.peername() == asyncio::address::local(path.text));
    writer.write("hello\n");
    std::string line = co_await reader.readline();
    CHECK(line == "hello\n");
    for (int i = 0; i < 100; ++i) writer.write(std::string(5000, 'x') + "\n");
    for (int i = 0; i < 100; ++i) {
        line = co_await reader.readline();
        CHECK(line.size() == 5001);
    }
    writer.write_eof();
    line = co_await reader.readline();
    CHECK(line == "");
}

ASYNC_TEST_CASE("UX-01: names that are no files, in Linux's abstract namespace") {
    const scratch_path path;
    const std::string name = std::string(1, '\0') + path.text;
    asyncio::server server = co_await asyncio::start_unix_server(echo, name);
    auto [reader, writer] = co_await asyncio::open_unix_connection(name);
    CHECK(writer.peername() == asyncio::address::local(name));
    CHECK(server.sockets().at(0).local_address() == asyncio::address::local(name));
    writer.write("hello\n");
    const std::string line = co_await reader.readline();
    CHECK(line == "hello\n");
    CHECK_FALSE(path.exists());
    writer.set_nodelay(true); // means nothing here, and is no error
    server.close();
    CHECK_AWAIT_THROWS_AS(asyncio::open_unix_connection(name), std::system_error);
}

ASYNC_TEST_CASE("UX-01: more clients than the backlog has places all get through") {
    const scratch_path path;
    asyncio::server server =
        co_await asyncio::start_unix_server(echo, path.text, {.backlog = 1});
    const auto client = [](std::string where) -> asyncio::coro<> {
        auto [reader, writer] = co_await asyncio::open_unix_connection(where);
        writer.write("x\n");
        const std::string line = co_await reader.readline();
        CHECK(line == "x\n");
    };
    std::vector<asyncio::task<>> clients;
    for (int i = 0; i < 50; ++i) clients.push_back(asyncio::create_task(client(path.text)));
    for (auto& task : clients) co_await task;
}

ASYNC_TEST_CASE("UX-02: a socket's file is replaced, another file is not") {
    const scratch_path path;
    acceptor old_side;
    auto old_handler = old_side.handler();
    asyncio::server old = co_await asyncio::start_unix_server(old_handler, path.text);
    asyncio::server fresh = co_await asyncio::start_unix_server(echo, path.text);
    auto [reader, writer] = co_await asyncio::open_unix_connection(path.text);
    writer.write("x\n");
    const std::string line = co_await reader.readline();
    CHECK(line == "x\n");
    CHECK(old_side.accepted->empty());
    old.close();
    CHECK(path.exists()); // it is the new server's by now
    fresh.close();
    CHECK_FALSE(path.exists());

    std::FILE* const file = std::fopen(path.text.c_str(), "w");
    std::fclose(file);
    int code = 0;
    try {
        asyncio::server none = co_await asyncio::start_unix_server(echo, path.text);
    } catch (const std::system_error& e) {
        code = e.code().value();
    }
    CHECK(code == EADDRINUSE);
    CHECK(path.exists());
}

ASYNC_TEST_CASE("UX-03: close removes the file, unless it was told not to") {
    const scratch_path path;
    {
        asyncio::server server = co_await asyncio::start_unix_server(echo, path.text);
        CHECK(path.exists());
        server.close();
        CHECK_FALSE(path.exists());
    }
    {
        asyncio::server server =
            co_await asyncio::start_unix_server(echo, path.text, {.cleanup_socket = false});
        server.close();
        CHECK(path.exists());
    }
}

} // TEST_SUITE

#endif

namespace {

// What happened to a transport, in order.
using history = std::vector<std::string>;

// A layer over streams, as TLS is one: bytes are changed on the way, and sent in pieces of at
// most `most` bytes.
class scrambled {
public:
    scrambled(stream_pair over, std::size_t most, std::shared_ptr<history> h)
        : over_(std::move(over)), most_(most), history_(std::move(h)) {}
    scrambled(scrambled&&) noexcept = default;
    scrambled& operator=(scrambled&&) noexcept = default;
    ~scrambled() {
        if (history_) history_->push_back("destroyed");
    }

    asyncio::coro<std::size_t> recv(std::span<std::byte> target) {
        const std::size_t n = co_await over_.first.read_into(target);
        for (std::byte& b : target.first(n)) b ^= std::byte(0x55);
        co_return n;
    }
    asyncio::coro<std::size_t> send(std::span<const std::byte> data) {
        std::vector<std::byte> piece(data.begin(),
                                     data.begin() + static_cast<std::ptrdiff_t>(
                                                        std::min(most_, data.size())));
        for (std::byte& b : piece) b ^= std::byte(0x55);
        over_.second.write(piece);
        co_await over_.second.drain();
        co_return piece.size();
    }
    asyncio::coro<> shutdown() {
        history_->push_back("shutdown");
        over_.second.close();
        co_await over_.second.wait_closed();
    }
    asyncio::address peername() const { return over_.second.peername(); }
    asyncio::address sockname() const { return over_.second.sockname(); }

private:
    stream_pair over_;
    std::size_t most_;
    std::shared_ptr<history> history_;
};

// Both ends of a connection with that layer on both sides, and what happened on the near one.
struct scrambled_ends : link_ends {
    scrambled_ends(stream_pair a, stream_pair b, std::shared_ptr<history> h)
        : link_ends(std::move(a), std::move(b)), happened(std::move(h)) {}

    std::shared_ptr<history> happened;
};

asyncio::coro<scrambled_ends> connected_over(std::size_t most = 1000, std::size_t limit = 65536) {
    link_ends plain = co_await connected();
    auto near_history = std::make_shared<history>();
    auto far_history = std::make_shared<history>();
    scrambled near_layer(std::move(plain.near_end), most, near_history);
    scrambled far_layer(std::move(plain.far_end), most, far_history);
    stream_pair near_end = asyncio::make_streams(std::move(near_layer), {.limit = limit});
    stream_pair far_end = asyncio::make_streams(std::move(far_layer), {.limit = limit});
    co_return scrambled_ends(std::move(near_end), std::move(far_end), near_history);
}

// A transport that does what the test tells it to.
struct puppet_strings {
    std::optional<asyncio::error> recv_fails;
    std::optional<asyncio::error> send_fails;
    std::optional<asyncio::error> shutdown_fails;
    std::optional<std::size_t> send_gives;
    std::optional<std::size_t> recv_gives;
    asyncio::queue<std::string> incoming; // "" ends the stream
    asyncio::event sends;                 // lets a send() go on
    history happened;
    std::string sent;
    bool waits_in_send = false;
};

class puppet {
public:
    explicit puppet(std::shared_ptr<puppet_strings> s) : strings_(std::move(s)) {}
    puppet(puppet&&) noexcept = default;
    puppet& operator=(puppet&&) noexcept = default;
    ~puppet() {
        if (strings_) strings_->happened.push_back("destroyed");
    }

    asyncio::coro<std::size_t> recv(std::span<std::byte> target) {
        puppet_strings& s = *strings_;
        if (s.recv_fails) s.recv_fails->rethrow();
        try {
            const std::string text = co_await s.incoming.get();
            std::copy(text.begin(), text.end(), reinterpret_cast<char*>(target.data()));
            co_return s.recv_gives.value_or(text.size());
        } catch (const asyncio::cancelled_error&) {
            s.happened.push_back("recv cancelled");
            throw;
        }
    }
    asyncio::coro<std::size_t> send(std::span<const std::byte> data) {
        puppet_strings& s = *strings_;
        if (s.send_fails) s.send_fails->rethrow();
        try {
            if (s.waits_in_send) co_await s.sends.wait();
        } catch (const asyncio::cancelled_error&) {
            s.happened.push_back("send cancelled");
            throw;
        }
        s.sent.append(reinterpret_cast<const char*>(data.data()), data.size());
        co_return s.send_gives.value_or(data.size());
    }
    asyncio::coro<> shutdown() {
        strings_->happened.push_back("shutdown");
        if (strings_->shutdown_fails) strings_->shutdown_fails->rethrow();
        co_return;
    }

private:
    std::shared_ptr<puppet_strings> strings_;
};

asyncio::error failure(const char* text) {
    return asyncio::error(std::make_exception_ptr(std::runtime_error(text)));
}

} // namespace

TEST_SUITE("make_streams") {

ASYNC_TEST_CASE("streams over a transport read and write as those over a socket do") {
    scrambled_ends ends = co_await connected_over();
    ends.writer().write("hello\nworld\nrest");
    std::string line = co_await ends.peer_reader().readline();
    CHECK(line == "hello\n");
    line = co_await ends.peer_reader().readuntil("ld\n");
    CHECK(line == "world\n");
    std::string part = co_await ends.peer_reader().readexactly(2);
    CHECK(part == "re");
    std::vector<std::byte> room(10);
    const std::size_t n = co_await ends.peer_reader().read_into(room);
    CHECK(n == 2);
    CHECK(ends.writer().peername() == ends.peer().sockname());
    CHECK(ends.writer().sockname() == ends.peer().peername());
    ends.writer().set_nodelay(true); // the layer below decides

    const std::string much = support::pattern(1'000'000);
    ends.peer().write(much);
    ends.peer().close();
    const std::string received = co_await ends.reader().read();
    CHECK(received == much);
    CHECK(ends.reader().at_eof());
}

ASYNC_TEST_CASE("both directions of a transport are used at the same time") {
    scrambled_ends ends = co_await connected_over();
    const std::string much = support::pattern(1'000'000);
    const auto send = [&](stream_writer* writer) -> asyncio::coro<> {
        for (std::size_t at = 0; at < much.size(); at += 10'000) {
            writer->write(std::string_view(much).substr(at, 10'000));
            co_await writer->drain();
        }
    };
    const auto size = static_cast<std::ptrdiff_t>(much.size());
    const auto [a, b, one, other] = co_await asyncio::gather(
        asyncio::create_task(send, &ends.writer()), asyncio::create_task(send, &ends.peer()),
        ends.reader().readexactly(size), ends.peer_reader().readexactly(size));
    CHECK(one == much);
    CHECK(other == much);
}

ASYNC_TEST_CASE("closing sends what is kept, shuts the transport down, then destroys it") {
    scrambled_ends ends = co_await connected_over();
    const std::string much = support::pattern(10'000'000);
    ends.writer().write(much);
    auto reading = asyncio::create_task(ends.reader().read(1));
    co_await support::turns(2);
    ends.writer().close();
    auto closing = asyncio::create_task(ends.writer().wait_closed());
    co_await support::turns(3);
    CHECK_FALSE(closing.done());
    CHECK(ends.happened->empty());
    const std::string nothing = co_await std::move(reading);
    CHECK(nothing == "");
    const std::string received = co_await ends.peer_reader().read();
    CHECK(received == much);
    co_await closing;
    co_await support::turns(2);
    CHECK(*ends.happened == history{"shutdown", "destroyed"});
    ends.writer().close();
    ends.writer().write("ignored");
}

ASYNC_TEST_CASE("a transport has no half-close, and says so") {
    scrambled_ends ends = co_await connected_over();
    CHECK_FALSE(ends.writer().can_write_eof());
    CHECK_THROWS_AS(ends.writer().write_eof(), std::runtime_error);
    ends.writer().write("goes on");
    const std::string text = co_await ends.peer_reader().readexactly(7);
    CHECK(text == "goes on");
}

ASYNC_TEST_CASE("a cancelled read over a transport loses nothing") {
    auto strings = std::make_shared<puppet_strings>();
    auto [reader, writer] = asyncio::make_streams(puppet(strings));
    for (int round = 0; round < 2; ++round) {
        auto reading = asyncio::create_task(reader.readexactly(6));
        co_await support::turns(2);
        if (round == 1) strings->incoming.put_nowait("abc");
        co_await support::turns(round == 1 ? 3 : 0);
        reading.cancel();
        CHECK_AWAIT_THROWS_AS(reading, asyncio::cancelled_error);
        if (round == 0) strings->incoming.put_nowait("abc"); // for the receive that goes on
        strings->incoming.put_nowait("def");
        const std::string all = co_await reader.readexactly(6);
        CHECK(all == "abcdef");
    }
    CHECK(strings->happened.empty());
}

ASYNC_TEST_CASE("what a transport's recv throws is what every read throws") {
    auto strings = std::make_shared<puppet_strings>();
    auto [reader, writer] = asyncio::make_streams(puppet(strings));
    strings->incoming.put_nowait("line\n");
    const std::string line = co_await reader.readline();
    CHECK(line == "line\n");
    strings->recv_fails = failure("certificate expired");
    CHECK_AWAIT_THROWS_WITH_AS(reader.readline(), "certificate expired", std::runtime_error);
    CHECK_AWAIT_THROWS_WITH_AS(reader.read(), "certificate expired", std::runtime_error);
    CHECK_AWAIT_THROWS_WITH_AS(writer.drain(), "certificate expired", std::runtime_error);
    CHECK_AWAIT_THROWS_WITH_AS(writer.wait_closed(), "certificate expired", std::runtime_error);
    co_await support::turns(2);
    CHECK(strings->happened == history{"destroyed"}); // no goodbye to a broken connection
}

ASYNC_TEST_CASE("a transport cannot receive more than it was given room for") {
    auto strings = std::make_shared<puppet_strings>();
    auto [reader, writer] = asyncio::make_streams(puppet(strings));
    strings->recv_gives = std::size_t(1) << 20;
    strings->incoming.put_nowait("line\n");
    CHECK_AWAIT_THROWS_WITH_AS(reader.readline(), "transport's recv()", std::runtime_error);
    CHECK_AWAIT_THROWS_WITH_AS(writer.drain(), "transport's recv()", std::runtime_error);
}

ASYNC_TEST_CASE("what a transport's send throws comes out of drain and of reads") {
    const auto reports = support::collect_reports();
    for (int round = 0; round < 3; ++round) {
        auto strings = std::make_shared<puppet_strings>();
        if (round == 0) strings->send_fails = failure("no keys");
        if (round == 1) strings->send_gives = 0;
        if (round == 2) strings->send_gives = 1000;
        auto [reader, writer] = asyncio::make_streams(puppet(strings));
        auto reading = asyncio::create_task(reader.read(1));
        co_await support::turns(2);
        writer.write("data");
        CHECK_AWAIT_THROWS_WITH_AS(reading, round == 0 ? "no keys" : "send()",
                                   std::runtime_error);
        CHECK_AWAIT_THROWS_AS(writer.drain(), std::runtime_error);
        co_await support::turns(2);
        CHECK(strings->happened == history{"recv cancelled", "destroyed"});
    }
    CHECK(reports->empty());
}

ASYNC_TEST_CASE("what a transport's shutdown throws comes out of wait_closed") {
    auto strings = std::make_shared<puppet_strings>();
    strings->shutdown_fails = failure("no answer to the goodbye");
    auto [reader, writer] = asyncio::make_streams(puppet(strings));
    writer.write("data");
    writer.close();
    CHECK_AWAIT_THROWS_WITH_AS(writer.wait_closed(), "no answer", std::runtime_error);
    CHECK(strings->sent == "data");
    co_await support::turns(2);
    CHECK(strings->happened == history{"shutdown", "destroyed"});
}

ASYNC_TEST_CASE("abort cancels what a transport is doing and destroys it without a goodbye") {
    auto strings = std::make_shared<puppet_strings>();
    strings->waits_in_send = true;
    auto [reader, writer] = asyncio::make_streams(puppet(strings));
    writer.write("never sent");
    auto reading = asyncio::create_task(reader.read(1));
    auto draining = asyncio::create_task(code_thrown_by(writer.wait_closed()));
    co_await support::turns(3);
    CHECK(writer.get_write_buffer_size() == 10);
    writer.abort();
    CHECK(writer.get_write_buffer_size() == 0);
    const std::string nothing = co_await std::move(reading);
    CHECK(nothing == "");
    const int code = co_await draining;
    CHECK(code == 0);
    co_await support::turns(3);
    CHECK(strings->happened == history{"recv cancelled", "send cancelled", "destroyed"});
    CHECK(strings->sent == "");
}

ASYNC_TEST_CASE("drain waits for a transport from the high mark down to the low one") {
    auto strings = std::make_shared<puppet_strings>();
    strings->waits_in_send = true;
    auto [reader, writer] = asyncio::make_streams(puppet(strings));
    writer.set_write_buffer_limits(100, 10);
    writer.write(std::string(101, 'x'));
    auto draining = asyncio::create_task(writer.drain());
    co_await support::turns(3);
    CHECK_FALSE(draining.done());
    strings->sends.set();
    co_await draining;
    CHECK(strings->sent.size() == 101);
}

ASYNC_TEST_CASE("a transport's tasks that somebody cancels end the connection, not the program") {
    auto strings = std::make_shared<puppet_strings>();
    auto [reader, writer] = asyncio::make_streams(puppet(strings));
    auto reading = asyncio::create_task(code_thrown_by(reader.read(1)));
    co_await support::turns(2);
    for (asyncio::any_task& task : asyncio::all_tasks())
        if (task != asyncio::current_task() && task != reading) task.cancel();
    const int code = co_await reading;
    CHECK(code == ECANCELED);
    co_await support::turns(2);
    CHECK(strings->happened == history{"recv cancelled", "destroyed"});
}

ASYNC_TEST_CASE("a writer over a transport that goes out of scope says goodbye, too") {
    auto strings = std::make_shared<puppet_strings>();
    {
        auto [reader, writer] = asyncio::make_streams(puppet(strings));
        writer.write("last words");
    }
    co_await support::turns(6);
    CHECK(strings->sent == "last words");
    CHECK(strings->happened == history{"shutdown", "destroyed"});
}

ASYNC_TEST_CASE("layers can be put on layers, and files go through them") {
    link_ends plain = co_await connected();
    auto happened = std::make_shared<history>();
    stream_pair near_end = std::move(plain.near_end);
    stream_pair far_end = std::move(plain.far_end);
    for (int i = 0; i < 3; ++i) {
        scrambled near_layer(std::move(near_end), 10'000, happened);
        scrambled far_layer(std::move(far_end), 7'000, happened);
        near_end = asyncio::make_streams(std::move(near_layer));
        far_end = asyncio::make_streams(std::move(far_layer));
    }
    const support::scratch folder;
    const std::string contents = support::pattern(500'000);
    support::put(folder / "file", contents);
    const opened_file opened(folder / "file");
    const int file = opened.get();
    auto reading = asyncio::create_task(far_end.first.read());
    near_end.second.write("file: ");
    const std::size_t sent = co_await near_end.second.sendfile(file, 1000);
    CHECK(sent == contents.size() - 1000);
    near_end.second.close();
    const std::string received = co_await std::move(reading);
    CHECK(received == "file: " + contents.substr(1000));
    co_await near_end.second.wait_closed();
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("a connection of another loop gives what it has, and refuses to wait for more") {
    asyncio::event_loop owner;
    std::optional<link_ends> ends;
    const auto setup = [&]() -> asyncio::coro<> {
        ends = co_await connected();
        ends->far_end.second.write("one\ntwo");
        const std::string first = co_await ends->reader().readline();
        CHECK(first == "one\n");
    };
    owner.run_until_complete(setup());
    const auto elsewhere = [&]() -> asyncio::coro<> {
        const std::string second = co_await ends->reader().read(3);
        CHECK(second == "two");
        CHECK_AWAIT_THROWS_AS(ends->reader().read(1), std::runtime_error);
        co_await ends->writer().drain(); // there is nothing to wait for
    };
    asyncio::run(elsewhere());
    const auto again = [&]() -> asyncio::coro<> {
        ends->far_end.second.write("!");
        const std::string third = co_await ends->reader().read(1);
        CHECK(third == "!");
        ends.reset();
    };
    owner.run_until_complete(again());
}

TEST_CASE("what is waited for on another loop says so instead of waiting for ever") {
    const support::scratch folder;
    support::put(folder / "file", "contents");
    const opened_file opened(folder / "file");
    asyncio::event_loop owner;
    std::optional<link_ends> ends;
    std::optional<asyncio::server> server;
    const auto setup = [&]() -> asyncio::coro<> {
        server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
        ends = co_await connected();
        fill(ends->writer());
    };
    owner.run_until_complete(setup());
    const auto elsewhere = [&]() -> asyncio::coro<> {
        const auto refused = [](auto wait) -> asyncio::coro<> {
            CHECK_AWAIT_THROWS_WITH_AS(asyncio::wait_for(wait(), 1h), "another loop",
                                       std::runtime_error);
        };
        const int file = opened.get();
        co_await refused([&] { return ends->writer().drain(); });
        co_await refused([&] { return ends->writer().wait_closed(); });
        co_await refused([&] { return ends->writer().sendfile(file); });
        co_await refused([&] { return server->wait_closed(); });
    };
    asyncio::run(elsewhere(), {.clock = asyncio::clock_kind::virtual_time});
    const auto again = [&]() -> asyncio::coro<> {
        auto received = asyncio::create_task(ends->peer_reader().read());
        co_await ends->writer().drain();
        ends->writer().close();
        co_await ends->writer().wait_closed();
        const std::string all = co_await std::move(received);
        CHECK(all.size() >= 256 * 1024);
        server->close();
        co_await server->wait_closed();
    };
    owner.run_until_complete(again());
}

TEST_CASE("a connection whose loop has gone is closed to those who wait for that") {
    std::optional<link_ends> ends;
    const auto setup = [&]() -> asyncio::coro<> { ends = co_await connected(); };
    asyncio::run(setup());
    const auto elsewhere = [&]() -> asyncio::coro<> {
        co_await asyncio::wait_for(ends->writer().wait_closed(), 1h);
    };
    asyncio::run(elsewhere(), {.clock = asyncio::clock_kind::virtual_time});
}
#endif

TEST_CASE("a loop that ends with transports at work frees them all") {
    auto strings = std::make_shared<puppet_strings>();
    std::optional<stream_pair> kept;
    {
        asyncio::event_loop loop;
        auto task = loop.create_task([&]() -> asyncio::coro<> {
            strings->waits_in_send = true;
            kept = asyncio::make_streams(puppet(strings));
            kept->second.write("never sent");
            loop.call_later(1ms, [&] { loop.stop(); });
            co_await kept->first.read(1);
        });
        loop.run_forever();
        CHECK_FALSE(task.done());
    }
    kept->second.write("into the void");
    kept->second.close();
    kept.reset();
    CHECK(strings->happened.back() == "destroyed");
}

} // TEST_SUITE

TEST_SUITE("faults") {

#if !defined(_WIN32) // where nothing interrupts a call

ASYNC_TEST_CASE("calls that a signal interrupts are made again") {
    const support::scratch folder;
    const std::string contents = support::pattern(3'000'000);
    support::put(folder / "file", contents);
    const opened_file file(folder / "file");
    const interrupted_calls every_other;
    asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
    for (int i = 0; i < 200; ++i) {
        writer.write(std::to_string(i) + "\n");
        const std::string line = co_await reader.readline();
        CHECK(line == std::to_string(i) + "\n");
    }
    link_ends ends = co_await connected();
    const std::string much = support::pattern(2'000'000);
    fill(ends.writer(), 1); // so that all of it is kept, and then sent in many pieces
    for (std::size_t at = 0; at < much.size(); at += 1000)
        ends.writer().write(std::string_view(much).substr(at, 1000));
    ends.writer().close();
    const std::string received = co_await ends.peer_reader().read();
    CHECK(received.ends_with(much));
    CHECK(system_calls.interrupted > 500);
    CHECK(system_calls.sendmsg.interrupted > 0);

    // By the system; and over another transport, where a job reads the file.
    link_ends plain = co_await connected();
    link_ends below = co_await connected();
    auto happened = std::make_shared<history>();
    scrambled near_layer(std::move(below.near_end), 10'000, happened);
    scrambled far_layer(std::move(below.far_end), 10'000, happened);
    link_ends layered(asyncio::make_streams(std::move(near_layer)),
                      asyncio::make_streams(std::move(far_layer)));
    for (link_ends* const over : {&plain, &layered}) {
        auto reading = asyncio::create_task(over->peer_reader().read());
        const std::size_t sent = co_await over->writer().sendfile(file.get());
        CHECK(sent == contents.size());
        over->writer().close();
        const std::string got = co_await std::move(reading);
        CHECK(got == contents);
    }
#if defined(__linux__)
    CHECK(system_calls.sendfile.interrupted > 0);
#endif
    CHECK(system_calls.pread.interrupted > 0);
}

#endif

ASYNC_TEST_CASE("one byte at a time, both ways, is as good as all at once") {
    acceptor side;
    auto handler = side.handler();
    asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
    asyncio::socket slow = asyncio::socket::tcp();
    slow.setsockopt(SOL_SOCKET, SO_RCVBUF, 1); // the least that the system allows
    co_await slow.connect(asyncio::address("127.0.0.1", server.port()));
    slow.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1);
    stream_pair served = co_await side.accepted->get();
    const std::string question = "a question, byte by byte\r\n";
    const std::string answer = support::pattern(50'000);
    auto dribbling = asyncio::create_task([&]() -> asyncio::coro<> {
        for (const char& c : question) {
            co_await slow.sendall(std::string_view(&c, 1));
            co_await support::turns(2);
        }
    });
    const std::string line = co_await served.first.readuntil("\r\n");
    CHECK(line == question);
    co_await dribbling;
    served.second.write(answer);
    served.second.write_eof();
    std::string received;
    char byte[1];
    for (;;) {
        const std::size_t n = co_await slow.recv(std::span<char>(byte));
        if (n == 0) break;
        received += byte[0];
    }
    CHECK(received == answer);
}

ASYNC_TEST_CASE("a full socket for ten seconds: nothing spins, nothing is lost") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    link_ends ends = co_await connected();
    const std::string much = support::pattern(8'000'000);
    auto draining = asyncio::create_task([&]() -> asyncio::coro<> {
        for (std::size_t at = 0; at < much.size(); at += 50'000) {
            ends.writer().write(std::string_view(much).substr(at, 50'000));
            co_await ends.writer().drain();
        }
        ends.writer().close();
    });
    co_await support::turns(1000); // as much as the system takes
    const std::size_t kept = ends.writer().get_write_buffer_size();
    CHECK(kept > 0);
    const auto turns = loop.metrics().turns;
    co_await asyncio::sleep(10s);
    CHECK(loop.metrics().turns - turns < 10);
    CHECK(ends.writer().get_write_buffer_size() == kept);
    const std::string received = co_await ends.peer_reader().read();
    CHECK(received == much);
    co_await draining;
}

ASYNC_TEST_CASE("a peer that resets while a lot is being written ends the writing with an error") {
    link_ends ends = co_await connected();
    const std::string block(100'000, 'b');
    auto writing = asyncio::create_task([&]() -> asyncio::coro<> {
        for (;;) {
            ends.writer().write(block);
            co_await ends.writer().drain();
        }
    });
    auto reading = asyncio::create_task(code_thrown_by(ends.reader().read(1)));
    for (int i = 0; i < 20; ++i) static_cast<void>(co_await ends.peer_reader().read(65536));
    ends.peer().abort();
    int code = co_await code_thrown_by(writing);
    CHECK((code == ECONNRESET || code == EPIPE));
    code = co_await reading;
    CHECK((code == ECONNRESET || code == EPIPE));
    CHECK(ends.writer().get_write_buffer_size() == 0);
    ends.writer().write("to nobody");
    CHECK_AWAIT_THROWS_AS(ends.writer().wait_closed(), std::system_error);
}

ASYNC_TEST_CASE("a peer that says nothing any more is the business of timeouts") {
    link_ends ends = co_await connected();
    fill(ends.writer());
    const asyncio::time_point before = asyncio::get_running_loop().time();
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(ends.reader().readline(), 30s),
                          asyncio::timeout_error);
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(ends.writer().drain(), 30s), asyncio::timeout_error);
    ends.writer().close(); // would wait for ever for the peer to read
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(ends.writer().wait_closed(), 30s),
                          asyncio::timeout_error);
    ends.writer().abort();
    co_await ends.writer().wait_closed();
    const asyncio::duration took = asyncio::get_running_loop().time() - before;
    CHECK(took >= asyncio::duration(90s));
}

#if defined(__linux__)

// A peer that is gone without a word, as after a power cut: its socket is closed by the kernel
// without telling anybody, which takes a privilege, or a network of one's own.
TEST_CASE("a half-open connection is noticed by a write, and without one by keep_alive") {
    const auto program = []() -> asyncio::coro<int> {
        for (const bool writes : {true, false}) {
            acceptor side;
            auto handler = side.handler();
            asyncio::server server = co_await asyncio::start_server(handler, "127.0.0.1", 0);
            auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port(),
                                                                      {.keep_alive = true});
            stream_pair peer = co_await side.accepted->get();
            const int ours = descriptor_of(writer.sockname(), writer.peername());
            const int theirs = descriptor_of(peer.second.sockname(), peer.second.peername());
            const int on = 1;
            ::setsockopt(ours, IPPROTO_TCP, TCP_KEEPIDLE, &on, sizeof on);
            ::setsockopt(ours, IPPROTO_TCP, TCP_KEEPINTVL, &on, sizeof on);
            if (::setsockopt(theirs, IPPROTO_TCP, TCP_REPAIR, &on, sizeof on) != 0) co_return 77;
            peer.second.abort();
            co_await support::turns(3);
            auto reading = asyncio::create_task(code_thrown_by(reader.read(1)));
            co_await support::turns(3);
            if (reading.done()) co_return 1;
            if (writes) writer.write("anybody there?");
            const int code = co_await reading;
            if (code != ECONNRESET && code != ETIMEDOUT) co_return 2;
        }
        co_return 0;
    };
    const support::child_result result = support::in_child([program] {
        const int code = asyncio::run(program());
        if (code != 77) return code;
        // No privilege here; in a network of its own a process has it.
        if (::unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0) return 77;
        const int any = ::socket(AF_INET, SOCK_DGRAM, 0);
        ifreq loopback{};
        std::strcpy(loopback.ifr_name, "lo");
        loopback.ifr_flags = IFF_UP;
        if (::ioctl(any, SIOCSIFFLAGS, &loopback) != 0) return 77;
        return asyncio::run(program());
    });
    if (result.exit_code == 77) {
        MESSAGE("not tested: this system lets nobody close a socket silently");
        return;
    }
    CHECK(result.err == "");
    CHECK(result.exit_code == 0);
}

#endif

ASYNC_TEST_CASE("a connection that is closed while others wait for it tells them all") {
    for (const bool at_once : {true, false}) {
        link_ends ends = co_await connected();
        fill(ends.writer());
        auto reading = asyncio::create_task(ends.reader().readline());
        auto draining = asyncio::create_task(code_thrown_by(ends.writer().drain()));
        auto closed = asyncio::create_task(ends.writer().wait_closed());
        co_await support::turns(2);
        if (at_once) ends.writer().abort();
        else ends.writer().close();
        const std::string line = co_await std::move(reading);
        CHECK(line == "");
        if (!at_once) { // what is kept is sent first
            CHECK_FALSE(draining.done());
            static_cast<void>(co_await ends.peer_reader().read());
        }
        const int code = co_await draining;
        CHECK(code == (at_once ? ECONNRESET : 0));
        co_await closed;
    }
}

#if !defined(_WIN32) // where the number is somebody else's at once, and nothing has a limit

// A program that closes a descriptor that is not its own. Nothing can be promised to the
// connection, but the loop and all others go on.
TEST_CASE("a descriptor that is closed under the loop costs its own connection only") {
    const auto program = []() -> asyncio::coro<int> {
        asyncio::event_loop& loop = asyncio::get_running_loop();
        loop.set_exception_handler([](asyncio::event_loop&, const asyncio::exception_context&) {});
        asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
        link_ends ends = co_await connected();
        auto reading = asyncio::create_task(code_thrown_by(ends.reader().readline()));
        co_await support::turns(2);
        ::close(descriptor_of(ends.writer().sockname(), ends.writer().peername()));
        const auto turns = loop.metrics().turns;
        co_await asyncio::sleep(20ms);
        if (loop.metrics().turns - turns > 20) co_return 1; // it spins
        ends.writer().write("x"); // which finds out
        int code = co_await code_thrown_by(ends.writer().drain());
        if (code != EBADF) co_return 2;
        code = co_await reading;
        if (code != EBADF) co_return 3;
        // The number comes back with somebody else's connection.
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
        writer.write("hello\n");
        std::string line = co_await reader.readline();
        if (line != "hello\n") co_return 4;

        int fds[2];
        if (::pipe(fds) != 0) co_return 5;
        loop.add_reader(fds[0], [] {});
        ::close(fds[0]);
        ::close(fds[1]);
        co_await asyncio::sleep(1ms);
        if (!loop.remove_reader(fds[0])) co_return 6;
        // A server whose socket is gone closes like any other.
        ::close(server.sockets().at(0).fileno());
        writer.write("still served\n");
        line = co_await reader.readline();
        if (line != "still served\n") co_return 7;
        writer.close();
        server.close();
        co_await server.wait_closed();
        co_return 0;
    };
    const support::child_result result =
        support::in_child([program] { return asyncio::run(program()); });
    CHECK(result.err == "");
    CHECK(result.exit_code == 0);
}

TEST_CASE("a connect without a free descriptor is an error, and later ones work again") {
    const auto program = []() -> asyncio::coro<int> {
        asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
        asyncio::get_running_loop().call_exception_handler({"a first time"}); // opens things
        {
            auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
            writer.write("x\n");
            co_await reader.readline();
        }
        const int code_before = co_await code_thrown_by(
            asyncio::open_connection("127.0.0.1", server.port()));
        if (code_before != 0) co_return 1;
        std::vector<int> taken;
        rlimit few{};
        few.rlim_cur = few.rlim_max = 40;
        ::setrlimit(RLIMIT_NOFILE, &few);
        for (int fd = ::dup(0); fd >= 0; fd = ::dup(0)) taken.push_back(fd);
        std::string text;
        int code = 0;
        try {
            co_await asyncio::open_connection("127.0.0.1", server.port());
        } catch (const std::system_error& e) {
            text = e.what();
            code = e.code().value();
        }
        if (code != EMFILE || text.find("socket") == std::string::npos) co_return 2;
        code = co_await code_thrown_by(asyncio::create_datagram_endpoint({.local_addr = "::1"}));
        if (code != EMFILE) co_return 3;
        code = co_await code_thrown_by(asyncio::start_server(echo, "127.0.0.1", 0));
        if (code != EMFILE) co_return 4;
        for (int fd : taken) ::close(fd);
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
        writer.write("again\n");
        const std::string line = co_await reader.readline();
        co_return line == "again\n" ? 0 : 5;
    };
    const support::child_result result =
        support::in_child([program] { return asyncio::run(program()); });
    CHECK(result.err == "asyncio: a first time\n");
    CHECK(result.exit_code == 0);
}

// It takes minutes under Wine; a thousand connections are in `everywhere`.
ASYNC_TEST_CASE("ten thousand connections later, descriptors, memory and tasks are back") {
    asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
    const auto client = [](int port, int rounds) -> asyncio::coro<> {
        for (int i = 0; i < rounds; ++i) {
            auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
            writer.write("x\n");
            const std::string line = co_await reader.readline();
            if (line != "x\n") throw std::runtime_error("no echo");
            if (i % 2 == 0) continue; // closed by going out of scope
            writer.abort();
        }
    };
    const auto run_clients = [&](int rounds) -> asyncio::coro<> {
        std::vector<asyncio::task<>> clients;
        for (int i = 0; i < 50; ++i)
            clients.push_back(asyncio::create_task(client(server.port(), rounds)));
        for (auto& task : clients) co_await task;
        while (asyncio::all_tasks().size() > 1) co_await support::turns(1); // the server's side
        co_await support::turns(5);
    };
    co_await run_clients(20); // what is kept for later use is kept by now
    const int descriptors = open_descriptors();
    const std::size_t memory = allocated_bytes();
    co_await run_clients(180);
    CHECK(open_descriptors() == descriptors);
    CHECK(allocated_bytes() <= memory + 64 * 1024);
    CHECK(asyncio::all_tasks().size() == 1); // this one
}

// Or half as many as there may be descriptors, where root does not run the test; and a thousand
// over poll(), which looks at each of them in each turn.
TEST_CASE("ten thousand connections at once: each is served, and holds no buffer while it waits") {
    const rlim_t wanted = std::getenv("ASYNCIO_TEST_POLL") != nullptr ? 2200 : 20'200;
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_NOFILE, &before) == 0);
    rlimit many = {wanted, std::max(before.rlim_max, wanted)};
    if (::setrlimit(RLIMIT_NOFILE, &many) != 0) {
        many = {std::min(wanted, before.rlim_max), before.rlim_max};
        REQUIRE(::setrlimit(RLIMIT_NOFILE, &many) == 0);
    }
    const int each = static_cast<int>(many.rlim_cur - 200) / 2 / 50; // of fifty who connect
    const auto rounds = [each]() -> asyncio::coro<> {
        std::vector<stream_reader> readers;
        std::vector<stream_writer> writers;
        const auto connect = [&](int port) -> asyncio::coro<> {
            for (int i = 0; i < each; ++i) {
                auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
                readers.push_back(std::move(reader));
                writers.push_back(std::move(writer));
            }
        };
        const auto talk = [&](std::size_t first, std::size_t count) -> asyncio::coro<> {
            for (std::size_t i = first; i != first + count; ++i) {
                const std::string said = std::to_string(i) + "\n";
                writers[i].write(said);
                const std::string heard = co_await readers[i].readline();
                if (heard != said) throw std::runtime_error("another's echo");
            }
        };
        const auto all_talk = [&]() -> asyncio::coro<> {
            const std::size_t count = writers.size() / 50;
            std::vector<asyncio::task<>> talks;
            for (std::size_t i = 0; i < 50; ++i)
                talks.push_back(asyncio::create_task(talk(i * count, count)));
            for (auto& task : talks) co_await task;
        };
        asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
        std::size_t memory_before = 0;
        int descriptors_before = 0;
        for (int round = 0; round < 2; ++round) { // what the first one leaves is kept for later
            memory_before = allocated_bytes();
            descriptors_before = open_descriptors();
            std::vector<asyncio::task<>> connects;
            for (int i = 0; i < 50; ++i)
                connects.push_back(asyncio::create_task(connect(server.port())));
            for (auto& task : connects) co_await task;
            connects.clear();
            const std::size_t count = writers.size();
            CHECK(count == static_cast<std::size_t>(each) * 50);
            co_await all_talk();
            CHECK(asyncio::all_tasks().size() == count + 1); // one for each, and this one
            CHECK(open_descriptors() == descriptors_before + static_cast<int>(2 * count));
            co_await all_talk();
            CHECK(allocated_bytes() < memory_before + count * 8192); // as buffers alone would be
            for (stream_writer& writer : writers) writer.abort();
            readers = std::vector<stream_reader>();
            writers = std::vector<stream_writer>();
            while (asyncio::all_tasks().size() > 1) co_await support::turns(1);
            co_await support::turns(5);
        }
        CHECK(open_descriptors() == descriptors_before);
        CHECK(allocated_bytes() <= memory_before + 64 * 1024);
    };
    asyncio::run(rounds());
    ::setrlimit(RLIMIT_NOFILE, &before);
}

#endif

} // TEST_SUITE
