"""What the tests of networks share beside `small_networks`."""

import pytest
from small_networks import TINY, TINY_INPUT, fresh_params


@pytest.fixture(scope="module")
def tiny_params():
    return fresh_params(TINY, TINY_INPUT)
