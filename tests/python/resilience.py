"""What [SECTION] resilience of asyncio.hpp has and Python's asyncio has not, written by hand as far
as the twins need it: retry() and CircuitBreaker."""

import asyncio
import random


async def retry(
    call,
    *,
    attempts=3,
    initial_delay=1,
    max_delay=32,
    factor=2,
    jitter=0.1,
    timeout=None,
    again=lambda error: True,
):
    """Awaits call(number, next_delay) until one succeeds; the last error goes on."""
    delay = initial_delay
    for number in range(1, attempts + 1):
        pause = min(delay * (1 + jitter * random.random()), max_delay)
        try:
            async with asyncio.timeout(timeout):
                return await call(number, pause)
        except Exception as error:
            if number == attempts or not again(error):
                raise
        await asyncio.sleep(pause)
        delay *= factor


class CircuitOpenError(RuntimeError):
    pass


class CircuitBreaker:
    """Opens after some failures in a row; later it is half open and lets one call try."""

    def __init__(self, *, failures, open_for, on_change=lambda before, after: None):
        self._failures_to_open = failures
        self._open_for = open_for
        self._on_change = on_change
        self._state = "closed"
        self._failures = 0
        self._open_until = 0
        self._trying = False

    async def call(self, function):
        now = asyncio.get_running_loop().time()
        if self._state == "open" and now >= self._open_until:
            self._change("half_open")
        if self._state == "open" or self._trying:
            raise CircuitOpenError
        self._trying = self._state == "half_open"
        try:
            result = await function()
        except Exception:
            self._failures += 1
            if self._state == "half_open" or self._failures == self._failures_to_open:
                self._change("open")
            raise
        finally:
            self._trying = False
        self._failures = 0
        if self._state == "half_open":
            self._change("closed")
        return result

    def _change(self, after):
        before, self._state = self._state, after
        self._failures = 0
        if after == "open":
            self._open_until = asyncio.get_running_loop().time() + self._open_for
        self._on_change(before, after)
