"""Mixed precision: the number format in which the network computes. Weights, loss and metrics stay float32.

off   float32 throughout; on CUDA without TF32 (`utils.common.devices.exact_float32`)
bf16  bfloat16 by autocast (CPUs with AVX512-BF16 or AMX, NVIDIA GPUs since Ampere)
fp16  float16 by autocast, with a gradient scaler (CUDA)
auto  on CUDA bf16 since Ampere, fp16 on Volta and Turing (V100, T4, RTX 20xx); otherwise off
"""

from __future__ import annotations

import torch

from utils.common.errors import UserError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Precision:
    """The precision of `--amp` on a device: `name` ("off", "bf16" or "fp16"), `dtype`, `autocast()` and `scaler`.

    Raises:
        UserError: for fp16 on a device other than CUDA, where float16 has no gradient scaler or no speed.
    """

    def __init__(self, amp: str, device: torch.device) -> None:
        if amp == "auto":
            amp = fastest(device)
        if amp == "fp16" and device.type != "cuda":
            raise UserError(f"--amp fp16 requires CUDA, but this run uses {device.type}. Pass --amp bf16 or off")
        self.name = amp
        self.dtype = _DTYPES.get(amp, torch.float32)
        self.device = device
        # Scales the loss, so that small gradients do not vanish in float16; does nothing in other formats.
        self.scaler = torch.amp.GradScaler(device.type, enabled=amp == "fp16")

    def autocast(self, cached: bool = True) -> torch.autocast:
        """A context in which networks compute in this precision.

        Args:
            cached: a weight that is used twice is converted once.
        """
        enabled = self.name != "off"
        return torch.autocast(self.device.type, self.dtype, enabled=enabled, cache_enabled=cached and enabled)


def fastest(device: torch.device) -> str:
    """The format of --amp auto on a device, by its compute capability.

    torch.cuda.is_bf16_supported() is not used: it checks the current device, and accepts cards that emulate bfloat16.
    """
    if device.type != "cuda":
        return "off"
    capability = torch.cuda.get_device_capability(device)
    return "bf16" if capability >= (8, 0) else "fp16" if capability >= (7, 0) else "off"
