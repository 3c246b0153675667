// Micro benchmarks: what the smallest operations cost beside a hand-written lower bound.
//
// Every contender runs in this one process, in rounds that alternate between them, so that a slow
// minute of the machine hits all of them. Only ratios mean anything on another machine. README.md
// beside this file says how to build and read it.
#include "micro.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <string_view>

namespace {

using micro::contender;
using micro::measurement;

// The table: what is measured, and how many times the bound asyncio.hpp may cost.
struct operation {
    const char* name;
    const char* meaning;
    double limit;
};
constexpr operation operations[] = {
    {"await", "await a child that does not suspend", 1.5},
    {"fib", "recursive fib coroutine, per call", 1.5},
    {"spawn", "spawn a task, await it (batches of 1000)", 2.5},
    {"yield", "yield to the loop", 1.5},
    {"queue", "an item through a queue of 1, two tasks", 3},
};
constexpr operation sleeping = {"sleeping", "sleeping tasks, deadlines within 2 s", 1.3};
constexpr double sleeping_bytes_limit = 256;

struct options {
    bool json = false;
    bool quick = false;
    bool slow = false;
    bool peers = true;
    double slack = 0; // 0: nothing is checked
    std::string_view only;
};

// What one contender did in all rounds of an operation, per operation.
struct result {
    const contender* who = nullptr;
    std::uint64_t count = 1;
    std::vector<double> nanoseconds{};
    std::vector<double> bytes{};
    bool failed = false;

    double best() const { return *std::min_element(nanoseconds.begin(), nanoseconds.end()); }
    double median() const {
        std::vector<double> sorted = nanoseconds;
        std::sort(sorted.begin(), sorted.end());
        return sorted[sorted.size() / 2];
    }
    double best_bytes() const { return *std::min_element(bytes.begin(), bytes.end()); }
};

struct comparison {
    operation what;
    std::vector<result> results; // the bound first, then asyncio.hpp, then the peers

