//! What vendors say of their GPUs.

/// Figures of a GPU. Rates are those of dense arithmetic at boost clocks.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Gpu {
    /// Its name here.
    pub name: &'static str,
    /// The product.
    pub product: &'static str,
    /// Compute capability.
    pub compute_capability: (u32, u32),
    /// Multiprocessors.
    pub multiprocessors: u32,
    /// Bytes per second from and to memory.
    pub bytes_per_second: f64,
    /// bf16 products with f32 sums on tensor cores, in operations per second.
    pub tensor_flops_per_second: f64,
    /// f32 fused multiply-adds outside of them, in operations per second.
    pub f32_flops_per_second: f64,
    /// Bytes of shared memory of a multiprocessor.
    pub shared_memory: u32,
    /// Threads that a multiprocessor holds.
    pub threads: u32,
    /// Blocks that a multiprocessor holds.
    pub blocks: u32,
}

/// 32-bit registers of a multiprocessor, of all these GPUs.
pub const REGISTERS: u32 = 65_536;

/// The GPUs that times are predicted for.
pub const GPUS: [Gpu; 4] = [
    // NVIDIA A100 Tensor Core GPU datasheet (SXM, 80 GB); CUDA C++ Programming Guide, compute capability 8.0.
    Gpu {
        name: "a100",
        product: "A100 SXM 80 GB",
        compute_capability: (8, 0),
        multiprocessors: 108,
        bytes_per_second: 2.039e12,
        tensor_flops_per_second: 312e12,
        f32_flops_per_second: 19.5e12,
        shared_memory: 164 << 10,
        threads: 2048,
        blocks: 32,
    },
    // NVIDIA H100 Tensor Core GPU datasheet (SXM); Programming Guide, compute capability 9.0.
    Gpu {
        name: "h100",
        product: "H100 SXM",
        compute_capability: (9, 0),
        multiprocessors: 132,
        bytes_per_second: 3.35e12,
        tensor_flops_per_second: 989e12,
        f32_flops_per_second: 67e12,
        shared_memory: 228 << 10,
        threads: 2048,
        blocks: 32,
    },
    // NVIDIA H200 Tensor Core GPU datasheet (SXM): the same chip with faster memory.
    Gpu {
        name: "h200",
        product: "H200 SXM",
        compute_capability: (9, 0),
        multiprocessors: 132,
        bytes_per_second: 4.8e12,
        tensor_flops_per_second: 989e12,
        f32_flops_per_second: 67e12,
        shared_memory: 228 << 10,
        threads: 2048,
        blocks: 32,
    },
    // NVIDIA Ada GPU Architecture whitepaper (GeForce RTX 4090); Programming Guide, compute capability 8.9.
    Gpu {
        name: "rtx4090",
        product: "GeForce RTX 4090",
        compute_capability: (8, 9),
        multiprocessors: 128,
        bytes_per_second: 1.008e12,
        tensor_flops_per_second: 165.2e12,
        f32_flops_per_second: 82.6e12,
        shared_memory: 100 << 10,
        threads: 1536,
        blocks: 24,
    },
];

/// What one block of a kernel takes of a multiprocessor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockNeeds {
    /// Threads.
    pub threads: u32,
    /// Registers of a thread.
    pub registers: u32,
    /// Bytes of shared memory, static and dynamic.
    pub shared: u32,
}

impl Gpu {
    /// Blocks that a multiprocessor holds at once; 0 where one does not fit.
    ///
    /// Registers are given to warps in units of 256, and a multiprocessor's four parts have the same number of
    /// warps; shared memory comes in units of 128 bytes, of which the driver keeps 1 KiB for each block.
    pub fn resident_blocks(&self, needs: BlockNeeds) -> u32 {
        let warps = needs.threads.div_ceil(32).max(1);
        let registers = (needs.registers * 32).next_multiple_of(256).max(256);
        let by_registers = REGISTERS / registers / 4 * 4 / warps;
        let by_shared = self.shared_memory / (needs.shared + 1024).next_multiple_of(128);
        let by_threads = self.threads / (32 * warps);
        by_registers.min(by_shared).min(by_threads).min(self.blocks)
    }

    /// Share of the threads a multiprocessor holds at once of those it could.
    pub fn occupancy(&self, needs: BlockNeeds) -> f64 {
        f64::from(self.resident_blocks(needs) * needs.threads) / f64::from(self.threads)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resident(gpu: usize, threads: u32, registers: u32, shared: u32) -> u32 {
        GPUS[gpu].resident_blocks(BlockNeeds { threads, registers, shared })
    }

    /// Against NVIDIA's occupancy calculator.
    #[test]
    fn occupancy_is_bounded_by_what_runs_out_first() {
        assert_eq!(resident(0, 256, 32, 0), 8); // threads: 2048 / 256
        assert_eq!(resident(0, 256, 128, 0), 2); // registers: 65536 / (128·256)
        assert_eq!(resident(0, 256, 129, 0), 1); // 136 registers after rounding
        assert_eq!(resident(0, 128, 168, 0), 3); // 12 warps of 5376 registers
        assert_eq!(resident(0, 32, 32, 0), 32); // blocks
        assert_eq!(resident(0, 128, 32, 48 << 10), 3); // shared memory: 164 / 49
        assert_eq!(resident(3, 256, 32, 0), 6); // threads: 1536 / 256
        assert_eq!(resident(3, 128, 32, 100 << 10), 0); // 1 KiB is kept
        let needs = BlockNeeds { threads: 256, registers: 128, shared: 0 };
        assert_eq!(GPUS[1].occupancy(needs), 0.25);
    }
}
