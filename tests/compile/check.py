#!/usr/bin/env python3
"""Compiles programs that must work, and programs that must not.

    check.py ROOT COMPILER ARGUMENT... -- CASE

CASE is a name from `programs` below, or a .cpp file whose comments state what it tests:

    // WRONG=1 says: name the lambda first
    // WRONG=2 on g++ 12 says: name the lambda first

Without WRONG the file compiles. With -DWRONG=1 it must not, and an error of the compiler matches the
regular expression after "says:". "on g++ 12" limits an expectation to g++ up to 12; other compilers
must accept that program.
"""

import itertools
import os
import pathlib
import re
import subprocess
import sys
import tempfile

root = pathlib.Path(sys.argv[1])
split = sys.argv.index("--", 2)
compiler = sys.argv[2:split] + [
    "-pthread", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wold-style-cast",
    "-Werror", f"-I{root}",
]
case = sys.argv[split + 1]

# What a linker's reader must find when the implementation is missing or doubled.
remedy = "define_ASYNCIO_IMPLEMENTATION_in_exactly_one_cpp_file"

# name: (sources, None when it builds and runs, else what the linker must say)
programs = {
    "two_units": (["unit_main.cpp", "unit_implementation.cpp"], None),
    "implement_later": (["implement_later.cpp"], None),
    "os_headers_first": (["os_headers_first.cpp"], None),
    "os_headers_last": (["os_headers_last.cpp"], None),
    "missing_implementation": (["no_implementation.cpp"], remedy),
    "doubled_implementation": (
        ["unit_main.cpp", "unit_implementation.cpp", "unit_implementation.cpp"],
        f"(multiple definition of|duplicate symbol).*{remedy}",
    ),
}

failures = 0


def report(good, what, output=""):
    global failures
    print(("ok      " if good else "FAILED  ") + what)
    if not good:
        failures += 1
        print(output)


def run(command):
    # English messages, whatever the machine speaks.
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace", env=dict(os.environ, LC_ALL="C"))
    return done.returncode, done.stdout


def is_gcc_up_to_12():
    command = list(itertools.takewhile(lambda word: not word.startswith("-"), compiler))
    macros = run(command + ["-dM", "-E", "-x", "c++", "/dev/null"])[1]
    version = re.search(r"#define __GNUC__ (\d+)", macros)
    return "__clang__" not in macros and version is not None and int(version[1]) <= 12


def check_program(sources, expected):
    here = root / "tests/compile"
    with tempfile.TemporaryDirectory() as folder:
        objects = []
        for number, source in enumerate(sources):
            objects.append(f"{folder}/{number}.o")
            code, output = run(compiler + ["-c", str(here / source), "-o", objects[-1]])
            report(code == 0, f"{source} compiles", output)
            if code != 0:
                return
        code, output = run(compiler + objects + ["-o", f"{folder}/program"])
        if expected is not None:
            report(code != 0, "the program does not link", output)
            report(re.search(expected, output), f"the linker says: {expected}", output)
            return
        report(code == 0, "the program links", output)
        if code == 0:
            code, output = run([f"{folder}/program"])
            report(code == 0, "the program runs", output)


def check_misuse(path):
    text = path.read_text()
    # Templates are instantiated only when code is made from them.
    with tempfile.TemporaryDirectory() as folder:
        command = compiler + ["-c", str(path), "-o", f"{folder}/object.o"]
        code, output = run(command)
        report(code == 0, f"{path.name} compiles without a mistake", output)
        cases = re.findall(r"// WRONG=(\d+)( on g\+\+ 12)? says: (.*)", text)
        report(len(cases) > 0, f"{path.name} states what it expects")
        for number, only_gcc_12, expected in cases:
            uses = re.findall(rf"(?m)^#if.* WRONG == {number}$", text)
            report(len(uses) == 1, f"{path.name} has one place with WRONG == {number}")
            code, output = run(command + [f"-DWRONG={number}"])
            if only_gcc_12 and not is_gcc_up_to_12():
                report(code == 0, f"WRONG={number} compiles here", output)
                continue
            report(code != 0, f"WRONG={number} does not compile")
            if code != 0:
                errors = "\n".join(re.findall("error: .*", output))
                report(re.search(expected, errors), f"WRONG={number} says: {expected}", output)


if case in programs:
    check_program(*programs[case])
else:
    check_misuse(pathlib.Path(case))
sys.exit(1 if failures else 0)
