"""Loss curves of the report."""

import pytest

from palm_trainer.report.training_section import _draw_losses


@pytest.mark.parametrize("losses", [[-0.2, -0.3], [0.4, -0.1], [0.0, 0.0], [0.5, 0.4], [90.0, 0.1]])
def test_loss_figure_draws_losses_of_any_sign(losses: list[float]) -> None:
    """Distillation of a CRF can go below 0: a chain with rules has no exact distance from marginals."""
    points = [(float(step), loss) for step, loss in enumerate(losses, 1)]
    figure = _draw_losses("slots", points, None)
    assert "<svg" in figure.svg
