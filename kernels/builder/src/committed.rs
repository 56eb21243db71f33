//! What the committed PTX must show.

use std::path::Path;

use cpift_kernels::launch::TensorCores;

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
/// parameters: 28 bytes each, split or not, 18 with gradients and moments in bf16, 8 more with importance, and of the frozen bits one
/// word that 32 parameters share.
#[test]
fn the_traffic_of_adamw_is_what_its_documentation_says() {
    let manifest = manifest();
    let kernels = &manifest.modules["adamw.sm_80.ptx"].kernels;
    assert_eq!(kernels.len(), 32);
    for (name, kernel) in kernels {
        let importance = ["net", "path", "fisher"].iter().any(|kind| name.contains(kind));
        let plain = name.strip_suffix("_state_bf16");
        let wide = count(kernel, "ld.global.128") + count(kernel, "st.global.128");
        let half = count(kernel, "ld.global.64") + count(kernel, "st.global.64");
        let bytes = (16 * wide + 8 * half) / 4;
        let (least, sums) = if plain.is_some() { (18, 4) } else { (28, 8) };
        assert_eq!(bytes, least + sums * usize::from(importance), "{name}");
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

/// The same of the kernels for Hopper alone: every one that promises tensor instructions, and at least these.
#[test]
fn products_and_attention_on_hopper_are_computed_by_groups_of_warps() {
    let manifest = manifest();
    for (family, least) in [("gemm_hopper", 8), ("attention_hopper", 13)] {
        let recorded = &manifest.modules[&format!("{family}.sm_90a.ptx")].kernels;
        let promised =
            cpift_kernels::family(family).iter().filter(|kernel| kernel.tensor_cores != TensorCores::Unused);
        let held = promised.filter(|kernel| {
            let assembled = &recorded[kernel.name].assembled["sm_90a"];
            assert_eq!(assembled.spills, 0, "{}", kernel.name);
            assembled.instructions.get("HGMMA").is_some_and(|&count| count > 0)
                && assembled.instructions.get("UTMALDG").is_some_and(|&count| count > 0)
                && count(&recorded[kernel.name], "wgmma") > 0
        });
        assert_eq!(held.count(), least, "{family}");
    }
}

/// By name, so that neither a kernel that has lost its tensor instructions nor one whose contract no longer
/// promises them passes. In PTX it is mma.sync, in machine code HMMA.
#[test]
fn products_and_attention_in_bf16_are_computed_by_tensor_cores() {
    let manifest = manifest();
    let of_attention = ["64", "80", "96", "128", "256"].into_iter().flat_map(|head| {
        ["forward", "backward_queries", "backward_keys"]
            .map(|pass| ("attention.sm_80.ptx", format!("attention_{pass}_{head}_bf16")))
    });
    let of_products = ["gemm_nt_bf16", "gemm_nt_bf16_f32", "gemm_nn_bf16", "gemm_tn_bf16"]
        .into_iter()
        .flat_map(|layout| ["128x256", "128x128", "64x64"].map(|tile| (layout, tile)))
        .chain(
            ["gemm_nn_split_k", "gemm_tn_split_k"]
                .into_iter()
                .flat_map(|parts| [(parts, "128x128"), (parts, "64x64")]),
        )
        .map(|(layout, tile)| ("gemm.sm_80.ptx", format!("{layout}_{tile}")));
    let promised: Vec<&str> = ["attention", "gemm"]
        .map(cpift_kernels::family)
        .into_iter()
        .flatten()
        .filter(|kernel| kernel.tensor_cores != TensorCores::Unused)
        .map(|kernel| kernel.name)
        .collect();
    for (module, name) in of_attention.chain(of_products) {
        let text = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../ptx").join(module))
            .unwrap();
        let entry = text.split(".visible .entry ").find(|entry| entry.starts_with(&format!("{name}(")));
        let entry = entry.unwrap_or_else(|| panic!("{module} has no {name}"));
        assert!(entry.contains("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32"), "{name}");
        for (architecture, assembled) in &manifest.modules[module].kernels[&name].assembled {
            assert!(
                assembled.instructions.get("HMMA").is_some_and(|&count| count > 0),
                "{name}: {architecture}"
            );
        }
        assert!(promised.contains(&name.as_str()), "{name} does not promise its tensor instructions");
    }
}
