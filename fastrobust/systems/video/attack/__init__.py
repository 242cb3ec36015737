"Attacks on one's own video models, as a measure of robustness: a black box, where to look, what it cost"

__all__ = []
