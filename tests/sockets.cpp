#include "support.hpp"

#include <condition_variable>
#include <dlfcn.h>
#include <mutex>
#include <netdb.h>
#include <sstream>

// Look-ups of "slow.test" come here and wait until the test lets them go.
namespace {

class gate {
public:
    void pass() {
        std::unique_lock lock(mutex_);
        ++waiting_;
        changed_.notify_all();
        changed_.wait(lock, [&] { return open_; });
        --waiting_;
        changed_.notify_all();
    }
    void close() {
        const std::lock_guard lock(mutex_);
        open_ = false;
    }
    // Lets everybody go, and waits until they have gone.
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
gate slow;
std::atomic<int> lookups{0};

} // namespace

extern "C" int getaddrinfo(const char* host, const char* service, const addrinfo* hints,
                           addrinfo** found) {
    using function = int (*)(const char*, const char*, const addrinfo*, addrinfo**);
    static const auto real = reinterpret_cast<function>(::dlsym(RTLD_NEXT, "getaddrinfo"));
    ++lookups;
    if (host != nullptr && std::string(host) == "slow.test") {
        slow.pass();
        host = "127.0.0.1";
    }
    return real(host, service, hints, found);
}

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
    for (const char* text : {"", ":", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:70000",
                             "::1:80", "host:80", "[::1]", "127.0.0.1:+1"}) {
        CAPTURE(text);
        CHECK_THROWS_AS(asyncio::address::parse(text), std::invalid_argument);
    }
}

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

ASYNC_TEST_CASE("names are looked up on a helper thread") {
    std::vector<asyncio::address> found = co_await asyncio::getaddrinfo("localhost", "80");
    REQUIRE_FALSE(found.empty());
    CHECK(found[0].port() == 80);
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

} // TEST_SUITE
