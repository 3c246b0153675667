#!/usr/bin/env python3
"""Runs random scripts in Python's asyncio and in this library, and compares what happens.

    differential.py PROGRAM [--first SEED] [--count N] [--ties] [--most N]

PROGRAM is the built tests/differential.cpp. Each seed is a script: tasks that sleep, wait for each
other and for locks, queues and the like, fail, and cancel each other. Both sides run it on a
virtual clock, and write down what each statement of each task does, and when. Of each task that
must be the same. A script of which it is not is made as small as it can be, and printed with both
logs.

With --ties much happens at the same time, for which this Python must be 3.13 or newer. Then, of
thousands of scripts, one may differ where this library needs a turn of the loop less than Python,
as for wait(), or as nobody overtakes those who wait for a queue here. Exit code 77: this Python is
too old.
"""

import argparse
import asyncio
import contextvars
import gc
import itertools
import os
import random
import re
import subprocess
import sys
import warnings

if sys.version_info < (3, 11):
    sys.exit(77)
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "python"))
import virtual_clock  # noqa: E402

# What the library takes over from newer versions is left out with older ones.
NEW = sys.version_info >= (3, 13)
left_out = set()
if sys.version_info < (3, 13):
    left_out |= {"uncancel", "uncancelme", "group", "spawn", "each", "shutdown"}
if sys.version_info < (3, 12):
    left_out |= {"waitfor", "limit", "gather", "gatheras"}

# ---- Scripts -------------------------------------------------------------------------------------

# What a statement consists of, and how often it comes. A script takes the first family and some of
# the others, so that what belongs together meets.
syntax = {
    "common": """
        3 sleep DELAY
        3 create TASK EAGER BODY
        2 await WAITABLE
        2 cancel ANY MESSAGE
        1 look ANY
        .5 raise DIGIT
        2 try KIND AGAIN BLOCK BLOCK
        .3 return DIGIT
        .2 cancelme MESSAGE
        .3 uncancelme
        1 repeat TIMES BLOCK
        1 count""",
    "gather": "2 gather OUTCOMES BODIES / 4 gatheras GATHERED / 2 await WAITABLE / "
              "2 callback ANY CALLS",
    "wait": "4 wait UNTIL LIMIT SEVERAL / 4 each LIMIT TIMES SEVERAL",
    "limits": "2 waitfor LIMIT INT / 2 limit LIMIT BODY / 6 timeout TIMEOUT LIMIT BLOCK / "
              "4 reschedule A_TIMEOUT LIMIT",
    "shield": "2 shield BODY / 4 shieldas SHIELDED / 2 await WAITABLE",
    "groups": "4 group GROUP BLOCK / 6 spawn TASK A_GROUP BODY",
    "cleanup": "4 finally BLOCK BLOCK / 2 try KIND AGAIN BLOCK BLOCK / 2 uncancel ANY / "
               "4 generate TIMES BLOCK YIELDS BLOCK",
    "events": "4 event WHICH / 2 set WHICH / 2 clear WHICH",
    "locks": "4 lock WHICH BLOCK / 2 acquire WHICH / 2 release WHICH / 2 locked WHICH",
    "conditions": "4 condition BLOCK / 2 notified / 2 until TIMES / 2 bump / 4 notify COUNT",
    "semaphores": "4 semaphore SEMAPHORE BLOCK / 2 take SEMAPHORE / 2 give SEMAPHORE / "
                  "2 full SEMAPHORE",
    "barriers": "6 barrier WHICH / 1 reset WHICH / 1 abort WHICH / 2 waiting WHICH",
    "queues": "4 put QUEUE DIGIT / 4 get QUEUE / 2 putnow QUEUE DIGIT / 2 getnow QUEUE / "
              "2 taskdone QUEUE / 2 join QUEUE / 2 size QUEUE / .6 shutdown QUEUE IMMEDIATE",
    "futures": "2 result FUTURE DIGIT / 2 failure FUTURE DIGIT / 2 callback ANY CALLS / "
               "2 await WAITABLE",
    "callbacks": "4 callback ANY CALLS / 2 remove CALLBACK / 4 later HANDLE LIMIT CALLS / "
                 "2 stop A_HANDLE / 2 setvar DIGIT / 2 getvar",
}
syntax = {family: [line.split() for line in re.split("[/\n]", text) if line.strip()]
          for family, text in syntax.items()}
