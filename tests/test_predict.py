"""Finding pictures and naming them: whole frames, boxes, people, failures, and what is sure."""

from __future__ import annotations

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from PIL import Image
from tiny_bundle import BLUE, GREEN, PALE_RED, RED, make_bundle, paint

from taco import api
from taco.answers.media import media_of, package_folder
from taco.device import classify
from taco.errors import InputError, MeasurementError
from taco.formats.megadetector import DetectorOutput, read_boxes
from taco.predict import Prediction, common_root, find_images, predict, softmax


def detect(folder: Path, images: list[dict[str, Any]]) -> DetectorOutput:
    """Write a detector's output and read it."""
    file = folder / "md.json"
    whole = {
        "info": {"format_version": "1.4"},
        "detection_categories": {"1": "animal", "2": "person"},
        "images": images,
    }
    file.write_text(json.dumps(whole))
    return read_boxes(file)


def seen(category: str, conf: float, *bbox: float) -> dict[str, Any]:
    return {"category": category, "conf": conf, "bbox": list(bbox)}


# --- finding pictures -------------------------------------------------------------------------------------------------


def write_package(
    folder: Path, rows: list[str], header: str = "mediaID,deploymentID,timestamp,filePath,fileMediatype"
) -> Path:
    """Write a Camtrap DP package of media only."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "datapackage.json").write_text(json.dumps({"resources": [{"name": "media", "path": "media.csv"}]}))
    (folder / "media.csv").write_text("\n".join([header, *rows]) + "\n")
    return folder


def test_folders_are_searched_in_depth_and_each_picture_is_found_once(tmp_path: Path) -> None:
    one, two = paint(tmp_path / "b" / "1.jpg", RED), paint(tmp_path / "a" / "2.PNG", RED)
    (tmp_path / "notes.txt").write_text("no picture")
    assert find_images([tmp_path, one]) == [two, one]
    assert find_images([tmp_path / "notes.txt"]) == [tmp_path / "notes.txt"], "a file that was named is not ignored"


def test_pictures_of_kinds_that_are_not_read_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    one = paint(tmp_path / "1.jpg", RED)
    for name in ("2.heic", "3.HEIC", "4.dng", "1.dng"):
        (tmp_path / name).touch()
    assert find_images([tmp_path]) == [one]
    (line,) = caplog.messages
    told = "pictures of kinds that are not read are left out (1 .dng, 2 .heic): convert them to JPEG"
    assert line == f"{tmp_path}: {told}"


def test_the_device_says_why_such_a_picture_has_no_answer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fox:
        manifest: ClassVar = {"classes": ["fox", "hare"]}

        def __init__(self, *_: object) -> None:
            pass

        def shares(self, path: str) -> tuple[list[float], str]:
            return [0.75, 0.25], ""

    monkeypatch.setattr(classify, "Namer", Fox)
    for name in ("1.jfif", "2.heic", "1.dng"):
        (tmp_path / name).touch()
    assert list(classify.predict("bundle", [str(tmp_path)], 1)) == [
        (str(tmp_path / "1.jfif"), "fox", 0.75, ""),
        (str(tmp_path / "2.heic"), None, 0.0, ".heic pictures are not read: convert it to JPEG"),
    ]


def test_runs_below_a_folder_are_not_searched_unless_asked_for(tmp_path: Path) -> None:
    picture, left = paint(tmp_path / "1.jpg", RED), paint(tmp_path / "runs/trap1/left.jpg", RED)
    (tmp_path / "runs/trap1/.taco").mkdir()
    assert find_images([tmp_path]) == find_images([tmp_path, tmp_path / "runs"]) == [picture]
    assert find_images([tmp_path / "runs/trap1"]) == [left]


def test_a_package_gives_the_pictures_of_its_media_table_and_no_others(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    rows = ["m2,d1,2020-05-30T04:57:40Z,sub/b.jpg,image/jpeg", "m1,d1,,a.jpg,", "m3,d1,,https://example.org/c.jpg,"]
    folder = write_package(tmp_path / "dp", [*rows, "m4,d2,,d.mp4,video/mp4", "m5,d2,,gone.jpg,image/jpeg"])
    paint(folder / "unlisted.jpg", RED)
    expected = [folder / "sub/b.jpg", folder / "a.jpg", folder / "gone.jpg"]
    assert find_images([folder]) == expected
    assert find_images([folder / "datapackage.json"]) == expected
    assert sorted(caplog.messages[:2]) == [
        "1 of the package's media are left out: it is a video",
        "1 of the package's media are left out: it is on the web: download it first",
    ]
    first = media_of(folder).pictures[0]
    assert first[1:] == ("m2", "d1", "", "2020-05-30T04:57:40Z")


def test_a_folder_with_another_data_package_is_a_folder(tmp_path: Path) -> None:
    (tmp_path / "datapackage.json").write_text('{"resources": [{"name": "birds", "path": "birds.csv"}]}')
    picture = paint(tmp_path / "1.jpg", RED)
    assert package_folder(tmp_path) is None
    assert find_images([tmp_path]) == [picture]


BAD_PACKAGES = {
    "no column": (["m1,d1"], "mediaID,deploymentID", "no column filePath"),
    "no id": ([",d1,a.jpg"], "mediaID,deploymentID,filePath", "line 2 lacks a mediaID"),
    "id twice": (["m1,d1,a.jpg", "m1,d1,b.jpg"], "mediaID,deploymentID,filePath", "'m1' comes twice"),
    "no name": (["m1,d1,"], "mediaID,deploymentID,filePath", "names no file"),
    "only videos": (["m1,d1,a.mp4"], "mediaID,deploymentID,filePath", "lists no picture"),
    "empty": ([], "mediaID,deploymentID,filePath", "lists no picture"),
}


@pytest.mark.parametrize("name", BAD_PACKAGES)
def test_a_damaged_package_says_where(tmp_path: Path, name: str) -> None:
    rows, header, message = BAD_PACKAGES[name]
    with pytest.raises(InputError, match=message):
        find_images([write_package(tmp_path, rows, header)])


@pytest.mark.parametrize("path", ["../media.csv", "/etc/passwd", "https://example.org/media.csv", 7, None])
def test_a_media_table_outside_of_its_package_is_refused(tmp_path: Path, path: object) -> None:
    (tmp_path / "datapackage.json").write_text(json.dumps({"resources": [{"name": "media", "path": path}]}))
    with pytest.raises(InputError, match="no file of the package"):
        find_images([tmp_path])


def test_sources_without_pictures_are_refused(tmp_path: Path) -> None:
    package = write_package(tmp_path / "dp", ["m1,d1,,a.jpg,"])
    (tmp_path / "empty").mkdir()
    for sources, message in (
        ([tmp_path / "none"], "no file or folder"),
        ([tmp_path / "empty"], "no pictures under"),
        ([package, tmp_path / "empty"], "not the only source"),
    ):
        with pytest.raises(InputError, match=message):
            find_images(sources)


def test_names_in_results_are_relative_to_what_the_sources_share(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = paint(tmp_path / "a" / "x" / "1.jpg", RED)
    (tmp_path / "b").mkdir()
    assert common_root([tmp_path / "a"]) == tmp_path / "a"
    assert common_root([picture]) == picture.parent
    assert common_root([picture.parent, tmp_path / "b"]) == tmp_path
    monkeypatch.chdir(tmp_path / "b")
    assert common_root([Path("../a"), Path()]) == tmp_path


# --- whole frames ---------------------------------------------------------------------------------------------------


def test_each_picture_is_named_and_an_unreadable_one_has_its_reason(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    red, gone = paint(tmp_path / "red.jpg", RED), tmp_path / "vanished.jpg"
    steps: list[int] = []
    fox, lost, blank = predict(bundle, [red, gone, paint(tmp_path / "blue.png", BLUE)], 1, steps.append)
    assert (fox.label, fox.failure, fox.sure, fox.by) == ("fox", None, None, "model"), "an old bundle marks nothing"
    assert fox.probabilities is not None
    assert fox.probability == max(fox.probabilities.values()) > 0.99
    assert sum(fox.probabilities.values()) == pytest.approx(1, abs=3e-6)
    assert lost == Prediction(gone, None, None, None, "there is no such file")
    assert blank.label == "blank"
    assert steps == [1, 1, 1]
    for answer in (fox, lost, blank):
        json.dumps(dataclasses.asdict(dataclasses.replace(answer, path=str(answer.path))))  # type: ignore[arg-type]


def test_an_answer_below_the_bundles_threshold_is_unsure(tmp_path: Path) -> None:
    pictures = [paint(tmp_path / "1.png", RED), paint(tmp_path / "2.png", PALE_RED)]
    asked = [a.probability for a in predict(make_bundle(tmp_path / "old"), pictures, 1)]
    exactly = make_bundle(tmp_path / "new", sure_from=asked[0])
    assert [a.sure for a in predict(exactly, pictures, 1)] == [True, False]
    nothing = make_bundle(tmp_path / "never", sure_from=1.000001)
    assert [a.sure for a in predict(nothing, pictures, 1)] == [False, False]


def test_pictures_are_read_one_by_one_when_their_answer_is_asked_for(tmp_path: Path) -> None:
    first, second = paint(tmp_path / "1.png", RED), paint(tmp_path / "2.png", GREEN)
    answers = predict(make_bundle(tmp_path / "bundle"), [first, second], 1)
    assert next(answers).label == "fox"
    second.unlink()
    assert next(answers).failure == "there is no such file"


def test_a_model_that_does_not_open_is_a_missing_measurement(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    bundle.model_path.write_bytes(b"damaged after it was opened")
    with pytest.raises(MeasurementError, match="cannot open"):
        predict(bundle, [tmp_path / "1.jpg"], 1)


def test_softmax_is_stable() -> None:
    assert softmax(np.array([1000.0, 1000.0, -1000.0])) == pytest.approx([0.5, 0.5, 0.0])


# --- boxes ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def two_animals(tmp_path: Path) -> Path:
    """A blue frame with a red square on the left and a green one on the right."""
    image = Image.new("RGB", (200, 100), BLUE)
    image.paste(RED, (20, 30, 60, 70))
    image.paste(GREEN, (140, 30, 180, 70))
    image.save(tmp_path / "two.png")
    return tmp_path / "two.png"


LEFT, RIGHT = (0.1, 0.3, 0.2, 0.4), (0.7, 0.3, 0.2, 0.4)


def test_every_animal_gets_an_answer_from_its_crop(tmp_path: Path, two_animals: Path) -> None:
    found = [seen("1", 0.9, *LEFT), seen("1", 0.8, *RIGHT), seen("2", 0.2, 0, 0, 0.1, 0.1), seen("1", 0.19, *RIGHT)]
    boxes = detect(tmp_path, [{"file": "two.png", "detections": found}])
    bundle = make_bundle(tmp_path / "bundle", crop_margin=0.0, blank_class="blank", sure_from=0.5)
    steps: list[int] = []
    fox, hare, person = predict(bundle, [two_animals], 1, steps.append, boxes)
    assert (fox.label, fox.box, fox.category, fox.confidence, fox.sure) == ("fox", LEFT, "animal", 0.9, True)
    assert (hare.label, hare.box, hare.confidence) == ("hare", pytest.approx(RIGHT), 0.8)
    assert (person.label, person.by, person.probability, person.sure) == ("person", "detector", None, None)
    assert [(d.category, d.confidence) for d in fox.below] == [("animal", 0.19)]
    assert steps == [1]
    assert predict(bundle, [two_animals], 1, None, boxes, 0.95).__next__().label == "blank", "none is sure enough"


def test_the_api_takes_boxes(tmp_path: Path, two_animals: Path) -> None:
    boxes = detect(tmp_path, [{"file": "two.png", "detections": [seen("1", 0.9, *LEFT), seen("1", 0.3, *RIGHT)]}])
    bundle = make_bundle(tmp_path / "bundle", crop_margin=0.0).path
    answers = api.classify(bundle, [two_animals], 1, boxes=boxes.file)
    assert [(a.label, a.confidence) for a in answers] == [("fox", 0.9), ("hare", 0.3)]
    assert [a.label for a in api.classify(bundle, [two_animals], 1, boxes=boxes.file, min_confidence=0.5)] == ["fox"]


def test_the_margin_of_the_bundle_decides_how_much_is_seen(tmp_path: Path, two_animals: Path) -> None:
    boxes = detect(tmp_path, [{"file": "two.png", "detections": [seen("1", 0.9, *LEFT)]}])
    shares = []
    for margin in (0.0, 0.5):
        (answer,) = predict(make_bundle(tmp_path / f"m{margin}", crop_margin=margin), [two_animals], 1, None, boxes)
        assert answer.probabilities is not None
        shares.append(answer.probabilities["blank"])
    assert shares[0] < 0.01 < shares[1], "the margin shows the blue around the animal"


@pytest.mark.parametrize(("blank_class", "label"), [("nothing", "nothing"), (None, "blank")])
def test_frames_without_animals_do_not_reach_the_model(tmp_path: Path, blank_class: str | None, label: str) -> None:
    images = [
        {"file": "none.png", "detections": []},
        {"file": "faint.png", "detections": [seen("1", 0.1, *LEFT)]},
        {"file": "people.png", "detections": [seen("2", 0.9, *LEFT), seen("1", 0.1, *RIGHT)]},
    ]
    boxes = detect(tmp_path, images)
    classes = ("fox", "hare", blank_class or "lynx")
    bundle = make_bundle(tmp_path / "bundle", classes, crop_margin=0.1, blank_class=blank_class, sure_from=0.5)
    none, faint, people = predict(bundle, [tmp_path / str(i["file"]) for i in images], 1, None, boxes)
    for answer in (none, faint):  # the files do not exist: nobody may open them
        assert (answer.label, answer.by, answer.probability, answer.sure) == (label, "detector", None, None)
        assert answer.failure is None
    assert people.label == people.category == "person"


def test_pictures_that_the_detector_has_not_seen_are_judged_whole_and_say_so(
    tmp_path: Path, two_animals: Path, caplog: pytest.LogCaptureFixture
) -> None:
    failed, absent = paint(tmp_path / "failed.png", RED), paint(tmp_path / "absent.png", GREEN)
    for folder in ("a", "b"):
        paint(tmp_path / folder / "twice.png", RED)
    images = [
        {"file": "two.png", "detections": []},
        {"file": "failed.png", "detections": None, "failure": "Failure inference"},
        {"file": "elsewhere/a/twice.png", "detections": []},
        {"file": "elsewhere/b/twice.png", "detections": []},
    ]
    boxes = detect(tmp_path, images)
    twice = paint(tmp_path / "c" / "twice.png", RED)
    bundle = make_bundle(tmp_path / "bundle", crop_margin=0.1)
    _, *others = predict(bundle, [two_animals, failed, absent, twice], 1, None, boxes)
    assert [a.label for a in others] == ["fox", "hare", "fox"]
    notes = ["the detector failed on it (Failure inference)", "md.json does not list it", "several entries of md.json"]
    for answer, note in zip(others, notes, strict=True):
        assert (answer.note or "").startswith(note)
        assert answer.box is None
    assert caplog.messages[-1] == "3 of 4 pictures have no boxes and were judged as whole frames"


def test_an_entry_that_several_pictures_may_be_of_gives_none_of_them_its_boxes(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    two = [paint(tmp_path / place / "same.png", GREEN) for place in ("a", "b")]
    boxes = detect(tmp_path, [{"file": "gone/same.png", "detections": [seen("1", 0.9, *LEFT)]}])
    bundle = make_bundle(tmp_path / "bundle", crop_margin=0.1)
    answers = list(predict(bundle, two, 1, None, boxes))
    assert [(a.box, a.label) for a in answers] == [(None, "hare")] * 2
    assert {a.note for a in answers} == {
        "an entry of md.json may be of several pictures of this name: judged as a whole frame"
    }
    assert caplog.messages[-1] == "2 of 2 pictures have no boxes and were judged as whole frames"
    (alone,) = predict(bundle, two[:1], 1, None, boxes)
    assert alone.box == LEFT


def test_an_entry_is_of_the_picture_at_its_place_first(tmp_path: Path) -> None:
    at, named = paint(tmp_path / "a/1.png", RED), paint(tmp_path / "b/1.png", GREEN)
    boxes = detect(tmp_path, [{"file": "a/1.png", "detections": [seen("1", 0.9, *LEFT)]}])
    one, other = predict(make_bundle(tmp_path / "bundle", crop_margin=0.1), [at, named], 1, None, boxes)
    assert one.box == LEFT
    assert other.box is None
    assert (other.note or "").startswith("an entry of md.json may be of several")


def test_an_unreadable_picture_with_boxes_is_one_failure(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"\xff\xd8\xff\xe0 no picture")
    boxes = detect(tmp_path, [{"file": "bad.jpg", "detections": [seen("1", 0.9, *LEFT), seen("1", 0.8, *RIGHT)]}])
    (answer,) = predict(make_bundle(tmp_path / "bundle", crop_margin=0.1), [tmp_path / "bad.jpg"], 1, None, boxes)
    assert answer.failure
    assert answer.box is None


def test_boxes_and_bundle_must_fit(tmp_path: Path, two_animals: Path, caplog: pytest.LogCaptureFixture) -> None:
    boxes = detect(tmp_path, [{"file": "other/place.png", "detections": []}])
    crops = make_bundle(tmp_path / "crops", crop_margin=0.1)
    with pytest.raises(InputError, match="whole frames and cannot use boxes"):
        predict(make_bundle(tmp_path / "whole"), [two_animals], 1, None, boxes)
    with pytest.raises(InputError, match="lists none of the 1 pictures"):
        predict(crops, [two_animals], 1, None, boxes)
    with pytest.raises(InputError, match="from 0 to 1"):
        predict(crops, [two_animals], 1, None, boxes, 20)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert [a.label for a in predict(crops, [two_animals] * 3, 1)] == ["blank"] * 3
    (message,) = caplog.messages
    assert "whole frames: give --boxes" in message


def test_boxes_are_those_of_the_upright_picture(tmp_path: Path) -> None:
    upright = Image.new("RGB", (100, 200), BLUE)
    upright.paste(RED, (10, 20, 50, 60))
    exif = Image.Exif()
    exif[0x0112] = 6  # shown after a quarter turn clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    boxes = detect(tmp_path, [{"file": "turned.png", "detections": [seen("1", 0.9, 0.1, 0.1, 0.4, 0.2)]}])
    (answer,) = predict(make_bundle(tmp_path / "b", crop_margin=0.0), [tmp_path / "turned.png"], 1, None, boxes)
    assert answer.label == "fox"
    assert (answer.probability or 0) > 0.99


def test_real_boxes_of_real_pictures_are_used(real_pictures: Path, tmp_path: Path) -> None:
    source = real_pictures / "camera_traps" / "zamba_assets" / "ena24_small"
    shutil.copytree(source, tmp_path / "ena24")
    boxes = read_boxes(source / "md_annotations.json", [tmp_path / "ena24"])
    found = find_images([tmp_path / "ena24"])
    answers = list(predict(make_bundle(tmp_path / "bundle", crop_margin=0.15), found, 2, None, boxes))
    assert len(answers) == len(found) == 21
    assert all(a.box is not None and a.category == "animal" and a.failure is None for a in answers)
