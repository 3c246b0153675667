#!/usr/bin/env python3
"""Runs test programs in many random orders.

    shuffle.py [--seeds N] [--first N] PROGRAM...

Each program runs once for each of N seeds (20, beginning with 1) with ASYNCIO_TEST_SHUFFLE=seed: the
loops of its coroutine tests then run what is ready in a turn in the random order that the seed fixes.
Tests that assert an order say so (ASYNC_TEST_CASE_ORDERED) and are left out. A seed under which a
program fails is printed with what the program says; the same seed gives the same order again.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import subprocess
import sys
import time


# Threads without a loop, and measured times: no order changes anything there, and they take long.
unaffected = ["threads may post while*", "each thread may have a loop*", "*takes time in proportion*"]


def run(program, seed):
    done = subprocess.run([program, "--no-version", "--test-case-exclude=" + ",".join(unaffected)],
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", env=dict(os.environ, ASYNCIO_TEST_SHUFFLE=str(seed)))
    # Others make loops of their own, which no seed reaches.
    cases = re.search(r"(\d+) cases in the order of the seed", done.stdout)
    skipped = re.search(r"test cases: .* failed \| +(\d+) skipped", done.stdout)
    return done.returncode, done.stdout, cases, skipped


def sweep(program, seeds):
    """Gives a line for the program, and what failed."""
    begin = time.monotonic()
    name = pathlib.Path(program).name
    failures = []
    passed = left_out = 0
    for seed in seeds:
        code, output, cases, skipped = run(program, seed)
        if code == 0 and cases and skipped:
            passed, left_out = int(cases[1]), int(skipped[1])
        else:
            failures.append(f"{name}: seed {seed} fails with exit code {code}\n{output}")
    line = (f"{name:14} {passed:4} tests in any order, {left_out:3} left out, "
            f"{len(failures)} of {len(seeds)} seeds fail, {time.monotonic() - begin:.1f} s")
    return line, failures


def main():
    parser = argparse.ArgumentParser(
        description="Runs test programs in many random orders.")
    parser.add_argument("--seeds", type=int, default=20, help="how many (20)")
    parser.add_argument("--first", type=int, default=1, help="the first one (1)")
    parser.add_argument("programs", nargs="+", metavar="PROGRAM")
    arguments = parser.parse_args()
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    bad = False
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
        for line, failures in pool.map(lambda p: sweep(p, seeds), arguments.programs):
            print(line, flush=True)
            for text in failures:
                bad = True
                print(text, flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
