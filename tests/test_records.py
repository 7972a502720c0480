"""Records: what TensorFlow makes of our bytes, pinned bytes, and damage at every byte of a file."""

from __future__ import annotations

import io
import struct

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from ge2e_transforms import records, schema
from ge2e_transforms.errors import CorruptRecordError, DatasetError
from ge2e_transforms.records import (
    FOOTER_BYTES,
    HEADER_BYTES,
    body_is_whole,
    check_frame,
    crc32c_of,
    decode_example,
    encode_record,
    frame,
    masked_crc,
    read_records,
    require_fast_crc,
)

FIELDS = {
    schema.KEY_SPEAKER: "synth/Zoë",
    schema.KEY_LABEL: 1_000_003,
    schema.KEY_SOURCE: "synth",
    schema.KEY_SUBSET: "",
    schema.KEY_UTTERANCE: "a/b c.wav@1.5",
    schema.KEY_SESSION: "s1",
    schema.KEY_START: 0,
    schema.KEY_LENGTH: 2**40,
}


def spectrogram(rows=7, bins=5, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, bins)).astype(np.float32)


def pcm(samples=9, seed=0):
    return np.random.default_rng(seed).integers(-32768, 32768, (samples, 1)).astype(np.int16)


def halves(rows=7, bins=5, seed=0):
    return spectrogram(rows, bins, seed).astype(np.float16)


def data_of(framed):
    return framed[HEADER_BYTES:-FOOTER_BYTES]


class Short(io.BytesIO):
    """A file that tells how much was asked for at once."""

    most = 0

    def read(self, size=-1):
        self.most = max(self.most, size)
        return super().read(size)


@pytest.mark.parametrize("length", [2**33, 2**63 - 1, 2**64 - 1])
def test_a_length_beyond_the_file_asks_for_no_memory(length):
    """With a checksum that is right: it ended in a MemoryError, or in an OverflowError."""
    packed = struct.pack("<Q", length)
    stream = Short(packed + struct.pack("<I", masked_crc(packed)) + bytes(100))
    with pytest.raises(CorruptRecordError, match=r"here at offset 0: (expected \d+ more bytes|a record of \d+ bytes)"):
        list(read_records(stream, "here"))
    assert stream.most <= 1 << 26


# Pinned bytes: a change here makes other datasets than before, so it needs another format version.


def test_bytes_of_a_spectrogram_are_pinned():
    fields = {"utterance/id": "u", "speaker/mapped_id": 300}
    framed, payload = encode_record(np.array([[1.0, -2.0]], dtype=np.float32), fields)
    assert framed == (
        b"\xb6\x00\x00\x00\x00\x00\x00\x00" b"L\xefC\x04"  # length 182 and its checksum
        b"\n\xb3\x01"  # Features
        b"\n\x1b" b"\n\x11speaker/mapped_id" b"\x12\x06\x1a\x04\n\x02\xac\x02"
        b"\n " b"\n\x11spectrogram/dtype" b"\x12\x0b\n\t\n\x07float32"
        b"\n\x1b" b"\n\x12spectrogram/height" b"\x12\x05\x1a\x03\n\x01\x01"
        b"\n\x1a" b"\n\x11spectrogram/width" b"\x12\x05\x1a\x03\n\x01\x02"
        b"\n\x15" b"\n\x0cutterance/id" b"\x12\x05\n\x03\n\x01u"
        b'\n"' b"\n\x12spectrogram/values" b"\x12\x0c\x12\n\n\x08" b"\x00\x00\x80?" b"\x00\x00\x00\xc0"
        b"\x9fh\x18w"
    )  # fmt: skip
    assert payload == 182 + HEADER_BYTES - 8


