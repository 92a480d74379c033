"""Provenance: what checkpoints and summaries record in addition to their settings."""

from __future__ import annotations

import argparse
import contextlib
import platform
import subprocess
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from datasets.known_divisions import facts
from datasets.lists import read_list
from datasets.load import list_path
from datasets.pairing import files_hash, find_cases
from datasets.unlabeled import fingerprint
from utils.common.devices import device_name, has_tf32
from utils.common.errors import UserError
from utils.common.files import sha256
from utils.common.processes import world_size
from utils.common.version import version

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "opencv-python-headless",
    "tifffile",
    "albumentations",
    "scikit-learn",
    "scipy",
)
LISTS = ("train_file_dir", "val_file_dir")
WEIGHTS = ("weights", "recon_weights", "seg_weights", "init_from")
ROOT = Path(__file__).resolve().parents[2]


def provenance(settings: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Versions, the git commit (None outside a checkout), the device; list files and weights by their SHA-256."""
    return {
        "version": version(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {package: _version(package) for package in PACKAGES},
        "git_commit": git_commit(),
        "device": device_name(device),
        "tf32": device.type == "cuda" and has_tf32(),
        "processes": world_size(),
        "threads": torch.get_num_threads(),
        "lists": list_hashes(settings),
        "divisions": list_facts(settings),
        "weights": weight_hashes(settings),
    }


def list_hashes(settings: argparse.Namespace) -> dict[str, str]:
    """The SHA-256 of each existing list file, by setting; for unlabeled images, of their names and sizes."""
    base = Path(settings.base_dir)
    hashes = _hashes({name: list_path(base, file) for name in LISTS if (file := getattr(settings, name, None))})
    folders = getattr(settings, "unlabeled_dir", None)
    return {**hashes, "unlabeled_dir": fingerprint(folders, settings.mask_suffix)} if folders else hashes


def file_hashes(
    base_dir: str | Path,
    lists: Mapping[str, str],
    mask_suffix: str | None,
    need_masks: bool = True,
    in_order: bool = True,
) -> dict[str, str]:
    """`datasets.pairing.files_hash` of the images and masks of each list, without those of which a file is missing.

    Args:
        lists: by purpose, as "training" and "validation".
        in_order: of the list; otherwise equal for lists of the same cases.
    """
    found = {}
    for purpose, name in lists.items():
        with contextlib.suppress(UserError, OSError):
            cases, problems = find_cases(
                Path(base_dir), read_list(list_path(Path(base_dir), name)), mask_suffix, need_masks
            )
            cases = cases if in_order else sorted(cases, key=lambda case: case.name)
            found |= {} if problems else {purpose: files_hash(cases)}
    return found


def changed(before: Mapping[str, str], now: Mapping[str, str]) -> list[str]:
    """The names of the hashes that differ, of those that both have: older runs and results have fewer."""
    return [name for name in before if name in now and before[name] != now[name]]


def list_facts(settings: argparse.Namespace) -> dict[str, dict[str, Any]]:
    """`datasets.known_divisions.facts` of each readable list file, by setting."""
    found = {}
    for name in LISTS:
        # A list that this script does not use may be missing or invalid.
        with contextlib.suppress(UserError):
            found[name] = facts(read_list(list_path(Path(settings.base_dir), getattr(settings, name, None) or "")))
    return found


def weight_hashes(settings: argparse.Namespace) -> dict[str, str]:
    """The SHA-256 of each file of weights in the settings, by setting."""
    return _hashes({name: Path(file) for name in WEIGHTS if (file := getattr(settings, name, None))})


def _hashes(files: dict[str, Path]) -> dict[str, str]:
    return {name: sha256(path) for name, path in files.items() if path.is_file()}


def _version(package: str) -> str | None:
    """The installed version; None for a package that is installed under another name, as OpenCV may be."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of the project's code, with "+changes" if files differ from it; None outside a checkout."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+changes" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None
