"""Terminals, pipes and paths as they are elsewhere: each works, or is one line that says what to do."""

from __future__ import annotations

import io
import os
import shlex
import sys
import time
from pathlib import Path

import pytest
import waiting

import _this_folder
from utils.common import progress
from utils.common.printable import one_line, printable
from utils.common.processes import say
from utils.common.progress import Progress
from utils.common.script import run_script
from utils.settings import arguments, config

ROOT = Path(__file__).resolve().parents[1]
ENCODINGS = [
    {"PYTHONIOENCODING": "cp1252"},
    {"PYTHONIOENCODING": "latin-1"},
    {"PYTHONUTF8": "0", "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"},
    {"PYTHONUTF8": "0", "LC_ALL": "C.UTF-8"},
    {"PYTHONIOENCODING": "ascii"},
]


def script(*words, folder=ROOT, flags=(), **environment):
    """A script as a user runs it; bytes, as the terminal gets them."""
    command = [sys.executable, *flags, str(ROOT / words[0]), *map(str, words[1:])]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return waiting.run(command, text=False, cwd=folder, env={**clean, **environment})


@pytest.mark.parametrize("environment", ENCODINGS, ids=lambda each: " ".join(each.values()))
def test_a_terminal_that_is_not_utf8_is_printed_to_and_lists_are_utf8_there(tmp_path, environment):
    for name in ("images", "masks"):
        (tmp_path / "dätä" / name).mkdir(parents=True)
    (tmp_path / "dätä" / "images" / "日本 é.png").touch()
    (tmp_path / "dätä" / "train.txt").write_text("日本 é\n", encoding="utf-8")
    done = script("prepare_data.py", "check", tmp_path / "dätä", "--lists", "train.txt", **environment)
    assert done.returncode in (1, 2) and b"Traceback" not in done.stderr, done.stderr
    printed = done.stdout + done.stderr
    # Found, and without a mask; the name is shown as far as the terminal can.
    assert b"image not found" not in printed and b"no mask in" in printed


def test_help_comes_on_every_terminal():
    for environment in ENCODINGS:
        assert script("train_seg.py", "--help", **environment).returncode == 0


def test_a_reader_that_has_read_enough_ends_a_script_quietly():
    for name in ("train_seg.py", "evaluation.py"):
        command = f"{sys.executable} {ROOT / name} --help | head -1; echo ${{PIPESTATUS[0]}}"
        done = waiting.run(["bash", "-c", command])
        assert done.stderr == "" and done.stdout.splitlines()[-1] in ("0", "141")
    lines = "from utils.common.processes import say\nfor _ in range(1000): say('x' * 1000)"
    code = f"from utils.common.script import run_script; run_script(lambda _: exec({lines!r}), lambda: None)"
    command = f"{sys.executable} -c {shlex.quote(code)} | head -1; echo ${{PIPESTATUS[0]}}"
    done = waiting.run(["bash", "-c", f"cd {ROOT}; {command}"])
    assert done.stderr == "" and done.stdout.splitlines()[-1] == "141"


def test_a_broken_pipe_to_another_process_is_no_reader_that_has_gone():
    with pytest.raises(BrokenPipeError):
        run_script(lambda _: (_ for _ in ()).throw(BrokenPipeError("a worker")), lambda: None)


