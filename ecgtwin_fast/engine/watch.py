"""Long calls of compiled code that can be watched and interrupted."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from .. import extension
from ..samplers import Progress


def watched(call: Callable[[Tensor], Tensor], units: int, steps: int, progress: Progress | None) -> Tensor:
    """The result of call(status), an operator that calls its observer now and then (csrc/observer.h).

    Args:
        call: counts its work in status[0], from 0 to `units`, and ends early once status[1] is not 0.
        steps: of which `units` is a multiple. progress: called as progress(done, steps), once for each step, some time
            after all the work of so many steps is done; what it raises ends the call, as KeyboardInterrupt does.
    """
    status = torch.zeros(2, dtype=torch.int64)
    work = status.numpy()
    reported = 0

    def report() -> None:
        nonlocal reported
        done = int(work[0]) * steps // units
        while progress is not None and reported < done:
            reported += 1
            progress(reported, steps)

    # Signals arrive in the observer too. What it raises ends the call, and is raised where observing ends.
    extension.MODULE.observe(report)
    try:
        result = call(status)
    finally:
        extension.MODULE.observe(None)
    report()
    return result
