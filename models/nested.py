"""The nested U-Net, the architecture of both networks of SRS: the reconstruction autoencoder and the segmenter.

Maps are named x(i, j): row i is at 1 / 2^i of the input's size, column j is the nesting depth (U-Net++,
https://arxiv.org/abs/1807.10165). Column 0 is the encoder; the other columns and the fusion of the last map of each row
are the decoder:

    row 0   x00 -- x01 -- x02 -- x03 --+-- f1 --+
    row 1      x10 -- x11 -- x12 ------+-- f2 --+-- head
    row 2          x20 -- x21 ---------+-- f3 --+
    row 3              x30 ------------+
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models import STRIDE
from models.blocks import BLAM, Concatenate, LocalContrast, ResidualBlock, ShuffleUp, residual_node
from models.registry import ROWS, check_rows

MIN_SIZE = STRIDE


def up(x: Tensor, factor: int = 2) -> Tensor:
    """Bilinear upsampling with aligned corners, as in the training of the released weights."""
    with torch.autocast(x.device.type, enabled=False):  # autocast would convert to float32, for the same result
        return F.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=True)


class Down(nn.Module):
    """2x2 max pooling to the next row: (B, C, H, W) to (B, C, H / 2, W / 2)."""

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(x, 2)


class Join(nn.Module):
    """The input of a node: the concatenated channels of left, up(below) and the others."""

    def forward(self, left: Tensor, below: Tensor, *others: Tensor) -> Tensor:
        return torch.cat([left, up(below), *others], dim=1)


def prepare_image(image: Tensor, multiple: int = STRIDE) -> Tensor:
    """An image batch as network input: (B, 1 or 3, H, W) to (B, 3, H', W'), H' and W' multiples of `multiple`.

    Gray is repeated to three channels; the bottom and right edges are padded by repetition. Crop a result with
    `[..., :H, :W]`.

    Raises:
        ValueError: for another rank or number of channels, and for images of less than 8 pixels height or width.
    """
    if image.ndim != 4:
        raise ValueError(f"expected an image batch (B, 3, H, W), got {image.ndim} dimensions: {tuple(image.shape)}")
    if image.shape[1] not in (1, 3):
        raise ValueError(f"expected 1 (gray) or 3 (RGB) channels, got {image.shape[1]} in {tuple(image.shape)}")
    if min(image.shape[2:]) < MIN_SIZE:
        raise ValueError(f"expected images of at least {MIN_SIZE}x{MIN_SIZE} pixels, got {tuple(image.shape[2:])}")
    image = image.expand(-1, 3, -1, -1)
    height, width = image.shape[2:]
    if height % multiple or width % multiple:
        image = F.pad(image, (0, -width % multiple, 0, -height % multiple), mode="replicate")
    return image


class NestedEncoder(nn.Module):
    """Column 0: (B, 3, H, W), H and W multiples of 8, to the pyramid [x00, x10, x20, x30], shallow to deep.

    x(i, 0) has shape (B, widths[i], H / 2^i, W / 2^i).
    """

    def __init__(self, widths: Sequence[int], depths: Sequence[int], stem: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, stem, 3, padding=1), nn.BatchNorm2d(stem), nn.ReLU())
        self.down = Down()
        inputs = [stem, *widths[:-1]]
        self.nodes = nn.ModuleList(residual_node(*node) for node in zip(inputs, widths, depths, strict=True))

    def forward(self, image: Tensor) -> list[Tensor]:
        # In float32 even under autocast: for images with the authors' normalisation its values are e.g. 0.2 +- 0.003,
        # with bfloat16 steps of 0.001, and batch norm divides by the 0.003.
        with torch.autocast(image.device.type, enabled=False):
            x = self.stem(image)
        x = self.nodes[0](x)
        pyramid = [x]
        for node in self.nodes[1:]:
            x = node(self.down(x))
            pyramid.append(x)
        return pyramid


class NestedDecoder(nn.Module):
    """Columns 1 to 3, the fusion and the head: the pyramid [x00, x10, x20, x30] to (B, out_channels, H, W)."""

    def __init__(self, widths: Sequence[int], depths: Sequence[int], out_channels: int, local_contrast: bool) -> None:
        super().__init__()
        self.down, self.join, self.concatenate = Down(), Join(), Concatenate()
        self.nodes = nn.ModuleDict()  # in the order of computation: a column from top to bottom, then the next
        for j in range(1, ROWS):
            for i in range(ROWS - j):
                inputs = widths[i] + widths[i + 1] + (widths[i] if j > 1 else 0) + (widths[i - 1] if i > 0 else 0)
                self.nodes[f"{i}{j}"] = residual_node(inputs, widths[i], depths[i])
        rows = range(ROWS - 1)
        self.contrast = nn.ModuleList(LocalContrast(widths[i]) if local_contrast else nn.Identity() for i in rows)
        self.shuffle = nn.ModuleList(ShuffleUp(widths[i + 1], widths[i]) for i in rows)
        self.fuse = nn.ModuleList(BLAM(widths[i]) for i in rows)
        self.to_top = nn.ModuleDict({str(i): nn.Conv2d(widths[i], widths[0], 1) for i in rows if i > 0})
        self.top = ResidualBlock(len(rows) * widths[0], widths[0])
        self.head = nn.Conv2d(widths[0], out_channels, 1)

    def forward(self, pyramid: Sequence[Tensor]) -> Tensor:
        return self.head(self._fuse_rows(self._nest(pyramid)))

    def _nest(self, pyramid: Sequence[Tensor]) -> list[Tensor]:
        """The last map of each row: [x03, x12, x21, x30]."""
        x = {(i, 0): level for i, level in enumerate(pyramid)}
        for name, node in self.nodes.items():
            i, j = map(int, name)
            others = [x[i, j - 2]] if j > 1 else []
            if i > 0:
                others.append(self.down(x[i - 1, j]))
            x[i, j] = node(self.join(x[i, j - 1], x[i + 1, j - 1], *others))
        return [x[i, ROWS - 1 - i] for i in range(ROWS)]

    def _fuse_rows(self, last: Sequence[Tensor]) -> Tensor:
        """Fuses each row with the one below it, from deep to shallow, and then joins all rows at full size."""
        fused = last[-1]
        tops = []
        for i in reversed(range(ROWS - 1)):
            fused = self.fuse[i](low=self.contrast[i](last[i]), deep=self.shuffle[i](fused))
            # Row 0 already has the size and width of the top.
            tops.append(fused if i == 0 else up(self.to_top[str(i)](fused), 2**i))
        return self.top(self.concatenate(*tops[::-1]))


class NestedUNet(nn.Module):
    """A nested U-Net in two halves, `encode(image) -> pyramid` and `decode(pyramid) -> map`.

    The call accepts gray or RGB images of at least 8x8 pixels, see `prepare_image`; `encode` requires its result.

    Args:
        widths: channels of rows 0 to 3, multiples of 8.
        depths: residual blocks in each node of rows 0 to 3.
        stem: channels of the stem.
        out_channels: channels of the result: 3 for reconstruction, 1 logit for segmentation.
        local_contrast: whether each row has a local contrast block before the fusion (in the reconstruction network).

    Shape: image (B, 1 or 3, H, W) to (B, out_channels, H, W).
    """

    def __init__(
        self, widths: Sequence[int], depths: Sequence[int], stem: int, out_channels: int, local_contrast: bool
    ) -> None:
        super().__init__()
        check_rows(widths, depths)
        self.encode = NestedEncoder(widths, depths, stem)
        self.decode = NestedDecoder(widths, depths, out_channels, local_contrast)

    def forward(self, image: Tensor) -> Tensor:
        height, width = image.shape[-2:]
        return self.decode(self.encode(prepare_image(image)))[..., :height, :width]
