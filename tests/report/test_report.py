"""The report: one complete and legible file that shows what was found."""

import re
import shutil
import subprocess
from types import SimpleNamespace

import numpy as np
import pytest

from kd_keras import data
from kd_keras.evaluation import Predictions, check_requirements
from kd_keras.report import assembly, figures, labels, svg
from kd_keras.report import page as report
from kd_keras.report.page import Subject, render_page
from kd_keras.report.sections import describe_requirement
from tests.support import findings
from tests.support.networks import source
from tests.support.pages import SECTIONS, Elements

LIMITS = {"max_accuracy_drop": 0.02, "min_agreement": 0.85, "max_size_ratio": 0.25}


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


def test_the_page_is_one_file_without_scripts_and_references(whole, elements):
    assert not re.search(r"https?://|@import|javascript:", whole)
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in elements.elements}
    for _, attributes in elements.elements:
        for name in ("src", "href", "xlink:href", "srcset"):
            assert re.match(r"data:image/png;base64,|#", attributes.get(name) or "#"), attributes
    assert len(whole) < 3e6


def test_ids_are_unique_and_every_reference_has_one(elements, whole):
    ids = [attributes["id"] for _, attributes in elements.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    references = re.findall(r'href="#([^"]+)"|url\(#([^)]+)\)', whole)
    assert len(references) > 50 and {one or other for one, other in references} <= set(ids)


def test_the_section_on_int8_names_the_worst_layers(elements):
    assert "lowest at block7 (29.0 dB), block11 (34.0 dB), block10 (35.0 dB)" in elements.text
    assert "sharpest falls at block7 (by 10.0 dB)" in elements.text
    assert "block7 8 of 12 29.0 -10.0 -1.5 6" in elements.text


def test_a_section_is_shown_if_it_has_data_and_omitted_otherwise(subjects, elements):
    assert {each["id"] for each in elements.all("section")} == SECTIONS
    few = Elements(render_page([bare(each, "accuracy", "parameters") for each in subjects], title="Few"))
    assert {each["id"] for each in few.all("section")} == {"verdict", "trade-off", "reproduce"}
    assert "because their data are missing: training curves, confusion" in few.text
    assert {each["href"] for each in few.all("a")} == {"#verdict", "#trade-off", "#reproduce"}


@pytest.mark.parametrize(
    "name, section",
    [
        ("confusion", "confusion"),
        ("reliability", "calibration"),
        ("error_fog", "robustness"),
        ("cka", "similarity"),
        ("agreement_by_class", "classes"),
        ("gap", "generalization"),
        ("int8_block7", "int8"),
    ],
)
def test_a_section_needs_only_its_own_finding(subjects, name, section):
    only = Elements(render_page([Subject("run", "other", {name: subjects[-1].findings[name]})], title="One"))
    assert {each["id"] for each in only.all("section")} == {section, "verdict", "trade-off", "reproduce"}


def test_the_page_is_accessible_to_screen_readers(elements):
    assert elements.all("html") == [{"lang": "en"}] and len(elements.all("h1")) == 1
    assert all(each.get("alt") for each in elements.all("img"))
    plots_shown = elements.all("svg")
    assert len(plots_shown) == 16 and all(each["role"] == "img" and each["aria-label"] for each in plots_shown)
    headers = elements.all("th")
    assert headers and all(each["scope"] in ("row", "col") for each in headers)
    assert len(elements.all("figure")) == len(elements.all("figcaption"))
    assert all("tabindex" in each for each in elements.all("div") if each.get("class") == "wide")


def test_colors_are_variables_that_each_scheme_defines(whole):
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", whole)) - {"--width"}
    parts = re.findall(r":root \{(.*?)\}", whole, re.S)
    light, dark, paper = (set(re.findall(r"(--[a-z0-9-]+):", part)) for part in parts)
    assert len(used) > 10 and used <= light == dark and light - paper <= {"--heat"}
    assert not re.search("#0a0[ab]", whole.split("</style>")[1])


def test_the_verdict_says_which_requirement_fails(subjects, elements, judged):
    assert [requirement.passed for requirement in judged] == [False, True, True]
    assert (
        "FAIL: the student may not replace the teacher runs/distilled does not meet 1 of 3 requirements."
        in elements.text
    )
    drop = 100 * judged[0].value
    assert f"✗ FAIL Accuracy drop at most 2.00 points {drop:.2f} points" in elements.text
    assert "✓ PASS Size ratio at most 0.25 × 0.11 ×" in elements.text
    few = [bare(each, "accuracy") for each in subjects]
    passed = Elements(render_page(few, judged[1:], title="Two")).text
    assert (
        "PASS: the student may replace the teacher runs/distilled meets all 2 requirements." in passed
        and "FAIL" not in passed
    )
    none = Elements(render_page(few, title="None")).text
    assert "No requirements were set" in none and "PASS" not in none and "FAIL" not in none


def test_a_requirement_that_fails_by_little_does_not_look_met():
    requirements = check_requirements({"max_size_ratio": 0.25}, {"kilobytes": 0.2504}, {"kilobytes": 1.0})
    assert describe_requirement(requirements[0], {})[:3] == ("Size ratio", "at most 0.2500\xa0×", "0.2504\xa0×")


def test_the_trade_off_shows_the_numbers_of_each_network(subjects, elements):
    teacher, baseline, distilled = (each.findings for each in subjects)
    row = re.search("Accuracy ([0-9].*?) Difference from the teacher, points (.*?) Top-5", elements.text)
    wanted = [f"{100 * each['accuracy']:.1f} %" for each in (teacher, baseline, distilled)]
    assert re.findall(r"[0-9.]+ %", row[1]) == wanted
    assert re.findall(r"[0-9.]+–[0-9.]+", row[1])[2] == (
        f"{100 * distilled['accuracy_low']:.1f}–{100 * distilled['accuracy_high']:.1f}"
    )
    wanted = [f"−{100 * (teacher['accuracy'] - each['accuracy']):.2f}" for each in (baseline, distilled)]
    assert [cell for cell in row[2].split() if cell in wanted] == wanted
    assert "Parameters 272 k 30 k 0.11 × 30 k 0.11 ×" in elements.text
    assert "■ teacher runs/ teacher ▲ baseline runs/ baseline ● distilled student runs/ distilled" in elements.text


def test_networks_of_one_role_have_the_names_of_their_runs(subjects):
    teacher, baseline, distilled = subjects
    others = [distilled._replace(name=f"runs/{name}") for name in ("kd", "dkd", "kd_seed/kd")]
    shown = report.name_networks([teacher, baseline, *others])
    assert [each.label for each in shown.values()] == ["teacher", "baseline", "kd", "dkd", "kd_seed/kd"]
    seeds = [distilled._replace(name=f"runs/cifar10_{name}_seed0") for name in ("kd", "dkd", "a_very_long_method")]
    labels = [each.label for each in report.name_networks([teacher, *seeds]).values()]
    pair = report.name_networks([teacher, Subject("runs/odd_one.keras", "other", {})])
    assert [each.label for each in pair.values()] == ["teacher", "odd_one"]
    assert labels == ["teacher", "kd_seed0", "dkd_seed0", "a_very_lo…od_seed0"]
    assert len({each.style for each in shown.values()}) == 5 and shown["runs/kd_seed/kd"].style == 1


@pytest.mark.parametrize(
    "roles, names",
    [((), ()), (("teacher", "boss"), "ab"), (("teacher", "baseline"), "aa"), (("baseline", "teacher"), "ab")],
)
def test_invalid_subjects_are_an_error(roles, names):
    with pytest.raises(ValueError, match="The report needs|'boss' is not a role"):
        render_page([Subject(name, role, {}) for name, role in zip(names, roles, strict=True)], title="None")


HOSTILE = "<script>alert('$x_1$')</script> & \"q\" {{ 7 * 7 }}"


def test_names_are_text_and_nothing_else(subjects):
    classes = [f"{HOSTILE} {place}" for place in range(10)]
    renamed = [each._replace(name=f"{HOSTILE}/{each.role}", role="other", commands=[HOSTILE]) for each in subjects]
    seen = [each._replace(maps={renamed[0].name: each.maps["runs/teacher"]}) for each in findings.attention(2)]
    html = render_page(
        renamed,
        title=HOSTILE,
        data=HOSTILE,
        classes=classes,
        attention=seen,
        disagreements=findings.disagreements(2),
        command=HOSTILE,
    )
    elements = Elements(html)
    assert not elements.all("script")
    assert "<script>alert('$x_1$')</script> & \"q\" {{ 7 * 7 }} 3 → " in elements.text
    assert labels.shorten(classes[3]) in elements.texts  # beside the axis of a figure


def test_missing_numbers_are_dashes(subjects):
    changed = dict(subjects[-1].findings) | {"kilobytes": float("nan"), "temperature": None}
    changed["accuracy_by_class"] = np.where(np.arange(10) == 3, np.nan, changed["accuracy_by_class"])
    changed["confusion"] = changed["confusion"] * (np.arange(10) != 3)[:, None]
    lost = subjects[-1]._replace(findings=changed, history={"epoch": [0, 1], "val_accuracy": [float("nan")] * 2})
    elements = Elements(render_page([subjects[0], lost], title="Lost"))
    assert "File size 1.13 MB – " in elements.text and "nan" not in elements.text
    assert "in smaller" not in elements.text
    del changed["agreement_by_class"]
    alone = Elements(render_page([lost._replace(findings=changed)], title="Alone", classes=findings.CLASSES))
    assert "beginning with the lowest accuracy: " in alone.text
    assert f"lowest accuracy: {findings.CLASSES[3]}" not in alone.text


def test_many_classes_and_many_networks(subjects):
    random = np.random.default_rng(0)
    shared = {
        "accuracy": 0.5,
        "confusion": random.integers(0, 9, (120, 120)),
        "accuracy_by_class": random.uniform(size=120),
        "agreement_by_class": random.uniform(size=120),
    }
    many = [Subject(f"runs/{place}", "other", shared | {"parameters": 1 + place}) for place in range(9)]
    html = render_page(many, title="Many")
    assert html.count("<image") == 2 and "the 20 of 120 classes with the largest loss" in html
    assert len(html) < 1e6


def test_cards_of_attention_and_disagreements(elements, whole):
    cards = [each for each in elements.all("figure") if "card" in each.get("class", "")]
    assert len(cards) == 16 and all("pixelated" in each["class"] for each in cards)
    assert len(elements.all("img")) == 6 * 4 + 10
    assert "true bird teacher ✓ bird 95 % distilled ✗ deer 86 %" in elements.text


def test_images_of_other_channels_show_the_first_ones(subjects):
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 4)).astype("uint8")
    for channels, shown, text in (
        (4, image[..., :3], "first three, as red, green and blue"),
        (2, image[..., :1], "first one"),
    ):
        example = findings.Disagreement(image[..., :channels], 0, (0, 0.9), (1, 0.8))
        html = render_page(subjects, title="Bands", classes=findings.CLASSES, disagreements=[example])
        assert (
            svg.thumbnail(shown) in html
            and f"Of the {channels} channels of an image the picture shows the {text}." in html
        )
    color = findings.Disagreement(image[..., :3], 0, (0, 0.9), (1, 0.8))
    html = render_page(subjects, title="Color", classes=findings.CLASSES, disagreements=[color])
    assert "channels of an image" not in html