# What a callback can do, as it does not wait.
quick = set("cancel look uncancel result failure set clear release locked notify bump give full "
            "putnow getnow taskdone size shutdown reschedule stop spawn create gatheras shieldas "
            "setvar getvar waiting".split())
plain = {
    "MESSAGE": ["-", "-", "m", "n"], "KIND": ["cancelled", "cancelled", "error", "all"],
    "AGAIN": ["-", "again"], "OUTCOMES": ["-", "outcomes"], "UNTIL": ["all", "first", "failure"],
    "IMMEDIATE": ["-", "immediate"], "TIMES": [1, 2, 2, 3], "COUNT": [1, 1, 2, "-"],
    "WHICH": [0, 0, 1], "SEMAPHORE": [0, 1, 2], "QUEUE": [0, 1, 1, 2, 3],
    "FUTURE": [100, 100, 101, 102, 103], "DIGIT": list(range(10)),
    "EAGER": ["-"] * 6 + ["eager" if NEW else "-"],
}


class Generator:
    """Makes a script of a seed. Without ties no two things happen at the same time by chance."""

    def __init__(self, seed, ties):
        self.random = random.Random(seed)
        self.ties = ties
        self.left = self.random.choice([8, 15, 30, 60])  # statements
        self.labels = self.tasks = self.timeouts = self.groups = self.handles = 0
        # Who awaits a thing has a smaller number than this, so that nothing waits for itself.
        self.floors = {n: n for n in range(100, 104)}
        self.ints = list(self.floors)  # what gives an int
        families = self.random.sample(list(syntax)[1:], self.random.choice([1, 2, 2, 3, 4]))
        self.lines = [line for family in ["common", *families] for line in syntax[family]
                      if line[1] not in left_out and not (ties and line[1] == "count")]

    def script(self):
        return self.block(0, 0)

    def block(self, owner, depth, own=False):
        """Statements. With `own` they are the body of a task."""
        block = []
        if own and not self.ties:  # so that it begins at a time of its own
            block.append(["sleep", self.label(), self.delay()])
        for _ in range(self.random.choice([1, 2, 3, 4])):
            if self.left > 0:
                self.left -= 1
                block.append(self.statement(self.lines, owner, depth))
        return block

    def statement(self, lines, owner, depth):
        if depth > 5:
            lines = [line for line in lines if not {"BLOCK", "BODIES", "BODY"} & set(line)]
        while True:
            _, op, *kinds = self.random.choices(lines, [float(line[0]) for line in lines])[0]
            parts = []
            for kind in kinds:  # a TASK is the owner of its BODY
                parts.append(self.part(kind, parts[0] if kinds[0] == "TASK" and parts else owner,
                                       depth))
            if None not in parts:
                break
        if op in ("gatheras", "shieldas"):
            parts = parts[0]
        return [op, self.label()] + parts

    def label(self):
        self.labels += 1
        return self.labels

    def delay(self):
        return self.random.choice([0, 0, 1, 1, 2, 3] if self.ties else range(1, 30000))

    def thing(self, floor=None):
        self.tasks += 1
        self.floors[self.tasks] = floor or self.tasks
        return self.tasks

    def waitable(self, owner, things):
        found = [n for n in things if self.floors[n] > owner]
        return self.random.choice(found[-4:] + found)

    def part(self, kind, owner, depth):
        choose = self.random.choice
        if kind in plain:
            return choose(plain[kind])
        if kind == "DELAY":
            return self.delay()
        if kind == "LIMIT":
            return "-" if self.random.random() < 0.15 else self.delay()
        if kind == "ANY":
            return choose([0, *self.floors, *list(self.floors)[-5:]])
        if kind == "WAITABLE":
            return self.waitable(owner, self.floors)
        if kind == "INT":
            return self.waitable(owner, self.ints)
        if kind == "SEVERAL":
            return [self.waitable(owner, self.ints) for _ in range(choose([1, 2, 2, 3]))]
        if kind == "TASK":
            self.ints.append(self.thing())
            return self.tasks
        if kind == "GATHERED":
            of = self.part("SEVERAL", owner, depth)
            return [self.thing(min(self.floors[n] for n in of)), choose(plain["OUTCOMES"]), of]
        if kind == "SHIELDED":
            of = self.part("INT", owner, depth)
            self.ints.append(self.thing(self.floors[of]))
            return [self.tasks, of]
        if kind in ("TIMEOUT", "GROUP", "HANDLE"):
            name = kind.lower() + "s"
            setattr(self, name, getattr(self, name) + 1)
            return getattr(self, name)
        if kind in ("A_TIMEOUT", "A_GROUP", "A_HANDLE", "CALLBACK"):
            last = self.labels if kind == "CALLBACK" else getattr(self, kind[2:].lower() + "s")
            return choose(range(1, last + 1)) if last else None
        if kind == "BLOCK":
            return self.block(owner, depth + 1)
        if kind == "BODY":
            return self.block(owner, depth + 1, own=True)
        if kind == "BODIES":
            return [self.part("BODY", owner, depth) for _ in range(choose([1, 2, 3]))]
        if kind == "YIELDS":
            return [["yield", self.label(), choose(plain["DIGIT"]), self.block(owner, depth + 1)]
                    for _ in range(choose([1, 2, 3]))]
        if kind == "CALLS":
            lines = [line for family in syntax.values() for line in family
                     if line[1] in quick - left_out]
            return [self.statement(lines, owner, 5) for _ in range(choose([1, 1, 2]))]
        raise ValueError(kind)


