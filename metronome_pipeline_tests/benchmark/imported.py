"""An account pair whose imports are done: customers, metrics and meters of a workload, written straight into tables."""

from metronome_pipeline.setting_values import host
from metronome_pipeline.settings import AccountPair
from metronome_pipeline.storage.accounts import Pair, pair_of
from metronome_pipeline.storage.database import Database
from metronome_pipeline.storage.migrations import migrate
from metronome_pipeline_tests.benchmark.contestants.setting import Setting

_CUSTOMERS = """
INSERT INTO metronome.customers (pair_id, customer_id, name, ingest_aliases, custom_fields, created_at, updated_at)
SELECT %(pair)s, id, 'Customer', '{}', '{}', '2025-12-01', '2025-12-01' FROM unnest(%(ids)s::uuid[]) AS id
ON CONFLICT DO NOTHING
"""
_IMPORTED_CUSTOMERS = """
INSERT INTO solvimon.customers (pair_id, reference, solvimon_id, legal_name, outcome, run_id)
SELECT %(pair)s, id, 'cust_' || id, 'Customer', 'created', 'bench' FROM unnest(%(ids)s::text[]) AS id
ON CONFLICT DO NOTHING
"""
_METRICS = """
INSERT INTO metronome.billable_metrics (pair_id, metric_id, name, aggregation_type, aggregation_key, group_keys)
SELECT %(pair)s, id, 'Metric', 'SUM', 'value', %(group_keys)s::jsonb FROM unnest(%(ids)s::uuid[]) AS id
ON CONFLICT DO NOTHING
"""
_METERS = """
INSERT INTO solvimon.meters (pair_id, reference, solvimon_id, name, calculation_id, calculation_type, outcome, run_id)
SELECT %(pair)s, id, 'metr_' || id, 'Metric', 'mvca_' || id, 'SUM', 'created', 'bench'
FROM unnest(%(ids)s::text[]) AS id ON CONFLICT DO NOTHING
"""


def prepare(database: Database, setting: Setting) -> Pair:
    """The pair of a benchmark run, with everything imported and deduplication proved."""
    workload = setting.workload
    accounts = AccountPair(host(setting.metronome), "bench", host(setting.solvimon), "")
    with database.transaction() as connection:
        migrate(connection)
        pair_of(connection, accounts)
        connection.execute("UPDATE ledger.account_pairs SET deduplication = 'proved'")
        pair = pair_of(connection, accounts)
        shared = {"pair": pair.pair_id, "group_keys": '[["region"]]' if workload.groups else "[]"}
        for statement in (_CUSTOMERS, _IMPORTED_CUSTOMERS):
            connection.execute(statement, {**shared, "ids": workload.customer_ids()})
        for statement in (_METRICS, _METERS):
            connection.execute(statement, {**shared, "ids": workload.metric_ids()})
    return pair
