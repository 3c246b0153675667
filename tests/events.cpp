// [SECTION] events: callbacks, timers, clocks, other threads, signals, and loops inside
// other loops.
#include "support.hpp"

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#if defined(_WIN32)
#include <winsock2.h>
#else
#include <poll.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

namespace {

using log_of_words = std::vector<std::string>;

constexpr asyncio::run_options virtual_time = {.clock = asyncio::clock_kind::virtual_time};
constexpr asyncio::run_options manual = {.clock = asyncio::clock_kind::manual};

struct counted {
    explicit counted(int& count) : alive(&count) { ++*alive; }
    counted(const counted& other) : alive(other.alive) { ++*alive; }
    counted& operator=(const counted&) = delete;
    ~counted() { --*alive; }
    int* alive;
};

#if defined(_WIN32)

constexpr int some_signal = SIGBREAK;

// Both ends of a connection, since only sockets can be watched.
struct pipe_ends {
    // Also inside a running loop.
    pipe_ends() {
        std::thread([this] { asyncio::run(connect()); }).join();
    }
    pipe_ends(const pipe_ends&) = delete;
    pipe_ends& operator=(const pipe_ends&) = delete;
    ~pipe_ends() {
        ::closesocket(static_cast<SOCKET>(in));
        ::closesocket(static_cast<SOCKET>(out));
    }
    void put(char c = 'x') const {
        REQUIRE(::send(static_cast<SOCKET>(out), &c, 1, 0) == 1);
        // It arrives a moment later.
        fd_set asked;
        FD_ZERO(&asked);
        FD_SET(static_cast<SOCKET>(in), &asked);
        REQUIRE(::select(0, &asked, nullptr, nullptr, nullptr) == 1);
    }
    char take() const {
        char c = 0;
        REQUIRE(::recv(static_cast<SOCKET>(in), &c, 1, 0) == 1);
        return c;
    }
    int in = -1;
    int out = -1;

private:
    asyncio::coro<> connect() {
        asyncio::socket listener = asyncio::socket::tcp();
        listener.bind(asyncio::address("127.0.0.1", 0));
        listener.listen();
        asyncio::socket from = asyncio::socket::tcp();
        co_await from.connect(listener.local_address());
        asyncio::socket to = co_await listener.accept();
        in = to.detach();
        out = from.detach();
    }
};

#else

constexpr int some_signal = SIGUSR1;

// Both ends of a pipe.
struct pipe_ends {
    pipe_ends() {
        int fds[2] = {-1, -1};
        REQUIRE(::pipe(fds) == 0);
        in = fds[0];
        out = fds[1];
    }
    pipe_ends(const pipe_ends&) = delete;
    pipe_ends& operator=(const pipe_ends&) = delete;
    ~pipe_ends() {
        ::close(in);
        ::close(out);
    }
    void put(char c = 'x') const { REQUIRE(::write(out, &c, 1) == 1); }
    char take() const {
        char c = 0;
        REQUIRE(::read(in, &c, 1) == 1);
        return c;
    }
    int in;
    int out;
};

bool readable(int fd) {
    pollfd p = {fd, POLLIN, 0};
    return ::poll(&p, 1, 0) == 1;
}

#endif

asyncio::coro<int> value(int v) {
    co_await asyncio::sleep(0s);
    co_return v;
}

// Computes for that long; gives how long it took.
asyncio::duration busy_for(asyncio::duration time) {
    const auto begin = std::chrono::steady_clock::now();
    for (;;) {
        const asyncio::duration passed = std::chrono::steady_clock::now() - begin;
        if (passed >= time) return passed;
    }
}

// Queues itself again, `times` times or for ever.
struct again {
    asyncio::event_loop& loop;
    long& count;
    long times;
    void operator()() const {
        ++count;
        if (count < times) loop.call_soon(*this);
    }
};
constexpr long for_ever = 1'000'000'000;

} // namespace

