#include "network.hpp"

#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <optional>
#include <span>
#include <sstream>
#include <thread>
#if !defined(_WIN32)
#include <dlfcn.h>
#include <netdb.h>
#include <sys/un.h>
#endif

// Look-ups of "slow.test" come here and wait until the test lets them go.
namespace {

class gate {
public:
    template <class F>
    auto pass(F answer) {
        std::unique_lock lock(mutex_);
        ++waiting_;
        changed_.notify_all();
        changed_.wait(lock, [&] { return open_; });
        lock.unlock();
        const auto result = answer();
        lock.lock();
        --waiting_;
        changed_.notify_all();
        return result;
    }
    void close() {
        const std::lock_guard lock(mutex_);
        open_ = false;
    }
    // Lets everybody go, and waits until they have their answers.
    void open() {
        std::unique_lock lock(mutex_);
        open_ = true;
        changed_.notify_all();
        changed_.wait(lock, [&] { return waiting_ == 0; });
    }
    void wait_for_visitors(int count) {
        std::unique_lock lock(mutex_);
        changed_.wait(lock, [&] { return waiting_ >= count; });
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool open_ = true;
    int waiting_ = 0;
};
gate& slow = *new gate; // outlives exit(), as the look-ups do
std::atomic<int> lookups{0};

using look_up_function = decltype(&::getaddrinfo);

int look_up(look_up_function real, const char* host, const char* service, const addrinfo* hints,
            addrinfo** found) {
    ++lookups;
    if (host != nullptr && std::string(host) == "slow.test")
        return slow.pass([&] { return real("127.0.0.1", service, hints, found); });
    const bool twice = host != nullptr && std::string(host) == "twice.test";
    const int failure = real(twice ? "127.0.0.1" : host, service, hints, found);
    if (twice && failure == 0) return real("127.0.0.1", service, hints, &(*found)->ai_next);
    return failure;
}

} // namespace

#if defined(_WIN32)

// What a program calls there stands in a table, of which this is the place for that call.
namespace {

int WSAAPI look_up_here(const char* host, const char* service, const addrinfo* hints,
                        addrinfo** found) {
    static const auto real = reinterpret_cast<look_up_function>(reinterpret_cast<void*>(
        ::GetProcAddress(::GetModuleHandleW(L"ws2_32.dll"), "getaddrinfo")));
    return look_up(real, host, service, hints, found);
}

} // namespace

extern "C" {
extern look_up_function __imp_getaddrinfo;
look_up_function __imp_getaddrinfo = look_up_here;
}

#else

extern "C" int getaddrinfo(const char* host, const char* service, const addrinfo* hints,
                           addrinfo** found) {
    static const auto real =
        reinterpret_cast<look_up_function>(::dlsym(RTLD_NEXT, "getaddrinfo"));
    return look_up(real, host, service, hints, found);
}

#endif

TEST_SUITE("address") {

TEST_CASE("an address prints as it is parsed") {
    for (const char* text : {"127.0.0.1:80", "0.0.0.0:0", "[::1]:65535", "[2001:db8::5]:443",
                             "unix:/run/x.sock", "unix:@abstract"}) {
        const asyncio::address a = asyncio::address::parse(text);
        CHECK(a.to_string() == text);
        CHECK(a == asyncio::address::parse(a.to_string()));
        std::ostringstream out;
        out << a;
        CHECK(out.str() == text);
    }
    CHECK(asyncio::address("fe80::1%1", 80).host().starts_with("fe80::1%"));
}

TEST_CASE("an address knows its parts") {
    const asyncio::address four("10.1.2.3", 8080);
    CHECK(four.is_v4());
    CHECK(four.host() == "10.1.2.3");
    CHECK(four.port() == 8080);
    CHECK(four.with_port(81) == asyncio::address("10.1.2.3", 81));
    CHECK(four != four.with_port(81));
    const asyncio::address six("::1", 1);
    CHECK(six.is_v6());
    CHECK(std::hash<asyncio::address>()(six) == std::hash<asyncio::address>()(six));
    const asyncio::address path = asyncio::address::local("/tmp/s");
    CHECK(path.is_local());
    CHECK(path.path() == "/tmp/s");
    CHECK(path.port() == 0);
    CHECK_FALSE(static_cast<bool>(asyncio::address()));
}

TEST_CASE("what is no address is refused") {
    CHECK_THROWS_AS(asyncio::address("localhost", 80), std::invalid_argument);
    CHECK_THROWS_AS(asyncio::address("127.0.0.1", -1), std::invalid_argument);
    CHECK_THROWS_AS(asyncio::address("127.0.0.1", 65536), std::invalid_argument);
    CHECK_THROWS_AS(asyncio::address("1.2.3.4.5", 1), std::invalid_argument);
    CHECK_THROWS_AS(asyncio::address::local(std::string(200, 'x')), std::invalid_argument);
    // What comes after a zero byte the system would not see.
    CHECK_THROWS_AS(asyncio::address(std::string("127.0.0.1\0.x", 12), 1), std::invalid_argument);
    CHECK_THROWS_AS(asyncio::address::local(std::string("/tmp/s\0x", 8)), std::invalid_argument);
    for (const char* text : {"", ":", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000",
                             "::1:80", "host:80", "[::1]", "127.0.0.1:+1"}) {
        CAPTURE(text);
        CHECK_THROWS_AS(asyncio::address::parse(text), std::invalid_argument);
    }
}

} // TEST_SUITE

namespace {

const asyncio::address here("127.0.0.1", 0);

system_socket system_socket_of(const asyncio::socket& s) {
    return static_cast<system_socket>(s.fileno());
}

// Two connected TCP sockets.
asyncio::coro<std::pair<asyncio::socket, asyncio::socket>> socket_pair() {
    asyncio::socket listener = asyncio::socket::tcp();
    listener.bind(here);
    listener.listen();
    asyncio::socket near_end = asyncio::socket::tcp();
    co_await near_end.connect(listener.local_address());
    asyncio::socket far_end = co_await listener.accept();
    co_return std::pair(std::move(near_end), std::move(far_end));
}

// Two UDP sockets that are connected to each other.
std::pair<asyncio::socket, asyncio::socket> datagram_pair() {
    asyncio::socket one = asyncio::socket::udp();
    asyncio::socket other = asyncio::socket::udp();
    one.bind(here);
    other.bind(here);
    for (auto [from, to] : {std::pair(&one, &other), std::pair(&other, &one)}) {
        sockaddr_in a{};
        a.sin_family = AF_INET;
        a.sin_port = htons(static_cast<std::uint16_t>(to->local_address().port()));
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(::connect(system_socket_of(*from), reinterpret_cast<sockaddr*>(&a), sizeof a) == 0);
    }
    return {std::move(one), std::move(other)};
}

// Cancels the task in the turn in which what it waits for has come, before it goes on.
asyncio::coro<> cancel_when_woken(asyncio::any_task waiting) {
    const auto turns = asyncio::get_running_loop().metrics().turns;
    while (!waiting.done() && asyncio::get_running_loop().metrics().turns < turns + 1000) {
        asyncio::get_running_loop().call_soon([waiting] { waiting.cancel(); });
        co_await support::turns(1);
    }
}

} // namespace

TEST_SUITE("socket") {

ASYNC_TEST_CASE("a connection: both sides know where the other one is") {
    asyncio::socket listener = asyncio::socket::tcp();
    listener.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
    listener.bind(here);
    listener.listen();
    asyncio::socket client = asyncio::socket::tcp();
    co_await client.connect(listener.local_address());
    asyncio::socket served = co_await listener.accept();
    CHECK(served.remote_address() == client.local_address());
    CHECK(client.remote_address() == served.local_address());
    CHECK(client.remote_address() == listener.local_address());

    co_await client.sendall("hello\n");
    std::string data = co_await served.recv(3);
    CHECK(data == "hel");
    data = co_await served.recv(100);
    CHECK(data == "lo\n");
    client.shutdown(asyncio::socket::shut_wr); // the other direction stays open
    data = co_await served.recv(100);
    CHECK(data == "");
    co_await served.sendall("bye");
    data = co_await client.recv(100);
    CHECK(data == "bye");
}

ASYNC_TEST_CASE("IPv6 works as IPv4 does") {
    asyncio::socket listener = asyncio::socket::tcp(asyncio::address::family_type::v6);
    listener.bind(asyncio::address("::1", 0));
    listener.listen();
    asyncio::socket client = asyncio::socket::tcp(asyncio::address::family_type::v6);
    co_await client.connect(listener.local_address());
    asyncio::socket served = co_await listener.accept();
    CHECK(served.remote_address().is_v6());
    CHECK(served.remote_address() == client.local_address());
}

ASYNC_TEST_CASE("recv gives at most as much as was asked for, also into the caller's memory") {
    auto [near_end, far_end] = co_await socket_pair();
    co_await near_end.sendall("abcdefgh");
    std::vector<std::byte> bytes(3);
    std::size_t n = co_await far_end.recv(bytes);
    CHECK(n == 3);
    CHECK(bytes[2] == std::byte('c'));
    std::string text(2, ' ');
    n = co_await far_end.recv(std::span<char>(text));
    CHECK(n == 2);
    CHECK(text == "de");
    std::string none = co_await far_end.recv(0); // not the end of the stream
    CHECK(none == "");
    text = co_await far_end.recv(1'000'000'000);
    CHECK(text == "fgh");
}

ASYNC_TEST_CASE("sendall sends more than the system takes at once, send what it takes") {
    auto [near_end, far_end] = co_await socket_pair();
    std::string much(3'000'000, '.');
    for (std::size_t i = 0; i < much.size(); i += 100) much[i] = static_cast<char>('a' + i % 26);
    auto sending = asyncio::create_task(near_end.sendall(much));
    std::string received;
    while (received.size() < much.size()) {
        const std::string part = co_await far_end.recv(65536);
        REQUIRE_FALSE(part.empty());
        received += part;
    }
    co_await sending;
    CHECK(received == much);

    much.resize(20'000'000);
    const std::size_t sent = co_await near_end.send(much);
    CHECK(sent > 0);
#if !defined(_WIN32) // which may take all of it while there is any room
    CHECK(sent < much.size());
#endif
    std::size_t more = sent; // until there is no room
    for (;;) {
        auto next = asyncio::create_task(near_end.send(much));
        co_await support::turns(3);
        if (!next.done()) {
            next.cancel();
            CHECK_AWAIT_THROWS_AS(next, asyncio::cancelled_error);
            break;
        }
        more += next.result();
    }
    for (std::size_t got = 0; got < more;) {
        const std::string part = co_await far_end.recv(65536);
        got += part.size();
    }
}

ASYNC_TEST_CASE("tasks that wait for one socket are served in turn") {
    auto [near_end, far_end] = co_await socket_pair();
    std::vector<asyncio::task<std::string>> reading;
    for (int i = 0; i < 3; ++i) reading.push_back(asyncio::create_task(far_end.recv(1)));
    co_await support::turns(2);
    co_await near_end.sendall("123");
    std::string order;
    for (auto& task : reading) order += co_await task;
    CHECK(order == "123");
}

ASYNC_TEST_CASE("what several tasks send with sendall is not mixed") {
    auto [near_end, far_end] = co_await socket_pair();
    std::vector<std::string> texts;
    for (char c = 'a'; c <= 'e'; ++c) texts.emplace_back(1'000'000, c);
    std::vector<asyncio::task<>> sending;
    for (const std::string& text : texts)
        sending.push_back(asyncio::create_task(near_end.sendall(text)));
    std::string received;
    while (received.size() < 5'000'000) {
        const std::string part = co_await far_end.recv(65536);
        received += part;
    }
    CHECK(received == texts[0] + texts[1] + texts[2] + texts[3] + texts[4]);
    for (auto& task : sending) co_await task;
}

ASYNC_TEST_CASE("a receive that is cancelled when its bytes have come leaves them to the next") {
    auto [near_end, far_end] = co_await socket_pair();
    std::vector<std::byte> buffer(10);
    for (int round = 0; round < 2; ++round) {
        asyncio::any_task reading;
        if (round == 0) reading = asyncio::create_task(far_end.recv(10));
        else reading = asyncio::create_task(far_end.recv(buffer));
        co_await support::turns(2);
        co_await near_end.sendall("first");
        co_await cancel_when_woken(reading);
        REQUIRE(reading.cancelled());
        co_await near_end.sendall("second");
        std::string all = co_await far_end.recv(3);
        while (all.size() < 11) all += co_await far_end.recv(100);
        CHECK(all == "firstsecond");
    }
}

ASYNC_TEST_CASE("an end or an error that a cancelled receive has met is there for the next" *
                doctest::skip(under_wine)) {
    auto [near_end, far_end] = co_await socket_pair();
    auto reading = asyncio::create_task(far_end.recv(10));
    co_await support::turns(2);
    const linger reset{1, 0};
    near_end.setsockopt(SOL_SOCKET, SO_LINGER, std::as_bytes(std::span(&reset, 1)));
    near_end.close();
    co_await cancel_when_woken(reading);
    REQUIRE(reading.cancelled());
    CHECK_AWAIT_THROWS_WITH_AS(far_end.recv(10), "recv", std::system_error);
}

ASYNC_TEST_CASE("a connection that a cancelled accept has taken is the next one's") {
    asyncio::socket listener = asyncio::socket::tcp();
    listener.bind(here);
    listener.listen();
    auto accepting = asyncio::create_task(listener.accept());
    co_await support::turns(2);
    asyncio::socket client = asyncio::socket::tcp();
    auto connecting = asyncio::create_task(client.connect(listener.local_address()));
    co_await cancel_when_woken(accepting);
    REQUIRE(accepting.cancelled());
    co_await connecting;
    asyncio::socket served = co_await listener.accept();
    CHECK(served.remote_address() == client.local_address());
}

ASYNC_TEST_CASE("a datagram that a cancelled receive has taken is the next one's, addresses and all") {
    auto [one, other] = datagram_pair();
    for (int round = 0; round < 2; ++round) {
        asyncio::any_task reading;
        if (round == 0) reading = asyncio::create_task(other.recvfrom(4));
        else reading = asyncio::create_task(other.recv(4));
        co_await support::turns(2);
        co_await one.send("first");
        co_await one.send("2");
        co_await cancel_when_woken(reading);
        REQUIRE(reading.cancelled());
        asyncio::datagram d = co_await other.recvfrom(100);
        CHECK(d.data == "firs");
        CHECK(d.truncated);
        CHECK(d.from == one.local_address());
        d = co_await other.recvfrom(100);
        CHECK(d.data == "2");
        CHECK_FALSE(d.truncated);
    }
}

ASYNC_TEST_CASE("the next in the queue gets what a cancelled one leaves behind") {
    auto [near_end, far_end] = co_await socket_pair();
    auto first = asyncio::create_task(far_end.recv(10));
    auto second = asyncio::create_task(far_end.recv(10));
    co_await support::turns(2);
    co_await near_end.sendall("data");
    co_await cancel_when_woken(first);
    REQUIRE(first.cancelled());
    const std::string data = co_await second;
    CHECK(data == "data");
}

ASYNC_TEST_CASE("a cancelled wait does not hold up those behind it") {
    auto [near_end, far_end] = co_await socket_pair();
    auto first = asyncio::create_task(far_end.recv(10));
    auto second = asyncio::create_task(far_end.recv(10));
    auto third = asyncio::create_task(far_end.recv(10));
    co_await support::turns(2);
    first.cancel();
    second.cancel();
    CHECK_AWAIT_THROWS_AS(first, asyncio::cancelled_error);
    CHECK_AWAIT_THROWS_AS(second, asyncio::cancelled_error);
    co_await near_end.sendall("data");
    const std::string data = co_await third;
    CHECK(data == "data");
}

ASYNC_TEST_CASE("a cancelled sendall says how much was sent") {
    auto [near_end, far_end] = co_await socket_pair();
    const std::string much(20'000'000, 'm');
    auto sending = asyncio::create_task(near_end.sendall(much));
    co_await support::turns(3);
    sending.cancel();
    std::string text;
    try {
        co_await sending;
    } catch (const asyncio::cancelled_error& e) {
        text = e.what();
    }
    CHECK(text.find("sendall") != std::string::npos);
    CHECK(text.find("of 20000000 bytes") != std::string::npos);
    near_end.shutdown(asyncio::socket::shut_wr);
    std::size_t got = 0;
    for (;;) {
        const std::string part = co_await far_end.recv(65536);
        if (part.empty()) break;
        got += part.size();
    }
    CHECK(text.find(std::to_string(got) + " of") != std::string::npos);

    auto [other_end, other_far_end] = co_await socket_pair();
    sending = asyncio::create_task(other_end.sendall(much));
    co_await support::turns(3);
    sending.cancel("enough");
    try {
        co_await sending;
    } catch (const asyncio::cancelled_error& e) {
        text = e.what();
    }
    CHECK(text == "enough");
}

ASYNC_TEST_CASE("close wakes whoever waits, and later calls find it closed") {
    auto [near_end, far_end] = co_await socket_pair();
    asyncio::socket listener = asyncio::socket::tcp();
    listener.bind(here);
    listener.listen();
    const std::string much(20'000'000, 'm');
    auto one = asyncio::create_task(code_thrown_by(near_end.recv(1)));
    auto two = asyncio::create_task(code_thrown_by(near_end.recv(1)));
    auto three = asyncio::create_task(code_thrown_by(near_end.sendall(much)));
    auto four = asyncio::create_task(code_thrown_by(listener.accept()));
    co_await support::turns(3);
    near_end.close();
    listener = asyncio::socket(); // destroys the one before
    for (auto* waiting : {&one, &two, &three, &four}) {
        const int code = co_await *waiting;
        CHECK(code == EBADF);
    }
    CHECK_AWAIT_THROWS_WITH_AS(near_end.recv(1), "recv: the socket is closed", std::system_error);
    CHECK_AWAIT_THROWS_WITH_AS(near_end.connect(here), "the socket is closed", std::system_error);
    CHECK_THROWS_WITH_AS(near_end.listen(), doctest::Contains("listen: the socket is closed"),
                         std::system_error);
    CHECK(near_end.fileno() == -1);
    near_end.close();
    const int code = co_await code_thrown_by(asyncio::socket().recv(1));
    CHECK(code == EBADF);
}

ASYNC_TEST_CASE("a refused connect names the address; one that fails leaves nothing behind") {
    asyncio::address nobody;
    {
        asyncio::socket listener = asyncio::socket::tcp();
        listener.bind(here);
        nobody = listener.local_address();
    }
    const int before = open_descriptors();
    {
        asyncio::socket client = asyncio::socket::tcp();
        CHECK_AWAIT_THROWS_WITH_AS(client.connect(nobody), "connect to " + nobody.to_string(),
                                   std::system_error);
    }
    CHECK(open_descriptors() == before);
}

ASYNC_TEST_CASE("what the system refuses is named after the call") {
    asyncio::socket s = asyncio::socket::tcp();
    CHECK_THROWS_WITH_AS(s.bind(asyncio::address("192.0.2.1", 1)),
                         doctest::Contains("bind to 192.0.2.1:1"), std::system_error);
    CHECK_THROWS_WITH_AS(s.remote_address(), doctest::Contains("getpeername"), std::system_error);
    CHECK_THROWS_WITH_AS(s.getsockopt(-1, -1), doctest::Contains("getsockopt"), std::system_error);
    CHECK_THROWS_WITH_AS(s.setsockopt(-1, -1, 1), doctest::Contains("setsockopt"),
                         std::system_error);
    CHECK_THROWS_WITH_AS(s.shutdown(), doctest::Contains("shutdown"), std::system_error);
    CHECK_AWAIT_THROWS_WITH_AS(s.accept(), "accept", std::system_error);
}

// The system tells only of connections then, never that there is something to read.
ASYNC_TEST_CASE("a socket that listens, or is not connected, does not wait for bytes") {
    asyncio::socket listening = asyncio::socket::tcp();
    listening.bind(asyncio::address("127.0.0.1", 0));
    listening.listen();
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::wait_for(listening.recv(1), 1h), "recv",
                               std::system_error);
    asyncio::socket lone = asyncio::socket::tcp();
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::wait_for(lone.recv(1), 1h), "recv", std::system_error);
}

TEST_CASE("options go both ways, also those that are no numbers") {
    asyncio::socket s = asyncio::socket::tcp();
    CHECK(s.getsockopt(SOL_SOCKET, SO_KEEPALIVE) == 0);
    s.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1);
    CHECK(s.getsockopt(SOL_SOCKET, SO_KEEPALIVE) == 1);
    const linger wait{1, 7};
    s.setsockopt(SOL_SOCKET, SO_LINGER, std::as_bytes(std::span(&wait, 1)));
    linger found{};
    const std::size_t size =
        s.getsockopt(SOL_SOCKET, SO_LINGER, std::as_writable_bytes(std::span(&found, 1)));
    CHECK(size == sizeof found);
    CHECK(found.l_linger == 7);
}

