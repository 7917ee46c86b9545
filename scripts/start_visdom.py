"""Start a visdom server on this machine, for `train.py --log visdom`; it needs no network.

    python scripts/start_visdom.py [--port 8097]

Only programs on this machine reach it. Ctrl-C ends it. The visdom command downloads the libraries of its page
at its first start and does not start without a network; this script goes without them.
"""

import argparse
import errno
import logging
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from util.errors import UserError, run_command

LIBRARIES = "js/react-react.min.js", "js/plotly-plotly.min.js"
"""Two of the files that visdom's page needs and its package lacks."""


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument(
        "--port", type=int, default=8097, help="as in train.py's --display_port (default: 8097)"
    )
    parser.add_argument(
        "--env_path",
        type=Path,
        default=Path.home() / ".visdom",
        help="the folder of what was saved on the page (default: ~/.visdom)",
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
            "The JavaScript libraries of visdom's page are not on this machine: the server takes data and"
            " hands them out, but a browser shows an empty page. The command visdom -port"
            f" {arguments.port} in this script's place downloads them, once and where there is a network\n"
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
            f"--port {arguments.port} is taken: by a visdom that runs already, or choose another"
        ) from None
    except KeyboardInterrupt:
        print("visdom has ended")
    return 0


if __name__ == "__main__":
    sys.exit(run_command(main))
