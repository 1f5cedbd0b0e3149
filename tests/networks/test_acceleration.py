# Copyright (C) 2026 anomalib-transfusion contributors
# SPDX-License-Identifier: Apache-2.0

"""Precision and compilation of the network."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from anomalib.engine import Engine

from anomalib_transfusion.models.transfusion.torch_model import TransFusionModel
from anomalib_transfusion.models.transfusion.unet import AttentionBlock, ResidualBlock
from anomalib_transfusion.networks import acceleration
from anomalib_transfusion.networks.acceleration import prefers_bfloat16
from anomalib_transfusion.networks.normalization import GroupNormSiLU, memory_format
from conftest import NETWORK
from parts import part

SMALL = {**NETWORK, "timesteps": 4, "base_channels": 16}
IMAGES = torch.rand(2, 3, 16, 24, generator=torch.Generator().manual_seed(0))


def build(**parameters):
    torch.manual_seed(0)
    return part(TransFusionModel, **{**SMALL, **parameters}).eval()


def dtypes_in(model):
    """Return the types that the network's convolutions compute in, recorded while the model predicts."""
    seen = set()
    for module in model.network.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_hook(lambda _module, _inputs, output: seen.add(output.dtype))
    result = model(IMAGES)
    return seen, result


def test_bfloat16_is_in_the_network_alone():
    seen, result = dtypes_in(build(precision="bfloat16"))
    assert seen == {torch.bfloat16}
    assert result.anomaly_map.dtype == result.pred_score.dtype == torch.float32
    wanted = build(precision="single")(IMAGES)
    # Eight bits of mantissa: close, and not the same.
    assert 0 < (result.anomaly_map - wanted.anomaly_map).abs().max() < 0.02


def test_copies_of_the_weights_are_not_kept_on_a_processor():
    """All of them in 16 bits take more memory than the rest of a pass of the full network."""
    model = build(precision="bfloat16")
    seen = []
    model.network.register_forward_hook(lambda *_arguments: seen.append(torch.is_autocast_cache_enabled()))
    model(IMAGES)
    assert seen == [False] * 3


def processor_has(*units):
    """Tell whether Linux lists one of the units among the processor's flags."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        pytest.skip("Linux alone lists the processor's units in /proc/cpuinfo")
    flags = next((line for line in path.read_text().splitlines() if line.startswith("flags")), "").split()
    return any(unit in flags for unit in units)


def test_single_and_auto():
    """On its own the network computes in bfloat16 where the processor has units for it, in training only with AMX."""
    assert dtypes_in(build(precision="single"))[0] == {torch.float32}
    fast = processor_has("amx_tile", "avx512_bf16")
    assert dtypes_in(build())[0] == {torch.bfloat16 if fast else torch.float32}
    assert prefers_bfloat16(torch.device("cpu")) == processor_has("amx_tile")
    with torch.no_grad():
        assert prefers_bfloat16(torch.device("cpu")) == fast


def test_training_in_bfloat16_has_losses_and_weights_in_single_precision():
    model = build(precision="bfloat16").train()
    prediction = model(IMAGES, torch.zeros(2, 1, 16, 24), torch.tensor([1, 3]))
    assert {head.dtype for head in prediction} == {torch.float32}
    sum(head.square().mean() for head in prediction).backward()
    assert {parameter.grad.dtype for parameter in model.parameters()} == {torch.float32}


def test_precision_of_the_trainer_is_kept(tiny, surface, tmp_path):
    """What the user gives the trainer is the whole answer, 32 bits included; otherwise the model's parameter counts."""

    def convolution(**trainer):
        model = tiny(precision="bfloat16")
        seen = []
        model.model.network.input_projection.register_forward_hook(lambda *arguments: seen.append(arguments[2].dtype))
        settings = {"accelerator": "cpu", "devices": 1, "logger": False, "enable_progress_bar": False}
        Engine(default_root_dir=tmp_path, **settings, **trainer).test(model, datamodule=surface)
        return set(seen)

    assert convolution() == {torch.bfloat16}
    assert convolution(precision="32-true") == {torch.float32}
    assert convolution(precision=32) == {torch.float32}


