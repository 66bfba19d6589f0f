"""The command line ``metronome-pipeline``: its commands, and how each of them ends.

Here: the list of commands, and what errors and signals become. Not here: what a command does (a module each), which is
only imported when it runs, so that help is instant.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import click

from metronome_pipeline.cli.terminal import STOPPED, Failed, WrongUse, example, say

_COMMANDS = (
    "demo",
    "dev",
    "sandbox",
    "init",
    "check",
    "plan",
    "quarantine",
    "late",
    "brake",
    "metrics",
    "slicing",
    "reconcile",
    "revert",
    "rebuild",
    "statement",
    "unsubscribed",
    "reprocess",
    "alert",
    "backup",
    "retention",
    "erase",
)


class _Commands(click.Group):
    """The commands by name, each in a module of that name as ``command``."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """In the order in which a person meets them."""
        del ctx
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name."""
        del ctx
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"{__name__}.{cmd_name}").command
        return command

    def invoke(self, ctx: click.Context) -> Any:
        """Runs the command; what goes wrong ends it with a sentence and a status."""
        with _signals_as_interrupts():
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                say("Stopped.")
                ctx.exit(STOPPED)
            except Exception as error:
                sentence = _sentence(error)
                if sentence is None:
                    raise
                raise sentence from None


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog=example("demo"))
@click.version_option(package_name="metronome-pipeline")
def main() -> None:
    """Bill in Solvimon what Metronome meters.

    Without any setting, `demo` and `dev` show everything on this machine alone. With a token of Metronome's and a key
    of Solvimon's, start with `init`; once they are in the environment or in .env, with `check`.

    Exit status: 0 done, 1 something differs or failed, 2 wrong use or settings, 130 stopped.
    """


@contextmanager
def _signals_as_interrupts() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: through every ``finally`` on the way out.

    SIGINT is set as well: a shell starts what it puts into the background with SIGINT ignored, and a Dagster run in
    this process gives SIGTERM whatever SIGINT has.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {name: signal.signal(name, signal.default_int_handler) for name in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for name, handler in before.items():
            signal.signal(name, handler)


def _sentence(error: Exception) -> click.ClickException | None:
    """The error as this command's last words; None for one that is a mistake of ours and deserves its traceback."""
    # Only now, when there is something to judge: these need pydantic and psycopg.
    from metronome_pipeline.errors import PipelineError  # noqa: PLC0415
    from metronome_pipeline.settings import SettingsError  # noqa: PLC0415
    from metronome_pipeline.storage.embedded import EmbeddedPostgresError  # noqa: PLC0415

    if isinstance(error, SettingsError):
        return WrongUse(str(error))
    if isinstance(error, PipelineError | EmbeddedPostgresError):
        return Failed(str(error))
    return None
