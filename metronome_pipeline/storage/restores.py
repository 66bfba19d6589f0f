"""Restores: noticing that these tables are older than what Solvimon was told since.

Here: where the ledger lives, and what is noted when that has changed. Not here: what follows from it: events that are
looked up before they are sent (``ledger/deliver.py``), and the ledger made whole again (``rebuilding/``).
"""

from typing import Any

import psycopg

Connection = psycopg.Connection[Any]


def notice_restore(connection: Connection) -> bool:
    """Notes, for every account pair, that the ledger was restored, and says so; in the caller's transaction.

    Told by the place of its tables: the server's identity and timeline, the database, and the table of events. A dump
    that is restored makes another table; a recovery to a point in time, and a standby that takes over, begin another
    timeline. Not told: a copy of the server's whole disk that is put back, and rows that are put back into the same
    tables. A failover that lost nothing counts as a restore: that costs look-ups, and never an amount.
    """
    if _moved(connection) is None:
        return False
    connection.execute("LOCK TABLE ledger.home IN SHARE ROW EXCLUSIVE MODE")
    # Looked at again under the lock: of two processes that start together, one notes it.
    if (moved := _moved(connection)) is None:
        return False
    known, place = moved
    connection.execute(
        "INSERT INTO ledger.home (place) VALUES (%s) "
        "ON CONFLICT (only_row) DO UPDATE SET place = excluded.place, since = excluded.since",
        [place],
    )
    if known is None:
        return False
    connection.execute("UPDATE ledger.account_pairs SET restored_at = ledger.moment()")
    return True


def _moved(connection: Connection) -> tuple[str | None, str] | None:
    """The place that is written down and the one that is; None where both are the same."""
    known, *place = _row(connection, _PLACE)
    # A role may be kept from the functions of the server: what it may look at then has to do.
    if _row(connection, _MAY_LOOK_AT_THE_SERVER) == (True,):
        place = [*_row(connection, _SERVER), *place]
    found = " ".join(map(str, place))
    return None if known == found else (known, found)


def _row(connection: Connection, statement: str) -> tuple[Any, ...]:
    row: tuple[Any, ...] | None = connection.execute(statement).fetchone()
    assert row is not None
    return row


_PLACE = """
SELECT (SELECT place FROM ledger.home), (SELECT oid FROM pg_database WHERE datname = current_database()),
       'ledger.events'::regclass::oid
"""

_MAY_LOOK_AT_THE_SERVER = """
SELECT has_function_privilege('pg_control_system()', 'EXECUTE')
   AND has_function_privilege('pg_control_checkpoint()', 'EXECUTE')
"""

_SERVER = "SELECT s.system_identifier, c.timeline_id FROM pg_control_system() AS s, pg_control_checkpoint() AS c"
