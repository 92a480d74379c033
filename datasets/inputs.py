"""What to predict: files, folders and patterns, and the name that each image's result takes."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from datasets.files import IMAGE_SUFFIXES, case_name, walk_images
from utils.common.errors import UserError


@dataclass(frozen=True, order=True)
class Input:
    """One image.

    name: of its results, without extension, with `/` between folders.
    path: the image file.
    """

    name: str
    path: Path


def find_inputs(inputs: Iterable[str], leave_out: Path | None = None) -> list[Input]:
    """The images that files, folders and patterns name, sorted by name, each once.

    A folder gives every image file below it (`datasets.pairing.IMAGE_SUFFIXES`), a pattern whatever it matches (`**`
    any number of folders). Names keep the sub-folders below the folder, or below the part of a pattern that stands
    before its first `*`, `?` or `[`. A file named itself is taken whatever its name. Linked folders are followed; names
    that begin with a dot are no images.

    Args:
        inputs: from the command line.
        leave_out: the folder of the results, which are no inputs if it lies in one of the folders.

    Raises:
        UserError: if one names nothing, two images would have one name, or an input folder is that of the results.
    """
    found: dict[Input, None] = {}
    for text in inputs:
        images = list(_named(text, leave_out.resolve() if leave_out else None))
        if not images:
            raise UserError(f"{text}: no image there (in folders: {' '.join(IMAGE_SUFFIXES)})")
        found |= dict.fromkeys(images)
    ordered = sorted({image.path.resolve(): image for image in found}.values())
    for image, following in pairwise(ordered):
        if image.name == following.name:
            raise UserError(
                f"{image.path} and {following.path} would both be written as {image.name}: rename one, or predict them "
                "one after the other into two folders. Sub-folders are kept if their parent is named, or a pattern in "
                "quotes"
            )
    return ordered


def claimed_size(path: Path) -> tuple[int, int]:
    """(width, height) as the header says, without decoding; (0, 0) if it says nothing that is understood."""
    from datasets.decode import header_size  # here: it imports OpenCV

    height, width = header_size(path) or (0, 0)
    return width, height


def _named(text: str, leave_out: Path | None) -> Iterator[Input]:
    path = Path(text)
    if path.is_file():
        yield Input(case_name(path.name), path)
        return
    if path.is_dir():
        base, files = path, walk_images(path)
    elif glob.has_magic(text):
        base, wild = _fixed_part(path)
        files = (Path(match) for match in glob.iglob(str(Path(glob.escape(str(base))) / wild), recursive=True))  # noqa: PTH207 - takes absolute ones, too
    else:
        raise UserError(f"{text} is not there")
    if leave_out == base.resolve():
        raise UserError(f"{base}: the results would lie among the images; name another folder for them")
    inside = leave_out is not None and leave_out.is_relative_to(base.resolve())
    for file in files:
        below = file.relative_to(base)
        if file.is_dir() or any(part.startswith(".") for part in below.parts):
            continue
        if not (inside and file.resolve().is_relative_to(leave_out)):
            yield Input(case_name(below.as_posix()), file)


def _fixed_part(pattern: Path) -> tuple[Path, Path]:
    """The folder of a pattern that holds no wildcard, and the rest. Brackets in the name of a folder are none."""
    fixed = Path()
    for count, part in enumerate(pattern.parts):
        if glob.has_magic(part) and not (fixed / part).is_dir():
            return fixed, Path(*pattern.parts[count:])
        fixed /= part
    return fixed.parent, Path(fixed.name)
