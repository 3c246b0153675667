// Micro benchmarks: the lower bounds, written by hand for exactly one use each.
//
// No cancellation, no exceptions, no second loop, no threads, no checks: what is left is what the
// operation costs anybody who uses C++20 coroutines, so that asyncio.hpp's ratio to it is the price
// of everything it does beyond. Two techniques are worth more than all others together: coroutine
// frames come from a free list, and a child is started inside await_suspend, so that a parent whose
// child finished at once was never suspended.
#include "micro.hpp"

#include <sys/epoll.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <coroutine>
#include <cstddef>
#include <exception>
#include <new>
#include <utility>
#include <vector>

namespace {

using micro::batch;
using micro::cpu_ns;
using micro::expect;
using micro::measurement;

// ---- coroutine frames: one list of free blocks per size, in steps of 32 bytes ----

struct free_block {
    free_block* next;
};
constexpr std::size_t block_step = 32;
constexpr std::size_t largest_block = 1024;
constinit thread_local std::array<free_block*, largest_block / block_step> free_blocks{};

struct frame_from_free_list {
    static void* operator new(std::size_t size) {
        const std::size_t index = (size - 1) / block_step;
        if (index >= free_blocks.size()) std::abort();
        free_block*& first = free_blocks[index];
        if (first == nullptr) return grow(index);
        return std::exchange(first, first->next);
    }

    static void operator delete(void* block, std::size_t size) noexcept {
        free_block*& first = free_blocks[(size - 1) / block_step];
        first = ::new (block) free_block{first};
    }

private:
    // One large block at a time; malloc's own header per frame is what this saves.
    [[gnu::noinline]] static void* grow(std::size_t index) {
        const std::size_t size = (index + 1) * block_step;
        const std::size_t count = std::max<std::size_t>(1, 32 * 1024 / size);
        auto* const memory = static_cast<std::byte*>(::operator new(size* count));
        for (std::size_t i = count; i-- > 1;) {
            free_blocks[index] = ::new (memory + i * size) free_block{free_blocks[index]};
        }
        return memory;
    }
};

// ---- a coroutine that is awaited ----

template <class T>
class coro {
public:
    struct promise_type : frame_from_free_list {
        std::coroutine_handle<> parent{}; // set only when the parent really had to suspend
        T result{};

        coro get_return_object() noexcept {
            return coro(std::coroutine_handle<promise_type>::from_promise(*this));
        }
        std::suspend_always initial_suspend() noexcept { return {}; }
        auto final_suspend() noexcept {
            struct to_the_parent {
                bool await_ready() noexcept { return false; }
                void await_suspend(std::coroutine_handle<promise_type> self) noexcept {
                    if (self.promise().parent) self.promise().parent.resume();
                }
                void await_resume() noexcept {}
            };
            return to_the_parent{};
        }
        void return_value(T value) noexcept { result = value; }
        void unhandled_exception() noexcept { std::terminate(); }
    };

    coro(coro&& other) noexcept : frame_(std::exchange(other.frame_, {})) {}
    ~coro() {
        if (frame_) frame_.destroy();
    }

    bool await_ready() noexcept { return false; }
    bool await_suspend(std::coroutine_handle<> parent) noexcept {
        frame_.resume();
        if (frame_.done()) return false;
        frame_.promise().parent = parent;
        return true;
    }
    T await_resume() noexcept { return frame_.promise().result; }

    void start() noexcept { frame_.resume(); }

private:
    explicit coro(std::coroutine_handle<promise_type> frame) noexcept : frame_(frame) {}

    std::coroutine_handle<promise_type> frame_;
};

// ---- a loop: a list of what is ready, a binary heap of what is not, and the kernel ----

struct ready_node {
    ready_node* next = nullptr;
    std::coroutine_handle<> resumes{};
};

class loop {
public:
    struct deadline {
        std::int64_t when;
        ready_node* node;
    };

