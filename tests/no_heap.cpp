// No heap after the start: what programs do again and again takes memory once. And what happens
// when there is no memory: one request after the other fails, and costs what asked for it, no more.
//
// Compiled twice: as it is, coroutines get their memory from operator new; with FIXED_ARENA, which
// takes an implementation of its own, from a fixed_arena.
//
// All requests for memory are counted, those to the C library, too, where that lets itself be
// replaced. A sanitizer does not, and takes from the library what it keeps: there nothing is zero.
#include <cstddef>
#if defined(FIXED_ARENA)
void* take_frame(std::size_t size);
void give_back_frame(void* memory, std::size_t size);
#define ASYNCIO_ALLOC(size) take_frame(size)
#define ASYNCIO_FREE(memory, size) give_back_frame(memory, size)
#endif
#include "asyncio.hpp"

#if defined(FIXED_ARENA)
asyncio::fixed_arena& the_arena() {
    static std::byte memory[4 * 1024 * 1024];
    static asyncio::fixed_arena arena(memory);
    return arena;
}
#endif

#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"

#define DOCTEST_CONFIG_IMPLEMENT_WITH_MAIN
#include <doctest/doctest.h>

#include <array>
#include <cstdint>
#include <cstdlib>
#include <new>
#include <random>
#include <span>
#include <string_view>
#include <vector>

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

using namespace std::chrono_literals;

// ---- counted memory -----------------------------------------------------------------------------

namespace {

long long requests = 0; // of this thread alone: nothing here starts another one
long long blocks = 0;   // that are given out
bool refused = false;   // the heap gives nothing

// Which requests fail.
namespace failure {

long long left = -1; // so many succeed before; negative: all do
long long count = 0;
bool reached = false;

void begin(long long n, long long how_many) {
    left = n;
    count = how_many;
    reached = false;
}
// Whether one has failed.
bool stop() {
    left = -1;
    return reached;
}
[[maybe_unused]] bool now() { // nobody asks it where operator new is a sanitizer's
    if (left < 0) return false;
    if (left > 0) {
        --left;
        return false;
    }
    reached = true;
    if (--count <= 0) left = -1;
    return true;
}

} // namespace failure

} // namespace

// Sanitizers see to the C library's; clang's for threads to operator new, too.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define IS_SANITIZED 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(memory_sanitizer)
#define IS_SANITIZED 1
#elif __has_feature(thread_sanitizer)
#define IS_SANITIZED 1
#define REPLACES_NEW 0
#endif
#endif
#if !defined(IS_SANITIZED)
#define IS_SANITIZED 0
#endif
#if !defined(REPLACES_NEW)
#define REPLACES_NEW 1
#endif

#if !IS_SANITIZED && defined(__GLIBC__)
extern "C" {
void* __libc_malloc(std::size_t size);
void* __libc_calloc(std::size_t count, std::size_t size);
void* __libc_realloc(void* memory, std::size_t size);

void* malloc(std::size_t size) noexcept {
    ++requests;
    return refused ? nullptr : __libc_malloc(size);
}
void* calloc(std::size_t count, std::size_t size) noexcept {
    ++requests;
    return refused ? nullptr : __libc_calloc(count, size);
}
void* realloc(void* memory, std::size_t size) noexcept {
    ++requests;
    return refused ? nullptr : __libc_realloc(memory, size);
}
}
#endif

#if REPLACES_NEW
// Not inlined, or g++ 12 takes them for a mismatch when it optimises.
[[gnu::noinline]] void* operator new(std::size_t size) {
    ++requests;
    void* const memory = refused || failure::now() ? nullptr : std::malloc(size ? size : 1);
    if (memory == nullptr) throw std::bad_alloc();
    ++blocks;
    return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
    if (memory == nullptr) return;
    --blocks;
    std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
    operator delete(memory);
}
#endif

#if defined(FIXED_ARENA)
void* take_frame(std::size_t size) {
    void* const memory = failure::now() ? nullptr : the_arena().allocate(size);
    if (memory != nullptr) ++blocks;
    return memory;
}
void give_back_frame(void* memory, std::size_t size) {
    --blocks;
    the_arena().deallocate(memory, size);
}
#endif

