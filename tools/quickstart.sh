#!/usr/bin/env bash
# From real text to a small MiniJoint model on two CPU cores. `make quickstart` runs it in the project's environment.
set -euo pipefail
cd "$(dirname "$0")/.."

step() { printf '\n== %s\n' "$*"; "$@"; }

step python tools/fetch_text.py libreoffice-help --languages en --out data/text
step python tools/prepare_data.py --text data/text/libreoffice-help.en.jsonl --language en \
    --vocab-size 8000 --block-length 64 --validation-share 0.03 --out data/quickstart-en
step deepspeed --num_gpus 2 launch/pretrain.py launch/recipes/quickstart/pretrain.yaml \
    --deepspeed_config ds_configs/zero1.json
rm -rf runs/quickstart-en/export
step python tools/export.py runs/quickstart-en runs/quickstart-en/export/primary
step python tools/export.py runs/quickstart-en runs/quickstart-en/export/mini --exit 2
step python tools/report.py runs/quickstart-en --out runs/quickstart-report

printf '\n== fill a mask with plain transformers\n'
python - <<'PYTHON'
from transformers import pipeline

for name in ("primary", "mini"):
    fill_mask = pipeline("fill-mask", model=f"runs/quickstart-en/export/{name}", top_k=3)
    sentence = "Click the <mask> to open the dialog."
    guesses = ", ".join(f"{guess['token_str']} ({guess['score']:.0%})" for guess in fill_mask(sentence))
    print(f"{name:8} {sentence}  ->  {guesses}")
PYTHON

printf '\nLoss curves: %s\n' "tensorboard --logdir runs"
