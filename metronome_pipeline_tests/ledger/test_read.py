"""Read: only complete walks count, a failing pair keeps no other from being read, and nothing is left behind."""

import asyncio
import json
import random
import uuid
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from metronome_pipeline.clock import SYSTEM_CLOCK
from metronome_pipeline.errors import Unauthorised, Unavailable
from metronome_pipeline.http import Unpaced
from metronome_pipeline.ledger.read import UsageReader, Window, steps
from metronome_pipeline.ledger.shelf import ReadReport
from metronome_pipeline.mapping.usage import UNGROUPED, BilledMetric, canonical_properties
from metronome_pipeline.metronome.records import GroupedUsage, GroupedUsagePage, Usage
from metronome_pipeline.metronome.resource import MetronomeResource
from metronome_pipeline.retries import RetryPolicy
from metronome_pipeline.storage.database import Database
from metronome_pipeline_tests.ledger.books import HOUR, START, Books, at
from metronome_pipeline_tests.world import Api, World

USAGE, GROUPS = "/v1/usage", "/v1/usage/groups"
REGION = '["region"]'
TODAY = Window(at(0), at(24))


@dataclass
class Reading:
    """A Metronome account over HTTP, and an account pair on Postgres that its usage is read into."""

    world: World
    books: Books
    url: str

    def metric(self, *, slicing: str = UNGROUPED, aggregation: Any = "SUM") -> BilledMetric:
        keys = [["region"], ["region", "team"]] if slicing != UNGROUPED else []
        return BilledMetric(self.world.metric(aggregation, group_keys=keys), "Calls", aggregation, slicing)

    def use_many(self, customer: str, metric: BilledMetric, uses: Sequence[tuple[int, Any, Mapping[str, Any]]]) -> None:
        events = [
            {
                "transaction_id": str(uuid.uuid4()),
                "customer_id": customer,
                "event_type": metric.metric_id,
                "timestamp": at(hour).isoformat(),
                "properties": {"value": str(value), **properties},
            }
            for hour, value, properties in uses
        ]
        self.world.metronome.call("POST", "/_sandbox/events", events)

    def read(
        self, customers: Sequence[str], metrics: Sequence[BilledMetric], window: Window = TODAY, *, api: Any = None
    ) -> ReadReport:
        """A read with one request in flight, so that faults meet the walks in their order."""

        async def main() -> ReadReport:
            resource = MetronomeResource(
                base_url=self.world.metronome.url,
                bearer_token=self.world.metronome.headers["Authorization"].removeprefix("Bearer "),
            )
            with Database(self.url) as database:
                async with resource.open(
                    pacer=Unpaced(SYSTEM_CLOCK),
                    clock=SYSTEM_CLOCK,
                    random=random.Random(1),
                    run_id="test",
                    policy=RetryPolicy(attempts=3, first_delay=0.001),
                ) as opened:
                    reader = UsageReader(api or opened, database, self.books.pair_id, "test", in_flight=1)
                    return await reader.read(customers, metrics, window)

        report = asyncio.run(main())
        self.assert_nothing_left()
        return report

    def assert_nothing_left(self) -> None:
        assert self.books.sql("SELECT count(*) FROM metronome.staged_usage") == [(0,)]
        assert self.books.sql("SELECT count(*) FROM metronome.walks") == [(0,)]

    def canned(self, path: str, body: Any, times: int = 1) -> None:
        self.world.metronome.call("PUT", "/_sandbox/answers", [{"path": path, "body": body, "times": times}])

    def fault(self, kind: str, path: str = USAGE, **rule: Any) -> None:
        self.world.metronome.faults({"path": path, "method": "POST", "kind": kind, "rate": 1, **rule})

    def usage(self, customer: str, metric: BilledMetric) -> dict[int, Decimal]:
        rows = self.books.sql(
            "SELECT start_at, value FROM metronome.usage WHERE pair_id = %s AND customer_id = %s AND metric_id = %s",
            self.books.pair_id,
            customer,
            metric.metric_id,
        )
        return {int((start - START) / HOUR): value for start, value in rows}

    def groups(self, customer: str, metric: BilledMetric) -> dict[tuple[int, str], Decimal]:
        rows = self.books.sql(
            "SELECT start_at, coalesce(properties, slice), value FROM metronome.grouped_usage "
            "WHERE pair_id = %s AND customer_id = %s AND metric_id = %s",
            self.books.pair_id,
            customer,
            metric.metric_id,
        )
        return {(int((start - START) / HOUR), name): value for start, name, value in rows}

    def short(self) -> list[tuple[Any, ...]]:
        return self.books.sql(
            "SELECT start_at, total, grouped FROM metronome.short_groups WHERE pair_id = %s ORDER BY start_at",
            self.books.pair_id,
        )


