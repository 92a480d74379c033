"""The output folder of a prediction: its files, and the check that files of other origin are not overwritten."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.inputs import Input
from utils.common.errors import UserError
from utils.common.files import LEFT_BEHIND, replacing
from utils.common.pictures import as_rgb8, overlay, save_png
from utils.prediction import contact_sheet

SETTINGS = "predict.json"
INPUTS = "inputs.json"
SHEET = "contact_sheet"
_SAMPLE = 1 << 16  # bytes at the beginning and in the middle of an image that are compared
ABANDONED = 3600  # seconds after which an unfinished file is a killed run's, not one of a run beside this one
_ADVICE = "pass another --output, or --overwrite"
_RENAME = "rename one, or pass another --output"


@dataclass(frozen=True)
class Outputs:
    """The folder of the results:

        NAME.png                the mask, 0 and 255
        probability8/NAME.png   255 for a probability of 1 (probability16: 65535)
        overlay/NAME.png        the image with its mask
        contact_sheet/          contact_sheet.png of some images, and the row of each in rows/NAME.png
        predict.json            what all of them were made with
        inputs.json             the file of each image, its size, time and hash: a changed image is predicted again

    A result counts as finished if it is newer than predict.json. To overwrite all results, `begin` rewrites
    predict.json; if that run is interrupted, the next one finishes it.

    Args:
        folder: created if missing.
        probability: bit depth of the probability maps, 8 or 16; None for none.
        overlay: whether to draw the mask over the image.
        shown: names of the images on the contact sheet, see `utils.prediction.contact_sheet.choose`.
    """

    folder: Path
    probability: int | None = None
    overlay: bool = False
    shown: frozenset[str] = frozenset()

    @property
    def sheet(self) -> Path:
        """The contact sheet: not beside the masks, where it would be taken for one."""
        return self.folder / SHEET / f"{SHEET}.png"

    def paths(self, name: str) -> dict[str, Path]:
        """The files of one image: "mask"; "probability" and "overlay" if asked for; "row" if it is on the sheet."""
        paths = {"mask": self.folder / f"{name}.png"}
        if self.probability:
            paths["probability"] = self.folder / f"probability{self.probability}" / f"{name}.png"
        if self.overlay:
            paths["overlay"] = self.folder / "overlay" / f"{name}.png"
        if name in self.shown:
            paths["row"] = self.folder / SHEET / "rows" / f"{name}.png"
        return paths

    def _every_path(self, name: str) -> list[Path]:
        """The files that an image may have from calls with other flags, too."""
        folders = (".", "probability8", "probability16", "overlay", f"{SHEET}/rows")
        return [self.folder / folder / f"{name}.png" for folder in folders]

    def needs_pixels(self, name: str) -> bool:
        """Whether the image itself is drawn into one of its files."""
        return self.overlay or name in self.shown

    def write(
        self,
        name: str,
        pixels: np.ndarray | None,
        probability: np.ndarray,
        mask: np.ndarray,
        white_level: int | None = None,
    ) -> None:
        """The files of one image.

        Args:
            name: of the image, with `/` between folders.
            pixels: of the image as stored, (H, W) or (H, W, 3), where `needs_pixels`.
            probability: (H, W) float32; its memory is used.
            mask: (H, W) bool.
            white_level: value of a 16-bit image that is white.

        Raises:
            UserError: if one cannot be written.
        """
        paths = self.paths(name)
        if "overlay" in paths:
            save_png(paths["overlay"], overlay(as_rgb8(pixels, white_level), mask))
        if "row" in paths:
            save_png(paths["row"], contact_sheet.draw_row(name, pixels, probability, mask, white_level))
        if "probability" in paths:
            full, dtype = (255, np.uint8) if self.probability == 8 else (65535, np.uint16)
            np.rint(np.multiply(probability, full, out=probability), out=probability)
            save_png(paths["probability"], probability.astype(dtype))
        save_png(paths["mask"], mask.view(np.uint8) * np.uint8(255))

    def check(self, inputs: Sequence[Input], made_with: dict[str, Any], overwrite: bool) -> None:
        """Checks that the results may be written here.

        Raises:
            UserError: if a result would overwrite an input image or another result; and, without `overwrite`, a file of
                unknown origin, or if the folder contains results of other settings or of other images.
        """
        self._check_places(inputs)
        if not overwrite:
            self._check_settings(inputs, made_with)
            self._check_images(inputs)

    def begin(self, inputs: Sequence[Input], made_with: dict[str, Any], overwrite: bool) -> None:
        """Writes inputs.json, and predict.json if it is missing or with `overwrite`; removes unfinished files of killed
        runs, the results of images that have changed and, with `overwrite`, results that this call does not replace.

        Raises:
            UserError: if a file cannot be written.
        """
        before, now = self._recorded(), {image.name: _identity(image.path) for image in inputs}
        # An image in a folder named overlay has its mask where overlays are written.
        masks, images = {self.paths(name)["mask"] for name in {**before, **now}}, {one.path.resolve() for one in inputs}
        for name in now.keys() & before.keys():
            changed = not _same_content(before[name], now[name])
            if changed or overwrite:
                own = set(self.paths(name).values())
                older = {path for path in self._every_path(name) if path.resolve() not in images} - masks - own
                for path in older | own if changed else older:
                    path.unlink(missing_ok=True)
        with replacing(self.folder / INPUTS) as beside:
            beside.write_text(json.dumps({**before, **now}, indent=1) + "\n", encoding="utf-8")
        for path in self.folder.rglob(LEFT_BEHIND):
            if path.is_file() and time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink(missing_ok=True)
        if overwrite or not (self.folder / SETTINGS).exists():
            with replacing(self.folder / SETTINGS) as beside:
                beside.write_text(json.dumps(made_with, indent=2) + "\n", encoding="utf-8")

    def missing(self, inputs: Sequence[Input]) -> list[Input]:
        """The inputs whose results are not all there; after `begin`."""
        is_there = self._judge()
        return [image for image in inputs if not all(map(is_there, self.paths(image.name).values()))]

    def write_sheet(self, images: int) -> None:
        """Assembles the contact sheet from the rows; `images` is how many were predicted, with those of before.

        Raises:
            UserError: if it cannot be written.
        """
        is_there = self._judge()
        rows = filter(is_there, (self.paths(name)["row"] for name in sorted(self.shown)))
        picture = contact_sheet.assemble(rows, images)
        if picture is not None:
            save_png(self.sheet, picture)

    def _judge(self) -> Callable[[Path], bool]:
        """Whether a file counts as a result, see the class."""
        since = (self.folder / SETTINGS).stat().st_mtime_ns
        return lambda path: path.is_file() and path.stat().st_mtime_ns > since

    def _check_places(self, inputs: Sequence[Input]) -> None:
        images = {image.path.resolve() for image in inputs}
        taken: dict[Path, Path | str] = {self.folder / name: "the records" for name in (SETTINGS, INPUTS)}
        taken |= {self.sheet: "the contact sheet"} if self.shown else {}
        if self.shown and self.sheet.resolve() in images:
            raise UserError(f"{self.sheet} is an image to predict, the contact sheet would replace it: rename it")
        for image in inputs:
            for path in self.paths(image.name).values():
                if path.resolve() in images:
                    raise UserError(f"the mask {path} would overwrite an input image: pass another --output")
                if path in taken:
                    raise UserError(f"{path} would be written for both {taken[path]} and {image.path}: rename one")
                taken[path] = image.path
        for path, source in taken.items():
            if path.is_dir():
                raise UserError(f"{path} is a folder, but would be written as a file for {source}: {_RENAME}")
            for folder in path.parents:
                if folder in taken:
                    raise UserError(
                        f"{folder} would be written for both {taken[folder]}, as a file, and {source}, as a folder: "
                        "rename one"
                    )
                if folder.is_file():
                    raise UserError(f"{folder} is a file, but {source} requires a folder there: {_RENAME}")

    def _check_images(self, inputs: Sequence[Input]) -> None:
        before = self._recorded()
        for image in inputs:
            paths, was = self.paths(image.name), before.get(image.name)
            if before and not was and (foreign := [path for path in paths.values() if path.exists()]):
                raise UserError(f"{foreign[0]} exists, but {INPUTS} does not list its image: {_ADVICE}")
            if not was or not paths["mask"].exists():
                continue
            now = _identity(image.path)
            if was.get("file") != now["file"] and not _same_content(was, now):
                raise UserError(
                    f"{self.folder} contains the results of another image of the name {image.name} ({was.get('file')}, "
                    f"now {now['file']}): {_ADVICE}"
                )

    def _recorded(self) -> dict[str, dict[str, Any]]:
        """The content of inputs.json; empty if it is missing, as in folders of earlier versions, or damaged."""
        try:
            found = json.loads((self.folder / INPUTS).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        entries = found.items() if isinstance(found, dict) else ()
        return {name: entry for name, entry in entries if isinstance(entry, dict)}

    def _check_settings(self, inputs: Sequence[Input], made_with: dict[str, Any]) -> None:
        path = self.folder / SETTINGS
        if not path.exists():
            files = [file for image in inputs for file in self.paths(image.name).values()]
            foreign = [file for file in (*files, *([self.sheet] if self.shown else [])) if file.exists()]
            if foreign:
                raise UserError(f"{foreign[0]} exists, but there is no {SETTINGS} with its settings: {_ADVICE}")
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): {_ADVICE}") from error
        before = before if isinstance(before, dict) else {}
        differ = [key for key in {**before, **made_with} if before.get(key) != made_with.get(key)]
        if differ:
            what = "; ".join(f"{key} {before.get(key)}, now {made_with.get(key)}" for key in differ)
            raise UserError(f"{self.folder} contains results of other settings ({what}): {_ADVICE}")


def _identity(path: Path) -> dict[str, Any]:
    """An image file, as inputs.json records it."""
    record: dict[str, Any] = {"file": str(path.resolve())}
    if not path.is_file():  # opening a pipe would block
        return record
    with suppress(OSError), path.open("rb") as file:  # it is reported when it is read
        status = os.fstat(file.fileno())
        record |= {"bytes": status.st_size, "modified_ns": status.st_mtime_ns}
        # Archives give all files one time, and uncompressed images of one size have as many bytes.
        content = hashlib.sha256(file.read(_SAMPLE))
        file.seek(status.st_size // 2)
        content.update(file.read(_SAMPLE))
        record["sha256_of_samples"] = content.hexdigest()
    return record


def _same_content(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two records are of the same content, perhaps at another place; folders of before have no hash."""
    samples = {record["sha256_of_samples"] for record in (one, other) if "sha256_of_samples" in record}
    return len(samples) < 2 and all(one.get(key) == other.get(key) for key in ("bytes", "modified_ns"))
