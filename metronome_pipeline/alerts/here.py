"""Here: one account's part of a Dagster instance, which may serve several accounts, each in a code location of its own.

Here: which runs and which assets are the account's. Not here: what is wrong with them (``of_dagster.py``).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.repository_definition import SINGLETON_REPOSITORY_NAME
from dagster._core.storage.tags import REPOSITORY_LABEL_TAG

from metronome_pipeline.automation.runs import is_of_account
from metronome_pipeline.settings import Settings
from metronome_pipeline.workflows.grouped_usage import grouped_usage_workflow
from metronome_pipeline.workflows.period_usage import period_usage_workflow
from metronome_pipeline.workflows.reconciliation_reports import reconciliation_key
from metronome_pipeline.workflows.tags import ACCOUNT
from metronome_pipeline.workflows.usage import usage_workflow


@dataclass(frozen=True)
class Here:
    """Whose runs and checks are meant: an instance may serve several code locations, one for each account pair.

    Attributes:
        instance: The instance.
        settings: Whose settings.
        location: The code location; None outside of a daemon, which knows it.
    """

    instance: dg.DagsterInstance
    settings: Settings
    location: str | None = None

    @property
    def label(self) -> Mapping[str, str]:
        """What finds the runs of this code location: Dagster labels whatever it launches, in storage only."""
        return {REPOSITORY_LABEL_TAG: f"{SINGLETON_REPOSITORY_NAME}@{self.location}"} if self.location else {}

    def owns(self, run: dg.DagsterRun) -> bool:
        """Whether a run is of this account. One that was launched from assets and never began is told by their keys."""
        account = self.settings.account_name
        if run.asset_selection and account and ACCOUNT not in run.tags:
            return all(key.path[0] == account for key in run.asset_selection)
        return is_of_account(run, account)

    def destination(self, job: str) -> dg.AssetKey | None:
        """The asset by which the work of a partitioned job is done."""
        workflows = (usage_workflow, grouped_usage_workflow, period_usage_workflow)
        made = [workflow(self.settings) for workflow in workflows]
        known = {f"ingest_{workflow.name}": workflow.destination for workflow in made}
        return {**known, "reconcile": reconciliation_key(self.settings)}.get(job)
