"""The twin of examples/3_advanced_patterns/blocking_the_loop.cpp."""

import asyncio
import sys
import time

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


async def print_dots(pause):
    times = []
    for _ in range(5):
        await asyncio.sleep(pause)
        say(".")
        times.append(seconds())
    return times


async def dots_during(kind, span):
    dots = asyncio.create_task(print_dots(span / 6))
    await asyncio.sleep(0)
    say(f"the {kind} sleep begins")
    if kind == "blocking":
        time.sleep(span)
    else:
        await asyncio.sleep(span)
    end = seconds()
    return sum(moment < end for moment in await dots)


async def main(span):
    global began
    began = asyncio.get_running_loop().time()

    blocked = await dots_during("blocking", span)
    yielded = await dots_during("yielding", span)
    claim(blocked == 0, f"{blocked} of 5 dots came during the blocking sleep")
    claim(yielded >= 2, f"{yielded} of 5 dots came during the yielding sleep")
    return 1 if broken else 0


sys.exit(asyncio.run(main(1.2 if "--quick" in sys.argv else 3)))
