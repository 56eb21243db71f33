//! What comes out, beside mergekit's numbers and plain readings of the methods.

use std::num::NonZeroUsize;
use std::path::Path;

use cpift_engine::{Buffer, Device, Segment};
use cpift_model::merge::{Method, Parameters, Rescale};
use cpift_model::recipe::{CoreSettings, FuseSettings, ImportanceKind, SlerpSpace};
use cpift_model::stages::core::select;
use cpift_model::stages::fuse::{Core, fuse};
use cpift_model::stages::models::Buffers;
use cpift_tests::flat::layout;
use cpift_tests::folders;
use cpift_tests::model_folders::{Stored, read, values, write};
use cpift_tests::models::MemoryModels;
use cpift_tests::numeric::random;
use serde_json::Value;
use tempfile::TempDir;

use super::{merge_into, merged, request};

/// What mergekit made, and the models that it made it of as folders.
struct Golden {
    folder: TempDir,
    content: Value,
}

fn floats(values: &Value) -> Vec<f32> {
    values.as_array().unwrap().iter().map(|value| value.as_f64().unwrap() as f32).collect()
}

impl Golden {
    fn read() -> Self {
        let path = folders::tests().join("golden/model_merges.json");
        let content: Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        let golden = Self { folder: TempDir::new().unwrap(), content };
        golden.write("base", &golden.content["base"]);
        for (number, model) in golden.content["models"].as_array().unwrap().iter().enumerate() {
            golden.write(&format!("model-{number}"), model);
        }
        golden
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn write(&self, name: &str, model: &Value) {
        let shapes = self.content["shapes"].as_object().unwrap();
        let tensor = |(name, shape): (&String, &Value)| {
            let shape: Vec<usize> =
                shape.as_array().unwrap().iter().map(|size| size.as_u64().unwrap() as usize).collect();
            Stored::floats(name, &shape, &floats(&model[name]))
        };
        write(&self.path().join(name), "any", &shapes.iter().map(tensor).collect::<Vec<_>>());
    }

    /// Merges and compares with what mergekit has under a name.
    #[track_caller]
    fn assert(&self, name: &str, method: Method, weights: &[f64], parameters: Parameters) {
        let has_base = method.needs_base() || method == Method::Slerp || name == "nuslerp, updates";
        let base = Some("base").filter(|_| has_base);
        let models = ["model-0", "model-1", "model-2"];
        let models: Vec<(&str, f64)> = models.into_iter().zip(weights.iter().copied()).collect();
        let mut request = request(self.path(), method, base, &models);
        request.parameters = parameters;
        let merged = merged(&request);
        let expected = self.content["merges"][name].as_object().unwrap();
        assert_eq!(merged.len(), expected.len());
        for (tensor, expected) in expected {
            let actual = values(&merged[tensor]);
            for (index, (actual, expected)) in actual.iter().zip(floats(expected)).enumerate() {
                let error = (actual - expected).abs() / expected.abs().max(1.0);
                assert!(error <= 1e-6, "{name}: {tensor}[{index}] is {actual}, mergekit has {expected}");
            }
        }
    }
}

#[test]
fn merges_agree_with_mergekit() {
    let golden = Golden::read();
    let plain = Parameters::default();
    let weights = [1.0, 0.5, 2.0];
    let mixed = [1.0, -0.5, 2.0];
    let not = Some(false.into());
    golden.assert("average", Method::Average, &weights, plain.clone());
    let parameters = Parameters { normalize: not.clone(), ..plain.clone() };
    golden.assert("average, not normalized", Method::Average, &mixed, parameters);
    let parameters = Parameters { t: Some(0.3.into()), ..plain.clone() };
    golden.assert("slerp", Method::Slerp, &[1.0], parameters);
    let parameters = Parameters { t: Some(0.7.into()), ..plain.clone() };
    golden.assert("slerp, apart", Method::Slerp, &[1.0], parameters);
    let parameters = Parameters { scale: Some(0.7.into()), ..plain.clone() };
    golden.assert("arithmetic", Method::Arithmetic, &mixed, parameters);
    let parameters = Parameters { normalize: Some(true.into()), ..plain.clone() };
    golden.assert("arithmetic, normalized", Method::Arithmetic, &mixed, parameters);
    let dense = Parameters { density: Some(0.3.into()), ..plain };
    let parameters = Parameters { scale: Some(0.7.into()), ..dense.clone() };
    golden.assert("ties", Method::Ties, &weights, parameters);
    let parameters = Parameters { normalize: not.clone(), ..dense.clone() };
    golden.assert("ties, not normalized", Method::Ties, &mixed, parameters);
    let parameters = Parameters { rescale: Some(Rescale::Norm.into()), ..dense.clone() };
    golden.assert("ties, rescaled", Method::Ties, &mixed, parameters);
    let parameters = Parameters { density: Some(1.0.into()), ..dense };
    golden.assert("ties, all", Method::Ties, &mixed, parameters);
}

#[test]
fn rarer_merges_agree_with_mergekit() {
    let golden = Golden::read();
    let plain = Parameters::default();
    let (equal, weights, mixed) = ([1.0; 3], [1.0, 0.5, 2.0], [1.0, -0.5, 2.0]);
    let sparse = Parameters { density: Some(0.6.into()), gamma: Some(0.1.into()), ..plain.clone() };
    let parameters = Parameters { scale: Some(0.7.into()), ..sparse.clone() };
    golden.assert("breadcrumbs", Method::Breadcrumbs, &mixed, parameters);
    let parameters = Parameters { rescale: Some(Rescale::Norm.into()), ..sparse.clone() };
    golden.assert("breadcrumbs, rescaled", Method::Breadcrumbs, &mixed, parameters);
    let parameters = Parameters { density: Some(0.9.into()), gamma: Some(0.2.into()), ..plain.clone() };
    golden.assert("breadcrumbs, least", Method::Breadcrumbs, &weights, parameters);
    golden.assert("breadcrumbs-ties", Method::BreadcrumbsTies, &mixed, sparse);
    golden.assert("sce", Method::Sce, &equal, plain.clone());
    let parameters = Parameters { density: Some(0.5.into()), ..plain.clone() };
    golden.assert("sce, half", Method::Sce, &equal, parameters);
    golden.assert("model-stock", Method::ModelStock, &equal, plain.clone());
    golden.assert("nuslerp", Method::Nuslerp, &weights[..2], plain.clone());
    golden.assert("nuslerp, updates", Method::Nuslerp, &weights[..2], plain.clone());
    golden.assert("karcher", Method::Karcher, &equal, plain);
}

/// A random share is kept of every update; the rest is as the base. What is kept is scaled so that the sum of magnitudes
/// is that of before, or by one over the density.
#[test]
fn dare_keeps_a_random_share_and_scales_it_up() {
    let folder = TempDir::new().unwrap();
    let length = 70_001;
    let base = random(1, length);
    let model: Vec<f32> =
        base.iter().zip(random(2, length)).map(|(base, update)| base + 0.1 * update).collect();
    write(&folder.path().join("base"), "any", &[Stored::floats("w", &[length], &base)]);
    write(&folder.path().join("tune"), "any", &[Stored::floats("w", &[length], &model)]);
    let update = |j: usize| f64::from(model[j]) - f64::from(base[j]);
    for rescale in [Rescale::Norm, Rescale::Density, Rescale::None] {
        for method in [Method::Dare, Method::DareTies, Method::DellaLinear] {
            let mut request = request(folder.path(), method, Some("base"), &[("tune", 0.5)]);
            request.parameters = Parameters {
                density: Some(0.25.into()),
                rescale: Some(rescale.into()),
                ..Parameters::default()
            };
            request.seed = 3;
            let first = values(&merged(&request)["w"]);
            let kept: Vec<usize> = (0..length).filter(|&j| first[j] != base[j]).collect();
            // A quarter of 70,001; five standard deviations are 573.
            assert!(kept.len().abs_diff(length / 4) < 573, "{}", kept.len());
            let sum = |all: &mut dyn Iterator<Item = usize>| all.map(|j| update(j).abs()).sum::<f64>();
            let factor = match rescale {
                Rescale::Norm => sum(&mut (0..length)) / sum(&mut kept.iter().copied()),
                Rescale::Density => 4.0,
                Rescale::None => 1.0,
            };
            for &j in &kept {
                let expected = f64::from(base[j]) + 0.5 * factor * update(j);
                assert!((f64::from(first[j]) - expected).abs() < 1e-6, "{} instead of {expected}", first[j]);
            }
            // Another seed drops others, the same seed the same.
            assert_eq!(values(&merged(&request)["w"]), first);
            request.seed = 4;
            assert_ne!(values(&merged(&request)["w"]), first);
        }
    }
}

/// One after the other, with cores or without: the same bits as [`cpift_model::stages::fuse::fuse`] gives.
#[test]
fn several_models_are_fused_as_in_training() {
    let layout = layout(&[70, 3, 100_000, 513]);
    let base = random(1, layout.len());
    let near = |seed: u64| {
        let update = random(seed, layout.len());
        base.iter().zip(update).map(|(base, update)| base + 0.3 * update).collect()
    };
    let tasks: Vec<Vec<f32>> = (2..5).map(near).collect();
    let folder = TempDir::new().unwrap();
    let write_model = |name: &str, weights: &[f32]| {
        let tensor =
            |segment: &Segment| Stored::floats(&segment.name, &segment.shape, &weights[segment.range()]);
        write(&folder.path().join(name), "any", &layout.segments().iter().map(tensor).collect::<Vec<_>>());
    };
    write_model("base", &base);
    let names = ["a", "b", "c"];
    names.iter().zip(&tasks).for_each(|(name, weights)| write_model(name, weights));
    let device = Device::cpu(NonZeroUsize::new(2)).unwrap();
    let importance = |weights: &Vec<f32>| {
        let mut importance: Vec<f32> =
            weights.iter().zip(&base).map(|(weight, base)| (weight - base).abs()).collect();
        // Nothing is to be taken of what lies between tensors.
        let inside: Vec<usize> = layout.segments().iter().flat_map(Segment::range).collect();
        let outside = (0..layout.len()).filter(|index| inside.binary_search(index).is_err());
        outside.for_each(|index| importance[index] = 0.0);
        importance
    };
    let importance: Vec<Vec<f32>> = tasks.iter().map(importance).collect();
    let core_settings = CoreSettings { fraction: 0.2, ..CoreSettings::default() };
    let core = |(name, importance): (&&str, &Vec<f32>)| {
        let importance = Buffer::from_slice(&device, importance).unwrap();
        let kind = (ImportanceKind::Net, 0);
        select(&device, &layout, name, importance.view(), &core_settings, kind).unwrap()
    };
    let cores: Vec<Core> = names.iter().zip(&importance).map(core).collect();
    for (method, settings) in [
        (Method::Slerp, FuseSettings { transplant: false, ..FuseSettings::default() }),
        (
            Method::DeltaSlerp,
            FuseSettings { transplant: false, space: SlerpSpace::Delta, ..FuseSettings::default() },
        ),
        (Method::Cpift, FuseSettings::default()),
    ] {
        let poisoned = || Buffer::from_slice(&device, &vec![f32::NAN; layout.len()]).unwrap();
        let (mut backbone, mut operand, mut on_device) = (poisoned(), poisoned(), poisoned());
        let buffers = Buffers {
            backbone: backbone.view_mut(),
            operand: operand.view_mut(),
            base: on_device.view_mut(),
        };
        let mut models =
            MemoryModels { base: base.clone(), tasks: tasks.clone(), importance: importance.clone() };
        let report = fuse(&device, &layout, &settings, &cores, &mut models, 0, buffers).unwrap();
        let expected = backbone.to_vec().unwrap();

        let mut request = request(folder.path(), method, Some("base"), &names.map(|name| (name, 1.0)));
        if method == Method::Cpift {
            request.parameters.fraction = Some(0.2.into());
        }
        let out = folder.path().join("out");
        let done = merge_into(&request, &out, 2).unwrap();
        let merged = read(&out);
        std::fs::remove_dir_all(&out).unwrap();
        for segment in layout.segments() {
            let (name, values) = (&segment.name, values(&merged[&segment.name]));
            assert_eq!(values, expected[segment.range()], "{}: {name}", method.name());
        }
        assert_eq!(done.interpolations, report.slerps.len() as u64);
        if method == Method::Cpift {
            assert!(report.transplanted > 0 && report.conflicts > 0);
            assert_eq!((done.transplanted, done.conflicts), (report.transplanted, report.conflicts));
        }
    }
}

/// The same bits on one thread and on three, and where a tensor is looked at in many blocks.
#[test]
fn threads_change_nothing() {
    let folder = TempDir::new().unwrap();
    let length = 150_000;
    let base = random(1, length);
    write(&folder.path().join("base"), "any", &[Stored::bf16("w", &[length], &base)]);
    for (seed, name) in [(2, "a"), (3, "b")] {
        let model: Vec<f32> =
            base.iter().zip(random(seed, length)).map(|(base, update)| base + 0.1 * update).collect();
        write(&folder.path().join(name), "any", &[Stored::bf16("w", &[length], &model)]);
    }
    for method in Method::ALL {
        let is_unweighted =
            matches!(method, Method::Cpift | Method::Sce | Method::ModelStock | Method::Karcher);
        let weight = if is_unweighted { 1.0 } else { 0.5 };
        let both = [("a", 1.0), ("b", weight)];
        let models = if method == Method::Passthrough { &both[1..] } else { &both };
        let request = request(folder.path(), method, Some("base"), models);
        let bytes = [1, 3].map(|threads| {
            let out = folder.path().join("out");
            merge_into(&request, &out, threads).unwrap();
            let bytes = std::fs::read(out.join("model.safetensors")).unwrap();
            std::fs::remove_dir_all(out).unwrap();
            bytes
        });
        assert_eq!(bytes[0], bytes[1], "{}", method.name());
    }
}
