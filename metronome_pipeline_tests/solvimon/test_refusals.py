from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from metronome_pipeline.errors import Refused
from metronome_pipeline.solvimon.refusals import batch_limit, refusal_subject, refused_index


def refused(**told: Any) -> Refused:
    return Refused("", system="Solvimon", endpoint="POST /v1/events/ingest-batch", status=400, **told)


@pytest.mark.parametrize(
    ("told", "subject"),
    [
        ({"code": "RESOURCES_NOT_FOUND", "message": "The requested CUSTOMER could not be found"}, "customer"),
        ({"code": "RESOURCE_NOT_FOUND", "message": "The requested METER could not be found"}, "meter"),
        ({"code": "RESOURCE_NOT_FOUND", "message": "The requested METER_PROPERTY could not be found"}, "property"),
        ({"code": "RESOURCE_NOT_FOUND", "resource_type": "METER"}, "meter"),
        ({"code": "RESOURCE_NOT_FOUND", "resource_type": "METER_VALUE"}, "meter"),
        ({"code": "METER_NOT_FOUND"}, "meter"),
        ({"code": "METER_PROPERTY_NOT_FOUND"}, "property"),
        ({"code": "CUSTOMER_NOT_FOUND"}, "customer"),
        ({"code": "INVALID_FIELD", "field": "meter_datas.3.customer_reference"}, "customer"),
        ({"code": "INVALID_FIELD", "field": "meter_datas[3].meter_reference"}, "meter"),
        ({"code": "INVALID_FIELD", "field": "meter_datas.3.meter_values.0.reference"}, "meter"),
        ({"code": "INVALID_FIELD", "field": "meter_datas.3.meter_properties.1.reference"}, "property"),
        ({"code": "INVALID_FIELD", "field": "meter_datas.3.meter_properties.1.value"}, "event"),
        (
            {
                "code": "INVALID_FIELD",
                "field": "meter_datas.3.meter_properties.1.value",
                "resource_type": "METER_PROPERTY",
            },
            "event",
        ),
        ({"code": "INVALID_FIELD", "field": "meter_datas.3.meter_values.0.number"}, "event"),
        ({"code": "INVALID_FIELD", "field": "meter_datas.3.timestamp", "resource_type": "METER_DATA"}, "event"),
        ({"code": "INVALID_FIELD", "field": "meter_datas.3.reference"}, "event"),
        ({"code": "INVALID_FIELD", "message": "The requested UNICORN could not be found"}, "event"),
        ({}, "event"),
    ],
)
def test_a_refusal_names_what_it_is_about(told: dict[str, str], subject: str) -> None:
    assert refusal_subject(refused(**told)) == subject


@pytest.mark.parametrize(
    ("field", "index"),
    [
        ("meter_datas.0.timestamp", 0),
        ("meter_datas.49", 49),
        ("events[7].reference", 7),
        ("meter_datas", None),
        ("timestamp", None),
        ("meter_datas.x", None),
        (None, None),
    ],
)
def test_a_refusal_tells_the_place_of_the_event(field: str | None, index: int | None) -> None:
    assert refused_index(refused(field=field)) == index


@pytest.mark.parametrize(
    ("message", "limit"),
    [
        ("value holds too many items (51, maximum allowed: 50)", 50),
        ("maximum allowed: 0", None),
        ("too many", None),
        (None, None),
    ],
)
def test_a_batch_limit_is_learned_from_the_message(message: str | None, limit: int | None) -> None:
    assert batch_limit(refused(message=message)) == limit


@given(st.text(), st.text(), st.text())
def test_no_text_of_a_vendor_breaks_the_reading(code: str, field: str, message: str) -> None:
    error = refused(code=code, field=field, message=message)
    assert refusal_subject(error) in ("customer", "meter", "property", "event")
    refused_index(error)
    batch_limit(error)
