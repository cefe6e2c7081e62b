"""The operators that the engine registers with torch, and transformers with the experts of the engine."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

import tiny

sys.path.insert(0, str(tiny.REPOSITORY / "python"))

LIBRARY = Path(os.environ.get("UPMOE_ENGINE_LIBRARY", tiny.REPOSITORY / "build" / "libupmoe_engine.so"))
NEW = not transformers.__version__.startswith("4.")

pytestmark = pytest.mark.skipif(not (LIBRARY.exists() and NEW), reason="needs the engine's library and transformers 5")


@pytest.fixture(scope="module", autouse=True)
def ops():
    import upmoe.ops as module

    module.load(LIBRARY)
    module.load(LIBRARY)  # twice is no error
    module.register()
    return torch.ops.upmoe


H, F, E, N = 8, 12, 3, 5
TOKEN = torch.tensor([0, 0, 1, 3, 3, 3, 4])
EXPERT = torch.tensor([2, 0, 0, 0, 2, 2, 0])  # none for expert 1, none of token 2


def draw(*shape, dtype=torch.float64):
    return torch.randn(shape, dtype=dtype).mul_(0.7).requires_grad_()


def without_gradients(argument):
    if isinstance(argument, (list, tuple)):
        return type(argument)(without_gradients(one) for one in argument)
    return argument.detach() if isinstance(argument, torch.Tensor) else argument


def matrices(dtype=torch.float64):
    return [[draw(*shape, dtype=dtype) for _ in range(E)] for shape in ((F, H), (F, H), (H, F))]


def arguments(name, dtype=torch.float64):
    weight = torch.rand(len(TOKEN), dtype=torch.float64 if dtype == torch.float64 else torch.float32).requires_grad_()
    cos, sin = torch.rand(1, N, H // 2), torch.rand(1, N, H // 2)
    routed = (draw(N, H, dtype=dtype), TOKEN, EXPERT, weight)
    return {
        "rms_norm": lambda: (draw(2, N, H, dtype=dtype), draw(H, dtype=dtype), 1e-5),
        "swiglu": lambda: (draw(N, F, dtype=dtype), draw(N, F, dtype=dtype)),
        "rotate": lambda: (draw(2, N, 3, H, dtype=dtype), cos, sin),
        "experts": lambda: (*routed, *matrices(dtype)),
        "experts_stacked": lambda: (*routed, draw(E, 2 * F, H, dtype=dtype), draw(E, H, F, dtype=dtype)),
        "token_nll": lambda: (draw(N, H, dtype=dtype), draw(11, H, dtype=dtype), torch.tensor([3, 10, -1, 0, 3])),
        "linear": lambda: (draw(N, H, dtype=dtype), draw(F, H, dtype=dtype), draw(F, dtype=dtype)),
        "attention": lambda: (draw(2, N, 4, H, dtype=dtype), draw(2, N, 2, H, dtype=dtype), draw(2, N, 2, H, dtype=dtype)),
    }[name]()


NAMES = ["rms_norm", "swiglu", "rotate", "experts", "experts_stacked", "token_nll", "linear", "attention"]


@pytest.mark.parametrize("name", NAMES)
def test_gradients_are_those_of_finite_differences(ops, name):
    given = arguments(name)
    flat = [part for argument in given for part in (argument if isinstance(argument, list) else [argument])]

    def function(*leaves):
        left = list(leaves)
        return getattr(ops, name)(*([left.pop(0) for _ in argument] if isinstance(argument, list) else left.pop(0) for argument in given))

    assert torch.autograd.gradcheck(function, flat)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_operators_are_what_torch_expects_of_one(ops, name, dtype):
    tests = ["test_schema", "test_autograd_registration", "test_faketensor"]
    torch.library.opcheck(getattr(ops, name).default, arguments(name, dtype), test_utils=tests)


@pytest.mark.parametrize("name", NAMES)
def test_operators_can_be_traced_with_their_gradients(ops, name):
    torch.library.opcheck(getattr(ops, name).default, arguments(name, torch.float32), test_utils="test_aot_dispatch_static")


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", NAMES)
def test_operators_of_which_no_gradient_is_asked_are_what_torch_expects_of_one(ops, name, dtype):
    tests = ["test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_static"]
    given = without_gradients(arguments(name, dtype))
    torch.library.opcheck(getattr(ops, name).default, given, test_utils=tests)


class Calling(torch.nn.Module):
    def __init__(self, operator):
        super().__init__()
        self.operator = operator

    def forward(self, *given):
        return self.operator(*given)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("how", ["compile", "export"])
@pytest.mark.parametrize("name", NAMES)
def test_operators_are_compiled_and_exported_without_gradients(ops, name, how, dtype):
    module, given = Calling(getattr(ops, name)), without_gradients(arguments(name, dtype))
    expected = module(*given)
    if how == "compile":
        torch.compiler.reset()
        made = torch.compile(module, backend="aot_eager", fullgraph=True)
    else:
        program = torch.export.export(module, given)
        assert f"upmoe.{name}.default" in program.graph_module.code
        made = program.module()
    with torch.no_grad():
        torch.testing.assert_close(made(*given), expected, rtol=0, atol=0)


def test_errors_of_the_library_are_errors_in_python(ops):
    x, _, expert, weight, gate, up, down = arguments("experts")
    with pytest.raises(RuntimeError, match="pair 0 is token 9 and expert 2; there are 5 tokens and 3 experts"):
        ops.experts(x, TOKEN + 9, expert, weight, gate, up, down)


def tiny_mixtral(implementation, seed=0):
    torch.manual_seed(seed)
    config = transformers.MixtralConfig(
        vocab_size=64, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, num_local_experts=5, num_experts_per_tok=2, max_position_embeddings=64,
        output_router_logits=False,
    )  # fmt: skip
    model = transformers.MixtralForCausalLM(config)
    with torch.no_grad():  # large enough that routing isn't a matter of rounding
        for parameter in model.parameters():
            parameter.mul_(5)
    model.set_experts_implementation(implementation)
    return model


def test_transformers_gives_the_same_logits_and_gradients_with_our_experts(ops):
    token = torch.randint(64, (2, 20), generator=torch.Generator().manual_seed(1))
    results = {}
    for implementation in ("eager", "upmoe"):
        model = tiny_mixtral(implementation)
        assert model.config._experts_implementation == implementation
        out = model(token, labels=token)
        out.loss.backward()
        results[implementation] = out.logits, {name: p.grad for name, p in model.named_parameters()}
    (logits, gradients), (got, got_gradients) = results["eager"], results["upmoe"]
    # float32, sums in another order
    torch.testing.assert_close(got, logits, rtol=1e-4, atol=1e-5 * logits.abs().max().item())
    for name, gradient in gradients.items():
        torch.testing.assert_close(got_gradients[name], gradient, rtol=1e-3, atol=1e-5 * gradient.abs().max().item(), msg=name)


def test_from_pretrained_takes_our_experts_by_name(ops, tmp_path):
    tiny_mixtral("eager").save_pretrained(tmp_path)
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, experts_implementation="upmoe")
    token = torch.arange(20).unsqueeze(0)
    with torch.no_grad():
        torch.testing.assert_close(model(token).logits, tiny_mixtral("eager")(token).logits, rtol=1e-4, atol=1e-3)


def in_a_fresh_python(python, program: str) -> subprocess.CompletedProcess:
    env = {**os.environ, "PYTHONPATH": str(tiny.REPOSITORY / "python"), "UPMOE_ENGINE_LIBRARY": str(LIBRARY)}
    return subprocess.run([str(python), "-c", program], capture_output=True, text=True, env=env)


def test_register_loads_the_library_and_import_upmoe_loads_no_torch():
    result = in_a_fresh_python(sys.executable, """if True:
        import sys, upmoe
        assert "torch" not in sys.modules
        upmoe.ops.register()
        import torch, transformers.integrations.moe as moe
        assert torch.ops.upmoe.experts_stacked and moe.ALL_EXPERTS_FUNCTIONS["upmoe"] is upmoe.ops.experts
    """)
    assert result.returncode == 0, result.stderr


def test_register_says_that_transformers_4_is_too_old():
    result = in_a_fresh_python(tiny.REPOSITORY / ".venv-tf4" / "bin" / "python", "import upmoe; upmoe.ops.register()")
    assert result.stderr.splitlines()[-1].startswith(
        "upmoe.errors.Error: upmoe.ops.register() needs transformers 5 or later, and this is transformers 4.")


def test_experts_of_another_kind_are_refused(ops):
    from upmoe.errors import Error

    model = tiny_mixtral("upmoe")
    model.model.layers[0].mlp.experts.act_fn = torch.nn.GELU()
    with pytest.raises(Error, match="MixtralExperts is different"):
        model(torch.arange(4).unsqueeze(0))
