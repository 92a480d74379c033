"""Every script imports this before anything else. It checks that `datasets`, `models` and `utils` are the packages of
this folder.

Other packages have the same names, e.g. Hugging Face's datasets. Scripts put their folder first on the path (python -P
omits it), so the check fails only if such a package was imported before. Ctrl-C prints no traceback from here on.
"""

from __future__ import annotations

import os
import sys

try:
    import signal
except KeyboardInterrupt:
    raise SystemExit(130) from None

FOLDER = os.path.dirname(os.path.realpath(__file__))  # noqa: PTH120 - what pathlib imports takes as long as all else here
NAMES = ("datasets", "models", "utils")


def foreign_modules() -> list[str]:
    """The names of this project's packages that belong to another package in this process, each with its folder."""
    taken = {name: sys.modules[name] for name in NAMES if name in sys.modules}
    places = {name: next(iter(getattr(module, "__path__", [])), "") for name, module in taken.items()}
    return [f"{name} ({place})" for name, place in places.items() if not _is_here(place)]


def runs_as_script() -> bool:
    """Whether Python was started with one of the scripts here."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return file is not None and _is_here(file)


def _is_here(path: str) -> bool:
    return os.path.dirname(os.path.realpath(path)) == FOLDER  # noqa: PTH120


# Until `run_script` takes over, during the imports.
if runs_as_script() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    try:  # noqa: SIM105 - contextlib would have to be imported
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except ValueError:  # another thread than the main one imports this
        pass

if _foreign := foreign_modules():
    _cause = f"{', '.join(_foreign)} was imported before this project's package of the same name. Start a new Python "
    _cause += f"process, and put {FOLDER} first on PYTHONPATH or import this project first"
    if runs_as_script():
        sys.exit(f"error: {_cause}")
    raise ImportError(_cause)