    loop() : kernel_(::epoll_create1(EPOLL_CLOEXEC)) {}
    loop(const loop&) = delete;
    ~loop() { ::close(kernel_); }

    void make_ready(ready_node& node) noexcept {
        node.next = nullptr;
        *last_ = &node;
        last_ = &node.next;
    }

    void wake_at(std::int64_t when, ready_node& node) {
        timers_.push_back({when, &node});
        std::push_heap(timers_.begin(), timers_.end(), later);
    }

    // Turns until `finished`: under load the kernel is asked every 64 turns only, because asking
    // costs more than everything else in a turn.
    void run(const bool& finished) {
        unsigned turn = 0;
        while (!finished) {
            if (first_ == nullptr || ++turn % 64 == 0) ask_the_kernel();
            if (!timers_.empty()) move_due_timers();
            ready_node* node = std::exchange(first_, nullptr);
            last_ = &first_;
            while (node != nullptr) {
                ready_node* const next = node->next; // the node dies with what it resumes
                node->resumes.resume();
                node = next;
            }
        }
    }

    static std::int64_t now() noexcept {
        timespec time{};
        ::clock_gettime(CLOCK_MONOTONIC, &time);
        return std::int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
    }

private:
    static bool later(const deadline& a, const deadline& b) noexcept { return a.when > b.when; }

