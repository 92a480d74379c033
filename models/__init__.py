"""The networks of SRS, and how to build them.

import models

autoencoder = models.build_reconstruction("srs")            # phase 1
srs = models.build("srs")                                   # phase 2, with a fresh encoder
srs = models.build_srs("srs", encoder=autoencoder.encode)   # phase 2, with the pretrained one
logits = srs(images)                                        # (B, 3, H, W) -> (B, 1, H, W)

Read blocks.py, nested.py, dpconv.py, srs.py, in this order: they are the method, and they are what runs. `models.fast`
holds faster twins of these modules for CPUs; nothing here knows of it.
"""

from models import authors
from models.dpconv import DPConv
from models.nested import NestedUNet
from models.registry import NETWORKS, VARIANTS, build, build_reconstruction, build_srs
from models.srs import ENCODER_BN, SRS

__all__ = [
    "ENCODER_BN",
    "NETWORKS",
    "SRS",
    "VARIANTS",
    "DPConv",
    "NestedUNet",
    "authors",
    "build",
    "build_reconstruction",
    "build_srs",
]
