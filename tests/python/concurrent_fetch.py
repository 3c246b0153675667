"""The twin of examples/1_foundations/concurrent_fetch.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
events = []
broken = 0


def seconds():
    return asyncio.get_running_loop().time() - began


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


async def fetch(name, latency):
    say(f"{name} starts")
    events.append(f"{name} starts")
    await asyncio.sleep(latency)
    say(f"{name} ends")
    events.append(f"{name} ends")
    return f"data from {name}"


async def main():
    global began
    began = asyncio.get_running_loop().time()

    results = await asyncio.gather(fetch("A", 1), fetch("B", 2), fetch("C", 1.5))

    took = seconds()
    for text in results:
        say(text)
    claim(
        events == ["A starts", "B starts", "C starts", "A ends", "C ends", "B ends"],
        "all start before any ends, and A ends first, then C, then B",
    )
    claim(
        results == ["data from A", "data from B", "data from C"],
        "the results are in the order of the arguments",
    )
    claim(2 <= took < 3, f"{took:.2f} s in all: about 2 s, not 4.5 s")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
