// Micro benchmarks: what one contender tells the program that compares them.
//
// A contender is one way to do one operation: the hand-written bound, asyncio.hpp, or a peer. Each
// source file registers its own, so that a peer that is not installed is simply not compiled.
#ifndef TESTS_BENCHMARKS_MICRO_HPP
#define TESTS_BENCHMARKS_MICRO_HPP

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <ctime>
#include <string>
#include <vector>

#include <unistd.h>

namespace micro {

// CPU time of the calling thread. A neighbour on a shared machine does not count into it.
inline std::int64_t cpu_ns() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return std::int64_t{now.tv_sec} * 1'000'000'000 + now.tv_nsec;
}

struct measurement {
    double nanoseconds = 0; // CPU time between the first and the last operation
    double operations = 0;  // done in that time; at least as many as asked for
    double bytes = 0;       // resident memory they took; only the sleeping tasks fill it in
};

struct contender {
    std::string operation; // a name of the table in micro.cpp
    std::string name;      // "bound", "asyncio.hpp", or the peer's
    measurement (*run)(std::uint64_t operations) = nullptr;
};

// The two contenders that every operation has, and the ones that the check compares.
inline const char* const the_bound = "bound";
inline const char* const ours = "asyncio.hpp";

inline std::vector<contender>& contenders() {
    static std::vector<contender> all;
    return all;
}

struct registered {
    registered(const char* operation, const char* name, measurement (*run)(std::uint64_t)) {
        contenders().push_back({operation, name, run});
    }
};

// A benchmark whose result is wrong measures something else.
inline void expect(bool right, const char* what) {
    if (right) return;
    std::fprintf(stderr, "micro: %s gives a wrong result\n", what);
    std::abort();
}

// Resident memory of this process now, in bytes. 0 where Linux's /proc is missing.
inline double resident_bytes() {
    std::FILE* const statm = std::fopen("/proc/self/statm", "r");
    if (statm == nullptr) return 0;
    long total = 0;
    long resident = 0;
    const int fields = std::fscanf(statm, "%ld %ld", &total, &resident);
    std::fclose(statm);
    return fields == 2 ? static_cast<double>(resident * ::sysconf(_SC_PAGESIZE)) : 0;
}

// The same deadlines for everybody: evenly random over two seconds.
class random_delay {
public:
    std::int64_t next_ns() {
        state_ = state_ * 6364136223846793005U + 1442695040888963407U;
        return static_cast<std::int64_t>((state_ >> 33) % 2'000'000'000U);
    }

private:
    std::uint64_t state_ = 20240607;
};

// The recursion that every contender runs, again and again until it made enough calls.
inline constexpr unsigned fib_argument = 25;
inline constexpr std::uint64_t fib_result = 75'025;
inline constexpr std::uint64_t fib_calls = 242'785;

// Tasks are started and awaited in groups of this size.
inline constexpr std::uint64_t batch = 1000;

} // namespace micro

#endif
