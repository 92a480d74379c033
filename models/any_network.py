"""DPConv, or another layer that reads a frozen encoder, at the deepest feature of any segmentation network.

import models
import segmentation_models_pytorch as smp

encoder = models.build_reconstruction().encode     # pretrained: utils.networks.load_weights.load_encoder(path)[0]
network = models.with_dynamic(smp.Unet("resnet34", classes=1), encoder)
logits = network(images)                           # (B, 1 or 3, H, W) to (B, 1, H, W), any size
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from models.nested import prepare_image
from models.registry import DPCONV, build_layer

PROBE = 64  # side of the blank image that shows how many channels the deepest maps have


def with_dynamic(
    network: nn.Module, encoder: nn.Module, layer: str = DPCONV, deepest: str = "encoder", multiple: int = 32
) -> WithDynamic:
    """`network` with a layer at its deepest map, as SRS has it: x becomes x + layer(x, deep).

    x is the deepest map of the network, deep that of the frozen encoder, of the same image. A layer wants the channels
    of x to be a multiple of those of deep, and these to be a multiple of 8. Channels that are not get a 1x1
    convolution, which is trained with the layer: deep is taken to the largest multiple of 8 that divides; x, where it
    is not even a multiple of 8 itself, is taken to the next one for the layer, and the layer's result back.

    Args:
        network: (B, 3, H, W), H and W multiples of `multiple`, to (B, 1, H, W) logits. It stays the same object.
        encoder: (B, 3, H, W) to maps (or one), the deepest last, such as `build_reconstruction().encode`. It becomes
            part of the result and is frozen.
        layer: one of `models.layers`.
        deepest: the name of the part of `network` whose result is the deepest map, or a list of maps with the deepest
            last; "encoder" in segmentation_models_pytorch. It must be called once in a forward pass.
        multiple: to which sides are padded.

    Returns:
        (B, 1 or 3, H, W), H and W at least 8, to (B, 1, H, W) logits. The parts that scripts look for are those of
        `models.SRS`: `encoder`, `encoder_bn`, the slot `dpconv`, `deep_features`.

    Raises:
        ValueError: for an unknown layer, or a part `deepest` that is not there, or gives no map (B, C, h, w).
    """
    parts = dict(network.named_modules())
    if not deepest or deepest not in parts:
        children = ", ".join(name for name, _ in network.named_children())
        raise ValueError(f"the network has no part {deepest!r} that holds its deepest map; its parts: {children}")
    return WithDynamic(network, encoder, layer, deepest, multiple)


class WithDynamic(nn.Module):
    """See `with_dynamic`."""

    encoder_bn = "frozen"

    def __init__(self, network: nn.Module, encoder: nn.Module, layer: str, deepest: str, multiple: int) -> None:
        super().__init__()
        self.network = network
        self.encoder = encoder.requires_grad_(False)
        self.deepest, self.multiple = deepest, multiple
        channels, deep_channels = self._channels()
        inner = channels + -channels % 8
        fitting = max(d for d in range(8, inner + 1, 8) if inner % d == 0 and (d <= deep_channels or d == 8))
        self.narrow = _one_by_one(deep_channels, fitting)
        self.widen, self.back = _one_by_one(channels, inner), _one_by_one(inner, channels)
        self.dpconv = build_layer(layer, inner, fitting)
        self.train(network.training)

    def train(self, mode: bool = True) -> WithDynamic:
        super().train(mode)
        self.encoder.eval()
        return self

    def trained_parameters(self) -> list[nn.Parameter]:
        """All but the encoder's."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def deep_features(self, image: Tensor) -> Tensor:
        """What the layer reads: (B, 1 or 3, H, W) to (B, D, h, w)."""
        return self._deep(prepare_image(image, self.multiple))

    def layer_inputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """What the layer gets: x (B, C, h, w) and deep (B, D, h', w') of the image (B, 1 or 3, H, W)."""
        seen: list[Tensor] = []
        self._run(prepare_image(image, self.multiple), lambda x: seen.append(self.widen(x)))
        return seen[0], self.deep_features(image)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        image = prepare_image(image, self.multiple)
        deep = self._deep(image)
        return self._run(image, lambda x: x + self.back(self.dpconv(self.widen(x), deep)))[..., :height, :width]

    def _run(self, image: Tensor, change: Callable[[Tensor], Tensor | None]) -> Tensor:
        """The network on the image, its deepest map changed; as it was where `change` returns None."""

        def hook(part: nn.Module, inputs: tuple, result: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor] | None:
            x = change(_last(result))
            return x if x is None or isinstance(result, Tensor) else [*result[:-1], x]

        # For this call alone: the network is as it was before and after, for whoever else holds it.
        handle = self.network.get_submodule(self.deepest).register_forward_hook(hook)
        try:
            return self.network(image)
        finally:
            handle.remove()

    def _deep(self, image: Tensor) -> Tensor:
        return self.narrow(_last(self.encoder(image)))

    @torch.no_grad()
    def _channels(self) -> tuple[int, int]:
        """Of the network's deepest map and of the encoder's. Both networks stay as they were."""
        like = next(self.parameters())
        image = torch.zeros(1, 3, PROBE, PROBE, device=like.device, dtype=like.dtype)
        seen: list[Tensor] = []
        training = {module: module.training for module in self.modules()}
        self.network.eval()  # batch norms learn nothing of it
        self.encoder.eval()
        try:
            self._run(image, seen.append)
            deep = _last(self.encoder(image))
        finally:
            for module, mode in training.items():
                module.training = mode
        if len(seen) != 1:
            raise ValueError(f"{self.deepest!r} was called {len(seen)} times in a forward pass; it must be once")
        return seen[0].shape[1], deep.shape[1]


def _last(result: Tensor | Sequence[Tensor]) -> Tensor:
    x = result if isinstance(result, Tensor) else result[-1]
    if not isinstance(x, Tensor) or x.ndim != 4:
        raise ValueError("the deepest map must be (B, C, h, w), or the last of a list of such maps")
    return x


def _one_by_one(in_channels: int, out_channels: int) -> nn.Module:
    return nn.Identity() if in_channels == out_channels else nn.Conv2d(in_channels, out_channels, 1)
