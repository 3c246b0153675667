// Cookbook: three programs as a pipeline, `tr | sort | uniq -c`, and one that never ends.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/subprocess_pipeline.cpp -o pipeline && ./pipeline
//
// What it teaches: create_subprocess_exec() starts a program without a shell. Its standard streams
// are streams like those of a connection, so that one task for each joint makes a pipeline, and
// drain() holds the faster program back. A time limit on communicate() stops a program that hangs.
// Look at: all three programs run at the same time, although `sort` prints nothing before it has
// read everything. --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cctype>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <map>
#include <random>
#include <sstream>
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

// What `from` writes becomes what `to` reads.
asyncio::coro<std::size_t> join(std::string name, asyncio::process& from, asyncio::process& to) {
    asyncio::current_task().set_name(name); // for the timeline
    std::size_t bytes = 0;
    for (;;) {
        const std::string piece = co_await from.stdout_->read(64 * 1024);
        if (piece.empty()) break; // the end
        to.stdin_->write(piece);
        co_await to.stdin_->drain();
        bytes += piece.size();
    }
    to.stdin_->close();
    say(name + ": " + std::to_string(bytes) + " bytes");
    co_return bytes;
}

// What `tr -s ' ' '\n' | sort | uniq -c` prints for this text.
asyncio::coro<std::string> count_words(std::string text) {
    const asyncio::environment plain = {{"LC_ALL", "C"}, {"PATH", "/usr/bin:/bin"}};
    const asyncio::subprocess_options piped = {
        .stdin_ = asyncio::stdio::pipe, .stdout_ = asyncio::stdio::pipe, .env = &plain};
    auto tr = co_await asyncio::create_subprocess_exec(asyncio::argv("tr", "-s", " ", "\n"), piped);
    auto sort = co_await asyncio::create_subprocess_exec(asyncio::argv("sort"), piped);
    auto uniq = co_await asyncio::create_subprocess_exec(asyncio::argv("uniq", "-c"), piped);
    claim(!tr.returncode() && !sort.returncode() && !uniq.returncode(), "all three run");

    asyncio::task<std::string> output;
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& group) {
        group.create_task(join("tr to sort", tr, sort));
        group.create_task(join("sort to uniq", sort, uniq));
        output = group.create_task(uniq.stdout_->read(), {.name = "from uniq"});
        tr.stdin_->write(text); // the rest follows by itself while the others work
        tr.stdin_->close();
    });
    co_await tr.wait();
    co_await sort.wait();
    co_await uniq.wait();
    claim(tr.returncode() == 0 && sort.returncode() == 0 && uniq.returncode() == 0,
          "all three end well");
    co_return output.result();
}

asyncio::coro<int> async_main(int words, unsigned seed, std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());
    std::printf("seed %u\n", seed);
    std::mt19937 random(seed);
    std::map<std::string, int> expected;
    std::string text;
    for (int i = 0; i < words; ++i) {
        const std::string word = "word" + std::to_string(random() % 1000);
        ++expected[word];
        text += word + ' ';
    }

    say("counts " + std::to_string(words) + " words");
    std::istringstream lines(co_await count_words(text));
    std::map<std::string, int> counted;
    std::string word;
    for (int count; lines >> count >> word;) counted[word] = count;
    claim(counted == expected, std::to_string(counted.size()) + " words, counted as here");

    // A program that hangs is killed when nobody waits for it any more.
    auto stuck = co_await asyncio::create_subprocess_exec(asyncio::argv("sleep", "1000"),
                                                          {.kill_on_cancel = true});
    bool late = false;
    try {
        co_await asyncio::wait_for(stuck.communicate(), 200ms);
    } catch (const asyncio::timeout_error&) {
        late = true;
        say("sleep took too long");
    }
    claim(late && stuck.returncode() == -9, "it was killed (signal 9)");

    // And one that does not exist is an error where it is started.
    std::string error;
    try {
        auto none = co_await asyncio::create_subprocess_exec(asyncio::argv("no-such-program"));
    } catch (const std::system_error& e) {
        error = e.what();
        say(error);
    }
    claim(error.find("no-such-program") != std::string::npos, "the error names the program");

    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    int words = 300'000;
    unsigned seed = 1;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") words = 20'000;
        else if (word == "--seed" && i + 1 < argc && std::isdigit(argv[i + 1][0]) != 0)
            seed = static_cast<unsigned>(std::strtoul(argv[++i], nullptr, 10));
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("Counts words with tr | sort | uniq -c.\n"
                       "usage: pipeline [--quick] [--seed N] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(words, seed, trace_file));
}
// Output:
// seed 1
//  0.08 s  counts 300000 words
// holds:  all three run
//  0.14 s  tr to sort: 2366776 bytes
//  0.16 s  sort to uniq: 2366776 bytes
// holds:  all three end well
// holds:  1000 words, counted as here
//  0.37 s  sleep took too long
// holds:  it was killed (signal 9)
//  0.37 s  exec no-such-program: No such file or directory
// holds:  the error names the program
// time         |0                                                    0.368 s|
// Task-1       |============================================================| 0.000-0.368 s
// tr to sort   |             ===========                                    | 0.082-0.141 s
// sort to uniq |             ==============                                 | 0.082-0.165 s
// from uniq    |             ==============                                 | 0.082-0.165 s