def formats_in(model, images=IMAGES):
    """Return the memory formats of all feature maps in the network, recorded while the model runs."""
    seen = set()

    def note(_module, _inputs, output):
        if output.ndim == 4 and output.shape[1] > 1:
            seen.add(memory_format(output))
            # A view of one image may look like it, and yet be taken for contiguous by the next convolution.
            assert output.stride() == torch.empty(output.shape, memory_format=memory_format(output)).stride()

    for module in model.network.modules():
        if isinstance(module, (ResidualBlock, AttentionBlock, torch.nn.Conv2d)):
            module.register_forward_hook(note)
    return seen, model(images)


@pytest.mark.parametrize("batch", [1, 2])
def test_memory_format_is_one_in_the_whole_network(batch):
    """Also behind attention, whose tokens are rows of channels, and for a single image."""
    images = IMAGES[:batch]
    seen, plain = formats_in(build(precision="single", channels_last=False), images)
    assert seen == {torch.contiguous_format}
    assert formats_in(build(precision="bfloat16", channels_last=True), images)[0] == {torch.channels_last}
    assert formats_in(build(precision="bfloat16", channels_last=False), images)[0] == {torch.contiguous_format}
    seen, other = formats_in(build(precision="single", channels_last=True), images)
    assert seen == {torch.channels_last}
    torch.testing.assert_close(other.anomaly_map, plain.anomaly_map, rtol=0, atol=1e-6)


@pytest.mark.parametrize("precision", ["single", "bfloat16"])
@pytest.mark.parametrize(
    ("batch", "side", "preferred"),
    [(1, 128, torch.contiguous_format), (2, 128, torch.channels_last), (1, 256, torch.channels_last)],
)
def test_default_memory_format_depends_on_the_pixels(precision, batch, side, preferred):
    """A single small image takes longer in channels-last memory, a batch or a large image shorter."""
    if precision == "bfloat16" and processor_has("amx_tile"):
        preferred = torch.channels_last
    assert formats_in(build(precision=precision), torch.rand(batch, 3, side, side))[0] == {preferred}


@pytest.mark.parametrize("precision", ["single", "bfloat16"])
def test_training_on_a_processor_is_in_contiguous_memory(precision):
    if precision == "bfloat16" and processor_has("amx_tile"):
        pytest.skip("AMX is faster in channels-last memory")
    model = build(precision=precision).train()
    seen = set()
    for block in model.network.modules():
        if isinstance(block, ResidualBlock):
            block.register_forward_hook(lambda *given: seen.add(memory_format(given[2])))
    model(IMAGES, torch.zeros(2, 1, 16, 24), torch.tensor([1, 3]))
    assert seen == {torch.contiguous_format}


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("shape", [(2, 64, 256, 200), (70, 64, 20, 16)], ids=["strips of an image", "several images"])
def test_normalization_in_channels_last_memory_is_exact(shape, overwrite):
    """Held against double precision; PyTorch's own is wrong by 4e-4 for the larger shape."""
    torch.manual_seed(0)
    norm = GroupNormSiLU(8, 64)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = (torch.randn(shape) + 3).contiguous(memory_format=torch.channels_last)
    exact = x.double().contiguous()
    groups = exact.view(shape[0], 8, -1)
    normal = (groups - groups.mean(2, keepdim=True)) / (groups.var(2, correction=0, keepdim=True) + 1e-5).sqrt()
    normal = normal.view_as(exact) * norm.weight[:, None, None].double() + norm.bias[:, None, None].double()
    before = x.clone()
    with torch.no_grad():
        found = norm(x, overwrite=overwrite)
    torch.testing.assert_close(found.double(), normal * normal.sigmoid(), rtol=0, atol=1e-5)
    assert found.stride() == x.stride()
    assert (found.data_ptr() == x.data_ptr()) == overwrite
    assert torch.equal(x, before) != overwrite


