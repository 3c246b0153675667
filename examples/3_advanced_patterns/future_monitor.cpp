// Advanced patterns: watching some futures from outside.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/future_monitor.cpp -o monitor && ./monitor
//
// What it teaches: done() asks a future without waiting for it. A monitor can so show what has come
// and what is missing, while the work goes on.
// Look at: the futures become done one by one. Between two looks the monitor sleeps: if it only
// asked again and again, nothing else could run. --virtual skips the waiting.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <map>
#include <set>
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

std::set<std::string> arrived; // the truth that done() has to tell

asyncio::coro<std::string> download(std::string name, asyncio::duration latency) {
    co_await asyncio::sleep(latency); // stands for a transfer over the network
    arrived.insert(name);
    co_return "data of " + name;
}

asyncio::coro<int> async_main() {
    std::map<std::string, asyncio::future<std::string>> futures; // a task is a future, too
    futures["A"] = asyncio::create_task(download("A", 0.7s));
    futures["B"] = asyncio::create_task(download("B", 2.2s));
    futures["C"] = asyncio::create_task(download("C", 3.7s));

    bool always_true = true;
    std::vector<std::string> states; // as they were seen, each once
    std::size_t done = 0;
    while (done < futures.size()) {
        done = 0;
        std::string state;
        for (const auto& [name, future] : futures) {
            if (!state.empty()) state += ", ";
            state += name + (future.done() ? " done" : " pending");
            done += future.done() ? 1 : 0;
            always_true = always_true && future.done() == arrived.contains(name);
        }
        say(state);
        if (states.empty() || states.back() != state) states.push_back(state);
        if (done < futures.size()) co_await asyncio::sleep(0.5s);
    }
    for (const auto& [name, future] : futures) say(future.result());

    claim(always_true, "done() was true for what had arrived, and for nothing else");
    claim(states == std::vector<std::string>{"A pending, B pending, C pending",
                                             "A done, B pending, C pending",
                                             "A done, B done, C pending",
                                             "A done, B done, C done"},
          "the futures were seen to become done one after the other");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("Watching some futures from outside.\n"
                       "usage: monitor [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  0.00 s  A pending, B pending, C pending
//  0.50 s  A pending, B pending, C pending
//  1.00 s  A done, B pending, C pending
//  1.50 s  A done, B pending, C pending
//  2.00 s  A done, B pending, C pending
//  2.50 s  A done, B done, C pending
//  3.00 s  A done, B done, C pending
//  3.50 s  A done, B done, C pending
//  4.00 s  A done, B done, C done
//  4.00 s  data of A
//  4.00 s  data of B
//  4.00 s  data of C
// holds:  done() was true for what had arrived, and for nothing else
// holds:  the futures were seen to become done one after the other
