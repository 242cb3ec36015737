"The paper's recursion, in the lines of a lesson: what the sums of `RidgeStats` are held to, and slower"
import torch

__all__ = ['woodbury_step']

def woodbury_step(
    R,  # (G + gamma I)^-1 of the rows before, float64 (d,d); I/gamma at the start
    W,  # Weights of the rows before, float64 (d,c); (d,0) at the start
    Z,  # Features of a block, float64 (n,d)
    Y   # Its one-hot labels, float64 (n,c), or wider where classes are new
)->tuple: # (R, W) of all rows
    "One block of ACIL's recursion (https://arxiv.org/abs/2205.14922); `RidgeStats` must agree with it"
    R,W,Z,Y = (torch.as_tensor(o, dtype=torch.float64) for o in (R, W, Z, Y))
    W = torch.cat([W, W.new_zeros(len(W), Y.shape[1]-W.shape[1])], 1)
    ZR = Z @ R
    K = torch.linalg.inv(torch.eye(len(Z), dtype=R.dtype) + ZR@Z.T)
    R = R - ZR.T@K@ZR
    W = W + R@Z.T@(Y - Z@W)
    return R,W
