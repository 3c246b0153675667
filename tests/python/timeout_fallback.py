"""The twin of examples/3_advanced_patterns/timeout_fallback.cpp."""

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


async def fetch_profile(latency):
    await asyncio.sleep(latency)
    return "Alice's profile"


async def profile_within_3s(latency, fallback):
    try:
        return await asyncio.wait_for(fetch_profile(latency), 3)
    except TimeoutError:
        if fallback is None:
            raise
        say("too late: the fallback stands in")
    return fallback


async def main():
    global began
    began = asyncio.get_running_loop().time()

    in_time = await profile_within_3s(1, "a guest's profile")
    first = seconds()
    say(f"the call of 1 s gave: {in_time}")

    late = await profile_within_3s(10, "a guest's profile")
    second = seconds() - first
    say(f"the call of 10 s gave: {late}")

    without = "a value"
    try:
        await profile_within_3s(10, None)
    except TimeoutError:
        without = "timeout_error"
    third = seconds() - first - second
    say(f"the call of 10 s without a fallback gave: {without}")

    claim(
        in_time == "Alice's profile" and 1 <= first < 3,
        f"in time: the value itself, after {first:.2f} s (about 1 s)",
    )
    claim(
        late == "a guest's profile" and 3 <= second < 5,
        f"late: the fallback, after {second:.2f} s (about 3 s, not 10 s)",
    )
    claim(
        without == "timeout_error" and 3 <= third < 5,
        f"late and no fallback: the error, after {third:.2f} s (about 3 s, not 10 s)",
    )
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
