"""How every endpoint of Solvimon is called: looked up, created, changed, deleted, listed.

Here: references in paths, Idempotency-Keys, page numbers, what "not found" is. Not here: the endpoints themselves
(``customers.py``, ``meters.py``, ``catalogue.py``, ``events.py`` and their neighbours), retries (``http.py``).
"""

import random
import uuid
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote

import msgspec
from msgspec import Raw, Struct

from metronome_pipeline.errors import CursorRepeated, Malformed, Refused
from metronome_pipeline.http import Http
from metronome_pipeline.wire import NotAsPromised, decoded, visible

R = TypeVar("R")

PAGE_SIZE = 50
"""The documented default, so surely granted: a larger page might be cut without a word."""
MOST_PAGES = 1_000_000
_LONGEST_ID = 256

_NOT_FOUND = frozenset({"RESOURCE_NOT_FOUND", "RESOURCES_NOT_FOUND"})


class HasId(Protocol):
    """Anything that Solvimon stores."""

    @property
    def id(self) -> str:
        """Solvimon's id."""
        ...


class HasReference(HasId, Protocol):
    """Anything that can be looked up by a reference."""

    @property
    def reference(self) -> str | None:
        """Our key."""
        ...


Known = TypeVar("Known", bound=HasReference)
Stored = TypeVar("Stored", bound=HasId)


class Endpoint(Generic[R]):
    """A kind of resource: its collection's path, its ``object_type``, and how its JSON is read."""

    most_pages = 20_000
    """Of a list, which is kept in memory: a million customers."""

    def __init__(self, path: str, object_type: str, shape: type[R]) -> None:
        self.path = path
        self.object_type = object_type
        self._decoder: msgspec.json.Decoder[R] = msgspec.json.Decoder(shape)

    def read(self, content: bytes) -> R:
        """One resource."""
        record = decoded(self._decoder, visible(content))
        check_id(getattr(record, "id", None))
        return record

    def read_page(self, content: bytes) -> tuple[list[R], int | None]:
        """One page of a list, and how many pages there are where the API tells."""
        envelope = decoded(_PAGE, content)
        return [self.read_row(raw, f"data[{index}]") for index, raw in enumerate(envelope.data)], envelope.total

    def read_row(self, raw: Raw, place: str) -> R:
        """One resource within a larger body. The field of an error carries ``place``."""
        try:
            return self.read(bytes(raw))
        except msgspec.ValidationError as error:
            raise NotAsPromised(place, str(error)) from None
        except NotAsPromised as error:
            raise NotAsPromised(f"{place}.{error.field}", error.reason) from None


class _Page(Struct, frozen=True):
    data: list[Raw]
    total: int | None = msgspec.field(default=None, name="total_number_of_pages")


_PAGE = msgspec.json.Decoder(_Page)


