"""Listing labelled pictures. Nothing is decoded here, so a file of any bytes is a picture."""

from __future__ import annotations

import json
import os
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import folder, touch
from hypothesis import given
from hypothesis import strategies as st

from taco.errors import TaskError
from taco.pictures.listing import Listing
from taco.task import ListOptions, list_pictures


def names(listing: Listing) -> list[tuple[str, str]]:
    return [(p.path.name, listing.classes[p.label_index]) for p in listing.pictures]


# --- folders -------------------------------------------------------------------------------------------------------


def test_folder_is_listed_recursively_in_order(tmp_path: Path) -> None:
    root = tmp_path / "site"
    for name in ("hare/b.JPG", "hare/deep/er/a.webp", "fox/2.TIFF", "fox/1.png", "fox/notes.txt", "fox/Thumbs.db"):
        touch(root / name)
    for hidden in (".git/x.jpg", "fox/.trash/x.jpg", "fox/._1.png"):
        touch(root / hidden)
    listing = list_pictures(root)
    assert listing.name == "site"
    assert listing.classes == ("fox", "hare")
    assert names(listing) == [("1.png", "fox"), ("2.TIFF", "fox"), ("b.JPG", "hare"), ("a.webp", "hare")]
    assert all(p.path.is_absolute() for p in listing.pictures)
    assert listing.warnings == ()


def test_asked_classes_keep_their_order_and_leave_others_out(tmp_path: Path) -> None:
    listing = list_pictures(folder(tmp_path, fox=2, hare=2, owl=2), ListOptions(["owl", "fox"]))
    assert listing.classes == ("owl", "fox")
    assert {label for _, label in names(listing)} == {"owl", "fox"}


def test_pictures_beside_the_class_folders_are_reported(tmp_path: Path) -> None:
    touch(folder(tmp_path, fox=2, hare=2) / "stray.jpg")
    assert list_pictures(tmp_path).warnings == (f"1 pictures beside the class folders of {tmp_path.name} are not used",)


def test_pictures_of_kinds_that_are_not_read_are_told(tmp_path: Path) -> None:
    root = folder(tmp_path / "site", fox=2, hare=2)
    for name in ("fox/a.heic", "fox/B.NEF", "hare/deep/c.heic", "hare/._d.heic", "fox/000.CR2"):
        touch(root / name)
    listing = list_pictures(root)
    assert [(s.path.name, s.reason) for s in listing.skipped] == [
        ("a.heic", ".heic pictures are not read: convert it to JPEG"),
        ("B.NEF", ".nef pictures are not read: convert it to JPEG"),
        ("c.heic", ".heic pictures are not read: convert it to JPEG"),
    ], "a raw file beside its JPEG is not missed"
    told = "pictures of kinds that are not read are left out (2 .heic, 1 .nef): convert them to JPEG"
    assert listing.warnings == (told,)
    touch(root / "owl/a.avif")
    with pytest.raises(TaskError, match=r"owl holds no picture .*left out \(1 \.avif\): convert them to JPEG"):
        list_pictures(root)


def test_every_name_of_a_jpeg_is_a_picture(tmp_path: Path) -> None:
    for name in ("fox/a.jfif", "fox/b.JPE", "hare/c.jpeg", "hare/d.jpg"):
        touch(tmp_path / name)
    assert len(list_pictures(tmp_path).pictures) == 4


def test_an_accent_may_be_one_character_or_two(tmp_path: Path) -> None:
    one, two = (unicodedata.normalize(form, "pékan") for form in ("NFC", "NFD"))
    assert one != two
    for name in (two, "hare"):
        touch(tmp_path / f"mac/{name}/{name}.jpg")
    (tmp_path / "t.csv").write_text(f"path,label\n{one}/{one}.jpg,{one}\n{two}/{two}.jpg,{two}\nhare/hare.jpg,hare\n")
    for source, options in (
        (tmp_path / "mac", ListOptions(classes=["hare", one])),
        (tmp_path / "mac", ListOptions(classes=["hare", two])),
        (tmp_path / "t.csv", ListOptions(images=tmp_path / "mac")),
    ):
        listing = list_pictures(source, options)
        assert set(listing.classes) == {"hare", one}
        assert {p.path for p in listing.pictures} == {tmp_path / f"mac/{n}/{n}.jpg" for n in (two, "hare")}


