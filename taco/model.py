"""The generalist: a timm model, its weights, its preprocessing, its labels and its licence."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import logging
import textwrap
import warnings

import timm
import torch
from safetensors import SafetensorError
from timm.data import ImageNetInfo, infer_imagenet_subset, resolve_model_data_config
from timm.utils.model import reparameterize_model
from torch import nn

from taco.device.images import Preprocessing
from taco.errors import InputError, UnsupportedModuleError, WeightsError
from taco.weights import WAYS, Weights, classifier_path, find_weights

log = logging.getLogger(__name__)

#: What a person can do about a model with another kind of head.
PLAIN_HEADS = "Choose a model with a plain linear head: tf_efficientnet_lite0, resnet50 or vit_small_patch16_224, say"


@dataclasses.dataclass(frozen=True, slots=True)
class Generalist:
    """A pretrained model as it was published, before anything is specialised.

    Attributes:
        module: The network in eval mode, float32.
        name: Its timm name.
        preprocessing: How pictures become its input, from timm's `resolve_model_data_config`.
        imagenet_subset: Which ImageNet label set the head's rows follow; None when they follow none.
        classes: The head's own classes where the checkpoint carries them.
        weights_source: Where the weights came from, in words.
        weights_sha256: Hash of the weight file, or of all tensors where there is no single file.
        licence: Licence of the weights as timm states it; "unknown" otherwise, and for a file of the user's own.
        random_weights: True when nothing was loaded.
    """

    module: nn.Module
    name: str
    preprocessing: Preprocessing
    imagenet_subset: str | None
    classes: tuple[str, ...] | None
    weights_source: str
    weights_sha256: str
    licence: str
    random_weights: bool

    def at(self, pixels: int) -> Generalist:
        """Return the model for pictures of another size, the shorter side of which has so many pixels.

        A model whose positions are learned (a vision transformer) gets them interpolated, where timm can.

        Raises:
            InputError: The model reads pictures of its own size only.
        """
        channels, height, width = self.preprocessing.input_size
        scale = pixels / min(height, width)
        size = (channels, round(scale * height), round(scale * width))
        module = copy.deepcopy(self.module)
        try:
            with warnings.catch_warnings(), torch.inference_mode():
                warnings.simplefilter("ignore")  # of timm's interpolation
                if hasattr(module, "set_input_size"):
                    module.set_input_size(img_size=size[1:])  # type: ignore[operator]
                module(torch.zeros(1, *size))
        except (AssertionError, RuntimeError, ValueError, TypeError) as error:
            why = (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
            raise InputError(
                f"{self.name} cannot read pictures of {size[1]}x{size[2]} pixels: {why}",
                f"Its own size is {height}x{width}: leave --input-size out, or try a multiple of 32",
            ) from error
        return dataclasses.replace(self, module=module, preprocessing=self.preprocessing._replace(input_size=size))


def load_generalist(
    name: str, weights: str | None = None, *, random_weights: bool = False, seed: int = 0
) -> Generalist:
    """Build the timm model `name` and load its weights.

    Args:
        name: A timm model name, with or without a tag (`resnet50`, `resnet50.a1_in1k`).
        weights: A `.safetensors` or weights-only `.pth` file; None looks for a pip package, then timm's hub.
        random_weights: Load nothing. The report shows it in red.
        seed: Seeds the random initialisation.

    Raises:
        InputError: The name is not a timm model.
        WeightsError: No weights, damaged weights, or weights of another architecture.
    """
    _check_name(name)
    _check_tag(name)
    found = find_weights(name, weights, random_weights=random_weights)
    module = _build(name, found, seed)
    config = resolve_model_data_config(module)
    _load(module, name, found)
    module = reparameterised(module.eval()).requires_grad_(False)
    return Generalist(
        module=module,
        name=name,
        preprocessing=Preprocessing.from_dict(config),
        imagenet_subset=_label_set(module, found),
        classes=found.classes,
        weights_source=found.source,
        weights_sha256=found.sha256 or state_sha256(module),
        licence=_licence(module, found),
        random_weights=random_weights,
    )


def reparameterised(module: nn.Module) -> nn.Module:
    """Return a model whose branches that only training needs are merged into one layer each (RepViT, MobileOne, ...).

    Its outputs stay the same to rounding. A model without such branches is returned as it is.

    Args:
        module: In eval mode; it may be modified.
    """
    merged: nn.Module = reparameterize_model(module, inplace=True)
    return merged


def imagenet_info(subset: str) -> ImageNetInfo:
    """Return timm's table of names and synsets for one ImageNet label set."""
    return ImageNetInfo(subset)


