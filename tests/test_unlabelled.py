"""Frames without labels: listed, drawn, looked at as the task is, and never copies of what judges the model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import draw_task
from PIL import ExifTags, Image

from taco.device.images import Preprocessing
from taco.errors import TaskError
from taco.material import Material, divide, find_pictures
from taco.options import ExportOptions, make_options
from taco.pictures.bank import BankOptions, PictureBank
from taco.pictures.listing import Box
from taco.recovery.unlabelled import Unlabelled, list_frames, read_frames

SIZE = Preprocessing((3, 64, 64), "bicubic", (0.5, 0.5, 0.5), (0.3, 0.3, 0.3), 1.0, "center")


def options_for(task: Path, **values: Any) -> ExportOptions:
    return make_options({"task": task, "target": "host-cpu", "out": "unused", "shots": 4, **values})


def photo(path: Path, seed: int) -> Path:
    """A picture whose look is its own."""
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 7, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(coarse).resize((96, 96), Image.Resampling.BICUBIC).save(path)
    return path


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("unlabelled")
    draw_task(folder / "site", count=8)
    for i in range(6):
        photo(folder / "frames" / "night" / f"{i}.png", i)
    return folder


@pytest.fixture(scope="module")
def material(site: Path) -> Material:
    options = options_for(site / "site")
    listings = find_pictures(options)
    return divide(listings, PictureBank.read(listings.views, SIZE, BankOptions(jobs=1)), options)


def read(site: Path, material: Material, folder: Path, tmp_path: Path) -> Unlabelled:
    frames = list_frames(options_for(site / "site", unlabelled=folder), cropped=False)
    found = read_frames(frames, material, tmp_path / "pixels")
    assert not (tmp_path / "pixels").exists()
    return found


def test_frames_at_any_depth_are_found_and_repeat(site: Path, material: Material, tmp_path: Path) -> None:
    found = read(site, material, site / "frames", tmp_path)
    assert [v.path.name for v in found.views] == [f"{i}.png" for i in range(6)]
    assert (found.copies, found.skipped) == (0, ())
    assert Unlabelled.from_json(json.loads(json.dumps(found.to_json()))) == found


def test_copies_of_what_judges_are_left_out_and_of_fit_pictures_are_not(
    site: Path, material: Material, tmp_path: Path
) -> None:
    folder = shutil.copytree(site / "frames", tmp_path / "frames")
    judge, chooser, learnt = material.task.evaluation[0], material.task.select[0], material.task.fit[0]
    shutil.copy(judge.path, folder / "a.png")
    Image.open(judge.path).save(folder / "b.jpg", quality=90)  # nearly the same look, other bytes
    shutil.copy(chooser.path, folder / "c.png")
    shutil.copy(learnt.path, folder / "d.png")
    shutil.copy(folder / "night" / "0.png", folder / "e.png")  # twice among the frames
    found = read(site, material, folder, tmp_path)
    names = sorted(v.path.name for v in found.views)
    assert "d.png" in names
    assert not {"a.png", "b.jpg", "c.png"} & set(names)
    assert len({"e.png", "0.png"} & set(names)) == 1
    assert found.copies == 4


def test_frames_of_a_burst_that_judges_are_left_out_and_those_of_another_hour_are_not(
    site: Path, material: Material, tmp_path: Path
) -> None:
    def taken(name: str, picture: Image.Image, at: str) -> None:
        exif = Image.Exif()
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = f"2026:11:29 {at}"
        picture.save(folder / name, exif=exif, quality=95)

    folder = tmp_path / "frames"
    folder.mkdir()
    others = [Image.open(photo(tmp_path / f"{i}.png", 20 + i)) for i in range(2)]
    taken("copy.jpg", Image.open(material.task.evaluation[0].path).convert("RGB"), "10:00:00")
    taken("next.jpg", others[0], "10:00:20")
    taken("later.jpg", others[1], "11:00:00")
    found = read(site, material, folder, tmp_path)
    assert [view.path.name for view in found.views] == ["later.jpg"]
    assert found.copies == 2


def test_frames_that_show_a_shot_again_go_with_it_where_it_judges(
    site: Path, material: Material, tmp_path: Path
) -> None:
    folder = shutil.copytree(site / "frames", tmp_path / "frames")
    for place in (0, 2):
        shutil.copy(material.shots[place].path, folder / f"shot{place}.png")
    found = read(site, material, folder, tmp_path)
    found = Unlabelled.from_json(json.loads(json.dumps(found.to_json())))
    everything = {view.path.name for view in found.views}
    assert {"shot0.png", "shot2.png"} < everything
    left = found.without([2, 3])
    assert {view.path.name for view in left.views} == everything - {"shot2.png"}
    assert left.copies == found.copies + 1
    assert found.without([1]) == found


def test_unreadable_frames_are_listed(site: Path, material: Material, tmp_path: Path) -> None:
    photo(tmp_path / "f" / "0.png", 0)
    (tmp_path / "f" / "broken.png").write_bytes(b"no picture")
    found = read(site, material, tmp_path / "f", tmp_path)
    assert len(found.views) == 1
    assert len(found.skipped) == 1
    assert "broken.png: " in found.skipped[0]


def test_a_link_to_nowhere_is_a_frame_that_is_listed_as_skipped(site: Path, material: Material, tmp_path: Path) -> None:
    photo(tmp_path / "f" / "0.png", 0)
    link = tmp_path / "f" / "gone.jpg"
    link.symlink_to("nowhere")
    options = options_for(site / "site", unlabelled=tmp_path / "f")
    broken = list_frames(options, cropped=False).fingerprint()
    found = read(site, material, tmp_path / "f", tmp_path)
    assert len(found.views) == 1
    assert [line.partition(": ")[0] for line in found.skipped] == [str(link)]
    (tmp_path / "f" / "nowhere").write_bytes(b"now it leads somewhere")
    assert list_frames(options, cropped=False).fingerprint() != broken


def test_a_change_among_the_frames_is_another_request(site: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(site / "frames", tmp_path / "frames")
    options = options_for(site / "site", unlabelled=folder)
    before = list_frames(options, cropped=False).fingerprint()
    assert list_frames(options, cropped=False).fingerprint() == before
    photo(folder / "more.png", 9)
    assert list_frames(options, cropped=False).fingerprint() != before


def test_at_most_max_images_are_drawn_with_the_seed(site: Path) -> None:
    def names(seed: int) -> list[str]:
        options = options_for(site / "site", unlabelled=site / "frames", max_images=4, seed=seed)
        return [v.path.name for v in list_frames(options, cropped=False).views]

    assert len(names(0)) == 4
    assert names(0) == names(0)
    assert any(names(0) != names(seed) for seed in range(1, 5))


def test_without_the_flag_there_is_nothing(site: Path, material: Material, tmp_path: Path) -> None:
    frames = list_frames(options_for(site / "site"), cropped=True)
    assert read_frames(frames, material, tmp_path / "pixels") == Unlabelled()


def boxes(path: Path, **found: list[float]) -> Path:
    images = [
        {"file": f"night/{name[1:]}.png", "detections": [{"category": "1", "conf": conf, "bbox": [0.1, 0.2, 0.3, 0.4]}]}
        for name, (conf,) in found.items()
    ]
    path.write_text(json.dumps({"images": images, "detection_categories": {"1": "animal"}}))
    return path


def test_a_task_in_boxes_takes_frames_in_boxes(site: Path, tmp_path: Path) -> None:
    file = boxes(tmp_path / "md.json", _0=[0.9], _1=[0.1])
    options = options_for(site / "site", unlabelled=site / "frames", boxes=file)
    frames = list_frames(options, cropped=True)
    assert [(v.path.name, v.box) for v in frames.views] == [("0.png", Box(0.1, 0.2, 0.3, 0.4))]
    assert len(frames.skipped) == 5
    assert "no box of an animal in md.json" in frames.skipped[0]


@pytest.mark.parametrize(
    ("case", "message"),
    [("absent", "there is no such folder"), ("empty", "holds no picture"), ("no boxes", "there are none for"),
     ("no animal", "has no box of an animal for any of the 6 frames")],
)  # fmt: skip
def test_frames_that_cannot_be_used_are_said(case: str, message: str, site: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    folder = {"absent": tmp_path / "gone", "empty": tmp_path / "empty"}.get(case, site / "frames")
    file = boxes(tmp_path / "md.json", _0=[0.01]) if case == "no animal" else None
    with pytest.raises(TaskError, match=message) as caught:
        list_frames(options_for(site / "site", unlabelled=folder, boxes=file), cropped=case.startswith("no"))
    assert caught.value.todo
