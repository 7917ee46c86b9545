"""Another name of resize_images.py."""

import runpy
from pathlib import Path

if __name__ == "__main__":
    runpy.run_path(str(Path(__file__).with_name("resize_images.py")), run_name="__main__")
