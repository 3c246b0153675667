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

struct matrix {
    explicit matrix(std::size_t rows) : size(rows), cells(rows * rows) {}
    double* row(std::size_t i) { return cells.data() + i * size; }
    const double* row(std::size_t i) const { return cells.data() + i * size; }
    std::size_t size;
    std::vector<double> cells;
};

struct product { // c = a * b
    explicit product(std::size_t size) : a(size), b(size), c(size) {
        for (std::size_t i = 0; i < a.cells.size(); ++i) {
            a.cells[i] = static_cast<double>(i % 17);
            b.cells[i] = static_cast<double>(i % 19);
        }
    }
    matrix a, b, c;
};

// The piece: some rows of the result.
constexpr std::size_t rows_per_piece = 8;
void multiply_piece(product& p, std::size_t first) {
    for (std::size_t i = first; i < std::min(first + rows_per_piece, p.c.size); ++i) {
        double* const sum = p.c.row(i);
        std::fill(sum, sum + p.c.size, 0.0);
        for (std::size_t k = 0; k < p.c.size; ++k)
            for (std::size_t j = 0; j < p.c.size; ++j) sum[j] += p.a.row(i)[k] * p.b.row(k)[j];
    }
}

asyncio::coro<> in_turn(product& p) {
    for (std::size_t i = 0; i < p.c.size; i += rows_per_piece) multiply_piece(p, i);
    co_return;
}

asyncio::coro<> one_piece(product& p, std::size_t first) {
    multiply_piece(p, first);
    co_return;
}

asyncio::coro<> on_coroutines(product& p) {
    std::vector<asyncio::coro<>> pieces;
    for (std::size_t i = 0; i < p.c.size; i += rows_per_piece) pieces.push_back(one_piece(p, i));
    co_await asyncio::gather(std::move(pieces));
}

asyncio::coro<> on_threads(asyncio::thread_pool_executor& pool, product& p) {
    std::vector<asyncio::future<void>> pieces;
    for (std::size_t i = 0; i < p.c.size; i += rows_per_piece)
        pieces.push_back(asyncio::run_in_executor(pool, multiply_piece, std::ref(p), i));
    co_await asyncio::gather(std::move(pieces));
}

asyncio::coro<> on_bare_threads(std::size_t workers, product& p) {
    std::vector<std::thread> threads;
    for (std::size_t t = 0; t < workers; ++t)
        threads.emplace_back([&p, t, workers] { // every so manieth piece
            for (std::size_t i = t * rows_per_piece; i < p.c.size; i += workers * rows_per_piece)
                multiply_piece(p, i);
        });
    for (std::thread& thread : threads) thread.join(); // blocks the loop; here nobody minds
    co_return;
}

asyncio::coro<double> timed(asyncio::coro<> work, product& p, const matrix& expected) {
    std::fill(p.c.cells.begin(), p.c.cells.end(), -1.0);
    const double began = seconds();
    co_await std::move(work);
    const double took = seconds() - began;
    if (p.c.cells != expected.cells) throw std::runtime_error("a wrong product");
    co_return took;
}

asyncio::coro<int> async_main(bool quick) {
    const double wanted = quick ? 0.040 : 0.400, share = quick ? 0.7 : 0.9;
    std::size_t size = 32; // the matrices that take so many seconds of a core
    for (double cpu = 0; cpu < wanted; size += size / 4) {
        product sample(size);
        const double began = cpu_seconds();
        co_await in_turn(sample);
        cpu = cpu_seconds() - began;
    }
    const std::size_t cores = std::max(1U, std::thread::hardware_concurrency());
    asyncio::thread_pool_executor pool(static_cast<std::ptrdiff_t>(cores));
    product p(size);
    co_await in_turn(p);
    const matrix expected = p.c;
    co_await on_threads(pool, p); // a first time, so that the threads are there
    say(std::to_string(size) + " rows and columns, on " + std::to_string(cores) + " cores");

    // All take turns, and the best of several rounds counts: whoever else uses the machine can
    // only make a run slower.
    double alone = 1e9, coroutines = 1e9, threads = 1e9, bare = 1e9, bare_cpu = 0, bare_wall = 0;
    bool good = false;
    for (int round = 1; round <= 3 || (round <= 15 && !good); ++round) {
        alone = std::min(alone, co_await timed(in_turn(p), p, expected));
        coroutines = std::min(coroutines, co_await timed(on_coroutines(p), p, expected));
        threads = std::min(threads, co_await timed(on_threads(pool, p), p, expected));
        const double cpu_before = cpu_seconds();
        const double took = co_await timed(on_bare_threads(cores, p), p, expected);
        bare = std::min(bare, took);
        bare_cpu += cpu_seconds() - cpu_before;
        bare_wall += took;
        good = bare >= share * threads && coroutines >= share * alone;
    }

    const double got = bare_cpu / bare_wall;
    const bool busy = got < 0.9 * static_cast<double>(cores);
    say("in turn " + figure(alone) + " s, gather " + figure(coroutines) + " s, thread pool " +
        figure(threads) + " s");
    say("what the machine gives: " + figure(alone / bare) + "x, as bare threads got " +
        figure(got) + " cores" + (busy ? " (machine busy)" : ""));
    claim(coroutines >= share * alone, "gather gains nothing: " + figure(alone / coroutines) +
                                           "x (at most " + figure(1 / share) + "x)");
    claim(bare >= share * threads,
          "the thread pool gains " + figure(alone / threads) + "x (at least " +
              figure(share * alone / bare) + "x)",
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
