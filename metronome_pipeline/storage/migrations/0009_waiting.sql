-- What waits is found from the few events that wait, never from all that there are, however the tables were last counted.

-- The latest receipt of an event is one entry of the index. By the event alone, a table that was not analyzed since a large
-- backfill is read backwards for each event.
DROP INDEX ledger.receipts_event;
CREATE INDEX receipts_event ON ledger.receipts (event_id, receipt_id);

CREATE VIEW ledger.waiting_v1 AS
SELECT o.event_id, o.pair_id, e.customer_id, c.name AS customer, e.metric_id, m.name AS metric, e.start_at, e.end_at,
       e.slice, e.properties::jsonb AS properties, e.kind, e.number, e.reference, e.planned_at, e.run_id,
       CASE WHEN o.state = 'planned' AND EXISTS (
                SELECT FROM ledger.claims k WHERE k.pair_id = o.pair_id AND o.event_id = ANY (k.event_ids)) THEN 'sending'
            ELSE o.state END AS state,
       r.code, r.field, r.message, r.at AS state_at
FROM ledger.open_events o
-- OFFSET 0 keeps both look-ups by the event's own id: few wait, among millions.
CROSS JOIN LATERAL (SELECT * FROM ledger.events e WHERE e.event_id = o.event_id OFFSET 0) AS e
LEFT JOIN LATERAL (SELECT * FROM ledger.receipts r WHERE r.event_id = o.event_id ORDER BY r.receipt_id DESC LIMIT 1) r ON true
LEFT JOIN metronome.customers c ON c.pair_id = e.pair_id AND c.customer_id = e.customer_id
LEFT JOIN metronome.billable_metrics m ON m.pair_id = e.pair_id AND m.metric_id = e.metric_id;
COMMENT ON VIEW ledger.waiting_v1 IS 'Every event that is not settled, with its names and why it waits: planned, sending, quarantined or held.';

CREATE OR REPLACE VIEW ledger.quarantine_v1 AS
SELECT event_id, pair_id, customer, metric, start_at, properties, number, reference, code, field, message, state_at
FROM ledger.waiting_v1 WHERE state = 'quarantined';
COMMENT ON VIEW ledger.quarantine_v1 IS 'Every event that Solvimon has refused, with its reason.';
