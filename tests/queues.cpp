#include "support.hpp"

#include <algorithm>
#include <cstdint>
#include <deque>
#include <iterator>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <stdexcept>
#include <type_traits>
#include <utility>

namespace {

using log_type = std::vector<std::string>;

// Takes an item and logs "NAME ITEM", or why there was none.
template <class Queue>
asyncio::coro<> take(Queue& queue, std::string name, log_type& log) {
    const auto item = co_await support::catching(queue.get());
    const bool shut_down = support::holds<asyncio::queue_shut_down>(item.error);
    if (item.value) log.push_back(name + " " + std::to_string(*item.value));
    else log.push_back(name + (shut_down ? " shut down" : " cancelled"));
    if (item.error && !shut_down) co_await support::fail_with(item.error);
}

template <class Queue>
asyncio::coro<> give(Queue& queue, int item, log_type& log) {
    const std::string name = std::to_string(item);
    const auto put = co_await support::catching(queue.put(item));
    const bool shut_down = support::holds<asyncio::queue_shut_down>(put.error);
    if (put.value) log.push_back(name);
    else log.push_back(name + (shut_down ? " shut down" : " cancelled"));
    if (put.error && !shut_down) co_await support::fail_with(put.error);
}

template <class Queue>
std::vector<int> drained(Queue& queue) {
    std::vector<int> items;
    while (!queue.empty()) items.push_back(queue.get_nowait());
    return items;
}

// True once a callback that is put into the ready queue now has run.
class turn_marker {
public:
    turn_marker() {
        asyncio::get_running_loop().call_soon([flag = passed_] { *flag = true; });
    }
    bool passed() const { return *passed_; }

private:
    std::shared_ptr<bool> passed_ = std::make_shared<bool>(false);
};

// The same numbers on every machine.
class random_source {
public:
    explicit random_source(std::uint32_t seed) : engine_(seed) {}
    std::uint32_t below(std::uint32_t limit) {
        return static_cast<std::uint32_t>(engine_()) % limit;
    }
    asyncio::duration delay() { return std::chrono::milliseconds(below(4)); }

private:
    std::mt19937 engine_;
};

#if !defined(ASYNCIO_NO_EXCEPTIONS)
// Puts another one where it was when it goes.
class last_word {
public:
    last_word(asyncio::queue<last_word>* home, int& refused) : home_(home), refused_(&refused) {}
    last_word(last_word&& other) noexcept
        : home_(std::exchange(other.home_, nullptr)), refused_(other.refused_) {}
    last_word& operator=(last_word&& other) noexcept {
        std::swap(home_, other.home_);
        return *this;
    }
    ~last_word() {
        if (!home_) return;
        try {
            home_->put_nowait(last_word(nullptr, *refused_));
        } catch (const asyncio::queue_shut_down&) {
            ++*refused_;
        }
    }

private:
    asyncio::queue<last_word>* home_;
    int* refused_;
};
#endif

// Counts how many of it exist.
class counted {
public:
    explicit counted(int& alive) : alive_(&alive) { ++*alive_; }
    counted(counted&& other) noexcept : alive_(std::exchange(other.alive_, nullptr)) {}
    counted& operator=(counted&& other) noexcept {
        std::swap(alive_, other.alive_);
        return *this;
    }
    ~counted() {
        if (alive_ != nullptr) --*alive_;
    }

private:
    int* alive_;
};

} // namespace