    void ask_the_kernel() {
        int milliseconds = 0;
        if (first_ == nullptr && !timers_.empty()) {
            const std::int64_t wait = timers_.front().when - now();
            milliseconds = wait <= 0 ? 0 : static_cast<int>((wait + 999'999) / 1'000'000);
        }
        epoll_event events[64];
        ::epoll_wait(kernel_, events, 64, milliseconds);
    }

    void move_due_timers() {
        const std::int64_t time = now();
        while (!timers_.empty() && timers_.front().when <= time) {
            make_ready(*timers_.front().node);
            std::pop_heap(timers_.begin(), timers_.end(), later);
            timers_.pop_back();
        }
    }

    int kernel_;
    ready_node* first_ = nullptr;
    ready_node** last_ = &first_;
    std::vector<deadline> timers_;
};

constinit thread_local loop* running = nullptr;

struct yield {
    ready_node node{};

    bool await_ready() noexcept { return false; }
    void await_suspend(std::coroutine_handle<> task) noexcept {
        node.resumes = task;
        running->make_ready(node);
    }
    void await_resume() noexcept {}
};

struct sleep_until {
    std::int64_t when;
    ready_node node{};

    bool await_ready() noexcept { return false; }
    void await_suspend(std::coroutine_handle<> task) {
        node.resumes = task;
        running->wake_at(when, node);
    }
    void await_resume() noexcept {}
};

// ---- a coroutine that runs by itself: its place in the ready list is part of its frame ----

template <class T>
class task {
public:
    struct promise_type : frame_from_free_list {
        ready_node node{};
        ready_node* waiter = nullptr;
        bool done = false;
        T result{};

        task get_return_object() noexcept {
            const auto frame = std::coroutine_handle<promise_type>::from_promise(*this);
            node.resumes = frame;
            running->make_ready(node);
            return task(frame);
        }
        std::suspend_always initial_suspend() noexcept { return {}; }
        std::suspend_always final_suspend() noexcept {
            done = true;
            if (waiter != nullptr) running->make_ready(*waiter);
            return {};
        }
        void return_value(T value) noexcept { result = value; }
        void unhandled_exception() noexcept { std::terminate(); }
    };

    task(task&& other) noexcept : frame_(std::exchange(other.frame_, {})) {}
    ~task() {
        if (frame_) frame_.destroy();
    }

    struct awaiter {
        promise_type& awaited;
        ready_node node{};

        bool await_ready() const noexcept { return awaited.done; }
        void await_suspend(std::coroutine_handle<> parent) noexcept {
            node.resumes = parent;
            awaited.waiter = &node;
        }
        T await_resume() const noexcept { return awaited.result; }
    };
    awaiter operator co_await() const noexcept { return awaiter{frame_.promise()}; }

private:
    explicit task(std::coroutine_handle<promise_type> frame) noexcept : frame_(frame) {}

    std::coroutine_handle<promise_type> frame_;
};

// Nobody waits for these; the frame goes when the body ends.
struct detached {
    struct promise_type : frame_from_free_list {
        ready_node node{};

        detached get_return_object() noexcept {
            node.resumes = std::coroutine_handle<promise_type>::from_promise(*this);
            running->make_ready(node);
            return {};
        }
        std::suspend_always initial_suspend() noexcept { return {}; }
        std::suspend_never final_suspend() noexcept { return {}; }
        void return_void() noexcept {}
        void unhandled_exception() noexcept { std::terminate(); }
    };
};

// ---- a queue of one item, one task at each end ----

// A get lets the producer's next item in at once and wakes the producer afterwards, which saves
// half of all switches. (Python's queue must not: there a woken producer that is cancelled keeps
// its item. Written by hand with that rule an item costs 1.8 times as much.)
class queue_of_one {
public:
    struct put_awaiter {
        queue_of_one& queue;
        int item;
        ready_node node{};

        bool await_ready() noexcept {
            if (queue.full_) return false;
            queue.item_ = item;
            queue.full_ = true;
            if (queue.getter_ != nullptr) {
                running->make_ready(*std::exchange(queue.getter_, nullptr));
            }
            return true;
        }
        void await_suspend(std::coroutine_handle<> producer) noexcept {
            node.resumes = producer;
            queue.putter_ = this;
        }
        void await_resume() noexcept {}
    };
    struct get_awaiter {
        queue_of_one& queue;
        ready_node node{};

        bool await_ready() noexcept { return queue.full_; }
        void await_suspend(std::coroutine_handle<> consumer) noexcept {
            node.resumes = consumer;
            queue.getter_ = &node;
        }
        int await_resume() noexcept {
            const int item = queue.item_;
            queue.full_ = queue.putter_ != nullptr;
            if (queue.full_) {
                queue.item_ = queue.putter_->item;
                running->make_ready(std::exchange(queue.putter_, nullptr)->node);
            }
            return item;
        }
    };

    put_awaiter put(int item) noexcept { return put_awaiter{*this, item}; }
    get_awaiter get() noexcept { return get_awaiter{*this}; }

private:
    int item_ = 0;
    bool full_ = false;
    put_awaiter* putter_ = nullptr;
    ready_node* getter_ = nullptr;
};

// ---- the operations ----

[[gnu::noinline]] coro<std::uint64_t> child(std::uint64_t value) {
    co_return value;
}

coro<measurement> await_children(std::uint64_t n) {
    std::uint64_t sum = 0;
    const std::int64_t start = cpu_ns();
    for (std::uint64_t i = 0; i < n; ++i) sum += co_await child(i);
    const std::int64_t end = cpu_ns();
    expect(sum == n * (n - 1) / 2, "bound: await");
    co_return measurement{static_cast<double>(end - start), static_cast<double>(n)};
}

coro<std::uint64_t> fib(unsigned n) {
    if (n < 2) co_return n;
    const std::uint64_t one = co_await fib(n - 1);
    const std::uint64_t two = co_await fib(n - 2);
    co_return one + two;
}

coro<measurement> call_fib(std::uint64_t n) {
    std::uint64_t calls = 0;
    const std::int64_t start = cpu_ns();
    while (calls < n) {
        const std::uint64_t value = co_await fib(micro::fib_argument);
        expect(value == micro::fib_result, "bound: fib");
        calls += micro::fib_calls;
    }
    const std::int64_t end = cpu_ns();
    co_return measurement{static_cast<double>(end - start), static_cast<double>(calls)};
}

[[gnu::noinline]] task<std::uint64_t> child_task(std::uint64_t value) {
    co_return value;
}

coro<measurement> spawn_and_join(std::uint64_t n) {
    std::vector<task<std::uint64_t>> tasks;
    tasks.reserve(batch);
    std::uint64_t sum = 0;
    std::uint64_t spawned = 0;
    const std::int64_t start = cpu_ns();
    while (spawned < n) {
        for (std::uint64_t i = 0; i < batch; ++i) tasks.push_back(child_task(i));
        for (const auto& one : tasks) sum += co_await one;
        tasks.clear();
        spawned += batch;
    }
    const std::int64_t end = cpu_ns();
    expect(sum == spawned / batch * (batch * (batch - 1) / 2), "bound: spawn");
    co_return measurement{static_cast<double>(end - start), static_cast<double>(spawned)};
}

coro<measurement> yield_to_the_loop(std::uint64_t n) {
    const std::int64_t start = cpu_ns();
    for (std::uint64_t i = 0; i < n; ++i) co_await yield{};
    const std::int64_t end = cpu_ns();
    co_return measurement{static_cast<double>(end - start), static_cast<double>(n)};
}

detached produce(queue_of_one& queue, std::uint64_t n) {
    for (std::uint64_t i = 0; i < n; ++i) co_await queue.put(static_cast<int>(i & 1));
}

coro<measurement> pass_through_a_queue(std::uint64_t n) {
    queue_of_one queue;
    std::uint64_t sum = 0;
    const std::int64_t start = cpu_ns();
    produce(queue, n);
    for (std::uint64_t i = 0; i < n; ++i) sum += static_cast<unsigned>(co_await queue.get());
    const std::int64_t end = cpu_ns();
    expect(sum == n / 2, "bound: queue");
    co_return measurement{static_cast<double>(end - start), static_cast<double>(n)};
}

struct wait_for_all {
    std::uint64_t left;
    ready_node node{};

    bool await_ready() const noexcept { return left == 0; }
    void await_suspend(std::coroutine_handle<> task) noexcept { node.resumes = task; }
    void await_resume() const noexcept {}
};

detached sleeper(wait_for_all& all, std::int64_t delay) {
    co_await sleep_until{loop::now() + delay};
    if (--all.left == 0) running->make_ready(all.node);
}

coro<measurement> sleep_many(std::uint64_t n) {
    micro::random_delay delays;
    wait_for_all all{n};
    const double before = micro::resident_bytes();
    const std::int64_t start = cpu_ns();
    for (std::uint64_t i = 0; i < n; ++i) sleeper(all, delays.next_ns());
    co_await yield{}; // all of them sleep now
    const double bytes = micro::resident_bytes() - before;
    co_await all;
    const std::int64_t end = cpu_ns();
    co_return measurement{static_cast<double>(end - start), static_cast<double>(n), bytes};
}

// ---- running them ----

using operation = coro<measurement> (*)(std::uint64_t);

coro<bool> run_to_the_end(operation body, std::uint64_t n, measurement& result, bool& finished) {
    result = co_await body(n);
    finished = true;
    co_return true;
}

template <operation Body>
measurement on_a_loop(std::uint64_t n) {
    loop here;
    running = &here;
    measurement result;
    bool finished = false;
    auto root = run_to_the_end(Body, n, result, finished);
    root.start();
    here.run(finished);
    running = nullptr;
    return result;
}

const micro::registered rows[] = {
    {"await", micro::the_bound, on_a_loop<await_children>},
    {"fib", micro::the_bound, on_a_loop<call_fib>},
    {"spawn", micro::the_bound, on_a_loop<spawn_and_join>},
    {"yield", micro::the_bound, on_a_loop<yield_to_the_loop>},
    {"queue", micro::the_bound, on_a_loop<pass_through_a_queue>},
    {"sleeping", micro::the_bound, on_a_loop<sleep_many>},
};

} // namespace
