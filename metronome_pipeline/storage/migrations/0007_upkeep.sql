-- Upkeep: a ledger that knows it was restored, raw usage that is no longer kept, and people who asked to be forgotten.

-- Where these tables live. They live elsewhere once they were restored from a backup or taken over by a standby, and then
-- Solvimon may have been told things that they have forgotten.
CREATE TABLE ledger.home (
    only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row),
    place    text NOT NULL,
    since    timestamptz NOT NULL DEFAULT ledger.moment()
);
ALTER TABLE ledger.account_pairs ADD restored_at timestamptz;
COMMENT ON COLUMN ledger.account_pairs.restored_at IS 'When this ledger was last found to be restored. Events of earlier hours are looked up in Solvimon before they are sent.';

-- Hours that were read and planned, and whose usage is no longer kept: nothing is planned for them from here, and they
-- are not read again unasked.
ALTER TABLE metronome.coverage ADD retired tstzmultirange NOT NULL DEFAULT '{}';

-- A customer whose personal data was erased: later imports leave the row as it is.
ALTER TABLE metronome.customers ADD erased_at timestamptz;
CREATE TABLE ledger.erasures (
    pair_id      int NOT NULL REFERENCES ledger.account_pairs,
    customer_id  uuid NOT NULL,
    asked_by     text NOT NULL,
    at           timestamptz NOT NULL DEFAULT ledger.moment(),
    forgotten_at timestamptz,
    PRIMARY KEY (pair_id, customer_id)
);
COMMENT ON TABLE ledger.erasures IS 'Customers whose personal data was erased on request, and when Solvimon was seen to forget them as well.';

-- Databases of before may lack it: when the very window of a released plan was planned again.
ALTER TABLE ledger.brakes ADD COLUMN IF NOT EXISTS spent_at timestamptz;