def text_of(script):
    if isinstance(script, list):
        return "(" + " ".join(text_of(part) for part in script) + ")"
    return str(script)


# ---- The same operations as in differential.cpp --------------------------------------------------


class Error(Exception):
    pass


def name_of(e, message=False):
    if isinstance(e, asyncio.CancelledError):
        return f"C[{e.args[0] if e.args else ''}]" if message else "C"
    if isinstance(e, BaseExceptionGroup):
        return "G[" + " ".join(map(name_of, e.exceptions)) + "]"
    if isinstance(e, Error):
        return f"E{e.args[0]}"
    for kind, name in kinds:
        if isinstance(e, kind):
            return name
    return type(e).__name__


kinds = [(TimeoutError, "Timeout"), (asyncio.BrokenBarrierError, "Broken"),
         (asyncio.QueueEmpty, "Empty"), (asyncio.QueueFull, "Full"),
         (getattr(asyncio, "QueueShutDown", ()), "ShutDown"),
         (asyncio.InvalidStateError, "Invalid"), (ValueError, "Value"), (RuntimeError, "Runtime"),
         (GeneratorExit, "Closed")]


def shown(value):
    if isinstance(value, list):
        return "[" + "".join(" " + shown(v) for v in value) + " ]"
    if isinstance(value, BaseException):
        return name_of(value)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def state_of(f):
    if not f.done():
        return "pending"
    if f.cancelled():
        return "cancelled"
    return shown(f.exception() or f.result())


NOTHING = -1


class Ordered(dict):
    """A set, in the order in which it was filled."""

    def add(self, item):
        self[item] = None

    def discard(self, item):
        self.pop(item, None)


class Group(asyncio.TaskGroup):
    def __init__(self):
        super().__init__()
        self._tasks = Ordered()  # else they are cancelled in any order


