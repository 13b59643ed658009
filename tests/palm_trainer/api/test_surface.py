"""Everything that users of the original PALM could call is there, under its names, with its arguments in its order."""

import inspect

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import palm_trainer as palm
from palm_trainer.api.lr_sched import TriangularScheduler, WarmupScheduler
from palm_trainer.api.multihead_trainer import MultiHeadTrainer
from palm_trainer.api.trainer import Trainer
from palm_trainer.training.optimization.schedules import SCHEDULES

TEXT = "tokenizer lang seed do_lower_case"
BERT = "hidden_size num_hidden_layers num_attention_heads vocab_size max_position_embeddings"
ENCODER = "hidden_act hidden_dropout_prob attention_probs_dropout_prob initializer_range is_pairwise"

# dotted name -> the original's arguments, in its order
CALLS = {
    "reader.base_reader.Reader": "phase",
    "reader.ClassifyReader": f"vocab_path max_len {TEXT} phase",
    "reader.MatchReader": f"vocab_path max_len {TEXT} learning_strategy phase dev_count print_prefix",
    "reader.SequenceLabelReader": f"vocab_path max_len label_map_config {TEXT} phase dev_count print_prefix",
    "reader.MRCReader": f"vocab_path max_len max_query_len doc_stride {TEXT} remove_noanswer phase",
    "reader.MaskLMReader": f"vocab_path max_len {TEXT} phase dev_count print_prefix",
    "reader.ClassifyReader.load_data": "self input_file batch_size num_epochs file_format shuffle_train",
    "reader.ClassifyReader.clone": "self phase",
    "reader.ClassifyReader.require_attr": "self name",
    "reader.ClassifyReader.register_with": "self backbone",
    "reader.ClassifyReader.get_registered_backbone": "self",
    "reader.ClassifyReader.get_epoch_outputs": "self",
    "reader.ClassifyReader.create_register": "",
    "backbone.base_backbone.Backbone": "phase",
    "backbone.base_backbone.Backbone.build": "self inputs",
    "backbone.BERT": f"{BERT} type_vocab_size {ENCODER} phase",
    "backbone.ERNIE": f"{BERT} sent_type_vocab_size task_type_vocab_size {ENCODER} use_task_emb phase",
    "backbone.BERT.from_config": "config phase",
    "backbone.ERNIE.from_config": "config phase",
    "head.base_head.Head": "phase",
    "head.base_head.Head.build": "self inputs scope_name",
    "head.base_head.Head.batch_postprocess": "self rt_outputs",
    "head.base_head.Head.epoch_postprocess": "self post_inputs output_dir",
    "head.base_head.Head.reset": "self",
    "head.base_head.Head.get_results": "self",
    "head.Classify": "num_classes input_dim dropout_prob param_initializer_range phase",
    "head.Match": "num_classes input_dim dropout_prob param_initializer_range learning_strategy margin phase",
    "head.SequenceLabel": "num_classes input_dim dropout_prob learning_rate param_initializer_range phase",
    "head.MRC": "max_query_len input_dim pred_output_path verbose with_negative do_lower_case max_ans_len "
    "null_score_diff_threshold n_best_size phase",
    "head.MaskLM": "input_dim vocab_size hidden_act dropout_prob param_initializer_range phase",
    "lr_sched.base_schedualer.Schedualer": "",
    "lr_sched.TriangularSchedualer": "warmup_steps num_train_steps",
    "lr_sched.WarmupSchedualer": "warmup_steps",
    "optimizer.base_optimizer.Optimizer": "loss_var lr lr_schedualer",
    "optimizer.Adam": "loss_var lr lr_schedualer",
    "optimizer.Adam.get_cur_learning_rate": "self",
    "Trainer": "name mix_ratio reuse_head_with",
    "Trainer.build_forward": "self backbone task_head",
    "Trainer.build_predict_forward": "self pred_backbone pred_head",
    "Trainer.set_as_aux": "self",
    "Trainer.fit_reader": "self reader phase",
    "Trainer.train": "self print_steps",
    "Trainer.train_one_step": "self batch",
    "Trainer.get_one_batch": "self phase",
    "Trainer.predict": "self output_dir print_steps",
    "Trainer.predict_one_batch": "self batch",
    "Trainer.reset_buffer": "self",
    "MultiHeadTrainer": "trainers",
    "MultiHeadTrainer.build_forward": "self",
    "MultiHeadTrainer.build_predict_forward": "self",
    "MultiHeadTrainer.fit_readers_with_mixratio": "self readers sampling_reference num_epochs phase",
    "MultiHeadTrainer.fit_readers": "self reader_dict phase",
    "MultiHeadTrainer.train": "self print_steps",
    "MultiHeadTrainer.train_one_step": "self batch",
    "MultiHeadTrainer.get_one_batch": "self phase",
    "MultiHeadTrainer.merge_inference_readers": "self readers",
    "MultiHeadTrainer.predict_one_batch": "self task_name batch",
    **{
        f"{trainer}.{call}": arguments
        for trainer in ("Trainer", "MultiHeadTrainer")
        for call, arguments in {
            "build_backward": "self optimizer weight_decay use_ema ema_decay",
            "load_ckpt": "self model_path",
            "load_pretrain": "self model_path convert",
            "load_predict_model": "self model_path convert",
            "set_saver": "self save_path save_steps save_type",
        }.items()
    },
}
PROPERTIES = {
    Trainer: "name num_examples mix_ratio num_epochs cur_train_step cur_train_epoch steps_pur_epoch",
    MultiHeadTrainer: "overall_train_steps",
    palm.reader.base_reader.Reader: "outputs_attr num_examples num_epochs",
    palm.backbone.BERT: "inputs_attr outputs_attr",
    palm.head.base_head.Head: "inputs_attrs outputs_attr epoch_inputs_attrs",
}
POSITIONAL = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.POSITIONAL_ONLY)


@pytest.mark.parametrize("name", CALLS)
def test_arguments_stand_in_the_originals_order(name):
    found = palm
    for part in name.split("."):
        found = getattr(found, part)
    ours = inspect.signature(found).parameters.values()
    wanted = CALLS[name].split()
    if name.startswith("head.") and wanted[-1] == "phase" and "base_head" not in name:
        assert "phase" in inspect.signature(found).parameters  # by name: nobody passed eight arguments by position
        wanted.pop()
    assert [parameter.name for parameter in ours if parameter.kind in POSITIONAL][: len(wanted)] == wanted
    missing = [
        p.name
        for p in ours
        if p.name not in wanted
        and p.default is p.empty
        and p.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    ]
    assert missing == []  # what we added needs not be given


@pytest.mark.parametrize("owner", PROPERTIES, ids=lambda owner: owner.__name__)
def test_properties(owner):
    for name in PROPERTIES[owner].split():
        assert isinstance(inspect.getattr_static(owner, name), property), name


def test_a_held_trainer_is_no_multi_head_trainer():
    assert not issubclass(MultiHeadTrainer, Trainer)


def test_encoders_take_the_originals_positional_arguments():
    bert = palm.backbone.BERT(16, 1, 2, 50, 32, 2, "gelu", 0.1, 0.1, 0.02, False, "predict")
    ernie = palm.backbone.ERNIE(16, 1, 2, 50, 32, 2, 3, "relu", 0.1, 0.1, 0.02, False, True, "train")
    assert (bert.hidden_size, bert.training, ernie.training) == (16, False, True)
    assert ernie.encoder.config.task_type_vocab_size == 3
    assert not hasattr(palm.backbone.ERNIE(16, 1, 2, 50, 32, 2, 3, "relu", 0.1, 0.1, 0.02, use_task_emb=False), "task")


# -- schedules --------------------------------------------------------------------------------------------------------

PLANS = st.tuples(st.integers(2, 400), st.integers(1, 399)).filter(lambda plan: plan[1] < plan[0])


@given(PLANS, st.sampled_from(sorted(SCHEDULES)))
def test_schedules_rise_to_the_peak_and_never_again(plan, name):
    total, warmup = plan
    factors = [SCHEDULES[name](total, warmup)(step) for step in range(total + 1)]
    assert all(0 <= factor <= 1 for factor in factors)
    assert factors[warmup - 1] == pytest.approx(1)
    assert factors[:warmup] == sorted(factors[:warmup])
    assert factors[warmup:] == sorted(factors[warmup:], reverse=True)
    assert factors[warmup] <= 1 + 1e-9
    if name in ("linear", "cosine"):
        assert factors[total] == pytest.approx(0, abs=1e-9)


@given(PLANS)
def test_triangular_has_no_jump_and_palms_has_one_of_the_warm_ups_share(plan):
    total, warmup = plan
    ours, palms = TriangularScheduler(warmup, total), TriangularScheduler(warmup, total, compat=True)
    steepest = max(1 / warmup, 1 / (total - warmup))
    assert all(abs(ours(step + 1) - ours(step)) <= steepest + 1e-9 for step in range(total))
    assert palms(warmup) == pytest.approx(1 - warmup / total)
    assert palms(0) == palms(total) == 0
    assert WarmupScheduler(warmup)(warmup + total) == 1


def test_own_schedule_and_own_optimizer(single):
    class Half(palm.lr_sched.base_schedualer.Schedualer):
        def __call__(self, step):
            return 0.5

    class Sgd(palm.optimizer.base_optimizer.Optimizer):
        def build(self, groups):
            return torch.optim.SGD(groups, lr=self.lr)

    one = single()
    one.trainer.build_backward(Sgd(one.adam.loss_var, 0.2, Half()), device="cpu", precision="fp32")
    one.trainer.train(print_steps=100)
    assert isinstance(one.trainer._session.loop.optimizer, torch.optim.SGD)
    assert one.trainer._session._backward.optimizer.get_cur_learning_rate() == 0.1
    with pytest.raises(NotImplementedError, match="Optimizer lacks build"):
        palm.optimizer.base_optimizer.Optimizer(None, 1).build([])
    with pytest.raises(NotImplementedError, match=r"Schedualer lacks __call__\(step\)"):
        palm.lr_sched.base_schedualer.Schedualer()(0)
    never = type("Never", (palm.lr_sched.base_schedualer.Schedualer,), {"__call__": lambda self, step: 0.0})()
    with pytest.warns(UserWarning, match="Never: its factor is 0 in all 3 steps"):
        never.fitted(3)


# -- heads ------------------------------------------------------------------------------------------------------------

DECLARED = {
    "classify": (palm.head.Classify(3, 16, 0.5), "ClassifyReader"),
    "multi_label": (palm.head.MultiLabel(3, 16, 0.5), "ClassifyReader"),
    "sequence_label": (palm.head.SequenceLabel(4, 16, 0.5), "SequenceLabelReader"),
    "masked_lm": (palm.head.MaskLM(16, 100, dropout_prob=0.5), "MaskLMReader"),
}


@pytest.mark.parametrize("kind", DECLARED)
def test_dropout_is_applied_while_training_only(kind, vocab_path, config, tmp_path, files):
    declared, name = DECLARED[kind]
    extra = [files.label_map] if kind == "sequence_label" else []
    reader = getattr(palm.reader, name)(vocab_path, 32, *extra)
    reader.load_data(files.slot(tmp_path) if extra else files.intent(tmp_path), batch_size=8)
    trainer = palm.Trainer("t", say=lambda line: None)
    loss = trainer.build_forward(palm.backbone.BERT.from_config(config), declared)
    trainer.build_backward(palm.optimizer.Adam(loss, 1e-3), device="cpu", precision="fp32")
    trainer.fit_reader(reader)
    batch = trainer.get_one_batch()
    loop = trainer._session.loop

    def loss_of(training):
        loop.model.train(training)
        head = loop.model.head("t")
        outputs = loop.model(**batch.content.inputs)
        own = {tensor: outputs[f"t.{tensor}"] for tensor in head.tensors}
        total, labels = head.loss(own, batch.content.targets["t"])
        return float((total / labels).detach())

    assert loss_of(True) != loss_of(True)
    assert loss_of(False) == loss_of(False)