def test_a_thumbnail_decodes_to_its_image():
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
    """The colors of the style sheet in the scheme "light", "dark" or "paper" as linear RGB, by variable."""
    css = (report.TEMPLATES / "page.css").read_text()
    parts = dict(zip(("light", "dark", "paper"), re.findall(r":root \{(.*?)\}", css, re.S), strict=True))
    colors = dict(re.findall(r"--([a-z0-9-]+): #([0-9a-f]{6})", parts["light"] + parts[name]))
    return {key: linear(np.frombuffer(bytes.fromhex(value), "uint8") / 255) for key, value in colors.items()}


def linear(srgb):
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def luminance(color):
    return float(color @ [0.2126, 0.7152, 0.0722])


def contrast(one, other):
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def heat(colors, share):
    """The paper under the heat color at a share, blended in sRGB as browsers do."""
    srgb = {name: np.where(c <= 0.0031308, 12.92 * c, 1.055 * c ** (1 / 2.4) - 0.055) for name, c in colors.items()}
    strength = svg.HEAT_STRENGTH * share
    return linear((1 - strength) * srgb["paper"] + strength * srgb["heat"])


@pytest.mark.parametrize("name", ["light", "dark", "paper"])
def test_contrast_of_text_and_lines_in_every_scheme(name):
    """WCAG 2.2: 4.5 to 1, for the figures' lines too, as their names have the same colors."""
    colors = scheme(name)
    for each in ("ink", "soft", "good", "bad", *(f"series-{place}" for place in range(len(figures.MARKS)))):
        assert contrast(colors[each], colors["paper"]) >= 4.5, each
    assert contrast(colors["soft"], colors["page"]) >= 4.5
    assert contrast(colors["ink"], heat(colors, 1.0)) >= 4.5


