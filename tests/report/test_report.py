"""The report: one file, whole and legible; what it says is what was found."""

import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from experiments import pictures
from experiments.inquiry import QUESTIONS, Candidate, Inquiry
from kd_keras import data
from kd_keras.evaluation import Predictions, check_requirements
from kd_keras.report import figures, svg
from kd_keras.report import page as report
from kd_keras.report.page import Subject, render_page
from kd_keras.report.sections import verdict
from tests.support import findings
from tests.support.networks import convolutional, source

ROOT = Path(__file__).parent.parent.parent
LIMITS = {"max_accuracy_drop": 0.02, "min_agreement": 0.85, "max_size_ratio": 0.25}
SECTIONS = {*report.TITLES, "verdict", "trade", "repeat"}
VOID = {"meta", "img", "br", "wbr", "hr"}


class Elements(HTMLParser):
    """Every element of a page as (name, attributes); what is not closed in order is an error."""

    def __init__(self, text):
        super().__init__()
        self.found, self.open, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))
        self.open += [] if tag in VOID else [tag]

    def handle_startendtag(self, tag, attributes):
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, f"</{tag}> closes another element"

    def handle_data(self, text):
        if self.open and self.open[-1] not in ("style", "script"):
            self.texts.append(text)

    def all(self, name):
        return [attributes for tag, attributes in self.found if tag == name]

    @property
    def text(self):
        return " ".join(" ".join(self.texts).replace("\xa0", " ").split())


@pytest.fixture(scope="module")
def subjects():
    return findings.subjects()


@pytest.fixture(scope="module")
def judged(subjects):
    return check_requirements(LIMITS, subjects[-1].findings, subjects[0].findings)


@pytest.fixture(scope="module")
def whole(subjects, judged):
    return render_page(
        subjects,
        judged,
        title="Digits & <b>bold</b>",
        data="3,000 images",
        classes=findings.CLASSES,
        attention=findings.attention(),
        disagreements=findings.disagreements(),
        command="python -m experiments.evaluate --report=page.html",
    )


@pytest.fixture(scope="module")
def elements(whole):
    return Elements(whole)


def bare(subject, *names):
    return Subject(subject.name, subject.role, {name: subject.findings[name] for name in names})


def test_it_is_one_file_that_fetches_nothing_and_runs_nothing(whole, elements):
    assert not re.search(r"https?://|@import|javascript:", whole)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in elements.found}
    for _, attributes in elements.found:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert re.match(r"data:image/png;base64,|#", attributes.get(name) or "#"), attributes
    assert len(whole) < 3e6


