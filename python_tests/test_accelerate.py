"""`accelerate` on modules that share only names and shapes with the published ones."""

from __future__ import annotations

import copy
import csv
import io
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from cpu_engine import DTYPES, needs
from diffusers import DDPMScheduler
from golden_data import golden, inp, relative_error
from golden_networks import TIMESTEPS, load
from published_style import MyNoisePredictor
from torch import nn

from ecgtwin_fast import accelerate, models, restore, scheduler
from ecgtwin_fast.drop_in.forwards import Forward
from ecgtwin_fast.drop_in.recognition import UnknownModuleError
from ecgtwin_fast.errors import BackendError

SMALL = {
    "ibe": {"hidden": 64, "layers": 2, "heads": 4, "feed_forward": 128, "text_width": 48},
    "enc": {"widths": (32, 64)},
    "dec": {"widths": (32, 64, 64)},
    "unet": {"widths": (8, 16, 32), "heads": 4, "bottleneck_heads": 2, "text_width": 16},
    "dit_adaln": {"hidden": 32, "depth": 1, "heads": 4, "text_width": 16, "base_width": 8},
    "dit_attn": {"hidden": 32, "depth": 1, "heads": 4, "text_width": 16, "base_width": 8},
    "unet_adax": {"widths": (8, 16), "heads": 4, "text_width": 16, "base_width": 8},
}


@pytest.fixture(autouse=True)
def seed():
    """With some weights a ReLU's argument rounds to either side of 0, and gradients jump."""
    torch.manual_seed(0)


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def own(name: str) -> nn.Module:
    """A user's subclass with every parameter drawn."""
    kind = type(models.create(name, **SMALL[name]))
    module = type(f"My{name}", (kind,), {})(**SMALL[name])
    return drawn(module)


