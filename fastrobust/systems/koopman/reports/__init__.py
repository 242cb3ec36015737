"What an operator has learned: tables and pictures"

__all__ = []
