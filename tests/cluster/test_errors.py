from __future__ import annotations

import asyncio
import pickle

import pytest

from rayscale import cluster
from rayscale.errors import InputError, RayscaleError


@cluster.return_error
def _task(side: int) -> int:
    if side < 0:
        raise InputError(f"side {side}")
    return 100 // side


def test_an_error_for_the_user_crosses_as_a_value() -> None:
    """It keeps its class and its message; any other error is raised where it happens."""
    answer = pickle.loads(pickle.dumps(_task))(-1)
    assert isinstance(answer, RayscaleError)
    with pytest.raises(InputError, match="side -1"):
        cluster.raise_error(pickle.loads(pickle.dumps(answer)))
    assert cluster.raise_error(_task(5)) == 20
    with pytest.raises(ZeroDivisionError):
        _task(0)


def test_an_error_of_a_coroutine_is_a_value_too() -> None:
    async def work(side: int) -> int:
        return cluster.raise_error(_task(side))

    assert asyncio.run(cluster.await_or_error(work(5))) == 20
    error = asyncio.run(cluster.await_or_error(work(-1)))
    assert isinstance(error, InputError)
