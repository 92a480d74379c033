"""Where a result comes from: what a checkpoint and a summary record beside their settings."""

from __future__ import annotations

import argparse
import hashlib
import platform
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from datasets.load import list_path
from utils.distributed import world_size

PACKAGES = ("torch", "numpy", "opencv-python-headless", "albumentations", "scikit-learn")
LISTS = ("train_file_dir", "val_file_dir")
ROOT = Path(__file__).resolve().parents[1]


def provenance(settings: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """Versions, the git commit (None outside a checkout), the device, and the list files with their SHA-256."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "versions": {package: _version(package) for package in PACKAGES},
        "git_commit": git_commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "processes": world_size(),
        "threads": torch.get_num_threads(),
        "lists": {
            name: hashlib.sha256(list_path(Path(settings.base_dir), file).read_bytes()).hexdigest()
            for name in LISTS
            if (file := getattr(settings, name, None)) and list_path(Path(settings.base_dir), file).is_file()
        },
    }


def _version(package: str) -> str | None:
    """None for a package that is installed under another name, as OpenCV may be."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """The commit of the project's code; "+changes" where files differ from it."""

    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, check=True).stdout

    try:
        return git("rev-parse", "HEAD").strip() + ("+changes" if git("status", "--porcelain", "-uno").strip() else "")
    except (OSError, subprocess.CalledProcessError):
        return None
