// The AI agent: a language model on this machine, its words as they come, its tools behind a wall.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/6_agent/local_llm.cpp -o llm && ./llm
//
// What it teaches: llama.cpp, Ollama and others speak the same HTTP. Each token comes back as an
// event when it is made. Tool calls may be foolish; they run on worker processes with limits.
// Look at: two of three tool calls want too much time or memory. They are stopped, the model is
// told so, and its answer has the rest. Without --url a small server in this program plays a model;
// try --url http://localhost:11434 --model llama3.2 --question "How many primes are below 5000?"
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <iostream>
#include <map>
#include <new>
using namespace std::chrono_literals;
using std::string, std::string_view, std::vector;
double seconds() { return asyncio::elapsed().total_seconds(); }
void say(const string& text) { std::printf("%5.2f s  %s\n", seconds(), text.c_str()); }
int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

// ---- JSON: just what this program needs ---------------------------------------------------------
string json_text(const string& text) { // as a JSON string
    string out;
    for (const char c : text) {
        if (c == '"' || c == '\\' || c == '\n') out += '\\';
        out += c == '\n' ? 'n' : c >= 0 && c < ' ' ? ' ' : c;
    }
    return '"' + out + '"';
}
// Where the first value of that name begins, or npos. Quotes within strings have a \ before them.
std::size_t value_of(const string& json, const string& name, std::size_t from = 0) {
    while (from != string::npos && (from = json.find('"' + name + '"', from)) != string::npos) {
        from = json.find_first_not_of(" \n", from + name.size() + 2);
        if (from != string::npos && json[from] == ':') return json.find_first_not_of(" \n", ++from);
    }
    return from;
}
string string_at(const string& json, std::size_t at) { // empty if there is none
    string out;
    if (at == string::npos || json[at] != '"') return out;
    for (++at; at < json.size() && json[at] != '"'; ++at) {
        const bool escaped = json[at] == '\\' && ++at < json.size();
        unsigned code = 0; // above 127 models write letters as they are
        if (!escaped) out += json[at];
        else if (json[at] == 'u' && std::sscanf(json.c_str() + at + 1, "%4x", &code) == 1)
            out += static_cast<char>(code < 128 ? code : '?'), at += 4;
        else out += json[at] == 'n' ? '\n' : json[at];
    }
    return out;
}
double number_of(const string& json, const string& name) { // 0 if there is none
    const std::size_t at = value_of(json, name);
    return at == string::npos ? 0 : std::strtod(json.c_str() + at, nullptr);
}

// ---- The tools, each a function that a worker process runs --------------------------------------
string primes(string arguments) {
    const double below = number_of(arguments, "below");
    int count = 0;
    for (std::int64_t n = 2, factor = 2; static_cast<double>(n) < below; ++n, factor = 2) {
        while (factor * factor <= n && n % factor != 0) ++factor;
        count += factor * factor > n ? 1 : 0;
    }
    return std::to_string(count) + " primes";
}
string repeat(string arguments) {
    string out, text = string_at(arguments, value_of(arguments, "text"));
    const double times = std::clamp(number_of(arguments, "times"), 0.0, 1e12); // models err
    out.reserve(static_cast<std::size_t>(times) * text.size());
    for (double i = times; i >= 1; --i) out += text;
    return out;
}
const std::map<string, string (*)(string)> tools = {{"primes", primes}, {"repeat", repeat}};
const string tool_list = R"([{"type":"function","function":{"name":"primes","description":
"Counts primes","parameters":{"type":"object","properties":{"below":{"type":"number"}}}}},
{"type":"function","function":{"name":"repeat","description":"Repeats a text","parameters":{"type":
"object","properties":{"text":{"type":"string"},"times":{"type":"number"}}}}}])";
struct tool_call { string name, arguments, result = ""; };
asyncio::coro<> run_tool(asyncio::executor& pool, tool_call& call) {
    try { // at() throws for a tool that is not there
        call.result = co_await asyncio::run_in_executor(pool, tools.at(call.name), call.arguments);
    } catch (const asyncio::timeout_error&) { call.result = "error: it took too long";
    } catch (const std::bad_alloc&) { call.result = "error: it wanted too much memory";
    } catch (const std::exception& e) { call.result = string("error: ") + e.what(); }
    say("  " + call.name + ' ' + call.arguments + ": " + call.result.substr(0, 50));
}

