"""A Metronome account in the sandbox, as these tests see it: plain HTTP over a real socket. Not here: any test."""

import json
import uuid
from decimal import Decimal
from typing import Any

import httpx

Json = dict[str, Any]

NOW = "2025-03-10T12:30:00Z"
"""The time in every account, unless a test sets another one."""

DAY = {"starting_on": "2025-03-10T00:00:00Z", "ending_before": "2025-03-11T00:00:00Z"}
"""The bounds of the day that the account's time is in."""


class Account:
    """One store of the sandbox with a client of its own. Nothing in it is shared with another test."""

    def __init__(self, url: str, **settings: object) -> None:
        self.url = url
        self.token = f"token-{uuid.uuid4().hex}"
        self.http = httpx.Client(base_url=url, headers={"Authorization": f"Bearer {self.token}"}, timeout=30)
        knobs = {"now": NOW, "rate_limit": None, **settings}
        answer = self.http.put("/_sandbox/store", json={"settings": knobs})
        assert answer.status_code == 201, answer.text

    def set(self, **knobs: object) -> None:
        """Change knobs."""
        answer = self.http.patch("/_sandbox/settings", json=knobs)
        assert answer.status_code == 200, answer.text

    def faults(self, *rules: Json) -> None:
        """Play faults."""
        assert self.http.put("/_sandbox/faults", json={"seed": 7, "rules": list(rules)}).status_code == 200

    def get(self, path: str, **query: Any) -> Any:
        """The body of a successful read, fractions as ``Decimal``."""
        answer = self.http.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.text, parse_float=Decimal)

    def post(self, path: str, body: object = None, **query: Any) -> Any:
        """The body of a successful POST, fractions as ``Decimal``; ``None`` when it is empty."""
        answer = self.http.post(path, json=body, params=query)
        assert answer.status_code == 200, answer.text
        return json.loads(answer.text, parse_float=Decimal) if answer.content else None

    def refused(self, status: int, path: str, body: object = None, **query: Any) -> str:
        """The message of a POST that is refused with this status."""
        answer = self.http.post(path, json=body, params=query)
        assert answer.status_code == status, answer.text
        assert set(answer.json()) == {"message"}
        return str(answer.json()["message"])

    def put(self, kind: str, **fields: object) -> str:
        """An object with given fields (``customers``, ``billable-metrics``, ``products``); its id."""
        answer = self.http.post(f"/_sandbox/{kind}", json=fields)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["data"][0]["id"])

    def customer(self, *aliases: str, **fields: object) -> str:
        """A customer with aliases; its id."""
        return self.put("customers", ingest_aliases=list(aliases), **fields)

    def metric(self, aggregation: str = "SUM", **fields: object) -> str:
        """A metric over the property ``n`` that can be grouped by region, and by region and team; its id."""
        usual = {"group_keys": [["region"], ["region", "team"]]}
        keyed = {} if aggregation == "COUNT" else {"aggregation_key": "n"}
        return self.put("billable-metrics", **{"aggregation_type": aggregation, **keyed, **usual, **fields})

    def event(self, sent_for: str, timestamp: str = "2025-03-10T07:15:00Z", **fields: object) -> str:
        """One event with the other fields as properties, of any age; its transaction id."""
        transaction_id = str(fields.pop("transaction_id", uuid.uuid4()))
        outer = {name: fields.pop(name) for name in ("received_at",) if name in fields}
        event = {
            "transaction_id": transaction_id,
            "customer_id": sent_for,
            "event_type": fields.pop("event_type", "use"),
            "timestamp": timestamp,
            "properties": fields,
            **outer,
        }
        answer = self.http.post("/_sandbox/events", json=[event])
        assert answer.status_code == 200, answer.text
        return transaction_id

    def usage(self, size: str = "DAY", **body: object) -> list[Json]:
        """All rows of ``/v1/usage``, of the account's day unless told otherwise."""
        return self.walk("/v1/usage", {**DAY, "window_size": size, **body})

    def groups(self, customer: str, metric: str, size: str = "DAY", limit: int = 100, **body: object) -> list[Json]:
        """All rows of ``/v1/usage/groups``, of the account's day unless told otherwise."""
        whom = {"customer_id": customer, "billable_metric_id": metric}
        return self.walk("/v1/usage/groups", {**DAY, "window_size": size, **whom, **body}, limit=limit)

    def walk(self, path: str, body: object, **query: Any) -> list[Json]:
        """All rows of a POST read, to the null cursor."""
        rows: list[Json] = []
        for page in self.pages(path, body, **query):
            rows += page
        return rows

    def pages(self, path: str, body: object, **query: Any) -> list[list[Json]]:
        """The pages of a POST read, to the null cursor."""
        pages: list[list[Json]] = []
        cursor: str | None = None
        while cursor is not None or not pages:
            answer = self.post(path, body, **query, **({"next_page": cursor} if cursor else {}))
            pages.append(answer["data"])
            cursor = answer["next_page"]
            assert len(pages) < 5000, "The walk does not end."
        return pages

    def value(self, **body: object) -> Decimal | int | None:
        """The value of the one row that the day's usage has."""
        (row,) = self.usage("DAY", **body)
        value: Decimal | int | None = row["value"]
        return value

    def truth(self, **query: str) -> list[Json]:
        """The rows of the control total by hour."""
        rows: list[Json] = self.get("/_sandbox/truth", **query)["rows"]
        return rows