TEST_SUITE("queue") {

ASYNC_TEST_CASE("QU-01: a queue gives its items in the order in which they were put") {
    asyncio::queue<int> queue;
    for (const int item : {3, 1, 2}) co_await queue.put(item);
    for (const int item : {3, 1, 2}) {
        const int got = co_await queue.get();
        CHECK(got == item);
    }
}

ASYNC_TEST_CASE("QU-01: a lifo_queue gives the last one first") {
    asyncio::lifo_queue<int> queue;
    for (const int item : {3, 1, 2}) co_await queue.put(item);
    for (const int item : {2, 1, 3}) {
        const int got = co_await queue.get();
        CHECK(got == item);
    }
}

ASYNC_TEST_CASE("QU-01: a priority_queue gives the smallest one first, by its own measure too") {
    asyncio::priority_queue<int> queue;
    asyncio::priority_queue<std::string, std::greater<std::string>> names;
    for (const int item : {3, 1, 2, 1}) queue.put_nowait(item);
    for (const char* name : {"b", "c", "a"}) co_await names.put(name);
    CHECK(drained(queue) == std::vector<int>{1, 1, 2, 3});
    for (const char* name : {"c", "b", "a"}) {
        const std::string got = co_await names.get();
        CHECK(got == name);
    }
}

bool larger(int a, int b) { return a > b; }

ASYNC_TEST_CASE("a priority_queue compares by what it is given, which may have a state") {
    const std::vector<int> weights{30, 10, 20};
    const auto lighter = [&](std::size_t a, std::size_t b) { return weights[a] < weights[b]; };
    asyncio::priority_queue<std::size_t, decltype(lighter)> by_weight(0, lighter);
    for (std::size_t i = 0; i < 3; ++i) by_weight.put_nowait(i);
    CHECK(by_weight.get_nowait() == 1);
    by_weight.shutdown(true);
    CHECK(by_weight.empty());

    asyncio::priority_queue<int, bool (*)(int, int)> by_function(3, larger);
    for (int i = 0; i < 3; ++i) by_function.put_nowait(i);
    CHECK(by_function.full());
    const int first = co_await by_function.get();
    CHECK(first == 2);
}

ASYNC_TEST_CASE("items need not be assignable") {
    struct unchanging {
        explicit unchanging(int n) : number(n) {}
        const int number;
    };
    asyncio::queue<unchanging> queue;
    for (int i = 0; i < 20; ++i) queue.put_nowait(unchanging(i));
    for (int i = 0; i < 20; ++i) {
        const unchanging item = co_await queue.get();
        CHECK(item.number == i);
    }
}

ASYNC_TEST_CASE("QU-01: many items keep their order while some are taken in between") {
    asyncio::queue<int> queue;
    int put = 0;
    int got = 0;
    for (int round = 0; round < 200; ++round) {
        for (int i = 0; i < round % 13; ++i) queue.put_nowait(put++);
        for (int i = 0; i < round % 11 && got < put; ++i) CHECK(queue.get_nowait() == got++);
    }
    while (got < put) {
        const int item = co_await queue.get();
        CHECK(item == got++);
    }
    CHECK(queue.empty());
}

ASYNC_TEST_CASE("QU-02: without a positive maxsize a queue is never full") {
    for (const int bound : {0, -1}) {
        asyncio::queue<int> queue(bound);
        CHECK(queue.maxsize() == 0);
        const turn_marker turn;
        for (int i = 0; i < 1000; ++i) co_await queue.put(i);
        CHECK_FALSE(turn.passed());
        CHECK_FALSE(queue.full());
        CHECK(queue.qsize() == 1000);
    }
}

ASYNC_TEST_CASE("QU-02: put waits while the queue is full, and put_nowait throws queue_full") {
    asyncio::queue<int> queue(2);
    log_type log;
    const turn_marker turn;
    co_await queue.put(1);
    co_await queue.put(2);
    CHECK_FALSE(turn.passed());
    CHECK(queue.full());
    CHECK_THROWS_AS(queue.put_nowait(3), asyncio::queue_full);
    auto putter = asyncio::create_task(give(queue, 4, log));
    co_await asyncio::sleep(1h);
    CHECK(log.empty());
    CHECK(queue.get_nowait() == 1);
    co_await putter;
    CHECK(drained(queue) == std::vector<int>{2, 4});
}

ASYNC_TEST_CASE("QU-03: get waits while the queue is empty, and get_nowait throws queue_empty") {
    asyncio::queue<int> queue;
    log_type log;
    CHECK_THROWS_AS(queue.get_nowait(), asyncio::queue_empty);
    auto getter = asyncio::create_task(take(queue, "a", log));
    co_await asyncio::sleep(1h);
    CHECK(log.empty());
    queue.put_nowait(5);
    co_await getter;
    CHECK(log == log_type{"a 5"});
    queue.put_nowait(6);
    const turn_marker turn;
    const int item = co_await queue.get();
    CHECK(item == 6);
    CHECK_FALSE(turn.passed());
}

ASYNC_TEST_CASE_ORDERED("QU-04: getters are served in the order in which they came") {
    asyncio::queue<int> queue;
    log_type log;
    std::vector<asyncio::task<>> tasks;
    for (const char* name : {"a", "b", "c"})
        tasks.push_back(asyncio::create_task(take(queue, name, log)));
    co_await support::turns(2);
    for (const int item : {1, 2, 3}) co_await queue.put(item);
    co_await asyncio::wait(tasks);
    CHECK(log == log_type{"a 1", "b 2", "c 3"});
}

ASYNC_TEST_CASE_ORDERED("QU-04: putters proceed in the order in which they came") {
    asyncio::queue<int> queue(1);
    log_type log;
    queue.put_nowait(0);
    std::vector<asyncio::task<>> tasks;
    for (const int item : {1, 2, 3}) tasks.push_back(asyncio::create_task(give(queue, item, log)));
    co_await support::turns(2);
    for (const int item : {0, 1, 2, 3}) {
        const int got = co_await queue.get();
        CHECK(got == item);
    }
    co_await asyncio::wait(tasks);
    CHECK(log == log_type{"1", "2", "3"});
}

ASYNC_TEST_CASE("QU-04: a newcomer does not overtake a getter that was woken, nor a putter") {
    asyncio::queue<int> queue(1);
    log_type log;
    auto getter = asyncio::create_task(take(queue, "first", log));
    co_await support::turns(2);
    queue.put_nowait(1);
    auto late = asyncio::create_task(take(queue, "second", log), {.eager_start = true});
    CHECK_FALSE(late.done());
    co_await getter;
    CHECK(log == log_type{"first 1"});
    queue.put_nowait(2);
    co_await late;
    CHECK(log == log_type{"first 1", "second 2"});

    log.clear();
    queue.put_nowait(0);
    auto putter = asyncio::create_task(give(queue, 1, log));
    co_await support::turns(2);
    CHECK(queue.get_nowait() == 0);
    auto behind = asyncio::create_task(give(queue, 2, log), {.eager_start = true});
    CHECK_FALSE(behind.done());
    co_await putter;
    CHECK(queue.get_nowait() == 1);
    co_await behind;
    CHECK(queue.get_nowait() == 2);
}

ASYNC_TEST_CASE("QU-05: a cancelled getter leaves the line; the item goes to the next, or stays") {
    asyncio::queue<int> queue;
    log_type log;
    auto a = asyncio::create_task(take(queue, "a", log));
    auto b = asyncio::create_task(take(queue, "b", log));
    co_await support::turns(2);
    a.cancel();
    CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
    queue.put_nowait(1);
    co_await b;
    CHECK(log == log_type{"a cancelled", "b 1"});

    auto c = asyncio::create_task(take(queue, "c", log));
    co_await support::turns(2);
    c.cancel();
    CHECK_AWAIT_THROWS_AS(c, asyncio::cancelled_error);
    queue.put_nowait(2);
    co_await support::turns(2);
    CHECK(queue.get_nowait() == 2);
}

ASYNC_TEST_CASE_ORDERED(
    "QU-06: the item of a getter that is cancelled before it runs is the next one's") {
    asyncio::queue<int> queue;
    log_type log;
    auto a = asyncio::create_task(take(queue, "a", log));
    auto b = asyncio::create_task(take(queue, "b", log));
    co_await support::turns(2);
    queue.put_nowait(1);
    a.cancel();
    co_await b;
    CHECK(a.cancelled());
    CHECK(log == log_type{"a cancelled", "b 1"});
}

ASYNC_TEST_CASE("QU-06: without another getter it stays where it was in the queue") {
    asyncio::queue<int> queue;
    log_type log;
    auto a = asyncio::create_task(take(queue, "a", log));
    co_await support::turns(2);
    queue.put_nowait(1);
    queue.put_nowait(2);
    a.cancel();
    CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
    CHECK(queue.qsize() == 2);
    const turn_marker turn;
    const int first = co_await queue.get();
    CHECK(first == 1);
    CHECK_FALSE(turn.passed());
    CHECK(queue.get_nowait() == 2);
}

ASYNC_TEST_CASE_ORDERED(
    "QU-07: the slot of a putter that is cancelled before it runs is the next one's") {
    asyncio::queue<int> queue(1);
    log_type log;
    queue.put_nowait(0);
    auto a = asyncio::create_task(give(queue, 1, log));
    auto b = asyncio::create_task(give(queue, 2, log));
    co_await support::turns(2);
    CHECK(queue.get_nowait() == 0);
    a.cancel();
    co_await b;
    CHECK(a.cancelled());
    CHECK(log == log_type{"1 cancelled", "2"});
    CHECK(drained(queue) == std::vector<int>{2});
}

ASYNC_TEST_CASE("QU-07: without another putter the slot is free") {
    asyncio::queue<int> queue(1);
    log_type log;
    queue.put_nowait(0);
    auto a = asyncio::create_task(give(queue, 1, log));
    co_await support::turns(2);
    CHECK(queue.get_nowait() == 0);
    a.cancel();
    CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
    CHECK(queue.empty());
    const turn_marker turn;
    co_await queue.put(2);
    CHECK_FALSE(turn.passed());
}

ASYNC_TEST_CASE("QU-08: task_done more often than put throws") {
    asyncio::queue<int> queue;
    CHECK_THROWS_AS(queue.task_done(), std::invalid_argument);
    queue.put_nowait(1);
    queue.get_nowait();
    queue.task_done();
    CHECK_THROWS_AS(queue.task_done(), std::invalid_argument);
    co_await queue.join();
}

ASYNC_TEST_CASE("QU-09: join returns at once when nothing is unfinished") {
    asyncio::queue<int> queue;
    const turn_marker turn;
    co_await queue.join();
    CHECK_FALSE(turn.passed());
}

ASYNC_TEST_CASE("QU-09: join waits for every item, those put meanwhile included") {
    asyncio::queue<int> queue;
    queue.put_nowait(1);
    queue.put_nowait(2);
    auto joining = asyncio::create_task(queue.join());
    queue.get_nowait();
    queue.task_done();
    co_await support::turns(3);
    CHECK_FALSE(joining.done());
    queue.put_nowait(3);
    queue.get_nowait();
    queue.task_done();
    co_await support::turns(3);
    CHECK_FALSE(joining.done()); // item 3
    queue.get_nowait();
    co_await support::turns(3);
    CHECK_FALSE(joining.done()); // taken, but not done
    queue.task_done();
    co_await joining;

    queue.put_nowait(4);
    auto again = asyncio::create_task(queue.join());
    co_await support::turns(3);
    CHECK_FALSE(again.done());
    queue.task_done();
    co_await again;
}

ASYNC_TEST_CASE("QU-10: after shutdown nothing can be put, and what is left can be taken") {
    asyncio::queue<int> queue;
    queue.put_nowait(1);
    queue.put_nowait(2);
    queue.put_nowait(3);
    queue.shutdown();
    CHECK_THROWS_AS(queue.put_nowait(4), asyncio::queue_shut_down);
    CHECK_AWAIT_THROWS_AS(queue.put(4), asyncio::queue_shut_down);
    CHECK(queue.qsize() == 3);
    const int first = co_await queue.get();
    CHECK(first == 1);
    CHECK(queue.get_nowait() == 2);
    const std::optional<int> third = co_await queue.next();
    CHECK(third == 3);
    CHECK_AWAIT_THROWS_AS(queue.get(), asyncio::queue_shut_down);
    CHECK_THROWS_AS(queue.get_nowait(), asyncio::queue_shut_down);
    const std::optional<int> none = co_await queue.next();
    CHECK_FALSE(none.has_value());
    queue.shutdown(); // a second time changes nothing
}

ASYNC_TEST_CASE("QU-10: a full queue that is shut down refuses a put at once") {
    asyncio::queue<int> queue(1);
    queue.put_nowait(1);
    queue.shutdown();
    const turn_marker turn;
    CHECK_AWAIT_THROWS_AS(queue.put(2), asyncio::queue_shut_down);
    CHECK_THROWS_AS(queue.put_nowait(2), asyncio::queue_shut_down);
    CHECK_FALSE(turn.passed());
}

ASYNC_TEST_CASE("QU-10: who comes after shutdown while the last item is promised is told as well") {
    asyncio::queue<int> queue;
    log_type log;
    auto woken = asyncio::create_task(take(queue, "woken", log));
    co_await support::turns(2);
    queue.put_nowait(1);
    queue.shutdown();
    auto late = asyncio::create_task(take(queue, "late", log), {.eager_start = true});
    co_await woken;
    co_await asyncio::wait_for(late, 1s);
    CHECK(log == log_type{"woken 1", "late shut down"});
}

ASYNC_TEST_CASE("QU-10: and has the item when the other one is cancelled") {
    asyncio::queue<int> queue;
    log_type log;
    auto woken = asyncio::create_task(take(queue, "woken", log));
    co_await support::turns(2);
    queue.put_nowait(1);
    queue.shutdown();
    auto late = asyncio::create_task(take(queue, "late", log), {.eager_start = true});
    woken.cancel();
    co_await asyncio::wait_for(late, 1s);
    CHECK(log == log_type{"woken cancelled", "late 1"});
}

ASYNC_TEST_CASE_ORDERED("QU-11: shutdown wakes the getters of an empty queue, and join returns") {
    asyncio::queue<int> queue;
    log_type log;
    auto a = asyncio::create_task(take(queue, "a", log));
    auto b = asyncio::create_task(take(queue, "b", log));
    auto c = asyncio::create_task(queue.next());
    co_await support::turns(2);
    queue.shutdown();
    co_await a;
    co_await b;
    const std::optional<int> none = co_await c;
    CHECK_FALSE(none.has_value());
    CHECK(log == log_type{"a shut down", "b shut down"});
    co_await queue.join();
}

ASYNC_TEST_CASE_ORDERED(
    "QU-12: shutdown wakes the putters of a full queue, and drops what they had") {
    asyncio::queue<int> queue(1);
    log_type log;
    queue.put_nowait(0);
    auto a = asyncio::create_task(give(queue, 1, log));
    auto b = asyncio::create_task(give(queue, 2, log));
    co_await support::turns(2);
    CHECK(queue.get_nowait() == 0); // a slot, but too late
    queue.shutdown();
    co_await a;
    co_await b;
    CHECK(log == log_type{"1 shut down", "2 shut down"});
    CHECK(queue.empty());
}

ASYNC_TEST_CASE("QU-13: an immediate shutdown drops the items; join waits for those taken") {
    asyncio::queue<int> queue;
    log_type log;
    for (const int item : {1, 2, 3, 4}) queue.put_nowait(item);
    CHECK(queue.get_nowait() == 1);
    CHECK(queue.get_nowait() == 2);
    queue.task_done();
    auto joining = asyncio::create_task(queue.join());
    co_await support::turns(2);
    queue.shutdown(true);
    CHECK(queue.empty());
    CHECK_AWAIT_THROWS_AS(queue.get(), asyncio::queue_shut_down);
    CHECK_AWAIT_THROWS_AS(queue.put(5), asyncio::queue_shut_down);
    co_await support::turns(3);
    CHECK_FALSE(joining.done());
    queue.task_done();
    co_await joining;
    CHECK_THROWS_AS(queue.task_done(), std::invalid_argument);
}

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("the items that an immediate shutdown drops find the queue shut down and empty") {
    asyncio::queue<last_word> queue;
    int refused = 0;
    for (int i = 0; i < 5; ++i) queue.put_nowait(last_word(&queue, refused));
    queue.shutdown(true);
    CHECK(refused == 5);
    CHECK(queue.empty());
    CHECK_THROWS_AS(queue.task_done(), std::invalid_argument);
}
#endif

#if !defined(ASYNCIO_NO_EXCEPTIONS)
TEST_CASE("an immediate shutdown leaves no item after a put() whose comparison threw") {
    struct superstitious {
        bool operator()(int a, int b) const {
            if (a == 13 || b == 13) throw std::invalid_argument("thirteen");
            return a < b;
        }
    };
    asyncio::priority_queue<int, superstitious> queue;
    queue.put_nowait(1);
    CHECK_THROWS_AS(queue.put_nowait(13), std::invalid_argument);
    CHECK(queue.qsize() == 1);
    queue.shutdown(true);
    CHECK(queue.qsize() == 0);
    CHECK_THROWS_AS(queue.get_nowait(), asyncio::queue_shut_down);
}
#endif

ASYNC_TEST_CASE("QU-13: an immediate shutdown takes the item of a woken getter, too") {
    asyncio::queue<int> queue(1);
    log_type log;
    auto getter = asyncio::create_task(take(queue, "a", log));
    co_await support::turns(2);
    queue.put_nowait(1);
    queue.shutdown(true);
    co_await getter;
    CHECK(log == log_type{"a shut down"});
    co_await queue.join();
}

ASYNC_TEST_CASE("QU-14: the sizes count stored items only") {
    asyncio::queue<int> queue(2);
    log_type log;
    CHECK(queue.maxsize() == 2);
    CHECK(queue.empty());
    CHECK_FALSE(queue.full());
    queue.put_nowait(1);
    CHECK_FALSE(queue.empty());
    CHECK_FALSE(queue.full());
    queue.put_nowait(2);
    auto putter = asyncio::create_task(give(queue, 3, log));
    co_await support::turns(2);
    CHECK(queue.full());
    CHECK(queue.qsize() == 2);
    CHECK(queue.get_nowait() == 1);
    CHECK(queue.qsize() == 1); // the woken putter has not run
    CHECK_FALSE(queue.full());
    co_await putter;
    CHECK(queue.qsize() == 2);
}

ASYNC_TEST_CASE("next gives the items, then nothing") {
    asyncio::queue<std::string> queue(2);
    auto producer = asyncio::create_task([&]() -> asyncio::coro<> {
        for (const char* word : {"one", "two", "three", "four"}) co_await queue.put(word);
        queue.shutdown();
    });
    log_type words;
    for (;;) {
        std::optional<std::string> word = co_await queue.next();
        if (!word) break;
        words.push_back(std::move(*word));
    }
    co_await producer;
    CHECK(words == log_type{"one", "two", "three", "four"});
}

ASYNC_TEST_CASE("items that can only be moved go through every kind of queue") {
    asyncio::queue<std::unique_ptr<int>> fifo(1);
    auto getter = asyncio::create_task(
        [&]() -> asyncio::coro<std::unique_ptr<int>> { co_return co_await fifo.get(); });
    auto item = std::make_unique<int>(4);
    co_await fifo.put(std::move(item));
    CHECK(item == nullptr);
    const std::unique_ptr<int> got = co_await std::move(getter);
    CHECK(*got == 4);
    fifo.put_nowait(std::make_unique<int>(5));
    std::optional<std::unique_ptr<int>> next = co_await fifo.next();
    CHECK(**next == 5);

    asyncio::lifo_queue<std::unique_ptr<int>> lifo;
    co_await lifo.put(std::make_unique<int>(6));
    CHECK(*lifo.get_nowait() == 6);

    struct by_value {
        bool operator()(const std::unique_ptr<int>& a, const std::unique_ptr<int>& b) const {
            return *a < *b;
        }
    };
    asyncio::priority_queue<std::unique_ptr<int>, by_value> least;
    for (const int value : {8, 7, 9}) co_await least.put(std::make_unique<int>(value));
    for (const int value : {7, 8, 9}) CHECK(*least.get_nowait() == value);
}

ASYNC_TEST_CASE("a moved item is still the caller's when put_nowait() refuses it") {
    asyncio::queue<std::string> queue(1);
    const std::string copy = "a text that is too long for a small string";
    std::string item = copy;
    queue.put_nowait(copy); // copied
    CHECK_THROWS_AS(queue.put_nowait(std::move(item)), asyncio::queue_full);
    CHECK(item == copy);
    queue.shutdown();
    CHECK_THROWS_AS(queue.put_nowait(std::move(item)), asyncio::queue_shut_down);
    CHECK(item == copy);
    CHECK(queue.get_nowait() == copy);

    asyncio::queue<std::string> free;
    free.put_nowait(std::move(item));
    CHECK(item.empty());
    co_return;
}

ASYNC_TEST_CASE("a moved item is still the caller's when its put is cancelled or refused") {
    asyncio::queue<std::string> queue(1);
    queue.put_nowait("full");
    std::string item = "a text that is too long for a small string";
    const std::string copy = item;
    auto put = [&]() -> asyncio::coro<> { co_await queue.put(std::move(item)); };

    auto putter = asyncio::create_task(put);
    co_await support::turns(2);
    putter.cancel();
    CHECK_AWAIT_THROWS_AS(putter, asyncio::cancelled_error);
    CHECK(item == copy);

    putter = asyncio::create_task(put);
    co_await support::turns(2);
    CHECK(queue.get_nowait() == "full");
    putter.cancel(); // woken, but not yet run
    CHECK_AWAIT_THROWS_AS(putter, asyncio::cancelled_error);
    CHECK(item == copy);
    CHECK(queue.empty());

    queue.put_nowait("full");
    putter = asyncio::create_task(put);
    co_await support::turns(2);
    queue.shutdown();
    CHECK_AWAIT_THROWS_AS(putter, asyncio::queue_shut_down);
    CHECK(item == copy);
    CHECK_AWAIT_THROWS_AS(queue.put(std::move(item)), asyncio::queue_shut_down);
    CHECK(item == copy);
}

ASYNC_TEST_CASE("a moved item leaves the caller when it is in the queue; a copied one stays") {
    asyncio::queue<std::string> queue;
    std::string item = "a text that is too long for a small string";
    const std::string copy = item;
    co_await queue.put(item);
    CHECK(item == copy);
    co_await queue.put(std::move(item));
    CHECK(item.empty());
    CHECK(queue.get_nowait() == copy);
    CHECK(queue.get_nowait() == copy);
}

ASYNC_TEST_CASE("a put that is made a task or a coroutine takes its item along") {
    asyncio::queue<std::string> queue(1);
    queue.put_nowait("full");
    asyncio::task<> putter;
    {
        std::string item = "a text that is too long for a small string";
        putter = asyncio::create_task(queue.put(std::move(item)));
    }
    co_await support::turns(2);
    CHECK(queue.get_nowait() == "full");
    co_await putter;
    CHECK(queue.get_nowait() == "a text that is too long for a small string");

    asyncio::coro<> later = queue.put(std::string("another text that is long enough"));
    co_await std::move(later);
    asyncio::coro<std::string> getting = queue.get();
    const std::string got = co_await std::move(getting);
    CHECK(got == "another text that is long enough");

    queue.put_nowait("full");
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(queue.put("late"), 1s), asyncio::timeout_error);
    CHECK(queue.get_nowait() == "full");
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(queue.get(), 1s), asyncio::timeout_error);
    CHECK(queue.empty());
}

