"""Loading, looking up, answering together, taking out of service."""

import asyncio
import gc
import json
import shutil
import time
import weakref

import pytest

from palm_serve.batching import BatchLimits
from palm_serve.errors import BundleError, DeadlineExceeded, InvalidRequest, NotFound, Overloaded, Unavailable
from palm_serve.registry import Registry
from palm_serve.types import Prediction, TextRequest


@pytest.fixture
def other_bundle(tmp_path, make_tiny_bundle):
    return make_tiny_bundle(tmp_path / "other", name="other", max_length=16)


@pytest.fixture
def newer_bundle(tmp_path, make_tiny_bundle):
    return make_tiny_bundle(tmp_path / "newer", max_length=20)


def with_registry(use, **options):
    """Runs `await use(registry)` and closes the registry."""

    async def main():
        registry = Registry(provider="CPU", **options)
        try:
            return await use(registry)
        finally:
            await registry.close()

    return asyncio.run(main())


def test_load_returns_a_model_that_answers(tiny_bundle):
    async def use(registry):
        model = await registry.load(tiny_bundle)
        assert (model.name, model.labels, model.ready) == ("tiny", ("stable",), True)
        assert model.version == model.manifest.digest()
        assert model.info.provider == "CPU"
        answer = await model.predict(TextRequest("fly to denver", ()))
        assert answer.answers["intent"].label.name == "flight"
        assert answer.timings.batch_size == 1
        await registry.close()
        assert not model.ready
        with pytest.raises(Unavailable, match="taken out of service"):
            await model.predict(TextRequest("hi", ()))
        with pytest.raises(Unavailable, match="shutting down"):
            await registry.load(tiny_bundle)

    with_registry(use)


def test_get_finds_by_name_version_and_label(tiny_bundle, other_bundle, newer_bundle):
    async def use(registry):
        with pytest.raises(NotFound, match="no model is loaded"):
            registry.get()
        first = await registry.load(tiny_bundle)
        other_model = await registry.load(other_bundle)
        newer = await registry.load(newer_bundle)
        assert registry.list() == [first, newer, other_model]
        assert registry.get() is registry.get("tiny") is registry.get("", "stable") is first
        assert registry.get("other") is other_model
        assert registry.get("tiny", newer.version) is newer
        assert registry.get("tiny", newer.version[:8]) is newer
        for version in (newer.version[:7], "canary", "0" * 64, ""):
            if version:
                with pytest.raises(
                    NotFound, match=rf"version '{version}' of 'tiny' is not loaded; loaded: \w{{12}} \(stable\)"
                ):
                    registry.get("tiny", version)
        with pytest.raises(NotFound, match="no model 'absent'; loaded: tiny, other"):
            registry.get("absent")
        with pytest.raises(NotFound, match=r"version .* of 'other' is not loaded"):
            registry.get("other", first.version)

    with_registry(use)


def test_get_of_an_ambiguous_prefix_raises(tiny_bundle, newer_bundle):
    async def use(registry):
        for path in (tiny_bundle, newer_bundle):
            model = await registry.load(path)
            model.version = "abcdefgh" + model.version
        with pytest.raises(NotFound, match="version 'abcdefgh' of 'tiny' is ambiguous"):
            registry.get("tiny", "abcdefgh")

    with_registry(use)


def test_load_under_another_name_uses_it(tiny_bundle):
    async def use(registry):
        await registry.load(tiny_bundle, name="assistant")
        assert registry.get("assistant").manifest.name == "tiny"

    with_registry(use)


def test_load_of_the_same_version_twice_raises(tiny_bundle):
    async def use(registry):
        await registry.load(tiny_bundle)
        with pytest.raises(BundleError, match=r"version \w{12} of 'tiny' is loaded already"):
            await registry.load(tiny_bundle)

    with_registry(use)


def test_unload_of_the_stable_version_moves_the_label(tiny_bundle, newer_bundle):
    async def use(registry):
        first, newer = await registry.load(tiny_bundle), await registry.load(newer_bundle)
        await registry.unload("tiny")
        assert registry.list() == [newer]
        assert registry.get("tiny") is newer
        assert not first.ready

    with_registry(use)


