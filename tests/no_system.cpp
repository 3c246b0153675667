// The loop without an operating system. The same file runs on a PC, with and without exceptions,
// and on a small Cortex-M3 under qemu (tests/cross/cortex_m3.sh), which doctest does not fit into.
//
// The port's clock moves only when the loop is idle, and then as far as it asked for or to the next
// interrupt, so that all times are exact. What ends the program is a run of its own:
//
//     no_system [backwards | forgotten | uncaught | memory]
//
// Its exit code is 0 when that ended the program with the sentence that it should; for memory only
// without exceptions, which has a test of its own.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#if defined(__arm__) && !defined(__linux__) && !defined(__APPLE__)
#define ON_A_CHIP 1
#else
#define ON_A_CHIP 0
#include <cstdio>
#endif

[[noreturn]] void give_up(const char* text);
void* take_frame(std::size_t size);
void give_frame(void* frame, std::size_t size);
#define ASYNCIO_FATAL(text) give_up(text)
#define ASYNCIO_ALLOC(size) take_frame(size)
#define ASYNCIO_FREE(memory, size) give_frame(memory, size)
#define ASYNCIO_BACKEND_NONE
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
using namespace std::chrono_literals;

namespace {

// -- output, the end, and the command line --------------------------------------------------------

#if ON_A_CHIP

extern "C" [[noreturn]] void _exit(int code);

template <class T>
std::uint32_t ask_debugger(std::uint32_t what, T* about) {
    register std::uint32_t operation asm("r0") = what;
    register T* argument asm("r1") = about;
    asm volatile("bkpt 0xAB" : "+r"(operation) : "r"(argument) : "memory");
    return operation;
}
void say(const char* text) { ask_debugger(4, text); } // SYS_WRITE0
[[noreturn]] void end(int code) { _exit(code); }

#else

void say(const char* text) { std::fputs(text, stdout); }
[[noreturn]] void end(int code) { std::exit(code); }

#endif

void say(std::int64_t number) {
    char digits[24];
    char* at = digits + sizeof digits;
    *--at = '\0';
    do *--at = static_cast<char>('0' + number % 10);
    while ((number /= 10) > 0);
    say(at);
}

const char* expected_end = nullptr; // the sentence that should end this run

// -- memory: what is left for frames, and on a chip an array for everything -----------------------

std::size_t largest_frame = SIZE_MAX; // bytes
std::size_t frames_most = SIZE_MAX;   // that may be held at a time
std::size_t frames_held = 0;
std::size_t frames_taken = 0; // in all

alignas(16) std::byte arena_memory[4096];
asyncio::fixed_arena arena(arena_memory);
bool from_arena = false; // frames come from there

} // namespace

void give_up(const char* text) {
    const bool right = expected_end && std::strstr(text, expected_end);
    say(right ? "ends as it should: " : "ENDED: ");
    say(text);
    say("\n");
    end(right ? 0 : 1);
}

void* take_frame(std::size_t size) {
    if (from_arena) return arena.allocate(size);
    if (size > largest_frame || frames_held + size > frames_most) return nullptr;
    frames_held += size;
    frames_taken += size;
    return ::operator new(size);
}
void give_frame(void* frame, std::size_t size) {
    const auto place = reinterpret_cast<std::uintptr_t>(frame);
    const auto begin = reinterpret_cast<std::uintptr_t>(arena_memory);
    if (place - begin < sizeof arena_memory) return arena.deallocate(frame, size);
    frames_held -= size;
    ::operator delete(frame, size);
}

#if ON_A_CHIP

// For newlib's malloc(), which takes more at the end of what it has.
extern "C" void* _sbrk(std::ptrdiff_t more) {
    alignas(8) static char memory[40 * 1024];
    static std::ptrdiff_t taken = 0;
    if (more > static_cast<std::ptrdiff_t>(sizeof memory) - taken) give_up("no memory is left");
    char* const begin = memory + taken;
    taken += more;
    return begin;
}
void* operator new(std::size_t size) { return std::malloc(size); }
void operator delete(void* data) noexcept { std::free(data); }
void operator delete(void* data, std::size_t) noexcept { std::free(data); }

#endif

// -- the port -------------------------------------------------------------------------------------

namespace {

struct interrupt {
    std::int64_t at;
    asyncio::isr_event* sets;
    void (*also)();
};
struct port_state {
    std::int64_t now = 1'000'000'000'000;
    int idles = 0;
    std::int64_t asked = 0; // the last one
    interrupt interrupts[8] = {};
    std::size_t interrupts_set = 0;
    std::size_t interrupts_come = 0;
} port;

// In the order of their times.
void interrupt_in(asyncio::duration delay, asyncio::isr_event& sets, void (*also)() = nullptr) {
    port.interrupts[port.interrupts_set++] = {port.now + delay.count(), &sets, also};
}

} // namespace

