"""Compares runs, or first trains the runs of a sweep: every recipe for every pair and seed.

    python -m experiments.compare --runs="runs/baseline*,runs/kd*"
    python -m experiments.compare --sweep=runs/cifar10 --pair=runs/resnet20:resnet8 --seeds=0,1,2 \\
        --budget=experiments/configs/cifar10_methods.flags \\
        --recipe="kd: --method='kd(temperature=4, weight=0.9)' --hard_weight=0.1" --recipe="at: --method=at"

Runs that differ only in their seed are one row: mean and spread over the seeds, after the last epoch and after the best
one, the gain over the baseline with its 95 % interval, and the closed fraction of the gap to the teacher. "{seed}" in
the path of a pair's teacher and of a --recording is replaced by the seed. The same command resumes an interrupted
sweep; a failed run does not end it and is listed at the end. Several workers divide a sweep with --shard=0/4 to
--shard=3/4. --output=DIR writes compare.md, .csv, .tex and .png. The flags of a sweep can be read from a file:
--flagfile=experiments/configs/cifar10_compare.sweep.
"""

import sys

from absl import flags

import kd_keras
from experiments.flags.program import FAILURE, numbers, run_program
from experiments.flags.recipes import flag_options, parse_pair, parse_recipes, parse_shard

FLAGS = flags.FLAGS
flags.DEFINE_list("runs", [], "Complete runs to compare, or patterns of them.")
flags.DEFINE_string("sweep", None, "Train the runs of a sweep in this directory first, instead of --runs.")
flags.DEFINE_multi_string("pair", [], "Sweep: TEACHER:STUDENT, a run and a model of the zoo")
flags.DEFINE_multi_string("recipe", [], "Sweep: 'NAME: FLAGS' with flags of experiments.distill, without those of int8")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Sweep: the seeds of every recipe, separated by commas.")
flags.DEFINE_string("budget", None, "Sweep: a flagfile with the flags that all runs share.")
flags.DEFINE_string("data_dir", None, "Sweep: where TFDS keeps prepared datasets; its usual place by default.")
flags.DEFINE_string("shard", "0/1", "Sweep: i/n with i from 0; this worker trains the runs i, i + n, i + 2n, ...")
flags.DEFINE_string("output", None, "Write the tables and the figure to this directory.")


def main() -> int:
    shared = flag_options([f"--flagfile={FLAGS.budget}"] if FLAGS.budget else [])
    comparison = kd_keras.compare(
        FLAGS.runs,
        sweep=FLAGS.sweep,
        pairs=[parse_pair(text) for text in FLAGS.pair],
        recipes=parse_recipes(FLAGS.recipe),
        seeds=numbers("seeds"),
        shard=parse_shard(FLAGS.shard),
        **(shared | ({"data_dir": FLAGS.data_dir} if FLAGS.data_dir else {})),
    )
    for path in comparison.unfinished:
        log = path.with_name(f"{path.name}.log")
        print(f"No result: {path}{f', see {log}' if log.exists() else ''}", file=sys.stderr)
    print(comparison.markdown())
    if FLAGS.output:
        comparison.save(FLAGS.output)
    if comparison.unfinished:
        total = len(comparison.unfinished) + sum(len(group.runs) for group in comparison.groups)
        print(f"{len(comparison.unfinished)} of {total} runs have no result.", file=sys.stderr)
    return FAILURE if comparison.unfinished else 0


if __name__ == "__main__":
    run_program(main)
