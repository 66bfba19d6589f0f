"""Solvimon as a rehearsal sees it: read for real, never written. A write is recorded, and answered as if it were done.

Here: what is asked, what is only recorded, and what a recorded write answers. Not here: who rehearses what
(``workflows/``). Whatever is not known to be a read is refused, so that no mistake of a rehearsal reaches Solvimon.
"""

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec

from metronome_pipeline.errors import AlreadyExists, PipelineError, Refused
from metronome_pipeline.http import Http, RequestCounts
from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.solvimon.calls import path_segment

T = TypeVar("T")
_Json = dict[str, Any]

_BORN_AS_DRAFT = ("/v1/products", "/v1/product-items")
_KNOWN_BY_ID_ONLY = "/v1/meter-value-calculations"
_READS = ("/v1/events/calculate",)
_ITEM = "/v1/product-items/"
_ITEMS_TOO = "align_product_item_status"
_ANY = msgspec.json.Decoder(dict[str, Any])


class NotRehearsed(PipelineError):
    """A write whose effect a rehearsal cannot foresee. It was not sent."""


@dataclass(frozen=True)
class Write:
    """A request that a run would send."""

    endpoint: str
    path: str


def rehearsed_solvimon(api: SolvimonApi) -> tuple[SolvimonApi, "RehearsedHttp"]:
    """The same client on a session that writes nothing, and that session."""
    session = RehearsedHttp(api.http)
    rehearsed = copy.copy(api)
    rehearsed.http = session
    return rehearsed, session


class RehearsedHttp(Http):
    """A session that writes nothing.

    Attributes:
        writes: What a run would send, in order.
        reads: Requests that a run would read with. Those that only a rehearsal makes are not among them.
    """

    def __init__(self, http: Http) -> None:
        # Not Http's own: requests travel through `http`.
        self.service = http.service
        self.writes: list[Write] = []
        self.reads = 0
        self._http = http
        self._made: dict[str, _Json] = {}
        self._activated_with_items: set[str] = set()

    @property
    def requests(self) -> int:
        """How many requests a run would make."""
        return self.reads + len(self.writes)

    def counts(self) -> RequestCounts:
        """What was really sent."""
        return self._http.counts()

    async def send(
        self,
        endpoint: str,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        decode: Callable[[bytes], T],
        replay: bool = True,
    ) -> T:
        """Sends a read, and answers a write from what it would make.

        Raises:
            AlreadyExists: What would be created stands in Solvimon under its reference.
            NotRehearsed: Neither.
        """
        if method == "GET" and (path in self._made or path.startswith(_ITEM)):
            self.reads += 1
            made = self._made.get(path)
            if made is None:
                made = await self._http.send(endpoint, method, path, decode=_ANY.decode)
            return decode(msgspec.json.encode(self._as_it_would_be(made)))
        if method == "GET" or (method == "POST" and (path.endswith("/search") or path in _READS)):
            self.reads += 1
            return await self._http.send(
                endpoint, method, path, params=params, body=body, headers=headers, decode=decode, replay=replay
            )
        self.writes.append(Write(endpoint, path))
        changed = await self._written(endpoint, method, path, params or {}, body)
        return decode(msgspec.json.encode(changed))

    async def _written(
        self, endpoint: str, method: str, path: str, params: Mapping[str, str], body: bytes | None
    ) -> _Json:
        match method, endpoint.count("/"):
            case "POST", 2 if body and not path.startswith("/v1/events"):
                return await self._create(endpoint, path, msgspec.json.decode(body))
            case "PATCH", 3 if body:
                change: _Json = msgspec.json.decode(body)
                return await self._change(path, change)
            case "POST", 4 if path.endswith("/activate"):
                resource = path.removesuffix("/activate")
                activated = await self._change(resource, {"status": "ACTIVE"})
                if params.get(_ITEMS_TOO) == "true":
                    self._activated_with_items.add(activated["id"])
                return activated
        raise NotRehearsed(f"What {endpoint} would do in Solvimon cannot be rehearsed. It was not sent.")

    async def _create(self, endpoint: str, collection: str, body: _Json) -> _Json:
        reference = str(body.get("reference"))
        resource = f"{collection}/{path_segment(reference)}"
        # Lists may hide drafts and what is archived: a run would learn of those when it creates them.
        if resource in self._made or (collection != _KNOWN_BY_ID_ONLY and await self._standing(resource, reference)):
            raise AlreadyExists(
                f"Solvimon has something with the reference {reference} already.",
                system="Solvimon",
                endpoint=endpoint,
                code="RESOURCE_ALREADY_EXISTS",
            )
        status = {"status": "DRAFT"} if collection in _BORN_AS_DRAFT else {}
        made = {**status, **body, "id": f"rehearsed_{len(self._made)}"}
        self._keep(collection, made)
        return made

    async def _change(self, resource: str, change: _Json) -> _Json:
        known = self._made.get(resource)
        if known is None:
            endpoint = f"GET {resource.rsplit('/', 1)[0]}/{{id}}"
            known = await self._http.send(endpoint, "GET", resource, decode=_ANY.decode)
        changed = {**known, **change}
        self._keep(resource.rsplit("/", 1)[0], changed)
        return changed

    async def _standing(self, resource: str, reference: str) -> bool:
        endpoint = f"GET {resource.rsplit('/', 1)[0]}/{{reference}}"
        try:
            found = await self._http.send(endpoint, "GET", resource, decode=_ANY.decode)
        except Refused as error:
            if error.code is None or not error.code.endswith("NOT_FOUND"):
                raise
            return False
        return found.get("reference") == reference

    def _keep(self, collection: str, resource: _Json) -> None:
        for name in (resource.get("id"), resource.get("reference")):
            if isinstance(name, str):
                self._made[f"{collection}/{path_segment(name)}"] = resource

    def _as_it_would_be(self, resource: _Json) -> _Json:
        """A product that was activated with its items has active ones."""
        if resource.get("product_id") in self._activated_with_items and resource.get("status") == "DRAFT":
            return {**resource, "status": "ACTIVE"}
        return resource
