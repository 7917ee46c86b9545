"""The contents of logs and of the console, and sinks that fail."""

import errno
import json
import logging
import os
import re
from dataclasses import asdict
from pathlib import Path

import pytest

from tests.support.training import training
from training.loggers.base import Logger, LossRecord, Sink, read_records, truncate_logs
from training.loggers.text import JsonLines, TextLog

RECORD = LossRecord(
    3, 0.5, 40, 200, 0.1234, 0.0056, 2e-4, {"G_GAN": 1.23456, "D_real": 0.5}, diagnostics={"grad_G": 7.5}
)


def test_lines_have_the_peers_format(tmp_path: Path) -> None:
    log = TextLog(tmp_path / "loss_log.txt", resume=False)
    log.log_losses(RECORD)
    header, line = (tmp_path / "loss_log.txt").read_text().splitlines()
    assert header.startswith("================ Training Loss (")
    assert line == "(epoch: 3, iters: 40, time: 0.123, data: 0.006) G_GAN: 1.235 D_real: 0.500 "


def test_json_lines_keep_every_digit(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "losses.jsonl", resume=False)
    log.log_losses(RECORD)
    record = json.loads((tmp_path / "losses.jsonl").read_text())
    assert (record["epoch"], record["total_iters"], record["losses"]) == (3, 200, dict(RECORD.losses))
    assert record["diagnostics"] == {"grad_G": 7.5}
    assert read_records(tmp_path / "losses.jsonl", LossRecord) == [RECORD]


def test_diagnostics_of_old_files_are_separated_from_the_losses(tmp_path: Path) -> None:
    losses = {"D_A": 1.0, "G_A": 2.0, "cycle_A": 3.0, "G_L1": 4.0, "D_real": 5.0, "style": 6.0, "D_gp": 7.0}
    names = ("D_A_acc_real", "D_A_acc_fake", "D_doubt", "diversity", "diversity_A", "grad_G", "G_over_D_A")
    diagnostics = dict.fromkeys((*names, "G_A_light"), 0.5)
    old = asdict(RECORD) | {"losses": losses | diagnostics}
    del old["diagnostics"]
    path = tmp_path / "losses.jsonl"
    path.write_text(json.dumps(old) + "\n")
    (record,) = read_records(path, LossRecord)
    assert (record.losses, record.diagnostics) == (losses, diagnostics)
    assert record.scalars()["diagnostics/grad_G"] == 0.5 and record.scalars()["loss/D_A"] == 1.0


def test_a_resumed_log_continues_where_its_checkpoint_was_written(tmp_path: Path) -> None:
    def logger(resume: bool) -> Logger:
        paths = tmp_path / "loss_log.txt", tmp_path / "losses.jsonl"
        return Logger(tmp_path, [TextLog(paths[0], resume), JsonLines(paths[1], resume)])

    first = logger(resume=False)
    first.log_losses(RECORD)
    lengths = first.lengths()
    before = {name: (tmp_path / name).read_bytes() for name in lengths}
    first.log_losses(RECORD)  # after the checkpoint
    truncate_logs(tmp_path, lengths)
    second = logger(resume=True)
    assert {name: (tmp_path / name).read_bytes() for name in lengths} == before
    second.log_losses(RECORD)
    assert len((tmp_path / "losses.jsonl").read_text().splitlines()) == 2