    const result* named(std::string_view name) const {
        for (const result& one : results) {
            if (one.who->name == name && !one.failed) return &one;
        }
        return nullptr;
    }
    // asyncio.hpp's cost over the bound's; 0 if one of the two is not there.
    double ratio() const {
        const result* const bound = named(micro::the_bound);
        const result* const mine = named(micro::ours);
        return bound != nullptr && mine != nullptr ? mine->best() / bound->best() : 0;
    }
    double median_ratio() const {
        const result* const bound = named(micro::the_bound);
        const result* const mine = named(micro::ours);
        return bound != nullptr && mine != nullptr ? mine->median() / bound->median() : 0;
    }
    double bytes() const {
        const result* const mine = named(micro::ours);
        return mine != nullptr && !mine->bytes.empty() ? mine->best_bytes() : 0;
    }
    bool within(double slack) const {
        return ratio() <= what.limit * slack && bytes() <= sleeping_bytes_limit * slack;
    }
};

std::vector<result> contenders_for(const operation& what, const options& chosen) {
    std::vector<result> found;
    for (const contender& one : micro::contenders()) {
        const bool peer = one.name != micro::the_bound && one.name != micro::ours;
        if (one.operation == what.name && (chosen.peers || !peer)) found.push_back({.who = &one});
    }
    const auto rank = [](const result& one) {
        return one.who->name == micro::the_bound ? 0 : one.who->name == micro::ours ? 1 : 2;
    };
    std::stable_sort(found.begin(), found.end(),
                     [&](const result& a, const result& b) { return rank(a) < rank(b); });
    return found;
}

void round_of(result& one) {
    const measurement measured = one.who->run(one.count);
    one.nanoseconds.push_back(measured.nanoseconds / measured.operations);
}

// Finds a count that takes about `target` nanoseconds, which also warms everything up.
void calibrate(result& one, double target) {
    one.count = micro::batch;
    while (true) {
        const measurement measured = one.who->run(one.count);
        if (measured.nanoseconds > target / 2) return;
        one.count *= 2;
    }
}

void run_rounds(comparison& compared, unsigned rounds) {
    for (unsigned i = 0; i < rounds; ++i) {
        for (result& one : compared.results) round_of(one);
    }
}

comparison compare(const operation& what, const options& chosen) {
    comparison compared{what, contenders_for(what, chosen)};
    for (result& one : compared.results) calibrate(one, chosen.quick ? 5e6 : 20e6);
    const unsigned rounds = chosen.quick ? 11 : 31;
    run_rounds(compared, rounds);
    // A neighbour that ran during all rounds of one contender is no reason to fail.
    for (int again = 0; again < 3 && chosen.slack > 0 && !compared.within(chosen.slack); ++again) {
        run_rounds(compared, rounds);
    }
    return compared;
}

// Each contender sleeps in a fresh process, so that none inherits memory that another had touched.
void sleep_in_a_child(result& one) {
    int channel[2];
    if (::pipe(channel) != 0) std::abort();
    std::fflush(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
        const measurement measured = one.who->run(one.count);
        const bool sent = ::write(channel[1], &measured, sizeof measured) == sizeof measured;
        ::_exit(sent ? 0 : 1);
    }
    ::close(channel[1]);
    measurement measured;
    const bool received = ::read(channel[0], &measured, sizeof measured) == sizeof measured;
    ::close(channel[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    if (!received) {
        std::fprintf(stderr, "micro: %s failed to sleep\n", one.who->name.c_str());
        one.failed = true;
        return;
    }
    one.nanoseconds.push_back(measured.nanoseconds / measured.operations);
    one.bytes.push_back(measured.bytes / measured.operations);
}

comparison compare_sleeping(const options& chosen) {
    comparison compared{sleeping, contenders_for(sleeping, chosen)};
    const unsigned rounds = chosen.quick ? 1 : 5;
    for (result& one : compared.results) one.count = chosen.quick ? 100'000 : 1'000'000;
    for (unsigned i = 0; i < rounds; ++i) {
        for (result& one : compared.results) {
            if (!one.failed) sleep_in_a_child(one);
        }
    }
    return compared;
}

void print_table(const std::vector<comparison>& all) {
    std::printf("%-42s %-16s %9s %9s %8s\n", "CPU ns per operation", "", "min", "median",
                "/ bound");
    for (const comparison& compared : all) {
        const char* label = compared.what.meaning;
        const result* const bound = compared.named(micro::the_bound);
        for (const result& one : compared.results) {
            if (one.failed) continue;
            std::printf("%-42s %-16s %9.2f %9.2f", label, one.who->name.c_str(), one.best(),
                        one.median());
            label = "";
            if (bound != nullptr && &one != bound) {
                std::printf(" %8.2f", one.best() / bound->best());
            }
            if (!one.bytes.empty()) std::printf("  %.0f bytes per task", one.best_bytes());
            if (one.who->name == micro::ours) {
                std::printf("  (limit %.1f%s)", compared.what.limit,
                            one.bytes.empty() ? "" : ", 256 bytes");
            }
            std::printf("\n");
        }
    }
}

void print_json(const std::vector<comparison>& all, const options& chosen) {
    std::printf("{\"clock\": \"thread CPU time\", \"unit\": \"ns per operation\", "
                "\"compiler\": \"%s\", \"quick\": %s, \"operations\": [",
                __VERSION__, chosen.quick ? "true" : "false");
    const char* separator = "";
    for (const comparison& compared : all) {
        std::printf("%s\n  {\"name\": \"%s\", \"meaning\": \"%s\", \"limit\": %g, \"ratio\": %.3f, "
                    "\"median_ratio\": %.3f, \"contenders\": [",
                    separator, compared.what.name, compared.what.meaning, compared.what.limit,
                    compared.ratio(), compared.median_ratio());
        separator = ",";
        const char* inner = "";
        for (const result& one : compared.results) {
            if (one.failed) continue;
            std::printf(
                "%s\n    {\"name\": \"%s\", \"min\": %.3f, \"median\": %.3f, \"rounds\": %zu",
                inner, one.who->name.c_str(), one.best(), one.median(), one.nanoseconds.size());
            if (!one.bytes.empty()) std::printf(", \"bytes\": %.1f", one.best_bytes());
            std::printf("}");
            inner = ",";
        }
        std::printf("]}");
    }
    std::printf("\n]}\n");
}

bool report_excess(const std::vector<comparison>& all, double slack) {
    bool fine = true;
    for (const comparison& compared : all) {
        if (compared.named(micro::ours) == nullptr || compared.named(micro::the_bound) == nullptr) {
            std::fprintf(stderr, "micro: %s was not measured\n", compared.what.name);
            fine = false;
        } else if (!compared.within(slack)) {
            std::fprintf(stderr, "micro: %s costs %.2f times its bound (limit %.1f, slack %.1f)",
                         compared.what.name, compared.ratio(), compared.what.limit, slack);
            if (compared.bytes() > 0) std::fprintf(stderr, ", %.0f bytes", compared.bytes());
            std::fprintf(stderr, "\n");
            fine = false;
        }
    }
    return fine;
}

constexpr const char* usage =
    "usage: micro [--quick] [--json] [--check SLACK] [--only OPERATION] [--slow] [--no-peers]\n"
    "  --quick       fewer and shorter rounds (a second or two)\n"
    "  --json        for machines\n"
    "  --check N     exit 1 if asyncio.hpp costs more than N times what the table allows\n"
    "  --only NAME   one of: await fib spawn yield queue\n"
    "  --slow        also a million sleeping tasks (half a minute; with --quick 100 000)\n"
    "  --no-peers    only the bound and asyncio.hpp\n";

bool parse(int argc, char** argv, options& chosen) {
    for (int i = 1; i < argc; ++i) {
        const std::string_view word = argv[i];
        if (word == "--json") {
            chosen.json = true;
        } else if (word == "--quick") {
            chosen.quick = true;
        } else if (word == "--slow") {
            chosen.slow = true;
        } else if (word == "--no-peers") {
            chosen.peers = false;
        } else if (word == "--check" && i + 1 < argc) {
            char* end = nullptr;
            chosen.slack = std::strtod(argv[++i], &end);
            if (*end != '\0' || !(chosen.slack > 0)) return false;
        } else if (word == "--only" && i + 1 < argc) {
            chosen.only = argv[++i];
        } else {
            return false;
        }
    }
    return true;
}

} // namespace

int main(int argc, char** argv) {
    options chosen;
    if (!parse(argc, argv, chosen)) {
        std::fputs(usage, stderr);
        return 2;
    }
    std::vector<comparison> all;
    const auto wanted = [&](const operation& what) {
        return chosen.only.empty() || chosen.only == what.name;
    };
    // First, while this process is small and has freed nothing.
    std::vector<comparison> slow;
    if (chosen.slow && wanted(sleeping)) slow.push_back(compare_sleeping(chosen));
    for (const operation& what : operations) {
        if (wanted(what)) all.push_back(compare(what, chosen));
    }
    all.insert(all.end(), slow.begin(), slow.end());
    if (all.empty()) {
        std::fputs(usage, stderr);
        return 2;
    }
    if (chosen.json) {
        print_json(all, chosen);
    } else {
        print_table(all);
    }
    return chosen.slack > 0 && !report_excess(all, chosen.slack) ? 1 : 0;
}
