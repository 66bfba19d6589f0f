"""Customers, billable metrics, products and the audit log of the Metronome half."""

import uuid
from collections.abc import Iterator

import pytest

from metronome_pipeline.sandbox.metronome import create_app
from metronome_pipeline.sandbox.server import serve
from metronome_pipeline_tests.sandbox.metronome_account import Account, Json

UNKNOWN = "00000000-0000-4000-8000-000000000000"
PRODUCTS = "/v1/contract-pricing/products"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with serve(create_app()) as url:
        yield url


@pytest.fixture
def account(url: str) -> Account:
    return Account(url)


def names(account: Account, **query: object) -> list[str]:
    return [customer["name"] for customer in account.get("/v1/customers", limit=100, **query)["data"]]


def test_create_answers_the_small_customer_and_reads_the_whole_one(account: Account) -> None:
    body = {"name": "Acme", "ingest_aliases": ["acme", "acme"], "custom_fields": {"k": "v"}}
    small = account.post("/v1/customers", body)["data"]
    assert small == {
        "id": small["id"],
        "external_id": "acme",
        "ingest_aliases": ["acme"],
        "name": "Acme",
        "custom_fields": {"k": "v"},
    }
    detail = account.get(f"/v1/customers/{small['id']}")["data"]
    assert detail == {
        **small,
        "customer_config": {"salesforce_account_id": None},
        "created_at": "2025-03-10T12:30:00.000Z",
        "updated_at": "2025-03-10T12:30:00.000Z",
        "archived_at": None,
    }
    assert account.get("/v1/customers")["data"] == [detail]


def test_a_customer_without_alias_has_its_id_as_external_id_and_a_name_ends_at_160(account: Account) -> None:
    small = account.post("/v1/customers", {"name": "n" * 200})["data"]
    assert (small["external_id"], len(small["name"])) == (small["id"], 160)


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"name": ""},
        {"name": 3},
        {"name": "n", "ingest_aliases": "a"},
        {"name": "n", "ingest_aliases": [""]},
        {"name": "n", "ingest_aliases": ["a" * 129]},
        {"name": "n", "ingest_aliases": ["a"] * 2001},
        {"name": "n", "custom_fields": {"k": 1}},
        {"name": "n", "custom_fields": {"k": "v" * 201}},
    ],
)
def test_a_customer_that_is_not_well_formed_is_refused(account: Account, body: Json) -> None:
    account.refused(400, "/v1/customers", body)
    assert names(account) == []


def test_an_alias_in_use_is_a_conflict_also_when_its_owner_is_archived(account: Account) -> None:
    one = account.post("/v1/customers", {"name": "One", "ingest_aliases": ["a"]})["data"]["id"]
    account.refused(409, "/v1/customers", {"name": "Two", "ingest_aliases": ["a"]})
    two = account.post("/v1/customers", {"name": "Two"})["data"]["id"]
    account.post("/v1/customers/archive", {"id": one})
    account.refused(409, f"/v1/customers/{two}/setIngestAliases", {"ingest_aliases": ["a"]})
    account.post(f"/v1/customers/{one}/setIngestAliases", {"ingest_aliases": ["b"]})
    account.post(f"/v1/customers/{two}/setIngestAliases", {"ingest_aliases": ["a", "c"]})
    account.post(f"/v1/customers/{two}/setIngestAliases", {"ingest_aliases": ["c"]})
    assert account.get(f"/v1/customers/{two}")["data"]["ingest_aliases"] == ["c"]


def test_the_list_shows_active_customers_or_archived_ones_instead(account: Account) -> None:
    for name in ("One", "Two", "Three"):
        account.customer(name=name)
    archived = account.customer("gone", name="Gone")
    account.post("/v1/customers/archive", {"id": archived})
    assert names(account) == ["One", "Two", "Three"]
    assert names(account, only_archived="true") == ["Gone"]
    assert names(account, only_archived="false") == ["One", "Two", "Three"]
    assert account.get(f"/v1/customers/{archived}")["data"]["archived_at"] == "2025-03-10T12:30:00.000Z"
    assert account.http.get("/v1/customers", params={"only_archived": "maybe"}).status_code == 400
    account.refused(400, "/v1/customers/archive", {"id": archived})
    account.refused(404, "/v1/customers/archive", {"id": UNKNOWN})


