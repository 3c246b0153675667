// Hybrid workloads: records from five APIs are transformed and stored, and every error is counted.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/ingestion.cpp -o ingest && ./ingest
//
// What it teaches: five tasks ask an API each, all put what they get into one queue, two tasks take
// it out for two worker processes, and one stores. The store is the slowest; the queues hold ten
// records at most, so that in the end the APIs are only asked as fast as the store can take it.
// Errors happen in every stage: an API is down for a while, a record is no number (the worker's
// exception comes back to where its result is awaited), the store refuses one. Each is caught where
// it happens and counted, and in the end nothing may be missing.
// Look at: the timeline (= waits, # is a worker computing), and the table. --quick computes less.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <string>
#include <vector>
using namespace std::chrono_literals;

double now() { return asyncio::elapsed().total_seconds(); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

struct transformed { // plain structs travel to the worker processes and back as they are
    int value = 0;
    std::uint64_t digest = 0;
};

// A fixed amount of work for one core. It runs in a worker process.
transformed transform(const std::string& text, int rounds) {
    transformed out{std::stoi(text)}; // throws std::invalid_argument for what is no number
    out.digest = static_cast<std::uint64_t>(out.value);
    for (int i = 0; i < rounds; ++i)
        out.digest = (out.digest ^ out.digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    return out;
}
int rounds = 3'000'000; // about a hundredth of a second

struct api {
    std::string name;
    asyncio::duration latency;
    int asked = 0, fetch_errors = 0, transform_errors = 0, store_errors = 0;
    std::vector<transformed> rows = {}; // what is stored
};
std::vector<api> apis = {
    {"orders", 20ms}, {"weather", 30ms}, {"prices", 40ms}, {"stock", 50ms}, {"traffic", 60ms}};

struct record {
    api* from;
    std::string text = "";
    transformed data = {};
};

asyncio::queue<record> raw(10), clean(10);
std::size_t deepest = 0; // the most records in the first queue
double waited = 0;       // for a free place, by those who ask the APIs
int asking = 5, transforming = 2;

asyncio::coro<std::string> get(const api& a, int number) { // stands for an HTTP request
    co_await asyncio::sleep(a.latency);
    if (a.name == "weather" && number >= 5 && number <= 9) throw std::runtime_error("503");
    co_return number % 10 == 0 ? "n/a" : std::to_string(number);
}

asyncio::coro<> save(const record& r) { // stands for a database
    co_await asyncio::sleep(20ms);
    if (r.data.value == 13) throw std::runtime_error("duplicate key");
}

asyncio::coro<> ask(api& a) {
    for (int number = 1; number <= 20; ++number) {
        ++a.asked;
        record r{&a};
        try {
            r.text = co_await get(a, number);
        } catch (const std::runtime_error&) {
            ++a.fetch_errors;
            continue;
        }
        const double began = now();
        co_await raw.put(std::move(r)); // waits while ten are in there
        waited += now() - began;
        deepest = std::max(deepest, raw.qsize());
    }
    if (--asking == 0) raw.shutdown(); // the last one closes the door
}

asyncio::coro<> transform_all(asyncio::executor& pool) {
    while (auto r = co_await raw.next()) {
        try {
            r->data = co_await asyncio::run_in_executor(pool, transform, r->text, rounds);
        } catch (const std::invalid_argument&) {
            ++r->from->transform_errors;
            continue;
        }
        co_await clean.put(*r); // waits, too, and so do those who ask, in the end
    }
    if (--transforming == 0) clean.shutdown();
}

asyncio::coro<> store_all() {
    while (auto r = co_await clean.next()) {
        try {
            co_await save(*r);
            r->from->rows.push_back(r->data);
        } catch (const std::runtime_error&) { ++r->from->store_errors; }
    }
}

asyncio::coro<int> async_main(bool quick) {
    if (quick) rounds /= 20;
    asyncio::process_pool_executor pool(2);
    asyncio::tracer trace(asyncio::get_running_loop());
    const double began = now();
    const auto stages = [&](asyncio::task_group& group) {
        for (api& a : apis) group.create_task(ask(a), {.name = a.name});
        for (int i = 0; i < 2; ++i) group.create_task(transform_all(pool), {.name = "transform"});
        group.create_task(store_all(), {.name = "store"});
    };
    co_await asyncio::with(asyncio::task_group(), stages);
    const double took = now() - began;
    trace.print_timeline(std::cout);

    api all{"all", 0s};
    bool right = true;
    for (const api& a : apis) {
        all.asked += a.asked, all.fetch_errors += a.fetch_errors;
        all.transform_errors += a.transform_errors, all.store_errors += a.store_errors;
        all.rows.insert(all.rows.end(), a.rows.begin(), a.rows.end());
    }
    apis.push_back(all);
    std::puts("api      asked  fetch errors  transform errors  store errors  stored");
    for (const api& a : apis)
        std::printf("%-8s  %4d  %12d  %16d  %12d  %6zu\n", a.name.c_str(), a.asked, a.fetch_errors,
                    a.transform_errors, a.store_errors, a.rows.size());
    const int stored = static_cast<int>(all.rows.size());
    std::printf("%.2f s: %.0f stored per second\n", took, stored / took);

    claim(all.asked == 100 && all.fetch_errors == 5 && all.transform_errors == 10 &&
              all.store_errors == 5 && stored == 80,
          "all 100 are accounted for: 5 + 10 + 5 errors and " + std::to_string(stored) + " stored");
    for (const transformed& t : all.rows)
        right = right && t.digest == transform(std::to_string(t.value), rounds).digest;
    claim(right, "the workers computed what this process computes");
    claim(deepest == 10 && waited > 0,
          std::to_string(deepest) + " records in the queue (at most 10); those who ask waited " +
              std::to_string(waited).substr(0, 4) + " s for a free place");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    const std::string option = argc == 2 ? argv[1] : "";
    if (argc == 1 || option == "--quick") return asyncio::run_main(async_main(option == "--quick"));
    std::fputs("Records of five APIs are transformed and stored; every error is counted.\n"
               "usage: ingest [--quick]\n",
               option == "--help" ? stdout : stderr);
    return option == "--help" ? 0 : 2;
}
// Output:
// time      |0                                                    1.741 s|
// Task-1    |============================================================| 0.000-1.741 s
// orders    |==========================                                  | 0.000-0.734 s
// weather   |====================================                        | 0.000-1.036 s
// prices    |===========================================                 | 0.000-1.240 s
// stock     |==============================================              | 0.000-1.320 s
// traffic   |==================================================          | 0.000-1.440 s
// transform |#######=###=######=######=###=######=######=######=#=       | 0.000-1.520 s
// transform |=########=######=###=######=##########=##=###=######        | 0.000-1.500 s
// store     |============================================================| 0.000-1.741 s
// api      asked  fetch errors  transform errors  store errors  stored
// orders      20             0                 2             1      17
// weather     20             5                 2             1      12
// prices      20             0                 2             1      17
// stock       20             0                 2             1      17
// traffic     20             0                 2             1      17
// all        100             5                10             5      80
// 1.74 s: 46 stored per second
// holds:  all 100 are accounted for: 5 + 10 + 5 errors and 80 stored
// holds:  the workers computed what this process computes
// holds:  10 records in the queue (at most 10); those who ask waited 1.74 s for a free place
