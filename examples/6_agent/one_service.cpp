// The AI agent: one question to one service, over HTTP and a real connection.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/6_agent/one_service.cpp -o one && ./one
//
// What it teaches: the request that a sleep has stood for so far. open_connection() gives a reader
// and a writer; start_server() gives both to a coroutine that it calls for each client. The agent
// does this with three services, and all its variants with the same functions: read them here.
// Look at: three questions at once take as long as one. A limit closes the connection, and the
// service sees it. What is down, or talks nonsense, is an exception like any other.
// --quick lets the time pass 4 times as fast.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <functional>
using namespace std::chrono_literals;
using std::string, std::string_view, std::vector;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// ---- HTTP/1.1, as much as is needed -------------------------------------------------------------
struct message { // a request or a response; one exchange per connection
    string first_line, body;
};

// readuntil() and readexactly() throw incomplete_read_error when the connection ends too early.
// Who is awaited at once may take references, as here: the caller keeps the reader meanwhile.
asyncio::coro<message> receive(asyncio::stream_reader& reader) {
    const string head = co_await reader.readuntil("\r\n\r\n"), name = "\r\nContent-Length: ";
    message got{head.substr(0, head.find('\r')), ""};
    if (const std::size_t at = head.find(name); at != string::npos)
        got.body = co_await reader.readexactly(std::stol(head.substr(at + name.size())));
    co_return got;
}

asyncio::coro<> send(asyncio::stream_writer& writer, string first_line, string body) {
    writer.write(first_line + "\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: " +
                 std::to_string(body.size()) + "\r\n\r\n" + body); // sends, or keeps it for later
    co_await writer.drain(); // waits while the other side does not read
}

// Asks, and gives the body of the answer.
asyncio::coro<string> post(int port, string body) {
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    co_await send(writer, "POST /ask HTTP/1.1", std::move(body));
    const message got = co_await receive(reader);
    if (!got.first_line.starts_with("HTTP/1.1 200")) throw std::runtime_error(got.first_line);
    co_return got.body;
} // here the connection closes, whether it went well, failed or was cancelled

// ---- The service --------------------------------------------------------------------------------
struct service {
    string name;
    asyncio::duration latency;
    int requests = 0, now = 0, most = 0; // most: that it worked on at the same time
    asyncio::event left = {}; // set when a client went away before its answer
};

// For one client; the reader and the writer are its own, and the connection ends with them.
asyncio::coro<> serve(service& s, asyncio::stream_reader in, asyncio::stream_writer out) {
    try {
        const message request = co_await receive(in);
        const int number = ++s.requests;
        s.most = std::max(s.most, ++s.now);
        bool gave_up = true;
        try { // works for that long, unless the client closes the connection: then read() ends
            co_await asyncio::wait_for(in.read(1), s.latency);
        } catch (const asyncio::timeout_error&) {
            gave_up = false;
        }
        --s.now;
        if (gave_up) s.left.set();
        else co_await send(out, "HTTP/1.1 200 OK",
                           s.name + " #" + std::to_string(number) + ": " + request.body);
    } catch (const std::exception&) {} // the client left in the middle of the exchange
}

asyncio::coro<> serve_nonsense(asyncio::stream_reader in, asyncio::stream_writer out) {
    co_await receive(in);
    out.write("this is no HTTP");
    co_await out.drain();
}

// ---- The questions ------------------------------------------------------------------------------
// What a question comes to: the answer, or what went wrong.
asyncio::coro<string> ask(int port, string question, asyncio::duration limit) {
    string result;
    try {
        result = co_await asyncio::wait_for(post(port, std::move(question)), limit);
    } catch (const asyncio::timeout_error&) {
        result = "too late";
    } catch (const asyncio::incomplete_read_error&) {
        result = "nonsense: it ended too early";
    } catch (const std::system_error& error) { // what the system says of the connection
        result = error.code() == std::errc::connection_refused ? "refused" : error.what();
    }
    say(result);
    co_return result;
}

asyncio::coro<int> async_main() {
    // The service stands before the reader and the writer: bind_front() makes a function of these
    // two. By std::ref all clients share one service. It has to outlive their connections, and
    // these may go on when the server has gone: hence wait_closed() below.
    service news{"news", 1.5s};
    const auto on_client = std::bind_front(serve, std::ref(news));
    asyncio::server server = co_await asyncio::start_server(on_client, "127.0.0.1", 0);
    const int port = server.port(); // for port 0 the system chose a free one

    const string one = co_await ask(port, "free today?", 60s);
    const double first = seconds();

    vector<asyncio::coro<string>> questions;
    for (const char* what : {"A?", "B?", "C?"}) questions.push_back(ask(port, what, 60s));
    const vector<string> three = co_await asyncio::gather(std::move(questions));
    say("three at once: " + std::to_string(news.most) + " were under way at the same time");

    const string late = co_await ask(port, "in a hurry?", 0.5s);
    co_await news.left.wait(); // an event: its waiters go on when somebody sets it
    say("and the service saw the client leave");

    server.close();                // no new clients
    co_await server.wait_closed(); // the last one has been served
    const string refused = co_await ask(port, "anybody there?", 60s);

    asyncio::server other = co_await asyncio::start_server(serve_nonsense, "127.0.0.1", 0);
    const string nonsense = co_await ask(other.port(), "who are you?", 60s);

    claim(one == "news #1: free today?" && first >= 1.5, "the answer, after about 1.5 s");
    claim(three[0].ends_with(": A?") && three[1].ends_with(": B?") && three[2].ends_with(": C?") &&
              news.most == 3,
          "three at once: each has its answer, and the service worked on all three");
    claim(late == "too late" && news.left.is_set(), "the limit ended the wait on both sides");
    claim(refused == "refused", "a service that is down refuses the connection");
    claim(nonsense.starts_with("nonsense"), "one that talks nonsense is found out");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    for (int i = 1; i < argc; ++i) {
        const string_view word = argv[i];
        if (word == "--quick") options.time_scale = 4; // as many times as fast
        else {
            std::fputs("One question to one service, over HTTP and a real connection.\n"
                       "usage: one [--quick]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(), options);
}
// Output:
//  1.51 s  news #1: free today?
//  3.01 s  news #2: A?
//  3.01 s  news #3: B?
//  3.01 s  news #4: C?
//  3.01 s  three at once: 3 were under way at the same time
//  3.52 s  too late
//  3.52 s  and the service saw the client leave
//  3.52 s  refused
//  3.52 s  nonsense: it ended too early
// holds:  the answer, after about 1.5 s
// holds:  three at once: each has its answer, and the service worked on all three
// holds:  the limit ended the wait on both sides
// holds:  a service that is down refuses the connection
// holds:  one that talks nonsense is found out