def test_unload_frees_the_version(tiny_bundle, newer_bundle):
    async def use(registry):
        first = await registry.load(tiny_bundle)
        await registry.load(newer_bundle)
        # The last work of both threads was its.
        await first.predict_many([TextRequest("hi", ())] * 200)
        engine = weakref.ref(first._pipeline.engine)
        gc.disable()
        try:
            task = registry.retire(first)
            del first
            await task
            for _ in range(100):
                if engine() is None:
                    break
                await asyncio.sleep(0.01)
            assert engine() is None
        finally:
            gc.enable()

    with_registry(use)


def test_load_of_a_bad_bundle_keeps_the_good_ones(tiny_bundle, tmp_path, reseal_bundle):
    async def use(registry):
        await registry.load(tiny_bundle)
        bad = tmp_path / "bad"
        shutil.copytree(tiny_bundle, bad)
        line = {"text": "hi", "answers": {"intent": {"label": "music"}}}
        (bad / "golden.jsonl").write_text(json.dumps(line), encoding="utf-8")
        with pytest.raises(BundleError, match="the golden check failed on CPU in fp32: for 'hi'"):
            await registry.load(reseal_bundle(bad))
        (bad / "model.onnx").write_bytes(b"damaged")
        with pytest.raises(BundleError, match=r"model\.onnx was changed or damaged"):
            await registry.load(bad)
        assert len(registry.list()) == 1
        assert (await registry.get().predict(TextRequest("hi", ()))).answers["intent"].label.name == "greeting"

    with_registry(use)


def test_predict_many_keeps_the_order_of_its_requests(tiny_bundle):
    async def use(registry):
        model = await registry.load(tiny_bundle)
        assert await model.predict_many([]) == []
        requests = [TextRequest("fly to boston " * (1 + i % 3), ("slots",)) for i in range(20)]
        requests[3] = TextRequest(" ", ())
        requests[5] = TextRequest("hi", ("mood",))
        requests[7] = TextRequest("hi", (), deadline=time.monotonic() - 1)
        answers = await model.predict_many(requests)
        assert isinstance(answers[3], InvalidRequest)
        assert isinstance(answers[5], InvalidRequest)
        assert isinstance(answers[7], DeadlineExceeded)
        good = [i for i in range(20) if i not in (3, 5, 7)]
        assert [len(answers[i].answers["slots"].spans) for i in good] == [1 + i % 3 for i in good]
        assert max(answers[i].timings.batch_size for i in good) > 1

    with_registry(use)


def test_batch_larger_than_the_queue_is_answered_whole(tiny_bundle):
    async def use(registry):
        model = await registry.load(tiny_bundle)
        answers = await model.predict_many([TextRequest("hi", ())] * 30)
        assert [isinstance(answer, Prediction) for answer in answers] == [True] * 30
        assert model.statistics.failure.count == 0

    with_registry(use, limits=BatchLimits(max_waiting=4))


def test_batch_waits_a_moment_for_room(tiny_bundle):
    """With a queue that another request fills, and that is empty a moment later."""

    async def use(registry):
        model = await registry.load(tiny_bundle)
        request = TextRequest("hi", ())
        assert await model.wait_for_room(request) is None
        others = [asyncio.create_task(model.predict(request)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await model.predict(request)
        assert await model.wait_for_room(request) is None
        await asyncio.gather(*others, return_exceptions=True)

    with_registry(use, limits=BatchLimits(max_waiting=1))


def test_long_text_is_tokenized_off_the_event_loop(tiny_bundle):
    async def use(registry):
        model = await registry.load(tiny_bundle)
        answer = await model.predict(TextRequest("fly to boston " * 500, ()))
        assert answer.truncated
        assert answer.answers["intent"].label.name == "flight"

    with_registry(use)


def test_each_version_gets_its_own_observer(tiny_bundle, other_bundle):
    names = []

    async def use(registry):
        await registry.load(tiny_bundle)
        await registry.load(other_bundle, name="second")

    with_registry(use, make_observer=lambda *version: names.append(version))
    assert [name for name, _ in names] == ["tiny", "second"]
    assert all(len(version) == 64 for _, version in names)
