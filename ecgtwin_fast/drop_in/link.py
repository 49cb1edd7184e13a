"""A network of this package on the parameters of a user's module."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor, nn

State = tuple[tuple[int, int], ...]


class Scratch(dict):
    """What can be made again: copies and pickles of its owner begin with an empty one."""

    def of_state(self, key: Hashable, state: State, make: Callable[[], Any]) -> Any:
        """make(), or what it gave last time for this key if that was in the same state."""
        known, value = self.get(key, (None, None))
        if known != state:
            value = make()
            self[key] = (state, value)
        return value

    def __deepcopy__(self, memo: dict) -> Scratch:
        return Scratch()

    def __reduce__(self) -> tuple:
        return Scratch, ()


def _places(module: nn.Module) -> dict[str, tuple[dict[str, Tensor], str]]:
    """By state-dict name, the dictionary and the key that a parameter or buffer has in its module."""
    found = {}
    for prefix, part in module.named_modules(remove_duplicate=False):
        for holder in (part._parameters, part._buffers):
            known = (key for key, value in holder.items() if value is not None)
            found |= {f"{prefix}.{key}".lstrip("."): (holder, key) for key in known}
    return found


class Link:
    """Keeps the parameters and buffers of `network` the very objects that `module` has under the same names."""

    def __init__(self, module: nn.Module, network: nn.Module):
        theirs, ours = _places(module), _places(network)
        self._places = [(*theirs[name], *ours[name]) for name in network.state_dict()]
        self._parts = [part for part in module.modules() if part is not module]
        self.state()
        self.exact = {weight.dtype for weight in network.parameters()} <= {torch.float32, torch.float64}

    def state(self) -> State:
        """What changes when a parameter is replaced, or changed in place; replaced ones are taken over."""
        found = []
        for theirs, their_key, ours, our_key in self._places:
            value = theirs[their_key]
            if ours[our_key] is not value:
                ours[our_key] = value
            found.append((value.data_ptr(), 0 if value.is_inference() else value._version))
        return tuple(found)

    def on(self, device: str) -> bool:
        return any(theirs[key].device.type == device for theirs, key, _, _ in self._places)

    def reasons(self) -> list[str]:
        """Why the weights or the module's parts cannot be taken as they are."""
        weights = [theirs[key] for theirs, key, _, _ in self._places]
        reasons = []
        if any(weight.dtype != torch.float32 for weight in weights):
            others = sorted({str(weight.dtype) for weight in weights} - {"torch.float32"})
            reasons.append(f"the weights must be torch.float32, but some are {', '.join(others)}")
        if any(not weight.is_cpu for weight in weights):
            others = sorted({weight.device.type for weight in weights} - {"cpu"})
            reasons.append(f"the weights must be on the CPU, but some are on {', '.join(others)}")
        if any(part._forward_hooks or part._forward_pre_hooks for part in self._parts):
            reasons.append("parts of the module have forward hooks, which would not be called")
        return reasons

    def trains(self, *given: object) -> bool:
        """Whether a gradient would flow to a weight or to one of the given tensors."""
        if not torch.is_grad_enabled():
            return False
        if any(isinstance(value, Tensor) and value.requires_grad for value in given):
            return True
        return any(theirs[key].requires_grad for theirs, key, _, _ in self._places)