@pytest.fixture
def reading(sandbox_urls: tuple[str, str], books: Books, shared_database_url: str) -> Reading:
    metronome = Api(sandbox_urls[0], {"Authorization": f"Bearer token-{uuid.uuid4()}"})
    metronome.call("PUT", "/_sandbox/store", {"settings": {"rate_limit": None}})
    nothing: Any = None
    return Reading(World(metronome, nothing, shared_database_url, nothing), books, shared_database_url)


def row(customer: str, metric: BilledMetric, hour: int, value: str) -> str:
    """One row of an answer of /v1/usage, its value as it stands in the bytes."""
    fields = {
        "customer_id": customer,
        "billable_metric_id": metric.metric_id,
        "billable_metric_name": "Calls",
        "start_timestamp": at(hour).isoformat(),
        "end_timestamp": at(hour + 1).isoformat(),
    }
    return json.dumps(fields)[:-1] + f', "value": {value}}}'


def answer(*rows: str) -> str:
    return '{"data": [' + ", ".join(rows) + '], "next_page": null}'


# Requests -------------------------------------------------------------------------------------------------------------


def test_a_month_costs_five_requests_a_pair_and_eight_days_cost_one(reading: Reading) -> None:
    customers, metrics = [reading.world.customer() for _ in range(2)], [reading.metric() for _ in range(2)]
    month = Window(at(5), at(5 + 30 * 24))
    assert [step.days[1] - step.days[0] for step in steps(month)] == [timedelta(days=7)] * 4 + [timedelta(days=3)]
    for step in steps(month):
        reading.read(customers, metrics, step)
    assert reading.world.metronome.requests() == {"POST /v1/usage": 5 * 4}
    reading.world.metronome.forget_requests()
    (look_back,) = steps(Window(at(0), at(8 * 24)), days=8)
    reading.read(customers, metrics, look_back)
    assert reading.world.metronome.requests() == {"POST /v1/usage": 4}


def test_groups_are_asked_for_only_where_there_is_usage(reading: Reading) -> None:
    quiet, busy, metric = reading.world.customer(), reading.world.customer(), reading.metric(slicing=REGION)
    reading.use_many(busy, metric, [(50, 5, {"region": "eu"}), (60, 5, {"region": "us"})])
    report = reading.read([quiet, busy], [metric], Window(at(0), at(7 * 24)))
    assert (report.pairs, report.rows, report.short_hours) == (2, 2, 0)
    assert reading.world.metronome.requests() == {"POST /v1/usage": 2, "POST /v1/usage/groups": 1}
    log = reading.world.metronome.call("GET", "/_sandbox/requests/log")["requests"]
    assert [(r["body"]["starting_on"][:10], r["body"]["ending_before"][:10]) for r in log if r["path"] == GROUPS] == [
        ("2026-01-07", "2026-01-08")
    ]


# Walks that do not complete ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "kind",
    [
        "empty_page",
        "duplicate_page",
        "repeated_cursor",
        "truncated_body",
        "html_200",
        "not_json_200",
        "reset_after",
        "status_503",
    ],
)
@pytest.mark.parametrize("path", [USAGE, GROUPS])
def test_a_fault_that_passes_changes_nothing_that_is_read(reading: Reading, path: str, kind: str) -> None:
    customer, metric = reading.world.customer(), reading.metric(slicing=UNGROUPED if path == USAGE else REGION)
    reading.world.metronome.set(rows_per_page=7)
    reading.use_many(
        customer, metric, [(hour, hour + 1, {"region": f"r{number}"}) for hour in range(9) for number in range(20)]
    )
    reading.fault(kind, path, times=2, after=1)
    report = reading.read([customer], [metric])
    assert (report.unread, report.pairs, report.short_hours) == ((), 1, 0)
    if path == USAGE:
        assert reading.usage(customer, metric) == {hour: 20 * (hour + 1) for hour in range(9)}
    else:
        assert len(reading.groups(customer, metric)) == 9 * 21


@pytest.mark.parametrize("kind", ["duplicate_page", "repeated_cursor"])
@pytest.mark.parametrize("path", [USAGE, GROUPS])
def test_a_pair_whose_walk_never_completes_is_named_and_the_others_are_read(
    reading: Reading, path: str, kind: str
) -> None:
    grouped = path == GROUPS
    customers = [reading.world.customer() for _ in range(2)]
    metrics = [reading.metric(slicing=REGION if grouped else UNGROUPED) for _ in range(2)]
    pairs = [(customer, metric) for customer in customers for metric in metrics]
    for customer, metric in pairs:
        reading.use_many(customer, metric, [(1, 5, {"region": "eu"})])
    assert reading.read(customers, metrics).pairs == 4
    for customer, metric in pairs:
        reading.use_many(customer, metric, [(1, 2, {"region": "eu"}), (2, 2, {"region": "eu"})])
    # Three attempts of two requests each, and nobody else's: the second one shows that the page was there before.
    reading.fault(kind, path, times=6)
    report = reading.read(customers, metrics)
    assert [(unread.customer_id, unread.metric_ids) for unread in report.unread] == [
        (customers[0], (metrics[0].metric_id,))
    ]
    assert "twice" in report.unread[0].reason
    assert report.pairs == 3
    for customer, metric in pairs:
        unread = (customer, metric) == pairs[0]
        if grouped:
            totals = {
                hour: value for (hour, name), value in reading.groups(customer, metric).items() if name == "total"
            }
        else:
            totals = reading.usage(customer, metric)
        assert totals == ({1: 5} if unread else {1: 7, 2: 2})


BAD_ROWS: dict[str, Callable[[str, BilledMetric], str]] = {
    "of another customer": lambda _, metric: row(str(uuid.uuid4()), metric, 1, "5"),
    "of another metric": lambda customer, metric: row(customer, BilledMetric(str(uuid.uuid4()), "", "SUM", ""), 1, "5"),
    "outside of what was asked": lambda customer, metric: row(customer, metric, 24, "5"),
    "with a text": lambda customer, metric: row(customer, metric, 1, '"5"'),
    "with a boolean": lambda customer, metric: row(customer, metric, 1, "true"),
    "with NaN": lambda customer, metric: row(customer, metric, 1, "NaN"),
    "with 101 digits": lambda customer, metric: row(customer, metric, 1, "9" * 101),
    "with a huge exponent": lambda customer, metric: row(customer, metric, 1, "1e999999999"),
    "without a value": lambda customer, metric: row(customer, metric, 1, "5").replace('"value"', '"worth"'),
}


@pytest.mark.parametrize("what", BAD_ROWS)
def test_a_wrong_row_leaves_its_pair_unread_and_the_others_are_read(reading: Reading, what: str) -> None:
    customers, metric = [reading.world.customer() for _ in range(2)], reading.metric()
    for customer in customers:
        reading.use_many(customer, metric, [(1, 5, {})])
    reading.canned(USAGE, answer(row(customers[0], metric, 0, "1"), BAD_ROWS[what](customers[0], metric)), times=3)
    report = reading.read(customers, [metric])
    assert [(unread.customer_id, unread.metric_ids) for unread in report.unread] == [
        (customers[0], (metric.metric_id,))
    ]
    assert "data[1]" in report.unread[0].reason or what == "with NaN", report.unread[0].reason
    assert reading.usage(customers[0], metric) == {}
    assert reading.usage(customers[1], metric) == {1: 5}


def test_a_walk_that_breaks_after_its_first_page_changes_nothing(reading: Reading) -> None:
    customer, metric = reading.world.customer(), reading.metric()
    reading.use_many(customer, metric, [(1, 5, {}), (20, 5, {})])
    reading.read([customer], [metric])
    reading.use_many(customer, metric, [(1, 2, {})])
    reading.world.metronome.set(rows_per_page=10)
    reading.fault("status_503", after=1)
    report = reading.read([customer], [metric])
    assert len(report.unread) == 1
    assert "503" in report.unread[0].reason
    assert reading.usage(customer, metric) == {1: 5, 20: 5}


def test_a_refused_credential_ends_the_read_at_once_and_leaves_no_rows(reading: Reading) -> None:
    customers, metric = [reading.world.customer() for _ in range(5)], reading.metric(slicing=REGION)
    for customer in customers:
        reading.use_many(customer, metric, [(1, 1, {"region": f"r{number}"}) for number in range(250)])
    reading.fault("status_401", GROUPS, after=4)
    with pytest.raises(Unauthorised, match="METRONOME_BEARER_TOKEN"):
        reading.read(customers, [metric])
    reading.assert_nothing_left()
    assert reading.world.metronome.requests()["POST /v1/usage/groups"] == 5


