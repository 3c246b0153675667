"""The twin of examples/3_advanced_patterns/request_tracing.cpp."""

import asyncio
import collections
import contextvars
import sys

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


request_id = contextvars.ContextVar("request_id")
lines = collections.defaultdict(list)


def log(text):
    say(f"[{request_id.get()}] {text}")
    lines[request_id.get()].append(text)


async def query_database(user):
    await asyncio.sleep(0.6)
    log(f"database answered about {user}")


async def call_api(user):
    await asyncio.sleep(1)
    log(f"API answered about {user}")


async def write_audit(user):
    await asyncio.sleep(1.4)
    log(f"audit written for {user}")


async def handle_request(id, user):
    request_id.set(id)
    log(f"request of {user}")
    audit = asyncio.create_task(write_audit(user))
    await asyncio.gather(query_database(user), call_api(user))
    log(f"answer for {user}")
    await audit


async def main():
    global began
    began = asyncio.get_running_loop().time()

    request_id.set("server")
    log("three requests arrive")
    users = {"req-1": "Alice", "req-2": "Bob", "req-3": "Carol"}
    requests = []
    for id, user in users.items():
        requests.append(asyncio.create_task(handle_request(id, user)))
        await asyncio.sleep(0.1)
    await asyncio.gather(*requests)
    log("all are answered")
    took = seconds()

    for id, user in users.items():
        expected = [
            f"request of {user}",
            f"database answered about {user}",
            f"API answered about {user}",
            f"answer for {user}",
            f"audit written for {user}",
        ]
        claim(sorted(lines[id]) == sorted(expected), f"the lines with {id} are those about {user}")
    claim(
        lines["server"] == ["three requests arrive", "all are answered"],
        "what the requests set did not reach the task that started them",
    )
    claim(1.6 <= took < 4, f"{took:.2f} s in all: about 1.6 s, not 4.2 s")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
