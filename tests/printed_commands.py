#!/usr/bin/env python3
"""Builds every example by the command that it prints, with warnings as errors.

    tests/printed_commands.py [--jobs N] COMPILER FOLDER [LESSON/NAME...]

COMPILER takes the place of the command's g++, but what is for Windows is built with mingw's. The
programs go to FOLDER/examples, named as the build's are, so that tests/real_time.py FOLDER runs
them. With two cores it takes half an hour for each compiler.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

root = pathlib.Path(__file__).resolve().parents[1]
warnings = "-Wall -Wextra -Wpedantic -Wconversion -Wshadow -Wold-style-cast -Werror"
windows_compiler = "x86_64-w64-mingw32-g++-posix"

parser = argparse.ArgumentParser(usage=__doc__.split("\n")[2].strip())
parser.add_argument("--jobs", type=int, default=os.cpu_count())
parser.add_argument("compiler")
parser.add_argument("folder", type=pathlib.Path)
parser.add_argument("names", nargs="*")
options = parser.parse_args()
names = options.names or sorted(str(path.relative_to(root / "examples").with_suffix(""))
                                for path in root.glob("examples/*/*.cpp"))


def build(name):
    """What went wrong, or nothing."""
    text = (root / "examples" / f"{name}.cpp").read_text()
    command = re.search(r"^//     (g\+\+ .*?) && \./", text, re.MULTILINE)
    if not command:
        return "no command stands in its head"
    compiler = windows_compiler if "-lws2_32" in command[1] else options.compiler
    if not shutil.which(compiler):
        return f"there is no {compiler}"
    program = options.folder.resolve() / "examples" / re.sub(r"\W", "_", name)
    line = re.sub(r"^g\+\+", compiler, command[1])
    line = re.sub(r"(?<= -o )\w+", str(program), line)
    # The headers of other libraries are theirs.
    for package in re.findall(r"pkg-config --cflags --libs ([\w.-]+)", line):
        line += f" $(pkg-config --cflags {package} | sed 's/-I/-isystem /g')"
    done = subprocess.run(["bash", "-c", f"{line} {warnings}"], cwd=root, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return f"{line}\n{done.stdout}" if done.returncode != 0 else None


(options.folder / "examples").mkdir(parents=True, exist_ok=True)
failed = 0
with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
    for name, problem in zip(names, pool.map(build, names)):
        print(f"{name:40} {'FAILED' if problem else 'built'}", flush=True)
        if problem:
            failed += 1
            print("    " + problem.rstrip().replace("\n", "\n    "), flush=True)
print(f"{len(names) - failed} built with {options.compiler}, {failed} failed")
sys.exit(1 if failed or not names else 0)
