"""The figures of each image of a run, in a compressed CSV file beside its line: docs/reference/results_schema.md."""

from __future__ import annotations

import csv
import gzip
import io
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from utils.common.errors import UserError
from utils.common.files import replacing
from utils.evaluation.csv_names import escaped, unescaped
from utils.reproduction.result_lines import EPOCH_RULES, LISTS, Line

KEYS = ("list", "epoch_rule", "image")
OF_IMAGES = ("iou", "F1")  # the figures of a line that are means over its file's images
SHARE = "target_share"  # of the image's pixels


@dataclass(frozen=True)
class Images:
    """The images of one list, in its order, and their figures by column; NaN where one is undefined."""

    names: list[str]
    columns: dict[str, list[float]]


Tables = Mapping[tuple[str, str], Images]  # by list and epoch rule: ("val", "best")


def in_list_order(images: Images, order: Sequence[str]) -> Images:
    """The same images in the order of `order`, their names, and with their targets' share of the pixels."""
    place = {name: i for i, name in enumerate(images.names)}
    columns = {name: [values[place[case]] for case in order] for name, values in images.columns.items()}
    pixels = [sum(counts) for counts in zip(*(columns[name] for name in ("TP", "FP", "FN", "TN")), strict=True)]
    columns[SHARE] = [target / all_of for target, all_of in zip(columns["target_pixels"], pixels, strict=True)]
    return Images(list(order), columns)


def write_per_image(path: Path, tables: Tables) -> None:
    """Equal tables give equal bytes.

    Raises:
        UserError: if it cannot be written.
    """
    header = list(next(iter(tables.values())).columns)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*KEYS, *header])
    for (on, rule), images in tables.items():
        for i, name in enumerate(images.names):
            figures = (
                "" if math.isnan(images.columns[column][i]) else f"{images.columns[column][i]:.10g}"
                for column in header
            )
            writer.writerow([on, rule, escaped(name), *figures])
    with replacing(path) as beside:
        beside.write_bytes(gzip.compress(text.getvalue().encode("utf-8", "surrogateescape"), mtime=0))


def read_per_image(path: Path) -> dict[tuple[str, str], Images]:
    """Reads a file of `write_per_image`.

    Raises:
        UserError: if it cannot be read, or holds something else.
    """
    try:
        text = gzip.decompress(path.read_bytes()).decode("utf-8", "surrogateescape")
        header, *rows = csv.reader(io.StringIO(text, newline=""), strict=True)
        if tuple(header[: len(KEYS)]) != KEYS or len(set(header)) < len(header):
            raise ValueError(f"its columns must be {', '.join(KEYS)} and figures, found {', '.join(header[:5])}")
        tables: dict[tuple[str, str], Images] = {}
        for number, (on, rule, name, *values) in enumerate(rows, 2):
            if on not in LISTS or rule not in EPOCH_RULES or len(values) != len(header) - len(KEYS):
                raise ValueError(f"row {number} is not a row of a list, an epoch rule, an image and its figures")
            images = tables.setdefault((on, rule), Images([], {column: [] for column in header[len(KEYS) :]}))
            images.names.append(unescaped(name))
            for column, value in zip(images.columns, values, strict=True):
                images.columns[column].append(float(value) if value else math.nan)
        if any(len(set(images.names)) < len(images.names) for images in tables.values()):
            raise ValueError("an image is in it twice")
    except (OSError, EOFError, ValueError, csv.Error, zlib.error) as error:
        raise UserError(f"cannot read {path}: {error}") from error
    return tables


def images_of(line: Line, results: Path) -> Tables:
    """The per-image file of a run, from the folder of results, after checking that its means are those of the line.

    Raises:
        UserError: if it cannot be read, is incomplete, or belongs to another run.
    """
    path = results / line["per_image"]
    tables = read_per_image(path)
    for on, of_list in line["figures"].items():
        for rule, figures in of_list.items():
            if problem := _unlike(tables.get((on, rule), Images([], {})), figures):
                raise UserError(
                    f"{path} is not the file of its line: {on}, {rule} epoch, {problem}. Restore it, or remove it and "
                    "repeat reproduce.py --experiment"
                )
    return tables


def _unlike(images: Images, figures: Mapping[str, Any]) -> str | None:
    """What a list's images and figures do not agree in."""
    if not images.names or len(images.names) != figures["images"]:
        return f"{len(images.names)} images, not {figures['images']}"
    if missing := [name for name in (*OF_IMAGES, SHARE) if name not in images.columns]:
        return f"no column {missing[0]}"
    for name in OF_IMAGES:
        mean, recorded = fmean(images.columns[name]), math.nan if figures[name] is None else figures[name]
        if not math.isclose(mean, recorded, abs_tol=1e-8):  # the file has ten digits
            return f"mean {name} {mean:.6f}, not {recorded:.6f}"
    return None
