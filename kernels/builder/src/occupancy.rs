//! How many blocks of a kernel fit on a multiprocessor at once.

use cpift_kernels::launch::Kernel;

use crate::manifest::Assembled;

/// Threads and registers of a multiprocessor, and blocks it runs, of all architectures here.
const THREADS: u32 = 2048;
const REGISTERS: u32 = 64 * 1024;
const BLOCKS: u32 = 32;
/// Registers are given to warps by so many.
const REGISTERS_GRAIN: u32 = 256;
/// Shared memory that the system keeps per block.
const SHARED_OF_SYSTEM: u64 = 1024;

/// Bytes of shared memory of a multiprocessor.
fn shared_memory(architecture: &str) -> u64 {
    match architecture {
        "sm_90a" => 228 * 1024,
        _ => 164 * 1024,
    }
}

/// Blocks that fit at once by threads, registers and, where its size is known, shared memory.
pub fn resident_blocks(kernel: &Kernel, assembled: &Assembled, architecture: &str) -> u32 {
    let warps = kernel.block / 32;
    let of_warp = (assembled.registers * 32).next_multiple_of(REGISTERS_GRAIN).max(1);
    let by_registers = REGISTERS / of_warp / warps;
    let of_block = kernel.shared.unwrap_or(0) + u64::from(assembled.shared) + SHARED_OF_SYSTEM;
    let by_shared = (shared_memory(architecture) / of_block) as u32;
    by_registers.min(by_shared).min(THREADS / kernel.block).min(BLOCKS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample_kernel::KERNEL;

    #[test]
    fn the_scarcest_resource_limits() {
        let fit = |registers: u32, shared: u64, architecture: &str| {
            let kernel = Kernel { block: 128, shared: Some(shared), ..KERNEL };
            resident_blocks(&kernel, &Assembled { registers, ..Assembled::default() }, architecture)
        };
        assert_eq!(fit(32, 0, "sm_80"), 16);
        assert_eq!(fit(255, 0, "sm_80"), 2);
        assert_eq!(fit(129, 0, "sm_80"), 3);
        assert_eq!(fit(128, 48 * 1024, "sm_80"), 3);
        assert_eq!(fit(128, 48 * 1024, "sm_90a"), 4);
        assert_eq!(fit(128, 200 * 1024, "sm_80"), 0);
    }
}
