// The AI agent: it answers as soon as two of three sources are in.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/6_agent/agent_best_effort.cpp -o best && ./best
//
// What it teaches: as_completed() gives the fetches in the order in which they end. After the
// second, the agent cancels the third: its connection is closed, and a service that looks at its
// connection while it works sees that nobody waits any more, and stops.
// Look at: the timeline. The fetches end after 2 s, and knowledge's service ends with them. With a
// source that is down, the third is waited for. (The inference is left out here; ai_agent has it.)
// --quick lets the time pass 5 times as fast; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <iostream>
#include <map>
using namespace std::chrono_literals;
using std::string, std::string_view, std::vector;

double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
string num(double v) { return std::to_string(v).substr(0, std::to_string(v).size() - 4); } // 1.25

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const string& text, bool busy = false) {
    std::printf("%s %s\n", holds ? "holds: " : busy ? "BUSY:  " : "BROKEN:", text.c_str());
    broken += holds || busy ? 0 : 1; // a machine without a core to spare proves nothing
}
class lag_watch { // how late the loop's timers come: on a busy machine latencies prove nothing
public:
    lag_watch() { tick(); }
    ~lag_watch() { next_.cancel(); }
    bool busy() const { return worst_ > 0.3; } // seconds

private:
    void tick() {
        const double due = seconds() + 0.02;
        next_ = asyncio::get_running_loop().call_later(20ms, [this, due] {
            worst_ = std::max(worst_, seconds() - due);
            tick();
        });
    }

    double worst_ = 0;
    asyncio::handle next_;
};

// ---- HTTP, and three services that speak it -----------------------------------------------------
struct message { // a request or a response of HTTP/1.1; one exchange per connection
    string first_line, body;
};
asyncio::coro<message> receive(asyncio::stream_reader& reader) {
    const string head = co_await reader.readuntil("\r\n\r\n"), name = "\r\nContent-Length: ";
    message got{head.substr(0, head.find('\r')), ""};
    if (const std::size_t at = head.find(name); at != string::npos)
        got.body = co_await reader.readexactly(std::stol(head.substr(at + name.size())));
    co_return got;
}

asyncio::coro<> send(asyncio::stream_writer& writer, string first_line, string body) {
    writer.write(first_line + "\r\nHost: 127.0.0.1\r\nConnection: close\r\nContent-Length: " +
                 std::to_string(body.size()) + "\r\n\r\n" + body);
    co_await writer.drain();
}

asyncio::coro<string> post(int port, string body) {
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    co_await send(writer, "POST /ask HTTP/1.1", std::move(body));
    const message got = co_await receive(reader);
    if (!got.first_line.starts_with("HTTP/1.1 200")) throw std::runtime_error(got.first_line);
    co_return got.body;
}

struct service {
    string name;
    asyncio::duration latency;
    int port = 0, answers = 0;
    asyncio::event left = {}; // the client went away before the answer
};
asyncio::coro<> serve(service& s, asyncio::stream_reader in, asyncio::stream_writer out) {
    asyncio::current_task().set_name("(" + s.name + " service)"); // for the timeline
    try {
        co_await receive(in);
        try { // works for that long, unless the client closes the connection
            co_await asyncio::wait_for(in.read(1), s.latency);
            s.left.set();
            co_return;
        } catch (const asyncio::timeout_error&) {}
        co_await send(out, "HTTP/1.1 200 OK", "{\"text\": \"what " + s.name + " knows\"}\n");
        ++s.answers;
    } catch (const std::exception&) {} // the client left in the middle of the exchange
}
asyncio::coro<asyncio::server> start(service& s) {
    const auto on_client = std::bind_front(serve, std::ref(s));
    asyncio::server server = co_await asyncio::start_server(on_client, "127.0.0.1", 0);
    s.port = server.port();
    co_return server;
}
string text_of(const string& json) { // of what our services answer
    if (!json.starts_with("{\"text\": \"") || !json.ends_with("\"}\n"))
        throw std::runtime_error("the answer is not the JSON we expect");
    return json.substr(10, json.size() - 13);
}

// ---- The agent ----------------------------------------------------------------------------------
struct answer {
    std::map<string, string> parts; // by source
    string errors;                  // the sources that failed
    double fetched = 0;             // seconds
};

asyncio::coro<string> fetch(const service& from, string question) {
    co_return text_of(co_await post(from.port, question));
}

