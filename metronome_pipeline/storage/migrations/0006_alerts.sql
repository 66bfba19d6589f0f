-- What people were told: a row for each problem and channel. A problem is told once, and once more when it is over.

CREATE TABLE ledger.alerts (
    alert_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pair_id  int NOT NULL REFERENCES ledger.account_pairs,
    channel  text NOT NULL,
    problem  text NOT NULL,
    kind     text NOT NULL,
    headline text NOT NULL,
    state    text NOT NULL,
    first_at timestamptz NOT NULL DEFAULT ledger.moment(),
    told_at  timestamptz NOT NULL DEFAULT ledger.moment(),
    over_at  timestamptz
);
COMMENT ON TABLE ledger.alerts IS 'Problems that people were told of, by channel. Written once the channel had taken the message: after a crash in between it is sent again.';
COMMENT ON COLUMN ledger.alerts.problem IS 'What makes it one problem, however it changes.';
COMMENT ON COLUMN ledger.alerts.state IS 'What of it was told: it is told again, after ALERT_REMIND_HOURS, where this has changed.';
COMMENT ON COLUMN ledger.alerts.over_at IS 'When people were told that it is over. Null: it is not.';
CREATE UNIQUE INDEX alerts_open ON ledger.alerts (pair_id, channel, problem) WHERE over_at IS NULL;

-- For questions by time, such as a dashboard's: both tables are appended to, so that blocks are in order of time.
CREATE INDEX receipts_at ON ledger.receipts USING brin (at);
CREATE INDEX events_planned_at ON ledger.events USING brin (planned_at);
