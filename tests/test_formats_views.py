"""Boxes or whole frames: the crop rule, and what becomes of pictures that it makes useless."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from taco.errors import TaskError
from taco.formats.rows import Found, Row
from taco.formats.views import CropOptions, choose_views
from taco.pictures.listing import Box, Listing
from taco.task import ListOptions, list_pictures

BOXES = tuple(Box(n / 10, 0.0, 0.1, 0.1) for n in range(3))


def site(root: Path, **counts: int) -> Path:
    for name, count in counts.items():
        (root / name).mkdir(parents=True)
        for number in range(count):
            (root / name / f"{name}{number}.jpg").touch()
    return root


def detector(root: Path, **animals: list[float] | str | None) -> Path:
    """An output beside the site: confidences of animals by picture, or a failure; None lists a person."""
    images: list[dict[str, Any]] = []
    for name, said in animals.items():
        entry: dict[str, Any] = {"file": f"{name}.jpg"}
        if isinstance(said, str):
            entry["failure"] = said
        else:
            person = [{"category": "2", "conf": 0.99, "bbox": [0, 0, 0.5, 0.5]}]
            kind = [{"category": "1", "conf": sure, "bbox": [sure / 2, 0, 0.5, 0.5]} for sure in said or ()]
            entry["detections"] = person + kind
        images.append(entry)
    file = root.parent / "md.json"
    file.write_text(json.dumps({"images": images, "detection_categories": {"1": "animal", "2": "person"}}))
    return file


def told(listing: Listing) -> dict[str, Box | None]:
    return {p.path.stem: p.box for p in listing.pictures}


def test_the_surest_animal_is_looked_at_and_blank_frames_stay_whole(tmp_path: Path) -> None:
    root = site(tmp_path / "site", fox=4, hare=2, Empty=2)
    said = detector(
        root, fox0=[0.3, 0.8, 0.5], fox1=[0.1], fox2=None, fox3="no access", hare0=[0.9], hare1=[0.2], Empty0=[0.9]
    )
    listing = list_pictures(root, ListOptions(boxes=said))
    assert told(listing) == {
        "Empty0": None,
        "Empty1": None,
        "fox0": Box(0.4, 0, 0.5, 0.5),
        "hare0": Box(0.45, 0, 0.5, 0.5),
        "hare1": Box(0.1, 0, 0.5, 0.5),
    }
    assert {(s.path.stem, s.reason) for s in listing.skipped} == {
        ("fox1", "no detection of at least 0.2"),
        ("fox2", "no detection of at least 0.2"),
        ("fox3", "the detector failed: no access"),
    }


def test_fewer_than_half_with_a_box_means_whole_frames(tmp_path: Path) -> None:
    root = site(tmp_path / "site", fox=3, hare=2, blank=1)
    said = detector(root, fox0=[0.9], hare0=[0.9], fox1=[0.1])
    listing = list_pictures(root, ListOptions(boxes=said))
    assert set(told(listing).values()) == {None}
    assert len(listing.pictures) == 6
    assert listing.skipped == ()
    assert listing.warnings == ("only 2 of 5 pictures with an animal have a box: whole frames are looked at",)
    cropped = list_pictures(root, ListOptions(boxes=said, crop=True))
    assert {name for name, box in told(cropped).items() if box} == {"fox0", "hare0"}
    assert {s.path.stem: s.reason for s in cropped.skipped} == {
        "fox1": "no detection of at least 0.2",
        "fox2": "no entry of md.json may be of it",
        "hare1": "no entry of md.json may be of it",
    }
    half = list_pictures(root, ListOptions(boxes=said, min_confidence=0.1))
    assert len([box for box in told(half).values() if box]) == 3


def test_people_and_vehicles_are_looked_at_as_such(tmp_path: Path) -> None:
    root = site(tmp_path / "site", fox=1, human=1)
    listing = list_pictures(root, ListOptions(boxes=detector(root, fox0=[0.9], human0=None)))
    assert told(listing) == {"fox0": Box(0.45, 0, 0.5, 0.5), "human0": Box(0, 0, 0.5, 0.5)}


def test_names_that_several_pictures_or_entries_share_are_not_guessed(tmp_path: Path) -> None:
    root = site(tmp_path / "site", fox=2, hare=2)
    for name in ("fox", "hare"):
        (root / name / "same.jpg").touch()
    said = detector(root, fox0=[0.9], fox1=[0.9], hare0=[0.9], hare1=[0.9], same=[0.9])
    content = json.loads(said.read_text())
    listing = list_pictures(root, ListOptions(boxes=said))
    assert {s.reason for s in listing.skipped} == {"an entry of md.json may be of several pictures of this name"}
    assert len(listing.skipped) == 2
    content["images"].append({"file": "elsewhere/same.jpg", "detections": []})
    content["images"][-2]["file"] = "somewhere/same.jpg"
    said.write_text(json.dumps(content))
    listing = list_pictures(root, ListOptions(boxes=said))
    assert {s.reason for s in listing.skipped} == {"several entries of md.json may be of it"}


def test_boxes_that_cannot_be_had_are_explained(tmp_path: Path) -> None:
    root = site(tmp_path / "site", fox=2, hare=2, blank=2)
    with pytest.raises(TaskError, match=r"has no boxes to crop to\. Give MegaDetector's output with --boxes"):
        list_pictures(root, ListOptions(crop=True))
    with pytest.raises(TaskError, match=r"lists none of the 6 pictures, such as .*blank0\.jpg"):
        list_pictures(root, ListOptions(boxes=detector(root, x=[0.9])))
    with pytest.raises(TaskError, match=r"has no detection of at least 0\.2 in these pictures"):
        list_pictures(root, ListOptions(crop=True, boxes=detector(root, fox0=[0.1])))
    with pytest.raises(TaskError, match=r"has no picture of hare that can be used.*no entry of md\.json"):
        list_pictures(root, ListOptions(["fox", "hare"], boxes=detector(root, fox0=[0.9], fox1=[0.9])))


def test_a_source_s_own_boxes_come_first(tmp_path: Path) -> None:
    root = site(tmp_path / "site", fox=1, hare=1)
    table = (
        "path,label,bbox_x,bbox_y,bbox_width,bbox_height\nfox/fox0.jpg,fox,0.1,0.1,0.2,0.2\nhare/hare0.jpg,hare,,,,\n"
    )
    (root / "t.csv").write_text(table)
    listing = list_pictures(root / "t.csv", ListOptions(boxes=detector(root, fox0=[0.9], hare0=[0.9])))
    assert told(listing) == {"fox0": Box(0.1, 0.1, 0.2, 0.2), "hare0": Box(0.45, 0, 0.5, 0.5)}


def test_one_box_of_two_species_is_none(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    (tmp_path / "b.jpg").touch()
    rows = [Row(label, tmp_path / "a.jpg", BOXES[0]) for label in ("fox", "hare")]
    rows += [Row("fox", tmp_path / "b.jpg", BOXES[0]), Row("hare", tmp_path / "b.jpg")]
    views = choose_views(Found(rows), ["fox", "hare"], CropOptions(None, 0.2, None), tmp_path)
    assert [(row.path.name, row.label) for row in views.rows] == [("b.jpg", "fox")]
    assert [s.reason for s in views.skipped] == ["one box with 2 species: fox, hare"]
    assert views.warnings == ["1 labels without a box, of pictures where others have one, are not used"]


rows = st.lists(
    st.builds(
        Row,
        st.sampled_from(["blank", "fox", "hare", "owl"]),
        st.sampled_from([Path(f"/nowhere/{n}.jpg") for n in range(4)]),
        st.none() | st.sampled_from(BOXES),
    ),
    min_size=1,
    max_size=12,
)


@given(rows, st.sampled_from([("fox", "hare"), ("blank", "fox"), ("blank", "fox", "hare", "owl")]), st.booleans())
def test_every_picture_is_looked_at_or_listed_with_a_reason(
    rows: list[Row], classes: tuple[str, ...], crop: bool
) -> None:
    have = any(row.box and row.label != "blank" and row.label in classes for row in rows)
    options = CropOptions(crop and have, 0.2, None)
    views = choose_views(Found(rows), classes, options, Path("/nowhere"))
    asked = {row.path for row in rows if row.label in classes}
    used = {row.path for row in views.rows}
    listed = {s.path for s in views.skipped}
    assert not used & listed
    assert {row.label for row in views.rows} <= set(classes)
    assert len({(row.path, row.box) for row in views.rows}) == len(views.rows)
    for row in views.rows:
        own = {other.label for other in rows if other.path == row.path}
        boxed = crop and have and row.label != "blank"
        assert (row.box is not None) == boxed
        assert boxed or own == {row.label}
    unexplained = asked - used - listed
    assert all(any(r.path == path and r.box and r.label not in classes for r in rows) for path in unexplained)
