"""SRS: a frozen reconstruction encoder generates, through DPConv, a kernel for the segmenter's deepest feature."""

from __future__ import annotations

from torch import Tensor, nn

from models import ENCODER_BN
from models.nested import NestedEncoder, NestedUNet, prepare_image
from models.protocols import DynamicLayer


class SRS(nn.Module):
    """The siamese network: (B, 1 or 3, H, W) images, H and W at least 8, to (B, 1, H, W) logits.

    Paper: https://arxiv.org/abs/2312.01741, section III. Any image size works: the image is padded at the bottom and
    right to a multiple of 8, and the logits are cropped.

    The reconstruction encoder is always frozen: its parameters have no gradient, and `train()` leaves it in evaluation
    mode.

    Args:
        encoder: the `encode` half of a pretrained reconstruction network; None if the layer reads no encoder or the
            segmenter's own deepest map.
        segmenter: a nested U-Net with one output channel.
        dpconv: a layer with the segmenter's deepest map and the encoder's as inputs (without an encoder, the
            segmenter's twice): the paper's `DPConv`, or a replacement.
        encoder_bn: "frozen" (paper): the batch norms of the encoder use their running statistics; "batch" (released
            training): they use the statistics of the current batch, also in evaluation, so that a prediction depends on
            the other images of its batch (evaluate with batch size 1). The running statistics never change.

    Raises:
        ValueError: for an unknown `encoder_bn`, or "batch" without an encoder.
    """

    def __init__(
        self, encoder: NestedEncoder | None, segmenter: NestedUNet, dpconv: DynamicLayer, encoder_bn: str = "frozen"
    ) -> None:
        super().__init__()
        if encoder_bn not in ENCODER_BN:
            raise ValueError(f"encoder_bn must be one of {', '.join(ENCODER_BN)}, got {encoder_bn!r}")
        self.encoder_bn = encoder_bn
        if encoder is None and encoder_bn != "frozen":
            raise ValueError(f"encoder_bn must be frozen for a network without encoder, got {encoder_bn!r}")
        self.encoder = None if encoder is None else encoder.requires_grad_(False)
        self.segmenter = segmenter
        self.dpconv = dpconv
        for module in () if encoder is None else encoder.modules():
            if isinstance(module, nn.BatchNorm2d):
                # In training mode without tracking, a batch norm uses the batch and keeps its running statistics.
                module.track_running_stats = encoder_bn == "frozen"
        self.train(self.training)

    def train(self, mode: bool = True) -> SRS:
        super().train(mode)
        if self.encoder is not None:
            self.encoder.train(self.encoder_bn == "batch")
        return self

    def trained_parameters(self) -> list[nn.Parameter]:
        """The parameters that phase 2 trains: those of the segmenter and of DPConv."""
        return [parameter for parameter in self.parameters() if parameter.requires_grad]

    def deep_features(self, image: Tensor) -> Tensor:
        """The source of the layer: (B, 1 or 3, H, W) to (B, D, ceil(H / 8), ceil(W / 8)).

        This is the deepest map of the reconstruction encoder; without an encoder, that of the segmenter.
        """
        image = prepare_image(image)
        return self.segmenter.encode(image)[-1] if self.encoder is None else self._deep(image)

    def layer_inputs(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The inputs of the layer, x (B, C, h, w) and deep (B, D, h, w), for the image (B, 1 or 3, H, W)."""
        x = self.segmenter.encode(prepare_image(image))[-1]
        return x, x if self.encoder is None else self.deep_features(image)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        image = prepare_image(image)
        *shallow, x = self.segmenter.encode(image)
        x = x + self.dpconv(x, x if self.encoder is None else self._deep(image))
        return self.segmenter.decode([*shallow, x])[..., :height, :width]

    def _deep(self, image: Tensor) -> Tensor:
        if self.encoder_bn == "batch" and image.shape[0] * image.shape[2] * image.shape[3] <= 64:
            raise ValueError(
                "encoder_bn='batch' requires more than one deep pixel: an image larger than 8x8, or several images"
            )
        return self.encoder(image)[-1]
