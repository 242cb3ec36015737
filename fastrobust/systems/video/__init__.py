"Video: clips as fastai data, networks, and how far a model of clips can be fooled within a budget of questions"

__all__ = []
