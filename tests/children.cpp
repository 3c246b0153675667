// Children and pipes, as every system has them: the children are this program again. Others
// test more, with programs and calls that only some systems have.
#include "support.hpp"
#include "system.hpp"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#if defined(_WIN32)
#include <fcntl.h>
#include <io.h>
#include <windows.h>
#else
#include <fcntl.h>
#include <unistd.h>
#endif

namespace {

using asyncio::argv;
using asyncio::process;
using asyncio::stdio;
using support::as_child;
using support::open_descriptors;
using support::pattern;
using support::scratch;

// What wait() gives of a child that was killed.
#if defined(_WIN32)
constexpr int killed = 1;
constexpr int terminated = 1;
#else
constexpr int killed = -SIGKILL;
constexpr int terminated = -SIGTERM;
#endif

asyncio::coro<process> start(std::vector<std::string> words,
                             asyncio::subprocess_options options = {}) {
    const std::vector<std::string> program = as_child(std::move(words));
    process p = co_await asyncio::create_subprocess_exec(program, options);
    co_return p;
}

asyncio::coro<std::string> output_of(std::vector<std::string> words,
                                     asyncio::subprocess_options options = {}) {
    options.stdout_ = stdio::pipe;
    process p = co_await start(std::move(words), options);
    auto [out, err] = co_await p.communicate();
    co_return out.value();
}

// What a command line prints.
asyncio::coro<std::string> output_of_shell(std::string command) {
    process p = co_await asyncio::create_subprocess_shell(command, {.stdout_ = stdio::pipe});
    auto [out, err] = co_await p.communicate();
    co_return out.value();
}

asyncio::coro<> write_all(asyncio::stream_writer* to, std::string text) {
    to->write(text);
    co_await to->drain();
    to->close();
    co_await to->wait_closed();
}

#if defined(_WIN32)

std::atomic<bool> gives_back{true}; // what was begun
std::pair<DWORD, DWORD> sent_event; // to a group of the console's

template <class Function>
Function of_system(const char* name) {
    return reinterpret_cast<Function>(reinterpret_cast<void*>(
        ::GetProcAddress(::GetModuleHandleW(L"kernel32.dll"), name)));
}

using cancel_function = decltype(&::CancelIoEx);
BOOL WINAPI cancel_here(HANDLE file, OVERLAPPED* which) {
    static const auto real = of_system<cancel_function>("CancelIoEx");
    return gives_back ? real(file, which) : TRUE;
}

// Wine's console has no Ctrl-Break.
using send_event_function = decltype(&::GenerateConsoleCtrlEvent);
BOOL WINAPI send_event_here(DWORD event, DWORD group) {
    static const auto real = of_system<send_event_function>("GenerateConsoleCtrlEvent");
    if (event != CTRL_BREAK_EVENT) return real(event, group);
    sent_event = {event, group};
    return TRUE;
}

// The exit code of a child that has a console for itself, which nobody sees.
int code_at_console(const std::string& role) {
    std::string line;
    for (const std::string& word : as_child(argv(role))) line += '"' + word + "\" ";
    STARTUPINFOA about{};
    about.cb = sizeof about;
    PROCESS_INFORMATION made{};
    REQUIRE(::CreateProcessA(nullptr, line.data(), nullptr, nullptr, FALSE, CREATE_NO_WINDOW,
                             nullptr, nullptr, &about, &made) != 0);
    ::WaitForSingleObject(made.hProcess, INFINITE);
    DWORD code = 0;
    ::GetExitCodeProcess(made.hProcess, &code);
    ::CloseHandle(made.hProcess);
    ::CloseHandle(made.hThread);
    return static_cast<int>(code);
}

// A pipe of the system's, whose end for reading does not block.
struct system_pipe {
    system_pipe() {
        const std::string name =
            "\\\\.\\pipe\\asyncio-test-" + std::to_string(::GetCurrentProcessId());
        reading = ::CreateNamedPipeA(name.c_str(), PIPE_ACCESS_INBOUND | FILE_FLAG_OVERLAPPED,
                                     PIPE_TYPE_BYTE, 1, 4096, 4096, 0, nullptr);
        REQUIRE(reading != INVALID_HANDLE_VALUE);
        writing = ::CreateFileA(name.c_str(), GENERIC_WRITE, 0, nullptr, OPEN_EXISTING, 0, nullptr);
        REQUIRE(writing != INVALID_HANDLE_VALUE);
    }
    // For connect_read_pipe() and its like, which own it.
    static int descriptor(HANDLE handle) {
        return ::_open_osfhandle(reinterpret_cast<std::intptr_t>(handle), _O_BINARY);
    }

