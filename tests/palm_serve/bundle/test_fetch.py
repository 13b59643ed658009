"""Bundles of URLs come into the cache whole, once, verified, and serve from there when nobody answers."""

import hashlib
import json
import multiprocessing
import shutil
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest

from palm_serve.bundle.fetch import fetch_bundle
from palm_serve.bundle.loader import load_bundle, split_pin
from palm_serve.errors import BundleError, StorageError, StorageLacks, StorageUnreachable
from palm_serve.proof.selection import EngineRequest
from palm_serve.registry.local_bundle import local_bundle, needed_variants
from palm_serve.storage import remote_folder


@pytest.fixture(scope="module")
def two_graphs(tmp_path_factory, make_proven_bundle, reseal_bundle) -> Path:
    """Build a proven bundle with a plain and an int8 graph."""
    path = make_proven_bundle(tmp_path_factory.mktemp("pushed") / "demo")
    shutil.copy(path / "model.onnx", path / "model.int8.onnx")
    variants = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["variants"]
    variants["int8"] = {**variants["plain"], "file": "model.int8.onnx", "weights": "int8"}
    return reseal_bundle(path, variants=variants)


@pytest.fixture
def pushed(two_graphs, tmp_path) -> Path:
    """Copy the bundle to where `url` leads."""
    return shutil.copytree(two_graphs, tmp_path / "bucket" / "demo")


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


def url_of(folder: Path) -> str:
    return f"file://{folder}"


def digest_of(bundle: Path) -> str:
    return str(json.loads((bundle / "manifest.json").read_text(encoding="utf-8"))["version"])