def test_link_loops_end_and_links_are_followed(tmp_path: Path) -> None:
    root = folder(tmp_path / "site", fox=2, hare=2)
    elsewhere = folder(tmp_path, elsewhere=1) / "elsewhere"
    (root / "fox/loop").symlink_to(root / "fox", target_is_directory=True)
    (root / "hare/more").symlink_to(elsewhere, target_is_directory=True)
    (root / "fox/self.jpg").symlink_to(root / "fox/self.jpg")
    for name, above in (("fox/up", root), ("hare/far", tmp_path), ("again", root), ("above", tmp_path)):
        (root / name).symlink_to(above, target_is_directory=True)
    listing = list_pictures(root)
    assert [n for n, label in names(listing) if label == "fox"] == ["000.jpg", "001.jpg", "self.jpg"]
    assert sum(label == "hare" for _, label in names(listing)) == 3


def run_of_ours(place: Path) -> Path:
    """What a run leaves: a bundle, its steps, and a picture that somebody put there."""
    for name in (".taco/run.json", ".taco/steps/x.jpg", "model.onnx", "report.html", "seen/1.jpg"):
        touch(place / name)
    return place


@pytest.mark.parametrize("place", ["run1", "runs/run1", "runs/deep/er/run1", "fox/run1", "fox/runs/run1"])
def test_runs_among_the_pictures_are_not_looked_into(tmp_path: Path, place: str) -> None:
    root = folder(tmp_path / "site", fox=2, hare=2)
    before = list_pictures(root)
    run_of_ours(root / place)
    assert list_pictures(root) == before


def test_a_folder_of_runs_is_no_class_that_can_be_asked_for(tmp_path: Path) -> None:
    root = folder(tmp_path / "site", fox=2, hare=2)
    run_of_ours(root / "runs/run1")
    with pytest.raises(TaskError, match=r"has no class 'runs'. It has fox, hare"):
        list_pictures(root, ListOptions(["fox", "runs"]))


def test_pictures_beside_a_run_stay_a_class(tmp_path: Path) -> None:
    root = folder(tmp_path / "site", fox=2, hare=2, runs=1)
    run_of_ours(root / "runs/run1")
    assert list_pictures(root).classes == ("fox", "hare", "runs")


# --- CSV files -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class GoodCsv:
    id: str
    content: bytes
    expected: list[tuple[str, str]]


PLAIN = [("a.jpg", "fox"), ("b.jpg", "hare")]


