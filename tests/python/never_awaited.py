"""The twin of examples/3_advanced_patterns/never_awaited.cpp."""

import asyncio
import re
import sys
import warnings

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


saved = []


async def save(order):
    await asyncio.sleep(0.5)
    saved.append(order)
    say(f"order {order} is saved")


async def pitfall():
    saving = save(1)
    await asyncio.sleep(1)


pitfall_line = pitfall.__code__.co_firstlineno + 1


async def fix():
    await save(2)

    saving = asyncio.create_task(save(3))
    say("order 3 is being saved")
    await saving


reports = []


def report(message, *_):
    print(message, file=sys.stderr)
    reports.append(str(message))


async def main():
    global began
    began = asyncio.get_running_loop().time()
    sys.set_coroutine_origin_tracking_depth(1)  # part of Python's debug mode
    warnings.showwarning = report

    say("the pitfall:")
    await pitfall()
    after_pitfall = saved.copy()
    text = reports[0] if len(reports) == 1 else ""

    say("the fix:")
    await fix()

    place = re.search(r'never_awaited\.py", line (\d+)', text)
    line = int(place[1]) if place else 0
    claim(after_pitfall == [], "what nobody awaits does not run: order 1 is not saved")
    claim(
        "never awaited" in text and "save" in text and line == pitfall_line,
        f"the report names save() and line {line} of its file",
    )
    claim(
        saved == [2, 3] and len(reports) == 1,
        "with co_await or create_task() it runs, and there is nothing to report",
    )
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