#if defined(_WIN32)

ASYNC_TEST_CASE("a socket of the system's is taken over and given back") {
    auto [near_end, far_end] = co_await socket_pair();
    const int number = near_end.detach();
    const SOCKET handle = static_cast<SOCKET>(number);
    u_long blocks_not = 0;
    REQUIRE(::ioctlsocket(handle, static_cast<long>(FIONBIO), &blocks_not) == 0);
    asyncio::socket one(number);
    auto reading = asyncio::create_task(one.recv(10));
    co_await support::turns(2);
    co_await far_end.sendall("hi");
    const std::string data = co_await std::move(reading);
    CHECK(data == "hi");
    CHECK(one.detach() == number);
    CHECK(one.fileno() == -1);
    CHECK(::send(handle, "x", 1, 0) == 1);
    ::closesocket(handle);

    const HANDLE event = ::CreateEventW(nullptr, FALSE, FALSE, nullptr);
    const int no_socket = static_cast<int>(reinterpret_cast<std::intptr_t>(event));
    CHECK_THROWS_WITH_AS(asyncio::socket{no_socket}, doctest::Contains("SO_TYPE"),
                         std::system_error);
    CHECK(::CloseHandle(event) != 0); // it stayed the caller's
}

#else // pairs, pipes, Unix sockets