namespace {

// ---- the arena itself ---------------------------------------------------------------------------

TEST_SUITE("fixed arena") {

TEST_CASE("it gives out its buffer, no more, and takes it back") {
    alignas(64) std::byte memory[4096];
    asyncio::fixed_arena arena(memory);
    CHECK(arena.capacity() > 3900);
    CHECK(arena.capacity() < sizeof memory);
    CHECK(arena.used() == 0);

    std::vector<std::byte*> pieces;
    while (void* const piece = arena.allocate(100)) {
        CHECK(reinterpret_cast<std::uintptr_t>(piece) % 16 == 0);
        pieces.push_back(static_cast<std::byte*>(piece));
        std::fill_n(pieces.back(), 100, static_cast<std::byte>(pieces.size()));
    }
    CHECK(pieces.size() == arena.capacity() / 112);
    CHECK(arena.used() == pieces.size() * 112);
    for (std::size_t i = 0; i < pieces.size(); ++i) {
        CHECK(pieces[i] >= memory);
        CHECK(pieces[i] + 100 <= memory + sizeof memory);
        const auto mark = static_cast<std::byte>(i + 1);
        CHECK(std::count(pieces[i], pieces[i] + 100, mark) == 100);
    }

    for (std::byte* const piece : pieces) arena.deallocate(piece, 100);
    CHECK(arena.used() == 0);
    CHECK(arena.peak() == pieces.size() * 112);
    void* const all = arena.allocate(arena.capacity());
    CHECK(all != nullptr);
    CHECK(arena.peak() == arena.capacity());
    CHECK(arena.allocate(1) == nullptr);
    arena.deallocate(all, arena.capacity());
}

TEST_CASE("free neighbours are one piece, in whatever order they came back") {
    alignas(16) std::byte memory[2048];
    asyncio::fixed_arena arena(memory);
    for (int order = 0; order < 6; ++order) {
        std::array<void*, 3> pieces{arena.allocate(160), arena.allocate(320), arena.allocate(480)};
        void* const behind = arena.allocate(16);
        std::array<std::size_t, 3> turns{0, 1, 2};
        for (int i = 0; i < order; ++i) std::next_permutation(turns.begin(), turns.end());
        for (const std::size_t i : turns)
            arena.deallocate(pieces[i], (i + 1) * 160);
        void* const whole = arena.allocate(960);
        CHECK(whole == pieces[0]);
        arena.deallocate(whole, 960);
        arena.deallocate(behind, 16);
        CHECK(arena.used() == 0);
    }
}

TEST_CASE("sizes of nothing and of everything are no special cases") {
    std::array<std::byte, 1000> memory;
    asyncio::fixed_arena arena(std::span<std::byte>(memory).subspan(3)); // it aligns by itself
    void* const nothing = arena.allocate(0);
    void* const something = arena.allocate(0);
    CHECK(nothing != nullptr);
    CHECK(nothing != something);
    CHECK(arena.used() == 32);
    arena.deallocate(nothing, 0);
    arena.deallocate(something, 0);
    arena.deallocate(nullptr, 10);
    CHECK(arena.used() == 0);
    CHECK(arena.allocate(SIZE_MAX) == nullptr);
    CHECK(arena.allocate(SIZE_MAX - 15) == nullptr);
    CHECK(arena.allocate(arena.capacity() + 1) == nullptr);

    asyncio::fixed_arena none(std::span<std::byte>{});
    CHECK(none.capacity() == 0);
    CHECK(none.allocate(1) == nullptr);
    for (std::size_t size = 0; size < 64; ++size) {
        asyncio::fixed_arena little(std::span<std::byte>(memory).first(size));
        CHECK(little.capacity() <= size);
        CHECK((little.allocate(1) != nullptr) == (little.capacity() > 0));
    }
}

TEST_CASE("a hundred thousand requests in random order never overlap") {
    static std::byte memory[64 * 1024];
    asyncio::fixed_arena arena(memory);
    struct piece {
        std::byte* begin;
        std::size_t size;
        std::byte mark;
    };
    std::vector<piece> pieces;
    std::mt19937 random(1);
    std::size_t expected = 0;
    int refusals = 0;
    int damaged = 0;
    for (int i = 0; i < 100'000; ++i) {
        if (!pieces.empty() && random() % 2 == 0) {
            const std::size_t which = random() % pieces.size();
            const piece p = pieces[which];
            pieces[which] = pieces.back();
            pieces.pop_back();
            damaged += std::count(p.begin, p.begin + p.size, p.mark) ==
                               static_cast<std::ptrdiff_t>(p.size) ? 0 : 1;
            arena.deallocate(p.begin, p.size);
            expected -= (p.size + 15) / 16 * 16;
        } else {
            const std::size_t size = 1 + random() % 1500;
            auto* const begin = static_cast<std::byte*>(arena.allocate(size));
            if (begin == nullptr) {
                ++refusals;
                continue;
            }
            const auto mark = static_cast<std::byte>(random() % 256);
            std::fill_n(begin, size, mark);
            pieces.push_back({begin, size, mark});
            expected += (size + 15) / 16 * 16;
        }
    }
    CHECK(damaged == 0);
    CHECK(arena.used() == expected);
    CHECK(refusals > 0);
    for (const piece& p : pieces) arena.deallocate(p.begin, p.size);
    CHECK(arena.used() == 0);
    const auto* const whole = static_cast<std::byte*>(arena.allocate(arena.capacity()));
    REQUIRE(whole != nullptr);
    CHECK(whole >= memory);
    CHECK(whole + arena.capacity() <= memory + sizeof memory);
}

} // TEST_SUITE

// ---- nothing after the start --------------------------------------------------------------------

constexpr std::size_t most_tasks = 1000;

// What the tasks of one program share.
struct office {
    asyncio::lock lock;
    asyncio::semaphore slots{4};
    asyncio::event open;
    asyncio::condition changed;
    asyncio::queue<std::size_t> in{16};
    asyncio::queue<std::size_t> out;
    int visitors = 0;
    std::size_t sum = 0;
};

asyncio::coro<std::size_t> slow(std::size_t n) {
    co_await asyncio::sleep(std::chrono::milliseconds(1 + n % 7));
    co_return n;
}

asyncio::coro<> visit(office& o, std::size_t n) {
    co_await o.open.wait();
    co_await asyncio::sleep(std::chrono::milliseconds(n % 10));
    {
        const auto held = co_await o.lock.scoped();
        ++o.visitors;
        co_await asyncio::sleep(0s);
    }
    {
        const auto slot = co_await o.slots.scoped();
        co_await o.in.put(n);
    }
    const auto body = [&o] { return o.out.get(); };
    const std::size_t mine = co_await asyncio::with(asyncio::timeout(1h), body);
    o.sum += co_await asyncio::wait_for(slow(mine), 1h);
}

asyncio::coro<> clerk(office& o) {
    for (std::size_t i = 0; i < most_tasks; ++i) {
        const std::size_t n = co_await o.in.get();
        co_await o.out.put(n);
    }
}

asyncio::coro<> day(office& o, std::vector<asyncio::task<>>& tasks) {
    o.open.clear();
    tasks.clear();
    tasks.push_back(asyncio::create_task(clerk(o)));
    for (std::size_t i = 0; i < most_tasks; ++i)
        tasks.push_back(asyncio::create_task(visit(o, i)));
    co_await asyncio::sleep(1ms);
    o.open.set();
    for (const asyncio::task<>& t : tasks) co_await t;
}

// Each has two ends, and a task at either: with them a thousand tasks are in I/O at once.
constexpr std::size_t most_peers = most_tasks / 2;
constexpr std::size_t message_size = 100;

// Lets the process open as many descriptors as they need.
void allow_descriptors() {
    constexpr rlim_t needed = 2 * most_peers + 100;
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    REQUIRE_MESSAGE(files.rlim_max >= needed, "the system allows too few descriptors");
    files.rlim_cur = std::max(files.rlim_cur, needed);
    REQUIRE(::setrlimit(RLIMIT_NOFILE, &files) == 0);
}

// How many tasks are in I/O, and the most that ever were.
struct gauge {
    std::size_t now = 0;
    std::size_t most = 0;
};
class in_io {
public:
    explicit in_io(gauge& of) : of_(of) { of_.most = std::max(of_.most, ++of_.now); }
    in_io(const in_io&) = delete;
    in_io& operator=(const in_io&) = delete;
    ~in_io() { --of_.now; }

private:
    gauge& of_;
};

// The peers of a day of letters: connected sockets, one end of each for either side.
struct post {
    std::vector<asyncio::socket> near_ends;
    std::vector<asyncio::socket> far_ends;
    gauge busy;
    int good = 0;
};

asyncio::coro<> echo(post& p, std::size_t i) {
    const in_io here(p.busy);
    std::array<std::byte, message_size> data{};
    std::size_t got = 0;
    while (got < data.size()) got += co_await p.far_ends[i].recv(std::span(data).subspan(got));
    co_await p.far_ends[i].sendall(std::span<const std::byte>(data));
}
asyncio::coro<> ask(post& p, std::size_t i) {
    const in_io here(p.busy);
    std::array<std::byte, message_size> sent{};
    sent.fill(static_cast<std::byte>(i));
    co_await p.near_ends[i].sendall(std::span<const std::byte>(sent));
    std::array<std::byte, message_size> data{};
    std::size_t got = 0;
    while (got < data.size()) got += co_await p.near_ends[i].recv(std::span(data).subspan(got));
    if (data == sent) ++p.good;
}
asyncio::coro<> letters(post& p, std::vector<asyncio::task<>>& tasks) {
    tasks.clear();
    for (std::size_t i = 0; i < most_peers; ++i) {
        tasks.push_back(asyncio::create_task(echo(p, i)));
        tasks.push_back(asyncio::create_task(asyncio::wait_for(ask(p, i), 1h)));
    }
    for (const asyncio::task<>& t : tasks) co_await t;
}

// The same through buffers: a server, and connections that stay open.
struct exchange {
    std::vector<asyncio::stream_pair> clients;
    gauge busy;
    int good = 0;
};

asyncio::coro<> serve(exchange& e, asyncio::stream_reader reader, asyncio::stream_writer writer) {
    const in_io here(e.busy);
    std::array<char, message_size> data{};
    for (;;) {
        const std::size_t got = co_await reader.read_into(std::span(data));
        if (got == 0) co_return;
        writer.write(std::string_view(data.data(), got));
        co_await writer.drain();
    }
}
asyncio::coro<> call(exchange& e, std::size_t i) {
    const in_io here(e.busy);
    auto& [reader, writer] = e.clients[i];
    std::array<char, message_size> sent{};
    sent.fill(static_cast<char>('a' + i % 26));
    writer.write(std::string_view(sent.data(), sent.size()));
    co_await writer.drain();
    std::array<char, message_size> data{};
    std::size_t got = 0;
    while (got < data.size()) got += co_await reader.read_into(std::span(data).subspan(got));
    if (data == sent) ++e.good;
}
asyncio::coro<> calls(exchange& e, std::vector<asyncio::task<>>& tasks) {
    tasks.clear();
    for (std::size_t i = 0; i < e.clients.size(); ++i)
        tasks.push_back(asyncio::create_task(asyncio::wait_for(call(e, i), 1h)));
    for (const asyncio::task<>& t : tasks) co_await t;
}

// Counts the requests of this block; `refuse`: and lets the heap give nothing.
class counting {
public:
    explicit counting(bool refuse) : before_(requests) { refused = refuse; }
    counting(const counting&) = delete;
    counting& operator=(const counting&) = delete;
    ~counting() { refused = false; }
    long long end() {
        refused = false;
        return requests - before_;
    }

private:
    long long before_;
};

// Twice to warm up: the second time tasks are there at other moments than the first ones were.
constexpr int warm_up = 2;
constexpr int rounds = 3;

} // namespace

