"What a masked autoencoder was shown, what it paints, and what was there"
import torch
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from fastrobust.basics import need_learner, need_whole
from fastrobust.pixels import peek_images, pixel_space
from fastrobust.reporting.style import SKY, bare, new_figure
from fastrobust.resting import at_rest
from fastrobust.systems.tinymim.inside import wrappers
from fastrobust.systems.tinymim.mae import MAENet, image_of, normed, patches_of

__all__ = ['show_masked']

def painted(
    net,    # `MAENet`
    x       # Images (b,c,h,w) as it sees them
):          # (their masked patches NaN; the same painted), of the shape of `x`
    "Images without what was masked, and with what the decoder paints there: in the true scale of each patch"
    with at_rest(net): _,pred,keep = net.paint(x)
    true = patches_of(x, net.patch)
    pred = pred.to(true.dtype)
    if net.norm_pix:
        _,mean,scale = normed(true)
        pred = pred*scale + mean
    at = keep[..., None].expand(-1, -1, true.shape[-1])
    shown = true.gather(1, at)
    grid = tuple(a//b for a,b in zip(x.shape[2:], net.patch))
    fill = lambda patches: image_of(patches.scatter(1, at, shown), grid, net.patch)
    return fill(true.new_full(true.shape, float('nan'))),fill(pred)

def _picture(image):
    "An image (c,h,w) as matplotlib draws it, NaN in a colour"
    px = image.clamp(0, 1).cpu()
    if len(px) < 3: px = px[:1].expand(3, -1, -1)
    px = px[:3].permute(1, 2, 0)
    return torch.where(px.isnan(), torch.tensor(to_rgb(SKY)), px)

def show_masked(
    learn,  # A Learner with MAEPretrain, or the wrapper's network still in it
    n=4     # Images, the first of validation
)->Figure:
    """Rows of images: as they are, as they were shown, and painted (https://arxiv.org/abs/2111.06377). With `norm_pix`
    the paint has the mean and scale of the true patch, which the network does not predict"""
    need_learner(learn)
    found = wrappers(learn.model, MAENet)
    if not found:
        raise ValueError("expected a learner with MAEPretrain, got one without: nothing in it paints. Show it before "
                         "learn.remove_cb(MAEPretrain).")
    net = found[0]
    p = next(net.parameters())
    x = peek_images(learn.dls)[:need_whole('n', n, 1)].to(p.device, p.dtype)
    rows = dict(image=x, shown=None, painted=None)
    rows['shown'],rows['painted'] = painted(net, x)
    space = pixel_space(learn.dls)
    fig = new_figure((1.3*len(x)+.4, 4.1))
    axes = fig.subplots(3, len(x), squeeze=False)
    for (name,images),row in zip(rows.items(), axes):
        row[0].set_ylabel(name)
        for ax,image in zip(row, space.decode(images.float())): bare(ax).imshow(_picture(image))
    return fig
