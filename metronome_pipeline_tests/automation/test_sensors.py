"""The sensor that notices changes of the Metronome account: evaluated ticks, and what becomes of requested runs."""

import asyncio
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import cast

import dagster as dg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from metronome_pipeline.automation import sensors
from metronome_pipeline.automation.changes import Change, Look, Notice, change_of, look_at_audit_log, noticed_in
from metronome_pipeline.metronome.api import MetronomeApi
from metronome_pipeline.metronome.records import AuditLog, Page
from metronome_pipeline.settings import Permitted
from metronome_pipeline.storage.changes import Known
from metronome_pipeline_tests.world import START, World, failure, metadata

MINUTE = timedelta(minutes=1)


class Watch:
    """The sensor of a world, with the cursor that the daemon would keep."""

    def __init__(self, world: World, **variables: str) -> None:
        self.world = world
        self.variables: dict[str, str] = variables
        self.cursor: str | None = None

    def tick(self) -> SensorExecutionData:
        definitions = self.world.definitions(**self.variables)
        sensor = definitions.resolve_sensor_def("account_changes")
        context = dg.build_sensor_context(
            instance=self.world.instance, cursor=self.cursor, resources=definitions.resources
        )
        found = sensor.evaluate_tick(context)
        self.cursor = found.cursor
        return found

    def request(self) -> dg.RunRequest:
        found = self.tick()
        assert found.run_requests, found.skip_message
        (request,) = found.run_requests
        return request

    def skips(self) -> str:
        found = self.tick()
        assert not found.run_requests, found.run_requests
        return str(found.skip_message)

    def run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        """What the daemon does with a request, in this process."""
        assert request.job_name is not None
        return self.world.run(request.job_name, config=request.run_config, tags=request.tags, **self.variables)

    def imported(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        result = self.run(request)
        assert result.success, failure(result)
        return result


@pytest.fixture
def watch(world: World) -> Watch:
    return Watch(world)


def test_an_account_that_was_never_imported_is_imported_once(watch: Watch) -> None:
    watch.world.customer("Acme")
    watch.world.metric("SUM")
    first = watch.request()
    assert first.job_name == "import_everything"
    assert "customers (never imported)" in first.tags["because"]
    watch.imported(first)
    reason = watch.skips()
    assert "1 customers, 1 meters, 0 products known" in reason
    assert "0 new entries in the audit log" in reason
    assert watch.world.metronome.requests()["GET /v1/auditLogs"] <= 3, "one request a tick, two where there are entries"


def test_an_empty_account_is_imported_once_as_well(watch: Watch) -> None:
    request = watch.request()
    assert request.job_name == "import_everything"
    watch.imported(request)
    assert "0 customers, 0 meters, 0 products known" in watch.skips()


def test_what_usage_runs_have_read_is_imported_when_it_is_new_renamed_or_archived(watch: Watch) -> None:
    world = watch.world
    customer, metric = world.customer("Acme"), world.metric("SUM", name="Calls", group_keys=[["region"]])
    world.product(type="USAGE", initial={"name": "Calls", "billable_metric_id": metric})
    world.imports()
    assert "Nothing to import: 1 customers, 1 meters, 1 products known" in watch.skips()
    assert watch.cursor is not None
    silent(world)

    # A new customer is read by the next usage run. Its usage is billed without waiting for this import.
    newcomer = world.customer("Newcomer")
    read(world)
    request = watch.request()
    assert (request.job_name, request.tags["because"]) == ("import_customers", "customers (1 new)")
    assert watch.request().run_key == request.run_key, "until the run is there, the same change has the same key"
    watch.imported(request)
    assert "2 customers" in watch.skips()
    assert world.solvimon.call("GET", f"/v1/customers/{newcomer}")["organization"]["legal_name"] == "Newcomer"

    # A renamed metric with a new group key.
    world.metric("SUM", name="Requests\nserved", id=metric, group_keys=[["region"]])
    read(world)
    request = watch.request()
    assert (request.job_name, request.tags["because"]) == ("import_meters", "meters (1 renamed)")
    watch.imported(request)
    assert "Nothing" in watch.skips(), "the name was sent in one line, and is not a difference"
    world.metric("SUM", name="Requests\nserved", id=metric, group_keys=[["region"], ["team"]])
    read(world)
    request = watch.request()
    assert request.tags["because"] == "meters (1 new group key)"
    watch.imported(request)
    assert "Nothing" in watch.skips()

    # Several kinds at once are one run, in the order of their dependencies.
    archived_at = datetime.now(UTC) + timedelta(seconds=1)
    world.customer("Acme Ltd", id=customer)
    world.metric(
        "SUM",
        name="Requests\nserved",
        id=metric,
        group_keys=[["region"], ["team"]],
        archived_at=archived_at.isoformat(),
    )
    read(world)
    request = watch.request()
    assert request.job_name == "import_everything"
    assert request.tags["because"] == "customers (1 renamed), meters (1 changed)"


def test_a_product_is_noticed_through_the_audit_log(watch: Watch) -> None:
    world = watch.world
    metric = world.metric("SUM")
    watch.imported(watch.request())
    assert "Nothing" in watch.skips()
    product = world.product(type="USAGE", initial={"name": "Calls", "billable_metric_id": metric})
    world.metronome.forget_requests()
    request = watch.request()
    assert (request.job_name, request.tags["because"]) == ("import_products", "products (in the audit log)")
    assert set(world.metronome.requests()) == {"GET /v1/auditLogs"}
    # The daemon died before it launched the run, or the run fails. The log has gone on; the product is not forgotten.
    assert watch.request().run_key == request.run_key
    world.solvimon.faults({"path": "*", "kind": "status_403", "rate": 1})
    failed = watch.run(request)
    assert not failed.success
    assert f"Run {failed.run_id} failed less than 15 minutes ago" in watch.skips()
    world.sql("UPDATE runs SET end_time = end_time - 901 WHERE run_id = %s", failed.run_id)
    again = watch.request()
    assert again.job_name == "import_products"
    assert again.run_key not in (None, request.run_key), "Dagster starts no second run under one key"
    world.solvimon.faults()
    result = watch.imported(again)
    assert metadata(result, "solvimon", "products")["created"] == 1
    assert "Nothing" in watch.skips()
    world.metronome.call("POST", "/v1/contract-pricing/products/archive", {"product_id": product})
    assert watch.request().job_name == "import_products"


def test_an_import_that_somebody_ran_meanwhile_settles_what_was_noticed(watch: Watch) -> None:
    world = watch.world
    watch.imported(watch.request())
    world.customer("Newcomer")
    assert watch.request().job_name == "import_customers"
    # Only the destination: the list was not read again.
    definitions = world.definitions()
    definitions.resolve_job_def("import_customers").execute_in_process(
        instance=world.instance, asset_selection=[dg.AssetKey(["solvimon", "customers"])]
    )
    assert watch.request().job_name == "import_customers"
    assert world.run("import_everything").success
    assert "Nothing" in watch.skips()


def test_a_refused_product_is_left_alone_until_it_changes(watch: Watch) -> None:
    world = watch.world
    bundle = world.product(type="COMPOSITE", initial={"name": "Bundle"})
    unmetered = world.metric("LATEST", name="Seats")
    seats = world.product(type="USAGE", initial={"name": "Seats", "billable_metric_id": unmetered})
    result = watch.imported(watch.request())
    assert metadata(result, "solvimon", "products")["refused"] == 2
    assert "2 products known" in watch.skips()
    silent(world)

    # What its import waited for is there: the meter has a calculation now.
    calculations = json.dumps({unmetered: "MAX"})
    watch.variables = {"METRIC_CALCULATIONS": calculations}
    assert world.run("import_meters", METRIC_CALCULATIONS=calculations).success
    request = watch.request()
    assert (request.job_name, request.tags["because"]) == ("import_products", "products (1 changed)")
    watch.imported(request)
    assert world.sql("SELECT outcome FROM solvimon.products WHERE reference = %s", seats) == [("created",)]
    assert "Nothing" in watch.skips()

    # A change of the stored record itself.
    in_future = (datetime.now(UTC) + timedelta(seconds=1)).isoformat()
    world.sql("UPDATE metronome.products SET archived_at = %s WHERE product_id = %s", in_future, bundle)
    assert watch.request().tags["because"] == "products (1 changed)"


def test_a_difference_that_an_import_could_not_remove_is_said_and_not_requested_again(watch: Watch) -> None:
    world = watch.world
    customer = world.customer("Acme")
    watch.imported(watch.request())
    world.sql("UPDATE metronome.customers SET name = 'Other' WHERE customer_id = %s", customer)
    request = watch.request()
    result = watch.imported(request)
    world.sql("UPDATE metronome.customers SET name = 'Other' WHERE customer_id = %s", customer)
    assert f"Run {result.run_id} did so, and they still differ" in watch.skips()
    # Changed back and imported, then changed to the same once more.
    assert world.run("import_customers").success
    assert "Nothing" in watch.skips()
    world.sql("UPDATE metronome.customers SET name = 'Other' WHERE customer_id = %s", customer)
    assert watch.request().run_key == f"{request.run_key} after {result.run_id}"


def test_nothing_is_requested_while_an_import_is_under_way(watch: Watch) -> None:
    world = watch.world
    world.customer("Acme")
    run = world.definitions().resolve_job_def("import_everything")
    started = world.instance.create_run_for_job(run, status=dg.DagsterRunStatus.STARTED)
    reason = watch.skips()
    assert f"Run {started.run_id} of import_everything comes first" in reason
    world.instance.report_run_canceled(started)
    assert watch.request().job_name == "import_everything", "what was noticed meanwhile is not forgotten"


def test_an_allow_list_bounds_what_is_noticed(world: World) -> None:
    pilot, other = world.customer("Pilot"), world.customer("Other")
    metric, unlisted = world.metric("SUM"), world.metric("SUM", name="Unlisted")
    watch = Watch(world, USAGE_CUSTOMERS=pilot, USAGE_METRICS=metric)
    watch.imported(watch.request())
    assert "2 customers, 2 meters" in watch.skips()
    world.customer("Other again", id=other)
    world.metric("SUM", name="Unlisted again", id=unlisted)
    read(world)
    assert "2 new entries in the audit log" in watch.skips()
    world.customer("Pilot again", id=pilot)
    assert watch.request().job_name == "import_customers"


def test_trouble_with_the_audit_log_is_a_reason_to_skip_and_nothing_is_missed(watch: Watch) -> None:
    world = watch.world
    world.customer("Acme")
    watch.imported(watch.request())
    world.customer("Newcomer")
    sentences = {
        "status_401": "Check METRONOME_BEARER_TOKEN",
        "status_403": "Check METRONOME_BEARER_TOKEN",
        "status_503": "Metronome answered 503 to GET /v1/auditLogs",
        "reset_before": "to GET /v1/auditLogs",
        "html_200": "the body is not JSON",
    }
    for fault, sentence in sentences.items():
        world.metronome.faults({"path": "/v1/auditLogs", "method": "GET", "kind": fault, "rate": 1})
        assert sentence in watch.skips()
    world.metronome.faults()
    assert watch.request().job_name == "import_customers"


def test_a_metronome_that_does_not_answer_is_a_reason_to_skip(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    world = watch.world
    watch.imported(watch.request())
    monkeypatch.setattr(sensors, "AUDIT_SECONDS", 0.2)
    slow = {"path": "/v1/auditLogs", "method": "GET", "kind": "slow", "seconds": 1, "rate": 1}
    world.metronome.faults(slow)
    assert "no complete answer within 0.2 s" in watch.skips()
    # What runs have stored is requested all the same.
    world.metronome.faults()
    world.customer("Newcomer")
    read(world)
    world.metronome.faults(slow)
    assert watch.request().job_name == "import_customers"


def test_a_cursor_that_metronome_no_longer_knows_is_given_up_without_a_loss(watch: Watch) -> None:
    world = watch.world
    watch.imported(watch.request())
    assert "Nothing" in watch.skips()
    world.customer("Newcomer")
    assert watch.cursor is not None
    watch.cursor = json.dumps({**json.loads(watch.cursor), "next_page": "forgotten"})
    assert "next_page" in watch.skips()
    assert watch.request().job_name == "import_customers"


def test_another_account_pair_starts_with_an_import_of_everything(world: World) -> None:
    watch = Watch(world)
    first = watch.request()
    watch.imported(first)
    assert "Nothing" in watch.skips()
    watch.variables = {"METRONOME_ENVIRONMENT": "shadow"}
    other = watch.request()
    assert other.job_name == "import_everything"
    assert other.run_key != first.run_key, "Dagster starts no second run under one key"


def test_a_look_reads_a_few_pages_and_the_next_one_goes_on() -> None:
    class EndlessLog:
        async def audit_logs(
            self, *, starting_on: datetime | None = None, next_page: str | None = None
        ) -> AsyncIterator[tuple[Page[AuditLog], str]]:
            assert (starting_on is None) != (next_page is None)
            number = int(next_page or 0)
            while True:
                number += 1
                entry = AuditLog(id=str(number), timestamp=START + number * MINUTE, resource_type="customer")
                yield Page([entry], []), str(number)

    def look(next_page: str | None) -> Look:
        api = cast("MetronomeApi", EndlessLog())
        return asyncio.run(look_at_audit_log(api, since=START, next_page=next_page, allowed={}, seconds=5))

    first = look(None)
    assert (first.entries, first.next_page, first.last_at) == (3, "3", START + 3 * MINUTE)
    assert look(first.next_page).noticed == {"customers": Notice("6", START + 6 * MINUTE)}


def test_only_entries_that_mention_what_is_imported_and_that_succeeded_count() -> None:
    def entry(entry_id: str, resource_type: str | None, minutes: int = 0, **fields: str) -> AuditLog:
        return AuditLog(id=entry_id, timestamp=START + minutes * MINUTE, resource_type=resource_type, **fields)

    entries = [
        entry("1", "BillableMetric"),
        entry("2", "billable_metric", 5),
        entry("3", "contract_product", 1, status="SUCCESS"),
        entry("4", "customer", 2, status="failure"),
        entry("5", "api_token"),
        entry("6", None),
    ]
    assert noticed_in(entries, {}) == {
        "meters": Notice("2", START + 5 * MINUTE),
        "products": Notice("3", START + MINUTE),
    }
    pilot = entry("7", "customer", resource_id="pilot")
    other = entry("8", "customer", 1, resource_id="other")
    only = Permitted(only=frozenset({"pilot"}))
    assert noticed_in([pilot, other], {"customers": only}) == {"customers": Notice("7", START)}
    without = Permitted(without=frozenset({"other"}))
    assert noticed_in([pilot, other], {"customers": without}) == {"customers": Notice("7", START)}
    assert noticed_in([pilot, other], {"customers": Permitted(only=frozenset())}) == {}


@pytest.mark.parametrize(
    ("known", "change"),
    [
        (Known("1", "A", imported=False, imported_name=None, changed_at=None), "new"),
        (Known("1", "A", imported=True, imported_name="A", changed_at=None), None),
        (Known("1", "A", imported=True, imported_name="B", changed_at=None), "renamed"),
        (Known("1", "A\nB", imported=True, imported_name="A B", changed_at=None), None),
        (Known("1", "A\nB", imported=True, imported_name="A\nB", changed_at=None), None),
        (Known("1", "A" * 300, imported=True, imported_name="A" * 255 + "…", changed_at=None), None),
        (Known("1", "A", True, "A", None, (("a b",), ("a b", "c")), ("a%20b", "c")), None),
        (Known("1", "A", True, "A", None, (("a b",), ("a b", "c")), ("a%20b",)), "new group key"),
        (Known("1", "A", True, "A", None, (("a",),), None), None),
        (Known("1", "A", True, "A", START), "changed"),
    ],
)
def test_a_record_needs_an_import_when_it_differs_from_its_last_one(known: Known, change: str | None) -> None:
    found = change_of("meters", known)
    assert (found.what if found else None) == change
    assert found is None or isinstance(found, Change)


def silent(world: World) -> None:
    """From now on Metronome keeps no audit log that this token may read: only what runs store is left."""
    world.metronome.set(denied_endpoints=["GET /v1/auditLogs"])


def read(world: World) -> None:
    """What every usage run begins with: it reads customers and metrics."""
    source = [dg.AssetKey(["metronome", "customers"]), dg.AssetKey(["metronome", "billable_metrics"])]
    job = world.definitions().resolve_job_def("import_everything")
    assert job.execute_in_process(instance=world.instance, asset_selection=source).success
