"""Graceful shutdown: Ctrl-C, SIGTERM or SIGHUP stops all ranks together between two steps."""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from types import FrameType

from torch_utils import distributed

# Approximate time between two checks in which the ranks exchange their signals. The first checks are more frequent,
# because the time per step is not known yet.
SECONDS_BETWEEN_CHECKS = 5.0


class StopSignal:
    """Tracks whether a rank was asked to stop. `listen` installs the signal handlers; call `agreed` after every step.

    number: the signal received, or 0 if there was none.
    """

    def __init__(self) -> None:
        self.number = 0
        self.steps = 0
        self.next_check = 1
        self.last_time = time.monotonic()
        self.last_steps = 0

    @contextlib.contextmanager
    def listen(self) -> Iterator[None]:
        """Handle Ctrl-C, SIGTERM and SIGHUP inside the block; a second Ctrl-C interrupts immediately.

        Outside the main thread, signals are left alone, because Python delivers them only to the main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        # If SIGHUP is ignored (as under nohup), keep ignoring it, except under torchrun, which forwards it regardless.
        if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN and 'TORCHELASTIC_RUN_ID' not in os.environ:
            numbers.remove(signal.SIGHUP)
        before = {number: signal.signal(number, self._remember) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.number == signal.SIGINT == number:
            raise KeyboardInterrupt
        self.number = number

    def agreed(self) -> bool:
        """Whether to stop now. The answer is the same on every rank.

        It becomes true at most about 10 seconds after a rank receives a signal.
        """
        if distributed.world_size() == 1:
            return self.number != 0
        self.steps += 1
        if self.steps < self.next_check:
            return False
        numbers = distributed.gather(self.number)
        self.number = max(numbers)
        self.next_check = self.steps + distributed.broadcast(self._steps_between_checks())
        return self.number != 0

    def _steps_between_checks(self) -> int:
        now = time.monotonic()
        per_step = (now - self.last_time) / max(self.steps - self.last_steps, 1)
        doubled = 2 * max(self.steps - self.last_steps, 1)
        self.last_time, self.last_steps = now, self.steps
        return max(1, min(doubled, int(SECONDS_BETWEEN_CHECKS / max(per_step, 1e-6))))
