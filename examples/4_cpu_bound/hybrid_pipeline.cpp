// CPU-bound work: six sources are fetched at once, and four workers process each as it arrives.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/4_cpu_bound/hybrid_pipeline.cpp -o hybrid && ./hybrid
//
// What it teaches: a small data pipeline. For each source one coroutine awaits the fetch, then a
// job on a worker process; what comes back is a map from source to report. Arguments and results
// travel to the process and back by themselves: numbers, strings, containers, plain structs.
// Look at: the timeline (= waits, # is a job on a worker), and the table with the times of each
// source. All together takes less than fetching everything and then processing everything.
// --quick takes less of everything; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <map>
#include <numeric>
#include <random>
#include <string>
#include <string_view>
#include <thread>
#include <vector>
using namespace std::chrono_literals;

double seconds() { return std::chrono::duration<double>(asyncio::elapsed()).count(); }
double cpu_seconds() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string figure(double value) { // with two decimals
    char text[32];
    std::snprintf(text, sizeof text, "%.2f", value);
    return text;
}

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text, bool busy = false) {
    std::printf("%s %s\n", holds ? "holds: " : busy ? "BUSY:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1; // a machine without a core to spare proves nothing
}

struct source {
    std::string name;
    asyncio::duration latency;
};
using dataset = std::vector<double>;

dataset measurements(const std::string& name) { // what the source answers
    std::seed_seq seed(name.begin(), name.end());
    std::mt19937 random(seed);
    dataset values(1000);
    for (double& value : values) value = static_cast<double>(random() % 1000) / 10;
    return values;
}

asyncio::coro<dataset> fetch(source from) {
    co_await asyncio::sleep(from.latency); // stands for a request over the network
    co_return measurements(from.name);
}

struct estimate {
    double mean = 0, low = 0, high = 0; // the true mean lies between the two with 95 %
    double cpu = 0, wall = 0;           // seconds of a core, and seconds, that it took
};

// The CPU work, in a worker process: draws new samples from the values, many times, and looks how
// much their means differ (the bootstrap of statistics).
estimate bootstrap(const dataset& values, int samples) {
    const auto began = std::chrono::steady_clock::now();
    const double cpu_began = cpu_seconds();
    std::mt19937 random(42);
    std::vector<double> means;
    for (int i = 0; i < samples; ++i) {
        double sum = 0;
        for (std::size_t n = 0; n < values.size(); ++n) sum += values[random() % values.size()];
        means.push_back(sum / static_cast<double>(values.size()));
    }
    std::sort(means.begin(), means.end());
    estimate out;
    out.mean =
        std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
    out.low = means[means.size() / 40];
    out.high = means[means.size() - 1 - means.size() / 40];
    out.cpu = cpu_seconds() - cpu_began;
    out.wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    return out;
}

struct report {
    double fetch = 0; // seconds
    estimate result = {};
};
using reports = std::map<std::string, report>;

asyncio::coro<> fetch_and_process(asyncio::executor& pool, source from, int samples, reports& all) {
    asyncio::current_task().set_name(from.name); // for the timeline
    const double began = seconds();
    dataset values = co_await fetch(from);
    all[from.name].fetch = seconds() - began;
    all[from.name].result =
        co_await asyncio::run_in_executor(pool, bootstrap, std::move(values), samples);
}

asyncio::coro<reports> pipeline(asyncio::executor& pool, std::vector<source> sources, int samples) {
    reports all;
    std::vector<asyncio::coro<>> running;
    for (const source& s : sources) running.push_back(fetch_and_process(pool, s, samples, all));
    co_await asyncio::gather(std::move(running));
    co_return all;
}

// For comparison: first all fetches, then all jobs.
asyncio::coro<std::vector<estimate>> staged(asyncio::executor& pool, std::vector<source> sources,
                                            int samples) {
    std::vector<asyncio::coro<dataset>> fetches;
    for (const source& s : sources) fetches.push_back(fetch(s));
    std::vector<dataset> answers = co_await asyncio::gather(std::move(fetches));
    std::vector<asyncio::future<estimate>> jobs;
    for (dataset& values : answers)
        jobs.push_back(asyncio::run_in_executor(pool, bootstrap, std::move(values), samples));
    co_return co_await asyncio::gather(std::move(jobs));
}

asyncio::coro<int> async_main(bool quick, std::string trace_file) {
    const asyncio::duration unit = quick ? 10ms : 100ms;
    const std::vector<source> sources = {{"weather", 5 * unit}, {"traffic", 7 * unit},
                                         {"energy", 9 * unit},  {"water", 11 * unit},
                                         {"air", 13 * unit},    {"noise", 15 * unit}};
    int samples = 10; // so many take a job as long as wanted
    while (bootstrap(measurements("a test"), samples).cpu < (quick ? 0.04 : 0.4))
        samples += samples / 4;
    asyncio::process_pool_executor pool(4);
    co_await pipeline(pool, {{"a test", 0s}, {"a test", 0s}, {"a test", 0s}, {"a test", 0s}},
                      10); // the workers start

    double fast = 1e9, slow = 1e9, cpu = 0, wall = 0;
    bool busy = false;
    reports all;
    for (int round = 1; round <= 3 || (round <= 15 && slow < 1.1 * fast && !busy); ++round) {
        double began = seconds();
        for (const estimate& e : co_await staged(pool, sources, samples))
            cpu += e.cpu, wall += e.wall;
        slow = std::min(slow, seconds() - began);
        const double s = seconds() - began;
        asyncio::tracer trace(asyncio::get_running_loop());
        began = seconds();
        all = co_await pipeline(pool, sources, samples);
        fast = std::min(fast, seconds() - began);
        say(figure(s) + " " + figure(seconds() - began) + " " + figure(cpu / wall));
        busy = cpu / wall < 0.9 * std::min(1.0, std::thread::hardware_concurrency() / 4.0);
        if (round == 1) trace.print_timeline(std::cout);
        if (trace_file.empty()) continue;
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }
    claim(slow >= 1.1 * fast, figure(slow / fast), busy);
    bool same = true;
    for (const auto& [name, got] : all) {
        const estimate expected = bootstrap(measurements(name), samples);
        same = same && got.result.mean == expected.mean && got.result.low == expected.low &&
               got.result.high == expected.high;
        std::printf("%s %f %f %f %f %f\n", name.c_str(), got.fetch, got.result.wall,
                    got.result.mean, got.result.low, got.result.high);
    }
    claim(same, "same");
    co_return broken == 0 ? 0 : 1;
}
int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    return asyncio::run_main(async_main(argc > 1, ""));
    (void)argv;
}
