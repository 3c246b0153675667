"""The twin of examples/1_foundations/sequential_trap.cpp."""

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


async def fetch(number):
    await asyncio.sleep(1)
    say(f"fetch {number} ends")
    return number


async def failing_fetch(number):
    await asyncio.sleep(0.5)
    raise RuntimeError(f"fetch {number} fails")


def start_five(third_fails):
    return [
        asyncio.create_task(failing_fetch(i) if third_fails and i == 3 else fetch(i))
        for i in range(1, 6)
    ]


async def main():
    global began
    began = asyncio.get_running_loop().time()

    say("1. co_await in a loop")
    start = seconds()
    for i in range(1, 6):
        await fetch(i)
    in_turn = seconds() - start

    say("2. started first, then awaited")
    start = seconds()
    for task in start_five(False):
        await task
    at_once = seconds() - start

    say("3. the third fails: gather() throws")
    tasks = start_five(True)
    error = ""
    try:
        await asyncio.gather(*tasks)
    except RuntimeError as e:
        error = str(e)
    running = sum(not task.done() for task in tasks)
    say(f"{error}, and {running} others run on")

    say("4. gather() with return_exceptions waits for all")
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    results = sum(not isinstance(outcome, Exception) for outcome in outcomes)
    say(f"{results} results, 1 error: {outcomes[2]}")

    claim(in_turn >= 5, f"{in_turn:.2f} s in the loop: five times 1 s")
    claim(1 <= at_once < 3, f"{at_once:.2f} s when started first: about 1 s")
    claim(error == "fetch 3 fails" and running == 4, "gather() threw at once, the others went on")
    claim(
        results == 4 and isinstance(outcomes[2], Exception),
        "with return_exceptions: 4 results and 1 error",
    )
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