ASYNC_TEST_CASE("a descriptor is taken over and given back") {
    int fds[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0); // they would block
    asyncio::socket one(fds[0]);
    asyncio::socket other(fds[1]);
    auto reading = asyncio::create_task(one.recv(10));
    co_await support::turns(2);
    co_await other.sendall("hi");
    const std::string data = co_await std::move(reading);
    CHECK(data == "hi");
    CHECK(one.detach() == fds[0]);
    CHECK(one.fileno() == -1);
    CHECK(::write(fds[0], "x", 1) == 1);
    ::close(fds[0]);

    int pipe_fds[2];
    REQUIRE(::pipe(pipe_fds) == 0);
    CHECK_THROWS_WITH_AS(asyncio::socket(pipe_fds[0]), doctest::Contains("SO_TYPE"),
                         std::system_error);
    CHECK(::close(pipe_fds[0]) == 0); // it stayed the caller's
    ::close(pipe_fds[1]);
}

ASYNC_TEST_CASE("Unix sockets: streams by path, and by a name that is no file") {
    const scratch_path path;
    const std::string abstract = std::string(1, '\0') + path.text;
    for (const std::string& name : {path.text, abstract}) {
        asyncio::socket listener = asyncio::socket::unix_stream();
        listener.bind(asyncio::address::local(name));
        listener.listen();
        asyncio::socket client = asyncio::socket::unix_stream();
        co_await client.connect(asyncio::address::local(name));
        asyncio::socket served = co_await listener.accept();
        co_await client.sendall("x");
        const std::string x = co_await served.recv(1);
        CHECK(x == "x");
        CHECK(client.remote_address() == asyncio::address::local(name));
    }
}

