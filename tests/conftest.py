"""How tests share the machine: in two processes, each on one thread of torch's, all of a file in one of them."""

import os

import pytest

# Before torch is imported: two processes with all threads each would wait for one another.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.hookimpl(tryfirst=True)  # pytest-xdist reads the groups in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Keep the tests of a file together, which share its fixtures, and all that start a Ray, one after the other."""
    for item in items:
        together = "ray" if item.get_closest_marker("ray") else str(item.path)
        item.add_marker(pytest.mark.xdist_group(together))
