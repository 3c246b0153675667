"""The twin of examples/2_concurrent_tasks/gather_weather.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
broken = 0
answers = []


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
    answers.append(station)
    return degrees


async def main():
    global began
    began = asyncio.get_running_loop().time()

    north, east, south, west = await asyncio.gather(
        ask("north", 1, 4), ask("east", 1.2, 9), ask("south", 1.5, 15), ask("west", 0.8, 8)
    )

    took = seconds()
    say(f"on average: {(north + east + south + west) // 4} degrees")
    claim(answers == ["west", "north", "east", "south"], "the fastest station answers first")
    claim(
        (north, east, south, west) == (4, 9, 15, 8),
        "the results are in the order of the arguments",
    )
    claim(1.5 <= took < 3, f"{took:.2f} s in all: about 1.5 s, not 4.5 s")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
