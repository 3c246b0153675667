// Hybrid workloads: a pipeline that goes on when items fail, services hang and the store is late.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/production_pipeline.cpp -o prod && ./prod
//
// What it teaches: a hundred items are fetched, processed by two worker processes and stored, in
// batches of ten. The source refuses every item that is a multiple of 7, and never answers for 49:
// wait_for() ends that fetch after 2 s. An item that fails costs nobody but itself. The store hangs
// on every multiple of 20: after 1 s such an item goes to a fallback file, so that it is not lost.
// Look at: the progress bar while it runs; the timeline of the batch that has both 40 and 49, where
// = is waiting and # is a worker computing; and the summary. --quick computes less.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <vector>
using namespace std::chrono_literals;

double now() { return asyncio::elapsed().total_seconds(); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// A fixed amount of work for one core. It runs in a worker process.
std::uint64_t process(int item, int rounds) {
    std::uint64_t digest = static_cast<std::uint64_t>(item);
    for (int i = 0; i < rounds; ++i) digest = (digest ^ digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    return digest;
}
int rounds = 10'000'000; // some hundredths of a second
constexpr int items = 100, batch_size = 10;

struct stage { // what one stage did
    const char* name;
    double seconds = 0; // of all items that went through, added up
    int count = 0;

    void add(double began) { seconds += now() - began, ++count; }
} fetched{"fetch"}, processed{"process"}, stored{"store"}, fallback{"fallback"};

std::vector<int> failed, late, handled; // late: neither fetched nor refused within the limit

asyncio::coro<> fetch(int item) { // stands for a request over the network
    if (item == 49) co_await asyncio::sleep(1h);
    co_await asyncio::sleep(20ms);
    if (item % 7 == 0) throw std::runtime_error("the source refuses it");
}

asyncio::coro<> store(int item, std::uint64_t) { // stands for a database
    if (item % 20 == 0) co_await asyncio::sleep(1h);
    co_await asyncio::sleep(10ms);
}

const auto fallback_file = (std::filesystem::temp_directory_path() /
                            ("fallback-" + std::to_string(std::random_device()()))).string();

void write_fallback(int item, std::uint64_t digest) {
    std::ofstream out(fallback_file, std::ios::app);
    out << item << ' ' << digest << '\n';
    if (!out.flush()) throw std::runtime_error("cannot write to " + fallback_file);
}

asyncio::coro<> handle(asyncio::executor& pool, int item) {
    double began = now();
    try {
        co_await asyncio::wait_for(fetch(item), 2s);
    } catch (const std::exception& error) {
        if (dynamic_cast<const asyncio::timeout_error*>(&error)) late.push_back(item);
        failed.push_back(item);
        co_return;
    }
    fetched.add(began);

    began = now();
    const std::uint64_t digest = co_await asyncio::run_in_executor(pool, process, item, rounds);
    processed.add(began);

    began = now();
    try {
        co_await asyncio::wait_for(store(item, digest), 1s);
        stored.add(began);
        co_return;
    } catch (const asyncio::timeout_error&) {} // C++ has no co_await in here
    co_await asyncio::to_thread(write_fallback, item, digest); // because writing a file blocks
    fallback.add(began);
}

asyncio::coro<> handle_and_count(asyncio::executor& pool, int item) {
    asyncio::current_task().set_name("item " + std::to_string(item)); // for the timeline
    co_await handle(pool, item);
    handled.push_back(item);
    const std::string bar(handled.size() / 2, '#');
    std::fprintf(stderr, "\r[%-50s] %zu of %d", bar.c_str(), handled.size(), items);
}

asyncio::coro<int> async_main(bool quick) {
    if (quick) rounds /= 20;
    asyncio::process_pool_executor pool(2);
    std::ostringstream timeline;
    for (int first = 0; first < items; first += batch_size) {
        asyncio::tracer trace(asyncio::get_running_loop());
        const auto batch = [&](asyncio::task_group& group) { // gather() might leave some behind
            for (int i = first; i < first + batch_size; ++i)
                group.create_task(handle_and_count(pool, i));
        };
        co_await asyncio::with(asyncio::task_group(), batch);
        if (first == 40) trace.print_timeline(timeline);
    }
    std::fputc('\n', stderr);
    std::printf("The batch with 40 and 49:\n%s", timeline.str().c_str());
    for (const stage& s : {fetched, processed, stored, fallback})
        std::printf("%-9s %3d items, %7.1f ms on average\n", s.name, s.count,
                    1000 * s.seconds / s.count);
    std::vector<int> kept;
    bool right = true;
    std::ifstream in(fallback_file);
    std::uint64_t digest = 0;
    for (int item = 0; in >> item >> digest; kept.push_back(item))
        right = right && digest == process(item, rounds);
    in.close();
    std::filesystem::remove(fallback_file);

    std::sort(failed.begin(), failed.end());
    std::vector<int> multiples_of_7;
    for (int item = 0; item < items; item += 7) multiples_of_7.push_back(item);
    claim(failed == multiples_of_7, std::to_string(failed.size()) + " failed: the multiples of 7");
    claim(late == std::vector<int>{49}, "the limit ended " + std::to_string(late.size()) +
          " fetch, and it was item 49");
    claim(stored.count == 81 && fallback.count == 4, std::to_string(stored.count) +
          " stored, and " + std::to_string(fallback.count) + " in the file (81 and 4)");
    claim(right && kept == std::vector<int>{20, 40, 60, 80},
          "the file has items 20, 40, 60 and 80, with the right results");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    const std::string option = argc == 2 ? argv[1] : "";
    if (argc == 1 || option == "--quick") return asyncio::run_main(async_main(option == "--quick"));
    std::fputs("A pipeline that goes on when items fail, services hang and the store is late.\n"
               "usage: prod [--quick]\n",
               option == "--help" ? stdout : stderr);
    return option == "--help" ? 0 : 2;
}
// Output:
// The batch with 40 and 49:
// time    |0                                                    2.000 s|
// Task-1  |============================================================| 0.000-2.000 s
// item 40 |##=============================#                            | 0.000-1.059 s
// item 41 |##                                                          | 0.000-0.059 s
// item 42 |=                                                           | 0.000-0.020 s
// item 43 |=#=                                                         | 0.000-0.078 s
// item 44 |=##                                                         | 0.000-0.078 s
// item 45 |=##                                                         | 0.000-0.097 s
// item 46 |=##=                                                        | 0.000-0.108 s
// item 47 |==#=                                                        | 0.000-0.108 s
// item 48 |==#=                                                        | 0.000-0.109 s
// item 49 |============================================================| 0.000-2.000 s
// fetch      85 items,    20.2 ms on average
// process    85 items,    58.9 ms on average
// store      81 items,    14.2 ms on average
// fallback    4 items,  1000.4 ms on average
// holds:  15 failed: the multiples of 7
// holds:  the limit ended 1 fetch, and it was item 49
// holds:  81 stored, and 4 in the file (81 and 4)
// holds:  the file has items 20, 40, 60 and 80, with the right results
