"Fields in files of many kinds, read as they are asked for"

__all__ = []
