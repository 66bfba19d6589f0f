"""Names that are markup, orders to a terminal, formulas or megabytes: kept as they are, shown, and never obeyed.

Through real runs, wherever a name can stand: customers, billable metrics, products, group keys and group values.
"""

import csv
import json
import re
import tempfile
import uuid
from collections.abc import Iterator, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

import metronome_pipeline
from metronome_pipeline.alerts.channels import Mail
from metronome_pipeline.alerts.messages import Message
from metronome_pipeline.cli import main
from metronome_pipeline.cli.terminal import plain
from metronome_pipeline.mapping.meters import one_line_name, property_reference
from metronome_pipeline.statements.files import Columns, Lines, statement_file, verify
from metronome_pipeline.workflows.pictures import markdown_image
from metronome_pipeline_tests.alerts.receivers import hook, post
from metronome_pipeline_tests.alerts.watch import Watch, at_hour
from metronome_pipeline_tests.cli.commands import variables
from metronome_pipeline_tests.hostile.adversary import MEGABYTE
from metronome_pipeline_tests.world import World, failure, metadata, rows

NAMES = [
    "<img src=x onerror=alert(1)>",
    "<script>fetch('//127.0.0.1:1')</script>",
    "| a | b |\n|---|---|\n| c | d |",
    "[x](javascript:alert(1))",
    "![x](http://127.0.0.1:1/pixel.png)",
    "```\n# heading\n```",
    "'; DROP TABLE metronome.customers; --",
    "\\'; COPY (SELECT 1) TO PROGRAM 'true'; --",
    "$$ || pg_sleep(9) || $$ %s %(a)s {0}",
    "\x1b[2J\x1b]0;owned\x07\x1b]8;;http://127.0.0.1:1\x1b\\link",
    "\x9b2J\x90evil\x9c",
    "\u202egnp.exe\u2066\u2069",
    "two\r\nlines\u2028three\x85\x0b",
    "Bcc\r\nBcc: all@example.com\r\n\r\nbody",
    "<!channel> <https://127.0.0.1:1|here> @here *bold*",
    "[bold red]rich[/] [/nothing]",
    "{{ 7 * 7 }} ${jndi:ldap://127.0.0.1:1} #{1}",
    '=HYPERLINK("http://127.0.0.1:1","x")',
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "\t=1+1",
    "\uff1d1+1",
    "\ufeffbyte order",
    "../../../etc/passwd",
    "null",
    "",
    " ",
    "a" * 300,
]
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
"""What a terminal would obey. Line breaks are the tables' own."""


@pytest.fixture
def world(world: World) -> World:
    world.environment |= {"GROUPED_USAGE_ENABLED": "true", "USAGE_ENABLED": "true"}
    world.at(at_hour(8.5))
    return world


def entries(world: World) -> Iterator[tuple[str, Any]]:
    """Every metadata entry of every event of every run, as Dagster's UI gets it."""
    for run in world.instance.get_runs():
        for record in world.instance.get_records_for_run(run.run_id).records:
            event = record.event_log_entry.dagster_event
            data = event.event_specific_data if event else None
            for holder in (data, getattr(data, "materialization", None), getattr(data, "asset_check_evaluation", None)):
                yield from (getattr(holder, "metadata", None) or {}).items()
            of_failure = getattr(data, "user_failure_data", None)
            yield from (of_failure.metadata if of_failure else {}).items()


def assert_logged_in_lines(world: World) -> None:
    """What the log says is printed by Dagster as it is: a line each, that orders nothing, and not of megabytes."""
    for run in world.instance.get_runs():
        for record in world.instance.get_records_for_run(run.run_id).records:
            if record.event_log_entry.dagster_event is None:
                said = record.event_log_entry.user_message
                assert said.isprintable(), said
                assert len(said) < 4_000


