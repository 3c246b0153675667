#!/usr/bin/env python3
"""What including asyncio.hpp costs beside the standard headers it includes.

    include_cost.py ROOT COMPILER ARGUMENT...

Both are checked with -fsyntax-only in alternating runs on one processor, and the least CPU time of
each counts, since anything else that runs on the machine can only add to it.
"""

import os
import pathlib
import re
import resource
import subprocess
import sys
import tempfile

ALLOWED = 1.3
RUNS = 15

root = pathlib.Path(sys.argv[1])
compiler = sys.argv[2:] + ["-fsyntax-only", f"-I{root}"]


def cpu_seconds(source):
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(compiler + [source], check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)


# The declarations end where the implementation's #if stands; what it includes is not paid here.
text = (root / "asyncio.hpp").read_text()
declarations = re.split(r"(?m)^#\s*if.*\bASYNCIO_IMPLEMENTATION\b", text)[0]
standard = re.findall(r"(?m)^#\s*include\s*<[^>]+>", declarations)

if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

with tempfile.TemporaryDirectory() as folder:
    ours = os.path.join(folder, "header.cpp")
    theirs = os.path.join(folder, "standard.cpp")
    pathlib.Path(ours).write_text('#include "asyncio.hpp"\n')
    pathlib.Path(theirs).write_text("\n".join(standard) + "\n")
    times = [(cpu_seconds(theirs), cpu_seconds(ours)) for _ in range(RUNS)]

least_theirs = min(time[0] for time in times)
least_ours = min(time[1] for time in times)
ratio = least_ours / least_theirs
print(f"{len(standard)} standard headers: {least_theirs:.3f} s")
print(f"asyncio.hpp:         {least_ours:.3f} s")
print(f"ratio:               {ratio:.2f} (at most {ALLOWED})")
sys.exit(0 if ratio <= ALLOWED else 1)
