"""The twin of examples/1_foundations/blocking_discovery.cpp."""

import asyncio
import sys
import time

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


async def blocking_call(number, latency):
    time.sleep(latency)
    say(f"blocking call {number} ends")


async def async_call(number, latency):
    await asyncio.sleep(latency)
    say(f"async call {number} ends")


async def main(latency):
    global began
    began = asyncio.get_running_loop().time()

    start = seconds()
    await blocking_call(1, latency)
    one_blocking = seconds() - start

    start = seconds()
    await async_call(1, latency)
    one_async = seconds() - start

    start = seconds()
    await asyncio.gather(*(blocking_call(i, latency) for i in range(1, 6)))
    five_blocking = seconds() - start

    start = seconds()
    await asyncio.gather(*(async_call(i, latency) for i in range(1, 6)))
    five_async = seconds() - start

    # Python's loop may wake a timer earlier, by what its clock can resolve.
    one = latency - 1e-6
    claim(
        one_blocking >= one and one_async >= one,
        f"one task: {one_blocking:.2f} s blocking, {one_async:.2f} s async: no gain",
    )
    claim(
        five_blocking >= 5 * one and one <= five_async < 3 * one,
        f"five tasks: {five_blocking:.2f} s blocking, {five_async:.2f} s async",
    )
    return 1 if broken else 0


sys.exit(run(main(0.3 if "--quick" in sys.argv else 3), virtual=False))
