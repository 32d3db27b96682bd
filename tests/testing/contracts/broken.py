"""What a contract test says about a part that violates it."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from mmcomponents.testing import ContractError, check_component


def failure(contract: str, slot: str, factory: Any, **arguments: Any) -> str:
    """Returns the lines about a contract test, which has to fail."""
    logging.disable(logging.INFO)  # else the report is in the summary of the test run
    try:
        with pytest.raises(ContractError) as caught:
            check_component(slot, factory, only=[contract], **arguments)
    finally:
        logging.disable(logging.NOTSET)
    (result,) = caught.value.report.results
    assert result.test == contract
    return result.detail
