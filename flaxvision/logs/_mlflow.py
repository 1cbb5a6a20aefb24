"""MLflow: an experiment per sweep in FOLDER/mlflow.db, or where MLFLOW_TRACKING_URI says."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping

from flaxvision.logs._logger import About

TRIAL = "flaxvision.id"
ENDINGS = {"ok": "FINISHED", "diverged": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}


class MLflow:
    """A run of the experiment that is named like its sweep's directory."""

    def __init__(self, about: About):
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read when it is imported
        from mlflow import MlflowClient
        from mlflow.entities import Param

        about.folder.mkdir(parents=True, exist_ok=True)
        self.client = MlflowClient(os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{about.folder / 'mlflow.db'}")
        self.began = time.time()
        found = self.client.get_experiment_by_name(about.group)
        experiment = found.experiment_id if found else self.client.create_experiment(about.group)
        before = self.client.search_runs([experiment], f"tags.`{TRIAL}` = '{about.id}'")
        if before:  # it goes on
            self.id = before[0].info.run_id
            self.client.update_run(self.id, status="RUNNING")
            return
        self.id = self.client.create_run(experiment, run_name=about.name, tags={TRIAL: about.id}).info.run_id
        self.client.log_batch(self.id, params=[Param(key, str(value)) for key, value in about.settings.items()])

    def log(self, metrics: Mapping[str, float], step: int, seconds: float) -> None:
        """Add a point to each curve; it keeps no value that is not finite."""
        from mlflow.entities import Metric

        at = round(1000 * (self.began + seconds))
        points = [Metric(name, value, at, step) for name, value in metrics.items() if math.isfinite(value)]
        self.client.log_batch(self.id, metrics=points)

    def end(self, status: str, final: Mapping[str, float]) -> None:
        """Add the numbers that stand for the run, and end it."""
        from mlflow.entities import Metric

        now = round(1000 * time.time())
        self.client.log_batch(self.id, metrics=[Metric(f"final_{name}", x, now, 0) for name, x in final.items()])
        self.client.set_tag(self.id, "status", status)
        self.client.set_terminated(self.id, ENDINGS[status])