@pytest.mark.parametrize(
    "case",
    [
        GoodCsv("plain", b"path,label\na.jpg,fox\nb.jpg,hare\n", PLAIN),
        GoodCsv("filepath", b"filepath,label\na.jpg,fox\nb.jpg,hare\n", PLAIN),
        GoodCsv("extra columns", b"id,label,path,when\n1,fox,a.jpg,\n2,hare,sub/b.jpg,now\n", PLAIN),
        GoodCsv("bom and crlf", b"\xef\xbb\xbfpath,label\r\na.jpg,fox\r\nb.jpg,hare\r\n", PLAIN),
        GoodCsv("spaces and case", b"Path, Label\na.jpg, fox \n b.jpg,hare\n\n", PLAIN),
        GoodCsv("quotes", b'path,label\n"a,1.jpg","fox, red"\nb.jpg,hare\n', [("a,1.jpg", "fox, red"), PLAIN[1]]),
        GoodCsv("utf-8", "path,label\na.jpg,Lüchs\nb.jpg,hare\n".encode(), [("a.jpg", "Lüchs"), PLAIN[1]]),
        GoodCsv(
            "utf-16-le", "path,label\na.jpg,Lüchs\nb.jpg,hare\n".encode("utf-16-le"), [("a.jpg", "Lüchs"), PLAIN[1]]
        ),
        GoodCsv(
            "utf-16-be", "path,label\na.jpg,Lüchs\nb.jpg,hare\n".encode("utf-16-be"), [("a.jpg", "Lüchs"), PLAIN[1]]
        ),
        GoodCsv("latin-1", "path,label\na.jpg,Lüchs\nb.jpg,hare\n".encode("latin-1"), [("a.jpg", "Lüchs"), PLAIN[1]]),
    ],
    ids=lambda c: c.id,
)
def test_csv_is_read(case: GoodCsv, tmp_path: Path) -> None:
    (tmp_path / "site.CSV").write_bytes(case.content)
    touch(tmp_path / "b.jpg")  # one picture has to be there
    touch(tmp_path / "sub/b.jpg")
    listing = list_pictures(tmp_path / "site.CSV")
    assert listing.name == "site"
    assert names(listing) == case.expected
    assert all(p.path.is_relative_to(tmp_path) for p in listing.pictures)


