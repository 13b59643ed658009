"""Arguments of Baidu's PALM that have no effect here."""

from palm_trainer.api.compat import _UNUSED
from reference_pages.markdown import code, prose, table


def unused() -> str:
    """Return the table of arguments that are accepted and warned of."""
    rows = []
    for name, unused_argument in _UNUSED.items():
        default = unused_argument.default
        shown = '""' if default == "" else str(default)
        rows.append([code(name), code(shown), prose(unused_argument.reason[:1].upper() + unused_argument.reason[1:])])
    return table(["argument", "PALM's default", "why it has no effect"], rows)
