// CPU-bound work: what goes wrong in a worker process stays there.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/4_cpu_bound/isolation.cpp -o isolation && ./isolation
//
// What it teaches: a job on an isolated executor runs in a process of its own. It cannot touch the
// variables of the program; when it crashes, wants too much memory or never ends, its worker dies
// and is replaced. Only who awaits that job hears of it, as an exception; all others go on.
// Look at: the fate of each job, and in the timeline (# is a job on a worker) that the good jobs go
// on while the others fail. --quick allows a job 1 s instead of 2 s; --trace FILE is for
// ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <csignal>
#include <cstdio>
#include <fstream>
#include <iostream>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// The jobs. All of them run in a worker process.
int setting = 1;
int write_global() { return setting = 99; }

int crash() {
    int* volatile nowhere = nullptr;
    return *nowhere; // nobody may read there
}

int eat_memory() {
    std::vector<std::string> eaten;
    while (eaten.size() < 200) eaten.emplace_back(1 << 20, 'x'); // a megabyte at a time
    return static_cast<int>(eaten.size());
}

int never_end() {
    volatile bool waiting = true;
    while (waiting) {
    }
    return 0;
}

int square(int n) { return n * n; }

// Awaits one job and tells what became of it.
asyncio::coro<std::string> fate_of(asyncio::executor& pool, std::string name, int (*job)()) {
    asyncio::current_task().set_name(name); // for the timeline
    std::string fate;
    try {
        const int value = co_await asyncio::run_in_executor(pool, job);
        fate = "returned " + std::to_string(value);
    } catch (const asyncio::worker_crashed& error) {
        fate = "worker_crashed by signal " + std::to_string(error.signal());
    } catch (const std::bad_alloc&) {
        fate = "std::bad_alloc";
    } catch (const asyncio::timeout_error&) {
        fate = "timeout_error";
    } catch (const std::exception& error) { // or gather() would leave the others running
        fate = error.what();
    }
    say(name + ": " + fate);
    co_return fate;
}

// Hands one small job after the other to the pool; gives how many had the right result.
asyncio::coro<int> good_jobs(asyncio::executor& pool, int count) {
    asyncio::current_task().set_name("good jobs");
    int right = 0;
    for (int i = 1; i <= count; ++i) {
        const int result = co_await asyncio::run_in_executor(pool, square, i);
        right += result == i * i ? 1 : 0;
    }
    say(std::to_string(right) + " good jobs done");
    co_return right;
}

asyncio::coro<int> async_main(asyncio::duration limit, std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());
    asyncio::process_pool_executor pool(
        2, {.memory_limit = std::size_t{20} << 20, .job_timeout = limit});

    const auto [wrote, crashed, ate, hung, right] = co_await asyncio::gather(
        fate_of(pool, "write a global", write_global), fate_of(pool, "crash", crash),
        fate_of(pool, "eat memory", eat_memory), fate_of(pool, "never end", never_end),
        good_jobs(pool, 100));
    const int later = co_await good_jobs(pool, 100);
    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(wrote == "returned 99" && setting == 1,
          "a job wrote 99 into its copy of a variable; ours is still " + std::to_string(setting));
    claim(crashed == "worker_crashed by signal " + std::to_string(SIGSEGV),
          "the job that read where it must not: " + crashed);
    claim(ate == "std::bad_alloc", "the job that wanted 200 MB, and might have 20: " + ate);
    claim(hung == "timeout_error", "the job that never ends: " + hung);
    claim(right == 100 && later == 100, std::to_string(right) +
                                            " of 100 good jobs went well meanwhile, and " +
                                            std::to_string(later) + " of 100 afterwards");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    asyncio::duration limit = 2s;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") limit = 1s;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("What goes wrong in a worker process stays there.\n"
                       "usage: isolation [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(limit, trace_file));
}
// Output:
//  0.01 s  write a global: returned 99
//  0.01 s  crash: worker_crashed by signal 11
//  0.09 s  eat memory: std::bad_alloc
//  0.09 s  100 good jobs done
//  2.01 s  never end: timeout_error
//  2.02 s  100 good jobs done
// time           |0                                                    2.020 s|
// Task-1         |===========================================================#| 0.000-2.020 s
// write a global |#                                                           | 0.001-0.005 s
// crash          |#                                                           | 0.001-0.014 s
// eat memory     |###                                                         | 0.001-0.085 s
// never end      |############################################################| 0.001-2.014 s
// good jobs      |==#                                                         | 0.001-0.089 s
// holds:  a job wrote 99 into its copy of a variable; ours is still 1
// holds:  the job that read where it must not: worker_crashed by signal 11
// holds:  the job that wanted 200 MB, and might have 20: std::bad_alloc
// holds:  the job that never ends: timeout_error
// holds:  100 of 100 good jobs went well meanwhile, and 100 of 100 afterwards
