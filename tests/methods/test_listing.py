"""The list of methods: what the folder exports, the table, the stub, and the weight of the hard loss."""

import sys

import pytest

from kd_keras import methods
from kd_keras.methods import FT, KD, LSKD, MLKD, FitNet, Method, Queue, Tokens, agreed_hard_weight, listing
from scripts import method_list

EXTRA = '''
"""Extra: Nobody 2030, 3001.00001."""
from kd_keras.methods.base import Method
from kd_keras.methods.kd import kd_loss
__all__ = ("helper",)
LIMIT = 3
def extra_loss(student, teacher): return student
def helper(): return LIMIT
def unlisted(): return LIMIT
class Extra(Method):
    family = "extra"
    paper = "Nobody 2030, 3001.00001"
'''


def test_a_file_in_the_folder_is_exported_without_any_other_edit(tmp_path, monkeypatch):
    (tmp_path / "extra.py").write_text(EXTRA)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    try:
        exports = methods._read_folder(methods.__path__)
        assert set(exports) - set(methods.__all__) == {"Extra", "extra_loss", "helper"}
        assert exports["kd_loss"].__module__ == "kd_keras.methods.kd"
        monkeypatch.setattr(methods, "__all__", [*methods.__all__, "Extra"])
        monkeypatch.setattr(methods, "Extra", exports["Extra"], raising=False)
        assert listing.list_kinds()[-1] is exports["Extra"]  # a new family comes last
        row = "| `extra` | extra | `logits` | `logits` | 1 | 1 | Nobody 2030, 3001.00001 |\n"
        assert listing.format_table().endswith(row)
    finally:
        sys.modules.pop("kd_keras.methods.extra")
        del methods.extra


def test_the_folder_lists_its_names_for_editors():
    assert dir(methods) == sorted(methods.__all__) and len(set(methods.__all__)) == len(methods.__all__)
    assert {"KD", "kd_loss", "simkd_student", "standardized", "Method", "Taps"} <= set(dir(methods))


@pytest.mark.parametrize(
    "file, text", [(method_list.TABLE, method_list.write_table), (method_list.STUB, method_list.write_stub)]
)
def test_the_committed_files_contain_what_the_methods_say(file, text):
    """Rows may be missing, so that a new method needs no edit outside its own files; wrong rows may not be there."""
    generated = text().splitlines()
    wrong = [line for line in file.read_text().splitlines() if line not in generated]
    assert not wrong, f"{file.name} differs from the methods; run python -m scripts.method_list"


def test_the_rows_of_methods_with_several_taps_and_with_none():
    rows = {cells[0]: cells for cells in map(listing.describe_kind, listing.list_kinds())}
    assert rows["`reviewkd`"][2:4] == ("`stages`, `embedding`", "`stages:pre`, `embedding`")
    assert rows["`paraphrase`"][2:6] == ("none", "`stages[-1]`", "1", "0")
    assert rows["`ofd`"][4] == "0.001" and rows["`byot`"][1] == "self"


def test_methods_that_agree_give_their_published_hard_weight():
    assert agreed_hard_weight([KD()]) == (0.1, "published with kd")
    assert agreed_hard_weight([FitNet(), FT()]) == (1.0, "published with fitnet, ft")
    assert agreed_hard_weight([Queue(), Tokens(name="local")]) == (0.0, "published with queue, local")
    assert agreed_hard_weight([LSKD(host=MLKD())])[0] == 0.1
    assert agreed_hard_weight([LSKD(host=Halved())])[0] == 0.5


def test_only_a_published_hard_weight_is_said_to_be_published():
    class Mine(Method):
        pass

    assert agreed_hard_weight([Mine(name="mine")]) == (1.0, "the default, as none was published with mine")
    assert agreed_hard_weight([FitNet(), Mine(name="mine")])[1] == "the default, as none was published with mine"
    assert agreed_hard_weight([KD(), Mine(name="mine")])[1].endswith("0.1 with kd, none with mine")


def test_methods_that_disagree_give_one():
    weight, reason = agreed_hard_weight([KD(), FitNet()])
    assert weight == 1.0 and "0.1 with kd" in reason and "1 with fitnet" in reason
    assert agreed_hard_weight([])[0] == 1.0


class Halved(methods.Method):
    published_hard_weight = 0.5