ASYNC_TEST_CASE_ORDERED(
    "a getter whose item was taken by get_nowait waits on as the first in line") {
    asyncio::queue<int> queue;
    log_type log;
    auto a = asyncio::create_task(take(queue, "a", log));
    auto b = asyncio::create_task(take(queue, "b", log));
    auto c = asyncio::create_task(take(queue, "c", log));
    co_await support::turns(2);
    queue.put_nowait(1);
    queue.put_nowait(2);
    CHECK(queue.get_nowait() == 1); // before a and b, who were woken, have run
    CHECK(queue.get_nowait() == 2);
    co_await support::turns(3);
    CHECK(log.empty());
    for (const int item : {3, 4, 5}) queue.put_nowait(item);
    co_await a;
    co_await b;
    co_await c;
    CHECK(log == log_type{"a 3", "b 4", "c 5"});
}

ASYNC_TEST_CASE_ORDERED(
    "a putter whose slot was taken by put_nowait waits on as the first in line") {
    asyncio::queue<int> queue(2);
    log_type log;
    queue.put_nowait(1);
    queue.put_nowait(2);
    std::vector<asyncio::task<>> tasks;
    for (const int item : {3, 4, 5}) tasks.push_back(asyncio::create_task(give(queue, item, log)));
    co_await support::turns(2);
    CHECK(drained(queue) == std::vector<int>{1, 2});
    queue.put_nowait(8);
    queue.put_nowait(9);
    co_await support::turns(3);
    CHECK(log.empty());
    CHECK(drained(queue) == std::vector<int>{8, 9});
    co_await support::turns(3);
    CHECK(drained(queue) == std::vector<int>{3, 4});
    co_await asyncio::wait(tasks);
    CHECK(queue.get_nowait() == 5);
}

