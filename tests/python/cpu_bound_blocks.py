"""The twin of examples/1_foundations/cpu_bound_blocks.cpp."""

import asyncio
import sys
import time

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


def count_primes(below):
    primes = 0
    for n in range(2, below):
        d = 2
        while d * d <= n and n % d:
            d += 1
        primes += d * d > n
    return primes


async def work(below):
    return count_primes(below)


def times():
    return seconds(), time.process_time()


def better(best, start):
    wall, cpu = times()
    return min(best[0], wall - start[0]), min(best[1], cpu - start[1])


async def main(below):
    global began
    began = asyncio.get_running_loop().time()

    in_turn = gathered = (1e9, 1e9)
    same = True
    for round in range(1, 4):
        start = times()
        first = await work(below)
        second = await work(below)
        in_turn = better(in_turn, start)

        start = times()
        both = await asyncio.gather(work(below), work(below))
        gathered = better(gathered, start)

        same = same and both == [first, second] and first == second
        say(f"round {round}: 4 x {first} primes")
    say(f"in turn: {in_turn[0]:.2f} s, CPU {in_turn[1]:.2f} s")
    say(f"gather:  {gathered[0]:.2f} s, CPU {gathered[1]:.2f} s")

    wall_ratio, cpu_ratio = (g / t for g, t in zip(gathered, in_turn))
    busy = in_turn[0] > 1.2 * in_turn[1]
    claim(same, "all four computations agree")
    claim(0.75 < cpu_ratio < 1.33, f"the CPU time is the same: x {cpu_ratio:.2f}")
    claim(wall_ratio > 0.75 or busy, f"the wall time is no shorter: x {wall_ratio:.2f}")
    claim(gathered[1] < 1.5 * gathered[0], "never more than one core at work")
    return 1 if broken else 0


sys.exit(run(main(30_000 if "--quick" in sys.argv else 150_000), virtual=False))
