// A job for another process must be all there is: what it captures or points to stays behind.
// WRONG=1 says: pass what it needs as arguments
// WRONG=2 says: come as copies
// WRONG=3 says: pointer means nothing
// WRONG=4 says: std::ref
// WRONG=5 says: argument cannot travel
// WRONG=6 says: result cannot come back
// WRONG=7 says: asyncio::fork_job: the result cannot come back
// WRONG=8 says: nothing of what is captured here
#include "asyncio.hpp"

#include <functional>

#if !defined(WRONG)
#define WRONG 0
#endif

struct point {
    double x = 0;
    double y = 0;
};

struct handle {
    handle() = default;
    handle(const handle&) {}
    handle& operator=(const handle&) = default;
    ~handle() {}
};

struct scale {
    double factor = 1;
    point operator()(point p) const { return {p.x * factor, p.y * factor}; }
};

static double length(point p) { return p.x * p.x + p.y * p.y; }
static void prepare() {}

static asyncio::coro<> async_main() {
    asyncio::isolated_executor pool(1);
    point place = {3, 4};
    double factor = 2;

    // Function pointers, captureless lambdas and aggregate function objects travel well.
    co_await asyncio::run_in_executor(&pool, length, place);
    co_await asyncio::run_in_executor(
        &pool, [](point p) { return p.x; }, place);
    co_await asyncio::run_in_executor(&pool, scale{factor}, place);
    auto future =
        pool.submit([](std::vector<point> all) { return all; }, std::vector<point>{place});
    co_await future;

#if WRONG == 1
    pool.submit([factor](point p) { return p.x * factor; }, place);
#endif
#if WRONG == 2
    pool.submit([](point& p) { p.x = 0; }, place);
#endif
#if WRONG == 3
    pool.submit([](point* p) { return p->x; }, &place);
#endif
#if WRONG == 4
    pool.submit([](point p) { return p.x; }, std::ref(place));
#endif
#if WRONG == 5
    pool.submit([](handle) { return 1; }, handle());
#endif
#if WRONG == 6
    pool.submit([] { return handle(); });
#endif

    // A forked process has everything; only the result has to travel.
    co_await asyncio::fork_job([&place, factor] { return scale{factor}(place); });
#if WRONG == 7
    asyncio::fork_job([] { return handle(); });
#endif

    // What a worker does first travels to it, too; what that returns stays there.
    asyncio::isolated_executor simple(1, {.initializer = prepare});
    asyncio::isolated_executor prepared(1, {.initializer = [] { return 1; }});
#if WRONG == 8
    asyncio::isolated_executor late(1, {.initializer = [factor] { static_cast<void>(factor); }});
#endif
}

int main() {
    asyncio::worker_main();
    return asyncio::run_main(async_main());
}
