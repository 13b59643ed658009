"""Arrays are read within limits that hold before anything is unpacked."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest

from palm_serve.bundle.arrays import MAX_ARRAY_BYTES, read_arrays
from palm_serve.bundle.loader import load_bundle
from palm_serve.errors import BundleError

VALUES = np.arange(6, dtype=np.float32).reshape(2, 3)


def npz(compressed=False, **arrays):
    stream = io.BytesIO()
    (np.savez_compressed if compressed else np.savez)(stream, **arrays)
    return stream.getvalue()


def npy(array, **options):
    stream = io.BytesIO()
    np.save(stream, array, **options)
    return stream.getvalue()


def archive(*entries, **options):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", **options) as file:
        for name, content in entries:
            file.writestr(name, content)
    return stream.getvalue()


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", ">f4", "int64"])
def test_read_arrays_returns_what_numpy_wrote(compressed, order, dtype):
    values = np.array(VALUES, dtype=dtype, order=order)
    arrays = read_arrays(npz(compressed, a=values, b=np.float32(3), c=np.zeros((0, 4))), {"a", "b", "c", "d"})
    assert {array.dtype for array in arrays.values()} == {np.dtype(np.float32)}
    np.testing.assert_array_equal(arrays["a"], VALUES)
    assert (arrays["b"], arrays["c"].shape) == (3, (0, 4))


HEADER = b"\x93NUMPY\x01\x00"


def with_header(text, values=b"\0" * 24):
    header = text.encode()
    return HEADER + len(header).to_bytes(2, "little") + header + values


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no zip", "no npz file"),
        (npz(a=VALUES)[:-30], "no npz file"),
        (npz(a=VALUES, other=VALUES), r"holds 'other\.npy', which the manifest does not name"),
        (archive(("../a.npy", npy(VALUES))), "which the manifest does not name"),
        (archive(*((f"{i}.npy", b"") for i in range(100))), "more arrays than the manifest names"),
        (archive(("a.npy", npy(np.array([None]), allow_pickle=True))), "must hold numbers, got object"),
        (archive(("a.npy", npy(np.array(["x"])))), "must hold numbers, got <U1"),
        (archive(("a.npy", npy(np.array([np.nan], np.float32)))), "finite numbers"),
        (archive(("a.npy", npy(np.array([1e300])))), "finite numbers"),
        (archive(("a.npy", npy(VALUES) + b"more")), "finite numbers and nothing else"),
        (archive(("a.npy", b"")), "no npz file|magic string"),
        (archive(("a.npy", npy(VALUES)), compression=zipfile.ZIP_LZMA), "packed in a way that numpy does not write"),
        (archive(("a.npy", with_header("(" * 5000 + "\n"))), "."),
        (
            archive(("a.npy", with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000,), }\n"))),
            "states another",
        ),
        (
            archive(("a.npy", with_header("{'descr': '<f4', 'fortran_order': False, 'shape': (-2, -3), }\n"))),
            "states another",
        ),
        (archive(("a.npy", with_header("[[[[\n"))), "."),
    ],
)
def test_read_arrays_of_other_files_raises(content, message):
    with pytest.raises(ValueError, match=message):
        read_arrays(content, {"a", "b"})


def test_read_arrays_of_overlapping_entries_raises():
    content = bytearray(archive(("a.npy", npy(VALUES)), ("b.npy", npy(VALUES))))
    second = content.rindex(b"PK\x01\x02")
    content[second + 42 : second + 46] = (0).to_bytes(4, "little")
    with pytest.raises(ValueError, match=r"overlaps|no npz file"):
        read_arrays(bytes(content), {"a", "b"})


def test_read_arrays_of_a_zip_bomb_unpacks_nothing():
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file, file.open("a.npy", "w") as entry:
        entry.write(npy(np.zeros(0, np.float32)))
        for _ in range((MAX_ARRAY_BYTES >> 20) + 1):
            entry.write(bytes(1 << 20))
    tracemalloc.start()
    with pytest.raises(ValueError, match="at most 512 MiB, got 513 MiB"):
        read_arrays(stream.getvalue(), {"a"})
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 1 << 20


def test_load_names_the_file_of_invalid_arrays(tmp_path, make_tiny_bundle, reseal_bundle):
    path = make_tiny_bundle(tmp_path / "b")
    (path / "decode.npz").write_bytes(npz(other=VALUES))
    with pytest.raises(BundleError, match=r"decode\.npz cannot be read: it holds 'other\.npy'"):
        load_bundle(reseal_bundle(path))
