//! What a fine-tune changed as a delta, and the way back: `cpift_model::export`.

use std::fs;
use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_engine::Device;
use cpift_model::cores::{Cores, CoresRequest};
use cpift_model::export::{Application, Delta, DeltaReport, Extent};
use cpift_model::files::hash_file;
use cpift_model::merge::DEFAULT_SHARD_BYTES;
use cpift_model::recipe::{CoreScope, CoreSettings};
use cpift_model::{Error, Result};
use cpift_tests::model_folders::{Stored, read, values, write, write_sharded};
use cpift_tests::numeric::random;
use safetensors::Dtype;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Writes a delta of `tune` against `base`, both in the folder.
fn export(folder: &Path, extent: Extent, out: &str, threads: usize) -> Result<DeltaReport> {
    let device = Device::cpu(NonZeroUsize::new(threads)).unwrap();
    let (base, tune) = (folder.join("base"), folder.join("tune"));
    let delta = Delta::new(&base, &tune, extent, "base".to_owned())?;
    delta.write(&device, &folder.join(out), &AtomicBool::new(false), &mut |_| {})
}

fn apply(folder: &Path, delta: &str, base: &str, out: &str, shard_bytes: u64) -> Result<()> {
    let device = Device::cpu(NonZeroUsize::new(2)).unwrap();
    let application = Application::new(&folder.join(delta), &folder.join(base), shard_bytes)?;
    application.run(&device, &folder.join(out), &AtomicBool::new(false), &mut |_| {}).map(drop)
}

/// A base and a tune of it, in which of every tensor another share changed; of another type, and of no floats.
fn models(folder: &Path) {
    let base = |seed: u64, length: usize| random(seed, length);
    // Every `step`-th value is another.
    let changed = |seed: u64, length: usize, step: usize| -> Vec<f32> {
        let other = random(seed + 50, length);
        let own = base(seed, length).into_iter().zip(other).enumerate();
        own.map(|(index, (own, other))| if index % step == step - 1 { other } else { own }).collect()
    };
    let numbers = |values: [i64; 3]| Stored {
        name: "numbers".to_owned(),
        shape: vec![3],
        dtype: Dtype::I64,
        bytes: bytemuck::cast_slice(&values).to_vec(),
    };
    let of_base = [
        Stored::floats("few.weight", &[40, 50], &base(1, 2000)),
        Stored::bf16("some.weight", &[1003], &base(2, 1003)),
        Stored::bf16("all.weight", &[30, 30], &base(3, 900)),
        Stored::floats("none.weight", &[7], &base(4, 7)),
        Stored::bf16("wider.weight", &[130], &base(5, 130)),
        numbers([1, 2, 3]),
        Stored::floats("scalar", &[], &[1.0]),
    ];
    let of_tune = [
        Stored::floats("few.weight", &[40, 50], &changed(1, 2000, 100)),
        Stored::bf16("some.weight", &[1003], &changed(2, 1003, 3)),
        Stored::bf16("all.weight", &[30, 30], &base(33, 900)),
        Stored::floats("none.weight", &[7], &base(4, 7)),
        Stored::floats("wider.weight", &[130], &changed(5, 130, 2)),
        numbers([1, 2, -3]),
        Stored::floats("scalar", &[], &[2.0]),
    ];
    write_sharded(&folder.join("base"), "any", &of_base);
    write(&folder.join("tune"), "any", &of_tune);
    fs::write(folder.join("base/merges.txt"), "of the base").unwrap();
    fs::write(folder.join("tune/chat_template.jinja"), "of the tune").unwrap();
}

fn description(folder: &Path) -> Value {
    serde_json::from_slice(&fs::read(folder.join("delta.json")).unwrap()).unwrap()
}

#[track_caller]
fn assert_same(found: &Path, expected: &Path) {
    let (found, expected) = (read(found), read(expected));
    assert_eq!(found.len(), expected.len());
    for (name, expected) in expected {
        let found = &found[&name];
        assert_eq!((&found.shape, found.dtype), (&expected.shape, expected.dtype), "{name}");
        assert!(found.bytes == expected.bytes, "{name} has other bits");
    }
}

