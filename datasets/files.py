"""The image files of a folder, and the names of cases."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

IMAGE_SUFFIXES = (".png", ".bmp", ".jpg", ".jpeg", ".tif", ".tiff")
MASK_SUFFIXES = (*IMAGE_SUFFIXES, ".gif")  # retina data sets have masks, but no images, in GIF files
_SHOWN = 8  # most names in a message


def walk_images(folder: Path) -> Iterator[Path]:
    """Every image file below the folder, in arbitrary order.

    Links to folders are followed, except to a parent folder. Names that begin with a dot are skipped, e.g. `._x.png` of
    macOS and `.ipynb_checkpoints`.
    """
    return (Path(path) for _, path, _ in walk(folder))


def walk(folder: Path, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> Iterator[tuple[str, str, bool]]:
    """(path below the folder, with `/`; path; whether a link is in between) of each file with one of the suffixes; see
    `walk_images`."""
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
                elif entry.name.lower().endswith(suffixes):
                    yield below + entry.name, entry.path, linked


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # circular links
        return False


def case_name(key: str, suffixes: tuple[str, ...] = IMAGE_SUFFIXES) -> str:
    """`key` without its extension, if that is one of the suffixes: "patient.01" has none."""
    return key[: key.rindex(".")] if key.lower().endswith(suffixes) else key


def contents(folder: Path) -> str:
    """The names in a folder, for messages: sub-folders first, with a `/`."""
    try:
        entries = sorted(folder.iterdir(), key=lambda path: (not path.is_dir(), path.name))
    except OSError:
        return "nothing readable"
    names = [f"{path.name}/" if path.is_dir() else path.name for path in entries if not path.name.startswith(".")]
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more if names else "nothing"
