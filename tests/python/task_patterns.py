"""The twin of examples/2_concurrent_tasks/task_patterns.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
broken = 0


def seconds():
    # Sums of floating-point delays miss 1.5 by some 1e-16.
    return round(asyncio.get_running_loop().time() - began, 6)


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


async def fetch(number):
    await asyncio.sleep(1)
    return 100 + number


async def two_in_turn():
    a = await fetch(1)
    b = await fetch(2)
    return a + b


async def two_tasks():
    a = asyncio.create_task(fetch(1))
    b = asyncio.create_task(fetch(2))
    return await a + await b


async def two_gathered():
    a, b = await asyncio.gather(fetch(1), fetch(2))
    return a + b


async def ten_gathered():
    return sum(await asyncio.gather(*(fetch(number) for number in range(1, 11))))


async def measure(way, work, expected, least, below):
    before = seconds()
    got = await work
    took = round(seconds() - before, 6)
    claim(
        got == expected and least <= took < below,
        f"{way} take {took:.2f} s, about {least:.2f} s, and sum up to {got}",
    )


async def main():
    global began
    began = asyncio.get_running_loop().time()

    await measure("two in turn", two_in_turn(), 203, 2, 3.5)
    await measure("two with create_task()", two_tasks(), 203, 1, 1.9)
    await measure("two with gather()", two_gathered(), 203, 1, 1.9)
    await measure("ten with gather()", ten_gathered(), 1055, 1, 5)
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
