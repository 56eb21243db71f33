// AdamW over all parameters, as a framework's fused optimizer does it: the gradient clipped by its norm, moments in
// f32, decoupled decay, corrections for the first steps, and a bf16 copy of the weights.
#include <cuda_bf16.h>
#include <cstdint>

// As one writes it: what is contracted to multiply-adds is the compiler's choice. A stride of the grid, one element a
// time, the copy rounded to nearest. `squares` is the gradient's sum of squares.
extern "C" __global__ void __launch_bounds__(128) adamw(
    const float* __restrict__ g, float* __restrict__ p, float* __restrict__ m, float* __restrict__ v,
    __nv_bfloat16* __restrict__ copy, const float* __restrict__ squares, int n, int t, float most, float lr,
    float beta1, float beta2, float eps, float decay) {
  float clip = fminf(1.f, most / sqrtf(*squares));
  // Powers by squaring.
  float power1 = 1.f, power2 = 1.f, base1 = beta1, base2 = beta2;
  for (int e = t; e; e >>= 1, base1 *= base1, base2 *= base2) if (e & 1) { power1 *= base1; power2 *= base2; }
  float correction1 = 1.f - power1, correction2 = 1.f - power2;
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < n; i += gridDim.x * blockDim.x) {
    float grad = g[i] * clip;
    float first = beta1 * m[i] + (1.f - beta1) * grad;
    float second = beta2 * v[i] + (1.f - beta2) * grad * grad;
    float w = p[i] * (1.f - lr * decay) - lr * (first / correction1) / (sqrtf(second / correction2) + eps);
    m[i] = first;
    v[i] = second;
    p[i] = w;
    copy[i] = __float2bfloat16_rn(w);
  }
}

// In the order of roundings that this project's kernel `adamw_split` documents (kernels/src/adamw.rs,
// kernels/src/dither.rs): the same bits. That one keeps the rounded weights and the lower halves of their bits, this
// one the weights and a rounded copy. Four elements a thread, those behind the last four one by one.
struct Coefficients {
  float weight_factor, beta1, gradient_weight, beta2, square_weight, root_correction, eps, step_size;
};
__device__ void step(float grad, float& p, float& m, float& v, const Coefficients& c) {
  m = __fmaf_rn(c.gradient_weight, grad, __fmul_rn(c.beta1, m));
  v = __fmaf_rn(c.square_weight, __fmul_rn(grad, grad), __fmul_rn(c.beta2, v));
  float below = __fadd_rn(__fdiv_rn(__fsqrt_rn(v), c.root_correction), c.eps);
  p = __fsub_rn(__fmul_rn(p, c.weight_factor), __fdiv_rn(__fmul_rn(c.step_size, m), below));
}
// The upper half, one more where the index's 16 bits carry over the lower half.
__device__ unsigned short dithered(float value, uint32_t index) {
  uint32_t u = index * 0x9e3779b1u;
  u = (u ^ u >> 15) * 0x85ebca6bu;
  u = (u ^ u >> 13) * 0xc2b2ae35u;
  uint32_t bits = __float_as_uint(value);
  return (value != value ? bits | 0x400000u : bits + (u >> 16)) >> 16;
}
extern "C" __global__ void __launch_bounds__(256) adamw_in_order(
    const float* __restrict__ g, float* __restrict__ p, float* __restrict__ m, float* __restrict__ v,
    unsigned short* __restrict__ copy, const float* __restrict__ scale, unsigned long long n, float factor,
    float weight_factor, float beta1, float gradient_weight, float beta2, float square_weight, float root_correction,
    float eps, float step_size) {
  Coefficients c = {weight_factor, beta1, gradient_weight, beta2, square_weight, root_correction, eps, step_size};
  float all = __fmul_rn(*scale, factor);
  if (!isfinite(all)) return;
  size_t first = 4 * ((size_t)blockIdx.x * blockDim.x + threadIdx.x);
  if (first + 4 <= n) {
    float4 grad = *(const float4*)(g + first), w = *(float4*)(p + first),
           m4 = *(float4*)(m + first), v4 = *(float4*)(v + first);
    step(__fmul_rn(grad.x, all), w.x, m4.x, v4.x, c);
    step(__fmul_rn(grad.y, all), w.y, m4.y, v4.y, c);
    step(__fmul_rn(grad.z, all), w.z, m4.z, v4.z, c);
    step(__fmul_rn(grad.w, all), w.w, m4.w, v4.w, c);
    *(float4*)(p + first) = w;
    *(float4*)(m + first) = m4;
    *(float4*)(v + first) = v4;
    *(ushort4*)(copy + first) = make_ushort4(
        dithered(w.x, first), dithered(w.y, first + 1), dithered(w.z, first + 2), dithered(w.w, first + 3));
  } else {
    for (size_t i = first; i < n; ++i) {
      float w = p[i], m1 = m[i], v1 = v[i];
      step(__fmul_rn(g[i], all), w, m1, v1, c);
      p[i] = w;
      m[i] = m1;
      v[i] = v1;
      copy[i] = dithered(w, i);
    }
  }
}
