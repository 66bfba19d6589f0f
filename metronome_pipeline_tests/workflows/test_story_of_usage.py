"""Sixty days of usage that changes after it was billed: after every sweep each difference is 0, or listed by the brake.

Late, negative, vanished and moved usage, with properties and without; archived and new customers and metrics;
decreases that the brake holds and such that it lets pass. Time is set ahead day by day, and each run is a real one.
"""

import random
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal

import dagster as dg

from metronome_pipeline_tests.world import START, World, failure

DAYS = 60
DAY = 24
LATE_DAYS = 33
SWEEP_EVERY = 4
ALIAS = "an-alias"


@dataclass
class Story:
    """An account whose days are always the same."""

    world: World
    chance: random.Random = field(default_factory=lambda: random.Random(11))
    customers: list[str] = field(default_factory=list)
    metrics: dict[str, str] = field(default_factory=dict)
    sent: list[tuple[int, str]] = field(default_factory=list)

    def begins(self) -> None:
        world = self.world
        world.at(START)
        world.environment["GROUPED_USAGE_ENABLED"] = "true"
        # What a customer uses in a week is far more than what ordinary changes take back; the moved alias is not.
        world.environment["BRAKE_FLOOR"] = "5000"
        self.customers = [world.customer("Acme", ingest_aliases=[ALIAS]), world.customer("Borealis")]
        self.metrics = {"calls": world.metric(name="Calls"), "peak": world.metric("MAX", name="Peak")}
        self.metrics["traffic"] = world.metric(name="Traffic", group_keys=[["region"]])
        world.imported()

    def day(self, number: int) -> None:
        """What happens in one day: usage of its own, some that is late or negative, some that vanishes."""
        if number in (20, 25, 30):
            self._changes_of_the_account(number)
        for customer in self.customers:
            for _ in range(3):
                self.use(customer, number)
        # Through the alias alone, so that it moves with it.
        for hour in range(3):
            self.world.use(ALIAS, self.metrics["calls"], number * DAY + hour, 1_000)
        if self.chance.random() < 0.7:
            self.use(self.chance.choice(self.customers), self.chance.randrange(max(0, number - LATE_DAYS), number + 1))
        if self.chance.random() < 0.3:
            # What vanishes from older days is the monthly sweep's to find.
            lately = [transaction for day, transaction in self.sent if day >= number - LATE_DAYS]
            gone = self.chance.sample(lately, 2)
            self.sent = [(day, transaction) for day, transaction in self.sent if transaction not in gone]
            self.world.metronome.call("POST", "/_sandbox/events/remove", {"transaction_ids": gone})

    def _changes_of_the_account(self, number: int) -> None:
        world = self.world
        if number == 20:
            self.customers.append(world.customer("Cassiopeia"))
        elif number == 25:
            self.metrics["jobs"] = world.metric("COUNT", name="Jobs")
        else:
            gone = self.customers.pop(1)
            world.metronome.call("POST", "/v1/customers/archive", {"id": gone})
        world.imported()

    def use(self, customer: str, number: int) -> None:
        """Something of everything in one hour of a day: fractions, now and then below zero, in one of three regions."""
        hour = number * DAY + self.chance.randrange(DAY)
        for metric in self.metrics.values():
            value = Decimal(self.chance.randrange(-200, 2_000)) / 100
            region = self.chance.choice(["eu", "us", "日本"])
            self.sent.append((number, self.world.use(customer, metric, hour, value, region=region)))

    def moves_the_alias(self, source: str, target: str) -> None:
        for customer, aliases in ((source, []), (target, [ALIAS])):
            self.world.metronome.call("POST", f"/v1/customers/{customer}/setIngestAliases", {"ingest_aliases": aliases})

    # Runs ------------------------------------------------------------------------------------------------------------

    def tick(self, number: int) -> None:
        """The day's hours are closed: both workflows take them, and look eight days back."""
        self.world.at(START + timedelta(days=number + 1, minutes=30))
        for job in ("ingest_usage", "ingest_grouped_usage"):
            if job == "ingest_usage" or number % 2:
                first = number if job == "ingest_usage" else number - 1
                result = self.world.ingest(first * DAY, number * DAY + 23, job=job, config={"look_back_days": 8})
                assert result.success, failure(result)

    def sweep(self, job: str) -> None:
        """A sweep, and every run that the sensor then requests."""
        result = self.world.run(job)
        assert result.success, failure(result)
        definitions = self.world.definitions()
        with dg.build_sensor_context(instance=self.world.instance, resources=definitions.resources) as context:
            requests = definitions.resolve_sensor_def("sweep_findings").evaluate_tick(context).run_requests or []
        for request in requests:
            assert request.job_name is not None
            done = self.world.run(request.job_name, config=request.run_config, tags=request.tags)
            assert done.success, failure(done)

    # What holds ------------------------------------------------------------------------------------------------------

    def differences(self) -> dict[tuple[str, str], Decimal]:
        """Metronome's total less Solvimon's of each pair, over everything, where they differ."""
        within = {"from": START.isoformat(), "to": (START + timedelta(days=DAYS + 1)).isoformat()}
        metered = self.world.metronome.call("GET", "/_sandbox/totals", **within)["rows"]
        counted = self.world.solvimon.call("GET", "/_sandbox/totals", **within)["rows"]
        left = {(row["customer_id"], row["metric_id"]): Decimal(row["value"]) for row in metered}
        right = {
            (row["customer_reference"], row["meter_reference"]): Decimal(row["value"])
            for row in counted
            if row["value"] is not None
        }
        pairs = left.keys() | right.keys()
        found = {pair: left.get(pair, Decimal(0)) - right.get(pair, Decimal(0)) for pair in pairs}
        return {pair: difference for pair, difference in found.items() if difference}

    def held(self) -> set[str]:
        """The customers that the brake holds."""
        held = "SELECT customer_id::text FROM ledger.brakes WHERE released_at IS NULL AND customer_id IS NOT NULL"
        return {customer for (customer,) in self.world.sql(held)}

    def agrees(self, number: int) -> None:
        """Each difference is 0, or its customer is one that the brake holds and lists."""
        held = self.held()
        unlisted = {pair: value for pair, value in self.differences().items() if pair[0] not in held}
        assert unlisted == {}, (number, self.customers, self.metrics)


