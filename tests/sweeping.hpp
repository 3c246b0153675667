// A program runs again and again, and each time something happens to it at another point: one of
// its tasks is cancelled, once, twice, or in the middle of a turn; or the whole program is ended,
// or its loop destroyed. Points are all turns of the loop, which are all places where a task can
// stand suspended, or be on its way. Afterwards nothing may be left (frames, tasks, timers, memory,
// descriptors), nothing may hang, and what the program promises about its objects holds.
//
// It counts all memory of the program that includes it, so only one file of each may.
#ifndef ASYNCIO_TESTS_SWEEPING_HPP
#define ASYNCIO_TESTS_SWEEPING_HPP

#include "support.hpp"
#include "system.hpp"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <memory>
#include <new>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <utility>
#include <vector>

// ---- counted memory -----------------------------------------------------------------------------

namespace {

std::atomic<long long> blocks_alive{0};

} // namespace

// clang's ThreadSanitizer has these, and lets nobody replace them: no blocks are counted there.
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SWEEPS_COUNT_NO_BLOCKS 1
#endif
#endif

#if !defined(SWEEPS_COUNT_NO_BLOCKS)
// Not inlined, or g++ 12 takes them for a mismatch when it optimises.
[[gnu::noinline]] void* operator new(std::size_t size) {
    void* const memory = std::malloc(size ? size : 1);
    if (memory == nullptr) throw std::bad_alloc();
    blocks_alive.fetch_add(1, std::memory_order_relaxed);
    return memory;
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
    if (memory == nullptr) return;
    blocks_alive.fetch_sub(1, std::memory_order_relaxed);
    std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, std::size_t) noexcept {
    operator delete(memory);
}
#endif

namespace {

// ---- the machine --------------------------------------------------------------------------------

// A local of each coroutine here: those that are alive are frames that are alive.
class probe {
public:
    probe() noexcept { ++alive; }
    probe(const probe&) noexcept { ++alive; }
    probe& operator=(const probe&) = default;
    ~probe() { --alive; }

    static inline std::atomic<int> alive{0};
};

enum class blow {
    none,
    cancel,        // of one task, between two turns
    cancel_twice,  // again a turn later, most likely into its cleanup
    taken_back,    // uncancel() follows at once
    cancel_two,    // of one task and the one that was made after it
    cancel_within, // from a callback that runs somewhere within the next turn
    end,           // all tasks are cancelled, as run() does it when main has ended
    close,         // the loop is destroyed
    cancel_close   // a turn after one task was cancelled
};

const char* name_of(blow how) {
    constexpr std::array names{"nothing",
                               "a cancellation",
                               "two cancellations",
                               "a cancellation that was taken back",
                               "cancellations of two",
                               "a cancellation within the turn",
                               "the end of the program",
                               "the end of the loop",
                               "a cancellation and the end of the loop"};
    return names[static_cast<std::size_t>(how)];
}

// What a program works with. Its objects live longer than its loop.
class stage {
public:
    stage() = default;
    stage(const stage&) = delete;
    stage& operator=(const stage&) = delete;

    template <class T, class... Args>
    T& make(Args&&... args) {
        auto made = std::make_shared<T>(std::forward<Args>(args)...);
        T& object = *made;
        objects_.push_back(std::move(made));
        return object;
    }

    // Checked when all tasks have ended, or, with `closed`, when the loop is gone.
    void at_end(std::function<void(bool closed)> check) { checks_.push_back(std::move(check)); }

    // A fault, unless `holds`.
    void require(bool holds, const char* what) {
        if (!holds) faults_.emplace_back(what);
    }

    // Errors that nobody looks at are part of the program.
    bool expects_reports = false;

    // The blow was to main.
    bool main_was_hit = false;

private:
    friend class performance;
    std::vector<std::shared_ptr<void>> objects_;
    std::vector<std::function<void(bool)>> checks_;
    std::vector<std::string> faults_;
};

using program = asyncio::coro<> (*)(stage&);

struct plan {
    blow how = blow::none;
    int turn = 0;
    std::size_t victim = 0; // its place among the tasks alive at that point, the oldest first
    std::optional<std::uint64_t> seed = {};
};

// Which programs may stop when something happens to them.
struct rules {
    // Tasks that the others rely on; when one of them is hit, those may wait for ever.
    std::set<std::string> needed = {};
    // Jobs on other threads: memory is given back a little later.
    bool threads = false;
    // Coroutines begin on one thread and end on another, which keeps their memory for the next
    // ones; only where nothing is kept, as under a sanitizer, what is lost can be told from it.
    bool frames_move = false;
    // What runs on when main has ended is cancelled then, as run() does it; timers may be left.
    bool main_ends_all = false;
    // Steps over turns and tasks, for a program that is too large to be hit at all of them. The
    // tasks are not the same ones each time.
    int turn_step = 1;
    std::size_t victim_step = 1;
};

// One run of a program.
class performance {
public:
    performance(program play, const rules& r, const plan& p) : play_(play), rules_(r), plan_(p) {}

