"""The twin of examples/1_foundations/service_fetcher.cpp."""

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


services = {"weather": 0.5, "news": 1.5, "stock": 2, "traffic": 0.7, "health": 1.2}


async def fetch(name, latency, fails):
    await asyncio.sleep(latency)
    if fails:
        raise RuntimeError(f"{name} is out of order")
    say(f"{name} is here")
    return f"{name} data"


def minstd(seed):
    """The first number of std::minstd_rand."""
    return (seed % 2147483647 or 1) * 48271 % 2147483647


async def main(seed):
    global began
    began = asyncio.get_running_loop().time()

    failing = list(services)[minstd(seed) % len(services)]
    say(f"seed {seed}: {failing} will fail")

    outcomes = await asyncio.gather(
        *(fetch(name, latency, name == failing) for name, latency in services.items()),
        return_exceptions=True,
    )

    took = seconds()
    results = 0
    failed = []
    for name, outcome in zip(services, outcomes):
        say(f"{name}: {outcome}")
        if isinstance(outcome, Exception):
            failed.append(name)
        else:
            results += 1

    claim(
        results == 4 and failed == [failing],
        f"{results} results, and the error is that of {failing}",
    )
    claim(2 <= took < 4, f"{took:.2f} s in all: about 2 s, not 5.9 s")
    return 1 if broken else 0


seed = int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else 1
sys.exit(run(main(seed), "--virtual" in sys.argv))
