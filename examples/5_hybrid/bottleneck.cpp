// Hybrid workloads: which stage holds a pipeline up, and how many hands each stage needs.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/bottleneck.cpp -o neck && ./neck
//
// What it teaches: each stage has hands, tasks that take an item, work on it and pass it on. The
// stage that holds the others up, the bottleneck, has hands that are always busy, and a queue in
// front of it. With fetch 0.5 s, process 2 s of one core and store 0.3 s that is the processing;
// with other times it is the fetch or the store; and when a stage gets more hands, another one.
// How many hands for fetch 0.5 s and process 3 s? As many to process as there are cores, and one to
// fetch for six of them: another one only makes the queue longer.
// Look at: the table. For each stage it has the hands, how much of the time they are busy, and how
// many items wait for them; then comes the bottleneck. All is ten times faster than said here; with
// --quick, a hundred times.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <string>
#include <thread>
#include <utility>
#include <vector>
using namespace std::chrono_literals;

double now() { return asyncio::elapsed().total_seconds(); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text, bool busy = false) { // busy: not judged
    std::printf("%s %s\n", holds ? "holds: " : busy ? "busy:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1;
}

// A fixed amount of work for one core. It runs in a worker process, and gives back its result and
// the seconds of the core that it took.
std::pair<std::uint64_t, double> process(int item, double rounds) {
    const std::clock_t began = std::clock();
    std::uint64_t digest = static_cast<std::uint64_t>(item);
    for (double i = 0; i < rounds; ++i) digest = (digest ^ digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    return {digest, static_cast<double>(std::clock() - began) / CLOCKS_PER_SEC};
}

enum stage { fetch, compute, store, stages };
constexpr const char* names[stages] = {"fetch", "process", "store"};
double second = 0.1; // how long a second of the exercise is
double rounds = 3e6; // the work that takes a second, once calibrated

struct pipeline {
    const char* name;
    const char* expected; // the bottleneck
    int items;
    double plan[stages];        // the seconds that an item takes in each stage
    int hands[stages];          // how many items are in a stage at the same time
    double busy[stages] = {};   // seconds, of all hands
    double queued[stages] = {}; // items found waiting, added up
    double took = 1e9, cpu = 0;
    int stored = 0;
    std::uint64_t digest = 0;   // of all items, added up

    double use(int s) const { return busy[s] / (hands[s] * took); }
    std::string bottleneck() const {
        const auto less = [this](stage a, stage b) { return use(a) < use(b); };
        return names[std::max({fetch, compute, store}, less)];
    }
};

// One of the hands of a stage.
asyncio::coro<> hand(asyncio::executor& pool, pipeline& p, int stage, asyncio::queue<int>& in,
                     asyncio::queue<int>& out, int& running) {
    while (auto item = co_await in.next()) {
        p.queued[stage] += static_cast<double>(in.qsize());
        const double began = now();
        if (stage == compute) {
            const auto [digest, cpu] =
                co_await asyncio::run_in_executor(pool, process, *item, rounds * p.plan[stage]);
            p.digest += digest, p.cpu += cpu;
        } else { // stands for a request to a source, or to a database
            co_await asyncio::sleep(asyncio::duration::seconds(second * p.plan[stage]));
        }
        p.busy[stage] += now() - began;
        co_await out.put(*item); // waits while the queue is full; that is no work
    }
    if (--running == 0) out.shutdown(); // the last one closes the door
}

asyncio::coro<> run(asyncio::executor& pool, pipeline plan, pipeline& best) {
    pipeline p = plan;
    asyncio::queue<int> planned, fetched(8), processed(8), stored;
    asyncio::queue<int>* const queues[] = {&planned, &fetched, &processed, &stored};
    for (int item = 1; item <= p.items; ++item) planned.put_nowait(item);
    planned.shutdown();
    int running[stages] = {p.hands[fetch], p.hands[compute], p.hands[store]};
    const auto all_hands = [&](asyncio::task_group& group) {
        for (int s = 0; s < stages; ++s)
            for (int h = 0; h < p.hands[s]; ++h)
                group.create_task(hand(pool, p, s, *queues[s], *queues[s + 1], running[s]));
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
    if (p.took < best.took) best = p; // other programs can only make one slower
}

asyncio::coro<int> async_main(bool quick) {
    if (quick) second = 0.01;
    const int cores = static_cast<int>(std::clamp(std::thread::hardware_concurrency(), 1U, 4U));
    asyncio::process_pool_executor pool(cores);
    for (int i = 0; i < 2; ++i) { // the second time, the worker is warm
        const auto probe = co_await asyncio::run_in_executor(pool, process, 1, rounds);
        rounds *= second / probe.second;
    }
    // With fetch 0.5 s and process 3 s, one hand feeds six, and there are at most four here.
    const pipeline plans[] = {
        {"CPU-bound", "process", 12, {0.5, 2, 0.3}, {1, 1, 1}},
        {"I/O-bound", "fetch", 12, {2, 0.5, 0.1}, {1, 1, 1}},
        {"storage-bound", "store", 12, {0.5, 0.3, 2}, {1, 1, 1}},
        {"I/O-bound, 8 hands", "process", 24, {2, 0.5, 0.1}, {8, 1, 1}},
        {"how many hands?", "process", 8 * cores, {0.5, 3, 0.3}, {1, cores, 1}},
        {"one more", "process", 8 * cores, {0.5, 3, 0.3}, {2, cores, 1}},
        {"one and one", "process", 8 * cores, {0.5, 3, 0.3}, {1, 1, 1}}};
    std::vector<pipeline> best(std::begin(plans), std::end(plans));
    const pipeline &computed = best[4], &more = best[5], &alone = best[6];

    std::puts("          pipeline            fetch          process        store");
    bool good = false, busy = false;
    double speed_up = 0, capacity = 0;
    for (int round = 1; round <= 5 && !good && !busy; ++round) {
        for (std::size_t i = 0; i < best.size(); ++i) co_await run(pool, plans[i], best[i]);
        // The same work on one worker and on all: what the machine gives.
        capacity = cores * alone.busy[compute] / computed.busy[compute];
        speed_up = alone.took / computed.took;
        good = computed.took < more.took / 0.9 && speed_up > 0.9 * capacity;
        for (const pipeline& p : best) good = good && p.bottleneck() == p.expected;
        busy = computed.cpu + alone.cpu < 0.9 * (computed.busy[compute] + alone.busy[compute]);
    }

    for (const pipeline& p : best) {
        if (p.stored != p.items) claim(false, std::string(p.name) + ": all items are stored");
        claim(p.bottleneck() == p.expected, std::string(p.name) + ": held up by " + p.bottleneck() +
              " (" + p.expected + ")", busy);
    }
    claim(computed.digest == alone.digest, "the results are the same with one worker and with all");
    std::printf("capacity of %d workers: %.2f%s\n", cores, capacity, busy ? ": machine busy" : "");
    claim(computed.took < more.took / 0.9, "a hand more to fetch does not help: " +
          num(more.took) + " s, and " + num(computed.took) + " s without", busy);
    claim(speed_up > 0.9 * capacity, num(speed_up) + "x faster than one and one (at least " +
          num(0.9 * capacity) + "x)", busy);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    const std::string option = argc == 2 ? argv[1] : "";
    if (argc == 1 || option == "--quick") return asyncio::run_main(async_main(option == "--quick"));
    std::fputs("Which stage holds a pipeline up, and what helps.\nusage: neck [--quick]\n",
               option == "--help" ? stdout : stderr);
    return option == "--help" ? 0 : 2;
}
// Output:
//           pipeline            fetch          process        store
//   2.57 s  CPU-bound           1 x  24 %  0.0  1 x  97 %  3.5  1 x  15 %  0.0  process   2.46 s
//   5.03 s  I/O-bound           1 x  98 %  0.0  1 x  25 %  0.0  1 x   5 %  0.0  fetch     2.46 s
//   7.52 s  storage-bound       1 x  24 %  0.0  1 x  14 %  0.0  1 x  97 %  3.7  store     2.48 s
//   8.93 s  I/O-bound, 8 hands  8 x  43 %  0.0  1 x  85 %  5.4  1 x  17 %  0.0  process   1.41 s
//  11.56 s  how many hands?     1 x  55 %  0.0  2 x  95 %  2.7  1 x  46 %  0.0  process   2.63 s
//  14.18 s  one more            2 x  28 %  0.0  2 x  96 %  4.1  1 x  54 %  0.0  process   2.61 s
//  19.03 s  one and one         1 x  17 %  0.0  1 x  98 %  4.6  1 x  10 %  0.0  process   4.85 s
// holds:  CPU-bound: held up by process (process)
// holds:  I/O-bound: held up by fetch (fetch)
// holds:  storage-bound: held up by store (store)
// holds:  I/O-bound, 8 hands: held up by process (process)
// holds:  how many hands?: held up by process (process)
// holds:  one more: held up by process (process)
// holds:  one and one: held up by process (process)
// holds:  the results are the same with one worker and with all
// capacity of 2 workers: 1.91
// holds:  a hand more to fetch does not help: 2.61 s, and 2.63 s without
// holds:  1.84x faster than one and one (at least 1.71x)
