"""The twin of examples/2_concurrent_tasks/crawler.cpp."""

import asyncio
import sys

from virtual_clock import run

began = 0.0
broken = 0
MOST_AT_ONCE = 50


class Random:
    """C++'s std::minstd_rand."""

    def __init__(self, seed):
        self.state = seed % 2147483647 or 1

    def __call__(self):
        self.state = self.state * 48271 % 2147483647
        return self.state


def seconds():
    # Sums of floating-point delays miss 1.5 by some 1e-16.
    return round(asyncio.get_running_loop().time() - began, 6)


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


class Counts:
    def __init__(self):
        self.under_way = self.most = self.pages = self.failed = self.broken_off = 0
        self.first_failure = 0.0


slots = asyncio.Semaphore(MOST_AT_ONCE)
n = Counts()


async def fetch(latency, is_broken):
    async with slots:
        n.under_way += 1
        n.most = max(n.most, n.under_way)
        try:
            await asyncio.sleep(latency)
        except asyncio.CancelledError:
            n.under_way -= 1
            n.broken_off += 1
            raise
        n.under_way -= 1
        if is_broken:
            n.failed += 1
            if n.failed == 1:
                n.first_failure = seconds()
            raise RuntimeError("404 Not Found")
        n.pages += 1
        if n.pages % 200 == 0:
            say(f"{n.pages} pages")


async def main(seed):
    global began, n
    began = asyncio.get_running_loop().time()

    say(f"seed {seed}")
    random = Random(seed)
    latencies = [(50 + random() % 101) / 1000 for _ in range(1000)]
    total = sum(latencies)
    broken_links = set()
    while len(broken_links) < 20:
        broken_links.add(random() % 1000)

    say("best effort:")
    outcomes = await asyncio.gather(
        *(fetch(latency, i in broken_links) for i, latency in enumerate(latencies)),
        return_exceptions=True,
    )
    took = seconds()
    best, n = n, Counts()
    got = outcomes.count(None)

    say("all or nothing:")
    thrown = ""
    tasks = []
    try:
        async with asyncio.TaskGroup() as group:
            for i, latency in enumerate(latencies):
                tasks.append(group.create_task(fetch(latency, i in broken_links)))
    except* RuntimeError as raised:
        thrown = str(raised.exceptions[0])
    ended = seconds()
    say(f"the group throws: {thrown}")
    cancelled = sum(task.cancelled() for task in tasks)

    claim(
        got == best.pages == 980 and best.failed == 20,
        f"best effort: {best.pages} pages and {best.failed} broken links of 1000",
    )
    claim(
        best.most == n.most == MOST_AT_ONCE,
        f"at most 50 at once: {best.most}, and {n.most} in the second crawl",
    )
    claim(
        total / MOST_AT_ONCE - 0.001 <= took < 2 * total / MOST_AT_ONCE,
        f"{took:.2f} s in all, not {total:.0f} s: a fiftieth, and a bit",
    )
    claim(
        n.failed >= 1 and n.pages + n.failed + cancelled == 1000,
        f"all or nothing: {n.pages} pages, and the first broken link",
    )
    claim(
        n.broken_off > 0 and n.under_way == 0,
        f"{cancelled} tasks are cancelled, {n.broken_off} of them in the middle of a page",
    )
    late = ended - n.first_failure
    claim(late < 0.5, f"the crawl ends with the failure, {late:.2f} s after it")
    return 1 if broken else 0


seed = int(sys.argv[sys.argv.index("--seed") + 1]) if "--seed" in sys.argv else 1
sys.exit(run(main(seed), "--virtual" in sys.argv))
