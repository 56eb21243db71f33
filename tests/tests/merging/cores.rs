//! Cores of fine-tunes, beside a sorting of all updates and beside those that a job finds: `cpift_model::cores`.

use std::num::NonZeroUsize;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use cpift_engine::Device;
use cpift_model::cores::{Cores, CoresReport, CoresRequest};
use cpift_model::recipe::{CoreScope, CoreSettings};
use cpift_model::{Error, Result};
use cpift_tests::model_folders::{Stored, read, write, write_sharded};
use cpift_tests::numeric::random;
use tempfile::TempDir;

/// Names, shapes and layers of another family than this engine's; with a block's edge inside of the first.
const TENSORS: [(&str, &[usize]); 5] = [
    ("transformer.wte.weight", &[1 << 18, 2]),
    ("transformer.h.0.attn.c_attn.weight", &[30, 7]),
    ("transformer.h.0.ln_1.bias", &[5]),
    ("transformer.h.1.attn.c_attn.weight", &[64, 3]),
    ("transformer.ln_f.weight", &[1]),
];

/// A base and models near it, whose updates tie often: they are multiples of 2^-6.
fn models(folder: &Path, count: u64) -> Vec<Vec<Vec<f32>>> {
    let mut updates = Vec::new();
    for model in 0..=count {
        let mut tensors = Vec::new();
        let mut of_model = Vec::new();
        for (index, (name, shape)) in TENSORS.iter().enumerate() {
            let length = shape.iter().product();
            let base: Vec<f32> =
                random(index as u64, length).iter().map(|value| (value * 2.0).round()).collect();
            let update: Vec<f32> = random(100 * model + index as u64, length)
                .iter()
                .map(|value| if model == 0 { 0.0 } else { (value * 20.0).round() / 64.0 })
                .collect();
            let values: Vec<f32> = base.iter().zip(&update).map(|(base, update)| base + update).collect();
            tensors.push(if model == 1 {
                // Half the bits are enough for these values.
                Stored::bf16(name, shape, &values)
            } else {
                Stored::floats(name, shape, &values)
            });
            of_model.push(update);
        }
        match model {
            0 => write(&folder.join("base"), "any", &tensors),
            2 => write_sharded(&folder.join("model-2"), "any", &tensors),
            _ => write(&folder.join(format!("model-{model}")), "any", &tensors),
        }
        updates.push(of_model);
    }
    updates
}

fn request(folder: &Path, models: &[&str], settings: CoreSettings) -> CoresRequest {
    CoresRequest {
        base: folder.join("base"),
        models: models.iter().map(|model| ((*model).to_owned(), folder.join(model))).collect(),
        settings,
        threshold: 0.1,
    }
}

fn find(request: &CoresRequest, out: &Path, threads: usize) -> Result<CoresReport> {
    let device = Device::cpu(NonZeroUsize::new(threads)).unwrap();
    Cores::new(request)?.run(&device, out, &AtomicBool::new(false), &mut |_| {})
}

/// The core that sorting finds: of every tensor, which elements.
fn sorted(updates: &[Vec<f32>], settings: &CoreSettings) -> Vec<Vec<bool>> {
    let mut members: Vec<Vec<bool>> = updates.iter().map(|update| vec![false; update.len()]).collect();
    let scope = |index: usize| match settings.scope {
        CoreScope::Global => 0,
        CoreScope::Layer => [0, 1, 1, 2, 0][index],
        CoreScope::Tensor => index,
    };
    for wanted in 0..TENSORS.len() {
        let eligible = (0..TENSORS.len()).filter(|&index| {
            scope(index) == wanted && !settings.exclude.iter().any(|part| TENSORS[index].0.contains(part))
        });
        let mut all: Vec<(usize, usize)> = eligible
            .flat_map(|index| (0..updates[index].len()).map(move |element| (index, element)))
            .collect();
        let k = (settings.fraction * all.len() as f64) as usize;
        // Stable: ties stay in the order of the tensors.
        all.sort_by(|a, b| updates[b.0][b.1].abs().total_cmp(&updates[a.0][a.1].abs()));
        let moved = |&(index, element): &(usize, usize)| updates[index][element] != 0.0;
        all.into_iter().take(k).filter(moved).for_each(|(index, element)| members[index][element] = true);
    }
    members
}