def test_the_list_filters_by_alias_ids_and_salesforce_account(account: Account) -> None:
    one = account.customer("a", name="One", customer_config={"salesforce_account_id": "sf"})
    two, _ = account.customer(name="Two"), account.customer(name="Three")
    assert names(account, ingest_alias="a") == ["One"]
    assert names(account, salesforce_account_ids="sf") == ["One"]
    assert names(account, customer_ids=f"{one},{two}") == ["One", "Two"]
    assert names(account, customer_ids=[one, two]) == ["One", "Two"]
    assert account.http.get("/v1/customers", params={"customer_ids": ["x"] * 101}).status_code == 400


@pytest.mark.parametrize("path", ["customers", "billable-metrics"])
def test_lists_are_paged(account: Account, path: str) -> None:
    for number in range(25):
        account.put(path, name=f"n{number}")
    seen: list[str] = []
    sizes: list[int] = []
    cursor: str | None = ""
    while cursor is not None:
        page = account.get(f"/v1/{path}", limit=10, **({"next_page": cursor} if cursor else {}))
        seen += [one["name"] for one in page["data"]]
        sizes.append(len(page["data"]))
        cursor = page["next_page"]
    assert seen == [f"n{number}" for number in range(25)]
    assert sizes == [10, 10, 5]


def test_the_default_page_is_small_and_a_limit_over_100_is_refused_or_clamped(account: Account) -> None:
    for _ in range(120):
        account.customer()
    assert len(account.get("/v1/customers")["data"]) == 20
    account.set(default_limit=7)
    assert len(account.get("/v1/customers")["data"]) == 7
    for limit in (0, 101, "x", "-1", ""):
        assert account.http.get("/v1/customers", params={"limit": limit}).status_code == 400
    account.set(over_limit="clamp")
    assert len(account.get("/v1/customers", limit=101)["data"]) == 100


def test_a_customer_archived_between_two_pages_shifts_nothing(account: Account) -> None:
    ids = [account.customer(name=f"n{number}") for number in range(4)]
    first = account.get("/v1/customers", limit=2)
    account.post("/v1/customers/archive", {"id": ids[0]})
    second = account.get("/v1/customers", limit=2, next_page=first["next_page"])
    assert [one["name"] for one in second["data"]] == ["n2", "n3"]
    assert second["next_page"] is None


@pytest.mark.parametrize("path", ["/v1/customers", "/v1/billable-metrics"])
def test_an_unknown_id_is_404_and_what_is_no_uuid_404_or_400(account: Account, path: str) -> None:
    assert account.http.get(f"{path}/{UNKNOWN}").status_code == 404
    assert account.http.get(f"{path}/somebody").status_code == 404
    account.set(bad_uuid_status=400)
    assert account.http.get(f"{path}/{UNKNOWN}").status_code == 404
    assert account.http.get(f"{path}/somebody").status_code == 400


def test_a_rename_and_custom_fields_show_and_move_updated_at(account: Account) -> None:
    customer = account.customer(name="Old")
    account.set(now="2025-03-11T00:00:00Z")
    assert account.post(f"/v1/customers/{customer}/setName", {"name": "New"})["data"]["name"] == "New"
    values = {"entity": "customer", "entity_id": customer, "custom_fields": {"a": "1"}}
    account.post("/v1/customFields/setValues", values)
    account.post("/v1/customFields/setValues", {**values, "custom_fields": {"b": "2"}})
    detail = account.get(f"/v1/customers/{customer}")["data"]
    assert (detail["name"], detail["custom_fields"]) == ("New", {"a": "1", "b": "2"})
    assert (detail["created_at"], detail["updated_at"]) == ("2025-03-10T12:30:00.000Z", "2025-03-11T00:00:00.000Z")
    account.refused(404, "/v1/customFields/setValues", {**values, "entity_id": UNKNOWN})
    account.refused(400, "/v1/customFields/setValues", {**values, "entity": "planet"})


