"""The dashboard of the ledger: its JSON is whole, and each panel's query runs and shows what is there."""

import json
import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from metronome_pipeline_tests.world import START, World, failure

DASHBOARD: dict[str, Any] = json.loads(
    (Path(__file__).parents[2] / "docs" / "grafana" / "ledger.json").read_text(encoding="utf-8")
)
PANELS: list[dict[str, Any]] = DASHBOARD["panels"]
VARIABLES: dict[str, dict[str, Any]] = {each["name"]: each for each in DASHBOARD["templating"]["list"]}
FROM, TO = datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 3, 1, tzinfo=UTC)
FINAL = datetime(2026, 2, 1, 8, tzinfo=UTC)
ALL: Mapping[str, str] = {"customer": "'all'", "metric": "'all'"}


def expanded(sql: str, values: Mapping[str, str]) -> str:
    """A query as Grafana's Postgres data source sends it: macros, then variables, each in its format."""
    between = rf"\1 BETWEEN '{FROM:%Y-%m-%dT%H:%M:%SZ}' AND '{TO:%Y-%m-%dT%H:%M:%SZ}'"
    sql = re.sub(r"\$__timeFilter\(((?:[^()]|\([^()]*\))*)\)", between, sql)
    return re.sub(r"\$\{(\w+):sqlstring\}", lambda match: values[match[1]], sql)


@pytest.fixture
def told(world: World) -> tuple[World, str, str]:
    """A world in which there is something of everything."""
    world.at(START + timedelta(days=1, minutes=30))
    world.solvimon.set(match_all=True)
    customer, metric = world.customer("Acme's"), world.metric(name="Calls")
    other = world.metric("MAX", name="Peak")
    world.imported()
    world.use_hours(customer, metric, dict.fromkeys(range(12), 500))
    world.use_hours(customer, other, {1: 7, 2: 9})
    _ingest(world)
    world.use(customer, metric, 1, 3)
    ((refused,),) = world.sql(
        "SELECT ledger.event_reference(%s, %s, %s, %s + interval '1 hour', 'total', 0)",
        customer,
        metric,
        START + timedelta(hours=15),
        START + timedelta(hours=15),
    )
    world.solvimon.set(refuse_reference=[refused])
    world.use(customer, metric, 15, 4)
    _ingest(world)
    world.run("reconcile", tags=_days("2026-01-05"))
    world.at(FINAL + timedelta(minutes=5))
    world.use(customer, metric, 2, 2)
    _ingest(world, late="hold")
    world.use_hours(customer, metric, dict.fromkeys(range(3, 12), -490))
    _ingest(world, late="hold")
    world.sql(
        "INSERT INTO ledger.alerts (pair_id, channel, problem, kind, headline, state) "
        "VALUES (1, 'webhook', 'quarantine', 'quarantine', 'Quarantine: 1 event', '1')"
    )
    return world, customer, metric


def _ingest(world: World, *, late: str = "send") -> None:
    result = world.ingest(0, 23, LATE_USAGE=late)
    assert result.success, failure(result)


def _days(day: str) -> dict[str, str]:
    return {"dagster/asset_partition_range_start": day, "dagster/asset_partition_range_end": day}


def rows_of(world: World, panel: Mapping[str, Any], values: Mapping[str, str]) -> tuple[list[str], list[Any]]:
    sql = expanded(panel["targets"][0]["rawSql"], {"pair": "'1'", **values})
    assert "$" not in sql, sql
    with psycopg.connect(world.database_url) as connection:
        connection.read_only = True
        cursor = connection.execute(sql.encode())
        assert cursor.description is not None
        return [column.name for column in cursor.description], cursor.fetchall()


