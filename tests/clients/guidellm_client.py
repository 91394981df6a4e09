"""guidellm, a load generator for servers of language models."""
# /// script
# dependencies = ["guidellm"]
# ///

import json
import os
import subprocess
import tempfile
from pathlib import Path

from checks import ANSWERS, KEY, URL, check, main


def measured(kind, model):
    with tempfile.TemporaryDirectory() as directory:
        out = Path(directory, "out.json")
        command = [
            *(Path(os.environ["AFINA_PATH"], "guidellm"), "run", "--profile", "kind=synchronous"),
            *("--backend", f"kind=openai_http,target={URL},model={model},request_format={kind},api_key={KEY}"),
            *("--constraint", "kind=max_requests,count=5", "--output", f"kind=json,path={out}"),
            *("--data", "kind=synthetic_text,prompt_tokens=16,output_tokens=8"),
            *("--tokenizer", f"kind=hf_auto,model={ANSWERS['merged']}", "--disable-console"),
        ]
        done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (done.stdout + done.stderr)[-500:]
        (found,) = json.loads(out.read_text())["benchmarks"]
    counts = found["metrics"]["request_totals"]
    assert (counts["successful"], counts["errored"]) == (5, 0), found["requests"]["errored"][0]["info"]["error"]


@check
def chat():
    """five chats"""
    measured("/v1/chat/completions", "acme/talk")


@check
def text():
    """five completions"""
    measured("/v1/completions", "acme/told")


main()
