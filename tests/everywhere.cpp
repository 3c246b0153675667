// What every system does alike, tested with nothing but the library itself: connections,
// datagrams, servers, files and signals. Other programs test more, with calls that only some
// systems have; this one builds where those do not.
#include "support.hpp"

#include <cerrno>
#include <csignal>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

namespace {

struct stream_ends {
    stream_ends() = default;
    asyncio::socket near_end;
    asyncio::socket far_end;
};

asyncio::coro<stream_ends> connected() {
    asyncio::socket listener = asyncio::socket::tcp();
    listener.bind(asyncio::address("127.0.0.1", 0));
    listener.listen();
    stream_ends ends;
    ends.near_end = asyncio::socket::tcp();
    co_await ends.near_end.connect(listener.local_address());
    ends.far_end = co_await listener.accept();
    co_return ends;
}

// A port at which nobody listens.
asyncio::address nobody() {
    asyncio::socket taken = asyncio::socket::tcp();
    taken.bind(asyncio::address("127.0.0.1", 0));
    return taken.local_address();
}

// The errno value of what an await throws; 0 for none, -1 for what is no std::system_error.
template <class A>
asyncio::coro<int> code_thrown_by(A work) {
    try {
        co_await std::move(work);
        co_return 0;
    } catch (const std::system_error& error) {
        co_return error.code().value();
    } catch (const std::exception&) {
        co_return -1;
    }
}

asyncio::coro<std::string> receive(asyncio::socket* from) {
    std::string text = co_await from->recv(100);
    co_return text;
}

asyncio::coro<> accept_one(asyncio::socket* from) {
    const asyncio::socket accepted = co_await from->accept();
}
asyncio::coro<> connect_to(asyncio::socket* from, asyncio::address to) {
    co_await from->connect(to);
}

asyncio::coro<> echo(asyncio::stream_reader reader, asyncio::stream_writer writer) {
    for (;;) {
        const std::string line = co_await reader.readline();
        if (line.empty()) break;
        writer.write(line);
        co_await writer.drain();
    }
    writer.close();
    co_await writer.wait_closed();
}

std::string pattern(std::size_t size) {
    std::string text(size, '\0');
    for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 7 % 251);
    return text;
}

} // namespace

