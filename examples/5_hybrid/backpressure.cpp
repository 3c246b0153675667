// Hybrid workloads: a bounded queue makes a fast producer wait for a slow consumer.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/backpressure.cpp -o pressure && ./pressure
//
// What it teaches: a producer that makes an item every 50 ms and a consumer that needs 200 ms for
// one do not fit together. Between them, a queue without a bound grows and grows. In a queue of 5,
// put() waits while it is full: the producer slows down to the consumer's pace, by itself. Nothing
// gets slower by that, as the consumer has always had something to do.
// Look at: how long put() waits, the depth of the queue, a # for each item, and the timelines: with
// the bound, the producer is at work nearly as long as the consumer.
// --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
std::string num(asyncio::duration d) { return std::to_string(d.total_seconds()).substr(0, 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

constexpr int items = 30;

struct report {
    std::size_t deepest = 0;  // the most items that were in the queue
    asyncio::duration waited; // by the producer, in put()
    asyncio::duration took;   // in all
    std::vector<int> consumed;
};

asyncio::coro<> produce(asyncio::queue<int>& q, report& r) {
    for (int item = 0; item < items; ++item) {
        co_await asyncio::sleep(50ms); // stands for making it
        const asyncio::duration began = asyncio::elapsed();
        co_await q.put(item); // waits while the queue is full
        const asyncio::duration waited = asyncio::elapsed() - began;
        r.waited += waited;
        r.deepest = std::max(r.deepest, q.qsize());
        if (item % 3 == 2)
            std::printf("%5.2f s  item %2d waited for %s s  %s\n", seconds(), item,
                        num(waited).c_str(), std::string(q.qsize(), '#').c_str());
    }
    q.shutdown(); // no more: the consumer's next() gives nothing once the queue is empty
}

asyncio::coro<> consume(asyncio::queue<int>& q, report& r) {
    while (auto item = co_await q.next()) {
        co_await asyncio::sleep(200ms); // stands for what a slow database needs
        r.consumed.push_back(*item);
    }
}

asyncio::coro<report> run(int depth, std::string trace_file) {
    report r;
    asyncio::queue<int> q(depth); // 0: no bound
    asyncio::tracer trace(asyncio::get_running_loop());
    const asyncio::duration began = asyncio::elapsed();
    const auto both = [&](asyncio::task_group& group) {
        group.create_task(produce(q, r), {.name = "producer"});
        group.create_task(consume(q, r), {.name = "consumer"});
    };
    co_await asyncio::with(asyncio::task_group(), both);
    r.took = asyncio::elapsed() - began;

    trace.print_timeline(std::cout);
    if (trace_file.empty()) co_return r;
    std::ofstream file(trace_file);
    trace.write_chrome_trace(file);
    if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    co_return r;
}

asyncio::coro<int> async_main(std::string trace_file) {
    std::puts("A queue without a bound:");
    const report loose = co_await run(0, "");
    std::puts("A queue of 5:");
    const report tight = co_await run(5, trace_file);

    std::vector<int> all;
    for (int item = 0; item < items; ++item) all.push_back(item);
    claim(loose.consumed == all && tight.consumed == all, "every item arrives, in order");
    claim(loose.deepest >= 10, std::to_string(loose.deepest) + " in the queue without a bound");
    claim(tight.deepest == 5, std::to_string(tight.deepest) + " in the queue of 5 (at most 5)");
    // 30 items at the consumer's pace take 6 s, of which the producer works for 1.5 s.
    claim(10 * loose.waited < tight.waited && tight.waited > 1s,
          "the producer waits " + num(tight.waited) + " s instead of " + num(loose.waited) + " s");
    claim(tight.took / loose.took < 1.2,
          num(tight.took) + " s in all with the bound, " + num(loose.took) + " s without");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("A bounded queue makes a fast producer wait for a slow consumer.\n"
                       "usage: pressure [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
// A queue without a bound:
//  0.15 s  item  2 waited for 0.00 s  ##
//  0.30 s  item  5 waited for 0.00 s  ####
//  0.45 s  item  8 waited for 0.00 s  ######
//  0.60 s  item 11 waited for 0.00 s  #########
//  0.75 s  item 14 waited for 0.00 s  ###########
//  0.90 s  item 17 waited for 0.00 s  #############
//  1.05 s  item 20 waited for 0.00 s  ###############
//  1.20 s  item 23 waited for 0.00 s  ##################
//  1.35 s  item 26 waited for 0.00 s  ####################
//  1.50 s  item 29 waited for 0.00 s  ######################
// time     |0                                                    6.050 s|
// Task-1   |============================================================| 0.000-6.050 s
// producer |===============                                             | 0.000-1.500 s
// consumer |============================================================| 0.000-6.050 s
// A queue of 5:
//  6.20 s  item  2 waited for 0.00 s  ##
//  6.35 s  item  5 waited for 0.00 s  ####
//  6.70 s  item  8 waited for 0.15 s  #####
//  7.30 s  item 11 waited for 0.15 s  #####
//  7.90 s  item 14 waited for 0.15 s  #####
//  8.50 s  item 17 waited for 0.15 s  #####
//  9.10 s  item 20 waited for 0.15 s  #####
//  9.70 s  item 23 waited for 0.15 s  #####
// 10.30 s  item 26 waited for 0.15 s  #####
// 10.90 s  item 29 waited for 0.15 s  #####
// time     |0                                                    6.050 s|
// Task-1   |============================================================| 0.000-6.050 s
// producer |=================================================           | 0.000-4.850 s
// consumer |============================================================| 0.000-6.050 s
// holds:  every item arrives, in order
// holds:  22 in the queue without a bound
// holds:  5 in the queue of 5 (at most 5)
// holds:  the producer waits 3.35 s instead of 0.00 s
// holds:  6.05 s in all with the bound, 6.05 s without
