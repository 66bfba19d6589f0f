-- The last 35 UTC days by day and metric, today among them: how far what was delivered is what Metronome reports.

CREATE VIEW ledger.billing_health_v1 AS
WITH first AS MATERIALIZED (
    SELECT (date_trunc('day', ledger.moment() AT TIME ZONE 'UTC') - interval '34 days') AT TIME ZONE 'UTC' AS at
), observed AS (
    SELECT pair_id, metric_id, (start_at AT TIME ZONE 'UTC')::date AS day, sum(value) AS total, max(value) AS highest
    FROM metronome.hourly_totals WHERE start_at >= (SELECT at FROM first) GROUP BY 1, 2, 3
), told AS (
    SELECT e.pair_id, e.metric_id, (e.start_at AT TIME ZONE 'UTC')::date AS day, count(*) AS events,
           count(*) FILTER (WHERE e.accepted) AS delivered_events,
           sum(e.counted) FILTER (WHERE e.accepted) AS total, max(e.counted) FILTER (WHERE e.accepted) AS highest,
           count(*) FILTER (WHERE e.kind <> 'usage') AS corrections,
           sum(e.number) FILTER (WHERE e.kind = 'correction') AS corrected,
           count(*) FILTER (WHERE e.open) AS open_events, count(*) FILTER (WHERE e.late) AS late
    FROM (
        SELECT e.pair_id, e.metric_id, e.start_at, e.kind, e.number, e.late, o.event_id IS NOT NULL AS open,
               o.event_id IS NULL AND r.outcome IN ('delivered', 'restated', 'deleted', 'superseded') AS accepted,
               CASE WHEN s.event_id IS NULL THEN e.number ELSE s.number END AS counted
        FROM ledger.events e
        LEFT JOIN ledger.open_events o USING (event_id)
        LEFT JOIN ledger.restatements s USING (event_id)
        LEFT JOIN LATERAL (
            SELECT outcome FROM ledger.receipts r WHERE r.event_id = e.event_id ORDER BY r.receipt_id DESC LIMIT 1
        ) AS r ON true
        WHERE e.start_at >= (SELECT at FROM first)
    ) AS e GROUP BY 1, 2, 3
), unsettled AS (
    SELECT pair_id, metric_id, (start_at AT TIME ZONE 'UTC')::date AS day, count(*) AS hours
    FROM ledger.unsettled_hours WHERE start_at >= (SELECT at FROM first) GROUP BY 1, 2, 3
), compared AS (
    SELECT pair_id, metric_id, day,
           CASE WHEN bool_or(outcome = 'unread') THEN 'unread' WHEN bool_or(outcome = 'unexplained') THEN 'unexplained'
                WHEN bool_or(outcome = 'explained') THEN 'explained' ELSE 'equal' END AS outcome
    FROM ledger.reconciliations WHERE day >= ((SELECT at FROM first) AT TIME ZONE 'UTC')::date GROUP BY 1, 2, 3
), days AS (
    SELECT pair_id, metric_id, day, o.total AS observed, o.highest AS observed_highest, t.total, t.highest, t.events,
           t.delivered_events, t.corrections, t.corrected, t.open_events, t.late, u.hours, r.outcome
    FROM observed o
    FULL JOIN told t USING (pair_id, metric_id, day)
    FULL JOIN unsettled u USING (pair_id, metric_id, day)
    LEFT JOIN compared r USING (pair_id, metric_id, day)
)
SELECT d.pair_id, d.day, d.metric_id, m.name AS metric, c.calculation_type AS calculation, v.metronome, v.delivered,
       -- Once a metric is switched, its days are read again one after the other.
       CASE WHEN v.metronome IS NOT NULL OR EXISTS (
                SELECT FROM metronome.coverage w WHERE w.pair_id = d.pair_id AND w.metric_id = d.metric_id
                  AND w.covered && tstzrange(d.day::timestamp AT TIME ZONE 'UTC', (d.day + 1)::timestamp AT TIME ZONE 'UTC'))
            THEN coalesce(v.metronome, 0) - coalesce(v.delivered, 0) END AS difference,
       coalesce(d.events, 0) AS events,
       coalesce(d.delivered_events, 0) AS delivered_events, coalesce(d.corrections, 0) AS corrections, v.corrected,
       coalesce(d.open_events, 0) AS open_events, coalesce(d.hours, 0) AS unsettled_hours, coalesce(d.late, 0) AS late,
       d.outcome AS reconciled
FROM days d
LEFT JOIN metronome.billable_metrics m ON m.pair_id = d.pair_id AND m.metric_id = d.metric_id
LEFT JOIN solvimon.meters c ON c.pair_id = d.pair_id AND c.reference = d.metric_id::text
CROSS JOIN LATERAL (
    SELECT d.observed_highest AS metronome, d.highest AS delivered, NULL::numeric AS corrected
    WHERE c.calculation_type = 'MAX'
    UNION ALL
    SELECT d.observed, d.total, d.corrected WHERE c.calculation_type IS DISTINCT FROM 'MAX'
) AS v;
COMMENT ON VIEW ledger.billing_health_v1 IS 'The last 35 UTC days by day and metric: what Metronome reported when it was last read, what Solvimon has taken, and how much was corrected, is open, or came late. Maxima of MAX meters, sums of all others.';
