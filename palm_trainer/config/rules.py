"""Rules between the sections of a configuration, checked on the raw tables: a fault in one key hides no other."""

import difflib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from itertools import chain

from palm_trainer.config.mappings import absent
from palm_trainer.config.section import Table
from palm_trainer.config.train import GRADIENT_METHODS, WHOLE_BATCH

_WITHIN_A_STEP = ("gradnorm", "random", *GRADIENT_METHODS)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LEAST_WINDOW = 12
_ROLES = ("intent", "slots")


def nearest(word: str, words: Collection[str]) -> str:
    """Return ` Did you mean 'x'?` where a known word is near, else the list of all words."""
    return nearest_path(word, dict(zip(words, words, strict=True)))


def nearest_path(key: str, paths: Mapping[str, str]) -> str:
    """Return ` Did you mean 'x'?` with the path of the nearest key, else the list of all paths."""
    near = difflib.get_close_matches(key, paths, n=1)
    listed = ", ".join(dict.fromkeys(paths.values())) or "none"
    return f" Did you mean '{paths[near[0]]}'?" if near else f" Known: {listed}."


def cross_faults(encoder: Table, data: Table, tasks: Table, train: Table) -> Iterator[str]:
    """Yield the faults between sections, a line each.

    Args:
        encoder, data, tasks, train: the sections as the file has them. Values of a wrong type are passed over.
    """
    for section, tables in (("data", data), ("tasks", tasks)):
        for name in tables:
            if not _NAME.fullmatch(name):
                yield (
                    f"{section}.{name} must be a name of letters, digits, _ and - that starts with a letter or _. "
                    "Rename it."
                )
    for name, table in _tables(tasks):
        yield from _task_faults(f"tasks.{name}", table, data)
        yield from _window_faults(f"tasks.{name}", table, encoder)
    yield from _task_set_faults(dict(_tables(tasks)), data)
    yield from _given_faults(dict(_tables(tasks)))
    yield from _split_faults(data)
    yield from _substitution_faults(data, dict(_tables(tasks)))
    yield from _scope_faults(data, dict(_tables(tasks)))
    yield from _scratch_faults(train, encoder)
    yield from _baseline_faults(train, dict(_tables(tasks)))
    yield from _averaging_faults(train, data)
    yield from _student_faults(train, encoder)
    yield from training_faults(train, encoder, data, dict(_tables(tasks)))


def training_faults(train: Table, encoder: Table, data: Table, tasks: Mapping[str, Table]) -> Iterator[str]:
    """Yield the faults of a training that a configuration and the Python API have in common.

    Args:
        train: the section `[train]`.
        encoder: the section `[encoder]`, empty for the Python API.
        data: the data sets.
        tasks: the tasks.
    """
    yield from _train_faults(train, data, tasks)
    yield from _part_faults(train)
    yield from _mixing_faults(train, data)
    yield from _balancing_faults(train, tasks)
    yield from _regularization_faults(train, encoder, tasks)


def _part(section: Table, name: str) -> Table:
    """Return the table of this name, an empty one where the section has none."""
    table = section.get(name)
    return table if isinstance(table, Mapping) else {}


def _tables(tables: Table) -> Iterator[tuple[str, Table]]:
    for name, table in tables.items():
        if isinstance(table, Mapping):
            yield name, table


def _task_faults(task_path: str, table: Table, data: Table) -> Iterator[str]:
    for name in _data_of(table):
        if name not in data:
            yield f"{task_path}.data must name data sets of [data], got '{name}'.{nearest(name, data)}"


def _window_faults(task_path: str, table: Table, encoder: Table) -> Iterator[str]:
    longest, query = encoder.get("max_length", 128), table.get("max_query_tokens")
    if table.get("kind") != "mrc" or not isinstance(longest, int):
        return
    if 3 <= longest < _LEAST_WINDOW:
        yield (
            f"encoder.max_length must be at least {_LEAST_WINDOW} for reading comprehension ({task_path}), got {longest}. "
            "A typical value is 384."
        )
    elif isinstance(query, int) and query > longest // 2:
        yield (
            f"{task_path}.max_query_tokens must be at most half of encoder.max_length = {longest}, got {query}. "
            "The passage needs the rest."
        )


