// Cookbook: a chat room over TCP, one line for each message.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/chat_room.cpp -o chat && ./chat
//
// What it teaches: all that is shared is a map of who is in the room. It needs no lock, since a
// coroutine gives way only where it awaits. write() never waits, so that one message goes to all in
// one go; who does not read is thrown out before what is kept for them fills the memory.
// Look at: everybody sees the same order. Without options it plays three guests itself; with
// --port 7000 it serves until Ctrl-C, and `nc 127.0.0.1 7000` is a guest.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
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

constexpr std::size_t most_kept = 256 * 1024; // bytes that a guest has not read yet

class room {
public:
    void tell_all(const std::string& line) {
        for (auto& [name, writer] : guests_) {
            if (writer->get_write_buffer_size() > most_kept) writer->abort(); // and is told no more
            else writer->write(line + "\n");
        }
    }
    // One guest, from the first line on, which is the name.
    asyncio::coro<> entertain(asyncio::stream_reader reader, asyncio::stream_writer writer) {
        try {
            writer.write("What is your name?\n");
            const std::string name = co_await line_from(reader);
            if (name.empty() || !guests_.emplace(name, &writer).second) {
                writer.write("That name is not free.\n");
                co_return;
            }
            const leaving at_the_end{*this, name};
            tell_all("* " + name + " comes in");
            for (std::string line = "?"; !line.empty();) {
                line = co_await line_from(reader);
                if (!line.empty()) tell_all(name + ": " + line);
                co_await writer.drain(); // who does not read may not talk either
            }
        } catch (const std::exception&) {} // too long a line, or a lost connection
    }

private:
    struct leaving {
        room& from;
        const std::string name;
        ~leaving() { from.guests_.erase(name), from.tell_all("* " + name + " has left"); }
    };
    // Without its end; empty lines are skipped, so that empty means: no more will come.
    static asyncio::coro<std::string> line_from(asyncio::stream_reader& reader) {
        std::string line;
        do line = co_await reader.readline();
        while (line == "\n" || line == "\r\n");
        line.erase(line.find_last_not_of("\r\n") + 1);
        co_return line;
    }
    std::map<std::string, asyncio::stream_writer*> guests_;
};

asyncio::coro<asyncio::server> open_room(room& r, int port) {
    const auto on_client = [&r](asyncio::stream_reader reader, asyncio::stream_writer writer) {
        return r.entertain(std::move(reader), std::move(writer));
    };
    return asyncio::start_server(on_client, "127.0.0.1", port, {.limit = 4096}); // a line's length
}

// Talks for a while, and gives all that was heard after everybody had come.
asyncio::coro<std::string> guest(int port, std::string name, int lines, asyncio::barrier& all) {
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    writer.write(name + "\n");
    co_await reader.readuntil("* " + name + " comes in");
    co_await all.wait(); // everybody is in
    for (int i = 1; i <= lines; ++i) {
        writer.write("line " + std::to_string(i) + "\n");
        co_await asyncio::sleep(1ms);
    }
    writer.write("bye\n");
    std::string heard;
    for (int goodbyes = 0; goodbyes < 3;) {
        const std::string line = co_await reader.readline();
        if (line.find(": ") != std::string::npos) heard += line;
        goodbyes += line.ends_with(": bye\n") ? 1 : 0;
    }
    co_return heard;
}

asyncio::coro<int> try_it(room& r, int lines) {
    asyncio::server server = co_await open_room(r, 0);
    asyncio::barrier all(3);
    std::vector<asyncio::task<std::string>> guests;
    for (const char* name : {"Ada", "Bob", "Eve"})
        guests.push_back(asyncio::create_task(guest(server.port(), name, lines, all)));
    const std::vector<std::string> heard = co_await asyncio::gather(guests);
    say("three guests said " + std::to_string(lines) + " lines each");
    const auto count = std::count(heard[0].begin(), heard[0].end(), '\n');
    claim(count == 3 * (lines + 1), "the first one heard all of it");
    claim(heard[1] == heard[0] && heard[2] == heard[0], "the others heard the same, in that order");

    // One who never reads, beside one who talks a lot.
    auto [deaf_reader, deaf_writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
    deaf_writer.write("Deaf\n");
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
    writer.write("Max\n");
    std::string line, loud(4000, 'x');
    loud.back() = '\n';
    int said = 0;
    for (; line != "* Deaf has left\n"; ++said) {
        writer.write(loud);
        line = co_await reader.readline();
    }
    say("one who never read was thrown out after " + std::to_string(said) + " long lines");
    writer.write("still here\n");
    do line = co_await reader.readline();
    while (!line.empty() && line != "Max: still here\n");
    claim(!line.empty(), "the others go on");
    co_return broken == 0 ? 0 : 1;
}

asyncio::coro<> serve(room& r, int port) {
    asyncio::server server = co_await open_room(r, port);
    std::printf("chat at 127.0.0.1:%d, Ctrl-C ends it\n", server.port());
    std::fflush(stdout);
    co_await server.serve_forever();
}

int port_in(const char* text) { // -1: it is no port
    char* end = nullptr;
    const long port = std::strtol(text, &end, 10);
    return end != text && *end == '\0' && port >= 0 && port < 65536 ? static_cast<int>(port) : -1;
}

int main(int argc, char** argv) {
    int lines = 1000, port = -1;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") lines = 50;
        else if (word == "--port" && i + 1 < argc && port_in(argv[i + 1]) >= 0)
            port = port_in(argv[++i]);
        else {
            std::fputs("A chat room: what a guest says, everybody reads.\n"
                       "usage: chat [--quick] [--port N]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    room r; // longer than the loop, whose tasks use it
    if (port >= 0) return asyncio::run_main(serve(r, port));
    return asyncio::run_main(try_it(r, lines));
}
// Output:
//  1.71 s  three guests said 1000 lines each
// holds:  the first one heard all of it
// holds:  the others heard the same, in that order
//  1.80 s  one who never read was thrown out after 1070 long lines
// holds:  the others go on