/// What the file of a core says of every tensor.
fn written(out: &Path, name: &str) -> Vec<Vec<bool>> {
    let folder = TempDir::new().unwrap();
    std::fs::copy(out.join(format!("{name}.mask.safetensors")), folder.path().join("model.safetensors"))
        .unwrap();
    let tensors = read(folder.path());
    let bits = |(name, shape): &(&str, &[usize])| {
        let bytes = &tensors[*name].bytes;
        (0..shape.iter().product::<usize>()).map(|bit| bytes[bit / 8] >> (bit % 8) & 1 == 1).collect()
    };
    TENSORS.iter().map(bits).collect()
}

#[test]
fn cores_are_what_sorting_finds() {
    let folder = TempDir::new().unwrap();
    let updates = models(folder.path(), 2);
    let settings = |fraction, scope, exclude: &[&str]| CoreSettings {
        fraction,
        scope,
        exclude: exclude.iter().map(|part| (*part).to_owned()).collect(),
    };
    for (number, settings) in [
        settings(0.01, CoreScope::Global, &[]),
        settings(0.3, CoreScope::Layer, &[]),
        settings(0.25, CoreScope::Tensor, &["ln_1", "wte"]),
        settings(1.0, CoreScope::Global, &["ln_f"]),
    ]
    .into_iter()
    .enumerate()
    {
        let request = request(folder.path(), &["model-1", "model-2"], settings.clone());
        let (out, again) =
            (folder.path().join(format!("out-{number}")), folder.path().join(format!("again-{number}")));
        let report = find(&request, &out, 2).unwrap();
        assert_eq!(report, find(&request, &again, 1).unwrap(), "threads show");
        let expected: Vec<_> = updates[1..].iter().map(|updates| sorted(updates, &settings)).collect();
        for (model, expected) in expected.iter().enumerate() {
            let name = format!("model-{}", model + 1);
            assert!(written(&out, &name) == *expected, "{settings:?}: {name}");
            let size: usize = expected.iter().flatten().filter(|member| **member).count();
            assert_eq!(report.cores.tasks[model].size, size as u64);
            let wanted = size as u64 + report.unmoved[model];
            assert_eq!(report.unmoved[model] > 0, settings.fraction == 1.0, "{settings:?}");
            assert!(settings.fraction < 1.0 || wanted == report.parameters - 1, "all but the excluded one");
            let layers: u64 = report.cores.tasks[model].by_layer.iter().map(|(_, count)| count).sum();
            assert_eq!(layers, size as u64);
            let squares = |tensors: &[Vec<f32>]| -> f64 {
                tensors.iter().flatten().map(|value| f64::from(*value).powi(2)).sum()
            };
            let base: Vec<Vec<f32>> = TENSORS
                .iter()
                .enumerate()
                .map(|(index, (_, shape))| {
                    let values = random(index as u64, shape.iter().product());
                    values.iter().map(|value| (value * 2.0).round()).collect()
                })
                .collect();
            let moved = (squares(&updates[model + 1]) / squares(&base)).sqrt();
            assert!((report.cores.tasks[model].relative_move / moved - 1.0).abs() < 1e-9);
        }
        let flat = |model: usize| expected[model].iter().flatten().copied();
        let update = |model: usize| updates[model + 1].iter().flatten().copied();
        let both = flat(0).zip(flat(1)).filter(|(one, two)| *one && *two).count() as f64;
        let either = flat(0).zip(flat(1)).filter(|(one, two)| *one || *two).count() as f64;
        let agreeing = flat(0)
            .zip(flat(1))
            .zip(update(0).zip(update(1)))
            .filter(|((one, two), (first, second))| *one && *two && first * second > 0.0)
            .count() as f64;
        assert_eq!(report.overlap.jaccard[0][1], both / either, "{settings:?}");
        assert_eq!(report.overlap.jaccard[1][0], both / either);
        assert_eq!(report.overlap.sign_agreement[0][1], Some(agreeing / both));
        assert_eq!(report.overlap.tasks, ["model-1", "model-2"]);
        assert_eq!(report.cores.model_by_layer[1], ("layer 0".to_owned(), 215));
    }
}

