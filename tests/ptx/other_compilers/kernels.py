"""An optimizer, products and attention in Triton, compiled ahead of time to PTX: no GPU is needed."""
import triton
import triton.language as tl


@triton.jit
def adamw(g, p, m, v, copy, squares, n, most, lr, beta1, beta2, eps, decay, correction1, correction2, BLOCK: tl.constexpr):
    """AdamW of a gradient that is clipped by its norm, with a bf16 copy of the weights: roots and quotients as fast as can be."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    mask = at < n
    clip = tl.minimum(1.0, most / tl.sqrt(tl.load(squares)))
    grad = tl.load(g + at, mask) * clip
    first = beta1 * tl.load(m + at, mask) + (1 - beta1) * grad
    second = beta2 * tl.load(v + at, mask) + (1 - beta2) * grad * grad
    w = tl.load(p + at, mask) * (1 - lr * decay) - lr * (first / correction1) / (tl.sqrt(second / correction2) + eps)
    tl.store(p + at, w, mask)
    tl.store(m + at, first, mask)
    tl.store(v + at, second, mask)
    tl.store(copy + at, w.to(tl.bfloat16), mask)


@triton.jit
def matmul(a, b, c, M, N, K, am, ak, bk, bn, cm, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr):
    """Plain pointers: cp.async, ldmatrix and mma on sm_80; cp.async and wgmma on sm_90a."""
    i = tl.program_id(0) * BM + tl.arange(0, BM)
    j = tl.program_id(1) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    pa = a + i[:, None] * am + k[None, :] * ak
    pb = b + k[:, None] * bk + j[None, :] * bn
    acc = tl.zeros((BM, BN), tl.float32)
    for start in range(0, K, BK):
        x = tl.load(pa, (i[:, None] < M) & (k[None, :] + start < K), other=0.0)
        y = tl.load(pb, (k[:, None] + start < K) & (j[None, :] < N), other=0.0)
        acc = tl.dot(x, y, acc)
        pa += BK * ak
        pb += BK * bk
    tl.store(c + i[:, None] * cm + j[None, :], acc, (i[:, None] < M) & (j[None, :] < N))


@triton.jit
def matmul_tma_out(a, b, c, cm, K, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr,
                   AT: tl.constexpr, BT: tl.constexpr):
    """Tensor descriptors from the host. AT: a is [K, M]; BT: b is [N, K]. Writes by pointers."""
    i = tl.program_id(0) * BM
    j = tl.program_id(1) * BN
    acc = tl.zeros((BM, BN), tl.float32)
    for start in tl.range(0, K, BK):
        if AT:
            x = a.load([start, i]).T
        else:
            x = a.load([i, start])
        if BT:
            y = b.load([j, start]).T
        else:
            y = b.load([start, j])
        acc = tl.dot(x, y, acc)
    ii = i + tl.arange(0, BM)
    jj = j + tl.arange(0, BN)
    tl.store(c + ii[:, None] * cm + jj[None, :], acc)


@triton.jit
def attention(q, k, v, out, lse, T, scale, BM: tl.constexpr, BN: tl.constexpr, D: tl.constexpr,
              CAUSAL: tl.constexpr):
    """Flash attention, forward, of one head: q, k, v [T, D] by tensor descriptors."""
    i = tl.program_id(0) * BM
    rows = i + tl.arange(0, BM)
    x = q.load([i, 0])
    most = tl.full((BM,), -float("inf"), tl.float32)
    total = tl.zeros((BM,), tl.float32)
    acc = tl.zeros((BM, D), tl.float32)
    end = i + BM if CAUSAL else T
    for j in range(0, end, BN):
        s = tl.dot(x, k.load([j, 0]).T) * (scale * 1.4426950408889634)
        columns = j + tl.arange(0, BN)
        if CAUSAL:
            s = tl.where(columns[None, :] <= rows[:, None], s, -float("inf"))
        now = tl.maximum(most, tl.max(s, 1))
        p = tl.exp2(s - now[:, None])
        shrink = tl.exp2(most - now)
        total = total * shrink + tl.sum(p, 1)
        acc = acc * shrink[:, None]
        acc = tl.dot(p.to(tl.bfloat16), v.load([j, 0]), acc)
        most = now
    acc = acc / total[:, None]
    d = tl.arange(0, D)
    tl.store(out + rows[:, None] * D + d[None, :], acc.to(tl.bfloat16))
    tl.store(lse + rows, most + tl.log2(total))
