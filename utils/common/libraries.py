"""Optional libraries, imported where they are used, with a one-line error if they cannot be imported."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from utils.common.errors import UserError

INSTALL = {
    # A wheel fits one release of torch; with another it fails with "operator torchvision::nms does not exist".
    "torchvision": "its version must fit that of torch (pip install --upgrade torch torchvision, both from one index)",
    "matplotlib": "pip install -r requirements-plots.txt",
}


def library(name: str) -> ModuleType:
    """An optional library.

    Raises:
        UserError: if it is not installed or cannot be imported.
    """
    if name == "openvino":
        # Its import sends usage data, unless its telemetry package is missing.
        sys.modules.setdefault("openvino_telemetry", None)
    try:
        return importlib.import_module(name)
    except (ImportError, RuntimeError, OSError) as error:
        cause = (str(error).splitlines() or [type(error).__name__])[0]
        install = INSTALL.get(name, "pip install -r requirements-export.txt")
        raise UserError(f"{name} is required, but cannot be imported ({cause}): {install}") from error