ASYNC_TEST_CASE("a getter whose item was taken can be cancelled, in the same turn and later") {
    asyncio::queue<int> queue;
    log_type log;
    auto a = asyncio::create_task(take(queue, "a", log));
    auto b = asyncio::create_task(take(queue, "b", log));
    co_await support::turns(2);
    queue.put_nowait(1);
    queue.get_nowait();
    a.cancel();
    CHECK_AWAIT_THROWS_AS(a, asyncio::cancelled_error);
    queue.put_nowait(2);
    queue.get_nowait();
    co_await support::turns(2);
    b.cancel();
    CHECK_AWAIT_THROWS_AS(b, asyncio::cancelled_error);
    queue.put_nowait(3);
    CHECK(queue.get_nowait() == 3);
}

ASYNC_TEST_CASE("a cancellation that is taken back does not cost a woken getter its item") {
    asyncio::queue<int> queue;
    log_type log;
    auto a = asyncio::create_task(take(queue, "a", log));
    co_await support::turns(2);
    queue.put_nowait(1);
    a.cancel();
    a.uncancel();
    co_await a;
    CHECK(log == log_type{"a 1"});
}

ASYNC_TEST_CASE_ORDERED(
    "a queue that goes leaves its waiters suspended, and they can be cancelled") {
    for (const bool woken : {false, true}) {
        CAPTURE(woken);
        auto out = std::make_unique<asyncio::queue<int>>();
        auto in = std::make_unique<asyncio::queue<int>>(1);
        log_type log;
        in->put_nowait(0);
        std::vector<asyncio::task<>> tasks;
        tasks.push_back(asyncio::create_task(take(*out, "a", log)));
        tasks.push_back(asyncio::create_task(take(*out, "b", log)));
        tasks.push_back(asyncio::create_task(give(*in, 1, log)));
        tasks.push_back(asyncio::create_task(give(*in, 2, log)));
        co_await support::turns(2);
        if (woken) {
            out->put_nowait(7);
            in->get_nowait();
        }
        out.reset();
        in.reset();
        co_await support::turns(3);
        for (const auto& task : tasks) CHECK_FALSE(task.done());
        for (const auto& task : tasks) task.cancel();
        co_await asyncio::wait(tasks);
        CHECK(log == log_type{"a cancelled", "b cancelled", "1 cancelled", "2 cancelled"});
    }
}

