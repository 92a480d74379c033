"""Alternating measurements: a script measures in separate processes, which share neither memory nor threads.

The script accepts `--measure ours` and `--measure plain`, and prints a measurement as JSON in its last line.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# What is measured: flags of the script, and in its row.
SETTINGS = ("only", "variant", "img_size", "batch_size", "amp", "engine")


def changed(args: argparse.Namespace, **changes: Any) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(args), **changes})


def compare(script: Path, args: argparse.Namespace) -> dict[str, Any]:
    """Measures ours and plain alternately; a row of the table."""
    turns: dict[str, list[dict[str, Any]]] = {"ours": [], "plain": []}
    for _ in range(args.rounds):
        for side, results in turns.items():
            results.append(measure_apart(script, args, side))
    ours, plain = (statistics.median(r["seconds_per_image"] for r in turns[side]) for side in turns)
    memory = {side: max(r["peak_rss_gb"] for r in results) for side, results in turns.items()}
    row = {name: getattr(args, name) for name in (*SETTINGS, "cuda_graphs")}
    return row | {
        "seconds_per_image": ours,
        "spread": [r["seconds_per_image"] for r in turns["ours"]],
        "plain_seconds_per_image": plain,
        "ratio": plain / ours,
        "peak_rss_gb": memory["ours"],
        "plain_peak_rss_gb": memory["plain"],
        "memory_ratio": memory["ours"] / memory["plain"],
        "of_peak": statistics.median(r["of_peak"] for r in turns["ours"]),
    }


def measure_apart(script: Path, args: argparse.Namespace, side: str) -> dict[str, Any]:
    command = [sys.executable, str(script), "--measure", side, *["--cuda_graphs"] * args.cuda_graphs]
    for name in (*SETTINGS, "device", "threads", "repeat"):
        if getattr(args, name) is not None:
            command += [f"--{name}", str(getattr(args, name))]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def line(row: dict[str, Any]) -> str:
    precision = f"amp {row['amp']:<4}{' CUDA graphs' if row['cuda_graphs'] else ''}"
    return (
        f"{row['only']:<10} {row['variant']} {row['img_size']}x{row['img_size']} batch {row['batch_size']} "
        f"{row['engine']} {precision} | {row['seconds_per_image']:.4f} s per image, "
        f"plain {row['plain_seconds_per_image']:.4f}: "
        f"{row['ratio']:.2f} x faster | {row['peak_rss_gb']:.2f} GB, plain {row['plain_peak_rss_gb']:.2f}: "
        f"{row['memory_ratio']:.2f} | {100 * row['of_peak']:.0f} % of the convolution peak"
    )


def grow(script: Path, args: argparse.Namespace) -> None:
    """Prints the cost of one kind of work by image size, batch size and number of processes, with its power law."""
    import numpy as np
    import torch

    args = changed(args, only=args.only or "predict")
    sizes = (64, 128, 256, 512, 1024) if args.only == "predict" else (64, 128, 256, 512)
    for name, values, fixed in (
        ("img_size", sizes, {"batch_size": 1}),
        ("batch_size", (1, 2, 4, 8, 16, 32), {"img_size": 128}),
    ):
        rows = [measure_apart(script, changed(args, **fixed, **{name: value}), "ours") for value in values]
        batch = fixed.get("batch_size")
        seconds = [row["seconds_per_image"] * (batch or value) for row, value in zip(rows, values, strict=True)]
        for value, row, total in zip(values, rows, seconds, strict=True):
            print(f"{args.only} {name} {value:>4} | {total:8.4f} s, {row['peak_rss_gb']:.2f} GB", flush=True)
        power = np.polyfit(np.log(values[1:]), np.log(seconds[1:]), 1)[0]
        print(f"{args.only}: seconds grow with {name} ** {power:.2f} (from {values[1]} on)")
    for processes in (1, 2):
        # Each process has its share of the cores, as with evaluation.py and predict.py under torchrun.
        share = changed(args, img_size=256, batch_size=4, threads=max(1, torch.get_num_threads() // processes))
        with ThreadPoolExecutor(processes) as pool:
            rows = list(pool.map(measure_apart, [script] * processes, [share] * processes, ["ours"] * processes))
        rate = sum(1 / row["seconds_per_image"] for row in rows)
        memory = sum(row["peak_rss_gb"] for row in rows)
        print(f"{args.only} processes {processes} | {rate:.2f} images a second, {memory:.2f} GB together", flush=True)
