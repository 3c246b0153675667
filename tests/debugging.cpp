#include "support.hpp"
#include "system.hpp"

#include <algorithm>
#include <cstdlib>
#include <future>
#include <sstream>
#include <stdexcept>
#include <string_view>
#include <thread>
#include <utility>

namespace {

using lines_type = std::vector<std::string>;

std::string timeline(const asyncio::tracer& trace, std::size_t width = 20) {
    std::ostringstream out;
    trace.print_timeline(out, width);
    return out.str();
}

std::string chrome_trace(const asyncio::tracer& trace) {
    std::ostringstream out;
    trace.write_chrome_trace(out);
    return out.str();
}

lines_type lines_of(const std::string& text) {
    lines_type lines;
    std::istringstream in(text);
    for (std::string line; std::getline(in, line);) lines.push_back(line);
    return lines;
}

// The bar between the two '|' of the row that begins with `name`.
std::string bar_of(const std::string& text, std::string_view name) {
    for (const std::string& line : lines_of(text)) {
        if (line.compare(0, name.size(), name) != 0) continue;
        const std::size_t begin = line.find('|');
        return line.substr(begin + 1, line.rfind('|') - begin - 1);
    }
    return "(no such row)";
}

// Evaluates a Python expression about a JSON text, `t`, which Python's own parser has read;
// `e` is its list of events.
std::string ask_python(const std::string& json, const std::string& expression) {
    const support::scratch folder;
    support::put(folder / "trace.json", json);
    support::put(folder / "ask.py",
                 "import json, sys\n"
                 "t = json.load(open(sys.argv[1], encoding='utf-8'))\n"
                 "e = t['traceEvents']\n"
                 "def named(name, ph='X'):\n"
                 "    return [x for x in e if x['name'] == name and x['ph'] == ph]\n"
                 "print(" +
                     expression + ", end='', file=open(sys.argv[2], 'w', encoding='utf-8'))\n");
    const std::string command = "python3 " + folder / "ask.py" + " " + folder / "trace.json" +
                                " " + folder / "answer" + " 2> " + folder / "error";
    const int status = std::system(command.c_str());
    return support::get(folder / (status == 0 ? "answer" : "error"));
}

bool python_is_there() {
#if defined(_WIN32)
    static const bool there = false; // Wine's shell finds this system's, and cannot start it
#else
    static const bool there = std::system("python3 -c 'import json' > /dev/null 2>&1") == 0;
#endif
    if (!there) MESSAGE("python3 is not there: the trace is not read back");
    return there;
}

asyncio::coro<> sleep_for(asyncio::duration delay) { co_await asyncio::sleep(delay); }

asyncio::coro<> fail_after(asyncio::duration delay) {
    co_await asyncio::sleep(delay);
    throw std::runtime_error("no luck");
}

// Ten seconds with one task of each kind.
asyncio::coro<> scene(asyncio::tracer& trace) {
    auto early = asyncio::create_task(sleep_for(5s), {.name = "early"});
    auto failing = asyncio::create_task(fail_after(2s), {.name = "failing"});
    auto cancelled = asyncio::create_task(sleep_for(1h), {.name = "cancelled"});
    co_await asyncio::sleep(5s);
    trace.mark("half");
    auto late = asyncio::create_task(sleep_for(1h), {.name = "late"});
    co_await asyncio::sleep(2500ms);
    cancelled.cancel();
    co_await asyncio::sleep(2500ms);
    co_await asyncio::wait(early, failing, cancelled);
    CHECK(support::message_of(failing.exception()) == "no luck");
}

asyncio::coro<> end_late_tasks() {
    for (const asyncio::any_task& task : asyncio::all_tasks())
        if (task.get_name() == "late") {
            task.cancel();
            const std::vector<asyncio::any_task> only{task};
            co_await asyncio::wait(only);
        }
}

} // namespace

