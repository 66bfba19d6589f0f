"""How fresh each asset should be, as Dagster's freshness policies: green, a warning, red in the catalog.

Each window is the interval at which a schedule refreshes the asset, and what a refresh may be late: an hour until the
warning, ``ALERT_STALE_HOURS`` until it is red, as with the alert on stale usage. Assets of workflows that are off have
none.

What it can't say: Dagster looks at an asset's last materialization, whichever partition that was, so a backfill of old
hours makes the usage assets look fresh. Whether every closed hour is there is what the alert on stale usage asks
(``alerts/of_dagster.py``). The six imported assets have no policy: they are materialized when something in Metronome
changed, and being months old says nothing of them. Here: the windows. Not here: the schedules (``automation/``).
"""

from collections.abc import Mapping
from datetime import timedelta

import dagster as dg

from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.period_ingestion import bills_by_period

_HOUR, _DAY = timedelta(hours=1), timedelta(days=1)
_RESUMED_WITHIN = timedelta(hours=6)
"""A sweep that was cut short is resumed by the next of four ticks a day."""


def with_freshness(settings: Settings, spec: dg.AssetSpec) -> dg.AssetSpec:
    """The asset with its policy, if it has one. The last two parts of its key say which asset it is."""
    refreshed = refresh_intervals(settings).get("/".join(spec.key.path[-2:]))
    if refreshed is None:
        return spec
    return spec.replace_attributes(freshness_policy=_policy(refreshed, timedelta(hours=settings.alert_stale_hours)))


def refresh_intervals(settings: Settings) -> Mapping[str, timedelta]:
    """How often a schedule refreshes an asset, by ``layer/asset``, at the latest; none of what has no schedule on."""
    by_hour = settings.usage_enabled or settings.grouped_usage_enabled
    return {
        **_both("usage", _HOUR, on=settings.usage_enabled),
        **_both("grouped_usage", _HOUR, on=settings.grouped_usage_enabled),
        **_both("period_usage", _DAY, on=bills_by_period(settings)),
        **({"metronome/usage_sweep": _DAY + _RESUMED_WITHIN} if by_hour else {}),
        "solvimon/reconciliation": _DAY,
        "solvimon/billing_health": _DAY,
    }


def _both(usage: str, interval: timedelta, *, on: bool) -> Mapping[str, timedelta]:
    return {f"metronome/{usage}": interval, f"solvimon/{usage}_events": interval} if on else {}


def _policy(refreshed: timedelta, late: timedelta) -> dg.FreshnessPolicy:
    warn = refreshed + _HOUR
    fail = refreshed + late
    return dg.FreshnessPolicy.time_window(fail_window=fail, warn_window=warn if warn < fail else None)