// ---- The client ---------------------------------------------------------------------------------
struct model {
    string host = "127.0.0.1", name = "none";
    int port = 0;
    asyncio::event shown = {}; // a token
};
struct event_stream { // the body of a response: an event is a line that begins with "data: "
    asyncio::stream_reader& in;
    const bool chunked;
    string unread = "";
    asyncio::coro<string> next() { // empty after the last one
        for (;;) {
            for (std::size_t end; (end = unread.find('\n')) != string::npos;) {
                const string line = unread.substr(0, end);
                unread.erase(0, end + 1);
                if (line.starts_with("data: [DONE]")) co_return "";
                if (line.starts_with("data: ")) co_return line.substr(6);
            }
            string line = "ffff", got;
            if (chunked) line = co_await in.readline();
            const long size = std::strtol(line.c_str(), nullptr, 16); // of the next chunk
            if (chunked) got = co_await in.readexactly(size);
            else got = co_await in.read(size);
            if (got.empty()) throw std::runtime_error("the model stopped in the middle");
            if (chunked) co_await in.readline();
            unread += got;
        }
    }
};
struct reply { string text; vector<tool_call> calls; };
asyncio::coro<reply> chat(model& m, string messages) {
    auto [reader, writer] = co_await asyncio::open_connection(m.host, m.port);
    const string body = "{\"model\":" + json_text(m.name) + ",\"stream\":true,\"messages\":[" +
                        messages + "],\"tools\":" + tool_list + "}";
    writer.write("POST /v1/chat/completions HTTP/1.1\r\nHost: " + m.host +
                 "\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: " +
                 std::to_string(body.size()) + "\r\n\r\n" + body);
    const string head = co_await reader.readuntil("\r\n\r\n");
    if (head.find(" 200 ") != 8) throw std::runtime_error(head.substr(0, head.find('\r')));
    event_stream events{reader, head.find("chunked") != string::npos};
    reply out;
    for (;;) {
        const string event = co_await asyncio::wait_for(events.next(), 60s);
        if (event.empty()) co_return out;
        const string token = string_at(event, value_of(event, "content"));
        out.text += token;
        std::cout << token << std::flush;
        if (!token.empty()) m.shown.set();
        std::size_t next = value_of(event, "function", value_of(event, "tool_calls"));
        for (std::size_t at = next; at != string::npos; at = next) {
            next = value_of(event, "function", at);
            const string call = event.substr(at, next - at);
            const string name = string_at(call, value_of(call, "name"));
            if (!name.empty() || out.calls.empty()) out.calls.push_back({name, ""});
            out.calls.back().arguments += string_at(call, value_of(call, "arguments")); // in pieces
        }
    }
}
asyncio::coro<reply> converse(model& m, asyncio::executor& pool, string question) {
    string messages = "{\"role\":\"user\",\"content\":" + json_text(question) + "}";
    reply all; // calls, and the last text
    for (int round = 0; round < 5; ++round) {
        say("asking " + m.name);
        reply r = co_await chat(m, messages);
        std::cout << std::endl;
        all.text = r.text;
        if (r.calls.empty()) break;
        const auto all_calls = [&](asyncio::task_group& group) { // they write into r.calls
            for (tool_call& call : r.calls)
                group.create_task(run_tool(pool, call), {.name = call.name});
        };
        co_await asyncio::with(asyncio::task_group(), all_calls);
        string calls, results;
        for (const tool_call& call : r.calls) {
            const string id = json_text("call_" + std::to_string(all.calls.size()));
            calls += R"(,{"id":)" + id + R"(,"type":"function","function":{"name":)" +
                     json_text(call.name) + R"(,"arguments":)" + json_text(call.arguments) + "}}";
            results += R"(,{"role":"tool","tool_call_id":)" + id + R"(,"content":)" +
                       json_text(call.result) + "}";
            all.calls.push_back(call);
        }
        messages += R"(,{"role":"assistant","content":)" + json_text(r.text) +
                    R"(,"tool_calls":[)" + calls.substr(1) + "]}" + results;
    }
    co_return all;
}

