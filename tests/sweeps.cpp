// Programs that are hit at every point: cancelled, ended, their loop destroyed. How, and what is
// looked at afterwards, sweeping.hpp says.
#include "sweeping.hpp"

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <forward_list>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <csignal>
#if defined(_WIN32)
#include <io.h>
#else
#include <unistd.h>
#endif

#define SWEEP_AS(body, name, ...)                                                                  \
    static asyncio::coro<> body(stage& set);                                                       \
    TEST_CASE(name) {                                                                              \
        const rules given{__VA_ARGS__};                                                            \
        check(sweep(body, given), given);                                                          \
    }                                                                                              \
    static asyncio::coro<> body(stage& set)

// A program with its rules: SWEEP("name", .needed = {"setter"}) { ... co_await ... }
#define SWEEP(name, ...) SWEEP_AS(DOCTEST_ANONYMOUS(swept_), name, __VA_ARGS__)

// ---- the machine finds what it is there to find -------------------------------------------------

namespace {

asyncio::coro<> sleep_for(asyncio::duration delay) {
    const probe here;
    co_await asyncio::sleep(delay);
}

// True when a sweep over the program finds a fault with this text.
bool finds(const char* text, program what, const rules& r = {}) {
    const outcome_of_sweep result = sweep(what, r);
    return result.text().find(text) != std::string::npos;
}

} // namespace

TEST_SUITE("sweeps: the machine") {

TEST_CASE("a program without a fault has none") {
    const outcome_of_sweep result =
        sweep([](stage&) -> asyncio::coro<> { co_await sleep_for(1s); }, {});
    CHECK_MESSAGE(result.faults.empty(), result.text());
    // Before the first turn, while it sleeps; each twice, each blow, and the undisturbed run.
    CHECK(result.points == 2);
    CHECK(result.runs > 20);
}

TEST_CASE("a lost frame, a lost block and a lost descriptor are found") {
    CHECK(finds("1 frames are left", [](stage&) -> asyncio::coro<> {
        static std::vector<std::unique_ptr<probe>> lost;
        lost.push_back(std::make_unique<probe>());
        co_await asyncio::sleep(1s);
        lost.clear(); // not when it is cancelled before
    }));
#if !defined(SWEEPS_COUNT_NO_BLOCKS)
    CHECK(finds("1 blocks of memory are lost", [](stage&) -> asyncio::coro<> {
        static std::forward_list<int> lost;
        lost.push_front(1);
        co_await asyncio::sleep(1s);
        lost.pop_front();
    }));
#endif
    static std::vector<int> lost;
    CHECK(finds("descriptors are left open", [](stage&) -> asyncio::coro<> {
        lost.push_back(::dup(0));
        co_await asyncio::sleep(1s);
        ::close(lost.back());
        lost.pop_back();
    }));
    for (const int descriptor : lost) ::close(descriptor);
}

TEST_CASE("a lost wake-up, a broken promise and a timer that stays are found") {
    const program waits_for_other = [](stage& set) -> asyncio::coro<> {
        auto& ready = set.make<asyncio::event>();
        const auto other = asyncio::create_task(
            [&]() -> asyncio::coro<> {
                co_await asyncio::sleep(1s);
                ready.set(); // nobody does if this one is cancelled
            },
            {.name = "setter"});
        co_await ready.wait();
    };
    CHECK(finds("everybody waits: main", waits_for_other));
    CHECK_FALSE(finds("everybody waits", waits_for_other, {.needed = {"setter"}}));
    CHECK(finds("the count is off", [](stage& set) -> asyncio::coro<> {
        int& count = set.make<int>(1);
        set.at_end([&](bool) { set.require(count == 0, "the count is off"); });
        co_await asyncio::sleep(1s);
        --count;
    }));
    CHECK(finds("a timer is left", [](stage& set) -> asyncio::coro<> {
        auto& late = set.make<asyncio::handle>();
        late = asyncio::get_running_loop().call_later(1h, [] {});
        co_await asyncio::sleep(1s);
        late.cancel();
    }));
}

TEST_CASE("what does not end, or does not listen, is found") {
    CHECK(finds("it does not come to an end", [](stage&) -> asyncio::coro<> {
        const auto busy = asyncio::create_task([]() -> asyncio::coro<> {
            for (;;) co_await asyncio::sleep(0s);
        });
        const auto stop = [busy]() -> asyncio::coro<> {
            busy.cancel();
            co_return;
        };
        co_await asyncio::finally(asyncio::sleep(1s), stop);
    }));
    CHECK(finds("tasks are left: main", [](stage&) -> asyncio::coro<> {
        for (int i = 0; i < 10; ++i) {
            try {
                co_await asyncio::create_future<void>();
            } catch (const asyncio::cancelled_error&) {
                // As if nothing had happened.
            }
        }
    }));
}

} // TEST_SUITE

// ---- the programs -------------------------------------------------------------------------------

namespace {

using tasks_type = std::vector<asyncio::task<>>;

// Counts who is inside of something that lets in a limited number.
struct visitors {
    int inside = 0;
    int most = 0;
    int passed = 0; // who came in at all
};

class visit {
public:
    explicit visit(visitors& all) noexcept : all_(all) {
        ++all_.passed;
        all_.most = std::max(all_.most, ++all_.inside);
    }
    visit(const visit&) = delete;
    visit& operator=(const visit&) = delete;
    ~visit() { --all_.inside; }

private:
    visitors& all_;
};

// Does something when it goes, however that happens.
template <class F>
class at_exit {
public:
    explicit at_exit(F fn) : fn_(std::move(fn)) {}
    at_exit(const at_exit&) = delete;
    at_exit& operator=(const at_exit&) = delete;
    ~at_exit() { fn_(); }

private:
    F fn_;
};

class cancel_at_exit {
public:
    explicit cancel_at_exit(asyncio::handle callback) : callback_(std::move(callback)) {}
    cancel_at_exit(const cancel_at_exit&) = delete;
    cancel_at_exit& operator=(const cancel_at_exit&) = delete;
    ~cancel_at_exit() { callback_.cancel(); }

private:
    asyncio::handle callback_;
};

asyncio::coro<int> value_after(asyncio::duration delay, int value) {
    const probe here;
    co_await asyncio::sleep(delay);
    co_return value;
}

asyncio::coro<int> fail_after(asyncio::duration delay) {
    const probe here;
    co_await asyncio::sleep(delay);
    throw std::runtime_error("no luck");
}

// Needs a moment to end when it is cancelled.
asyncio::coro<> slow_to_end(asyncio::duration delay, int& cleanups) {
    const probe here;
    std::exception_ptr error;
    try {
        co_await asyncio::sleep(delay);
    } catch (...) {
        error = std::current_exception();
    }
    co_await asyncio::sleep(10ms);
    ++cleanups;
    if (error) std::rethrow_exception(error);
}

// A program that ends its tasks itself when it is cancelled, as a careful one does.
asyncio::coro<> all_end(tasks_type tasks) {
    const probe here;
    co_await asyncio::gather(asyncio::return_exceptions, tasks);
}

asyncio::async_generator<int> numbers(int n) {
    const probe here;
    for (int i = 1; i <= n; ++i) {
        co_await asyncio::sleep(i % 2 == 0 ? 0s : 1s);
        co_yield i;
    }
}

asyncio::async_generator<int> twice_of(int n) {
    const probe here;
    auto inner = numbers(n);
    while (const auto value = co_await inner.next()) co_yield *value * 2;
}

// Where servers listen: a Unix socket, or where the system has none a port.
#if defined(_WIN32)
template <class Handler>
auto listen_here(Handler handler) {
    return asyncio::start_server(std::move(handler), "127.0.0.1", 0);
}
auto connect_here(int port) { return asyncio::open_connection("127.0.0.1", port); }
#else
std::string socket_path() {
    static const support::scratch folder;
    return folder / "socket";
}
template <class Handler>
auto listen_here(Handler handler) {
    return asyncio::start_unix_server(std::move(handler), socket_path());
}
auto connect_here(int) { return asyncio::open_unix_connection(socket_path()); }
#endif

// Sends each line back.
asyncio::coro<> echo(asyncio::stream_reader reader, asyncio::stream_writer writer) {
    const probe here;
    try {
        for (;;) {
            const std::string line = co_await reader.readline();
            if (line.empty()) break;
            writer.write(line);
            co_await writer.drain();
        }
        writer.close();
        co_await writer.wait_closed();
    } catch (const std::system_error&) {
        // The client has gone.
    }
}

asyncio::coro<int> ask_lines(int port, int count) {
    const probe here;
    int answers = 0;
    try {
        auto [reader, writer] = co_await connect_here(port);
        for (int i = 0; i < count; ++i) {
            writer.write("line\n");
            const std::string answer = co_await reader.readline();
            if (answer.empty()) break; // the server's side was hit
            ++answers;
        }
        writer.close();
        co_await writer.wait_closed();
    } catch (const std::system_error&) {
        // So it was.
    }
    co_return answers;
}

template <class Lock>
asyncio::coro<> pass_through(Lock& lock, visitors& all, int rounds) {
    const probe here;
    for (int i = 0; i < rounds; ++i) {
        const auto held = co_await lock.scoped();
        const visit inside(all);
        co_await asyncio::sleep(i % 2 == 0 ? 0s : 1s);
    }
}

} // namespace

