#!/usr/bin/env bash
# Measures every .tflite file of a directory on an Android device, and prints a CSV file for `experiments.choose --latencies`.
#
#   python -m experiments.choose --measure_only --data=cifar10 --run=runs/choice
#   bash scripts/measure_on_device.sh runs/choice/exports > phone.csv
#
# The times are means. It needs adb with one connected device, and LiteRT's program benchmark_model for that device, which
# TensorFlow provides prebuilt (https://ai.google.dev/edge/litert/models/measurement); BENCHMARK names its file, by
# default ./benchmark_model. THREADS (1) is the number of threads, RUNS (50) the minimum number of measurements of a file.
set -euo pipefail
directory="${1:?usage: bash scripts/measure_on_device.sh DIRECTORY}"
benchmark="${BENCHMARK:-./benchmark_model}"
remote=/data/local/tmp/kd_keras
[ -d "$directory" ] || { echo "$directory is not a directory. Pass the exports of experiments.choose." >&2; exit 2; }
command -v adb > /dev/null || { echo "adb is missing. Install the Android platform tools." >&2; exit 2; }
[ -f "$benchmark" ] || { echo "$benchmark is missing. Set BENCHMARK to the file of benchmark_model." >&2; exit 2; }
[ -n "$(find "$directory" -name '*.tflite' -print -quit)" ] || { echo "$directory has no .tflite file." >&2; exit 2; }
adb shell mkdir -p "$remote"
adb push "$benchmark" "$remote/benchmark_model" > /dev/null
adb shell chmod +x "$remote/benchmark_model"
echo "candidate,milliseconds"
find "$directory" -name '*.tflite' | sort | while IFS= read -r file; do
    name="${file#"${directory%/}"/}"
    name="${name%.tflite}"
    adb push "$file" "$remote/model.tflite" > /dev/null < /dev/null
    output="$(adb shell "$remote/benchmark_model --graph=$remote/model.tflite --num_threads=${THREADS:-1} --num_runs=${RUNS:-50}" 2>&1 < /dev/null)" || true
    microseconds="$(sed -n 's/.*Inference (avg): \([0-9.e+]*\).*/\1/p' <<< "$output" | tail -n 1)"
    [ -n "$microseconds" ] || { echo "benchmark_model printed no time for $file: $(tail -n 3 <<< "$output")" >&2; exit 1; }
    printf '"%s",%s\n' "${name//\"/\"\"}" "$(awk -v time="$microseconds" 'BEGIN { printf "%.4f", time / 1000 }')"
done
