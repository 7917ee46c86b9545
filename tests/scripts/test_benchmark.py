"""The speed benchmark: a small run in real processes, medians and ratios, and invalid flags."""

import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist

from scripts import benchmark
from scripts import benchmark_whole_test as whole_test
from scripts.benchmark_processes import Traffic
from tests.support.environment import ONE_THREAD, ROOT
from util.errors import UserError

PEER = Path(os.environ.get("PEER", ROOT.parent / "peer"))
needs_peer = pytest.mark.skipif(
    not (PEER / "models" / "pix2pix_model.py").exists(),
    reason="no checkout of the peer at hand (PEER names it)",
)
SMALL = shlex.split("--models pix2pix --crop_size 32 --items 3 --warmup 1 --steps 1 --rounds 1 --threads 1")
NETWORKS = shlex.split("-- --netG resnet_6blocks --ngf 4 --ndf 4 --n_layers_D 1 --netD n_layers")


def run(tmp_path: Path, *flags: str) -> dict[str, Any]:
    out = ["--json", str(tmp_path / "out.json"), "--markdown", str(tmp_path / "out.md")]
    argv = [sys.executable, str(ROOT / "scripts" / "benchmark.py"), *SMALL, *flags, *out, *NETWORKS]
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, env=ONE_THREAD)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "out.md").read_text().rstrip().splitlines()[-1] in done.stdout
    return json.loads((tmp_path / "out.json").read_text())


def test_two_variants_are_measured_in_separate_processes(tmp_path: Path) -> None:
    record = run(tmp_path, "--variant", "small=", "--variant", "wide=--ngf 8 --precision fp64")
    assert record["machine"].keys() == {"cpu", "cores", "gpu", "torch", "when"}
    assert record["peak_gflops"].keys() == {"fp32", "fp64"}
    small, wide = record["results"]
    assert (small["variant"], wide["variant"]) == ("small", "wide")
    assert (small["precision"], wide["precision"]) == ("fp32", "fp64")
    assert wide["flops"] > small["flops"] > 1e6
    for row in (small, wide):
        assert min(row[key] for key in benchmark.MEASURED) > 0
        assert row["images_per_s"] == pytest.approx(1000 / row["step_ms"])
        assert row["gflops"] == pytest.approx(row["flops"] / row["step_ms"] / 1e6)
        assert row["of_peak"] == pytest.approx(row["gflops"] / record["peak_gflops"][row["precision"]])
        assert {"G_GAN", "G_L1", "D_real", "D_fake"} == row["first_losses"].keys()
    assert wide["ratios"]["images_per_s"] == pytest.approx(small["step_ms"] / wide["step_ms"])


@needs_peer
def test_the_first_losses_equal_the_peers(tmp_path: Path) -> None:
    _, peer = run(tmp_path, "--peer", str(PEER))["results"]
    assert peer["variant"] == "peer"
    assert 0 <= peer["losses_differ"] < 1e-5