#[test]
fn a_delta_gives_the_model_back_to_the_bit() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    models(folder);
    let report = export(folder, Extent::Whole, "delta", 2).unwrap();
    assert_eq!((report.tensors, report.changed_tensors), (7, 6));
    let form_of = |name: &str| {
        let description = description(&folder.join("delta"));
        let tensors = description["tensors"].as_array().unwrap().clone();
        let tensor = tensors.iter().find(|tensor| tensor["name"] == name).unwrap();
        (tensor["form"].as_str().unwrap().to_owned(), tensor["changed"].as_u64().unwrap())
    };
    assert_eq!(form_of("few.weight"), ("indices".to_owned(), 20));
    assert_eq!(form_of("some.weight").0, "mask");
    assert_eq!(form_of("all.weight").0, "whole");
    assert_eq!(form_of("none.weight"), ("unchanged".to_owned(), 0));
    assert_eq!(form_of("scalar").0, "whole");
    let length = fs::metadata(folder.join("delta/delta.safetensors")).unwrap().len();
    assert_eq!(length, report.bytes);
    // Small shards: a tensor each.
    for (out, shard_bytes) in [("again", DEFAULT_SHARD_BYTES), ("sharded", 1000)] {
        apply(folder, "delta", "base", out, shard_bytes).unwrap();
        let out = folder.join(out);
        assert_same(&out, &folder.join("tune"));
        assert_eq!(out.join("model.safetensors.index.json").exists(), shard_bytes == 1000);
        assert_eq!(fs::read_to_string(out.join("chat_template.jinja")).unwrap(), "of the tune");
        assert!(!out.join("merges.txt").exists() && out.join("tokenizer.json").exists());
        assert!(!out.join("delta.json").exists());
        let config: Value = serde_json::from_slice(&fs::read(out.join("config.json")).unwrap()).unwrap();
        assert_eq!(config["model_type"], "any");
    }
    // What the base has is not stored again.
    assert!(
        !folder.join("delta/tokenizer.json").exists() && folder.join("delta/chat_template.jinja").exists()
    );
    export(folder, Extent::Whole, "alone", 1).unwrap();
    for file in ["delta.safetensors", "delta.json"] {
        let [one, other] = ["delta", "alone"].map(|delta| fs::read(folder.join(delta).join(file)).unwrap());
        assert!(one == other, "threads show in {file}");
    }
}

#[test]
fn a_delta_of_a_core_has_the_model_there_and_the_base_elsewhere() {
    // The larger one has almost all of some tensors.
    [0.2, 0.32].into_iter().for_each(assert_a_core_is_exported);
}

fn assert_a_core_is_exported(fraction: f64) {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    models(folder);
    let cores = Cores::new(&CoresRequest {
        base: folder.join("base"),
        models: vec![("mine".to_owned(), folder.join("tune"))],
        settings: CoreSettings { fraction, scope: CoreScope::Global, exclude: Vec::new() },
        threshold: 0.1,
    });
    let device = Device::cpu(NonZeroUsize::new(2)).unwrap();
    let out = folder.join("cores");
    let found = cores.unwrap().run(&device, &out, &AtomicBool::new(false), &mut |_| {}).unwrap();
    let report = export(folder, Extent::Core(out), "delta", 2).unwrap();
    assert!(report.changed == found.cores.tasks[0].size && report.changed > 0, "{report:?}");
    export(folder, Extent::Fraction(fraction), "same", 1).unwrap();
    let file = |delta: &str| fs::read(folder.join(delta).join("delta.safetensors")).unwrap();
    assert!(file("delta") == file("same"));
    assert_eq!(description(&folder.join("same"))["fraction"], fraction);
    apply(folder, "delta", "base", "out", DEFAULT_SHARD_BYTES).unwrap();
    let [out, base, tune] = ["out", "base", "tune"].map(|model| read(&folder.join(model)));
    let mask = TempDir::new().unwrap();
    fs::copy(folder.join("cores/mine.mask.safetensors"), mask.path().join("model.safetensors")).unwrap();
    let mask = read(mask.path());
    for (name, out) in &out {
        if out.dtype == Dtype::I64 {
            assert_eq!(out.bytes, base[name].bytes, "{name}: no core has it");
            continue;
        }
        assert_eq!(out.dtype, tune[name].dtype);
        let own = values(out).into_iter().zip(values(&base[name])).zip(values(&tune[name]));
        for (index, ((own, base), tune)) in own.enumerate() {
            let is_core = mask[name].bytes[index / 8] >> (index % 8) & 1 == 1;
            let expected = if is_core { tune } else { base };
            assert_eq!(own.to_bits(), expected.to_bits(), "{name}: element {index}");
        }
    }
}

/// What refuses to apply a delta; nothing is then left.
#[track_caller]
fn refused(folder: &Path, delta: &str, base: &str) -> String {
    let error = apply(folder, delta, base, "refused", DEFAULT_SHARD_BYTES).expect_err("it is refused");
    assert!(error.is_input(), "{error}");
    assert_nothing_is_left(folder);
    let message = error.to_string();
    assert!(!message.contains('\n'), "{message}");
    message
}

