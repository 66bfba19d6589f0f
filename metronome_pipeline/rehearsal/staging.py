"""The shelf of a rehearsal: complete walks are put aside as any are, and never stored.

Not here: what is planned from them (``rehearsal.py``), and the shelf of a run (``shelf.py``).
"""

from dataclasses import dataclass, field

from metronome_pipeline.ledger import readings
from metronome_pipeline.ledger.readings import Connection, Reading
from metronome_pipeline.ledger.shelf import Shelf


@dataclass
class StagedShelf(Shelf):
    """A shelf whose complete walks stay put aside in the database until they are given back. Nothing is stored."""

    complete: list[Reading] = field(default_factory=list)

    async def tidy(self) -> None:
        """Nothing: a rehearsal does not even clear up."""

    async def store(self) -> None:
        """Puts every complete walk that waits aside."""
        waiting, self._waiting, self._waiting_rows = self._waiting, [], 0

        def work(connection: Connection) -> None:
            for walk, rows, _ in waiting:
                readings.stage(connection, walk, rows)

        if waiting:
            await self.database.run(work)
        complete = [reading for _, _, readings_of_walk in waiting for reading in readings_of_walk]
        self.complete += complete
        self._stored += len(complete)
        self._short_hours += sum(len(reading.short_hours) for reading in complete)

    async def clear(self) -> None:
        """Forgets what did not complete. What did is still wanted."""
        wanted = {reading.walk.walk_id for reading in self.complete}
        if unfinished := [walk for walk_id, walk in self._begun.items() if walk_id not in wanted]:
            await self.discard(unfinished)

    async def give_back(self) -> None:
        """Forgets everything."""
        self.complete = []
        await super().clear()
