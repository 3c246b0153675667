"""The twin of examples/3_advanced_patterns/one_of_three.cpp."""

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


events = []


def note(event):
    say(event)
    events.append(event)


async def fetch(name, latency):
    try:
        await asyncio.sleep(latency)
    except asyncio.CancelledError:
        note(f"{name} is cancelled")
        raise
    note(f"{name} ends")
    return f"data from {name}"


async def main():
    global began
    began = asyncio.get_running_loop().time()

    say("wait_for: a limit of 2 s for each")
    results = await asyncio.gather(
        asyncio.wait_for(fetch("A", 0.5), 2),
        asyncio.wait_for(fetch("B", 5), 2),
        asyncio.wait_for(fetch("C", 1), 2),
        return_exceptions=True,
    )
    limited = seconds()
    texts = []
    for result in results:
        if isinstance(result, Exception):
            texts.append("timeout" if isinstance(result, TimeoutError) else "error")
        else:
            texts.append(result)
        say(f"  {texts[-1]}")
    first = events.copy()

    say("wait: done and pending after 2 s")
    tasks = [
        asyncio.create_task(fetch("A", 0.5), name="A"),
        asyncio.create_task(fetch("B", 5), name="B"),
        asyncio.create_task(fetch("C", 1), name="C"),
    ]
    events.clear()
    done, pending = await asyncio.wait(tasks, timeout=2)
    looked = seconds() - limited
    for task in tasks:  # `done` is a set, without an order
        if task in done:
            say(f"  done: {task.result()}")
    for task in pending:
        say(f"  pending: {task.get_name()}")
    late = await tasks[1]
    waited = seconds() - limited
    say(f"  at last: {late}")

    claim(
        texts == ["data from A", "timeout", "data from C"] and 2 <= limited < 4,
        f"wait_for: two values and one timeout, after {limited:.2f} s (about 2 s)",
    )
    claim(first == ["A ends", "C ends", "B is cancelled"], "wait_for cancels the late one")
    claim(
        done == {tasks[0], tasks[2]} and pending == {tasks[1]} and 2 <= looked < 4,
        f"wait: two done and one pending, after {looked:.2f} s (about 2 s)",
    )
    claim(
        events == ["A ends", "C ends", "B ends"] and 5 <= waited < 8,
        f"wait cancels nothing: the late one ends, after {waited:.2f} s (about 5 s)",
    )
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
