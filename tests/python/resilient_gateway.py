"""The twin of examples/3_advanced_patterns/resilient_gateway.cpp."""

import asyncio
import sys

from resilience import CircuitBreaker, CircuitOpenError, retry
from virtual_clock import run

began = 0.0
broken = 0


def seconds():
    # Sums of floating-point delays miss the exact time by some 1e-16.
    return round(asyncio.get_running_loop().time() - began, 6)


def say(text):
    print(f"{seconds():5.2f} s  {text}")


def claim(holds, text):
    global broken
    print("holds: " if holds else "BROKEN:", text)
    broken += not holds


class Route:
    def __init__(self, service):
        self.calls = 0
        self.took = 0
        self._service = service
        self._breaker = CircuitBreaker(failures=3, open_for=60)

    async def request(self):
        async def guarded_call(number, pause):
            return await self._breaker.call(lambda: asyncio.wait_for(self._call(), 2))

        before = seconds()
        try:
            answer = await retry(
                guarded_call,
                attempts=3,
                initial_delay=0.5,
                jitter=0,
                again=lambda error: not isinstance(error, CircuitOpenError),
            )
        except CircuitOpenError:
            answer = "not called"
        except RuntimeError as error:
            answer = str(error)
        self.took = seconds() - before
        say(f"  {self._service}: {answer}")
        return answer

    async def _call(self):
        self.calls += 1
        bad = self.calls % 2 == 1 or self._service == "dead"
        await asyncio.sleep(5 if bad and self._service == "slow" else 0.2)
        if bad:
            raise RuntimeError("failed")
        return "data"


async def main():
    global began
    began = asyncio.get_running_loop().time()

    slow = Route("slow")
    flaky = Route("flaky")
    dead = Route("dead")
    slow_answers = []
    flaky_answers = []
    dead_answers = []
    calls_of_dead = []
    for number in range(1, 5):
        say(f"round {number}")
        a, b, c = await asyncio.gather(slow.request(), flaky.request(), dead.request())
        slow_answers.append(a)
        flaky_answers.append(b)
        dead_answers.append(c)
        calls_of_dead.append(dead.calls)

    claim(
        slow_answers == ["data"] * 4 and slow.calls == 8,
        f"slow: data in every round, with {slow.calls} calls in 4 rounds",
    )
    claim(
        flaky_answers == ["data"] * 4 and flaky.calls == 8,
        f"flaky: data in every round, with {flaky.calls} calls in 4 rounds",
    )
    claim(
        dead_answers == ["failed", "not called", "not called", "not called"]
        and calls_of_dead == [3, 3, 3, 3],
        f"dead: {calls_of_dead[0]} calls in the first round, then none: {dead.calls} in the end",
    )
    claim(dead.took < 1, f"a request to the dead service costs {dead.took:.2f} s now")
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
