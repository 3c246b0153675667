// Hybrid workloads: how long a pipeline takes can be said before it runs.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/5_hybrid/stages_on_paper.cpp -o paper && ./paper
//
// What it teaches: one item after the other needs all stages for each of them: items x sum. In a
// pipeline the first item needs the sum, too, and from then on the slowest stage sets the pace:
// sum + (items - 1) x slowest. 10 items through stages of 1, 2 and 1 s: 40 s, or 22 s. 4 documents
// through stages of 2, 3, 4 and 1 s: 40 s, or 22 s again.
// Look at: the pictures; a digit is the item that a stage is busy with in that second. Only the
// slowest stage has no gaps. The stages are simulated with sleep() and the virtual clock jumps over
// the waiting; --real waits for all of it (2 minutes).
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <numeric>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 5); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

struct pipeline {
    int items;
    std::vector<int> stages;           // the seconds that each takes for an item
    std::vector<std::string> rows = {}; // of the picture, one for each stage
    double began = 0;
    std::size_t came_out = 0;

    double seconds() const { return asyncio::elapsed().total_seconds() - began; }
    int sum() const { return std::accumulate(stages.begin(), stages.end(), 0); }
    int slowest() const { return *std::max_element(stages.begin(), stages.end()); }
    void begin() {
        began += seconds();
        rows.assign(stages.size(), "");
    }
    void print(double took) const {
        for (std::size_t s = 0; s < stages.size(); ++s)
            std::printf("%d s |%s\n", stages[s], rows[s].c_str());
        std::printf("     took %.1f s\n", took);
    }
};

asyncio::coro<> work(pipeline& p, std::size_t stage, int item) {
    std::string& row = p.rows[stage];
    for (int i = 0; i < p.stages[stage]; ++i) {
        row.resize(std::max(row.size(), static_cast<std::size_t>(p.seconds() + 0.5)), ' ');
        row += std::to_string(item);
        co_await asyncio::sleep(1s); // stands for a second of work
    }
}

asyncio::coro<double> in_turn(pipeline& p) {
    p.begin();
    for (int item = 0; item < p.items; ++item)
        for (std::size_t stage = 0; stage < p.stages.size(); ++stage)
            co_await work(p, stage, item);
    co_return p.seconds();
}

asyncio::coro<> run_stage(pipeline& p, std::size_t stage, asyncio::queue<int>& in,
                          asyncio::queue<int>& out) {
    while (auto item = co_await in.next()) {
        co_await work(p, stage, *item);
        co_await out.put(*item);
    }
    out.shutdown(); // no more: the next stage ends, too, when it has taken the last item
}

asyncio::coro<double> overlapped(pipeline& p) {
    p.begin();
    // A queue before each stage, and one behind the last.
    std::vector<asyncio::queue<int>> queues(p.stages.size() + 1);
    for (int item = 0; item < p.items; ++item) queues[0].put_nowait(item);
    queues[0].shutdown();
    const auto all_stages = [&](asyncio::task_group& group) {
        for (std::size_t s = 0; s < p.stages.size(); ++s)
            group.create_task(run_stage(p, s, queues[s], queues[s + 1]));
    };
    co_await asyncio::with(asyncio::task_group(), all_stages);
    p.came_out = queues.back().qsize();
    co_return p.seconds();
}

asyncio::coro<> compare(pipeline p) {
    std::printf("\n%d items, one after the other:\n", p.items);
    const double slow = co_await in_turn(p);
    p.print(slow);
    std::printf("%d items in a pipeline:\n", p.items);
    const double fast = co_await overlapped(p);
    p.print(fast);

    claim(p.came_out == static_cast<std::size_t>(p.items), "all items came out at the end");
    const int slow_paper = p.items * p.sum(), fast_paper = p.sum() + (p.items - 1) * p.slowest();
    claim(slow < slow_paper * 1.1 && slow > slow_paper * 0.999,
          num(slow) + " s, on paper " + std::to_string(slow_paper) + " s");
    claim(fast < fast_paper * 1.1 && fast > fast_paper * 0.999,
          num(fast) + " s, on paper " + std::to_string(fast_paper) + " s");
}

asyncio::coro<int> async_main() {
    const pipeline three_stages{10, {1, 2, 1}}, four_stages{4, {2, 3, 4, 1}};
    co_await compare(three_stages);
    co_await compare(four_stages);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options{.clock = asyncio::clock_kind::virtual_time};
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--real") options.clock = asyncio::clock_kind::real;
        else if (word != "--virtual") {
            std::fputs("How long a pipeline takes can be said before it runs.\n"
                       "usage: paper [--virtual|--real]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//
// 10 items, one after the other:
// 1 s |0   1   2   3   4   5   6   7   8   9
// 2 s | 00  11  22  33  44  55  66  77  88  99
// 1 s |   0   1   2   3   4   5   6   7   8   9
//      took 40.0 s
// 10 items in a pipeline:
// 1 s |0123456789
// 2 s | 00112233445566778899
// 1 s |   0 1 2 3 4 5 6 7 8 9
//      took 22.0 s
// holds:  all items came out at the end
// holds:  40.0 s, on paper 40 s
// holds:  22.0 s, on paper 22 s
//
// 4 items, one after the other:
// 2 s |00        11        22        33
// 3 s |  000       111       222       333
// 4 s |     0000      1111      2222      3333
// 1 s |         0         1         2         3
//      took 40.0 s
// 4 items in a pipeline:
// 2 s |00112233
// 3 s |  000111222333
// 4 s |     0000111122223333
// 1 s |         0   1   2   3
//      took 22.0 s
// holds:  all items came out at the end
// holds:  40.0 s, on paper 40 s
// holds:  22.0 s, on paper 22 s
