"""Validation of the progress stored in last.pth, before any tensor or counter of it is used."""

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

HOW = ("foreach", "fused")  # options of an optimizer's group that select the implementation of its step
_WORDS = 624  # words in the state of a Mersenne Twister


def check_progress(
    previous: Mapping[str, Any], optimizer: Optimizer, schedule: LambdaLR, epochs: int, steps: int, path: Path
) -> dict[str, Any]:
    """The states of the optimizer and the schedule from a checkpoint, ready to load: {"optimizer", "schedule"}.

    Values that the settings decide are taken from `optimizer` and `schedule`; only values that change in training come
    from the file. Momentum gets the memory layout of its parameter, which the fused step of SGD requires.

    Args:
        previous: the content of last.pth.
        epochs, steps: epochs of the run, and steps of each epoch.
        path: of last.pth.

    Raises:
        UserError: for the first entry that is missing, of another shape or type, not finite, or out of range.
    """
    try:
        for name in ("optimizer", "schedule", "scaler", "means", "random"):
            _require(isinstance(previous[name], dict), f"{name} must be a dict, got {type(previous[name]).__name__}")
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
    _require(is_count(epoch) and epoch <= epochs, f"the epoch must be between 0 and {epochs}")
    _require(is_count(step) and step <= (steps if epoch < epochs else 0), f"the step must be between 0 and {steps}")
    if best is None:
        _require(epoch < epochs, "the best epoch is missing")
        return
    best_epoch = best.get("epoch")
    _require(is_count(best_epoch) and 1 <= best_epoch <= epoch, f"the best epoch must be between 1 and {epoch}")
    _require(len(best) == 2 and all(map(is_finite, best.values())), "the best figure must be a number")


def _schedule_state(previous: Mapping[str, Any], schedule: LambdaLR, steps: int) -> dict[str, Any]:
    done = previous["schedule"]["last_epoch"]
    expected = previous["epoch"] * steps + previous["step"]
    _require(done == expected and is_count(done), f"the schedule must be at step {expected}, got {done!s:.100}")
    rates = [base * factor(done) for base, factor in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)]
    return {**schedule.state_dict(), "last_epoch": done, "_step_count": done + 1, "_last_lr": rates}


def _optimizer_state(state: Mapping[str, Any], optimizer: Optimizer, rates: list[float]) -> dict[str, Any]:
    ours = optimizer.state_dict()
    _require(len(state["param_groups"]) == len(ours["param_groups"]), "the optimizer has other parameter groups")
    groups = []
    for before, now, rate in zip(state["param_groups"], ours["param_groups"], rates, strict=True):
        group = {**now, "lr": rate}
        for name in now.keys() & before.keys():
            value = before[name]
            if name in HOW:
                _require(value is None or type(value) is bool, f"{name} of the optimizer must be true or false")
                group[name] = value
            elif name == "lr":
                _require(is_finite(value) and math.isclose(value, rate), f"the learning rate must be {rate:.6g}")
            else:
                _require(value == now[name], f"{name} of the optimizer was {value!s:.50}, now {now[name]!s:.50}")
        groups.append(group)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    buffers = {}
    for number, of_parameter in state["state"].items():
        _require(is_count(number) and number < len(parameters), "the momentum belongs to an unknown parameter")
        _require(of_parameter.keys() == {"momentum_buffer"}, "the optimizer state must contain only the momentum")
        value, parameter = of_parameter["momentum_buffer"], parameters[number]
        if value is not None:
            problem = tensor_problem(value, parameter)
            _require(problem is None, f"the momentum of parameter {number} {problem}")
            value = torch.empty_like(parameter, requires_grad=False).copy_(value)
        buffers[number] = {"momentum_buffer": value}
    return {"state": buffers, "param_groups": groups}


def _check_means(means: Mapping[str, Any]) -> None:
    _require(is_count(means["count"]), "the count of the means must be an integer of at least 0")
    _require(bool(means["sums"]) == (means["count"] > 0), "the means require both a count and sums, or neither")
    for name, total in means["sums"].items():
        plain = isinstance(name, str) and isinstance(total, Tensor) and total.dim() == 0 and total.is_floating_point()
        _require(plain, "the means must be numbers by name")


def _check_scaler(scaler: Mapping[str, Any]) -> None:
    if scaler:
        _require(is_finite(scaler["scale"]) and scaler["scale"] > 0, "the loss scale must be a positive number")
        _require(is_count(scaler["_growth_tracker"]), "the counter of the loss scale must be an integer of at least 0")
        for name in ("growth_factor", "backoff_factor", "growth_interval"):
            _require(is_finite(scaler[name]) and scaler[name] > 0, f"{name} of the loss scale must be positive")


def _check_random(states: Mapping[str, Any]) -> None:
    version, python, gauss = states["python"]
    _require(version == 3 and len(python) == _WORDS + 1, "the state of Python's random numbers is damaged")
    _require(all(is_count(word) and word < 2**32 for word in python), "the state of Python's random numbers is damaged")
    in_range = python[-1] <= _WORDS and (gauss is None or is_finite(gauss))
    _require(in_range, "the state of Python's random numbers is damaged")
    name, keys, position, has_gauss, cached = states["numpy"]
    whole = name == "MT19937" and isinstance(keys, Tensor) and keys.dtype == torch.int64 and keys.shape == (_WORDS,)
    _require(whole and keys.min() >= 0 and keys.max() < 2**32, "the state of numpy's random numbers is damaged")
    _require(is_count(position) and position <= _WORDS, "the state of numpy's random numbers is damaged")
    _require(has_gauss in (0, 1) and is_finite(cached), "the state of numpy's random numbers is damaged")
    for state in (states["torch"], *states["cuda"]):
        whole = isinstance(state, Tensor) and state.dtype == torch.uint8 and state.dim() == 1
        _require(whole, "the state of torch's random numbers is damaged")
