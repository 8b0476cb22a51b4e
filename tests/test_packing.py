"""Packing an ONNX file: the same bytes come back, in far fewer bytes where weights are zero."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import safetensors.torch
import torch
from onnx import TensorProto, helper, numpy_helper
from test_bundle import contents, facts
from typer.testing import CliRunner

from taco.api import unpack
from taco.bundle import publish
from taco.cli import app
from taco.commands.request import make_request
from taco.errors import BundleError
from taco.sparse.packing import PACKED_NAME, pack_model, unpack_model


def model(folder: Path, *weights: np.ndarray) -> Path:
    """Write a chain of matrix products."""
    nodes = [helper.make_node("MatMul", [f"x{i}", f"w{i}"], [f"x{i + 1}"]) for i in range(len(weights))]
    last = len(weights)
    graph = helper.make_graph(
        nodes,
        "chain",
        [helper.make_tensor_value_info("x0", TensorProto.FLOAT, [1, weights[0].shape[0]])],
        [helper.make_tensor_value_info(f"x{last}", TensorProto.FLOAT, [1, weights[-1].shape[1]])],
        [numpy_helper.from_array(w, f"w{i}") for i, w in enumerate(weights)],
    )
    file = folder / "model.onnx"
    onnx.save(helper.make_model(graph), file)
    return file


def sparse(rows: int, cols: int, sparsity: float, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    w = random.standard_normal((rows, cols)).astype(np.float32)
    return np.where(random.random((rows, cols)) < sparsity, np.float32(0), w)


@pytest.mark.parametrize("sparsity", [0.0, 0.5, 0.95, 1.0])
def test_the_same_bytes_come_back(tmp_path: Path, sparsity: float) -> None:
    file = model(tmp_path, sparse(64, 128, sparsity, 1), sparse(128, 32, 0.9, 2), sparse(32, 2, 0.9, 3))
    packed = tmp_path / "packed.safetensors"
    packed.write_bytes(pack_model(file))
    assert unpack_model(packed) == file.read_bytes()


def test_equal_weights_are_told_apart_by_where_they_lie(tmp_path: Path) -> None:
    w = sparse(64, 64, 0.9)
    file = model(tmp_path, w, w, w)
    packed = tmp_path / "packed.safetensors"
    packed.write_bytes(pack_model(file))
    assert unpack_model(packed) == file.read_bytes()


def test_few_weights_take_few_bytes_and_full_ones_no_more(tmp_path: Path) -> None:
    few = model(tmp_path, sparse(512, 512, 0.95))
    assert len(pack_model(few)) < 0.1 * few.stat().st_size
    full = model(tmp_path, sparse(512, 512, 0.0))
    assert len(pack_model(full)) < full.stat().st_size + 1000


def test_damage_is_named(tmp_path: Path) -> None:
    packed = tmp_path / "packed.safetensors"
    content = bytearray(pack_model(model(tmp_path, sparse(64, 64, 0.9))))
    content[-5] ^= 1
    packed.write_bytes(content)
    with pytest.raises(BundleError, match=r"packed\.safetensors is damaged"):
        unpack_model(packed)
    packed.write_bytes(content[: len(content) // 2])
    with pytest.raises(BundleError, match="cannot be read"):
        unpack_model(packed)
    packed.write_bytes(safetensors.torch.save({"x": torch.zeros(2)}))
    with pytest.raises(BundleError, match="is no packed model"):
        unpack_model(packed)
    with pytest.raises(BundleError, match="cannot be read"):
        unpack_model(tmp_path / "nothing")


def test_the_command_takes_a_file_or_a_run(tmp_path: Path) -> None:
    file = model(tmp_path, sparse(64, 64, 0.9))
    run = tmp_path / "run"
    run.mkdir()
    publish(run, contents(["a", "b"]) | {PACKED_NAME: pack_model(file)}, facts(["a", "b"]))
    for number, source in enumerate((run, run / PACKED_NAME)):
        assert CliRunner().invoke(app, ["unpack", str(source), str(tmp_path / f"{number}.onnx")]).exit_code == 0
        assert (tmp_path / f"{number}.onnx").read_bytes() == file.read_bytes()


def test_of_a_folder_only_what_its_manifest_lists_is_unpacked(tmp_path: Path) -> None:
    packed = pack_model(model(tmp_path, sparse(64, 64, 0.9)))
    run, output = tmp_path / "run", tmp_path / "out.onnx"
    run.mkdir()
    (run / PACKED_NAME).write_bytes(packed)
    with pytest.raises(BundleError, match="is not a bundle"):
        unpack(run, output)
    publish(run, contents(["a", "b"]), facts(["a", "b"]))
    with pytest.raises(BundleError, match="holds no packed model: it is no sparse export"):
        unpack(run, output)
    publish(run, contents(["a", "b"]) | {PACKED_NAME: packed}, facts(["a", "b"]))
    (run / PACKED_NAME).write_bytes(packed[:-1])
    with pytest.raises(BundleError, match="its hash differs"):
        unpack(run, output)
    assert not output.exists()


def test_who_takes_the_widths_of_a_sparse_run_is_told_that_its_zeros_stay_behind(tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    publish(run, contents(["a", "b"]), facts(["a", "b"]))
    (dense,) = make_request({"task": "photos", "widths": run}).notes
    assert "zeros" not in dense
    packed = pack_model(model(tmp_path, sparse(64, 64, 0.9)))
    publish(run, contents(["a", "b"]) | {PACKED_NAME: packed}, facts(["a", "b"]))
    (note,) = make_request({"task": "photos", "widths": run}).notes
    assert note.endswith(". Its zeros (--sparsity) are no widths: this model has none")
