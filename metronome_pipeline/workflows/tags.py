"""Tags: which workflow, which environment, which account, which hours or days. On every run, however it was launched.

Here: the tags of what is defined, and those that a run gets when its step begins. A job gives its tags to its runs; a
run that was launched from assets, or by a backfill, has no job of ours, so its assets give it theirs. Not here: names
(``naming.py``), and runs that are looked for by their tags (``automation/runs.py``).
"""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal

import dagster as dg

from metronome_pipeline.setting_values import is_loopback
from metronome_pipeline.settings import TEST_HOST, Settings

WORKFLOW, ENVIRONMENT, ACCOUNT, RANGE = "workflow", "environment", "account", "range"
RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
PARTITION = "dagster/partition"
_OF_DEFINITIONS = (WORKFLOW, ENVIRONMENT, ACCOUNT)
_DAY_KEY_LENGTH = len("2026-01-05")

Environment = Literal["sandbox", "test", "live"]


def environment_of(settings: Settings) -> Environment:
    """``sandbox`` with Solvimon on loopback, ``test`` with its test host, else ``live``: events there become invoices.

    Metronome has no say: the same usage is harmless in a sandbox, and billed on a live host.
    """
    if is_loopback(settings.solvimon_base_url):
        return "sandbox"
    return "test" if settings.account_pair.solvimon_host == TEST_HOST else "live"


def account_tags(settings: Settings) -> dict[str, str]:
    """The account's tag; none without ACCOUNT_NAME."""
    return {ACCOUNT: settings.account_name} if settings.account_name else {}


def tags_of(settings: Settings, workflow: str) -> dict[str, str]:
    """The tags of an asset, a job, a schedule or a sensor.

    Dagster takes letters, digits and ``_ . -`` in the tags of assets, 63 at most; all of these are so.
    """
    return {WORKFLOW: workflow, ENVIRONMENT: environment_of(settings), **account_tags(settings)}


def tags_of_range(first: str, last: str) -> dict[str, str]:
    """The tags with which a run is requested for a range of partitions, given by their keys."""
    return {RANGE_START: first, RANGE_END: last, RANGE: range_of_keys(first, last)}


def range_of_keys(first: str, last: str) -> str:
    """Partitions in words: ``2026-01-05 00:00 to 2026-01-05 02:00 UTC`` for two hours, ``2026-01-05`` for a day."""
    if len(first) == _DAY_KEY_LENGTH:
        return first if first == last else f"{first} to {last}"
    start, last_start = (datetime.strptime(key, "%Y-%m-%d-%H:%M").replace(tzinfo=UTC) for key in (first, last))
    return f"{start:%Y-%m-%d %H:%M} to {last_start + timedelta(hours=1):%Y-%m-%d %H:%M} UTC"


def partitions_asked(tags: Mapping[str, str]) -> tuple[str, str] | None:
    """The first and the last partition that a run was asked for, by its tags; None for a run without partitions."""
    one = tags.get(PARTITION)
    first, last = tags.get(RANGE_START, one), tags.get(RANGE_END, one)
    return (first, last) if first and last else None


def tag_run(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> None:
    """Gives a run the tags that it lacks, at the start of a step: from its job or its assets, and from its partitions.

    Of a run that was launched from assets of several workflows, ``workflow`` names all of them. The environment is set
    right where it says otherwise: a run that is executed again has the tags of the first one, and settings change.

    Raises:
        dg.Failure: The run was launched for another account than that of the settings here.
    """
    has, wanted = context.run.tags, _of_definitions(context)
    if ACCOUNT in has and has[ACCOUNT] != wanted.get(ACCOUNT):
        here = f"those of {wanted[ACCOUNT]}" if ACCOUNT in wanted else "without ACCOUNT_NAME"
        raise dg.Failure(
            description=f"This run was launched for the account {has[ACCOUNT]}, and the settings where it runs are "
            f"{here}: nothing was done. Give each account's runs its own settings, see docs/deployment.md.",
            allow_retries=False,
        )
    asked = partitions_asked(has)
    if asked:
        wanted[RANGE] = range_of_keys(*asked)
    new = {name: value for name, value in wanted.items() if name not in has or name == ENVIRONMENT}
    if any(has.get(name) != value for name, value in new.items()):
        context.instance.add_run_tags(context.run.run_id, new)


def _of_definitions(context: dg.OpExecutionContext | dg.AssetExecutionContext) -> dict[str, str]:
    """What the settings of this very process say: the tags of the run's job, else of all of its assets."""
    layer = context.job_def.asset_layer
    tags = [layer.get(key).tags for key in layer.selected_asset_keys]
    values = {name: sorted({one[name] for one in tags if name in one}) for name in _OF_DEFINITIONS}
    of_assets = {name: ", ".join(found) for name, found in values.items() if found}
    return {**of_assets, **{name: value for name, value in context.job_def.tags.items() if name in _OF_DEFINITIONS}}
