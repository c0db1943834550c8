"""Compares trained networks with their teacher on the test images.

    python -m experiments.evaluate --teacher=runs/teacher --model=runs/baseline --model=runs/student
    python -m experiments.evaluate --teacher=runs/teacher --model=runs/student --max_accuracy_drop=0.01 \\
        --max_latency_ratio=0.5 --report=page.html && echo the student may replace its teacher

The images are those on which the teacher's run was tested, unless --data names others. Requirements judge the last
--model: the exit code is 0 if it meets all of them, and 3 otherwise.
"""

from absl import flags

import kd_keras
from experiments.flags import data, devices, requirements
from experiments.flags.program import command_line, given, given_options, run_program
from kd_keras import distribute
from kd_keras.evaluation import QUESTIONS
from kd_keras.runs.evaluate import OPTIONS

FLAGS = flags.FLAGS
NOT_MET = 3
data.define_data(without=("train_split", "without_classes"))
devices.define_strategy()
requirements.define_requirements()
for group in (data, devices, requirements):
    flags.adopt_module_key_flags(group)
flags.DEFINE_string("teacher", None, "The teacher: a run or a .keras file.", required=True)
flags.DEFINE_multi_string("model", [], "A network to compare with it")
flags.DEFINE_string("output", None, "Write all findings to this JSON file.")
flags.DEFINE_string("report", None, "Ask all questions, and write a page about them to this HTML file.")
flags.DEFINE_list("questions", [], f"Questions that take more time: {', '.join(QUESTIONS)}, or all.")
flags.DEFINE_integer("examples", 1000, "The largest number of test images for these questions.", lower_bound=4)
flags.DEFINE_string("other_data", None, "Images that belong to none of the classes, for the question generalization.")
flags.DEFINE_string("other_split", "test", "Split of --other_data.")
flags.DEFINE_string("pairs", None, "For faces in a folder: a file of the pairs to verify, in the format of LFW.")


def main() -> int:
    evaluation = kd_keras.evaluate(
        FLAGS.model,
        teacher=FLAGS.teacher,
        data=given("test_data") or given("data"),
        requirements=requirements.given_requirements(),
        questions=FLAGS.questions,
        examples=FLAGS.examples,
        other_data=FLAGS.other_data,
        other_split=FLAGS.other_split,
        pairs=FLAGS.pairs,
        report=FLAGS.report,
        command=command_line("evaluate"),
        **given_options(OPTIONS),
    )
    if distribute.worker_rank()[0] == 0:
        print(evaluation)
        if FLAGS.output:
            evaluation.save(FLAGS.output)
    return 0 if evaluation.verdict.passed else NOT_MET


if __name__ == "__main__":
    run_program(main)
