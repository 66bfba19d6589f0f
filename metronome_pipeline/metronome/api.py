"""Metronome's API, a method per endpoint in scope.

Here: reads: paths, bodies, and walks from the first page to the last. Not here: writes (``writing.py``), retries and
pacing (``http.py``), how a body is read (``reading.py``), Solvimon, Dagster.

No request carries an Idempotency-Key: for 24 hours it would replay yesterday's usage, or a stored 500.
"""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import Literal, TypeVar
from urllib.parse import quote

import msgspec

from metronome_pipeline.errors import CursorRepeated, Malformed
from metronome_pipeline.http import Http
from metronome_pipeline.metronome.reading import read_events, read_grouped_usage, read_list, read_one, read_usage
from metronome_pipeline.metronome.records import (
    AuditLog,
    BillableMetric,
    Bounds,
    Customer,
    GroupedUsagePage,
    Page,
    Product,
    SearchedEvent,
    Usage,
    WindowSize,
)
from metronome_pipeline.metronome.writing import WriteCalls
from metronome_pipeline.wire import NotAsPromised

P = TypeVar("P")
R = TypeVar("R", Customer, BillableMetric, Product)

LARGEST_PAGE = "100"
MOST_PAGES = 1_000_000
"""Of any walk: groups of a week by hour are 100,000 an hour then."""
MOST_LIST_PAGES = 20_000
MOST_LIST_BYTES = 2 * 1024**3
"""Of a list of customers, metrics or products, which is kept in memory: 2,000,000 records of a kilobyte. An account
with more could not be read anyway: at 8 requests a second, one request for each customer takes three days."""
MOST_IDLE_PAGES = 1_000
"""Pages in a row that bring nothing new, of a walk that says that there is more."""
_LONGEST_CURSOR = 16 * 1024
MOST_FILTER_VALUES = 200


