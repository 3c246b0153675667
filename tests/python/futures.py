"""The twin of examples/3_advanced_patterns/futures.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
broken = 0


def seconds():
    # Sums of floating-point delays miss the exact time by some 1e-16.
    return round(asyncio.get_running_loop().time() - began, 6)


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


def describe(future):
    text = "done, " if future.done() else "pending, "
    try:
        return f"{text}the result is {future.result()}"
    except asyncio.InvalidStateError:
        return f"{text}result() is an error"


async def watch(name, future):
    before = describe(future)
    say(f"{name}: {before}")
    await future
    after = describe(future)
    say(f"{name}: {after}")
    return [before, after]


async def slow_answer():
    await asyncio.sleep(1)
    return 42


def primes_below(limit):
    count = 0
    for n in range(2, limit):
        d = 2
        while d * d <= n and n % d != 0:
            d += 1
        count += d * d > n
    return count


async def main():
    global began
    loop = asyncio.get_running_loop()
    began = loop.time()

    by_hand = loop.create_future()
    loop.call_later(1, by_hand.set_result, 7)
    first = await watch("by hand", by_hand)

    task = asyncio.create_task(slow_answer())
    second = await watch("task", task)

    job = loop.run_in_executor(None, primes_below, 20000)
    third = await watch("executor", job)

    refused = False
    try:
        by_hand.set_result(8)
    except asyncio.InvalidStateError:
        refused = True

    too_early = "pending, result() is an error"
    claim(first == [too_early, "done, the result is 7"], "the one made by hand")
    claim(second == [too_early, "done, the result is 42"], "the task")
    claim(third == [too_early, "done, the result is 2262"], "the job in the executor")
    claim(
        refused and by_hand.result() == 7,
        "a result is set once: a second one is an error",
    )
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
