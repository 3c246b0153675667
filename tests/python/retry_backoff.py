"""The twin of examples/3_advanced_patterns/retry_backoff.cpp."""

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


async def call_service(name, number):
    call = f"call {number}"
    say(f"{name}: {call}")
    if name == "shaky" and number == 1:
        await asyncio.sleep(3600)
    if name == "shaky" and number == 3:
        return f"data of {call}"
    raise RuntimeError(f"{call} was refused")


async def ask(name, longest_pause):
    announced = []
    made = []
    before = seconds()
    failed_at = 0

    async def call(number, pause):
        nonlocal failed_at
        if number > 1:
            made.append(seconds() - failed_at)
        if number < 4:
            announced.append(pause)
        try:
            return await call_service(name, number)
        except BaseException:
            failed_at = seconds()
            raise

    try:
        result = await retry(
            call,
            attempts=4,
            initial_delay=1,
            max_delay=longest_pause,
            factor=2,
            jitter=0.1,
            timeout=5,
        )
    except RuntimeError as error:
        result = str(error)
    took = seconds() - before
    say(f"{name}: {result}")
    return result, announced, made, took


def claim_pauses(name, announced, made, least, most):
    within = len(made) == len(least)
    for chosen, pause, lower, upper in zip(announced, made, least, most):
        within = within and lower <= chosen <= upper and chosen - 1e-6 <= pause < chosen + 3
    figures = ", ".join(f"{pause:.2f}" for pause in made)
    claim(within, f"{name}: pauses of {figures} s are within their bounds")


async def main():
    global began
    began = asyncio.get_running_loop().time()

    shaky = await ask("shaky", 32)
    dead = await ask("dead", 32)
    capped = await ask("capped", 2)

    result, announced, made, took = shaky
    claim(
        result == "data of call 3" and 8 <= took < 13,
        f"shaky: {result} after {took:.2f} s (about 8 s)",
    )
    claim_pauses("shaky", announced, made, [1, 2], [1.1, 2.2])
    result, announced, made, took = dead
    claim(result == "call 4 was refused", f"dead: the last error, {result}")
    claim_pauses("dead", announced, made, [1, 2, 4], [1.1, 2.2, 4.4])
    result, announced, made, took = capped
    claim_pauses("capped", announced, made, [1, 2, 2], [1.1, 2, 2])
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
