// The part of every test program that is compiled once: doctest's main(), the watchdog and the
// helpers of support.hpp, of which cases.hpp has those that need no operating system.
#define DOCTEST_CONFIG_IMPLEMENT
#define DOCTEST_CONFIG_NO_POSIX_SIGNALS // SIGINT belongs to the tests; crashes are reported below
#include "cases.hpp"

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <stdexcept>
#include <string_view>
#include <system_error>
#include <thread>

#include <fcntl.h>
#if defined(_WIN32)
#include <io.h>
#include <sys/stat.h>
#include <windows.h>
#else
#include <sys/wait.h>
#include <unistd.h>
#endif
#if defined(_WIN32)
#elif defined(__APPLE__)
#include <mach/mach.h>
#include <pthread.h>
#else
#include <sys/syscall.h>
#endif

// ---- the watchdog -------------------------------------------------------------------------------
// A test that hangs or crashes says its name on stderr and ends the program, so that neither can be
// missed. A timer signal and no thread: tests about fork must start from a single-threaded process.

namespace {

constexpr int standard_error = 2;
std::atomic<int> complaints{standard_error}; // elsewhere while a test captures that one

#if defined(_WIN32)

void say(const char* text) {
    const int ignored = ::_write(complaints, text, static_cast<unsigned>(std::strlen(text)));
    static_cast<void>(ignored);
}

#else

pid_t test_process = 0;

void say(const char* text) {
    const ssize_t ignored = ::write(complaints, text, std::strlen(text));
    static_cast<void>(ignored);
}

#endif

#if defined(_WIN32)

// There is no fork to keep threads away from, and no signal. The thread and its event are the
// system's own and outlive all that main() leaves behind, which is watched, too.
std::atomic<ULONGLONG> limit{0}; // of GetTickCount64(); 0: none

DWORD WINAPI watch(void* changed) {
    for (;;) {
        const ULONGLONG when = limit;
        const ULONGLONG now = ::GetTickCount64();
        if (when != 0 && when <= now) {
            say("\nHANGS (see ASYNCIO_TEST_TIMEOUT): ");
            say(running_test);
            say("\n");
            ::TerminateProcess(::GetCurrentProcess(), 3);
        }
        ::WaitForSingleObject(changed, when == 0 ? INFINITE : static_cast<DWORD>(when - now));
    }
}

void set_alarm(unsigned seconds) {
    static const HANDLE changed = [] {
        const HANDLE event = ::CreateEventW(nullptr, FALSE, FALSE, nullptr);
        ::CloseHandle(::CreateThread(nullptr, 0, &watch, event, 0, nullptr));
        return event;
    }();
    limit = seconds == 0 ? 0 : ::GetTickCount64() + seconds * 1000ULL;
    ::SetEvent(changed);
}

void crashed() {
    say("\nCRASHED: ");
    say(running_test);
    say("\n");
}

void install_handlers() {
    ::SetErrorMode(SEM_FAILCRITICALERRORS | SEM_NOGPFAULTERRORBOX);
    ::SetUnhandledExceptionFilter([](EXCEPTION_POINTERS*) -> LONG {
        crashed();
        return EXCEPTION_CONTINUE_SEARCH;
    });
    std::signal(SIGABRT, [](int) { crashed(); });
}

#else

void set_alarm(unsigned seconds) { ::alarm(seconds); }

// Only calls what a signal handler may call.
extern "C" void die_with_name(int signal_number) {
    // A worker process of a test may crash on purpose; its parent is told by the exit status.
    if (signal_number == SIGALRM || ::getpid() == test_process) {
        say(signal_number == SIGALRM ? "\nHANGS (see ASYNCIO_TEST_TIMEOUT): " : "\nCRASHED: ");
        say(running_test);
        say("\n");
    }
    std::signal(SIGABRT, SIG_DFL);
    if (signal_number == SIGALRM) std::abort();
    std::signal(signal_number, SIG_DFL);
    ::raise(signal_number);
}

void install_handlers() {
    // Handlers need a stack of their own to report that the other one overflowed.
    static char stack[64 * 1024];
    stack_t other = {};
    other.ss_sp = stack;
    other.ss_size = sizeof stack;
    ::sigaltstack(&other, nullptr);
    for (const int number : {SIGALRM, SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV}) {
        struct sigaction old = {};
        ::sigaction(number, nullptr, &old);
        if (old.sa_handler != SIG_DFL) continue; // a sanitizer reports this one better
        struct sigaction action = {};
        action.sa_handler = die_with_name;
        action.sa_flags = SA_ONSTACK | SA_NODEFER;
        ::sigaction(number, &action, nullptr);
    }
}

#endif

} // namespace

