// Child processes and pipes, with real programs.
#include "calls.hpp"
#include "support.hpp"
#include "system.hpp"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <dirent.h>
#include <fcntl.h>
#include <fstream>
#include <list>
#include <sstream>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>
#if defined(__linux__)
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#endif

namespace {

using asyncio::argv;
using asyncio::process;
using asyncio::stdio;
using support::interruptions;
using support::open_descriptors;
using support::pattern;
using support::scratch;

// The children of this process, living and dead: "PID STATE".
std::set<std::string> children() {
    std::set<std::string> found;
    DIR* const list = ::opendir("/proc");
    while (const dirent* const entry = ::readdir(list)) {
        if (std::atoi(entry->d_name) == 0) continue;
        std::ifstream file(std::string("/proc/") + entry->d_name + "/stat");
        std::string text;
        std::getline(file, text);
        const std::size_t end = text.rfind(')');
        if (end == std::string::npos) continue;
        std::istringstream rest(text.substr(end + 1));
        std::string state;
        int parent = 0;
        rest >> state >> parent;
        if (parent == ::getpid()) found.insert(std::string(entry->d_name) + " " + state);
    }
    ::closedir(list);
    return found;
}

// Nothing is left of what the test began: no child, no zombie, no descriptor.
class nothing_left {
public:
    nothing_left() : descriptors_(open_descriptors()), children_(children()) {}
    void check() const {
        CHECK(children() == children_);
        CHECK(open_descriptors() == descriptors_);
    }

private:
    std::set<std::string> descriptors_;
    std::set<std::string> children_;
};

// Both ends of a terminal: the one where somebody types, and the one of the program.
std::pair<int, int> open_terminal() {
    const int terminal = ::posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    REQUIRE(terminal >= 0);
    REQUIRE(::grantpt(terminal) == 0);
    REQUIRE(::unlockpt(terminal) == 0);
    const int shown = ::open(::ptsname(terminal), O_RDWR | O_NOCTTY | O_CLOEXEC);
    REQUIRE(shown >= 0);
    return {terminal, shown};
}

bool exists(int pid) { return ::kill(pid, 0) == 0 || errno != ESRCH; }

int code_of(const std::exception_ptr& error) {
    try {
        if (error) std::rethrow_exception(error);
    } catch (const std::system_error& e) {
        return e.code().value();
    } catch (...) {
        return -1;
    }
    return 0;
}

// A file in a folder.
std::string file(const scratch& folder, const std::string& name, const std::string& text,
                 mode_t mode = 0644) {
    support::put(folder / name, text);
    ::chmod((folder / name).c_str(), mode);
    return folder / name;
}

asyncio::coro<process> shell(std::string command, asyncio::subprocess_options options = {}) {
    process p = co_await asyncio::create_subprocess_shell(command, options);
    co_return p;
}

// The exit code of a command line.
asyncio::coro<int> status_of(std::string command, asyncio::subprocess_options options = {}) {
    process p = co_await shell(std::move(command), options);
    co_return co_await p.wait();
}

// What a command line prints.
asyncio::coro<std::string> output_of(std::string command,
                                     asyncio::subprocess_options options = {}) {
    options.stdout_ = stdio::pipe;
    process p = co_await shell(std::move(command), options);
    auto [out, err] = co_await p.communicate();
    co_return out.value();
}

// A pipe, closed at the end as far as nobody has taken its ends.
struct raw_pipe {
    raw_pipe() {
        int both[2];
        if (support::open_pipe(both) != 0) throw std::runtime_error("pipe");
        out = both[0];
        in = both[1];
    }
    raw_pipe(const raw_pipe&) = delete;
    raw_pipe& operator=(const raw_pipe&) = delete;
    ~raw_pipe() {
        close_out();
        close_in();
    }
    void close_out() {
        if (out >= 0) ::close(std::exchange(out, -1));
    }
    void close_in() {
        if (in >= 0) ::close(std::exchange(in, -1));
    }
    int take_out() { return std::exchange(out, -1); }
    int take_in() { return std::exchange(in, -1); }

    int out = -1;
    int in = -1;
};

} // namespace

