"""Answers that a test puts in the place of the next ones: wrong types, missing fields, anything that no knob can say.

Here: the form of such an answer and its choice. Not here: broken connections and statuses (those are faults).
"""

from typing import Any

import msgspec
from starlette.responses import Response

from metronome_pipeline.sandbox.solvimon.wire import encode


class CannedAnswer(msgspec.Struct, forbid_unknown_fields=True):
    """One answer. The work of the request is not done.

    Attributes:
        path: Exact path, or a prefix when it ends in ``*``.
        method: HTTP method, or ``*`` for any.
        body: Text is sent as it is, anything else as JSON.
        times: How often it is given; ``None`` means from now on.
    """

    path: str
    method: str = "*"
    status: int = 200
    body: Any = None
    headers: dict[str, str] = {}
    times: int | None = 1

    def answers(self, method: str, path: str) -> bool:
        """Whether it is the answer to this request."""
        there = path.startswith(self.path[:-1]) if self.path.endswith("*") else path == self.path
        return there and self.method.upper() in {"*", method} and self.times != 0


def take(canned: list[CannedAnswer], method: str, path: str) -> Response | None:
    """The first answer in the list that is for this request, used up by one; ``None`` where there is none."""
    for answer in canned:
        if answer.answers(method, path):
            answer.times = None if answer.times is None else answer.times - 1
            content = answer.body if isinstance(answer.body, str) else encode(answer.body)
            named = {name.lower(): value for name, value in answer.headers.items()}
            return Response(content, answer.status, headers={"content-type": "application/json", **named})
    return None
