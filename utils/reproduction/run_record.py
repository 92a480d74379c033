"""From the files of a finished run to its line in docs/results and its file of per-image figures."""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path, PurePath
from typing import Any

from datasets.known_divisions import fingerprint
from datasets.lists import read_list
from datasets.load import list_path
from datasets.pairing import find_cases
from utils.common.errors import UserError
from utils.reproduction.evaluation_files import figures_of
from utils.reproduction.per_image_files import Images, in_list_order, write_per_image
from utils.reproduction.plan import Run, Scripts, as_argv, evaluation_settings, training_flags, trainings
from utils.reproduction.protocol_steps import EvaluationStep, Step, TrainingStep
from utils.reproduction.result_lines import LISTS, SCHEMA, append, per_image_name, read
from utils.settings.config import FREE_SETTINGS, with_defaults

# Settings that say where files are on this machine, or nothing of the experiment.
PATHS = ("Dataset", "base_dir", "config", "init_from", "output_dir", "recon_weights", "resume", "test_file_dir")
PATHS += ("unlabeled_dir",)  # older lines have it; an experiment does not take it
# Settings of an evaluation that change no figure, or that the line has in another place.
NOT_OF_EVALUATION = {*FREE_SETTINGS, "batch_size", "field", "train_file_dir", "val_file_dir", "weights", "seg_weights"}
VIEWS = {"tta": False, "tile": None, "overlap": None}  # which are left out of the settings unless given
CURVES = {"train_loss": ("train", "loss"), "val_loss": ("val", "loss"), "train_iou": ("train", "iou")}
CURVES |= {"val_iou": ("val", "iou"), "val_F1": ("val", "F1")}


