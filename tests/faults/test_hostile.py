"""Files and names made to do harm are refused: soon, in little memory, and nothing runs."""

from __future__ import annotations

import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
import zstandard
from blake3 import blake3

from kasmina.checkpoint import (
    BadContents,
    BadName,
    CheckpointManager,
    Contents,
    Damaged,
    MigrationRefused,
    NewerFormat,
)
from kasmina.checkpoint.frame import END, MAGIC, footer, header_and_manifest
from kasmina.checkpoint.manifest import Data, Manifest, Packed
from tests.faults.disks import contents, filled
from tests.helpers import ROOT

ID = "000000000099-0badf00d"
Count = Callable[[str, object], None]


def manifest(data: Data, **fields: object) -> Manifest:
    """A valid manifest."""
    whole = Manifest(
        id=ID, created="2026-01-01T00:00:00.000Z", priority="normal", parent=None, kasmina="0.1.0",
        torch=None, device="cpu", spec=None, schema={}, architecture=None, metadata=None, parts={},
        data=data,
    )  # fmt: skip
    return msgspec.structs.replace(whole, **fields)


def sealed(data: bytes, made: Manifest | None = None) -> bytes:
    """A frame whose every digest is right, around any data."""
    head = header_and_manifest(made or manifest(Data(bytes=len(data))))
    return head + data + footer(head, blake3(data).digest())


def with_text(text: bytes) -> bytes:
    """A frame whose every digest is right, around any manifest."""
    fields = struct.pack("<8sHHIQQ16s", MAGIC, 2, 2, 0, len(text), 0, b"0.1.0")
    head = fields + blake3(fields).digest(16) + text
    return head + footer(head, blake3(b"").digest())


def tensors(table: object, data: bytes = b"") -> bytes:
    """The safetensors layout of any table."""
    text = table if isinstance(table, bytes) else json.dumps(table).encode()
    return len(text).to_bytes(8, "little") + text + data


def nested(depth: int) -> object:
    """A list in a list in a list."""
    made: object = []
    for _ in range(depth):
        made = [made]
    return made


def entry(shape: list[object], start: int = 0, end: int = 0, dtype: object = "F32") -> object:
    """One tensor of a table."""
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


class Attack:
    """What a pickle would run."""

    def __reduce__(self) -> tuple[object, ...]:
        return (print, ("executed",))


