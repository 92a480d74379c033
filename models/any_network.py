"""DPConv, or another layer with a frozen encoder, at the deepest feature of any segmentation network.

import models
import segmentation_models_pytorch as smp

encoder = models.build_reconstruction().encode     # pretrained: utils.networks.load_weights.load_encoder(path)[0]
network = models.with_dynamic(smp.Unet("resnet34", classes=1), encoder)
logits = network(images)                           # (B, 1 or 3, H, W) to (B, 1, H, W), any size
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from threading import get_ident

import torch
from torch import Tensor, nn

from models.nested import prepare_image
from models.registry import DPCONV, build_layer

PROBE = 64  # least side of the blank image with which the number of channels is determined
Maps = Tensor | Sequence[Tensor] | Mapping[str, Tensor]


def with_dynamic(
    network: nn.Module, encoder: nn.Module, layer: str = DPCONV, deepest: str = "encoder", multiple: int = 32
) -> WithDynamic:
    """`network` with a layer at its deepest map, as in SRS: x becomes x + layer(x, deep).

    x is the deepest map of the network, and deep that of the frozen encoder, for the same image. A layer requires the
    channels of x to be a multiple of those of deep, and these to be a multiple of 8. If they are not, trained 1x1
    convolutions adapt them: deep is reduced to the largest multiple of 8 that divides the channels of x. If those are
    not a multiple of 8, x is extended to the next one for the layer, and the result is converted back.

    Args:
        network: (B, 3, H, W), H and W multiples of `multiple`, to (B, 1, H, W) logits. It stays the same object.
        encoder: (B, 3, H, W) to a map or a list of maps with the deepest last, e.g. `build_reconstruction().encode`. It
            becomes part of the result and is frozen, also where `network` contains it or parts of it; pass a copy
            (copy.deepcopy) if those are to be trained.
        layer: one of `models.layers`.
        deepest: the name of the submodule of `network` that returns the deepest map, or a list, tuple or dict of maps
            with the deepest last; "encoder" in segmentation_models_pytorch. It must be called exactly once in a forward
            pass, and not within torch.utils.checkpoint.
        multiple: image sides are padded to a multiple of this.

    Returns:
        A network from (B, 1 or 3, H, W), H and W at least 8, to (B, 1, H, W) logits, with the attributes of
        `models.SRS` that the scripts use: `encoder`, `encoder_bn`, the slot `dpconv`, `deep_features`.

    Raises:
        ValueError: for an unknown layer, and if the submodule `deepest` is missing or returns no map (B, C, h, w).
    """
    parts = dict(network.named_modules())
    if not deepest or deepest not in parts:
        children = ", ".join(name for name, _ in network.named_children())
        raise ValueError(f"deepest must be a submodule of the network ({children}, ...), got {deepest!r}")
    return WithDynamic(network, encoder, layer, deepest, multiple)


class WithDynamic(nn.Module):
    """See `with_dynamic`."""

    encoder_bn = "frozen"

    def __init__(self, network: nn.Module, encoder: nn.Module, layer: str, deepest: str, multiple: int) -> None:
        super().__init__()
        self.network = network
        self.encoder = encoder.requires_grad_(False)
        self.deepest, self.multiple = deepest, multiple
        like = next(self.parameters())
        channels, deep_channels = self._channels(like)
        inner = channels + -channels % 8
        fitting = max(d for d in range(8, inner + 1, 8) if inner % d == 0 and (d <= deep_channels or d == 8))
        self.narrow = _one_by_one(deep_channels, fitting)
        self.widen, self.back = _one_by_one(channels, inner), _one_by_one(inner, channels)
        self.dpconv = build_layer(layer, inner, fitting)
        for new in (self.narrow, self.widen, self.back, self.dpconv):
            new.to(like.device, like.dtype)
        self.train(network.training)

    def train(self, mode: bool = True) -> WithDynamic:
        super().train(mode)
        self.encoder.eval()
        return self

    def trained_parameters(self) -> list[nn.Parameter]:
        """All parameters except those of the encoder."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def deep_features(self, image: Tensor) -> Tensor:
        """The source of the layer: (B, 1 or 3, H, W) to (B, D, h, w)."""
        return self._deep(prepare_image(image, self.multiple))

    def layer_inputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of the layer, x (B, C, h, w) and deep (B, D, h', w'), for the image (B, 1 or 3, H, W)."""
        seen: list[Tensor] = []
        self._run(prepare_image(image, self.multiple), lambda x: seen.append(self.widen(x)))
        return seen[0], self.deep_features(image)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        image = prepare_image(image, self.multiple)
        deep = self._deep(image)
        return self._run(image, lambda x: x + self.back(self.dpconv(self.widen(x), deep)))[..., :height, :width]

    def _run(self, image: Tensor, change: Callable[[Tensor], Tensor | None]) -> Tensor:
        """Runs the network on the image with its deepest map replaced by `change`, if that does not return None."""

        # Threads may share the network, and the hooks of all of them are called in each.
        thread = None if torch.compiler.is_compiling() else get_ident()

        def hook(part: nn.Module, inputs: tuple, result: Maps) -> Maps | None:
            if thread not in (None, get_ident()):
                return None
            x = change(_last(result))
            return None if x is None else _with_last(result, x)

        # The hook exists only during this call, because the network may also be used elsewhere.
        handle = self.network.get_submodule(self.deepest).register_forward_hook(hook)
        try:
            return self.network(image)
        finally:
            handle.remove()

    def _deep(self, image: Tensor) -> Tensor:
        return self.narrow(_last(self.encoder(image)))

    @torch.no_grad()
    def _channels(self, like: Tensor) -> tuple[int, int]:
        """The channels of the deepest maps of the network and of the encoder, which are not changed."""
        side = -(-PROBE // self.multiple) * self.multiple
        image = torch.zeros(1, 3, side, side, device=like.device, dtype=like.dtype)
        seen: list[Tensor] = []
        training = {module: module.training for module in self.modules()}
        self.network.eval()  # so that batch norms do not update their statistics
        self.encoder.eval()
        try:
            self._run(image, seen.append)
            deep = _last(self.encoder(image))
        finally:
            for module, mode in training.items():
                module.training = mode
        if len(seen) != 1:
            raise ValueError(
                f"{self.deepest!r} must be called once in a forward pass, but was called {len(seen)} times"
            )
        return seen[0].shape[1], deep.shape[1]


def _last(result: Maps) -> Tensor:
    maps = list(result.values()) if isinstance(result, Mapping) else result
    x = maps if isinstance(maps, Tensor) else maps[-1] if isinstance(maps, Sequence) and maps else None
    if not isinstance(x, Tensor) or x.ndim != 4:
        raise ValueError("the deepest map must be (B, C, h, w), or the last of a list, tuple or dict of such maps")
    return x


def _with_last(result: Maps, x: Tensor) -> Maps:
    """The same maps, of the same kind, with another deepest one."""
    if isinstance(result, Tensor):
        return x
    if isinstance(result, Mapping):
        return type(result)([*list(result.items())[:-1], (list(result)[-1], x)])
    return type(result)([*result[:-1], x]) if type(result) in (list, tuple) else [*result[:-1], x]


def _one_by_one(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
