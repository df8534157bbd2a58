#!/usr/bin/env bash
# All four steps on two CPU cores: English MiniJoint from real text, German over its mini-model and over the whole model,
# an English task, zero-shot German, a report. `make quickstart` runs it in the project's environment.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; "$@"; }

fill_mask() { # MODEL SENTENCE
    python - "$@" <<'PYTHON'
import sys

from transformers import pipeline

model, sentence = sys.argv[1:]
guesses = pipeline("fill-mask", model=model, top_k=3)(sentence)
print(f"{sentence}  -> ", ", ".join(f"{guess['token_str']} ({guess['score']:.0%})" for guess in guesses))
PYTHON
}

step python tools/fetch_text.py libreoffice-help --languages en de --out data/text
for language in en de; do
    step python tools/prepare_data.py --text "data/text/libreoffice-help.$language.jsonl" --language "$language" \
        --vocab-size 8000 --block-length 64 --validation-share 0.03 --out "data/quickstart-$language"
done

# Step 1: pretrain with an exit.
step deepspeed --num_gpus 2 launch/pretrain.py launch/recipes/quickstart/pretrain.yaml \
    --deepspeed_config ds_configs/zero1.json
rm -rf runs/quickstart-en/export
step python tools/export.py runs/quickstart-en runs/quickstart-en/export/primary
step python tools/export.py runs/quickstart-en runs/quickstart-en/export/mini --exit 2

# Step 2: German, over the mini-model and, for comparison, over the whole model; both for as many tokens.
step python launch/adapt.py launch/recipes/quickstart/adapt_mini.yaml
step python launch/adapt.py launch/recipes/quickstart/adapt_standard.yaml
rm -rf runs/quickstart-de-mini/export
step python tools/export.py runs/quickstart-en/export/primary runs/quickstart-de-mini/export \
    --pack runs/quickstart-de-mini/packs/de

# Steps 3 and 4: fine-tune in English, evaluate in German.
step python launch/finetune.py launch/recipes/quickstart/finetune.yaml
step python launch/evaluate.py launch/recipes/quickstart/evaluate.yaml
step python tools/report.py runs/quickstart-en runs/quickstart-de-mini runs/quickstart-de-standard \
    runs/quickstart-zero-shot --out runs/quickstart-report

printf '\n== fill a mask with plain transformers: the primary model in English, the mini-model, the primary in German\n'
fill_mask runs/quickstart-en/export/primary "Click the <mask> to open the dialog."
fill_mask runs/quickstart-en/export/mini "Click the <mask> to open the dialog."
fill_mask runs/quickstart-de-mini/export "Klicken Sie auf das <mask>, um den Dialog zu öffnen."

printf '\n== the result\n'
sed -n 3p runs/quickstart-report/report.md # the two sentences under its title
printf '\nReport: %s\nLoss curves: %s\n' runs/quickstart-report/report.html "tensorboard --logdir runs"
