// Echo benchmark: what a server costs that sends back what comes, beside one written by hand.
//
// Each server runs in a process of its own; this one sends the requests, all on one processor, in
// rounds that alternate between the servers. The figure is the server's CPU time per request.
// README.md beside this file says how to build and read it.
#define ASYNCIO_IMPLEMENTATION
#include "asyncio.hpp"

#include "echo.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ctime>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace {

void require(bool right, const char* what) {
    if (right) return;
    std::fprintf(stderr, "echo: %s: %s\n", what, std::strerror(errno));
    std::exit(1);
}

// ---- the bound: one epoll_wait, one recv, one send, and no thought of errors -------------------

void send_all(int fd, const char* data, std::size_t size) {
    while (size > 0) {
        const ssize_t n = ::send(fd, data, size, MSG_NOSIGNAL);
        if (n < 0 && errno != EAGAIN) return;
        if (n < 0) { // never seen with one request at a time
            pollfd room{fd, POLLOUT, 0};
            ::poll(&room, 1, -1);
            continue;
        }
        data += n;
        size -= static_cast<std::size_t>(n);
    }
}

void serve_by_hand(int listener) {
    static char data[echo::piece];
    const int poll = ::epoll_create1(EPOLL_CLOEXEC);
    epoll_event event{};
    event.events = EPOLLIN;
    event.data.fd = listener;
    require(::epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event) == 0, "epoll_ctl");
    for (;;) {
        epoll_event ready[64];
        const int count = ::epoll_wait(poll, ready, 64, -1);
        for (int i = 0; i < count; ++i) {
            const int fd = ready[i].data.fd;
            if (fd == listener) {
                const int client = ::accept4(fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
                require(client >= 0, "accept4");
                const int on = 1;
                ::setsockopt(client, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
                event.data.fd = client;
                require(::epoll_ctl(poll, EPOLL_CTL_ADD, client, &event) == 0, "epoll_ctl");
                continue;
            }
            const ssize_t n = ::recv(fd, data, sizeof data, 0);
            if (n > 0) send_all(fd, data, static_cast<std::size_t>(n));
            else if (n == 0 || errno != EAGAIN) ::close(fd);
        }
    }
}
const echo::registered bound(echo::the_bound, serve_by_hand);

// ---- asyncio.hpp, as a user writes it ----------------------------------------------------------

// As by hand, one buffer for all: read_into() writes it as it returns, and write() has taken a copy
// of what the system did not take.
asyncio::coro<> answer(asyncio::stream_reader reader, asyncio::stream_writer writer) {
    static std::array<std::byte, echo::piece> data;
    for (;;) {
        const std::size_t n = co_await reader.read_into(data);
        if (n == 0) break;
        writer.write(std::span<const std::byte>(data).first(n));
        co_await writer.drain();
    }
}

asyncio::coro<> answer_with_strings(asyncio::stream_reader reader,
                                    asyncio::stream_writer writer) {
    for (;;) {
        const std::string data = co_await reader.read(echo::piece);
        if (data.empty()) break;
        writer.write(data);
        co_await writer.drain();
    }
}

using handler = asyncio::coro<> (*)(asyncio::stream_reader, asyncio::stream_writer);

asyncio::coro<> serve_by_streams(int listener, handler on_client) {
    asyncio::server server =
        co_await asyncio::start_server(on_client, asyncio::socket(listener), {.backlog = 1024});
    co_await server.serve_forever();
}
const echo::registered ours(echo::ours, [](int listener) {
    asyncio::run(serve_by_streams(listener, answer));
});
const echo::registered ours_with_strings("... with read()", [](int listener) {
    asyncio::run(serve_by_streams(listener, answer_with_strings));
});

// ---- peers in other languages, where they are --------------------------------------------------

// Their last argument is the socket's number. One that is not there ends, and is left out.
[[noreturn]] void become(int listener, std::vector<const char*> command) {
    const std::string number = std::to_string(::dup(listener)); // without close-on-exec
    command.push_back(number.c_str());
    command.push_back(nullptr);
    static_cast<void>(std::freopen("/dev/null", "w", stderr));
    ::execvp(command[0], const_cast<char* const*>(command.data()));
    ::_exit(127);
}

const char* const in_python = R"(
import asyncio, socket, sys
if sys.argv[1] == 'uvloop':
    import uvloop
    uvloop.install()
async def answer(reader, writer):
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()
async def main():
    listener = socket.socket(fileno=int(sys.argv[2]))
    server = await asyncio.start_server(answer, sock=listener, backlog=1024)
    await server.serve_forever()
asyncio.run(main())
)";
const echo::registered python("Python", [](int listener) {
    become(listener, {"python3", "-c", in_python, "asyncio"});
});
const echo::registered uvloop("Python, uvloop", [](int listener) { // Debian: python3-uvloop
    become(listener, {"/usr/bin/python3", "-c", in_python, "uvloop"});
});
#if defined(ECHO_GO)
const echo::registered go("Go", [](int listener) { become(listener, {ECHO_GO}); });
#endif
#if defined(ECHO_TOKIO)
const echo::registered tokio("tokio", [](int listener) { become(listener, {ECHO_TOKIO}); });
#endif

