"""Running several coroutines at once, with errors that read like those of one."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any


async def work_together(worker: Callable[[], Coroutine[Any, Any, None]], workers: int) -> None:
    """Runs ``worker`` so many times at once. The first error cancels the others and is raised alone, not in a group."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(workers):
                tasks.create_task(worker())
    except BaseExceptionGroup as group:
        raise _innermost(group) from None


def _innermost(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error