class Records:
    """The recorded lines of an experiment, and which of its runs are finished.

    Args:
        name: the experiment's.
        results: the folder of all experiments' lines, docs/results.
        base_dir: the data folder.
    """

    def __init__(self, name: str, results: Path, scripts: Scripts, base_dir: Path) -> None:
        self.name, self.results, self.scripts, self.base_dir = name, results, scripts, base_dir
        self.path = results / f"{name}.jsonl"
        self._checked: dict[tuple[str, int, int | None], Mapping[str, Any]] = {}  # lines that are of the run's settings
        self._version: tuple[int, int] | None = None
        self._lines: list[dict[str, Any]] = []

    def lines(self) -> list[dict[str, Any]]:
        """The current lines of the file."""
        status = self.path.stat() if self.path.is_file() else None
        version = status and (status.st_mtime_ns, status.st_ino)
        if version != self._version or version is None:
            self._lines, self._version = read(self.path), version
        return self._lines

    def line(self, run: Run) -> Mapping[str, Any] | None:
        """The run's line; None if it has none, or one whose file of images or test of codes is missing.

        Raises:
            UserError: if the line is of a run with other settings or lists.
        """
        key = run.key
        for line in self.lines():
            if (line["arm"], line["division"], line["seed"]) == key:
                if self._checked.get(key) != line:
                    self._refuse_another_run(run, line)
                    self._checked[key] = line
                whole = (self.results / line["per_image"]).is_file() and set(run.codes) <= {*(line["code"] or {})}
                return line if whole else None
        return None

    def record(self, run: Run, steps: Sequence[Step], seconds: Mapping[str, float]) -> None:
        """Writes the per-image file of a finished run, and then its line."""
        line, images = line_of(self.name, run, steps, seconds, self.base_dir, _of_evaluations(run, self.scripts))
        write_per_image(self.results / line["per_image"], images)
        append(self.path, line)

    def _refuse_another_run(self, run: Run, line: Mapping[str, Any]) -> None:
        now = _resolved(run, self.scripts)
        recorded = {phase: settings for phase, settings in line["settings"].items() if settings is not None}
        if "evaluation" not in recorded:  # a line of before these were recorded
            del now["evaluation"]
        differing = [
            f"{phase} {name} {before} (now {now[phase][name]})"
            for phase in recorded.keys() & now.keys()
            for name, before in recorded_settings(with_defaults(recorded[phase])).items()
            if name in now[phase] and name not in FREE_SETTINGS and before != now[phase][name]
        ]
        differing += [f"{phase} in one of them alone" for phase in recorded.keys() ^ now.keys()]
        others = [on for on in ("train", *LISTS) if self._is_another(run, on, line["protocol"])]
        differing += [f"another {on} list" for on in others]
        changed = self._other_files(run, line, now["seg"]["mask_suffix"])
        differing += [f"other files of the {on} list" for on in changed if on not in others]
        if differing:
            raise UserError(
                f"{self.path}: the line of {run.title} is of other settings or data: {'; '.join(differing)}. Remove "
                "such lines, or give the experiment another name"
            )

    def _other_files(self, run: Run, line: Mapping[str, Any], mask_suffix: str | None) -> list[str]:
        """The lists whose images or masks have other names or sizes than those of the line, which older lines lack."""
        if "files" not in line:
            return []
        from utils.settings.provenance import changed, file_hashes  # here: it imports torch

        return changed(line["files"], file_hashes(self.base_dir, run.lists, mask_suffix, in_order=False))

    def _is_another(self, run: Run, on: str, protocol: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether the run's list `on` is not that of the cards, as far as both are known."""
        if on != "train" and (on in run.lists) != (on in protocol):
            return True
        path = list_path(self.base_dir, run.lists.get(on, ""))
        card = protocol["val" if on == "train" else on]["last"] if path.is_file() else {}
        facts = card.get("training_list" if on == "train" else "evaluated_list")
        return isinstance(facts, Mapping) and fingerprint(read_list(path)) != facts.get("sha256")


def recorded_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings without paths of this machine. A list outside the data folder is reduced to its file name."""
    lists = {name: settings.get(name) for name in ("train_file_dir", "val_file_dir")}
    lists = {name: path.name for name, file in lists.items() if (path := PurePath(str(file))).is_absolute()}
    return {name: value for name, value in {**settings, **lists}.items() if name not in PATHS}


def _resolved(run: Run, scripts: Scripts) -> dict[str, dict[str, Any]]:
    """The settings of both phases and the evaluations, in the form of the lines, from the experiment's file alone."""
    found: dict[str, dict[str, Any]] = {}
    for script in trainings(run, scripts):
        argv = [*as_argv({"base_dir": "."}), *training_flags(run, script, bool(found))]
        found[script.__name__.removeprefix("train_")] = recorded_settings(vars(script.parser().settings(argv)))
    return {**found, "evaluation": _of_evaluations(run, scripts)}


def _of_evaluations(run: Run, scripts: Scripts) -> dict[str, Any]:
    settings = {**VIEWS, **recorded_settings(vars(evaluation_settings(run, scripts)))}
    return {name: value for name, value in settings.items() if name not in NOT_OF_EVALUATION}


def line_of(
    experiment: str,
    run: Run,
    steps: Sequence[Step],
    seconds: Mapping[str, float],
    base_dir: Path,
    of_evaluations: Mapping[str, Any],
) -> tuple[dict[str, Any], dict[tuple[str, str], Images]]:
    """The line of a run whose steps are all done, and its images' figures by list and epoch rule."""
    from utils.common.run_log import read_log  # here: torch comes with them
    from utils.networks.checkpoints import load_checkpoint
    from utils.settings.provenance import file_hashes

    phases = {step.phase: step for step in steps if isinstance(step, TrainingStep)}
    evaluations = [step for step in steps if isinstance(step, EvaluationStep)]
    seg = phases["seg"]
    last, best = (load_checkpoint(seg.folder / f"{weights}.pth", "seg") for weights in ("last", "best"))
    came_from, log = last["provenance"], read_log(seg.folder / "log.jsonl")
    summaries = {(step.on, step.weights, step.code): _summary(step) for step in evaluations}
    line = {
        "schema": SCHEMA,
        "experiment": experiment,
        "arm": run.arm,
        "division": run.division,
        "seed": run.seed,
        "settings": {
            **{
                phase: recorded_settings(vars(phases[phase].settings)) if phase in phases else None
                for phase in ("recon", "seg")
            },
            "evaluation": of_evaluations,
        },
        "encoder": encoder_hash(last["model"]) if "recon" in phases else None,
        "protocol": _by_list(summaries, lambda summary: summary["protocol"]),
        "files": file_hashes(base_dir, run.lists, seg.settings.mask_suffix, in_order=False),
        "versions": {"python": came_from["python"], **came_from["versions"]},
        "commit": came_from["git_commit"],
        "machine": _machine(came_from),
        "network": _network(last, seg),
        "seconds": {
            "recon": _seconds(phases["recon"].folder) if "recon" in phases else None,
            "seg": _seconds(seg.folder),
            "evaluation": _sum_of(seconds, [step.title for step in evaluations]),
        },
        "epochs": {"best": best["epoch"], "last": last["epoch"]},
        "figures": _by_list(summaries, figures_of),
        "curve": {
            "epoch": [entry["epoch"] for entry in log],
            **{name: [_short(entry[part].get(figure)) for entry in log] for name, (part, figure) in CURVES.items()},
        },
        "code": {code: {"list": on, **summary["code"]} for (on, _, code), summary in summaries.items() if code} or None,
        "per_image": per_image_name(experiment, run.arm, run.division, run.seed),
    }
    images = {
        (step.on, step.weights): _images(step, base_dir, run.lists[step.on]) for step in evaluations if not step.code
    }
    return line, images


def _machine(came_from: Mapping[str, Any]) -> dict[str, Any]:
    """Of the last part of a run; with its earlier ones, if it was resumed elsewhere or with other code."""
    machine = {name: came_from[name] for name in ("device", "platform", "threads", "processes")}
    earlier = came_from.get("earlier")
    return {**machine, "earlier": earlier} if earlier else machine


def encoder_hash(state: Mapping[str, Any]) -> str:
    """The SHA-256 of an SRS' encoder: its entries by name, and their numbers."""
    digest = hashlib.sha256()
    for name in sorted(name for name in state if name.startswith("encoder.")):
        digest.update(name.encode() + b"\0" + state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def _summary(step: EvaluationStep) -> dict[str, Any]:
    summary = step.summary()
    if summary is None:  # changed by somebody else since its step was done
        raise UserError(f"{step.title}: the results in {step.folder(step.settings())} are outdated. Start again")
    return summary


def _by_list(summaries: Mapping[tuple[str, str, str | None], Any], of: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for (on, weights, code), summary in summaries.items():
        if not code:
            found.setdefault(on, {})[weights] = of(summary)
    return found


def _images(step: EvaluationStep, base_dir: Path, name: str) -> Images:
    from utils.evaluation.read_results import read_evaluation

    found = read_evaluation(step.folder(step.settings()))
    cases, _ = find_cases(base_dir, read_list(list_path(base_dir, name)), need_masks=False)
    names = [case.name for case in cases]
    if set(names) != set(found.names):
        raise UserError(f"{found.folder} is not of the cases of {name}. Remove it, and start again")
    return in_list_order(Images(found.names, found.columns), names)


def _seconds(folder: Path) -> float:
    from utils.common.run_log import read_log

    return round(sum(entry["seconds"] for entry in read_log(folder / "log.jsonl")), 2)


def _sum_of(seconds: Mapping[str, float], titles: Sequence[str]) -> float | None:
    """The sum; None if an earlier process did one of the steps, because its time was not recorded."""
    return round(sum(seconds[title] for title in titles), 2) if all(title in seconds for title in titles) else None


def _short(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.6g}")


def _network(checkpoint: Mapping[str, Any], step: TrainingStep) -> dict[str, Any]:
    from utils.networks.load_weights import load_segmenter

    settings: argparse.Namespace = step.settings
    network = load_segmenter(checkpoint, settings.encoder_bn, step.folder / "last.pth")
    counts = {True: 0, False: 0}
    for parameter in network.parameters():
        counts[parameter.requires_grad] += parameter.numel()
    side = settings.crop or settings.img_size
    names = (settings.variant, settings.dynamic, settings.kernel_source)
    return {"parameters": {"trained": counts[True], "frozen": counts[False]}, "macs": _macs(names, side)}


@lru_cache
def _macs(names: tuple[str, str, str], side: int) -> int:
    """Multiply-accumulates of one image of side x side pixels, as torch counts them: of convolutions and products."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    import models

    variant, layer, source = names
    network = models.build(variant, layer=layer, kernel_source=source, encoder_bn="frozen").eval()
    network.requires_grad_(False)  # the counter fails on a parameter that is a module's input, such as that of `static`
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(torch.zeros(1, 3, side, side))
    return counter.get_total_flops() // 2
