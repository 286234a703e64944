"""Templates of the user's own, filled with the model that ours get, in a sandbox."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

SUFFIX = ".jinja"
# How a header is written into a file, by the end of its name.
COMMENTS: dict[str, tuple[str, str]] = {
    **dict.fromkeys((".py", ".pyi", ".yaml", ".yml", ".toml", ".sh", ".txt", ".dot"), ("# ", "")),
    **dict.fromkeys((".md", ".html", ".svg", ".xml"), ("<!-- ", " -->")),
    **dict.fromkeys((".pml", ".c", ".h", ".css", ".sv", ".v"), ("/* ", " */")),
    **dict.fromkeys((".cpp", ".hpp", ".rs", ".go", ".js", ".ts", ".java", ".cs"), ("// ", "")),
    **dict.fromkeys((".sql", ".lua", ".vhd"), ("-- ", "")),
    **dict.fromkeys((".tex", ".m"), ("% ", "")),
}


class TemplateError(Exception):
    """A user's template that cannot be used, with its line; nothing was written."""


class Filled(NamedTuple):
    """The text of a template, still with its marks, and where it belongs in the package."""

    name: str
    template: str
    text: str


def fill(directory: Path, ours: jinja2.Environment, model: Mapping[str, object]) -> list[Filled]:
    """Return the text of each template below a directory.

    `DIR/docs/table.md.jinja` gives `docs/table.md`. Names that begin with `_` give nothing by
    themselves: they are for `include` and `import`.

    Args:
        directory: Where the templates are.
        ours: The environment of Kasmina's own templates, for its helpers.
        model: What the templates may read: the same as ours.

    Raises:
        TemplateError: There is none, or one is wrong; the message names file and line.
    """
    environment = _environment(directory, ours)
    return [
        Filled(n.removesuffix(SUFFIX), n, _text(environment, n, directory, model))
        for n in _names(directory)
    ]


def _environment(directory: Path, ours: jinja2.Environment) -> jinja2.Environment:
    environment = ImmutableSandboxedEnvironment(
        loader=jinja2.FileSystemLoader(directory),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # the output is source, not HTML
    )
    for name, helper in ours.globals.items():
        environment.globals.setdefault(name, helper)  # the sandbox keeps its own, safer `range`
    return environment


def _names(directory: Path) -> Iterator[str]:
    if not directory.is_dir():
        raise TemplateError(
            f"{directory}: is no directory; --templates takes one of *{SUFFIX} files"
        )
    found = [path.relative_to(directory) for path in directory.rglob(f"*{SUFFIX}")]
    names = sorted(path.as_posix() for path in found if not path.name.startswith("_"))
    if not names:
        raise TemplateError(f"{directory}: holds no template; one is called NAME.py{SUFFIX}, say")
    for name in names:
        if Path(name.removesuffix(SUFFIX)).suffix not in COMMENTS:
            known = ", ".join(COMMENTS)
            what = f"cannot be stamped: no comment is known for it; use one of {known}"
            raise TemplateError(f"{directory / name}: {Path(name).stem!r} {what}")
        yield name


def _text(
    environment: jinja2.Environment, name: str, directory: Path, model: Mapping[str, object]
) -> str:
    try:
        return environment.get_template(name).render(model)
    except jinja2.TemplateSyntaxError as error:
        file = directory / (error.name or name)
        raise TemplateError(f"{file}:{error.lineno}: {error.message}") from error
    except jinja2.TemplateNotFound as error:
        raise TemplateError(f"{directory / name}: there is no template {error.name!r}") from error
    except UnicodeDecodeError as error:
        raise TemplateError(f"{directory / name}: is not UTF-8; save it as UTF-8") from error
    except Exception as error:  # whatever an expression of the user's may raise
        place = _line(error, directory) or str(directory / name)
        raise TemplateError(f"{place}: {error or type(error).__name__}") from error


def _line(error: BaseException, directory: Path) -> str | None:
    """Return file and line of the innermost template that an error passed through."""
    found: str | None = None
    trace: Any = error.__traceback__
    while trace is not None:
        file = Path(trace.tb_frame.f_code.co_filename)
        if file.suffix == SUFFIX and file.is_relative_to(directory):
            found = f"{file}:{trace.tb_lineno}"
        trace = trace.tb_next
    return found
