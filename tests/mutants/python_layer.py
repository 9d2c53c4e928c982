"""Seeded defects of fastblur/: everything but the kernels, and the reference, which is a judge."""

from __future__ import annotations

from functools import cache

from .mutant import ROOT, Mutant


def of(file: str, *rows: tuple[str, str, str]) -> list[Mutant]:
    """Defects of a file: old text, new text, and the tests, with spaces between."""
    found = []
    for old, new, tests in rows:
        names = tuple(_path_of(test) for test in tests.split())
        found.append(Mutant(f"fastblur/{file}", old, new, names))
    return found


@cache
def _path_of(test: str) -> str:
    name, *rest = test.split("::")
    (path,) = (ROOT / "tests").glob(f"**/test_{name}")
    return "::".join([path.relative_to(ROOT).as_posix(), *rest])


GEOMETRY = of(
    "_geometry/geometry.py",
    ("height + 2 * p_h - k_h + 1, width", "height + p_h - k_h + 1, width", "geometry.py"),
    ("(m_w + left + right - len", "(m_w + left - len", "geometry.py"),
    ("// s_h + 1", "// s_w + 1", "geometry.py"),
    ("(f_h - 1) // 2, f_h // 2,", "f_h // 2, (f_h - 1) // 2,", "geometry.py layers.py"),
    ("(columns - 1).bit_length()", "columns.bit_length()", "geometry.py memory.py"),
    ("(rows - 1 + self.relu)", "(rows - 1)", "geometry.py memory.py autograd.py"),
    ("and not self.relu", "", "geometry.py autograd.py"),
) + of(
    "_geometry/checks.py",
    ("size, 1, MAX_TAPS, axes)))", "size, 1, 7, axes)))", "geometry.py layers.py"),
    ("math.comb(n, i) / 2**n", "math.comb(n, i) / (2**n - 1)", "geometry.py"),
    ("if any(2 * p > k ", "if any(p > k ", "errors.py"),
    ("if of.padding_mode == \"reflect\" and widest >=", 'if of.padding_mode == "reflect" and '
     "widest >", "geometry.py errors.py"),
    ('"circular" and widest > pooled', '"circular" and widest >= pooled', "geometry.py"),
    ("widest = max(before, after)", "widest = before", "geometry.py"),
    ("    return not isinstance(value, bool)", "    return True", "errors.py"),
    ("if not all(math.isfinite(value) for value in row)", "if False", "errors.py"),
    ('getattr(value, "requires_grad", False)', "False", "errors.py"),
    ("x.shape[-last:]:", "x.shape[1 - last:]:", "errors.py volumes.py"),
)  # fmt: skip

OPERATORS = of(
    "_dispatch/operators.py",
    ("    if t.dim() != 4:", "    if t.dim() < 4:", "raw.py hostile.py"),
    ("        _check_grad_output(call, dy)\n", "", "raw.py hostile.py"),
    ("        _check_codes(call, codes, x)\n", "", "raw.py hostile.py"),
    ("if codes.device != beside.device:", "if False:", "raw.py hostile.py"),
    ("if codes.dtype != call.codes_dtype:", "if False:", "raw.py hostile.py"),
    ("if t.dtype not in DTYPES:", "if t.is_complex():", "raw.py hostile.py"),
    ("if t.layout is not torch.strided:", "if False:", "hostile.py errors.py"),
    ("return tuple(ours) != tuple(wanted)", "return False", "raw.py hostile.py"),
    ("shape = self.codes_shape if need_codes else", "shape = self.codes_shape if True else",
     "raw.py autograd.py"),
    ("t = t.contiguous(memory_format=", "t = t.contiguous() if True else t.contiguous("
     "memory_format=", "layers.py raw.py"),
    ("        if size[axis] == 0 or stride[axis] < extent:\n            return False\n", "",
     "layers.py"),
    ("if x.dtype == torch.float64 else x.to(torch.get", "if False else x.to(torch.get",
     "layers.py paths.py"),
    ("return x.flatten(0, 1)", "return x.transpose(0, 1).flatten(0, 1)", "autograd.py"),
    ("    if stride[1] == 0:\n        return False\n", "", "layers.py"),
)  # fmt: skip

