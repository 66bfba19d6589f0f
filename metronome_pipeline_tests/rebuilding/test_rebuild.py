"""What an event that Solvimon stores is to the ledger, and how its events are walked until two walks agree."""

import asyncio
import json
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronome_pipeline.ledger.deduplication import PROBE
from metronome_pipeline.mapping.meters import property_reference
from metronome_pipeline.mapping.usage import canonical_properties, slice_of
from metronome_pipeline.rebuilding import adoption
from metronome_pipeline.rebuilding.adoption import Known, billed_group, place, slot_of
from metronome_pipeline.rebuilding.stocktake import MOST_WALKS, EventsKeepChanging, take_stock
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.records import EventProperty, EventValue, MeterData, ProcessedDetails
from metronome_pipeline_tests.ledger.books import Books

CUSTOMER, METRIC = "3b241101-e2bb-4255-8caf-4136c566a962", "9c9a4a71-171e-41f9-b8da-d982baf1a388"
HOUR = datetime(2026, 1, 5, 7, tzinfo=UTC)
KNOWN = Known(
    customers={CUSTOMER: CUSTOMER, "cust_1": CUSTOMER},
    metrics={METRIC: METRIC, "metr_1": METRIC},
    group_keys={METRIC: (("region", "team"),)},
)
OURS = f"{CUSTOMER}_{METRIC}_20260105T070000Z_20260105T080000Z"


def stored(reference: str | None, properties: dict[str, str] | None = None, **fields: Any) -> MeterData:
    """An event as Solvimon shows it: by default of the hour, with the number 5."""
    usual: dict[str, Any] = {
        "id": f"metd_{reference}",
        "customer_reference": CUSTOMER,
        "meter_reference": METRIC,
        "timestamp": HOUR,
        "meter_values": (EventValue(reference=f"{METRIC}_value", number="5"),),
        "meter_properties": tuple(EventProperty(reference=key, value=text) for key, text in (properties or {}).items()),
        "processed_details": ProcessedDetails(type="DEFAULT"),
    }
    return MeterData(**{**usual, "reference": reference, **fields})


# Adoption ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("slice_name", "revision", "hours"), [("total", 0, 1), ("rest", 7, 1), ("g" + "0f" * 16, 123, 1), ("total", 2, 24)]
)
def test_every_reference_of_the_ledger_is_read_back(books: Books, slice_name: str, revision: int, hours: int) -> None:
    end = HOUR + timedelta(hours=hours)
    ((reference,),) = books.sql(
        "SELECT ledger.event_reference(%s, %s, %s, %s, %s, %s)", CUSTOMER, METRIC, HOUR, end, slice_name, revision
    )
    assert slot_of(reference) == (adoption.Slot(CUSTOMER, METRIC, HOUR, end, slice_name), revision)


@pytest.mark.parametrize(
    "reference",
    [
        "native-0000000001",
        f"{OURS}_total_r0",
        f"{OURS}_total_r01",
        f"{OURS}_total_r1 ",
        f"{OURS}_total\n",
        f"{OURS}_gABCDEF0123456789abcdef012345678",
        f"{OURS}_g0f",
        f"{OURS.upper()}_total",
        OURS.replace("20260105T08", "20261305T08") + "_total",
        OURS.replace("T08", "T06") + "_total",
        f"x{OURS}_total",
    ],
)
def test_any_other_text_is_no_reference_of_ours(reference: str) -> None:
    assert slot_of(reference) is None


keys = st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), min_size=1, max_size=4, unique=True)


@given(keys, st.data())
def test_a_group_is_recovered_from_what_is_sent_of_it(group_key: list[str], data: st.DataObject) -> None:
    values = data.draw(st.lists(st.none() | st.text(), min_size=len(group_key), max_size=len(group_key)))
    group = dict(zip(group_key, values, strict=True))
    event = stored(None, {property_reference(key): text for key, text in group.items() if text is not None})
    sent = adoption.sent_group(event)
    assert sent == {key: text for key, text in group.items() if text is not None}
    name = slice_of(canonical_properties(group))
    assert billed_group(sent, name, [("other",), tuple(reversed(group_key))]) == canonical_properties(group)


