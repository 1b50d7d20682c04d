"""Names of inputs: which are refused, and that what is offered in their place is not."""

from __future__ import annotations

import yaml
from hypothesis import given
from hypothesis import strategies as st

from tasks.errors import SignatureMismatch
from tasks.savedmodel.names import check_input_names, suggestion

NAMES = st.lists(st.text(max_size=6) | st.sampled_from(["self", "class", "a.b", "a_b", "A b", "a b", "1", "arg_1"]))


def is_refused(names: dict[str, str]) -> bool:
    try:
        check_input_names(names)
    except SignatureMismatch as exc:
        assert suggestion(names) in str(exc)
        return True
    return False


@given(NAMES)
def test_what_is_offered_can_be_exported(names: list[str]) -> None:
    """Whatever the names are, the entry that is offered is YAML, keeps every input in its order, and is not refused."""
    served = {name: f"own {number}" for number, name in enumerate(dict.fromkeys(names))}
    entry = yaml.safe_load(f"{{{suggestion(served)}}}")["inputs"]
    assert list(entry.values()) == list(served.values())
    assert not is_refused(entry)
    if not is_refused(served):
        assert entry == served


def test_many_columns() -> None:
    """Thousands of bad names, all of which become one, are told apart."""
    served = {f"{'§' * (number % 7)}({number // 7})": "x" for number in range(3000)}
    assert is_refused(served)
    assert len(yaml.safe_load(f"{{{suggestion(served)}}}")["inputs"]) == len(served)
