-- Every table of the project. Four schemas: `metronome` (what was read), `solvimon` (what imports made there),
-- `ledger` (every event that Solvimon has been or will be told), and views in `ledger` for people.
-- Every row belongs to an account pair. Times are instants; quantities are exact numerics.

CREATE SCHEMA metronome;
CREATE SCHEMA solvimon;
CREATE SCHEMA ledger;

-- The database's time. A simulation sets `ledger.moment` to run the same statements on its own clock.
CREATE FUNCTION ledger.moment() RETURNS timestamptz LANGUAGE sql VOLATILE AS
$$ SELECT coalesce(nullif(current_setting('ledger.moment', true), '')::timestamptz, clock_timestamp()) $$;

CREATE TABLE ledger.account_pairs (
    pair_id               int GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    metronome_host        text NOT NULL,
    metronome_environment text NOT NULL,
    solvimon_host         text NOT NULL,
    solvimon_platform     text NOT NULL,
    created_at            timestamptz NOT NULL DEFAULT ledger.moment(),
    deduplication         text NOT NULL DEFAULT 'unknown' CHECK (deduplication IN ('unknown', 'proved', 'off')),
    deduplication_at      timestamptz,
    UNIQUE (metronome_host, metronome_environment, solvimon_host, solvimon_platform)
);
COMMENT ON TABLE ledger.account_pairs IS 'One Metronome environment billed through one Solvimon platform. deduplication: whether Solvimon was seen to ignore a second event under one reference.';

-- The pace of one Metronome account, shared by every run on every machine: when the next request may leave.
CREATE TABLE ledger.pace (
    account text PRIMARY KEY,
    next_at timestamptz NOT NULL
);

-- What was read from Metronome ------------------------------------------------------------------------------------

CREATE TABLE metronome.customers (
    pair_id        int NOT NULL REFERENCES ledger.account_pairs,
    customer_id    uuid NOT NULL,
    name           text NOT NULL,
    external_id    text,
    ingest_aliases text[] NOT NULL,
    custom_fields  jsonb NOT NULL,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    archived_at    timestamptz,
    first_read_at  timestamptz NOT NULL DEFAULT ledger.moment(),
    gone_at        timestamptz,
    PRIMARY KEY (pair_id, customer_id)
);
CREATE TABLE metronome.billable_metrics (
    pair_id          int NOT NULL REFERENCES ledger.account_pairs,
    metric_id        uuid NOT NULL,
    name             text NOT NULL,
    aggregation_type text,
    aggregation_key  text,
    group_keys       jsonb NOT NULL,
    sql              text,
    archived_at      timestamptz,
    first_read_at    timestamptz NOT NULL DEFAULT ledger.moment(),
    gone_at          timestamptz,
    PRIMARY KEY (pair_id, metric_id)
);
CREATE TABLE metronome.products (
    pair_id       int NOT NULL REFERENCES ledger.account_pairs,
    product_id    uuid NOT NULL,
    type          text NOT NULL,
    initial       jsonb NOT NULL,
    current       jsonb NOT NULL,
    updates       jsonb NOT NULL,
    archived_at   timestamptz,
    first_read_at timestamptz NOT NULL DEFAULT ledger.moment(),
    gone_at       timestamptz,
    PRIMARY KEY (pair_id, product_id)
);
COMMENT ON COLUMN metronome.customers.gone_at IS 'When a complete walk first did not list the customer any more.';