#[track_caller]
fn assert_nothing_is_left(folder: &Path) {
    for entry in fs::read_dir(folder).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(name != "refused" && !name.starts_with('.'), "{name} is left");
    }
}

#[test]
fn only_the_base_that_it_was_made_from_is_taken() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    models(folder);
    export(folder, Extent::Whole, "delta", 2).unwrap();
    // One bit of a tensor that the delta does not even change.
    let mut tensors: Vec<Stored> = read(&folder.join("base")).into_values().collect();
    let none = tensors.iter_mut().find(|tensor| tensor.name == "none.weight").unwrap();
    none.bytes[4] ^= 1;
    write(&folder.join("other"), "any", &tensors);
    let message = refused(folder, "delta", "other");
    assert!(message.contains("is not the base") && message.contains("`none.weight`"), "{message}");
    let message = refused(folder, "delta", "tune");
    assert!(message.contains("is not the base") && message.contains("`wider.weight` is F32"), "{message}");
    tensors.retain(|tensor| tensor.name != "none.weight");
    write(&folder.join("less"), "any", &tensors);
    assert!(refused(folder, "delta", "less").contains("it has no `none.weight`"));
    assert!(refused(folder, "tune", "base").contains("is not the folder of a delta"));
    // The order and files of the base do not matter.
    let tensors: Vec<Stored> = read(&folder.join("base")).into_values().collect();
    write(&folder.join("resaved"), "any", &tensors);
    apply(folder, "delta", "resaved", "again", DEFAULT_SHARD_BYTES).unwrap();
    assert_same(&folder.join("again"), &folder.join("tune"));
}

/// Damages a copy of a delta; what then refuses it.
#[track_caller]
fn damaged(folder: &Path, damage: impl FnOnce(&Path)) -> String {
    cpift_tests::folders::copy(&folder.join("delta"), &folder.join("damaged"));
    damage(&folder.join("damaged"));
    let message = refused(folder, "damaged", "base");
    fs::remove_dir_all(folder.join("damaged")).unwrap();
    message
}

/// Changes the description, which then names the hash of the values as they are.
fn edited(delta: &Path, edit: impl FnOnce(&mut Value)) {
    let mut description = description(delta);
    edit(&mut description);
    description["values_blake3"] =
        json!(hash_file(&delta.join("delta.safetensors")).unwrap().to_hex().to_string());
    fs::write(delta.join("delta.json"), description.to_string()).unwrap();
}

#[test]
fn damaged_deltas_are_refused() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    models(folder);
    export(folder, Extent::Whole, "delta", 2).unwrap();
    let flip = |delta: &Path, from_end: bool| {
        let path = delta.join("delta.safetensors");
        let mut bytes = fs::read(&path).unwrap();
        let header = 8 + u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let place = if from_end { bytes.len() - 1 } else { header };
        bytes[place] ^= 0x40;
        fs::write(path, bytes).unwrap();
    };
    assert!(damaged(folder, |delta| flip(delta, true)).contains("damaged"));
    // With hashes to match, the places or the result show it: the mask is at the beginning.
    for from_end in [false, true] {
        let message = damaged(folder, |delta| {
            flip(delta, from_end);
            edited(delta, |_| {});
        });
        assert!(message.contains("`some.weight`") || message.contains("damaged"), "{message}");
    }
    let set = |name: &'static str, key: &'static str, value: Value| {
        move |description: &mut Value| {
            let tensors = description["tensors"].as_array_mut().unwrap();
            tensors.iter_mut().find(|tensor| tensor["name"] == name).unwrap()[key] = value;
        }
    };
    for (edit, expected) in [
        (set("few.weight", "form", json!("mask")), "`few.weight.mask` is missing"),
        (set("few.weight", "form", json!("whole")), "another type or number"),
        (set("some.weight", "form", json!("indices")), "`some.weight.indices` is missing"),
        (set("few.weight", "shape", json!([u64::MAX, 9])), "not the base"),
        (set("few.weight", "dtype", json!("I64")), "cannot become"),
        (set("few.weight", "name", json!("some.weight")), "`some.weight` is BF16 of shape [1003]"),
        (set("none.weight", "blake3", json!("00")), "does not become"),
    ] {
        let message = damaged(folder, |delta| edited(delta, edit));
        assert!(message.contains(expected), "{message}");
    }
    let twice = |description: &mut Value| {
        let tensors = description["tensors"].as_array_mut().unwrap();
        tensors.push(tensors[0].clone());
    };
    assert!(damaged(folder, |delta| edited(delta, twice)).contains("stands there twice"));
    let message = damaged(folder, |delta| edited(delta, |description| description["version"] = json!(2)));
    assert!(message.contains("version 2"), "{message}");
    let message = damaged(folder, |delta| fs::write(delta.join("delta.json"), "[").unwrap());
    assert!(message.contains("not the description of a delta"), "{message}");
}

