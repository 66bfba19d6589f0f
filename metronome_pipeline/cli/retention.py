"""``metronome-pipeline retention``: remove old raw usage now, or see how much that would be.

Here: options and words. Not here: what may go (``upkeep/retention.py``).
"""

import click

from metronome_pipeline.cli.terminal import WrongUse, example, say, show_table


@click.command("retention", short_help="Remove old raw usage.", epilog=example("retention --dry-run", "retention"))
@click.option("--dry-run", is_flag=True, help="Only count what would go.")
def command(dry_run: bool) -> None:  # noqa: FBT001 - a flag
    """Remove raw usage that is older than USAGE_RETENTION_DAYS, as the daily job does.

    The ledger is never touched: what was billed, when and why stays. Of a customer of whom something older still waits,
    everything from that day on stays too.
    """
    from psycopg import Rollback  # noqa: PLC0415 - so that help is instant

    from metronome_pipeline.cli.pair import open_pair  # noqa: PLC0415
    from metronome_pipeline.upkeep import retention  # noqa: PLC0415

    with open_pair() as opened:
        days, pair_id = opened.settings.usage_retention_days, opened.pair.pair_id
        if days is None:
            raise WrongUse("USAGE_RETENTION_DAYS is not set: all raw usage is kept.")
        with opened.database.transaction() as connection:
            before = retention.oldest_kept(connection, days)
            metrics = retention.metrics_to_retire(connection, pair_id, before)
        retired = retention.Retired()
        for metric_id in metrics:
            with opened.database.transaction() as connection:
                retired += retention.retire(connection, pair_id, metric_id, before)
                if dry_run:
                    raise Rollback
    rows = [(retired.usage, retired.grouped_usage, retired.short_groups)]
    show_table(f"Rows of before {before:%Y-%m-%d}", retention.RETIRED_COLUMNS, rows)
    if dry_run:
        say("Nothing was removed.")
