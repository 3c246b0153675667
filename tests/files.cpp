// Files, off the loop.
#include "calls.hpp"
#include "support.hpp"
#include "system.hpp"

#include <atomic>
#include <cerrno>
#include <filesystem>
#include <set>
#include <thread>
#if !defined(_WIN32)
#include <fcntl.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#if defined(__linux__)
#include <sys/mount.h>
#endif
#endif

namespace {

using asyncio::file;
using support::get;
using support::open_descriptors;
using support::pattern;
using support::put;
using support::scratch;

// What awaiting something throws: the code and the text of a std::system_error.
struct failure {
    int code = 0;
    std::string what;
};

template <class T>
asyncio::coro<failure> failure_of(asyncio::coro<T> work) {
    failure result;
    try {
        static_cast<void>(co_await std::move(work));
    } catch (const std::system_error& e) {
        result.code = e.code().value();
        result.what = e.what();
    }
    co_return result;
}

#if !defined(_WIN32)

// A FIFO: whoever opens it waits for somebody to open the other end, for as long as the test likes.
class gate {
public:
    explicit gate(const scratch& folder) : path(folder / "gate") {
        ::mkfifo(path.c_str(), 0600);
    }
    // A descriptor to write with, as soon as somebody wants to read.
    asyncio::coro<int> reader_comes() const {
        for (;;) {
            const int fd = ::open(path.c_str(), O_WRONLY | O_NONBLOCK | O_CLOEXEC);
            if (fd >= 0) co_return fd;
            co_await asyncio::sleep(1ms);
        }
    }
    const std::string path;
};

#endif

} // namespace

