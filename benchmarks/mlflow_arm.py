"""The MLflow side of `store.py`, run by an interpreter that has MLflow: executes the command in each line.

Publishing follows MLflow's documentation for files: a run, its artifacts, and a version of a registered model.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from pathlib import Path

import mlflow
from mlflow import MlflowClient

NAME = "acme-reviews"


def connect(root: Path) -> MlflowClient:
    """Tracking and registry in one SQLite file, artifacts beside it."""
    root.mkdir(parents=True, exist_ok=True)
    url = f"sqlite:///{root / 'mlflow.db'}"
    mlflow.set_tracking_uri(url)
    mlflow.set_registry_uri(url)
    if mlflow.get_experiment_by_name("adapters") is None:
        mlflow.create_experiment("adapters", artifact_location=(root / "artifacts").as_uri())
    mlflow.set_experiment("adapters")
    return MlflowClient()


def publish(client: MlflowClient, path: str) -> None:
    """A run with the directory as artifacts, and the next version."""
    with mlflow.start_run() as run:
        mlflow.log_artifacts(path, "adapter")
        client.create_model_version(NAME, f"{run.info.artifact_uri}/adapter", run.info.run_id, description="benchmark")


def main() -> None:
    """Serve, or list once."""
    logging.disable(logging.WARNING)
    client = connect(Path(sys.argv[1]))
    if sys.argv[2:] == ["list"]:
        for model in client.search_registered_models():
            print(model.name, [version.version for version in model.latest_versions], dict(model.aliases))
        return
    client.create_registered_model(NAME)
    print(json.dumps({"version": mlflow.__version__}), flush=True)
    for line in sys.stdin:
        what, *words = json.loads(line)
        start = time.perf_counter()
        if what == "publish":
            publish(client, *words)
        elif what == "alias":
            client.set_registered_model_alias(NAME, "production", "1")
        else:
            client.get_model_version_by_alias(NAME, "production")
        print(json.dumps({"seconds": time.perf_counter() - start}), flush=True)


if __name__ == "__main__":
    main()
