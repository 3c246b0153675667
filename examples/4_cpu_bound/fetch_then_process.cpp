// CPU-bound work: fetch everything, then process it; or process each answer as it arrives.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/4_cpu_bound/fetch_then_process.cpp -o overlap && ./overlap
//
// What it teaches: waiting needs no core, and computing needs nothing else, so that both can
// happen at the same time. Who fetches all four sources first lets the workers idle until the
// slowest has answered. One coroutine per source, which fetches and then processes, does not.
// Look at: the two timelines (= waits, # is a job on a worker) and where they end.
// --quick takes less of everything; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <numeric>
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

using numbers = std::vector<int>;

int count_primes(const numbers& data) { // the CPU work
    int primes = 0;
    for (const int n : data) {
        bool prime = true;
        for (int d = 2; d * d <= n && prime; ++d) prime = n % d != 0;
        primes += prime ? 1 : 0;
    }
    return primes;
}

numbers first_numbers(std::size_t count) {
    numbers all(count);
    std::iota(all.begin(), all.end(), 2);
    return all;
}

struct source {
    std::string name;
    asyncio::duration latency;
    std::size_t size; // of its answer
};

asyncio::coro<numbers> fetch(source from) {
    asyncio::current_task().set_name(from.name); // for the timeline
    co_await asyncio::sleep(from.latency);       // stands for a request over the network
    co_return first_numbers(from.size);
}

asyncio::coro<int> process(asyncio::executor& pool, std::string name, numbers data) {
    asyncio::current_task().set_name(name);
    co_return co_await asyncio::run_in_executor(pool, count_primes, std::move(data));
}

double fetched = 0; // when the staged way had all answers

asyncio::coro<std::vector<int>> staged(asyncio::executor& pool, std::vector<source> sources) {
    std::vector<asyncio::coro<numbers>> fetches;
    for (const source& s : sources) fetches.push_back(fetch(s));
    std::vector<numbers> answers = co_await asyncio::gather(std::move(fetches));
    fetched = seconds();

    std::vector<asyncio::coro<int>> jobs;
    for (std::size_t i = 0; i < answers.size(); ++i)
        jobs.push_back(process(pool, sources[i].name, std::move(answers[i])));
    co_return co_await asyncio::gather(std::move(jobs));
}

asyncio::coro<int> fetch_and_process(asyncio::executor& pool, source from) {
    numbers answer = co_await fetch(from);
    co_return co_await process(pool, from.name, std::move(answer));
}

asyncio::coro<std::vector<int>> overlapped(asyncio::executor& pool, std::vector<source> sources) {
    std::vector<asyncio::coro<int>> all;
    for (const source& s : sources) all.push_back(fetch_and_process(pool, s));
    co_return co_await asyncio::gather(std::move(all));
}

struct run {
    std::vector<int> primes;
    double took = 0;
};

asyncio::coro<run> measure(asyncio::coro<std::vector<int>> work, bool show, std::string file_name) {
    asyncio::tracer trace(asyncio::get_running_loop());
    const double began = seconds();
    run out;
    out.primes = co_await std::move(work);
    out.took = seconds() - began;
    if (show) trace.print_timeline(std::cout);
    if (file_name.empty()) co_return out;
    std::ofstream file(file_name);
    trace.write_chrome_trace(file);
    if (!file.flush()) throw std::runtime_error("cannot write the trace to " + file_name);
    co_return out;
}

asyncio::coro<int> async_main(bool quick, std::string trace_file) {
    const asyncio::duration unit = quick ? 30ms : 250ms;
    const double job = quick ? 0.06 : 0.5;
    std::size_t size = 1000; // of the answers: so many numbers take a job that long
    for (double cpu = 0; cpu < job; size += size / 8) {
        const numbers sample = first_numbers(size);
        const double began = cpu_seconds();
        if (count_primes(sample) == 0) throw std::logic_error("there are primes below 1000");
        cpu = cpu_seconds() - began;
    }
    const std::vector<source> sources = {
        {"A", unit, size}, {"B", 2 * unit, size}, {"C", 3 * unit, size}, {"D", 4 * unit, size}};
    const int workers = std::clamp(static_cast<int>(std::thread::hardware_concurrency()), 1, 2);
    asyncio::thread_pool_executor pool(workers);

    double slow = 1e9, fast = 1e9, cpu = 0, processing = 0;
    bool same = true, busy = false;
    for (int round = 1; round <= 3 || (round <= 15 && slow < 1.15 * fast && !busy); ++round) {
        const double cpu_began = cpu_seconds();
        const run a = co_await measure(staged(pool, sources), round == 1, "");
        cpu += cpu_seconds() - cpu_began;
        processing += seconds() - fetched;
        const run b = co_await measure(overlapped(pool, sources), round == 1, trace_file);
        busy = cpu / processing < 0.9 * workers;
        slow = std::min(slow, a.took);
        fast = std::min(fast, b.took);
        same = same && a.primes == b.primes;
        say("round " + std::to_string(round) + ": staged " + figure(a.took) + " s, overlapped " +
            figure(b.took) + " s");
    }
    say("the " + std::to_string(workers) + " workers got " + figure(cpu / processing) + " cores" +
        (busy ? ": the machine is busy" : ""));
    claim(same, "both ways have the same results");
    claim(slow >= 1.15 * fast,
          "overlapped: " + figure(fast) + " s, staged: " + figure(slow) + " s, " +
              figure(slow / fast) + "x (at least 1.15x)",
          busy);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    bool quick = false;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") quick = true;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("Fetch everything, then process it; or process each answer as it arrives.\n"
                       "usage: overlap [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
// Output on two cores:
