"""Running commands in tests: through click's runner, on a world of the test's own."""

from collections.abc import Mapping
from dataclasses import dataclass

from click.testing import CliRunner, Result

from metronome_pipeline.cli import main
from metronome_pipeline.settings import Settings
from metronome_pipeline_tests.world import START, World


def variables(world: World) -> dict[str, str]:
    """The environment that points a command at a world, and at nothing else."""
    blanks = {field.alias: "" for field in Settings.model_fields.values() if field.alias}
    return {
        **blanks,
        "METRONOME_BASE_URL": world.metronome.url,
        "METRONOME_BEARER_TOKEN": world.metronome.headers["Authorization"].removeprefix("Bearer "),
        "METRONOME_ENVIRONMENT": "sandbox",
        "SOLVIMON_BASE_URL": world.solvimon.url,
        "SOLVIMON_API_KEY": world.solvimon.headers["X-API-KEY"],
        "DAGSTER_POSTGRES_URL": world.database_url,
        "USAGE_START": START.isoformat(),
    }


@dataclass(frozen=True)
class Command:
    """What a command left."""

    status: int
    out: str
    err: str


def command(*arguments: str, env: Mapping[str, str], answer: str | None = None) -> Command:
    """Runs one command to its end."""
    result: Result = CliRunner(env=dict(env)).invoke(main, list(arguments), input=answer)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    # Tables fold long cells; tests look for words.
    return Command(result.exit_code, " ".join(result.stdout.split()), " ".join(result.stderr.split()))