extern "C" std::int64_t asyncio_port_now_ns() { return port.now; }
extern "C" void asyncio_port_idle(std::int64_t ns) {
    ++port.idles;
    port.asked = ns;
    if (port.interrupts_come < port.interrupts_set) {
        const interrupt& next = port.interrupts[port.interrupts_come];
        if (ns < 0 || next.at <= port.now + ns) {
            ++port.interrupts_come;
            port.now = std::max(port.now, next.at);
            if (next.also) next.also();
            next.sets->set();
            return;
        }
    }
    if (ns < 0) give_up("the loop sleeps for ever");
    port.now += ns;
}

// -- tests ----------------------------------------------------------------------------------------

namespace {

struct test {
    test(const char* words, void (*function)()) : name(words), run(function) {
        *last = this;
        last = &next;
    }
    const char* name;
    void (*run)();
    test* next = nullptr;
    static test* first;
    static test** last;
};
constinit test* test::first = nullptr;
constinit test** test::last = &test::first;
int broken = 0;

#define JOINED(a, b) a##b
#define JOIN(a, b) JOINED(a, b)
#define TEST(words) TEST_AS(words, JOIN(body_, __LINE__), JOIN(test_, __LINE__))
#define TEST_AS(words, body, entry) \
    static void body(); \
    static const test entry(words, body); \
    static void body()
// A test that is a coroutine.
#define ASYNC_TEST(words) \
    ASYNC_TEST_AS(words, JOIN(main_, __LINE__), JOIN(body_, __LINE__), JOIN(test_, __LINE__))
#define ASYNC_TEST_AS(words, main, body, entry) \
    static asyncio::coro<> main(); \
    TEST_AS(words, body, entry) { asyncio::run(main()); } \
    static asyncio::coro<> main()
#define CHECK(condition) check((condition), #condition, __LINE__)

void check(bool holds, const char* condition, int line) {
    if (holds) return;
    ++broken;
    say("  line ");
    say(line);
    say(": CHECK(");
    say(condition);
    say(")\n");
}

std::int64_t now_ms() { return asyncio::elapsed().count() / 1'000'000; }

// What tests note down, in order.
class notes {
public:
    void operator()(char c) {
        if (size_ + 1 < sizeof text_) text_[size_++] = c;
    }
    bool operator==(const char* text) const { return std::strcmp(text_, text) == 0; }

private:
    char text_[32] = {};
    std::size_t size_ = 0;
};

asyncio::coro<int> after(asyncio::duration delay, int value) {
    co_await asyncio::sleep(delay);
    co_return value;
}
asyncio::coro<> note_after(notes& noted, asyncio::duration delay, char c) {
    co_await asyncio::sleep(delay);
    noted(c);
}
asyncio::coro<int> failing(asyncio::duration delay) {
    co_await asyncio::sleep(delay);
    co_await asyncio::fail(std::make_error_code(std::errc::io_error), "the wire broke");
    co_return 1;
}
asyncio::coro<> turns(int count) {
    for (; count > 0; --count) co_await asyncio::sleep(0s);
}

// -- tasks and time

ASYNC_TEST("a sleep is exact, and the port is asked once, for just that time") {
    port.idles = 0;
    for (const auto span : {1ns, 1'000ns, 999'999ns, 5'000'000ns, 3'600'000'000'000ns}) {
        const std::int64_t before = port.now;
        co_await asyncio::sleep(span);
        CHECK(port.now - before == span.count());
        CHECK(port.asked == span.count());
    }
    CHECK(port.idles == 5);
}

ASYNC_TEST("tasks run in the order of their times, and equal ones as they were made") {
    notes noted;
    auto c = asyncio::create_task(note_after(noted, 3ms, 'c'));
    auto a = asyncio::create_task(note_after(noted, 1ms, 'a'));
    auto b = asyncio::create_task(note_after(noted, 1ms, 'b'));
    co_await c;
    CHECK(noted == "abc");
    CHECK(now_ms() == 3);
}

ASYNC_TEST("tasks take turns while they yield") {
    notes noted;
    auto steps = [](notes* to, char c) -> asyncio::coro<> {
        for (int i = 0; i < 3; ++i) {
            (*to)(c);
            co_await asyncio::sleep(0s);
        }
    };
    auto a = asyncio::create_task(steps(&noted, 'a'));
    auto b = asyncio::create_task(steps(&noted, 'b'));
    co_await a;
    co_await b;
    CHECK(noted == "ababab");
}

ASYNC_TEST("gather gives the values in the order of its arguments, after the longest") {
    auto [a, b, c] = co_await asyncio::gather(after(3ms, 1), after(1ms, 2), after(2ms, 3));
    CHECK((a == 1 && b == 2 && c == 3));
    CHECK(now_ms() == 3);
}

ASYNC_TEST("a cancelled sleep ends at once, and its timer with it") {
    auto sleeper = asyncio::create_task(after(1h, 1));
    co_await turns(2);
    CHECK(sleeper.cancel());
    const auto got = co_await asyncio::as_outcome(sleeper);
    CHECK(!got);
    CHECK(got.error().holds<asyncio::cancelled_error>());
    CHECK(sleeper.cancelled());
    CHECK(now_ms() == 0);
    CHECK(!asyncio::get_running_loop().next_deadline());
}

ASYNC_TEST("a task that is cancelled before it begins never runs") {
    notes noted;
    auto body = [](notes* to) -> asyncio::coro<> {
        (*to)('x');
        co_return;
    };
    auto task = asyncio::create_task(body(&noted));
    task.cancel();
    co_await turns(2);
    CHECK(task.cancelled());
    CHECK(noted == "");
}

struct leaves {
    notes* to;
    char what;
    ~leaves() { (*to)(what); }
};

ASYNC_TEST("a failure ends its coroutines, innermost first, up to who wants an outcome") {
    notes noted;
    auto inner = [](notes* to) -> asyncio::coro<int> {
        const leaves at_end{to, 'i'};
        const int value = co_await failing(1ms);
        (*to)('x');
        co_return value;
    };
    auto outer = [&inner](notes* to) -> asyncio::coro<int> {
        const leaves at_end{to, 'o'};
        const int value = co_await inner(to);
        (*to)('x');
        co_return value;
    };
    const auto got = co_await asyncio::as_outcome(outer(&noted));
    noted('.');
    CHECK(noted == "io.");
    CHECK(!got);
    CHECK(got.error().code() == std::errc::io_error);
    CHECK(std::strstr(got.error().what(), "the wire broke"));
    const auto good = co_await asyncio::as_outcome(after(1ms, 7));
    CHECK((good && *good == 7));
}

ASYNC_TEST("gather with return_exceptions keeps values and errors apart") {
    const auto got = co_await asyncio::gather(asyncio::return_exceptions, after(1ms, 1),
                                              failing(2ms), after(3ms, 3));
    CHECK((got[0] && *got[0] == 1 && got[2] && *got[2] == 3));
    CHECK(!got[1]);
    CHECK(got[1].error().code() == std::errc::io_error);
}

ASYNC_TEST("wait gives what is done first, and leaves the other as it is") {
    auto fast = asyncio::create_task(after(1ms, 1));
    auto slow = asyncio::create_task(after(1h, 2));
    std::vector<asyncio::task<int>> both{fast, slow};
    asyncio::wait_options options;
    options.return_when = asyncio::return_when::first_completed;
    const auto got = co_await asyncio::wait(both, options);
    CHECK((got.done.size() == 1 && got.done[0] == fast));
    CHECK((got.pending.size() == 1 && !slow.done()));
    slow.cancel();
}

ASYNC_TEST("a future hands a value to its waiter") {
    auto future = asyncio::get_running_loop().create_future<int>();
    asyncio::get_running_loop().call_later(4ms, [future]() mutable { future.set_result(5); });
    const int value = co_await future;
    CHECK(value == 5);
    CHECK(now_ms() == 4);
}

// -- timeouts

ASYNC_TEST("wait_for ends what is late at its time exactly") {
    const auto late = co_await asyncio::as_outcome(asyncio::wait_for(after(1h, 1), 5ms));
    CHECK(!late);
    CHECK(late.error().holds<asyncio::timeout_error>());
    CHECK(late.error().code() == std::errc::timed_out);
    CHECK(now_ms() == 5);
    const int value = co_await asyncio::wait_for(after(4ms, 3), 5ms);
    CHECK(value == 3);
    CHECK(now_ms() == 9);
}

ASYNC_TEST("of two timeouts the outer one may come first, and says so") {
    auto inner = []() -> asyncio::coro<int> {
        const int value = co_await asyncio::wait_for(after(1h, 1), 10ms);
        co_return value;
    };
    const auto got = co_await asyncio::as_outcome(asyncio::wait_for(inner(), 5ms));
    CHECK(!got);
    CHECK(got.error().holds<asyncio::timeout_error>());
    CHECK(now_ms() == 5);
}

ASYNC_TEST("a timeout may be moved while its body runs") {
    const int value = co_await asyncio::with(
        asyncio::timeout(5ms), [](asyncio::timeout& limit) -> asyncio::coro<int> {
            limit.reschedule(asyncio::get_running_loop().time() + 20ms);
            const int got = co_await after(10ms, 6);
            co_return got;
        });
    CHECK(value == 6);
    CHECK(now_ms() == 10);
}

// -- groups

ASYNC_TEST("a group awaits all of its tasks") {
    asyncio::task<int> a;
    asyncio::task<int> b;
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& group) {
        a = group.create_task(after(2ms, 1));
        b = group.create_task(after(7ms, 2));
    });
    CHECK((a.result() == 1 && b.result() == 2));
    CHECK(now_ms() == 7);
}

