"""The descriptions of known sets, and the CSV files made from those at hand."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from calib_data import known_set
from calib_data.__main__ import main
from calib_data.known_set import KnownSetError, names, read
from calib_data.rows import labelled_rows
from taco.task import list_pictures

ROOT = Path(__file__).parent.parent
has_cells = pytest.mark.skipif(
    importlib.util.find_spec("elpv_dataset") is None, reason="elpv-dataset (the demo extra) is not installed"
)


def touch(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


# --- descriptions --------------------------------------------------------------------------------------------------


def test_the_five_sets_are_known() -> None:
    assert names() == ("animals", "caltech-camera-traps", "ena24", "imagenette", "solar-cells")


@pytest.mark.parametrize("name", names())
def test_every_description_is_complete(name: str) -> None:
    known = read(name)
    assert known.licence.sentence.startswith("Licence: ")
    assert known.title
    assert known.get.endswith(".")
    assert len({entry.name for entry in known.classes}) == len(known.classes)


def test_imagenette_folders_are_the_synsets_of_its_classes() -> None:
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    synsets = info.label_names()
    for entry in read("imagenette").classes:
        description = info.index_to_description(synsets.index(entry.folder))
        assert entry.name in description


@dataclass(frozen=True)
class BadToml:
    id: str
    text: str


TOP = 'title="t"\nsummary="s"\n[get]\nhow="h"\n'
LICENCE = '[licence]\nname="n"\nurl=""\nsentence="s"\n'


@pytest.mark.parametrize(
    "case",
    [
        BadToml("not toml", "title ="),
        BadToml("no licence", f'{TOP}[load]\nkind="image-folder"'),
        BadToml("unknown kind", f'{TOP}{LICENCE}[load]\nkind="zip"'),
        BadToml("unknown field", f'{TOP}{LICENCE}[load]\nkind="image-folder"\ncolour=1'),
    ],
    ids=lambda c: c.id,
)
def test_bad_description_is_told(case: BadToml, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "odd.toml").write_text(case.text)
    monkeypatch.setattr(known_set, "FOLDER", tmp_path)
    with pytest.raises(KnownSetError, match=r"odd\.toml does not describe a set"):
        read("odd")


# --- sets that are at hand -----------------------------------------------------------------------------------------


@has_cells
def test_solar_cells_become_a_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "new" / "cells.csv"
    assert main(["csv", "solar-cells", "--out", str(out)]) == 0
    rows = rows_of(out)
    assert Counter(row["label"] for row in rows) == {"good": 1803, "defective": 821}
    assert Path(rows[0]["path"]).is_absolute()
    listing = list_pictures(out)
    assert len(listing.pictures) == 2624
    assert all(p.path.is_file() for p in listing.pictures)
    printed = capsys.readouterr().out
    assert "2,624 pictures" in printed
    assert "not for commercial use" in printed
    assert os.listdir(out.parent) == ["cells.csv"]  # noqa: PTH208


def fake_package(root: Path, table: str, monkeypatch: pytest.MonkeyPatch) -> None:
    touch(root / "elpv_dataset" / "__init__.py")
    touch(root / "elpv_dataset" / "data" / "labels.csv").write_text(table)
    monkeypatch.syspath_prepend(str(root))
    monkeypatch.delitem(sys.modules, "elpv_dataset", raising=False)


def test_threshold_belongs_to_the_upper_class(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path, "images/b.png  0.5   mono\nimages/a.png 0.4999 poly\n", monkeypatch)
    images = tmp_path / "elpv_dataset/data/images"
    assert labelled_rows(read("solar-cells"), None) == [(images / "a.png", "good"), (images / "b.png", "defective")]


@pytest.mark.parametrize("line", ["images/b.png", "images/b.png high mono", ""])
def test_damaged_package_table_is_told(line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_package(tmp_path, f"images/a.png 0.0 mono\n{line}\n", monkeypatch)
    with pytest.raises(KnownSetError, match="line 2 is not as expected"):
        labelled_rows(read("solar-cells"), None)


def test_imagenette_folders_get_their_names(tmp_path: Path) -> None:
    for inner in ("train/n01440764/1.JPEG", "train/n03888257/2.JPEG", "train/n99999999/3.JPEG", "val/n01440764/4.JPEG"):
        touch(tmp_path / inner)
    expected = [(tmp_path / "train/n01440764/1.JPEG", "tench"), (tmp_path / "train/n03888257/2.JPEG", "parachute")]
    assert labelled_rows(read("imagenette"), tmp_path) == expected
    assert labelled_rows(read("imagenette"), tmp_path / "train") == expected


def test_own_folder_keeps_its_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("fox", "hare"):
        touch(tmp_path / "photos" / name / "1.jpg")
    assert main(["csv", "animals", "--folder", str(tmp_path / "photos"), "--out", str(tmp_path / "a.csv")]) == 0
    assert [row["label"] for row in rows_of(tmp_path / "a.csv")] == ["fox", "hare"]
    assert "only pictures that you have the right to use" in capsys.readouterr().out


COCO = {
    "images": [{"id": n, "file_name": f"{n}.jpg"} for n in range(5)],
    "categories": [{"id": 1, "name": "Dog"}, {"id": 2, "name": "Bird"}],
    "annotations": [
        *[{"image_id": 0, "category_id": 1}] * 2,  # two dogs are one label
        {"image_id": 1, "category_id": 2},
        *[{"image_id": 2, "category_id": n} for n in (1, 2)],  # two labels
        {"image_id": 3, "category_id": 1},  # taken out of the set
    ],
}


def test_coco_camera_traps_gives_pictures_of_one_class(tmp_path: Path) -> None:
    for number in (0, 1, 2, 4):
        touch(tmp_path / f"{number}.jpg")
    (tmp_path / "meta.json").write_text(json.dumps(COCO))
    assert labelled_rows(read("ena24"), tmp_path) == [(tmp_path / "0.jpg", "Dog"), (tmp_path / "1.jpg", "Bird")]


# --- sets that are not ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class NotAtHand:
    id: str
    name: str
    says: str
    make: Callable[[Path], Path | None] = lambda root: root


def with_json(text: str) -> Callable[[Path], Path]:
    return lambda root: (root / "m.json").write_text(text) and root


@pytest.mark.parametrize(
    "case",
    [
        NotAtHand(
            "no folder",
            "ena24",
            "has to be given a folder. Download .*lila.science.*Then add --folder DIR",
            lambda _: None,
        ),
        NotAtHand("absent folder", "imagenette", "is not a folder", lambda root: root / "no"),
        NotAtHand("wrong folder", "imagenette", "has none of the folders n01440764"),
        NotAtHand("empty folder", "animals", "is empty. Put your pictures into folders"),
        NotAtHand("no metadata", "ena24", "holds 0 .json files"),
        NotAtHand("not json", "ena24", "is not COCO Camera Traps metadata", with_json("{")),
        NotAtHand("other json", "ena24", "is not COCO Camera Traps metadata", with_json("[]")),
        NotAtHand("no pictures", "caltech-camera-traps", "none of the pictures", with_json(json.dumps(COCO))),
        NotAtHand("package with folder", "solar-cells", "comes as a Python package"),
        NotAtHand("typing error", "solar-cell", "Did you mean solar-cells?"),
        NotAtHand("unknown", "qqq", "There are animals, caltech"),
    ],
    ids=lambda c: c.id,
)
def test_what_is_missing_is_told_with_exit_code_2(
    case: NotAtHand, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = case.make(tmp_path)
    out = tmp_path / "out.csv"
    assert main(["csv", case.name, "--out", str(out), *(["--folder", str(folder)] if folder else [])]) == 2
    assert re.search(case.says, capsys.readouterr().err)
    assert not out.exists()


def test_missing_package_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(KnownSetError, match=r"elpv-dataset==1\.0\.0\.post1 is not installed\. Run `pip install"):
        labelled_rows(read("solar-cells"), None)


def test_unwritable_output_leaves_nothing_half_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("fox", "hare"):
        touch(tmp_path / "photos" / name / "1.jpg")
    target = tmp_path / "out.csv"
    target.mkdir()
    assert main(["csv", "animals", "--folder", str(tmp_path / "photos"), "--out", str(target)]) == 2
    assert "cannot write" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.csv", "photos"]


# --- the command ---------------------------------------------------------------------------------------------------


def test_list_and_show(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(names())
    assert main(["show", "solar-cells"]) == 0
    shown = capsys.readouterr().out
    for part in ("2,624", "CC BY-NC-SA 4.0", "defect probability below 0.5", "Deitsch", "pip install"):
        assert part in shown
    assert main(["show", "animals"]) == 0
    assert "--folder DIR" in capsys.readouterr().out


def test_runs_from_a_checkout_without_torch() -> None:
    code = "import sys, runpy; sys.argv[1:] = ['list']\ntry: runpy.run_module('calib_data', run_name='__main__')\n"
    code += "except SystemExit as end: sys.exit(end.code or int('torch' in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "solar-cells" in done.stdout


@pytest.mark.skipif(
    not Path(os.environ.get("TACO_TEST_DATA", ROOT / "../shared/data"), "camera_traps/zamba_assets").is_dir(),
    reason="no real pictures",
)
def test_real_coco_metadata(tmp_path: Path) -> None:
    source = Path(os.environ.get("TACO_TEST_DATA", ROOT / "../shared/data"), "camera_traps/zamba_assets/ena24_small")
    (tmp_path / "ena24.json").write_bytes((source / "coco_annotations.json").read_bytes())
    for path in source.glob("*.jpg"):
        (tmp_path / path.name).symlink_to(path)
    categories = {entry["name"] for entry in json.loads((tmp_path / "ena24.json").read_bytes())["categories"]}
    rows = labelled_rows(read("ena24"), tmp_path)
    assert len(rows) > 1
    assert {label for _, label in rows} == categories