TEST_SUITE("tracer") {

ASYNC_TEST_CASE("the timeline draws each task from its begin to its end, and how it ended") {
    asyncio::tracer trace(asyncio::get_running_loop());
    co_await scene(trace);
    const std::string text = timeline(trace);
    CAPTURE(text);
    const lines_type rows = lines_of(text);
    CHECK(rows.at(0) == "time      |0           10.000 s|");
    //                            01234567890123456789
    CHECK(bar_of(text, "early") == "===========         ");
    CHECK(bar_of(text, "failing") == "====!               ");
    CHECK(bar_of(text, "cancelled") == "===============x    ");
    CHECK(bar_of(text, "late") == "          ==========");
    CHECK(bar_of(text, " ") == "          ^         ");
    CHECK(rows.back() == "          |          ^         | half");
    CHECK(text.find("| 0.000-2.000 s\n") != std::string::npos);
    CHECK(text.find("| 5.000-10.000 s\n") != std::string::npos);
    for (const std::string& row : rows) CHECK(std::count(row.begin(), row.end(), '|') == 2);
    co_await end_late_tasks();
}

ASYNC_TEST_CASE("tasks stand in the order of their begin, those from before the tracer first") {
    auto before = asyncio::create_task(sleep_for(2s), {.name = "before"});
    co_await asyncio::sleep(1s);
    asyncio::tracer trace(asyncio::get_running_loop());
    auto first = asyncio::create_task(sleep_for(1s), {.name = "first"});
    auto second = asyncio::create_task(sleep_for(1s), {.name = "second", .eager_start = true});
    auto third = asyncio::create_task(sleep_for(1s));
    third.set_name("third");
    co_await asyncio::wait(before, first, second, third);
    const std::string text = timeline(trace);
    CAPTURE(text);
    std::size_t place = 0;
    for (const char* name : {"\nbefore", "\nfirst", "\nsecond", "\nthird"}) {
        place = text.find(name, place);
        CHECK(place != std::string::npos);
    }
    CHECK(bar_of(text, "before") == "====================");
}

ASYNC_TEST_CASE("a task that lives has the name that it was given last") {
    asyncio::tracer trace(asyncio::get_running_loop());
    auto task = asyncio::create_task(sleep_for(1h), {.name = "first"});
    co_await asyncio::sleep(1s);
    task.set_name("second");
    CHECK(bar_of(timeline(trace), "second") == "====================");
    std::ostringstream json;
    trace.write_chrome_trace(json);
    CHECK(json.str().find("second") != std::string::npos);
    CHECK(json.str().find("first") == std::string::npos);
    task.cancel();
}

ASYNC_TEST_CASE("the width is the caller's, but at least ten; long names and lists are cut") {
    asyncio::tracer trace(asyncio::get_running_loop());
    std::vector<asyncio::task<>> tasks;
    const std::string name(100, 'n');
    for (int i = 0; i < 60; ++i)
        tasks.push_back(asyncio::create_task(sleep_for(1s), {.name = name}));
    co_await asyncio::wait(tasks);
    for (const std::size_t width : {0U, 10U, 60U, 200U}) {
        const std::string text = timeline(trace, width);
        const lines_type rows = lines_of(text);
        CHECK(bar_of(text, "nnn").size() == std::max<std::size_t>(width, 10));
        CHECK(bar_of(text, "time").size() == std::max<std::size_t>(width, 10));
        CHECK(rows.size() == 1 + 40 + 1);
        CHECK(rows.back() == "... and 21 more tasks");
    }
    CHECK(timeline(trace).find(std::string(25, 'n')) == std::string::npos);
}

ASYNC_TEST_CASE("a tracer that has seen no time passing prints as well") {
    asyncio::tracer trace(asyncio::get_running_loop());
    trace.mark("now");
    const lines_type rows = lines_of(timeline(trace));
    CHECK(rows.size() == 3);
    CHECK_FALSE(chrome_trace(trace).empty());
    co_return;
}

ASYNC_TEST_CASE("the Chrome trace is JSON with a span for each task, and its state") {
    if (!python_is_there()) co_return;
    asyncio::tracer trace(asyncio::get_running_loop());
    co_await scene(trace);
    const std::string json = chrome_trace(trace);
    CAPTURE(json);
    CHECK(ask_python(json, "t['displayTimeUnit']") == "ms");
    CHECK(ask_python(json, "[(x['ts'], x['dur'], x['args']['state']) for x in named('early')]") ==
          "[(0.0, 5000000.0, 'finished')]");
    CHECK(ask_python(json, "[(x['ts'], x['dur'], x['args']['state']) for x in named('failing')]") ==
          "[(0.0, 2000000.0, 'failed')]");
    CHECK(
        ask_python(json, "[(x['ts'], x['dur'], x['args']['state']) for x in named('cancelled')]") ==
        "[(0.0, 7500000.0, 'cancelled')]");
    CHECK(ask_python(json, "[(x['ts'], x['dur'], x['args']['state']) for x in named('late')]") ==
          "[(5000000.0, 5000000.0, 'running')]");
    CHECK(ask_python(json, "[x['ts'] for x in named('half', 'i')]") == "[5000000.0]");
    // Each task is a thread with its name.
    CHECK(ask_python(json, "len({x['tid'] for x in e if x['ph'] == 'X'}) == "
                           "len([x for x in e if x['ph'] == 'X'])") == "True");
    CHECK(ask_python(json, "{x['tid']: x['name'] for x in e if x['ph'] == 'X'} == "
                           "{x['tid']: x['args']['name'] for x in e if x['name'] == "
                           "'thread_name'}") == "True");
    // And stands where it was made, not where its name would put it.
    CHECK(ask_python(json, "sorted(x['args']['sort_index'] for x in e if x['name'] == "
                           "'thread_sort_index' and x['tid'] == x['args']['sort_index']) == "
                           "sorted({x['tid'] for x in e if x['ph'] == 'X'})") == "True");
    CHECK(ask_python(json, "[x['args']['name'] for x in e if x['name'] == 'process_name']") ==
          "['asyncio']");
    co_await end_late_tasks();
}

ASYNC_TEST_CASE("names and marks with quotes, backslashes, controls and UTF-8 stay what they are") {
    if (!python_is_there()) co_return;
    asyncio::tracer trace(asyncio::get_running_loop());
    const std::string odd =
        "a \"quoted\" \\ back\nslash\t\x01\x1f\x7f gr\xc3\xbc\xc3\x9f \xf0\x9f\x90\x8d";
    auto task = asyncio::create_task(sleep_for(1s), {.name = odd});
    co_await task;
    trace.mark(odd);
    const std::string json = chrome_trace(trace);
    const std::string same =
        R"(== 'a "quoted" \\ back\nslash\t\x01\x1f\x7f gr\u00fc\u00df \U0001F40D')";
    CHECK(ask_python(json, "[x['name'] " + same + " for x in e if x['ph'] == 'X'].count(True)") ==
          "1");
    CHECK(ask_python(json, "[x['name'] " + same + " for x in e if x['ph'] == 'i']") == "[True]");
    const std::string text = timeline(trace);
    CHECK(lines_of(text).size() == 4); // a line break in a name makes no new row
}

ASYNC_TEST_CASE("names that are no UTF-8 do not spoil the JSON") {
    if (!python_is_there()) co_return;
    asyncio::tracer trace(asyncio::get_running_loop());
    for (const char* text :
         {"\xff", "\xc3", "a\xc3(", "\xe2\x82", "\xed\xa0\x80", "\xf8\x88\x80\x80\x80", "\xc0\x80",
          "\xf4\x90\x80\x80", "\x80tail", "\xe2\x82\xac"})
        trace.mark(text);
    CHECK(ask_python(chrome_trace(trace), "len([x for x in e if x['ph'] == 'i'])") == "10");
    CHECK(ask_python(chrome_trace(trace),
                     "[x['name'] == '\\u20ac' for x in e if x['ph'] == 'i'][-1]") == "True");
    co_return;
}

ASYNC_TEST_CASE_REAL("jobs that a task awaits are drawn in its row, and are in the trace") {
    asyncio::tracer trace(asyncio::get_running_loop());
    auto work = asyncio::create_task(
        []() -> asyncio::coro<> { co_await asyncio::to_thread([] {}); }, {.name = "worker"});
    co_await work;
    const std::string bar = bar_of(timeline(trace), "worker");
    CAPTURE(bar);
    CHECK(bar.find('#') != std::string::npos);
    if (!python_is_there()) co_return;
    const std::string json = chrome_trace(trace);
    CAPTURE(json);
    CHECK(ask_python(json, "[len(named('job', 'b')), len(named('job', 'e'))]") == "[1, 1]");
    CHECK(ask_python(json, "(lambda b, e, w: b['id'] == e['id'] and b['tid'] == w['tid'] and "
                           "w['ts'] <= b['ts'] <= e['ts'] <= w['ts'] + w['dur'])"
                           "(named('job', 'b')[0], named('job', 'e')[0], named('worker')[0])") ==
          "True");
}

ASYNC_TEST_CASE_REAL("a job that is older than the tracer begins with it") {
    std::promise<void> begun;
    std::promise<void> may_end;
    auto work = asyncio::create_task(
        [&]() -> asyncio::coro<> {
            co_await asyncio::to_thread([&] {
                begun.set_value();
                may_end.get_future().wait();
            });
        },
        {.name = "worker"});
    {
        // A job is traced when it is submitted under a tracer, and ends under one.
        const asyncio::tracer earlier(asyncio::get_running_loop());
        co_await support::turns(2);
        begun.get_future().wait();
    }
    asyncio::tracer trace(asyncio::get_running_loop());
    may_end.set_value();
    co_await work;
    if (!python_is_there()) co_return;
    const std::string json = chrome_trace(trace);
    CAPTURE(json);
    CHECK(ask_python(json, "[x['ts'] for x in named('job', 'b')]") == "[0.0]");
}

ASYNC_TEST_CASE("short spans keep their nanoseconds") {
    if (!python_is_there()) co_return;
    asyncio::tracer trace(asyncio::get_running_loop());
    auto task = asyncio::create_task(sleep_for(1234567ns), {.name = "short"});
    co_await task;
    CHECK(ask_python(chrome_trace(trace), "[x['dur'] for x in named('short')]") == "[1234.567]");
}

ASYNC_TEST_CASE("a loop has one tracer at a time; when it goes the next may come") {
    asyncio::event_loop& loop = asyncio::get_running_loop();
    {
        const asyncio::tracer trace(loop);
        CHECK_THROWS_AS(asyncio::tracer{loop}, std::runtime_error);
    }
    const asyncio::tracer again(loop);
    co_return;
}

TEST_CASE("a tracer may outlive its loop, and shows what was destroyed with it") {
    std::unique_ptr<asyncio::tracer> trace;
    {
        asyncio::event_loop loop({.clock = asyncio::clock_kind::manual});
        trace = std::make_unique<asyncio::tracer>(loop);
        loop.create_task(sleep_for(1h), {.name = "pending"});
        loop.run_once();
        loop.advance(1s);
    }
    CHECK(bar_of(timeline(*trace), "pending") == "===================x");
    if (python_is_there())
        CHECK(ask_python(chrome_trace(*trace),
                         "[x['args']['state'] for x in named('pending')]") == "['cancelled']");
}

} // TEST_SUITE

