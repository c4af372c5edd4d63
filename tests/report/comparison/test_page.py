"""The page of `ebmzoo compare`: it needs no network, and shows text from runs as text."""

import csv
import inspect
import json
import math
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
import yaml
from PIL import Image

import ebmzoo.data
from ebmzoo.report.comparison.compare import compare
from ebmzoo.report.comparison.html import Html, joined, tag
from ebmzoo.report.comparison.page import POLICY, page
from ebmzoo.report.comparison.page_tables import colours, contrast
from ebmzoo.report.comparison.papers import papers
from ebmzoo.report.comparison.records import read_records
from ebmzoo.report.comparison.svg import Axis, Series, plot

SETS = {name for name, _ in papers().data.values()}
"""The data sets of the papers' tables."""
ATTACK = "<script>alert(1)</script>"
PROTOCOL = {
    "n": 100,
    "chains": {"full": {"start": "noise", "steps": 5, "temperature": 1e-6}},
    "extractors": {"pixels": {}},
}


def made(folder, distance, nfe=6, method="LIEBM", note="", no_mcmc=True, auroc=0.9, data="CIFAR10", sets=1, **size):
    """A run with results, curves, pictures and costs."""
    (folder / "test").mkdir(parents=True)
    (folder / "csv" / "version_0").mkdir(parents=True)
    config = {"data": {"class_path": f"ebmzoo.data.{data}", "init_args": size}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"model": {"class_path": f"ebmzoo.methods.{method}"}}))
    figures = {"fd_pixels": distance, "nfe": nfe, "seconds": nfe / 10}
    if no_mcmc:
        figures |= {"no_mcmc/fd_pixels": distance + 1, "no_mcmc/nfe": 1, "no_mcmc/seconds": 0.1}
    content = {"task": "generation", "figures": figures, "protocol": PROTOCOL, "notes": [note] if note else []}
    (folder / "test" / "generation.json").write_text(json.dumps(content))
    names = ["noise", *(f"interpolated_images_{k}" for k in range(sets - 1))]
    outside = {"in": "digits", "in_images": 9, "out_images": dict.fromkeys(names, 9), "kinds": {}}
    content = {"task": "ood", "figures": {f"{name}/auroc_score": auroc for name in names}, "protocol": outside}
    (folder / "test" / "ood.json").write_text(json.dumps(content))
    (folder / "training.json").write_text(json.dumps({"parameters": {"net": 1000 * nfe}}))
    with (folder / "csv" / "version_0" / "metrics.csv").open("w") as file:
        rows = csv.writer(file)
        rows.writerow(["step", "train/energy_gap"])
        rows.writerows([[step, math.sin(step)] for step in range(1000)])
    Image.new("RGB", (40, 20)).save(folder / "test" / "samples.png")
    return folder


@pytest.fixture
def html(tmp_path):
    runs = [made(tmp_path / "one", 3.0), made(tmp_path / "two", 2.0, nfe=300, method="VAE", no_mcmc=False)]
    return page(compare(read_records(runs)))


class Read(HTMLParser):
    """The elements of a page, and whether all are closed in order."""

    VOID = ("img", "meta", "wbr")

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.script, self.style = [], [], "", ""
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, name, attributes):
        self.elements.append((name, dict(attributes)))
        if name not in self.VOID:
            self.open.append(name)

    def handle_endtag(self, name):
        assert self.open.pop() == name

    def handle_data(self, data):
        if self.open and self.open[-1] in ("script", "style"):
            setattr(self, self.open[-1], getattr(self, self.open[-1]) + data)


