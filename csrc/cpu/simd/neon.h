// A vector of eight float32 lanes in two registers, with NEON, which every 64-bit Arm processor
// has. vector.h describes the interface. Each operation gives the bits that Avx2F32's gives.
#pragma once

#include "cpu/simd/vector.h"

namespace fastblur::cpu::FASTBLUR_CPU_TARGET {

struct NeonF32 {
  using Scalar = float;
  using LaneBits = uint8_t;
  struct Mask {
    uint32x4_t lo, hi;
  };
  static constexpr int kLanes = 8;

  float32x4_t lo, hi;

  static NeonF32 set1(float s) { return {vdupq_n_f32(s), vdupq_n_f32(s)}; }

  static NeonF32 load(const float* p) { return {vld1q_f32(p), vld1q_f32(p + 4)}; }
  static NeonF32 load(const Half* p) {
    const float16x8_t raw = vreinterpretq_f16_u16(vld1q_u16(&p->bits));
    return {vcvt_f32_f16(vget_low_f16(raw)), vcvt_high_f32_f16(raw)};
  }
  static NeonF32 load(const BFloat16* p) {
    const uint16x8_t raw = vld1q_u16(&p->bits), zero = vdupq_n_u16(0);
    return {vreinterpretq_f32_u16(vzip1q_u16(zero, raw)),
            vreinterpretq_f32_u16(vzip2q_u16(zero, raw))};
  }
  template <class T>
  static NeonF32 load_masked(const T* p, LaneBits lanes) {
    T lane[kLanes] = {};
    for (int i = 0; i < kLanes; ++i)
      if (lanes >> i & 1) lane[i] = p[i];
    return load(lane);
  }

  void store(float* p) const { vst1q_f32(p, lo), vst1q_f32(p + 4, hi); }
  void store(Half* p) const {
    vst1q_u16(&p->bits, vreinterpretq_u16_f16(vcvt_high_f16_f32(vcvt_f16_f32(lo), hi)));
  }
  void store(BFloat16* p) const {
    const auto halves = [](float32x4_t v) { return vreinterpretq_u16_u32(rounded(v)); };
    vst1q_u16(&p->bits, vuzp2q_u16(halves(lo), halves(hi)));
  }
  template <class T>
  void store_n(T* p, int n) const {
    T lane[kLanes];
    store(lane);
    std::memcpy((void*)p, lane, size_t(n) * sizeof(T));
  }

  // Stores that bypass the caches have no intrinsic.
  template <class T>
  void stream(T* p) const {
    store(p);
  }
  template <class T>
  void stream_n(T* p, int) const {
    static_assert(kLanes * sizeof(float) <= kPiece);  // so one piece holds all lanes
    store(p);
  }
  static void fence() {}

  static NeonF32 add(NeonF32 a, NeonF32 b) {
    return {vaddq_f32(a.lo, b.lo), vaddq_f32(a.hi, b.hi)};
  }
  static NeonF32 fma(NeonF32 a, NeonF32 b, NeonF32 c) {
    return {vfmaq_f32(c.lo, a.lo, b.lo), vfmaq_f32(c.hi, a.hi, b.hi)};
  }
  static Mask greater(NeonF32 candidate, NeonF32 best) {
    return {vcgtq_f32(candidate.lo, best.lo), vcgtq_f32(candidate.hi, best.hi)};
  }
  // Returns `best` where the two are equal. FMAX would return 0 of -0 and 0.
  static NeonF32 max(NeonF32 candidate, NeonF32 best) {
    return if_then_else(greater(candidate, best), candidate, best);
  }
  static Mask beats(NeonF32 candidate, NeonF32 best) {
    // Of the larger ones and of those that equal themselves, which a NaN does not.
    const Mask more = greater(candidate, best);
    return {vornq_u32(more.lo, vceqq_f32(candidate.lo, candidate.lo)),
            vornq_u32(more.hi, vceqq_f32(candidate.hi, candidate.hi))};
  }
  static NeonF32 if_then_else(Mask m, NeonF32 yes, NeonF32 no) {
    return {vbslq_f32(m.lo, yes.lo, no.lo), vbslq_f32(m.hi, yes.hi, no.hi)};
  }
  static NeonF32 add_where(Mask m, NeonF32 sum, NeonF32 term) {
    const auto masked = [](uint32x4_t mask, float32x4_t v) {
      return vreinterpretq_f32_u32(vandq_u32(mask, vreinterpretq_u32_f32(v)));
    };
    return add(sum, {masked(m.lo, term.lo), masked(m.hi, term.hi)});
  }
  static Mask neither(Mask a, Mask b) {
    return {vmvnq_u32(vorrq_u32(a.lo, b.lo)), vmvnq_u32(vorrq_u32(a.hi, b.hi))};
  }
  static Mask select(Mask m, Mask yes, Mask no) {
    return {vbslq_u32(m.lo, yes.lo, no.lo), vbslq_u32(m.hi, yes.hi, no.hi)};
  }