ASYNC_TEST_CASE_ORDERED("a queue that is shut down and goes at once has told its waiters") {
    log_type log;
    std::vector<asyncio::task<>> tasks;
    asyncio::task<std::optional<int>> next;
    {
        asyncio::queue<int> out;
        asyncio::queue<int> in(1);
        in.put_nowait(0);
        tasks.push_back(asyncio::create_task(take(out, "a", log)));
        tasks.push_back(asyncio::create_task(give(in, 1, log)));
        next = asyncio::create_task(out.next());
        co_await support::turns(2);
        out.shutdown();
        in.shutdown();
    }
    co_await asyncio::wait(tasks);
    const std::optional<int> none = co_await next;
    CHECK_FALSE(none.has_value());
    CHECK(log == log_type{"a shut down", "1 shut down"});
}

#if !defined(ASYNCIO_BACKEND_NONE) // which has debug mode only with ASYNCIO_DEBUG

ASYNC_TEST_CASE_WITH("debug mode reports who waits on a queue that goes", .debug = true) {
    const auto reports = support::collect_reports();
    log_type log;
    asyncio::task<> waiter;
    {
        asyncio::queue<int> queue;
        waiter = asyncio::create_task(take(queue, "a", log), {.name = "the waiter"});
        co_await support::turns(2);
        reports->clear(); // that this task takes references, which debug mode reports, too
    }
    REQUIRE(reports->size() == 1);
    CHECK(reports->at(0).task == "the waiter");
    waiter.cancel();
    CHECK_AWAIT_THROWS_AS(waiter, asyncio::cancelled_error);
}

