"""The twin of examples/2_concurrent_tasks/task_coordinator.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
broken = 0


class Random:
    """C++'s std::minstd_rand."""

    def __init__(self, seed):
        self.state = seed % 2147483647 or 1

    def __call__(self):
        self.state = self.state * 48271 % 2147483647
        return self.state


def seconds():
    # Sums of floating-point delays miss 1.5 by some 1e-16.
    return round(asyncio.get_running_loop().time() - began, 6)


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


async def call(name, latency, fails):
    await asyncio.sleep(latency)
    if fails:
        raise RuntimeError(f"{name} is out of order")
    return f"data from {name}"


async def coordinate(services, limit):
    before = seconds()
    tasks = [
        asyncio.create_task(call(name, latency, fails), name=name)
        for name, latency, fails in services
    ]

    done, pending = await asyncio.wait(tasks, timeout=limit)

    successes = []
    failures = []
    for task in tasks:  # `done` is a set, without an order
        if task in done:
            try:
                successes.append(task.result())
            except RuntimeError as error:
                failures.append(str(error))
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    cancelled = sorted(task.get_name() for task in pending if task.cancelled())
    return successes, failures, cancelled, bool(pending), round(seconds() - before, 6)


def show(successes, failures, cancelled):
    for text in successes:
        say(text)
    for text in failures:
        say(f"failure: {text}")
    for text in cancelled:
        say(f"cancelled: {text}")


async def main(seed):
    global began
    began = asyncio.get_running_loop().time()

    say(f"seed {seed}")
    latencies = [0.5, 0.5, 0.5, 1.5, 1.5, 1.5, 2.5, 2.5]
    random = Random(seed)
    first = random() % 8
    second = (first + 1 + random() % 7) % 8
    services = [
        (f"service {i + 1}", latency, i in (first, second)) for i, latency in enumerate(latencies)
    ]

    say("limit 5 s:")
    successes, failures, cancelled, timed_out, took = await coordinate(services, 5)
    show(successes, failures, cancelled)

    say("limit 2 s:")
    fast, broken_fast, slow, cut, cut_took = await coordinate(services, 2)
    show(fast, broken_fast, slow)

    claim(
        len(successes) == 6 and len(failures) == 2 and not timed_out,
        f"5 s: {len(successes)} of 6 successes, {len(failures)} of 2 failures, not timed out",
    )
    claim(
        2.5 <= took < 4,
        f"it takes as long as the slowest: {took:.2f} s, not 11 s",
    )
    claim(
        cut and len(fast) + len(broken_fast) == 6,
        "2 s: timed out, and the six fast ones are done",
    )
    claim(slow == ["service 7", "service 8"], "the two slow ones are cancelled")
    claim(2 <= cut_took < 2.5, f"it ends at the limit of 2 s: {cut_took:.2f} s")
    return 1 if broken else 0


seed = int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else 1
sys.exit(run(main(seed), "--virtual" in sys.argv))
