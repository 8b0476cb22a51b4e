"""What a machine with an NVIDIA GPU can check (`pytest -m gpu`): with TensorRT everything for real, else FP16 on CUDA.

Each test skips, saying why, where its part is missing. None of them has run on a Jetson yet (docs/adr/0014).
"""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import families
import numpy as np
import pytest
import torch
from families import Family
from jetson_folder import make_jetson_folder
from test_exporters_trt import FP16_TOLERANCE, ORIN, logits, pictures

from taco.device.trt_run import find_trtexec
from taco.device.wire import DeviceError
from taco.exporters.protocol import Compressed, FloatArray
from taco.exporters.trt import EXPORTER
from taco.report.read import read_report

pytestmark = pytest.mark.gpu


@pytest.fixture
def trtexec() -> str:
    if sys.platform != "linux" or not (Path("/proc/driver/nvidia").exists() or Path("/etc/nv_tegra_release").exists()):
        pytest.skip("no NVIDIA driver on this machine")
    try:
        return find_trtexec(None)
    except DeviceError as error:
        pytest.skip(f"{error}")


@pytest.fixture
def cuda_runtime() -> None:
    import onnxruntime

    if "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        pytest.skip("this ONNX Runtime has no CUDAExecutionProvider: install onnxruntime-gpu")


@pytest.fixture
def cuda_torch() -> None:
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")


def half_file(family: Family, folder: Path) -> Path:
    model = Compressed(families.build(family), family.input_size)
    return EXPORTER.export(model, ORIN, folder / "fp16.onnx").path


def test_a_folder_goes_through_real_tensorrt(trtexec: str, tmp_path: Path) -> None:
    folder = make_jetson_folder(tmp_path / "folder", pictures=8, rounds=6, round_s=0.5)
    command = [sys.executable, "-I", "agent.pyz", "jetson", "--trtexec", trtexec]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=1800, check=False)
    assert done.returncode == 0, done.stderr
    report = read_report(folder)
    assert report.engines_run is not None
    assert report.engines_run.hardware is not None
    assert [gate.passed for gate in report.engines_run.gates] == [True]
    assert report.engines_run.layers["compressed"].unattributed_percent < 50
    assert report.latency_ms is not None
    assert report.latency_ms.compressed.n > 100


@pytest.mark.parametrize("family", families.SMALL, ids=str)
def test_the_fp16_graph_answers_on_cuda_through_onnx_runtime(
    cuda_runtime: None, family: Family, tmp_path: Path
) -> None:
    import onnxruntime

    file, shown = half_file(family, tmp_path), pictures(family)
    session = onnxruntime.InferenceSession(str(file), providers=["CUDAExecutionProvider"])
    assert session.get_providers()[0] == "CUDAExecutionProvider"
    got = np.concatenate([session.run(None, {"input": picture})[0] for picture in shown])
    assert_close(got, logits(file, shown))


@pytest.mark.parametrize("family", families.SMALL, ids=str)
def test_the_fp16_graph_answers_as_torch_in_halves_on_cuda(cuda_torch: None, family: Family, tmp_path: Path) -> None:
    file, shown = half_file(family, tmp_path), pictures(family)
    module = copy.deepcopy(families.build(family)).to("cuda")
    with torch.no_grad(), torch.autocast("cuda", torch.float16):
        got = torch.cat([module(torch.from_numpy(p).cuda()) for p in shown]).float().cpu().numpy()
    assert_close(got, logits(file, shown))


def assert_close(got: FloatArray, expected: FloatArray) -> None:
    assert np.abs(got - expected).max() <= 2 * FP16_TOLERANCE * np.abs(expected).max()
