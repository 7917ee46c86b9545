"""Start a visdom server on this machine, for `train.py --log visdom`, without network access.

    python scripts/start_visdom.py [--port 8097]

It accepts connections from this machine only; Ctrl-C stops it. The command `visdom` downloads the libraries
of its page at its first start and fails without a network; this script skips the download.
"""

import argparse
import errno
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from util.errors import UserError, run_command

LIBRARIES = "js/react-react.min.js", "js/plotly-plotly.min.js"
"""Two of the files that visdom's page needs and its package does not contain."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--port", type=int, default=8097, help="train.py's --display_port (default: 8097)")
    parser.add_argument(
        "--env_path",
        type=Path,
        default=Path.home() / ".visdom",
        help="folder of saved environments (default: ~/.visdom)",
    )
    arguments = parser.parse_args(argv)
    sys.modules["torch"] = None  # type: ignore[assignment]  # visdom imports it, which takes seconds
    try:
        import visdom
        from visdom.server.run_server import start_server
    except ImportError as error:
        raise UserError(f"{error}: pip install -r requirements.txt") from None

    logging.getLogger().setLevel(logging.WARNING)  # the server logs every request
    static = Path(visdom.__file__).parent / "static"
    if not all((static / name).exists() for name in LIBRARIES):
        sys.stderr.write(
            "The JavaScript libraries of visdom's page are not installed: the server receives data and"
            " serves it to programs, but a browser shows an empty page. With a network, the command"
            f" visdom -port {arguments.port} instead of this script downloads them once\n"
        )
    try:
        start_server(
            port=arguments.port,
            base_url="",
            env_path=str(arguments.env_path),
            bind_local=True,
            print_func=lambda port: print(f"http://localhost:{port}", flush=True),
        )
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise UserError(
            f"--port {arguments.port} is taken, perhaps by a running visdom server: choose another port"
        ) from None
    except KeyboardInterrupt:
        print("visdom has ended")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