// ---- servers, each in a process ----------------------------------------------------------------

class server_process {
public:
    explicit server_process(const echo::contender& what) : what_(&what) {
        const int listener = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
        address_.sin_family = AF_INET;
        address_.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof address_;
        require(::bind(listener, as_sockaddr(), size) == 0, "bind");
        require(::listen(listener, 1024) == 0, "listen");
        require(::getsockname(listener, as_sockaddr(), &size) == 0, "getsockname");
        const pid_t parent = ::getpid();
        std::fflush(nullptr);
        child_ = ::fork();
        if (child_ == 0) {
            ::prctl(PR_SET_PDEATHSIG, SIGKILL);
            if (::getppid() == parent) what.serve(listener);
            ::_exit(1);
        }
        ::close(listener);
        require(child_ > 0 && ::clock_getcpuclockid(child_, &clock_) == 0, "fork");
    }
    server_process(const server_process&) = delete;
    ~server_process() {
        ::kill(child_, SIGKILL);
        ::waitpid(child_, nullptr, 0);
    }
    const std::string& name() const { return what_->name; }

    // -1: there is nobody.
    int connect() {
        const int fd = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        const int on = 1;
        ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
        if (fd >= 0 && ::connect(fd, as_sockaddr(), sizeof address_) == 0) return fd;
        ::close(fd);
        return -1;
    }
    // CPU time of the server until now.
    double cpu_us() const {
        timespec now{};
        ::clock_gettime(clock_, &now);
        return static_cast<double>(now.tv_sec) * 1e6 + static_cast<double>(now.tv_nsec) / 1e3;
    }

private:
    sockaddr* as_sockaddr() {
        void* const p = &address_;
        return static_cast<sockaddr*>(p);
    }

    const echo::contender* what_;
    sockaddr_in address_{};
    pid_t child_ = -1;
    clockid_t clock_{};
};

// ---- the load: each connection sends a message when it has the last one back -------------------

class load {
public:
    load(server_process& server, int connections, std::size_t size)
        : poll_(::epoll_create1(EPOLL_CLOEXEC)), message_(size, 'x') {
        for (int i = 0; i < connections; ++i) {
            const int fd = server.connect();
            good_ = good_ && fd >= 0;
            if (!good_) return;
            clients_.push_back({fd, 0, 0});
        }
        for (std::size_t i = 0; i < clients_.size(); ++i) {
            epoll_event event{};
            event.events = EPOLLIN;
            event.data.u64 = i;
            require(::epoll_ctl(poll_, EPOLL_CTL_ADD, clients_[i].fd, &event) == 0, "epoll_ctl");
        }
    }
    load(const load&) = delete;
    ~load() {
        for (const client& c : clients_) ::close(c.fd);
        ::close(poll_);
    }