class World:
    def __init__(self, lines):
        self.lines = lines
        self.things = {}
        self.tasks = []
        self.timeouts = {}
        self.groups = {}
        self.handles = {}
        self.callbacks = {}  # by their labels
        self.events = [asyncio.Event(), asyncio.Event()]
        self.locks = [asyncio.Lock(), asyncio.Lock()]
        self.condition = asyncio.Condition(self.locks[1])
        self.bumped = 0
        self.semaphores = [asyncio.Semaphore(1), asyncio.Semaphore(2), asyncio.BoundedSemaphore(1)]
        self.barriers = [asyncio.Barrier(2), asyncio.Barrier(3)]
        self.queues = [asyncio.Queue(), asyncio.Queue(1), asyncio.LifoQueue(2),
                       asyncio.PriorityQueue(2)]
        self.variable = contextvars.ContextVar("variable", default=0)

    def log(self, who, s, event):
        loop = asyncio.get_running_loop()
        try:
            me = asyncio.current_task()
        except RuntimeError:
            me = None
        requests = f" requests={me.cancelling()}" if me and me.cancelling() else ""
        self.lines.append(f"{int(loop.time())} {who} {s[1]} {s[0]} {event}{requests}")

    def find_all(self, numbers):
        found = [self.things.get(n) for n in numbers]
        return [f for f in found if f and not isinstance(f, asyncio.tasks._GatheringFuture)]

    # What does not wait.

    def do_now(self, s, who):
        op, a = s[0], s[2:]
        loop = asyncio.get_running_loop()
        if op in ("cancel", "uncancel", "look", "callback"):
            f = self.things.get(a[0])
            if f is None:
                return "none"
            if op == "cancel":
                return f.cancel(None if a[1] == "-" else a[1])
            if op == "look":
                return state_of(f) + (f" cancelling={f.cancelling()}" if isinstance(f, asyncio.Task)
                                      else "")
            if op == "uncancel":
                return f.uncancel() if isinstance(f, asyncio.Task) else "none"
            def call(_):
                self.run_now(a[1], who + "+")
            self.callbacks[s[1]] = f, call
            f.add_done_callback(call)
            return None
        if op == "remove":
            if a[0] not in self.callbacks:
                return "none"
            f, call = self.callbacks[a[0]]
            return f.remove_done_callback(call)
        if op == "create":
            body = self.run_task(a[2], str(a[0]))
            if a[1] == "eager":
                made = asyncio.Task(body, loop=loop, eager_start=True)
            else:
                made = asyncio.create_task(body)
            self.things[a[0]] = made
            return state_of(made)
        if op == "spawn":
            if a[1] not in self.groups:
                return "none"
            body = self.run_task(a[2], str(a[0]))
            made = self.things[a[0]] = self.groups[a[1]].create_task(body)
            return state_of(made)
        if op == "gatheras":
            made = asyncio.gather(*self.find_all(a[2]), return_exceptions=a[1] == "outcomes")
            self.things[a[0]] = made
            return state_of(made)
        if op == "shieldas":
            inner = self.things.get(a[1])
            if not inner:
                return "none"
            made = self.things[a[0]] = asyncio.shield(inner)
            return state_of(made)
        if op == "reschedule":
            if a[0] not in self.timeouts:
                return "none"
            return self.timeouts[a[0]].reschedule(None if a[1] == "-" else loop.time() + a[1])
        if op == "set":
            return self.events[a[0]].set()
        if op == "clear":
            return self.events[a[0]].clear()
        if op == "release":
            return self.locks[a[0]].release()
        if op == "locked":
            return self.locks[a[0]].locked()
        if op == "notify":
            return self.condition.notify_all() if a[0] == "-" else self.condition.notify(a[0])
        if op == "bump":
            self.bumped += 1
            return self.bumped
        if op == "give":
            return self.semaphores[a[0]].release()
        if op == "full":
            return self.semaphores[a[0]].locked()
        if op == "waiting":
            barrier = self.barriers[a[0]]
            return f"{barrier.n_waiting}" + (" broken" if barrier.broken else "")
        if op == "putnow":
            return self.queues[a[0]].put_nowait(a[1])
        if op == "getnow":
            return self.queues[a[0]].get_nowait()
        if op == "taskdone":
            return self.queues[a[0]].task_done()
        if op == "shutdown":
            return self.queues[a[0]].shutdown(a[1] == "immediate")
        if op == "size":
            return self.queues[a[0]].qsize()
        if op == "result":
            return self.things[a[0]].set_result(a[1])
        if op == "failure":
            return self.things[a[0]].set_exception(Error(a[1]))
        if op == "later":
            def call():
                self.run_now(a[2], who + "+")
            self.handles[a[0]] = loop.call_soon(call) if a[1] == "-" else \
                loop.call_later(a[1], call)
            return None
        if op == "stop":
            return self.handles[a[0]].cancel() if a[0] in self.handles else "none"
        if op == "count":
            return len(asyncio.all_tasks())
        if op == "setvar":
            self.variable.set(a[0])
            return None
        if op == "getvar":
            return self.variable.get()
        if op == "cancelme":
            return asyncio.current_task().cancel(None if a[0] == "-" else a[0])
        if op == "uncancelme":
            return asyncio.current_task().uncancel()
        raise AssertionError(op)

    def run_now(self, statements, who):
        for s in statements:
            try:
                event = shown(self.do_now(s, who))
            except Exception as e:
                event = "!" + name_of(e)
            self.log(who, s, event)

    # What waits: gives what happened, and what the block returns.

    async def do_sleep(self, s, who):
        await asyncio.sleep(s[2])

    async def do_await(self, s, who):
        f = self.things.get(s[2])
        return "none" if f is None else await f

    async def do_gather(self, s, who):
        return await asyncio.gather(
            *(self.run_task(b, f"{who}/{s[1]}.{i}") for i, b in enumerate(s[3])),
            return_exceptions=s[2] == "outcomes")

    async def do_wait(self, s, who):
        until = {"all": asyncio.ALL_COMPLETED, "first": asyncio.FIRST_COMPLETED,
                 "failure": asyncio.FIRST_EXCEPTION}[s[2]]
        futures = self.find_all(s[4])
        done, _ = await asyncio.wait(futures, return_when=until,
                                     timeout=None if s[3] == "-" else s[3])
        return "done" + "".join(" yes" if f in done else " no" for f in futures)

    async def do_waitfor(self, s, who):
        found = self.find_all([s[3]])
        return await asyncio.wait_for(found[0], None if s[2] == "-" else s[2]) if found else "none"

    async def do_limit(self, s, who):
        return await asyncio.wait_for(self.run_task(s[3], f"{who}/{s[1]}"),
                                      None if s[2] == "-" else s[2])

    async def do_timeout(self, s, who):
        limit = asyncio.timeout(None if s[3] == "-" else s[3])
        try:
            async with limit as self.timeouts[s[2]]:
                return Returned(await self.run_block(s[4], who))
        finally:
            self.timeouts.pop(s[2], None)
            self.log(who, s, "expired" if limit.expired() else "in time")

    async def do_shield(self, s, who):
        return await asyncio.shield(self.run_task(s[2], f"{who}/{s[1]}"))

    async def do_each(self, s, who):
        # What is done already comes in any order here, and a turn later.
        futures = [f for f in self.find_all(s[4]) if not f.done()]
        ends = asyncio.as_completed(futures, timeout=None if s[2] == "-" else s[2])
        ends = aiter(ends)
        for _ in range(s[3]):
            try:
                f = await anext(ends)
            except StopAsyncIteration:
                break
            self.log(who, s, "gives " + str(max(i for i, g in enumerate(futures) if g is f)))

    async def do_group(self, s, who):
        try:
            async with Group() as self.groups[s[2]]:
                return Returned(await self.run_block(s[3], who))
        finally:
            self.groups.pop(s[2], None)

    async def do_repeat(self, s, who):
        for _ in range(s[2]):
            value = await self.run_block(s[3], who)
            if value != NOTHING:
                return Returned(value)

    async def do_raise(self, s, who):
        raise Error(s[2])

    async def do_try(self, s, who):
        catches = {"cancelled": asyncio.CancelledError, "error": Exception, "all": BaseException}
        try:
            return Returned(await self.run_block(s[4], who))
        except catches[s[2]] as e:
            self.log(who, s, "catches " + name_of(e))
            value = await self.run_block(s[5], who)
            if value == NOTHING and s[3] == "again":
                raise
            return Returned(value)

    async def do_finally(self, s, who):
        try:
            return Returned(await self.run_block(s[2], who))
        finally:
            await self.run_block(s[3], who)

    async def do_event(self, s, who):
        await self.events[s[2]].wait()

    async def do_lock(self, s, who):
        async with self.locks[s[2]]:
            return Returned(await self.run_block(s[3], who))

    async def do_acquire(self, s, who):
        await self.locks[s[2]].acquire()

    async def do_condition(self, s, who):
        async with self.condition:
            return Returned(await self.run_block(s[2], who))

    async def do_notified(self, s, who):
        await self.condition.wait()

    async def do_until(self, s, who):
        await self.condition.wait_for(lambda: self.bumped >= s[2])

    async def do_semaphore(self, s, who):
        async with self.semaphores[s[2]]:
            return Returned(await self.run_block(s[3], who))

    async def do_take(self, s, who):
        await self.semaphores[s[2]].acquire()

    async def do_barrier(self, s, who):
        return await self.barriers[s[2]].wait()

    async def do_reset(self, s, who):
        await self.barriers[s[2]].reset()

    async def do_abort(self, s, who):
        await self.barriers[s[2]].abort()

    async def do_put(self, s, who):
        await self.queues[s[2]].put(s[3])

    async def do_get(self, s, who):
        return await self.queues[s[2]].get()

    async def do_join(self, s, who):
        await self.queues[s[2]].join()

    async def produce(self, s, who):
        try:
            for part in s[4]:
                await self.run_block(part[3], who)
                yield part[2]
        finally:
            self.log(who, s, "cleans up")
            await self.run_block(s[5], who)

    async def do_generate(self, s, who):
        values = self.produce(s, who)
        value = NOTHING
        try:
            for _ in range(s[2]):
                try:
                    item = await anext(values)
                except StopAsyncIteration:
                    break
                self.log(who, s, f"gives {item}")
                value = await self.run_block(s[3], who)
                if value != NOTHING:
                    break
        finally:
            await values.aclose()
        return Returned(value)

    async def do_return(self, s, who):
        return Returned(s[2])

    async def run_block(self, block, who):
        for s in block:
            value = NOTHING
            try:
                operation = getattr(self, "do_" + s[0], None)
                event = await operation(s, who) if operation else self.do_now(s, who)
                if isinstance(event, Returned):
                    value = event.value
                    event = None
            except BaseException as e:
                # Those who await a cancelled task twice get no message here.
                self.log(who, s, "!" + name_of(e, s[0] in ("sleep", "event", "get")))
                raise
            self.log(who, s, shown(event))
            if value != NOTHING:
                return value
        return NOTHING

    async def run_task(self, block, who):
        mark = ("task", "-")
        self.log(who, mark, "begins")
        me = asyncio.current_task()
        self.tasks.append(me)
        try:
            return await self.run_block(block, who)
        finally:
            self.log(who, mark, "ends" if me is asyncio.current_task() else "is another")


