// Cookbook: the addresses of many names at once.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/dns_lookup.cpp -o lookup && ./lookup
//
// What it teaches: the system's resolver blocks, for seconds if a name server does not answer;
// getaddrinfo() asks it on a helper thread. A time limit around it ends the wait, not the question.
// Numbers are answered at once, without a thread.
// Look at: errors name the host, and the loop goes on while names are looked up. Without names it
// takes some of its own; try `./lookup example.org localhost ::1`.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>
using namespace std::chrono_literals;

double seconds() { return asyncio::elapsed().total_seconds(); }

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const std::string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

struct answer {
    std::string name;
    std::vector<asyncio::address> addresses;
    std::string error;
};

asyncio::coro<answer> look_up(std::string name, std::string service) {
    answer a;
    a.name = name;
    try {
        a.addresses = co_await asyncio::wait_for(asyncio::getaddrinfo(name, service), 10s);
    } catch (const asyncio::timeout_error&) {
        a.error = "no answer within 10 s";
    } catch (const std::system_error& e) { // of getaddrinfo_category()
        a.error = e.what();
    }
    std::string line = a.error;
    for (const asyncio::address& where : a.addresses)
        line += (line.empty() ? "" : ", ") + where.to_string();
    std::printf("%5.2f s  %s: %s\n", seconds(), name.c_str(), line.c_str());
    co_return a;
}

asyncio::coro<std::vector<answer>> look_up_all(std::vector<std::string> names,
                                               std::string service) {
    const auto one = [&service](std::string name) { return look_up(name, service); };
    co_return co_await asyncio::map(names, one, {.limit = 20});
}

asyncio::coro<> count_up(int& turns) { // stands for the rest of the program
    for (;;) {
        co_await asyncio::sleep(0s); // only gives way to others
        ++turns;
    }
}

bool has(const answer& a, std::string_view address) {
    const auto found = std::find(a.addresses.begin(), a.addresses.end(),
                                 asyncio::address::parse(address));
    return found != a.addresses.end();
}

asyncio::coro<int> try_it(int copies) {
    const std::vector<std::string> names = {"localhost", "127.0.0.1", "::1", "nobody.invalid"};
    const std::vector<answer> found = co_await look_up_all(names, "80");
    claim(has(found[0], "127.0.0.1:80") || has(found[0], "[::1]:80"), "localhost is this machine");
    claim(has(found[1], "127.0.0.1:80") && has(found[2], "[::1]:80"), "numbers stay what they are");
    const std::string& error = found[3].error;
    claim(found[3].addresses.empty() && !error.empty(), "a name that does not exist has none");

    int turns = 0;
    asyncio::task_scope work(asyncio::get_running_loop()); // ends with this block, come what may
    work.create_task([&turns] { return count_up(turns); });
    std::vector<asyncio::task<std::vector<asyncio::address>>> asking;
    for (int i = 0; i < copies; ++i)
        asking.push_back(asyncio::create_task(asyncio::getaddrinfo("localhost", "443")));
    const auto answers = co_await asyncio::gather(asking);
    work.cancel();
    std::printf("%5.2f s  localhost was looked up %d times, and the loop has turned %d times\n",
                seconds(), copies, turns);
    const bool same = std::count(answers.begin(), answers.end(), answers[0]) == copies;
    claim(same && !answers[0].empty(), "all answers are the same");
    claim(turns > 0, "the loop went on meanwhile");
    co_return broken == 0 ? 0 : 1;
}

asyncio::coro<> look_up_these(std::vector<std::string> names) {
    co_await look_up_all(std::move(names), "");
}

int main(int argc, char** argv) {
    const std::string_view word = argc > 1 ? argv[1] : "";
    if (word.empty()) return asyncio::run_main(try_it(500));
    if (word == "--quick") return asyncio::run_main(try_it(50));
    if (word[0] != '-') return asyncio::run_main(look_up_these({argv + 1, argv + argc}));
    std::fputs("Looks up the addresses of names.\n"
               "usage: lookup [--quick | NAME...]\n",
               word == "--help" ? stdout : stderr);
    return word == "--help" ? 0 : 2;
}
// Output:
//  0.00 s  127.0.0.1: 127.0.0.1:80
//  0.00 s  ::1: [::1]:80
//  0.01 s  localhost: 127.0.0.1:80
//  0.03 s  nobody.invalid: look-up of nobody.invalid: Name or service not known
// holds:  localhost is this machine
// holds:  numbers stay what they are
// holds:  a name that does not exist has none
//  0.06 s  localhost was looked up 500 times, and the loop has turned 140221 times
// holds:  all answers are the same
// holds:  the loop went on meanwhile