AUTOGRAD = of(
    "_dispatch/autograd.py",
    ("return None, ddy, None, None,", "return None, None, None, None,", "autograd.py"),
    ("Apply.apply(ctx.operators, x_tangent, codes, *ctx.arguments), None",
     "torch.zeros_like(Apply.apply(ctx.operators, x_tangent, codes, *ctx.arguments)), None",
     "autograd.py"),
    ("(b * input_size[0], *input_size[1:])", "tuple(input_size)", "autograd.py"),
    ("(x.requires_grad and torch.is_grad_enabled()) or is_tracing()", "True", "memory.py"),
    ("rest[:-1], (rest[-1] or tangent is not None,)", "rest[:-1], (rest[-1],)", "autograd.py"),
    ("if recorded and not rest[-1]:", "if False:", "autograd.py"),
    ("channels_last = not is_mapped(x) and is_channels_last(x)\n        y:",
     "channels_last = False\n        y:", "autograd.py"),
    ("    if tangent is None:\n        return result", "    if True:\n        return result",
     "autograd.py"),
    ("ctx.save_for_backward(codes)\n    ctx.save", "ctx.save", "autograd.py"),
)  # fmt: skip

DIRECT = of(
    "_dispatch/direct.py",
    ("or x.shape != call.input_size", "", "paths.py layers.py"),
    ("or dtype is not call.dtype", "", "paths.py layers.py"),
    ("or function_modes()", "", "direct.py"),
    ("or included().raw_repr() not in self._around", "", "direct.py"),
    ("or forward_ad._current_level >= 0", "", "direct.py autograd.py"),
    ("if _any_autocast() and dtype in _CAST", "if False", "paths.py layers.py"),
    ("and dtype in _CAST and _autocast_on", "and _autocast_on", "direct.py"),
    ("or profiler._is_profiler_enabled", "", "direct.py"),
    ("if x.dtype is not call.dtype:", "if False:", "direct.py"),
    ("and _with_grad() and not _is_excluded(_AUTOGRAD)", "and _with_grad()", "direct.py"),
    ("and codes.shape == call.codes_shape", "", "paths.py"),
    ("and codes.is_contiguous()", "", "paths.py"),
    ("if not dy.is_contiguous(memory_format=call.memory_format):", "if False:",
     "paths.py layers.py"),
    ("if _with_grad() or not _fits", "if not _fits", "direct.py autograd.py"),
)  # fmt: skip

UPSAMPLING = of(
    "_geometry/upsampling.py",
    ("and taps[0] == taps[3]", "", "upsampling.py"),
    ("return len(taps) <= stride or", "return len(taps) <= stride + 1 or", "upsampling.py"),
    ("(before + stride - 1) // stride", "before // stride", "upsampling.py"),
    ("(len(taps) - stride + 1) // 2", "(len(taps) - 1) // 2", "upsampling.py"),
    ("tap / sums[a % stride]", "tap / sums[0]", "upsampling.py"),
    ("except (OverflowError, ZeroDivisionError):", "except OverflowError:", "upsampling.py"),
) + of(
    "export.py",
    ("bottom - g.stride[0] + 1", "bottom - g.stride[0]", "upsampling_tools.py"),
)  # fmt: skip

