"""Start a visdom server on this machine, for `train.py --log visdom`, without network access.

    python scripts/start_visdom.py [--port 8097]

It accepts connections from this machine only; Ctrl-C stops it. The command `visdom` downloads the libraries
of its page at its first start and fails without a network; this script skips the download. Where there is
no network, get the libraries on another machine with npm, and install them once from the folder:

    npm pack --pack-destination FOLDER PACKAGES        # printed by --libraries with an empty folder
    python scripts/start_visdom.py --libraries FOLDER
"""

import argparse
import errno
import json
import logging
import sys
import tarfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from util.errors import UserError, run_command
from util.files import errors_name, write_text

FONT = "glyphicons-halflings-regular"
MATHJAX = (
    *("MathJax.js", "config/Safe.js", "config/TeX-AMS-MML_HTMLorMML.js", "extensions/Safe.js"),
    *("jax/output/SVG/config.js", "jax/output/SVG/jax.js", "jax/output/SVG/fonts/TeX/fontdata.js"),
    "jax/output/SVG/fonts/TeX/Size1/Regular/Main.js",
)

LIBRARIES: Mapping[str, Mapping[str, str]] = {
    "jquery@3.1.1": {"js/jquery.min.js": "dist/jquery.min.js"},
    "bootstrap@3.3.7": {
        "js/bootstrap.min.js": "dist/js/bootstrap.min.js",
        "css/bootstrap.min.css": "dist/css/bootstrap.min.css",
        **{f"fonts/{FONT}.{kind}": f"dist/fonts/{FONT}.{kind}" for kind in ("eot", "woff2", "woff", "ttf")},
        f"fonts/{FONT}.svg#glyphicons_halflingsregular": f"dist/fonts/{FONT}.svg",
    },
    "react@16.2.0": {"js/react-react.min.js": "umd/react.production.min.js"},
    "react-dom@16.2.0": {"js/react-dom.min.js": "umd/react-dom.production.min.js"},
    "react-modal@3.1.10": {"js/react-modal.min.js": "dist/react-modal.min.js"},
    "plotly.js-dist-min@2.11.1": {"js/plotly-plotly.min.js": "plotly.min.js"},
    "sjcl@1.0.7": {"js/sjcl.js": "sjcl.js"},
    "layout-bin-packer@1.4.0": {
        "js/layout_bin_packer.js": "dist/layout-bin-packer.js",
        "js/layout-bin-packer.js.map": "dist/layout-bin-packer.js.map",
    },
    "d3@3.5.17": {"js/d3.v3.min.js": "d3.min.js"},
    "d3-selection-multi@1.0.1": {"js/d3-selection-multi.v1.js": "build/d3-selection-multi.js"},
    "save-svg-as-png@1.4.17": {"js/saveSvgAsPng.js": "lib/saveSvgAsPng.js"},
    "react-resizable@1.4.6": {"css/react-resizable-styles.css": "css/styles.css"},
    "react-grid-layout@0.16.3": {"css/react-grid-layout-styles.css": "css/styles.css"},
    "classnames@2.2.5": {"fonts/classnames": "index.js"},
    "mathjax@2.7.5": {f"js/mathjax/2.7.5/{file}": file for file in MATHJAX},
}
"""By npm package and version: files below visdom's folder ``static``, and their names in the package.

The list is that of visdom 0.2.4, server/build.py.
"""


def install_libraries(folder: Path, static: Path, built: str) -> None:
    """Copy the libraries of visdom's page into its package.

    Args:
        folder: contains the packages of `LIBRARIES` as files of ``npm pack`` or as folders, perhaps in
            ``node_modules``; or their files by the names that they have in ``static``.
        static: visdom's folder ``static``.
        built: visdom's version, noted so that the command ``visdom`` downloads nothing.

    Raises:
        UserError: files are missing, or `static` cannot be written to.
    """
    found = {package: read_package(folder, package) for package in LIBRARIES}
    missing = [package for package, files in found.items() if files is None]
    if missing:
        raise UserError(
            f"--libraries {folder}: no {', '.join(missing)}. Where there is a network: npm pack"
            f" --pack-destination FOLDER {' '.join(missing)}"
        )
    try:
        for files in found.values():
            for name, content in (files or {}).items():
                path = static / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with errors_name(path):
                    path.write_bytes(content)
        write_text(static / "version.built", built)
    except PermissionError as error:
        raise UserError(
            f"--libraries: {error.filename} cannot be written; visdom must be in an environment of your own"
        ) from error


def read_package(folder: Path, package: str) -> dict[str, bytes] | None:
    """Return what visdom needs of a package, by file names in ``static``; None if any is missing."""
    name, number = package.split("@")
    wanted = LIBRARIES[package]
    archive = folder / f"{name}-{number}.tgz"
    if archive.is_file():
        try:
            with tarfile.open(archive) as tar:
                members = {target: tar.extractfile(f"package/{source}") for target, source in wanted.items()}
                return {target: file.read() for target, file in members.items() if file is not None}
        except (tarfile.TarError, KeyError, EOFError) as error:
            raise UserError(f"--libraries: {archive} is damaged ({error}); get it again") from error
    for place in (folder / "node_modules" / name, folder / name):
        if all((place / source).is_file() for source in wanted.values()) and _has_version(place, number):
            return {target: (place / source).read_bytes() for target, source in wanted.items()}
    if all((folder / target).is_file() for target in wanted):
        return {target: (folder / target).read_bytes() for target in wanted}
    return None


def _has_version(place: Path, number: str) -> bool:
    try:
        return bool(json.loads((place / "package.json").read_text())["version"] == number)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0], allow_abbrev=False)
    parser.add_argument("--port", type=int, default=8097, help="train.py's --display_port (default: 8097)")
    parser.add_argument(
        "--env_path",
        type=Path,
        default=Path.home() / ".visdom",
        help="folder of saved environments (default: ~/.visdom)",
    )
    parser.add_argument(
        "--libraries",
        type=Path,
        metavar="FOLDER",
        help="install the libraries of visdom's page from npm packages in this folder; needed once",
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
    if arguments.libraries:
        install_libraries(arguments.libraries, static, version("visdom"))
    if not all((static / name).exists() for files in LIBRARIES.values() for name in files):
        sys.stderr.write(
            "The JavaScript libraries of visdom's page are not installed: the server receives data and"
            " serves it to programs, but a browser shows an empty page. With a network, the command"
            f" visdom -port {arguments.port} instead of this script downloads them once; without one, see"
            " --libraries\n"
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
