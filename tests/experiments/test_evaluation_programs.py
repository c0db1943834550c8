"""experiments.evaluate and experiments.export: what they print, write and decide."""

import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest

from tests.support.programs import ROOT, SMALL, program


def test_evaluate_and_export(teacher, data_dir, tmp_path):
    given = [f"--teacher={teacher}", f"--model={teacher}", data_dir, "--test_split=test"]
    given.append(f"--output={tmp_path / 'table.json'}")
    ran = program("evaluate", *given, "--min_agreement=1", "--max_accuracy_drop=0", "--max_parameters_ratio=1")
    assert ran.stdout.count("PASS  ") == 3 and "FAIL" not in ran.stdout
    row = json.loads((tmp_path / "table.json").read_text())[str(teacher)]
    assert row["agreement"] == 1.0 and row["kl"] == pytest.approx(0, abs=1e-6)
    assert row["parameters"] == 65 * 16 + 17 * 10
    assert "| accuracy | agreement |" in ran.stdout and f"| {teacher} | 1,210 |" in ran.stdout
    forms = "--formats=saved_model,litert_int8"
    ran = program("export", f"--model={teacher}", data_dir, "--test_split=test", forms, f"--output={tmp_path / 'out'}")
    table = json.loads((tmp_path / "out" / "export.json").read_text())
    assert table["images"] == 797 and list(table["formats"]) == ["saved_model", "litert_int8"]
    for form, name in (("saved_model", "saved_model"), ("litert_int8", "model_int8.tflite")):
        export = table["formats"][form]
        assert f"| {form} | {name} | {export['bytes'] / 1000:,.1f} | " in ran.stdout
        assert (tmp_path / "out" / name).exists()
        assert export["source_accuracy"] == pytest.approx(row["accuracy"]) and export["agreement"] > 0.95
    assert table["formats"]["saved_model"]["parameters"] == 1210 and table["formats"]["saved_model"]["agreement"] == 1.0
    recorded = np.load(tmp_path / "out" / "saved_model" / "check.npz")
    assert recorded["images"].dtype == np.uint8 and len(recorded["images"]) == 797
    command = [sys.executable, ROOT / "scripts" / "check_saved_model.py", tmp_path / "out" / "saved_model"]
    checked = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert checked.returncode == 0 and "797 of 797" in checked.stdout


def test_the_limits_of_an_export_are_those_of_its_task(teacher, data_dir, tmp_path):
    command = ["export", f"--model={teacher}", data_dir, "--formats=litert", f"--output={tmp_path / 'out'}"]
    ran = program(*command, "--min_matched=0.9", check=False)
    assert ran.returncode == 2 and "'matched' is not a tolerance of classification" in ran.stderr
    assert not (tmp_path / "out").exists()
    ran = program(*command, "--min_agreement=1.5", check=False)
    assert ran.returncode != 0 and "agreement" in ran.stderr and not (tmp_path / "out" / "model.tflite").exists()


def test_evaluate_judges_the_last_model(teacher, data_dir, tmp_path):
    few = tmp_path / "few"  # a worse one of the same kind, from fewer images
    program("train", "--model=mlp(hidden=(16,))", *SMALL, "--train_split=train[:8]", data_dir, f"--run={few}")
    models = [f"--teacher={teacher}", f"--model={teacher}", f"--model={few}", data_dir, "--examples=40"]
    check_requirements = ["--min_accuracy=0.999", "--max_size_ratio=1.5", "--max_mce=0.001"]
    output = f"--output={tmp_path / 'findings.json'}"
    ran = program("evaluate", *models, *check_requirements, "--questions=generalization", output, check=False)
    assert ran.returncode == 3, ran.stderr[-3000:]
    verdict = [line.split(":")[0] for line in ran.stdout.splitlines() if line[:4] in ("PASS", "FAIL")]
    assert verdict == ["FAIL  min_accuracy", "FAIL  max_mce", "PASS  max_size_ratio"]
    findings = json.loads((tmp_path / "findings.json").read_text())[str(few)]
    assert len(findings["error_jpeg"]) == 5 and np.shape(findings["confusion"]) == (10, 10)
    assert findings["gap"] == pytest.approx(findings["accuracy_train"] - findings["accuracy"])
    assert f"| {few} | 8 | {findings['accuracy']:.4f} |" in ran.stdout and "| mce | gap |" in ran.stdout


def test_evaluate_knows_a_run_by_its_model_and_by_its_own_order_of_classes(teacher, data_dir, tmp_path):
    turned = tmp_path / "turned"
    shutil.copytree(teacher, turned)
    model = keras.saving.load_model(turned / "model.keras")
    head = model.get_layer("logits")
    head.set_weights([weights[..., ::-1] for weights in head.get_weights()])
    model.save(turned / "model.keras")
    result = json.loads((turned / "result.json").read_text())
    result["data"]["class_names"] = result["data"]["class_names"][::-1]
    (turned / "result.json").write_text(json.dumps(result))
    others = [f"--model={teacher / 'model.keras'}", f"--model={turned}"]
    program("evaluate", f"--teacher={teacher}", *others, data_dir, f"--output={tmp_path / 'table.json'}")
    rows = list(json.loads((tmp_path / "table.json").read_text()).values())
    assert [row["agreement"] for row in rows] == [1.0, 1.0, 1.0]
    assert len({row["accuracy"] for row in rows}) == 1
