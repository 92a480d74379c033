"""DPConv, or another layer that reads a frozen encoder, at the deepest feature of any segmentation network.

import models, segmentation_models_pytorch as smp

encoder = models.build_reconstruction().encode       # pretrained: utils.networks.load_weights.load_encoder(path)[0]
network = models.with_dynamic(smp.Unet("resnet34", classes=1), encoder)
logits = network(images)                             # (B, 1 or 3, H, W) to (B, 1, H, W), any size
"""

from __future__ import annotations

from torch import nn

from models.registry import build_layer

PROBE = 256  # the side of the blank image that shows where the deepest map is and how many channels it has


class WithDynamic(nn.Module):
    """A network whose deepest map gets, like that of SRS, the term of a layer that reads a frozen encoder.

    See `with_dynamic`. The parts that scripts look for are those of `models.SRS`: `encoder`, `encoder_bn`, the slot
    `dpconv`, `deep_features`.
    """

    encoder_bn = "frozen"

    def __init__(self, network: nn.Module, encoder: nn.Module | None, layer: str, deepest: str, multiple: int) -> None:
        super().__init__()
        self.network = network
        self.encoder = None if encoder is None else encoder.requires_grad_(False).eval()
        self.deepest, self.multiple = deepest, multiple
        self.narrow, self.widen, self.restore = nn.Identity(), nn.Identity(), nn.Identity()
        channels, deep_channels = self._probe()
        if layer_needs_multiples(layer):
            inner = channels + -channels % 8
            if inner != channels:
                self.widen, self.restore = nn.Conv2d(channels, inner, 1), nn.Conv2d(inner, channels, 1)
            divisor = max(d for d in range(8, max(deep_channels, 8) + 1, 8) if inner % d == 0)
            if self.encoder is not None and divisor != deep_channels:
                self.narrow = nn.Conv2d(deep_channels, divisor, 1)
            channels, deep_channels = inner, divisor
        self.dpconv = build_layer(layer, channels, deep_channels)