ASYNC_TEST_CASE("a Unix socket whose backlog is full is waited for") {
    const scratch_path path;
    const asyncio::address where = asyncio::address::local(path.text);
    asyncio::socket listener = asyncio::socket::unix_stream();
    listener.bind(where);
    listener.listen(1);
    std::vector<asyncio::socket> clients;
    std::vector<asyncio::task<>> connecting;
    for (int i = 0; i < 6; ++i) clients.push_back(asyncio::socket::unix_stream());
    for (asyncio::socket& client : clients)
        connecting.push_back(asyncio::create_task(client.connect(where)));
    co_await support::turns(10);
    CHECK_FALSE(connecting.back().done());
    std::vector<asyncio::socket> served;
    for (int i = 0; i < 6; ++i) {
        asyncio::socket next = co_await listener.accept();
        served.push_back(std::move(next));
    }
    for (auto& task : connecting) co_await task;
}

#endif

ASYNC_TEST_CASE("recvfrom tells what a datagram was: where from, and whether it was cut off") {
    asyncio::socket one = asyncio::socket::udp();
    asyncio::socket other = asyncio::socket::udp();
    one.bind(here);
    other.bind(here);
    std::size_t sent = co_await one.sendto("hello", other.local_address());
    CHECK(sent == 5);
    sent = co_await one.sendto("", other.local_address());
    CHECK(sent == 0);
    const std::vector<std::byte> bytes{std::byte('b'), std::byte('y'), std::byte('t')};
    co_await one.sendto(bytes, other.local_address());
    co_await one.sendto("four", other.local_address());
    co_await one.sendto("last", other.local_address());

    asyncio::datagram d = co_await other.recvfrom();
    CHECK(d.data == "hello");
    CHECK(d.from == one.local_address());
    CHECK_FALSE(d.truncated);
    d = co_await other.recvfrom();
    CHECK(d.data == "");
    CHECK(d.from == one.local_address());
    d = co_await other.recvfrom(2);
    CHECK(d.data == "by");
    CHECK(d.truncated);
    std::vector<std::byte> room(2);
    asyncio::received_datagram r = co_await other.recvfrom(room);
    CHECK(r.size == 2);
    CHECK(r.truncated);
    CHECK(r.from == one.local_address());
    const std::string text = co_await other.recv(100);
    CHECK(text == "last");
}

