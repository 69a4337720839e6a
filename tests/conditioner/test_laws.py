"""Laws that all conditioners of one field or two obey."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ldm.autoencoder.derived import underlying_fields
from ldm.backbone.unet import UNet
from ldm.batch import Batch, Condition
from ldm.conditioner.base import learned_state
from ldm.conditioner.composite import Composite
from ldm.conditioner.size import SizeConditioner
from ldm.conditioner.transformer import TransformerConditioner
from ldm.config import build, resolved
from tests.conditioner.small import HAS_RATE, KINDS, LEARNING, fields_of, rows
from tests.conditioner.test_conditioner import CAPTIONS, SMALL, said
from tests.configs import composed
from tests.conftest import scramble


def made(kind, **rate):
    return scramble(KINDS[kind](**rate)).eval()


def parts(condition):
    return {name: part for name, part in condition._asdict().items() if part is not None}


def same(a, b, **tolerance):
    a, b = parts(a), parts(b)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_condition_of_an_image_does_not_depend_on_the_others(kind):
    conditioner, fields = made(kind), fields_of(4)
    whole = conditioner(fields)
    for row in range(4):
        alone = conditioner(rows(fields, [row]))
        same(alone, Condition(*(None if part is None else part[row : row + 1] for part in whole)), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", HAS_RATE)
def test_null_is_what_is_said_of_dropped_images_and_says_nothing_of_them(kind):
    conditioner, fields = made(kind, drop_rate=0.3), fields_of(4)
    null, other = conditioner.null(fields), conditioner.null(fields_of(4, seed=1))
    same(null, conditioner.encode(fields, torch.ones(4, dtype=torch.bool)), rtol=0, atol=0)
    same(null, other, rtol=0, atol=0)
    full = conditioner(fields)
    assert {name: part.shape for name, part in parts(null).items()} == {
        name: part.shape for name, part in parts(full).items()
    }
    changing = "tokens" if full.tokens is not None else "vector" if full.concat is None else "concat"
    distance = (getattr(null, changing) - getattr(full, changing)).flatten(1).abs().amax(1)
    assert (distance > 1e-3).all(), "no image has the null condition"


@pytest.mark.parametrize("kind", HAS_RATE)
def test_as_many_are_dropped_as_the_rate_says_and_the_rest_is_kept(kind):
    conditioner, fields = made(kind, drop_rate=0.3), rows(fields_of(4), [0, 1, 2, 3] * 100)
    torch.manual_seed(0)
    got, full, null = conditioner.with_dropout(fields), conditioner(fields), conditioner.null(fields)
    torch.manual_seed(0)
    dropped = torch.rand(400) < 0.3
    assert abs(dropped.float().mean() - 0.3) < 0.07
    same(got, full.where(dropped, null), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", HAS_RATE)
def test_what_is_never_dropped_in_training_is_in_the_null_condition_too(kind):
    conditioner, fields = made(kind, drop_rate=0.0), fields_of(3)
    same(conditioner.null(fields), conditioner(fields), rtol=0, atol=0)
    same(conditioner.with_dropout(fields), conditioner(fields), rtol=0, atol=0)


class NoWaiting(TorchDispatchMode):
    """Refuses what makes a program wait for a GPU: reading a value, a shape that depends on values, a copy that is waited for."""

    READS = (
        torch.ops.aten._local_scalar_dense,
        torch.ops.aten.bincount,
        torch.ops.aten.nonzero,
        torch.ops.aten.masked_select,
        torch.ops.aten.equal,
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        moved = kwargs.get("device") is not None and kwargs["device"] != getattr(
            args[0] if args else None, "device", None
        )
        assert func.overloadpacket not in self.READS, f"{func} reads values"
        if func.overloadpacket is torch.ops.aten._to_copy and moved:
            assert kwargs.get("non_blocking"), "a copy between devices that is waited for"
        return func(*args, **kwargs)


def text(**options):
    made = TransformerConditioner(**SMALL, **options)
    made.prepare([said(CAPTIONS)])
    return made


ALL_KINDS = {**KINDS, "text": text, "size": lambda **rate: SizeConditioner(32, number_width=4, vector_width=24, **rate)}


@pytest.mark.parametrize("kind", ALL_KINDS)
def test_no_value_on_the_device_is_read_in_training(kind):
    """The device is one that holds no values at all. Sizes are on the CPU, where the model derives them."""
    conditioner = ALL_KINDS[kind](drop_rate=0.3).train().to("meta")
    fields = {name: value if isinstance(value, list) or name.endswith("_size") else value.to("meta")
              for name, value in fields_of(4).items()}  # fmt: skip
    with NoWaiting():
        condition = conditioner.with_dropout(fields)
    assert all(part.is_meta for part in parts(condition).values())


@pytest.mark.parametrize("choice", ["label", "segmentation", "layout_icons", "low_resolution"])
def test_no_value_of_the_loss_is_read_either(choice):
    config = composed(
        "train", "experiment=txt2img", f"conditioner={choice}", "name=x", "backbone.model_channels=16", "backbone.groups=8",
        "autoencoder.network.channels=8", "autoencoder.network.groups=4",
    )  # fmt: skip
    model = build(resolved(config.model)).train()
    fields = fields_of(2)
    fields = {name: fields[name] for name in underlying_fields(model.conditioner.inputs)}
    fields |= {"image": torch.rand(2, 3, 64, 96) * 2 - 1}
    with NoWaiting():
        model.loss(Batch(["a", "b"], fields)).mean().backward()


def test_reading_a_value_would_be_noticed():
    with NoWaiting(), pytest.raises(AssertionError, match="reads values"):
        int(torch.ones(3).max())
    with NoWaiting(), pytest.raises(AssertionError, match="a copy between devices that is waited for"):
        torch.ones(3).to("meta")
    with pytest.raises(RuntimeError, match="on meta tensors"):
        int(torch.ones(3, device="meta").max())


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_learned_gets_a_gradient_and_travels(kind):
    conditioner, fields = made(kind), fields_of(4)
    weights = dict(conditioner.named_parameters())
    assert bool(weights) == (kind in LEARNING)
    if weights:
        sum(part.square().sum() for part in parts(conditioner(fields)).values()).backward()
        assert all(weight.grad is not None and weight.grad.abs().sum() > 0 for weight in weights.values())
    again = KINDS[kind]()
    again.prepare(None)
    assert learned_state(again) == {}
    assert all(isinstance(value, torch.Tensor) for value in conditioner.state_dict().values())
    again.load_state_dict(conditioner.state_dict())
    same(again.eval()(fields), conditioner(fields), rtol=0, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_reaches_the_backbone_alone_and_in_a_composite(kind):
    """Beside a part that says nothing and a class that is a token, too."""
    conditioner, fields = made(kind), fields_of(3)
    full = conditioner(fields)
    channels = 0 if full.concat is None else full.concat.shape[1]
    vector_width = None if full.vector is None else full.vector.shape[1]
    both = Composite(
        {"nothing": KINDS["unconditional"](), "own": conditioner, "label": made("label")},
        width=16, vector_width=vector_width, concat_channels=channels,
    ).eval()  # fmt: skip
    assert set(conditioner.inputs) | {"label"} == set(both.inputs)
    for condition in (full, both(fields)):
        network = scramble(UNet(
            3, concat_channels=channels, vector_width=vector_width, model_channels=8, channel_mult=[1, 2], blocks=1,
            context_width=None if condition.tokens is None else 16, attention_levels=[1], heads=2, groups=4,
        ))  # fmt: skip
        x, t = torch.randn(3, 3, 8, 12), torch.full((3,), 0.5)
        prediction = network(x, t, condition)
        assert prediction.shape == x.shape
        doubled = Condition.cat([condition, both.null(fields) if condition is not full else conditioner.null(fields)])
        halves = network(torch.cat([x, x]), torch.cat([t, t]), doubled).chunk(2)
        torch.testing.assert_close(halves[0], prediction, rtol=1e-4, atol=1e-5)
        for name, part in parts(condition).items():
            if part.is_floating_point():
                changed = network(x, t, condition._replace(**{name: part + 1.0}))
                assert not torch.allclose(changed, prediction), name


def test_a_condition_without_parts_is_mixed_joined_and_interpolated():
    nothing = Condition()
    assert nothing.where(torch.tensor([True, False]), Condition()) == nothing
    assert nothing.lerp(Condition(), torch.tensor([0.2, 0.4])) == nothing
    assert Condition.cat([nothing, Condition()]) == nothing
    with pytest.raises(ValueError, match="conditions of different kinds"):
        nothing.where(torch.tensor([True]), Condition(vector=torch.ones(1, 2)))


def test_a_backbone_for_another_condition_says_which_option_to_set():
    network = UNet(3, model_channels=8, channel_mult=[1], blocks=1, attention_levels=[], heads=2, groups=4)
    x, t = torch.randn(2, 3, 4, 4), torch.full((2,), 0.5)
    for part, message in (
        (
            {"tokens": torch.ones(2, 1, 16)},
            "backbone.context_width is None, but the conditioner gives 16; set backbone.con",
        ),
        ({"vector": torch.ones(2, 5)}, "set backbone.vector_width=5"),
        ({"concat": torch.ones(2, 4, 4, 4)}, "set backbone.concat_channels=4"),
    ):
        with pytest.raises(ValueError, match=message):
            network(x, t, Condition(**part))
