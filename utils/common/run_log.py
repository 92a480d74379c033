"""What a run leaves for its reader: its settings, one JSON line an epoch, TensorBoard events (docs/tensorboard.md)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from utils.common.files import replacing, writing


class RunLog:
    """Writes `settings.txt`, `log.jsonl` and TensorBoard events into a folder.

    A run that goes on after `epoch` epochs drops the lines of later ones, which it is about to compute again. `entries`
    are the lines that stand, the oldest first.

    Raises:
        UserError: if the folder cannot be written to.
    """

    def __init__(self, folder: Path, epoch: int, settings: str) -> None:
        self.path = folder / "log.jsonl"
        self.entries = [entry for entry in read_log(self.path) if entry["epoch"] <= epoch] if epoch else []
        with replacing(self.path) as beside:
            beside.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries))
        with replacing(folder / "settings.txt") as beside:
            beside.write_text(settings + "\n")
        self.board_folder = folder / "tensorboard"
        with writing(self.board_folder):
            self.board = SummaryWriter(self.board_folder, purge_step=epoch + 1 if epoch else None)
            self.board.add_text("settings", f"```\n{settings}\n```", epoch)

    def write_line(self, entry: dict[str, Any]) -> None:
        """One epoch: {"epoch": n, "train": {...}, "val": {...}, ...}.

        Raises:
            UserError: if it cannot be written.
        """
        self.entries.append(entry)
        with writing(self.path), self.path.open("a") as file:
            file.write(json.dumps(entry) + "\n")

    def write_board(self, entry: dict[str, Any], picture: np.ndarray, histograms: dict[str, Tensor]) -> None:
        """The same epoch for TensorBoard, a picture (H, W, 3) uint8, and what to show the distribution of.

        Raises:
            UserError: if it cannot be written.
        """
        with writing(self.board_folder):
            for part, value in entry.items():
                if isinstance(value, dict):
                    for name, figure in value.items():
                        self.board.add_scalar(f"{name}/{part}", figure, entry["epoch"])
                elif part != "epoch":  # learning_rate, seconds, images_per_second
                    self.board.add_scalar(f"run/{part}", value, entry["epoch"])
            for name, values in histograms.items():
                self.board.add_histogram(name, values.float().cpu(), entry["epoch"])
            self.board.add_image("validation", picture, entry["epoch"], dataformats="HWC")
            self.board.flush()

    def close(self) -> None:
        with writing(self.board_folder):
            self.board.close()


def read_log(path: Path) -> list[dict[str, Any]]:
    """The entries of a log.jsonl; none if there is no such file. A last line that was cut off is left out."""
    lines = path.read_text().split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]
