// The AI agent: who asks the same again within a minute gets the same answer, without a fetch.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/6_agent/agent_cache.cpp -o cache && ./cache
//
// What it teaches: a cache of tasks instead of values. The first who asks makes the task that
// fetches the answer; whoever asks the same meanwhile awaits the same task, so that one fetch
// serves all. A shield keeps one impatient client from cancelling it for the others. Failures are
// not kept, answers for 60 s. (The inference is left out here; ai_agent has it.)
// Look at: how often the services were asked after each step.
// --quick lets the time pass 10 times as fast; --trace FILE is for ui.perfetto.dev.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
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
void claim(bool holds, const string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

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
    bool broken = false;
    int port = 0, requests = 0;
};
asyncio::coro<> serve(service& s, asyncio::stream_reader in, asyncio::stream_writer out) {
    asyncio::current_task().set_name("(" + s.name + " service)"); // for the timeline
    try {
        const message request = co_await receive(in);
        const string text = s.name + " #" + std::to_string(++s.requests) + ": " + request.body;
        co_await asyncio::sleep(s.latency);
        if (s.broken) co_await send(out, "HTTP/1.1 500 Internal Server Error", "");
        else co_await send(out, "HTTP/1.1 200 OK", "{\"text\": \"" + text + "\"}\n");
    } catch (const std::exception&) {} // the agent gave up on us and is gone
}
asyncio::coro<asyncio::server> start(service& s) {
    const auto on_client = std::bind_front(serve, std::ref(s));
    asyncio::server server = co_await asyncio::start_server(on_client, "127.0.0.1", 0);
    s.port = server.port();
    co_return server;
}

// ---- The agent ----------------------------------------------------------------------------------
class agent {
public:
    agent(vector<service>& services, asyncio::duration lifetime)
        : services_(services), lifetime_(lifetime) {}

    asyncio::coro<string> ask(string client, string question) {
        asyncio::current_task().set_name(client); // for the timeline
        const asyncio::time_point now = asyncio::get_running_loop().time();
        entry& kept = answers_[question];
        const bool fresh = kept.answer.valid() && now < kept.expires && !failed(kept.answer);
        if (!fresh) {
            kept.answer = asyncio::create_task(fetch_all(question), {.name = "fetch " + question});
            kept.expires = now + lifetime_;
        }
        const asyncio::task<string> answer = kept.answer; // the entry may be replaced meanwhile
        co_return co_await asyncio::shield(answer);
    }

private:
    struct entry {
        asyncio::task<string> answer;
        asyncio::time_point expires;
    };

    static bool failed(const asyncio::task<string>& t) {
        return t.done() && (t.cancelled() || t.exception() != nullptr);
    }

    static asyncio::coro<string> fetch(const service& from, string question) {
        asyncio::current_task().set_name(from.name);
        co_return co_await post(from.port, question);
    }
    asyncio::coro<string> fetch_all(string question) {
        vector<asyncio::coro<string>> fetches;
        for (const service& s : services_) fetches.push_back(fetch(s, question));
        string all;
        for (const string& json : co_await asyncio::gather(std::move(fetches))) all += json;
        co_return all;
    }

    vector<service>& services_;
    asyncio::duration lifetime_;
    std::map<string, entry> answers_;
};
void show(const asyncio::tracer& trace, const string& file_name) {
    trace.print_timeline(std::cout, 55);
    if (file_name.empty()) return;
    std::ofstream file(file_name);
    trace.write_chrome_trace(file);
    if (!file.flush()) throw std::runtime_error("cannot write the trace to " + file_name);
}