// ---- What plays a model: first it wants tools, then it says what came of them -------------------
asyncio::coro<> play(model& m, std::chrono::milliseconds gap, asyncio::stream_reader in,
                     asyncio::stream_writer out) {
    try {
        const string head = co_await in.readuntil("\r\n\r\n"), name = "\r\nContent-Length: ";
        const string body = co_await in.readexactly(std::stol(head.substr(head.find(name) + 18)));
        vector<string> deltas;
        const auto token = [&](string t) { deltas.push_back("\"content\":" + json_text(t)); };
        for (const char* word : {"I ", "\"think\" ", "of ", "this:"}) token(word);
        for (std::size_t at = 0; (at = body.find("\"tool_call_id\"", at)) != string::npos; ++at)
            token(' ' + string_at(body, value_of(body, "content", at)) + '.');
        const bool first = deltas.size() == 4; // else it has the results of its calls
        for (const string call : {R"("name":"primes","arguments":"{\"below\":")",
                 R"("arguments":"1000}")", R"("name":"primes","arguments":"{\"below\":1e15}")",
                 R"("name":"repeat","arguments":"{\"text\":\"ha\",\"times\":1e10}")"})
            if (first) deltas.push_back("\"tool_calls\":[{\"function\":{" + call + "}}]");
        out.write("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for (const string& delta : deltas) {
            const string event = "data: {\"choices\":[{\"delta\":{" + delta + "}}]}\n\n";
            char size[20]; // a chunk of 6 bytes, and one with the rest
            std::snprintf(size, sizeof size, "\r\n%zx\r\n", event.size() - 6);
            out.write("6\r\n" + event.substr(0, 6) + size + event.substr(6) + "\r\n");
            co_await asyncio::sleep(gap);
        }
        co_await asyncio::wait_for(m.shown.wait(), 10s); // no end before a token was shown
        out.write("e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n");
    } catch (const std::exception&) {} // the client is gone
}
asyncio::coro<int> async_main(model& m, string question, bool quick) {
    asyncio::process_pool_executor pool(
        2, {.memory_limit = 64U << 20, .job_timeout = quick ? 1s : 2s});
    const auto on_client = std::bind_front(play, std::ref(m), quick ? 5ms : 100ms);
    asyncio::server server = co_await asyncio::start_server(on_client, "127.0.0.1", 0);
    const bool real = m.port != 0;
    if (!real) m.port = server.port();
    asyncio::tracer trace(asyncio::get_running_loop());
    reply got = co_await converse(m, pool, question);
    trace.print_timeline(std::cout, 55);
    server.close();
    if (real) co_return 0;
    got.calls.resize(3);
    const string good = got.calls[0].result, slow = got.calls[1].result, big = got.calls[2].result;
    claim(m.shown.is_set() && !got.text.empty(), "tokens were shown before the model was done");
    claim(good == "168 primes", "a good tool call: " + good);
    claim(slow == "error: it took too long", "one that never ends: " + slow);
    claim(big == "error: it wanted too much memory", "one that wants 20 GB: " + big);
    claim(got.text.ends_with(good + ". " + slow + ". " + big + '.'), "the model was told all that");
    co_return broken == 0 ? 0 : 1;
}
int main(int argc, char** argv) {
    asyncio::worker_main(); // a worker process never gets past this line
    std::map<string, string> option = {
        {"--url", ""}, {"--model", "none"}, {"--question", "How many primes are below 1000?"}};
    const string last = argc > 1 ? argv[argc - 1] : "";
    bool good = argc % 2 == 1 || last == "--quick"; // the others are pairs
    for (int i = 1; i + 1 < argc && good; i += 2)
        if ((good = option.count(argv[i]) == 1)) option[argv[i]] = argv[i + 1];
    model m;
    char host[256] = "127.0.0.1", more = 0;
    if (const string& url = option["--url"]; !url.empty())
        good &= std::sscanf(url.c_str(), "http://%255[^:/]:%d%c", host, &m.port, &more) == 2;
    m.host = host, m.name = option["--model"];
    if (good) return asyncio::run_main(async_main(m, option["--question"], last == "--quick"));
    const bool help = last == "--help";
    std::fputs("Talks with a language model on this machine, and runs its tools.\nusage: llm "
        "[--url http://HOST:PORT] [--model M] [--question Q] [--quick]\n", help ? stdout : stderr);
    return help ? 0 : 2;
}
// Output:
//  0.00 s  asking none
// I "think" of this:
//  0.81 s    primes {"below":1000}: 168 primes
//  0.81 s    repeat {"text":"ha","times":1e10}: error: it wanted too much memory
//  2.81 s    primes {"below":1e15}: error: it took too long
//  2.81 s  asking none
// I "think" of this: 168 primes. error: it took too long. error: it wanted too much memory.
// time   |0                                               3.509 s|
// Task-1 |=======================================================| 0.000-3.509 s
// Task-2 |=============                                          | 0.000-0.804 s
// primes |            #                                          | 0.804-0.805 s
// primes |            ################################           | 0.804-2.806 s
// repeat |            #                                          | 0.804-0.808 s
// Task-6 |                                           ============| 2.806-3.509 s
// holds:  tokens were shown before the model was done
// holds:  a good tool call: 168 primes
// holds:  one that never ends: error: it took too long
// holds:  one that wants 20 GB: error: it wanted too much memory
// holds:  the model was told all that
