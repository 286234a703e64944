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

from kasmina.bus.frames import (
    BadHealth,
    HealthBatch,
    HealthDecoder,
    HealthEncoder,
    HealthFrame,
    MissingKeyframe,
    from_bytes,
    to_bytes,
)
from kasmina.bus.packing import DTYPES, HALF_ABSOLUTE, HALF_RELATIVE, Precision
from kasmina.bus.retry import BadSetting

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
    rng = np.random.default_rng(seed)
    return [
        HealthFrame(
            n // 2, n, 0.5 * n, {f"c{i}": column(d, seeds, rng) for i, d in enumerate(dtypes)}
        )
        for n in range(count)
    ]


def over_the_wire(batch: HealthBatch) -> HealthBatch:
    """As a consumer gets it."""
    return from_bytes(to_bytes(batch))


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
    encoder, decoder = HealthEncoder("run/site", 7, key_every=key_every), HealthDecoder()
    given_ = frames(sum(sizes), seeds if dtypes else 0, seed, dtypes)
    at = 0
    for number, size in enumerate(sizes):
        part = given_[at : at + size]
        at += size
        batch = over_the_wire(encoder.encode(part, dropped=number))
        assert (batch.key, batch.dropped) == (number % key_every == 0, number)
        for found, frame in zip(decoder.decode(batch), part, strict=True):
            assert (found.epoch, found.step, found.time) == (frame.epoch, frame.step, frame.time)
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
    encoder = HealthEncoder("s", 0, precision=Precision("bounded", bound))
    decoder, given_ = HealthDecoder(), frames(6, 50, seed, (dtype, "int32"))
    for part in (given_[:4], given_[4:]):
        batch = over_the_wire(encoder.encode(part))
        assert [c.bound for c in batch.columns] == [bound, 0.0]
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
    encoder, given_ = HealthEncoder("s", 0, precision=Precision("float16")), None
    given_ = frames(3, 60, seed, (dtype,))
    for found, frame in zip(HealthDecoder().decode(encoder.encode(given_)), given_, strict=True):
        a, b = found.columns["c0"].astype("f8"), frame.columns["c0"].astype("f8")
        finite = np.isfinite(b)
        assert same_bits(found.columns["c0"][~finite], frame.columns["c0"][~finite])
        error = np.abs(a[finite] - b[finite])
        assert (error <= np.maximum(HALF_ABSOLUTE, HALF_RELATIVE * np.abs(b[finite]))).all()


def test_precision_by_column() -> None:
    """What is not named is lossless."""
    encoder = HealthEncoder("s", 0, precision={"c1": Precision("bounded", 0.1)})
    batch = encoder.encode(frames(1, 5, 0, ("float32", "float32", "int8")))
    assert [(c.coding, c.bound) for c in batch.columns] == [
        ("lossless", 0.0),
        ("bounded", 0.1),
        ("lossless", 0.0),
    ]


def test_a_missing_batch_is_said_and_the_next_key_batch_mends_it() -> None:
    """Nothing is ever decoded against the wrong frame."""
    encoder, decoder = HealthEncoder("run/a", 1, key_every=3), HealthDecoder()
    batches = [encoder.encode([frame]) for frame in frames(7, 9, 0, ("float32",))]
    decoder.decode(batches[0])
    for lost in (2, 2):
        with pytest.raises(MissingKeyframe) as missing:
            decoder.decode(batches[lost])
        assert str(missing.value) == (
            "batch 2 of 'run/a' needs batch 1, which was not read; frames can be read again from "
            "its next key batch on"
        )
    with pytest.raises(MissingKeyframe):
        decoder.decode(batches[1])  # its predecessor was forgotten when one was missed
    for number in (3, 4, 5, 6):
        assert len(decoder.decode(batches[number])) == 1


def test_another_session_of_the_source_is_not_mixed_in() -> None:
    """A publisher that was started again has other numbers and another last frame."""
    first, second = HealthEncoder("s", 1), HealthEncoder("s", 2)
    given_ = frames(4, 9, 0, ("float32",))
    decoder = HealthDecoder()
    decoder.decode(first.encode(given_[:1]))
    second.encode(given_[1:2])
    with pytest.raises(MissingKeyframe):
        decoder.decode(second.encode(given_[2:3]))


def test_another_shape_or_a_reset_begins_with_a_key_batch() -> None:
    """A site that grew has more seeds."""
    encoder = HealthEncoder("s", 1)
    assert encoder.encode(frames(1, 9, 0, ("float32",))).key
    assert not encoder.encode(frames(1, 9, 1, ("float32",))).key
    assert encoder.encode(frames(1, 10, 1, ("float32",))).key
    encoder.reset()
    assert encoder.encode(frames(1, 10, 1, ("float32",))).key


def test_sources_are_bounded() -> None:
    """The one that was quiet longest waits for its next key batch."""
    decoder = HealthDecoder(sources=2)
    encoders = [HealthEncoder(str(name), 0) for name in range(3)]
    for encoder in encoders:
        decoder.decode(encoder.encode(frames(1, 3, 0, ("int8",))))
    decoder.decode(encoders[1].encode(frames(1, 3, 1, ("int8",))))
    with pytest.raises(MissingKeyframe):
        decoder.decode(encoders[0].encode(frames(1, 3, 1, ("int8",))))


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
        HealthEncoder("s", 0).encode([HealthFrame(0, 0, 0.0, bad)])
    assert str(refused.value).startswith(message)


