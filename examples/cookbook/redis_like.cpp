// Cookbook: a store of keys and values that redis-cli and redis-benchmark accept as theirs.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/redis_like.cpp -o store && ./store
//
// What it teaches: a fast protocol takes what has come, answers every complete request in it, and
// sends all answers at once; a coroutine waits only when a request is incomplete. One thread serves
// all clients, so that INCR needs no lock. Keys that expire are removed by call_at().
// Look at: the claims. Without options it is its own client; with --port 7000 try
// `redis-cli -p 7000`, and `redis-benchmark -p 7000 -t set,get,incr -P 16`.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>
using namespace std::chrono_literals;
using std::string, std::string_view;

struct client_error : std::runtime_error { // what a client has done wrong; it is told
    using std::runtime_error::runtime_error;
};
struct protocol_error : client_error { // and cannot go on
    using client_error::client_error;
};
std::optional<long long> number_in(string_view text) { // with nothing around it
    long long n = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return n;
}
long long number(string_view text) {
    const auto n = number_in(text);
    if (!n) throw client_error("value is not an integer or out of range");
    return *n;
}

// ---- 1. The protocol ---------------------------------------------------------------------------
using words = std::vector<string_view>; // a request: a command and its arguments

constexpr std::size_t longest_line = 64 * 1024, longest_word = 64 * 1024 * 1024;
constexpr std::size_t most_words = 100'000;

bool take_line(string_view& input, string_view& line) { // false: it is not complete yet
    const std::size_t end = input.find('\n');
    if (std::min(end, input.size()) > longest_line) throw protocol_error("too long a line");
    if (end == string::npos) return false;
    line = input.substr(0, end > 0 && input[end - 1] == '\r' ? end - 1 : end);
    input.remove_prefix(end + 1);
    return true;
}
std::size_t length(char kind, string_view line, std::size_t most) { // 5 in "$5"
    const auto n = line.starts_with(kind) ? number_in(line.substr(1)) : -1;
    const auto size = static_cast<std::size_t>(n.value_or(-1));
    if (size > most) throw protocol_error(string("expected '") + kind + "' and a length");
    return size;
}
bool take(string_view& input, words& request) { // the same of a request
    request.clear();
    string_view rest = input, line;
    if (!take_line(rest, line)) return false;
    if (!line.starts_with('*')) { // a line that somebody has typed
        for (std::size_t at = 0; (at = line.find_first_not_of(' ', at)) != string::npos;) {
            request.push_back(line.substr(at, line.find(' ', at) - at));
            at += request.back().size();
        }
    } else { // "*2\r\n$3\r\nGET\r\n$3\r\nkey\r\n"
        for (std::size_t left = length('*', line, most_words); left > 0; --left) {
            if (!take_line(rest, line)) return false;
            const std::size_t size = length('$', line, longest_word);
            if (rest.size() < size + 2) return false;
            request.push_back(rest.substr(0, size));
            rest.remove_prefix(size + 2);
        }
    }
    input = rest;
    return true;
}

void put_text(string& out, string_view text) { // "$5\r\nhello\r\n"
    out += "$" + std::to_string(text.size()) + "\r\n";
    (out += text) += "\r\n";
}
template <class N>
void put_number(string& out, N n) { out += ":" + std::to_string(n) + "\r\n"; }

// ---- 2. The store ------------------------------------------------------------------------------
struct entry {
    string value;
    std::optional<asyncio::time_point> end = {};
};
struct store {
    std::unordered_map<string, entry> entries = {};

    entry* find(string_view key) { // null: there is none, or its time is over
        const auto found = entries.find(string(key));
        if (found == entries.end()) return nullptr;
        const auto& end = found->second.end;
        if (!end || *end > asyncio::get_running_loop().time()) return &found->second;
        entries.erase(found);
        return nullptr;
    }
    void set(string_view key, string_view value) { entries[string(key)] = entry{string(value)}; }
    void expire(string_view key, asyncio::duration after) {
        asyncio::event_loop& loop = asyncio::get_running_loop();
        const asyncio::time_point end = loop.time() + after;
        entries.at(string(key)).end = end;
        loop.call_at(end, [this, own = string(key)] { find(own); }); // which removes it
    }
};

string upper(string_view text) {
    string out(text);
    for (char& c : out) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    return out;
}

