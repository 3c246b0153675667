// Worker processes, as every system has them that has any. executors.cpp tests more, with calls
// that only some systems have.
#include "support.hpp"
#include "system.hpp"

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#if defined(_WIN32)
#include <fcntl.h>
#include <io.h>
#include <process.h>
#include <windows.h>
#else
#include <unistd.h>
#endif

namespace {

using asyncio::argv;
using asyncio::isolated_executor;
using asyncio::run_in_executor;
using asyncio::stdio;

#if defined(_WIN32)

int own_number() { return ::_getpid(); }
void set_variable(const char* name, const std::string& to) { ::_putenv_s(name, to.c_str()); }

bool runs(int pid) {
    const HANDLE process = ::OpenProcess(SYNCHRONIZE, FALSE, static_cast<DWORD>(pid));
    if (process == nullptr) return false;
    const bool alive = ::WaitForSingleObject(process, 0) != WAIT_OBJECT_0;
    ::CloseHandle(process);
    return alive;
}

#else

int own_number() { return ::getpid(); }
void set_variable(const char* name, const std::string& to) { ::setenv(name, to.c_str(), 1); }
bool runs(int pid) { return ::kill(pid, 0) == 0; }

#endif

// The watchdog ends a wait that never would.
asyncio::coro<> until_gone(int pid) {
    while (runs(pid)) co_await asyncio::sleep(1ms);
}

// A file in which a job says that it runs, and in which process.
class sign {
public:
    sign()
        : path_((std::filesystem::temp_directory_path() /
                 ("asyncio-sign-" + std::to_string(own_number())))
                    .string()) {
        std::filesystem::remove(path_);
    }
    sign(const sign&) = delete;
    sign& operator=(const sign&) = delete;
    ~sign() { std::filesystem::remove(path_); }

    const std::string& path() const { return path_; }
    asyncio::coro<int> given() const {
        for (;;) {
            int pid = 0;
            if (std::ifstream(path_) >> pid) co_return pid;
            co_await asyncio::sleep(1ms);
        }
    }

private:
    std::string path_;
};

// -- jobs ----------------------------------------------------------------------------------------

int add(int a, int b) { return a + b; }
int number_of_worker() { return own_number(); }
std::string twice(std::string text) { return text + text; }
std::size_t touch_memory(std::size_t size) {
    const std::vector<char> memory(size, 'x');
    std::size_t found = 0;
    for (std::size_t i = 0; i < size; i += 1024) found += memory[i] == 'x' ? 1 : 0;
    return found;
}

int fail_with(std::string what) { throw std::out_of_range(what); }

int leave(int code) { std::_Exit(code); }

int crash() {
    int* volatile nowhere = nullptr;
    return *nowhere;
}

void run_for_ever(std::string path) {
    {
        // In one piece: whoever reads it finds all of it, or nothing.
        std::ofstream(path + "-new") << own_number() << '\n';
        std::filesystem::rename(path + "-new", path);
    }
    for (;;) std::this_thread::sleep_for(std::chrono::seconds(1));
}

void compute_for_ever() {
    std::atomic<unsigned> n{0};
    for (;;) n.fetch_add(1, std::memory_order_relaxed);
}

void never_begin() { run_for_ever(std::getenv("ASYNCIO_TEST_SIGN")); }
void refuse_to_begin() { throw std::runtime_error("not today"); }

int initial = 0;
void begin_with_7() { initial = 7; }
int initial_value() { return initial; }

// What the job's awaiter is told of a worker's end.
struct ended_worker {
    int signal = 0;
    int code = 0;
    bool told = false;
};

template <class... Args>
asyncio::coro<ended_worker> end_of(isolated_executor* pool, int (*job)(Args...), Args... args) {
    ended_worker end;
    try {
        co_await run_in_executor(pool, job, args...);
    } catch (const asyncio::worker_crashed& error) {
        end = {error.signal(), error.exit_code(), true};
    }
    co_return end;
}

} // namespace

TEST_SUITE("worker processes") {

ASYNC_TEST_CASE_REAL("jobs run in other processes, and their results come back") {
    isolated_executor pool(2);
    std::vector<asyncio::future<int>> sums;
    for (int i = 0; i < 50; ++i) sums.push_back(run_in_executor(&pool, add, i, 1000));
    for (int i = 0; i < 50; ++i) {
        const int sum = co_await sums[static_cast<std::size_t>(i)];
        CHECK(sum == 1000 + i);
    }
    const int pid = co_await run_in_executor(&pool, number_of_worker);
    CHECK(pid != own_number());
}

ASYNC_TEST_CASE_REAL("payloads of every size travel whole, in both directions") {
    isolated_executor pool(1);
    for (const std::size_t size : {0u, 1u, 1000u, 32'000u, 65'500u, 65'536u, 70'000u, 5'000'000u}) {
        std::string text(size, '\0');
        for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 7 % 251);
        const std::string both = co_await run_in_executor(&pool, twice, text);
        CHECK(both == text + text);
    }
}

