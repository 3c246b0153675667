// Cookbook: a large file is copied while the program goes on.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/file_copy.cpp -o copy && ./copy FROM TO
//
// What it teaches: file::open(), read() and write() do their work on threads, since a disk may be
// slow and cannot be waited for like a connection. One task reads, another one writes what the
// first has read, and a short queue between them is all that is held in memory.
// Look at: the counter, which a third task moves on meanwhile; and errors, which name the file.
// Without FROM and TO it makes a file to copy.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <random>
#include <string>
#include <string_view>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

constexpr std::ptrdiff_t piece_size = 1024 * 1024;
std::size_t most_held = 0; // pieces in the queue

asyncio::coro<> read_pieces(asyncio::file& from, asyncio::queue<std::string>& pieces) {
    for (;;) {
        std::string piece = co_await from.read(piece_size);
        if (piece.empty()) break;
        co_await pieces.put(std::move(piece)); // waits while the queue is full
        most_held = std::max(most_held, pieces.qsize());
    }
    pieces.shutdown(); // no more will come
}

asyncio::coro<> write_pieces(asyncio::queue<std::string>& pieces, asyncio::file& to) {
    while (auto piece = co_await pieces.next()) co_await to.write(std::move(*piece));
}

asyncio::coro<> copy(std::string from, std::string to) {
    asyncio::file source = co_await asyncio::file::open(from);
    std::error_code missing;
    if (std::filesystem::equivalent(from, to, missing))
        throw std::runtime_error(from + " and " + to + " are the same file");
    asyncio::file target = co_await asyncio::file::open(to, "w");
    asyncio::queue<std::string> pieces(4);
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& group) {
        group.create_task(read_pieces(source, pieces));
        group.create_task(write_pieces(pieces, target));
    });
    co_await target.close(); // says when something could not be stored after all
}

asyncio::coro<> count_up(int& counter) {
    for (;;) {
        co_await asyncio::sleep(1ms);
        ++counter;
    }
}

// What goes wrong when this is copied there, which must name the file.
asyncio::coro<> expect_error(std::string from, std::string to, std::string named) {
    std::string error = "nothing";
    try {
        co_await copy(from, to);
    } catch (const std::system_error& e) {
        error = e.what();
    } catch (const asyncio::exception_group& group) { // out of the two tasks
        group.for_each<std::system_error>([&](const std::system_error& e) { error = e.what(); });
    }
    claim(error.find(named) != std::string::npos, "an error: " + error);
}

asyncio::coro<int> async_main(std::string from, std::string to, std::size_t sample_size) {
    const bool sample = from.empty();
    const std::string folder = std::filesystem::temp_directory_path().string() + "/";
    if (sample) {
        from = folder + "copy-" + std::to_string(std::random_device()());
        to = from + "-2";
        std::string data(sample_size, '\0');
        for (std::size_t i = 0; i < data.size(); ++i) data[i] = static_cast<char>(i * i >> 7);
        co_await asyncio::write_file(from, std::move(data));
    }

    int counter = 0; // stands for the rest of the program
    asyncio::task_scope work(asyncio::get_running_loop()); // ends with this block, come what may
    work.create_task([&counter] { return count_up(counter); });
    const double start = seconds();
    co_await copy(from, to);
    const double took = seconds() - start;
    work.cancel();
    say("copied " + from + " to " + to + " in " + std::to_string(took).substr(0, 4) + " s");
    say("meanwhile the program has counted to " + std::to_string(counter));

    if (sample) {
        const std::string original = co_await asyncio::read_file(from);
        const std::string copied = co_await asyncio::read_file(to);
        claim(original == copied && copied.size() == sample_size, "the copy is the same");
        claim(most_held <= 4, "at most 4 pieces of 1 MiB were waiting");
        claim(counter > 0, "the program went on during the copy");
        co_await expect_error(folder + "no-such-file", to, "no-such-file");
        co_await expect_error(from, folder + "no-such-folder/file", "no-such-folder");
        co_await expect_error(from, "/dev/full", "/dev/full"); // as a disk that is full
        std::remove(from.c_str());
        std::remove(to.c_str());
    }
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    std::size_t sample_size = 256 * 1024 * 1024;
    std::string paths[2];
    int given = 0;
    bool usage = false;
    bool help = false;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") sample_size = 32 * 1024 * 1024;
        else if (word == "--help") help = true;
        else if (word.substr(0, 1) != "-" && given < 2) paths[given++] = word;
        else usage = true;
    }
    if (help || usage || given == 1) {
        std::fputs("Copies a file, and does something else meanwhile.\n"
                   "usage: copy [--quick] [FROM TO]\n",
                   help ? stdout : stderr);
        return help ? 0 : 2;
    }
    return asyncio::run_main(async_main(paths[0], paths[1], sample_size));
}
// Output:
//  1.04 s  copied /tmp/copy-2111664959 to /tmp/copy-2111664959-2 in 0.54 s
//  1.04 s  meanwhile the program has counted to 206
// holds:  the copy is the same
// holds:  at most 4 pieces of 1 MiB were waiting
// holds:  the program went on during the copy
// holds:  an error: open /tmp/no-such-file: No such file or directory
// holds:  an error: open /tmp/no-such-folder/file: No such file or directory
// holds:  an error: write /dev/full: No space left on device
