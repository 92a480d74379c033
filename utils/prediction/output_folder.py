"""The output folder of a prediction: its files, and the check that files of other origin are not overwritten."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from datasets.inputs import Input
from utils.common.errors import UserError
from utils.common.files import LEFT_BEHIND, replacing
from utils.common.pictures import overlay, save_png

SETTINGS = "predict.json"
ABANDONED = 3600  # seconds after which an unfinished file is taken to be from a killed run
_ADVICE = "pass another --output, or --overwrite"


@dataclass(frozen=True)
class Outputs:
    """The folder of the results:

        NAME.png                the mask, 0 and 255
        probability8/NAME.png   255 for a probability of 1 (probability16: 65535)
        overlay/NAME.png        the image with its mask
        predict.json            the settings and weights of all results

    A result counts as finished if it is newer than predict.json. To overwrite all results, `begin` rewrites
    predict.json; if that run is interrupted, the next one finishes it.

    Args:
        folder: created if missing.
        probability: bit depth of the probability maps, 8 or 16; None for none.
        overlay: whether to draw the mask over the image.
    """

    folder: Path
    probability: int | None = None
    overlay: bool = False

    def paths(self, name: str) -> dict[str, Path]:
        """The files of one image: "mask", and "probability" and "overlay" if they are wanted."""
        paths = {"mask": self.folder / f"{name}.png"}
        if self.probability:
            paths["probability"] = self.folder / f"probability{self.probability}" / f"{name}.png"
        if self.overlay:
            paths["overlay"] = self.folder / "overlay" / f"{name}.png"
        return paths

    def write(self, name: str, pixels: np.ndarray | None, probability: np.ndarray, threshold: float) -> None:
        """The files of one image.

        Args:
            name: of the image, with `/` between folders.
            pixels: of the image, for the overlay (`utils.common.pictures.as_rgb8`).
            probability: (H, W) float32; is overwritten.
            threshold: probabilities above it are target.

        Raises:
            UserError: if one cannot be written.
        """
        paths = self.paths(name)
        mask = probability > threshold
        if "overlay" in paths:
            save_png(paths["overlay"], overlay(pixels, mask))
        if "probability" in paths:
            full, dtype = (255, np.uint8) if self.probability == 8 else (65535, np.uint16)
            np.rint(np.multiply(probability, full, out=probability), out=probability)
            save_png(paths["probability"], probability.astype(dtype))
        save_png(paths["mask"], mask.view(np.uint8) * np.uint8(255))

    def check(self, inputs: Sequence[Input], made_with: dict[str, Any], overwrite: bool) -> None:
        """Checks that the results may be written here.

        Raises:
            UserError: if a result would overwrite an input image or another result; and, without `overwrite`, a file of
                unknown origin, or if the folder contains results of other settings.
        """
        self._check_places(inputs)
        if not overwrite:
            self._check_settings(inputs, made_with)

    def begin(self, made_with: dict[str, Any], overwrite: bool) -> None:
        """Writes predict.json if it is missing or with `overwrite`; removes unfinished files of killed runs.

        Raises:
            UserError: if it cannot be written.
        """
        for path in self.folder.rglob(LEFT_BEHIND):
            if path.is_file() and time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink(missing_ok=True)
        if overwrite or not (self.folder / SETTINGS).exists():
            with replacing(self.folder / SETTINGS) as beside:
                beside.write_text(json.dumps(made_with, indent=2) + "\n", encoding="utf-8")

    def missing(self, inputs: Sequence[Input]) -> list[Input]:
        """The inputs whose results are not finished; call `begin` first."""
        since = (self.folder / SETTINGS).stat().st_mtime_ns

        def there(path: Path) -> bool:
            return path.is_file() and path.stat().st_mtime_ns > since

        return [image for image in inputs if not all(map(there, self.paths(image.name).values()))]

    def _check_places(self, inputs: Sequence[Input]) -> None:
        images = {image.path.resolve() for image in inputs}
        taken: dict[Path, Path] = {}
        for image in inputs:
            for path in self.paths(image.name).values():
                if path.resolve() in images:
                    raise UserError(f"the mask {path} would overwrite an input image: pass another --output")
                if path in taken:
                    raise UserError(f"{path} would be written for both {taken[path]} and {image.path}: rename one")
                taken[path] = image.path

    def _check_settings(self, inputs: Sequence[Input], made_with: dict[str, Any]) -> None:
        path = self.folder / SETTINGS
        if not path.exists():
            foreign = [file for image in inputs for file in self.paths(image.name).values() if file.exists()]
            if foreign:
                raise UserError(f"{foreign[0]} exists, but there is no {SETTINGS} with its settings: {_ADVICE}")
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): {_ADVICE}") from error
        before = before if isinstance(before, dict) else {}
        differ = [key for key, value in made_with.items() if before.get(key) != value]
        if differ:
            what = "; ".join(f"{key} {before.get(key)}, now {made_with[key]}" for key in differ)
            raise UserError(f"{self.folder} contains results of other settings ({what}): {_ADVICE}")
