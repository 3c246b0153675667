// Cookbook: an HTTP/1.1 server for a folder.
//
//     g++ -std=c++20 -O2 -pthread -I. examples/cookbook/http_server.cpp -o httpd && ./httpd
//
// What it teaches: a protocol is a coroutine over a stream: read a request, answer it, and again.
// Time limits and a small reader keep clients that are slow or want too much from tying it up, and
// SIGTERM lets what is under way end. It knows keep-alive, pipelining, HEAD, ranges and, when told
// --writable, uploads (PUT, in chunks too). What begins with a dot or leads out of the folder is
// neither served nor written.
// Look at: the claims. Without --port it is its own client; with --port 8080 it serves FOLDER to
// browsers on this machine, with --host 0.0.0.0 to all.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"
#include <algorithm>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <random>
#include <unordered_set>
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
using namespace std::chrono_literals;
using std::string, std::string_view;

struct refusal { // thrown: how the answer begins
    string status, fields = "";
};
void require(bool holds, const char* status = "400 Bad Request") {
    if (!holds) throw refusal{status};
}
struct site {
    string root; // without symbolic links in it
    asyncio::duration head_time = 10s, idle_time = 60s; // how long clients may take
    bool writable = false; // by whoever comes, so it is off
    std::uint64_t largest_upload = 1024 * 1024 * 1024;
    bool stopping = false;
    unsigned uploads = 0; // so far
    std::unordered_set<asyncio::any_task> idle = {}; // connections between two requests
};

// ---- 1. What a request says --------------------------------------------------------------------
struct request {
    string method, target;
    std::map<string, string> fields; // by name in lower case
    bool keep_alive = false, has_body = false, chunked = false;
    bool has(const string& name) const { return fields.contains(name); }
    string field(const string& name) const { return has(name) ? fields.at(name) : ""; }
};
string lower(string_view text) {
    string out(text);
    for (char& c : out) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c + 'a' - 'A') : c;
    return out;
}
string_view cut(string_view& text, string_view end) { // takes what stands before `end` off `text`
    const string_view before = text.substr(0, text.find(end));
    text.remove_prefix(std::min(before.size() + end.size(), text.size()));
    return before;
}
std::optional<std::uint64_t> number(string_view text, int base = 10) { // with nothing around it
    std::uint64_t n = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), n, base);
    if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
    return n;
}

request parse(string_view head) {
    request r;
    const auto check = [](string_view text) {
        require(text.find_first_of(string_view("\r\n\0", 3)) == string::npos);
    };
    string_view line = cut(head, "\r\n");
    check(line);
    r.method = cut(line, " ");
    r.target = cut(line, " ");
    require(!r.method.empty() && !r.target.empty() && line.starts_with("HTTP/"));
    const bool modern = line == "HTTP/1.1";
    require(modern || line == "HTTP/1.0", "505 HTTP Version Not Supported");
    while (!(line = cut(head, "\r\n")).empty()) {
        check(line);
        require(line.find(':') != string::npos);
        const string name = lower(cut(line, ":"));
        require(!name.empty() && name.find_first_of(" \t") == string::npos);
        line.remove_prefix(std::min(line.find_first_not_of(" \t"), line.size()));
        r.fields[name] = line.substr(0, line.find_last_not_of(" \t") + 1);
    }
    require((!modern || r.has("host")) &&
            (!r.has("content-length") || number(r.field("content-length"))));
    const string connection = lower(r.field("connection"));
    r.chunked = r.has("transfer-encoding");
    // With two lengths, the server before this one may have believed the other.
    require(!r.chunked || !r.has("content-length"));
    require(!r.chunked || lower(r.field("transfer-encoding")) == "chunked", "501 Not Implemented");
    r.has_body = r.chunked || number(r.field("content-length")) > 0U;
    r.keep_alive = modern ? connection != "close" : connection == "keep-alive";
    return r;
}

string path_of(const site& s, string_view target) { // where "/a%20b?c" is
    target = target.substr(0, target.find('?'));
    string path(cut(target, "%"));
    for (; !target.empty(); path += cut(target, "%")) {
        const auto code = number(target.substr(0, 2), 16);
        require(code.has_value() && target.size() > 1);
        path += static_cast<char>(*code);
        target.remove_prefix(2);
    }
    std::error_code wrong;
    const string real = std::filesystem::weakly_canonical(s.root + path, wrong).string();
    const bool plain = path.starts_with('/') && path.find("/.") == string::npos &&
                       path.find("//") == string::npos && path.find('\0') == string::npos;
    require(plain && !wrong && (real + "/").starts_with(s.root + "/"), "404 Not Found");
    return path.ends_with('/') ? real + "/index.html" : real;
}