def test_the_page_needs_no_network(html):
    """No element, style or script refers to another address, and the policy forbids a browser to load one."""
    read = Read(html)
    for name, attributes in read.elements:
        assert name not in ("link", "iframe", "object", "embed", "base", "form", "video", "audio", "source"), name
        for key in {"src", "href", "xlink:href", "srcset", "action", "poster", "data", "background"} & set(attributes):
            assert attributes[key].startswith(("data:image/png;base64,", "#")), (name, key)
        assert not [key for key in attributes if key.startswith("on")], name
    assert "url(" not in html
    assert "@import" not in read.style
    for word in (
        "fetch",
        "XMLHttpRequest",
        "import",
        "WebSocket",
        "EventSource",
        "sendBeacon",
        "http",
        "eval",
        "//www",
    ):
        assert word not in read.script, word
    assert not re.search(r"https?://", html)
    (policy,) = [a["content"] for n, a in read.elements if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == POLICY
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'")


def test_the_policy_precedes_everything_that_it_governs(html):
    assert html.index("Content-Security-Policy") < html.index("<style") < html.index("<body")


def test_every_link_leads_to_a_section(html):
    read = Read(html)
    links = {a["href"].removeprefix("#") for n, a in read.elements if n == "a"}
    assert links == {a["id"] for n, a in read.elements if n == "section"}
    assert links == {"figures", "samples", "cost", "ood", "curves", "papers", "protocols"}


def test_text_from_runs_is_escaped(tmp_path):
    named = tmp_path / ATTACK.replace("/", "")  # a folder's name has no slash
    first = made(named, 3.0, note=f'"{ATTACK}', method=ATTACK)
    (tmp_path / "failed").mkdir()
    (tmp_path / "failed" / "failed.json").write_text(json.dumps({"error": f"<img src=x onerror=alert(1)>{ATTACK}"}))
    content = json.loads((first / "test" / "ood.json").read_text())
    content["figures"] = {f"{ATTACK}'\"/auroc_score": 0.5}
    content["protocol"] |= {"in": ATTACK}
    (first / "test" / "ood.json").write_text(json.dumps(content))
    html = page(compare(read_records([first, tmp_path / "failed"]), ["*"]))
    read = Read(html)
    assert [n for n, _ in read.elements].count("script") == 1
    assert ATTACK not in html
    assert "<script>alert(1)<script>" not in html
    assert "&lt;script&gt;alert(1)" in html
    assert not [a for _, a in read.elements if "onerror" in a]


def test_text_is_escaped_and_markup_is_not():
    assert tag("p", "<b>", tag("i", "&"), None, title='"', class_="k") == (
        '<p title="&quot;" class="k">&lt;b&gt;<i>&amp;</i></p>'
    )
    assert joined("<", Html("<br>")) == "&lt;<br>"
    assert tag("img", alt="a", hidden=True, width=None) == '<img alt="a" hidden>'


def test_the_table_sorts_by_values_and_reads_without_script(html):
    read = Read(html)
    values = [a["data-value"] for n, a in read.elements if n == "td" and "data-value" in a]
    assert {"3.0", "2.0", "300.0"} <= set(values)
    assert not [n for n, _ in read.elements if n == "button"]  # the script makes them
    body = html.partition("<tbody>")[2].partition("</tbody>")[0]
    assert [re.sub("<[^>]+>", "", cell) for cell in re.findall(r'<td class="words">(.*?)</td>', body)] == [
        "5 steps from noise, temperature 1e-06"
    ] * 2


def test_plots_have_the_points_of_their_runs(html):
    section = html.partition('id="cost"')[2].partition("</section>")[0]
    titles = re.findall('<figcaption class="heading">(.*?)</figcaption>', section)
    assert titles == [f"FD pixels against {what}" for what in ("NFE", "parameters", "seconds")]
    nfe, parameters, _ = re.findall(r"<figure>.*?</figure>", section)
    assert nfe.count("<circle") == 3  # two runs, and one of them without its chain too
    assert nfe.count(" hollow") == nfe.count("<polyline") == 1
    assert parameters.count("<circle") == 2
    assert "two: NFE 300, FD pixels 2" in nfe


def test_curves_are_thinned(html):
    section = html.partition('id="curves"')[2].partition("</section>")[0]
    (first, second) = re.findall(r'points="([^"]*)"', section.partition("<figure>")[2])
    assert 150 <= len(first.split()) <= 200
    assert first == second  # both runs logged the same


def test_a_large_picture_is_made_smaller(tmp_path):
    run = made(tmp_path / "one", 3.0)
    Image.effect_noise((3000, 300), 50).save(run / "test" / "samples.png")
    html = page(compare(read_records([run])))
    assert len(html) < (run / "test" / "samples.png").stat().st_size
    (run / "test" / "samples.png").write_bytes(b"no picture")
    assert "<img" not in page(compare(read_records([run])))


def test_runs_without_results_make_a_page(tmp_path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / "config.yaml").write_text("{}")
    (tmp_path / "new" / "last.ckpt").touch()
    read = Read(page(compare(read_records([tmp_path / "new"]))))
    assert {a["id"] for n, a in read.elements if n == "section"} == {"figures"}


def test_papers_stand_apart_with_their_source_and_marks(html):
    figures = html.partition('id="figures"')[2].partition("</section>")[0]
    printed = html.partition('id="papers"')[2].partition("</section>")[0]
    assert "4.26" not in figures
    assert "4.26<small>Table 1, NFE 16</small>" in printed
    assert "VAE, CIFAR-10, FID: 115.8 (LIEBM Table 1); 78.41 (CDRL Table 1)" in printed
    assert re.search(r"115\.8<abbr title=\"VAE, CIFAR-10, FID[^>]*>‡</abbr>", printed)
    assert "not converged" in printed


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"data": "CIFAR10"}, {"CIFAR-10"}),
        ({"data": "CelebA", "size": 64}, {"CelebA-64"}),
        ({"data": "CelebA"}, {"CelebA-64"}),
        ({"data": "CelebAHQ256", "batch_size": 3}, {"CelebA-HQ-256"}),
        ({"data": "ImageNet32"}, {"ImageNet-32"}),
        ({"data": "LSUNChurch"}, {"LSUN-Church-64"}),
    ],
)
def test_only_the_papers_rows_on_the_data_of_the_runs_are_shown(tmp_path, data, named):
    html = page(compare(read_records([made(tmp_path / "one", 3.0, **data)])))
    printed = html.partition('id="papers"')[2].partition("</section>")[0]
    headings = re.findall("<h4>(.*?), [^,]*</h4>", printed)
    shown = {name for name in SETS if any(f"{heading} ".startswith(f"{name} ") for heading in headings)}
    assert shown == named
    assert len(headings) == len({(row.data, row.metric) for row in papers().on(named).rows})
    of_disagreements = printed.partition("Where papers disagree")[2]
    assert not [name for name in SETS - named if f", {name}" in of_disagreements]
    plots = re.findall(r'class="heading">(.*?), as printed', printed)
    assert set(plots) <= named


