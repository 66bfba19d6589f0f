"""The sensor of alerts on a world, tick by tick, with what a webhook took of it."""

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import dagster as dg

from metronome_pipeline_tests.alerts.receivers import Hook
from metronome_pipeline_tests.world import START, World


def at_hour(hours: float) -> datetime:
    """A moment counted from START, in hours."""
    return START + timedelta(hours=hours)


@dataclass
class Watch:
    """One account pair whose problems are told to a webhook."""

    world: World
    hook: Hook
    variables: dict[str, str] = field(default_factory=dict)

    def tick(self, **variables: str) -> str:
        """What the daemon does every minute; what the tick says."""
        definitions = self.world.definitions(ALERT_WEBHOOK_URL=self.hook.url, **self.variables, **variables)
        repository = definitions.get_repository_def()
        context = dg.build_sensor_context(
            instance=self.world.instance, repository_def=repository, resources=definitions.resources
        )
        found = repository.get_sensor_def("alerts").evaluate_tick(context)
        assert not found.run_requests
        return str(found.skip_message)

    def told(self, **variables: str) -> list[str]:
        """The subjects that a tick sent, without the environment."""
        self.tick(**variables)
        subjects = self.hook.taken()
        assert all(subject.startswith("[sandbox] ") for subject in subjects), subjects
        return [subject.removeprefix("[sandbox] ") for subject in subjects]

    def silent(self, **variables: str) -> None:
        """Nothing is told by two ticks."""
        for _ in range(2):
            assert self.told(**variables) == []
