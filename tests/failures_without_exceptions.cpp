// What the system and a peer can cause, where nothing throws: each such failure arrives at the
// await, and the program goes on. Built with -fno-exceptions and -fno-rtti, with a library of its
// own; hence doctest's main() and the frame of a test case are here as well.
#define DOCTEST_CONFIG_IMPLEMENT
#define DOCTEST_CONFIG_NO_EXCEPTIONS_BUT_WITH_ALL_ASSERTS
#include "asyncio.hpp"

#include <doctest/doctest.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <netinet/in.h>
#include <optional>
#include <string>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <system_error>
#include <unistd.h>
#include <utility>
#include <variant>
#include <vector>

#if !defined(ASYNCIO_NO_EXCEPTIONS)
#error "this file is for -fno-exceptions"
#endif

using namespace std::chrono_literals;

namespace {

asyncio::coro<> watched(asyncio::coro<> (*body)()) {
    const asyncio::outcome<void> ended = co_await asyncio::as_outcome(body());
    const std::string error = ended ? "" : ended.error().what();
    CHECK_MESSAGE(ended.has_value(), "the test's body failed: ", error);
}

// A test case whose body is a coroutine, on the real clock: others are asked here.
#define FAILURE_CASE(name) FAILURE_CASE_OF(DOCTEST_ANONYMOUS(failure_case_), name)
#define FAILURE_CASE_OF(body, name)                                                                \
    asyncio::coro<> body();                                                                        \
    TEST_CASE(name) { asyncio::run(watched(&body)); }                                              \
    asyncio::coro<> body()

template <class T>
bool failed_with(const asyncio::outcome<T>& got, std::errc code) {
    if (got) return false;
    const bool right = got.error().code() == code;
    if (!right) MESSAGE("it failed with: ", std::string(got.error().what()));
    return right;
}

// The error, if it is an E.
template <class E, class T>
const E* failed_as(const asyncio::outcome<T>& got) {
    return got ? nullptr : asyncio::detail::exception_cast<E>(got.error().exception());
}

template <class T>
bool says(const asyncio::outcome<T>& got, std::string_view part) {
    return !got && std::string_view(got.error().what()).find(part) != std::string_view::npos;
}

const asyncio::address loopback("127.0.0.1", 0);

// A port that nobody listens on, and that nobody else gets.
class deaf_port {
public:
    deaf_port() : socket_(asyncio::socket::tcp()) { socket_.bind(loopback); }
    asyncio::address where() const { return socket_.local_address(); }
    int number() const { return where().port(); }

private:
    asyncio::socket socket_;
};

// From here on the system gives this process no descriptors.
class no_descriptors {
public:
    no_descriptors() {
        ::getrlimit(RLIMIT_NOFILE, &before_);
        rlimit none = before_;
        none.rlim_cur = 0;
        ::setrlimit(RLIMIT_NOFILE, &none);
    }
    no_descriptors(const no_descriptors&) = delete;
    no_descriptors& operator=(const no_descriptors&) = delete;
    ~no_descriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

private:
    rlimit before_ = {};
};

class scratch_folder {
public:
    scratch_folder() {
        char name[] = "/tmp/asyncio-failures-XXXXXX";
        path_ = ::mkdtemp(name);
    }
    scratch_folder(const scratch_folder&) = delete;
    scratch_folder& operator=(const scratch_folder&) = delete;
    ~scratch_folder() {
        for (const std::string& file : files_) ::unlink(file.c_str());
        ::rmdir(path_.c_str());
    }
    const std::string& path() const { return path_; }
    std::string file(const std::string& name) {
        files_.push_back(path_ + '/' + name);
        return files_.back();
    }

private:
    std::string path_;
    std::vector<std::string> files_;
};

// Two ends of a connection: streams, and the peer's socket.
struct pair_of_ends {
    pair_of_ends(asyncio::stream_pair s, asyncio::socket p)
        : reader(std::move(s.first)), writer(std::move(s.second)), peer(std::move(p)) {}