// ---- this program as a child of its tests -------------------------------------------------------

namespace {

std::string this_program;

#if !defined(ASYNCIO_NO_THREADS) // without which there are no children

void print(std::string_view text) { std::fwrite(text.data(), 1, text.size(), stdout); }

asyncio::coro<> copy_lines() {
    asyncio::stream_reader input = co_await asyncio::stdin_reader();
    for (;;) {
        const std::string line = co_await input.readline();
        if (line.empty()) break;
        print("<" + line);
        std::fflush(stdout);
    }
}

asyncio::coro<> give_up_reading() {
    asyncio::stream_reader input = co_await asyncio::stdin_reader();
    const auto first = co_await asyncio::as_outcome(asyncio::wait_for(input.readline(), 20ms));
    const bool late = !first && first.error().holds<asyncio::timeout_error>();
    print(late ? "nothing came\n" : "something came\n");
    std::fflush(stdout);
    const std::string line = co_await input.readline();
    print("then " + line);
}

#if defined(_WIN32)

asyncio::coro<> press_ctrl_c() {
    ::GenerateConsoleCtrlEvent(CTRL_C_EVENT, 0); // of this process's console
    co_await asyncio::sleep(1h);
}

// 7: it fails as calls of the system do.
asyncio::coro<int> read_without_console() {
    ::FreeConsole();
    auto reader = co_await asyncio::as_outcome(asyncio::stdin_reader());
    if (!reader) co_return reader.error().holds<std::system_error>() ? 7 : 1;
    const auto line = co_await asyncio::as_outcome(reader->readline());
    if (line) co_return 2;
    co_return line.error().holds<std::system_error>() ? 7 : 3;
}

// Somebody has the first names that this process would give its pipes.
asyncio::coro<> pipe_beside_taken_names() {
    for (int i = 0; i < 3; ++i) {
        const std::string name = "\\\\.\\pipe\\asyncio-" +
                                 std::to_string(::GetCurrentProcessId()) + "-" + std::to_string(i);
        const HANDLE taken = ::CreateNamedPipeA(name.c_str(), PIPE_ACCESS_DUPLEX, 0, 1, 0, 0, 0,
                                                nullptr); // to the end of the process
        print(taken != INVALID_HANDLE_VALUE ? "taken " : "not taken ");
    }
    auto [reader, writer] = co_await asyncio::create_pipe();
    writer.write("through\n");
    const std::string line = co_await reader.readline();
    print(line);
}

#endif

// A job that says which process runs it, and never ends.
void stay() {
#if defined(_WIN32)
    print(std::to_string(::GetCurrentProcessId()) + "\n");
#else
    print(std::to_string(::getpid()) + "\n");
#endif
    std::fflush(stdout);
    for (;;) std::this_thread::sleep_for(1s);
}

int act(const std::string& role, const std::vector<std::string>& words) {
    if (role == "print") {
        for (const std::string& word : words) print(word + "\n");
    } else if (role == "complain") {
        print("out ");
        std::fflush(stdout);
        std::fprintf(stderr, "err");
    } else if (role == "copy") {
        for (int c = std::getchar(); c != EOF; c = std::getchar()) std::putchar(c);
    } else if (role == "count") {
        std::size_t count = 0;
        while (std::getchar() != EOF) ++count;
        print(std::to_string(count));
    } else if (role == "variables") {
        for (const std::string& name : words) {
            const char* const value = std::getenv(name.c_str());
            print(name + "=" + (value != nullptr ? value : "(none)") + "\n");
        }
    } else if (role == "folder") {
        print(std::filesystem::current_path().filename().string());
    } else if (role == "announce") { // and wait for the end of the input
        print("ready\n");
        std::fflush(stdout);
        while (std::getchar() != EOF) {}
    } else if (role == "keep-worker") { // until the end of the input
        asyncio::isolated_executor pool(1);
        const auto job = pool.submit(stay);
        while (std::getchar() != EOF) {}
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    } else if (role == "forget-worker-main") {
        try {
            const asyncio::isolated_executor pool(1);
        } catch (const std::runtime_error& error) {
            print(error.what());
        }
#endif
    } else if (role == "lines") {
        asyncio::run(copy_lines());
#if defined(_WIN32)
    } else if (role == "press-ctrl-c") {
        return asyncio::run_main(press_ctrl_c());
    } else if (role == "free-console") {
        return asyncio::run(read_without_console());
    } else if (role == "taken-names") {
        asyncio::run(pipe_beside_taken_names());
#endif
    } else if (role == "impatient") {
        asyncio::run(give_up_reading());
    } else if (role != "exit") {
        return 99;
    }
    return role == "exit" ? std::atoi(words.at(0).c_str()) : 0;
}

#endif

} // namespace