def test_bytes_of_raw_samples_are_pinned():
    framed, payload = encode_record(np.array([[-2], [300]], dtype=np.int16), {"utterance/id": "u"})
    assert framed == (
        b"\x94\x00\x00\x00\x00\x00\x00\x00" b"]%\xf1\x00"
        b"\n\x91\x01"
        b"\n\x1e" b"\n\x11spectrogram/dtype" b"\x12\t\n\x07\n\x05pcm16"
        b"\n\x1b" b"\n\x12spectrogram/height" b"\x12\x05\x1a\x03\n\x01\x02"
        b"\n\x1a" b"\n\x11spectrogram/width" b"\x12\x05\x1a\x03\n\x01\x01"
        b"\n\x15" b"\n\x0cutterance/id" b"\x12\x05\n\x03\n\x01u"
        b"\n\x1f" b"\n\x13spectrogram/encoded" b"\x12\x08\n\x06\n\x04" b"\xfe\xff" b",\x01"
        b"\xfd\x9c\xa4}"
    )  # fmt: skip
    assert payload == 148 + HEADER_BYTES - 4


def test_bytes_of_halves_are_pinned():
    framed, payload = encode_record(np.array([[1.0, -2.5]], dtype=np.float16), {"utterance/id": "u"})
    assert framed == (
        b"\x96\x00\x00\x00\x00\x00\x00\x00" b"L\tvM"
        b"\n\x93\x01"
        b"\n " b"\n\x11spectrogram/dtype" b"\x12\x0b\n\t\n\x07float16"
        b"\n\x1b" b"\n\x12spectrogram/height" b"\x12\x05\x1a\x03\n\x01\x01"
        b"\n\x1a" b"\n\x11spectrogram/width" b"\x12\x05\x1a\x03\n\x01\x02"
        b"\n\x15" b"\n\x0cutterance/id" b"\x12\x05\n\x03\n\x01u"
        b"\n\x1f" b"\n\x13spectrogram/encoded" b"\x12\x08\n\x06\n\x04" b"\x00<" b"\x00\xc1"
        b"\n\x15\x80 "
    )  # fmt: skip
    assert payload == 150 + HEADER_BYTES - 4


@pytest.mark.parametrize(
    ("number", "varint"),
    [(0, b"\x00"), (127, b"\x7f"), (128, b"\x80\x01"), (16383, b"\xff\x7f"), (16384, b"\x80\x80\x01")],
)
def test_integers_have_no_more_bytes_than_they_need(number, varint):
    feature = bytes((len(varint) + 4,)) + b"\x1a" + bytes((len(varint) + 2,)) + b"\n" + bytes((len(varint),)) + varint
    assert b"\n\x01k\x12" + feature in encode_record(spectrogram(1, 1), {"k": number})[0]


# Against TensorFlow.


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


def by_tensorflow(tf, data):
    """Fields of an Example as TensorFlow's own parser sees them."""
    found = {}
    for key, feature in tf.train.Example.FromString(data).features.feature.items():
        kind = feature.WhichOneof("kind")
        found[key] = (kind, list(getattr(feature, kind).value))
    return found


@pytest.mark.parametrize("values", [spectrogram(), spectrogram(1, 1), spectrogram(0, 3), spectrogram(300, 40)])
def test_tensorflow_reads_a_spectrogram(tf, values):
    framed, _ = encode_record(values, FIELDS)
    expected = {
        key: ("bytes_list", [value.encode()]) if isinstance(value, str) else ("int64_list", [value])
        for key, value in FIELDS.items()
    }
    expected[schema.KEY_DTYPE] = ("bytes_list", [b"float32"])
    expected[schema.KEY_HEIGHT] = ("int64_list", [len(values)])
    expected[schema.KEY_WIDTH] = ("int64_list", [values.shape[1]])
    expected[schema.KEY_VALUES] = ("float_list", values.ravel().tolist())
    assert by_tensorflow(tf, data_of(framed)) == expected


