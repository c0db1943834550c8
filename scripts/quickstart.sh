#!/usr/bin/env bash
# The five steps on the built-in digits: train a teacher, choose a student, distill, export, compare.
# It resumes if interrupted. RUNS names another directory than runs/quickstart.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/environment.sh
RUNS="${RUNS:-runs/quickstart}"

step() { printf '\n== %s\n' "$1"; }
# TensorFlow prints notes about its start before any setting can silence them.
run() { printf '$ python %s\n' "$*"; python "$@" 2> >(grep --line-buffered -v -E '^([IWE]0000 |WARNING: All log)' >&2); }

step "1. Train a teacher"
run -m experiments.train --flagfile=experiments/configs/digits_teacher.flags --run="$RUNS/teacher"
step "2. Choose a student, and train it without distillation as the baseline"
run -m experiments.train --flagfile=experiments/configs/digits_baseline.flags --run="$RUNS/baseline"
step "3. Distill: the same student, images and number of epochs, with the teacher's predictions"
run -m experiments.distill --flagfile=experiments/configs/digits_distill.flags --teacher="$RUNS/teacher" --run="$RUNS/distilled"
step "4. Export the student as a SavedModel that takes raw images, and load it in a process without kd_keras"
run -m experiments.export --model="$RUNS/distilled" --output="$RUNS/export"
run scripts/check_saved_model.py "$RUNS/export/saved_model"
step "5. Compare the students with the teacher"
run -m experiments.evaluate --teacher="$RUNS/teacher" --model="$RUNS/baseline" --model="$RUNS/distilled"
