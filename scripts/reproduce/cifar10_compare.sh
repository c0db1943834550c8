#!/usr/bin/env bash
# experiments/results/cifar10_compare.md: a teacher, nine recipes with three seeds, and the report page of the best recipe.
# usage: bash scripts/reproduce/cifar10_compare.sh [FLAGS, such as --data_dir=...]     resumes if interrupted
set -euo pipefail
cd "$(dirname "$0")/../.."
. scripts/environment.sh ""
python -m experiments.train --flagfile=experiments/configs/cifar10_strong_teacher.flags --run=runs/resnet20_strong "$@"
python -m experiments.compare --flagfile=experiments/configs/cifar10_compare.sweep --sweep=runs/compare \
    --output=runs/compare "$@"
read -r baseline best < <(python - <<'END'
import csv
baseline, *students = csv.DictReader(open("runs/compare/compare.csv"))
print(baseline["first_run"], max(students, key=lambda row: float(row["last"]))["first_run"])
END
)
python -m experiments.evaluate --teacher=runs/resnet20_strong --model="$baseline" --model="$best" \
    --other_data=mnist --examples=500 --max_accuracy_drop=0.05 --min_agreement=0.9 --max_parameters_ratio=0.5 \
    --max_latency_ratio=0.7 --report=runs/compare/report.html "$@" || [ $? -eq 3 ]  # 3: a requirement is not met