-- One row an hour that has usage. An hour inside `coverage` without a row here is an hour without usage (null).
CREATE TABLE metronome.usage (
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    customer_id uuid NOT NULL,
    metric_id   uuid NOT NULL,
    start_at    timestamptz NOT NULL,
    end_at      timestamptz NOT NULL,
    value       numeric NOT NULL,
    PRIMARY KEY (pair_id, metric_id, customer_id, start_at)
);
-- The same by group, for metrics that are billed with properties. slice: total | g<hash of properties>.
CREATE TABLE metronome.grouped_usage (
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    customer_id uuid NOT NULL,
    metric_id   uuid NOT NULL,
    start_at    timestamptz NOT NULL,
    end_at      timestamptz NOT NULL,
    slice       text NOT NULL,
    properties  text,
    value       numeric NOT NULL,
    PRIMARY KEY (pair_id, metric_id, customer_id, start_at, slice)
);
COMMENT ON COLUMN metronome.grouped_usage.slice IS 'total: the ungrouped value of the hour; g…: one group, by the hash of its properties.';
-- Hours whose groups did not add up to their total after a second read of both.
CREATE TABLE metronome.short_groups (
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    customer_id uuid NOT NULL,
    metric_id   uuid NOT NULL,
    start_at    timestamptz NOT NULL,
    total       numeric,
    grouped     numeric,
    seen_at     timestamptz NOT NULL DEFAULT ledger.moment(),
    PRIMARY KEY (pair_id, metric_id, customer_id, start_at)
);

-- What has been read, for each customer, metric and slicing (`ungrouped`, or the group key as a JSON list).
CREATE TABLE metronome.coverage (
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    customer_id uuid NOT NULL,
    metric_id   uuid NOT NULL,
    slicing     text NOT NULL,
    covered     tstzmultirange NOT NULL,
    PRIMARY KEY (pair_id, metric_id, customer_id, slicing)
);
-- Complete walks of late, so that a reading which began earlier never replaces one that began later.
CREATE TABLE metronome.readings (
    reading_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pair_id      int NOT NULL REFERENCES ledger.account_pairs,
    customer_id  uuid NOT NULL,
    metric_id    uuid NOT NULL,
    slicing      text NOT NULL,
    hours        tstzrange NOT NULL,
    began_at     timestamptz NOT NULL,
    completed_at timestamptz NOT NULL DEFAULT ledger.moment(),
    run_id       text NOT NULL
);
CREATE INDEX readings_pair ON metronome.readings (pair_id, metric_id, customer_id, began_at);
CREATE INDEX readings_completed ON metronome.readings (completed_at);
-- Walks under way and their rows: moved to their table once the walk is complete. Unlogged: a crash may lose them.
CREATE UNLOGGED TABLE metronome.walks (
    walk_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    began_at timestamptz NOT NULL DEFAULT ledger.moment()
);
CREATE UNLOGGED TABLE metronome.staged_usage (
    walk_id     bigint NOT NULL,
    customer_id uuid NOT NULL,
    metric_id   uuid NOT NULL,
    start_at    timestamptz NOT NULL,
    end_at      timestamptz NOT NULL,
    slice       text NOT NULL,
    properties  text,
    value       numeric
);
CREATE UNIQUE INDEX staged_usage_walk ON metronome.staged_usage (walk_id, metric_id, start_at, slice);

-- What imports made in Solvimon -------------------------------------------------------------------------------------

CREATE TABLE solvimon.customers (
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    reference   text NOT NULL,
    solvimon_id text,
    legal_name  text,
    outcome     text NOT NULL CHECK (outcome IN ('created', 'updated', 'unchanged', 'refused')),
    reason      text,
    run_id      text NOT NULL,
    at          timestamptz NOT NULL DEFAULT ledger.moment(),
    PRIMARY KEY (pair_id, reference)
);
CREATE TABLE solvimon.meters (
    pair_id          int NOT NULL REFERENCES ledger.account_pairs,
    reference        text NOT NULL,
    solvimon_id      text,
    name             text,
    calculation_id   text,
    calculation_type text,
    properties       text[] NOT NULL DEFAULT '{}',
    outcome          text NOT NULL CHECK (outcome IN ('created', 'updated', 'unchanged', 'refused')),
    reason           text,
    run_id           text NOT NULL,
    at               timestamptz NOT NULL DEFAULT ledger.moment(),
    PRIMARY KEY (pair_id, reference)
);
COMMENT ON COLUMN solvimon.meters.calculation_id IS 'The meter value calculation. Null: the meter exists, but its usage is not billed (see reason).';
CREATE TABLE solvimon.products (
    pair_id        int NOT NULL REFERENCES ledger.account_pairs,
    reference      text NOT NULL,
    solvimon_id    text,
    name           text,
    item_id        text,
    model_type     text,
    calculation_id text,
    outcome        text NOT NULL CHECK (outcome IN ('created', 'updated', 'unchanged', 'refused')),
    reason         text,
    run_id         text NOT NULL,
    at             timestamptz NOT NULL DEFAULT ledger.moment(),
    PRIMARY KEY (pair_id, reference)
);

