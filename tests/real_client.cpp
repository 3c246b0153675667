// A client of ours, for servers that everybody has, and a server for clients over Unix sockets.
// tests/real_programs.py runs it with them.
//
//     real_client connect ADDRESS    standard input goes to a server, its answer to standard output
//     real_client serve PATH         sends everybody what he has sent, until SIGINT
//     real_client redis ADDRESS      what a redis-server must answer, as claims
//
// ADDRESS: a port or a path. A PATH @NAME is one of the abstract namespace.
#include "asyncio.hpp"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <string>
#include <string_view>
#include <vector>

#include <unistd.h>

using namespace std::chrono_literals;
using std::string, std::string_view;

namespace {

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const string& text, const string& seen = "") {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    if (!holds && !seen.empty()) std::printf("    %s\n", seen.substr(0, 1000).c_str());
    std::fflush(stdout);
    broken += holds ? 0 : 1;
}

long long number(string_view text) {
    long long n = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n);
    if (error != std::errc() || end != text.data() + text.size())
        throw std::runtime_error("expected a number: " + string(text));
    return n;
}

string path_of(string address) {
    if (address.starts_with('@')) address[0] = '\0';
    return address;
}

asyncio::coro<asyncio::stream_pair> connect_to(string address) { // a port or a path
    if (address.find('/') != string::npos || address.starts_with('@'))
        co_return co_await asyncio::open_unix_connection(path_of(address));
    co_return co_await asyncio::open_connection("127.0.0.1", static_cast<int>(number(address)));
}

// ---- Bytes, both ways at once ------------------------------------------------------------------

asyncio::coro<> pass_on(asyncio::stream_reader& from, asyncio::stream_writer& to) {
    for (;;) {
        const string data = co_await from.read(64 * 1024);
        if (data.empty()) break;
        to.write(data);
        co_await to.drain();
    }
    if (to.can_write_eof()) to.write_eof(); // the other direction goes on
}

asyncio::coro<int> connect(string address) {
    asyncio::stream_pair server = co_await connect_to(address);
    asyncio::stream_reader input = co_await asyncio::stdin_reader();
    asyncio::stream_writer output = co_await asyncio::connect_write_pipe(STDOUT_FILENO);
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& group) {
        group.create_task(pass_on(input, server.second));
        group.create_task(pass_on(server.first, output));
    });
    output.close();
    co_await output.wait_closed(); // until all of it is written
    co_return 0;
}

asyncio::coro<int> serve(string path) {
    asyncio::server server = co_await asyncio::start_unix_server(pass_on, path_of(path));
    std::puts("listening");
    std::fflush(stdout);
    co_await server.serve_forever();
    co_return 0;
}

// ---- Redis -------------------------------------------------------------------------------------

class redis {
public:
    explicit redis(asyncio::stream_pair streams)
        : reader_(std::move(streams.first)), writer_(std::move(streams.second)) {}

    void send(const std::vector<string>& words) {
        string out = "*" + std::to_string(words.size()) + "\r\n";
        for (const string& word : words)
            out += "$" + std::to_string(word.size()) + "\r\n" + word + "\r\n";
        writer_.write(out);
    }

    // The next answer: texts as they are, ":1" for numbers, "[a, b]" for lists.
    asyncio::coro<string> receive() {
        string line = co_await reader_.readuntil("\r\n");
        line.resize(line.size() - 2);
        const char kind = line.at(0);
        const string rest = line.substr(1);
        if (kind == '+') co_return rest;
        if (kind == '-' || kind == ':') co_return line;
        const std::ptrdiff_t n = static_cast<std::ptrdiff_t>(number(rest));
        if (n < 0) co_return "nothing";
        if (kind == '$') {
            string text = co_await reader_.readexactly(n + 2);
            text.resize(text.size() - 2);
            co_return text;
        }
        if (kind != '*') throw std::runtime_error("not the protocol of Redis: " + line);
        string list = "[";
        for (std::ptrdiff_t i = 0; i < n; ++i) {
            if (i > 0) list += ", ";
            list += co_await receive();
        }
        co_return list + "]";
    }

    asyncio::coro<string> ask(std::vector<string> words) {
        send(words);
        co_await writer_.drain();
        co_return co_await receive();
    }

private:
    asyncio::stream_reader reader_;
    asyncio::stream_writer writer_;
};

asyncio::coro<redis> open(string address) {
    auto streams = co_await connect_to(address);
    co_return redis(std::move(streams));
}

std::vector<string> words_of(string_view line) {
    std::vector<string> words;
    for (std::size_t at = 0; (at = line.find_first_not_of(' ', at)) != string::npos;) {
        words.emplace_back(line.substr(at, line.find(' ', at) - at));
        at += words.back().size();
    }
    return words;
}

asyncio::coro<> speak(redis& server) {
    const struct { string line, answer; } dialogue[] = {
        {"PING", "PONG"},
        {"SET key value", "OK"},
        {"GET key", "value"},
        {"GET none", "nothing"},
        {"INCR n", ":1"},
        {"INCR key", "-ERR value is not an integer or out of range"},
        {"RPUSH list a b c", ":3"},
        {"LRANGE list 0 -1", "[a, b, c]"},
        {"MGET key none n", "[value, nothing, 1]"},
        {"MULTI", "OK"},
        {"INCR n", "QUEUED"},
        {"LRANGE list 0 1", "QUEUED"},
        {"EXEC", "[:2, [a, b]]"},
        {"DEL key n list", ":3"}};
    for (const auto& [line, answer] : dialogue) {
        auto words = words_of(line);
        const string got = co_await server.ask(std::move(words));
        claim(got == answer, line + ": " + answer, got);
    }
}

