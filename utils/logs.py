"""What a run leaves for its reader: one JSON line an epoch, TensorBoard scalars and pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from utils.files import replacing


class RunLog:
    """Writes `log.jsonl` and TensorBoard events into a folder.

    A run that goes on after `epoch` epochs drops the lines of later ones, which it is about to compute again.
    """

    def __init__(self, folder: Path, epoch: int, settings: str) -> None:
        self.path = folder / "log.jsonl"
        self.entries = [entry for entry in read_log(self.path) if entry["epoch"] <= epoch] if epoch else []
        with replacing(self.path) as beside:
            beside.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries))
        self.board = SummaryWriter(folder / "tensorboard", purge_step=epoch + 1 if epoch else None)
        self.board.add_text("settings", f"```\n{settings}\n```", epoch)

    def write(self, entry: dict[str, Any], picture: np.ndarray) -> None:
        """One epoch: {"epoch": n, "train": {...}, "val": {...}, ...} and a picture (H, W, 3) uint8."""
        self.entries.append(entry)
        with self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")
        for part, values in entry.items():
            if isinstance(values, dict):
                for name, value in values.items():
                    self.board.add_scalar(f"{name}/{part}", value, entry["epoch"])
        self.board.add_scalar("learning_rate", entry["learning_rate"], entry["epoch"])
        self.board.add_image("validation", picture, entry["epoch"], dataformats="HWC")
        self.board.flush()

    def close(self) -> None:
        self.board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log.jsonl; none if there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
