"""Downloads from a real server with the Hub's protocol, with and without faults, and the output of `ls`."""

import hashlib
import io
import os
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file

import palm_trainer as palm
from palm_trainer.errors import PalmError
from palm_trainer.model.download import model_names as downloader
from palm_trainer.tokenization.encoder_files import PACKAGED

NAME = "BERT-en-uncased-base"
WEIGHTS = "model.safetensors"
ROOT = Path(__file__).parents[4]
ARTICLE = """Available pretrain items:
  => RoBERTa-zh-base
  => RoBERTa-zh-large
  => ERNIE-v2-en-base
  => ERNIE-v2-en-large
  => XLNet-cased-base
  => XLNet-cased-large
  => ERNIE-v1-zh-base
  => ERNIE-v1-zh-base-max-len-512
  => BERT-en-uncased-large-whole-word-masking
  => BERT-en-cased-large-whole-word-masking
  => BERT-en-uncased-base
  => BERT-en-uncased-large
  => BERT-en-cased-base
  => BERT-en-cased-large
  => BERT-multilingual-uncased-base
  => BERT-multilingual-cased-base
  => BERT-zh-base
"""


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_ls_prints_items_without_loading_torch():
    code = (
        "import sys; from palm_trainer import downloader; downloader.ls('pretrain')\n"
        "assert not {'torch', 'transformers', 'huggingface_hub'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(ARTICLE)
    rest = done.stdout.removeprefix(ARTICLE)
    assert "  => minilm-l6-en (" in rest
    assert "  => scratch (" in rest
    assert "ERNIE-v1-zh-base-max-len-512 has no repository on the Hub: convert the original archive" in rest
    assert "ERNIE-v1-zh-base: nghuyong/ernie-1.0-base-zh; not confirmed" in rest


def test_downloader_is_public_and_names_are_listed():
    assert palm.downloader is downloader
    assert set(PACKAGED) == {downloader.PACKAGED}


def test_ls_all_lists_every_item(capsys):
    downloader.ls()
    out = capsys.readouterr().out
    assert out.startswith(ARTICLE)
    for item in ("vocab", "backbone", "head", "reader"):
        assert f"Available {item} items:\n  none to download: " in out


def test_ls_name_shows_its_source(capsys):
    downloader.ls("pretrain", "xlnet-cased-base")
    assert capsys.readouterr().out == "Available pretrain items:\n  => XLNet-cased-base (xlnet/xlnet-base-cased)\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model",), r"item 'model' does not exist. Items: pretrain, vocab, backbone, head, reader"),
        (("head", "cls"), r"head 'cls': palm.head has them all; nothing is to be downloaded"),
        (("pretrain", "BERT-en-base"), r"pretrain 'BERT-en-base' does not exist. Did you mean BERT-"),
        (("pretrain", "gpt"), r"pretrain 'gpt' does not exist. `downloader.ls\('pretrain'\)` lists the names"),
    ],
)
def test_ls_unknown_name_is_refused(arguments, message):
    with pytest.raises(PalmError, match=message):
        downloader.ls(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("model",), r"item 'model' does not exist"),
        (("vocab",), r"vocab: a vocabulary comes with each pretrain item; nothing is to be downloaded"),
        (("pretrain", "ERNIE-v1-zh-base-max-len-512"), r"has no repository on the Hub: convert the original archive"),
        (("pretrain", "scratch"), r"'scratch' needs no download: it is ready"),
        (("pretrain", "BERT"), r"pretrain 'BERT' does not exist"),
        (("pretrain", "a/b/c"), r"pretrain 'a/b/c' does not exist. .* a Hub id is written org/name"),
    ],
)
def test_download_unknown_item_is_refused(tmp_path, arguments, message):
    with pytest.raises(PalmError, match=message):
        downloader.download(*arguments, path=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_download_packaged_encoder_does_nothing(capsys):
    assert downloader.download("pretrain", "minilm-l6-en") == "minilm-l6-en"
    assert "nothing to download: load_pretrain('minilm-l6-en')" in capsys.readouterr().out


def test_download_writes_all_files(hub, tmp_path, capsys):
    given = downloader.download("pretrain", NAME, str(tmp_path))
    folder = tmp_path / "pretrain" / NAME
    assert given == str(folder)
    assert files_of(folder) == {"config.json", "vocab.txt", "tokenizer_config.json", WEIGHTS, "palm-download.json"}
    for name in files_of(folder) - {"palm-download.json"}:
        assert (folder / name).read_bytes() == hub.files[name]
    out = capsys.readouterr().out
    assert (
        f"{NAME}: fetching 4 files, 0.0 MB, from {hub.url}/google-bert/bert-base-uncased, revision 86b5e0934494" in out
    )
    assert out.endswith(f"{NAME}: done: {folder}\n")
    assert {a.authorization for a in hub.asked if not a.path.startswith("/cdn/")} == {"Bearer hf_of_a_test"}
    assert [a.authorization for a in hub.asked if a.path.startswith("/cdn/")] == [None]  # another host: no token


def test_download_includes_the_pooling(hub, tmp_path):
    pooling = {
        "modules.json": b"[]",
        "1_Pooling/config.json": b'{"pooling_mode": "mean"}',
        "2_Dense/config.json": b"{}",
    }
    hub.files |= pooling
    folder = Path(downloader.download("pretrain", NAME, tmp_path))
    assert (folder / "modules.json").read_bytes() == pooling["modules.json"]
    assert (folder / "1_Pooling" / "config.json").read_bytes() == pooling["1_Pooling/config.json"]
    assert not (folder / "2_Dense").exists()
    assert not (folder / ".partial").exists()


def test_download_complete_files_are_not_repeated(hub, tmp_path, capsys, monkeypatch):
    given = downloader.download("pretrain", NAME, tmp_path)
    hub.asked.clear()
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert downloader.download("pretrain", NAME, tmp_path) == given
    assert hub.asked == []
    assert f"was there already: {given}" in capsys.readouterr().out


def test_download_repeats_only_changed_files(hub, tmp_path):
    folder = Path(downloader.download("pretrain", NAME, tmp_path))
    damaged = bytearray(hub.files[WEIGHTS])
    damaged[4000] ^= 1
    (folder / WEIGHTS).write_bytes(damaged)
    hub.asked.clear()
    downloader.download("pretrain", NAME, tmp_path)
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert len(hub.requests(WEIGHTS)) == 1
    assert hub.requests("vocab.txt") == []


def test_download_interrupted_continues_in_same_call(hub, tmp_path):
    """The connection breaks once; the library asks for the rest."""
    hub.fault = lambda asked: 3000 if asked.path.startswith("/cdn/") and asked.range is None else None
    folder = Path(downloader.download("pretrain", NAME, tmp_path))
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    first, second = hub.requests(WEIGHTS)
    assert (first.range, first.sent) == (None, 3000)
    assert (second.range, second.sent) == ("bytes=3000-", len(hub.files[WEIGHTS]) - 3000)


@pytest.mark.slow
def test_download_killed_continues_in_next_process(hub, start_process, process_limit_s, tmp_path, monkeypatch):
    """A real process, killed while the server is silent; blocks are of the library's own size there."""
    block = 10 * 1024 * 1024
    hub.files[WEIGHTS] = os.urandom(1 << 20) * 12
    hub.fault = lambda asked: block + 5000 if asked.path.startswith("/cdn/") and asked.range is None else None
    hub.stall = True
    code = f"from palm_trainer import downloader; downloader.download('pretrain', '{NAME}', r'{tmp_path}')"
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    process = start_process([sys.executable, "-c", code], cwd=ROOT, env=environment, stdout=None, stderr=None)
    partial = tmp_path / "pretrain" / NAME / ".partial"
    deadline = time.monotonic() + process_limit_s
    while not any(path.stat().st_size >= block for path in partial.glob(f"{WEIGHTS}.*")):
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    hub.stalled.set()
    assert not (partial.parent / WEIGHTS).exists()
    folder = Path(downloader.download("pretrain", NAME, tmp_path))
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert [(a.range, a.sent) for a in hub.requests(WEIGHTS)[1:]] == [(f"bytes={block}-", 2 * 1024 * 1024)]
    assert len(hub.requests("vocab.txt")) == 1
    assert not partial.exists()


def test_download_damaged_partial_file_is_discarded(hub, tmp_path, caplog):
    """What an earlier download left was damaged: from the start, once."""
    hub.fault = lambda asked: 403 if asked.path.startswith("/cdn/") and asked.method == "GET" and asked.range else None
    before = hub.fault
    hub.fault = lambda asked: 3000 if asked.path.startswith("/cdn/") and not asked.range else before(asked)
    with pytest.raises(PalmError, match=r"HTTP 403 for 'google-bert/bert-base-uncased'"):
        downloader.download("pretrain", NAME, tmp_path)
    [partial] = (tmp_path / "pretrain" / NAME / ".partial").glob(f"{WEIGHTS}.*")
    assert partial.stat().st_size == 3000
    partial.write_bytes(b"x" * 3000)
    hub.fault = lambda asked: None
    hub.asked.clear()
    folder = Path(downloader.download("pretrain", NAME, tmp_path))
    assert [a.range for a in hub.requests(WEIGHTS)] == ["bytes=3000-", None]
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]
    assert "does not fit; starting again" in caplog.text


