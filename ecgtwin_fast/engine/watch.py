"""Long calls of compiled code that can be watched and interrupted."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures import TimeoutError as NotYet

import torch
from torch import Tensor

from ..samplers import Progress

POLL_SECONDS = 0.02


def watched(call: Callable[[Tensor], Tensor], units: int, steps: int, progress: Progress | None) -> Tensor:
    """The result of call(status), which runs on a thread of its own and releases Python's lock.

    Args:
        call: counts its work in status[0], from 0 to `units`, and ends early once status[1] is not 0.
        steps: of which `units` is a multiple. progress: called as progress(done, steps), once for each step, as soon as
            all the work of so many steps is done; what it raises ends the call, as KeyboardInterrupt does.
    """
    status = torch.zeros(2, dtype=torch.int64)
    reported = 0

    def report(done: int) -> None:
        nonlocal reported
        while progress is not None and reported < done:
            reported += 1
            progress(reported, steps)

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(call, status)
        try:
            while True:
                try:
                    result = running.result(POLL_SECONDS)
                    break
                except NotYet:
                    if running.done():
                        raise
                    report(int(status[0]) * steps // units)
            report(steps)
        except BaseException:
            status[1] = 1
            raise
    return result
