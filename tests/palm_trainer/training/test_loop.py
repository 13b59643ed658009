"""Steps of the loop: partial labels, untrained heads, precision, and losses that are not finite."""

import copy
import math

import pytest
import torch

from palm_serve.tokenization import TextTokenizer
from palm_trainer.data.dataset import EncodedDataset
from palm_trainer.data.example import Example, LabelledSpan
from palm_trainer.errors import PalmError, WiringError
from palm_trainer.model.heads.classify import ClassifyHead
from palm_trainer.model.multi_task import MultiTaskModel
from palm_trainer.runs.job_from_config import job_from_config
from palm_trainer.training.balancing import FixedWeights
from palm_trainer.training.loop import TrainingLoop
from palm_trainer.training.mixing import PlannedMixing, mix_ratio
from palm_trainer.training.precision import choose_precision

INTENT_ONLY = [Example("flights from boston", {"intent": "flight"}), Example("list hotels", {"intent": "hotel"})]
SLOTS_ONLY = [
    Example("fare to denver please", {"slots": (LabelledSpan(8, 14, "city"),)}),
    Example("to boston now monday", {"slots": (LabelledSpan(3, 9, "city"), LabelledSpan(14, 20, "day"))}),
    Example("list", {"slots": ()}),
]
BARE = [Example("please list hotels now")]


@pytest.fixture
def training(tiny_config):
    """A training ready to start, without dropout, so that passes over the same rows are equal."""
    return without_dropout(job_from_config(tiny_config()))


def without_dropout(training):
    for module in training.trained.model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    return training


def batch_of(training, examples):
    source = training.loop.sources["travel"]
    tokenizer = TextTokenizer(training.trained.tokenizer_json, training.trained.max_length)
    dataset = EncodedDataset(examples, tokenizer, source.dataset.targets, training.trained.model.input_names, 0)
    return dataset.batch(torch.arange(len(examples)).numpy())


def gradients(training, examples, weights=None):
    """Losses, and the gradient of their sum, of one batch."""
    model = training.trained.model
    model.zero_grad()
    losses = losses_of(training, examples)
    if losses:
        FixedWeights(weights or {"intent": 1.0, "slots": 1.0}).combine(losses).backward()
    found = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    return {task: loss.item() for task, loss in losses.items()}, found


def test_loop_partial_labels_give_separate_gradients(training):
    mixed_losses, mixed = gradients(training, [INTENT_ONLY[0], *SLOTS_ONLY, *BARE, INTENT_ONLY[1]])
    intent_losses, intent = gradients(training, INTENT_ONLY)
    slots_losses, slots = gradients(training, SLOTS_ONLY)
    assert set(intent_losses) == {"intent"}
    assert set(slots_losses) == {"slots"}
    assert mixed_losses == pytest.approx({**intent_losses, **slots_losses}, rel=1e-5)
    for name, gradient in mixed.items():
        apart = [g for g in (intent[name], slots[name]) if g is not None]
        torch.testing.assert_close(gradient, sum(apart), rtol=1e-4, atol=1e-6, msg=name)


def test_loop_weights_scale_the_tasks(training):
    _, plain = gradients(training, INTENT_ONLY)
    _, tripled = gradients(training, INTENT_ONLY, {"intent": 3.0, "slots": 1.0})
    name = "heads.intent.linear.weight"
    torch.testing.assert_close(tripled[name], 3 * plain[name])


def feed(training, examples):
    """One real step on these rows; the weights before and after."""
    loop, source = training.loop, training.loop.sources["travel"]
    before = copy.deepcopy(training.trained.model.state_dict())
    source.micro_batches = lambda *_: [batch_of(training, examples)]
    step = next(loop.steps())
    return step, before, training.trained.model.state_dict()


def test_loop_unlabelled_batch_changes_nothing(training):
    next(training.loop.steps())  # so that the optimizer has moments that it could move by
    optimizer = copy.deepcopy(training.loop.optimizer.state_dict()["state"])
    step, before, after = feed(training, BARE)
    assert step.losses == {}
    assert step.examples == 1
    assert all(torch.equal(before[name], after[name]) for name in before)
    torch.testing.assert_close(training.loop.optimizer.state_dict()["state"], optimizer, rtol=0, atol=0)


def test_loop_untrained_head_stays_unchanged(training):
    for step in training.loop.steps():  # with moments and decay
        if step.step == 2:
            break
    _, before, after = feed(training, INTENT_ONLY)
    moved = {
        name.split(".")[1] for name in before if name.startswith("heads") and not torch.equal(before[name], after[name])
    }
    assert moved == {"intent"}


