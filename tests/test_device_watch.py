"""Tests of `taco.device.watch` and what it stands on: no frame lost or named twice, wherever the power goes."""

from __future__ import annotations

import contextlib
import csv
import io
import itertools
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from device_models import wait_until
from power import AFTERMATHS, KILLED, Aftermath, Disk, PowerCutError, until_done
from tiny_bundle import BLUE, GREEN, PALE_BLUE, PALE_RED, RED, make_bundle, paint

from taco.answers.megadetector import to_megadetector
from taco.attached.agent_pack import agent_bytes
from taco.device import agent, answers, deploy, ledger, seen, versions, wire
from taco.device.arrivals import Arrivals, Frame, frames
from taco.device.field import _check
from taco.device.journal import Journal, read_journal
from taco.device.ledger import Ledger
from taco.device.watch import Means, WatchAsked, Watcher
from taco.device.wire import DeviceError, RequestError
from taco.predict import find_images, predict

CLASSES = ["fox", "hare", "blank"]
MANIFEST = {
    "task": "site",
    "classes": CLASSES,
    "blank_class": "blank",
    "sure_from": 0.6,
    "crop_margin": None,
    "taco_version": "0.1.0",
    "model": {"name": "colours"},
}
FACTS = answers.facts_of(MANIFEST, "site-1")


def named_by_its_bytes(path: str) -> tuple[list[float] | None, str]:
    """A stand-in for a model: the class stands in the file."""
    text = Path(path).read_text()
    if text == "broken":
        return None, "the file is cut short"
    return [0.7 if name == text else 0.15 for name in CLASSES], ""


def rows_of(part: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(part.read_bytes().decode(), newline="")))


def rows_in(results: Path) -> list[dict[str, str]]:
    return [row for part in sorted(results.glob("part-*.csv")) for row in rows_of(part)]


@dataclass
class Site:
    """A folder of pictures, one of results on a disk that may fail, and a clock of its own."""

    folder: Path
    now: float = 0.0
    truth: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for place in (self.pictures, self.results):
            place.mkdir(exist_ok=True)
        self.disk = Disk(self.results)

    @property
    def pictures(self) -> Path:
        return self.folder / "pictures"

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def add(self, count: int) -> None:
        for number in range(len(self.truth), len(self.truth) + count):
            name = f"IMG_{number:04}.JPG"
            self.truth[name] = "broken" if number % 7 == 5 else CLASSES[number % 3]
            (self.pictures / name).write_text(self.truth[name])

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def watch(self, facts: dict[str, Any] = FACTS, **changes: Any) -> Watcher:
        asked = WatchAsked(str(self.pictures), str(self.results), **{"patience_s": 3, "once": True, **changes})
        means = Means(named_by_its_bytes, facts, lambda: False, lambda: self.now, self.sleep)
        return Watcher(asked, means)

    def rows(self) -> list[dict[str, str]]:
        return rows_in(self.results)

    def images(self) -> list[dict[str, Any]]:
        parts = sorted(self.results.glob("part-*.json"))
        return [image for part in parts for image in json.loads(part.read_text())["images"]]

    def check(self) -> None:
        """Every frame once, in both forms, with the right answer."""
        for found in ([row["file"] for row in self.rows()], [image["file"] for image in self.images()]):
            assert sorted(found) == sorted(self.truth)
        assert {row["file"]: row["label"] or "broken" for row in self.rows()} == self.truth
        assert {i["file"] for i in self.images() if "failure" in i} == {
            n for n, t in self.truth.items() if t == "broken"
        }


@pytest.fixture(autouse=True)
def keep_signals() -> Iterator[None]:
    """The agent's `main` installs a SIGTERM handler; give the old one back."""
    old = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, old)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def run(site: Site, **changes: Any) -> Callable[[], None]:
    return lambda: None if not site.watch(**changes).run() else pytest.fail("no bundle took over")


def test_pictures_are_named_in_parts_and_nothing_twice(site: Site) -> None:
    site.add(8)
    watcher = site.watch(part_frames=3)
    assert watcher.run() is False
    assert watcher.named == 8
    site.check()
    assert sorted(path.name for path in site.results.glob("part-*.csv")) == [f"part-{n:06}.csv" for n in (1, 2, 3)]
    again = site.watch(part_frames=3)
    again.run()
    assert again.named == 0
    site.add(2)
    run(site, part_frames=3)()
    site.check()
    assert [path.name for path in site.results.glob("*.journal")] == ["part-000004.journal"]