def drawn(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for index, weight in enumerate(module.parameters()):
            weight += 0.05 * draw(*weight.shape, seed=index)
    return module.eval()


def conditions(batch: int, tokens: int = 3) -> tuple:
    mask = (torch.arange(tokens) < torch.arange(batch)[:, None] % tokens + 1).float()
    return draw(batch, tokens, 48), mask, draw(batch, 3), draw(batch, 32)


def arguments(name: str, batch: int = 3) -> tuple:
    x, t, text = draw(batch, 4, 128), torch.tensor([1, 500, 998])[:batch], draw(batch, 2, 16)
    if name == "ibe":
        return (x.transpose(1, 2), *conditions(batch)[:3])
    if name == "enc":
        return draw(batch, 64, 12), draw(batch, 4, 32)
    if name == "dec":
        return (x,)
    if name == "unet":
        patient = {key: draw(batch, 1, 1, seed=len(key)) for key in ("gender", "age", "heart rate")}
        return x, t, draw(batch, 1, 16), patient
    return x, t, text, None, draw(batch, 3), draw(batch, 8)


def function(module: nn.Module, name: str):
    return module.extract_features if name == "ibe" else module


@pytest.mark.parametrize("name", SMALL)
def test_every_network_by_names_and_shapes(name):
    module = own(name)
    keys, weights = list(module.state_dict()), list(module.parameters())
    with torch.no_grad():
        expected = function(module, name)(*arguments(name))
        assert accelerate(module) is module
        made = function(module, name)(*arguments(name))
    assert list(module.state_dict()) == keys
    assert all(a is b for a, b in zip(module.parameters(), weights, strict=True))
    pairs = zip(made, expected, strict=True) if isinstance(expected, tuple) else [(made, expected)]
    for a, b in pairs:
        assert a.dtype == b.dtype and relative_error(a, b) <= 5e-6
    patched = [value for value in vars(module).values() if isinstance(value, Forward)]
    assert len(patched) == 1
    assert restore(module) is module and not [v for v in vars(module).values() if isinstance(v, Forward)]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_denoiser_that_shares_nothing_but_names(dtype):
    needs(dtype)
    module = drawn(MyNoisePredictor())
    x, given = draw(5, 4, 128), conditions(5)
    exact, runs = copy.deepcopy(module).double(), []
    for t in (torch.full((5,), 700), torch.tensor([3, 900, 3, 3, 41])):
        with torch.no_grad():
            expected = exact(x.double(), t, *(value.double() for value in given))
            with torch.autocast("cpu", torch.bfloat16):
                half = module(x, t, *given)
        runs.append((t, expected, half))
    accelerate(module, backend="cpu", dtype=dtype)
    for t, expected, half in runs:
        with torch.no_grad():
            made = module(xt=x, step=t, text=given[0], text_mask=given[1], pat_info=given[2], base_vector=given[3])
        limit = 5e-6 if dtype == torch.float32 else 2 * relative_error(half, expected)
        assert made.dtype == torch.float32 and relative_error(made, expected) <= limit


def test_autocast_gives_its_own_type():
    needs(torch.bfloat16)
    for name in ("ibe", "dec", "unet"):
        module = own(name)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            expected = function(module, name)(*arguments(name))
            made = function(accelerate(module), name)(*arguments(name))
        assert made.dtype == expected.dtype == torch.bfloat16 and relative_error(made, expected) < 0.05


def test_conditions_and_weights_may_change_between_calls():
    module = drawn(MyNoisePredictor())
    plain = copy.deepcopy(module)
    accelerate(module)
    x, t, given = draw(2, 4, 128), torch.tensor([5, 5]), list(conditions(2))

    def agree() -> bool:
        with torch.no_grad():
            return relative_error(module(x, t, *given), plain(x, t, *given)) <= 5e-6

    assert agree()
    given[0].data.mul_(-1)  # which no version counter sees
    assert agree()
    given[1] = None
    assert agree()
    with torch.no_grad():
        for network in (module, plain):
            network.blocks[0].mlp[0].weight.mul_(2)
    assert agree()
    for network in (module, plain):
        network.final_layer.weight = nn.Parameter(draw(4, 64))
    assert agree()
    replaced = drawn(MyNoisePredictor()).state_dict()
    for network in (module, plain):
        network.load_state_dict({name: value + 0.01 for name, value in replaced.items()}, assign=True)
    assert agree()
    assert type(accelerate(copy.deepcopy(module))) is MyNoisePredictor


def test_copies_and_pickles_have_weights_of_their_own():
    module = accelerate(own("unet"))
    given = arguments("unet")
    with torch.no_grad():
        expected = module(*given)
        file = io.BytesIO()
        twin = copy.deepcopy(module)
        for weight in twin.parameters():
            weight.mul_(0.5)
        assert relative_error(module(*given), expected) == 0
        assert relative_error(twin(*given), restore(copy.deepcopy(twin))(*given)) <= 5e-6
        assert relative_error(twin(*given), expected) > 0.01
        torch.save(accelerate(drawn(MyNoisePredictor())), file)
    file.seek(0)
    assert isinstance(torch.load(file, weights_only=False).forward, Forward)


@pytest.mark.parametrize("name", ["dit", "ibe", "unet", "dec"])
def test_training_has_the_gradients_of_the_module_itself(name):
    module = drawn(MyNoisePredictor()) if name == "dit" else own(name)
    given = (draw(3, 4, 128), torch.tensor([1, 500, 998]), *conditions(3)) if name == "dit" else arguments(name)

    def gradients() -> torch.Tensor:
        module.zero_grad()
        out = function(module, name)(*given)
        (out * draw(*out.shape, seed=9)).sum().backward()
        return torch.cat([w.grad.flatten() for w in module.parameters() if w.grad is not None])

    expected = gradients()
    accelerate(module)
    assert relative_error(gradients(), expected) <= 2e-5
    if name == "dit":
        optimiser = torch.optim.SGD(module.parameters(), 1e-3)
        optimiser.step()
        with torch.no_grad():
            made, plain = module(*given), restore(module)(*given)
        assert relative_error(made, plain) <= 5e-6


def test_a_tree_is_patched_in_place_and_restored():
    tree = nn.ModuleDict({"vae": nn.ModuleDict({"decoder": own("dec")}), "other": nn.Linear(3, 3)})
    tree["models"] = nn.ModuleList([own("unet"), drawn(MyNoisePredictor())])
    assert accelerate(tree) is tree
    assert accelerate(tree) is tree  # again
    patched = [module for module in tree.modules() if isinstance(vars(module).get("forward"), Forward)]
    assert patched == [tree["vae"]["decoder"], *tree["models"]]
    assert len(list(tree.modules())) == len(list(copy.deepcopy(restore(tree)).modules()))
    assert not [module for module in tree.modules() if "forward" in vars(module)]


def test_an_instance_with_a_forward_of_its_own_gets_it_back():
    module = own("dec")
    inner = type(module).forward
    module.forward = lambda z: inner(module, z)
    mine = module.forward
    assert restore(accelerate(module)).forward is mine


def test_hooks_inside_run_the_module_itself():
    module, seen = drawn(MyNoisePredictor()), []
    module.blocks[1].register_forward_hook(lambda *_: seen.append(1))
    given = (draw(1, 4, 128), torch.tensor([7]), *conditions(1))
    with pytest.raises(BackendError, match="the denoiser with AdaX: .*forward hooks, which would not be called"):
        accelerate(module, backend="cpu")
    with pytest.warns(RuntimeWarning, match="using backend 'reference' for the denoiser with AdaX"), torch.no_grad():
        accelerate(module)
        seen.clear()
        module(*given)
    assert seen == [1]


def wrong_shape() -> nn.Module:
    module = MyNoisePredictor()
    module.blocks[1].mlp[2] = nn.Linear(256, 65)
    return module


def missing() -> nn.Module:
    module = MyNoisePredictor()
    del module.ib_projector
    return module


def extra() -> nn.Module:
    module = MyNoisePredictor()
    module.blocks[0].scale = nn.Parameter(torch.ones(3))
    return nn.Sequential(module)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (wrong_shape, r"'dit' .*: blocks.1.mlp.2.weight must have shape \(64, 256\), but it has \(65, 256\)"),
        (missing, r"'dit' .*: ib_projector.weight of shape .* is missing"),
        (extra, r"in this Sequential; nearest is 'dit' .*: blocks.0.scale is none of its parameters"),
        (lambda: nn.Linear(2, 2), "no published network is recognised in this Linear"),
        (lambda: "dit", "expected a torch.nn.Module, but got a str"),
        (lambda: MyNoisePredictor(num_heads=2).requires_grad_(False), None),
    ],
)
def test_unknown_modules(make, message):
    if message is None:
        accelerate(make())
        return
    with pytest.raises(UnknownModuleError, match=message):
        accelerate(make())


