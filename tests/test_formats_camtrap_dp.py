"""Camtrap DP: three tables joined, and what is refused."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from taco.errors import TaskError
from taco.pictures.listing import Box, LabelledPicture, Listing
from taco.task import ListOptions, list_pictures

Table = list[dict[str, str]]
RESOURCES = [{"name": name, "path": f"{name}.csv"} for name in ("deployments", "media", "observations")]
COLUMNS = {
    "deployments": ("deploymentID", "locationID", "locationName"),
    "media": ("mediaID", "deploymentID", "timestamp", "filePath", "fileMediatype"),
    "observations": (
        *("observationID", "deploymentID", "mediaID", "eventID", "eventStart", "eventEnd", "observationLevel"),
        *("observationType", "scientificName", "bboxX", "bboxY", "bboxWidth", "bboxHeight"),
    ),
}


def medium(number: int, time: str, deployment: str = "d1", **more: str) -> dict[str, str]:
    fields = {"mediaID": f"m{number}", "deploymentID": deployment, "filePath": f"pictures/{number}.jpg"}
    return {**fields, "timestamp": f"2020-05-30T{time}", **more}


def seen(number: int, name: str, kind: str = "animal", box: Sequence[float] = (), **more: str) -> dict[str, str]:
    corners = zip(("bboxX", "bboxY", "bboxWidth", "bboxHeight"), map(str, box), strict=False)
    fields = {"mediaID": f"m{number}", "deploymentID": "d1", "observationLevel": "media", "observationType": kind}
    return {**fields, "scientificName": name, **dict(corners), **more}


def during(start: str, end: str, name: str, kind: str = "animal", **more: str) -> dict[str, str]:
    times = {"eventStart": f"2020-05-30T{start}", "eventEnd": f"2020-05-30T{end}"}
    fields = {"deploymentID": "d1", "observationLevel": "event", "observationType": kind, "eventID": "e1"}
    return {**fields, **times, "scientificName": name, **more}


def package(root: Path, media: Table, observations: Table, **other: Any) -> Path:
    """Write a package and the pictures of its media; returns its folder."""
    root.mkdir(exist_ok=True)
    deployments = [
        {"deploymentID": "d1", "locationID": "l1", "locationName": "hill"},
        {"deploymentID": "d2", "locationName": "lake"},
        {"deploymentID": "d3"},
    ]
    tables = {"deployments": deployments, "media": media, "observations": observations}
    for name, rows in tables.items():
        write_table(root / f"{name}.csv", COLUMNS[name], rows)
    for row in media:
        if "://" not in row["filePath"]:
            picture = root / row["filePath"]
            picture.parent.mkdir(parents=True, exist_ok=True)
            picture.touch()
    (root / "datapackage.json").write_text(json.dumps({"resources": RESOURCES, "profile": "camtrap-dp", **other}))
    return root


def write_table(file: Path, columns: Sequence[str], rows: Sequence[Mapping[str, str]]) -> None:
    with file.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, columns)
        writer.writeheader()
        writer.writerows(rows)


def told(listing: Listing) -> list[tuple[str, str]]:
    return sorted((p.path.stem, listing.classes[p.label_index]) for p in listing.pictures)


def test_media_are_labelled_by_their_own_observations(tmp_path: Path) -> None:
    media = [
        medium(1, "04:57:37Z"),
        medium(2, "04:57:38Z", "d2"),
        medium(3, "04:57:39+02:00", "d3"),
        *(medium(number, "05:00:00Z") for number in (4, 5, 6, 7)),
    ]
    observations = [
        seen(1, "Vulpes vulpes", box=(0.1, 0.2, 0.3, 0.4), eventID="e1"),
        seen(1, "Lepus", box=(0.5, 0.2, 0.3, 0.4), eventID="e1"),
        seen(2, "Lepus", box=(0, 0, 1, 1)),
        *(seen(3, "", "blank"), seen(4, "Homo sapiens", "human"), seen(5, "", "vehicle")),
        *(seen(6, "", "unknown"), seen(6, "", "unclassified"), seen(7, ""), seen(7, "", "unknown")),
    ]
    root = package(tmp_path / "site", media, observations)
    listing = list_pictures(root, ListOptions(["Vulpes vulpes", "Lepus", "blank"]))
    first = 1590814657.0
    fox, hare = Box(0.1, 0.2, 0.3, 0.4), Box(0.5, 0.2, 0.3, 0.4)
    assert listing.name == "site"
    assert listing.pictures == (
        LabelledPicture(root / "pictures/1.jpg", 0, fox, "l1", "e1", first),
        LabelledPicture(root / "pictures/1.jpg", 1, hare, "l1", "e1", first),
        LabelledPicture(root / "pictures/2.jpg", 1, Box(0, 0, 1, 1), "lake", None, first + 1),
        LabelledPicture(root / "pictures/3.jpg", 2, None, "d3", None, first + 2),
    )
    assert listing.warnings == (
        "observations that name no class are not used: 1 animal without a name, 1 unclassified, 2 unknown",
    )
    whole = list_pictures(root / "datapackage.json", ListOptions(crop=False))
    assert told(whole) == [("2", "Lepus"), ("3", "blank"), ("4", "human"), ("5", "vehicle")]
    assert [s.reason for s in whole.skipped] == ["2 species in one frame: Lepus, Vulpes vulpes"]


def test_events_label_the_media_taken_in_them_that_nobody_looked_at(tmp_path: Path) -> None:
    media = [
        *(medium(1, "10:00:00Z"), medium(2, "10:00:05Z"), medium(3, "10:00:10Z"), medium(4, "10:00:11Z")),
        *(medium(5, "10:00:05Z", "d2"), medium(6, "10:00:07Z"), medium(7, "11:00:00Z"), medium(8, "12:00:00Z")),
    ]
    observations = [
        during("10:00:00Z", "10:00:10Z", "Lepus"),
        during("10:00:00Z", "10:00:10Z", "Lepus"),  # two groups of the same species
        *(seen(2, "", "blank"), seen(6, "", "unknown")),
        during("11:00:00Z", "11:00:00Z", "Vulpes vulpes", deploymentID="d1", eventID="e2"),
        *(during("12:00:00Z", "12:00:01Z", "Lepus"), during("11:59:00Z", "12:00:00Z", "Vulpes vulpes")),
        during("10:00:00Z", "10:00:10Z", "Lepus", deploymentID="nowhere"),
    ]
    listing = list_pictures(package(tmp_path, media, observations))
    assert told(listing) == [("1", "Lepus"), ("2", "blank"), ("3", "Lepus"), ("7", "Vulpes vulpes")]
    assert {p.path.stem: p.sequence for p in listing.pictures} == {"1": "e1", "2": None, "3": "e1", "7": "e2"}
    assert [(s.path.stem, s.reason) for s in listing.skipped] == [("8", "2 species and no boxes: Lepus, Vulpes vulpes")]
    assert listing.warnings == (
        "2 pictures have no observation and are not used",
        "observations that name no class are not used: 1 unknown",
    )


@pytest.mark.parametrize(
    ("media", "start", "end"),
    [
        (("12:00:00+02:00", "12:00:11+02:00"), "10:00:00Z", "10:00:10Z"),  # the same moment in another zone
        (("10:00:00", "10:00:11"), "10:00:00Z", "10:00:10Z"),  # without zone: the clocks are compared
        (("10:00:00Z", "10:00:11Z"), "10:00:00", "10:00:10"),
    ],
)
def test_zones_are_honoured_where_both_sides_have_them(
    media: tuple[str, str], start: str, end: str, tmp_path: Path
) -> None:
    rows = [medium(1, media[0]), medium(2, media[1]), medium(3, "15:00:00" + media[0][8:])]
    root = package(tmp_path, rows, [during(start, end, "Lepus"), seen(3, "Vulpes vulpes")])
    assert told(list_pictures(root)) == [("1", "Lepus"), ("3", "Vulpes vulpes")]


def test_tables_may_be_divided_and_lie_in_folders(tmp_path: Path) -> None:
    media = [medium(1, "10:00:00Z"), medium(2, "10:00:05Z")]
    root = package(tmp_path, media, [seen(1, "Lepus"), seen(2, "Vulpes vulpes")])
    (root / "data").mkdir()
    for number, row in enumerate(media, 1):
        write_table(root / f"data/media{number}.csv", COLUMNS["media"], [row])
    (root / "media.csv").unlink()
    divided = [RESOURCES[0], {"name": "media", "path": ["data/media1.csv", "./data/media2.csv"]}, RESOURCES[2]]
    (root / "datapackage.json").write_text(json.dumps({"resources": [*divided, {"name": "more", "data": []}]}))
    assert told(list_pictures(root)) == [("1", "Lepus"), ("2", "Vulpes vulpes")]


def test_media_that_are_no_pictures_here_are_listed(tmp_path: Path) -> None:
    media = [
        *(medium(1, "10:00:00Z"), medium(2, "not yet"), medium(3, "10:00:00Z", filePath="https://x.org/3.jpg")),
        *(medium(4, "10:00:00Z", filePath="4.MP4"), medium(5, "10:00:00Z", filePath="5", fileMediatype="video/avi")),
    ]
    observations = [seen(1, "Lepus"), seen(2, "Vulpes vulpes"), seen(3, "Lepus"), seen(4, "Lepus"), seen(5, "Lepus")]
    listing = list_pictures(package(tmp_path, media, observations))
    assert told(listing) == [("1", "Lepus"), ("2", "Vulpes vulpes")]
    assert [s.reason for s in listing.skipped] == ["it is on the web: download it first", *["it is a video"] * 2]
    assert listing.warnings == ("1 dates cannot be read and are ignored, such as '2020-05-30Tnot yet'",)


def test_real_sample(real_pictures: Path) -> None:
    assets = real_pictures / "camera_traps/zamba_assets"
    listing = list_pictures(assets / "camtrap_dp_small", ListOptions(images=assets))
    expected = {"small_cat": "Felis catus", "wild_dog_jackal": "Canis aureus", "chimpanzee_bonobo": "Pan"}
    assert dict(told(listing)) == expected
    assert {p.box for p in listing.pictures} == {
        *(Box(0.1, 0.2, 0.3, 0.4), Box(0.05, 0.15, 0.25, 0.35), Box(0.2, 0.25, 0.4, 0.5)),
    }
    assert {p.location for p in listing.pictures} == {"loc1", "loc2"}
    with pytest.raises(TaskError, match=r"none of the 4 pictures .* exists.*--images"):
        list_pictures(assets / "camtrap_dp_small")


# --- what is refused -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BadPackage:
    id: str
    resources: object
    says: str


def with_media(**resource: object) -> list[dict[str, object]]:
    return [dict(RESOURCES[0]), {"name": "media", **resource}, dict(RESOURCES[2])]


@pytest.mark.parametrize(
    "case",
    [
        BadPackage("an object", {}, "'resources' is not a list"),
        BadPackage("none", [], "lists no table deployments"),
        BadPackage("no observations", RESOURCES[:2], "lists no table observations"),
        BadPackage("twice", [*RESOURCES, RESOURCES[0]], "entry 4 of 'resources': deployments comes twice"),
        BadPackage("no path", with_media(data=[]), "entry 2 of 'resources' has no path"),
        BadPackage("path a number", with_media(path=7), "entry 2 of 'resources' has no path"),
        BadPackage("no paths", with_media(path=[]), "lists no table media"),
        BadPackage("nul", with_media(path="a\0"), "has no path"),
        BadPackage("URL", with_media(path="https://x.org/m.csv"), r"m\.csv is on the web\. Download it first"),
        BadPackage("above", with_media(path="x/../../m.csv"), r"m\.csv lies outside of the package"),
        BadPackage("absolute", with_media(path="/etc/passwd"), "passwd lies outside of the package"),
        BadPackage("zipped", with_media(path="m.csv.gz"), r"m\.csv\.gz is compressed\. Unpack it"),
        BadPackage("absent", with_media(path="m.csv"), r"m\.csv does not exist"),
        BadPackage("a folder", with_media(path="pictures"), "pictures is a folder"),
    ],
    ids=lambda c: c.id,
)
def test_bad_descriptions_are_explained(case: BadPackage, tmp_path: Path) -> None:
    root = package(tmp_path, [medium(1, "10:00:00Z")], [seen(1, "Lepus")], resources=case.resources)
    with pytest.raises(TaskError, match=case.says):
        list_pictures(root)


@dataclass(frozen=True)
class BadTable:
    id: str
    media: Table
    observations: Table
    says: str


TWO = [medium(1, "10:00:00Z"), medium(2, "10:00:00Z")]


@pytest.mark.parametrize(
    "case",
    [
        BadTable("no media", [], [], r"media\.csv lists no picture"),
        BadTable("mediaID twice", [*TWO, TWO[0]], [], r"media\.csv line 4: the mediaID 'm1' comes twice"),
        BadTable("no mediaID", [medium(1, "10:00:00Z", mediaID="")], [], r"media\.csv line 2: there is no mediaID"),
        BadTable("unknown medium", TWO, [seen(9, "Lepus")], r"observations\.csv line 2: there is no medium 'm9'"),
        BadTable("bad box", TWO, [seen(1, "Lepus", box=(0.1, 0.2, 0.3))], r"observations\.csv line 2: the box is"),
        BadTable("no labels", TWO, [seen(1, "", "unknown")], "has no picture with a label"),
    ],
    ids=lambda c: c.id,
)
def test_bad_lines_are_named(case: BadTable, tmp_path: Path) -> None:
    with pytest.raises(TaskError, match=case.says) as caught:
        list_pictures(package(tmp_path, case.media, case.observations))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("table", "column"), [("deployments", "deploymentID"), ("media", "filePath"), ("observations", "scientificName")]
)
def test_missing_columns_are_named(table: str, column: str, tmp_path: Path) -> None:
    root = package(tmp_path, TWO, [seen(1, "Lepus")])
    write_table(root / f"{table}.csv", [name for name in COLUMNS[table] if name != column], [])
    with pytest.raises(TaskError, match=rf"the first line of .*{table}\.csv lacks the column {column}"):
        list_pictures(root)


def test_deployments_are_listed_once(tmp_path: Path) -> None:
    root = package(tmp_path, TWO, [seen(1, "Lepus")])
    write_table(root / "deployments.csv", COLUMNS["deployments"], [{"deploymentID": "d1"}] * 2)
    with pytest.raises(TaskError, match=r"deployments\.csv line 3: the deploymentID 'd1' comes twice"):
        list_pictures(root)
