"""The twin of examples/1_foundations/inspect_tasks.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
broken = 0


def seconds():
    return asyncio.get_running_loop().time() - began


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


tasks = []
seen_by_c = seen_by_watcher = unfinished = ""


def state(task):
    if task.done():
        return "done"
    return "running" if task is asyncio.current_task() else "pending"


def states():
    text = ", ".join(f"{task.get_name()} {state(task)}" for task in tasks)
    say(text)
    return text


async def receive(amount):
    await asyncio.sleep(amount)


async def download(amount):
    global seen_by_c
    if asyncio.current_task().get_name() == "C":
        seen_by_c = states()
    await receive(amount)
    return amount


async def watch(main_task):
    global seen_by_watcher, unfinished
    await asyncio.sleep(2.5)
    say("two and a half seconds later:")
    seen_by_watcher = states()

    alive = asyncio.all_tasks()  # a set, without an order
    for task in [main_task, *tasks, asyncio.current_task()]:
        if task in alive:
            unfinished += f" {task.get_name()}"
    say(f"unfinished:{unfinished}")
    # The call graph itself came with Python 3.14.
    say("where E waits, and who waits for E:")


async def main():
    global began
    began = asyncio.get_running_loop().time()

    for amount, name in enumerate("ABCDE", 1):
        tasks.append(asyncio.create_task(download(amount), name=name))
    watcher = asyncio.create_task(watch(asyncio.current_task()), name="watcher")
    say("scheduled, and none of them has begun:")
    at_first = states()

    say("when it is C's turn:")
    await asyncio.gather(*tasks)
    await watcher
    say("at the end:")
    at_last = states()

    claim(
        at_first == "A pending, B pending, C pending, D pending, E pending",
        "what is scheduled is pending",
    )
    claim(
        seen_by_c == "A pending, B pending, C running, D pending, E pending",
        "one task runs at a time; the others wait",
    )
    claim(
        seen_by_watcher == "A done, B done, C pending, D pending, E pending",
        "after 2.5 s those of 1 s and 2 s are done",
    )
    claim(unfinished == " Task-1 C D E watcher", "all_tasks() lists the unfinished ones")
    claim(at_last == "A done, B done, C done, D done, E done", "in the end all are done")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