def test_a_group_that_nothing_explains_keeps_the_properties_of_its_record() -> None:
    placed = place(stored(f"{OURS}_g{'0' * 32}_r2", {"region": "eu"}), KNOWN)
    assert (placed.properties, placed.exact, placed.revision) == ('{"region":"eu"}', False, 2)
    assert placed.why is None


@pytest.mark.parametrize(
    "fields",
    [
        {"timestamp": HOUR + timedelta(hours=1)},
        {"timestamp": None},
        {"customer_reference": "somebody"},
        {"meter_reference": "something"},
        {"properties": {"region": "eu"}},
    ],
    ids=str,
)
def test_a_reference_under_which_another_slot_stands_is_used_and_counts_nothing(fields: dict[str, Any]) -> None:
    placed = place(stored(f"{OURS}_total", **fields), KNOWN)
    assert placed.slot == adoption.Slot(CUSTOMER, METRIC, HOUR, HOUR + timedelta(hours=1), "total")
    assert placed.why == adoption.NOT_ITS_SLOT


def test_events_of_other_origin_are_first_events_of_the_hour_that_they_begin() -> None:
    offset = HOUR.astimezone(datetime.strptime("+0200", "%z").tzinfo)
    by_ids: Any = {"customer_reference": None, "customer_id": "cust_1", "meter_reference": None, "meter_id": "metr_1"}
    whole = place(stored("native-0000000001", timestamp=offset, **by_ids), KNOWN)
    assert whole.slot == adoption.Slot(CUSTOMER, METRIC, HOUR, HOUR + timedelta(hours=1), "total")
    assert (whole.revision, whole.ours, whole.number, whole.properties) == (0, False, Decimal(5), None)
    group = place(stored("native-0000000001", {"team": "a"}), KNOWN)
    assert group.properties == '{"region":null,"team":"a"}', "as Metronome would read that group"
    other = place(stored("native-0000000001", {"plan": "a"}), KNOWN)
    assert other.properties == '{"plan":"a"}'
    assert other.slot
    assert other.slot.slice == slice_of(other.properties)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"timestamp": HOUR + timedelta(minutes=1)}, adoption.NOT_ON_THE_HOUR),
        ({"timestamp": None}, adoption.NOT_ON_THE_HOUR),
        ({"customer_reference": "somebody"}, adoption.UNKNOWN_CUSTOMER),
        ({"meter_reference": "something"}, adoption.UNKNOWN_METER),
        ({"meter_values": ()}, adoption.NO_NUMBER),
        ({"meter_values": (EventValue(reference="seats", number="5"),)}, adoption.NO_NUMBER),
        ({"meter_values": (EventValue(reference=f"{METRIC}_value", number="1e999999999"),)}, adoption.NO_NUMBER),
        ({"properties": {"100% sure": "x"}}, adoption.FOREIGN_PROPERTY),
        ({"properties": {"region": "a\0b"}}, adoption.UNSTORABLE),
        ({"reference": None}, adoption.NO_REFERENCE),
    ],
    ids=str,
)
def test_what_no_slot_is_like_is_left_alone_with_a_reason(fields: dict[str, Any], why: str) -> None:
    placed = place(stored(**{"reference": "native-0000000001", **fields}), KNOWN)
    assert (placed.slot, placed.why) == (None, why)


def test_an_event_of_ours_of_another_account_is_left_alone() -> None:
    other = OURS.replace(CUSTOMER, str(uuid.uuid4()))
    assert place(stored(f"{other}_total"), KNOWN).why == adoption.UNKNOWN_CUSTOMER


# Walks ---------------------------------------------------------------------------------------------------------------


@dataclass
class Shelves:
    """A Solvimon whose events are others at each walk; the last state stays. ``hides_deleted``: unless asked for."""

    states: list[Sequence[MeterData]]
    hides_deleted: bool = False
    walks: int = 0
    said: list[str] = field(default_factory=list)

    async def events(self, *, deleted: bool | None = None) -> AsyncIterator[list[MeterData]]:
        state = self.states[min(self.walks, len(self.states) - 1)]
        if deleted:
            self.walks += 1
        shown = [event for event in state if event.deleted or not deleted]
        if deleted is None and self.hides_deleted:
            shown = [event for event in state if not event.deleted]
        for first in range(0, len(shown), 50):
            yield shown[first : first + 50]

    def take_stock(self, books: Books) -> int:
        api = cast("SolvimonApi", self)
        return asyncio.run(take_stock(books.connection, api, KNOWN, self.said.append))


