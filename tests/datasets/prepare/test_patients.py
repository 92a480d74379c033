"""prepare_data.py busbra and busuclm, on folders made as their pages and users say that the sets are."""

from __future__ import annotations

import numpy as np
import pytest
from raw_sets import picture, target, write

import prepare_data
from datasets.decode import read_mask
from datasets.lists import read_list
from utils.common.errors import UserError


def run(*argv):
    prepare_data.main(prepare_data.parser().parse_args([str(word) for word in argv]))


def names_in(out, *lists):
    return [name for part in lists for name in read_list(out / f"{part}.txt")]


@pytest.fixture
def busbra(tmp_path):
    """10 patients; the odd ones have two sides."""
    source = tmp_path / "BUSBRA"
    rows = []
    for patient in range(1, 11):
        for side in "lr" if patient % 2 else "l":
            write(source / "Images" / f"bus_{patient:04d}-{side}.png", picture(patient))
            write(source / "Masks" / f"mask_{patient:04d}-{side}.png", target(patient, 12 if side == "r" else patient))
            rows.append((f"bus_{patient:04d}-{side}", patient, patient % 5 + 1))
    for folds in (5, 10):
        lines = ["ID,Pathology,kFold"] + [f"{name},benign,{fold if folds == 5 else case}" for name, case, fold in rows]
        (source / f"{folds}-fold-cv.csv").write_text("\n".join(lines))
    data = ["ID,Case,Side", *(f"{name},{case},{name[-1]}" for name, case, _ in rows)]
    (source / "bus_data.csv").write_text("\n".join(data))
    return source


@pytest.mark.parametrize("folds", [5, 10])
def test_busbra(busbra, tmp_path, folds, capsys):
    out = tmp_path / "out"
    run("busbra", busbra, out, "--folds", folds)
    everyone = sorted(path.stem for path in (busbra / "Images").iterdir())
    assert sorted(names_in(out, *(f"val{k}" for k in range(1, folds + 1)))) == everyone
    for k in range(1, folds + 1):
        train, val = names_in(out, f"train{k}"), names_in(out, f"val{k}")
        assert sorted(train + val) == everyone
        assert not {name[:8] for name in train} & {name[:8] for name in val}
        assert {(int(name[4:8]) % 5 + 1 if folds == 5 else int(name[4:8])) for name in val} == {k}
    np.testing.assert_array_equal(read_mask([out / "masks" / "bus_0003-r.png"]) * 255, target(3, 12))
    assert (out / "images" / "bus_0004-l.png").read_bytes() == (busbra / "Images" / "bus_0004-l.png").read_bytes()
    assert "15 cases; train1.txt" in capsys.readouterr().out


