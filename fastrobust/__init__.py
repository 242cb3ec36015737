"Robust deep learning on fastai"
__version__ = "0.1.0"
