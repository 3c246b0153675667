"""asyncio.run() on a clock that stands still while callbacks run and jumps to the next timer when
nothing is ready: what clock_kind::virtual_time is to the programs in examples/."""

import asyncio
import selectors


class VirtualClockLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        super().__init__(_JumpingSelector(self))
        self.now = 0.0
        self.busy = 0  # jobs in executors; the clock waits for them
        self.timers = 0

    def time(self):
        return self.now

    def call_at(self, when, callback, *args, context=None):
        self.timers += 1
        when = _Moment(round(when, 9), self.timers)
        return super().call_at(when, callback, *args, context=context)

    def run_in_executor(self, executor, func, *args):
        self.busy += 1
        future = super().run_in_executor(executor, func, *args)
        future.add_done_callback(self._job_ended)
        return future

    def _job_ended(self, future):
        self.busy -= 1


class _Moment(float):
    """A timer's time. Of equal ones, the one set first comes first, as it does on a real clock."""

    def __new__(cls, when, order):
        moment = super().__new__(cls, when)
        moment.order = order
        return moment

    def __lt__(self, other):
        if isinstance(other, _Moment):
            return (float(self), self.order) < (float(other), other.order)
        return float(self) < other


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop):
        super().__init__()
        self._loop = loop

    def select(self, timeout=None):
        if timeout is None or (timeout > 0 and self._loop.busy):
            return super().select(None)
        ready = super().select(0)
        if not ready:
            self._loop.now = round(self._loop.now + max(timeout, 0), 9)
        return ready


def run(main, virtual):
    """asyncio.run(main), in virtual time if `virtual`."""
    if not virtual:
        return asyncio.run(main)
    loop = VirtualClockLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)
