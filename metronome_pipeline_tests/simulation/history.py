"""The history of a simulation: every request as it was sent, what became of it, and what its sender was told."""

from dataclasses import dataclass, field
from urllib.parse import parse_qs


@dataclass(eq=False)
class Exchange:
    """One attempt of one request.

    Attributes:
        process: Name of the process that sent it.
        system: ``metronome`` or ``solvimon``.
        query: As it stands in the URL.
        departed: Virtual seconds.
        worked: When the API did its work, None if it never did.
        trouble: The kinds of trouble that befell it.
        status: What its sender was told, None without an answer.
        answer: The body that its sender got.
        answered: Virtual seconds; None without an answer.
    """

    number: int
    process: str
    system: str
    method: str
    path: str
    query: str
    body: bytes
    departed: float
    worked: float | None = None
    trouble: list[str] = field(default_factory=list)
    status: int | None = None
    answer: bytes = b""
    answered: float | None = None

    @property
    def cursor(self) -> str | None:
        """The page that it asks for."""
        return parse_qs(self.query).get("next_page", [None])[0]

    def __str__(self) -> str:
        """One line of a report."""
        told = "no answer" if self.status is None else str(self.status)
        trouble = f" [{', '.join(self.trouble)}]" if self.trouble else ""
        return f"{self.departed:12.3f} s  {self.process}  {self.method} {self.path}?{self.query[:60]} → {told}{trouble}"