int main(int argc, char** argv) {
#if !defined(ASYNCIO_NO_THREADS)
    const bool is_child = argc > 2 && std::string_view(argv[1]) == "as-child";
    const bool forgets = is_child && std::string_view(argv[2]) == "forget-worker-main";
    // Does not return in a worker process of an isolated_executor. Whoever cannot start this
    // program again, as an emulator, has its workers forked.
    if (!forgets && std::getenv("ASYNCIO_TEST_FORK") == nullptr) asyncio::worker_main();
    this_program = std::filesystem::absolute(argv[0]).string();
    if (is_child) {
#if defined(_WIN32)
        for (std::FILE* const file : {stdin, stdout}) ::_setmode(::_fileno(file), _O_BINARY);
#endif
        return act(argv[2], std::vector<std::string>(argv + 3, argv + argc));
    }
#endif
#if !defined(_WIN32)
    test_process = ::getpid();
#endif
    install_handlers();
    const int code = doctest::Context(argc, argv).run();
    if (shuffled_cases > 0) std::printf("%d cases in the order of the seed\n", shuffled_cases);
    return code;
}

// ---- helpers of support.hpp ---------------------------------------------------------------------

namespace support {

std::vector<std::string> as_child(std::vector<std::string> words) {
    words.insert(words.begin(), {this_program, "as-child"});
    return words;
}

namespace {

[[noreturn]] void fail(const char* call) {
#if defined(ASYNCIO_NO_EXCEPTIONS)
    std::perror(call);
    std::abort();
#else
    throw std::system_error(errno, std::generic_category(), call);
#endif
}

#if defined(_WIN32)

// Of the C library, which deletes it when it is closed.
int temporary_file() {
    wchar_t folder[MAX_PATH];
    wchar_t name[MAX_PATH];
    if (::GetTempPathW(MAX_PATH, folder) == 0 || ::GetTempFileNameW(folder, L"aio", 0, name) == 0)
        fail("GetTempFileNameW");
    const int descriptor =
        ::_wopen(name, _O_RDWR | _O_TRUNC | _O_BINARY | _O_TEMPORARY, _S_IREAD | _S_IWRITE);
    if (descriptor < 0) fail("_wopen");
    return descriptor;
}

std::string whole_file(int descriptor) {
    std::string text;
    char part[4096];
    ::_lseeki64(descriptor, 0, SEEK_SET);
    for (;;) {
        const int count = ::_read(descriptor, part, sizeof part);
        if (count <= 0) break;
        text.append(part, static_cast<std::size_t>(count));
    }
    std::erase(text, '\r');
    return text;
}

int copy_of(int descriptor) { return ::_dup(descriptor); }
void close_it(int descriptor) { ::_close(descriptor); }

void redirect(int from, int to) {
    if (::_dup2(from, to) < 0) fail("_dup2");
}

#else

constexpr int standard_error = STDERR_FILENO;

// An unnamed temporary file; the descriptor outlives the FILE it comes from.
int temporary_file() {
    std::FILE* const file = std::tmpfile();
    if (file == nullptr) fail("tmpfile");
    const int descriptor = ::dup(::fileno(file));
    std::fclose(file);
    if (descriptor < 0) fail("dup");
    return descriptor;
}

std::string whole_file(int descriptor) {
    std::string text;
    char part[4096];
    off_t place = 0;
    for (;;) {
        const ssize_t count = ::pread(descriptor, part, sizeof part, place);
        if (count <= 0) break;
        text.append(part, static_cast<std::size_t>(count));
        place += count;
    }
    return text;
}

int copy_of(int descriptor) { return ::dup(descriptor); }
void close_it(int descriptor) { ::close(descriptor); }

void redirect(int from, int to) {
    if (::dup2(from, to) < 0) fail("dup2");
}

#endif

} // namespace

captured_stderr::captured_stderr() : file_(temporary_file()) {
    std::fflush(stderr);
    original_ = copy_of(standard_error);
    if (original_ < 0) fail("dup");
    if (complaints == standard_error) complaints = original_;
    redirect(file_, standard_error);
}

captured_stderr::~captured_stderr() { restore(); }

std::string captured_stderr::taken() {
    restore();
    return text_;
}

void captured_stderr::restore() {
    if (file_ < 0) return;
    std::fflush(stderr);
    redirect(original_, standard_error);
    if (complaints == original_) complaints = standard_error;
    close_it(original_);
    text_ = whole_file(file_);
    close_it(file_);
    file_ = -1;
}

#if defined(_WIN32)

int thread_id() noexcept { return static_cast<int>(::GetCurrentThreadId()); }

// Nothing tells that a thread sleeps. One that uses no processor time for a while does.
void wait_until_asleep(const std::atomic<int>& id) {
    while (id == 0) std::this_thread::yield();
    const HANDLE thread =
        ::OpenThread(THREAD_QUERY_INFORMATION, FALSE, static_cast<DWORD>(id.load()));
    if (thread == nullptr) fail("OpenThread");
    unsigned long long last = 0;
    for (int still = 0; still < 5;) {
        FILETIME begun, ended, in_kernel, in_user;
        if (::GetThreadTimes(thread, &begun, &ended, &in_kernel, &in_user) == 0)
            fail("GetThreadTimes");
        const unsigned long long now = in_kernel.dwLowDateTime + 0ull + in_user.dwLowDateTime;
        still = now == last ? still + 1 : 0;
        last = now;
        ::Sleep(5);
    }
    ::CloseHandle(thread);
}

#elif defined(__APPLE__)

int thread_id() noexcept { return static_cast<int>(::pthread_mach_thread_np(::pthread_self())); }

void wait_until_asleep(const std::atomic<int>& id) {
    while (id == 0) std::this_thread::yield();
    for (;;) {
        thread_basic_info info = {};
        mach_msg_type_number_t size = THREAD_BASIC_INFO_COUNT;
        if (::thread_info(static_cast<thread_act_t>(id.load()), THREAD_BASIC_INFO,
                          reinterpret_cast<thread_info_t>(&info), &size) != KERN_SUCCESS)
            fail("thread_info");
        if (info.run_state == TH_STATE_WAITING) return;
        std::this_thread::yield();
    }
}

#else

int thread_id() noexcept { return static_cast<int>(::syscall(SYS_gettid)); }

void wait_until_asleep(const std::atomic<int>& id) {
    while (id == 0) std::this_thread::yield();
    const std::string path = "/proc/self/task/" + std::to_string(id) + "/stat";
    for (;;) {
        // "number (name) S ...": the name may hold anything.
        const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        if (file < 0) fail("open");
        const std::string text = whole_file(file);
        ::close(file);
        const std::size_t state = text.rfind(')') + 2;
        if (state < text.size() && text[state] == 'S') return;
        std::this_thread::yield();
    }
}

#endif

#if defined(_WIN32)

child_result in_child(const std::function<int()>& program) {
    constexpr int standard_output = 1;
    const int out = temporary_file();
    std::fflush(stdout);
    const int original = copy_of(standard_output);
    redirect(out, standard_output);
    captured_stderr err;
    child_result result;
    std::exception_ptr error;
    try {
        result.exit_code = program();
    } catch (...) {
        error = std::current_exception();
    }
    result.err = err.taken();
    std::fflush(stdout);
    redirect(original, standard_output);
    close_it(original);
    result.out = whole_file(out);
    close_it(out);
    if (error) std::rethrow_exception(error);
    return result;
}

#else

child_result in_child(const std::function<int()>& program) {
    const int out = temporary_file();
    const int err = temporary_file();
    std::fflush(nullptr);
    const pid_t child = ::fork();
    if (child < 0) fail("fork");
    if (child == 0) {
        redirect(out, STDOUT_FILENO);
        redirect(err, STDERR_FILENO);
        ::alarm(std::max(test_seconds() / 2, 1U));
        int code = 125; // as no program under test returns
#if defined(ASYNCIO_NO_EXCEPTIONS)
        code = program();
#else
        try {
            code = program();
        } catch (...) {
            const std::string text = "in_child: " + message_of(std::current_exception()) + "\n";
            say(text.c_str());
        }
#endif
        std::fflush(nullptr);
        ::_exit(code);
    }
    int status = 0;
    while (::waitpid(child, &status, 0) < 0)
        if (errno != EINTR) fail("waitpid");
    child_result result;
    if (WIFEXITED(status)) result.exit_code = WEXITSTATUS(status);
    if (WIFSIGNALED(status)) result.signal_number = WTERMSIG(status);
    result.out = whole_file(out);
    result.err = whole_file(err);
    ::close(out);
    ::close(err);
    return result;
}

#endif

} // namespace support