// Asks all, and is content with `enough` of them.
asyncio::coro<answer> ask(vector<service*> sources, string question, std::size_t enough) {
    const double began = seconds();
    vector<asyncio::task<string>> fetches;
    for (const service* s : sources)
        fetches.push_back(asyncio::create_task(fetch(*s, question), {.name = s->name}));
    answer out;
    auto finished = asyncio::as_completed(fetches); // next() gives them in the order of their ends
    while (out.parts.size() < enough) {
        const auto next = co_await finished.next();
        if (!next) break; // there are no more
        const string name = next->get_name();
        try {
            out.parts[name] = next->result();
            say(name + " is in");
        } catch (const std::exception& error) {
            out.errors += name;
            say(name + " failed: " + error.what());
        }
    }
    for (asyncio::task<string>& rest : fetches) rest.cancel(); // nothing to those that are done
    co_await asyncio::wait(fetches);
    out.fetched = seconds() - began;
    say("the answer has " + std::to_string(out.parts.size()) + " parts");
    co_return out;
}
void show(const asyncio::tracer& trace, const string& file_name) {
    trace.print_timeline(std::cout, 55);
    if (file_name.empty()) return;
    std::ofstream file(file_name);
    trace.write_chrome_trace(file);
    if (!file.flush()) throw std::runtime_error("cannot write the trace to " + file_name);
}

asyncio::coro<int> async_main(string trace_file) {
    service weather{"weather", 2s}, news{"news", 1.5s}, knowledge{"knowledge", 3s};
    const vector<service*> services = {&weather, &news, &knowledge};
    vector<asyncio::server> servers;
    for (service* s : services) servers.push_back(co_await start(*s));
    asyncio::tracer trace(asyncio::get_running_loop());
    const lag_watch lag;

    const answer two = co_await ask(services, "Is the museum free today?", 2);
    // That the third was cancelled shows at its service: this event comes.
    co_await asyncio::wait_for(knowledge.left.wait(), 30s);
    say("knowledge's service saw that nobody waits for it");
    const int answers_of_knowledge = knowledge.answers;

    servers[1].close(); // the port of news refuses connections from now on
    const answer without = co_await ask(services, "And tomorrow?", 2);
    show(trace, trace_file);

    const bool busy = lag.busy();
    claim(two.parts.contains("news") && two.parts.contains("weather") && two.parts.size() == 2 &&
              two.errors.empty(),
          "the first answer has the parts of the two that are fastest", busy);
    claim(two.fetched > 1.9 && two.fetched < 3,
          "its fetches took " + num(two.fetched) + " s (weather: 2 s, knowledge: 3 s)",
          busy);
    claim(answers_of_knowledge == 0 && !weather.left.is_set() && !news.left.is_set(),
          "knowledge's service stopped before its answer, and only this one", busy);
    claim(without.errors == "news" && without.parts.size() == 2 && without.fetched > 2.9,
          "with " + without.errors + " down the agent waits for the third: " +
              num(without.fetched) + " s",
          busy);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    string trace_file;
    for (int i = 1; i < argc; ++i) {
        const string_view word = argv[i];
        if (word == "--quick") options.time_scale = 5; // as many times as fast
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("The agent answers as soon as two of three sources are in.\n"
                       "usage: best [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  1.50 s  news is in
//  2.00 s  weather is in
//  2.00 s  the answer has 2 parts
//  2.00 s  knowledge's service saw that nobody waits for it
//  2.00 s  news failed: connect to 127.0.0.1:45075: Connection refused
//  4.00 s  weather is in
//  5.00 s  knowledge is in
//  5.00 s  the answer has 2 parts
// time                |0                                               5.002 s|
// Task-1              |=======================================================| 0.000-5.002 s
// weather             |=======================                                | 0.000-2.001 s
// news                |=================                                      | 0.000-1.501 s
// knowledge           |======================x                                | 0.000-2.001 s
// (weather service)   |=======================                                | 0.000-2.001 s
// (news service)      |=================                                      | 0.000-1.501 s
// (knowledge service) |=======================                                | 0.000-2.001 s
// weather             |                      =======================          | 2.001-4.005 s
// news                |                      !                                | 2.001-2.001 s
// knowledge           |                      =================================| 2.001-5.002 s
// (weather service)   |                      =======================          | 2.001-4.005 s
// (knowledge service) |                      =================================| 2.001-5.001 s
// holds:  the first answer has the parts of the two that are fastest
// holds:  its fetches took 2.00 s (weather: 2 s, knowledge: 3 s)
// holds:  knowledge's service stopped before its answer, and only this one
// holds:  with news down the agent waits for the third: 3.00 s
