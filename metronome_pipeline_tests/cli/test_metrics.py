"""``metrics init``, ``show`` and ``schema``, and what ``check`` says of the file."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as examined
from hypothesis import strategies as st

from metronome_pipeline.cli.metrics_text import metrics_text
from metronome_pipeline.metrics_file import SCHEMA_FILE, read_metrics_file
from metronome_pipeline.settings import Settings
from metronome_pipeline.storage.accounts import KnownMetric
from metronome_pipeline.workflows.due import refusal, slicing_wanted
from metronome_pipeline_tests.cli.commands import command, variables
from metronome_pipeline_tests.world import START, World

KEYS = [["region"], ["region", "tier"]]


@pytest.fixture(autouse=True)
def _in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def env(world: World, **more: str) -> dict[str, str]:
    return {**variables(world), **more}


def test_init_writes_every_metric_as_todays_settings_bill_it_and_the_schema_beside_it(accounts: World) -> None:
    calls = accounts.metric(name="Calls: all of them", group_keys=KEYS)
    users, bytes_ = accounts.metric("UNIQUE", name="Users"), accounts.metric(name="Bytes", group_keys=KEYS)
    left_out = accounts.metric(name="Left out")
    given_ = env(
        accounts,
        GROUPED_USAGE_ENABLED="true",
        USAGE_METRICS=f"{calls},{users},{bytes_}",
        METRIC_SLICINGS=json.dumps({calls: ["region", "tier"]}),
        METRIC_CALCULATIONS=json.dumps({users: "PERIOD_TO_DATE"}),
    )
    done = command("metrics", "init", env=given_)
    assert done.status == 0, done.err
    assert "Wrote 4 billable metrics to metrics.yaml" in done.out
    assert "in place of USAGE_METRICS, METRIC_SLICINGS, METRIC_CALCULATIONS" in done.err
    text = Path("metrics.yaml").read_text(encoding="utf-8")
    assert text.splitlines()[0] == "# yaml-language-server: $schema=metrics.schema.json"
    assert Path("metrics.schema.json").read_bytes() == SCHEMA_FILE.read_bytes()
    file = read_metrics_file("metrics.yaml")
    assert file.slicings == {calls: ("region", "tier"), bytes_: ("region",)}
    assert file.calculations == {users: "PERIOD_TO_DATE"}
    assert file.left_out == {left_out}
    assert file.others.billed is False
    assert file.metrics[calls].name == "Calls: all of them"
    # Beside the variables it agrees, and in their place nothing changes.
    blank = dict.fromkeys(("USAGE_METRICS", "METRIC_SLICINGS", "METRIC_CALCULATIONS"), "")
    for more in ({}, blank):
        shown = command("metrics", "show", env={**given_, "METRICS_FILE": "metrics.yaml", **more})
        assert shown.status == 0, shown.err
        assert "4 billable metrics, nothing to mend." in shown.out
        assert '["region","tier"] (METRICS_FILE)' in shown.out
        assert "no (METRICS_FILE)" in shown.out


def test_init_never_replaces_a_file_unasked(accounts: World) -> None:
    metric = accounts.metric(name="Calls")
    assert command("metrics", "init", "billing.yaml", env=env(accounts)).status == 0
    Path("billing.yaml").write_text(f"metrics:\n  {metric}: {{billed: false}} # for now\n")
    again = command("metrics", "init", env=env(accounts, METRICS_FILE="billing.yaml"))
    assert again.status == 2
    assert "billing.yaml exists: edit it, or write it anew with --overwrite." in again.err
    assert "for now" in Path("billing.yaml").read_text()
    assert command("metrics", "init", "--overwrite", env=env(accounts, METRICS_FILE="billing.yaml")).status == 0
    # What the file said is part of today's settings.
    assert read_metrics_file("billing.yaml").left_out == {metric}
    assert "Calls" in Path("billing.yaml").read_text()


def test_init_writes_the_file_that_is_set_and_not_there_yet(accounts: World) -> None:
    accounts.metric()
    missing = command("metrics", "show", env=env(accounts, METRICS_FILE="later.yaml"))
    assert missing.status == 2
    assert "METRICS_FILE names later.yaml, which is no file yet" in missing.err
    assert command("metrics", "init", env=env(accounts, METRICS_FILE="later.yaml")).status == 0
    assert command("metrics", "show", env=env(accounts, METRICS_FILE="later.yaml")).status == 0
    nowhere = command("metrics", "init", "no/such/folder.yaml", env=env(accounts))
    assert nowhere.status == 1
    assert "cannot be written" in nowhere.err


def test_init_goes_by_the_last_import_and_asks_metronome_before_the_first(world: World) -> None:
    world.metric(name="Calls")
    assert "asking Metronome" in command("metrics", "init", env=env(world)).err
    world.imported()
    world.metronome.forget_requests()
    assert command("metrics", "init", "--overwrite", env=env(world)).status == 0
    assert world.metronome.requests() == {}


def test_an_account_without_metrics_gets_a_file_without_metrics(accounts: World) -> None:
    assert command("metrics", "init", env=env(accounts)).status == 0
    assert read_metrics_file("metrics.yaml").metrics == {}
    assert "no billable metric" in command("metrics", "show", env=env(accounts)).out


def test_show_tells_which_setting_says_so_and_what_is_to_be_mended(accounts: World) -> None:
    calls = accounts.metric(name="Calls", group_keys=KEYS, id="00000000-0000-4000-8000-000000000001")
    users = accounts.metric("UNIQUE", name="Users", id="00000000-0000-4000-8000-000000000002")
    renamed = accounts.metric(name="Bytes", id="00000000-0000-4000-8000-000000000003")
    wrong = accounts.metric(name="Wrong", group_keys=KEYS, id="00000000-0000-4000-8000-000000000004")
    gone = "00000000-0000-4000-8000-000000000005"
    Path("metrics.yaml").write_text(
        f"metrics:\n  {renamed}: {{name: Octets}}\n  {wrong}: {{slicing: [colour]}}\n  {gone}: {{name: Gone}}\n"
    )
    done = command(
        "metrics",
        "show",
        env=env(
            accounts,
            METRICS_FILE="metrics.yaml",
            GROUPED_USAGE_ENABLED="true",
            METRIC_SLICINGS=json.dumps({calls: "ungrouped"}),
        ),
    )
    assert done.status == 3, done.err
    assert f"Calls yes (default) ungrouped (METRIC_SLICINGS) SUM (default) {calls}" in done.out
    assert f"Not billed until a calculation is chosen: PERIOD_TO_DATE is exact. Or leave it out. {users}" in done.out
    assert "Metronome calls it Bytes, METRICS_FILE Octets" in done.out
    assert 'METRICS_FILE says ["colour"], which is no group key' in done.out
    assert f"Gone yes (default) Metronome does not list it: correct the id, or take it out. {gone}" in done.out
    assert "5 billable metrics, 4 to mend." in done.out


def test_a_mistake_in_the_file_stops_every_command_with_its_line(accounts: World) -> None:
    Path("metrics.yaml").write_text("metrics:\n  Calls: {}\n")
    for arguments in (("check",), ("metrics", "show"), ("plan", "import"), ("metrics", "init", "--overwrite")):
        done = command(*arguments, env=env(accounts, METRICS_FILE="metrics.yaml"))
        assert done.status == 2
        assert "METRICS_FILE has a mistake in metrics.yaml, line 2: 'Calls' is no metric id" in done.err


def test_check_tells_when_the_file_and_metronome_differ(accounts: World) -> None:
    calls, users = accounts.metric(name="Calls"), accounts.metric(name="Bytes")
    Path("metrics.yaml").write_text(f"metrics:\n  {calls}: {{name: Calls}}\n  {users}: {{billed: false}}\n")
    fits = command("check", env=env(accounts, METRICS_FILE="metrics.yaml"))
    assert fits.status == 0, fits.out
    assert "metrics file ok fits Metronome's 2 billable metrics" in fits.out
    assert "all but 1 metrics" in fits.out
    Path("metrics.yaml").write_text(f"metrics:\n  {calls}: {{name: Cells}}\n")
    differs = command("check", env=env(accounts, METRICS_FILE="metrics.yaml"))
    assert differs.status == 0
    assert "Metronome calls it Calls, METRICS_FILE Cells" in differs.out
    assert "metrics file" not in command("check", env=env(accounts)).out


def test_schema_prints_the_shipped_one(accounts: World) -> None:
    done = command("metrics", "schema", env=env(accounts))
    assert json.loads(done.out) == json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))


IDS = [f"00000000-0000-4000-8000-00000000000{number}" for number in range(6)]
# What Postgres can store: no NUL, no lone surrogate.
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1, max_size=12)
group_keys = st.lists(st.lists(names, min_size=1, max_size=2, unique=True).map(tuple), max_size=2).map(tuple)
known = st.builds(
    KnownMetric,
    metric_id=st.sampled_from(IDS[:4]),
    name=names,
    aggregation_type=st.sampled_from(["COUNT", "SUM", "MAX", "LATEST", "UNIQUE", None, "new\nkind: {"]),
    group_keys=group_keys,
    is_sql=st.booleans(),
    archived_at=st.sampled_from([None, START]),
)
chosen_keys = st.just("ungrouped") | st.lists(names, min_size=1, max_size=2, unique=True)


@given(
    metrics=st.lists(known, max_size=4, unique_by=lambda metric: metric.metric_id),
    slicings=st.dictionaries(st.sampled_from(IDS), chosen_keys, max_size=3),
    calculations=st.dictionaries(st.sampled_from(IDS), st.sampled_from(["SUM", "MAX", "PERIOD_TO_DATE"]), max_size=3),
    only=st.sets(st.sampled_from(IDS), max_size=3),
    grouped=st.booleans(),
)
@examined(deadline=None)
def test_the_file_in_place_of_the_variables_changes_nothing(
    metrics: list[KnownMetric],
    slicings: dict[str, object],
    calculations: dict[str, str],
    only: set[str],
    grouped: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    required = {
        "METRONOME_BEARER_TOKEN": "t",
        "SOLVIMON_API_KEY": "k",
        "USAGE_START": "2026-01-01",
        "GROUPED_USAGE_ENABLED": str(grouped),
    }
    by_variables = {
        "METRIC_SLICINGS": json.dumps(slicings),
        "METRIC_CALCULATIONS": json.dumps(calculations),
        "USAGE_METRICS": ",".join(only),
    }
    before = Settings.from_environment({**required, **by_variables})
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    path.write_text(metrics_text(metrics, before, "metrics.schema.json"), encoding="utf-8")
    after = Settings.from_environment({**required, "METRICS_FILE": str(path)})

    assert after.metric_calculations == before.metric_calculations
    assert dict(after.metric_slicings, **before.metric_slicings) == after.metric_slicings
    for metric_id in [*IDS, "one that Metronome will have later"]:
        assert (metric_id in after.permitted_metrics) == (metric_id in before.permitted_metrics)
    for metric in metrics:
        wanted = slicing_wanted(metric, before)
        assert slicing_wanted(metric, after) == wanted
        assert (refusal(metric, wanted, after) is None) == (refusal(metric, wanted, before) is None)
    # Beside the variables it says the same.
    beside = Settings.from_environment({**required, **by_variables, "METRICS_FILE": str(path)})
    assert beside.permitted_metrics.only == before.permitted_metrics.only