@pytest.fixture
def others(tmp_path):
    """A folder with packages of the project's names."""
    for name in ("utils", "datasets", "models"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("other = True\n")
    return tmp_path


@pytest.mark.parametrize("flags", [(), ("-P",), ("-I",)])
@pytest.mark.parametrize("name", ["train_recon.py", "prepare_data.py", "benchmark.py"])
def test_packages_of_the_same_names_on_the_path_are_not_taken(others, flags, name):
    if flags == ("-P",) and sys.version_info < (3, 11):
        pytest.skip("Python 3.11 came with -P")
    done = script(name, "--help", folder=others, flags=flags, PYTHONPATH=str(others))
    assert done.returncode == 0, done.stderr


def test_a_package_of_that_name_that_was_imported_before_is_named(others):
    (others / "sitecustomize.py").write_text("import datasets\n")
    done = script("train_recon.py", "--help", folder=others, PYTHONPATH=str(others))
    assert done.returncode == 1 and done.stdout == b""
    (line,) = done.stderr.decode().splitlines()
    assert line.startswith(f"error: datasets ({others / 'datasets'}) was imported before") and str(ROOT) in line
    code = f"import datasets, sys; sys.path.insert(0, {str(ROOT)!r}); import evaluation"
    done = waiting.run([sys.executable, "-c", code], cwd=others)
    assert done.stderr.splitlines()[-1].startswith("ImportError: datasets (")
    assert _this_folder.foreign_modules() == []


INTERRUPTED = """
import os, runpy, signal, sys
from importlib.abc import MetaPathFinder
script, at, *sys.argv[1:] = sys.argv[1:]
sys.argv[0] = script
class Interrupts(MetaPathFinder):
    def find_spec(self, name, *_):
        if name == at:
            os.kill(os.getpid(), signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
sys.meta_path.insert(0, Interrupts())
if at == "signal":
    del sys.modules["signal"]
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.parametrize(
    ("at", "code", "said"),
    [
        ("signal", 130, ""),  # what turns Ctrl-C quiet needs it
        ("datasets", -2, ""),
        ("utils.common.script", -2, ""),
        ("models", -2, ""),
        ("torch", 130, "interrupted\n"),
        ("numpy", 130, "interrupted\n"),
    ],
)
def test_ctrl_c_during_the_imports_is_quiet(tmp_path, at, code, said):
    for name in ("images", "masks"):
        (tmp_path / name).mkdir()
    for name in ("train.txt", "val.txt"):
        (tmp_path / name).write_text("a\n")
    words = [str(ROOT / "train_recon.py"), at, "--base_dir", str(tmp_path), "--output_dir", str(tmp_path)]
    done = waiting.run([sys.executable, "-c", INTERRUPTED, *words])
    assert (done.returncode, done.stderr) == (code, said)


@pytest.mark.parametrize("name", sorted(path.name for path in ROOT.glob("[!_]*.py")))
def test_ctrl_c_at_the_first_import_of_a_script_is_quiet(name):
    done = waiting.run([sys.executable, "-c", INTERRUPTED, str(ROOT / name), "argparse", "--help"])
    assert (done.returncode, done.stdout, done.stderr) == (-2, "", "")


def test_home_is_written_as_a_shell_has_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "own.yaml").write_text('base_dir: ~/data\noutput_dir: "~"\ntrain_file_dir: ~/lists/train.txt\n')
    parser = config.ScriptParser("train_seg", "")
    arguments.add_shared_arguments(parser, epochs=1)
    settings = parser.settings(["--config=~/own.yaml", "--init_from=~/best.pth", "--val_file_dir", "a~b/~"])
    assert settings.base_dir == str(tmp_path / "data") and settings.output_dir == str(tmp_path)
    assert settings.train_file_dir == str(tmp_path / "lists/train.txt") and settings.val_file_dir == "a~b/~"
    assert settings.init_from == str(tmp_path / "best.pth")
    assert arguments.path("~nobody-of-that-name/x") == "~nobody-of-that-name/x" and arguments.path("./~") == "./~"


RESOURCES = [
    (RuntimeError("DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that ..."), "--shm-size"),
    (RuntimeError("unable to write to file </torch_1_2_3>: No space left on device (28)"), "--workers 0"),
    (RuntimeError("unable to allocate shared memory(shm) for file </torch_1>: Success (0)"), "--workers 0"),
    (OSError(24, "Too many open files"), "ulimit -n"),
    (RuntimeError("received 0 items of ancdata"), "ulimit -n"),
]


@pytest.mark.parametrize(("error", "advice"), RESOURCES)
def test_what_workers_run_out_of_is_one_line_with_what_helps(capsys, error, advice):
    with pytest.raises(SystemExit) as ended:
        run_script(lambda _: (_ for _ in ()).throw(error), lambda: None)
    printed = capsys.readouterr().err
    assert ended.value.code == 2 and advice in printed and printed.count("\n") == 1


def test_files_may_be_open_as_far_as_the_system_allows():
    code = "import resource; from utils.common.script import run_script; run_script(lambda _: print(resource.getrlimit("
    code += "resource.RLIMIT_NOFILE)[0]), lambda: None)"
    for limits, expected in (("ulimit -Sn 64; ulimit -Hn 2000", "2000"), ("ulimit -Sn 64; ulimit -Hn 256", "256")):
        command = ["bash", "-c", f"{limits}; cd {ROOT}; {sys.executable} -c '{code}'"]
        assert waiting.run(command).stdout.strip() == expected


def test_control_characters_in_names_are_escaped(capsys):
    name = "a\x1b[2Jb\rc\x07\x9b\u202egpj.\x7f\u2028"
    shown = r"a\x1b[2Jb\rc\x07\x9b\u202egpj.\x7f\u2028"
    say(f"{name}\n\té 日")
    assert capsys.readouterr().out == f"{shown}\n\té 日\n"
    assert one_line("a\n\tb") == r"a\n\tb" and printable("plain – é") == "plain – é"


def test_control_characters_in_errors_are_escaped(tmp_path):
    done = script("predict.py", tmp_path / "\x1b]0;title\x07.png", "--output", tmp_path, "--weights", "x")
    assert done.returncode == 2 and b"\x1b" not in done.stderr and rb"\x1b]0;title\x07.png was not found" in done.stderr


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_progress_is_a_bar_on_a_terminal_and_a_line_now_and_then_elsewhere(monkeypatch):
    monkeypatch.setattr(progress, "EVERY", 0.05)
    terminal, log = Terminal(), io.StringIO()
    for file in (terminal, log):
        for _ in Progress(range(8), desc="look\x1bing", unit="img", leave=False, file=file, mininterval=0):
            time.sleep(0.02)
    assert "\r" in terminal.getvalue()
    lines = log.getvalue().splitlines()
    assert 1 <= len(lines) <= 4 and all("\r" not in line and r"look\x1bing: " in line for line in lines)
    assert " of 8 img, 00:00" in lines[0]


def test_what_is_done_soon_prints_nothing_without_a_terminal(capsys):
    with Progress(total=3, desc="soon") as bar:
        bar.update()
        bar.set_postfix({"loss": 1})
        Progress.write("a line")
    for _ in Progress(iter(range(3)), desc="without a length"):
        pass
    printed = capsys.readouterr()
    assert printed.out == "a line\n" and printed.err == ""
