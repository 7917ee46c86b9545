"""The visdom display, in a real server started by scripts/start_visdom.py without network access."""

import io
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import tarfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from scripts.start_visdom import LIBRARIES, install_libraries
from tests.support.environment import ROOT
from tests.support.training import training
from training.loggers import visdom_sink
from training.loggers.base import MetricRecord
from training.loggers.visdom_sink import (
    MARKED_POINTS,
    MAX_POINTS,
    TABLE,
    Curves,
    VisdomDisplay,
    connect,
    table,
)
from util.errors import UserError

NO_NETWORK = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9")
"""Requests to other machines fail."""


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Server:
    """A visdom server started by scripts/start_visdom.py."""

    def __init__(self, folder: Path):
        self.port = free_port()
        self.log = folder / "server.log"
        self.arguments = [sys.executable, str(ROOT / "scripts" / "start_visdom.py"), "--port", str(self.port)]
        self.arguments += ["--env_path", str(folder / "env")]
        environment = {
            name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")
        }
        with self.log.open("w") as output:
            self.process = subprocess.Popen(
                self.arguments,
                stdout=output,
                stderr=output,
                env=environment | NO_NETWORK,
                start_new_session=True,
            )
        deadline = time.monotonic() + 60
        while f"http://localhost:{self.port}" not in self.log.read_text():
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)

    def windows(self, env: str) -> dict[str, Any]:
        """Return all windows of an environment by id."""
        body = json.dumps({"win": None, "eid": env}).encode()
        address = f"http://127.0.0.1:{self.port}/win_data"
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(address, body, 20) as answer:
            return dict(json.load(answer))

    def stop(self, how: signal.Signals = signal.SIGKILL) -> int:
        self.process.send_signal(how)
        return self.process.wait(20)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("visdom"))
    yield server
    server.stop()


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "localhost,127.0.0.1")


def display(server: Server, env: str, **arguments: Any) -> VisdomDisplay:
    client = connect("http://localhost", server.port, env)
    return VisdomDisplay(client, 5, "run", **{"columns": 4, "width": 100, **arguments})


def test_the_server_accepts_local_connections_only_and_a_second_one_reports_the_taken_port(
    server: Server,
) -> None:
    listening = f"{0x0100007F:08X}:{server.port:04X}"  # 127.0.0.1 as the kernel writes it
    lines = [
        line.split()
        for path in ("tcp", "tcp6")
        for line in Path(f"/proc/net/{path}").read_text().splitlines()
    ]
    assert [line[1] for line in lines if line[1].endswith(f":{server.port:04X}") and line[3] == "0A"] == [
        listening
    ]
    second = subprocess.run(server.arguments, capture_output=True, text=True, timeout=60)
    assert second.returncode == 2
    assert f"--port {server.port} is taken" in second.stderr


def test_visdom_shows_a_run_and_the_whole_curve_of_a_resumed_one(
    server: Server, pairs: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    flags = f"--log visdom --display_id 5 --display_env whole --display_port {server.port} --html_samples 2"
    assert training(pairs, tmp_path, *flags.split(), "--n_epochs", "1") == 0
    before = server.windows("whole")
    assert set(before) == {"5", "6", "7"} | {
        f"5_{name}" for name in ("options", "diagnostics", "learning_rate", "speed", "memory")
    }
    lines = [json.loads(line) for line in (tmp_path / "run" / "losses.jsonl").read_text().splitlines()]
    assert set(lines[-1]["losses"]) == {curve["name"] for curve in before["5"]["content"]["data"]}
    (rate, *_), axis = before["5_learning_rate"]["content"]["data"], before["5"]["content"]["layout"]["xaxis"]
    assert rate["x"][-1] == 1 and rate["mode"] == "lines+markers" and axis["rangemode"] == "tozero"
    diagnostics = {curve["name"] for curve in before["5_diagnostics"]["content"]["data"]}
    assert set(lines[-1]["diagnostics"]) == diagnostics and "D_doubt" in diagnostics
    images, labels = before["6"], before["7"]["content"]
    assert (images["type"], images["title"], images["width"]) == ("image", "run images", 768)
    assert labels.count("<td>fake_B</td>") == 2
    assert "<td>--netG</td><td>unet_32</td>" in before["5_options"]["content"]

    resumed = [*flags.split(), "--n_epochs", "2", "--continue_train"]
    connect("http://localhost", server.port, "whole").close()  # as after a restart of the server
    assert training(pairs, tmp_path, *resumed) == 0
    after = server.windows("whole")["5"]["content"]["data"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "losses.jsonl").read_text().splitlines()]
    (curve,) = (curve for curve in after if curve["name"] == "G_L1")
    assert curve["x"] == pytest.approx([line["epoch"] - 1 + line["epoch_fraction"] for line in lines])
    assert curve["y"] == pytest.approx([line["losses"]["G_L1"] for line in lines])
    assert len(lines) == 6
    assert not capfd.readouterr().err


