#!/usr/bin/env python3
"""Runs all programs of lessons 1 to 6 as their readers do: on the real clock, with all of their work.

    tests/real_time.py [--rounds N] [BUILD] [LESSON/NAME...]

It builds nothing: the programs are those in BUILD (without it, in build), by default all, three times
each, one at a time. Prints a table of how long each took, in seconds, and what a failed one printed;
ends with 1 if one failed. Takes about half an hour, since nothing is skipped.
"""

import argparse
import pathlib
import re
import subprocess
import sys
import time

root = pathlib.Path(__file__).resolve().parents[1]
limit = 300  # seconds for one program
lessons = "[1-6]_*"

parser = argparse.ArgumentParser(usage=__doc__.split("\n")[2].strip())
parser.add_argument("--rounds", type=int, default=3)
parser.add_argument("build", nargs="?", type=pathlib.Path, default=root / "build")
parser.add_argument("names", nargs="*")
options = parser.parse_args()
names = options.names or sorted(str(path.relative_to(root / "examples").with_suffix(""))
                                for path in root.glob(f"examples/{lessons}/*.cpp"))


def run(name):
    """How long a program ran, and if it failed, what it had to say."""
    program = options.build / "examples" / re.sub(r"\W", "_", name)
    began = time.monotonic()
    try:
        done = subprocess.run([program], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, timeout=limit)
        problem = f"it ended with {done.returncode}" if done.returncode != 0 else None
        said = done.stdout
    except subprocess.TimeoutExpired as late:
        problem, said = f"it did not end within {limit} s", late.stdout or b""
    except OSError as error:
        problem, said = str(error), b""
    took = time.monotonic() - began
    if problem:
        problem += "\n" + said.decode(errors="replace")
    return took, problem


failed = 0
total = time.monotonic()
print(f"{'seconds, by round':40}" + "".join(f"{i + 1:8}" for i in range(options.rounds)))
for name in names:
    print(f"{name:40}", end="", flush=True)
    problems = []
    for _ in range(options.rounds):
        took, problem = run(name)
        print("  FAILED" if problem else f"{took:8.2f}", end="", flush=True)
        problems += [problem] if problem else []
    print()
    for problem in problems:
        print("    " + problem.rstrip().replace("\n", "\n    "))
    failed += bool(problems)
print(f"{len(names) - failed} passed, {failed} failed, in {(time.monotonic() - total) / 60:.0f} minutes")
sys.exit(1 if failed or not names else 0)
