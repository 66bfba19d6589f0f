"""A run launcher that stands in for Kubernetes' and Docker's: each run is a process with a home folder of its own.

Those launchers start ``dagster api execute_run`` in a container of its own and tell the daemon when it has died. This
one does the same without containers. Named by the ``dagster.yaml`` that ``services.py`` writes.
"""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

import dagster as dg
from dagster._config.config_schema import UserConfigSchema
from dagster._core.launcher import CheckRunHealthResult, LaunchRunContext, RunLauncher, WorkerStatus
from dagster._grpc.types import ExecuteRunArgs
from dagster._serdes import ConfigurableClass, ConfigurableClassData, serialize_value

# Of the process: the daemon opens the instance in each of its threads.
_workers: dict[str, "subprocess.Popen[bytes]"] = {}


class ProcessForEachRun(RunLauncher[dg.DagsterInstance], ConfigurableClass):
    """Starts runs in processes, in folders beside each other that are named by the run."""

    def __init__(self, homes: str, inst_data: ConfigurableClassData | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._homes = Path(homes)
        self._inst_data = inst_data

    @property
    def inst_data(self) -> ConfigurableClassData | None:
        return self._inst_data

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {"homes": str}

    @classmethod
    def from_config_value(cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]) -> Self:
        return cls(inst_data=inst_data, **config_value)

    def launch_run(self, context: LaunchRunContext) -> None:
        run = context.dagster_run
        assert run.job_code_origin is not None
        home = self._homes / run.run_id
        home.mkdir()
        (home / "dagster.yaml").write_text((self._homes / "dagster.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        # Without an instance: as in a container, the worker finds its own in its own home.
        arguments = serialize_value(
            ExecuteRunArgs(run.job_code_origin, run.run_id, None, set_exit_code_on_failure=True)
        )
        with (home / "worker.log").open("ab") as log:
            worker = subprocess.Popen(
                [sys.executable, "-m", "dagster", "api", "execute_run", arguments],
                cwd=home,
                env={**os.environ, "DAGSTER_HOME": str(home)},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        _workers[run.run_id] = worker

    def terminate(self, run_id: str) -> bool:
        worker = _workers.get(run_id)
        if worker is None or worker.poll() is not None:
            return False
        worker.terminate()
        return True

    @property
    def supports_check_run_worker_health(self) -> bool:
        return True

    def check_run_worker_health(self, run: dg.DagsterRun) -> CheckRunHealthResult:
        worker = _workers.get(run.run_id)
        if worker is None:
            return CheckRunHealthResult(WorkerStatus.NOT_FOUND)
        match worker.poll():
            case None:
                return CheckRunHealthResult(WorkerStatus.RUNNING)
            case 0:
                return CheckRunHealthResult(WorkerStatus.SUCCESS)
            case status:
                return CheckRunHealthResult(WorkerStatus.FAILED, f"The worker ended with {status}.")
