#!/usr/bin/env python3
"""Micro benchmarks, peer: Python's asyncio. The same operations in the same words.

    python3 tests/benchmarks/micro.py [--json]
"""
import asyncio
import json
import sys
import time

BATCH = 1000


def cpu_ns():
    return time.thread_time_ns()


async def child(value):
    return value


async def await_children(n):
    start = cpu_ns()
    for i in range(n):
        await child(i)
    return (cpu_ns() - start) / n


async def fib(n):
    if n < 2:
        return n
    one = await fib(n - 1)
    two = await fib(n - 2)
    return one + two


async def call_fib(n):
    start = cpu_ns()
    assert await fib(20) == 6765
    return (cpu_ns() - start) / 21891


async def spawn_and_join(n):
    start = cpu_ns()
    for _ in range(n // BATCH):
        tasks = [asyncio.create_task(child(i)) for i in range(BATCH)]
        for task in tasks:
            await task
    return (cpu_ns() - start) / (n // BATCH * BATCH)


async def yield_to_the_loop(n):
    start = cpu_ns()
    for _ in range(n):
        await asyncio.sleep(0)
    return (cpu_ns() - start) / n


async def pass_through_a_queue(n):
    queue = asyncio.Queue(1)

    async def produce():
        for i in range(n):
            await queue.put(i)

    start = cpu_ns()
    producer = asyncio.create_task(produce())
    for _ in range(n):
        await queue.get()
    elapsed = cpu_ns() - start
    await producer
    return elapsed / n


OPERATIONS = [
    ("await", "await a child that does not suspend", await_children, 200_000),
    ("fib", "recursive fib coroutine, per call", call_fib, 0),
    ("spawn", "spawn a task, await it (batches of 1000)", spawn_and_join, 20_000),
    ("yield", "yield to the loop", yield_to_the_loop, 20_000),
    ("queue", "an item through a queue of 1, two tasks", pass_through_a_queue, 20_000),
]


def main():
    results = []
    for name, meaning, operation, n in OPERATIONS:
        rounds = sorted(asyncio.run(operation(n)) for _ in range(5))
        results.append({"name": name, "meaning": meaning, "min": rounds[0], "median": rounds[2]})
    if "--json" in sys.argv[1:]:
        version = ".".join(map(str, sys.version_info[:3]))
        print(json.dumps({"clock": "thread CPU time", "unit": "ns per operation",
                          "contender": "Python " + version, "operations": results}, indent=1))
        return
    print(f"{'CPU ns per operation':42} {'':16} {'min':>9} {'median':>9}")
    for one in results:
        print(f"{one['meaning']:42} {'Python asyncio':16} {one['min']:9.1f} {one['median']:9.1f}")


if __name__ == "__main__":
    main()
