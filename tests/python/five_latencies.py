"""The twin of examples/1_foundations/five_latencies.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
broken = 0


def seconds():
    return asyncio.get_running_loop().time() - began


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


async def answer(latency):
    await asyncio.sleep(latency)
    say(f"the answer after {latency:.2f} s is here")
    return latency


async def main():
    global began
    began = asyncio.get_running_loop().time()

    latencies = await asyncio.gather(*map(answer, [0.5, 1, 1.5, 2, 2.5]))

    took = seconds()
    longest = max(latencies)
    total = sum(latencies)
    say(f"longest {longest:.2f} s, sum {total:.2f} s")

    claim(longest <= took < (longest + total) / 2, f"{took:.2f} s in all: about 2.5 s, not 7.5 s")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
