"""What a person sees: lines, tables, and the two ways in which a command can fail.

Here: the terminal. Not here: what is told on it.
"""

import getpass
import re
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])

STOPPED = 130
"""The exit status of a command that a signal stopped."""

# In a pipe or a file each row is one line, however long: what is copied from it, or searched, is whole.
_WIDTH_OF_A_FILE = 100_000


# What a terminal obeys instead of showing it: control characters but for tabs and line breaks, and what turns the
# direction of all the text that follows. A customer may be called so. Marks and joiners within words stay.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class _Last(click.ClickException):
    """A command's last words."""

    def format_message(self) -> str:
        """What is shown."""
        return plain(self.message)


class Failed(_Last):
    """Something was done and did not turn out well, or could not be done. Exit status 1."""

    exit_code = 1


class WrongUse(_Last):
    """The command cannot mean that, or a setting is missing or wrong. Exit status 2."""

    exit_code = 2


def example(*commands: str) -> str:
    """What help ends with. The first character keeps click from filling the lines up."""
    return "\b\nExample:\n" + "\n".join(f"  metronome-pipeline {one}" for one in commands)


def say(text: str) -> None:
    """One line of progress, on stderr: stdout is for results."""
    click.echo(plain(text), err=True)


def plain(text: str) -> str:
    r"""Text that a terminal shows and does not obey: what it would obey becomes ``\u001b``, as JSON may write it."""
    return _OBEYED.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def show_table(title: str, columns: Sequence[str], rows: Iterable[Sequence[object]], *, last: int = 0) -> None:
    """A table of results. Numbers stand to the right; the ``last`` rows are set apart as totals."""
    from rich import box  # noqa: PLC0415 - so that help is instant
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    cells = [list(row) for row in rows]
    table = Table(title=Text(plain(title), "bold"), title_justify="left", box=box.SIMPLE_HEAD)
    for number, column in enumerate(columns):
        numeric = any(isinstance(row[number], int | Decimal) for row in cells)
        # Names and messages fold onto further lines; nothing is ever cut off.
        table.add_column(column, justify="right" if numeric else "left", overflow="fold")
    for number, row in enumerate(cells):
        total = number >= len(cells) - last
        style = "bold" if total else None
        table.add_row(
            *(Text(plain(shown(cell))) for cell in row), style=style, end_section=number == len(cells) - last - 1
        )
    console = Console()
    if not console.is_terminal:
        console = Console(width=_WIDTH_OF_A_FILE)
    console.print(table)


def shown(cell: object) -> str:
    """A cell's text: numbers by thousands and to the last digit, hours in UTC, nothing for None."""
    if cell is None:
        return ""
    if isinstance(cell, Decimal):
        return f"{cell:,f}"
    if isinstance(cell, int) and not isinstance(cell, bool):
        return f"{cell:,}"
    if isinstance(cell, datetime):
        return f"{cell:%Y-%m-%d %H:%M}"
    return str(cell)


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Keeps signals out while a command puts things away: a second Ctrl-C must not leave half of them behind."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, signal.SIG_IGN) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def asked_by() -> Callable[[F], F]:
    """The option ``--by``: who asked, for the record. By default the user of the operating system."""
    return click.option("--by", metavar="NAME", default=_user, show_default="you", help="Who asks, for the record.")


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "unknown"
