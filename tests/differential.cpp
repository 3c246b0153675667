// Runs scripts of differential.py, and says what happens in them.
//
//     differential <SCRIPTS
//
// A script is a line, "(STATEMENT...)" with statements "(OPERATION LABEL ARGUMENT...)". What each
// operation is in Python stands in differential.py, whose functions have the same names. For each
// script the answer is a line "= N", and a line "TIME TASK LABEL OPERATION EVENT" for each thing
// that happened.
#include "asyncio.hpp"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <exception>
#include <iostream>
#include <map>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

using asyncio::coro;
using asyncio::future;
using asyncio::task;
using std::string;
using namespace std::chrono_literals;

namespace {

// An atom, or a list.
struct node {
    string atom;
    std::vector<node> parts;

    const node& operator[](std::size_t i) const { return parts.at(i); }
    const string& name() const { return parts.at(0).atom; }
    const string& label() const { return parts.at(1).atom; }
    int number() const { return std::stoi(atom); }
    bool none() const { return atom == "-"; }
    std::optional<asyncio::duration> delay() const {
        if (none()) return std::nullopt;
        return asyncio::duration(std::chrono::seconds(number()));
    }
};

node parse(const string& text, std::size_t& at) {
    node made;
    while (text.at(at) == ' ') ++at;
    if (text[at] == '(') {
        for (++at;;) {
            while (text.at(at) == ' ') ++at;
            if (text[at] == ')') break;
            made.parts.push_back(parse(text, at));
        }
        ++at;
    } else {
        const std::size_t end = text.find_first_of(" ()", at);
        made.atom = text.substr(at, end - at);
        at = end;
    }
    return made;
}

struct error : std::runtime_error {
    explicit error(int n) : std::runtime_error("E" + std::to_string(n)) {}
};

string name_of(const std::exception_ptr& thrown, bool message = false) {
    try {
        std::rethrow_exception(thrown);
    } catch (const asyncio::cancelled_error& e) {
        return message ? "C[" + string(e.what()) + "]" : "C";
    } catch (const asyncio::base_exception_group& group) {
        string names;
        for (const auto& e : group.exceptions()) names += (names.empty() ? "" : " ") + name_of(e);
        return "G[" + names + "]";
    } catch (const error& e) {
        return e.what();
    } catch (const asyncio::timeout_error&) {
        return "Timeout";
    } catch (const asyncio::broken_barrier_error&) {
        return "Broken";
    } catch (const asyncio::queue_empty&) {
        return "Empty";
    } catch (const asyncio::queue_full&) {
        return "Full";
    } catch (const asyncio::queue_shut_down&) {
        return "ShutDown";
    } catch (const asyncio::invalid_state_error&) {
        return "Invalid";
    } catch (const std::invalid_argument&) {
        return "Value";
    } catch (const std::runtime_error&) {
        return "Runtime";
    } catch (...) {
        return "Closed"; // aclose()
    }
}

string text_of(int value) { return std::to_string(value); }
string text_of(const asyncio::outcome<int>& value) {
    return value ? text_of(*value) : name_of(value.error().exception());
}
template <class T>
string text_of(const std::vector<T>& values) {
    string texts;
    for (const T& v : values) texts += " " + text_of(v);
    return "[" + texts + " ]";
}

// What a script has a number for: a future, a task, or what gather() gave.
struct thing {
    future<int> one;
    task<int> work; // the same, if it is one
    future<std::vector<int>> all;
    future<std::vector<asyncio::outcome<int>>> outcomes;