ASYNC_TEST_CASE_REAL("a job's error comes back as what it was, and the pool goes on") {
    isolated_executor pool(1);
    CHECK_AWAIT_THROWS_WITH_AS(run_in_executor(&pool, fail_with, "no luck"), "no luck",
                               std::out_of_range);
    const int sum = co_await run_in_executor(&pool, add, 1, 2);
    CHECK(sum == 3);
}

ASYNC_TEST_CASE_REAL("a crash and an exit cost only their own job, and say what it was") {
    isolated_executor pool(1);
    const ended_worker left = co_await end_of(&pool, leave, 3);
    CHECK(left.told);
    CHECK(left.code == 3);
    const ended_worker crashed = co_await end_of(&pool, crash);
    CHECK(crashed.told);
#if defined(_WIN32)
    CHECK(static_cast<unsigned>(crashed.code) == 0xc0000005);
    CHECK(crashed.signal == 0);
#else
    if (!support::sanitized) CHECK(crashed.signal == SIGSEGV);
#endif
    const int sum = co_await run_in_executor(&pool, add, 1, 2);
    CHECK(sum == 3);
}

ASYNC_TEST_CASE_REAL("job_timeout ends a job that takes too long, with its worker") {
    isolated_executor pool(1, {.job_timeout = 200ms});
    const sign running;
    CHECK_AWAIT_THROWS_AS(run_in_executor(&pool, run_for_ever, running.path()),
                          asyncio::timeout_error);
    const int sum = co_await run_in_executor(&pool, add, 1, 2);
    CHECK(sum == 3);
}

ASYNC_TEST_CASE_REAL("cpu_time_limit ends a job that computes") {
    isolated_executor pool(1, {.cpu_time_limit = 100ms});
    CHECK_AWAIT_THROWS_AS(run_in_executor(&pool, compute_for_ever), asyncio::worker_crashed);
    const int sum = co_await run_in_executor(&pool, add, 1, 2);
    CHECK(sum == 3);
}

ASYNC_TEST_CASE_REAL("cancelling the awaiting task kills the worker, and the pool goes on") {
    isolated_executor pool(1);
    const sign running;
    auto job = asyncio::create_task(
        asyncio::as_outcome(run_in_executor(&pool, run_for_ever, running.path())));
    const int pid = co_await running.given();
    CHECK(runs(pid));
    job.cancel();
    CHECK_AWAIT_THROWS_AS(job, asyncio::cancelled_error);
    co_await until_gone(pid);
    const int sum = co_await run_in_executor(&pool, add, 1, 2);
    CHECK(sum == 3);
}

ASYNC_TEST_CASE_REAL("kill_workers() ends running jobs") {
    isolated_executor pool(1);
    const sign running;
    auto job = run_in_executor(&pool, run_for_ever, running.path());
    const int pid = co_await running.given();
    pool.kill_workers();
    CHECK_AWAIT_THROWS_AS(job, asyncio::worker_crashed);
    co_await until_gone(pid);
}

ASYNC_TEST_CASE_REAL(
    "an initializer runs in each worker first, and one that throws breaks the pool") {
    isolated_executor good(1, {.initializer = begin_with_7});
    const int value = co_await run_in_executor(&good, initial_value);
    CHECK(value == 7);
    isolated_executor bad(1, {.initializer = refuse_to_begin});
    CHECK_AWAIT_THROWS_WITH_AS(run_in_executor(&bad, add, 1, 2), "not today",
                               asyncio::broken_executor);
}

ASYNC_TEST_CASE_REAL("a pool ends beside an initializer that never returns") {
    const sign beginning;
    set_variable("ASYNCIO_TEST_SIGN", beginning.path());
    asyncio::concurrent_future<int> job;
    int pid = 0;
    {
        isolated_executor pool(1, {.initializer = never_begin});
        job = pool.submit(add, 1, 2);
        pid = co_await beginning.given();
    }
    CHECK(job.cancelled());
    co_await until_gone(pid);
}

