"""List files: the cases of a split (train, val, test), one per line.

    case0001
    case0002.png
    patient 7/benign (4)

An entry names an image below `images/`, with or without its extension; `datasets.pairing` finds the files.
"""

import codecs
import os
from collections.abc import Iterable
from pathlib import Path

from utils.common.errors import UserError
from utils.common.files import replacing


def read_list(path: Path) -> list[str]:
    """The entries of a list file, in the order of the file.

    Accepts UTF-8 with or without byte order mark, CRLF or LF, blank lines, and a missing final newline. White space
    around an entry is stripped. An entry listed twice is returned twice; `find_cases` reports it, which knows whether
    two entries are the same case.

    Raises UserError if the file is missing, unreadable, not UTF-8 text, or without any entry.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # it can be read once, or is waited for
            raise UserError(f"{path}: a pipe or device. A list is read several times: write it into a text file.")
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(
            f"{path}: the list was not found. Write it with one case per line, or correct the path."
        ) from None
    except OSError as error:
        raise UserError(f"{path}: the list cannot be read ({error.strerror}). Pass a readable text file.") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = "\0"
    # A NUL is valid UTF-8, but only binary files and UTF-16 text have it.
    if "\0" in text:
        raise UserError(f"{path}: not a UTF-8 text file. A list has one case per line; save it as UTF-8 text.")
    # Not str.splitlines(), which also splits at characters that may be part of a file name.
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    names = [_as_file_name(line.strip()) for line in lines if line.strip()]
    if not names:
        raise UserError(f"{path}: the list is empty. Write one case per line.")
    return names


def write_list(path: Path, names: Iterable[str]) -> None:
    """Write `names` one per line (UTF-8, LF, final newline), so that `read_list` returns them unchanged.

    The file is written atomically: an interrupted run leaves either the old or the new list.

    Raises UserError if a name cannot be a line of a list (empty, line break, space at an end), or if the folder cannot
    be written.
    """
    names = list(names)
    for name in names:
        if not name or name != name.strip() or "\n" in name or "\r" in name:
            raise UserError(
                f"{path}: {name!r} cannot be a line of a list. Rename the file, without spaces at its ends."
            )
        try:
            os.fsencode(name).decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError(f"{path}: {name!r} is not UTF-8 and cannot be in a list. Rename the file.") from error
    # Bytes, because text mode would write CRLF on Windows and the same split would differ between systems.
    data = b"".join(os.fsencode(name) + b"\n" for name in names)
    if data.startswith(codecs.BOM_UTF8):  # `read_list` removes one byte order mark, which must not be of the name
        data = codecs.BOM_UTF8 + data
    with replacing(path) as beside:
        beside.write_bytes(data)


def _as_file_name(text: str) -> str:
    """The name of that file in Python, which contains escaped bytes if the system encoding is not UTF-8 (LC_ALL=C)."""
    try:
        return os.fsdecode(text.encode("utf-8"))
    except UnicodeDecodeError:
        return text