def files_of(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


@pytest.fixture
def downloads(monkeypatch) -> list[str]:
    """Names of the files that are downloaded."""
    names: list[str] = []
    download = remote_folder.RemoteFolder.download

    def record(self, name, target, limit):
        names.append(name)
        download(self, name, target, limit)

    monkeypatch.setattr(remote_folder.RemoteFolder, "download", record)
    return names


def test_fetched_bundle_has_the_files_of_the_pushed_one(pushed, cache):
    folder, digest = split_pin(fetch_bundle(Path(url_of(pushed)), cache))
    assert digest == digest_of(pushed)
    assert folder == cache / "bundles" / digest
    assert files_of(folder) == files_of(pushed)
    assert load_bundle(folder).left_out == frozenset()


def test_second_fetch_downloads_nothing(pushed, cache, downloads):
    fetch_bundle(Path(url_of(pushed)), cache)
    first = list(downloads)
    fetch_bundle(Path(url_of(pushed)), cache)
    assert downloads == first


def test_only_graphs_that_can_be_chosen_are_fetched(pushed, cache, downloads):
    place = local_bundle(Path(url_of(pushed)), EngineRequest("CPU", "int8"), cache=cache)
    folder, _ = split_pin(place)
    assert "model.int8.onnx" in downloads
    assert {"model.onnx", "README.md"}.isdisjoint(downloads)
    bundle = load_bundle(place)
    assert bundle.left_out == {"model.onnx", "README.md"}
    assert bundle.unverified == set()
    assert not bundle.has_graph("plain")
    # The same folder grows when other options need more, and nothing is fetched twice.
    local_bundle(Path(url_of(pushed)), None, cache=cache)
    assert len(downloads) == len(set(downloads))
    assert files_of(folder) == files_of(pushed)
    assert load_bundle(place).left_out == frozenset()


def test_graphs_that_auto_can_choose_are_fetched(pushed):
    assert needed_variants(load_bundle(pushed).manifest, EngineRequest()) == {"plain", "int8"}
    assert needed_variants(load_bundle(pushed).manifest, EngineRequest("CPU", "fp32")) == {"plain"}
    assert needed_variants(load_bundle(pushed).manifest, EngineRequest("OpenVINO,CPU", "fp32")) == {"plain"}


def test_graph_that_failed_its_gate_is_not_fetched(pushed, reseal_bundle):
    variants = json.loads((pushed / "manifest.json").read_text(encoding="utf-8"))["variants"]
    variants["int8"]["gates"] = [{"provider": "CPU", "precision": "int8", "passed": False}]
    reseal_bundle(pushed, variants=variants)
    assert needed_variants(load_bundle(pushed).manifest, EngineRequest("CPU")) == {"plain"}


def test_bundle_without_a_proof_is_fetched_whole(tiny_bundle):
    assert needed_variants(load_bundle(tiny_bundle).manifest, EngineRequest()) is None


def test_missing_graph_of_a_folder_that_was_not_fetched_is_a_fault(pushed):
    (pushed / "model.int8.onnx").unlink()
    with pytest.raises(BundleError, match=r"lacks the file 'model\.int8\.onnx', which its manifest lists"):
        load_bundle(pushed)


def test_changed_object_is_refused_with_both_digests(pushed, cache):
    expected = hashlib.sha256((pushed / "tokenizer.json").read_bytes()).hexdigest()
    (pushed / "tokenizer.json").write_bytes(b"{}")
    got = hashlib.sha256(b"{}").hexdigest()
    with pytest.raises(BundleError, match=rf"tokenizer\.json was changed.*sha256:{expected}, got sha256:{got}"):
        fetch_bundle(Path(url_of(pushed)), cache)
    assert not list((cache / "bundles").glob("*/manifest.json"))
    assert not (cache / "urls").exists()


def test_missing_object_is_told(pushed, cache):
    (pushed / "decode.npz").unlink()
    with pytest.raises(BundleError, match=r"demo lacks the file 'decode\.npz', which its manifest lists\. Push"):
        fetch_bundle(Path(url_of(pushed)), cache)


def test_another_digest_is_refused_before_anything_is_fetched(pushed, cache, downloads):
    with pytest.raises(BundleError, match=rf"must have the digest sha256:{'0' * 64}, got sha256:{digest_of(pushed)}"):
        fetch_bundle(Path(f"{url_of(pushed)}@sha256:{'0' * 64}"), cache)
    assert downloads == []


def test_too_large_file_is_refused_before_anything_is_fetched(pushed, cache, downloads, monkeypatch):
    monkeypatch.setitem(__import__("palm_serve.bundle.fetch", fromlist=["x"]).FILE_LIMITS, "tokenizer.json", 10)
    with pytest.raises(BundleError, match=r"tokenizer\.json must have at most 10 bytes, got [\d,]+\. Nothing"):
        fetch_bundle(Path(url_of(pushed)), cache)
    assert downloads == []


def test_full_disk_is_told_before_anything_is_fetched(pushed, cache, downloads, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(1, 1, 0))
    with pytest.raises(StorageError, match=r"needs [\d,]+ bytes in .*bundles, where 0 are free"):
        fetch_bundle(Path(url_of(pushed)), cache)
    assert downloads == []


def test_unsigned_bundle_is_refused_before_anything_is_fetched(pushed, cache, downloads, tmp_path):
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    trust = tmp_path / "trust"
    trust.mkdir()
    key = Ed25519PrivateKey.generate()
    (trust / "ours.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    with pytest.raises(BundleError, match=r"must be signed because of --trust, got no manifest\.sig"):
        fetch_bundle(Path(url_of(pushed)), cache, trust=trust)
    assert downloads == []
    (pushed / "manifest.sig").write_bytes(key.sign((pushed / "manifest.json").read_bytes()))
    place = fetch_bundle(Path(url_of(pushed)), cache, trust=trust)
    assert load_bundle(place, trust=trust).manifest.name == "proven"


def test_pinned_bundle_of_the_cache_needs_no_bucket(pushed, cache):
    place = Path(f"{url_of(pushed)}@sha256:{digest_of(pushed)}")
    fetched = fetch_bundle(place, cache)
    shutil.rmtree(pushed.parent)
    assert fetch_bundle(place, cache) == fetched


def test_bucket_that_is_gone_is_told(pushed, cache):
    fetch_bundle(Path(url_of(pushed)), cache)
    shutil.rmtree(pushed.parent)
    with pytest.raises(StorageLacks, match=r"manifest\.json cannot be read: no such object"):
        fetch_bundle(Path(url_of(pushed)), cache)


def test_bundle_of_before_is_used_where_nobody_answers(pushed, cache, monkeypatch, caplog):
    fetched = fetch_bundle(Path(url_of(pushed)), cache)

    def silent(*arguments, **options):
        raise StorageUnreachable("nobody answers")

    monkeypatch.setattr(remote_folder.RemoteFolder, "find", silent)
    assert fetch_bundle(Path(url_of(pushed)), cache) == fetched
    assert f"the bundle that it had last is used: sha256:{digest_of(pushed)}" in caplog.text
    with pytest.raises(StorageUnreachable):
        fetch_bundle(Path(f"{url_of(pushed)}@sha256:{'0' * 64}"), cache)


def test_damaged_file_of_the_cache_is_fetched_again(pushed, cache, downloads):
    folder, _ = split_pin(fetch_bundle(Path(url_of(pushed)), cache))
    (folder / "golden.jsonl").write_bytes(b"damaged")
    downloads.clear()
    place = fetch_bundle(Path(f"{url_of(pushed)}@sha256:{digest_of(pushed)}"), cache)
    assert downloads == ["golden.jsonl"]
    load_bundle(place)


def test_bundle_that_is_replaced_meanwhile_is_fetched_anew(pushed, cache, monkeypatch, reseal_bundle):
    first = digest_of(pushed)
    find = remote_folder.RemoteFolder.find
    replaced = []

    def replace_once(self, name):
        if name == "model.onnx" and not replaced:
            replaced.append(name)
            (pushed / "README.md").write_text("another\n", encoding="utf-8")
            reseal_bundle(pushed, max_length=20)
        return find(self, name)

    monkeypatch.setattr(remote_folder.RemoteFolder, "find", replace_once)
    folder, digest = split_pin(fetch_bundle(Path(url_of(pushed)), cache))
    assert digest == digest_of(pushed) != first
    assert files_of(folder) == files_of(pushed)


def _fetch_and_count(url: str, cache: Path, barrier, counts) -> None:
    download = remote_folder.RemoteFolder.download
    names = []

    def record(self, name, target, limit):
        names.append(name)
        download(self, name, target, limit)

    remote_folder.RemoteFolder.download = record  # type: ignore[method-assign]
    barrier.wait()
    fetch_bundle(Path(url), cache)
    counts.put(len(names))


def test_two_processes_download_once(pushed, cache):
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(2)
    counts = context.Queue()
    processes = [context.Process(target=_fetch_and_count, args=(url_of(pushed), cache, barrier, counts)) for _ in "ab"]
    for process in processes:
        process.start()
    fetched = sorted(counts.get(timeout=120) for _ in processes)
    for process in processes:
        process.join()
    assert fetched == [0, len(files_of(pushed)) - 1]


def test_memory_urls_work_as_a_bucket_does(two_graphs, cache):
    store = fsspec.filesystem("memory")
    store.put(f"{two_graphs}/", "/fetch-test/demo/", recursive=True)
    try:
        folder, _ = split_pin(fetch_bundle(Path("memory://fetch-test/demo"), cache))
        assert files_of(folder) == files_of(two_graphs)
    finally:
        store.rm("/fetch-test", recursive=True)


@pytest.fixture
def opened(pushed, cache) -> Callable[..., None]:
    """Return a function that opens the bundle by its URL and asks it."""

    def ask(**options) -> None:
        from palm_serve import Model

        with Model.open(url_of(pushed), cache_dir=cache, **options) as model:
            assert model.parse("please play a song").intent.name == "music"

    return ask


def test_model_opens_a_url(opened, cache):
    opened(provider="CPU", precision="int8", threads=1)
    [folder] = (path for path in (cache / "bundles").iterdir() if path.is_dir())
    assert not (folder / "model.onnx").exists()
    opened(provider="CPU", precision="fp32", threads=1)
    assert (folder / "model.onnx").exists()