ASYNC_TEST_CASE_REAL("max_tasks_per_child replaces a worker after so many jobs") {
    isolated_executor pool(1, {.max_tasks_per_child = 2});
    std::vector<int> pids;
    for (int i = 0; i < 4; ++i) {
        const int pid = co_await run_in_executor(&pool, number_of_worker);
        pids.push_back(pid);
    }
    CHECK(pids[0] == pids[1]);
    CHECK(pids[1] != pids[2]);
    CHECK(pids[2] == pids[3]);
}

ASYNC_TEST_CASE_REAL("stats() tells which processes work, and what they have done and needed") {
    isolated_executor pool(1);
    CHECK(pool.stats().jobs == 0);
    const int pid = co_await run_in_executor(&pool, number_of_worker);
    const int sum = co_await run_in_executor(&pool, add, 1, 2);
    CHECK(sum == 3);
    asyncio::isolated_stats now = pool.stats();
    REQUIRE(now.workers.size() == 1);
    CHECK(now.workers[0].pid == pid);
    CHECK(now.workers[0].jobs == 2);
    CHECK(now.workers[0].peak_memory > 0);
    CHECK(now.jobs == 2);
    CHECK(now.restarts == 0);

    constexpr std::size_t much = 64 << 20;
    const std::size_t touched = co_await run_in_executor(&pool, touch_memory, much);
    CHECK(touched == much / 1024);
    now = pool.stats();
    REQUIRE(now.workers.size() == 1);
    const std::uint64_t peak = now.workers[0].peak_memory;
    CHECK(peak > much);

    CHECK_AWAIT_THROWS_AS(run_in_executor(&pool, leave, 3), asyncio::worker_crashed);
    const int next = co_await run_in_executor(&pool, number_of_worker);
    now = pool.stats();
    REQUIRE(now.workers.size() == 1);
    CHECK(now.workers[0].pid == next);
    CHECK(now.workers[0].jobs == 1);
    CHECK(now.workers[0].peak_memory < peak);
    CHECK(now.jobs == 4);
    CHECK(now.restarts == 1);

    asyncio::interpreter_pool_executor threads(1);
    CHECK_THROWS_AS(static_cast<void>(threads.stats()), std::runtime_error);
}

TEST_CASE("shutdown() waits for what runs, and no worker is left then") {
    int pid = 0;
    {
        isolated_executor pool(1);
        auto number = pool.submit(number_of_worker);
        auto sum = pool.submit(add, 20, 22);
        pool.shutdown();
        CHECK(sum.result() == 42);
        pid = number.result();
        CHECK_THROWS_AS(pool.submit(add, 1, 2), std::runtime_error);
    }
    CHECK_FALSE(runs(pid));
}

TEST_CASE("pools come and go, and leave no handles") {
    const auto one_job = [] {
        isolated_executor pool(1);
        const std::string text(1'000'000, 'x');
        CHECK(pool.submit(twice, text).result().size() == 2 * text.size());
    };
    one_job(); // what the system keeps for itself after the first one
    const std::size_t before = support::open_descriptors().size();
    for (int i = 0; i < 3; ++i) one_job();
    CHECK(support::open_descriptors().size() <= before + 2);
}

