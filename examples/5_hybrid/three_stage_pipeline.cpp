// Hybrid workloads: fetch, transform, store: a pipeline of three stages with bounded queues.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/three_stage_pipeline.cpp -o pipe && ./pipe
//
// What it teaches: each stage is a task, and between two of them is a queue for at most 20 items,
// so that no stage runs away from the next. A stage that has no more to give shuts its queue down;
// next() then gives nothing, and the stage behind it ends, too. The transformation is CPU work for
// two worker processes. What goes through the second queue are the futures of those jobs, in the
// order of the items: the jobs run at the same time, and still nothing overtakes anything.
// 30 items: a fetch takes 50 ms, and ten run at once; a transformation 0.1 s of one core; storing
// one 20 ms. In turn that is 5.1 s.
// Look at: the timeline, where = is waiting and # is a worker computing. Below the #, all fetches
// and stores happen. --quick does a seventh of it; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

double now() { return asyncio::elapsed().total_seconds(); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text, bool busy = false) { // busy: not judged
    std::printf("%s %s\n", holds ? "holds: " : busy ? "busy:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1;
}

struct record { // plain structs travel to the worker processes and back as they are
    int item = 0;
    std::uint64_t digest = 0;
    double wall = 0, cpu = 0; // the seconds that its transformation took
    bool operator==(const record& r) const { return item == r.item && digest == r.digest; }
};

// A fixed amount of work for one core. It runs in a worker process.
record transform(int item, double rounds) {
    const auto began = std::chrono::steady_clock::now();
    const std::clock_t cpu_began = std::clock();
    record out{item, static_cast<std::uint64_t>(item)};
    for (double i = 0; i < rounds; ++i)
        out.digest = (out.digest ^ out.digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    out.cpu = static_cast<double>(std::clock() - cpu_began) / CLOCKS_PER_SEC;
    out.wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    return out;
}

constexpr int items = 30, workers = 2;

struct bench {
    double unit;         // what a second of the exercise takes: less with --quick
    double rounds = 1e6; // once calibrated, a transformation takes unit / 10
    asyncio::process_pool_executor pool{workers};
    std::size_t deepest = 0; // the most items in one of the queues
};

asyncio::coro<int> fetch(bench& b, int item) {
    co_await asyncio::sleep(b.unit * 50ms); // stands for a request over the network
    co_return item;
}

asyncio::coro<> store(bench& b, record r, std::vector<record>& stored) {
    co_await asyncio::sleep(b.unit * 20ms); // stands for a database
    stored.push_back(r);
}

asyncio::coro<std::vector<record>> in_turn(bench& b) {
    std::vector<record> stored;
    for (int i = 0; i < items; ++i) {
        const int item = co_await fetch(b, i);
        const record r = co_await asyncio::run_in_executor(b.pool, transform, item, b.rounds);
        co_await store(b, r, stored);
    }
    co_return stored;
}

using item_queue = asyncio::queue<int>;
using job_queue = asyncio::queue<asyncio::future<record>>;

asyncio::coro<> fetch_stage(bench& b, item_queue& fetched) {
    for (int first = 0; first < items; first += 10) {
        std::vector<asyncio::task<int>> fetches;
        for (int i = first; i < first + 10; ++i)
            fetches.push_back(asyncio::create_task(fetch(b, i),
                                                   {.name = "  item " + std::to_string(i)}));
        for (const int item : co_await asyncio::gather(std::move(fetches))) {
            co_await fetched.put(item); // waits while 20 are in there
            b.deepest = std::max(b.deepest, fetched.qsize());
        }
    }
    fetched.shutdown();
}

asyncio::coro<> transform_stage(bench& b, item_queue& fetched, job_queue& jobs) {
    while (auto item = co_await fetched.next()) {
        auto job = asyncio::run_in_executor(b.pool, transform, *item, b.rounds);
        co_await jobs.put(std::move(job));
        b.deepest = std::max(b.deepest, jobs.qsize());
    }
    jobs.shutdown();
}

asyncio::coro<> store_stage(bench& b, job_queue& jobs, std::vector<record>& stored) {
    while (auto job = co_await jobs.next()) {
        const record r = co_await *job; // the oldest; younger ones may be done already
        co_await store(b, r, stored);
    }
}

asyncio::coro<std::vector<record>> pipeline(bench& b) {
    item_queue fetched(20);
    job_queue jobs(20);
    std::vector<record> stored;
    const auto stages = [&](asyncio::task_group& group) {
        group.create_task(fetch_stage(b, fetched), {.name = "fetch"});
        group.create_task(transform_stage(b, fetched, jobs), {.name = "transform"});
        group.create_task(store_stage(b, jobs, stored), {.name = "store"});
    };
    co_await asyncio::with(asyncio::task_group(), stages);
    co_return stored;
}

struct run {
    double took = 1e9, wall = 0, cpu = 0; // wall and cpu: of all transformations
    std::vector<record> stored = {};
};

// Other programs on the machine only ever make a run longer, so the best of some counts.
asyncio::coro<> measure(const char* name, asyncio::coro<std::vector<record>> work, run& best) {
    run r;
    const double began = now();
    r.stored = co_await std::move(work);
    r.took = now() - began;
    std::printf("%5.2f s  %s: %.3f s\n", now(), name, r.took);
    for (const record& one : r.stored) r.wall += one.wall, r.cpu += one.cpu;
    if (r.took < best.took) best = r;
}

asyncio::coro<int> async_main(bool quick, std::string trace_file) {
    bench b{quick ? 0.15 : 1};
    run probe, slow, fast;
    for (int i = 0; i < 2; ++i) co_await measure("calibration", pipeline(b), probe);
    b.rounds *= 0.1 * b.unit * items / probe.cpu;
    for (int i = 0; i < 3; ++i) {
        co_await measure("in turn", in_turn(b), slow);
        co_await measure("pipeline", pipeline(b), fast);
    }
    asyncio::tracer trace(asyncio::get_running_loop());
    co_await pipeline(b);
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(fast.stored.size() == items && fast.stored == slow.stored, "30 items stored, in order");
    claim(b.deepest <= 20, std::to_string(b.deepest) + " items in a queue (at most 20)");
    // What the machine gave: two workers at once against one, with the same jobs.
    const double capacity = workers * slow.wall / fast.wall, share = fast.cpu / fast.wall;
    std::printf("capacity of %d workers: %.2f; each had %.2f of a core%s\n", workers, capacity,
                share, share < 0.9 ? ": machine busy" : "");
    // On paper: the first fetch, the work of the workers, and the last item's store.
    const double wanted = (b.unit * (0.05 + 0.02) + fast.wall / workers) / 0.9;
    claim(fast.took < wanted && fast.took < slow.took, num(slow.took) + " s in turn, " +
          num(fast.took) + " s as a pipeline (below " + num(wanted) + " s)", share < 0.9);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    bool quick = false;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") quick = true;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("Fetch, transform, store: a pipeline of three stages.\n"
                       "usage: pipe [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
