"Tests for techniques of your own: `check_technique`, and the tiny data and learners it runs them on"
from fastrobust.testing.contract import CLAUSES, check_technique     # noqa: F401
from fastrobust.testing.tiny import (first_batch, live, params, tiny_arrays, tiny_dls,  # noqa: F401
                                     tiny_learner)

__all__ = []
