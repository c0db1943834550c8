"""Compares the exits of a multi-exit network, their sum, and stopping early at several thresholds.

    python -m experiments.distill --student=multi_exit/resnet20 --method=byot --run=runs/exits
    python -m experiments.exits --model=runs/exits --baseline=runs/baseline

--baseline names a run of the same network without exits, to compare with. The images are those on which the run of
--model was tested, unless --data names others.
"""

from absl import flags

from experiments.flags import data, devices
from experiments.flags.program import given, pair, recipe_options, run_program
from kd_keras.runs.devices import chosen_strategy
from kd_keras.runs.exits import THRESHOLDS, compare_exits
from kd_keras.runs.recipe import make_recipe
from kd_keras.runs.recipe_values import READING

FLAGS = flags.FLAGS
data.define_data(without=("task", "train_split", "without_classes", *READING))
devices.define_strategy()
for group in (data, devices):
    flags.adopt_module_key_flags(group)
flags.DEFINE_string("model", None, "A complete run whose network has exits.", required=True)
flags.DEFINE_string("baseline", None, "A complete run of the same network without exits.")
text = "Inference stops at the first exit whose largest probability is at least the threshold; several to compare."
flags.DEFINE_list("thresholds", [str(value) for value in THRESHOLDS], text)


def main() -> None:
    with chosen_strategy(make_recipe(**recipe_options())) as strategy, strategy.scope():
        lines = compare_exits(
            FLAGS.model,
            baseline=FLAGS.baseline,
            thresholds=[float(text) for text in FLAGS.thresholds],
            test_data=given("test_data") or given("data"),
            test_split=given("test_split"),
            data_dir=given("data_dir"),
            batch_size=FLAGS.batch_size,
            image_size=None if FLAGS.image_size is None else pair("image_size"),
        )
        for line in lines:
            print(line, flush=True)


if __name__ == "__main__":
    run_program(main)