TEST_SUITE("sweeps: sleep and futures") {

SWEEP("sleeping coroutines, nested") {
    const probe here;
    co_await asyncio::sleep(0s);
    const int one = co_await value_after(1s, 1);
    const int two = co_await asyncio::create_task(value_after(2s, 2));
    set.require(one + two == 3, "a value is wrong");
    co_await asyncio::sleep(-1s);
}

SWEEP("one future, three who wait for it; two of them behind a shield",
      .needed = {"setter", "plain"}) {
    const probe here;
    auto& f = set.make<asyncio::future<int>>(asyncio::create_future<int>());
    const auto plain = [&]() -> asyncio::coro<> {
        const probe inside;
        co_await f;
    };
    const auto shielded = [&]() -> asyncio::coro<> {
        const probe inside;
        const int value = co_await asyncio::shield(f);
        set.require(value == 7, "a value is wrong");
    };
    const auto setter = [&]() -> asyncio::coro<> {
        const probe inside;
        co_await asyncio::sleep(1s);
        if (!f.done()) f.set_result(7);
    };
    tasks_type tasks;
    tasks.push_back(asyncio::create_task(plain, {.name = "plain"}));
    tasks.push_back(asyncio::create_task(shielded, {.name = "shielded"}));
    tasks.push_back(asyncio::create_task(shielded, {.name = "shielded, too"}));
    tasks.push_back(asyncio::create_task(setter, {.name = "setter"}));
    co_await all_end(std::move(tasks));
}

SWEEP("done-callbacks, of futures that end in each way") {
    const probe here;
    int& called = set.make<int>(0);
    set.at_end([&](bool closed) {
        if (!closed) set.require(called <= 3, "a callback ran twice");
    });
    auto good = asyncio::create_future<int>();
    auto bad = asyncio::create_future<int>();
    const auto task = asyncio::create_task(value_after(1s, 1), {.name = "task"});
    good.add_done_callback([&called, seen = probe()] { ++called; });
    bad.add_done_callback([&called, seen = probe()](const asyncio::future<int>& f) {
        ++called;
        static_cast<void>(f.exception());
    });
    task.add_done_callback([&called, seen = probe()] { ++called; });
    co_await asyncio::sleep(500ms);
    good.set_result(1);
    bad.set_exception(std::runtime_error("no luck"));
    const std::vector<asyncio::task<int>> only{task};
    co_await asyncio::wait(only);
    co_await support::turns(2);
    set.require(called == 3, "a callback did not run");
}

} // TEST_SUITE