/// Changes the words of one tensor in a delta's file of values, which `delta.json` then describes as it is.
fn patched(delta: &Path, name: &str, patch: &[(usize, &[u8])]) {
    let path = delta.join("delta.safetensors");
    let mut bytes = fs::read(&path).unwrap();
    let header = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let described: Value = serde_json::from_slice(&bytes[8..8 + header]).unwrap();
    let start = 8 + header + described[name]["data_offsets"][0].as_u64().unwrap() as usize;
    for (offset, value) in patch {
        bytes[start + offset..][..value.len()].copy_from_slice(value);
    }
    fs::write(path, bytes).unwrap();
    edited(delta, |_| {});
}

#[test]
fn places_that_are_none_are_refused() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    models(folder);
    export(folder, Extent::Whole, "delta", 2).unwrap();
    let [first, last, behind, far] = [99_u32, 1999, 2000, u32::MAX].map(u32::to_le_bytes);
    // Twenty indices, from 99 to 1999; a mask of 1003 bits in sixteen words.
    for (name, patch) in [
        ("few.weight.indices", vec![(0, &last[..]), (76, &first[..])]),
        ("few.weight.indices", vec![(4, &first[..])]),
        ("few.weight.indices", vec![(76, &behind[..])]),
        ("few.weight.indices", vec![(76, &far[..])]),
        ("some.weight.mask", vec![(127, &[0x80][..])]),
        ("some.weight.mask", vec![(125, &[0x08][..])]),
    ] {
        let message = damaged(folder, |delta| patched(delta, name, &patch));
        let expected = if name.ends_with("mask") { "its mask is of" } else { "its indices are not" };
        assert!(message.contains(expected), "{name} {patch:?}: {message}");
    }
}

#[test]
fn files_beside_the_weights_are_those_that_were_exported() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    models(folder);
    export(folder, Extent::Whole, "delta", 2).unwrap();
    let append = |path: &Path| {
        let text = fs::read_to_string(path).unwrap();
        fs::write(path, format!("{text} ")).unwrap();
    };
    for file in ["config.json", "chat_template.jinja"] {
        let message = damaged(folder, |delta| append(&delta.join(file)));
        assert!(message.contains(file) && message.contains("damaged"), "{message}");
    }
    // The tokenizer is the base's, of which the delta has no copy.
    cpift_tests::folders::copy(&folder.join("base"), &folder.join("other"));
    append(&folder.join("other/tokenizer.json"));
    let message = refused(folder, "delta", "other");
    assert!(message.contains("tokenizer.json") && message.contains("when the delta was made"), "{message}");
    fs::remove_file(folder.join("other/tokenizer.json")).unwrap();
    assert!(refused(folder, "delta", "other").contains("it has no tokenizer.json"));
}

#[test]
fn pieces_of_large_tensors_meet() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    // Read in pieces of 2^22 elements; changes lie on both sides of the border.
    let border = 1 << 22;
    let length = border + 100;
    let base: Vec<u16> = (0..length).map(|index| (index * 31 % 0x7f00) as u16).collect();
    let stored = |name: &str, values: &[u16]| Stored {
        name: name.to_owned(),
        shape: vec![length],
        dtype: Dtype::BF16,
        bytes: bytemuck::cast_slice(values).to_vec(),
    };
    let changed = |is_changed: &dyn Fn(usize) -> bool| -> Vec<u16> {
        let values = base.iter().enumerate();
        values.map(|(index, value)| value ^ u16::from(is_changed(index))).collect()
    };
    let few =
        changed(&|index| [3, border - 65, border - 1, border, border + 64, length - 1].contains(&index));
    let some = changed(&|index| index % 5 == 0 || index.abs_diff(border) < 3 || index == length - 1);
    let all = changed(&|index| index != border);
    let names = ["few.weight", "some.weight", "all.weight"];
    write(&folder.join("base"), "any", &names.map(|name| stored(name, &base)));
    let tune = [few, some, all];
    let tensors: Vec<Stored> = names.iter().zip(&tune).map(|(name, values)| stored(name, values)).collect();
    write(&folder.join("tune"), "any", &tensors);
    export(folder, Extent::Whole, "delta", 2).unwrap();
    let described = description(&folder.join("delta"))["tensors"].as_array().unwrap().clone();
    for (name, form) in names.iter().zip(["indices", "mask", "whole"]) {
        assert!(described.iter().any(|tensor| tensor["name"] == *name && tensor["form"] == form), "{name}");
    }
    apply(folder, "delta", "base", "again", DEFAULT_SHARD_BYTES).unwrap();
    assert_same(&folder.join("again"), &folder.join("tune"));
}