def test_sixty_days_of_changing_usage_stay_exact_or_are_listed_after_every_sweep(world: World) -> None:
    story = Story(world)
    story.begins()
    acme = story.customers[0]
    for number in range(DAYS):
        if number == 40:
            story.moves_the_alias(acme, story.customers[1])
        story.day(number)
        story.tick(number)
        if number % SWEEP_EVERY == SWEEP_EVERY - 1:
            story.sweep("sweep_usage")
            if number % 8 == 7:
                story.sweep("sweep_usage_by_hour")
            if number == 43:
                story.sweep("sweep_closed_periods")
                assert {acme, story.customers[1]} <= story.held(), "a moved alias brakes its two customers"
                assert story.differences(), "and nothing of it was sent"
                world.sql("UPDATE ledger.brakes SET released_at = ledger.moment(), released_by = 'Ana'")
                story.tick(number)
                story.sweep("sweep_usage")
            story.agrees(number)
    story.sweep("sweep_closed_periods")
    assert story.held() == set()
    assert story.differences() == {}
    assert world.sql("SELECT count(*) FROM ledger.unsettled_hours") == [(0,)]
    assert world.sql("SELECT count(*) FROM ledger.findings WHERE state = 'open'") == [(0,)]
    assert world.sql("SELECT count(*) > 20 FROM ledger.events WHERE kind <> 'usage'") == [(True,)]
    assert world.sql("SELECT count(*) > 3 FROM ledger.events WHERE kind = 'deletion'") == [(True,)]