class Calls:
    """What the endpoints have in common. ``new_idempotency_key`` is called once a create."""

    def __init__(self, http: Http, *, new_idempotency_key: Callable[[], str], most_pages: int = MOST_PAGES) -> None:
        self.http = http
        self._new_idempotency_key = new_idempotency_key
        self._most_pages = most_pages

    async def _find(self, kind: Endpoint[Known], reference: str) -> Known | None:
        """The resource with that reference; None when Solvimon says that there is none.

        Decided by the error's code, not by its status (its notes, C3). The path takes ids as well: what is found under
        another reference is not it.

        Raises:
            Refused: A 404 without a code is a wrong route, not a missing resource.
        """
        path = f"{kind.path}/{path_segment(reference)}"
        try:
            found = await self.http.send(f"GET {kind.path}/{{reference}}", "GET", path, decode=kind.read)
        except Refused as error:
            if not _says_there_is_none(error, kind.object_type):
                raise
            return None
        return found if found.reference == reference else None

    async def _get(self, kind: Endpoint[R], resource_id: str) -> R:
        path = f"{kind.path}/{path_segment(resource_id)}"
        return await self.http.send(f"GET {kind.path}/{{id}}", "GET", path, decode=kind.read)

    async def _create(self, kind: Endpoint[R], body: Struct) -> R:
        """Create one resource, under one random Idempotency-Key for all attempts.

        A key made from the content would replay a stale answer for 48 hours. ``AlreadyExists`` whose
        ``may_have_arrived`` is set is most likely this very create, answered late.
        """
        headers = {"Idempotency-Key": self._new_idempotency_key()}
        content = msgspec.json.encode(body)
        return await self.http.send(
            f"POST {kind.path}", "POST", kind.path, body=content, headers=headers, decode=kind.read
        )

    async def _update(self, kind: Endpoint[R], id_or_reference: str, change: Struct) -> R:
        """Patch one resource: repeating it changes nothing more, so it carries no Idempotency-Key."""
        path = f"{kind.path}/{path_segment(id_or_reference)}"
        content = msgspec.json.encode(change)
        return await self.http.send(f"PATCH {kind.path}/{{id}}", "PATCH", path, body=content, decode=kind.read)

    async def _upsert(self, kind: Endpoint[R], body: Struct) -> R:
        """Create the resource with the body's reference, or replace it whole.

        Without an Idempotency-Key, which is for POST: repeating it leaves the same resource. Answered with 201 both
        ways (its notes, 1.7). Whether fields that the body lacks are kept or cleared is not documented.
        """
        content = msgspec.json.encode(body)
        return await self.http.send(f"PUT {kind.path}", "PUT", kind.path, body=content, decode=kind.read)

    async def _act(
        self, kind: Endpoint[R], action: str, id_or_reference: str, params: Mapping[str, str] | None = None
    ) -> R:
        """Give one resource the status that ``action`` names. Without body; repeating it changes nothing more."""
        path = f"{kind.path}/{path_segment(id_or_reference)}/{action}"
        endpoint = f"POST {kind.path}/{{id}}/{action}"
        return await self.http.send(endpoint, "POST", path, params=params, decode=kind.read)

    async def _delete(
        self, kind: Endpoint[R], id_or_reference: str, params: Mapping[str, str] | None = None
    ) -> R | None:
        """Delete one resource; as it was, or None when Solvimon says that there is none.

        None is also what remains of a deletion whose first answer was lost: the repetition finds nothing.
        """
        path = f"{kind.path}/{path_segment(id_or_reference)}"
        try:
            return await self.http.send(f"DELETE {kind.path}/{{id}}", "DELETE", path, params=params, decode=kind.read)
        except Refused as error:
            if not _says_there_is_none(error, kind.object_type):
                raise
            return None

    def _list(self, kind: Endpoint[Stored], params: Mapping[str, str] | None = None) -> AsyncIterator[list[Stored]]:
        return self._walk(kind, "GET", kind.path, params or {}, None)

    def _search(self, kind: Endpoint[Stored], field: str, value: str) -> AsyncIterator[list[Stored]]:
        """Everything whose ``field`` is exactly ``value``."""
        exact = {"wildcard_start": False, "wildcard_end": False, "ignore_case": False}
        body = msgspec.json.encode({"search_fields": [{"name": field, "value": value, **exact}]})
        return self._walk(kind, "POST", f"{kind.path}/search", {}, body)

    async def _walk(
        self, kind: Endpoint[Stored], method: str, path: str, params: Mapping[str, str], body: bytes | None
    ) -> AsyncIterator[list[Stored]]:
        """Every page of a list, by page number. Links are ignored.

        Some lists tell how many pages there are, some do not, and some may ignore ``page`` (its notes, C5): without a
        number the walk ends at a page that is empty or brings nothing new. A short page ends nothing, for the
        largest page that the API grants is not known.
        """
        endpoint = f"{method} {path}"
        seen: set[str] = set()
        most = min(kind.most_pages, self._most_pages)
        for number in range(1, most + 1):
            asked = {**params, "page": str(number), "limit": str(PAGE_SIZE)}
            rows, total = await self.http.send(endpoint, method, path, params=asked, body=body, decode=kind.read_page)
            fresh = list(_new(rows, seen))
            if fresh:
                yield fresh
            if total is not None and number >= total:
                return
            if not fresh and total is not None:
                sentence = f"Solvimon's {endpoint} gave page {number} of {total} with nothing new: it is not complete."
                raise CursorRepeated(sentence, system="Solvimon", endpoint=endpoint, field="page")
            if not fresh:
                return
        sentence = f"Solvimon's {endpoint} has more than {most:,} pages: the walk is not complete."
        raise Malformed(sentence, system="Solvimon", endpoint=endpoint, field="page")


def _says_there_is_none(error: Refused, object_type: str) -> bool:
    """Whether a refusal is about the resource itself: by its code, and by the type that it names, if any."""
    about_it = error.code in _NOT_FOUND or error.code == f"{object_type}_NOT_FOUND"
    return about_it and error.resource_type in (None, object_type)


def _new(rows: Sequence[Stored], seen: set[str]) -> Iterator[Stored]:
    for row in rows:
        if row.id not in seen:
            seen.add(row.id)
            yield row


def check_id(given: str | None) -> None:
    """Passes an id that can be asked for by a path.

    Raises:
        NotAsPromised: It can not: nothing of the kind is an id of Solvimon's.
    """
    if given is not None and (not given.strip(".") or len(given) > _LONGEST_ID):
        raise NotAsPromised("id", f"is empty, of dots alone, or over {_LONGEST_ID} characters long")


def path_segment(id_or_reference: str) -> str:
    """An id or reference as one segment of a path.

    Raises:
        ValueError: Empty, or dots alone: the path would be another endpoint's.
    """
    if not id_or_reference.strip("."):
        raise ValueError(f"{id_or_reference!r} cannot be looked up by its reference: a path cannot carry it.")
    return quote(id_or_reference, safe="")


def idempotency_keys(source: random.Random) -> Callable[[], str]:
    """Random keys of the form that Solvimon advises, UUID version 4, from the given randomness."""

    def new() -> str:
        return str(uuid.UUID(int=source.getrandbits(128), version=4))

    return new
