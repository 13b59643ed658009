"""What a configuration can do and the API too: options of `[train]`, weights of tasks, calibration, and text that belongs to no class."""

from types import SimpleNamespace

import pytest
import torch

import palm_trainer as palm
from palm_trainer.config.loader import load_config
from palm_trainer.errors import ConfigError, WiringError
from palm_trainer.evaluation.calibration import calibrate
from palm_trainer.model.checkpoint import load_trained
from palm_trainer.runs.run import train


@pytest.fixture
def joint(vocab_path, config, tmp_path, files):
    """`joint(options, weight=1.0, rows=8, epochs=3)`: slots and intents of one reader, ready to train; `dev` is a reader of the same file."""

    def build(options=None, *, weight=1.0, rows=8, epochs=3, heads=()):
        torch.manual_seed(5)
        reader = palm.reader.JointReader(vocab_path, 32, seed=1)
        tagged = files.slot(tmp_path, rows).read_text(encoding="utf-8").splitlines()[1:]
        lines = ["text_a\tlabel\tintent", *(f"{text}\t{'abb'[i % 3]}" for i, text in enumerate(tagged))]
        path = files.write(tmp_path / "joint.tsv", lines)
        reader.load_data(path, batch_size=4)
        dev = reader.clone("predict")
        dev.load_data(path, batch_size=4)
        bert = palm.backbone.BERT.from_config(config)
        slot, intent = palm.Trainer("slot", weight=weight), palm.Trainer("intent")
        trainer = palm.MultiHeadTrainer([slot, intent], say=lambda line: None)
        for one, head in zip(
            (slot, intent), heads or (palm.head.SequenceLabel(5, 16, 0.1), palm.head.Classify(2, 16, 0.1)), strict=True
        ):
            one.build_forward(bert, head)
        adam = palm.optimizer.Adam(trainer.build_forward(), 5e-3)
        trainer.build_backward(adam, device="cpu", precision="fp32", options=options)
        trainer.fit_readers_with_mixratio([reader, reader], "slot", epochs)
        return SimpleNamespace(trainer=trainer, slot=slot, intent=intent, reader=reader, dev=dev, adam=adam, bert=bert)

    return build


def trained_weights(made):
    made.trainer.train(print_steps=99)
    return {name: value.clone() for name, value in made.trainer._session.ready.model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"regularization": {"r_drop": 1.0}},
        {"regularization": {"fgm": 1.0}},
        {"regularization": {"word_dropout": 0.3}},
        {"regularization": {"label_smoothing": 0.2}},
        {"balancing": {"method": "uncertainty", "learning_rate": 0.1}},
        {"balancing": {"method": "gradnorm", "gradnorm_alpha": 0.5}},
        {"balancing": {"method": "random"}},
        {"balancing": {"method": "pcgrad"}},
    ],
    ids=lambda options: "-".join(str(value) for section in options.values() for value in section.items()),
)
def test_an_option_changes_the_training_and_is_told_in_the_run(joint, tmp_path, options):
    if options.get("balancing") == {"method": "pcgrad"}:
        pytest.importorskip("torchjd")
    plain, other = trained_weights(joint()), joint(options)
    assert not same(plain, trained_weights(other))
    other.trainer.save(tmp_path / "run")
    told = load_config(tmp_path / "run/config.toml").train
    for section, settings in options.items():
        assert getattr(told, section).model_dump(include=set(settings)) == settings


def test_without_options_the_training_is_what_it_was(joint):
    assert same(trained_weights(joint()), trained_weights(joint({})))


def test_the_piece_that_stands_in_is_trained_too(joint):
    made = joint({"regularization": {"word_dropout": 0.5}})
    (table,) = [name for name in made.bert.state_dict() if "word_embeddings" in name]
    before = made.bert.state_dict()[table].clone()
    made.trainer.train(print_steps=99)
    moved = (made.bert.state_dict()[table] != before).any(dim=1)
    assert moved[1]  # [UNK], which the data does not hold
    assert not moved[-1]


def test_a_tasks_weight_counts(joint, tmp_path):
    light, heavy = joint(), joint(weight=3.0)
    told = []
    for made in (light, heavy):
        torch.manual_seed(1)
        steps = made.trainer._session.steps()
        told.append([next(steps).losses, next(steps).losses])
    assert told[0][0] == told[1][0]  # told as it is, weighed in the gradient
    assert told[0][1] != told[1][1]
    heavy.trainer.save(tmp_path / "run")
    assert load_config(tmp_path / "run/config.toml").tasks["slot"].weight == 3.0
    with pytest.raises(ConfigError, match=r"trainer 'slot': weight must be above 0, got 0"):
        palm.Trainer("slot", weight=0)


def test_a_run_teaches_what_the_api_trains(joint, tmp_path):
    teacher = joint(epochs=5)
    teacher.trainer.train(print_steps=99)
    teacher.trainer.save(tmp_path / "teacher")
    plain = trained_weights(joint())
    options = {"distillation": {"teachers": [str(tmp_path / "teacher")], "weight": 0.9}}
    assert set(joint(options).trainer.get_one_batch().content.soft) == {"slot", "intent"}
    assert not same(plain, trained_weights(joint(options)))


def test_what_balancing_learned_is_resumed_to_the_bit(joint, tmp_path):
    options = {"balancing": {"method": "uncertainty", "learning_rate": 0.5}}
    unbroken = joint(options)
    unbroken.trainer.set_saver(tmp_path / "out", save_steps=3)
    whole = trained_weights(unbroken)
    resumed = joint(options)
    resumed.trainer.load_ckpt(tmp_path / "out/ckpt.step3", resume=True)
    assert same(whole, trained_weights(resumed))


def test_options_may_be_given_after_the_data(joint):
    made = joint()
    with pytest.raises(
        ConfigError, match=r"options\.regularization\.r_drop must be greater than or equal to 0, got -1"
    ):
        made.trainer.build_backward(made.adam, options={"regularization": {"r_drop": -1}})
    made.trainer.build_backward(made.adam, device="cpu", precision="fp32", options={"regularization": {"fgm": 1.0}})
    assert not same(trained_weights(joint()), trained_weights(made))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"r_dropp": 1.0}, r"options\.r_dropp is not an option\. Did you mean 'regularization\.r_drop'\?"),
        (
            {"regularization": {"r_dropp": 1.0}},
            r"options\.regularization\.r_dropp is not a key of \[options\.regularization\]\. Did you mean 'r_drop'\?",
        ),
        (
            {"regularization": {"ema_decay": 0.9}},
            r"options\.regularization\.ema_decay is set elsewhere in Python: by build_backward",
        ),
        (
            {"learning_rate": 1.0},
            r"options\.learning_rate is set elsewhere in Python: by Adam.*Options: balancing, ",
        ),
        (
            {"balancing": {"method": "gradnom"}},
            r"options\.balancing\.method must be 'fixed', 'uncertainty'.*got 'gradnom'",
        ),
        (
            {"regularization": {"label_smoothing": 1.0}},
            r"options\.regularization\.label_smoothing must be less than 1, got 1.0",
        ),
        (
            {"balancing": {"dwa_temperature": 1.0}},
            r"options\.balancing\.dwa_temperature is only for method = 'dwa', got 'fixed'. Remove it",
        ),
        (
            {"distillation": {"weight": 0.3}},
            r"options\.distillation\.weight needs teachers, got none\. Name their runs in `teachers`",
        ),
        (
            {"balancing": {"method": "mgda"}, "regularization": {"fgm": 1.0}},
            r"options\.balancing\.method must be .*, got 'mgda'. FGM needs",
        ),
    ],
)
def test_wrong_options_are_told_before_the_first_step(joint, options, match):
    with pytest.raises(ConfigError, match=match):
        joint(options)