@pytest.mark.parametrize("name", ["light", "dark", "paper"])
def test_the_heat_color_is_even_in_lightness(name):
    """CIE L* of the shares is near a straight line and monotonic."""
    shares = np.linspace(0, 1, 21)
    light = np.array([116 * np.cbrt(luminance(heat(scheme(name), share))) - 16 for share in shares])
    assert np.abs(light - np.interp(shares, [0, 1], light[[0, -1]])).max() < 4
    assert abs(np.sign(np.diff(light)).sum()) == 20 and abs(light[-1] - light[0]) > 25


def test_every_network_has_its_own_mark_glyph_and_dash():
    assert len(set(figures.MARKS)) == len(set(figures.GLYPHS)) == len(set(figures.DASHES[1:])) + 1 == len(svg.SERIES)


@pytest.mark.skipif(not shutil.which("chromium"), reason="no chromium here")
@pytest.mark.parametrize("width", [390, 1280])
def test_a_browser_shows_the_page_without_errors_and_horizontal_scrolling(whole, width, tmp_path):
    """The page is in a frame as wide as a phone or a laptop; the wrapper writes what it measures."""
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
    measured = re.search("measured ([0-9 ]+) end", ran.stdout)
    assert measured, ran.stderr
    assert [int(number) for number in measured[1].split()] == [width, width, 0, len(SECTIONS)]
    assert "CONSOLE" not in ran.stderr