def test_without_columns_every_image_has_its_own_window(server: Server) -> None:
    shown = display(server, "each", columns=0)
    shown.log_visuals(1, [{"real_A": np.zeros((4, 8, 3), np.uint8), "grey": np.zeros((4, 4), np.uint8)}])
    windows = server.windows("each")
    assert {name: window["title"] for name, window in windows.items()} == {"6": "real_A/1", "7": "grey/1"}
    assert (windows["6"]["width"], windows["6"]["height"]) == (100, 50)


def test_missing_and_non_finite_metrics_leave_gaps(server: Server) -> None:
    shown = display(server, "gaps")
    shown.log_metrics(MetricRecord(1, 10, {"psnr": 20.0}))
    shown.log_metrics(MetricRecord(2, 20, {"psnr": float("nan"), "fid": 60.0}))
    psnr, fid = server.windows("gaps")["5_metrics"]["content"]["data"]
    assert (psnr["name"], psnr["y"], fid["name"], fid["y"]) == ("psnr", [20.0, None], "fid", [None, 60.0])


def test_a_table_contains_images_of_different_sizes_and_escaped_labels() -> None:
    red = np.zeros((4, 6, 3), np.uint8)
    red[..., 0] = 200
    grey = np.full((8, 2), 50, np.uint8)
    whole, labels = table([{"a": red, "<b>": grey, "c": red}, {"a": grey}], 2)
    assert whole.shape == (3 * 10, 2 * 8, 3)
    assert (whole[:4, :6] == red).all() and (whole[:8, 8:10] == 50).all()
    assert (whole[10:14, :6] == red).all() and (whole[20:28, :2] == 50).all()
    assert (whole[10:20, 8:] == 255).all() and (whole[4:10, :8] == 255).all()
    rows = "<tr><td>a</td><td>&lt;b&gt;</td></tr><tr><td>c</td></tr><tr><td>a</td></tr>"
    assert labels == f"{TABLE}{rows}</table>"


def test_long_curves_drop_every_second_point() -> None:
    sent: list[Any] = []

    class Client:
        def line(self, **arguments: Any) -> None:
            sent.append(arguments)

    curves = Curves(Client(), "1", "title", "loss")  # type: ignore[arg-type]
    for point in range(5 * MAX_POINTS):
        curves.add(point, {"G": 2.0 * point})
        assert len(curves.points) <= MAX_POINTS
    curves.send()
    epochs = sent[0]["X"][:, 0]
    assert len(set(np.diff(epochs))) == 1 and epochs[0] == 0 and epochs[-1] >= 5 * MAX_POINTS - 8
    assert (sent[0]["Y"][:, 0] == 2 * epochs).all()


def test_constant_learning_rates_and_single_points_are_visible() -> None:
    sent: list[Any] = []

    class Client:
        def line(self, **arguments: Any) -> None:
            sent.append(arguments["opts"])

    curves = Curves(Client(), "1", "title", "rate", small=True)  # type: ignore[arg-type]
    for values in ({"G": 2e-4}, {"G": 2e-4, "D": float("nan")}):
        curves.add(1.0, values)
        curves.send()
    for opts in sent:
        axis = opts["layoutopts"]["plotly"]["yaxis"]
        assert axis["range"] == pytest.approx([0, 2.2e-4]) and axis["exponentformat"] == "e"
        assert opts["markers"]
    for _ in range(MARKED_POINTS):
        curves.add(2.0, {"G": 0.0})
    curves.send()
    assert not sent[-1]["markers"]