@pytest.mark.parametrize("values", [halves(), halves(1, 1), halves(0, 3), halves(300, 40)])
def test_tensorflow_reads_halves(tf, values):
    spec = {schema.KEY_ENCODED: tf.io.FixedLenFeature([], tf.string)}
    data = data_of(encode_record(values, FIELDS)[0])
    found = tf.io.decode_raw(tf.io.parse_single_example(data, spec)[schema.KEY_ENCODED], tf.float16)
    assert found.numpy().tobytes() == values.tobytes()
    assert by_tensorflow(tf, data)[schema.KEY_DTYPE] == ("bytes_list", [b"float16"])
    assert schema.KEY_VALUES not in by_tensorflow(tf, data)


def test_tensorflow_reads_raw_samples(tf):
    values = pcm()
    found = by_tensorflow(tf, data_of(encode_record(values, FIELDS)[0]))
    assert found[schema.KEY_DTYPE] == ("bytes_list", [b"pcm16"])
    assert found[schema.KEY_ENCODED] == ("bytes_list", [values.astype("<i2").tobytes()])
    assert schema.KEY_VALUES not in found
    assert found[schema.KEY_WIDTH] == ("int64_list", [1])


@settings(max_examples=100, deadline=None)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=20).map("x/{}".format),
        st.text(max_size=200) | st.integers(0, 2**63 - 1),
        max_size=6,
    ),
    npst.arrays(np.float32, npst.array_shapes(min_dims=2, max_dims=2, max_side=6)),
)
def test_what_goes_in_comes_out_here_and_in_tensorflow(fields, values):
    tensorflow = pytest.importorskip("tensorflow")
    framed, payload = encode_record(values, fields)
    found, others = decode_example(data_of(framed), "here")
    assert found.tobytes() == values.tobytes()  # NaN, too
    assert found.shape == values.shape
    assert others == fields
    parsed = by_tensorflow(tensorflow, data_of(framed))
    for key, value in fields.items():
        assert parsed[key][1] == [value.encode() if isinstance(value, str) else value]
    assert np.array(parsed[schema.KEY_VALUES][1], dtype=np.float32).tobytes() == values.tobytes()
    assert framed[payload : payload + values.nbytes] == values.tobytes()


def test_a_tensorflow_pipeline_reads_our_files_bit_for_bit(tf, tmp_path):
    arrays = [spectrogram(rows, 4, seed=rows) for rows in (3, 1, 12)]
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"".join(encode_record(array, FIELDS)[0] for array in arrays))
    spec = {
        schema.KEY_VALUES: tf.io.VarLenFeature(tf.float32),
        schema.KEY_HEIGHT: tf.io.FixedLenFeature([], tf.int64),
        schema.KEY_WIDTH: tf.io.FixedLenFeature([], tf.int64),
        schema.KEY_LABEL: tf.io.FixedLenFeature([], tf.int64),
        schema.KEY_SPEAKER: tf.io.FixedLenFeature([], tf.string),
        schema.KEY_LENGTH: tf.io.FixedLenFeature([], tf.int64),
    }
    found = [tf.io.parse_example(data, spec) for data in tf.data.TFRecordDataset(str(path))]
    assert len(found) == 3
    for example, array in zip(found, arrays, strict=True):
        shape = [int(example[schema.KEY_HEIGHT]), int(example[schema.KEY_WIDTH])]
        values = tf.reshape(tf.sparse.to_dense(example[schema.KEY_VALUES]), shape).numpy()
        assert values.tobytes() == array.tobytes()
        assert values.shape == array.shape
        assert int(example[schema.KEY_LABEL]) == 1_000_003
        assert int(example[schema.KEY_LENGTH]) == 2**40
        assert example[schema.KEY_SPEAKER].numpy().decode() == "synth/Zoë"


def test_values_of_one_shape_are_a_fixed_feature(tf, tmp_path):
    arrays = [spectrogram(6, 4, seed=number) for number in range(3)]
    path = tmp_path / "a.tfrecord"
    path.write_bytes(b"".join(encode_record(array, FIELDS)[0] for array in arrays))
    spec = {schema.KEY_VALUES: tf.io.FixedLenFeature([6, 4], tf.float32)}
    (batch,) = tf.data.TFRecordDataset(str(path)).batch(3).map(lambda data: tf.io.parse_example(data, spec))
    assert batch[schema.KEY_VALUES].numpy().tobytes() == np.stack(arrays).tobytes()


