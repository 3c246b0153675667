// A soak: servers and clients on one loop for as long as you like, with faults among them.
//
//     soak SECONDS [SEED]
//
// The time is cut into rounds. In each, clients do as they please: talk, send much, send slowly,
// fall silent, reset, never read, are cancelled, start children, send datagrams and files, put a
// layer on a connection, look a name up; and once nobody can open a descriptor. After each round,
// which takes seconds of its own, all of them end, and descriptors, tasks and children must be what
// they were at the start. At the end memory must be what it was after the first third. Ends with 1
// if something is not.
#include "asyncio.hpp"
#include "system.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <malloc.h>
#include <random>
#include <set>
#include <string>
#include <vector>

#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>

using namespace std::chrono_literals;
using std::string;

namespace {

constexpr int clients = 60; // at the same time
constexpr auto patience = 2s; // of the servers with a client that says nothing, or does not read

enum deed {
    talk, send_much, send_slowly, fall_silent, reset, never_read, be_cancelled, start_child,
    send_datagrams, send_file, put_layer, look_up
};
constexpr std::array<const char*, 12> names = {
    "talks", "much", "slow", "silent", "resets", "unread", "cancelled", "children", "datagrams",
    "files", "layers", "names"};

struct soak {
    string folder;
    string path; // of the Unix socket in it
    int port = 0;
    asyncio::address datagrams;
    bool over = false; // the round
    int hungry = 0;    // how often descriptors have gone and come; odd while there are none
    int serving = 0;   // connections
    std::array<std::uint64_t, names.size()> done = {};
    std::uint64_t refused = 0;    // for want of descriptors
    std::uint64_t unexpected = 0; // errors that nothing explains

    void complain(const string& what) {
        if (++unexpected <= 20) std::printf("UNEXPECTED: %s\n", what.c_str());
    }
};

// ---- The server --------------------------------------------------------------------------------

struct counted {
    int& count;
    explicit counted(int& of) : count(++of) {}
    counted(const counted&) = delete;
    ~counted() { --count; }
};

asyncio::coro<> serve(soak& s, asyncio::stream_reader reader, asyncio::stream_writer writer) {
    const counted connection(s.serving);
    try {
        for (;;) {
            const string data = co_await asyncio::wait_for(reader.read(16 * 1024), patience);
            if (data.empty()) break;
            writer.write(data);
            co_await asyncio::wait_for(writer.drain(), patience);
        }
    } catch (const asyncio::timeout_error&) {
        writer.abort();
    } catch (const std::system_error&) {} // the client has gone
}

asyncio::coro<> send_datagrams_back(asyncio::datagram_endpoint endpoint) {
    for (;;) {
        const asyncio::datagram d = co_await endpoint.recvfrom();
        endpoint.sendto(d.data, d.from);
    }
}

// ---- Clients, each of which knows what must come of it -----------------------------------------

using random = std::mt19937_64;
std::size_t pick(random& numbers, std::size_t from, std::size_t to) {
    return std::uniform_int_distribution<std::size_t>(from, to)(numbers);
}

asyncio::coro<asyncio::stream_pair> connect(soak& s, random& numbers) { // either way
    if (pick(numbers, 0, 3) == 0) co_return co_await asyncio::open_unix_connection(s.path);
    co_return co_await asyncio::open_connection("127.0.0.1", s.port);
}

asyncio::coro<> talk_to(soak& s, random& numbers) {
    auto [reader, writer] = co_await connect(s, numbers);
    const std::size_t lines = pick(numbers, 1, 100);
    for (std::size_t i = 0; i < lines; ++i) {
        const string line = support::pattern(pick(numbers, 0, 3000));
        writer.write(line);
        const string got = co_await reader.readexactly(static_cast<std::ptrdiff_t>(line.size()));
        if (got != line) s.complain("another answer");
    }
}

asyncio::coro<> send_all(asyncio::stream_writer& writer, const string& data) {
    writer.write(data);
    co_await writer.drain();
    writer.write_eof();
}

asyncio::coro<> send_much_to(soak& s, random& numbers) {
    auto [reader, writer] = co_await connect(s, numbers);
    const string data = support::pattern(pick(numbers, 1, 1'000'000));
    asyncio::task<string> reading;
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& both) {
        both.create_task(send_all(writer, data));
        reading = both.create_task(reader.read());
    });
    const string got = reading.result();
    if (got != data) s.complain(std::to_string(got.size()) + " of " + std::to_string(data.size()));
}

