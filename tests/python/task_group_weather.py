"""The twin of examples/2_concurrent_tasks/task_group_weather.cpp."""

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


async def ask(station, latency, degrees):
    await asyncio.sleep(latency)
    say(f"{station} answers: {degrees} degrees")
    return degrees


async def main():
    global began
    began = asyncio.get_running_loop().time()

    async with asyncio.TaskGroup() as group:
        stations = [
            group.create_task(ask("north", 1, 4)),
            group.create_task(ask("east", 1.2, 9)),
            group.create_task(ask("south", 1.5, 15)),
            group.create_task(ask("west", 0.8, 8)),
        ]
        done_at_once = any(station.done() for station in stations)

    took = seconds()
    all_done = all(station.done() for station in stations)
    say(f"on average: {sum(station.result() for station in stations) // 4} degrees")
    claim(
        not done_at_once and all_done,
        "no task is done inside the block, and all are after it",
    )
    claim(
        [station.result() for station in stations] == [4, 9, 15, 8],
        "the results are read from the tasks",
    )
    claim(1.5 <= took < 3, f"{took:.2f} s in all: about 1.5 s, not 4.5 s")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
