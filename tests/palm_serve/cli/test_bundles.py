"""What `palm-serve check` and `palm-serve run` say of bundles that nobody vouches for, and of hostile ones."""

import json
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import helper
from typer.testing import CliRunner

from palm_serve.bundle.loader import load_bundle
from palm_serve.bundle.manifest import TaskInfo, tasks_digest
from palm_serve.bundle.signature import sign
from palm_serve.cli import app
from palm_serve.cli.settings import resolve

MakeBundle = Callable[..., Path]
HOSTILE = "\x1b]0;title\x07[/x]\u202e"
SHOWN = r"\x1b]0;title\x07[/x]\u202e"


def palm_serve(*arguments: object, columns: str = "200") -> tuple[int, str, str]:
    """Run a command and return its exit code, standard output and standard error."""
    result = CliRunner().invoke(app, [str(a) for a in arguments], env={"COLUMNS": columns})
    return result.exit_code, result.stdout, result.stderr


def retask(path: Path, reseal_bundle: MakeBundle, task: str, **changes: object) -> Path:
    """Change the manifest entry of a task, and the digest in the graph, as an author would."""
    tasks = json.loads((path / "manifest.json").read_text(encoding="utf-8"))["tasks"]
    tasks[task] |= changes
    content = {name: TaskInfo.model_validate(entry) for name, entry in tasks.items()}
    model = onnx.load(path / "model.onnx")
    helper.set_model_props(model, {"palm.digest": tasks_digest(content, (path / "tokenizer.json").read_bytes())})
    onnx.save(model, path / "model.onnx")
    return reseal_bundle(path, tasks=tasks)


@pytest.fixture
def bundle(tmp_path: Path, make_tiny_bundle: MakeBundle) -> Path:
    return make_tiny_bundle(tmp_path / "bundle")


@pytest.mark.parametrize("lines", [None, "", '{"text": "hi", "answers": {}}\n'])
def test_check_without_golden_examples_exits_with_2(bundle: Path, reseal_bundle: MakeBundle, lines: str | None) -> None:
    (bundle / "golden.jsonl").unlink()
    if lines is not None:
        (bundle / "golden.jsonl").write_text(lines, encoding="utf-8")
    reseal_bundle(bundle)
    for command in ("check", "run"):
        code, out, err = palm_serve(command, bundle, *(("--port", "0") if command == "run" else ()))
        assert code == 2
        assert "ready" not in out
        assert "must hold a golden example with an answer, got none" in err
    code, out, err = palm_serve("check", bundle, "--allow-unproven")
    assert (code, err) == (0, "")
    assert "no golden example, so nothing shows that it answers as at the export" in out
    assert "golden examples answered" not in out


@pytest.mark.parametrize("golden", [True, False])
@pytest.mark.parametrize(
    ("task", "labels", "message"),
    [
        ("intent", ["flight", "weather"], r"task 'intent' (2 labels) must have the axes [rows, 2], got ["),
        ("sentiment", ["a", "b", "c"], r"task 'sentiment' (3 labels) must have the axes [rows, 3], got ["),
        ("slots", ["O", "B-city", "I-city"], "start, transitions and end must have 3 tags as the labels"),
        ("slots", [f"B-city{number}" for number in range(7)], "the tags must hold 'O'"),
    ],
)
def test_check_of_other_labels_than_logits_exits_with_2(
    bundle: Path, reseal_bundle: MakeBundle, task: str, labels: list[str], message: str, golden: bool
) -> None:
    if not golden:
        (bundle / "golden.jsonl").unlink()
    retask(bundle, reseal_bundle, task, labels=labels)
    code, out, err = palm_serve("check", bundle, "--provider", "CPU", "--allow-unproven")
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_task_without_a_golden_example_is_tried(bundle: Path, reseal_bundle: MakeBundle) -> None:
    """The golden examples ask for the intent only, and the sentiment cannot be decoded."""
    line = {"text": "fly", "answers": {"intent": {"label": "flight"}}}
    (bundle / "golden.jsonl").write_text(json.dumps(line), encoding="utf-8")
    retask(bundle, reseal_bundle, "sentiment", labels=["negative"])
    code, _, err = palm_serve("check", bundle)
    assert code == 2
    assert "task 'sentiment' (1 labels) must have the axes [rows, 1]" in err


@pytest.mark.parametrize("columns", ["200", "60"])
def test_check_prints_the_digest_that_pins(bundle: Path, reseal_bundle: MakeBundle, columns: str) -> None:
    digest = load_bundle(bundle).manifest.version
    code, out, _ = palm_serve("check", bundle, columns=columns)
    assert code == 0
    assert f"digest sha256:{digest}" in out.splitlines()
    assert palm_serve("check", f"{bundle}@sha256:{digest}")[0] == 0
    reseal_bundle(bundle, max_length=12)
    for command in ("check", "run"):
        code, _, err = palm_serve(command, f"{bundle}@sha256:{digest}")
        assert code == 2
        assert f"must have the digest sha256:{digest}, got sha256:" in err


def test_pins_of_the_environment_are_not_split(tmp_path: Path) -> None:
    pins = [f"bundles/{name}@sha256:{name * 64}" for name in "ab"]
    options = resolve({}, None, {"PALM_SERVE_BUNDLES": ":".join([*pins, "c"])}).options
    assert options.bundles == (Path(pins[0]), Path(pins[1]), Path("c"))
    file = tmp_path / "serve.toml"
    file.write_text(f'bundles = ["{pins[0]}"]\ntrust = "keys"\n', encoding="utf-8")
    options = resolve({}, file, {}).options
    assert options.bundles == (tmp_path / pins[0],)
    assert options.trust == tmp_path / "keys"


def test_trust_decides_what_is_checked_and_run(bundle: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key, trust = Ed25519PrivateKey.generate(), tmp_path / "trust"
    trust.mkdir()
    (tmp_path / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (trust / "a.pem").write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    for command in ("check", "run"):
        code, _, err = palm_serve(command, bundle, "--trust", trust)
        assert code == 2
        assert "must be signed because of --trust, got no manifest.sig" in err
    signature = sign((bundle / "manifest.json").read_bytes(), tmp_path / "key.pem")
    (bundle / "manifest.sig").write_bytes(signature)
    code, out, err = palm_serve("check", bundle, "--trust", trust)
    assert (code, err) == (0, "")
    assert "verified, signed with a trusted key, warmed up" in out
    assert "signed" not in palm_serve("check", bundle)[1]


def test_check_prints_hostile_labels_as_text(bundle: Path, reseal_bundle: MakeBundle) -> None:
    labels = ["flight", "weather", "music", f"label {HOSTILE}"]
    line = {"text": "fly", "answers": {"intent": {"label": "flight"}}}
    (bundle / "golden.jsonl").write_text(json.dumps(line), encoding="utf-8")
    retask(bundle, reseal_bundle, "intent", labels=labels)
    code, out, err = palm_serve("check", bundle)
    assert (code, err) == (0, "")
    assert f"label {SHOWN}" in out


def test_golden_failure_prints_hostile_text_as_text(bundle: Path, reseal_bundle: MakeBundle) -> None:
    line = {"text": f"hi {HOSTILE}\nx", "answers": {"intent": {"label": f"label {HOSTILE}"}}}
    (bundle / "golden.jsonl").write_text(json.dumps(line), encoding="utf-8")
    code, _, err = palm_serve("check", reseal_bundle(bundle))
    assert code == 2
    assert rf"for 'hi {SHOWN}\nx' the task 'intent' answers 'greeting', the export saw 'label {SHOWN}'" in err
    assert len(err.splitlines()) == 1
