// Cookbook: a server lets parsers that nobody trusts work on requests, each behind a wall.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/isolated_plugins.cpp -o plugins && ./plugins
//
// What it teaches: a plugin that is called in a worker process may crash, never end or want all the
// memory: that request is answered with an error, the worker is replaced, and the server goes on.
// Limits of time and memory are two options of the pool. They keep mistakes away, not attackers: a
// plugin may still open files and connections.
// Look at: what the three bad requests are answered, and in the timeline (#: in a worker) that the
// good ones are served meanwhile. --quick sends 20 pairs of good requests instead of 100.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <map>
#include <new>
#include <string>
#include <string_view>
#include <utility>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// The plugins. Each has one mistake that some inputs meet; volatile keeps the compiler from using
// that it must not happen. This one counts the settings in "a=1;b=2". Without a `=` it crashes.
std::string count_settings(std::string text) {
    int count = 0;
    for (char* part = std::strtok(text.data(), ";"); part; part = std::strtok(nullptr, ";")) {
        const char* volatile equals = std::strchr(part, '=');
        if (*equals == '=') ++count;
    }
    return std::to_string(count) + " settings";
}

// The sum of "1,2,3". It does not get past what is no digit and no comma.
std::string add_numbers(std::string text) {
    int sum = 0;
    const char* volatile at = text.c_str();
    while (*at) {
        char* end = nullptr;
        sum += static_cast<int>(std::strtol(at, &end, 10));
        at = *end == ',' ? end + 1 : end;
    }
    return "sum " + std::to_string(sum);
}

// "3a2b" is aaabb. It believes every number.
std::string unpack(std::string text) {
    std::string result;
    std::size_t count = 0;
    for (const char c : text) {
        if (c >= '0' && c <= '9') count = count * 10 + static_cast<std::size_t>(c - '0');
        else result.append(std::exchange(count, 0), c);
    }
    return result;
}

const std::map<std::string, std::string (*)(std::string)> plugins = {
    {"settings", count_settings}, {"numbers", add_numbers}, {"packed", unpack}};

// The answer to one request, "PLUGIN TEXT". Whatever the plugin does, there is one.
asyncio::coro<std::string> answer(asyncio::isolated_executor& pool, std::string request) {
    const std::size_t space = request.find(' ');
    const auto found = plugins.find(request.substr(0, space));
    if (space == std::string::npos || found == plugins.end()) co_return "error: no such plugin";
    asyncio::current_task().set_name(found->first); // for the timeline
    try {
        co_return co_await asyncio::run_in_executor(pool, found->second, request.substr(space + 1));
    } catch (const asyncio::timeout_error&) {
        co_return "error: it took too long";
    } catch (const asyncio::worker_crashed& crash) {
        co_return "error: it crashed by signal " + std::to_string(crash.signal());
    } catch (const std::bad_alloc&) {
        co_return "error: it wanted too much memory";
    }
}

// The client: one connection for one request.
asyncio::coro<std::string> ask(int port, std::string request) {
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    writer.write(request + "\n");
    co_await writer.drain();
    std::string reply = co_await reader.readuntil("\n");
    reply.pop_back();
    writer.close();
    if (reply.starts_with("error")) say(request + ": " + reply);
    co_return reply;
}

asyncio::coro<int> ask_good_ones(int port, int count) {
    int right = 0;
    for (int i = 0; i < count; ++i) {
        const std::string sum = co_await ask(port, "numbers 1," + std::to_string(i));
        const std::string letters = co_await ask(port, "packed 3a2b");
        if (sum == "sum " + std::to_string(i + 1) && letters == "aaabb") ++right;
    }
    co_return right;
}

asyncio::coro<int> async_main(int count) {
    asyncio::tracer trace(asyncio::get_running_loop());
    asyncio::isolated_executor pool(2, {.memory_limit = 64u << 20, .job_timeout = 2s});
    const auto serve = [&pool](asyncio::stream_reader reader,
                               asyncio::stream_writer writer) -> asyncio::coro<> {
        std::string request = co_await reader.readuntil("\n");
        request.pop_back();
        const std::string reply = co_await answer(pool, std::move(request));
        writer.write(reply + "\n");
        co_await writer.drain();
        writer.close();
    };
    asyncio::server server = co_await asyncio::start_server(serve, "127.0.0.1", 0);
    const int port = server.port();
    const auto [crash, hang, bomb, right] = co_await asyncio::gather(
        ask(port, "settings a=1;b"), ask(port, "numbers 1,x"), ask(port, "packed 9999999999z"),
        ask_good_ones(port, count));
    const std::string later = co_await ask(port, "settings a=1;b=2");
    trace.print_timeline(std::cout);

    server.close();
    claim(crash == "error: it crashed by signal 11", "a plugin crashed: " + crash);
    claim(hang == "error: it took too long", "a plugin did not end: " + hang);
    claim(bomb == "error: it wanted too much memory", "a plugin wanted 10 GB: " + bomb);
    claim(right == count, std::to_string(right) + " of " + std::to_string(count) +
                              " pairs of good requests were answered meanwhile");
    claim(later == "2 settings", "the plugin that crashed serves the next request: " + later);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    const bool quick = argc == 2 && std::string_view(argv[1]) == "--quick";
    const bool help = argc == 2 && std::string_view(argv[1]) == "--help";
    if (argc > 1 && !quick) {
        std::fputs("A server lets parsers that nobody trusts work on requests.\n"
                   "usage: plugins [--quick]\n",
                   help ? stdout : stderr);
        return help ? 0 : 2;
    }
    return asyncio::run_main(async_main(quick ? 20 : 100));
}
// Output:
//  0.20 s  settings a=1;b: error: it crashed by signal 11
//  0.29 s  packed 9999999999z: error: it wanted too much memory
//  2.24 s  numbers 1,x: error: it took too long
// time     |0                                                    2.245 s|
// Task-1   |============================================================| 0.000-2.245 s
// Task-2   |  ====                                                      | 0.098-0.196 s
// Task-3   |  ==========================================================| 0.098-2.245 s
// Task-4   |  ======                                                    | 0.098-0.291 s
// Task-5   |  =====================================                     | 0.098-1.441 s
// settings |  =###                                                      | 0.099-0.196 s
// numbers  |  ===#######################################################| 0.099-2.245 s
// packed   |  =====#                                                    | 0.099-0.291 s
// numbers  |  =====##                                                   | 0.099-0.314 s
// packed   |        #                                                   | 0.314-0.315 s
// ...
// holds:  a plugin crashed: error: it crashed by signal 11
// holds:  a plugin did not end: error: it took too long
// holds:  a plugin wanted 10 GB: error: it wanted too much memory
// holds:  100 of 100 pairs of good requests were answered meanwhile
// holds:  the plugin that crashed serves the next request: 2 settings