def test_ids_are_unique_and_every_reference_has_one(elements, whole):
    ids = [attributes["id"] for _, attributes in elements.found if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', whole)
    assert len(references) > 50 and {one or other for one, other in references} <= set(ids)


def test_every_section_is_there_with_data_and_gone_without(subjects, elements):
    assert {each["id"] for each in elements.all("section")} == SECTIONS
    few = Elements(render_page([bare(each, "accuracy", "parameters") for each in subjects], title="Few"))
    assert {each["id"] for each in few.all("section")} == {"verdict", "trade", "repeat"}
    assert "for want of data: training curves, confusion" in few.text
    assert {each["href"] for each in few.all("a")} == {"#verdict", "#trade", "#repeat"}


@pytest.mark.parametrize(
    "name, section",
    [
        ("confusion", "confusion"),
        ("reliability", "calibration"),
        ("error_fog", "robustness"),
        ("cka", "similarity"),
        ("agreement_by_class", "classes"),
        ("gap", "generalisation"),
    ],
)
def test_a_section_needs_its_own_finding_alone(subjects, name, section):
    only = Elements(render_page([Subject("run", "other", {name: subjects[-1].findings[name]})], title="One"))
    assert {each["id"] for each in only.all("section")} == {section, "verdict", "trade", "repeat"}


def test_it_can_be_read_without_seeing(elements):
    assert elements.all("html") == [{"lang": "en"}] and len(elements.all("h1")) == 1
    assert all(each.get("alt") for each in elements.all("img"))
    plots_shown = [each for each in elements.all("svg")]
    assert len(plots_shown) == 15 and all(each["role"] == "img" and each["aria-label"] for each in plots_shown)
    headers = elements.all("th")
    assert headers and all(each["scope"] in ("row", "col") for each in headers)
    assert len(elements.all("figure")) == len(elements.all("figcaption"))
    assert all("tabindex" in each for each in elements.all("div") if each.get("class") == "wide")


def test_colours_are_variables_that_each_scheme_defines(whole):
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", whole)) - {"--width"}
    parts = re.findall(r":root \{(.*?)\}", whole, re.S)
    light, dark, paper = (set(re.findall(r"(--[a-z0-9-]+):", part)) for part in parts)
    assert len(used) > 10 and used <= light == dark and light - paper <= {"--heat"}
    assert not re.search("#0a0[ab]", whole.split("</style>")[1])


def test_the_verdict_says_which_demand_fails(subjects, elements, judged):
    assert [each.holds for each in judged] == [False, True, True]
    assert "FAIL: it may not replace the teacher 1 of 3 demands on runs/distilled does not hold." in elements.text
    drop = 100 * judged[0].found
    assert f"✗ FAIL Accuracy drop at most 2.00 points {drop:.2f} points" in elements.text
    assert "✓ PASS Size ratio at most 0.25 × 0.11 ×" in elements.text
    few = [bare(each, "accuracy") for each in subjects]
    passed = Elements(render_page(few, judged[1:], title="Two")).text
    assert "PASS: it may replace the teacher All 2 demands on runs/distilled hold." in passed and "FAIL" not in passed
    none = Elements(render_page(few, title="None")).text
    assert "No demands were made" in none and "PASS" not in none and "FAIL" not in none


def test_a_demand_that_fails_by_little_does_not_look_kept():
    found = check_requirements({"max_size_ratio": 0.25}, {"kilobytes": 0.2504}, {"kilobytes": 1.0})
    assert verdict(found[0], {})[:3] == ("Size ratio", "at most 0.2500\xa0×", "0.2504\xa0×")


def test_the_trade_gives_each_network_its_numbers(subjects, elements):
    teacher, alone, distilled = (each.findings for each in subjects)
    row = re.search("Accuracy ([0-9].*?) Points against the teacher (.*?) Top-5", elements.text)
    wanted = [f"{100 * each['accuracy']:.1f} %" for each in (teacher, alone, distilled)]
    assert re.findall(r"[0-9.]+ %", row[1]) == wanted
    assert re.findall(r"[0-9.]+–[0-9.]+", row[1])[2] == (
        f"{100 * distilled['accuracy_low']:.1f}–{100 * distilled['accuracy_high']:.1f}"
    )
    wanted = [f"−{100 * (teacher['accuracy'] - each['accuracy']):.2f}" for each in (alone, distilled)]
    assert [cell for cell in row[2].split() if cell in wanted] == wanted
    assert "Parameters 272 k 30 k 0.11 × 30 k 0.11 ×" in elements.text
    assert "■ teacher runs/ teacher ▲ student alone runs/ alone ● distilled student runs/ distilled" in elements.text


def test_networks_of_one_role_are_told_apart_by_their_runs(subjects):
    teacher, alone, distilled = subjects
    others = [distilled._replace(name=f"runs/{name}") for name in ("kd", "dkd", "kd_seed/kd")]
    shown = report.networks([teacher, alone, *others])
    assert [each.label for each in shown.values()] == ["teacher", "alone", "kd", "dkd", "kd_seed/kd"]
    seeds = [distilled._replace(name=f"runs/cifar10_{name}_seed0") for name in ("kd", "dkd", "a_very_long_method")]
    labels = [each.label for each in report.networks([teacher, *seeds]).values()]
    alone = report.networks([teacher, Subject("runs/odd_one.keras", "other", {})])
    assert [each.label for each in alone.values()] == ["teacher", "odd_one"]
    assert labels == ["teacher", "kd_seed0", "dkd_seed0", "a_very_lo…od_seed0"]
    assert len({each.look for each in shown.values()}) == 5 and shown["runs/kd_seed/kd"].look == 1


@pytest.mark.parametrize(
    "roles, names",
    [((), ()), (("teacher", "boss"), "ab"), (("teacher", "alone"), "aa"), (("alone", "teacher"), "ab")],
)
def test_subjects_that_make_no_page_are_told(roles, names):
    with pytest.raises(ValueError, match="Needed:"):
        render_page([Subject(name, role, {}) for name, role in zip(names, roles)], title="None")


HOSTILE = "<script>alert('$x_1$')</script> & \"q\" {{ 7 * 7 }}"


def test_names_are_text_and_nothing_else(subjects):
    classes = [f"{HOSTILE} {place}" for place in range(10)]
    renamed = [each._replace(name=f"{HOSTILE}/{each.role}", role="other", commands=[HOSTILE]) for each in subjects]
    seen = [each._replace(maps={renamed[0].name: each.maps["runs/teacher"]}) for each in findings.attention(2)]
    html = render_page(
        renamed, title=HOSTILE, data=HOSTILE, classes=classes, attention=seen,
        disagreements=findings.disagreements(2), command=HOSTILE,
    )
    elements = Elements(html)
    assert not elements.all("script")
    assert "<script>alert('$x_1$')</script> & \"q\" {{ 7 * 7 }} 3 → " in elements.text
    assert figures.short(classes[3]) in elements.texts  # beside the axis of a figure


def test_numbers_that_are_not_there_are_dashes(subjects):
    found = dict(subjects[-1].findings) | {"kilobytes": float("nan"), "temperature": None}
    found["accuracy_by_class"] = np.where(np.arange(10) == 3, np.nan, found["accuracy_by_class"])
    found["confusion"] = found["confusion"] * (np.arange(10) != 3)[:, None]
    lost = subjects[-1]._replace(findings=found, history={"epoch": [0, 1], "val_accuracy": [float("nan")] * 2})
    elements = Elements(render_page([subjects[0], lost], title="Lost"))
    assert "File size 1.13 MB – " in elements.text and "nan" not in elements.text
    assert "in smaller" not in elements.text


def test_many_classes_and_many_networks(subjects):
    random = np.random.default_rng(0)
    found = {
        "accuracy": 0.5,
        "confusion": random.integers(0, 9, (120, 120)),
        "accuracy_by_class": random.uniform(size=120),
        "agreement_by_class": random.uniform(size=120),
    }
    many = [Subject(f"runs/{place}", "other", found | {"parameters": 1 + place}) for place in range(9)]
    html = render_page(many, title="Many")
    assert html.count("<image") == 2 and "the 20 of 120 classes furthest behind" in html
    assert len(html) < 1e6


def test_where_they_look_and_differ(elements, whole):
    cards = [each for each in elements.all("figure") if "card" in each.get("class", "")]
    assert len(cards) == 16 and all("coarse" in each["class"] for each in cards)
    assert len(elements.all("img")) == 6 * 4 + 10
    assert "true bird teacher ✓ bird 95 % distilled ✗ deer 86 %" in elements.text


def test_an_image_comes_back_from_its_thumbnail():
    import base64
    import io

    from PIL import Image

    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype("uint8")
    for given in (image, image[..., :1], image[..., 0]):
        uri = svg.thumbnail(given)
        read = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
        np.testing.assert_array_equal(np.asarray(read), given.squeeze())
    uri = svg.thumbnail(np.full((300, 600, 3), 77, "uint8"))
    read = Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))
    assert uri.startswith("data:image/jpeg;") and read.size == (160, 80) and abs(np.asarray(read) - 77.0).max() < 3
    for wrong in (image.astype("float32"), image[None], image[..., :2]):
        with pytest.raises(ValueError, match="uint8"):
            svg.thumbnail(wrong)
    with pytest.raises(ValueError, match="size"):
        svg.overlay(image, np.zeros((30, 20)))


