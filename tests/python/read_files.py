"""The twin of examples/1_foundations/read_files.cpp."""

import asyncio
import pathlib
import sys
import tempfile

from virtual_clock import run

began = 0.0
broken = 0


def seconds():
    return asyncio.get_running_loop().time() - began


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


under_way = most = 0


async def read(path):
    global under_way, most
    under_way += 1
    most = max(most, under_way)
    text = await asyncio.to_thread(path.read_text)
    under_way -= 1
    return text


async def main():
    global began, most
    began = asyncio.get_running_loop().time()

    with tempfile.TemporaryDirectory() as folder:
        files = []
        for i in range(100):
            files.append(pathlib.Path(folder) / f"note{i}.txt")
            files[-1].write_text(f"This is note number {i}.")

        start = seconds()
        one_by_one = [await read(file) for file in files]
        most_in_turn, most = most, 0
        say(f"one by one: {1000 * (seconds() - start):.2f} ms, {most_in_turn} read at a time")

        start = seconds()
        at_once = await asyncio.gather(*map(read, files))
        say(f"at once: {1000 * (seconds() - start):.2f} ms, up to {most} reads at a time")
        say(f"the last note: {at_once[-1]}")

        claim(one_by_one == at_once, "both ways read the same")
        claim(at_once[17] == "This is note number 17.", "and it is what is in the files")
    claim(most_in_turn == 1, "one by one, a read begins when the one before has ended")
    claim(most == 100, f"at once, all 100 begin before the first result is taken: {most}")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
