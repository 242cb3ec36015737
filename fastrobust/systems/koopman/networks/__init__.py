"Operators between fields, from their equations"

__all__ = []
