"""Prices in Solvimon that hang on a meter property which the meter does not require.

Solvimon lets a condition use a property only where it is required (its notes, section 2), and an import links
properties as not required, since a null group has no value to send. Here: finding such conditions. Not here: what is
done about them.
"""

from collections.abc import Iterator
from functools import partial
from typing import Any

import msgspec

from metronome_pipeline.solvimon.api import SolvimonApi
from metronome_pipeline.wire import decoded

_PAGE_SIZE = 50
_MOST_PAGES = 200


class _Items(msgspec.Struct, frozen=True):
    data: list[dict[str, Any]]
    total_number_of_pages: int | None = None


_ITEMS = msgspec.json.Decoder(_Items)


async def conditions_on_optional_properties(api: SolvimonApi) -> list[tuple[str, str]]:
    """(name of the product item, property) for each condition on a property that some meter links as not required.

    Raises:
        ApiError: Solvimon could not be asked.
    """
    optional: dict[str, str] = {}
    async for meters in api.list_meters():
        for link in (link for meter in meters for link in meter.meter_properties or () if not link.required):
            optional |= {key: link.reference or key for key in (link.id, link.reference) if key}
    found = []
    for number in range(1, _MOST_PAGES + 1):
        page = await api.http.send(
            "GET /v1/product-items",
            "GET",
            "/v1/product-items",
            params={"page": str(number), "limit": str(_PAGE_SIZE)},
            decode=partial(decoded, _ITEMS),
        )
        for item in page.data:
            used = dict.fromkeys(_properties((item.get("usage_based") or {}).get("conditions")))
            found += [(str(item.get("name")), optional[key]) for key in used if key in optional]
        if not page.data or number >= (page.total_number_of_pages or 1):
            break
    return found


def _properties(tree: object) -> Iterator[str]:
    """The ids and references of all meter properties in a condition, however deep its expression nests them."""
    if isinstance(tree, list):
        for branch in tree:
            yield from _properties(branch)
    elif isinstance(tree, dict):
        named = tree.get("meter_properties") or []
        single = [tree["meter_property"]] if isinstance(tree.get("meter_property"), dict) else []
        for given in [*named, *single]:
            # One name is enough: with both, an item would be told twice.
            key = given.get("id") or given.get("reference") if isinstance(given, dict) else None
            if isinstance(key, str):
                yield key
        for branch in tree.values():
            if isinstance(branch, dict | list) and branch is not named:
                yield from _properties(branch)