@dataclass
class Told:
    """Stands in for the API: usage as a test tells it, walk by walk of a customer."""

    totals: Mapping[str, Sequence[Mapping[int, Any] | Exception]]
    groups: Sequence[Mapping[tuple[int, str], Any]] = ()
    walks: dict[str, int] = field(default_factory=dict)

    async def usage(self, customer_id: str, metric_ids: Sequence[str], **_: Any) -> AsyncIterator[list[Usage]]:
        number = self.walks[customer_id] = self.walks.get(customer_id, 0) + 1
        told = self.totals[customer_id][min(number, len(self.totals[customer_id])) - 1]
        if isinstance(told, Exception):
            raise told
        yield [Usage(customer_id, metric_ids[0], at(hour), at(hour + 1), Decimal(v)) for hour, v in told.items()]

    async def grouped_usage(self, customer_id: str, **_: Any) -> AsyncIterator[GroupedUsagePage]:
        told = self.groups[min(self.walks[customer_id], len(self.groups)) - 1]
        rows = [
            GroupedUsage(at(hour), at(hour + 1), {"region": region}, Decimal(v)) for (hour, region), v in told.items()
        ]
        yield GroupedUsagePage(rows, [])


def down() -> Unavailable:
    return Unavailable("Metronome answered 503", system="Metronome", endpoint="POST /v1/usage")


def test_pairs_without_an_answer_are_unread_but_an_outage_ends_the_read(reading: Reading) -> None:
    ids, metric = [str(uuid.uuid4()) for _ in range(12)], reading.metric()
    every_other: dict[str, Any] = {each: [down() if number % 2 else {1: 5}] for number, each in enumerate(ids)}
    report = reading.read(ids, [metric], api=Told(every_other))
    assert (report.pairs, len(report.unread)) == (6, 6)
    api = Told({**every_other, **{each: [down()] for each in ids[2:]}})
    with pytest.raises(Unavailable):
        reading.read(ids, [metric], api=api)
    assert set(api.walks) == set(ids[:5]), "the second fails, then three more in a row"
    reading.assert_nothing_left()


# Groups ---------------------------------------------------------------------------------------------------------------


def test_usage_that_comes_in_between_totals_and_groups_is_settled_by_a_second_read(reading: Reading) -> None:
    customer, metric = str(uuid.uuid4()), reading.metric(slicing=REGION)
    api = Told({customer: [{1: 5}, {1: 6}]}, [{(1, "eu"): 6}])
    report = reading.read([customer], [metric], api=api)
    assert (report.pairs, report.short_hours, report.unread, api.walks) == (1, 0, (), {customer: 2})
    assert reading.groups(customer, metric) == {(1, "total"): 6, (1, '{"region":"eu"}'): 6}


@pytest.mark.parametrize("aggregation", ["SUM", "MAX"])
def test_groups_that_stay_short_are_taken_after_the_second_read_and_listed(reading: Reading, aggregation: str) -> None:
    customer, metric = str(uuid.uuid4()), reading.metric(slicing=REGION, aggregation=aggregation)
    api = Told({customer: [{1: 5, 2: 8, 3: 2}]}, [{(1, "eu"): 5, (2, "eu"): 3, (3, "eu"): 4}])
    report = reading.read([customer], [metric], api=api)
    assert (report.pairs, report.short_hours, report.unread, api.walks) == (1, 2, (), {customer: 2})
    assert reading.short() == [(at(2), 8, 3), (at(3), 2, 4)]


def test_a_walk_with_a_repeated_row_is_no_second_read_of_short_groups(reading: Reading) -> None:
    customer, metric = reading.world.customer(), reading.metric(slicing='["region","team"]')
    reading.use_many(customer, metric, [(1, 1, {"region": f"r{number}", "team": "a"}) for number in range(5)])
    reading.world.metronome.set(max_compound_groups=3)
    reading.fault("duplicate_page", GROUPS, times=1)
    report = reading.read([customer], [metric])
    assert (report.pairs, report.short_hours) == (1, 1)
    assert reading.world.metronome.requests() == {"POST /v1/usage": 3, "POST /v1/usage/groups": 4}


def test_thousands_of_groups_in_one_hour_are_read_exactly(reading: Reading) -> None:
    customer, metric = reading.world.customer(), reading.metric(slicing=REGION)
    reading.use_many(customer, metric, [(3, f"{number}.25", {"region": f"r{number}"}) for number in range(2000)])
    report = reading.read([customer], [metric], Window(at(3), at(5)))
    assert (report.pairs, report.short_hours, report.unread) == (1, 0, ())
    assert reading.groups(customer, metric) == {
        **{(3, canonical_properties({"region": f"r{number}"})): Decimal(f"{number}.25") for number in range(2000)},
        (3, "total"): Decimal(1999 * 1000) + 500,
    }


