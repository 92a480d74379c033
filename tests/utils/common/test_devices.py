"""Which device a script takes, and how it is set: on devices that do not exist here."""

from __future__ import annotations

import pytest
import torch
from toy import make_data, make_loaders

from utils.common import devices
from utils.common.devices import peak_memory, pick_device, pins_memory, repeating_sizes, synchronise, widest_float
from utils.common.errors import UserError
from utils.common.precision import Precision
from utils.common.runtime import describe_execution, set_up

# A card of each generation: V100, T4, A100, H100, GTX 1080.
CAPABILITIES = {"V100": (7, 0), "T4": (7, 5), "A100": (8, 0), "H100": (9, 0), "GTX 1080": (6, 1)}


@pytest.fixture
def gpus(monkeypatch):
    """Two GPUs, an A100 and a T4; returns the list of the devices that were made the current one."""
    cards, current = [(8, 0), (7, 5)], []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: True)  # as a T4 answers
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(cards))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: cards[torch.device(device).index])
    monkeypatch.setattr(torch.cuda, "set_device", current.append)
    flags = torch.backends.cuda.matmul, torch.backends.cudnn
    before = [each.allow_tf32 for each in flags]
    for each in flags:
        each.allow_tf32 = True
    monkeypatch.setattr(torch, "empty", lambda *size, device: torch.zeros(size))  # there is no such device
    yield current
    for each, value in zip(flags, before, strict=True):
        each.allow_tf32 = value


def job(monkeypatch, rank, processes):
    for name, value in (("RANK", rank), ("LOCAL_RANK", rank), ("WORLD_SIZE", processes)):
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", str(processes))


@pytest.mark.parametrize(("name", "index"), [("auto", 0), ("cuda", 0), ("cuda:1", 1)])
def test_the_device_becomes_the_current_one(gpus, name, index):
    device = pick_device(name)
    assert device == torch.device("cuda", index)
    assert gpus == [device], "else libraries open a context on GPU 0"


def test_each_process_takes_its_own_gpu(gpus, monkeypatch):
    job(monkeypatch, 1, 2)
    assert pick_device("cuda") == pick_device("auto") == torch.device("cuda:1")


@pytest.mark.usefixtures("gpus")
def test_one_gpu_for_all_processes_is_refused_with_the_reason(monkeypatch):
    job(monkeypatch, 1, 2)
    with pytest.raises(UserError, match=r"cuda:0 .* one GPU.*--device cuda.*CUDA_VISIBLE_DEVICES"):
        pick_device("cuda:0")


@pytest.mark.usefixtures("gpus")
def test_more_processes_than_gpus_are_refused_with_their_number(monkeypatch):
    job(monkeypatch, 2, 3)
    with pytest.raises(UserError, match="--nproc_per_node 2"):
        pick_device("auto")


@pytest.mark.parametrize("kind", ["xpu", "mps"])
def test_auto_takes_other_accelerators(monkeypatch, kind):
    monkeypatch.setattr(devices, "_available", lambda name: name == kind)
    monkeypatch.setattr(torch, "empty", lambda *size, device: torch.zeros(size))
    assert pick_device("auto").type == kind
    job(monkeypatch, 0, 2)
    assert pick_device("auto").type == "cpu", "one accelerator of this kind cannot be shared"
    with pytest.raises(UserError, match=f"--device {kind} supports one process"):
        pick_device(kind)


def test_a_device_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match=r"--device cuda:7 is not available.*--device auto"):
        pick_device("cuda:7")


@pytest.mark.parametrize("name", ["hpu", "meta", "privateuseone", "", "cuda:x"])
def test_other_devices_are_refused(name):
    with pytest.raises(UserError, match=f"--device must be auto, cpu, cuda, cuda:1, xpu or mps, got '{name}'"):
        pick_device(name)