#endif

TEST_CASE("a frame that is destroyed in line gives away what it was woken for") {
    asyncio::queue<int> queue(1);
    log_type log;
    asyncio::event_loop survivor;
    asyncio::task<> getter;
    asyncio::task<> putter;
    {
        asyncio::event_loop doomed;
        const auto a = doomed.create_task(take(queue, "a", log));
        const auto b = doomed.create_task(take(queue, "b", log));
        doomed.run_once();
        getter = survivor.create_task(take(queue, "c", log));
        survivor.run_once();
        queue.put_nowait(1); // a is woken, b sleeps
    }
    survivor.run_until_complete(getter);
    CHECK(log == log_type{"c 1"});
    queue.put_nowait(2);
    {
        asyncio::event_loop doomed;
        const auto a = doomed.create_task(give(queue, 3, log));
        doomed.run_once();
        putter = survivor.create_task(give(queue, 4, log));
        survivor.run_once();
        CHECK(queue.get_nowait() == 2);
    }
    survivor.run_until_complete(putter);
    CHECK(drained(queue) == std::vector<int>{4});
}

ASYNC_TEST_CASE("items are destroyed when they are taken, dropped, or go with the queue") {
    int alive = 0;
    {
        asyncio::queue<counted> queue;
        for (int i = 0; i < 20; ++i) queue.put_nowait(counted(alive));
        CHECK(alive == 20);
        {
            const counted taken = co_await queue.get();
            CHECK(alive == 20);
        }
        CHECK(alive == 19);
        queue.shutdown(true);
        CHECK(alive == 0);
        asyncio::lifo_queue<counted> other;
        for (int i = 0; i < 5; ++i) other.put_nowait(counted(alive));
        CHECK(alive == 5);
    }
    CHECK(alive == 0);
}

