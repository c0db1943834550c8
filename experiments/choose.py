"""Chooses the student that learns best from a teacher among those whose export is small and fast enough.

    python -m experiments.choose --teacher=runs/resnet56 --max_kilobytes=500 --max_milliseconds=5 \\
        --candidate=resnet8 --candidate="resnet20(resolution=24)" --candidate="mobilenet_v2(width=0.5)" \\
        --form=litert_float16 --data=cifar10 --train_split="train[:45000]" --test_split="train[45000:]" \\
        --views=8 --epochs=54 --flip --crop=4 --run=runs/choice

The table is printed and written to choice.md, the figure to choice.png in the directory --run; the same command resumes
an interrupted choice. For the times on a phone, first export the candidates, with the same --candidate, --form, --data
and --run:

    python -m experiments.choose --measure_only --candidate=resnet8 --candidate="mobilenet_v2(width=0.5)" \\
        --form=litert_float16 --data=cifar10 --run=runs/choice
    bash scripts/measure_on_device.sh runs/choice/exports > phone.csv

and then choose with --latencies=phone.csv. With several recipes, such as --recipe="kd: --method=kd --hard_weight=0.1"
--recipe="dkd: --method=dkd", every candidate is trained with each.
"""

from absl import flags

import kd_keras
from experiments.flags import data, devices, teacher, training
from experiments.flags.program import recipe_options, run_program
from experiments.flags.recipes import parse_recipes
from kd_keras import schemes
from kd_keras.runs.parsing import parse_weight
from kd_keras.schemes.choice import EPOCHS
from kd_keras.schemes.sizes import CANDIDATES, FORMS

FLAGS = flags.FLAGS
data.define_data()
data.define_views()
training.define_normalization()
training.define_training()
teacher.define_teacher()
devices.define_devices()
devices.define_survival()
for group in (data, training, teacher, devices):
    flags.adopt_module_key_flags(group)
FLAGS.set_default("epochs", EPOCHS)
FLAGS["epochs"].help = "Epochs of the last rung, of the chosen student and of its baseline."
FLAGS["views"].help = "Views of every image that are recorded and trained on; 4 by default."
FLAGS["overwrite"].help = "Refused: a choice is not overwritten as a whole."
flags.DEFINE_multi_string("candidate", CANDIDATES, "A model of the zoo from which the student is chosen")
flags.DEFINE_float("max_kilobytes", None, "The largest size of an export, in 1000 bytes.")
flags.DEFINE_float("max_milliseconds", None, "The longest median time of an export for one image.")
flags.DEFINE_enum("form", "litert", list(FORMS), "The form in which candidates are exported and measured.")
flags.DEFINE_string("latencies", None, "A CSV file with the candidates' times on another device.")
flags.DEFINE_boolean("measure_only", False, "Export and measure the candidates, and train nothing.")
flags.DEFINE_multi_string("method", ["kd"], "A method of every distillation, such as 'kd(temperature=4, weight=0.9)'")
flags.DEFINE_multi_string("recipe", [], "Instead of --method: 'NAME: FLAGS' with --method and --hard_weight")
flags.DEFINE_string("hard_weight", None, "Weight of the loss on the labels in every distillation.")


def main() -> None:
    options = recipe_options()
    if FLAGS.measure_only:
        for flag in ("teacher", "latencies", "max_kilobytes", "max_milliseconds", "overwrite"):
            if FLAGS[flag].value:
                raise ValueError(f"--measure_only trains and chooses nothing, but received --{flag}. Leave it out.")
        sizes = schemes.measure_candidates(FLAGS.candidate, form=FLAGS.form, run=FLAGS.run, **options)
        for name, size in sizes.items():
            print(f"{name}: {size.kilobytes:,.1f} kB, {size.milliseconds:.3f} ms")
        return
    if FLAGS.hard_weight is not None:
        options["hard_weight"] = parse_weight(FLAGS.hard_weight, "--hard_weight")
    choice = kd_keras.choose(
        teacher=FLAGS.teacher[0] if len(FLAGS.teacher or ()) == 1 else FLAGS.teacher,
        candidates=FLAGS.candidate,
        max_kilobytes=FLAGS.max_kilobytes,
        max_milliseconds=FLAGS.max_milliseconds,
        form=FLAGS.form,
        latencies=FLAGS.latencies,
        methods=FLAGS.method,
        recipes=parse_recipes(FLAGS.recipe) if FLAGS.recipe else None,
        run=FLAGS.run,
        overwrite=FLAGS.overwrite,
        **teacher.teacher_options(),
        **options,
    )
    print("\n".join(choice.lines()))


if __name__ == "__main__":
    run_program(main)