ASYNC_TEST("a failing task of a group cancels the others, and the group has its error") {
    asyncio::task<int> slow;
    auto body = [&slow](asyncio::task_group& group) {
        slow = group.create_task(after(1h, 1));
        group.create_task(failing(2ms));
    };
    auto all = [&body]() -> asyncio::coro<> {
        co_await asyncio::with(asyncio::task_group(), body);
    };
    const auto got = co_await asyncio::as_outcome(all());
    CHECK(!got);
    CHECK(got.error().holds<asyncio::exception_group>());
    CHECK(slow.cancelled());
    CHECK(now_ms() == 2);
}

// -- locks

ASYNC_TEST("a lock serves its waiters in turn, and one that is cancelled leaves the line") {
    asyncio::lock mutex;
    notes noted;
    auto enter = [](asyncio::lock* m, notes* to, char c) -> asyncio::coro<> {
        auto held = co_await m->scoped();
        co_await asyncio::sleep(1ms);
        (*to)(c);
    };
    auto a = asyncio::create_task(enter(&mutex, &noted, 'a'));
    auto b = asyncio::create_task(enter(&mutex, &noted, 'b'));
    auto c = asyncio::create_task(enter(&mutex, &noted, 'c'));
    co_await turns(2);
    CHECK(mutex.locked());
    b.cancel();
    co_await c;
    CHECK(noted == "ac");
    CHECK(now_ms() == 2);
    CHECK(!mutex.locked());
}

