"""The table of all methods on CIFAR-10."""

from kd_keras import methods
from scripts.reproduce.methods_cifar10 import FOR_OTHER_NETWORKS, SETTINGS, method_classes


def test_all_methods_that_teach_a_student_are_in_the_table_or_left_out_by_name():
    kinds = method_classes()
    assert kinds[0].family == "logits" and methods.KD in kinds and methods.EKD in kinds
    assert methods.Paraphrase not in kinds, "it teaches no student"
    assert {*FOR_OTHER_NETWORKS, *SETTINGS} <= {kind.__name__.lower() for kind in kinds}