def test_given_fields_pass_as_they_are(account: Account) -> None:
    name = "Line\r\nbreak \u2028 \x00 名前 " + "x" * 400
    customer = account.put("customers", id=UNKNOWN, name=name, external_id="other", unheard_of={"x": [1, None]})
    detail = account.get(f"/v1/customers/{customer}")["data"]
    assert customer == UNKNOWN
    assert (detail["name"], detail["external_id"], detail["unheard_of"]) == (name, "other", {"x": [1, None]})
    account.http.post("/_sandbox/customers", content=b'{"id":"%s","name":"\\ud800"}' % UNKNOWN.encode())
    assert '"name":"\\ud800"' in account.http.get("/v1/customers").text
    assert len(names(account)) == 1


METRIC: Json = {
    "name": "Bytes",
    "aggregation_type": "SUM",
    "aggregation_key": "bytes",
    "event_type_filter": {"in_values": ["transfer"]},
    "property_filters": [{"name": "bytes", "exists": True}, {"name": "region", "in_values": ["EU"]}],
    "group_keys": [["region"]],
    "custom_fields": {"k": "v"},
}


def test_a_metric_reads_as_it_was_made_and_absent_fields_are_absent(account: Account) -> None:
    made = account.post("/v1/billable-metrics/create", METRIC)["data"]
    assert set(made) == {"id"}
    assert account.get(f"/v1/billable-metrics/{made['id']}")["data"] == {"id": made["id"], **METRIC}
    count = account.post("/v1/billable-metrics/create", {"name": "Calls", "aggregation_type": "Count"})["data"]["id"]
    assert account.get(f"/v1/billable-metrics/{count}")["data"] == {
        "id": count,
        "name": "Calls",
        "aggregation_type": "Count",
    }


@pytest.mark.parametrize(
    "change",
    [
        {"name": None},
        {"aggregation_type": "AVG"},
        {"aggregation_type": "sUM"},
        {"aggregation_key": None},
        {"aggregation_key": "other"},
        {"event_type_filter": {}},
        {"property_filters": "x"},
        {"property_filters": [{}]},
        {"group_keys": [["team"]]},
        {"group_keys": [[]]},
        {"group_keys": [["bytes", "team"]]},
        {"sql": "select 1"},
        {"custom_fields": ["k"]},
    ],
)
def test_a_metric_that_is_not_well_formed_is_refused(account: Account, change: Json) -> None:
    account.refused(400, "/v1/billable-metrics/create", {**METRIC, **change})


def test_archived_metrics_are_listed_beside_the_others_when_asked_for(account: Account) -> None:
    one, two = account.metric(name="One"), account.metric(name="Two")
    account.post("/v1/billable-metrics/archive", {"id": one})
    assert [metric["id"] for metric in account.get("/v1/billable-metrics")["data"]] == [two]
    both = account.get("/v1/billable-metrics", include_archived="true")["data"]
    assert [(metric["id"], "archived_at" in metric) for metric in both] == [(one, True), (two, False)]
    account.refused(400, "/v1/billable-metrics/archive", {"id": one})
    account.refused(404, "/v1/billable-metrics/archive", {"id": UNKNOWN})


def test_only_the_name_of_a_metric_can_be_changed(account: Account) -> None:
    metric = account.metric(name="Old")
    answer = account.http.put(f"/v1/billable-metrics/{metric}", json={"name": "New"})
    assert answer.json() == {"data": {"id": metric}}
    assert account.get(f"/v1/billable-metrics/{metric}")["data"]["name"] == "New"
    bad = {"name": "New", "aggregation_type": "MAX"}
    assert account.http.put(f"/v1/billable-metrics/{metric}", json=bad).status_code == 400
    assert account.http.put(f"/v1/billable-metrics/{UNKNOWN}", json={"name": "N"}).status_code == 404


def product(account: Account, **fields: object) -> str:
    made = account.post(f"{PRODUCTS}/create", {"name": "Product", "type": "SUBSCRIPTION", **fields})
    return str(made["data"]["id"])