class Returned:
    def __init__(self, value):
        self.value = value


async def run_script(script, lines):
    loop = asyncio.get_running_loop()
    reports = []
    loop.set_exception_handler(lambda loop, context: reports.append(name_of(context.get("exception"))))
    world = World(lines)
    for number in range(100, 104):
        world.things[number] = loop.create_future()
    world.things[0] = asyncio.create_task(world.run_task(script, "0"))
    await asyncio.sleep(1_000_000)
    # Whoever still waits then waits for ever.
    mark = ("main", "-")
    for _ in range(40):
        if all(t.done() for t in world.tasks):
            break
        for t in list(world.tasks):
            if not t.done():
                t.cancel()
        for lock in world.locks:
            if lock.locked():
                lock.release()
        await asyncio.sleep(1_000)
    world.log("main", mark, f"tasks {len(asyncio.all_tasks())}")
    for number, f in sorted(world.things.items()):
        end = " cancelled" if f.cancelled() else "" if f.done() else " pending"
        world.log("main", mark, f"{number}{end}")
    world.things.clear()
    world.callbacks.clear()
    world.tasks.clear()
    t = f = None  # they would keep the last ones
    gc.collect()
    await asyncio.sleep(1)
    for report in sorted(reports):
        world.log("main", mark, f"reports {report}")


