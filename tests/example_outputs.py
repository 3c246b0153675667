#!/usr/bin/env python3
"""Holds the output at the end of each example against what the program prints.

    example_outputs.py ROOT [NAME OPTIONS PROGRAM]...

NAME, OPTIONS and PROGRAM are what examples/meson.build tests. Looked at are the programs that run
with --virtual: their times are exact. Figures may differ all the same, since a few are measured. A
line `...` in the block stands for any number of lines.
"""

import difflib
import pathlib
import re
import subprocess
import sys

root = pathlib.Path(sys.argv[1])


def masked(line):
    """Without figures, and without what the compiler makes of a function and its file."""
    line = re.sub(r"[\w:<>*& ]*?(\w+)(\([^()]*\))?, (\S*/)?(\w+\.[ch]pp):\d+", r" \1, \4:0", line)
    return re.sub(r" *\d+(\.\d+)?", " 0", line).rstrip()


def block(source):
    """The lines below `// Output:`."""
    lines = source.read_text().splitlines()
    if "// Output:" not in lines:
        return None
    return [line[3:] for line in lines[lines.index("// Output:") + 1:]]


def agree(written, printed):
    if not written:
        return not printed
    if written[0] == "...":
        return any(agree(written[1:], printed[skipped:]) for skipped in range(len(printed) + 1))
    return bool(printed) and written[0] == printed[0] and agree(written[1:], printed[1:])


def check(name, options, program):
    """The complaints about a program."""
    written = block(root / "examples" / (name + ".cpp"))
    if not written:
        return ["    no output stands at its end, below a line `// Output:`"]
    try:
        done = subprocess.run([program, *options], capture_output=True, text=True, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        return [f"    {error}"]
    printed = done.stdout.splitlines()
    if done.returncode != 0:
        said = printed + done.stderr.splitlines()
        return [f"    it ended with {done.returncode}:"] + ["    " + line for line in said]
    a, b = [list(map(masked, lines)) for lines in (written, printed)]
    if agree(a, b):
        return []
    complaints = []
    for group in difflib.SequenceMatcher(None, a, b, False).get_grouped_opcodes(2):
        complaints.append("    ...")
        for what, a1, a2, b1, b2 in group:
            if what == "equal":
                complaints += ["            " + line for line in printed[b1:b2]]
            else:
                complaints += ["    written " + line for line in written[a1:a2]]
                complaints += ["    printed " + line for line in printed[b1:b2]]
    return complaints


failed = passed = 0
for name, options, program in zip(sys.argv[2::3], sys.argv[3::3], sys.argv[4::3]):
    if "--virtual" not in options.split():
        continue
    complaints = check(name, options.split(), program)
    print("FAILED" if complaints else "ok    ", name)
    for line in complaints:
        print(line)
    failed += bool(complaints)
    passed += not complaints
print(f"{passed} passed, {failed} failed")
sys.exit(1 if failed or not passed else 0)
