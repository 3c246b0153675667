"""The twin of examples/3_advanced_patterns/future_monitor.cpp."""

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


arrived = set()


async def download(name, latency):
    await asyncio.sleep(latency)
    arrived.add(name)
    return f"data of {name}"


async def main():
    global began
    began = asyncio.get_running_loop().time()

    futures = {
        "A": asyncio.create_task(download("A", 0.7)),
        "B": asyncio.create_task(download("B", 2.2)),
        "C": asyncio.create_task(download("C", 3.7)),
    }

    always_true = True
    states = []
    done = 0
    while done < len(futures):
        done = sum(future.done() for future in futures.values())
        state = ", ".join(
            f"{name} {'done' if future.done() else 'pending'}" for name, future in futures.items()
        )
        for name, future in futures.items():
            always_true = always_true and future.done() == (name in arrived)
        say(state)
        if state not in states:
            states.append(state)
        if done < len(futures):
            await asyncio.sleep(0.5)
    for future in futures.values():
        say(future.result())

    claim(always_true, "done() was true for what had arrived, and for nothing else")
    claim(
        states
        == [
            "A pending, B pending, C pending",
            "A done, B pending, C pending",
            "A done, B done, C pending",
            "A done, B done, C done",
        ],
        "the futures were seen to become done one after the other",
    )
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
