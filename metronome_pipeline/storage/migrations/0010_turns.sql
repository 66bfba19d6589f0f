-- Accounts with more pairs (customer, metric) than an hour's budget of requests can read: idle pairs take turns.

-- Pairs that an hourly run has chosen to read, until it ends; and those that it could not read.
CREATE TABLE metronome.turns (
    pair_id     int NOT NULL REFERENCES ledger.account_pairs,
    metric_id   uuid NOT NULL,
    customer_id uuid NOT NULL,
    until_at    timestamptz NOT NULL,
    failures    int NOT NULL DEFAULT 0,
    run_id      text NOT NULL,
    PRIMARY KEY (pair_id, metric_id, customer_id)
);
CREATE INDEX turns_run ON metronome.turns (run_id);
COMMENT ON TABLE metronome.turns IS 'Pairs (customer, metric) that an hourly run is about to read, where they take turns, and pairs that could not be read at their last turn.';
COMMENT ON COLUMN metronome.turns.until_at IS 'Hours before were asked for.';
COMMENT ON COLUMN metronome.turns.failures IS 'How often it could not be read since it last was.';

-- The last choice of each workflow. No row: all pairs fit into an hour, and none has to wait.
CREATE TABLE metronome.rotations (
    pair_id      int NOT NULL REFERENCES ledger.account_pairs,
    grouped      boolean NOT NULL,
    since        timestamptz NOT NULL DEFAULT ledger.moment(),
    until_at     timestamptz NOT NULL,
    pairs        int NOT NULL,
    active_pairs int NOT NULL,
    chosen_pairs int NOT NULL,
    longest      interval,
    cycle        interval NOT NULL,
    at           timestamptz NOT NULL DEFAULT ledger.moment(),
    run_id       text NOT NULL,
    PRIMARY KEY (pair_id, grouped)
);
COMMENT ON TABLE metronome.rotations IS 'Where pairs take turns: the last choice of an hourly run. grouped: of the workflow with properties.';
COMMENT ON COLUMN metronome.rotations.longest IS 'How long the pair has waited that waited longest, of those that were not chosen.';
COMMENT ON COLUMN metronome.rotations.cycle IS 'Within how long every pair is read at this pace.';
