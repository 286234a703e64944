"""Copy the generated lifecycle diagram into the README; `make spec` runs it."""

from __future__ import annotations

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FENCE = "```mermaid\n"


def diagram(text: str) -> str:
    """The first Mermaid block of a Markdown text, fences included.

    Raises:
        ValueError: there is none.
    """
    start = text.index(FENCE)
    return text[start : text.index("```", start + len(FENCE)) + 3]


def main() -> None:
    """Replace the README's block by the one of the generated page, if they differ."""
    readme = ROOT / "README.md"
    page = ROOT / "generated" / "kasmina_generated" / "lifecycle.md"
    text = readme.read_text()
    fresh = text.replace(diagram(text), diagram(page.read_text()))
    if fresh != text:
        readme.write_text(fresh)


if __name__ == "__main__":
    main()
