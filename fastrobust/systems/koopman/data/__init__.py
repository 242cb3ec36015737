"fastai loaders and blocks of fields"

__all__ = []
