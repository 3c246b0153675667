#!/usr/bin/env python3
"""What examples/5_hybrid/three_stage_pipeline.cpp does, with Python's asyncio and worker processes:
30 items are fetched (50 ms, ten at once), transformed (0.1 s of one core, two workers) and stored
(20 ms); in turn, then as three stages with queues of at most 20 between them."""

import asyncio
import concurrent.futures
import sys
import time

ITEMS = 30
QUICK = "--quick" in sys.argv
SECOND = 0.1 if QUICK else 1  # how long a second of the exercise is
END = None  # goes through a queue when no more items come


def transform(item, rounds):
    """A fixed amount of work; gives its result, and the processor time that it took."""
    began = time.process_time()
    digest = item
    for _ in range(rounds):
        digest = ((digest ^ digest >> 29) * 0xBF58476D1CE4E5B9 + 1) & 0xFFFFFFFFFFFFFFFF
    return digest, time.process_time() - began


async def fetch(item):
    await asyncio.sleep(0.05 * SECOND)
    return item


async def store(digest, stored):
    await asyncio.sleep(0.02 * SECOND)
    stored.append(digest)


def submit(pool, item, rounds):
    return asyncio.get_running_loop().run_in_executor(pool, transform, item, rounds)


async def in_turn(pool, rounds):
    stored = []
    for i in range(ITEMS):
        item = await fetch(i)
        digest, _ = await submit(pool, item, rounds)
        await store(digest, stored)
    return stored


async def fetch_stage(fetched):
    for first in range(0, ITEMS, 10):
        for item in await asyncio.gather(*map(fetch, range(first, first + 10))):
            await fetched.put(item)
    await fetched.put(END)


async def transform_stage(pool, rounds, fetched, jobs):
    while (item := await fetched.get()) is not END:
        await jobs.put(submit(pool, item, rounds))
    await jobs.put(END)


async def store_stage(jobs, stored):
    while (job := await jobs.get()) is not END:
        digest, _ = await job
        await store(digest, stored)


async def pipeline(pool, rounds):
    fetched, jobs, stored = asyncio.Queue(20), asyncio.Queue(20), []
    async with asyncio.TaskGroup() as group:
        group.create_task(fetch_stage(fetched))
        group.create_task(transform_stage(pool, rounds, fetched, jobs))
        group.create_task(store_stage(jobs, stored))
    return stored


async def main():
    with concurrent.futures.ProcessPoolExecutor(2) as pool:
        rounds = 100_000
        for _ in range(2):  # the second time, the workers are warm
            took = [cpu for _, cpu in await asyncio.gather(*(submit(pool, i, rounds) for i in range(10)))]
            rounds = int(rounds * 0.1 * SECOND * len(took) / sum(took))
        best = {}
        results = {}
        for _ in range(2):
            for name, run in ("in turn", in_turn), ("as a pipeline", pipeline):
                began = time.perf_counter()
                results[name] = await run(pool, rounds)
                best[name] = min(best.get(name, 1e9), time.perf_counter() - began)
        holds = len(results["in turn"]) == ITEMS and results["in turn"] == results["as a pipeline"]
        print("holds: " if holds else "BROKEN:", f"{ITEMS} items are stored, in order")
        print(f"took:   {best['in turn']:.2f} s in turn, {best['as a pipeline']:.2f} s as a pipeline")
        return 0 if holds else 1


if __name__ == "__main__":  # a worker process imports this file
    sys.exit(asyncio.run(main()))