    HANDLE reading;
    HANDLE writing;
};

#endif

} // namespace

#if defined(_WIN32)

// What a program calls there stands in a table, of which these are the places for these calls.
extern "C" {
extern cancel_function __imp_CancelIoEx;
extern send_event_function __imp_GenerateConsoleCtrlEvent;
cancel_function __imp_CancelIoEx = cancel_here;
send_event_function __imp_GenerateConsoleCtrlEvent = send_event_here;
}

#endif

TEST_SUITE("children") {

ASYNC_TEST_CASE_REAL("wait gives the exit code, and returncode has it from then on") {
    process p = co_await start(argv("exit", "42"));
    CHECK_FALSE(p.returncode());
    CHECK(p.pid() > 0);
    const int code = co_await p.wait();
    CHECK(code == 42);
    CHECK(p.returncode() == 42);
    const int again = co_await p.wait();
    CHECK(again == 42);
    CHECK_THROWS_AS(p.kill(), std::system_error);
}

ASYNC_TEST_CASE_REAL("arguments arrive as they are") {
    const std::vector<std::string> words = {
        "plain",    "with space", "",          "a\"quote\"", "back\\slash", "ends\\",
        "both\\\"", "\\\\\\",     "tab\there", "C:\\a b\\",  "%PATH%",      "a&b|c>d<e^f",
    };
    std::vector<std::string> all = {"print"};
    all.insert(all.end(), words.begin(), words.end());
    const std::string out = co_await output_of(all);
    std::string expected;
    for (const std::string& word : words) expected += word + "\n";
    CHECK(out == expected);
}

ASYNC_TEST_CASE_REAL("communicate feeds and reads megabytes at the same time") {
    const std::string text = pattern(5'000'000);
    process p = co_await start(argv("copy"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
    auto [out, err] = co_await p.communicate(text);
    CHECK(out.value() == text);
    CHECK_FALSE(err);
    CHECK(p.returncode() == 0);
}

ASYNC_TEST_CASE_REAL("communicate with a child that does not read its input is no error") {
    process p = co_await start(argv("exit", "3"), {.stdin_ = stdio::pipe});
    auto [out, err] = co_await p.communicate(pattern(1'000'000));
    CHECK(p.returncode() == 3);
}

ASYNC_TEST_CASE_REAL("both outputs are pipes of their own, or one, or go nowhere") {
    process apart =
        co_await start(argv("complain"), {.stdout_ = stdio::pipe, .stderr_ = stdio::pipe});
    auto [out, err] = co_await apart.communicate();
    CHECK(out.value() == "out ");
    CHECK(err.value() == "err");
    process both =
        co_await start(argv("complain"), {.stdout_ = stdio::pipe, .stderr_ = stdio::to_stdout});
    auto [one, none] = co_await both.communicate();
    CHECK(one.value() == "out err");
    CHECK_FALSE(none);
    process quiet = co_await start(
        argv("count"),
        {.stdin_ = stdio::devnull, .stdout_ = stdio::pipe, .stderr_ = stdio::devnull});
    auto [count, nothing] = co_await quiet.communicate();
    CHECK(count.value() == "0");
}

ASYNC_TEST_CASE_REAL("a conversation with a child goes line by line") {
    process p = co_await start(argv("lines"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
    for (int i = 0; i < 20; ++i) {
        const std::string line = "line " + std::to_string(i) + "\n";
        p.stdin_->write(line);
        co_await p.stdin_->drain();
        const std::string answer = co_await p.stdout_->readline();
        CHECK(answer == "<" + line);
    }
    p.stdin_->close();
    const int code = co_await p.wait();
    CHECK(code == 0);
}

ASYNC_TEST_CASE_REAL("a cancelled read of a child's output loses nothing") {
    process p = co_await start(argv("lines"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
    bool late = false;
    try {
        co_await asyncio::wait_for(p.stdout_->readline(), 10ms);
    } catch (const asyncio::timeout_error&) {
        late = true;
    }
    CHECK(late);
    p.stdin_->write("hello\n");
    const std::string answer = co_await p.stdout_->readline();
    CHECK(answer == "<hello\n");
    p.stdin_->close();
    co_await p.wait();
}

ASYNC_TEST_CASE_REAL("a child works in the folder and with the environment that it is given") {
    const scratch folder;
    const std::string out = co_await output_of(argv("folder"), {.cwd = folder.path});
    CHECK(out == std::filesystem::path(folder.path).filename().string());
    asyncio::environment variables = {{"ZEBRA", "last one"}, {"apple", "first"}, {"EMPTY", ""}};
    // Without these, programs do not start on some systems.
    for (const char* const needed : {"SystemRoot", "PATH", "WINEPREFIX"})
        if (const char* const value = std::getenv(needed)) variables[needed] = value;
    const std::string seen =
        co_await output_of(argv("variables", "ZEBRA", "apple", "NOBODY"), {.env = &variables});
    CHECK(seen == "ZEBRA=last one\napple=first\nNOBODY=(none)\n");
}

// Whoever has the other end of this pipe holds back its end.
ASYNC_TEST_CASE_REAL("a child gets the standard descriptors and no others") {
    int both[2] = {-1, -1};
#if defined(_WIN32)
    REQUIRE(::_pipe(both, 4096, _O_BINARY) == 0); // which children may inherit
#else
    REQUIRE(::pipe(both) == 0);
#endif
    process p = co_await start(argv("announce"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
    const std::string ready = co_await p.stdout_->readline();
    CHECK(ready.substr(0, 5) == "ready");
#if defined(_WIN32)
    ::_close(both[1]);
#else
    ::close(both[1]);
#endif
    asyncio::stream_reader reader = co_await asyncio::connect_read_pipe(both[0]);
    const std::string rest = co_await reader.read();
    CHECK(rest.empty());
    CHECK_FALSE(p.returncode());
}

ASYNC_TEST_CASE_REAL("what cannot be started says why, and what") {
    const std::size_t before = open_descriptors().size();
    CHECK_AWAIT_THROWS_WITH_AS(
        asyncio::create_subprocess_exec(asyncio::argv("no-such-program-anywhere"),
                                        {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe}),
        "no-such-program-anywhere", std::system_error);
    CHECK_AWAIT_THROWS_WITH_AS(start(argv("exit", "0"), {.cwd = "no-such-folder"}),
                               "chdir no-such-folder", std::system_error);
    asyncio::environment empty;
    CHECK_AWAIT_THROWS_AS(
        asyncio::create_subprocess_exec(asyncio::argv("no-such-program"), {.env = &empty}),
        std::system_error);
    CHECK(open_descriptors().size() == before);
}

ASYNC_TEST_CASE_REAL("a child is killed, or asked to end") {
    process one = co_await start(argv("announce"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
    const std::string ready = co_await one.stdout_->readline();
    CHECK(ready.substr(0, 5) == "ready");
    one.kill();
    const int code = co_await one.wait();
    CHECK(code == killed);
    process two = co_await start(argv("announce"), {.stdin_ = stdio::pipe, .new_group = true});
    two.terminate();
    const int other = co_await two.wait();
    CHECK(other == terminated);
}

ASYNC_TEST_CASE_REAL("a cancelled wait leaves the child alone, and all waits get the code") {
    process p =
        co_await start(argv("announce"), {.stdin_ = stdio::pipe, .stdout_ = stdio::devnull});
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(p.wait(), 1ms), asyncio::timeout_error);
    CHECK_FALSE(p.returncode());
    auto first = asyncio::create_task(p.wait());
    auto second = asyncio::create_task(p.wait());
    co_await support::turns(3);
    p.stdin_->close();
    const int one = co_await first;
    const int two = co_await second;
    CHECK(one == 0);
    CHECK(two == 0);
}

ASYNC_TEST_CASE_REAL("kill_on_cancel: a cancelled wait ends when the killed child has ended") {
    process p =
        co_await start(argv("announce"),
                       {.stdin_ = stdio::pipe, .stdout_ = stdio::devnull, .kill_on_cancel = true});
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(p.wait(), 1ms), asyncio::timeout_error);
    CHECK(p.returncode() == killed);
}

// The other end of its output tells: it closes when the child is gone.
ASYNC_TEST_CASE_REAL("a process that is destroyed while its child lives kills it") {
    std::optional<asyncio::stream_reader> output;
    {
        process p =
            co_await start(argv("announce"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
        const std::string ready = co_await p.stdout_->readline();
        CHECK(ready.substr(0, 5) == "ready");
        output.emplace(std::move(*p.stdout_));
    }
    const std::string rest = co_await output->read();
    CHECK(rest.empty());
}

ASYNC_TEST_CASE_REAL("a shell runs a command line, and gives its code") {
    const std::string out = co_await output_of_shell("echo one && echo two");
    CHECK(out.find("one") != std::string::npos);
    CHECK(out.find("two") != std::string::npos);
    process p = co_await asyncio::create_subprocess_shell("exit 5");
    const int code = co_await p.wait();
    CHECK(code == 5);
}

ASYNC_TEST_CASE_REAL("many children at once leave nothing behind") {
    { // what the system keeps for itself after the first one
        const std::string warm = co_await output_of(argv("print", "x"));
        CHECK(warm.substr(0, 1) == "x");
    }
    const std::size_t before = open_descriptors().size();
    {
        std::vector<asyncio::task<std::string>> outputs;
        for (int i = 0; i < 12; ++i)
            outputs.push_back(
                asyncio::create_task(output_of(argv("print", "child " + std::to_string(i)))));
        for (int i = 0; i < 12; ++i) {
            const std::string out = co_await outputs[static_cast<std::size_t>(i)];
            CHECK(out == "child " + std::to_string(i) + "\n");
        }
    }
    co_await asyncio::sleep(0s);
    // Two for threads of the system's, which wait for the next ones.
    CHECK(open_descriptors().size() <= before + 2);
}

TEST_CASE("the end of a loop kills the children that it has") {
    std::optional<process> left;
    const auto body = [](std::optional<process>* to) -> asyncio::coro<> {
        to->emplace(
            co_await start(argv("announce"), {.stdin_ = stdio::pipe, .stdout_ = stdio::devnull}));
    };
    asyncio::run(body(&left));
    CHECK_FALSE(left->returncode());
    left.reset(); // kills
}

} // TEST_SUITE

TEST_SUITE("pipes") {

ASYNC_TEST_CASE("create_pipe carries what is written from one end to the other") {
    auto [reader, writer] = co_await asyncio::create_pipe();
    writer.write("hello ");
    writer.write("world\n");
    const std::string line = co_await reader.readline();
    CHECK(line == "hello world\n");
    writer.close();
    const std::string rest = co_await reader.read();
    CHECK(rest.empty());
    CHECK(reader.at_eof());
}

ASYNC_TEST_CASE_REAL("a pipe holds a fast writer back, and loses nothing") {
    auto [reader, writer] = co_await asyncio::create_pipe();
    const std::string text = pattern(3'000'000);
    auto writing = asyncio::create_task(write_all(&writer, text));
    const std::string got = co_await reader.read();
    CHECK(got == text);
    co_await writing;
}

ASYNC_TEST_CASE_REAL("a cancelled read of a pipe loses nothing") {
    auto [reader, writer] = co_await asyncio::create_pipe();
    for (int i = 0; i < 3; ++i) {
        auto reading = asyncio::create_task(reader.readexactly(3));
        co_await support::turns(2);
        reading.cancel();
        CHECK_AWAIT_THROWS_AS(reading, asyncio::cancelled_error);
        writer.write("abc");
        const std::string got = co_await reader.readexactly(3);
        CHECK(got == "abc");
    }
}

ASYNC_TEST_CASE_REAL("a pipe that nobody reads is an error") {
    auto [reader, writer] = co_await asyncio::create_pipe();
    {
        const asyncio::stream_reader gone = std::move(reader);
    }
    int code = 0;
    try {
        for (int i = 0; i < 100; ++i) {
            writer.write(pattern(100'000));
            co_await writer.drain();
        }
    } catch (const std::system_error& error) {
        code = error.code().value();
    }
    CHECK(code == EPIPE);
}

TEST_CASE("a loop that goes while a pipe is read and written frees what it can") {
    const auto body = []() -> asyncio::coro<> {
        auto [reader, writer] = co_await asyncio::create_pipe();
        writer.write(pattern(1'000'000));
        auto reading = asyncio::create_task(reader.readuntil("never"));
        co_await support::turns(3);
        reading.cancel();
    };
    const std::size_t before = open_descriptors().size();
    asyncio::run(body());
    CHECK(open_descriptors().size() <= before + 2); // threads, as above
}

ASYNC_TEST_CASE_REAL("a child reads its input with stdin_reader, gives up, and reads on") {
    process p = co_await start(argv("impatient"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
    const std::string nothing = co_await p.stdout_->readline();
    CHECK(nothing == "nothing came\n");
    p.stdin_->write("a line\n");
    const std::string line = co_await p.stdout_->readline();
    CHECK(line == "then a line\n");
    const int code = co_await p.wait();
    CHECK(code == 0);
}

ASYNC_TEST_CASE_REAL("stdin_reader reads a file, and a device without anything") {
    const scratch folder;
    const std::filesystem::path path = folder / "input";
    co_await asyncio::write_file(path.string(), "one\ntwo\n");
#if defined(_WIN32)
    const int fd = ::_wopen(path.c_str(), _O_RDONLY | _O_BINARY);
#else
    const int fd = ::open(path.c_str(), O_RDONLY);
#endif
    const std::string out = co_await output_of(argv("lines"), {.stdin_ = fd});
    CHECK(out == "<one\n<two\n");
#if defined(_WIN32)
    ::_close(fd);
#else
    ::close(fd);
#endif
    const std::string nothing = co_await output_of(argv("lines"), {.stdin_ = stdio::devnull});
    CHECK(nothing.empty());
}

// Made by the C library: where reading at once is all that such a pipe can do, a thread does it.
ASYNC_TEST_CASE_REAL("connect_read_pipe and connect_write_pipe own any pipe's descriptors") {
    int both[2] = {-1, -1};
#if defined(_WIN32)
    REQUIRE(::_pipe(both, 4096, _O_BINARY | _O_NOINHERIT) == 0);
#else
    REQUIRE(::pipe(both) == 0);
#endif
    asyncio::stream_reader reader = co_await asyncio::connect_read_pipe(both[0]);
    asyncio::stream_writer writer = co_await asyncio::connect_write_pipe(both[1]);
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(reader.readexactly(4), 5ms), asyncio::timeout_error);
    const std::string text = pattern(300'000);
    auto writing = asyncio::create_task(write_all(&writer, text));
    const std::string got = co_await reader.read();
    CHECK(got == text);
    co_await writing;
}

ASYNC_TEST_CASE_REAL("files are no pipes, and a number that nothing has is refused") {
    const scratch folder;
    const std::filesystem::path path = folder / "data";
    co_await asyncio::write_file(path.string(), "text");
#if defined(_WIN32)
    const int fd = ::_wopen(path.c_str(), _O_RDONLY);
#else
    const int fd = ::open(path.c_str(), O_RDONLY);
#endif
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::connect_read_pipe(fd), "use asyncio::file",
                               std::invalid_argument);
    CHECK_AWAIT_THROWS_AS(asyncio::connect_read_pipe(-1), std::system_error);
}

} // TEST_SUITE

#if defined(_WIN32)

TEST_SUITE("pipes and consoles of Windows") {

ASYNC_TEST_CASE_REAL("a pipe on somebody else's completion port is read and written all the same") {
    const HANDLE port = ::CreateIoCompletionPort(INVALID_HANDLE_VALUE, nullptr, 0, 0);
    const system_pipe in;
    REQUIRE(::CreateIoCompletionPort(in.reading, port, 0, 0) == port);
    asyncio::stream_reader reader =
        co_await asyncio::connect_read_pipe(system_pipe::descriptor(in.reading));
    auto reading = asyncio::create_task(reader.readline());
    co_await support::turns(3);
    asyncio::stream_writer writer =
        co_await asyncio::connect_write_pipe(system_pipe::descriptor(in.writing));
    writer.write("hello\n");
    const std::string line = co_await reading;
    CHECK(line == "hello\n");
    writer.close();
    const std::string rest = co_await reader.read();
    CHECK(rest.empty());
    OVERLAPPED_ENTRY packet;
    ULONG count = 0;
    // None of it comes out of that port.
    CHECK(::GetQueuedCompletionStatusEx(port, &packet, 1, &count, 0, FALSE) == 0);
    ::CloseHandle(port);
}

// The copy keeps the pipe open, and nobody cancels what was begun.
TEST_CASE("a loop ends beside a read that the system never gives back") {
    const system_pipe in;
    HANDLE copy = nullptr;
    const HANDLE self = ::GetCurrentProcess();
    REQUIRE(::DuplicateHandle(self, in.reading, self, &copy, 0, FALSE, DUPLICATE_SAME_ACCESS) != 0);
    const auto body = [](int fd) -> asyncio::coro<> {
        asyncio::stream_reader reader = co_await asyncio::connect_read_pipe(fd);
        auto reading = asyncio::create_task(reader.readline());
        co_await support::turns(3);
        reading.cancel();
        gives_back = false;
    };
    asyncio::run(body(system_pipe::descriptor(in.reading)));
    gives_back = true;
    ::CloseHandle(copy);
    ::CloseHandle(in.writing);
}

ASYNC_TEST_CASE_REAL("a pipe is made beside names that somebody else has taken") {
    const std::string out = co_await output_of(argv("taken-names"));
    CHECK(out == "taken taken taken through\n");
}

ASYNC_TEST_CASE_REAL("SIGBREAK goes to the group that a child leads, and to no other child") {
    asyncio::subprocess_options options{.stdin_ = stdio::pipe, .stdout_ = stdio::devnull};
    process other = co_await start(argv("announce"), options);
    options.new_group = true;
    process leader = co_await start(argv("announce"), options);
    leader.send_signal(SIGBREAK);
    CHECK(sent_event.first == CTRL_BREAK_EVENT);
    CHECK(static_cast<int>(sent_event.second) == leader.pid());
    CHECK_THROWS_AS(other.send_signal(SIGBREAK), std::system_error);
}

TEST_CASE("Ctrl-C at the console interrupts run_main()") {
    CHECK(code_at_console("press-ctrl-c") == 130);
}

TEST_CASE("standard input whose console has gone is an error") {
    CHECK(code_at_console("free-console") == 7);
}

} // TEST_SUITE

#endif