def test_what_a_shortcut_still_needs_is_not_overwritten():
    """The shortcut of a block that keeps its width is its input itself."""
    torch.manual_seed(0)
    block = ResidualBlock(16, 16, 32, 8)
    x, time = torch.randn(1, 16, 8, 8).contiguous(memory_format=torch.channels_last), torch.randn(1, 32)
    with torch.no_grad():
        wanted = block(x.contiguous(), time)
        torch.testing.assert_close(block(x, time, overwrite=True), wanted, rtol=0, atol=1e-5)


def test_training_takes_the_same_gradients_in_either_memory_format():
    gradients = []
    for channels_last in (True, False):
        model = build(precision="single", channels_last=channels_last).train()
        prediction = model(IMAGES, torch.zeros(2, 1, 16, 24), torch.tensor([1, 3]))
        sum(head.square().mean() for head in prediction).backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_compiled_network_predicts_the_same_and_keeps_its_names(tmp_path):
    """Where falling back would pass unseen, the warning that it warns with is an error.

    In a process of its own: the compiler imports setuptools, which refuses to where something has imported distutils.
    """
    code = f"""
import copy, torch, warnings
from anomalib_transfusion import TransFusion
warnings.filterwarnings("error", message="The network cannot be compiled")
images = torch.rand(2, 3, 16, 24)
model = TransFusion(**{SMALL!r}, precision="single", compile=True).model.eval()
plain = TransFusion(**{SMALL!r}, precision="single").model.eval()
model.load_state_dict(plain.state_dict())
assert model.network._compiled_call_impl is not None
wanted = plain(images).anomaly_map
torch.save(model, "model.pt")
for compiled in (model, copy.deepcopy(model), torch.load("model.pt", weights_only=False)):
    torch.testing.assert_close(compiled(images).anomaly_map, wanted, rtol=0, atol=1e-4)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_without_a_compiler_it_warns_and_goes_on(tmp_path):
    """In a process that finds no C++ compiler, and no results of earlier compilations."""
    smallest = {**SMALL, "channel_multipliers": (1,)}
    code = f"""
import torch, warnings
from anomalib_transfusion import TransFusion
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model = TransFusion(**{smallest!r}, compile=True).model.eval()
    score = model(torch.rand(1, 3, 16, 16)).pred_score
said = [str(warning.message) for warning in caught if "cannot be compiled here" in str(warning.message)]
assert len(said) == 1 and "runs as it is" in said[0], caught
assert torch.isfinite(score).all()
"""
    environment = {"PATH": str(tmp_path), "CXX": "no-such-compiler", "TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]


def test_parts_of_a_batch():
    """On a CPU, where the batch is larger than a part; elsewhere and in an export it stays whole."""
    batch = torch.arange(7.0)
    numbers = [acceleration.items_at_a_time(batch, most) for most in (0, 3, 6, 7, 8)]
    assert numbers == [1, 3, 6, 0, 0]
    assert acceleration.items_at_a_time(batch.to("meta"), 3) == 0
    images = torch.zeros(5, 3, 256, 256)
    assert [acceleration.images_at_a_time(part) for part in (images, images[:1], images[..., ::2, ::2])] == [1, 0, 4]
    parts = [[tensor.tolist() for tensor in part] for part in acceleration.in_parts(3, batch, 10 * batch)]
    assert parts == [[[0, 1, 2], [0, 10, 20]], [[3, 4, 5], [30, 40, 50]], [[6], [60]]]
    ((whole,),) = acceleration.in_parts(0, batch)
    assert whole is batch

    class Counting(torch.nn.Module):
        def forward(self, x):
            return x + acceleration.items_at_a_time(x, 3)

    assert torch.equal(torch.export.export(Counting(), (batch,)).module()(batch), batch)
    assert torch.equal(Counting()(batch), batch + 3)