def test_the_most_confident_disagreements_are_shown():
    images_source = source(37)
    random = np.random.default_rng(1)
    labels = np.array([int(example["label"]) for example in images_source.examples])
    predictions = {name: Predictions(random.normal(size=(37, 5)).astype("float32"), labels) for name in ("t", "s")}
    images = data.evaluation(images_source, batch_size=8)
    evaluator = SimpleNamespace(teacher="t", predictions=predictions, images=images, test=images_source)
    shown = assembly.select_disagreements(evaluator, "s")
    everyone = [example["image"].numpy() for example in images_source.examples]
    t, s = (np.exp(each.logits) / np.exp(each.logits).sum(-1, keepdims=True) for each in predictions.values())
    sure = np.where(t.argmax(-1) == s.argmax(-1), 0, t.max(-1) * s.max(-1))
    assert len(shown) == assembly.DISAGREEMENTS
    for each, place in zip(shown, np.argsort(-sure), strict=False):
        np.testing.assert_array_equal(each.image, everyone[place])
        assert each.teacher[0] == t[place].argmax() != each.student[0] == s[place].argmax()
        assert each.student[1] == pytest.approx(s[place].max()) and each.label == labels[place]


def test_a_page_that_cannot_be_written_is_an_error_before_the_evaluation(tmp_path, monkeypatch):
    assembly.check_report(str(tmp_path / "page.html"))
    with pytest.raises(ValueError, match="does not exist"):
        assembly.check_report(str(tmp_path / "none" / "page.html"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "jinja2" else object())
    with pytest.raises(ValueError, match="missing: jinja2"):
        assembly.check_report(str(tmp_path / "page.html"))


def test_characters_that_xml_does_not_have_do_not_end_the_report():
    with svg.axes(60) as ax:
        ax.set_title("a\x01b")
    assert "a\N{REPLACEMENT CHARACTER}b" in svg.to_svg(ax.figure, "odd", "An odd title")


def test_a_page_needs_the_path_of_a_file(tmp_path):
    with pytest.raises(ValueError, match="must be a file, but .* is a directory. Write report=NAME.html"):
        assembly.check_report(tmp_path)
