"Neural operators for fields: Koopman and Fourier models, equations to learn, files, reports"

__all__ = []
