"""Conversion of BUS-BRA and BUS-UCLM, which have several images per patient; no patient is in two lists.

Gómez-Flores et al., BUS-BRA: a breast ultrasound dataset for assessing computer-aided diagnosis systems, Medical
Physics 2024. Vallez et al., BUS-UCLM: breast ultrasound lesion segmentation dataset, Scientific Data 2025. The sources
of the names below are in docs/reference/data_sets.md.

    BUS-BRA    SRC/Images/bus_0001-l.png  SRC/Masks/mask_0001-l.png  SRC/bus_data.csv  SRC/5-fold-cv.csv  ...
    becomes    OUT/images/bus_0001-l.png  OUT/masks/bus_0001-l.png   OUT/train1.txt OUT/val1.txt ... OUT/val5.txt
    BUS-UCLM   SRC/images/ALWI_000.png    SRC/masks/ALWI_000.png     (green: benign, red: malignant, black: none)
    becomes    OUT/images/ALWI_000.png    OUT/masks/ALWI_000.png     OUT/train1.txt OUT/val1.txt ... OUT/val3.txt
"""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from datasets.decode import image_size, read_mask
from datasets.files import case_name, contents, walk
from datasets.pairing import Case
from datasets.prepare.convert import Converted, convert, pairs
from datasets.prepare.division import divisions
from datasets.prepare.patterns import pairs_by_pattern
from datasets.problems import raise_problems
from utils.common.errors import UserError
from utils.common.printable import first_three

_BUSBRA_IMAGE = re.compile(r"bus_(?P<rest>\d+.*)")
_WORDS = {"train": "train.txt", "training": "train.txt", "val": "val.txt", "valid": "val.txt", "validation": "val.txt"}
_WORDS |= {"test": "test.txt", "testing": "test.txt"}
_PART = "fold|split|partition|subset"  # in the name of a column of BUS-UCLM


def convert_busbra(source: Path, out: Path, folds: int = 5) -> Converted:
    """Converts BUS-BRA; fold K of its cross-validation becomes valK.txt, and all others become trainK.txt.

    Args:
        source: contains the folders Images and Masks, and the table of the folds.
        out: created atomically at the end.
        folds: 5 or 10, which selects the table.

    Raises:
        UserError: if `out` exists, a folder or the table is missing, an image is in no fold or listed twice, a patient
            is in two folds, or a file cannot be read.
    """
    images, masks = _folder(source, "Images"), _folder(source, "Masks")
    cases, _ = pairs_by_pattern(source, images, masks, _BUSBRA_IMAGE, "mask_{rest}")
    tables = [path for path in _tables(source) if re.match(rf"{folds}\D*fold", path.name, re.IGNORECASE)]
    _refuse_several(tables, f"divide the cases into {folds} folds")
    if not tables:
        raise UserError(f"{folds}-fold-cv.csv was not found in {source}, which contains {contents(source)}")
    part_of = _parts(tables[0], "fold", cases)
    _check_patients(part_of, _patients(source, cases))
    lists = {}
    for number, fold in enumerate(sorted(set(part_of.values()), key=lambda text: (len(text), text)), 1):
        lists[f"train{number}.txt"] = [case.name for case in cases if part_of[case.name] != fold]
        lists[f"val{number}.txt"] = [case.name for case in cases if part_of[case.name] == fold]
    if len(lists) != 2 * folds:
        raise UserError(f"{tables[0]} must contain {folds} folds, got {len(lists) // 2}")
    return convert(cases, lists, out)


def convert_busuclm(source: Path, out: Path, normals: bool = False, seed: int = 41) -> Converted:
    """Converts BUS-UCLM; lesions of both colours are target.

    The folder partitions/ of the authors' script, in the source or next to it (train/images, test/images), defines
    train.txt and test.txt. Otherwise a table of the source with a column fold, split, partition or subset and the
    values train, val and test defines train.txt, val.txt and test.txt. Without both, three random divisions by patient
    are drawn, 70 % and 30 %. Images whose mask has another size are skipped: they were cropped at an unknown position.

    Args:
        source: contains images/ and masks/.
        out: created atomically at the end.
        normals: keep the images without a lesion, whose masks are black.
        seed: random seed of the divisions, if they are drawn.

    Raises:
        UserError: if `out` exists, a folder is missing, an image has no mask or a mask no image, an image or a
            patient is in two parts of the division, or a file cannot be read.
    """
    cases, _ = pairs(source, _folder(source, "images"), _folder(source, "masks"))
    if not normals:
        cases = [case for case in cases if read_mask(case.masks, threshold=0).any()]
    cut = {case.name for case in cases if image_size(case.image) != image_size(case.masks[0])}
    cases = [case for case in cases if case.name not in cut]
    patients = {case.name: case.name.rpartition("_")[0] or case.name for case in cases}
    part_of = _partitions(source, patients) or _table_of_parts(source, cases)
    if part_of:
        _check_patients(part_of, patients)
        lists: dict[str, list[str]] = {}
        for case in cases:
            if case.name in part_of:
                lists.setdefault(part_of[case.name], []).append(case.name)
    else:
        lists = divisions([case.name for case in cases], seed=seed, groups=[patients[case.name] for case in cases])
    converted = convert(cases, lists, out, mask_threshold=0)
    if cut:
        few = first_three(sorted(cut))
        converted.notes.append(f"{len(cut)} images skipped, because their masks have another size: {few}")
    return converted


