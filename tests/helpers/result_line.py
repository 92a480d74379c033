"""A line of docs/results, as a finished run leaves it, for tests that need no run."""

from __future__ import annotations

from typing import Any

from utils.reproduction.result_lines import FIGURES, SCHEMA, per_image_name


def result_line(
    arm: str = "dpconv", division: int = 1, seed: int = 41, test: bool = False, **other: Any
) -> dict[str, Any]:
    """`other` replaces keys."""
    lists = ["val", *["test"] * test]
    figures = {"images": 195, **dict.fromkeys(FIGURES, 0.5), "Pd": None, "Fa_1e-6": 12.5}
    return {
        "schema": SCHEMA,
        "experiment": "trial",
        "arm": arm,
        "division": division,
        "seed": seed,
        "settings": {"recon": {"img_size": 128}, "seg": {"img_size": 128, "seed": seed}},
        "encoder": "0" * 64,
        "protocol": {on: {"best": {"threshold": 0.5}, "last": {"threshold": 0.5}} for on in lists},
        "files": {"train": "1" * 64, "val": "2" * 64},
        "versions": {"python": "3.11.9", "torch": "2.8.0", "tifffile": None},
        "commit": None,
        "machine": {"device": "cpu", "platform": "Linux", "threads": 2, "processes": 1},
        "network": {"parameters": {"trained": 3, "frozen": 2}, "macs": 10},
        "seconds": {"recon": 1.5, "seg": 2.5, "evaluation": 0.5},
        "epochs": {"best": 1, "last": 2},
        "figures": {on: {"best": dict(figures), "last": dict(figures)} for on in lists},
        "curve": {"epoch": [1, 2], "train_loss": [1.0, 0.5], "val_loss": [1.1, 0.6], "val_iou": [0.3, 0.2]},
        "code": None,
        "per_image": per_image_name("trial", arm, division, seed),
        **other,
    }
