"""Predicts one large image in tiles, and measures time and peak memory (minutes: not in the suite).

    python tests/experiments/large_image.py                                 # 10,000 x 10,000, srs_tiny, tiles of 512
    python tests/experiments/large_image.py --side 4000 --variant srs --bits 16
    python tests/experiments/large_image.py --weights checkpoints/SIRST/seg/best.pth --tile 1024

Draws an RGB image with the sample generator's infrared look, repeated, and noise that no PNG can compress; the weights
are random unless given (neither time nor memory depends on them). Exits with 1 if predict.py, with Python and torch
included, needs over 4 GiB.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "helpers")]

from random_weights import save_random_weights  # noqa: E402 - the project is not installed

from datasets.prepare.sample import infrared_image  # noqa: E402

LIMIT = 4 << 30  # bytes


def draw(side: int, bits: int) -> np.ndarray:
    """(side, side, 3), of that many bits."""
    rng = np.random.default_rng(0)
    patch, _ = infrared_image(rng, 512)
    times = -(-side // len(patch))
    image = np.tile(patch, (times, times))[:side, :side].astype(np.uint16 if bits == 16 else np.uint8)
    noise = rng.integers(0, 8, (side, side, 3), dtype=np.uint8)
    return image[..., None] * (257 if bits == 16 else 1) // 2 + noise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", type=int, default=10_000, help="pixels")
    parser.add_argument("--bits", type=int, choices=[8, 16], default=8)
    parser.add_argument("--variant", choices=["srs", "srs_tiny"], default="srs_tiny")
    parser.add_argument("--weights", help="checkpoint (default: random weights of the variant)")
    parser.add_argument("--tile", type=int, default=512)
    args, more = parser.parse_known_args()
    with tempfile.TemporaryDirectory() as folder:
        image, weights = Path(folder) / "large.png", args.weights or Path(folder) / "random.pth"
        cv2.imwrite(str(image), draw(args.side, args.bits))
        if not args.weights:
            save_random_weights(weights, args.variant, img_size=256)
        command = [sys.executable, ROOT / "predict.py", "--weights", weights, image, "--output", f"{folder}/out"]
        command += ["--tile", str(args.tile), *more]
        print(f"{image.stat().st_size / 2**20:.0f} MB of PNG: predict.py", *command[2:], flush=True)
        started = time.monotonic()
        if subprocess.run(command, cwd=ROOT).returncode:
            sys.exit("predict.py failed")
        seconds = time.monotonic() - started
        mask = cv2.imread(f"{folder}/out/large.png", cv2.IMREAD_UNCHANGED)
    # In KiB on Linux; of the largest child process.
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"mask {mask.shape}, {seconds:.0f} s, peak {peak / 2**30:.2f} GiB of {LIMIT / 2**30:.0f}")
    return 0 if peak <= LIMIT and mask.shape == (args.side, args.side) else 1


if __name__ == "__main__":
    sys.exit(main())
