"""Compiled libraries are loaded whole or not at all, and compiled again where they are not."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from pathlib import Path

import pytest

from models.fast.native import store
from models.fast.native.store import load_or_compile, user_cache


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The bytes of a small library."""
    folder = tmp_path_factory.mktemp("library")
    (folder / "one.c").write_text("int one() { return 1; }")
    try:
        subprocess.run(["gcc", "-shared", "-fPIC", "-o", "one.so", "one.c"], check=True, cwd=folder)
    except (OSError, subprocess.SubprocessError):
        pytest.skip("no C compiler is here")
    return (folder / "one.so").read_bytes()


@pytest.fixture
def kept(tmp_path, monkeypatch, whole):
    """The folder in the checkout, and a compiler that counts its calls."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    class Kept:
        folder = tmp_path / "__pycache__"
        calls = 0

        def load(self):
            library = load_or_compile("one-key", self.folder, self.compile)
            assert library.one() == 1
            return library

        def compile(self, path):
            self.calls += 1
            path.write_bytes(whole)

        def files(self, folder=None):
            return list((folder or self.folder).iterdir())

    return Kept()


def test_it_is_compiled_once_and_on_the_disk_before_it_has_its_name(kept, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (events.append("fsync"), fsync(number)))
    monkeypatch.setattr(Path, "replace", lambda *paths: (events.append("replace"), replace(*paths)))
    for _ in range(3):
        kept.load()
    assert kept.calls == 1 and events == ["fsync", "replace"]
    (path,) = kept.files()
    assert path.name.startswith("one-key-") and path.suffix == ".so"


def replaced(path, data):
    """Not the same file, which this process has loaded, and would die of."""
    other = path.with_suffix(".other")
    other.write_bytes(data)
    other.replace(path)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path, whole: replaced(path, whole[: len(whole) // 2]),
        lambda path, whole: replaced(path, b""),
        lambda path, whole: replaced(path, bytes(len(whole))),
        lambda path, whole: replaced(path, whole[:5000] + b"\1" + whole[5001:]),
        lambda path, whole: replaced(path, whole + b"\0"),
        lambda path, whole: path.rename(path.with_name("one-key-0123.so")),
    ],
    ids=["half", "empty", "zeros", "one byte", "longer", "another hash"],
)
def test_what_is_not_whole_is_never_loaded_and_compiled_again(kept, whole, damage):
    kept.load()
    (path,) = kept.files()
    damage(path, whole)
    kept.load()
    assert kept.calls == 2 and kept.files() == [path] and path.read_bytes() == whole
    kept.load()
    assert kept.calls == 2


def test_what_is_whole_and_does_not_load_is_compiled_again(kept):
    kept.folder.mkdir()
    library = kept.folder / "x.so"
    library.write_bytes(b"no library")
    library.rename(store._named("one-key", library))
    kept.load()
    assert kept.calls == 1 and len(kept.files()) == 1


def test_what_a_killed_compiler_has_left_is_removed_when_it_is_old(kept):
    for name, age in (("old", 2 * store.ABANDONED), ("new", 0)):
        scratch = kept.folder / f"{store.SCRATCH}{name}"
        scratch.mkdir(parents=True)
        (scratch / "half.so").write_bytes(b"half")
        os.utime(scratch, (time.time() - age,) * 2)
    (kept.folder / "module.cpython-311.pyc").touch()
    kept.load()
    assert sorted(path.name for path in kept.files() if path.suffix != ".so") == [
        ".compiling-new",
        "module.cpython-311.pyc",
    ]


def test_a_checkout_that_cannot_be_written_to_leaves_it_to_the_users_cache(kept, tmp_path):
    kept.folder.touch()  # no folder can be made there; root may write to all others
    for _ in range(2):
        kept.load()
    cache = tmp_path / "cache" / "srs-dpconv"
    assert kept.calls == 1 and len(kept.files(cache)) == 1
    assert cache.stat().st_mode & 0o777 == 0o700


def test_a_folder_whose_programs_cannot_be_run_leaves_it_to_the_users_cache(kept, tmp_path, monkeypatch):
    load = ctypes.CDLL

    def refused(path):
        if path.startswith(str(kept.folder)):
            raise OSError("failed to map segment from shared object")
        return load(path)

    monkeypatch.setattr(ctypes, "CDLL", refused)
    kept.load()
    calls = kept.calls
    kept.load()
    assert kept.calls == calls and len(kept.files(tmp_path / "cache" / "srs-dpconv")) == 1


def unsafe(kind, cache, monkeypatch):
    if kind == "others may write":
        cache.mkdir(parents=True)
        cache.chmod(0o777)
    elif kind == "others may read":
        cache.mkdir(parents=True)
        cache.chmod(0o755)
    elif kind == "a link":
        (cache.parent.parent / "elsewhere").mkdir(mode=0o700)
        cache.parent.mkdir()
        cache.symlink_to(cache.parent.parent / "elsewhere")
    elif kind == "a file":
        cache.parent.mkdir()
        cache.touch()
    elif kind == "another's":
        cache.mkdir(parents=True, mode=0o700)
        monkeypatch.setattr(os, "getuid", lambda: 12345)


@pytest.mark.parametrize("kind", ["others may write", "others may read", "a link", "a file", "another's"])
def test_a_cache_that_others_may_have_written_to_is_not_used(kept, tmp_path, monkeypatch, kind):
    kept.folder.touch()
    unsafe(kind, tmp_path / "cache" / "srs-dpconv", monkeypatch)
    assert list(user_cache()) == []
    for _ in range(2):
        kept.load()  # from a folder of this process alone
    assert kept.calls == 2


def test_without_a_home_there_is_no_cache(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setattr(store.Path, "home", lambda: (_ for _ in ()).throw(RuntimeError))
    assert list(user_cache()) == []
