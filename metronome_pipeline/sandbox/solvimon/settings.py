"""The knobs of a store: what the emulator does where Solvimon's behaviour is unknown, disputed or the account's choice.

Here: their names, types, defaults and the change of some of them. Not here: what they change.
"""

from datetime import datetime
from typing import Annotated, Any, Literal

import msgspec

Positive = Annotated[int, msgspec.Meta(ge=1)]
Status = Annotated[int, msgspec.Meta(ge=400, le=599)]


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Every knob with its default.

    The defaults are what is documented or observed, else the choice that costs a careless client most.
    """

    now: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    """Overrides the clock of the store."""

    # Errors
    not_found_status: Literal[400, 404] = 404
    """Status of a look-up by id or reference that finds nothing."""
    conflict_status: Literal[400, 409] = 409
    """Status of a create whose reference exists, on everything but customers."""
    customers_conflict_status: Literal[400, 409] = 409
    """The same for customers, for which the API declares no 409."""
    conflict_includes_resource_id: bool = True
    """Whether ``RESOURCE_ALREADY_EXISTS`` says which resource it is."""
    media_type_status: Status = 400
    """Status of ``UNSUPPORTED_MEDIA_TYPE``."""
    unknown_fields: Literal["refused", "ignored"] = "refused"
    """What happens to fields of a request that the API does not name."""
    idempotency_retryable: bool | None = True
    """``Idempotency-Retryable`` on a 500 to a request with an ``Idempotency-Key``; null leaves the header out."""

    # Configuration
    put_merge: bool = False
    """Whether PUT keeps the fields that the body omits, instead of clearing them."""
    item_status_readonly: bool = True
    """Whether ``status`` in a product item's body is ignored."""
    hide_drafts_in_lists: bool = False
    """Whether lists and searches leave out what is in DRAFT."""
    email_required: bool = False
    """Whether a customer needs an email."""
    calculation_link: Literal["both", "nested", "top_level"] = "both"
    """Where a product item may name its meter value calculation."""
    meter_links: Literal["replace", "merge"] = "replace"
    """What PATCH of a meter does with values and properties that the body does not list."""

    # Lists
    max_limit: Positive = 100
    """A larger ``limit`` is cut to this."""
    calculations_ignore_page: bool = False
    """Whether the list of meter value calculations answers everything whatever ``page`` says."""

    # Ingest
    v2_enabled: bool = False
    """Whether ``/v2/events/ingest-batch`` (key ``events``) is served; without it, the page does not exist."""
    batch_max: Positive = 50
    """Events that a v1 list endpoint takes."""
    v2_batch_max: Positive = 1000
    """Events that the v2 endpoint takes."""
    partial_ok: bool = False
    """Whether the good events of a batch are stored when others are bad, instead of none."""
    ingest_not_found_status: Literal[400, 404] = 400
    """Status of an event whose customer or meter is not found."""
    accept_draft_customers: bool = False
    """Whether a customer in DRAFT takes events."""
    dynamic_validation: Literal["refused", "supported"] = "refused"
    """Whether ``meter_validation=DYNAMIC`` is served."""
    allow_millis: bool = False
    """Whether timestamps may have fractions of a second."""
    future_limit_s: Annotated[int, msgspec.Meta(ge=0)] = 1800
    """How far ahead of now a timestamp may lie."""
    lenient_numbers: bool = False
    """Whether a quantity may be a JSON number instead of a string."""
    refuse_reference: tuple[str, ...] = ()
    """References of events that are always refused: a poisoned event on request."""
    error_field_index: bool = True
    """Whether the ``field`` of an event's error names its place in the batch."""

    # Duplicates, matching, deletion
    reference_idempotency: Literal["on", "off"] = "on"
    """Whether the account opted in to deduplication by reference."""
    duplicate_mode: Literal["201", "400", "409"] = "201"
    """How a duplicate is answered: taken without effect, or the batch refused."""
    duplicate_flag_sync: bool = True
    """Whether the 201 already says DUPLICATE, instead of saying nothing until the event is processed."""
    deleted_reference_reuse: Literal["duplicate", "allowed", "conflict"] = "duplicate"
    """What becomes of an event under the reference of a deleted one."""
    hide_deleted_events: bool = False
    """Whether a list without ``deleted`` leaves out deleted events."""
    delete_twice_status: Literal[200, 400, 404, 409] = 200
    """Status of the deletion of what is deleted already."""
    matching: Literal["sync", "manual"] = "sync"
    """When events are processed: as soon as they are answered, or on ``POST /_sandbox/process``."""
    reprocessing: Literal["sync", "manual"] = "sync"
    """When a reprocess is done: before it is answered, or on ``POST /_sandbox/process``."""
    calculate_stores: bool = False
    """Whether a calculation leaves an event behind that counts: what a client must exclude before it asks for costs."""
    match_all: bool = False
    """Whether every event finds a subscription."""

    # Account
    platform_id: str | None = None
    """When set, another ``x-platform-id`` is refused."""
    rate_limit: Positive | None = None
    """Requests that are answered per second; null means no limit."""
    rate_limit_retry_after: str | None = "1"
    """``Retry-After`` of the answer over the limit; null leaves the header out."""


def changed(settings: Settings, patch: object) -> Settings:
    """The settings with the given knobs changed.

    Raises:
        ValueError: Naming the knob that does not exist or whose value is wrong.
    """
    try:
        knobs = msgspec.convert(patch, dict[str, Any])
        return msgspec.convert({**as_json(settings), **knobs}, Settings)
    except msgspec.ValidationError as error:
        raise ValueError(f"Wrong setting: {error}.") from None


def as_json(settings: Settings) -> dict[str, Any]:
    """Every knob with its value, as JSON types."""
    plain: dict[str, Any] = msgspec.to_builtins(settings)
    return plain
