"""The twin of examples/3_advanced_patterns/timeout_discovery.cpp."""

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


ended = 0


async def slow_call():
    global ended
    await asyncio.sleep(5)
    ended += 1
    return "data"


async def call_within(limit):
    before = seconds()
    value = "timeout"
    try:
        value = await asyncio.wait_for(slow_call(), limit)
    except TimeoutError:
        pass
    say(value)
    return value, seconds() - before


async def main():
    global began
    began = asyncio.get_running_loop().time()

    say("no limit:")
    without, without_took = await call_within(None)
    say("a limit of 10 s:")
    generous, generous_took = await call_within(10)
    say("a limit of 2 s:")
    strict, strict_took = await call_within(2)

    claim(
        without == "data" and 5 <= without_took < 8,
        f"no limit: {without} after {without_took:.2f} s (about 5 s)",
    )
    claim(
        generous == "data" and 5 <= generous_took < 8,
        f"10 s: {generous} after {generous_took:.2f} s (about 5 s)",
    )
    claim(
        strict == "timeout" and 2 <= strict_took < 4,
        f"2 s: {strict} after {strict_took:.2f} s (about 2 s)",
    )
    claim(ended == 2, f"{ended} of 3 calls came to their end")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
