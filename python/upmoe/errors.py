"""The one way to fail, as in C++: one sentence with place, name, got, expected, and a guess if there is one."""


class Error(Exception):
    """Anything the user can cause or cure."""


class UsageError(Error):
    """The command line asks for something that does not exist."""


def printable(text: object, most: int = 200) -> str:
    """A stranger's text made safe to print: control characters become \\xNN, long text is cut."""
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape", "replace").decode() for c in str(text)[: most + 1])
    return shown if len(shown) <= most else shown[:most] + "..."
