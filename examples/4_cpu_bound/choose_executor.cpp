// CPU-bound work: which executor for which job? The decision as a function.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/4_cpu_bound/choose_executor.cpp -o choose && ./choose
//
// What it teaches: five questions lead to a coroutine, a thread, an isolated thread or an isolated
// process. None of them is about speed: in C++ threads compute as fast as processes do.
// Look at: the table. Each job runs where the function sends it, and tells where it found itself:
// on the loop's thread, on another thread, or in another process, which does not know what our
// main() wrote into a variable. --quick computes less.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <functional>
#include <numeric>
#include <string>
#include <thread>
#include <vector>
using namespace std::chrono_literals;

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

struct traits {              // of a job
    bool waits = false;      // for something that can be awaited: a socket, a timer, a queue
    bool untrusted = false;  // may crash, eat memory or never end
    bool blocks = false;     // sits in a call that returns only when all is done
    bool shares = false;     // works on data of the program that nobody wants to copy
    bool takes_long = false; // computes for more than a millisecond
};

enum class place { coroutine, thread, isolated_thread, isolated_process };

place choose(const traits& job) {
    if (job.waits) return place::coroutine;            // waiting needs no thread at all
    if (job.untrusted) return place::isolated_process; // breaks only itself
    if (job.blocks) return place::thread;              // blocks that thread, not the loop
    if (job.shares) return place::thread;              // sees the memory of the program
    if (job.takes_long) return place::isolated_thread; // shares nothing, not even by mistake
    return place::coroutine;                           // is over before a worker would begin
}

// Where a job finds itself.
int mark = 0; // main() writes 42 here; a worker process begins with 0 again
std::thread::id loop_thread;
std::string here() {
    if (mark != 42) return "in another process";
    return std::this_thread::get_id() == loop_thread ? "on the loop's thread" : "on another thread";
}

struct seen { std::string result, where; }; // what a job gives back

asyncio::coro<seen> ask_service() {
    co_await asyncio::sleep(20ms); // stands for a request over the network
    co_return seen{"reply", here()};
}

seen check_digit(int number) { return {std::to_string(number % 97), here()}; }

seen read_sensor() {
    std::this_thread::sleep_for(20ms); // stands for a driver that knows nothing of coroutines
    return {"21 degrees", here()};
}

seen add_up(const std::vector<int>& table) { // a large one
    return {std::to_string(std::accumulate(table.begin(), table.end(), 0)), here()};
}

seen least_factor(int number) {
    int factor = 2;
    while (number % factor != 0) ++factor;
    return {std::to_string(factor), here()};
}

seen foreign_plugin(const std::string& text) {
    const seen out = {std::string(text.rbegin(), text.rend()), here()};
    mark = -1; // it writes where it likes
    return out;
}

struct pools {
    asyncio::thread_pool_executor threads{1};
    asyncio::interpreter_pool_executor isolated_threads{1};
    asyncio::process_pool_executor processes{1};
};

template <class Job, class... Args>
asyncio::coro<seen> run_in(pools& all, place where, Job job, Args... args) {
    if (where == place::coroutine) co_return job(args...);
    asyncio::executor* pool = &all.threads;
    if (where == place::isolated_thread) pool = &all.isolated_threads;
    if (where == place::isolated_process) pool = &all.processes;
    co_return co_await asyncio::run_in_executor(*pool, job, args...);
}

void row(const std::string& job, place chosen, const seen& got, const seen& expected) {
    const char* const names[] = {"coroutine", "thread", "isolated thread", "isolated process"};
    std::string text = job + std::string(16 - job.size(), ' ');
    text += names[static_cast<int>(chosen)];
    text += std::string(36 - text.size(), ' ') + "ran " + got.where + ": " + got.result;
    claim(got.result == expected.result && got.where == expected.where, text);
}

asyncio::coro<int> async_main(int prime) {
    const std::vector<int> table(1'000'000, 3);
    pools all; // after the table: they end first, and wait for jobs that look at it

    place chosen = choose({.waits = true});
    seen got = co_await ask_service();
    row("ask a service", chosen, got, {"reply", "on the loop's thread"});

    chosen = choose({});
    got = co_await run_in(all, chosen, check_digit, 1000);
    row("check a digit", chosen, got, {"30", "on the loop's thread"});

    chosen = choose({.blocks = true});
    got = co_await run_in(all, chosen, read_sensor);
    row("read a sensor", chosen, got, {"21 degrees", "on another thread"});

    chosen = choose({.shares = true, .takes_long = true});
    got = co_await run_in(all, chosen, add_up, std::cref(table));
    row("add up a table", chosen, got, {"3000000", "on another thread"});

    chosen = choose({.takes_long = true});
    got = co_await run_in(all, chosen, least_factor, prime);
    row("find a factor", chosen, got, {std::to_string(prime), "on another thread"});

    chosen = choose({.untrusted = true, .takes_long = true});
    got = co_await run_in(all, chosen, foreign_plugin, std::string("plugin"));
    row("call a plugin", chosen, got, {"nigulp", "in another process"});

    claim(mark == 42, "the plugin wrote into a variable; ours is still " + std::to_string(mark));
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    mark = 42;
    loop_thread = std::this_thread::get_id();
    const std::string option = argc == 2 ? argv[1] : "";
    if (argc == 1) return asyncio::run_main(async_main(100'000'007));
    if (option == "--quick") return asyncio::run_main(async_main(1'000'003));
    std::fputs("Which executor for which job? The decision as a function.\n"
               "usage: choose [--quick]\n",
               option == "--help" ? stdout : stderr);
    return option == "--help" ? 0 : 2;
}
// Output:
// holds:  ask a service   coroutine           ran on the loop's thread: reply
// holds:  check a digit   coroutine           ran on the loop's thread: 30
// holds:  read a sensor   thread              ran on another thread: 21 degrees
// holds:  add up a table  thread              ran on another thread: 3000000
// holds:  find a factor   isolated thread     ran on another thread: 100000007
// holds:  call a plugin   isolated process    ran in another process: nigulp
// holds:  the plugin wrote into a variable; ours is still 42
