"""The peer's way to download data sets from Python."""

import logging
import os
from dataclasses import replace
from pathlib import Path

from util.errors import UserError

log = logging.getLogger(__name__)


class GetData:
    """Downloads data sets of CycleGAN and pix2pix, as ``scripts/download.py`` does.

    Example::

        from util.get_data import GetData

        folder = GetData("pix2pix").get("./datasets", "facades")

    Args:
        technique: ``cyclegan`` or ``pix2pix``, in any case.
        verbose: say what is done.

    Raises:
        UserError: There is no such technique.
    """

    def __init__(self, technique: str = "cyclegan", verbose: bool = True):
        from scripts.download import KINDS

        kind = KINDS.get(f"{technique.lower()}_dataset")
        if kind is None:
            raise UserError(f"technique {technique}: choices: cyclegan, pix2pix")
        self.kind = replace(kind, target="{}")
        self._verbose = verbose

    def get(self, save_path: str | os.PathLike[str], dataset: str | None = None) -> str:
        """Download a data set to ``save_path/NAME`` and return the absolute path of that folder.

        If the folder exists and is not empty, nothing is downloaded. An interrupted download is continued.

        Args:
            dataset: its name, with or without ``.zip`` or ``.tar.gz``; None asks for one on the terminal.

        Raises:
            UserError: There is no such data set.
            scripts.download.DownloadError: The download failed.
            OSError: The server cannot be reached, or the folder cannot be written.
        """
        from scripts.download import CITYSCAPES, fetch, is_missing

        name = (self._ask() if dataset is None else dataset).split(".")[0]
        if name == "cityscapes":
            raise UserError(CITYSCAPES)
        if name not in self.kind.names:
            raise UserError(f"{name}: there is no such data set. Choices: {', '.join(self.kind.names)}")
        folder = Path(save_path) / name
        if not is_missing(folder):
            log.warning("%s exists already; nothing is downloaded", folder)
        else:
            if self._verbose:  # to be seen in notebooks, too, where no logging is set up
                print(f"Downloading {name} to {folder}")
            fetch(self.kind, name, Path(save_path))
        return os.path.abspath(folder)

    def _ask(self) -> str:
        """Return the name of the data set whose number the user enters."""
        names = self.kind.names
        menu = "\n".join(f"{number}: {name}" for number, name in enumerate(names))
        answer = input(f"Options:\n\n{menu}\n\nNumber of the data set to download: ").strip()
        if not answer.isdecimal() or int(answer) >= len(names):
            raise UserError(f"{answer}: expected a number from 0 to {len(names) - 1}")
        return names[int(answer)]
