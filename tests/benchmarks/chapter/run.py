#!/usr/bin/env python3
"""Some exercises of the chapter, beside the same in Python's asyncio: times and peak memory.

    tests/benchmarks/chapter/run.py [--quick] [--check RATIO] [NAME PROGRAM]...

NAME is one of the exercises below, PROGRAM what was built of it; without any, they are built first, by
$CXX or g++. Programs of both kinds take turns. With --check it ends with 1 if one takes more than RATIO
times as long as in Python, or more memory, in each of three rounds.
"""

import os
import pathlib
import re
import subprocess
import sys
import tempfile
import time

root = pathlib.Path(__file__).resolve().parents[3]
# Where the program is, where the same in Python is, and how they print their times: in turn, at once.
exercises = {
    "sync_vs_async": ("1_foundations", "tests/python", r"([\d.]+) s blocking, ([\d.]+) s async"),
    "task_coordinator": ("2_concurrent_tasks", "tests/python", r"()as the slowest: ([\d.]+) s"),
    "three_stage_pipeline": ("5_hybrid", "tests/benchmarks/chapter",
                             r"([\d.]+) s in turn, ([\d.]+) s as a pipeline"),
    "ai_agent": ("6_agent", "tests/benchmarks/chapter", r"in turn ([\d.]+) s, at once ([\d.]+) s"),
}
without_quick = ["task_coordinator"]


def build(folder):
    """The programs, as their own commands build them, but with the library compiled only once."""
    compile = [os.environ.get("CXX", "g++"), "-std=c++20", "-O2", "-pthread", f"-I{root}"]
    library = folder / "library.o"
    subprocess.run([*compile, "-c", root / "tests" / "library.cpp", "-o", library], check=True)
    for name, (lesson, _, _) in exercises.items():
        source = root / "examples" / lesson / (name + ".cpp")
        subprocess.run([*compile, "-DASYNCIO_IMPLEMENTATION_DONE", source, library, "-o", folder / name],
                       check=True)
    return {name: folder / name for name in exercises}


def memory(pid):
    """What a process and its descendants take, in bytes. Of what several share, each has its part."""
    total = 0
    try:
        text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        total += 1024 * int(re.search(r"^Pss: +(\d+)", text, re.M)[1])
        for children in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
            total += sum(map(memory, children.read_text().split()))
    except (OSError, TypeError):
        pass  # it has just ended
    return total


def run(command, pattern):
    """The seconds in turn and at once that a program prints, and the most memory seen of it."""
    peak = 0
    with tempfile.TemporaryFile("w+") as output:
        with subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT) as process:
            while process.poll() is None:
                peak = max(peak, memory(process.pid))
                time.sleep(0.05)
        output.seek(0)
        text = output.read()
    found = re.search(pattern, text)
    if process.returncode != 0 or not found:
        raise SystemExit(f"{' '.join(map(str, command))} ended with {process.returncode}:\n{text}")
    in_turn, at_once = found.groups()
    return [float(in_turn or "nan"), float(at_once), peak / 1e6]


def good(ours, theirs, ratio):
    return ours[1] <= theirs[1] * ratio and ours[2] <= theirs[2]


def measure(programs, options, ratio):
    """Prints a row for each; true if all are good."""
    print(f"Python {sys.version.split()[0]}, {os.cpu_count()} processors")
    print(f"{'':20} {'in turn, s':>16} {'at once, s':>16} {'peak memory, MB':>16}")
    print(f"{'':20}" + 3 * f" {'C++':>8} {'Python':>7}", flush=True)
    all_good = True
    for name, program in programs.items():
        _, folder, pattern = exercises[name]
        more = [] if name in without_quick else options
        python = [sys.executable, root / folder / (name + ".py"), *more]
        ours = theirs = 3 * [float("inf")]
        for _ in range(3):  # who else uses the machine can only make it slower
            ours = list(map(min, ours, run([program, *more], pattern)))
            theirs = list(map(min, theirs, run(python, pattern)))
            if good(ours, theirs, ratio):
                break
        cells = [f"{a:8.2f} {b:7.2f}" if a < float("inf") else f"{'-':>8} {'-':>7}"
                 for a, b in zip(ours, theirs)]
        verdict = "" if good(ours, theirs, ratio) else f"   not within {ratio} of Python's"
        print(f"{name:20} {' '.join(cells)}{verdict}", flush=True)
        all_good = all_good and not verdict
    return all_good


words = sys.argv[1:]
options = ["--quick"] if "--quick" in words else []
words = [word for word in words if word != "--quick"]
ratio = float("inf")
if "--check" in words:
    at = words.index("--check")
    ratio = float(words[at + 1])
    del words[at:at + 2]
with tempfile.TemporaryDirectory() as folder:
    programs = dict(zip(words[::2], words[1::2])) or build(pathlib.Path(folder))
    sys.exit(0 if measure(programs, options, ratio) else 1)
