"""The report: what is on the page, and that a real browser has nothing to say against it."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from kasmina.observe.folder import RESULT
from kasmina.observe.log import LogError
from kasmina.observe.report import write_report
from kasmina.observe.tables import MOST_ROWS
from tests.runtime.observe.runs import FakeRun, grown

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
EVIL = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>{{ 7 * 7 }}"
VOID = {"meta", "link", "br", "img", "input", "hr"}
PANELS = ("panel-score", "panel-loss", "panel-parameters", "panel-lanes")


class Page(HTMLParser):
    """Reads a page; fails on tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.ids: set[str] = set()
        self.attributes: list[tuple[str, str, str]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note a tag and what it says."""
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        self.ids |= {value for name, value in attrs if name == "id" and value}
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        """Compare with the tag that is open."""
        if tag not in VOID:
            assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note what a reader sees."""
        if not {"style", "script"} & set(self._open):
            self.text += data


def page(folder: Path) -> Page:
    """Write a run's report and read it."""
    return Page(write_report(folder).read_text())


def idle(folder: Path) -> Path:
    """Thirty epochs without any growth."""
    run = FakeRun(folder, epochs=30)
    for epoch in range(30):
        run.end_epoch(0.9 - 0.8 * math.exp(-epoch / 5), 2 * math.exp(-epoch / 7) + 0.1)
        run.decide([], "the budget is spent")
    return run.finish(0.9)


def broken(folder: Path) -> Path:
    """NaN losses in the middle, interrupted, and no test split."""
    run = FakeRun(folder, epochs=30)
    for epoch in range(20):
        lost = 10 < epoch < 14
        run.end_epoch(math.nan if lost else 0.5, math.inf if lost else 200 * math.exp(-epoch / 4))
    run.judge(0, math.nan)
    return run.finish(math.nan, "interrupted", compare=False)


def short(folder: Path) -> Path:
    """One epoch, no budget."""
    run = FakeRun(folder, epochs=1, budget=None)
    run.end_epoch(0.4, 2.0)
    return run.finish(0.41, compare=False)


def evil(folder: Path) -> Path:
    """Every name and reason is an attack."""
    run = FakeRun(folder, task=EVIL.replace("/", "|"), site=EVIL, metric=EVIL, epochs=5)
    for seed in range(4):
        run.end_epoch(0.4, 2.0)
        run.decide([seed], EVIL)
    run.move(0, "TRAINING", EVIL, EVIL)
    run.move(1, EVIL, EVIL, EVIL)
    run.judge(0, 0.1)
    run.add("limit", name=EVIL, value=1)
    run.end_epoch(0.5, 1.0)
    return run.finish(0.41, EVIL)


def started(folder: Path) -> Path:
    """Killed before its first epoch."""
    FakeRun(folder).log.close()
    return folder


def empty(folder: Path) -> Path:
    """A log without a line."""
    folder.mkdir(exist_ok=True)
    (folder / "events.jsonl").write_text("")
    return folder


def crowded(folder: Path) -> Path:
    """300 seeds."""
    return grown(folder, seeds=300)


def killed(folder: Path) -> Path:
    """A run that was killed in the middle of a line."""
    log = grown(folder, finished=False) / "events.jsonl"
    log.write_bytes(log.read_bytes()[:-30])
    return folder


RUNS = [grown, idle, broken, short, evil, started, empty, crowded, killed]


@pytest.fixture(params=RUNS, ids=[run.__name__ for run in RUNS])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """The directory of each kind of run."""
    make: Callable[[Path], Path] = request.param
    return make(tmp_path / "run")


def test_every_run_gives_a_page_of_one_file(folder: Path) -> None:
    """Tags match, nothing is loaded from elsewhere, and no code but ours is on it."""
    read = page(folder)
    assert read.tags.count("script") == 2
    assert not {"img", "iframe", "object"} & set(read.tags)
    links = [value for _, name, value in read.attributes if name in ("src", "href")]
    assert links == ["data:,"]
    assert not [name for _, name, _ in read.attributes if name.startswith("on")]
    assert "panel-lanes" in read.ids


def test_the_page_of_a_whole_run(tmp_path: Path) -> None:
    """Key figures, panels, tables."""
    read = page(grown(tmp_path))
    assert {*PANELS, "legend", "comparison", "architecture", "decisions", "evidence"} <= read.ids
    for part in (
        "digits, seed 0finished",
        "60 epochs of 60, 1,235 training steps; 8 seeds at features (parallel).",
        "330 → 1,114",
        "3.4 times the start, budget 3,466",
        "0.0123",  # rent
        "97.0%",
        "2.14 GFLOP",
        "4 of 8",
        "Rewound in epoch 12: 95 steps thrown away.",
        "static final 96.2%",
        "features[3]",
        "rolled back mlp",
        "training steps, rewound ones included; 19 an epoch",
        "request germination mlp: features[0]#0, features[1]#0, features[2]#0, features[3]#0",
        "no plateau: the best validation loss is 0 epochs old … no plateau",
        "+0.1200",
        "+0.0900 to +0.1600",
        "positive, fossilized",
        "negative, culled",
        "limit min stability",
        "Run digits-0.",
    ):
        assert part in read.text


def test_a_run_without_growth_says_so(tmp_path: Path) -> None:
    """No empty tables."""
    read = page(idle(tmp_path))
    assert not {"architecture", "evidence"} & read.ids
    for part in (
        "Nothing was grafted",
        "No seed left its initial state.",
        "did not grow",
        "1 to 30",
    ):
        assert part in read.text


def test_losses_that_are_not_finite_are_told(tmp_path: Path) -> None:
    """And drawn as gaps."""
    read = page(broken(tmp_path))
    assert "The loss was not finite in 3 epochs, first in epoch 12" in read.text
    assert "The run was interrupted before its planned end" in read.text
    assert "not measured" in read.text
    missing = [v for _, name, v in read.attributes if name == "class" and v == "missing"]
    assert len(missing) == 9  # three epochs on three curves
    assert "nan" not in read.text.lower().replace("+nan", "")  # only the evidence that is NaN


def test_one_epoch_is_a_dot(tmp_path: Path) -> None:
    """A point alone makes no line, but shows."""
    classes = [value for _, name, value in page(short(tmp_path)).attributes if name == "class"]
    assert classes.count("dot grown") == 2
    assert classes.count("dot train") == 1


def test_names_and_reasons_are_text(tmp_path: Path) -> None:
    """An attack is shown as it is written."""
    source = write_report(evil(tmp_path)).read_text()
    assert EVIL in Page(source).text
    assert "<img" not in source
    assert "<script>alert" not in source
    assert "49" not in Page(source).text.split("onerror=alert(2)>")[1][:4]


def test_a_log_that_was_cut_is_told(tmp_path: Path) -> None:
    """The figures are those of the last epoch."""
    read = page(killed(tmp_path))
    for part in ("cut short", "The log ends before the run did", "no test figure", "7 of 8"):
        assert part in read.text


def test_an_empty_log_is_told(tmp_path: Path) -> None:
    """There is nothing to show, and it is said."""
    assert "The log does not begin with the start of a run." in page(empty(tmp_path)).text


def test_many_seeds_and_events_are_counted(tmp_path: Path) -> None:
    """What is not shown is told in numbers."""
    read = page(crowded(tmp_path))
    assert "240 more seeds left their initial state; they are in the log." in read.text
    assert f"The first {MOST_ROWS}; all are in the log." in read.text
    assert "and 144 more" in read.text


def test_many_decisions_are_counted(tmp_path: Path) -> None:
    """Those that did something each have a row, up to a bound."""
    run = FakeRun(tmp_path, seeds=MOST_ROWS + 5)
    for seed in range(MOST_ROWS + 5):
        run.decide([seed], "plateau")
    run.end_epoch(0.5, 1.0)
    assert "5 more are in the log." in page(tmp_path).text


def test_a_far_budget_does_not_flatten_the_curve(tmp_path: Path) -> None:
    """It is named instead."""
    run = FakeRun(tmp_path, budget=10_000_000)
    run.end_epoch(0.5, 1.0)
    assert "budget 10,000,000, off the scale" in page(tmp_path).text


def test_the_wall_time_of_each_network_is_in_the_result(tmp_path: Path) -> None:
    """The log's clocks tell the run's own; a result that is damaged is passed over."""
    grown(tmp_path)
    assert "17.0 s" in page(tmp_path).text
    walls = {"wall_s": 8.5, "comparisons": [{"name": "static start", "wall_s": 1.25}]}
    (tmp_path / RESULT).write_text(json.dumps(walls))
    text = page(tmp_path).text
    assert "growing included, 8.5 s" in text
    assert "1.2 s" in text
    (tmp_path / RESULT).write_text("{}")
    assert "17.0 s" in page(tmp_path).text


def test_a_log_that_is_not_one_is_refused(tmp_path: Path) -> None:
    """And an earlier report stays."""
    write_report(short(tmp_path))
    before = (tmp_path / "report.html").read_bytes()
    (tmp_path / "events.jsonl").write_text("{}\n")
    with pytest.raises(LogError):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_bytes() == before


def test_the_same_log_gives_the_same_page(tmp_path: Path) -> None:
    """To the byte."""
    grown(tmp_path)
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first


def dump(file: Path, width: int, *flags: str) -> tuple[str, str]:
    """Load a page in headless Chromium; returns its DOM and what its console said."""
    assert CHROMIUM is not None
    command = [
        CHROMIUM,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        f"--user-data-dir={file.parent / 'profile'}",
        f"--window-size={width},1600",
        "--enable-logging=stderr",
        *flags,
        "--dump-dom",
        file.as_uri(),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    said = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    return done.stdout, "\n".join(said)


MEASURE = """<script>
const left = [...document.querySelectorAll(".plot")].map((p) => p.getBoundingClientRect());
const move = new PointerEvent("pointermove", {clientX: left[0].left + left[0].width / 2});
document.querySelector(".stack").dispatchEvent(move);
document.body.dataset.over = document.documentElement.scrollWidth - window.innerWidth;
document.body.dataset.lefts = new Set(left.map((r) => r.left)).size;
document.body.dataset.widths = new Set(left.map((r) => r.width)).size;
document.body.dataset.readout = document.querySelector(".readout").textContent;
document.body.dataset.cursor = document.querySelector(".cursor").style.display;
</script></body>"""


def look(report: Path, width: int) -> dict[str, str]:
    """Show a page with `MEASURE` in it; returns what that found. The console stays silent."""
    copy = report.with_name("measured.html")
    copy.write_text(report.read_text().replace("</body>", MEASURE))
    dom, said = dump(copy, width)
    read = Page(dom)
    assert said == ""
    assert "panel-lanes" in read.ids
    return {name: value for tag, name, value in read.attributes if tag == "body"}


if CHROMIUM:  # CI installs it

    def test_a_browser_shows_every_run(folder: Path) -> None:
        """No word on the console, no sideways scrolling when narrow, one axis for all plots."""
        found = look(write_report(folder), 400)
        assert int(found["data-over"]) <= 0
        assert (found["data-lefts"], found["data-widths"]) == ("1", "1")

    def test_a_browser_reads_out_the_nearest_epoch(tmp_path: Path) -> None:
        """The cursor in the middle of the plots."""
        found = look(write_report(grown(tmp_path)), 1280)
        assert int(found["data-over"]) <= 0
        assert found["data-cursor"] == "block"
        assert found["data-readout"].startswith("epoch 27: ")
        assert found["data-readout"].endswith(" parameters")

    def test_a_word_on_the_console_would_be_seen(tmp_path: Path) -> None:
        """The check itself sees an error, and the page's policy stops what would be loaded."""
        page = tmp_path / "bad.html"
        source = write_report(short(tmp_path)).read_text()
        page.write_text(source.replace("</body>", "<script>nothing()</script></body>"))
        assert "nothing is not defined" in dump(page, 800)[1]
        page.write_text(source.replace("</body>", "<img src='https://localhost/x.png'></body>"))
        assert "Content Security Policy" in dump(page, 800)[1]
