"""Every rule of an ATen operator against the operator itself."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is installed by `make test-torch` only")

from bcos_jax import convert  # noqa: E402
from bcos_jax.convert.programs import operators  # noqa: E402

from ..common import rel  # noqa: E402

pytestmark = pytest.mark.torch
_seeded = np.random.RandomState(0)


def normal(*shape):
  return _seeded.standard_normal(shape).astype(np.float32)


def positive(*shape):
  return np.abs(normal(*shape)) + 0.1


def whole(most, *shape):
  return _seeded.randint(0, most, shape)


X, Y, BOOL = normal(2, 3, 4), normal(2, 3, 4), normal(2, 3, 4) > 0
PICTURE, WIDE = normal(2, 4, 7, 9), normal(1, 6, 8, 8)
C, INTS = normal(4), whole(5, 2, 3, 4)
FLOAT, INT = torch.float32, torch.int64


class Case:
  """Arguments of an operator; `outputs` of its results are compared."""

  def __init__(self, name, *arguments, outputs=None, **keywords):
    self.name, self.arguments, self.keywords = name, arguments, keywords
    self.outputs = outputs


UNARY = (
  *("abs", "atan", "ceil", "cos", "cosh", "erf", "exp", "expm1", "floor", "isfinite", "isinf"),
  *("isnan", "neg", "reciprocal", "round", "sign", "sgn", "sin", "sinh", "square", "tan", "tanh"),
  *("trunc", "relu", "relu6", "sigmoid", "silu", "hardsigmoid", "hardswish", "log_sigmoid"),
  *("mish", "selu", "softplus", "gelu", "elu", "celu", "leaky_relu", "hardtanh", "logical_not"),
  *("special_erf", "alias", "clone", "contiguous", "detach", "lift_fresh", "lift_fresh_copy"),
  *("detach_copy", "zeros_like", "ones_like", "numpy_T", "arctan"),
)
BINARY = (
  *("add.Tensor", "sub.Tensor", "mul.Tensor", "div.Tensor", "atan2", "eq.Tensor", "ge.Tensor"),
  *("gt.Tensor", "le.Tensor", "lt.Tensor", "ne.Tensor", "maximum", "minimum", "fmod.Tensor"),
  *("remainder.Tensor", "rsub.Tensor", "true_divide.Tensor", "max.other", "min.other"),
  *("floor_divide", "logical_and", "logical_or", "logical_xor", "type_as", "view_as"),
  *("reshape_as", "expand_as", "copy", "to.other"),
)
BITS = ("bitwise_and.Tensor", "bitwise_or.Tensor", "bitwise_xor.Tensor", "__and__.Tensor")

CASES = [
  *(Case(name, X) for name in UNARY),
  *(Case(name, X, Y) for name in BINARY),
  *(Case(name, INTS, INTS[::-1].copy()) for name in (*BITS, "__or__.Tensor", "__xor__.Tensor")),
  *(Case(name, positive(5)) for name in ("log", "log1p", "log2", "rsqrt", "sqrt")),
  *(Case(name, np.linspace(-0.9, 0.9, 7, dtype="f")) for name in ("acos", "asin")),
  *(Case(name, np.linspace(-0.9, 0.9, 7, dtype="f")) for name in ("arccos", "arcsin")),
  Case("add.Tensor", X, Y, alpha=2),
  Case("add.Tensor", BOOL, BOOL[::-1].copy()),
  Case("add_.Tensor", X.copy(), Y),
  Case("sub.Tensor", X, Y, alpha=2),
  Case("rsub.Scalar", X, 3, 2),
  Case("mul.Tensor", BOOL, BOOL[::-1].copy()),
  Case("mul.Tensor", INTS, 2.5),
  Case("div.Tensor", INTS, 2),
  Case("div.Tensor_mode", X, 0.3, rounding_mode="floor"),
  Case("div.Tensor_mode", X, 0.3, rounding_mode="trunc"),
  Case("bitwise_not", BOOL),
  *(Case("pow.Tensor_Scalar", X, exponent) for exponent in (2, 3, 3.0, -1.0)),
  Case("pow.Tensor_Scalar", positive(4), 0.5),
  Case("pow.Tensor_Scalar", positive(4), 1.7),
  Case("pow.Scalar", 2.0, X),
  Case("pow.Tensor_Tensor", positive(2, 3, 4), X),
  Case("addcmul", X, Y, X, value=0.5),
  Case("addcmul", X, Y, X),
  Case("addcdiv", X, Y, positive(2, 3, 4), value=0.5),
  Case("lerp.Scalar", X, Y, 0.3),
  Case("gelu", X, approximate="tanh"),
  Case("hardtanh", X, -0.3, 0.4),
  Case("leaky_relu", X, 0.2),
  Case("elu", X, 0.7, 1.1, 1.2),
  Case("celu", X, 0.7),
  Case("softplus", 10 * X, 2, 5),
  Case("threshold", X, 0.2, 7.0),
  Case("glu", PICTURE, 1),
  Case("prelu", PICTURE, C),
  Case("_prelu_kernel", PICTURE, C.reshape(4, 1, 1)),
  Case("clamp", X, -0.5),
  Case("clamp", X, None, 0.5),
  Case("clamp", X, min=-0.2, max=0.5),
  Case("clip", X, -0.2, 0.5),
  Case("clamp.Tensor", X, -np.abs(Y), np.abs(Y)),
  Case("clamp_min", X, 0.1),
  Case("clamp_max", X, 0.1),
  Case("where.self", BOOL, X, Y),
  Case("masked_fill.Scalar", X, BOOL, -math.inf),
  Case("dropout", X, 0.5, False),
  Case("feature_dropout", X, 0.5, False),
  Case("alpha_dropout", X, 0.5, False),
  Case("native_dropout", X, 0.5, False),
  # products
  Case("linear", X, normal(5, 4), normal(5)),
  Case("linear", X, normal(5, 4)),
  Case("linear", X, normal(4)),
  Case("matmul", X, normal(2, 4, 5)),
  Case("mm", normal(3, 4), normal(4, 5)),
  Case("bmm", X, normal(2, 4, 5)),
  Case("mv", normal(3, 4), C),
  Case("dot", C, normal(4)),
  Case("addmm", normal(5), normal(3, 4), normal(4, 5), beta=0.5, alpha=2),
  Case("addmm", normal(5), normal(3, 4), normal(4, 5)),
  Case("baddbmm", normal(2, 3, 5), X, normal(2, 4, 5)),
  Case("addmv", normal(3), normal(3, 4), C),
  Case("einsum", "bhd,bd->bh", [X, normal(2, 4)]),
  Case("outer", C, normal(3)),
  Case("ger", C, normal(3)),
  Case("bilinear", normal(3, 4), normal(3, 5), normal(6, 4, 5), normal(6)),
  # attention
  Case("softmax.int", X, 1),
  Case("special_softmax", X, 1),
  Case("_softmax", X, -1, False),
  Case("_safe_softmax", X, -1),
  Case("log_softmax.int", X, 1),
  Case("_log_softmax", X, 1, False),
  Case("scaled_dot_product_attention", *(normal(2, 3, 5, 4) for _ in range(3))),
  Case("scaled_dot_product_attention", *(normal(2, 3, 5, 4) for _ in range(3)), None, 0.0, True),
  Case("scaled_dot_product_attention", *(normal(2, 3, 5, 4) for _ in range(3)), scale=0.3),
  Case(
    "scaled_dot_product_attention",
    *(normal(2, 3, 5, 4) for _ in range(3)),
    np.arange(25).reshape(5, 5) % 7 < 3 * (np.arange(5) != 2)[:, None],  # row 2 sees nothing
  ),
  Case("scaled_dot_product_attention", *(normal(2, 3, 5, 4) for _ in range(3)), normal(5, 5)),
  Case(
    "scaled_dot_product_attention",
    normal(2, 4, 5, 4),
    normal(2, 2, 5, 4),
    normal(2, 2, 5, 4),
    enable_gqa=True,
  ),
  # convolutions
  Case("conv1d", normal(2, 4, 9), normal(6, 2, 3), normal(6), [2], [1], [2], 2),
  Case("conv2d", PICTURE, normal(6, 2, 3, 3), normal(6), [2, 1], [1, 2], [1, 2], 2),
  Case("conv2d", PICTURE, normal(6, 4, 1, 3)),
  Case("conv2d", PICTURE[0], normal(6, 4, 3, 3), C[[0, 1, 2, 3, 0, 1]]),
  Case("conv2d.padding", PICTURE, normal(6, 4, 3, 4), None, [1, 1], "same", [1, 2]),
  Case("conv2d.padding", PICTURE, normal(6, 4, 3, 4), None, [1, 1], "valid"),
  Case("conv3d", normal(1, 2, 4, 5, 6), normal(3, 2, 2, 2, 2), None, [1, 2, 1], [1, 0, 1]),
  Case("conv_transpose1d", normal(2, 4, 5), normal(4, 3, 3), normal(3), [2], [1], [1]),
  Case(
    "conv_transpose2d.input",
    PICTURE,
    normal(4, 3, 3, 2),
    normal(6),
    *([2, 3], [1, 0], [1, 2], 2, [1, 2]),
  ),
  Case("conv_transpose3d.input", normal(1, 2, 3, 3, 3), normal(2, 3, 2, 2, 2)),
  Case(
    "convolution",
    PICTURE,
    normal(6, 2, 3, 3),
    normal(6),
    *([1, 1], [1, 1], [1, 1], False, [0, 0], 2),
  ),
  Case(
    "convolution",
    PICTURE,
    normal(4, 3, 3, 3),
    None,
    *([2, 2], [1, 1], [1, 1], True, [1, 1], 1),
  ),
  Case(
    "_convolution",
    PICTURE,
    normal(6, 2, 3, 3),
    None,
    *([1, 1], [1, 1], [1, 1], False, [0, 0], 2, False, False, True, True),
  ),
  # norms
  Case("batch_norm", PICTURE, C, C, C, positive(4), False, 0.1, 1e-3, False),
  Case("batch_norm", PICTURE, None, None, C, positive(4), False, 0.1, 1e-3, False),
  Case("batch_norm", PICTURE, C, C, None, None, True, 0.1, 1e-3, False),
  Case("_native_batch_norm_legit_no_training", PICTURE, C, C, C, positive(4), 0.1, 1e-3, outputs=1),
  Case("_native_batch_norm_legit.no_stats", PICTURE, C, C, True, 0.1, 1e-3, outputs=1),
  Case(
    "_native_batch_norm_legit", PICTURE, C, C, C.copy(), positive(4), True, 0.1, 1e-3, outputs=1
  ),
  Case(
    "_native_batch_norm_legit_functional",
    PICTURE,
    *(C, C, C, positive(4), True, 0.1, 1e-3),
    outputs=1,
  ),
  Case("native_batch_norm", PICTURE, C, C, C, positive(4), False, 0.1, 1e-3, outputs=1),
  Case("instance_norm", PICTURE, C, C, None, None, True, 0.1, 1e-3, False),
  Case("instance_norm", PICTURE, C, C, C, positive(4), False, 0.1, 1e-3, False),
  Case("layer_norm", X, [3, 4], normal(3, 4), normal(3, 4), 1e-3),
  Case("layer_norm", X, [4]),
  Case("native_layer_norm", X, [4], C, C, 1e-3, outputs=1),
  Case("group_norm", PICTURE, 2, C, C, 1e-3),
  Case("native_group_norm", PICTURE, C, C, 2, 4, 63, 2, 1e-3, outputs=1),
  Case("rms_norm", X, [4], C),
  Case("rms_norm", X, [4], None, 1e-2),
  Case("_fused_rms_norm", X, [4], C, 1e-2, outputs=1),
  *(Case("linalg_vector_norm", X, order, [1], True) for order in (1, 2, 3, math.inf, -math.inf)),
  Case("linalg_vector_norm", X),
  Case("norm.ScalarOpt_dim", X, 2, [1], True),
  Case("norm.Scalar", X),
  # pools
  Case("max_pool1d", normal(2, 3, 9), [3], [2], [1]),
  Case("max_pool2d", PICTURE, [3, 2], [2, 3], [1, 1], [1, 2]),
  Case("max_pool2d", PICTURE, [3, 3], [2, 2], [0, 0], [1, 1], True),
  Case("max_pool2d", PICTURE, [2]),
  Case("max_pool3d", normal(1, 2, 4, 5, 6), [2]),
  Case("max_pool2d_with_indices", PICTURE, [3, 3], [2, 2], [1, 1], outputs=1),
  Case("max_pool3d_with_indices", normal(1, 2, 4, 5, 6), [2], outputs=1),
  Case("avg_pool1d", normal(2, 3, 9), [3], [2], [1]),
  *(
    Case("avg_pool2d", PICTURE, [3, 2], [2, 2], [1, 1], ceil, inside)
    for ceil in (False, True)
    for inside in (False, True)
  ),
  Case("avg_pool2d", PICTURE, [3, 3], [2, 2], [1, 1], False, True, 5),
  Case("avg_pool2d", PICTURE, [2]),
  Case("avg_pool3d", normal(1, 2, 4, 5, 6), [2]),
  Case("adaptive_avg_pool1d", normal(2, 3, 9), [3]),
  *(Case("adaptive_avg_pool2d", PICTURE, size) for size in ([1, 1], [7, 3], [3, 4])),
  Case("_adaptive_avg_pool2d", PICTURE, [3, 4]),
  Case("adaptive_avg_pool3d", normal(1, 2, 4, 5, 6), [2, 2, 2]),
  Case("_adaptive_avg_pool3d", normal(1, 2, 4, 5, 6), [2, 2, 2]),
  Case("adaptive_max_pool1d", normal(2, 3, 9), [2], outputs=1),
  Case("adaptive_max_pool2d", PICTURE, [3, 4], outputs=1),
  Case("adaptive_max_pool3d", normal(1, 2, 4, 5, 6), [2, 2, 2], outputs=1),
  # pictures at other sizes
  *(
    Case(f"upsample_{kind}2d", PICTURE, size, aligned)
    for kind in ("bilinear", "bicubic")
    for aligned in (False, True)
    for size in ([14, 5], [3, 18])
  ),
  *(
    Case(f"_upsample_{kind}2d_aa", PICTURE, size, False)
    for kind in ("bilinear", "bicubic")
    for size in ([14, 5], [3, 18])
  ),
  Case("upsample_bilinear2d.vec", PICTURE, None, False, [2.0, 1.5]),
  Case("upsample_bicubic2d.vec", PICTURE, [5, 6], False, None),
  Case("_upsample_bicubic2d_aa.vec", PICTURE, [5, 6], False, None),
  Case("upsample_linear1d", normal(2, 3, 9), [5], False),
  Case("upsample_trilinear3d", normal(1, 2, 4, 5, 6), [2, 7, 6], False),
  Case("upsample_nearest1d", normal(2, 3, 9), [5]),
  Case("upsample_nearest2d", PICTURE, [14, 5]),
  Case("upsample_nearest2d.vec", PICTURE, None, [2.0, 1.5]),
  Case("upsample_nearest3d", normal(1, 2, 4, 5, 6), [2, 7, 6]),
  # reductions
  *(
    Case(name, X, [0, 2], True)
    for name in ("amax", "amin", "mean.dim", "sum.dim_IntList", "logsumexp")
  ),
  *(Case(name, X, 1, True) for name in ("argmax", "argmin", "prod.dim_int")),
  *(Case(name, BOOL, 1, True) for name in ("all.dim", "any.dim")),
  *(Case(name, X) for name in ("mean", "sum", "prod", "max", "min", "argmax")),
  *(Case(name, BOOL) for name in ("all", "any", "sum")),
  Case("mean.dim", X, None),
  Case("sum", X, dtype=FLOAT),
  Case("max.dim", X, 1),
  Case("min.dim", X, 1, True),
  *(Case(f"{name}.correction", X, [1], correction=0) for name in ("var", "std", "var_mean")),
  Case("std_mean.correction", X, [1, 2], keepdim=True),
  *(Case(f"{name}.dim", X, [1], False) for name in ("var", "std")),
  Case("cumsum", X, 1),
  Case("cumsum", BOOL, 1),
  Case("histc", X, 7, -1.0, 1.5),
  Case("histc", np.float32(whole(6, 40)), 6, 0, 5),
  Case("histc", X),
  Case("histc", C * 0),
  Case("topk", X, 2, 1),
  Case("topk", X, 2, -1, False),
  Case("sort", X, 1, True),
  Case("argsort", X, 1),
  # what is made
  Case("arange", 5),
  Case("arange", 5, dtype=FLOAT),
  Case("arange.start", 2, 5.5),
  Case("arange.start_step", 2, 9, 3),
  Case("linspace", -1, 1, 5),
  Case("full", [2, 3], 1.5),
  Case("full", [2, 3], True),
  Case("full", [2, 3], 1),
  Case("scalar_tensor", 1.5),
  Case("zeros", [2, 3]),
  Case("ones", [2, 3], dtype=INT),
  Case("eye", 3),
  Case("eye.m", 3, 4),
  Case("full_like", X, 2),
  Case("new_zeros", X, [2]),
  Case("new_ones", X, [2]),
  Case("new_full", X, [2], 3),
  Case("fill.Scalar", X, 3),
  Case("fill_.Scalar", X.copy(), 3),
  Case("zero", X),
  Case("_to_copy", X, dtype=INT),
  Case("to.dtype", INTS, FLOAT),
  Case("to.dtype_layout", INTS, dtype=FLOAT),
  Case("to.device", INTS, torch.device("cpu"), FLOAT),
  Case("meshgrid", [C, normal(3)]),
  Case("meshgrid.indexing", [C, normal(3)], indexing="xy"),
  Case("one_hot", whole(4, 2, 3), 5),
  Case("tril", X, 1),
  Case("triu", X),
  # shapes
  Case("view", X, [6, -1]),
  Case("reshape", X, [6, 4]),
  Case("_unsafe_view", X, [6, 4]),
  Case("view_copy", X, [6, 4]),
  Case("flatten.using_ints", PICTURE, 1, 2),
  Case("flatten.using_ints", np.float32(3)),
  Case("unflatten.int", X, 2, [2, -1]),
  *(Case(f"permute{copy}", X, [2, 0, 1]) for copy in ("", "_copy")),
  *(Case(name, X, 0, 2) for name in ("transpose.int", "transpose_copy.int", "swapaxes")),
  Case("t", normal(3, 4)),
  Case("movedim.intlist", PICTURE, [0, 1], [3, 2]),
  *(Case(name, X, -2) for name in ("unsqueeze", "unsqueeze_copy")),
  *(Case("squeeze.dims", normal(2, 1, 3, 1), dims) for dims in ([1, 3], [0, 1])),
  Case("squeeze", normal(2, 1, 3, 1)),
  Case("squeeze.dim", normal(2, 1, 3, 1), 3),
  Case("squeeze_copy", normal(2, 1)),
  *(Case(name, normal(2, 1, 4), [5, -1, 3, 4]) for name in ("expand", "expand_copy")),
  *(Case(f"{name}.Tensor", PICTURE, -1, 1, -2, 3) for name in ("slice", "slice_copy")),
  Case("slice.Tensor", PICTURE, 1, 0, 2**63 - 1),
  *(Case(f"{name}.int", X, -1, -2) for name in ("select", "select_copy")),
  Case("narrow", X, 1, 1, 2),
  Case("slice_scatter", X, normal(2, 2, 4), 1, 0, 2),
  Case("select_scatter", X, normal(2, 4), 1, 2),
  Case("cat", [X, Y], 1),
  Case("cat", [X, normal(0)], 1),
  Case("concat", [X, Y], -1),
  Case("stack", [X, Y], 1),
  *(Case(f"{name}.Tensor", PICTURE, 2, 2) for name in ("split", "split_copy")),
  Case("split.sizes", PICTURE, [3, 4], 2),
  *(Case(name, PICTURE, [3, 4], 2) for name in ("split_with_sizes", "split_with_sizes_copy")),
  *(Case("chunk", PICTURE, count, 2) for count in (2, 3, 5)),
  *(Case(f"{name}.int", X, 1) for name in ("unbind", "unbind_copy")),
  Case("repeat", X, [2, 1, 2, 1]),
  Case("tile", X, [2, 1]),
  Case("repeat_interleave.self_int", X, 2, 1),
  Case("repeat_interleave.self_int", X, 2),
  Case("roll", PICTURE, [1, -2], [2, 3]),
  Case("roll", X, [3]),
  Case("flip", X, [0, 2]),
  Case("diagonal", X, 1, 1, 2),
  Case("constant_pad_nd", PICTURE, [1, -1, 2, 0], 1.5),
  *(Case("pad", PICTURE, [1, 2, 2, 0], mode) for mode in ("constant", "reflect", "replicate")),
  Case("pad", PICTURE, [1, 2, 2, 0], "circular"),
  *(
    Case(f"{name}_pad{n}d", normal(1, 2, *[5] * n), [1, 2] * n)
    for name in ("reflection", "replication")
    for n in (1, 2, 3)
  ),
  Case("pixel_shuffle", PICTURE, 2),
  Case("pixel_unshuffle", WIDE, 2),
  *(Case(name, PICTURE, 2) for name in ("channel_shuffle", "native_channel_shuffle")),
  Case("unfold", PICTURE, 2, 3, 2),
  Case("as_strided", X, [2, 3, 2], [12, 4, 1], 1),
  Case("as_strided", X, [3, 2], [1, 5]),
  Case("im2col", PICTURE, [3, 2], [1, 2], [1, 0], [2, 1]),
  Case("col2im", normal(2, 24, 12), [7, 8], [3, 2], [1, 2], [1, 0], [2, 2]),
  # recurrent
  *(
    Case(
      "lstm.input",
      normal(5, 2, 3),
      [normal(4, 2, 4), normal(4, 2, 4)],
      [
        normal(*shape)
        for width in (3, 3, 8, 8)
        for shape in ((16, width), (16, 4), (16,), (16,))[: 4 if biased else 2]
      ],
      *(biased, 2, 0.0, False, True, False),
    )
    for biased in (True, False)
  ),
  Case(
    "lstm.input",
    normal(2, 5, 3),
    [normal(1, 2, 4), normal(1, 2, 4)],
    [normal(16, 3), normal(16, 4)],
    *(False, 1, 0.0, False, False, True),
  ),
  # looked up
  Case("index.Tensor", X, [whole(2, 5)]),
  Case("index.Tensor", X, [None, whole(3, 5), whole(4, 5)]),
  Case("index.Tensor", X, [whole(2, 5), None, whole(4, 5)]),
  Case("_unsafe_index.Tensor", PICTURE, [None, None, whole(7, 3, 1), whole(9, 4)]),
  *(
    Case(name, X, [whole(2, 3), whole(3, 3)], normal(3, 4))
    for name in ("index_put", "_unsafe_index_put")
  ),
  Case("index_put", X, [np.array([0, 0])], normal(2, 3, 4), True),
  Case("index_select", X, 1, whole(3, 5)),
  Case("gather", X, 1, whole(3, 2, 5, 4)),
  Case("scatter.value", X, 2, np.array([[[0, 3], [1, 2]]]), 7.0),
  Case("scatter.src", X, 2, np.array([[[0, 3], [1, 2]]]), Y),
  Case("scatter_add", X, 2, np.array([[[0, 0], [1, 2]]]), Y),
  Case("take_along_dim", X, whole(3, 2, 5, 4), 1),
  Case("embedding", normal(7, 3), whole(7, 2, 4)),
]


def _overload(name):
  packet = getattr(torch.ops.aten, name.partition(".")[0])
  return getattr(packet, name.partition(".")[2] or "default")


def _for(library, value):
  if isinstance(value, list):
    return [_for(library, each) for each in value]
  if isinstance(value, np.ndarray | np.generic):
    return torch.from_numpy(np.array(value)) if library is torch else jnp.asarray(value)
  if library is jax and isinstance(value, torch.dtype):
    return jax.dtypes.canonicalize_dtype(torch.empty(0, dtype=value).numpy().dtype)
  return None if library is jax and isinstance(value, torch.device) else value


def _flat(results):
  return list(results) if isinstance(results, list | tuple) else [results]


@pytest.mark.parametrize("case", [pytest.param(c, id=f"{i} {c.name}") for i, c in enumerate(CASES)])
def test_rule(case):
  operator = _overload(case.name)
  keywords = {key: _for(torch, value) for key, value in case.keywords.items()}
  theirs = _flat(operator(*(_for(torch, a) for a in case.arguments), **keywords))
  rule = operators.rule_of(str(operator))
  keywords = {key: _for(jax, value) for key, value in case.keywords.items()}
  with jax.default_matmul_precision("highest"):
    ours = _flat(rule(*(_for(jax, a) for a in case.arguments), **keywords))
  theirs = theirs[: case.outputs]
  assert len(ours) == len(theirs)
  for one, other in zip(ours, theirs, strict=True):
    other = other.numpy()
    assert np.shape(one) == other.shape
    assert jnp.asarray(one).dtype == jax.dtypes.canonicalize_dtype(other.dtype)
    if other.dtype == np.float32:
      finite = np.isfinite(other)
      assert np.array_equal(np.asarray(one)[~finite], other[~finite], equal_nan=True)
      assert rel(np.asarray(one)[finite], other[finite]) <= 1e-5
    else:
      assert np.array_equal(one, other)


UNTESTED = {
  *("aten.cudnn_batch_norm", "aten.empty", "aten.empty_like", "aten.new_empty"),
  *("aten.sym_numel", "aten.sym_size", "aten.var.default", "aten.std.default"),
}
"""Not on a CPU, undefined numbers, lengths; and what is refused."""


def test_every_rule_has_a_case():
  used = {f"aten.{case.name}" for case in CASES}
  used |= {name.rpartition(".")[0] for name in used} | {f"{name}.default" for name in used}
  known = {name for name in operators._RULES if name.startswith("aten.")}
  assert known - UNTESTED - used == set()


def test_refused_arguments():
  for name, arguments, what in (
    ("aten.dropout.default", (X, 0.5, True), "Dropout with p=0.5 is active"),
    ("aten.where.default", (BOOL,), "depends on data"),
  ):
    with pytest.raises(convert.programs.operators.InputError, match=what):
      operators.rule_of(name)(*arguments)
