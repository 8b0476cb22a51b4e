"""Listing 100,000 pictures of each form, checked: our seconds, and those of `json.load` on the COCO file alone."""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from taco.task import ListOptions, list_pictures

IMAGES = 100_000
CLASSES = 20
_PLACES = 50
_COCO = "lila.json"


def main(count: int = IMAGES) -> None:
    """Make each form up under a temporary folder, list it once, and print wall and processor seconds."""
    with tempfile.TemporaryDirectory() as made:
        for form, make in _FORMS.items():
            folder = Path(made, form.replace(" ", "-"))
            folder.mkdir()
            source, options = make(folder, count)
            wall, processor = time.perf_counter(), time.process_time()
            listing = list_pictures(source, options)
            wall, processor = time.perf_counter() - wall, time.process_time() - processor
            print(f"{form:<32} {len(listing.pictures):7} pictures  {wall:6.1f} s  processor {processor:6.1f} s")
            if source.name == _COCO:
                begin = time.perf_counter()
                json.loads(source.read_bytes())
                print(f"{'  json.loads of its bytes alone':<51} {time.perf_counter() - begin:6.1f} s")


def _names(count: int) -> Iterator[tuple[int, str, str]]:
    for number in range(count):
        label = f"species {number % CLASSES}" if number % CLASSES else "blank"
        yield number, f"camera{number % _PLACES:02}/{number:06}.jpg", label


def _first_there(folder: Path) -> None:
    """One picture has to be there."""
    first = folder / next(_names(1))[1]
    first.parent.mkdir(parents=True)
    first.touch()


def _folder(folder: Path, count: int) -> tuple[Path, ListOptions]:
    for number, name, label in _names(count):
        place = folder / label / name
        if number < CLASSES * _PLACES:
            place.parent.mkdir(parents=True, exist_ok=True)
        place.touch()
    return folder, ListOptions()


def _csv(folder: Path, count: int) -> tuple[Path, ListOptions]:
    _first_there(folder)
    lines = ["path,label,location,datetime"]
    lines += [f"{name},{label},{name[:8]},2020-05-30 04:57:37" for _, name, label in _names(count)]
    file = folder / "labels.csv"
    file.write_text("\n".join(lines) + "\n")
    return file, ListOptions()


def _coco(folder: Path, count: int) -> tuple[Path, ListOptions]:
    _first_there(folder)
    images = [
        {
            "id": f"{number:08x}-21bc-11ea",
            "file_name": name,
            "width": 2048,
            "height": 1536,
            "location": name[:8],
            "frame_num": number % 3,
            "seq_id": f"sequence{number // 3:06}",
            "datetime": "2020-05-30 04:57:37",
            "rights_holder": "a park",
        }
        for number, name, _ in _names(count)
    ]
    annotations = [
        {
            "id": f"a{number}",
            "image_id": image["id"],
            "category_id": number % CLASSES,
            **({"bbox": [100.5, 200.25, 300.0, 400.0]} if number % CLASSES else {}),
        }
        for number, image in enumerate(images)
    ]
    categories = [{"id": number, "name": f"species {number}" if number else "empty"} for number in range(CLASSES)]
    file = folder / _COCO
    content = {"info": {"version": "1"}, "images": images, "annotations": annotations, "categories": categories}
    file.write_text(json.dumps(content))
    return file, ListOptions()


def _camtrap_dp(folder: Path, count: int) -> tuple[Path, ListOptions]:
    _first_there(folder)
    tables = {
        "deployments": ["deploymentID,locationID", *(f"camera{n:02},place{n:02}" for n in range(_PLACES))],
        "media": ["mediaID,deploymentID,timestamp,filePath,fileMediatype"],
        "observations": [
            "observationID,deploymentID,mediaID,eventID,eventStart,eventEnd,observationLevel,observationType,"
            "scientificName,bboxX,bboxY,bboxWidth,bboxHeight"
        ],
    }
    for number, name, label in _names(count):
        kind, box = ("blank,", ",,,") if label == "blank" else (f"animal,{label}", "0.1,0.2,0.3,0.4")
        when = "2020-05-30T04:57:37Z"
        tables["media"].append(f"m{number},{name[:8]},{when},{name},image/jpeg")
        seen = f"o{number},{name[:8]},m{number},e{number // 3},{when},{when},media,{kind},{box}"
        tables["observations"].append(seen)
    for table, lines in tables.items():
        (folder / f"{table}.csv").write_text("\n".join(lines) + "\n")
    resources = [{"name": table, "path": f"{table}.csv"} for table in tables]
    profile = "https://raw.githubusercontent.com/tdwg/camtrap-dp/1.0/camtrap-dp-profile.json"
    (folder / "datapackage.json").write_text(json.dumps({"profile": profile, "resources": resources}))
    return folder / "datapackage.json", ListOptions()


def _boxed(folder: Path, count: int, elsewhere: str = "") -> tuple[Path, ListOptions]:
    """Pictures in a folder a class with a detector's output, whose file names may start `elsewhere`."""
    pictures = folder / "pictures"
    pictures.mkdir()
    _folder(pictures, count)
    detection = {"category": "1", "conf": 0.9, "bbox": [0.1, 0.2, 0.3, 0.4]}
    images = [
        {"file": f"{elsewhere}{label}/{name}", "detections": [detection] if number % CLASSES else []}
        for number, name, label in _names(count)
    ]
    categories = {"1": "animal", "2": "person", "3": "vehicle"}
    boxes = folder / "detections.json"
    boxes.write_text(json.dumps({"info": {}, "detection_categories": categories, "images": images}))
    return pictures, ListOptions(boxes=boxes)


def _boxed_elsewhere(folder: Path, count: int) -> tuple[Path, ListOptions]:
    return _boxed(folder, count, "D:/season 3/")


_FORMS: dict[str, Callable[[Path, int], tuple[Path, ListOptions]]] = {
    "folder": _folder,
    "CSV": _csv,
    "COCO Camera Traps": _coco,
    "Camtrap DP": _camtrap_dp,
    "folder and boxes": _boxed,
    "folder and boxes made elsewhere": _boxed_elsewhere,
}

if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