#[test]
fn a_model_without_the_head_of_its_base_stays_one() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    let embedding = |seed: u64| Stored::floats("model.embed_tokens.weight", &[9, 4], &random(seed, 36));
    let head = Stored::floats("lm_head.weight", &[9, 4], &random(3, 36));
    write(&folder.join("base"), "any", &[embedding(1), head]);
    write(&folder.join("tune"), "any", &[embedding(2)]);
    let delta = Delta::new(&folder.join("base"), &folder.join("tune"), Extent::Whole, String::new()).unwrap();
    assert!(delta.notices()[0].contains("the model has none"), "{:?}", delta.notices());
    export(folder, Extent::Whole, "delta", 2).unwrap();
    apply(folder, "delta", "base", "again", DEFAULT_SHARD_BYTES).unwrap();
    assert_same(&folder.join("again"), &folder.join("tune"));
    let config = fs::read_to_string(folder.join("again/config.json")).unwrap();
    assert!(!config.contains("tie_word_embeddings"), "{config}");
}

#[test]
fn what_cannot_be_exported_is_said() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    models(folder);
    let refused = |extent: Extent| {
        let error = export(folder, extent, "refused", 2).expect_err("it is refused");
        assert!(error.is_input(), "{error}");
        assert_nothing_is_left(folder);
        error.to_string()
    };
    assert!(refused(Extent::Fraction(0.0)).contains("--fraction"));
    assert!(refused(Extent::Core(folder.join("tune"))).contains("there is no core in it"));
    let words = |name: &str, count: usize| Stored {
        name: name.to_owned(),
        shape: vec![count],
        dtype: Dtype::U64,
        bytes: vec![0xff; 8 * count],
    };
    write(&folder.join("masks"), "any", &[words("few.weight", 3)]);
    let core = Extent::Core(folder.join("masks/model.safetensors"));
    let message = refused(core.clone());
    assert!(message.contains("`few.weight` has bits of up to 192 elements"), "{message}");
    write(&folder.join("masks"), "any", &[words("few.weight", 32)]);
    assert!(refused(core).contains("has no bits of `"));
    cpift_tests::folders::copy(&folder.join("tune"), &folder.join("kept"));
    fs::remove_dir_all(folder.join("tune")).unwrap();
    cpift_tests::folders::copy(&folder.join("base"), &folder.join("tune"));
    assert!(refused(Extent::Whole).contains("bit for bit its base"));
    // A delta is no model.
    fs::remove_dir_all(folder.join("tune")).unwrap();
    fs::rename(folder.join("kept"), folder.join("tune")).unwrap();
    export(folder, Extent::Whole, "delta", 2).unwrap();
    fs::remove_dir_all(folder.join("tune")).unwrap();
    cpift_tests::folders::copy(&folder.join("delta"), &folder.join("tune"));
    assert!(refused(Extent::Whole).contains("cpift-engine apply"));
}

#[test]
fn stopping_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    models(folder);
    export(folder, Extent::Whole, "delta", 2).unwrap();
    let device = Device::cpu(NonZeroUsize::new(2)).unwrap();
    let (base, tune, out) = (folder.join("base"), folder.join("tune"), folder.join("refused"));
    let whole = Delta::new(&base, &tune, Extent::Whole, String::new()).unwrap();
    let core = Delta::new(&base, &tune, Extent::Fraction(0.1), String::new()).unwrap();
    let back = Application::new(&folder.join("delta"), &base, 1).unwrap();
    for number in 0..3 {
        let stop = AtomicBool::new(false);
        let observer = &mut |_| stop.store(true, Ordering::Relaxed);
        let stopped = match number {
            0 => whole.write(&device, &out, &stop, observer).map(drop),
            1 => core.write(&device, &out, &stop, observer).map(drop),
            _ => back.run(&device, &out, &stop, observer).map(drop),
        };
        assert!(matches!(stopped, Err(Error::Stopped { .. })), "{stopped:?}");
        assert_nothing_is_left(folder);
    }
}