struct part {
    std::uint64_t first, size;
};
part part_of(string_view range, std::uint64_t size) { // of a file that long
    const part all{0, size};
    if (cut(range, "=") != "bytes" || range.find_first_not_of("0123456789-") != string::npos)
        return all; // none, several, or in other units
    const auto from = number(cut(range, "-")), to = number(range);
    if ((!from && !to) || (from && to && *to < *from)) return all;
    const std::uint64_t first = from ? *from : size - std::min(size, *to); // "-5": the last 5
    const string whole = "Content-Range: bytes */" + std::to_string(size) + "\r\n";
    if (first >= size) throw refusal{"416 Range Not Satisfiable", whole};
    return {first, from && to ? std::min(*to, size - 1) - first + 1 : size - first};
}

// ---- 2. Answers --------------------------------------------------------------------------------
string head_of(const request& r, string_view status, const string& fields, std::uint64_t length) {
    return "HTTP/1.1 " + string(status) + (r.keep_alive ? "\r\n" : "\r\nConnection: close\r\n") +
           fields + "Content-Length: " + std::to_string(length) + "\r\n\r\n";
}

string type_of(string_view path) {
    static const std::map<string_view, string> types = {
        {"html", "text/html; charset=utf-8"}, {"txt", "text/plain; charset=utf-8"},
        {"css", "text/css"}, {"js", "text/javascript"}, {"json", "application/json"},
        {"svg", "image/svg+xml"}, {"png", "image/png"}, {"jpg", "image/jpeg"}};
    const auto found = types.find(path.substr(path.rfind('.') + 1));
    return found == types.end() ? "application/octet-stream" : found->second;
}

struct opened_file {
    const int fd;
    explicit opened_file(const string& path) // O_NONBLOCK: it could be a pipe, and nobody there
        : fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)) {}
    opened_file(const opened_file&) = delete;
    ~opened_file() { if (fd >= 0) ::close(fd); }
};

asyncio::coro<> send_file(const site& s, const request& r, asyncio::stream_writer& writer) {
    const string path = path_of(s, r.target);
    const opened_file file(path);
    struct stat info{};
    require(file.fd >= 0 || errno != EMFILE, "503 Service Unavailable");
    require(file.fd >= 0 && ::fstat(file.fd, &info) == 0, "404 Not Found");
    const string there = r.target.substr(0, r.target.find('?')) + "/";
    if (S_ISDIR(info.st_mode)) // only below "folder/" are the names on a page relative to it
        throw refusal{"301 Moved Permanently", "Location: " + there + "\r\n"};
    require(S_ISREG(info.st_mode), "404 Not Found");
    const auto size = static_cast<std::uint64_t>(info.st_size);
    const bool whole = r.method == "HEAD" || r.has("if-range");
    const part p = part_of(whole ? "" : r.field("range"), size);
    string fields = "Accept-Ranges: bytes\r\nContent-Type: " + type_of(path) + "\r\n";
    if (p.size < size)
        fields += "Content-Range: bytes " + std::to_string(p.first) + "-" +
                  std::to_string(p.first + p.size - 1) + "/" + std::to_string(size) + "\r\n";
    writer.write(head_of(r, p.size < size ? "206 Partial Content" : "200 OK", fields, p.size));
    for (std::uint64_t sent = 0; sent < p.size && r.method != "HEAD";) {
        const auto piece =
            static_cast<std::ptrdiff_t>(std::min<std::uint64_t>(p.size - sent, 1024 * 1024));
        auto sending = writer.sendfile(file.fd, static_cast<std::int64_t>(p.first + sent), piece);
        const std::size_t n = co_await asyncio::wait_for(std::move(sending), s.idle_time);
        if (n == 0) throw std::runtime_error("the file has become shorter than was promised");
        sent += n;
    }
}

