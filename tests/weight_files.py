"""What the tests of reading files of weights share."""

import numpy as np
import pytest

from jaxdistill.experts import torch_file

FOUR = np.array([1.5, -2.0, 3.25, 1e-30], np.float32)


def unreadable(source, *expected: str, **options) -> str:
    """The one line `read` refuses with."""
    with pytest.raises(ValueError) as caught:
        torch_file.read(source, **options)
    message = str(caught.value)
    assert "\n" not in message
    for words in expected:
        assert words in message
    return message
