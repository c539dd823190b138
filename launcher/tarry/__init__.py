"""Twisted Web responses that take their time: the launcher of the `.rpy` collection."""

from pathlib import Path

__version__ = "0.1.0"


def collection() -> Path:
    """The folder of the bundled scripts: inside the package once installed, beside it in a checkout."""
    package = Path(__file__).parent
    installed = package / "rpy"
    return installed if installed.is_dir() else package.parents[1] / "rpy"
