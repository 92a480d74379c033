from __future__ import annotations

import pytest
import yaml

import evaluation
import train_recon
import train_seg
from utils.common.errors import UserError
from utils.networks.checkpoints import save_checkpoint
from utils.settings import config
from utils.settings.yaml_files import read_yaml


@pytest.fixture
def configuration(tmp_path, monkeypatch):
    """Writes a configuration that --Dataset mine finds."""
    monkeypatch.setattr(config, "CONFIGS", tmp_path)

    def write(text):
        (tmp_path / "mine.yaml").write_text(text)

    return write


def test_the_papers_protocol_needs_no_other_flag():
    for name, base_dir, epochs, batch_size in (
        ("BUS", "DataSet/bus", 300, 16),
        ("KBT2019", "DataSet/KBT2019", 500, 8),
    ):
        recon = train_recon.parser().settings(["--Dataset", name])
        seg = train_seg.parser().settings(["--Dataset", name])
        assert (recon.epochs, seg.epochs) == (100, epochs)
        for settings in (recon, seg):
            assert settings.base_dir == base_dir
            assert (settings.img_size, settings.batch_size, settings.base_lr) == (256, batch_size, 0.01)
            assert (settings.variant, settings.encoder_bn) == ("srs", "frozen")


def test_a_run_keeps_what_its_configuration_said_when_it_began(tmp_path, configuration, capsys):
    """configs/BUS.yaml had batches of 8 once. What is changed on the command line is another run, and refused later."""
    configuration("base_dir: x\nbatch_size: 16\nworkers: 1\ntrain_seg: {epochs: 9}\n")
    argv = ["--Dataset", "mine", "--output_dir", str(tmp_path / "run"), "--resume"]
    begun = vars(train_seg.parser().settings(argv)) | {
        "batch_size": 8,
        "epochs": 7,
        "workers": 4,
        "encoder_bn": "batch",
    }
    save_checkpoint(tmp_path / "run" / "seg" / "last.pth", {"phase": "seg", "settings": begun, "model": {}})
    settings = train_seg.settings(argv)
    assert (settings.batch_size, settings.epochs, settings.workers, settings.encoder_bn) == (8, 7, 1, "frozen")
    said = capsys.readouterr().out
    assert "the resumed run keeps its --batch_size 8; a new run would use 16" in said and "workers" not in said
    assert train_seg.settings([*argv, "--batch_size", "4"]).batch_size == 4
    assert train_seg.settings(argv[:-1]).batch_size == 16


@pytest.mark.parametrize("name", config.known_datasets())
def test_every_configuration_resolves(name):
    for script in (train_recon, train_seg):
        assert script.parser().settings(["--Dataset", name]).base_dir


def test_the_command_line_wins_over_the_configuration_over_the_defaults(configuration):
    configuration("base_dir: somewhere\nimg_size: 64\nbatch_size: 3\n")
    settings = train_seg.parser().settings(["--Dataset", "mine", "--batch_size", "5"])
    assert (settings.img_size, settings.batch_size, settings.base_lr) == (64, 5, 0.01)


def test_a_default_on_the_command_line_still_wins(configuration):
    configuration("base_dir: somewhere\nimg_size: 64\nfit_masks: true\n")
    settings = train_seg.parser().settings(["--Dataset", "mine", "--img_size", "256", "--no-fit_masks"])
    assert settings.img_size == 256 and settings.fit_masks is False


def test_recorded_settings_stand_between(configuration):
    configuration("base_dir: somewhere\nimg_size: 64\nbatch_size: 3\n")
    recorded = {"img_size": 128, "batch_size": 4}
    settings = train_seg.parser().settings(["--Dataset", "mine", "--batch_size", "5"], recorded)
    assert (settings.img_size, settings.batch_size) == (128, 5)


def test_a_section_is_for_its_script_alone(configuration):
    configuration("base_dir: x\ntrain_recon: {epochs: 7}\ntrain_seg: {epochs: 9}\n")
    assert train_recon.parser().settings(["--Dataset", "mine"]).epochs == 7
    assert train_seg.parser().settings(["--Dataset", "mine"]).epochs == 9