ASYNC_TEST_CASE("a connected datagram socket hears that nobody listens, and lives on" *
                doctest::skip(under_wine)) {
    auto [one, other] = datagram_pair();
    const asyncio::address where = other.local_address();
    other.close();
    auto reading = asyncio::create_task(code_thrown_by(one.recv(10)));
    co_await support::turns(2);
    co_await one.send("anybody there?");
    const int code = co_await reading;
    CHECK(code == ECONNREFUSED);
    asyncio::socket third = asyncio::socket::udp();
    third.bind(here);
    co_await one.connect(third.local_address());
    co_await one.send("hello");
    const std::string data = co_await third.recv(10);
    CHECK(data == "hello");
}

ASYNC_TEST_CASE("connecting a datagram socket does not lose what has come before") {
    asyncio::socket one = asyncio::socket::udp();
    asyncio::socket other = asyncio::socket::udp();
    one.bind(here);
    other.bind(here);
    co_await other.sendto("x", other.local_address()); // ties both to the loop
    std::string data = co_await other.recv(1);
    co_await one.sendto("early", other.local_address());
    co_await support::turns(5); // the news of it is taken in
    co_await other.connect(one.local_address());
    data = co_await other.recv(10);
    CHECK(data == "early");
}

#if !defined(_WIN32)

