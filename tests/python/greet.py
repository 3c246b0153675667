"""The twin of examples/1_foundations/greet.cpp."""

import asyncio
import sys

from virtual_clock import run


async def greet(name):
    await asyncio.sleep(0.01)
    return f"Hello, {name}!"


greeting = run(greet("Alice"), "--virtual" in sys.argv)
print(greeting)

holds = greeting == "Hello, Alice!"
print("holds: " if holds else "BROKEN:", "run() gives what the coroutine returns")
sys.exit(0 if holds else 1)