ASYNC_TEST("a semaphore lets in as many as it counts") {
    asyncio::semaphore slots(2);
    int inside = 0;
    int most = 0;
    auto enter = [&]() -> asyncio::coro<> {
        auto held = co_await slots.scoped();
        most = std::max(most, ++inside);
        co_await asyncio::sleep(1ms);
        --inside;
    };
    std::vector<asyncio::task<>> tasks;
    for (int i = 0; i < 5; ++i) tasks.push_back(asyncio::create_task(enter()));
    co_await asyncio::gather(tasks);
    CHECK(most == 2);
    CHECK(now_ms() == 3);
}

ASYNC_TEST("an event wakes all, a condition one, a barrier everybody at once") {
    asyncio::event door;
    asyncio::condition changed;
    asyncio::barrier gate(3);
    int through = 0;
    int notified = 0;
    auto visitor = [&]() -> asyncio::coro<> {
        co_await door.wait();
        ++through;
        co_await gate.wait();
        ++through;
        auto held = co_await changed.scoped();
        co_await changed.wait();
        ++notified;
    };
    std::vector<asyncio::task<>> tasks;
    for (int i = 0; i < 3; ++i) tasks.push_back(asyncio::create_task(visitor()));
    co_await turns(3);
    CHECK(through == 0);
    door.set();
    co_await turns(10);
    CHECK(through == 6);
    {
        auto held = co_await changed.scoped();
        changed.notify(1);
    }
    co_await turns(5);
    CHECK(notified == 1);
    {
        auto held = co_await changed.scoped();
        changed.notify_all();
    }
    co_await asyncio::gather(tasks);
    CHECK(notified == 3);
}

// -- queues and generators

ASYNC_TEST("a full queue holds its producer back, and nothing is lost or overtaken") {
    asyncio::queue<int> items(2);
    int put = 0;
    auto produce = [&]() -> asyncio::coro<> {
        for (int i = 0; i < 6; ++i) {
            co_await items.put(i);
            ++put;
        }
        items.shutdown();
    };
    auto producer = asyncio::create_task(produce());
    co_await turns(5);
    CHECK(put == 2);
    CHECK(items.full());
    int sum = 0;
    int count = 0;
    for (;;) {
        const std::optional<int> item = co_await items.next();
        if (!item) break;
        sum = sum * 10 + *item;
        ++count;
    }
    CHECK((count == 6 && sum == 12345));
    co_await producer;
}

ASYNC_TEST("a priority queue gives the smallest, a stack the last; join waits for what is done") {
    asyncio::priority_queue<int> small;
    asyncio::lifo_queue<int> stack;
    for (const int n : {2, 1, 3}) {
        small.put_nowait(n);
        stack.put_nowait(n);
    }
    CHECK(small.get_nowait() == 1);
    CHECK(stack.get_nowait() == 3);
    auto joined = asyncio::create_task([&stack]() -> asyncio::coro<> { co_await stack.join(); });
    for (int i = 0; i < 3; ++i) {
        co_await turns(2);
        CHECK(!joined.done());
        stack.task_done();
    }
    co_await joined;
}