def pack(folder: Path, package: str, files: dict[str, str]) -> None:
    """Write a package as `npm pack` does."""
    name, number = package.split("@")
    with tarfile.open(folder / f"{name}-{number}.tgz", "w:gz") as tar:
        for file in files.values():
            member = tarfile.TarInfo(f"package/{file}")
            member.size = len(file)
            tar.addfile(member, io.BytesIO(file.encode()))


def test_the_libraries_of_the_page_come_from_a_folder(tmp_path: Path) -> None:
    folder, static = tmp_path / "packages", tmp_path / "static"
    folder.mkdir()
    with pytest.raises(UserError, match=r"no jquery@3.1.1, .*npm pack .*mathjax@2.7.5"):
        install_libraries(folder, static, "0.2.4")
    for package, files in LIBRARIES.items():
        pack(folder, package, dict(files))
    (folder / "jquery-3.1.1.tgz").unlink()  # installed by npm instead
    module = folder / "node_modules" / "jquery"
    (module / "dist").mkdir(parents=True)
    (module / "dist" / "jquery.min.js").write_text("dist/jquery.min.js")
    (module / "package.json").write_text('{"version": "3.7.0"}')
    with pytest.raises(UserError, match=r"no jquery@3.1.1\. "):
        install_libraries(folder, static, "0.2.4")
    assert not static.exists()
    (module / "package.json").write_text('{"version": "3.1.1"}')
    install_libraries(folder, static, "0.2.4")
    wanted = {target: source for files in LIBRARIES.values() for target, source in files.items()}
    assert {name: (static / name).read_text() for name in wanted} == wanted
    assert len(wanted) == 29 and (static / "version.built").read_text() == "0.2.4"
    install_libraries(static, tmp_path / "other", "0.2.4")  # from another visdom
    assert (tmp_path / "other" / "js" / "sjcl.js").exists()
    (folder / "d3-3.5.17.tgz").write_bytes(b"?")
    with pytest.raises(UserError, match=r"d3-3.5.17.tgz is damaged"):
        install_libraries(folder, static, "0.2.4")


def test_a_silent_server_causes_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(visdom_sink, "TIMEOUTS", (0.2, 0.2))
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(ConnectionError, match=r"no server at http://127\.0\.0\.1:"):
            connect("http://127.0.0.1", silent.getsockname()[1], "main")
    assert time.monotonic() - began < 3


def test_a_refused_request_is_an_error(server: Server) -> None:
    client = connect("http://localhost", server.port, "main")
    with pytest.raises(ConnectionError):
        client._send({"win": "1"}, endpoint="no_such_place")


def test_a_stopped_or_absent_server_causes_one_warning(
    server: Server,
    pairs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    log_losses = VisdomDisplay.log_losses

    def ending(self: VisdomDisplay, loss: Any) -> None:
        if loss.total_iters == 4:
            assert server.stop(signal.SIGINT) == 0
        log_losses(self, loss)

    monkeypatch.setattr(VisdomDisplay, "log_losses", ending)
    flags = ["--log", "visdom", "--display_port", server.port, "--n_epochs", "2"]
    assert training(pairs, tmp_path, *flags) == 0
    assert "visdom has ended" in server.log.read_text()
    failed = (
        "VisdomDisplay failed (ConnectionError: Error connecting to Visdom server); training continues"
        " without it"
    )
    assert [line.message for line in caplog.records if line.levelno >= logging.WARNING] == [failed]
    assert len((tmp_path / "run" / "losses.jsonl").read_text().splitlines()) == 6

    caplog.clear()
    assert training(pairs, tmp_path, *flags, "--continue_train", "--n_epochs", "3") == 0
    (warning,) = (line.message for line in caplog.records if line.levelno >= logging.WARNING)
    assert warning.startswith("--log visdom: ConnectionError: no server at")
    assert "start_visdom.py" in warning
    assert "Traceback" not in capfd.readouterr().err