class MetronomeApi(WriteCalls):
    """One session's typed client. Every list is walked to a null cursor, past empty pages."""

    def __init__(self, http: Http, *, most_pages: int = MOST_PAGES) -> None:
        super().__init__(http)
        self._most_pages = most_pages

    def customers(self, *, archived: bool) -> AsyncIterator[Page[Customer]]:
        """Every active customer, or every archived one: the endpoint has no "both" (its notes, section 2).

        Walk the active ones first: a customer archived between the two walks is then in both, and not in neither.
        """
        params = {"limit": LARGEST_PAGE, **({"only_archived": "true"} if archived else {})}
        return self._list("GET", "/v1/customers", Customer, params)

    async def customer(self, customer_id: str) -> Customer:
        """One customer, archived or not. ``Refused`` with status 404 when this environment has none."""
        decode = partial(read_one, Customer, record_id=customer_id)
        return await self.http.send(
            "GET /v1/customers/{id}", "GET", f"/v1/customers/{quote(customer_id, safe='')}", decode=decode
        )

    def billable_metrics(self) -> AsyncIterator[Page[BillableMetric]]:
        """Every billable metric, archived ones too: a live product may still meter by one."""
        params = {"limit": LARGEST_PAGE, "include_archived": "true"}
        return self._list("GET", "/v1/billable-metrics", BillableMetric, params)

    async def billable_metric(self, metric_id: str) -> BillableMetric:
        """One billable metric. ``Refused`` with status 404 when this environment has none."""
        decode = partial(read_one, BillableMetric, record_id=metric_id)
        path = f"/v1/billable-metrics/{quote(metric_id, safe='')}"
        return await self.http.send("GET /v1/billable-metrics/{id}", "GET", path, decode=decode)

    def products(self) -> AsyncIterator[Page[Product]]:
        """Every product, archived ones too: rate cards keep using them."""
        body = msgspec.json.encode({"archive_filter": "ALL"})
        path = "/v1/contract-pricing/products/list"
        return self._list("POST", path, Product, {"limit": LARGEST_PAGE}, body)

    async def product(self, product_id: str) -> Product:
        """One product. ``Refused`` with status 404 when this environment has none."""
        path = "/v1/contract-pricing/products/get"
        body = msgspec.json.encode({"id": product_id})
        decode = partial(read_one, Product, record_id=product_id)
        return await self.http.send(f"POST {path}", "POST", path, body=body, decode=decode)

    def usage(
        self,
        *,
        customer_id: str,
        metric_ids: Sequence[str],
        starting_on: datetime,
        ending_before: datetime,
        window_size: WindowSize = "HOUR",
    ) -> AsyncIterator[list[Usage]]:
        """Usage by window, page by page as it comes: by metric, then by time.

        The ids are always sent: whether archived customers and metrics are included without them is not stated. The
        endpoint rejects ``limit``. A window may be absent, null or 0.

        Raises:
            ValueError: A bound is not a UTC midnight, or no metric is named.
        """
        bounds = Bounds(starting_on, ending_before, window_size)
        if not metric_ids:
            raise ValueError("metric_ids names one metric at least: an empty list might ask for all.")
        body = {
            **_bounds(bounds),
            "customer_ids": [customer_id],
            "billable_metrics": [{"id": metric_id} for metric_id in metric_ids],
        }
        decode = partial(read_usage, bounds=bounds, customer_id=customer_id, metric_ids=frozenset(metric_ids))
        # A page that is not empty holds one of the windows that were asked for at least.
        most = MOST_IDLE_PAGES + len(metric_ids) * bounds.windows
        return self._walk("POST", "/v1/usage", decode, {}, msgspec.json.encode(body), is_new=bool, most_pages=most)

    def grouped_usage(
        self,
        *,
        customer_id: str,
        metric_id: str,
        group_key: Sequence[str],
        starting_on: datetime,
        ending_before: datetime,
        window_size: WindowSize = "HOUR",
        group_filters: Mapping[str, Sequence[str]] | None = None,
    ) -> AsyncIterator[GroupedUsagePage]:
        """Usage by window and group of one customer and metric.

        ``group_key`` is exactly one of the metric's group keys: parts of a compound key are rejected. Compound reads
        have been seen to be cut short in production: compare the sum of the groups with the ungrouped value.

        Raises:
            ValueError: A bound is not a UTC midnight, no key is named, a filter is not on a key, or over 200 values.
        """
        bounds = Bounds(starting_on, ending_before, window_size)
        filters = {key: list(values) for key, values in (group_filters or {}).items()}
        if not group_key:
            raise ValueError("group_key names one key at least.")
        if not set(filters) <= set(group_key):
            raise ValueError(f"group_filters are on keys of group_key only: {sorted(set(filters) - set(group_key))}.")
        if sum(map(len, filters.values())) > MOST_FILTER_VALUES:
            raise ValueError(f"group_filters hold at most {MOST_FILTER_VALUES} values altogether.")
        body = {
            **_bounds(bounds),
            "customer_id": customer_id,
            "billable_metric_id": metric_id,
            "group_key": list(group_key),
            **({"group_filters": filters} if filters else {}),
        }
        decode = partial(read_grouped_usage, bounds=bounds, group_key=tuple(group_key))
        encoded = msgspec.json.encode(body)
        return self._walk(
            "POST",
            "/v1/usage/groups",
            decode,
            {"limit": LARGEST_PAGE},
            encoded,
            is_new=lambda page: bool(page.rows or page.refused),
        )

    async def search_events(self, transaction_ids: Sequence[str]) -> tuple[SearchedEvent, ...]:
        """Raw events by transaction id, of the last 34 days. Heavily rate limited: for finding faults, not for work."""
        body = msgspec.json.encode({"transactionIds": list(transaction_ids)})
        path = "/v1/events/search"
        return await self.http.send(f"POST {path}", "POST", path, body=body, decode=read_events)

    async def audit_logs(
        self,
        *,
        starting_on: datetime | None = None,
        ending_before: datetime | None = None,
        sort: Literal["date_asc", "date_desc"] = "date_asc",
        next_page: str | None = None,
    ) -> AsyncIterator[tuple[Page[AuditLog], str | None]]:
        """The audit log, page by page, each with the cursor to go on from at another time.

        Its cursor is never null: the walk ends at the first empty page. A cursor and bounds cannot be combined.
        """
        params = {"limit": LARGEST_PAGE, "sort": sort}
        bounds = {"starting_on": starting_on, "ending_before": ending_before}
        first = {name: _instant(bound) for name, bound in bounds.items() if bound is not None}
        if first and next_page is not None:
            raise ValueError("next_page cannot be combined with starting_on or ending_before.")
        endpoint, cursor, seen = "GET /v1/auditLogs", next_page, {next_page}
        for _ in range(self._most_pages):
            asked = {**params, **({"next_page": cursor} if cursor else first)}
            page, cursor = await self.http.send(
                endpoint, "GET", "/v1/auditLogs", params=asked, decode=partial(read_list, AuditLog)
            )
            yield page, cursor
            if cursor is None or not (page.records or page.refused):
                return
            if cursor in seen:
                raise self._repeated(endpoint)
            seen.add(cursor)
        raise self._incomplete(endpoint, f"has more than {self._most_pages:,} pages")

    def _list(
        self, method: str, path: str, kind: type[R], params: Mapping[str, str], body: bytes | None = None
    ) -> AsyncIterator[Page[R]]:
        """Every page of a list of records, none of them larger altogether than memory should hold."""
        ids: set[str] = set()
        room = MOST_LIST_BYTES

        def decode(content: bytes) -> tuple[Page[R], str | None]:
            nonlocal room
            room -= len(content)
            if room < 0:
                raise NotAsPromised("data", f"is over {MOST_LIST_BYTES:,} bytes long, all pages together")
            return read_list(kind, content)

        def is_new(page: Page[R]) -> bool:
            before = len(ids)
            ids.update(record.id for record in page.records)
            ids.update(refusal.record_id for refusal in page.refused)
            return len(ids) > before

        return self._walk(method, path, decode, params, body, is_new=is_new, most_pages=MOST_LIST_PAGES)

    async def _walk(
        self,
        method: str,
        path: str,
        decode: Callable[[bytes], tuple[P, str | None]],
        params: Mapping[str, str],
        body: bytes | None = None,
        *,
        is_new: Callable[[P], bool],
        most_pages: int = MOST_PAGES,
    ) -> AsyncIterator[P]:
        """Every page of a list. The cursor goes into the query, also of a POST; the body is sent again unchanged.

        A list without end fails in the end, and soon when its pages bring nothing new: it is never cut short.
        """
        endpoint, cursor, idle = f"{method} {path}", None, 0
        seen: set[str] = set()
        most = min(most_pages, self._most_pages)
        for _ in range(most):
            asked = {**params, **({"next_page": cursor} if cursor else {})}
            page, cursor = await self.http.send(endpoint, method, path, params=asked, body=body, decode=decode)
            idle = 0 if is_new(page) else idle + 1
            yield page
            if cursor is None:
                return
            if cursor in seen:
                raise self._repeated(endpoint)
            if len(cursor) > _LONGEST_CURSOR:
                raise self._incomplete(endpoint, f"gave a cursor of over {_LONGEST_CURSOR:,} characters")
            if idle >= MOST_IDLE_PAGES:
                raise self._incomplete(endpoint, f"gave {idle:,} pages in a row with nothing new")
            seen.add(cursor)
        raise self._incomplete(endpoint, f"has more than {most:,} pages")

    def _repeated(self, endpoint: str) -> CursorRepeated:
        sentence = f"Metronome's {endpoint} came back to a page that it had already given: the walk is not complete."
        return CursorRepeated(f"{sentence} Run it again.", system="Metronome", endpoint=endpoint, field="next_page")

    def _incomplete(self, endpoint: str, why: str) -> Malformed:
        sentence = f"Metronome's {endpoint} {why}: the walk is not complete."
        return Malformed(sentence, system="Metronome", endpoint=endpoint, field="next_page")


def _bounds(bounds: Bounds) -> dict[str, str]:
    return {
        "window_size": bounds.window_size,
        "starting_on": _instant(bounds.starting_on),
        "ending_before": _instant(bounds.ending_before),
    }


def _instant(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
