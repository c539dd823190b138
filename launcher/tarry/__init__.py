"""Twisted Web responses that take their time: the launcher of the `.rpy` collection."""

from pathlib import Path

__version__ = "0.1.0"


def collection() -> Path:
    """Return the folder of the bundled scripts: in the package if installed, else in the checkout."""
    package = Path(__file__).parent
    installed = package / "rpy"
    return installed if installed.is_dir() else package.parents[1] / "rpy"
