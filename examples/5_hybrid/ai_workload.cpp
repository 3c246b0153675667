// Hybrid workloads: an AI's inference starts on what has arrived, not when everything is there.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/ai_workload.cpp -o workload && ./workload
//
// What it teaches: three sources answer after 0.3, 0.4 and 0.25 s; the inference on an answer takes
// 0.5 s of one core, and there are two workers. In stages, first all fetches and then all
// inferences, it takes 0.4 s and two rounds of 0.5 s: 1.4 s. When each answer goes to the workers
// as it comes, they begin after 0.25 s: 1.25 s.
// Look at: the two timelines, where = is waiting and # is a worker computing.
// --quick does a fifth of it.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <iostream>
#include <string>
#include <vector>
using namespace std::chrono_literals;

double now() { return asyncio::elapsed().total_seconds(); }
double wall_now() {
    const auto since_boot = std::chrono::steady_clock::now().time_since_epoch();
    return std::chrono::duration<double>(since_boot).count();
}
double cpu_now() { return static_cast<double>(std::clock()) / CLOCKS_PER_SEC; }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 3); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text, bool busy = false) { // busy: not judged
    std::printf("%s %s\n", holds ? "holds: " : busy ? "busy:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1;
}

struct inference { // plain structs travel to the worker processes and back as they are
    std::uint64_t digest = 0;
    double wall = 0, cpu = 0; // the seconds it took

    void operator+=(const inference& i) { digest += i.digest, wall += i.wall, cpu += i.cpu; }
};

// A fixed amount of work for one core. It runs in a worker process.
inference infer(const std::string& text, double rounds) {
    inference out{0, -wall_now(), -cpu_now()};
    for (const char c : text) out.digest = out.digest * 31 + static_cast<unsigned char>(c);
    for (double i = 0; i < rounds; ++i)
        out.digest = (out.digest ^ out.digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    out.wall += wall_now(), out.cpu += cpu_now();
    return out;
}

struct source {
    std::string name;
    asyncio::duration latency;
};
const std::vector<source> sources = {{"weather", 300ms}, {"news", 400ms}, {"knowledge", 250ms}};

double second = 1;   // how long a second of the exercise is: less with --quick
double rounds = 1e6; // the work of an inference; calibrated, it takes half a second

asyncio::coro<std::string> fetch(source from) {
    asyncio::current_task().set_name(from.name);    // for the timeline
    co_await asyncio::sleep(from.latency * second); // stands for a request over the network
    co_return "what " + from.name + " says";
}

asyncio::coro<inference> in_stages(asyncio::executor& pool) {
    std::vector<asyncio::coro<std::string>> fetches;
    for (const source& from : sources) fetches.push_back(fetch(from));
    const std::vector<std::string> texts = co_await asyncio::gather(std::move(fetches));

    std::vector<asyncio::future<inference>> jobs;
    for (const std::string& text : texts)
        jobs.push_back(asyncio::run_in_executor(pool, infer, text, rounds));
    inference all;
    for (const inference& i : co_await asyncio::gather(std::move(jobs))) all += i;
    co_return all;
}

asyncio::coro<inference> fetch_and_infer(asyncio::executor& pool, source from) {
    const std::string text = co_await fetch(from);
    co_return co_await asyncio::run_in_executor(pool, infer, text, rounds);
}

asyncio::coro<inference> as_they_come(asyncio::executor& pool) {
    std::vector<asyncio::task<inference>> parts;
    const auto all_sources = [&](asyncio::task_group& group) { // all end before the pool does
        for (const source& from : sources)
            parts.push_back(group.create_task(fetch_and_infer(pool, from)));
    };
    co_await asyncio::with(asyncio::task_group(), all_sources);
    inference all;
    for (const auto& part : parts) all += part.result();
    co_return all;
}

struct way {
    const char* name;
    double best = 1e9; // seconds; whoever else uses the machine can only make it slower
    std::uint64_t digest = 0;
};
inference total; // of all runs

asyncio::coro<> measure(way& w, asyncio::coro<inference> work) {
    asyncio::tracer trace(asyncio::get_running_loop());
    const double began = now();
    const inference all = co_await std::move(work);
    const double took = now() - began;
    std::printf("%5.2f s  %s: %.3f s\n", now(), w.name, took);
    if (w.best == 1e9) trace.print_timeline(std::cout); // the first time
    w.best = std::min(w.best, took);
    w.digest = all.digest;
    total += all;
}

asyncio::coro<int> async_main(bool quick) {
    if (quick) second = 0.2;
    asyncio::process_pool_executor pool(2);
    for (int i = 0; i < 3; ++i) { // the workers are warm after the first time
        total = co_await in_stages(pool);
        rounds *= 0.5 * second * 3 / total.cpu;
    }

    way staged{"in stages"}, flowing{"as they come"};
    bool good = false, busy = false;
    for (int round = 1; round <= 2 || (round <= 15 && !good && !busy); ++round) {
        co_await measure(staged, in_stages(pool));
        co_await measure(flowing, as_they_come(pool));
        // Between the first and the last answer lie 0.15 s; half of them must be gained.
        good = flowing.best < staged.best - 0.15 * second / 2;
        busy = total.cpu < 0.9 * total.wall;
    }
    std::printf("each worker had %.2f of a core%s\n", total.cpu / total.wall,
                busy ? ": machine busy" : "");
    claim(staged.digest == flowing.digest, "the results are the same");
    claim(good, num(flowing.best) + " s as they come, and " + num(staged.best) +
          " s in stages (" + num(0.15 * second / 2) + " s more, or longer)", busy);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    const std::string option = argc == 2 ? argv[1] : "";
    if (argc == 1 || option == "--quick") return asyncio::run_main(async_main(option == "--quick"));
    std::fputs("An AI's inference starts on what has arrived, not when all is there.\n"
               "usage: workload [--quick]\n",
               option == "--help" ? stdout : stderr);
    return option == "--help" ? 0 : 2;
}
// Output:
//  4.61 s  in stages: 1.394 s
// time      |0                                                    1.394 s|
// Task-1    |=================###########################################| 0.000-1.394 s
// weather   |=============                                               | 0.000-0.300 s
// news      |==================                                          | 0.000-0.400 s
// knowledge |===========                                                 | 0.000-0.250 s
//  5.86 s  as they come: 1.248 s
// time      |0                                                    1.248 s|
// Task-1    |============================================================| 0.000-1.248 s
// weather   |==============#########################                     | 0.000-0.803 s
// news      |===================================#########################| 0.000-1.248 s
// knowledge |============###########################                     | 0.000-0.792 s
//  7.25 s  in stages: 1.391 s
//  8.49 s  as they come: 1.238 s
// each worker had 1.00 of a core
// holds:  the results are the same
// holds:  1.237 s as they come, and 1.391 s in stages (0.075 s more, or longer)
