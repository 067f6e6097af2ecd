from collections.abc import Sequence

import numpy as np
import pytest

from roadbits.fleet.report.charts import _round_ticks


@pytest.mark.parametrize("values", [[0.106, 0.127], [0.218], [0.64, 0.66, 1.46], [0.05, 4.0]])
def test_a_logarithmic_axis_has_labels_among_its_values(values: Sequence[float]) -> None:
    axis = _round_ticks(values)
    low, high = 10 ** np.array(axis.get("range", np.log10([min(values), max(values)])))
    assert low <= min(values) <= max(values) <= high
    assert sum(low <= tick <= high for tick in axis["tickvals"]) >= 2
