"""The twin of examples/3_advanced_patterns/circuit_breaker.cpp."""

import asyncio
import sys

from resilience import CircuitBreaker, CircuitOpenError
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


class Service:
    def __init__(self, name, bad_calls):
        self.calls = 0
        self.states = "closed"
        self._name = name
        self._bad_calls = bad_calls
        self._breaker = CircuitBreaker(failures=5, open_for=60, on_change=self._changed)

    async def ask(self):
        answer = "data"
        try:
            await self._breaker.call(self._call)
        except CircuitOpenError:
            answer = "not called"
        except RuntimeError:
            answer = "failed"
        say(f"{self._name}: {answer}")
        return answer

    def _changed(self, before, after):
        before, after = before.replace("_", " "), after.replace("_", " ")
        say(f"{self._name}: the circuit was {before} and is {after}")
        self.states += f", {after}"

    async def _call(self):
        self.calls += 1
        number = self.calls
        await asyncio.sleep(0.1)
        if number <= self._bad_calls:
            raise RuntimeError("the service is down")


async def watch(name, bad_calls):
    service = Service(name, bad_calls)
    reached = [0]

    for _ in range(5):
        await service.ask()
    reached.append(service.calls)

    await service.ask()
    await asyncio.sleep(57)
    await service.ask()
    await service.ask()
    reached.append(service.calls)

    await asyncio.sleep(3.1)
    await asyncio.gather(service.ask(), service.ask(), service.ask())
    reached.append(service.calls)

    await service.ask()
    reached.append(service.calls)

    return service.states, [after - before for before, after in zip(reached, reached[1:])]


def claim_calls(name, calls, expected):
    figures = ", ".join(map(str, calls))
    claim(
        calls == expected,
        f"{name}: of 5, 3, 3 and 1 calls, these reached the service: {figures}",
    )


async def main():
    global began
    began = asyncio.get_running_loop().time()

    say("two services fail; the open circuit takes a minute")
    recovering, dead = await asyncio.gather(watch("recovering", 5), watch("dead", 1000))

    claim(
        recovering[0] == "closed, open, half open, closed",
        f"recovering: the circuit was {recovering[0]}",
    )
    claim(dead[0] == "closed, open, half open, open", f"dead: the circuit was {dead[0]}")
    claim_calls("recovering", recovering[1], [5, 0, 1, 1])
    claim_calls("dead", dead[1], [5, 0, 1, 0])
    return 1 if broken else 0


sys.exit(run(main(), "--virtual" in sys.argv))
