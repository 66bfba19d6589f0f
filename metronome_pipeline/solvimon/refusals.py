"""What a refused batch is about: one event of it, or a customer, a meter or a property that all its events share.

Here: pure functions of an error. Not here: what is then done (``ledger/``).
"""

import re
from typing import Literal

from metronome_pipeline.errors import ApiError

Subject = Literal["customer", "meter", "property", "event"]

_BY_TYPE: dict[str, Subject] = {
    "CUSTOMER": "customer",
    "METER": "meter",
    "METER_VALUE": "meter",
    "METER_PROPERTY": "property",
}
_VALUE = re.compile(r"(?:^|\.)meter_properties(?:\.\d+|\[\d+\])?\.value$")
_BY_FIELD: list[tuple[re.Pattern[str], Subject]] = [
    (re.compile(r"(?:^|\.)customer_(?:id|reference)$"), "customer"),
    (re.compile(r"(?:^|\.)meter_(?:id|reference)$"), "meter"),
    (re.compile(r"(?:^|\.)meter_values(?:\.\d+|\[\d+\])?(?:\.(?:id|reference))$"), "meter"),
    (re.compile(r"(?:^|\.)meter_properties(?:\.\d+|\[\d+\])?(?:\.(?:id|reference))$"), "property"),
]
_INDEX = re.compile(r"^[A-Za-z_]+(?:\.(\d+)|\[(\d+)\])(?:\.|$)")
_REQUESTED = re.compile(r"\bThe requested (\w+) could not be found")
_ALLOWED = re.compile(r"maximum allowed:\s*(\d{1,6})")
_OWN_CODE = re.compile(r"^(CUSTOMER|METER|METER_VALUE|METER_PROPERTY)_NOT_FOUND$")


def refusal_subject(error: ApiError) -> Subject:
    """What the refusal names. A meter's value counts as the meter; a property's *value* is the event's own affair.

    Read in this order after that: the resource type, the code, the field, the message ("The requested CUSTOMER could
    not be found" is the only refusal of a batch that has been observed, and it names neither field nor index).
    """
    if _VALUE.search(error.field or ""):
        return "event"
    if error.resource_type in _BY_TYPE:
        return _BY_TYPE[error.resource_type]
    own = _OWN_CODE.match(error.code or "")
    if own:
        return _BY_TYPE[own[1]]
    for pattern, subject in _BY_FIELD:
        if pattern.search(error.field or ""):
            return subject
    requested = _REQUESTED.search(error.message or "")
    return _BY_TYPE.get(requested[1], "event") if requested else "event"


def refused_index(error: ApiError) -> int | None:
    """The place in the batch of the event that the refusal names, from a field such as ``meter_datas.3.timestamp``."""
    index = _INDEX.match(error.field or "")
    return int(index[1] or index[2]) if index else None


def batch_limit(error: ApiError) -> int | None:
    """The most events a batch may hold, from "value holds too many items (51, maximum allowed: 50)"."""
    allowed = _ALLOWED.search(error.message or "")
    return int(allowed[1]) if allowed and int(allowed[1]) > 0 else None
