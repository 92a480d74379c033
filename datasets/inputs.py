"""The inputs of a prediction: files, folders and patterns, and the names of their results."""

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
    """The images of files, folders and patterns, sorted by name; a file that is found twice under one name is one.

    A folder yields every image file below it (`datasets.pairing.IMAGE_SUFFIXES`), a pattern every match (`**` matches
    any number of folders). Names keep the sub-folders below the folder, or below the part of a pattern before its first
    `*`, `?` or `[`. A file given by itself is accepted with any name. Links to folders are followed; names that begin
    with a dot are skipped.

    Args:
        inputs: from the command line.
        leave_out: the folder of the results, which is skipped if it is inside an input folder.

    Raises:
        UserError: if an input matches nothing, two images have the same name, or an input folder is the output folder.
    """
    found: dict[Input, None] = {}
    for text in inputs:
        images = list(_named(text, leave_out.resolve() if leave_out else None))
        if not images:
            raise UserError(f"no images found in {text} (extensions in folders: {' '.join(IMAGE_SUFFIXES)})")
        found |= dict.fromkeys(images)
    # Not by file alone: links to each other are images with separate results.
    ordered = sorted({(image.name, image.path.resolve()): image for image in found}.values())
    for image, following in pairwise(ordered):
        if image.name == following.name:
            raise UserError(
                f"{image.path} and {following.path} would both be written as {image.name}: rename one, or predict them "
                "into two output folders. Sub-folders are kept if you pass their parent folder, or a pattern in quotes"
            )
    return ordered


def claimed_size(path: Path) -> tuple[int, int]:
    """(width, height) according to the header, without decoding; (0, 0) if it cannot be parsed."""
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
        raise UserError(f"{text} was not found")
    if leave_out == base.resolve():
        raise UserError(f"--output must not be an input folder, got {base}")
    inside = leave_out is not None and leave_out.is_relative_to(base.resolve())
    for file in files:
        below = file.relative_to(base)
        if file.is_dir() or any(part.startswith(".") for part in below.parts):
            continue
        if not (inside and file.resolve().is_relative_to(leave_out)):
            yield Input(case_name(below.as_posix()), file)


def _fixed_part(pattern: Path) -> tuple[Path, Path]:
    """The folder of a pattern before its first wildcard, and the rest. Brackets in existing folder names count as
    text."""
    fixed = Path()
    for count, part in enumerate(pattern.parts):
        if glob.has_magic(part) and not (fixed / part).is_dir():
            return fixed, Path(*pattern.parts[count:])
        fixed /= part
    return fixed.parent, Path(fixed.name)