TEST_SUITE("no heap" * doctest::skip(IS_SANITIZED != 0)) {

TEST_CASE("1000 tasks that wait for everything take no memory once they have run") {
    for (const bool refuse : {false, true}) {
        CAPTURE(refuse);
        office o;
        long long taken_at_first = -1;
        long long taken = -1;
        const auto program = [&]() -> asyncio::coro<> {
            std::vector<asyncio::task<>> tasks;
            tasks.reserve(most_tasks + 1);
            counting first(false);
            co_await day(o, tasks);
            taken_at_first = first.end();
            for (int i = 1; i < warm_up; ++i) co_await day(o, tasks);
            counting here(refuse);
            for (int i = 0; i < rounds; ++i) co_await day(o, tasks);
            taken = here.end();
        };
        asyncio::run_options options;
        options.debug = false;
        options.clock = asyncio::clock_kind::virtual_time;
        asyncio::run(program(), options);
#if defined(FIXED_ARENA)
        CHECK(taken_at_first > 0); // the queues'
        CHECK(the_arena().peak() > most_tasks * 300);
#else
        if (!refuse) CHECK(taken_at_first > static_cast<long long>(most_tasks)); // it counts
#endif
        CHECK(taken == 0);
        CHECK(o.visitors == static_cast<int>(most_tasks) * (warm_up + rounds));
        CHECK(o.sum == most_tasks * (most_tasks - 1) / 2 * (warm_up + rounds));
    }
}

TEST_CASE("1000 tasks that send and receive take none") {
    allow_descriptors();
    for (const bool refuse : {false, true}) {
        CAPTURE(refuse);
        post p;
        long long taken = -1;
        const auto program = [&]() -> asyncio::coro<> {
            for (std::size_t i = 0; i < most_peers; ++i) {
                int ends[2];
                const int made = ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
                REQUIRE(made == 0);
                p.near_ends.emplace_back(ends[0]);
                p.far_ends.emplace_back(ends[1]);
            }
            std::vector<asyncio::task<>> tasks;
            tasks.reserve(most_tasks);
            for (int i = 0; i < warm_up; ++i) co_await letters(p, tasks);
            counting here(refuse);
            for (int i = 0; i < rounds; ++i) co_await letters(p, tasks);
            taken = here.end();
        };
        asyncio::run(program(), {.debug = false});
        CHECK(taken == 0);
        CHECK(p.good == static_cast<int>(most_peers) * (warm_up + rounds));
        CHECK(p.busy.most == most_tasks);
    }
}

TEST_CASE("1000 tasks at connections that stay open take none") {
    allow_descriptors();
    for (const bool refuse : {false, true}) {
        CAPTURE(refuse);
        exchange e;
        long long taken = -1;
        const auto program = [&]() -> asyncio::coro<> {
            const auto on_client = [&e](asyncio::stream_reader r, asyncio::stream_writer w) {
                return serve(e, std::move(r), std::move(w));
            };
            asyncio::server server = co_await asyncio::start_server(on_client, "127.0.0.1", 0);
            const int port = server.sockets().at(0).local_address().port();
            for (std::size_t i = 0; i < most_peers; ++i)
                e.clients.push_back(co_await asyncio::open_connection("127.0.0.1", port));
            std::vector<asyncio::task<>> tasks;
            tasks.reserve(most_peers);
            for (int i = 0; i < warm_up; ++i) co_await calls(e, tasks);
            counting here(refuse);
            for (int i = 0; i < rounds; ++i) co_await calls(e, tasks);
            taken = here.end();
            e.clients.clear();
            server.close();
        };
        asyncio::run(program(), {.debug = false});
        CHECK(taken == 0);
        CHECK(e.good == static_cast<int>(most_peers) * (warm_up + rounds));
        CHECK(e.busy.most == most_tasks);
    }
}

} // TEST_SUITE

