-- Sweeps: looks back over what was billed, coarse to fine, and what they found.

CREATE TABLE ledger.sweeps (
    sweep_id    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    kind        text NOT NULL CHECK (kind IN ('usage', 'usage_by_hour', 'closed_periods')),
    start_at    timestamptz NOT NULL,
    end_at      timestamptz NOT NULL,
    pairs       int NOT NULL DEFAULT 0,
    began_at    timestamptz NOT NULL DEFAULT ledger.moment(),
    taken_up_at timestamptz NOT NULL DEFAULT ledger.moment(),
    ended_at    timestamptz,
    outcome     text CHECK (outcome IN ('complete', 'incomplete')),
    run_id      text NOT NULL,
    CHECK ((ended_at IS NULL) = (outcome IS NULL))
);
COMMENT ON TABLE ledger.sweeps IS 'Each look back over what was billed, with the window that it began with. run_id: the last run that took it up. incomplete: given up after a day, with pairs that nobody had asked for.';
CREATE UNIQUE INDEX sweeps_unfinished ON ledger.sweeps (pair_id, kind) WHERE ended_at IS NULL;
CREATE INDEX sweeps_ended ON ledger.sweeps (pair_id, kind, sweep_id);

-- What a sweep asks for, and what of it is done, so that one that was cut short asks only the rest. Once a sweep has
-- ended, only pairs that could not be read, or were not asked for, are left.
CREATE TABLE ledger.sweep_pairs (
    sweep_id    bigint NOT NULL REFERENCES ledger.sweeps,
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    customer_id uuid NOT NULL,
    metric_id   uuid NOT NULL,
    done_at     timestamptz,
    unread      text,
    PRIMARY KEY (sweep_id, customer_id, metric_id)
);
-- Days that differ from the ledger, and are to be read by hour. value: the day's total that differed.
CREATE TABLE ledger.sweep_days (
    sweep_id    bigint NOT NULL REFERENCES ledger.sweeps,
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    customer_id uuid NOT NULL,
    metric_id   uuid NOT NULL,
    day         timestamptz NOT NULL,
    value       numeric,
    at          timestamptz NOT NULL DEFAULT ledger.moment(),
    read_at     timestamptz,
    PRIMARY KEY (sweep_id, customer_id, metric_id, day)
);

-- Days as they were last proved, and how. Where days and hours of a metric do not compare, value is the day's total at
-- the last time its hours were read.
CREATE TABLE metronome.day_totals (
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    customer_id uuid NOT NULL,
    metric_id   uuid NOT NULL,
    day         timestamptz NOT NULL,
    value       numeric,
    by_day_at   timestamptz,
    by_hour_at  timestamptz,
    PRIMARY KEY (pair_id, metric_id, customer_id, day)
);
COMMENT ON COLUMN metronome.day_totals.by_day_at IS 'When the total of this UTC day was last read, and was what it should be.';
COMMENT ON COLUMN metronome.day_totals.by_hour_at IS 'When a sweep last read the hours of this UTC day.';

-- The total of each hour as it was last read, whichever way its metric is billed.
CREATE VIEW metronome.hourly_totals AS
SELECT pair_id, customer_id, metric_id, start_at, value, false AS grouped FROM metronome.usage
UNION ALL
SELECT pair_id, customer_id, metric_id, start_at, value, true FROM metronome.grouped_usage WHERE slice = 'total';

CREATE TABLE ledger.findings (
    finding_id  bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    sweep_id    bigint NOT NULL REFERENCES ledger.sweeps,
    customer_id uuid NOT NULL,
    metric_id   uuid NOT NULL,
    slicing     text NOT NULL,
    from_at     timestamptz NOT NULL,
    to_at       timestamptz NOT NULL,
    hours       tstzmultirange NOT NULL,
    committed   numeric,
    observed    numeric,
    state       text NOT NULL DEFAULT 'open' CHECK (state IN ('open', 'planned', 'void')),
    attempts    int NOT NULL DEFAULT 0,
    found_at    timestamptz NOT NULL DEFAULT ledger.moment(),
    planned_by  text,
    UNIQUE (sweep_id, customer_id, metric_id, from_at)
);
COMMENT ON TABLE ledger.findings IS 'Hours that a sweep found to differ from the ledger, by customer, metric and stretch of up to 8 days. Their readings are stored. state: open until a run has planned them; void where the metric is no longer billed that way.';
COMMENT ON COLUMN ledger.findings.committed IS 'What the ledger counts in these hours: a sum; of a MAX metric the highest.';
CREATE INDEX findings_open ON ledger.findings (pair_id, sweep_id) WHERE state = 'open';
