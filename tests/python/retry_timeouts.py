"""The twin of examples/3_advanced_patterns/retry_timeouts.cpp."""

import asyncio
import sys

from resilience import retry
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


attempts = 0


async def call_api(name):
    global attempts
    attempts += 1
    await asyncio.sleep(3)
    return f"{name} data"


async def call_with_retries(name, retries):
    return await retry(
        lambda number, pause: call_api(name),
        attempts=1 + retries,
        initial_delay=1,
        jitter=0,
        timeout=2,
    )


async def all_with_retries(retries):
    global attempts
    before = seconds()
    attempts = 0
    outcomes = await asyncio.gather(
        call_with_retries("A", retries),
        call_with_retries("B", retries),
        call_with_retries("C", retries),
        return_exceptions=True,
    )
    succeeded = sum(isinstance(outcome, str) for outcome in outcomes)
    say(f"retries: {retries}, succeeded: {succeeded}")
    return succeeded, attempts, seconds() - before


async def all_with_one_limit():
    global attempts
    before = seconds()
    attempts = 0
    results = await asyncio.wait_for(
        asyncio.gather(call_api("A"), call_api("B"), call_api("C")), 5
    )
    say(f"one limit, succeeded: {len(results)}")
    return len(results), attempts, seconds() - before


def claim_failed(name, report, attempts_of_all, about):
    succeeded, attempts, took = report
    claim(
        succeeded == 0 and attempts == attempts_of_all and about <= took < about * 1.3 + 2,
        f"{name}: all 3 failed with {attempts} attempts in all, after {took:.2f} s"
        f" (about {about:.2f} s)",
    )


async def main():
    global began
    began = asyncio.get_running_loop().time()

    none = await all_with_retries(0)
    one = await all_with_retries(1)
    three = await all_with_retries(3)
    succeeded, attempts, took = await all_with_one_limit()

    claim_failed("no retry", none, 3, 2)
    claim_failed("1 retry", one, 6, 2 + 1 + 2)
    claim_failed("3 retries", three, 12, 2 + 1 + 2 + 2 + 2 + 4 + 2)
    claim(
        succeeded == 3 and attempts == 3 and 3 <= took < 5,
        f"one limit of 5 s: all 3 succeeded with {attempts} attempts in all, after {took:.2f} s"
        " (about 3 s)",
    )
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