TEST_SUITE("sweeps: locks") {

SWEEP("a lock: one at a time, and nobody waits for ever") {
    const probe here;
    auto& lock = set.make<asyncio::lock>();
    auto& all = set.make<visitors>();
    set.at_end([&](bool) {
        set.require(all.most <= 1, "two were inside at once");
        set.require(all.inside == 0, "somebody is inside");
        set.require(!lock.locked(), "the lock is held by nobody");
    });
    tasks_type tasks;
    for (const char* name : {"a", "b", "c"})
        tasks.push_back(asyncio::create_task(pass_through(lock, all, 2), {.name = name}));
    co_await all_end(std::move(tasks));
    const bool taken = co_await lock.acquire();
    set.require(taken, "acquire() gave false");
    lock.release();
}

SWEEP("a lock as a manager, taken and released by hand in between") {
    const probe here;
    auto& lock = set.make<asyncio::lock>();
    set.at_end([&](bool closed) {
        if (!closed) set.require(!lock.locked(), "the lock is held by nobody");
    });
    const auto by_hand = [&]() -> asyncio::coro<> {
        const probe inside;
        co_await lock.acquire();
        lock.release();
    };
    const auto managed = [&]() -> asyncio::coro<> {
        const probe inside;
        co_await asyncio::with(lock, [&]() -> asyncio::coro<> { co_await asyncio::sleep(1s); });
    };
    tasks_type tasks;
    for (const char* name : {"a", "b"}) {
        tasks.push_back(asyncio::create_task(managed, {.name = name}));
        tasks.push_back(asyncio::create_task(by_hand, {.name = name}));
    }
    co_await all_end(std::move(tasks));
}

SWEEP("a semaphore: no more than its slots, and none is lost") {
    const probe here;
    auto& slots = set.make<asyncio::bounded_semaphore>(2);
    auto& all = set.make<visitors>();
    set.at_end([&](bool) {
        set.require(all.most <= 2, "more were inside than there are slots");
        bool full = false;
        try {
            slots.release();
        } catch (const std::invalid_argument&) {
            full = true;
        }
        set.require(full, "a slot is lost");
    });
    tasks_type tasks;
    for (const char* name : {"a", "b", "c", "d"})
        tasks.push_back(asyncio::create_task(pass_through(slots, all, 2), {.name = name}));
    co_await all_end(std::move(tasks));
    set.require(!slots.locked(), "the semaphore is locked");
}

SWEEP("a semaphore whose slots come from outside, one at a time", .needed = {"giver"}) {
    const probe here;
    auto& slots = set.make<asyncio::semaphore>(0);
    int& given = set.make<int>(0);
    int& taken = set.make<int>(0);
    const auto take = [&]() -> asyncio::coro<> {
        const probe inside;
        co_await slots.acquire();
        ++taken;
    };
    const auto give = [&]() -> asyncio::coro<> {
        const probe inside;
        for (int i = 0; i < 3; ++i) {
            slots.release();
            ++given;
            co_await asyncio::sleep(i == 1 ? 1s : 0s);
        }
    };
    tasks_type tasks;
    for (const char* name : {"a", "b", "c"})
        tasks.push_back(asyncio::create_task(take, {.name = name}));
    tasks.push_back(asyncio::create_task(give, {.name = "giver"}));
    co_await all_end(std::move(tasks));
    // Those that nobody took are free.
    for (; taken < given; ++taken) {
        set.require(!slots.locked(), "a slot is lost");
        co_await slots.acquire();
    }
    set.require(slots.locked(), "there is a slot too many");
}

SWEEP("an event that is set when its setter goes") {
    const probe here;
    auto& ready = set.make<asyncio::event>();
    int& passed = set.make<int>(0);
    set.at_end([&](bool closed) {
        if (!closed) set.require(passed <= 3, "one passed twice");
    });
    const auto wait = [&]() -> asyncio::coro<> {
        const probe inside;
        const bool set_now = co_await ready.wait();
        set.require(set_now, "wait() gave false");
        ++passed;
    };
    const auto setter = [&]() -> asyncio::coro<> {
        const probe inside;
        const at_exit end([&] { ready.set(); });
        co_await asyncio::sleep(1s);
        ready.set();
        ready.clear();
        co_await asyncio::sleep(0s);
    };
    tasks_type tasks;
    tasks.push_back(asyncio::create_task(setter, {.name = "setter", .eager_start = true}));
    for (const char* name : {"a", "b", "c"})
        tasks.push_back(asyncio::create_task(wait, {.name = name}));
    co_await all_end(std::move(tasks));
}

SWEEP("a condition: no notification is lost, and the lock is held again", .needed = {"producer"}) {
    const probe here;
    auto& changed = set.make<asyncio::condition>();
    struct store {
        int items = 0;
        int made = 0;
        int taken = 0;
    };
    auto& goods = set.make<store>();
    set.at_end([&](bool) {
        set.require(goods.items == goods.made - goods.taken && goods.items >= 0,
                    "an item is lost or was taken twice");
        set.require(!changed.locked(), "the lock is held by nobody");
    });
    const auto consume = [&]() -> asyncio::coro<> {
        const probe inside;
        const auto held = co_await changed.scoped();
        try {
            const bool there = co_await changed.wait_for([&] { return goods.items > 0; });
            set.require(there, "wait_for() gave false");
        } catch (const asyncio::cancelled_error&) {
            set.require(changed.locked(), "the lock is not held after a cancellation");
            throw;
        }
        set.require(changed.locked(), "the lock is not held after wait()");
        --goods.items;
        ++goods.taken;
    };
    const auto produce = [&]() -> asyncio::coro<> {
        const probe inside;
        for (int i = 0; i < 3; ++i) {
            const auto held = co_await changed.scoped();
            ++goods.items;
            ++goods.made;
            changed.notify(1);
            co_await asyncio::sleep(i == 1 ? 1s : 0s);
        }
    };
    tasks_type tasks;
    for (const char* name : {"a", "b", "c"})
        tasks.push_back(asyncio::create_task(consume, {.name = name}));
    tasks.push_back(asyncio::create_task(produce, {.name = "producer"}));
    co_await all_end(std::move(tasks));
}

SWEEP("a barrier over two rounds; who is hit breaks it for the others",
      .needed = {"a", "b", "c"}) { // one that has not begun cannot break it
    const probe here;
    auto& gate = set.make<asyncio::barrier>(3);
    auto& rounds = set.make<std::array<int, 3>>();
    set.at_end([&](bool closed) {
        if (!closed) set.require(gate.n_waiting() == 0, "somebody waits at the barrier");
    });
    const auto party = [&](std::size_t number) -> asyncio::coro<> {
        const probe inside;
        bool hit = false;
        try {
            for (int round = 0; round < 2; ++round) {
                const std::size_t place = co_await gate.wait();
                set.require(place < 3, "a place is none");
                ++rounds[number];
                for (const int other : rounds)
                    set.require(std::abs(other - rounds[number]) <= 1, "rounds mix");
            }
        } catch (const asyncio::broken_barrier_error&) {
            set.require(gate.broken(), "the barrier is not broken");
        } catch (const asyncio::cancelled_error&) {
            hit = true;
        }
        if (!hit) co_return;
        co_await gate.abort();
        throw asyncio::cancelled_error();
    };
    tasks_type tasks;
    std::size_t number = 0;
    for (const char* name : {"a", "b", "c"})
        tasks.push_back(asyncio::create_task(party(number++), {.name = name}));
    co_await all_end(std::move(tasks));
}

SWEEP("a barrier that is reset while it fills", .needed = {"a", "b"}) {
    const probe here;
    auto& gate = set.make<asyncio::barrier>(3);
    const auto party = [&]() -> asyncio::coro<> {
        const probe inside;
        try {
            co_await gate.wait();
            set.require(false, "a round of three filled with two");
        } catch (const asyncio::broken_barrier_error&) {
            // Sent away.
        }
    };
    tasks_type tasks;
    for (const char* name : {"a", "b"})
        tasks.push_back(asyncio::create_task(party, {.name = name}));
    const at_exit end([&] {
        for (const auto& task : tasks) task.cancel();
    });
    co_await asyncio::sleep(1s);
    co_await gate.reset();
    co_await all_end(tasks);
    set.require(!gate.broken() && gate.n_waiting() == 0, "the barrier is not as new");
}

} // TEST_SUITE

