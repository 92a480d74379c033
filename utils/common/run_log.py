"""The logs of a run: its settings, one JSON line per epoch, and TensorBoard events (docs/reference/files.md)."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.tensorboard import SummaryWriter

from utils.common.errors import UserError
from utils.common.files import replacing, writing
from utils.common.processes import say


class RunLog:
    """Writes `settings.txt`, `log.jsonl` and TensorBoard events into a folder.

    A run that resumes after `epoch` epochs removes the lines of later epochs, which it computes again. `entries` are
    the remaining lines, the oldest first.

    Raises:
        UserError: if the folder cannot be written.
    """

    def __init__(self, folder: Path, epoch: int, settings: str) -> None:
        self.path = folder / "log.jsonl"
        self.entries = self._entries_until(epoch) if epoch else []
        with replacing(self.path) as beside:
            beside.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries), encoding="utf-8")
        with replacing(folder / "settings.txt") as beside:
            # A path may contain bytes that are not text.
            beside.write_text(settings + "\n", encoding="utf-8", errors="surrogateescape")
        self.board_folder = folder / "tensorboard"
        with writing(self.board_folder):
            self.board = SummaryWriter(self.board_folder, purge_step=epoch + 1 if epoch else None)
            text = settings.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
            self.board.add_text("settings", f"```\n{text}\n```", epoch)

    def _entries_until(self, epoch: int) -> list[dict[str, Any]]:
        entries, cut = read_lines(self.path)
        # If an epoch was logged twice, the later line is kept.
        kept = list({entry["epoch"]: entry for entry in entries if entry["epoch"] <= epoch}.values())
        if cut:
            say(f"warning: {self.path}: the last line is incomplete and was removed")
        if missing := sorted(set(range(1, epoch + 1)) - {entry["epoch"] for entry in kept}):
            say(f"warning: {self.path}: {len(missing)} of {epoch} epochs are missing (first: {missing[0]})")
        return kept

    def write_line(self, entry: dict[str, Any]) -> None:
        """Appends one epoch, {"epoch": n, "train": {...}, "val": {...}, ...}, and flushes it to the disk.

        Raises:
            UserError: if it cannot be written.
        """
        self.entries.append(entry)
        with writing(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(entry) + "\n")
            file.flush()
            os.fsync(file.fileno())

    def write_board(self, entry: dict[str, Any], picture: np.ndarray, histograms: dict[str, Tensor]) -> None:
        """Writes the same epoch to TensorBoard, with a picture (H, W, 3) uint8 and histograms.

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
    """The entries of a log.jsonl without an incomplete last line; none if the file does not exist.

    Raises:
        UserError: see `read_lines`.
    """
    return read_lines(path)[0]


def read_lines(path: Path) -> tuple[list[dict[str, Any]], bool]:
    """The entries of a log.jsonl, and whether its last line was incomplete, as after a kill or a power failure.

    Raises:
        UserError: if an earlier line is damaged.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else [b""]
    cut = lines.pop() != b""
    entries = [_entry(line) for line in lines]
    if entries and entries[-1] is None:  # after a power failure the line may have its full length but contain zeros
        entries.pop()
        cut = True
    if None in entries:
        broken = entries.index(None)
        raise UserError(
            f"{path} is damaged in line {broken + 1} of {len(lines)}; the {broken} lines before it are intact. Remove "
            "the damaged lines or the file: the run resumes without them"
        )
    return entries, cut


def _entry(line: bytes) -> dict[str, Any] | None:
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or type(entry.get("epoch")) is not int:
        return None
    if type(entry.get("seconds")) not in (int, float):
        return None
    return entry if all(isinstance(entry.get(part), dict) for part in ("train", "val")) else None
