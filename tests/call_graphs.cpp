// Introspection: print_call_graph() and print_tasks(), as IN-01 to IN-05 want them.
#include "support.hpp"

#include <algorithm>
#include <optional>
#include <regex>
#include <sstream>
#include <stdexcept>
#include <tuple>
#include <utility>

namespace {

using lines_type = std::vector<std::string>;

lines_type lines_of(const std::string& text) {
    lines_type lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
}

// Where these coroutines await: the lines that a graph must name.
int inner_at = 0;
int middle_at = 0;
int outer_at = 0;
int waits_at = 0;

asyncio::coro<> inner() {
    inner_at = __LINE__ + 1;
    co_await asyncio::sleep(1h);
}

asyncio::coro<> middle() {
    middle_at = __LINE__ + 1;
    co_await inner();
}

asyncio::coro<> outer() {
    outer_at = __LINE__ + 1;
    co_await middle();
}

asyncio::coro<> wait_for_task(asyncio::any_task awaited) {
    waits_at = __LINE__ + 1;
    co_await awaited;
}

// A graph with "function:line" for each coroutine, whatever the compiler calls it in full.
lines_type shape(const std::string& text) {
    static const std::regex place(
        R"((asyncio::coro<> )?[({]anonymous( namespace\)|\})::(\w+)(\(.*\))?)"
        R"(, .*\bcall_graphs\.cpp:(\d+)$)");
    lines_type lines = lines_of(text);
    for (std::string& line : lines) line = std::regex_replace(line, place, "$3:$5");
    return lines;
}

lines_type graph_of(const asyncio::any_task& task, std::optional<int> limit = {}) {
    std::ostringstream out;
    asyncio::print_call_graph(task, out, limit);
    return shape(out.str());
}

lines_type forest() {
    std::ostringstream out;
    asyncio::print_tasks(out);
    return shape(out.str());
}

std::string at(const char* function, int line) {
    return std::string(function) + ":" + std::to_string(line);
}

// The tasks that stand directly under "awaited by" of the graph's own task, sorted.
lines_type awaited_by(const asyncio::any_task& task) {
    lines_type names;
    for (const std::string& line : graph_of(task))
        if (line.compare(0, 12, "    * task '") == 0)
            names.push_back(line.substr(12, line.find('\'', 12) - 12));
    std::sort(names.begin(), names.end());
    return names;
}

// Cancels the tasks and waits for them.
asyncio::coro<> end_all(std::vector<asyncio::any_task> tasks) {
    for (const asyncio::any_task& task : tasks) task.cancel();
    if (!tasks.empty()) co_await asyncio::wait(tasks);
}

template <class... Tasks>
asyncio::coro<> end(Tasks... tasks) {
    return end_all(std::vector<asyncio::any_task>{tasks...});
}

// Prints the graph of the running task from within a coroutine of it.
asyncio::coro<> print_inside(std::string& before, std::string& after) {
    std::ostringstream first;
    asyncio::print_call_graph(first);
    before = first.str();
    inner_at = __LINE__ + 1;
    co_await asyncio::sleep(1s);
    std::ostringstream second;
    asyncio::print_call_graph(second);
    after = second.str();
}

asyncio::coro<> print_from(std::string& before, std::string& after) {
    outer_at = __LINE__ + 1;
    co_await print_inside(before, after);
}

} // namespace