// ---- 3. Uploads --------------------------------------------------------------------------------
asyncio::coro<> receive_body(const site& s, const request& r, asyncio::stream_reader& reader,
                             asyncio::file& to) {
    std::uint64_t allowed = s.largest_upload;
    for (bool last = false; !last;) { // once, or for each chunk
        std::uint64_t size = 0;
        if (r.chunked) {
            const string line = co_await asyncio::wait_for(reader.readuntil("\r\n"), s.idle_time);
            const auto announced = number(line.substr(0, line.find_first_of("\r; ")), 16);
            require(announced.has_value());
            size = *announced;
            last = size == 0;
        } else {
            size = *number(r.field("content-length"));
            last = true;
        }
        require(size <= allowed, "413 Content Too Large");
        allowed -= size;
        while (size > 0) {
            const auto most = static_cast<std::ptrdiff_t>(std::min<std::uint64_t>(size, 65536));
            string piece = co_await asyncio::wait_for(reader.read(most), s.idle_time);
            if (piece.empty()) throw std::runtime_error("the client went away as it was sending");
            size -= piece.size();
            co_await to.write(std::move(piece));
        }
        if (r.chunked && !last) {
            const string end = co_await asyncio::wait_for(reader.readexactly(2), s.idle_time);
            require(end == "\r\n");
        }
    }
    string line = r.chunked ? "?" : "\r\n"; // fields may follow the last chunk
    for (int lines = 0; line != "\r\n"; ++lines) {
        require(lines < 100, "431 Request Header Fields Too Large");
        line = co_await asyncio::wait_for(reader.readuntil("\r\n"), s.idle_time);
    }
}

struct temporary { // is gone at the end, unless it got another name
    const string path;
    ~temporary() { std::remove(path.c_str()); }
};

asyncio::coro<> receive_file(site& s, const request& r, asyncio::stream_reader& reader,
                             asyncio::stream_writer& writer) {
    const string path = path_of(s, r.target);
    require(!r.has("content-range")); // that would be a part of a file
    require(r.chunked || r.has("content-length"), "411 Length Required");
    const auto length = number(r.field("content-length")).value_or(0);
    require(length <= s.largest_upload, "413 Content Too Large"); // before it is sent
    const string name = std::to_string(::getpid()) + "-" + std::to_string(++s.uploads);
    const temporary part{path.substr(0, path.rfind('/')) + "/.upload-" + name};
    bool there = false;
    try {
        asyncio::file to = co_await asyncio::file::open(part.path, "x");
        if (lower(r.field("expect")) == "100-continue") { // it waits for our consent
            writer.write("HTTP/1.1 100 Continue\r\n\r\n");
            co_await asyncio::wait_for(writer.drain(), s.idle_time);
        }
        co_await receive_body(s, r, reader, to);
        co_await to.close();
        there = std::filesystem::exists(path);
        std::filesystem::rename(part.path, path); // nobody sees half of it
    } catch (const std::system_error& e) { // no such folder, no right to write, ...
        const bool full = e.code() == std::errc::no_space_on_device;
        throw refusal{full ? "507 Insufficient Storage" : "409 Conflict"};
    }
    writer.write(head_of(r, there ? "200 OK" : "201 Created", "", 0));
}

// ---- 4. The server -----------------------------------------------------------------------------
struct idle_mark {
    site& s;
    const asyncio::any_task task = asyncio::current_task();
    explicit idle_mark(site& where) : s(where) { s.idle.insert(task); }
    ~idle_mark() { s.idle.erase(task); }
};

asyncio::coro<string> receive_head(site& s, asyncio::stream_reader& reader) { // empty: the end
    string head;
    {
        const idle_mark until_something_comes(s);
        head = co_await asyncio::wait_for(reader.read(1), s.idle_time);
    }
    if (head.empty()) co_return head;
    try {
        head += co_await asyncio::wait_for(reader.readuntil("\r\n\r\n"), s.head_time);
    } catch (const asyncio::timeout_error&) {
        throw refusal{"408 Request Timeout"};
    } catch (const asyncio::limit_overrun_error&) {
        throw refusal{"431 Request Header Fields Too Large"};
    }
    co_return head;
}

// False: nothing can follow on this connection.
asyncio::coro<bool> serve_request(site& s, asyncio::stream_reader& reader,
                                  asyncio::stream_writer& writer) {
    request r;
    refusal instead;
    try {
        const string head = co_await receive_head(s, reader);
        if (head.empty()) co_return false;
        r = parse(head);
        const bool get = r.method == "GET" || r.method == "HEAD";
        const bool put = r.method == "PUT" && s.writable;
        const string allowed = s.writable ? "Allow: GET, HEAD, PUT\r\n" : "Allow: GET, HEAD\r\n";
        if (!get && !put) throw refusal{"405 Method Not Allowed", allowed};
        r.keep_alive = r.keep_alive && !s.stopping && (put || !r.has_body);
        if (put) co_await receive_file(s, r, reader, writer);
        else co_await send_file(s, r, writer);
    } catch (const refusal& e) {
        instead = e;
    }
    if (!instead.status.empty()) {
        r.keep_alive = r.keep_alive && !r.has_body && !s.stopping; // its body was not read
        const string head = head_of(r, instead.status, instead.fields, instead.status.size());
        writer.write(head + (r.method == "HEAD" ? "" : instead.status));
    }
    co_await asyncio::wait_for(writer.drain(), s.idle_time);
    co_return r.keep_alive && !s.stopping;
}

