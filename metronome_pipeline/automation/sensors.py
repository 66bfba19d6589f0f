"""Sensors: notice what the imports should bring over. A sensor has a minute, so it reads what runs have stored."""

import dagster as dg

from metronome_pipeline.automation.jobs import Jobs
from metronome_pipeline.settings import Settings


def sensors(settings: Settings, jobs: Jobs) -> list[dg.SensorDefinition]:
    """Every sensor."""
    return []