// Producers, consumers, thieves that take and put without waiting, and random cancellations. What
// was put arrives once; what was not put is still the producer's.
template <class Queue>
static asyncio::coro<> random_traffic(std::uint32_t seed) {
    random_source random(seed);
    const int bound = static_cast<int>(random.below(4));
    Queue queue(bound);
    std::multiset<int> put;
    std::multiset<int> got;
    std::map<int, std::vector<int>> per_producer; // in the order of arrival
    int next_item = 0;
    std::set<int> kept; // by producers whose put was cancelled
    const bool fair = random.below(2) == 0; // no thieves

    auto receive = [&](const std::unique_ptr<int>& item) {
        got.insert(*item);
        per_producer[*item / 1'000'000].push_back(*item);
    };
    auto produce = [&](int producer) -> asyncio::coro<> {
        for (int i = 0; i < 30; ++i) {
            if (random.below(2) == 0) co_await asyncio::sleep(random.delay());
            const int number = producer * 1'000'000 + next_item++;
            auto item = std::make_unique<int>(number);
            const auto done = co_await support::catching(queue.put(std::move(item)));
            if (done.error) {
                CHECK(item != nullptr);
                if (item) kept.insert(*item);
                co_await support::fail_with(done.error);
            }
            CHECK(item == nullptr);
            put.insert(number);
        }
    };
    auto consume = [&]() -> asyncio::coro<> {
        for (;;) {
            if (random.below(3) == 0) co_await asyncio::sleep(random.delay());
            std::optional<std::unique_ptr<int>> item;
            if (random.below(2) == 0) {
                auto taken = co_await support::catching(queue.get());
                const bool shut_down = support::holds<asyncio::queue_shut_down>(taken.error);
                if (taken.error && !shut_down) co_await support::fail_with(taken.error);
                item = std::move(taken.value);
            } else {
                item = co_await queue.next();
            }
            if (!item) break;
            receive(*item);
            queue.task_done();
        }
    };
    auto steal = [&]() -> asyncio::coro<> {
        for (int i = 0; i < 40; ++i) {
            co_await asyncio::sleep(random.delay());
            if (random.below(2) == 0 && !queue.empty()) {
                receive(queue.get_nowait());
                queue.task_done();
            } else if (!queue.full()) {
                const int number = 99'000'000 + next_item++;
                queue.put_nowait(std::make_unique<int>(number));
                put.insert(number);
            }
        }
    };

    std::vector<asyncio::task<>> producers;
    std::vector<asyncio::task<>> consumers;
    std::vector<asyncio::task<>> thieves;
    for (int i = 0; i < 5; ++i) producers.push_back(asyncio::create_task(produce(i)));
    for (int i = 0; i < 5; ++i) consumers.push_back(asyncio::create_task(consume));
    if (!fair)
        for (int i = 0; i < 2; ++i) thieves.push_back(asyncio::create_task(steal));
    int replaced = 0;
    for (;;) {
        co_await asyncio::sleep(random.delay());
        if (random.below(4) == 0) {
            auto& one = consumers[random.below(5)];
            one.cancel();
            if (one.done()) one = asyncio::create_task(consume);
        }
        if (random.below(4) == 0 && replaced < 10) {
            const std::uint32_t which = random.below(5);
            auto& one = producers[which];
            one.cancel();
            if (one.done()) {
                one = asyncio::create_task(produce(static_cast<int>(which) + 10 * ++replaced));
            }
        }
        const auto ended = [](const asyncio::task<>& task) { return task.done(); };
        if (std::all_of(producers.begin(), producers.end(), ended) &&
            std::all_of(thieves.begin(), thieves.end(), ended))
            break;
    }
    for (auto& one : consumers)
        if (one.done()) one = asyncio::create_task(consume);
    co_await asyncio::wait_for(queue.join(), 1min);
    queue.shutdown();
    co_await asyncio::wait_for(asyncio::wait(consumers), 1min);
    for (const auto& one : consumers)
        if (!one.cancelled()) one.result();
    CHECK(queue.empty());
    CHECK(put == got);
    for (const int number : kept) CHECK(got.count(number) == 0);
    for (const int number : got) CHECK(got.count(number) == 1);
    if constexpr (std::is_same_v<Queue, asyncio::queue<std::unique_ptr<int>>>) {
        // Consumers log in their own steps, so that the order is that of the queue.
        if (fair)
            for (const auto& [producer, items] : per_producer)
                CHECK(std::is_sorted(items.begin(), items.end()));
    }
}

TEST_CASE_TEMPLATE("random traffic with random cancellations: nothing is lost, nothing comes twice",
                   Queue, asyncio::queue<std::unique_ptr<int>>,
                   asyncio::lifo_queue<std::unique_ptr<int>>,
                   asyncio::priority_queue<std::unique_ptr<int>>) {
    for (std::uint32_t seed = 1; seed <= 40; ++seed) {
        CAPTURE(seed);
        asyncio::run(random_traffic<Queue>(seed),
                     {.debug = false, .clock = asyncio::clock_kind::virtual_time});
        asyncio::run(random_traffic<Queue>(seed),
                     {.debug = false,
                      .clock = asyncio::clock_kind::virtual_time,
                      .shuffle_seed = seed});
    }
}

} // TEST_SUITE
