// Advanced patterns: each kind of error has a handler of its own.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/error_kinds.cpp -o kinds && ./kinds
//
// What it teaches: errors of a coroutine arrive where it is awaited, so that try and catch work as
// in any other code. A timeout is worth another try, a refused connection is for the operators, and
// nonsense is for whoever wrote the other side.
// Look at: each error reaches its own handler; the refused connection is a real one, to a port of
// this machine where nobody listens. --virtual skips the waiting.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const std::string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
std::string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// What a weather service answers, as text; a number is expected.
asyncio::coro<int> temperature(std::string answer, asyncio::duration latency) {
    co_await asyncio::sleep(latency); // stands for a request over the network
    co_return std::stoi(answer);      // throws std::invalid_argument for what is no number
}

// The same over a real connection; 6_agent/one_service explains how these work.
asyncio::coro<int> temperature_from(int port) {
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    const std::string answer = co_await reader.readline();
    co_return std::stoi(answer);
}

// A port where nobody listens any more.
asyncio::coro<int> closed_port() {
    auto on_client = [](asyncio::stream_reader, asyncio::stream_writer) -> asyncio::coro<> {
        co_return;
    };
    auto server = co_await asyncio::start_server(on_client, "127.0.0.1", 0);
    const int port = server.port();
    server.close();
    co_await server.wait_closed();
    co_return port;
}

// Which handler gets the work's error.
asyncio::coro<std::string> handler_for(asyncio::coro<int> work) {
    std::string handler;
    try {
        const int degrees = co_await asyncio::wait_for(std::move(work), 2s);
        handler = "no error: " + std::to_string(degrees) + " degrees";
    } catch (const asyncio::timeout_error&) {
        handler = "timeout: try again later";
    } catch (const std::system_error& error) {
        if (error.code() != std::errc::connection_refused) throw;
        handler = "refused: call the operators";
    } catch (const std::invalid_argument&) {
        handler = "nonsense: write a bug report";
    }
    say(handler);
    co_return handler;
}

asyncio::coro<int> async_main() {
    const std::string good = co_await handler_for(temperature("21", 0.5s));
    const double began = seconds();
    const std::string late = co_await handler_for(temperature("21", 10s));
    const double took = seconds() - began;
    const int port = co_await closed_port();
    const std::string refused = co_await handler_for(temperature_from(port));
    const std::string nonsense = co_await handler_for(temperature("rather warm", 0.5s));

    claim(good == "no error: 21 degrees", "what works needs no handler");
    claim(late == "timeout: try again later" && took >= 2 && took < 4,
          "a late answer reaches the handler for timeouts, after " + num(took) + " s (about 2 s)");
    claim(refused == "refused: call the operators",
          "a closed port reaches the handler for refused connections");
    claim(nonsense == "nonsense: write a bug report",
          "an answer that is no number reaches the handler for nonsense");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else {
            std::fputs("Each kind of error has a handler of its own.\n"
                       "usage: kinds [--virtual]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  0.50 s  no error: 21 degrees
//  2.50 s  timeout: try again later
//  2.50 s  refused: call the operators
//  3.00 s  nonsense: write a bug report
// holds:  what works needs no handler
// holds:  a late answer reaches the handler for timeouts, after 2.00 s (about 2 s)
// holds:  a closed port reaches the handler for refused connections
// holds:  an answer that is no number reaches the handler for nonsense
