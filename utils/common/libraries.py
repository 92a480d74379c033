"""Libraries that not every user has: imported where they are used, and named in one line where they do not load."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from utils.common.errors import UserError

INSTALL = {
    # Its wheels hold code for one release of torch, and say "operator torchvision::nms does not exist" beside another.
    "torchvision": "it must be of torch's release (pip install --upgrade torch torchvision, both from one index)",
    "matplotlib": "pip install -r requirements-plots.txt",
}


def library(name: str) -> ModuleType:
    """An optional library.

    Raises:
        UserError: if it is not installed, or does not load.
    """
    if name == "openvino":
        # At its import it reports home. It does not where this package of its own is not to be had.
        sys.modules.setdefault("openvino_telemetry", None)
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        install = INSTALL.get(name, "pip install -r requirements-export.txt")
        raise UserError(f"this needs {name}, which cannot be imported ({cause}): {install}") from error
