"""The networks for torch.compile and torch.export: one graph, whatever the batch."""

from __future__ import annotations

import signal

import pytest
import torch
from small import small_srs
from torch import nn
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.exc import CppCompileError
from torch.export import Dim, export
from toy import Toy, make_data, run

import train_recon
import train_seg
from models.nested import NestedUNet
from utils.common.errors import UserError
from utils.common.signals import Stopped
from utils.training import compilation
from utils.training.compilation import compiled_for_training

pytestmark = [pytest.mark.slow, pytest.mark.long]


def phase_of(name):
    torch.manual_seed(0)
    if name == "seg":
        return train_seg.Segmentation(small_srs())
    return train_recon.Reconstruction(NestedUNet((8, 8, 16, 64), (1, 1, 1, 1), 8, 3, local_contrast=True))


def step(phase, network, amp):
    """The loss of a training step and the gradients."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 32, 32, generator=generator)
    batch = {"image": images, "mask": (images[:, :1] > 0.5).float()}
    network.zero_grad(set_to_none=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=amp):
        loss, _ = phase.step(network, batch)
    loss.backward()
    return loss.item(), [parameter.grad.clone() for parameter in network.parameters() if parameter.requires_grad]


@pytest.mark.parametrize("amp", [False, True], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", ["recon", "seg"])
def test_a_training_step_is_one_graph(name, amp):
    """fullgraph: a graph break is an error. Loss and gradients are those of the network itself."""
    torch._dynamo.reset()
    phase = phase_of(name)
    network = phase.model.train()
    counter = CompileCounterWithBackend("aot_eager")
    found, gradients = step(phase, torch.compile(network, backend=counter, fullgraph=True), amp)
    assert counter.frame_count == 1
    phase = phase_of(name)
    expected, references = step(phase, phase.model.train(), amp)
    assert found == pytest.approx(expected, rel=2e-2 if amp else 1e-5)
    total = torch.cat([gradient.flatten() for gradient in gradients])
    reference = torch.cat([gradient.flatten() for gradient in references])
    assert (total - reference).norm() <= (0.2 if amp else 1e-3) * reference.norm()


def test_a_run_compiles_the_training_call_of_whole_batches_alone(tmp_path, monkeypatch):
    """Three epochs with a last batch of one image, validation, pictures: one graph, and the weights of a plain run."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("aot_eager")
    monkeypatch.setattr(compilation, "BACKEND", counter)
    data = make_data(tmp_path / "set")
    compiled = run(Toy(), data, tmp_path / "compiled", compile=True)
    plain = run(Toy(), data, tmp_path / "plain")
    assert counter.frame_count == 1
    assert compiled["model"].keys() == plain["model"].keys()
    for name, value in plain["model"].items():
        torch.testing.assert_close(compiled["model"][name], value)


@pytest.mark.parametrize("stage", ["forward", "backward"])
@pytest.mark.parametrize("signalled", [False, True])
def test_a_compiler_that_fails_is_an_error_of_one_line_or_a_stop(tmp_path, monkeypatch, stage, signalled):
    """Ctrl-C in a terminal ends the compiler's process as well, which is then not reported."""
    torch._dynamo.reset()

    def fails(graph, inputs):
        if signalled:
            signal.raise_signal(signal.SIGINT)
        raise CppCompileError(["g++", "step.cpp"], "a thousand lines")

    stages = {"forward": fails, "backward": aot_autograd(fw_compiler=lambda graph, inputs: graph, bw_compiler=fails)}
    monkeypatch.setattr(compilation, "BACKEND", stages[stage])
    data = make_data(tmp_path / "set")
    if signalled:
        with pytest.raises(Stopped, match=r"^stopped while torch\.compile was compiling") as stopped:
            run(Toy(), data, tmp_path / "run", compile=True)
        assert stopped.value.number == signal.SIGINT
    else:
        with pytest.raises(
            UserError, match=r"^--compile: torch cannot compile .*C\+\+ compile error\). Omit --compile$"
        ):
            run(Toy(), data, tmp_path / "run", compile=True)
    monkeypatch.setattr(compilation, "BACKEND", "eager")
    torch._dynamo.reset()
    run(Toy(), data, tmp_path / "run", compile=True)


def test_nothing_is_compiled_without_the_flag():
    network = nn.Conv2d(3, 1, 1)
    assert compiled_for_training(network, wanted=False) is network


def test_export_takes_any_batch_and_any_size_of_whole_deep_pixels():
    network = small_srs()
    sides = {axis: 8 * Dim(name, min=2, max=512) for axis, name in ((2, "rows"), (3, "columns"))}
    shapes = {"image": {0: Dim("batch", min=1, max=64), **sides}}
    program = export(network, (torch.randn(2, 3, 32, 48),), dynamic_shapes=shapes, strict=False).module()
    for shape in ((1, 3, 16, 16), (3, 3, 64, 24)):
        image = torch.randn(shape)
        with torch.no_grad():
            expected = network(image)
        torch.testing.assert_close(program(image), expected, rtol=1e-4, atol=1e-4 * expected.abs().max().item())
