"""CSV files beyond path and label: place, burst, time, box, and the ways in which spreadsheets write."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from taco.errors import TaskError
from taco.formats.text import csv_rows, encoding_of
from taco.pictures.listing import Box, LabelledPicture
from taco.task import ListOptions, list_pictures

EPOCH_DAY = 1590814657.0  # 2020-05-30 04:57:37 on the wall


def listed(folder: Path, text: str, encoding: str = "utf-8") -> list[LabelledPicture]:
    for name in ("a.jpg", "b.jpg"):
        (folder / name).touch()
    (folder / "t.csv").write_text(text, encoding=encoding)
    return list(list_pictures(folder / "t.csv", ListOptions(crop=None)).pictures)


@pytest.mark.parametrize(
    "header",
    [
        "path,label,location,sequence,taken,bbox_x,bbox_y,bbox_width,bbox_height",
        "FilePath,Label,Location,seq_id,timestamp,bboxX,bboxY,bboxWidth,bboxHeight",
        "filepath,label,location,seq_id,datetime,bbox_x,bbox_y,bbox_width,bbox_height",
    ],
)
def test_optional_columns_are_read(header: str, tmp_path: Path) -> None:
    blank, first, second = listed(
        tmp_path,
        f"{header}\na.jpg,fox,7,burst1,2020-05-30T04:57:37+02:00,0.1,0.2,0.3,0.4\n"
        "a.jpg,fox,7,burst1,2020-05-30T04:57:37+02:00,0.5,0.2,0.3,0.4\nb.jpg,Empty,,,,,,,\n",
    )
    assert first == LabelledPicture(tmp_path / "a.jpg", 1, Box(0.1, 0.2, 0.3, 0.4), "7", "burst1", EPOCH_DAY)
    assert second.box == Box(0.5, 0.2, 0.3, 0.4)
    assert blank == LabelledPicture(tmp_path / "b.jpg", 0)


@pytest.mark.parametrize("mark", [";", "\t"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "latin-1"])
def test_spreadsheets_write_other_marks_and_encodings(mark: str, encoding: str, tmp_path: Path) -> None:
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).touch()
    (tmp_path / "t.csv").write_text(f"path{mark}label\na.jpg{mark}Lüchs\nb.jpg{mark}fox\n", encoding=encoding)
    assert list_pictures(tmp_path / "t.csv").classes == ("Lüchs", "fox")


@pytest.mark.parametrize(
    ("label", "encoding"),
    [("Burchell\N{RIGHT SINGLE QUOTATION MARK}s zebra", "cp1252"), ("L\x81chs", "latin-1")],
    ids=["windows", "last resort"],
)
def test_bytes_that_are_no_utf_8_are_those_of_windows(label: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(f"path,label\na.jpg,{label}\nb.jpg,fox\n".encode(encoding))
    assert encoding_of(tmp_path / "t.csv") == encoding
    assert [cells["label"] for _, cells in csv_rows(tmp_path / "t.csv")] == ["", label, "fox"]


def test_backslashes_divide_folders(tmp_path: Path) -> None:
    (tmp_path / "cam").mkdir()
    (tmp_path / "cam/a.jpg").touch()
    (tmp_path / "t.csv").write_text("path,label\ncam\\a.jpg,fox\ncam\\b.jpg,hare\n")
    assert [p.path for p in list_pictures(tmp_path / "t.csv").pictures] == [
        tmp_path / "cam/a.jpg",
        tmp_path / "cam/b.jpg",
    ]


def test_what_cannot_be_a_picture_is_listed_and_bad_dates_are_counted(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "t.csv").write_text(
        "path,label,taken\na.jpg,fox,yesterday\nb.jpg,hare,0000:00:00 00:00:00\nhttps://x.org/c.jpg,fox,\nd.MP4,fox,\n"
    )
    listing = list_pictures(tmp_path / "t.csv")
    assert [p.taken for p in listing.pictures] == [None, None]
    assert listing.warnings == ("2 dates cannot be read and are ignored, such as 'yesterday'",)
    assert [s.reason for s in listing.skipped] == ["it is on the web: download it first", "it is a video"]


@dataclass(frozen=True)
class Bad:
    id: str
    text: str
    says: str


HEAD = "path,label,bbox_x,bbox_y,bbox_width,bbox_height\n"


@pytest.mark.parametrize(
    "case",
    [
        Bad("some columns", "path,label,bbox_x,bbox_y\na.jpg,fox,0,0\n", "lacks the column bbox_width"),
        Bad("some numbers", HEAD + "a.jpg,fox,0.1,0.1,,0.2\n", r"line 2: the box is .*four finite numbers"),
        Bad("words", HEAD + "a.jpg,fox,0.1,0.1,wide,0.2\n", r"line 2: the box is .*four finite numbers"),
        Bad("not a number", HEAD + "a.jpg,fox,0.1,0.1,nan,0.2\n", r"line 2: the box is .*four finite numbers"),
        Bad("negative", HEAD + "a.jpg,fox,0.1,0.1,-0.2,0.2\n", "has a negative size"),
        Bad("pixels", HEAD + "a.jpg,fox,100,100,50,50\n", "is not in fractions"),
        Bad("two labels, one box", HEAD + "a.jpg,fox,0,0,.1,.1\na.jpg,hare,0,0,.1,.1\n", "as 'fox' and as 'hare'"),
    ],
    ids=lambda c: c.id,
)
def test_bad_boxes_are_explained(case: Bad, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=case.says):
        listed(tmp_path, case.text)
