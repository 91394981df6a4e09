"""lm-eval: log-likelihoods of a served adapter are those of the merged adapter in transformers."""
# /// script
# dependencies = ["lm_eval[api,hf]"]
# ///

import json
import os
import subprocess
import tempfile
from pathlib import Path

from checks import ANSWERS, KEY, URL, check, main

CHOICE = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {data}
output_type: multiple_choice
test_split: train
doc_to_text: "{{{{text}}}}"
doc_to_choice: ["good", "bad"]
doc_to_target: "{{{{label}}}}"
target_delimiter: " "
metric_list:
  - metric: acc
"""
PERPLEXITY = """task: {name}
dataset_path: json
dataset_kwargs:
  data_files: {data}
output_type: loglikelihood_rolling
test_split: train
doc_to_text: ""
doc_to_target: "{{{{text}}}}"
metric_list:
  - metric: word_perplexity
"""


def evaluated(task, directory, model, arguments):
    out = Path(directory, f"out-{model}")
    command = [str(Path(os.environ["AFINA_PATH"], "lm_eval")), "--model", model, "--model_args", arguments]
    command += ["--tasks", task, "--include_path", directory, "--output_path", str(out), "--log_samples"]
    command += ["--device", "cpu"] if model == "hf" else []
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OPENAI_API_KEY": KEY, "HF_HOME": directory, "HF_DATASETS_OFFLINE": "1"},
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-500:]
    (samples,) = out.rglob("samples_*.jsonl")
    return [json.loads(line)["filtered_resps"] for line in samples.read_text().splitlines()]


def compared(task, source):
    rows = [{"text": one, "label": number % 2} for number, one in enumerate(ANSWERS["texts"])]
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory, "data.jsonl")
        data.write_text("".join(f"{json.dumps(one)}\n" for one in rows))
        Path(directory, f"{task}.yaml").write_text(source.format(name=task, data=data))
        words = ANSWERS["merged"]
        to = f"model=acme/told,base_url={URL}/v1/completions,tokenizer={words},tokenizer_backend=huggingface"
        served = evaluated(task, directory, "local-completions", f"{to},add_bos_token=True")
        plain = evaluated(task, directory, "hf", f"pretrained={words},dtype=float32,add_bos_token=True")
    assert len(served) == len(plain) == len(rows)
    for found, expected in zip(flat(served), flat(plain), strict=True):
        assert found == expected or abs(float(found) - float(expected)) < 1e-3, (found, expected)


def flat(found):
    """Log-likelihoods, and whether they are of the most probable tokens, one after the other."""
    return [one for each in found for one in flat(each)] if isinstance(found, list) else [found]


@check
def choice():
    """a task of multiple choice"""
    compared("afina_choice", CHOICE)


@check
def perplexity():
    """a task of rolling log-likelihoods"""
    compared("afina_perplexity", PERPLEXITY)


main()
