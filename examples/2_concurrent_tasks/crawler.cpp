// Concurrent tasks: a thousand pages, at most 50 at once.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/2_concurrent_tasks/crawler.cpp -o crawl && ./crawl
//
// What it teaches: a semaphore of 50 slots lets 50 tasks in; the others wait at its door, at no
// cost. With gather() and return_exceptions a broken link costs one page; with a task group it
// ends the crawl. (asyncio::map(pages, fetch, {.limit = 50}) does the latter in one line.)
// Look at: fetch(), which is the same for both. Which 20 links are broken and how long each page
// takes is drawn by --seed N. --virtual skips the waiting; --trace FILE, for ui.perfetto.dev,
// shows all 2000 tasks.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string in_seconds(double t) { return std::to_string(t).substr(0, 4) + " s"; }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

constexpr int most_at_once = 50;

struct page {
    asyncio::duration latency;
    bool broken = false;
};

asyncio::semaphore slots(most_at_once);

struct counts {
    int under_way = 0, most = 0, pages = 0, failed = 0, broken_off = 0;
    double first_failure = 0; // when
};
counts present; // of the present crawl

asyncio::coro<> fetch(page p) {
    const auto slot = co_await slots.scoped(); // given back at the end of this function
    present.most = std::max(present.most, ++present.under_way);
    try {
        co_await asyncio::sleep(p.latency); // stands for a request over the network
    } catch (const asyncio::cancelled_error&) {
        --present.under_way;
        ++present.broken_off;
        throw;
    }
    --present.under_way;
    if (p.broken) {
        if (++present.failed == 1) present.first_failure = seconds();
        throw std::runtime_error("404 Not Found");
    }
    if (++present.pages % 200 == 0) say(std::to_string(present.pages) + " pages");
}

asyncio::coro<int> async_main(unsigned seed, std::string trace_file) {
    say("seed " + std::to_string(seed));
    std::minstd_rand random(seed);
    std::vector<page> pages;
    double sum = 0; // how long all would take in turn
    for (int i = 0; i < 1000; ++i) {
        const auto milliseconds = 50 + static_cast<int>(random() % 101);
        pages.push_back({std::chrono::milliseconds(milliseconds)});
        sum += milliseconds / 1000.0;
    }
    for (int broken_links = 0; broken_links < 20;) {
        page& p = pages[random() % 1000];
        if (!p.broken) ++broken_links;
        p.broken = true;
    }
    asyncio::tracer trace(asyncio::get_running_loop());

    say("best effort:");
    std::vector<asyncio::coro<>> fetches;
    for (const page& p : pages) fetches.push_back(fetch(p));
    const auto outcomes = co_await asyncio::gather(asyncio::return_exceptions, std::move(fetches));
    const double took = seconds();
    const counts best = std::exchange(present, counts());
    const auto got = std::count_if(outcomes.begin(), outcomes.end(),
                                   [](const auto& o) { return o.has_value(); });

    say("all or nothing:");
    std::vector<asyncio::task<>> tasks;
    std::string thrown;
    try {
        co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& group) {
            for (const page& p : pages) tasks.push_back(group.create_task(fetch(p)));
        });
    } catch (const asyncio::exception_group& group) {
        group.for_each<std::exception>([&](const std::exception& error) { thrown = error.what(); });
    }
    const double ended = seconds();
    const counts strict = present;
    say("the group throws: " + thrown);
    const auto cancelled = static_cast<int>(std::count_if(
        tasks.begin(), tasks.end(), [](const auto& task) { return task.cancelled(); }));
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    claim(got == 980 && best.pages == 980 && best.failed == 20,
          "best effort: " + std::to_string(best.pages) + " pages and " +
              std::to_string(best.failed) + " broken links of 1000");
    claim(best.most == most_at_once && strict.most == most_at_once,
          "at most 50 at once: " + std::to_string(best.most) + ", and " +
              std::to_string(strict.most) + " in the second crawl");
    claim(took >= sum / most_at_once - 0.001 && took < 2 * sum / most_at_once,
          in_seconds(took) + " in all, not " + std::to_string(static_cast<int>(sum)) +
              " s: a fiftieth, and a bit");
    claim(strict.failed >= 1 && strict.pages + strict.failed + cancelled == 1000,
          "all or nothing: " + std::to_string(strict.pages) + " pages, and the first broken link");
    claim(strict.broken_off > 0 && strict.under_way == 0,
          std::to_string(cancelled) + " tasks are cancelled, " + std::to_string(strict.broken_off) +
              " of them in the middle of a page");
    claim(ended - strict.first_failure < 0.5, "the crawl ends with the failure, " +
                                                  in_seconds(ended - strict.first_failure) +
                                                  " after it");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    std::string trace_file;
    unsigned seed = 1;
    char more = 0;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else if (word == "--seed" && i + 1 < argc &&
                 std::sscanf(argv[i + 1], "%u%c", &seed, &more) == 1)
            ++i; // a number, no more
        else {
            std::fputs("A thousand pages, at most 50 at once.\n"
                       "usage: crawl [--virtual] [--seed N] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(seed, trace_file), options);
}
// Output:
//  0.00 s  seed 1
//  0.00 s  best effort:
//  0.45 s  200 pages
//  0.86 s  400 pages
//  1.28 s  600 pages
//  1.68 s  800 pages
//  2.08 s  all or nothing:
//  2.22 s  the group throws: 404 Not Found
// holds:  best effort: 980 pages and 20 broken links of 1000
// holds:  at most 50 at once: 50, and 50 in the second crawl
// holds:  2.08 s in all, not 100 s: a fiftieth, and a bit
// holds:  all or nothing: 43 pages, and the first broken link
// holds:  956 tasks are cancelled, 50 of them in the middle of a page
// holds:  the crawl ends with the failure, 0.00 s after it
