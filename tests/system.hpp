// What tests of the operating system's things share: folders, descriptors, interruptions.
#ifndef ASYNCIO_TESTS_SYSTEM_HPP
#define ASYNCIO_TESTS_SYSTEM_HPP

#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <set>
#include <string>
#if defined(_WIN32)
#include <windows.h>
#else
#include <dirent.h>
#include <fcntl.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/socket.h>
#else
#include <thread>
#endif
#endif

namespace support {

#if defined(_WIN32)
#elif defined(__linux__)
constexpr int not_for_children = SOCK_CLOEXEC;
inline int open_pipe(int (&both)[2]) { return ::pipe2(both, O_CLOEXEC); }
#else
constexpr int not_for_children = 0;
inline int open_pipe(int (&both)[2]) {
    if (::pipe(both) != 0) return -1;
    for (const int fd : both) ::fcntl(fd, F_SETFD, FD_CLOEXEC);
    return 0;
}
#endif

/// A folder that goes away with the test.
class scratch {
public:
    scratch() {
#if defined(_WIN32)
        static std::atomic<int> counter{0};
        const std::string name = "asyncio-test-" + std::to_string(::GetCurrentProcessId()) + "-" +
                                 std::to_string(counter.fetch_add(1));
        path = (std::filesystem::temp_directory_path() / name).string();
        std::filesystem::create_directory(path);
#else
        char name[] = "/tmp/asyncio-test-XXXXXX";
        if (::mkdtemp(name) == nullptr) {
            std::perror("mkdtemp");
            std::abort();
        }
        path = name;
#endif
    }
    scratch(const scratch&) = delete;
    scratch& operator=(const scratch&) = delete;
    ~scratch() {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    std::string operator/(const std::string& name) const { return path + "/" + name; }

    /// The names of what is in it.
    std::set<std::string> names() const {
        std::set<std::string> found;
        for (const auto& entry : std::filesystem::directory_iterator(path))
            found.insert(entry.path().filename().string());
        return found;
    }

    std::string path;
};

inline void put(const std::string& path, const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
}

inline std::string get(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return std::string(std::istreambuf_iterator<char>(in), {});
}

/// Bytes of many kinds, which tell their place.
inline std::string pattern(std::size_t size) {
    std::string text(size, '\0');
    for (std::size_t i = 0; i < size; ++i) text[i] = static_cast<char>(i * 7 % 251);
    return text;
}

#if defined(_WIN32)

/// What a handle is of, in the system's words: "File", "Process".
inline std::string kind_of(HANDLE handle) {
    struct answer {
        USHORT bytes;
        USHORT room;
        const wchar_t* text;
        wchar_t rest[256];
    };
    using function = LONG(WINAPI*)(HANDLE, int, void*, ULONG, ULONG*);
    static const auto ask = reinterpret_cast<function>(reinterpret_cast<void*>(
        ::GetProcAddress(::GetModuleHandleW(L"ntdll.dll"), "NtQueryObject")));
    constexpr int object_type = 2;
    answer got = {};
    std::string kind;
    if (ask(handle, object_type, &got, sizeof got, nullptr) != 0) return kind;
    for (int i = 0; i < got.bytes / 2; ++i) kind += static_cast<char>(got.text[i]);
    return kind;
}

/// The handles of this process, without what the thread library makes and keeps.
inline std::set<std::string> open_descriptors() {
    static const std::set<std::string> of_threads{"Event", "KeyedEvent", "Mutant", "Semaphore",
                                                  "Thread"};
    std::set<std::string> found;
    for (std::uintptr_t number = 4; number < 0x4000; number += 4) {
        const auto handle = reinterpret_cast<HANDLE>(number);
        DWORD flags = 0;
        if (::GetHandleInformation(handle, &flags) == 0) continue;
        const std::string kind = kind_of(handle);
        if (of_threads.count(kind) == 0) found.insert(kind + " " + std::to_string(number));
    }
    return found;
}

#else

/// The descriptors of this process, with what they are.
inline std::set<std::string> open_descriptors() {
    std::set<std::string> found;
#if defined(__linux__)
    const char* const folder = "/proc/self/fd";
#else
    const char* const folder = "/dev/fd";
#endif
    DIR* const list = ::opendir(folder);
    while (const dirent* const entry = ::readdir(list)) {
        if (entry->d_name[0] == '.' || std::atoi(entry->d_name) == ::dirfd(list)) continue;
        char target[256] = "";
        const std::string path = std::string(folder) + "/" + entry->d_name;
        static_cast<void>(!::readlink(path.c_str(), target, sizeof target - 1));
        found.insert(std::string(entry->d_name) + " " + target);
    }
    ::closedir(list);
    return found;
}

/// Makes system calls fail with EINTR as often as it can.
class interruptions {
public:
    interruptions() {
        struct sigaction action = {};
        action.sa_handler = [](int) {
            ++count;
            arm(); // after it is done: signals alone would leave no time to a slow machine
        };
        ::sigaction(SIGUSR2, &action, nullptr); // without SA_RESTART
        begin();
    }
    interruptions(const interruptions&) = delete;
    interruptions& operator=(const interruptions&) = delete;
    ~interruptions() {
        ::signal(SIGUSR2, SIG_IGN); // one may still be on its way
        end();
    }

    static inline std::atomic<int> count{0};

private:
#if defined(__linux__)
    static void begin() {
        sigevent event = {};
        event.sigev_notify = SIGEV_SIGNAL;
        event.sigev_signo = SIGUSR2;
        ::timer_create(CLOCK_MONOTONIC, &event, &timer);
        arm();
    }
    static void end() { ::timer_delete(timer); }
    static void arm() {
        itimerspec soon = {};
        soon.it_value.tv_nsec = 500'000;
        ::timer_settime(timer, 0, &soon, nullptr);
    }

    static inline timer_t timer = {};
#else
    // There is no such timer: a thread sends them.
    void begin() {
        sending = std::thread([this] {
            while (!stop) {
                ::kill(::getpid(), SIGUSR2);
                std::this_thread::sleep_for(std::chrono::microseconds(500));
            }
        });
    }
    void end() {
        stop = true;
        sending.join();
    }
    static void arm() {}

    std::atomic<bool> stop{false};
    std::thread sending;
#endif
};

#endif

} // namespace support

#endif
