// Cookbook: which ports of a host are open?
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/port_scanner.cpp -o scan && ./scan
//
// What it teaches: a semaphore lets a thousand tasks be made at once and only some of them connect
// at a time; a time limit ends those that get no answer at all, as from behind a firewall.
// Look at: how many were under way at once. Without options it looks for servers of its own; try
// `./scan localhost 1 1024`. Scan only machines that are yours.
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

enum class state { open, refused, silent };

int under_way = 0, most_under_way = 0;

asyncio::coro<state> probe(asyncio::semaphore& slots, std::string host, int port,
                           asyncio::duration limit) {
    auto slot = co_await slots.scoped(); // waits for its turn; free again at the end
    most_under_way = std::max(most_under_way, ++under_way);
    state found = state::refused;
    try {
        co_await asyncio::wait_for(asyncio::open_connection(host, port), limit);
        found = state::open; // and closed again
    } catch (const asyncio::timeout_error&) {
        found = state::silent;
    } catch (const std::system_error& e) {
        if (e.code() != std::errc::connection_refused) found = state::silent; // no route, ...
    }
    --under_way;
    co_return found;
}

// The states of these ports.
asyncio::coro<std::vector<state>> scan(std::string host, std::vector<int> ports, int at_once,
                                       asyncio::duration limit) {
    const std::vector<asyncio::address> found = co_await asyncio::getaddrinfo(host);
    asyncio::semaphore slots(at_once);
    std::vector<asyncio::task<state>> probes;
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& group) {
        for (const int port : ports)
            probes.push_back(group.create_task(probe(slots, found.front().host(), port, limit)));
    }); // whatever happens, they have ended before the slots go, which they use
    std::vector<state> states;
    for (const asyncio::task<state>& probed : probes) states.push_back(probed.result());
    say(std::to_string(ports.size()) + " ports of " + host + ": " +
        std::to_string(std::count(states.begin(), states.end(), state::open)) + " are open, " +
        std::to_string(std::count(states.begin(), states.end(), state::refused)) + " closed");
    co_return states;
}

asyncio::coro<int> try_it(int count) {
    // Half of them listen; the others are taken, so that nobody else listens there.
    std::vector<asyncio::socket> sockets;
    std::vector<int> ports;
    for (int i = 0; i < count; ++i) {
        sockets.push_back(asyncio::socket::tcp());
        sockets.back().bind(asyncio::address("127.0.0.1", 0));
        if (i % 2 == 0) sockets.back().listen();
        ports.push_back(sockets.back().local_address().port());
    }
    const std::vector<state> states = co_await scan("127.0.0.1", ports, 20, 30s);
    bool right = true;
    for (std::size_t i = 0; i < states.size(); ++i)
        right = right && states[i] == (i % 2 == 0 ? state::open : state::refused);
    claim(right, "each port was found in its state");
    claim(most_under_way == 20, std::to_string(most_under_way) + " were asked at once, no more");

    // A server that takes no connections: those that the system keeps for it are soon too many.
    asyncio::socket listener = asyncio::socket::tcp();
    listener.bind(asyncio::address("127.0.0.1", 0));
    listener.listen(1);
    const std::vector<int> same(10, listener.local_address().port());
    const std::vector<state> asked = co_await scan("127.0.0.1", same, 10, 300ms);
    claim(std::count(asked.begin(), asked.end(), state::silent) > 0,
          "who gets no answer does not wait for ever");
    co_return broken == 0 ? 0 : 1;
}

asyncio::coro<> scan_host(std::string host, int first, int last) {
    std::vector<int> ports;
    for (int port = first; port <= last; ++port) ports.push_back(port);
    const std::vector<state> states = co_await scan(host, ports, 200, 1s);
    for (std::size_t i = 0; i < states.size(); ++i)
        if (states[i] == state::open) std::printf("%d\n", ports[i]);
}

int main(int argc, char** argv) {
    const std::string_view word = argc > 1 ? argv[1] : "";
    if (argc == 1) return asyncio::run_main(try_it(400));
    if (argc == 2 && word == "--quick") return asyncio::run_main(try_it(100));
    const int first = argc == 4 ? std::atoi(argv[2]) : 0, last = argc == 4 ? std::atoi(argv[3]) : 0;
    if (first > 0 && first <= last && last < 65536)
        return asyncio::run_main(scan_host(argv[1], first, last));
    std::fputs("Finds out which ports of a host are open.\n"
               "usage: scan [--quick | HOST FIRST LAST]\n",
               word == "--help" ? stdout : stderr);
    return word == "--help" ? 0 : 2;
}
// Output:
//  0.19 s  400 ports of 127.0.0.1: 200 are open, 200 closed
// holds:  each port was found in its state
// holds:  20 were asked at once, no more
//  0.49 s  10 ports of 127.0.0.1: 2 are open, 0 closed
// holds:  who gets no answer does not wait for ever
