"""The twin of examples/3_advanced_patterns/timeout_basic.cpp."""

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


ended = []


async def call(name, latency):
    say(f"the {name} call starts")
    await asyncio.sleep(latency)
    say(f"the {name} call ends")
    ended.append(name)
    return f"{name} data"


async def main():
    global began
    began = asyncio.get_running_loop().time()

    slow = "nothing"
    try:
        async with asyncio.timeout(5):
            slow = await call("slow", 10)
    except TimeoutError:
        say("timeout_error: the slow call took too long")
        slow = "timeout"
    gave_up = seconds()

    async with asyncio.timeout(5):
        fast = await call("fast", 1)
    took = seconds() - gave_up
    say(f"the fast call gave: {fast}")

    claim(
        slow == "timeout" and 5 <= gave_up < 7,
        f"the slow call: {slow} after {gave_up:.2f} s (about 5 s, not 10 s)",
    )
    claim(
        fast == "fast data" and 1 <= took < 3,
        f"the fast call: {fast} after {took:.2f} s (about 1 s)",
    )
    claim(ended == ["fast"], "the slow call was cancelled: it never ended")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
