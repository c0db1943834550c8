"""Pretrains a network without labels: it follows the features of a teacher on a folder of images.

    python -m experiments.pretrain --data=FOLDER --image_size=224,224 --teacher=runs/teacher --student=mobilenet_v2 \\
        --run=runs/pretrained
    python -m experiments.train --model=runs/pretrained --data=LABELED --run=runs/student

--data is a folder with images in it and in its folders, to any depth, a text file of paths, or the name of a dataset,
whose labels are not used. With --labeled=LABELED each test measures how well the embeddings separate its classes. The
second command puts a new classifier on the pretrained network and fine-tunes it.
"""

from absl import flags

import kd_keras
from experiments.flags import data, devices, teacher, training
from experiments.flags.program import recipe_options, run_program
from kd_keras.runs.pretrain import METHODS, SCHEDULE

FLAGS = flags.FLAGS
data.define_data()
data.define_views()
training.define_model("student", "mobilenet_v2")
training.define_training()
teacher.define_teacher()
devices.define_devices()
devices.define_survival()
for group in (data, training, teacher, devices):
    flags.adopt_module_key_flags(group)
for name, value in {**SCHEDULE, "learning_rate": None, "weight_decay": None, "coupled_weight_decay": None}.items():
    FLAGS.set_default(name, value)
text = "A method that needs no labels, such as queue, tokens, dense or 'queue(size=1024)'"
flags.DEFINE_multi_string("method", list(METHODS), text)
flags.DEFINE_string("recording", None, "Directory of the recorded outputs of a teacher (record --unlabeled).")
text = "Images with classes, as for --data, that measure the embeddings on --test_data and train nothing."
flags.DEFINE_string("labeled", None, text)
flags.DEFINE_string("labeled_split", "train", "The split of --labeled whose classes are known.")


def main() -> None:
    kd_keras.pretrain(
        teacher=FLAGS.teacher,
        student=FLAGS.student,
        methods=FLAGS.method,
        run=FLAGS.run,
        recording=FLAGS.recording,
        labeled=FLAGS.labeled,
        labeled_split=FLAGS.labeled_split,
        weights=FLAGS.weights,
        overwrite=FLAGS.overwrite,
        **teacher.teacher_options(),
        **recipe_options(),
    )


if __name__ == "__main__":
    run_program(main)
