"Vision transformers by name, with weights out of files as their authors left them"
import argparse
from functools import partial
from unittest.mock import Mock
import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from fastai.learner import Learner
from fastrobust.basics import RobustWarning
from fastrobust.data.fromarrays import array_dls
from fastrobust.systems.tinymim.mimdata import mim_dls
from fastrobust.systems.tinymim.teachers import need_stats, set_drop_path, vit_arch, vit_of
from fastrobust.systems.tinymim.tinyvit import tiny_vit

NAME = 'test_vit'       # timm's smallest: 160 pixels, patches of 16, 64 wide

def small_tv(size=32, classes=5):
    return torchvision.models.VisionTransformer(size, 8, 3, 2, 32, 64, num_classes=classes)

@pytest.fixture(scope='module')
def timm(): return pytest.importorskip('timm')

@pytest.fixture(scope='module')
def source(timm):
    "A network of timm with a head for seven classes"
    torch.manual_seed(3)
    return timm.create_model(NAME, num_classes=7)

def same(net, state): return all(torch.equal(v, state[k]) for k,v in net.state_dict().items())

# --- files ---------------------------------------------------------------------------------------------------------
def mae_file(source, path):
    "As the repository of MAE writes it: encoder and decoder under 'model', settings beside"
    d = {'decoder_embed.weight': torch.zeros(3, 64), 'decoder_pos_embed': torch.zeros(1, 101, 3),
         'mask_token': torch.zeros(1, 1, 3), 'decoder_blocks.0.norm1.weight': torch.zeros(3)}
    encoder = {k: v for k,v in source.state_dict().items() if not k.startswith('head')}
    torch.save({'model': {**encoder, **d}, 'args': argparse.Namespace(lr=1.), 'epoch': 3}, path)
    return path

@pytest.mark.filterwarnings('error::fastrobust.basics.RobustWarning')
def test_maes_files(source, tmp_path, capsys):
    net = vit_of(NAME, weights=mae_file(source, tmp_path/'mae.pth'))
    assert same(net, source.state_dict()) and isinstance(net.head, nn.Identity)
    assert capsys.readouterr().out == 'mae.pth: left out 4 tensors of its decoder\n'
    arch = vit_arch(NAME, weights=str(tmp_path/'mae.pth'))
    assert arch.stats[0] == pytest.approx([.485, .456, .406])

@pytest.mark.parametrize('layout', ['plain', 'model', 'state_dict', 'module', 'safetensors', 'learner'])
def test_other_layouts(source, tmp_path, layout, capsys):
    state,path = source.state_dict(),tmp_path/'w.pt'
    if layout == 'safetensors':
        path = tmp_path/'w.safetensors'
        pytest.importorskip('safetensors.torch').save_file(state, path)
    elif layout == 'learner':
        dls = mim_dls(np.zeros((4, 8, 8), np.uint8), bs=2, device='cpu')
        learn = Learner(dls, source, loss_func=nn.MSELoss(), path=tmp_path, model_dir='.')
        learn.create_opt()
        path = learn.save('w')
    elif layout == 'module': torch.save({'state_dict': {'module.'+k: v for k,v in state.items()}}, path)
    else: torch.save(state if layout == 'plain' else {layout: state, 'best': .5}, path)
    net = vit_of(NAME, weights=path)
    assert same(net, state)
    out = capsys.readouterr().out
    assert 'left out the head' in out and 'head.weight' in out and 'head.bias' in out

def test_places_are_resampled_as_timm_does_it(timm, source, tmp_path):
    from timm.layers import resample_abs_pos_embed
    path = mae_file(source, tmp_path/'mae.pth')
    want = resample_abs_pos_embed(source.pos_embed, [4, 4], num_prefix_tokens=1)
    for size in (64, (64, 64)):
        net = vit_of(NAME, size, weights=path)
        assert torch.equal(net.pos_embed, want) and net(torch.zeros(1, 3, 64, 64)).shape == (1, 64)
    assert vit_of(NAME, (32, 64), weights=path)(torch.zeros(1, 3, 32, 64)).shape == (1, 64)
    # a network of yours for 64 pixels takes the same file
    mine = timm.create_model(NAME, num_classes=0, img_size=64)
    assert vit_of(mine, weights=path) is mine and torch.equal(mine.pos_embed, want)

