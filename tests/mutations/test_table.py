"""The table of faults fits the code as it is."""

import pytest

from tests.mutations.table import MUTATIONS, ROOT, SIMULATED, Mutation


@pytest.mark.parametrize("fault", MUTATIONS, ids=[fault.name for fault in MUTATIONS])
def test_each_fault_can_be_made_and_has_tests(fault: Mutation) -> None:
    assert fault.applied() != (ROOT / fault.file).read_text("utf-8")
    for file in fault.tests.split():
        assert (ROOT / file.partition("::")[0]).is_file()


def test_the_names_differ() -> None:
    assert len({fault.name for fault in MUTATIONS}) == len(MUTATIONS)


def test_what_simulation_looks_for_is_in_the_table() -> None:
    assert {fault.name for fault in MUTATIONS} >= SIMULATED