    template <class F>
    auto visit(F&& fn) const {
        if (one.valid()) return fn(one);
        if (all.valid()) return fn(all);
        return fn(outcomes);
    }
};

string state_of(const thing& t) {
    return t.visit([](const auto& f) -> string {
        if (!f.done()) return "pending";
        if (f.cancelled()) return "cancelled";
        if (const auto e = f.exception()) return name_of(e);
        return text_of(f.result());
    });
}

// All that a script uses.
struct world {
    std::map<int, thing> things;
    std::vector<thing> kept; // all that there were: in Python a gather() lives without handles
    std::vector<asyncio::any_task> tasks; // in the order in which they began
    std::map<int, asyncio::timeout*> timeouts;
    std::map<int, asyncio::task_group*> groups;
    std::map<int, asyncio::handle> handles;
    std::map<int, std::pair<thing, std::uint64_t>> callbacks; // by their labels
    std::vector<string> reports;                              // to the exception handler
    std::deque<asyncio::event> events{2};
    std::deque<asyncio::lock> locks{2};
    asyncio::condition condition{&locks[1]};
    int bumped = 0;
    asyncio::semaphore one{1}, two{2};
    asyncio::bounded_semaphore bounded{1};
    std::deque<asyncio::barrier> barriers;
    asyncio::queue<int> plain{0}, short_one{1};
    asyncio::lifo_queue<int> lifo{2};
    asyncio::priority_queue<int> sorted{2};
    asyncio::context_var<int> variable{"variable", 0};
};
world* here;

asyncio::any_task me() { return asyncio::current_task(); }

void log(const string& who, const node& statement, const string& event) {
    const auto now = std::chrono::duration_cast<std::chrono::seconds>(
        std::chrono::nanoseconds(asyncio::elapsed()));
    std::printf("%lld %s %s %s %s", static_cast<long long>(now.count()), who.c_str(),
                statement.label().c_str(), statement.name().c_str(), event.c_str());
    if (me().valid() && me().cancelling()) std::printf(" requests=%d", me().cancelling());
    std::printf("\n");
}

const thing* find(const node& number) {
    const auto found = here->things.find(number.number());
    return found == here->things.end() ? nullptr : &found->second;
}
std::vector<future<int>> find_all(const node& numbers) {
    std::vector<future<int>> found;
    for (const node& n : numbers.parts)
        if (const thing* t = find(n); t && t->one.valid()) found.push_back(t->one);
    return found;
}
void keep(const node& number, const thing& made) {
    here->things[number.number()] = made;
    here->kept.push_back(made);
}

template <class T>
T& chosen(std::deque<T>& all, const node& which) {
    return all[static_cast<std::size_t>(which.number())];
}

constexpr int nothing = -1; // a block that does not return
coro<int> run_block(const node& block, const string& who);
coro<int> run_task(const node& block, string who);

template <class F>
auto with_queue(const node& number, F&& fn) {
    switch (number.number()) {
    case 0:
        return fn(here->plain);
    case 1:
        return fn(here->short_one);
    case 2:
        return fn(here->lifo);
    default:
        return fn(here->sorted);
    }
}

template <class F>
auto with_semaphore(const node& number, F&& fn) {
    switch (number.number()) {
    case 0:
        return fn(here->one);
    case 1:
        return fn(here->two);
    default:
        return fn(here->bounded);
    }
}

// ---- What does not wait; callbacks consist of it ------------------------------------------------

void run_now(const node& statements, const string& who);

std::optional<string> do_now(const node& s, const string& who) {
    const string& op = s.name();
    if (op == "cancel") {
        const thing* t = find(s[2]);
        if (!t) return "none";
        const string message = s[3].none() ? "" : s[3].atom;
        return t->visit([&](const auto& f) { return f.cancel(message); }) ? "true" : "false";
    }
    if (op == "uncancel") {
        const thing* t = find(s[2]);
        return t && t->work.valid() ? text_of(t->work.uncancel()) : "none";
    }
    if (op == "look") {
        const thing* t = find(s[2]);
        if (!t) return "none";
        return state_of(*t) +
               (t->work.valid() ? " cancelling=" + text_of(t->work.cancelling()) : "");
    }
    if (op == "create" || op == "spawn") {
        thing made;
        const string name = s[2].atom;
        if (op == "spawn") {
            const auto group = here->groups.find(s[3].number());
            if (group == here->groups.end()) return "none";
            made.work = group->second->create_task(run_task(s[4], name));
        } else {
            made.work =
                asyncio::create_task(run_task(s[4], name), {.eager_start = s[3].atom == "eager"});
        }
        made.one = made.work;
        keep(s[2], made);
        return state_of(made);
    }
    if (op == "gatheras") {
        thing made;
        if (s[3].atom == "outcomes")
            made.outcomes = asyncio::gather(asyncio::return_exceptions, find_all(s[4]));
        else made.all = asyncio::gather(find_all(s[4]));
        keep(s[2], made);
        return state_of(made);
    }
    if (op == "shieldas") {
        const thing* t = find(s[3]);
        if (!t || !t->one.valid()) return "none";
        thing made;
        made.one = asyncio::shield(t->one);
        if (made.one == t->one) made = *t; // it is done already
        keep(s[2], made);
        return state_of(made);
    }
    if (op == "reschedule") {
        const auto t = here->timeouts.find(s[2].number());
        if (t == here->timeouts.end()) return "none";
        if (s[3].none()) t->second->reschedule(std::nullopt);
        else t->second->reschedule(asyncio::get_running_loop().time() + *s[3].delay());
        return "";
    }
    if (op == "set") return chosen(here->events, s[2]).set(), "";
    if (op == "clear") return chosen(here->events, s[2]).clear(), "";
    if (op == "release") return chosen(here->locks, s[2]).release(), "";
    if (op == "locked") return chosen(here->locks, s[2]).locked() ? "true" : "false";
    if (op == "notify") {
        if (s[2].none()) here->condition.notify_all();
        else here->condition.notify(static_cast<std::size_t>(s[2].number()));
        return "";
    }
    if (op == "bump") return text_of(++here->bumped);
    if (op == "give") {
        with_semaphore(s[2], [](auto& semaphore) { semaphore.release(); });
        return "";
    }
    if (op == "full") {
        return with_semaphore(s[2], [](auto& semaphore) { return semaphore.locked(); }) ? "true"
                                                                                        : "false";
    }
    if (op == "waiting") {
        const asyncio::barrier& barrier = chosen(here->barriers, s[2]);
        return text_of(static_cast<int>(barrier.n_waiting())) + (barrier.broken() ? " broken" : "");
    }
    if (op == "putnow") {
        with_queue(s[2], [&](auto& queue) { queue.put_nowait(s[3].number()); });
        return "";
    }
    if (op == "getnow")
        return text_of(with_queue(s[2], [](auto& queue) { return queue.get_nowait(); }));
    if (op == "taskdone") {
        with_queue(s[2], [](auto& queue) { queue.task_done(); });
        return "";
    }
    if (op == "shutdown") {
        with_queue(s[2], [&](auto& queue) { queue.shutdown(s[3].atom == "immediate"); });
        return "";
    }
    if (op == "size")
        return text_of(
            with_queue(s[2], [](auto& queue) { return static_cast<int>(queue.qsize()); }));
    if (op == "result") {
        find(s[2])->one.set_result(s[3].number());
        return "";
    }
    if (op == "failure") {
        find(s[2])->one.set_exception(error(s[3].number()));
        return "";
    }
    if (op == "callback") {
        const thing* t = find(s[2]);
        if (!t) return "none";
        here->callbacks[s[1].number()] = t->visit([&](const auto& f) {
            return std::pair(*t, f.add_done_callback([&s, who] { run_now(s[3], who + "+"); }));
        });
        return "";
    }
    if (op == "remove") {
        const auto found = here->callbacks.find(s[2].number());
        if (found == here->callbacks.end()) return "none";
        const auto& [t, id] = found->second;
        const std::uint64_t mark = id;
        return t.visit([mark](const auto& f) { return f.remove_done_callback(mark); }) ? "1" : "0";
    }
    if (op == "later") {
        auto call = [&s, who] { run_now(s[4], who + "+"); };
        asyncio::event_loop& loop = asyncio::get_running_loop();
        here->handles[s[2].number()] =
            s[3].none() ? loop.call_soon(call) : loop.call_later(*s[3].delay(), call);
        return "";
    }
    if (op == "stop") {
        const auto found = here->handles.find(s[2].number());
        if (found == here->handles.end()) return "none";
        found->second.cancel();
        return "";
    }
    if (op == "count") return text_of(static_cast<int>(asyncio::all_tasks().size()));
    if (op == "setvar") return here->variable.set(s[2].number()), "";
    if (op == "getvar") return text_of(here->variable.get());
    return std::nullopt;
}

void run_now(const node& statements, const string& who) {
    for (const node& s : statements.parts) {
        string event;
        try {
            event = do_now(s, who).value();
        } catch (...) {
            event = "!" + name_of(std::current_exception());
        }
        log(who, s, event);
    }
}

// ---- What waits --------------------------------------------------------------------------------

struct result {
    string event;
    int value = nothing; // what the block returns
};

coro<result> do_sleep(const node& s, const string&) {
    co_await asyncio::sleep(*s[2].delay());
    co_return result{};
}

coro<result> do_await(const node& s, const string&) {
    const thing* t = find(s[2]);
    if (!t) co_return result{"none"};
    const thing kept = *t;
    if (kept.one.valid()) {
        const int value = co_await kept.one;
        co_return result{text_of(value)};
    }
    if (kept.all.valid()) {
        const std::vector<int> values = co_await kept.all;
        co_return result{text_of(values)};
    }
    const auto values = co_await kept.outcomes;
    co_return result{text_of(values)};
}

coro<result> do_gather(const node& s, const string& who) {
    std::vector<coro<int>> blocks;
    for (const node& b : s[3].parts)
        blocks.push_back(
            run_task(b, who + "/" + s.label() + "." + text_of(static_cast<int>(blocks.size()))));
    if (s[2].atom == "outcomes") {
        const auto values = co_await asyncio::gather(asyncio::return_exceptions, std::move(blocks));
        co_return result{text_of(values)};
    }
    const auto values = co_await asyncio::gather(std::move(blocks));
    co_return result{text_of(values)};
}

coro<result> do_wait(const node& s, const string&) {
    const auto futures = find_all(s[4]);
    asyncio::wait_options options;
    options.timeout = s[3].delay();
    if (s[2].atom == "first") options.return_when = asyncio::return_when::first_completed;
    if (s[2].atom == "failure") options.return_when = asyncio::return_when::first_exception;
    const auto waited = co_await asyncio::wait(futures, options);
    string event = "done";
    for (const auto& f : futures) {
        bool done = false;
        for (const auto& d : waited.done) done = done || d == f;
        event += done ? " yes" : " no";
    }
    co_return result{event};
}

coro<result> do_waitfor(const node& s, const string&) {
    const thing* t = find(s[3]);
    if (!t || !t->one.valid()) co_return result{"none"};
    const int value = co_await asyncio::wait_for(t->one, s[2].delay());
    co_return result{text_of(value)};
}

coro<result> do_limit(const node& s, const string& who) {
    const int value =
        co_await asyncio::wait_for(run_task(s[3], who + "/" + s.label()), s[2].delay());
    co_return result{text_of(value)};
}

coro<result> do_timeout(const node& s, const string& who) {
    const int number = s[2].number();
    const auto body = [&s, &who, number](asyncio::timeout& t) {
        here->timeouts[number] = &t;
        return run_block(s[4], who);
    };
    asyncio::timeout limit(s[3].delay());
    result got;
    std::exception_ptr failed;
    try {
        got.value = co_await asyncio::with(limit, body);
    } catch (...) {
        failed = std::current_exception();
    }
    here->timeouts.erase(number);
    log(who, s, limit.expired() ? "expired" : "in time");
    if (failed) std::rethrow_exception(failed);
    co_return got;
}

coro<result> do_shield(const node& s, const string& who) {
    const int value = co_await asyncio::shield(run_task(s[2], who + "/" + s.label()));
    co_return result{text_of(value)};
}

coro<result> do_each(const node& s, const string& who) {
    // What is done already Python gives in any order, and a turn later.
    std::vector<future<int>> futures;
    for (const auto& f : find_all(s[4]))
        if (!f.done()) futures.push_back(f);
    auto ends = asyncio::as_completed(futures, {.timeout = s[2].delay()});
    for (int i = 0; i < s[3].number(); ++i) {
        const auto next = co_await ends.next();
        if (!next) break;
        string event;
        for (std::size_t j = 0; j < futures.size(); ++j)
            if (futures[j] == *next) event = "gives " + text_of(static_cast<int>(j));
        log(who, s, event);
    }
    co_return result{};
}

coro<result> do_group(const node& s, const string& who) {
    const int number = s[2].number();
    const auto body = [&s, &who, number](asyncio::task_group& group) {
        here->groups[number] = &group;
        return run_block(s[3], who);
    };
    struct forget {
        int number;
        ~forget() { here->groups.erase(number); }
    } const forgotten{number};
    const int value = co_await asyncio::with(asyncio::task_group(), body);
    co_return result{"", value};
}

coro<result> do_repeat(const node& s, const string& who) {
    result got;
    for (int i = 0; i < s[2].number() && got.value == nothing; ++i)
        got.value = co_await run_block(s[3], who);
    co_return got;
}

coro<result> do_raise(const node& s, const string&) {
    throw error(s[2].number());
    co_return result{};
}

bool catches(const string& kind, const std::exception_ptr& thrown) {
    try {
        std::rethrow_exception(thrown);
    } catch (const asyncio::cancelled_error&) {
        return kind != "error";
    } catch (const std::exception&) {
        return kind != "cancelled";
    } catch (...) {
        return kind == "all";
    }
}

coro<result> do_try(const node& s, const string& who) {
    std::exception_ptr caught;
    int value = nothing;
    try {
        value = co_await run_block(s[4], who);
    } catch (...) {
        caught = std::current_exception();
    }
    if (!caught) co_return result{"", value};
    if (!catches(s[2].atom, caught)) std::rethrow_exception(caught);
    log(who, s, "catches " + name_of(caught));
    value = co_await run_block(s[5], who);
    if (value == nothing && s[3].atom == "again") std::rethrow_exception(caught);
    co_return result{"", value};
}

coro<result> do_finally(const node& s, const string& who) {
    const int value = co_await asyncio::finally(run_block(s[2], who), run_block(s[3], who));
    co_return result{"", value};
}

coro<result> do_event(const node& s, const string&) {
    co_await chosen(here->events, s[2]).wait();
    co_return result{};
}

coro<result> do_lock(const node& s, const string& who) {
    const auto body = [&s, &who] { return run_block(s[3], who); };
    const int value = co_await asyncio::with(chosen(here->locks, s[2]), body);
    co_return result{"", value};
}

coro<result> do_acquire(const node& s, const string&) {
    co_await chosen(here->locks, s[2]).acquire();
    co_return result{};
}

coro<result> do_condition(const node& s, const string& who) {
    const auto body = [&s, &who] { return run_block(s[2], who); };
    const int value = co_await asyncio::with(here->condition, body);
    co_return result{"", value};
}

coro<result> do_notified(const node&, const string&) {
    co_await here->condition.wait();
    co_return result{};
}

coro<result> do_until(const node& s, const string&) {
    const int wanted = s[2].number();
    co_await here->condition.wait_for([wanted] { return here->bumped >= wanted; });
    co_return result{};
}

// The label decides whether something is done in C++'s own way.
bool own_way(const node& s) { return s[1].number() % 2 == 1; }

template <class Semaphore>
coro<result> do_scoped(Semaphore& semaphore, const node& block, const string& who) {
    const auto held = co_await semaphore.scoped();
    const int value = co_await run_block(block, who);
    co_return result{"", value};
}

coro<result> do_semaphore(const node& s, const string& who) {
    if (own_way(s) && s[2].number() != 2) { // whose guard cannot throw what with() does
        result got = co_await with_semaphore(
            s[2], [&](auto& semaphore) { return do_scoped(semaphore, s[3], who); });
        co_return got;
    }
    const auto body = [&s, &who] { return run_block(s[3], who); };
    const int value = co_await with_semaphore(
        s[2], [&](auto& semaphore) { return asyncio::with(semaphore, body); });
    co_return result{"", value};
}

coro<result> do_take(const node& s, const string&) {
    co_await with_semaphore(s[2], [](auto& semaphore) { return semaphore.acquire(); });
    co_return result{};
}

coro<result> do_barrier(const node& s, const string&) {
    const std::size_t place = co_await chosen(here->barriers, s[2]).wait();
    co_return result{text_of(static_cast<int>(place))};
}

coro<result> do_reset(const node& s, const string&) {
    co_await chosen(here->barriers, s[2]).reset();
    co_return result{};
}

coro<result> do_abort(const node& s, const string&) {
    co_await chosen(here->barriers, s[2]).abort();
    co_return result{};
}

coro<result> do_put(const node& s, const string&) {
    co_await with_queue(s[2], [&](auto& queue) -> coro<> { return queue.put(s[3].number()); });
    co_return result{};
}

coro<result> do_get(const node& s, const string&) {
    if (own_way(s)) {
        const auto next = co_await with_queue(
            s[2], [](auto& queue) -> coro<std::optional<int>> { return queue.next(); });
        if (!next) throw asyncio::queue_shut_down();
        co_return result{text_of(*next)};
    }
    const int item =
        co_await with_queue(s[2], [](auto& queue) -> coro<int> { return queue.get(); });
    co_return result{text_of(item)};
}

coro<result> do_join(const node& s, const string&) {
    co_await with_queue(s[2], [](auto& queue) { return queue.join(); });
    co_return result{};
}

asyncio::async_generator<int> produce(const node& s, const string& who) {
    std::exception_ptr failed;
    try {
        for (const node& part : s[4].parts) {
            co_await run_block(part[3], who);
            co_yield part[2].number();
        }
    } catch (...) {
        failed = std::current_exception();
    }
    log(who, s, "cleans up");
    co_await run_block(s[5], who);
    if (failed) std::rethrow_exception(failed);
}

coro<result> do_generate(const node& s, const string& who) {
    auto values = produce(s, who);
    std::exception_ptr failed;
    result got;
    try {
        for (int i = 0; i < s[2].number() && got.value == nothing; ++i) {
            const auto value = co_await values.next();
            if (!value) break;
            log(who, s, "gives " + text_of(*value));
            got.value = co_await run_block(s[3], who);
        }
    } catch (...) {
        failed = std::current_exception();
    }
    co_await values.aclose();
    if (failed) std::rethrow_exception(failed);
    co_return got;
}

coro<result> do_return(const node& s, const string&) { co_return result{"", s[2].number()}; }

const std::map<string, coro<result> (*)(const node&, const string&)> waits = {
    {"sleep", do_sleep},
    {"await", do_await},
    {"gather", do_gather},
    {"wait", do_wait},
    {"waitfor", do_waitfor},
    {"limit", do_limit},
    {"timeout", do_timeout},
    {"shield", do_shield},
    {"each", do_each},
    {"group", do_group},
    {"raise", do_raise},
    {"try", do_try},
    {"finally", do_finally},
    {"event", do_event},
    {"lock", do_lock},
    {"acquire", do_acquire},
    {"condition", do_condition},
    {"notified", do_notified},
    {"until", do_until},
    {"semaphore", do_semaphore},
    {"take", do_take},
    {"barrier", do_barrier},
    {"reset", do_reset},
    {"abort", do_abort},
    {"put", do_put},
    {"get", do_get},
    {"join", do_join},
    {"generate", do_generate},
    {"return", do_return},
    {"repeat", do_repeat},
};

coro<int> run_block(const node& block, const string& who) {
    for (const node& s : block.parts) {
        result got;
        std::exception_ptr failed;
        try {
            if (const auto operation = waits.find(s.name()); operation != waits.end()) {
                got = co_await operation->second(s, who);
            } else if (s.name() == "cancelme") {
                got.event = me().cancel(s[2].none() ? "" : s[2].atom) ? "true" : "false";
            } else if (s.name() == "uncancelme") {
                got.event = text_of(me().uncancel());
            } else {
                got.event = do_now(s, who).value();
            }
        } catch (...) {
            failed = std::current_exception();
        }
        const bool message = s.name() == "sleep" || s.name() == "event" || s.name() == "get";
        log(who, s, failed ? "!" + name_of(failed, message) : got.event);
        if (failed) std::rethrow_exception(failed);
        if (got.value != nothing) co_return got.value;
    }
    co_return nothing;
}

// The body of a task, or of what Python may make one of.
coro<int> run_task(const node& block, string who) {
    const node mark{"", {node{"task", {}}, node{"-", {}}}};
    log(who, mark, "begins");
    const asyncio::any_task self = me();
    here->tasks.push_back(self);
    int value = nothing;
    std::exception_ptr failed;
    try {
        value = co_await run_block(block, who);
    } catch (...) {
        failed = std::current_exception();
    }
    log(who, mark, self == me() ? "ends" : "is another");
    if (failed) std::rethrow_exception(failed);
    co_return value;
}

coro<> run_script(const node& script) {
    world all;
    here = &all;
    asyncio::get_running_loop().set_exception_handler(
        [&all](asyncio::event_loop&, const asyncio::exception_context& report) {
            all.reports.push_back(name_of(report.exception));
        });
    all.barriers.emplace_back(2);
    all.barriers.emplace_back(3);
    for (int i = 100; i < 104; ++i) all.things[i].one = asyncio::create_future<int>();
    thing root;
    root.work = asyncio::create_task(run_task(script, "0"));
    root.one = root.work;
    all.things[0] = root;
    co_await asyncio::sleep(1'000'000s);
    // Whoever still waits then waits for ever.
    const node mark{"", {node{"main", {}}, node{"-", {}}}};
    for (int i = 0; i < 40; ++i) {
        bool over = true;
        for (const asyncio::any_task& t : all.tasks) over = over && t.done();
        if (over) break;
        for (const asyncio::any_task& t : all.tasks)
            if (!t.done()) t.cancel(); // of one that has failed it would keep the report
        for (asyncio::lock& l : all.locks)
            if (l.locked()) l.release();
        co_await asyncio::sleep(1'000s);
    }
    log("main", mark, "tasks " + text_of(static_cast<int>(asyncio::all_tasks().size())));
    for (const auto& [number, t] : all.things) {
        const auto [done, cancelled] =
            t.visit([](const auto& f) { return std::pair(f.done(), f.cancelled()); });
        log("main", mark, text_of(number) + (cancelled ? " cancelled" : done ? "" : " pending"));
    }
    all.things.clear();
    all.kept.clear();
    all.callbacks.clear();
    all.tasks.clear();
    root = {};
    co_await asyncio::sleep(1s);
    std::sort(all.reports.begin(), all.reports.end());
    for (const string& report : all.reports) log("main", mark, "reports " + report);
}

} // namespace

int main() {
    string line;
    for (int i = 0; std::getline(std::cin, line); ++i) {
        std::printf("= %d\n", i);
        std::fflush(stdout); // so that a crash is known by its script
        std::size_t at = 0;
        const node script = parse(line, at);
        asyncio::run_options options;
        options.clock = asyncio::clock_kind::virtual_time;
        asyncio::run(run_script(script), options);
    }
}
