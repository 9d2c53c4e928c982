"""Seeded defects of csrc/cpu/: every kernel, stage and target.

What no mutant is for: AVX-512 and NEON, which not every machine can run; backend.cpp, parallel and
dispatch, which no driver includes; how much memory scratch has and how far beyond a row a kernel
reads, which the sanitizers see; and codes that no forward wrote. The suite has those.
"""

from __future__ import annotations

from .mutant import Mutant


def of(file: str, *rows: tuple[str, str, str]) -> list[Mutant]:
    """Defects of a file: old text, new text, variants of kernels.py with commas between."""
    found = []
    for old, new, variants in rows:
        names = tuple(f"kernels {variant.strip()}" for variant in variants.split(","))
        found.append(Mutant(f"csrc/cpu/{file}", old, new, names))
    return found


ALL_FUSED = "fused 2, fused 3, fused 1"

SHARED = of(
    "stages/vertical_taps.cpp",
    ("h.stride * i + a - h.before", "h.stride * i + a", "staged"),
    ("if (u >= 0) taps.push_back", "if (u > 0) taps.push_back", "staged"),
    ("++] = {i, tap.weight}", "++] = {i, -tap.weight}", "staged"),
) + of(
    "codes/layout.h",
    ("(p.w.size > p.w.pooled() ? p.w.size : p.w.pooled())", "p.w.size", "staged"),
    ("(code_row_length(p) + 7) / 8", "code_row_length(p) / 8", "staged"),
    ("(plane * p.code_bits() + bitplane) * p.h", "(plane + bitplane) * p.h", "staged"),
) + of(
    "codes/bits.h",
    ("low >> shift | high << 1", "low >> shift | high", "staged"),
    ("| uint64_t(at[8]) << 1", "| uint64_t(at[8])", "fused 2, fused 3"),
    ("const uint64_t rest = from[w] & mask & first_bits(n)", "const uint64_t rest = from[w]",
     "staged, fused 2"),
    ("else if (left >= 2) put_ends(uint16_t())", "else if (left >= 2) *bytes = uint8_t(rest)",
     "staged"),
    ("word = filled ? bits >> (more - filled) : 0", "word = 0", "staged"),
    ("for (int k = 0; at + k < end; ++k) bits", "for (int k = 1; at + k < end; ++k) bits",
     "staged"),
    ("& first_bits(more);\n      word", ";\n      word", "staged"),
) + of(
    "simd/float16.h",
    ("(magnitude - kRebias + 0xfff", "(magnitude - kRebias + 0x1000", "half"),
    ("magnitude >= kOverflow ? 0x7c00", "magnitude >= kOverflow ? 0x7bff", "half"),
    ("magnitude > kInfinity ? 0x7e00", "magnitude > kInfinity ? 0x7c00", "half"),
    ("(word + 0x7fff + (word >> 16 & 1)) >> 16", "word >> 16", "bfloat16"),
    ("value != value ? 0x7fc0 : rounded", "rounded & 0xff80", "bfloat16"),
    ("magnitude >= 0x7c00 ? shifted | 0x7f800000 : word", "word", "half"),
)  # fmt: skip

