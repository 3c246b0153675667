// No heap after the start: what programs do again and again takes memory once.
//
// Compiled twice: as it is, coroutines get their memory from operator new; with FIXED_ARENA, which
// takes an implementation of its own, from a fixed_arena.
//
// All requests for memory are counted, those to the C library, too, where that lets itself be
// replaced. A sanitizer does not, and takes from the library what it keeps: there nothing is zero.
#include <cstddef>
#if defined(FIXED_ARENA)
#define ASYNCIO_ALLOC(size) the_arena().allocate(size)
#define ASYNCIO_FREE(memory, size) the_arena().deallocate(memory, size)
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
#include <vector>

#include <sys/socket.h>

using namespace std::chrono_literals;

// ---- counted memory -----------------------------------------------------------------------------

namespace {

long long requests = 0; // of this thread alone: nothing here starts another one
bool refused = false;   // the heap gives nothing

} // namespace

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define MEMORY_IS_COUNTED 0
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer) ||                         \
    __has_feature(memory_sanitizer)
#define MEMORY_IS_COUNTED 0
#endif
#endif
#if !defined(MEMORY_IS_COUNTED)
#define MEMORY_IS_COUNTED 1
#endif

#if MEMORY_IS_COUNTED

#if defined(__GLIBC__)
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

// Not inlined, or g++ 12 takes them for a mismatch when it optimises.
[[gnu::noinline]] void* operator new(std::size_t size) {
    ++requests;
    void* const memory = refused ? nullptr : std::malloc(size ? size : 1);
    if (memory == nullptr) throw std::bad_alloc();
    return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept { std::free(memory); }
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept { std::free(memory); }

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
    CHECK(arena.allocate(arena.capacity()) == memory + (sizeof memory - arena.capacity()));
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

constexpr std::size_t most_peers = 50;
constexpr std::size_t message_size = 100;

// The peers of a day of letters: connected sockets, one end of each for either side.
struct post {
    std::vector<asyncio::socket> near_ends;
    std::vector<asyncio::socket> far_ends;
    int good = 0;
};

asyncio::coro<> echo(post& p, std::size_t i) {
    std::array<std::byte, message_size> data{};
    std::size_t got = 0;
    while (got < data.size()) got += co_await p.far_ends[i].recv(std::span(data).subspan(got));
    co_await p.far_ends[i].sendall(std::span<const std::byte>(data));
}
asyncio::coro<> ask(post& p, std::size_t i) {
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
    int good = 0;
};

asyncio::coro<> serve(asyncio::stream_reader reader, asyncio::stream_writer writer) {
    std::array<char, message_size> data{};
    for (;;) {
        const std::size_t got = co_await reader.read_into(std::span(data));
        if (got == 0) co_return;
        writer.write(std::string_view(data.data(), got));
        co_await writer.drain();
    }
}
asyncio::coro<> call(exchange& e, std::size_t i) {
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

TEST_SUITE("no heap" * doctest::skip(!MEMORY_IS_COUNTED)) {

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

TEST_CASE("tasks that send and receive take none") {
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
            tasks.reserve(2 * most_peers);
            for (int i = 0; i < warm_up; ++i) co_await letters(p, tasks);
            counting here(refuse);
            for (int i = 0; i < rounds; ++i) co_await letters(p, tasks);
            taken = here.end();
        };
        asyncio::run(program(), {.debug = false});
        CHECK(taken == 0);
        CHECK(p.good == static_cast<int>(most_peers) * (warm_up + rounds));
    }
}

TEST_CASE("connections that stay open take none") {
    for (const bool refuse : {false, true}) {
        CAPTURE(refuse);
        exchange e;
        long long taken = -1;
        const auto program = [&]() -> asyncio::coro<> {
            asyncio::server server = co_await asyncio::start_server(serve, "127.0.0.1", 0);
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
    }
}

} // TEST_SUITE

#if defined(FIXED_ARENA)

TEST_SUITE("full arena") {

// A local of each coroutine: those that are alive are frames that are alive.
struct probe {
    explicit probe(int& count) : alive(count) { ++alive; }
    probe(const probe& other) : probe(other.alive) {}
    probe& operator=(const probe&) = delete;
    ~probe() { --alive; }
    int& alive;
};

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
    int alive = 0;
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
                    tasks.push_back(asyncio::create_task(wait_for_it(go, probe(alive))));
                } catch (const std::bad_alloc&) {
                    full = true;
                }
            }
            begun = alive;
            co_await asyncio::sleep(1ms); // they go on
            REQUIRE(alive == begun);
            REQUIRE(begun == static_cast<int>(tasks.size()));
            REQUIRE(tasks.size() > 1000);
            if (round == 0) most = tasks.size();
            REQUIRE(tasks.size() >= most - 10); // nothing was lost
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
        CHECK(alive == 0);
    }
    CHECK(the_arena().peak() <= the_arena().capacity());
    CHECK(the_arena().peak() > the_arena().capacity() * 99 / 100);
}

} // TEST_SUITE

#endif