TEST_SUITE("sweeps: queues") {

namespace {

struct ledger {
    std::vector<int> put;
    std::vector<int> taken;
};

// Items 1 to 5 from a producer to two consumers.
template <class Queue>
asyncio::coro<> hand_over(stage& set, Queue& queue) {
    const probe here;
    auto& book = set.make<ledger>();
    set.at_end([&](bool closed) {
        if (closed) return;
        std::vector<int> seen = book.taken;
        while (!queue.empty()) seen.push_back(queue.get_nowait());
        std::vector<int> given = book.put;
        std::sort(seen.begin(), seen.end());
        std::sort(given.begin(), given.end());
        set.require(seen == given, "an item is lost, or came twice");
    });
    const auto produce = [&]() -> asyncio::coro<> {
        const probe inside;
        const at_exit end([&] { queue.shutdown(); });
        for (int item = 1; item <= 5; ++item) {
            co_await queue.put(item);
            book.put.push_back(item);
            if (item == 3) co_await asyncio::sleep(1s);
        }
    };
    const auto consume = [&]() -> asyncio::coro<> {
        const probe inside;
        while (const auto item = co_await queue.next()) {
            book.taken.push_back(*item);
            const at_exit done([&] { queue.task_done(); });
            co_await asyncio::sleep(0s);
        }
    };
    tasks_type tasks;
    tasks.push_back(asyncio::create_task(consume, {.name = "first"}));
    tasks.push_back(asyncio::create_task(produce, {.name = "producer", .eager_start = true}));
    tasks.push_back(asyncio::create_task(consume, {.name = "second"}));
    co_await all_end(std::move(tasks));
    set.require(queue.empty() || book.taken.size() < 5, "an item stays in the queue");
    const std::size_t left = queue.qsize();
    for (std::size_t i = 0; i < left; ++i) {
        book.taken.push_back(queue.get_nowait());
        queue.task_done();
    }
    co_await queue.join();
}

} // namespace

SWEEP("a bounded queue between a producer and two consumers") {
    co_await hand_over(set, set.make<asyncio::queue<int>>(1));
}

SWEEP("an unbounded queue between them") {
    co_await hand_over(set, set.make<asyncio::queue<int>>());
}

SWEEP("a priority_queue between them") {
    co_await hand_over(set, set.make<asyncio::priority_queue<int>>(2));
}

SWEEP("a lifo_queue between them") {
    co_await hand_over(set, set.make<asyncio::lifo_queue<int>>(2));
}

// A worker that is hit has done its item, and the other one does the rest.
SWEEP("tasks that wait in join() beside workers") {
    const probe here;
    auto& queue = set.make<asyncio::queue<int>>();
    auto& done = set.make<int>(0);
    const auto work = [&]() -> asyncio::coro<> {
        const probe inside;
        while (const auto item = co_await queue.next()) {
            const at_exit end([&] {
                ++done;
                queue.task_done();
            });
            co_await asyncio::sleep(*item % 2 == 0 ? 0s : 1s);
        }
    };
    const auto join = [&]() -> asyncio::coro<> {
        const probe inside;
        set.require(done < 4, "the items are done before join() waits");
        co_await queue.join();
        set.require(done == 4, "join() did not wait for all items");
    };
    for (int item = 1; item <= 4; ++item) queue.put_nowait(item);
    queue.shutdown();
    tasks_type tasks;
    tasks.push_back(asyncio::create_task(work, {.name = "first"}));
    tasks.push_back(asyncio::create_task(join, {.name = "joiner", .eager_start = true}));
    tasks.push_back(asyncio::create_task(work, {.name = "second"}));
    tasks.push_back(asyncio::create_task(join, {.name = "joiner"}));
    co_await all_end(std::move(tasks));
}

SWEEP("getters and putters whose items and slots others take in between") {
    const probe here;
    auto& queue = set.make<asyncio::queue<int>>(1);
    auto& book = set.make<ledger>();
    set.at_end([&](bool closed) {
        if (closed) return;
        while (!queue.empty()) book.taken.push_back(queue.get_nowait());
        std::sort(book.taken.begin(), book.taken.end());
        std::sort(book.put.begin(), book.put.end());
        set.require(book.taken == book.put, "an item is lost, or came twice");
    });
    const auto get = [&]() -> asyncio::coro<> {
        const probe inside;
        try {
            const int item = co_await queue.get();
            book.taken.push_back(item);
        } catch (const asyncio::queue_shut_down&) {
            // Too late.
        }
    };
    const auto put = [&](int item) -> asyncio::coro<> {
        const probe inside;
        try {
            co_await queue.put(item);
            book.put.push_back(item);
        } catch (const asyncio::queue_shut_down&) {
            // Too late.
        }
    };
    const auto meddle = [&]() -> asyncio::coro<> {
        const probe inside;
        const at_exit end([&] { queue.shutdown(); });
        for (int i = 0; i < 6; ++i) {
            if (!queue.full()) {
                queue.put_nowait(100 + i);
                book.put.push_back(100 + i);
            }
            if (i % 2 == 0 && !queue.empty()) book.taken.push_back(queue.get_nowait());
            co_await asyncio::sleep(i == 3 ? 1s : 0s);
        }
    };
    tasks_type tasks;
    tasks.push_back(asyncio::create_task(get, {.name = "get"}));
    tasks.push_back(asyncio::create_task(put(1), {.name = "put 1"}));
    tasks.push_back(asyncio::create_task(put(2), {.name = "put 2"}));
    tasks.push_back(asyncio::create_task(meddle, {.name = "meddler", .eager_start = true}));
    tasks.push_back(asyncio::create_task(get, {.name = "get"}));
    tasks.push_back(asyncio::create_task(get, {.name = "get"}));
    co_await all_end(std::move(tasks));
}

} // TEST_SUITE

TEST_SUITE("sweeps: several at once") {

SWEEP("gather: results in the order of the arguments") {
    const probe here;
    const auto [a, b, c] =
        co_await asyncio::gather(value_after(2s, 1), value_after(0s, 2), value_after(1s, 3));
    set.require(a == 1 && b == 2 && c == 3, "a value is wrong");
}

SWEEP("gather: one fails, the others run on") {
    const probe here;
    int& cleanups = set.make<int>(0);
    const auto slow = asyncio::create_task(slow_to_end(2s, cleanups), {.name = "slow"});
    std::string error;
    try {
        co_await asyncio::gather(slow, fail_after(1s), value_after(500ms, 1));
    } catch (const std::runtime_error& e) {
        error = e.what();
    }
    set.require(error == "no luck", "the error is another one");
    co_await slow;
    set.require(cleanups == 1, "the other child did not run on");
}

SWEEP("gather: outcomes of one that fails, one that is cancelled and one that is slow to end") {
    const probe here;
    int& cleanups = set.make<int>(0);
    const auto slow = asyncio::create_task(slow_to_end(2s, cleanups), {.name = "slow"});
    const auto victim = asyncio::create_task(value_after(5s, 1), {.name = "cancelled"});
    const auto later = asyncio::get_running_loop().call_later(1s, [victim] { victim.cancel(); });
    const cancel_at_exit forget(later);
    const auto outcomes =
        co_await asyncio::gather(asyncio::return_exceptions, victim, slow, fail_after(1s));
    set.require(!std::get<0>(outcomes).has_value() || victim.done(), "gather() ended too early");
    set.require(slow.done(), "gather() ended before its slow child");
}

SWEEP("gather of gathers") {
    const probe here;
    const auto result = co_await asyncio::gather(
        asyncio::gather(value_after(1s, 1), value_after(2s, 2)),
        asyncio::gather(asyncio::return_exceptions, value_after(0s, 3), fail_after(1s)));
    set.require(std::get<0>(result)[1] == 2 && !std::get<1>(result)[1].has_value(),
                "a value is wrong");
}

SWEEP("wait: the first, the first error, all, and a limit of time") {
    const probe here;
    set.expects_reports = true; // of the task that fails when nobody waits for it any more
    int& cleanups = set.make<int>(0);
    std::vector<asyncio::task<int>> tasks;
    tasks.push_back(asyncio::create_task(value_after(1s, 1), {.name = "one"}));
    tasks.push_back(asyncio::create_task(fail_after(2s), {.name = "two"}));
    tasks.push_back(asyncio::create_task(value_after(3s, 3), {.name = "three"}));
    const auto other = asyncio::create_task(slow_to_end(1h, cleanups), {.name = "other"});
    const at_exit end([&] { other.cancel(); });
    auto result =
        co_await asyncio::wait(tasks, {.return_when = asyncio::return_when::first_completed});
    set.require(!result.done.empty(), "nobody is done");
    result = co_await asyncio::wait(tasks, {.return_when = asyncio::return_when::first_exception});
    result = co_await asyncio::wait(tasks, {.timeout = 10s});
    set.require(result.pending.empty(), "somebody is not done");
    const auto mixed = co_await asyncio::wait(other, tasks[0], {.timeout = 1s});
    set.require(mixed.done.size() + mixed.pending.size() == 2, "one of two is missing");
    for (const auto& task : tasks)
        if (!task.cancelled()) static_cast<void>(task.exception());
}

SWEEP("as_completed: each once, in the order of their ends") {
    const probe here;
    std::vector<asyncio::task<int>> tasks;
    for (int i = 3; i >= 1; --i)
        tasks.push_back(asyncio::create_task(value_after(std::chrono::seconds(i), i),
                                             {.name = std::to_string(i)}));
    auto ends = asyncio::as_completed(tasks);
    std::set<int> seen;
    int cancelled = 0;
    while (const auto task = co_await ends.next()) {
        if (task->cancelled()) ++cancelled;
        else seen.insert(task->result());
    }
    set.require(seen.size() + static_cast<std::size_t>(cancelled) == 3, "one is missing");
}

SWEEP("as_completed: with a limit of time that passes") {
    const probe here;
    const auto quick = asyncio::create_task(value_after(1s, 1), {.name = "quick"});
    const auto slow = asyncio::create_task(value_after(3s, 2), {.name = "slow"});
    std::vector<asyncio::task<int>> tasks{quick, slow};
    bool late = false;
    try {
        auto ends = asyncio::as_completed(tasks, {.timeout = 2s});
        while (const auto task = co_await ends.next()) continue;
    } catch (const asyncio::timeout_error&) {
        late = true;
    }
    set.require(late || slow.done(), "neither a limit nor an end");
    co_await asyncio::wait(tasks);
}

SWEEP("shield: what is inside runs on") {
    const probe here;
    int& cleanups = set.make<int>(0);
    const auto inner = asyncio::create_task(slow_to_end(1s, cleanups), {.name = "inner"});
    set.at_end([&, inner](bool closed) {
        if (!closed && !inner.cancelled())
            set.require(cleanups == 1, "what was shielded did not come to its end");
    });
    co_await asyncio::shield(inner);
}

SWEEP("shield around a coroutine, within a limit of time") {
    const probe here;
    int& cleanups = set.make<int>(0);
    bool late = false;
    try {
        co_await asyncio::wait_for(asyncio::shield(slow_to_end(2s, cleanups)), 1s);
    } catch (const asyncio::timeout_error&) {
        late = true;
    }
    set.require(late, "the limit did not pass");
    co_await asyncio::sleep(5s);
}

SWEEP("a task group: errors, a child of a child, and one that is slow to end") {
    const probe here;
    int& cleanups = set.make<int>(0);
    auto& begun = set.make<std::vector<asyncio::any_task>>();
    const auto parent = [&](asyncio::task_group& tg) -> asyncio::coro<> {
        const probe inside;
        co_await asyncio::sleep(500ms);
        begun.push_back(tg.create_task(slow_to_end(1h, cleanups), {.name = "grandchild"}));
    };
    set.at_end([&](bool) { begun.clear(); });
    bool failed = false;
    try {
        co_await asyncio::with(
            asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<> {
                const probe inside;
                begun.push_back(tg.create_task(slow_to_end(1h, cleanups), {.name = "slow"}));
                begun.push_back(tg.create_task(parent(tg), {.name = "parent"}));
                begun.push_back(tg.create_task(fail_after(2s), {.name = "failing"}));
                co_await asyncio::sleep(1s);
            });
    } catch (const asyncio::exception_group& group) {
        failed = group.exceptions().size() == 1;
    }
    for (const asyncio::any_task& task : begun)
        set.require(task.done(), "a child outlived its group");
    set.require(failed || begun[2].cancelled(), "the error is not in the group");
}

SWEEP("a task group that is ended with cancel()") {
    const probe here;
    int& cleanups = set.make<int>(0);
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) -> asyncio::coro<> {
        const probe inside;
        tg.create_task(slow_to_end(1h, cleanups), {.name = "one"});
        tg.create_task(slow_to_end(1h, cleanups), {.name = "two"});
        co_await asyncio::sleep(1s);
        tg.cancel();
        co_await asyncio::sleep(1h);
    });
    set.require(asyncio::elapsed() < 10s, "the group was not cancelled");
}

} // TEST_SUITE

