"""Rules between the sections of a configuration, checked on the raw tables: a fault in one key hides no other."""

import difflib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping

from palm_trainer.config.section import Table
from palm_trainer.config.train import GRADIENT_METHODS, WHOLE_BATCH

_WITHIN_A_STEP = ("gradnorm", "random", *GRADIENT_METHODS)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*")
_LEAST_WINDOW = 12
_ROLES = ("intent", "slots")


def nearest(word: str, known: Iterable[str]) -> str:
    """Return `; did you mean 'x'?` where a known word is near, else the list of them."""
    return nearest_path(word, {name: name for name in known})


def nearest_path(key: str, paths: Mapping[str, str]) -> str:
    """Return `; did you mean 'x'?` with the path of the nearest key, else the list of all paths."""
    near = difflib.get_close_matches(key, paths, n=1)
    listed = ", ".join(dict.fromkeys(paths.values())) or "none"
    return f"; did you mean '{paths[near[0]]}'?" if near else f"; known: {listed}"


def cross_faults(encoder: Table, data: Table, tasks: Table, train: Table) -> Iterator[str]:
    """Faults between keys, one line each. Values of a wrong type are passed over: the field check names them."""
    for section, tables in (("data", data), ("tasks", tasks)):
        for name in tables:
            if not _NAME.fullmatch(name):
                yield f"{section}.{name}: a name is letters, digits, _ and -, and starts with a letter or _; rename it"
    for name, table in _tables(tasks):
        yield from _task_faults(f"tasks.{name}", table, data)
        yield from _window_faults(f"tasks.{name}", table, encoder)
    yield from _task_set_faults(dict(_tables(tasks)), data)
    yield from _substitution_faults(data, dict(_tables(tasks)))
    yield from _scope_faults(data, dict(_tables(tasks)))
    yield from _freeze_faults(train, encoder)
    yield from _baseline_faults(train, dict(_tables(tasks)))
    yield from _averaging_faults(train, data)
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
    return ((name, table) for name, table in tables.items() if isinstance(table, Mapping))


def _task_faults(where: str, table: Table, data: Table) -> Iterator[str]:
    for name in _data_of(table):
        if name not in data:
            yield f"{where}.data: no data set '{name}'{nearest(name, data)}"


def _window_faults(where: str, table: Table, encoder: Table) -> Iterator[str]:
    longest, query = encoder.get("max_length", 128), table.get("max_query_tokens")
    if table.get("kind") != "mrc" or not isinstance(longest, int):
        return
    if 3 <= longest < _LEAST_WINDOW:
        yield f"{where}: encoder.max_length = {longest} leaves a passage no room; reading comprehension needs {_LEAST_WINDOW}, better 384"
    elif isinstance(query, int) and query > longest // 2:
        yield f"{where}.max_query_tokens: {query} is more than half of encoder.max_length = {longest}; the passage needs the rest, lower it"


def _data_of(table: Table) -> list[str]:
    names = table.get("data")
    return [name for name in names if isinstance(name, str)] if isinstance(names, list) else []


def _task_set_faults(tasks: Mapping[str, Table], data: Table) -> Iterator[str]:
    for role in _ROLES:
        holders = [name for name, table in tasks.items() if table.get("role") == role]
        if len(holders) > 1:
            yield f"tasks: role '{role}' is held by {', '.join(holders)}; leave it to one of them"
    if tasks and all(table.get("auxiliary") is True for table in tasks.values()):
        yield f"tasks: all are auxiliary ({', '.join(tasks)}); leave `auxiliary` out of at least one"
    used = {name for table in tasks.values() for name in _data_of(table)}
    for name in data:
        if name not in used:
            yield f"data.{name}: no task uses it; name it in a task's data, or remove it"


def _train_faults(train: Table, data: Table, tasks: Table) -> Iterator[str]:
    reference = train.get("reference")
    if isinstance(reference, str) and reference not in data:
        yield f"train.reference: no data set '{reference}'{nearest(reference, data)}"
    select = _part(train, "checkpoints").get("select", "average")
    if isinstance(select, str) and select not in ("average", "exact_match"):
        task, dot, metric = select.partition(".")
        if not dot or not metric or task not in tasks:
            known = ", ".join(tasks)
            yield f"train.checkpoints.select: '{select}' is none of average, exact_match, TASK.METRIC (tasks: {known}); change it"


def _part_faults(train: Table) -> Iterator[str]:
    parts = train.get("accumulate_steps", 1)
    method = _part(train, "balancing").get("method", "fixed")
    if isinstance(parts, int) and parts > 1 and method in WHOLE_BATCH:
        yield (
            f"train.accumulate_steps: '{method}' (train.balancing.method) weighs the tasks' gradients of a whole batch, which {parts} parts never hold; "
            "set it to 1, or choose fixed, uncertainty, dwa or random"
        )


