"""What several test files need: the golden figures."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from utils.common.devices import pick_device

GOLDEN = Path(__file__).parent / "golden"
sys.path.insert(0, str(GOLDEN))


@pytest.fixture(scope="session")
def golden():
    """The rules that draw the tensors, and the figures computed with the authors' network."""
    import rules

    class Golden:
        def __init__(self) -> None:
            self.outputs = dict(np.load(GOLDEN / "outputs.npz"))
            self.metrics = json.loads((GOLDEN / "metrics.json").read_text())
            self.training = json.loads((GOLDEN / "training.json").read_text())
            self.shapes = json.loads((GOLDEN / "state_dicts.json").read_text())

        def state(self, network: str) -> dict[str, torch.Tensor]:
            return {k: torch.as_tensor(v) for k, v in rules.state(self.shapes[network]).items()}

        @staticmethod
        def images(name: str, batch: int, size: int, **options) -> torch.Tensor:
            return torch.from_numpy(rules.images(name, batch, size, **options))

        @staticmethod
        def masks(name: str, batch: int, size: int) -> torch.Tensor:
            return torch.from_numpy(rules.masks(name, batch, size))

        @staticmethod
        def features(name: str, *shape: int) -> torch.Tensor:
            return torch.from_numpy(rules.features(name, *shape))

        picture = staticmethod(rules.picture)

    return Golden()


@pytest.fixture(params=["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"])
def device(request):
    """Each device of this machine: a test that takes it runs on the CPU, and once more on a GPU if there is one."""
    return pick_device(request.param)