asyncio::async_generator<int> count_to(int last, notes& noted) {
    const leaves at_end{&noted, 'e'};
    for (int i = 1; i <= last; ++i) {
        co_await asyncio::sleep(1ms);
        co_yield i;
    }
}

ASYNC_TEST("a generator waits between its values, and aclose ends it where it stands") {
    notes noted;
    {
        auto numbers = count_to(3, noted);
        int sum = 0;
        for (;;) {
            const std::optional<int> n = co_await numbers.next();
            if (!n) break;
            sum += *n;
        }
        CHECK(sum == 6);
        CHECK(now_ms() == 3);
    }
    CHECK(noted == "e");
    auto numbers = count_to(3, noted);
    const std::optional<int> first = co_await numbers.next();
    co_await numbers.aclose();
    CHECK(first == 1);
    CHECK(noted == "ee");
}

// -- the loop

TEST("run_until_complete gives the result, and stop() ends run_forever") {
    asyncio::event_loop loop;
    CHECK(loop.run_until_complete(after(2ms, 4)) == 4);
    notes noted;
    loop.call_later(2ms, [&] { noted('b'); });
    loop.call_soon([&] { noted('a'); });
    auto never = loop.call_later(1ms, [&] { noted('x'); });
    never.cancel();
    loop.call_later(3ms, [&] { loop.stop(); });
    loop.run_forever();
    CHECK(noted == "ab");
    CHECK(!loop.is_running());
}

TEST("a host drives the loop by poll() and next_deadline(), and then it never idles") {
    asyncio::event_loop loop;
    port.idles = 0;
    CHECK(!loop.next_deadline());
    auto task = loop.create_task(after(10ms, 3));
    CHECK(loop.next_deadline() == asyncio::duration::zero());
    CHECK(loop.poll() == 1);
    CHECK(loop.next_deadline() == asyncio::duration(10ms));
    port.now += 4'000'000;
    CHECK(loop.poll() == 0);
    CHECK(loop.next_deadline() == asyncio::duration(6ms));
    port.now += 6'000'000;
    CHECK(loop.next_deadline() == asyncio::duration::zero());
    loop.poll();
    CHECK(task.done());
    CHECK(task.result() == 3);
    CHECK(!loop.next_deadline());
    CHECK(port.idles == 0);
    CHECK(loop.native_handle() == -1);
}

TEST("an interrupt reaches a loop that a host polls") {
    static asyncio::isr_event button;
    asyncio::event_loop loop;
    bool pressed = false;
    auto watch = [&]() -> asyncio::coro<> {
        co_await button.wait();
        pressed = true;
    };
    auto task = loop.create_task(watch());
    loop.poll();
    CHECK(!asyncio::isr_event::pending());
    button.set();
    CHECK(asyncio::isr_event::pending());
    loop.poll();
    CHECK(pressed);
    CHECK(!asyncio::isr_event::pending());
}

TEST("a loop that goes destroys what waits in it") {
    notes noted;
    auto body = [](notes* to) -> asyncio::coro<> {
        const leaves at_end{to, 'e'};
        co_await asyncio::sleep(1h);
        (*to)('x');
    };
    {
        asyncio::event_loop loop;
        loop.create_task(body(&noted));
        loop.poll();
    }
    CHECK(noted == "e");
}

TEST("run cancels what its main left, and a virtual clock never idles") {
    port.idles = 0;
    asyncio::run_options options;
    options.clock = asyncio::clock_kind::virtual_time;
    notes noted;
    auto left = [](notes* to) -> asyncio::coro<> {
        const leaves at_end{to, 'e'};
        co_await asyncio::sleep(24h);
        (*to)('x');
    };
    auto main = [&]() -> asyncio::coro<int> {
        asyncio::create_task(left(&noted));
        const int value = co_await after(1h, 2);
        co_return value;
    };
    CHECK(asyncio::run(main(), options) == 2);
    CHECK(noted == "e");
    CHECK(port.idles == 0);
}

TEST("run_main gives main()'s exit code") {
    CHECK(asyncio::run_main(after(1ms, 3)) == 3);
}

ASYNC_TEST("what is posted from elsewhere runs in the next turn") {
    bool ran = false;
    asyncio::get_running_loop().call_soon_threadsafe([&] { ran = true; });
    co_await turns(2);
    CHECK(ran);
}

// -- interrupts

asyncio::isr_event button;

