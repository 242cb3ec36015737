"Equations that make data: random fields, solvers, and what is exact"

__all__ = []
