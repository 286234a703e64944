"""Kernels of a user's kind on the disk: found again, healed, and kept elsewhere where that fails."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from keyword import kwlist
from pathlib import Path

import pytest

from kasmina_generator import SpecErrors
from kasmina_generator.kernels import making
from kasmina_generator.kernels.making import Request, cache_folder, make, origin, usable
from tests.helpers import run_python

REQUEST = Request(
    name="squash",
    formula="{maps: {up: bias}, hidden: f(up) * up, options: {f: [sigmoid, exp]}}",
    placement="inline",
    choices={"f": "exp", "note": "no option of the kind"},
    package="kasmina_generated",
    mixing=0x3F8,
    joint=0xC8,
)


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    """A folder that could not be used is remembered for the whole process."""
    making._instead.cache_clear()
    yield
    making._instead.cache_clear()


def test_files_are_written_once_and_found_again(tmp_path: Path) -> None:
    """By a name that says what they are; whole, with nothing left beside them."""
    made = make(REQUEST, tmp_path)
    assert list(made.files) == ["inline_squash_exp_forward", "inline_squash_exp_backward"]
    assert made.parameters == ("up_weight", "up_bias", "out_weight", "out_bias")
    assert sorted(tmp_path.iterdir()) == sorted(made.files.values())
    text = made.files["inline_squash_exp_forward"].read_text()
    assert "from kasmina_generated.kernels.tiling import" in text
    assert "return _exp(v_up) * v_up" in text
    assert "    MIXING,\n" in text  # the states are those of the package, and these of the request
    text = made.files["inline_squash_exp_backward"].read_text()
    assert "JOINT = tl.constexpr(0xC8)" in text
    times = [path.stat().st_mtime_ns for path in made.files.values()]
    again = make(replace(REQUEST, choices={"f": "exp"}), tmp_path)
    assert again == made
    assert [path.stat().st_mtime_ns for path in made.files.values()] == times


@pytest.mark.parametrize(
    "change",
    [
        {"formula": "{maps: {up: bias}, hidden: f(up), options: {f: [sigmoid, exp]}}"},
        {"choices": {"f": "sigmoid"}},
        {"mixing": 0x3F0},
        {"joint": 0x88},
        {"package": "other"},
    ],
)
def test_what_the_text_depends_on_is_in_the_name(tmp_path: Path, change: dict[str, str]) -> None:
    """Nothing stale is ever found."""
    one, other = make(REQUEST, tmp_path), make(replace(REQUEST, **change), tmp_path)  # type: ignore[arg-type]
    assert not set(one.files.values()) & set(other.files.values())


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text.replace("_exp(v_up)", "_exp(v_up) + 1"),
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: text.replace("# digest: ", "# digest: 0"),
        lambda text: "import os\n" + text,
        lambda text: text.replace("return", "\udcff"),
    ],
)
def test_a_corrupt_file_is_written_anew(tmp_path: Path, damage: object) -> None:
    """Its own checksum tells; nobody reads what it holds."""
    made = make(REQUEST, tmp_path)
    path = made.files["inline_squash_exp_forward"]
    right = path.read_text()
    assert callable(damage)
    path.write_text(damage(right), errors="surrogateescape")
    assert path.read_bytes() != right.encode()
    assert make(REQUEST, tmp_path) == made
    assert path.read_text() == right


def test_a_folder_that_cannot_be_written_is_replaced_with_one_warning(tmp_path: Path) -> None:
    """Kernels are made all the same."""
    blocked = tmp_path / "file" / "kernels"
    (tmp_path / "file").write_text("in the way")
    with pytest.warns(RuntimeWarning) as told:
        made = make(REQUEST, blocked)
    assert make(REQUEST, blocked) == made  # and a warning would be an error
    folder = made.files["inline_squash_exp_forward"].parent
    (message,) = (str(warning.message) for warning in told)
    assert message == (
        f"the kernel cache {blocked} cannot be written: Not a directory; kernels are kept in "
        f"{folder} until this process ends"
    )
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


READ_ONLY = """
import os, sys, warnings
from pathlib import Path
from kasmina_generator.kernels.making import usable
if os.geteuid() == 0:
    os.seteuid(65534)  # rights do not count for root
with warnings.catch_warnings(record=True) as told:
    warnings.simplefilter("always")
    found = usable(Path(sys.argv[1]))
