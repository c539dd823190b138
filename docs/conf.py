import re
import sys
from pathlib import Path

from pygments.lexers.shell import BashLexer, BashSessionLexer

import tarry

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "tarry"
release = tarry.__version__
copyright = "the tarry authors, MIT-0"
extensions = ["myst_parser", "manuals"]
nitpicky = True

html_theme = "furo"
html_title = "tarry"
html_copy_source = False
html_static_path = ["_static"]
html_css_files = ["tarry.css"]
pygments_style = "friendly"
pygments_dark_style = "monokai"


class Transcript(BashSessionLexer):
    """Only "$ " begins a command: Pygments takes the "#info]" of a log line for root's prompt."""

    _innerLexerCls = BashLexer
    _ps1rgx = re.compile(r"^(\$ )(.*\n?)")


def setup(app):
    app.add_lexer("console", Transcript)
