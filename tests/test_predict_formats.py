"""Answers in the forms that other programs read, checked against the published definitions of those forms."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import re
import shutil
from collections import Counter
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from tiny_bundle import BLUE, GREEN, PALE_BLUE, PALE_RED, RED, make_bundle, paint

import taco
from taco.answers.prediction import class_kind
from taco.bundle import Bundle, Manifest
from taco.formats.megadetector import Detection, read_boxes
from taco.pictures.listing import Box
from taco.predict import Format, Prediction, common_root, find_images, predict, render

NOON = datetime(2025, 6, 1, 14, 0, 5, tzinfo=timezone(timedelta(hours=2)))
SITE = ("fox", "hare", "blank")


# --- what the published definitions ask for -------------------------------------------------------------------------


def check_megadetector(whole: Any) -> None:
    """Hold a file against lila.science/megadetector-output-format (1.3 to 1.6): fields, types and ranges."""
    assert {"info", "detection_categories", "images"} <= set(whole)
    assert set(whole) <= {"info", "detection_categories", "classification_categories", "images"} | {
        "classification_category_descriptions"
    }
    check_md_info(whole["info"])
    for name in ("detection_categories", "classification_categories"):
        for key, label in whole.get(name, {}).items():
            assert re.fullmatch(r"\d+", key)
            assert isinstance(label, str)
            assert label.strip()
    assert isinstance(whole["images"], list)
    for image in whole["images"]:
        assert isinstance(image["file"], str)
        assert image["file"]
        if image.get("failure") is not None:
            assert isinstance(image["failure"], str)
            assert image.get("detections") is None, "a failure has no list of detections, not even an empty one"
            continue
        assert isinstance(image["detections"], list)
        for detection in image["detections"]:
            check_md_detection(detection, whole)
    assert max(Counter(image["file"] for image in whole["images"]).values(), default=1) == 1


def check_md_info(info: Any) -> None:
    if info == {}:  # the sample of zamba leaves it empty
        return
    assert isinstance(info["format_version"], str)
    assert 1.3 <= float(info["format_version"]) < 2
    for name in ("detector", "classifier", "detection_completion_time", "classification_completion_time"):
        assert isinstance(info.get(name, ""), str)
    for name in ("detection_completion_time", "classification_completion_time"):
        assert name not in info or datetime.strptime(info[name], "%Y-%m-%d %H:%M:%S")
    thresholds = {**info.get("detector_metadata", {}), **info.get("classifier_metadata", {})}
    for name in [name for name in thresholds if name.endswith("_threshold")]:
        assert isinstance(thresholds[name], float)
        assert 0 <= thresholds[name] <= 1


def check_md_detection(detection: Any, whole: Any) -> None:
    assert detection["category"] in whole["detection_categories"]
    assert type(detection["conf"]) is float
    assert 0 <= detection["conf"] <= 1
    left, top, width, height = detection["bbox"]
    assert all(type(v) is float for v in (left, top, width, height))
    assert min(left, top) >= 0
    assert min(width, height) > 0
    assert max(left + width, top + height) <= 1 + 1e-6
    classifications = detection.get("classifications", [])
    assert [key for key, _ in classifications if key not in whole["classification_categories"]] == []
    sure = [p for _, p in classifications]
    assert all(type(p) is float and 0 <= p <= 1 for p in sure)
    assert sure == sorted(sure, reverse=True)


#: Column of Camtrap DP 1.0's observations -> what a cell that is not empty must look like; `!` marks required ones.
_TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(Z|[+-]\d\d:\d\d)"
_SHARE = r"0(\.\d+)?|1(\.0+)?|\d(\.\d+)?e-\d+"
OBSERVATIONS = {
    "observationID": "!.+",
    "deploymentID": "!.+",
    "mediaID": ".+",
    "eventID": ".+",
    "eventStart": "!" + _TIME,
    "eventEnd": "!" + _TIME,
    "observationLevel": "!media|event",
    "observationType": "!animal|human|vehicle|blank|unknown|unclassified",
    "cameraSetupType": "setup|calibration",
    "scientificName": ".+",
    "count": r"[1-9]\d*",
    "lifeStage": "adult|subadult|juvenile",
    "sex": "female|male",
    "behavior": ".+",
    "individualID": ".+",
    "individualPositionRadius": r"\d+(\.\d+)?",
    "individualPositionAngle": r"-?\d+(\.\d+)?",
    "individualSpeed": r"\d+(\.\d+)?",
    "bboxX": _SHARE,
    "bboxY": _SHARE,
    "bboxWidth": _SHARE,
    "bboxHeight": _SHARE,
    "classificationMethod": "human|machine",
    "classifiedBy": ".+",
    "classificationTimestamp": _TIME,
    "classificationProbability": _SHARE,
    "observationTags": ".+",
    "observationComments": ".+",
}


def check_observations(text: str, *, timeless: bool = False) -> list[dict[str, str]]:
    """Hold a table against Camtrap DP 1.0; `timeless` allows what a folder of pictures cannot tell."""
    lines = list(csv.reader(io.StringIO(text)))
    assert lines[0] == list(OBSERVATIONS)
    rows = [dict(zip(lines[0], line, strict=True)) for line in lines[1:]]
    for row in rows:
        for column, rule in OBSERVATIONS.items():
            required = rule.startswith("!") and not (timeless and column.startswith("event"))
            if row[column] or required:
                assert re.fullmatch(rule.removeprefix("!"), row[column], re.DOTALL), (column, row[column])
        assert row["mediaID"] or row["observationLevel"] == "event"
        assert len({bool(row[c]) for c in ("bboxX", "bboxY", "bboxWidth", "bboxHeight")}) == 1
    assert len({row["observationID"] for row in rows}) == len(rows)
    return rows


def test_the_checks_accept_real_files(real_pictures: Path) -> None:
    folder = real_pictures / "camera_traps" / "zamba_assets"
    for name in ("megadetector_output.json", "ena24_small/md_annotations.json"):
        check_megadetector(json.loads((folder / name).read_text()))
    assert len(check_observations((folder / "camtrap_dp_small" / "observations.csv").read_text())) == 7


GOOD_MD: dict[str, Any] = {
    "info": {"format_version": "1.4"},
    "detection_categories": {"1": "animal"},
    "classification_categories": {"0": "fox", "1": "hare"},
    "images": [
        {
            "file": "a.jpg",
            "detections": [
                {
                    "category": "1",
                    "conf": 0.9,
                    "bbox": [0.0, 0.0, 0.5, 0.5],
                    "classifications": [["0", 0.8], ["1", 0.2]],
                }
            ],
        }
    ],
}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"1.4"', "1.4"),
        ('"1.4"', '"1.2"'),
        ('"detections": [{', '"failure": "x", "detections": [{'),
        ('"conf": 0.9', '"conf": 1'),
        ('"conf": 0.9', '"conf": 1.5'),
        ('"category": "1"', '"category": "7"'),
        ('["0", 0.8]', '["0", 0.1]'),
        ('["0", 0.8]', '["9", 0.8]'),
        ("0.5, 0.5]", "1.5, 0.5]"),
        ('"file": "a.jpg"', '"file": ""'),
        ('{"0": "fox"', '{"fox": "fox"'),
        ('"images"', '"pictures"'),
    ],
)
def test_the_check_of_megadetectors_form_refuses_what_it_should(old: str, new: str) -> None:
    check_megadetector(GOOD_MD)
    text = json.dumps(GOOD_MD)
    assert old in text
    with pytest.raises((AssertionError, KeyError)):
        check_megadetector(json.loads(text.replace(old, new)))


# --- answers for the forms ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("formats") / "bundle", SITE, blank_class="blank", sure_from=0.9)


@pytest.fixture(scope="module")
def cropping(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("formats") / "bundle"
    return make_bundle(folder, SITE, blank_class="blank", sure_from=0.9, crop_margin=0.0)


def place(folder: Path) -> Path:
    """Lay out what a trap brings: a fox, a doubtful fox, a sure blank, a doubtful blank, a broken file."""
    paint(folder / "north" / "1 fox.png", RED)
    paint(folder / "north" / "2 doubtful.png", PALE_RED)
    paint(folder / "south" / "3 blank.png", BLUE)
    paint(folder / "south" / "4 doubtful blank.png", PALE_BLUE)
    (folder / "5 broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    return folder


def written(bundle: Bundle, folder: Path, form: Format) -> str:
    answers = list(predict(bundle, find_images([folder]), 1))
    return render(answers, bundle, form, common_root([folder]), None, NOON)


def test_csv_keeps_its_columns_and_says_what_is_sure(bundle: Bundle, tmp_path: Path) -> None:
    rows = list(csv.DictReader(io.StringIO(written(bundle, place(tmp_path), "csv"))))
    assert list(rows[0]) == ["path", "label", "probability", "failure", "sure", "p:fox", "p:hare", "p:blank"]
    told = {Path(row["path"]).name[0]: (row["label"], row["sure"], bool(row["failure"])) for row in rows}
    assert told == {
        "1": ("fox", "yes", False),
        "2": ("fox", "no", False),
        "3": ("blank", "yes", False),
        "4": ("blank", "no", False),
        "5": ("", "", True),
    }
    assert all(float(row["probability"]) == float(row[f"p:{row['label']}"]) for row in rows if row["label"])


def test_csv_and_json_survive_hostile_names(tmp_path: Path) -> None:
    hostile = make_bundle(tmp_path / "b", ("fox", "hare, brown", "größe"))
    answers = [
        Prediction(Path('a,"b"\n.jpg'), "fox", 0.75, {"fox": 0.75, "hare, brown": 0.25, "größe": 0.0}, None),
        Prediction(Path("c\udcff.jpg"), None, None, None, "the file is empty"),
    ]
    rows = list(csv.reader(io.StringIO(render(answers, hostile, "csv"))))
    assert rows[0][-3:] == ["p:fox", "p:hare, brown", "p:größe"]
    assert rows[1] == ['a,"b"\n.jpg', "fox", "0.75", "", "", "0.75", "0.25", "0.0"]
    assert rows[2][:4] == ["c\N{REPLACEMENT CHARACTER}.jpg", "", "", "the file is empty"]
    for form in get_args(Format):
        text = render(answers, hostile, form, tmp_path, None, NOON)
        text.encode()  # a path that is no Unicode must not end the run
    first, second = json.loads(render(answers, hostile, "json"))
    assert list(first) == ["path", "label", "probability", "probabilities", "failure", "sure"]
    assert first["probabilities"]["größe"] == 0.0
    assert second["failure"] == "the file is empty"


def test_megadetectors_form_of_whole_frames(bundle: Bundle, tmp_path: Path) -> None:
    text = written(bundle, place(tmp_path), "megadetector")
    whole = json.loads(text)
    check_megadetector(whole)
    assert list(whole) == ["info", "detection_categories", "classification_categories", "images"]
    assert whole["info"] == {
        "format_version": "1.4",
        "detector": "taco-export site",
        "detection_completion_time": "2025-06-01 12:00:05",
        "detector_metadata": {"typical_detection_threshold": 0.099, "conservative_detection_threshold": 0.099},
        "classifier": f"taco-export {taco.__version__} colours site",
        "classification_completion_time": "2025-06-01 12:00:05",
        "classifier_metadata": {"typical_classification_threshold": 0.9},
    }
    assert whole["classification_categories"] == {"0": "fox", "1": "hare"}, "blank is no class of a detection"
    images = {image["file"]: image for image in whole["images"]}
    fox, doubtful = images["north/1 fox.png"], images["north/2 doubtful.png"]
    (detection,) = fox["detections"]
    assert detection["category"] == "1"
    assert detection["bbox"] == [0, 0, 1, 1]
    assert detection["conf"] > 0.99
    assert detection["classifications"][0][0] == "0"
    assert "unsure" not in fox
    assert doubtful["unsure"] is doubtful["detections"][0]["unsure"] is True
    assert images["south/3 blank.png"]["detections"] == []
    broken = images["5 broken.jpg"]
    assert broken["failure"] == "Failure image access"
    assert "detections" in broken
    assert broken["detections"] is None
    assert broken["reason"]


def test_an_unsure_blank_stays_visible_at_the_typical_threshold(bundle: Bundle, tmp_path: Path) -> None:
    whole = json.loads(written(bundle, place(tmp_path), "megadetector"))
    images = {image["file"]: image for image in whole["images"]}
    (kept,) = images["south/4 doubtful blank.png"]["detections"]
    assert kept["unsure"] is True
    assert kept["conf"] >= whole["info"]["detector_metadata"]["typical_detection_threshold"]
    assert all(key != "2" for key, _ in kept["classifications"])


shares = st.lists(st.floats(0.001, 1), min_size=3, max_size=3).map(
    lambda raw: dict(zip(SITE, (round(v / sum(raw), 6) for v in raw), strict=True))
)


@given(
    st.lists(shares, max_size=6),
    st.sampled_from([None, 0.0, 0.3, 0.5, 0.6, 0.95, 1.0, 1.000001]),
    st.sampled_from([None, "blank"]),
)
def test_whatever_the_model_says_the_form_holds_and_only_sure_blanks_are_hidden(
    bundle: Bundle, drawn: list[dict[str, float]], sure_from: float | None, blank: str | None
) -> None:
    manifest = bundle.manifest.model_copy(update={"sure_from": sure_from, "blank_class": blank})
    answers = []
    for number, named in enumerate(drawn):
        label = max(named, key=lambda name: named[name])
        sure = None if sure_from is None else named[label] >= sure_from
        answers.append(Prediction(Path(f"{number}.jpg"), label, named[label], named, None, sure))
    whole = json.loads(render(answers, opened(bundle, manifest), "megadetector", None, None, NOON))
    check_megadetector(whole)
    threshold = whole["info"]["detector_metadata"]["typical_detection_threshold"]
    for answer, image in zip(answers, whole["images"], strict=True):
        hidden = not any(d["conf"] >= threshold for d in image["detections"])
        assert hidden == (answer.label == blank and answer.sure is not False)


def opened(bundle: Bundle, manifest: Manifest) -> Bundle:
    """The same bundle with another manifest."""
    other = Bundle.__new__(Bundle)
    other.path, other.preprocessing, other.manifest = bundle.path, bundle.preprocessing, manifest
    return other


def test_many_classes_are_cut_to_the_likeliest_five(bundle: Bundle) -> None:
    names = [f"species {i}" for i in range(20)]
    manifest = bundle.manifest.model_copy(update={"classes": names, "blank_class": None, "sure_from": None})
    named = dict.fromkeys(names, 0.0004) | {"species 7": 0.6, "species 3": 0.3, "species 19": 0.0928}
    answer = Prediction(Path("a.jpg"), "species 7", 0.6, named, None)
    whole = json.loads(render([answer], opened(bundle, manifest), "megadetector", None, None, NOON))
    (detection,) = whole["images"][0]["detections"]
    assert detection["classifications"] == [["7", 0.6], ["3", 0.3], ["19", 0.0928]]
    assert detection["conf"] == 1.0
    even = dataclasses.replace(answer, probabilities=dict.fromkeys(names, 0.05), probability=0.05)
    whole = json.loads(render([even], opened(bundle, manifest), "megadetector", None, None, NOON))
    assert len(whole["images"][0]["detections"][0]["classifications"]) == 5
    assert "classifier_metadata" not in whole["info"]


@pytest.mark.parametrize(
    ("name", "kind", "category"),
    [
        ("Human", "human", "2"),
        ("person", "human", "2"),
        ("homo_sapiens", "human", "2"),
        ("Vehicle", "vehicle", "3"),
        ("Canis lupus", "animal", "1"),
        ("humanoid", "animal", "1"),
    ],
)
def test_people_and_vehicles_are_told_from_animals(bundle: Bundle, name: str, kind: str, category: str) -> None:
    manifest = bundle.manifest.model_copy(update={"classes": [name, "hare", "blank"], "sure_from": None})
    assert class_kind(name, manifest) == kind
    answer = Prediction(Path("/x/a.jpg"), name, 0.9, {name: 0.9, "hare": 0.1, "blank": 0.0}, None)
    other = opened(bundle, manifest)
    whole = json.loads(render([answer], other, "megadetector", None, None, NOON))
    assert whole["images"][0]["detections"][0]["category"] == category
    (row,) = check_observations(render([answer], other, "camtrap-dp", None, None, NOON), timeless=True)
    assert row["observationType"] == kind
    assert row["scientificName"] == (name if kind == "animal" else "")


# --- boxes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def boxed(cropping: Bundle, tmp_path: Path) -> tuple[Path, list[Prediction], Any]:
    """A frame with a fox, a hare, a person and a faint box; an empty one; one that the detector has not seen."""
    image = Image.new("RGB", (200, 100), BLUE)
    image.paste(RED, (20, 30, 60, 70))
    image.paste(PALE_RED, (140, 30, 180, 70))
    image.save(tmp_path / "busy.png")
    paint(tmp_path / "empty.png", BLUE)
    paint(tmp_path / "new.png", GREEN)
    found = [
        {"category": "1", "conf": 0.9, "bbox": [0.1, 0.3, 0.2, 0.4]},
        {"category": "1", "conf": 0.8, "bbox": [0.7, 0.3, 0.2, 0.4]},
        {"category": "2", "conf": 0.7, "bbox": [0.0, 0.0, 0.5, 0.5]},
        {"category": "9", "conf": 0.6, "bbox": [0.0, 0.5, 0.5, 0.5]},
        {"category": "1", "conf": 0.05, "bbox": [0.5, 0.0, 0.5, 0.5]},
    ]
    info = {"format_version": "1.5", "detector": "md_v5a.0.0.pt", "detection_completion_time": "2025-05-01 00:00:00"}
    metadata = {"detector_metadata": {"megadetector_version": "v5a.0.0", "typical_detection_threshold": 0.2}}
    whole = {
        "info": info | metadata,
        "detection_categories": {"1": "animal", "2": "person", "3": "vehicle", "9": "drone"},
        "images": [{"file": "busy.png", "detections": found}, {"file": "empty.png", "detections": []}],
    }
    (tmp_path / "md.json").write_text(json.dumps(whole))
    boxes = read_boxes(tmp_path / "md.json")
    return tmp_path, list(predict(cropping, find_images([tmp_path]), 1, None, boxes)), boxes


def test_csv_and_json_tell_of_boxes(cropping: Bundle, boxed: tuple[Path, list[Prediction], Any]) -> None:
    _, answers, boxes = boxed
    rows = list(csv.DictReader(io.StringIO(render(answers, cropping, "csv", None, boxes))))
    columns = "path label probability failure sure by box_left box_top box_width box_height category confidence note"
    assert list(rows[0]) == [*columns.split(), "p:fox", "p:hare", "p:blank"]
    told = [(row["label"], row["sure"], row["by"], row["box_left"], row["category"], row["confidence"]) for row in rows]
    assert told == [
        ("fox", "yes", "model", "0.1", "animal", "0.9"),
        ("fox", "no", "model", "0.7", "animal", "0.8"),
        ("person", "", "detector", "0.0", "person", "0.7"),
        ("drone", "", "detector", "0.0", "drone", "0.6"),
        ("blank", "", "detector", "", "", ""),
        ("hare", "yes", "model", "", "", ""),
    ]
    assert [bool(row["note"]) for row in rows] == [False] * 5 + [True]
    first = json.loads(render(answers, cropping, "json", None, boxes))[0]
    assert first["box"] == pytest.approx([0.1, 0.3, 0.2, 0.4])
    assert (first["category"], first["confidence"], first["by"]) == ("animal", 0.9, "model")


def test_megadetectors_boxes_are_passed_on(cropping: Bundle, boxed: tuple[Path, list[Prediction], Any]) -> None:
    folder, answers, boxes = boxed
    whole = json.loads(render(answers, cropping, "megadetector", folder, boxes, NOON))
    check_megadetector(whole)
    info = whole["info"]
    assert (info["detector"], info["detection_completion_time"]) == ("md_v5a.0.0.pt", "2025-05-01 00:00:00")
    assert info["detector_metadata"]["megadetector_version"] == "v5a.0.0"
    assert whole["detection_categories"] == {"1": "animal", "2": "person", "3": "vehicle", "4": "drone"}
    busy, empty, new = whole["images"]
    told = [(d["category"], d["conf"], "classifications" in d, d.get("unsure")) for d in busy["detections"]]
    assert told == [
        ("1", 0.9, True, None),
        ("1", 0.8, True, True),
        ("2", 0.7, False, None),
        ("4", 0.6, False, None),
        ("1", 0.05, False, None),
    ]
    assert busy["unsure"] is True
    assert busy["detections"][2]["bbox"] == [0.0, 0.0, 0.5, 0.5]
    assert empty["detections"] == []
    assert new["note"].startswith("md.json does not list it")
    again = folder / "again.json"
    again.write_text(json.dumps(whole))
    assert len(read_boxes(again).detections(folder / "busy.png") or ()) == 5, "our own reader reads it"


def test_a_crop_that_the_model_calls_blank_stays_a_detection(cropping: Bundle, tmp_path: Path) -> None:
    box = Box(0.1, 0.1, 0.2, 0.2)
    named = {"fox": 0.03, "hare": 0.01, "blank": 0.96}
    answer = Prediction(tmp_path / "a.jpg", "blank", 0.96, named, None, True, "model", box, "animal", 0.9)
    certain = dataclasses.replace(answer, probabilities={"fox": 0.0004, "hare": 0.0001, "blank": 0.9995})
    faint = (Detection("animal", 0.1, box),)
    whole = json.loads(
        render([dataclasses.replace(answer, below=faint)], cropping, "megadetector", tmp_path, None, NOON)
    )
    check_megadetector(whole)
    first, second = whole["images"][0]["detections"]
    assert (first["conf"], first["classifications"]) == (0.9, [["0", 0.03], ["1", 0.01]])
    assert (second["conf"], "classifications" in second) == (0.1, False)
    whole = json.loads(render([certain], cropping, "megadetector", tmp_path, None, NOON))
    assert whole["images"][0]["detections"][0]["classifications"] == [["0", 0.0004]], "readers expect one at least"


def test_camtrap_dp_rows_of_boxes(cropping: Bundle, boxed: tuple[Path, list[Prediction], Any]) -> None:
    folder, answers, boxes = boxed
    rows = check_observations(render(answers, cropping, "camtrap-dp", folder, boxes, NOON), timeless=True)
    told = [(row["mediaID"], row["observationType"], row["bboxX"], row["classificationProbability"]) for row in rows]
    probability = str(answers[0].probability)
    assert told == [
        ("busy.png", "animal", "0.1", probability),
        ("busy.png", "unclassified", "0.7", ""),
        ("busy.png", "human", "0.0", "0.7"),
        ("busy.png", "unclassified", "0.0", ""),
        ("empty.png", "blank", "", ""),
        ("new.png", "animal", "", str(answers[5].probability)),
    ]
    assert rows[1]["observationComments"].startswith("unsure: look at it (likeliest: fox, 0.")
    assert rows[2]["classifiedBy"] == "detector of the given boxes"
    assert rows[3]["observationComments"] == "the detector says drone"
    assert {row["deploymentID"] for row in rows} == {folder.name}


# --- Camtrap DP -----------------------------------------------------------------------------------------------------


def test_camtrap_dp_rows_of_a_folder(bundle: Bundle, tmp_path: Path) -> None:
    text = written(bundle, place(tmp_path / "traps"), "camtrap-dp")
    rows = {row["mediaID"]: row for row in check_observations(text, timeless=True)}
    told = {name: (row["deploymentID"], row["observationType"], row["scientificName"]) for name, row in rows.items()}
    assert told == {
        "north/1 fox.png": ("north", "animal", "fox"),
        "north/2 doubtful.png": ("north", "unclassified", ""),
        "south/3 blank.png": ("south", "blank", ""),
        "south/4 doubtful blank.png": ("south", "unclassified", ""),
        "5 broken.jpg": ("traps", "unclassified", ""),
    }
    fox, broken = rows["north/1 fox.png"], rows["5 broken.jpg"]
    assert fox["classificationMethod"] == "machine"
    assert fox["classifiedBy"] == f"taco-export {taco.__version__} colours"
    assert fox["classificationTimestamp"] == "2025-06-01T12:00:05Z"
    assert broken["observationComments"].startswith("unreadable: ")
    assert broken["classificationMethod"] == ""
    assert text == written(bundle, tmp_path / "traps", "camtrap-dp"), "the same identifiers again"


def test_camtrap_dp_rows_of_a_package_belong_to_it(bundle: Bundle, real_pictures: Path, tmp_path: Path) -> None:
    assets = real_pictures / "camera_traps" / "zamba_assets"
    package = tmp_path / "dp"
    shutil.copytree(assets / "camtrap_dp_small", package)
    for name in ("small_cat.jpg", "wild_dog_jackal.jpg"):  # the third listed picture is missing on purpose
        shutil.copy(assets / name, package)
    for source in (package, package / "datapackage.json"):
        text = written(bundle, source, "camtrap-dp")
        rows = check_observations(text)
        assert [(row["mediaID"], row["deploymentID"]) for row in rows] == [
            ("m1", "dep1"),
            ("m2", "dep1"),
            ("m3", "dep2"),
        ]
        assert rows[0]["eventStart"] == rows[0]["eventEnd"] == "2020-05-30T04:57:37Z"
        assert rows[2]["observationComments"] == "unreadable: there is no such file"
    taken = {row["observationID"] for row in check_observations((package / "observations.csv").read_text())}
    assert not taken & {row["observationID"] for row in rows}


def test_one_file_under_two_media_gets_a_row_for_each(bundle: Bundle, tmp_path: Path) -> None:
    paint(tmp_path / "a.png", RED)
    (tmp_path / "datapackage.json").write_text('{"resources": [{"name": "media", "path": ["media.csv"]}]}')
    lines = ["mediaID,deploymentID,eventID,timestamp,filePath", "m1,d1,e1,2020-05-30T04:57:37Z,a.png"]
    (tmp_path / "media.csv").write_text("\n".join([*lines, "m2,d2,e2,2020-05-30T04:57:38+02:00,a.png"]))
    rows = check_observations(written(bundle, tmp_path, "camtrap-dp"))
    assert [(row["mediaID"], row["eventID"], row["observationType"]) for row in rows] == [
        ("m1", "e1", "animal"),
        ("m2", "e2", "animal"),
    ]


# --- real frames ----------------------------------------------------------------------------------------------------


def test_real_frames_go_through_every_form(bundle: Bundle, real_pictures: Path) -> None:
    folder = real_pictures / "camera_traps" / "speciesnet_test_data"
    found = find_images([folder])
    answers = list(predict(bundle, found, 2))
    names = [path.name for path in found]
    assert len(answers) == 14
    failed = [a.path.name for a in answers if a.failure]
    assert failed == ["african_elephants_truncated_file.jpg"]
    texts = {form: render(answers, bundle, form, folder, None, datetime.now(UTC)) for form in get_args(Format)}
    whole = json.loads(texts["megadetector"])
    check_megadetector(whole)
    rows = check_observations(texts["camtrap-dp"], timeless=True)
    table = list(csv.DictReader(io.StringIO(texts["csv"])))
    assert [image["file"] for image in whole["images"]] == names
    assert [row["mediaID"] for row in rows] == names
    assert [Path(row["path"]).name for row in table] == names
    assert [Path(entry["path"]).name for entry in json.loads(texts["json"])] == names
    assert {row["sure"] for row in table if not row["failure"]} <= {"yes", "no"}
