"""Listing a COCO Camera Traps file: ours, streamed and checked, against `json.load` alone."""

from __future__ import annotations

import json
import tempfile
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

from benchmarks._interleave import compare
from taco.task import ListOptions, list_pictures

IMAGES = 100_000


def main() -> None:
    """Compare on 100,000 images; prints our seconds, and the memory at the peak of both, too."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "lila.json")
        file.write_text(json.dumps(_database()))
        Path(folder, "camera00/000000.jpg").parent.mkdir()
        Path(folder, "camera00/000000.jpg").touch()  # one picture has to be there

        def load() -> object:
            with file.open("rb") as stream:
                return json.load(stream)

        def ours() -> object:
            return list_pictures(file, ListOptions())

        begin = time.perf_counter()
        ours()
        print(f"{IMAGES} images, {file.stat().st_size / 1e6:.0f} MB: {time.perf_counter() - begin:.1f} s")
        compare("listing against json.load", load, ours, rounds=3)
        print(f"memory at the peak: json.load {_peak(load):.0f} MB, ours {_peak(ours):.0f} MB, listing included")


def _database() -> dict[str, object]:
    images = [
        {
            "id": f"{number:08x}-21bc-11ea",
            "file_name": f"camera{number % 50:02}/{number:06}.jpg",
            "width": 2048,
            "height": 1536,
            "location": f"camera{number % 50:02}",
            "frame_num": number % 3,
            "seq_id": f"sequence{number // 3:06}",
            "datetime": "2020-05-30 04:57:37",
            "rights_holder": "a park",
        }
        for number in range(IMAGES)
    ]
    annotations = [
        {
            "id": f"a{number}",
            "image_id": image["id"],
            "category_id": number % 20,
            **({"bbox": [100.5, 200.25, 300.0, 400.0]} if number % 20 else {}),
        }
        for number, image in enumerate(images)
    ]
    categories = [{"id": number, "name": f"species {number}" if number else "empty"} for number in range(20)]
    return {"info": {"version": "1"}, "images": images, "annotations": annotations, "categories": categories}


def _peak(work: Callable[[], object]) -> float:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


if __name__ == "__main__":
    main()
