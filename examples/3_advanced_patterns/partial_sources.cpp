// Advanced patterns: take what comes, and do without the rest.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/partial_sources.cpp -o partial && ./partial
//
// What it teaches: with return_exceptions, gather() gives an outcome for each source, a value or an
// error. A limit around each fetch keeps a source that hangs from holding up the others.
// Look at: the answer has all three sources, two of them without data; it is there after 2 s.
// --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

asyncio::coro<std::string> fetch(std::string source) {
    asyncio::current_task().set_name(source); // for the timeline
    if (source == "news") co_await asyncio::sleep(10s); // hangs
    co_await asyncio::sleep(1s); // stands for a request over the network
    if (source == "stock")
        throw std::system_error(std::make_error_code(std::errc::connection_refused));
    co_return source + " data";
}

// Nothing stands for a source that gave nothing.
using answers = std::map<std::string, std::optional<std::string>>;

asyncio::coro<answers> fetch_all(std::vector<std::string> sources, asyncio::duration limit) {
    std::vector<asyncio::coro<std::string>> fetches;
    for (const std::string& source : sources)
        fetches.push_back(asyncio::wait_for(fetch(source), limit));
    const auto outcomes =
        co_await asyncio::gather(asyncio::return_exceptions, std::move(fetches));

    answers found;
    for (std::size_t i = 0; i < sources.size(); ++i) {
        if (outcomes[i]) {
            found[sources[i]] = *outcomes[i];
            say(sources[i] + ": " + *outcomes[i]);
        } else {
            found[sources[i]] = std::nullopt;
            const bool late = outcomes[i].error().holds<asyncio::timeout_error>();
            say(sources[i] + ": nothing, " + (late ? "it is too late" : "it refuses"));
        }
    }
    co_return found;
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    std::vector<std::string> sources = {"weather", "news", "stock"};
    const answers found = co_await fetch_all(sources, 2s);
    const double took = seconds();

    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    const answers expected = {
        {"weather", "weather data"}, {"news", std::nullopt}, {"stock", std::nullopt}};
    claim(found == expected, "each of 3 sources is in the answer, 1 with data, 2 with nothing");
    claim(took >= 2 && took < 4, num(took) + " s in all: the limit of 2 s, not the 11 s of news");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("Take what comes, and do without the rest.\n"
                       "usage: partial [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  2.00 s  weather: weather data
//  2.00 s  news: nothing, it is too late
//  2.00 s  stock: nothing, it refuses
// time    |0                                                    2.000 s|
// Task-1  |============================================================| 0.000-2.000 s
// weather |===============================                             | 0.000-1.000 s
// news    |===========================================================!| 0.000-2.000 s
// stock   |==============================!                             | 0.000-1.000 s
// holds:  each of 3 sources is in the answer, 1 with data, 2 with nothing
// holds:  2.00 s in all: the limit of 2 s, not the 11 s of news