def test_we_read_what_tensorflow_frames(tf, tmp_path):
    path = tmp_path / "a.tfrecord"
    contents = [b"", b"one", bytes(range(256)) * 9]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for content in contents:
            writer.write(content)
    with path.open("rb") as stream:
        found = list(read_records(stream, "a"))
    assert found == [(0, b""), (16, b"one"), (35, contents[2])]
    assert path.read_bytes() == b"".join(map(frame, contents))


# Our own reader.


@pytest.mark.parametrize("values", [spectrogram(), spectrogram(0, 3), halves(), halves(0, 3), pcm(), pcm(0)])
def test_records_come_back(values):
    framed, payload = encode_record(values, FIELDS)
    found, fields = decode_example(data_of(framed), "here")
    assert found.dtype == values.dtype
    assert found.shape == values.shape
    assert np.array_equal(found, values)
    assert fields == FIELDS
    assert framed[payload : payload + values.nbytes] == values.tobytes()
    assert payload + values.nbytes + FOOTER_BYTES == len(framed)


def test_the_order_of_fields_and_of_memory_does_not_show():
    for values, other in ((spectrogram(), ">f4"), (halves(), ">f2")):
        again = np.asfortranarray(values).astype(other)
        assert_same(again, values)


def assert_same(again, values):
    assert encode_record(again, dict(reversed(FIELDS.items()))) == encode_record(values, FIELDS)


@pytest.mark.parametrize("number", [0, 1, 127, 128, 16383, 16384, 2**31, 2**63 - 1])
def test_integers_of_any_size_come_back(number):
    framed, _ = encode_record(spectrogram(), {schema.KEY_START: number})
    assert decode_example(data_of(framed), "here")[1] == {schema.KEY_START: number}


@pytest.mark.parametrize("length", [0, 1, 126, 127, 128, 129, 16383, 16384, 70000])
def test_texts_of_any_length_come_back(length):
    framed, _ = encode_record(spectrogram(), {schema.KEY_UTTERANCE: "x" * length})
    assert decode_example(data_of(framed), "here")[1] == {schema.KEY_UTTERANCE: "x" * length}


# Damage.


def whole_file():
    records_ = [encode_record(spectrogram(2, 2), FIELDS)[0], encode_record(pcm(3), FIELDS)[0]]
    return b"".join(records_), [0, len(records_[0])]


def read_all(content):
    return [(offset, decode_example(data, "x")) for offset, data in read_records(io.BytesIO(content), "some.tfrecord")]


def test_an_undamaged_file_is_read():
    content, starts = whole_file()
    assert [offset for offset, _ in read_all(content)] == starts


def test_every_cut_is_noticed():
    content, starts = whole_file()
    for length in range(len(content)):
        if length in starts:  # whole records; that some are missing is for the index to say
            assert len(read_all(content[:length])) == starts.index(length)
            continue
        with pytest.raises(CorruptRecordError, match=f"some.tfrecord at offset {starts[length > starts[1]]}: "):
            read_all(content[:length])


@pytest.mark.parametrize("mask", [0x01, 0x80, 0xFF])
def test_every_flipped_byte_is_noticed(mask):
    content, starts = whole_file()
    for place in range(len(content)):
        damaged = bytearray(content)
        damaged[place] ^= mask
        with pytest.raises(CorruptRecordError, match=f"some.tfrecord at offset {starts[place >= starts[1]]}: "):
            read_all(bytes(damaged))