TEST_SUITE("whole files") {

ASYNC_TEST_CASE("what write_file writes, read_file reads") {
    const scratch folder;
    co_await asyncio::write_file(folder / "data", "x"); // there is a thread from here on
    const auto descriptors = open_descriptors();
    for (const std::size_t size : {0ul, 1ul, 100ul, 65536ul, 3'000'001ul}) {
        const std::string data = pattern(size);
        co_await asyncio::write_file(folder / "data", data);
        const std::string back = co_await asyncio::read_file(folder / "data");
        CHECK(back == data);
        CHECK(get(folder / "data") == data);
    }
    CHECK(open_descriptors() == descriptors);
    const std::string large = co_await asyncio::read_file(folder / "data");
    CHECK(large.capacity() < large.size() / 2 * 3); // no second room, to see that it has ended
#if !defined(_WIN32)
    struct stat info = {};
    REQUIRE(::stat((folder / "data").c_str(), &info) == 0);
    const mode_t mask = ::umask(0);
    ::umask(mask);
    CHECK((info.st_mode & 0777) == (0666 & ~mask));
#endif
}

#if !defined(_WIN32)

ASYNC_TEST_CASE("a file without a size, as in /proc, is read to its end") {
    const std::string status = co_await asyncio::read_file("/proc/self/status");
    CHECK(status.find("Name:") == 0);
    const std::string nothing = co_await asyncio::read_file("/dev/null");
    CHECK(nothing.empty());
}

#endif

ASYNC_TEST_CASE("errors say what was done to which path") {
    const scratch folder;
    const failure missing = co_await failure_of(asyncio::read_file(folder / "none"));
    CHECK(missing.code == ENOENT);
    CHECK(missing.what.find("open " + (folder / "none")) == 0);
    const failure directory = co_await failure_of(asyncio::read_file(folder.path));
#if defined(_WIN32) // which opens no folders
    CHECK(directory.code == EACCES);
    CHECK(directory.what.find("open " + folder.path) == 0);
#else
    CHECK(directory.code == EISDIR);
    CHECK(directory.what.find("read " + folder.path) == 0);
#endif
    const failure nowhere = co_await failure_of(asyncio::write_file(folder / "none/file", "x"));
    CHECK(nowhere.code == ENOENT);
    CHECK(nowhere.what.find("open " + (folder / "none/file")) == 0);
#if !defined(_WIN32)
    const failure full = co_await failure_of(asyncio::write_file("/dev/full", "x"));
    CHECK(full.code == ENOSPC);
    CHECK(full.what.find("write /dev/full") == 0);
#endif
    const std::string zero("a\0b", 3);
    CHECK_THROWS_AS(asyncio::read_file(zero), std::invalid_argument);
    CHECK_THROWS_AS(asyncio::write_file(zero, "x"), std::invalid_argument);
    CHECK_THROWS_AS(file::open(zero), std::invalid_argument);
}

#if !defined(_WIN32)

ASYNC_TEST_CASE("what could not be given to a thread to write is not what is read next") {
    const scratch folder;
    file f = co_await file::open(folder / "text", "w+");
    const auto gone = std::make_shared<asyncio::thread_pool_executor>(1);
    gone->shutdown();
    asyncio::get_running_loop().set_default_executor(gone);
    CHECK_AWAIT_THROWS_AS(f.write("lost"), std::runtime_error);
    asyncio::get_running_loop().set_default_executor(
        std::make_shared<asyncio::thread_pool_executor>(1));
    std::string text = co_await f.read();
    CHECK(text.empty());
    co_await f.write("kept");
    co_await f.seek(0);
    text = co_await f.read();
    CHECK(text == "kept");
    co_await f.close();
}

ASYNC_TEST_CASE("an atomic write replaces the file in one step and leaves nothing beside it") {
    const scratch folder;
    const std::string path = folder / "data";
    co_await asyncio::write_file(path, "new", {.atomic = true}); // where there was none
    CHECK(get(path) == "new");

    ::chmod(path.c_str(), 0640);
    REQUIRE(::link(path.c_str(), (folder / "other name").c_str()) == 0);
    const int held = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
    co_await asyncio::write_file(path, "newer", {.atomic = true});
    CHECK(get(path) == "newer");
    CHECK(get(folder / "other name") == "new");
    char old[10] = "";
    CHECK(::read(held, old, sizeof old) == 3); // who had it open sees the old one
    ::close(held);
    struct stat info = {};
    REQUIRE(::stat(path.c_str(), &info) == 0);
    CHECK((info.st_mode & 07777) == 0640);

    REQUIRE(::symlink("data", (folder / "link").c_str()) == 0);
    co_await asyncio::write_file(folder / "link", "newest", {.atomic = true});
    CHECK(get(path) == "newest");
    REQUIRE(::lstat((folder / "link").c_str(), &info) == 0);
    CHECK(S_ISLNK(info.st_mode));
    CHECK(folder.names() == std::set<std::string>{"data", "link", "other name"});
}

ASYNC_TEST_CASE("whoever reads during atomic writes sees all of one of them") {
    const scratch folder;
    const std::string path = folder / "data";
    co_await asyncio::write_file(path, std::string(100'000, 'a'), {.atomic = true});
    std::atomic<bool> stop{false};
    std::atomic<int> torn{0};
    std::thread reader([&] {
        while (!stop) {
            const std::string text = get(path);
            if (text.size() != 100'000 || text != std::string(100'000, text[0])) ++torn;
        }
    });
    for (int i = 0; i < 50; ++i)
        co_await asyncio::write_file(path, std::string(100'000, static_cast<char>('a' + i % 26)),
                                     {.atomic = true});
    stop = true;
    reader.join();
    CHECK(torn == 0);
}

ASYNC_TEST_CASE("an atomic write never replaces what is no file") {
    const scratch folder;
    const failure device =
        co_await failure_of(asyncio::write_file("/dev/null", "x", {.atomic = true}));
    CHECK(device.code == EINVAL);
    CHECK(device.what.find("replace /dev/null") == 0);
    struct stat info = {};
    REQUIRE(::stat("/dev/null", &info) == 0);
    CHECK(S_ISCHR(info.st_mode));
    const failure directory =
        co_await failure_of(asyncio::write_file(folder.path, "x", {.atomic = true}));
    CHECK(directory.code == EISDIR);
}

ASYNC_TEST_CASE("an atomic write that has nowhere to be names the file that was asked for") {
    const failure nowhere =
        co_await failure_of(asyncio::write_file("/no/such/folder/x", "x", {.atomic = true}));
    CHECK(nowhere.code == ENOENT);
    CHECK(nowhere.what.find("create a file for /no/such/folder/x") == 0);
}

// Mounts a file system of `size` bytes on `path`, for this process only. False where that is not
// allowed.
#if defined(__linux__)
bool mount_small(const std::string& path, const char* size) {
    const std::string options = std::string("size=") + size;
    return ::unshare(CLONE_NEWNS) == 0 &&
           ::mount("none", "/", "none", MS_REC | MS_PRIVATE, nullptr) == 0 &&
           ::mount("tmpfs", path.c_str(), "tmpfs", 0, options.c_str()) == 0;
}
#else
bool mount_small(const std::string&, const char*) { return false; }
#endif

TEST_CASE("a disk that is full is an error, and an atomic write keeps the old contents") {
    const scratch folder;
    const auto result = support::in_child([&] {
        if (!mount_small(folder.path, "128k")) return 8;
        return asyncio::run([&folder]() -> asyncio::coro<int> {
            const std::string path = folder / "data";
            const std::string little(30'000, 'o');
            const std::string much(300'000, 'n');
            co_await asyncio::write_file(path, little);

            const failure atomic =
                co_await failure_of(asyncio::write_file(path, much, {.atomic = true}));
            if (atomic.code != ENOSPC || atomic.what.find("write " + path) != 0) co_return 1;
            if (get(path) != little || folder.names().size() != 1) co_return 2;

            const failure plain = co_await failure_of(asyncio::write_file(path, much));
            if (plain.code != ENOSPC || plain.what.find("write " + path) != 0) co_return 3;
            if (get(path).size() >= much.size()) co_return 4;

            file log = co_await file::open(folder / "log", "a");
            failure last;
            for (int i = 0; i < 100 && last.code == 0; ++i)
                last = co_await failure_of(asyncio::coro<std::size_t>(log.write(little)));
            if (last.code != ENOSPC || last.what.find("write " + (folder / "log")) != 0)
                co_return 5;
            ::unlink(path.c_str()); // there is room again
            ::truncate((folder / "log").c_str(), 0);
            co_await log.write("better");
            co_await log.close();
            co_return get(folder / "log") == "better" ? 7 : 6;
        });
    });
    if (result.exit_code == 8) {
        MESSAGE("no file system may be mounted here; /dev/full has to do");
        return;
    }
    CHECK(result.exit_code == 7);
}

TEST_CASE("a write that the system cuts short is an error, and no endless loop") {
    const scratch folder;
    const auto result = support::in_child([&] {
        // A limit of the file's size cuts one write short and fails the next.
        ::signal(SIGXFSZ, SIG_IGN);
        const rlimit limit = {100'000, 100'000};
        ::setrlimit(RLIMIT_FSIZE, &limit);
        return asyncio::run([&folder]() -> asyncio::coro<int> {
            const std::string path = folder / "data";
            const failure cut =
                co_await failure_of(asyncio::write_file(path, std::string(150'000, 'x')));
            if (cut.code != EFBIG) co_return 1;
            co_return get(path).size() == 100'000 ? 7 : 2;
        });
    });
    CHECK(result.exit_code == 7);
}

ASYNC_TEST_CASE("a virtual clock stands still while files are worked on") {
    const scratch folder;
    const gate g(folder);
    bool hour_over = false;
    auto hour = asyncio::create_task([&hour_over]() -> asyncio::coro<> {
        co_await asyncio::sleep(1h);
        hour_over = true;
    });
    auto reading = asyncio::create_task(asyncio::read_file(g.path));
    std::thread opener([&g] {
        std::this_thread::sleep_for(50ms); // the time of a slow disk
        const int fd = ::open(g.path.c_str(), O_WRONLY | O_CLOEXEC);
        static_cast<void>(!::write(fd, "slow", 4));
        ::close(fd);
    });
    const std::string text = co_await asyncio::wait_for(reading, 1s);
    opener.join();
    CHECK(text == "slow");
    CHECK_FALSE(hour_over);
    CHECK(asyncio::elapsed() == asyncio::duration());
    co_await hour;
}

ASYNC_TEST_CASE_REAL("the loop goes on while files are read, and a cancelled read ends at once") {
    const scratch folder;
    const gate g(folder);
    auto reading = asyncio::create_task(asyncio::read_file(g.path));
    const int fd = co_await g.reader_comes(); // the thread is in read() now
    co_await asyncio::sleep(1ms);             // and does not hold the loop
    CHECK_FALSE(reading.done());
    reading.cancel();
    CHECK_AWAIT_THROWS_AS(reading, asyncio::cancelled_error);
    CHECK(::write(fd, "too late", 8) == 8); // ends the job, which the end of run() waits for
    ::close(fd);
}

#endif

ASYNC_TEST_CASE("an atomic write replaces the file, and no folder, and leaves nothing beside it") {
    const scratch folder;
    for (const char* const text : {"new", "newer"}) {
        co_await asyncio::write_file(folder / "data", text, {.atomic = true});
        CHECK(get(folder / "data") == text);
    }
    const failure directory =
        co_await failure_of(asyncio::write_file(folder.path, "x", {.atomic = true}));
    CHECK(directory.code == EISDIR);
    CHECK(folder.names() == std::set<std::string>{"data"});
}

ASYNC_TEST_CASE("a hundred files at once") {
    const scratch folder;
    std::vector<asyncio::task<void>> writes;
    for (int i = 0; i < 100; ++i)
        writes.push_back(asyncio::create_task(
            asyncio::write_file(folder / std::to_string(i), std::to_string(i), {.atomic = true})));
    co_await asyncio::gather(writes);
    std::vector<asyncio::task<std::string>> reads;
    for (int i = 0; i < 100; ++i)
        reads.push_back(asyncio::create_task(asyncio::read_file(folder / std::to_string(i))));
    const std::vector<std::string> texts = co_await asyncio::gather(reads);
    for (int i = 0; i < 100; ++i)
        CHECK(texts[static_cast<std::size_t>(i)] == std::to_string(i));
    CHECK(folder.names().size() == 100);
}

} // TEST_SUITE

TEST_SUITE("open files") {

#if !defined(_WIN32) // whose files have no holes by themselves
ASYNC_TEST_CASE("what is left of a file is read at the price of that, however large the file is") {
    const scratch folder;
    co_await asyncio::write_file(folder / "log", "x");
    REQUIRE(::truncate((folder / "log").c_str(), off_t{1} << 33) == 0); // all of it a hole
    file f = co_await file::open(folder / "log");
    co_await f.seek(-4, asyncio::seek_from::end);
    const std::string rest = co_await f.read();
    CHECK(rest == std::string(4, '\0'));
    CHECK(rest.capacity() < 1'000'000);
}
#endif

ASYNC_TEST_CASE("a file is written, sought in and read") {
    const scratch folder;
    co_await asyncio::write_file(folder / "data", "x"); // there is a thread from here on
    const auto descriptors = open_descriptors();
    {
        file f = co_await file::open(folder / "data", "w+");
        const std::size_t written = co_await f.write("one\ntwo\nthree");
        CHECK(written == 13);
        const std::int64_t start = co_await f.seek(0);
        CHECK(start == 0);
        const std::string first = co_await f.readline();
        CHECK(first == "one\n");
        const std::string next = co_await f.read(2);
        CHECK(next == "tw");
        const std::int64_t place = co_await f.seek(0, asyncio::seek_from::current);
        CHECK(place == 6); // what was read ahead does not count
        co_await f.seek(-5, asyncio::seek_from::end);
        const std::string last = co_await f.read();
        CHECK(last == "three");
        const std::string end = co_await f.read(10);
        CHECK(end.empty());
        const std::string no_line = co_await f.readline();
        CHECK(no_line.empty());
        co_await f.close();
        co_await f.close();
    }
    CHECK(open_descriptors() == descriptors);
    CHECK(get(folder / "data") == "one\ntwo\nthree");
}

ASYNC_TEST_CASE("a write goes where reading has come to") {
    const scratch folder;
    put(folder / "data", "one\ntwo\nthree\n");
    file f = co_await file::open(folder / "data", "r+");
    co_await f.readline();
    co_await f.write("TWO");
    const std::string rest = co_await f.read();
    CHECK(rest == "\nthree\n");
    co_await f.close();
    CHECK(get(folder / "data") == "one\nTWO\nthree\n");
}

ASYNC_TEST_CASE("the modes are Python's") {
    const scratch folder;
    const std::string path = folder / "data";
    put(path, "old");
    {
        file f = co_await file::open(path);
        const std::string text = co_await f.read();
        CHECK(text == "old");
        const failure read_only = co_await failure_of(asyncio::coro<std::size_t>(f.write("x")));
        CHECK(read_only.code == EBADF);
        CHECK(read_only.what.find("write " + path) == 0);
    }
    {
        file f = co_await file::open(path, "a");
        co_await f.seek(0);
        co_await f.write(" and new");
        const failure write_only = co_await failure_of(asyncio::coro<std::string>(f.read()));
        CHECK(write_only.code == EBADF);
    }
    CHECK(get(path) == "old and new");
    {
        file f = co_await file::open(path, "a+");
        const std::string nothing = co_await f.read(); // it stands at the end, as in Python
        co_await f.seek(0);
        const std::string all = co_await f.read();
        CHECK(nothing.empty());
        CHECK(all == "old and new");
    }
    const failure there = co_await failure_of(file::open(path, "x"));
    CHECK(there.code == EEXIST);
    { file f = co_await file::open(path, "wb"); }
    CHECK(get(path).empty());
    std::filesystem::remove(path);
    { file f = co_await file::open(path, "xb+"); }
    CHECK(get(path).empty());
    const failure missing = co_await failure_of(file::open(folder / "none", "r+b"));
    CHECK(missing.code == ENOENT);
    for (const char* mode : {"", "q", "rw", "r++", "rbb", "+r", "b"})
        CHECK_THROWS_AS(file::open(path, mode), std::invalid_argument);
}

ASYNC_TEST_CASE("lines are read across the borders of what is read ahead") {
    const scratch folder;
    std::vector<std::string> lines;
    std::string text;
    for (std::size_t i = 0; i < 500; ++i) {
        lines.push_back(std::string(i * 7 % 1000, 'l') + "\n");
        text += lines.back();
    }
    lines.push_back(std::string(200'000, 'm') + "\n"); // longer than any block
    lines.push_back("no newline at the end");
    put(folder / "data", text + lines[500] + lines[501]);
    file f = co_await file::open(folder / "data");
    for (const std::string& expected : lines) {
        const std::string line = co_await f.readline();
        CHECK(line == expected);
    }
    const std::string end = co_await f.readline();
    CHECK(end.empty());

    // A file that grows is read further.
    file more = co_await file::open(folder / "data", "a");
    co_await more.write("\nlast\n");
#if defined(_WIN32)
    co_await f.seek(0, asyncio::seek_from::current); // Wine's C library remembers the end
#endif
    const std::string rest = co_await f.readline();
    CHECK(rest == "\n");
    const std::string last = co_await f.readline();
    CHECK(last == "last\n");
}

ASYNC_TEST_CASE("read gives fewer bytes only at the end") {
    const scratch folder;
    const std::string data = pattern(300'000);
    put(folder / "data", data);
    file f = co_await file::open(folder / "data");
    co_await f.readline(); // something is read ahead
    co_await f.seek(0);
    std::string all;
    for (;;) {
        const std::string piece = co_await f.read(99'999);
        if (piece.empty()) break;
        CHECK((piece.size() == 99'999 || all.size() + piece.size() == data.size()));
        all += piece;
    }
    CHECK(all == data);
    const std::string none = co_await f.read(0);
    CHECK(none.empty());
}

ASYNC_TEST_CASE("tasks that use one file come one after the other") {
    const scratch folder;
    file log = co_await file::open(folder / "log", "w");
    std::vector<asyncio::task<std::size_t>> writes;
    std::string expected;
    for (int i = 0; i < 50; ++i) {
        const std::string line = "line " + std::to_string(i) + "\n";
        expected += line;
        writes.push_back(asyncio::create_task(log.write(line)));
    }
    co_await asyncio::gather(writes);
    co_await log.close();
    CHECK(get(folder / "log") == expected);
}

ASYNC_TEST_CASE("a closed file and a moved one say so") {
    const scratch folder;
    file f = co_await file::open(folder / "data", "w+");
    co_await f.close();
    CHECK_AWAIT_THROWS_AS(f.read(), std::invalid_argument);
    CHECK_AWAIT_THROWS_AS(f.readline(), std::invalid_argument);
    CHECK_AWAIT_THROWS_AS(f.write("x"), std::invalid_argument);
    CHECK_AWAIT_THROWS_AS(f.seek(0), std::invalid_argument);
    const file other = std::move(f);
    CHECK_THROWS_AS(f.close(), std::runtime_error);
}

ASYNC_TEST_CASE("an error of a seek leaves the file where it was") {
    const scratch folder;
    put(folder / "data", "one\ntwo\n");
    file f = co_await file::open(folder / "data");
    co_await f.readline();
    const failure before = co_await failure_of(asyncio::coro<std::int64_t>(f.seek(-1)));
    CHECK(before.code == EINVAL);
    CHECK(before.what.find("lseek " + (folder / "data")) == 0);
    const std::string line = co_await f.readline();
    CHECK(line == "two\n");
}

// Never another place: what is written next would overwrite something else.
ASYNC_TEST_CASE("a place beyond 4 GiB is reached, or refused where off_t has 32 bits") {
    const scratch folder;
    file f = co_await file::open(folder / "data", "w+");
    const auto place = co_await asyncio::as_outcome(f.seek(5'000'000'000));
    if (sizeof(off_t) > 4) {
        REQUIRE(place.has_value());
        CHECK(*place == 5'000'000'000);
    } else {
        REQUIRE_FALSE(place.has_value());
        CHECK(place.error().code().value() == EOVERFLOW);
    }
}

#if !defined(_WIN32)

ASYNC_TEST_CASE_REAL("a cancelled read takes nothing: the next one begins where it began") {
    const scratch folder;
    const gate g(folder);
    const int writer = ::open(g.path.c_str(), O_RDWR | O_CLOEXEC);
    file f = co_await file::open(g.path, "r");
    auto reading = asyncio::create_task(f.readline());
    co_await support::turns(5);
    reading.cancel();
    CHECK_AWAIT_THROWS_AS(reading, asyncio::cancelled_error);
    CHECK(::write(writer, "first\nsecond\n", 13) == 13); // the job is still there to take it
    const std::string first = co_await f.readline();
    CHECK(first == "first\n");
    const std::string second = co_await f.read(7);
    CHECK(second == "second\n");
    ::close(writer);
}

ASYNC_TEST_CASE_REAL("what follows a cancelled write comes after it") {
    const scratch folder;
    const gate g(folder);
    const int reader = ::open(g.path.c_str(), O_RDWR | O_CLOEXEC);
    file f = co_await file::open(g.path, "w");
    const std::string much(500'000, '1'); // more than a pipe takes
    auto writing = asyncio::create_task(f.write(much));
    co_await support::turns(5);
    writing.cancel();
    CHECK_AWAIT_THROWS_AS(writing, asyncio::cancelled_error);
    auto next = asyncio::create_task(f.write("2"));
    std::string got;
    std::thread taker([&] {
        char block[10'000];
        while (got.size() < much.size() + 1)
            got.append(block, static_cast<std::size_t>(::read(reader, block, sizeof block)));
    });
    co_await next;
    taker.join();
    CHECK(got == much + "2");
    ::close(reader);
}

ASYNC_TEST_CASE_REAL("a file may be dropped while an operation runs") {
    const scratch folder;
    const auto descriptors = open_descriptors();
    const gate g(folder);
    const int other = ::open(g.path.c_str(), O_RDWR | O_CLOEXEC);
    std::optional<file> f(co_await file::open(g.path, "r"));
    auto reading = asyncio::create_task(f->readline());
    co_await support::turns(5);
    f.reset();
    CHECK(::write(other, "still\n", 6) == 6);
    const std::string line = co_await reading;
    CHECK(line == "still\n");
    ::close(other);
    CHECK(open_descriptors() == descriptors);
}

ASYNC_TEST_CASE_REAL("signals that interrupt every system call change nothing") {
    const scratch folder;
    const gate g(folder);
    const support::interruptions storm;
    const interrupted_calls every_other;
    const std::string data = pattern(1'000'000);
    for (int i = 0; i < 20; ++i) {
        co_await asyncio::write_file(folder / "data", data, {.atomic = i % 2 == 0});
        const std::string back = co_await asyncio::read_file(folder / "data");
        CHECK(back == data);
    }
    // The other end of a pipe is where writes are cut short.
    auto reading = asyncio::create_task(asyncio::read_file(g.path));
    file f = co_await file::open(g.path, "w");
    co_await f.write(data);
    co_await f.close();
    const std::string carried = co_await reading;
    CHECK(carried == data);
    CHECK(support::interruptions::count > 0);
    CHECK(system_calls.open.interrupted > 0);
    CHECK(system_calls.read.interrupted > 0);
    CHECK(system_calls.write.interrupted > 0);
}

ASYNC_TEST_CASE("a device is written and read as it is") {
    file full = co_await file::open("/dev/full", "r+");
    const failure written = co_await failure_of(asyncio::coro<std::size_t>(full.write("x")));
    CHECK(written.code == ENOSPC);
    const std::string zeros = co_await full.read(1000);
    CHECK(zeros == std::string(1000, '\0'));
    const std::string line = co_await full.read(5);
    CHECK(line.size() == 5);
}

#endif

} // TEST_SUITE
