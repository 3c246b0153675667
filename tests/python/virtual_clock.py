"""asyncio.run() on a clock that stands still while callbacks run and jumps to the next timer when
nothing is ready: what clock_kind::virtual_time is to the programs in examples/."""

import asyncio
import selectors


class VirtualClockLoop(asyncio.SelectorEventLoop):
    def __init__(self):
        super().__init__(_JumpingSelector(self))
        self.jumped = 0.0

    def time(self):
        return self.jumped


class _JumpingSelector(selectors.DefaultSelector):
    def __init__(self, loop):
        super().__init__()
        self._loop = loop

    def select(self, timeout=None):
        ready = super().select(0 if timeout is not None else None)
        if not ready and timeout:
            self._loop.jumped += timeout
        return ready


def run(main, virtual):
    """asyncio.run(main), in virtual time if `virtual`."""
    if not virtual:
        return asyncio.run(main)
    loop = VirtualClockLoop()
    with asyncio.Runner(loop_factory=lambda: loop) as runner:
        return runner.run(main)