namespace traps {

asyncio::coro<int> by_value(int n) {
    co_await asyncio::sleep(1ms);
    co_return n;
}

asyncio::coro<int> by_reference(const int& n) {
    co_await asyncio::sleep(1ms);
    co_return n;
}

asyncio::coro<int> second_by_reference(int n, std::pair<int, std::vector<int>>&& more) {
    co_await asyncio::sleep(1ms);
    co_return n + more.first;
}

template <class T>
asyncio::coro<T> generic(T a, T& b) {
    co_await asyncio::sleep(1ms);
    co_return a + b;
}

struct forward_declared;
asyncio::coro<int> by_forward_declared(const forward_declared&) { co_return 1; }
struct forward_declared {
    int n = 0;
};

struct client {
    int n = 1;
    asyncio::coro<int> get() {
        co_await asyncio::sleep(1ms);
        co_return n;
    }
    asyncio::coro<int> get_more(int& more) {
        co_await asyncio::sleep(1ms);
        co_return n + more;
    }
    asyncio::coro<int> operator()(int more) const {
        co_await asyncio::sleep(1ms);
        co_return n + more;
    }
    static asyncio::coro<int> get_static(int& n) {
        co_await asyncio::sleep(1ms);
        co_return n;
    }
};

// Where `reports` says that a function stands: "debugging.cpp:123", without the folders.
bool names(const asyncio::exception_context& report, std::string_view function) {
    const std::size_t place = report.message.find("debugging.cpp:");
    return report.message.find(function) != std::string::npos && place != std::string::npos &&
           std::stoi(report.message.substr(place + 14)) > 300;
}

} // namespace traps

