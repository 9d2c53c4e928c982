"""One call of the Triton backend: its sizes, and the kernels it launches."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch._library.triton import is_wrap_triton_enabled, set_wrap_triton_enabled
from torch._subclasses.fake_tensor import FakeTensor
from torch.fx.experimental.symbolic_shapes import statically_known_true

from ..._dispatch.operators import Size, memory_format
from ..._geometry import Geometry
from ..specialised import is_specialised
from . import backward, codes_of, forward, generic
from .registers import launcher

INTERPRETED: bool = triton.knobs.runtime.interpret
_LANES = 128  # of a generic kernel's program
_THREADS = 128  # of a sweeping one's
# Rows are cut into chunks where the images alone make fewer programs than this, some for each of a
# large GPU's multiprocessors, but not into chunks of fewer steps: their neighbours read rows twice.
_PROGRAMS = 1024
_MIN_CHUNK = 8


class Call:
    """A checked call: what ``_dispatch/operators.py`` runs. Sizes are symbolic where it is traced.

    Raises:
        TypeError, ValueError: the sizes do not fit; nothing has been run.
    """

    def __init__(
        self, geometry: Geometry, size: Size, channels_last: bool, beside: Tensor, traced: bool
    ) -> None:
        self.geometry, self.input_size, self.channels_last = geometry, size, channels_last
        self._traced = traced
        if all(isinstance(n, int) for n in size):
            geometry.check_input(beside.new_empty((0, *size[1:])))
        n, c, h, w = size
        self.images, self.channels, self.height, self.width = size
        self.m_h, self.m_w = geometry.pooled_size(h, w)
        self.y_h, self.y_w = geometry.output_size(h, w)
        self.output_size = (n, c, self.y_h, self.y_w)
        self.codes_shape, self.codes_dtype = codes_of(geometry, size, channels_last)
        rows, strips = (1, 2) if channels_last else (2, 3)
        self.rows, self.strips = self.codes_shape[rows], self.codes_shape[strips]
        self.dtype = beside.dtype
        self.gpu = _gpu(beside.device)
        self.sum_type = torch.float64 if beside.dtype == torch.float64 else torch.float32

    # ---- the three operators ----

    def forward(self, x: Tensor, need_codes: bool) -> tuple[Tensor, Tensor]:
        none = x.new_empty((self.images, 0), dtype=self.codes_dtype)
        with self._launching(x):
            if self.sweepes:
                codes = none
                if need_codes:
                    codes = x.new_empty(self.codes_shape, dtype=self.codes_dtype)
                y = self._empty(x, self.y_h, self.y_w)
                self._sweep(forward.forward, x, y, codes, CODES=need_codes)
                return y, codes
            codes = x.new_empty(self.codes_shape, dtype=self.codes_dtype)
            self._choose(x, codes)
            y = self._blur(self._select(x, codes))
        return y, codes if need_codes else none

    def backward(self, dy: Tensor, codes: Tensor) -> Tensor:
        with self._launching(dy):
            if self.sweepes:
                dx = self._empty(dy, self.height, self.width)
                self._sweep(backward.backward, dx, dy, codes)
                return dx
            return self._route(self._spread(dy), codes)

    def apply(self, x: Tensor, codes: Tensor) -> Tensor:
        if self.geometry.linear:  # a blur has no winners: this is forward, whose kernels are faster
            return self.forward(x, False)[0]
        with self._launching(x):
            return self._blur(self._select(x, codes))

    # ---- memory ----

    def _empty(
        self, like: Tensor, height: int, width: int, dtype: torch.dtype | None = None
    ) -> Tensor:
        return torch.empty(
            (self.images, self.channels, height, width),
            dtype=dtype or like.dtype,
            device=like.device,
            memory_format=memory_format(self.channels_last),
        )

    # ---- launches ----

    @contextlib.contextmanager
    def _launching(self, x: Tensor) -> Iterator[None]:
        """Triton launches on the current device, whatever its arguments are on."""
        with contextlib.ExitStack() as stack:
            stack.enter_context(set_wrap_triton_enabled(self._traced))
            if not self._traced and x.device.type != "cpu":  # the interpreter's
                stack.enter_context(torch.get_device_module(x.device).device_of(x))
            yield

    def _launch_generic(self, kernel: Any, out: Tensor, *arguments: Any, **constants: Any) -> None:
        """One lane for each element of ``out``: ``kernel(*tensors, count, *sizes)``."""
        count = out.numel()
        if isinstance(count, int) and count == 0:
            return
        lanes = _LANES
        if INTERPRETED:  # which takes as long for one lane as for many
            lanes = triton.next_power_of_2(min(count, 1 << 18))
        tensors = [a for a in arguments if isinstance(a, Tensor)]
        _launcher(kernel)[((count + lanes - 1) // lanes,)](
            *tensors,
            count,
            *arguments[len(tensors) :],
            **constants,
            SUM=tl.float64 if self.sum_type == torch.float64 else tl.float32,
            LANES=lanes,
        )

    def _launch_max(self, kernel: Any, out: Tensor, *tensors: Tensor, **constants: Any) -> None:
        (k_h, k_w), (p_h, p_w) = self.geometry.kernel_size, self.geometry.padding
        column_bits = (k_w - 1).bit_length()
        self._launch_generic(
            kernel,
            out,
            *tensors,
            self.channels,
            *(self.height, self.width, self.m_h, self.m_w, self.rows, self.strips),
            **dict(KH=k_h, KW=k_w, PH=p_h, PW=p_w),
            CHANNELS_LAST=self.channels_last,
            COLUMN_BITS=column_bits,
            ROW_BITS=self.geometry.code_bits - column_bits,
            **constants,
        )

    def _launch_blur(self, kernel: Any, source: Tensor, out: Tensor, axis: int) -> None:
        """Along the rows of a map (axis 0) or along its columns (axis 1)."""
        g = self.geometry
        taps, stride = (g.taps_h, g.taps_w)[axis], g.stride[axis]
        before, after = g.blur_padding[2 * axis : 2 * axis + 2]
        size, outputs = ((self.m_h, self.y_h), (self.m_w, self.y_w))[axis]
        inner = self.channels if self.channels_last else 1
        if axis == 0:
            inner = inner * out.shape[3]
        # Outputs that read an element; with replicated padding also those that read its copies.
        span = len(taps) + (before + after if g.padding_mode == "replicate" else 0)
        numbers = (span + stride - 1) // stride + 1
        folds = g.padding_mode in ("reflect", "circular") and before + after > 0
        self._launch_generic(
            kernel,
            out,
            *(source, out, size, outputs, inner),
            numbers,
            **dict(TAPS=taps, STRIDE=stride, BEFORE=before, MODE=g.padding_mode),
            POSITIONS=3 if folds else 1,
        )

    # ---- the kernels that sweep an image ----

    @property
    def sweepes(self) -> bool:
        """Whether they are for this call; their offsets within a program have 32 bits."""
        if not is_specialised(self.geometry, self.input_size, self.dtype):
            return False
        if isinstance(self.width, int) and self.width >= 2**23:
            return False
        lines = 1 if self.channels_last else self.height
        extent = lines * self.width * (self.channels if self.channels_last else 1)
        return not isinstance(extent, int) or extent < 2**28

    def kernels(self) -> str:
        """Which kernels run the call, for people."""
        if not self.sweepes:
            return "generic"
        layout = "channels_last" if self.channels_last else "contiguous"
        return layout if self._whole else f"{layout}, rows not of whole strips"

    @property
    def _pairs(self) -> bool:
        """Whether whole rows of x make rows of y that are read and written in pairs."""
        (k, _), (p, _) = self.geometry.kernel_size, self.geometry.padding
        return not self.channels_last and k - 1 - 2 * p < 2

    @property
    def _whole(self) -> bool:
        """Whether rows of x are known to be strips of four columns, so that loads are wide."""
        return statically_known_true(self.width % 4 == 0) and (
            not self._pairs or statically_known_true(2 * self.y_w == self.width)
        )

    def _sweep(self, kernel: Any, x: Tensor, y: Tensor, codes: Tensor, **constants: Any) -> None:
        """``x`` is x or dx, ``y`` is y or dy."""
        if isinstance(self.images, int) and self.images == 0:
            return
        g = self.geometry
        k, p, f = g.kernel_size[0], g.padding[0], len(g.taps_h)
        ahead = f - 2 - (f - 1) // 2
        whole = self._whole
        pairs = self._pairs and whole
        packed = bool(constants) and _is_packed(self)
        flags = dict(PACKED=packed, PTX=self.gpu.capability >= 80) if constants else {}
        if packed:
            x = _in_whole_words(x)
        strips_of, channels_of, warps = _program(self, packed)
        strips = (self.m_w + 3) // 4
        swept = strips if constants else (self.width + 3) // 4
        if self.channels_last:
            blocks = (
                self.images
                * _cdiv(swept, strips_of)
                * _cdiv(self.channels, channels_of * (2 if packed else 1))
            )
        else:
            blocks = _cdiv(self.images * self.channels * swept, strips_of)
        if constants:  # forward
            steps = torch.sym_max(self.y_h, (self.m_h - 1 - ahead) // 2 + 1)
        else:
            steps = (self.height - 1 + p - ahead) // 2 + 1 - (p - ahead) // 2
        chunks = torch.sym_max(torch.sym_min(_cdiv(_PROGRAMS, blocks), steps // _MIN_CHUNK), 1)
        chunk = _cdiv(steps, chunks)
        _launcher(kernel)[(blocks, _cdiv(steps, chunk))](
            x,
            y,
            codes,
            self.images,
            self.channels,
            self.height,
            self.width // 4 if whole else self.width,
            self.m_h,
            self.y_h,
            self.y_w // 2 if pairs else self.y_w,
            strips,
            self.height + max(0, 2 * p - k + 1),
            steps,
            chunk,
            self.m_w - 4 * (strips - 1),
            **dict(K=k, P=p, TAPS_H=g.taps_h, TAPS_W=g.taps_w, MODE=g.padding_mode, RELU=g.relu),
            CHANNELS_LAST=self.channels_last,
            WHOLE=whole,
            **flags,
            STRIPS=strips_of,
            CHANNELS=channels_of,
            num_warps=warps,
            **constants,
        )

    # ---- the generic kernels ----

    def _choose(self, x: Tensor, codes: Tensor) -> None:
        if not self.geometry.linear:
            relu = self.geometry.relu
            self._launch_max(generic.choose, codes, x, codes, RELU=relu)

    def _select(self, x: Tensor, codes: Tensor) -> Tensor:
        if self.geometry.linear:
            return x
        m = self._empty(x, self.m_h, self.m_w)
        self._launch_max(generic.select, m, x, codes, m)
        return m

    def _blur(self, m: Tensor) -> Tensor:
        half = self._empty(m, self.y_h, self.m_w, self.sum_type)
        y = self._empty(m, self.y_h, self.y_w)
        self._launch_blur(generic.blur, m, half, axis=0)
        self._launch_blur(generic.blur, half, y, axis=1)
        return y

    def _spread(self, dy: Tensor) -> Tensor:
        dtype = dy.dtype if self.geometry.linear else self.sum_type
        half = self._empty(dy, self.y_h, self.m_w, self.sum_type)
        dm = self._empty(dy, self.m_h, self.m_w, dtype)
        self._launch_blur(generic.spread, dy, half, axis=1)
        self._launch_blur(generic.spread, half, dm, axis=0)
        return dm

    def _route(self, dm: Tensor, codes: Tensor) -> Tensor:
        if self.geometry.linear:
            return dm
        dx = self._empty(dm, self.height, self.width, self.dtype)
        self._launch_max(generic.route, dx, dm, codes, dx)
        return dx


def _program(call: Call, packed: bool) -> tuple[int, int, int]:
    """Strips and channels of a program, and its warps: 128 threads, so that many programs fit.

    In channels_last a thread has a vector of 4 channels, or of 2 where a 3 x 3 pool holds two rows
    of maxima or a 2 x 2 one has ReLU, unless they are PACKED: more do not fit its registers.
    Channels that are no multiple of 64 are cut into blocks of 32 or 16 where they are multiples of
    those. PACKED ones count in pairs, and have blocks of 32 or 16.
    """
    warps = _THREADS // call.gpu.warp
    if not call.channels_last:
        return 1024 if INTERPRETED else _THREADS, 1, warps
    count = call.channels // 2 if packed else call.channels
    if INTERPRETED:
        return 16, triton.next_power_of_2(count), warps
    channels = most = 32 if packed else 64
    while channels > 16 and not statically_known_true(count % channels == 0):
        channels //= 2
    if channels == 16 and not statically_known_true(count % 16 == 0):
        channels = most if not statically_known_true(count < most) else 16
    (pool, _), relu = call.geometry.kernel_size, call.geometry.relu
    lanes = _THREADS * (2 if packed or pool == 3 or (pool == 2 and relu) else 4)
    return lanes // channels, channels, warps


class Gpu(NamedTuple):
    capability: int  # of NVIDIA's, e.g. 90; else 0
    warp: int  # lanes of a warp


@functools.cache
def _gpu(device: torch.device) -> Gpu:
    """What programs depend on; of a fake tensor's device, where there is none to ask, nothing."""
    if INTERPRETED or device.type != "cuda" or not torch.cuda.is_available():
        return Gpu(0, 32)
    found = torch.cuda.get_device_properties(device)
    return Gpu(0 if torch.version.hip else 10 * found.major + found.minor, found.warp_size)


def _is_packed(call: Call) -> bool:
    """Whether forward compares two neighbouring 16-bit channels at once.

    Only where there are instructions for that: bfloat16's came later.
    """
    return (
        call.channels_last
        and not call.geometry.linear
        and call.gpu.capability >= {torch.float16: 80, torch.bfloat16: 90}.get(call.dtype, 1000)
        and statically_known_true(call.channels % 2 == 0)
    )


def _in_whole_words(x: Tensor) -> Tensor:
    """x, or where that begins in the middle of a 32-bit word, a copy.

    A fake tensor has no address and knows its offset alone.
    """
    known = is_wrap_triton_enabled() or isinstance(x, FakeTensor)
    start = x.storage_offset() * x.itemsize if known else x.data_ptr()
    return x.clone() if start % 4 else x


def _cdiv(a: Any, b: Any) -> Any:
    return (a + b - 1) // b


def _launcher(kernel: Any) -> Any:
    # The interpreter's kernels are not Triton's own, and torch wraps no others.
    return kernel if INTERPRETED else launcher(kernel)