-- The ledger ----------------------------------------------------------------------------------------------------------

-- The one slicing that a metric is billed through. A run whose setting disagrees refuses the metric. asked_by: who
-- switched it; null since it was first billed.
CREATE TABLE ledger.slicings (
    pair_id   int NOT NULL REFERENCES ledger.account_pairs,
    metric_id uuid NOT NULL,
    slicing   text NOT NULL,
    since     timestamptz NOT NULL DEFAULT ledger.moment(),
    asked_by  text,
    PRIMARY KEY (pair_id, metric_id)
);

CREATE FUNCTION ledger.event_reference(
    customer_id uuid, metric_id uuid, start_at timestamptz, end_at timestamptz, slice text, revision int
) RETURNS text LANGUAGE sql STABLE AS
$$ SELECT customer_id || '_' || metric_id
    || to_char(start_at AT TIME ZONE 'UTC', '_YYYYMMDD"T"HH24MISS"Z"')
    || to_char(end_at AT TIME ZONE 'UTC', '_YYYYMMDD"T"HH24MISS"Z"')
    || '_' || slice || CASE WHEN revision > 0 THEN '_r' || revision ELSE '' END $$;
COMMENT ON FUNCTION ledger.event_reference IS 'The reference of an event. Its form never changes between versions.';

CREATE TABLE ledger.events (
    event_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    customer_id uuid NOT NULL,
    metric_id   uuid NOT NULL,
    start_at    timestamptz NOT NULL,
    end_at      timestamptz NOT NULL,
    slice       text NOT NULL,
    properties  text,
    kind        text NOT NULL CHECK (kind IN ('usage', 'correction', 'deletion')),
    revision    int,
    number      numeric,
    deletes     bigint REFERENCES ledger.events,
    reference   text NOT NULL,
    planned_at  timestamptz NOT NULL,
    run_id      text NOT NULL,
    CHECK ((kind = 'deletion') = (number IS NULL AND revision IS NULL AND deletes IS NOT NULL))
);
COMMENT ON TABLE ledger.events IS 'Every event that Solvimon has been or will be told. Rows never change; what became of them is in receipts.';
CREATE UNIQUE INDEX events_reference ON ledger.events (pair_id, reference) WHERE kind <> 'deletion';
CREATE INDEX events_slot ON ledger.events (pair_id, metric_id, customer_id, start_at);
CREATE INDEX events_run ON ledger.events (run_id);

-- Events that have not come to an end. state: planned | quarantined | held.
CREATE TABLE ledger.open_events (
    event_id bigint PRIMARY KEY REFERENCES ledger.events,
    pair_id  int NOT NULL,
    state    text NOT NULL DEFAULT 'planned' CHECK (state IN ('planned', 'quarantined', 'held'))
);
CREATE INDEX open_events_state ON ledger.open_events (pair_id, state, event_id);

