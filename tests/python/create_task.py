"""The twin of examples/2_concurrent_tasks/create_task.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
broken = 0
starts = []
ends = []


def seconds():
    # Sums of floating-point delays miss 1.5 by some 1e-16.
    return round(asyncio.get_running_loop().time() - began, 6)


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


async def call(service, latency):
    say(f"{service} starts")
    starts.append(seconds())
    await asyncio.sleep(latency)
    say(f"{service} ends")
    ends.append(seconds())
    return f"data from {service}"


async def main():
    global began
    began = asyncio.get_running_loop().time()

    say("awaited in turn:")
    in_turn = [await call("A", 1), await call("B", 1.5), await call("C", 1)]
    turn_took = seconds()

    say("created as tasks, then awaited:")
    starts.clear()
    ends.clear()
    a = asyncio.create_task(call("A", 1))
    b = asyncio.create_task(call("B", 1.5))
    c = asyncio.create_task(call("C", 1))
    say("three tasks are scheduled, and we are still here")
    none_started = not starts

    as_tasks = [await a, await b, await c]
    tasks_took = seconds() - turn_took

    apart = max(starts) - min(starts)
    claim(none_started, "create_task() only schedules: nothing starts before the first co_await")
    claim(max(starts) <= ends[0], "all start before any ends")
    claim(apart < 0.5, f"all start together, within {apart:.2f} s")
    claim(as_tasks == in_turn, "the results are the same")
    claim(turn_took >= 3.5, f"{turn_took:.2f} s in turn: 1 s + 1.5 s + 1 s")
    claim(
        1.5 <= tasks_took < 2.5,
        f"{tasks_took:.2f} s as tasks: about 1.5 s, as long as the longest",
    )
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