@pytest.fixture
def opened(books: Books) -> Iterator[Books]:
    """Books in a transaction that is rolled back."""
    with books.connection.transaction(force_rollback=True):
        yield books


def test_two_walks_that_agree_are_enough(opened: Books) -> None:
    shelves = Shelves([[stored(f"{OURS}_total"), stored(f"{PROBE}_1", customer_reference=PROBE)]])
    assert shelves.take_stock(opened) == 2
    assert opened.sql("SELECT reference, number, live, walk FROM stored") == [(f"{OURS}_total", 5, True, 2)]


def test_what_arrives_between_two_walks_is_told_and_walked_again(opened: Books) -> None:
    first = stored(f"{OURS}_total")
    second, third = stored(f"{OURS}_total_r1"), stored(f"{OURS}_total_r2")
    changed = msgspec.structs.replace(second, processed_details=ProcessedDetails(type="DUPLICATE"))
    shelves = Shelves([[first], [third, second, first], [third, changed, first]])
    assert shelves.take_stock(opened) == 4
    assert [line for line in shelves.said if "walking once more" in line] == [
        "2 events arrived or changed since the walk before: walking once more.",
        "1 events arrived or changed since the walk before: walking once more.",
    ]
    assert opened.sql("SELECT count(*), count(*) FILTER (WHERE live) FROM stored") == [(3, 2)]


def test_an_event_that_vanishes_from_the_list_is_a_difference(opened: Books) -> None:
    one, two = stored(f"{OURS}_total"), stored(f"{OURS}_total_r1")
    assert Shelves([[one, two], [one]]).take_stock(opened) == 3
    assert opened.sql("SELECT count(*) FROM stored") == [(1,)]


def test_events_that_never_hold_still_are_no_ground_to_build_on(opened: Books) -> None:
    states = [[stored(f"{OURS}_total_r{n}")] for n in range(1, MOST_WALKS + 2)]
    with pytest.raises(EventsKeepChanging, match=r"changed between each of 6 walks.*Nothing was written"):
        Shelves(cast("Any", states)).take_stock(opened)


@pytest.mark.parametrize("hides_deleted", [True, False])
def test_deleted_events_are_found_whether_the_list_shows_them_or_not(opened: Books, hides_deleted: bool) -> None:
    events = [stored(f"{OURS}_total", deleted=True), stored(f"{OURS}_total_r1")]
    Shelves([events], hides_deleted).take_stock(opened)
    assert opened.sql("SELECT deleted, live FROM stored ORDER BY reference") == [(True, False), (False, True)]


def test_texts_that_postgres_cannot_hold_end_no_walk(opened: Books) -> None:
    strange = {"id": "metd_\0", "customer_reference": "\0", "created_at": "yesterday"}
    Shelves([[stored("native-\0", {"region": "\0"}, **strange)]]).take_stock(opened)
    assert opened.sql("SELECT why, created FROM stored") == [(adoption.UNSTORABLE, None)]


def test_memory_does_not_grow_with_the_number_of_events(opened: Books) -> None:
    class Endless(Shelves):
        async def events(self, *, deleted: bool | None = None) -> AsyncIterator[list[MeterData]]:
            for page in range(0 if deleted else 120):
                yield [stored(f"native-{page:06}-{number:06}", {"region": f"r{number}"}) for number in range(50)]

    tracemalloc.start()
    try:
        Endless([]).take_stock(opened)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert opened.sql("SELECT count(*) FROM stored") == [(6_000,)]
    assert peak < 5_000_000, f"{peak:,} bytes: 1,000 events wait at most"


def test_what_is_kept_of_a_group_can_be_compared_as_json(opened: Books) -> None:
    Shelves([[stored(f"{OURS}_g{'0' * 32}", {"region": 'a"\\ü', "team%20a": ""})]]).take_stock(opened)
    ((sent,),) = opened.sql("SELECT sent::jsonb::text FROM stored")
    assert json.loads(sent) == {"region": 'a"\\ü', "team a": ""}
