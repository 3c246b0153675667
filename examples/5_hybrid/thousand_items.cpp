// Hybrid workloads: a thousand items, and how many of them to have in hand at a time.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/thousand_items.cpp -o items && ./items
//
// What it teaches: an item is fetched in 0.1 s and processed in 2 s, by one of eight workers. In
// turn, a thousand take 35 minutes. All at once takes 4 minutes, but holds all of them in memory.
// Batches of ten hold ten, but they fit eight workers badly: the last two of a batch are processed
// while six workers have nothing to do. The last way finds a good size by itself: it doubles the
// batch while that gives over 5 % more items per second, and then goes back by one.
// Look at: the last four lines, and the timeline of one batch of ten. The workers are simulated by
// sleep(), and the virtual clock jumps over the waiting; --real waits for all of it (1 hour).
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 5); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

constexpr int items = 1000;

struct shop {
    const char* way;
    asyncio::semaphore workers{8};
    int held = 0, most_held = 0; // items that are being fetched, waiting or being processed
    int processed = 0;
};

asyncio::coro<> fetch_and_process(shop& s) {
    s.most_held = std::max(s.most_held, ++s.held);
    co_await asyncio::sleep(100ms); // the fetch
    {
        auto worker = co_await s.workers.scoped(); // waits until one of the eight is free
        co_await asyncio::sleep(2s);               // the processing
    }
    --s.held;
    if (++s.processed % 250 == 0) std::printf("%7.1f s  %s: %d\n", seconds(), s.way, s.processed);
}

asyncio::coro<> batch(shop& s, int size) {
    const auto all_items = [&](asyncio::task_group& group) { // all end before `s` does
        for (int i = 0; i < size; ++i)
            group.create_task(fetch_and_process(s), {.name = "item " + std::to_string(i)});
    };
    co_await asyncio::with(asyncio::task_group(), all_items);
}

asyncio::coro<> in_turn(shop& s) {
    while (s.processed < items) co_await fetch_and_process(s);
}

asyncio::coro<> all_at_once(shop& s) { co_await batch(s, items); }

asyncio::coro<> batches_of_ten(shop& s) {
    while (s.processed < items) co_await batch(s, 10);
}

asyncio::coro<> batches_that_adapt(shop& s) {
    int size = 10;
    double best = 0; // items per second so far
    bool growing = true;
    while (s.processed < items) {
        const int now = std::min(size, items - s.processed);
        const double began = seconds();
        co_await batch(s, now);
        if (!growing) continue;
        const double throughput = now / (seconds() - began);
        growing = throughput > 1.05 * best;
        size = growing ? size * 2 : size / 2;
        best = std::max(best, throughput);
        std::printf("%7.1f s  a batch of %d: %.2f per second\n", seconds(), now, throughput);
    }
}

struct result {
    const char* way;
    double took;
    int most_held;
};

asyncio::coro<result> measure(const char* way, asyncio::coro<> (*run)(shop&)) {
    shop s{way};
    const double began = seconds();
    co_await run(s);
    if (s.processed != items) claim(false, std::string(way) + " processes all items");
    co_return result{way, seconds() - began, s.most_held};
}

asyncio::coro<int> async_main(std::string trace_file) {
    const result turn = co_await measure("in turn", in_turn);
    const result once = co_await measure("all at once", all_at_once);
    const result tens = co_await measure("batches of ten", batches_of_ten);
    const result fits = co_await measure("batches that adapt", batches_that_adapt);

    shop one{"one batch"};
    asyncio::tracer trace(asyncio::get_running_loop());
    co_await batch(one, 10);
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    const auto near = [](double took, double paper) {
        return took > paper * 0.999 && took < paper * 1.1;
    };
    const auto figures = [](const result& r) {
        return std::string(r.way) + ": " + num(r.took) + " s, at most " +
               std::to_string(r.most_held) + " held ";
    };
    claim(near(turn.took, 2100) && turn.most_held == 1, figures(turn) + "(1000 x 2.1 s; 1)");
    claim(near(once.took, 250.1) && once.most_held == items,
          figures(once) + "(0.1 s and 125 rounds of 2 s; 1000)");
    claim(near(tens.took, 410) && tens.most_held == 10,
          figures(tens) + "(100 x 0.1 s and two rounds of 2 s; 10)");
    claim(fits.took < 1.05 * once.took && fits.most_held <= 80,
          figures(fits) + "(at most 5 % longer than all at once; 80)");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options{.clock = asyncio::clock_kind::virtual_time};
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--real") options.clock = asyncio::clock_kind::real;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else if (word != "--virtual") {
            std::fputs("A thousand items, and how many of them to have in hand at a time.\n"
                       "usage: items [--virtual|--real] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//   525.0 s  in turn: 250
//  1050.0 s  in turn: 500
//  1575.0 s  in turn: 750
//  2100.0 s  in turn: 1000
//  2164.1 s  all at once: 250
//  2226.1 s  all at once: 500
//  2288.1 s  all at once: 750
//  2350.1 s  all at once: 1000
//  2452.6 s  batches of ten: 250
//  2555.1 s  batches of ten: 500
//  2657.6 s  batches of ten: 750
//  2760.1 s  batches of ten: 1000
//  2764.2 s  a batch of 10: 2.44 per second
//  2770.3 s  a batch of 20: 3.28 per second
//  2780.4 s  a batch of 40: 3.96 per second
//  2800.5 s  a batch of 80: 3.98 per second
//  2826.8 s  batches that adapt: 250
//  2889.4 s  batches that adapt: 500
//  2952.0 s  batches that adapt: 750
//  3016.7 s  batches that adapt: 1000
// time   |0                                                    4.100 s|
// Task-1 |============================================================| 0.000-4.100 s
// item 0 |===============================                             | 0.000-2.100 s
// item 1 |===============================                             | 0.000-2.100 s
// item 2 |===============================                             | 0.000-2.100 s
// item 3 |===============================                             | 0.000-2.100 s
// item 4 |===============================                             | 0.000-2.100 s
// item 5 |===============================                             | 0.000-2.100 s
// item 6 |===============================                             | 0.000-2.100 s
// item 7 |===============================                             | 0.000-2.100 s
// item 8 |============================================================| 0.000-4.100 s
// item 9 |============================================================| 0.000-4.100 s
// holds:  in turn: 2100.0 s, at most 1 held (1000 x 2.1 s; 1)
// holds:  all at once: 250.1 s, at most 1000 held (0.1 s and 125 rounds of 2 s; 1000)
// holds:  batches of ten: 410.0 s, at most 10 held (100 x 0.1 s and two rounds of 2 s; 10)
// holds:  batches that adapt: 256.6 s, at most 80 held (at most 5 % longer than all at once; 80)