def beside(site: Site, folder: Path) -> Site:
    """The same pictures with results on a disk of their own."""
    folder.mkdir()
    (folder / "pictures").symlink_to(site.pictures)
    return Site(folder, truth=site.truth)


@pytest.mark.parametrize("aftermaths", [1, pytest.param(len(AFTERMATHS), marks=pytest.mark.slow)])
def test_the_power_may_go_at_any_call(site: Site, tmp_path: Path, aftermaths: int) -> None:
    """At every call; by default with one of the seven aftermaths each, in turn."""
    site.add(7)
    with site.disk.on():
        run(site, part_frames=3)()
    calls = site.disk.calls
    assert 60 < calls < 150
    for cut_at, turn in itertools.product(range(1, calls + 1), range(aftermaths)):
        aftermath = AFTERMATHS[(aftermaths * cut_at + turn) % len(AFTERMATHS)]
        attempt = beside(site, tmp_path / f"{cut_at}-{turn}")
        try:
            cuts = iter([(cut_at, aftermath), (0, KILLED)])
            assert until_done(attempt.disk, run(attempt, part_frames=3), cuts) == 1
            attempt.check()
            assert site_is_quiet(attempt)
        except BaseException as error:
            raise AssertionError(f"cut at call {cut_at} of {calls}: {aftermath}") from error


def site_is_quiet(site: Site) -> bool:
    again = site.watch(part_frames=3)
    again.run()
    return again.named == 0


def test_the_disk_may_be_full_at_any_write(site: Site, tmp_path: Path) -> None:
    site.add(7)
    for full_at in range(1, 90, 4):
        attempt = beside(site, tmp_path / str(full_at))
        with attempt.disk.on(full_at=full_at), contextlib.suppress(OSError):
            run(attempt, part_frames=3)()
        run(attempt, part_frames=3)()
        attempt.check()


def cuts_at_random(rng: random.Random) -> Iterator[tuple[int, Aftermath]]:
    while True:
        yield rng.randrange(12, 500), rng.choice(AFTERMATHS)


def test_no_frame_of_a_thousand_is_lost_or_doubled(site: Site) -> None:
    site.add(1000)
    bundles = itertools.cycle([answers.facts_of(MANIFEST, name) for name in ("site-1", "site-2")])
    work = lambda: run(site, facts=next(bundles), part_frames=100, patience_s=0)()  # noqa: E731
    assert until_done(site.disk, work, cuts_at_random(random.Random(12))) > 10
    site.check()
    assert {row["bundle"] for row in site.rows()} == {"site-1", "site-2"}
    assert all(len({row["bundle"] for row in rows_of(part)}) <= 1 for part in site.results.glob("part-*.csv"))


def test_a_bundle_that_takes_over_begins_a_part_of_its_own(site: Site) -> None:
    site.add(3)
    run(site)()
    site.add(2)
    run(site, facts=answers.facts_of({**MANIFEST, "classes": ["hen", "ram", "ewe"], "blank_class": None}, "site-2"))()
    assert [(row["bundle"], row["label"]) for row in site.rows()] == [
        *(("site-1", name) for name in CLASSES),
        ("site-2", "hen"),
        ("site-2", "ram"),
    ]


def test_a_watcher_stops_for_another_bundle_and_publishes_what_it_has(site: Site) -> None:
    site.add(5)
    left = iter([False, False, True, True])
    means = Means(named_by_its_bytes, FACTS, lambda: next(left), lambda: site.now, site.sleep)
    watcher = Watcher(WatchAsked(str(site.pictures), str(site.results), settle_s=0), means)
    assert watcher.run() is True
    assert [row["file"] for row in site.rows()] == ["IMG_0000.JPG", "IMG_0001.JPG"]


def test_a_frame_that_ends_the_program_again_and_again_is_listed(site: Site) -> None:
    site.add(4)

    def deadly(path: str) -> Any:
        if path.endswith("0001.JPG"):
            raise PowerCutError
        return named_by_its_bytes(path)

    for _ in range(ledger.MOST_DEATHS):
        means = Means(deadly, FACTS, lambda: False, lambda: site.now, site.sleep)
        with pytest.raises(PowerCutError):
            Watcher(WatchAsked(str(site.pictures), str(site.results), once=True), means).run()
    means = Means(deadly, FACTS, lambda: False, lambda: site.now, site.sleep)
    Watcher(WatchAsked(str(site.pictures), str(site.results), once=True), means).run()
    failed = {image["file"]: image["reason"] for image in site.images() if "failure" in image}
    assert failed == {"IMG_0001.JPG": "the program ended 5 times while it looked at it"}
    assert len(site.images()) == 4