def test_products_are_listed_by_archive_filter(account: Account) -> None:
    one, two = product(account, name="One"), product(account, name="Two")
    account.post(f"{PRODUCTS}/archive", {"product_id": one})

    def ids(body: object) -> list[str]:
        return [found["id"] for found in account.post(f"{PRODUCTS}/list", body, limit=100)["data"]]

    assert ids({}) == [two]
    assert ids(None) == [two]
    assert ids({"archive_filter": "NOT_ARCHIVED"}) == [two]
    assert ids({"archive_filter": "ARCHIVED"}) == [one]
    assert ids({"archive_filter": "ALL"}) == [one, two]
    account.refused(400, f"{PRODUCTS}/list", {"archive_filter": "SOME"})
    account.refused(400, f"{PRODUCTS}/archive", {"product_id": one})
    account.refused(400, f"{PRODUCTS}/update", {"product_id": one, "starting_at": "2025-03-01T00:00:00Z"})


def test_a_product_keeps_its_initial_state_and_its_current_one_follows_the_dates(account: Account) -> None:
    metric, other = account.metric(), account.metric()
    made = product(account, type="usage", billable_metric_id=metric, name="A", pricing_group_key=["region"])
    change = {"product_id": made}
    account.post(f"{PRODUCTS}/update", {**change, "starting_at": "2025-03-01T00:00:00Z", "name": "Past"})
    account.post(f"{PRODUCTS}/update", {**change, "starting_at": "2025-02-01T00:00:00Z", "name": "Older"})
    future = {"starting_at": "2025-03-11T00:00:00Z", "billable_metric_id": other}
    account.post(f"{PRODUCTS}/update", {**change, **future})
    seen = account.post(f"{PRODUCTS}/get", {"id": made})["data"]
    assert (seen["type"], seen["initial"]["name"], seen["current"]["name"]) == ("USAGE", "A", "Past")
    assert seen["current"]["billable_metric_id"] == metric
    assert seen["current"]["pricing_group_key"] == ["region"]
    assert [set(update) - {"created_at", "created_by"} for update in seen["updates"]] == [
        {"starting_at", "name"},
        {"starting_at", "name"},
        {"starting_at", "billable_metric_id"},
    ]
    account.set(now="2025-03-11T00:00:00Z")
    assert account.post(f"{PRODUCTS}/get", {"id": made})["data"]["current"]["billable_metric_id"] == other


def test_conversion_factors_keep_their_digits(account: Account) -> None:
    conversion = '{"conversion_factor":0.10000000000000000000001,"operation":"MULTIPLY"}'
    body = f'{{"name":"P","type":"FIXED","quantity_conversion":{conversion}}}'
    assert account.http.post(f"{PRODUCTS}/create", content=body).status_code == 200
    assert conversion in account.http.post(f"{PRODUCTS}/list", json={}).text


@pytest.mark.parametrize(
    "body",
    [
        {"type": "USAGE"},
        {"type": "USAGE", "billable_metric_id": UNKNOWN},
        {"type": "USAGE", "billable_metric_id": "x"},
        {"type": "Usage"},
        {"type": "OTHER"},
        {"type": None},
        {"name": ""},
    ],
)
def test_a_product_that_is_not_well_formed_is_refused(account: Account, body: Json) -> None:
    account.refused(400, f"{PRODUCTS}/create", {"name": "P", "type": "FIXED", **body})


@pytest.mark.parametrize("starting_at", [None, "2025-03-01", "2025-03-01T00:30:00Z"])
def test_an_update_starts_on_an_hour(account: Account, starting_at: str | None) -> None:
    account.refused(400, f"{PRODUCTS}/update", {"product_id": product(account), "starting_at": starting_at})


def test_unknown_products_are_404(account: Account) -> None:
    account.refused(404, f"{PRODUCTS}/get", {"id": UNKNOWN})
    account.refused(404, f"{PRODUCTS}/archive", {"product_id": UNKNOWN})
    account.refused(404, f"{PRODUCTS}/update", {"product_id": UNKNOWN, "starting_at": "2025-03-01T00:00:00Z"})


