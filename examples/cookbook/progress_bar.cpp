// Cookbook: a progress bar for many jobs at once, on one line of the terminal.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/progress_bar.cpp -o bar && ./bar
//
// What it teaches: the jobs only count what they have done. A task of its own draws that ten times
// a second, however often they count, and is cancelled when they are done; finally() lets it draw a
// last time, also after an error.
// Look at: on a terminal one line that grows, else a line for each time that it is drawn. The rate
// is that of the last second, and so is the time that is still needed.
// --virtual does not wait; --seed N makes other jobs.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <deque>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>
#include <unistd.h>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

class progress_bar {
public:
    explicit progress_bar(int total) : total_(total) {}

    void advance(int amount) { done_ += amount; } // cheap: it draws nothing
    int drawn() const { return drawn_; }
    int shown() const { return shown_; }
    bool went_back() const { return went_back_; }

    /// Draws until it is cancelled, and then a last time.
    asyncio::coro<> draw_for_ever(asyncio::duration pause, bool terminal) {
        const auto draw_often = [this, pause, terminal]() -> asyncio::coro<> {
            for (;;) {
                draw(terminal ? "\r" : "");
                if (!terminal) std::puts("");
                co_await asyncio::sleep(pause);
            }
        };
        const auto draw_last = [this, terminal]() -> asyncio::coro<> {
            draw(terminal ? "\r" : "");
            std::puts("");
            co_return;
        };
        co_await asyncio::finally(draw_often, draw_last);
    }

private:
    void draw(const char* begin) {
        const double now = seconds();
        history_.emplace_back(now, done_);
        while (now - history_.front().first > 1.001) history_.pop_front();
        const auto [then, done_then] = history_.front();
        const double rate = now > then ? (done_ - done_then) / (now - then) : 0;
        const int filled = total_ > 0 ? 30 * done_ / total_ : 30;
        std::string bar(static_cast<std::size_t>(filled), '#');
        bar.resize(30, '.');
        std::printf("%s%5.2f s  [%s] %3d of %3d, %5.1f/s, ", begin, now, bar.c_str(), done_, total_,
                    rate);
        if (rate > 0) std::printf("%5.1f s left", (total_ - done_) / rate);
        else std::printf("    ? s left");
        std::fflush(stdout);
        went_back_ = went_back_ || done_ < shown_;
        shown_ = done_, ++drawn_;
    }

    int total_, done_ = 0, shown_ = 0, drawn_ = 0;
    bool went_back_ = false;
    std::deque<std::pair<double, int>> history_; // when how many were done, for the last second
};

// A job of so many steps; each stands for a part of a download.
asyncio::coro<int> job(progress_bar& bar, int steps, bool fails) {
    for (int i = 0; i < steps; ++i) {
        if (fails && i == steps / 2) throw std::runtime_error("the connection was cut off");
        co_await asyncio::sleep(100ms);
        bar.advance(1);
    }
    co_return steps;
}

// Runs all jobs below a bar, and gives the error of the first that fails, if one does.
asyncio::coro<std::string> run(progress_bar& bar, std::vector<int> jobs, bool fails,
                               bool terminal) {
    asyncio::task<> drawing = asyncio::create_task(bar.draw_for_ever(100ms, terminal));
    const auto stop_drawing = [&drawing]() -> asyncio::coro<> { // also after Ctrl-C
        drawing.cancel();
        co_await asyncio::wait(drawing); // until it has drawn a last time
    };
    const int shortest = *std::min_element(jobs.begin(), jobs.end());
    const auto start = [&bar, fails, shortest](int steps) {
        return job(bar, steps, fails && steps == shortest);
    };
    std::string error;
    try {
        co_await asyncio::finally(asyncio::map(jobs, start), stop_drawing); // one failure ends all
    } catch (const std::runtime_error& e) { error = e.what(); }
    co_return error;
}

