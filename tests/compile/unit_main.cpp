// A program of two units: this one only includes the header.
#include "units.hpp"

using namespace std::chrono_literals;

static asyncio::coro<int> twice() {
    co_await asyncio::sleep(1ms);
    const int first = co_await in_the_other_unit();
    auto both = co_await asyncio::gather(in_the_other_unit(), asyncio::sleep(1ms, 20));
    co_return first + both[0] + both[1];
}

// A type thrown there is the same here, and so is the task that runs.
static asyncio::coro<bool> both_are_one() {
    bool caught = false;
    try {
        co_await fails_in_the_other_unit();
    } catch (const asyncio::exception_group& group) {
        caught = group.contains<asyncio::timeout_error>();
    }
    co_return caught && task_in_the_other_unit() == asyncio::current_task();
}

int main() { return asyncio::run(twice()) == 40 && asyncio::run(both_are_one()) ? 0 : 1; }
