"""What a network does as a whole."""

from __future__ import annotations

import pytest

from tests.engine.networks.layers import CHOICES, make_model, make_network, stir


@pytest.mark.parametrize("form", CHOICES)
def test_it_knows_whether_it_changes_anything(form):
    network = make_network(make_model("linear"), CHOICES[form])
    assert network.changes_nothing()
    assert not stir(network).changes_nothing()