def test_csv_takes_absolute_paths_and_drops_repeats(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(f"path,label\n/there/a.jpg,fox\n{tmp_path}/b.jpg,hare\nb.jpg,hare\n./b.jpg,hare\n")
    touch(tmp_path / "b.jpg")
    listing = list_pictures(tmp_path / "t.csv")
    assert [p.path for p in listing.pictures] == [Path("/there/a.jpg"), tmp_path / "b.jpg"]
    assert listing.warnings == ("2 pictures were listed more than once in t.csv and are used once",)


# --- errors --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BadSource:
    id: str
    make: Callable[[Path], Path]
    says: str
    classes: tuple[str, ...] | None = None


def csv_with(text: str) -> Callable[[Path], Path]:
    return lambda root: touch(touch(root / "a.jpg").parent / "t.csv", text)


def file_with(name: str, content: bytes) -> Callable[[Path], Path]:
    def make(root: Path) -> Path:
        (root / name).write_bytes(content)
        return root / name

    return make


def huge(root: Path) -> Path:
    with (root / "huge.json").open("wb") as stream:
        stream.truncate(2 << 30)  # sparse: nothing is written
    return root / "huge.json"


def pipe(root: Path) -> Path:
    os.mkfifo(root / "a.json")
    return root / "a.json"


def json_folder(root: Path) -> Path:
    (root / "x.json").mkdir()
    return root / "x.json"


def linked_twice(root: Path) -> Path:
    folder(root, fox=2, hare=2)
    (root / "hare/same.jpg").symlink_to(root / "fox/000.jpg")
    return root


def empty_class(root: Path) -> Path:
    return touch(folder(root, fox=2) / "owl/x.txt").parents[1]


def loose(root: Path) -> Path:
    touch(root / "1.jpg")
    return touch(root / "2.jpg").parent


@pytest.mark.parametrize(
    "case",
    [
        BadSource("absent", lambda root: root / "no", r"no does not exist\. Check the path"),
        BadSource("empty folder", lambda root: root, r"is empty\. Give a folder with one folder of pictures for each"),
        BadSource("no class folders", loose, "holds 2 pictures but no class folders.*/fox/1.jpg"),
        BadSource("one class", lambda root: folder(root, fox=3), r"gives 1 class \(fox\); at least 2"),
        BadSource(
            "empty class", lambda root: touch(folder(root, fox=2) / "owl/x.txt").parents[1], "owl holds no picture"
        ),
        BadSource("wrong class", lambda root: folder(root, fox=2, hare=2), "Did you mean 'hare'", ("fox", "hares")),
        BadSource("far class", lambda root: folder(root, fox=2, hare=2), "It has fox, hare", ("fox", "zebu")),
        BadSource("asked twice", lambda root: folder(root, fox=2, hare=2), "asked for twice", ("fox", "fox")),
        BadSource(
            "two labels, linked",
            linked_twice,
            "the same file as .*000.jpg and .*same.jpg is listed as 'fox' and as 'hare'",
        ),
        BadSource("two labels", csv_with("path,label\na.jpg,fox\na.jpg,hare\n"), "listed as 'fox' and as 'hare'"),
        BadSource("no header", csv_with("a.jpg,fox\nb.jpg,hare\n"), "names no columns path and label"),
        BadSource("header only", csv_with("path,label\n"), "lists no picture"),
        BadSource("short row", csv_with("path,label\na.jpg,fox\nb.jpg\n"), "line 3 lacks a path or a label"),
        BadSource("nul", csv_with("path,label\na\0.jpg,fox\n"), "line 2 lacks a path or a label|not a CSV file"),
        BadSource("huge field", csv_with("path,label\n" + "a" * 200_000 + ",fox\n"), "is not a CSV file: field larger"),
        BadSource("a picture", lambda root: touch(root / "a.jpg"), "neither a folder, a CSV file nor a JSON file"),
        BadSource(
            "nothing there", csv_with("path,label\nx.jpg,fox\ny.jpg,hare\n"), r"none of the 2 .*x\.jpg.*--images"
        ),
        BadSource(
            "nothing there, absolute",
            csv_with("path,label\n/no/x.jpg,fox\n"),
            r"first is /no/x\.jpg\. Correct these abs",
        ),
        BadSource("a column twice", csv_with("path,label,path\na.jpg,fox,b.jpg\n"), "names the column path twice"),
        BadSource("header again", csv_with("path,label\na.jpg,fox\nPath,Label\n"), "line 3 repeats the names of"),
        BadSource("a spreadsheet", file_with("t.xlsx", b"PK\x03\x04..."), "is a packed file or a spreadsheet"),
        BadSource("empty file", file_with("t.csv", b""), r"t\.csv is empty"),
        BadSource(
            "blank class twice", lambda root: folder(root, Empty=1, fox=1), "asked for twice", ("empty", "blank")
        ),
        BadSource("utf-16, damaged", file_with("t.csv", b"\xff\xfep\0a\0t"), r"is damaged: .* \(utf-16\)"),
        BadSource("2 GB of JSON", huge, r"has 2\.0 GiB, more than the 1 GiB that are read\. Divide it"),
        BadSource("a pipe", pipe, "is not a regular file"),
        BadSource("a folder named x.json", json_folder, r"x\.json is empty\. Give a folder"),
        BadSource("no JSON in .json", file_with("a.json", b"path,label\n"), r"begins with neither \{ nor \["),
        BadSource(
            "a detector's output",
            file_with("a.JSON", b'{"images": [], "info": {}, "detection_categories": {"1": "animal"}}'),
            r"it holds boxes, not labels\. Give the labels as TASK and this file with --boxes",
        ),
        BadSource("other JSON", file_with("a.json", b'{"instances": []}'), "holds instances, which is not a form"),
        BadSource("no keys", file_with("a.json", b"{}"), "holds nothing, which is not a form"),
        BadSource("a list", file_with("a.json", b"[]"), "holds a list at the top, not an object"),
    ],
    ids=lambda c: c.id,
)
def test_bad_sources_are_explained(case: BadSource, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=case.says):
        list_pictures(case.make(tmp_path), ListOptions(case.classes))


def test_images_must_be_a_folder(tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=r"--images .*/no: there is no such folder"):
        list_pictures(folder(tmp_path, fox=2, hare=2), ListOptions(images=tmp_path / "no"))


def test_images_is_where_relative_names_start(tmp_path: Path) -> None:
    touch(tmp_path / "there/a.jpg")
    (tmp_path / "t.csv").write_text("path,label\na.jpg,fox\nb.jpg,hare\n")
    listing = list_pictures(tmp_path / "t.csv", ListOptions(images=tmp_path / "there"))
    assert [p.path for p in listing.pictures] == [tmp_path / "there/a.jpg", tmp_path / "there/b.jpg"]


def test_empty_and_blank_are_one_class_in_folders_and_in_what_is_asked(tmp_path: Path) -> None:
    root = folder(tmp_path, Empty=1, BLANK=2, fox=2, owl=1)
    assert list_pictures(root).classes == ("blank", "fox", "owl")
    listing = list_pictures(root, ListOptions(["fox", "EMPTY"]))
    assert listing.classes == ("fox", "blank")
    assert [label for _, label in names(listing)] == ["fox"] * 2 + ["blank"] * 3


def test_what_the_source_calls_a_class_is_remembered(tmp_path: Path) -> None:
    root = folder(tmp_path / "site", Empty=1, cat=1, fox=1)
    assert list_pictures(root).written == ("Empty", "cat", "fox")
    touch(tmp_path / "a.jpg")
    (tmp_path / "t.csv").write_text("path,label\na.jpg,cat\nb.jpg,EMPTY\n")
    assert list_pictures(tmp_path / "t.csv").written == ("EMPTY", "cat")


def test_the_form_is_told_by_content_rather_than_by_suffix(tmp_path: Path) -> None:
    touch(tmp_path / "a.jpg")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"id": n, "image_id": n, "category_id": n} for n in (1, 2)],
        "categories": [{"id": 1, "name": "fox"}, {"id": 2, "name": "hare"}],
    }
    for name in ("labels.JSON", "labels.csv", "labels.txt", "labels"):
        touch(tmp_path / name, json.dumps(content))
        assert names(list_pictures(tmp_path / name)) == PLAIN


