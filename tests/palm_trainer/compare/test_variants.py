"""Plans of comparisons: equal budget, settings of a task alone, rejected configurations."""

import pytest

from palm_trainer.compare.variants import IN_DOMAIN, OUT_OF_DOMAIN, ScoredTask, plan_comparison
from palm_trainer.config.loader import load_config
from palm_trainer.errors import ConfigError, DataError
from palm_trainer.runs.job_from_config import job_from_config

WORDS = '\n[data.plain]\nformat = "text"\ntrain = "plain.txt"\n\n[tasks.words]\nkind = "masked_lm"\ndata = ["plain"]\n'


def with_lines(path, *replaced, added=""):
    """Load the configuration with some text replaced and some added."""
    text = path.read_text(encoding="utf-8")
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text + added, encoding="utf-8")
    return load_config(path)


@pytest.mark.parametrize(
    "overrides",
    [
        (),
        ("train.reference=reviews", "data.travel.mix_ratio=2.5"),
        ("train.epochs=0.3",),
        ("train.mixing=proportional", "data.reviews.mix_ratio=1.0"),
        ("train.mixing=round_robin", "data.reviews.mix_ratio=1.0", "train.batch_size=3"),
    ],
)
def test_task_alone_takes_the_joint_batches_of_its_data(tiny_config, overrides):
    plan = plan_comparison(tiny_config(*overrides, second=True))
    joint = job_from_config(plan.joint.config).loop.mixing.quotas
    assert [variant.task for variant in plan.variants] == [None, "intent", "slots", "mood"]
    assert dict(plan.joint.batches) == dict(joint)
    for variant in plan.variants[1:]:
        batches = dict(job_from_config(variant.config).loop.mixing.quotas)
        assert batches == dict(variant.batches)
        assert batches.items() <= dict(joint).items()
        assert variant.config.train.batch_size == plan.joint.config.train.batch_size
        assert variant.config.train.evaluations == min(plan.joint.config.train.evaluations, sum(batches.values()))


def test_out_of_scope_text_to_train_on_leaves_equal_passes(tiny_toml, tmp_path):
    """Without these rows a data set has fewer batches, and the number of a task alone did not come out."""
    texts = "".join(f"what is number {number}\n" for number in range(40))
    (tmp_path / "plain.txt").write_text(texts, encoding="utf-8")
    path = tiny_toml(second=True)
    config = with_lines(path, ('train = "travel/train"', 'train = "travel/train"\nout_of_scope_train = "plain.txt"'))
    joint, *alone = plan_comparison(config).variants
    passes = {}
    for variant in (joint, *alone):
        loop = job_from_config(variant.config).loop
        assert dict(loop.mixing.quotas) == dict(variant.batches)
        for name, quota in loop.mixing.quotas.items():
            passes[variant.name, name] = quota / loop.sources[name].sampler.batches_per_epoch
    intent, slots, _ = alone
    assert slots.batches["travel"] < intent.batches["travel"] == joint.batches["travel"]
    assert passes["slots alone", "travel"] == pytest.approx(passes["joint", "travel"], abs=0.5)


def test_task_alone_drops_other_data_and_balancing_settings(tiny_toml, tmp_path):
    path = tiny_toml(second=True)
    (tmp_path / "plain.txt").write_text("some words here\nand more words there\n", encoding="utf-8")
    config = with_lines(
        path,
        ('role = "intent"', 'role = "intent"\nweight = 0.5\nbaseline = 0.9'),
        ('role = "slots"', 'role = "slots"\nbaseline = 0.8'),
        ("mix_ratio = 0.5", "mix_ratio = 0.5\nout_of_scope = 'reviews.tsv'"),
        ('data = ["reviews"]', 'data = ["reviews"]\nbaseline = 0.7'),
        ("[train]", "[train.checkpoints]\npatience = 1\n[train]"),
        added=WORDS,
    )
    plan = plan_comparison(config)
    joint, intent, slots, mood = plan.variants
    assert set(joint.config.tasks) == {"intent", "slots", "mood", "words"}
    assert joint.config.tasks["intent"].weight == 0.5
    assert joint.config.train.checkpoints.patience is None
    for variant in (intent, slots, mood):
        assert list(variant.config.tasks) == [variant.task]
        assert (variant.config.tasks[variant.task].weight, variant.config.tasks[variant.task].baseline) == (1.0, None)
        assert variant.config.train.checkpoints.patience is None
    assert [list(variant.config.data) for variant in (intent, slots, mood)] == [["travel"], ["travel"], ["reviews"]]
    assert mood.config.data["reviews"].out_of_scope
    assert (joint.folder, mood.folder) == ("joint", "alone/mood")


