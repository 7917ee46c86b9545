"""Runs that were begun by an earlier release resume as they would have continued there."""

import json
import tarfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tests.support.environment import ROOT, Command

FIXTURES = ROOT / "tests" / "fixtures"
"""<model>_<commit>.tar.xz is the folder of a run that commit stopped in epoch 2 after 2 of 6 images."""

COMMON = "--netG resnet_6blocks --gpu_ids -1 --load_size 36 --crop_size 32 --ngf 2 --ndf 2 --num_threads 0"
FLAGS = {
    "pix2pix": "--print_freq 2",
    "cycle_gan": "--print_freq 4 --netD n_layers --n_layers_D 1 --init_type kaiming --pool_size 2",
}


def tensors(value: object) -> list[Tensor]:
    if isinstance(value, dict):
        return [tensor for item in value.values() for tensor in tensors(item)]
    if isinstance(value, list | tuple):
        return [tensor for item in value for tensor in tensors(item)]
    return [value.double()] if isinstance(value, Tensor) else []


@pytest.mark.parametrize("model", FLAGS)
def test_a_run_begun_by_46a4e45_resumes(
    model: str, data: dict[str, Path], command: Command, tmp_path: Path
) -> None:
    with tarfile.open(FIXTURES / f"{model}_46a4e45.tar.xz") as archive:
        archive.extractall(tmp_path / "checkpoints", filter="data")
    expected = json.loads((FIXTURES / "expected_46a4e45.json").read_text())[model]
    dataroot = data["aligned" if model == "pix2pix" else "unaligned"]
    # In float64: in float32 the sums depend on the CPU's instructions.
    flags = f"--n_epochs 2 --n_epochs_decay 1 --log none --continue_train --precision fp64 {COMMON}"
    flags = f"--name {model} --model {model} {FLAGS[model]} {flags}"
    run = command("train.py", "--dataroot", dataroot, *flags.split())
    assert "epoch 2 after 2" in run.stdout

    folder = tmp_path / "checkpoints" / model
    state = torch.load(folder / "latest_state.pth", weights_only=True)["model"]
    for group, total in expected["abs_sums"].items():
        kind, name = group.split("/")
        values = tensors(state[kind][name])
        assert sum(value.abs().sum().item() for value in values) == pytest.approx(total, rel=1e-6), group
        found = sum(value.sum().item() for value in values)
        assert found == pytest.approx(expected["sums"][group], abs=1e-6 * total), group
    records = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
    assert len(records) == len(expected["losses"])
    for record, losses in zip(records, expected["losses"], strict=True):
        values = {**record["losses"], **record.get("diagnostics", {})}
        assert values == pytest.approx(losses, rel=1e-5)