// Sends until the queue at `where` takes no more. Gives how many it took.
asyncio::coro<int> fill(asyncio::socket& greedy, asyncio::address where) {
    for (int filled = 0;; ++filled) {
        auto sending = asyncio::create_task(greedy.sendto("greedy", where));
        co_await support::turns(2);
        if (sending.done()) continue;
        sending.cancel();
        CHECK_AWAIT_THROWS_AS(sending, asyncio::cancelled_error);
        co_return filled;
    }
}

ASYNC_TEST_CASE("Unix datagrams: a queue that others have filled is waited for") {
    const scratch_path path;
    const asyncio::address where = asyncio::address::local(path.text);
    asyncio::socket receiver = asyncio::socket::unix_dgram();
    receiver.bind(where);
    asyncio::socket greedy = asyncio::socket::unix_dgram();
    asyncio::socket modest = asyncio::socket::unix_dgram();
    const int filled = co_await fill(greedy, where);
    auto waiting = asyncio::create_task(modest.sendto("modest", where));
    co_await support::turns(5);
    CHECK_FALSE(waiting.done());
    for (int i = 0; i < filled; ++i) {
        const std::string data = co_await receiver.recv(100);
        CHECK(data == "greedy");
    }
    co_await waiting;
    const std::string data = co_await receiver.recv(100);
    CHECK(data == "modest");
}

ASYNC_TEST_CASE("Unix datagrams: a name of any length is a sender's, and none is no address") {
    const scratch_path path;
    asyncio::socket receiver = asyncio::socket::unix_dgram();
    receiver.bind(asyncio::address::local(path.text));
    sockaddr_un to{};
    to.sun_family = AF_UNIX;
    path.text.copy(to.sun_path, sizeof to.sun_path - 1);
    const auto send_from = [&](const sockaddr_un* own, std::size_t size) {
        const asyncio::socket sender(::socket(AF_UNIX, SOCK_DGRAM, 0));
        if (own != nullptr)
            REQUIRE(::bind(sender.fileno(), reinterpret_cast<const sockaddr*>(own),
                           static_cast<socklen_t>(size)) == 0);
        REQUIRE(::sendto(sender.fileno(), "x", 1, 0, reinterpret_cast<const sockaddr*>(&to),
                         sizeof to) == 1);
    };
    send_from(nullptr, 0);
    asyncio::datagram got = co_await receiver.recvfrom(10);
    CHECK_FALSE(got.from);
#if defined(__linux__) // where a name in C is often as long as there is room
    sockaddr_un full{};
    full.sun_family = AF_UNIX;
    std::memset(full.sun_path + 1, 'x', sizeof full.sun_path - 1);
    send_from(&full, sizeof full);
    got = co_await receiver.recvfrom(10);
    CHECK(got.from.path() == std::string(full.sun_path, sizeof full.sun_path));
    send_from(nullptr, 0);
    got = co_await receiver.recvfrom(10);
    CHECK_FALSE(got.from);
#endif
}

ASYNC_TEST_CASE("Unix datagrams: a full queue is waited for while the same socket receives") {
    const scratch_path path;
    const scratch_path own;
    const asyncio::address where = asyncio::address::local(path.text);
    asyncio::socket receiver = asyncio::socket::unix_dgram();
    receiver.bind(where);
    asyncio::socket greedy = asyncio::socket::unix_dgram();
    asyncio::socket modest = asyncio::socket::unix_dgram();
    modest.bind(asyncio::address::local(own.text));
    const int filled = co_await fill(greedy, where);
    auto receiving = asyncio::create_task(modest.recv(100));
    auto waiting = asyncio::create_task(modest.sendto("modest", where));
    co_await support::turns(5);
    CHECK_FALSE(waiting.done());
    co_await greedy.sendto("news", asyncio::address::local(own.text));
    std::string data = co_await receiving;
    CHECK(data == "news");
    for (int i = 0; i < filled; ++i) data = co_await receiver.recv(100);
    co_await asyncio::wait_for(waiting, 30s);
    data = co_await receiver.recv(100);
    CHECK(data == "modest");
}

#endif

ASYNC_TEST_CASE("who never has to wait, since the peer is fast, lets others have their turn") {
    auto [near_end, far_end] = co_await socket_pair();
    co_await far_end.sendall(std::string(1000, 'd'));
    std::string some = co_await near_end.recv(1); // from here on it is known that there is more
    bool turn = false;
    asyncio::get_running_loop().call_soon([&] { turn = true; });
    int calls = 0;
    for (; !turn && calls < 100; ++calls) some = co_await near_end.recv(1);
    CHECK(turn);
    CHECK(calls > 1); // but most calls take no turn
}

TEST_CASE("a socket belongs to the loop of its first await, and to the next one when that is gone") {
    std::optional<asyncio::socket> one;
    std::optional<asyncio::socket> other;
    const auto setup = [&]() -> asyncio::coro<> {
        auto [near_end, far_end] = co_await socket_pair();
        one = std::move(near_end);
        other = std::move(far_end);
        co_await one->sendall("before");
        const std::string data = co_await other->recv(100);
        CHECK(data == "before");
    };
    const auto again = [&]() -> asyncio::coro<> {
        co_await one->sendall("after");
        const std::string data = co_await other->recv(100);
        CHECK(data == "after");
    };
    {
        asyncio::event_loop first;
        first.run_until_complete(setup);
        std::thread([&] {
            asyncio::event_loop second;
            CHECK_THROWS_AS(second.run_until_complete(again), std::runtime_error);
        }).join();
    }
    asyncio::run(again);
}

