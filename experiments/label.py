"""Labels images by a teacher, and writes them and the labeled images as a dataset that every program reads.

    python -m experiments.label --teacher=runs/teacher --data=cifar10 --train_split=train[:5000] \\
        --unlabeled_split=train[5000:] --threshold=0.9 --per_class=2000 --name=cifar10_labeled --output=datasets
    python -m experiments.train --model=resnet20 --data=cifar10_labeled --data_dir=datasets \\
        --train_split=labeled+pseudo --flip --crop=4 --run=runs/student

The dataset has the splits "labeled", "pseudo" and "test". One line for each class is printed, and the share of right
labels if the images have labels of their own.
"""

from absl import flags

from experiments.flags import data, teacher
from experiments.flags.program import recipe_options, run_program
from kd_keras.schemes import label_images

FLAGS = flags.FLAGS
data.define_data()
teacher.define_teacher()
for group in (data, teacher):
    flags.adopt_module_key_flags(group)
flags.DEFINE_string("unlabeled_split", None, "Split of the images to label.", required=True)
flags.DEFINE_string("unlabeled_data", None, "Images to label, as for --data; by default those of --data.")
flags.DEFINE_float("threshold", 0.9, "Least probability of a label.", lower_bound=0.0, upper_bound=1.0)
text = "Images of each class: the surest, repeated if there are too few; by default all surer than --threshold."
flags.DEFINE_integer("per_class", None, text, lower_bound=1)
flags.DEFINE_string("name", None, "Name of the dataset to write.", required=True)
flags.DEFINE_string("output", None, "Directory of TFDS datasets to write it to.", required=True)


def main() -> None:
    labels = label_images(
        teacher=FLAGS.teacher,
        unlabeled_split=FLAGS.unlabeled_split,
        unlabeled_data=FLAGS.unlabeled_data,
        threshold=FLAGS.threshold,
        per_class=FLAGS.per_class,
        name=FLAGS.name,
        output=FLAGS.output,
        **teacher.teacher_options(),
        **recipe_options(),
    )
    print("\n".join(labels.lines()))


if __name__ == "__main__":
    run_program(main)
