"""The twin of examples/2_concurrent_tasks/partial_failures.cpp."""

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


async def call(server):
    await asyncio.sleep(0.5)
    if server == "B":
        raise ConnectionError("B is unreachable")
    return f"data from {server}"


async def main():
    global began
    began = asyncio.get_running_loop().time()

    outcomes = await asyncio.gather(call("A"), call("B"), call("C"), return_exceptions=True)

    took = seconds()
    succeeded = []
    failed = []
    for i, outcome in enumerate(outcomes):
        if isinstance(outcome, Exception):
            say(f"{i}: failure: {outcome}")
            failed.append(i)
        else:
            say(f"{i}: success: {outcome}")
            succeeded.append(i)
    claim(succeeded == [0, 2], f"{len(succeeded)} successes, at 0 and 2: A and C")
    claim(failed == [1], f"{len(failed)} failure, at 1: B")
    claim(0.5 <= took < 1, f"{took:.2f} s in all: about 0.5 s, not 1.5 s")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
