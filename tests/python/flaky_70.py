"""The twin of examples/3_advanced_patterns/flaky_70.cpp."""

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


class Random:
    """C++'s std::minstd_rand."""

    def __init__(self, seed):
        self.state = seed % 2147483647 or 1

    def __call__(self):
        self.state = self.state * 48271 % 2147483647
        return self.state


random_number = Random(2)
calls = 0
failures = 0


async def flaky_service():
    global calls, failures
    calls += 1
    await asyncio.sleep(0.1)
    if random_number() % 100 >= 70:
        return
    failures += 1
    raise RuntimeError("the service failed")


async def client(name):
    attempts = 0
    success = False
    before = seconds()

    async def call(number, pause):
        nonlocal attempts
        attempts += 1
        await flaky_service()

    try:
        await retry(call, attempts=4, initial_delay=1, jitter=0)
        success = True
    except RuntimeError:
        pass
    took = seconds() - before
    say(f"{name}: {'data' if success else 'nothing'}, attempts: {attempts}")
    return attempts, success, took


async def main(seed):
    global began, random_number
    began = asyncio.get_running_loop().time()
    say(f"seed {seed}")
    random_number = Random(seed)

    reports = await asyncio.gather(*(client(f"client {i}") for i in range(1, 11)))

    pauses = [0, 0, 1, 1 + 2, 1 + 2 + 4]
    attempts = sum(made for made, success, took in reports)
    successes = sum(success for made, success, took in reports)
    early_quitters = sum(not success and made < 4 for made, success, took in reports)
    late = [took - pauses[made] - made * 0.1 for made, success, took in reports]
    claim(
        min(late) > -1e-6 and max(late) < 3,
        "each took 0.1 s for each attempt, and 1, 2, 4 s between them: "
        f"{max(late):.2f} s late at most",
    )
    claim(
        attempts == calls and attempts - successes == failures,
        f"{attempts} attempts reached the service, and {failures} of them failed",
    )
    claim(
        early_quitters == 0,
        f"{successes} clients succeeded, and {10 - successes} gave up, after all 4 attempts",
    )
    return 1 if broken else 0


seed = int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else 2
sys.exit(run(main(seed), "--virtual" in sys.argv))