def test_what_was_wrong_is_said():
    framed, _ = encode_record(spectrogram(2, 2), {})

    def fault(content):
        with pytest.raises(CorruptRecordError) as error:
            read_all(bytes(content))
        return str(error.value)

    assert "ends inside a record's header" in fault(framed[:5])
    assert f"expected {len(framed) - HEADER_BYTES} more bytes, got {len(framed) - HEADER_BYTES - 1}" in fault(
        framed[:-1]
    )
    assert "checksum of the record's length" in fault(b"\x00" + framed[1:])
    assert "checksum of the record does not match" in fault(framed[:-1] + b"\x00")


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (1 << 31, f"expected {(1 << 31) + FOOTER_BYTES} more bytes, got 100"),
        ((1 << 31) + 1, f"a record of {(1 << 31) + 1} bytes: expected at most {1 << 31}"),
    ],
)
def test_no_record_is_longer_than_protocol_buffers_are(length, said):
    packed = struct.pack("<Q", length)
    stream = io.BytesIO(packed + struct.pack("<I", masked_crc(packed)) + bytes(100))
    with pytest.raises(CorruptRecordError) as error:
        list(read_records(stream, "here"))
    assert str(error.value) == f"here at offset 0: {said}"


def test_offsets_count_from_the_start_of_the_file():
    content = b"".join(frame(bytes(length)) for length in (3, 1, 0, 2))
    assert [offset for offset, _ in read_records(io.BytesIO(content), "a")] == [0, 19, 36, 52]
    with pytest.raises(CorruptRecordError, match=r"^a at offset 52: expected 6 more bytes, got 5$"):
        list(read_records(io.BytesIO(content[:-1]), "a"))


class Slow(io.BytesIO):
    """A stream that gives a byte at a time, as a pipe may."""

    def read(self, size=-1):
        return super().read(min(size, 1))


@pytest.mark.parametrize("length", [0, 1, 100])
def test_a_record_that_comes_byte_by_byte_is_read(length):
    data = bytes(range(length))
    framed = frame(data)
    assert check_frame(framed[:HEADER_BYTES], Slow(framed[HEADER_BYTES:] + b"more"), "here") == data


def test_check_frame_says_where():
    with pytest.raises(CorruptRecordError, match=r"^row 7: the file ends"):
        check_frame(b"", io.BytesIO(), "row 7")


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200))
def test_garbage_is_no_example(data):
    with pytest.raises(CorruptRecordError, match=r"^place: "):
        decode_example(data, "place")


@settings(max_examples=1000, deadline=None)
@given(st.booleans(), st.integers(0, 400), st.integers(0, 12), st.binary(max_size=12))
def test_a_changed_example_is_refused_or_read_as_one(raw, place, cut, patch):
    data = data_of(encode_record(pcm() if raw else spectrogram(2, 2), FIELDS)[0])
    changed = data[:place] + patch + data[place + cut :]
    try:
        values, _ = decode_example(changed, "place")
    except CorruptRecordError as error:
        assert str(error).startswith("place: the record is no Example of this format")
    else:
        assert values.ndim == 2


def field(number, payload, wire=2):
    return bytes((number << 3 | wire, len(payload))) + payload


def example(**features):
    """An Example whose features are given as bytes, by the last part of their key."""
    entries = [field(1, field(1, f"spectrogram/{key}".encode()) + field(2, value)) for key, value in features.items()]
    content = b"".join(entries)
    return b"\x0a" + bytes((len(content) & 0x7F | 0x80, len(content) >> 7)) + content


def integer(varint):
    return field(3, field(1, varint))


def text(value):
    return field(1, field(1, value))


FLOATS = field(2, field(1, struct.pack("<4f", 1, 2, 3, 4)))
GOOD = {"dtype": text(b"float32"), "height": integer(b"\x02"), "width": integer(b"\x02"), "values": FLOATS}


def test_the_example_that_is_spoilt_below_is_good():
    values, fields = decode_example(example(**GOOD), "here")
    assert (values.tolist(), fields) == ([[1, 2], [3, 4]], {})