    void run() {
        {
            stage set;
            loop_ = std::make_unique<asyncio::event_loop>(
                asyncio::run_options{.debug = false,
                                     .clock = asyncio::clock_kind::virtual_time,
                                     .shuffle_seed = plan_.seed});
            loop_->set_exception_handler(
                [&](asyncio::event_loop&, const asyncio::exception_context& context) {
                    // What is in flight when the loop is closed reaches nobody.
                    if (set.expects_reports || plan_.how == blow::close ||
                        plan_.how == blow::cancel_close)
                        return;
                    fault("a report: " + context.message + " (" +
                          support::message_of(context.exception) + ")");
                });
            main_ = loop_->create_task(play_(set), {.name = "main"});
            const bool closed = !play_to_the_end(set);
            if (closed) {
                loop_.reset();
                if (!main_.done()) fault("main is pending although its loop is gone");
            } else {
                if (!rest().empty()) fault("tasks are left: " + names(rest()));
                if (loop_->metrics().tasks != 0) fault("metrics() counts a task");
                if (loop_->metrics().timers != 0 && !rules_.main_ends_all) fault("a timer is left");
                if (loop_->default_executor)
                    loop_->run_until_complete(loop_->shutdown_default_executor());
            }
            {
                std::optional<asyncio::event_loop::entered> inside;
                if (loop_) inside.emplace(*loop_);
                for (const auto& check : set.checks_) check(closed);
            }
            // Nobody has to look at how the tasks of a program ended.
            if (main_.done() && !main_.cancelled()) static_cast<void>(main_.exception());
            for (const asyncio::any_task& task : {victim_, second_})
                if (task && task.done() && !task.cancelled()) static_cast<void>(task.exception());
            main_ = {};
            victim_ = second_ = {};
            loop_.reset();
            for (const std::string& text : set.faults_) fault(text);
        }
        const int frames = probe::alive.exchange(0);
        if (frames != 0) fault(std::to_string(frames) + " frames are left");
    }

    std::vector<std::string> faults;
    int turns = 0;              // that were made until all was over, without the blow
    std::size_t candidates = 0; // tasks alive at the point of the blow
    bool struck = false;        // the point was reached

private:
    static constexpr int most_turns = 3000;

    void fault(const std::string& text) {
        std::string where = std::string(name_of(plan_.how));
        if (plan_.how != blow::none) where += " after turn " + std::to_string(plan_.turn);
        if (!victim_name_.empty()) where += " to '" + victim_name_ + "'";
        if (plan_.seed) where += ", seed " + std::to_string(*plan_.seed);
        faults.push_back(where + ": " + text);
    }

    std::vector<asyncio::any_task> rest() const { return asyncio::all_tasks(*loop_); }

    static std::string names(const std::vector<asyncio::any_task>& tasks) {
        std::string text;
        for (const asyncio::any_task& task : tasks)
            text += (text.empty() ? "" : ", ") + task.get_name();
        return text;
    }

    // False when the loop was to be closed on the way.
    bool play_to_the_end(stage& set) {
        for (;; ++turns) {
            if (turns > most_turns) return give_up("it does not come to an end");
            if (rest().size() != loop_->metrics().tasks) fault("all_tasks() and metrics() differ");
            if (turns == plan_.turn && plan_.how != blow::none) {
                strike(set);
                if (plan_.how == blow::close) return false;
                if (plan_.how == blow::end) return end();
            }
            if (turns == plan_.turn + 1 && plan_.how == blow::cancel_twice && victim_)
                victim_.cancel();
            if (turns == plan_.turn + 1 && plan_.how == blow::cancel_close) return false;
            if (main_.done() && rest().empty()) return true;
            if (main_.done() && rules_.main_ends_all) return end();
            if (step()) continue;
            if (!main_.done() && rules_.needed.count(victim_name_) == 0 &&
                rules_.needed.count(second_name_) == 0)
                fault("everybody waits: " + names(rest()));
            return end();
        }
    }

    void strike(stage& set) {
        const std::vector<asyncio::any_task> tasks = rest();
        candidates = tasks.size();
        struck = !tasks.empty() && plan_.victim < tasks.size();
        set.main_was_hit = plan_.how == blow::end;
        if (!struck || plan_.how == blow::end || plan_.how == blow::close) return;
        victim_ = tasks[plan_.victim];
        victim_name_ = victim_.get_name();
        set.main_was_hit = victim_ == asyncio::any_task(main_);
        if (plan_.how == blow::cancel_within) {
            loop_->call_soon([victim = victim_] { victim.cancel("struck"); });
            return;
        }
        if (!victim_.cancel("struck")) fault("cancel() of an unfinished task said false");
        if (plan_.how == blow::taken_back) victim_.uncancel();
        if (plan_.how == blow::cancel_two && tasks.size() > 1) {
            second_ = tasks[(plan_.victim + 1) % tasks.size()];
            second_name_ = second_.get_name();
            second_.cancel("struck");
            set.main_was_hit = set.main_was_hit || second_ == asyncio::any_task(main_);
        }
    }