@pytest.mark.parametrize(("name", "kind"), [(WEIGHTS, "sha256"), ("config.json", "sha1")])
def test_download_wrong_checksum_is_refused(hub, tmp_path, name, kind):
    """The server sends other contents than it announced; nothing of it stays, and a later call mends it."""
    hub.corrupt = name
    with pytest.raises(
        PalmError, match=rf"/{name}: wrong checksum \({kind} .* was announced\).* try again, or another HF_"
    ):
        downloader.download("pretrain", NAME, tmp_path)
    folder = tmp_path / "pretrain" / NAME
    assert not (folder / name).exists()
    assert list((folder / ".partial").glob(f"{name}.*")) == []
    hub.corrupt = ""
    downloader.download("pretrain", NAME, tmp_path)
    assert (folder / name).read_bytes() == hub.files[name]


@pytest.mark.parametrize("where", ["/api/", "/google-bert/", "/cdn/"])
@pytest.mark.parametrize("status", [503, 429])
def test_download_busy_server_is_retried(hub, tmp_path, where, status, monkeypatch):
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # the library's own waits
    seen = []

    def fault(asked):
        if asked.path.startswith(where) and len(seen) < 2:
            seen.append(asked)
            return status
        return None

    hub.fault = fault
    folder = Path(downloader.download("pretrain", NAME, tmp_path))
    assert len(seen) == 2
    assert (folder / WEIGHTS).read_bytes() == hub.files[WEIGHTS]


