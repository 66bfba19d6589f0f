-- What reconciliations found: a row for each customer, metric and UTC day in which either side has anything.

CREATE TABLE ledger.reconciliations (
    pair_id      int NOT NULL REFERENCES ledger.account_pairs,
    customer_id  uuid NOT NULL,
    metric_id    uuid NOT NULL,
    day          date NOT NULL,
    metronome    numeric,
    ledger       numeric,
    delivered    numeric,
    solvimon     numeric,
    difference   numeric,
    events       int NOT NULL,
    acknowledged int NOT NULL,
    outcome      text NOT NULL CHECK (outcome IN ('equal', 'explained', 'unexplained', 'unread')),
    reasons      text[] NOT NULL,
    granularity  text NOT NULL CHECK (granularity IN ('day', 'hour', 'event')),
    at           timestamptz NOT NULL DEFAULT ledger.moment(),
    run_id       text NOT NULL,
    PRIMARY KEY (pair_id, day, metric_id, customer_id)
);
COMMENT ON TABLE ledger.reconciliations IS 'What the last reconciliation of a day found for a customer and metric. A pair without usage and events that day has no row.';
COMMENT ON COLUMN ledger.reconciliations.metronome IS 'Read afresh. Null: no usage, or not read (outcome unread).';
COMMENT ON COLUMN ledger.reconciliations.ledger IS 'What plan counts: everything planned, waiting and taken.';
COMMENT ON COLUMN ledger.reconciliations.delivered IS 'What Solvimon has taken: by its receipts, or by its events where granularity is event.';
COMMENT ON COLUMN ledger.reconciliations.solvimon IS 'Read back event by event; null where only receipts were looked at. Never computed from rows of the ledger.';
COMMENT ON COLUMN ledger.reconciliations.difference IS 'metronome less delivered; null where one of two maxima is missing.';
COMMENT ON COLUMN ledger.reconciliations.granularity IS 'At which the figures were proved.';

CREATE VIEW ledger.reconciliations_v1 AS
SELECT r.pair_id, r.day, r.customer_id, c.name AS customer, r.metric_id, m.name AS metric, r.metronome, r.ledger,
       r.delivered, r.solvimon, r.difference, r.events, r.acknowledged, r.outcome, r.reasons, r.granularity, r.at, r.run_id
FROM ledger.reconciliations r
LEFT JOIN metronome.customers c ON c.pair_id = r.pair_id AND c.customer_id = r.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = r.pair_id AND m.metric_id = r.metric_id;
COMMENT ON VIEW ledger.reconciliations_v1 IS 'Metronome''s, the ledger''s and Solvimon''s totals by customer, metric and day, with names.';