def _partitions(source: Path, names: Iterable[str]) -> dict[str, str]:
    """The list of each case, from the folder of the authors' script; empty if the folder does not exist."""
    for folder in (source / "partitions", source.parent / "partitions"):
        if all((folder / part / "images").is_dir() for part in ("train", "test")):
            found = {part: {case_name(key) for key, *_ in walk(folder / part / "images")} for part in ("train", "test")}
            raise_problems(
                [
                    f'"{name}": in both train and test of {folder}. Remove one of the files.'
                    for name in sorted(found["train"] & found["test"] & set(names))
                ]
            )
            return {name: f"{part}.txt" for part, of_part in found.items() for name in names if name in of_part}
    return {}


def _table_of_parts(source: Path, cases: Sequence[Case]) -> dict[str, str]:
    """The list of each case, from a table of the source; empty if there is no such table."""
    tables = [table for table in _tables(source) if _columns_of(_PART, _rows(table)[0])]
    _refuse_several(tables, "divide the cases")
    if not tables:
        return {}
    part_of = _parts(tables[0], _PART, cases)
    if unknown := {part for part in part_of.values() if part.lower() not in _WORDS}:
        names = ", ".join(sorted(unknown))
        raise UserError(f"{tables[0]}: the parts must be named train, val and test, got {names}")
    return {name: _WORDS[part.lower()] for name, part in part_of.items()}


def _patients(source: Path, cases: Sequence[Case]) -> dict[str, str]:
    """The patient of each case of BUS-BRA: the column Case of a table, or the beginning of the name."""
    patients = {case.name: case.name.split("-")[0] for case in cases}
    for table in _tables(source):
        columns, rows = _rows(table)
        if {"ID", "Case"} <= set(columns):
            patients |= _by_case(table, rows, "ID", "Case", patients)
    return patients


def _folder(source: Path, name: str) -> str:
    """The name of a sub-folder, found without regard to case."""
    for path in sorted(source.iterdir()):
        if path.is_dir() and path.name.lower() == name.lower():
            return path.name
    raise UserError(f"{source / name} was not found. {source} contains {contents(source)}")


def _tables(source: Path) -> list[Path]:
    return sorted(path for path in source.glob("*.csv") if not path.name.startswith(".") and not path.is_dir())


def _refuse_several(tables: Sequence[Path], what: str) -> None:
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise UserError(f"{tables[0].parent}: {len(tables)} tables {what}: {names}. Keep one and move the others away")


def _rows(table: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The columns and rows of a table with commas, semicolons or tabs as separators."""
    try:
        text = table.read_text(encoding="utf-8-sig")
        header = text.partition("\n")[0]
        reader = csv.DictReader(text.splitlines(), delimiter=max(",;\t", key=header.count))
        return [name.strip() for name in reader.fieldnames or []], [
            {(name or "").strip(): (value or "").strip() for name, value in row.items() if not isinstance(value, list)}
            for row in reader
        ]
    except UnicodeDecodeError as error:
        raise UserError(
            f"{table}: not a UTF-8 text file. Save it as UTF-8 text, or move it away if it is not of the data set."
        ) from error
    except (OSError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UserError(
            f"{table}: the table cannot be read ({reason}). Correct it, or move it away if it is not of the data set."
        ) from error


def _columns_of(kind: str, columns: Iterable[str]) -> list[str]:
    return [name for name in columns if re.search(kind, name, re.IGNORECASE)]


def _by_case(
    table: Path, rows: Iterable[Mapping[str, str]], key: str, column: str, cases: Collection[str]
) -> dict[str, str]:
    """The value of a column for each case of the table; raises UserError if a case is listed twice."""
    found = [(name, row[column]) for row in rows if (name := case_name(row[key])) in cases]
    counts = Counter(name for name, _ in found)
    raise_problems(
        [f'"{name}": listed twice in {table}. Remove one of the rows.' for name in counts if counts[name] > 1]
    )
    return dict(found)


def _parts(table: Path, kind: str, cases: Sequence[Case]) -> dict[str, str]:
    """The part of the division of each case, from a table.

    Args:
        kind: a regular expression for the name of the column.
    """
    columns, rows = _rows(table)
    parts = _columns_of(kind, columns)
    if len(parts) > 1:
        raise UserError(f"{table}: {len(parts)} columns divide the cases: {', '.join(parts)}. Keep one of them")
    names = {case.name for case in cases}
    keys = [name for name in columns if any(case_name(row[name]) in names for row in rows)]
    if not parts or not keys:
        raise UserError(
            f"{table} must contain a column with the names of the images and one with the parts of the division, got "
            f"{', '.join(columns)}"
        )
    part_of = _by_case(table, rows, keys[0], parts[0], names)
    raise_problems([f'"{name}": in no part of {table}.' for name in sorted(names) if not part_of.get(name)])
    return part_of


def _check_patients(part_of: Mapping[str, str], patients: Mapping[str, str]) -> None:
    """Raises UserError if a patient is in two parts."""
    parts: dict[str, set[str]] = {}
    for name, part in part_of.items():
        parts.setdefault(patients[name], set()).add(part)
    torn = [
        f'"{who}": the patient is in several parts: {", ".join(sorted(of))}.'
        for who, of in parts.items()
        if len(of) > 1
    ]
    raise_problems(torn)
