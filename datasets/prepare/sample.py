"""A small synthetic data set in the project's layout: B-mode-like lesions or infrared-like dim point targets.

It allows a trial of all scripts in minutes without a download; results on it say nothing about real images.
"""

from pathlib import Path

import cv2
import numpy as np

from datasets import LOOKS
from datasets.lists import write_list
from utils.common.errors import UserError
from utils.common.files import making_folder

MIN_COUNT, MIN_SIZE = 4, 32  # cases; pixels
# Ultrasound. Echo levels are in dB below white; lengths are shares of the image side.
DYNAMIC_RANGE = 58.0  # dB between black and white after log compression
SKIN, FAT, GLAND, MUSCLE = -12.0, -31.0, -22.0, -31.0  # dB, mean echo of each layer
LESION_SHARE = (0.018, 0.17)  # of the image's area; inside the promised 1.5 % to 20 % whatever the rasterisation does
LESION_DROP, WEAK_DROP, WEAK_CHANCE = (9.0, 22.0), (6.5, 9.0), 0.25  # dB below the darker part of its surroundings
SPECKLE_GAIN = 0.62  # of the full log-Rayleigh spread (5.6 dB): scanners smooth it
# Infrared. Levels are 8-bit gray levels; target lengths are pixels, because a point target has the size of the optics.
TARGET_SIGMA, TARGET_ELONGATION = (0.8, 2.0), (1.0, 1.6)  # px, ratio; the half-peak area is 4.36 * sigma**2
TARGET_SNR, TARGET_PEAK = (3.2, 14.0), (14.0, 130.0)  # peak over the local standard deviation; peak in gray levels
TARGET_GAP = 10.0  # px between centres, so that two masks never touch


def _field(rng: np.random.Generator, size: int, sigma_x: float, sigma_y: float) -> np.ndarray:
    """Return (size, size) float32 smooth Gaussian noise of mean 0 and variance 1; the sigmas are in pixels."""
    noise = rng.standard_normal((size, size)).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), max(sigma_x, 0.3), sigmaY=max(sigma_y, 0.3), borderType=cv2.BORDER_REFLECT)
    return (noise - noise.mean()) / noise.std()


def _curve(rng: np.random.Generator, size: int, height: float) -> np.ndarray:
    """Return (size,) float32 offsets in pixels of a gently bent line; height is the swing as a share of the side."""
    x = np.arange(size) / size
    waves = [rng.normal() / k * np.sin(np.pi * k * x + rng.uniform(0, 2 * np.pi)) for k in (1, 2, 3, 5)]
    return (height * size * np.sum(waves, axis=0)).astype(np.float32)


def _step(distance: np.ndarray, width: float) -> np.ndarray:
    """Return a smooth step from 0 to 1 across distance 0, because these pictures have no sharp edges."""
    return 0.5 + 0.5 * np.tanh(distance / (2 * width))


