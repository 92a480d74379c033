"""What a prediction writes for each image, and which of it is there already: nothing foreign is ever overwritten."""

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
ABANDONED = 3600  # seconds after which an unfinished file is a killed run's, not one of a run beside this one
_ADVICE = "pass another --output, or --overwrite"


@dataclass(frozen=True)
class Outputs:
    """The folder of the results:

        NAME.png                the mask, 0 and 255
        probability8/NAME.png   255 for a probability of 1 (probability16: 65535)
        overlay/NAME.png        the image with its mask
        predict.json            what all of them were made with

    A result counts as there if it is younger than predict.json, which `begin` renews to make all of them anew: what an
    interrupted run has left of that is then done by the next one.

    Args:
        folder: is made.
        probability: bits of the probability maps, 8 or 16; None for none.
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
            probability: (H, W) float32; its memory is used.
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
        """Whether these results may be written here.

        Raises:
            UserError: if one would take the place of an image to predict or of another result; and, unless all are to
                be made anew, of a file of unknown origin, or if the folder holds results of other settings.
        """
        self._check_places(inputs)
        if not overwrite:
            self._check_settings(inputs, made_with)

    def begin(self, made_with: dict[str, Any], overwrite: bool) -> None:
        """Writes predict.json, if it is not there or all results are to be made anew; removes what killed runs left.

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
        """The inputs whose results are not all there; after `begin`."""
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
                    raise UserError(f"{path} is an image to predict, its mask would replace it: pass another --output")
                if path in taken:
                    raise UserError(f"{path} would be written for {taken[path]} and for {image.path}: rename one")
                taken[path] = image.path

    def _check_settings(self, inputs: Sequence[Input], made_with: dict[str, Any]) -> None:
        path = self.folder / SETTINGS
        if not path.exists():
            foreign = [file for image in inputs for file in self.paths(image.name).values() if file.exists()]
            if foreign:
                raise UserError(f"{foreign[0]} is there, but no {SETTINGS} that says how it was made: {_ADVICE}")
            return
        try:
            before = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise UserError(f"{path} cannot be read ({error}): {_ADVICE}") from error
        before = before if isinstance(before, dict) else {}
        differ = [key for key, value in made_with.items() if before.get(key) != value]
        if differ:
            what = "; ".join(f"{key} {before.get(key)}, now {made_with[key]}" for key in differ)
            raise UserError(f"{self.folder} holds results made with other settings ({what}): {_ADVICE}")
