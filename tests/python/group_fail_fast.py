"""The twin of examples/2_concurrent_tasks/group_fail_fast.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
broken = 0
finished = []


def seconds():
    # Sums of floating-point delays miss 1.5 by some 1e-16.
    return round(asyncio.get_running_loop().time() - began, 6)


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


async def work(name, takes, fails):
    try:
        await asyncio.sleep(takes)
    except asyncio.CancelledError:
        say(f"{name} is cancelled and cleans up")
        raise
    if fails:
        raise RuntimeError(f"{name} failed")
    finished.append(name)


async def main():
    global began
    began = asyncio.get_running_loop().time()

    errors = []
    try:
        async with asyncio.TaskGroup() as group:
            first = group.create_task(work("task 1", 5, False))
            second = group.create_task(work("task 2", 1, True))
            third = group.create_task(work("task 3", 5, False))
    except* Exception as raised:
        for error in raised.exceptions:
            say(f"the group throws: {error}")
            errors.append(str(error))
    took = seconds()

    claim(1 <= took < 3, f"{took:.2f} s in all: it ends at about 1 s, not at 5 s")
    claim(first.cancelled() and third.cancelled(), "tasks 1 and 3 are cancelled")
    claim(second.done() and not second.cancelled(), "task 2 is not: it failed by itself")
    claim(not finished, "no task has finished its work")
    claim(errors == ["task 2 failed"], "the only error is task 2's")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
