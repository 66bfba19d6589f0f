"""A Solvimon account in the sandbox, as these tests see it: plain HTTP over a real socket. Not here: any test."""

import uuid
from collections.abc import Sequence
from typing import Any

import httpx

Json = dict[str, Any]

NOW = "2026-11-22T06:10:03Z"
"""The time in every account, unless a test sets another one."""


class Account:
    """One store of the sandbox with a client of its own. Nothing in it is shared with another test."""

    def __init__(self, url: str, **settings: object) -> None:
        self.key = f"key-{uuid.uuid4().hex}"
        self.http = httpx.Client(base_url=url, headers={"X-API-KEY": self.key}, timeout=10)
        answer = self.http.put("/_sandbox/store", json={"settings": {"now": NOW, **settings}})
        assert answer.status_code == 201, answer.text

    def set(self, **knobs: object) -> None:
        """Change knobs."""
        answer = self.http.patch("/_sandbox/settings", json=knobs)
        assert answer.status_code == 200, answer.text

    def faults(self, *rules: Json) -> None:
        """Play faults."""
        assert self.http.put("/_sandbox/faults", json={"seed": 7, "rules": list(rules)}).status_code == 200

    def get(self, path: str, **query: Any) -> Json:
        """The body of a successful read."""
        answer = self.http.get(path, params=query or None)
        assert answer.status_code == 200, answer.text
        body: Json = answer.json()
        return body

    def make(self, path: str, body: Json) -> Json:
        """The body of a successful create."""
        answer = self.http.post(f"/v1/{path}", json=body)
        assert answer.status_code == 201, answer.text
        made: Json = answer.json()
        return made

    def act(self, path: str, body: Json | None = None) -> Json:
        """The body of a successful action."""
        answer = self.http.post(f"/v1/{path}", json=body)
        assert answer.status_code == 200, answer.text
        acted: Json = answer.json()
        return acted

    def customer(self, reference: str = "customer-1", status: str | None = "ACTIVE") -> Json:
        """A customer."""
        body = {"type": "ORGANIZATION", "reference": reference, "organization": {"legal_name": reference}}
        return self.make("customers", body if status is None else {**body, "status": status})

    def value(self, reference: str = "meter-1_value", *, kind: str = "NUMBER", status: str = "ACTIVE") -> Json:
        """A meter value."""
        return self.make("meter-values", {"reference": reference, "name": "Value", "type": kind, "status": status})

    def property(self, reference: str = "region", kind: str = "STRING", **fields: object) -> Json:
        """A meter property."""
        body = {"reference": reference, "name": reference, "type": kind, "status": "ACTIVE", **fields}
        return self.make("meter-properties", body)

    def meter(
        self,
        reference: str = "meter-1",
        *,
        properties: Sequence[Json] = (),
        required: bool = False,
        kind: str = "NUMBER",
        calculation: str | None = "SUM",
        status: str = "ACTIVE",
    ) -> Json:
        """A meter with its own value and calculation."""
        value = self.value(f"{reference}_value", kind=kind)
        meter = self.make(
            "meters",
            {
                "reference": reference,
                "name": reference,
                "status": status,
                "meter_values": [{"id": value["id"], "required": True}],
                "meter_properties": [{"id": one["id"], "required": required} for one in properties],
            },
        )
        if calculation is not None:
            self.calculation(meter, calculation)
        return meter

    def calculation(self, meter: Json, kind: str = "SUM", **fields: object) -> Json:
        """A meter value calculation."""
        body = {
            "reference": f"{meter['reference']}_{kind.lower()}",
            "calculation_type": kind,
            "meter_id": meter["id"],
            "meter_value_id": meter["meter_values"][0]["id"],
        }
        return self.make("meter-value-calculations", {**body, **fields})

    def ready(self) -> "Account":
        """With one customer and one meter, ready for events."""
        self.customer()
        self.meter()
        return self

    def ingest(self, *events: Json, path: str = "/v1/events/ingest-batch", key: str = "meter_datas") -> httpx.Response:
        """Send a batch."""
        return self.http.post(path, json={key: list(events)})

    def taken(self, *events: Json) -> list[Json]:
        """The echoed events of a batch that must be taken."""
        answer = self.ingest(*events)
        assert answer.status_code == 201, answer.text
        echoed: list[Json] = answer.json()["meter_datas"]
        return echoed

    def events(self, **query: Any) -> list[Json]:
        """One page of the events that Solvimon shows."""
        rows: list[Json] = self.get("/v1/events", **query)["data"]
        return rows

    def truth(self, **query: Any) -> list[Json]:
        """What Solvimon counts."""
        rows: list[Json] = self.get("/_sandbox/truth", **query)["rows"]
        return rows

    def counted(self) -> str:
        """The sum over everything that counts, for tests with one row."""
        return ",".join(row["sum"] for row in self.truth())


def event(reference: str = "event-00001", number: object = "1", **fields: object) -> Json:
    """An event of the customer and meter of :meth:`Account.ready`."""
    return {
        "reference": reference,
        "customer_reference": "customer-1",
        "meter_reference": "meter-1",
        "timestamp": "2026-11-22T05:00:00Z",
        "meter_values": [{"reference": "meter-1_value", "number": number}],
        **fields,
    }


def of_region(region: object, **fields: object) -> Json:
    """An event with the property ``region``."""
    return event(meter_properties=[{"reference": "region", "value": region}], **fields)  # type: ignore[arg-type]


def refusal(answer: httpx.Response, status: int, code: str, field: str | None = None) -> Json:
    """The body of a refusal, which must be of this status, code and field."""
    body: Json = answer.json()
    assert (answer.status_code, body["code"], body.get("field")) == (status, code, field), answer.text
    assert body["type"] in {"INVALID_REQUEST", "API_ERROR"}
    assert body["message"]
    return body
