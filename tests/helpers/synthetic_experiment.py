"""Lines and per-image files of an experiment that nobody ran, with known effects."""

from __future__ import annotations

import json

import numpy as np
from result_line import result_line

from utils.evaluation.protocol_card import EMPTY_IMAGES, POOLING
from utils.reproduction.per_image_files import Images, write_per_image
from utils.reproduction.result_lines import per_image_name, read

PIXELS = 128 * 128


def write_experiment(results, name, effects, divisions=3, seeds=(41, 42), images=30, lists=("val",), **more):
    """Writes NAME.jsonl and the per-image files of every arm of `effects` (points of IoU), and returns the lines.

    `more`: of each line, a value or a function of arm, division and seed.
    """
    lines = []
    for arm, effect in effects.items():
        for division in range(1, divisions + 1):
            for seed in seeds:
                line = _run(results, name, arm, effect, division, seed, images, lists)
                lines.append(line | {key: of(arm, division, seed) if callable(of) else of for key, of in more.items()})
    path = results / f"{name}.jsonl"
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    return read(path)


def _run(results, name, arm, effect, division, seed, images, lists):
    shared = np.random.default_rng([division, images])  # what all arms have of a division: its images
    numbers = shared.choice(2 * images, images, replace=False)
    names = [f"image ({number})" for number in numbers]
    share = 10.0 ** (-3 + 2 * numbers / (2 * images))
    own = np.random.default_rng([division, seed, *arm.encode()])
    tables = {}
    for on in lists:
        for rule, loss in (("best", 0.0), ("last", 0.01)):
            hard = 0.4 * np.cos(numbers)
            iou = 0.55 + hard + effect / 100 - loss + own.normal(0, 0.01) + own.normal(0, 0.03, images)
            target = np.maximum(1, (share * PIXELS)).round()
            tp = (np.clip(iou, 0, 1) * target).round()
            counts = {"TP": tp, "FP": 0 * tp, "FN": target - tp, "TN": PIXELS - target}
            figures = {"iou": tp / target, "F1": 2 * tp / (target + tp), **counts}
            columns = {**figures, "target_pixels": target, "target_share": target / PIXELS}
            tables[on, rule] = Images(names, {key: values.tolist() for key, values in columns.items()})
    write_per_image(results / per_image_name(name, arm, division, seed), tables)
    line = result_line(arm, division, seed, experiment=name, per_image=per_image_name(name, arm, division, seed))
    line["figures"] = {on: {rule: _figures(tables[on, rule]) for rule in ("best", "last")} for on in lists}
    line["protocol"] = {on: {rule: _card(division, on, rule) for rule in ("best", "last")} for on in lists}
    epochs = np.arange(1, 11)
    curve = line["figures"]["val"]["last"]["iou"] * (1 - np.exp(-epochs / 3)) + own.normal(0, 0.01, 10)
    line["curve"] = {
        "epoch": epochs.tolist(),
        **{key: curve.tolist() for key in ("train_loss", "val_loss", "val_iou")},
    }
    line["epochs"] = {"best": 8, "last": 10}
    line["network"] = {"parameters": {"trained": 390_000, "frozen": 480_000}, "macs": 1_040_000_000 + 10**8 * len(arm)}
    return line


def _figures(table):
    columns = {name: np.array(values) for name, values in table.columns.items()}
    mean = {name: float(columns[name].mean()) for name in ("iou", "F1")}
    pooled = float(columns["TP"].sum() / columns["target_pixels"].sum())
    of_list = {"benchmark_iou": 0.5 * (mean["iou"] + pooled), "benchmark_F1": 0.8, "pooled_iou": pooled, "Pd": 0.9}
    others = {"dice": mean["F1"], "nIoU": mean["iou"], "Fa_1e-6": 20.5, "hd95": None}
    paper = dict.fromkeys(("SE", "PC", "SP", "ACC"), 0.9)
    return {"images": len(table.names), **mean, **of_list, **others, **paper}


def _card(division, on, rule):
    facts = {"cases": 30, "sha256": f"{on}{division}".ljust(64, "0"), "known": f"{on} list of division {division}"}
    return {
        "evaluated_list": facts,
        "training_list": {**facts, "sha256": f"train{division}".ljust(64, "0"), "known": None},
        "epoch_list": {**facts, "sha256": f"val{division}".ljust(64, "0")},
        "epoch_rule": "last epoch" if rule == "last" else "best iou, chosen on this list",
        "size": "128x128 pixels, masks by exact",
        "threshold": 0.5,
        "pooling": POOLING,
        "empty_images": EMPTY_IMAGES,
        "normalization": "imagenet",
    }