TEST_SUITE("sweeps: limits of time") {

SWEEP("a timeout that passes, one that does not, and one within the other") {
    const probe here;
    bool late = false;
    try {
        co_await asyncio::with(asyncio::timeout(1s),
                               []() -> asyncio::coro<> { co_await asyncio::sleep(1h); });
    } catch (const asyncio::timeout_error&) {
        late = true;
    }
    set.require(late, "the limit did not pass");
    late = false;
    co_await asyncio::with(asyncio::timeout(10s), [&]() -> asyncio::coro<> {
        try {
            co_await asyncio::with(asyncio::timeout(1s),
                                   []() -> asyncio::coro<> { co_await asyncio::sleep(1h); });
        } catch (const asyncio::timeout_error&) {
            late = true;
        }
        co_await asyncio::sleep(1s);
    });
    set.require(late, "the inner limit did not pass");
}

SWEEP("a timeout that is moved, twice, and passes in the end") {
    const probe here;
    bool late = false;
    try {
        co_await asyncio::with(asyncio::timeout(1s), [](asyncio::timeout& t) -> asyncio::coro<> {
            t.reschedule(*t.when() + asyncio::duration(5s));
            co_await asyncio::sleep(2s);
            t.reschedule(std::nullopt);
            co_await asyncio::sleep(10s);
            t.reschedule(asyncio::get_running_loop().time());
            co_await asyncio::sleep(1h);
        });
    } catch (const asyncio::timeout_error&) {
        late = true;
    }
    set.require(late, "the limit did not pass");
}

SWEEP("wait_for: in time, too late, and work that is slow to end") {
    const probe here;
    int& cleanups = set.make<int>(0);
    const int value = co_await asyncio::wait_for(value_after(1s, 1), 2s);
    set.require(value == 1, "a value is wrong");
    const auto slow = asyncio::create_task(slow_to_end(1h, cleanups), {.name = "slow"});
    int late = 0;
    try {
        co_await asyncio::wait_for(slow, 1s);
    } catch (const asyncio::timeout_error&) {
        ++late;
    }
    set.require(slow.done(), "wait_for() came back before its work had ended");
    const auto other = asyncio::create_task(slow_to_end(1h, cleanups), {.name = "other"});
    co_await asyncio::sleep(0s);
    try {
        co_await asyncio::wait_for(other, 0s);
    } catch (const asyncio::timeout_error&) {
        ++late;
    }
    set.require(late == 2, "a limit did not pass");
}

} // TEST_SUITE