BACKENDS = of(
    "_backends/calls.py",
    ("(h * w * c, 1, w * c, c)", "(h * w * c, 1, h * c, c)", "layers.py raw.py"),
    ("        return self._blur.apply(dy, codes)", "        return self._blur.backward(dy, codes)",
     "upsampling.py"),
) + of(
    "_backends/compiled.py",
    ("if any(operation.repeated):", "if False:", "upsampling.py"),
    ("max(0, 2 * geometry.padding[1] - geometry.kernel_size[1] + 1)", "0", "geometry.py raw.py"),
    ("(row * step + 7) // 8", "row * step // 8", "geometry.py raw.py memory.py"),
    ("return (torch.get_num_threads(),)", "return (1,)", "threads.py"),
) + of(
    "_backends/specialised.py",
    ('in ("reflect", "replicate", "zeros")', '!= "circular"', "geometry.py"),
    ("max(bottom, right) <= after", "True", "geometry.py"),
)  # fmt: skip

LAYERS = of(
    "_layer.py",
    ("if known is not operation or backend", "if backend", "paths.py"),
    ("or backend != self.backend:", "or False:", "paths.py"),
    ("if name not in _NOT_KEPT}", "}", "paths.py layers.py"),
    ("if value != default}", "}", "layers.py"),
    ("value = value.tolist() if", "value = value if", "layers.py"),
) + of(
    "modules.py",
    ("            1, stride, 0, filter_size, taps, blur_padding, padding_mode, relu",
     "            1, stride, 0, filter_size, taps, blur_padding, padding_mode, False", "layers.py"),
) + of(
    "_run.py",
    ("x.unsqueeze(0), operation).squeeze(0)", "x.unsqueeze(0), operation)", "layers.py volumes.py"),
    ("    operation.check_input(input)\n    chosen", "    chosen", "errors.py volumes.py"),
    ("x = autocast(input)", "x = input", "layers.py volumes.py"),
) + of(
    "functional.py",
    ("(0, 0, *blur_padding)", "(*blur_padding, 0, 0)", "layers.py errors.py"),
    ("return argument is None or type", "return True or type", "layers.py errors.py"),
    ("return all(type(entry) is int for entry in argument)", "return True", "errors.py"),
)  # fmt: skip

VOLUMES = of(
    "_geometry/volume.py",
    ("if self.kernel_size[0] == 1:", "if True:", "volumes.py"),
    ("relu_alone = self.relu and wide_max != _NO_MAX", "relu_alone = self.relu", "volumes.py"),
    ("call(\"width\", neither, (_NO_BLUR, wide))", 'call("width", neither, (_NO_BLUR, high))',
     "volumes.py"),
    ("        and g.stride == (1, 1)\n", "", "volumes.py"),
    ("entries[1::2], 0)", "entries[::2], 0)", "volumes.py"),
    ("+ before + after - len(row)", "+ before - len(row)", "volumes.py"),
) + of(
    "functional3d.py",
    ("x.flatten(0, 1).permute(0, 3, 1, 2)", "x.flatten(0, 1).permute(0, 3, 2, 1)", "volumes.py"),
    ("    return x.contiguous(memory_format=layout)", "    return x", "volumes.py"),
    ("mapped = not torch.compiler.is_compiling() and is_mapped(x)", "mapped = False", "volumes.py"),
)  # fmt: skip

