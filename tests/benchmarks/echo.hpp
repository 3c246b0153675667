// Echo benchmark: what a server tells the program that compares them.
//
// A contender is one way to send back what comes: the hand-written bound, asyncio.hpp, or a peer.
// Each source file registers its own, so that a peer that is not installed is not compiled.
#ifndef TESTS_BENCHMARKS_ECHO_HPP
#define TESTS_BENCHMARKS_ECHO_HPP

#include <cstddef>
#include <string>
#include <vector>

namespace echo {

// Bytes that every server reads at most at once.
inline constexpr std::size_t piece = 64 * 1024;

struct contender {
    std::string name;
    // Serves whoever connects to a socket that listens, in a process of its own, until killed.
    void (*serve)(int listener) = nullptr;
};

// The contenders that the check compares.
inline const char* const the_bound = "bound";
inline const char* const ours = "asyncio.hpp";

inline std::vector<contender>& contenders() {
    static std::vector<contender> all;
    return all;
}

struct registered {
    registered(const char* name, void (*serve)(int)) { contenders().push_back({name, serve}); }
};

} // namespace echo

#endif
