"""README and docs say what is true."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import kasmina.bench
from tests.helpers import PACKAGES, ROOT, run_python
from tools.readme import diagram

DOCUMENTS = [
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "CHANGELOG.md",
        "tests/README.md",
        "docs/architecture.md",
        "docs/bus.md",
        "docs/checkpoints.md",
        "docs/growth.md",
        "docs/performance.md",
        "docs/specs.md",
        "docs/verification.md",
    )
]
README = ROOT / "README.md"


def example() -> str:
    """The README's library example."""
    match = re.search(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert match
    return match.group(1)


def test_the_readme_shows_the_generated_diagram() -> None:
    """`make spec` keeps it so."""
    page = PACKAGES["kasmina_generated"] / "lifecycle.md"
    assert diagram(README.read_text()) == diagram(page.read_text())


def test_the_library_example_runs_and_grows() -> None:
    """As it stands, in a fresh process; afterwards the plain model is larger than the host was."""
    host = 8 * 2 + 2 + 2 * 2 + 2
    check = f"""
assert type(plain) is torch.nn.Sequential, type(plain)
assert sum(p.numel() for p in plain.parameters()) > {host}
assert torch.allclose(plain(x), model.eval()(x), atol=1e-5)
"""
    done = run_python("import torch\ntorch.manual_seed(0)\n" + example() + check)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_no_link_and_no_path_is_dead(document: Path) -> None:
    """Every relative link, and every path in backquotes that names a room, is there."""
    text = document.read_text()
    links = re.findall(r"\]\((?!https?:)([^)#]+)", text)
    roots = "spec|generator|generated|runtime|tests|tools|docs"
    paths = re.findall(rf"`((?:{roots})/[\w./-]*)`", text)
    dead = [link for link in links if not (document.parent / link).exists()]
    dead += [path for path in paths if not (ROOT / path).exists()]
    assert not dead


def test_every_benchmark_is_described() -> None:
    """The table of docs/performance.md lists exactly the benchmarks that exist."""
    text = (ROOT / "docs" / "performance.md").read_text()
    text = text.partition("## Benchmarks\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) == kasmina.bench.known()


def test_every_make_target_that_is_named_exists() -> None:
    """No document promises a target that the Makefile lacks."""
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    texts = [document.read_text() for document in DOCUMENTS]
    pattern = re.compile(r"(?:`|^)make ([a-z-]+)", re.MULTILINE)
    named = {target for text in texts for target in pattern.findall(text)}
    assert named
    assert named <= targets