STAGES = of(
    "stages/select.h",
    ("within(p.w.pad - c), high", "within(p.w.pad - c - 1), high", "staged"),
    ("high = within(p.w.size + p.w.pad - c)", "high = within(p.w.size + p.w.pad)", "staged"),
    ("V::to_bits(V::greater(candidate, top)));\n        top = V::max(candidate, top);\n        sum",
     "V::to_bits(V::greater(top, candidate)));\n        top = V::max(candidate, top);\n        sum",
     "staged"),
    ("sum = V::add(sum, candidate);", "", "staged"),
    ("if (c <= pad_columns) takes |=", "if (c < pad_columns) takes |=", "staged"),
    ("const V candidate = V::if_then_else(V::to_mask(exists), raw, lowest)", "const V candidate = raw",
     "staged"),
    ("sum = V::add(sum, raw);", "", "staged"),
    ("take(r, i, V::load(best + i + r * pitch), top)", "take(r, i, V::load(best + i), top)",
     "staged"),
    ("take(n_rows, i, top, zero);", "zero = V::max(top, zero);", "staged"),
    ("index >> b & 1 ? bitplane[b] | won : bitplane[b] & ~won", "bitplane[b] | won", "staged"),
    ("const uint64_t won = r > 0 ? row[r][w] : ~uint64_t(0)", "const uint64_t won = row[r][w]",
     "staged"),
    ("unsigned(first_row + r), won)", "unsigned(r), won)", "staged"),
    ("if (kRelu) name(in_row, n_row, unsigned(K ? K : p.h.pool), ~row[n_rows][w]);", "",
     "staged"),
    ("all &= index >> b & 1 ? bitplane[b] : ~bitplane[b]", "all &= bitplane[b]", "staged"),
) + of(
    "stages/blur.h",
    ("for (; i + L <= n; i += L) at(i, [](const E* p) { return V::load(p); });",
     "for (; i + L < n; i += L) at(i, [](const E* p) { return V::load(p); });\n  i += L;",
     "staged"),
    ("for (int64_t v = -w.before; v < 0; ++v) add(v);\n  for (int64_t v = w.pooled(); v < "
     "w.pooled() + w.after; ++v) add(v);\n  return borders;",
     "for (int64_t v = -w.before; v < 0; ++v) add(v);\n  return borders;", "staged"),
    ("row[to] = from < 0 ? S(0) : row[from]", "row[to] = row[from < 0 ? 0 : from]", "staged"),
    ("if (i + L > n) sum.store_n(out + i, int(n - i));\n      else if (stream)",
     "if (stream)", "staged"),
    ("constexpr int from_end = F - 1 - b()", "constexpr int from_end = b()", "staged"),
    ("even_before = even, odd_before = odd;", "even_before = odd, odd_before = even;", "staged"),
    ("if (b + 1 < n_taps) sum = V::fma(tap(b + 1), odd, sum);", "", "staged"),
    ("sum += taps[b] * m[stride * j + b]", "sum += taps[b] * m[stride * j]", "staged"),
    ("b < n_taps; b += 2) add(b, b / 2);\n    } else if",
     "b < n_taps; b += 2) add(b, b);\n    } else if", "staged"),
    ("if (before % 2 && columns) column(v++)", "if (before % 2 && columns) v++", "staged"),
    ("if (odd) V::interleave(other, even, low, high)", "if (odd) V::interleave(even, other, low, "
     "high)", "staged"),
    ("if (b <= q && from < w.out()) folds", "if (from < w.out() - 1) folds", "staged"),
    ("*to += fold.weight * *from", "*to = fold.weight * *from", "staged"),
    ("V::load(dv + t - b / stride)", "V::load(dv + t)", "staged"),
    ("(before - phase + stride - 1) / stride : 0", "(before - phase) / stride : 0", "staged"),
    ("min(L, (end - q + stride - 1) / stride)", "min(L, (end - q) / stride)", "staged"),
) + of(
    "kernels/sweep.h",
    ("(u * p.h.out() + p.h.pooled() - 1) / p.h.pooled()", "u * p.h.out() / p.h.pooled() + 1",
     "staged"),
    ("start + rows_per_plane < end ? start + rows_per_plane : end", "end", "staged"),
    ("mask |= mask << n", "mask = mask", "staged, fused 2"),
    ("if (i < n) V::load_masked", "if (i > n) V::load_masked", "staged"),
    ("const bool joined = alike &&", "const bool joined = true ||", "staged, fused 2"),
) + of(
    "kernels/forward_rows.h",
    ("first_row_ = max(0, tile.first - h.pad)", "first_row_ = max(0, tile.first)", "staged"),
    ("if (has_nonfinite) max_of_columns<true>", "if (false) max_of_columns<true>", "staged"),
    ("n_rows = h.end_candidate(first) - begin;\n    const int64_t pitch", "n_rows = h.pool - "
     "begin;\n    const int64_t pitch", "staged"),
) + of(
    "kernels/forward.h",
    ("own_weight[n_own - 1] += S(tap.weight)", "own_weight[n_own - 1] = S(tap.weight)",
     "staged"),
    ("h.stride * j + a - h.before, h.size, p.border", "h.stride * j + a, h.size, p.border",
     "staged"),
    ("row[a] = u < 0 ? zeros[0]", "row[a] = u < 0 ? in", "staged"),
) + of(
    "kernels/backward.h",
    ("for (int64_t i = sweep_.m_row; i < sweep_.pitch; ++i) row[i] = 0;", "", "staged"),
    ("fold_columns<V>(folds_, p.pixel_stride(), dv_[u - first], row);", "", "staged"),
    ("V::load(row[r] - c * pixel_stride)", "V::load(row[r])", "staged"),
    ("sum = V::add(sum, of_row)", "sum = of_row", "staged"),
    ("first = at + (p.h.pad - r - first_) * sweep_.pitch", "first = at + (p.h.pad - first_) * "
     "sweep_.pitch", "staged"),
    ("BitReader from(won_[r * p.w.pool + c], first - c * p.pixel_stride())",
     "BitReader from(won_[r * p.w.pool + c], first)", "staged"),
    ("won_.stride() - p.pixel_stride() / 8", "won_.stride()", "staged"),
)  # fmt: skip