def state_sha256(module: nn.Module) -> str:
    """Hash every tensor of a module's state, names, dtypes and shapes included."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(f"{key}|{value.dtype}|{tuple(value.shape)}|".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def classifiers_of(module: nn.Module) -> tuple[nn.Module, ...]:
    """Return what timm names the classifier: several modules where outputs are averaged, none in models of others."""
    if not hasattr(module, "get_classifier"):
        return ()
    found: nn.Module | tuple[nn.Module, ...]
    try:
        found = module.get_classifier()  # type: ignore[operator]
    except AttributeError:  # SHViT looks for its linear layer inside a normalised one, which merging made that layer
        found = _as_far_as_there(module, str(getattr(module, "pretrained_cfg", {}).get("classifier")))
    return found if isinstance(found, tuple) else (found,)


def classifier_of(module: nn.Module) -> nn.Linear:
    """Return the final linear layer.

    Raises:
        UnsupportedModuleError: The model ends in something else (two heads, a convolution).
    """
    heads = classifiers_of(module)
    if len(heads) != 1 or not isinstance(heads[0], nn.Linear):
        end = type(heads[0]).__name__ if len(heads) == 1 else f"{len(heads)} heads"
        raise UnsupportedModuleError(f"{type(module).__name__} ends in {end}, not in one linear layer", PLAIN_HEADS)
    return heads[0]


def _as_far_as_there(module: nn.Module, path: str) -> nn.Module:
    """Return the module at a path, or the last one on the way to it."""
    for part in path.split("."):
        child = getattr(module, part, None)
        if not isinstance(child, nn.Module):
            break
        module = child
    return module


def _check_name(name: str) -> None:
    if timm.is_model(name):
        return
    import difflib

    near = difflib.get_close_matches(name, timm.list_models(), n=3)
    hint = (
        f"Did you mean {', '.join(near)}?" if near else "`python -c 'import timm; print(timm.list_models())'` lists all"
    )
    raise InputError(f"timm has no model named {name!r}", hint)


def _check_tag(name: str) -> None:
    try:
        timm.get_pretrained_cfg(name, allow_unregistered=True)
    except RuntimeError as error:
        known = timm.list_models(f"{name.split('.', maxsplit=1)[0]}.*", pretrained=True)
        raise InputError(f"timm has no weights named {name!r}", f"It has {', '.join(known) or 'none'}") from error


def _licence(module: nn.Module, found: Weights) -> str:
    if found.state is None and not found.from_hub:
        return "none (random weights)"
    if found.state is not None and not found.by_order:
        return "unknown"  # whoever made the file decides, not timm
    return str(getattr(module, "pretrained_cfg", {}).get("license") or "unknown")


def _build(name: str, found: Weights, seed: int) -> nn.Module:
    if found.from_hub:
        return _from_hub(name)
    outputs = found.outputs(classifier_path(name))
    extra = {} if outputs is None else {"num_classes": outputs}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module: nn.Module = timm.create_model(name, **extra)
    return module


def _from_hub(name: str) -> nn.Module:
    from huggingface_hub.errors import HfHubHTTPError

    # the bases of HfHubHTTPError: OSError and the error of whichever HTTP library this hub version uses
    of_http = [base for base in HfHubHTTPError.__bases__ if issubclass(base, Exception)]
    expected: tuple[type[Exception], ...] = (OSError, RuntimeError, ValueError, SafetensorError, *of_http)
    try:
        module: nn.Module = timm.create_model(name, pretrained=True)
    except expected as error:
        raise WeightsError(f"timm's hub gave no weights for {name}: {error}", WAYS.format(name=name)) from error
    return module


def _load(module: nn.Module, name: str, found: Weights) -> None:
    if found.state is None:
        return
    state = found.matched(module.state_dict(), name)
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        first = textwrap.shorten(" ".join(str(error).splitlines()[1:3]), 200, placeholder=" ...")
        raise WeightsError(
            f"{found.source} does not fit {name}: {first}", "Give the --model that these weights were trained as"
        ) from error


def _label_set(module: nn.Module, found: Weights) -> str | None:
    default = getattr(module, "pretrained_cfg", {}).get("num_classes")
    if found.classes or getattr(module, "num_classes", None) != default:
        return None
    subset: str | None = infer_imagenet_subset(module)
    return subset