def _data_of(table: Table) -> list[str]:
    """Return the names of the data sets of a task. Values of a wrong type are passed over."""
    listed = table.get("data")
    names = []
    for name in listed if isinstance(listed, list) else ():
        if isinstance(name, str):
            names.append(name)
    return names


def _classifiers(tasks: Mapping[str, Table]) -> list[str]:
    """Return the names of the classify tasks."""
    return [name for name, table in tasks.items() if table.get("kind") == "classify"]


def _task_set_faults(tasks: Mapping[str, Table], data: Table) -> Iterator[str]:
    for role in _ROLES:
        holders = [name for name, table in tasks.items() if table.get("role") == role]
        if len(holders) > 1:
            yield f"tasks must hold each role once, got '{role}' held by {', '.join(holders)}. Leave it to one of them."
    if tasks and all(table.get("auxiliary") is True for table in tasks.values()):
        yield f"tasks must not all be auxiliary, got {', '.join(tasks)}. Remove `auxiliary` from at least one."
    used = set(chain.from_iterable(map(_data_of, tasks.values())))
    for name in absent(data, used):
        yield f"data.{name} must be used by a task. Name it in the `data` of a task, or remove it."


def _given_faults(tasks: Mapping[str, Table]) -> Iterator[str]:
    classifiers = _classifiers(tasks)
    for name, table in tasks.items():
        task = table.get("given")
        if not isinstance(task, str):
            continue
        rule = f"tasks.{name}.given must name a classify task"
        if task not in classifiers:
            kind = f" of kind '{tasks[task].get('kind')}'" if task in tasks else ""
            yield f"{rule}, got '{task}'{kind}.{nearest(task, classifiers)}"
        elif not set(_data_of(table)) & set(_data_of(tasks[task])):
            yield f"{rule} that shares a data set with it, got '{task}' on other data. Name another task, or remove it."
        elif tasks[task].get("auxiliary") is True:
            yield f"{rule} that is exported, got the auxiliary task '{task}'. Remove `auxiliary` from it, or `given`."


def _train_faults(train: Table, data: Table, tasks: Table) -> Iterator[str]:
    for name in tasks:
        if name == "by_data_set" or (name == "exact_match" and len(tasks) > 1):
            yield f"tasks.{name} must have another name, because metrics.json uses it for all tasks. Rename it."
    reference = train.get("reference")
    if isinstance(reference, str) and reference not in data:
        yield f"train.reference must name a data set of [data], got '{reference}'.{nearest(reference, data)}"
    select = _part(train, "checkpoints").get("select", "average")
    if isinstance(select, str) and select not in ("average", "exact_match"):
        task, dot, metric = select.partition(".")
        if not dot or not metric or task not in tasks:
            yield (
                f"train.checkpoints.select must be average, exact_match or TASK.METRIC, got '{select}'. "
                f"Tasks: {', '.join(tasks)}."
            )


def _part_faults(train: Table) -> Iterator[str]:
    accumulate_steps = train.get("accumulate_steps", 1)
    method = _part(train, "balancing").get("method", "fixed")
    if isinstance(accumulate_steps, int) and accumulate_steps > 1 and method in WHOLE_BATCH:
        yield (
            f"train.accumulate_steps must be 1 for train.balancing.method = '{method}', got {accumulate_steps}. "
            "The method weighs gradients of a whole batch. Set it to 1, or choose fixed, uncertainty, dwa or random."
        )


def _balancing_faults(train: Table, tasks: Mapping[str, Table]) -> Iterator[str]:
    balancing = _part(train, "balancing")
    method = balancing.get("method", "fixed")
    if not isinstance(method, str):
        return
    if method == "fixed":
        return
    rule = "train.balancing.method must be"
    readers: Counter[str] = Counter()
    for table in tasks.values():
        readers.update(set(_data_of(table)))
    if len(tasks) < 2:
        yield f"{rule} fixed for a single task, got '{method}'. It weighs tasks against each other."
    elif method in _WITHIN_A_STEP and max(readers.values(), default=0) < 2:
        yield (
            f"{rule} fixed, uncertainty or dwa where no two tasks share a data set, got '{method}'. "
            "It balances tasks of one encoder pass. Let tasks share a data set, or choose another method."
        )
    if method in _WITHIN_A_STEP and method != "random" and _part(train, "regularization").get("fgm"):
        yield (
            f"{rule} fixed, uncertainty, dwa or random with train.regularization.fgm, got '{method}'. "
            "FGM needs the gradient of the summed losses. Remove fgm, or choose another method."
        )
    if method in ("uncertainty", "gradnorm"):
        for name, table in tasks.items():
            if table.get("weight", 1.0) != 1.0:
                yield (
                    f"tasks.{name}.weight must be 1 for train.balancing.method = '{method}', "
                    f"got {table['weight']!r}. The method learns the weights. Remove it, or choose fixed."
                )


def _mixing_faults(train: Table, data: Table) -> Iterator[str]:
    policy = train.get("mixing", "mix_ratio")
    if not isinstance(policy, str):
        return
    for name, table in _tables(data):
        if "epochs" in table and policy != "per_task_epochs":
            yield (
                f"data.{name}.epochs is only for train.mixing = 'per_task_epochs', got '{policy}'. "
                "Change train.mixing, or remove it."
            )
        if table.get("mix_ratio", 1.0) != 1.0 and policy != "mix_ratio":
            yield f"data.{name}.mix_ratio is only for train.mixing = 'mix_ratio', got '{policy}'. Remove it."


def _scratch_faults(train: Table, encoder: Table) -> Iterator[str]:
    """Yield the fault of each key that keeps what an encoder from scratch does not know."""
    if encoder.get("model") != "scratch":
        return
    keys = {"freeze_layers": train.get("freeze_layers"), "freeze_embeddings": train.get("freeze_embeddings")}
    regularization = train.get("regularization")
    if isinstance(regularization, Mapping):
        keys["regularization.anchor"] = regularization.get("anchor")
    for key, value in keys.items():
        if value:
            yield (
                f"train.{key} needs an encoder with pretrained weights, got encoder.model = 'scratch'. "
                "Remove it, or choose another encoder.model."
            )


def _substitution_faults(data: Table, tasks: Mapping[str, Table]) -> Iterator[str]:
    tagged: set[str] = set()
    for task in tasks.values():
        if task.get("kind") == "sequence_label":
            tagged.update(_data_of(task))
    for name, table in _tables(data):
        if table.get("substitute") and name not in tagged:
            yield (
                f"data.{name}.substitute needs a sequence_label task that reads '{name}', got none. "
                "Remove it, or add such a task."
            )


def _split_faults(data: Table) -> Iterator[str]:
    for name, table in _tables(data):
        if table.get("dev") and table.get("dev_share"):
            yield f"data.{name} must have dev or dev_share, got both. Remove one of them."


def _has_dev(table: Table) -> bool:
    return bool(table.get("dev") or table.get("dev_share"))