asyncio::coro<> send_slowly_to(soak& s, random& numbers) {
    auto [reader, writer] = co_await connect(s, numbers);
    for (std::size_t left = pick(numbers, 1, 100); left > 0; --left) {
        writer.write("x");
        const string got = co_await reader.readexactly(1);
        if (got != "x") s.complain("not what was sent");
        co_await asyncio::sleep(1ms);
    }
}

// Half open, as far as the server knows; which does not wait for ever.
asyncio::coro<> fall_silent_to(soak& s, random& numbers) {
    auto [reader, writer] = co_await connect(s, numbers);
    writer.write("the beginning of");
    const string got = co_await reader.readexactly(16);
    bool ended = false;
    try {
        const string rest = co_await reader.read();
        ended = rest.empty();
    } catch (const std::system_error&) { ended = true; }
    if (!ended) s.complain("more came back than was sent");
}

asyncio::coro<> reset_to(soak& s, random& numbers) {
    asyncio::socket plain = asyncio::socket::tcp();
    const linger at_once{1, 0}; // close() resets
    plain.setsockopt(SOL_SOCKET, SO_LINGER, std::as_bytes(std::span(&at_once, 1)));
    const asyncio::address where("127.0.0.1", s.port);
    co_await plain.connect(where);
    auto [reader, writer] = asyncio::make_streams(std::move(plain));
    writer.write(support::pattern(pick(numbers, 1, 500'000)));
    if (pick(numbers, 0, 1) == 0) co_await reader.read(1);
    writer.abort();
}

asyncio::coro<> never_read_to(soak& s, random& numbers) {
    auto [reader, writer] = co_await connect(s, numbers);
    const string piece = support::pattern(64 * 1024);
    try {
        for (;;) { // until the server has had enough
            writer.write(piece);
            co_await writer.drain();
        }
    } catch (const std::system_error&) {}
    if (!writer.is_closing()) writer.abort();
}

asyncio::coro<> be_cancelled_by(soak& s, random& numbers) {
    auto victim = asyncio::create_task(send_much_to(s, numbers));
    co_await asyncio::sleep(std::chrono::microseconds(pick(numbers, 0, 5000)));
    victim.cancel();
    const auto outcome = co_await asyncio::as_outcome(victim);
    if (outcome.has_value() || victim.cancelled()) co_return;
    outcome.error().rethrow();
}

asyncio::coro<> start_child_of(soak& s, random& numbers) {
    asyncio::process child = co_await asyncio::create_subprocess_exec(
        asyncio::argv("cat"), {.stdin_ = asyncio::stdio::pipe, .stdout_ = asyncio::stdio::pipe});
    const string data = support::pattern(pick(numbers, 0, 300'000));
    const auto [out, err] = co_await child.communicate(data);
    if (out != data || child.returncode() != 0) s.complain("cat gave something else");
}

// A datagram may be lost, and then is sent once more; its answer may come late.
asyncio::coro<> send_datagrams_to(soak& s, random& numbers) {
    asyncio::datagram_endpoint endpoint = co_await asyncio::create_datagram_endpoint(
        {.remote_addr = {s.datagrams.host(), s.datagrams.port()}});
    for (std::size_t left = pick(numbers, 1, 50); left > 0; --left) {
        const string data = std::to_string(left) + support::pattern(pick(numbers, 0, 8000));
        string got;
        while (got != data) {
            endpoint.sendto(data);
            const auto answer =
                co_await asyncio::as_outcome(asyncio::wait_for(endpoint.recvfrom(), 1s));
            if (answer.has_value()) got = answer->data;
            else if (!answer.error().holds<asyncio::timeout_error>()) answer.error().rethrow();
        }
    }
}

asyncio::coro<> receive_all(asyncio::stream_reader& reader, string& into, std::size_t size) {
    into = co_await reader.readexactly(static_cast<std::ptrdiff_t>(size));
}

asyncio::coro<> send_file_to(soak& s, random& numbers) {
    const string data = support::pattern(pick(numbers, 1, 500'000));
    const string path = s.folder + "/file" + std::to_string(numbers());
    co_await asyncio::write_file(path, data, {.atomic = pick(numbers, 0, 1) == 0});
    const struct opened {
        int fd;
        ~opened() { ::close(fd); }
    } file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
    const int error = errno;
    ::unlink(path.c_str());
    if (file.fd < 0) throw std::system_error(error, std::generic_category(), "open");
    auto [reader, writer] = co_await connect(s, numbers);
    string got;
    co_await asyncio::with(asyncio::task_group(), [&](asyncio::task_group& both) {
        both.create_task(writer.sendfile(file.fd));
        both.create_task(receive_all(reader, got, data.size()));
    });
    if (got != data) s.complain("another file");
}

// A layer that turns bits over; the server sends back what it gets.
class inverting {
public:
    explicit inverting(asyncio::stream_pair over) : over_(std::move(over)) {}

    asyncio::coro<std::size_t> recv(std::span<std::byte> target) {
        const std::size_t n = co_await over_.first.read_into(target);
        for (std::byte& b : target.first(n)) b = ~b;
        co_return n;
    }
    asyncio::coro<std::size_t> send(std::span<const std::byte> data) {
        std::vector<std::byte> piece(data.begin(), data.end());
        for (std::byte& b : piece) b = ~b;
        over_.second.write(piece);
        co_await over_.second.drain();
        co_return piece.size();
    }
    asyncio::coro<> shutdown() {
        over_.second.close();
        co_await over_.second.wait_closed();
    }

private:
    asyncio::stream_pair over_;
};

asyncio::coro<> put_layer_to(soak& s, random& numbers) {
    asyncio::stream_pair plain = co_await connect(s, numbers);
    auto [reader, writer] = asyncio::make_streams(inverting(std::move(plain)));
    for (std::size_t left = pick(numbers, 1, 20); left > 0; --left) {
        const string line = support::pattern(pick(numbers, 0, 20'000));
        writer.write(line);
        const string got = co_await reader.readexactly(static_cast<std::ptrdiff_t>(line.size()));
        if (got != line) s.complain("another answer through a layer");
    }
}

asyncio::coro<> look_up_name(soak& s) {
    const auto found = co_await asyncio::getaddrinfo("localhost", 80);
    if (found.empty()) s.complain("localhost has no address");
}

asyncio::coro<> do_one(soak& s, random& numbers, deed what) {
    switch (what) {
    case talk: return talk_to(s, numbers);
    case send_much: return send_much_to(s, numbers);
    case send_slowly: return send_slowly_to(s, numbers);
    case fall_silent: return fall_silent_to(s, numbers);
    case reset: return reset_to(s, numbers);
    case never_read: return never_read_to(s, numbers);
    case be_cancelled: return be_cancelled_by(s, numbers);
    case start_child: return start_child_of(s, numbers);
    case send_datagrams: return send_datagrams_to(s, numbers);
    case send_file: return send_file_to(s, numbers);
    case put_layer: return put_layer_to(s, numbers);
    case look_up: return look_up_name(s);
    }
    std::abort();
}

bool for_want_of_descriptors(const std::system_error& e) { return e.code().value() == EMFILE; }

asyncio::coro<> client(soak& s, std::uint64_t seed) {
    random numbers(seed);
    while (!s.over) {
        // Those who make somebody wait for two seconds are rare.
        static constexpr deed deeds[] = {talk, talk, talk, talk, send_much, send_much, send_slowly,
                                         reset, reset, be_cancelled, be_cancelled, start_child,
                                         send_datagrams, send_file, put_layer, look_up};
        deed what = deeds[pick(numbers, 0, std::size(deeds) - 1)];
        const std::size_t rare = pick(numbers, 0, 99);
        if (rare < 2) what = rare == 0 ? fall_silent : never_read;
        const string name = names[what];
        const int hungry = s.hungry;
        bool waits = false;
        try {
            co_await asyncio::wait_for(do_one(s, numbers, what), 60s);
            ++s.done[what];
        } catch (const std::system_error& e) {
            // Without the system's files no name is known.
            waits = for_want_of_descriptors(e) ||
                    (what == look_up && (hungry % 2 != 0 || hungry != s.hungry));
            if (waits) ++s.refused;
            else s.complain(name + ": " + e.what());
        } catch (const std::exception& e) { s.complain(name + ": " + e.what()); }
        if (waits) co_await asyncio::sleep(10ms);
    }
}

// For a moment nobody can open anything: neither connect nor accept nor a pipe.
asyncio::coro<> starve(soak& s, asyncio::duration after) {
    co_await asyncio::sleep(after);
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    const rlimit none{3, files.rlim_max};
    asyncio::socket early = asyncio::socket::tcp();
    ::setrlimit(RLIMIT_NOFILE, &none);
    ++s.hungry;
    const asyncio::address where("127.0.0.1", s.port);
    co_await early.connect(where); // whom the server cannot accept now
    co_await asyncio::sleep(100ms);
    ::setrlimit(RLIMIT_NOFILE, &files);
    ++s.hungry;
}

// ---- What is left after a round ----------------------------------------------------------------

struct remains {
    std::set<string> descriptors = support::open_descriptors();
    std::size_t tasks = asyncio::get_running_loop().metrics().tasks;
    std::size_t timers = asyncio::get_running_loop().metrics().timers;
    std::size_t heap = ::mallinfo2().uordblks;
    std::size_t resident = 0; // without what malloc() keeps since the busiest moment

    remains() {
        ::malloc_trim(0);
        std::ifstream statm("/proc/self/statm");
        std::size_t total = 0;
        statm >> total >> resident;
        resident *= static_cast<std::size_t>(::sysconf(_SC_PAGESIZE));
    }
    bool as_few_as(const remains& other) const {
        return descriptors == other.descriptors && tasks == other.tasks && timers == other.timers;
    }
};

// Looks until what is going has gone: the server's side of the last connections.
asyncio::coro<remains> settle(soak& s, const remains& start) {
    for (int i = 0; i < 1000; ++i) {
        const remains now;
        if (s.serving == 0 && now.as_few_as(start)) break;
        co_await asyncio::sleep(10ms);
    }
    co_return remains();
}

asyncio::coro<> one_round(soak& s, asyncio::duration length, std::uint64_t seed) {
    s.over = false;
    std::vector<asyncio::task<>> running;
    for (int i = 0; i < clients; ++i) {
        const std::uint64_t own = seed * clients + static_cast<std::uint64_t>(i);
        running.push_back(asyncio::create_task(client(s, own)));
    }
    auto starving = asyncio::create_task(starve(s, length / 3));
    co_await asyncio::sleep(length);
    s.over = true;
    co_await starving;
    co_await asyncio::gather(running);
}

asyncio::coro<int> run(int seconds, std::uint64_t seed) {
    const support::scratch folder;
    soak s;
    s.folder = folder.path;
    s.path = folder / "socket";
    std::uint64_t parked = 0;
    asyncio::get_running_loop().set_exception_handler(
        [&](asyncio::event_loop&, const asyncio::exception_context& context) {
            if (string(context.message).find("cannot accept") != string::npos) ++parked;
            else s.complain(string(context.message));
        });
    const auto on_client = [&s](asyncio::stream_reader reader, asyncio::stream_writer writer) {
        return serve(s, std::move(reader), std::move(writer));
    };
    asyncio::server tcp =
        co_await asyncio::start_server(on_client, "127.0.0.1", 0, {.backlog = 1000});
    asyncio::server local =
        co_await asyncio::start_unix_server(on_client, s.path, {.backlog = 1000});
    s.port = tcp.port();
    asyncio::datagram_endpoint endpoint =
        co_await asyncio::create_datagram_endpoint({.local_addr = {"127.0.0.1", 0}});
    s.datagrams = endpoint.sockname();
    const auto answering = asyncio::create_task(send_datagrams_back(std::move(endpoint)));
    co_await look_up_name(s); // there is a thread from here on, and what the system reads once

    const int rounds = std::clamp(seconds / 2, 3, 30);
    const asyncio::duration length = asyncio::duration::seconds(double(seconds) / rounds);
    const remains start;
    std::vector<remains> after;
    after.reserve(static_cast<std::size_t>(rounds));
    int wrong = 0;
    std::printf("%5s %7s %6s %6s %9s %9s", "round", "files", "tasks", "timers", "heap KB",
                "RSS KB");
    for (const char* const name : names) std::printf(" %9s", name);
    std::printf(" %9s %9s\n", "no files", "parked");
    for (int i = 0; i < rounds; ++i) {
        co_await one_round(s, length, seed + static_cast<std::uint64_t>(i));
        remains now = co_await settle(s, start);
        const bool childless = ::waitpid(-1, nullptr, WNOHANG) < 0 && errno == ECHILD;
        const bool same = now.as_few_as(start) && s.serving == 0 && childless;
        wrong += !same;
        std::printf("%5d %7zu %6zu %6zu %9zu %9zu", i + 1, now.descriptors.size(), now.tasks,
                    now.timers, now.heap / 1024, now.resident / 1024);
        for (const std::uint64_t count : s.done)
            std::printf(" %9llu", static_cast<unsigned long long>(count));
        std::printf(" %9llu %9llu%s\n", static_cast<unsigned long long>(s.refused),
                    static_cast<unsigned long long>(parked), same ? "" : "  SOMETHING IS LEFT");
        std::fflush(stdout);
        now.descriptors = {}; // or these records would be what grows
        after.push_back(std::move(now));
    }

    // Caches grow to what the busiest moment needs; after a third of the time that is known.
    const auto third = static_cast<std::ptrdiff_t>((after.size() + 2) / 3);
    const auto most = [&](std::size_t remains::*what) {
        const auto less = [what](const remains& a, const remains& b) { return a.*what < b.*what; };
        return (*std::max_element(after.begin(), after.begin() + third, less)).*what;
    };
    const std::size_t heap = most(&remains::heap), resident = most(&remains::resident);
    const bool flat = after.back().heap <= heap + heap / 20 + 256 * 1024 &&
                      after.back().resident <= resident + resident / 20 + 2 * 1024 * 1024;
    const bool all = std::all_of(s.done.begin(), s.done.end(), [](auto n) { return n > 0; });
    std::printf("descriptors, tasks and timers: %s\n", wrong == 0 ? "flat" : "NOT FLAT");
    std::printf("memory: %s\n", flat ? "flat" : "NOT FLAT");
    std::printf("every kind of client, and no descriptors: %s\n",
                all && s.refused > 0 && parked > 0 ? "seen" : "NOT SEEN");
    std::printf("unexpected errors: %llu\n", static_cast<unsigned long long>(s.unexpected));
    const bool good = wrong == 0 && flat && all && s.refused > 0 && parked > 0;
    co_return good && s.unexpected == 0 ? 0 : 1;
}

} // namespace

int main(int argc, char** argv) {
    const int seconds = argc > 1 ? std::atoi(argv[1]) : 0;
    if (argc > 3 || seconds <= 0) {
        std::fputs("usage: soak SECONDS [SEED]\n", stderr);
        return 2;
    }
    // A question about a name that waits for ever is none of what is tested here.
    ::setenv("RES_OPTIONS", "timeout:1 attempts:1", 1);
    const std::uint64_t seed = argc > 2 ? std::strtoull(argv[2], nullptr, 10) : 1;
    return asyncio::run_main(run(seconds, seed));
}
