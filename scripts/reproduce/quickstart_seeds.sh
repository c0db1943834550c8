#!/usr/bin/env bash
# The quickstart's three trainings with several seeds: mean and spread of the accuracy.
# usage: scripts/reproduce/quickstart_seeds.sh [SEED ...]     by default 0 1 2 3 4; complete runs are not run again
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/environment.sh
RUNS="${RUNS:-runs/quickstart_seeds}"
seeds=("${@:-0 1 2 3 4}")
for seed in ${seeds[@]}; do
    python -m experiments.train --flagfile=experiments/configs/digits_teacher.flags --seed="$seed" --run="$RUNS/teacher$seed"
    python -m experiments.train --flagfile=experiments/configs/digits_baseline.flags --seed="$seed" --run="$RUNS/baseline$seed"
    python -m experiments.distill --flagfile=experiments/configs/digits_distill.flags --seed="$seed" \
        --teacher="$RUNS/teacher$seed" --run="$RUNS/distilled$seed"
done | grep --line-buffered "accuracy"
python - "$RUNS" ${seeds[@]} <<'SUMMARY'
import json, statistics, sys
runs, seeds = sys.argv[1], sys.argv[2:]
for kind in ("teacher", "baseline", "distilled"):
    accuracies = [100 * json.load(open(f"{runs}/{kind}{seed}/result.json"))["last"]["val_accuracy"] for seed in seeds]
    listed = " ".join(f"{accuracy:.2f}" for accuracy in accuracies)
    spread = statistics.stdev(accuracies) if len(accuracies) > 1 else float("nan")
    print(f"{kind:9s} {statistics.mean(accuracies):.2f} % +- {spread:.2f}   {listed}")
SUMMARY