def test_unequal_frames_are_refused() -> None:
    """Send them apart."""
    given_ = [*frames(1, 3, 0, ("int8",)), *frames(1, 4, 0, ("int8",))]
    with pytest.raises(BadHealth, match="differ in names, dtypes or seeds: send them apart"):
        HealthEncoder("s", 0).encode(given_)


def batch_of(**changes: Any) -> HealthBatch:
    """A good key batch of three frames, with changes."""
    encoder = HealthEncoder("s", 0, precision={"c0": Precision("bounded", 1e-3)})
    good = encoder.encode(frames(3, 5, 0, ("float32", "bool")))
    return msgspec.structs.replace(good, **changes)


def header(at: int, **changes: Any) -> dict[str, Any]:
    """The headers with one changed."""
    columns = list(batch_of().columns)
    columns[at] = msgspec.structs.replace(columns[at], **changes)
    return {"columns": columns}


def zeros(size: int) -> bytes:
    """An archive that declares, and holds, so many zeros."""
    return zstandard.ZstdCompressor().compress(bytes(size))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": [1, 2]}, "epochs, steps and times differ in number"),
        (header(1, name="c0"), "or a column stands twice"),
        (header(0, dtype="object"), "column 'c0' has dtype 'object'"),
        (header(0, raw=16), "16 of 15 numbers as they are"),
        (header(0, bound=float("nan")), "bound is nan; it is more than 0"),
        (header(0, bound=0.0), "bound is 0.0; it is more than 0"),
        (header(1, coding="float16"), "column 'c1' is bool and cannot be float16"),
        ({"seeds": 1 << 26}, "bytes; at most 201326592 are read"),
        ({"seeds": 6}, "its content declares"),
        ({"content": b""}, "its content cannot be read"),
        ({"content": b"\x28\xb5\x2f\xfd" + bytes(20)}, "its content"),
        ({"content": zeros(1 << 30)}, "its content declares 1073741824 bytes and not"),
        ({"content": batch_of().content[:-5]}, "its content"),
        ({"content": batch_of().content + b"x"}, "its content"),
    ],
)
def test_bytes_that_hold_no_batch_are_refused(changes: dict[str, Any], message: str) -> None:
    """Each with what is wrong; nothing but the declared size is ever made room for."""
    with pytest.raises(BadHealth) as refused:
        HealthDecoder().decode(batch_of(**changes))
    assert message in str(refused.value)


def test_a_number_at_a_place_that_does_not_exist_is_refused() -> None:
    """Positions from a message never index beyond the column."""
    good = batch_of()
    raw = good.columns[0].raw
    assert raw > 0
    content = bytearray(zstandard.decompress(good.content))
    at = 3 * 5 * 4
    content[at : at + 4] = (15).to_bytes(4, "little")
    bad = batch_of(content=zstandard.compress(bytes(content)))
    with pytest.raises(BadHealth, match="at a place that does not exist"):
        HealthDecoder().decode(bad)


def test_a_truth_of_two_is_refused() -> None:
    """Else numpy would carry it on as a bool that equals neither."""
    good = batch_of()
    content = bytearray(zstandard.decompress(good.content))
    content[-15] = 4
    with pytest.raises(BadHealth, match="neither true nor false"):
        HealthDecoder().decode(batch_of(content=zstandard.compress(bytes(content))))


def test_fuzzed_batches_end_in_a_refusal_or_in_frames() -> None:
    """3,000 mutations of the bytes of a batch: BadHealth of either stage, or frames; no other."""
    rng, ends = Random(0), {"refused": 0, "no batch": 0, "frames": 0}
    good = to_bytes(batch_of())
    for _ in range(3000):
        bad = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        try:
            HealthDecoder().decode(from_bytes(bytes(bad)))
            ends["frames"] += 1
        except BadHealth as error:
            ends["no batch" if "are no batch of health" in str(error) else "refused"] += 1
    assert all(count > 50 for count in ends.values()), ends


@pytest.mark.parametrize(
    ("coding", "bound", "message"),
    [
        ("zip", 0.0, "Precision: coding is 'zip'; it is lossless, float16 or bounded"),
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


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xdd\xff\xff\xff\xff",  # an array of 2^32 - 1
        b"\xdf\xff\xff\xff\xff",  # a map of as many
        b"\xc6\xff\xff\xff\xff" + bytes(100),  # so many bytes
        b"\x91" * 100_000,  # nested deeply
        b"\x81\xa4type" + b"\x91" * 100_000,
        to_bytes(batch_of())[:-1],
        to_bytes(batch_of()) + b"\0",
        to_bytes(batch_of()).replace(b"dropped", b"dripped"),
        msgspec.msgpack.encode({"type": "health", "source": "s" * 300}),
    ],
)
def test_hostile_bytes_are_refused(data: bytes) -> None:
    """Lengths of 2^32, deep nesting, torn and unknown fields: one error, at once."""
    with pytest.raises(BadHealth, match="bytes that are no batch of health: "):
        from_bytes(data)
