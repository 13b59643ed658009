"""The version of a bundle says what it holds, not which version of PALM reads it."""

import json

from palm_serve.bundle.manifest import Manifest, TaskInfo, tasks_digest


def test_digest_ignores_fields_at_their_default(tiny_bundle):
    stored = json.loads((tiny_bundle / "manifest.json").read_text(encoding="utf-8"))
    full = Manifest.model_validate(stored)
    for task in stored["tasks"].values():
        # As a bundle would look that was written before these fields existed.
        for later in ("thresholds", "calibration"):
            if TaskInfo.model_validate(task).model_dump()[later] == TaskInfo.model_fields[later].default.model_dump():
                task.pop(later, None)
    for variant in stored["variants"].values():
        assert variant.pop("weight_bits") is None
    old = Manifest.model_validate(stored)
    assert old.digest() == full.digest() == full.version
    assert tasks_digest(old.tasks, b"x") == tasks_digest(full.tasks, b"x")


def test_digest_changes_with_what_a_bundle_answers(tiny_bundle):
    manifest = Manifest.model_validate_json((tiny_bundle / "manifest.json").read_bytes())
    longer = manifest.model_copy(update={"max_length": manifest.max_length + 1})
    assert longer.digest() != manifest.digest()
    assert tasks_digest(manifest.tasks, b"x") != tasks_digest(manifest.tasks, b"y")
