// Hybrid workloads: which stage holds a pipeline up, and how many hands each stage needs.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/bottleneck.cpp -o neck && ./neck
//
// What it teaches: a stage has hands, tasks that take an item, work on it and pass it on. The slow
// one, the bottleneck, is the stage whose hands are always busy, with a queue before it and hardly any behind it. Fetch
// 0.5 s, process 2 s of one core, store 0.3 s: that is the processing. With other times it is the
// fetch or the store; and when a stage gets more hands, another one becomes the bottleneck.
// With fetch 0.5 s and process 3 s, one fetching hand is enough for six cores. More hands than cores
// do not compute faster; so the best is a hand for each core, and fetching hands to feed them.
// Look at: the table. For each stage it has the hands, how much of the time they are busy, and how
// many items wait before it. All is ten times faster than said here; --quick makes it a hundred.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <ctime>
#include <string>
#include <string_view>
#include <thread>
#include <vector>
using namespace std::chrono_literals;

double now() { return asyncio::elapsed().total_seconds(); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text, bool busy = false) { // busy: not judged
    std::printf("%s %s\n", holds ? "holds: " : busy ? "busy:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1;
}

struct processed { // plain structs travel to the worker processes and back as they are
    std::uint64_t digest = 0;
    double wall = 0, cpu = 0; // the seconds it took
};

// A fixed amount of work for one core. It runs in a worker process.
processed process(int item, double rounds) {
    const auto began = std::chrono::steady_clock::now();
    const std::clock_t cpu_began = std::clock();
    processed out{static_cast<std::uint64_t>(item)};
    for (double i = 0; i < rounds; ++i)
        out.digest = (out.digest ^ out.digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    out.cpu = static_cast<double>(std::clock() - cpu_began) / CLOCKS_PER_SEC;
    out.wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    return out;
}

struct stage {
    const char* name;
    double seconds; // for each item
    int hands;
    int running = 0;   // hands that have not ended yet
    double busy = 0;   // seconds, of all hands
    double queued = 0; // items found waiting before it, added up
};

struct pipeline {
    const char* name;
    int items;
    std::vector<stage> stages; // fetch, process, store
    int next = 0, stored = 0;
    double took = 0, wall = 0, cpu = 0; // wall and cpu: of all processing

    double use(const stage& s) const { return s.busy / (s.hands * took); }
    const stage& bottleneck() const {
        return *std::max_element(stages.begin(), stages.end(), [this](auto& a, auto& b) {
            return use(a) < use(b);
        });
    }
};

struct bench {
    double unit;         // what a second of the exercise takes
    double rounds = 2e7; // the work of a unit, once calibrated
    const int cores = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1U, 6U));
    asyncio::process_pool_executor pool{cores};
};

asyncio::coro<> fetch_hand(bench& b, pipeline& p, asyncio::queue<int>& fetched) {
    stage& s = p.stages[0];
    while (p.next < p.items) {
        const int item = p.next++;
        const double began = now();
        co_await asyncio::sleep(asyncio::duration::seconds(s.seconds * b.unit)); // stands for I/O
        s.busy += now() - began;
        co_await fetched.put(item); // waits while the queue is full: this is no work
    }
    if (--s.running == 0) fetched.shutdown(); // the last hand closes the door
}

asyncio::coro<> process_hand(bench& b, pipeline& p, asyncio::queue<int>& fetched,
                             asyncio::queue<processed>& done) {
    stage& s = p.stages[1];
    while (auto item = co_await fetched.next()) {
        s.queued += static_cast<double>(fetched.qsize());
        const double began = now();
        const processed r = co_await asyncio::run_in_executor(b.pool, process, *item,
                                                              b.rounds * s.seconds);
        s.busy += now() - began;
        p.wall += r.wall, p.cpu += r.cpu;
        co_await done.put(r);
    }
    if (--s.running == 0) done.shutdown();
}

asyncio::coro<> store_hand(bench& b, pipeline& p, asyncio::queue<processed>& done) {
    stage& s = p.stages[2];
    while (auto r = co_await done.next()) {
        s.queued += static_cast<double>(done.qsize());
        const double began = now();
        co_await asyncio::sleep(asyncio::duration::seconds(s.seconds * b.unit)); // stands for I/O
        s.busy += now() - began;
        p.stored += r->digest != 0;
    }
}

