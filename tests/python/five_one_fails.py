"""The twin of examples/2_concurrent_tasks/five_one_fails.cpp."""

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


async def work(number):
    await asyncio.sleep(number * 0.5)
    if number == 3:
        raise RuntimeError("task 3 failed")
    say(f"task {number} ends")
    return number * 10


def start_five():
    return [asyncio.create_task(work(number)) for number in range(1, 6)]


async def main():
    global began
    began = asyncio.get_running_loop().time()

    say("gather() as it is:")
    tasks = start_five()
    thrown = ""
    try:
        await asyncio.gather(*tasks)
    except RuntimeError as error:
        thrown = str(error)
    thrown_at = seconds()
    say(f"gather() throws: {thrown}")
    still_running = [number for number in range(1, 6) if not tasks[number - 1].done()]
    await asyncio.wait(tasks)
    late_sum = tasks[3].result() + tasks[4].result()
    first_took = seconds()

    say("gather() with return_exceptions:")
    outcomes = await asyncio.gather(*start_five(), return_exceptions=True)
    second_took = round(seconds() - first_took, 6)
    values = 0
    errors = []
    for outcome in outcomes:
        if isinstance(outcome, Exception):
            say(f"error: {outcome}")
            errors.append(str(outcome))
        else:
            say(f"value: {outcome}")
            values += 1

    claim(
        thrown == "task 3 failed" and 1.5 <= thrown_at < 2,
        f"the error of task 3 is thrown when it happens, at {thrown_at:.2f} s",
    )
    claim(still_running == [4, 5], "tasks 4 and 5 run then, and nobody stops them")
    claim(
        late_sum == 90 and first_took >= 2.5,
        f"they end at {first_took:.2f} s, with results: {late_sum}",
    )
    claim(
        values == 4 and errors == ["task 3 failed"],
        f"with return_exceptions: {values} values and {len(errors)} error, and nothing is thrown",
    )
    claim(second_took >= 2.5, f"that takes as long as the longest: {second_took:.2f} s")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