def test_every_panel_shows_what_is_there_and_only_what_was_chosen(told: tuple[World, str, str]) -> None:
    world, customer, metric = told
    found: dict[str, tuple[list[str], list[Any]]] = {}
    chosen = {"customer": f"'{customer}','x'", "metric": f"'{metric}'"}
    nobody = {"customer": "'00000000-0000-0000-0000-000000000000'", "metric": "'all'"}
    for panel in PANELS:
        names, rows = rows_of(world, panel, ALL)
        assert rows, panel["title"]
        if panel["targets"][0]["format"] == "time_series":
            times = [row[names.index("time")] for row in rows]
            assert times == sorted(times), panel["title"]
            assert all(isinstance(moment, datetime) and moment.tzinfo is not None for moment in times), panel["title"]
            numbers = [cell for cell in rows[0] if isinstance(cell, int | float | Decimal)]
            assert numbers, panel["title"]
        found[panel["title"] + " " + panel["type"]] = names, rows
        some = rows_of(world, panel, chosen)[1]
        assert len(some) <= len(rows), panel["title"]
        if "${customer" in panel["targets"][0]["rawSql"] and panel["type"] != "stat":
            assert some, panel["title"]
            assert rows_of(world, panel, nobody)[1] == [], panel["title"]
    stats = {title: rows[0][0] for title, (_, rows) in found.items() if title.endswith(" stat")}
    assert stats.pop("Wait for Metronome stat") >= 0
    assert stats.pop("Held by the brake stat") >= 1
    assert stats.pop("Unsettled hours stat") >= 1
    assert stats == {"In quarantine stat": 1, "Held stat": 1, "Late changes stat": 1}
    deliveries = found["Deliveries by hour timeseries"][1]
    assert {name for _, name, _ in deliveries} == {"Calls", "Peak"}
    assert sum(number for *_, number in deliveries) == 12 + 2 + 1
    usage = {(hour, name): number for hour, name, number in found["Usage by hour timeseries"][1]}
    assert usage[START + timedelta(hours=1), "Calls"] == 503
    assert usage[START + timedelta(hours=2), "Peak"] == 9
    (_, median, longest) = found["Lag timeseries"][1][0]
    assert 0 < median <= longest <= 24 * 3600
    (row,) = found["Quarantine table"][1]
    assert row[1] == "Acme's"


def test_nothing_of_another_account_pair_is_shown(told: tuple[World, str, str]) -> None:
    world, *_ = told
    for panel in PANELS:
        rows = rows_of(world, panel, {**ALL, "pair": "'2'"})[1]
        assert rows in ([], [(0,)]), panel["title"]


def test_each_variable_has_a_query_that_lists_names_and_values(told: tuple[World, str, str]) -> None:
    world, customer, metric = told
    found = {}
    with psycopg.connect(world.database_url) as connection:
        for name, variable in VARIABLES.items():
            if variable["type"] != "query":
                continue
            cursor = connection.execute(expanded(variable["query"], {"pair": "'1'"}).encode())
            assert cursor.description is not None
            assert [column.name for column in cursor.description] == ["__text", "__value"]
            found[name] = {value for _, value in cursor.fetchall()}
    assert found["pair"] == {1}
    assert found["customer"] == {customer}
    assert metric in found["metric"]


def _texts(part: Any) -> Iterator[str]:
    if isinstance(part, str):
        yield part
    for each in part.values() if isinstance(part, dict) else part if isinstance(part, list) else ():
        yield from _texts(each)


def test_the_dashboard_can_be_imported() -> None:
    assert DASHBOARD["schemaVersion"] >= 36
    assert re.fullmatch(r"[\w-]{1,40}", DASHBOARD["uid"])
    assert "id" not in DASHBOARD, "an id belongs to one Grafana"
    assert {"title", "time", "timezone", "refresh", "templating", "panels", "annotations"} <= DASHBOARD.keys()
    used = {name for text in _texts(DASHBOARD) for name in re.findall(r"\$\{(\w+)", text)}
    assert used == set(VARIABLES)
    for name in ("customer", "metric"):
        assert VARIABLES[name]["allValue"] == ALL[name], "Grafana puts the value for all into a query as it stands"
    assert len({panel["id"] for panel in PANELS}) == len(PANELS)
    for panel in PANELS:
        assert panel["type"] in {"stat", "timeseries", "table"}
        assert panel["description"], panel["title"]
        (target,) = panel["targets"]
        assert target["format"] in {"time_series", "table"}
        assert target["rawQuery"] is True
        for part in (panel, target):
            assert part["datasource"] == {"type": "grafana-postgresql-datasource", "uid": "${datasource}"}
        macros = set(re.findall(r"\$__\w+", target["rawSql"]))
        assert macros <= {"$__timeFilter"}, "the test above knows no others"


def test_panels_lie_beside_each_other_and_not_over_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in PANELS:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert not cells & taken, panel["title"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        taken |= cells
