// Hybrid workloads: a pipeline that goes on when items fail, services hang and the store is late.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/production_pipeline.cpp -o prod && ./prod
//
// What it teaches: a hundred items are fetched, processed by two worker processes and stored, in
// batches of ten. The source refuses every item that is a multiple of 7, and never answers for 49:
// wait_for() ends that fetch after 2 s. An item that fails costs nobody but itself. The store hangs
// on every multiple of 20: after 1 s such an item goes to a fallback file, so that it is not lost.
// Look at: the progress bar while it runs; the timeline of the batch that has both 40 and 49, where
// = is waiting and # is a worker computing; and the summary: 15 failed (0, 7 ... 98), 85 stored,
// 4 of those in the file (20, 40, 60, 80). --quick waits and computes less.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

double now() { return asyncio::elapsed().total_seconds(); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// A fixed amount of work for one core. It runs in a worker process.
std::uint64_t process(int item, double rounds) {
    std::uint64_t digest = static_cast<std::uint64_t>(item);
    for (double i = 0; i < rounds; ++i)
        digest = (digest ^ digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    return digest;
}

// How much of it takes `seconds` of one core.
double rounds_for(double seconds) {
    const std::clock_t began = std::clock();
    const double rounds = process(1, 1e6) == 0 ? 1 : 1e6; // the result is used: it is no dead code
    return rounds * seconds * CLOCKS_PER_SEC / static_cast<double>(std::clock() - began);
}

constexpr int items = 100, batch_size = 10;

struct record {
    int item;
    std::uint64_t digest;
};

struct stage { // what one stage did
    const char* name;
    double seconds = 0; // of all items that went through, added up
    int count = 0;

    void add(double began) { seconds += now() - began, ++count; }
};

struct pipeline {
    asyncio::duration fetch_limit, store_limit;
    std::string file; // where items go that the store did not take in time
    double rounds = 0;
    asyncio::process_pool_executor pool{2};
    stage fetched{"fetch"}, processed{"process"}, stored{"store"}, fallback{"fallback"};
    std::vector<int> failed = {};
    int timed_out = 0, done = 0;
};

asyncio::coro<int> fetch(int item) { // stands for a request over the network
    if (item == 49) co_await asyncio::sleep(1h);
    co_await asyncio::sleep(20ms);
    if (item % 7 == 0) throw std::runtime_error("the source refuses it");
    co_return item;
}

asyncio::coro<> store(record r) { // stands for a database
    if (r.item % 20 == 0) co_await asyncio::sleep(1h);
    co_await asyncio::sleep(10ms);
}

asyncio::coro<> write_fallback(pipeline& p, record r) {
    const auto append = [file = p.file, r] { // on a thread, because writing a file blocks
        std::ofstream out(file, std::ios::app);
        out << r.item << ' ' << r.digest << '\n';
        if (!out.flush()) throw std::runtime_error("cannot write to " + file);
    };
    co_await asyncio::to_thread(append);
}

asyncio::coro<> handle(pipeline& p, int item) {
    double began = now();
    try {
        co_await asyncio::wait_for(fetch(item), p.fetch_limit);
    } catch (const std::exception& error) {
        if (dynamic_cast<const asyncio::timeout_error*>(&error)) ++p.timed_out;
        p.failed.push_back(item);
        co_return;
    }
    p.fetched.add(began);

    began = now();
    const record r{item, co_await asyncio::run_in_executor(p.pool, process, item, p.rounds)};
    p.processed.add(began);

    began = now();
    bool late = false; // C++ has no co_await inside catch
    try {
        co_await asyncio::wait_for(store(r), p.store_limit);
        p.stored.add(began);
    } catch (const asyncio::timeout_error&) { late = true; }
    if (!late) co_return;
    co_await write_fallback(p, r);
    p.fallback.add(began);
}

asyncio::coro<> handle_and_count(pipeline& p, int item) {
    co_await handle(p, item);
    ++p.done;
    const std::string bar(static_cast<std::size_t>(p.done / 2), '#');
    std::fprintf(stderr, "\r[%-50s] %d of %d", bar.c_str(), p.done, items);
}

asyncio::coro<> run_batch(pipeline& p, int first) {
    std::vector<asyncio::task<void>> batch;
    for (int i = first; i < first + batch_size; ++i)
        batch.push_back(asyncio::create_task(handle_and_count(p, i),
                                             {.name = "item " + std::to_string(i)}));
    co_await asyncio::gather(std::move(batch));
}

asyncio::coro<int> async_main(bool quick) {
    const auto name = "fallback-" + std::to_string(std::random_device()()) + ".txt";
    pipeline p{quick ? 500ms : 2s, quick ? 500ms : 1s,
               (std::filesystem::temp_directory_path() / name).string()};
    for (int i = 0; i < 2; ++i) // the second time, the worker is warm
        p.rounds = co_await asyncio::run_in_executor(p.pool, rounds_for, quick ? 0.002 : 0.02);

    std::ostringstream timeline;
    for (int first = 0; first < items; first += batch_size) {
        asyncio::tracer trace(asyncio::get_running_loop());
        co_await run_batch(p, first);
        if (first == 40) trace.print_timeline(timeline);
    }
    std::fputc('\n', stderr);
    std::printf("The batch with 40 and 49:\n%s", timeline.str().c_str());
    std::printf("%5.2f s  %zu failed:", now(), p.failed.size());
    for (const int item : p.failed) std::printf(" %d", item);
    std::printf("\n");
    for (const stage& s : {p.fetched, p.processed, p.stored, p.fallback})
        std::printf("%-9s %3d items, %7.1f ms on average\n", s.name, s.count,
                    1000 * s.seconds / s.count);

    std::vector<record> kept;
    std::ifstream in(p.file);
    for (record r{}; in >> r.item >> r.digest;) kept.push_back(r);
    in.close();
    std::filesystem::remove(p.file);

    std::vector<int> multiples_of_7;
    for (int item = 0; item < items; item += 7) multiples_of_7.push_back(item);
    std::sort(p.failed.begin(), p.failed.end());
    claim(p.failed == multiples_of_7 && p.timed_out == 1,
          std::to_string(p.failed.size()) + " fetches failed (15), by the limit: " +
              std::to_string(p.timed_out) + " (1)");
    claim(p.stored.count + p.fallback.count == 85,
          std::to_string(p.stored.count) + " stored, and " + std::to_string(p.fallback.count) +
              " in the file (81 and 4)");
    bool right = kept.size() == 4;
    for (std::size_t i = 0; i < kept.size(); ++i)
        right = right && kept[i].item == 20 * (static_cast<int>(i) + 1) &&
                kept[i].digest == process(kept[i].item, p.rounds);
    claim(right, "the file has items 20, 40, 60 and 80, with the right results");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    const std::string_view option = argc > 1 ? argv[1] : "";
    if (argc > 2 || (!option.empty() && option != "--quick")) {
        std::fputs("A pipeline that goes on when items fail, services hang and the store is late.\n"
                   "usage: prod [--quick]\n",
                   option == "--help" ? stdout : stderr);
        return option == "--help" ? 0 : 2;
    }
    return asyncio::run_main(async_main(option == "--quick"));
}
