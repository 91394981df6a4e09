#!/usr/bin/env bash
# Two clients: one with two classifiers and a task that writes replies, one with two classifiers. Their adapters are
# trained here in minutes on one model, and one server answers for all five.
#
#     make serve                          the embedded model, on http://127.0.0.1:8000
#     BACKBONE=gpt2 PORT=9000 make serve  another model, another port
#
# What was trained is kept in results/serve and not trained again.
set -euo pipefail

BACKBONE=${BACKBONE:-embedded}
PORT=${PORT:-8000}
OUT=${OUT:-results/serve}
STEPS=${STEPS:-20}
export AFINA_STORE="$OUT/store"
url="http://127.0.0.1:$PORT"

mkdir -p "$OUT"
[[ -d "$AFINA_STORE" ]] || afina store init

train() { # NAME: trains by the study file of the name, and publishes the adapter under it
    local task=${1#*/}
    afina study "$OUT/$task.toml" --out "$OUT/$task" --publish "$1" | tee "$OUT/$task.txt"
    afina store alias "$(sed -n 's/^published //p' "$OUT/$task.txt")" production
    touch "$OUT/$task/served"
}

for name in acme/movies acme/products bolt/tweets bolt/domains; do
    task=${name#*/}
    [[ ! -e "$OUT/$task/served" ]] || continue
    cat > "$OUT/$task.toml" << TOML
name = "$task"
backbone = "$BACKBONE"
task = "snippets:$task"

[data]
train_examples = 320
evaluation_examples = 200

[train]
max_steps = $STEPS

[methods.lora]
TOML
    train "$name"
done

if [[ ! -e "$OUT/replies/served" ]]; then
    cat > "$OUT/replies.toml" << TOML
name = "replies"
backbone = "$BACKBONE"
task = "$(dirname "$0")/replies.csv"

[data]
text = "review"
label = "reply"
kind = "text"

[ask]
template = "{review}\\n\\nReply:"

[train]
max_steps = $((3 * STEPS))
learning_rate = 2e-3

[methods.lora]
TOML
    train acme/replies
fi

for client in acme bolt; do
    key="$OUT/$client.key"
    [[ -s "$key" ]] || afina keys create "$client" --to "$key"
done

cat << LINES

Type, in another terminal:

curl -s $url/predict -H "Authorization: Bearer \$(cat $OUT/acme.key)" -H 'Content-Type: application/json' -d '{"model": "acme/movies@production", "inputs": "A film that I will see again."}'
curl -s $url/tasks -H "Authorization: Bearer \$(cat $OUT/acme.key)" -H 'Content-Type: application/json' -d '{"text": "It broke on the second day.", "models": ["acme/products", "acme/movies"]}'
curl -s $url/classify -H "Authorization: Bearer \$(cat $OUT/bolt.key)" -H 'Content-Type: application/json' -d '{"model": "bolt/domains", "input": ["my phone died again lol"]}'

The task acme/replies writes a text. OpenAI's protocol, at once and as a stream:

curl -s $url/v1/completions -H "Authorization: Bearer \$(cat $OUT/acme.key)" -H 'Content-Type: application/json' -d '{"model": "acme/replies@production", "prompt": "It broke on the second day."}'
curl -sN $url/v1/completions -H "Authorization: Bearer \$(cat $OUT/acme.key)" -H 'Content-Type: application/json' -d '{"model": "acme/replies@production", "prompt": "It broke on the second day.", "stream": true}'

The same in Python, after \`pip install openai\`:

from openai import OpenAI
client = OpenAI(base_url="$url/v1", api_key=open("$OUT/acme.key").read().strip())
print(client.completions.create(model="acme/replies@production", prompt="It broke on the second day.").choices[0].text)

The page is at $url/, its keys are in $OUT/acme.key and $OUT/bolt.key. Ctrl-C ends the server.

LINES

if [[ -t 1 ]]; then
    (until curl --silent --fail --output "$OUT/ready" "$url/health/ready"; do sleep 1; done && python3 -I -m webbrowser "$url/") &
fi
exec afina serve --backbone "$BACKBONE" --port "$PORT"
