"""An adapter for networks that require three channels and image sides of a certain multiple."""

from __future__ import annotations

from torch import Tensor, nn

from models.nested import prepare_image


class AnySize(nn.Module):
    """(B, 1 or 3, H, W) to (B, 1, H, W), with a network that requires three channels and sides of a given multiple.

    Gray becomes RGB, the bottom and right edges are padded by repetition, and the logits are cropped.
    """

    def __init__(self, network: nn.Module, multiple: int) -> None:
        super().__init__()
        self.network = network
        self.multiple = multiple

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        return self.network(prepare_image(image, self.multiple))[..., :height, :width]