// ---- when memory runs out -----------------------------------------------------------------------

namespace {

// A local of each coroutine: those that are alive are frames that are alive.
class probe {
public:
    probe() noexcept { ++alive; }
    probe(const probe&) noexcept { ++alive; }
    probe& operator=(const probe&) = delete;
    ~probe() { --alive; }

    static inline int alive = 0;
};

// What the parts of the swept program have to account for.
struct ledger {
    std::vector<std::string> faults;
    std::vector<std::string> lost; // the parts that memory did not suffice for
    int in_group = 0;

    void require(bool holds, const char* what) {
        if (!holds) faults.emplace_back(what);
    }
};

class counted {
public:
    explicit counted(int& n) noexcept : n_(n) { ++n_; }
    counted(const counted&) = delete;
    counted& operator=(const counted&) = delete;
    ~counted() { --n_; }

private:
    int& n_;
};

asyncio::coro<int> job(int n, asyncio::duration after = 1ms) {
    const probe here;
    co_await asyncio::sleep(after);
    co_return n;
}
asyncio::coro<int> member(ledger& l, int n, asyncio::duration after) {
    const probe here;
    const counted inside(l.in_group);
    co_await asyncio::sleep(after);
    if (n < 0) throw std::runtime_error("a member that fails, with a long text about it");
    co_return n;
}

asyncio::coro<> with_tasks(ledger& l) {
    const probe here;
    const auto a = asyncio::create_task(job(1), {.name = "a name that no string holds by itself"});
    const auto b = asyncio::create_task(job(2));
    const int sum = co_await a + co_await b;
    l.require(sum == 3, "the sum of two tasks");
}

asyncio::coro<> with_eager_task(ledger& l) {
    const probe here;
    const auto a = asyncio::create_task(job(1), {.eager_start = true});
    const int one = co_await a;
    l.require(one == 1, "the value of an eager task");
}

asyncio::coro<> with_variables(ledger& l) {
    const probe here;
    asyncio::context_var<std::string> word("word");
    word.set("a word that is too long to fit in");
    const auto child = [&word]() -> asyncio::coro<std::size_t> {
        const probe inside;
        co_await asyncio::sleep(1ms);
        co_return word.get().size();
    };
    const auto t = asyncio::create_task(child);
    const std::size_t size = co_await t;
    l.require(size == word.get().size(), "the variable in a task");
}

asyncio::coro<> with_gather(ledger& l) {
    const probe here;
    const std::array<int, 3> three = co_await asyncio::gather(job(1), job(2, 2ms), job(3));
    l.require(three[0] + three[1] + three[2] == 6, "the sum of gather()");
    std::vector<asyncio::coro<int>> jobs;
    for (int i = 0; i < 5; ++i) jobs.push_back(job(i));
    const std::vector<int> five = co_await asyncio::gather(std::move(jobs));
    l.require(five == std::vector<int>{0, 1, 2, 3, 4}, "the values of gather()");
}

// What cannot be gathered does not run.
asyncio::coro<> with_gather_of_nothing_else(ledger& l) {
    const probe here;
    int begun = 0;
    bool refused_it = false;
    const auto begins = [&begun]() -> asyncio::coro<> {
        const probe inside;
        ++begun;
        co_await asyncio::sleep(1ms);
    };
    std::exception_ptr error;
    asyncio::future<std::array<std::monostate, 3>> all;
    try {
        all = asyncio::gather(begins, begins, begins);
    } catch (...) {
        error = std::current_exception();
        refused_it = true;
    }
    co_await asyncio::sleep(10ms);
    l.require(!refused_it || begun == 0, "some of what was refused has begun");
    if (all.valid()) co_await all;
    if (error) std::rethrow_exception(error);
}

asyncio::coro<> with_group(ledger& l) {
    const probe here;
    int sum = 0;
    const auto body = [&](asyncio::task_group& g) -> asyncio::coro<> {
        const probe inside;
        const auto a = g.create_task(member(l, 1, 1ms));
        const auto b = g.create_task(member(l, 2, 1ms), {.eager_start = true});
        const auto c = g.create_task(member(l, 3, 5ms));
        co_await asyncio::sleep(1ms);
        sum += co_await a;
        sum += co_await b;
        sum += co_await c;
    };
    co_await asyncio::with(asyncio::task_group(), body);
    l.require(sum == 6, "the sum of a group");
}

asyncio::coro<> with_failing_group(ledger& l) {
    const probe here;
    const auto body = [&](asyncio::task_group& g) {
        g.create_task(member(l, 1, 1h));
        g.create_task(member(l, -1, 1ms));
        g.create_task(member(l, -2, 1ms));
        g.create_task(member(l, 2, 1h));
    };
    std::size_t errors = 0;
    try {
        co_await asyncio::with(asyncio::task_group(), body);
    } catch (const asyncio::exception_group& group) {
        errors = group.exceptions().size();
        const auto cancelling = asyncio::current_task().cancelling();
        l.require(cancelling == 0, "the group's own cancellation is left");
        for (const std::exception_ptr& e : group.exceptions())
            if (asyncio::detail::exception_cast<std::bad_alloc>(e)) throw;
    }
    l.require(errors == 2, "the errors of a group");
}

asyncio::coro<> with_timeouts(ledger& l) {
    const probe here;
    const int in_time = co_await asyncio::wait_for(job(1), 1s);
    l.require(in_time == 1, "what came in time");
    bool late = false;
    try {
        co_await asyncio::wait_for(job(2, 1h), 1s);
    } catch (const asyncio::timeout_error&) {
        late = true;
    }
    l.require(late, "what did not come in time");
    asyncio::timeout limit(1s);
    const auto body = [&]() -> asyncio::coro<> {
        const probe inside;
        const asyncio::time_point before = *limit.when();
        try {
            limit.reschedule(before + 1s);
        } catch (const std::bad_alloc&) {
            l.require(limit.when() == before, "the old limit holds");
        }
        co_await asyncio::sleep(1h);
    };
    bool expired = false;
    try {
        co_await asyncio::with(limit, body);
    } catch (const asyncio::timeout_error&) {
        expired = true;
    }
    l.require(expired, "a timeout that was moved");
    l.require(asyncio::current_task().cancelling() == 0, "the timeout's cancellation is left");
}

asyncio::coro<> with_queue(ledger& l) {
    const probe here;
    constexpr int most = 40;
    asyncio::queue<std::string> q;
    int put = 0;
    int got = 0;
    const auto consumer = [&]() -> asyncio::coro<> {
        const probe inside;
        while (const auto item = co_await q.next()) ++got;
    };
    std::exception_ptr error;
    const auto t = asyncio::create_task(consumer);
    for (int i = 0; i < most; ++i) {
        try {
            q.put_nowait("an item that is too long to fit into the string");
            ++put;
        } catch (const std::bad_alloc&) {
            error = std::current_exception();
        }
        l.require(q.qsize() == static_cast<std::size_t>(put - got), "the size of the queue");
    }
    q.shutdown();
    try {
        co_await t;
    } catch (const std::bad_alloc&) {
        error = std::current_exception(); // it had no memory to begin
    }
    l.require(got + static_cast<int>(q.qsize()) == put, "an item was lost");
    if (error) std::rethrow_exception(error);
}

asyncio::coro<> with_bounded_queue(ledger& l) {
    const probe here;
    asyncio::queue<int> q(1);
    asyncio::priority_queue<int> urgent(1);
    int put = 0;
    int got = 0;
    const auto producer = [&]() -> asyncio::coro<> {
        const probe inside;
        for (int i = 0; i < 3; ++i) {
            co_await q.put(i);
            ++put;
            co_await urgent.put(i);
            ++put;
        }
    };
    const auto consumer = [&]() -> asyncio::coro<> {
        const probe inside;
        for (;;) {
            const auto item = co_await q.next();
            if (!item) co_return;
            ++got;
            const auto other = co_await urgent.next();
            if (!other) co_return;
            ++got;
        }
    };
    const auto body = [&](asyncio::task_group& g) -> asyncio::coro<> {
        const probe inside;
        g.create_task(consumer);
        const std::array<asyncio::task<>, 2> producers{g.create_task(producer),
                                                       g.create_task(producer)};
        for (const asyncio::task<>& p : producers) co_await p;
        q.shutdown();
        urgent.shutdown();
    };
    co_await asyncio::with(asyncio::task_group(), body);
    l.require(got == put && put == 12, "the items of the producers");
}

asyncio::coro<> with_locks(ledger& l) {
    const probe here;
    asyncio::lock lock;
    asyncio::condition changed;
    asyncio::semaphore slots(2);
    asyncio::event begun;
    int inside_now = 0;
    const auto body = [&]() -> asyncio::coro<> {
        const probe inside;
        const counted one(inside_now);
        l.require(inside_now == 1, "two are in");
        co_await asyncio::sleep(1ms);
    };
    const auto user = [&]() -> asyncio::coro<> {
        const probe inside;
        co_await begun.wait();
        co_await asyncio::with(lock, body);
        const auto slot = co_await slots.scoped();
        const auto held = co_await changed.scoped();
        changed.notify_all();
    };
    const auto group = [&](asyncio::task_group& g) {
        for (int i = 0; i < 3; ++i) g.create_task(user);
        begun.set();
    };
    std::exception_ptr error;
    try {
        co_await asyncio::with(asyncio::task_group(), group);
    } catch (...) {
        error = std::current_exception();
    }
    l.require(!lock.locked() && !changed.locked() && !slots.locked(), "something is still locked");
    if (error) std::rethrow_exception(error);
}

asyncio::coro<> with_waits(ledger& l) {
    const probe here;
    const auto a = asyncio::create_task(job(1, 1ms));
    std::exception_ptr error;
    std::size_t pending = 1;
    try {
        const auto b = asyncio::create_task(job(2, 3s));
        const std::vector<asyncio::task<int>> both{a, b};
        const auto first = co_await asyncio::wait(both, {.timeout = asyncio::duration(1s)});
        pending = first.pending.size();
        auto ends = asyncio::as_completed(both);
        int sum = 0;
        for (;;) {
            const auto next = co_await ends.next();
            if (!next) break;
            sum += next->result();
        }
        l.require(sum == 3, "the sum of what was completed");
    } catch (const std::bad_alloc&) {
        error = std::current_exception();
    }
    l.require(pending == 1, "what wait() left");
    const int one = co_await a;
    l.require(one == 1, "a task that others waited for");
    if (error) std::rethrow_exception(error);
}

asyncio::coro<> with_shield(ledger& l) {
    const probe here;
    const int value = co_await asyncio::shield(job(1));
    l.require(value == 1, "the shielded value");
}

asyncio::coro<> with_scope(ledger& l) {
    const probe here;
    {
        asyncio::task_scope scope(asyncio::get_running_loop());
        std::size_t made = 0;
        std::exception_ptr error;
        try {
            for (; made < 3; ++made) scope.create_task(job(static_cast<int>(made), 1h));
        } catch (const std::bad_alloc&) {
            error = std::current_exception();
        }
        l.require(scope.size() == made, "the tasks of a scope");
        co_await asyncio::sleep(1ms);
        if (error) std::rethrow_exception(error);
    }
    co_await asyncio::sleep(1ms);
}

asyncio::coro<> with_sockets(ledger& l) {
    const probe here;
    int ends[2];
    const int made = ::socketpair(AF_UNIX, SOCK_STREAM, 0, ends);
    l.require(made == 0, "a socketpair");
    asyncio::socket near_end(ends[0]);
    asyncio::socket far_end(ends[1]);
    co_await near_end.sendall("a question of some length, so that no string holds it");
    const std::string question = co_await far_end.recv(100);
    l.require(question.starts_with("a question"), "what was received");
}

struct part {
    const char* name;
    asyncio::coro<> (*run)(ledger&);
};
constexpr std::array parts{
    part{"tasks", with_tasks},
    part{"an eager task", with_eager_task},
    part{"variables", with_variables},
    part{"gather", with_gather},
    part{"gather of what does not run", with_gather_of_nothing_else},
    part{"a group", with_group},
    part{"a group that fails", with_failing_group},
    part{"timeouts", with_timeouts},
    part{"a queue", with_queue},
    part{"bounded queues", with_bounded_queue},
    part{"locks", with_locks},
    part{"waits", with_waits},
    part{"shield", with_shield},
    part{"a scope", with_scope},
    part{"sockets", with_sockets},
};

// An error that has to do with memory, or holds one that has.
bool of_memory(const std::exception_ptr& error) {
    if (asyncio::detail::exception_cast<std::bad_alloc>(error)) return true;
    if (const auto* system = asyncio::detail::exception_cast<std::system_error>(error))
        return system->code() == std::errc::not_enough_memory;
    if (const auto* group = asyncio::detail::exception_cast<asyncio::base_exception_group>(error))
        return std::any_of(group->exceptions().begin(), group->exceptions().end(), of_memory);
    return false;
}

// One part after the other; one that has no memory must not disturb the next.
asyncio::coro<> all_parts(ledger& l) {
    const probe here;
    for (const part& p : parts) {
        std::exception_ptr error;
        try {
            co_await p.run(l);
        } catch (...) {
            error = std::current_exception();
        }
        if (error) {
            failure::stop();
            l.lost.emplace_back(p.name);
            if (!of_memory(error)) {
                l.faults.emplace_back(std::string(p.name) + ": " +
                                      asyncio::error(error).what());
            }
        }
        if (l.in_group != 0) l.faults.emplace_back(std::string(p.name) + ": a child is left");
        l.in_group = 0;
        l.require(asyncio::current_task().cancelling() == 0, "a cancellation is left");
    }
}

// Runs them with the N-th request for memory failing, and some after it. False when there
// are less.
bool run_with_failure(long long n, long long count, std::vector<std::string>& faults) {
    const auto where = [&](const std::string& what) {
        faults.push_back("request " + std::to_string(n) + ", " + std::to_string(count) +
                         " of them: " + what);
    };
    const long long before = blocks;
    bool reached = false;
    {
        ledger l;
        asyncio::run_options options;
        options.debug = false;
        options.clock = asyncio::clock_kind::virtual_time;
        asyncio::event_loop loop(options);
        loop.set_exception_handler([&](asyncio::event_loop&, const asyncio::exception_context& c) {
            if (c.exception && !of_memory(c.exception)) l.faults.push_back(c.message);
        });
        asyncio::task<> main;
        failure::begin(n, count);
        try {
            main = loop.create_task(all_parts(l));
            while (!main.done() && loop.poll() > 0) {}
        } catch (const std::bad_alloc&) {
            // Its first task did not begin; later errors must not leave the loop.
            if (main.valid()) where("an error left the loop");
        }
        reached = failure::stop();
        if (main.valid() && !main.done()) {
            std::string text = "everybody waits:";
            for (const asyncio::any_task& t : asyncio::all_tasks(loop)) text += " " + t.get_name();
            where(text);
        }
        if (main.valid() && main.done() && !main.cancelled() && main.exception())
            if (!of_memory(main.exception())) where(asyncio::error(main.exception()).what());
        main = {};
        if (l.lost.size() > 1) where("more than one part was lost");
        for (const std::string& fault : l.faults) where(fault);
    }
    if (probe::alive != 0) where(std::to_string(probe::alive) + " frames are left");
    probe::alive = 0;
    if (blocks != before) where(std::to_string(blocks - before) + " blocks are left");
    return reached;
}

} // namespace

