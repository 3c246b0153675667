// Datagram endpoints: part of [SECTION] sockets.
#include "network.hpp"

#include <optional>
#include <span>
#if !defined(_WIN32)
#include <sys/un.h>
#endif

namespace {

using asyncio::create_datagram_endpoint;
using asyncio::datagram;
using asyncio::datagram_endpoint;

// Two endpoints, each bound to a port of its own.
struct two_endpoints {
    two_endpoints(datagram_endpoint a, datagram_endpoint b)
        : one(std::move(a)), other(std::move(b)) {}

    datagram_endpoint one;
    datagram_endpoint other;
};

asyncio::coro<two_endpoints> bound() {
    datagram_endpoint one = co_await create_datagram_endpoint({.local_addr = "127.0.0.1"});
    datagram_endpoint other = co_await create_datagram_endpoint({.local_addr = "127.0.0.1"});
    co_return two_endpoints(std::move(one), std::move(other));
}

#if !defined(_WIN32) // which has no such sockets, and where nothing else has to be kept

// An endpoint over a Unix socket whose peer takes no more than a few datagrams before it has
// read them. A UDP socket does not wait: what the peer has no room for is lost.
struct slow_peer {
    slow_peer(datagram_endpoint e, asyncio::socket p)
        : endpoint(std::move(e)), peer(std::move(p)) {}

    datagram_endpoint endpoint;
    asyncio::socket peer;
};

asyncio::coro<slow_peer> with_slow_peer() {
    int fds[2];
    REQUIRE(::socketpair(AF_UNIX, SOCK_DGRAM, 0, fds) == 0);
    asyncio::socket over(fds[0]);
    asyncio::socket peer(fds[1]);
    datagram_endpoint endpoint = co_await create_datagram_endpoint(std::move(over));
    co_return slow_peer(std::move(endpoint), std::move(peer));
}

// Sends numbered datagrams until some are kept; gives how many were sent in all.
int fill(datagram_endpoint& endpoint, std::size_t kept = 1) {
    int count = 0;
    while (endpoint.get_write_buffer_size() < kept) {
        endpoint.sendto(std::to_string(count) + std::string(1000, '.'));
        ++count;
    }
    return count;
}

// Receives `count` of them and checks their order.
asyncio::coro<> take(asyncio::socket& peer, int count) {
    for (int i = 0; i < count; ++i) {
        const std::string data = co_await peer.recv(2000);
        CHECK(data == std::to_string(i) + std::string(1000, '.'));
    }
}

#endif

asyncio::coro<int> closed_port() {
    datagram_endpoint gone = co_await create_datagram_endpoint({.local_addr = "127.0.0.1"});
    co_return gone.sockname().port();
}

} // namespace