SURGERY = of(
    "surgery/recognition/recognise.py",
    ("if not _is_it_but_for_init(kind, known.name):", "if False:", "fuse_layers.py"),
    ("rtol=1e-5, atol=1e-7", "rtol=1.0, atol=1.0", "fuse_layers.py"),
    ("if contents[0] != contents[1]:", "if False:", "fuse_layers.py"),
    ("if filter.is_meta:", "if False:", "fuse_layers.py"),
) + of(
    "surgery/recognition/known.py",
    ("left, right, top, bottom = padding", "top, bottom, left, right = padding",
     "fuse_layers.py"),
    ("(padded and not module.count_include_pad)", "False", "fuse_layers.py"),
) + of(
    "surgery/joins/joining.py",
    ("(module.inplace and not self._fresh)", "False", "fuse_joins.py fuse_proofs.py"),
    ("if not is_unwatched(module) or together", "if together", "fuse_later.py fuse_joins.py"),
    ("if _pair(max.stride) != (1, 1):", "if False:", "fuse_joins.py fuse_later.py"),
    ("if not geometry.linear:", "if False:", "fuse_numbers.py fuse_layers.py"),
    ("isinstance(pool, BlurredConv2d) and not pool.blur_first", "False",
     "fuse_layers.py fuse_joins.py"),
) + of(
    "surgery/fuse.py",
    ('raise ValueError(f"{path} has hooks, which would be lost; remove them first")', "pass",
     "fuse.py fuse_state.py"),
    ("self.fused.training = module.training", "pass", "fuse.py fuse_state.py"),
    ("if coming is not None and coming != channels:", "if False:", "fuse_layers.py fuse_state.py"),
    ("if self._uses[id(module)] > 1:", "if False:", "fuse_layers.py fuse_state.py"),
    ("        original._buffers[name] = fused._buffers[name]", "        pass", "fuse.py fuse_state.py"),
) + of(
    "surgery/antialias.py",
    ("if min_channels < 1:", "if min_channels < 0:", "antialias.py"),
    ("return pool if weight is None else pool.to(weight.dtype)", "return pool", "antialias.py"),
) + of(
    "surgery/placement/placing.py",
    ("module.training = old.training", "pass", "antialias.py antialias_places.py"),
    ("            slot.before.insert(0, blur)", "            slot.before.append(blur)",
     "antialias_flows.py antialias_places.py"),
    ("_set_attributes(model.get_submodule(change.site), change.attributes)", "pass",
     "antialias.py"),
    ("made.training = made.core.training", "pass", "antialias.py antialias_places.py"),
)  # fmt: skip

METRICS = of(
    "metrics/shift.py",
    ("predictions[..., 0] == predictions[..., 1]", "predictions[..., 0] == predictions[..., 0]",
     "metrics_shift.py"),
    ("share.std().item() / math.sqrt(n)", "share.std().item() / n", "metrics_shift.py"),
    ("offsets=offsets[order]", "offsets=offsets", "metrics_shift.py"),
    ("[y2 % counts[0], x2 % counts[1]]", "[y1 % counts[0], x2 % counts[1]]", "metrics_shift.py"),
    ("if number in here or number in self._ids:", "if number in self._ids:", "metrics.py"),
) + of(
    "metrics/_moves.py",
    ("height - self.crop[0] + 1, width", "height - self.crop[0], width", "metrics_shift.py"),
    ("torch.roll(x, (dy, dx), (1, 2))", "torch.roll(x, (dx, dy), (1, 2))", "metrics_shift.py"),
) + of(
    "metrics/_running.py",
    ("            module.training = training", "            pass", "metrics.py"),
) + of(
    "metrics/stability.py",
    ("shifts = (count - 1) // 2 - shifts.flip(0)", "shifts = shifts - (count - 1) // 2",
     "metrics_shift.py"),
    ("scores.float().softmax(1) if logits", "scores.float().softmax(1) if True",
     "metrics_shift.py"),
    ("(curves.amax(1) - curves.amin(1))", "curves.amax(1)", "metrics_shift.py"),
) + of(
    "metrics/similarity.py",
    ("output.clone() if", "output if", "metrics_features.py"),
    ("(room[0] // 2, room[1] // 2)", "(0, 0)", "metrics_features.py"),
) + of(
    "metrics/equivariance.py",
    ("_turn(reference, t / stride)", "_turn(reference, t // stride)", "metrics_features.py"),
    ("period : 2 * period", "0 : period", "metrics_features.py"),
)  # fmt: skip

MUTANTS = [
    *(GEOMETRY + UPSAMPLING + OPERATORS + AUTOGRAD + DIRECT),
    *(BACKENDS + LAYERS + VOLUMES + SURGERY + METRICS),
]