TEST_SUITE("callbacks and timers") {

TEST_CASE("LP-01: callbacks run first in, first out; what they queue runs in the next turn") {
    asyncio::event_loop loop;
    log_of_words log;
    loop.call_soon([&] {
        log.push_back("a");
        loop.call_soon([&] { log.push_back("a's"); });
    });
    loop.call_soon([&] { log.push_back("b"); });
    CHECK(log.empty());
    CHECK(loop.run_once() == 2);
    CHECK(log == log_of_words{"a", "b"});
    CHECK(loop.run_once() == 1);
    CHECK(log == log_of_words{"a", "b", "a's"});
    CHECK(loop.run_once() == 0);
}

TEST_CASE("only what is timed has a when()") {
    asyncio::event_loop loop(manual);
    // The memory of the one serves for the other.
    asyncio::handle h = loop.call_at(asyncio::time_point(3h), [] {});
    CHECK(h.when() == asyncio::time_point(3h));
    h.cancel();
    h = asyncio::handle();
    h = loop.call_soon([] {});
    CHECK(h.when() == asyncio::time_point());
}

TEST_CASE("a task that the destructor of a callback makes while the loop closes goes with it") {
    for (const bool eagerly : {false, true}) {
        CAPTURE(eagerly);
        int alive = 0;
        int begun = 0;
        asyncio::event_loop loop;
        const auto body = [&begun](counted) -> asyncio::coro<> {
            ++begun;
            co_await asyncio::sleep(1h);
        };
        struct maker {
            std::function<void()> make;
            ~maker() { make(); }
        };
        asyncio::task<> made;
        const auto make = [&] {
            made = loop.create_task(body(counted(alive)), {.eager_start = eagerly});
        };
        loop.call_soon([kept = std::make_shared<maker>(make)] {});
        loop.close();
        REQUIRE(made.valid());
        CHECK(made.cancelled());
        CHECK(begun == (eagerly ? 1 : 0));
        CHECK(alive == 0);
        CHECK(loop.metrics().tasks == 0);
    }
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("LP-02: a callback that throws is reported; an interrupt ends the run, the rest stays") {
    asyncio::event_loop loop;
    const auto reports = support::collect_reports(loop);
    log_of_words log;
    loop.call_soon([] { throw std::runtime_error("ordinary"); });
    loop.call_soon([&] { log.push_back("after the error"); });
    loop.call_soon([] { throw asyncio::keyboard_interrupt("out"); });
    loop.call_soon([&] {
        log.push_back("after the interrupt");
        loop.stop();
    });
    CHECK_THROWS_AS(loop.run_forever(), asyncio::keyboard_interrupt);
    CHECK(log == log_of_words{"after the error"});
    REQUIRE(reports->size() == 1);
    CHECK(support::message_of(reports->at(0).exception) == "ordinary");
    CHECK_FALSE(loop.is_running());
    loop.run_forever();
    CHECK(log == log_of_words{"after the error", "after the interrupt"});
}
#endif

TEST_CASE("LP-03: a callback that was cancelled in time never runs") {
    asyncio::event_loop loop(virtual_time);
    log_of_words log;
    int alive = 0;
    auto soon = loop.call_soon([&, probe = counted(alive)] { log.push_back("soon"); });
    auto later = loop.call_later(1s, [&, probe = counted(alive)] { log.push_back("later"); });
    auto ran = loop.call_soon([&, probe = counted(alive)] { log.push_back("ran"); });
    CHECK(alive == 3);
    soon.cancel();
    later.cancel();
    CHECK(alive == 1);
    CHECK(loop.metrics().timers == 0);
    soon.cancel();
    CHECK(soon.cancelled());
    CHECK(later.cancelled());
    loop.call_later(2s, [&] { loop.stop(); });
    loop.run_forever();
    CHECK(log == log_of_words{"ran"});
    CHECK(alive == 0);
    ran.cancel();
    CHECK_FALSE(ran.cancelled());
    asyncio::handle none;
    none.cancel();
    CHECK_FALSE(none.cancelled());
}

TEST_CASE("LP-04: negative delays run at once, the earlier time first") {
    asyncio::event_loop loop(virtual_time);
    log_of_words log;
    loop.call_later(0s, [&] { log.push_back("0"); });
    loop.call_later(-1s, [&] { log.push_back("-1"); });
    loop.call_later(-2s, [&] { log.push_back("-2"); });
    CHECK(loop.run_once() == 3);
    CHECK(log == log_of_words{"-2", "-1", "0"});
    CHECK(loop.time() == asyncio::time_point());
}

TEST_CASE("LP-05: overdue timers run in order of their deadlines, equal ones as they were set") {
    asyncio::event_loop loop(manual);
    std::vector<int> log;
    const int deadlines[] = {5, 3, 9, 1, 3, 7, 5, 1, 8, 2, 6, 4, 3, 9, 1};
    std::vector<int> expected;
    for (int deadline = 1; deadline <= 9; ++deadline)
        for (int i = 0; i < 15; ++i)
            if (deadlines[i] == deadline) expected.push_back(i);
    for (int i = 0; i < 15; ++i)
        loop.call_at(asyncio::time_point(std::chrono::seconds(deadlines[i])),
                     [&log, i] { log.push_back(i); });
    loop.advance(1h);
    CHECK(log == expected);

    // All overdue at once: the real clock, asked late.
    asyncio::event_loop real;
    log.clear();
    for (int i = 0; i < 15; ++i)
        real.call_at(asyncio::time_point(std::chrono::seconds(deadlines[i])),
                     [&log, i] { log.push_back(i); });
    CHECK(real.run_once() == 15);
    CHECK(log == expected);
}

TEST_CASE("LP-06: what was ready runs first, then I/O, then due timers, then what these queue") {
    asyncio::event_loop loop;
    const pipe_ends pipe;
    pipe.put();
    log_of_words log;
    const auto note = [&](std::string text) {
        log.push_back(text);
        loop.call_soon([&log, text] { log.push_back(text + "'s"); });
    };
    loop.call_later(-1s, [&] { note("timer"); });
    loop.add_reader(pipe.in, [&] {
        pipe.take();
        note("reader");
    });
    loop.call_soon([&] { note("ready"); });
    CHECK(loop.run_once() == 3);
    CHECK(log == log_of_words{"ready", "reader", "timer"});
    loop.run_once();
    CHECK(log == log_of_words{"ready", "reader", "timer", "ready's", "reader's", "timer's"});
}

TEST_CASE("LP-07: a timer never runs before its time, on an idle or a busy loop") {
    for (const bool busy : {false, true}) {
        asyncio::event_loop loop;
        bool early = false;
        int left = 20;
        long rounds = 0;
        for (int i = 0; i < 20; ++i) {
            const asyncio::time_point due = loop.time() + std::chrono::microseconds(137 * i);
            loop.call_at(due, [&, due] {
                early = early || loop.time() < due;
                if (--left == 0) loop.stop();
            });
        }
        if (busy) loop.call_soon(again{loop, rounds, for_ever});
        loop.run_forever();
        CHECK_FALSE(early);
    }
}

TEST_CASE("LP-08: stop() lets the turn finish; what it queued runs in the next run") {
    asyncio::event_loop loop;
    log_of_words log;
    loop.call_soon([&] {
        log.push_back("stops");
        loop.stop();
        loop.call_soon([&] {
            log.push_back("next run");
            loop.stop();
        });
    });
    loop.call_soon([&] { log.push_back("same turn"); });
    loop.run_forever();
    CHECK(log == log_of_words{"stops", "same turn"});
    loop.run_forever();
    CHECK(log == log_of_words{"stops", "same turn", "next run"});
}

TEST_CASE("LP-09: stop() before run_forever() makes it one turn that does not wait") {
    asyncio::event_loop loop;
    log_of_words log;
    loop.call_later(1h, [&] { log.push_back("much later"); });
    loop.call_soon([&] {
        log.push_back("one");
        loop.call_soon([&] { log.push_back("two"); });
    });
    loop.stop();
    loop.run_forever();
    CHECK(log == log_of_words{"one"});
    loop.stop();
    loop.run_forever();
    CHECK(log == log_of_words{"one", "two"});
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("LP-10: a run that is stopped before its work is done says so; the work can go on") {
    asyncio::event_loop loop;
    const auto f = loop.create_future<int>();
    loop.call_soon([&] { loop.stop(); });
    CHECK_THROWS_AS(loop.run_until_complete(f), std::runtime_error);
    CHECK_FALSE(f.done());
    loop.call_soon([&] { f.set_result(10); });
    CHECK(loop.run_until_complete(f) == 10);
}
#endif

TEST_CASE("LP-11: run_until_complete() throws what its work throws") {
    asyncio::event_loop loop;
    const auto fails = []() -> asyncio::coro<int> {
        THROW(std::out_of_range("exactly this"));
        co_return 1;
    };
    const auto f = loop.create_future<int>();
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    CHECK_THROWS_WITH_AS(loop.run_until_complete(fails()), "exactly this", std::out_of_range);
    loop.call_soon([&] { f.cancel("enough"); });
    CHECK_THROWS_WITH_AS(loop.run_until_complete(f), "asyncio::cancelled_error: enough",
                         asyncio::cancelled_error);
#elif !defined(_WIN32)
    // Where nothing throws it ends the program, with that error's text.
    const support::child_result failed = support::in_child([&] {
        loop.run_until_complete(fails());
        return 0;
    });
    CHECK(failed.signal_number == SIGABRT);
    CHECK(failed.err == "fatal: std::out_of_range: exactly this\n");
    const support::child_result cancelled = support::in_child([&] {
        loop.call_soon([&] { f.cancel("enough"); });
        loop.run_until_complete(f);
        return 0;
    });
    CHECK(cancelled.signal_number == SIGABRT);
    CHECK(cancelled.err == "fatal: asyncio::cancelled_error: enough\n");
#endif
    CHECK(loop.run_until_complete(value(11)) == 11);
    loop.run_until_complete([]() -> asyncio::coro<> { co_return; });
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("LP-12: a loop cannot run inside a running loop of its thread") {
    asyncio::event_loop loop;
    asyncio::event_loop other;
    int refused = 0;
    int alive = 0;
    const auto body = [](counted) -> asyncio::coro<> { co_return; };
    const auto refuses = [&](const std::function<void()>& call) {
        try {
            call();
        } catch (const std::runtime_error&) {
            ++refused;
        }
    };
    loop.call_soon([&] {
        refuses([&] { loop.run_forever(); });
        refuses([&] { other.run_forever(); });
        refuses([&] { loop.run_until_complete(body(counted(alive))); });
        refuses([&] { other.run_until_complete(body(counted(alive))); });
        refuses([&] { loop.poll(); });
        refuses([&] { other.poll(); });
        refuses([&] { loop.run_once(); });
        refuses([&] { static_cast<void>(loop.run_for(1ms)); });
    });
    loop.call_soon([&] { CHECK(&asyncio::get_running_loop() == &loop); });
    loop.call_soon([&] { loop.stop(); });
    loop.run_forever();
    CHECK(refused == 8);
    CHECK(alive == 0);
}
#endif

TEST_CASE("LP-12: a loop on another thread is none of a running loop's business") {
    asyncio::event_loop loop;
    asyncio::event_loop other;
    bool ran = false;
    loop.call_soon([&] {
        std::thread([&] { CHECK(other.run_until_complete(value(12)) == 12); }).join();
        ran = true;
        loop.stop();
    });
    loop.run_forever();
    CHECK(ran);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("LP-13: a running loop is not closed") {
    asyncio::event_loop loop;
    bool refused = false;
    loop.call_soon([&] {
        try {
            loop.close();
        } catch (const std::runtime_error&) {
            refused = true;
        }
        loop.stop();
    });
    loop.run_forever();
    CHECK(refused);
    CHECK_FALSE(loop.is_closed());
}
#endif

TEST_CASE("LP-13: a loop that closes destroys what it has; closing twice does nothing") {
    asyncio::event_loop loop;
    int alive = 0;
    loop.call_soon([probe = counted(alive)] {});
    loop.call_later(1h, [probe = counted(alive)] {});
    CHECK(alive == 2);
    loop.close();
    loop.close();
    CHECK(loop.is_closed());
    CHECK(alive == 0);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("LP-13: a closed loop takes nothing, and destroys what it is given") {
    asyncio::event_loop loop;
    loop.close();
    int alive = 0;
    const auto body = [](counted) -> asyncio::coro<> { co_return; };
    CHECK_THROWS_AS(loop.call_soon([probe = counted(alive)] {}), std::runtime_error);
    CHECK_THROWS_AS(loop.call_later(1s, [probe = counted(alive)] {}), std::runtime_error);
    CHECK_THROWS_AS(loop.call_at(asyncio::time_point(), [] {}), std::runtime_error);
    CHECK_THROWS_AS(loop.call_soon_threadsafe([probe = counted(alive)] {}), std::runtime_error);
    CHECK_THROWS_AS(loop.create_task(body(counted(alive))), std::runtime_error);
    CHECK_THROWS_AS(loop.create_task(body, counted(alive)), std::runtime_error);
    CHECK_THROWS_AS(loop.run_until_complete(body(counted(alive))), std::runtime_error);
    CHECK_THROWS_AS(loop.run_forever(), std::runtime_error);
    CHECK_THROWS_AS(loop.poll(), std::runtime_error);
    CHECK_THROWS_AS(loop.run_once(), std::runtime_error);
    CHECK_THROWS_AS(static_cast<void>(loop.enter()), std::runtime_error);
    CHECK_THROWS_AS(loop.add_reader(0, [] {}), std::runtime_error);
    CHECK_THROWS_AS(loop.add_signal_handler(some_signal, [] {}), std::runtime_error);
    const auto job = [probe = std::make_shared<counted>(alive)] {};
    CHECK_THROWS_AS(loop.run_in_executor(nullptr, job), std::runtime_error);
    asyncio::thread_pool_executor pool(1);
    CHECK_THROWS_AS(loop.run_in_executor(&pool, job), std::runtime_error);
    CHECK(alive == 1); // job's own
}
#endif

TEST_CASE("LP-14: the exception handler is told message, error and task") {
    asyncio::event_loop loop;
    const auto reports = support::collect_reports(loop);
    const auto fails = []() -> asyncio::coro<> {
        THROW(std::runtime_error("in a task"));
        co_return;
    };
    loop.create_task(fails, {.name = "the culprit"});
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    loop.call_soon([] { throw std::runtime_error("in a callback"); });
#endif
    loop.run_once();
    REQUIRE(!reports->empty());
    CHECK_FALSE(reports->at(0).message.empty());
    CHECK(support::message_of(reports->at(0).exception) == "in a task");
    CHECK(reports->at(0).task == "the culprit");
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    REQUIRE(reports->size() == 2);
    CHECK(support::message_of(reports->at(1).exception) == "in a callback");
    CHECK(reports->at(1).task.empty());
#else
    CHECK(reports->size() == 1);
#endif
}

TEST_CASE("LP-14: without a handler an error is printed, with one that fails both errors are") {
    asyncio::event_loop loop;
    support::captured_stderr printed;
    const auto why = asyncio::detail::make_error(std::logic_error("why"));
    loop.call_exception_handler({"words", why, "T"});
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    loop.set_exception_handler([](asyncio::event_loop&, const asyncio::exception_context&) {
        throw std::runtime_error("the handler's own");
    });
    bool went_on = false;
    loop.call_soon([] { throw std::runtime_error("first"); });
    loop.call_soon([&] { went_on = true; });
    loop.run_once();
#endif
    const std::string text = printed.taken();
    CAPTURE(text);
    CHECK(text.find("words") != std::string::npos);
    CHECK(text.find("why") != std::string::npos);
    CHECK(text.find("'T'") != std::string::npos);
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    CHECK(text.find("first") != std::string::npos);
    CHECK(text.find("the handler's own") != std::string::npos);
    CHECK(went_on);
#endif
}

TEST_CASE("an exception handler may take itself away") {
    asyncio::event_loop loop;
    int alive = 0;
    int alive_in_it = 0;
    loop.set_exception_handler([&loop, &alive, &alive_in_it, c = counted(alive)](
                                   asyncio::event_loop&, const asyncio::exception_context&) {
        loop.set_exception_handler(nullptr);
        alive_in_it = alive;
    });
    loop.call_exception_handler({"words"});
    CHECK(alive_in_it == 1);
    CHECK(alive == 0);
}

TEST_CASE("LP-15: an endless callback starves neither I/O nor timers nor other threads") {
    asyncio::event_loop loop;
    const pipe_ends pipe;
    log_of_words log;
    long rounds = 0;
    loop.call_later(1h, [] {});
    loop.call_soon(again{loop, rounds, for_ever});
    loop.add_reader(pipe.in, [&] {
        pipe.take();
        log.push_back("reader");
        loop.call_later(100us, [&] {
            log.push_back("timer");
            std::thread([&] {
                loop.call_soon_threadsafe([&] {
                    log.push_back("thread");
                    loop.stop();
                });
            }).join();
        });
    });
    loop.call_later(100us, [&] { pipe.put(); });
    loop.run_forever();
    CHECK(log == log_of_words{"reader", "timer", "thread"});
    CHECK(rounds > 2);
}

TEST_CASE("a callback may be move-only, and is destroyed as soon as it has run") {
    asyncio::event_loop loop;
    int alive = 0;
    int got = 0;
    const auto kept = loop.call_soon(
        [p = std::make_unique<int>(5), probe = counted(alive), &got] { got = *p; });
    loop.run_once();
    CHECK(got == 5);
    CHECK(alive == 0);
    const asyncio::time_point due = loop.time() + 5s;
    CHECK(loop.call_at(due, [] {}).when() == due);
}

TEST_CASE("a callback's handle may outlive the loop") {
    asyncio::handle soon;
    asyncio::handle later;
    asyncio::handle posted;
    int alive = 0;
    {
        asyncio::event_loop loop;
        soon = loop.call_soon([probe = counted(alive)] {});
        later = loop.call_later(1h, [probe = counted(alive)] {});
        posted = loop.call_soon_threadsafe([probe = counted(alive)] {});
    }
    CHECK(alive == 0);
    soon.cancel();
    later.cancel();
    posted.cancel();
}

TEST_CASE("what a destructor does while its loop goes is harmless") {
    int ran = 0;
    {
        asyncio::event_loop loop;
        struct busy_end {
            busy_end(asyncio::event_loop& l, int& r) : loop(&l), ran(&r) {}
            busy_end(busy_end&& o) noexcept : loop(std::exchange(o.loop, nullptr)), ran(o.ran) {}
            ~busy_end() {
                if (!loop) return;
                loop->call_soon([r = ran] { ++*r; });
                loop->call_later(1s, [r = ran] { ++*r; });
                loop->create_task(value(1));
                const auto f = loop->create_future<int>();
                f.add_done_callback([r = ran] { ++*r; });
                f.set_result(1);
            }
            asyncio::event_loop* loop;
            int* ran;
        };
        loop.call_soon([end = busy_end(loop, ran)] {});
        loop.call_later(1s, [end = busy_end(loop, ran)] {});
        const auto body = [](busy_end) -> asyncio::coro<> { co_await asyncio::sleep(1h); };
        loop.create_task(body(busy_end(loop, ran)));
        loop.create_task(body(busy_end(loop, ran)));
    }
    CHECK(ran == 0);
}

TEST_CASE("metrics() count tasks, timers, turns and callbacks") {
    asyncio::event_loop loop;
    loop.call_later(1h, [] {});
    loop.call_soon([] {});
    loop.create_task(value(1));
    CHECK(loop.metrics().tasks == 1);
    CHECK(loop.metrics().timers == 1);
    const asyncio::loop_metrics before = loop.metrics();
    loop.run_once();
    loop.run_once();
    CHECK(loop.metrics().turns == before.turns + 2);
    CHECK(loop.metrics().callbacks == before.callbacks + 3);
    CHECK(loop.metrics().tasks == 0);
}

TEST_CASE("metrics() know the longest callback, which is measured in debug mode only") {
    for (const bool debug : {false, true}) {
        CAPTURE(debug);
        asyncio::event_loop loop({.debug = debug});
        asyncio::duration took{};
        loop.call_soon([&] { took = busy_for(2ms); });
        loop.call_soon([] {});
        loop.run_once();
        const asyncio::duration longest = loop.metrics().longest_callback;
        if (debug) CHECK(longest >= took);
        else CHECK(longest == asyncio::duration::zero());
        loop.call_soon([] {});
        loop.run_once();
        CHECK(loop.metrics().longest_callback >= longest);
    }
}

} // TEST_SUITE

TEST_SUITE("descriptors") {

TEST_CASE("a reader is called as long as something is unread, a writer while there is room") {
    asyncio::event_loop loop;
    const pipe_ends pipe;
    pipe.put('a');
    pipe.put('b');
    std::string got;
    int writable = 0;
    loop.add_reader(pipe.in, [&] { got += pipe.take(); });
    loop.add_writer(pipe.out, [&] {
        if (++writable == 3) CHECK(loop.remove_writer(pipe.out));
    });
    for (int i = 0; i < 5; ++i) loop.run_once();
    CHECK(got == "ab");
    CHECK(writable == 3);
    CHECK_FALSE(loop.remove_writer(pipe.out));
    loop.add_reader(pipe.in, [&] { got += std::string("new ") + pipe.take(); });
    pipe.put('c');
    loop.run_once();
    CHECK(got == "abnew c");
    CHECK(loop.remove_reader(pipe.in));
    CHECK_FALSE(loop.remove_reader(pipe.in));
    pipe.put('d');
    loop.run_once();
    CHECK(got == "abnew c");
}

TEST_CASE("a reader may remove itself, and one that throws is reported") {
    asyncio::event_loop loop;
    const auto reports = support::collect_reports(loop);
    const pipe_ends pipe;
    pipe.put();
    int calls = 0;
    int alive = 0;
    loop.add_reader(pipe.in, [&, probe = counted(alive)] {
        loop.remove_reader(pipe.in);
        CHECK(*probe.alive == 1); // it is not destroyed while it runs
        ++calls;
#if !defined(ASYNCIO_NO_EXCEPTIONS)
        throw std::runtime_error("reader failed");
#endif
    });
    loop.run_once();
    loop.run_once();
    CHECK(calls == 1);
    CHECK(alive == 0);
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    REQUIRE(reports->size() == 1);
    CHECK(support::message_of(reports->at(0).exception) == "reader failed");
#else
    CHECK(reports->empty());
#endif
    CHECK_THROWS_AS(loop.add_reader(-1, [] {}), std::system_error);
}

TEST_CASE("a reader that another one of its turn removes or replaces is not called") {
    asyncio::event_loop loop;
    const pipe_ends first;
    const pipe_ends second;
    first.put();
    second.put();
    int calls = 0;
    const auto remove_both = [&] {
        ++calls;
        loop.remove_reader(first.in);
        loop.remove_reader(second.in);
    };
    loop.add_reader(first.in, remove_both);
    loop.add_reader(second.in, remove_both);
    loop.run_once();
    loop.run_once();
    CHECK(calls == 1);

    int replaced = 0;
    int called = 0;
    const auto replace_both = [&] {
        ++replaced;
        loop.add_reader(first.in, [&] { ++called; });
        loop.add_reader(second.in, [&] { ++called; });
    };
    loop.add_reader(first.in, replace_both);
    loop.add_reader(second.in, replace_both);
    loop.run_once();
    loop.run_once();
    CHECK(replaced == 1);
    CHECK(called >= 2);
}

TEST_CASE("the readers and writers that a loop still has go with it") {
    const pipe_ends pipe;
    int alive = 0;
    {
        asyncio::event_loop loop;
        loop.add_reader(pipe.in, [probe = counted(alive)] {});
        loop.add_writer(pipe.out, [probe = counted(alive)] {});
        loop.add_writer(pipe.out, [probe = counted(alive)] {}); // in place of the first
        CHECK(alive == 2);
        loop.run_once();
        loop.close();
        CHECK_FALSE(loop.remove_reader(pipe.in));
        CHECK_FALSE(loop.remove_writer(pipe.out));
    }
    CHECK(alive == 0);
}

ASYNC_TEST_CASE_REAL("CX-02: readers see the context of their registration, and write a copy") {
    asyncio::context_var<int> var("var", 0);
    const pipe_ends pipe;
    pipe.put();
    var.set(1);
    int seen = 0;
    const auto done = asyncio::create_future<void>();
    asyncio::get_running_loop().add_reader(pipe.in, [&] {
        seen = var.get();
        var.set(100);
        asyncio::get_running_loop().remove_reader(pipe.in);
        done.set_result();
    });
    var.set(2);
    co_await done;
    CHECK(seen == 1);
    CHECK(var.get() == 2);
}

} // TEST_SUITE

TEST_SUITE("other threads") {

TEST_CASE("TH-05: call_soon_threadsafe() wakes a loop that sleeps, and runs in its thread") {
    asyncio::event_loop loop;
    const std::thread::id here = std::this_thread::get_id();
    std::thread::id ran_in;
    loop.call_later(1h, [] {});
    const std::atomic<int> loop_thread{support::thread_id()};
    std::thread other;
    loop.call_soon([&] {
        other = std::thread([&] {
            support::wait_until_asleep(loop_thread);
            loop.call_soon_threadsafe([&] {
                ran_in = std::this_thread::get_id();
                loop.stop();
            });
        });
    });
    loop.run_forever();
    other.join();
    CHECK(ran_in == here);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("TH-06: call_soon_threadsafe() on a closed loop throws in the calling thread") {
    asyncio::event_loop loop;
    loop.close();
    bool threw = false;
    std::thread([&] {
        try {
            loop.call_soon_threadsafe([] {});
        } catch (const std::runtime_error&) {
            threw = true;
        }
    }).join();
    CHECK(threw);
}
#endif

TEST_CASE("TH-07: cancel() from another thread prevents the call, or waits for its end") {
    asyncio::event_loop loop;
    bool ran = false;
    std::thread([&] {
        auto h = loop.call_soon_threadsafe([&] { ran = true; });
        h.cancel();
        CHECK(h.cancelled());
    }).join();
    loop.run_once();
    CHECK_FALSE(ran);

    support::flag begun;
    support::flag go;
    std::atomic<bool> ended{false};
    bool waited = false;
    std::thread other([&] {
        auto h = loop.call_soon_threadsafe([&] {
            begun.set();
            go.wait();
            for (int i = 0; i < 1000; ++i) std::this_thread::yield();
            ended = true;
            loop.stop();
        });
        begun.wait();
        go.set();
        h.cancel();
        waited = ended;
        CHECK_FALSE(h.cancelled());
    });
    loop.run_forever();
    other.join();
    CHECK(waited);

    // The callable goes in the loop's thread, also when a handle stays.
    int alive = 0;
    asyncio::handle kept = loop.call_soon_threadsafe([c = counted(alive)] {});
    kept.cancel();
    CHECK(alive == 1);
    loop.run_once();
    CHECK(alive == 0);

    // Its own thread may cancel it while it runs.
    asyncio::handle self;
    self = loop.call_soon_threadsafe([&] { self.cancel(); });
    loop.run_once();
    CHECK_FALSE(self.cancelled());
}

TEST_CASE("many threads may post at the same time; each one's calls keep their order") {
    constexpr int threads = 4;
    constexpr int each = 2000;
    asyncio::event_loop loop;
    std::vector<std::vector<int>> got(threads);
    int left = threads * each;
    std::vector<std::thread> others;
    for (int t = 0; t < threads; ++t)
        others.emplace_back([&, t] {
            for (int i = 0; i < each; ++i)
                loop.call_soon_threadsafe([&, t, i] {
                    got[static_cast<std::size_t>(t)].push_back(i);
                    if (--left == 0) loop.stop();
                });
        });
    loop.run_forever();
    for (std::thread& t : others) t.join();
    CHECK(left == 0);
    for (const std::vector<int>& one : got) {
        REQUIRE(one.size() == each);
        bool in_order = true;
        for (int i = 0; i < each; ++i) in_order = in_order && one[static_cast<std::size_t>(i)] == i;
        CHECK(in_order);
    }
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("threads may post while the loop closes: each call is run or refused, none is lost") {
    for (int round = 0; round < 20; ++round) {
        auto loop = std::make_unique<asyncio::event_loop>();
        std::atomic<int> destroyed{0};
        std::atomic<int> made{0};
        struct probe {
            explicit probe(std::atomic<int>& d) : gone(&d) {}
            probe(probe&& o) noexcept : gone(std::exchange(o.gone, nullptr)) {}
            ~probe() {
                if (gone) ++*gone;
            }
            std::atomic<int>* gone;
        };
        std::atomic<bool> refused{false};
        std::thread other([&] {
            while (!refused) {
                ++made;
                try {
                    loop->call_soon_threadsafe([p = probe(destroyed)] {});
                } catch (const std::runtime_error&) {
                    refused = true;
                }
            }
        });
        while (made < 5) loop->run_once();
        loop->close();
        other.join();
        loop.reset();
        CHECK(destroyed == made);
    }
}
#endif

TEST_CASE("each thread may have a loop of its own") {
    std::vector<std::thread> others;
    std::atomic<int> sum{0};
    for (int t = 0; t < 4; ++t)
        others.emplace_back([&, t] { sum += asyncio::run(value(t)); });
    for (std::thread& t : others) t.join();
    CHECK(sum == 6);
}

} // TEST_SUITE

TEST_SUITE("signals") {

#if !defined(_WIN32)

TEST_CASE("SG-01: a signal handler runs in the loop, also when the loop was asleep") {
    const auto result = support::in_child([] {
        asyncio::event_loop loop;
        bool in_loop = false;
        bool at_once = false;
        loop.add_signal_handler(SIGUSR1, [&] {
            in_loop = &asyncio::get_running_loop() == &loop;
            loop.stop();
        });
        loop.call_soon([&] {
            ::raise(SIGUSR1);
            at_once = in_loop; // not in the signal's context
        });
        loop.run_forever();
        if (!in_loop || at_once) return 1;
        in_loop = false;
        const pid_t parent = ::getpid();
        const pid_t child = ::fork();
        if (child == 0) {
            ::kill(parent, SIGUSR1);
            ::_exit(0);
        }
        loop.run_forever(); // with nothing else to do
        ::waitpid(child, nullptr, 0);
        return in_loop ? 7 : 2;
    });
    CHECK(result.exit_code == 7);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("SG-01: what a signal handler throws is reported, and an interrupt ends the run") {
    const auto result = support::in_child([] {
        asyncio::event_loop loop;
        const auto reports = support::collect_reports(loop);
        loop.add_signal_handler(SIGUSR1, [] { throw std::runtime_error("handler"); });
        ::raise(SIGUSR1);
        loop.run_once();
        if (reports->size() != 1) return 1;
        loop.add_signal_handler(SIGUSR1, [] { throw asyncio::keyboard_interrupt(); });
        ::raise(SIGUSR1);
        try {
            loop.run_forever();
        } catch (const asyncio::keyboard_interrupt&) {
            return 7;
        }
        return 2;
    });
    CHECK(result.exit_code == 7);
}
#endif

TEST_CASE("SG-02: a handler that is removed before its turn is not called") {
    const auto result = support::in_child([] {
        asyncio::event_loop loop;
        int calls = 0;
        loop.add_signal_handler(SIGUSR1, [&] { ++calls; });
        ::raise(SIGUSR1);
        loop.remove_signal_handler(SIGUSR1);
        loop.run_once();
        loop.run_once();
        return calls == 0 ? 7 : 1;
    });
    CHECK(result.exit_code == 7);
}

TEST_CASE("SG-02: removing a handler gives the signal its former effect") {
    const auto result = support::in_child([] {
        std::signal(SIGUSR1, SIG_DFL);
        asyncio::event_loop loop;
        if (loop.remove_signal_handler(SIGUSR1)) return 1;
        int first = 0;
        int second = 0;
        loop.add_signal_handler(SIGUSR1, [&] { ++first; });
        loop.add_signal_handler(SIGUSR1, [&] { ++second; });
        ::raise(SIGUSR1);
        loop.run_once();
        if (first != 0 || second != 1) return 2;
        if (!loop.remove_signal_handler(SIGUSR1)) return 3;
        if (loop.remove_signal_handler(SIGUSR1)) return 4;
        ::raise(SIGUSR1);
        return 5;
    });
    CHECK(result.signal_number == SIGUSR1);
}

TEST_CASE("SG-02: the program's own handler is as it was when the last of two loops lets go") {
    const auto result = support::in_child([] {
        static int own_calls;
        struct sigaction own = {};
        own.sa_sigaction = [](int number, siginfo_t* about, void*) {
            own_calls += about->si_signo == number ? 1 : 100;
        };
        own.sa_flags = SA_SIGINFO | SA_NODEFER;
        sigemptyset(&own.sa_mask);
        sigaddset(&own.sa_mask, SIGUSR2);
        ::sigaction(SIGUSR1, &own, nullptr);
        struct sigaction before = {};
        ::sigaction(SIGUSR1, nullptr, &before);

        asyncio::event_loop one;
        asyncio::event_loop other;
        int one_calls = 0;
        int other_calls = 0;
        const auto raise_and_count = [&] { // in the order of the declarations above
            ::raise(SIGUSR1);
            one.run_once();
            other.run_once();
            return own_calls * 100 + one_calls * 10 + other_calls;
        };
        one.add_signal_handler(SIGUSR1, [&] { ++one_calls; });
        other.add_signal_handler(SIGUSR1, [&] { ++other_calls; });
        if (raise_and_count() != 11) return 1;
        one.remove_signal_handler(SIGUSR1);
        if (raise_and_count() != 12) return 2;
        other.remove_signal_handler(SIGUSR1);
        if (raise_and_count() != 112) return 3;

        struct sigaction after = {};
        ::sigaction(SIGUSR1, nullptr, &after);
        if (after.sa_sigaction != own.sa_sigaction) return 4;
        if (after.sa_flags != before.sa_flags) return 5;
        for (int number = 1; number < NSIG; ++number)
            if (sigismember(&after.sa_mask, number) != sigismember(&before.sa_mask, number))
                return 6;
        return sigismember(&after.sa_mask, SIGUSR2) == 1 ? 7 : 8;
    });
    CHECK(result.exit_code == 7);
}

TEST_CASE("SG-02: so does closing the loop, which removes all that it has") {
    const auto result = support::in_child([] {
        std::signal(SIGUSR1, SIG_DFL);
        std::signal(SIGUSR2, SIG_IGN);
        asyncio::event_loop loop;
        loop.add_signal_handler(SIGUSR1, [] {});
        loop.add_signal_handler(SIGUSR2, [] {});
        loop.close();
        if (loop.remove_signal_handler(SIGUSR1)) return 1;
        ::raise(SIGUSR2);
        ::raise(SIGUSR1);
        return 2;
    });
    CHECK(result.signal_number == SIGUSR1);
}

#endif

TEST_CASE("SG-02: without the user's handler Ctrl-C is run()'s again") {
    const auto result = support::in_child([] {
        std::signal(SIGINT, SIG_DFL);
        int handled = 0;
        const auto main = [&]() -> asyncio::coro<> {
            asyncio::event_loop& loop = asyncio::get_running_loop();
            loop.add_signal_handler(SIGINT, [&] { ++handled; });
            ::raise(SIGINT);
            co_await support::turns(2);
            loop.remove_signal_handler(SIGINT);
            ::raise(SIGINT);
            co_await asyncio::sleep(1h);
        };
        const asyncio::exception_ptr thrown = support::thrown_by_run(main());
        if (!support::holds<asyncio::keyboard_interrupt>(thrown)) return 2;
        return handled == 1 ? 7 : 1;
    });
    CHECK(result.exit_code == 7);
}

TEST_CASE("SG-03: what is no signal, or cannot be caught, is refused") {
    asyncio::event_loop loop;
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    for (const int number : {0, -1, 65, 1000})
        CHECK_THROWS_AS(loop.add_signal_handler(number, [] {}), std::invalid_argument);
#endif
    constexpr int kill = 9; // SIGKILL, everywhere
    CHECK_THROWS_AS(loop.add_signal_handler(kill, [] {}), std::runtime_error);
#if !defined(_WIN32)
    CHECK_THROWS_AS(loop.add_signal_handler(SIGSTOP, [] {}), std::runtime_error);
#endif
    CHECK_FALSE(loop.remove_signal_handler(kill));
    CHECK_FALSE(loop.remove_signal_handler(1000));
}

TEST_CASE("SG-04: this platform does not tie signals to the main thread; all loops get them") {
    const auto result = support::in_child([] {
        std::signal(some_signal, SIG_DFL);
        support::flag ready[2];
        std::atomic<int> handled{0};
        std::vector<std::thread> others;
        for (support::flag& mine : ready)
            others.emplace_back([&] {
                asyncio::event_loop loop;
                loop.add_signal_handler(some_signal, [&] {
                    ++handled;
                    loop.stop();
                });
                mine.set();
                loop.run_forever();
            });
        for (support::flag& each : ready) each.wait();
        std::raise(some_signal);
        for (std::thread& t : others) t.join();
        return handled == 2 ? 7 : 1;
    });
    CHECK(result.exit_code == 7);
}

} // TEST_SUITE

TEST_SUITE("debug mode") {

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("DB-01: with debug on, calls from a foreign thread are refused") {
    const auto nothing = []() -> asyncio::coro<> { co_return; };
    for (const bool debug : {true, false}) {
        asyncio::event_loop loop({.debug = debug});
        const auto future = loop.create_future<int>();
        CHECK(loop.get_debug() == debug);
        loop.slow_callback_duration = 1h;
        int refused = 0;
        int ran = 0;
        loop.call_soon([&] {
            std::thread([&] {
                const auto refuses = [&](const std::function<void()>& call) {
                    try {
                        call();
                    } catch (const std::runtime_error&) {
                        ++refused;
                    }
                };
                refuses([&] { loop.call_soon([&] { ++ran; }); });
                refuses([&] { loop.call_later(-1s, [&] { ++ran; }); });
                refuses([&] { loop.call_at(asyncio::time_point(), [&] { ++ran; }); });
                refuses([&] { loop.create_task(nothing()); });
                refuses([&] { future.set_result(1); });
            }).join();
        });
        loop.run_once();
        loop.run_once();
        CHECK(refused == (debug ? 5 : 0));
        CHECK(ran == (debug ? 0 : 3));
        CHECK(future.done() == !debug);
    }
}
#endif

TEST_CASE("DB-02: with debug on, a long callback or step is reported with its duration") {
    asyncio::event_loop loop({.debug = true});
    CHECK(loop.slow_callback_duration == asyncio::duration(100ms));
    const auto reports = support::collect_reports(loop);
    const auto body = []() -> asyncio::coro<> { co_return; };
    loop.create_task(body, {.name = "slow one"});
    loop.call_soon([] {});
    loop.run_once();
    CHECK(reports->empty());

    loop.slow_callback_duration = 0s; // everything takes at least that long
    loop.create_task(body, {.name = "slow one"});
    loop.call_soon([] {});
    loop.run_once();
    REQUIRE(reports->size() == 2);
    CHECK(reports->at(0).message.find("'slow one'") != std::string::npos);
    CHECK(reports->at(0).message.find(" s ") != std::string::npos);
    CHECK(reports->at(1).message.find("callback") != std::string::npos);

    loop.set_debug(false);
    CHECK_FALSE(loop.get_debug());
    reports->clear();
    loop.call_soon([] {});
    loop.run_once();
    CHECK(reports->empty());
}

TEST_CASE("DB-02: the duration that is reported is that of the callback, in seconds") {
    asyncio::event_loop loop({.debug = true});
    loop.slow_callback_duration = 1ms;
    const auto reports = support::collect_reports(loop);
    asyncio::duration took{};
    loop.call_soon([&] { took = busy_for(2ms); });
    loop.run_once();
    REQUIRE(reports->size() == 1);
    const std::string& text = reports->at(0).message;
    const std::size_t place = text.find(" took ");
    REQUIRE(place != std::string::npos);
    const double reported = std::stod(text.substr(place + 6));
    CHECK(reported >= 0.002);
    CHECK(reported >= took.total_seconds() - 1e-6); // it has six decimals
}

TEST_CASE("DB-03: the environment switches debug on, the option wins") {
    const auto debug_with = [](const char* text, std::optional<bool> option) {
        return support::in_child([=] {
#if defined(_WIN32)
            ::_putenv_s("ASYNCIO_DEBUG", text ? text : "");
#else
            if (text) ::setenv("ASYNCIO_DEBUG", text, 1);
            else ::unsetenv("ASYNCIO_DEBUG");
#endif
            const auto main = []() -> asyncio::coro<int> {
                co_return asyncio::get_running_loop().get_debug() ? 1 : 0;
            };
            return asyncio::run(main(), {.debug = option});
        }).exit_code;
    };
    CHECK(debug_with("1", {}) == 1);
    CHECK(debug_with("1", false) == 0);
    CHECK(debug_with("0", {}) == 0);
    CHECK(debug_with("0", true) == 1);
    CHECK(debug_with(nullptr, {}) == 0);
    CHECK(debug_with(nullptr, true) == 1);
}

TEST_CASE("with debug on, a task that is destroyed while it is pending is reported") {
    std::shared_ptr<std::vector<asyncio::exception_context>> reports;
    {
        asyncio::event_loop loop({.debug = true});
        reports = support::collect_reports(loop);
        const auto body = []() -> asyncio::coro<> { co_await asyncio::sleep(1h); };
        loop.create_task(body, {.name = "left behind"});
        loop.run_once();
        CHECK(reports->empty());
    }
    REQUIRE(reports->size() == 1);
    CHECK(reports->at(0).task == "left behind");
}

} // TEST_SUITE

TEST_SUITE("clocks") {

ASYNC_TEST_CASE("the virtual clock stands while callbacks run, and jumps from timer to timer") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const asyncio::time_point begin = loop.time();
    const auto real_begin = std::chrono::steady_clock::now();
    while (std::chrono::steady_clock::now() - real_begin < 2ms) {}
    CHECK(loop.time() == begin);
    std::vector<asyncio::duration> seen;
    for (const auto delay : {3h, 1h, 2h})
        loop.call_later(delay, [&] { seen.push_back(loop.time() - begin); });
    co_await asyncio::sleep(24h);
    CHECK(seen == std::vector<asyncio::duration>{1h, 2h, 3h});
    CHECK(loop.time() - begin == asyncio::duration(24h));
}

#if !defined(_WIN32)

ASYNC_TEST_CASE("the virtual clock waits for what other threads compute") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const asyncio::time_point begin = loop.time();
    bool jumped = false;
    const auto timer = loop.call_later(1s, [&] { jumped = true; });
    const auto job = asyncio::concurrent_future<int>::create();
    // Signals wake the loop although nothing is ready.
    const auto before = std::signal(SIGUSR2, [](int) {});
    std::thread worker([job, sleeper = ::pthread_self()] {
        for (int i = 0; i < 1000; ++i) {
            ::pthread_kill(sleeper, SIGUSR2);
            std::this_thread::yield();
        }
        job.set_result(1);
    });
    co_await job;
    worker.join();
    std::signal(SIGUSR2, before);
    CHECK(loop.time() == begin);
    CHECK_FALSE(jumped);
    co_await asyncio::sleep(2s);
    CHECK(jumped);
}

#endif

TEST_CASE("a manual clock moves only by advance(), which stands at each deadline") {
    asyncio::event_loop loop(manual);
    std::vector<asyncio::duration> seen;
    const auto note = [&] { seen.push_back(loop.time().time_since_epoch()); };
    loop.call_later(2s, note);
    loop.call_later(1s, [&] {
        note();
        loop.call_later(500ms, note);
        loop.call_later(1h, note);
    });
    CHECK(loop.poll() == 0);
    CHECK(loop.time() == asyncio::time_point());
    loop.advance(999ms);
    CHECK(seen.empty());
    CHECK(loop.time().time_since_epoch() == asyncio::duration(999ms));
    loop.advance(9001ms);
    CHECK(seen == std::vector<asyncio::duration>{1s, 1500ms, 2s});
    CHECK(loop.time().time_since_epoch() == asyncio::duration(10s));
    loop.advance(-5s);
    CHECK(loop.time().time_since_epoch() == asyncio::duration(10s));
    CHECK(loop.next_deadline() == asyncio::duration(1h + 1s - 10s));
}

TEST_CASE("advance() runs tasks at the times they sleep to, with all their turns") {
    asyncio::event_loop loop(manual);
    std::vector<asyncio::duration> seen;
    const auto body = [&]() -> asyncio::coro<> {
        for (int i = 0; i < 3; ++i) {
            co_await asyncio::sleep(1s);
            co_await support::turns(3);
            seen.push_back(loop.time().time_since_epoch());
        }
    };
    const auto t = loop.create_task(body);
    loop.advance(10s);
    CHECK(seen == std::vector<asyncio::duration>{1s, 2s, 3s});
    CHECK(t.done());
}

TEST_CASE("advance() ends although a task never stops to yield") {
    asyncio::event_loop loop(manual);
    const auto spinning = []() -> asyncio::coro<> {
        for (;;) co_await asyncio::sleep(0s);
    };
    loop.create_task(spinning);
    std::vector<asyncio::duration> seen;
    loop.call_later(1s, [&] { seen.push_back(loop.time().time_since_epoch()); });
    loop.call_later(2s, [&] { seen.push_back(loop.time().time_since_epoch()); });
    loop.advance(3s);
    CHECK(seen == std::vector<asyncio::duration>{1s, 2s});
    CHECK(loop.time().time_since_epoch() == asyncio::duration(3s));
}

ASYNC_TEST_CASE_WITH("advance() inside a running loop moves its clock when nothing else is ready",
                     .clock = asyncio::clock_kind::manual) {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const auto sleeper = []() -> asyncio::coro<asyncio::duration> {
        co_await asyncio::sleep(1s);
        co_return asyncio::elapsed();
    };
    const auto t = asyncio::create_task(sleeper);
    loop.advance(5s);
    const asyncio::duration woke = co_await t;
    CHECK(woke == asyncio::duration(1s));
    loop.advance(1s);
    co_await asyncio::sleep(2s);
    CHECK(asyncio::elapsed() >= asyncio::duration(3s));
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("only a manual clock is advanced, only the real one is scaled and paused") {
    asyncio::event_loop real;
    asyncio::event_loop by_hand(manual);
    CHECK_THROWS_AS(real.advance(1s), std::runtime_error);
    CHECK_THROWS_AS(by_hand.set_time_scale(2), std::runtime_error);
    CHECK_THROWS_AS(by_hand.pause(), std::runtime_error);
    CHECK_THROWS_AS(by_hand.resume(), std::runtime_error);
    CHECK_THROWS_AS(real.set_time_scale(-1), std::invalid_argument);
    CHECK_THROWS_AS(real.set_time_scale(1e308 * 10), std::invalid_argument);
    CHECK_THROWS_AS(asyncio::event_loop({.time_scale = 0}), std::invalid_argument);
    CHECK_THROWS_AS(asyncio::event_loop({.time_scale = -2}), std::invalid_argument);
}
#endif

TEST_CASE("a scaled clock runs faster") {
    const auto main = []() -> asyncio::coro<asyncio::duration> {
        co_await asyncio::sleep(1h);
        co_return asyncio::elapsed();
    };
    const auto begin = std::chrono::steady_clock::now();
    CHECK(asyncio::run(main(), {.time_scale = 1e6}) >= asyncio::duration(1h));
    CHECK(std::chrono::steady_clock::now() - begin < 50s);

    asyncio::event_loop loop;
    const asyncio::time_point before = loop.time();
    loop.set_time_scale(1e6);
    CHECK(loop.time() >= before);
    loop.run_until_complete([]() -> asyncio::coro<> { co_await asyncio::sleep(1h); });
    const asyncio::time_point fast = loop.time();
    CHECK(fast - before >= asyncio::duration(1h));
    loop.set_time_scale(1);
    CHECK(loop.time() >= fast); // it never jumps
    CHECK(loop.time() - fast < asyncio::duration(1h));
}

TEST_CASE("a paused clock stands, whatever becomes of its scale, and goes on from there") {
    asyncio::event_loop loop;
    bool ran = false;
    loop.pause();
    const asyncio::time_point stands = loop.time();
    loop.call_later(1ns, [&] { ran = true; });
    const auto spin = [] {
        const auto begin = std::chrono::steady_clock::now();
        while (std::chrono::steady_clock::now() - begin < 1ms) {}
    };
    spin();
    CHECK(loop.time() == stands);
    loop.run_once();
    CHECK_FALSE(ran);
    CHECK_FALSE(loop.next_deadline().has_value());
    loop.set_time_scale(1000);
    spin();
    CHECK(loop.time() == stands);
    loop.resume();
    spin();
    CHECK(loop.time() - stands >= asyncio::duration(900ms));
    loop.run_once();
    CHECK(ran);
}

TEST_CASE("a scale of zero stops the clock until there is another one") {
    asyncio::event_loop loop;
    loop.set_time_scale(0);
    const asyncio::time_point stands = loop.time();
    const auto spin = [] {
        const auto begin = std::chrono::steady_clock::now();
        while (std::chrono::steady_clock::now() - begin < 1ms) {}
    };
    spin();
    CHECK(loop.time() == stands);
    loop.pause();
    loop.resume();
    spin();
    CHECK(loop.time() == stands);
    loop.set_time_scale(2);
    spin();
    CHECK(loop.time() - stands >= asyncio::duration(2ms));
}

TEST_CASE("a paused clock stands until resume(), though its scale was zero meanwhile") {
    asyncio::event_loop loop;
    const auto moves = [&] {
        const asyncio::time_point before = loop.time();
        const auto begin = std::chrono::steady_clock::now();
        while (std::chrono::steady_clock::now() - begin < 1ms) {}
        return loop.time() != before;
    };
    loop.pause();
    loop.set_time_scale(0);
    loop.set_time_scale(1);
    CHECK_FALSE(moves());
    loop.resume();
    CHECK(moves());
    loop.set_time_scale(0);
    loop.pause();
    loop.set_time_scale(2);
    CHECK_FALSE(moves());
    loop.resume();
    CHECK(moves());
}

ASYNC_TEST_CASE("what is due already is done while the clock stands") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const auto never = asyncio::create_future<void>();
    const auto held = asyncio::concurrent_future<void>::create(); // holds a virtual clock
    loop.call_later(0s, [&] { held.set_result(); });
    co_await held;
    const auto none = co_await asyncio::wait(never, {.timeout = 0s});
    CHECK(none.done.empty());

    asyncio::event_loop paused;
    const asyncio::time_point begin = paused.time();
    paused.pause();
    int ran = 0;
    std::thread([&] { // a loop of its own, as none runs inside another
        paused.call_at(begin, [&] {
            ++ran;
            paused.stop();
        });
        CHECK(paused.next_deadline() == asyncio::duration());
        paused.run_forever();
        asyncio::event_loop by_hand(manual);
        by_hand.call_later(0s, [&] {
            ++ran;
            by_hand.stop();
        });
        by_hand.run_forever();
        asyncio::time_stream world(by_hand);
        world.pause();
        const auto waits = [&]() -> asyncio::coro<> {
            static_cast<void>(co_await asyncio::wait(by_hand.create_future<void>(),
                                                     {.timeout = 0s}));
        };
        const asyncio::task<> task = by_hand.create_task(waits, {.clock = &world});
        by_hand.run_until_complete(task);
        ++ran;
    }).join();
    CHECK(ran == 3);
}

TEST_CASE("a loop that is closed has no deadline, whatever is left in it") {
    asyncio::event_loop loop;
    loop.call_soon([] {});
    CHECK(loop.next_deadline() == asyncio::duration());
    loop.close();
    CHECK_FALSE(loop.next_deadline().has_value());
}

TEST_CASE("run_until_complete() of what is done in another loop gives its result") {
    asyncio::event_loop other;
    asyncio::event_loop loop;
    const asyncio::future<int> theirs = other.create_future<int>();
    theirs.set_result(7);
    bool ran = false;
    other.call_soon([&] { ran = true; });
    CHECK(loop.run_until_complete(theirs) == 7);
    CHECK_FALSE(ran);
    other.run_until_complete(theirs); // whose end nothing of the other run stops
    CHECK(ran);
}

TEST_CASE("shuffle_seed gives a random order that the same seed repeats") {
    const auto order_with = [](std::optional<std::uint64_t> seed) {
        asyncio::event_loop loop({.shuffle_seed = seed});
        std::vector<int> order;
        for (int i = 0; i < 30; ++i) loop.call_soon([&order, i] { order.push_back(i); });
        const auto body = [&order](int i) -> asyncio::coro<> {
            co_await asyncio::sleep(0s);
            order.push_back(i);
        };
        for (int i = 30; i < 60; ++i) loop.create_task(body(i));
        CHECK(loop.run_once() == 60);
        CHECK(loop.run_once() == 30);
        return order;
    };
    const std::vector<int> plain = order_with({});
    bool sorted = true;
    for (std::size_t i = 0; i < plain.size(); ++i)
        sorted = sorted && plain[i] == static_cast<int>(i);
    CHECK(sorted);
    CHECK(order_with(7) == order_with(7));
    CHECK_FALSE(order_with(7) == order_with(8));
    CHECK_FALSE(order_with(7) == plain);
    CHECK_FALSE(order_with(0) == plain);
}

TEST_CASE("a clock of any scale ends at the latest time that there is, not before its beginning") {
    const asyncio::duration century = std::chrono::hours(24 * 365 * 100);
    asyncio::event_loop slow({.time_scale = 1e-9});
    slow.call_later(2 * century, [] {});
    CHECK(slow.next_deadline().value() > century);
    asyncio::event_loop fast({.time_scale = 1e200});
    asyncio::duration passed;
    for (int i = 0; i < 1'000'000 && passed < century; ++i) // the clock may tick seldom
        passed = fast.time().time_since_epoch();
    CHECK(passed > century);
}

} // TEST_SUITE

TEST_SUITE("embedding") {

TEST_CASE("poll() runs turns until nothing is ready, and counts what ran") {
    asyncio::event_loop loop;
    long count = 0;
    loop.call_soon(again{loop, count, 10});
    loop.call_later(1h, [] {});
    CHECK(loop.poll() == 10);
    CHECK(count == 10);
    CHECK(loop.poll() == 0);
}

TEST_CASE("what yields runs once a poll") {
    asyncio::event_loop loop;
    int frames = 0;
    const auto body = [&]() -> asyncio::coro<> {
        for (;;) {
            ++frames;
            co_await asyncio::sleep(0s);
        }
    };
    loop.create_task(body);
    for (int i = 1; i <= 5; ++i) {
        CHECK(loop.poll() == 1);
        CHECK(frames == i);
        CHECK(loop.next_deadline() == asyncio::duration());
    }
    CHECK(loop.run_for(1h).ran == 1); // no need to use the budget up
    CHECK(frames == 6);
}

TEST_CASE("poll() is bounded when callbacks queue each other for ever") {
    asyncio::event_loop loop;
    long count = 0;
    loop.call_soon(again{loop, count, for_ever});
    CHECK(loop.poll() > 0);
    const long after_one = count;
    loop.poll();
    CHECK(count > after_one);
}

TEST_CASE("one poll has one time") {
    asyncio::event_loop loop;
    std::vector<asyncio::time_point> times;
    loop.call_soon([&] {
        times.push_back(loop.time());
        const auto begin = std::chrono::steady_clock::now();
        while (std::chrono::steady_clock::now() - begin < 1ms) {}
        loop.call_soon([&] { times.push_back(loop.time()); });
    });
    loop.poll();
    REQUIRE(times.size() == 2);
    CHECK(times[0] == times[1]);
    CHECK(loop.time() > times[1]);
}

TEST_CASE("poll() takes in descriptors, timers and other threads' calls") {
    asyncio::event_loop loop;
    const pipe_ends pipe;
    pipe.put();
    log_of_words log;
    loop.add_reader(pipe.in, [&] {
        pipe.take();
        log.push_back("reader");
    });
    loop.call_later(-1s, [&] { log.push_back("timer"); });
    std::thread([&] {
        loop.call_soon_threadsafe([&] { log.push_back("thread"); });
    }).join();
    CHECK(loop.poll() == 3);
    CHECK(log.size() == 3);
}

TEST_CASE("run_for() uses no more than its budget of real time") {
    asyncio::event_loop loop(manual);
    long count = 0;
    loop.call_soon(again{loop, count, 5});
    const asyncio::run_result finished = loop.run_for(1h);
    CHECK(finished.ran == 5);
    CHECK_FALSE(finished.more);
    count = 0;
    loop.call_soon(again{loop, count, for_ever});
    const asyncio::run_result unfinished = loop.run_for(1ms);
    CHECK(unfinished.more);
    CHECK(unfinished.ran == static_cast<std::size_t>(count));
    CHECK(count >= 1);
    const asyncio::run_result no_budget = loop.run_for(0s);
    CHECK(no_budget.more);
    CHECK(no_budget.ran == 1);
}

TEST_CASE("next_deadline() tells how long a foreign loop may sleep") {
    asyncio::event_loop loop(manual);
    CHECK_FALSE(loop.next_deadline().has_value());
    auto later = loop.call_later(5s, [] {});
    CHECK(loop.next_deadline() == asyncio::duration(5s));
    loop.call_later(3s, [] {});
    CHECK(loop.next_deadline() == asyncio::duration(3s));
    loop.advance(1s);
    CHECK(loop.next_deadline() == asyncio::duration(2s));
    loop.advance(2s);
    CHECK(loop.next_deadline() == asyncio::duration(2s));
    later.cancel();
    CHECK_FALSE(loop.next_deadline().has_value());
    loop.call_soon([] {});
    CHECK(loop.next_deadline() == asyncio::duration());
    loop.poll();
    CHECK_FALSE(loop.next_deadline().has_value());
    std::thread([&] { loop.call_soon_threadsafe([] {}); }).join();
    CHECK(loop.next_deadline() == asyncio::duration());

    asyncio::event_loop scaled({.time_scale = 10});
    scaled.call_later(1h, [] {});
    REQUIRE(scaled.next_deadline().has_value());
    CHECK(*scaled.next_deadline() <= asyncio::duration(6min)); // real time
    CHECK(*scaled.next_deadline() > asyncio::duration(5min));
    asyncio::event_loop overdue;
    overdue.call_later(-1s, [] {});
    CHECK(overdue.next_deadline() == asyncio::duration());
}

#if !defined(_WIN32)

TEST_CASE("native_handle() is readable when poll() has something to take in") {
    asyncio::event_loop loop;
    loop.poll();
    CHECK_FALSE(readable(loop.native_handle()));
    bool ran = false;
    std::thread([&] { loop.call_soon_threadsafe([&] { ran = true; }); }).join();
    CHECK(readable(loop.native_handle()));
    CHECK(loop.poll() == 1);
    CHECK(ran);
    CHECK_FALSE(readable(loop.native_handle()));
    const pipe_ends pipe;
    loop.add_reader(pipe.in, [&] { pipe.take(); });
    CHECK_FALSE(readable(loop.native_handle()));
    pipe.put();
    CHECK(readable(loop.native_handle()));
    CHECK(loop.poll() == 1);
    CHECK_FALSE(readable(loop.native_handle()));
}

// The same objects run over both: meson.build tells which library they are linked to.
TEST_CASE("a loop has a handle to wait for, but over poll() it is -1") {
    asyncio::event_loop loop;
    const bool over_poll = std::getenv("ASYNCIO_TEST_POLL") != nullptr;
    CHECK((loop.native_handle() == -1) == over_poll);
}

#else

// A thread sets it, a moment later.
TEST_CASE("native_handle() is set when poll() has something to take in") {
    asyncio::event_loop loop;
    const HANDLE handle = loop.native_handle();
    CHECK(loop.native_handle() == handle);
    const auto set = [&](DWORD within = INFINITE) {
        return ::WaitForSingleObject(handle, within) == WAIT_OBJECT_0;
    };
    loop.poll();
    CHECK_FALSE(set(0));
    for (int i = 0; i < 100; ++i) { // the thread takes its turn each time
        bool ran = false;
        std::thread([&] { loop.call_soon_threadsafe([&] { ran = true; }); }).join();
        CHECK(set());
        CHECK(set()); // until it polls
        CHECK(loop.poll() == 1);
        CHECK(ran);
        CHECK_FALSE(set(0));
    }
    const pipe_ends pipe;
    int told = 0;
    loop.add_reader(pipe.in, [&] {
        if (++told > 2) pipe.take();
    });
    CHECK_FALSE(set(0));
    pipe.put();
    for (int i = 1; i <= 3; ++i) { // as long as it is not read
        CHECK(set());
        loop.run_once();
        CHECK(told == i);
    }
    loop.poll();
    CHECK(told == 3);
    CHECK_FALSE(set(0));
}

TEST_CASE("a loop whose native_handle() was asked for runs by itself as well") {
    asyncio::event_loop loop;
    CHECK(loop.native_handle() != nullptr);
    const auto work = [&]() -> asyncio::coro<int> {
        const auto seven = [] { return 7; };
        const int got = co_await asyncio::to_thread(seven);
        co_await asyncio::sleep(1ms);
        co_return got;
    };
    CHECK(loop.run_until_complete(work()) == 7);
    // What nobody takes in any more is no hindrance.
    std::thread([&] { loop.call_soon_threadsafe([] {}); }).join();
    CHECK(::WaitForSingleObject(loop.native_handle(), INFINITE) == WAIT_OBJECT_0);
    loop.close();
    CHECK(loop.native_handle() == nullptr);
}

#endif

TEST_CASE("between two polls enter() makes the loop the running one") {
    asyncio::event_loop loop;
    asyncio::event_loop other;
    asyncio::task<int> t;
    CHECK_THROWS_AS(asyncio::get_running_loop(), std::runtime_error);
    {
        const auto inside = loop.enter();
        CHECK(&asyncio::get_running_loop() == &loop);
        CHECK_FALSE(asyncio::current_task().valid());
        t = asyncio::create_task(value(3));
        {
            const auto deeper = other.enter();
            CHECK(&asyncio::get_running_loop() == &other);
        }
        CHECK(&asyncio::get_running_loop() == &loop);
        loop.poll();
        CHECK(&asyncio::get_running_loop() == &loop);
    }
    CHECK_THROWS_AS(asyncio::get_running_loop(), std::runtime_error);
    loop.poll();
    CHECK(t.result() == 3);
}

TEST_CASE("a loop that ends while it is entered is no longer the running one") {
    std::optional<asyncio::event_loop> outer(std::in_place);
    std::optional<asyncio::event_loop> inner(std::in_place);
    const auto outside = outer->enter();
    {
        const auto inside = inner->enter();
        inner.reset();
        CHECK_THROWS_AS(asyncio::get_running_loop(), std::runtime_error);
        outer.reset();
    }
    CHECK_THROWS_AS(asyncio::get_running_loop(), std::runtime_error);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("an exception that leaves poll() leaves the loop usable") {
    asyncio::event_loop loop;
    bool ran = false;
    loop.call_soon([] { throw asyncio::keyboard_interrupt(); });
    loop.call_soon([&] { ran = true; });
    CHECK_THROWS_AS(loop.poll(), asyncio::keyboard_interrupt);
    CHECK_FALSE(ran);
    CHECK_FALSE(loop.is_running());
    CHECK(loop.poll() == 1);
    CHECK(ran);
}
#endif

} // TEST_SUITE
