"""The twin of examples/2_concurrent_tasks/group_or_gather.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
broken = 0
finished = []
cancelled = []
thrown = ""
round_began = 0.0


def seconds():
    # Sums of floating-point delays miss 1.5 by some 1e-16.
    return round(asyncio.get_running_loop().time() - began, 6)


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


def answer(after):
    return asyncio.create_task(asyncio.sleep(after))


async def work(name, answered):
    try:
        await answered
    except asyncio.CancelledError:
        say(f"{name} is cancelled")
        cancelled.append(name)
        raise
    if name == "task 2":
        raise RuntimeError("task 2 failed")
    say(f"{name} finishes")
    finished.append(name)


def begin(title):
    global thrown, round_began
    say(title)
    finished.clear()
    cancelled.clear()
    thrown = ""
    round_began = seconds()


async def with_gather(early, late):
    global thrown
    first = asyncio.create_task(work("task 1", early))
    second = asyncio.create_task(work("task 2", early))
    last = asyncio.create_task(work("task 3", late))
    try:
        await asyncio.gather(first, second, last)
    except RuntimeError as error:
        thrown = str(error)
        say(f"gather() throws: {thrown}")
    await last


async def with_group(early, late):
    global thrown
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(work("task 1", early))
            group.create_task(work("task 2", early))
            group.create_task(work("task 3", late))
    except* RuntimeError as raised:
        for error in raised.exceptions:
            thrown = str(error)
        say(f"the group throws: {thrown}")


async def main():
    global began, thrown
    began = asyncio.get_running_loop().time()
    first, third, both = ["task 1"], ["task 3"], ["task 1", "task 3"]

    begin("gather(), all three answers after 1 s:")
    at_1s = answer(1)
    await with_gather(at_1s, at_1s)
    claim(finished == both and thrown == "task 2 failed", "tasks 1 and 3 finish under gather()")

    begin("a group, all three answers after 1 s:")
    at_1s = answer(1)
    await with_group(at_1s, at_1s)
    claim(finished == both and thrown == "task 2 failed", "tasks 1 and 3 finish even in the group")

    begin("gather(), the third answer after 1.5 s:")
    await with_gather(answer(1), answer(1.5))
    took = round(seconds() - round_began, 6)
    claim(
        finished == both and thrown == "task 2 failed" and took >= 1.5,
        f"task 3 goes on after the failure, and finishes at {took:.2f} s",
    )

    begin("a group, the third answer after 1.5 s:")
    await with_group(answer(1), answer(1.5))
    claim(
        finished == first and cancelled == third and thrown == "task 2 failed",
        "task 3 is cancelled with the group",
    )

    begin("wait_for() with 2 s around gather(), the third answer after 5 s:")
    at_1s = answer(1)
    try:
        await asyncio.wait_for(
            asyncio.gather(
                work("task 1", at_1s),
                work("task 2", at_1s),
                work("task 3", answer(5)),
                return_exceptions=True,
            ),
            2,
        )
    except TimeoutError:
        thrown = "timeout"
        say("the time limit passed")
    took = round(seconds() - round_began, 6)
    claim(
        cancelled == third and 2 <= took < 4,
        f"task 3 is cancelled at the limit, after {took:.2f} s",
    )
    claim(
        finished == first and thrown == "timeout",
        "task 1 had finished, but all that we get is the timeout",
    )
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
