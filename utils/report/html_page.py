"""Self-contained HTML pages: one file that needs no network; its only script sorts tables.

File names are untrusted text. The templates escape all text, and the page's content security policy allows only its own
script and style, by their SHA-256.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from utils.common.files import replacing
from utils.common.printable import printable
from utils.evaluation.read_results import shown, sort_key, title

TEMPLATES = Path(__file__).parent / "templates"
JPEG = [cv2.IMWRITE_JPEG_QUALITY, 88, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]


def write_page(path: Path, template: str, **content: Any) -> Path:
    """Renders a template of `utils/report/templates` into a file.

    Raises:
        UserError: if it cannot be written.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printable(value) if type(value) is str else value,  # marked HTML stays as it is
    )
    environment.filters |= {"shown": shown, "sort_key": sort_key, "title_of": title}
    style, script = ((TEMPLATES / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    policy = (
        "default-src 'none'; img-src data:; base-uri 'none'; form-action 'none'; "
        f"style-src '{_digest(style)}'; script-src '{_digest(script)}'"
    )
    page = environment.get_template(template).render(content, style=style, script=script, policy=policy)
    with replacing(path) as beside:
        # A file name may contain bytes that are not text.
        beside.write_text(page, encoding="utf-8", errors="backslashreplace", newline="\n")
    return path


def photo_uri(picture: np.ndarray) -> str:
    """(H, W, 3) RGB uint8 as a JPEG data URI with colours at full resolution: a target may be three pixels wide."""
    return _uri("jpeg", cv2.imencode(".jpg", np.ascontiguousarray(picture[..., ::-1]), JPEG))


def exact_uri(picture: np.ndarray) -> str:
    """(H, W) or (H, W, 3) RGB uint8 as a PNG data URI."""
    return _uri("png", cv2.imencode(".png", picture if picture.ndim == 2 else picture[..., ::-1]))


def _uri(kind: str, encoded: tuple[bool, np.ndarray]) -> str:
    ok, data = encoded
    assert ok, "OpenCV encodes every uint8 picture"
    return f"data:image/{kind};base64,{base64.b64encode(data.tobytes()).decode()}"


def _digest(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