def zipped() -> bytes:
    """What torch.save writes."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Attack()))
    return made.getvalue()


def bomb(size: int, declared: int | None = None) -> bytes:
    """Zeros, compressed; the archive may lie about how many."""
    packer = zstandard.ZstdCompressor(level=19).compressobj(size=size)
    chunk = bytes(1 << 20)
    stored = b"".join(packer.compress(chunk) for _ in range(size >> 20)) + packer.flush()
    said = size if declared is None else declared
    packed = Packed(bytes=said, blake3=blake3(b"").hexdigest())
    return sealed(stored, manifest(Data(bytes=len(stored), packed=packed)))


F4 = "F32"
HOSTILE: dict[str, Callable[[], bytes]] = {
    "pickle": lambda: pickle.dumps(Attack()),
    "pickle in the frame": lambda: sealed(pickle.dumps(Attack())),
    "zip": zipped,
    "zip in the frame": lambda: sealed(zipped()),
    "bare zstandard": lambda: zstandard.compress(b"x" * 1000),
    "zstd bomb, honest": lambda: bomb(1 << 30),
    "zstd bomb, declares little": lambda: bomb(1 << 28, 1 << 10),
    "zstd bomb, declares much": lambda: bomb(1 << 20, 1 << 50),
    "zstd without a size": lambda: sealed(
        stored := zstandard.ZstdCompressor().compressobj().compress(b"x")
        + zstandard.ZstdCompressor(write_content_size=False).compress(b"abc"),
        manifest(Data(bytes=len(stored), packed=Packed(bytes=3, blake3="0" * 64))),
    ),
    "zstd that is none": lambda: sealed(
        b"no zstd", manifest(Data(bytes=7, packed=Packed(bytes=9, blake3="0" * 64)))
    ),
    "key twice in the table": lambda: sealed(
        tensors(b'{"a":%s,"a":%s}' % ((json.dumps(entry([1], 0, 4)).encode(),) * 2), bytes(4))
    ),
    "key twice in the manifest": lambda: with_text(b'{"id":"x","id":"y"}'),
    "name ../../etc/x": lambda: sealed(tensors({"../../etc/x": entry([1], 0, 4)}, bytes(4))),
    "name /etc/x": lambda: sealed(tensors({"/etc/x": entry([1], 0, 4)}, bytes(4))),
    "name with NUL": lambda: sealed(tensors({"a\0b": entry([1], 0, 4)}, bytes(4))),
    "name of 300": lambda: sealed(tensors({"a" * 300: entry([1], 0, 4)}, bytes(4))),
    "zero-size giant shape": lambda: sealed(tensors({"a": entry([0, 2**62])})),
    "product that wraps around": lambda: sealed(tensors({"a": entry([2**32, 2**32, 2**32])})),
    "40 axes": lambda: sealed(tensors({"a": entry([1] * 40, 0, 4)}, bytes(4))),
    "negative axis": lambda: sealed(tensors({"a": entry([-1, -1], 0, 4)}, bytes(4))),
    "axis true": lambda: sealed(tensors({"a": entry([True], 0, 4)}, bytes(4))),
    "axis 1e400": lambda: sealed(tensors(json.dumps({"a": entry([1])}).replace("[1]", "[1e400]").encode())),
    "unknown dtype": lambda: sealed(tensors({"a": entry([1], 0, 4, "OBJECT")}, bytes(4))),
    "dtype list": lambda: sealed(tensors({"a": entry([1], 0, 4, ["F32"])}, bytes(4))),
    "overlap": lambda: sealed(tensors({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12))),
    "hole": lambda: sealed(tensors({"a": entry([1], 4, 8)}, bytes(8))),
    "data behind the last": lambda: sealed(tensors({"a": entry([1], 0, 4)}, bytes(8))),
    "offsets turned": lambda: sealed(tensors({"a": entry([1], 4, 0)}, bytes(4))),
    "offsets past the end": lambda: sealed(tensors({"a": entry([9], 0, 36)}, bytes(4))),
    "entry with more": lambda: sealed(tensors({"a": {"dtype": F4, "shape": [], "data_offsets": [0, 4], "x": 1}}, bytes(4))),
    "table a list": lambda: sealed(tensors([])),
    "table of NaN": lambda: sealed(tensors(b"NaN")),
    "table not UTF-8": lambda: sealed(tensors(b"\xff\xfe{}")),
    "table cut": lambda: sealed((1 << 60).to_bytes(8, "little") + b"{}"),
    "no table": lambda: sealed(b"abc"),
    "100 MB table": lambda: sealed(tensors(b'{"' + b"a" * 100_000_000 + b'":0}')),
    "100 MB of spaces": lambda: sealed(tensors(b"{}" + b" " * 100_000_000)),
    "100 MB manifest": lambda: with_text(b'{"id":"' + b"a" * 100_000_000 + b'"}'),
    "manifest of brackets": lambda: with_text(b"[" * 1_000_000),
    "manifest with a long number": lambda: with_text(b'{"format":' + b"9" * 1_000_000 + b"}"),
    "manifest empty": lambda: with_text(b"{}"),
    "manifest a number": lambda: with_text(b"7"),
    "manifest for another id": lambda: sealed(
        tensors({}), manifest(Data(bytes=10), id="000000000098-0badf00d")
    ),
    "id that is a path": lambda: sealed(tensors({}), manifest(Data(bytes=10), id="../../etc/x")),
    "parts name what is not there": lambda: sealed(
        tensors({}), manifest(Data(bytes=10), parts={"a": {"$tensor": "b"}})
    ),
    "parts with an unknown mark": lambda: sealed(
        tensors({}), manifest(Data(bytes=10), parts={"a": {"$call": "print"}})
    ),
    "parts with a bad mark": lambda: sealed(
        tensors({}), manifest(Data(bytes=10), parts={"a": {"$float": "xyz"}})
    ),
    "parts nested deep": lambda: sealed(
        tensors({}), manifest(Data(bytes=10), parts={"a": nested(800)})
    ),
    "parts a list": lambda: sealed(tensors({}), manifest(Data(bytes=10), parts=[])),
    "set of lists": lambda: sealed(
        tensors({}), manifest(Data(bytes=10), parts={"a": {"$set": [[1]]}})
    ),
}  # fmt: skip

WITNESS = """
import sys, time
from pathlib import Path
def peak():  # kB of memory at most so far, of this program alone
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
allowed = {"os.listdir"}
bad, on = [], False
def watch(event, arguments):
    if not on or event in allowed:
        return
    if event in ("exec", "compile") or event.startswith(("pickle", "subprocess", "os.", "marshal",
                 "ctypes", "socket", "shutil", "tempfile", "builtins")):
        bad.append((event, repr(arguments)[:200]))
import kasmina.checkpoint as c
import kasmina.checkpoint.border, numpy, encodings.idna, traceback, mmap, msgspec, json, pathlib
from kasmina.checkpoint import CheckpointManager
manager = CheckpointManager(sys.argv[1], sweep=False)
manager.restore(sys.argv[3]).contents()  # everything that is loaded lazily is loaded now
sys.addaudithook(watch)
before = peak()
began, on = time.process_time(), True
try:
    manager.restore(sys.argv[2]).contents()
    told = "accepted"
