"""The twin of examples/1_foundations/dashboard.cpp."""

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


services = ["orders", "payments", "stock", "mail", "search",
            "users", "billing", "images", "reports", "logins"]


async def ask(service):
    await asyncio.sleep(2)
    say(f"{service} answers")
    return f"{service} is up"


async def main():
    global began
    began = asyncio.get_running_loop().time()

    say("in turn:")
    one_by_one = [await ask(service) for service in services]
    in_turn = seconds()

    say("at once:")
    together = await asyncio.gather(*map(ask, services))
    at_once = seconds() - in_turn

    claim(one_by_one == together, "both ways give the same answers in the same order")
    claim(in_turn >= 20, f"{in_turn:.2f} s in turn: ten times 2 s")
    claim(2 <= at_once < 5, f"{at_once:.2f} s at once: about 2 s")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