def test_what_computes_something_else_is_refused_and_left_alone():
    module = own("dec")
    other = type("Other", (type(module),), {"forward": lambda self, z: 2 * models.create("dec").forward(z)})
    module.__class__ = other
    tree = nn.ModuleList([own("unet"), module])
    with pytest.raises(UnknownModuleError, match="names and shapes of 'dec' .*computes something else: relative error"):
        accelerate(tree)
    assert "forward" not in vars(tree[0])
    module = drawn(MyNoisePredictor())
    for block in module.blocks:
        block.attn1.num_heads = block.attn2.num_heads = 2
        block.attn1.head_dim = 32
    assert accelerate(module)
    with pytest.raises(UnknownModuleError, match="pass heads="):
        accelerate(module, heads=8)
    assert isinstance(module.forward, Forward)


@pytest.mark.parametrize("name", ["enc", "dit_attn"])
def test_backends_by_name(name):
    with pytest.raises(BackendError, match=f"no engine runs models.create\\('{name}'\\) yet"):
        accelerate(own(name), backend="cpu")
    with pytest.raises(BackendError, match="unknown backend 'fast'; known: auto, cpu, reference"):
        accelerate(own(name), backend="fast")
    module = own("unet")
    with torch.no_grad():
        expected = module(*arguments("unet"))
        assert torch.equal(accelerate(module, backend="reference")(*arguments("unet")), expected)


def test_golden_unet_accelerated():
    needs(torch.float32)
    patient = {"gender": [0, 1, 1], "age": [34, 61, 77], "heart rate": [58, 80, 121]}
    condition = {key: torch.tensor(values).view(3, 1, 1) for key, values in patient.items()}
    module = accelerate(load("unet"), backend="cpu")
    given = inp("x", (3, 4, 128)), TIMESTEPS, inp("ada", (3, 1, 1536), normalised=True), condition
    assert relative_error(module(*given), golden("unet")) <= 1e-6


def published_generation(diffused_model, noise_predictor, batch_size, text, mask, pat_info, base_vector):
    """The loop of the published scripts."""
    xi = torch.randn(batch_size, 4, 128)
    for i in diffused_model.timesteps:
        t = i * torch.ones(batch_size, dtype=torch.long)
        with torch.no_grad():
            noise = noise_predictor(xi, t, text, mask, pat_info, base_vector)
        xi = diffused_model.step(model_output=noise, timestep=i, sample=xi)["prev_sample"]
    return xi


def test_a_script_in_the_published_style_with_and_without():
    needs(torch.float32)
    module, given = drawn(MyNoisePredictor()), conditions(3)
    settings = {"num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.0120}
    theirs, ours = DDPMScheduler(**settings), scheduler.DDPMScheduler(**settings)
    for one in (theirs, ours):
        one.set_timesteps(25)
    torch.manual_seed(3)
    expected = published_generation(theirs, module, 3, *given)
    drawn_after = torch.randn(2)
    accelerate(module)
    for diffused_model in (theirs, ours):
        torch.manual_seed(3)
        assert relative_error(published_generation(diffused_model, module, 3, *given), expected) <= 1e-5
        torch.manual_seed(3)
        text, mask, patient, base = given
        made = scheduler.fast_ddpm_generation(
            diffused_model=diffused_model, noise_predictor=module, batch_size=3, device="cpu", text_embed=text,
            text_embed_mask=mask, pat_info=patient, base_vector=base, progress_bar=False, backend="cpu",
        )  # fmt: skip
        assert relative_error(made, expected) <= 1e-5
        assert torch.equal(torch.randn(2), drawn_after)


def test_the_benchmark_verifies_and_writes_every_contestant(tmp_path):
    needs(torch.bfloat16)
    program, file = Path(__file__).parent.parent / "benchmarks" / "drop_in.py", tmp_path / "out.csv"
    options = ("--what", "ibe", "--batch", "1", "--rounds", "1", "--csv", str(file))
    done = subprocess.run([sys.executable, str(program), *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with file.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    kinds = [f"{kind} {dtype}" for kind in ("original", "accelerated") for dtype in ("float32", "bfloat16")]
    assert [row["contestant"] for row in rows] == kinds and float(rows[0]["ratio"]) == 1
    assert all(float(row["p20_ms"]) > 0 and float(row["ratio"]) > 0 for row in rows)
