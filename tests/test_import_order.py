"""Import order: each package of the project imports only packages of lower levels."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
# From the lowest level up. A package may import those before it in this list.
LEVELS = (
    "utils.common",
    "models",
    "models.fast",
    "datasets",
    "datasets.prepare",
    "utils.networks",
    "utils.settings",
    "utils.training",
    "utils.evaluation",
    "utils.report",
    "utils.prediction",
    "utils.reproduction",
    "utils.benchmarking",
)
OLD_PATHS = {"predictor", "metrics", "losses"}  # modules that README named when utils/ was one folder


def package(module: str) -> str | None:
    first, second = [*module.split("."), ""][:2]
    if first not in {"utils", "datasets", "models"}:
        return None
    return f"{first}.{second}" if f"{first}.{second}" in LEVELS else first


def imports(path: Path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_go_down_only():
    seen = set()
    for path in (path for top in ("utils", "datasets", "models") for path in (ROOT / top).rglob("*.py")):
        here = package(".".join(path.relative_to(ROOT).with_suffix("").parts))
        if here == "utils":
            assert path.parent == ROOT / "utils" and path.stem in OLD_PATHS | {"__init__"}, path
            continue
        for name in imports(path):
            there = package(name)
            if there not in (None, here):
                assert LEVELS.index(there) < LEVELS.index(here), f"{path.relative_to(ROOT)} imports {name}"
                seen.add((here, there))
    assert ("datasets", "utils.common") in seen and ("utils.training", "utils.networks") in seen


def test_data_sets_use_nothing_of_utils_but_common():
    for path in (ROOT / "datasets").rglob("*.py"):
        for name in imports(path):
            assert package(name) in (None, "datasets", "datasets.prepare", "utils.common"), (
                f"{path.name} imports {name}"
            )


def test_the_old_paths_of_public_names_work():
    from utils.losses import BCEDiceLoss
    from utils.metrics import paper_metrics
    from utils.predictor import Predictor

    names = [f"{thing.__module__}.{thing.__name__}" for thing in (BCEDiceLoss, paper_metrics, Predictor)]
    assert names == [
        "utils.training.losses.bce_dice.BCEDiceLoss",
        "utils.evaluation.pixel_metrics.paper_metrics",
        "utils.prediction.predictor.Predictor",
    ]