TEST_CASE("a loop that ends while a socket is waited for frees all") {
    const int before = open_descriptors();
    {
        std::optional<asyncio::socket> kept;
        asyncio::event_loop loop;
        const auto program = [&]() -> asyncio::coro<> {
            auto [near_end, far_end] = co_await socket_pair();
            kept = std::move(near_end);
            const std::string much(20'000'000, 'm');
            auto sending = asyncio::create_task(kept->sendall(much));
            co_await support::turns(3);
            loop.stop();
            co_await far_end.recv(0);
            co_await kept->recv(1);
        };
        auto task = loop.create_task(program);
        loop.run_forever();
        CHECK_FALSE(task.done());
    }
    CHECK(open_descriptors() == before);
}

ASYNC_TEST_CASE("a connect holds the virtual clock, waiting for data does not") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    asyncio::socket listener = asyncio::socket::tcp();
    listener.bind(here);
    listener.listen(0);
    std::vector<asyncio::socket> clients;
    std::vector<asyncio::task<>> connecting;
    for (int i = 0; i < 4; ++i) clients.push_back(asyncio::socket::tcp());
    for (asyncio::socket& client : clients)
        connecting.push_back(asyncio::create_task(client.connect(listener.local_address())));
    bool jumped = false;
    asyncio::handle timer = loop.call_later(1h, [&] { jumped = true; });
    co_await support::turns(100);
    CHECK_FALSE(jumped); // the backlog has no place for the last ones
    CHECK_FALSE(connecting.back().done());
    for (auto& task : connecting) task.cancel();
    for (auto& task : connecting) static_cast<void>(co_await asyncio::as_outcome(task));
    timer.cancel();
    auto reading = asyncio::create_task(listener.accept());
    co_await reading;
    const asyncio::time_point before = loop.time();
    auto waiting = asyncio::create_task(clients[0].recv(1));
    co_await asyncio::sleep(1h);
    CHECK(loop.time() - before >= asyncio::duration(1h));
    waiting.cancel();
    CHECK_AWAIT_THROWS_AS(waiting, asyncio::cancelled_error);
}

#if !defined(_WIN32) // where nothing interrupts a call

ASYNC_TEST_CASE("calls that a signal interrupts are made again") {
    const interrupted_calls every_other;
    auto [near_end, far_end] = co_await socket_pair();
    const std::string much(1'000'000, 'm');
    auto sending = asyncio::create_task(near_end.sendall(much));
    std::size_t received = 0;
    while (received < much.size()) {
        const std::string part = co_await far_end.recv(1000);
        received += part.size();
    }
    co_await sending;
    auto [one, other] = datagram_pair();
    co_await one.send("datagram");
    const asyncio::datagram d = co_await other.recvfrom();
    CHECK(d.data == "datagram");
    CHECK(system_calls.interrupted > 1000);
}

#endif

ASYNC_TEST_CASE("urgent data does not hold up what comes after it") {
    auto [near_end, far_end] = co_await socket_pair();
    co_await near_end.sendall("before");
    CHECK(::send(system_socket_of(near_end), "!", 1, MSG_OOB) == 1);
    co_await near_end.sendall("after");
    co_await support::turns(5);
    std::string received;
    while (received.size() < 11) {
        const std::string part = co_await far_end.recv(100);
        received += part;
    }
    CHECK(received == "beforeafter");
}

#if !defined(_WIN32) // whose sockets carry none

ASYNC_TEST_CASE("descriptors that a peer sends along do not hold up what comes after them") {
    int fds[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    asyncio::socket near_end(fds[0]);
    asyncio::socket far_end(fds[1]);
    const int before = open_descriptors();
    char data[] = "with a descriptor";
    iovec piece{data, sizeof data - 1};
    alignas(cmsghdr) char control[CMSG_SPACE(sizeof(int))] = {};
    msghdr message{};
    message.msg_iov = &piece;
    message.msg_iovlen = 1;
    message.msg_control = control;
    message.msg_controllen = sizeof control;
    cmsghdr* const header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(int));
    std::memcpy(CMSG_DATA(header), &fds[0], sizeof(int));
    REQUIRE(::sendmsg(near_end.fileno(), &message, 0) == 17);
    co_await near_end.sendall(" and more");
    co_await support::turns(5);
    std::string received;
    while (received.size() < 26) {
        const std::string part = co_await far_end.recv(100);
        received += part;
    }
    CHECK(received == "with a descriptor and more");
    CHECK(open_descriptors() == before); // none was taken over
}

#endif

} // TEST_SUITE