print(found != Path(sys.argv[1]), [str(warning.message).split(";")[0] for warning in told])
"""


def test_a_read_only_folder_is_not_used(tmp_path: Path) -> None:
    """As a user sees it for whom rights count."""
    for folder in (tmp_path, *tmp_path.parents[:2]):
        folder.chmod(0o755)
    cache = tmp_path / "kernels"
    cache.mkdir(mode=0o555)
    done = subprocess.run(
        [sys.executable, "-c", READ_ONLY, str(cache)], capture_output=True, text=True, check=False
    )
    why = "cannot be written: Permission denied"
    assert done.stdout == f"True ['the kernel cache {cache} {why}']\n", done.stderr


def test_a_folder_of_somebody_else_is_not_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who can write there could have the process run anything."""
    monkeypatch.setattr(os, "getuid", lambda: tmp_path.stat().st_uid + 1)
    with pytest.warns(RuntimeWarning, match="belongs to somebody else, whose code would be run"):
        assert usable(tmp_path) != tmp_path


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_a_folder_that_others_can_write_is_not_used(tmp_path: Path, mode: int) -> None:
    """As the former."""
    cache = tmp_path / f"cache{mode}"
    cache.mkdir()
    cache.chmod(mode)
    with pytest.warns(RuntimeWarning, match="can be written by others, whose code would be run"):
        assert usable(cache) != cache


def test_the_folder_is_that_of_the_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """XDG_CACHE_HOME where it is absolute, else ~/.cache; made for the user alone."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "kasmina" / "kernels"
    made = usable(cache_folder())
    assert stat.S_IMODE(made.stat().st_mode) == 0o700
    for value in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", value)
        assert cache_folder() == tmp_path / "home" / ".cache" / "kasmina" / "kernels"


def test_a_wrong_formula_is_told_with_its_place(tmp_path: Path) -> None:
    """Line and column of the text, and a caret; nothing is written."""
    wrong = replace(
        REQUEST, formula="maps: {up: bias}\nhidden: f(up) * tanh(upp)\noptions: {f: exp}"
    )
    with pytest.raises(SpecErrors) as told:
        make(wrong, tmp_path)
    assert str(told.value) == (
        "squash:2:22: kind 'squash': unknown name 'upp'; allowed: up; did you mean 'up'?\n"
        "    f(up) * tanh(upp)\n"
        "                 ^"
    )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ({"f": "epx"}, "kind 'squash': option 'f' is 'epx'; allowed: sigmoid, exp; did you mean 'exp'?"),
        ({}, "kind 'squash': option 'f' is None; allowed: sigmoid, exp"),
    ],
)  # fmt: skip
def test_an_option_without_such_a_choice_is_told(
    tmp_path: Path, choices: dict[str, str], message: str
) -> None:
    """With what there is."""
    with pytest.raises(ValueError) as told:
        make(replace(REQUEST, choices=choices), tmp_path)
    assert str(told.value) == message


def test_a_line_leads_to_the_formula_or_to_the_template(tmp_path: Path) -> None:
    """Of the file as it is made."""
    module = "inline_squash_exp_forward"
    lines = make(REQUEST, tmp_path).files[module].read_text().split("\n")
    places = {
        "    return _exp(v_up) * v_up": "the formula of 'squash'",
        "    return tl.exp(u)": "template kernels/_functions.jinja:5",
        "def _hidden(x, w_up, b_up, UPCAST: tl.constexpr):": "template kernels/inline_forward.py.jinja",
    }
    for line, place in places.items():
        assert origin(REQUEST, module, lines.index(line) + 1).startswith(place)


def test_two_processes_make_the_same_files(tmp_path: Path) -> None:
    """At once, and neither sees half a file."""
    code = f"""
from pathlib import Path
from kasmina_generator.kernels.making import Request, make
for n in range(5):
    made = make(Request("k%d" % n, "{{elementwise: x * scale}}", "inline", {{}}, "p", 1, 1), Path({str(tmp_path)!r}))
    assert all(path.read_text().endswith("\\n") for path in made.files.values())
"""
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [process.wait(timeout=120) for process in running] == [0, 0]
    assert len(list(tmp_path.iterdir())) == 10
    assert run_python(code).returncode == 0


def test_no_parameter_is_called_as_kernels_call_their_own(tmp_path: Path) -> None:
    """Whatever the templates call a tensor is refused as a name, or does no harm beside it."""
    templates = Path(making.__file__).parent.parent / "templates" / "kernels"
    texts = [path.read_text() for path in templates.glob("inline_*.jinja")]
    names = {name for text in texts for name in re.findall(r"\b([a-z]\w*?)_at\b", text)}
    assert {"out", "alpha", "order", "gx"} <= names
    refused = set()
    for name in sorted(names - {*kwlist, "x"} | {"g_scale"}):
        asked = Request("k", f"{{elementwise: x * {name}}}", "inline", {}, "p", 1, 1)
        try:
            made = make(asked, tmp_path)
        except SpecErrors as error:
            assert f"kind 'k': parameter '{name}' " in str(error)
            refused.add(name)
        else:
            for path in made.files.values():
                compile(path.read_text(), path, "exec")
    assert {"out", "alpha", "order", "gx", "g_scale"} <= refused
    assert "bias" not in refused