TEST_SUITE("sweeps: blocks of code") {

namespace {

// A manager that needs time for both ends.
struct session {
    int* open;
    asyncio::coro<int> aenter() {
        const probe inside;
        co_await asyncio::sleep(1s);
        ++*open;
        co_return 7;
    }
    asyncio::coro<bool> aexit(std::exception_ptr) {
        const probe inside;
        --*open; // first: a second cancellation may come in the pause
        co_await asyncio::sleep(1s);
        co_return false;
    }
};

} // namespace

SWEEP("with: what was entered is left") {
    const probe here;
    int& open = set.make<int>(0);
    set.at_end([&](bool closed) {
        if (!closed) set.require(open == 0, "entered and left differ");
    });
    const int result =
        co_await asyncio::with(session{&open}, [&](int& given) -> asyncio::coro<int> {
            const probe inside;
            co_await asyncio::sleep(1s);
            co_return given;
        });
    set.require(result == 7, "a value is wrong");
    bool failed = false;
    session kept{&open};
    try {
        co_await asyncio::with(kept, [](int&) -> asyncio::coro<> {
            co_await asyncio::sleep(1s);
            throw std::runtime_error("no luck");
        });
    } catch (const std::runtime_error&) {
        failed = true;
    }
    set.require(failed, "the error of the body is lost");
}

SWEEP("finally: the cleanup begins however the body ended") {
    const probe here;
    struct counts {
        int bodies = 0;
        int cleanups = 0;
    };
    auto& seen = set.make<counts>();
    set.at_end([&](bool closed) {
        if (!closed) set.require(seen.bodies == seen.cleanups, "a cleanup did not begin");
    });
    const auto body = [&]() -> asyncio::coro<int> {
        const probe inside;
        ++seen.bodies;
        co_await asyncio::sleep(1s);
        co_return 1;
    };
    const auto failing = [&]() -> asyncio::coro<int> {
        const probe inside;
        ++seen.bodies;
        co_await asyncio::sleep(1s);
        throw std::runtime_error("no luck");
    };
    const auto cleanup = [&]() -> asyncio::coro<> {
        const probe inside;
        ++seen.cleanups;
        co_await asyncio::sleep(1s);
    };
    const int one = co_await asyncio::finally(body, cleanup);
    set.require(one == 1, "a value is wrong");
    bool failed = false;
    try {
        co_await asyncio::finally(failing, cleanup);
    } catch (const std::runtime_error&) {
        failed = true;
    }
    set.require(failed, "the error of the body is lost");
}

SWEEP("as_outcome: errors and others' cancellations are results, one's own is not") {
    const probe here;
    const auto failed = co_await asyncio::as_outcome(fail_after(1s));
    set.require(!failed.has_value(), "an error is no outcome");
    const auto other = asyncio::create_task(value_after(1h, 1), {.name = "other"});
    const auto later = asyncio::get_running_loop().call_later(1s, [other] { other.cancel(); });
    const cancel_at_exit forget(later);
    const auto cancelled = co_await asyncio::as_outcome(other);
    set.require(!cancelled.has_value(), "a cancellation is no outcome");
    set.require(asyncio::current_task().cancelling() == 0, "one's own cancellation was swallowed");
}

} // TEST_SUITE

TEST_SUITE("sweeps: generators") {

SWEEP("a generator within a generator, to its end") {
    const probe here;
    int sum = 0;
    auto all = twice_of(3);
    while (const auto value = co_await all.next()) {
        sum += *value;
        co_await asyncio::sleep(1s);
    }
    set.require(sum == 12, "a value is lost");
}

SWEEP("a generator that two tasks consume in turn, and that is closed in the end") {
    const probe here;
    auto& all = set.make<asyncio::async_generator<int>>(twice_of(10));
    auto& turn = set.make<asyncio::lock>();
    int& seen = set.make<int>(0);
    const auto consume = [&]() -> asyncio::coro<> {
        const probe inside;
        for (int i = 0; i < 2; ++i) {
            const auto held = co_await turn.scoped();
            const auto value = co_await all.next();
            if (!value) co_return; // a cancellation of the other one has ended it
            set.require(*value == ++seen * 2, "a value is lost");
        }
    };
    tasks_type tasks;
    for (const char* name : {"a", "b"})
        tasks.push_back(asyncio::create_task(consume, {.name = name}));
    co_await all_end(std::move(tasks));
    co_await all.aclose();
    const auto none = co_await all.next();
    set.require(!none, "a generator that was closed goes on");
}

} // TEST_SUITE

TEST_SUITE("sweeps: other threads, signals") {

SWEEP("to_thread and run_in_executor: values, errors, several at once", .threads = true) {
    const probe here;
    const int one = co_await asyncio::to_thread([] { return 1; });
    bool failed = false;
    try {
        co_await asyncio::run_in_executor(nullptr, [] { throw std::runtime_error("no luck"); });
    } catch (const std::runtime_error&) {
        failed = true;
    }
    set.require(failed, "the job's error is lost");
    const auto [two, three] = co_await asyncio::gather(asyncio::to_thread([] { return 2; }),
                                                       asyncio::to_thread([] { return 3; }));
    set.require(one + two + three == 6, "a value is wrong");
}

SWEEP("a job that runs on when its task is cancelled, and one that waits behind it",
      .threads = true) {
    const probe here;
    struct state {
        support::flag open;
        std::atomic<int> ended{0};
    };
    auto& gate = set.make<state>();
    auto& pool = set.make<asyncio::thread_pool_executor>(1);
    set.at_end([&](bool) {
        pool.shutdown();
        set.require(gate.ended <= 2, "a job ran twice");
    });
    const at_exit end([&] { gate.open.set(); });
    const auto blocked = [&gate] {
        gate.open.wait();
        return ++gate.ended;
    };
    auto running = asyncio::run_in_executor(pool, blocked);
    auto queued = asyncio::run_in_executor(pool, blocked);
    co_await support::turns(3);
    gate.open.set();
    co_await running;
    co_await queued;
    set.require(gate.ended == 2, "a job did not run");
}

SWEEP("a thread that asks the loop for a value, and waits for it", .threads = true,
      .frames_move = true) {
    const probe here;
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const auto ask = [&loop] {
        auto work = [](int value) -> asyncio::coro<int> {
            const probe inside;
            for (int i = 0; i < 3; ++i) co_await asyncio::sleep(0s);
            co_return value;
        };
        try {
            return asyncio::run_coroutine_threadsafe(work(7), loop).result();
        } catch (const asyncio::cancelled_error&) {
            return 7; // the coroutine was hit
        } catch (const std::runtime_error&) {
            return 7; // the loop was closed
        }
    };
    const int value = co_await asyncio::to_thread(ask);
    set.require(value == 7, "a value is wrong");
}

SWEEP("concurrent futures that another thread completes", .threads = true) {
    const probe here;
    const auto good = asyncio::concurrent_future<int>::create();
    const auto bad = asyncio::concurrent_future<int>::create();
    std::thread other([good, bad] {
        if (good.set_running()) good.set_result(1);
        if (bad.set_running()) bad.set_exception(std::runtime_error("no luck"));
    });
    const at_exit end([&] { other.join(); });
    const int one = co_await good;
    bool failed = false;
    try {
        co_await bad;
    } catch (const std::runtime_error&) {
        failed = true;
    }
    set.require(one == 1 && failed, "an outcome is lost");
}

#if !defined(_WIN32)
// What nobody waits for has no effect with this signal.
SWEEP("wait_signal: a signal that comes, and one that does not") {
    const probe here;
    asyncio::event_loop& loop = asyncio::get_running_loop();
    const cancel_at_exit first(loop.call_later(1s, [] { ::raise(SIGWINCH); }));
    const int number = co_await asyncio::wait_signal(SIGWINCH, SIGURG);
    set.require(number == SIGWINCH, "it is another signal");
    bool late = false;
    try {
        co_await asyncio::wait_for(asyncio::wait_signal(SIGWINCH), 1s);
    } catch (const asyncio::timeout_error&) {
        late = true;
    }
    set.require(late, "a signal came that nobody sent");
}
#endif

} // TEST_SUITE

