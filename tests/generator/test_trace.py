"""Every line of a kernel is led to the line of the template that it comes from."""

from __future__ import annotations

from pathlib import Path

import kasmina_spec
from kasmina_generator import read_spec
from kasmina_generator.emit.render import HEADER_LINES, lines_of_template, render_kernels
from kasmina_generator.kernels.emission import kernel_texts
from tests.helpers import PACKAGES

TEMPLATES = PACKAGES["kasmina_generator"] / "templates"


def test_plain_lines_are_those_of_the_template() -> None:
    """Loops, includes and macros too; lines that a template fills in lead to where it does so."""
    kernels = read_spec(kasmina_spec.LIFECYCLE).kernels
    assert kernels is not None
    sources: dict[str, list[str]] = {}
    plain = filled = 0
    for text in kernel_texts(kernels):
        (output,) = render_kernels([text], kernels, "again")
        body = output.text.split("\n")[HEADER_LINES + 1 :]
        lines = lines_of_template(text.template, text.variables)
        assert len(lines) >= len(body) - 1
        for written, place in zip(body[:-1], lines, strict=False):
            if place.template not in sources:
                sources[place.template] = Path(TEMPLATES, place.template).read_text().split("\n")
            source = sources[place.template][place.line - 1]
            if written.strip() and "{{" not in source:
                assert written == source, (output.name, place)
                plain += 1
            filled += "{{" in source
    assert plain > 3000
    assert filled > 500
