"""The twin of examples/1_foundations/fetch_users.cpp."""

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


names = {1: "Alice", 3: "Carol", 4: "Dave", 5: "Erin"}


async def fetch_user(id):
    await asyncio.sleep(1)
    if id not in names:
        raise RuntimeError(f"user {id} does not exist")
    return names[id]


async def main():
    global began
    began = asyncio.get_running_loop().time()

    outcomes = await asyncio.gather(*map(fetch_user, range(1, 6)), return_exceptions=True)

    took = seconds()
    found = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    errors = [str(outcome) for outcome in outcomes if isinstance(outcome, Exception)]
    for name in found:
        say(f"found {name}")
    for error in errors:
        say(f"error: {error}")

    claim(len(found) == 4 and len(errors) == 1, f"{len(found)} users and {len(errors)} error")
    claim(errors == ["user 2 does not exist"], "the error is user 2's")
    claim(1 <= took < 2, f"{took:.2f} s in all: about 1 s, not 5 s")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