def assert_shown_as_text(world: World) -> None:
    """What the UI gets are numbers, texts and tables of texts, which it shows as they are, and one image of ours."""
    image = re.compile(r"!\[[\w ,.:-]*\]\(data:image/svg\+xml;base64,[A-Za-z0-9+/=]*\)")
    for name, value in entries(world):
        assert not isinstance(value, dg.UrlMetadataValue | dg.PathMetadataValue | dg.NotebookMetadataValue), name
        if isinstance(value, dg.MarkdownMetadataValue):
            assert image.fullmatch(value.value or ""), name
        if isinstance(value, dg.TableMetadataValue):
            cells = [cell for record in value.records for cell in record.data.values()]
            assert all(isinstance(cell, str) and len(cell) <= 2_000 for cell in cells), name


def imported(world: World, of_metrics: Sequence[str]) -> tuple[dict[str, str], str]:
    """A customer, a metric and a product of every name, and one metric that groups by one key."""
    customers = {world.customer(name): name for name in NAMES}
    metrics = [world.metric(name=name, group_keys=[[name or "key"]]) for name in of_metrics]
    for name in NAMES[::2]:
        world.product(type="USAGE", initial={"name": name, "billable_metric_id": metrics[0]})
    world.metric("LATEST", name=NAMES[9], group_keys=[["refused \x1b[2J"]])
    grouped = world.metric(name="Grouped", group_keys=[["region"]])
    world.imports()
    return customers, grouped


