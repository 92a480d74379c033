"""The conditions that decide the last digits of a run: recorded in its checkpoints, and compared when it is resumed.

A run that is resumed with other arithmetic ends with other weights: sums are rounded in another order, and training
amplifies the difference. Another commit of this project may compute something else. This is not an error, but the log
must say so.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

import torch

from utils.common.precision import Precision

# Packages whose version affects the numbers; the others read files, draw pictures or count.
PACKAGES = ("torch", "numpy", "opencv-python-headless", "albumentations")
KERNELS = "C++ kernels"  # see `models.fast.words`
KEYS = ("modules", "device", "cpu", "precision", "tf32", "layout", "compiled", "deterministic", "threads", "processes")
KEYS += ("git_commit",)


def arithmetic(settings: argparse.Namespace, precision: Precision) -> dict[str, Any]:
    """The conditions that neither `provenance` nor the words of `utils.networks.speed.Speed` ("modules") contain."""
    return {
        "cpu": torch.backends.cpu.get_cpu_capability(),  # the widest instructions that torch uses, e.g. "AVX512"
        "precision": precision.name,
        "layout": "channels_last" if settings.channels_last else "NCHW",
        "compiled": settings.compile,
        "deterministic": settings.deterministic,
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """One line with the conditions that have changed; None if none has.

    Conditions that an older checkpoint has not recorded are not compared.

    Args:
        before, now: the "provenance" of checkpoints.
    """
    if "modules" in before:
        before = {**before, "modules": str(before["modules"]).replace("compiled passes", KERNELS)}  # the old name
        if KERNELS not in before["modules"]:  # checkpoints before November 2026 do not record them
            now = {**now, "modules": re.sub(rf", with(out)? {re.escape(KERNELS)}", "", now.get("modules", ""))}
    pairs = [(name, before[name], now.get(name)) for name in KEYS if name in before]
    old, new = before.get("versions", {}), now.get("versions", {})
    pairs += [(name, old[name], new.get(name)) for name in PACKAGES if name in old]
    changed = [f"{name} was {was}, now {is_now}" for name, was, is_now in pairs if was != is_now]
    if not changed:
        return None
    return (
        f"warning: the run resumes with other arithmetic or code ({'; '.join(changed)}), so its final weights can "
        "differ from those of an uninterrupted run"
    )


def earlier_parts(before: Mapping[str, Any], changed: bool, epochs: int) -> list[dict[str, Any]]:
    """The parts of a resumed run until now. A part ends where the run resumes with other arithmetic or code.

    Args:
        before: the "provenance" of the checkpoint that is resumed.
        changed: whether `changes` has found something.
        epochs: finished until now.

    Returns:
        Of each part: the "epochs" that were finished at its end, "device", "torch" and "commit".
    """
    parts = list(before.get("earlier", []))
    if changed:
        torch_release = before.get("versions", {}).get("torch")
        now = {"device": before.get("device"), "torch": torch_release, "commit": before.get("git_commit")}
        parts.append({"epochs": epochs, **now})
    return parts
