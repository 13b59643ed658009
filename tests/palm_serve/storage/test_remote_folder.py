"""Files below a URL, on the stores that fsspec has without a network."""

import threading
import time
from pathlib import Path

import fsspec
import pytest

from palm_serve.errors import StorageError, StorageLacks, StorageUnreachable
from palm_serve.storage.hub import split_repository
from palm_serve.storage.patience import StalledError, call_patiently
from palm_serve.storage.remote_folder import RemoteFolder, call_library


@pytest.fixture(params=["file", "memory"])
def folder(request, tmp_path):
    """Return an empty folder of each store."""
    if request.param == "file":
        (tmp_path / "bucket").mkdir()
        yield RemoteFolder(f"file://{tmp_path}/bucket/models")
        return
    store = fsspec.filesystem("memory")
    yield RemoteFolder("memory://remote-folder/models")
    if store.exists("/remote-folder"):
        store.rm("/remote-folder", recursive=True)


def test_what_is_written_is_listed_read_and_removed(folder, tmp_path):
    (tmp_path / "source").write_bytes(b"x" * 1000)
    folder.upload(tmp_path / "source", "a/b.bin")
    folder.write("c.txt", b"hello")
    assert {name: file.size for name, file in folder.files().items()} == {"a/b.bin": 1000, "c.txt": 5}
    assert folder.read("c.txt", 5) == b"hello"
    folder.download("a/b.bin", tmp_path / "target", 1000)
    assert (tmp_path / "target").read_bytes() == b"x" * 1000
    folder.remove("c.txt")
    folder.remove("c.txt")
    assert folder.find("c.txt") is None


def test_stamp_differs_when_a_file_is_replaced(folder):
    folder.write("a", b"one")
    before = folder.find("a")
    time.sleep(0.01)
    folder.write("a", b"two")
    assert folder.find("a") != before


def test_limits_and_absence_are_told(folder, tmp_path):
    folder.write("a", b"12345")
    with pytest.raises(StorageError, match=r"models/a must have at most 4 bytes, got 5\. Nothing was fetched"):
        folder.read("a", 4)
    with pytest.raises(StorageError, match="must have at most 4 bytes"):
        folder.download("a", tmp_path / "target", 4)
    with pytest.raises(StorageLacks, match="models/b cannot be read: no such object"):
        folder.read("b", 4)
    assert folder.find("b") is None


def test_absent_folder_is_told(tmp_path):
    with pytest.raises(StorageLacks, match="cannot be listed: no such object or bucket"):
        RemoteFolder(f"file://{tmp_path}/absent").files()


def test_call_that_gives_no_sign_of_life_is_left_behind():
    released = threading.Event()
    with pytest.raises(StalledError):
        call_patiently(lambda heart: released.wait(60), 0.05)
    with pytest.raises(StorageUnreachable, match=r"s3://b/a cannot be read: nothing arrived for 0\.05 s"):
        call_library("s3://b/a", "read", lambda heart: released.wait(60), 0.05)
    released.set()


def test_slow_call_with_signs_of_life_ends():
    def work(heart):
        for _ in range(5):
            time.sleep(0.1)
            heart.beat()
        return "done"

    assert call_patiently(work, 60) == "done"


def fail(error: Exception):
    raise error


class Response:
    status_code = 403


def test_errors_of_libraries_become_messages():
    refused = PermissionError("Access Denied")
    with pytest.raises(
        StorageError, match=r"s3://b/a cannot be read: access was refused \(Access Denied\)\. Check AWS"
    ):
        call_library("s3://b/a", "read", lambda heart: fail(refused))
    with pytest.raises(StorageUnreachable, match=r"gs://b/a cannot be read: reset\. Check the URL and the network"):
        call_library("gs://b/a", "read", lambda heart: fail(ConnectionResetError("reset")))
    missing = type("NoCredentialsError", (Exception,), {})("Unable to locate credentials")
    with pytest.raises(StorageError, match=r"there are no credentials\. Set AWS_ACCESS_KEY_ID"):
        call_library("s3://b/a", "read", lambda heart: fail(missing))
    http = type("HfHubHTTPError", (OSError,), {"response": Response()})("forbidden")
    with pytest.raises(StorageError, match=r"access was refused \(forbidden\)\. Check HF_TOKEN"):
        call_library("hf://b/a", "written", lambda heart: fail(http))
    with pytest.raises(ZeroDivisionError):  # a fault of this code is none of the store
        call_library("s3://b/a", "read", lambda heart: 1 / 0)
    full = OSError(28, "No space left on device", "/cache/file")
    with pytest.raises(OSError, match="No space left"):
        call_library("s3://b/a", "read", lambda heart: fail(full))


def test_unknown_package_is_named(tmp_path: Path):
    with pytest.raises(StorageError, match=r"pip install -c constraints\.txt '\.\[azure\]'"):
        RemoteFolder("az://container/demo")


def test_repository_of_a_url():
    assert split_repository("hf://owner/name") == ("owner/name", None, "")
    assert split_repository("hf://owner/name@v2/some/folder/") == ("owner/name", "v2", "some/folder/")
    with pytest.raises(StorageError, match=r"hf://owner must name a repository, as in hf://OWNER/NAME"):
        split_repository("hf://owner")