def in_python(script):
    lines = []
    virtual_clock.run(run_script(script, lines), True)
    return lines


def in_program(program, scripts):
    """The logs of the scripts; of the one in which the program crashes or hangs, and those behind
    it, there is none."""
    text = "".join(text_of(s) + "\n" for s in scripts)
    try:
        done = subprocess.run([program], input=text, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, timeout=300)
        output, end = done.stdout, f"exit code {done.returncode}"
        complete = done.returncode == 0
    except subprocess.TimeoutExpired as e:
        output, end, complete = (e.stdout or b"").decode(), "it hangs", False
    logs = [part.splitlines()[1:] for part in ("\n" + output).split("\n= ")[1:]]
    if not complete:
        logs[-1].append(end)
    return logs


def all_in_program(program, scripts):
    logs = []
    while len(logs) < len(scripts):
        logs += in_program(program, scripts[len(logs):])
    return logs


# ---- Comparing -----------------------------------------------------------------------------------


def by_task(lines):
    """What each task does; the order between tasks at the same time may be another."""
    tasks = {}
    for line in lines:
        tasks.setdefault(line.split()[1] if line[:1].isdigit() else "", []).append(line)
    return tasks


def equal(script, a, b):
    """Also when Python reports an error less, since one of these has looked at it."""
    if re.search("gather|shield|wait", text_of(script)):
        a = [line for line in a if "reports" not in line]
        b = [line for line in b if "reports" not in line]
    return by_task(a) == by_task(b)


