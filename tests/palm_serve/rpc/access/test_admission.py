"""What admission knows of the calls in progress."""

from contextlib import ExitStack

from palm_serve.config import ServeOptions
from palm_serve.rpc.access.admission import AdmissionControl, RemoteClient
from palm_serve.rpc.access.tokens import Scope


def client(name: str) -> RemoteClient:
    return RemoteClient(name, None, f"ipv4:{name}:1")


def test_turns_are_shared_while_a_client_waits_for_one_answer_beside_others() -> None:
    admission = AdmissionControl(ServeOptions())
    with ExitStack() as calls:
        batch = client("a")
        calls.enter_context(admission.admit(batch, Scope.PARSE))
        batch.spend(31)
        assert not admission.is_shared(), "a batch alone"
        calls.enter_context(admission.admit(client("a"), Scope.PARSE))
        assert not admission.is_shared(), "the call is that of the same client"
        with admission.admit(client("b"), Scope.PARSE):
            assert admission.is_shared()
    assert not admission.is_shared()


def test_batches_and_streams_of_several_clients_do_not_share_turns() -> None:
    """They would only delay each other."""
    admission = AdmissionControl(ServeOptions())
    with ExitStack() as calls:
        for name in "abc":
            batch = client(name)
            calls.enter_context(admission.admit(batch, Scope.PARSE))
            batch.spend(31)
            calls.enter_context(admission.admit(client(name), Scope.PARSE, stream=True))
        assert not admission.is_shared()
        calls.enter_context(admission.admit(client("health"), Scope.HEALTH))
        assert not admission.is_shared()