def test_config_takes_a_file_of_ones_own(tmp_path):
    (tmp_path / "own.yaml").write_text("base_dir: data/kidneys\nimg_size: 96\n")
    settings = train_seg.parser().settings(["--config", str(tmp_path / "own.yaml")])
    assert (settings.img_size, settings.Dataset) == (96, "kidneys")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("img_sise: 64", r"mine\.yaml.*unknown setting 'img_sise'"),
        ("img_size: big", r"mine\.yaml.*img_size.*big"),
        ("img_size: 0", r"mine\.yaml.*at least 16"),
        ("normalization: unit", r"mine\.yaml.*unit"),
        ("train_seg: {recon: 3}", r"mine\.yaml.*recon"),
        ("- a\n- b", r"mine\.yaml.*flag: value"),
        ("img_size: 64\nimg_size: 128", r"mine\.yaml.*'img_size' is given twice"),
        ("train_seg: {epochs: 1, epochs: 2}", r"mine\.yaml.*'epochs' is given twice"),
        ("img_size: 0100", r"mine\.yaml.*img_size.*0100"),
        ("img_size: 1_024", r"mine\.yaml.*img_size.*1_024"),
        ("base_lr: 1_0", r"mine\.yaml.*base_lr.*1_0"),
        ("mask_threshold: .nan", r"mine\.yaml.*mask_threshold.*nan"),
        ("seed: 1:30", r"mine\.yaml.*seed.*1:30"),
        ("seed: 0x10", r"mine\.yaml.*seed.*0x10"),
        ("? [x, y]\n: 1", r"mine\.yaml.*a key must be a word"),
        ("a: [", r"cannot read.*mine\.yaml"),
        ("a: " + 3000 * "[", r"cannot read.*mine\.yaml"),
        ("train_seg: 5", r"mine\.yaml: train_seg must be a section"),
        ("train_recon: [epochs]", r"mine\.yaml: train_recon must be a section"),
        ("train_seg: {help: true}", r"mine\.yaml: unknown setting 'help'"),
        ("train_seg: {config: other.yaml}", r"mine\.yaml: unknown setting 'config'"),
        ("train_seg: {Dataset: BUS}", r"mine\.yaml: unknown setting 'Dataset'"),
        ("output_dir: [p, q]", r"mine\.yaml: output_dir must be a single value, got \['p', 'q'\]"),
        ("train_seg: {recon_weights: {a: 1}}", r"mine\.yaml: recon_weights must be a single value"),
        ("recon_weights: x.pth", r"mine\.yaml.*'recon_weights'.*belong in its section"),
        ("output_dir: ''", r"mine\.yaml.*output_dir.*must not be empty"),
    ],
)
def test_faults_in_a_configuration_name_the_file(configuration, text, message):
    configuration(text)
    with pytest.raises(UserError, match=f"(?s){message}"):
        train_seg.parser().settings(["--Dataset", "mine"])


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--Dataset", "BUSS"], r"BUSS\.yaml.*BUS, BUSI"),
        (["--Dataset", "../pyproject"], "was not found"),
        ([], "no data given"),
        (["--base_dir", "x", "--epochs", "many"], "epochs"),
        (["--base_dir", "x", "--batch_size", "0"], "at least 1, got 0"),
        (["--base_dir", "x", "--img_size", "8"], "at least 16, got 8"),
        (["--base_dir", "x", "--seed", "-1"], "at least 0, got -1"),
        (["--base_dir", "x", "--seed", "5000000000"], "at most 4294967295, got 5000000000"),
        (["--base_dir", "x", "--threads", "10000000000"], "at most 1024"),
        (["--base_dir", "x", "--epochs", "1" * 30], "at most 2147483647"),
        (["--base_dir", "x", "--init_from", ""], "init_from: must not be empty"),
        (["--base_dir", "x", "--recon_weights", ""], "recon_weights: must not be empty"),
        (["--base_dir", "x", "--output_dir", ""], "output_dir: must not be empty"),
        (["--base_dir", ""], "base_dir: must not be empty"),
        (["--base_dir", "x", "--base_lr", "0"], "must be a positive number"),
        (["--base_dir", "x", "--base_lr", "nan"], "must be a number, got 'nan'"),
        (["--base_dir", "x", "--base_lr", "1_0"], "must be a number, got '1_0'"),
        (["--base_dir", "x", "--cache", "inf"], "must be a number, got 'inf'"),
        (["--base_dir", "x", "--mask_threshold", "nan"], "must be a number, got 'nan'"),
        (["--base_dir", "x", "--mask_threshold", "1e5"], "must be between 0 and 255.*got 1e5"),
        (["--base_dir", "x", "--mask_threshold", "-1"], "must be between 0 and 255.*got -1"),
        (["--base_dir", "x", "--img", "3"], "unrecognized"),
        (["--config", "nowhere.yaml"], r"nowhere\.yaml"),
    ],
)
def test_faults_on_the_command_line(argv, message):
    with pytest.raises(UserError, match=message):
        train_seg.parser().settings(argv)


