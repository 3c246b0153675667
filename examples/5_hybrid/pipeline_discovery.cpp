// Hybrid workloads: a pipeline starts the next item before the last one has left it.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/pipeline_discovery.cpp -o found && ./found
//
// What it teaches: every item is downloaded, translated and uploaded, 1 s each. Item by item, five
// of them take 15 s, and two of the three services are idle at any time. With a task for each
// service and a queue between two of them all three are busy, and after the first item, which
// takes its 3 s, another one is ready every second: 7 s.
// Look at: the timeline of the pipeline. From the third second on, three items are under way.
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
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string num(asyncio::duration d) { return std::to_string(d.total_seconds()).substr(0, 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

constexpr int items = 5;

int busy = 0, most_busy = 0; // services at work at the same time

asyncio::coro<> use(std::string service, int item) {
    asyncio::current_task().set_name("item " + std::to_string(item) + " " + service);
    most_busy = std::max(most_busy, ++busy);
    co_await asyncio::sleep(1s); // stands for a request over the network
    --busy;
}

asyncio::coro<std::vector<int>> in_turn() {
    std::vector<int> ready;
    for (int item = 1; item <= items; ++item) {
        co_await asyncio::create_task(use("download", item));
        co_await asyncio::create_task(use("translate", item));
        co_await asyncio::create_task(use("upload", item));
        ready.push_back(item);
        say("item " + std::to_string(item) + " is ready");
    }
    co_return ready;
}

// Each stage takes items from the queue before it and puts them into the one behind it. At the end
// it shuts that one down: next() gives nothing any more, and the stage behind it ends, too.
asyncio::coro<> download(asyncio::queue<int>& downloaded) {
    for (int item = 1; item <= items; ++item) {
        co_await asyncio::create_task(use("download", item));
        co_await downloaded.put(item);
    }
    downloaded.shutdown();
}

asyncio::coro<> translate(asyncio::queue<int>& downloaded, asyncio::queue<int>& translated) {
    while (auto item = co_await downloaded.next()) {
        co_await asyncio::create_task(use("translate", *item));
        co_await translated.put(*item);
    }
    translated.shutdown();
}

asyncio::coro<> upload(asyncio::queue<int>& translated, std::vector<int>& ready) {
    while (auto item = co_await translated.next()) {
        co_await asyncio::create_task(use("upload", *item));
        ready.push_back(*item);
        say("item " + std::to_string(*item) + " is ready");
    }
}

asyncio::coro<std::vector<int>> pipeline() {
    asyncio::queue<int> downloaded, translated;
    std::vector<int> ready;
    const auto stages = [&](asyncio::task_group& group) {
        group.create_task(download(downloaded), {.name = "download"});
        group.create_task(translate(downloaded, translated), {.name = "translate"});
        group.create_task(upload(translated, ready), {.name = "upload"});
    };
    co_await asyncio::with(asyncio::task_group(), stages);
    co_return ready;
}

asyncio::coro<int> async_main(std::string trace_file) {
    say("in turn:");
    const auto slow = co_await in_turn();
    const asyncio::duration slow_time = asyncio::elapsed();
    const int busy_in_turn = most_busy;

    say("as a pipeline:");
    asyncio::tracer trace(asyncio::get_running_loop());
    const auto fast = co_await pipeline();
    const asyncio::duration fast_time = asyncio::elapsed() - slow_time;
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    const std::vector<int> expected = {1, 2, 3, 4, 5};
    claim(slow == expected && fast == expected, "both ways give all items, in order");
    claim(busy_in_turn == 1, "in turn, at most " + std::to_string(busy_in_turn) + " is busy (1)");
    claim(most_busy == 3, "as a pipeline, " + std::to_string(most_busy) + " are busy (3)");
    claim(slow_time >= 15s && fast_time >= 7s && fast_time < 11s,
          num(slow_time) + " s in turn (15), " + num(fast_time) + " s as a pipeline (7)");
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
            std::fputs("A pipeline starts the next item before the last one has left it.\n"
                       "usage: found [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.00 s  in turn:
//  3.00 s  item 1 is ready
//  6.00 s  item 2 is ready
//  9.00 s  item 3 is ready
// 12.00 s  item 4 is ready
// 15.00 s  item 5 is ready
// 15.00 s  as a pipeline:
// 18.00 s  item 1 is ready
// 19.00 s  item 2 is ready
// 20.00 s  item 3 is ready
// 21.00 s  item 4 is ready
// 22.00 s  item 5 is ready
// time             |0                                                    7.000 s|
// Task-1           |============================================================| 0.000-7.000 s
// download         |===========================================                 | 0.000-5.000 s
// translate        |====================================================        | 0.000-6.000 s
// upload           |============================================================| 0.000-7.000 s
// item 1 download  |=========                                                   | 0.000-1.000 s
// item 2 download  |        ==========                                          | 1.000-2.000 s
// item 1 translate |        ==========                                          | 1.000-2.000 s
// item 3 download  |                 =========                                  | 2.000-3.000 s
// item 2 translate |                 =========                                  | 2.000-3.000 s
// item 1 upload    |                 =========                                  | 2.000-3.000 s
// item 4 download  |                         ==========                         | 3.000-4.000 s
// item 3 translate |                         ==========                         | 3.000-4.000 s
// item 2 upload    |                         ==========                         | 3.000-4.000 s
// item 5 download  |                                  =========                 | 4.000-5.000 s
// item 4 translate |                                  =========                 | 4.000-5.000 s
// item 3 upload    |                                  =========                 | 4.000-5.000 s
// item 5 translate |                                          ==========        | 5.000-6.000 s
// item 4 upload    |                                          ==========        | 5.000-6.000 s
// item 5 upload    |                                                   =========| 6.000-7.000 s
// holds:  both ways give all items, in order
// holds:  in turn, at most 1 is busy (1)
// holds:  as a pipeline, 3 are busy (3)
// holds:  15.0 s in turn (15), 7.00 s as a pipeline (7)
