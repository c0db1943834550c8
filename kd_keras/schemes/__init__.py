"""Training schemes: assistants, born-again networks, peers, self-teaching, pseudo-labels, the choice of a student.

The same call resumes an interrupted scheme: complete runs are reused, and the interrupted one resumes. The docstring of
the file of a published scheme names the paper and gives a command.
"""

from kd_keras.schemes.assistants import choose_assistants, distill_by_assistants
from kd_keras.schemes.born_again import Generations, train_generations
from kd_keras.schemes.choice import Choice, choose
from kd_keras.schemes.mutual import Peers, train_peers
from kd_keras.schemes.outcome import Outcome
from kd_keras.schemes.pseudo_labels import PseudoLabels, label_images
from kd_keras.schemes.self_teaching import train_with_mean_teacher, train_with_past_student
from kd_keras.schemes.sizes import CANDIDATES, Size, measure_candidates
from kd_keras.schemes.virtual_teacher import train_with_virtual_teacher, virtual_teacher_smoothing

__all__ = (
    "CANDIDATES",
    "Choice",
    "Generations",
    "Outcome",
    "Peers",
    "PseudoLabels",
    "Size",
    "choose",
    "choose_assistants",
    "distill_by_assistants",
    "label_images",
    "measure_candidates",
    "train_generations",
    "train_peers",
    "train_with_mean_teacher",
    "train_with_past_student",
    "train_with_virtual_teacher",
    "virtual_teacher_smoothing",
)
