"""The Metronome half, read by the vendor's own client over a real socket."""

from collections.abc import Iterator
from typing import Any

import metronome
import pytest
from metronome import Metronome

from metronome_pipeline.sandbox.metronome import create_app
from metronome_pipeline.sandbox.server import serve
from metronome_pipeline_tests.sandbox.metronome_account import Account

WEEK: Any = {"starting_on": "2025-03-03T00:00:00Z", "ending_before": "2025-03-11T00:00:00Z"}


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(create_app()) as url:
        yield url


@pytest.fixture
def account(url: str) -> Account:
    return Account(url)


@pytest.fixture
def client(account: Account) -> Metronome:
    return Metronome(bearer_token=account.token, base_url=account.url, max_retries=0)


def test_the_client_seeds_and_reads_customers_past_empty_pages(client: Metronome, account: Account) -> None:
    ids = [client.v1.customers.create(name=f"c{n}", ingest_aliases=[f"a{n}"]).data.id for n in range(25)]
    client.v1.customers.archive(id=ids[3])
    account.faults({"kind": "empty_page", "times": 1})
    assert [one.id for one in client.v1.customers.list(limit=10)] == ids[:3] + ids[4:]
    assert [one.id for one in client.v1.customers.list(only_archived=True)] == [ids[3]]
    assert [one.id for one in client.v1.customers.list(customer_ids=ids[:2])] == ids[:2]
    client.v1.customers.set_ingest_aliases(customer_id=ids[0], ingest_aliases=["moved"])
    client.v1.customers.set_name(customer_id=ids[0], name="renamed")
    detail = client.v1.customers.retrieve(customer_id=ids[0]).data
    assert (detail.name, detail.ingest_aliases, detail.external_id) == ("renamed", ["moved"], "moved")
    with pytest.raises(metronome.ConflictError):
        client.v1.customers.create(name="x", ingest_aliases=["moved"])
    with pytest.raises(metronome.NotFoundError):
        client.v1.customers.retrieve(customer_id="00000000-0000-4000-8000-000000000000")


def test_the_client_seeds_and_reads_metrics_and_products(client: Metronome) -> None:
    metric = client.v1.billable_metrics.create(
        name="m",
        aggregation_type="SUM",
        aggregation_key="n",
        property_filters=[{"name": "n", "exists": True}, {"name": "region", "exists": True}],
        group_keys=[["region"]],
    ).data.id
    client.v1.billable_metrics.update(billable_metric_id=metric, name="renamed")
    (listed,) = client.v1.billable_metrics.list()
    assert (listed.id, listed.name, listed.aggregation_type, listed.group_keys) == (
        metric,
        "renamed",
        "SUM",
        [["region"]],
    )
    products = client.v1.contracts.products
    usage = products.create(name="Usage", type="USAGE", billable_metric_id=metric).data.id
    other = products.create(name="Plan", type="SUBSCRIPTION").data.id
    products.update(product_id=usage, name="Usage 2", starting_at="2025-03-01T00:00:00Z")
    products.archive(product_id=other)
    assert [one.id for one in products.list()] == [usage]
    assert [one.id for one in products.list(archive_filter="ALL")] == [usage, other]
    seen = products.retrieve(id=usage).data
    assert (seen.initial.name, seen.current.name, seen.current.billable_metric_id) == ("Usage", "Usage 2", metric)


def test_the_client_ingests_and_reads_usage_over_many_pages(client: Metronome, account: Account) -> None:
    customers, metric = [account.customer("a"), account.customer("b")], account.metric()
    account.set(rows_per_page=50)
    client.v1.usage.ingest(
        usage=[
            {
                "transaction_id": f"t{n}",
                "customer_id": "ab"[n % 2],
                "event_type": "use",
                "timestamp": f"2025-03-{3 + n % 7:02d}T{n % 24:02d}:00:00Z",
                "properties": {"n": "0.5", "region": f"r{n % 3}"},
            }
            for n in range(100)
        ]
    )
    rows = list(
        client.v1.usage.list(window_size="HOUR", customer_ids=customers, billable_metrics=[{"id": metric}], **WEEK)
    )
    assert len(rows) == 2 * 192
    assert sum(row.value or 0 for row in rows) == 50
    (whole,) = client.v1.usage.list(window_size="NONE", customer_ids=customers[:1], **WEEK)
    assert (whole.value, whole.billable_metric_name) == (25, "Metric")
    with pytest.raises(metronome.BadRequestError):
        client.v1.usage.list(
            window_size="HOUR", starting_on="2025-03-03T01:00:00Z", ending_before="2025-03-11T00:00:00Z"
        )
    assert [one.transaction_id for one in client.v1.usage.search(transaction_ids=["t5"])] == ["t5"]


def test_the_client_reads_grouped_usage(client: Metronome, account: Account) -> None:
    customer, metric = account.customer(), account.metric()
    for n in range(12):
        account.event(customer, n="1.5", region=f"r{n % 4}", team=f"t{n % 3}")
    whom: Any = {"customer_id": customer, "billable_metric_id": metric}
    rows = list(
        client.v1.usage.list_with_groups(**whom, **WEEK, window_size="HOUR", group_key=["region", "team"], limit=5)
    )
    assert len(rows) == 12
    assert {(row.group or {})["region"] for row in rows} == {"r0", "r1", "r2", "r3"}
    assert sum(row.value or 0 for row in rows) == 18
    filtered = client.v1.usage.list_with_groups(
        **whom, **WEEK, window_size="DAY", group_key=["region"], group_filters={"region": ["r1"]}
    )
    assert [(row.group_value, row.value) for row in filtered] == [("r1", 4.5)]


def test_the_client_reads_the_audit_log_and_is_refused_without_a_token(client: Metronome, account: Account) -> None:
    made = client.v1.customers.create(name="c").data.id
    assert [row.resource_id for row in client.v1.audit_logs.list().data] == [made]
    with pytest.raises(metronome.AuthenticationError):
        Metronome(bearer_token="nobody", base_url=account.url).v1.customers.list()
