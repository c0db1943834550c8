"""Compares runs, or makes the runs of a plan first: pairs x recipes x seeds.

    python -m experiments.compare --runs="runs/alone*,runs/kd*"
    python -m experiments.compare --sweep=runs/cifar10 --pair=runs/resnet20:resnet8 --seeds=0,1,2 \\
        --budget=experiments/configs/cifar10_methods.flags \\
        --recipe="kd: --method='kd(temperature=4, weight=0.9)' --hard_weight=0.1" --recipe="at: --method=at"

Runs that differ in their seed alone are one row: mean and spread over the seeds, after the last epoch and after the
best one, the difference from the student alone with its 95 % interval, and the share of the gap to the teacher that it
closed. The same command goes on with a sweep that was stopped; a run that fails is named at the end. Several workers
share a sweep by --part=0/4 to --part=3/4. --output=DIR writes compare.md, compare.csv and compare.png. A plan stands
well in a flagfile: --flagfile=experiments/configs/cifar10_compare.sweep.
"""

import sys
from collections.abc import Sequence
from glob import glob
from pathlib import Path

from absl import app, flags

from experiments import arguments, comparison, sweeps
from experiments.runs import write_text
from kd_keras.errors import explain_mismatch
from kd_keras.files import write_atomically

FLAGS = flags.FLAGS
flags.DEFINE_list("runs", [], "Finished runs to compare, or patterns of them.")
flags.DEFINE_string("sweep", None, "Directory in which the runs of a plan stand, or will.")
flags.DEFINE_multi_string("pair", [], "Plan: TEACHER:STUDENT, a run and a model of the zoo; repeat for several.")
flags.DEFINE_multi_string("recipe", [], "Plan: 'NAME: FLAGS', flags of experiments.distill; repeat for several.")
flags.DEFINE_list("seeds", ["0", "1", "2"], "Plan: the seeds of every recipe.")
flags.DEFINE_string("budget", None, "Plan: a flagfile that every run has.")
flags.DEFINE_string("data_dir", None, "Plan: where TFDS keeps prepared datasets.")
flags.DEFINE_string("part", "0/1", "This worker's part of the plan, i/n with i from 0.")
flags.DEFINE_string("output", None, "Write the tables and the picture into this directory.")


def main(_: list[str]) -> None:
    arguments.quiet()
    if bool(FLAGS.sweep) == bool(FLAGS.runs):
        came = "both" if FLAGS.runs else "neither"
        raise ValueError(explain_mismatch("--runs= of finished runs, or --sweep= and a plan", came))
    runs = swept() if FLAGS.sweep else named(FLAGS.runs)
    groups, unfinished = comparison.grouped(runs)
    for run in unfinished:
        log = run.with_name(f"{run.name}.log")
        print(f"No result: {run}{f', see {log}' if log.exists() else ''}", file=sys.stderr)
    if not groups:
        raise ValueError(explain_mismatch("a finished run", f"none of {len(runs)}"))
    found = comparison.rows(groups)
    print(comparison.markdown(found))
    if FLAGS.output:
        place = Path(FLAGS.output)
        place.mkdir(parents=True, exist_ok=True)
        write_text(place / "compare.md", comparison.markdown(found) + "\n")
        write_text(place / "compare.csv", comparison.as_csv(found))
        write_atomically(place / "compare.png", lambda name: comparison.plot(groups, Path(name)))
    if unfinished:
        sys.exit(f"{len(unfinished)} of {len(runs)} runs have no result.")


def named(patterns: Sequence[str]) -> list[Path]:
    """The runs of names and patterns, each once, in the order given.

    Raises:
        ValueError: where a name or a pattern finds none.
    """
    found: dict[Path, None] = {}
    for pattern in patterns:
        matching = [Path(each) for each in sorted(glob(pattern)) if (Path(each) / "flags.txt").exists()]
        if not matching:
            raise ValueError(explain_mismatch("--runs= directories of runs", f"{pattern!r}, which finds none"))
        found |= dict.fromkeys(matching)
    return list(found)


def swept() -> list[Path]:
    """The runs of the plan, this worker's part finished as far as they can be."""
    place, slash, workers = FLAGS.part.partition("/")
    if not (slash and place.isdigit() and workers.isdigit() and int(place) < int(workers)):
        raise ValueError(explain_mismatch("--part=i/n, such as 0/4", FLAGS.part))
    if not (FLAGS.pair and FLAGS.recipe):
        raise ValueError(explain_mismatch("--pair= and --recipe= for a sweep", f"{FLAGS.pair} and {FLAGS.recipe}"))
    shared = [f"--flagfile={FLAGS.budget}"] if FLAGS.budget else []
    shared += [f"--data_dir={FLAGS.data_dir}"] if FLAGS.data_dir else []
    runs = sweeps.plan(FLAGS.sweep, FLAGS.pair, FLAGS.recipe, arguments.integers("seeds"), shared)
    sweeps.finish_all(runs, (int(place), int(workers)))
    return [planned.path for planned in runs]


if __name__ == "__main__":
    app.run(main)
