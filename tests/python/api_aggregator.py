"""The twin of examples/1_foundations/api_aggregator.cpp."""

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


async def fetch(part, latency):
    await asyncio.sleep(latency)
    say(f"{part} are here")
    return f"the {part}"


async def main():
    global began
    began = asyncio.get_running_loop().time()

    parts = await asyncio.gather(
        asyncio.wait_for(fetch("prices", 0.5), 2),
        asyncio.wait_for(fetch("pictures", 1.2), 2),
        asyncio.wait_for(fetch("reviews", 3600), 2),
        return_exceptions=True,
    )

    took = seconds()
    arrived = late = 0
    for part in parts:
        if isinstance(part, str):
            say(f"on the page: {part}")
            arrived += 1
        elif isinstance(part, TimeoutError):
            say("not on the page: no answer within 2 s")
            late += 1

    claim(
        arrived == 2 and late == 1, f"{arrived} parts are on the page, {late} was too late"
    )
    claim(2 <= took < 3, f"{took:.2f} s in all: about 2 s, not an hour")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
