"""Which customers a person means: by id, or by the name that they have in Metronome."""

from collections.abc import Iterable, Mapping

from metronome_pipeline.cli.terminal import WrongUse
from metronome_pipeline.errors import quoted


def chosen_customers(asked: Iterable[str], known: Mapping[str, str]) -> list[str]:
    """The ids of the customers that were asked for, each once.

    Args:
        asked: Ids in any case, or whole names.
        known: Name by id.

    Raises:
        WrongUse: One is not known, or several have that name.
    """
    ids_of: dict[str, list[str]] = {}
    for customer_id, name in known.items():
        ids_of.setdefault(name, []).append(customer_id)
    chosen: dict[str, None] = {}
    for text in asked:
        ids = [text.lower()] if text.lower() in known else ids_of.get(text, [])
        if not ids:
            raise WrongUse(f"{quoted(text, 100)} is neither the id nor the name of a customer that is known here.")
        if len(ids) > 1:
            raise WrongUse(f"{quoted(text, 100)} is the name of {len(ids)} customers: choose by id: {', '.join(ids)}.")
        chosen[ids[0]] = None
    return list(chosen)