TEST_SUITE("call graphs") {

ASYNC_TEST_CASE("IN-01: a graph has the coroutines of a task, and who awaits it, recursively") {
    const auto worker = asyncio::create_task(outer(), {.name = "worker"});
    CHECK(graph_of(worker) == lines_type{"* task 'worker', not started"});
    const auto boss = asyncio::create_task(wait_for_task(worker), {.name = "boss"});
    const auto owner = asyncio::create_task(wait_for_task(boss), {.name = "owner"});
    co_await support::turns(2);
    const std::string waits = "| " + at("wait_for_task", waits_at);
    CHECK(graph_of(worker) ==
          lines_type{"* task 'worker'", "  awaits in", "  | " + at("outer", outer_at),
                     "  | " + at("middle", middle_at), "  | " + at("inner", inner_at),
                     "  awaited by", "    * task 'boss'", "      awaits in", "      " + waits,
                     "      awaited by", "        * task 'owner'", "          awaits in",
                     "          " + waits});
    CHECK(graph_of(owner) == lines_type{"* task 'owner'", "  awaits in", "  " + waits});
    const auto witness = asyncio::create_task(wait_for_task(worker), {.name = "witness"});
    co_await support::turns(2);
    CHECK(awaited_by(worker) == lines_type{"boss", "witness"});
    CHECK(awaited_by(boss) == lines_type{"owner"});
    co_await end(worker, boss, owner, witness);
    CHECK(graph_of(worker) == lines_type{"* task 'worker', done"});
}

// How a task can wait for another one.
struct way_to_wait {
    std::string name;
    std::function<asyncio::coro<>(asyncio::task<>)> wait;
    bool passes_on; // a cancellation of who waits goes on to what is awaited
};

std::vector<way_to_wait> ways_to_wait() {
    using task = asyncio::task<>;
    return {
        {"plainly", [](task t) -> asyncio::coro<> { co_await t; }, true},
        {"a coroutine within", [](task t) -> asyncio::coro<> { co_await wait_for_task(t); }, true},
        {"gather", [](task t) -> asyncio::coro<> { co_await asyncio::gather(t, inner()); }, true},
        {"a gather of a gather",
         [](task t) -> asyncio::coro<> {
             co_await asyncio::gather(asyncio::return_exceptions, asyncio::gather(t));
         },
         true},
        {"wait",
         [](task t) -> asyncio::coro<> {
             const std::vector<task> all{t};
             co_await asyncio::wait(all, {.timeout = 10h});
         },
         false},
        {"as_completed",
         [](task t) -> asyncio::coro<> {
             auto ends = asyncio::as_completed(t);
             co_await ends.next();
         },
         false},
        {"shield", [](task t) -> asyncio::coro<> { co_await asyncio::shield(t); }, false},
        {"wait_for", [](task t) -> asyncio::coro<> { co_await asyncio::wait_for(t, 10h); }, true},
        {"wait_for with a shield",
         [](task t) -> asyncio::coro<> { co_await asyncio::wait_for(asyncio::shield(t), 10h); },
         false},
        {"a task group's end",
         [](task t) -> asyncio::coro<> {
             co_await asyncio::with(asyncio::task_group(),
                                    [&](asyncio::task_group& tg) { tg.create_task(t); });
         },
         true},
    };
}

ASYNC_TEST_CASE("IN-02: who waits for a task is listed, until the waiting ends in whatever way") {
    enum class ending { result, error, cancellation, of_who_waits };
    const auto reports = support::collect_reports();
    for (const way_to_wait& way : ways_to_wait()) {
        CAPTURE(way.name);
        for (const ending how :
             {ending::result, ending::error, ending::cancellation, ending::of_who_waits}) {
            CAPTURE(static_cast<int>(how));
            auto go = asyncio::create_future<void>();
            const auto target = asyncio::create_task([go]() -> asyncio::coro<> { co_await go; },
                                                     {.name = "target"});
            const auto waiter = asyncio::create_task(way.wait(target), {.name = "waiter"});
            const auto other = asyncio::create_task(wait_for_task(target), {.name = "other"});
            CHECK(awaited_by(target).empty());
            co_await support::turns(2);
            CHECK(awaited_by(target) == lines_type{"other", "waiter"});

            lines_type left;
            if (how == ending::result) go.set_result();
            else if (how == ending::error) go.set_exception(std::runtime_error("no luck"));
            else if (how == ending::cancellation) target.cancel();
            else waiter.cancel();
            if (how == ending::of_who_waits && !way.passes_on) left = {"other"};
            co_await support::turns(3);
            CHECK(awaited_by(target) == left);
            CHECK(target.done() == left.empty());
            co_await end(target, waiter, other);
            if (how == ending::error) CHECK(support::message_of(target.exception()) == "no luck");
            for (const auto& task : {waiter, other})
                if (!task.cancelled()) static_cast<void>(task.exception());
            std::vector<asyncio::any_task> rest = asyncio::all_tasks();
            std::erase(rest, asyncio::current_task());
            co_await end_all(rest); // the other child of a gather()
            CHECK(reports->empty());
            reports->clear();
        }
    }
}

ASYNC_TEST_CASE(
    "IN-03: within a running task its own graph is printed, up to its first coroutine") {
    std::string before;
    std::string after;
    const auto task = asyncio::create_task(print_from(before, after), {.name = "self"});
    co_await support::turns(2);
    const auto boss = asyncio::create_task(wait_for_task(task), {.name = "boss"});
    co_await asyncio::sleep(2s);
    CHECK(boss.done());
    // What has never been suspended is known by its outermost coroutine only.
    const lines_type head{"* task 'self', running", "  awaits in",
                          "  | " + at("print_from", outer_at)};
    CHECK(shape(before) == head);
    lines_type whole = head;
    whole.push_back("  | " + at("print_inside", inner_at));
    whole.insert(whole.end(), {"  awaited by", "    * task 'boss'", "      awaits in",
                               "      | " + at("wait_for_task", waits_at)});
    CHECK(shape(after) == whole);
}

ASYNC_TEST_CASE("IN-03: a plain callback has no graph") {
    std::ostringstream out;
    bool called = false;
    asyncio::get_running_loop().call_soon([&] {
        asyncio::print_call_graph(out);
        called = true;
    });
    co_await support::turns(2);
    CHECK(called);
    CHECK(out.str().empty());
}

TEST_CASE("IN-03: outside any loop there is nothing to print, and that is an error") {
    std::ostringstream out;
    CHECK_THROWS_AS(asyncio::print_call_graph(out), std::runtime_error);
    CHECK_THROWS_AS(asyncio::print_tasks(out), std::runtime_error);
    CHECK(out.str().empty());
}

ASYNC_TEST_CASE("IN-04: a limit keeps the outermost or the innermost coroutines, 0 none") {
    const auto worker = asyncio::create_task(outer(), {.name = "worker"});
    const auto boss = asyncio::create_task(wait_for_task(worker), {.name = "boss"});
    co_await support::turns(2);
    const lines_type stack{"  | " + at("outer", outer_at), "  | " + at("middle", middle_at),
                           "  | " + at("inner", inner_at)};
    for (const auto& [limit, first, last] : {std::tuple{1, 0, 1},
                                             {2, 0, 2},
                                             {3, 0, 3},
                                             {100, 0, 3},
                                             {-1, 2, 3},
                                             {-2, 1, 3},
                                             {-3, 0, 3},
                                             {-100, 0, 3}}) {
        CAPTURE(limit);
        lines_type expected{"* task 'worker'", "  awaits in"};
        expected.insert(expected.end(), stack.begin() + first, stack.begin() + last);
        expected.insert(expected.end(), {"  awaited by", "    * task 'boss'", "      awaits in",
                                         "      | " + at("wait_for_task", waits_at)});
        CHECK(graph_of(worker, limit) == expected);
    }
    CHECK(graph_of(worker, 0) ==
          lines_type{"* task 'worker'", "  awaited by", "    * task 'boss'"});
    co_await end(worker, boss);
}

ASYNC_TEST_CASE("IN-05: the tree of tasks begins with those that nobody awaits") {
    asyncio::current_task().set_name("main");
    const auto shared = asyncio::create_task(outer(), {.name = "shared"});
    const auto left = asyncio::create_task(wait_for_task(shared), {.name = "left"});
    const auto right = asyncio::create_task(wait_for_task(shared), {.name = "right"});
    const auto top = asyncio::create_task(
        [&]() -> asyncio::coro<> { co_await asyncio::gather(left, right); }, {.name = "top"});
    const auto alone = asyncio::create_task(inner(), {.name = "alone"});
    co_await support::turns(2);
    const std::string waits = at("wait_for_task", waits_at);
    const lines_type tree = forest();
    const auto top_at = std::find(tree.begin(), tree.end(), "task 'top'");
    REQUIRE(tree.end() - top_at == 16);
    // The first line below a task is where it stands; those of main and of the lambda, which
    // each compiler names in its own way, are left out.
    CHECK(tree.front() == "task 'main'");
    CHECK(lines_type(top_at + 2, tree.end()) ==
          lines_type{
              "  |-- task 'left'", "  |     " + waits, "  |     `-- task 'shared'",
              "  |           " + at("outer", outer_at), "  |           " + at("middle", middle_at),
              "  |           " + at("inner", inner_at), "  `-- task 'right'", "        " + waits,
              "        `-- task 'shared'", "              " + at("outer", outer_at),
              "              " + at("middle", middle_at), "              " + at("inner", inner_at),
              "task 'alone'", "  " + at("inner", inner_at)});
    co_await end(shared, left, right, top, alone);
}

ASYNC_TEST_CASE(
    "IN-05: tasks that wait for each other in a circle are named, not followed for ever") {
    enum class link { plain, gather, shield };
    for (const link how : {link::plain, link::gather, link::shield}) {
        CAPTURE(static_cast<int>(how));
        asyncio::task<> first;
        const auto close_circle = [&first, how]() -> asyncio::coro<> {
            co_await asyncio::sleep(0s);
            if (how == link::plain) co_await first;
            if (how == link::gather) co_await asyncio::gather(first);
            if (how == link::shield) co_await asyncio::shield(first);
        };
        const auto third = asyncio::create_task(close_circle, {.name = "third"});
        const auto second = asyncio::create_task(wait_for_task(third), {.name = "second"});
        first = asyncio::create_task(wait_for_task(second), {.name = "first"});
        const auto outside = asyncio::create_task(wait_for_task(first), {.name = "outside"});
        co_await support::turns(3);
        std::ostringstream tree;
        std::string message;
        try {
            asyncio::print_tasks(tree);
        } catch (const std::runtime_error& error) {
            message = error.what();
        }
        CHECK(tree.str().empty());
        CAPTURE(message);
        // The circle begins with the oldest of its tasks.
        CHECK(message.find("circle: 'third' -> 'first' -> 'second' -> 'third'") !=
              std::string::npos);
        CHECK(message.find("outside") == std::string::npos);
        // A single graph marks where it closes.
        const lines_type graph = graph_of(third, 0);
        CHECK(std::count(graph.begin(), graph.end(),
                         "            * task 'third', see above: a circle") == 1);
        CHECK(graph.size() < 12);
        // And all of it can be cancelled.
        co_await end(outside);
        for (const auto& task : {first, second, third}) CHECK(task.cancelled());
    }
}

ASYNC_TEST_CASE("IN-05: a task that waits for itself through a future is a circle of one") {
    for (const bool shielded : {true, false}) {
        CAPTURE(shielded);
        asyncio::task<> self;
        self = asyncio::create_task(
            [&self, shielded]() -> asyncio::coro<> {
                co_await asyncio::sleep(0s);
                if (shielded) co_await asyncio::shield(self);
                else co_await asyncio::gather(self, self);
            },
            {.name = "self"});
        co_await support::turns(3);
        std::ostringstream tree;
        CHECK_THROWS_WITH_AS(asyncio::print_tasks(tree),
                             doctest::Contains("circle: 'self' -> 'self'"), std::runtime_error);
        CHECK(awaited_by(self) == lines_type{"self"});
        co_await end(self);
        CHECK(self.cancelled());
    }
}

} // TEST_SUITE