@pytest.mark.parametrize("empty_groups", ["null", "zero"])
def test_groups_without_usage_in_an_hour_may_be_listed(reading: Reading, empty_groups: str) -> None:
    customer, metric = reading.world.customer(), reading.metric(slicing=REGION)
    reading.world.metronome.set(empty_groups=empty_groups, empty_windows=empty_groups)
    reading.use_many(customer, metric, [(3, 5, {"region": "eu"}), (4, 1, {"region": "us"})])
    report = reading.read([customer], [metric])
    assert (report.pairs, report.short_hours, report.unread) == (1, 0, ())
    assert {key: value for key, value in reading.groups(customer, metric).items() if value} == {
        (3, "total"): 5,
        (3, '{"region":"eu"}'): 5,
        (4, "total"): 1,
        (4, '{"region":"us"}'): 1,
    }


@pytest.mark.parametrize("bad", ["\\u0000", "\\ud800"])
def test_a_group_that_cannot_be_stored_is_left_to_the_rest_and_named(reading: Reading, bad: str) -> None:
    customer, metric = reading.world.customer(), reading.metric(slicing=REGION)
    reading.use_many(customer, metric, [(1, 7, {"region": "eu"})])
    bounds = f'"starting_on": "{at(1).isoformat()}", "ending_before": "{at(2).isoformat()}"'
    rows = [
        f'{{{bounds}, "group": {{"region": "{region}"}}, "value": {value}}}'
        for region, value in (("eu", 4), (f"a{bad}b", 3))
    ]
    reading.canned(GROUPS, answer(*rows), times=2)
    report = reading.read([customer], [metric])
    assert (report.pairs, report.short_hours, report.unread) == (1, 1, ())
    (unstorable,) = report.unstorable
    assert (unstorable.customer_id, unstorable.metric_id) == (customer, metric.metric_id)
    assert "2026-01-05T01:00" in unstorable.group
    assert reading.groups(customer, metric) == {(1, "total"): 7, (1, '{"region":"eu"}'): 4}
    assert reading.short() == [(at(1), 7, 4)]


# Values ---------------------------------------------------------------------------------------------------------------


def test_every_number_is_kept_to_the_last_digit(reading: Reading) -> None:
    customer, metric = reading.world.customer(), reading.metric()
    numbers = {
        0: "123456789012345678901234567890",
        1: "9" * 100,
        2: "0." + "0" * 98 + "1",
        3: "-12345.678",
        4: "7",
        5: "0.1",
        6: "1.50",
        7: "0",
        8: "1e3",
    }
    told = [row(customer, metric, hour, number) for hour, number in numbers.items()]
    reading.canned(USAGE, answer(*told, row(customer, metric, 9, "null")))
    reading.read([customer], [metric])
    assert reading.usage(customer, metric) == {hour: Decimal(number) for hour, number in numbers.items()}


def test_usage_that_vanished_vanishes_and_hours_outside_of_the_window_are_left_alone(reading: Reading) -> None:
    customer, metric = reading.world.customer(), reading.metric()
    reading.use_many(customer, metric, [(hour, 1, {}) for hour in range(6)])
    reading.read([customer], [metric], Window(at(0), at(5)))
    assert sorted(reading.usage(customer, metric)) == [0, 1, 2, 3, 4], "the hour after the window may not be closed"
    for body in (answer(), answer(row(customer, metric, 2, "null"), row(customer, metric, 3, "1"))):
        reading.canned(USAGE, body)
        reading.read([customer], [metric], Window(at(2), at(5)))
    assert sorted(reading.usage(customer, metric)) == [0, 1, 3]


def test_old_walks_are_cleared_by_the_next_read(reading: Reading) -> None:
    dead = reading.books.begin()
    reading.books.sql(
        "UPDATE metronome.walks SET began_at = began_at - interval '3 days' WHERE walk_id = %s", dead.walk_id
    )
    reading.read([], [])
    reading.assert_nothing_left()


def test_a_window_of_a_step_covers_whole_utc_days() -> None:
    window = Window(at(5), at(29))
    assert window.days == (datetime.fromisoformat("2026-01-05T00:00Z"), datetime.fromisoformat("2026-01-07T00:00Z"))
    assert Window(at(0), at(24)).days == (at(0), at(24))
