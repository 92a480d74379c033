"""experiments/NAME.yaml: what is read, what is refused, and the runs that come of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import reproduce
from utils.common.errors import UserError
from utils.reproduction.experiment_file import known_experiments, read_experiment
from utils.reproduction.plan import experiment_runs

WHOLE = """
data: {base_dir: DataSet/mine}
divisions: 2
seeds: [41, 42]
recon_epochs: 3
seg_epochs: 4
flags: {variant: srs_tiny, img_size: 64, amp: off}
arms:
  none: {dynamic: none}
  dpconv: {}
  batch: {encoder_bn: batch, train_seg: {watch: pooled_iou}, code: [zero]}
  fast: {base_lr: 0.1}
groups: [[none, dpconv], [batch, fast]]
code: [swap, mean]
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="trial.yaml"):
        (tmp_path / name).write_text(text)
        return str(tmp_path / name)

    return write


def runs_of(path, **free):
    experiment = read_experiment(path)
    return experiment_runs(experiment, reproduce.SCRIPTS, Path("out"), {"base_dir": "x", **free})


def test_the_order_is_a_group_a_seed_a_division_and_then_its_arms(write):
    order = read_experiment(write(WHOLE)).order()
    first = [(arm, division, seed) for seed in (41, 42) for division in (1, 2) for arm in ("none", "dpconv")]
    assert order[:8] == first and {arm for arm, _, _ in order[8:]} == {"batch", "fast"} and len(order) == 16


def test_runs_with_the_same_settings_of_phase_1_share_it(write):
    runs = {run.key: run for run in runs_of(write(WHOLE), workers=0)}
    encoders = {arm: runs[arm, 1, 41].encoder for arm in ("dpconv", "batch", "fast")}
    assert encoders["dpconv"] == encoders["batch"] != encoders["fast"]  # which BN it will have is nothing to phase 1
    assert len({run.encoder for run in runs.values() if run.arm == "dpconv"}) == 4
    assert encoders["dpconv"].parent == Path("out/encoders") and encoders["dpconv"].name.startswith("1-41-")
    assert runs["none", 2, 42].folder == Path("out/none/division2-seed42")


def test_flags_reach_the_scripts_that_take_them(write):
    run = next(run for run in runs_of(write(WHOLE), workers=0) if run.arm == "batch")
    shared = {"variant": "srs_tiny", "img_size": 64, "amp": "off", "base_dir": "x", "workers": 0, "seed": 41}
    assert run.flags["train_recon"] == shared
    assert run.flags["train_seg"] == {**shared, "encoder_bn": "batch", "watch": "pooled_iou"}
    assert run.flags["evaluation"] == {**shared, "encoder_bn": "batch"}
    assert run.lists == {"train": "train1.txt", "val": "val1.txt"} and run.epochs == {"recon": 3, "seg": 4}


def test_codes_are_for_arms_with_dpconv_or_those_that_ask(write):
    codes = {name: arm.code for name, arm in read_experiment(write(WHOLE)).arms.items()}
    assert codes == {"none": (), "dpconv": ("swap", "mean"), "batch": ("zero",), "fast": ("swap", "mean")}