def test_download_busy_server_fails_in_the_end(hub, tmp_path):
    hub.fault = lambda asked: 503
    with pytest.raises(
        PalmError, match=r"HTTP 503 for 'google-bert/bert-base-uncased': .* Try again later, or set HF_"
    ):
        downloader.download("pretrain", NAME, tmp_path)
    assert len(hub.asked) == 4


def test_download_unknown_id_is_refused(hub, tmp_path):
    with pytest.raises(
        PalmError, match=r"'nobody/nothing' is not on http://127.* \(HTTP 404\), or private: check the id"
    ):
        downloader.download("pretrain", "nobody/nothing", tmp_path)
    assert len(hub.asked) == 1


def test_download_gated_model_is_refused(hub, tmp_path):
    hub.gated = True
    with pytest.raises(PalmError, match=r"is gated: accept its terms at http.*bert-base-uncased, then set HF_TOKEN"):
        downloader.download("pretrain", NAME, tmp_path)


def test_download_invalid_id_is_refused(hub, tmp_path):
    with pytest.raises(PalmError, match=r"'a--b/c' is no Hub id"):
        downloader.download("pretrain", "a--b/c", tmp_path)


def test_download_unreachable_server_is_explained(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(PalmError, match=r"http://127.0.0.1:9 cannot be reached for .*set HF_ENDPOINT to a mirror"):
        downloader.download("pretrain", NAME, tmp_path)


def test_download_offline_is_explained(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(PalmError, match=r"not downloaded yet, and HF_HUB_OFFLINE forbids it. Unset HF_HUB_OFFLINE"):
        downloader.download("pretrain", NAME, tmp_path)
    assert hub.asked == []


def test_download_login_page_for_all_is_explained(hub, tmp_path):
    hub.page = True
    with pytest.raises(PalmError, match=r"did not answer with JSON .* does the network ask for a log-in"):
        downloader.download("pretrain", NAME, tmp_path)


def test_download_login_page_for_a_file_is_explained(hub, tmp_path):
    hub.fault = lambda asked: setattr(hub, "page", "/resolve/" in asked.path)
    with pytest.raises(
        PalmError, match=r"config.json: the answer has no X-Repo-Commit, so it does not come from a Hub"
    ):
        downloader.download("pretrain", NAME, tmp_path)


def test_download_page_as_json_is_refused(hub, tmp_path):
    """Its ETags are no checksums; what is said to be JSON is read."""
    hub.plain_etags = True
    hub.files["config.json"] = b"<html>quota exceeded</html>"
    with pytest.raises(PalmError, match=r"config.json: no JSON; it starts with b'<html>quota"):
        downloader.download("pretrain", NAME, tmp_path)


def test_download_without_space_is_refused(hub, tmp_path, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda path: SimpleNamespace(free=5000))
    with pytest.raises(PalmError, match=r"0 MB are needed, but 0 MB are free. Free some space or choose another path"):
        downloader.download("pretrain", NAME, tmp_path)
    assert hub.requests(WEIGHTS) == []


def test_download_full_disk_is_explained(hub, tmp_path):
    """A real device that is always full takes the place of the partial file."""
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("needs /dev/full")
    folder = tmp_path / "pretrain" / NAME / ".partial"
    folder.mkdir(parents=True)
    digest = hashlib.sha256(hub.files[WEIGHTS]).hexdigest()
    (folder / f"{WEIGHTS}.{digest[:16]}").symlink_to(full)
    with pytest.raises(PalmError, match=r"no space left for 'google-bert/bert-base-uncased'. Free some"):
        downloader.download("pretrain", NAME, tmp_path)


def test_download_prefers_safetensors_to_pickles(hub, tmp_path):
    """A pickle is converted: only safetensors are loaded."""
    pickled = io.BytesIO()
    torch.save({"weight": torch.arange(4.0)}, pickled)
    hub.files["pytorch_model.bin"] = pickled.getvalue()
    del hub.files[WEIGHTS]
    folder = Path(downloader.download("pretrain", NAME, tmp_path))
    assert {"pytorch_model.bin", WEIGHTS} <= files_of(folder)
    assert load_file(folder / WEIGHTS)["weight"].tolist() == [0.0, 1.0, 2.0, 3.0]
    changed = io.BytesIO()
    torch.save({"weight": torch.zeros(4)}, changed)
    hub.files["pytorch_model.bin"] = changed.getvalue()
    (folder / "palm-download.json").unlink()
    downloader.download("pretrain", NAME, tmp_path)
    assert load_file(folder / WEIGHTS)["weight"].tolist() == [0.0, 0.0, 0.0, 0.0]


def test_download_sharded_weights_are_complete(hub, tmp_path):
    parts = {f"model-0000{n}-of-00002.safetensors": b"part %d" % n for n in (1, 2)}
    del hub.files[WEIGHTS]
    hub.files |= parts | {"model.safetensors.index.json": b"{}"}
    found = files_of(Path(downloader.download("pretrain", NAME, tmp_path)))
    assert parts.keys() | {"model.safetensors.index.json"} <= found
    assert "pytorch_model.bin" not in found


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (("config.json",), r"is no encoder that transformers loads: it lacks config.json; it has README.md, "),
        (
            ("model.safetensors", "pytorch_model.bin"),
            r"lacks model.safetensors or pytorch_model.bin; it has .*tf_model",
        ),
        (("vocab.txt",), r"lacks a tokenizer; it has"),
    ],
)
def test_download_repository_without_encoder_is_refused(hub, tmp_path, gone, message):
    for name in gone:
        del hub.files[name]
    with pytest.raises(PalmError, match=message):
        downloader.download("pretrain", NAME, tmp_path)


def test_download_any_hub_id_works(hub, tmp_path):
    given = downloader.download("pretrain", "google-bert/bert-base-uncased", tmp_path)
    assert given == str(tmp_path / "pretrain/google-bert/bert-base-uncased")


def test_download_other_model_replaces_the_first(hub, tmp_path):
    """The record of one repository is not taken for another's."""
    folder = Path(downloader.download("pretrain", NAME, tmp_path))
    (folder / "palm-download.json").write_text("{}")
    hub.files["config.json"] = b'{"model_type": "albert"}'
    downloader.download("pretrain", NAME, tmp_path)
    assert (folder / "config.json").read_bytes() == b'{"model_type": "albert"}'
    assert len(hub.requests(WEIGHTS)) == 1


def test_ls_closed_pipe_is_no_error(start_process, process_limit_s):
    """`ls | head -1`: the list is written at once."""
    code = "from palm_trainer import downloader; downloader.ls('pretrain')"
    process = start_process([sys.executable, "-c", code])
    assert process.stdout.readline() == "Available pretrain items:\n"
    process.stdout.close()
    _, said = process.communicate(timeout=process_limit_s)
    assert (process.returncode, said) == (0, "")
