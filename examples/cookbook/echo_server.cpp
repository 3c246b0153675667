// Cookbook: a server with a coroutine for each connection.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/echo_server.cpp -o echo && ./echo
//
// What it teaches: start_server() calls a coroutine for every client, with a reader and a writer.
// All of them run side by side on one thread, and drain() holds back a client that sends faster
// than it reads.
// Look at: all clients are connected before the first one is answered. Without options it is its own
// client; with --port 8080 it serves until Ctrl-C (try `nc 127.0.0.1 8080`).
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

int connected = 0; // clients that are served right now
int most = 0;

asyncio::coro<> echo(asyncio::stream_reader reader, asyncio::stream_writer writer) {
    most = std::max(most, ++connected);
    for (;;) {
        const std::string data = co_await reader.read(64 * 1024);
        if (data.empty()) break; // the client has ended
        writer.write(data);
        co_await writer.drain(); // waits while the client does not read
    }
    --connected;
} // the connection closes with the writer

// Says hello when the others have come, too, and gives what came back.
asyncio::coro<std::string> client(int port, int number, asyncio::barrier& all) {
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    co_await all.wait();
    writer.write("hello from client " + std::to_string(number) + "\n");
    co_return co_await reader.readline();
}

// Sends a lot without reading any of it before the end.
asyncio::coro<std::size_t> greedy_client(int port) {
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    auto back = asyncio::create_task(reader.read()); // everything, up to the end
    for (int i = 0; i < 1000; ++i) {
        writer.write(std::string(10'000, 'x'));
        co_await writer.drain();
    }
    writer.write_eof(); // no more from here; the echo goes on
    const std::string received = co_await back;
    co_return received.size();
}

asyncio::coro<int> try_it() {
    asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
    std::printf("the server listens on a port that was free\n");

    constexpr int clients = 100;
    asyncio::barrier all(clients);
    std::vector<asyncio::task<std::string>> tasks;
    for (int i = 0; i < clients; ++i)
        tasks.push_back(asyncio::create_task(client(server.port(), i, all)));
    const std::vector<std::string> answers = co_await asyncio::gather(tasks);
    std::printf("the last client got: %s", answers.back().c_str());
    bool right = true;
    for (int i = 0; i < clients; ++i)
        right = right && answers[static_cast<std::size_t>(i)] ==
                             "hello from client " + std::to_string(i) + "\n";
    claim(right, "each client got back what it had sent");
    claim(most == clients, std::to_string(most) + " clients were connected at the same time");

    const std::size_t bytes = co_await greedy_client(server.port());
    claim(bytes == 10'000'000, std::to_string(bytes) + " bytes went there and back");

    server.close(); // no new clients
    co_await server.wait_closed(); // the last one has gone
    claim(connected == 0, "in the end nobody is connected");
    co_return broken == 0 ? 0 : 1;
}

asyncio::coro<> serve(int port) {
    asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", port);
    std::printf("echo on 127.0.0.1:%d, Ctrl-C ends it\n", server.port());
    std::fflush(stdout);
    co_await server.serve_forever();
}

int main(int argc, char** argv) {
    int port = -1;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        char* end = nullptr;
        if (word == "--port" && i + 1 < argc) port = static_cast<int>(std::strtol(argv[++i], &end, 10));
        if (end == nullptr || *end != '\0' || port < 0 || port > 65535) {
            std::fputs("Sends back what its clients send.\n"
                       "usage: echo [--port N]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    if (port >= 0) return asyncio::run_main(serve(port));
    return asyncio::run_main(try_it());
}
// Output:
