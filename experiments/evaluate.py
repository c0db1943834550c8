"""Compares trained networks with their teacher on the test images.

    python -m experiments.evaluate --teacher=runs/teacher --model=runs/alone --model=runs/student
    python -m experiments.evaluate --teacher=runs/teacher --model=runs/student --max_accuracy_drop=0.01 \\
        --max_latency_ratio=0.5 --report=page.html && echo may replace it

The images are those of the teacher's run, unless --dataset names others. With demands, the last --model is judged: the
exit code is 0 where all hold, and 3 where one does not.
"""

import json
from pathlib import Path

import tensorflow as tf
from absl import app, flags

from experiments import arguments, devices
from experiments.findings import by_size, plain, sentence, table
from experiments.inquiry import QUESTIONS, Candidate, Inquiry, asked_questions
from experiments.pictures import check_report, write_report
from experiments.runs import load_result, write_text
from kd_keras import data, distribute
from kd_keras.errors import explain_mismatch
from kd_keras.evaluation import check_requirements
from kd_keras.evaluation.verdict import ABOUT

FLAGS = flags.FLAGS
arguments.define_data()
devices.define_strategy()
flags.adopt_module_key_flags(arguments)
flags.adopt_module_key_flags(devices)
flags.DEFINE_string("teacher", None, "The teacher: a finished run or a .keras file.", required=True)
flags.DEFINE_multi_string("model", [], "A network to compare with it; repeat for several.")
flags.DEFINE_string("output", None, "Write all that was found as JSON to this file too.")
flags.DEFINE_string("report", None, "Write a page on all that the data allow to ask, as HTML, to this file too.")
flags.DEFINE_list("questions", [], f"What costs more time: {', '.join(QUESTIONS)}, or all.")
flags.DEFINE_integer("examples", 1000, "How many test images those questions look at, at most.", lower_bound=4)
flags.DEFINE_string("other_dataset", None, "Images of other things, which generalisation tells from the test images.")
flags.DEFINE_string("other_split", "test", "Split of --other_dataset.")
for demand, (finding, kind) in ABOUT.items():
    text = {"value": "", "drop": " lost against the teacher, a share", "ratio": ", a ratio to the teacher's"}[kind]
    flags.DEFINE_float(demand, None, f"Demand: {'least' if demand.startswith('min') else 'most'} {finding}{text}.")


def main(_: list[str]) -> int:
    arguments.quiet()
    with devices.chosen() as strategy, strategy.scope():
        return compare(strategy)


def compare(strategy: tf.distribute.Strategy) -> int:
    """Prints what was found, and returns the exit code; the replicas share out the answers, and the chief writes."""
    limits = {name: FLAGS[name].value for name in ABOUT if FLAGS[name].value is not None}
    if limits and not FLAGS.model:
        raise ValueError(explain_mismatch("--model= a network to judge", "none"))
    if FLAGS.report:
        check_report(FLAGS.report)
    questions = asked_questions([*FLAGS.questions, *["all"] * bool(FLAGS.report)], limits, FLAGS.other_dataset)
    with distribute.chief_first(strategy):
        source = arguments.load_test(load_result(FLAGS.teacher).get("data", {}))
        other = data.load(FLAGS.other_dataset, FLAGS.other_split, FLAGS.data_dir) if FLAGS.other_dataset else None
    inquiry = Inquiry(
        source, questions, other=other, examples=FLAGS.examples, batch_size=FLAGS.batch_size,
        image_size=arguments.integers("image_size", 2), data_dir=FLAGS.data_dir,
    )
    for run in dict.fromkeys([FLAGS.teacher, *FLAGS.model]):
        inquiry.ask(Candidate.load(run))
    inquiry.time_in_turns()
    found = inquiry.findings
    print(f"{source.size:,} test images of {source.name}; agreement and kl (nats) are with {FLAGS.teacher}.")
    print("Calibration is measured on every second of them; the others fit the temperature.")
    sampled = ", ".join(question for question in questions if question not in ("generalisation", "memory"))
    if sampled:
        print(f"{sampled}: of up to {FLAGS.examples:,} of them, evenly spread.")
    print(table(found))
    if FLAGS.output and distribute.is_chief(strategy):
        write_text(Path(FLAGS.output), json.dumps(plain(found), indent=1))
    for text in [*(sentence(run, row) for run, row in found.items()), *by_size(found, FLAGS.model, FLAGS.data_dir)]:
        print(text)
    verdict = check_requirements(limits, found[FLAGS.model[-1]], found[FLAGS.teacher]) if limits else []
    for demand in verdict:
        print(demand.text)
    if FLAGS.report and distribute.is_chief(strategy):
        write_report(FLAGS.report, inquiry, [FLAGS.teacher, *FLAGS.model][-1], verdict)
    return 0 if all(demand.holds for demand in verdict) else 3


if __name__ == "__main__":
    app.run(main)