    // False: a connection has ended, or other bytes came back.
    bool run(std::uint64_t requests) {
        std::uint64_t begun = 0;
        std::uint64_t ended = 0;
        const std::uint64_t at_once = std::min<std::uint64_t>(clients_.size(), requests);
        while (good_ && begun < at_once) send_next(clients_[begun++]);
        while (good_ && ended < requests) {
            epoll_event ready[64];
            const int count = ::epoll_wait(poll_, ready, 64, 60'000);
            good_ = good_ && count > 0;
            for (int i = 0; good_ && i < count; ++i) {
                client& c = clients_[ready[i].data.u64];
                if (!receive(c) || c.received < message_.size()) continue;
                ++ended;
                if (begun++ < requests) send_next(c);
            }
        }
        return good_;
    }

private:
    struct client {
        int fd;
        std::uint64_t number; // of the message, in its first bytes
        std::size_t received;
    };

    void send_next(client& c) {
        ++c.number;
        c.received = 0;
        std::memcpy(message_.data(), &c.number, sizeof c.number);
        const ssize_t n = ::send(c.fd, message_.data(), message_.size(), MSG_NOSIGNAL);
        good_ = good_ && n == static_cast<ssize_t>(message_.size());
    }
    bool receive(client& c) {
        const ssize_t n = ::recv(c.fd, data_.data(), data_.size(), MSG_DONTWAIT);
        if (n < 0 && errno == EAGAIN) return false;
        const std::size_t known = sizeof c.number;
        good_ = good_ && n > 0 && c.received + static_cast<std::size_t>(n) <= message_.size();
        if (good_ && c.received == 0 && static_cast<std::size_t>(n) >= known)
            good_ = std::memcmp(data_.data(), &c.number, known) == 0;
        c.received += good_ ? static_cast<std::size_t>(n) : 0;
        return good_;
    }

    int poll_;
    std::vector<client> clients_;
    std::string message_;
    std::array<char, echo::piece> data_{};
    bool good_ = true;
};

// ---- rounds and the table ----------------------------------------------------------------------

struct result {
    std::string name;
    std::vector<double> cpu = {};  // of the server, microseconds per request, by round
    std::vector<double> rate = {}; // requests per second

    double best() const { return *std::min_element(cpu.begin(), cpu.end()); }
    double median() const {
        std::vector<double> sorted = cpu;
        std::sort(sorted.begin(), sorted.end());
        return sorted[sorted.size() / 2];
    }
    double best_rate() const { return *std::max_element(rate.begin(), rate.end()); }
};

struct row {
    std::size_t size;
    int connections;
    double limit; // of ours over the bound
    std::vector<result> results = {};

    const result* named(std::string_view name) const {
        for (const result& one : results)
            if (one.name == name) return one.cpu.empty() ? nullptr : &one;
        return nullptr;
    }
    double ratio() const { return named(echo::ours)->best() / named(echo::the_bound)->best(); }
    std::string meaning() const {
        const std::string bytes = size < 1024 ? std::to_string(size) + " B"
                                              : std::to_string(size / 1024) + " KiB";
        return bytes + ", " + std::to_string(connections) +
               (connections == 1 ? " connection" : " connections");
    }
};

void measure(row& one, std::vector<std::unique_ptr<server_process>>& servers, int rounds,
             std::uint64_t requests) {
    const bool first = one.results.empty();
    std::vector<std::unique_ptr<load>> loads;
    for (const auto& server : servers) {
        loads.push_back(std::make_unique<load>(*server, one.connections, one.size));
        // The first ones also wait until it has accepted all.
        const bool there = loads.back()->run(static_cast<std::uint64_t>(2 * one.connections));
        if (!there) loads.back() = nullptr;
        if (first) one.results.push_back({server->name()});
    }
    for (int round = 0; round < rounds; ++round) {
        for (std::size_t i = 0; i < servers.size(); ++i) {
            if (!loads[i]) continue;
            const double cpu = servers[i]->cpu_us();
            const auto start = std::chrono::steady_clock::now();
            if (!loads[i]->run(requests)) {
                loads[i] = nullptr;
                continue;
            }
            const std::chrono::duration<double> time = std::chrono::steady_clock::now() - start;
            const auto n = static_cast<double>(requests);
            one.results[i].cpu.push_back((servers[i]->cpu_us() - cpu) / n);
            one.results[i].rate.push_back(n / time.count());
        }
    }
}

void print_table(const std::vector<row>& rows) {
    std::printf("%-24s %-16s %8s %8s %8s %10s\n", "CPU us of the server", "", "min", "median",
                "/ bound", "requests/s");
    for (const row& one : rows) {
        std::string label = one.meaning();
        const result* const by_hand = one.named(echo::the_bound);
        for (const result& r : one.results) {
            if (r.cpu.empty()) continue;
            std::printf("%-24s %-16s %8.2f %8.2f", label.c_str(), r.name.c_str(), r.best(),
                        r.median());
            if (by_hand != nullptr) std::printf(" %8.2f", r.best() / by_hand->best());
            std::printf(" %10.0f", r.best_rate());
            if (r.name == echo::ours) std::printf("  (limit %.2f)", one.limit);
            std::printf("\n");
            label = "";
        }
    }
}

void print_json(const std::vector<row>& rows, bool quick) {
    std::printf("{\"clock\": \"CPU time of the server\", \"unit\": \"us per request\", "
                "\"compiler\": \"%s\", \"quick\": %s, \"rows\": [",
                __VERSION__, quick ? "true" : "false");
    const char* separator = "";
    for (const row& one : rows) {
        std::printf("%s\n  {\"bytes\": %zu, \"connections\": %d, \"limit\": %g, \"contenders\": [",
                    separator, one.size, one.connections, one.limit);
        separator = ",";
        const char* inner = "";
        for (const result& r : one.results) {
            if (r.cpu.empty()) continue;
            std::printf("%s\n    {\"name\": \"%s\", \"min\": %.3f, \"median\": %.3f, "
                        "\"requests_per_second\": %.0f, \"rounds\": %zu}",
                        inner, r.name.c_str(), r.best(), r.median(), r.best_rate(), r.cpu.size());
            inner = ",";
        }
        std::printf("]}");
    }
    std::printf("\n]}\n");
}

// Servers, this process and what they become: all on the processor where it runs now.
void pin_to_one_processor() {
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(std::max(::sched_getcpu(), 0)), &one);
    require(::sched_setaffinity(0, sizeof one, &one) == 0, "sched_setaffinity");
}

} // namespace