    asyncio::stream_reader reader;
    asyncio::stream_writer writer;
    asyncio::socket peer;
};

asyncio::coro<pair_of_ends> connected(std::size_t limit = 64 * 1024) {
    asyncio::socket listener = asyncio::socket::tcp();
    listener.bind(loopback);
    listener.listen();
    asyncio::connect_options options;
    options.limit = limit;
    asyncio::stream_pair streams =
        co_await asyncio::open_connection("127.0.0.1", listener.local_address().port(), options);
    asyncio::socket peer = co_await listener.accept();
    co_return pair_of_ends(std::move(streams), std::move(peer));
}

// Ends the connection as a machine does that knows nothing of it any more.
void reset(asyncio::socket& peer) {
    linger at_once = {};
    at_once.l_onoff = 1;
    peer.setsockopt(SOL_SOCKET, SO_LINGER, std::as_bytes(std::span(&at_once, 1)));
    peer.close();
}

asyncio::coro<> echo(asyncio::stream_reader reader, asyncio::stream_writer writer) {
    const std::string line = co_await reader.readline();
    writer.write(line);
    co_await writer.drain();
}

// -- connecting and listening -----------------------------------------------------------------

FAILURE_CASE("a refused connection fails the await of it, and the next one succeeds") {
    const deaf_port nobody;
    auto refused =
        co_await asyncio::as_outcome(asyncio::open_connection("127.0.0.1", nobody.number()));
    CHECK(failed_with(refused, std::errc::connection_refused));
    CHECK(says(refused, "connect to " + nobody.where().to_string()));

    asyncio::socket socket = asyncio::socket::tcp();
    const auto raw = co_await asyncio::as_outcome(socket.connect(nobody.where()));
    CHECK(failed_with(raw, std::errc::connection_refused));

    pair_of_ends ends = co_await connected();
    ends.writer.write("x");
    const std::string got = co_await ends.peer.recv(10);
    CHECK(got == "x");
}

FAILURE_CASE("when all addresses refuse, the error names them, one after the other or at once") {
    const deaf_port one;
    const deaf_port two;
    const std::vector<asyncio::address> both{one.where(), two.where()};
    asyncio::connect_options options;
    for (const bool beside : {false, true}) {
        if (beside) options.happy_eyeballs_delay = 1ms;
        const auto refused = co_await asyncio::as_outcome(asyncio::open_connection(both, options));
        CHECK(failed_with(refused, std::errc::connection_refused));
        CHECK(says(refused, one.where().to_string()));
        CHECK(says(refused, two.where().to_string()));
    }
}

FAILURE_CASE("a Unix socket that is not there") {
    const auto missing =
        co_await asyncio::as_outcome(asyncio::open_unix_connection("/nonexistent/socket"));
    CHECK(failed_with(missing, std::errc::no_such_file_or_directory));
    const auto nowhere =
        co_await asyncio::as_outcome(asyncio::start_unix_server(&echo, "/nonexistent/socket"));
    CHECK(failed_with(nowhere, std::errc::no_such_file_or_directory));
}

FAILURE_CASE("an address that is in use, and one that this machine does not have") {
    asyncio::server first = co_await asyncio::start_server(&echo, "127.0.0.1", 0);
    const auto taken =
        co_await asyncio::as_outcome(asyncio::start_server(&echo, "127.0.0.1", first.port()));
    CHECK(failed_with(taken, std::errc::address_in_use));
    CHECK(says(taken, "bind to 127.0.0.1:"));

    asyncio::socket bound = asyncio::socket::tcp();
    bound.bind(loopback);
    asyncio::socket other = asyncio::socket::tcp();
    const int port = bound.local_address().port();
    asyncio::connect_options options;
    options.local_addr = {"127.0.0.1", port};
    const auto from =
        co_await asyncio::as_outcome(asyncio::open_connection("127.0.0.1", first.port(), options));
    CHECK(failed_with(from, std::errc::address_in_use));

    const auto elsewhere =
        co_await asyncio::as_outcome(asyncio::start_server(&echo, "192.0.2.1", 0));
    CHECK(failed_with(elsewhere, std::errc::address_not_available));
    first.close();
}

FAILURE_CASE("a service that has no number") {
    const auto unknown =
        co_await asyncio::as_outcome(asyncio::getaddrinfo("127.0.0.1", "no-such-service"));
    CHECK_FALSE(unknown.has_value());
    const bool right =
        !unknown && unknown.error().code().category() == asyncio::getaddrinfo_category();
    CHECK(right);
    CHECK(says(unknown, "look-up of 127.0.0.1"));
}

FAILURE_CASE("sockets that are of no use here fail what is made of them") {
    asyncio::socket alone = asyncio::socket::tcp();
    const auto single = co_await asyncio::as_outcome(asyncio::open_connection(std::move(alone)));
    CHECK(failed_with(single, std::errc::not_connected));
    asyncio::socket datagrams = asyncio::socket::udp();
    const auto wrong = co_await asyncio::as_outcome(asyncio::open_connection(std::move(datagrams)));
    CHECK(failed_as<std::invalid_argument>(wrong));
    asyncio::socket stream = asyncio::socket::tcp();
    const auto endpoint =
        co_await asyncio::as_outcome(asyncio::create_datagram_endpoint(std::move(stream)));
    CHECK(failed_as<std::invalid_argument>(endpoint));
    const auto closed =
        co_await asyncio::as_outcome(asyncio::create_datagram_endpoint(asyncio::socket()));
    CHECK(failed_with(closed, std::errc::bad_file_descriptor));
    const auto listening =
        co_await asyncio::as_outcome(asyncio::start_server(&echo, asyncio::socket()));
    CHECK(failed_with(listening, std::errc::bad_file_descriptor));
}

FAILURE_CASE("a server that is closed, or runs for ever already") {
    asyncio::server server = co_await asyncio::start_server(&echo, "127.0.0.1", 0);
    auto running = asyncio::create_task(server.serve_forever());
    co_await asyncio::sleep(0s);
    const auto twice = co_await asyncio::as_outcome(server.serve_forever());
    CHECK(says(twice, "running already"));
    server.close();
    const auto ended = co_await asyncio::as_outcome(running);
    CHECK(failed_as<asyncio::cancelled_error>(ended));
    const auto again = co_await asyncio::as_outcome(server.start_serving());
    CHECK(says(again, "the server is closed"));
}

FAILURE_CASE("a handler that fails is reported, its connection ends, and the server goes on") {
    std::vector<std::string> reports;
    asyncio::get_running_loop().set_exception_handler(
        [&](asyncio::event_loop&, const asyncio::exception_context& context) {
            reports.push_back(asyncio::error(context.exception).what());
        });
    auto serve = [](asyncio::stream_reader reader, asyncio::stream_writer out) -> asyncio::coro<> {
        for (int i = 0; i < 2; ++i) {
            const std::string text = co_await reader.readexactly(4);
            out.write(text);
        }
    };
    asyncio::server server = co_await asyncio::start_server(serve, "127.0.0.1", 0);
    auto [other_reader, other] = co_await asyncio::open_connection("127.0.0.1", server.port());
    for (std::size_t i = 1; i <= 2; ++i) {
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
        writer.write("abc");
        writer.write_eof();
        const std::string rest = co_await reader.read();
        CHECK(rest.empty());
        REQUIRE(reports.size() == i);
        CHECK(reports.back().find("3 bytes, expected 4") != std::string::npos);
        other.write("ping");
        const std::string answer = co_await other_reader.readexactly(4);
        CHECK(answer == "ping");
    }
    server.close();
}

// -- connections ------------------------------------------------------------------------------

FAILURE_CASE("a peer that resets the connection fails reads, drains and the end") {
    pair_of_ends ends = co_await connected();
    auto reading = asyncio::create_task(ends.reader.readline());
    co_await asyncio::sleep(0s);
    reset(ends.peer);
    const auto line = co_await asyncio::as_outcome(reading);
    CHECK(failed_with(line, std::errc::connection_reset));
    const auto more = co_await asyncio::as_outcome(ends.reader.read(10));
    CHECK(failed_with(more, std::errc::connection_reset));
    std::array<char, 8> room;
    const auto into = co_await asyncio::as_outcome(ends.reader.read_into(std::span<char>(room)));
    CHECK(failed_with(into, std::errc::connection_reset));
    ends.writer.write("lost");
    const auto drained = co_await asyncio::as_outcome(ends.writer.drain());
    CHECK(failed_with(drained, std::errc::connection_reset));
    const auto closed = co_await asyncio::as_outcome(ends.writer.wait_closed());
    CHECK(failed_with(closed, std::errc::connection_reset));
}

FAILURE_CASE("a stream that ends too early, or has no separator within the limit") {
    pair_of_ends ends = co_await connected(16);
    co_await ends.peer.sendall("0123456789012345678901234567890123456789");
    const auto overrun = co_await asyncio::as_outcome(ends.reader.readuntil(";"));
    const auto* const longer = failed_as<asyncio::limit_overrun_error>(overrun);
    REQUIRE(longer != nullptr);
    CHECK(longer->consumed() > 16);
    const auto line = co_await asyncio::as_outcome(ends.reader.readline());
    CHECK(failed_as<std::invalid_argument>(line));

    co_await ends.peer.sendall("abc");
    ends.peer.shutdown(asyncio::socket::shut_wr);
    const auto early = co_await asyncio::as_outcome(ends.reader.readexactly(4000));
    const auto* const incomplete = failed_as<asyncio::incomplete_read_error>(early);
    REQUIRE(incomplete != nullptr);
    CHECK(incomplete->partial().ends_with("abc"));
    CHECK(incomplete->expected() == 4000);
    const auto until = co_await asyncio::as_outcome(ends.reader.readuntil(";"));
    const auto* const nothing = failed_as<asyncio::incomplete_read_error>(until);
    REQUIRE(nothing != nullptr);
    CHECK_FALSE(nothing->expected().has_value());
    const std::string rest = co_await ends.reader.readline();
    CHECK(rest.empty());
}

FAILURE_CASE("a time limit leaves what has come to the next read") {
    pair_of_ends ends = co_await connected();
    co_await ends.peer.sendall("ha");
    const auto late =
        co_await asyncio::as_outcome(asyncio::wait_for(ends.reader.readexactly(4), 20ms));
    CHECK(failed_as<asyncio::timeout_error>(late));
    CHECK(failed_with(late, std::errc::timed_out));
    co_await ends.peer.sendall("lf");
    const std::string whole = co_await ends.reader.readexactly(4);
    CHECK(whole == "half");
    const auto raw = co_await asyncio::as_outcome(asyncio::wait_for(ends.peer.recv(10), 5ms));
    CHECK(failed_as<asyncio::timeout_error>(raw));
    ends.writer.write("x");
    const std::string got = co_await ends.peer.recv(10);
    CHECK(got == "x");
}

FAILURE_CASE("a connection that is closed fails drain() and sendfile()") {
    pair_of_ends ends = co_await connected();
    const auto bad = co_await asyncio::as_outcome(ends.writer.sendfile(-1));
    CHECK(failed_with(bad, std::errc::bad_file_descriptor));
    ends.writer.abort();
    const auto drained = co_await asyncio::as_outcome(ends.writer.drain());
    CHECK(failed_with(drained, std::errc::connection_reset));
    const auto sent = co_await asyncio::as_outcome(ends.writer.sendfile(0));
    CHECK(failed_with(sent, std::errc::connection_reset));
    CHECK(says(sent, "the connection is closed"));
}

FAILURE_CASE("a socket whose peer has gone, and one that is closed under a task") {
    pair_of_ends ends = co_await connected();
    ends.writer.abort();
    const std::string much(1 << 20, 'x');
    asyncio::outcome<void> sent;
    for (int i = 0; i < 100 && sent; ++i)
        sent = co_await asyncio::as_outcome(ends.peer.sendall(much));
    const bool gone =
        failed_with(sent, std::errc::broken_pipe) || failed_with(sent, std::errc::connection_reset);
    CHECK(gone);

    pair_of_ends others = co_await connected();
    auto receiving = asyncio::create_task(others.peer.recv(10));
    co_await asyncio::sleep(0s);
    others.peer.close();
    const auto ended = co_await asyncio::as_outcome(receiving);
    CHECK(failed_with(ended, std::errc::bad_file_descriptor));
    CHECK(says(ended, "the socket is closed"));
    const auto accepted = co_await asyncio::as_outcome(others.peer.accept());
    CHECK(failed_with(accepted, std::errc::bad_file_descriptor));
}

FAILURE_CASE("a cancelled sendall() says how much was sent") {
    pair_of_ends ends = co_await connected();
    const std::string much(64 << 20, 'x'); // nobody reads it
    auto sending = asyncio::create_task(ends.peer.sendall(much));
    co_await asyncio::sleep(5ms);
    sending.cancel();
    const auto ended = co_await asyncio::as_outcome(sending);
    CHECK(failed_as<asyncio::cancelled_error>(ended));
    CHECK(says(ended, "bytes had been sent"));
}

// Fails when it is to receive or to send.
class failing_transport {
public:
    asyncio::coro<std::size_t> recv(std::span<std::byte>) {
        co_await asyncio::sleep(1ms);
        co_await asyncio::fail(std::make_error_code(std::errc::protocol_error), "recv");
        co_return 0;
    }
    asyncio::coro<std::size_t> send(std::span<const std::byte> data) {
        co_await asyncio::sleep(1ms);
        co_return data.size() + 1; // cannot be
    }
    asyncio::coro<> shutdown() { co_return; }
};

FAILURE_CASE("a transport that fails, or sends more than it has") {
    auto [reader, writer] = asyncio::make_streams(failing_transport());
    const auto got = co_await asyncio::as_outcome(reader.read(10));
    CHECK(failed_with(got, std::errc::protocol_error));
    auto [other_reader, other_writer] = asyncio::make_streams(failing_transport());
    other_writer.write("abc");
    const auto closed = co_await asyncio::as_outcome(other_writer.wait_closed());
    CHECK(says(closed, "cannot have sent"));
}

// -- datagrams --------------------------------------------------------------------------------

FAILURE_CASE("a datagram that is refused, one that is too large, and an address in use") {
    asyncio::socket bound = asyncio::socket::udp();
    bound.bind(loopback);
    const int port = bound.local_address().port();
    asyncio::datagram_options options;
    options.local_addr = {"127.0.0.1", port};
    const auto taken = co_await asyncio::as_outcome(asyncio::create_datagram_endpoint(options));
    CHECK(failed_with(taken, std::errc::address_in_use));

    options = {};
    options.remote_addr = {"127.0.0.1", port};
    asyncio::datagram_endpoint endpoint = co_await asyncio::create_datagram_endpoint(options);
    bound.close();
    endpoint.sendto("anybody?");
    const auto refused = co_await asyncio::as_outcome(endpoint.recvfrom());
    CHECK(failed_with(refused, std::errc::connection_refused));
    endpoint.sendto(std::string(100'000, 'x'));
    const auto large = co_await asyncio::as_outcome(endpoint.recvfrom());
    CHECK(failed_with(large, std::errc::message_size));
    endpoint.close();
    const auto drained = co_await asyncio::as_outcome(endpoint.drain());
    CHECK(failed_with(drained, std::errc::bad_file_descriptor));
    const auto received = co_await asyncio::as_outcome(endpoint.recvfrom());
    CHECK(failed_with(received, std::errc::bad_file_descriptor));
}

// -- want of descriptors ----------------------------------------------------------------------

FAILURE_CASE("without descriptors nothing is opened, and all works again when there are some") {
    asyncio::server server = co_await asyncio::start_server(&echo, "127.0.0.1", 0);
    co_await asyncio::to_thread([] {}); // its thread is there from now on
    constexpr auto none = std::errc::too_many_files_open;
    asyncio::subprocess_options with_pipe;
    with_pipe.stdout_ = asyncio::stdio::pipe;
    asyncio::datagram_options datagrams;
    datagrams.local_addr = {"127.0.0.1", 0};
    {
        const no_descriptors from_here_on;
        const auto connection =
            co_await asyncio::as_outcome(asyncio::open_connection("127.0.0.1", server.port()));
        CHECK(failed_with(connection, none));
        const auto another =
            co_await asyncio::as_outcome(asyncio::start_server(&echo, "127.0.0.1", 0));
        CHECK(failed_with(another, none));
        const auto endpoint =
            co_await asyncio::as_outcome(asyncio::create_datagram_endpoint(datagrams));
        CHECK(failed_with(endpoint, none));
        const auto pipe = co_await asyncio::as_outcome(asyncio::create_pipe());
        CHECK(failed_with(pipe, none));
        auto command = asyncio::create_subprocess_exec(asyncio::argv("true"), with_pipe);
        const auto child = co_await asyncio::as_outcome(std::move(command));
        CHECK(failed_with(child, none));
        const auto text = co_await asyncio::as_outcome(asyncio::read_file("/dev/null"));
        CHECK(failed_with(text, none));
        auto forked = asyncio::fork_job([] { return 1; });
        const auto job = co_await asyncio::as_outcome(forked);
        CHECK(failed_with(job, none));
    }
    auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
    writer.write("back\n");
    const std::string line = co_await reader.readline();
    CHECK(line == "back\n");
    server.close();
}

// -- children and pipes -----------------------------------------------------------------------

FAILURE_CASE("a child that cannot be started, and one that is killed") {
    scratch_folder folder;
    const auto missing = co_await asyncio::as_outcome(
        asyncio::create_subprocess_exec(asyncio::argv("/nonexistent/program")));
    CHECK(failed_with(missing, std::errc::no_such_file_or_directory));
    CHECK(says(missing, "exec /nonexistent/program"));
    const std::string text = folder.file("text");
    co_await asyncio::write_file(text, "no program");
    const auto forbidden =
        co_await asyncio::as_outcome(asyncio::create_subprocess_exec(asyncio::argv(text)));
    CHECK(failed_with(forbidden, std::errc::permission_denied));
    asyncio::subprocess_options options;
    options.cwd = "/nonexistent";
    const auto nowhere = co_await asyncio::as_outcome(
        asyncio::create_subprocess_exec(asyncio::argv("true"), options));
    CHECK(failed_with(nowhere, std::errc::no_such_file_or_directory));
    CHECK(says(nowhere, "chdir /nonexistent"));

    options = {};
    options.stdout_ = -1;
    const auto closed = co_await asyncio::as_outcome(
        asyncio::create_subprocess_exec(asyncio::argv("true"), options));
    CHECK(failed_with(closed, std::errc::bad_file_descriptor));

    asyncio::process sleeper =
        co_await asyncio::create_subprocess_exec(asyncio::argv("sleep", "100"));
    const auto late = co_await asyncio::as_outcome(asyncio::wait_for(sleeper.wait(), 5ms));
    CHECK(failed_as<asyncio::timeout_error>(late));
    sleeper.kill();
    const int code = co_await sleeper.wait();
    CHECK(code == -9);
}

FAILURE_CASE("a cancelled wait() that kills the child fails when it has ended") {
    asyncio::subprocess_options options;
    options.kill_on_cancel = true;
    asyncio::process sleeper =
        co_await asyncio::create_subprocess_exec(asyncio::argv("sleep", "100"), options);
    auto waiting = asyncio::create_task(sleeper.wait());
    co_await asyncio::sleep(0s);
    waiting.cancel();
    const auto ended = co_await asyncio::as_outcome(waiting);
    CHECK(failed_as<asyncio::cancelled_error>(ended));
    CHECK(sleeper.returncode() == -9);
}

FAILURE_CASE("a pipe whose reader has gone, and descriptors that are no pipes") {
    asyncio::stream_pair pipe = co_await asyncio::create_pipe();
    asyncio::stream_writer writer = std::move(pipe.second);
    {
        const asyncio::stream_reader gone = std::move(pipe.first);
    }
    writer.write("lost");
    const auto drained = co_await asyncio::as_outcome(writer.drain());
    CHECK(failed_with(drained, std::errc::broken_pipe));

    const auto closed = co_await asyncio::as_outcome(asyncio::connect_read_pipe(-1));
    CHECK(failed_with(closed, std::errc::bad_file_descriptor));
    const int folder = ::open("/", O_RDONLY | O_CLOEXEC);
    const auto directory = co_await asyncio::as_outcome(asyncio::connect_read_pipe(folder));
    CHECK(failed_as<std::invalid_argument>(directory));
}

// -- files ------------------------------------------------------------------------------------

FAILURE_CASE("files that are not there, are there already, or are none") {
    scratch_folder folder;
    const auto missing = co_await asyncio::as_outcome(asyncio::read_file("/nonexistent/x"));
    CHECK(failed_with(missing, std::errc::no_such_file_or_directory));
    CHECK(says(missing, "open /nonexistent/x"));
    const auto directory = co_await asyncio::as_outcome(asyncio::read_file("/"));
    CHECK(failed_with(directory, std::errc::is_a_directory));
    for (const bool atomic : {false, true}) {
        const auto nowhere = co_await asyncio::as_outcome(
            asyncio::write_file("/nonexistent/x", "text", {.atomic = atomic}));
        CHECK(failed_with(nowhere, std::errc::no_such_file_or_directory));
        const auto over = co_await asyncio::as_outcome(
            asyncio::write_file(folder.path(), "text", {.atomic = atomic}));
        CHECK(failed_with(over, std::errc::is_a_directory));
    }
    const std::string path = folder.file("there");
    co_await asyncio::write_file(path, "text", {.atomic = true});
    const auto there = co_await asyncio::as_outcome(asyncio::file::open(path, "x"));
    CHECK(failed_with(there, std::errc::file_exists));
    if (::geteuid() != 0) { // root may
        ::chmod(path.c_str(), 0);
        const auto forbidden = co_await asyncio::as_outcome(asyncio::read_file(path));
        CHECK(failed_with(forbidden, std::errc::permission_denied));
    }
}

FAILURE_CASE("an open file whose operations fail, and go on to work") {
    scratch_folder folder;
    const std::string path = folder.file("log");
    asyncio::file log = co_await asyncio::file::open(path, "w");
    const auto read = co_await asyncio::as_outcome(log.read());
    CHECK(failed_with(read, std::errc::bad_file_descriptor));
    CHECK(says(read, "read " + path));
    const auto line = co_await asyncio::as_outcome(log.readline());
    CHECK(failed_with(line, std::errc::bad_file_descriptor));
    const auto before = co_await asyncio::as_outcome(log.seek(-1));
    CHECK(failed_with(before, std::errc::invalid_argument));
    const std::size_t written = co_await log.write("text");
    CHECK(written == 4);
    co_await log.close();
    const auto closed = co_await asyncio::as_outcome(log.write("more"));
    CHECK(failed_as<std::invalid_argument>(closed));
    const std::string text = co_await asyncio::read_file(path);
    CHECK(text == "text");
}

#if defined(__linux__)
FAILURE_CASE("a disk that is full") {
    const auto whole = co_await asyncio::as_outcome(asyncio::write_file("/dev/full", "text"));
    CHECK(failed_with(whole, std::errc::no_space_on_device));
    CHECK(says(whole, "write /dev/full"));
    asyncio::file full = co_await asyncio::file::open("/dev/full", "w");
    const auto written = co_await asyncio::as_outcome(full.write("text"));
    CHECK(failed_with(written, std::errc::no_space_on_device));
    co_await full.close();
}
#endif

// -- executors --------------------------------------------------------------------------------

FAILURE_CASE("jobs that are taken back, and executors that take none any more") {
    asyncio::thread_pool_executor pool(1);
    auto never = asyncio::concurrent_future<int>::create();
    CHECK(never.cancel());
    const auto taken_back = co_await asyncio::as_outcome(never);
    CHECK(failed_as<asyncio::cancelled_error>(taken_back));
    auto failing = asyncio::concurrent_future<int>::create();
    failing.set_exception(std::out_of_range("nothing there"));
    const auto failed = co_await asyncio::as_outcome(std::move(failing));
    CHECK(failed_as<std::out_of_range>(failed));
    pool.shutdown();
    const auto refused =
        co_await asyncio::as_outcome(asyncio::run_in_executor(pool, [](int n) { return n; }, 1));
    CHECK(says(refused, "was shut down"));
    const auto direct = co_await asyncio::as_outcome(pool.submit([] { return 1; }));
    CHECK(says(direct, "was shut down"));
}

#if defined(__linux__)

FAILURE_CASE("workers that crash, leave or take too long") {
    asyncio::isolated_options options;
    options.job_timeout = 2s;
    asyncio::isolated_executor pool(1, options);
    const auto aborted = co_await asyncio::as_outcome(asyncio::run_in_executor(
        pool,
        [](int n) {
            std::abort();
            return n;
        },
        1));
    const auto* const crash = failed_as<asyncio::worker_crashed>(aborted);
    REQUIRE(crash != nullptr);
    CHECK(crash->signal() == SIGABRT);
    const auto left = co_await asyncio::as_outcome(asyncio::run_in_executor(
        pool,
        [](int code) {
            ::_exit(code);
            return code;
        },
        3));
    const auto* const end = failed_as<asyncio::worker_crashed>(left);
    REQUIRE(end != nullptr);
    CHECK(end->exit_code() == 3);
    const auto late = co_await asyncio::as_outcome(
        asyncio::run_in_executor(pool, [](unsigned s) { return ::sleep(s); }, 1000u));
    CHECK(failed_as<asyncio::timeout_error>(late));
    const int sum = co_await asyncio::run_in_executor(pool, [](int n) { return n + 1; }, 4);
    CHECK(sum == 5);
    co_await asyncio::with(pool, [] {});
    const auto refused =
        co_await asyncio::as_outcome(asyncio::run_in_executor(pool, [](int n) { return n; }, 1));
    CHECK(says(refused, "was shut down"));
}

FAILURE_CASE("an executor whose workers all die before they begin is broken") {
    asyncio::isolated_options options;
    options.initializer = [] { ::_exit(1); };
    asyncio::isolated_executor pool(1, options);
    const auto first =
        co_await asyncio::as_outcome(asyncio::run_in_executor(pool, [](int n) { return n; }, 1));
    CHECK(failed_as<asyncio::broken_executor>(first));
    const auto next =
        co_await asyncio::as_outcome(asyncio::run_in_executor(pool, [](int n) { return n; }, 1));
    CHECK(failed_as<asyncio::broken_executor>(next));
}

FAILURE_CASE("a forked job that crashes") {
    auto crashing = asyncio::fork_job([] { std::abort(); });
    const auto crashed = co_await asyncio::as_outcome(crashing);
    CHECK(failed_as<asyncio::worker_crashed>(crashed));
}

#endif

} // namespace

// Its bytes are never one.
struct unreadable {
    int number = 0;
};
template <>
struct asyncio::codec<unreadable> {
    static void encode(const unreadable& u, encoder& out) { out.put(u.number); }
    static unreadable decode(decoder& in) {
        in.get<int>();
        in.fail("no such number");
        return {};
    }
};

namespace {

FAILURE_CASE("bytes that are no value: the decoder says so, and a job's await fails") {
    asyncio::encoder out;
    out.put(std::vector<std::string>{"one", "two"});
    const std::string bytes = out.bytes();
    for (std::size_t n = 0; n < bytes.size(); ++n) {
        asyncio::decoder in(std::string_view(bytes).substr(0, n));
        CHECK(in.get<std::vector<std::string>>().size() <= 2);
        CHECK(in.failure() != nullptr);
    }
    asyncio::decoder whole(bytes);
    CHECK(whole.get<std::vector<std::string>>().size() == 2);
    whole.finish();
    CHECK(whole.failure() == nullptr);
    // Enough bytes for what comes, but not for the gap before it.
    asyncio::encoder gap;
    gap.put('x');
    gap.put(std::vector<double>{1.0});
    for (std::size_t n = 0; n < gap.bytes().size(); ++n) {
        asyncio::decoder in(std::string_view(gap.bytes()).substr(0, n));
        in.get<char>();
        CHECK(in.get<std::vector<double>>().empty());
        CHECK(in.failure() != nullptr);
    }
    asyncio::decoder number(std::string_view("\x05\x00", 2));
    static_cast<void>(number.get<std::variant<int, bool>>());
    CHECK(number.failure() != nullptr);

#if defined(__linux__)
    asyncio::isolated_executor pool(1);
    const auto got = co_await asyncio::as_outcome(
        asyncio::run_in_executor(pool, [](int n) { return unreadable{n}; }, 1));
    CHECK(failed_as<asyncio::codec_error>(got));
    CHECK(says(got, "no such number"));
    const int sum = co_await asyncio::run_in_executor(pool, [](int n) { return n + 1; }, 4);
    CHECK(sum == 5);
#endif
    co_return;
}

} // namespace

int main(int argc, char** argv) {
    asyncio::worker_main(); // does not return in a worker process of an isolated_executor
    doctest::Context context(argc, argv);
    return context.run();
}
