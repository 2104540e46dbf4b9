"""What a run has trained on and what came of it, in MLflow's own entities: its data set and its model.

In every function, `client` is an MlflowClient and `run` MLflow's Run there.
"""

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


def copy_data_and_model(client: Any, run: Any, to: Any, to_run: Any) -> None:
    """Give another run what this one has trained on and its model, whose files lie on this machine, if it has none."""
    from mlflow.utils.file_utils import local_file_uri_to_path

    own, others = client.get_run(run.info.run_id), to.get_run(to_run.info.run_id)
    if own.inputs.dataset_inputs and not others.inputs.dataset_inputs:
        to.log_inputs(to_run.info.run_id, own.inputs.dataset_inputs)
    for output in own.outputs.model_outputs:
        model = client.get_logged_model(output.model_id)
        files = sorted(Path(local_file_uri_to_path(model.artifact_location)).iterdir())
        log_model(to, to_run, model.name, files, output.step)