    // Cancels what is left until nothing is: a task may answer a cancellation with work.
    bool end() {
        for (int round = 0; round < 4 && !rest().empty(); ++round) {
            for (const asyncio::any_task& task : rest()) task.cancel();
            for (int turn = 0; !rest().empty() && step(); ++turn)
                if (turn > most_turns) return give_up("it does not end after its cancellation");
        }
        return true;
    }

    bool give_up(const char* why) {
        fault(std::string(why) + ": " + names(rest()));
        return false;
    }

    // One turn. When nothing is ready the clock jumps to the next timer before it. False: nothing
    // is left that could happen.
    bool step() {
        if (loop_->run_once() > 0) return true;
        if (loop_->core().clock_holds > 0) { // a job is at work
            const auto end = std::chrono::steady_clock::now() + 10s;
            while (std::chrono::steady_clock::now() < end) {
                if (loop_->run_once() > 0) return true;
                std::this_thread::sleep_for(50us);
            }
            return false;
        }
        const std::optional<asyncio::duration> wait = loop_->next_deadline();
        if (!wait) return false;
        loop_->call_later(*wait, [this] { loop_->stop(); });
        loop_->run_forever();
        return true;
    }

    program play_;
    const rules& rules_;
    const plan plan_;
    std::unique_ptr<asyncio::event_loop> loop_;
    asyncio::task<> main_;
    asyncio::any_task victim_;
    asyncio::any_task second_; // of cancel_two
    std::string victim_name_;
    std::string second_name_;
};

struct outcome_of_sweep {
    std::vector<std::string> faults;
    int runs = 0;
    int points = 0; // turns of the undisturbed run

    std::string text() const {
        std::string all;
        for (const std::string& fault : faults) all += "\n    " + fault;
        return all;
    }
};

// A plan is played twice: the first run fills every cache, and what the second one keeps is lost.
// Where other threads take and give memory, too, caches may fill later; only what grows every time
// is lost there. False when the plan's point was not reached.
bool play(outcome_of_sweep& result, program what, const rules& r, const plan& p,
          std::size_t* candidates = nullptr) {
    const int most = r.threads ? 20 : 2;
    for (int round = 1;; ++round) {
        const long long before = blocks_alive;
        bool struck = false;
        {
            performance run(what, r, p);
            run.run();
            ++result.runs;
            struck = run.struck;
            if (candidates) *candidates = run.candidates;
            if (p.how == blow::none) result.points = run.turns;
            if (!run.faults.empty()) {
                result.faults.insert(result.faults.end(), run.faults.begin(), run.faults.end());
                return struck;
            }
            if (p.how != blow::none && !struck) return false;
        }
        const long long growth = blocks_alive - before;
        const bool counted = !r.frames_move || ASYNCIO_SANITIZED;
        if (round > 1 && (growth <= 0 || !counted)) return struck;
        if (round < most) continue;
        result.faults.push_back(name_of(p.how) + (" after turn " + std::to_string(p.turn)) +
                                " to task " + std::to_string(p.victim) + ": " +
                                std::to_string(growth) + " blocks of memory are lost");
        return struck;
    }
}

outcome_of_sweep sweep(program what, const rules& r) {
    outcome_of_sweep result;
    play(result, what, r, {});
    const auto descriptors = support::open_descriptors(); // with those of the system's libraries
    if (!result.faults.empty()) return result;
    const std::array blows{blow::cancel,     blow::cancel_twice,  blow::taken_back,
                           blow::cancel_two, blow::cancel_within, blow::end,
                           blow::close,      blow::cancel_close};
    for (const blow how : blows)
        for (const std::optional<std::uint64_t> seed :
             {std::optional<std::uint64_t>(), std::optional<std::uint64_t>(1),
              std::optional<std::uint64_t>(2)}) {
            // Between turns, an order within them adds little.
            if (seed && (how == blow::taken_back || how == blow::end)) continue;
            bool reached = true;
            for (int turn = 0; reached && result.faults.size() < 5; turn += r.turn_step) {
                std::size_t candidates = 1;
                reached = false;
                const auto left_out = static_cast<std::size_t>(turn / r.turn_step) % r.victim_step;
                for (std::size_t victim = 0; victim < candidates; victim += r.victim_step) {
                    const bool all = how == blow::end || how == blow::close;
                    if (all && victim > 0) break;
                    if (play(result, what, r, {how, turn, victim, seed}, &candidates))
                        reached = true;
                    if (victim == 0) victim -= left_out; // and so other ones each time
                }
            }
        }
    if (support::open_descriptors() != descriptors)
        result.faults.emplace_back("descriptors are left open");
    return result;
}

void check(const outcome_of_sweep& result, const rules& r) {
    CHECK_MESSAGE(result.faults.empty(), result.text());
    CHECK(result.points > 0);
    CHECK(result.runs > 2 * result.points / r.turn_step);
}

} // namespace

#endif