def test_loop_updates_only_heads_of_the_data_set(tiny_config):
    training = job_from_config(tiny_config("train.epochs=1", second=True))
    state = copy.deepcopy(training.trained.model.state_dict())
    for step in training.loop.steps():
        after = training.trained.model.state_dict()
        heads = {
            name.split(".")[1]
            for name in state
            if name.startswith("heads") and not torch.equal(state[name], after[name])
        }
        assert heads == ({"mood"} if step.data == "reviews" else {"intent", "slots"})
        assert set(step.losses) == heads
        state = copy.deepcopy(after)
    assert training.loop.mixing.quotas == {"travel": 6, "reviews": 3}


def test_loop_rates_follow_the_schedule(training):
    rates = [step.learning_rate for step in training.loop.steps()]
    assert len(rates) == 18
    assert max(rates) == rates[2] == pytest.approx(5e-3)
    assert rates[0] == pytest.approx(5e-3 / 2)
    assert rates[-1] == pytest.approx(5e-3 / 16)


def test_loop_clips_gradients(tiny_config):
    training = job_from_config(tiny_config("train.max_grad_norm=1e-3"))
    norms = []
    original = training.loop.optimizer.step

    def step(*args, **kwargs):
        grads = [p.grad for p in training.trained.model.parameters() if p.grad is not None]
        norms.append(torch.linalg.vector_norm(torch.stack([g.norm() for g in grads])).item())
        return original(*args, **kwargs)

    training.loop.optimizer.step = step
    next(training.loop.steps())
    assert norms == [pytest.approx(1e-3, rel=1e-3)]


def test_loop_infinite_loss_stops_before_the_update(training):
    next(training.loop.steps())
    with torch.no_grad():
        training.trained.model.head("intent").linear.bias[0] = float("nan")
    before = copy.deepcopy(training.trained.model.state_dict())
    with pytest.raises(
        PalmError,
        match=r"loss of task 'intent' is nan at step 2 \(data set travel\); lower train.learning_rate or use precision fp32",
    ):
        next(training.loop.steps())
    after = training.trained.model.state_dict()
    assert all(torch.equal(before[name].nan_to_num(), after[name].nan_to_num()) for name in before)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_loop_low_precision_trains_on_any_cpu(tiny_config, precision):
    training = job_from_config(tiny_config(f"train.precision={precision}"))
    losses = [sum(step.losses.values()) for step in training.loop.steps()]
    assert losses[-1] < losses[0]
    assert all(p.dtype == torch.float32 for p in training.trained.model.parameters())


def test_loop_heads_compute_in_full_precision(tiny_config):
    training = job_from_config(tiny_config("train.precision=bf16"))
    model = training.trained.model
    dtypes = {}

    def record(name):
        def hook(module, inputs, output):
            dtypes[name] = (inputs[0].dtype, output.dtype)

        return hook

    for task in ("intent", "slots"):
        model.head(task).linear.register_forward_hook(record(task))
    block = next(module for module in model.backbone.modules() if isinstance(module, torch.nn.Linear))
    block.register_forward_hook(record("encoder"))
    next(training.loop.steps())
    assert dtypes["encoder"][1] == torch.bfloat16
    assert dtypes["intent"] == dtypes["slots"] == (torch.float32, torch.float32)


def test_loop_crf_scores_have_their_own_rate(tiny_config):
    training = job_from_config(tiny_config("tasks.slots.learning_rate=0.5"))
    crf = training.trained.model.head("slots").crf
    rates = {id(p): group["peak_lr"] for group in training.loop.optimizer.param_groups for p in group["params"]}
    assert {rates[id(scores)] for scores in crf.parameters()} == {1e-2}
    assert rates[id(training.trained.model.head("slots").linear.weight)] == 0.5


def test_choose_precision_follows_the_machine():
    assert choose_precision("cpu", "fp32").autocast is None
    assert choose_precision("cpu", "bf16").autocast is torch.bfloat16
    assert choose_precision("auto").device.type in ("cpu", "cuda", "mps")


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has CUDA")
@pytest.mark.parametrize("device", ["cuda", "cuda:3"])
def test_choose_precision_missing_device_is_refused(device):
    with pytest.raises(PalmError, match=rf"train.device: '{device}' is not on this machine, which has .*1 x cpu"):
        choose_precision(device)


def test_loop_state_continues_the_same_steps(tiny_config):
    config = tiny_config(second=True)
    unbroken, other = job_from_config(config), job_from_config(config)
    steps = unbroken.loop.steps()
    for _ in range(7):
        next(steps)
    model = copy.deepcopy(unbroken.trained.model.state_dict())
    state = copy.deepcopy(unbroken.loop.state_dict())
    rest = [(s.step, s.data, s.losses) for s in steps]
    other.trained.model.load_state_dict(model)
    other.loop.load_state_dict(state)
    assert [(s.step, s.data, s.losses) for s in other.loop.steps()] == rest


def test_multi_task_model_runs_any_subset_of_tasks(training):
    model = training.trained.model.eval()
    passes = []
    model.backbone.register_forward_hook(lambda *_: passes.append(1))
    ids = torch.tensor([[2, 5, 6, 3]])
    everything = model(input_ids=ids, attention_mask=torch.ones_like(ids))
    assert list(everything) == list(model.output_names()) == ["intent.logits", "slots.logits"]
    assert len(passes) == 1
    some = model(input_ids=ids, attention_mask=torch.ones_like(ids), tasks=("slots",))
    assert list(some) == ["slots.logits"]
    assert torch.equal(some["slots.logits"], everything["slots.logits"])


def test_multi_task_model_unfit_head_is_refused(training):
    backbone = training.trained.model.backbone
    backbone.outputs = backbone.outputs[:1]
    with pytest.raises(
        WiringError, match=r"head 'mood' \(classify\) needs 'pooled_output', but the backbone gives: sequence_output"
    ):
        MultiTaskModel(backbone, {"mood": ClassifyHead(2, 16)})


def test_mix_ratio_has_at_least_one_batch():
    assert len(PlannedMixing([mix_ratio({"a": 0.001}, 1, 0.001)], 1)) == 1
    assert TrainingLoop.total_steps.fget(type("L", (), {"mixing": PlannedMixing([{"a": 3}], 1)})()) == 3


def losses_of(training, examples):
    """Mean losses of the tasks that the rows have a label for."""
    batch, head = batch_of(training, examples), training.trained.model.head
    labels = {task: count for task in TASKS if (count := int(head(task).labels(batch.targets[task])))}
    losses, _ = training.loop._losses(batch, TASKS, labels)
    return losses


def values_of(training, examples):
    return {task: loss.item() for task, loss in losses_of(training, examples).items()}


TASKS = ("intent", "slots")
MIXED = [INTENT_ONLY[0], *SLOTS_ONLY, *BARE, INTENT_ONLY[1]]


def test_loop_r_drop_equal_passes_give_plain_loss(tiny_config):
    """Without dropout both passes say the same: neither their mean loss nor the divergence adds anything, with partial labels too."""
    plain, doubled = (job_from_config(tiny_config(*options)) for options in ((), ("train.regularization.r_drop=3",)))
    for training in (plain, doubled):
        without_dropout(training)
    assert values_of(doubled, MIXED) == pytest.approx(values_of(plain, MIXED), rel=1e-5)
    assert set(values_of(doubled, INTENT_ONLY)) == {"intent"}


def test_loop_r_drop_adds_half_alpha_divergence(tiny_config):
    """The loss is linear in alpha, and the same for a batch with unlabelled rows and one without: sums over the same counts."""
    training = job_from_config(tiny_config("train.regularization.r_drop=1"))
    head = training.trained.model.head("intent")
    outputs = {
        "logits": torch.log(torch.tensor([[0.8, 0.1, 0.1], [0.2, 0.6, 0.2], [0.5, 0.25, 0.25], [0.2, 0.6, 0.2]]))
    }
    targets = torch.tensor([0, -100])
    losses = {alpha: training.loop._r_drop_loss(head, outputs, targets, alpha) for alpha in (0.0, 2.0)}
    assert int(losses[0.0].labels) == 1
    assert losses[0.0].total.item() == pytest.approx(-(math.log(0.8) + math.log(0.5)) / 2, rel=1e-5)
    divergence = (0.3 * math.log(1.6) + 2 * 0.15 * math.log(2.5)) / 2
    assert (losses[2.0].total - losses[0.0].total).item() == pytest.approx(divergence, rel=1e-4)


def test_loop_fgm_adds_gradient_at_noisy_embeddings(tiny_config):
    """Noise of nothing gives the clean gradient twice; clipping aside, a step is that of both."""
    plain, twice = (job_from_config(tiny_config(*options)) for options in ((), ("train.regularization.fgm=1e-9",)))
    found = []
    for training in (plain, twice):
        without_dropout(training)
        values, _ = training.loop._gradients("travel", [batch_of(training, MIXED)], TASKS)
        found.append({n: p.grad for n, p in training.trained.model.named_parameters() if p.grad is not None})
        assert set(values) == set(TASKS)
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], 2 * gradient, rtol=1e-4, atol=1e-6, msg=name)


def test_loop_fgm_unlabelled_batch_changes_nothing(tiny_config):
    training = job_from_config(tiny_config("train.regularization.fgm=1"))
    step, before, after = feed(training, BARE)
    assert step.losses == {}
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_loop_word_dropout_reaches_the_encoder(tiny_config):
    training = job_from_config(tiny_config("train.regularization.word_dropout=0.5"))
    seen = []
    training.trained.model.backbone.register_forward_pre_hook(
        lambda _m, _a, kwargs: seen.append(kwargs["input_ids"]), with_kwargs=True
    )
    batch = batch_of(training, MIXED)
    training.loop._losses(batch, TASKS, {"intent": 1})
    given, [read] = batch.inputs["input_ids"], seen
    unknown = training.loop._regularization.word_dropout.stand_in
    assert set(read[read != given].tolist()) == {unknown}
    assert torch.equal(read[:, 0], given[:, 0])