def test_forbidden_folder_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", forbidden)
    with pytest.raises(TaskError, match=r"cannot read .*: Permission denied"):
        list_pictures(tmp_path)


@pytest.mark.parametrize("name", ["two\nlines", "tab\there", "bad\udcffbytes"], ids=["newline", "tab", "not UTF-8"])
def test_class_names_that_no_label_file_can_hold_are_refused(tmp_path: Path, name: str) -> None:
    for folder_name in ("fox", name):
        touch(tmp_path / folder_name / "1.jpg", "x")
    with pytest.raises(TaskError, match="not printable"):
        list_pictures(tmp_path)


@given(
    st.sampled_from(["a.csv", "a.json", "datapackage.json", "media.csv", "observations.csv", "md.json"]),
    st.binary(max_size=60) | st.text(st.sampled_from('{}[]",:\n path,label1'), max_size=60).map(str.encode),
    st.sampled_from([b"", b"path,label\na.jpg,fox\n", b'{"images": [{"id": 1, "file_name": ', b'{"resources": [']),
)
def test_no_bytes_raise_anything_but_a_task_error(name: str, content: bytes, before: bytes) -> None:
    with tempfile.TemporaryDirectory() as place:
        root = folder(Path(place, "site"), fox=1, hare=1)
        tables = {"deployments": "deploymentID\n", "media": "mediaID,deploymentID,timestamp,filePath\n"}
        tables["observations"] = "deploymentID,mediaID,observationType,scientificName\n"
        for table, header in tables.items():
            (root / f"{table}.csv").write_text(header)
        resources = [{"name": table, "path": f"{table}.csv"} for table in tables]
        (root / "datapackage.json").write_text(json.dumps({"resources": resources}))
        file = root / name
        file.write_bytes(before + content if file.suffix == ".json" or name == "a.csv" else file.read_bytes() + content)
        boxes = file if name == "md.json" else None
        if boxes is not None:
            (root / "datapackage.json").unlink()
        source = file if name.startswith("a.") else root
        with pytest.raises(TaskError) as caught:
            list_pictures(source, ListOptions(boxes=boxes))
        assert "\n" not in str(caught.value)