def _balancing_faults(train: Table, tasks: Mapping[str, Table]) -> Iterator[str]:
    balancing = _part(train, "balancing")
    method = balancing.get("method", "fixed")
    if not isinstance(method, str):
        return
    if method == "fixed":
        return
    where = f"train.balancing.method: '{method}'"
    readers = Counter(name for table in tasks.values() for name in set(_data_of(table)))
    if len(tasks) < 2:
        yield f"{where} weighs tasks against each other, and there is one; choose fixed"
    elif method in _WITHIN_A_STEP and max(readers.values(), default=0) < 2:
        yield (
            f"{where} balances tasks of one step, and no two tasks share a data set (one encoder pass); "
            "let them share one, or choose fixed, uncertainty or dwa"
        )
    if method in _WITHIN_A_STEP and method != "random" and _part(train, "regularization").get("fgm"):
        yield f"{where} takes each task's gradient apart, and fgm needs that of their sum; remove train.regularization.fgm, or choose fixed"
    if method in ("uncertainty", "gradnorm"):
        for name, table in tasks.items():
            if table.get("weight", 1.0) != 1.0:
                yield f"tasks.{name}.weight: '{method}' learns the weights, so that it would change nothing; remove it, or choose fixed"


def _mixing_faults(train: Table, data: Table) -> Iterator[str]:
    policy = train.get("mixing", "mix_ratio")
    if not isinstance(policy, str):
        return
    for name, table in _tables(data):
        if "epochs" in table and policy != "per_task_epochs":
            yield f"data.{name}.epochs: only for train.mixing = 'per_task_epochs', not '{policy}'; set that, or remove it"
        if table.get("mix_ratio", 1.0) != 1.0 and policy != "mix_ratio":
            yield f"data.{name}.mix_ratio: only for train.mixing = 'mix_ratio', not '{policy}'; remove it"


def _freeze_faults(train: Table, encoder: Table) -> Iterator[str]:
    for key in ("freeze_layers", "freeze_embeddings"):
        if train.get(key) and encoder.get("model") == "scratch":
            yield f"train.{key}: an encoder from scratch has no pretrained weights to keep; remove it, or choose another encoder.model"


def _substitution_faults(data: Table, tasks: Mapping[str, Table]) -> Iterator[str]:
    tagged = {name for t in tasks.values() if t.get("kind") == "sequence_label" for name in _data_of(t)}
    for name, table in _tables(data):
        if table.get("substitute") and name not in tagged:
            yield f"data.{name}.substitute: replaces the values of slots, but no sequence_label task reads '{name}'; remove it, or add such a task"


def _scope_faults(data: Table, tasks: Mapping[str, Table]) -> Iterator[str]:
    judged = [t for t in tasks.values() if t.get("kind") == "classify" and t.get("auxiliary") is not True]
    for name, table in _tables(data):
        reading = [task for task in judged if name in _data_of(task)]
        for key, split in (("out_of_scope", "dev"), ("out_of_scope_test", "test")):
            where = f"data.{name}.{key}"
            if table.get(key) and not reading:
                yield f"{where}: tells apart what belongs to no class, but no classify task reads '{name}'; remove it, or add such a task"
            elif table.get(key) and not table.get(split):
                why = "its threshold is chosen" if split == "dev" else "its rejection is compared"
                yield f"{where}: {why} with in-scope text of {split}, which '{name}' has not; add {split}"
        chosen = any("false_rejection" in task or "out_of_scope_score" in task for task in reading)
        if table.get("out_of_scope_test") and reading and not chosen and not table.get("out_of_scope"):
            yield f"data.{name}.out_of_scope_test: no threshold rejects it; add out_of_scope text for dev, or false_rejection to the task"


def _averaging_faults(train: Table, data: Table) -> Iterator[str]:
    if "average_best" in _part(train, "checkpoints") and not any(table.get("dev") for _, table in _tables(data)):
        yield "train.checkpoints.average_best: chooses checkpoints on dev, which no data set has; add dev, or remove it"


def _regularization_faults(train: Table, encoder: Table, tasks: Mapping[str, Table]) -> Iterator[str]:
    regularization = _part(train, "regularization")
    for key in ("r_drop", "word_dropout"):
        if regularization.get(key) and tasks and all(table.get("kind") == "masked_lm" for table in tasks.values()):
            yield f"train.regularization.{key}: leaves masked_lm alone, and there is no other task; remove it"
    droppers = [encoder.get("dropout") if encoder.get("model") == "scratch" else None]
    droppers.append(regularization.get("word_dropout", 0))
    droppers += [table.get("dropout") for table in tasks.values()]
    if regularization.get("r_drop") and all(share == 0 for share in droppers):
        yield (
            "train.regularization.r_drop: compares passes with different dropout, but encoder.dropout and the dropout of every task are 0; "
            "raise one of them, or set train.regularization.word_dropout"
        )


def _baseline_faults(train: Table, tasks: Mapping[str, Table]) -> Iterator[str]:
    never = [
        name for name, table in tasks.items() if table.get("auxiliary") is True or table.get("kind") == "masked_lm"
    ]
    named = [name for name, table in tasks.items() if "baseline" in table]
    for name in named:
        if name in never:
            yield f"tasks.{name}.baseline: an auxiliary task is never selected on; remove it"
    missing = [name for name in tasks if name not in named and name not in never]
    if named and missing:
        yield f"tasks: {', '.join(named)} have a baseline and {', '.join(missing)} have none, so that their average says nothing; give all of them one"
    select = _part(train, "checkpoints").get("select", "average")
    if named and select != "average":
        yield f"train.checkpoints.select: '{select}' heeds no baseline, which {', '.join(named)} have; remove them, or select on 'average'"