TEST_SUITE("connections") {

ASYNC_TEST_CASE_REAL("bytes go both ways, and the end of a stream is no bytes") {
    stream_ends ends = co_await connected();
    co_await ends.near_end.sendall("there");
    const std::string there = co_await ends.far_end.recv(100);
    CHECK(there == "there");
    co_await ends.far_end.sendall("and back");
    const std::string back = co_await ends.near_end.recv(100);
    CHECK(back == "and back");
    CHECK(ends.near_end.remote_address() == ends.far_end.local_address());
    ends.near_end.shutdown(asyncio::socket::shut_wr);
    const std::string end = co_await ends.far_end.recv(100);
    CHECK(end.empty());
    co_await ends.far_end.sendall("still open");
    const std::string more = co_await ends.near_end.recv(100);
    CHECK(more == "still open");
}

ASYNC_TEST_CASE_REAL("much more than a buffer holds arrives whole, in order") {
    stream_ends ends = co_await connected();
    const std::string sent = pattern(4'000'000);
    const auto send_it = [&]() -> asyncio::coro<> {
        co_await ends.near_end.sendall(sent);
        ends.near_end.close();
    };
    const auto sending = asyncio::create_task(send_it);
    std::string got;
    for (;;) {
        const std::string piece = co_await ends.far_end.recv(64 * 1024);
        if (piece.empty()) break;
        got += piece;
    }
    co_await sending;
    CHECK(got == sent);
}

ASYNC_TEST_CASE_REAL("a connection to nobody is refused, and the error says by whom") {
    const asyncio::address where = nobody();
    asyncio::socket from = asyncio::socket::tcp();
    std::string text;
    std::error_code code;
    try {
        co_await from.connect(where);
    } catch (const std::system_error& error) {
        text = error.what();
        code = error.code();
    }
    CHECK(code == std::errc::connection_refused);
    CHECK(code.value() == ECONNREFUSED);
    CHECK(text == "connect to " + where.to_string() + ": Connection refused");
}

ASYNC_TEST_CASE_REAL("a receive that was cancelled has taken nothing") {
    stream_ends ends = co_await connected();
    for (int i = 0; i < 20; ++i) {
        auto waiting = asyncio::create_task(receive(&ends.far_end));
        co_await support::turns(2);
        waiting.cancel();
        CHECK_AWAIT_THROWS_AS(waiting, asyncio::cancelled_error);
    }
    co_await ends.near_end.sendall("all of it");
    const std::string got = co_await ends.far_end.recv(100);
    CHECK(got == "all of it");
}

ASYNC_TEST_CASE_REAL("an accept that was cancelled leaves the connection to the next one") {
    asyncio::socket listener = asyncio::socket::tcp();
    listener.bind(asyncio::address("127.0.0.1", 0));
    listener.listen();
    auto waiting = asyncio::create_task(accept_one(&listener));
    co_await support::turns(2);
    waiting.cancel();
    CHECK_AWAIT_THROWS_AS(waiting, asyncio::cancelled_error);
    asyncio::socket from = asyncio::socket::tcp();
    co_await from.connect(listener.local_address());
    asyncio::socket accepted = co_await listener.accept();
    CHECK(accepted.remote_address() == from.local_address());
}

ASYNC_TEST_CASE_REAL("closing a socket ends all that waits for it, with one error") {
    stream_ends ends = co_await connected();
    asyncio::socket listener = asyncio::socket::tcp();
    listener.bind(asyncio::address("127.0.0.1", 0));
    listener.listen();
    const auto a = asyncio::create_task(code_thrown_by(receive(&ends.far_end)));
    const auto b = asyncio::create_task(code_thrown_by(receive(&ends.far_end)));
    const auto c = asyncio::create_task(code_thrown_by(accept_one(&listener)));
    co_await support::turns(3);
    ends.far_end.close();
    listener.close();
    const int first = co_await a;
    const int second = co_await b;
    const int third = co_await c;
    CHECK(first == EBADF);
    CHECK(second == EBADF);
    CHECK(third == EBADF);
    const int later = co_await code_thrown_by(receive(&ends.far_end));
    CHECK(later == EBADF);
    const std::string end = co_await ends.near_end.recv(100);
    CHECK(end.empty());
}

TEST_CASE("a loop that goes while sockets wait takes nothing with it that is still needed") {
    std::optional<stream_ends> ends;
    {
        asyncio::event_loop loop;
        ends.emplace(loop.run_until_complete(connected()));
        loop.create_task(receive(&ends->far_end));
        for (int i = 0; i < 3; ++i) loop.run_once();
    }
    CHECK(ends->far_end.fileno() >= 0);
}

ASYNC_TEST_CASE_REAL("connects that are cancelled half way leave no trace") {
    asyncio::socket listener = asyncio::socket::tcp();
    listener.bind(asyncio::address("127.0.0.1", 0));
    listener.listen();
    for (int i = 0; i < 20; ++i) {
        asyncio::socket from = asyncio::socket::tcp();
        auto connecting = asyncio::create_task(connect_to(&from, listener.local_address()));
        co_await asyncio::sleep(0s);
        connecting.cancel();
        from.close();
        const auto ended = co_await asyncio::as_outcome(connecting);
        CHECK(ended.has_value() == !connecting.cancelled());
    }
    asyncio::socket last = asyncio::socket::tcp();
    co_await last.connect(listener.local_address());
    CHECK(last.remote_address() == listener.local_address());
}

} // TEST_SUITE

