"Small vision transformers from large ones: relations and features of a teacher, masked images, a study"

__all__ = []

__all__ = []