TEST_SUITE("datagram_endpoint") {

ASYNC_TEST_CASE("DG-01: each datagram arrives as it was sent, with the sender's address") {
    two_endpoints ends = co_await bound();
    const std::string large(60'000, 'L');
    for (const std::string& text : {std::string("one"), std::string(), std::string("three"), large})
        ends.one.sendto(text, ends.other.sockname());
    const std::vector<std::byte> bytes{std::byte(0), std::byte(255)};
    ends.one.sendto(bytes, ends.other.sockname());
    std::vector<std::string> received;
    for (int i = 0; i < 5; ++i) {
        datagram d = co_await ends.other.recvfrom();
        CHECK(d.from == ends.one.sockname());
        CHECK_FALSE(d.truncated);
        received.push_back(std::move(d.data));
    }
    CHECK(received == std::vector<std::string>{"one", "", "three", large, {"\0\xff", 2}});
    ends.other.sendto("answer", ends.one.sockname());
    const datagram d = co_await ends.one.recvfrom();
    CHECK(d.data == "answer");
}

ASYNC_TEST_CASE("DG-01: what is longer than max_size is cut off, and says so") {
    datagram_endpoint small_one =
        co_await create_datagram_endpoint({.local_addr = "127.0.0.1", .max_size = 4});
    const int port = small_one.sockname().port();
    datagram_endpoint other =
        co_await create_datagram_endpoint({.remote_addr = {"127.0.0.1", port}});
    other.sendto("12345");
    other.sendto("1234");
    datagram d = co_await small_one.recvfrom();
    CHECK(d.data == "1234");
    CHECK(d.truncated);
    d = co_await small_one.recvfrom();
    CHECK(d.data == "1234");
    CHECK_FALSE(d.truncated);
}

ASYNC_TEST_CASE("DG-02: with a remote address only that one is sent to and heard from") {
    two_endpoints ends = co_await bound();
    const int port = ends.one.sockname().port();
    datagram_endpoint fixed =
        co_await create_datagram_endpoint({.remote_addr = {"127.0.0.1", port}});
    CHECK(fixed.peername() == ends.one.sockname());
    CHECK_FALSE(static_cast<bool>(ends.one.peername()));
    CHECK_THROWS_AS(fixed.sendto("x", ends.other.sockname()), std::invalid_argument);
    CHECK_THROWS_AS(ends.one.sendto("x"), std::invalid_argument);
    fixed.sendto("to the one", ends.one.sockname()); // its own address is fine
    fixed.sendto("again");
    ends.other.sendto("from a stranger", fixed.sockname());
    datagram d = co_await ends.one.recvfrom();
    CHECK(d.data == "to the one");
    ends.one.sendto("answer", d.from);
    d = co_await fixed.recvfrom();
    CHECK(d.data == "answer");
}

ASYNC_TEST_CASE("DG-02: a refusal comes out of recvfrom, and the endpoint stays open" *
                doctest::skip(under_wine)) {
    const int port = co_await closed_port();
    datagram_endpoint endpoint =
        co_await create_datagram_endpoint({.remote_addr = {"127.0.0.1", port}});
    for (int round = 0; round < 2; ++round) { // once while it is waited for, once before
        auto receiving = asyncio::create_task(code_thrown_by(endpoint.recvfrom()));
        if (round == 0) co_await support::turns(2);
        endpoint.sendto("anybody there?");
        const int code = co_await receiving;
        CHECK(code == ECONNREFUSED);
        CHECK_FALSE(endpoint.is_closing());
    }
    // The answer to the first may be met by the second, which goes out all the same.
    endpoint.sendto("first");
    endpoint.sendto("second");
    int code = co_await code_thrown_by(endpoint.recvfrom());
    CHECK(code == ECONNREFUSED);
    code = co_await code_thrown_by(endpoint.recvfrom());
    CHECK(code == ECONNREFUSED);
    // Somebody listens there by now.
    datagram_endpoint late = co_await create_datagram_endpoint({.local_addr = {"127.0.0.1", port}});
    endpoint.sendto("hello");
    const datagram d = co_await late.recvfrom();
    CHECK(d.data == "hello");
    late.sendto("welcome", d.from);
    const datagram answer = co_await endpoint.recvfrom();
    CHECK(answer.data == "welcome");
}

ASYNC_TEST_CASE("DG-02: a refusal that nobody asks about does not keep later datagrams back") {
    const int port = co_await closed_port();
    datagram_endpoint endpoint =
        co_await create_datagram_endpoint({.remote_addr = {"127.0.0.1", port}});
    endpoint.sendto("nobody");
    datagram_endpoint late = co_await create_datagram_endpoint({.local_addr = {"127.0.0.1", port}});
    endpoint.sendto("one");
    endpoint.sendto("two");
    datagram d = co_await late.recvfrom();
    CHECK(d.data == "one");
    d = co_await late.recvfrom();
    CHECK(d.data == "two");
}

ASYNC_TEST_CASE("a datagram that is too large is refused at once") {
    two_endpoints ends = co_await bound();
    const std::string huge(70'000, 'h');
    std::exception_ptr error;
    try {
        ends.one.sendto(huge, ends.other.sockname());
    } catch (...) {
        error = std::current_exception();
    }
    CHECK(code_of(error) == EMSGSIZE);
    ends.one.sendto("fits", ends.other.sockname());
    const datagram d = co_await ends.other.recvfrom();
    CHECK(d.data == "fits");
}

ASYNC_TEST_CASE("what the system refuses of a datagram comes out of recvfrom") {
    two_endpoints ends = co_await bound();
    ends.one.sendto("x", asyncio::address("::1", 1)); // the socket is an IPv4 one
    const int code = co_await code_thrown_by(ends.one.recvfrom());
#if defined(_WIN32)
    CHECK(code > 0); // which of them it is depends on the version
#else
    CHECK(code == EAFNOSUPPORT);
#endif
}

#if defined(_WIN32)

ASYNC_TEST_CASE("DG-03: close ends what waits, and nothing goes out after it") {
    two_endpoints ends = co_await bound();
    auto receiving = asyncio::create_task(code_thrown_by(ends.one.recvfrom()));
    co_await support::turns(1);
    ends.one.sendto("before close", ends.other.sockname());
    ends.one.close();
    ends.one.close();
    CHECK(ends.one.is_closing());
    const int code = co_await receiving;
    CHECK(code == EBADF);
    ends.one.sendto("after close", ends.other.sockname()); // ignored
    co_await ends.one.wait_closed();
    CHECK(ends.one.get_write_buffer_size() == 0);
    CHECK_AWAIT_THROWS_WITH_AS(ends.one.recvfrom(), "closed", std::system_error);
    CHECK_AWAIT_THROWS_WITH_AS(ends.one.drain(), "closed", std::system_error);
    CHECK(ends.one.sockname().is_v4()); // still known
    datagram d = co_await ends.other.recvfrom();
    CHECK(d.data == "before close");
    CHECK(d.from == ends.one.sockname());
    datagram_endpoint third = co_await create_datagram_endpoint({.local_addr = "127.0.0.1"});
    third.sendto("next", ends.other.sockname());
    d = co_await ends.other.recvfrom();
    CHECK(d.data == "next");
}

ASYNC_TEST_CASE("DG-03: an endpoint that goes out of scope, or is aborted, is closed") {
    const int before = open_descriptors();
    {
        two_endpoints ends = co_await bound();
        auto receiving = asyncio::create_task(code_thrown_by(ends.one.recvfrom()));
        co_await support::turns(2);
        ends.one.abort();
        ends.one.abort();
        co_await ends.one.wait_closed();
        const int code = co_await receiving;
        CHECK(code == EBADF);
    }
    co_await support::turns(3);
    CHECK(open_descriptors() == before);
}

#else

ASYNC_TEST_CASE("DG-03: close sends what is kept, and only then wait_closed is done") {
    slow_peer s = co_await with_slow_peer();
    const int count = fill(s.endpoint, 20'000);
    auto receiving = asyncio::create_task(code_thrown_by(s.endpoint.recvfrom()));
    co_await support::turns(1);
    s.endpoint.close();
    s.endpoint.close();
    CHECK(s.endpoint.is_closing());
    const int code = co_await receiving; // no more receiving
    CHECK(code == EBADF);
    auto closing = asyncio::create_task(s.endpoint.wait_closed());
    co_await support::turns(5);
    CHECK_FALSE(closing.done());
    s.endpoint.sendto("after close"); // ignored
    co_await take(s.peer, count);
    co_await closing;
    CHECK(s.endpoint.get_write_buffer_size() == 0);
    co_await s.endpoint.wait_closed();
    auto more = asyncio::create_task(s.peer.recv(100));
    co_await support::turns(5);
    CHECK_FALSE(more.done()); // nothing came after them
    more.cancel();
    CHECK_AWAIT_THROWS_AS(more, asyncio::cancelled_error);
    CHECK_AWAIT_THROWS_WITH_AS(s.endpoint.recvfrom(), "closed", std::system_error);
    CHECK_AWAIT_THROWS_WITH_AS(s.endpoint.drain(), "closed", std::system_error);
    CHECK(s.endpoint.sockname().is_local()); // still known
}

ASYNC_TEST_CASE("DG-03: abort drops what is kept") {
    slow_peer s = co_await with_slow_peer();
    const int count = fill(s.endpoint, 100'000);
    auto draining = asyncio::create_task(code_thrown_by(s.endpoint.drain()));
    auto receiving = asyncio::create_task(code_thrown_by(s.endpoint.recvfrom()));
    co_await support::turns(2);
    CHECK_FALSE(draining.done());
    s.endpoint.abort();
    s.endpoint.abort();
    CHECK(s.endpoint.get_write_buffer_size() == 0);
    co_await s.endpoint.wait_closed();
    int code = co_await draining;
    CHECK(code == EBADF);
    code = co_await receiving;
    CHECK(code == EBADF);
    int received = 0;
    for (;;) { // those that had gone out before
        auto next = asyncio::create_task(s.peer.recv(2000));
        co_await support::turns(3);
        if (!next.done()) {
            next.cancel();
            CHECK_AWAIT_THROWS_AS(next, asyncio::cancelled_error);
            break;
        }
        ++received;
    }
    CHECK(received < count);
}

ASYNC_TEST_CASE("DG-03: an endpoint that goes out of scope sends what is kept and closes") {
    const int before = open_descriptors();
    int count = 0;
    std::optional<asyncio::socket> peer;
    {
        slow_peer s = co_await with_slow_peer();
        peer = std::move(s.peer);
        count = fill(s.endpoint, 20'000);
    }
    co_await take(*peer, count);
    peer.reset();
    CHECK(open_descriptors() == before);
}

ASYNC_TEST_CASE("drain waits from the high mark down to the low one") {
    slow_peer s = co_await with_slow_peer();
    s.endpoint.set_write_buffer_limits(50'000, 10'000);
    CHECK_THROWS_AS(s.endpoint.set_write_buffer_limits(1, 2), std::invalid_argument);
    co_await s.endpoint.drain();
    fill(s.endpoint, 50'001);
    auto draining = asyncio::create_task(s.endpoint.drain());
    co_await support::turns(3);
    CHECK_FALSE(draining.done());
    while (!draining.done()) {
        const std::string data = co_await s.peer.recv(2000);
        CHECK_FALSE(data.empty());
        co_await support::turns(1);
        const bool low = s.endpoint.get_write_buffer_size() <= 10'000;
        CHECK((low || !draining.done()));
    }
    s.endpoint.abort();
}

ASYNC_TEST_CASE("empty datagrams count, so that they cannot fill the memory unnoticed") {
    slow_peer s = co_await with_slow_peer();
    for (int i = 0; i < 5000; ++i) s.endpoint.sendto("");
    CHECK(s.endpoint.get_write_buffer_size() > 1000);
    s.endpoint.abort();
}

#endif

ASYNC_TEST_CASE("a receive that is cancelled when its datagram has come leaves it to the next") {
    two_endpoints ends = co_await bound();
    auto receiving = asyncio::create_task(ends.other.recvfrom());
    co_await support::turns(2);
    ends.one.sendto("kept", ends.other.sockname());
    ends.one.sendto("second", ends.other.sockname());
    while (!receiving.done()) {
        asyncio::get_running_loop().call_soon([receiving] { receiving.cancel(); });
        co_await support::turns(1);
    }
    REQUIRE(receiving.cancelled());
    datagram d = co_await ends.other.recvfrom();
    CHECK(d.data == "kept");
    CHECK(d.from == ends.one.sockname());
    d = co_await ends.other.recvfrom();
    CHECK(d.data == "second");
}

ASYNC_TEST_CASE("several tasks may receive; each datagram goes to one of them") {
    two_endpoints ends = co_await bound();
    std::vector<asyncio::task<datagram>> receiving;
    for (int i = 0; i < 10; ++i)
        receiving.push_back(asyncio::create_task(ends.other.recvfrom()));
    for (int i = 0; i < 10; ++i) ends.one.sendto(std::to_string(i), ends.other.sockname());
    std::string order;
    for (auto& task : receiving) {
        const datagram d = co_await task;
        order += d.data;
    }
    CHECK(order == "0123456789");
}

#if !defined(_WIN32)

ASYNC_TEST_CASE("Unix endpoints without a remote address wait for a queue that others filled") {
    const scratch_path path;
    const scratch_path own;
    const asyncio::address where = asyncio::address::local(path.text);
    asyncio::socket receiver = asyncio::socket::unix_dgram();
    receiver.bind(where);
    std::vector<datagram_endpoint> endpoints;
    for (int i = 0; i < 2; ++i) {
        datagram_endpoint e = co_await create_datagram_endpoint(asyncio::socket::unix_dgram());
        endpoints.push_back(std::move(e));
    }
    int count = 0;
    for (; endpoints[0].get_write_buffer_size() == 0; ++count) endpoints[0].sendto("first", where);
    endpoints[1].sendto("second", where);
    CHECK(endpoints[1].get_write_buffer_size() > 0);
    endpoints[1].close();
    std::string last;
    for (int i = 0; i <= count; ++i) last = co_await receiver.recv(100);
    CHECK(last == "second");
    co_await endpoints[1].wait_closed();
}

#endif

ASYNC_TEST_CASE("names are looked up, and both families are tried") {
    datagram_endpoint there = co_await create_datagram_endpoint({.local_addr = "localhost"});
    const int port = there.sockname().port();
    const char* const host = there.sockname().is_v6() ? "::1" : "127.0.0.1";
    datagram_endpoint here = co_await create_datagram_endpoint({.remote_addr = {host, port}});
    here.sendto("x");
    const datagram d = co_await there.recvfrom();
    CHECK(d.data == "x");
    datagram_endpoint six = co_await create_datagram_endpoint({.local_addr = "::1"});
    CHECK(six.sockname().is_v6());
    // Neither has anything of the other's family.
    CHECK_AWAIT_THROWS_AS(
        create_datagram_endpoint({.local_addr = "::1", .remote_addr = {"127.0.0.1", 1}}),
        std::invalid_argument);
}

ASYNC_TEST_CASE("without a host an endpoint hears both families, and answers each in its own") {
    const int port = co_await closed_port();
    datagram_endpoint there = co_await create_datagram_endpoint({.local_addr = {"", port}});
    for (const char* host : {"127.0.0.1", "::1"}) {
        datagram_endpoint here = co_await create_datagram_endpoint({.remote_addr = {host, port}});
        here.sendto("question");
        const datagram question = co_await asyncio::wait_for(there.recvfrom(), 10s);
        CHECK(question.data == "question");
        CHECK(question.from == here.sockname());
        there.sendto("answer", here.sockname());
        const datagram answer = co_await asyncio::wait_for(here.recvfrom(), 10s);
        CHECK(answer.data == "answer");
        CHECK(answer.from == asyncio::address(host, port));
    }
}

ASYNC_TEST_CASE("what cannot work is refused with the reason") {
    CHECK_THROWS_AS(create_datagram_endpoint(asyncio::datagram_options()), std::invalid_argument);
    CHECK_THROWS_AS(create_datagram_endpoint({.remote_addr = {"", 9}}), std::invalid_argument);
    CHECK_THROWS_AS(create_datagram_endpoint({.local_addr = {"127.0.0.1", 65536}}),
                    std::invalid_argument);
    if (!under_wine) {
        CHECK_AWAIT_THROWS_WITH_AS(create_datagram_endpoint({.local_addr = {"192.0.2.1", 1}}),
                                   "bind to 192.0.2.1:1", std::system_error);
    }
    CHECK_AWAIT_THROWS_AS(create_datagram_endpoint(asyncio::socket::tcp()), std::invalid_argument);
    CHECK_AWAIT_THROWS_AS(create_datagram_endpoint(asyncio::socket()), std::system_error);
    two_endpoints ends = co_await bound();
    CHECK_AWAIT_THROWS_WITH_AS(
        create_datagram_endpoint({.local_addr = {"127.0.0.1", ends.one.sockname().port()}}), "bind",
        std::system_error);
    datagram_endpoint moved = std::move(ends.one);
    CHECK_THROWS_AS(ends.one.close(), std::runtime_error);
}

#if defined(_WIN32)

ASYNC_TEST_CASE("reuse_port is refused by name") {
    CHECK_AWAIT_THROWS_WITH_AS(
        create_datagram_endpoint({.local_addr = "127.0.0.1", .reuse_port = true}),
        "reuse_port is not supported on Windows", std::system_error);
}

#else

ASYNC_TEST_CASE("reuse_port lets several receive at one port") {
    datagram_endpoint one =
        co_await create_datagram_endpoint({.local_addr = "127.0.0.1", .reuse_port = true});
    datagram_endpoint other = co_await create_datagram_endpoint(
        {.local_addr = {"127.0.0.1", one.sockname().port()}, .reuse_port = true});
    CHECK(one.sockname() == other.sockname());
}

#endif

ASYNC_TEST_CASE("allow_broadcast sends to all") {
    datagram_endpoint listener = co_await create_datagram_endpoint({.local_addr = "0.0.0.0"});
    const asyncio::address all("127.255.255.255", listener.sockname().port());
    datagram_endpoint quiet = co_await create_datagram_endpoint({.local_addr = "127.0.0.1"});
    quiet.sendto("not allowed", all);
    const int code = co_await code_thrown_by(quiet.recvfrom());
    CHECK(code == EACCES);
    datagram_endpoint loud =
        co_await create_datagram_endpoint({.local_addr = "127.0.0.1", .allow_broadcast = true});
    loud.sendto("to all", all);
    const datagram d = co_await listener.recvfrom();
    CHECK(d.data == "to all");
}

ASYNC_TEST_CASE("waiting for datagrams does not hold the virtual clock") {
    two_endpoints ends = co_await bound();
    auto receiving = asyncio::create_task(ends.one.recvfrom());
    const asyncio::time_point before = asyncio::get_running_loop().time();
    co_await asyncio::sleep(1h);
    CHECK(asyncio::get_running_loop().time() - before >= asyncio::duration(1h));
    ends.other.sendto("x", ends.one.sockname());
    co_await receiving;
}

#if !defined(_WIN32) // where nothing interrupts a call, and nothing is kept

ASYNC_TEST_CASE("calls that a signal interrupts are made again") {
    const interrupted_calls every_other;
    two_endpoints ends = co_await bound();
    for (int i = 0; i < 100; ++i) {
        ends.one.sendto("ping", ends.other.sockname());
        const datagram ping = co_await ends.other.recvfrom();
        ends.other.sendto("pong", ping.from);
        const datagram pong = co_await ends.one.recvfrom();
        CHECK(pong.data == "pong");
    }
    CHECK(system_calls.interrupted >= 200);
}

TEST_CASE("a loop that ends with datagrams kept and waited for frees all") {
    const int before = open_descriptors();
    {
        std::optional<slow_peer> kept;
        asyncio::event_loop loop;
        const auto program = [&]() -> asyncio::coro<> {
            kept = co_await with_slow_peer();
            fill(kept->endpoint, 20'000);
            loop.stop();
            co_await kept->endpoint.recvfrom();
        };
        auto task = loop.create_task(program);
        loop.run_forever();
        CHECK_FALSE(task.done());
    }
    CHECK(open_descriptors() == before);
    std::optional<slow_peer> outlives;
    asyncio::run([&]() -> asyncio::coro<> {
        outlives = co_await with_slow_peer();
        fill(outlives->endpoint, 20'000);
    });
    outlives->endpoint.sendto("into the void");
    outlives.reset();
    CHECK(open_descriptors() == before);
}

#endif

} // TEST_SUITE
