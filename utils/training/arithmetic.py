"""What computes a run, as far as it decides the last digits: recorded in its checkpoints, and compared at resume.

A run that is resumed with other arithmetic ends in other weights: sums are rounded in another order, and training
makes the difference grow. That is no fault, but it must be said.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from typing import Any

import torch

from utils.common.precision import Precision

# Packages whose release changes numbers; the others read files, draw pictures or count.
PACKAGES = ("torch", "numpy", "opencv-python-headless", "albumentations")
KEYS = ("modules", "device", "cpu", "precision", "tf32", "layout", "compiled", "deterministic", "threads", "processes")


def arithmetic(settings: argparse.Namespace, precision: Precision) -> dict[str, Any]:
    """What `provenance` and the words of `utils.networks.speed.Speed` ("modules") leave out."""
    return {
        "cpu": torch.backends.cpu.get_cpu_capability(),  # the widest instructions that torch uses: "AVX512"
        "precision": precision.name,
        "layout": "channels_last" if settings.channels_last else "NCHW",
        "compiled": settings.compile,
        "deterministic": settings.deterministic,
    }


def changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """One line on what computes otherwise than it did; None if nothing does.

    What an older checkpoint has not recorded is not compared.

    Args:
        before, now: what checkpoints hold as "provenance".
    """
    if "compiled passes" not in before.get("modules", ""):  # checkpoints of before November 2026 do not tell
        now = {**now, "modules": re.sub(r", with(out)? compiled passes", "", now.get("modules", ""))}
    pairs = [(name, before[name], now.get(name)) for name in KEYS if name in before]
    old, new = before.get("versions", {}), now.get("versions", {})
    pairs += [(name, old[name], new.get(name)) for name in PACKAGES if name in old]
    changed = [f"{name} was {was}, now {is_now}" for name, was, is_now in pairs if was != is_now]
    if not changed:
        return None
    return (
        f"warning: the run resumes with other arithmetic ({'; '.join(changed)}): it will not end in the same weights, "
        "bit for bit, as it would have"
    )