asyncio::coro<int> async_main(unsigned seed, bool terminal) {
    std::minstd_rand random(seed); // the same numbers on every machine
    std::vector<int> jobs;
    for (int i = 0; i < 20; ++i) jobs.push_back(5 + static_cast<int>(random() % 20));
    const int total = std::accumulate(jobs.begin(), jobs.end(), 0);

    progress_bar good(total), cut(total);
    const std::string no_error = co_await run(good, jobs, false, terminal);
    const double took = seconds();
    const std::string error = co_await run(cut, jobs, true, terminal);
    claim(no_error.empty() && good.shown() == total, "all steps are done, and the bar is full");
    claim(good.drawn() <= 10 * took + 3, std::to_string(good.drawn()) + " times drawn for " +
                                             std::to_string(total) + " steps");
    claim(error == "the connection was cut off", "a job fails: " + error);
    claim(cut.shown() > 0 && cut.shown() < total, "the last bar shows how far all were by then");
    claim(!good.went_back() && !cut.went_back(), "no bar went back");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    unsigned seed = 7;
    char more = 0;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else if (word == "--seed" && i + 1 < argc &&
                 std::sscanf(argv[i + 1], "%u%c", &seed, &more) == 1) ++i; // a number, no more
        else {
            std::fputs("Draws a progress bar for many jobs.\nusage: bar [--virtual] [--seed N]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    std::printf("seed %u\n", seed);
    return asyncio::run_main(async_main(seed, isatty(STDOUT_FILENO) == 1), options);
}
// Output:
// seed 7
//  0.00 s  [..............................]   0 of 279,   0.0/s,     ? s left
//  0.10 s  [..............................]   0 of 279,   0.0/s,     ? s left
//  0.20 s  [##............................]  20 of 279, 100.0/s,   2.6 s left
//  0.30 s  [####..........................]  40 of 279, 133.3/s,   1.8 s left
//  0.40 s  [######........................]  60 of 279, 150.0/s,   1.5 s left
//  0.50 s  [########......................]  80 of 279, 160.0/s,   1.2 s left
//  0.60 s  [##########....................] 100 of 279, 166.7/s,   1.1 s left
//  0.70 s  [############..................] 120 of 279, 171.4/s,   0.9 s left
//  0.80 s  [##############................] 137 of 279, 171.2/s,   0.8 s left
//  0.90 s  [################..............] 153 of 279, 170.0/s,   0.7 s left
//  1.00 s  [#################.............] 167 of 279, 167.0/s,   0.7 s left
//  1.10 s  [###################...........] 181 of 279, 181.0/s,   0.5 s left
//  1.20 s  [####################..........] 194 of 279, 174.0/s,   0.5 s left
//  1.30 s  [######################........] 205 of 279, 165.0/s,   0.4 s left
//  1.40 s  [#######################.......] 216 of 279, 156.0/s,   0.4 s left
//  1.50 s  [########################......] 225 of 279, 145.0/s,   0.4 s left
//  1.60 s  [#########################.....] 234 of 279, 134.0/s,   0.3 s left
//  1.70 s  [##########################....] 242 of 279, 122.0/s,   0.3 s left
//  1.80 s  [##########################....] 250 of 279, 113.0/s,   0.3 s left
//  1.90 s  [###########################...] 257 of 279, 104.0/s,   0.2 s left
//  2.00 s  [############################..] 264 of 279,  97.0/s,   0.2 s left
//  2.10 s  [############################..] 269 of 279,  88.0/s,   0.1 s left
//  2.20 s  [#############################.] 274 of 279,  80.0/s,   0.1 s left
//  2.30 s  [#############################.] 278 of 279,  73.0/s,   0.0 s left
//  2.30 s  [##############################] 279 of 279,  74.0/s,   0.0 s left
//  2.30 s  [..............................]   0 of 279,   0.0/s,     ? s left
//  2.40 s  [..............................]   0 of 279,   0.0/s,     ? s left
//  2.50 s  [##............................]  20 of 279, 100.0/s,   2.6 s left
//  2.60 s  [####..........................]  40 of 279, 133.3/s,   1.8 s left
//  2.60 s  [######........................]  60 of 279, 200.0/s,   1.1 s left
// holds:  all steps are done, and the bar is full
// holds:  25 times drawn for 279 steps
// holds:  a job fails: the connection was cut off
// holds:  the last bar shows how far all were by then
// holds:  no bar went back