asyncio::coro<> discard(asyncio::stream_reader& reader) { // what still comes
    for (string rest = "?"; !rest.empty();) rest = co_await reader.read(64 * 1024);
}

asyncio::coro<> serve_client(site& s, asyncio::stream_reader reader,
                             asyncio::stream_writer writer) {
    try {
        for (bool more = true; more;) more = co_await serve_request(s, reader, writer);
        writer.write_eof(); // closed with unread data, it would be reset, and with it the answer
        co_await asyncio::wait_for(discard(reader), 2s);
    } catch (const std::exception&) { writer.abort(); } // the client is gone, or too slow
}

asyncio::coro<asyncio::server> start(site& s, string host, int port) {
    rlimit files{}; // each connection is one, and so is what it gets
    if (::getrlimit(RLIMIT_NOFILE, &files) == 0) files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);
    const auto on_client = [&s](asyncio::stream_reader reader, asyncio::stream_writer writer) {
        return serve_client(s, std::move(reader), std::move(writer));
    };
    return asyncio::start_server(on_client, host, port,
                                 {.limit = 16 * 1024, .max_connections = 2000});
}

asyncio::coro<> stop(site& s, asyncio::server& server) {
    s.stopping = true;
    const auto idle = s.idle;
    for (asyncio::any_task connection : idle) connection.cancel();
    co_await server.drain(30s); // answers that are under way have that long to end
}

asyncio::coro<int> serve(site& s, string host, int port) {
    asyncio::server server = co_await start(s, host, port);
    auto told_to_stop = asyncio::create_task(asyncio::wait_signal(SIGTERM, SIGINT));
    co_await asyncio::sleep(0s); // from here on, signals are waited for
    std::printf("serving %s at http://%s:%d/ until SIGTERM or Ctrl-C\n", s.root.c_str(),
                host.c_str(), server.port());
    std::fflush(stdout);
    co_await told_to_stop;
    co_await stop(s, server);
    co_return 0;
}

// ---- 5. The program ----------------------------------------------------------------------------
int broken = 0; // claims that did not hold; with one, the program ends with 1
void claim(bool holds, const string& text) {
    const double seconds = asyncio::elapsed().total_seconds();
    std::printf("%5.2f s  %s %s\n", seconds, holds ? "holds: " : "BROKEN:", text.c_str());
    broken += holds ? 0 : 1;
}

asyncio::coro<string> talk(int port, string words) { // what comes back, up to the end
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    writer.write(words);
    co_return co_await reader.read();
}