asyncio::coro<pipeline> run(bench& b, pipeline p) {
    asyncio::queue<int> fetched(8);
    asyncio::queue<processed> done(8);
    const double began = now();
    const auto all_hands = [&](asyncio::task_group& group) {
        for (stage& s : p.stages) s.running = s.hands;
        for (int i = 0; i < p.stages[0].hands; ++i) group.create_task(fetch_hand(b, p, fetched));
        for (int i = 0; i < p.stages[1].hands; ++i)
            group.create_task(process_hand(b, p, fetched, done));
        for (int i = 0; i < p.stages[2].hands; ++i) group.create_task(store_hand(b, p, done));
    };
    co_await asyncio::with(asyncio::task_group(), all_hands);
    p.took = now() - began;
    std::printf("%6.2f s  %-18s", now(), p.name);
    for (const stage& s : p.stages)
        std::printf("  %d x %3.0f %%  %3.1f", s.hands, 100 * p.use(s), s.queued / p.items);
    std::printf("  %-7s %6.2f s\n", p.bottleneck().name, p.took);
    co_return p;
}

pipeline three_stages(const char* name, int items, double fetch, int fetch_hands, double process,
                      int process_hands, double store) {
    return {name, items, {{"fetch", fetch, fetch_hands}, {"process", process, process_hands},
                          {"store", store, 1}}};
}

asyncio::coro<int> async_main(bool quick) {
    bench b{quick ? 0.008 : 0.1};
    for (int i = 0; i < 2; ++i) // the second time, the worker is warm
        b.rounds *= b.unit / (co_await asyncio::run_in_executor(b.pool, process, 1, b.rounds)).cpu;

    std::printf("          %-18s  %-15s  %-15s  %-15s  %s\n", "pipeline", "fetch", "process", "store",
                "bottleneck, time");
    struct expectation {
        pipeline p;
        std::string bottleneck;
    };
    const std::vector<expectation> variants = {
        {three_stages("CPU-bound", 12, 0.5, 1, 2, 1, 0.3), "process"},
        {three_stages("I/O-bound", 12, 2, 1, 0.5, 1, 0.1), "fetch"},
        {three_stages("storage-bound", 12, 0.5, 1, 0.3, 1, 2), "store"},
        {three_stages("I/O-bound, 8 fetch", 24, 2, 8, 0.5, 1, 0.1), "process"}};
    for (const expectation& e : variants) {
        const pipeline p = co_await run(b, e.p);
        claim(p.stored == p.items && p.bottleneck().name == e.bottleneck,
              std::string(p.name) + ": the bottleneck is " + p.bottleneck().name + " (" +
                  e.bottleneck + ")", p.cpu / p.wall < 0.9);
    }

    // Fetch 0.5 s, process 3 s: a hand for each core, and enough fetching hands to feed those.
    const int workers = b.cores, fetchers = static_cast<int>(std::ceil(workers * 0.5 / 3));
    const int hands[][2] = {{fetchers, workers}, {fetchers + 1, workers}, {1, 1}, {2, 1}};
    std::vector<pipeline> best(4);
    for (int round = 0; round < 2; ++round) // the best of two counts: others only disturb
        for (std::size_t i = 0; i < 4; ++i) {
            const auto [f, w] = hands[i];
            auto next = three_stages("how many hands?", 8 * workers, 0.5, f, 3, w, 0.3);
            const pipeline p = co_await run(b, std::move(next));
            if (round == 0 || p.took < best[i].took) best[i] = p;
        }
    const pipeline &computed = best[0], &alone = best[2];
    double fastest = computed.took, share = 1;
    for (const pipeline& p : best) {
        fastest = std::min(fastest, p.took);
        share = std::min(share, p.cpu / p.wall);
    }
    // The same work on one worker and on all: what the machine gives.
    const double capacity = workers * alone.wall / computed.wall;
    std::printf("capacity of %d workers: %.2f; each had %.2f of a core or more%s\n", workers,
                capacity, share, share < 0.9 ? ": machine busy" : "");
    claim(computed.took < fastest / 0.9, std::to_string(fetchers) + " fetching and " +
          std::to_string(workers) + " processing: " + num(computed.took) +
          " s, the best of all is " + num(fastest) + " s", share < 0.9);
    claim(alone.took / computed.took > 0.9 * std::min(capacity, 1.0 * workers),
          num(alone.took / computed.took) + "x faster than one and one (above 0.9 of the capacity)",
          share < 0.9);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    const std::string_view option = argc > 1 ? argv[1] : "";
    if (argc > 2 || (!option.empty() && option != "--quick")) {
        std::fputs("Which stage holds a pipeline up, and how many hands each stage needs.\n"
                   "usage: neck [--quick]\n",
                   option == "--help" ? stdout : stderr);
        return option == "--help" ? 0 : 2;
    }
    return asyncio::run_main(async_main(option == "--quick"));
}