def test_what_an_arm_may_have_beside_a_code_of_all(write):
    text = WHOLE.replace("{dynamic: none}", "{dynamic: none, crop: 64, evaluation: {tile: 32, tta: true}}")
    text = text.replace("dpconv: {}", "dpconv: {code: [], evaluation: {tta: true}}").replace("code: [zero]", "code: []")
    text = text.replace("{base_lr: 0.1}", "{dynamic: gate, code: [swap]}").replace("mine}", "mine, test_file: null}")
    assert [run.codes for run in runs_of(write(text)) if run.key[1:] == (1, 41)] == [(), (), (), ("swap",)]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("divisions: 2", "divisions: two", "divisions must be different integers"),
        ("divisions: 2", "divisions: 0", "divisions must be an integer of at least 1, found 0"),
        ("divisions: 2", "divisons: 2", "unknown key 'divisons'; known are data"),
        ("divisions: 2\n", "", "divisions is missing"),
        ("[41, 42]", "[41, 41]", r"seeds must be different integers.*\[41, 41\]"),
        ("[41, 42]", "[true]", r"seeds must be different integers.*\[True\]"),
        ("seg_epochs: 4", "seg_epochs: 4.5", "seg_epochs must be an integer of at least 1, found 4.5"),
        ("base_dir: DataSet/mine", "base: x", "unknown key of data 'base'"),
        ("base_dir: DataSet/mine", "val_file: v", "data.base_dir must name the data folder"),
        ("base_dir: DataSet/mine", "base_dir: x, val_file: 3", "data.val_file must be a text, found 3"),
        ("base_dir: DataSet/mine", "base_dir: x, val_file: null", "data.val_file must be a text, found None"),
        ("[41, 42]", "[41, 4294967296]", "seeds: must be at most 4294967295, got 4294967296"),
        ("{dynamic: none}", "[none]", "arm none must have the form"),
        ("  none:", "  a/b:", "arm 'a/b': a name is made of letters"),
        ("[batch, fast]]", "[batch]]", "groups must name each arm once"),
        ("[[none, dpconv], [batch, fast]]", "[none]", "groups must be lists of arms"),
        ("[swap, mean]", "[own]", "code must be a list of swap, mean, zero"),
        ("img_size: 64", "img_sise: 64", "arm none: unknown flag 'img_sise'"),
        ("img_size: 64", "img_size: big", "arm none: argument --img_size: invalid"),
        ("img_size: 64", "img_size: [64, 32]", "arm none: img_size must be a single value"),
        ("watch: pooled_iou", "watsch: iou", "arm batch: unrecognized arguments: --watsch=iou"),
        ("{dynamic: none}", "{amp: false}", "arm none: amp must be a value as on the command line, not false"),
        ("{dynamic: none}", "{unlabeled_dir: [x]}", "arm none: unlabeled_dir is not taken here, both phases train on"),
        ("base_lr: 0.1", "seed: 3", "arm fast: seed is not taken here, seeds lists them"),
        ("base_lr: 0.1", "train_seg: {epochs: 3}", "arm fast: epochs is not taken here, recon_epochs and seg_epochs"),
        ("seeds:", "seeds:\nseeds:", "'seeds' is given twice"),
        ("{dynamic: none}", "{dynamic: none, code: [zero]}", "arm none: --code zero requires a layer with a source"),
        ("{dynamic: none}", "{variant: unext, code: [zero]}", "arm none: --code zero requires a layer with a source"),
        ("dpconv: {}", "dpconv: {evaluation: {tta: true}}", "arm dpconv: --code swap accepts neither --tta nor"),
        ("dpconv: {}", "dpconv: {evaluation: {engine: openvino}}", "arm dpconv: --code swap requires --engine torch"),
        ("{dynamic: none}", "{dynamic: none, evaluation: {tile: 32}}", "arm none: --tile requires --resize keep"),
    ],
)
def test_what_does_not_fit_is_refused_in_one_line_with_the_file(write, before, after, message):
    assert before in WHOLE
    with pytest.raises(UserError, match=rf"trial\.yaml.*{message}" if "twice" not in message else message) as error:
        runs_of(write(WHOLE.replace(before, after)))
    assert "\n" not in str(error.value) or "twice" in message


def test_an_arm_whose_name_is_a_number_may_be_in_a_group(write):
    text = "data: {base_dir: x}\ndivisions: 1\nseeds: [1]\narms: {'1': {}, '2': {}}\ngroups: [[2], [1]]\n"
    assert [run.arm for run in runs_of(write(text))] == ["2", "1"]


def test_an_unknown_experiment_names_those_that_there_are(write):
    with pytest.raises(UserError, match=r"--experiment nope: .*was not found; there are busi128"):
        read_experiment("nope")
    with pytest.raises(UserError, match="an experiment's name is made of letters"):
        read_experiment(write(WHOLE, "my trial.yaml"))


@pytest.mark.parametrize("name", known_experiments())
def test_the_projects_own_experiments_are_sound_and_name_no_place_of_a_machine(name):
    experiment = read_experiment(name)
    assert not Path(experiment.data["base_dir"]).is_absolute()
    runs = experiment_runs(experiment, reproduce.SCRIPTS, Path("out"), {"base_dir": "x"})
    assert len(runs) == len(experiment.arms) * len(experiment.divisions) * len(experiment.seeds)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--divisions", "3"], "--divisions does not go with --experiment"),
        (["--img_size", "64"], "--img_size does not go with --experiment"),
        (["--Dataset", "BUS"], "--Dataset does not go with --experiment"),
        (["--unlabeled_dir", "more"], "--unlabeled_dir does not go with --experiment"),
        (["--epochs", "3"], "use --recon_epochs and --seg_epochs"),
        (["--budget", "0"], "--budget: must be a positive number of minutes, got 0.0"),
        (["--arms", "x"], "--arms x: .* has none, dpconv, batch, fast"),
        (["--only", "3"], "--only 3: .* has 1, 2"),
    ],
)
def test_flags_that_do_not_go_with_an_experiment(write, tmp_path, flags, message):
    with pytest.raises(UserError, match=message):
        reproduce.main(reproduce.settings(["--experiment", write(WHOLE), "--output_dir", str(tmp_path), *flags]))


def test_flags_of_an_experiment_require_one():
    with pytest.raises(UserError, match="--arms requires --experiment"):
        reproduce.settings(["--Dataset", "BUS", "--arms", "none"])