@pytest.mark.parametrize(
    "changes",
    [
        {"height": integer(b"\x03")},  # does not fit the values
        {"height": integer(b"\xff" * 9 + b"\x01")},  # -1, or 2^64 - 1
        {"height": integer(b"\xff" * 30 + b"\x01")},  # no 64-bit number
        {"height": integer(b"\x80")},  # without its end
        {"height": integer(b"")},
        {"height": text(b"2")},
        {"width": text(b"")},
        {"dtype": text(b"float64")},
        {"dtype": text(b"\xff\xfe")},
        {"dtype": integer(b"\x01")},
        {"dtype": text(b"pcm16")},  # there is no spectrogram/encoded
        {"dtype": text(b"float16")},
        {"values": field(2, field(1, b"123"))},
        {"values": integer(b"\x01")},
        {"values": b""},
        {"values": field(2, b"\x0a\x11" + bytes(16))},  # says 17 bytes, and 16 are left
        {"values": FLOATS + FLOATS},
        {"values": field(2, field(1, b"1234") + field(1, b"5678"))},
    ],
)
def test_a_good_wrapping_does_not_help_wrong_content(changes):
    with pytest.raises(CorruptRecordError):
        decode_example(example(**(GOOD | changes)), "here")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (example(**GOOD) * 2, "ValueError('more than one Features message')"),
        (example(**GOOD) + b"\x08\x01", "ValueError('field with wire type 0')"),
        (example(**GOOD)[:-1], "ValueError('field longer than its message')"),
        (example(**GOOD | {"height": integer(b"\xff" * 10 + b"\x01")}), "ValueError('a varint of more than 10 bytes')"),
        (example(**GOOD | {"dtype": text(b"float64")}), "KeyError('float64')"),
    ],
)
def test_what_is_no_example_is_said(data, said):
    with pytest.raises(CorruptRecordError) as error:
        decode_example(data, "row 7")
    assert str(error.value) == f"row 7: the record is no Example of this format ({said})"


@pytest.mark.parametrize("key", GOOD)
def test_a_missing_field_is_named(key):
    with pytest.raises(CorruptRecordError, match=key):
        decode_example(example(**{name: value for name, value in GOOD.items() if name != key}), "here")


# Checksums.


def test_masked_checksums_are_those_of_tensorflow():
    assert google_crc32c.value(b"123456789") == 0xE3069283  # RFC 3720
    crc = 0xE3069283
    assert masked_crc(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
    assert frame(b"") == bytes.fromhex("000000000000000029039807d8ea82a2")


def test_frames_are_length_data_and_their_checksums():
    assert frame(b"123456789") == (
        struct.pack("<Q", 9) + struct.pack("<I", masked_crc(struct.pack("<Q", 9)))
        + b"123456789" + struct.pack("<I", masked_crc(b"123456789"))
    )  # fmt: skip


def test_a_body_is_whole_where_its_footer_is_right():
    for number in range(100):
        body = frame(b"x" * number)[HEADER_BYTES:]
        assert body_is_whole(body) is True
        for bit in range(8 * len(body)):
            damaged = bytearray(body)
            damaged[bit // 8] ^= 1 << bit % 8
            assert body_is_whole(bytes(damaged)) is False


def test_the_checksum_of_a_stream_is_of_what_is_left_and_takes_little_memory():
    content = np.random.default_rng(1).bytes((1 << 21) + 5)
    stream = Short(content)
    stream.seek(3)
    assert crc32c_of(stream) == google_crc32c.value(content[3:])
    assert stream.most == 1 << 20
    assert crc32c_of(io.BytesIO(b"123456789")) == 0xE3069283
    assert crc32c_of(io.BytesIO(b"")) == 0


def test_the_slow_checksum_is_refused(monkeypatch):
    require_fast_crc()
    monkeypatch.setattr(records.google_crc32c, "implementation", "python")
    with pytest.raises(DatasetError) as error:
        require_fast_crc()
    assert str(error.value) == (
        "google-crc32c runs as 'python', expected its native 'c' implementation: reinstall the package google-crc32c "
        "from a wheel for this platform"
    )


@pytest.mark.parametrize("dtype", ["float64", "int32", "int8"])
def test_other_types_are_not_cast(dtype):
    with pytest.raises(KeyError):
        records.encode_record(np.zeros((2, 3), dtype=dtype), {})