asyncio::coro<int> async_main(string trace_file) {
    vector<service> services = {{"weather", 2s}, {"news", 1.5s}, {"knowledge", 3s}};
    vector<asyncio::server> servers;
    for (service& s : services) servers.push_back(co_await start(s));
    const auto requests = [&] { // to each of the services; -1 if they differ
        const int n = services[0].requests;
        return n == services[1].requests && n == services[2].requests ? n : -1;
    };
    const auto said = [&](const string& what) {
        say(what + ": each service now was asked " + std::to_string(requests()) + " times");
    };
    agent a(services, 60s);
    asyncio::tracer trace(asyncio::get_running_loop());

    vector<asyncio::coro<string>> five;
    for (int i = 1; i <= 5; ++i) five.push_back(a.ask("client " + std::to_string(i), "museum?"));
    const vector<string> same = co_await asyncio::gather(std::move(five));
    said("five equal questions at once");
    const int after_five = requests();
    const string first = same[0];
    const bool all_equal = same == vector<string>(5, first);

    co_await asyncio::sleep(30s);
    double began = seconds();
    const string again = co_await a.ask("main", "museum?");
    const double from_cache = seconds() - began;
    said("the same after half a minute");
    const int after_again = requests();

    asyncio::task<string> impatient = asyncio::create_task(a.ask("impatient", "harbour?"));
    asyncio::task<string> patient = asyncio::create_task(a.ask("patient", "harbour?"));
    co_await asyncio::sleep(0.5s);
    impatient.cancel();
    const string harbour = co_await patient;
    said("another question, asked twice, cancelled once");
    const int after_harbour = requests();

    co_await asyncio::sleep(30s);
    began = seconds();
    const string renewed = co_await a.ask("main", "museum?");
    const double fetched = seconds() - began;
    said("the first one after its minute");
    const int after_renewed = requests();

    services[1].broken = true;
    string error;
    try {
        co_await a.ask("main", "cafes?");
    } catch (const std::runtime_error& e) { error = e.what(); }
    services[1].broken = false;
    const string cafes = co_await a.ask("main", "cafes?");
    said("one that failed, and was asked again");
    show(trace, trace_file);

    claim(after_five == 1 && all_equal, "five equal questions at once: one fetch, five answers");
    claim(after_again == 1 && again == first && from_cache < 0.5 * fetched,
          "the same question within 60 s: no fetch, " + num(from_cache) + " s");
    claim(after_harbour == 2 && impatient.cancelled() && harbour.find("harbour?") != string::npos,
          "a client that gives up leaves the fetch to the others");
    claim(after_renewed == 3 && renewed != first,
          "after 60 s the answer is fetched anew, in " + num(fetched) + " s");
    claim(error.find("500") != string::npos && cafes.find("cafes?") != string::npos &&
              requests() == 5,
          "a failure is not kept: " + error);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    asyncio::run_options options;
    string trace_file;
    for (int i = 1; i < argc; ++i) {
        const string_view word = argv[i];
        if (word == "--quick") options.time_scale = 10; // as many times as fast
        else if (word == "--trace" && i + 1 < argc) trace_file = argv[++i];
        else {
            std::fputs("Who asks the same within a minute gets the same answer, without a fetch.\n"
                       "usage: cache [--quick] [--trace FILE]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    return asyncio::run_main(async_main(trace_file), options);
}
// Output:
//  3.00 s  five equal questions at once: each service now was asked 1 times
// 33.05 s  the same after half a minute: each service now was asked 1 times
// 36.06 s  another question, asked twice, cancelled once: each service now was asked 2 times
// 69.18 s  the first one after its minute: each service now was asked 3 times
// 73.72 s  one that failed, and was asked again: each service now was asked 5 times
// time                |0                                              73.717 s|
// Task-1              |=======================================================| 0.000-73.717 s
// client 1            |===                                                    | 0.000-3.001 s
// client 2            |===                                                    | 0.000-3.001 s
// client 3            |===                                                    | 0.000-3.001 s
// client 4            |===                                                    | 0.000-3.001 s
// client 5            |===                                                    | 0.000-3.001 s
// fetch museum?       |===                                                    | 0.000-3.001 s
// weather             |==                                                     | 0.000-2.001 s
// news                |==                                                     | 0.000-1.501 s
// knowledge           |===                                                    | 0.000-3.001 s
// (weather service)   |==                                                     | 0.000-2.001 s
// (news service)      |==                                                     | 0.000-1.501 s
// (knowledge service) |===                                                    | 0.000-3.001 s
// impatient           |                        =x                             | 33.049-33.565 s
// patient             |                        ===                            | 33.049-36.061 s
// fetch harbour?      |                        ===                            | 33.049-36.061 s
// weather             |                        ===                            | 33.049-35.057 s
// news                |                        ==                             | 33.049-34.553 s
// knowledge           |                        ===                            | 33.049-36.061 s
// (weather service)   |                        ===                            | 33.049-35.057 s
// (news service)      |                        ==                             | 33.049-34.553 s
// (knowledge service) |                        ===                            | 33.049-36.061 s
// fetch museum?       |                                                 ===   | 66.093-69.177 s
// weather             |                                                 ==    | 66.093-68.097 s
// news                |                                                 ==    | 66.093-67.621 s
// knowledge           |                                                 ===   | 66.093-69.177 s
// (weather service)   |                                                 ==    | 66.093-68.097 s
// (news service)      |                                                 ==    | 66.093-67.621 s
// (knowledge service) |                                                 ===   | 66.093-69.177 s
// fetch cafes?        |                                                   =!  | 69.177-70.705 s
// weather             |                                                   === | 69.177-71.209 s
// news                |                                                   =!  | 69.177-70.705 s
// knowledge           |                                                   === | 69.177-72.189 s
// (weather service)   |                                                   === | 69.177-71.209 s
// (news service)      |                                                   ==  | 69.177-70.705 s
// (knowledge service) |                                                   === | 69.177-72.189 s
// fetch cafes?        |                                                    ===| 70.705-73.717 s
// weather             |                                                    ===| 70.705-72.753 s
// news                |                                                    == | 70.705-72.216 s
// knowledge           |                                                    ===| 70.705-73.717 s
// ... and 3 more tasks
// holds:  five equal questions at once: one fetch, five answers
// holds:  the same question within 60 s: no fetch, 0.00 s
// holds:  a client that gives up leaves the fetch to the others
// holds:  after 60 s the answer is fetched anew, in 3.08 s
// holds:  a failure is not kept: HTTP/1.1 500 Internal Server Error
