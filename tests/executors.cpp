// Tests [SECTION] executors and [SECTION] codec: concurrent futures, thread pools, isolated
// workers, and what happens when workers die.
#include "support.hpp"
#include "system.hpp"

#include <any>
#include <array>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <cstdio>
#include <cstring>
#include <deque>
#if defined(__linux__)
#include <dlfcn.h>
#endif
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <future>
#include <map>
#include <mutex>
#include <numeric>
#include <random>
#include <ranges>
#include <set>
#include <thread>
#include <unordered_map>
#if defined(_WIN32)
#include <windows.h>
#else
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#endif

#if defined(__linux__)

// One recvmsg() of another thread than main()'s can be held up right before the call.
namespace {
enum class hold { none, wanted, holding };
std::atomic<hold> held_receive{hold::none};
} // namespace

extern "C" ssize_t recvmsg(int fd, msghdr* message, int flags) {
    using function = ssize_t(int, msghdr*, int);
    static const auto real = reinterpret_cast<function*>(::dlsym(RTLD_NEXT, "recvmsg"));
    hold expected = hold::wanted;
    if (::getpid() != ::gettid() &&
        held_receive.compare_exchange_strong(expected, hold::holding)) {
        held_receive.notify_all();
        held_receive.wait(hold::holding);
    }
    return real(fd, message, flags);
}

// A job can have the system refuse what its worker sends.
namespace {
std::atomic<bool> sends_nothing{false};
} // namespace

extern "C" ssize_t send(int fd, const void* data, std::size_t size, int flags) {
    using function = ssize_t(int, const void*, std::size_t, int);
    static const auto real = reinterpret_cast<function*>(::dlsym(RTLD_NEXT, "send"));
    if (!sends_nothing) return real(fd, data, size, flags);
    errno = ETOOMANYREFS;
    return -1;
}
extern "C" ssize_t sendmsg(int fd, const msghdr* message, int flags) {
    using function = ssize_t(int, const msghdr*, int);
    static const auto real = reinterpret_cast<function*>(::dlsym(RTLD_NEXT, "sendmsg"));
    if (!sends_nothing) return real(fd, message, flags);
    errno = ETOOMANYREFS;
    return -1;
}

#endif

namespace {

// A program that uses a loop before it calls worker_main(); see "forgotten worker_main".
const bool forgets_worker_main = [] {
    if (std::getenv("ASYNCIO_TEST_FORGETS")) asyncio::event_loop loop;
    return true;
}();

// Keeps jobs inside until it is opened.
class gate {
public:
    void open() { opened_.set_value(); }
    auto waiting() {
        return [seen = seen_] { seen.wait(); };
    }

private:
    std::promise<void> opened_;
    std::shared_future<void> seen_ = opened_.get_future().share();
};

int add(int a, int b) { return a + b; }
std::thread::id thread_number() { return std::this_thread::get_id(); }

// Lets a job in another process say that it runs: it writes its process number.
#if defined(_WIN32)

class meeting_point {
public:
    meeting_point() {
        static int count = 0;
        path_ = "\\\\.\\pipe\\asyncio-meeting-" + std::to_string(::GetCurrentProcessId()) + "-" +
                std::to_string(count++);
        pipe_ = ::CreateNamedPipeA(path_.c_str(), PIPE_ACCESS_DUPLEX, 0, 1, 64, 64, 0, nullptr);
        REQUIRE(pipe_ != INVALID_HANDLE_VALUE);
    }
    meeting_point(const meeting_point&) = delete;
    ~meeting_point() { ::CloseHandle(pipe_); }
    const std::string& path() const { return path_; }

    /// Blocks until a job has arrived, which waits for this.
    pid_t arrived() const {
        pid_t pid = 0;
        DWORD size = 0;
        ::ConnectNamedPipe(pipe_, nullptr); // or it has come before
        CHECK(::ReadFile(pipe_, &pid, sizeof pid, &size, nullptr) != 0);
        CHECK(::WriteFile(pipe_, "x", 1, &size, nullptr) != 0);
        return pid;
    }

private:
    std::string path_;
    HANDLE pipe_;
};

pid_t process_number() { return static_cast<pid_t>(::GetCurrentProcessId()); }

void arrive(const std::string& path) {
    const HANDLE pipe = ::CreateFileA(path.c_str(), GENERIC_READ | GENERIC_WRITE, 0, nullptr,
                                      OPEN_EXISTING, 0, nullptr);
    const pid_t self = process_number();
    char answer = 0;
    DWORD size = 0;
    if (::WriteFile(pipe, &self, sizeof self, &size, nullptr) == 0 ||
        ::ReadFile(pipe, &answer, 1, &size, nullptr) == 0)
        std::abort();
    ::CloseHandle(pipe);
}

bool is_gone(pid_t pid) {
    const HANDLE process = ::OpenProcess(SYNCHRONIZE, FALSE, static_cast<DWORD>(pid));
    const bool gone = process == nullptr || ::WaitForSingleObject(process, 0) == WAIT_OBJECT_0;
    ::CloseHandle(process);
    return gone;
}

const std::vector<asyncio::start_method> all_start_methods = {asyncio::start_method::spawn};

#else

class meeting_point {
public:
    meeting_point() {
        char name[] = "/tmp/asyncio-test-XXXXXX";
        REQUIRE(::mkdtemp(name) != nullptr);
        folder_ = name;
        REQUIRE(::mkfifo(path().c_str(), 0600) == 0);
    }
    meeting_point(const meeting_point&) = delete;
    ~meeting_point() {
        ::unlink(path().c_str());
        ::rmdir(folder_.c_str());
    }
    std::string path() const { return folder_ + "/fifo"; }

    /// Blocks until a job has arrived.
    pid_t arrived() const {
        const int fd = ::open(path().c_str(), O_RDONLY);
        REQUIRE(fd >= 0);
        pid_t pid = 0;
        CHECK(::read(fd, &pid, sizeof pid) == sizeof pid);
        ::close(fd);
        return pid;
    }

private:
    std::string folder_;
};

void arrive(const std::string& path) {
    const int fd = ::open(path.c_str(), O_WRONLY);
    const pid_t self = ::getpid();
    if (::write(fd, &self, sizeof self) != sizeof self) std::abort();
    ::close(fd);
}

pid_t process_number() { return ::getpid(); }
bool is_gone(pid_t pid) { return ::kill(pid, 0) != 0 && errno == ESRCH; }

// Without the one that starts this program again where ASYNCIO_TEST_FORK says that it cannot.
const std::vector<asyncio::start_method> all_start_methods = [] {
    std::vector all = {asyncio::start_method::forkserver, asyncio::start_method::fork};
    if (std::getenv("ASYNCIO_TEST_FORK") == nullptr) all.push_back(asyncio::start_method::spawn);
    return all;
}();

#endif

void never_ends(std::string path) {
    arrive(path);
    for (;;) std::this_thread::sleep_for(1h);
}

#if !defined(_WIN32)

// A worker's number, and that of the process that made it.
std::pair<pid_t, pid_t> process_and_parent() { return {::getpid(), ::getppid()}; }

// True when this process has no child, dead or alive.
bool has_no_children() {
    int status = 0;
    return ::waitpid(-1, &status, WNOHANG) == -1 && errno == ECHILD;
}

void wait_until_gone(pid_t pid) {
    while (!is_gone(pid)) std::this_thread::yield();
}

// Orphans become children of this process while one exists: nothing that a worker leaves behind
// can hide, and wait() returns when the last one has ended.
class adopted_orphans {
public:
    adopted_orphans() { ::prctl(PR_SET_CHILD_SUBREAPER, 1); }
    adopted_orphans(const adopted_orphans&) = delete;
    ~adopted_orphans() { ::prctl(PR_SET_CHILD_SUBREAPER, 0); }
    void wait() {
        while (::waitpid(-1, nullptr, 0) > 0 || errno == EINTR) {}
    }
};

// A number in a line "name: number" of a file in /proc; what does not exist has none.
long status_of(const std::string& process, const std::string& name) {
    std::ifstream file("/proc/" + process + "/status");
    for (std::string line; std::getline(file, line);)
        if (line.starts_with(name + ":")) return std::stol(line.substr(name.size() + 1));
    return -1;
}

#endif

template <class T>
T round_trip(const T& value) {
    asyncio::encoder out;
    out.put(value);
    asyncio::decoder in(out.bytes());
    T back = in.get<T>();
    in.finish();
    return back;
}

template <class T>
bool survives(const T& value) {
    return round_trip(value) == value;
}

// Decodes damaged forms of `value` and pure noise. A wrong value may come out, an error may; but
// nothing else.
template <class T>
void damage(const T& value) {
    std::mt19937 random(7);
    asyncio::encoder out;
    out.put(value);
    for (int round = 0; round < 5000; ++round) {
        std::string bytes = out.bytes();
        if (round % 3 == 0) {
            bytes.resize(random() % 200);
            for (char& byte : bytes) byte = static_cast<char>(random());
        } else {
            for (unsigned i = 0; i <= random() % 4 && !bytes.empty(); ++i)
                bytes[random() % bytes.size()] = static_cast<char>(random());
            if (round % 5 == 0) bytes.resize(random() % (bytes.size() + 1));
        }
        try {
            asyncio::decoder in(bytes);
            static_cast<void>(in.get<T>());
            in.finish();
        } catch (const asyncio::codec_error&) {
        }
    }
}

struct point {
    int x = 0;
    double y = 0;
    bool operator==(const point&) const = default;
};
enum class colour : unsigned char { red, green };
struct document {
    std::string title;
    std::vector<point> points;
    std::map<std::string, int> counts;
    std::optional<colour> tint;
    int grid[2][2];
    bool operator==(const document&) const = default;
};
struct tree {
    int value = 0;
    std::vector<tree> children;
    bool operator==(const tree&) const = default;
};
struct list {
    int value = 0;
    std::unique_ptr<list> next;
};
class opaque { // no aggregate: it has a codec of its own
public:
    explicit opaque(int value) : value_(value) {}
    int value() const { return value_; }

private:
    int value_;
};
struct derived_point : point {
    int z;
};

// What ends whoever encodes or decodes it in a worker.
struct trap {
    enum class at { encode, decode } where;
    enum class by { exit, abort } how;
    void spring(at now) const {
        if (now != where || process_number() == parent) return;
        if (how == by::exit) std::exit(4);
        std::abort();
    }
    pid_t parent = process_number();
};

} // namespace

template <>
struct asyncio::codec<opaque> {
    static void encode(const opaque& value, encoder& out) { out.put(value.value()); }
    static opaque decode(decoder& in) {
        const int value = in.get<int>();
        if (value < 0) throw codec_error("opaque: negative");
        return opaque(value);
    }
};

template <>
struct asyncio::codec<trap> {
    static void encode(const trap& value, encoder& out) {
        value.spring(trap::at::encode);
        out.put(value.where);
        out.put(value.how);
        out.put(value.parent);
    }
    static trap decode(decoder& in) {
        trap value;
        value.where = in.get<trap::at>();
        value.how = in.get<trap::by>();
        value.parent = in.get<pid_t>();
        value.spring(trap::at::decode);
        return value;
    }
};