void set(store& s, const words& w, string& out) { // SET key value [EX seconds | PX milliseconds]
    const string unit = w.size() > 3 ? upper(w[3]) : "";
    if (w.size() == 4 || (w.size() == 5 && unit != "EX" && unit != "PX"))
        throw client_error("syntax error");
    const long long n = w.size() == 5 ? number(w[4]) : 1;
    if (n <= 0 || n > 1'000'000'000) throw client_error("invalid expire time in 'set' command");
    s.set(w[1], w[2]);
    if (w.size() == 5) s.expire(w[1], std::chrono::milliseconds(unit == "EX" ? 1000 * n : n));
    out += "+OK\r\n";
}
void incr(store& s, const words& w, string& out) {
    const entry* old = s.find(w[1]);
    long long n = old ? number(old->value) : 0;
    if (n == std::numeric_limits<long long>::max()) throw client_error("increment would overflow");
    s.entries[string(w[1])].value = std::to_string(++n); // its end stays
    put_number(out, n);
}
void expire(store& s, const words& w, string& out) {
    const long long n = std::max(number(w[2]), 0LL);
    if (n > 1'000'000'000) throw client_error("invalid expire time in 'expire' command");
    const bool known = s.find(w[1]) != nullptr;
    if (known) s.expire(w[1], std::chrono::seconds(n));
    put_number(out, known ? 1 : 0);
}
void ttl(store& s, const words& w, string& out) {
    const entry* e = s.find(w[1]);
    if (!e || !e->end) return put_number(out, e ? -1 : -2);
    const std::chrono::nanoseconds left = *e->end - asyncio::get_running_loop().time();
    put_number(out, std::chrono::ceil<std::chrono::seconds>(left).count());
}

struct command {
    std::size_t least, most; // words
    void (*run)(store& s, const words& w, string& out);
};
const std::unordered_map<string, command> commands = {
    {"SET", {3, 5, set}}, {"INCR", {2, 2, incr}}, {"EXPIRE", {3, 3, expire}}, {"TTL", {2, 2, ttl}},
    {"GET", {2, 2, [](store& s, const words& w, string& out) {
         const entry* e = s.find(w[1]);
         if (e) put_text(out, e->value);
         else out += "$-1\r\n";
     }}},
    {"MSET", {3, most_words, [](store& s, const words& w, string& out) {
         if (w.size() % 2 == 0) throw client_error("wrong number of arguments for MSET");
         for (std::size_t i = 1; i < w.size(); i += 2) s.set(w[i], w[i + 1]);
         out += "+OK\r\n";
     }}},
    {"DEL", {2, most_words, [](store& s, const words& w, string& out) {
         std::size_t n = 0;
         for (std::size_t i = 1; i < w.size(); ++i)
             n += s.find(w[i]) ? s.entries.erase(string(w[i])) : 0;
         put_number(out, n);
     }}},
    {"EXISTS", {2, most_words, [](store& s, const words& w, string& out) {
         const auto known = [&](string_view key) { return s.find(key) != nullptr; };
         put_number(out, std::count_if(w.begin() + 1, w.end(), known));
     }}},
    {"DBSIZE", {1, 1, [](store& s, const words&, string& out) {
         put_number(out, s.entries.size());
     }}},
    {"PING", {1, 2, [](store&, const words& w, string& out) {
         if (w.size() == 1) out += "+PONG\r\n";
         else put_text(out, w[1]);
     }}},
    // Their programs ask for these when they begin.
    {"COMMAND", {1, 100, [](store&, const words&, string& out) { out += "*0\r\n"; }}},
    {"CONFIG", {3, 3, [](store&, const words& w, string& out) { // GET something: it is empty
         out += "*2\r\n";
         put_text(out, w[2]);
         put_text(out, "");
     }}},
};

void execute(store& s, const words& request, string& out) {
    if (request.empty()) return; // an empty line
    const auto found = commands.find(upper(request[0]));
    if (found == commands.end()) throw client_error("unknown command");
    const auto& [name, c] = *found;
    if (request.size() < c.least || request.size() > c.most)
        throw client_error("wrong number of arguments for " + name);
    c.run(s, request, out);
}

// ---- 3. The server -----------------------------------------------------------------------------
// Answers the requests that are complete, and takes them off. An error is an answer, too.
void answer(store& s, string_view& input, string& out) {
    words request;
    while (out.size() < 1024 * 1024 && take(input, request)) { // more of them are sent first
        try {
            execute(s, request, out);
        } catch (const client_error& e) {
            out += string("-ERR ") + e.what() + "\r\n";
        }
    }
}

asyncio::coro<> serve_client(store& s, asyncio::stream_reader reader,
                             asyncio::stream_writer writer) {
    string input, out;
    try {
        for (string piece = "?"; !piece.empty();) {
            piece = co_await reader.read(64 * 1024);
            input += piece;
            string_view rest = input;
            do {
                out.clear();
                answer(s, rest, out);
                writer.write(out);
                co_await writer.drain(); // waits while the client does not read
            } while (!out.empty());
            input.erase(0, input.size() - rest.size());
        }
    } catch (const protocol_error& e) {
        writer.write(out + "-ERR Protocol error: " + e.what() + "\r\n");
    } catch (const std::system_error&) {} // the client is gone
}

asyncio::coro<asyncio::server> start(store& s, int port) {
    const auto on_client = [&s](asyncio::stream_reader reader, asyncio::stream_writer writer) {
        return serve_client(s, std::move(reader), std::move(writer));
    };
    return asyncio::start_server(on_client, "127.0.0.1", port);
}

asyncio::coro<int> serve(store& s, int port) {
    asyncio::server server = co_await start(s, port);
    auto told_to_stop = asyncio::create_task(asyncio::wait_signal(SIGTERM, SIGINT));
    co_await asyncio::sleep(0s); // from here on, signals are waited for
    std::printf("keys and values on 127.0.0.1:%d, until SIGTERM or Ctrl-C\n", server.port());
    std::fflush(stdout);
    co_await told_to_stop;
    server.close_clients();
    co_await server.drain(1s); // what is to be sent to them has that long
    co_return 0;
}

// ---- 4. The program ----------------------------------------------------------------------------
int broken = 0; // claims that did not hold; with one, the program ends with 1
double seconds() { return asyncio::elapsed().total_seconds(); }
void claim(bool holds, const string& text) {
    std::printf("%5.2f s  %s %s\n", seconds(), holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

asyncio::coro<string> talk(int port, string requests, bool slowly = false) { // gives the answers
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    for (std::size_t at = 0; slowly && at < requests.size(); ++at) {
        writer.write(requests.substr(at, 1));
        co_await asyncio::sleep(1ms);
    }
    if (!slowly) writer.write(requests);
    writer.write_eof();
    co_return co_await reader.read();
}

asyncio::coro<int> try_it(store& s, int count) {
    asyncio::server server = co_await start(s, 0);
    const int port = server.port();
    const string set = "*3\r\n$3\r\nSET\r\n$3\r\nkey\r\n$5\r\n1\r\n*2\r\n"; // a value of two lines
    const struct { string what, requests, answers; } checks[] = {
        {"typed by hand", "PING\r\nping hello\r\n\r\n", "+PONG\r\n$5\r\nhello\r\n"},
        {"SET and GET", set + "GET key\r\nGET none\r\n", "+OK\r\n$5\r\n1\r\n*2\r\n$-1\r\n"},
        {"INCR", "INCR n\r\nINCR n\r\n", ":1\r\n:2\r\n"},
        {"INCR of a text", "INCR key\r\n", "-ERR value is not an integer or out of range\r\n"},
        {"TTL and EXPIRE", "TTL n\r\nEXPIRE n 0\r\nTTL n\r\n", ":-1\r\n:1\r\n:-2\r\n"},
        {"EXISTS and DEL", "EXISTS key n\r\nDEL key n\r\nEXISTS key\r\n", ":1\r\n:1\r\n:0\r\n"},
        {"mistakes", "NO\r\nGET\r\n",
         "-ERR unknown command\r\n-ERR wrong number of arguments for GET\r\n"},
        {"nonsense", "PING\r\n*1\r\n?\r\n",
         "+PONG\r\n-ERR Protocol error: expected '$' and a length\r\n"}};
    for (const auto& [what, requests, answers] : checks) {
        const string got = co_await talk(port, requests);
        claim(got == answers, what);
    }
    const string got = co_await talk(port, set + "PING\r\n", true);
    claim(got == "+OK\r\n+PONG\r\n", "requests that come byte by byte");

    // Each client sends all its requests at once.
    string all;
    for (int i = 0; i < count; ++i) all += "*2\r\n$4\r\nINCR\r\n$5\r\ntotal\r\n";
    std::vector<asyncio::task<string>> clients;
    const double before = seconds();
    for (int i = 0; i < 50; ++i) clients.push_back(asyncio::create_task(talk(port, all)));
    co_await asyncio::gather(clients);
    const double rate = 50 * count / (seconds() - before);
    claim(s.find("total")->value == std::to_string(50 * count), "50 clients count up one number, " +
          std::to_string(static_cast<int>(rate)) + " times a second");

    const double start = seconds();
    co_await talk(port, "SET short life PX 100\r\n");
    while (s.entries.contains("short")) co_await asyncio::sleep(1ms);
    claim(seconds() - start >= 0.1, "a key is gone in time although nobody asks for it");
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    int count = 2000;
    long long port = -1;
    for (int i = 1; i < argc; ++i) {
        const string_view word = argv[i];
        const bool serves = word == "--port" && i + 1 < argc;
        if (word == "--quick") count = 200;
        if (serves) port = number_in(argv[++i]).value_or(-1);
        if (serves ? port < 0 || port > 65535 : word != "--quick") {
            std::fputs("Keeps values under keys, as Redis does.\n"
                       "usage: store [--quick] [--port N]\n",
                       word == "--help" ? stdout : stderr);
            return word == "--help" ? 0 : 2;
        }
    }
    store s; // longer than the loop, whose tasks use it
    return asyncio::run_main(port < 0 ? try_it(s, count) : serve(s, static_cast<int>(port)));
}
// Output:
//  0.00 s  holds:  typed by hand
//  0.00 s  holds:  SET and GET
//  0.00 s  holds:  INCR
//  0.01 s  holds:  INCR of a text
//  0.01 s  holds:  TTL and EXPIRE
//  0.01 s  holds:  EXISTS and DEL
//  0.01 s  holds:  mistakes
//  0.01 s  holds:  nonsense
//  0.07 s  holds:  requests that come byte by byte
//  0.20 s  holds:  50 clients count up one number, 732082 times a second
//  0.31 s  holds:  a key is gone in time although nobody asks for it
