#!/usr/bin/env python3
"""Compiles programs that must work, and programs that must not.

    check.py ROOT COMPILER ARGUMENT... -- CASE...

CASE is a name from `programs` below, `symbols`, `symbols_of_configurations`, `every_warning` (with
clang++), or a .cpp file whose comments state what it tests:

    // WRONG=1 says: name the lambda first
    // WRONG=2 on g++ 12 says: name the lambda first

Without WRONG the file compiles. With -DWRONG=1 it must not, and an error of the compiler matches the
regular expression after "says:". "on g++ 12" limits an expectation to g++ up to 12; other compilers
must accept that program. Programs share what they have in common: an object is compiled once.
"""

import dataclasses
import itertools
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

root = pathlib.Path(sys.argv[1])
split = sys.argv.index("--", 2)
compiler = sys.argv[2:split]
strict = [
    "-pthread", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Wold-style-cast",
    "-Werror",
]
cases = sys.argv[split + 1:]

# What a linker's reader must find when the implementation is missing or doubled.
remedy = "define_ASYNCIO_IMPLEMENTATION_in_exactly_one_cpp_file"


@dataclasses.dataclass(frozen=True)
class Unit:
    """A source with what it is compiled with; of_version replaces the header by one of that version."""
    source: str
    arguments: tuple = ()
    of_version: str = ""


@dataclasses.dataclass(frozen=True)
class Program:
    units: tuple
    library: tuple = ()  # units that are linked to a shared library first
    link: tuple = ()
    says: str = ""  # by the linker, which must fail then


def plain(*sources):
    return tuple(Unit(source) for source in sources)


def every(sources, *arguments):
    return tuple(Unit(source, arguments) for source in sources)


def part(name, *arguments, of_version=""):
    number = 0
    for word in (of_version or version).split("."):
        number = number * 100 + int(word)
    return Unit("part.cpp", (f"-DPART={name}", f"-DVERSION={number}", *arguments), of_version)


both = ("unit_main.cpp", "unit_implementation.cpp")
alone = "no_implementation.cpp"
hidden = ("-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden")
# As the README has it, without the quotes that are the shell's.
exported, = shlex.split(re.search(r"`(-DASYNCIO_API=.*?)`", (root / "README.md").read_text())[1])
own_allocator = ("-DASYNCIO_ALLOC(size)=::operator new(size)",
                 "-DASYNCIO_FREE(p,size)=::operator delete(p)")
configurations = (("-DASYNCIO_BACKEND_POLL",), ("-DASYNCIO_BACKEND_NONE",),
                  ("-DASYNCIO_NO_THREADS",), ("-fno-exceptions", "-fno-rtti"))
version = re.search(r"version (\S+)", (root / "asyncio.hpp").read_text())[1]
another = "9.8.7"

