-- Usage that changes after it was billed: lateness, reverts, and what a held plan would have done.

-- The database's time may be set ahead as a whole (`ledger.ahead`, an interval), so that a month passes in a test.
CREATE FUNCTION ledger.ahead() RETURNS interval LANGUAGE sql STABLE AS
$$ SELECT coalesce(nullif(current_setting('ledger.ahead', true), '')::interval, interval '0') $$;
CREATE OR REPLACE FUNCTION ledger.moment() RETURNS timestamptz LANGUAGE sql VOLATILE AS
$$ SELECT coalesce(nullif(current_setting('ledger.moment', true), '')::timestamptz,
                   clock_timestamp() + ledger.ahead()) $$;

-- The end of the billing period in which an instant lies. Periods begin at midnight UTC on the anchor day.
CREATE FUNCTION ledger.period_end(moment timestamptz, anchor_day int) RETURNS timestamptz LANGUAGE sql IMMUTABLE AS
$$ SELECT (date_trunc('month', moment AT TIME ZONE 'UTC' - make_interval(days => anchor_day - 1))
           + interval '1 month' + make_interval(days => anchor_day - 1)) AT TIME ZONE 'UTC' $$;

-- What was planned from a complete reading before, for each customer, metric and slicing: a later change may be late.
CREATE TABLE ledger.planned_hours (
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    customer_id uuid NOT NULL,
    metric_id   uuid NOT NULL,
    slicing     text NOT NULL,
    hours       tstzmultirange NOT NULL,
    PRIMARY KEY (pair_id, metric_id, customer_id, slicing)
);
INSERT INTO ledger.planned_hours SELECT pair_id, customer_id, metric_id, slicing, covered FROM metronome.coverage;

ALTER TABLE ledger.events ADD late boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN ledger.events.late IS 'A change to an hour that had been read before, planned when the invoice of its period was final.';
CREATE INDEX events_late ON ledger.events (pair_id, event_id) WHERE late;

-- Checked row by row, these took a third of a plan and of a settlement. Their rows are written by single statements from
-- the very rows that they point at, and none is ever deleted.
ALTER TABLE ledger.events DROP CONSTRAINT events_pair_id_fkey;
ALTER TABLE ledger.open_events DROP CONSTRAINT open_events_event_id_fkey;
ALTER TABLE ledger.receipts DROP CONSTRAINT receipts_event_id_fkey;

ALTER TABLE ledger.receipts DROP CONSTRAINT receipts_outcome_check;
ALTER TABLE ledger.receipts ADD CONSTRAINT receipts_outcome_check CHECK (outcome IN (
    'delivered', 'restated', 'deleted', 'quarantined', 'held', 'released', 'dropped', 'superseded'));

-- What a held plan would do, event by event, for the person who decides.
ALTER TABLE ledger.brakes ADD plan jsonb;
ALTER TABLE ledger.brakes ADD spent_at timestamptz;
COMMENT ON COLUMN ledger.brakes.spent_at IS 'When the very window of a released plan was planned again.';

-- Slots that a revert took back: nothing is planned for them until a person releases them.
CREATE TABLE ledger.reverted_slots (
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    metric_id   uuid NOT NULL,
    customer_id uuid NOT NULL,
    start_at    timestamptz NOT NULL,
    end_at      timestamptz NOT NULL,
    slice       text NOT NULL,
    run_id      text NOT NULL,
    asked_by    text NOT NULL,
    at          timestamptz NOT NULL DEFAULT ledger.moment(),
    released_at timestamptz,
    released_by text,
    PRIMARY KEY (pair_id, metric_id, customer_id, start_at, end_at, slice)
);
COMMENT ON COLUMN ledger.reverted_slots.run_id IS 'The run whose events were taken back.';
-- Which event was taken back by which.
CREATE TABLE ledger.reverts (
    event_id    bigint PRIMARY KEY REFERENCES ledger.events,
    reverted_by bigint NOT NULL REFERENCES ledger.events
);

CREATE VIEW ledger.late_v1 AS
SELECT v.event_id, v.pair_id, v.customer_id, v.customer, v.metric_id, v.metric, v.start_at, v.properties, v.kind,
       v.revision, v.number, v.reference, v.planned_at, v.run_id, v.state, v.state_at
FROM ledger.events e JOIN ledger.events_v1 v USING (event_id) WHERE e.late;
COMMENT ON VIEW ledger.late_v1 IS 'Changes that came when the invoice of their period was final: sent anyway, or held.';
