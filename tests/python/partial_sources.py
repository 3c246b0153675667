"""The twin of examples/3_advanced_patterns/partial_sources.cpp."""

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


async def fetch(source):
    if source == "news":
        await asyncio.sleep(10)
    await asyncio.sleep(1)
    if source == "stock":
        raise ConnectionRefusedError
    return f"{source} data"


async def fetch_all(sources, limit):
    outcomes = await asyncio.gather(
        *(asyncio.wait_for(fetch(source), limit) for source in sources), return_exceptions=True
    )
    found = {}
    for source, outcome in zip(sources, outcomes):
        if isinstance(outcome, Exception):
            found[source] = None
            late = isinstance(outcome, TimeoutError)
            say(f"{source}: nothing, " + ("it is too late" if late else "it refuses"))
        else:
            found[source] = outcome
            say(f"{source}: {outcome}")
    return found


async def main():
    global began
    began = asyncio.get_running_loop().time()

    found = await fetch_all(["weather", "news", "stock"], 2)
    took = seconds()

    claim(
        found == {"weather": "weather data", "news": None, "stock": None},
        "each of 3 sources is in the answer, 1 with data, 2 with nothing",
    )
    claim(2 <= took < 4, f"{took:.2f} s in all: the limit of 2 s, not the 11 s of news")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
