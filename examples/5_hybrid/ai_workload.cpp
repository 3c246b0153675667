// Hybrid workloads: an AI's inference starts on what has arrived, not when everything is there.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/ai_workload.cpp -o workload && ./workload
//
// What it teaches: three sources answer after 0.3, 0.4 and 0.25 s; the inference on an answer takes
// 0.5 s of one core, and there are two worker processes. In stages, first all fetches and then all
// inferences, it takes 0.4 s and two rounds of 0.5 s: 1.4 s. When each answer goes to the workers
// as it comes, they begin after 0.25 s: 1.25 s. The difference is one line: gather() over
// coroutines that fetch and infer, instead of a gather() for each stage.
// Look at: the two timelines, where = is waiting and # is a worker computing.
// --quick does a fifth of it; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iostream>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

double now() { return asyncio::elapsed().total_seconds(); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 3); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text, bool busy = false) { // busy: not judged
    std::printf("%s %s\n", holds ? "holds: " : busy ? "busy:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1;
}

struct inference { // plain structs travel to the worker processes and back as they are
    std::uint64_t digest = 0;
    double wall = 0, cpu = 0; // the seconds it took
};

// A fixed amount of work for one core. It runs in a worker process.
inference infer(std::string text, double rounds) {
    const auto began = std::chrono::steady_clock::now();
    const std::clock_t cpu_began = std::clock();
    inference out;
    for (const char c : text) out.digest = out.digest * 31 + static_cast<unsigned char>(c);
    for (double i = 0; i < rounds; ++i)
        out.digest = (out.digest ^ out.digest >> 29) * 0xbf58476d1ce4e5b9U + 1;
    out.cpu = static_cast<double>(std::clock() - cpu_began) / CLOCKS_PER_SEC;
    out.wall = std::chrono::duration<double>(std::chrono::steady_clock::now() - began).count();
    return out;
}

struct source {
    const char* name;
    asyncio::duration latency;
};
const std::vector<source> sources = {{"weather", 300ms}, {"news", 400ms}, {"knowledge", 250ms}};

struct bench {
    double unit;         // what a second of the exercise takes: less with --quick
    double rounds = 2e6; // once calibrated, an inference takes unit / 2
    asyncio::process_pool_executor pool{2};
    std::vector<std::string> events = {};
};

asyncio::coro<std::string> fetch(bench& b, source s) {
    asyncio::current_task().set_name(s.name); // for the timeline
    co_await asyncio::sleep(s.latency * b.unit); // stands for a request over the network
    b.events.push_back(std::string(s.name) + " fetched");
    co_return std::string("what ") + s.name + " says";
}

asyncio::future<inference> start_inference(bench& b, std::string text) {
    b.events.push_back("inference");
    return asyncio::run_in_executor(b.pool, infer, text, b.rounds);
}

asyncio::coro<std::vector<inference>> in_stages(bench& b) {
    std::vector<asyncio::coro<std::string>> fetches;
    for (const source& s : sources) fetches.push_back(fetch(b, s));
    const std::vector<std::string> texts = co_await asyncio::gather(std::move(fetches));

    std::vector<asyncio::future<inference>> jobs;
    for (const std::string& text : texts) jobs.push_back(start_inference(b, text));
    co_return co_await asyncio::gather(std::move(jobs));
}

asyncio::coro<inference> fetch_and_infer(bench& b, source s) {
    const std::string text = co_await fetch(b, s);
    co_return co_await start_inference(b, text);
}

asyncio::coro<std::vector<inference>> as_they_come(bench& b) {
    std::vector<asyncio::coro<inference>> parts;
    for (const source& s : sources) parts.push_back(fetch_and_infer(b, s));
    co_return co_await asyncio::gather(std::move(parts));
}

struct run {
    double took = 1e9, wall = 0, cpu = 0; // wall and cpu: of all inferences
    std::uint64_t digest = 0;
    std::vector<std::string> events = {};
};

// Other programs on the machine only ever make a run longer, so the best of some counts.
asyncio::coro<> measure(bench& b, const char* name, asyncio::coro<std::vector<inference>> work,
                        run& best) {
    b.events.clear();
    const double began = now();
    const std::vector<inference> results = co_await std::move(work);
    run r{now() - began};
    std::printf("%5.2f s  %s: %.3f s\n", now(), name, r.took);
    for (const inference& one : results)
        r.wall += one.wall, r.cpu += one.cpu, r.digest += one.digest;
    r.events = b.events;
    if (r.took < best.took) best = r;
}

asyncio::coro<int> async_main(bool quick, std::string trace_file) {
    bench b{quick ? 0.2 : 1};
    run probe, staged, flowing;
    for (int i = 0; i < 2; ++i) co_await measure(b, "calibration", in_stages(b), probe);
    b.rounds *= 0.5 * b.unit * 3 / probe.cpu;
    for (int i = 0; i < 5; ++i) {
        co_await measure(b, "in stages", in_stages(b), staged);
        co_await measure(b, "as they come", as_they_come(b), flowing);
    }
    {
        asyncio::tracer trace(asyncio::get_running_loop());
        co_await in_stages(b);
        trace.print_timeline(std::cout);
    }
    asyncio::tracer trace(asyncio::get_running_loop());
    co_await as_they_come(b);
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(staged.digest == flowing.digest, "the results are the same");
    claim(staged.events[3] == "inference", "in stages, inference begins after three fetches");
    claim(flowing.events[1] == "inference", "as they come, it begins after the first");
    // Between the first and the last answer lie 0.15 s; half of them must be gained.
    const double wanted = staged.took - 0.15 * b.unit / 2;
    const double share = (staged.cpu + flowing.cpu) / (staged.wall + flowing.wall);
    if (share < 0.9) std::printf("each worker had %.2f of a core: machine busy\n", share);
    claim(flowing.took < wanted, num(flowing.took) + " s as they come (below " + num(wanted) +
          " s), " + num(staged.took) + " s in stages", share < 0.9);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    bool quick = false;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") quick = true;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("An AI's inference starts on what has arrived, not when all is there.\n"
                       "usage: workload [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick, trace_file));
}