def test_other_channels(source, tmp_path):
    from timm.models import adapt_input_conv
    path = mae_file(source, tmp_path/'mae.pth')
    net = vit_of(NAME, channels=1, weights=path)
    want = adapt_input_conv(1, source.patch_embed.proj.weight.detach())
    assert torch.allclose(net.patch_embed.proj.weight, want, atol=1e-7)
    assert torch.equal(net.patch_embed.proj.bias, source.patch_embed.proj.bias)

def test_the_real_path_of_pretrained_weights(timm, source, tmp_path, monkeypatch):
    "What a user types, and below it what timm fetches: here from a file that the test wrote"
    path = tmp_path/'hub.pth'
    torch.save({k: v for k,v in source.state_dict().items() if not k.startswith('head')}, path)
    overlay = dict(file=str(path), num_classes=0)
    given = timm.create_model(NAME, pretrained=True, num_classes=0, pretrained_cfg_overlay=overlay)
    assert same(vit_of(given), source.state_dict())
    monkeypatch.setattr(timm, 'create_model', partial(timm.create_model, pretrained_cfg_overlay=overlay))
    assert same(vit_of(NAME), source.state_dict())
    assert same(vit_of(NAME, pretrained=True), source.state_dict())
    assert not same(vit_of(NAME, pretrained=False), source.state_dict())
    from timm.layers import resample_abs_pos_embed
    want = resample_abs_pos_embed(source.pos_embed, [2, 2], num_prefix_tokens=1)
    assert torch.equal(vit_of(NAME, 32).pos_embed, want)

def test_without_a_connection(timm, monkeypatch):
    class LocalEntryNotFoundError(Exception): __module__ = 'huggingface_hub.errors'
    for err in (LocalEntryNotFoundError('no'), ConnectionError('no')):
        monkeypatch.setattr(timm, 'create_model', Mock(side_effect=err))
        with pytest.raises(ValueError, match="Without a connection fetch the file elsewhere.*teacher_weights"):
            vit_of('vit_base_patch16_224.mae')
    from urllib.error import URLError
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', Mock(side_effect=URLError('no')))
    with pytest.raises(ValueError, match="weights of 'vit_b_16', got URLError"): vit_of('vit_b_16', pretrained=True)
    with pytest.raises(ValueError, match="weights of 'resnet18', got URLError"): vit_of(torchvision.models.resnet18)
    # a user's function that reads its own file says so itself
    with pytest.raises(FileNotFoundError): vit_of(lambda: open('none.pth'))

def refused(says, *args, err=ValueError, **kwargs):
    with pytest.raises(err, match=says): vit_of(*args, **kwargs)

def test_files_that_do_not_fit(source, tmp_path):
    state = source.state_dict()
    lost = {k: v for k,v in state.items() if k not in ('blocks.1.attn.qkv.weight', 'norm.bias')}
    torch.save(lost, tmp_path/'lost.pt')
    refused('that fit blocks.1.attn.qkv.weight, norm.bias. The file has', NAME, weights=tmp_path/'lost.pt')
    torch.save({**state, 'extra.weight': torch.zeros(3)}, tmp_path/'more.pt')
    with pytest.warns(RobustWarning, match='left out: extra.weight'): vit_of(NAME, weights=tmp_path/'more.pt')
    torch.save(tiny_vit().state_dict(), tmp_path/'other.pt')
    refused('and [0-9]+ more. The file has', NAME, weights=tmp_path/'other.pt')
    torch.save([1], tmp_path/'list.pt')
    refused('expected a state_dict', NAME, weights=tmp_path/'list.pt')
    torch.save({'model': state, 'what': nn.Linear(1, 1)}, tmp_path/'objects.pt')
    refused('expected tensors in', NAME, weights=tmp_path/'objects.pt')
    refused('which is none', NAME, weights='nowhere.pth')