TEST_SUITE("out of memory" * doctest::skip(REPLACES_NEW == 0)) {

TEST_CASE("whichever request fails, only what asked for it fails, and nothing is lost") {
#if defined(FIXED_ARENA)
    // What is kept goes back, as the arena is searched from its beginning for each request.
    CHECK_THROWS_AS(asyncio::detail::frame_alloc(the_arena().capacity() + 1), std::bad_alloc);
#endif
    // Nothing is kept from here on, so that each frame is a request.
    asyncio::detail::frame_free(asyncio::detail::frame_alloc(16), 16);
    asyncio::detail::frame_cache& cache = asyncio::detail::this_thread_frames;
    const asyncio::detail::frame_cache before = std::exchange(cache, {});

    std::vector<std::string> faults;
    run_with_failure(-1, 0, faults); // what is made once, is there
    faults.clear();
    // A frame is asked for twice, after what is kept has been given back.
    for (const long long count : {1LL, 2LL, 1'000'000LL}) {
        CAPTURE(count);
        long long n = 0;
        while (run_with_failure(n, count, faults) && faults.size() < 20) ++n;
        CHECK(n > 200);
    }
    for (const std::string& fault : faults) CHECK_MESSAGE(false, fault);
    CHECK(faults.empty());
    cache = before;
}

TEST_CASE("a server without memory loses connections, and serves the next ones") {
    // Nothing is kept from here on, so that each frame is a request.
    asyncio::detail::frame_free(asyncio::detail::frame_alloc(16), 16);
    asyncio::detail::frame_cache& cache = asyncio::detail::this_thread_frames;
    const asyncio::detail::frame_cache before = std::exchange(cache, {});
    std::string served;
    bool refused_some = false;
    const auto program = [&]() -> asyncio::coro<> {
        asyncio::get_running_loop().set_exception_handler(
            [](asyncio::event_loop&, const asyncio::exception_context&) {});
        const auto greet = [](asyncio::stream_reader, asyncio::stream_writer w) -> asyncio::coro<> {
            w.write("hello");
            w.close();
            co_await w.wait_closed();
        };
        auto server = co_await asyncio::start_server(greet, "127.0.0.1", 0);
        const int port = server.port();
        const auto where = asyncio::address::parse("127.0.0.1:" + std::to_string(port));
        for (const long long count : {1LL, 1'000'000LL}) {
            for (long long n = 0; n < 40; ++n) {
                auto lost = asyncio::socket::tcp();
                co_await lost.connect(where);
                failure::begin(n, count);
                for (int turn = 0; turn < 200; ++turn) co_await asyncio::sleep(0s);
                refused_some = failure::stop() || refused_some;
                lost.close();
                auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
                const std::string said = co_await reader.read();
                served += said == "hello" ? "" : "not " + std::to_string(n) + ' ';
            }
        }
        server.close();
    };
    asyncio::run(program());
    CHECK(served == "");
    CHECK(refused_some);
    cache = before;
}

TEST_CASE("a server without memory for a peer's address serves the next ones") {
    const std::string folder = "/tmp/asyncio-test-no-heap-" + std::to_string(::getpid());
    const std::string path = folder + "-server";
    std::string served;
    bool refused_some = false;
    const auto program = [&]() -> asyncio::coro<> {
        asyncio::get_running_loop().set_exception_handler(
            [](asyncio::event_loop&, const asyncio::exception_context&) {});
        const auto greet = [](asyncio::stream_reader, asyncio::stream_writer w) -> asyncio::coro<> {
            w.write("hello");
            w.close();
            co_await w.wait_closed();
        };
        auto server = co_await asyncio::start_unix_server(greet, path);
        for (long long n = 0; n < 20; ++n) {
            // It has a name that needs memory.
            const std::string name = folder + "-client-" + std::to_string(n);
            sockaddr_un own{};
            own.sun_family = AF_UNIX;
            name.copy(own.sun_path, sizeof own.sun_path - 1);
            sockaddr_un to{};
            to.sun_family = AF_UNIX;
            path.copy(to.sun_path, sizeof to.sun_path - 1);
            const int lost = ::socket(AF_UNIX, SOCK_STREAM, 0);
            REQUIRE(::bind(lost, reinterpret_cast<sockaddr*>(&own), sizeof own) == 0);
            REQUIRE(::connect(lost, reinterpret_cast<sockaddr*>(&to), sizeof to) == 0);
            failure::begin(n, 1);
            for (int turn = 0; turn < 200; ++turn) co_await asyncio::sleep(0s);
            refused_some = failure::stop() || refused_some;
            ::close(lost);
            ::unlink(name.c_str());
            auto [reader, writer] = co_await asyncio::open_unix_connection(path);
            const std::string said = co_await reader.read();
            served += said == "hello" ? "" : "not " + std::to_string(n) + ' ';
        }
        server.close();
    };
    asyncio::run(program());
    CHECK(served == "");
    CHECK(refused_some);
}

TEST_CASE("a cancellation needs no memory: without it, it comes without its message") {
    constexpr std::string_view message = "a message that does not fit into the string itself";
    bool refused = false;
    const auto program = [&]() -> asyncio::coro<> {
        const auto never = asyncio::create_future<void>();
        const auto waits = [](asyncio::future<void> f) -> asyncio::coro<> { co_await f; };
        const auto task = asyncio::create_task(waits(never));
        co_await asyncio::sleep(0s);
        failure::begin(0, 1'000'000);
        task.cancel(message);
        refused = failure::stop();
        co_await asyncio::sleep(0s);
        co_await asyncio::sleep(0s);
        CHECK(never.cancelled());
        CHECK(task.cancelled());
    };
    asyncio::run(program());
    CHECK(refused);
}

} // TEST_SUITE