TEST_SUITE("children") {

ASYNC_TEST_CASE_REAL("SP-01: wait gives the exit code, or minus the signal, and returncode has it from then on") {
    const nothing_left here;
    {
        process p = co_await shell("exit 3");
        CHECK_FALSE(p.returncode().has_value());
        CHECK(p.pid() > 0);
        const int code = co_await p.wait();
        CHECK(code == 3);
        CHECK(p.returncode() == 3);
        const int again = co_await p.wait();
        CHECK(again == 3);

        const int killed = co_await status_of("kill -KILL $$");
        CHECK(killed == -SIGKILL);
        const int aborted = co_await status_of("kill -ABRT $$");
        CHECK(aborted == -SIGABRT);
    }
    here.check();
}

ASYNC_TEST_CASE_REAL("SP-02: without stdio::pipe there are no streams") {
    process p = co_await asyncio::create_subprocess_exec(argv("true"));
    CHECK_FALSE(p.stdin_.has_value());
    CHECK_FALSE(p.stdout_.has_value());
    CHECK_FALSE(p.stderr_.has_value());
    const int code = co_await p.wait();
    CHECK(code == 0);

    process piped =
        co_await asyncio::create_subprocess_exec(argv("true"), {.stdout_ = stdio::pipe});
    CHECK_FALSE(piped.stdin_.has_value());
    CHECK(piped.stdout_.has_value());
    CHECK_FALSE(piped.stderr_.has_value());
    co_await piped.wait();
}

ASYNC_TEST_CASE_REAL("SP-03: communicate feeds and reads megabytes at the same time") {
    const nothing_left here;
    const std::string input = pattern(6'000'000);
    {
        process p = co_await asyncio::create_subprocess_exec(
            argv("tee", "/dev/stderr"),
            {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe, .stderr_ = stdio::pipe});
        auto [out, err] = co_await p.communicate(input);
        REQUIRE(out.has_value());
        REQUIRE(err.has_value());
        CHECK(*out == input);
        CHECK(*err == input);
        CHECK(p.returncode() == 0);
        CHECK(p.stdin_->is_closing());
    }
    {
        process p = co_await asyncio::create_subprocess_exec(
            argv("cat"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
        auto [out, err] = co_await p.communicate("a little");
        CHECK(out == "a little");
        CHECK_FALSE(err.has_value());
    }
    here.check();
}

ASYNC_TEST_CASE_REAL("communicate without input may follow write_eof(), also when much is to be sent") {
    const std::string input = pattern(1'000'000);
    process p = co_await asyncio::create_subprocess_exec(
        argv("cat"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
    p.stdin_->write(input);
    p.stdin_->write_eof();
    auto [out, err] = co_await p.communicate();
    CHECK(out == input);
    CHECK(p.returncode() == 0);
}

ASYNC_TEST_CASE_REAL("communicate that fails leaves no reader behind that writes into nothing") {
    asyncio::task<> reading;
    {
        process child = co_await asyncio::create_subprocess_exec( // no shell that has a child
            argv("sleep", "60"), {.stdout_ = stdio::pipe, .stderr_ = stdio::pipe});
        const auto read = [&]() -> asyncio::coro<> { co_await child.stdout_->readline(); };
        reading = asyncio::create_task(read);
        co_await support::turns(2);
        CHECK_AWAIT_THROWS_AS(child.communicate(), std::runtime_error); // somebody reads already
        reading.cancel();
        CHECK_AWAIT_THROWS_AS(reading, asyncio::cancelled_error);
    } // kills the child, whose other pipe ends then
    while (asyncio::all_tasks().size() > 1) co_await support::turns(1);
}

ASYNC_TEST_CASE_REAL("a fork that ends normally leaves its parent's children alone") {
    asyncio::process child = co_await asyncio::create_subprocess_exec(argv("sleep", "60"));
    const auto forked = support::in_child([&] {
        {
            const asyncio::process gone = std::move(child);
        }
        return 0;
    });
    CHECK(forked.exit_code == 0);
    CHECK(forked.err == "");
    child.terminate();
    const int code = co_await child.wait();
    CHECK(code == -SIGTERM); // and not killed before
}

ASYNC_TEST_CASE_REAL("a process may be moved while somebody communicates with it") {
    std::vector<process> children;
    std::vector<asyncio::task<asyncio::process_output>> talks;
    for (int i = 0; i < 3; ++i) { // each one moves those before it
        process p = co_await asyncio::create_subprocess_exec(
            argv("cat"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
        children.push_back(std::move(p));
        talks.push_back(asyncio::create_task(children.back().communicate(std::to_string(i))));
        if (i == 1) children.shrink_to_fit();
    }
    std::vector<process> elsewhere;
    for (process& p : children) elsewhere.push_back(std::move(p));
    children.clear();
    children.shrink_to_fit();
    for (std::size_t i = 0; i < 3; ++i) {
        const asyncio::process_output& output = co_await talks[i];
        CHECK(output.first == std::to_string(i));
        CHECK(elsewhere[i].returncode() == 0);
    }
}

ASYNC_TEST_CASE_REAL("SP-04: communicate with a child that does not read its input is no error") {
    const std::string input = pattern(3'000'000);
    for (int i = 0; i < 10; ++i) {
        process p = co_await asyncio::create_subprocess_exec(
            argv("true"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
        auto [out, err] = co_await p.communicate(input);
        CHECK(out == "");
        CHECK(p.returncode() == 0);
    }
}

ASYNC_TEST_CASE_REAL("SP-05: stderr goes to stdout, and devnull is neither read nor written") {
    process both = co_await shell("echo one; echo two >&2",
                                  {.stdout_ = stdio::pipe, .stderr_ = stdio::to_stdout});
    auto [out, err] = co_await both.communicate();
    CHECK(out == "one\ntwo\n");
    CHECK_FALSE(err.has_value());

    process nothing = co_await shell(
        "cat; echo one; echo two >&2",
        {.stdin_ = stdio::devnull, .stdout_ = stdio::devnull, .stderr_ = stdio::devnull});
    auto [no_out, no_err] = co_await nothing.communicate();
    CHECK_FALSE(no_out.has_value());
    CHECK_FALSE(no_err.has_value());
    CHECK(nothing.returncode() == 0);

    process half = co_await shell("echo one; echo two >&2",
                                  {.stdout_ = stdio::devnull, .stderr_ = stdio::pipe});
    auto [half_out, half_err] = co_await half.communicate();
    CHECK_FALSE(half_out.has_value());
    CHECK(half_err == "two\n");
}

ASYNC_TEST_CASE_REAL("SP-06: writing to a dead child and draining throws") {
    process p = co_await asyncio::create_subprocess_exec(argv("true"), {.stdin_ = stdio::pipe});
    co_await p.wait();
    std::exception_ptr error;
    try {
        for (int i = 0; i < 100; ++i) {
            p.stdin_->write("anybody there?");
            co_await p.stdin_->drain();
        }
    } catch (...) {
        error = std::current_exception();
    }
    const int code = code_of(error);
    CHECK((code == EPIPE || code == ECONNRESET));
}

ASYNC_TEST_CASE_REAL("SP-07: signals reach a running child, and are an error once its end was seen") {
    const auto sleeper = [] {
        return asyncio::create_subprocess_exec(argv("sleep", "60"));
    };
    process terminated = co_await sleeper();
    terminated.terminate();
    process killed = co_await sleeper();
    killed.kill();
    process signalled = co_await sleeper();
    signalled.send_signal(SIGUSR1);
    const int first = co_await terminated.wait();
    const int second = co_await killed.wait();
    const int third = co_await signalled.wait();
    CHECK(first == -SIGTERM);
    CHECK(second == -SIGKILL);
    CHECK(third == -SIGUSR1);
    for (process* p : {&terminated, &killed, &signalled}) {
        std::exception_ptr error;
        try {
            p->terminate();
        } catch (...) {
            error = std::current_exception();
        }
        CHECK(code_of(error) == ESRCH);
        CHECK_THROWS_AS(p->kill(), std::system_error);
        CHECK_THROWS_AS(p->send_signal(SIGUSR1), std::system_error);
    }
    process odd = co_await sleeper();
    CHECK_THROWS_AS(odd.send_signal(12345), std::system_error);
}

ASYNC_TEST_CASE_REAL("SP-08: a cancelled wait leaves the child alone, and ten waits all get the code") {
    process p = co_await asyncio::create_subprocess_exec(argv("cat"), {.stdin_ = stdio::pipe});
    auto cancelled = asyncio::create_task(p.wait());
    std::vector<asyncio::task<int>> ten;
    for (int i = 0; i < 10; ++i) ten.push_back(asyncio::create_task(p.wait()));
    co_await support::turns(3);
    cancelled.cancel();
    CHECK_AWAIT_THROWS_AS(cancelled, asyncio::cancelled_error);
    CHECK_FALSE(p.returncode().has_value());
    CHECK(exists(p.pid()));
    p.stdin_->close();
    for (auto& t : ten) {
        const int code = co_await t;
        CHECK(code == 0);
    }
    CHECK(p.returncode() == 0);
}

ASYNC_TEST_CASE_REAL("SP-09: a program that is not there is an error of the call, and leaves nothing behind") {
    const nothing_left here;
    for (const char* name : {"asyncio-no-such-program", "/nonexistent/program", "./no/such"}) {
        std::exception_ptr error;
        try {
            process p = co_await asyncio::create_subprocess_exec(
                argv(name), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe,
                             .stderr_ = stdio::pipe});
        } catch (...) {
            error = std::current_exception();
        }
        CHECK(code_of(error) == ENOENT);
        CHECK(support::message_of(error).find(std::string("exec ") + name) == 0);
        here.check();
    }
}

ASYNC_TEST_CASE_REAL("SP-10: a cancelled communicate kills nobody, and what it has read comes with the next") {
    process p = co_await shell("echo first; cat; echo last >&2",
                               {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe,
                                .stderr_ = stdio::pipe});
    p.stdin_->write("second\n");
    // The input stays open, so that communicate() cannot end.
    std::optional<asyncio::stream_writer> input = std::move(p.stdin_);
    p.stdin_.reset();
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(p.communicate(), 100ms), asyncio::timeout_error);
    CHECK_FALSE(p.returncode().has_value());
    CHECK(exists(p.pid()));
    input->close();
    auto [out, err] = co_await p.communicate();
    CHECK(out == "first\nsecond\n");
    CHECK(err == "last\n");

    process endless = co_await asyncio::create_subprocess_exec(
        argv("sleep", "60"), {.stdout_ = stdio::pipe});
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(endless.communicate(), 10ms), asyncio::timeout_error);
    endless.kill();
    const int code = co_await endless.wait();
    CHECK(code == -SIGKILL);
}

ASYNC_TEST_CASE_REAL("one of two pipes that ended before a cancellation is not lost either") {
    process p = co_await shell("echo out; exec >&-; echo err >&2; read line; echo more >&2",
                               {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe,
                                .stderr_ = stdio::pipe});
    std::optional<asyncio::stream_writer> input = std::move(p.stdin_);
    p.stdin_.reset();
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(p.communicate(), 100ms), asyncio::timeout_error);
    input->write("go\n");
    auto [out, err] = co_await p.communicate();
    CHECK(out == "out\n");
    CHECK(err == "err\nmore\n");
}

ASYNC_TEST_CASE_REAL("a conversation with a child goes line by line") {
    process p = co_await shell("while read line; do echo \"you said $line\"; done; exit 9",
                               {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
    for (const std::string word : {"one", "two", "three"}) {
        p.stdin_->write(word + "\n");
        const std::string answer = co_await p.stdout_->readline();
        CHECK(answer == "you said " + word + "\n");
    }
    CHECK(p.stdin_->can_write_eof());
    p.stdin_->write_eof();
    const std::string rest = co_await p.stdout_->read();
    CHECK(rest.empty());
    const int code = co_await p.wait();
    CHECK(code == 9);
}

ASYNC_TEST_CASE_REAL("a child works in the directory and with the environment that it is given") {
    const scratch folder;
    const std::string where = co_await output_of("pwd", {.cwd = folder.path});
    CHECK(where == folder.path + "\n");

    const asyncio::environment variables = {{"GREETING", "hello world"}, {"EMPTY", ""}};
    process p = co_await asyncio::create_subprocess_exec(
        argv("/usr/bin/env"), {.stdout_ = stdio::pipe, .env = &variables});
    auto [out, err] = co_await p.communicate();
    CHECK(out == "EMPTY=\nGREETING=hello world\n");

    // Both are copied before the call returns.
    auto later = [&] {
        const std::string gone = folder.path;
        const asyncio::environment gone_too = {{"WORD", "kept"}};
        return asyncio::create_subprocess_shell("pwd; echo $WORD", {.stdout_ = stdio::pipe,
                                                                    .cwd = gone,
                                                                    .env = &gone_too});
    }();
    process q = co_await std::move(later);
    auto [said, nothing] = co_await q.communicate();
    CHECK(said == folder.path + "\nkept\n");
}

ASYNC_TEST_CASE_REAL("a program is looked for in the PATH of the child's environment") {
    const scratch folder;
    file(folder, "hidden", "not a program");
    file(folder, "tool", "#!/bin/sh\necho found\n", 0755);
    const asyncio::environment variables = {{"PATH", "/nonexistent:" + folder.path + ":/bin"}};
    process p = co_await asyncio::create_subprocess_exec(
        argv("tool"), {.stdout_ = stdio::pipe, .env = &variables});
    auto [out, err] = co_await p.communicate();
    CHECK(out == "found\n");

    // A name with a slash, and a PATH entry that is relative, start from the child's directory.
    process q = co_await asyncio::create_subprocess_exec(
        argv("./tool"), {.stdout_ = stdio::pipe, .cwd = folder.path});
    auto [from_here, no_error] = co_await q.communicate();
    CHECK(from_here == "found\n");
    const asyncio::environment relative = {{"PATH", "."}};
    process r = co_await asyncio::create_subprocess_exec(
        argv("tool"), {.stdout_ = stdio::pipe, .cwd = folder.path, .env = &relative});
    auto [too, neither] = co_await r.communicate();
    CHECK(too == "found\n");

    // One that may not be executed is the better reason.
    std::exception_ptr error;
    try {
        process s = co_await asyncio::create_subprocess_exec(argv("hidden"), {.env = &variables});
    } catch (...) {
        error = std::current_exception();
    }
    CHECK(code_of(error) == EACCES);
}

ASYNC_TEST_CASE_REAL("what cannot be executed says why, and what") {
    const nothing_left here;
    const scratch folder;
    const std::string script = file(folder, "script", "echo no first line\n", 0755);
    const std::string text = file(folder, "text", "nothing to run\n");
    using error = asyncio::coro<std::exception_ptr>;
    const auto failure = [](std::string program, std::string cwd) -> error {
        try {
            process p = co_await asyncio::create_subprocess_exec(argv(program), {.cwd = cwd});
        } catch (...) {
            co_return std::current_exception();
        }
        co_return nullptr;
    };
    const std::exception_ptr directory = co_await failure(folder.path, "");
    CHECK(code_of(directory) == EACCES);
    CHECK(support::message_of(directory).find("exec " + folder.path) == 0);
    const std::exception_ptr no_format = co_await failure(script, "");
    CHECK(code_of(no_format) == ENOEXEC);
    const std::exception_ptr no_program = co_await failure(text, "");
    CHECK(code_of(no_program) == EACCES);
    const std::exception_ptr no_folder = co_await failure("true", folder.path + "/none");
    CHECK(code_of(no_folder) == ENOENT);
    CHECK(support::message_of(no_folder).find("chdir " + folder.path + "/none") == 0);
    const std::exception_ptr no_directory = co_await failure("true", text);
    CHECK(code_of(no_directory) == ENOTDIR);
    const std::exception_ptr empty = co_await failure("", "");
    CHECK(code_of(empty) == ENOENT);
    here.check();
}

ASYNC_TEST_CASE_REAL("arguments arrive as they are, and any range of texts will do") {
    process p = co_await asyncio::create_subprocess_exec(
        argv("printf", "%s|", "two words", "", "*", "$HOME", "\"quoted\"", std::string("last")),
        {.stdout_ = stdio::pipe});
    auto [out, err] = co_await p.communicate();
    CHECK(out == "two words||*|$HOME|\"quoted\"|last|");

    const std::list<std::string_view> words = {"echo", "from", "a", "list"};
    process q = co_await asyncio::create_subprocess_exec(words, {.stdout_ = stdio::pipe});
    auto [said, nothing] = co_await q.communicate();
    CHECK(said == "from a list\n");
}

TEST_CASE("what no system call can say is refused at once") {
    const std::vector<std::string> none;
    CHECK_THROWS_AS(asyncio::create_subprocess_exec(none), std::invalid_argument);
    const std::string zero("a\0b", 3);
    CHECK_THROWS_AS(asyncio::create_subprocess_exec(argv("echo", zero)), std::invalid_argument);
    CHECK_THROWS_AS(asyncio::create_subprocess_exec(argv("echo"), {.cwd = zero}),
                    std::invalid_argument);
    CHECK_THROWS_AS(asyncio::create_subprocess_exec(argv("echo"), {.stdin_ = stdio::to_stdout}),
                    std::invalid_argument);
    CHECK_THROWS_AS(asyncio::create_subprocess_exec(argv("echo"), {.stdout_ = stdio::to_stdout}),
                    std::invalid_argument);
    for (const std::string& name : {std::string(), std::string("A=B"), zero}) {
        const asyncio::environment variables = {{name, "value"}};
        CHECK_THROWS_AS(asyncio::create_subprocess_exec(argv("echo"), {.env = &variables}),
                        std::invalid_argument);
    }
    const asyncio::environment variables = {{"NAME", zero}};
    CHECK_THROWS_AS(asyncio::create_subprocess_exec(argv("echo"), {.env = &variables}),
                    std::invalid_argument);
}

ASYNC_TEST_CASE_REAL("a line of a child that is longer than the limit is an error") {
    process p = co_await shell("echo 0123456789", {.stdout_ = stdio::pipe, .limit = 5});
    CHECK_AWAIT_THROWS_AS(p.stdout_->readline(), std::invalid_argument);
}

ASYNC_TEST_CASE_REAL("a child's stream can be a descriptor, so that children make a pipeline") {
    raw_pipe between;
    process first = co_await asyncio::create_subprocess_exec(argv("printf", "b\\na\\nc\\n"),
                                                             {.stdout_ = between.in});
    process second = co_await asyncio::create_subprocess_exec(
        argv("sort"), {.stdin_ = between.out, .stdout_ = stdio::pipe});
    between.close_in(); // or the second one would never see the end
    between.close_out();
    auto [out, err] = co_await second.communicate();
    CHECK(out == "a\nb\nc\n");
    const int code = co_await first.wait();
    CHECK(code == 0);

    for (const int fd : {12345, -1}) {
        std::exception_ptr error;
        try {
            process p = co_await asyncio::create_subprocess_exec(argv("true"), {.stdout_ = fd});
        } catch (...) {
            error = std::current_exception();
        }
        CHECK(code_of(error) == EBADF);
    }
}

ASYNC_TEST_CASE_REAL("a child may open its streams by their names, which sockets have none of") {
    process p = co_await asyncio::create_subprocess_shell(
        "cat /dev/stdin >/dev/stdout; echo done >/dev/stderr",
        {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe, .stderr_ = stdio::pipe});
    auto [out, err] = co_await p.communicate("some data");
    CHECK(out == "some data");
    CHECK(err == "done\n");
}

ASYNC_TEST_CASE_REAL("a child whose output nobody wants any more is told by the system") {
    process p = co_await asyncio::create_subprocess_exec(argv("yes"), {.stdout_ = stdio::pipe});
    const std::string line = co_await p.stdout_->readline();
    CHECK(line == "y\n");
    p.stdout_.reset();
    const int code = co_await p.wait();
    CHECK(code == -SIGPIPE);
}

ASYNC_TEST_CASE_REAL("a child gets the standard descriptors and no others") {
    const int leaky = ::open("/dev/null", O_RDONLY); // as other people's code opens files
    process p = co_await asyncio::create_subprocess_exec(
        argv("ls", "/proc/self/fd"),
        {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe, .stderr_ = stdio::pipe});
    auto [out, err] = co_await p.communicate();
    ::close(leaky);
    CHECK(out == "0\n1\n2\n3\n"); // 3 is the folder that ls reads
    CHECK(err == "");
}

TEST_CASE("children have their streams where this process has none") {
    const auto result = support::in_child([] {
        ::close(0);
        ::close(1);
        return asyncio::run([]() -> asyncio::coro<int> {
            process p = co_await asyncio::create_subprocess_exec(
                argv("cat"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
            auto [out, err] = co_await p.communicate("through");
            co_return out == "through" ? 7 : 1;
        });
    });
    CHECK(result.exit_code == 7);
}

TEST_CASE("a child has the default for SIGPIPE, keeps what is ignored and the mask") {
    const auto result = support::in_child([] {
        ::signal(SIGPIPE, SIG_IGN);
        ::signal(SIGHUP, SIG_IGN);
        ::signal(SIGUSR1, [](int) {});
        sigset_t mask;
        sigemptyset(&mask);
        sigaddset(&mask, SIGWINCH);
        ::sigprocmask(SIG_BLOCK, &mask, nullptr);
        return asyncio::run([]() -> asyncio::coro<int> {
            const int pipe = co_await status_of("kill -PIPE $$; exit 1");
            if (pipe != -SIGPIPE) co_return 1;
            const int hup = co_await status_of("kill -HUP $$; exit 5");
            if (hup != 5) co_return 2;
            const int caught = co_await status_of("kill -USR1 $$; exit 1");
            if (caught != -SIGUSR1) co_return 3;
            process p = co_await asyncio::create_subprocess_exec( // a shell clears its mask
                argv("grep", "SigBlk", "/proc/self/status"), {.stdout_ = stdio::pipe});
            auto [line, err] = co_await p.communicate();
            const auto bits = std::stoull(line->substr(line->find('\t') + 1), nullptr, 16);
            co_return bits == 1ull << (SIGWINCH - 1) ? 7 : 4;
        });
    });
    CHECK(result.exit_code == 7);
}

ASYNC_TEST_CASE_REAL("a process that is destroyed while its child lives kills and reaps it") {
    const nothing_left here;
    int pid = 0;
    {
        process p = co_await asyncio::create_subprocess_exec(
            argv("sleep", "60"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
        pid = p.pid();
        CHECK(exists(pid));
    }
    CHECK_FALSE(exists(pid));
    here.check();

    // Who waits for it learns that.
    auto p = std::make_unique<process>(
        co_await asyncio::create_subprocess_exec(argv("sleep", "60")));
    auto waiting = asyncio::create_task(p->wait());
    co_await support::turns(2);
    p.reset();
    const int code = co_await waiting;
    CHECK(code == -SIGKILL);
    here.check();
}

ASYNC_TEST_CASE_REAL("a process can be moved, and one that is assigned to loses its child") {
    process first = co_await asyncio::create_subprocess_exec(argv("sleep", "60"));
    const int pid = first.pid();
    process second = std::move(first);
    CHECK(second.pid() == pid);
    CHECK_THROWS_AS(first.pid(), std::runtime_error);
    CHECK_THROWS_AS(first.kill(), std::runtime_error);
    CHECK(exists(pid));
    second = co_await asyncio::create_subprocess_exec(argv("cat"), {.stdin_ = stdio::pipe});
    CHECK_FALSE(exists(pid));
    REQUIRE(second.stdin_.has_value());
    second.stdin_->close();
    const int code = co_await second.wait();
    CHECK(code == 0);
}

ASYNC_TEST_CASE_REAL("kill_on_cancel: a cancelled wait ends when the killed child has ended") {
    const nothing_left here;
    {
        process p =
            co_await asyncio::create_subprocess_exec(argv("sleep", "60"), {.kill_on_cancel = true});
        auto waiting = asyncio::create_task(p.wait());
        co_await support::turns(2);
        waiting.cancel();
        CHECK_AWAIT_THROWS_AS(waiting, asyncio::cancelled_error);
        CHECK(p.returncode() == -SIGKILL);
        CHECK_FALSE(exists(p.pid()));
    }
    {
        process p = co_await asyncio::create_subprocess_exec(
            argv("sleep", "60"),
            {.stdout_ = stdio::pipe, .stderr_ = stdio::pipe, .kill_on_cancel = true});
        CHECK_AWAIT_THROWS_AS(asyncio::wait_for(p.communicate(), 10ms), asyncio::timeout_error);
        CHECK(p.returncode() == -SIGKILL);
    }
    here.check();
}

ASYNC_TEST_CASE_REAL("new_group: what is sent to the child reaches what it has started") {
    process p = co_await shell("sleep 60 & echo $!; wait",
                               {.stdout_ = stdio::pipe, .new_group = true});
    const std::string line = co_await p.stdout_->readline();
    const int grandchild = std::atoi(line.c_str());
    CHECK(exists(grandchild));
    CHECK(::getpgid(grandchild) == p.pid());
    p.terminate();
    const std::string rest = co_await p.stdout_->read(); // the grandchild holds it, too
    CHECK(rest.empty());
    const int code = co_await p.wait();
    CHECK(code == -SIGTERM);
    CHECK_THROWS_AS(p.terminate(), std::system_error);
    CHECK(::getpgid(0) != p.pid());
}

ASYNC_TEST_CASE_REAL("two hundred children at once") {
    const nothing_left here;
    {
        std::vector<asyncio::task<int>> tasks;
        for (int i = 0; i < 200; ++i)
            tasks.push_back(asyncio::create_task([i]() -> asyncio::coro<int> {
                process p = co_await asyncio::create_subprocess_exec(
                    argv("cat"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
                const std::string text = std::to_string(i);
                auto [out, err] = co_await p.communicate(text);
                co_return out == text ? p.returncode().value() : -1;
            }));
        const std::vector<int> codes = co_await asyncio::gather(tasks);
        CHECK(codes == std::vector<int>(200, 0));
    }
    here.check();
}

} // TEST_SUITE

TEST_SUITE("faults") {

ASYNC_TEST_CASE_REAL("a child that ignores SIGTERM lives on, and is killed") {
    process p = co_await shell("trap '' TERM; echo ready; read line; echo $line; exec sleep 60",
                               {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
    co_await p.stdout_->readline();
    p.terminate();
    p.stdin_->write("unmoved\n");
    const std::string line = co_await p.stdout_->readline();
    CHECK(line == "unmoved\n");
    p.terminate();
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(p.wait(), 50ms), asyncio::timeout_error);
    p.kill();
    const int code = co_await p.wait();
    CHECK(code == -SIGKILL);
}

ASYNC_TEST_CASE_REAL("wait returns although a grandchild keeps the pipe") {
    process p = co_await shell("sleep 60 & echo $!; exit 5", {.stdout_ = stdio::pipe});
    const int code = co_await p.wait();
    CHECK(code == 5);
    const std::string line = co_await p.stdout_->readline();
    const int grandchild = std::atoi(line.c_str());
    CHECK(exists(grandchild));
    // communicate() waits for the end of the pipe, and can be cancelled.
    CHECK_AWAIT_THROWS_AS(asyncio::wait_for(p.communicate(), 50ms), asyncio::timeout_error);
    ::kill(grandchild, SIGKILL);
    auto [out, err] = co_await p.communicate();
    CHECK(out == "");
}

// What is left to know about a child that somebody else has waited for: since Linux 6.15 the
// system tells its code.
bool system_tells_twice() {
#if !defined(__linux__)
    return false;
#else
    const pid_t pid = ::fork();
    if (pid == 0) ::_exit(3);
    const int fd = static_cast<int>(::syscall(SYS_pidfd_open, pid, 0));
    ::waitpid(pid, nullptr, 0);
    std::array<std::uint64_t, 8> info = {1u << 3};
    const auto asked = _IOC(_IOC_READ | _IOC_WRITE, 0xff, 11, 64);
    const bool told = ::syscall(SYS_ioctl, fd, asked, info.data()) == 0 && // ioctl() takes an int
                      (info[0] & (1u << 3)) != 0;                          // in musl
    ::close(fd);
    return told;
#endif
}

ASYNC_TEST_CASE_REAL("a foreign waitpid(-1) costs at most the exit code, and then is reported") {
    const auto reports = support::collect_reports();
    process p = co_await shell("exit 3");
    CHECK(::waitpid(-1, nullptr, 0) == p.pid());
    const int code = co_await p.wait();
    co_await support::turns(2);
    if (system_tells_twice()) {
        CHECK(code == 3);
        CHECK(reports->empty());
    } else {
        CHECK(code == 255);
        REQUIRE(reports->size() == 1);
        CHECK(reports->at(0).message.find(std::to_string(p.pid())) != std::string::npos);
    }
    CHECK_THROWS_AS(p.kill(), std::system_error);

    process killed = co_await asyncio::create_subprocess_exec(argv("sleep", "60"));
    killed.kill();
    CHECK(::waitpid(-1, nullptr, 0) == killed.pid());
    const int signalled = co_await killed.wait();
    CHECK((signalled == -SIGKILL || signalled == 255));
}

TEST_CASE("a foreign SIGCHLD handler, which waits for everybody, and ignoring SIGCHLD do no harm") {
    static volatile std::sig_atomic_t calls = 0;
    const bool told = system_tells_twice();
    const auto work = [told]() -> asyncio::coro<int> {
        asyncio::get_running_loop().set_exception_handler([](auto&, const auto&) {});
        for (int i = 0; i < 20; ++i) {
            process p = co_await asyncio::create_subprocess_exec(
                argv("sh", "-c", "cat; exit 4"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
            const std::string text = pattern(100'000);
            auto [out, err] = co_await p.communicate(text);
            if (out != text) co_return 1;
            if (p.returncode() != (told ? 4 : 255)) co_return 2;
        }
        co_return 7;
    };
    const auto handled = support::in_child([&] {
        struct sigaction action = {};
        action.sa_handler = [](int) {
            const int before = errno;
            while (::waitpid(-1, nullptr, WNOHANG) > 0) calls = calls + 1;
            errno = before;
        };
        ::sigaction(SIGCHLD, &action, nullptr); // without SA_RESTART
        const int result = asyncio::run(work);
        return calls > 0 ? result : 3;
    });
    CHECK(handled.exit_code == 7);
    const auto ignored = support::in_child([&] {
        ::signal(SIGCHLD, SIG_IGN);
        return asyncio::run(work);
    });
    CHECK(ignored.exit_code == 7);
}

TEST_CASE("the library installs no SIGCHLD handler and waits for nobody else's child") {
    const auto result = support::in_child([] {
        const pid_t other = ::fork();
        if (other == 0) ::_exit(6);
        const int code = asyncio::run([] { return status_of("exit 3"); });
        struct sigaction action = {};
        ::sigaction(SIGCHLD, nullptr, &action);
        int status = 0;
        if (::waitpid(other, &status, 0) != other || WEXITSTATUS(status) != 6) return 1;
        return code == 3 && action.sa_handler == SIG_DFL ? 7 : 2;
    });
    CHECK(result.exit_code == 7);
}

ASYNC_TEST_CASE_REAL("signals that interrupt every system call change nothing") {
    const nothing_left here;
    const auto [terminal, shown] = open_terminal();
    {
        const interruptions storm;
        const interrupted_calls every_other;
        const std::string input = pattern(150'000); // more than a pipe takes
        for (int i = 0; i < 30; ++i) {
            process p = co_await asyncio::create_subprocess_exec(
                argv("cat"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
            auto [out, err] = co_await p.communicate(input);
            CHECK(out == input);
            CHECK(p.returncode() == 0);
            process dropped = co_await asyncio::create_subprocess_exec(argv("sleep", "60"));
        }
        CHECK(interruptions::count > 0);
        CHECK(system_calls.read.interrupted > 0);
        CHECK(system_calls.writev.interrupted > 0);
#if defined(__linux__)
        CHECK(system_calls.waitid.interrupted > 0);
#endif

        // Others may read from a terminal as well: it is asked before each read.
        const int asked = system_calls.poll.interrupted;
        asyncio::stream_reader reader = co_await asyncio::connect_read_pipe(shown);
        asyncio::stream_writer writer = co_await asyncio::connect_write_pipe(terminal);
        for (int i = 0; i < 20; ++i) {
            writer.write("line\n");
            const std::string line = co_await reader.readline();
            CHECK(line == "line\n");
        }
        CHECK(system_calls.poll.interrupted >= asked + 10);
    }
    here.check();
}

#if defined(__linux__)

// From here on this process has no pidfds, as on a kernel before 5.3.
bool forbid_pidfds() {
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_pidfd_open, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog program = {static_cast<unsigned short>(std::size(code)), code};
    return ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0 &&
           ::syscall(SYS_pidfd_open, ::getpid(), 0) < 0 && errno == ENOSYS;
}

TEST_CASE("a kernel without pidfds does as well") {
    const auto result = support::in_child([] {
        if (!forbid_pidfds()) return 1;
        const int before = static_cast<int>(open_descriptors().size());
        const int code = asyncio::run([]() -> asyncio::coro<int> {
            process p = co_await shell("cat; exit 3",
                                       {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
            const std::string text = pattern(500'000);
            auto [out, err] = co_await p.communicate(text);
            if (out != text || p.returncode() != 3) co_return 2;

            process killed = co_await asyncio::create_subprocess_exec(argv("sleep", "60"));
            auto cancelled = asyncio::create_task(killed.wait());
            co_await support::turns(2);
            cancelled.cancel();
            co_await asyncio::wait(std::vector<asyncio::task<int>>(1, cancelled));
            killed.terminate();
            const int signalled = co_await killed.wait();
            if (signalled != -SIGTERM) co_return 3;

            std::vector<asyncio::task<int>> many;
            for (int i = 0; i < 50; ++i)
                many.push_back(asyncio::create_task(status_of("exit " + std::to_string(i))));
            const std::vector<int> codes = co_await asyncio::gather(many);
            for (int i = 0; i < 50; ++i)
                if (codes[static_cast<std::size_t>(i)] != i) co_return 4;

            int pid = 0;
            {
                process dropped = co_await asyncio::create_subprocess_exec(argv("sleep", "60"));
                pid = dropped.pid();
            }
            if (exists(pid)) co_return 5;
            co_return 7;
        });
        if (!children().empty()) return 6;
        if (static_cast<int>(open_descriptors().size()) != before) return 8;
        return code;
    });
    CHECK(result.exit_code == 7);
    CHECK(result.err == "");
}

#endif

ASYNC_TEST_CASE_REAL("a child that cannot be started for lack of descriptors leaves nothing behind") {
    const nothing_left here;
    rlimit before = {};
    ::getrlimit(RLIMIT_NOFILE, &before);
    const rlimit few = {200, before.rlim_max};
    ::setrlimit(RLIMIT_NOFILE, &few);
    {
        std::vector<int> taken;
        for (int fd = ::dup(0); fd >= 0; fd = ::dup(0)) taken.push_back(fd);
        for (int free = 0; free < 12; ++free) {
            int failure = 0;
            try {
                process p = co_await asyncio::create_subprocess_exec(
                    argv("cat"),
                    {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe, .stderr_ = stdio::pipe});
                auto [out, err] = co_await p.communicate("x");
                CHECK(out == "x");
            } catch (const std::system_error& e) {
                failure = e.code().value();
            }
            CHECK((failure == 0 || failure == EMFILE));
            if (free == 0) CHECK(failure == EMFILE);
            if (free == 11) CHECK(failure == 0);
            ::close(taken.back());
            taken.pop_back();
        }
        for (int fd : taken) ::close(fd);
    }
    ::setrlimit(RLIMIT_NOFILE, &before);
    here.check();
}

} // TEST_SUITE

TEST_SUITE("loops") {

ASYNC_TEST_CASE("a virtual clock stands still while a child runs") {
    const asyncio::duration start = asyncio::elapsed();
    bool hour_over = false;
    auto hour = asyncio::create_task([&hour_over]() -> asyncio::coro<> {
        co_await asyncio::sleep(1h);
        hour_over = true;
    });
    process p = co_await asyncio::create_subprocess_exec(argv("sleep", "0.1"));
    const int code = co_await asyncio::wait_for(p.wait(), 1min);
    CHECK(code == 0);
    CHECK_FALSE(hour_over);
    CHECK(asyncio::elapsed() == start);

    process q = co_await shell("sleep 0.1; echo late", {.stdout_ = stdio::pipe});
    const std::string line = co_await asyncio::wait_for(q.stdout_->readline(), 1s);
    CHECK(line == "late\n");
    co_await q.wait();
    CHECK(asyncio::elapsed() == start);
    co_await hour; // and goes on afterwards
    CHECK(asyncio::elapsed() - start == 1h);
}

TEST_CASE("the end of a loop kills the children of the tasks that it ends") {
    const nothing_left here;
    int pid = 0;
    CHECK_THROWS_AS(asyncio::run([&pid]() -> asyncio::coro<> {
                        auto task = asyncio::create_task([&pid]() -> asyncio::coro<> {
                            process p = co_await asyncio::create_subprocess_exec(
                                argv("sleep", "60"), {.stdin_ = stdio::pipe});
                            pid = p.pid();
                            co_await p.wait();
                        });
                        while (pid == 0) co_await asyncio::sleep(0s);
                        throw std::runtime_error("enough");
                    }),
                    std::runtime_error);
    CHECK_FALSE(exists(pid));
    {
        asyncio::event_loop loop;
        auto task = loop.create_task([&pid]() -> asyncio::coro<> {
            process p = co_await asyncio::create_subprocess_exec(argv("sleep", "60"));
            pid = p.pid();
            co_await p.wait();
        });
        loop.run_once();
        CHECK(exists(pid));
    }
    CHECK_FALSE(exists(pid));
    here.check();
}

TEST_CASE("a process may outlive its loop") {
    const nothing_left here;
    {
        std::optional<process> survivor;
        {
            asyncio::event_loop loop;
            survivor.emplace(loop.run_until_complete([]() -> asyncio::coro<process> {
                process p = co_await asyncio::create_subprocess_exec(
                    argv("sleep", "60"), {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe});
                co_return p;
            }));
        }
        CHECK_FALSE(survivor->returncode().has_value());
        CHECK(exists(survivor->pid()));
        const auto wait = [&]() -> asyncio::coro<int> { co_return co_await survivor->wait(); };
        CHECK_THROWS_AS(asyncio::run(wait), std::runtime_error);
        survivor->kill();
    }
    here.check();
}

TEST_CASE("loops on several threads have children of their own") {
    const nothing_left here;
    asyncio::thread_pool_executor pool(4);
    std::vector<asyncio::concurrent_future<int>> sums;
    for (int i = 0; i < 4; ++i)
        sums.push_back(pool.submit([i] {
            return asyncio::run([i]() -> asyncio::coro<int> {
                int sum = 0;
                for (int j = 0; j < 10; ++j) {
                    const int code = co_await status_of("exit " + std::to_string(i + j));
                    sum += code;
                }
                co_return sum;
            });
        }));
    for (int i = 0; i < 4; ++i) CHECK(sums[static_cast<std::size_t>(i)].result() == 45 + 10 * i);
    pool.shutdown();
    here.check();
}

ASYNC_TEST_CASE_WITH("debug mode has nothing to say about children", .debug = true) {
    const auto reports = support::collect_reports();
    support::captured_stderr quiet;
    {
        process p = co_await asyncio::create_subprocess_exec(
            argv("cat"),
            {.stdin_ = stdio::pipe, .stdout_ = stdio::pipe, .stderr_ = stdio::pipe});
        auto [out, err] = co_await p.communicate("x");
        CHECK(out == "x");
    }
    CHECK(reports->empty());
    CHECK(quiet.taken() == "");
}

} // TEST_SUITE

TEST_SUITE("pipes") {

ASYNC_TEST_CASE("create_pipe carries what is written from one end to the other") {
    const nothing_left here;
    {
        auto [reader, writer] = co_await asyncio::create_pipe();
        writer.write("one line\nand a half");
        const std::string line = co_await reader.readline();
        CHECK(line == "one line\n");
        writer.close();
        co_await writer.wait_closed();
        const std::string rest = co_await reader.read();
        CHECK(rest == "and a half");
        CHECK(reader.at_eof());
    }
    here.check();
}

ASYNC_TEST_CASE("a pipe holds a fast writer back, and loses nothing") {
    auto [reader, writer] = co_await asyncio::create_pipe();
    const std::string data = pattern(3'000'000);
    auto writing = asyncio::create_task([&writer, &data]() -> asyncio::coro<> {
        for (std::size_t i = 0; i < data.size(); i += 10'000) {
            writer.write(std::string_view(data).substr(i, 10'000));
            co_await writer.drain();
        }
        writer.write_eof();
    });
    co_await support::turns(100);
    CHECK_FALSE(writing.done());
    CHECK(writer.get_write_buffer_size() <= 64 * 1024 + 10'000);
    std::string got;
    std::array<char, 777> piece;
    for (;;) {
        const std::size_t n = co_await reader.read_into(std::span<char>(piece));
        if (n == 0) break;
        got.append(piece.data(), n);
    }
    co_await writing;
    CHECK(got == data);
    co_await writer.wait_closed();
    CHECK(writer.is_closing());
    CHECK_THROWS_AS(writer.write("more"), std::runtime_error);
}

ASYNC_TEST_CASE("many small pieces in one system call arrive in order") {
    auto [reader, writer] = co_await asyncio::create_pipe();
    std::vector<std::string> pieces;
    for (int i = 0; i < 500; ++i) pieces.push_back(std::to_string(i) + ",");
    writer.writelines(pieces);
    writer.close();
    const std::string all = co_await reader.read();
    std::string expected;
    for (const std::string& piece : pieces) expected += piece;
    CHECK(all == expected);
}

ASYNC_TEST_CASE("a cancelled read of a pipe loses nothing") {
    auto [reader, writer] = co_await asyncio::create_pipe();
    auto reading = asyncio::create_task(reader.readexactly(6));
    writer.write("abc");
    co_await support::turns(5);
    CHECK_FALSE(reading.done());
    reading.cancel();
    CHECK_AWAIT_THROWS_AS(reading, asyncio::cancelled_error);
    writer.write("def");
    const std::string all = co_await reader.readexactly(6);
    CHECK(all == "abcdef");
}

ASYNC_TEST_CASE("a pipe that nobody reads any more closes by itself, though nothing is written") {
    const nothing_left here;
    for (const bool kept : {false, true}) {
        auto [reader, writer] = co_await asyncio::create_pipe();
        writer.write(std::string(kept ? 300'000 : 1, 'x'));
        auto closed = asyncio::create_task(asyncio::as_outcome(writer.wait_closed()));
        co_await support::turns(5);
        CHECK_FALSE(closed.done());
        { const asyncio::stream_reader gone = std::move(reader); }
        const asyncio::outcome<void> end = co_await asyncio::wait_for(std::move(closed), 1h);
        CHECK(end.has_value() != kept);
        if (kept) CHECK(end.error().code() == std::errc::broken_pipe);
        CHECK(writer.is_closing());
        writer.write("ignored");
        CHECK_AWAIT_THROWS_AS(writer.drain(), std::system_error);
    }
    here.check();
}

ASYNC_TEST_CASE_REAL("a child that closes its standard input closes the writer to it") {
    const nothing_left here;
    auto child = co_await asyncio::create_subprocess_shell("exec <&-; exec sleep 1000",
                                                           {.stdin_ = stdio::pipe});
    co_await child.stdin_->wait_closed();
    CHECK(child.stdin_->is_closing());
    CHECK_FALSE(child.returncode());
    child.kill();
    co_await child.wait();
    here.check();
}

TEST_CASE("a pipe that nobody reads is an error and no SIGPIPE, not even later") {
    const auto result = support::in_child([] {
        ::signal(SIGPIPE, SIG_DFL);
        return asyncio::run([]() -> asyncio::coro<int> {
            auto [reader, writer] = co_await asyncio::create_pipe();
            { const asyncio::stream_reader gone = std::move(reader); }
            int code = 0;
            try {
                for (int i = 0; i < 3; ++i) {
                    writer.write("x");
                    co_await writer.drain();
                }
            } catch (const std::system_error& e) {
                code = e.code().value();
            }
            if (code != EPIPE) co_return 1;
            sigset_t set;
            ::sigpending(&set);
            if (sigismember(&set, SIGPIPE) != 0) co_return 2;
            ::pthread_sigmask(SIG_SETMASK, nullptr, &set);
            co_return sigismember(&set, SIGPIPE) == 0 ? 7 : 3;
        });
    });
    CHECK(result.signal_number == 0);
    CHECK(result.exit_code == 7);
}

ASYNC_TEST_CASE("a SIGPIPE that the program itself holds back stays pending") {
    sigset_t set, before;
    sigemptyset(&set);
    sigaddset(&set, SIGPIPE);
    ::pthread_sigmask(SIG_BLOCK, &set, &before);
    ::raise(SIGPIPE);
    {
        auto [reader, writer] = co_await asyncio::create_pipe();
        { const asyncio::stream_reader gone = std::move(reader); }
        writer.write("x");
    }
    sigset_t pending;
    ::sigpending(&pending);
    const bool kept = sigismember(&pending, SIGPIPE) == 1;
    int taken = 0;
    if (kept) ::sigwait(&set, &taken);
    ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
    CHECK(kept);
}

ASYNC_TEST_CASE("connect_read_pipe and connect_write_pipe own their descriptors") {
    const nothing_left here;
    {
        raw_pipe pipe;
        asyncio::stream_reader reader = co_await asyncio::connect_read_pipe(pipe.take_out());
        asyncio::stream_writer writer = co_await asyncio::connect_write_pipe(pipe.take_in());
        writer.write("hello\n");
        const std::string line = co_await reader.readline();
        CHECK(line == "hello\n");
        CHECK_FALSE(writer.peername());
        writer.abort();
        const std::string end = co_await reader.read();
        CHECK(end.empty());
    }
    here.check();
    {
        int both[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | support::not_for_children, 0, both) == 0);
        asyncio::stream_reader reader = co_await asyncio::connect_read_pipe(both[0]);
        asyncio::stream_writer writer = co_await asyncio::connect_write_pipe(both[1]);
        writer.write("over a socket");
        writer.write_eof();
        const std::string all = co_await reader.read();
        CHECK(all == "over a socket");
    }
    here.check();
}

ASYNC_TEST_CASE("files are no pipes") {
    const nothing_left here;
    const auto opened = [] { return ::open("/proc/self/exe", O_RDONLY | O_CLOEXEC); };
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::connect_read_pipe(opened()), "asyncio::file",
                               std::invalid_argument);
    std::FILE* const scratch = std::tmpfile();
    REQUIRE(scratch != nullptr);
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::connect_write_pipe(::dup(::fileno(scratch))),
                               "asyncio::file", std::invalid_argument);
    std::fclose(scratch);
    CHECK_AWAIT_THROWS_AS(asyncio::connect_read_pipe(12345), std::system_error);
    here.check();
}

// Where a program's output goes that nobody wants. Nobody can wait for such a device.
ASYNC_TEST_CASE("what is written to the null device is gone, and to the full one an error") {
    const nothing_left here;
    const int null = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
    asyncio::stream_writer nowhere = co_await asyncio::connect_write_pipe(null);
    nowhere.write(std::string(100'000, 'x'));
    co_await nowhere.drain();
    nowhere.close();
    co_await nowhere.wait_closed();
    CHECK(nowhere.get_write_buffer_size() == 0);
#if defined(__linux__)
    const int full = ::open("/dev/full", O_WRONLY | O_CLOEXEC);
    asyncio::stream_writer refused = co_await asyncio::connect_write_pipe(full);
    refused.write("x");
    refused.close();
    std::error_code code;
    try {
        co_await refused.wait_closed();
    } catch (const std::system_error& e) {
        code = e.code();
    }
    CHECK(code == std::errc::no_space_on_device);
#endif
    here.check();
}

ASYNC_TEST_CASE("a reader's limit of 0 is refused, and the descriptor closed") {
    const nothing_left here;
    raw_pipe pipe;
    CHECK_AWAIT_THROWS_AS(asyncio::create_pipe(0), std::invalid_argument);
    CHECK_AWAIT_THROWS_AS(asyncio::connect_read_pipe(pipe.take_out(), 0), std::invalid_argument);
    CHECK_AWAIT_THROWS_AS(asyncio::create_subprocess_shell("true", {.limit = 0}),
                          std::invalid_argument);
    ::close(pipe.take_in());
    here.check();
}

// Nothing would ever come out of the end that is written to.
ASYNC_TEST_CASE("the wrong end of a pipe is refused") {
    const nothing_left here;
    raw_pipe pipe;
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::connect_read_pipe(pipe.take_in()),
                               "connect_read_pipe", std::system_error);
    CHECK_AWAIT_THROWS_WITH_AS(asyncio::connect_write_pipe(pipe.take_out()),
                               "connect_write_pipe", std::system_error);
    here.check();
}

// -- standard input ----------------------------------------------------------------

// Runs `body` in a process whose standard input is `fd`.
int with_stdin(int fd, asyncio::coro<int> (*body)()) {
    const auto result = support::in_child([&] {
        if (fd < 0) ::close(0);
        else ::dup2(fd, 0);
        const int flags = ::fcntl(0, F_GETFL);
        const int code = asyncio::run(body);
        // Others use it, too: it must be as it was.
        return ::fcntl(0, F_GETFL) == flags ? code : 101;
    });
    CHECK(result.signal_number == 0);
    CHECK_MESSAGE(result.err == "", result.err);
    return result.exit_code;
}

asyncio::coro<int> count_lines() {
    asyncio::stream_reader input = co_await asyncio::stdin_reader();
    int lines = 0;
    for (;;) {
        const std::string line = co_await input.readline();
        if (line.empty()) co_return lines;
        if (line.back() == '\n') ++lines;
    }
}

TEST_CASE("stdin_reader reads a pipe, a file, a socket and nothing") {
    std::string text;
    for (int i = 0; i < 100; ++i) text += "line " + std::to_string(i) + "\n";
    {
        raw_pipe pipe;
        REQUIRE(::write(pipe.in, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
        pipe.close_in();
        CHECK(with_stdin(pipe.out, count_lines) == 100);
    }
    {
        const scratch folder;
        const int fd = ::open(file(folder, "lines", text).c_str(), O_RDONLY | O_CLOEXEC);
        CHECK(with_stdin(fd, count_lines) == 100);
        ::close(fd);
        // Where another reader has left off.
        const int rest = ::open((folder.path + "/lines").c_str(), O_RDONLY | O_CLOEXEC);
        ::lseek(rest, 7 * 50, SEEK_SET);
        CHECK(with_stdin(rest, count_lines) < 100);
        ::close(rest);
    }
    {
        int both[2];
        REQUIRE(::socketpair(AF_UNIX, SOCK_STREAM | support::not_for_children, 0, both) == 0);
        REQUIRE(::write(both[1], text.data(), text.size()) == static_cast<ssize_t>(text.size()));
        ::close(both[1]);
        CHECK(with_stdin(both[0], count_lines) == 100);
        ::close(both[0]);
    }
    {
        const int fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
        CHECK(with_stdin(fd, count_lines) == 0);
        ::close(fd);
    }
}

asyncio::coro<int> error_of_stdin() {
    try {
        asyncio::stream_reader input = co_await asyncio::stdin_reader();
    } catch (const std::system_error& e) {
        co_return e.code().value();
    }
    co_return 0;
}

TEST_CASE("stdin_reader says when there is no standard input, or a folder") {
    CHECK(with_stdin(-1, error_of_stdin) == EBADF);
    const int fd = ::open("/", O_RDONLY | O_CLOEXEC);
    CHECK(with_stdin(fd, error_of_stdin) == EISDIR);
    ::close(fd);
}

asyncio::coro<int> error_of_reading() {
    asyncio::stream_reader input = co_await asyncio::stdin_reader();
    try {
        co_await input.readline();
    } catch (const std::system_error& e) {
        co_return e.code().value();
    }
    co_return 0;
}

TEST_CASE("an error of reading a file as standard input reaches who reads") {
    const int fd = ::open("/proc/self/mem", O_RDONLY | O_CLOEXEC); // nothing is at address 0
    CHECK(with_stdin(fd, error_of_reading) == EIO);
    ::close(fd);
}

asyncio::coro<int> wait_then_read() {
    asyncio::stream_reader input = co_await asyncio::stdin_reader();
    bool late = false;
    try {
        co_await asyncio::wait_for(input.readline(), 20ms);
    } catch (const asyncio::timeout_error&) {
        late = true;
    }
    if (!late) co_return 1;
    std::puts("go on"); // the test writes now
    std::fflush(stdout);
    const std::string first = co_await input.readline();
    const std::string second = co_await input.readline();
    if (first != "first\n" || second != "second\n") co_return 2;
    const std::string end = co_await input.readline();
    co_return end.empty() ? 7 : 3;
}

// A child whose input comes from the test, who sees its output.
int converse(int input, int output, const std::string& text) {
    raw_pipe answers;
    std::fflush(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(30);
        ::dup2(input, 0);
        ::dup2(answers.in, 1);
        ::close(output);
        int code = 100;
        try {
            code = asyncio::run(wait_then_read);
        } catch (...) {
            code = 99;
        }
        ::_exit(code);
    }
    answers.close_in();
    char byte = 0;
    REQUIRE(::read(answers.out, &byte, 1) == 1); // it waits, and was cancelled once
    REQUIRE(::write(output, text.data(), text.size()) == static_cast<ssize_t>(text.size()));
    if (text.back() == '\n') ::close(output);
    int status = 0;
    ::waitpid(child, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

TEST_CASE("stdin_reader can be cancelled, at a pipe and at a terminal") {
    {
        raw_pipe pipe;
        CHECK(converse(pipe.out, pipe.take_in(), "first\nsecond\n") == 7);
    }
    {
        // Two lines at once, of which each read takes one; then Ctrl-D.
        const auto [terminal, shown] = open_terminal();
        CHECK(converse(shown, terminal, "first\nsecond\n\x04") == 7);
        ::close(shown);
        ::close(terminal);
    }
}

asyncio::coro<int> leave_early() {
    {
        asyncio::stream_reader input = co_await asyncio::stdin_reader();
        const std::string line = co_await input.readline();
        if (line.empty()) co_return 1;
    }
    while (asyncio::all_tasks().size() > 1) co_await asyncio::sleep(0s);
    co_return 7;
}

TEST_CASE("a reader of a large file as input may be dropped before its end") {
    const scratch folder;
    std::string text;
    for (int i = 0; i < 200'000; ++i) text += "line " + std::to_string(i) + "\n";
    const int fd = ::open(file(folder, "lines", text).c_str(), O_RDONLY | O_CLOEXEC);
    CHECK(with_stdin(fd, leave_early) == 7);
    ::close(fd);
}

} // TEST_SUITE