def test_names_that_are_markup_are_imported_billed_and_shown_as_they_are(world: World) -> None:
    customers, metric = imported(world, NAMES[1::2] + NAMES[-1:])
    for customer, name in customers.items():
        found = world.made("customers", customer)["organization"]
        assert found["legal_name"] == one_line_name(name)
    customer = next(iter(customers))
    for number, value in enumerate(NAMES):
        world.use(customer, metric, 1, number + 1, region=value)
    result = world.ingest(0, 3, job="ingest_grouped_usage")
    assert result.success, failure(result)
    assert world.slices(customer, metric, 1) == {
        (("region", value),): Decimal(number + 1) for number, value in enumerate(NAMES)
    }
    tags = dict.fromkeys(("dagster/asset_partition_range_start", "dagster/asset_partition_range_end"), "2026-01-05")
    world.at(at_hour(30))
    world.run("reconcile", tags=tags)
    assert_shown_as_text(world)
    assert_logged_in_lines(world)
    preview = rows(metadata(world.run("import_customers"), "metronome", "customers")["preview"])
    assert {row["name"] for row in preview} <= set(NAMES)
    again = metadata(world.run("import_everything"), "solvimon", "meters")
    assert (again["created"], again["updated"], again["unchanged"]) == (0, 0, len(NAMES) // 2 + 2)
    assert again["refused"] == 1, "a group key of 300 letters has no reference"


def test_no_name_is_an_order_to_the_terminal(world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    customers, metric = imported(world, NAMES[9:12])
    world.solvimon.set(match_all=False)
    for number, customer in enumerate(customers):
        world.use(customer, metric, 1, number + 1, region=NAMES[number] or "none")
    world.ingest(0, 3, job="ingest_grouped_usage")
    refused = next(iter(customers))
    world.sql("UPDATE metronome.customers SET name = %s WHERE customer_id = %s", NAMES[9], refused)
    shown = {
        command: _raw(world, *command)
        for command in (
            ("plan", "import"),
            ("plan", "import", "--json"),
            ("quarantine", "list"),
            ("slicing", "show"),
            ("unsubscribed", "--month", "2026-01"),
            ("unsubscribed", "--month", "2026-01", "--json"),
            ("reconcile", "--from", "2026-01-05", "--to", "2026-01-06"),
            ("reconcile", "--from", "2026-01-05", "--to", "2026-01-06", "--json"),
            ("statement", "--month", "2026-01", "--no-trace"),
        )
    }
    for command, text in shown.items():
        found = OBEYED.search(text)
        assert found is None, f"{command} shows {found!r} raw: {text[max(0, found.start() - 60) :][:120]!r}"
    assert "onerror" in "".join(shown.values()), "no command showed a name"


def _raw(world: World, *arguments: str) -> str:
    result = CliRunner(env=variables(world) | world.environment | {"METRONOME_REQUESTS_PER_SECOND": "1000"}).invoke(
        main, list(arguments)
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Usage:" not in result.output, result.output
    if "--json" in arguments and result.exit_code == 0:
        json.loads(result.stdout)
    return result.output


@given(st.text(st.characters(codec=None, categories=None)))
def test_any_text_is_plain_on_a_terminal_and_json_stays_json(text: str) -> None:
    assert OBEYED.search(plain(text).replace("\t", "")) is None
    plain(text).encode()
    if not any("\ud800" <= letter <= "\udfff" for letter in text):
        assert json.loads(plain(json.dumps(text, ensure_ascii=False))) == text


@given(st.text())
def test_an_image_has_no_other_markup(words: str) -> None:
    found = markdown_image("<svg/>", words)
    assert re.fullmatch(r"!\[[^\[\]()<>`*|\n\\!]*\]\(data:image/svg\+xml;base64,PHN2Zy8\+\)", found)


def test_markdown_is_made_in_one_place_of_which_the_words_are_our_own() -> None:
    """Whoever adds another must see to it that no name becomes markup, and then change this."""
    package = Path(metronome_pipeline.__file__).parent
    pattern = r"MetadataValue\.(md|url|path|notebook|html)|(Markdown|Url|Path|Notebook)MetadataValue"
    makers = [
        line.strip()
        for file in sorted(package.rglob("*.py"))
        for line in file.read_text().splitlines()
        if re.search(pattern, line)
    ]
    assert makers
    for line in makers:
        assert re.search(r'"picture": dg\.MetadataValue\.md\((markdown_image|self\._picture|_picture)\(', line), line


# Alerts ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [NAMES[9], NAMES[11], NAMES[13], NAMES[14] + "x" * MEGABYTE], ids=range(4))
def test_an_alert_shows_a_name_and_obeys_nothing_in_it(world: World, name: str) -> None:
    customer, metric = world.customer(name), world.metric(name=name)
    world.imports()
    ((reference,),) = world.sql(
        "SELECT ledger.event_reference(%s, %s, %s, %s, 'total', 0)", customer, metric, at_hour(1), at_hour(2)
    )
    world.solvimon.set(refuse_reference=[reference], match_all=True)
    world.use(customer, metric, 1, 5)
    assert world.ingest(0, 7).success
    with hook() as receiver, post() as server:
        watch = Watch(world, receiver)
        watch.tick(ALERT_EMAIL_TO="ops@example.com", ALERT_EMAIL_FROM="me@example.com", SMTP_URL=server.url)
        assert any("Quarantine" in text for text in receiver.texts)
        for body in receiver.bodies:
            assert body["mrkdwn"] is False
            assert not re.search(r"<|@(?=\w)", body["text"]), "an angle bracket or a mention reached Slack"
            assert OBEYED.search(body["text"]) is None
            assert len(body["text"]) < 8_000
        assert len(server.mails) == len(receiver.bodies)
        for mail in server.mails:
            assert mail["Bcc"] is None
            assert mail.get_content_type() == "text/plain"
            assert OBEYED.search(mail.get_content().replace("\r\n", "\n")) is None
        assert set(server.envelopes) == {("me@example.com", ("ops@example.com",))}


@pytest.mark.parametrize("letter", ["\r\nBcc: a@example.com", "\0", "\x1b[2J", "\u2028", "\x85Bcc: a@example.com"])
def test_a_subject_is_one_line_whatever_is_in_it(letter: str) -> None:
    with post() as server:
        Mail(server.url, "me@example.com", ("ops@example.com",)).send(Message(f"[test] a{letter}b", f"c{letter}d"))
    [mail] = server.mails
    assert mail["Bcc"] is None
    assert str(mail["Subject"]).startswith("[test] a")
    assert server.envelopes == [("me@example.com", ("ops@example.com",))]


# Megabytes ------------------------------------------------------------------------------------------------------------


def test_names_of_a_megabyte_pass_and_make_no_event_of_megabytes(world: World) -> None:
    name = "x" * MEGABYTE
    customer = world.customer(name, ingest_aliases=[f"{name}-alias"], custom_fields={"k": name})
    others = [world.customer(f"{number}{name}") for number in range(5)]
    metric = world.metric(name=name)
    keyed = world.metric(name="Keyed", group_keys=[[name]])
    product = world.product(type="SUBSCRIPTION", initial={"name": name})
    result = world.run("import_everything")
    assert result.success, failure(result)
    assert world.made("customers", customer)["organization"]["legal_name"] == one_line_name(name)
    assert world.sql("SELECT name = %s FROM metronome.customers WHERE customer_id = %s", name, customer) == [(True,)]
    assert {world.outcomes("customers")[each][0] for each in (customer, *others)} == {"created"}
    assert world.outcomes("meters")[metric][0] == "created"
    assert world.outcomes("products")[product][0] in {"created", "refused"}
    assert len(property_reference(name)) > MEGABYTE - 1
    assert world.outcomes("meters")[keyed][0] == "refused", "a key of a megabyte has no reference"
    assert len(world.outcomes("meters")[keyed][1] or "") < 2_000
    world.use(customer, metric, 1, 5)
    assert world.ingest(0, 3).success
    assert world.counted(customer, metric) == {1: 5}
    assert_shown_as_text(world)
    assert_logged_in_lines(world)
    largest = world.sql("SELECT max(length(event)) FROM event_logs")[0][0]
    assert largest < MEGABYTE // 2, f"an event of {largest:,} characters for the UI"


def test_what_cannot_be_stored_is_refused_by_name_wherever_it_stands(world: World) -> None:
    nul, half, far = (str(uuid.uuid4()) for _ in range(3))
    world.customer("a\0b", id=nul)
    world.customer("Acme", id=half, custom_fields={"k\ud800": "v"})
    good = world.customer("Good")
    body: dict[str, Any] = {
        "data": [
            {
                "id": each,
                "name": "Far",
                "ingest_aliases": [],
                "custom_fields": {},
                "created_at": "2026-01-01T00:00:00Z",
                "updated_at": "2026-01-01T00:00:00Z",
                "archived_at": instant,
            }
            for each, instant in ((far, "0001-01-01T00:00:00+14:00"), (good, None))
        ],
        "next_page": None,
    }
    result = world.run("import_customers")
    assert result.success, failure(result)
    refused = {row["id"]: row["field"] for row in rows(metadata(result, "metronome", "customers")["refused_records"])}
    assert refused == {nul: "name", half: "custom_fields.k\\u0000"}
    answer = {"path": "/v1/customers", "body": json.dumps(body), "times": 1}
    world.metronome.call("PUT", "/_sandbox/answers", [answer])
    result = world.run("import_customers")
    assert result.success, failure(result)
    refused = {row["id"]: row["reason"] for row in rows(metadata(result, "metronome", "customers")["refused_records"])}
    assert refused == {far: "is an instant before the year 1 or after 9999 in UTC"}
    world.metronome.call("PUT", "/_sandbox/answers", [])
    assert world.run("import_customers").success, "what cannot be read back was not stored"


# Statements -----------------------------------------------------------------------------------------------------------

COLUMNS: Columns = {"customer": "text", "number": "number"}
FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "\uff1d", "\uff0b", "\uff0d", "\uff20")


@given(
    st.lists(st.sampled_from(NAMES) | st.builds(str.__add__, st.sampled_from(["'", *FORMULAS]), st.text(max_size=5)))
)
def test_no_cell_of_a_statement_is_a_formula_and_each_is_read_back_as_it_was(names: list[str]) -> None:
    storable = [name.replace("\0", "").encode("utf-8", "ignore").decode() for name in names]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "statement.csv"
        with statement_file(path, COLUMNS, "csv") as file:
            for name in storable:
                file.write((name, Decimal(-5)))
            file.finish({}, made_at=at_hour(0))
        with path.open(encoding="utf-8", newline="") as opened:
            cells = [row["customer"] for row in csv.DictReader(opened)]
        assert len(cells) == len(storable)
        assert not [cell for cell in cells if cell.startswith(FORMULAS)], "a spreadsheet would compute it"
        assert [texts[0] or "" for texts in Lines(path, COLUMNS)] == storable
        assert verify(path, COLUMNS).unchanged
