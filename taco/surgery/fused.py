"""The same model, computed faster on a CPU: frozen BatchNorm inside the convolutions, 1 x 1 as a product.

With frozen statistics BatchNorm is an affine map: its scale goes into the weights before the convolution,
differentiably, so that neither pass has to walk over the large maps for it. A 1 x 1 convolution of a channels_last map
is one matrix product of a view; torch's own takes a slow path for it on one thread. Parameters are shared: the
optimiser, masks and checkpoints see the original model.
"""

from __future__ import annotations

import copy
import logging

import torch
from timm.layers import BatchNormAct2d, Conv2dSame
from torch import nn
from torch.nn import functional as F

from taco.compute import device_of
from taco.surgery.clamped import bounds_of, clamped_product
from taco.surgery.padded import padded_same

log = logging.getLogger(__name__)

#: Largest difference of a logit, as a share of the largest one, that rounding may leave.
_TOLERANCE = 1e-3


class FusedConv(nn.Module):
    """A convolution with the frozen BatchNorm that follows it; parameters belong to the originals.

    A product takes the norm's activation along where that is a clamp.
    """

    def __init__(self, conv: nn.Conv2d, norm: nn.BatchNorm2d | None) -> None:
        super().__init__()
        self.conv, self.norm = conv, norm
        inside = isinstance(norm, BatchNormAct2d) and isinstance(norm.drop, nn.Identity) and _is_product(conv)
        self.bounds = bounds_of(norm.act) if inside and norm is not None else None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (n, C, H, W) as conv, norm and what was taken along do."""
        conv, (weight, bias) = self.conv, self._folded()
        if _is_product(conv):
            rows = x.permute(0, 2, 3, 1)
            if self.bounds is None:
                return F.linear(rows, weight.flatten(1), bias).permute(0, 3, 1, 2)
            y = clamped_product(rows.flatten(0, 2), weight.flatten(1), bias, self.bounds)
            return y.view(*rows.shape[:3], -1).permute(0, 3, 1, 2)
        if conv.groups > 1 and torch.is_autocast_enabled("cpu"):
            with torch.autocast("cpu", enabled=False):  # bfloat16 gradients of depthwise kernels take twice as long
                return self._convolved(x.float(), weight, bias)
        return self._convolved(x, weight, bias)

    def _convolved(self, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        conv = self.conv
        if isinstance(conv, Conv2dSame):
            return F.conv2d(padded_same(x, conv), weight, bias, conv.stride, (0, 0), conv.dilation, conv.groups)
        return F.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation, conv.groups)

    def _folded(self) -> tuple[torch.Tensor, torch.Tensor | None]:
        conv, norm = self.conv, self.norm
        if norm is None or norm.running_mean is None or norm.running_var is None:
            return conv.weight, conv.bias
        scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
        shift = -norm.running_mean if conv.bias is None else conv.bias - norm.running_mean
        return conv.weight * scale.view(-1, 1, 1, 1), norm.bias + shift * scale


def faster_form(model: nn.Module, input_size: tuple[int, int, int]) -> nn.Module:
    """Return the form of a model that computes fastest: on a processor the fused one, elsewhere itself.

    Args:
        model: Eval mode, channels_last, where it computes.
        input_size: (channels, height, width).
    """
    return fused(model, input_size) if device_of(model).type == "cpu" else model


def fused(model: nn.Module, input_size: tuple[int, int, int]) -> nn.Module:
    """Return a model that shares the given one's parameters and buffers and computes the same, faster.

    It is tried on a picture: where the answers differ by more than rounding, the given model is returned.

    Args:
        model: Eval mode, channels_last.
        input_size: (channels, height, width).
    """
    picture = torch.randn(1, *input_size, generator=torch.Generator().manual_seed(0))
    picture = picture.contiguous(memory_format=torch.channels_last)
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    faster = copy.deepcopy(model, shared)
    with torch.no_grad():
        pairs, expected = _pairs(model, picture)
        for conv_name, norm_name in pairs.items():
            conv = faster.get_submodule(conv_name)
            norm = faster.get_submodule(norm_name) if norm_name else None
            if not isinstance(conv, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d | None):
                continue
            together = FusedConv(conv, norm)
            faster.set_submodule(conv_name, together)
            if norm is not None:
                faster.set_submodule(norm_name, _after(norm, together))
        found = faster(picture)
    if not torch.isfinite(expected).all():
        return model
    if float((found - expected).abs().max()) > _TOLERANCE * float(expected.abs().max()):
        log.debug("the fused form differs by more than rounding: the plain one trains")
        return model
    return faster


def _after(norm: nn.BatchNorm2d, before: FusedConv) -> nn.Module:
    """Return what is left of a norm whose affine map went into the convolution: timm's has an activation inside."""
    if not isinstance(norm, BatchNormAct2d) or before.bounds is not None:
        return nn.Identity()
    activation = copy.copy(norm.act)
    if getattr(activation, "inplace", False) and _is_product(before.conv):
        activation.inplace = False  # in place on a view, which a product's output is, autograd copies whole maps
    return nn.Sequential(norm.drop, activation)


def _pairs(model: nn.Module, picture: torch.Tensor) -> tuple[dict[str, str], torch.Tensor]:
    """Return convolution -> the frozen BatchNorm that reads it, or "" for a 1 x 1 without one; and the answer."""
    outputs: dict[int, tuple[str, torch.Tensor]] = {}
    pairs: dict[str, str] = {}
    handles = []
    for name, module in model.named_modules():
        if type(module) in (nn.Conv2d, Conv2dSame) and module.padding_mode == "zeros":

            def keep(conv: nn.Module, _args: object, output: torch.Tensor, name: str = name) -> None:
                outputs[id(output)] = (name, output)  # kept alive, so that no other tensor gets its id
                if isinstance(conv, nn.Conv2d) and _is_product(conv):
                    pairs.setdefault(name, "")

            handles.append(module.register_forward_hook(keep))
        elif type(module) in (nn.BatchNorm2d, BatchNormAct2d) and not module.training and module.affine:

            def note(_norm: nn.Module, args: tuple[torch.Tensor, ...], name: str = name) -> None:
                found = outputs.get(id(args[0]))
                if found is not None:
                    pairs[found[0]] = name

            handles.append(module.register_forward_pre_hook(note))
    try:
        answer: torch.Tensor = model(picture)
    finally:
        for handle in handles:
            handle.remove()
    return pairs, answer


def _is_product(conv: nn.Conv2d) -> bool:
    """Whether it is one matrix product: 1 x 1, no stride, padding or groups."""
    unpadded = conv.padding in ((0, 0), "same", "valid")
    return conv.kernel_size == (1, 1) and conv.stride == (1, 1) and conv.groups == 1 and unpadded