def _speckle(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return (size, size) log-Rayleigh speckle in dB, mean 0, finer along the beam than across, growing with depth."""
    depth = np.linspace(0, 1, size, dtype=np.float32)[:, None]
    fine = [_field(rng, size, 0.006 * size, 0.003 * size) for _ in range(2)]  # real and imaginary part of the echo
    coarse = [_field(rng, size, 0.014 * size, 0.004 * size) for _ in range(2)]
    echo = np.sqrt(1 - depth) * np.array(fine) + np.sqrt(depth) * np.array(coarse)
    level = 20 * np.log10(np.hypot(*echo) + 0.08)  # the floor tames the dark nulls, as an averaging scanner does
    return SPECKLE_GAIN * (level - level.mean())


def _tissue(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return (size, size) float32 echoes in dB: skin, fat, gland, muscle, fasciae between them, fibres along them."""
    y = (np.arange(size, dtype=np.float32)[:, None] + 0.5) / size
    bend, wobble = _curve(rng, size, 0.03), 0.01 * _field(rng, size, 0.04 * size, 0.02 * size)
    depths = (0.045, rng.uniform(0.14, 0.32), rng.uniform(0.68, 0.9))  # skin | fat | gland | muscle
    edges = [d + (w * bend + _curve(rng, size, 0.015 * w)) / size for d, w in zip(depths, (0.1, 1, 1), strict=True)]
    below = [_step(y - edge[None] + wobble, 0.008) for edge in edges]
    echo = SKIN + (FAT - SKIN) * below[0] + (GLAND - FAT) * below[1] + (MUSCLE - GLAND) * below[2]
    echo += rng.uniform(1.5, 3.5) * _field(rng, size, 0.15 * size, 0.12 * size)  # slowly varying echogenicity
    # Fibres: long thin streaks which follow the bend of the layers; strong in gland and muscle, faint in fat.
    fine, broad = _field(rng, size, 0.05 * size, 0.006 * size), _field(rng, size, 0.09 * size, 0.025 * size)
    columns, rows = np.meshgrid(*[np.arange(size, dtype=np.float32)] * 2)
    streaks = 1.8 * fine + 3 * np.maximum(fine - 0.8, 0) + 2 * broad  # the strongest ones reflect like a mirror
    streaks = cv2.remap(streaks, columns, rows - 1.5 * bend[None], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    echo += streaks * (0.4 + 0.8 * below[1])
    septa = [rng.uniform(0.1, 0.6) + (1.5 * bend + _curve(rng, size, 0.06)) / size for _ in range(3)]
    for edge, gain in zip(edges + septa, (3, 8, 12, 8, 8, 8), strict=True):
        broken = np.clip(0.5 + 0.7 * _curve(rng, size, 1 / size), 0, 1.3)  # it shines only where it faces the beam
        echo += gain * broken * np.exp(-(((y - edge[None]) / 0.009) ** 2))
    return echo.astype(np.float32)


def _outline(rng: np.random.Generator, size: int, share: float, aspect: float, rough: float) -> np.ndarray:
    """Return a uint8 mask (size, size) in {0, 1}: a Fourier contour around an ellipse, anywhere in the middle part.

    share: of the image's area; aspect: width over height; rough: relative swing of the contour.
    """
    tilt, lobes = rng.normal(0, 0.3), rng.integers(2, 6)
    waves = [(k, rough * rng.normal() / k, rng.uniform(0, 2 * np.pi)) for k in range(2, 8)]
    waves.append((lobes, rough * rng.choice([0, 0.8]), rng.uniform(0, 2 * np.pi)))  # some are lobulated

    def radius(angle: np.ndarray) -> np.ndarray:
        ellipse = 1 / np.hypot(np.cos(angle - tilt) / np.sqrt(aspect), np.sin(angle - tilt) * np.sqrt(aspect))
        return ellipse * np.clip(1 + sum(a * np.cos(k * angle + p) for k, a, p in waves), 0.55, 1.6)

    angles = np.linspace(0, 2 * np.pi, 256, endpoint=False)
    contour = radius(angles)
    scale = np.sqrt(share / (np.pi * np.mean(contour**2)))  # polar area: half the integral of the squared radius
    xs, ys = scale * contour * np.cos(angles), scale * contour * np.sin(angles)
    x = max(min(rng.uniform(0.22, 0.78), 0.97 - xs.max()), 0.03 - xs.min())  # moved until the whole shape is inside
    y = max(min(rng.uniform(0.25, 0.68), 0.94 - ys.max()), 0.10 - ys.min())
    grid = (np.arange(size) + 0.5) / size
    dx, dy = np.meshgrid(grid - x, grid - y)
    return (np.hypot(dx, dy) < scale * radius(np.arctan2(dy, dx))).astype(np.uint8)


def _shadow(rng: np.random.Generator, size: int, keep_off: np.ndarray) -> np.ndarray:
    """Return (size, size) losses in dB (>= 0) below a rib or ligament, centred off keep_off (size,) bool."""
    centre = rng.choice(np.append(np.flatnonzero(~keep_off), 0)) / size  # a lesion may fill the width: then the edge
    width, grid = rng.uniform(0.03, 0.1), np.arange(size, dtype=np.float32) / size
    depth = grid[:, None] - rng.uniform(0.1, 0.6)
    lean = centre + rng.normal(0, 0.1) * depth + 0.012 * _field(rng, size, 0.05 * size, 0.1 * size)
    across = np.exp(-1.2 * (np.abs(grid[None] - lean) / (width * (1 + 0.5 * np.clip(depth, 0, 1)))) ** 2.2)
    return rng.uniform(7, 16) * across * _step(depth + 0.02 * _field(rng, size, 0.02 * size, 0.02 * size), 0.03)


def _dark_distractors(rng: np.random.Generator, size: int, lesion: np.ndarray) -> np.ndarray:
    """Return (size, size) losses in dB of fat lobules (flat, mild, rimmed) and vessels (small), none on the lesion."""
    loss = np.zeros((size, size), np.float32)
    near = cv2.dilate(lesion, np.ones((3, 3), np.uint8), iterations=max(1, size // 40))
    for lobule in [True] * rng.integers(1, 4) + [False] * rng.integers(1, 4):
        low, high = ((0.01, 2.6, 4), (0.04, 5, 8)) if lobule else ((0.0012, 1, 9), (0.005, 4, 20))
        share, aspect, drop = rng.uniform(low, high)  # of the area, width over height, dB
        if not ((shape := _outline(rng, size, share, aspect, 0.08)) & near).any():
            body, halo = (cv2.GaussianBlur(shape.astype(np.float32), (0, 0), s * size) for s in (0.008, 0.02))
            loss = np.maximum(loss, drop * body) - 8 * np.maximum(halo - body, 0)
    return loss


def ultrasound_image(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return a B-mode-like gray image (size, size) uint8 and its lesion's mask (size, size) uint8 in {0, 1}."""
    aspect = rng.choice([rng.uniform(1.1, 1.9), rng.uniform(0.75, 1.1)], p=(0.7, 0.3))
    lesion = _outline(rng, size, np.exp(rng.uniform(*np.log(LESION_SHARE))), aspect, rng.uniform(0.04, 0.2))
    echo = _tissue(rng, size) - _dark_distractors(rng, size, lesion)
    ring = cv2.dilate(lesion, np.ones((3, 3), np.uint8), iterations=max(2, size // 20)) > lesion
    # Not the mean of the ring: a lesion between bright gland and dark fat must stand out from both.
    inside = np.percentile(echo[ring], 30) - rng.uniform(*(WEAK_DROP if rng.random() < WEAK_CHANCE else LESION_DROP))
    soft = cv2.GaussianBlur(lesion.astype(np.float32), (0, 0), rng.uniform(0.004, 0.014) * size)
    echo += (inside + 1.2 * _field(rng, size, 0.03 * size, 0.02 * size) - echo) * soft
    path = np.cumsum(lesion, axis=0, dtype=np.float32)  # how much lesion the beam has crossed: the tissue behind it is
    path *= (1 - lesion) / path.max()  # enhanced, shadowed or neither
    behind = rng.choice([rng.uniform(3, 8), -rng.uniform(5, 12), 0], p=(0.4, 0.35, 0.25))  # dB
    echo += behind * cv2.GaussianBlur(path, (0, 0), 0.015 * size)
    keep_off = np.convolve(lesion.any(axis=0), np.ones(2 * (size // 14) + 1), "same") > 0.5
    for _ in range(rng.integers(1, 4)):
        echo -= _shadow(rng, size, keep_off)
    depth = np.linspace(0, 1, size)[:, None]
    echo -= rng.uniform(3, 18) * depth ** rng.uniform(1, 2.5)  # attenuation which the gain does not make up for
    gray = 255 * (1 + (echo + _speckle(rng, size) + rng.uniform(-4, 3)) / DYNAMIC_RANGE) + rng.normal(0, 2, echo.shape)
    return np.clip(np.round(gray), 0, 255).astype(np.uint8), lesion


def _clouds(rng: np.random.Generator, size: int, slope: float, stretch: float = 1.0) -> np.ndarray:
    """Return (size, size) 1/f**slope noise of mean 0 and variance 1; stretch > 1 draws it out sideways."""
    fy, fx = np.fft.fftfreq(2 * size)[:, None], np.fft.rfftfreq(2 * size)[None] * stretch
    noise = np.fft.rfft2(rng.standard_normal((2 * size, 2 * size))) / np.maximum(np.hypot(fy, fx), 0.5 / size) ** slope
    noise = np.fft.irfft2(noise)[:size, :size]
    return (noise - noise.mean()) / noise.std()  # cut out of twice the side: an FFT's noise wraps round


def _clutter(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a (size, size) background in gray levels, without noise: sky, mostly with clouds, land or sea."""
    grid = np.linspace(0, 1, size)
    scene = rng.uniform(15, 85) + rng.uniform(-5, 45) * grid[:, None] ** 1.5 + 3 * _clouds(rng, size, 2.0)
    if rng.random() < 0.7:
        noise = _clouds(rng, size, rng.uniform(1.7, 2.1), rng.uniform(1, 2.5)) - rng.uniform(-0.2, 1.0)
        cover = _step(noise, rng.uniform(0.1, 0.3))  # a steep step gives clouds their bright edges
        scene += np.exp(rng.uniform(3, 5.3)) * cover * (0.75 + 0.2 * _clouds(rng, size, 1.6))
    if rng.random() < 0.4:
        sea = rng.random() < 0.5
        ridge = rng.uniform(0.55, 0.85) + (0.03 * (grid - 0.5) if sea else 0.05 * _clouds(rng, size, 1.7)[0])
        ground = rng.uniform(50, 140) + rng.uniform(5, 10) * _clouds(rng, size, 1.0 if sea else 1.5, 4 if sea else 1.5)
        scene += (ground - scene) * _step(grid[:, None] - ridge[None], 0.6 / size)
    y, x = np.mgrid[:size, :size]
    for _ in range(rng.integers(0, 4)):  # warm patches: bright like a target, but larger and ragged
        cx, cy, wide, high = *rng.uniform(0, size, 2), rng.uniform(3, 8), rng.uniform(2, 4)
        patch = np.exp(-0.5 * (((x - cx) / wide) ** 2 + ((y - cy) / high) ** 2))
        scene += rng.uniform(15, 60) * patch * np.maximum(0, 1 + 0.7 * _clouds(rng, size, 1.1))
    return cv2.GaussianBlur(scene, (0, 0), 0.6)  # the optics blur the scene as they blur the targets


def _point_target(rng: np.random.Generator, size: int, x: float, y: float) -> tuple[np.ndarray, np.ndarray]:
    """Return one target centred at (x, y): the noiseless blob (size, size) of peak 1, and its bool half-peak mask."""
    sigma, stretch, angle = rng.uniform(*TARGET_SIGMA), np.sqrt(rng.uniform(*TARGET_ELONGATION)), rng.uniform(0, np.pi)
    dy, dx = np.mgrid[:size, :size] - np.array([y, x])[:, None, None]
    along, across = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    blob = np.exp(-0.5 * ((along / (sigma * stretch)) ** 2 + (across * stretch / sigma) ** 2))
    return blob / blob.max(), blob >= min(0.5 * blob.max(), np.partition(blob, -2, axis=None)[-2])  # at least 2 px


def infrared_image(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return an infrared-like gray image (size, size) uint8 and the mask of its 1 to 3 dim targets, uint8 in {0, 1}."""
    frame = _clutter(rng, size) + rng.normal(0, rng.uniform(1, 3.5), (size, size))
    frame += rng.normal(0, rng.uniform(0.8, 2.2), (1, size)) * (rng.random() < 0.35)  # columns of an uneven detector
    mean = cv2.blur(frame, (13, 13))
    spread = np.sqrt(np.maximum(cv2.blur(frame**2, (13, 13)) - mean**2, 1))  # local clutter and noise, gray levels
    spread = cv2.dilate(spread, np.ones((7, 7), np.uint8))  # an edge just outside the window counts as well
    # A target must stay visible: not on white, nor on an edge which drowns it; failing all, in the calmest place.
    trouble = np.maximum(mean / 180, spread * TARGET_SNR[0] / (0.7 * TARGET_PEAK[1]))[5:-5, 5:-5]
    places = np.argwhere(trouble <= max(1, trouble.min())) + 5
    centres, mask = [], np.zeros((size, size), bool)
    for row, column in rng.permutation(places)[: 1 + rng.choice(3, p=(0.65, 0.25, 0.1))]:
        x, y = column + rng.uniform(-0.5, 0.5), row + rng.uniform(-0.5, 0.5)
        if all(np.hypot(x - a, y - b) >= TARGET_GAP for a, b in centres):
            blob, half_peak = _point_target(rng, size, x, y)
            frame += np.clip(np.exp(rng.uniform(*np.log(TARGET_SNR))) * spread[row, column], *TARGET_PEAK) * blob
            mask |= half_peak
            centres.append((x, y))
    for x, y in rng.integers(0, size, (rng.integers(0, 4), 2)):  # hot pixels: sharp, the optics have not blurred them
        if all(np.hypot(x - a, y - b) >= TARGET_GAP for a, b in centres):
            frame[y, x] += rng.uniform(30, 90)
    return np.clip(np.round(frame), 0, 255).astype(np.uint8), mask.astype(np.uint8)


def _write_all(folder: Path, look: str, count: int, size: int, seed: int, val_share: float) -> None:
    """Write images, masks and both lists into folder."""
    draw, prefix = (ultrasound_image, "us") if look == "ultrasound" else (infrared_image, "ir")
    names = [f"{prefix}{index:04d}" for index in range(1, count + 1)]
    for index, name in enumerate(names, start=1):
        image, mask = draw(np.random.default_rng([seed, index]), size)
        for path, picture in ((folder / "images", image), (folder / "masks", mask * 255)):
            path.mkdir(parents=True, exist_ok=True)
            (path / f"{name}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    shuffled = np.random.default_rng([seed, 0]).permutation(names).tolist()  # no case has the index 0
    held_out = min(max(round(count * val_share), 1), count - 1)
    write_list(folder / "val.txt", sorted(shuffled[:held_out]))
    write_list(folder / "train.txt", sorted(shuffled[held_out:]))


def make_sample(
    out_dir: Path, look: str = "ultrasound", count: int = 80, size: int = 128, seed: int = 0, val_share: float = 0.3
) -> None:
    """Write a synthetic data set of count cases: out_dir/images, out_dir/masks (0 or 255), train.txt and val.txt.

    Case i is drawn from (seed, i) alone: a larger count adds cases and changes none, only the division is redrawn.
    """
    out_dir = Path(out_dir)
    if look not in LOOKS:
        raise UserError(f"unknown look {look!r}: choose one of {', '.join(LOOKS)}")
    if count < MIN_COUNT or size < MIN_SIZE or seed < 0 or not 0 < val_share < 1:
        rule = f"count >= {MIN_COUNT}, size >= {MIN_SIZE}, seed >= 0 and a val_share between 0 and 1"
        raise UserError(f"a sample needs {rule}: change count {count}, size {size}, seed {seed} val_share {val_share}")
    with making_folder(out_dir) as whole:
        _write_all(whole, look, count, size, seed, val_share)