TEST_SUITE("sweeps: streams") {

SWEEP("a server and two clients") {
    const probe here;
    auto server = co_await listen_here(echo);
    std::vector<asyncio::task<int>> clients;
    co_await asyncio::with(server, [&]() -> asyncio::coro<> {
        const probe inside;
        for (const char* name : {"first", "second"})
            clients.push_back(asyncio::create_task(ask_lines(server.port(), 2), {.name = name}));
        co_await asyncio::gather(asyncio::return_exceptions, clients);
    });
    set.require(!server.is_serving(), "the server goes on");
    for (const auto& client : clients)
        set.require(client.cancelled() || client.result() <= 2, "there was an answer too many");
}

SWEEP("a writer that has to wait for its reader") {
    const probe here;
    std::size_t& sent = set.make<std::size_t>(0);
    auto take_all = [&set](asyncio::stream_reader reader,
                           asyncio::stream_writer writer) -> asyncio::coro<> {
        const probe inside;
        std::size_t count = 0;
        for (;;) {
            const std::string part = co_await reader.read(100'000);
            if (part.empty()) break;
            count += part.size();
            co_await asyncio::sleep(1ms);
        }
        set.require(count <= 400'000, "more came than was sent");
        writer.close();
    };
    auto server = co_await listen_here(take_all);
    const auto send_all = [&]() -> asyncio::coro<> {
        const probe inside;
        const std::string part(100'000, 'x');
        try {
            auto [reader, writer] = co_await connect_here(server.port());
            for (int i = 0; i < 4; ++i) {
                writer.write(part);
                co_await writer.drain();
                sent += part.size();
            }
            writer.write_eof();
            const std::string rest = co_await reader.read();
            set.require(rest.empty(), "there was an answer");
        } catch (const std::system_error&) {
            // The server's side was hit.
        }
    };
    co_await asyncio::with(server, [&]() -> asyncio::coro<> {
        const probe inside;
        co_await send_all();
    });
}

SWEEP("serve_forever, ended by a limit of time; clients that come and go") {
    const probe here;
    auto server = co_await listen_here(echo);
    const auto client = asyncio::create_task(ask_lines(server.port(), 1), {.name = "client"});
    bool late = false;
    try {
        co_await asyncio::wait_for(server.serve_forever(), 1s);
    } catch (const asyncio::timeout_error&) {
        late = true;
    }
    set.require(late, "serve_forever() ended by itself");
    set.require(!server.is_serving(), "the server goes on");
    const std::vector<asyncio::task<int>> only{client};
    co_await asyncio::wait(only);
}

} // TEST_SUITE

TEST_SUITE("sweeps: resilience") {

SWEEP("retry: fails twice, then succeeds; and once for good") {
    const probe here;
    int calls = 0;
    const auto call = [&]() -> asyncio::coro<int> {
        const probe inside;
        co_await asyncio::sleep(1s);
        if (++calls < 3) throw std::runtime_error("no luck");
        co_return calls;
    };
    const int value = co_await asyncio::retry(call, {.attempts = 3, .timeout = 5s});
    set.require(value == 3, "a value is wrong");
    const auto never = [&]() -> asyncio::coro<int> {
        const probe inside;
        co_await asyncio::sleep(1h);
        co_return 0;
    };
    bool late = false;
    try {
        co_await asyncio::retry(never, {.attempts = 2, .timeout = 1s});
    } catch (const asyncio::timeout_error&) {
        late = true;
    }
    set.require(late, "the limit did not pass");
}

SWEEP("map: with a limit, to its end and to its first failure") {
    const probe here;
    auto& all = set.make<visitors>();
    set.at_end([&](bool) { set.require(all.most <= 2, "more ran at once than the limit says"); });
    const auto twice = [&](int item) -> asyncio::coro<int> {
        const probe inside;
        const visit counted(all);
        co_await asyncio::sleep(std::chrono::seconds(item));
        co_return item * 2;
    };
    const std::vector<int> items{3, 1, 2};
    const std::vector<int> results = co_await asyncio::map(items, twice, {.limit = 2});
    set.require(results == std::vector<int>{6, 2, 4}, "a value is wrong");
    const auto failing = [&](int item) -> asyncio::coro<int> {
        const probe inside;
        const visit counted(all);
        co_await asyncio::sleep(std::chrono::seconds(item));
        throw std::runtime_error("no luck");
    };
    bool failed = false;
    try {
        co_await asyncio::map(items, failing, {.limit = 2});
    } catch (const std::runtime_error&) {
        failed = true;
    }
    set.require(failed && all.inside == 0, "a call outlived map()");
}

SWEEP("a rate_limiter: turns come at the rate, and none is lost to one who was hit") {
    const probe here;
    auto& limiter =
        set.make<asyncio::rate_limiter>(asyncio::rate_limiter_options{.rate = 1, .per = 1s});
    auto& times = set.make<std::vector<asyncio::duration>>();
    set.at_end([&](bool) {
        for (std::size_t i = 1; i < times.size(); ++i)
            set.require(times[i] - times[i - 1] >= asyncio::duration(1s), "a turn came too early");
        if (!times.empty()) set.require(times.back() < asyncio::duration(6s), "a turn was lost");
    });
    const auto call = [&]() -> asyncio::coro<> {
        const probe inside;
        co_await limiter.acquire();
        times.push_back(asyncio::elapsed());
    };
    tasks_type tasks;
    for (const char* name : {"a", "b", "c"})
        tasks.push_back(asyncio::create_task(call, {.name = name}));
    co_await all_end(std::move(tasks));
}

SWEEP("a circuit_breaker: opens, tries, closes; who is hit does not count") {
    const probe here;
    auto& circuit = set.make<asyncio::circuit_breaker>(
        asyncio::circuit_breaker_options{.failures = 2, .open_for = 5s});
    int& calls = set.make<int>(0);
    const auto call = [&]() -> asyncio::coro<int> {
        const probe inside;
        co_await asyncio::sleep(1s);
        if (++calls <= 2) throw std::runtime_error("no luck");
        co_return calls;
    };
    int refused = 0;
    for (int i = 0; i < 3; ++i) {
        try {
            co_await circuit.call(call);
        } catch (const asyncio::circuit_open_error&) {
            ++refused;
        } catch (const std::runtime_error&) {
            // Counted by the breaker.
        }
    }
    set.require(refused == 1, "it did not open");
    co_await asyncio::sleep(5s);
    // A trial that is cancelled leaves room for another one.
    const auto trial = asyncio::create_task([&circuit, call]() -> asyncio::coro<> {
        const probe inside;
        co_await circuit.call(call);
    });
    co_await asyncio::sleep(500ms);
    trial.cancel();
    const auto ended = co_await asyncio::as_outcome(trial);
    set.require(!ended.has_value(), "the trial was not cancelled");
    const int value = co_await circuit.call(call);
    set.require(value == 3 && circuit.state() == asyncio::circuit_state::closed,
                "it did not close");
}

} // TEST_SUITE

TEST_SUITE("sweeps: all together") {

SWEEP("a timeout in a task group in a shield") {
    const probe here;
    int& cleanups = set.make<int>(0);
    int& groups = set.make<int>(0);
    set.at_end([&](bool closed) {
        if (!closed) set.require(cleanups >= 0 && groups <= 1, "the group ended twice");
    });
    const auto limited = [&]() -> asyncio::coro<> {
        const probe inside;
        bool late = false;
        try {
            co_await asyncio::with(asyncio::timeout(1s), [&]() -> asyncio::coro<> {
                co_await slow_to_end(1h, cleanups);
            });
        } catch (const asyncio::timeout_error&) {
            late = true;
        }
        set.require(late, "the limit did not pass");
    };
    // It outlives main, when that is hit.
    const auto group = [&cleanups, &groups, limited]() -> asyncio::coro<> {
        const probe inside;
        co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
            tg.create_task(limited, {.name = "limited"});
            tg.create_task(slow_to_end(2s, cleanups), {.name = "slow"});
        });
        ++groups;
    };
    const auto inner = asyncio::create_task(group, {.name = "inner"});
    co_await asyncio::shield(inner);
    set.require(groups == 1, "the group did not end");
}

SWEEP("a pipeline: who ends shuts down what is behind it") {
    const probe here;
    auto& raw = set.make<asyncio::queue<int>>(1);
    auto& cooked = set.make<asyncio::queue<int>>(1);
    struct counts {
        std::size_t in = 0;
        std::set<int> out;
        int workers = 0;
    };
    auto& book = set.make<counts>();
    set.at_end([&](bool closed) {
        if (!closed) set.require(book.out.size() <= book.in, "an item came twice");
    });
    const auto produce = [&]() -> asyncio::coro<> {
        const probe inside;
        const at_exit end([&] { raw.shutdown(); });
        for (int item = 1; item <= 4; ++item) {
            co_await raw.put(item);
            ++book.in;
            co_await asyncio::sleep(item == 2 ? 1s : 0s);
        }
    };
    const auto work = [&]() -> asyncio::coro<> {
        const probe inside;
        ++book.workers;
        const at_exit end([&] {
            if (--book.workers > 0) return;
            raw.shutdown(true);
            cooked.shutdown();
        });
        while (auto item = co_await raw.next()) {
            co_await asyncio::sleep(100ms);
            co_await cooked.put(*item * 10);
        }
    };
    const auto consume = [&]() -> asyncio::coro<> {
        const probe inside;
        const at_exit end([&] { cooked.shutdown(true); });
        while (const auto item = co_await cooked.next())
            set.require(book.out.insert(*item).second, "an item came twice");
    };
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
        tg.create_task(produce, {.name = "producer", .eager_start = true});
        tg.create_task(work, {.name = "worker", .eager_start = true});
        tg.create_task(work, {.name = "worker, too", .eager_start = true});
        tg.create_task(consume, {.name = "consumer", .eager_start = true});
    });
}