BUSBRA_FAULTS = {
    "no table": (lambda s: (s / "5-fold-cv.csv").unlink(), r"5-fold-cv\.csv was not found in .*10-fold-cv\.csv"),
    "no masks": (lambda s: (s / "Masks").rename(s / "gt"), r"Masks was not found.*gt/"),
    "other columns": (lambda s: swap(s, "kFold", "part"), "one with the parts.*got ID, Pathology, part"),
    "image in two folds": (
        lambda s: swap(s, "bus_0004-l,", "bus_0004-l,benign,1\nbus_0004-l,"),
        r'1 problem.*\n  "bus_0004-l": listed twice in .*5-fold-cv\.csv\. Remove',
    ),
    "image of two patients": (
        lambda s: swap(s, "bus_0004-l,4", "bus_0004-l,7,l\nbus_0004-l,4", "bus_data.csv"),
        r'"bus_0004-l": listed twice in .*bus_data\.csv',
    ),
    "two tables": (
        lambda s: (s / "5-fold-cv (1).csv").write_bytes((s / "5-fold-cv.csv").read_bytes()),
        r"2 tables divide the cases into 5 folds: 5-fold-cv \(1\)\.csv, 5-fold-cv\.csv\. Keep one",
    ),
    "two columns of folds": (
        lambda s: swap(s, "Pathology,kFold", "Fold,kFold"),
        r"5-fold-cv\.csv: 2 columns divide the cases: Fold, kFold\. Keep one",
    ),
    "another table in Latin-1": (
        lambda s: (s / "notes.csv").write_bytes(b"Gr\xf6\xdfe\n1\n"),
        r"notes\.csv: not a UTF-8 text file\. Save it as UTF-8 text, or move it away",
    ),
    "another table with a long field": (
        lambda s: (s / "notes.csv").write_text("a,b\n1," + 140_000 * "x"),
        r"notes\.csv: the table cannot be read \(field larger than field limit \(131072\)\)\. Correct it, or move it",
    ),
    "image in no fold": (lambda s: swap(s, "bus_0004-l,", "bus_0044-l,"), r'"bus_0004-l": in no part of'),
    "patient in two": (
        lambda s: swap(s, "bus_0003-r,benign,4", "bus_0003-r,benign,5"),
        r'"3": the patient',
    ),
    "patient in two, by name": (
        lambda s: (swap(s, "bus_0003-r,benign,4", "bus_0003-r,benign,5"), (s / "bus_data.csv").unlink()),
        r'"bus_0003": the patient',
    ),
    "patient under two names": (
        lambda s: swap(s, "bus_0002-l,2,l", "bus_0002-l,1,l", "bus_data.csv"),
        r'"1": the patient .*2, 3',
    ),
    "a fold missing": (lambda s: swap(s, "benign,1", "benign,2"), "must contain 5 folds, got 4"),
    "mask missing": (lambda s: (s / "Masks" / "mask_0002-l.png").unlink(), r'"bus_0002-l\.png": no mask'),
}


def swap(source, old, new, name="5-fold-cv.csv"):
    table = source / name
    text = table.read_text()
    assert old in text
    table.write_text(text.replace(old, new))


