"""What a plan holds back, by the settings: implausible decreases, and changes that are late for the destination."""

from datetime import timedelta
from decimal import Decimal

from metronome_pipeline.ledger.brakes import BrakeLimits
from metronome_pipeline.ledger.late import Lateness
from metronome_pipeline.settings import Settings


def brake_of(settings: Settings) -> BrakeLimits:
    """When a decrease is held."""
    return BrakeLimits(settings.brake_share, Decimal(settings.brake_floor))


def lateness_of(settings: Settings) -> Lateness:
    """When a change is late, and whether it is then held."""
    grace = timedelta(hours=settings.late_grace_hours)
    return Lateness(settings.billing_period_anchor_day, grace, hold=settings.late_usage == "hold")