def is_block(part):
    return part and isinstance(part[0], list) and isinstance(part[0][0], str)


def smaller(part):
    """A script, or a part of one, without one of its parts, or with what is within a statement in
    its place: each of these."""
    for i, inner in enumerate(part):
        before, after = part[:i], part[i + 1:]
        if not isinstance(part[0], str) and (isinstance(inner, list) or len(part) > 1):
            yield before + after
        if not isinstance(inner, list):
            continue
        if is_block(part) and inner[0] != "yield":
            for block in inner[2:]:
                if isinstance(block, list) and is_block(block) and block[0][0] != "yield":
                    yield before + block + after
        for changed in smaller(inner):
            yield before + [changed] + after


def minimised(program, script):
    candidates = smaller(script)
    while some := list(itertools.islice(candidates, 20)):
        for candidate, log in zip(some, all_in_program(program, some)):
            if not equal(candidate, in_python(candidate), log):
                script, candidates = candidate, smaller(candidate)
                break
    return script


def main():
    parser = argparse.ArgumentParser(
        description="Runs random scripts in Python's asyncio and in this library.")
    parser.add_argument("program", help="the built tests/differential.cpp")
    parser.add_argument("--first", type=int, default=1, help="the first seed (1)")
    parser.add_argument("--count", type=int, default=1000, help="how many (1000)")
    parser.add_argument("--ties", action="store_true", help="much happens at the same time")
    parser.add_argument("--most", type=int, default=5, help="differences that are shown (5)")
    arguments = parser.parse_args()
    if arguments.ties and not NEW:
        sys.exit(77)
    warnings.simplefilter("ignore")
    different = 0
    for begin in range(arguments.first, arguments.first + arguments.count, 200):
        seeds = range(begin, min(begin + 200, arguments.first + arguments.count))
        scripts = [Generator(seed, arguments.ties).script() for seed in seeds]
        for seed, script, log in zip(seeds, scripts, all_in_program(arguments.program, scripts)):
            if equal(script, in_python(script), log):
                continue
            different += 1
            print(f"seed {seed} differs", flush=True)
            if different > arguments.most:
                continue
            script = minimised(arguments.program, script)
            print(text_of(script))
            theirs, ours = in_python(script), all_in_program(arguments.program, [script])[0]
            for a, b in itertools.zip_longest(theirs, ours, fillvalue=""):
                print(f"  {a:50} {'|' if a == b else '#'} {b}")
            sys.stdout.flush()
    print(f"{arguments.count} scripts, {different} differ")
    return 1 if different else 0


if __name__ == "__main__":
    sys.exit(main())