asyncio::coro<int> try_it(site& s, std::size_t size) {
    const string folder = s.root + "/httpd-" + std::to_string(std::random_device()());
    s.root = folder + "/root";
    std::filesystem::create_directories(s.root + "/sub");
    std::filesystem::create_symlink("../secret", s.root + "/link");
    co_await asyncio::write_file(folder + "/secret", "it is 42");
    co_await asyncio::write_file(s.root + "/digits.txt", "0123456789");
    co_await asyncio::write_file(s.root + "/sub/index.html", "<h1>Welcome</h1>");
    co_await asyncio::write_file(s.root + "/large", string(size, 'x'));
    asyncio::server server = co_await start(s, "127.0.0.1", 0);
    const int port = server.port();

    const string http = " HTTP/1.1\r\nHost: here\r\n", end = "Connection: close\r\n\r\n";
    const string get = "GET /digits.txt" + http, put = "PUT /new" + http, much(20'000, 'x');
    const struct { string what, request, status, last; } checks[] = {
        {"a file", get, "200", "\r\n\r\n0123456789"},
        {"a part of it", get + "Range: bytes=2-4\r\n", "206", "\r\n\r\n234"},
        {"its last 3 bytes", get + "Range: bytes=-3\r\n", "206", "\r\n\r\n789"},
        {"bytes after its end", get + "Range: bytes=10-\r\n", "416", ""},
        {"HEAD: all but the file", "HEAD /digits.txt" + http, "200", "Length: 10\r\n\r\n"},
        {"several requests at once", get + "\r\n" + get + "\r\nGET /s%75b/?a=b" + http, "200",
         "<h1>Welcome</h1>"},
        {"a folder without its slash", "GET /sub" + http, "301", ""},
        {"the way up", "GET /../secret" + http, "404", ""},
        {"the way up in disguise", "GET /sub/%2e%2E/%2e./secret" + http, "404", ""},
        {"a link that leads out", "GET /link" + http, "404", ""},
        {"an upload", put + "Expect: 100-continue\r\nContent-Length: 5\r\n", "405", ""},
        {"a head without an end", get + "A: " + much, "431", ""}};
    for (const auto& [what, request, status, last] : checks) {
        const string answer = co_await talk(port, request + end);
        const bool right = answer.starts_with("HTTP/1.1 " + status + " ") && answer.ends_with(last);
        claim(right, what + ": " + answer.substr(9, answer.find('\r') - 9));
    }
    s.writable = true;
    const string chunked = put + "Transfer-Encoding: chunked\r\n\r\n";
    const string chunks = "3\r\n012\r\n2;a=b\r\n34\r\n0\r\n\r\n";
    const string again = co_await talk(port, chunked + chunks + "GET /new" + http + end);
    claim(again.starts_with("HTTP/1.1 201 ") && again.ends_with("\r\n\r\n01234"),
          "an upload in chunks where that is allowed, and its download: " + again.substr(9, 11));
    s.head_time = 200ms;
    const string late = co_await talk(port, "GET /dig");
    claim(late.starts_with("HTTP/1.1 408 "), "a request that does not go on: 408");

    s.head_time = 10s;

    // Two clients when the server is told to stop: one has its answer, one gets it slowly.
    auto [idle_reader, idle_writer] = co_await asyncio::open_connection("127.0.0.1", port);
    idle_writer.write(get + "\r\n");
    co_await idle_reader.readuntil("0123456789");
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", port);
    writer.write("GET /large" + http + "\r\n");
    string download = co_await reader.readuntil("\r\n\r\n");
    while (s.idle.empty()) co_await asyncio::sleep(1ms); // until the first one is idle again
    auto stopping = asyncio::create_task(stop(s, server));
    const string rest = co_await idle_reader.read();
    claim(rest.empty() && !stopping.done(), "at the end: who is idle, is let go");
    download = co_await reader.read();
    co_await stopping;
    claim(download.size() == size, "a download goes on to its last byte");
    std::filesystem::remove_all(folder);
    co_return broken == 0 ? 0 : 1;
}

int main(int argc, char** argv) {
    string folder = ".", host = "127.0.0.1";
    std::size_t size = 64 * 1024 * 1024;
    std::optional<std::uint64_t> port;
    bool alone = true, writable = false, good = true;
    for (int i = 1; i < argc && good; ++i) {
        const string_view word = argv[i];
        if (word == "--quick") size = 16 * 1024 * 1024;
        else if (word == "--writable") writable = true;
        else if (word == "--port" && i + 1 < argc) {
            port = number(argv[++i]);
            alone = false;
            good = port && *port < 65536;
        } else if (word == "--host" && i + 1 < argc) host = argv[++i];
        else if (word.starts_with('-')) good = false;
        else folder = word;
    }
    if (!good) {
        const bool help = argc == 2 && string_view(argv[1]) == "--help";
        std::fputs("Serves the files of a folder over HTTP.\n"
                   "usage: httpd [--quick] [--port N] [--host ADDRESS] [--writable] [FOLDER]\n",
                   help ? stdout : stderr);
        return help ? 0 : 2;
    }
    if (alone) folder = std::filesystem::temp_directory_path();
    site s{std::filesystem::canonical(folder)};
    s.writable = writable;
    return asyncio::run_main(alone ? try_it(s, size) : serve(s, host, static_cast<int>(*port)));
}
// Output:
//  0.41 s  holds:  a file: 200 OK
//  0.41 s  holds:  a part of it: 206 Partial Content
//  0.41 s  holds:  its last 3 bytes: 206 Partial Content
//  0.41 s  holds:  bytes after its end: 416 Range Not Satisfiable
//  0.41 s  holds:  HEAD: all but the file: 200 OK
//  0.41 s  holds:  several requests at once: 200 OK
//  0.41 s  holds:  a folder without its slash: 301 Moved Permanently
//  0.41 s  holds:  the way up: 404 Not Found
//  0.41 s  holds:  the way up in disguise: 404 Not Found
//  0.41 s  holds:  a link that leads out: 404 Not Found
//  0.41 s  holds:  an upload: 405 Method Not Allowed
//  0.41 s  holds:  a head without an end: 431 Request Header Fields Too Large
//  0.41 s  holds:  an upload in chunks where that is allowed, and its download: 201 Created
//  0.61 s  holds:  a request that does not go on: 408
//  0.61 s  holds:  at the end: who is idle, is let go
//  3.11 s  holds:  a download goes on to its last byte
