"""Additional images without masks for phase 1: every image below some folders."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from datasets.checks import THREADS
from datasets.decode import decode
from datasets.kept import Kept
from datasets.names import images_of_mask
from datasets.pairing import Case, image_files
from datasets.problems import raise_problems
from utils.common.errors import UserError
from utils.common.printable import first_three
from utils.common.progress import Progress


def unlabeled_cases(
    folders: Sequence[str | Path],
    train: Sequence[Case],
    val: Sequence[Case],
    kept: Kept | None = None,
    mask_suffix: str | None = None,
) -> tuple[list[Case], list[str]]:
    """The images of the folders as training cases without masks, and one sentence for each reason to skip some.

    Images with the same pixels as a validation image are skipped (they would make its loss optimistic), and so are
    copies of training images and of other unlabeled images (they would count twice). Neighbouring frames of a video and
    resized copies are not detected. Names start with "unlabeled: " and keep their extension, unlike those of listed
    cases.

    Args:
        kept: holds the digests of the cases that were decoded before; stores what is decoded here.
        mask_suffix: see `unlabeled_files`.

    Raises:
        UserError: see `unlabeled_files`; or with every unreadable image (up to 20, and their number).
    """
    files, masks = unlabeled_files(folders, mask_suffix)
    cases = [Case(f"unlabeled: {file.as_posix()}", file, ()) for file in files]
    kept = kept if kept is not None else Kept(digests=True)
    seen = dict.fromkeys(_digests(train, kept, "looking for copies"), "training images")
    seen |= dict.fromkeys(_digests(val, kept, "looking for copies"), "validation images")
    chosen: list[Case] = []
    copies: dict[str, list[str]] = {}
    for case, value in zip(cases, _digests(cases, kept, "checking unlabeled images"), strict=True):
        if value in seen:
            copies.setdefault(seen[value], []).append(str(case.image))
        else:
            seen[value] = "other unlabeled images"
            chosen.append(case)
    notes = [f"{len(masks)} masks of images"] if masks else []
    for what, of_kind in copies.items():
        notes.append(f"{len(of_kind)} copies of {what}: {first_three(of_kind)}")
    return chosen, notes


def unlabeled_files(folders: Sequence[str | Path], mask_suffix: str | None = None) -> tuple[list[Path], list[Path]]:
    """The images below the folders, each once, in the order of the folders and sorted within them; and the masks.

    A mask is a file with the name of a mask in the folder of its image ("a_mask.png" for "a.png"), or a file in a
    masks/ folder next to an images/ folder. A mask_suffix (see `datasets.pairing.find_cases`) is another such name.

    Raises:
        UserError: for a folder that is missing or has no images.
    """
    images: dict[str, Path] = {}  # by their resolved paths: a folder and its sub-folder may both be given
    masks: dict[str, Path] = {}
    for folder in map(Path, folders):
        if not folder.is_dir():
            raise UserError(f"--unlabeled_dir {folder} was not found")
        files = image_files(folder)
        stems = {_stem(file) for file in files}
        masks_here = {
            file for file in files if images_of_mask(_stem(file), mask_suffix) & stems or _in_masks_folder(file, folder)
        }
        for file in files:
            (masks if file in masks_here else images).setdefault(str(file.resolve()), file)
        if len(masks_here) == len(files):
            raise UserError(f"--unlabeled_dir {folder} contains no images")
    return list(images.values()), list(masks.values())


def fingerprint(folders: Sequence[str | Path], mask_suffix: str | None = None) -> str:
    """SHA-256 of the names and sizes of the files of `unlabeled_files`, which identifies the images of a run."""
    files, _ = unlabeled_files(folders, mask_suffix)
    names = [f"{_below(file, folders)}\t{file.stat().st_size}\n" for file in files]
    return hashlib.sha256("".join(names).encode("utf-8", "surrogateescape")).hexdigest()


def _digests(cases: Sequence[Case], kept: Kept, what: str) -> list[str]:
    """The digest of each image's pixels; images that are not known yet are decoded."""

    def look(case: Case) -> tuple[str, str]:
        try:
            if case not in kept.seen:
                kept.add(case, decode(case.image), None)
            return kept.seen[case].digest, ""
        except UserError as error:
            return "", str(error)

    with ThreadPoolExecutor(THREADS) as pool:
        looks = list(Progress(pool.map(look, cases), total=len(cases), desc=what, unit="img", leave=False))
    raise_problems([problem for _, problem in looks if problem])
    return [value for value, _ in looks]


def _below(file: Path, folders: Sequence[str | Path]) -> str:
    """The path relative to its folder, so that the data may be moved between two runs."""
    return next(file.relative_to(folder).as_posix() for folder in folders if file.is_relative_to(folder))


def _stem(file: Path) -> str:
    return file.with_suffix("").as_posix()


def _in_masks_folder(file: Path, folder: Path) -> bool:
    return any(
        parent.name == "masks" and (parent.parent / "images").is_dir()
        for parent in file.parents
        if parent.is_relative_to(folder)
    )