asyncio::coro<> send_much(redis& server) {
    string value;
    while (value.size() < 1024 * 1024) value += static_cast<char>(value.size() * 7 % 256);
    value += "\r\n"; // which is the end of nothing here
    std::vector<string> words = {"SET", "bytes", value};
    string got = co_await server.ask(std::move(words));
    claim(got == "OK", "1 MB of bytes is taken", got);
    words = {"GET", "bytes"};
    got = co_await server.ask(std::move(words));
    claim(got == value, "and given back", std::to_string(got.size()) + " bytes");

    constexpr int many = 10'000;
    for (int i = 0; i < many; ++i) server.send({"INCR", "many"});
    int right = 0;
    for (int i = 1; i <= many; ++i) {
        got = co_await server.receive();
        right += got == ":" + std::to_string(i);
    }
    claim(right == many, "10000 requests at once have their answers in order", got);
}

asyncio::coro<> count_up(string address, std::vector<string>& numbers) {
    redis server = co_await open(address);
    for (int i = 0; i < 100; ++i) {
        std::vector<string> words = {"INCR", "shared"};
        numbers.push_back(co_await server.ask(std::move(words)));
    }
}

asyncio::coro<> share_a_number(string address) {
    std::vector<string> numbers;
    std::vector<asyncio::task<void>> clients;
    for (int i = 0; i < 50; ++i)
        clients.push_back(asyncio::create_task(count_up(address, numbers)));
    co_await asyncio::gather(clients);
    const bool last = std::find(numbers.begin(), numbers.end(), ":5000") != numbers.end();
    std::sort(numbers.begin(), numbers.end());
    const bool unique = std::adjacent_find(numbers.begin(), numbers.end()) == numbers.end();
    claim(numbers.size() == 5000 && unique && last, "50 clients count to 5000 together");
}

asyncio::coro<> listen_to_news(redis& server, string address) {
    redis listener = co_await open(address);
    std::vector<string> words = {"SUBSCRIBE", "news"};
    string got = co_await listener.ask(std::move(words));
    claim(got == "[subscribe, news, :1]", "a client subscribes", got);
    for (int i = 0; i < 100; ++i) {
        words = {"PUBLISH", "news", std::to_string(i)};
        co_await server.ask(std::move(words));
    }
    int right = 0;
    for (int i = 0; i < 100; ++i) {
        got = co_await listener.receive();
        right += got == "[message, news, " + std::to_string(i) + "]";
    }
    claim(right == 100, "and hears what others publish, in order", got);
}

// Asks until so many clients wait for an item of a list; only the server knows.
asyncio::coro<> until_blocked(redis& server, int clients) {
    const string wanted = "blocked_clients:" + std::to_string(clients) + "\r\n";
    for (string info; info.find(wanted) == string::npos;) {
        std::vector<string> words = {"INFO", "clients"};
        info = co_await server.ask(std::move(words));
    }
}

asyncio::coro<string> pop(string address) {
    redis waiting = co_await open(address);
    std::vector<string> words = {"BLPOP", "jobs", "0"};
    co_return co_await waiting.ask(std::move(words));
}

asyncio::coro<> wait_for_jobs(redis& server, string address) {
    auto patient = asyncio::create_task(pop(address));
    co_await until_blocked(server, 1);
    std::vector<string> words = {"RPUSH", "jobs", "first"};
    co_await server.ask(std::move(words));
    string got = co_await patient;
    claim(got == "[jobs, first]", "a client waits for an item of a list", got);

    auto cancelled = asyncio::create_task(pop(address));
    co_await until_blocked(server, 1);
    cancelled.cancel();
    const auto outcome = co_await asyncio::as_outcome(cancelled);
    co_await until_blocked(server, 0);
    words = {"RPUSH", "jobs", "second"};
    got = co_await server.ask(std::move(words));
    const bool right = got == ":1" && !outcome.has_value();
    claim(right, "one that is cancelled has gone, and takes none", got);
}

asyncio::coro<> be_thrown_out(redis& server, string address) {
    redis other = co_await open(address);
    std::vector<string> words = {"CLIENT", "ID"};
    const string id = co_await other.ask(std::move(words));
    words = {"CLIENT", "KILL", "ID", id.substr(1)};
    const string got = co_await server.ask(std::move(words));
    bool ended = false;
    try {
        co_await other.receive();
    } catch (const asyncio::incomplete_read_error&) { ended = true; }
    claim(got == ":1" && ended, "a client that the server throws out sees the end", got);
}

asyncio::coro<int> talk_to_redis(string address) {
    redis server = co_await open(address);
    std::vector<string> words = {"FLUSHALL"};
    const string empty = co_await server.ask(std::move(words));
    claim(empty == "OK", "all that was there is gone", empty);
    co_await speak(server);
    co_await send_much(server);
    co_await share_a_number(address);
    co_await listen_to_news(server, address);
    co_await wait_for_jobs(server, address);
    co_await be_thrown_out(server, address);
    co_return broken == 0 ? 0 : 1;
}

} // namespace

int main(int argc, char** argv) {
    const string what = argc == 3 ? argv[1] : "";
    if (what == "connect") return asyncio::run_main(connect(argv[2]));
    if (what == "serve") return asyncio::run_main(serve(argv[2]));
    if (what == "redis") return asyncio::run_main(talk_to_redis(argv[2]));
    std::fputs("usage: real_client connect|serve|redis ADDRESS\n", stderr);
    return 2;
}
