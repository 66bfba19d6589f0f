"""One kind of configuration resource in memory: found by id and by reference. Not here: what a valid resource is."""

from collections.abc import Iterator

from metronome_pipeline.sandbox.solvimon.wire import IdSource, JsonObject


class Collection:
    """The resources of one kind, in the order of their creation.

    A stored resource is never changed in place, only replaced, so that answers already made stay what they were.
    """

    def __init__(self, object_type: str, prefix: str, ids: IdSource) -> None:
        self.object_type = object_type
        self._prefix = prefix
        self._ids = ids
        self._by_id: dict[str, JsonObject] = {}
        self._by_reference: dict[str, str] = {}

    def __iter__(self) -> Iterator[JsonObject]:
        return iter(self._by_id.values())

    def by_id(self, key: str) -> JsonObject | None:
        """The resource with this id."""
        return self._by_id.get(key)

    def by_reference(self, reference: str) -> JsonObject | None:
        """The resource with exactly this reference; upper and lower case differ."""
        key = self._by_reference.get(reference)
        return None if key is None else self._by_id[key]

    def find(self, key: str) -> JsonObject | None:
        """The resource with this id or reference."""
        return self._by_id.get(key) or self.by_reference(key)

    def add(self, fields: JsonObject) -> JsonObject:
        """Store a new resource and give it its id."""
        identity = {"object_type": self.object_type, "id": self._ids.make(self._prefix)}
        return self.put({**identity, **fields})

    def put(self, resource: JsonObject) -> JsonObject:
        """Store a resource under its id, in the place of what was there."""
        self._forget_reference(resource["id"])
        self._by_id[resource["id"]] = resource
        if resource.get("reference") is not None:
            self._by_reference[resource["reference"]] = resource["id"]
        return resource

    def remove(self, key: str) -> None:
        """Forget the resource with this id; its reference is free again."""
        self._forget_reference(key)
        del self._by_id[key]

    def _forget_reference(self, key: str) -> None:
        old = self._by_id.get(key)
        if old is not None and old.get("reference") is not None:
            self._by_reference.pop(old["reference"], None)

    def snapshot(self) -> tuple[dict[str, JsonObject], dict[str, str]]:
        """What is stored now, for :meth:`restore`."""
        return dict(self._by_id), dict(self._by_reference)

    def restore(self, snapshot: tuple[dict[str, JsonObject], dict[str, str]]) -> None:
        """Go back to a snapshot."""
        self._by_id, self._by_reference = dict(snapshot[0]), dict(snapshot[1])
