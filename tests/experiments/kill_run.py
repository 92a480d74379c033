"""Kills a real training again and again, and compares its end with that of one left alone (minutes: not in the suite).

    python tests/experiments/kill_run.py --kills 5 train_seg.py --Dataset sample --variant srs_tiny --img_size 64

Everything after the script's name goes to the script, once with an --output_dir that is left alone and once with one
whose runs are killed with SIGKILL at random moments and resumed with --resume auto. Exits with 0 if both end in equal
weights, momentum and log.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from utils.common.run_log import read_log  # noqa: E402
from utils.networks.checkpoints import load_state  # noqa: E402 - the project is not installed


def start(script: str, flags: list[str], folder: Path) -> subprocess.Popen:
    command = [sys.executable, ROOT / script, *flags, "--output_dir", folder, "--resume", "auto"]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def phase_folder(script: str, folder: Path) -> Path:
    return folder / script.removeprefix("train_").removesuffix(".py")


def equal(first: object, second: object) -> bool:
    """Tensors bit for bit, containers by their content."""
    if isinstance(first, torch.Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(equal(first[key], second[key]) for key in first)
    return first == second


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("script", choices=["train_recon.py", "train_seg.py"])
    args, flags = parser.parse_known_args()
    moments = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as folder:
        left_alone, killed = Path(folder) / "left_alone", Path(folder) / "killed"
        started = time.monotonic()
        if start(args.script, flags, left_alone).wait():
            sys.exit(f"the run that was left alone failed; try python {args.script} {' '.join(flags)}")
        duration = time.monotonic() - started
        print(f"left alone: {duration:.0f} s")
        kills = 0
        log = phase_folder(args.script, killed) / "log.jsonl"
        while kills < args.kills:
            process = start(args.script, flags, killed)
            try:
                code = process.wait(timeout=moments.uniform(0.2, 1.2) * duration / (args.kills + 1))
                sys.exit(f"it ended (exit code {code}) before it could be killed {args.kills} times: more --epochs")
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                print(f"kill {kills}: {len(read_log(log))} epochs in its log")
        if start(args.script, flags, killed).wait():
            sys.exit("the killed run did not resume")
        ends = [load_state(phase_folder(args.script, path) / "last.pth", "a run") for path in (left_alone, killed)]
        logs = [
            [
                (line["epoch"], line["train"], line["val"])
                for line in read_log(phase_folder(args.script, path) / "log.jsonl")
            ]
            for path in (left_alone, killed)
        ]
    same = {part: equal(ends[0][part], ends[1][part]) for part in ("model", "optimizer", "figures")}
    same["log"] = logs[0] == logs[1]
    print(", ".join(f"{part}: {'equal' if value else 'DIFFERENT'}" for part, value in same.items()))
    return 0 if all(same.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