programs = {
    "two_units": Program(plain(*both)),
    "two_paths": Program(
        (Unit("two_paths.cpp"), Unit(both[1], (f"-I{root / 'tests' / '..'}",)))),
    "unity": Program(plain("unity.cpp")),
    "os_headers_first": Program(plain("os_headers_first.cpp")),
    "os_headers_last": Program(plain("os_headers_last.cpp")),
    "missing_implementation": Program(plain(alone), says=remedy),
    "doubled_implementation": Program(
        plain(*both, both[1]), says=f"(multiple definition of|duplicate symbol).*{remedy}"),
    # Objects of different kinds are kept apart, and the linker names the kind that is missing.
    "version_without_implementation": Program(
        (Unit(both[0], of_version=another), Unit(both[1])), says=f"v9_8_7::.*{remedy}"),
    "allocator_without_implementation": Program(
        (Unit(both[0], own_allocator), Unit(both[1])), says=f"own_allocator::.*{remedy}"),
    "exceptions_without_implementation": Program(
        (Unit(alone, ("-fno-exceptions",)), Unit(both[1])), says=f"no_exceptions::.*{remedy}"),
    "threads_without_implementation": Program(
        (Unit(alone, ("-DASYNCIO_NO_THREADS",)), Unit(both[1])), says=f"no_threads::.*{remedy}"),
    "system_without_implementation": Program(
        (Unit(alone, ("-DASYNCIO_BACKEND_NONE",)), Unit(both[1])), says=f"no_system::.*{remedy}"),
    # In one program each of them works, and so do libraries that show each other nothing.
    "several_implementations": Program(
        (*plain("parts_main.cpp", both[1]), part("first_part", of_version=another),
         part("second_part", "-DOWN_ALLOCATOR"), part("third_part", "-fno-exceptions"),
         part("fourth_part", "-DASYNCIO_NO_THREADS"))),
    "static_and_shared": Program(
        plain("parts_main.cpp", both[1]), library=(part("first_part", *hidden),)),
    # Where they show all they have, the program's stands for both.
    "static_and_shared_alike": Program(
        plain(both[0], "../library.cpp"), library=(Unit(both[1], ("-fPIC",)),)),
    # The implementation in a shared library, which shows what ASYNCIO_API names and no more.
    "shared_library": Program(
        (Unit(both[0], ("-fvisibility=hidden", exported)),),
        library=(Unit(both[1], (*hidden, exported)),)),
    "rtti_only_off": Program((Unit("what_failed.cpp", ("-fno-rtti",)),)),
    "exceptions_only_off": Program((Unit("what_failed.cpp", ("-fno-exceptions",)),)),
    # What distributions and large programs do.
    "optimized_main": Program((Unit(both[0], ("-O2",)), Unit(both[1]))),
    "optimized_implementation": Program((Unit(both[0]), Unit(both[1], ("-O2",)))),
    "two_standards": Program((Unit(both[0], ("-std=c++23",)), Unit(both[1]))),
    "link_time_optimization": Program(
        every(both, "-O2", "-flto"),
        link=("-O2", "-flto", "-Werror=odr", "-Werror=lto-type-mismatch")),
    "link_time_optimization_by_lld": Program(
        every(both, "-O2", "-flto"), link=("-O2", "-flto", "-fuse-ld=lld")),
}

# Everything that clang can warn of but these, each with the reason why it is no fault here.
unwanted = {
    "c++98-compat": "this is C++20, and so with the next four",
    "c++98-compat-pedantic": "",
    "pre-c++14-compat": "",
    "pre-c++17-compat": "",
    "pre-c++20-compat-pedantic": "",
    "c++20-compat": "warns of constinit in C++20",
    "padded": "nobody counts the bytes between members",
    "weak-vtables": "a class of a header without .cpp has its table in each unit",
    "non-virtual-dtor": "awaiters lie in frames, and nobody deletes one through its base",
    "unsafe-buffer-usage": "pointers are how the system takes buffers",
    "unsafe-buffer-usage-in-container": "and so is a pointer with a size",
    "shadow-uncaptured-local": "what is moved into a lambda keeps its name there",
    "switch-default": "the opposite of covered-switch-default, which is on",
    "switch-enum": "some switches have a default for what does not matter there",
    "exit-time-destructors": "a thread's caches go when the thread ends",
    "float-equal": "what is compared is exactly 0, 1 or a round number",
    "ctad-maybe-unsupported": "std::lock_guard does support it",
    "cast-function-type-strict": "an entry travels as a plain pointer, and is cast back",
    "disabled-macro-expansion": "macros of the system's headers",
    "reserved-identifier": "two functions of coverage runtimes have such names",
    "missing-noreturn": "what throws here returns where there are no exceptions",
    "documentation": "code in comments, with < and >, is no HTML",
}

failures = 0


def report(good, what, output=""):
    global failures
    print(("ok      " if good else "FAILED  ") + what, flush=True)
    if not good:
        failures += 1
        print(output)
    return good


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


def header_of(version_wanted, folder):
    """The folder of the header; a copy that only differs in its version where another is wanted."""
    if not version_wanted:
        return root
    place = folder / version_wanted
    if not place.is_dir():
        place.mkdir()
        text = (root / "asyncio.hpp").read_text()
        for part_name, value in zip(("MAJOR", "MINOR", "PATCH"), version_wanted.split(".")):
            text = re.sub(rf"(#define ASYNCIO_VERSION_{part_name}) \d+", rf"\1 {value}", text)
        names = [name.replace(".", "_") for name in (version, version_wanted)]
        text = re.sub(rf"\bv{names[0]}(?![0-9])", f"v{names[1]}", text)
        (place / "asyncio.hpp").write_text(text)
    return place


