"""A resolved configuration, written and read again, is the same one."""

from typing import Any

import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from palm_trainer.config.loader import load_config

TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=8)
SHARE = st.floats(0.0, 0.99)
OPEN_SHARE = st.floats(0.01, 0.99)
POSITIVE = st.floats(1e-6, 1e3)
RATE = st.floats(1e-6, 10)
COUNT = st.integers(1, 50)
PATHS = st.one_of(st.just("a/b.txt"), st.lists(st.sampled_from(["x.txt", "../y", "/z"]), min_size=1, max_size=2))

TASKS: dict[str, dict[str, Any]] = {
    "classify": {
        "false_rejection": OPEN_SHARE,
        "out_of_scope_score": st.sampled_from(["softmax", "energy"]),
        "head": st.just("prototype"),
    },
    "multi_label": {"threshold": OPEN_SHARE},
    "sequence_label": {"crf": st.booleans()},
    "match": {"learning_strategy": st.just("pointwise"), "match_label": TEXT, "margin": RATE},
    "mrc": {"n_best": COUNT, "doc_stride_tokens": COUNT, "max_query_tokens": st.integers(1, 10)},
    "masked_lm": {"mask_share": OPEN_SHARE, "whole_word": st.booleans()},
}
COMMON = {"field": TEXT, "dropout": SHARE, "learning_rate": RATE, "weight": POSITIVE}
TAGS = {
    "label_separator": TEXT,
    "joiner": st.one_of(st.just(""), TEXT),
    "scheme": st.sampled_from(["bio", "bmes"]),
}
COLUMNS = {"columns": st.lists(TEXT, max_size=3), "label_separator": TEXT}
FORMATS: dict[str, dict[str, Any]] = {
    "joint": TAGS,
    "conll": TAGS | {"intent_suffix": TEXT, "intent_line": st.booleans()},
    "palm": TAGS | COLUMNS | {"header": st.booleans()},
    "tsv": COLUMNS | {"delimiter": st.sampled_from([";", "\t"])},
    "csv": COLUMNS | {"header": st.booleans()},
    "json": COLUMNS,
    "parquet": TAGS | COLUMNS,
    "jsonl": {},
    "text": {},
}
SCRATCH = {
    "layers": st.integers(1, 12),
    "hidden_size": st.sampled_from([64, 128]),
    "heads": st.sampled_from([2, 4]),
    "dropout": SHARE,
    "characters": st.booleans(),
}
TRAIN = {
    "epochs": POSITIVE,
    "batch_size": COUNT,
    "learning_rate": RATE,
    "seed": st.integers(0, 2**32 - 1),
    "warmup_ratio": SHARE,
    "schedule": st.sampled_from(["linear", "noam"]),
    "device": st.sampled_from(["auto", "cuda:1"]),
    "trackers": st.lists(st.sampled_from(["wandb", "tensorboard"]), max_size=2),
    "regularization": st.fixed_dictionaries({}, optional={"fgm": POSITIVE, "ema_decay": SHARE}),
    "distillation": st.fixed_dictionaries({"teachers": PATHS}, optional={"weight": OPEN_SHARE}),
    "checkpoints": st.fixed_dictionaries({}, optional={"patience": COUNT, "best_per_task": st.booleans()}),
}


@st.composite
def configurations(draw: st.DrawFn) -> dict[str, Any]:
    """Draw a configuration without faults: a data set for each task, with options of its format and kind."""
    encoder = draw(
        st.one_of(
            st.fixed_dictionaries({"model": st.just("org/name")}, optional={"pooling": st.just("mean")}),
            st.fixed_dictionaries({"model": st.just("scratch")}, optional=SCRATCH),
        )
    )
    data: dict[str, Any] = {}
    tasks: dict[str, Any] = {}
    for position, kind in enumerate(draw(st.lists(st.sampled_from(list(TASKS)), min_size=1, max_size=3))):
        data_format = draw(st.sampled_from(list(FORMATS)))
        required = {"format": st.just(data_format), "train": PATHS}
        optional = FORMATS[data_format] | {"dev": PATHS, "test": PATHS}
        data[f"d{position}"] = draw(st.fixed_dictionaries(required, optional=optional))
        options = draw(st.fixed_dictionaries({}, optional=COMMON | TASKS[kind]))
        tasks[f"t{position}"] = {"kind": kind, "data": [f"d{position}"], **options}
    train = draw(st.fixed_dictionaries({"output": st.just("runs/$x")}, optional=TRAIN))
    return {"encoder": {"max_length": 64, **encoder}, "data": data, "tasks": tasks, "train": train}


@settings(deadline=None, max_examples=150)
@given(raw=configurations())
def test_dump_of_any_configuration_reads_back_equal(tmp_path_factory, raw):
    folder = tmp_path_factory.getbasetemp() / "round_trip"
    (folder / "elsewhere").mkdir(parents=True, exist_ok=True)
    first, second = folder / "first.toml", folder / "elsewhere/second.toml"
    escaped = tomli_w.dumps(raw).replace("${", "$${")
    first.write_text(escaped, encoding="utf-8")
    config = load_config(first)
    dumped = config.dump_toml()
    second.write_text(dumped, encoding="utf-8")
    again = load_config(second)
    assert again == config
    assert again.dump_toml() == dumped
