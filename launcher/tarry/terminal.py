"""Text that is safe to print: names and docstrings of scripts may hold terminal escapes."""


def printable(text: str) -> str:
    r"""Return *text* on one line, with each control character as its escape, such as `\x1b`."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