  static LaneBits to_bits(Mask m) {
    const uint32x4_t lo = {1, 2, 4, 8}, hi = {16, 32, 64, 128};
    return LaneBits(vaddvq_u32(vorrq_u32(vandq_u32(m.lo, lo), vandq_u32(m.hi, hi))));
  }
  static Mask to_mask(unsigned bits) { return tested(vdupq_n_u32(bits), 0, 1); }
  // In all bytes of each lane, so that one instruction can load it.
  static Mask mask_at(const uint8_t* p) {
    return tested(vreinterpretq_u32_u8(vld1q_dup_u8(p)), 0, 1);
  }
  template <int first>
  static Mask mask_of_pairs(const uint8_t* p) {
    uint16_t bits;
    std::memcpy(&bits, p, sizeof bits);
    return tested(vreinterpretq_u32_u16(vdupq_n_u16(bits)), first, 2);
  }
  static void put_mask(uint8_t* p, Mask m) { *p = to_bits(m); }
  static NeonF32 held(NeonF32 v) {
    asm("" : "+w"(v.lo), "+w"(v.hi));
    return v;
  }

  template <int k>
  static NeonF32 join(NeonF32 before, NeonF32 here) {
    const float32x4_t all[] = {before.lo, before.hi, here.lo, here.hi};
    constexpr int from = (kLanes - k) / 4, lane = (kLanes - k) % 4;
    return {vextq_f32(all[from], all[from + 1], lane),
            vextq_f32(all[from + 1], all[from + 2], lane)};
  }
  static void deinterleave(NeonF32 lo, NeonF32 hi, NeonF32& even, NeonF32& odd) {
    even = {vuzp1q_f32(lo.lo, lo.hi), vuzp1q_f32(hi.lo, hi.hi)};
    odd = {vuzp2q_f32(lo.lo, lo.hi), vuzp2q_f32(hi.lo, hi.hi)};
  }
  static void interleave(NeonF32 even, NeonF32 odd, NeonF32& lo, NeonF32& hi) {
    lo = {vzip1q_f32(even.lo, odd.lo), vzip2q_f32(even.lo, odd.lo)};
    hi = {vzip1q_f32(even.hi, odd.hi), vzip2q_f32(even.hi, odd.hi)};
  }

 private:
  // Whether bits first, first + apart, first + 2 * apart ... of each lane are set, one for a lane.
  static Mask tested(uint32x4_t bits, int first, int apart) {
    const auto lane = [&](int i) { return 1u << (first + apart * i); };
    return {vtstq_u32(bits, uint32x4_t{lane(0), lane(1), lane(2), lane(3)}),
            vtstq_u32(bits, uint32x4_t{lane(4), lane(5), lane(6), lane(7)})};
  }
  // Rounds to bfloat16, in the upper half of each lane.
  static uint32x4_t rounded(float32x4_t v) {
    const uint32x4_t bits = vreinterpretq_u32_f32(v);
    const uint32x4_t lsb = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
    const uint32x4_t even = vaddq_u32(bits, vaddq_u32(lsb, vdupq_n_u32(0x7fff)));
    return vbslq_u32(vceqq_f32(v, v), even, vdupq_n_u32(0x7fc00000));
  }
};
static_assert(Fusable<NeonF32>);

}  // namespace fastblur::cpu::FASTBLUR_CPU_TARGET
