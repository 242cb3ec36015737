"Random periodic fields by FFT: where the equations of this folder start from"
# numpy and scipy.fft rather than torch, here and in the solvers: a row of a batch comes out bit for
# bit as it does alone (torch's FFT differs in the last bits by batch), and a seed draws the same
# fields whatever torch is installed.
import numpy as np
from scipy import fft
from fastrobust.basics import need_number, need_whole

__all__ = ['GaussianField']

class GaussianField:
    "Periodic Gaussian fields, covariance sigma^2 (-Laplace + tau^2)^-alpha: https://arxiv.org/abs/2010.08895"
    def __init__(self,
        dim:int,          # Axes of a field, 1 to 3
        size:int,         # Points of each axis of the unit interval
        alpha:float,      # Smoothness, above `dim`/2; a field has about `alpha - dim/2` derivatives
        tau:float,        # Inverse length scale, 1/length; above 0
        # Standard deviation of the white noise; None: tau^((2 alpha - dim)/2), as in published scripts
        sigma:float=None
    ):
        self.dim = need_whole('dim', dim, 1, 3, 'axes of a field')
        self.size = need_whole('size', size, 3, what='points of an axis', fix="Give e.g. 64.")
        for k,v in dict(alpha=alpha, tau=tau, sigma=1. if sigma is None else sigma).items():
            need_number(k, v)
            if not 0 < v < np.inf:
                raise ValueError(f"`{k}` must be positive and finite, got {v}. Give e.g. 2.")
        if alpha <= dim/2:
            raise ValueError(f"`alpha` must be above dim/2 = {dim/2:g}, got {alpha}: the variance of "
                             "such a field grows with the mesh without bound. Give e.g. "
                             f"{dim/2 + 1:g}.")
        if sigma is None: sigma = tau**((2*alpha-dim)/2)
        self.alpha,self.tau,self.sigma = float(alpha),float(tau),float(sigma)

    @classmethod
    def navier_stokes(cls,
        size=64     # Points of each axis
    ):
        "Vorticity at the start of the published Navier-Stokes files: point variance .0343"
        # sigma^2 = 7^3, as in the authors' script; by the text of their paper it were 7^1.5
        return cls(2, size, 2.5, 7.)

    @classmethod
    def burgers(cls,
        size=1024   # Points
    ):
        "Start of Burgers' equation in the paper: covariance 625 (-Laplace + 25)^-2, variance .352"
        return cls(1, size, 2., 5., 25.)

    @classmethod
    def burgers_script(cls,
        size=1024   # Points
    ):
        "Start of Burgers' equation in the authors' last script: smoother, variance .0751"
        return cls(1, size, 2.5, 7., 49.)

    def at(self,
        size    # Points of each axis
    ):
        "The same field on another mesh: a seed draws the same modes, and more of them on a finer one"
        return GaussianField(self.dim, size, self.alpha, self.tau, self.sigma)

    def settings(self):
        "What tells one field from another, as plain values"
        return dict(dim=self.dim, size=self.size, alpha=self.alpha, tau=self.tau, sigma=self.sigma)

    def __repr__(self):
        what = ', '.join(f'{k}={v:g}' for k,v in self.settings().items())
        return f'GaussianField({what})'

    def mode_variance(self,
        k   # Whole wave numbers (.., dim)
    ):
        "E|c_k|^2 at wave number `k`, where the field is the sum of c_k exp(2 pi i k x)"
        length = (np.asarray(k, float)**2).sum(-1)
        return self.sigma**2 * (4*np.pi**2*length + self.tau**2)**-self.alpha

    def modes(self):
        "One of each pair k, -k of wave numbers of the mesh (m, dim), in an order that no mesh changes"
        # Rings of growing max|k|: a coarser mesh has the first of them. The mean and, on an even
        # mesh, the mode at its limit are left out: with the latter no mesh would refine another.
        half = (self.size-1)//2
        axis = np.arange(-half, half+1)
        k = np.stack(np.meshgrid(*[axis]*self.dim, indexing='ij'), -1).reshape(-1, self.dim)
        # of k and -k the one whose last component that is not 0 is positive
        first = np.zeros(len(k), int)
        for i in range(self.dim): first = np.where(k[:, i] != 0, np.sign(k[:, i]), first)
        k = k[first > 0]
        return k[np.lexsort((*k.T, abs(k).max(1)))]

    @property
    def variance(self):
        "Exact variance of the field at a point of this mesh"
        return float(2*self.mode_variance(self.modes()).sum())

    def __call__(self,
        n:int,      # How many fields
        seed:int=0  # Field i depends on `seed` and i alone, not on `n`
    ):              # float64 (n, *grid), mean 0
        "Draw `n` fields"
        n = need_whole('n', n, 1, what='fields')
        seed = need_whole('seed', seed, 0)
        grid = (self.size,)*self.dim
        k = self.modes()
        scale = np.sqrt(self.mode_variance(k)/2)*self.size**self.dim
        # the last axis holds k >= 0 only, where k and -k both lie at 0
        at,both = tuple(k.T),k[k[:, -1] == 0]
        opposite = tuple(-both.T)
        c = np.zeros((*grid[:-1], self.size//2+1), complex)
        out = np.empty((n, *grid))
        for i in range(n):
            z = np.random.default_rng([seed, i]).standard_normal((len(k), 2))
            c[at] = scale*(z[:, 0] + 1j*z[:, 1])
            c[opposite] = c[tuple(both.T)].conj()
            out[i] = fft.irfftn(c, s=grid)
        return out
