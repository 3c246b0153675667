// CPU-bound work: a matrix product, cut into blocks of rows, on coroutines and on threads.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/4_cpu_bound/matrix_product.cpp -o matrix && ./matrix
//
// What it teaches: one large computation gains from several cores when it is cut into pieces that
// do not need each other. Under gather() the pieces still run one after the other, on the loop's
// thread; a thread pool runs them side by side. Threads see the same memory, so that the matrices
// are not copied, and each piece writes rows that no other piece touches.
// Look at: the two ratios. "What the machine gives" comes from bare threads without any executor.
// --quick multiplies smaller matrices.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <ctime>
#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

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

using matrix = std::vector<double>; // row after row

struct product { // c = a * b
    explicit product(std::size_t rows)
        : size(rows), a(rows * rows), b(rows * rows), c(rows * rows) {
        for (std::size_t i = 0; i < a.size(); ++i) {
            a[i] = static_cast<double>(i % 17);
            b[i] = static_cast<double>(i % 19);
        }
    }
    std::size_t size;
    matrix a, b, c;
};

// A piece of the work: some rows of the result.
constexpr std::size_t piece = 8;
void multiply_rows(product& p, std::size_t first) {
    for (std::size_t i = first; i < std::min(first + piece, p.size); ++i) {
        double* const sums = &p.c[i * p.size];
        std::fill(sums, sums + p.size, 0.0);
        for (std::size_t k = 0; k < p.size; ++k) {
            const double factor = p.a[i * p.size + k];
            const double* const row = &p.b[k * p.size];
            for (std::size_t j = 0; j < p.size; ++j) sums[j] += factor * row[j];
        }
    }
}

asyncio::coro<> in_turn(product& p) {
    for (std::size_t i = 0; i < p.size; i += piece) multiply_rows(p, i);
    co_return;
}

asyncio::coro<> one_piece(product& p, std::size_t first) {
    multiply_rows(p, first);
    co_return;
}

asyncio::coro<> on_coroutines(product& p) {
    std::vector<asyncio::coro<>> pieces;
    for (std::size_t i = 0; i < p.size; i += piece) pieces.push_back(one_piece(p, i));
    co_await asyncio::gather(std::move(pieces));
}

asyncio::coro<> on_threads(asyncio::thread_pool_executor& pool, product& p) {
    std::vector<asyncio::future<void>> pieces;
    for (std::size_t i = 0; i < p.size; i += piece)
        pieces.push_back(asyncio::run_in_executor(pool, multiply_rows, std::ref(p), i));
    co_await asyncio::gather(std::move(pieces));
}

asyncio::coro<> on_bare_threads(int workers, product& p) {
    std::atomic<std::size_t> next = 0;
    std::vector<std::thread> threads;
    for (int i = 0; i < workers; ++i)
        threads.emplace_back([&] { // takes the next piece until there is none
            for (std::size_t i = next.fetch_add(piece); i < p.size; i = next.fetch_add(piece))
                multiply_rows(p, i);
        });
    for (std::thread& thread : threads) thread.join(); // blocks the loop; here nobody minds
    co_return;
}

asyncio::coro<double> timed(asyncio::coro<> work, product& p, const matrix& expected) {
    std::fill(p.c.begin(), p.c.end(), -1.0);
    const double began = seconds();
    co_await std::move(work);
    const double took = seconds() - began;
    if (p.c != expected) throw std::runtime_error("a wrong product");
    co_return took;
}

asyncio::coro<int> async_main(bool quick) {
    std::size_t size = 32; // the matrices take about so many seconds of a core
    for (double took = 0; took < (quick ? 0.04 : 0.3); size += size / 8) {
        product sample(size);
        const double began = cpu_seconds();
        co_await in_turn(sample);
        took = cpu_seconds() - began;
    }
    product p(size);
    co_await in_turn(p);
    const matrix expected = p.c;
    const int cores = std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
    asyncio::thread_pool_executor pool(cores);
    co_await on_threads(pool, p); // a first time, so that the threads are there
    say(std::to_string(size) + " rows and columns, " + std::to_string(cores) + " cores");

    // All take turns, and the best of some rounds counts: whoever else uses the machine can only
    // make a run slower. It is busy when bare threads do not get the cores that they could use.
    const double share = quick ? 0.7 : 0.9; // of what the machine gives; noise hits small work most
    double alone = 1e9, coroutines = 1e9, threads = 1e9, bare = 1e9, cpu = 0, wall = 0;
    bool good = false, busy = false;
    for (int round = 1; round <= 3 || (round <= 15 && !good && !busy); ++round) {
        alone = std::min(alone, co_await timed(in_turn(p), p, expected));
        coroutines = std::min(coroutines, co_await timed(on_coroutines(p), p, expected));
        threads = std::min(threads, co_await timed(on_threads(pool, p), p, expected));
        cpu -= cpu_seconds();
        const double took = co_await timed(on_bare_threads(cores, p), p, expected);
        cpu += cpu_seconds();
        wall += took;
        bare = std::min(bare, took);
        busy = cpu / wall < 0.9 * cores;
        good = coroutines >= share * alone && bare >= share * threads;
        say("round " + std::to_string(round) + ": in turn " + figure(alone) + " s, gather " +
            figure(coroutines) + " s, thread pool " + figure(threads) + " s");
    }

    say("bare threads: " + figure(alone / bare) + "x, on " + figure(cpu / wall) + " cores" +
        (busy ? " (machine busy)" : ""));
    claim(coroutines >= share * alone, "gather " + figure(alone / coroutines) + "x: no gain", busy);
    claim(bare >= share * threads,
          "thread pool " + figure(alone / threads) + "x (at least " + figure(share * alone / bare) +
              "x)",
          busy);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    bool quick = false;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") quick = true;
        else {
            std::fputs("A matrix product, cut into blocks of rows, on coroutines and on threads.\n"
                       "usage: matrix [--quick]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(quick));
}
// Output on two cores:
