"""Equal budget: what a task alone takes, keeps and drops; and what cannot be compared."""

import pytest

from palm_trainer.compare.variants import IN_DOMAIN, OUT_OF_DOMAIN, Question, plan_comparison
from palm_trainer.config.loader import load_config
from palm_trainer.errors import ConfigError, DataError
from palm_trainer.runs.job_from_config import build_training

WORDS = '\n[data.plain]\nformat = "text"\ntrain = "plain.txt"\n\n[tasks.words]\nkind = "masked_lm"\ndata = ["plain"]\n'


def with_lines(path, *replaced, added=""):
    """The configuration with some text replaced and some added, read again."""
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
def test_a_task_alone_takes_the_joint_batches_of_its_data(tiny_config, overrides):
    plan = plan_comparison(tiny_config(*overrides, second=True))
    joint = build_training(plan.joint.config).loop.mixing.quotas
    assert [variant.task for variant in plan.variants] == [None, "intent", "slots", "mood"]
    assert dict(plan.joint.batches) == dict(joint)
    for variant in plan.variants[1:]:
        taken = dict(build_training(variant.config).loop.mixing.quotas)
        assert taken == dict(variant.batches)
        assert taken.items() <= dict(joint).items()
        assert variant.config.train.batch_size == plan.joint.config.train.batch_size
        assert variant.config.train.evaluations == min(plan.joint.config.train.evaluations, sum(taken.values()))


def test_a_task_alone_reads_only_its_own_and_loses_what_balances_tasks(tiny_toml, tmp_path):
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


def test_variants_are_valid_configurations(tiny_toml, tmp_path):
    """A cell is resumed from its config.toml, so what the variants are must be readable."""
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


def test_questions(tiny_toml):
    config = with_lines(
        tiny_toml(second=True), ('train = "travel/train"', 'train = "travel/train"\nout_of_domain = "travel/dev"')
    )
    plan = plan_comparison(config)
    assert plan.questions == [
        Question("intent", IN_DOMAIN, "test"),
        Question("slots", IN_DOMAIN, "test"),
        Question("mood", IN_DOMAIN, "dev"),
        Question("intent", OUT_OF_DOMAIN, "out_of_domain"),
        Question("slots", OUT_OF_DOMAIN, "out_of_domain"),
    ]
    assert set(plan.sets) == {"test", "dev", "out_of_domain"}


def test_one_task_with_an_auxiliary_is_a_comparison(tiny_toml, tmp_path):
    (tmp_path / "plain.txt").write_text("some words here\nand more words there\n", encoding="utf-8")
    path = tiny_toml()
    lines = path.read_text(encoding="utf-8")
    slots = lines[lines.index("[tasks.slots]") : lines.index("[train]")]
    plan = plan_comparison(with_lines(path, (slots, ""), added=WORDS))
    assert [variant.task for variant in plan.variants] == [None, "intent"]
    assert set(plan.joint.batches) == {"travel", "plain"}
    assert set(plan.variants[1].batches) == {"travel"}


def test_one_task_alone_is_refused(tiny_toml):
    path = tiny_toml()
    lines = path.read_text(encoding="utf-8")
    slots = lines[lines.index("[tasks.slots]") : lines.index("[train]")]
    with pytest.raises(ConfigError, match=r"there is only 'intent', which is trained alone anyway. Add a second task"):
        plan_comparison(with_lines(path, (slots, "")))


def test_only_auxiliaries_are_refused(kind):
    (kind.folder / "plain.txt").write_text("some words here\n", encoding="utf-8")
    with pytest.raises(
        ConfigError, match=r"none is scored .words only shape the encoder., so there is nothing to comp"
    ):
        plan_comparison(kind.config(WORDS))


def test_a_task_without_test_and_dev_is_refused(tiny_toml):
    config = with_lines(tiny_toml(second=True), ('dev = "reviews.tsv"\n', ""))
    with pytest.raises(DataError, match=r"tasks.mood: neither test nor dev of its data holds a label of it"):
        plan_comparison(config)
