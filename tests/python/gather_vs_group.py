"""The twin of examples/2_concurrent_tasks/gather_vs_group.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
broken = 0
started = []
cancelled = []


def seconds():
    # Sums of floating-point delays miss 1.5 by some 1e-16.
    return round(asyncio.get_running_loop().time() - began, 6)


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


async def call(service, latency):
    say(f"{service} starts")
    started.append(service)
    if latency > 5:
        raise RuntimeError(f"{service} would take too long")
    try:
        await asyncio.sleep(latency)
    except asyncio.CancelledError:
        say(f"{service} is cancelled")
        cancelled.append(service)
        raise
    return f"data from {service}"


async def main():
    global began
    began = asyncio.get_running_loop().time()

    say("gather() with return_exceptions:")
    outcomes = await asyncio.gather(
        call("service 1", 1), call("service 2", 10), call("service 3", 1), return_exceptions=True
    )
    results = []
    errors = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            say(f"error: {outcome}")
            errors.append(str(outcome))
        else:
            say(outcome)
            results.append(outcome)
    gather_took = seconds()
    gather_cancelled = bool(cancelled)

    say("a task group:")
    started.clear()
    group_errors = []
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(call("service 1", 1))
            group.create_task(call("service 2", 10))
            group.create_task(call("service 3", 1))
    except* Exception as raised:
        for error in raised.exceptions:
            say(f"error: {error}")
            group_errors.append(str(error))
    group_took = seconds() - gather_took

    claim(
        results == ["data from service 1", "data from service 3"] and not gather_cancelled,
        f"gather() keeps {len(results)} results and cancels nobody",
    )
    claim(errors == ["service 2 would take too long"], "and has the error in its place")
    claim(started == ["service 1", "service 2", "service 3"], "in the group all had started")
    # A TaskGroup keeps its tasks in a set: they are cancelled in any order.
    claim(sorted(cancelled) == ["service 1", "service 3"], "and the group cancels both others")
    claim(group_errors == errors, "its exception_group holds 1 error, the same one")
    claim(1 <= gather_took < 3, f"{gather_took:.2f} s with gather()")
    claim(group_took < 0.5, f"{group_took:.2f} s with the group: it ends at once")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
