"""Suites, geometry, data and the float64 reference."""

from __future__ import annotations

import json

import numpy as np
import pytest

from sepcompile.bench import layers, reference, suites
from sepcompile.bench.errors import BenchError
from sepcompile.bench.layers import BenchLayer


@pytest.mark.parametrize("name", suites.names())
def test_every_suite_loads_and_every_row_has_a_geometry(name: str) -> None:
    rows = suites.load(name)
    assert len(rows) >= 20
    assert all(layers.geometry(row).macs > 0 for row in rows)


def test_held_out_shares_no_layer_with_dev() -> None:
    def key(row: BenchLayer) -> str:
        return json.dumps([row.class_name, row.input_shape, dict(row.config)], sort_keys=True)

    assert not {key(r) for r in suites.load("dev")} & {key(r) for r in suites.load("held-out")}


def test_a_suite_of_the_users_own(tmp_path) -> None:
    path = tmp_path / "mine.json"
    row = {"name": "a", "class_name": "DepthwiseConv1D", "input_shape": [2, 9, 4], "config": {"kernel_size": [3]}}
    path.write_text(json.dumps([row]))
    assert suites.load(str(path))[0].to_json() == row
    path.write_text(json.dumps([row, row]))
    with pytest.raises(BenchError, match="two layers are named 'a'"):
        suites.load(str(path))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"class_name": "Conv2D"}, "class_name is 'Conv2D'"),
        ({"input_shape": [1, 4, 4]}, "input_shape"),
        ({"config": {"activation": "gelu", "kernel_size": 3}}, "activation is 'gelu'"),
        ({"config": {"kernel_size": 9}}, "does not fit"),
        ({"name": None, "input_shape": "x"}, "not a layer row"),
    ],
)
def test_bad_rows_are_named(tmp_path, change: dict, message: str) -> None:
    row = {"name": "a", "class_name": "DepthwiseConv2D", "input_shape": [1, 4, 4, 2], "config": {"kernel_size": 3}}
    path = tmp_path / "s.json"
    path.write_text(json.dumps({"layers": [{**row, **change}]}))
    with pytest.raises(BenchError, match=message):
        suites.load(str(path))


def test_unknown_suites_and_rows_are_named() -> None:
    with pytest.raises(BenchError, match="'no-such'"):
        suites.load("no-such")
    with pytest.raises(BenchError, match="no such layer in the suite: nope"):
        suites.select(suites.load("dev"), ["nope"])


def naive(geo: layers.Geometry, data: layers.CaseData) -> np.ndarray:
    """The layer by loops over output pixels, as another way to the same numbers."""
    (sh, sw), (dh, dw), (kh, kw) = geo.strides, geo.dilation, geo.kernel
    out = np.zeros((geo.batch, *geo.out_size, geo.mid_channels))
    for (n, i, j, c), _ in np.ndenumerate(out):
        channel, m = divmod(c, geo.depth_multiplier)
        for a in range(kh):
            for b in range(kw):
                y, x = i * sh + a * dh - geo.pad_before[0], j * sw + b * dw - geo.pad_before[1]
                if 0 <= y < geo.height and 0 <= x < geo.width:
                    out[n, i, j, c] += float(data.x[n, y, x, channel]) * float(data.depthwise[a, b, channel, m])
    if data.pointwise is not None:
        out = out @ data.pointwise.astype(float)
    return reference.activate(geo.activation, out + (0 if data.bias is None else data.bias))


@pytest.mark.parametrize(
    ("kind", "shape", "config"),
    [
        ("SeparableConv2D", (2, 5, 6, 3), {"filters": 4, "kernel_size": 3, "strides": 2, "padding": "same"}),
        ("SeparableConv2D", (1, 3, 7, 8), {"filters": 4, "kernel_size": [3, 2], "data_format": "channels_first"}),
        ("DepthwiseConv2D", (1, 6, 6, 2), {"kernel_size": 3, "depth_multiplier": 3, "dilation_rate": 2}),
        ("SeparableConv1D", (1, 12, 3), {"filters": 2, "kernel_size": 3, "dilation_rate": 2, "padding": "causal"}),
        ("DepthwiseConv1D", (2, 9, 3), {"kernel_size": 4, "padding": "same", "use_bias": False, "activation": "elu"}),
    ],
)
def test_reference_equals_plain_loops(kind: str, shape: tuple[int, ...], config: dict) -> None:
    layer = BenchLayer("case", kind, shape, config)
    geo, data = layers.geometry(layer), layers.make_data(layer)
    got = reference.evaluate(geo, data)
    assert got.shape == geo.nhwc_out
    np.testing.assert_allclose(got, naive(geo, data), atol=1e-12)


def test_layouts_round_trip_and_case_files_too(tmp_path) -> None:
    layer = BenchLayer("c", "SeparableConv1D", (2, 4, 9), {"filters": 3, "data_format": "channels_first"})
    geo, data = layers.geometry(layer), layers.make_data(layer)
    own = layers.own_layout(geo, data.x)
    assert own.shape == layer.input_shape
    np.testing.assert_array_equal(layers.to_nhwc(geo, own), data.x)
    layers.save_case(tmp_path / "c", layer, data, reference.evaluate(geo, data))
    again, stored, expected = layers.load_case(tmp_path / "c")
    assert again == layer
    np.testing.assert_array_equal(stored.pointwise, data.pointwise)
    assert reference.error_of(expected, reference.evaluate(geo, data)) == 0


def test_data_depends_on_seed_and_name_only() -> None:
    layer = BenchLayer("a", "DepthwiseConv1D", (1, 9, 3), {"kernel_size": 3})
    other = BenchLayer("b", "DepthwiseConv1D", (1, 9, 3), {"kernel_size": 3})
    np.testing.assert_array_equal(layers.make_data(layer).x, layers.make_data(layer).x)
    assert not np.array_equal(layers.make_data(layer).x, layers.make_data(layer, seed=1).x)
    assert not np.array_equal(layers.make_data(layer).x, layers.make_data(other).x)


def test_error_of_flags_shapes_and_non_numbers() -> None:
    assert reference.error_of(np.zeros(3), np.ones(4)) == float("inf")
    assert reference.error_of(np.array([1.0, np.nan]), np.ones(2)) == float("inf")
    assert reference.error_of(np.array([1.0, 3.0]), np.array([1.0, 4.0])) == pytest.approx(0.25)