def test_options_must_fit_the_tasks(single, article):
    with pytest.raises(
        ConfigError, match=r"options\.balancing\.method must be fixed for a single task, got 'uncertainty'"
    ):
        single(options={"balancing": {"method": "uncertainty"}})
    made = article()
    with pytest.raises(ConfigError, match=r"where no two tasks share a data set, got 'random'"):
        made.trainer.build_backward(made.adam, options={"balancing": {"method": "random"}})


def test_a_head_of_ones_own_has_no_regularization_but_may_be_balanced(joint):
    class Own(palm.head.base_head.Head):
        def __init__(self):
            super().__init__("train")
            self.linear = torch.nn.Linear(16, 2)

        @property
        def inputs_attrs(self):
            return {"reader": {}, "backbone": {"sentence_embedding": [[-1, 16], "float32"]}}

        @property
        def outputs_attr(self):
            return {"loss": [[], "float32"]} if self.phase == "train" else {"logits": [[-1, 2], "float32"]}

        def build(self, inputs, scope_name=""):
            logits = self.linear(inputs["backbone"]["sentence_embedding"])
            return {"loss": logits.square().mean(), "logits": logits}

    heads = (palm.head.SequenceLabel(5, 16, 0.1), Own())
    with pytest.raises(
        ConfigError, match=r"options\.regularization\.r_drop: reaches into .* one of these is your own; remove it"
    ):
        joint({"regularization": {"r_drop": 1.0}}, heads=heads)
    made = joint({"balancing": {"method": "uncertainty"}}, heads=heads)
    made.trainer.train(print_steps=99)
    assert made.slot.cur_train_step == 6


# -- calibration ------------------------------------------------------------------------------------------------------


def methods(path, which="best"):
    return {name: info.calibration.method for name, info in load_trained(path, which).tasks.items()}


def test_what_is_saved_is_calibrated_where_there_is_dev(joint, tmp_path):
    made = joint()
    made.trainer.set_evaluator([made.dev, made.dev])
    made.trainer.set_saver(tmp_path / "out", save_steps=3, save_type="ckpt,predict")
    last = trained_weights(made)
    session = made.trainer._session
    assert same(last, session.ready.model.state_dict())
    fitted = {"slot": "temperature", "intent": "temperature"}
    assert methods(tmp_path / "out") == methods(tmp_path / "out/pred.step3") == fitted
    assert set(methods(tmp_path / "out", "ckpt.step3").values()) == {"none"}  # it may be trained on
    best = load_trained(tmp_path / "out")
    plain = {
        name: info.model_copy(update={"calibration": session.ready.tasks[name].calibration})
        for name, info in best.tasks.items()
    }
    anew = calibrate(type(best)(**{**vars(best), "tasks": plain}), session.evaluation_sets())
    assert anew.tasks == best.tasks  # fitted on the weights of best/, of whatever step
    exported = made.trainer.export(tmp_path / "bundle", precision="fp32")
    assert {name: info.calibration.method for name, info in exported.tasks.items()} == fitted


def test_the_best_is_calibrated_though_it_is_not_the_last(joint, tmp_path, monkeypatch):
    made = joint(epochs=10)
    made.trainer.set_evaluator([made.dev, made.dev])
    made.trainer.set_saver(tmp_path / "out", save_steps=99)
    scores = [0.1] * 10
    scores[7] = 0.9  # by then the model finds spans, without which there is nothing to calibrate
    remaining_scores = iter(scores)
    monkeypatch.setattr("palm_trainer.runs.run.score_of", lambda *_: next(remaining_scores))
    steps = made.trainer._session.steps()
    for _ in range(2 * 8 + 1):  # an epoch has two steps, and its evaluation comes before the next step
        next(steps)
    after_best = load_trained(tmp_path / "out").model.state_dict()
    for _ in steps:
        pass
    last = trained_weights(made)
    best = load_trained(tmp_path / "out")
    assert set(methods(tmp_path / "out").values()) == {"temperature"}
    assert same(after_best, best.model.state_dict())
    assert not same(last, best.model.state_dict())