@pytest.mark.parametrize("fault", BUSBRA_FAULTS)
def test_faults_of_busbra(busbra, tmp_path, fault):
    spoil, message = BUSBRA_FAULTS[fault]
    spoil(busbra)
    with pytest.raises(UserError, match=message):
        run("busbra", busbra, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture
def busuclm(tmp_path):
    """8 patients of 4 images: no lesion, a benign one (green), a malignant one (red), both."""
    source = tmp_path / "BUS-UCLM"
    for patient in range(8):
        for i, rows in enumerate([{}, {1: (0, 255, 0)}, {2: (0, 0, 255)}, {1: (0, 255, 0), 2: (0, 0, 255)}]):
            name = f"{chr(65 + patient) * 4}_{i:03d}.png"
            mask = np.zeros((20, 30, 3), np.uint8)  # BGR, as OpenCV writes
            for row, colour in rows.items():
                mask[row + patient] = colour
            write(source / "images" / name, picture(patient * 10 + i))
            write(source / "masks" / name, mask)
    (source / "INFO.csv").write_text("Image;Label\nAAAA_000.png;Normal\n")
    return source


def test_busuclm(busuclm, tmp_path):
    out = tmp_path / "out"
    run("busuclm", busuclm, out)
    assert len(list((out / "images").iterdir())) == 24  # without the normal ones
    np.testing.assert_array_equal(read_mask([out / "masks" / "CCCC_003.png"]) * 255, target(3, 4))
    for k in (1, 2, 3):
        train, val = names_in(out, f"train{k}"), names_in(out, f"val{k}")
        assert len(train + val) == 24 and len(val) in (6, 9)
        assert not {name[:4] for name in train} & {name[:4] for name in val}
    run("busuclm", busuclm, tmp_path / "all", "--normals")
    assert len(list((tmp_path / "all" / "images").iterdir())) == 32
    assert read_mask([tmp_path / "all" / "masks" / "AAAA_000.png"]).sum() == 0


def test_a_division_in_a_table_of_busuclm_is_taken(busuclm, tmp_path):
    parts = ["train"] * 5 + ["val", "Test", "Test"]
    rows = [f"{chr(65 + p) * 4}_{i:03d}.png;{parts[p]}" for p in range(8) for i in range(4)]
    table = busuclm / "INFO.csv"
    table.write_text("\n".join(["Image;Split", *rows]))
    run("busuclm", busuclm, tmp_path / "out")
    assert {name[:4] for name in names_in(tmp_path / "out", "test")} == {"GGGG", "HHHH"}
    assert {name[:4] for name in names_in(tmp_path / "out", "val")} == {"FFFF"}
    table.write_text(table.read_text().replace("AAAA_002.png;train", "AAAA_002.png;test"))
    with pytest.raises(UserError, match=r'"AAAA": the patient is in several parts: test\.txt, train\.txt'):
        run("busuclm", busuclm, tmp_path / "other")
    table.write_text(table.read_text().replace("AAAA_002.png;test", "AAAA_002.png;train").replace("val", "dev"))
    with pytest.raises(UserError, match="must be named train, val and test, got dev"):
        run("busuclm", busuclm, tmp_path / "other")


def test_an_ambiguous_division_of_busuclm_is_refused(busuclm, tmp_path):
    rows = [f"{chr(65 + p) * 4}_{i:03d}.png;train;1" for p in range(8) for i in range(4)]
    (busuclm / "INFO.csv").write_text("\n".join(["Image;Split;Fold", *rows]))
    with pytest.raises(UserError, match=r"INFO\.csv: 2 columns divide the cases: Split, Fold\. Keep one"):
        run("busuclm", busuclm, tmp_path / "out")
    (busuclm / "INFO.csv").write_text("\n".join(["Image;Split;Label", *rows, "BBBB_001.png;test;1"]))
    with pytest.raises(UserError, match=r'"BBBB_001": listed twice in .*INFO\.csv'):
        run("busuclm", busuclm, tmp_path / "out")
    (busuclm / "Copy.csv").write_bytes((busuclm / "INFO.csv").read_bytes())
    with pytest.raises(UserError, match=r"2 tables divide the cases: Copy\.csv, INFO\.csv\. Keep one"):
        run("busuclm", busuclm, tmp_path / "out")
    for part in ("train", "test"):
        write(busuclm / "partitions" / part / "images" / "CCCC_001.png", picture(1))
    with pytest.raises(UserError, match=r'"CCCC_001": in both train and test of .*partitions\. Remove'):
        run("busuclm", busuclm, tmp_path / "out")


def test_a_folder_named_like_a_table_is_not_one(busbra, tmp_path):
    (busbra / "old.csv").mkdir()
    run("busbra", busbra, tmp_path / "out")
    assert (tmp_path / "out" / "val5.txt").exists()


@pytest.mark.parametrize("inside", [True, False])
def test_the_authors_own_division_of_busuclm_is_taken(busuclm, tmp_path, inside):
    """As their script leaves it: partitions/train and partitions/test, each with images/ and masks/."""
    partitions = (busuclm if inside else busuclm.parent) / "partitions"
    for part, patients in (("train", "ABCDEF"), ("test", "GH")):
        for patient in patients:
            for i in range(4 if patient != "A" else 3):
                write(partitions / part / "images" / f"{patient * 4}_{i:03d}.png", picture(1))
    run("busuclm", busuclm, tmp_path / "out")
    assert {name[:4] for name in names_in(tmp_path / "out", "test")} == {"GGGG", "HHHH"}
    train = names_in(tmp_path / "out", "train")
    assert len(train) == 3 * 6 - 1 and "AAAA_003" not in train, "in no part, hence in no list"
    write(partitions / "test" / "images" / "AAAA_003.png", picture(1))
    with pytest.raises(UserError, match=r'"AAAA": the patient is in several parts: test\.txt, train\.txt'):
        run("busuclm", busuclm, tmp_path / "other")


def test_images_of_busuclm_that_were_cut_are_left_out_and_named(busuclm, tmp_path, capsys):
    for name in ("BBBB_001", "BBBB_000"):
        write(busuclm / "images" / f"{name}.png", picture(1)[:, :22])
    run("busuclm", busuclm, tmp_path / "out")
    assert "1 images skipped, because their masks have another size: BBBB_001" in capsys.readouterr().out
    assert len(list((tmp_path / "out" / "images").iterdir())) == 23
    run("busuclm", busuclm, tmp_path / "all", "--normals")
    assert "2 images skipped" in capsys.readouterr().out