def test_variants_survive_a_round_trip_through_toml(tiny_toml, tmp_path):
    """A training is resumed from its config.toml, so its configuration must be readable."""
    config = with_lines(
        tiny_toml(second=True),
        ("[train]", '[train.checkpoints]\nselect = "slots.f1"\n[train]'),
        ('train = "travel/train"', 'train = "travel/train"\nout_of_scope = "plain.txt"\nout_of_domain = "travel/dev"'),
    )
    (tmp_path / "plain.txt").write_text("what is this\n", encoding="utf-8")
    plan = plan_comparison(config)
    for variant in plan.variants:
        written = tmp_path / f"{variant.task}.toml"
        written.write_text(variant.config.dump_toml(), encoding="utf-8")
        assert load_config(written) == variant.config
    assert [variant.config.train.checkpoints.select for variant in plan.variants] == [
        "slots.f1",
        "average",
        "average",
        "average",
    ]
    assert [bool(variant.config.data["travel"].out_of_scope) for variant in plan.variants[:3]] == [True, True, False]


def test_scored_tasks_use_test_then_dev_and_other_domains(tiny_toml):
    config = with_lines(
        tiny_toml(second=True), ('train = "travel/train"', 'train = "travel/train"\nout_of_domain = "travel/dev"')
    )
    plan = plan_comparison(config)
    assert plan.scored_tasks == [
        ScoredTask("intent", IN_DOMAIN, "test"),
        ScoredTask("slots", IN_DOMAIN, "test"),
        ScoredTask("mood", IN_DOMAIN, "dev"),
        ScoredTask("intent", OUT_OF_DOMAIN, "out_of_domain"),
        ScoredTask("slots", OUT_OF_DOMAIN, "out_of_domain"),
    ]
    assert set(plan.evaluation_sets) == {"test", "dev", "out_of_domain"}


def test_one_task_with_an_auxiliary_task_is_compared(tiny_toml, tmp_path):
    (tmp_path / "plain.txt").write_text("some words here\nand more words there\n", encoding="utf-8")
    path = tiny_toml()
    lines = path.read_text(encoding="utf-8")
    slots = lines[lines.index("[tasks.slots]") : lines.index("[train]")]
    plan = plan_comparison(with_lines(path, (slots, ""), added=WORDS))
    assert [variant.task for variant in plan.variants] == [None, "intent"]
    assert set(plan.joint.batches) == {"travel", "plain"}
    assert set(plan.variants[1].batches) == {"travel"}


def test_configuration_with_one_task_is_rejected(tiny_toml):
    path = tiny_toml()
    lines = path.read_text(encoding="utf-8")
    slots = lines[lines.index("[tasks.slots]") : lines.index("[train]")]
    with pytest.raises(
        ConfigError, match=r"tasks must contain at least two tasks, got only 'intent'. Add a second task"
    ):
        plan_comparison(with_lines(path, (slots, "")))


def test_configuration_with_only_auxiliary_tasks_is_rejected(kind):
    (kind.folder / "plain.txt").write_text("some words here\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"tasks must contain a task that is scored, got only auxiliary ones \(words\)"
    ):
        plan_comparison(kind.config(WORDS))


def test_task_without_test_and_dev_labels_is_rejected(tiny_toml):
    config = with_lines(tiny_toml(second=True), ('dev = "reviews.tsv"\n', ""))
    with pytest.raises(DataError, match=r"tasks.mood must have labels in test or dev to be scored, got none"):
        plan_comparison(config)
