"""The twin of examples/3_advanced_patterns/own_manager.cpp."""

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


events = []


def note(event):
    say(f"  {event}")
    events.append(event)


def happened():
    """What was noted since the last look."""
    seen = events.copy()
    events.clear()
    return seen


class Connection:
    def __init__(self):
        self.open_for = 0
        self._attempts = 0
        self._opened = 0

    async def __aenter__(self):
        note("enter")
        await retry(lambda number, pause: self._connect(), initial_delay=1, jitter=0)
        self._opened = seconds()
        return self

    async def __aexit__(self, kind, failure, traceback):
        if failure is None:
            note("exit after success")
        elif isinstance(failure, asyncio.CancelledError):
            note("exit after cancellation")
        else:
            note(f"exit after error: {failure}")
        self.open_for = seconds() - self._opened
        await asyncio.sleep(0.5)
        note("closed")
        return False

    async def _connect(self):
        await asyncio.sleep(0.1)
        self._attempts += 1
        if self._attempts == 1:
            note("the first attempt fails")
            raise RuntimeError("connection refused")
        note("connected")


async def work(fails):
    note("body begins")
    await asyncio.sleep(2)
    if fails:
        raise RuntimeError("bad data")
    note("body ends")


async def session(fails):
    link = Connection()
    try:
        async with link:
            await work(fails)
    except RuntimeError as error:
        note(f"the caller sees: {error}")
    return link.open_for


async def main():
    global began
    began = asyncio.get_running_loop().time()

    say("the body succeeds:")
    open_for = await session(False)
    success = happened()

    say("the body fails:")
    await session(True)
    failure = happened()

    say("the body is cancelled:")
    task = asyncio.create_task(session(False))
    await asyncio.sleep(2.2)
    task.cancel()
    await asyncio.wait([task])
    cancellation = happened()

    opening = ["enter", "the first attempt fails", "connected", "body begins"]
    claim(
        success == opening + ["body ends", "exit after success", "closed"],
        "success: enter, body begins, body ends, exit",
    )
    claim(
        failure == opening + ["exit after error: bad data", "closed", "the caller sees: bad data"],
        "error: the exit comes before the caller sees the error",
    )
    claim(
        cancellation == opening + ["exit after cancellation", "closed"] and task.cancelled(),
        "cancellation: the exit is awaited to its end, too",
    )
    claim(
        2 <= round(open_for, 6) < 4,
        f"the first connection was open for {open_for:.2f} s (about 2 s)",
    )
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