def test_only_one_watcher_writes_there(site: Site) -> None:
    first = site.watch()
    with pytest.raises(DeviceError, match="another program writes results"):
        site.watch()
    first.run()
    site.watch().run()


def test_an_interruption_publishes_what_is_known(site: Site) -> None:
    site.add(6)
    calls = itertools.count()

    def interrupted(path: str) -> Any:
        if next(calls) == 3:
            raise SystemExit(143)
        return named_by_its_bytes(path)

    means = Means(interrupted, FACTS, lambda: False, lambda: site.now, site.sleep)
    with pytest.raises(SystemExit):
        Watcher(WatchAsked(str(site.pictures), str(site.results)), means).run()
    assert len(site.rows()) == 3


def arrivals(site: Site, new: Callable[[Frame], bool] = lambda _: True) -> Callable[[], list[str]]:
    made = Arrivals(str(site.pictures), new, 2.0, 8.0, lambda: site.now)

    def look() -> list[str]:
        site.now += 1
        return [frame.name for frame in made.look()]

    return look


def test_a_picture_that_is_still_being_copied_is_left_alone(site: Site) -> None:
    look, slow = arrivals(site), site.pictures / "slow.jpg"
    for size in range(5):
        slow.write_bytes(b"x" * size)
        assert look() == []
    assert look() == []
    assert look() == ["slow.jpg"]


def test_what_is_no_picture_is_left_alone(site: Site) -> None:
    (site.pictures / "100MEDIA").mkdir()
    (site.pictures / ".trash").mkdir()
    for name in ("b.JPG", "100MEDIA/a.jpeg", ".c.jpg.Xy12", "d.jpg.part", "notes.txt", ".trash/e.jpg"):
        (site.pictures / name).touch()
    (site.pictures / "link.jpg").symlink_to("b.JPG")
    (site.pictures / "loop").symlink_to(site.pictures)
    os.mkfifo(site.pictures / "pipe.jpg")
    assert [frame.name for frame in frames(str(site.pictures))] == ["b.JPG", "100MEDIA/a.jpeg"]
    assert list(frames(str(site.folder / "gone"))) == []


@pytest.mark.parametrize(
    "name", ["a b.jpg", "new\nline.jpg", "-rf.jpg", "é\u202e.jpg", os.fsdecode(b"\xff.jpg"), "=1+1.jpg"]
)
def test_any_name_is_noted_and_shown(site: Site, name: str) -> None:
    (site.pictures / name).write_text("fox")
    run(site)()
    shown = os.fsencode(name).decode("utf-8", "replace")
    assert [row["file"] for row in site.rows()] == [image["file"] for image in site.images()] == [shown]
    assert site_is_quiet(site)


def test_a_broken_picture_is_tried_again_and_then_listed_and_named_once_it_is_whole(site: Site) -> None:
    picture = site.pictures / "a.jpg"
    picture.write_text("broken")
    tries = []

    def name(path: str) -> Any:
        tries.append(site.now)
        return named_by_its_bytes(path)

    means = Means(name, FACTS, lambda: False, lambda: site.now, site.sleep)
    Watcher(WatchAsked(str(site.pictures), str(site.results), patience_s=20, once=True), means).run()
    assert 3 <= len(tries) <= 6
    assert tries[-1] - tries[0] >= 20
    assert [row["failure"] for row in site.rows()] == ["the file is cut short"]
    picture.write_text("hare")
    run(site)()
    assert [(row["label"], row["failure"]) for row in site.rows()] == [("hare", "")]


def test_a_name_that_a_camera_uses_again_is_another_frame(site: Site) -> None:
    picture = site.pictures / "IMG_0001.JPG"
    picture.write_text("fox")
    run(site)()
    picture.write_text("hare")
    run(site)()
    assert [row["label"] for row in site.rows()] == ["fox", "hare"]
    assert len(list(site.results.glob("part-*.json"))) == 2
    assert site_is_quiet(site)