def _scope_faults(data: Table, tasks: Mapping[str, Table]) -> Iterator[str]:
    judged = []
    for task in map(tasks.__getitem__, _classifiers(tasks)):
        if task.get("auxiliary") is not True:
            judged.append(task)
    for name, table in _tables(data):
        reading = [task for task in judged if name in _data_of(task)]
        for key, split in (("out_of_scope", "dev"), ("out_of_scope_train", "train"), ("out_of_scope_test", "test")):
            path = f"data.{name}.{key}"
            if table.get(key) and not reading:
                yield f"{path} needs a classify task that reads '{name}', got none. Remove it, or add such a task."
            elif table.get(key) and not table.get(split) and not (split == "dev" and _has_dev(table)):
                yield f"{path} needs in-scope text of {split} to compare with, got none. Add `{split}` to [data.{name}]."
        has_threshold = any("false_rejection" in task or "out_of_scope_score" in task for task in reading)
        if table.get("out_of_scope_test") and reading and not has_threshold and not table.get("out_of_scope"):
            yield (
                f"data.{name}.out_of_scope_test needs a threshold that rejects it, got none. "
                "Add out_of_scope text for dev, or false_rejection to the task."
            )


def _averaging_faults(train: Table, data: Table) -> Iterator[str]:
    if "average_best" in _part(train, "checkpoints") and not any(_has_dev(table) for _, table in _tables(data)):
        yield "train.checkpoints.average_best requires a dev split. Add `dev` or `dev_share` to a data set, or remove it."


def _student_faults(train: Table, encoder: Table) -> Iterator[str]:
    """Yield the faults of a student that cannot be cut, or whose weights would not stay multiples of 7-bit numbers."""
    student = _part(train, "distillation").get("student")
    if not isinstance(student, Mapping):
        return
    if encoder.get("model") == "scratch":
        yield (
            "train.distillation.student needs an encoder with weights to cut, got encoder.model = 'scratch'. "
            "Name the run of the teacher in encoder.model."
        )
    if student.get("int8") is not True:
        return
    averages = {
        "checkpoints.average_best": _part(train, "checkpoints").get("average_best"),
        "regularization.ema_decay": _part(train, "regularization").get("ema_decay"),
    }
    for key, value in averages.items():
        if value:
            yield (
                f"train.{key} must be left out with train.distillation.student.int8, got {value!r}. "
                "An average of int8 weights is none. Remove one of them."
            )


def _regularization_faults(train: Table, encoder: Table, tasks: Mapping[str, Table]) -> Iterator[str]:
    regularization = _part(train, "regularization")
    for key in ("r_drop", "word_dropout"):
        if regularization.get(key) and tasks and all(table.get("kind") == "masked_lm" for table in tasks.values()):
            yield f"train.regularization.{key} needs a task of another kind than masked_lm, got none. Remove it."
    dropout_rates = [encoder.get("dropout") if encoder.get("model") == "scratch" else None]
    dropout_rates.append(regularization.get("word_dropout", 0))
    for table in tasks.values():
        dropout_rates.append(table.get("dropout", 0 if table.get("head") == "prototype" else None))
    if regularization.get("r_drop") and all(rate == 0 for rate in dropout_rates):
        yield (
            "train.regularization.r_drop needs dropout above 0, got 0 for the encoder and every task. "
            "Raise one of them, or set train.regularization.word_dropout."
        )


def _baseline_faults(train: Table, tasks: Mapping[str, Table]) -> Iterator[str]:
    never = []
    named = []
    for name, table in tasks.items():
        if table.get("auxiliary") is True or table.get("kind") == "masked_lm":
            never.append(name)
        if "baseline" in table:
            named.append(name)
    for name in named:
        if name in never:
            yield f"tasks.{name}.baseline needs a task that is selected on, got an auxiliary one. Remove it."
    missing = absent(tasks, {*named, *never})
    if named and missing:
        yield (
            f"tasks must all have a baseline or none, got one for {', '.join(named)} and none for {', '.join(missing)}. "
            "Their average would mean nothing."
        )
    select = _part(train, "checkpoints").get("select", "average")
    if named and select != "average":
        yield (
            f"train.checkpoints.select must be average for tasks with a baseline ({', '.join(named)}), got '{select}'. "
            "Remove the baselines, or select on average."
        )