def test_a_failing_sink_warns_once_and_is_dropped(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Broken(Sink):
        def log_losses(self, record: LossRecord) -> None:
            raise OSError("no space left")

    logger = Logger(tmp_path, [Broken(), JsonLines(tmp_path / "losses.jsonl", resume=False)])
    with caplog.at_level(logging.WARNING):
        logger.log_losses(RECORD)
        logger.log_losses(RECORD)
    assert caplog.text.count("Broken failed (OSError: no space left)") == 1
    assert len((tmp_path / "losses.jsonl").read_text().splitlines()) == 2


def test_a_log_that_was_replaced_does_not_prevent_a_save(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    paths = tmp_path / "loss_log.txt", tmp_path / "losses.jsonl"
    logger = Logger(tmp_path, [TextLog(paths[0], resume=False), JsonLines(paths[1], resume=False)])
    paths[0].unlink()
    os.mkfifo(paths[0])  # which would block
    with caplog.at_level(logging.WARNING):
        assert logger.lengths() == {"losses.jsonl": 0}
    assert "TextLog failed (OSError" in caplog.text and "continues without it" in caplog.text


def test_a_full_disk_is_raised(tmp_path: Path) -> None:
    class Full(Sink):
        def log_losses(self, record: LossRecord) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    def start() -> Sink:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        Logger(tmp_path, [Full()]).log_losses(RECORD)
    with pytest.raises(OSError, match="No space left"):
        Logger(tmp_path, []).add("full", start)


def test_the_console_shows_what_the_peer_prints(
    pairs: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    flags = ["--n_epochs", 2, "--n_epochs_decay", 2, "--save_latest_freq", 4, "--save_epoch_freq", 2]
    assert training(pairs, tmp_path, *flags, "--print_freq", 6, "--val_freq", 3, "--best", "psnr") == 0
    lines = [record.message for record in caplog.records]
    block = (tmp_path / "run" / "train_opt.txt").read_text()
    assert f"{lines[0]}\n" == block and block.startswith("----------------- Options ---------------\n")
    kinds = re.compile(r"learning rate|saving|\(epoch: \d, i|End of epoch .*Time Taken: \d+ sec")
    assert [
        re.sub(r"(?<=iters: 6),.*|(?<=sec),.*|(?<=: )\d+(?= sec)", "", line)
        for line in lines
        if kinds.match(line)
    ] == [
        "learning rate 0.0002000 -> 0.0002000",
        "saving the latest model (epoch 1, total_iters 4)",
        "(epoch: 1, iters: 6",
        "End of epoch 1 / 4 \t Time Taken:  sec",
        "learning rate 0.0002000 -> 0.0002000",
        "saving the latest model (epoch 2, total_iters 8)",
        "(epoch: 2, iters: 6",
        "saving the latest model (epoch 2, total_iters 12)",
        "saving the model at the end of epoch 2, iters 12",
        "End of epoch 2 / 4 \t Time Taken:  sec",
        "learning rate 0.0002000 -> 0.0001333",
        "saving the latest model (epoch 3, total_iters 16)",
        "(epoch: 3, iters: 6",
        "saving the latest model (epoch 3, total_iters 18)",
        "saving the best model (epoch 3, total_iters 18)",
        "End of epoch 3 / 4 \t Time Taken:  sec",
        "learning rate 0.0001333 -> 0.0000667",
        "saving the latest model (epoch 4, total_iters 20)",
        "(epoch: 4, iters: 6",
        "saving the latest model (epoch 4, total_iters 24)",
        "saving the model at the end of epoch 4, iters 24",
        "End of epoch 4 / 4 \t Time Taken:  sec",
        "saving the latest model (epoch 4, total_iters 24)",
    ]
    losses = re.compile(r"\(epoch: \d, iters: 6, time: \S+, data: \S+\) (.*)")
    for line in filter(None, map(losses.fullmatch, lines)):
        assert re.findall(r"(\w+): \d+\.\d{3} ", line[1]) == ["G_GAN", "G_L1", "D_real", "D_fake"]


@pytest.mark.parametrize("identity", ["0.5", "0"])
def test_the_losses_of_cycle_gan_have_the_peers_names_and_order(
    identity: str, data: dict[str, Path], tmp_path: Path
) -> None:
    flags = ["--model", "cycle_gan", "--netG", "resnet_6blocks", "--n_epochs", 1]
    flags += ["--lambda_identity", identity, "--print_freq", 6]
    assert training(data["unaligned"], tmp_path, *flags) == 0
    (line,) = (tmp_path / "run" / "loss_log.txt").read_text().splitlines()[1:]
    names = ["D_A", "G_A", "cycle_A", "idt_A", "D_B", "G_B", "cycle_B", "idt_B"]
    assert re.findall(r"(\w+): \d+\.\d{3} ", line.split(") ")[1]) == names
    assert line.count(": 0.000 ") == (2 if identity == "0" else 0)
