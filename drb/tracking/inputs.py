"""What a run has trained on and what came of it, in MLflow's own entities: its data set and its model."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from drb.tracking.tracker import Data


def dataset_input(data: Data) -> Any:
    """The `DatasetInput` that fills the column Dataset of MLflow's pages."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    dataset = Dataset(data.name, data.digest, "local", data.source, profile=data.profile)
    return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


def log_model(client: Any, run: Any, name: str, files: Sequence[Path], step: int) -> None:
    """Make files the model of a run, once: a run that goes on may log its model again."""
    from mlflow.entities import LoggedModelOutput

    outputs = client.get_run(run.info.run_id).outputs
    if outputs is not None and outputs.model_outputs:
        return
    model = client.create_logged_model(run.info.experiment_id, name, source_run_id=run.info.run_id)
    with tempfile.TemporaryDirectory() as folder:  # MLflow takes whole folders
        for file in files:
            shutil.copy2(file, folder)
        client.log_model_artifacts(model.model_id, folder)
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step)])
