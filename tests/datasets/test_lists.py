import os

import pytest

from datasets.lists import read_list, write_list
from utils.common.errors import UserError


@pytest.mark.parametrize(
    ("data", "names"),
    [
        (b"a\nb\n", ["a", "b"]),
        (b"a\nb", ["a", "b"]),
        (b"\xef\xbb\xbfa\r\nb\r\n", ["a", "b"]),
        (b"a\rb\r", ["a", "b"]),
        (b"\n a \n\n\t\nbenign (4)  \n", ["a", "benign (4)"]),
        (b"a  b.png\n", ["a  b.png"]),
        ("é/世界\n".encode(), ["é/世界"]),
        ("a\u2028b\n".encode(), ["a\u2028b"]),
        (b"a\na\n", ["a", "a"]),
    ],
)
def test_reads_what_editors_write(tmp_path, data, names):
    path = tmp_path / "train.txt"
    path.write_bytes(data)
    assert read_list(path) == names


@pytest.mark.parametrize(
    ("data", "cause"),
    [
        (None, "was not found"),
        (b"", "empty"),
        (b"\xef\xbb\xbf \r\n\n", "empty"),
        (b"\x89PNG\r\n\x1a\n", "not a UTF-8 text file"),
        (b"a\0b\n", "not a UTF-8 text file"),
        ("a\nb\n".encode("utf-16"), "not a UTF-8 text file"),
        ("a\nb\n".encode("utf-16-le"), "not a UTF-8 text file"),
    ],
)
def test_refuses_and_names_the_file(tmp_path, data, cause):
    path = tmp_path / "train.txt"
    if data is not None:
        path.write_bytes(data)
    with pytest.raises(UserError, match=cause) as caught:
        read_list(path)
    assert str(path) in str(caught.value)


def test_refuses_a_folder(tmp_path):
    with pytest.raises(UserError, match="cannot be read"):
        read_list(tmp_path)


def test_refuses_a_pipe_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=r"pipe: a pipe or device\. A list is read several times"):
        read_list(tmp_path / "pipe")


def test_written_list_is_read_back(tmp_path):
    path = tmp_path / "val.txt"
    path.write_text("old")
    names = ["b", "a b", "é/c.png"]
    write_list(path, iter(names))
    assert path.read_bytes() == "b\na b\né/c.png\n".encode()
    assert read_list(path) == names
    assert [p.name for p in tmp_path.iterdir()] == ["val.txt"]


def test_a_first_name_that_begins_with_a_byte_order_mark_is_read_back(tmp_path):
    names = ["\ufeffa", "\ufeffb", "c"]
    write_list(tmp_path / "val.txt", names)
    assert read_list(tmp_path / "val.txt") == names


@pytest.mark.parametrize("name", ["", " a", "a\n", "a\nb", "a\rb"])
def test_write_refuses_names_that_are_no_line(tmp_path, name):
    path = tmp_path / "val.txt"
    with pytest.raises(UserError, match="cannot be a line"):
        write_list(path, ["ok", name])
    assert not path.exists()


def test_failed_write_keeps_the_old_list(tmp_path, monkeypatch):
    path = tmp_path / "val.txt"
    path.write_text("old\n")

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", fail)
    with pytest.raises(UserError, match="No space left"):
        write_list(path, ["new"])
    assert path.read_text() == "old\n"
    assert [p.name for p in tmp_path.iterdir()] == ["val.txt"]


def test_write_where_no_folder_can_be(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="cannot write"):
        write_list(tmp_path / "file" / "val.txt", ["a"])


def test_a_name_that_is_not_utf8_cannot_be_in_a_list(tmp_path):
    with pytest.raises(UserError, match="is not UTF-8 and cannot be in a list"):
        write_list(tmp_path / "train.txt", ["a", os.fsdecode(b"caf\xe9")])
