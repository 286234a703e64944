"""What the commands of `kasmina spec` share: files that exist, faults as errors, plain lines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kasmina.errors import KasminaError, UsageError
from kasmina_generator.emit.files import BuildError
from kasmina_generator.emit.user import TemplateError
from kasmina_generator.finding import SpecErrors, counted


def existing(file: Path) -> Path:
    """Return the path of a spec that is there.

    Raises:
        UsageError: There is no such file.
    """
    if not file.is_file():
        raise UsageError(f"{file}: there is no such file; a spec is a YAML file")
    return file


@contextmanager
def told() -> Iterator[None]:
    """Turn what the generator refuses into an error of the command line."""
    try:
        yield
    except SpecErrors as error:
        count = counted(len(error.findings), "finding")
        raise KasminaError(f"{error}\n{count}") from error
    except TemplateError as error:
        raise KasminaError(str(error)) from error
    except BuildError as error:
        raise UsageError(str(error)) from error