@pytest.mark.parametrize("part_frames", [1, 9])
def test_a_card_whose_times_move_with_the_time_zone_is_not_named_again(site: Site, part_frames: int) -> None:
    site.add(4)
    run(site, part_frames=part_frames)()
    for path in site.pictures.iterdir():
        os.utime(path, ns=(0, path.stat().st_mtime_ns + 3600 * 10**9))
    assert site_is_quiet(site)
    os.utime(path, ns=(0, path.stat().st_mtime_ns + 2 * 10**9))
    assert not site_is_quiet(site)


def test_a_picture_that_goes_or_changes_while_it_is_looked_at_is_not_noted(site: Site) -> None:
    for name in ("a.jpg", "b.jpg"):
        (site.pictures / name).write_text("fox")

    def name(path: str) -> Any:
        found = named_by_its_bytes(path)
        if path.endswith("a.jpg"):
            Path(path).unlink()
        elif site.now < 10:
            Path(path).write_text("hare" + " " * int(site.now))
            site.now += 20
        return found if found[0] is None or path.endswith("a.jpg") else ([0.1, 0.8, 0.1], "")

    means = Means(name, FACTS, lambda: False, lambda: site.now, site.sleep)
    Watcher(WatchAsked(str(site.pictures), str(site.results), once=True), means).run()
    assert [(row["file"], row["label"]) for row in site.rows()] == [("b.jpg", "hare")]


def test_old_frames_that_have_gone_are_forgotten_and_those_that_lie_there_never(tmp_path: Path) -> None:
    place, all_ = str(tmp_path / "seen"), [Frame(f"{n}.jpg", n, n) for n in range(40)]
    for begin in range(0, 40, 10):
        seen.Seen(place).finish(all_[begin : begin + 10], lambda: all_[:3], most=15)
    found = seen.Seen(place)
    assert found.next == 5
    assert [frame in found for frame in all_] == [True] * 3 + [False] * 22 + [True] * 15
    found.finish([Frame("x.jpg", 1, 1)], list, most=5)
    assert len(found) == 19


def test_a_damaged_list_of_what_was_seen_is_an_error(tmp_path: Path) -> None:
    seen.Seen(str(tmp_path / "seen")).finish([Frame("a", 1, 1)], list)
    content = (tmp_path / "seen").read_bytes()
    for damaged in (b"", content[:-1] + b"x", b"[]\n", content[:20]):
        (tmp_path / "seen").write_bytes(damaged)
        with pytest.raises(DeviceError, match="cannot be read"):
            seen.Seen(str(tmp_path / "seen"))


@pytest.mark.parametrize("tail", [b"", b"12", b"00000000 {}", b"\0" * 700, b"\xff\n\xfe", b'0 "x"\n'])
def test_lines_that_are_cut_or_damaged_do_not_count(tmp_path: Path, tail: bytes) -> None:
    place = tmp_path / "journal"
    first = Journal(str(place))
    first.append({"frame": "\udcff\n"})
    first.close()
    with place.open("ab") as stream:
        stream.write(tail)
    second = Journal(str(place))
    second.append({"frame": 2})
    second.close()
    assert read_journal(str(place)) == [{"frame": "\udcff\n"}, {"frame": 2}]


def test_finished_parts_may_be_bounded(site: Site) -> None:
    site.add(12)
    run(site, part_frames=2, keep=2)()
    assert len(list(site.results.glob("part-*.csv"))) == 3
    assert site_is_quiet(site)


def test_a_journal_that_is_newer_than_what_was_seen_is_an_error(site: Site) -> None:
    (site.results / "part-000007.journal").touch()
    with pytest.raises(DeviceError, match="files were mixed or lost"):
        Ledger(str(site.results), FACTS, list)


@pytest.mark.parametrize(
    "change", [{"settle_s": -1}, {"poll_s": 0}, {"patience_s": 1e9}, {"part_frames": 0}, {"keep": -1}]
)
def test_wrong_numbers_are_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    with pytest.raises(RequestError):
        WatchAsked(str(tmp_path), str(tmp_path), **change).check()


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    """Pictures of one colour each, a broken one, and one in a folder."""
    folder = tmp_path / "card"
    for number, colour in enumerate((RED, GREEN, BLUE, PALE_RED, PALE_BLUE)):
        paint(folder / "100MEDIA" / f"{number}.png", colour)
    (folder / "cut.png").write_bytes((folder / "100MEDIA/0.png").read_bytes()[:60])
    return folder