ASYNC_TEST("an interrupt before the wait is not lost, and several count as one") {
    port.idles = 0;
    button.set();
    button.set();
    CHECK(button.is_set());
    CHECK(!asyncio::isr_event::pending()); // nobody waits
    co_await button.wait();
    CHECK(!button.is_set());
    CHECK(port.idles == 0);
    const auto again = co_await asyncio::as_outcome(asyncio::wait_for(button.wait(), 5ms));
    CHECK(!again);
    CHECK(now_ms() == 5);
}

ASYNC_TEST("an interrupt while the loop is idle wakes its task at once") {
    port.idles = 0;
    interrupt_in(3ms, button);
    co_await button.wait();
    CHECK(port.idles == 1);
    CHECK(port.asked == -1); // for ever, or until an interrupt comes
    CHECK(now_ms() == 3);
    CHECK(!button.is_set());
}

ASYNC_TEST("a timer that goes on beside interrupts is exact all the same") {
    port.idles = 0;
    interrupt_in(2ms, button);
    interrupt_in(3ms, button);
    interrupt_in(9ms, button);
    int pressed = 0;
    auto watch = [&]() -> asyncio::coro<> {
        for (;; ++pressed) co_await button.wait();
    };
    auto watching = asyncio::create_task(watch());
    co_await asyncio::sleep(10ms);
    CHECK(now_ms() == 10);
    CHECK(pressed == 3);
    CHECK(port.idles == 4);
    CHECK(port.asked == 1'000'000);
    watching.cancel();
}

ASYNC_TEST("pending() tells the port, with interrupts masked, whether it may sleep") {
    // As if it came between the loop's look and the port's.
    static bool before, after_it;
    static asyncio::isr_event ready;
    interrupt_in(1ms, ready, [] {
        before = asyncio::isr_event::pending();
        ready.set();
        after_it = asyncio::isr_event::pending();
    });
    co_await ready.wait();
    CHECK(!before);
    CHECK(after_it);
    CHECK(!asyncio::isr_event::pending());
}

ASYNC_TEST("an event that nobody waits for does not keep the loop awake") {
    port.idles = 0;
    button.set();
    co_await asyncio::sleep(5ms);
    CHECK(port.idles == 1);
    CHECK(button.is_set());
    co_await button.wait();
}

ASYNC_TEST("a wait that is cancelled leaves the event set") {
    auto watch = []() -> asyncio::coro<> { co_await button.wait(); };
    auto watching = asyncio::create_task(watch());
    co_await turns(2);
    button.set();
    watching.cancel();
    co_await turns(2);
    CHECK(watching.cancelled());
    CHECK(button.is_set());
    co_await button.wait();
    CHECK(now_ms() == 0);
}

ASYNC_TEST("an interrupt that comes after the timeout waits for the next one who asks") {
    interrupt_in(8ms, button);
    const auto late = co_await asyncio::as_outcome(asyncio::wait_for(button.wait(), 5ms));
    CHECK(!late);
    CHECK(now_ms() == 5);
    co_await asyncio::sleep(5ms);
    CHECK(button.is_set());
    co_await button.wait();
    CHECK(now_ms() == 10);
}

ASYNC_TEST("a loop that never runs out of callbacks takes in interrupts and timers") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    bool stop = false;
    int ran = 0;
    std::function<void()> again = [&] {
        ++ran;
        port.now += 1'000;
        if (ran == 500) button.set();
        if (!stop && ran < 100'000) loop.call_soon([&] { again(); });
    };
    again();
    auto timer = asyncio::create_task(after(300us, 1));
    co_await button.wait();
    CHECK(ran >= 500);
    CHECK(ran < 700);
    CHECK(timer.done());
    stop = true;
    co_await turns(2);
}

ASYNC_TEST("an event that goes is out of the way of the others") {
    {
        asyncio::isr_event gone;
        gone.set();
    }
    interrupt_in(1ms, button);
    co_await button.wait();
    CHECK(now_ms() == 1);
}

// -- memory

TEST("a second round of the same work takes no memory") {
    auto work = []() -> asyncio::coro<> {
        asyncio::queue<int> items(1);
        auto produce = [&items]() -> asyncio::coro<> {
            for (int i = 0; i < 3; ++i) co_await items.put(i);
        };
        auto producer = asyncio::create_task(produce());
        for (int i = 0; i < 3; ++i) co_await asyncio::wait_for(items.get(), 5ms);
        co_await producer;
    };
    if constexpr (ASYNCIO_SANITIZED) return; // where nothing is used again
    asyncio::run(work());
    const std::size_t before = frames_taken;
    asyncio::run(work());
    CHECK(frames_taken == before);
}