TEST_SUITE("getaddrinfo") {

ASYNC_TEST_CASE("numeric addresses are answered without a look-up") {
    const int before = lookups;
    std::vector<asyncio::address> found = co_await asyncio::getaddrinfo("127.0.0.1", "80");
    REQUIRE(found.size() == 1);
    CHECK(found[0] == asyncio::address("127.0.0.1", 80));
    found = co_await asyncio::getaddrinfo("::1");
    REQUIRE(found.size() == 1);
    CHECK(found[0] == asyncio::address("::1", 0));
    found = co_await asyncio::getaddrinfo("", "80");
    CHECK(found.size() == 2);
    CHECK(lookups == before);
}

ASYNC_TEST_CASE("a service may be a port's number, 0 too") {
    std::vector<asyncio::address> found = co_await asyncio::getaddrinfo("127.0.0.1", 0);
    CHECK(found == std::vector{asyncio::address("127.0.0.1", 0)});
    found = co_await asyncio::getaddrinfo("127.0.0.1", 65535);
    CHECK(found == std::vector{asyncio::address("127.0.0.1", 65535)});
    CHECK_AWAIT_THROWS_AS(asyncio::getaddrinfo("127.0.0.1", 65536), std::invalid_argument);
    CHECK_AWAIT_THROWS_AS(asyncio::getaddrinfo("127.0.0.1", -1), std::invalid_argument);
    found = co_await asyncio::getaddrinfo("127.0.0.1", "0000065535");
    CHECK(found == std::vector{asyncio::address("127.0.0.1", 65535)});
    for (const char* none : {"65536", "700000", "4294967377", "99999999999999999999"})
        CHECK_AWAIT_THROWS_AS(asyncio::getaddrinfo("127.0.0.1", none), std::invalid_argument);
}

#if defined(__GLIBC__) // where a list may be put together
ASYNC_TEST_CASE("an address that a host has twice is found once") {
    const std::vector<asyncio::address> found = co_await asyncio::getaddrinfo("twice.test", "80");
    CHECK(found == std::vector{asyncio::address("127.0.0.1", 80)});
}
#endif

ASYNC_TEST_CASE("names are looked up on a helper thread") {
    std::vector<asyncio::address> found = co_await asyncio::getaddrinfo("localhost", "80");
    REQUIRE_FALSE(found.empty());
    CHECK(found[0].port() == 80);
    const std::string half("localhost\0.x", 12); // which the system would take for all of it
    CHECK_AWAIT_THROWS_AS(asyncio::getaddrinfo(half), std::invalid_argument);
}

ASYNC_TEST_CASE("a name that does not resolve is named in the error") {
    std::string text;
    std::error_code code;
    try {
        co_await asyncio::getaddrinfo("no.such.host.invalid");
    } catch (const std::system_error& e) {
        text = e.what();
        code = e.code();
    }
    CHECK(text.find("no.such.host.invalid") != std::string::npos);
    CHECK(code.category() == asyncio::getaddrinfo_category());
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::open_connection("no.such.host.invalid", 80),
                               "no.such.host.invalid", std::system_error);
}

ASYNC_TEST_CASE("a look-up holds the virtual clock and lets other tasks run") {
    slow.close();
    bool jumped = false;
    asyncio::handle timer = asyncio::get_running_loop().call_later(1h, [&] { jumped = true; });
    auto looking = asyncio::create_task(asyncio::getaddrinfo("slow.test", "80"));
    co_await support::turns(100);
    CHECK_FALSE(looking.done());
    CHECK_FALSE(jumped);
    slow.open();
    const std::vector<asyncio::address> found = co_await std::move(looking);
    REQUIRE(found.size() == 1);
    CHECK(found[0].to_string() == "127.0.0.1:80");
    timer.cancel();
}

ASYNC_TEST_CASE("a look-up is cancelled at once, and a late answer harms nobody") {
    slow.close();
    auto looking = asyncio::create_task(asyncio::getaddrinfo("slow.test"));
    co_await support::turns(2);
    slow.wait_for_visitors(1);
    looking.cancel();
    CHECK_AWAIT_THROWS_AS(looking, asyncio::cancelled_error);
    slow.open();
    // The thread goes through the same queue: a later name comes after the late answer.
    co_await asyncio::getaddrinfo("localhost");
}

TEST_CASE("a look-up that outlives its loop harms nobody") {
    slow.close();
    {
        asyncio::event_loop loop;
        auto looking = loop.create_task(asyncio::getaddrinfo("slow.test"));
        loop.call_later(1ms, [&] { loop.stop(); });
        loop.run_forever();
        CHECK_FALSE(looking.done());
        slow.wait_for_visitors(1);
    }
    slow.open();
}

ASYNC_TEST_CASE("more names at once than there are threads are all looked up") {
    slow.close();
    std::vector<asyncio::task<std::vector<asyncio::address>>> all;
    for (int i = 0; i < 40; ++i)
        all.push_back(asyncio::create_task(asyncio::getaddrinfo("slow.test", std::to_string(i))));
    co_await support::turns(3);
    slow.wait_for_visitors(16);
    slow.open();
    for (int i = 0; i < 40; ++i) {
        const std::vector<asyncio::address> found = co_await all[static_cast<std::size_t>(i)];
        REQUIRE(found.size() == 1);
        CHECK(found[0].port() == i);
    }
}

ASYNC_TEST_CASE_REAL("a resolver that never answers is the business of timeouts") {
    slow.close();
    const auto start = std::chrono::steady_clock::now();
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(asyncio::open_connection("slow.test", 80), 20ms),
                          asyncio::timeout_error);
    CHECK_AWAIT_THROWS_AS(
        asyncio::wait_for(asyncio::create_datagram_endpoint({.remote_addr = {"slow.test", 1}}),
                          20ms),
        asyncio::timeout_error);
    const auto serve = [](asyncio::stream_reader, asyncio::stream_writer) {};
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(asyncio::start_server(serve, "slow.test", 0), 20ms),
                          asyncio::timeout_error);
    CHECK(std::chrono::steady_clock::now() - start < 10s);
    slow.open();
}

#if !defined(_WIN32) // where a test has no program of its own that may end

// What its thread holds would be a leak to a sanitizer.
TEST_CASE("a program whose resolver never answers ends all the same" *
          doctest::skip(support::sanitized)) {
    const support::child_result result = support::in_child([]() -> int {
        slow.close();
        const auto program = []() -> asyncio::coro<int> {
            auto looking = asyncio::create_task(asyncio::getaddrinfo("slow.test"));
            co_await support::turns(2);
            slow.wait_for_visitors(1);
            co_return 5; // run() cancels it
        };
        std::exit(asyncio::run(program())); // with all that a program does at its end
    });
    CHECK(result.err == "");
    CHECK(result.exit_code == 5);
}

#endif

} // TEST_SUITE
