// Advanced patterns: every log line knows its request, and nobody passes the id along.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/3_advanced_patterns/request_tracing.cpp -o tracing && ./tracing
//
// What it teaches: a context_var has a value for each task. A task that gather() or create_task()
// makes begins with a copy of its creator's values; what it sets, the others do not see.
// Look at: three requests run at the same time and their lines are mixed, but each has its own id.
// --virtual skips the waiting; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <cstdio>
#include <fstream>
#include <iostream>
#include <map>
#include <set>
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

asyncio::context_var<std::string> request_id("request_id");
std::map<std::string, std::multiset<std::string>> lines; // by request id

void log(const std::string& text) {
    say("[" + request_id.get() + "] " + text);
    lines[request_id.get()].insert(text);
}

asyncio::coro<> query_database(std::string user) {
    asyncio::current_task().set_name("database");
    co_await asyncio::sleep(0.6s);
    log("database answered about " + user);
}

asyncio::coro<> call_api(std::string user) {
    asyncio::current_task().set_name("API");
    co_await asyncio::sleep(1s);
    log("API answered about " + user);
}

asyncio::coro<> write_audit(std::string user) {
    asyncio::current_task().set_name("audit");
    co_await asyncio::sleep(1.4s);
    log("audit written for " + user);
}

asyncio::coro<> handle_request(std::string id, std::string user) {
    asyncio::current_task().set_name(id); // for the timeline
    request_id.set(id);                   // the one place where it is set
    log("request of " + user);
    const auto audit = asyncio::create_task(write_audit(user));
    co_await asyncio::gather(query_database(user), call_api(user));
    log("answer for " + user);
    co_await audit;
}

asyncio::coro<int> async_main(std::string trace_file) {
    asyncio::tracer trace(asyncio::get_running_loop());

    request_id.set("server"); // the requests begin with it, too, and then set their own
    log("three requests arrive");
    const std::map<std::string, std::string> users = {
        {"req-1", "Alice"}, {"req-2", "Bob"}, {"req-3", "Carol"}};
    std::vector<asyncio::task<>> requests;
    for (const auto& [id, user] : users) {
        requests.push_back(asyncio::create_task(handle_request(id, user)));
        co_await asyncio::sleep(0.1s);
    }
    co_await asyncio::gather(requests);
    log("all are answered");
    const double took = seconds();

    trace.print_timeline(std::cout);
    if (!trace_file.empty()) {
        std::ofstream file(trace_file);
        trace.write_chrome_trace(file);
        if (!file.flush()) throw std::runtime_error("cannot write the trace to " + trace_file);
    }

    for (const auto& [id, user] : users) {
        const std::multiset<std::string> expected = {
            "request of " + user, "database answered about " + user, "API answered about " + user,
            "answer for " + user, "audit written for " + user};
        claim(lines[id] == expected, "the lines with " + id + " are those about " + user);
    }
    const std::multiset<std::string> own = {"three requests arrive", "all are answered"};
    claim(lines["server"] == own,
          "what the requests set did not reach the task that started them");
    const std::string total = std::to_string(took).substr(0, 4);
    claim(took >= 1.6 && took < 4, total + " s in all: about 1.6 s, not 4.2 s");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    std::string trace_file;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--virtual") options.clock = asyncio::clock_kind::virtual_time;
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("Every log line knows its request, and nobody passes the id along.\n"
                       "usage: tracing [--virtual] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  0.00 s  [server] three requests arrive
//  0.00 s  [req-1] request of Alice
//  0.10 s  [req-2] request of Bob
//  0.20 s  [req-3] request of Carol
//  0.60 s  [req-1] database answered about Alice
//  0.70 s  [req-2] database answered about Bob
//  0.80 s  [req-3] database answered about Carol
//  1.00 s  [req-1] API answered about Alice
//  1.00 s  [req-1] answer for Alice
//  1.10 s  [req-2] API answered about Bob
//  1.10 s  [req-2] answer for Bob
//  1.20 s  [req-3] API answered about Carol
//  1.20 s  [req-3] answer for Carol
//  1.40 s  [req-1] audit written for Alice
//  1.50 s  [req-2] audit written for Bob
//  1.60 s  [req-3] audit written for Carol
//  1.60 s  [server] all are answered
// time     |0                                                    1.600 s|
// Task-1   |============================================================| 0.000-1.600 s
// req-1    |=====================================================       | 0.000-1.400 s
// audit    |=====================================================       | 0.000-1.400 s
// database |=======================                                     | 0.000-0.600 s
// API      |======================================                      | 0.000-1.000 s
// req-2    |   ======================================================   | 0.100-1.500 s
// audit    |   ======================================================   | 0.100-1.500 s
// database |   ========================                                 | 0.100-0.700 s
// API      |   =======================================                  | 0.100-1.100 s
// req-3    |       =====================================================| 0.200-1.600 s
// audit    |       =====================================================| 0.200-1.600 s
// database |       ========================                             | 0.200-0.800 s
// API      |       =======================================              | 0.200-1.200 s
// holds:  the lines with req-1 are those about Alice
// holds:  the lines with req-2 are those about Bob
// holds:  the lines with req-3 are those about Carol
// holds:  what the requests set did not reach the task that started them
// holds:  1.60 s in all: about 1.6 s, not 4.2 s
