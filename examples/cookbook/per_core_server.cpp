// Cookbook: a server on every core.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/per_core_server.cpp -o cores && ./cores
//
// What it teaches: run_per_core() runs a loop on each core, with a thread of its own. With
// reuse_port all of them listen on the same port, and the system shares the connections out. What
// belongs to one loop needs no locks; call_soon_threadsafe() is the way into another one.
// Look at: how many clients each core has served. Without options it is its own client; with
// --port 8080 it serves until Ctrl-C (try `nc 127.0.0.1 8080`).
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <thread>
#include <vector>
#include <sys/socket.h>
using namespace std::chrono_literals;

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

struct core {
    asyncio::event_loop* loop = nullptr;
    asyncio::event* stop = nullptr;
    std::thread::id thread = {};
    int clients = 0; // only its own thread counts them, so that this is a plain int
};

// Sends each line back, with the number of the core that has served it.
asyncio::coro<> echo(core& c, std::size_t number, asyncio::stream_reader reader,
                     asyncio::stream_writer writer) {
    ++c.clients;
    try {
        for (std::string line = "?"; !line.empty();) {
            line = co_await reader.readline();
            if (!line.empty()) writer.write("core " + std::to_string(number) + ": " + line);
            co_await writer.drain();
        }
    } catch (const std::exception&) {} // the client is gone, or its line was too long
}

// What runs on each core, until it is told to stop.
asyncio::coro<> serve(std::vector<core>& cores, std::size_t number, int port,
                      std::atomic<std::size_t>& ready) {
    core& c = cores[number];
    const auto on_client = [&c, number](asyncio::stream_reader reader,
                                        asyncio::stream_writer writer) {
        return echo(c, number, std::move(reader), std::move(writer));
    };
    asyncio::server server = co_await asyncio::start_server(
        on_client, "127.0.0.1", port, {.reuse_port = true});
    asyncio::event stop;
    c.loop = &asyncio::get_running_loop();
    c.stop = &stop;
    c.thread = std::this_thread::get_id();
    if (++ready == cores.size()) {
        std::printf("%d cores on 127.0.0.1:%d\n", static_cast<int>(cores.size()), port);
        std::fflush(stdout);
    }
    co_await stop.wait();
    server.close();
    co_await server.wait_closed();
}

// Takes a port for the servers, by a socket that does not listen. Port 0: one that is free.
asyncio::socket reserve(int port) {
    asyncio::socket holder = asyncio::socket::tcp();
    holder.setsockopt(SOL_SOCKET, SO_REUSEPORT, 1);
    holder.setsockopt(SOL_SOCKET, SO_REUSEADDR, 1);
    holder.bind(asyncio::address("127.0.0.1", port));
    return holder;
}

// Gives the beginning of all answers, if it is the same: "core 1: ".
asyncio::coro<std::string> talk(int port) {
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    std::string first;
    for (int i = 0; i < 10; ++i) {
        writer.write("hello\n");
        const std::string line = co_await reader.readline();
        if (i == 0) first = line;
        if (line != first || !line.ends_with(": hello\n")) co_return "wrong";
    }
    co_return first.substr(0, first.find(':'));
}

asyncio::coro<> be_clients(std::vector<core>& cores, int port, int count,
                           std::atomic<std::size_t>& ready) {
    while (ready < cores.size()) co_await asyncio::sleep(1ms);
    std::vector<asyncio::task<std::string>> clients;
    for (int i = 0; i < count; ++i) clients.push_back(asyncio::create_task(talk(port)));
    const std::vector<std::string> served = co_await asyncio::gather(clients);
    claim(std::count(served.begin(), served.end(), "wrong") == 0,
          std::to_string(count) + " clients got all their lines back, from one core each");
    for (core& c : cores) c.loop->call_soon_threadsafe([&c] { c.stop->set(); });
}

void try_it(int clients_per_core) {
    const std::size_t n = std::clamp(std::thread::hardware_concurrency(), 2U, 4U);
    const int clients = clients_per_core * static_cast<int>(n);
    const asyncio::socket holder = reserve(0);
    const int port = holder.local_address().port();
    std::vector<core> cores(n);
    std::atomic<std::size_t> ready = 0;
    asyncio::run_per_core(n + 1, [&](std::size_t i) { // the last one plays the clients
        return i == n ? be_clients(cores, port, clients, ready) : serve(cores, i, port, ready);
    });
    int sum = 0;
    for (std::size_t i = 0; i < n; ++i) {
        std::printf("core %d has served %d clients\n", static_cast<int>(i), cores[i].clients);
        claim(cores[i].clients > 0, "which are more than none");
        claim(i == 0 || cores[i].thread != cores[0].thread, "by a thread of its own");
        sum += cores[i].clients;
    }
    claim(sum == clients, "together they are all");
}

void serve_all(int port) { // until Ctrl-C
    const asyncio::socket holder = reserve(port);
    std::vector<core> cores(std::max(1U, std::thread::hardware_concurrency()));
    std::atomic<std::size_t> ready = 0;
    asyncio::run_per_core(cores.size(), [&](std::size_t i) {
        return serve(cores, i, holder.local_address().port(), ready);
    });
}

int main(int argc, char** argv) {
    const std::string_view word = argc > 1 ? argv[1] : "";
    char* end = nullptr;
    const long port = word == "--port" && argc == 3 ? std::strtol(argv[2], &end, 10) : -1;
    const bool serves = port >= 0 && port < 65536 && *end == '\0' && end != argv[2];
    if (!serves && !word.empty() && !(word == "--quick" && argc == 2)) {
        std::fputs("A server with a loop on every core.\n"
                   "usage: cores [--quick] [--port N]\n",
                   word == "--help" ? stdout : stderr);
        return word == "--help" ? 0 : 2;
    }
    try {
        if (serves) serve_all(static_cast<int>(port));
        else try_it(word.empty() ? 100 : 50);
    } catch (const asyncio::keyboard_interrupt&) {
        return 130;
    } catch (const std::exception& error) {
        std::fprintf(stderr, "%s\n", error.what());
        return 1;
    }
    return broken == 0 ? 0 : 1;
}
// Output:
// 2 cores on 127.0.0.1:33777
// holds:  200 clients got all their lines back, from one core each
// core 0 has served 100 clients
// holds:  which are more than none
// holds:  by a thread of its own
// core 1 has served 100 clients
// holds:  which are more than none
// holds:  by a thread of its own
// holds:  together they are all
