//! What the committed PTX must show.

use std::path::Path;

use crate::manifest::{KernelRecord, Manifest};

fn manifest() -> Manifest {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ptx/manifest.json");
    Manifest::load(&path).unwrap().unwrap()
}

fn count(kernel: &KernelRecord, kind: &str) -> usize {
    kernel.instructions.get(kind).copied().unwrap_or(0) as usize
}

#[test]
fn registers_of_every_kernel_are_recorded_and_none_spill() {
    let manifest = manifest();
    for (module, record) in &manifest.modules {
        for (name, kernel) in &record.kernels {
            assert!(!kernel.assembled.is_empty(), "{name} of {module} was written without ptxas");
            for (architecture, assembled) in &kernel.assembled {
                assert!(assembled.registers > 0 && assembled.spills == 0, "{name}: {architecture} spills");
            }
        }
    }
}

/// The path of whole vectors has no loop, so that what stands in the PTX is what a thread moves for its four
/// parameters: 28 bytes each, 36 with importance, 2 more with the copy, and of the frozen bits one word that
/// 32 parameters share.
#[test]
fn the_traffic_of_adamw_is_what_its_documentation_says() {
    let manifest = manifest();
    let kernels = &manifest.modules["adamw.sm_80.ptx"].kernels;
    assert_eq!(kernels.len(), 16);
    for (name, kernel) in kernels {
        let importance = ["net", "path", "fisher"].iter().any(|kind| name.contains(kind));
        let copy = name.ends_with("bf16");
        let wide = count(kernel, "ld.global.128") + count(kernel, "st.global.128");
        let bytes = (16 * wide + 8 * count(kernel, "st.global.64")) / 4;
        assert_eq!(bytes, 28 + 8 * usize::from(importance) + 2 * usize::from(copy), "{name}");
        // Nothing is read or written twice.
        let buffers = |wanted: &[&str]| {
            let wanted = |parameter: &&String| wanted.iter().any(|wanted| parameter.contains(wanted));
            kernel
                .parameters
                .iter()
                .filter(|parameter| parameter.ends_with("f32 align 16"))
                .filter(wanted)
                .count()
        };
        assert_eq!(count(kernel, "ld.global.128"), buffers(&[": read ", ": update "]), "{name}");
        assert_eq!(count(kernel, "st.global.128"), buffers(&[": update "]), "{name}");
        for assembled in kernel.assembled.values() {
            let machine = |kind: &str| assembled.instructions.get(kind).copied().unwrap_or(0) as usize;
            assert_eq!(machine("LDG.128") + machine("STG.128"), wide, "{name} in machine code");
        }
        // One load more on either path; on that of vectors a word. Of `adamw` the other path is unrolled.
        let without = &kernels[&name.replace("_frozen", "")];
        if name.contains("frozen") && name != "adamw_frozen" {
            assert_eq!(count(kernel, "ld.global.32"), count(without, "ld.global.32") + 2, "{name}");
        }
    }
}
