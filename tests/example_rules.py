#!/usr/bin/env python3
"""What every example promises to those who copy it out.

    example_rules.py ROOT [NAME OPTIONS PROGRAM]...

NAME, OPTIONS and PROGRAM are what examples/meson.build tests. A program is one file that needs only
asyncio.hpp, fits on a few pages, begins with its idea and the command that builds it, ends with its
output, and knows --help and what it does not know.
"""

import pathlib
import re
import subprocess
import sys

root = pathlib.Path(sys.argv[1])
programs = dict(zip(sys.argv[2::3], sys.argv[4::3]))
readme = (root / "examples" / "README.md").read_text()

capstone = "6_agent/ai_agent"  # a tool: it prints an answer, and only its usage for --help
widest = 100
# Lines before the output; others have about 150. What meets strangers needs more,
# and so does what brings its own port and memory along.
longest = {
    capstone: 400,
    "6_agent": 250,
    "cookbook/http_server": 460,
    "cookbook/redis_like": 340,
    "cookbook/tls_openssl": 250,
    "cookbook/https_client": 340,
    "cookbook/distributed_agent": 250,
    "cookbook/sdl_game": 300,
    "cookbook/embedded_no_os": 270,
}


def text_rules(name, text):
    """The complaints about the text of a program."""
    program, _, output = text.partition("\n// Output:\n")
    lines = program.splitlines()
    limit = longest.get(name, longest.get(name.split("/")[0], 165))

    if len(lines) > limit:
        yield f"it has {len(lines)} lines before its output; {limit} are the limit"
    command = re.search(build_command(name), program, re.MULTILINE)
    for number, line in enumerate(lines, 1):
        if len(line) > widest and not (command and line == command[0]):  # one line, to be copied
            yield f"line {number} has {len(line)} columns; {widest} are the limit"
    for header in re.findall(r'^\s*#\s*include\s*"(.*)"', program, re.MULTILINE):
        if header != "asyncio.hpp":
            yield f'it includes "{header}"; an example is one file'
    if not re.match(r"// [A-Z][\w -]*: .+[.:?]$", lines[0]):
        yield "its first line is not `// Lesson: the idea.`"
    if not command:
        yield f"no build command for examples/{name}.cpp stands in its head"
    if not output and name != capstone:
        yield "no output stands at its end, below a line `// Output:`"
    if f"]({name}.cpp)" not in readme:
        yield "examples/README.md does not link to it"


def readme_rules():
    """The complaints about examples/README.md: it names what is there, and quotes it rightly."""
    sources = {
        "cpp": [path.read_text() for path in root.glob("examples/*/*.cpp")],
        "python": [path.read_text() for path in root.glob("tests/python/*.py")],
    }
    for link in re.findall(r"\]\(([\w./]+)\)", readme):
        if not (root / "examples" / link).exists():
            yield f"it links to {link}, which is not there"
    for language, excerpt in re.findall(r"(?ms)^```(cpp|python)\n(.*?)^```", readme):
        lines = [line.strip() for line in excerpt.splitlines()]
        # Some file has all of them.
        missing = min(
            ([line for line in lines if line not in text] for text in sources[language]), key=len
        )
        for line in missing:
            yield f"no program has all lines of an excerpt in {language}; missing is: {line}"


def build_command(name):
    path = re.escape(f"examples/{name}.cpp")
    libraries = r"(?: -l\w+| \$\(pkg-config --cflags --libs [\w.-]+\))*"
    build = rf"g\+\+ -std=c\+\+20 -O2( -f[\w-]+)* -pthread -I\. {path} -o (\w+){libraries}"
    return rf"^//     {build} && \./\2( .*)?$"


def option_rules(name, program):
    """The complaints about how a program takes its options."""

    def run(*options):
        return subprocess.run([program, *options], capture_output=True, text=True, timeout=60)

    help = run("--help")
    usage = re.search(r"^usage: .*", help.stdout, re.MULTILINE)
    if help.returncode != 0 or not usage:
        yield f"--help ends with {help.returncode}, and should print a usage line and end with 0"
    if help.stdout.startswith("usage:") and name != capstone:
        yield "--help does not say what the program shows"
    wrong = [["--no-such-option"]]
    wrong += [[option, "x"] for option in re.findall(r"(--\w+) N\b", usage[0] if usage else "")]
    for options in wrong:
        done = run(*options)
        if done.returncode != 2 or "usage: " not in done.stderr:
            yield (f"{' '.join(options)} ends with {done.returncode}, "
                   "and should print a usage line to standard error and end with 2")


def check(name):
    text = (root / "examples" / (name + ".cpp")).read_text()
    yield from text_rules(name, text)
    if name not in programs:
        # What it needs may not be installed here.
        if not re.search(r"^#include <(openssl/|glib\.h|SDL2/|windows\.h)", text, re.MULTILINE):
            yield "it is not in examples/meson.build"
        return
    try:
        yield from option_rules(name, programs[name])
    except (OSError, subprocess.TimeoutExpired) as error:
        yield str(error)


found = {"README.md": list(readme_rules())}
for path in sorted(root.glob("examples/*/*.cpp")):
    name = str(path.relative_to(root / "examples").with_suffix(""))
    found[name] = list(check(name))

for name, complaints in found.items():
    print("FAILED" if complaints else "ok    ", name)
    for complaint in complaints:
        print("   ", complaint)
failed = sum(map(bool, found.values()))
print(f"{len(found) - failed} passed, {failed} failed")
sys.exit(1 if failed else 0)
