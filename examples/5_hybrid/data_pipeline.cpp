// Hybrid workloads: a data pipeline that measures itself, from the first fetch to the last store.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/data_pipeline.cpp -o data && ./data
//
// What it teaches: what to measure in a pipeline. Twelve items are fetched (0.5 to 1.5 s, three at
// once), processed (1 to 2 s of one core, on two workers) and stored (0.1 to 0.3 s, one at a time),
// with bounded queues in between. Of each item we note the seconds in each stage and from end to
// end, of each stage how much of the time it is busy. The busiest is the bottleneck; if it never
// had to wait, the pipeline would be ideal. Efficiency is that ideal time divided by the real one.
// Look at: the timeline, where = is waiting and # is a worker computing; the table; the summary.
// --seed N draws other times; --quick does it 30 times faster; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <random>
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
constexpr const char* names[stages] = {"fetch", "compute", "store"};
constexpr int hands[stages] = {3, 2, 1}; // how many items are in a stage at the same time

struct item {
    int number;
    double units[stages];        // what each stage is to take
    double seconds[stages] = {}; // what it took
    double began = 0, end_to_end = 0;
    processed result = {};
};
using items = std::vector<item>;

struct bench {
    double unit;         // what a second of the exercise takes: less with --quick
    double rounds = 2e7; // the work of a unit, once calibrated
    asyncio::process_pool_executor pool{hands[compute]};
};

asyncio::coro<> work(bench& b, item& i, int stage) {
    const double began = now();
    if (stage == fetch) i.began = began;
    if (stage == compute)
        i.result = co_await asyncio::run_in_executor(b.pool, process, i.number,
                                                     b.rounds * i.units[stage]);
    else // stands for a request to a source, or to a database
        co_await asyncio::sleep(asyncio::duration::seconds(b.unit * i.units[stage]));
    i.seconds[stage] = now() - began;
    if (stage != store) co_return;
    i.end_to_end = now() - i.began;
    std::putchar('.'); // shows the progress
    std::fflush(stdout);
}

asyncio::coro<items> in_turn(bench& b, items all) {
    for (item& i : all)
        for (int stage = 0; stage < stages; ++stage) co_await work(b, i, stage);
    co_return all;
}

// One of the hands of a stage.
asyncio::coro<> hand(bench& b, int stage, asyncio::queue<item*>& in, asyncio::queue<item*>& out,
                     int& running) {
    while (auto i = co_await in.next()) {
        co_await work(b, **i, stage);
        co_await out.put(*i); // waits while the queue is full
    }
    if (--running == 0) out.shutdown(); // the last one closes the door
}

asyncio::coro<items> pipeline(bench& b, items all) {
    asyncio::queue<item*> planned, fetched(4), computed(4), stored;
    asyncio::queue<item*>* const queues[] = {&planned, &fetched, &computed, &stored};
    for (item& i : all) planned.put_nowait(&i);
    planned.shutdown();
    int running[stages] = {hands[fetch], hands[compute], hands[store]};
    const auto all_hands = [&](asyncio::task_group& group) {
        for (int s = 0; s < stages; ++s)
            for (int h = 0; h < hands[s]; ++h)
                group.create_task(hand(b, s, *queues[s], *queues[s + 1], running[s]),
                                  {.name = names[s]});
    };
    co_await asyncio::with(asyncio::task_group(), all_hands);
    co_return all;
}

struct run {
    double took = 1e9;
    items all = {};
};

// Other programs on the machine only ever make a run longer, so the best of some counts.
asyncio::coro<> measure(const char* name, asyncio::coro<items> work, run& best) {
    std::printf("%6.2f s  %-11s ", now(), name);
    run r;
    const double began = now();
    r.all = co_await std::move(work);
    r.took = now() - began;
    std::printf(" %.2f s\n", r.took);
    if (r.took < best.took) best = r;
}

asyncio::coro<int> async_main(unsigned seed, bool quick, std::string trace_file) {
    std::mt19937 random(seed);
    const auto draw = [&random](double from, double to) {
        return from + (to - from) * static_cast<double>(random()) / 4294967296.0;
    };
    items plan;
    for (int i = 1; i <= 12; ++i) // the elements of a braced list are evaluated in their order
        plan.push_back({i, {draw(0.5, 1.5), draw(1, 2), draw(0.1, 0.3)}});
    bench b{quick ? 0.03 : 1};
    for (int i = 0; i < 2; ++i) { // the second time, the worker is warm
        const processed p = co_await asyncio::run_in_executor(b.pool, process, 1, b.rounds);
        b.rounds *= b.unit / p.cpu;
    }

    run slow, fast;
    for (int i = 0; i < (quick ? 2 : 1); ++i) {
        co_await measure("in turn", in_turn(b, plan), slow);
        asyncio::tracer trace(asyncio::get_running_loop());
        co_await measure("as pipeline", pipeline(b, plan), fast);
        if (i > 0) continue;
        trace.print_timeline(std::cout);
        if (trace_file.empty()) continue;
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    std::printf("item   fetch  compute  store  end to end, in ms (seed %u)\n", seed);
    double busy[stages] = {}, cpu = 0; // busy: seconds of each hand of a stage
    bool right = true, sums = true;
    for (std::size_t k = 0; k < plan.size(); ++k) {
        const item& i = fast.all[k];
        const auto [f, c, s] = i.seconds;
        std::printf("%4d  %6.0f  %7.0f  %5.0f  %10.0f\n", i.number, 1e3 * f, 1e3 * c, 1e3 * s,
                    1e3 * i.end_to_end);
        busy[fetch] += f / hands[fetch], busy[compute] += c / hands[compute], busy[store] += s;
        cpu += i.result.cpu;
        right = right && i.result.digest == slow.all[k].result.digest && i.result.digest != 0;
        sums = sums && i.end_to_end > f + c + s - 1e-6;
    }
    const auto most = std::max_element(busy, busy + stages);
    const double efficiency = *most / fast.took, share = cpu / (busy[compute] * hands[compute]);
    for (int s = 0; s < stages; ++s)
        std::printf("%-7s  busy for %.0f %% of the time\n", names[s], 100 * busy[s] / fast.took);
    std::printf("%.2f items per second; each worker had %.2f of a core%s\n", 12 / fast.took, share,
                share < 0.9 ? ": machine busy" : "");

    claim(right, "all 12 items are stored, with the same results as in turn");
    claim(sums, "from end to end, no item takes less than its three stages");
    const std::string bottleneck = names[most - busy];
    claim(bottleneck == "compute", "the bottleneck is " + bottleneck + " (compute)", share < 0.9);
    claim(fast.took < 0.8 * slow.took, num(fast.took) + " s (at least 20 % less than in turn: " +
          num(slow.took) + " s)", share < 0.9);
    claim(efficiency > 0.7 && efficiency <= 1, "efficiency " + num(*most) + " s / " +
          num(fast.took) + " s = " + num(efficiency) + " (0.70 to 1)", share < 0.9);
    co_return broken == 0 ? 0 : 1;
}

bool is_number(std::string_view text) {
    return !text.empty() && text.size() < 10 &&
           text.find_first_not_of("0123456789") == std::string_view::npos;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    bool quick = false;
    unsigned seed = 1;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") quick = true;
        else if (word == "--seed" && i + 1 < argc && is_number(argv[i + 1]))
            seed = static_cast<unsigned>(std::stoul(argv[++i]));
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("A data pipeline that measures itself.\n"
                       "usage: data [--quick] [--seed N] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(seed, quick, trace_file));
}