TEST_SUITE("servers") {

ASYNC_TEST_CASE_REAL("hundreds of connections are served at the same time") {
#if defined(_WIN32)
    constexpr std::size_t count = 1000;
#else
    constexpr std::size_t count = 400; // both ends are here, and 1024 descriptors are usual
#endif
    asyncio::server server =
        co_await asyncio::start_server(echo, "127.0.0.1", 0, {.backlog = 1000});
    std::vector<asyncio::stream_reader> readers;
    std::vector<asyncio::stream_writer> writers;
    for (std::size_t i = 0; i < count; ++i) {
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
        readers.push_back(std::move(reader));
        writers.push_back(std::move(writer));
    }
    for (std::size_t i = 0; i < count; ++i) writers[i].write(std::to_string(i) + "\n");
    std::size_t right = 0;
    for (std::size_t i = 0; i < count; ++i) {
        const std::string line = co_await readers[i].readline();
        if (line == std::to_string(i) + "\n") ++right;
    }
    CHECK(right == count);
    for (asyncio::stream_writer& writer : writers) writer.close();
    server.close();
    co_await server.wait_closed();
}

ASYNC_TEST_CASE_REAL("names are looked up, and a server is found by one") {
    asyncio::server server = co_await asyncio::start_server(echo, "localhost", 0);
    auto [reader, writer] = co_await asyncio::open_connection("localhost", server.port());
    writer.write("hello\n");
    const std::string line = co_await reader.readline();
    CHECK(line == "hello\n");
    writer.close();
    co_await writer.wait_closed();
    bool unknown = false;
    try {
        co_await asyncio::getaddrinfo("no-such-host.invalid", "80");
    } catch (const std::system_error& error) {
        unknown = error.code().category() == asyncio::getaddrinfo_category();
    }
    CHECK(unknown);
}

ASYNC_TEST_CASE_REAL("a slow reader stops a writer, until it reads") {
    std::size_t got = 0;
    const auto slow = [&](asyncio::stream_reader reader,
                          asyncio::stream_writer writer) -> asyncio::coro<> {
        co_await asyncio::sleep(10ms);
        for (;;) {
            const std::string piece = co_await reader.read(64 * 1024);
            if (piece.empty()) break;
            got += piece.size();
        }
        writer.close();
    };
    asyncio::server server = co_await asyncio::start_server(slow, "127.0.0.1", 0);
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
    const std::string piece = pattern(100'000);
    for (int i = 0; i < 100; ++i) {
        writer.write(piece);
        co_await writer.drain();
        CHECK(writer.get_write_buffer_size() <= 64 * 1024 + piece.size());
    }
    writer.write_eof();
    const std::string end = co_await reader.read();
    CHECK(end.empty());
    CHECK(got == 100 * piece.size());
}

} // TEST_SUITE

TEST_SUITE("datagrams") {

ASYNC_TEST_CASE_REAL("a datagram arrives as a whole, with its sender, or cut and marked") {
    asyncio::socket here = asyncio::socket::udp();
    asyncio::socket there = asyncio::socket::udp();
    here.bind(asyncio::address("127.0.0.1", 0));
    there.bind(asyncio::address("127.0.0.1", 0));
    co_await here.sendto("one", there.local_address());
    co_await here.sendto("", there.local_address());
    co_await here.sendto("three and more", there.local_address());
    const asyncio::datagram one = co_await there.recvfrom(100);
    const asyncio::datagram two = co_await there.recvfrom(100);
    const asyncio::datagram three = co_await there.recvfrom(5);
    CHECK(one.data == "one");
    CHECK(one.from == here.local_address());
    CHECK_FALSE(one.truncated);
    CHECK(two.data.empty());
    CHECK(three.data == "three");
    CHECK(three.truncated);
}

ASYNC_TEST_CASE_REAL("an endpoint that nobody listens to does not fail others' datagrams") {
    asyncio::datagram_endpoint a =
        co_await asyncio::create_datagram_endpoint({.local_addr = {"127.0.0.1", 0}});
    asyncio::datagram_endpoint b =
        co_await asyncio::create_datagram_endpoint({.local_addr = {"127.0.0.1", 0}});
    a.sendto("to nobody", nobody());
    b.sendto("to a", a.sockname());
    const asyncio::datagram got = co_await a.recvfrom();
    CHECK(got.data == "to a");
    CHECK(got.from == b.sockname());
    a.close();
    b.close();
    co_await a.wait_closed();
    co_await b.wait_closed();
}

} // TEST_SUITE

TEST_SUITE("watched sockets") {

ASYNC_TEST_CASE_REAL("a reader is told of bytes again and again until they are read") {
    stream_ends ends = co_await connected();
    const int number = ends.far_end.fileno();
    asyncio::event_loop& loop = asyncio::get_running_loop();
    int told = 0;
    const asyncio::future<void> enough = asyncio::create_future<void>();
    loop.add_reader(number, [&] {
        if (++told == 3) enough.set_result();
    });
    co_await ends.near_end.sendall("x");
    co_await enough;
    CHECK(loop.remove_reader(number));
    CHECK_FALSE(loop.remove_reader(number));
    const int before = told;
    co_await support::turns(5);
    CHECK(told == before);
    const std::string got = co_await ends.far_end.recv(10);
    CHECK(got == "x");
}

} // TEST_SUITE

#if !defined(ASYNCIO_NO_THREADS) // which read and write them

TEST_SUITE("files") {

ASYNC_TEST_CASE("a file is written, replaced, appended to and read") {
    const std::filesystem::path folder =
        std::filesystem::temp_directory_path() / "asyncio-everywhere";
    std::filesystem::create_directories(folder);
    const std::string path = (folder / "notes \xc3\xa4.txt").string();
    co_await asyncio::write_file(path, "one\r\ntwo\n");
    co_await asyncio::write_file(path, "three\r\n\x1a more\n", {.atomic = true});
    asyncio::file more = co_await asyncio::file::open(path, "a");
    co_await more.write("end");
    co_await more.close();
    const std::string text = co_await asyncio::read_file(path);
    CHECK(text == "three\r\n\x1a more\nend");
    asyncio::file lines = co_await asyncio::file::open(path);
    const std::string first = co_await lines.readline();
    CHECK(first == "three\r\n");
    const std::int64_t place = co_await lines.seek(-3, asyncio::seek_from::end);
    CHECK(place == static_cast<std::int64_t>(text.size()) - 3);
    const std::string last = co_await lines.read();
    CHECK(last == "end");
    co_await lines.close();
    const int missing =
        co_await code_thrown_by(asyncio::read_file((folder / "missing").string()));
    CHECK(missing == ENOENT);
    std::filesystem::remove_all(folder);
}

} // TEST_SUITE

#endif

TEST_SUITE("signals") {

TEST_CASE("Ctrl-C cancels main, which may clean up; run() throws keyboard_interrupt") {
    bool cleaned_up = false;
    const auto before = std::signal(SIGINT, SIG_DFL);
    const auto main = [&]() -> asyncio::coro<> {
        asyncio::get_running_loop().call_later(1ms, [] { std::raise(SIGINT); });
        try {
            co_await asyncio::sleep(1h);
        } catch (const asyncio::cancelled_error&) {
            cleaned_up = true;
            throw;
        }
    };
    CHECK_THROWS_AS(asyncio::run(main()), asyncio::keyboard_interrupt);
    CHECK(cleaned_up);
    const bool as_before = std::signal(SIGINT, before) == SIG_DFL;
    CHECK(as_before);
}

TEST_CASE("a handler of the loop's gets each signal that comes, and then no more") {
    const auto before = std::signal(SIGTERM, SIG_IGN);
    int handled = 0;
    const auto main = [&]() -> asyncio::coro<> {
        asyncio::event_loop& loop = asyncio::get_running_loop();
        loop.add_signal_handler(SIGTERM, [&] { ++handled; });
        std::raise(SIGTERM);
        co_await support::turns(3);
        std::raise(SIGTERM);
        co_await support::turns(3);
        CHECK(loop.remove_signal_handler(SIGTERM));
    };
    asyncio::run(main());
    std::raise(SIGTERM);
    CHECK(handled == 2);
    const bool as_before = std::signal(SIGTERM, before) == SIG_IGN;
    CHECK(as_before);
}

} // TEST_SUITE

#if defined(_WIN32)

TEST_SUITE("what Windows does not have") {

std::string refusal(const std::function<void()>& call) {
    try {
        call();
    } catch (const std::system_error& error) {
        if (error.code() == std::errc::not_supported) return error.what();
    }
    return "(not refused)";
}

TEST_CASE("it is refused by name") {
    const std::string end = " is not supported on Windows: Operation not supported";
    const auto signal = []() -> asyncio::coro<> {
        const std::vector<std::string> program = support::as_child({"announce"});
        asyncio::process child = co_await asyncio::create_subprocess_exec(
            program, {.stdin_ = asyncio::stdio::pipe, .stdout_ = asyncio::stdio::devnull});
        child.send_signal(SIGINT);
    };
    const auto forked = []() -> asyncio::coro<> {
        const int one = co_await asyncio::fork_job([] { return 1; });
        CHECK(one == 1);
    };
    const auto unix_server = []() -> asyncio::coro<> {
        co_await asyncio::start_unix_server(echo, "x");
    };
    const auto unix_client = []() -> asyncio::coro<> {
        co_await asyncio::open_unix_connection("x");
    };
    CHECK(refusal([&] { asyncio::run(signal()); }) ==
          "asyncio::process::send_signal: signal 2" + end);
    CHECK(refusal([&] { asyncio::run(forked()); }) == "asyncio::fork_job" + end);
    CHECK(refusal([] {
              const asyncio::isolated_executor pool(1, {.start = asyncio::start_method::fork});
          }) == "asyncio::isolated_executor: start_method::fork" + end);
    CHECK(refusal([&] { asyncio::run(unix_server()); }) == "asyncio::start_unix_server" + end);
    CHECK(refusal([&] { asyncio::run(unix_client()); }) == "asyncio: a Unix socket" + end);
    CHECK(refusal([] { static_cast<void>(asyncio::socket::unix_stream()); }) ==
          "asyncio: a Unix socket" + end);
    CHECK(refusal([] { asyncio::event_loop().add_signal_handler(1, [] {}); }) ==
          "asyncio::event_loop::add_signal_handler: signal 1" + end);
}

} // TEST_SUITE

#endif
