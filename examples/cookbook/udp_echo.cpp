// Cookbook: datagrams, which may get lost.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/udp_echo.cpp -o udp && ./udp
//
// What it teaches: a datagram endpoint sends and receives whole messages, each with the address of
// its sender. Nobody promises that a datagram arrives: who asks needs a time limit, and asks again.
// retry() does both.
// Look at: the server drops every third question, and all are answered in the end. Without options
// it is its own client; with --port 9999 it serves until Ctrl-C (try `nc -u 127.0.0.1 9999`).
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
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

// Sends each datagram back to whoever sent it; of those, it forgets every `forget`th.
asyncio::coro<> serve(asyncio::datagram_endpoint& endpoint, int forget) {
    for (int count = 1;; ++count) {
        const asyncio::datagram d = co_await endpoint.recvfrom();
        if (forget > 0 && count % forget == 0) continue;
        endpoint.sendto(d.data, d.from); // never waits: what the system does not take is kept
        co_await endpoint.drain();       // but this does, once that is too much
    }
}

int asked = 0;

// One question; an old answer that comes late is not mistaken for the one to it.
asyncio::coro<std::string> ask_once(asyncio::datagram_endpoint& endpoint, std::string question) {
    ++asked;
    endpoint.sendto(question);
    for (;;) {
        asyncio::datagram answer = co_await endpoint.recvfrom();
        if (answer.data == question) co_return std::move(answer.data);
    }
}

asyncio::coro<std::string> ask(int port, std::string question) {
    // With a remote address the endpoint talks to the server only.
    asyncio::datagram_endpoint endpoint =
        co_await asyncio::create_datagram_endpoint({.remote_addr = {"127.0.0.1", port}});
    auto once = [&] { return ask_once(endpoint, question); };
    co_return co_await asyncio::retry(
        once, {.attempts = 20, .initial_delay = 10ms, .max_delay = 100ms, .timeout = 200ms});
}

asyncio::coro<int> try_it(int count) {
    asyncio::datagram_endpoint endpoint =
        co_await asyncio::create_datagram_endpoint({.local_addr = "127.0.0.1"});
    const int port = endpoint.sockname().port();
    auto server = asyncio::create_task([&] { return serve(endpoint, 3); });

    std::vector<std::string> questions;
    for (int i = 0; i < count; ++i) questions.push_back("question " + std::to_string(i));
    questions.push_back("");                       // an empty datagram is one, too
    questions.push_back(std::string(50'000, '.')); // and so is a large one
    std::vector<asyncio::task<std::string>> asking;
    for (const std::string& question : questions)
        asking.push_back(asyncio::create_task(ask(port, question)));
    const std::vector<std::string> answers = co_await asyncio::gather(asking);
    say("asked " + std::to_string(questions.size()) + " questions, in " + std::to_string(asked) +
        " datagrams");
    claim(answers == questions, "all of them are answered");
    claim(asked > count + 2, "some had to be asked again");

    // Nobody there: the system of the other side says so, and the endpoint hears it.
    server.cancel();
    endpoint.close();
    co_await endpoint.wait_closed();
    asyncio::datagram_endpoint lonely =
        co_await asyncio::create_datagram_endpoint({.remote_addr = {"127.0.0.1", port}});
    std::string error = "nothing";
    try {
        lonely.sendto("anybody there?");
        co_await asyncio::wait_for(lonely.recvfrom(), 5s);
    } catch (const std::system_error& e) {
        error = e.code().message();
    }
    say("a port where nobody listens answers: " + error);
    claim(error == "Connection refused", "the endpoint hears of it");
    co_return broken == 0 ? 0 : 1;
}

asyncio::coro<> serve_at(int port) {
    asyncio::datagram_endpoint endpoint =
        co_await asyncio::create_datagram_endpoint({.local_addr = {"127.0.0.1", port}});
    std::printf("echo of datagrams on %s, Ctrl-C ends it\n",
                endpoint.sockname().to_string().c_str());
    std::fflush(stdout);
    co_await serve(endpoint, 0);
}

int port_in(const char* text) { // -1: it is no port
    char* end = nullptr;
    const long port = std::strtol(text, &end, 10);
    return end != text && *end == '\0' && port >= 0 && port < 65536 ? static_cast<int>(port) : -1;
}

int main(int argc, char** argv) {
    int questions = 100;
    int port = -1;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") questions = 10;
        else if (word == "--port" && i + 1 < argc && port_in(argv[i + 1]) >= 0)
            port = port_in(argv[++i]);
        else {
            std::fputs("Sends back each datagram to whoever sent it.\n"
                       "usage: udp [--quick] [--port N]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    if (port >= 0) return asyncio::run_main(serve_at(port));
    return asyncio::run_main(try_it(questions));
}
// Output:
//  0.98 s  asked 102 questions, in 152 datagrams
// holds:  all of them are answered
// holds:  some had to be asked again
//  0.98 s  a port where nobody listens answers: Connection refused
// holds:  the endpoint hears of it
