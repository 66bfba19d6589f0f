"""``metronome-pipeline check``: is everything that billing needs there, and right?

Here: the command, its table and its exit status. Not here: the checks themselves (``connections.py``).
"""

from typing import TYPE_CHECKING

import click

from metronome_pipeline.cli.terminal import Failed, WrongUse, example, say, show_table

if TYPE_CHECKING:
    from metronome_pipeline.settings import Settings


@click.command(
    "check", short_help="The connection check: both accounts, permissions, Postgres, clocks.", epilog=example("check")
)
@click.option("--probe", is_flag=True, help="On a live Solvimon: also send two equal events of a probe customer.")
@click.option("--yes", is_flag=True, help="Don't ask before a probe on a live Solvimon.")
def command(probe: bool, yes: bool) -> None:  # noqa: FBT001 - click's flags
    """Check every connection, and say what to do about each that is not ok.

    Nothing is changed in Metronome. On Solvimon's test host, whether it ignores a repeated reference is tried with two
    events of a probe customer, which are deleted again; on a live host only with --probe.
    """
    import asyncio  # noqa: PLC0415

    from metronome_pipeline.cli import connections  # noqa: PLC0415
    from metronome_pipeline.settings import Settings  # noqa: PLC0415

    settings = Settings.from_environment()
    live = connections.is_live(settings)
    if probe and live and not yes:
        _confirm(settings)
    findings = asyncio.run(connections.check(settings, probe=probe or not live, say=say))
    rows = [(finding.what, finding.verdict, finding.found, finding.to_do) for finding in findings]
    show_table("Connection check", ("what", "", "found", "to do"), rows)
    wrong = sum(finding.ok is False for finding in findings)
    if wrong:
        raise Failed(f"{wrong} of {len(findings)} checks are not ok.")
    click.echo(f"All {len(findings)} checks are ok, or only to be noted.")


def _confirm(settings: "Settings") -> None:
    say(
        f"{settings.account_pair.solvimon_host} is live. The probe makes a customer and a meter named "
        "metronome_pipeline_probe, sends one event twice, and deletes both. It has no price and is on no invoice."
    )
    if not click.confirm("Send it?", err=True):
        raise WrongUse("Nothing was checked. Run it without --probe to check everything else.")
