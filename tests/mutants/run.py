#!/usr/bin/env python3
"""Changes asyncio.hpp in small ways, and asks whether the tests notice.

    run.py [--compiler CXX] [--jobs N] [--check] [WORD...]

mutants.txt lists the changes. Each is made to a copy of the header; the test program that it names is
built with that copy, and the named test cases run: one of them must fail, crash or hang. With words,
only mutants with one of them in their names. --check builds nothing, and only looks whether each
change can still be made in exactly one place.

A program is three parts: the test file, the library's implementation, and doctest with the helpers.
Only what contains the change is built again: the implementation, or the test file with the templates
and inline functions that it uses. Without optimisation those are calls, and the linker takes the first
definition that it meets, so that the implementation uses the changed ones, too. Where that goes
unnoticed, the implementation is built again as well: it may be the only one that uses them.

The last line is "N noticed, N survived"; the exit code is 0 when nothing survived.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import resource
import shutil
import subprocess
import sys
import tempfile
import threading

here = pathlib.Path(__file__).resolve().parent
root = here.parent.parent
header = (root / "asyncio.hpp").read_text()

# What stands behind this is compiled in library.cpp alone.
implementation = re.search(r"(?m)^#if defined\(ASYNCIO_IMPLEMENTATION\)", header).start()


class Mutant:
    def __init__(self, name, line):
        self.name = name
        self.line = line
        self.reason = ""
        self.program = ""
        self.tests = ""
        self.before = ""
        self.after = ""

    def fault(self):
        """Why it cannot be made; empty when it can."""
        if not self.reason or not self.program or not self.tests or not self.before:
            return "has no reason, no test or no change"
        if self.before == self.after:
            return "changes nothing"
        count = header.count(self.before)
        if count != 1:
            return f"stands in {count} places of the header"
        return ""

    def in_declarations(self):
        return header.index(self.before) < implementation


def read_mutants():
    mutants = []
    for number, line in enumerate((here / "mutants.txt").read_text().splitlines(), 1):
        if line.startswith("== "):
            mutants.append(Mutant(line[3:], number))
        elif not mutants or line.startswith("#"):
            continue
        elif line.startswith("test: "):
            mutants[-1].program, mutants[-1].tests = line[6:].split(" ", 1)
        elif line.startswith("-"):
            mutants[-1].before += line[1:] + "\n"
        elif line.startswith("+"):
            mutants[-1].after += line[1:] + "\n"
        elif line:
            mutants[-1].reason += line + " "
    return mutants


class Workshop:
    """Builds and runs test programs; what is the same for several mutants is built once."""

    def __init__(self, compiler, folder):
        self.folder = pathlib.Path(folder)
        self.flags = [compiler, "-std=c++20", "-O0", "-pthread"]
        self.objects = {}
        self.baselines = {}
        self.lock = threading.Lock()

    def compile(self, part, place, include):
        """Gives what the compiler says when it fails, else nothing."""
        command = self.flags + [f"-I{include}"]
        if part == "library":
            command += ["-DASYNCIO_IMPLEMENTATION", "-x", "c++", f"{include}/asyncio.hpp"]
        elif part == "helpers":
            command += [f"{root}/tests/implementation.cpp"]
        else:
            command += [f"{root}/tests/{part}.cpp"]
        done = subprocess.run(command + ["-c", "-o", str(place)], stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors="replace")
        return done.stdout if done.returncode != 0 else ""

    def unchanged(self, part):
        """The object of a part with the header as it is."""
        with self.lock:
            task = self.objects.setdefault(part, threading.Lock())
        with task:
            place = self.folder / (part + ".o")
            if not place.exists():
                output = self.compile(part, place, root)
                if output:
                    raise SystemExit(f"{part} does not compile:\n{output}")
            return place

    def link(self, objects, place):
        subprocess.run(self.flags + [str(o) for o in objects] + ["-o", str(place)], check=True)

    def run(self, program, tests):
        """The exit code and the number of test cases that ran (-1: unknown)."""

        def limits():
            resource.setrlimit(resource.RLIMIT_AS, (1 << 33, 1 << 33))
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

        environment = dict(os.environ, ASYNCIO_TEST_TIMEOUT="60")
        done = subprocess.run([program, "--no-version", "--test-case=" + tests],
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              errors="replace", env=environment, preexec_fn=limits)
        cases = re.search(r"test cases: +(\d+)", done.stdout)
        return done.returncode, int(cases[1]) if cases else -1

    def baseline(self, program, tests):
        """Without a change the tests exist, and pass."""
        with self.lock:
            task = self.baselines.setdefault(program, threading.Lock())
        with task:
            place = self.folder / (program + ".program")
            if not place.exists():
                self.link(map(self.unchanged, (program, "library", "helpers")), place)
        code, cases = self.run(place, tests)
        if code != 0 or cases < 1:
            return f"without the change, {cases} cases of {program} '{tests}' end with {code}"
        return ""

    def try_out(self, mutant):
        """'noticed', 'survived', or what is wrong with the mutant."""
        fault = mutant.fault() or self.baseline(mutant.program, mutant.tests)
        if fault:
            return fault
        with tempfile.TemporaryDirectory(dir=self.folder) as name:
            place = pathlib.Path(name)
            (place / "asyncio.hpp").write_text(header.replace(mutant.before, mutant.after))
            changed = set()
            for part in [mutant.program] * mutant.in_declarations() + ["library"]:
                changed.add(part)
                output = self.compile(part, place / (part + ".o"), place)
                if output:
                    return f"does not compile:\n{output[:2000]}"
                self.link([place / (p + ".o") if p in changed else self.unchanged(p)
                           for p in (mutant.program, "library", "helpers")], place / "program")
                if self.run(place / "program", mutant.tests)[0] != 0:
                    return "noticed"
            return "survived"


def main():
    parser = argparse.ArgumentParser(
        description="Changes the header in small ways, and asks whether the tests notice.")
    parser.add_argument("--compiler", default=next(
        (c for c in ("clang++-19", "clang++") if shutil.which(c)), os.environ.get("CXX", "c++")))
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--check", action="store_true")
    parser.add_argument("words", nargs="*", metavar="WORD")
    arguments = parser.parse_args()
    mutants = [m for m in read_mutants()
               if not arguments.words or any(word in m.name for word in arguments.words)]

    noticed = 0
    others = []
    with tempfile.TemporaryDirectory() as folder:
        workshop = Workshop(arguments.compiler, folder)
        work = Mutant.fault if arguments.check else workshop.try_out
        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            for mutant, result in zip(mutants, pool.map(work, mutants)):
                if result == "noticed" or (arguments.check and not result):
                    noticed += 1
                else:
                    others.append(mutant)
                if not arguments.check or result:
                    print(f"{result.splitlines()[0]:10} {mutant.name} (line {mutant.line}; "
                          f"{mutant.program}: {mutant.tests})", flush=True)
                    if "\n" in result:
                        print(result)
    if arguments.check:
        print(f"{noticed} can be made, {len(others)} cannot")
    else:
        print(f"{noticed} noticed, {len(others)} survived")
    return 1 if others or not mutants else 0


if __name__ == "__main__":
    sys.exit(main())