@pytest.mark.usefixtures("gpus")
def test_float32_is_float32_on_cuda(tmp_path):
    (settings := settings_of("cuda")).threads = None
    assert "TF32 allowed" in describe_execution(settings, Precision("off", torch.device("cuda:0")))
    torch.backends.cuda.matmul.allow_tf32 = False
    assert "TF32 allowed" in describe_execution(settings, Precision("off", torch.device("cuda:0"))), "by cuDNN"
    pick_device("cuda")
    assert not torch.backends.cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    assert describe_execution(settings, Precision("off", torch.device("cuda:0"))).startswith("float32, TF32 off")
    assert describe_execution(settings, Precision("off", torch.device("cpu"))).startswith("float32, ")


@pytest.mark.usefixtures("gpus")
def test_automatic_precision_is_that_of_the_device_chosen():
    assert [Precision("auto", torch.device("cuda", index)).name for index in (0, 1)] == ["bf16", "fp16"]


@pytest.mark.parametrize(
    ("card", "amp"), [("V100", "fp16"), ("T4", "fp16"), ("A100", "bf16"), ("H100", "bf16"), ("GTX 1080", "off")]
)
def test_automatic_precision_of_each_generation(gpus, monkeypatch, card, amp):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: CAPABILITIES[card])
    precision = Precision("auto", torch.device("cuda:0"))
    assert precision.name == amp and precision.scaler.is_enabled() == (amp == "fp16")


@pytest.mark.parametrize("kind", ["cpu", "mps", "xpu"])
def test_automatic_precision_elsewhere_is_float32(kind):
    assert Precision("auto", torch.device(kind)).name == "off"


def settings_of(device, **changes):
    from toy import settings

    return settings(device=device, seed=0, threads=None, **changes)


@pytest.mark.parametrize(("device", "pins"), [("cpu", False), ("mps", False), ("auto", True), ("cuda:1", True)])
def test_memory_is_pinned_for_cuda_alone(gpus, device, pins):
    assert pins_memory(device) == pins


def test_no_memory_is_pinned_without_cuda(tmp_path):
    assert not pins_memory("auto")
    train, val = make_loaders(make_data(tmp_path / "set"))
    assert not train.pin_memory and not val.pin_memory


@pytest.fixture
def benchmark_flag(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("benchmark_flag")
@pytest.mark.parametrize(
    ("changes", "wanted"),
    [({}, True), ({"crop": 64}, False), ({"resize": "keep"}, False), ({"resize": "back"}, True),
     ({"deterministic": True}, False)],
)  # fmt: skip
def test_cudnn_times_its_algorithms_where_sizes_repeat(changes, wanted):
    set_up(settings_of("cpu", **changes))
    assert torch.backends.cudnn.benchmark == wanted
    with repeating_sizes():  # as training on crops is
        assert torch.backends.cudnn.benchmark != bool(changes.get("deterministic"))
    assert torch.backends.cudnn.benchmark == wanted


@pytest.mark.parametrize("kind", ["cuda", "xpu", "mps"])
def test_timing_waits_for_the_device(monkeypatch, kind):
    waited = []
    monkeypatch.setattr(getattr(torch, kind), "synchronize", lambda *device: waited.append(device))
    synchronise(torch.device(kind))
    assert waited == [() if kind == "mps" else (torch.device(kind),)]


def test_peak_memory_of_each_kind(monkeypatch):
    monkeypatch.setattr(torch.xpu, "max_memory_allocated", lambda device: 3e9)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: 2e9)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 1e9)
    assert [peak_memory(torch.device(kind)) for kind in ("xpu", "cuda", "mps")] == [3, 2, 1]
    assert 0 < peak_memory(torch.device("cpu")) < 1000


def test_figures_are_float64_where_there_is_one():
    kinds = {kind: widest_float(torch.device(kind)) for kind in ("cpu", "cuda", "mps", "xpu")}
    assert kinds == {"cpu": torch.float64, "cuda": torch.float64, "mps": torch.float32, "xpu": torch.float32}
