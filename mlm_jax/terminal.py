"""What a terminal is shown of texts that are not ours."""


def printable(text: object) -> str:
    """One line that a terminal shows as it is: control characters are written out, as \\x1b."""
    shown = (c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text))
    return "".join(shown)


def printable_lines(text: object) -> str:
    """The same of each line."""
    return "\n".join(map(printable, str(text).split("\n")))
