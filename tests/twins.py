#!/usr/bin/env python3
"""Runs the programs of lessons 1 to 3 and their twins in Python, and compares what they print.

    twins.py ROOT [NAME OPTIONS PROGRAM]...

NAME, OPTIONS and PROGRAM are what examples/meson.build tests: 1_foundations/greet, --virtual, and
the built program. Its twin is tests/python/greet.py under ROOT and gets the same options. Line by
line both print the same, but for figures, our timelines and our call graphs. Each program of these
lessons has a twin, or stands below with the reason why not.
"""

import concurrent.futures
import difflib
import os
import pathlib
import re
import subprocess
import sys

without_twin = {
    "1_foundations/common_mistakes": "prints the reports of this library word for word",
}

root = pathlib.Path(sys.argv[1])
twins = root / "tests" / "python"
given = {n: (o.split(), p) for n, o, p in zip(sys.argv[2::3], sys.argv[3::3], sys.argv[4::3])}


def compared(text):
    """The lines that count, without those that only our programs print."""
    lines = []
    inside = None
    for line in text.splitlines():
        if inside and re.search(inside, line):
            continue
        inside = None
        if re.match(r"time .*\|", line):
            inside = r"\||^\.\.\. and \d+ more tasks"  # the rows of a timeline
        elif re.match(r"(\* )?task '", line):
            inside = r"^  |^(\* )?task '"  # a call graph, or several
        else:
            lines.append(line.rstrip())
    return lines


def masked(line):
    """Without figures: numbers, and the blanks that align them."""
    return re.sub(r" *\d+(\.\d+)?", " 0", line)


def difference(program, twin):
    a, b = compared(twin), compared(program)
    matcher = difflib.SequenceMatcher(None, [masked(x) for x in a], [masked(x) for x in b], False)
    shown = []
    for group in matcher.get_grouped_opcodes(2):
        shown.append("    ...")
        for what, a1, a2, b1, b2 in group:
            if what == "equal":
                shown += ["           " + line for line in b[b1:b2]]
            else:
                shown += ["    Python " + line for line in a[a1:a2]]
                shown += ["    C++    " + line for line in b[b1:b2]]
    return shown


def run(command):
    """What it printed, and the complaint if it failed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        return "", [f"    {error}"]
    if done.returncode == 0:
        return done.stdout, []
    complaints = [f"{' '.join(command)} ended with {done.returncode}:"]
    complaints += done.stdout.splitlines() + done.stderr.splitlines()
    return done.stdout, ["    " + line for line in complaints]


def check(name):
    """The complaints about a program and its twin."""
    twin = twins / (pathlib.Path(name).name + ".py")
    if name in without_twin:
        exists = f"    {twin.name} exists, and twins.py says why it does not"
        return [exists] if twin.exists() else []
    if not twin.exists():
        return [f"    it has no {twin.name}, and twins.py does not say why"]
    if name not in given:
        return ["    it is not in examples/meson.build"]
    options, program = given[name]
    ours, complaints = run([program, *options])
    theirs, more = run([sys.executable, "-B", str(twin), *options])
    return complaints + more or difference(ours, theirs)


def strays(names):
    """What lies in tests/python and belongs to no program."""
    files = {path.stem: path.read_text() for path in twins.glob("*.py")}
    imported = set(re.findall(r"^(?:from|import) (\w+)", "\n".join(files.values()), re.MULTILINE))
    return sorted(set(files) - imported - {pathlib.Path(name).name for name in names})


names = sorted(
    str(path.relative_to(root / "examples").with_suffix(""))
    for path in root.glob("examples/[123]_*/*.cpp")
)
found = {}
with concurrent.futures.ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
    found.update(zip(names, pool.map(check, names)))
for name in without_twin:
    found.setdefault(name, ["    there is no such program, and twins.py says why it has no twin"])
for stray in strays(names):
    found[stray + ".py"] = ["    there is no such program in lessons 1 to 3"]

for name, complaints in found.items():
    reason = f"  (no twin: it {without_twin[name]})" if name in without_twin else ""
    print("FAILED" if complaints else "ok    ", name + reason)
    for line in complaints:
        print(line)
failed = sum(map(bool, found.values()))
print(f"{len(found) - failed} passed, {failed} failed")
sys.exit(1 if failed else 0)
