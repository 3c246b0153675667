"""The twin of examples/1_foundations/sync_vs_async.cpp."""

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


def blocking_call(latency):
    time.sleep(latency)


async def async_call(latency):
    await asyncio.sleep(latency)


def five_blocking(latency):
    start = seconds()
    for i in range(1, 6):
        blocking_call(latency)
        say(f"blocking call {i} ends")
    return seconds() - start


async def five_async(latency):
    start = seconds()
    await asyncio.gather(*(async_call(latency) for _ in range(5)))
    return seconds() - start


async def main(latency):
    global began
    began = asyncio.get_running_loop().time()

    blocking = five_blocking(latency)

    waiting = await five_async(latency)
    say("five async calls end")

    for _ in range(2):
        if blocking / waiting < 4.8:
            waiting = min(waiting, await five_async(latency))
    claim(
        blocking / waiting >= 4.8,
        f"{blocking:.2f} s blocking, {waiting:.2f} s async: "
        f"{blocking / waiting:.2f} times as fast, at least 4.8",
    )
    return 1 if broken else 0


sys.exit(run(main(0.5 if "--quick" in sys.argv else 1), virtual=False))