@pytest.mark.usefixtures('timm')
def test_names_that_are_not_there():
    refused("Did you mean 'vit_base_patch16_224.mae'", 'vit_base_patch16_224.maee')
    refused("Did you mean", 'vit_tinny_patch16_224')
    refused("path of a file", NAME, weights='IMAGENET1K_V1')
    refused("path of a file", tiny_vit(), weights='IMAGENET1K_V1')
    refused("expected a vision transformer", 3, err=TypeError)
    refused("100x100. For example mim_dls\\(.., size=96\\)", NAME, 100, pretrained=False)
    refused("patches of 4x4", tiny_vit(), 30)

# --- torchvision ---------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_torchvision_by_name_with_its_weights(monkeypatch):
    from torchvision.models.vision_transformer import interpolate_embeddings
    torch.manual_seed(1)
    state = torchvision.models.vit_b_32(weights=None).state_dict()
    monkeypatch.setattr('torchvision.models._api.load_state_dict_from_url', lambda *args, **kwargs: dict(state))
    arch = vit_arch('vit_b_32', 64)
    net = arch.net
    want = interpolate_embeddings(64, 32, dict(state))['encoder.pos_embedding']
    assert torch.equal(net.encoder.pos_embedding, want) and isinstance(net.heads, nn.Identity)
    assert torch.equal(net.conv_proj.weight, state['conv_proj.weight'])
    assert net(torch.zeros(1, 3, 64, 64)).shape == (1, 768) and arch.stats[0] == pytest.approx([.485, .456, .406])

def test_torchvision_files_and_sizes(tmp_path, capsys):
    from torchvision.models.vision_transformer import interpolate_embeddings
    torch.manual_seed(1)
    state = small_tv().state_dict()
    torch.save(state, tmp_path/'tv.pt')
    big = small_tv(64, 3)
    assert vit_of(big, weights=tmp_path/'tv.pt') is big
    assert torch.equal(big.encoder.pos_embedding, interpolate_embeddings(64, 8, dict(state))['encoder.pos_embedding'])
    assert big.heads.head.out_features == 3 and 'the head (heads.head.weight' in capsys.readouterr().out

@pytest.mark.usefixtures('timm')
def test_places_that_timm_does_not_resample():
    with pytest.raises(ValueError, match='images of 224x224 pixels, for which cait_xxs24_224 is made.*got 64x64'):
        vit_of('cait_xxs24_224', 64, pretrained=False)

# --- what is given -------------------------------------------------------------------------------------------------
def test_networks_and_learners_as_they_are():
    net = tiny_vit(8, 2, 16, 2, 2, 1)
    assert vit_of(net) is net
    dls = array_dls(np.random.default_rng(0).integers(0, 256, (20, 8, 8), dtype=np.uint8), np.arange(20) % 2, bs=4)
    arch = vit_arch(Learner(dls, net, loss_func=nn.MSELoss()))
    assert arch.net is net and arch.stats[0][0] == pytest.approx(.5, abs=.05)
    made = vit_of(lambda pretrained: nn.Sequential(tiny_vit(), nn.Linear(64, int(pretrained)+1)))
    assert made[1].out_features == 2

def test_statistics_are_compared():
    dls = mim_dls(np.zeros((10, 8, 8, 3), np.uint8), bs=2, device='cpu')
    from fastrobust.inference.archs import Arch
    arch = Arch(tiny_vit(), 'vit_x', ([.5]*3, [.5]*3))
    with pytest.warns(RobustWarning, match=r"mim_dls\(.., stats=\(\[0.5, 0.5, 0.5\], \[0.5, 0.5, 0.5\]\)\)"):
        need_stats(arch, dls)
    with pytest.warns(RobustWarning, match="these are not normalised"):
        need_stats(arch, mim_dls(np.zeros((10, 8, 8, 3), np.uint8), bs=2, device='cpu', stats=None))
    import warnings
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        need_stats(arch._replace(stats=([.485, .456, .406], [.229, .224, .225])), dls)
        need_stats(arch._replace(stats=None), dls)

def test_one_drop_path_in_all_blocks_but_the_last(timm):
    net = timm.create_model(NAME, num_classes=0, drop_path_rate=.3)
    set_drop_path(net, .1)
    rates = [getattr(b.drop_path1, 'p', 0) for b in net.blocks]
    assert rates == [.1]*(len(net.blocks)-1)+[0] and all(getattr(b.drop_path2, 'p', 0) == r
                                                         for b,r in zip(net.blocks, rates))
