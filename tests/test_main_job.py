"""The main job on real weights and real pictures: what issue 1 promises, with a short recovery. Slow."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

KNOWN = (
    "panthera-leo,panthera-tigris,equus-quagga,loxodonta-africana,ursus-arctos-horribilis,vulpes-vulpes,"
    "lepus-americanus,dasypus-novemcinctus"
)
NEW = (
    "alces-alces,martes-americana,procyon-lotor,sciurus-carolinensis,giraffa-camelopardalis,okapia-johnstoni,tapirus,"
    "enhydra-lutris"
)


def taco(*arguments: str) -> str:
    command = [sys.executable, "-m", "taco.cli", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=1200).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("classes", "limit", "budget"),
    [(KNOWN, 3.0, ("--speedup", "1.5")), (NEW, 5.0, ("--macs", "0.6"))],
    ids=["imagenet-rows", "fitted-head"],
)
def test_specialist_is_faster_and_nearly_as_accurate(
    real_pictures: Path, tmp_path: Path, classes: str, limit: float, budget: tuple[str, str]
) -> None:
    animals = real_pictures / "animals"
    arguments = ["--class-map", f"{animals}.json"] if classes == KNOWN else []
    out = tmp_path / "run"
    taco(
        "export", str(animals), *arguments, "--classes", classes, "--shots", "16", *budget,
        "--target", "host-cpu", "--recover-minutes", "0.5", "--out", str(out),
    )  # fmt: skip
    report = json.loads((out / "report.json").read_text())
    assert report["speedup"] >= (1.5 if "--speedup" in budget else 1.0)
    assert report["parity"]["max_abs"] <= report["parity"]["tolerance"]
    assert report["parity"]["argmax_agreement"] == 100
    assert report["accuracy"]["drop_ci95"][0] <= limit, "the loss is proven to be larger than promised"
    assert report["size"]["compressed"]["params"] < report["size"]["dense"]["params"]

    frames = real_pictures / "camera_traps" / "speciesnet_test_data"
    rows = list(csv.DictReader(io.StringIO(taco("predict", str(out), str(frames)))))
    assert len(rows) == len([p for p in frames.iterdir() if p.suffix == ".jpg"])
    failed = [Path(row["path"]).name for row in rows if row["failure"]]
    assert failed == ["african_elephants_truncated_file.jpg"]
    assert all(float(row["probability"]) <= 1 for row in rows if not row["failure"])