// Larger than what is kept for the next one. Where in the room is not known beforehand, or an
// optimiser would keep two bytes of it.
asyncio::coro<> large() {
    volatile std::size_t place = 0;
    char room[1'500] = {};
    room[place] = 1;
    co_await asyncio::sleep(1ms);
    CHECK(room[place] == 1);
}

ASYNC_TEST("no memory for a task is an error of who makes it, and the loop goes on") {
    largest_frame = 1'200;
#if defined(ASYNCIO_NO_EXCEPTIONS)
    auto task = asyncio::create_task(large());
    CHECK(task.done());
    const bool refused = asyncio::error(task.exception()).holds<std::bad_alloc>();
#else
    bool refused = false;
    try {
        auto task = asyncio::create_task(large());
    } catch (const std::bad_alloc&) {
        refused = true;
    }
#endif
    largest_frame = SIZE_MAX;
    CHECK(refused);
    co_await large();
    CHECK(now_ms() == 1);
}

#if defined(ASYNCIO_NO_EXCEPTIONS)

int ends = 0; // of coroutines
struct counts_its_end {
    ~counts_its_end() { ++ends; }
};

asyncio::coro<int> deeper(int depth) {
    const counts_its_end end;
    if (depth == 0) co_return 0;
    const int below = co_await deeper(depth - 1);
    co_return below + 1;
}

ASYNC_TEST("a coroutine that gets no memory fails where it is awaited, and so do those above") {
    frames_most = frames_held + 10'000;
    ends = 0;
    const auto r = co_await asyncio::as_outcome(deeper(1'000'000));
    const int reached = ends;
    frames_most = SIZE_MAX;
    CHECK(!r.has_value());
    CHECK(r.error().holds<std::bad_alloc>());
    CHECK(reached > 10);
    const int depth = co_await deeper(reached);
    CHECK(depth == reached);
    CHECK(ends == 2 * reached + 1);
}

ASYNC_TEST("a coroutine that got no memory and is not awaited leaves nothing") {
    largest_frame = 1'200;
    { const auto never = large(); }
    auto moved = large();
    auto taken = std::move(moved);
    largest_frame = SIZE_MAX;
    const auto r = co_await asyncio::as_outcome(std::move(taken));
    CHECK(!r.has_value());
}

// How many tasks could be made. What each held goes with it, made or not.
int fill_with_tasks(std::vector<asyncio::task<int>>& tasks, asyncio::event& go) {
    auto work = [](asyncio::event& event, counts_its_end) -> asyncio::coro<int> {
        co_await event.wait();
        co_return 1;
    };
    for (;;) {
        auto task = asyncio::create_task(work(go, {}));
        if (task.done()) {
            CHECK(asyncio::error(task.exception()).holds<std::bad_alloc>());
            return static_cast<int>(tasks.size());
        }
        tasks.push_back(std::move(task));
    }
}

ASYNC_TEST("wherever memory ends, one task is refused and the others run on") {
    asyncio::event go;
    const std::size_t held = frames_held;
    for (std::size_t more = 0; more < 600; more += 20) { // for a frame, but not for its task
        std::vector<asyncio::task<int>> tasks;
        frames_most = held + 10'000 + more;
        int made = fill_with_tasks(tasks, go);
        CHECK(fill_with_tasks(tasks, go) == made);
        frames_most = SIZE_MAX;
        CHECK(made > 10);
        ends = 0;
        go.set();
        for (const auto& task : tasks) made -= co_await task;
        CHECK(made == 0);
        CHECK(ends >= static_cast<int>(tasks.size()));
        go.clear();
    }
    co_await large();
}

ASYNC_TEST("a full arena refuses one task, and what ends makes room for as many again") {
    asyncio::event go;
    from_arena = true;
    int most = 0;
    for (int round = 0; round < 3; ++round) {
        std::vector<asyncio::task<int>> tasks;
        int made = fill_with_tasks(tasks, go);
        CHECK(fill_with_tasks(tasks, go) == made);
        CHECK(made >= most);
        most = made;
        go.set();
        for (const auto& task : tasks) made -= co_await task;
        CHECK(made == 0);
        go.clear();
    }
    from_arena = false;
    CHECK(most > 4);
    CHECK(arena.peak() <= arena.capacity());
    CHECK(arena.peak() > arena.capacity() * 3 / 4);
    co_await large();
}

asyncio::coro<> group_that_fills_the_memory(int& made) {
    auto body = [&made](asyncio::task_group& group) -> asyncio::coro<> {
        auto work = [](counts_its_end) -> asyncio::coro<> { co_await asyncio::sleep(1h); };
        while (!group.create_task(work({})).done()) ++made;
        group.create_task(work({})); // by who does not look
        frames_most = SIZE_MAX;
        group.create_task(work({}));
        co_await asyncio::sleep(2h);
    };
    co_await asyncio::with(asyncio::task_group(), body);
}

asyncio::async_generator<int> large_numbers() {
    volatile std::size_t place = 0; // as in large()
    char room[1'500] = {};
    room[place] = 1;
    co_yield 1;
    co_yield room[place];
}

ASYNC_TEST("a generator that gets no memory fails at its first value, then gives nothing") {
    largest_frame = 1'200;
    auto refused = large_numbers();
    auto closed = large_numbers();
    { const auto never = large_numbers(); }
    largest_frame = SIZE_MAX;
    auto taken = std::move(refused);
    const auto r = co_await asyncio::as_outcome(taken.next());
    CHECK(!r.has_value());
    CHECK(r.error().holds<std::bad_alloc>());
    const auto next = co_await taken.next();
    CHECK(!next);
    co_await taken.aclose();
    co_await closed.aclose();
    auto numbers = large_numbers();
    const auto first = co_await numbers.next();
    CHECK(first == 1);
}

asyncio::coro<> group_with_a_large_one() {
    auto body = [](asyncio::task_group& group) -> asyncio::coro<> {
        group.create_task(after(1h, 1));
        largest_frame = 1'200;
        group.create_task(large());
        largest_frame = SIZE_MAX;
        co_await asyncio::sleep(2h);
    };
    co_await asyncio::with(asyncio::task_group(), body);
}

ASYNC_TEST("no memory for a member of a group ends the others") {
    const auto r = co_await asyncio::as_outcome(group_with_a_large_one());
    CHECK(!r.has_value());
    const auto* const group =
        asyncio::detail::exception_cast<asyncio::exception_group>(r.error().exception());
    CHECK(group && group->contains<std::bad_alloc>());
    CHECK(now_ms() == 0);
}

ASYNC_TEST("wherever memory ends in a group, its children are ended, and it fails with that") {
    const std::size_t held = frames_held;
    for (std::size_t more = 0; more < 600; more += 20) {
        int made = 0;
        ends = 0;
        frames_most = held + 10'000 + more;
        const auto r = co_await asyncio::as_outcome(group_that_fills_the_memory(made));
        CHECK(!r.has_value());
        CHECK(made > 10);
        CHECK(ends >= made);
        const auto* const group =
            asyncio::detail::exception_cast<asyncio::exception_group>(r.error().exception());
        CHECK(group && group->contains<std::bad_alloc>());
    }
    CHECK(now_ms() == 0);
}

#endif

// -- what ends the program

asyncio::coro<> backwards() {
    co_await asyncio::sleep(1ms);
    port.now -= 500'000;
    co_await asyncio::sleep(1ms);
}
asyncio::coro<> forgotten() {
    asyncio::create_task(failing(1ms));
    co_await asyncio::sleep(5ms);
}
asyncio::coro<> hungry() {
    std::vector<asyncio::task<int>> tasks;
    frames_most = frames_held + 10'000;
    for (int i = 0; i < 200; ++i) tasks.push_back(asyncio::create_task(after(1h, i)));
    co_await asyncio::gather(tasks);
}

int run_all(const char* word) {
    if (std::strcmp(word, "backwards") == 0) {
        expected_end = "asyncio_port_now_ns() went backwards; let it count up";
        asyncio::run(backwards());
    } else if (std::strcmp(word, "forgotten") == 0) {
        expected_end = "a task failed and nobody looked at its error";
        asyncio::run(forgotten());
    } else if (std::strcmp(word, "uncaught") == 0) {
        expected_end = "the wire broke";
        asyncio::run_main(failing(1ms));
    } else if (std::strcmp(word, "memory") == 0) {
        expected_end = "asyncio: no memory for a timer, a callback or a future";
        asyncio::run(hungry());
    } else if (*word != '\0') {
        return 2;
    }
    if (expected_end) {
        say("the program did not end\n");
        return 1;
    }
    int passed = 0;
    int failed = 0;
    for (const test* t = test::first; t; t = t->next) {
        const int before = broken;
        const std::int64_t now = port.now; // which never goes back
        port = {};
        port.now = now;
        t->run();
        CHECK(port.interrupts_come == port.interrupts_set);
        ++(broken == before ? passed : failed);
        if (broken == before) continue;
        say("FAILED: ");
        say(t->name);
        say("\n");
    }
    say(passed);
    say(" passed, ");
    say(failed);
    say(" failed\n");
    return failed == 0 && passed > 0 ? 0 : 1;
}

} // namespace

#if ON_A_CHIP

int main() {
    char line[64] = {};
    struct {
        char* text;
        std::uint32_t size;
    } command{line, sizeof line};
    if (ask_debugger(0x15, &command) != 0) return 2; // SYS_GET_CMDLINE
    const char* const blank = std::strchr(line, ' ');
    return run_all(blank ? blank + 1 : "");
}

#else

int main(int argc, char** argv) { return run_all(argc > 1 ? argv[1] : ""); }

#endif
