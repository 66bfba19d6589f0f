"""Endpoints and how a path finds one.

Here: the record of an endpoint and a look-up by path segments. Not here: any endpoint.

Paths are matched before percent-decoding, segment by segment, since a reference may hold a slash.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import unquote

from starlette.datastructures import QueryParams

from metronome_pipeline.sandbox.solvimon.errors import ApiProblem, invalid
from metronome_pipeline.sandbox.solvimon.store import Store
from metronome_pipeline.sandbox.solvimon.wire import JsonObject


@dataclass(frozen=True)
class Call:
    """One request as a handler sees it: whose it is, what it asks, and when."""

    store: Store
    path: str
    ids: tuple[str, ...]
    query: QueryParams
    body: object
    now: datetime

    @property
    def key(self) -> str:
        """The id or reference in the path."""
        return self.ids[0]

    def fields(self) -> JsonObject:
        """The body, which must be an object.

        Raises:
            ApiProblem: 400 ``INVALID_REQUEST``.
        """
        if not isinstance(self.body, dict):
            raise ApiProblem(400, "INVALID_REQUEST", "The request body must be a JSON object")
        return self.body

    def flag(self, name: str) -> bool | None:
        """A query parameter that is ``true`` or ``false``; ``None`` when it is absent.

        Raises:
            ApiProblem: 400 for anything else.
        """
        text = self.query.get(name)
        if text is None:
            return None
        if text not in {"true", "false"}:
            raise invalid(name, "must be true or false")
        return text == "true"


@dataclass(frozen=True)
class Endpoint:
    """A method and path of the API and what answers it.

    Attributes:
        handler: Gives the answer: an object, or the text of a file.
        template: Path with ``{id}`` in the place of ids and references.
        permissions: Any one of these lets a key in.
        status: Status of a success.
        takes_key: Whether an ``Idempotency-Key`` has a meaning here.
    """

    method: str
    template: str
    permissions: tuple[str, ...]
    handler: Callable[[Call], JsonObject | str]
    status: int = 200
    takes_key: bool = False


class Router:
    """All endpoints, by the segments of their paths."""

    def __init__(self, endpoints: Iterable[Endpoint]) -> None:
        self._by_shape: dict[tuple[str, ...], dict[str, Endpoint]] = {}
        for endpoint in endpoints:
            self._by_shape.setdefault(tuple(endpoint.template.split("/")[1:]), {})[endpoint.method] = endpoint
        self._starts = {shape[:length] for shape in self._by_shape for length in range(1, len(shape) + 1)}

    def find(self, method: str, raw_path: bytes) -> tuple[Endpoint, tuple[str, ...]] | None:
        """The endpoint and the ids in its path; ``None`` for a wrong route. A literal segment wins over an id."""
        choices: list[tuple[tuple[str, ...], tuple[str, ...]]] = [((), ())]
        for segment in raw_path.decode("latin-1").split("/")[1:]:
            longer = [
                choice
                for shape, ids in choices
                for choice in (((*shape, segment), ids), ((*shape, "{id}"), (*ids, unquote(segment))))
            ]
            choices = [choice for choice in longer if choice[0] in self._starts]
        for shape, ids in choices:
            endpoint = self._by_shape.get(shape, {}).get(method)
            if endpoint is not None and all(ids):
                return endpoint, ids
        return None
