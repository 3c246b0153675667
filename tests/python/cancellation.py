"""The twin of examples/3_advanced_patterns/cancellation.cpp."""

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


async def long_work():
    try:
        for step in range(10):
            await asyncio.sleep(0.7)
            note(f"step {step} is done")
    except asyncio.CancelledError:
        note("cleanup")
        raise
    return 10


async def main():
    global began
    began = asyncio.get_running_loop().time()

    task = asyncio.create_task(long_work())
    await asyncio.sleep(2)
    accepted = task.cancel()
    still_running = not task.done()
    say("cancel() was called")
    try:
        await task
    except asyncio.CancelledError:
        note("the caller sees a cancelled_error")
    ended = seconds()

    claim(accepted and still_running, "cancel() is a request: the task ends when it runs next")
    claim(
        events
        == ["step 0 is done", "step 1 is done", "cleanup", "the caller sees a cancelled_error"],
        "steps 0 and 1 ran, then the cleanup; awaiting the task throws cancelled_error",
    )
    claim(
        task.cancelled() and 2 <= ended < 5,
        f"the task ended as cancelled after {ended:.2f} s: about 2 s, not 7 s",
    )
    claim(not task.cancel(), "there is nothing to cancel in a task that has ended")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
