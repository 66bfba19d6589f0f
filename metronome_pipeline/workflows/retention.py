"""Retention as a step of a run: raw usage that is older than the setting is removed, metric by metric.

Here: the one step of the job. Not here: what may go (``upkeep/retention.py``).
"""

import dagster as dg

from metronome_pipeline.settings import Settings
from metronome_pipeline.storage.resource import Store, StoreResource
from metronome_pipeline.upkeep import retention
from metronome_pipeline.upkeep.retention import Retired
from metronome_pipeline.workflows.session import failing_in_a_sentence
from metronome_pipeline.workflows.tags import tag_run


@dg.op(
    name="retire",
    description="Removes raw usage that is older than USAGE_RETENTION_DAYS. Hours of a customer of whom something "
    "older still waits stay. The ledger is never touched.",
)
def retire_usage(context: dg.OpExecutionContext, store: StoreResource, settings: dg.ResourceParam[Settings]) -> None:
    """Removes, and says how much."""
    tag_run(context)
    if settings.usage_retention_days is None:
        context.log.info("USAGE_RETENTION_DAYS is not set: all raw usage is kept.")
        return
    with failing_in_a_sentence(), store.open(connections=1) as opened:
        retired = retire_all(opened, settings.usage_retention_days)
    context.log.info(
        f"Removed {retired.usage:,} rows of usage, {retired.grouped_usage:,} of usage with properties and "
        f"{retired.short_groups:,} of hours that fell short."
    )
    context.add_output_metadata(
        {"usage": retired.usage, "grouped_usage": retired.grouped_usage, "short_groups": retired.short_groups}
    )


def retire_all(store: Store, days: int) -> Retired:
    """Removes everything that is older than some days, in a transaction for each metric.

    Raises:
        DatabaseUnavailable: What was committed before stays so.
    """
    pair_id = store.pair.pair_id
    with store.database.transaction() as connection:
        before = retention.oldest_kept(connection, days)
        metrics = retention.metrics_to_retire(connection, pair_id, before)
    retired = Retired()
    for metric_id in metrics:
        with store.database.transaction() as connection:
            retired += retention.retire(connection, pair_id, metric_id, before)
    return retired
