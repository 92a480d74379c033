"""The time of a piece of work by operator of torch or C++ kernel, and by the shapes of the maps."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

try:
    from models.fast import native
except ModuleNotFoundError:  # without C++ kernels
    native = None


class OperatorTimes(TorchDispatchMode):
    """A context that times each operator and each kernel of `models.fast.native`: `times` contains [calls, seconds] by
    operator and shapes.

    torch.profiler is not used, because its many records double the time of a step at 256x256.
    """

    def __init__(self, device: torch.device) -> None:
        super().__init__()
        self.device = device
        self.times: dict[tuple[str, str], list[float]] = defaultdict(lambda: [0, 0.0])

    def __enter__(self) -> OperatorTimes:
        if native:
            native.observer = lambda name, x, seconds: self._add(name, (x,), seconds)
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        if native:
            native.observer = None
        super().__exit__(*error)

    def __torch_dispatch__(
        self, operator: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        started = self._now()
        result = operator(*args, **(kwargs or {}))
        self._add(str(operator), args, self._now() - started)
        return result

    def _add(self, name: str, args: tuple[Any, ...], seconds: float) -> None:
        entry = self.times[name, " ".join(filter(None, map(_describe, args)))]
        entry[0] += 1
        entry[1] += seconds

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def operator_table(work: Callable[[], Any], device: torch.device, repeat: int, rows: int = 40) -> str:
    """The time of `work` by operator and shapes, one per line, the longest first; in ms per run."""
    operators = OperatorTimes(device)
    with operators:
        for _ in range(repeat):
            work()
    total = sum(seconds for _, seconds in operators.times.values())
    lines = [f"{'ms':>9} {'share':>6} {'calls':>6}  operator and shapes of its maps (': not channels_last)"]
    for (name, shapes), (calls, seconds) in sorted(operators.times.items(), key=lambda item: -item[1][1])[:rows]:
        lines.append(f"{1000 * seconds / repeat:9.2f} {seconds / total:6.1%} {calls // repeat:6}  {name} {shapes}")
    lines.append(f"{1000 * total / repeat:9.2f}  in all operators")
    return "\n".join(lines)


def _describe(argument: Any) -> str:
    """The shape, type and layout of a tensor or of a short list of tensors; empty for other arguments."""
    if isinstance(argument, (list, tuple)) and argument and isinstance(argument[0], Tensor):
        return f"{len(argument)} tensors" if len(argument) > 4 else "[" + " ".join(map(_describe, argument)) + "]"
    if not isinstance(argument, Tensor):
        return ""
    shape = "x".join(map(str, argument.shape)) or "scalar"
    dtype = {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(argument.dtype, "")
    strange = argument.ndim == 4 and not argument.is_contiguous(memory_format=torch.channels_last)
    return shape + dtype + "'" * strange