int main(int argc, char** argv) {
    bool quick = false;
    bool json = false;
    bool peers = true;
    bool good = true;
    double slack = 0;
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--quick") quick = true;
        else if (word == "--json") json = true;
        else if (word == "--no-peers") peers = false;
        else if (word == "--check" && i + 1 < argc) {
            char* end = nullptr;
            slack = std::strtod(argv[++i], &end);
            good = good && *end == '\0' && slack > 0;
        } else good = false;
    }
    if (!good) {
        std::fputs("usage: echo [--quick] [--json] [--check SLACK] [--no-peers]\n", stderr);
        return 2;
    }
    ::signal(SIGPIPE, SIG_IGN);
    pin_to_one_processor();
    rlimit files{};
    ::getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &files);

    std::vector<std::unique_ptr<server_process>> servers;
    for (const echo::contender& what : echo::contenders()) {
        const bool own = what.name == echo::the_bound || what.name == echo::ours;
        if (own || peers) servers.push_back(std::make_unique<server_process>(what));
    }
    std::vector<row> rows = {
        {64, 1, 1.03}, {64, 50, 1.03}, {64, 1000, 1.03}, {16 * 1024, 50, 1.05}};
    const std::uint64_t requests = quick ? 2'000 : 10'000;
    const int rounds = quick ? 5 : 21;
    bool fine = true;
    for (row& one : rows) {
        const std::size_t needed = static_cast<std::size_t>(one.connections) * servers.size() + 100;
        if (needed > files.rlim_cur) {
            std::fprintf(stderr, "echo: %s: only %zu files may be open\n", one.meaning().c_str(),
                         static_cast<std::size_t>(files.rlim_cur));
            continue;
        }
        measure(one, servers, rounds, requests);
        if (one.named(echo::ours) == nullptr || one.named(echo::the_bound) == nullptr) {
            std::fprintf(stderr, "echo: %s was not measured\n", one.meaning().c_str());
            return 1;
        }
        // Somebody else's work may have come between; an excess counts when it stays.
        for (int again = 0; again < 3 && slack > 0 && one.ratio() > one.limit * slack; ++again)
            measure(one, servers, rounds, requests);
        if (slack > 0 && one.ratio() > one.limit * slack) {
            std::fprintf(stderr, "echo: %s cost %.2f times the bound (limit %.2f, slack %.1f)\n",
                         one.meaning().c_str(), one.ratio(), one.limit, slack);
            fine = false;
        }
    }
    if (json) print_json(rows, quick);
    else print_table(rows);
    return fine ? 0 : 1;
}