#[test]
fn what_cannot_be_compared_is_refused_and_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    models(folder.path(), 1);
    let mut tensors: Vec<Stored> = TENSORS
        .iter()
        .map(|(name, shape)| Stored::floats(name, shape, &vec![0.5; shape.iter().product()]))
        .collect();
    let last = tensors.len() - 1;
    tensors[last] = Stored::floats(TENSORS[last].0, TENSORS[last].1, &[f32::NAN]);
    write(&folder.path().join("nan"), "any", &tensors);
    tensors.pop();
    write(&folder.path().join("short"), "any", &tensors);
    let out = folder.path().join("out");
    let refused = |models: &[&str], settings: CoreSettings| {
        let error = find(&request(folder.path(), models, settings), &out, 2).unwrap_err();
        assert!(error.is_input(), "{error}");
        assert!(!out.exists());
        let left = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        assert!(left.into_iter().all(|name| !name.to_string_lossy().starts_with('.')), "{error}");
        error.to_string()
    };
    let settings = CoreSettings::default;
    let message = refused(&["nan"], settings());
    assert!(message.contains("`transformer.ln_f.weight` has NaN at element 0"), "{message}");
    let message = refused(&["short"], settings());
    assert!(message.contains("transformer.ln_f.weight"), "{message}");
    let message = refused(&["model-1", "model-1"], settings());
    assert!(message.contains("two models are called `model-1`"), "{message}");
    for fraction in [0.0, -1.0, 1.5, f64::NAN] {
        let message = refused(&["model-1"], CoreSettings { fraction, ..settings() });
        assert!(message.contains("--fraction"), "{message}");
    }
    let message = refused(&["model-1"], CoreSettings { fraction: 1e-9, ..settings() });
    assert!(message.contains("--fraction") && message.contains("no parameter"), "{message}");
    let exclude = vec!["transformer".to_owned()];
    let message = refused(&["model-1"], CoreSettings { exclude, ..settings() });
    assert!(message.contains("--exclude"), "{message}");
}

/// Updates that f32 cannot hold, overlaps that no number is, models without floats.
#[test]
fn what_has_no_core_is_refused() {
    let folder = TempDir::new().unwrap();
    let (base, tune, bytes) =
        (folder.path().join("base"), folder.path().join("tune"), folder.path().join("bytes"));
    write(&base, "any", &[Stored::floats("w", &[2], &[1.0, 3e38])]);
    write(&tune, "any", &[Stored::floats("w", &[2], &[1.0, -3e38])]);
    let integers = Stored { dtype: safetensors::Dtype::U8, ..Stored::floats("w", &[4], &[0.0]) };
    write(&bytes, "any", &[integers]);
    let out = folder.path().join("out");
    let settings = CoreSettings { fraction: 1.0, ..CoreSettings::default() };
    let request = |base: &Path, tune: &Path, threshold: f64| CoresRequest {
        base: base.to_owned(),
        models: vec![("tune".to_owned(), tune.to_owned())],
        settings: settings.clone(),
        threshold,
    };
    for (request, part) in [
        (request(&base, &tune, 0.1), "`w` is too far from the base at element 1"),
        (request(&base, &tune, f64::NAN), "--threshold"),
        (request(&bytes, &bytes, 0.1), "no parameter that is a float"),
    ] {
        let error = find(&request, &out, 2).unwrap_err();
        assert!(error.is_input() && error.to_string().contains(part), "{error}");
        assert!(!out.exists());
    }
    // Nothing moved: an empty core, and no overlap of two.
    let mut twice = request(&base, &base, 0.1);
    twice.models.push(("other".to_owned(), base.clone()));
    let report = find(&twice, &out, 2).unwrap();
    assert_eq!((report.cores.tasks[0].size, report.unmoved[0], report.overlap.jaccard[0][1]), (0, 2, 0.0));
}

#[test]
fn a_stop_leaves_nothing() {
    let folder = TempDir::new().unwrap();
    models(folder.path(), 1);
    let (out, stop) = (folder.path().join("out"), AtomicBool::new(false));
    let cores = Cores::new(&request(folder.path(), &["model-1"], CoreSettings::default())).unwrap();
    let device = Device::cpu(NonZeroUsize::new(2)).unwrap();
    let (mut last, mut total) = (0, 0);
    let outcome = cores.run(&device, &out, &stop, &mut |progress| {
        (last, total) = (last.max(progress.done), progress.total);
        stop.store(progress.done > progress.total / 2, Ordering::Relaxed);
    });
    assert!(matches!(outcome, Err(Error::Stopped { .. })));
    assert!(!out.exists() && last < total);
    stop.store(false, Ordering::Relaxed);
    let mut done = 0;
    cores.run(&device, &out, &stop, &mut |progress| done = done.max(progress.done)).unwrap();
    assert_eq!(done, total);
}
