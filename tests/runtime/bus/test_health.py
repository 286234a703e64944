"""Health as bytes and back: to the bit, or within the bound that the message states."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from kasmina.bus.frames import BadHealth, HealthFrame, frame_of, message_of, stream_name
from kasmina.bus.health import HealthDecoder, HealthEncoder, MissingKeyframe, Packed
from kasmina.bus.packing import DTYPES, HALF_ABSOLUTE, HALF_RELATIVE, Precision
from kasmina.bus.retry import BadSetting
from kasmina.bus.stamping import Stamp
from kasmina_generated.messages import wire
from kasmina_generated.messages.types import FIELDS, LayerHealth, TelemetryBatch

Array = NDArray[Any]

SPECIAL = np.array(
    [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-45, -1e-38, 3.4e38, -3.4e38, 65504, 65520, 6e-8, 1.0]
)


def column(dtype: str, seeds: int, rng: np.random.Generator) -> Array:
    """Any bits, with special numbers among them."""
    if dtype == "bool":
        return rng.integers(0, 2, seeds).astype(bool)
    bits = rng.integers(0, 256, seeds * np.dtype(dtype).itemsize, dtype=np.uint8)
    found: Array = bits.view(dtype).copy()
    if found.dtype.kind == "f":
        with np.errstate(all="ignore"):
            kind = rng.integers(0, 3, seeds)
            found = np.where(kind == 0, rng.choice(SPECIAL, seeds), found)
            found = np.where(kind == 1, rng.normal(0, 3, seeds), found).astype(dtype)
    return found


def frames(count: int, seeds: int, seed: int, dtypes: tuple[str, ...]) -> list[HealthFrame]:
    """Frames of one column a dtype."""
    rng, found = np.random.default_rng(seed), []
    for n in range(count):
        columns = {f"c{i}": column(dtype, seeds, rng) for i, dtype in enumerate(dtypes)}
        found.append(HealthFrame("run", "a", n // 2, n, columns, gradient_ratio=0.5 * n))
    return found


def over_the_wire(batch: TelemetryBatch) -> TelemetryBatch:
    """As a consumer gets it."""
    found = wire.decode(wire.encode(Stamp("test")(batch))).body
    assert isinstance(found, TelemetryBatch)
    return found


def contents(batch: TelemetryBatch) -> Packed:
    """What a batch holds."""
    return msgspec.msgpack.decode(batch.data, type=Packed)


def same_bits(a: Array, b: Array) -> bool:
    """Equal in every bit, NaN payloads and the sign of zero too."""
    return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()


dtypes = st.lists(st.sampled_from(DTYPES), max_size=4).map(tuple)


@given(
    dtypes=dtypes,
    seeds=st.integers(0, 40),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    seed=st.integers(0, 10_000),
    key_every=st.integers(1, 4),
)
@settings(deadline=None)
def test_lossless_is_to_the_bit(
    dtypes: tuple[str, ...], seeds: int, sizes: list[int], seed: int, key_every: int
) -> None:
    """Every dtype, every bit, across key and delta batches; nothing of the frame is lost."""
    encoder, decoder = HealthEncoder(7, key_every=key_every), HealthDecoder()
    given_ = frames(sum(sizes), seeds if dtypes else 0, seed, dtypes)
    at = 0
    for number, size in enumerate(sizes):
        part = given_[at : at + size]
        at += size
        batch = over_the_wire(encoder.encode(part, dropped=number))
        key = number - number % key_every
        assert (batch.frame, batch.keyframe, batch.dropped) == (number, key, number)
        assert (batch.messages, batch.precision, batch.bound) == (size, "exact", 0.0)
        for found, frame in zip(decoder.decode(batch), part, strict=True):
            assert (found.source, found.epoch, found.step, found.gradient_ratio) == (
                frame.source,
                frame.epoch,
                frame.step,
                frame.gradient_ratio,
            )
            assert list(found.columns) == list(frame.columns)
            assert all(same_bits(found.columns[n], c) for n, c in frame.columns.items())


@given(
    dtype=st.sampled_from(["float32", "float64"]),
    bound=st.sampled_from([1e-6, 1e-3, 0.5, 1e30]),
    seed=st.integers(0, 10_000),
)
@settings(deadline=None)
def test_the_stated_bound_holds_for_every_number(dtype: str, bound: float, seed: int) -> None:
    """NaN stays NaN, infinities stay, and what the bound cannot hold is sent as it is."""
    encoder = HealthEncoder(0, precision=Precision("bounded", bound))
    decoder, given_ = HealthDecoder(), frames(6, 50, seed, (dtype, "int32"))
    for part in (given_[:4], given_[4:]):
        batch = over_the_wire(encoder.encode(part))
        assert (batch.precision, batch.bound) == ("bounded", bound)
        assert [c.bound for c in contents(batch).columns] == [bound, 0.0]
        for found, frame in zip(decoder.decode(batch), part, strict=True):
            a, b = found.columns["c0"], frame.columns["c0"]
            finite = np.isfinite(b)
            assert same_bits(a[~finite], b[~finite])
            assert (np.abs(a[finite].astype("f8") - b[finite].astype("f8")) <= bound).all()
            assert same_bits(found.columns["c1"], frame.columns["c1"])


@given(dtype=st.sampled_from(["float32", "float64"]), seed=st.integers(0, 10_000))
@settings(deadline=None)
def test_half_precision_keeps_what_it_states(dtype: str, seed: int) -> None:
    """2^-11 relative or 2^-25 absolute, whichever is more; 65520 does not become infinite."""
    encoder, given_ = HealthEncoder(0, precision=Precision("float16")), None
    given_ = frames(3, 60, seed, (dtype,))
    for found, frame in zip(HealthDecoder().decode(encoder.encode(given_)), given_, strict=True):
        a, b = found.columns["c0"].astype("f8"), frame.columns["c0"].astype("f8")
        finite = np.isfinite(b)
        assert same_bits(found.columns["c0"][~finite], frame.columns["c0"][~finite])
        error = np.abs(a[finite] - b[finite])
        assert (error <= np.maximum(HALF_ABSOLUTE, HALF_RELATIVE * np.abs(b[finite]))).all()


def test_precision_by_column() -> None:
    """What is not named is lossless."""
    encoder = HealthEncoder(0, precision={"c1": Precision("bounded", 0.1)})
    batch = encoder.encode(frames(1, 5, 0, ("float32", "float32", "int8")))
    assert [(c.coding, c.bound) for c in contents(batch).columns] == [
        ("exact", 0.0),
        ("bounded", 0.1),
        ("exact", 0.0),
    ]


def test_a_missing_batch_is_said_and_the_next_key_batch_mends_it() -> None:
    """Nothing is ever decoded against the wrong frame."""
    encoder, decoder = HealthEncoder(1, key_every=3), HealthDecoder()
    batches = [encoder.encode([frame]) for frame in frames(7, 9, 0, ("float32",))]
    decoder.decode(batches[0])
    for lost in (2, 2):
        with pytest.raises(MissingKeyframe) as missing:
            decoder.decode(batches[lost])
        assert str(missing.value) == (
            "frame 2 of 'run/a' needs frame 1, which was not read; it can be read again from its "
            "next keyframe on"
        )
    with pytest.raises(MissingKeyframe):
        decoder.decode(batches[1])  # its predecessor was forgotten when one was missed
    for number in (3, 4, 5, 6):
        assert len(decoder.decode(batches[number])) == 1


def test_another_session_of_the_source_is_not_mixed_in() -> None:
    """A publisher that was started again has other numbers and another last frame."""
    first, second = HealthEncoder(1), HealthEncoder(2)
    given_ = frames(4, 9, 0, ("float32",))
    decoder = HealthDecoder()
    decoder.decode(first.encode(given_[:1]))
    second.encode(given_[1:2])
    with pytest.raises(MissingKeyframe):
        decoder.decode(second.encode(given_[2:3]))


def test_another_shape_or_a_reset_begins_with_a_key_batch() -> None:
    """A site that grew has more seeds."""
    encoder = HealthEncoder(1)
    batches = [encoder.encode(frames(1, seeds, 0, ("float32",))) for seeds in (9, 9, 10)]
    encoder.reset()
    batches.append(encoder.encode(frames(1, 10, 1, ("float32",))))
    assert [batch.frame - batch.keyframe for batch in batches] == [0, 1, 0, 0]


def test_sources_are_bounded() -> None:
    """The one that was quiet longest waits for its next key batch."""
    decoder, encoders = HealthDecoder(sources=2), [HealthEncoder(0) for _ in range(3)]

    def one(at: int) -> TelemetryBatch:
        frame = HealthFrame("run", str(at), 0, 0, {"c": np.zeros(3, np.int8)})
        return encoders[at].encode([frame])

    for at in (0, 1, 2, 1):
        decoder.decode(one(at))
    with pytest.raises(MissingKeyframe):
        decoder.decode(one(0))


def test_long_names_of_streams_stay_apart() -> None:
    """A run of 256 characters and a site of 512 have a stream of at most 256."""
    names = {stream_name("r" * 256, "s" * 511 + end, first) for end in "ab" for first in (0, 5)}
    assert len(names) == 4
    assert all(len(name) <= 256 for name in names)


def test_frames_are_messages_of_layer_health() -> None:
    """A frame with the columns of the message becomes one and comes back; another is refused."""
    rng = np.random.default_rng(0)
    dtypes_ = {f.name: f.of or "" for f in FIELDS["LayerHealth"] if f.type == "column"}
    columns = {name: np.zeros(4, dtype) for name, dtype in dtypes_.items()}
    columns["mean"] = rng.normal(size=4).astype("f4")
    frame = HealthFrame("run", "encoder.0", 3, 70, columns, 8, 0.25)
    message = wire.decode(wire.encode(Stamp("test")(message_of(frame)))).body
    assert isinstance(message, LayerHealth)
    found = frame_of(message)
    assert (found.source, found.epoch, found.step, found.gradient_ratio) == (
        ("run", "encoder.0", 8), 3, 70, 0.25,
    )  # fmt: skip
    assert all(same_bits(found.columns[name], column) for name, column in columns.items())
    with pytest.raises(BadHealth, match="those of the message are"):
        message_of(HealthFrame("run", "a", 0, 0, {"mean": np.zeros(4, "f4")}))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"a": np.zeros((2, 2), "f4")}, "columns are [seeds], all equally long, and not of the"),
        ({"a": np.zeros(2, "f4"), "b": np.zeros(3, "f4")}, "columns are [seeds], all equally long"),
        ({"a": np.zeros(2, ">f4")}, "column 'a' is >f4; legal are bool, int8"),
        ({"a": np.zeros(2, "f2")}, "column 'a' is float16; legal are bool, int8"),
        ({"a": np.zeros(2**24 + 1, "f4")}, "67108868 bytes of frames; a batch holds at most"),
    ],
)
def test_frames_that_make_no_batch_are_refused(bad: dict[str, Array], message: str) -> None:
    """The message says what is legal."""
    with pytest.raises(BadHealth) as refused:
        HealthEncoder(0).encode([HealthFrame("run", "a", 0, 0, bad)])
    assert str(refused.value).startswith(message)


def test_unequal_frames_are_refused() -> None:
    """Send them apart."""
    given_ = [*frames(1, 3, 0, ("int8",)), *frames(1, 4, 0, ("int8",))]
    with pytest.raises(BadHealth, match="differ in site, names, dtypes or seeds: send them apart"):
        HealthEncoder(0).encode(given_)


def batch_of(*, size: int | None = None, keyframe: int = 0, **changes: Any) -> TelemetryBatch:
    """A good key batch of three frames, with changes of what it holds."""
    encoder = HealthEncoder(0, precision={"c0": Precision("bounded", 1e-3)})
    good = encoder.encode(frames(3, 5, 0, ("float32", "bool")))
    packed = msgspec.structs.replace(contents(good), **changes)
    data = msgspec.msgpack.encode(packed)
    size = good.size if size is None else size
    return msgspec.structs.replace(good, data=data, size=size, keyframe=keyframe)


def header(at: int, **changes: Any) -> dict[str, Any]:
    """The headers with one changed."""
    columns = list(contents(batch_of()).columns)
    columns[at] = msgspec.structs.replace(columns[at], **changes)
    return {"columns": columns}


GOOD = contents(batch_of()).content


def zeros(size: int) -> bytes:
    """An archive that declares, and holds, so many zeros."""
    return zstandard.ZstdCompressor().compress(bytes(size))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [1, 2]}, "messages, epochs, steps and ratios differ in number"),
        (header(1, name="c0"), "a column stands twice"),
        ({"keyframe": 1}, "or its keyframe comes after it"),
        ({"epochs": []}, "its data holds no frames"),
        (header(0, dtype="object"), "column 'c0' has dtype 'object'"),
        (header(0, raw=16), "16 of 15 numbers as they are and "),
        (header(0, moved=6), "6 of 5 seeds moved"),
        (header(1, moved=1), "bytes, and its columns take"),
        (header(0, bound=float("nan")), "bound is nan; it is more than 0"),
        (header(0, bound=0.0), "bound is 0.0; it is more than 0"),
        (header(1, coding="float16"), "column 'c1' is bool and cannot be float16"),
        ({"size": 1 << 28}, "would take 75 bytes, and 268435456 to unpack; a batch holds at most"),
        (
            {"seeds": 1 << 26},
            "would take 1006632960 bytes, and 105 to unpack; a batch holds at most",
        ),
        ({"seeds": 9}, "bytes, and its columns take"),
        ({"content": b""}, "its content cannot be read"),
        ({"content": b"\x28\xb5\x2f\xfd" + bytes(20)}, "its content"),
        ({"content": zeros(1 << 30)}, "its content declares 1073741824 bytes and not"),
        ({"content": GOOD[:-5]}, "its content"),
        ({"content": GOOD + b"x"}, "its content"),
    ],
)
def test_bytes_that_hold_no_batch_are_refused(changes: dict[str, Any], message: str) -> None:
    """Each with what is wrong; nothing but the declared size is ever made room for."""
    with pytest.raises(BadHealth) as refused:
        HealthDecoder().decode(batch_of(**changes))
    assert message in str(refused.value)


def test_a_number_at_a_place_that_does_not_exist_is_refused() -> None:
    """Positions from a message never index beyond the column."""
    assert contents(batch_of()).columns[0].raw > 0
    content = bytearray(zstandard.decompress(GOOD))
    at = 1 + 3 * 4 * contents(batch_of()).columns[0].moved
    content[at : at + 4] = (15).to_bytes(4, "little")
    with pytest.raises(BadHealth, match="at a place that does not exist"):
        HealthDecoder().decode(batch_of(content=zstandard.compress(bytes(content))))


def test_bits_that_differ_from_their_count_are_refused() -> None:
    """Which seeds have moved is told twice, and must agree."""
    content = bytearray(zstandard.decompress(GOOD))
    moved = contents(batch_of()).columns[0].moved
    assert moved > 0
    content[0] = 0
    with pytest.raises(BadHealth, match=f"column 'c0' has 0 seeds moved, not {moved}"):
        HealthDecoder().decode(batch_of(content=zstandard.compress(bytes(content))))


def test_a_truth_of_two_is_refused() -> None:
    """Else numpy would carry it on as a bool that equals neither."""
    content = bytearray(zstandard.decompress(GOOD))
    content[-15] = 4
    with pytest.raises(BadHealth, match="neither true nor false"):
        HealthDecoder().decode(batch_of(content=zstandard.compress(bytes(content))))


def test_what_is_not_compressed_is_read_too() -> None:
    """The codec `plain`; one that says so and is not is refused."""
    plain = zstandard.decompress(GOOD)
    batch = msgspec.structs.replace(batch_of(content=plain), codec="plain")
    expected = frames(3, 5, 0, ("float32", "bool"))
    for found, frame in zip(HealthDecoder().decode(batch), expected, strict=True):
        assert same_bits(found.columns["c1"], frame.columns["c1"])
    with pytest.raises(BadHealth, match="its content has"):
        HealthDecoder().decode(msgspec.structs.replace(batch_of(), codec="plain"))


def test_fuzzed_batches_end_in_a_refusal_or_in_frames() -> None:
    """3,000 mutations of the data of a batch: BadHealth of either stage, or frames; no other."""
    rng, ends = Random(0), {"refused": 0, "no frames": 0, "frames": 0}
    good = batch_of()
    for _ in range(3000):
        bad = bytearray(good.data)
        for _ in range(rng.randint(1, 4)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        try:
            HealthDecoder().decode(msgspec.structs.replace(good, data=bytes(bad)))
            ends["frames"] += 1
        except BadHealth as error:
            ends["no frames" if "its data holds no frames" in str(error) else "refused"] += 1
    assert all(count > 50 for count in ends.values()), ends


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xdd\xff\xff\xff\xff",  # an array of 2^32 - 1
        b"\xdf\xff\xff\xff\xff",  # a map of as many
        b"\xc6\xff\xff\xff\xff" + bytes(100),  # so many bytes
        b"\x91" * 100_000,  # nested deeply
        batch_of().data[:-1],
        batch_of().data + b"\0",
    ],
)
def test_hostile_data_is_refused(data: bytes) -> None:
    """Lengths of 2^32, deep nesting, torn bytes: one error, at once."""
    with pytest.raises(BadHealth, match="its data holds no frames: "):
        HealthDecoder().decode(msgspec.structs.replace(batch_of(), data=data))


@pytest.mark.parametrize(
    ("coding", "bound", "message"),
    [
        ("zip", 0.0, "Precision: coding is 'zip'; it is exact, float16 or bounded"),
        (
            "bounded",
            0.0,
            "Precision: bound is 0.0; it is more than 0 for the coding 'bounded', and 0 for the others",
        ),
        (
            "float16",
            0.1,
            "Precision: bound is 0.1; it is more than 0 for the coding 'bounded', and 0 for the others",
        ),
    ],
)
def test_settings_outside_their_range_are_refused(coding: Any, bound: float, message: str) -> None:
    """The message names setting, value and range."""
    with pytest.raises(BadSetting) as refused:
        Precision(coding, bound)
    assert str(refused.value) == message
