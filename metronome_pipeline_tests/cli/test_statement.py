"""Statements as a person meets them: made after real runs, read as files, verified, compared."""

import csv
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from metronome_pipeline.statements.files import Lines
from metronome_pipeline.statements.lines import LINE_COLUMNS, Stated, state_of_ledger
from metronome_pipeline.statements.scope import billing_period
from metronome_pipeline.statements.statement import INDEX_COLUMNS, file_name
from metronome_pipeline_tests.cli.commands import Command, command, variables
from metronome_pipeline_tests.world import START, World, failure

Rows = list[dict[str, str | None]]


@pytest.fixture(autouse=True)
def _no_dotenv(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _ingest(world: World, job: str = "ingest_usage", **settings: str) -> None:
    chosen: dict[str, Any] = {"BRAKE_FLOOR": "100000", **settings}
    result = world.ingest(0, 5, job=job, **chosen)
    assert result.success, failure(result)


def _state(world: World, *arguments: str, month: str = "2026-01", **settings: str) -> Command:
    env = {**variables(world), "METRONOME_REQUESTS_PER_SECOND": "1000", **settings}
    return command("statement", "--month", month, *arguments, env=env)


def _rows(path: Path, columns: Mapping[str, Any] = LINE_COLUMNS) -> Rows:
    return [dict(zip(columns, texts, strict=True)) for texts in Lines(path, columns)]


def _file(folder: str, customer: str, ending: str = "csv") -> Path:
    (path,) = Path(folder).glob(f"*{customer}.{ending}")
    return path


def _index(folder: str = "statement-2026-01", ending: str = "csv") -> Rows:
    return _rows(Path(folder, f"index.{ending}"), INDEX_COLUMNS)


def test_a_statement_holds_every_slot_its_corrections_and_where_they_are_billed(world: World) -> None:
    customer, calls, peak = world.customer(), world.metric(name="Calls"), world.metric("MAX", name="Peak")
    world.imported()
    world.solvimon.call("POST", "/_sandbox/subscriptions", {"customer_reference": customer})
    world.use(customer, calls, 1, "5.50")
    world.use(customer, peak, 1, 10)
    gone = world.use(customer, peak, 1, 40)
    _ingest(world)
    world.use(customer, calls, 1, 2)
    world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": [gone]})
    _ingest(world)

    done = _state(world)
    assert done.status == 0, done.err
    rows = _rows(_file("statement-2026-01", customer))
    of_calls = [row for row in rows if row["metric"] == "Calls"]
    assert [(row["record"], row["kind"], row["revision"], row["number"], row["state"]) for row in of_calls] == [
        ("slot", None, None, None, None),
        ("event", "usage", "0", "5.5", "delivered"),
        ("event", "correction", "1", "2", "delivered"),
    ]
    assert of_calls[0]["quantity"] == "7.5"
    assert {row["start"] for row in of_calls} == {"2026-01-05T01:00:00Z"}
    stored = {event["reference"]: event["id"] for event in world.stored_events()}
    for row in of_calls[1:]:
        assert row["solvimon_event_id"] == stored[row["reference"]]
        assert row["solvimon_number"] == row["counted"] == row["number"]
        assert row["run_id"]
        assert row["planned_at"]
        assert row["invoice_ids"] is not None
        assert row["invoice_ids"].startswith("invo_")
    of_peak = [row for row in rows if row["metric"] == "Peak"]
    assert [(row["kind"], row["number"], row["counted"], row["solvimon_state"]) for row in of_peak] == [
        (None, None, None, None),
        ("usage", "40", None, "deleted"),
        ("deletion", None, None, None),
        ("correction", "10", "10", "counted"),
    ]
    assert [
        (row["metric"], row["metronome"], row["ledger"], row["solvimon"], row["difference"], row["agrees"])
        for row in _index()
    ] == [("Calls", "7.5", "7.5", "7.5", "0", "yes"), ("Peak", "10", "10", "10", "0", "yes")]


def test_csv_and_parquet_hold_the_same_lines_under_the_same_digests(world: World) -> None:
    customer = world.customer("=cmd|' /C calc'!A0")
    metric = world.metric(name="'+quoted", group_keys=[["region"]])
    grouped = {"GROUPED_USAGE_ENABLED": "true"}
    world.imported(**grouped)
    exact = "123456789012345678901234567890.000000000000000000000000000001"
    world.use(customer, metric, 1, exact, region="日本")
    world.use(customer, metric, 1, -7, region='a,"b"\r\nc')
    world.use(customer, metric, 2, 1, region="eu")
    _ingest(world, "ingest_grouped_usage", **grouped)

    first = _state(world, "--output", "one", **grouped)
    second = _state(world, "--output", "two", "--format", "parquet", **grouped)
    assert (first.status, second.status) == (0, 0), first.err
    one, two = _rows(_file("one", customer)), _rows(_file("two", customer, "parquet"))
    assert one == two
    assert {(row["properties"], row["quantity"]) for row in one if row["record"] == "slot"} == {
        ('{"region":"日本"}', exact),
        ('{"region":"a,\\"b\\"\\r\\nc"}', "-7"),
        ('{"region":"eu"}', "1"),
    }
    table = pq.read_table(_file("two", customer, "parquet"))
    assert table.column("start").to_pylist()[0] == datetime(2026, 1, 5, 1, tzinfo=UTC)
    assert _index("one")[0]["metronome"] == "123456789012345678901234567884.000000000000000000000000000001"

    digests = [_index("one")[0].pop("digest"), _index("two", "parquet")[0].pop("digest")]
    assert digests[0] == digests[1]
    with _file("one", customer).open(encoding="utf-8", newline="") as file:
        cells = next(iter(csv.DictReader(file)))
    # A spreadsheet would run a name that begins with an equals sign.
    assert cells["metric"] == "''+quoted"
    with Path("one", "index.csv").open(encoding="utf-8", newline="") as file:
        assert next(iter(csv.DictReader(file)))["customer"].startswith("'=")
    assert _index("one")[0]["customer"] == "=cmd|' /C calc'!A0"


def test_equal_statements_have_equal_digests_and_another_number_another_one(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    _ingest(world)
    made = [_state(world, "--output", folder) for folder in ("one", "two")]
    world.use(customer, metric, 1, "0.000000001")
    _ingest(world)
    made.append(_state(world, "--output", "three"))
    digests = [done.out.partition("Digest: ")[2].split()[0] for done in made]
    assert digests[0] == digests[1] != digests[2]


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_a_changed_file_is_noticed(world: World, ending: str) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    _ingest(world)
    done = _state(world, "--format", ending)
    digest = done.out.partition("Digest: ")[2].split()[0]
    index, path = Path("statement-2026-01", f"index.{ending}"), _file("statement-2026-01", customer, ending)
    env: dict[str, str] = {}
    assert command("statement", "verify", str(index), "--digest", digest, env=env).status == 0
    assert command("statement", "verify", str(index), "--digest", "0" * 64, env=env).status == 1

    if ending == "csv":
        path.write_text(path.read_text(encoding="utf-8").replace(",5,", ",6,"), encoding="utf-8")
    else:
        table = pq.read_table(path)
        cells = ["6" if cell == "5" else cell for cell in table.column("number").to_pylist()]
        place = table.schema.get_field_index("number")
        changed_table = table.set_column(place, table.schema.field("number"), [cells])
        pq.write_table(changed_table.replace_schema_metadata(pq.ParquetFile(path).metadata.metadata), path)
    for named in (index, path):
        changed = command("statement", "verify", str(named), env=env)
        assert changed.status == 1
        assert "CHANGED" in changed.out
    assert "unchanged" in command("statement", "verify", str(index), env=env).out


def test_totals_in_a_trailer_cannot_be_changed_unnoticed(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    _ingest(world)
    _state(world)
    path = _file("statement-2026-01", customer)
    trailer = path.with_name(path.name + ".json")
    recorded = json.loads(trailer.read_text(encoding="utf-8"))
    assert recorded["facts"]["totals"][0]["metronome"] == "5"
    recorded["facts"]["totals"][0]["metronome"] = "6"
    trailer.write_text(json.dumps(recorded), encoding="utf-8")
    assert command("statement", "verify", str(path), env={}).status == 1
    trailer.unlink()
    missing = command("statement", "verify", str(path), env={})
    assert missing.status == 1
    assert "digest cannot be read" in missing.err


def test_what_keeps_sides_apart_is_counted_beside_the_totals(world: World) -> None:
    customer, metric, other = world.customer("Gnädig & Söhne"), world.metric(), world.metric("UNIQUE", name="Seats")
    world.imported()
    ((refused,),) = world.sql(
        "SELECT ledger.event_reference(%s, %s, '2026-01-05T01:00Z', '2026-01-05T02:00Z', 'total', 0)", customer, metric
    )
    world.solvimon.set(refuse_reference=[refused])
    world.use(customer, metric, 1, 5)
    world.use(customer, metric, 2, 30)
    world.use(customer, other, 2, "somebody")
    _ingest(world)
    by_hand = next(event for event in world.stored_events())
    world.solvimon.call("POST", "/_sandbox/events/delete-by-hand", {"id": by_hand["id"]})
    foreign = {
        "reference": "by-somebody-else-1",
        "customer_reference": customer,
        "meter_reference": metric,
        "timestamp": "2026-01-06T00:00:00Z",
        "meter_values": [{"reference": f"{metric}_value", "number": "4"}],
    }
    world.solvimon.call("POST", "/v1/events/ingest", foreign)

    done = _state(world)
    assert done.status == 1
    calls, seats = _index()
    assert (calls["metronome"], calls["ledger"], calls["solvimon"], calls["difference"]) == ("35", "35", "4", "-31")
    assert calls["remarks"] == (
        "1 deleted in Solvimon, counted in the ledger; 1 in quarantine; 1 only in Solvimon; 1 unmatched"
    )
    assert (seats["metronome"], seats["agrees"]) == ("1", "not billed")
    assert seats["remarks"]
    assert "Gnädig & Söhne" in done.out
    beside = [row for row in _rows(_file("statement-2026-01", customer)) if row["record"] == "beside the ledger"]
    assert [(row["reference"], row["solvimon_number"]) for row in beside] == [("by-somebody-else-1", "4")]


def test_an_event_that_the_list_lacks_is_asked_for_by_its_reference(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    _ingest(world)
    (event,) = world.solvimon.call("GET", "/v1/events")["data"]
    empty = {"data": [], "page": 1, "limit": 50, "total_number_of_pages": 1, "links": {}}
    answer = {"method": "GET", "path": "/v1/events", "status": 200, "body": empty, "times": 1}
    world.solvimon.call("PUT", "/_sandbox/answers", [answer])
    assert _state(world).status == 0
    rows = _rows(_file("statement-2026-01", customer))
    assert [row["solvimon_event_id"] for row in rows] == [None, event["id"]]


def test_names_are_safe_in_the_file_system(world: World) -> None:
    names = ["../../etc/passwd", "Ünïcode 株式会社 / \\ : *", "", "." * 300, "हिन्दी ॐ", "a\u202eb\x1b[31m"]
    metric = world.metric()
    customers = {world.customer(name): name for name in names}
    world.imported()
    for customer in customers:
        world.use(customer, metric, 1, 1)
    _ingest(world)
    assert _state(world).status == 0
    folder = Path("statement-2026-01").resolve()
    written = {str(row["file"]) for row in _index()}
    assert len(written) == len(names)
    for name in written:
        assert (folder / name).resolve().parent == folder
        assert len(name.encode()) < 250
    assert file_name("../../etc/passwd", "id") == "etc_passwd_id"
    assert file_name("株式会社 हिन्दी", "id") == "株式会社_हिन्दी_id"
    assert file_name("...", "id") == "id"
    assert {row["customer_id"]: row["customer"] or "" for row in _index()} == customers


def test_without_traces_no_event_is_traced(world: World) -> None:
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.solvimon.call("POST", "/_sandbox/subscriptions", {"customer_reference": customer})
    world.use_hours(customer, metric, dict.fromkeys(range(5), 1))
    _ingest(world)
    world.solvimon.forget_requests()
    assert _state(world, "--no-trace", "--output", "one").status == 0
    assert not any("event_trace" in endpoint for endpoint in world.solvimon.requests())
    assert world.solvimon.writes() == {}
    assert _state(world, "--output", "two").status == 0
    assert sum(count for endpoint, count in world.solvimon.requests().items() if "event_trace" in endpoint) == 5


def test_the_month_is_the_billing_period_and_customers_are_chosen_by_id_or_name(world: World) -> None:
    first, second = world.customer("Acme"), world.customer("Acme")
    third, metric = world.customer("Other"), world.metric()
    world.imported()
    for customer in (first, second, third):
        world.use(customer, metric, 1, 5)
    _ingest(world)
    assert _state(world, "--customer", "Acme").status == 2
    assert _state(world, "--customer", "Nobody").status == 2
    assert _state(world, "--customer", second.upper(), "--customer", "Other", "--output", "two").status == 0
    assert {row["customer_id"] for row in _index("two")} == {second, third}
    # From the 10th of December to the 9th of January: the same usage, in another period.
    anchored = _state(world, "--output", "three", month="2025-12", BILLING_PERIOD_ANCHOR_DAY="10")
    assert anchored.status == 0
    assert {row["ledger"] for row in _index("three")} == {"5"}
    assert _state(world, "--output", "four", BILLING_PERIOD_ANCHOR_DAY="10").status == 0
    assert _index("four") == []
    assert _state(world, "--output", "two").status == 2
    assert _state(world, "--output", "five", month="2999-01").status == 2
    assert _state(world, "--output", "five", month="January").status == 2


def test_a_period_under_way_is_stated_up_to_its_last_closed_hour(world: World) -> None:
    # First of all: the pace of the account is a moment of this time.
    world.at(START.replace(hour=4, minute=20))
    customer, metric = world.customer(), world.metric()
    world.imported()
    world.use(customer, metric, 1, 5)
    world.use(customer, metric, 4, 7)
    result = world.ingest(0, 3)
    assert result.success, failure(result)
    done = _state(world)
    assert done.status == 0
    assert "not over" in done.err
    assert _index()[0]["metronome"] == "5"


def test_a_customer_that_keeps_changing_is_named_and_the_others_are_stated(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    still, moving = world.customer("Still"), world.customer("Moving")
    metric = world.metric()
    world.imported()
    for customer in (still, moving):
        world.use(customer, metric, 1, 5)
    _ingest(world)
    marks = iter(range(1_000))

    def changing(connection: Any, stated: Stated) -> tuple[Any, ...]:
        return (next(marks),) if stated.customer_id == moving else state_of_ledger(connection, stated)

    monkeypatch.setattr("metronome_pipeline.statements.statement.state_of_ledger", changing)
    done = _state(world)
    assert done.status == 1
    assert {row["customer"]: row["agrees"] for row in _index()} == {"Still": "yes", "Moving": "not stated"}
    assert not list(Path("statement-2026-01").glob(f"*{moving}*"))
    assert not list(Path("statement-2026-01").glob(".*"))


def test_hours_that_do_not_add_up_are_compared_as_they_are_billed(world: World) -> None:
    customer, metric = world.customer(), world.metric("UNIQUE")
    by_hour = {"METRIC_CALCULATIONS": f'{{"{metric}": "SUM"}}'}
    world.imported(**by_hour)
    for hour in (1, 2):
        world.use(customer, metric, hour, "the same")
    _ingest(world, **by_hour)
    assert _state(world, **by_hour).status == 0
    assert (_index()[0]["metronome"], _index()[0]["solvimon"]) == ("2", "2")


def test_a_billing_period_begins_on_the_anchor_day() -> None:
    now = datetime(2026, 3, 20, 10, 30, tzinfo=UTC)
    whole = billing_period("2026-01", 15, now)
    assert (whole.start, whole.end, whole.over) == (
        datetime(2026, 1, 15, tzinfo=UTC),
        datetime(2026, 2, 15, tzinfo=UTC),
        True,
    )
    running = billing_period("2026-03", 15, now)
    assert (running.until, running.over) == (datetime(2026, 3, 20, 10, tzinfo=UTC), False)
    with pytest.raises(ValueError, match="no hour"):
        billing_period("2026-04", 1, now)
