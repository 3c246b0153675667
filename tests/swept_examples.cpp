// The programs of a lesson of examples/, hit at every point as sweeping.hpp says. What runs is
// their own main(), up to run_main(): that hands over the coroutine instead of running it.
//
// Built once for each of the lessons 1 to 3, with LESSON.
#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC diagnostic ignored "-Wsubobject-linkage" // g++ takes the programs for headers
#endif

#include "sweeping.hpp"

// All that the programs include: they stand in namespaces below, and headers must not.
#include <algorithm>
#include <cstdio>
#include <ctime>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <map>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include <fcntl.h>
#include <unistd.h>

namespace {

std::optional<asyncio::coro<>> handed_over;

template <class Main>
asyncio::coro<> keep(Main main) {
    co_await std::move(main);
}

// Stands for run_main() and run(). The result says nothing: a program that was hit need not hold
// what it claims.
template <class Main>
asyncio::await_result_t<Main> hand_over(Main main, const asyncio::run_options& = {}) {
    handed_over.emplace(keep(std::move(main)));
    return {};
}

// What such a program was about to run.
asyncio::coro<> taken_from(int (*main)(int, char**), std::string option) {
    std::string name = "program";
    char* argv[] = {name.data(), option.data(), nullptr};
    main(2, argv);
    REQUIRE(handed_over.has_value());
    asyncio::coro<> taken = std::move(*handed_over);
    handed_over.reset();
    return taken;
}

// Standard output goes nowhere: each program runs thousands of times.
class silence {
public:
    silence() {
        std::fflush(stdout);
        const int nowhere = ::open("/dev/null", O_WRONLY | O_CLOEXEC);
        ::dup2(nowhere, STDOUT_FILENO);
        ::close(nowhere);
    }
    silence(const silence&) = delete;
    silence& operator=(const silence&) = delete;
    ~silence() {
        std::cout.flush();
        std::fflush(stdout);
        ::dup2(kept_, STDOUT_FILENO);
        ::close(kept_);
    }

private:
    int kept_ = ::fcntl(STDOUT_FILENO, F_DUPFD_CLOEXEC, 3);
};

void start_again() {} // a program that leaves something in global variables has its own

std::set<std::string> swept; // the programs below

void check_example(program what, rules r) {
    r.main_ends_all = true; // all of them are run by run_main()
    outcome_of_sweep result;
    {
        const silence here;
        result = sweep(what, r);
    }
    check(result, r);
}

} // namespace

namespace asyncio {
using ::hand_over;
} // namespace asyncio

