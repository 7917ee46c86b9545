"""What the logs contain, and that a failing sink stops nothing."""

import json
import logging
from dataclasses import asdict
from pathlib import Path

import pytest

from training.loggers.base import Logger, LossRecord, Sink, cut_back, read_records
from training.loggers.text import JsonLines, TextLog

RECORD = LossRecord(
    3, 0.5, 40, 200, 0.1234, 0.0056, 2e-4, {"G_GAN": 1.23456, "D_real": 0.5}, diagnostics={"grad_G": 7.5}
)


def test_lines_have_the_peers_form(tmp_path: Path) -> None:
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


def test_a_resumed_log_goes_on_from_where_its_state_was_saved(tmp_path: Path) -> None:
    def logger(resume: bool) -> Logger:
        paths = tmp_path / "loss_log.txt", tmp_path / "losses.jsonl"
        return Logger(tmp_path, [TextLog(paths[0], resume), JsonLines(paths[1], resume)])

    first = logger(resume=False)
    first.log_losses(RECORD)
    lengths = first.lengths()
    before = {name: (tmp_path / name).read_bytes() for name in lengths}
    first.log_losses(RECORD)  # after the state was saved: never happened
    cut_back(tmp_path, lengths)
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