def test_without_a_dataset_the_folder_names_the_run():
    settings = train_recon.parser().settings(["--base_dir", "data/kidneys"])
    assert config.output_dir(settings).as_posix() == "checkpoints/kidneys"


def test_help_shows_defaults(capsys):
    with pytest.raises(SystemExit) as caught:
        train_seg.parser().settings(["--help"])
    shown = capsys.readouterr().out
    assert caught.value.code == 0 and "default: 256" in shown and "None" not in shown


def test_a_repeated_flag_is_a_list_on_the_command_line_and_in_a_configuration(configuration):
    configuration("base_dir: x\ntrain_recon: {unlabeled_dir: [a b, c]}\n")
    parser = train_recon.parser()
    assert parser.settings(["--base_dir", "x"]).unlabeled_dir is None
    assert parser.settings(["--Dataset", "mine"]).unlabeled_dir == ["a b", "c"]
    assert parser.settings(["--Dataset", "mine", "--unlabeled_dir", "d"]).unlabeled_dir == ["d"]
    both = parser.settings(["--base_dir", "x", "--unlabeled_dir", "d", "--unlabeled_dir", "e"])
    assert both.unlabeled_dir == ["d", "e"]
    configuration("base_dir: x\ntrain_recon: {unlabeled_dir: a}\n")
    assert parser.settings(["--Dataset", "mine"]).unlabeled_dir == ["a"]


def test_a_list_for_a_flag_that_is_none_is_refused(configuration):
    configuration("base_dir: x\nimg_size: [64, 128]\n")
    with pytest.raises(UserError, match=r"img_size.*\[64, 128\]"):
        train_recon.parser().settings(["--Dataset", "mine"])


def test_crop_and_resize(tmp_path, configuration):
    configuration("base_dir: somewhere\ncrop: 64\nevaluation: {field: infrared, resize: back}\n")
    assert train_seg.parser().settings(["--Dataset", "mine"]).crop == 64
    settings = evaluation.parser().settings(["--Dataset", "mine"])
    assert (settings.field, settings.resize) == ("infrared", "back")
    assert config.trained_resize({"crop": 64}) == "keep"
    assert config.trained_resize({"crop": None}) == config.trained_resize({}) == "img_size"


def test_settings_as_flags():
    values = {"img_size": 64, "fit_masks": False, "sync_bn": True, "mask_suffix": None, "folder": ["a", "b c"]}
    flags = [flag for name, value in values.items() for flag in config.as_flags(name, value)]
    assert flags == ["--img_size=64", "--no-fit_masks", "--sync_bn", "--folder=a", "--folder=b c"]


def test_words_of_yaml_1_1_are_what_they_look_like(tmp_path, configuration):
    configuration("base_dir: x\namp: off\nfit_masks: yes\nsync_bn: false\nbase_lr: 1e-3\nmask_suffix: 2024-01-01")
    settings = train_seg.parser().settings(["--Dataset", "mine"])
    assert (settings.amp, settings.fit_masks, settings.sync_bn) == ("off", True, False)
    assert (settings.base_lr, settings.mask_suffix) == (0.001, "2024-01-01")


def test_the_configurations_mean_what_they_meant():
    for path in config.CONFIGS.glob("*.yaml"):
        assert read_yaml(path) == yaml.safe_load(path.read_text(encoding="utf-8")), path