#if defined(FIXED_ARENA)

TEST_SUITE("full arena") {

asyncio::coro<int> wait_for_it(asyncio::event& go, probe) {
    co_await go.wait();
    co_return 1;
}

// Needs more in one piece than the others.
asyncio::coro<int> large(asyncio::event& go) {
    std::array<char, 4096> room{};
    co_await go.wait();
    room[0] = 1;
    co_return room[0];
}

TEST_CASE("a full arena refuses a task and nothing else, and what ends makes room again") {
    std::size_t most = 0;
    for (int round = 0; round < 3; ++round) {
        asyncio::event go;
        int sum = 0;
        int large_sum = 0;
        const auto program = [&]() -> asyncio::coro<> {
            std::vector<asyncio::task<int>> tasks;
            bool full = false;
            int begun = 0;
            co_await asyncio::sleep(1ms); // there is room for timers from here on
            while (!full) {
                try {
                    tasks.push_back(asyncio::create_task(wait_for_it(go, probe())));
                } catch (const std::bad_alloc&) {
                    full = true;
                }
            }
            begun = probe::alive;
            co_await asyncio::sleep(1ms); // they go on
            REQUIRE(probe::alive == begun);
            REQUIRE(begun == static_cast<int>(tasks.size()));
            REQUIRE(tasks.size() > 1000);
            if (round == 0) most = tasks.size();
            REQUIRE(tasks.size() > most * 99 / 100); // nothing was lost
            go.set();
            for (const asyncio::task<int>& t : tasks) sum += co_await t;
            REQUIRE(sum == begun);
            tasks.clear();
            // The memory of small ones serves for large ones.
            go.clear();
            for (int i = 0; i < 500; ++i) tasks.push_back(asyncio::create_task(large(go)));
            co_await asyncio::sleep(1ms);
            go.set();
            for (const asyncio::task<int>& t : tasks) large_sum += co_await t;
        };
        asyncio::run(program(), {.debug = false});
        CHECK(large_sum == 500);
        CHECK(probe::alive == 0);
    }
    CHECK(the_arena().peak() <= the_arena().capacity());
    CHECK(the_arena().peak() > the_arena().capacity() * 99 / 100);
}

} // TEST_SUITE

#endif