namespace {

template <class T>
concept travels = asyncio::detail::encodable<T>;

static_assert(travels<document> && travels<tree> && travels<list> && travels<opaque>);
static_assert(!travels<int*> && !travels<std::string_view> && !travels<std::vector<const char*>>);
static_assert(!travels<std::shared_ptr<int>> && !travels<derived_point>);
static_assert(!travels<std::reference_wrapper<int>> && !travels<void (*)()>);

// ---- codec --------------------------------------------------------------------------------------

TEST_SUITE("codec") {
TEST_CASE("what is encoded is decoded: numbers, texts, containers, times, structs") {
    CHECK(survives(-5));
    CHECK(survives(true));
    CHECK(survives(2.5));
    CHECK(survives(colour::green));
    CHECK(survives(std::string("a\0b", 3)));
    CHECK(survives(std::vector<double>{1, 2, 3}));
    CHECK(survives(std::vector<bool>{true, false, true}));
    CHECK(survives(std::vector<std::string>{"", "x"}));
    CHECK(survives(std::deque<int>{1, 2}));
    CHECK(survives(std::map<std::string, std::vector<int>>{{"a", {1}}, {"b", {}}}));
    CHECK(survives(std::unordered_map<int, std::string>{{1, "x"}}));
    CHECK(survives(std::set<std::string>{"q", "r"}));
    CHECK(survives(std::multimap<int, int>{{1, 2}, {1, 3}}));
    CHECK(survives(std::array<int, 3>{1, 2, 3}));
    CHECK(survives(std::array<int, 0>{}));
    CHECK(survives(std::array<std::string, 2>{"a", "b"}));
    CHECK(survives(std::optional<std::string>{}));
    CHECK(survives(std::variant<int, std::string>{"s"}));
    CHECK(survives(std::pair<int, std::string>{1, "s"}));
    CHECK(survives(std::tuple<int, std::string, bool>{1, "s", true}));
    CHECK(survives(std::tuple<>{}));
    CHECK(survives(std::monostate{}));
    CHECK(survives(std::chrono::milliseconds(5)));
    CHECK(survives(std::chrono::system_clock::now()));
    CHECK(survives(asyncio::duration(3s)));
    CHECK(survives(document{"t", {{1, 2.5}, {}}, {{"n", 3}}, colour::green, {{1, 2}, {3, 4}}}));
    CHECK(survives(tree{1, {{2, {}}, {3, {{4, {}}}}}}));
    CHECK(round_trip(opaque(4)).value() == 4);
    CHECK(round_trip(list{1, std::make_unique<list>(list{2, nullptr})}).next->value == 2);
}

TEST_CASE("errors of files, futures and any keep their types, and what they have beside a text") {
    const auto again = [](auto error) { return round_trip(std::make_exception_ptr(error)); };
    const std::filesystem::filesystem_error copied(
        "copy", "from here", "there", std::make_error_code(std::errc::no_space_on_device));
    try {
        std::rethrow_exception(again(copied));
    } catch (const std::filesystem::filesystem_error& error) {
        CHECK(error.code() == copied.code());
        CHECK(error.path1() == copied.path1());
        CHECK(error.path2() == copied.path2());
        CHECK(std::string(error.what()) == copied.what());
    }
    try {
        std::rethrow_exception(again(std::future_error(std::future_errc::broken_promise)));
    } catch (const std::future_error& error) {
        CHECK(error.code() == std::future_errc::broken_promise);
    }
    CHECK(support::holds<std::bad_any_cast>(again(std::bad_any_cast())));
    CHECK(support::holds<asyncio::circuit_open_error>(again(asyncio::circuit_open_error())));
}

TEST_CASE("random and damaged bytes give a codec_error or a value, and nothing else") {
    damage(tree{1, {{2, {}}, {3, {{4, {}}}}}});
    damage(document{"t", {{1, 2.5}, {}}, {{"n", 3}}, colour::green, {{1, 2}, {3, 4}}});
    damage(std::vector<std::variant<int, std::string>>{1, "x"});
    damage(std::vector<std::monostate>(3));
    damage(std::make_exception_ptr(std::runtime_error("x")));
    damage(std::make_exception_ptr(std::filesystem::filesystem_error("x", "p", {})));
}

TEST_CASE("a length that no bytes follow is refused before memory is taken") {
    const std::string bytes(8, '\xff');
    asyncio::decoder in(bytes);
    CHECK_THROWS_AS(in.get<std::vector<std::monostate>>(), asyncio::codec_error);
    asyncio::decoder again(bytes);
    CHECK_THROWS_AS(again.get<std::string>(), asyncio::codec_error);
}

TEST_CASE("a value nested deeper than the stack is refused on both sides") {
    list deep;
    for (int i = 0; i < 2000; ++i) {
        list next{i, std::make_unique<list>(std::move(deep))};
        deep = std::move(next);
    }
    asyncio::encoder out;
    CHECK_THROWS_AS(out.put(deep), asyncio::codec_error);
    const std::string ones(20000, '\1');
    asyncio::decoder in(ones);
    CHECK_THROWS_AS(in.get<list>(), asyncio::codec_error);
}

TEST_CASE("exceptions keep their type, text, code, cause and members") {
    const auto again = [](auto error) { return round_trip(std::make_exception_ptr(error)); };
    CHECK(support::message_of(again(std::out_of_range("far"))) == "far");
    CHECK(support::holds<std::out_of_range>(again(std::out_of_range("far"))));
    CHECK(support::holds<std::bad_alloc>(again(std::bad_alloc())));
    CHECK(support::holds<asyncio::timeout_error>(again(asyncio::timeout_error("late"))));
    CHECK(support::holds<asyncio::cancelled_error>(again(asyncio::cancelled_error("c"))));

    const std::system_error opened(
        std::make_error_code(std::errc::no_such_file_or_directory), "open");
    try {
        std::rethrow_exception(again(opened));
    } catch (const std::system_error& error) {
        CHECK(error.code() == opened.code());
        CHECK(std::string(error.what()) == opened.what());
    }

    struct private_error : std::runtime_error {
        using std::runtime_error::runtime_error;
    };
    try {
        std::rethrow_exception(again(private_error("mine")));
    } catch (const asyncio::remote_error& error) {
        CHECK(std::string(error.what()) == "mine");
        CHECK(error.type_name().find("private_error") != std::string::npos);
    }
    CHECK(support::holds<asyncio::remote_error>(again(42)));

    try {
        try {
            throw std::length_error("inner");
        } catch (...) {
            std::throw_with_nested(std::runtime_error("outer"));
        }
    } catch (...) {
        const auto back = round_trip(std::current_exception());
        CHECK(support::message_of(back) == "outer");
        try {
            std::rethrow_exception(back);
        } catch (const std::runtime_error& error) {
            try {
                std::rethrow_if_nested(error);
                FAIL("the cause is lost");
            } catch (const std::length_error& cause) {
                CHECK(std::string(cause.what()) == "inner");
            }
        }
    }

    const asyncio::exception_group group(
        "two", {std::make_exception_ptr(std::range_error("a")),
                std::make_exception_ptr(asyncio::exception_group(
                    "one", {std::make_exception_ptr(std::bad_cast())}))});
    try {
        std::rethrow_exception(again(group));
    } catch (const asyncio::exception_group& back) {
        CHECK(back.message() == "two");
        CHECK(back.contains<std::range_error>());
        CHECK(back.contains<std::bad_cast>());
    }
}
} // TEST_SUITE

// ---- concurrent futures -------------------------------------------------------------------------

TEST_SUITE("concurrent_future") {
TEST_CASE("CF-01: cancel() works while pending and again when cancelled, not when running or done") {
    auto pending = asyncio::concurrent_future<int>::create();
    CHECK(pending.cancel());
    CHECK(pending.cancelled());
    CHECK(pending.cancel());
    CHECK_FALSE(pending.set_running());

    auto running = asyncio::concurrent_future<int>::create();
    CHECK(running.set_running());
    CHECK(running.running());
    CHECK_FALSE(running.cancel());
    running.set_result(1);
    CHECK_FALSE(running.cancel());
    CHECK(running.result() == 1);
}

TEST_CASE("CF-02: result(timeout) and exception(timeout) time out and change nothing") {
    auto f = asyncio::concurrent_future<int>::create();
    int called = 0;
    f.add_done_callback([&] { ++called; });
    for (const bool running : {false, true}) {
        CAPTURE(running);
        if (running) CHECK(f.set_running());
        CHECK_THROWS_AS(f.result(0s), asyncio::timeout_error);
        CHECK_THROWS_AS(f.exception(-1s), asyncio::timeout_error);
        // Neither comes back before its time.
        const auto begin = std::chrono::steady_clock::now();
        CHECK_THROWS_AS(f.result(5ms), asyncio::timeout_error);
        const auto between = std::chrono::steady_clock::now();
        CHECK_THROWS_AS(f.exception(5ms), asyncio::timeout_error);
        CHECK(between - begin >= 5ms);
        CHECK(std::chrono::steady_clock::now() - between >= 5ms);
        CHECK_FALSE(f.done());
        CHECK_FALSE(f.cancelled());
        CHECK(f.running() == running);
        CHECK(called == 0);
    }
    f.set_result(5);
    CHECK(called == 1);
    CHECK(f.result(0s) == 5);
    CHECK(f.exception(0s) == nullptr);
}

TEST_CASE("CF-02: result() of an rvalue gives the handle away, however the job ended") {
    auto f = asyncio::concurrent_future<int>::create();
    CHECK_THROWS_AS(static_cast<void>(std::move(f).result(0s)), asyncio::timeout_error);
    CHECK(f.valid()); // nothing has changed
    f.set_exception(std::runtime_error("no"));
    CHECK_THROWS_WITH_AS(static_cast<void>(std::move(f).result()), "no", std::runtime_error);
    CHECK_FALSE(f.valid());
    CHECK_THROWS_AS(static_cast<void>(f.result()), asyncio::invalid_state_error);

    auto good = asyncio::concurrent_future<int>::create();
    const asyncio::concurrent_future<int> copy = good;
    good.set_result(3);
    CHECK(std::move(good).result() == 3);
    CHECK_FALSE(good.valid());
    CHECK(copy.result() == 3);
}

TEST_CASE("CF-04: an outcome that is a null exception is refused, and there is none yet") {
    auto f = asyncio::concurrent_future<int>::create();
    CHECK_THROWS_AS(f.set_exception(std::exception_ptr()), std::invalid_argument);
    CHECK_FALSE(f.done());
    f.set_result(3);
    CHECK(f.result() == 3);
}

TEST_CASE("CF-02: who waits with a timeout is woken by the outcome, long before it") {
    auto f = asyncio::concurrent_future<int>::create();
    std::atomic<int> id{0};
    int value = 0;
    std::thread waiter([&] {
        id = support::thread_id();
        value = f.result(1h);
    });
    support::wait_until_asleep(id);
    f.set_result(5);
    waiter.join();
    CHECK(value == 5);
}

// Where time_t has 32 bits, the system takes such a moment for one that is over.
TEST_CASE("who waits for a hundred years sleeps in the meantime") {
    const auto used = [] {
        timespec time = {};
        ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
        return std::chrono::nanoseconds(std::chrono::seconds(time.tv_sec)) +
               std::chrono::nanoseconds(time.tv_nsec);
    };
    auto f = asyncio::concurrent_future<int>::create();
    std::atomic<bool> begun{false};
    std::chrono::nanoseconds waiting{};
    std::thread waiter([&] {
        const auto before = used();
        begun = true;
        CHECK(f.result(100 * 365 * 24h) == 5);
        waiting = used() - before;
    });
    while (!begun) std::this_thread::yield();
    const auto before = used();
    while (used() - before < 50ms) {}
    f.set_result(5);
    waiter.join();
    CHECK(waiting < 25ms);
}

TEST_CASE("CF-02: a cancelled one throws cancelled_error, also in threads that wait already") {
    auto f = asyncio::concurrent_future<int>::create();
    const std::array<std::function<void()>, 4> ways{
        [&] { static_cast<void>(f.result()); },
        [&] { static_cast<void>(f.exception()); },
        [&] { static_cast<void>(f.result(1h)); },
        [&] { static_cast<void>(f.exception(1h)); },
    };
    std::array<std::atomic<int>, 4> ids{};
    std::vector<std::thread> waiters;
    for (std::size_t i = 0; i < ways.size(); ++i)
        waiters.emplace_back([&, i] {
            ids[i] = support::thread_id();
            CHECK_THROWS_AS(ways[i](), asyncio::cancelled_error);
        });
    for (const std::atomic<int>& id : ids) support::wait_until_asleep(id);
    CHECK(f.cancel());
    for (std::thread& waiter : waiters) waiter.join();
    for (const auto& way : ways) CHECK_THROWS_AS(way(), asyncio::cancelled_error);
}

TEST_CASE("a callback on a pool's thread may wait for another job of the pool") {
    asyncio::thread_pool_executor pool(2);
    gate go;
    gate waited;
    int got = 0;
    auto first = pool.submit(go.waiting());
    first.add_done_callback([&] {
        got = pool.submit([] { return 7; }).result();
        waited.open();
    });
    go.open();
    waited.waiting()();
    CHECK(got == 7);
}

TEST_CASE("a callback that takes the future keeps the value from being moved out") {
    asyncio::thread_pool_executor pool(1);
    gate go;
    auto f = pool.submit([opened = go.waiting()] {
        opened();
        return std::string("a value that is long enough to be moved");
    });
    std::string taken;
    std::string seen;
    // The first one takes what it can, as a thread does that wakes before the others run.
    f.add_done_callback([&] { taken = std::move(f).result(); });
    f.add_done_callback([&](asyncio::concurrent_future<std::string> done) {
        seen = std::move(done).result();
    });
    go.open();
    pool.shutdown();
    CHECK(taken == "a value that is long enough to be moved");
    CHECK(seen == taken);
}

TEST_CASE("CF-03: callbacks run in order in the completing thread; one that throws stops no other") {
    auto f = asyncio::concurrent_future<int>::create();
    std::vector<std::string> calls;
    std::thread::id where;
    f.add_done_callback([&](asyncio::concurrent_future<int> done) {
        calls.push_back("first " + std::to_string(done.result()));
        where = std::this_thread::get_id();
    });
    f.add_done_callback([&] {
        calls.push_back("second");
        throw std::runtime_error("no luck");
    });
    f.add_done_callback([&] { calls.push_back("third"); });
    support::captured_stderr quiet;
    std::thread completing([&] { f.set_result(7); });
    const std::thread::id completer = completing.get_id();
    completing.join();
    CHECK(quiet.taken().find("no luck") != std::string::npos);
    CHECK(calls == std::vector<std::string>{"first 7", "second", "third"});
    CHECK(where == completer);
    f.add_done_callback([&] { calls.push_back("late"); });
    CHECK(calls.back() == "late");
}

TEST_CASE("CF-04: a second outcome is refused and the first kept") {
    auto f = asyncio::concurrent_future<int>::create();
    f.set_result(1);
    CHECK_THROWS_AS(f.set_result(2), asyncio::invalid_state_error);
    CHECK_THROWS_AS(f.set_exception(std::runtime_error("x")), asyncio::invalid_state_error);
    CHECK(f.result() == 1);
    auto gone = asyncio::concurrent_future<int>::create();
    gone.cancel();
    CHECK_THROWS_AS(gone.set_result(2), asyncio::invalid_state_error);
}

TEST_CASE("CF-05: wait() returns when told, counts duplicates once and throws no timeout") {
    std::vector<asyncio::concurrent_future<int>> all;
    for (int i = 0; i < 3; ++i) all.push_back(asyncio::concurrent_future<int>::create());
    all.push_back(all[0]);

    auto none = asyncio::concurrent::wait(all, {.timeout = 0s});
    CHECK(none.done.empty());
    CHECK(none.pending.size() == 3);

    all[1].set_result(1);
    auto first =
        asyncio::concurrent::wait(all, {.return_when = asyncio::return_when::first_completed});
    REQUIRE(first.done.size() == 1);
    CHECK(first.done[0] == all[1]);
    CHECK(first.pending.size() == 2);

    std::thread failing([&] { all[2].set_exception(std::runtime_error("x")); });
    auto failed =
        asyncio::concurrent::wait(all, {.return_when = asyncio::return_when::first_exception});
    failing.join();
    CHECK(failed.done.size() == 2);
    CHECK(failed.pending.size() == 1);

    all.push_back(asyncio::concurrent_future<int>::create());
    all.back().cancel(); // done, but no exception
    std::vector<asyncio::concurrent_future<int>> others{all[0], all[1], all.back()};
    auto calm = asyncio::concurrent::wait(
        others, {.timeout = 0s, .return_when = asyncio::return_when::first_exception});
    CHECK(calm.done.size() == 2);
    std::thread failing_last([&] { all[0].set_exception(std::runtime_error("y")); });
    calm = asyncio::concurrent::wait(others,
                                     {.return_when = asyncio::return_when::first_exception});
    failing_last.join();
    CHECK(calm.done.size() == 3); // it waited for the failure
    all.pop_back();
    auto everything = asyncio::concurrent::wait(all);
    CHECK(everything.done.size() == 3);
    CHECK(everything.pending.empty());
}

TEST_CASE("CF-06: as_completed() gives the finished ones first, each once, and times out") {
    std::vector<asyncio::concurrent_future<int>> all;
    for (int i = 0; i < 3; ++i) all.push_back(asyncio::concurrent_future<int>::create());
    all.push_back(all[2]);
    all[2].set_result(2);
    auto next = asyncio::concurrent::as_completed(all);
    std::vector<int> order;
    order.push_back(next.next()->result());
    all[1].set_result(1);
    order.push_back(next.next()->result());
    all[0].set_result(0);
    for (auto& f : next) order.push_back(f.result());
    CHECK(order == std::vector<int>{2, 1, 0});

    std::vector<asyncio::concurrent_future<int>> never{asyncio::concurrent_future<int>::create()};
    auto late = asyncio::concurrent::as_completed(never, {.timeout = 1ms});
    CHECK_THROWS_AS(static_cast<void>(late.next()), asyncio::timeout_error);
}

TEST_CASE("futures are keys of what their jobs were given, as in Python's first example") {
    asyncio::thread_pool_executor pool(2);
    std::map<asyncio::concurrent_future<int>, int> ordered;
    std::unordered_map<asyncio::concurrent_future<int>, int> hashed;
    for (const int i : {1, 2, 3}) {
        const auto square = pool.submit([](int x) { return x * x; }, i);
        ordered[square] = hashed[square] = i;
        ++hashed[asyncio::concurrent_future<int>(square)];
    }
    CHECK(hashed.size() == 3);
    int seen = 0;
    for (const auto& f : asyncio::concurrent::as_completed(ordered | std::views::keys)) {
        CHECK(f.result() == ordered.at(f) * ordered.at(f));
        CHECK(hashed.at(f) == ordered.at(f) + 1);
        ++seen;
    }
    CHECK(seen == 3);
}

TEST_CASE("CF-07: map() gives results in order, and an error when its element is reached") {
    asyncio::thread_pool_executor pool(3);
    std::vector<int> squares;
    for (int n : pool.map([](int v) { return v * v; }, std::vector<int>{1, 2, 3, 4}))
        squares.push_back(n);
    CHECK(squares == std::vector<int>{1, 4, 9, 16});

    auto some = pool.map(
        [](int v) {
            if (v == 0) throw std::invalid_argument("zero");
            return 12 / v;
        },
        std::vector<int>{1, 2, 0, 4}, {.chunksize = 3});
    CHECK(*some.next() == 12);
    CHECK(*some.next() == 6);
    CHECK_THROWS_AS(static_cast<void>(some.next()), std::invalid_argument);
    CHECK_FALSE(some.next());

    int read = 0;
    auto ahead = pool.map(
        [](int v) { return v; },
        [&] {
            std::vector<int> numbers(10);
            std::iota(numbers.begin(), numbers.end(), 0);
            return numbers;
        }(),
        {.buffersize = 2});
    while (auto v = ahead.next()) CHECK(*v == read++);
    CHECK(read == 10);
}

TEST_CASE("map() leaves what a view shows where it is") {
    asyncio::thread_pool_executor pool(1);
    const std::string text = "text that is too long for a string without memory";
    std::vector<std::string> items{text, "b"};
    const auto size = [](std::string item) { return item.size(); };
    for (const std::size_t n : pool.map(size, items | std::views::take(1))) CHECK(n == text.size());
    CHECK(items.front() == text);
}

TEST_CASE("CF-07: a timeout of map() counts from the call and takes back what has not begun") {
    asyncio::thread_pool_executor pool(1);
    gate closed;
    std::atomic<int> begun{0};
    auto blocked = closed.waiting();
    auto results = pool.map(
        [&](int v) {
            ++begun;
            blocked();
            return v;
        },
        std::vector<int>{1, 2, 3}, {.timeout = 1ms});
    CHECK_THROWS_AS(static_cast<void>(results.next()), asyncio::timeout_error);
    closed.open();
    pool.shutdown();
    CHECK(begun <= 1);
}

TEST_CASE("CF-07: a timeout of map() takes back the job whose result was waited for, too") {
    asyncio::thread_pool_executor pool(1);
    gate closed;
    std::atomic<int> begun{0};
    auto blocked = pool.submit(closed.waiting());
    auto results = pool.map([&](int) { return ++begun; }, std::vector<int>{1, 2},
                            {.timeout = 0s});
    CHECK_THROWS_AS(static_cast<void>(results.next()), asyncio::timeout_error);
    CHECK_FALSE(results.next());
    closed.open();
    pool.shutdown();
    CHECK(blocked.done());
    CHECK(begun == 0);
}

TEST_CASE("CF-07: a map() nobody asks for results runs all; leaving early takes back the rest") {
    for (const bool asked : {false, true}) {
        CAPTURE(asked);
        asyncio::thread_pool_executor pool(1);
        gate closed;
        std::atomic<int> begun{0};
        const auto count = [&, wait = closed.waiting()](int v) {
            if (v > 0) wait();
            return ++begun;
        };
        {
            auto results = pool.map(count, std::vector<int>{0, 1, 2, 3});
            if (asked) CHECK(*results.next() == 1);
        }
        closed.open();
        pool.shutdown();
        if (asked) CHECK(begun <= 2);
        else CHECK(begun == 4);
    }
}

ASYNC_TEST_CASE("a concurrent future is awaited, also by several tasks and after it is done") {
    auto f = asyncio::concurrent_future<std::string>::create();
    auto read = [f]() -> asyncio::coro<std::string> { co_return co_await f; };
    auto a = asyncio::create_task(read);
    auto b = asyncio::create_task(read);
    co_await support::turns(2);
    std::thread setting([f] { f.set_result("x"); });
    const std::string from_a = co_await a;
    const std::string from_b = co_await b;
    setting.join();
    CHECK(from_a == "x");
    CHECK(from_b == "x");
    const std::string again = co_await f;
    CHECK(again == "x");
}

ASYNC_TEST_CASE("a move-only result comes through threads and processes") {
    asyncio::thread_pool_executor threads(1);
    auto made = threads.submit([] { return std::make_unique<int>(3); });
    const std::unique_ptr<int> three = co_await std::move(made);
    CHECK(*three == 3);
    asyncio::process_pool_executor processes(1);
    auto four = std::make_unique<int>(4);
    auto sent = processes.submit([](std::unique_ptr<int> p) { return p; }, std::move(four));
    const std::unique_ptr<int> back = co_await std::move(sent);
    CHECK(*back == 4);
}
} // TEST_SUITE

// ---- threads ------------------------------------------------------------------------------------

TEST_SUITE("thread_pool_executor") {
TEST_CASE("EX-01: the number of workers is positive, or left out") {
    CHECK_THROWS_AS(asyncio::thread_pool_executor(0), std::invalid_argument);
    CHECK_THROWS_AS(asyncio::thread_pool_executor(-1), std::invalid_argument);
    asyncio::thread_pool_executor pool;
    CHECK(pool.submit(add, 1, 2).result() == 3);
}

TEST_CASE("EX-02: jobs one after the other run on one thread, 60 blocking ones on four") {
    {
        asyncio::thread_pool_executor pool(4);
        std::set<std::thread::id> used;
        for (int i = 0; i < 50; ++i) used.insert(pool.submit(thread_number).result());
        CHECK(used.size() == 1);
    }
    asyncio::thread_pool_executor pool(4);
    std::atomic<int> inside{0};
    support::flag four; // jobs are inside at the same time
    std::mutex mutex;
    std::set<std::thread::id> used;
    std::vector<asyncio::concurrent_future<void>> jobs;
    for (int i = 0; i < 60; ++i)
        jobs.push_back(pool.submit([&, i] {
            if (++inside == 4) four.set();
            if (i < 4) four.wait();
            const std::lock_guard lock(mutex);
            used.insert(std::this_thread::get_id());
        }));
    for (auto& job : jobs) job.result();
    CHECK(used.size() == 4);
}

TEST_CASE("EX-03: submit() after shutdown() throws; shutdown() may be repeated") {
    asyncio::thread_pool_executor pool(1);
    pool.shutdown();
    pool.shutdown();
    CHECK_THROWS_AS(static_cast<void>(pool.submit(add, 1, 2)), std::runtime_error);
}

TEST_CASE("EX-04: shutdown() and the destructor wait until all queued jobs have run") {
    std::atomic<int> done{0};
    {
        asyncio::thread_pool_executor pool(2);
        for (int i = 0; i < 20; ++i) pool.submit([&] { ++done; });
    }
    CHECK(done == 20);
    asyncio::thread_pool_executor pool(2);
    for (int i = 0; i < 20; ++i) pool.submit([&] { ++done; });
    pool.shutdown();
    CHECK(done == 40);
}

TEST_CASE("EX-05: shutdown(wait = false) returns at once, and queued jobs still run") {
    asyncio::thread_pool_executor pool(1);
    gate closed;
    auto blocked = pool.submit(closed.waiting());
    auto queued = pool.submit(add, 1, 2);
    pool.shutdown({.wait = false});
    CHECK_FALSE(queued.done());
    closed.open();
    CHECK(queued.result() == 3);
}

TEST_CASE("EX-06: shutdown(cancel_futures = true) cancels what has not begun; nothing is left") {
    asyncio::thread_pool_executor pool(1);
    gate closed;
    std::promise<void> begun;
    auto running = pool.submit([&, wait = closed.waiting()] {
        begun.set_value();
        wait();
    });
    auto queued = pool.submit(add, 1, 2);
    begun.get_future().wait();
    queued.add_done_callback([&] { closed.open(); });
    pool.shutdown({.wait = true, .cancel_futures = true});
    CHECK(queued.cancelled());
    CHECK(running.done());
    CHECK_FALSE(running.cancelled());
}

TEST_CASE("EX-07: the initializer runs once per thread, before the first job") {
    std::atomic<int> calls{0};
    asyncio::thread_pool_executor pool(
        2, {.thread_name_prefix = "worker", .initializer = [&calls] { ++calls; }});
    CHECK(pool.submit([&] { return calls.load(); }).result() == 1);
    for (int i = 0; i < 5; ++i) pool.submit(add, i, i).result();
    CHECK(calls == 1);
}

TEST_CASE("EX-07: options keep their initializer, whatever becomes of what it was made of") {
    static std::atomic<int> calls;
    calls = 0;
    asyncio::thread_pool_options options;
    {
        std::function<void()> once = [number = std::make_unique<int>(1).release()] {
            calls += *number;
            delete number;
        };
        options.initializer = std::move(once);
    }
    asyncio::thread_pool_executor pool(1, options);
    CHECK(pool.submit([] { return calls.load(); }).result() == 1);
    void (*named)() = [] { calls += 10; };
    options.initializer = named;
    named = nullptr;
    asyncio::thread_pool_executor other(1, options);
    CHECK(other.submit([] { return calls.load(); }).result() == 11);
}

TEST_CASE("EX-07: an initializer that throws breaks the pool") {
    asyncio::thread_pool_executor pool(1, {.initializer = [] { throw std::runtime_error("no"); }});
    std::vector<asyncio::concurrent_future<int>> jobs;
    try {
        for (int i = 0; i < 3; ++i) jobs.push_back(pool.submit(add, i, i));
    } catch (const asyncio::broken_executor&) {
    }
    REQUIRE(!jobs.empty());
    for (auto& job : jobs)
        CHECK_THROWS_AS(static_cast<void>(job.result()), asyncio::broken_executor);
    CHECK_THROWS_AS(static_cast<void>(pool.submit(add, 1, 2)), asyncio::broken_executor);
}

TEST_CASE("EX-08: whatever a job throws is in its future, and the worker goes on") {
    asyncio::thread_pool_executor pool(1);
    const auto first = pool.submit(thread_number).result();
    auto fatal = pool.submit([] { throw asyncio::keyboard_interrupt("stop"); });
    CHECK_THROWS_AS(fatal.result(), asyncio::keyboard_interrupt);
    auto number = pool.submit([] { throw 42; });
    CHECK_THROWS_AS(number.result(), int);
    CHECK(pool.submit(thread_number).result() == first);
}

ASYNC_TEST_CASE("with(pool, body) shuts the pool down without blocking the loop") {
    bool ticked = false;
    gate closed;
    asyncio::concurrent_future<void> job;
    auto ticker = [&]() -> asyncio::coro<> {
        co_await asyncio::sleep(0s);
        ticked = true;
        closed.open();
    };
    auto ticking = asyncio::create_task(ticker);
    co_await asyncio::with(asyncio::thread_pool_executor(1),
                           [&](asyncio::thread_pool_executor& pool) -> asyncio::coro<> {
                               job = pool.submit(closed.waiting());
                               co_return;
                           });
    CHECK(ticked);
    CHECK(job.done());
    co_await ticking;
}
} // TEST_SUITE

// ---- the loop and threads -----------------------------------------------------------------------

TEST_SUITE("threads and the loop") {
ASYNC_TEST_CASE("TH-01: to_thread runs the function once in another thread; the loop goes on") {
    std::atomic<int> calls{0};
    const auto here = std::this_thread::get_id();
    const auto there = co_await asyncio::to_thread([&] {
        ++calls;
        return std::this_thread::get_id();
    });
    CHECK(there != here);
    CHECK(calls == 1);
    CHECK_AWAIT_THROWS_AS(asyncio::to_thread([] { throw std::domain_error("x"); }),
                          std::domain_error);

    gate closed;
    auto open = [&]() -> asyncio::coro<> {
        co_await asyncio::sleep(0s);
        closed.open();
    };
    auto opening = asyncio::create_task(open);
    auto blocked = closed.waiting();
    co_await asyncio::to_thread(blocked);
    co_await opening;
}

asyncio::context_var<int> request("request", 0);

ASYNC_TEST_CASE("TH-02: to_thread's function sees the context variables, in a copy") {
    request.set(5);
    const int seen = co_await asyncio::to_thread([] {
        const int before = request.get();
        request.set(9);
        return before;
    });
    CHECK(seen == 5);
    CHECK(request.get() == 5);
    const int bare = co_await asyncio::run_in_executor(nullptr, [] { return request.get(); });
    CHECK(bare == 0);
}

ASYNC_TEST_CASE("TH-03: a cancelled to_thread ends at once; the function runs to its end") {
    const auto reports = support::collect_reports();
    gate closed;
    std::promise<void> begun;
    bool ended = false;
    auto work = [&, wait = closed.waiting()] {
        begun.set_value();
        wait();
        ended = true;
        throw std::runtime_error("too late");
    };
    auto task = asyncio::create_task(asyncio::to_thread(work));
    co_await support::turns(2);
    begun.get_future().wait();
    task.cancel();
    CHECK_AWAIT_THROWS_AS(task, asyncio::cancelled_error);
    closed.open();
    co_await asyncio::get_running_loop().shutdown_default_executor(); // waits for its threads
    CHECK(ended);
    co_await support::turns(2);
    CHECK(reports->empty()); // nobody is left whom the error concerns
}

ASYNC_TEST_CASE("a task that awaits a thread's concurrent future itself is cancelled at once, too") {
    asyncio::thread_pool_executor pool(1);
    gate closed;
    std::promise<void> begun;
    auto job = pool.submit([&, wait = closed.waiting()] {
        begun.set_value();
        wait();
    });
    auto wait = [job]() -> asyncio::coro<> { co_await job; };
    auto task = asyncio::create_task(wait);
    co_await support::turns(2);
    begun.get_future().wait();
    task.cancel();
    CHECK_AWAIT_THROWS_AS(task, asyncio::cancelled_error);
    CHECK(job.running());
    closed.open();
    job.result();
}

ASYNC_TEST_CASE("TH-04: a queued job whose future is cancelled never runs") {
    asyncio::thread_pool_executor pool(1);
    gate closed;
    bool ran = false;
    auto blocked = closed.waiting();
    auto first = asyncio::run_in_executor(pool, blocked);
    auto second = asyncio::run_in_executor(pool, [&] { ran = true; });
    second.cancel();
    closed.open();
    co_await first;
    CHECK_AWAIT_THROWS_AS(second, asyncio::cancelled_error);
    pool.shutdown();
    CHECK_FALSE(ran);
}

ASYNC_TEST_CASE("the future of a job is pending when it is given out, however fast the job was") {
    int done_at_once = 0;
    for (int i = 0; i < 500; ++i) {
        const auto job = asyncio::run_in_executor(nullptr, [] { return 1; });
        done_at_once += job.done() ? 1 : 0;
        co_await job;
    }
    CHECK(done_at_once == 0);
}

TEST_CASE("TH-05: call_soon_threadsafe wakes a loop that sleeps, and runs in its thread") {
    asyncio::event_loop loop;
    std::thread::id where;
    const std::atomic<int> loop_thread{support::thread_id()};
    std::thread caller;
    loop.call_soon([&] {
        caller = std::thread([&] {
            support::wait_until_asleep(loop_thread);
            loop.call_soon_threadsafe([&] {
                where = std::this_thread::get_id();
                loop.stop();
            });
        });
    });
    loop.run_forever();
    caller.join();
    CHECK(where == std::this_thread::get_id());
}

TEST_CASE("TH-06: call_soon_threadsafe on a closed loop throws in the calling thread") {
    asyncio::event_loop loop;
    loop.close();
    std::thread caller(
        [&] { CHECK_THROWS_AS(loop.call_soon_threadsafe([] {}), std::runtime_error); });
    caller.join();
}

TEST_CASE("TH-07: a handle cancelled by the other thread before it runs never runs") {
    asyncio::event_loop loop;
    bool ran = false;
    std::thread caller([&] { loop.call_soon_threadsafe([&] { ran = true; }).cancel(); });
    caller.join();
    loop.call_soon([&] { loop.stop(); });
    loop.run_forever();
    CHECK_FALSE(ran);
}

// Runs `body` in another thread while a loop runs in this one.
template <class F>
void beside_a_loop(F body) {
    asyncio::event_loop loop;
    std::thread other([&] {
        body(loop);
        loop.call_soon_threadsafe([&] { loop.stop(); });
    });
    loop.run_forever();
    other.join();
}

asyncio::coro<int> answer() {
    co_await asyncio::sleep(0s);
    co_return 42;
}
asyncio::coro<> fails_in_loop() {
    co_await asyncio::sleep(0s);
    throw std::range_error("no");
}
asyncio::coro<> waits_for_ever() { co_await asyncio::create_future<void>(); }

TEST_CASE("TH-08: run_coroutine_threadsafe gives the result, the exception, or a timeout") {
    beside_a_loop([](asyncio::event_loop& loop) {
        CHECK(asyncio::run_coroutine_threadsafe(answer(), loop).result() == 42);
        CHECK_THROWS_AS(asyncio::run_coroutine_threadsafe(fails_in_loop(), loop).result(),
                        std::range_error);
        asyncio::event may_end;
        auto work = [&]() -> asyncio::coro<int> {
            co_await may_end.wait();
            co_return 7;
        };
        auto late = asyncio::run_coroutine_threadsafe(work, loop);
        CHECK_THROWS_AS(late.result(1ms), asyncio::timeout_error);
        CHECK_FALSE(late.done());
        loop.call_soon_threadsafe([&] { may_end.set(); });
        CHECK(late.result() == 7); // it went on
    });
}

TEST_CASE("TH-09: cancelling the thread's future cancels the task in the loop") {
    std::promise<bool> cancelled;
    beside_a_loop([&](asyncio::event_loop& loop) {
        std::promise<void> begun;
        auto work = [&]() -> asyncio::coro<> {
            asyncio::current_task().add_done_callback(
                [&](const asyncio::any_task& task) { cancelled.set_value(task.cancelled()); });
            begun.set_value();
            co_await asyncio::create_future<void>();
        };
        auto f = asyncio::run_coroutine_threadsafe(work, loop);
        begun.get_future().wait();
        CHECK(f.cancel());
        CHECK(cancelled.get_future().get());
        CHECK(f.cancelled());
    });
}

TEST_CASE("TH-10: a coroutine that ends cancelled cancels the thread's future") {
    beside_a_loop([](asyncio::event_loop& loop) {
        auto work = []() -> asyncio::coro<> {
            asyncio::current_task().cancel();
            co_await asyncio::sleep(0s);
        };
        auto f = asyncio::run_coroutine_threadsafe(work, loop);
        CHECK_THROWS_AS(f.result(), asyncio::cancelled_error);
        CHECK(f.cancelled());
    });
}

TEST_CASE("a thread that waits for a loop that goes away is told so") {
    asyncio::concurrent_future<void> f;
    {
        asyncio::event_loop loop;
        f = asyncio::run_coroutine_threadsafe(waits_for_ever(), loop);
        loop.call_soon([&] { loop.stop(); });
        loop.run_forever();
    }
    CHECK_THROWS_AS(f.result(), asyncio::cancelled_error);
}

ASYNC_TEST_CASE("TH-11: run_in_executor after shutdown_default_executor throws") {
    const int three = co_await asyncio::run_in_executor(nullptr, add, 1, 2);
    CHECK(three == 3);
    asyncio::event_loop& loop = asyncio::get_running_loop();
    co_await loop.shutdown_default_executor();
    std::atomic<bool> ran{false};
    const auto note = [&ran] { ran = true; };
    CHECK_THROWS_WITH_AS(static_cast<void>(asyncio::run_in_executor(nullptr, note)),
                         doctest::Contains("shut down"), std::runtime_error);
    CHECK_THROWS_WITH_AS(static_cast<void>(loop.run_in_executor(nullptr, note)),
                         doctest::Contains("shut down"), std::runtime_error);
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::to_thread(note), "shut down", std::runtime_error);
    CHECK_FALSE(ran);
    co_await loop.shutdown_default_executor(); // a second time does nothing
    // Other executors go on.
    asyncio::thread_pool_executor own(1);
    co_await asyncio::run_in_executor(own, note);
    CHECK(ran);
}

// What is no thread pool does not compile: compile/waiting.cpp.
ASYNC_TEST_CASE("TH-11: the default executor is the pool that was set; there must be one") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    CHECK_THROWS_AS(loop.set_default_executor(std::shared_ptr<asyncio::thread_pool_executor>()),
                    std::invalid_argument);
    const auto pool = std::make_shared<asyncio::thread_pool_executor>(1);
    loop.set_default_executor(pool);
    const std::thread::id there =
        co_await asyncio::run_in_executor(*pool, [] { return std::this_thread::get_id(); });
    const std::thread::id here =
        co_await asyncio::to_thread([] { return std::this_thread::get_id(); });
    CHECK(here == there);
    CHECK(here != std::this_thread::get_id());
    co_await loop.shutdown_default_executor();
    CHECK_THROWS_AS(static_cast<void>(pool->submit([] {})), std::runtime_error);
}
} // TEST_SUITE