-- Events being sent: written before their request leaves, gone once their answer is written down. What stands here
-- while nobody holds the delivery lock may have arrived.
CREATE TABLE ledger.claims (
    claim_id   bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pair_id    int NOT NULL REFERENCES ledger.account_pairs,
    event_ids  bigint[] NOT NULL,
    claimed_at timestamptz NOT NULL DEFAULT ledger.moment(),
    run_id     text NOT NULL
);
CREATE INDEX claims_pair ON ledger.claims (pair_id);

CREATE TABLE ledger.receipts (
    receipt_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    event_id    bigint NOT NULL REFERENCES ledger.events,
    outcome     text NOT NULL CHECK (outcome IN (
        'delivered', 'restated', 'deleted', 'quarantined', 'released', 'dropped', 'superseded')),
    solvimon_id text,
    code        text,
    field       text,
    message     text,
    at          timestamptz NOT NULL DEFAULT ledger.moment(),
    run_id      text NOT NULL
);
CREATE INDEX receipts_event ON ledger.receipts (event_id);
COMMENT ON TABLE ledger.receipts IS 'What became of each event, appended. The latest row of an event is its state.';

-- What plan counts for an event in place of its own number. Null: the event counts nothing (deleted, superseded).
CREATE TABLE ledger.restatements (
    event_id bigint PRIMARY KEY REFERENCES ledger.events,
    number   numeric
);

-- Hours that were seen to differ from what is committed, and could not be planned then. Every run plans them first.
CREATE TABLE ledger.unsettled_hours (
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    metric_id   uuid NOT NULL,
    customer_id uuid NOT NULL,
    start_at    timestamptz NOT NULL,
    noted_at    timestamptz NOT NULL DEFAULT ledger.moment(),
    PRIMARY KEY (pair_id, metric_id, customer_id, start_at)
);

-- Decreases that were too large to take back unasked. released_at, released_by: a person let this very plan through.
CREATE TABLE ledger.brakes (
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    digest      text NOT NULL,
    customer_id uuid,
    metric_id   uuid NOT NULL,
    from_at     timestamptz NOT NULL,
    to_at       timestamptz NOT NULL,
    billed      numeric NOT NULL,
    observed    numeric NOT NULL,
    run_id      text NOT NULL,
    at          timestamptz NOT NULL DEFAULT ledger.moment(),
    released_at timestamptz,
    released_by text,
    PRIMARY KEY (pair_id, digest)
);

-- For people -------------------------------------------------------------------------------------------------------------

CREATE VIEW ledger.events_v1 AS
SELECT e.event_id, e.pair_id, e.customer_id, c.name AS customer, e.metric_id, m.name AS metric, e.start_at, e.end_at,
       e.slice, e.properties::jsonb AS properties, e.kind, e.revision, e.number, e.reference, e.planned_at, e.run_id,
       CASE WHEN o.state = 'planned' AND EXISTS (
                SELECT FROM ledger.claims k WHERE k.pair_id = e.pair_id AND e.event_id = ANY (k.event_ids)) THEN 'sending'
            ELSE coalesce(o.state, r.outcome) END AS state,
       r.solvimon_id, r.code, r.field, r.message, r.at AS state_at,
       CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END AS counted
FROM ledger.events e
LEFT JOIN ledger.open_events o USING (event_id)
LEFT JOIN ledger.restatements s USING (event_id)
LEFT JOIN LATERAL (SELECT * FROM ledger.receipts r WHERE r.event_id = e.event_id ORDER BY r.receipt_id DESC LIMIT 1) r ON true
LEFT JOIN metronome.customers c ON c.pair_id = e.pair_id AND c.customer_id = e.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = e.pair_id AND m.metric_id = e.metric_id;
COMMENT ON VIEW ledger.events_v1 IS 'Every event with its names, its state and what is counted for it: what did we bill this customer for this hour, when, and why did it change.';

CREATE VIEW ledger.quarantine_v1 AS
SELECT event_id, pair_id, customer, metric, start_at, properties, number, reference, code, field, message, state_at
FROM ledger.events_v1 WHERE state = 'quarantined';