FUSED = of(
    "kernels/forward_fused.h",
    ("if (k < 0 || k >= size()) all_ = false;", "if (k < 0 || k >= size()) continue;",
     ALL_FUSED),
    ("reached_ = finite ? i1 : -1", "reached_ = i1", ALL_FUSED),
    ("row >= -h.pad && row < h.size + h.pad ? nullptr", "false ? nullptr", "fused 3"),
    ("V::select(lower, second_[i + 1], second_[i])", "second_[i]", "fused 2"),
    ("V::select(positive, nobody, V::to_mask(~0u))", "nobody", "fused 2"),
    ("if (c == 0 || !kInterior) sum_ = V::add(sum_, raw);", "", ALL_FUSED),
    ("for (int j = 0; j < kPairs - 1; ++j) partial_[j].store(carry_", "for (int j = 1; j < kPairs - 1; "
     "++j) partial_[j].store(carry_", ALL_FUSED),
    ("before_.store(carry_ + (K - 1) * b_.carry_row)", "static_cast<void>(0)", ALL_FUSED),
    ("if (kNames) V::put_mask(carry_second_, second_[2]);", "", "fused 2"),
    ("V::fma(V::set1(weight[-1]), before_, V::set1(0))", "V::set1(0)", ALL_FUSED),
    ("take(row_[K] + at, top, floor);", "floor = V::max(top, zero);", "fused 3, fused 1"),
) + of(
    "kernels/backward_fused_nchw.h",
    ("sweep_.m_row - block * kBlock - f + 1", "sweep_.m_row - block * kBlock + 1", ALL_FUSED),
    ("1u << (v / 2), v % 2 != 0", "1u << (v / 2), v % 2 == 0", ALL_FUSED),
    ("high = V::fma(odd_weight[k], y[kEven - kOdd + k], high)",
     "high = V::fma(odd_weight[k], y[k], high)", "fused 2, fused 3"),
    ("const int64_t reach = max(x0 + p.h.pad - K + 1, 0) + p.h.before;\n    const int64_t end",
     "const int64_t reach = x0 + p.h.pad + p.h.before;\n    const int64_t end", "fused 2"),
) + of(
    "kernels/backward_fused_nhwc.h",
    ("for (int h = 0; h < kHistory; ++h) sums_.dv[e][h] = dv[e][h];",
     "for (int h = 0; h < kHistory; ++h) sums_.dv[e][h] = dv[e][h + 1];", "fused 2, fused 3"),
    ("return min(k * L, channels_ - L)", "return k * L", ALL_FUSED),
    ("high = V::fma(odd_[a], y[kEven - kOdd + a], high)", "high = V::fma(odd_[a], y[a], high)",
     "fused 2, fused 3"),
    ("if (fold.to != v) continue;", "if (fold.to == v) continue;", "fused 2, fused 3"),
    ("route(dm[1][c], code_[1], sums_.of + 1)", "route(dm[1][c], code_[0], sums_.of + 1)", "fused 2"),
    ("sums_.of[r][0].store(partial_ + (r - 2) * L)", "sums_.of[r][0].store(partial_)", "fused 3"),
) + of(
    "stages/routing.h",
    ("column_[0] = V::neither(column_[1], column_[1])", "column_[0] = column_[1]", "fused 2"),
    ("if (relu) of_row_[0] = V::if_then_else(mask(kRow + 1), zero, of_row_[0])", "", "fused 2"),
    ("if (relu) of_row_[2] = V::if_then_else(second, zero, of_row_[2]);", "", "fused 3"),
    ("of_row_[0] = relu ? V::if_then_else(mask(kRow), zero, dm) : dm", "of_row_[0] = dm", "fused 1"),
    ("V::neither(column_[1], column_[2])", "V::neither(column_[1], column_[1])", "fused 3"),
    ("return interior;", "return true;", "fused 2, fused 3"),
)  # fmt: skip

