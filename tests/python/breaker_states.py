"""The twin of examples/3_advanced_patterns/breaker_states.cpp."""

import asyncio
import sys

from resilience import CircuitBreaker, CircuitOpenError
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


reached = 0


async def service():
    global reached
    reached += 1
    if seconds() < 17:
        raise RuntimeError("the service is down")


async def main():
    global began
    began = asyncio.get_running_loop().time()

    states = "closed"
    since = [0]

    def changed(before, after):
        nonlocal states
        say(f"{before} -> {after}")
        states += f", {after}"
        since.append(seconds())

    breaker = CircuitBreaker(failures=3, open_for=10, on_change=changed)

    calls = ""
    while not calls.endswith("S"):
        if calls:
            await asyncio.sleep(1)
        try:
            await breaker.call(service)
            calls += "S"
        except CircuitOpenError:
            calls += "."
        except RuntimeError:
            calls += "F"
    say(f"all calls, one each second: {calls}")

    claim(
        states == "closed, open, half_open, open, half_open, closed",
        f"the circuit was {states}",
    )
    refused = calls.count(".")
    claim(
        reached == 5 and refused > 0 and len(calls) == reached + refused,
        f"of {len(calls)} calls {reached} reached the service: 3 failures, 2 trials",
    )
    first = since[2] - since[1]
    second = since[4] - since[3]
    claim(
        10 <= first < 13 and 10 <= second < 13,
        f"the circuit was open for {first:.2f} s and {second:.2f} s (about 10 s)",
    )
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