objects = {}


def compiled(unit, folder):
    if unit not in objects:
        target = str(folder / f"{len(objects)}.o")
        code, output = run([*compiler, *strict, *unit.arguments,
                            f"-I{header_of(unit.of_version, folder)}", "-c",
                            str(root / "tests/compile" / unit.source), "-o", target])
        with_what = " ".join([unit.source, *unit.arguments, unit.of_version]).strip()
        report(code == 0, f"{with_what} compiles", output)
        objects[unit] = target if code == 0 else None
    return objects[unit]


def check_program(name, folder):
    program = programs[name]
    units = [compiled(unit, folder) for unit in program.units]
    parts = [compiled(unit, folder) for unit in program.library]
    if None in units + parts:
        report(False, f"{name}: all of it compiles")
        return
    if parts:
        library = str(folder / f"lib{name}.so")
        # Whatever it lacks is missed here, and not by the program.
        code, output = run([*compiler, "-pthread", "-shared", "-Wl,-z,defs", *parts, "-o", library])
        if not report(code == 0, f"{name}: the library links", output):
            return
        units += [library, f"-Wl,-rpath,{folder}"]
    target = str(folder / name)
    code, output = run([*compiler, "-pthread", *program.link, *units, "-o", target])
    if program.says:
        report(code != 0, f"{name}: does not link", output)
        report(re.search(program.says, output), f"{name}: the linker says {program.says}", output)
    elif report(code == 0, f"{name}: links", output):
        code, output = run([target])
        report(code == 0, f"{name}: runs", output)


def check_symbols(unit, folder):
    """What the linker sees of the library has the version in its name, so that two can live together."""
    target = compiled(unit, folder)
    code, output = run(["nm", "--defined-only", "--extern-only", target])
    names = [line.split()[-1] for line in output.splitlines() if "other_unit" not in line]
    version_names = re.compile(r"7asyncio\d+v\d+_\d+_\d+")
    ours = [name for name in names if "7asyncio" in name]
    report(code == 0 and len(ours) > 1000, "nm lists the names of an object", output[:1000])
    wrong = [name for name in ours if "7asyncio" in version_names.sub("", name)]
    report(not wrong, "all of ours have the version in them", "\n".join(wrong))
    # Of a function, a class or a variable outside of all namespaces, or in C.
    outside = re.compile(r"(?!_Z|DW\.ref|__clang)"
                         r"|_Z(T[ISV])?L?(N[KO]*)?(?!9__gnu_cxx|10__cxxabiv1|6__pstl)\d")
    wrong = [name for name in set(names).difference(ours) if outside.match(name)]
    report(not wrong, "none is in the global namespace", "\n".join(wrong))


def check_every_warning():
    everything = ["-pthread", "-Weverything", "-Werror", "-DWRONG=0", f"-I{root}", "-fsyntax-only"]
    everything += [f"-Wno-{name}" for name in unwanted]
    for source in "public_names.cpp", "unit_main.cpp", "unit_implementation.cpp":
        code, output = run(compiler + everything + [str(root / "tests/compile" / source)])
        report(code == 0, f"{source} compiles with -Weverything", output)


def check_misuse(path):
    text = path.read_text()
    # Templates are instantiated only when code is made from them.
    with tempfile.TemporaryDirectory() as folder:
        command = compiler + strict + [f"-I{root}", "-c", str(path), "-o", f"{folder}/object.o"]
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


with tempfile.TemporaryDirectory() as scratch:
    for case in cases:
        if case == "every_warning":
            check_every_warning()
        elif case == "symbols":
            check_symbols(Unit(both[1]), pathlib.Path(scratch))
        elif case == "symbols_of_configurations":
            for arguments in configurations:
                check_symbols(Unit("../library.cpp", arguments), pathlib.Path(scratch))
        elif case in programs:
            check_program(case, pathlib.Path(scratch))
        else:
            check_misuse(pathlib.Path(case))
sys.exit(1 if failures else 0)
