#!/usr/bin/env python3
"""Each way of README's "Dropping it in", in a project of its own, with the text that stands there.

    dropping_in.py ROOT COMPILER ARGUMENT... [-- LIBRARY]

The program is the README's first one, with the implementation in it. With LIBRARY, which has that, a
small one is linked to it, as that is soon done. Nothing comes from a network: archives are made of
ROOT, and what is included by a URL is ROOT's header. A way whose tool is not installed says so.
"""

import itertools
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile

root = pathlib.Path(sys.argv[1]).resolve()
words = sys.argv[2:]
library = pathlib.Path(words[-1]).resolve() if "--" in words else None
# Without ccache before it.
compiler = list(itertools.takewhile(lambda word: not word.startswith("-"), words))[-1]
version = re.search(r"version: '([^']*)'", (root / "meson.build").read_text())[1]
name = f"asyncio-{version}"
text = (root / "README.md").read_text()

small_program = """
#include "asyncio.hpp"
#include <cstdio>
using namespace std::chrono_literals;

static asyncio::coro<int> answer() {
    co_await asyncio::sleep(1ms);
    co_return ASYNCIO_VERSION;
}

int main() { std::printf("version %d\\n", asyncio::run(answer())); }
"""
major, minor, patch = map(int, version.split("."))
program, output = small_program, f"version {major * 10000 + minor * 100 + patch}\n"
environment = dict(os.environ, CXX=compiler, LC_ALL="C")
if library is None:
    program = re.search(r"```cpp\n(.*?)```", text, re.DOTALL)[1]
    output = "data from A and data from B after 1.5 s, not 2.5\n"
else:
    environment["LDFLAGS"] = f"-Wl,--whole-archive {library} -Wl,--no-whole-archive"

# The section's blocks under the bold words that open each way.
section = re.search(r"(?ms)^## Dropping it in\n(.*?)^## ", text)[1]
ways = {}
for part in re.split(r"(?m)^(?=\*\*)", section)[1:]:
    way = re.match(r"\*\*(.*?)\*\*", part)[1]
    ways[way] = re.findall(r"(?ms)^```\w+\n(.*?)^```", part)

failures = 0


def report(good, what, details=""):
    global failures
    print(("ok      " if good else "FAILED  ") + what, flush=True)
    if not good:
        failures += 1
        print(details, flush=True)
    return good


class Failed(Exception):
    pass


def run(command, folder):
    done = subprocess.run(command, shell=isinstance(command, str), cwd=folder, env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          errors="replace")
    if done.returncode != 0:
        raise Failed(f"{command}\n{done.stdout}")
    return done.stdout


def copy(place):
    place.mkdir(parents=True, exist_ok=True)
    shutil.copy(root / "asyncio.hpp", place)


def of_the_project(entry):
    return not (entry.startswith("build") or entry in (".git", "agent", "greet"))


def checkout(place):
    place.mkdir(parents=True)
    for entry in filter(of_the_project, os.listdir(root)):
        add = shutil.copytree if (root / entry).is_dir() else shutil.copy
        add(root / entry, place / entry)


def archive(place):
    place.mkdir(parents=True, exist_ok=True)
    with tarfile.open(place / f"{name}.tar.gz", "w:gz", compresslevel=1) as file:
        for entry in filter(of_the_project, os.listdir(root)):
            file.add(root / entry, f"{name}/{entry}")


def run_in_shell(line, folder):
    line = re.sub(r"^g\+\+ ", f"{compiler} ", line.strip())
    run(f"{line} ${{LDFLAGS:-}}", folder)


def build_with_cmake(lines, folder):
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.14...3.25)\nproject(mine CXX)\n"
        "add_executable(my_program main.cpp)\n" + lines)
    run(["cmake", "-G", "Ninja", "-S", ".", "-B", "build"], folder)
    run(["cmake", "--build", "build"], folder)


def build_with_meson(lines, folder):
    (folder / "meson.build").write_text("project('mine', 'cpp')\n" + lines)
    run(["meson", "setup", "--buildtype=plain", "build"], folder)
    run(["meson", "compile", "-C", "build"], folder)