@pytest.mark.parametrize("data", [{"data": "Digits"}, {"data": "CelebA", "size": 128}, {"data": "ImageFolder"}])
def test_data_that_no_paper_has_show_none_of_their_rows(tmp_path, data):
    html = page(compare(read_records([made(tmp_path / "one", 3.0, **data)])))
    assert 'id="papers"' not in html
    assert "CIFAR-10" not in html


def test_every_row_of_the_papers_is_on_a_data_set_that_can_be_run():
    assert len(papers().on(SETS).rows) == len(papers().rows)
    assert all(hasattr(ebmzoo.data, name) for name in papers().data)


@pytest.mark.parametrize("data", papers().data)
def test_the_side_of_the_images_is_that_of_the_data_set(data):
    """A config without `size` has the default of the class, which is the papers'."""
    parameters = inspect.signature(getattr(ebmzoo.data, data)).parameters
    _, side = papers().data[data]
    assert "size" not in parameters or parameters["size"].default in (side, inspect.Parameter.empty)


def pixels(text, bold=False):
    """The width of a text in the widest of the usual fonts, at the 15 pixels of the page."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(family="DejaVu Sans", weight="bold" if bold else "normal", size=15)
    return text_to_path.get_text_width_height_descent(text, font, False)[0]


def widths(table):
    """The width of each column of a table of the page as a browser lays it out, where nothing else forces a wrap."""
    rows = [re.findall(r"<t([hd])([^>]*)>(.*?)</t[hd]>", row) for row in re.findall("<tr>(.*?)</tr>", table)]
    found = []
    for column in range(len(rows[0])):
        heading, *cells = [row[column] for row in rows]
        words = re.sub("<[^>]+>", " ", heading[2]).split(" ")
        least = 160 if column == 0 else 83
        longest = max(pixels(word, bold=True) for word in words)
        for kind, attributes, content in cells:
            if "words" in attributes:
                least = max(least, 224)
            else:
                text = re.sub("<span.*?</span>|<[^>]+>", "", content)
                name = 320 - 45 if kind == "h" else math.inf
                longest = max(longest, min(name, pixels(text, bold=True) + (20 if kind == "h" else 0)))
        found.append(max(least, longest + 20 + 1))
    return found


@pytest.mark.parametrize("sets", [1, 5, 12, 30])
def test_no_column_is_out_of_sight_at_1440_pixels(tmp_path, sets):
    """The window has a scroll bar of 15 pixels, and the page a margin of 16 on either side."""
    names = ("liebm_digits", "a_run_with_a_long_name_of_many_words_that_has_to_be_wrapped")
    runs = [made(tmp_path / name, 3.0 + i, nfe=300 * i + 6, sets=sets) for i, name in enumerate(names)]
    html = page(compare(read_records(runs), ["*"] if sets == 12 else None))
    tables = re.findall("<table.*?</table>", html.partition('id="papers"')[0])
    assert len(tables) > 2 or sets == 1, "figures and AUROC"
    for table in tables:
        assert sum(widths(table)) <= 1440 - 15 - 32, re.sub("<[^>]+>", " ", table)
    figures = html.partition('id="figures"')[2].partition("</section>")[0]
    assert len(re.findall(r"AUROC[^<]*↑", figures)) == sets


def test_wide_comparisons_have_a_table_for_each_task_and_all_runs(tmp_path):
    runs = [made(tmp_path / name, 3.0, sets=12) for name in ("one", "two")]
    figures = page(compare(read_records(runs))).partition('id="figures"')[2].partition("</section>")[0]
    titles = re.findall("<h3>(.*?)</h3>", figures)
    assert titles[:3] == ["Generation", "Out-of-distribution detection", "Out-of-distribution detection, continued"]
    assert titles[-1] == "Training"
    tables = re.findall("<table.*?</table>", figures)
    assert len(tables) == len(titles)
    assert all(table.count('scope="row"') == 2 for table in tables)


@pytest.mark.parametrize("value", [k / 100 for k in range(101)])
def test_every_cell_of_the_heat_map_can_be_read(value):
    background, text = colours(value)
    rgb = tuple(map(int, re.findall(r"\d+", background)))
    white = contrast(rgb)
    assert (white if text == "#fff" else 21 / white) >= 4.5  # WCAG 2.1, AA


def test_contrast_of_known_colours():
    assert contrast((0, 0, 0)) == pytest.approx(21)
    assert contrast((255, 255, 255)) == pytest.approx(1)
    assert contrast((119, 119, 119)) == pytest.approx(4.48, abs=0.01)  # #777, the grey just too light for AA


@pytest.mark.parametrize("kind", ["linear", "log", "asinh"])
@pytest.mark.parametrize("values", [(1.0, 16.0, 1200.0), (3.0, 3.0), (0.01, 0.011), (1e-9, 5.0), (2e5, 7e8), ()])
def test_axes_are_increasing_and_hold_all_values(kind, values):
    axis = Axis.of(values, kind)
    places = [axis(v) for v in sorted(values)]
    assert places == sorted(places)
    assert all(0 < place < 1 for place in places)
    ticks = axis.ticks()
    assert ticks == sorted(set(ticks))
    assert all(-1e-9 <= axis(t) <= 1 + 1e-9 for t in ticks)
    assert 1 <= len(ticks) <= 9


def test_equal_factors_are_equal_steps_on_a_logarithmic_axis():
    axis = Axis.of([1.0, 1000.0], "log")
    assert axis(10) - axis(1) == pytest.approx(axis(100) - axis(10))


def test_the_gaps_axis_is_odd_about_zero():
    axis = Axis.of([-5.0, 0.1, 5.0], "asinh")
    assert axis(0) == pytest.approx(0.5)
    assert axis(3) + axis(-3) == pytest.approx(1)


def test_zero_is_not_put_on_a_logarithmic_axis():
    assert Axis.of([0.0, 1.0], "log").kind == "linear"


def test_plots_are_well_formed_and_leave_out_what_is_not_finite():
    drawn = plot([Series("a & b", 11, [(1.0, 2.0), (2.0, math.nan), (3.0, math.inf)], line=True)], "<t>", "x", "y")
    root = ElementTree.fromstring(drawn)
    assert root.find("figcaption").text == "<t>"
    (mark,) = root.iter("polygon")  # the second shape, as ten colours are used up
    assert mark.get("class") == "mark s1"
    assert mark.find("title").text == "a & b"
    assert list(root.iter("polyline")) == []
