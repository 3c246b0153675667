// What a test program has on every system, and without one: the watchdog, how test cases run, and
// what errors say. Included once, by implementation.cpp or by implementation_without_system.cpp.
#ifndef ASYNCIO_TESTS_CASES_HPP
#define ASYNCIO_TESTS_CASES_HPP

#include "support.hpp"

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <optional>

namespace {

char running_test[256] = "(no test)";
int shuffled_cases = 0; // whose loops have run what is ready in the order of ASYNCIO_TEST_SHUFFLE

unsigned test_seconds() {
    const char* const text = std::getenv("ASYNCIO_TEST_TIMEOUT");
    const int seconds = text != nullptr ? std::atoi(text) : 0;
    return seconds > 0 ? static_cast<unsigned>(seconds) : 60U;
}

// Ends a test that takes longer, and says its name; 0: none does. Each system has its own.
void set_alarm(unsigned seconds);

struct watchdog : doctest::IReporter {
    explicit watchdog(const doctest::ContextOptions&) {}

    void test_case_start(const doctest::TestCaseData& test) override {
        std::snprintf(running_test, sizeof running_test, "%s", test.m_name);
        set_alarm(test_seconds());
    }
    void test_case_reenter(const doctest::TestCaseData&) override { set_alarm(test_seconds()); }
    void test_case_end(const doctest::CurrentTestCaseStats&) override { set_alarm(0); }

    void report_query(const doctest::QueryData&) override {}
    void test_run_start() override {}
    void test_run_end(const doctest::TestRunStats&) override {
        std::snprintf(running_test, sizeof running_test, "(the end of the program)");
        set_alarm(test_seconds());
    }
    void test_case_exception(const doctest::TestCaseException&) override {}
    void subcase_start(const doctest::SubcaseSignature&) override {}
    void subcase_end() override {}
    void log_assert(const doctest::AssertData&) override {}
    void log_message(const doctest::MessageData&) override {}
    void test_case_skipped(const doctest::TestCaseData&) override {}
};

} // namespace

REGISTER_LISTENER("watchdog", 1, watchdog);

#if !defined(ASYNCIO_NO_EXCEPTIONS)

namespace {

doctest::String as_text(const char* kind, const char* what) {
    return doctest::String(kind) + ": " + what;
}

} // namespace

// These are no std::exceptions, so doctest has to be told how to print them.
REGISTER_EXCEPTION_TRANSLATOR(const asyncio::cancelled_error& error) {
    return as_text("asyncio::cancelled_error", error.what());
}
REGISTER_EXCEPTION_TRANSLATOR(const asyncio::keyboard_interrupt& error) {
    return as_text("asyncio::keyboard_interrupt", error.what());
}
REGISTER_EXCEPTION_TRANSLATOR(const asyncio::base_exception_group& group) {
    return as_text("asyncio::base_exception_group", group.what());
}

#endif

namespace support {

namespace {

#if defined(ASYNCIO_NO_EXCEPTIONS)

asyncio::coro<> watched(asyncio::coro<> (*body)(), std::vector<asyncio::any_task>* left) {
    const asyncio::outcome<void> ended = co_await asyncio::as_outcome(body());
    *left = asyncio::all_tasks();
    const std::string error = ended ? "" : ended.error().what();
    CHECK_MESSAGE(ended.has_value(), "the test's body failed: ", error);
}

#else

asyncio::coro<> watched(asyncio::coro<> (*body)(), std::vector<asyncio::any_task>* left) {
    std::exception_ptr error;
    try {
        co_await body();
    } catch (...) {
        error = std::current_exception();
    }
    *left = asyncio::all_tasks();
    if (error) std::rethrow_exception(error);
}

#endif

// ASYNCIO_TEST_SHUFFLE, if it is there.
std::optional<std::uint64_t> shuffle_seed() {
    const char* const text = std::getenv("ASYNCIO_TEST_SHUFFLE");
    if (text == nullptr || *text == '\0') return {};
    return std::strtoull(text, nullptr, 10);
}

} // namespace

doctest::skip asserts_order() { return doctest::skip(shuffle_seed().has_value()); }

void run_case(asyncio::coro<> (*body)(), asyncio::run_options options) {
    if (!options.shuffle_seed) {
        options.shuffle_seed = shuffle_seed();
        shuffled_cases += options.shuffle_seed ? 1 : 0;
    }
#if defined(ASYNCIO_BACKEND_NONE)
    options.clock = asyncio::clock_kind::real; // the port's, which moves as the virtual one does
#endif
    std::vector<asyncio::any_task> left;
#if defined(ASYNCIO_NO_EXCEPTIONS)
    asyncio::run(watched(body, &left), options);
#else
    std::exception_ptr error;
    try {
        asyncio::run(watched(body, &left), options);
    } catch (...) {
        error = std::current_exception();
    }
#endif
    for (const asyncio::any_task& task : left)
        CHECK_MESSAGE(task.done(), "run() left a task pending: ", task.get_name());
#if !defined(ASYNCIO_NO_EXCEPTIONS)
    if (error) std::rethrow_exception(error);
#endif
}

asyncio::coro<> turns(int count) {
    for (int i = 0; i < count; ++i) co_await asyncio::sleep(0s);
}

#if defined(ASYNCIO_NO_EXCEPTIONS)

std::string message_of(asyncio::exception_ptr error) {
    if (!error) return {};
    if (const auto* group = asyncio::detail::exception_cast<asyncio::base_exception_group>(error))
        return group->message();
    return asyncio::error(error).what();
}

std::vector<std::string> leaf_messages(asyncio::exception_ptr error) {
    const auto* group = asyncio::detail::exception_cast<asyncio::base_exception_group>(error);
    if (group == nullptr) return {message_of(error)};
    std::vector<std::string> leaves;
    for (const asyncio::exception_ptr& inner : group->exceptions()) {
        const std::vector<std::string> more = leaf_messages(inner);
        leaves.insert(leaves.end(), more.begin(), more.end());
    }
    return leaves;
}

#else

std::string message_of(std::exception_ptr error) {
    if (!error) return {};
    try {
        std::rethrow_exception(error);
    } catch (const asyncio::base_exception_group& group) {
        return group.message();
    } catch (const asyncio::cancelled_error& e) {
        return e.what();
    } catch (const asyncio::keyboard_interrupt& e) {
        return e.what();
    } catch (const std::exception& e) {
        return e.what();
    } catch (const std::string& text) {
        return text;
    } catch (const char* text) {
        return text;
    } catch (int number) {
        return std::to_string(number);
    } catch (...) {
        return "(an exception of unknown type)";
    }
}

std::vector<std::string> leaf_messages(std::exception_ptr error) {
    try {
        std::rethrow_exception(error);
    } catch (const asyncio::base_exception_group& group) {
        std::vector<std::string> leaves;
        for (const std::exception_ptr& inner : group.exceptions()) {
            const std::vector<std::string> more = leaf_messages(inner);
            leaves.insert(leaves.end(), more.begin(), more.end());
        }
        return leaves;
    } catch (...) {
        return {message_of(error)};
    }
}

#endif

std::shared_ptr<std::vector<asyncio::exception_context>> collect_reports(
    asyncio::event_loop& loop) {
    auto reports = std::make_shared<std::vector<asyncio::exception_context>>();
    loop.set_exception_handler(
        [reports](asyncio::event_loop&, const asyncio::exception_context& context) {
            reports->push_back(context);
        });
    return reports;
}

} // namespace support

#endif
