"""The twin of examples/2_concurrent_tasks/health_checker.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
broken = 0
failed_at = 0.0
cancelled_at = []


def seconds():
    # Sums of floating-point delays miss 1.5 by some 1e-16.
    return round(asyncio.get_running_loop().time() - began, 6)


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


async def check(number):
    global failed_at
    try:
        await asyncio.sleep(0.5 if number == 2 else 1.9 + number * 0.1)
    except asyncio.CancelledError:
        say(f"endpoint {number} is not needed any more")
        cancelled_at.append(seconds())
        raise
    if number == 2:
        failed_at = seconds()
        raise RuntimeError("endpoint 2 is down")


async def main():
    global began
    began = asyncio.get_running_loop().time()

    checks = []
    errors = []
    try:
        async with asyncio.TaskGroup() as group:
            for number in range(1, 11):
                checks.append(group.create_task(check(number)))
        say("healthy")
    except* RuntimeError as raised:
        for error in raised.exceptions:
            say(f"not healthy: {error}")
            errors.append(str(error))
    took = seconds()

    cancelled = sum(task.cancelled() for task in checks)
    claim(errors == ["endpoint 2 is down"], "the error is endpoint 2's")
    claim(
        cancelled == len(cancelled_at) == 9, f"all {cancelled} others are cancelled"
    )
    longest = max((at - failed_at for at in cancelled_at), default=0)
    claim(longest < 0.5, f"at once: within {longest:.2f} s of the failure")
    claim(0.5 <= took < 1.5, f"{took:.2f} s in all: about 0.5 s, not 2.9 s")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