def a_copy(blocks, folder):
    copy(folder)
    run_in_shell(blocks[0], folder)


def cmake_with_a_copy(blocks, folder):
    copy(folder / "third_party/asyncio")
    build_with_cmake(blocks[0], folder)


def cmake_with_fetchcontent(blocks, folder):
    archive(folder)
    # Its lines stand for the first one of the copy's.
    after = ways["CMake, with a copy"][0].split("\n", 1)[1]
    build_with_cmake(blocks[0] + after, folder)


def meson_with_a_copy(blocks, folder):
    checkout(folder / "subprojects/asyncio")
    build_with_meson(blocks[0], folder)


def meson_with_a_wrap(blocks, folder):
    archive(folder / "subprojects/packagefiles")
    (folder / "subprojects/asyncio.wrap").write_text(blocks[0])
    build_with_meson(ways["Meson, with a copy"][0], folder)


def in_compiler_explorer(blocks, folder):
    # As that site does it: the file comes beside the source, under the URL's name.
    url = re.search(r"<https://(.*/)asyncio\.hpp>", blocks[0])
    copy(folder / url[1])
    block = blocks[0].replace(url[0], f'"{url[1]}asyncio.hpp"')
    rest = program.split('#include "asyncio.hpp"\n')[1]
    (folder / "main.cpp").write_text(block + rest)
    options = re.search(r"\*\*Compiler Explorer\*\* .* with the options `(.*?)`", section)[1]
    run(f"{compiler} {options} main.cpp -o my_program", folder)


def with_pkg_config(blocks, folder):
    checkout(folder / "checkout")
    environment["DESTDIR"] = environment["PKG_CONFIG_SYSROOT_DIR"] = str(folder / "installed")
    run(blocks[0], folder / "checkout")
    found = next((folder / "installed").rglob("asyncio.pc"))
    environment["PKG_CONFIG_PATH"] = str(found.parent)
    said = run(["pkg-config", "--modversion", "asyncio"], folder).strip()
    report(said == version, "pkg-config knows the version", said)
    run_in_shell(blocks[1], folder)
    # Meson's lines find it as well: no copy is there to fall back to.
    with_meson = folder / "with_meson"
    with_meson.mkdir()
    shutil.copy(folder / "main.cpp", with_meson)
    build_with_meson(ways["Meson, with a copy"][0], with_meson)
    said = run([str(with_meson / "build/my_program")], with_meson)
    report(said == output, "Meson, with the library installed: builds, and runs", said)


expected = {
    "A copy": (a_copy, []),
    "CMake, with a copy": (cmake_with_a_copy, ["cmake", "ninja"]),
    "CMake, with FetchContent": (cmake_with_fetchcontent, ["cmake", "ninja"]),
    "Meson, with a copy": (meson_with_a_copy, ["meson"]),
    "Meson, with a wrap": (meson_with_a_wrap, ["meson"]),
    "pkg-config": (with_pkg_config, ["meson", "pkg-config"]),
    "Compiler Explorer": (in_compiler_explorer, []),
}
report(list(ways) == list(expected), "the README has the ways that are tested", list(ways))
named = set(re.findall(r"\d+\.\d+\.\d+", section))
report(named == {version}, "its archives are of this version", named)

for way, (build, tools) in expected.items():
    missing = [tool for tool in tools if shutil.which(tool) is None]
    if missing:
        print(f"skipped {way}: there is no {missing[0]}")
        continue
    blocks = ways.get(way, [])
    report(all(block.count("\n") <= 5 for block in blocks), f"{way}: at most five lines", blocks)
    with tempfile.TemporaryDirectory() as place:
        folder = pathlib.Path(place)
        (folder / "main.cpp").write_text(program)
        try:
            build(blocks, folder)
            built = "build/my_program" if (folder / "build").is_dir() else "my_program"
            said = run([str(folder / built)], folder)
            report(said == output, f"{way}: builds, and runs", said)
        except Failed as failed:
            report(False, f"{way}: builds, and runs", failed)

sys.exit(1 if failures else 0)
