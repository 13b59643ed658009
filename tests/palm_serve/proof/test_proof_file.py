"""The file proof.npz: what it holds, and what is refused before anything runs."""

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from palm_serve.bundle.loader import Bundle, load_bundle
from palm_serve.bundle.proof import proof_bytes, spread_order, stored_places
from palm_serve.errors import BundleError

Edit = Callable[[dict[str, Any]], Any]


def edited_info(arrays: dict[str, Any], edit: Callable[[dict[str, Any]], Any]) -> None:
    info = json.loads(arrays["info"].tobytes())
    edit(info)
    arrays["info"] = np.frombuffer(json.dumps(info).encode(), dtype=np.uint8)


@pytest.fixture
def edit_proof(make_proven_bundle, reseal_bundle, tmp_path) -> Callable[[Edit], Path]:
    """Return a function that writes a bundle whose proof was edited and sealed again, as a hostile author would."""

    def edit_arrays(edit: Edit) -> Path:
        path = make_proven_bundle(tmp_path / "edited")
        with np.load(path / "proof.npz") as content:
            arrays = {name: content[name] for name in content.files}
        edit(arrays)
        stream = io.BytesIO()
        np.savez_compressed(stream, **arrays)
        (path / "proof.npz").write_bytes(stream.getvalue())
        return reseal_bundle(path)

    return edit_arrays


def test_proof_is_read_as_it_was_written(proven: Bundle, proven_bundle: Path) -> None:
    assert proven.proof is not None
    assert proof_bytes(proven.proof) == (proven_bundle / "proof.npz").read_bytes()
    assert len(proven.proof.info.examples) == 432
    assert sum(not batch.examples for batch in proven.proof.info.batches) == 64
    assert "proof.npz" in proven.manifest.files


@pytest.mark.parametrize("size", [1, 2, 7, 10, 1000])
def test_places_are_distinct_and_spread(size: int) -> None:
    assert sorted(spread_order(size)) == list(range(size))
    for count in (1, size // 2, size, size + 5):
        places = stored_places(size, count)
        assert len({*places.tolist()}) == len(places) == min(size, count)
    half = np.sort(spread_order(size)[: max(1, size // 2)])
    assert np.diff(half).max(initial=0) <= 4
    places = stored_places(128 * 100, 128 * 25)
    assert len({*(places % 128).tolist()}) == 128, "all columns of an output of 128"


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a.pop("ids"), "it lacks the array 'ids'"),
        (lambda a: a.update(more=np.zeros(2)), "it holds 'more.npy', which the manifest does not name"),
        (
            lambda a: a.update(ids=a["ids"][:-1]),
            "'lengths' must be at least 1, and their sum the size of 'ids' and 'types'",
        ),
        (lambda a: a.update(ids=a["ids"] + 10**6), "'ids' must be from 0 to"),
        (lambda a: a.update(ids=-1 - a["ids"]), "'ids' must be from 0 to"),
        (lambda a: a.update(types=a["types"] + 999), "'types' must be from 0 to 255"),
        (lambda a: a.update(ids=a["ids"].astype(np.int64)), "'ids' must be int32 with 1 axes, got int64 with 1"),
        (lambda a: a.update(lengths=a["lengths"][:-1]), "rows, 'lengths'"),
        (lambda a: a.update(lengths=a["lengths"] * 0), "'lengths' must be at least 1"),
        (lambda a: a.update(counts=a["counts"][:, :-1]), "'counts' must be"),
        (lambda a: a.update(counts=-a["counts"]), "'counts' must be"),
        (lambda a: a.update({"values.1": a["values.1"][:-1]}), "'values.1' must hold the"),
        (lambda a: a.update({"values.0": a["values.0"] * np.nan}), "must hold finite numbers and nothing else"),
        (lambda a: a.update({"values.0": np.zeros(5 << 20, np.float32)}), "its arrays must have at most 16 MiB"),
        (lambda a: a.update(info=a["info"][:-9]), "Invalid JSON"),
        (lambda a: edited_info(a, lambda info: info.update(format=2)), "format: Input should be 1"),
        (lambda a: edited_info(a, lambda info: info.update(tolerance=9.0)), "tolerance: Input should be less"),
        (lambda a: edited_info(a, lambda info: info["outputs"].pop()), "its outputs must be intent.logits"),
        (
            lambda a: edited_info(a, lambda info: info["outputs"][0].update(name="x")),
            "its outputs must be intent.logits",
        ),
        (
            lambda a: edited_info(a, lambda info: info["examples"][0]["answers"].update(x={"decision": {}})),
            "an answer of the task 'x', which the manifest lacks",
        ),
        (lambda a: edited_info(a, lambda info: info["examples"][0]["answers"].clear()), "example 0 lacks the answer"),
        (lambda a: edited_info(a, lambda info: info["batches"][0].update(tasks=["x"])), "a batch names the task 'x'"),
        (
            lambda a: edited_info(a, lambda info: info["batches"][0].update(examples=[1999])),
            "a batch names the example 1999, of 432",
        ),
        (
            lambda a: edited_info(a, lambda info: info["batches"][0].update(length=25)),
            "at most 24 tokens a row, got 25",
        ),
        (lambda a: edited_info(a, lambda info: info["batches"][0].update(length=1)), "a row must have at most the 1"),
        (lambda a: edited_info(a, lambda info: info["batches"][0].update(rows=4000)), "its batches must have at most"),
        (lambda a: edited_info(a, lambda info: info["batches"].pop()), "rows, 'lengths'"),
        (lambda a: edited_info(a, lambda info: info["examples"].clear()), "examples: "),
        (lambda a: edited_info(a, lambda info: info["examples"][0].update(text="a" * 70_000)), "examples.0.text: "),
    ],
)
def test_proof_that_does_not_fit_is_refused(edit_proof: Callable[[Edit], Path], edit: Edit, message: str) -> None:
    path = edit_proof(edit)
    with pytest.raises(BundleError) as refused:
        load_bundle(path)
    assert f"{path}/proof.npz cannot be read: " in str(refused.value)
    assert message in str(refused.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
def test_proof_that_was_cut_is_refused(make_proven_bundle, reseal_bundle, tmp_path, share: float) -> None:
    path = make_proven_bundle(tmp_path / "cut")
    content = (path / "proof.npz").read_bytes()
    (path / "proof.npz").write_bytes(content[: int(share * len(content))])
    with pytest.raises(BundleError, match=r"proof.npz was changed or damaged"):
        load_bundle(path)
    reseal_bundle(path)
    with pytest.raises(BundleError, match=r"proof.npz cannot be read: it is no npz file"):
        load_bundle(path)
