"""Ingestion: the endpoints that take events, one by one or in batches. A batch is taken whole or not at all.

Here: size, atomicity, duplicates, dry runs. Not here: a single event's validity (event_checks.py), reading back
(event_reads.py).
"""

from collections.abc import Sequence

from metronome_pipeline.sandbox.solvimon.dynamic_meters import learn
from metronome_pipeline.sandbox.solvimon.errors import ApiProblem, PageNotFoundError, invalid, missing
from metronome_pipeline.sandbox.solvimon.event_checks import EventReader, refusal_of_size
from metronome_pipeline.sandbox.solvimon.event_store import Event
from metronome_pipeline.sandbox.solvimon.prices import cost_of
from metronome_pipeline.sandbox.solvimon.routing import Call, Endpoint
from metronome_pipeline.sandbox.solvimon.store import Store
from metronome_pipeline.sandbox.solvimon.wire import JsonObject

INGEST = ("METER_DATA.INGEST",)


def _reader(call: Call) -> EventReader:
    validation = call.query.get("meter_validation", "STATIC")
    if validation not in {"STATIC", "DYNAMIC"}:
        raise invalid("meter_validation", "must be STATIC or DYNAMIC")
    if validation == "STATIC":
        return EventReader(call.store, now=call.now)
    if call.store.settings.dynamic_validation == "refused":
        raise invalid("meter_validation", "DYNAMIC is refused in this sandbox (dynamic_validation)")
    return EventReader(call.store, now=call.now, dynamic=learn)


def _ingest_one(call: Call) -> JsonObject:
    answered = _ingest(call, [call.fields()], key=None)
    if not answered:
        raise missing("reference")
    return answered[0]


def _ingest_list(call: Call) -> JsonObject:
    return {"meter_datas": _ingest_batch(call, "meter_datas", call.store.settings.batch_max)}


def _ingest_v2(call: Call) -> JsonObject:
    if not call.store.settings.v2_enabled:
        raise PageNotFoundError
    return {"events": _ingest_batch(call, "events", call.store.settings.v2_batch_max)}


def _ingest_batch(call: Call, key: str, limit: int) -> list[JsonObject]:
    body = call.fields()
    strange = body.keys() - {key}
    if strange and call.store.settings.unknown_fields == "refused":
        raise invalid(min(strange), "unknown field")
    raws = body.get(key)
    if raws is None or raws == []:
        raise missing(key)
    if not isinstance(raws, list):
        raise invalid(key, "must be a list")
    if len(raws) > limit:
        raise refusal_of_size(len(raws), limit, key)
    return _ingest(call, raws, key=key)


def _ingest(call: Call, raws: Sequence[object], *, key: str | None) -> list[JsonObject]:
    """Check all, then store all; the answer is made before the asynchronous step, as it is in the real thing."""
    store = call.store
    call.flag("cost_prediction")
    reader = _reader(call)
    before = store.snapshot() if "meter_validation" in call.query else None
    valid: list[Event] = []
    burned: set[str] = set()
    for index, raw in enumerate(raws):
        where = f"{key}.{index}." if key is not None else ""
        try:
            event = reader.read(raw, where)
            _refuse_duplicate(store, event.reference, burned, where)
        except ApiProblem:
            if not store.settings.partial_ok or key is None:
                if before is not None:
                    store.restore(before)
                raise
        else:
            burned.add(event.reference)
            valid.append(event)
    stored = [_store(call, event) for event in valid]
    answer = [_priced(call, event) for event in stored]
    if store.settings.matching == "sync":
        store.process()
    return answer


def _duplicate_of(store: Store, reference: str) -> Event | None:
    """The event because of which one more under this reference has no effect, as the knobs say."""
    if store.settings.reference_idempotency == "off":
        return None
    original = store.events.original_of_any_state(reference)
    if original is not None and original.deleted and store.settings.deleted_reference_reuse == "allowed":
        return None
    return original


def _refuse_duplicate(store: Store, reference: str, burned: set[str], where: str) -> None:
    """Refuse where duplicates, or the reuse of a deleted reference, are answered with an error instead of 201."""
    settings = store.settings
    original = _duplicate_of(store, reference)
    again = settings.reference_idempotency == "on" and reference in burned
    if original is None and not again:
        return
    was_deleted = original is not None and original.deleted
    conflict = was_deleted and settings.deleted_reference_reuse == "conflict"
    if settings.duplicate_mode == "201" and not conflict:
        return
    named = original is not None and settings.conflict_includes_resource_id
    raise ApiProblem(
        409 if conflict or settings.duplicate_mode == "409" else 400,
        "RESOURCE_ALREADY_EXISTS",
        "There is an existing resource with the provided identifier",
        field=f"{where if settings.error_field_index else ''}reference",
        resource_type="METER_DATA",
        resource_id=original.id if named and original is not None else None,
    )


def _store(call: Call, event: Event) -> Event:
    store = call.store
    original = _duplicate_of(store, event.reference)
    stored = store.events.add(event, at=call.now, duplicate_of=None if original is None else original.id)
    if original is not None and store.settings.duplicate_flag_sync:
        stored.outcome = "DUPLICATE"
    return stored


def _priced(call: Call, event: Event) -> JsonObject:
    """An event as it is answered; with its cost where that is asked for."""
    if not call.flag("cost_prediction"):
        return event.as_json()
    return {**event.as_json(), "cost_prediction": cost_of(call.store, event)}


def _calculate(call: Call) -> JsonObject:
    """A dry run: the event is checked and answered as a calculation; no event is stored and no reference taken.

    Unless the knob ``calculate_stores`` says that it is, for that nothing is stored is documented nowhere.
    """
    call.flag("cost_prediction")
    before = call.store.snapshot() if "meter_validation" in call.query else {}
    try:
        event = _reader(call).read(call.fields(), "")
    finally:
        call.store.restore(before)
    event.type = "CALCULATION"
    event.id = call.store.ids.make("metd")
    answer = {"cost_prediction": None, **_priced(call, event)}
    if call.store.settings.calculate_stores:
        _store(call, event)
        if call.store.settings.matching == "sync":
            call.store.process()
    return answer


ENDPOINTS: list[Endpoint] = [
    *(Endpoint("POST", path, INGEST, _ingest_one, 201) for path in ("/v1/events/ingest", "/v1/ingest/meter-data")),
    *(
        Endpoint("POST", path, INGEST, _ingest_list, 201)
        for path in ("/v1/events/ingest-list", "/v1/ingest/meter-datas", "/v1/events/ingest-batch")
    ),
    Endpoint("POST", "/v2/events/ingest-batch", INGEST, _ingest_v2, 201),
    Endpoint("POST", "/v1/events/calculate", INGEST, _calculate, 201),
]
