"""launch/pretrain.py whose rank 1 alone gets a recipe that does not exist, as on a node whose disk is not mounted."""

import os
import runpy
import sys
from pathlib import Path

PRETRAIN = Path(__file__).resolve().parents[2] / "launch" / "pretrain.py"

if os.environ["RANK"] == "1":
    sys.argv[-1] = "only-here/gone.yaml"
sys.argv[0] = str(PRETRAIN)
runpy.run_path(str(PRETRAIN), run_name="__main__")