def test_a_product_can_be_given_whole(account: Account) -> None:
    made = account.put("products", type="COMPOSITE", initial={"name": "A"}, current={"name": "B"}, id=str(uuid.uuid4()))
    seen = account.post(f"{PRODUCTS}/get", {"id": made})["data"]
    assert (seen["initial"]["name"], seen["current"], seen["updates"]) == ("A", {"name": "B"}, [])
    old = {"name": "Old", "starting_at": "2024-01-01T00:00:00Z", "created_at": "2024-01-01T00:00:00Z"}
    made = account.put("products", initial={"name": "A"}, updates=[old])
    assert account.post(f"{PRODUCTS}/get", {"id": made})["data"]["current"]["name"] == "Old"


def test_the_audit_log_tells_changes_and_its_cursor_never_ends(account: Account) -> None:
    customer = account.post("/v1/customers", {"name": "A"})["data"]["id"]
    account.post(f"/v1/customers/{customer}/setName", {"name": "B"})
    page = account.get("/v1/auditLogs", limit=1)
    assert (page["data"][0]["action"], page["data"][0]["resource_id"]) == ("create", customer)
    assert {"id", "timestamp", "request"} <= set(page["data"][0])
    page = account.get("/v1/auditLogs", limit=1, next_page=page["next_page"])
    assert [row["action"] for row in page["data"]] == ["set_name"]
    page = account.get("/v1/auditLogs", next_page=page["next_page"])
    assert page["data"] == []
    account.post("/v1/customers/archive", {"id": customer})
    page = account.get("/v1/auditLogs", next_page=page["next_page"])
    assert [row["action"] for row in page["data"]] == ["archive"]
    assert page["next_page"]


def test_the_audit_log_filters_and_refuses_bounds_with_a_cursor(account: Account) -> None:
    customer = account.post("/v1/customers", {"name": "A"})["data"]["id"]
    account.set(now="2025-03-11T00:00:00Z")
    account.post(f"/v1/customers/{customer}/setName", {"name": "B"})
    account.post("/v1/customers", {"name": "C"})

    def actions(**query: str) -> list[str]:
        return [row["action"] for row in account.get("/v1/auditLogs", **query)["data"]]

    assert actions(starting_on="2025-03-11T00:00:00Z") == ["set_name", "create"]
    assert actions(ending_before="2025-03-11T00:00:00Z") == ["create"]
    assert actions(sort="date_desc", resource_type="customer", resource_id=customer) == ["set_name", "create"]
    cursor = account.get("/v1/auditLogs")["next_page"]
    for query in (
        {"next_page": cursor, "starting_on": "2025-03-11T00:00:00Z"},
        {"next_page": "x"},
        {"next_page": "W10="},
        {"resource_type": "customer"},
        {"sort": "up"},
        {"starting_on": "today"},
    ):
        assert account.http.get("/v1/auditLogs", params=query).status_code == 400


def test_a_metric_of_the_older_kind_is_shown_and_has_no_usage(account: Account) -> None:
    body = {"name": "Old", "aggregate": "Count", "filter": {"type": "object"}, "group_keys": ["region"]}
    metric = account.post("/v1/billable-metrics", body)["data"]["id"]
    shown = {"id": metric, "name": "Old", "aggregation_type": "Count", "group_keys": [["region"]]}
    assert account.get(f"/v1/billable-metrics/{metric}")["data"] == shown
    customer = account.customer("a")
    account.event("a", region="eu")
    assert account.value(customer_ids=[customer], billable_metrics=[{"id": metric}]) is None
    assert account.groups(customer, metric, group_key=["region"]) == []
    assert account.truth() == []


@pytest.mark.parametrize(
    "body",
    [
        {"aggregate": "COUNT", "filter": {}},
        {"name": "n", "aggregate": "MEAN", "filter": {}},
        {"name": "n", "aggregate": "COUNT"},
        {"name": "n", "aggregate": "SUM", "filter": {}, "aggregate_key": 3},
        {"name": "n", "aggregate": "SUM", "filter": {}, "group_keys": [["region"]]},
    ],
)
def test_a_metric_of_the_older_kind_that_is_not_well_formed_is_refused(account: Account, body: Json) -> None:
    account.refused(400, "/v1/billable-metrics", body)
