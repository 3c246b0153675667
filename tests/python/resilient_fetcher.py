"""The twin of examples/3_advanced_patterns/resilient_fetcher.cpp."""

import asyncio
import collections
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


class Random:
    """C++'s std::minstd_rand."""

    def __init__(self, seed):
        self.state = seed % 2147483647 or 1

    def __call__(self):
        self.state = self.state * 48271 % 2147483647
        return self.state


random_number = Random(1)
services = ["users", "orders", "prices", "slow", "flaky 1", "flaky 2"]
attempts = collections.defaultdict(list)


async def call(service):
    attempts[service].append(seconds())
    number = len(attempts[service])
    if number > 1:
        say(f"{service}: attempt {number}")
    await asyncio.sleep(4 if service == "slow" else 0.5)
    if service.startswith("flaky") and random_number() % 2 == 0:
        raise RuntimeError("upset")
    return f"{service} data"


async def fetch(service):
    status = "error"
    try:
        data = await retry(
            lambda number, pause: call(service), attempts=3, initial_delay=1, jitter=0, timeout=2
        )
        status = "success"
    except TimeoutError:
        data = "late"
    except RuntimeError as error:
        data = str(error)
    return status, data, seconds()


async def fetch_all(limit):
    tasks = {}
    attempts.clear()
    try:
        async with asyncio.timeout(limit):
            async with asyncio.TaskGroup() as group:
                for service in services:
                    tasks[service] = group.create_task(fetch(service))
    except TimeoutError:
        say("the limit for the whole cuts in")
    reports = {}
    for service, task in tasks.items():
        if task.cancelled():
            reports[service] = ("timeout", "cut off", seconds())
        else:
            reports[service] = task.result()
        status, data, at = reports[service]
        say(f"  {service}: {status}, {data}, attempts: {len(attempts[service])}")
    return reports


def others_are_complete(reports):
    for service, (status, data, at) in reports.items():
        flaky = service.startswith("flaky")
        made = len(attempts[service])
        good = data == f"{service} data" and made <= (3 if flaky else 1)
        gave_up = flaky and data == "upset" and made == 3
        if service != "slow" and not good and not gave_up:
            return False
    return len(reports) == len(services)


async def main(seed):
    global began, random_number
    began = asyncio.get_running_loop().time()
    say(f"seed {seed}")
    random_number = Random(seed)

    say("15 s for the whole:")
    patient = await fetch_all(15)
    status, data, at = patient["slow"]
    slow = attempts["slow"]
    gaps = [after - before - 2 for before, after in zip(slow, slow[1:])]
    figures = ", ".join(f"{gap:.2f}" for gap in gaps)
    claim(
        status == "error" and len(slow) == 3 and 9 <= at < 14,
        f"slow: an error after {len(slow)} attempts and {at:.2f} s (about 9 s)",
    )
    claim(
        len(gaps) == 2 and 1 - 1e-6 <= gaps[0] < gaps[1] and 2 - 1e-6 <= gaps[1],
        f"the gaps between its attempts grow: {figures} s",
    )
    claim(others_are_complete(patient), "the others: data, or an error after 3 attempts")

    restart = seconds()
    say("6 s for the whole:")
    hasty = await fetch_all(6)
    took = seconds() - restart
    claim(
        hasty["slow"][0] == "timeout" and len(attempts["slow"]) == 2,
        f"slow: cut off after {len(attempts['slow'])} attempts",
    )
    claim(6 <= took < 9, f"{took:.2f} s in all: the limit of 6 s, not 9 s")
    claim(others_are_complete(hasty), "the others were done before, and their results stay")
    return 1 if broken else 0


seed = int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else 1
sys.exit(run(main(seed), "--virtual" in sys.argv))
