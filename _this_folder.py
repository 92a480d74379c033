"""What every script imports before all else: Ctrl-C is quiet from here, and `datasets`, `models` and `utils` are this
folder's.

Other packages have these names (Hugging Face's datasets, many a project's utils). Scripts put their folder first on the
path (python -P leaves it out); what is wrong here is that such a package was imported before.
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
    """The project's names that another package has taken in this process, each with its file."""
    taken = {name: sys.modules[name] for name in NAMES if name in sys.modules}
    places = {name: next(iter(getattr(module, "__path__", [])), "") for name, module in taken.items()}
    return [f"{name} ({place})" for name, place in places.items() if not _is_here(place)]


def runs_as_script() -> bool:
    """Whether Python was started with one of the scripts here."""
    file = getattr(sys.modules.get("__main__"), "__file__", None)
    return file is not None and _is_here(file)


def _is_here(path: str) -> bool:
    return os.path.dirname(os.path.realpath(path)) == FOLDER  # noqa: PTH120


# Until `run_script` takes over, in the tenth of a second that the imports take.
if runs_as_script() and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    try:  # noqa: SIM105 - contextlib would have to be imported
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    except ValueError:  # another thread than the main one imports this
        pass

if _foreign := foreign_modules():
    _cause = f"{', '.join(_foreign)} was imported before this project's package of that name: start a new Python, and "
    _cause += f"put {FOLDER} first on the path (PYTHONPATH), or import this project first"
    if runs_as_script():
        sys.exit(f"error: {_cause}")
    raise ImportError(_cause)