TEST_SUITE("coroutine traps") {

// Of the traps alone: under valgrind any callback may be reported as slow.
std::shared_ptr<std::vector<asyncio::exception_context>> collect_trap_reports() {
    asyncio::get_running_loop().slow_callback_duration = 1h;
    return support::collect_reports();
}

#define DEBUG_TEST_CASE(name)                                                                      \
    ASYNC_TEST_CASE_WITH(name, .debug = true, .clock = asyncio::clock_kind::virtual_time)

DEBUG_TEST_CASE("a task whose coroutine takes a reference is reported, with function and line") {
    const auto reports = collect_trap_reports();
    int n = 1;
    auto first = asyncio::create_task(traps::by_reference(n), {.name = "risky"});
    REQUIRE(reports->size() == 1);
    CHECK(traps::names(reports->at(0), "by_reference("));
    CHECK(reports->at(0).message.find("takes a reference") != std::string::npos);
    CHECK(reports->at(0).task == "risky");
    CHECK(reports->at(0).exception == nullptr);

    std::pair<int, std::vector<int>> more{1, {}};
    traps::forward_declared later;
    auto second = asyncio::create_task(traps::second_by_reference(1, std::move(more)));
    auto third = asyncio::create_task(traps::generic(1, n));
    auto fourth = asyncio::create_task(traps::by_forward_declared(later));
    auto fifth = asyncio::create_task(traps::client::get_static(n));
    REQUIRE(reports->size() == 5);
    CHECK(traps::names(reports->at(1), "second_by_reference("));
    CHECK(traps::names(reports->at(2), "generic("));
    CHECK(traps::names(reports->at(3), "by_forward_declared("));
    CHECK(traps::names(reports->at(4), "get_static("));
    co_await asyncio::gather(first, second, third, fourth, fifth);
    CHECK(reports->size() == 5);
}

DEBUG_TEST_CASE("a coroutine that takes a reference is reported once, however many run") {
    const auto reports = collect_trap_reports();
    int n = 1;
    std::vector<asyncio::task<int>> many;
    for (int i = 0; i < 3; ++i) many.push_back(asyncio::create_task(traps::by_reference(n)));
    CHECK(reports->size() == 1);
    std::pair<int, std::vector<int>> more{1, {}};
    many.push_back(asyncio::create_task(traps::second_by_reference(1, std::move(more))));
    CHECK(reports->size() == 2);
    co_await asyncio::gather(many);
}

DEBUG_TEST_CASE("a member function's object is no reference parameter, its others are") {
    const auto reports = collect_trap_reports();
    traps::client object;
    int more = 2;
    auto fine = asyncio::create_task(object.get());
    CHECK(reports->empty());
    auto risky = asyncio::create_task(object.get_more(more));
    REQUIRE(reports->size() == 1);
    CHECK(traps::names(reports->at(0), "get_more("));
    co_await asyncio::gather(fine, risky);
}

DEBUG_TEST_CASE("a task of a capturing closure that nobody keeps is reported") {
    const auto reports = collect_trap_reports();
    int n = 1;
    auto captures = [n](int more) -> asyncio::coro<int> {
        co_await asyncio::sleep(1ms);
        co_return n + more;
    };
    auto refers = [&n]() -> asyncio::coro<int> {
        co_await asyncio::sleep(1ms);
        co_return n;
    };
    const traps::client callable;
    auto first = asyncio::create_task(captures(1));
    auto second = asyncio::create_task(refers());
    auto third = asyncio::create_task(callable(1));
    REQUIRE(reports->size() == 3);
    for (const asyncio::exception_context& report : *reports) {
        CHECK(traps::names(report, "("));
        CHECK(report.message.find("closure with captures") != std::string::npos);
    }
    co_await asyncio::gather(first, second, third);
}

DEBUG_TEST_CASE("what is passed by value, kept by the library or has no captures is not reported") {
    const auto reports = collect_trap_reports();
    int n = 1;
    auto captures = [n](int more) -> asyncio::coro<int> {
        co_await asyncio::sleep(1ms);
        co_return n + more;
    };
    auto plain = [](int more) -> asyncio::coro<int> {
        co_await asyncio::sleep(1ms);
        co_return more;
    };
    auto alone = [n]() -> asyncio::coro<int> {
        co_await asyncio::sleep(1ms);
        co_return n;
    };
    auto a = asyncio::create_task(traps::by_value(1));
    auto b = asyncio::create_task(plain(1));
    auto c = asyncio::create_task(captures, 1);
    auto d = asyncio::create_task(alone);
    auto e = asyncio::create_task(traps::by_reference, 1);
    co_await asyncio::gather(a, b, c, d, e);
    co_await asyncio::gather(alone, alone);
    co_await asyncio::wait_for(alone, 1s);
    const auto outcome = co_await asyncio::as_outcome(alone);
    CHECK(outcome.has_value());
    auto in_group = [&](asyncio::task_group& group) { group.create_task(alone); };
    co_await asyncio::with(asyncio::task_group(), in_group);
    CHECK(reports->empty());
}

DEBUG_TEST_CASE("what the library makes tasks of by itself is not reported") {
    const auto reports = collect_trap_reports();
    int served = 0;
    auto on_client = [&served](asyncio::stream_reader, asyncio::stream_writer writer)
        -> asyncio::coro<> {
        ++served;
        co_await asyncio::sleep(1ms);
        writer.write("done");
    };
    auto use = [&](asyncio::server& server) -> asyncio::coro<> {
        auto [reader, writer] = co_await asyncio::open_connection("127.0.0.1", server.port());
        const std::string answer = co_await reader.read();
        CHECK(answer == "done");
    };
    asyncio::server server = co_await asyncio::start_server(on_client, "127.0.0.1", 0);
    co_await asyncio::with(server, use);
    CHECK(served == 1);

    auto twice = [&served](int n) -> asyncio::coro<int> {
        co_await asyncio::sleep(1ms);
        co_return n * served * 2;
    };
    const std::vector<int> numbers{1, 2, 3};
    const std::vector<int> doubled = co_await asyncio::map(numbers, twice, {.limit = 2});
    CHECK(doubled == std::vector<int>{2, 4, 6});
    auto once = [&] { return twice(1); };
    const int retried = co_await asyncio::retry(once);
    CHECK(retried == 2);
    CHECK(reports->empty());
}

DEBUG_TEST_CASE("awaiting at once what takes references or captures is not reported") {
    const auto reports = collect_trap_reports();
    const int n = 1;
    auto captures = [&n]() -> asyncio::coro<int> {
        co_await asyncio::sleep(1ms);
        co_return n;
    };
    const int by_reference = co_await traps::by_reference(n);
    CHECK(by_reference == 1);
    const int from_closure = co_await captures();
    CHECK(from_closure == 1);
    CHECK(reports->empty());
}

TEST_CASE("run() waits for its coroutine, which may take references") {
    support::captured_stderr quiet;
    const int n = 3;
    CHECK(asyncio::run(traps::by_reference(n), {.debug = true}) == 3);
    asyncio::event_loop loop({.debug = true});
    CHECK(loop.run_until_complete(traps::by_reference(n)) == 3);
    CHECK(quiet.taken() == "");
}

ASYNC_TEST_CASE("without debug mode nothing of this is reported") {
    const auto reports = collect_trap_reports();
    const int n = 1;
    auto task = asyncio::create_task(traps::by_reference(n));
    { auto dropped = traps::by_value(1); }
    co_await task;
    CHECK(reports->empty());
}

DEBUG_TEST_CASE("a coroutine that was never awaited is reported, with function and line") {
    const auto reports = collect_trap_reports();
    { auto dropped = traps::by_value(1); }
    REQUIRE(reports->size() == 1);
    CHECK(traps::names(reports->at(0), "by_value("));
    CHECK(reports->at(0).message.find("never awaited") != std::string::npos);
    {
        auto outer = asyncio::as_outcome(traps::by_value(1));
    }
    REQUIRE(reports->size() == 3);
    CHECK(reports->at(1).message.find("of asyncio.hpp") != std::string::npos);
    CHECK(traps::names(reports->at(2), "by_value("));
    co_return;
}

DEBUG_TEST_CASE("a coroutine that was awaited, moved, made a task or cancelled is not reported") {
    const auto reports = collect_trap_reports();
    auto first = traps::by_value(1);
    auto second = std::move(first);
    co_await std::move(second);
    auto task = asyncio::create_task(traps::by_value(1));
    auto never_began = asyncio::create_task(asyncio::as_outcome(traps::by_value(1)));
    never_began.cancel();
    co_await asyncio::wait(task, never_began);
    CHECK(never_began.cancelled());
    CHECK(reports->empty());
}

DEBUG_TEST_CASE("what an error on its way passes by is not reported") {
    const auto reports = collect_trap_reports();
    bool caught = false;
    try {
        auto dropped = traps::by_value(1);
        throw std::runtime_error("no luck");
    } catch (const std::runtime_error&) {
        caught = true;
    }
    CHECK(caught);
    CHECK(reports->empty());
    co_return;
}

DEBUG_TEST_CASE("a coroutine that is refused is not reported as never awaited") {
    const auto reports = collect_trap_reports();
    const auto refused = [](auto&& call) { CHECK_THROWS_AS(call(), std::runtime_error); };
    asyncio::task_group group;
    const auto to_group = [&] {
        refused([&] { group.create_task(traps::by_value(1)); });
        refused([&] { group.create_task(traps::by_value, 1); });
    };
    to_group(); // has not begun
    const auto body = [&](asyncio::task_group& tg) -> asyncio::coro<> {
        tg.create_task(fail_after(1s));
        const auto slept = co_await support::catching(asyncio::sleep(1h));
        to_group(); // is aborting
        if (slept.error) co_await support::fail_with(slept.error);
    };
    CHECK_AWAIT_THROWS_AS(asyncio::with(group, body), asyncio::exception_group);
    to_group(); // is finished

    asyncio::event_loop closed({.debug = true});
    asyncio::task_scope scope(closed);
    closed.close();
    refused([&] { closed.create_task(traps::by_value(1)); });
    refused([&] { closed.create_task(traps::by_value, 1); });
    refused([&] { static_cast<void>(closed.run_until_complete(traps::by_value(1))); });
    refused([&] { scope.create_task(traps::by_value(1)); });

    asyncio::runner runner({.debug = true});
    refused([&] { static_cast<void>(asyncio::run(traps::by_value(1))); });
    refused([&] { static_cast<void>(runner.run(traps::by_value(1))); });
    CHECK(reports->empty());
}

TEST_CASE("coroutines that go with their loop are not reported") {
    support::captured_stderr quiet;
    {
        asyncio::event_loop loop({.debug = true});
        auto holds = [](asyncio::coro<int> inner) -> asyncio::coro<int> {
            co_await asyncio::sleep(1h);
            co_return co_await std::move(inner);
        };
        auto task = loop.create_task(holds(traps::by_value(1)));
        loop.run_once();
    }
    const std::string text = quiet.taken();
    CHECK(text.find("destroyed while it was pending") != std::string::npos);
    CHECK(text.find("never awaited") == std::string::npos);
}

#undef DEBUG_TEST_CASE

} // TEST_SUITE
