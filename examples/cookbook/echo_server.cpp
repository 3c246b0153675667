// Cookbook: a server with a coroutine for each connection.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/echo_server.cpp -o echo && ./echo
//
// What it teaches: start_server() calls a coroutine for every client, with a reader and a writer.
// All of them run side by side on one thread, and drain() holds back a client that sends faster
// than it reads.
// Look at: all clients are connected before the first one is answered, and a client that does not
// read cannot fill the server's memory. Without options it is its own client; with --port 8080 it
// serves until Ctrl-C (try `nc 127.0.0.1 8080`).
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
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

int connected = 0; // clients that are served right now
int most = 0;
std::size_t most_kept = 0; // bytes that a client had not taken yet

struct visit { // counts a client for as long as it is served, however that ends
    visit() { most = std::max(most, ++connected); }
    ~visit() { --connected; }
};

asyncio::coro<> echo(asyncio::stream_reader reader, asyncio::stream_writer writer) {
    const visit counted;
    try {
        for (;;) {
            const std::string data = co_await reader.read(64 * 1024);
            if (data.empty()) break; // the client has ended
            writer.write(data);
            most_kept = std::max(most_kept, writer.get_write_buffer_size());
            co_await writer.drain(); // waits while the client does not read
        }
    } catch (const std::system_error&) {} // the client went without saying goodbye
} // the connection closes with the writer

// Says hello when the others have come, too, and gives what came back.
asyncio::coro<std::string> client(int port, int number, asyncio::barrier& all) {
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    co_await all.wait();
    writer.write("hello from client " + std::to_string(number) + "\n");
    co_return co_await reader.readline();
}

constexpr int pieces = 2000; // more than the buffers of the system hold
constexpr std::size_t piece_size = 20'000;

asyncio::coro<> send_all(asyncio::stream_writer& writer, int& sent) {
    const std::string piece(piece_size, 'x');
    for (; sent < pieces; ++sent) {
        writer.write(piece);
        co_await writer.drain();
    }
    writer.write_eof(); // no more from here; the echo goes on
}

// Sends a lot and reads nothing, until it cannot send any more. Then it reads.
asyncio::coro<std::size_t> greedy_client(int port) {
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    int sent = 0;
    auto sending = asyncio::create_task(send_all(writer, sent));
    for (int before = -1; before != sent;) { // until it stands still
        before = sent;
        co_await asyncio::sleep(100ms);
    }
    say("a client that reads nothing could send " + std::to_string(sent) + " of " +
        std::to_string(pieces) + " pieces");
    claim(sent < pieces, "it was held back");
    const std::string received = co_await reader.read(); // everything, up to the end
    co_await sending;
    co_return received.size();
}

asyncio::coro<int> try_it(int clients) {
    asyncio::server server = co_await asyncio::start_server(echo, "127.0.0.1", 0);
    say("the server listens on a port that was free");

    asyncio::barrier all(clients);
    std::vector<asyncio::task<std::string>> tasks;
    for (int i = 0; i < clients; ++i)
        tasks.push_back(asyncio::create_task(client(server.port(), i, all)));
    const std::vector<std::string> answers = co_await asyncio::gather(tasks);
    say("the last client got: " + answers.back().substr(0, answers.back().size() - 1));
    bool right = true;
    for (std::size_t i = 0; i < answers.size(); ++i)
        right = right && answers[i] == "hello from client " + std::to_string(i) + "\n";
    claim(right, "each client got back what it had sent");
    claim(most == clients, std::to_string(most) + " clients were connected at the same time");

    const std::size_t bytes = co_await greedy_client(server.port());
    say("then it read " + std::to_string(bytes) + " bytes");
    claim(bytes == pieces * piece_size, "which is all that it had sent");
    claim(most_kept <= 128 * 1024, "the server never kept more than 128 KiB for it");

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

int port_in(const char* text) { // -1: it is no port
    char* end = nullptr;
    const long port = std::strtol(text, &end, 10);
    return end != text && *end == '\0' && port >= 0 && port < 65536 ? static_cast<int>(port) : -1;
}

int main(int argc, char** argv) {
    int clients = 100;
    int port = -1;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") clients = 50;
        else if (word == "--port" && i + 1 < argc && port_in(argv[i + 1]) >= 0)
            port = port_in(argv[++i]);
        else {
            std::fputs("Sends back what its clients send.\n"
                       "usage: echo [--quick] [--port N]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    if (port >= 0) return asyncio::run_main(serve(port));
    return asyncio::run_main(try_it(clients));
}
// Output:
//  0.01 s  the server listens on a port that was free
//  0.06 s  the last client got: hello from client 99
// holds:  each client got back what it had sent
// holds:  100 clients were connected at the same time
//  0.26 s  a client that reads nothing could send 407 of 2000 pieces
// holds:  it was held back
//  0.86 s  then it read 40000000 bytes
// holds:  which is all that it had sent
// holds:  the server never kept more than 128 KiB for it
// holds:  in the end nobody is connected
