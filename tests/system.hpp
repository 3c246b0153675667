// What tests of the operating system's things share: folders, descriptors, interruptions.
#ifndef ASYNCIO_TESTS_SYSTEM_HPP
#define ASYNCIO_TESTS_SYSTEM_HPP

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <ctime>
#include <dirent.h>
#include <fstream>
#include <iterator>
#include <set>
#include <stdexcept>
#include <string>
#include <unistd.h>

namespace support {

/// A folder that goes away with the test.
class scratch {
public:
    scratch() {
        char name[] = "/tmp/asyncio-test-XXXXXX";
        if (::mkdtemp(name) == nullptr) throw std::runtime_error("mkdtemp");
        path = name;
    }
    scratch(const scratch&) = delete;
    scratch& operator=(const scratch&) = delete;
    ~scratch() {
        const std::string command = "rm -rf " + path;
        static_cast<void>(!std::system(command.c_str()));
    }
    std::string operator/(const std::string& name) const { return path + "/" + name; }

    /// The names of what is in it.
    std::set<std::string> names() const {
        std::set<std::string> found;
        DIR* const list = ::opendir(path.c_str());
        while (const dirent* const entry = ::readdir(list)) {
            const std::string name = entry->d_name;
            if (name != "." && name != "..") found.insert(name);
        }
        ::closedir(list);
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

/// The descriptors of this process, with what they are.
inline std::set<std::string> open_descriptors() {
    std::set<std::string> found;
    DIR* const list = ::opendir("/proc/self/fd");
    while (const dirent* const entry = ::readdir(list)) {
        if (entry->d_name[0] == '.' || std::atoi(entry->d_name) == ::dirfd(list)) continue;
        char target[256] = "";
        const std::string path = std::string("/proc/self/fd/") + entry->d_name;
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
        sigevent event = {};
        event.sigev_notify = SIGEV_SIGNAL;
        event.sigev_signo = SIGUSR2;
        ::timer_create(CLOCK_MONOTONIC, &event, &timer);
        arm();
    }
    interruptions(const interruptions&) = delete;
    interruptions& operator=(const interruptions&) = delete;
    ~interruptions() {
        ::signal(SIGUSR2, SIG_IGN); // one may still be on its way
        ::timer_delete(timer);
    }

    static inline std::atomic<int> count{0};

private:
    static void arm() {
        itimerspec soon = {};
        soon.it_value.tv_nsec = 500'000;
        ::timer_settime(timer, 0, &soon, nullptr);
    }

    static inline timer_t timer = {};
};

} // namespace support

#endif
