// Hybrid workloads: which stage holds a pipeline up, and how many hands each stage needs.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/bottleneck.cpp -o neck && ./neck
//
// What it teaches: each stage has hands, tasks that take an item, work on it and pass it on. The
// stage that holds the others up, the bottleneck, has hands that are always busy, and a queue in
// front of it. With fetch 0.5 s, process 2 s of one core and store 0.3 s that is the processing;
// with other times it is the fetch or the store; and when a stage gets more hands, another one.
// How many hands for fetch 0.5 s and process 3 s? Cores do not compute faster with more hands than
// cores, and one hand that fetches feeds six that process.
// Look at: the table. For each stage it has the hands, how much of the time they are busy, and how
// many items wait for them. All is ten times faster than said here; with --quick, a hundred times.
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
    double cpu = 0; // the seconds of a core that it took
};

// A fixed amount of work for one core. It runs in a worker process.
processed process(int item, double rounds) {
    const std::clock_t began = std::clock();
    processed out{static_cast<std::uint64_t>(item)};
    for (double i = 0; i < rounds; ++i)
        out.digest = (out.digest ^ out.digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    out.cpu = static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC;
    return out;
}

enum stage { fetch, compute, store, stages };
constexpr const char* names[stages] = {"fetch", "process", "store"};

struct pipeline {
    const char* name;
    int items;
    double units[stages];       // what an item takes in each stage
    int hands[stages];          // how many items are in a stage at the same time
    double busy[stages] = {};   // seconds, of all hands
    double queued[stages] = {}; // items found waiting, added up
    double took = 0, cpu = 0;
    int stored = 0;

    double use(int s) const { return busy[s] / (hands[s] * took); }
    std::string bottleneck() const {
        return names[std::max({fetch, compute, store},
                              [this](stage a, stage b) { return use(a) < use(b); })];
    }
    double share() const { return cpu / busy[compute]; } // of a core, that each worker had
};

struct bench {
    double unit;         // what a second of the exercise takes
    double rounds = 2e7; // the work of a unit, once calibrated
    const int cores = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1U, 6U));
    asyncio::process_pool_executor pool{cores};
};

// One of the hands of a stage.
asyncio::coro<> hand(bench& b, pipeline& p, int stage, asyncio::queue<int>& in,
                     asyncio::queue<int>& out, int& running) {
    while (auto item = co_await in.next()) {
        p.queued[stage] += static_cast<double>(in.qsize());
        const double began = now();
        if (stage == compute) {
            const processed r = co_await asyncio::run_in_executor(b.pool, process, *item,
                                                                  b.rounds * p.units[stage]);
            p.cpu += r.cpu;
        } else { // stands for a request to a source, or to a database
            co_await asyncio::sleep(asyncio::duration::seconds(b.unit * p.units[stage]));
        }
        p.busy[stage] += now() - began;
        co_await out.put(*item); // waits while the queue is full; that is no work
    }
    if (--running == 0) out.shutdown(); // the last one closes the door
}

asyncio::coro<pipeline> run(bench& b, pipeline p) {
    asyncio::queue<int> planned, fetched(8), processed(8), stored;
    asyncio::queue<int>* const queues[] = {&planned, &fetched, &processed, &stored};
    for (int item = 1; item <= p.items; ++item) planned.put_nowait(item);
    planned.shutdown();
    int running[stages] = {p.hands[fetch], p.hands[compute], p.hands[store]};
    const auto all_hands = [&](asyncio::task_group& group) {
        for (int s = 0; s < stages; ++s)
            for (int h = 0; h < p.hands[s]; ++h)
                group.create_task(hand(b, p, s, *queues[s], *queues[s + 1], running[s]));
    };
    const double began = now();
    co_await asyncio::with(asyncio::task_group(), all_hands);
    p.took = now() - began;
    p.stored = static_cast<int>(stored.qsize());
    p.queued[fetch] = 0; // they wait outside of the pipeline

    std::printf("%6.2f s  %-18s", now(), p.name);
    for (int s = 0; s < stages; ++s)
        std::printf("  %d x %3.0f %%  %3.1f", p.hands[s], 100 * p.use(s), p.queued[s] / p.items);
    std::printf("  %-7s %6.2f s\n", p.bottleneck().c_str(), p.took);
    co_return p;
}

asyncio::coro<int> async_main(bool quick) {
    bench b{quick ? 0.008 : 0.1};
    for (int i = 0; i < 2; ++i) { // the second time, the worker is warm
        const processed p = co_await asyncio::run_in_executor(b.pool, process, 1, b.rounds);
        b.rounds *= b.unit / p.cpu;
    }

    std::printf("          pipeline            fetch            process          store            "
                "bottleneck\n");
    const pipeline plans[] = {{"CPU-bound", 12, {0.5, 2, 0.3}, {1, 1, 1}},
                              {"I/O-bound", 12, {2, 0.5, 0.1}, {1, 1, 1}},
                              {"storage-bound", 12, {0.5, 0.3, 2}, {1, 1, 1}},
                              {"I/O-bound, 8 hands", 24, {2, 0.5, 0.1}, {8, 1, 1}}};
    std::vector<pipeline> ran;
    for (const pipeline& p : plans) ran.push_back(co_await run(b, p));

    // Fetch 0.5 s, process 3 s: a hand for each core, and as many as feed them.
    const int workers = b.cores, fetchers = static_cast<int>(std::ceil(workers * 0.5 / 3));
    const int choices[][2] = {{fetchers, workers}, {fetchers + 1, workers}, {1, 1}, {2, 1}};
    std::vector<pipeline> best; // of two runs: other programs only ever make one longer
    for (std::size_t i = 0; i < 8; ++i) {
        const auto [f, w] = choices[i % 4];
        const pipeline plan{"how many hands?", 8 * workers, {0.5, 3, 0.3}, {f, w, 1}};
        const pipeline p = co_await run(b, plan);
        if (i < 4) best.push_back(p);
        else if (p.took < best[i % 4].took) best[i % 4] = p;
    }

    const char* const expected[] = {"process", "fetch", "store", "process"};
    for (std::size_t i = 0; i < ran.size(); ++i)
        claim(ran[i].stored == ran[i].items && ran[i].bottleneck() == expected[i],
              std::string(ran[i].name) + ": held up by " + ran[i].bottleneck() + " (" +
                  expected[i] + ")", ran[i].share() < 0.9);

    const pipeline &computed = best[0], &alone = best[2];
    double fastest = computed.took, share = 1;
    for (const pipeline& p : best)
        fastest = std::min(fastest, p.took), share = std::min(share, p.share());
    // The same work on one worker and on all: what the machine gives.
    const double capacity = workers * alone.busy[compute] / computed.busy[compute];
    const double speed_up = alone.took / computed.took;
    std::printf("capacity of %d workers: %.2f; each had %.2f of a core or more%s\n", workers,
                capacity, share, share < 0.9 ? ": machine busy" : "");
    claim(computed.took < fastest / 0.9, std::to_string(fetchers) + " to fetch and " +
          std::to_string(workers) + " to process: " + num(computed.took) +
          " s; the best of all took " + num(fastest) + " s", share < 0.9);
    claim(speed_up > 0.9 * capacity, num(speed_up) + "x faster than one and one (at least " +
          num(0.9 * capacity) + "x)", share < 0.9);
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