SWEEP("nested groups that fail at once") {
    const probe here;
    int& cleanups = set.make<int>(0);
    const auto inner = [&]() -> asyncio::coro<> {
        const probe inside;
        co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
            tg.create_task(fail_after(1s), {.name = "inner failing"});
            tg.create_task(slow_to_end(1h, cleanups), {.name = "inner slow"});
        });
    };
    bool failed = false;
    try {
        co_await asyncio::with(asyncio::task_group(),
                               [&](asyncio::task_group& tg) -> asyncio::coro<> {
                                   const probe inside;
                                   tg.create_task(inner, {.name = "inner"});
                                   tg.create_task(fail_after(1s), {.name = "failing"});
                                   tg.create_task(slow_to_end(1h, cleanups), {.name = "slow"});
                                   co_await inner();
                               });
    } catch (const asyncio::exception_group& group) {
        failed = group.contains<std::runtime_error>();
    }
    set.require(failed, "the errors are lost");
    set.require(asyncio::current_task().cancelling() == 0 || set.main_was_hit,
                "a request of the group's is left");
    co_await asyncio::sleep(1s);
}

SWEEP("a bounded buffer of a condition, within a group and a limit of time",
      .needed = {"producer", "consumer"}) {
    const probe here;
    auto& changed = set.make<asyncio::condition>();
    int& filled = set.make<int>(0);
    set.at_end([&](bool) {
        set.require(filled >= 0 && filled <= 1, "the bound was passed");
        set.require(!changed.locked(), "the lock is held by nobody");
    });
    const auto step = [&](int by) -> asyncio::coro<> {
        const probe inside;
        for (int i = 0; i < 3; ++i) {
            const auto held = co_await changed.scoped();
            co_await changed.wait_for([&] { return by > 0 ? filled < 1 : filled > 0; });
            filled += by;
            changed.notify_all();
        }
    };
    co_await asyncio::with(asyncio::timeout(1h), [&]() -> asyncio::coro<> {
        const probe inside;
        co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
            tg.create_task(step(-1), {.name = "consumer"});
            tg.create_task(step(1), {.name = "producer"});
        });
    });
}

SWEEP("calls with a rate, a breaker and second tries, mapped within a limit of time") {
    const probe here;
    auto& limiter = set.make<asyncio::rate_limiter>(
        asyncio::rate_limiter_options{.rate = 10, .per = 1s, .burst = 2});
    auto& circuit = set.make<asyncio::circuit_breaker>();
    int& calls = set.make<int>(0);
    const auto one = [&](int item) -> asyncio::coro<int> {
        const probe inside;
        const auto call = [&]() -> asyncio::coro<int> {
            const probe within;
            co_await limiter.acquire();
            const auto request = [&]() -> asyncio::coro<int> {
                const probe innermost;
                co_await asyncio::sleep(1s);
                if (++calls % 2 == 0) throw std::runtime_error("no luck");
                co_return item;
            };
            co_return co_await circuit.call(request);
        };
        co_return co_await asyncio::retry(call, {.attempts = 5, .initial_delay = 100ms});
    };
    const auto all = [&]() -> asyncio::coro<int> {
        const probe inside;
        const std::vector<int> items{1, 2, 3};
        const std::vector<int> results = co_await asyncio::map(items, one, {.limit = 2});
        int sum = 0;
        for (const int result : results) sum += result;
        co_return sum;
    };
    const int sum = co_await asyncio::wait_for(all(), 1h);
    set.require(sum == 6, "a value is wrong");
    set.require(asyncio::all_tasks().size() == 1, "a call outlived map()");
}

SWEEP("a generator that feeds a queue, in a group that somebody ends") {
    const probe here;
    auto& queue = set.make<asyncio::queue<int>>(2);
    int& seen = set.make<int>(0);
    const auto feed = [&]() -> asyncio::coro<> {
        const probe inside;
        const at_exit end([&] { queue.shutdown(); });
        auto all = twice_of(100);
        while (const auto value = co_await all.next()) co_await queue.put(*value);
    };
    const auto consume = [&](asyncio::task_group& tg) -> asyncio::coro<> {
        const probe inside;
        const at_exit end([&] { queue.shutdown(true); });
        while (const auto value = co_await queue.next()) {
            set.require(*value == ++seen * 2, "an item is lost");
            if (seen == 4) tg.cancel();
        }
    };
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& tg) {
        tg.create_task(feed, {.name = "feeder", .eager_start = true});
        tg.create_task(consume(tg), {.name = "consumer", .eager_start = true});
    });
    set.require(seen <= 5, "the group went on");
}

SWEEP("a server whose clients are served by jobs on threads", .threads = true) {
    const probe here;
    auto serve = [](asyncio::stream_reader reader,
                    asyncio::stream_writer writer) -> asyncio::coro<> {
        const probe inside;
        try {
            const std::string line = co_await reader.readline();
            if (line.empty()) co_return;
            const auto count = [line] { return std::to_string(line.size()) + "\n"; };
            const std::string answer = co_await asyncio::to_thread(count);
            writer.write(answer);
            co_await writer.drain();
        } catch (const std::system_error&) {
            // The client has gone.
        }
    };
    auto server = co_await listen_here(serve);
    int answers = 0;
    co_await asyncio::with(server, [&]() -> asyncio::coro<> {
        const probe inside;
        const auto client = asyncio::create_task(ask_lines(server.port(), 1), {.name = "client"});
        const auto outcome = co_await asyncio::as_outcome(client);
        if (outcome.has_value()) answers = *outcome;
    });
    set.require(answers <= 1, "there was an answer too many");
}

} // TEST_SUITE