def test_without_dev_nothing_is_fitted(joint, tmp_path):
    made = joint(epochs=1)
    made.trainer.set_saver(tmp_path / "out", save_steps=99)
    made.trainer.train(print_steps=99)
    assert set(methods(tmp_path / "out").values()) == {"none"}


# -- text that belongs to no class ------------------------------------------------------------------------------------


def test_out_of_scope_text_chooses_a_threshold(joint, vocab_path, tmp_path, files):
    made = joint()
    foreign = palm.reader.ClassifyReader(vocab_path, 32, phase="predict")
    foreign.load_data(files.write(tmp_path / "chat.tsv", ["text_a", "who is it", "what film"]), batch_size=2)
    made.intent.set_out_of_scope(foreign, false_rejection=0.3, score="energy")
    made.trainer.set_evaluator([made.dev, made.dev])
    made.trainer.set_saver(tmp_path / "out", save_steps=99)
    made.trainer.train(print_steps=99)
    info = load_trained(tmp_path / "out").tasks["intent"]
    assert info.calibration.out_of_scope == "energy"
    assert info.thresholds.out_of_scope is not None
    told = load_config(tmp_path / "out/config.toml")
    assert (told.tasks["intent"].false_rejection, told.tasks["intent"].out_of_scope_score) == (0.3, "energy")
    assert told.data["slot"].out_of_scope == (tmp_path / "chat.tsv",)


def test_the_distance_of_the_features_is_the_score_without_such_text(joint, tmp_path):
    made = joint()
    made.intent.set_out_of_scope()
    made.trainer.set_evaluator([made.dev, made.dev])
    made.trainer.train(print_steps=99)
    made.trainer.save(tmp_path / "out")
    assert load_trained(tmp_path / "out").tasks["intent"].calibration.out_of_scope == "mahalanobis"
    exported = made.trainer.export(tmp_path / "bundle", precision="fp32")
    assert exported.tasks["intent"].calibration.out_of_scope == "mahalanobis"


def test_wrong_calls_for_out_of_scope_text_are_told(joint, vocab_path, tmp_path):
    made = joint()
    with pytest.raises(WiringError, match=r"trainer 'slot': set_out_of_scope is for palm\.head\.Classify, not Sequ"):
        made.slot.set_out_of_scope()
    with pytest.raises(ConfigError, match=r"set_out_of_scope\.false_rejection must be less than 1, got 1\.5"):
        made.intent.set_out_of_scope(false_rejection=1.5)
    with pytest.raises(ConfigError, match=r"set_out_of_scope\.out_of_scope_score must be 'softmax', 'energy' or"):
        made.intent.set_out_of_scope(score="cosine")
    with pytest.raises(WiringError, match=r"trainer 'intent': its ClassifyReader has no data yet"):
        made.intent.set_out_of_scope(palm.reader.ClassifyReader(vocab_path, 32, phase="predict"))
    made.intent.set_out_of_scope()
    made.trainer.set_saver(tmp_path / "out", save_steps=1)
    with pytest.raises(WiringError, match=r"chooses its threshold on dev, and there is no dev\. Call set_evaluator"):
        made.trainer.train()


# -- against the configuration ----------------------------------------------------------------------------------------


def test_the_configuration_that_is_saved_trains_with_the_same_options(joint, tmp_path):
    made = joint({"regularization": {"r_drop": 1.0, "label_smoothing": 0.1}, "balancing": {"method": "uncertainty"}})
    made.trainer.train(print_steps=99)
    made.trainer.save(tmp_path / "run")
    again = load_config(tmp_path / "run/config.toml", ["train.epochs=1"], output=tmp_path / "again")
    assert list(train(again))
    assert (tmp_path / "again/best").is_dir()
