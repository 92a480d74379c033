"""What last.pth says of a run's progress, checked whole before a tensor or counter of it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from utils.common.errors import UserError
from utils.networks.check_state import is_count, is_finite, tensor_problem

HOW = ("foreach", "fused")  # of an optimizer's group: how its step is computed
_WORDS = 624  # of the state of Mersenne's generator


def check_progress(
    previous: Mapping[str, Any], optimizer: Optimizer, schedule: LambdaLR, epochs: int, steps: int, path: Path
) -> dict[str, Any]:
    """The optimizer's and the schedule's state of a checkpoint, in the form that they load: {"optimizer", "schedule"}.

    What a run of these settings decides is taken from `optimizer` and `schedule`; only what changes in training comes
    from the file. Momentum gets the memory layout of its parameter: the fused step of SGD takes it for granted.

    Args:
        previous: the content of last.pth.
        epochs, steps: of the run, and of each epoch.
        path: of last.pth.

    Raises:
        UserError: names what is missing, of another shape or type, not finite, or out of range.
    """
    try:
        for name in ("optimizer", "schedule", "scaler", "means", "random"):
            _require(isinstance(previous[name], dict), f"its {name} is a {type(previous[name]).__name__}")
        _check_counters(previous, epochs, steps)
        schedule_state = _schedule_state(previous, schedule, steps)
        optimizer_state = _optimizer_state(previous["optimizer"], optimizer, schedule_state["_last_lr"])
        _check_means(previous["means"])
        _check_scaler(previous["scaler"])
        _check_random(previous["random"])
    except KeyError as error:
        raise UserError(f"{path} does not fit this run: {error.args[0]!s:.100} is missing") from error
    except _WrongState as error:
        raise UserError(f"{path} does not fit this run: {error}") from error
    except (
        AttributeError,
        IndexError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:
        raise UserError(f"{path} does not fit this run, or is damaged: {str(error)[:300]}") from error
    return {"optimizer": optimizer_state, "schedule": schedule_state}


class _WrongState(Exception):
    pass


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise _WrongState(problem)


def _check_counters(previous: Mapping[str, Any], epochs: int, steps: int) -> None:
    epoch, step, best = previous["epoch"], previous["step"], previous["best"]
    _require(is_count(epoch) and epoch <= epochs, f"its epoch must be between 0 and {epochs}")
    _require(is_count(step) and step <= (steps if epoch < epochs else 0), f"its step must be between 0 and {steps}")
    if best is None:
        _require(epoch < epochs, "its best epoch is missing")
        return
    _require(is_count(best.get("epoch")) and 1 <= best["epoch"] <= epoch, f"its best epoch must be in 1..{epoch}")
    _require(len(best) == 2 and all(map(is_finite, best.values())), "its best figure must be a number")


def _schedule_state(previous: Mapping[str, Any], schedule: LambdaLR, steps: int) -> dict[str, Any]:
    done = previous["schedule"]["last_epoch"]
    expected = previous["epoch"] * steps + previous["step"]
    _require(done == expected and is_count(done), f"its schedule has taken {done!s:.100} steps, expected {expected}")
    rates = [base * factor(done) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    return {**schedule.state_dict(), "last_epoch": done, "_step_count": done + 1, "_last_lr": rates}


def _optimizer_state(state: Mapping[str, Any], optimizer: Optimizer, rates: list[float]) -> dict[str, Any]:
    ours = optimizer.state_dict()
    _require(len(state["param_groups"]) == len(ours["param_groups"]), "its optimizer has other groups of parameters")
    groups = []
    for before, now, rate in zip(state["param_groups"], ours["param_groups"], rates, strict=True):
        group = {**now, "lr": rate}
        for name in now.keys() & before.keys():
            value = before[name]
            if name in HOW:
                _require(value is None or type(value) is bool, f"its optimizer's {name} must be true or false")
                group[name] = value
            elif name == "lr":
                _require(is_finite(value) and math.isclose(value, rate), f"its learning rate must be {rate:.6g}")
            else:
                _require(value == now[name], f"its optimizer's {name} was {value!s:.50}, now {now[name]!s:.50}")
        groups.append(group)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    buffers = {}
    for number, of_parameter in state["state"].items():
        _require(is_count(number) and number < len(parameters), "its momentum is of a parameter that does not exist")
        _require(of_parameter.keys() == {"momentum_buffer"}, "its optimizer's state must be the momentum alone")
        value, parameter = of_parameter["momentum_buffer"], parameters[number]
        if value is not None:
            problem = tensor_problem(value, parameter)
            _require(problem is None, f"the momentum of parameter {number} {problem}")
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        buffers[number] = {"momentum_buffer": value}
    return {"state": buffers, "param_groups": groups}


def _check_means(means: Mapping[str, Any]) -> None:
    _require(is_count(means["count"]), "the count of its means must be a number of at least 0")
    _require(bool(means["sums"]) == (means["count"] > 0), "its means have a count and no sums, or sums and no count")
    for name, total in means["sums"].items():
        plain = isinstance(name, str) and isinstance(total, Tensor) and total.dim() == 0 and total.is_floating_point()
        _require(plain, "its means must be numbers by name")


def _check_scaler(scaler: Mapping[str, Any]) -> None:
    if scaler:
        _require(is_finite(scaler["scale"]) and scaler["scale"] > 0, "its loss scale must be a number above 0")
        _require(is_count(scaler["_growth_tracker"]), "its loss scale's counter must be a number of at least 0")
        for name in ("growth_factor", "backoff_factor", "growth_interval"):
            _require(is_finite(scaler[name]) and scaler[name] > 0, f"its loss scale's {name} must be above 0")


def _check_random(states: Mapping[str, Any]) -> None:
    version, python, gauss = states["python"]
    _require(version == 3 and len(python) == _WORDS + 1, "the state of Python's random numbers is damaged")
    _require(all(is_count(word) and word < 2**32 for word in python), "the state of Python's random numbers is damaged")
    _require(python[-1] <= _WORDS and (gauss is None or is_finite(gauss)), "Python's random numbers are damaged")
    name, keys, position, has_gauss, cached = states["numpy"]
    whole = name == "MT19937" and isinstance(keys, Tensor) and keys.dtype == torch.int64 and keys.shape == (_WORDS,)
    _require(whole and keys.min() >= 0 and keys.max() < 2**32, "the state of numpy's random numbers is damaged")
    _require(is_count(position) and position <= _WORDS, "the state of numpy's random numbers is damaged")
    _require(has_gauss in (0, 1) and is_finite(cached), "the state of numpy's random numbers is damaged")
    for state in (states["torch"], *states["cuda"]):
        _require(isinstance(state, Tensor) and state.dtype == torch.uint8 and state.dim() == 1, "torch's is damaged")
