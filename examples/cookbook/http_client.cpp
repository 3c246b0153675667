// Cookbook: pages over HTTP, many at once, and connections that are used again.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/http_client.cpp -o get && ./get
//
// What it teaches: readexactly(), readline() and read() are made for what protocols do. A limit
// around all of it covers the connect, too; map() fetches many pages, but only so many at a time.
// Look at: each failure costs its own page only. Without a URL it asks a server of its own; try
// `./get http://example.org/ http://localhost:8080/` (https: see https_client.cpp).
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <string>
#include <vector>
using namespace std::chrono_literals;
using std::string;

int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const string& text) {
    std::printf("%s %s\n", holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

struct response {
    int status = 0;
    std::map<string, string> fields; // by name in lower case
    string body;
};
asyncio::coro<string> read_chunks(asyncio::stream_reader& reader) { // "5\r\nhello\r\n0\r\n\r\n"
    string body, line;
    for (long size = 1; size > 0;) {
        line = co_await reader.readline();
        size = std::strtol(line.c_str(), nullptr, 16);
        if (line.empty() || size < 0) throw std::runtime_error("broken chunks");
        body += co_await reader.readexactly(size);
        if (size > 0) co_await reader.readline();
    }
    while (line != "\r\n" && !line.empty()) line = co_await reader.readline();
    co_return body;
}

asyncio::coro<response> receive(asyncio::stream_reader& reader) {
    response r;
    string line = co_await reader.readline();
    if (std::sscanf(line.c_str(), "HTTP/1.%*d %d", &r.status) != 1)
        throw std::runtime_error(line.empty() ? "no answer" : "an answer that is not HTTP");
    for (;;) {
        line = co_await reader.readline();
        const std::size_t colon = line.find(':'), start = line.find_first_not_of(" \t", colon + 1);
        if (colon == string::npos) break; // the empty line
        string name = line.substr(0, colon);
        for (char& c : name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 'a' - 'A') : c;
        r.fields[name] = line.substr(start, line.find_last_not_of("\r\n ") + 1 - start);
    }
    if (r.status / 100 == 1) co_return co_await receive(reader); // such as 103: the answer follows
    const string length = r.fields["content-length"];
    if (r.status == 204 || r.status == 304) co_return r; // these have no body
    if (r.fields["transfer-encoding"] == "chunked") r.body = co_await read_chunks(reader);
    else if (!length.empty()) r.body = co_await reader.readexactly(std::atol(length.c_str()));
    else {
        r.body = co_await reader.read();
        r.fields["connection"] = "close";
    }
    co_return r;
}

class client {
public:
    int connects = 0;
    asyncio::coro<response> get(string url) {
        if (!url.starts_with("http://")) throw std::runtime_error("not an http:// URL");
        const string host = url.substr(7, url.find('/', 7) - 7), path = url.substr(7 + host.size());
        const string request =
            "GET " + (path.empty() ? "/" : path) + " HTTP/1.1\r\nHost: " + host + "\r\n\r\n";
        const auto known = idle_.find(host);
        if (known != idle_.end()) {
            auto connection = std::move(known->second);
            idle_.erase(known);
            auto r = co_await asyncio::as_outcome(exchange(std::move(connection), host, request));
            if (r.has_value()) co_return std::move(r).value();
        } // the server may have closed it meanwhile; then over a new one
        ++connects;
        const std::size_t colon = host.rfind(':');
        const int port = colon == string::npos ? 80 : std::atoi(host.c_str() + colon + 1);
        auto connection = co_await asyncio::open_connection(host.substr(0, colon), port);
        co_return co_await exchange(std::move(connection), host, request);
    }
private:
    asyncio::coro<response> exchange(asyncio::stream_pair connection, string host, string request) {
        connection.second.write(request);
        response r = co_await receive(connection.first);
        if (r.fields["connection"] != "close") idle_.emplace(host, std::move(connection));
        co_return r;
    }
    std::multimap<string, asyncio::stream_pair> idle_; // connections to use again, by host
};

// What becomes of each URL: its status and size, or the error.
asyncio::coro<std::vector<string>> get_all(client& c, std::vector<string> urls) {
    auto get_one = [&c](string url) -> asyncio::coro<string> {
        string result;
        try {
            const response r = co_await asyncio::wait_for(c.get(url), 5s);
            result = std::to_string(r.status) + ", " + std::to_string(r.body.size()) + " bytes";
        } catch (const std::exception& e) { result = e.what(); }
        const double seconds = asyncio::elapsed().total_seconds();
        std::printf("%5.2f s  %s: %s\n", seconds, url.c_str(), result.c_str());
        co_return result;
    };
    co_return co_await asyncio::map(urls, get_one, {.limit = 10});
}

const std::map<string, string> pages = { // of a server of our own
    {"/", "200 OK\r\nContent-Length: 7\r\n\r\nwelcome"},
    {"/chunks", "200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n"},
    {"/end", "200 OK\r\nConnection: close\r\n\r\nall up to the end"},
    {"/broken", "200 OK\r\nConnection: close\r\nContent-Length: 99\r\n\r\nless"}};

asyncio::coro<> serve(asyncio::stream_reader reader, asyncio::stream_writer writer) {
    try {
        for (string page; page.find("close") == string::npos;) {
            const string head = co_await reader.readuntil("\r\n\r\n");
            page = pages.at(head.substr(4, head.find(' ', 4) - 4));
            writer.write("HTTP/1.1 " + page);
        }
    } catch (const std::exception&) {} // the client has gone
}

asyncio::coro<int> try_it() {
    auto server = co_await asyncio::start_server(serve, "127.0.0.1", 0);
    auto refusing = co_await asyncio::start_server(serve, "127.0.0.1", 0);
    const string here = "http://127.0.0.1:" + std::to_string(server.port());
    const string nobody = "http://127.0.0.1:" + std::to_string(refusing.port());
    refusing.close();
    client c;
    const std::vector<string> urls = {here, here + "/chunks", here + "/end",
                                      here + "/broken", nobody, "ftp://here"};
    const std::vector<string> got = co_await get_all(c, urls);
    claim(got[0] == "200, 7 bytes" && got[1] == "200, 6 bytes" && got[2] == "200, 17 bytes",
          "a length may be said before, come in chunks, or show at the end");
    claim(std::none_of(got.begin() + 3, got.end(), [](auto& text) { return text[0] == '2'; }),
          "failures concern their own page only");
    const int before = c.connects;
    for (int i = 0; i < 10; ++i) co_await c.get(here);
    claim(c.connects == before, "ten more pages needed no more connections");
    server.abort_clients();
    const response r = co_await c.get(here);
    claim(r.body == "welcome", "nor does it matter that the server has closed them");
    co_return broken == 0 ? 0 : 1;
}

asyncio::coro<> get_these(std::vector<string> urls) {
    client c;
    co_await get_all(c, urls);
}
int main(int argc, char** argv) {
    const string word = argc > 1 ? argv[1] : "--quick";
    if (word == "--quick") return asyncio::run_main(try_it());
    if (word[0] != '-') return asyncio::run_main(get_these({argv + 1, argv + argc}));
    std::fputs("Gets pages over HTTP, many at once.\nusage: get [--quick] [URL...]\n",
               word == "--help" ? stdout : stderr);
    return word == "--help" ? 0 : 2;
}
// Output:
//  0.00 s  ftp://here: not an http:// URL
//  0.00 s  http://127.0.0.1:34169: connect to 127.0.0.1:34169: Connection refused
//  0.01 s  http://127.0.0.1:38387: 200, 7 bytes
//  0.01 s  http://127.0.0.1:38387/chunks: 200, 6 bytes
//  0.01 s  http://127.0.0.1:38387/end: 200, 17 bytes
//  0.01 s  http://127.0.0.1:38387/broken: asyncio::stream_reader: the stream ended after 4 bytes, e
// holds:  a length may be said before, come in chunks, or show at the end
// holds:  failures concern their own page only
// holds:  ten more pages needed no more connections
// holds:  nor does it matter that the server has closed them