// The job prints the number of its process, and never ends.
ASYNC_TEST_CASE_REAL("workers end with their program, however that ends") {
    const std::vector<std::string> program = support::as_child(argv("keep-worker"));
    asyncio::process parent = co_await asyncio::create_subprocess_exec(
        program, {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
    const std::string line = co_await parent.stdout_->readline();
    const int pid = std::atoi(line.c_str());
    REQUIRE(pid > 0);
    CHECK(runs(pid));
    parent.kill();
    co_await parent.wait();
    co_await until_gone(pid);
}

#if defined(_WIN32)

// The calls themselves, as Wine does not tell what a job object may have.
namespace {

JOBOBJECT_EXTENDED_LIMIT_INFORMATION limits; // the last ones

BOOL WINAPI set_limits_here(HANDLE job, JOBOBJECTINFOCLASS what, void* data, DWORD size) {
    using function = decltype(&::SetInformationJobObject);
    static const auto real = reinterpret_cast<function>(reinterpret_cast<void*>(
        ::GetProcAddress(::GetModuleHandleW(L"kernel32.dll"), "SetInformationJobObject")));
    if (what == JobObjectExtendedLimitInformation) std::memcpy(&limits, data, sizeof limits);
    return real(job, what, data, size);
}

} // namespace

extern "C" {
extern decltype(&::SetInformationJobObject) __imp_SetInformationJobObject;
decltype(&::SetInformationJobObject) __imp_SetInformationJobObject = set_limits_here;
}

ASYNC_TEST_CASE_REAL("memory_limit is the job object's, beside what the worker has already") {
    isolated_executor unlimited(1);
    int sum = co_await run_in_executor(&unlimited, add, 1, 2);
    CHECK(sum == 3);
    CHECK(limits.BasicLimitInformation.LimitFlags == JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE);
    constexpr std::size_t growth = 64 << 20;
    isolated_executor pool(1, {.memory_limit = growth});
    sum = co_await run_in_executor(&pool, add, 1, 2);
    CHECK(sum == 3);
    CHECK(limits.BasicLimitInformation.LimitFlags ==
          (JOB_OBJECT_LIMIT_KILL_ON_JOB_CLOSE | JOB_OBJECT_LIMIT_PROCESS_MEMORY));
    CHECK(limits.ProcessMemoryLimit > growth);
    CHECK(limits.ProcessMemoryLimit < growth + (std::size_t{256} << 20));
}

// Whoever has the other end of this pipe holds back its end.
ASYNC_TEST_CASE_REAL("a worker inherits nothing that it does not need") {
    int both[2] = {-1, -1};
    REQUIRE(::_pipe(both, 4096, _O_BINARY) == 0); // which children may inherit
    isolated_executor pool(1);
    const int pid = co_await run_in_executor(&pool, number_of_worker);
    ::_close(both[1]);
    asyncio::stream_reader reader = co_await asyncio::connect_read_pipe(both[0]);
    const std::string rest = co_await reader.read();
    CHECK(rest.empty());
    CHECK(runs(pid));
}

#if defined(__MINGW32__) // where such functions have a section

// A library that never lets go of the lock under which the system tells it of threads.
namespace {

enum class told { nothing, wanted, holding };
std::atomic<told> lock_of_libraries{told::nothing}; // in a worker

void NTAPI of_thread(void*, DWORD what, void*) {
    told expected = told::wanted;
    if (what == DLL_THREAD_ATTACH &&
        lock_of_libraries.compare_exchange_strong(expected, told::holding))
        for (;;) ::Sleep(INFINITE);
}
__attribute__((section(".CRT$XLY"), used)) const PIMAGE_TLS_CALLBACK library = of_thread;

int hold_lock_of_libraries() {
    lock_of_libraries = told::wanted;
    ::CloseHandle(::CreateThread(
        nullptr, 0, [](void*) -> DWORD { return 0; }, nullptr, 0, nullptr));
    while (lock_of_libraries != told::holding) ::Sleep(1);
    return own_number();
}

} // namespace

ASYNC_TEST_CASE_REAL("a worker leaves also when a library holds up the end of its process") {
    isolated_executor pool(1, {.max_tasks_per_child = 1});
    const int pid = co_await run_in_executor(&pool, hold_lock_of_libraries);
    co_await until_gone(pid);
}

#endif

// Another process that the program starts meanwhile may have inherited it: here it is this one.
ASYNC_TEST_CASE_REAL("a worker's death is seen also where its end of the pipe lives on") {
    const auto leave_pipe_to = [](int parent) {
        const std::wstring line = ::GetCommandLineW(); // "... asyncio-worker:NUMBER"
        const auto number = std::stoll(line.substr(line.rfind(L':') + 1));
        const HANDLE to = ::OpenProcess(PROCESS_DUP_HANDLE, FALSE, static_cast<DWORD>(parent));
        HANDLE copy = nullptr;
        const BOOL copied =
            ::DuplicateHandle(::GetCurrentProcess(), reinterpret_cast<HANDLE>(number), to, &copy, 0,
                              FALSE, DUPLICATE_SAME_ACCESS);
        std::_Exit(copied != 0 ? 3 : 4);
        return 0;
    };
    isolated_executor pool(1);
    const ended_worker end = co_await end_of(&pool, +leave_pipe_to, own_number());
    CHECK(end.code == 3);
    const int sum = co_await run_in_executor(&pool, add, 1, 2);
    CHECK(sum == 3);
}

ASYNC_TEST_CASE_REAL("a program that forgot worker_main() is told so, and makes no workers") {
    const std::vector<std::string> program = support::as_child(argv("forget-worker-main"));
    asyncio::process child =
        co_await asyncio::create_subprocess_exec(program, {.stdout_ = stdio::pipe});
    auto [out, err] = co_await child.communicate();
    CHECK(out.value() ==
          "asyncio::isolated_executor: a worker process is this program started again; make "
          "asyncio::worker_main() the first line of main()");
    CHECK_THROWS_AS(isolated_executor(1, {.start = asyncio::start_method::fork}),
                    std::system_error);
}

#endif

} // TEST_SUITE