TARGETS = of(
    "simd/generic.h",
    ("return {candidate.v > best.v ? candidate.v : best.v};", "return {candidate.v < best.v ? "
     "candidate.v : best.v};", "staged"),
    ("(candidate.v > best.v) | (candidate.v != candidate.v)", "candidate.v > best.v", "staged"),
    ("return {m ? yes.v : no.v}", "return {m ? no.v : yes.v}", "staged"),
    ("if (lanes >> i & 1) r.v[i] = S(p[i])", "r.v[i] = S(p[i])", "staged"),
    ("lo.v, hi.v, 1, 3, 5, 7, 9, 11, 13, 15", "lo.v, hi.v, 1, 3, 5, 7, 9, 11, 13, 14", "staged"),
    ("before.v, here.v, kLanes - k + i...", "before.v, here.v, kLanes - k - 1 + i...", "staged"),
    ("0, 8, 1, 9, 2, 10, 3, 11", "8, 0, 1, 9, 2, 10, 3, 11", "staged"),
) + of(
    "simd/avx2.h",
    ("_mm256_max_ps(candidate.v, best.v)", "_mm256_min_ps(candidate.v, best.v)", "avx2"),
    ("_mm256_cmp_ps(candidate.v, candidate.v, _CMP_UNORD_Q)", "_mm256_setzero_ps()", "avx2"),
    ("_mm256_blendv_ps(no.v, yes.v, m)", "_mm256_blendv_ps(yes.v, no.v, m)", "avx2"),
    ("_mm256_slli_epi32(_mm256_cvtepu16_epi32(raw), 16)", "_mm256_slli_epi32("
     "_mm256_cvtepi16_epi32(raw), 15)", "avx2 bfloat16"),
    ("_mm256_add_epi32(lsb, _mm256_set1_epi32(0x7fff))", "_mm256_set1_epi32(0x8000)",
     "avx2 bfloat16"),
    ("_MM_FROUND_TO_NEAREST_INT |", "_MM_FROUND_TO_ZERO |", "avx2 half"),
    ("_mm256_packus_epi32(high, high), 0x08", "_mm256_packus_epi32(high, high), 0x04",
     "avx2 bfloat16"),
    ("_mm256_alignr_epi8(all, mid, 16 - 4 * k)", "_mm256_alignr_epi8(all, mid, 12 - 4 * (k % 4))",
     "avx2"),
    ("even = {_mm256_shuffle_ps(a, b, 0x88)}", "even = {_mm256_shuffle_ps(a, b, 0x98)}", "avx2"),
) + of(
    "simd/avx2_f64.h",
    ("_mm256_max_pd(candidate.hi, best.hi)", "_mm256_max_pd(candidate.hi, best.lo)",
     "avx2 double"),
    ("_mm256_movemask_pd((__m256d)m.hi) << 4", "_mm256_movemask_pd((__m256d)m.lo) << 4",
     "avx2 double"),
    ("_mm256_fmadd_pd(a.hi, b.hi, c.hi)", "_mm256_fmadd_pd(a.hi, b.hi, c.lo)", "avx2 double"),
    ("lo.lo, lo.hi, 1, 3, 5, 7", "lo.lo, lo.hi, 1, 3, 5, 6", "avx2 double"),
    ("sum.hi + _mm256_and_pd((__m256d)m.hi, term.hi)", "sum.hi + term.hi", "avx2 double"),
)  # fmt: skip

MUTANTS = [*SHARED, *STAGES, *FUSED, *TARGETS]
