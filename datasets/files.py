"""Which files of a folder are images, and the name of a case."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")


def walk_images(folder: Path) -> Iterator[Path]:
    """Every image file below the folder, in no order.

    Linked folders are followed, except back into a folder that they are in. Names that begin with a dot are no data:
    `._x.png` of macOS, `.ipynb_checkpoints`.
    """
    return (Path(path) for _, path, _ in walk(folder))


def walk(folder: Path) -> Iterator[tuple[str, str, bool]]:
    """(path below the folder, with `/`; path; whether a link is in between) of each file of `walk_images`."""
    waiting = [("", str(folder), False, frozenset({os.path.realpath(folder)}))]
    while waiting:
        below, path, by_link, parents = waiting.pop()
        with os.scandir(path) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                linked = by_link or entry.is_symlink()
                if _is_folder(entry):
                    real = os.path.realpath(entry.path) if linked else entry.path
                    if real not in parents:
                        waiting.append((f"{below}{entry.name}/", entry.path, linked, parents | {real}))
                elif has_image_suffix(entry.name):
                    yield below + entry.name, entry.path, linked


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # links in a circle
        return False


def has_image_suffix(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)


def case_name(key: str) -> str:
    """`key` without its extension. "patient.01" has none: only an extension of `IMAGE_SUFFIXES` is one."""
    return key[: key.rindex(".")] if has_image_suffix(key) else key
