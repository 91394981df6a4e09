"""The setfit side of `setfit_package.py`, run by an interpreter with the package: trains and predicts for each line.

    python setfit_arm.py MODEL THREADS

A line has training texts with labels, and evaluation texts. Trainer and TrainingArguments have the package's defaults,
except that nothing is reported or saved. Seconds are of the training with the fit of the head, without loading.
"""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import tempfile
import time

import setfit
import torch
from datasets import Dataset


def main() -> None:
    """Serve."""
    source, threads = sys.argv[1], int(sys.argv[2])
    torch.set_num_threads(threads)
    logging.disable(logging.WARNING)
    print(json.dumps({"version": setfit.__version__}), flush=True)
    for line in sys.stdin:
        given = json.loads(line)
        with tempfile.TemporaryDirectory() as out, contextlib.redirect_stdout(sys.stderr):
            model = setfit.SetFitModel.from_pretrained(source)
            train = Dataset.from_dict({"text": given["texts"], "label": given["labels"]})
            arguments = setfit.TrainingArguments(
                output_dir=out, seed=given["seed"], report_to="none", save_strategy="no", show_progress_bar=False
            )
            trainer = setfit.Trainer(model=model, args=arguments, train_dataset=train)
            start, processor = time.perf_counter(), time.process_time()
            trainer.train()
            spent = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}
            chances = torch.as_tensor(model.predict_proba(given["evaluation"])).tolist()
            steps = trainer.st_trainer.state.global_step
        print(json.dumps(spent | {"chances": chances, "steps": steps}), flush=True)


if __name__ == "__main__":
    main()