def test_whole_processes_of_test_py_alternate(tmp_path: Path) -> None:
    peer = ["--peer", str(PEER)] if (PEER / "test.py").exists() else []
    first, second, *peers = run(
        tmp_path, "--whole_test", "2", "--variant", "a=", "--variant", "b=--eval", *peer
    )["results"]
    assert (first["variant"], second["variant"], len(peers)) == ("a", "b", len(peer) // 2)
    for row in (first, second, *peers):
        assert row["pictures"] == 2 and len(row["all_seconds"]) == 1
        assert row["times_as_fast"] == pytest.approx(first["seconds"] / row["seconds"])


def test_a_failing_test_or_too_few_images_is_an_error(tmp_path: Path) -> None:
    fails = tmp_path / "fails.py"
    fails.write_text("import sys; sys.exit('no such weights' if '--fail' in sys.argv else 0)")
    for flags, message in ((["--fail"], "a: no such weights"), ([], "a: wrote 0 of 3 images")):
        with pytest.raises(UserError, match=message):
            whole_test.take_turns({"a": [sys.executable, str(fails), *flags]}, 1, 3, tmp_path, ONE_THREAD)


def runs(*step_ms: list[float], loss: float) -> list[dict[str, Any]]:
    common = {"batch_size": 2, "precision": "fp32", "device": "cpu", "threads": 1, "flops": 4_000_000}
    rates = {"items_per_s": 1.0, "test_images_per_s": 1.0, "memory_mib": 1.0, "first_batch_ms": 1.0}
    return [{**common, **rates, "step_ms": times, "first_losses": {"G": loss}} for times in step_ms]


def test_ratios_are_those_of_medians_over_all_processes() -> None:
    results = {"a": runs([10.0, 400.0], [10.0], loss=2.0), "b": runs([5.0, 5.0], [90.0], loss=1.5)}
    results["b"][0]["memory_mib"] = 3.0  # the median with the other process's 1 is 2
    a, b = benchmark.summarise("pix2pix", results, {"fp32": 4.0})
    assert (a["step_ms"], b["step_ms"]) == (10.0, 5.0)
    assert (a["images_per_s"], a["gflops"], a["of_peak"]) == (200.0, 0.4, 0.1)
    assert set(a["ratios"].values()) == {1.0}
    assert (b["ratios"]["images_per_s"], b["ratios"]["memory_mib"]) == (2.0, 2.0)
    assert (a["losses_differ"], b["losses_differ"]) == (0.0, 0.25)
    assert "400 (x2.00)" in benchmark.table([benchmark.COLUMNS, *map(benchmark.cells, [a, b])])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("--rounds 0", "--rounds 0: expected 1 or more"),
        ("--whole_test 0", "--whole_test 0: expected 1 or more"),
        ("--variant fast", "--variant fast: expected a name"),
        ("--variant a= --variant a=", "the name a is taken"),
        ("--variant a=--presicion", "did you mean --precision"),
        ("--models pix2pxi", "did you mean pix2pix"),
        ("--peer absent", "--peer absent: there is no models/pix2pix_model.py"),
        ("--json absent/found.json", "--json absent/found.json: there is no folder absent"),
    ],
)
def test_invalid_flags_are_refused_before_anything_is_timed(
    flags: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(benchmark, "work", lambda *_: pytest.fail("something was timed"))
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        benchmark.main(["--models", "pix2pix", "--crop_size", "32", "--items", "1", *flags.split()])


def test_a_failing_worker_is_reported_in_one_line(pairs: Path) -> None:
    flags = [
        "--model",
        "pix2pix",
        "--netG",
        "unet_32",
        "--crop_size",
        "32",
        "--gpu_ids",
        "-1",
        "--num_threads",
        "0",
    ]
    job = {"task": "measure", "peer": None, "record": None, "items": 2}
    with pytest.raises(UserError, match=r"^pix2pix: --dataroot absent: there is no such folder"):
        benchmark.work("pix2pix", job | {"flags": [*flags, "--dataroot", "absent"]}, 1)
    one_batch = [*flags, "--dataroot", str(pairs), "--batch_size", "6"]
    with pytest.raises(UserError, match=r"^pix2pix: --dataroot: there is only one batch"):
        benchmark.work("pix2pix", job | {"flags": one_batch}, 1)


def test_traffic_counts_collectives_and_the_time_of_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    class Work:
        def wait(self) -> bool:
            time.sleep(0.05)
            return True

    def all_reduce(tensor: torch.Tensor, async_op: bool = False) -> Work | None:
        return Work() if async_op else None

    monkeypatch.setattr(dist, "all_reduce", all_reduce)
    monkeypatch.setattr(dist, "all_gather", all_reduce)
    traffic = Traffic(torch.device("cpu"))
    assert dist.all_reduce(torch.zeros(3)) is None
    work = dist.all_reduce(torch.zeros(5), async_op=True)
    assert (traffic.bytes, traffic.messages) == (32, 2) and traffic.seconds < 0.04
    assert work.wait() and traffic.seconds >= 0.05
