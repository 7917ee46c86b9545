"""Precision below float32: what stays in float32, and that every model trains."""

import math
from pathlib import Path

import pytest
import torch

from models import MODELS
from tests.support.models import TRAINED, assert_equal_states, trainer_and_batches
from util.color import rgb_to_lab
from util.errors import UserError


@pytest.mark.parametrize("name", TRAINED)
def test_first_losses_in_bf16_are_near_those_in_fp32(name: str, data: dict[str, Path]) -> None:
    losses_by_precision = {}
    for precision in ("fp32", "bf16"):
        trainer, batches = trainer_and_batches(name, data, "--precision", precision)
        losses, visuals = trainer.step(batches[0])
        assert {tensor.dtype for tensor in (*losses.values(), *visuals.values())} == {torch.float32}
        assert {p.dtype for net in trainer.model.nets.values() for p in net.parameters()} == {torch.float32}
        translated = trainer.model.translate(batches[0])
        assert {tensor.dtype for tensor in translated.values()} == {torch.float32}
        losses_by_precision[precision] = losses
    fp32, bf16 = losses_by_precision["fp32"], losses_by_precision["bf16"]
    for key, loss in fp32.items():
        assert bf16[key].item() == pytest.approx(loss.item(), rel=0.03, abs=0.01), key
    assert any(not torch.equal(bf16[key], loss) for key, loss in fp32.items())


def test_the_generators_loss_uses_the_discriminators_updated_weights(data: dict[str, Path]) -> None:
    trainer, batches = trainer_and_batches("pix2pix", data, "--precision", "bf16", "--lr_D", "0.1")
    seen = []
    D = trainer.model.nets["D"]
    D.register_forward_hook(lambda net, inputs, output: seen.append((inputs[0].detach(), output.detach())))
    trainer.step(batches[0])
    fake, logits = seen[-1]
    with torch.no_grad(), trainer.model.precision.autocast():
        expected = D(fake)
    torch.testing.assert_close(logits, expected, rtol=0.05, atol=0.05)


def test_lab_is_not_computed_in_lower_precision() -> None:
    rgb = torch.rand(1, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rgb_to_lab(rgb), rgb_to_lab(rgb.clone()))
        lab = rgb_to_lab(rgb)
    assert lab.dtype == torch.float32 and torch.equal(lab, rgb_to_lab(rgb))


def test_tf32_needs_a_gpu(data: dict[str, Path]) -> None:
    with pytest.raises(UserError, match="--precision tf32"):
        trainer_and_batches("pix2pix", data, "--precision", "tf32")


@pytest.mark.parametrize("name", [name for name in TRAINED if name in MODELS.names()])
def test_a_run_in_bf16_resumes_to_the_bit(name: str, data: dict[str, Path], tmp_path: Path) -> None:
    trainer, batches = trainer_and_batches(name, data, "--precision", "bf16")
    trainer.step(batches[0])
    torch.save(trainer.state_dict(), tmp_path / "state.pth")
    resumed, _ = trainer_and_batches(name, data, "--precision", "bf16")
    resumed.load_state_dict(torch.load(tmp_path / "state.pth", weights_only=True))
    losses = trainer.step(batches[1]).losses
    resumed.step(batches[1])
    assert all(math.isfinite(value.item()) for value in losses.values())
    assert_equal_states(trainer, resumed)