// ---- processes ----------------------------------------------------------------------------------

int global = 1;

TEST_SUITE("isolated_executor") {
#if !defined(_WIN32) // workers.cpp has what stands for these there
ASYNC_TEST_CASE("PP-01: a worker that is killed costs only its job, and is replaced") {
    meeting_point meeting;
    asyncio::isolated_executor pool(1);
    auto doomed = pool.submit(never_ends, meeting.path());
    auto queued = pool.submit(add, 1, 2);
    ::kill(meeting.arrived(), SIGKILL);
    int signal = 0;
    try {
        co_await doomed;
    } catch (const asyncio::worker_crashed& error) {
        signal = error.signal();
    }
    CHECK(signal == SIGKILL);
    const int three = co_await queued;
    CHECK(three == 3);
    const int seven = co_await pool.submit(add, 3, 4);
    CHECK(seven == 7);
}

ASYNC_TEST_CASE("PP-01: a worker that dies idle costs no job at all") {
    asyncio::isolated_executor pool(1);
    for (int round = 0; round < 5; ++round) {
        const pid_t pid = co_await pool.submit(process_number);
        ::kill(pid, SIGKILL);
        while (!is_gone(pid)) std::this_thread::yield();
        const int three = co_await pool.submit(add, 1, 2);
        CHECK(three == 3);
    }
}

#endif

ASYNC_TEST_CASE("PP-02: a pool that cannot start its workers breaks, and shutdown() returns") {
    asyncio::isolated_executor pool(1, {.initializer = [] { std::_Exit(9); }});
    CHECK_AWAIT_THROWS_WITH_AS(pool.submit(add, 1, 2), "exit code 9", asyncio::broken_executor);
    CHECK_THROWS_AS(static_cast<void>(pool.submit(add, 1, 2)), asyncio::broken_executor);
    pool.shutdown();
}

ASYNC_TEST_CASE("PP-03: a job's error comes back as what it was; the pool stays usable") {
    asyncio::isolated_executor pool(1);
    CHECK_AWAIT_THROWS_WITH_AS(
        pool.submit([](int v) { throw std::out_of_range("no " + std::to_string(v)); }, 3), "no 3",
        std::out_of_range);
    CHECK_AWAIT_THROWS_AS(pool.submit([] { throw asyncio::cancelled_error("x"); }),
                          asyncio::cancelled_error);
    CHECK_AWAIT_THROWS_AS(pool.submit([] { throw 42; }), asyncio::remote_error);
    const int three = co_await pool.submit(add, 1, 2);
    CHECK(three == 3);
}

TEST_CASE("PP-04: what cannot be encoded is refused by submit(), and nothing is stuck") {
    asyncio::isolated_executor pool(1);
    list deep;
    for (int i = 0; i < 2000; ++i) {
        list next{i, std::make_unique<list>(std::move(deep))};
        deep = std::move(next);
    }
    CHECK_THROWS_AS(static_cast<void>(pool.submit([](list l) { return l.value; }, std::move(deep))),
                    asyncio::codec_error);
    asyncio::executor& any = pool;
    int x = 1;
    CHECK_THROWS_AS(static_cast<void>(any.submit([&x] { return x; })), asyncio::codec_error);
    CHECK_THROWS_AS(static_cast<void>(any.submit([](int* p) { return *p; }, &x)),
                    asyncio::codec_error);
    CHECK(any.submit(add, 1, 2).result() == 3);
    pool.shutdown();
}

ASYNC_TEST_CASE("PP-05: what a worker or the parent cannot decode fails that job only") {
    asyncio::isolated_executor pool(1);
    CHECK_AWAIT_THROWS_WITH_AS(pool.submit([](opaque o) { return o.value(); }, opaque(-1)),
                               "opaque: negative", asyncio::codec_error);
    CHECK_AWAIT_THROWS_WITH_AS(pool.submit([] { return opaque(-1); }), "opaque: negative",
                               asyncio::codec_error);
    const int three = co_await pool.submit(add, 1, 2);
    CHECK(three == 3);
}

ASYNC_TEST_CASE("PP-05: a codec that ends its worker costs that job only") {
    asyncio::isolated_executor pool(1);
    const auto same = [](trap value) { return value; };
    for (const auto where : {trap::at::encode, trap::at::decode})
        for (const auto how : {trap::by::exit, trap::by::abort}) {
            auto lost = pool.submit(same, trap{where, how});
            auto next = pool.submit(add, 1, 2);
            CHECK_AWAIT_THROWS_AS(lost, asyncio::worker_crashed);
            const int three = co_await next;
            CHECK(three == 3);
        }
}

ASYNC_TEST_CASE("PP-06: an initializer that throws in every worker breaks the pool") {
    asyncio::isolated_executor pool(2, {.initializer = [] { throw std::runtime_error("no way"); }});
    CHECK_AWAIT_THROWS_WITH_AS(pool.submit(add, 1, 2), "no way", asyncio::broken_executor);
    CHECK_THROWS_AS(static_cast<void>(pool.submit(add, 1, 2)), asyncio::broken_executor);
}

TEST_CASE("PP-06: an initializer runs before the first job of each worker") {
    asyncio::isolated_executor pool(1, {.initializer = [] { global = 7; }});
    CHECK(pool.submit([] { return global; }).result() == 7);
    CHECK(global == 1);
}

TEST_CASE("PP-07: max_tasks_per_child replaces the worker, with every start method") {
    for (const auto start : all_start_methods) {
        CAPTURE(static_cast<int>(start));
        asyncio::isolated_executor pool(1, {.start = start, .max_tasks_per_child = 3});
        std::vector<pid_t> pids;
        for (int i = 0; i < 4; ++i) pids.push_back(pool.submit(process_number).result());
        CHECK(pids[0] == pids[1]);
        CHECK(pids[1] == pids[2]);
        CHECK(pids[3] != pids[2]);
        CHECK(pids[0] != process_number());
    }
    CHECK_THROWS_AS(asyncio::isolated_executor(1, {.max_tasks_per_child = 0}),
                    std::invalid_argument);
}

TEST_CASE("PP-08: shutdown(cancel_futures = true) cancels queued jobs; begun ones complete") {
    meeting_point meeting;
    meeting_point leaving;
    asyncio::isolated_executor pool(1);
    auto running = pool.submit(
        [](std::string in, std::string out) {
            arrive(in);
            arrive(out);
            return 5;
        },
        meeting.path(), leaving.path());
    auto queued = pool.submit(add, 1, 2);
    meeting.arrived();
    pool.shutdown({.wait = false, .cancel_futures = true});
    leaving.arrived();
    pool.shutdown();
    CHECK(queued.cancelled());
    CHECK(running.result() == 5);
}

TEST_CASE("IP-01: what a job changes is seen by nobody else") {
    asyncio::isolated_executor pool(1);
    CHECK(pool.submit([] { return ++global; }).result() == 2);
    CHECK(pool.submit([] { return ++global; }).result() == 3);
    CHECK(global == 1);
    asyncio::isolated_executor other(1);
    CHECK(other.submit([] { return ++global; }).result() == 2);
}

TEST_CASE("IP-02: a job's error on an isolated thread comes back; the pool stays usable") {
    asyncio::interpreter_pool_executor pool(1);
    CHECK_THROWS_AS(pool.submit([] { throw std::range_error("x"); }).result(), std::range_error);
    CHECK(pool.submit(add, 1, 2).result() == 3);
    CHECK_THROWS_AS(asyncio::interpreter_pool_executor(1, {.job_timeout = 1s}),
                    std::invalid_argument);
}

TEST_CASE("IP-02: isolated threads keep their own state and are replaced after so many jobs") {
    asyncio::interpreter_pool_executor pool(1, {.max_tasks_per_child = 2});
    const auto count = [] {
        thread_local int calls = 0;
        return ++calls;
    };
    CHECK(pool.submit(count).result() == 1);
    CHECK(pool.submit(count).result() == 2);
    CHECK(pool.submit(count).result() == 1);
}

TEST_CASE("IP-03: an initializer that fails on a thread breaks the pool") {
    asyncio::interpreter_pool_executor pool(1, {.initializer = [] { throw std::bad_alloc(); }});
    asyncio::concurrent_future<int> job;
    try {
        job = pool.submit(add, 1, 2);
        CHECK_THROWS_AS(static_cast<void>(job.result()), asyncio::broken_executor);
    } catch (const asyncio::broken_executor&) {
    }
    CHECK_THROWS_AS(static_cast<void>(pool.submit(add, 1, 2)), asyncio::broken_executor);
}

#if !defined(_WIN32)

ASYNC_TEST_CASE("a segmentation fault, an exit and an abort reach only their own awaiters") {
    asyncio::isolated_executor pool(2);
    auto fault = pool.submit([] {
        std::signal(SIGSEGV, SIG_DFL);
        std::raise(SIGSEGV);
    });
    auto exits = pool.submit([] { std::_Exit(3); });
    auto fine = pool.submit(add, 1, 2);
    int signal = 0;
    int code = 0;
    try {
        co_await fault;
    } catch (const asyncio::worker_crashed& error) {
        signal = error.signal();
    }
    try {
        co_await exits;
    } catch (const asyncio::worker_crashed& error) {
        code = error.exit_code();
    }
    CHECK(signal == SIGSEGV);
    CHECK(code == 3);
    const int three = co_await fine;
    CHECK(three == 3);
}

#endif

ASYNC_TEST_CASE("job_timeout kills an endless loop, and the job fails with timeout_error") {
    asyncio::isolated_executor pool(1, {.job_timeout = 50ms});
    CHECK_AWAIT_THROWS_AS(pool.submit([] {
        volatile bool on = true;
        while (on) {}
    }),
                          asyncio::timeout_error);
    asyncio::isolated_executor patient(1, {.job_timeout = 1h});
    const int three = co_await patient.submit(add, 1, 2);
    CHECK(three == 3);
}

#if !defined(_WIN32)

ASYNC_TEST_CASE("cpu_time_limit ends a job that computes, not one that waits") {
    asyncio::isolated_executor pool(1, {.cpu_time_limit = 20ms});
    int signal = 0;
    try {
        co_await pool.submit([] {
            volatile bool on = true;
            while (on) {}
        });
    } catch (const asyncio::worker_crashed& error) {
        signal = error.signal();
    }
    CHECK(signal == SIGXCPU);
    const int three = co_await pool.submit(add, 1, 2);
    CHECK(three == 3);
}

ASYNC_TEST_CASE("memory_limit stops a job that wants too much" * doctest::skip(support::sanitized)) {
    asyncio::isolated_executor pool(1, {.memory_limit = std::size_t{64} << 20});
    // The last byte is looked at, or clang leaves the whole string out at -O2.
    const auto fill = [](std::size_t bytes) {
        const std::string text(bytes, 'x');
        const volatile char* const last = text.data() + bytes - 1;
        return *last == 'x' ? text.size() : 0;
    };
    CHECK_AWAIT_THROWS_AS(pool.submit(fill, std::size_t{256} << 20), std::bad_alloc);
    const auto size = co_await pool.submit(fill, std::size_t{8} << 20);
    CHECK(size == std::size_t{8} << 20);
}

#endif

ASYNC_TEST_CASE("payloads around the frame's size travel whole") {
    asyncio::isolated_executor pool(2);
    for (const std::size_t size : {0u, 1u, 65000u, 65400u, 65536u, 65537u, 131072u, 300000u}) {
        const std::string text(size, 'q');
        const std::string back = co_await pool.submit([](std::string s) { return s; }, text);
        CHECK(back == text);
        const std::vector<std::string> many(size / 10, "0123456789abcdef");
        const auto again =
            co_await pool.submit([](std::vector<std::string> s) { return s; }, many);
        CHECK(again == many);
    }
}

ASYNC_TEST_CASE("cancelling the awaiting task kills the worker, and the pool goes on") {
    meeting_point meeting;
    asyncio::isolated_executor pool(1);
    auto wait = [&]() -> asyncio::coro<> {
        co_await asyncio::run_in_executor(pool, never_ends, meeting.path());
    };
    auto task = asyncio::create_task(wait);
    co_await support::turns(2);
    const pid_t worker = meeting.arrived();
    task.cancel();
    CHECK_AWAIT_THROWS_AS(task, asyncio::cancelled_error);
    const pid_t next = co_await pool.submit(process_number);
    CHECK(next != worker);
    CHECK(is_gone(worker));
}

ASYNC_TEST_CASE("cancelling a task that awaits the concurrent future itself kills the job, too") {
    meeting_point meeting;
    asyncio::isolated_executor pool(1);
    auto job = pool.submit(never_ends, meeting.path());
    auto wait = [job]() -> asyncio::coro<> { co_await job; };
    auto task = asyncio::create_task(wait);
    co_await support::turns(2);
    meeting.arrived();
    task.cancel();
    CHECK_AWAIT_THROWS_AS(task, asyncio::cancelled_error);
    CHECK(job.cancelled());
}

#if !defined(_WIN32)

TEST_CASE("no child, zombie or worker is left when a pool ends") {
    pid_t first = 0;
    pid_t running = 0;
    {
        meeting_point meeting;
        asyncio::isolated_executor pool(2);
        first = pool.submit(process_number).result();
        auto endless = pool.submit(never_ends, meeting.path());
        running = meeting.arrived();
        pool.kill_workers();
        CHECK_THROWS_AS(endless.result(), asyncio::worker_crashed);
        CHECK_THROWS_AS(static_cast<void>(pool.submit(add, 1, 2)), std::runtime_error);
    }
    CHECK(is_gone(first));
    CHECK(is_gone(running));
    CHECK(has_no_children());
}

TEST_CASE("terminate_workers() ends running jobs with SIGTERM") {
    meeting_point meeting;
    asyncio::isolated_executor pool(1);
    auto endless = pool.submit(never_ends, meeting.path());
    auto queued = pool.submit(add, 1, 2);
    meeting.arrived();
    pool.terminate_workers();
    try {
        endless.result();
        FAIL("the job ended");
    } catch (const asyncio::worker_crashed& error) {
        CHECK(error.signal() == SIGTERM);
    }
    CHECK(queued.cancelled());
}

TEST_CASE("the destructor cancels what is queued and kills what does not end") {
    meeting_point meeting;
    asyncio::concurrent_future<void> endless;
    asyncio::concurrent_future<int> queued;
    pid_t worker = 0;
    {
        asyncio::isolated_executor pool(1);
        endless = pool.submit(never_ends, meeting.path());
        queued = pool.submit(add, 1, 2);
        worker = meeting.arrived();
    }
    CHECK(queued.cancelled());
    CHECK_THROWS_AS(endless.result(), asyncio::broken_executor);
    CHECK(is_gone(worker));
    CHECK(has_no_children());
}

TEST_CASE("what a job has started dies with its worker") {
    meeting_point meeting;
    asyncio::isolated_executor pool(1);
    auto job = pool.submit(
        [](std::string path) {
            if (::fork() == 0) {
                arrive(path);
                for (;;) ::pause();
            }
            for (;;) ::pause();
        },
        meeting.path());
    const pid_t grandchild = meeting.arrived();
    pool.kill_workers();
    pool.shutdown();
    CHECK_THROWS_AS(job.result(), asyncio::worker_crashed);
    // Nobody waits for it but the system, which may take a moment.
    while (!is_gone(grandchild)) std::this_thread::yield();
}

TEST_CASE("a worker sees none of the parent's descriptors") {
    int both[2];
    REQUIRE(::pipe(both) == 0); // inheritable on purpose
    for (const auto start : all_start_methods) {
        asyncio::isolated_executor pool(1, {.start = start});
        const int open = pool.submit([] {
                                 int count = 0;
                                 for (int fd = 0; fd < 1000; ++fd)
                                     if (::fcntl(fd, F_GETFD) >= 0) ++count;
                                 return count;
                             }).result();
        CHECK(open == 4); // standard input, output, error, and the worker's socket
    }
    ::close(both[0]);
    ::close(both[1]);
}

TEST_CASE("forgotten worker_main: the process says so and ends") {
    support::captured_stderr quiet;
    ::setenv("ASYNCIO_TEST_FORGETS", "1", 1);
    {
        asyncio::isolated_executor pool(1);
        CHECK_THROWS_AS(static_cast<void>(pool.submit(add, 1, 2).result()),
                        asyncio::broken_executor);
    }
    ::unsetenv("ASYNCIO_TEST_FORGETS");
    const std::string text = quiet.taken();
    CHECK(text.find("make asyncio::worker_main() the first line of main()") != std::string::npos);
    CHECK(has_no_children());
}

#endif

TEST_CASE("map(): a job that dies ends it with what it died of, and the pool goes on") {
    asyncio::process_pool_executor pool(1);
    const auto work = [](int v) {
        if (v == 1) std::_Exit(3);
        return v;
    };
    auto results = pool.map(work, std::vector<int>{0, 1, 2});
    CHECK(*results.next() == 0);
    CHECK_THROWS_AS(results.next(), asyncio::worker_crashed);
    CHECK_FALSE(results.next().has_value());
    CHECK(pool.submit(add, 1, 2).result() == 3);
}

#if defined(__linux__)
namespace {
// Lets one worker at a time begin; the others leave a byte.
void begin_alone() {
    const std::string folder = std::getenv("ASYNCIO_TEST_ALONE");
    const int fd = ::open((folder + "/lock").c_str(), O_CREAT | O_RDWR | O_CLOEXEC, 0600);
    if (::flock(fd, LOCK_EX | LOCK_NB) == 0) return; // for as long as the process lives
    const int log = ::open((folder + "/log").c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600);
    static_cast<void>(!::write(log, "x", 1));
    throw std::runtime_error("taken");
}
void leave_when_told() {
    const std::string told = std::string(std::getenv("ASYNCIO_TEST_ALONE")) + "/told";
    while (::access(told.c_str(), F_OK) != 0) ::usleep(1000);
    std::_Exit(1);
}
} // namespace

TEST_CASE("PP-06: workers that are unfit beside a fit one are tried again when that one has gone") {
    const support::scratch folder;
    ::setenv("ASYNCIO_TEST_ALONE", (folder / "").c_str(), 1);
    asyncio::isolated_executor pool(2, {.initializer = begin_alone});
    const auto leaves = pool.submit(leave_when_told);
    const auto waits = pool.submit(add, 1, 2);
    // Two have failed, and the pool has heard it.
    const auto failed = [&] {
        std::error_code missing;
        const auto size = std::filesystem::file_size(folder / "log", missing);
        return !missing && size >= 2 && pool.stats().workers.size() == 1;
    };
    while (!failed()) ::usleep(1000);
    std::ofstream(folder / "told") << "go";
    CHECK_THROWS_AS(leaves.result(), asyncio::worker_crashed);
    CHECK(waits.result() == 3);
    ::unsetenv("ASYNCIO_TEST_ALONE");
}

TEST_CASE("a worker whose noise has ended its job has none that could be late") {
    asyncio::isolated_executor pool(2, {.job_timeout = 500ms});
    const auto parent = [] {
        ::usleep(20'000); // so that another worker gets the other one
        return ::getppid();
    };
    const auto both_ready = [&pool] {
        const std::vector<asyncio::worker_stats> workers = pool.stats().workers;
        return std::count_if(workers.begin(), workers.end(),
                             [](const auto& w) { return w.pid != 0; }) == 2;
    };
    pid_t server = 0;
    while (!both_ready()) {
        const auto one = pool.submit(parent);
        const auto other = pool.submit(parent);
        server = one.result();
        CHECK(other.result() == server);
    }
    const auto noisy = pool.submit([] {
        ::kill(::getppid(), SIGSTOP); // which would tell of this one's death
        static_cast<void>(!::write(3, "x", 1));
        ::pause();
    });
    const auto late = pool.submit([] { ::pause(); });
    CHECK_THROWS_AS(noisy.result(), asyncio::codec_error);
    CHECK_THROWS_AS(late.result(), asyncio::timeout_error);
    ::kill(server, SIGCONT);
    CHECK(pool.submit(add, 1, 2).result() == 3);
}

TEST_CASE("workers of a program without standard descriptors have none of the pool's there") {
    const auto child = support::in_child([] {
        for (int fd = 0; fd < 3; ++fd) ::close(fd);
        asyncio::isolated_executor pool(1, {.start = asyncio::start_method::fork});
        const auto print = [] {
            std::fputs("hello\n", stderr);
            std::fflush(stderr);
        };
        pool.submit(print).result();
        return pool.submit(add, 1, 2).result() == 3 ? 0 : 1;
    });
    CHECK(child.exit_code == 0);
}
#endif

TEST_CASE("map() on processes, in chunks, with an error in its place") {
    asyncio::process_pool_executor pool(2);
    std::vector<int> numbers(20);
    std::iota(numbers.begin(), numbers.end(), 0);
    std::vector<int> squares;
    for (int n : pool.map([](int v) { return v * v; }, numbers, {.chunksize = 6}))
        squares.push_back(n);
    REQUIRE(squares.size() == 20);
    CHECK(squares[19] == 361);
    auto some = pool.map(
        [](int v) {
            if (v == 3) throw std::domain_error("three");
            return v;
        },
        numbers, {.chunksize = 2, .buffersize = 4});
    CHECK(*some.next() == 0);
    CHECK(*some.next() == 1);
    CHECK(*some.next() == 2);
    CHECK_THROWS_AS(static_cast<void>(some.next()), std::domain_error);
}

TEST_CASE("EX-05: processes that are shut down without waiting still do what they were given") {
    asyncio::process_pool_executor pool(2);
    auto squares = pool.map([](int v) { return v * v; }, std::vector<int>{1, 2, 3, 4, 5});
    pool.shutdown({.wait = false});
    std::vector<int> got;
    for (int n : squares) got.push_back(n);
    CHECK(got == std::vector<int>{1, 4, 9, 16, 25});
}

ASYNC_TEST_CASE("a text literal, a view and a span parameter get values of their own") {
    asyncio::isolated_executor pool(1);
    const auto length = co_await pool.submit([](std::string_view s) { return s.size(); }, "four");
    CHECK(length == 4);
    const std::vector<int> numbers{1, 2, 3};
    const int sum = co_await pool.submit(
        [](std::span<const int> s) { return std::accumulate(s.begin(), s.end(), 0); }, numbers);
    CHECK(sum == 6);
}

ASYNC_TEST_CASE("a span is an argument, too, with either isolation") {
    std::vector<int> numbers{1, 2, 3};
    const auto total = [](std::vector<int> v) { return std::accumulate(v.begin(), v.end(), 0); };
    const auto total_of_span = [](std::span<const int> s) {
        return std::accumulate(s.begin(), s.end(), 0);
    };
    asyncio::isolated_executor processes(1);
    asyncio::isolated_executor threads(1, {.isolation = asyncio::isolation::thread});
    for (auto* pool : {&processes, &threads}) {
        const std::span<int> given(numbers);
        const int whole = co_await pool->submit(total, given);
        const int part = co_await pool->submit(total_of_span, given.first(2));
        CHECK(whole == 6);
        CHECK(part == 3);
    }
}

struct scaled {
    double factor;
    double operator()(double v) const { return factor * v; }
};

ASYNC_TEST_CASE("a plain function object carries its members along") {
    asyncio::isolated_executor pool(1);
    const scaled twice{2};
    const double four = co_await pool.submit(twice, 2.0);
    CHECK(four == 4);
}

ASYNC_TEST_CASE("many jobs from many tasks all come back") {
    asyncio::isolated_executor pool(2);
    auto one = [&](int i) -> asyncio::coro<int> {
        const int sum = co_await asyncio::run_in_executor(pool, add, i, 1);
        co_return sum;
    };
    std::vector<asyncio::task<int>> tasks;
    for (int i = 0; i < 500; ++i) tasks.push_back(asyncio::create_task(one, i));
    int total = 0;
    for (auto& task : tasks) total += co_await task;
    CHECK(total == 500 * 499 / 2 + 500);
}

ASYNC_TEST_CASE("with(pool, body) ends normally when the body has moved the pool away") {
    asyncio::thread_pool_executor pool(1);
    std::optional<asyncio::thread_pool_executor> mine;
    co_await asyncio::with(pool, [&] { mine.emplace(std::move(pool)); });
    CHECK(mine->submit([] { return 1; }).result() == 1);
}

ASYNC_TEST_CASE("with(pool, body) ends the pool without blocking the loop") {
    int three = 0;
    co_await asyncio::with(asyncio::process_pool_executor(1),
                           [&](asyncio::process_pool_executor& pool) -> asyncio::coro<> {
                               three = co_await pool.submit(add, 1, 2);
                           });
    CHECK(three == 3);
#if !defined(_WIN32)
    CHECK(has_no_children());
#endif
}
} // TEST_SUITE

#if !defined(_WIN32)

// ---- processes that die -------------------------------------------------------------------------

TEST_SUITE("isolated_executor: the fork server") {
TEST_CASE("when it is killed, the running job is lost and nothing else; another one takes over") {
    for (const auto start : all_start_methods) {
        CAPTURE(static_cast<int>(start));
        meeting_point meeting;
        {
            asyncio::isolated_executor pool(2, {.start = start});
            auto running = pool.submit(never_ends, meeting.path());
            const pid_t worker = meeting.arrived();
            const auto [idle, server] = pool.submit(process_and_parent).result();
            ::kill(server, SIGKILL);
            CHECK_THROWS_AS(running.result(), asyncio::worker_crashed);
            CHECK(is_gone(worker));
            CHECK(is_gone(idle));
            const auto [next, next_server] = pool.submit(process_and_parent).result();
            CHECK(next != idle);
            CHECK(next_server != server);
        }
        CHECK(has_no_children());
    }
}

TEST_CASE("it may be killed again and again; queued jobs all come back") {
    asyncio::isolated_executor pool(1);
    for (int round = 0; round < 15; ++round) {
        meeting_point meeting;
        const pid_t server = pool.submit(process_and_parent).result().second;
        auto running = pool.submit(never_ends, meeting.path());
        std::vector<asyncio::concurrent_future<int>> queued;
        for (int i = 0; i < 3; ++i) queued.push_back(pool.submit(add, round, i));
        meeting.arrived();
        ::kill(server, SIGKILL);
        CHECK_THROWS_AS(running.result(), asyncio::worker_crashed);
        for (int i = 0; i < 3; ++i)
            CHECK(queued[static_cast<std::size_t>(i)].result() == round + i);
    }
}

TEST_CASE("when it is killed while all workers are idle, no job is lost") {
    asyncio::isolated_executor pool(1);
    for (int round = 0; round < 5; ++round) {
        const auto [worker, server] = pool.submit(process_and_parent).result();
        ::kill(server, SIGKILL);
        wait_until_gone(worker);
        CHECK(pool.submit(add, 1, 2).result() == 3);
    }
}

TEST_CASE("when it is killed, what a job has started dies as well, in whatever group it is") {
    meeting_point meeting;
    asyncio::isolated_executor pool(1);
    const pid_t server = pool.submit(process_and_parent).result().second;
    auto job = pool.submit(
        [](std::string path) {
            if (::fork() == 0) {
                ::setsid();
                never_ends(path);
            }
            for (;;) ::pause();
        },
        meeting.path());
    const pid_t grandchild = meeting.arrived();
    ::kill(server, SIGKILL);
    CHECK_THROWS_AS(job.result(), asyncio::worker_crashed);
    wait_until_gone(grandchild);
    CHECK(pool.submit(add, 1, 2).result() == 3);
}

TEST_CASE("shutdown() just after it was killed returns, and the queued job has run") {
    for (int round = 0; round < 5; ++round) {
        asyncio::isolated_executor pool(1);
        const auto [worker, server] = pool.submit(process_and_parent).result();
        ::kill(server, SIGKILL);
        wait_until_gone(worker);
        auto queued = pool.submit(add, 1, 2);
        pool.shutdown();
        CHECK(queued.result() == 3);
        CHECK(has_no_children());
    }
}

TEST_CASE("when its keeper is killed, too, the pool is broken and says so") {
    adopted_orphans orphans;
    {
        asyncio::isolated_executor pool(1);
        const auto [worker, server] = pool.submit(process_and_parent).result();
        const auto keeper = static_cast<pid_t>(status_of(std::to_string(server), "PPid"));
        REQUIRE(keeper > 1);
        REQUIRE(keeper != ::getpid());
        ::kill(keeper, SIGKILL);
        CHECK(pool.submit(add, 1, 2).result() == 3); // the server goes on
        ::kill(server, SIGKILL);
        // Broken as soon as the executor has noticed.
        try {
            for (;;) static_cast<void>(pool.submit(add, 1, 2).result());
        } catch (const asyncio::worker_crashed&) {
        } catch (const asyncio::broken_executor& error) {
            CHECK(std::string(error.what()).find("make another") != std::string::npos);
        }
        pool.shutdown();
        CHECK_THROWS_AS(static_cast<void>(pool.submit(add, 1, 2)), asyncio::broken_executor);
    }
    orphans.wait();
}
} // TEST_SUITE

// The frame in which a worker sends the result 42, as bytes.
constexpr std::size_t header_size = 16;
std::string result_frame() {
    struct {
        std::uint32_t magic = 0x4f494141;
        std::uint16_t version = 1;
        std::uint16_t kind = 4;
        std::uint64_t size = 0;
    } header;
    asyncio::encoder payload;
    payload.put(42);
    header.size = payload.bytes().size();
    static_assert(sizeof header == header_size);
    std::string frame(header_size, '\0');
    std::memcpy(frame.data(), &header, header_size);
    return frame + payload.bytes();
}

constexpr int worker_socket = 3;

// A job that sends `frame` itself, then dies.
int sends_and_dies(std::string frame) {
    if (!frame.empty() && ::send(worker_socket, frame.data(), frame.size(), MSG_NOSIGNAL) < 0)
        std::abort();
    std::raise(SIGKILL);
    return 0;
}

// A job that sends `frame` itself, then hangs.
int sends_and_hangs(std::string frame) {
    if (::send(worker_socket, frame.data(), frame.size(), MSG_NOSIGNAL) < 0) std::abort();
    for (;;) ::pause();
}

// Jobs that do what they can to stay, each after it has said that it runs.
struct evil {
    const char* what;
    void (*job)(std::string path);
};
constexpr evil evils[] = {
    {"waits for ever", never_ends},
    {"computes for ever",
     [](std::string path) {
         arrive(path);
         volatile bool on = true;
         while (on) {}
     }},
    {"ignores all signals",
     [](std::string path) {
         for (int signal = 1; signal < NSIG; ++signal) std::signal(signal, SIG_IGN);
         never_ends(path);
     }},
    {"blocks all signals",
     [](std::string path) {
         sigset_t all;
         ::sigfillset(&all);
         ::sigprocmask(SIG_SETMASK, &all, nullptr);
         never_ends(path);
     }},
    {"forks and forks",
     [](std::string path) {
         arrive(path);
         for (int i = 0; i < 5; ++i) static_cast<void>(!::fork());
         for (;;) ::pause();
     }},
    {"starts a child that holds its descriptors",
     [](std::string path) {
         if (::fork() == 0) {
             ::setpgid(0, 0);
             for (;;) ::pause();
         }
         never_ends(path);
     }},
};

TEST_SUITE("isolated_executor: faults") {
TEST_CASE("a worker that dies after any byte of its answer costs that job only") {
    asyncio::isolated_executor pool(1);
    const std::string frame = result_frame();
    for (std::size_t length = 0; length <= frame.size(); ++length) {
        CAPTURE(length);
        auto job = pool.submit(sends_and_dies, frame.substr(0, length));
        if (length == 0) CHECK_THROWS_AS(static_cast<void>(job.result()), asyncio::worker_crashed);
        else if (length < frame.size())
            CHECK_THROWS_AS(static_cast<void>(job.result()), asyncio::codec_error);
        else CHECK(job.result() == 42);
        CHECK(pool.submit(add, 1, 2).result() == 3);
    }
}

TEST_CASE("a wrong byte anywhere in an answer's header ends that job, and its worker is replaced") {
    asyncio::isolated_executor pool(1);
    const std::string frame = result_frame();
    for (std::size_t place = 0; place < header_size; ++place) {
        CAPTURE(place);
        std::string wrong = frame;
        wrong[place] = static_cast<char>(~wrong[place]);
        CHECK_THROWS_AS(static_cast<void>(pool.submit(sends_and_hangs, wrong).result()),
                        asyncio::codec_error);
        CHECK(pool.submit(add, 1, 2).result() == 3);
    }
    // What is no answer at all: that it is ready, that it is unfit, a job.
    for (std::uint16_t kind = 0; kind < 4; ++kind) {
        std::string wrong = frame;
        std::memcpy(&wrong[6], &kind, sizeof kind);
        CHECK_THROWS_AS(static_cast<void>(pool.submit(sends_and_hangs, wrong).result()),
                        asyncio::codec_error);
    }
}

TEST_CASE("exit(), abort() and a null pointer cost that job only; no exit handler runs twice") {
    const auto result = support::in_child([] {
        std::atexit([] { std::fputs("an exit handler\n", stderr); });
        for (const auto start : all_start_methods) {
            asyncio::isolated_executor pool(1, {.start = start});
            try {
                pool.submit([] { std::exit(4); }).result();
            } catch (const asyncio::worker_crashed& error) {
                if (error.exit_code() != 4) return 1;
            }
            try {
                pool.submit([] { std::abort(); }).result();
            } catch (const asyncio::worker_crashed& error) {
                if (error.signal() != SIGABRT) return 2;
            }
            try {
                pool.submit([] {
                    int* volatile nothing = nullptr;
                    *nothing = 1;
                }).result();
            } catch (const asyncio::worker_crashed& error) {
                if (error.signal() == 0 && error.exit_code() == 0) return 3;
            }
            if (pool.submit(add, 1, 2).result() != 3) return 4;
        }
        return 0; // by _exit()
    });
    CHECK(result.exit_code == 0);
    CHECK(result.err.find("an exit handler") == std::string::npos);
}

TEST_CASE("no job, however evil, outlives kill_workers(), its task or its pool") {
    adopted_orphans orphans;
    for (const evil& one : evils) {
        CAPTURE(one.what);
        {
            meeting_point meeting;
            asyncio::isolated_executor pool(1);
            auto job = pool.submit(one.job, meeting.path());
            meeting.arrived();
            pool.shutdown({.wait = false});
            pool.kill_workers();
            CHECK_THROWS_AS(job.result(), asyncio::worker_crashed);
        }
        CHECK(has_no_children());
        {
            meeting_point meeting;
            asyncio::isolated_executor pool(1);
            const auto program = [&]() -> asyncio::coro<> {
                auto job = asyncio::run_in_executor(pool, one.job, meeting.path());
                meeting.arrived();
                job.cancel();
                const int three = co_await asyncio::run_in_executor(pool, add, 1, 2);
                CHECK(three == 3);
            };
            asyncio::run(program());
        }
        CHECK(has_no_children());
    }
    {
        meeting_point meeting;
        asyncio::isolated_executor pool(1);
        auto job = pool.submit(evils[2].job, meeting.path());
        meeting.arrived();
        pool.terminate_workers(); // which it ignores, so that the destructor has to end it
    }
    CHECK(has_no_children());
}

TEST_CASE("a job that closes all descriptors is lost, with its worker") {
    asyncio::isolated_executor pool(1);
    CHECK_THROWS_AS(pool.submit([] {
                            for (int fd = 0; fd < 1000; ++fd) ::close(fd);
                            for (;;) ::pause();
                        }).result(),
                    asyncio::worker_crashed);
    // Also when it then returns.
    CHECK_THROWS_AS(pool.submit([] {
                            for (int fd = 0; fd < 1000; ++fd) ::close(fd);
                        }).result(),
                    asyncio::worker_crashed);
    CHECK(pool.submit(add, 1, 2).result() == 3);
}

TEST_CASE("what a job prints appears once, and nothing of the parent's appears twice") {
    const auto result = support::in_child([] {
        std::fputs("parent ", stdout); // stays in the buffer until the first fork
        for (const auto start : all_start_methods) {
            asyncio::isolated_executor pool(1, {.start = start});
            pool.submit([] { std::fputs("job ", stdout); }).result();
        }
        return 0;
    });
    CHECK(result.exit_code == 0);
    CHECK(result.out == "job parent job job ");
}

TEST_CASE("what a job wrote to a file that it left open is there when its worker has ended") {
    const support::scratch folder;
    const std::string path = folder / "notes";
    asyncio::isolated_executor pool(1);
    const auto note = [](std::string where, std::string text) {
        static std::FILE* const notes = std::fopen(where.c_str(), "w");
        return std::fputs(text.c_str(), notes) >= 0;
    };
    CHECK(pool.submit(note, path, "one ").result());
    CHECK(pool.submit(note, path, "two").result());
    pool.shutdown();
    std::ifstream file(path);
    std::string all;
    std::getline(file, all);
    CHECK(all == "one two");
}

TEST_CASE("when the program is killed, its workers and what they have started are gone") {
    for (const auto start : all_start_methods) {
        CAPTURE(static_cast<int>(start));
        adopted_orphans orphans;
        meeting_point first, second;
        const auto result = support::in_child([&] {
            asyncio::isolated_executor pool(2, {.start = start});
            pool.submit(never_ends, first.path());
            pool.submit(
                [](std::string path) {
                    if (::fork() == 0) {
                        ::setsid();
                        never_ends(path);
                    }
                    for (;;) ::pause();
                },
                second.path());
            const pid_t worker = first.arrived();
            std::printf("%d %d", static_cast<int>(worker), static_cast<int>(second.arrived()));
            std::fflush(stdout);
            std::raise(SIGKILL);
            return 0;
        });
        CHECK(result.signal_number == SIGKILL);
        int worker = 0;
        int grandchild = 0;
        REQUIRE(std::sscanf(result.out.c_str(), "%d %d", &worker, &grandchild) == 2);
        orphans.wait();
        CHECK(is_gone(worker));
        CHECK(is_gone(grandchild));
    }
}

TEST_CASE("a program that waits for all children, or ignores their end, is told the truth") {
    for (const bool ignores : {false, true}) {
        CAPTURE(ignores);
        const auto result = support::in_child([ignores] {
            struct sigaction action = {};
            action.sa_handler = SIG_IGN;
            if (!ignores)
                action.sa_handler = [](int) {
                    const int before = errno;
                    while (::waitpid(-1, nullptr, WNOHANG) > 0) {}
                    errno = before;
                };
            ::sigaction(SIGCHLD, &action, nullptr);
            std::atomic<bool> stop{false};
            std::thread greedy([&] {
                while (!stop) {
                    ::waitpid(-1, nullptr, WNOHANG);
                    std::this_thread::yield();
                }
            });
            int wrong = 0;
            for (const auto start : all_start_methods) {
                asyncio::isolated_executor pool(1, {.start = start});
                try {
                    pool.submit([] { std::_Exit(3); }).result();
                    ++wrong;
                } catch (const asyncio::worker_crashed& error) {
                    if (error.exit_code() != 3) ++wrong;
                }
                if (pool.submit(add, 1, 2).result() != 3) ++wrong;
            }
            stop = true;
            greedy.join();
            return wrong;
        });
        CHECK(result.exit_code == 0);
    }
}

// With ASYNCIO_TEST_SLOW=1 in the environment there are more of everything.
template <class Number>
Number many(Number usually, Number slow) {
    return std::getenv("ASYNCIO_TEST_SLOW") ? slow : usually;
}

ASYNC_TEST_CASE("thousands of small jobs all come back, in order") {
    asyncio::isolated_executor pool(2);
    const int count = many(5'000, 100'000);
    std::vector<asyncio::future<int>> jobs;
    for (int i = 0; i < count; ++i) jobs.push_back(asyncio::run_in_executor(pool, add, i, 1));
    int right = 0;
    for (int i = 0; i < count; ++i) {
        const int sum = co_await jobs[static_cast<std::size_t>(i)];
        right += sum == i + 1 ? 1 : 0;
    }
    CHECK(right == count);
}

// 100 MB and 1 GiB.
ASYNC_TEST_CASE("large arguments and results travel whole") {
    std::vector<double> numbers(many<std::size_t>(12'500'000, 134'217'728));
    std::iota(numbers.begin(), numbers.end(), 0.0);
    asyncio::isolated_executor pool(1);
    auto job = pool.submit(
        [](std::vector<double> v) {
            v[0] = -1;
            return v;
        },
        numbers);
    const std::vector<double> back = co_await std::move(job);
    REQUIRE(back.size() == numbers.size());
    numbers[0] = -1;
    CHECK((back == numbers));
}

#if defined(__linux__)
ASYNC_TEST_CASE_REAL("a worker whose answer cannot be sent is not waited for") {
    const auto say_nothing = [](bool fails) {
        sends_nothing = true;
        if (fails) throw std::runtime_error("nobody hears it");
        return 1;
    };
    asyncio::isolated_executor pool(1);
    for (const bool fails : {false, true}) {
        auto job = asyncio::run_in_executor(pool, say_nothing, fails);
        CHECK_AWAIT_THROWS_AS(asyncio::wait_for(job, 30s), asyncio::worker_crashed);
    }
    const int sum = co_await asyncio::run_in_executor(pool, add, 1, 2);
    CHECK(sum == 3);
}

ASYNC_TEST_CASE("a large result leaves nothing behind, whoever has heard it") {
    const auto is_mapped = [] {
        std::ifstream file("/proc/self/maps");
        const std::string maps(std::istreambuf_iterator<char>(file), {});
        return maps.find("memfd:asyncio") != std::string::npos;
    };
    // The supervisor, if it has heard the result, tells of it a moment before it lets it go.
    const auto goes = [&] {
        for (int i = 0; i < 10'000 && is_mapped(); ++i) std::this_thread::sleep_for(1ms);
        return !is_mapped();
    };
    const auto make = [](std::size_t size) { return std::string(size, 'r'); };
    asyncio::isolated_executor pool(1);
    CHECK(pool.submit(make, 1'000'000).result().size() == 1'000'000);
    CHECK(goes());
    const std::string heard = co_await asyncio::run_in_executor(pool, make, 1'000'000);
    CHECK(heard.size() == 1'000'000);
    CHECK(goes());
}

// Nothing can be opened as long as it lives.
struct no_descriptors {
    no_descriptors() {
        ::getrlimit(RLIMIT_NOFILE, &before);
        rlimit few = before;
        few.rlim_cur = 64;
        ::setrlimit(RLIMIT_NOFILE, &few);
        for (int fd = ::dup(0); fd >= 0; fd = ::dup(0)) taken.push_back(fd);
    }
    ~no_descriptors() {
        for (const int fd : taken) ::close(fd);
        ::setrlimit(RLIMIT_NOFILE, &before);
    }
    std::vector<int> taken;
    rlimit before{};
};

TEST_CASE("a pool that had no descriptors for a worker goes on when there are some" *
          doctest::skip(support::sanitized)) {
    const auto result = support::in_child([] {
        asyncio::isolated_executor pool(1);
        const auto fails = [&](auto job, std::string_view text) {
            try {
                pool.submit(job).result();
            } catch (const asyncio::broken_executor& error) {
                return std::string_view(error.what()).find(text) != std::string_view::npos;
            }
            return false;
        };
        std::optional<no_descriptors> full(std::in_place);
        const bool refused = fails([] {}, "no worker could be started");
        const bool again = fails([] {}, "no worker could be started");
        full.reset();
        return refused && again && pool.submit(add, 1, 2).result() == 3 ? 0 : 1;
    });
    CHECK(result.err == "");
    CHECK(result.exit_code == 0);
}

TEST_CASE("beyond the limit for files, a large payload names it and costs only its own job") {
    const auto result = support::in_child([] {
        const rlimit few = {100'000, 100'000};
        ::setrlimit(RLIMIT_FSIZE, &few);
        asyncio::isolated_executor pool(1);
        const auto fails = [](auto submit) {
            try {
                submit();
            } catch (const std::system_error& error) {
                return error.code().value() == EFBIG &&
                       std::string_view(error.what()).find("RLIMIT_FSIZE") != std::string::npos;
            }
            return false;
        };
        const auto size_of = [](std::string text) { return text.size(); };
        const auto make = [](std::size_t size) { return std::string(size, 'r'); };
        const bool there = fails([&] { pool.submit(size_of, make(1'000'000)).result(); });
        const bool back = fails([&] { pool.submit(make, 1'000'000).result(); });
        return there && back && pool.submit(make, 90'000).result().size() == 90'000 ? 0 : 1;
    });
    CHECK(result.err == "");
    CHECK(result.exit_code == 0);
}

// Each in a process of its own, which takes all descriptors that it may have; sanitizers need some
// to look at types.
TEST_CASE("out of descriptors, a large result names the limit and costs only its own job" *
          doctest::skip(support::sanitized)) {
    static constexpr std::size_t size = 1'000'000;
    const auto says_why = [](const asyncio::outcome<std::string>& o) {
        return !o && o.error().code().value() == EMFILE &&
               std::string_view(o.error().what()).find("RLIMIT_NOFILE") != std::string::npos;
    };
    const auto in_a_pool = [&]() -> asyncio::coro<int> {
        const auto make = [](std::size_t n) { return std::string(n, 'r'); };
        asyncio::isolated_executor pool(1);
        const std::string first = co_await asyncio::run_in_executor(pool, make, 1);
        std::optional<no_descriptors> full(std::in_place);
        auto job = asyncio::run_in_executor(pool, make, size);
        const auto result = co_await asyncio::as_outcome(std::move(job));
        full.reset();
        if (!says_why(result)) co_return 1;
        const std::string next = co_await asyncio::run_in_executor(pool, make, size);
        co_return next.size() == size ? 0 : 2;
    };
    const auto in_a_fork = [&]() -> asyncio::coro<int> {
        int gate[2];
        if (::pipe(gate) != 0) co_return 1;
        auto make = [&] {
            char go = 0;
            return std::string(::read(gate[0], &go, 1) == 1 ? size : 0, 'r');
        };
        auto job = asyncio::fork_job(make);
        const no_descriptors full;
        if (::write(gate[1], "g", 1) != 1) co_return 2;
        const auto result = co_await asyncio::as_outcome(std::move(job));
        co_return says_why(result) ? 0 : 3;
    };
    for (const bool forks : {false, true}) {
        CAPTURE(forks);
        const auto result = support::in_child([&] {
            if (forks) return asyncio::run(in_a_fork());
            return asyncio::run(in_a_pool());
        });
        CHECK(result.err == "");
        CHECK(result.exit_code == 0);
    }
}
#endif

// At any moment they hold locks of malloc(), which a forked process would inherit locked.
struct busy_threads {
    busy_threads() {
        for (std::thread& thread : threads) {
            thread = std::thread([this] {
                for (std::size_t size = 1; !over; size = size * 3 % 5003) std::string(size, 'y');
            });
        }
    }
    ~busy_threads() {
        over = true;
        for (std::thread& thread : threads) thread.join();
    }

    std::atomic<bool> over{false};
    std::array<std::thread, 16> threads;
};

// 64 MiB and 2 GiB.
TEST_CASE("a pool starts beside sixteen busy threads in a large program, and ends") {
    const std::vector<char> ballast(many<std::size_t>(64 << 20, 2048u << 20), 'x');
    const busy_threads busy;
    for (const auto start : {asyncio::start_method::forkserver, asyncio::start_method::spawn}) {
        asyncio::isolated_executor pool(4, {.start = start});
        std::vector<asyncio::concurrent_future<int>> jobs;
        for (int i = 0; i < 40; ++i) jobs.push_back(pool.submit(add, i, 1));
        for (int i = 0; i < 40; ++i) CHECK(jobs[static_cast<std::size_t>(i)].result() == i + 1);
    }
    CHECK(ballast.back() == 'x');
    CHECK(has_no_children());
}

TEST_CASE("executors come and go, and leave neither processes nor descriptors") {
    const auto open_descriptors = [] {
        int count = 0;
        for (int fd = 0; fd < 1000; ++fd) count += ::fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
        return count;
    };
    const int before = open_descriptors();
    for (int i = 0; i < many(20, 1000); ++i) {
        const std::size_t which = static_cast<std::size_t>(i) % all_start_methods.size();
        asyncio::isolated_executor pool(1, {.start = all_start_methods[which]});
        if (i % 2 == 0) REQUIRE(pool.submit(add, i, 1).result() == i + 1);
    }
    CHECK(has_no_children());
    CHECK(open_descriptors() == before);
}

// ThreadSanitizer has a thread of its own in the program, which wakes up now and then.
TEST_CASE("an idle pool wakes nobody" * doctest::skip(support::sanitized)) {
    asyncio::isolated_executor pool(1);
    const auto [worker, server] = pool.submit(process_and_parent).result();
    std::vector<std::string> sleepers{std::to_string(worker), std::to_string(server),
                                      std::to_string(status_of(std::to_string(server), "PPid"))};
    for (const auto& entry : std::filesystem::directory_iterator("/proc/self/task")) {
        const std::string id = entry.path().filename().string();
        if (std::stoi(id) != support::thread_id()) sleepers.push_back("self/task/" + id);
    }
    CHECK(sleepers.size() >= 4);
    const auto wakes = [&] {
        long sum = 0;
        for (const std::string& one : sleepers) sum += status_of(one, "voluntary_ctxt_switches");
        return sum;
    };
    // Until all of them have gone back to sleep, which they do within these times.
    long before = -1;
    for (int same = 0; same < 3;) {
        std::this_thread::sleep_for(20ms);
        const long now = wakes();
        same = now == before ? same + 1 : 0;
        before = now;
    }
    std::this_thread::sleep_for(300ms);
    CHECK(wakes() == before);
    CHECK(pool.submit(add, 1, 2).result() == 3);
}
} // TEST_SUITE

// ---- workers and the loop -----------------------------------------------------------------------
//
// A loop listens to the worker of its own job itself. Nobody else may depend on that.

TEST_SUITE("isolated_executor: workers heard by the loop") {
ASYNC_TEST_CASE("a loop that is busy keeps no worker from the jobs of others") {
    asyncio::isolated_executor pool(1);
    const int warm = co_await asyncio::run_in_executor(pool, add, 0, 1);
    CHECK(warm == 1);
    auto mine = asyncio::run_in_executor(pool, add, 1, 2);
    std::thread other([&] { CHECK(pool.submit(add, 3, 4).result() == 7); });
    other.join(); // the loop waits for it, and hears nothing
    const int three = co_await mine;
    CHECK(three == 3);
    // And in this thread itself, twice: another job went to the worker before.
    for (int i = 0; i < 2; ++i) CHECK(pool.submit(add, i, 1).result() == i + 1);
    const int seven = co_await asyncio::run_in_executor(pool, add, 3, 4);
    CHECK(seven == 7);
}

#if defined(__linux__)
// A loop that does not listen alone any more still hears what it has been waiting for.
ASYNC_TEST_CASE("a worker that leaves keeps its socket while the supervisor may receive from it") {
    asyncio::isolated_executor pool(1, {.max_tasks_per_child = 2});
    CHECK(pool.submit(add, 0, 1).result() == 1);
    auto mine = asyncio::run_in_executor(pool, add, 1, 2); // the worker's last job
    held_receive = hold::wanted;
    const auto next = pool.submit(add, 3, 4); // has to queue: the supervisor listens, too
    held_receive.wait(hold::wanted);
    const int three = co_await mine; // heard by the loop
    CHECK(three == 3);
    // The number of a socket that was closed is taken by the next one that is made.
    std::vector<int> made;
    for (int i = 0; i < 10; ++i) {
        int ends[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0);
        made.insert(made.end(), ends, ends + 2);
        CHECK(::send(ends[0], "for others", 10, MSG_NOSIGNAL) == 10);
        CHECK(::send(ends[1], "for others", 10, MSG_NOSIGNAL) == 10);
    }
    held_receive = hold::none;
    held_receive.notify_all();
    CHECK(next.result() == 7);
    for (const int fd : made) {
        char text[16];
        CHECK(::recv(fd, text, sizeof text, MSG_DONTWAIT) == 10);
        ::close(fd);
    }
}
#endif

ASYNC_TEST_CASE("shutdown() in the loop's own thread does not wait for the loop") {
    asyncio::isolated_executor pool(1);
    co_await asyncio::run_in_executor(pool, add, 0, 1);
    auto job = asyncio::run_in_executor(pool, add, 1, 2);
    pool.shutdown();
    const int three = co_await job;
    CHECK(three == 3);
    CHECK(has_no_children());
}

ASYNC_TEST_CASE("a pool that is destroyed in the loop's thread ends a running job there") {
    meeting_point meeting;
    std::optional<asyncio::future<void>> job;
    {
        asyncio::isolated_executor pool(1);
        co_await asyncio::run_in_executor(pool, add, 0, 1);
        job = asyncio::run_in_executor(pool, never_ends, meeting.path());
        meeting.arrived();
    }
    CHECK_AWAIT_THROWS_AS(*job, asyncio::broken_executor);
    CHECK(has_no_children());
}

TEST_CASE("a loop that stops, or is gone, leaves its workers to the others") {
    asyncio::isolated_executor pool(1);
    {
        asyncio::event_loop loop;
        std::optional<asyncio::future<int>> left;
        const auto program = [&]() -> asyncio::coro<> {
            co_await asyncio::run_in_executor(pool, add, 0, 1);
            left = asyncio::run_in_executor(pool, add, 1, 2);
        };
        loop.run_until_complete(program());
        CHECK(pool.submit(add, 3, 4).result() == 7);
        CHECK(loop.run_until_complete(*left) == 3);
        loop.run_until_complete(program());
    }
    CHECK(pool.submit(add, 3, 4).result() == 7);
    for (int i = 0; i < 3; ++i) {
        const auto program = [&]() -> asyncio::coro<> {
            const int sum = co_await asyncio::run_in_executor(pool, add, i, 1);
            CHECK(sum == i + 1);
        };
        asyncio::run(program());
    }
}

TEST_CASE("two loops on two threads share the workers of a pool") {
    asyncio::isolated_executor pool(2);
    std::atomic<int> right{0};
    const auto program = [&](int from) -> asyncio::coro<> {
        for (int i = from; i < from + 300; ++i) {
            const int sum = co_await asyncio::run_in_executor(pool, add, i, 1);
            right += sum == i + 1 ? 1 : 0;
        }
    };
    std::thread other([&] { asyncio::run(program(1000)); });
    asyncio::run(program(0));
    other.join();
    CHECK(right == 600);
}

ASYNC_TEST_CASE("a job that is done in time is not late because the loop is") {
    asyncio::isolated_executor pool(1, {.job_timeout = 500ms});
    meeting_point meeting;
    co_await asyncio::run_in_executor(pool, add, 0, 1);
    auto job = asyncio::run_in_executor(pool, arrive, meeting.path());
    meeting.arrived();
    std::this_thread::sleep_for(800ms); // the time passes while nobody listens
    co_await job;
}

ASYNC_TEST_CASE("a worker that dies is replaced, idle or not, also when a loop listens to it") {
    asyncio::isolated_executor pool(1);
    for (int round = 0; round < 5; ++round) {
        meeting_point meeting;
        const pid_t idle = co_await asyncio::run_in_executor(pool, process_number);
        ::kill(idle, SIGKILL);
        wait_until_gone(idle);
        auto running = asyncio::run_in_executor(pool, never_ends, meeting.path());
        ::kill(meeting.arrived(), SIGKILL);
        CHECK_AWAIT_THROWS_AS(running, asyncio::worker_crashed);
        auto noise = asyncio::run_in_executor(pool, sends_and_hangs, std::string("noise"));
        CHECK_AWAIT_THROWS_AS(noise, asyncio::codec_error);
        auto server = co_await asyncio::run_in_executor(pool, process_and_parent);
        ::kill(server.second, SIGKILL);
        wait_until_gone(server.first);
    }
}

ASYNC_TEST_CASE("what a loop had open for a pool is closed when the pool is gone") {
    const auto open_descriptors = [] {
        int count = 0;
        for (int fd = 0; fd < 1000; ++fd) count += ::fcntl(fd, F_GETFD) >= 0 ? 1 : 0;
        return count;
    };
    const int before = open_descriptors();
    {
        asyncio::isolated_executor pool(2, {.max_tasks_per_child = 2});
        for (int i = 0; i < 7; ++i) co_await asyncio::run_in_executor(pool, add, i, 1);
    }
    while (open_descriptors() > before) co_await asyncio::sleep(0s);
}
} // TEST_SUITE

// ---- fork_job -----------------------------------------------------------------------------------

TEST_SUITE("fork_job") {
ASYNC_TEST_CASE_REAL("a forked job handles signals of its own, whatever its parent did") {
    const auto mine = asyncio::create_task([]() -> asyncio::coro<> {
        static_cast<void>(co_await asyncio::wait_signal(SIGUSR1));
    });
    co_await support::turns(2);
    const auto waits = [] {
        return asyncio::run([]() -> asyncio::coro<int> {
            auto got = asyncio::create_task([]() -> asyncio::coro<int> {
                co_return co_await asyncio::wait_signal(SIGUSR1);
            });
            co_await support::turns(2);
            ::kill(::getpid(), SIGUSR1);
            co_return co_await got;
        });
    };
    const int number = co_await asyncio::fork_job(waits);
    CHECK(number == SIGUSR1);
    CHECK_FALSE(mine.done());
    mine.cancel();
}

ASYNC_TEST_CASE("any capture works, and only the result comes back") {
    struct local {
        std::string text;
        std::unique_ptr<int> owned;
        local* self = nullptr;
    } data{"a text", std::make_unique<int>(7), nullptr};
    data.self = &data;
    const auto work = [&data] {
        *data.owned += 1;
        data.text += " and more";
        return std::pair(data.self->text, *data.owned);
    };
    const auto [text, number] = co_await asyncio::fork_job(work);
    CHECK(text == "a text and more");
    CHECK(number == 8);
    CHECK(data.text == "a text");
    CHECK(*data.owned == 7);

    const auto owning = [own = std::make_unique<int>(9)] { return std::make_unique<int>(*own); };
    const std::unique_ptr<int> nine = co_await asyncio::fork_job(owning);
    CHECK(*nine == 9);
    const auto nothing = [] {};
    co_await asyncio::fork_job(nothing);
    const auto process = co_await asyncio::fork_job(process_and_parent);
    CHECK(process.first != ::getpid());
    CHECK(process.second == ::getpid());
}

ASYNC_TEST_CASE("an exception comes back as what it was") {
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::fork_job([] { throw std::out_of_range("far"); }), "far",
                               std::out_of_range);
    CHECK_AWAIT_THROWS_AS(asyncio::fork_job([] { throw asyncio::cancelled_error("x"); }),
                          asyncio::cancelled_error);
    CHECK_AWAIT_THROWS_AS(asyncio::fork_job([] { throw 42; }), asyncio::remote_error);
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::fork_job([] { return opaque(-1); }), "opaque: negative",
                               asyncio::codec_error);
}

ASYNC_TEST_CASE("a large result comes back whole") {
    const std::vector<int> numbers(3'000'000, 5);
    const auto copy = [&numbers] { return numbers; };
    const std::vector<int> back = co_await asyncio::fork_job(copy);
    CHECK(back == numbers);
}

ASYNC_TEST_CASE("however the process ends, the job is over and its awaiter is told") {
    const auto died = [](auto fn) -> asyncio::coro<std::pair<int, int>> {
        try {
            co_await asyncio::fork_job(fn);
        } catch (const asyncio::worker_crashed& error) {
            co_return std::pair(error.signal(), error.exit_code());
        }
        co_return std::pair(-1, -1);
    };
    const auto aborted = co_await died([] { std::abort(); });
    CHECK(aborted == std::pair(SIGABRT, 0));
    const auto left = co_await died([] { std::exit(4); });
    CHECK(left == std::pair(0, 4));
    const auto killed = co_await died([] { std::raise(SIGKILL); });
    CHECK(killed == std::pair(SIGKILL, 0));
    const auto closed = co_await died([] {
        for (int fd = 0; fd < 1000; ++fd) ::close(fd);
        for (;;) ::pause();
    });
    CHECK(closed == std::pair(SIGKILL, 0));
    while (!has_no_children()) co_await asyncio::sleep(0s);
}

ASYNC_TEST_CASE("cancelling kills the process, and what it has started") {
    adopted_orphans orphans;
    meeting_point child, grandchild;
    const auto endless = [&] {
        if (::fork() == 0) never_ends(grandchild.path());
        never_ends(child.path());
    };
    auto wait = [&]() -> asyncio::coro<> { co_await asyncio::fork_job(endless); };
    auto task = asyncio::create_task(wait);
    co_await support::turns(2);
    const pid_t pids[] = {child.arrived(), grandchild.arrived()};
    task.cancel();
    CHECK_AWAIT_THROWS_AS(task, asyncio::cancelled_error);
    while (!is_gone(pids[0])) co_await asyncio::sleep(0s);
    orphans.wait();
    CHECK(is_gone(pids[1]));
}

TEST_CASE("a loop that ends takes its forked jobs along") {
    meeting_point meeting;
    pid_t child = 0;
    const auto endless = [&] { never_ends(meeting.path()); };
    {
        asyncio::event_loop loop;
        const auto program = [&]() -> asyncio::coro<> {
            auto job = asyncio::fork_job(endless);
            child = meeting.arrived();
            co_return;
        };
        loop.run_until_complete(program());
        CHECK_FALSE(is_gone(child));
    }
    CHECK(is_gone(child));
    CHECK(has_no_children());
}

ASYNC_TEST_CASE("twenty at once, each with its own result") {
    std::vector<asyncio::future<int>> jobs;
    for (int i = 0; i < 20; ++i) {
        const auto square = [i] { return i * i; };
        jobs.push_back(asyncio::fork_job(square));
    }
    const auto results = co_await asyncio::gather(jobs);
    for (int i = 0; i < 20; ++i) CHECK(results[static_cast<std::size_t>(i)] == i * i);
}

ASYNC_TEST_CASE("it refuses to fork while another thread is at work; idle ones of pools may be") {
    gate closed;
    std::thread other(closed.waiting());
    CHECK_THROWS_WITH_AS(static_cast<void>(asyncio::fork_job(process_number)),
                         doctest::Contains("1 other threads are at work"), std::runtime_error);
    closed.open();
    other.join();

    asyncio::thread_pool_executor pool(1);
    asyncio::isolated_executor processes(1);
    const int three = co_await asyncio::run_in_executor(pool, add, 1, 2);
    const int seven = co_await asyncio::run_in_executor(processes, add, 3, 4);
    CHECK(three == 3);
    CHECK(seven == 7);
    const pid_t fine = co_await asyncio::fork_job(process_number);
    CHECK(fine != ::getpid());

    gate inside;
    std::promise<void> begun;
    auto busy = pool.submit([&, wait = inside.waiting()] {
        begun.set_value();
        wait();
    });
    begun.get_future().wait();
    CHECK_THROWS_AS(static_cast<void>(asyncio::fork_job(process_number)), std::runtime_error);
    inside.open();
    co_await busy;
    const pid_t again = co_await asyncio::fork_job(process_number);
    CHECK(again != ::getpid());
}

TEST_CASE("a fork of the user's can neither use nor stop the executors, and ends them at once") {
    asyncio::thread_pool_executor unused(1); // has no thread yet, so that the fork may have one
    auto threads = std::make_unique<asyncio::thread_pool_executor>(1);
    auto processes = std::make_unique<asyncio::isolated_executor>(1);
    CHECK(threads->submit(add, 1, 2).result() == 3);
    const pid_t worker = processes->submit(process_number).result();

    const auto forked = support::in_child([&] {
        int refused = 0;
        asyncio::executor* const both[] = {threads.get(), processes.get()};
        for (asyncio::executor* const pool : both) {
            try {
                static_cast<void>(pool->submit(add, 1, 2));
            } catch (const std::runtime_error&) {
                ++refused;
            }
            pool->shutdown();
        }
        threads.reset();
        processes.reset();
        return refused == 2 && unused.submit(add, 3, 4).result() == 7 ? 0 : 1;
    });
    CHECK(forked.err == "");
    CHECK(forked.exit_code == 0);

    CHECK(threads->submit(add, 1, 2).result() == 3);
    CHECK(processes->submit(process_number).result() == worker);
}

TEST_CASE("it needs a running loop") {
    CHECK_THROWS_AS(static_cast<void>(asyncio::fork_job(process_number)), std::runtime_error);
}

ASYNC_TEST_CASE("the process has the descriptors that exec() would keep, and no other") {
    int kept[2];
    int closed[2];
    REQUIRE(::pipe(kept) == 0);
    REQUIRE(::pipe2(closed, O_CLOEXEC) == 0);
    const auto look = [&] {
        return std::pair(::fcntl(kept[1], F_GETFD) >= 0, ::fcntl(closed[1], F_GETFD) >= 0);
    };
    const auto seen = co_await asyncio::fork_job(look);
    CHECK(seen == std::pair(true, false));
    for (const int fd : {kept[0], kept[1], closed[0], closed[1]}) ::close(fd);
}

TEST_CASE("somebody else's wait() takes the cause of a death away, not the death or a result") {
    const auto result = support::in_child([] {
        std::signal(SIGCHLD, SIG_IGN);
        const auto program = []() -> asyncio::coro<int> {
            const pid_t child = co_await asyncio::fork_job(process_number);
            int wrong = child == ::getpid() ? 1 : 0;
            const auto dies = [] { std::_Exit(3); };
            try {
                co_await asyncio::fork_job(dies);
                ++wrong;
            } catch (const asyncio::worker_crashed& error) {
                if (std::string(error.what()).find("somebody else's wait()") == std::string::npos)
                    ++wrong;
            }
            co_return wrong;
        };
        return asyncio::run(program());
    });
    CHECK(result.exit_code == 0);
}
} // TEST_SUITE

#endif

} // namespace
