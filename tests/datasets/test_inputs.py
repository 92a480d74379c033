from pathlib import Path

import pytest

from datasets.inputs import find_inputs
from utils.common.errors import UserError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    for name in ("a/x.png", "a/deep/x.PNG", "b/x.tif", "b/notes.txt", "c.weird"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(*inputs, **options):
    return [image.name for image in find_inputs(inputs, **options)]


def test_a_folder_gives_every_image_below_it_under_its_path(tree):
    assert names(".") == ["a/deep/x", "a/x", "b/x"]
    assert names(str(tree / "a")) == ["deep/x", "x"]
    assert [image.path for image in find_inputs(["b"])] == [(tree / "b/x.tif").relative_to(tree)]


@pytest.mark.usefixtures("tree")
def test_a_file_is_taken_whatever_its_extension():
    assert names("c.weird") == ["c.weird"]
    with pytest.raises(UserError, match=r"c.other was not found"):
        names("c.other")


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [("a/*.png", ["x"]), ("*/x.*", ["a/x", "b/x"]), ("a/**/x.*", ["deep/x", "x"]), ("c.*", ["c.weird"])],
)
def test_a_pattern_keeps_the_folders_after_its_first_wildcard(tree, pattern, expected):
    assert names(pattern) == expected
    assert names(str(tree / pattern)) == expected


def test_a_file_with_brackets_in_its_name_is_no_pattern(tree):
    (tree / "a[1].png").touch()
    assert names("a[1].png") == ["a[1]"]


def test_one_image_named_twice_is_one(tree):
    assert names("a", str(tree / "a"), "a/x.png") == ["deep/x", "x"]


def test_links_to_an_image_keep_their_names(tree):
    (tree / "a" / "y.png").symlink_to(tree / "a" / "x.png")
    (tree / "b" / "z.png").symlink_to(tree / "a" / "x.png")
    assert names("a") == ["deep/x", "x", "y"]
    assert names("a/x.png", "a/y.png", "b/z.png") == ["x", "y", "z"]


def test_two_images_of_one_name_are_refused(tree):
    with pytest.raises(UserError, match=r"a/x.png and b/x.tif would both be written as x"):
        names("a/x.png", "b/x.tif")


def test_results_are_no_inputs(tree):
    assert names(".", leave_out=tree / "a") == ["b/x"]
    assert names("a", leave_out=tree) == ["deep/x", "x"], "a folder of results above the inputs has no effect"
    assert names("*/x.*", leave_out=tree / "a") == ["b/x"]
    assert names("a/x.png", leave_out=tree / "a") == ["x"], "a file that is named is meant"


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize("nothing", ["*.jpg", "empty"])
def test_an_input_that_names_nothing_is_an_error(nothing):
    Path("empty").mkdir()
    with pytest.raises(UserError, match="no images found"):
        names(nothing)


def test_linked_folders_are_followed_once_and_dots_are_no_data(tree, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "y.png").touch()
    (elsewhere / "back").symlink_to(elsewhere)
    (tree / "a" / "linked").symlink_to(elsewhere)
    (tree / "a" / "deep" / "up").symlink_to(tree / "a")
    for name in (".hidden.png", "._x.png", ".ipynb_checkpoints/x.png", "deep/.cache/z.png"):
        (tree / "a" / name).parent.mkdir(exist_ok=True)
        (tree / "a" / name).touch()
    assert names("a") == ["deep/x", "linked/y", "x"]
    assert "._x" not in names("a/**/*.png")
    assert names("a/._x.png") == ["._x"], "a file that is named is meant"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("study [v1]/*.png", ["x"]),
        ("study [v1]/*/*.png", ["deep/y"]),
        ("{tree}/study [v1]/*.png", ["x"]),
        ("study [v1]/[x-z].png", ["x"]),
        ("study ?v1?/*.png", ["study [v1]/x"]),
        ("[ab]/x.*", ["a/x", "b/x"]),
    ],
)
def test_brackets_in_the_name_of_a_folder_are_no_wildcard(tree, pattern, expected):
    for name in ("study [v1]/x.png", "study [v1]/deep/y.png", "study v/x.png"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    assert names(pattern.format(tree=tree)) == expected