// A program, with the option that makes it short, and its rules.
#define EXAMPLE(name, option, ...)                                                                 \
    static asyncio::coro<> play(stage& set) {                                                      \
        set.expects_reports = true;                                                                \
        start_again();                                                                             \
        return taken_from(example_main, option);                                                   \
    }                                                                                              \
    static const bool known = swept.insert(#name).second;                                          \
    TEST_CASE(#name) {                                                                             \
        CHECK(known);                                                                              \
        check_example(play, rules{__VA_ARGS__});                                                   \
    }

#define main example_main
#define run_main hand_over
#define sleep_for(time) get_id(), static_cast<void>(time) // to block would only take time

#if LESSON == 1

const char* const folder = "1_foundations";
const std::set<std::string> left_out = {"cpu_bound_blocks"}; // it computes

namespace api_aggregator {
#include "../examples/1_foundations/api_aggregator.cpp"
EXAMPLE(api_aggregator, "--virtual")
}
namespace blocking_discovery {
#include "../examples/1_foundations/blocking_discovery.cpp"
EXAMPLE(blocking_discovery, "--quick")
}
namespace common_mistakes {
#include "../examples/1_foundations/common_mistakes.cpp"
EXAMPLE(common_mistakes, "--quick")
}
namespace concurrent_fetch {
#include "../examples/1_foundations/concurrent_fetch.cpp"
EXAMPLE(concurrent_fetch, "--virtual")
}
namespace dashboard {
#include "../examples/1_foundations/dashboard.cpp"
EXAMPLE(dashboard, "--virtual")
}
namespace fetch_users {
#include "../examples/1_foundations/fetch_users.cpp"
EXAMPLE(fetch_users, "--virtual")
}
namespace five_latencies {
#include "../examples/1_foundations/five_latencies.cpp"
EXAMPLE(five_latencies, "--virtual")
}
namespace greet {
#define run hand_over
#include "../examples/1_foundations/greet.cpp"
#undef run
EXAMPLE(greet, "--virtual")
}
namespace inspect_tasks {
#include "../examples/1_foundations/inspect_tasks.cpp"
void start_again() {
    tasks.clear();
    unfinished.clear();
}
EXAMPLE(inspect_tasks, "--virtual")
}
namespace read_files {
#include "../examples/1_foundations/read_files.cpp"
EXAMPLE(read_files, "--virtual", .threads = true, .turn_step = 80, .victim_step = 60)
}
namespace sequential_trap {
#include "../examples/1_foundations/sequential_trap.cpp"
EXAMPLE(sequential_trap, "--virtual")
}
namespace service_fetcher {
#include "../examples/1_foundations/service_fetcher.cpp"
EXAMPLE(service_fetcher, "--virtual")
}
namespace sync_vs_async {
#include "../examples/1_foundations/sync_vs_async.cpp"
EXAMPLE(sync_vs_async, "--quick")
}

#elif LESSON == 2

const char* const folder = "2_concurrent_tasks";
const std::set<std::string> left_out = {};

namespace agent_coordinator {
#include "../examples/2_concurrent_tasks/agent_coordinator.cpp"
EXAMPLE(agent_coordinator, "--virtual")
}
namespace crawler {
#include "../examples/2_concurrent_tasks/crawler.cpp"
EXAMPLE(crawler, "--virtual", .turn_step = 600, .victim_step = 500)
}
namespace create_task {
#include "../examples/2_concurrent_tasks/create_task.cpp"
EXAMPLE(create_task, "--virtual")
}
namespace five_one_fails {
#include "../examples/2_concurrent_tasks/five_one_fails.cpp"
EXAMPLE(five_one_fails, "--virtual")
}
namespace gather_vs_group {
#include "../examples/2_concurrent_tasks/gather_vs_group.cpp"
EXAMPLE(gather_vs_group, "--virtual")
}
namespace gather_weather {
#include "../examples/2_concurrent_tasks/gather_weather.cpp"
EXAMPLE(gather_weather, "--virtual")
}
namespace group_fail_fast {
#include "../examples/2_concurrent_tasks/group_fail_fast.cpp"
EXAMPLE(group_fail_fast, "--virtual")
}
namespace group_or_gather {
#include "../examples/2_concurrent_tasks/group_or_gather.cpp"
EXAMPLE(group_or_gather, "--virtual")
}
namespace health_checker {
#include "../examples/2_concurrent_tasks/health_checker.cpp"
EXAMPLE(health_checker, "--virtual")
}
namespace partial_failures {
#include "../examples/2_concurrent_tasks/partial_failures.cpp"
EXAMPLE(partial_failures, "--virtual")
}
namespace sequential_vs_concurrent {
#include "../examples/2_concurrent_tasks/sequential_vs_concurrent.cpp"
EXAMPLE(sequential_vs_concurrent, "--virtual")
}
namespace task_coordinator {
#include "../examples/2_concurrent_tasks/task_coordinator.cpp"
EXAMPLE(task_coordinator, "--virtual")
}
namespace task_group_weather {
#include "../examples/2_concurrent_tasks/task_group_weather.cpp"
EXAMPLE(task_group_weather, "--virtual")
}
namespace task_patterns {
#include "../examples/2_concurrent_tasks/task_patterns.cpp"
EXAMPLE(task_patterns, "--virtual")
}

#elif LESSON == 3

const char* const folder = "3_advanced_patterns";
const std::set<std::string> left_out = {};

namespace blocking_the_loop {
#include "../examples/3_advanced_patterns/blocking_the_loop.cpp"
EXAMPLE(blocking_the_loop, "--quick")
}
namespace breaker_states {
#include "../examples/3_advanced_patterns/breaker_states.cpp"
EXAMPLE(breaker_states, "--virtual")
}
namespace cancellation {
#include "../examples/3_advanced_patterns/cancellation.cpp"
void start_again() { events.clear(); }
EXAMPLE(cancellation, "--virtual")
}
namespace circuit_breaker {
#include "../examples/3_advanced_patterns/circuit_breaker.cpp"
EXAMPLE(circuit_breaker, "--virtual")
}
namespace error_kinds {
#include "../examples/3_advanced_patterns/error_kinds.cpp"
EXAMPLE(error_kinds, "--virtual")
}
namespace flaky_70 {
#include "../examples/3_advanced_patterns/flaky_70.cpp"
EXAMPLE(flaky_70, "--virtual")
}
namespace future_monitor {
#include "../examples/3_advanced_patterns/future_monitor.cpp"
EXAMPLE(future_monitor, "--virtual")
}
namespace futures {
#include "../examples/3_advanced_patterns/futures.cpp"
EXAMPLE(futures, "--virtual")
}
namespace never_awaited {
#include "../examples/3_advanced_patterns/never_awaited.cpp"
EXAMPLE(never_awaited, "--virtual")
}
namespace one_of_three {
#include "../examples/3_advanced_patterns/one_of_three.cpp"
EXAMPLE(one_of_three, "--virtual")
}
namespace own_manager {
#include "../examples/3_advanced_patterns/own_manager.cpp"
void start_again() { events.clear(); }
EXAMPLE(own_manager, "--virtual")
}
namespace partial_sources {
#include "../examples/3_advanced_patterns/partial_sources.cpp"
EXAMPLE(partial_sources, "--virtual")
}
namespace request_tracing {
#include "../examples/3_advanced_patterns/request_tracing.cpp"
void start_again() { lines.clear(); }
EXAMPLE(request_tracing, "--virtual")
}
namespace resilient_fetcher {
#include "../examples/3_advanced_patterns/resilient_fetcher.cpp"
EXAMPLE(resilient_fetcher, "--virtual")
}
namespace resilient_gateway {
#include "../examples/3_advanced_patterns/resilient_gateway.cpp"
EXAMPLE(resilient_gateway, "--virtual")
}
namespace retry_backoff {
#include "../examples/3_advanced_patterns/retry_backoff.cpp"
EXAMPLE(retry_backoff, "--virtual")
}
namespace retry_timeouts {
#include "../examples/3_advanced_patterns/retry_timeouts.cpp"
EXAMPLE(retry_timeouts, "--virtual")
}
namespace timeout_basic {
#include "../examples/3_advanced_patterns/timeout_basic.cpp"
EXAMPLE(timeout_basic, "--virtual")
}
namespace timeout_discovery {
#include "../examples/3_advanced_patterns/timeout_discovery.cpp"
EXAMPLE(timeout_discovery, "--virtual")
}
namespace timeout_fallback {
#include "../examples/3_advanced_patterns/timeout_fallback.cpp"
EXAMPLE(timeout_fallback, "--virtual")
}

#endif

#undef main

TEST_CASE("all programs of the lesson are here") {
    std::set<std::string> there;
    for (const auto& file : std::filesystem::directory_iterator(
             std::filesystem::path(SOURCE_DIR) / "examples" / folder))
        there.insert(file.path().stem().string());
    swept.insert(left_out.begin(), left_out.end());
    CHECK(swept == there);
}