except c.CheckpointError as error:
    told = type(error).__name__ + " " + str(len(str(error)))
on = False
seconds = time.process_time() - began
grown = peak() - before
print(told, bad, seconds, grown)
assert not bad, bad
"""


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_file_is_refused(kind: str, tmp_path: Path) -> None:
    """By its type, with a short message, and the older intact one is found."""
    manager, ids = filled(tmp_path, 1)
    data = HOSTILE[kind]()
    (tmp_path / f"{ID}.ckpt").write_bytes(data)
    with pytest.raises(Damaged) as caught:
        manager.restore(ID).contents()
    assert len(str(caught.value)) < 500 + len(str(tmp_path))
    assert next(v for v in manager.verify() if v.id == ID).fault is not None
    pruned = manager.prune()
    assert pruned.deleted == ()
    if "parts" not in kind and "set" not in kind:
        assert manager.restore().id == ids[0]


BIG = [
    *("pickle", "zip", "zip in the frame", "zstd bomb, honest", "zstd bomb, declares little"),
    *("100 MB table", "100 MB of spaces", "100 MB manifest", "manifest of brackets"),
    *("zero-size giant shape", "pickle in the frame", "zstd bomb, declares much"),
]


@pytest.mark.parametrize("kind", BIG)
def test_refusing_costs_little_and_runs_nothing(
    kind: str, tmp_path: Path, record_property: Count
) -> None:
    """An audit hook in a process of its own sees no exec, compile, unpickling or process."""
    _, ids = filled(tmp_path, 1)
    data = HOSTILE[kind]()
    (tmp_path / f"{ID}.ckpt").write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", WITNESS, str(tmp_path), ID, ids[0]],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told, *_, seconds, kilobytes = done.stdout.split()
    assert told == "Damaged", done.stdout
    assert float(seconds) < 2.0
    assert int(kilobytes) < 80_000 + 2 * len(data) // 1024
    record_property("counted", f"refused in {float(seconds):.3f} s and {int(kilobytes) >> 10} MB")


def test_the_audit_hook_sees_what_it_looks_for(tmp_path: Path) -> None:
    """Where the reader did unpickle, the witness would tell."""
    _, ids = filled(tmp_path, 1)
    (tmp_path / f"{ID}.ckpt").write_bytes(HOSTILE["pickle"]())
    planted = WITNESS.replace(
        "    manager.restore(sys.argv[2])",
        f"    import pickle; pickle.loads({pickle.dumps(Attack())!r}); exec('1')\n"
        "    manager.restore(sys.argv[2])",
    )
    assert planted != WITNESS
    done = subprocess.run(
        [sys.executable, "-c", planted, str(tmp_path), ID, ids[0]],
        cwd=ROOT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "pickle.find_class" in done.stderr
    assert "exec" in done.stderr


@pytest.mark.parametrize(
    "name",
    ["../x", "/etc/passwd", "a\0b", "a" * 300, "", "latest ", "000000000001-XYZ", "1-00000000",
     "000000000001-00000000.ckpt", "000000000001-00000000\n", "..", "000000000001-0000000g"],
)  # fmt: skip
def test_hostile_ids_touch_nothing(name: str, tmp_path: Path) -> None:
    """An id that is none is refused before anything is opened, by every method."""
    manager, ids = filled(tmp_path, 1)
    for call in (manager.restore, manager.verify, manager.archive):
        with pytest.raises(BadName, match="is no id of a checkpoint; an id looks like"):
            call(name)
    assert [str(entry.id) for entry in manager.list()] == ids


def test_hostile_file_names_are_passed_over(tmp_path: Path) -> None:
    """What is not named as a checkpoint or a leftover of ours is neither read nor deleted."""
    names = ["..ckpt", "x.ckpt", "000000000001-00000000.ckpt.tmp", ".hidden.tmp", "é" * 100 + ".ckpt",
             "0-0.ckpt", "000000000001-00000000.ckpt\n"]  # fmt: skip
    for name in names:
        (tmp_path / name).write_bytes(b"theirs")
    manager = CheckpointManager(tmp_path)
    assert manager.list() == ()
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_symbolic_link_is_not_followed(tmp_path: Path) -> None:
    """Neither as a checkpoint nor as a leftover."""
    secret = tmp_path / "secret"
    secret.write_text("s")
    place = tmp_path / "c"
    place.mkdir()
    (place / f"{ID}.ckpt").symlink_to(secret)
    (place / f".{ID}.00000000.tmp").symlink_to(secret)
    manager = CheckpointManager(place)
    with pytest.raises(Damaged, match="is a symbolic link; checkpoints are plain files"):
        manager.restore(ID)
    assert secret.read_text() == "s"


def test_a_number_at_the_end_of_its_range_does_not_hide_what_is_saved(tmp_path: Path) -> None:
    """A planted file with the largest number makes saving an error, not a loss."""
    (tmp_path / f"{10**15 - 1}-00000000.ckpt").write_bytes(b"")
    with pytest.raises(BadName, match="no number is left after 999999999999999; "):
        CheckpointManager(tmp_path).save(contents(1))


def test_a_newer_file_says_what_it_needs(tmp_path: Path) -> None:
    """It is not damaged: going back to an older one would lose what was trained since."""
    manager, ids = filled(tmp_path, 1)
    fields = struct.pack("<8sHHIQQ16s", MAGIC, 4, 3, 0, 0, 0, b"0.9.1")
    path = tmp_path / f"{ID}.ckpt"
    path.write_bytes(fields + blake3(fields).digest(16) + b"?" * 500)
    for id_ in ("latest", ID):
        with pytest.raises(NewerFormat) as caught:
            manager.restore(id_)
        assert str(caught.value) == (
            f"{path}: was written by kasmina 0.9.1 in format 3; this kasmina reads formats up to 2. "
            "Install kasmina 0.9.1 or newer; the file was left as it is"
        )
    assert manager.prune().last_good == ids[0]
    assert path.exists()
    assert manager.migrate(lambda state: state).refused[0].args == caught.value.args


@pytest.mark.parametrize("written", [0, 1, 2])
def test_an_unknown_older_format_is_refused(written: int, tmp_path: Path) -> None:
    """A number that no kasmina ever wrote into a header."""
    fields = struct.pack("<8sHHIQQ16s", MAGIC, written, 1, 0, 0, 0, b"0.0.1")
    whole = fields + blake3(fields).digest(16) + bytes(32) + bytes(32) + END
    (tmp_path / f"{ID}.ckpt").write_bytes(whole)
    with pytest.raises(Damaged, match=f"its header is none of format 2: format {written}"):
        CheckpointManager(tmp_path).restore(ID)


def test_unknown_fields_of_a_later_writer_are_passed_over(tmp_path: Path) -> None:
    """What a later kasmina adds without needing a newer reader is no damage."""
    data = tensors({})
    made = msgspec.to_builtins(manifest(Data(bytes=len(data)))) | {"colour": "blue"}
    text = json.dumps(made).encode()
    fields = struct.pack("<8sHHIQQ16s", MAGIC, 3, 2, 0, len(text), len(data), b"0.2.0")
    head = fields + blake3(fields).digest(16) + text
    (tmp_path / f"{ID}.ckpt").write_bytes(head + data + footer(head, blake3(data).digest()))
    assert CheckpointManager(tmp_path).restore().contents().parts == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"version": 2}', "says version 2; this reader knows 1"),
        ("[]", "says version None; this reader knows 1"),
        ('{"version": 1, "version": 1}', "is no checkpoint of format 1: the key 'version' stands"),
        ('{"version": 1, "x": 1}', "is no checkpoint of format 1: Object"),
        ("\x80", "is no checkpoint of format 1: it is no JSON"),
    ],
)
def test_a_strange_file_of_format_1_is_refused(text: str, message: str, tmp_path: Path) -> None:
    """It stays where it is, and the others are taken over."""
    (tmp_path / "checkpoint_000001.json").write_text(text, encoding="latin-1")
    (tmp_path / "checkpoint_000001.safetensors").write_bytes(tensors({}))
    done = CheckpointManager(tmp_path).migrate(remove=True)
    (error,) = done.refused
    assert type(error) is MigrationRefused
    assert message in str(error)
    assert len(list(tmp_path.iterdir())) == 2


def test_contents_with_hostile_names_are_kept_under_safe_ones(tmp_path: Path) -> None:
    """A key of a state dict may be anything; the name in the file never is."""
    import numpy as np

    keys = ["../x", "/etc/x", "a\0b", "a" * 300, "", ".", "ä/ö", "$tensor", " ", "a/b", "a_b"]
    part = {key: np.full(1, number) for number, key in enumerate(keys)}
    manager = CheckpointManager(tmp_path)
    manager.save(Contents(parts={"model": part}))
    found = manager.restore()
    assert {key: int(value[0]) for key, value in found.contents().parts["model"].items()} == {
        key: number for number, key in enumerate(keys)
    }
    assert len(found.blocks) == len(keys)
    with pytest.raises(BadContents, match="no name of a part"):
        manager.save(Contents(parts={"state": {}}, state=contents(1).state))