@pytest.mark.parametrize("changes", [{"blank_class": "blank", "sure_from": 0.75}, {}], ids=["blank", "plain"])
def test_the_device_writes_what_the_host_writes(
    tmp_path: Path, colours: Path, changes: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = make_bundle(tmp_path / "bundle", **changes)
    results = tmp_path / "out"
    quick = ["--once", "--settle", "0", "--patience", "0", "--poll", "0.01", "--threads", "1"]
    assert agent.main(["watch", str(bundle.path), str(colours), str(results), *quick]) == 0
    assert wire.parse(capsys.readouterr().out) == {"named": 6}
    theirs = json.loads((results / "part-000001.json").read_text())
    found = list(predict(bundle, find_images([colours]), threads=1))
    ours = json.loads(to_megadetector(found, bundle.manifest, colours, None, datetime.now(UTC)))
    by_name = lambda whole: sorted(whole["images"], key=lambda image: image["file"])  # noqa: E731
    assert by_name(theirs) == by_name(ours)
    for part in ("detection_categories", "classification_categories"):
        assert theirs[part] == ours[part]
    times = ("detection_completion_time", "classification_completion_time")
    kept = [{k: v for k, v in whole["info"].items() if k not in times} for whole in (theirs, ours)]
    assert kept[0] == kept[1]


def test_a_folder_that_is_not_there_is_an_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = make_bundle(tmp_path / "bundle")
    assert agent.main(["watch", str(bundle.path), str(tmp_path / "no"), str(tmp_path / "out")]) == 5
    assert "no folder of pictures" in wire.parse(capsys.readouterr().out)["error"]["what"]


def sent(work: Path, bundle: Path, name: str) -> dict[str, Any]:
    """What the host sends to deploy a bundle."""
    import hashlib

    files = {}
    for path in bundle.iterdir():
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (work / f"{digest}.dat").write_bytes(path.read_bytes())
        files[path.name] = {"from": f"{digest}.dat", "sha256": digest}
    return {"name": name, "files": files}


def test_deployed_watched_killed_replaced_and_rolled_back(tmp_path: Path) -> None:
    """The real thing at its smallest: a process that is killed, a bundle that takes over, and the way back."""
    work, card, results = (tmp_path / name for name in ("work", "card", "results"))
    work.mkdir()
    one, two = "site-" + "1" * 12, "site-" + "2" * 12
    for name in (one, two):
        make_bundle(tmp_path / name, agent=agent_bytes(), sure_from=0.5 if name == one else 0.6)
    truth = [paint(card / f"{n:03}.png", (RED, GREEN, BLUE)[n % 3], (33, 32)).name for n in range(60)]
    deploy.deploy(sent(work, tmp_path / one, one), str(work), _check)
    current = work / "bundles" / versions.CURRENT
    words = [sys.executable, "-I", f"{current}/agent.pyz", "watch", str(current), str(card), str(results)]
    words += ["--settle", "0.02", "--poll", "0.02", "--threads", "1", "--part", "25"]

    def rows() -> list[dict[str, str]]:
        return rows_in(results)

    first = subprocess.Popen(words, stderr=subprocess.DEVNULL)
    assert wait_until(lambda: (results / "part-000001.journal").exists(), 60)
    first.kill()
    first.wait()
    second = subprocess.Popen(words, stderr=subprocess.PIPE)
    try:
        assert wait_until(lambda: len(rows()) == 60, 60)
        deploy.deploy(sent(work, tmp_path / two, two), str(work), _check)
        truth.append(paint(card / "new.png", RED).name)
        assert wait_until(lambda: {r["file"]: r["bundle"] for r in rows()}.get("new.png") == two, 60)
        deploy.roll_back(str(work), _check)
        truth.append(paint(card / "newer.png", GREEN).name)
        assert wait_until(lambda: {r["file"]: r["bundle"] for r in rows()}.get("newer.png") == one, 60)
        second.send_signal(signal.SIGTERM)
        assert second.wait(60) == 143
    finally:
        second.kill()
        second.communicate()
    assert sorted(row["file"] for row in rows()) == sorted(truth)
    assert [row["label"] for row in rows()][:3] == ["fox", "hare", "blank"]
