//! The contracts of the kernels over tiles, whatever they compute with.

/// The three kernels for heads of up to `limit` elements: of each its name, block, shared memory, blocks that must fit
/// on a multiprocessor, and the function that computes a tile.
macro_rules! tile_kernels {
    (
        $E:ident, heads up to $limit:expr $(, tensor_cores $tensor_cores:ident)?;
        $forward:ident: block $forward_block:expr, shared $forward_shared:expr, min_blocks $forward_blocks:expr,
            by $run_forward:expr;
        $queries:ident: block $queries_block:expr, shared $queries_shared:expr, min_blocks $queries_blocks:expr,
            by $run_queries:expr;
        $keys:ident: block $keys_block:expr, shared $keys_shared:expr, min_blocks $keys_blocks:expr,
            parts $parts:expr, by $run_keys:expr;
    ) => {
        kernel! {
            /// Attention of one tile of queries: output = softmax(scale·q·kᵀ)·v and log_sum_exp =
            /// ln Σ e^score, with a running softmax over the tiles of keys up to the diagonal. Where `softcap` is not 0,
            /// products q·kᵀ become softcap·tanh(q·kᵀ / softcap) before the scale, with it in the gradients too.
            ///
            /// One block per tile and query head, heads first. Tiles: `[tiles, 4]` of `Tiles::by_queries`. Every
            /// loop that holds a barrier or a product has bounds that depend on the block alone.
            pub fn $forward {
                block: $forward_block,
                grid: tiles * heads,
                shared: $forward_shared,
                min_blocks: $forward_blocks
                $(, tensor_cores: $tensor_cores)?
            } (
                q: read $E [tokens * heads * head_dim] align 16,
                k: read $E [tokens * kv_heads * head_dim] align 16,
                v: read $E [tokens * kv_heads * head_dim] align 16,
                tile_list: read u32 [4 * tiles],
                output: write $E [tokens * heads * head_dim] align 16,
                log_sum_exp: write f32 [tokens * heads],
                tokens: scalar u32,
                tiles: scalar u32,
                heads: scalar u32,
                kv_heads: scalar u32,
                head_dim: scalar u32,
                window: scalar u32,
                scale: scalar f32,
                softcap: scalar f32,
            ) requires {
                fits(head_dim, $limit), kv_heads > 0, heads > 0 && heads.is_multiple_of(kv_heads), tokens < 1 << 31,
                window > 0, scale > 0.0, softcap >= 0.0,
            } {
                let work = WorkTile::new(tile_list, heads, (heads, kv_heads, head_dim), window);
                $run_forward(work, (q, k, v), output, log_sum_exp, scale, Softcap::new(softcap));
            }
        }

        kernel! {
            /// d_q of one tile of queries: Σ over keys of d_score·k, with p = e^(score − log_sum_exp) and
            /// d_score = scale·p·(d_output·v − delta). Otherwise as the forward pass.
            pub fn $queries {
                block: $queries_block,
                grid: tiles * heads,
                shared: $queries_shared,
                min_blocks: $queries_blocks
                $(, tensor_cores: $tensor_cores)?
            } (
                q: read $E [tokens * heads * head_dim] align 16,
                k: read $E [tokens * kv_heads * head_dim] align 16,
                v: read $E [tokens * kv_heads * head_dim] align 16,
                d_output: read $E [tokens * heads * head_dim] align 16,
                log_sum_exp: read f32 [tokens * heads],
                delta: read f32 [tokens * heads],
                tile_list: read u32 [4 * tiles],
                d_q: write $E [tokens * heads * head_dim] align 16,
                tokens: scalar u32,
                tiles: scalar u32,
                heads: scalar u32,
                kv_heads: scalar u32,
                head_dim: scalar u32,
                window: scalar u32,
                scale: scalar f32,
                softcap: scalar f32,
            ) requires {
                fits(head_dim, $limit), kv_heads > 0, heads > 0 && heads.is_multiple_of(kv_heads), tokens < 1 << 31,
                window > 0, scale > 0.0, softcap >= 0.0,
            } {
                let work = WorkTile::new(tile_list, heads, (heads, kv_heads, head_dim), window);
                $run_queries(work, (q, k, v, d_output), Saved { log_sum_exp, delta }, d_q, scale, Softcap::new(softcap));
            }
        }

        kernel! {
            /// d_k and d_v of one tile of keys: Σ over the query heads of the group, then over queries from
            /// the diagonal on, of d_score·q and p·d_output.
            ///
            /// One block per tile and key/value head, heads first; where there are two parts, one for d_v and one for
            /// d_k, whose sums together do not fit the registers. Tiles: `[tiles, 4]` of `Tiles::by_keys`. Otherwise
            /// as the forward pass.
            pub fn $keys {
                block: $keys_block,
                grid: (tiles * kv_heads, $parts),
                shared: $keys_shared,
                min_blocks: $keys_blocks
                $(, tensor_cores: $tensor_cores)?
            } (
                q: read $E [tokens * heads * head_dim] align 16,
                k: read $E [tokens * kv_heads * head_dim] align 16,
                v: read $E [tokens * kv_heads * head_dim] align 16,
                d_output: read $E [tokens * heads * head_dim] align 16,
                log_sum_exp: read f32 [tokens * heads],
                delta: read f32 [tokens * heads],
                tile_list: read u32 [4 * tiles],
                d_k: write $E [tokens * kv_heads * head_dim] align 16,
                d_v: write $E [tokens * kv_heads * head_dim] align 16,
                tokens: scalar u32,
                tiles: scalar u32,
                heads: scalar u32,
                kv_heads: scalar u32,
                head_dim: scalar u32,
                window: scalar u32,
                scale: scalar f32,
                softcap: scalar f32,
            ) requires {
                fits(head_dim, $limit), kv_heads > 0, heads > 0 && heads.is_multiple_of(kv_heads), tokens < 1 << 31,
                window > 0, scale > 0.0, softcap >= 0.0,
            } {
                let work = WorkTile::new(tile_list, kv_heads, (heads, kv_heads, head_dim), window);
                $run_keys(work, (q, k, v, d_output), Saved { log_sum_exp, delta }, (d_k, d_v), scale, Softcap::new(softcap));
            }
        }
    };
}
