"""Loading of the authors' state dicts, 'SRS_R' (reconstruction) and 'SRS_S' (segmentation), into our networks.

    recon = torch.load("SRS_R.pth", weights_only=True)
    seg = torch.load("SRS_S.pth", weights_only=True)
    srs = load_srs(recon, seg, encoder_bn="batch")      # as in their training

The files contain entries that the authors' forward pass never uses; these are skipped by name. Any other entry that is
missing, unexpected, of another shape or not finite is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from models.nested import NestedUNet
from models.registry import build_reconstruction, build_srs
from models.srs import SRS

# Our name -> their name, applied in this order to every key of our state dict.
_RENAMES = [
    (r"^encode\.stem\.", "conv1."),
    (r"^encode\.nodes\.(\d)\.", r"conv\1_0."),
    (r"^decode\.nodes\.(\d)(\d)\.", r"conv\1_\2."),
    (r"^decode\.contrast\.(\d)\.scales\.0\.", r"IPATR\1.conv1."),
    (r"^decode\.contrast\.(\d)\.scales\.1\.", r"IPATR\1.conv2."),
    (r"^decode\.contrast\.(\d)\.scales\.2\.", r"IPATR\1.conv3."),
    (r"^decode\.shuffle\.0\.", "fup1."),
    (r"^decode\.shuffle\.1\.", "fup2."),
    (r"^decode\.shuffle\.2\.", "fup3."),
    (r"^(fup\d)\.conv\.", r"\1.conv.0."),
    (r"^(fup\d)\.bn\.", r"\1.conv.1."),
    (r"^decode\.fuse\.0\.", "bottomuplocal_fpn_1."),
    (r"^decode\.fuse\.1\.", "bottomuplocal_fpn_2."),
    (r"^decode\.fuse\.2\.", "bottomuplocal_fpn_3."),
    (r"^(bottomuplocal_fpn_\d)\.low\.0\.", r"\1.conv1."),
    (r"^(bottomuplocal_fpn_\d)\.low\.1\.", r"\1.bn3."),
    (r"^(bottomuplocal_fpn_\d)\.low\.3\.", r"\1.conv2."),
    (r"^(bottomuplocal_fpn_\d)\.low\.4\.", r"\1.bn4."),
    (r"^(bottomuplocal_fpn_\d)\.deep\.", r"\1.ECALayer."),
    (r"^(bottomuplocal_fpn_\d)\.join\.", r"\1.finalconv."),
    (r"^decode\.to_top\.(\d)\.", r"conv0_\1_1x1."),
    (r"^decode\.top\.", "finalconv.0."),
    (r"^decode\.head\.", "mask_head_1x1."),
    (r"^project\.", "PKernel_D2.Conv.0."),
    (r"^expand\.", "PKernel_D2.Conv.2."),
    (r"^(channel|spatial)_attention\.", r"PKernel_D2.\1_attention."),
    # In their residual block `conv1` is the first convolution and `CONV` the second.
    (r"^(conv\d_\d\.\d|finalconv\.0)\.conv2\.", r"\1.CONV."),
    (r"\.channel_attention\.reduce\.", ".ca.fc1."),
    (r"\.channel_attention\.expand\.", ".ca.fc2."),
    (r"\.spatial_attention\.conv\.", ".sa.conv1."),
]

# Entries that the authors' forward pass never uses.
_DEAD = r"^(IPATR\d\.tr(_1)?|conv0_3_1x1|bottomuplocal_fpn_\d\.bn[12])\."
_DEAD_IN_SEGMENTATION = rf"{_DEAD}|^IPATR\d\."


def load_reconstruction(state: Mapping[str, Tensor]) -> NestedUNet:
    """The reconstruction network with the authors' weights, in evaluation mode.

    Args:
        state: the state dict of 'SRS_R'.

    Raises:
        ValueError: with the entries (up to 10) that are missing, unexpected, of another shape or not finite.
    """
    network = build_reconstruction("srs")
    _fill("SRS_R", state, [network], _DEAD)
    return network.eval()


def load_srs(recon_state: Mapping[str, Tensor], seg_state: Mapping[str, Tensor], encoder_bn: str = "frozen") -> SRS:
    """SRS with the authors' weights, in evaluation mode.

    Args:
        recon_state: the state dict of 'SRS_R', whose encoder is used.
        seg_state: the state dict of 'SRS_S'.
        encoder_bn: "frozen" or "batch", see `models.SRS`; the released weights were trained with "batch".

    Raises:
        ValueError: with the entries (up to 10) that are missing, unexpected, of another shape or not finite.
    """
    srs = build_srs("srs", encoder_bn, load_reconstruction(recon_state).encode)
    _fill("SRS_S", seg_state, [srs.segmenter, srs.dpconv], _DEAD_IN_SEGMENTATION)
    return srs.eval()


def _authors_name(ours: str) -> str:
    for pattern, replacement in _RENAMES:
        ours = re.sub(pattern, replacement, ours)
    return ours


def _fill(source: str, state: Mapping[str, Tensor], networks: Iterable[nn.Module], dead: str) -> None:
    """Copies `state` into the networks, after checking all of it."""
    living = {name: value for name, value in state.items() if not re.search(dead, name)}
    theirs = {_authors_name(ours): value for net in networks for ours, value in net.state_dict().items()}
    problems = [f"missing {name}" for name in theirs if name not in living]
    problems += [f"unexpected {name}" for name in living if name not in theirs]
    for name, value in theirs.items():
        if name in living and _shape(living[name]) != _shape(value):
            problems.append(f"{name} has shape {_shape(living[name])}, expected {_shape(value)}")
        elif name in living and not living[name].isfinite().all():
            problems.append(f"{name} contains values that are not finite")
    if problems:
        more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
        raise ValueError(f"this is not a state dict of {source}: {'; '.join(problems[:10])}{more}")
    for name, value in theirs.items():
        value.copy_(living[name])


def _shape(value: object) -> tuple[int, ...] | str:
    return tuple(value.shape) if isinstance(value, Tensor) else f"of a {type(value).__name__}"
