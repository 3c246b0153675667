"""The twin of examples/2_concurrent_tasks/agent_coordinator.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
broken = 0
cancelled = []


def seconds():
    # Sums of floating-point delays miss 1.5 by some 1e-16.
    return round(asyncio.get_running_loop().time() - began, 6)


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


async def agent(name, takes, fails):
    try:
        await asyncio.sleep(takes)
    except asyncio.CancelledError:
        cancelled.append(name)
        raise
    if fails:
        say(f"{name} fails")
        raise RuntimeError(f"{name} failed")
    say(f"{name} is done")
    return f"{name}'s result"


async def coordinate(failing):
    before = seconds()
    results = []
    errors = []
    aborted = False
    cancelled.clear()
    try:
        async with asyncio.TaskGroup() as group:
            required = [
                group.create_task(agent("planner", 1, failing == "planner")),
                group.create_task(agent("writer", 1.5, failing == "writer")),
                group.create_task(agent("checker", 2.5, failing == "checker")),
            ]
            optional = await asyncio.gather(
                agent("painter", 0.5, failing == "painter"),
                agent("translator", 2, failing == "translator"),
                agent("adviser", 3, failing == "adviser"),
                return_exceptions=True,
            )
        results += [task.result() for task in required]
        for outcome in optional:
            if isinstance(outcome, Exception):
                errors.append(str(outcome))
            else:
                results.append(outcome)
    except* RuntimeError as raised:
        errors += [str(error) for error in raised.exceptions]
        aborted = True
    took = round(seconds() - before, 6)
    for text in errors:
        say(("aborted: " if aborted else "without: ") + text)
    return results, errors, aborted, took


async def main():
    global began
    began = asyncio.get_running_loop().time()

    say("an optional agent fails:")
    results, errors, aborted, took = await coordinate("painter")
    nobody = list(cancelled)

    say("a required agent fails:")
    no_results, fatal, was_aborted, short = await coordinate("writer")
    rest = sorted(cancelled)
    for name in rest:
        say(f"{name} is cancelled")

    claim(
        len(results) == 5 and errors == ["painter failed"] and not aborted and not nobody,
        f"an optional failure costs its own result: {len(results)} of 6 are there",
    )
    claim(took >= 3, f"and the others take their time: {took:.2f} s")
    claim(
        was_aborted and fatal == ["writer failed"] and not no_results,
        "a required failure ends everything: no result, and its error is thrown",
    )
    claim(
        rest == ["adviser", "checker", "translator"],
        "those that were not done are cancelled, required or not",
    )
    claim(1.5 <= short < 2, f"at the failure, at 1.5 s: {short:.2f} s")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