def scheme(name):
    """The style sheet's colours of "light", "dark" or "paper" as linear RGB by variable."""
    css = (report.TEMPLATES / "page.css").read_text()
    parts = dict(zip(("light", "dark", "paper"), re.findall(r":root \{(.*?)\}", css, re.S)))
    colours = dict(re.findall(r"--([a-z0-9-]+): #([0-9a-f]{6})", parts["light"] + parts[name]))
    return {key: linear(np.frombuffer(bytes.fromhex(value), "uint8") / 255) for key, value in colours.items()}


def linear(srgb):
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def luminance(colour):
    return float(colour @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def heat(colours, share):
    """The paper under so much of the heat, as a browser blends: in sRGB."""
    srgb = {name: np.where(c <= 0.0031308, 12.92 * c, 1.055 * c ** (1 / 2.4) - 0.055) for name, c in colours.items()}
    strength = svg.HEAT_STRENGTH * share
    return linear((1 - strength) * srgb["paper"] + strength * srgb["heat"])


@pytest.mark.parametrize("name", ["light", "dark", "paper"])
def test_letters_and_lines_stand_out_in_every_scheme(name):
    """WCAG 2.2: 4.5 to 1, for the figures' lines too, as their names have the same colours."""
    colours = scheme(name)
    for each in ("ink", "soft", "good", "bad", *(f"series-{place}" for place in range(len(figures.MARKS)))):
        assert contrast(colours[each], colours["paper"]) >= 4.5, each
    assert contrast(colours["soft"], colours["page"]) >= 4.5
    assert contrast(colours["ink"], heat(colours, 1.0)) >= 4.5


@pytest.mark.parametrize("name", ["light", "dark", "paper"])
def test_the_heat_is_even_in_lightness(name):
    """CIE L* of the shares lies near a straight line, and always further from the paper."""
    shares = np.linspace(0, 1, 21)
    light = np.array([116 * np.cbrt(luminance(heat(scheme(name), share))) - 16 for share in shares])
    assert np.abs(light - np.interp(shares, [0, 1], light[[0, -1]])).max() < 4
    assert abs(np.sign(np.diff(light)).sum()) == 20 and abs(light[-1] - light[0]) > 25


def test_no_two_networks_share_mark_glyph_or_dash():
    assert len(set(figures.MARKS)) == len(set(figures.GLYPHS)) == len(set(figures.DASHES[1:])) + 1 == len(svg.SERIES)


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_it_without_errors_and_without_scrolling_sideways(whole, width, tmp_path):
    """The page in a frame as wide as a phone or a laptop; the wrapper writes down what it measures."""
    from html import escape

    measure = """onload = () => {
      const root = document.querySelector("iframe").contentDocument.documentElement;
      const wide = [...root.querySelectorAll("section *")].filter(each =>
        each.getBoundingClientRect().right > root.clientWidth + 0.5 && !each.closest(".wide, svg"));
      const text = [root.scrollWidth, root.clientWidth, wide.length, root.querySelectorAll("section").length];
      document.body.textContent = "measured " + text.join(" ") + " end";
    }"""
    frame = f'<iframe width="{width}" height="844" style="border:0" srcdoc="{escape(whole)}"></iframe>'
    wrapper = tmp_path / "wrapper.html"
    wrapper.write_text(f'<meta charset="utf-8"><body>{frame}<script>{measure}</script>')
    options = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
    options += " --hide-scrollbars --disable-component-update --disable-sync --enable-logging=stderr"
    options += f" --user-data-dir={tmp_path}/profile"
    ran = subprocess.run(
        ["chromium", *options.split(), "--dump-dom", wrapper.as_uri()], capture_output=True, text=True, timeout=60
    )
    found = re.search("measured ([0-9 ]+) end", ran.stdout)
    assert found, ran.stderr
    assert [int(each) for each in found[1].split()] == [width, width, 0, len(SECTIONS)]
    assert "CONSOLE" not in ran.stderr


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two runs as training leaves them, of networks that have learnt nothing."""
    place = tmp_path_factory.mktemp("runs")
    for name, width, given in (("teacher", 6, ""), ("student", 3, "--method=kd(temperature=4)\n")):
        keras.utils.set_random_seed(width)
        (place / name).mkdir()
        convolutional(width, classes=10, shape=(8, 8, 1)).save(place / name / "model.keras")
        (place / name / "flags.txt").write_text(f"--dataset=digits\n{given}--train_split=train\n")
        (place / name / "metrics.csv").write_text("epoch,hard,loss,val_accuracy\n0,2.3,2.3,NA\n1,2.2,2.2,0.125\n")
    return place


def test_the_page_of_an_inquiry_says_what_it_found(runs, tmp_path, monkeypatch):
    monkeypatch.setattr("sys.argv", ["evaluate", f"--teacher={runs / 'teacher'}", "--report=page.html"])
    questions = tuple(question for question in QUESTIONS if question != "memory")  # which starts processes
    inquiry = Inquiry(data.load("digits", "test", None), questions, examples=24)
    names = [str(runs / name) for name in ("teacher", "student")]
    for name in names:
        inquiry.ask(Candidate.load(name))
    found = inquiry.findings[names[1]]
    judged = check_requirements({"min_agreement": 0.999}, found, inquiry.findings[names[0]])
    pictures.write_report(str(tmp_path / "page.html"), inquiry, names[1], judged)
    elements = Elements((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert {each["id"] for each in elements.all("section")} == SECTIONS
    assert f"✗ FAIL Agreement at least 99.9 % {100 * found['agreement']:.1f} %" in elements.text
    assert f"Same answer as the teacher – {100 * found['agreement']:.1f} %" in elements.text
    assert f"mean error {100 * inquiry.findings[names[0]]['corruption_error']:.1f} %" in elements.text
    assert "797 test images of digits. Corruptions, attention and CKA:" in elements.text
    assert "distilled student" in elements.text and "distilled 12.5 % (best 12.5 %)" in elements.text
    assert "python -m experiments.distill --run=NEW --flagfile=" in elements.text
    assert f"python -m experiments.evaluate --teacher={runs / 'teacher'} --report=page.html" in elements.text
    assert len(elements.all("img")) == 8 * 3 + 10


@pytest.mark.slow
def test_evaluate_writes_the_page(runs, tmp_path):
    given = [f"--teacher={runs / 'teacher'}", f"--model={runs / 'student'}", "--examples=24", "--min_agreement=0.999"]
    command = [sys.executable, "-m", "experiments.evaluate", *given, f"--report={tmp_path / 'page.html'}"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert ran.returncode == 3, ran.stderr[-3000:]
    elements = Elements((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert {each["id"] for each in elements.all("section")} == SECTIONS, ran.stdout
    assert "✗ FAIL Agreement" in elements.text and "Memory, 32 images" in elements.text


def test_what_a_run_recorded_of_itself(runs, tmp_path):
    inquiry = SimpleNamespace(teacher="t.keras", findings={})
    inquiry.findings |= {str(runs / name): {} for name in ("teacher", "student")} | {"t.keras": {}, "s.keras": {}}
    made = [pictures.subject(run, inquiry) for run in inquiry.findings]
    assert [each.role for each in made] == ["alone", "distilled", "teacher", "other"]
    assert made[0].history["hard"] == [2.3, 2.2] and np.isnan(made[0].history["val_accuracy"][0])
    assert made[1].commands[2:] == ["--dataset=digits", "--method=kd(temperature=4)", "--train_split=train"]
    assert made[3].history == {} and made[3].commands == []


def test_the_worst_disagreements_are_the_surest(runs):
    made = source(37)
    random = np.random.default_rng(1)
    given = {run: Predictions(random.normal(size=(37, 5)).astype("float32"), made_labels(made)) for run in ("t", "s")}
    images = data.evaluation(made, batch_size=8)
    shown = pictures.disagreements(SimpleNamespace(teacher="t", answers=given, images=images, test=made), "s")
    everyone = [one["image"].numpy() for one in made.examples]
    t, s = (np.exp(each.logits) / np.exp(each.logits).sum(-1, keepdims=True) for each in given.values())
    sure = np.where(t.argmax(-1) == s.argmax(-1), 0, t.max(-1) * s.max(-1))
    assert len(shown) == pictures.DIFFERED
    for each, place in zip(shown, np.argsort(-sure)):
        np.testing.assert_array_equal(each.image, everyone[place])
        assert each.teacher[0] == t[place].argmax() != each.student[0] == s[place].argmax()
        assert each.student[1] == pytest.approx(s[place].max()) and each.label == given["s"].labels[place]


def made_labels(made):
    return np.array([int(one["label"]) for one in made.examples])


def test_what_keeps_the_page_from_being_written_is_said_first(tmp_path, monkeypatch):
    pictures.check_report(str(tmp_path / "page.html"))
    with pytest.raises(ValueError, match="--report= a file in a directory"):
        pictures.check_report(str(tmp_path / "none" / "page.html"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "jinja2" else object())
    with pytest.raises(ValueError, match="no jinja2"):
        pictures.check_report(str(tmp_path / "page.html"))
