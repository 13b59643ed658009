"""Commands called in the process of the tests."""

import pytest

from palm_trainer.cli.train import app, command


@pytest.fixture
def palm(capsys):
    """`palm("run", ...)` -> (exit code, standard output, standard error)."""

    def _palm(*arguments):
        code = command(app, [str(a) for a in arguments])
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return code, out, err

    return _palm
