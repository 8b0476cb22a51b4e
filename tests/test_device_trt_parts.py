"""The parts of the TensorRT path by themselves: versions, arguments, files, logs, layers, preflight."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest

from taco.device import lease
from taco.device.trt_arguments import BuildPlan, build_arguments, infer_arguments, profile_arguments, time_arguments
from taco.device.trt_engines import engine_key
from taco.device.trt_layers import attribute
from taco.device.trt_preflight import hardware, power_mode_in, preflight, workspace_mib
from taco.device.trt_read import EngineLayer, LayerTime, read_layers, read_log, read_output, read_profile, read_times
from taco.device.trt_run import explained, find_trtexec
from taco.device.trt_versions import RECIPES, Version, recipe_for, version_in
from taco.device.wire import DeviceError
from taco.metrics.accuracy import paired_drop, wilson

LAB = Path(__file__).parent / "edge_lab"
SAMPLES = LAB / "samples"
FLAGS = {
    name.replace("11.1", "11"): set(flags)
    for name, flags in json.loads((LAB / "trtexec_flags.json").read_text()).items()
}


@pytest.mark.parametrize(
    ("banner", "version"),
    [("8601", (8, 6, 1)), ("8502", (8, 5, 2)), ("100300", (10, 3, 0)), ("101303", (10, 13, 3)), ("110401", (11, 4, 1))],
)
def test_the_version_stands_in_the_banner(banner: str, version: Version) -> None:
    assert version_in(f"&&&& RUNNING TensorRT.trtexec [TensorRT v{banner}] # trtexec --help") == version


def test_no_version_is_said_so() -> None:
    with pytest.raises(DeviceError, match="does not say its version; it said: 'hello'"):
        version_in("hello")


@pytest.mark.parametrize(
    ("version", "family", "edition"),
    [
        ((8, 6, 2), "8.6", "weak"),
        ((10, 3, 0), "10.3", "weak"),
        ((10, 11, 0), "10.3", "weak"),
        ((10, 12, 0), "10.16", "strong"),
        ((10, 16, 1), "10.16", "strong"),
        ((11, 4, 1), "11", "strong"),
    ],
)
def test_each_tensorrt_has_its_recipe(version: Version, family: str, edition: str) -> None:
    recipe = recipe_for(version)
    assert (recipe.family, recipe.edition) == (family, edition)


@pytest.mark.parametrize("version", [(8, 5, 2), (7, 1, 3), (9, 3, 0), (12, 0, 0)])
def test_other_lines_are_refused_with_what_to_do(version: Version) -> None:
    with pytest.raises(DeviceError, match=r"TensorRT \d+\.\d\.\d is ") as caught:
        recipe_for(version)
    assert "JetPack" in caught.value.todo


@pytest.mark.parametrize(
    ("family", "precision", "sparse"), list(product(RECIPES, ("fp32", "fp16", "int8"), (False, True)))
)
def test_every_argument_is_one_that_this_version_parses(family: str, precision: str, sparse: bool) -> None:
    recipe = RECIPES[family]
    plan = BuildPlan("m.onnx", "m.engine", "t.cache", precision, sparse, 512)
    lines = (
        build_arguments(recipe, plan),
        time_arguments("m.engine", "t.json", 1.0),
        profile_arguments("m.engine", "p.json", "l.json", 1.0),
        infer_arguments(recipe, "m.engine", "input", "i.bin", "o.json"),
    )
    for line in lines:
        names = [argument.partition("=")[0] for argument in line]
        assert set(names) <= FLAGS[family], f"{family}: {set(names) - FLAGS[family]}"
        assert len(names) == len(set(names))


@pytest.mark.parametrize("family", RECIPES)
def test_precision_is_a_flag_only_where_networks_are_weakly_typed(family: str) -> None:
    recipe = RECIPES[family]
    given = {
        precision: set(build_arguments(recipe, BuildPlan("m", "e", "t", precision, False, 512)))
        for precision in ("fp32", "fp16", "int8")
    }
    weak = not recipe.strong
    assert ("--fp16" in given["fp16"], "--int8" in given["fp16"]) == (weak, False)
    assert {"--fp16", "--int8"} <= given["int8"] if weak else not {"--fp16", "--int8"} & given["int8"]
    assert not {"--fp16", "--int8"} & given["fp32"]
    assert all(("--stronglyTyped" in line) is recipe.strong for line in given.values())
    assert "--noTF32" in given["fp32"]


def test_timing_says_everything_whose_default_changed_in_11() -> None:
    wanted = {"--useCudaGraph", "--noDataTransfers", "--useSpinWait", "--separateProfileRun"}
    assert wanted <= set(time_arguments("e", "t", 1.0))
    assert wanted <= set(profile_arguments("e", "p", "l", 1.0))


def test_a_picture_is_moved_to_the_gpu_on_11_too() -> None:
    assert "--includeDataTransfers" in infer_arguments(RECIPES["11"], "e", "input", "i", "o")
    assert "--includeDataTransfers" not in infer_arguments(RECIPES["10.3"], "e", "input", "i", "o")


def test_recorded_times_and_profile_are_read() -> None:
    assert read_times(str(SAMPLES / "trt_times.json")) == [2.26, 2.16]
    layers = read_profile(str(SAMPLES / "trt_profile.json"))
    assert [(layer.ms, layer.name[:6]) for layer in layers] == [
        (0.02, "Reform"), (0.18, "/stem/"), (0.25, "/b0/dw"), (0.05, "__myl_"),
    ]  # fmt: skip


def test_layer_information_is_read_in_both_forms() -> None:
    detailed = read_layers(str(SAMPLES / "trt_layerinfo_detailed.json"))
    assert detailed["/stem/Conv + PWN(/stem/Relu6)"].nodes == ("/stem/Conv", "/stem/Relu6")
    assert detailed["__myl_FcAdd_myl0_3"].nodes == ("/classifier/Gemm",)
    names = read_layers(str(SAMPLES / "trt_layerinfo_names_only.json"))
    assert list(names) == list(detailed)
    assert all(layer.nodes == () for layer in names.values())


def test_names_with_raw_control_characters_are_read(tmp_path: Path) -> None:
    file = tmp_path / "layers.json"
    file.write_text(
        '{"Layers": [{"Name": "a\x1fb\tc", "Metadata": "[ONNX Layer: x]\x1f[ONNX Layer: y]"}], "I/O Tensors": []}'
    )
    assert read_layers(str(file))["a\x1fb\tc"].nodes == ("x", "y")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[{"count": 3}, {"name": "a"b", "averageMs": 1}]', "without escapes"),
        ('[{"name": "a"}]', "lacks count"),
        ('[{"count": 1}, {"name": "a"}]', "lacks name and averageMs"),
        ("{}", "lacks a JSON list"),
    ],
)
def test_a_strange_profile_is_an_error_with_the_file(text: str, words: str, tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text(text)
    with pytest.raises(DeviceError, match=re.escape(words)) as caught:
        read_profile(str(file))
    assert str(file) in caught.value.what


def test_a_share_that_is_no_number_is_read(tmp_path: Path) -> None:
    file = tmp_path / "profile.json"
    file.write_text('[ {"count" : 1}, { "name" : "a", "timeMs" : 0, "averageMs" : -nan, "percentage" : nan } ]')
    assert read_profile(str(file)) == [LayerTime("a", 0.0)]


def test_a_missing_output_and_one_that_is_no_number_are_errors(tmp_path: Path) -> None:
    file = tmp_path / "output.json"
    file.write_text('[ { "name" : "logits", "dimensions" : "1x2", "values" : [ 1.5, -2e-05 ] } ]')
    assert read_output(str(file), "logits") == [1.5, -2e-05]
    with pytest.raises(DeviceError, match="lacks the output 'other'"):
        read_output(str(file), "other")
    file.write_text('[ { "name" : "logits", "dimensions" : "1x2", "values" : [ 1.5, inf ] } ]')
    with pytest.raises(DeviceError, match="no finite number"):
        read_output(str(file), "logits")


def test_the_recorded_log_tells_gpu_and_unsteady_times() -> None:
    log = read_log((SAMPLES / "trtexec_stdout.txt").read_text())
    assert (log.gpu, log.capability, log.unstable) == ("Orin", "8.7", 4.2)
    assert (log.eligible, log.chosen, log.skipped) == (None, None, 0)


@pytest.mark.parametrize(
    ("text", "eligible", "chosen"),
    [
        (
            "(Sparsity) Layers eligible for sparse math: Conv_1, Conv_2 + Relu_3\n"
            "(Sparsity) TRT inference plan picked sparse implementation for layers:\n",
            2,
            0,
        ),
        (
            "(Sparsity) Found 39 layer(s) eligible to use sparse tactics\n(Sparsity) Chose 0 layer(s) using\n"
            "(Sparsity) Found 40 layer(s) eligible to use sparse tactics\n(Sparsity) Chose 7 layer(s) using\n",
            40,
            7,
        ),
    ],
)
def test_eligible_and_chosen_sparse_layers_are_told_apart(text: str, eligible: int, chosen: int) -> None:
    log = read_log(text)
    assert (log.eligible, log.chosen) == (eligible, chosen)


def test_skipped_kernels_are_counted_in_old_and_new_words() -> None:
    text = (
        "[W] Skipping tactic 3 due to insuficient memory on requested size of 449 detected for tactic 4.\n"
        "[W] UNSUPPORTED_STATE: Skipping tactic 33 due to insufficient memory on requested size of 62 detected\n"
    )
    assert read_log(text).skipped == 2


def test_time_is_divided_over_modules_and_what_is_nobody_s_is_shown() -> None:
    times = [LayerTime("a", 1.0), LayerTime("b", 2.0), LayerTime("c", 1.0), LayerTime("unknown", 1.0)]
    layers = {
        "a": EngineLayer("x", ("n1", "n2"), sparse=False),
        "b": EngineLayer("x", ("n1", "n3"), sparse=False),
        "c": EngineLayer("x", ("elsewhere",), sparse=False),
    }
    found = attribute(times, layers, {"n1": "stem", "n2": "stem", "n3": "head"})
    assert found.by_module == {"stem": 2.0, "head": 1.0}
    assert (found.unattributed_ms, found.shared_ms, found.total_ms) == (2.0, 2.0, 5.0)
    assert found.unattributed_percent() == 40.0


@pytest.mark.parametrize(
    ("code", "words"), [(-9, "exit code 137"), (137, "exit code 137"), (-11, "SIGSEGV"), (139, "SIGSEGV")]
)
def test_signals_are_explained_with_and_without_a_shell(code: int, words: str) -> None:
    error = explained("[I] all is well\n[E] oh\n", code, "building x")
    assert words in error.what
    assert error.todo


def test_an_unknown_failure_gives_its_errors() -> None:
    error = explained("[I] start\n[E] first\n[E] second\n[I] end\n", 1, "building x")
    assert "exit code 1; its last words: [E] first | [E] second" in error.what


def test_an_absent_trtexec_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DeviceError, match="trtexec is not on this machine") as caught:
        find_trtexec(None, str(tmp_path))
    assert "apt install" in caught.value.todo
    place = tmp_path / "usr/src/tensorrt/bin/trtexec"
    place.parent.mkdir(parents=True)
    place.touch()
    assert find_trtexec(None, str(tmp_path)) == str(place)


def test_the_power_mode_is_a_name_whatever_is_printed_before_it() -> None:
    assert power_mode_in((SAMPLES / "nvpmodel_q.txt").read_text()) == "MAXN_SUPER"
    assert power_mode_in((SAMPLES / "nvpmodel_q_warn.txt").read_text()) == "15W"
    assert power_mode_in("nothing") == "unknown"


@pytest.mark.parametrize(("free", "given"), [(None, 256), (600, 300), (5000, 2500), (30_000, 4096)])
def test_the_builder_gets_half_of_the_free_memory(free: int | None, given: int) -> None:
    assert workspace_mib(free) == given


def test_no_memory_is_an_error_before_the_build() -> None:
    with pytest.raises(DeviceError, match="only 100 MiB of memory are free"):
        workspace_mib(100)


def board(root: Path, model: str, free_kb: int) -> Path:
    (root / "proc/device-tree").mkdir(parents=True)
    (root / "etc").mkdir()
    (root / "proc/device-tree/model").write_text(model + "\0")
    (root / "proc/meminfo").write_text(f"MemTotal: 7800000 kB\nMemAvailable: {free_kb} kB\n")
    (root / "etc/nv_tegra_release").write_text((SAMPLES / "nv_tegra_release.txt").read_text())
    return root


def test_an_orin_is_hardware_and_little_memory_is_warned_of(tmp_path: Path) -> None:
    root = board(tmp_path, "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super", 900_000)
    found = preflight(str(root), str(tmp_path / "no-nvpmodel"))
    assert found["hardware"].startswith("NVIDIA Jetson Orin Nano")
    assert found["probe"]["jetson_linux"] == "R36.4.3"
    assert found["workspace_mib"] == 439
    assert [text.split(":")[0] for text in found["warnings"]] == [
        "only 878 MiB of memory are free",
        "the power mode is unknown",
    ]


def test_a_raspberry_pi_is_no_hardware_for_tensorrt(tmp_path: Path) -> None:
    root = board(tmp_path, "Raspberry Pi 5 Model B", 4_000_000)
    assert hardware(str(root), preflight(str(root), "none")["probe"]) is None


def test_the_key_changes_with_everything_that_decides_an_engine() -> None:
    parts = {"onnx_sha256": "a", "tensorrt": "10.3.0", "flags": ["--fp16"], "board": "Orin", "jetson_linux": "R36.4.3"}
    others = [{**parts, key: "other"} for key in parts]
    assert len({engine_key(p) for p in [parts, *others]}) == 1 + len(parts)
    assert engine_key(dict(reversed(parts.items()))) == engine_key(parts)


@pytest.mark.parametrize("balanced", [False, True])
def test_the_device_s_statistics_are_the_host_s(balanced: bool) -> None:
    rng = np.random.default_rng(0)
    labels, dense, other = (rng.integers(0, 3, 60) for _ in range(3))
    drop = paired_drop(labels, dense, other, balanced)
    assert drop.low <= drop.points <= drop.high
    assert drop.lower_one_sided >= drop.low
    # Wilson (1927): 10 of 20 gives 29.9 to 70.1 percent
    assert wilson(10, 20).low == pytest.approx(29.93, abs=0.01)


BUILDER = """
import sys
from taco.device.lease import holding
from taco.device.trt_run import Trtexec
with holding(sys.argv[1], "a", "anna"):
    Trtexec(sys.argv[2]).run([], "building", sys.argv[1])
"""
ENDLESS = """#!/bin/sh
if [ "$1" = --help ]; then echo "&&&& RUNNING TensorRT.trtexec [TensorRT v100300]"; exit; fi
echo $$ > {place}.part && mv {place}.part {place} && exec sleep 60
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="PR_SET_PDEATHSIG is Linux's")
def test_a_run_that_asks_again_ends_the_build_of_its_lost_command(tmp_path: Path) -> None:
    place, trtexec = tmp_path / "pid", tmp_path / "trtexec"
    trtexec.write_text(ENDLESS.format(place=place))
    trtexec.chmod(0o755)
    with subprocess.Popen([sys.executable, "-c", BUILDER, str(tmp_path), str(trtexec)]) as lost:
        wait_until(place.exists)
        build = Path("/proc") / place.read_text().strip()
        assert is_running(build)
        with lease.holding(str(tmp_path), "a", "anna"):
            assert lost.wait(5) == -9
            wait_until(lambda: not is_running(build))


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def is_running(process: Path) -> bool:
    """Whether a process, by its folder in /proc, is there and no mere zombie that nobody has asked after."""
    try:
        return "\nState:\tZ" not in (process / "status").read_text()
    except OSError:
        return False
