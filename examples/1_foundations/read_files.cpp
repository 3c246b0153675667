// Foundations: a hundred files, read one by one and all at once.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/1_foundations/read_files.cpp -o files && ./files
//
// What it teaches: a plain read blocks the thread. read_file() reads on another thread, so that the
// loop stays free; and what is awaited can overlap.
// Look at: how many reads are under way at a time. Small files that are in memory already gain
// little from that; on a network drive it makes the difference.
// --virtual is for tests: the clock stands still while files are read.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <random>
#include <string>
#include <string_view>
#include <utility>
#include <vector>
namespace fs = std::filesystem;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// A hundred small files, in a folder that goes when this goes.
struct folder {
    fs::path path = fs::temp_directory_path() / ("files" + std::to_string(std::random_device()()));
    std::vector<std::string> files;

    folder() {
        fs::create_directory(path);
        for (int i = 0; i < 100; ++i) {
            files.push_back((path / ("note" + std::to_string(i) + ".txt")).string());
            std::ofstream(files.back()) << "This is note number " << i << '.';
        }
    }
    ~folder() { std::error_code ignored; fs::remove_all(path, ignored); } // it must not throw
};

int under_way = 0, most = 0; // reads that have begun and not ended

asyncio::coro<std::string> read(std::string path) {
    most = std::max(most, ++under_way);
    std::string text = co_await asyncio::read_file(path);
    --under_way;
    co_return text;
}

asyncio::coro<int> async_main() {
    const folder notes;

    double began = seconds();
    std::vector<std::string> one_by_one;
    for (const std::string& file : notes.files) one_by_one.push_back(co_await read(file));
    const int most_in_turn = std::exchange(most, 0);
    say("one by one: " + num(1000 * (seconds() - began)) + " ms, " +
        std::to_string(most_in_turn) + " read at a time");

    began = seconds();
    std::vector<asyncio::coro<std::string>> reads;
    for (const std::string& file : notes.files) reads.push_back(read(file));
    const std::vector<std::string> at_once = co_await asyncio::gather(std::move(reads));
    say("at once: " + num(1000 * (seconds() - began)) + " ms, up to " + std::to_string(most) +
        " reads at a time");
    say("the last note: " + at_once.back());

    claim(one_by_one == at_once, "both ways read the same");
    claim(at_once[17] == "This is note number 17.", "and it is what is in the files");
    claim(most_in_turn == 1, "one by one, a read begins when the one before has ended");
    claim(most == 100,
          "at once, all 100 begin before the first result is taken: " + std::to_string(most));
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("A hundred files, read one by one and all at once.\n"
                       "usage: files [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  0.04 s  one by one: 4.56 ms, 1 read at a time
//  0.04 s  at once: 4.27 ms, up to 100 reads at a time
//  0.04 s  the last note: This is note number 99.
// holds:  both ways read the same
// holds:  and it is what is in the files
// holds:  one by one, a read begins when the one before has ended
// holds:  at once, all 100 begin before the first result is taken: 100
